//! Why an audit could not be made at all.

use std::io;

/// Why an audit could not be made at all. Damage that an audit finds is a [`Finding`](crate::Finding) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be opened or measured.
    #[error("cannot read the image at byte {offset}: {source}")]
    Io {
        /// Byte offset that was wanted.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Neither header, EROFS superblock, dm-verity superblock nor trailer is there.
    #[error("not a mkimg image: {reason}")]
    NotAnImage {
        /// What was looked for, and what was found.
        reason: String,
    },
    /// The head of a detached seal or the partition table of a disk is damaged, so nobody can say which bytes are the image.
    #[error(transparent)]
    Around(mkimg_format::Error),
}
