//! Sparse maps: the old GNU form and the PAX forms 0.0, 0.1 and 1.0.
//!
//! A map lists the parts of a file that are stored; everything between them is a hole. All forms end in the same
//! checks: in order, no overlap, inside the file, and exactly as much as the archive holds. Stored parts follow
//! each other without padding. (GNU tar starts each part at a block and so disagrees with all other readers where a
//! part in the middle does not fill its last block; it never writes such maps itself.)

use super::fault::{Fault, SparseFault};
use super::header::{BLOCK, MAX_SIZE, number as field_number};
use super::pax;
use super::{Limits, Segment};

/// `GNU.sparse.*` records of one extended header.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    realsize: Option<u64>,
    numblocks: Option<u64>,
    /// Form 0.1: offsets and lengths by turns.
    map: Option<Vec<u64>>,
    /// Form 0.0: the same, from one record each.
    list: Vec<u64>,
}

/// Where the map of an entry is.
pub(super) enum Form {
    /// In the records themselves: offsets and lengths by turns.
    Listed(Vec<u64>),
    /// In front of the data.
    InData,
}

impl Records {
    /// Takes in the record `key` = `GNU.sparse.NAME`.
    pub(super) fn add(
        &mut self,
        key: &[u8],
        name: &[u8],
        value: &[u8],
        limits: &Limits,
    ) -> Result<(), Fault> {
        match name {
            b"major" => self.major = pax::number(key, value, MAX_SIZE)?,
            b"minor" => self.minor = pax::number(key, value, MAX_SIZE)?,
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = pax::number(key, value, MAX_SIZE)?,
            b"realsize" => self.realsize = pax::number(key, value, MAX_SIZE)?,
            b"numblocks" => self.numblocks = pax::number(key, value, MAX_SIZE)?,
            b"map" => self.map = listed(key, value, limits)?,
            b"offset" | b"numbytes" => {
                let turn = if self.list.len().is_multiple_of(2) { &b"offset"[..] } else { b"numbytes" };
                if name != turn {
                    return Err(SparseFault::Form("offset and numbytes do not take turns").into());
                }
                let number = pax::number(key, value, MAX_SIZE)?;
                self.list.push(number.ok_or_else(|| pax::bad(key, value, "not a number"))?);
                too_many(self.list.len() / 2, limits)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Is there any record at all?
    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.map.is_none()
            && self.list.is_empty()
            && [self.major, self.minor, self.size, self.realsize, self.numblocks].iter().all(Option::is_none)
    }

    /// The file's size and where its map is. Records that contradict each other are refused: readers differ in
    /// which one they believe.
    pub(super) fn form(self) -> Result<(u64, Form), Fault> {
        let size = match (self.size, self.realsize) {
            (Some(a), Some(b)) if a != b => return Err(SparseFault::Form("size and realsize differ").into()),
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return Err(SparseFault::Form("no file size").into()),
        };
        let in_records = self.map.is_some() || !self.list.is_empty() || self.numblocks.is_some();
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (1, 0) if in_records => Err(SparseFault::Form("version 1.0 with a map in the records").into()),
            (1, 0) => Ok((size, Form::InData)),
            (0, 0 | 1) if !in_records => Err(SparseFault::Form("no map").into()),
            (0, 0 | 1) => {
                let pairs = match (self.map, self.list.is_empty()) {
                    (Some(_), false) => return Err(SparseFault::Form("two maps").into()),
                    (Some(map), true) => map,
                    (None, _) => self.list,
                };
                if !pairs.len().is_multiple_of(2) {
                    return Err(SparseFault::Form("an offset without a length").into());
                }
                let found = count(pairs.len() / 2);
                match self.numblocks {
                    Some(announced) if announced != found => {
                        Err(SparseFault::Count { found, announced }.into())
                    }
                    _ => Ok((size, Form::Listed(pairs))),
                }
            }
            (major, minor) => Err(SparseFault::Version { major, minor }.into()),
        }
    }
}

fn listed(key: &[u8], value: &[u8], limits: &Limits) -> Result<Option<Vec<u64>>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    let mut numbers = Vec::new();
    for text in value.split(|&byte| byte == b',') {
        let number = pax::decimal(text).ok_or_else(|| pax::bad(key, value, "not a list of numbers"))?;
        numbers.push(number);
        too_many(numbers.len() / 2, limits)?;
    }
    Ok(Some(numbers))
}

fn too_many(entries: usize, limits: &Limits) -> Result<(), Fault> {
    if entries > limits.sparse_entries {
        return Err(SparseFault::TooMany(count(limits.sparse_entries)).into());
    }
    Ok(())
}

fn count(entries: usize) -> u64 {
    u64::try_from(entries).unwrap_or(u64::MAX)
}

/// A map under construction.
#[derive(Debug)]
pub(super) struct Map {
    size: u64,
    limit: usize,
    entries: usize,
    end: u64,
    mapped: u64,
    segments: Vec<Segment>,
}

impl Map {
    /// For a file of `size` bytes.
    pub(super) fn new(size: u64, limits: &Limits) -> Result<Self, Fault> {
        if size > limits.file_size {
            return Err(Fault::TooLong { what: "sparse file", len: size, limit: limits.file_size });
        }
        Ok(Self { size, limit: limits.sparse_entries, entries: 0, end: 0, mapped: 0, segments: Vec::new() })
    }

    /// Adds the next entry. Empty ones, which writers put at the end of a file, leave no segment; entries that
    /// touch become one.
    pub(super) fn push(&mut self, offset: u64, len: u64) -> Result<(), Fault> {
        if self.entries == self.limit {
            return Err(SparseFault::TooMany(count(self.limit)).into());
        }
        self.entries += 1;
        let Some(end) = offset.checked_add(len).filter(|&end| end <= self.size) else {
            return Err(SparseFault::Outside { offset, len, size: self.size }.into());
        };
        if offset < self.end {
            return Err(SparseFault::Order { offset, previous: self.end }.into());
        }
        if len > 0 {
            match self.segments.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => self.segments.push(Segment { offset, len }),
            }
        }
        self.mapped += len;
        self.end = end;
        Ok(())
    }

    /// Adds the map entries of an old GNU header or extension block; `extended` is the block's flag that another
    /// one follows. The first entry that is empty ends the list, and nothing may come behind it: GNU tar would not
    /// look at it, other readers do.
    pub(super) fn push_block(&mut self, entries: &[u8], extended: bool) -> Result<(), Fault> {
        let mut ended = false;
        for entry in entries.chunks_exact(24) {
            let (offset, len) = entry.split_at(12);
            if ended || (offset[0] == 0 && len[0] == 0) {
                ended = true;
                if entry.iter().any(|&byte| byte != 0) {
                    return Err(SparseFault::Form("an entry behind the end of the map").into());
                }
                continue;
            }
            if offset[0] == 0 || len[0] == 0 {
                return Err(SparseFault::Form("an entry without offset or length").into());
            }
            self.push(positive("sparse offset", offset)?, positive("sparse numbytes", len)?)?;
        }
        if ended && extended {
            return Err(SparseFault::Form("an extension behind the end of the map").into());
        }
        Ok(())
    }

    /// The finished map of an entry that has `stored` bytes of data.
    pub(super) fn finish(self, stored: u64) -> Result<Vec<Segment>, Fault> {
        if self.mapped != stored {
            return Err(SparseFault::Sum { mapped: self.mapped, stored }.into());
        }
        Ok(self.segments)
    }
}

fn positive(name: &'static str, field: &[u8]) -> Result<u64, Fault> {
    let value = field_number(name, field)?;
    u64::try_from(value).map_err(|_| Fault::OutOfRange { field: name, value, min: 0, max: u64::MAX.into() })
}

/// An extension block of the old GNU form: 21 entries and the flag.
pub(super) fn extension(block: &[u8; BLOCK]) -> (&[u8], bool) {
    (&block[..504], block[504] != 0)
}

/// The map of form 1.0: decimal lines, first the number of entries, then offset and length of each.
pub(super) struct Lines {
    digits: Vec<u8>,
    left: Option<u64>,
    offset: Option<u64>,
}

impl Lines {
    /// Decimal digits of `u64::MAX`.
    const LONGEST: usize = 20;

    pub(super) fn new() -> Self {
        Self { digits: Vec::with_capacity(Self::LONGEST), left: None, offset: None }
    }

    /// Takes a block of the map; says whether the map is complete.
    pub(super) fn push_block(&mut self, block: &[u8; BLOCK], map: &mut Map) -> Result<bool, Fault> {
        for &byte in block {
            if byte != b'\n' {
                if !byte.is_ascii_digit() || self.digits.len() == Self::LONGEST {
                    return Err(SparseFault::Form("a line is not a number").into());
                }
                self.digits.push(byte);
                continue;
            }
            let number = pax::decimal(&self.digits).ok_or(SparseFault::Form("a line is not a number"))?;
            self.digits.clear();
            match (self.left, self.offset.take()) {
                (None, _) if number > count(map.limit) => {
                    return Err(SparseFault::TooMany(count(map.limit)).into());
                }
                (None, _) => self.left = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(left), Some(offset)) => {
                    map.push(offset, number)?;
                    self.left = Some(left.saturating_sub(1));
                }
            }
            if self.left == Some(0) && self.offset.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
