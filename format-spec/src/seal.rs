//! The seal: what was shipped, recorded inside the protected area.
//!
//! A table in the seal's first block names the sections. Fixed-size records make every section readable at any
//! position with constant memory, and a writer can place them before it knows the digests.

use serde::{Deserialize, Serialize};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{Header, VERSION};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, ReadAt, Result, Sha256, blocks_for};

/// First bytes of the section table.
pub const MAGIC: [u8; 8] = *b"mkimgSEL";

/// Largest JSON document (statement, manifest, config) in bytes.
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// "Nothing" in `layer` and `content` fields.
pub const NONE: u32 = u32::MAX;

/// Sections a table can hold.
const SECTIONS_MAX: u32 = 64;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Section {
    /// The [`Statement`], canonical JSON.
    Statement = 1,
    /// The OCI image manifest as it was read.
    Manifest = 2,
    /// The OCI image configuration as it was read.
    Config = 3,
    /// One [`Content`] for each distinct file content.
    Contents = 4,
    /// One [`InodeRecord`] for each inode, ascending by nid.
    Inodes = 5,
    /// One [`LayerRecord`] for each layer, lowest first.
    Layers = 6,
    /// One [`DeletedRecord`] for each file that was deleted but still ships, in order of deletion.
    Deleted = 7,
    /// Paths that [`DeletedRecord`]s point into.
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

/// One distinct file content.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Content {
    /// BLAKE3-256 of the content.
    pub blake3: [u8; 32],

    /// fs-verity digest: SHA-256, 4096-byte blocks, no salt.
    pub fsverity: Sha256,

    /// Length in bytes.
    pub size: U64,
    /// 0.
    pub reserved: U64,
}

/// One inode.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InodeRecord {
    /// Its number.
    pub nid: U64,
    /// Index of the layer it came from, lowest is 0; [`NONE`] for directories that no layer describes.
    pub layer: U32,
    /// Index of its content in [`Section::Contents`]; [`NONE`] unless it is a regular file.
    pub content: U32,
}

/// What one layer of the source ships, in bytes of file content and in files.
///
/// `shipped = visible + shadowed + deleted`, for bytes and for files.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LayerRecord {
    /// Bytes of regular files in the layer.
    pub shipped: U64,
    /// Of these, bytes that are in the image.
    pub visible: U64,

    /// Bytes replaced by a later entry.
    pub shadowed: U64,
    /// Bytes hidden by a whiteout or opaque marker.
    pub deleted: U64,

    /// Regular files in the layer.
    pub shipped_files: U64,
    /// Of these, files that are in the image.
    pub visible_files: U64,

    /// Files replaced by a later entry.
    pub shadowed_files: U64,
    /// Files hidden by a whiteout or opaque marker.
    pub deleted_files: U64,
}

/// A file that a layer ships and a later layer deletes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeletedRecord {
    /// Length of its content in bytes.
    pub size: U64,
    /// Where its path starts in [`Section::Paths`].
    pub path_offset: U64,

    /// Length of its path in bytes.
    pub path_len: U32,
    /// Index of the layer that ships it.
    pub layer: U32,
    /// Index of the layer that deletes it.
    pub deleted_by: U32,
    /// 0.
    pub reserved: U32,
}

const _: () = assert!(size_of::<Content>() as u64 == Section::Contents.record_len());
const _: () = assert!(size_of::<InodeRecord>() as u64 == Section::Inodes.record_len());
const _: () = assert!(size_of::<LayerRecord>() as u64 == Section::Layers.record_len());
const _: () = assert!(size_of::<DeletedRecord>() as u64 == Section::Deleted.record_len());

/// What the builder states about an image.
///
/// Stored as canonical JSON: keys in ascending order, no white space, absent values left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Version of the image format.
    pub format: u32,
    /// Name given by the user, or the reference of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Counter that a publisher raises so that older images can be refused.
    pub epoch: u64,
    /// Where the tree came from.
    pub source: Source,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Options that change the bytes of the image.
    pub options: std::collections::BTreeMap<String, String>,
    /// Name and version of the builder.
    pub tool: String,
}

/// Where the tree came from. Host paths are left out: they would make equal images differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `oci`, `docker`, `tar` or `dir`.
    pub kind: String,
    /// Tag or name inside the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of the image manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Digest of the image configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
}

/// One layer of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the blob as it was read.
    pub digest: String,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Digest of this and all lower layers, as the OCI image specification has it.
    pub chain_id: String,
    /// Media type of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

impl Statement {
    /// The bytes that are stored.
    ///
    /// # Panics
    /// Never: every value of a statement has a JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A map of serde_json keeps its keys sorted, which makes the form canonical.
        serde_json::to_value(self).map(|value| value.to_string().into_bytes()).unwrap_or_default()
    }

    /// Reads the stored form and insists on it being canonical.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn from_json(bytes: &[u8]) -> std::result::Result<Self, String> {
        let statement: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if statement.format != VERSION {
            return Err(format!("format is {}, must be {VERSION}", statement.format));
        }
        if statement.to_json() != bytes {
            return Err("not in canonical form".to_owned());
        }
        Ok(statement)
    }
}

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

/// The seal of an image.
#[derive(Debug)]
pub struct Seal<R> {
    io: R,
    table: Table,
}

impl<R: ReadAt> Seal<R> {
    /// Reads the table.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn open(io: R, header: &Header) -> Result<Self> {
        let table = Table::read(&io, header)?;
        Ok(Self { io, table })
    }

    /// The table of sections.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Bytes of a document section; `None` when it is empty.
    ///
    /// # Errors
    /// [`Error::Io`], or a document of more than [`DOCUMENT_MAX`] bytes.
    pub fn document(&self, section: Section) -> Result<Option<Vec<u8>>> {
        let place = self.table.place(section);
        if place.length == 0 {
            return Ok(None);
        }
        if place.length > DOCUMENT_MAX {
            return Err(Error::field(
                Part::Seal,
                place.offset,
                "document length",
                place.length,
                "at most 4 MiB",
            ));
        }
        let mut bytes = vec![0; usize::try_from(place.length).unwrap_or(0)];
        self.read(&mut bytes, place.offset)?;
        Ok(Some(bytes))
    }

    /// The statement.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is missing or not canonical.
    pub fn statement(&self) -> Result<Statement> {
        let offset = self.table.place(Section::Statement).offset;
        let wrong =
            |why: String| Error::corrupt(Part::Seal, offset, Problem::Document(format!("statement: {why}")));
        let bytes = self.document(Section::Statement)?.ok_or_else(|| wrong("missing".to_owned()))?;
        Statement::from_json(&bytes).map_err(wrong)
    }

    /// The distinct contents.
    #[must_use]
    pub fn contents(&self) -> Records<'_, R, Content> {
        self.records(Section::Contents)
    }

    /// The inodes, ascending by nid.
    #[must_use]
    pub fn inodes(&self) -> Records<'_, R, InodeRecord> {
        self.records(Section::Inodes)
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> Records<'_, R, LayerRecord> {
        self.records(Section::Layers)
    }

    /// The deleted files, in order of deletion.
    #[must_use]
    pub fn deleted(&self) -> Records<'_, R, DeletedRecord> {
        self.records(Section::Deleted)
    }

    /// Path of a deleted file.
    ///
    /// # Errors
    /// A path outside its section or longer than [`crate::erofs::PATH_MAX`].
    pub fn deleted_path(&self, record: &DeletedRecord) -> Result<Vec<u8>> {
        let place = self.table.place(Section::Paths);
        let length = u64::from(record.path_len.get());
        let start = record.path_offset.get();
        let inside = start.checked_add(length).is_some_and(|end| end <= place.length);
        if !inside || length > 4096 {
            let problem = Problem::OutOfBounds { start, length, limit: place.length };
            return Err(Error::corrupt(Part::Seal, place.offset, problem));
        }
        let mut path = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(&mut path, place.offset.saturating_add(start))?;
        Ok(path)
    }

    /// Finds the record of an inode by binary search.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn inode_record(&self, nid: u64) -> Result<Option<InodeRecord>> {
        let records = self.inodes();
        let (mut low, mut high) = (0, records.len());
        while low < high {
            let middle = low.midpoint(high);
            let Some(record) = records.get(middle)? else { return Ok(None) };
            match record.nid.get().cmp(&nid) {
                std::cmp::Ordering::Equal => return Ok(Some(record)),
                std::cmp::Ordering::Less => low = middle.saturating_add(1),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    fn records<T>(&self, section: Section) -> Records<'_, R, T> {
        Records {
            io: &self.io,
            place: self.table.place(section),
            next: 0,
            window: Vec::new(),
            kind: std::marker::PhantomData,
        }
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.io.read_exact_at(buf, offset).map_err(|source| Error::Io { part: Part::Seal, offset, source })
    }
}

/// Records of one section, read a block's worth at a time.
pub struct Records<'a, R, T> {
    io: &'a R,
    place: Place,
    next: u64,
    window: Vec<T>,
    kind: std::marker::PhantomData<T>,
}

impl<R: ReadAt, T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy> Records<'_, R, T> {
    /// Number of records.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.place.records()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Record `index`; `None` behind the last.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn get(&self, index: u64) -> Result<Option<T>> {
        if index >= self.len() {
            return Ok(None);
        }
        Ok(self.fetch(index, 1)?.first().copied())
    }

    fn fetch(&self, index: u64, count: u64) -> Result<Vec<T>> {
        let unit = self.place.section.record_len();
        let offset = self.place.offset.saturating_add(index.saturating_mul(unit));
        let count = count.min(self.len().saturating_sub(index));
        let mut bytes = vec![0; usize::try_from(count.saturating_mul(unit)).unwrap_or(0)];
        let io = |source| Error::Io { part: Part::Seal, offset, source };
        self.io.read_exact_at(&mut bytes, offset).map_err(io)?;
        let step = usize::try_from(unit).unwrap_or(1);
        Ok(bytes.chunks_exact(step).filter_map(|record| T::read_from_bytes(record).ok()).collect())
    }
}

impl<R: ReadAt, T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy> Iterator
    for Records<'_, R, T>
{
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.window.is_empty() {
            if self.next >= self.len() {
                return None;
            }
            match self.fetch(self.next, 256) {
                Ok(records) if records.is_empty() => return None,
                Ok(mut records) => {
                    self.next = self.next.saturating_add(u64::try_from(records.len()).unwrap_or(u64::MAX));
                    records.reverse();
                    self.window = records;
                }
                Err(error) => {
                    self.next = self.len();
                    return Some(Err(error));
                }
            }
        }
        self.window.pop().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            format: 1,
            name: Some("demo".to_owned()),
            epoch: 3,
            source: Source {
                kind: "oci".to_owned(),
                reference: None,
                manifest_digest: Some("sha256:00".to_owned()),
                config_digest: None,
            },
            layers: Vec::new(),
            options: std::iter::once(("compress".to_owned(), "none".to_owned())).collect(),
            tool: "mkimg 0.1.0".to_owned(),
        }
    }

    #[test]
    fn statement_has_one_form() {
        let json = statement().to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"epoch":3,"format":1,"layers":[],"name":"demo","options":{"compress":"none"},"source":{"kind":"oci","manifest_digest":"sha256:00"},"tool":"mkimg 0.1.0"}"#
        );
        assert_eq!(Statement::from_json(&json).unwrap(), statement());
        let mut spaced = json.clone();
        spaced.push(b' ');
        assert!(Statement::from_json(&spaced).unwrap_err().contains("canonical"));
        let twice = String::from_utf8(json).unwrap().replace("\"epoch\":3", "\"epoch\":4,\"epoch\":3");
        assert!(Statement::from_json(twice.as_bytes()).is_err());
    }

    /// Statement of 5 bytes, two inodes, everything else empty, behind a table in block 2.
    fn image() -> (Header, Vec<u8>) {
        let table = Table::plan(2, |section| match section {
            Section::Statement => 5,
            Section::Inodes => 32,
            _ => 0,
        });
        let header = Header {
            data_blocks: table.end_block(),
            meta_block: 1,
            seal_block: 2,
            fec_blocks: 0,
            fec_roots: 0,
        };
        assert_eq!(header.data_blocks, 5);
        let mut bytes = vec![0; 5 * BLOCK_LEN];
        bytes[2 * BLOCK_LEN..3 * BLOCK_LEN].copy_from_slice(&table.to_block()[..]);
        for (at, nid) in [(0, 1_u64), (16, 9)] {
            let record = InodeRecord { nid: nid.into(), layer: 0.into(), content: NONE.into() };
            let at = 4 * BLOCK_LEN + at;
            bytes[at..at + 16].copy_from_slice(record.as_bytes());
        }
        (header, bytes)
    }

    #[test]
    fn records_are_found() {
        let (header, bytes) = image();
        let seal = Seal::open(bytes, &header).unwrap();
        assert_eq!(seal.inodes().count(), 2);
        assert_eq!(seal.inode_record(9).unwrap().unwrap().nid.get(), 9);
        assert!(seal.inode_record(5).unwrap().is_none());
        assert!(seal.document(Section::Manifest).unwrap().is_none());
    }

    #[test]
    fn a_table_has_one_form() {
        let (header, good) = image();
        for at in 2 * BLOCK_LEN..3 * BLOCK_LEN {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            // A length may change inside its last block without moving a section; nothing else may.
            let inside_its_block = [32, 33, 161].contains(&(at - 2 * BLOCK_LEN));
            assert_eq!(Table::read(&bytes, &header).is_ok(), inside_its_block, "byte {at}");
        }
    }
}
