//! The EROFS superblock.

use zerocopy::{FromBytes, IntoBytes};

use super::pieces::PIECE_LEN_MAX;
use super::raw::{
    COMPAT_SB_CHKSUM, INCOMPAT_48BIT, INCOMPAT_CHUNKED_FILE, INCOMPAT_COMPR_CFGS, INCOMPAT_DEDUPE,
    INCOMPAT_ZERO_PADDING, RawSuperblock, SUPER_MAGIC, SUPERBLOCK_OFFSET,
};
use super::{Algorithm, Nid, Timestamp};
use crate::{BLOCK_LEN, Error, Part, Problem, ReadAt, Result};

/// Where the superblock itself ends.
const SUPERBLOCK_END: usize = 1024 + size_of::<RawSuperblock>();

/// Features of an image that a reader must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Whether chunk-based inodes may occur (Linux 5.15).
    pub chunked: bool,
    /// The algorithm of compressed inodes, if such may occur.
    pub algorithm: Option<Algorithm>,
    /// Whether inodes may share compressed blocks, or be fragments of the packed inode (Linux 6.1).
    ///
    /// Before, a kernel that read two of them at the same time gave an I/O error for one.
    pub shared: bool,
    /// Whether compressed inodes may have encoded extents (Linux 6.15).
    ///
    /// Older kernels would take their maps for something else.
    pub encoded: bool,
}

impl Features {
    /// The features that a superblock declares.
    fn of(raw: &RawSuperblock) -> Result<Self> {
        let unsupported = |field: u64, feature: String| {
            let offset = SUPERBLOCK_OFFSET.saturating_add(field);
            Err(Error::Unsupported { part: Part::Superblock, offset, feature })
        };
        let incompat = raw.feature_incompat.get();
        let known = INCOMPAT_CHUNKED_FILE
            | INCOMPAT_ZERO_PADDING
            | INCOMPAT_COMPR_CFGS
            | INCOMPAT_DEDUPE
            | INCOMPAT_48BIT;
        let unknown = incompat & !known;
        if unknown != 0 {
            return unsupported(0x50, format!("feature_incompat {unknown:#x}"));
        }
        // Without configuration the field is a window of LZ4. mkfs.erofs before 1.9.1 sets ZERO_PADDING on
        // uncompressed images too, where it means nothing.
        let algorithms = if incompat & INCOMPAT_COMPR_CFGS == 0 { 0 } else { raw.available_compr_algs.get() };
        let algorithm =
            Algorithm::ALL.into_iter().find(|algorithm| algorithms == 1_u16 << algorithm.number());
        if algorithms != 0 && algorithm.is_none() {
            return unsupported(0x54, format!("available_compr_algs {algorithms:#x}"));
        }
        Ok(Self {
            chunked: incompat & INCOMPAT_CHUNKED_FILE != 0,
            algorithm,
            shared: incompat & INCOMPAT_DEDUPE != 0,
            encoded: incompat & INCOMPAT_48BIT != 0,
        })
    }

    /// The oldest kernel that mounts an image with these features, as (major, minor).
    ///
    /// The first mainline EROFS is that of 5.4.
    #[must_use]
    pub fn min_kernel(self) -> (u32, u32) {
        let chunked = if self.chunked { (5, 15) } else { (5, 4) };
        let algorithm = self.algorithm.map_or((5, 4), Algorithm::min_kernel);
        let shared = if self.shared { (6, 1) } else { (5, 4) };
        let encoded = if self.encoded { (6, 15) } else { (5, 4) };
        chunked.max(algorithm).max(shared).max(encoded)
    }

    /// `feature_incompat`.
    pub(crate) const fn incompat(self) -> u32 {
        (if self.chunked { INCOMPAT_CHUNKED_FILE } else { 0 })
            | (if self.algorithm.is_some() { INCOMPAT_ZERO_PADDING | INCOMPAT_COMPR_CFGS } else { 0 })
            | (if self.shared { INCOMPAT_DEDUPE } else { 0 })
            | (if self.encoded { INCOMPAT_48BIT } else { 0 })
    }

    /// `available_compr_algs`.
    pub(crate) fn algorithms(self) -> u16 {
        self.algorithm.map_or(0, |algorithm| 1_u16.checked_shl(algorithm.number().into()).unwrap_or(0))
    }

    /// What stands behind the superblock.
    pub(crate) fn config(self) -> Vec<u8> {
        self.algorithm.map_or_else(Vec::new, |algorithm| algorithm.config(PIECE_LEN_MAX))
    }
}

/// A superblock that has passed every check a kernel makes, and some more.
#[derive(Debug, Clone, Copy)]
pub struct Superblock {
    /// log2 of the block size, 9 to 12.
    pub block_bits: u8,
    /// Root inode.
    pub root: Nid,
    /// Number of inodes as statfs shows it.
    pub inodes: u64,
    /// What compact inodes have as modification time, before their own offset.
    pub epoch: Timestamp,
    /// Blocks of the file system.
    pub blocks: u32,
    /// Block of nid 0.
    pub meta_block: u32,
    /// Block of shared xattr 0.
    pub xattr_block: u32,
    /// UUID in text order.
    pub uuid: [u8; 16],
    /// Label, without padding.
    pub volume_name: [u8; 16],
    /// The inode that holds fragments of files.
    pub packed: Option<Nid>,
    /// Incompatible features.
    pub features: Features,
    /// `feature_compat` as stored.
    pub compat: u32,
}

/// What a writer decides about a superblock.
#[derive(Debug, Clone, Copy)]
pub struct SuperblockFields {
    /// Root inode; must fit 16 bits.
    pub root: u16,
    /// Number of inodes.
    pub inodes: u64,
    /// Seconds of compact inodes.
    pub epoch: u64,
    /// Nanoseconds of compact inodes.
    pub fixed_nsec: u32,
    /// Blocks of the file system.
    pub blocks: u32,
    /// Block of nid 0.
    pub meta_block: u32,
    /// Block of shared xattr 0.
    pub xattr_block: u32,
    /// UUID in text order.
    pub uuid: [u8; 16],
    /// Label of at most 15 bytes, padded with NUL: kernels before 6.15 want a NUL inside the field.
    pub volume_name: [u8; 16],
    /// The inode that holds fragments of files.
    pub packed: Option<u64>,
    /// Features that inodes need.
    pub features: Features,
}

impl SuperblockFields {
    /// Writes the superblock into block 0 and then its checksum, which covers the block from byte 1024 on.
    pub fn write(&self, block0: &mut [u8; BLOCK_LEN]) {
        let raw = RawSuperblock {
            magic: SUPER_MAGIC.into(),
            feature_compat: (COMPAT_SB_CHKSUM | super::raw::COMPAT_MTIME).into(),
            blkszbits: 12,
            root_nid: self.root.into(),
            inos: self.inodes.into(),
            epoch: self.epoch.into(),
            fixed_nsec: self.fixed_nsec.into(),
            blocks: self.blocks.into(),
            meta_blkaddr: self.meta_block.into(),
            xattr_blkaddr: self.xattr_block.into(),
            uuid: self.uuid,
            volume_name: self.volume_name,
            feature_incompat: self.features.incompat().into(),
            available_compr_algs: self.features.algorithms().into(),
            packed_nid: self.packed.unwrap_or(0).into(),
            ..RawSuperblock::default()
        };
        let config = self.features.config();
        for (to, from) in block0.iter_mut().skip(1024).zip(raw.as_bytes().iter().chain(&config)) {
            *to = *from;
        }
        let checksum = checksum(&block0[1024..]);
        block0[1028..1032].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// CRC-32C over `bytes` (the superblock and the rest of its block), taking the checksum field as zero.
///
/// EROFS leaves out the final inversion that CRC-32C libraries make, so it is undone here.
#[must_use]
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let head = bytes.get(..4).unwrap_or_default();
    let rest = bytes.get(8..).unwrap_or_default();
    !crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]), rest)
}

impl Superblock {
    /// Where in block 0 the superblock ends: behind the configuration of its algorithm, which may be damaged.
    #[must_use]
    pub fn end(block0: &[u8; BLOCK_LEN]) -> usize {
        let raw = RawSuperblock::read_from_prefix(&block0[1024..]).ok();
        let features = raw.and_then(|(raw, _)| Features::of(&raw).ok()).unwrap_or_default();
        SUPERBLOCK_END.saturating_add(features.config().len())
    }

    /// Reads and checks the superblock of an image.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Unsupported`] for unknown features, [`Error::Corrupt`] otherwise.
    pub fn read(image: &(impl ReadAt + ?Sized)) -> Result<Self> {
        let mut bytes = vec![0; BLOCK_LEN - 1024];
        image.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET).map_err(|source| Error::Io {
            part: Part::Superblock,
            offset: SUPERBLOCK_OFFSET,
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Checks the superblock at the start of `bytes`, which reach to the end of byte 4095 of the image.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let part = Part::Superblock;
        let at = |field: u64| SUPERBLOCK_OFFSET.saturating_add(field);
        let (raw, _) = RawSuperblock::read_from_prefix(bytes)
            .map_err(|_| Error::corrupt(part, SUPERBLOCK_OFFSET, Problem::Magic))?;
        if raw.magic.get() != SUPER_MAGIC {
            return Err(Error::corrupt(part, SUPERBLOCK_OFFSET, Problem::Magic));
        }
        let field = |offset, name, found: u64, rule| Err(Error::field(part, at(offset), name, found, rule));
        if !(9..=12).contains(&raw.blkszbits) {
            return field(0x0c, "blkszbits", raw.blkszbits.into(), "9 to 12");
        }
        if raw.feature_compat.get() & COMPAT_SB_CHKSUM != 0 {
            let block = 1_usize.checked_shl(raw.blkszbits.into()).unwrap_or(BLOCK_LEN);
            let covered = if block > 1024 { block.saturating_sub(1024) } else { block };
            let computed = checksum(bytes.get(..covered).unwrap_or(bytes));
            let found = raw.checksum.get();
            if found != computed {
                return Err(Error::corrupt(part, at(4), Problem::Checksum { found, computed }));
            }
        }
        let features = Features::of(&raw)?;
        for (offset, name, found) in [
            (0x0d, "sb_extslots", u64::from(raw.sb_extslots)),
            (0x56, "extra_devices", raw.extra_devices.get().into()),
            (0x5a, "dirblkbits", raw.dirblkbits.into()),
            (0x60, "packed_nid", if features.shared { 0 } else { raw.packed_nid.get() }),
            (0x70, "rootnid_8b", raw.rootnid_8b.get()),
        ] {
            if found != 0 {
                return field(offset, name, found, "0");
            }
        }
        if raw.fixed_nsec.get() >= 1_000_000_000 {
            return field(0x20, "fixed_nsec", raw.fixed_nsec.get().into(), "below 10^9");
        }
        Ok(Self {
            block_bits: raw.blkszbits,
            root: Nid(raw.root_nid.get().into()),
            inodes: raw.inos.get(),
            epoch: Timestamp { sec: raw.epoch.get().cast_signed(), nsec: raw.fixed_nsec.get() },
            blocks: raw.blocks.get(),
            meta_block: raw.meta_blkaddr.get(),
            xattr_block: raw.xattr_blkaddr.get(),
            uuid: raw.uuid,
            volume_name: raw.volume_name,
            packed: Some(Nid(raw.packed_nid.get())).filter(|nid| *nid != Nid(0)),
            features,
            compat: raw.feature_compat.get(),
        })
    }

    /// Block size in bytes.
    #[must_use]
    pub const fn block_size(&self) -> u64 {
        match 1_u64.checked_shl(self.block_bits as u32) {
            Some(size) => size,
            None => 4096,
        }
    }

    /// Length of the file system in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        (self.blocks as u64).saturating_mul(self.block_size())
    }
}
