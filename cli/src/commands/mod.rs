//! One module a command.

pub(crate) mod build;
pub(crate) mod cat;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
mod export_disk;
pub(crate) mod extract;
mod image_report;
pub(crate) mod inspect;
mod inspect_volume;
mod layer_counts;
pub(crate) mod ls;
pub(crate) mod manual;
pub(crate) mod mount;
mod record;
pub(crate) mod repair;
pub(crate) mod report;
mod report_json;
mod report_text;
pub(crate) mod seal;
mod seal_json;
pub(crate) mod sign;
pub(crate) mod verify;
mod verify_image;
mod verify_mount;
mod verify_tree;
mod verify_volume;
pub(crate) mod watch;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Result;

use crate::failure;

/// Threads when nobody asks for more: each takes some two MiB in a build.
const THREADS_DEFAULT: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// The number of threads asked for, or one for each processor up to [`THREADS_DEFAULT`].
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    asked.unwrap_or_else(|| processors().min(THREADS_DEFAULT))
}

/// Exit status of an audit, as diff(1) has it: clean, differences, could not look at everything.
///
/// The verdict stands even if nobody reads the report, so a closed pipe does not count.
fn verdict(clean: bool, complete: bool, printed: Result<()>) -> Result<ExitCode> {
    match printed {
        Err(error) if !failure::is_broken_pipe(&error) => Err(error),
        _ if clean => Ok(ExitCode::SUCCESS),
        _ if complete => Ok(ExitCode::from(1)),
        _ => Ok(ExitCode::from(2)),
    }
}

/// A kernel version as it is written.
fn kernel((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}
