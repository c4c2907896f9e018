//! Why an image could not be built.

use std::io;
use std::path::PathBuf;

use mkimg_format::erofs::escape;

use crate::compression::Compression;

/// Result of building.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source, one of its blobs or a digest.
    #[error(transparent)]
    Source(#[from] mkimg_oci::Error),
    /// A layer that is no sound tar archive.
    #[error("layer {layer}: {source}")]
    Tar {
        /// Counted from 1, the lowest.
        layer: usize,
        /// Which member, and what is wrong with it.
        source: Box<crate::tar::Error>,
    },
    /// An entry of a layer that makes no sense in the tree.
    #[error("{}: {}: {problem}", origin(*layer), escape(path))]
    Entry {
        /// Counted from 1, the lowest; 0 for a source directory.
        layer: usize,
        /// As in the archive.
        path: Vec<u8>,
        /// The broken rule.
        problem: Problem,
    },
    /// A file of a source directory.
    #[error("{}: {source}", escape(path))]
    Host {
        /// Path below the source directory.
        path: Vec<u8>,
        /// What the system says.
        source: io::Error,
    },
    /// Content that was different when it was read again for the image.
    #[error("{origin}: {}: content changed while the image was built", escape(path))]
    Changed {
        /// `layer N`, or the source directory.
        origin: String,
        /// Path or member.
        path: Vec<u8>,
    },
    /// Given up, because another layer has failed: a build returns the error of that one.
    #[error("given up after an error in another layer")]
    Stopped,
    /// The layout and what was written disagree: a mistake of this program, not of its input.
    #[error("internal error: {what} at byte {found}, planned for {planned}")]
    Layout {
        /// What comes next.
        what: &'static str,
        /// Where it would stand.
        found: u64,
        /// Where the plan has it.
        planned: u64,
    },
    /// The system refuses a thread.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
    /// A compression that the oldest kernel to mount the image does not read.
    #[error("{compression} needs Linux {}.{}, the image is for {}.{}", needed.0, needed.1, asked.0, asked.1)]
    Kernel {
        /// What was asked for.
        compression: Compression,
        /// The oldest kernel that reads it.
        needed: (u32, u32),
        /// The oldest kernel that must mount the image.
        asked: (u32, u32),
    },
    /// Sharing of blocks that does not go together with what else is asked for.
    #[error("{0}")]
    Dedup(String),
    /// A path of the trace whose way cannot be followed.
    #[error("trace: line {line}: {problem}")]
    Trace {
        /// Counted from 1.
        line: u64,
        /// What is in the way.
        problem: Problem,
    },
    /// More of something than an image can hold.
    #[error("{what}: {found}, at most {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The image file could not be written.
    #[error("{}: {doing}: {source}", path.display())]
    Output {
        /// The file that was asked for.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What messages call a layer.
pub(crate) fn origin(layer: usize) -> String {
    if layer == 0 { "source directory".to_owned() } else { format!("layer {layer}") }
}

/// A rule that an entry breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// `..` in the name of an entry.
    #[error("name climbs out with \"..\"")]
    DotDot,
    /// Anything but a directory for the root.
    #[error("the root can only be a directory")]
    Root,
    /// A whiteout without a name, or for `.` or `..`.
    #[error("whiteout for no name that a file can have")]
    Whiteout,
    /// A symbolic link that leads through a directory with the name of a marker.
    #[error("leads through {}, which is a name for markers only", escape(.0))]
    ThroughMarker(Vec<u8>),
    /// More than 255 symbolic links on the way.
    #[error("more than {limit} symbolic links on the way: {}", escape(path))]
    SymlinkLoop {
        /// The path that was being followed.
        path: Vec<u8>,
        /// How many are followed.
        limit: u32,
    },
    /// An image whose paths lead through too many symbolic links in all.
    #[error("paths lead through more than {limit} bytes of symbolic links in all")]
    SymlinkWork {
        /// How many bytes of targets are followed.
        limit: u64,
    },
    /// A hard link to nothing.
    #[error("hard link target {} does not exist", escape(.0))]
    LinkMissing(Vec<u8>),
    /// A hard link to a directory.
    #[error("hard link target {} is a directory", escape(.0))]
    LinkToDirectory(Vec<u8>),
    /// A name or path longer than Linux has them.
    #[error("{what} has {found} bytes, at most {limit}")]
    TooLong {
        /// Name or path.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Xattrs that EROFS has no room for.
    #[error("{what}: {found} bytes, EROFS holds at most {limit}")]
    Xattr {
        /// The xattr, or all of them.
        what: String,
        /// Its length.
        found: u64,
        /// What fits.
        limit: u64,
    },
    /// Names and link targets that would fill the memory.
    #[error("names and link targets of the layer have {found} bytes, at most {limit} for so many entries")]
    Names {
        /// Their length so far.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Sparse files beyond all measure.
    #[error("sparse files of the image have {found} {what} in all, at most {limit}")]
    Sparse {
        /// Of what.
        what: &'static str,
        /// How many so far.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
}
