//! What the fuzz targets and the seed maker share.
//!
//! Every input of a target ends in one byte of flags, see [`flags`]: what comes before it stays an image, an archive
//! or a document that other tools can read. The flags choose a mode and whether checksums are mended first, because
//! a fuzzer does not guess a CRC.
//!
//! A broken invariant is a panic: that is how libFuzzer learns of it.
#![forbid(unsafe_code)]

pub mod disk;
pub mod image;
pub mod layout;
pub mod ops;
pub mod patch;
pub mod sample;
pub mod scratch;
pub mod tar;
pub mod tree;

/// Splits an input into its content and its flags.
pub fn flags(input: &[u8]) -> Option<(&[u8], u8)> {
    input.split_last().map(|(flags, rest)| (rest, *flags))
}

/// An error is one line of text that cannot steer a terminal, whatever was in the input.
#[track_caller]
pub fn assert_one_line(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "an error of several lines: {text:?}");
    assert!(text.len() < 64 << 10, "an error of {} bytes", text.len());
}
