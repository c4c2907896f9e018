//! On-disk types of mkimg images, the safe reader and the linter.
//!
//! A mkimg image is a plain EROFS file system followed by a dm-verity tree and a trailer. `SPEC.md` beside this
//! crate is the format in prose; the modules here are the same facts as types:
//!
//! | bytes | module |
//! |---|---|
//! | block 0, bytes 0..512 | [`header`] |
//! | EROFS superblock, inodes, directories, xattrs | [`erofs`] |
//! | seal: statement, OCI documents, digests, origins, waste | [`seal`] |
//! | dm-verity superblock and tree | [`verity`], [`merkle`] |
//! | Reed-Solomon parity | [`fec`] |
//! | trailer, signatures in it | [`trailer`], [`records`] |
//! | seal cut out of an image | [`detached`] |
//! | image in the partitions of a disk | [`gpt`], [`ddi`], [`verity_signature`] |
//!
//! A [`volume`] is what others make: an EROFS image with a dm-verity tree that `veritysetup` has written.
//!
//! A [`trace`] is no part of an image: it says in which order a workload reads files.
//!
//! Everything that parses treats its input as hostile: sizes are checked before they are used, memory is bounded
//! by constants of this crate, nothing recurses on input depth, and a refusal is an [`Error`] that says where and
//! what. There is no I/O beyond [`ReadAt`].
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod ddi;
pub mod detached;
pub mod erofs;
mod error;
pub mod fec;
pub mod fsverity;
pub mod gpt;
pub mod header;
pub mod lint;
pub mod merkle;
mod proven;
mod read_at;
pub mod records;
pub mod salt;
pub mod seal;
pub mod sound;
pub mod trace;
pub mod trailer;
pub mod verity;
pub mod verity_signature;
pub mod volume;

pub use error::{Error, Part, Problem, Result};
pub use proven::Proven;
pub use read_at::ReadAt;

/// Size in bytes of a file-system block, of a dm-verity data block and of a dm-verity hash block.
pub const BLOCK_SIZE: u64 = 4096;

/// [`BLOCK_SIZE`] as a buffer length.
pub const BLOCK_LEN: usize = 4096;

/// A SHA-256 digest.
pub type Sha256 = [u8; 32];

/// Writes bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a 64-digit hexadecimal SHA-256 digest, in either case.
///
/// `None` unless there are exactly 64 hexadecimal digits.
#[must_use]
pub fn parse_sha256(text: &str) -> Option<Sha256> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from((high << 4) | low).ok()?;
    }
    Some(digest)
}

/// Number of [`BLOCK_SIZE`] blocks that `bytes` bytes take.
#[must_use]
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE)
}
