//! GUID partition tables, as far as a disk image needs them.
//!
//! Source: UEFI specification 2.10, section 5. A table is there twice: behind the first sector and at the end of the
//! disk. Each copy is read by itself, and every rule of it is checked; which of them to take, and what it means that
//! one is broken, is for the caller. As Linux has it, entries are of 128 bytes and nothing else.

use std::fmt;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Error, Part, Problem, ReadAt, Result};

/// Size of the sectors that a table counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sector {
    /// 512 bytes, as disk images have them.
    Of512,
    /// 4096 bytes.
    Of4096,
}

impl Sector {
    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.bits()
    }

    const fn bits(self) -> u32 {
        match self {
            Self::Of512 => 9,
            Self::Of4096 => 12,
        }
    }

    /// The sector that a byte is in.
    const fn at(self, offset: u64) -> u64 {
        offset >> self.bits()
    }

    /// The first byte of a sector.
    const fn offset(self, lba: u64) -> u64 {
        lba.saturating_mul(self.bytes())
    }

    /// Byte offset of the last whole sector of `size` bytes.
    const fn last(self, size: u64) -> u64 {
        self.offset(self.at(size).saturating_sub(1))
    }

    fn zeros(self) -> Vec<u8> {
        vec![0; if self == Self::Of512 { 512 } else { 4096 }]
    }
}

const MAGIC: [u8; 8] = *b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_LEN: usize = 92;
const ENTRY_LEN: usize = 128;

/// Entries that are written, used or not: the array is then of the 16 KiB that the specification asks for.
const ENTRIES: u32 = 128;

/// Most entries that are read, so that a table takes at most 128 KiB of memory.
const ENTRIES_MAX: u32 = 1024;

/// Attribute of a partition that is not to be written.
pub const READ_ONLY: u64 = 1 << 60;

/// Attribute of a partition that systemd does not look at.
pub const NO_AUTO: u64 = 1 << 63;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,

    header_crc32: U32,
    reserved: U32,
    my_lba: U64,

    alternate_lba: U64,
    first_usable_lba: U64,

    last_usable_lba: U64,
    disk_guid_low: [u8; 8],

    disk_guid_high: [u8; 8],
    entries_lba: U64,

    entry_count: U32,
    entry_size: U32,
    entries_crc32: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    type_guid: [u8; 16],

    unique_guid: [u8; 16],

    first_lba: U64,
    last_lba: U64,

    attributes: U64,
    name: [U16; 36],
}

const _: () = assert!(size_of::<RawEntry>() == ENTRY_LEN);

/// A GUID, its bytes in the order in which its digits are written. On disk the first three groups are reversed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID of an entry that is not used.
    pub const NIL: Self = Self([0; 16]);

    /// The GUID with these digits.
    #[must_use]
    pub const fn new(digits: u128) -> Self {
        Self(digits.to_be_bytes())
    }

    /// The GUID with these bytes, in the order of its digits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    const fn swap([a, b, c, d, e, f, g, h, rest @ ..]: [u8; 16]) -> [u8; 16] {
        let [i, j, k, l, m, n, o, p] = rest;
        [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
    }

    const fn from_disk(bytes: [u8; 16]) -> Self {
        Self(Self::swap(bytes))
    }

    const fn to_disk(self) -> [u8; 16] {
        Self::swap(self.0)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(out, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number: its place in the table, from 1 on.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Which one it is.
    pub id: Guid,
    /// Where it is on the disk, in bytes.
    pub bytes: Range<u64>,
    /// [`READ_ONLY`], [`NO_AUTO`] and others.
    pub attributes: u64,
    /// Its name for people, at most 36 units of UTF-16.
    pub name: String,
}

impl Partition {
    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.bytes.end.saturating_sub(self.bytes.start)
    }
}

/// What both copies of a table say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which disk it is.
    pub disk: Guid,
    /// Bytes of a sector.
    pub sector: Sector,
    /// Length of the disk in bytes: the end of the backup header.
    pub size: u64,
    /// Byte offset of the array of entries.
    pub array: u64,
    /// Bytes in which partitions may be.
    pub usable: Range<u64>,
    /// Number of entries, used or not.
    pub entries: u32,
    /// The partitions, ascending by number.
    pub partitions: Vec<Partition>,
}

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
    fn read(&self) -> Result<Table> {
        let part = Part::PartitionTable;
        let is_primary = self.at == self.sector.bytes();
        let mut sector = self.sector.zeros();
        self.io.read_exact_at(&mut sector, self.at).map_err(|source| unreadable(self.at, source))?;
        let (raw, rest) = RawHeader::read_from_prefix(&sector)
            .map_err(|_| Error::corrupt(part, self.at, Problem::Magic))?;
        if raw.signature != MAGIC {
            return Err(Error::corrupt(part, self.at, Problem::Magic));
        }
        let field = |at: u64, name, found, rule| {
            Err(Error::field(part, self.at.saturating_add(at), name, found, rule))
        };
        // Others are allowed, but nobody writes them, and what they add nobody reads.
        if raw.header_size.get() != 92 {
            return field(12, "header_size", raw.header_size.get().into(), "92");
        }
        let unsigned = RawHeader { header_crc32: 0.into(), ..raw };
        let computed = crc32fast::hash(unsigned.as_bytes());
        let found = raw.header_crc32.get();
        if found != computed {
            return Err(Error::corrupt(
                part,
                self.at.saturating_add(16),
                Problem::Checksum { found, computed },
            ));
        }
        if raw.revision.get() != REVISION {
            return field(8, "revision", raw.revision.get().into(), "1.0 (65536)");
        }
        if raw.reserved.get() != 0 {
            return field(20, "reserved", raw.reserved.get().into(), "0");
        }
        if let Some((at, byte)) = (92_u64..).zip(rest).find(|(_, byte)| **byte != 0) {
            return field(at, "a byte behind the header", (*byte).into(), "0");
        }
        let last = self.sector.at(self.size).saturating_sub(1);
        let lba = self.sector.at(self.at);
        if raw.my_lba.get() != lba {
            return field(24, "my_lba", raw.my_lba.get(), "the sector that it is in");
        }
        let alternate = raw.alternate_lba.get();
        if is_primary && alternate > last {
            let whole = self.sector.offset(alternate.saturating_add(1));
            let what = format!("the disk is truncated: it has {} bytes of {whole}", self.size);
            return Err(disagree(self.at.saturating_add(32), what));
        }
        if is_primary && alternate <= 1 || !is_primary && alternate != 1 {
            return field(32, "alternate_lba", alternate, "that of the other header");
        }
        let (count, size) = (raw.entry_count.get(), raw.entry_size.get());
        if size != 128 {
            return field(84, "entry_size", size.into(), "128");
        }
        if !(1..=ENTRIES_MAX).contains(&count) {
            return field(80, "entry_count", count.into(), "from 1 to 1024");
        }
        // The order on the disk is: header, array, partitions; array, header.
        let (first, end) = (raw.first_usable_lba.get(), raw.last_usable_lba.get().saturating_add(1));
        let array_sectors = u64::from(count).saturating_mul(128).div_ceil(self.sector.bytes());
        let array = raw.entries_lba.get();
        let array_end = array.saturating_add(array_sectors);
        let backup = if is_primary { alternate } else { lba };
        if first >= end {
            return field(40, "first_usable_lba", first, "at most last_usable_lba");
        }
        if end > backup {
            return field(48, "last_usable_lba", end.saturating_sub(1), "below the backup header");
        }
        let fits =
            if is_primary { array >= 2 && array_end <= first } else { array >= end && array_end <= lba };
        if !fits {
            let rule = "such that the array is between header and partitions";
            return field(72, "entries_lba", array, rule);
        }
        let array_at = self.sector.offset(array);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default().saturating_mul(ENTRY_LEN)];
        self.io.read_exact_at(&mut bytes, array_at).map_err(|source| unreadable(array_at, source))?;
        let (found, computed) = (raw.entries_crc32.get(), crc32fast::hash(&bytes));
        if found != computed {
            return Err(Error::corrupt(
                part,
                self.at.saturating_add(88),
                Problem::Checksum { found, computed },
            ));
        }
        let mut disk = [0; 16];
        disk[..8].copy_from_slice(&raw.disk_guid_low);
        disk[8..].copy_from_slice(&raw.disk_guid_high);
        let usable = self.sector.offset(first)..self.sector.offset(end);
        let partitions = self.partitions(&bytes, array_at, &usable)?;
        Ok(Table {
            disk: Guid::from_disk(disk),
            sector: self.sector,
            size: self.sector.offset(backup.saturating_add(1)),
            array: array_at,
            usable,
            entries: count,
            partitions,
        })
    }

    fn partitions(&self, array: &[u8], array_at: u64, usable: &Range<u64>) -> Result<Vec<Partition>> {
        let part = Part::PartitionTable;
        let mut partitions: Vec<Partition> = Vec::new();
        for (number, bytes) in (1_u32..).zip(array.chunks_exact(ENTRY_LEN)) {
            let at = array_at.saturating_add(u64::from(number.saturating_sub(1)).saturating_mul(128));
            let Ok(raw) = RawEntry::read_from_bytes(bytes) else { continue };
            if Guid::from_disk(raw.type_guid) == Guid::NIL {
                if bytes.iter().any(|byte| *byte != 0) {
                    return Err(disagree(at, format!("entry {number} has no type, but is not zero")));
                }
                continue;
            }
            let (first, last) = (raw.first_lba.get(), raw.last_lba.get());
            if first > last {
                let rule = "at least first_lba";
                return Err(Error::field(part, at.saturating_add(40), "last_lba", last, rule));
            }
            let start = self.sector.offset(first);
            let end = self.sector.offset(last.saturating_add(1));
            if start < usable.start || end > usable.end {
                let what = format!(
                    "partition {number} is at {start} .. {end}, outside of {} .. {}, where partitions may be",
                    usable.start, usable.end
                );
                return Err(disagree(at.saturating_add(32), what));
            }
            let units: Vec<u16> = raw.name.iter().map(|unit| unit.get()).collect();
            let mut parts = units.splitn(2, |unit| *unit == 0);
            let name = String::from_utf16(parts.next().unwrap_or_default());
            let is_padded = parts.next().is_none_or(|rest| rest.iter().all(|unit| *unit == 0));
            let Some(name) = name.ok().filter(|_| is_padded) else {
                let what = format!("name of partition {number} is no UTF-16 with zeros behind it");
                return Err(disagree(at.saturating_add(56), what));
            };
            let id = Guid::from_disk(raw.unique_guid);
            if id == Guid::NIL {
                return Err(disagree(at.saturating_add(16), format!("UUID of partition {number} is zero")));
            }
            if let Some(twin) = partitions.iter().find(|other| other.id == id) {
                let what = format!("partitions {} and {number} have the same UUID", twin.number);
                return Err(disagree(at.saturating_add(16), what));
            }
            let kind = Guid::from_disk(raw.type_guid);
            let attributes = raw.attributes.get();
            partitions.push(Partition { number, kind, id, bytes: start..end, attributes, name });
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
                return Err(disagree(array_at, what));
            }
        }
        Ok(partitions)
    }
}

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

    /// Byte offset of the entry of a partition.
    #[must_use]
    pub const fn entry(&self, number: u32) -> u64 {
        self.array.saturating_add((number.saturating_sub(1) as u64).saturating_mul(128))
    }

    /// Length of the disk in sectors.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sector.at(self.size)
    }

    /// Bytes of the array of entries, in whole sectors.
    pub(crate) fn array_len(&self) -> u64 {
        u64::from(self.entries).saturating_mul(128).next_multiple_of(self.sector.bytes())
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
        let guid = self.disk.to_disk();
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&guid[..8]);
        high.copy_from_slice(&guid[8..]);
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
            disk_guid_low: low,
            disk_guid_high: high,
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

/// Length of a protective MBR in bytes; with larger sectors zeros follow.
pub const MBR_LEN: usize = 512;

/// The first bytes of a disk of so many sectors: to a program that knows no GPT it is full.
#[must_use]
pub fn protective_mbr(sectors: u64) -> [u8; MBR_LEN] {
    let mut mbr = [0; MBR_LEN];
    let length = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    // Not bootable, from cylinder 0, head 0, sector 2 on; type; to where no address reaches; from sector 1 on.
    mbr[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&length.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

/// Checks the first bytes of a disk of so many sectors: nothing but the one record that covers all of it.
///
/// Another partition table would be another disk to whoever reads that one, and boot code is none of an image. In which
/// cylinder the disk ends programs put in different words, and nobody reads it.
///
/// # Errors
/// [`Error::Corrupt`] with what breaks a rule.
pub fn check_protective_mbr(found: &[u8; MBR_LEN], sectors: u64) -> Result<()> {
    let expected = protective_mbr(sectors);
    let differs = |range: Range<usize>| {
        let start = range.start;
        let pairs =
            found.get(range.clone()).unwrap_or_default().iter().zip(expected.get(range).unwrap_or_default());
        pairs
            .enumerate()
            .find(|(_, (found, expected))| found != expected)
            .map(|(at, _)| start.saturating_add(at))
    };
    for (range, what) in [
        (510..512, "has no signature 55aa"),
        (450..451, "first record is not of type ee, which protects the disk"),
        (446..447, "first record is bootable"),
        (454..458, "first record does not begin with sector 1"),
        (458..462, "first record is not as long as the disk"),
        (0..446, "bytes in front of the records are not zero"),
        (462..510, "there are more records than the one that protects the disk"),
    ] {
        if let Some(at) = differs(range) {
            let at = u64::try_from(at).unwrap_or_default();
            return Err(Error::corrupt(Part::ProtectiveMbr, at, Problem::Disagree(what.to_owned())));
        }
    }
    Ok(())
}
