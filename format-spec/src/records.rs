//! The record area of the trailer: signatures, which cannot be in the protected area that they sign.
//!
//! A set of records has one form: ascending by their bytes, none twice, zeros behind the last. What a record of a kind
//! holds is read by `mkimg-sign`; here it is bytes.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the record area.
pub const AREA_LEN: usize = 3964;

/// Bytes in front of what a record holds.
const HEAD_LEN: usize = 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHead {
    kind: U16,
    length: U16,
}

const _: () = assert!(size_of::<RawHead>() == HEAD_LEN);

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A signature over everything that the trailer and the statement say.
    Signature = 1,
    /// A detached PKCS#7 signature over the root hash, as Linux and systemd take it.
    Pkcs7 = 2,
}

impl Kind {
    const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Signature),
            2 => Some(Self::Pkcs7),
            _ => None,
        }
    }

    const fn number(self) -> u16 {
        self as u16
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// What it holds, at least one byte.
    pub content: Vec<u8>,
}

/// The records of a trailer, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records(Vec<Record>);

impl Records {
    /// Puts records into their order.
    ///
    /// `None` when they do not fit into the record area, or when one of them is empty.
    #[must_use]
    pub fn new(mut records: Vec<Record>) -> Option<Self> {
        records.sort();
        records.dedup();
        let empty = records.iter().any(|record| record.content.is_empty());
        let records = Self(records);
        (!empty && records.length() <= AREA_LEN).then_some(records)
    }

    /// The records, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.0.iter()
    }

    /// Bytes in use.
    #[must_use]
    pub fn length(&self) -> usize {
        let lengths = self.0.iter().map(|record| record.content.len().saturating_add(HEAD_LEN));
        lengths.fold(0, usize::saturating_add)
    }

    /// The bytes of the record area.
    pub(crate) fn to_area(&self) -> [u8; AREA_LEN] {
        let mut area = [0; AREA_LEN];
        let mut rest = area.as_mut_slice();
        for record in &self.0 {
            // Both fit: a set that is larger than the area cannot be made.
            let Ok(length) = u16::try_from(record.content.len()) else { break };
            let head = RawHead { kind: record.kind.number().into(), length: length.into() };
            let Some((place, behind)) = rest.split_at_mut_checked(HEAD_LEN) else { break };
            place.copy_from_slice(head.as_bytes());
            let Some((place, behind)) = behind.split_at_mut_checked(record.content.len()) else { break };
            place.copy_from_slice(&record.content);
            rest = behind;
        }
        area
    }

    /// Reads the records in `area`, of which `length` bytes are in use. Order and zeros are for the caller to compare.
    ///
    /// # Errors
    /// The offset in the area and the rule that is broken there.
    pub(crate) fn from_area(area: &[u8; AREA_LEN], length: u32) -> Result<Self, (usize, &'static str)> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut rest = area.get(..length).ok_or((0, "records within the record area"))?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let at = length.saturating_sub(rest.len());
            let (head, behind) = RawHead::read_from_prefix(rest).map_err(|_| (at, "whole records"))?;
            let kind = Kind::from_number(head.kind.get()).ok_or((at, "records of a known kind"))?;
            let content = behind.get(..usize::from(head.length.get())).ok_or((at, "whole records"))?;
            rest = behind.get(content.len()..).unwrap_or_default();
            records.push(Record { kind, content: content.to_vec() });
        }
        Self::new(records).ok_or((0, "records that hold something"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, content: &[u8]) -> Record {
        Record { kind, content: content.to_vec() }
    }

    #[test]
    fn have_one_order() {
        let (a, b, c) =
            (record(Kind::Signature, b"a"), record(Kind::Signature, b"b"), record(Kind::Pkcs7, b"a"));
        let records = Records::new(vec![c.clone(), b.clone(), a.clone(), b.clone()]).unwrap();
        assert_eq!(records.iter().collect::<Vec<_>>(), [&a, &b, &c]);
        assert_eq!(records.length(), 15);
        let area = records.to_area();
        assert_eq!(area[..15], *b"\x01\0\x01\0a\x01\0\x01\0b\x02\0\x01\0a");
        assert_eq!(Records::from_area(&area, 15), Ok(records));
    }

    #[test]
    fn fill_the_area_and_no_more() {
        let full = Records::new(vec![record(Kind::Pkcs7, &[7; AREA_LEN - HEAD_LEN])]).unwrap();
        assert_eq!(full.length(), AREA_LEN);
        assert_eq!(Records::from_area(&full.to_area(), 3964), Ok(full));
        assert_eq!(Records::new(vec![record(Kind::Pkcs7, &[7; AREA_LEN - HEAD_LEN + 1])]), None);
        assert_eq!(Records::new(vec![record(Kind::Pkcs7, &[])]), None);
    }

    #[test]
    fn what_is_no_set_of_records_is_refused() {
        let area = |bytes: &[u8]| {
            let mut area = [0; AREA_LEN];
            area[..bytes.len()].copy_from_slice(bytes);
            area
        };
        for (bytes, length, expected) in [
            (&b"\x01\0\x01\0a"[..], 3965, (0, "records within the record area")),
            (b"\x01\0\x01\0a", u32::MAX, (0, "records within the record area")),
            (b"\x01\0\x01\0a\x02\0", 7, (5, "whole records")),
            (b"\x01\0\x02\0a", 5, (0, "whole records")),
            (b"\x01\0\x01\0a\x03\0\x01\0a", 10, (5, "records of a known kind")),
            (b"\0\0\x01\0a", 5, (0, "records of a known kind")),
            (b"\x01\0\0\0", 4, (0, "records that hold something")),
        ] {
            assert_eq!(Records::from_area(&area(bytes), length), Err(expected), "{bytes:?}");
        }
    }
}
