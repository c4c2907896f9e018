//! The sealed content of an inode.

use mkimg_format::erofs::Inode;
use mkimg_format::seal::{Content, InodeRecord, NONE, Seal};
use mkimg_format::{Error, ReadAt};

/// Inode records that are read at once: 4 KiB.
const GROUP: u64 = 256;
/// Groups whose first number is held (8 bytes each); more records than these groups have are looked up one by one.
const GROUPS_HELD: u64 = 1 << 20;
/// Contents that are read at once: 5 KiB.
const CONTENTS: u64 = 64;

/// Finds the sealed content of inodes with two reads, and mostly none.
///
/// Of the inode records, which are sorted, only every 256th number is held in memory.
pub(crate) struct Digests<'a, R> {
    seal: &'a Seal<&'a R>,
    first: Vec<u64>,
}

/// The records that were read last. Files of one directory tend to stand side by side.
#[derive(Default)]
pub(crate) struct Group {
    inodes: Option<(u64, Vec<InodeRecord>)>,
    contents: Option<(u64, Vec<Content>)>,
}

impl<'a, R: ReadAt> Digests<'a, R> {
    pub(crate) fn new(seal: &'a Seal<&'a R>) -> Result<Self, Error> {
        let records = seal.inodes();
        let groups = records.len().div_ceil(GROUP);
        let mut first = Vec::new();
        if groups <= GROUPS_HELD {
            for group in 0..groups {
                let record = records.get(group.saturating_mul(GROUP))?;
                first.push(record.map_or(u64::MAX, |record| record.nid.get()));
            }
        }
        Ok(Self { seal, first })
    }

    /// What the seal says about the content of a regular file; `None` when it says nothing.
    pub(crate) fn of(&self, inode: &Inode, group: &mut Group) -> Result<Option<Content>, Error> {
        let record = if self.first.is_empty() {
            self.seal.inode_record(inode.nid.0)?
        } else {
            self.record(inode.nid.0, &mut group.inodes)?
        };
        let Some(index) = record.map(|record| record.content.get()).filter(|index| *index != NONE) else {
            return Ok(None);
        };
        let (start, place) = (u64::from(index) / CONTENTS, u64::from(index) % CONTENTS);
        let contents = read_once(&mut group.contents, start, || {
            self.seal.contents().range(start.saturating_mul(CONTENTS), CONTENTS)
        })?;
        Ok(usize::try_from(place).ok().and_then(|place| contents.get(place)).copied())
    }

    /// The record of inode `nid`.
    fn record(
        &self,
        nid: u64,
        held: &mut Option<(u64, Vec<InodeRecord>)>,
    ) -> Result<Option<InodeRecord>, Error> {
        let Some(group) = self.first.partition_point(|first| *first <= nid).checked_sub(1) else {
            return Ok(None);
        };
        let group = u64::try_from(group).unwrap_or(u64::MAX);
        let records =
            read_once(held, group, || self.seal.inodes().range(group.saturating_mul(GROUP), GROUP))?;
        let place = records.binary_search_by_key(&nid, |record| record.nid.get());
        Ok(place.ok().and_then(|place| records.get(place)).copied())
    }
}

/// What is held if it has this number; otherwise it is read and held.
fn read_once<T>(
    held: &mut Option<(u64, Vec<T>)>,
    number: u64,
    read: impl FnOnce() -> Result<Vec<T>, Error>,
) -> Result<&[T], Error> {
    if held.as_ref().is_none_or(|(known, _)| *known != number) {
        *held = Some((number, read()?));
    }
    Ok(held.as_ref().map(|(_, records)| records.as_slice()).unwrap_or_default())
}
