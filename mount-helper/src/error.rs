//! The crate's one error type.

use std::path::{Path, PathBuf};

pub(crate) use mkimg_kernel::error::errno_of;
use rustix::io::Errno;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be mounted, unmounted, attached or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call to the kernel failed.
    #[error(transparent)]
    System(#[from] mkimg_kernel::Error),
    /// The path of the image could not be made to name the open file.
    #[error("pin path of image {}: {errno}", path.display())]
    Unpinned {
        /// Path of the image.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel refused a file system configuration or a mount.
    #[error("{what} {}: {errno}{}", object.display(), log_suffix(log))]
    Kernel {
        /// What was tried, for example `mount erofs image`.
        what: &'static str,
        /// Source or target of the mount.
        object: PathBuf,
        /// The kernel's answer.
        errno: Errno,
        /// Messages of the file system context, empty when the kernel gave none.
        log: String,
    },
    /// Mounting straight from the file failed, and so did the way over a loop device.
    #[error("{loop_error}; before that, without a loop device: {file_error}")]
    BothWays {
        /// Failure of the file-backed mount.
        file_error: Box<Error>,
        /// Failure of the mount over a loop device.
        loop_error: Box<Error>,
    },
    /// The path led to another file, or the file changed, while it was being checked and mounted.
    #[error("image {}: {what} changed while it was being mounted, nothing was mounted", path.display())]
    Changed {
        /// Path of the image.
        path: PathBuf,
        /// Which attribute differs: `file`, `size`, `mtime` or `ctime`.
        what: &'static str,
    },
    /// The audit before the mount found something wrong.
    #[error("image {}: not mounted: {reason}", path.display())]
    CheckFailed {
        /// Path of the image.
        path: PathBuf,
        /// The audit's words.
        reason: String,
    },
    /// The overlay directories cannot be used as given.
    #[error("overlay {what} {}: {reason}", path.display())]
    Overlay {
        /// `upper` or `work`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// The broken rule.
        reason: String,
    },
    /// Nothing is mounted at the target.
    #[error("target {}: not a mount point", path.display())]
    NotMounted {
        /// The target.
        path: PathBuf,
    },
    /// The mount at the target is not one of ours.
    #[error("target {}: mounted {fstype} from {source_name}, not an image; umount(8) unmounts anything", path.display())]
    NotOurs {
        /// The target.
        path: PathBuf,
        /// Type of the file system found.
        fstype: String,
        /// Its source.
        source_name: String,
    },
    /// Which files are opened could not be found out.
    #[error("record what is read of {}: {reason}", image.display())]
    Record {
        /// The image.
        image: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// An option or argument is not understood.
    #[error("option {option}: {reason}")]
    Usage {
        /// The option, as given.
        option: String,
        /// The rule.
        reason: &'static str,
    },
}

impl Error {
    /// For `map_err`: names the action and the object.
    pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
        let path = path.to_path_buf();
        move |errno| mkimg_kernel::Error::Path { what, path, errno }.into()
    }

    /// The kernel's error number, where one is the cause.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Unpinned { errno, .. } | Error::Kernel { errno, .. } => Some(*errno),
            Error::System(error) => error.errno(),
            Error::BothWays { loop_error, .. } => loop_error.errno(),
            _ => None,
        }
    }
}

fn log_suffix(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}
