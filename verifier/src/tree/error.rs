//! Why a tree could not be audited at all.

use std::io;
use std::path::PathBuf;

/// Why a tree could not be audited at all. What differs in it is a [`Difference`](super::Difference) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tree cannot be opened.
    #[error("cannot open directory {}: {source}", mkimg_format::erofs::escape(path.as_os_str().as_encoded_bytes()))]
    Tree {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image or detached seal has no records to compare with.
    #[error(transparent)]
    Image(#[from] mkimg_format::Error),
}
