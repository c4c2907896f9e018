//! Writes the Reed-Solomon parity, once everything that it protects is there.
//!
//! A codeword has bytes from everywhere in the image, so what was written is read once more.

use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use mkimg_format::BLOCK_SIZE;
use mkimg_format::fec::{Layout, for_each_round};
use mkimg_format::header::Header;

use crate::error::Result;
use crate::output::Output;
use crate::progress::{Progress, Stage};

/// Reads data and tree of an image that has parity, and writes that.
///
/// # Errors
/// What the system says to reading or writing.
pub(crate) fn write_parity(
    output: &Output,
    header: &Header,
    threads: NonZeroUsize,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(layout) = Layout::of(header) else { return Ok(()) };
    progress.begin(Stage::Parity, layout.message_blocks() * BLOCK_SIZE);
    let failure: Mutex<Option<(&'static str, io::Error)>> = Mutex::new(None);
    let done = |doing, outcome: io::Result<()>| {
        if let Err(error) = outcome {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((doing, error));
        }
    };
    for_each_round(output.file(), &layout, threads.get(), &|round, parity| {
        match parity {
            Ok(bytes) => done("cannot write", output.file().write_all_at(bytes, layout.round_offset(round))),
            Err(error) => done("cannot read back", Err(copy_of(error))),
        }
        progress.advance(layout.rows() as u64 * BLOCK_SIZE);
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((doing, error)) => Err(output.error(doing, error)),
        None => Ok(()),
    }
}

/// An error that says the same, for several rounds that have it in common.
fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
