//! Where the sections of a seal stand.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MAGIC;
use crate::header::{Header, VERSION};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, ReadAt, Result, blocks_for};

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Section {
    /// The [`super::Statement`], canonical JSON.
    Statement = 1,
    /// The OCI image manifest as it was read.
    Manifest = 2,
    /// The OCI image configuration as it was read.
    Config = 3,
    /// One [`super::Content`] for each distinct file content.
    Contents = 4,
    /// One [`super::InodeRecord`] for each inode, ascending by nid.
    Inodes = 5,
    /// One [`super::LayerRecord`] for each layer, lowest first.
    Layers = 6,
    /// One [`super::DeletedRecord`] for each file that was deleted but still ships, in order of deletion.
    Deleted = 7,
    /// Paths that [`super::DeletedRecord`]s point into.
    Paths = 8,
}

impl Section {
    /// All sections in the order in which they stand.
    pub const ALL: [Self; 8] = [
        Self::Statement,
        Self::Manifest,
        Self::Config,
        Self::Contents,
        Self::Inodes,
        Self::Layers,
        Self::Deleted,
        Self::Paths,
    ];

    /// Length in bytes of one record; 1 for plain bytes.
    #[must_use]
    pub const fn record_len(self) -> u64 {
        match self {
            Self::Statement | Self::Manifest | Self::Config | Self::Paths => 1,
            Self::Contents => 80,
            Self::Inodes => 16,
            Self::Layers => 64,
            Self::Deleted => 32,
        }
    }
}

/// Sections a table can hold.
const SECTIONS_MAX: u32 = 64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTableHead {
    magic: [u8; 8],
    version: U32,
    sections: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTableEntry {
    kind: U32,
    reserved0: U32,
    offset: U64,

    length: U64,
    reserved1: U64,
}

const ENTRY_LEN: usize = 32;
const _: () = assert!(size_of::<RawTableHead>() == 16 && size_of::<RawTableEntry>() == ENTRY_LEN);

/// Place of one section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it holds.
    pub section: Section,
    /// Byte offset in the image, a multiple of [`BLOCK_SIZE`].
    pub offset: u64,
    /// Length in bytes; the rest of its last block is zero.
    pub length: u64,
}

impl Place {
    /// Number of records.
    #[must_use]
    pub const fn records(&self) -> u64 {
        match self.length.checked_div(self.section.record_len()) {
            Some(records) => records,
            None => 0,
        }
    }
}

/// The table of sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    places: Vec<Place>,
    seal_block: u64,
}

impl Table {
    /// Places sections of the given lengths (in bytes) behind a table in block `seal_block`.
    ///
    /// Every section is there, an absent document has length 0.
    #[must_use]
    pub fn plan(seal_block: u64, length: impl Fn(Section) -> u64) -> Self {
        let mut block = seal_block.saturating_add(1);
        let places = Section::ALL
            .into_iter()
            .map(|section| {
                let place =
                    Place { section, offset: block.saturating_mul(BLOCK_SIZE), length: length(section) };
                block = block.saturating_add(blocks_for(place.length));
                place
            })
            .collect();
        Self { places, seal_block }
    }

    /// First block behind the seal.
    #[must_use]
    pub fn end_block(&self) -> u64 {
        let end = self.places.last().map(|place| place.offset.saturating_add(place.length));
        end.map_or(self.seal_block.saturating_add(1), blocks_for)
    }

    /// Place of a section.
    #[must_use]
    pub fn place(&self, section: Section) -> Place {
        let absent = Place { section, offset: 0, length: 0 };
        self.places.iter().copied().find(|place| place.section == section).unwrap_or(absent)
    }

    /// All places, in order.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The table's block.
    #[must_use]
    pub fn to_block(&self) -> Box<[u8; BLOCK_LEN]> {
        let mut block = Box::new([0; BLOCK_LEN]);
        let head = RawTableHead {
            magic: MAGIC,
            version: VERSION.into(),
            sections: u32::try_from(self.places.len()).unwrap_or(0).into(),
        };
        block[..16].copy_from_slice(head.as_bytes());
        for (slot, place) in block[16..].chunks_exact_mut(ENTRY_LEN).zip(&self.places) {
            let entry = RawTableEntry {
                kind: (place.section as u32).into(),
                reserved0: 0.into(),
                offset: place.offset.into(),
                length: place.length.into(),
                reserved1: 0.into(),
            };
            slot.copy_from_slice(entry.as_bytes());
        }
        block
    }

    /// Reads the table of an image and checks that it is the only one its section lengths allow.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Corrupt`] with the field that breaks a rule.
    pub fn read(image: &(impl ReadAt + ?Sized), header: &Header) -> Result<Self> {
        let part = Part::SealTable;
        let offset = header.seal_block.saturating_mul(BLOCK_SIZE);
        let mut block = Box::new([0; BLOCK_LEN]);
        image.read_exact_at(&mut block[..], offset).map_err(|source| Error::Io { part, offset, source })?;
        let (head, mut rest) = RawTableHead::read_from_prefix(&block[..])
            .map_err(|_| Error::corrupt(part, offset, Problem::Magic))?;
        if head.magic != MAGIC {
            return Err(Error::corrupt(part, offset, Problem::Magic));
        }
        if head.version.get() != VERSION {
            let found = head.version.get().into();
            return Err(Error::field(part, offset.saturating_add(8), "version", found, "1"));
        }
        if head.sections.get() > SECTIONS_MAX {
            let found = head.sections.get().into();
            return Err(Error::field(part, offset.saturating_add(12), "sections", found, "at most 64"));
        }
        let mut lengths = Vec::new();
        for section in Section::ALL {
            let Ok((entry, after)) = RawTableEntry::read_from_prefix(rest) else { break };
            rest = after;
            let length = entry.length.get();
            if !length.is_multiple_of(section.record_len()) {
                return Err(Error::field(
                    part,
                    offset,
                    "section length",
                    length,
                    "a whole number of records",
                ));
            }
            if length > header.hash_offset() {
                let problem = Problem::OutOfBounds { start: offset, length, limit: header.hash_offset() };
                return Err(Error::corrupt(part, offset, problem));
            }
            lengths.push((section, length));
        }
        let table = Self::plan(header.seal_block, |section| {
            lengths.iter().find(|(known, _)| *known == section).map_or(0, |(_, length)| *length)
        });
        if *table.to_block() != *block {
            let problem =
                Problem::Disagree("sections are not in order, side by side and complete".to_owned());
            return Err(Error::corrupt(part, offset, problem));
        }
        if table.end_block() != header.data_blocks {
            let found = table.end_block();
            return Err(Error::field(part, offset, "end of the last section", found, "data_blocks"));
        }
        Ok(table)
    }
}
