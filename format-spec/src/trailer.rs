//! The trailer: the last block of an image, outside the protected area.
//!
//! It repeats what a verifier must know and cannot find inside the tree: the root hash, with the whole tuple of
//! parameters that the root hash does not bind. Signatures go into its record area.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{Header, VERSION};
use crate::records::{AREA_LEN, Records};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, ReadAt, Result, Sha256};

/// First bytes of the trailer.
pub const MAGIC: [u8; 8] = *b"mkimgEND";

const CRC_AT: usize = BLOCK_LEN - 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTrailer {
    magic: [u8; 8],
    version: U32,
    records_len: U32,

    root_hash: [u8; 32],

    data_blocks: U64,
    hash_offset: U64,

    image_size: U64,
    data_block_size: U32,
    hash_block_size: U32,

    algorithm: [u8; 16],

    hash_type: U32,
    salt_size: U32,
    fec_offset: U64,

    fec_roots: U32,
    reserved: [u8; 12],

    records: [u8; AREA_LEN],
    crc32: U32,
}

const _: () = assert!(size_of::<RawTrailer>() == BLOCK_LEN);

/// Where the root hash and the parameters of the tree stand in the trailer: what has to be signed of it.
pub const SIGNED: std::ops::Range<usize> = 0x10..0x80;

/// What a verifier starts from: root hash and the parameters of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Root of the dm-verity tree.
    pub root_hash: Sha256,
    /// Blocks under the tree.
    pub data_blocks: u64,
    /// Byte offset of the dm-verity superblock.
    pub hash_offset: u64,
    /// Length of the image in bytes.
    pub image_size: u64,
    /// Byte offset of the Reed-Solomon parity; 0 without.
    pub fec_offset: u64,
    /// Parity bytes a codeword; 0 without parity.
    pub fec_roots: u32,
    /// Signatures; nothing that a root hash binds, or that binds one by itself.
    pub records: Records,
}

impl Trailer {
    /// The trailer that belongs to a header and a root hash, without records.
    #[must_use]
    pub fn new(header: &Header, root_hash: Sha256) -> Self {
        Self {
            root_hash,
            data_blocks: header.data_blocks,
            hash_offset: header.hash_offset(),
            image_size: header.image_size(),
            fec_offset: if header.fec_roots == 0 { 0 } else { header.fec_offset() },
            fec_roots: header.fec_roots,
            records: Records::default(),
        }
    }

    /// Whether both are about the same tree, whoever signed it.
    #[must_use]
    pub fn same_tree(&self, other: &Self) -> bool {
        let unsigned = |trailer: &Self| Self { records: Records::default(), ..trailer.clone() };
        unsigned(self) == unsigned(other)
    }

    /// The bytes of the trailer block.
    #[must_use]
    pub fn to_block(&self) -> Box<[u8; BLOCK_LEN]> {
        let mut raw = RawTrailer {
            magic: MAGIC,
            version: VERSION.into(),
            // At most the length of the area.
            records_len: u32::try_from(self.records.length()).unwrap_or_default().into(),
            root_hash: self.root_hash,
            data_blocks: self.data_blocks.into(),
            hash_offset: self.hash_offset.into(),
            image_size: self.image_size.into(),
            data_block_size: 4096.into(),
            hash_block_size: 4096.into(),
            algorithm: *b"sha256\0\0\0\0\0\0\0\0\0\0",
            hash_type: 1.into(),
            salt_size: 0.into(),
            fec_offset: self.fec_offset.into(),
            fec_roots: self.fec_roots.into(),
            reserved: [0; 12],
            records: self.records.to_area(),
            crc32: 0.into(),
        };
        raw.crc32 = crc32fast::hash(&raw.as_bytes()[..CRC_AT]).into();
        let mut block = Box::new([0; BLOCK_LEN]);
        block.copy_from_slice(raw.as_bytes());
        block
    }

    /// Reads the trailer from the last block of an image whose length is a whole number of blocks.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Corrupt`] with the field that breaks a rule.
    pub fn read(image: &(impl ReadAt + ?Sized)) -> Result<Self> {
        let io = |source| Error::Io { part: Part::Trailer, offset: 0, source };
        let size = image.size().map_err(io)?;
        let Some(offset) = size.checked_sub(BLOCK_SIZE) else {
            return Err(Error::corrupt(
                Part::Trailer,
                0,
                Problem::OutOfBounds { start: 0, length: BLOCK_SIZE, limit: size },
            ));
        };
        let mut block = Box::new([0; BLOCK_LEN]);
        image.read_exact_at(&mut block[..], offset).map_err(|source| Error::Io {
            part: Part::Trailer,
            offset,
            source,
        })?;
        Self::from_block(&block, offset)
    }

    /// Checks the bytes of a trailer block that stands at byte `offset` of its image.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the field that breaks a rule.
    pub fn from_block(block: &[u8; BLOCK_LEN], offset: u64) -> Result<Self> {
        let at = |field: u64| offset.saturating_add(field);
        let raw = RawTrailer::read_from_bytes(block)
            .map_err(|_| Error::corrupt(Part::Trailer, offset, Problem::Magic))?;
        if raw.magic != MAGIC {
            return Err(Error::corrupt(Part::Trailer, offset, Problem::Magic));
        }
        let computed = crc32fast::hash(&block[..CRC_AT]);
        let found = raw.crc32.get();
        if found != computed {
            return Err(Error::corrupt(Part::Trailer, at(4092), Problem::Checksum { found, computed }));
        }
        if raw.version.get() != VERSION {
            let found = raw.version.get().into();
            return Err(Error::field(Part::Trailer, at(8), "version", found, "1"));
        }
        let records = Records::from_area(&raw.records, raw.records_len.get()).map_err(|(place, rule)| {
            let place = at(0x80_u64.saturating_add(u64::try_from(place).unwrap_or_default()));
            Error::field(Part::Trailer, place, "records_len", raw.records_len.get().into(), rule)
        })?;
        let trailer = Self {
            root_hash: raw.root_hash,
            data_blocks: raw.data_blocks.get(),
            hash_offset: raw.hash_offset.get(),
            image_size: raw.image_size.get(),
            fec_offset: raw.fec_offset.get(),
            fec_roots: raw.fec_roots.get(),
            records,
        };
        // Everything else has one legal value in this version.
        if trailer.to_block() != Box::new(*block) {
            let found = raw.records_len.get().into();
            return Err(Error::field(
                Part::Trailer,
                at(12),
                "tree parameters, order of records, bytes behind them, or reserved",
                found,
                "the only values of version 1",
            ));
        }
        Ok(trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Kind, Record};

    fn trailer() -> Trailer {
        let record = |kind, content: &[u8]| Record { kind, content: content.to_vec() };
        let records = vec![record(Kind::Signature, b"one"), record(Kind::Pkcs7, b"two")];
        Trailer {
            root_hash: [7; 32],
            data_blocks: 9,
            hash_offset: 36864,
            image_size: 57344,
            fec_offset: 45056,
            fec_roots: 2,
            records: Records::new(records).unwrap(),
        }
    }

    #[test]
    fn survives_a_round_trip_and_refuses_every_changed_byte() {
        for trailer in [Trailer { records: Records::default(), ..trailer() }, trailer()] {
            let good = trailer.to_block();
            assert_eq!(Trailer::from_block(&good, 0).unwrap(), trailer);
            for at in 0..BLOCK_LEN {
                let mut block = good.clone();
                block[at] ^= 1;
                assert!(Trailer::from_block(&block, 0).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn records_have_one_form_even_under_a_right_checksum() {
        let good = trailer().to_block();
        let changed = |change: &dyn Fn(&mut [u8; BLOCK_LEN])| {
            let mut block = good.clone();
            change(&mut block);
            let crc = crc32fast::hash(&block[..CRC_AT]);
            block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            Trailer::from_block(&block, 0).map_err(|error| error.to_string())
        };
        assert_eq!(changed(&|_| ()).unwrap(), trailer());
        let order = changed(&|block| {
            let two: [u8; 7] = *block[0x87..].first_chunk().unwrap();
            block.copy_within(0x80..0x87, 0x87);
            block[0x80..0x87].copy_from_slice(&two);
        });
        assert!(order.unwrap_err().contains("order of records"));
        assert!(changed(&|block| block[4091] = 1).unwrap_err().contains("bytes behind them"));
        assert!(changed(&|block| block[0x0c] = 13).unwrap_err().contains("must be whole records"));
        assert!(changed(&|block| block[0x80] = 9).unwrap_err().contains("must be records of a known kind"));
        // Other content is another signature, which is for its reader to judge.
        assert!(changed(&|block| block[0x84] = b'x').unwrap().same_tree(&trailer()));
        assert!(!changed(&|block| block[0x10] = 1).unwrap().same_tree(&trailer()));
    }
}
