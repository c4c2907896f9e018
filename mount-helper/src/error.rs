//! The crate's one error type.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be mounted, unmounted, attached or listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a named object failed.
    #[error("{what} {}: {errno}", path.display())]
    Path {
        /// What was tried, for example `open image`.
        what: &'static str,
        /// The object.
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
    /// The image is neither a regular file nor a block device.
    #[error("image {}: is a {kind}, need a regular file or a block device", path.display())]
    NotAnImage {
        /// Path of the image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
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
    /// dm-verity was required and is not to be had.
    #[error("verity=kernel: {0}")]
    VerityUnavailable(#[from] crate::dm::Unavailable),
    /// A verity parameter is out of its range.
    #[error("verity {field}: {value}, need {need}")]
    VerityParameter {
        /// Which parameter.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule.
        need: &'static str,
    },
    /// A device-mapper command failed.
    #[error("device-mapper {command} {name}: {errno}")]
    DeviceMapper {
        /// The command.
        command: &'static str,
        /// Name of the mapped device.
        name: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A mapped device of our name exists with another table.
    #[error("device-mapper device {name}: exists with another table: {found}")]
    DeviceMapperConflict {
        /// Name of the mapped device.
        name: String,
        /// Its table line.
        found: String,
    },
    /// The kernel's answer does not have the documented form.
    #[error("{what}: unexpected answer of the kernel: {found}")]
    KernelAnswer {
        /// Which interface.
        what: &'static str,
        /// What it said.
        found: String,
    },
    /// No loop device could be had.
    #[error("loop device: {reason}")]
    NoLoop {
        /// Why.
        reason: String,
    },
    /// A kernel table is longer than the limit of its reader.
    #[error("{what}: {found} bytes or more, limit {limit}")]
    TooLarge {
        /// Which table.
        what: &'static str,
        /// Size seen.
        found: usize,
        /// Largest size read.
        limit: usize,
    },
    /// A mountinfo line does not have the documented form.
    #[error("mountinfo line {line}: {reason}: {text:?}")]
    MountInfo {
        /// Line number, from 1.
        line: usize,
        /// The broken rule.
        reason: &'static str,
        /// The line, lossily decoded.
        text: String,
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
        move |errno| Error::Path { what, path, errno }
    }

    /// The kernel's error number, where one is the cause.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Path { errno, .. } | Error::Kernel { errno, .. } | Error::DeviceMapper { errno, .. } => {
                Some(*errno)
            }
            Error::BothWays { loop_error, .. } => loop_error.errno(),
            _ => None,
        }
    }
}

/// `std::io::Error` as an error number; `EIO` for the few that carry none.
pub(crate) fn errno_of(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn log_suffix(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}
