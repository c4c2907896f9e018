//! The seal: what was shipped, recorded inside the protected area.
//!
//! A table in the seal's first block names the sections. Fixed-size records make every section readable at any
//! position with constant memory, and a writer can place them before it knows the digests.

mod hot;
mod records;
mod statement;
mod table;

pub use records::{Content, DeletedRecord, InodeRecord, LayerRecord, Records};
pub use statement::{Layer, Source, Statement};
pub use table::{Place, Section, Table};

use crate::header::Header;
use crate::{Error, Part, Problem, ReadAt, Result};

/// First bytes of the section table.
pub const MAGIC: [u8; 8] = *b"mkimgSEL";

/// Largest JSON document (statement, manifest, config) in bytes.
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// "Nothing" in `layer` and `content` fields.
pub const NONE: u32 = u32::MAX;

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

    /// The architecture that the OCI configuration names; `None` without a configuration.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Corrupt`] when the configuration is not JSON.
    pub fn architecture(&self) -> Result<Option<String>> {
        #[derive(serde::Deserialize)]
        struct Config {
            architecture: Option<String>,
        }
        let Some(bytes) = self.document(Section::Config)? else { return Ok(None) };
        let config: Config = serde_json::from_slice(&bytes).map_err(|error| {
            let problem = Problem::Document(format!("configuration: {error}"));
            Error::corrupt(Part::Seal, self.table.place(Section::Config).offset, problem)
        })?;
        Ok(config.architecture)
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
        Records::new(&self.io, self.table.place(section))
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.io.read_exact_at(buf, offset).map_err(|source| Error::Io { part: Part::Seal, offset, source })
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::BLOCK_LEN;

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
        for (start, count, expected) in
            [(0, 9, &[1, 9][..]), (0, 1, &[1]), (1, 1, &[9]), (2, 1, &[]), (u64::MAX, 2, &[])]
        {
            let records = seal.inodes().range(start, count).unwrap();
            let numbers: Vec<u64> = records.iter().map(|record| record.nid.get()).collect();
            assert_eq!(numbers, expected, "{count} from {start}");
        }
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
