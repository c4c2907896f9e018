//! Why nothing could be exported.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mkimg_format::ddi::ARCHITECTURES;
use mkimg_format::erofs::escape;

/// Result of an export.
pub type Result<T> = std::result::Result<T, Error>;

/// Why nothing could be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be read, or does not lead to its root hash.
    #[error(transparent)]
    Image(#[from] mkimg_format::Error),
    /// The image cannot be checked.
    #[error(transparent)]
    Audit(#[from] mkimg_verify::Error),
    /// The image is not what its root hash says.
    #[error("is not exported, for it is damaged; mkimg verify says where (findings: {findings})")]
    Damaged {
        /// How many places there are, as far as they were counted.
        findings: usize,
    },
    /// Its attributes cannot be read.
    #[error("cannot stat: {0}")]
    Stamp(io::Error),
    /// Somebody has written to it.
    #[error("has changed while it was exported")]
    Changed,
    /// Other tools have no use for an image without its file data.
    #[error("is a detached seal; give the image itself")]
    DetachedSeal,
    /// It is in a disk already.
    #[error("is a disk with an image in it; give the image itself")]
    Disk,
    /// Partitions are for one architecture.
    #[error("its source names no architecture; say which with --architecture")]
    NoArchitecture,
    /// There are two answers.
    #[error("is for {own}, not for {asked}")]
    OtherArchitecture {
        /// As the image has it.
        own: String,
        /// As asked for.
        asked: String,
    },
    /// No partition can be for it.
    #[error("systemd has no type of partition for architecture {0}; they are named as in OCI: {names}", names = architectures())]
    UnknownArchitecture(String),
    /// What a signature partition would hold is no signature.
    #[error("the PKCS#7 signature of {0} is not over this root hash")]
    WrongSignature(String),
    /// No file of a few lines.
    #[error("/{path} has {size} bytes, more than a release file can have")]
    LongRelease {
        /// Which file.
        path: String,
        /// Its length.
        size: u64,
    },
    /// There is no PKCS#7 signature.
    #[error("has no PKCS#7 signature; mkimg sign --cert makes one")]
    Unsigned,
    /// A path with line ends, control characters or bytes that are no text.
    #[error("{}: cannot be named in a line for other tools", show(path))]
    Path {
        /// Which one.
        path: PathBuf,
    },
    /// The OCI configuration of the source is no JSON object.
    #[error("the OCI configuration in the image: {0}")]
    Config(serde_json::Error),
    /// A directory that is to be written, and that has something in it.
    #[error("{}: exists and is not empty", show(path))]
    NotEmpty {
        /// Which one.
        path: PathBuf,
    },
    /// A file that cannot be made, or not take its name.
    #[error(transparent)]
    Output(#[from] mkimg_mkfs::Error),
    /// A file that cannot be written.
    #[error("{}: cannot write: {source}", show(path))]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    /// An error of a file that is written.
    pub(crate) fn write(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

fn architectures() -> String {
    ARCHITECTURES.each_ref().map(|architecture| architecture.oci).join(", ")
}

fn show(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
