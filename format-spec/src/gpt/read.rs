//! Reading both copies of a table.

use std::ops::Range;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    ENTRIES_MAX, ENTRY_LEN, Guid, MAGIC, Partition, REVISION, RawEntry, RawHeader, Sector, Table,
    entry_offset,
};
use crate::{Error, Part, Problem, ReadAt, Result};

/// Both copies of the table of one disk.
#[derive(Debug)]
pub struct Copies {
    /// Bytes of a sector.
    pub sector: Sector,
    /// The copy behind the first sector.
    pub primary: Result<Table>,
    /// The copy at the end.
    pub backup: Result<Table>,
}

/// The sector size of a disk, by the first header that can be read and begins as one: primary ones come first.
fn sector_size(io: &(impl ReadAt + ?Sized), size: u64) -> Option<Sector> {
    let sizes = [Sector::Of512, Sector::Of4096];
    let primary = sizes.map(|sector| (sector, sector.bytes()));
    let backup = sizes.map(|sector| (sector, sector.last(size)));
    let begins = |offset| {
        let mut magic = [0; MAGIC.len()];
        io.read_exact_at(&mut magic, offset).is_ok() && magic == MAGIC
    };
    primary.into_iter().chain(backup).find_map(|(sector, offset)| begins(offset).then_some(sector))
}

impl Copies {
    /// Reads both copies; `None` if there is no sign of any.
    ///
    /// # Errors
    /// [`Error::Io`]. What is wrong with a copy is in its place.
    pub fn read(io: &(impl ReadAt + ?Sized)) -> Result<Option<Self>> {
        let size = io.size().map_err(|source| unreadable(0, source))?;
        let Some(sector) = sector_size(io, size) else { return Ok(None) };
        let last = sector.last(size);
        let primary = Copy { io, sector, size, at: sector.bytes() }.read();
        // Where the disk was made longer, only the primary knows where the other is.
        let at = primary.as_ref().map_or(last, |table| sector.last(table.size));
        let backup = Copy { io, sector, size, at }.read();
        Ok(Some(Self { sector, primary, backup }))
    }
}

fn unreadable(offset: u64, source: std::io::Error) -> Error {
    Error::Io { part: Part::PartitionTable, offset, source }
}

fn disagree(offset: u64, what: String) -> Error {
    Error::corrupt(Part::PartitionTable, offset, Problem::Disagree(what))
}

/// One copy that is going to be read.
struct Copy<'a, R: ?Sized> {
    io: &'a R,
    sector: Sector,
    /// Length of the disk in bytes.
    size: u64,
    /// Byte offset of the header.
    at: u64,
}

impl<R: ReadAt + ?Sized> Copy<'_, R> {
    fn is_primary(&self) -> bool {
        self.at == self.sector.bytes()
    }

    /// A field of the header that breaks a rule.
    fn field(&self, at: u64, name: &'static str, found: u64, rule: &'static str) -> Error {
        Error::field(Part::PartitionTable, self.at.saturating_add(at), name, found, rule)
    }

    fn checksum(&self, at: u64, found: u32, computed: u32) -> Result<()> {
        let problem = Problem::Checksum { found, computed };
        let wrong = || Error::corrupt(Part::PartitionTable, self.at.saturating_add(at), problem);
        if found == computed { Ok(()) } else { Err(wrong()) }
    }

    fn read(&self) -> Result<Table> {
        let raw = self.header()?;
        let array_at = self.sector.offset(raw.entries_lba.get());
        let count = usize::try_from(raw.entry_count.get()).unwrap_or_default();
        let mut array = vec![0; count.saturating_mul(ENTRY_LEN)];
        self.io.read_exact_at(&mut array, array_at).map_err(|source| unreadable(array_at, source))?;
        self.checksum(88, raw.entries_crc32.get(), crc32fast::hash(&array))?;
        let end = raw.last_usable_lba.get().saturating_add(1);
        let usable = self.sector.offset(raw.first_usable_lba.get())..self.sector.offset(end);
        let partitions = self.partitions(&array, array_at, &usable)?;
        let backup = if self.is_primary() { raw.alternate_lba } else { raw.my_lba };
        Ok(Table {
            disk: Guid::from_disk(raw.disk_guid),
            sector: self.sector,
            size: self.sector.offset(backup.get().saturating_add(1)),
            array: array_at,
            usable,
            entries: raw.entry_count.get(),
            partitions,
        })
    }

    /// A header whose fields keep all rules.
    fn header(&self) -> Result<RawHeader> {
        let mut sector = self.sector.zeros();
        self.io.read_exact_at(&mut sector, self.at).map_err(|source| unreadable(self.at, source))?;
        let magic = || Error::corrupt(Part::PartitionTable, self.at, Problem::Magic);
        let (raw, rest) = RawHeader::read_from_prefix(&sector).map_err(|_| magic())?;
        if raw.signature != MAGIC {
            return Err(magic());
        }
        // A longer one is allowed, but nobody writes it, and what it adds nobody reads.
        if raw.header_size.get() != 92 {
            return Err(self.field(12, "header_size", raw.header_size.get().into(), "92"));
        }
        let unsigned = RawHeader { header_crc32: 0.into(), ..raw };
        self.checksum(16, raw.header_crc32.get(), crc32fast::hash(unsigned.as_bytes()))?;
        if raw.revision.get() != REVISION {
            return Err(self.field(8, "revision", raw.revision.get().into(), "1.0 (65536)"));
        }
        if raw.reserved.get() != 0 {
            return Err(self.field(20, "reserved", raw.reserved.get().into(), "0"));
        }
        if let Some((at, byte)) = (92_u64..).zip(rest).find(|(_, byte)| **byte != 0) {
            return Err(self.field(at, "a byte behind the header", (*byte).into(), "0"));
        }
        if raw.entry_size.get() != 128 {
            return Err(self.field(84, "entry_size", raw.entry_size.get().into(), "128"));
        }
        if !(1..=ENTRIES_MAX).contains(&raw.entry_count.get()) {
            return Err(self.field(80, "entry_count", raw.entry_count.get().into(), "from 1 to 1024"));
        }
        self.check_order(&raw)?;
        Ok(raw)
    }

    /// The order on a disk: header, array, partitions, array, header.
    fn check_order(&self, raw: &RawHeader) -> Result<()> {
        let lba = self.sector.at(self.at);
        if raw.my_lba.get() != lba {
            return Err(self.field(24, "my_lba", raw.my_lba.get(), "the sector that it is in"));
        }
        let alternate = raw.alternate_lba.get();
        if self.is_primary() && alternate > self.sector.at(self.size).saturating_sub(1) {
            let whole = self.sector.offset(alternate.saturating_add(1));
            let what = format!("the disk is truncated: it has {} bytes of {whole}", self.size);
            return Err(disagree(self.at.saturating_add(32), what));
        }
        if self.is_primary() && alternate <= 1 || !self.is_primary() && alternate != 1 {
            return Err(self.field(32, "alternate_lba", alternate, "that of the other header"));
        }
        let backup = if self.is_primary() { alternate } else { lba };
        let (first, last) = (raw.first_usable_lba.get(), raw.last_usable_lba.get());
        if first > last {
            return Err(self.field(40, "first_usable_lba", first, "at most last_usable_lba"));
        }
        if last >= backup {
            return Err(self.field(48, "last_usable_lba", last, "below the backup header"));
        }
        let start = raw.entries_lba.get();
        let sectors = u64::from(raw.entry_count.get()).saturating_mul(128).div_ceil(self.sector.bytes());
        let end = start.saturating_add(sectors);
        let fits = if self.is_primary() { start >= 2 && end <= first } else { start > last && end <= lba };
        if !fits {
            let rule = "such that the array is between header and partitions";
            return Err(self.field(72, "entries_lba", start, rule));
        }
        Ok(())
    }

    /// The partitions of an array at byte `array_at`.
    fn partitions(&self, array: &[u8], array_at: u64, usable: &Range<u64>) -> Result<Vec<Partition>> {
        let mut partitions: Vec<Partition> = Vec::new();
        for (number, bytes) in (1_u32..).zip(array.chunks_exact(ENTRY_LEN)) {
            let at = entry_offset(array_at, number);
            let Ok(raw) = RawEntry::read_from_bytes(bytes) else { continue };
            if raw.type_guid == [0; 16] {
                if bytes.iter().any(|byte| *byte != 0) {
                    return Err(disagree(at, format!("entry {number} has no type, but is not zero")));
                }
                continue;
            }
            let partition = self.partition(&raw, number, at, usable)?;
            if let Some(twin) = partitions.iter().find(|other| other.id == partition.id) {
                let what = format!("partitions {} and {number} have the same UUID", twin.number);
                return Err(disagree(at.saturating_add(16), what));
            }
            partitions.push(partition);
        }
        let mut places: Vec<&Partition> = partitions.iter().collect();
        places.sort_by_key(|partition| partition.bytes.start);
        for pair in places.windows(2) {
            if let [one, other] = pair
                && one.bytes.end > other.bytes.start
            {
                let what = format!(
                    "partition {} begins at {}, but partition {} ends at {}",
                    other.number, other.bytes.start, one.number, one.bytes.end
                );
                return Err(disagree(entry_offset(array_at, other.number), what));
            }
        }
        Ok(partitions)
    }

    /// The partition of an entry at byte `at`.
    fn partition(&self, raw: &RawEntry, number: u32, at: u64, usable: &Range<u64>) -> Result<Partition> {
        let (first, last) = (raw.first_lba.get(), raw.last_lba.get());
        if first > last {
            let at = at.saturating_add(40);
            return Err(Error::field(Part::PartitionTable, at, "last_lba", last, "at least first_lba"));
        }
        let bytes = self.sector.offset(first)..self.sector.offset(last.saturating_add(1));
        if bytes.start < usable.start || bytes.end > usable.end {
            let what = format!(
                "partition {number} is at {} .. {}, partitions may be at {} .. {}",
                bytes.start, bytes.end, usable.start, usable.end
            );
            return Err(disagree(at.saturating_add(32), what));
        }
        let id = Guid::from_disk(raw.unique_guid);
        if id == Guid::NIL {
            return Err(disagree(at.saturating_add(16), format!("UUID of partition {number} is zero")));
        }
        let units: Vec<u16> = raw.name.iter().map(|unit| unit.get()).collect();
        let mut parts = units.splitn(2, |unit| *unit == 0);
        let name = String::from_utf16(parts.next().unwrap_or_default());
        let is_padded = parts.next().is_none_or(|rest| rest.iter().all(|unit| *unit == 0));
        let Some(name) = name.ok().filter(|_| is_padded) else {
            let what = format!("name of partition {number} is no UTF-16 with zeros behind it");
            return Err(disagree(at.saturating_add(56), what));
        };
        let (kind, attributes) = (Guid::from_disk(raw.type_guid), raw.attributes.get());
        Ok(Partition { number, kind, id, bytes, attributes, name })
    }
}
