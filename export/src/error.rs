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
