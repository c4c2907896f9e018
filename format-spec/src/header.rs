//! The mkimg header: bytes 0..512 of block 0, which EROFS leaves to boot code.
//!
//! A dm-verity root hash binds neither the size nor the depth of its tree. The header is inside the first
//! protected block, so whoever knows the root hash knows every size and place in the image as well.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fec;
use crate::merkle::level_blocks;
use crate::{BLOCK_SIZE, Error, Part, Problem, ReadAt, Result};

/// First bytes of every mkimg image. Modelled on PNG: a transfer that rewrites line ends damages it visibly.
pub const MAGIC: [u8; 8] = *b"mkimg\r\n\x1a";

/// Version of the whole format. A reader refuses any other.
pub const VERSION: u32 = 1;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 512;

const CRC_AT: usize = 508;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    header_len: U32,

    data_blocks: U64,
    image_size: U64,

    meta_block: U64,
    meta_blocks: U64,

    seal_block: U64,
    seal_blocks: U64,

    fec_blocks: U64,
    fec_roots: U32,
    reserved0: [u8; 4],

    reserved1: [[u8; 16]; 26],

    reserved2: [u8; 12],
    crc32: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

/// Places and sizes of everything in an image. Units are [`BLOCK_SIZE`] blocks unless named otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Blocks under the dm-verity tree, block 0 included; also the size of the EROFS file system.
    pub data_blocks: u64,
    /// First block of the EROFS metadata area. File data fills the blocks from 1 up to here.
    pub meta_block: u64,
    /// First block of the seal, which follows the metadata and ends the protected area.
    pub seal_block: u64,
    /// Blocks of Reed-Solomon parity between tree and trailer, see [`Self::with_fec`].
    pub fec_blocks: u64,
    /// Parity bytes a codeword; 0 without FEC.
    pub fec_roots: u32,
}

impl Header {
    /// The same image with parity of `roots` bytes a codeword; [`fec::ROOTS`] says how many there may be, 0 is none.
    #[must_use]
    pub fn with_fec(self, roots: u32) -> Self {
        Self { fec_blocks: fec::parity_blocks(self.data_blocks, roots), fec_roots: roots, ..self }
    }

    /// Byte offset of the dm-verity superblock: the end of the protected area.
    #[must_use]
    pub const fn hash_offset(&self) -> u64 {
        self.data_blocks.saturating_mul(BLOCK_SIZE)
    }

    /// Byte offset of the first (the root) block of the tree.
    #[must_use]
    pub const fn tree_offset(&self) -> u64 {
        self.hash_offset().saturating_add(BLOCK_SIZE)
    }

    /// Hash blocks in the tree.
    #[must_use]
    pub fn tree_blocks(&self) -> u64 {
        level_blocks(self.data_blocks).iter().fold(0, |sum, level| sum.saturating_add(*level))
    }

    /// Byte offset of the parity, which is the end of the tree.
    #[must_use]
    pub fn fec_offset(&self) -> u64 {
        self.tree_offset().saturating_add(self.tree_blocks().saturating_mul(BLOCK_SIZE))
    }

    /// Byte offset of the trailer block, the last block of the file.
    #[must_use]
    pub fn trailer_offset(&self) -> u64 {
        self.fec_offset().saturating_add(self.fec_blocks.saturating_mul(BLOCK_SIZE))
    }

    /// Length of the image in bytes.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.trailer_offset().saturating_add(BLOCK_SIZE)
    }

    /// The 512 bytes of the header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut raw = RawHeader {
            magic: MAGIC,
            version: VERSION.into(),
            header_len: 512.into(),
            data_blocks: self.data_blocks.into(),
            image_size: self.image_size().into(),
            meta_block: self.meta_block.into(),
            meta_blocks: self.seal_block.saturating_sub(self.meta_block).into(),
            seal_block: self.seal_block.into(),
            seal_blocks: self.data_blocks.saturating_sub(self.seal_block).into(),
            fec_blocks: self.fec_blocks.into(),
            fec_roots: self.fec_roots.into(),
            reserved0: [0; 4],
            reserved1: [[0; 16]; 26],
            reserved2: [0; 12],
            crc32: 0.into(),
        };
        raw.crc32 = crc32fast::hash(&raw.as_bytes()[..CRC_AT]).into();
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads the header at the start of an image and checks every field of it.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Corrupt`] with the field that breaks a rule.
    pub fn read(image: &(impl ReadAt + ?Sized)) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        image.read_exact_at(&mut bytes, 0).map_err(|source| Error::Io {
            part: Part::Header,
            offset: 0,
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Checks the 512 bytes of a header.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the field that breaks a rule.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let raw =
            RawHeader::read_from_bytes(bytes).map_err(|_| Error::corrupt(Part::Header, 0, Problem::Magic))?;
        if raw.magic != MAGIC {
            return Err(Error::corrupt(Part::Header, 0, Problem::Magic));
        }
        let computed = crc32fast::hash(&bytes[..CRC_AT]);
        if raw.crc32.get() != computed {
            let found = raw.crc32.get();
            return Err(Error::corrupt(Part::Header, 508, Problem::Checksum { found, computed }));
        }
        let field = |offset, name, found, rule| Err(Error::field(Part::Header, offset, name, found, rule));
        if raw.version.get() != VERSION {
            return field(8, "version", raw.version.get().into(), "1");
        }
        if raw.header_len.get() != 512 {
            return field(12, "header_len", raw.header_len.get().into(), "512");
        }
        let header = Self {
            data_blocks: raw.data_blocks.get(),
            meta_block: raw.meta_block.get(),
            seal_block: raw.seal_block.get(),
            fec_blocks: raw.fec_blocks.get(),
            fec_roots: raw.fec_roots.get(),
        };
        // Block addresses are 32 bits wide in the EROFS features that this version uses.
        if header.data_blocks > u64::from(u32::MAX) {
            return field(16, "data_blocks", header.data_blocks, "less than 2^32");
        }
        if header.meta_block == 0 || header.meta_block >= header.seal_block {
            return field(32, "meta_block", header.meta_block, "at least 1 and below seal_block");
        }
        if header.seal_block >= header.data_blocks {
            return field(48, "seal_block", header.seal_block, "below data_blocks");
        }
        if header.fec_roots != 0 && !fec::ROOTS.contains(&header.fec_roots) {
            return field(72, "fec_roots", header.fec_roots.into(), "0 or from 2 to 24");
        }
        if header.fec_blocks != header.with_fec(header.fec_roots).fec_blocks {
            return field(64, "fec_blocks", header.fec_blocks, "as fec_roots and data_blocks make it");
        }
        // Derived and reserved fields have one legal value each.
        if header.to_bytes() != *bytes {
            return field(24, "image_size, section length or reserved", raw.image_size.get(), "consistent");
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { data_blocks: 200, meta_block: 150, seal_block: 190, fec_blocks: 0, fec_roots: 0 };

    #[test]
    fn survives_a_round_trip() {
        assert_eq!(Header::from_bytes(&HEADER.to_bytes()).unwrap(), HEADER);
        assert_eq!(HEADER.image_size(), (200 + 1 + 3 + 1) * 4096);
    }

    #[test]
    fn parity_has_one_size() {
        for (roots, blocks) in [(0, 0), (2, 2), (24, 24)] {
            let header = HEADER.with_fec(roots);
            assert_eq!((header.fec_blocks, header.fec_roots), (blocks, roots));
            assert_eq!(header.fec_offset(), (200 + 1 + 3) * 4096);
            assert_eq!(header.image_size(), (200 + 1 + 3 + blocks + 1) * 4096);
            assert_eq!(Header::from_bytes(&header.to_bytes()).unwrap(), header);
        }
        for (fec_blocks, fec_roots) in [
            (1, 0),
            (2, 1),
            (0, 2),
            (1, 2),
            (3, 2),
            (25, 25),
            (255, 255),
            (u64::MAX, 2),
            (u64::MAX, u32::MAX),
        ] {
            let header = Header { fec_blocks, fec_roots, ..HEADER };
            assert!(
                Header::from_bytes(&header.to_bytes()).is_err(),
                "{fec_blocks} blocks, {fec_roots} roots"
            );
        }
    }

    #[test]
    fn refuses_every_changed_byte() {
        for header in [HEADER, HEADER.with_fec(8)] {
            refuses_every_changed_byte_of(header);
        }
    }

    fn refuses_every_changed_byte_of(header: Header) {
        let good = header.to_bytes();
        for at in 0..HEADER_LEN {
            let mut bytes = good;
            bytes[at] ^= 0x10;
            assert!(Header::from_bytes(&bytes).is_err(), "byte {at}");
            // A changed byte with the right checksum is refused as well, unless it is a place of its own.
            if at >= CRC_AT {
                continue;
            }
            let crc = crc32fast::hash(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(found) = Header::from_bytes(&bytes) {
                assert_ne!(found, header, "byte {at} changes nothing");
            }
        }
    }
}
