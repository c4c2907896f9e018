//! Inodes.

use std::fmt;

use zerocopy::FromBytes;

use super::pieces::{map_len, records_start};
use super::raw::{
    CHUNK_BITS_MASK, CHUNK_INDEXES, FORMAT_EXTENDED, INDEX_LEN, LAYOUT_CHUNK_BASED, LAYOUT_COMPRESSED_FULL,
    LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN, MAP_HEADER_LEN, NULL_ADDR, RawCompactInode, RawExtendedInode,
    RawMapHeader, SLOT, XATTR_HEADER_LEN, decode_rdev,
};
use super::{Algorithm, SPARSE_MAX, SYMLINK_MAX, Superblock};
use crate::{BLOCK_SIZE, Error, Part, Problem, Result};

/// Number of an inode: its 32-byte slot counted from the metadata block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Nid(pub u64);

impl fmt::Display for Nid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}

/// A point in time as `struct timespec` has it: nanoseconds always count upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, may be negative.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:09}", self.sec, self.nsec)
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

impl FileType {
    /// From `S_IFMT` bits.
    #[must_use]
    pub const fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Dir,
            0o020_000 => Self::Char,
            0o060_000 => Self::Block,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }

    /// `S_IFMT` bits.
    #[must_use]
    pub const fn mode_bits(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// `EROFS_FT_*` of directory entries.
    #[must_use]
    pub const fn dirent_type(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Dir => 2,
            Self::Char => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// Word used in listings.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Char => "char",
            Self::Block => "block",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Symlink => "symlink",
        }
    }
}

/// Where the content of an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Consecutive blocks from a start block on; without one the file is all zeros.
    Plain {
        /// First block.
        start: Option<u32>,
    },
    /// Consecutive whole blocks, and the tail behind the inode.
    Inline {
        /// First block; meaningless when there is no whole block.
        start: Option<u32>,
        /// Byte offset of the tail in the image.
        tail: u64,
    },
    /// A map of chunks.
    Chunked {
        /// log2 of the chunk size in bytes.
        chunk_bits: u32,
        /// 8-byte indexes instead of 4-byte addresses.
        indexes: bool,
        /// Byte offset of the map.
        map: u64,
    },
    /// A map of pieces, compressed or not.
    Compressed {
        /// Of the pieces that are compressed.
        algorithm: Algorithm,
        /// Byte offset of the head of the map.
        map: u64,
    },
    /// A list of pieces that need not fill blocks.
    Encoded {
        /// Bytes of a record, 16 or 32.
        record_len: u64,
        /// Number of records.
        count: u64,
        /// Byte offset of the head of the map.
        map: u64,
    },
    /// A part of the packed inode.
    Fragment {
        /// Byte offset in that.
        offset: u64,
        /// Byte offset of what stands in place of a map.
        map: u64,
    },
    /// Devices, fifos, sockets.
    None,
}

/// A checked inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Byte offset in the image.
    pub offset: u64,
    /// 32 or 64.
    pub inode_len: u64,
    /// Length of the xattr body behind it, in bytes.
    pub xattr_len: u64,
    /// What it is.
    pub file_type: FileType,
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Number of names.
    pub nlink: u32,
    /// Major and minor number of devices.
    pub rdev: (u32, u32),
    /// Where the content is.
    pub layout: Layout,
    /// `i_ino` as stored.
    pub ino: u32,
}

/// Fields that both forms have, before they are checked.
struct Common {
    format: u16,
    icount: u16,
    mode: u16,
    size: u64,
    i_u: u32,
    ino: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    nlink: u32,
    reserved: bool,
}

impl Inode {
    /// Byte offset behind inode and xattrs.
    #[must_use]
    pub const fn body_end(&self) -> u64 {
        self.offset.saturating_add(self.inode_len).saturating_add(self.xattr_len)
    }

    /// Byte offset behind its *unit*: the inode, its xattrs, and its inline tail or map.
    ///
    /// A chunk map starts where the xattrs end: both are aligned to 4 bytes. One with 8-byte indexes may start 4
    /// bytes later; mkimg does not write such.
    #[must_use]
    pub fn unit_end(&self) -> u64 {
        match self.layout {
            Layout::Inline { tail, .. } => {
                tail.saturating_add(self.size.checked_rem(BLOCK_SIZE).unwrap_or(0))
            }
            Layout::Chunked { chunk_bits, indexes, map } => {
                let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
                let length = self.size.div_ceil(chunk).saturating_mul(if indexes { 8 } else { 4 });
                map.saturating_add(length)
            }
            Layout::Compressed { map, .. } => map.saturating_add(map_len(self.size)),
            Layout::Encoded { record_len, count, map } => {
                records_start(map, record_len).saturating_add(count.saturating_mul(record_len))
            }
            Layout::Fragment { map, .. } => map.saturating_add(MAP_HEADER_LEN),
            Layout::Plain { .. } | Layout::None => self.body_end(),
        }
    }

    /// Whether content that is stored as it is stands in blocks of its own, so that their leaves in the dm-verity tree
    /// are those of the file.
    #[must_use]
    pub const fn owns_blocks(&self) -> bool {
        !matches!(self.layout, Layout::Encoded { .. } | Layout::Fragment { .. })
    }

    /// Whether content is compressed, or where such is.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        matches!(self.layout, Layout::Compressed { .. } | Layout::Encoded { .. } | Layout::Fragment { .. })
    }

    /// The first free slot behind its unit.
    pub(crate) fn next_nid(&self) -> Nid {
        let slots = self.unit_end().saturating_sub(self.offset).div_ceil(SLOT);
        Nid(self.nid.0.saturating_add(slots))
    }

    /// Checks the inode at byte `offset`, of which `bytes` are the first 32 or 64; `head` reads the head of a map of
    /// pieces.
    pub(super) fn parse(
        sb: &Superblock,
        nid: Nid,
        offset: u64,
        bytes: &[u8],
        head: impl FnOnce(u64) -> Result<RawMapHeader>,
    ) -> Result<Self> {
        let part = Part::Inode;
        let short = || {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            Error::corrupt(part, offset, Problem::OutOfBounds { start: offset, length, limit: sb.length() })
        };
        let (raw, _) = RawCompactInode::read_from_prefix(bytes).map_err(|_| short())?;
        let extended = raw.i_format.get() & FORMAT_EXTENDED != 0;
        let common = if extended {
            let (raw, _) = RawExtendedInode::read_from_prefix(bytes).map_err(|_| short())?;
            Common {
                format: raw.i_format.get(),
                icount: raw.i_xattr_icount.get(),
                mode: raw.i_mode.get(),
                size: raw.i_size.get(),
                i_u: raw.i_u.get(),
                ino: raw.i_ino.get(),
                uid: raw.i_uid.get(),
                gid: raw.i_gid.get(),
                mtime: Timestamp { sec: raw.i_mtime.get().cast_signed(), nsec: raw.i_mtime_nsec.get() },
                nlink: raw.i_nlink.get(),
                reserved: raw.i_nb.get() != 0 || raw.i_reserved2 != [0; 16],
            }
        } else {
            Common {
                format: raw.i_format.get(),
                icount: raw.i_xattr_icount.get(),
                mode: raw.i_mode.get(),
                size: raw.i_size.get().into(),
                i_u: raw.i_u.get(),
                ino: raw.i_ino.get(),
                uid: raw.i_uid.get().into(),
                gid: raw.i_gid.get().into(),
                // Linux 6.15 and later add i_mtime, older kernels show the epoch alone.
                mtime: Timestamp {
                    sec: sb.epoch.sec.saturating_add(raw.i_mtime.get().into()),
                    nsec: sb.epoch.nsec,
                },
                nlink: raw.i_nlink.get().into(),
                reserved: raw.i_reserved.get() != 0,
            }
        };
        let inode_len = if extended { 64 } else { 32 };
        Self::check(sb, nid, offset, inode_len, &common, head)
    }

    fn check(
        sb: &Superblock,
        nid: Nid,
        offset: u64,
        inode_len: u64,
        raw: &Common,
        head: impl FnOnce(u64) -> Result<RawMapHeader>,
    ) -> Result<Self> {
        let part = Part::Inode;
        let field = |name, found, rule| Err(Error::field(part, offset, name, found, rule));
        let layout = (raw.format >> 1) & 7;
        if raw.format >> 4 != 0 {
            return field("i_format", raw.format.into(), "below 16");
        }
        if raw.reserved {
            return field("reserved", 1, "0");
        }
        let Some(file_type) = FileType::from_mode(raw.mode) else {
            return field("i_mode", raw.mode.into(), "of a known file type");
        };
        if raw.mtime.nsec >= 1_000_000_000 {
            return field("i_mtime_nsec", raw.mtime.nsec.into(), "below 10^9");
        }
        if raw.nlink == 0 {
            return field("i_nlink", 0, "at least 1");
        }
        if i64::try_from(raw.size).is_err() {
            return field("i_size", raw.size, "below 2^63");
        }
        let xattr_len = match u64::from(raw.icount) {
            0 => 0,
            count => count.saturating_sub(1).saturating_mul(4).saturating_add(XATTR_HEADER_LEN),
        };
        let body_end = offset.saturating_add(inode_len).saturating_add(xattr_len);
        if body_end > sb.length() {
            let problem = Problem::OutOfBounds {
                start: offset,
                length: body_end.saturating_sub(offset),
                limit: sb.length(),
            };
            return Err(Error::corrupt(part, offset, problem));
        }
        let start = (raw.i_u != NULL_ADDR).then_some(raw.i_u);
        let has_content = matches!(file_type, FileType::File | FileType::Dir | FileType::Symlink);
        let layout = match layout {
            _ if !has_content => Layout::None,
            LAYOUT_FLAT_PLAIN => Layout::Plain { start },
            LAYOUT_FLAT_INLINE => Layout::Inline { start, tail: body_end },
            LAYOUT_CHUNK_BASED => {
                let bits = raw.i_u & u32::from(CHUNK_BITS_MASK);
                let indexes = raw.i_u & u32::from(CHUNK_INDEXES) != 0;
                if raw.i_u & !u32::from(CHUNK_BITS_MASK | CHUNK_INDEXES) != 0 {
                    return field("chunk format", raw.i_u.into(), "below 64");
                }
                let unit: u64 = if indexes { 8 } else { 4 };
                Layout::Chunked {
                    chunk_bits: bits.saturating_add(sb.block_bits.into()),
                    indexes,
                    map: body_end.next_multiple_of(unit),
                }
            }
            LAYOUT_COMPRESSED_FULL => {
                let map = body_end.next_multiple_of(MAP_HEADER_LEN);
                Layout::compressed(head(map)?, map)?
            }
            other => {
                let feature = format!("data layout {other}");
                return Err(Error::Unsupported { part, offset, feature });
            }
        };
        let inode = Self {
            nid,
            offset,
            inode_len,
            xattr_len,
            file_type,
            mode: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            size: raw.size,
            mtime: raw.mtime,
            nlink: raw.nlink,
            rdev: match file_type {
                FileType::Char | FileType::Block => decode_rdev(raw.i_u),
                _ => (0, 0),
            },
            layout,
            ino: raw.ino,
        };
        inode.check_extent(sb)?;
        Ok(inode)
    }

    /// Sizes against what the image can hold.
    fn check_extent(&self, sb: &Superblock) -> Result<()> {
        let part = Part::Inode;
        let field = |name, found, rule| Err(Error::field(part, self.offset, name, found, rule));
        match self.file_type {
            FileType::Symlink if self.size == 0 || self.size > SYMLINK_MAX => {
                return field("i_size", self.size, "1 to 4095 for a symbolic link");
            }
            FileType::Dir if self.size > sb.length() => {
                return field("i_size", self.size, "no larger than the image for a directory");
            }
            FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket if self.size != 0 => {
                return field("i_size", self.size, "0 for a special file");
            }
            _ => {}
        }
        let block = sb.block_size();
        let blocks_from = |start: u32, bytes: u64| {
            let start = u64::from(start).saturating_mul(block);
            if start.checked_add(bytes).is_none_or(|end| end > sb.length()) {
                let problem = Problem::OutOfBounds { start, length: bytes, limit: sb.length() };
                return Err(Error::corrupt(part, self.offset, problem));
            }
            Ok(())
        };
        match self.layout {
            Layout::Plain { start: Some(start) } if self.size > 0 => {
                blocks_from(start, self.size.div_ceil(block).saturating_mul(block))
            }
            Layout::Plain { start: None } | Layout::Chunked { .. } if self.size > SPARSE_MAX => {
                field("i_size", self.size, "at most 2^40 for a file with holes")
            }
            Layout::Inline { start, tail } => {
                let tail_len = self.size.checked_rem(block).unwrap_or(0);
                let whole = self.size.saturating_sub(tail_len);
                if whole > 0 {
                    let Some(start) = start else {
                        return field("i_u", NULL_ADDR.into(), "a block address");
                    };
                    blocks_from(start, whole)?;
                }
                let room = block.saturating_sub(tail.checked_rem(block).unwrap_or(0));
                if tail_len > room {
                    return field("inline tail", tail, "inside one block");
                }
                if tail.saturating_add(tail_len) > sb.length() {
                    let problem = Problem::OutOfBounds { start: tail, length: tail_len, limit: sb.length() };
                    return Err(Error::corrupt(part, self.offset, problem));
                }
                Ok(())
            }
            Layout::Chunked { chunk_bits, indexes, map } => {
                let chunks = self.size.div_ceil(1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX));
                let length = chunks.saturating_mul(if indexes { 8 } else { 4 });
                if map.checked_add(length).is_none_or(|end| end > sb.length()) {
                    let problem = Problem::OutOfBounds { start: map, length, limit: sb.length() };
                    return Err(Error::corrupt(part, self.offset, problem));
                }
                Ok(())
            }
            Layout::Compressed { map, .. } => {
                // An index for each block, and two entries before them.
                let entries = self.size.div_ceil(block).saturating_add(2);
                self.check_map(map, entries.saturating_mul(INDEX_LEN), sb.length())
            }
            Layout::Encoded { map, .. } => {
                self.check_map(map, self.unit_end().saturating_sub(map), sb.length())
            }
            Layout::Fragment { .. } if self.file_type != FileType::File => {
                let feature = format!("a {} in the packed inode", self.file_type.word());
                Err(Error::Unsupported { part, offset: self.offset, feature })
            }
            Layout::Fragment { .. } if self.size > SPARSE_MAX => {
                field("i_size", self.size, "at most 2^40 for a fragment")
            }
            _ => Ok(()),
        }
    }
}
