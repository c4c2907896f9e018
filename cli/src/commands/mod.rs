//! One module a command.

pub(crate) mod build;
pub(crate) mod cat;
pub(crate) mod doctor;
pub(crate) mod extract;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod mount;
pub(crate) mod seal;
pub(crate) mod verify;

use std::num::NonZeroUsize;

/// The number of threads asked for, or one for each processor.
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

/// A kernel version as it is written.
fn kernel((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}
