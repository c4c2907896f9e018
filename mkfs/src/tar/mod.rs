//! The members of a layer: an uncompressed tar archive, read once, front to back.
//!
//! [`Reader`] gathers the headers that belong to one member, resolves them, and hands out an [`Entry`] that says all
//! there is to say; its stored data is read behind it. The dialects are v7, ustar, GNU and PAX, and any mixture of
//! them. What a path means (`..`, whiteouts, the root) is not decided here.
//!
//! An archive that two readers understand differently is a way to smuggle files past one of them. So there is one
//! precedence, and what cannot be read in one way alone is an error, never skipped:
//!
//! | attribute | from the first of these that is there |
//! | --- | --- |
//! | path | `GNU.sparse.name`, PAX `path`, GNU `L`, name with ustar prefix |
//! | link | PAX `linkpath`, GNU `K`, plain field |
//! | stored bytes | none unless a regular file; PAX `size`, plain field |
//! | size of a sparse file | `GNU.sparse.size` or `.realsize` (equal if both), old GNU `realsize` |
//! | uid, gid, mtime | PAX, plain field |
//! | xattr | `SCHILY.xattr`, `LIBARCHIVE.xattr` |
//!
//! Where tar programs disagree (GNU tar 1.34 and Python 3.11 as tested in `tests/tar_oracles.rs`, Go as in the
//! source of `archive/tar`):
//!
//! | in the archive | here | elsewhere |
//! | --- | --- | --- |
//! | one block of zeros, then a header | error | Go: error; GNU tar warns and stops, Python stops |
//! | no end marker after a complete entry, or one block of zeros alone | end | the same |
//! | padding behind the last data cut short | end, all data is there | Go: end; GNU tar and Python: error |
//! | a partial header block at the end | error | Go: error; GNU tar and Python: end if it is zeros |
//! | several `x` headers in a row | the last one alone counts | GNU tar and Go the same; Python merges |
//! | PAX `path` and GNU `L` | PAX | GNU tar: PAX; Go: `L` |
//! | `g` between `x` and its entry | `x` is kept | GNU tar and Python the same; Go drops `x` |
//! | digits behind a leading NUL in a number | error | GNU tar and Go read them, Python reads 0 |
//! | a file with data whose name ends in a slash | error | GNU tar: directory, data skipped; Go and Python: by type flag, and read on at different places |
//! | device numbers in a v7 header | 0:0 | GNU tar and Go the same; Python reads the fields |
//! | old GNU map with entries or a flag behind its end | error | GNU tar ignores them, Go reads on |
//! | unknown type flag | error | taken as a file, or skipped |

mod fault;
mod header;
mod pax;
mod reader;
mod sparse;
mod stream;
mod xattr;

pub use fault::{Error, Fault, SparseFault};
pub use reader::Reader;

/// Upper bounds for what an archive may make the reader hold in memory or hand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of data of one extended header (`x`, `g`, `L`, `K`).
    pub pax_bytes: usize,
    /// Bytes of a path, as spelled in the archive, and of a hard link's target.
    pub path: usize,
    /// Bytes of one component of a path.
    pub name: usize,
    /// Bytes of a symlink's target.
    pub symlink: usize,
    /// Bytes of an xattr's name.
    pub xattr_name: usize,
    /// Bytes of an xattr's value.
    pub xattr_value: usize,
    /// Entries of a sparse map.
    pub sparse_entries: usize,
    /// Bytes of a file, holes included.
    pub file_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pax_bytes: 1 << 20,
            path: 4096,
            name: 255,
            symlink: 4095,
            xattr_name: 255,
            xattr_value: 65536,
            sparse_entries: 1_000_000,
            file_size: 1 << 40,
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file, sparse or not.
    File,
    /// Another name for a member.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// A point in time, as in a `timespec`: whole seconds rounded down, then nanoseconds counted upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// A stored part of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes, never 0.
    pub len: u64,
}

/// One member of an archive, all its headers taken into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the archive spells it: bytes, neither normalised nor checked for `..`, possibly empty.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Target of a hard link or symlink, never empty there; empty for everything else.
    pub link: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Time,
    /// Major and minor number of a device, at most 12 and 20 bits; 0 for everything else.
    pub rdev: (u32, u32),
    /// Size of a file in bytes, holes included; 0 for everything else.
    pub size: u64,
    /// Bytes of data in the archive: what [`Reader::read_data`] returns.
    pub stored: u64,
    /// The stored parts of a sparse file in order. They do not touch or overlap, lie within `size` and add up to
    /// `stored`.
    pub sparse: Option<Vec<Segment>>,
    /// Extended attributes, each name once, in order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the first header block of the member is in the uncompressed archive; extended headers count.
    pub header_offset: u64,
    /// Where its stored data starts in the uncompressed archive.
    pub data_offset: u64,
}
