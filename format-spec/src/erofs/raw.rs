//! The on-disk structures as they are, shared by reader and writer.
//!
//! A blank line stands between every 16 bytes, as in a hexdump. Field names are the kernel's.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Byte offset of the superblock.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub const SUPER_MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes stand in slots of this many bytes.
pub const SLOT: u64 = 32;
/// "No block": a hole, or an inode without blocks of its own.
pub const NULL_ADDR: u32 = 0xFFFF_FFFF;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`.
pub const COMPAT_SB_CHKSUM: u32 = 0x01;
/// `EROFS_FEATURE_COMPAT_MTIME`: timestamps are modification times.
pub const COMPAT_MTIME: u32 = 0x02;
/// `EROFS_FEATURE_INCOMPAT_ZERO_PADDING`: compressed data ends where its blocks end.
pub const INCOMPAT_ZERO_PADDING: u32 = 0x01;
/// `EROFS_FEATURE_INCOMPAT_COMPR_CFGS` and `BIG_PCLUSTER`, Linux 5.13: what follows the superblock configures
/// algorithms, and compressed pieces may have several blocks.
pub const INCOMPAT_COMPR_CFGS: u32 = 0x02;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`, Linux 5.15.
pub const INCOMPAT_CHUNKED_FILE: u32 = 0x04;
/// `EROFS_FEATURE_INCOMPAT_DEDUPE` and `FRAGMENTS`, Linux 6.1: inodes may share compressed blocks, and files may be
/// fragments of the packed inode.
pub const INCOMPAT_DEDUPE: u32 = 0x20;

/// `i_format` bit: extended (64-byte) inode.
pub const FORMAT_EXTENDED: u16 = 0x01;
/// `EROFS_INODE_FLAT_PLAIN`.
pub const LAYOUT_FLAT_PLAIN: u16 = 0;
/// `EROFS_FEATURE_INCOMPAT_48BIT`, Linux 6.15: maps of compressed inodes may be encoded extents.
pub const INCOMPAT_48BIT: u32 = 0x80;

/// `EROFS_INODE_COMPRESSED_FULL`.
pub const LAYOUT_COMPRESSED_FULL: u16 = 1;
/// `EROFS_INODE_FLAT_INLINE`.
pub const LAYOUT_FLAT_INLINE: u16 = 2;
/// `EROFS_INODE_CHUNK_BASED`.
pub const LAYOUT_CHUNK_BASED: u16 = 4;

/// Chunk format: log2 of blocks in a chunk.
pub const CHUNK_BITS_MASK: u16 = 0x1f;
/// Chunk format: 8-byte indexes instead of 4-byte block addresses.
pub const CHUNK_INDEXES: u16 = 0x20;

/// Superblock, 128 bytes at byte 1024.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawSuperblock {
    /// [`SUPER_MAGIC`].
    pub magic: U32,
    /// CRC-32C without final inversion, from byte 1024 to the end of the block, this field as zero.
    pub checksum: U32,
    /// Features that a reader may ignore.
    pub feature_compat: U32,
    /// log2 of the block size.
    pub blkszbits: u8,
    /// Size of the superblock beyond 128 bytes, in units of 16 bytes.
    pub sb_extslots: u8,
    /// Root inode.
    pub root_nid: U16,

    /// Number of inodes, for statfs.
    pub inos: U64,
    /// Seconds that compact inodes count from.
    pub epoch: U64,

    /// Nanoseconds of compact inodes.
    pub fixed_nsec: U32,
    /// Blocks of the file system.
    pub blocks: U32,
    /// Block of nid 0.
    pub meta_blkaddr: U32,
    /// Block of shared xattr 0.
    pub xattr_blkaddr: U32,

    /// UUID in text order.
    pub uuid: [u8; 16],

    /// Label, NUL-terminated.
    pub volume_name: [u8; 16],

    /// Features that a reader must know.
    pub feature_incompat: U32,
    /// Compression algorithms, or LZ4 window.
    pub available_compr_algs: U16,
    /// Number of further devices.
    pub extra_devices: U16,
    /// Device table, in units of 128 bytes.
    pub devt_slotoff: U16,
    /// 0.
    pub dirblkbits: u8,
    /// Number of long xattr prefixes.
    pub xattr_prefix_count: u8,
    /// Long xattr prefixes, in units of 4 bytes.
    pub xattr_prefix_start: U32,

    /// Inode of packed fragments.
    pub packed_nid: U64,
    /// 0.
    pub xattr_filter_reserved: u8,
    /// Prefix of content fingerprints.
    pub ishare_xattr_prefix_id: u8,
    /// 0.
    pub reserved: [u8; 2],
    /// Build time as seconds after `epoch`.
    pub build_time: U32,

    /// Root inode of 48-bit images.
    pub rootnid_8b: U64,
    /// 0.
    pub reserved2: U64,
}

const _: () = assert!(size_of::<RawSuperblock>() == 128);

/// Compact inode, 32 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawCompactInode {
    /// Bit 0 size, bits 1 to 3 data layout, rest 0.
    pub i_format: U16,
    /// 0, or 1 + (size of the xattr body - 12) / 4.
    pub i_xattr_icount: U16,
    /// File type and permissions.
    pub i_mode: U16,
    /// Number of names.
    pub i_nlink: U16,
    /// Size in bytes.
    pub i_size: U32,
    /// Seconds after the epoch of the superblock.
    pub i_mtime: U32,

    /// Start block, device number, chunk format, or number of compressed blocks.
    pub i_u: U32,
    /// Inode number for 32-bit stat.
    pub i_ino: U32,
    /// Owner.
    pub i_uid: U16,
    /// Group.
    pub i_gid: U16,
    /// 0.
    pub i_reserved: U32,
}

const _: () = assert!(size_of::<RawCompactInode>() == 32);

/// Extended inode, 64 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawExtendedInode {
    /// As in [`RawCompactInode`].
    pub i_format: U16,
    /// As in [`RawCompactInode`].
    pub i_xattr_icount: U16,
    /// File type and permissions.
    pub i_mode: U16,
    /// 0.
    pub i_nb: U16,
    /// Size in bytes.
    pub i_size: U64,

    /// Start block, device number, chunk format, or number of compressed blocks.
    pub i_u: U32,
    /// Inode number for 32-bit stat.
    pub i_ino: U32,
    /// Owner.
    pub i_uid: U32,
    /// Group.
    pub i_gid: U32,

    /// Seconds since 1970, two's complement.
    pub i_mtime: U64,
    /// Nanoseconds.
    pub i_mtime_nsec: U32,
    /// Number of names.
    pub i_nlink: U32,

    /// 0.
    pub i_reserved2: [u8; 16],
}

const _: () = assert!(size_of::<RawExtendedInode>() == 64);

/// Head of a map of compressed pieces, 8 bytes, at the next multiple of 8 behind inode and xattrs.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default, PartialEq, Eq, Debug,
)]
#[repr(C)]
pub struct RawMapHeader {
    /// 0 before indexes. The number of encoded extents, which goes on in the two bytes behind `h_advise`.
    pub h_fragmentoff: U32,
    /// What follows: [`ADVISE_BIG_PCLUSTER_1`] or [`ADVISE_EXTENTS`].
    pub h_advise: U16,
    /// Bits 0 to 3: algorithm of `HEAD1`. Bits 4 to 7: that of `HEAD2`.
    pub h_algorithmtype: u8,
    /// Bits 0 to 3: log2 of a logical cluster, less that of a block.
    pub h_clusterbits: u8,
}

/// Length of the head of a map of compressed pieces.
pub const MAP_HEADER_LEN: u64 = 8;
const _: () = assert!(size_of::<RawMapHeader>() == 8);

/// The map is one of encoded extents.
pub const ADVISE_EXTENTS: u16 = 0x01;
/// Where `h_advise` has log2 of the length of encoded extents, less 2.
pub const ADVISE_RECORD_SHIFT: u16 = 1;
/// Mark in the 8 bytes of a head, taken as one number: no map, the rest is the offset of a fragment.
pub const FRAGMENT_INODE: u64 = 1 << 63;
/// Compressed pieces may have several blocks.
pub const ADVISE_BIG_PCLUSTER_1: u16 = 0x02;
/// So may stored ones, and those of `HEAD2`. mkimg does not use it.
pub const ADVISE_BIG_PCLUSTER_2: u16 = 0x04;

/// Entry for one block of content in a map of compressed pieces, 8 bytes; the first stands 8 bytes behind the head.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default, PartialEq, Eq, Debug,
)]
#[repr(C)]
pub struct RawIndex {
    /// Bits 0 and 1: type.
    pub di_advise: U16,
    /// Where in its block of content a piece begins.
    pub di_clusterofs: U16,
    /// Of the first block of a piece the block address. Of others `delta[0]`, blocks of content back to the first, or
    /// in the second [`INDEX_BLOCKS`] and the number of stored blocks; and `delta[1]`, blocks on to the next piece.
    pub di_u: [U16; 2],
}

/// Length of an index.
pub const INDEX_LEN: u64 = 8;
const _: () = assert!(size_of::<RawIndex>() == 8);

/// Encoded extent, 32 bytes, of which short records have the first 16.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default, PartialEq, Eq, Debug,
)]
#[repr(C)]
pub struct RawExtent {
    /// [`EXTENT_LENGTH_MASK`] and [`EXTENT_FORMAT_SHIFT`].
    pub plen: U32,
    /// Byte of the image where it starts.
    pub pstart_lo: U32,
    /// Upper half of that.
    pub pstart_hi: U32,
    /// Byte of the content where it starts.
    pub lstart_lo: U32,

    /// Upper half of that.
    pub lstart_hi: U32,
    /// 0.
    pub reserved: [u8; 12],
}

impl RawExtent {
    /// Byte of the content where it starts.
    #[must_use]
    pub fn logical(&self) -> u64 {
        u64::from(self.lstart_lo.get()) | u64::from(self.lstart_hi.get()) << 32
    }

    /// Byte of the image where it starts.
    #[must_use]
    pub fn physical(&self) -> u64 {
        u64::from(self.pstart_lo.get()) | u64::from(self.pstart_hi.get()) << 32
    }
}

/// Encoded extent: bits that are its length in bytes.
pub const EXTENT_LENGTH_MASK: u32 = 0x1f_ffff;
/// Encoded extent: shift of the number of its algorithm plus one; 0 is for what is stored as it is.
pub const EXTENT_FORMAT_SHIFT: u32 = 28;

/// Index: the piece is stored as it is.
pub const INDEX_PLAIN: u16 = 0;
/// Index: first block of a compressed piece.
pub const INDEX_HEAD: u16 = 1;
/// Index: further block of a compressed piece.
pub const INDEX_NONHEAD: u16 = 2;
/// Mark of a `delta[0]` that counts stored blocks.
pub const INDEX_BLOCKS: u16 = 0x800;

/// Directory entry, 12 bytes; the names follow the last entry of the block.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawDirent {
    /// Inode.
    pub nid: U64,
    /// Start of the name in this block.
    pub nameoff: U16,
    /// File type, `EROFS_FT_*`.
    pub file_type: u8,
    /// 0.
    pub reserved: u8,
}

/// Length of a directory entry without its name.
pub const DIRENT_LEN: usize = 12;
const _: () = assert!(size_of::<RawDirent>() == DIRENT_LEN);

/// Head of the xattr body behind an inode, 12 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawXattrHeader {
    /// Bloom filter; 0 as long as the feature is off.
    pub h_name_filter: U32,
    /// Number of shared ids that follow.
    pub h_shared_count: u8,
    /// 0.
    pub h_reserved2: [u8; 7],
}

/// Length of the head of an xattr body.
pub const XATTR_HEADER_LEN: u64 = 12;
const _: () = assert!(size_of::<RawXattrHeader>() == 12);

/// Head of one xattr; name suffix, value and padding to 4 bytes follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub struct RawXattrEntry {
    /// Length of the suffix.
    pub e_name_len: u8,
    /// Prefix, see [`XattrClass`](super::XattrClass).
    pub e_name_index: u8,
    /// Length of the value.
    pub e_value_size: U16,
}

/// Length of the head of one xattr.
pub const XATTR_ENTRY_LEN: u64 = 4;
const _: () = assert!(size_of::<RawXattrEntry>() == 4);

/// `i_xattr_icount` for a body of `length` bytes (a multiple of 4, at least 12); 0 for none.
///
/// `None` if the body is too long for the field.
#[must_use]
pub fn xattr_icount(length: u64) -> Option<u16> {
    if length == 0 {
        return Some(0);
    }
    u16::try_from(length.checked_sub(XATTR_HEADER_LEN)?.checked_div(4)?.checked_add(1)?).ok()
}

/// `i_u` of a device: `(minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)`, as `new_encode_dev` has it.
#[must_use]
pub const fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// Major and minor number out of `i_u`.
#[must_use]
pub const fn decode_rdev(i_u: u32) -> (u32, u32) {
    ((i_u & 0xf_ff00) >> 8, (i_u & 0xff) | ((i_u >> 12) & 0xf_ff00))
}
