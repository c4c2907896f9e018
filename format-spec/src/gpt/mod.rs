//! GUID partition tables, as far as a disk image needs them.
//!
//! Source: UEFI specification 2.10, section 5. A table is there twice: behind the first sector and at the end of the
//! disk. Each copy is read by itself, and every rule of it is checked; which of them to take, and what it means that
//! one is broken, is for the caller. As Linux has it, entries are of 128 bytes and nothing else.

use std::fmt;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub mod mbr;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::Copies;

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
    // From the middle of this line to that of the next.
    disk_guid: [u8; 16],
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

    /// Whether it is of version 8 (RFC 9562): as mkimg derives them, and no chance makes them.
    #[must_use]
    pub const fn is_derived(&self) -> bool {
        self.0[6] >> 4 == 8
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

/// Byte offset of entry `number` in the array at byte `array`.
const fn entry_offset(array: u64, number: u32) -> u64 {
    array.saturating_add((number.saturating_sub(1) as u64).saturating_mul(128))
}

impl Table {
    /// Byte offset of the entry of a partition.
    #[must_use]
    pub const fn entry(&self, number: u32) -> u64 {
        entry_offset(self.array, number)
    }

    /// Length of the disk in sectors.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sector.at(self.size)
    }

    /// Bytes of the entries.
    pub(crate) fn entries_len(&self) -> u64 {
        u64::from(self.entries).saturating_mul(128)
    }

    /// Bytes of the array of entries, in whole sectors.
    pub(crate) fn array_len(&self) -> u64 {
        self.entries_len().next_multiple_of(self.sector.bytes())
    }
}
