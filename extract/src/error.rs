//! Why a tree could not be extracted.

use std::io;
use std::path::PathBuf;

use mkimg_format::erofs::escape;
use mkimg_format::hex;

/// Result of extracting.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a tree could not be extracted. Paths of type `Vec<u8>` are absolute paths in the image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image is broken at, or directly below, a path.
    #[error("{}: {source}", escape(path))]
    Image {
        /// Which path was being read.
        path: Vec<u8>,
        /// What is wrong.
        source: mkimg_format::Error,
    },
    /// A path that was asked for is not in the image.
    #[error("{}: {problem}", escape(path))]
    Path {
        /// As it was asked for.
        path: Vec<u8>,
        /// `not in the image`, ...
        problem: &'static str,
    },
    /// A file that is reachable by more names than its link count says.
    #[error("{}: inode {nid} has more names than its link count of 1", escape(path))]
    LinkCount {
        /// The second name.
        path: Vec<u8>,
        /// The inode.
        nid: u64,
    },
    /// Content that is not what was sealed. The file has been removed.
    #[error("{}: BLAKE3 of the content is {}, the seal says {}", escape(path), hex(found), hex(sealed))]
    Digest {
        /// The file.
        path: Vec<u8>,
        /// Computed.
        found: [u8; 32],
        /// As it should be.
        sealed: [u8; 32],
    },
    /// The kernel's fs-verity digest is not the sealed one.
    #[error(
        "{}: the kernel's fs-verity digest is {}, the seal says {}",
        escape(path),
        hex(found),
        hex(sealed)
    )]
    FsVerity {
        /// The file.
        path: Vec<u8>,
        /// What the kernel says.
        found: [u8; 32],
        /// As it should be.
        sealed: [u8; 32],
    },
    /// A regular file without a digest.
    #[error("{}: the seal has no digest for it", escape(path))]
    Unsealed {
        /// The file.
        path: Vec<u8>,
    },
    /// The target cannot be used.
    #[error("{}: {doing}: {source}", path.display())]
    Target {
        /// As it was given.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The target holds something already.
    #[error("{}: directory is not empty", path.display())]
    NotEmpty {
        /// As it was given.
        path: PathBuf,
    },
    /// Something is in the way that is never overwritten.
    #[error("{}: exists in the target already", escape(path))]
    Exists {
        /// What was to be created.
        path: Vec<u8>,
    },
    /// Somebody else changes the target: what was created is not there any more.
    #[error("{}: was replaced by another process", escape(path))]
    Replaced {
        /// What was created.
        path: Vec<u8>,
    },
    /// The system refuses.
    #[error("{}: {doing}: {source}", escape(path))]
    Host {
        /// What was being restored.
        path: Vec<u8>,
        /// What was going on.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// Makes an error of the system one about `path`.
pub(crate) fn host<E: Into<io::Error>>(path: &[u8], doing: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Host { path: path.to_vec(), doing, source: error.into() }
}

/// Makes an error of the reader one about `path`.
pub(crate) fn image(path: &[u8]) -> impl FnOnce(mkimg_format::Error) -> Error {
    move |source| Error::Image { path: path.to_vec(), source }
}
