//! Why a structure could not be read.

use std::fmt;
use std::io;

use crate::erofs::{Algorithm, escape};

/// Result of every reading operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a structure could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes could not be had.
    #[error("cannot read {part} at byte {offset}: {source}")]
    Io {
        /// Which structure was wanted.
        part: Part,
        /// Byte offset in the image; for what is around it, in the disk.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes break a rule of the format.
    #[error("{part} at byte {offset}: {problem}")]
    Corrupt {
        /// Which structure is broken.
        part: Part,
        /// Byte offset in the image at which the structure (or the offending field) starts.
        offset: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The bytes may be right, but ask for something this crate does not read.
    #[error("{part} at byte {offset}: {feature} is not supported")]
    Unsupported {
        /// Which structure asks for it.
        part: Part,
        /// Byte offset in the image.
        offset: u64,
        /// The feature by name or number.
        feature: String,
    },
    /// A path does not lead to an inode.
    #[error("{path}: {problem}")]
    Path {
        /// The path, escaped for printing.
        path: String,
        /// `no such file or directory`, `not a directory`, ...
        problem: &'static str,
    },
}

impl Error {
    pub(crate) const fn corrupt(part: Part, offset: u64, problem: Problem) -> Self {
        Self::Corrupt { part, offset, problem }
    }

    pub(crate) const fn field(
        part: Part,
        offset: u64,
        field: &'static str,
        found: u64,
        rule: &'static str,
    ) -> Self {
        Self::Corrupt { part, offset, problem: Problem::Field { field, found, rule } }
    }
}

/// The structures of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// mkimg header in bytes 0..512.
    Header,
    /// EROFS superblock.
    Superblock,
    /// An inode.
    Inode,
    /// A block of directory entries.
    Directory,
    /// The target of a symbolic link.
    Symlink,
    /// The xattrs of one inode, or the shared pool.
    Xattr,
    /// A chunk map.
    ChunkMap,
    /// A map of compressed pieces.
    PieceMap,
    /// File content.
    Data,
    /// Bytes that belong to nothing and must be zero.
    Slack,
    /// The table of seal sections.
    SealTable,
    /// A section of the seal.
    Seal,
    /// dm-verity superblock.
    VeritySuperblock,
    /// A hash block of the dm-verity tree.
    Tree,
    /// The trailer block.
    Trailer,
    /// The head of a detached seal.
    DetachedSeal,
    /// The first sector of a disk.
    ProtectiveMbr,
    /// A partition table, or what is in its partitions.
    PartitionTable,
    /// The partition with the signature of a root hash.
    SignaturePartition,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Header => "header",
            Self::Superblock => "superblock",
            Self::Inode => "inode",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Xattr => "xattr",
            Self::ChunkMap => "chunk map",
            Self::PieceMap => "piece map",
            Self::Data => "file data",
            Self::Slack => "slack",
            Self::SealTable => "seal table",
            Self::Seal => "seal",
            Self::VeritySuperblock => "verity superblock",
            Self::Tree => "verity tree",
            Self::Trailer => "trailer",
            Self::DetachedSeal => "detached seal",
            Self::ProtectiveMbr => "protective MBR",
            Self::PartitionTable => "partition table",
            Self::SignaturePartition => "signature partition",
        })
    }
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The first bytes are not those of this structure.
    Magic,
    /// A checksum does not match.
    Checksum {
        /// As stored.
        found: u32,
        /// As it should be.
        computed: u32,
    },
    /// A field has a value that is not allowed.
    Field {
        /// Name of the field as in the specification.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it should be.
        rule: &'static str,
    },
    /// A range leaves the area it must lie in.
    OutOfBounds {
        /// First byte of the range.
        start: u64,
        /// Length of the range in bytes.
        length: u64,
        /// End of the area in bytes.
        limit: u64,
    },
    /// A name in a directory cannot be a file name.
    Name(String),
    /// Directory entries are not in strictly ascending order.
    Order(String),
    /// A directory is reachable twice: not only from the one that its `..` names.
    Loop,
    /// A path that Linux could not open.
    LongPath,
    /// More of something than the image has room for.
    TooMany(&'static str),
    /// Compressed content that does not give what its map says.
    Undecodable {
        /// How it is compressed.
        algorithm: Algorithm,
        /// Bytes that it should give.
        length: u64,
    },
    /// A document does not parse.
    Document(String),
    /// Two places that must agree do not.
    Disagree(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => write!(out, "wrong magic number"),
            Self::Checksum { found, computed } => {
                write!(out, "checksum is {found:08x}, computed {computed:08x}")
            }
            Self::Field { field, found, rule } => write!(out, "{field} is {found}, must be {rule}"),
            Self::OutOfBounds { start, length, limit } => {
                write!(out, "{length} bytes from {start} reach beyond {limit}")
            }
            Self::Name(name) => write!(out, "{name} is not a file name"),
            Self::Order(name) => write!(out, "entry {name} is not in ascending order"),
            Self::Loop => write!(out, "directory is reachable twice"),
            Self::LongPath => write!(out, "path is longer than {} bytes", crate::erofs::PATH_MAX),
            Self::TooMany(what) => write!(out, "more {what} than the image has room for"),
            Self::Undecodable { algorithm, length } => {
                write!(out, "is no {} stream of {length} bytes", algorithm.name())
            }
            // It may repeat names that are in the document, and these may hold anything.
            Self::Document(why) => write!(out, "{}", escape(why.as_bytes())),
            Self::Disagree(what) => write!(out, "{what}"),
        }
    }
}
