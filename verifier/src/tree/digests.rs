//! The sealed content of an inode.

use mkimg_format::erofs::Inode;
use mkimg_format::seal::{Content, NONE, Place, Seal, Section};
use mkimg_format::{Error, Part, ReadAt};

/// Records that are read at once: 4 KiB.
const GROUP: u64 = 256;
/// Length in bytes of one inode record.
const RECORD: usize = 16;
/// Groups whose first number is held (8 bytes each); more records than these groups have are looked up one by one.
const GROUPS_HELD: u64 = 1 << 20;

/// Finds the sealed content of inodes with two reads, and mostly one.
///
/// Of the inode records, which are sorted, only every 256th number is held in memory.
pub(crate) struct Digests<'a, R> {
    seal: &'a Seal<&'a R>,
    io: &'a R,
    place: Place,
    first: Vec<u64>,
}

/// The records that were read last. Files of one directory tend to stand side by side.
#[derive(Default)]
pub(crate) struct Group {
    index: Option<usize>,
    bytes: Vec<u8>,
}

impl<'a, R: ReadAt> Digests<'a, R> {
    pub(crate) fn new(seal: &'a Seal<&'a R>, io: &'a R) -> Result<Self, Error> {
        let place = seal.table().place(Section::Inodes);
        let groups = place.records().div_ceil(GROUP);
        let mut first = Vec::new();
        if groups <= GROUPS_HELD {
            let records = seal.inodes();
            for group in 0..groups {
                let record = records.get(group.saturating_mul(GROUP))?;
                first.push(record.map_or(u64::MAX, |record| record.nid.get()));
            }
        }
        Ok(Self { seal, io, place, first })
    }

    /// What the seal says about the content of a regular file; `None` when it says nothing.
    pub(crate) fn of(&self, inode: &Inode, group: &mut Group) -> Result<Option<Content>, Error> {
        let content = if self.first.is_empty() {
            self.seal.inode_record(inode.nid.0)?.map(|record| record.content.get())
        } else {
            self.content_of(inode.nid.0, group)?
        };
        match content {
            None | Some(NONE) => Ok(None),
            Some(index) => self.seal.contents().get(index.into()),
        }
    }

    /// Index of the content of inode `nid`.
    fn content_of(&self, nid: u64, group: &mut Group) -> Result<Option<u32>, Error> {
        let Some(index) = self.first.partition_point(|first| *first <= nid).checked_sub(1) else {
            return Ok(None);
        };
        if group.index != Some(index) {
            group.index = None;
            let start = u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(GROUP);
            let count = self.place.records().saturating_sub(start).min(GROUP);
            group.bytes.resize(usize::try_from(count).unwrap_or_default().saturating_mul(RECORD), 0);
            let unit = u64::try_from(RECORD).unwrap_or(u64::MAX);
            let offset = self.place.offset.saturating_add(start.saturating_mul(unit));
            let fail = |source| Error::Io { part: Part::Seal, offset, source };
            self.io.read_exact_at(&mut group.bytes, offset).map_err(fail)?;
            group.index = Some(index);
        }
        Ok(group.bytes.chunks_exact(RECORD).find_map(|record| content_if(record, nid)))
    }
}

/// Index of the content in a record (number 8 bytes, layer 4, content 4, little-endian), if it is that of `nid`.
fn content_if(record: &[u8], nid: u64) -> Option<u32> {
    let (number, rest) = record.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*number) != nid {
        return None;
    }
    rest.last_chunk::<4>().map(|content| u32::from_le_bytes(*content))
}
