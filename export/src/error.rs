//! Why nothing could be exported.

use std::io;
use std::path::PathBuf;

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
    #[error("systemd has no type of partition for architecture {0}")]
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
    /// The image is truncated.
    #[error("ends at byte {found}, should have {wanted}; see mkimg verify")]
    Short {
        /// Its length.
        found: u64,
        /// As the header has it.
        wanted: u64,
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

fn show(path: &std::path::Path) -> String {
    escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}
