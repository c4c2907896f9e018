//! EROFS: raw structures, and a reader that trusts none of them.
//!
//! Facts: Linux `fs/erofs/erofs_fs.h` (MIT since 6.19) and `Documentation/filesystems/erofs.rst`. The reader covers
//! compact and extended inodes, plain, inline and chunk-based data, data compressed with full indexes or encoded extents,
//! fragments, inline and shared xattrs.

mod algorithm;
mod dir;
mod inode;
mod inodes;
mod map;
mod path;
pub mod pieces;
pub mod raw;
mod reader;
mod superblock;
mod unpack;
mod walk;
mod xattr;

pub use algorithm::Algorithm;
pub use dir::{Dir, DirEntry};
pub use inode::{FileType, Inode, Layout, Nid, Timestamp};
pub use inodes::Inodes;
pub(crate) use inodes::next_block;
pub use map::{Compressed, Extent, Extents};
pub use path::{escape, is_file_name, unescape};
pub use reader::FileSystem;
pub use superblock::{Features, Superblock, SuperblockFields};
pub use walk::{Walk, WalkEntry};
pub use xattr::{Xattr, XattrClass};
pub(crate) use xattr::{entry_len, parse_entry};

/// Longest path, in bytes, that mkimg builds or walks (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Longest file name in bytes.
pub const NAME_MAX: usize = 255;

/// Longest symbolic link target in bytes.
pub const SYMLINK_MAX: u64 = 4095;

/// Most bytes of xattrs that one inode may have, names and values together.
///
/// Shared entries would let a few bytes of metadata stand for megabytes; Linux itself lists at most 64 KiB of names.
pub const XATTRS_MAX: u64 = 1 << 20;

/// Largest file that has holes, in bytes: bounds the work that a few bytes of metadata can cause.
pub const SPARSE_MAX: u64 = 1 << 40;

/// Longest tail of a file, in bytes, that mkimg puts behind its inode.
///
/// Inodes stand in a given order, and none goes over the end of a block with its tail: longer ones waste as much there as
/// in a block of their own.
pub const TAIL_MAX: u64 = 2560;
/// Blocks of a file that may share each of them with others, where an image does that: 16 GiB, and a map of 16 MiB.
pub const SHARED_BLOCKS_MAX: u64 = 1 << 22;
