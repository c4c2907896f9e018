//! The bytes of a table.

use std::ops::Range;

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U16;

use super::mbr::protective_mbr;
use super::{ENTRIES, ENTRY_LEN, Guid, MAGIC, Partition, REVISION, RawEntry, RawHeader, Sector, Table};

impl Table {
    /// The table of a new disk with these partitions, of 512-byte sectors and at least so long that all has room.
    ///
    /// The length is a multiple of 4096, so that the disk is one of whole blocks, too.
    #[must_use]
    pub fn new(disk: Guid, partitions: Vec<Partition>) -> Self {
        let array = u64::from(ENTRIES).saturating_mul(128);
        let end = partitions.iter().map(|partition| partition.bytes.end).max().unwrap_or_default();
        let sector = Sector::Of512;
        let tail = array.saturating_add(sector.bytes());
        let size = end.saturating_add(tail).next_multiple_of(crate::BLOCK_SIZE);
        let usable = array.saturating_add(sector.offset(2))..size.saturating_sub(tail);
        let array = sector.offset(2);
        Self { disk, sector, size, array, usable, entries: ENTRIES, partitions }
    }

    /// Where array and header of the backup are.
    #[must_use]
    pub fn backup_bytes(&self) -> Range<u64> {
        self.size.saturating_sub(self.array_len()).saturating_sub(self.sector.bytes())..self.size
    }

    /// Where the first sector, header and array of the primary are.
    #[must_use]
    pub fn primary_bytes(&self) -> Range<u64> {
        0..self.sector.offset(2).saturating_add(self.array_len())
    }

    /// First sector, header and array: what a disk begins with.
    #[must_use]
    pub fn primary(&self) -> Vec<u8> {
        let mut bytes = protective_mbr(self.sectors()).to_vec();
        bytes.resize(self.sector.zeros().len(), 0);
        bytes.extend(self.header(1, self.last(), 2));
        bytes.extend(self.array());
        bytes
    }

    /// Array and header: what a disk ends with.
    #[must_use]
    pub fn backup(&self) -> Vec<u8> {
        let mut bytes = self.array();
        bytes.extend(self.header(self.last(), 1, self.sector.at(self.backup_bytes().start)));
        bytes
    }

    const fn last(&self) -> u64 {
        self.sectors().saturating_sub(1)
    }

    fn header(&self, my_lba: u64, alternate_lba: u64, entries_lba: u64) -> Vec<u8> {
        let used = usize::try_from(self.entries).unwrap_or_default().saturating_mul(ENTRY_LEN);
        let array = self.array();
        let mut raw = RawHeader {
            signature: MAGIC,
            revision: REVISION.into(),
            header_size: 92.into(),
            header_crc32: 0.into(),
            reserved: 0.into(),
            my_lba: my_lba.into(),
            alternate_lba: alternate_lba.into(),
            first_usable_lba: self.sector.at(self.usable.start).into(),
            last_usable_lba: self.sector.at(self.usable.end).saturating_sub(1).into(),
            disk_guid: self.disk.to_disk(),
            entries_lba: entries_lba.into(),
            entry_count: self.entries.into(),
            entry_size: 128.into(),
            entries_crc32: crc32fast::hash(array.get(..used).unwrap_or_default()).into(),
        };
        raw.header_crc32 = crc32fast::hash(raw.as_bytes()).into();
        let mut sector = raw.as_bytes().to_vec();
        sector.resize(self.sector.zeros().len(), 0);
        sector
    }

    fn array(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.array_len()).unwrap_or_default()];
        for partition in &self.partitions {
            let mut name = [U16::ZERO; 36];
            for (place, unit) in name.iter_mut().zip(partition.name.encode_utf16()) {
                *place = unit.into();
            }
            let raw = RawEntry {
                type_guid: partition.kind.to_disk(),
                unique_guid: partition.id.to_disk(),
                first_lba: self.sector.at(partition.bytes.start).into(),
                last_lba: self.sector.at(partition.bytes.end).saturating_sub(1).into(),
                attributes: partition.attributes.into(),
                name,
            };
            let index = usize::try_from(partition.number.saturating_sub(1)).unwrap_or(usize::MAX);
            if let Some(place) = bytes.chunks_exact_mut(ENTRY_LEN).nth(index) {
                place.copy_from_slice(raw.as_bytes());
            }
        }
        bytes
    }
}
