//! The crate's one error type.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be opened, attached, mapped or listed.
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
    /// The image is neither a regular file nor a block device.
    #[error("image {}: is a {kind}, need a regular file or a block device", path.display())]
    NotAnImage {
        /// Path of the image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
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
    /// The verity target is too old for what is asked of it.
    #[error("dm-verity {found} of this kernel has no {option}, need {need}")]
    VerityVersion {
        /// The word of the table.
        option: &'static str,
        /// Version of the target.
        found: String,
        /// The first that has it.
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
    /// The kernel does not map a root hash for what it knows of its signature.
    #[error("device-mapper load table of {name}: {errno}: {}", signature_words(*.errno, *.given))]
    RootHashSignature {
        /// Name of the mapped device.
        name: String,
        /// The kernel's answer.
        errno: Errno,
        /// Whether a signature was given.
        given: bool,
    },
    /// Nothing can be handed over through a keyring.
    #[error("key {name} in the keyring of this thread: {reason}")]
    Keyring {
        /// Name of the key.
        name: String,
        /// Why.
        reason: String,
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
}

impl Error {
    /// For `map_err`: names the action and the object.
    pub fn at(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
        let path = path.to_path_buf();
        move |errno| Error::Path { what, path, errno }
    }

    /// The kernel's error number, where one is the cause.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Path { errno, .. }
            | Error::DeviceMapper { errno, .. }
            | Error::RootHashSignature { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// What an answer means for a signature (`verity_verify_root_hash` of Linux, and `verify_pkcs7_signature` below it).
const fn signature_words(errno: Errno, given: bool) -> &'static str {
    match errno {
        Errno::NOKEY if !given => {
            "this kernel maps signed root hashes only (require_signatures of dm_verity), and no signature was given to it"
        }
        Errno::NOKEY => "no keyring that the kernel asks has the certificate of the signer",
        Errno::KEYREJECTED => {
            "the signature is not over this root hash, or not by the certificate in the kernel's keyring"
        }
        Errno::BADMSG => "the signature is no PKCS#7 message that the kernel can read",
        Errno::NOPKG => "the kernel lacks an algorithm of the signature",
        Errno::INVAL => "perhaps this kernel was built without DM_VERITY_VERIFY_ROOTHASH_SIG",
        _ => "the kernel does not take the signature",
    }
}

/// `std::io::Error` as an error number; `EIO` for the few that carry none.
#[must_use]
pub fn errno_of(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}
