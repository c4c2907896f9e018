//! Why a mount could not be audited at all.

use std::io;
use std::path::PathBuf;

use mkimg_format::erofs::escape;

fn show(path: &std::path::Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// Why a mount could not be audited at all. What is wrong with it is in the report instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mount point cannot be opened.
    #[error("cannot open {}: {source}", show(path))]
    Target {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is mounted there.
    #[error(
        "{}: no mount point, but a directory of the mount at {}; for a tree that was extracted give the image too: mkimg verify IMAGE DIR",
        show(path),
        show(mount)
    )]
    NotAMount {
        /// The directory.
        path: PathBuf,
        /// Where the mount that it belongs to is.
        mount: PathBuf,
    },
    /// What is mounted there is no image, and no overlay over exactly one.
    #[error(
        "{}: {fstype} from {origin}, which is no mkimg image and no overlay over exactly one",
        show(path)
    )]
    NotAnImage {
        /// The mount point.
        path: PathBuf,
        /// Type of its file system.
        fstype: String,
        /// Its source.
        origin: String,
    },
    /// A bind mount of a part of an image.
    #[error("{}: shows only {} of the image; audit a mount of the whole image", show(path), show(root))]
    Part {
        /// The mount point.
        path: PathBuf,
        /// What of the image is mounted there.
        root: PathBuf,
    },
    /// The list of mounts cannot be read.
    #[error(transparent)]
    Kernel(#[from] mkimg_kernel::Error),
    /// The tree behind the mount could not be audited.
    #[error(transparent)]
    Tree(#[from] crate::tree::Error),
    /// The image that the mount is compared with cannot be read.
    #[error(transparent)]
    Image(#[from] mkimg_format::Error),
}
