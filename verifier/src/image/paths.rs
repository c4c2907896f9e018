//! From damaged bytes to the names of files.
//!
//! One walk over the file system asks of every inode which damaged ranges its data, its body and its tables touch.
//! Metadata may be damaged itself: what cannot be read is skipped, and its own path is named.

use std::collections::BTreeMap;
use std::ops::Range;

use mkimg_format::erofs::raw::{MAP_HEADER_LEN, SLOT, XATTR_HEADER_LEN};
use mkimg_format::erofs::{FileSystem, FileType, Inode, Layout};
use mkimg_format::sound::Unread;
use mkimg_format::{BLOCK_SIZE, Error, ReadAt};

use super::report::PATHS_MAX;

/// Places at which a path touches a damaged range.
const HITS_MAX: usize = 200_000;
/// Bytes of all paths that touch one.
const BYTES_MAX: usize = 8 << 20;

/// Part of a damaged range that belongs to the same files throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) paths: Vec<Vec<u8>>,
    /// Further paths.
    pub(crate) more: u64,
    /// Whether bytes behind the end of a file, in its last block, are not zero.
    pub(crate) padding: bool,
    /// Whether it holds inodes, directories, links, attributes or maps of these files, if that is to be told apart.
    pub(crate) metadata: bool,
}

impl Segment {
    /// One whose files are not known.
    pub(crate) const fn of_nobody(start: u64, end: u64) -> Self {
        Self { start, end, paths: Vec::new(), more: 0, padding: false, metadata: false }
    }
}

/// How a damaged range is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Where its files change.
    Files,
    /// Also where their metadata ends: it stands anywhere in images of others.
    FilesAndMetadata,
}

/// What a file has in a damaged range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Content,
    /// Content, and behind its end something that is not zero.
    Padding,
    Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    start: u64,
    end: u64,
    path: usize,
    role: Role,
}

struct Mapper<'a, R> {
    fs: &'a FileSystem<R>,
    /// Disjoint and ascending, on block boundaries.
    ranges: &'a [Range<u64>],
    hits: Vec<Hit>,
    paths: Vec<Vec<u8>>,
    bytes: usize,
    /// Paths that touch a range but found no room, by range.
    uncounted: BTreeMap<usize, u64>,
    /// Extents that may still be looked at: a few bytes of metadata can describe very many.
    budget: u64,
    unread: Unread,
}

/// Divides damaged ranges (disjoint, ascending, on block boundaries) by the files they belong to. With each part goes
/// what could not be read of the file system, and might own it.
pub(crate) fn map<R: ReadAt>(
    fs: &FileSystem<R>,
    ranges: &[Range<u64>],
    cut: Cut,
    mut take: impl FnMut(usize, Segment, &Unread),
) {
    let (blocks, meta) = (u64::from(fs.superblock().blocks), u64::from(fs.superblock().meta_block));
    // Maps without overlaps have no more entries of 4 bytes than the metadata has room for.
    let entries = blocks.saturating_sub(meta).saturating_mul(BLOCK_SIZE / 4);
    let budget = blocks.saturating_mul(4).saturating_add(entries).saturating_add(1_000_000);
    let mut mapper = Mapper {
        fs,
        ranges,
        hits: Vec::new(),
        paths: Vec::new(),
        bytes: 0,
        uncounted: BTreeMap::new(),
        budget,
        unread: Unread::default(),
    };
    mapper.walk();
    mapper.hits.sort_unstable();
    let mut hits = mapper.hits.as_slice();
    for (index, range) in ranges.iter().enumerate() {
        let count = hits.partition_point(|hit| hit.start < range.end);
        let (own, rest) = hits.split_at_checked(count).unwrap_or_default();
        hits = rest;
        let uncounted = mapper.uncounted.get(&index).copied().unwrap_or_default();
        segments(range, own, &mapper.paths, (uncounted, cut), |segment| take(index, segment, &mapper.unread));
    }
}

impl<R: ReadAt> Mapper<'_, R> {
    fn walk(&mut self) {
        let fs = self.fs;
        let mut walk = fs.walk();
        loop {
            match walk.next() {
                None => return,
                Some(Ok(entry)) => {
                    let mut path = Some(entry.path);
                    self.inode(&entry.inode, &mut path);
                }
                Some(Err(error)) => {
                    if let Error::Corrupt { offset, .. }
                    | Error::Unsupported { offset, .. }
                    | Error::Io { offset, .. } = error
                    {
                        let mut path = Some(walk.position().to_vec());
                        self.touch(offset, offset.saturating_add(1), &mut path, Role::Metadata);
                    }
                    self.unread.note(error);
                }
            }
        }
    }

    /// Notes the ranges that bytes `start..end` touch. The path is moved out on its first hit.
    fn touch(&mut self, start: u64, end: u64, path: &mut Option<Vec<u8>>, role: Role) {
        if start >= end {
            return;
        }
        let first = self.ranges.partition_point(|range| range.end <= start);
        for (index, range) in self.ranges.iter().enumerate().skip(first) {
            if range.start >= end {
                return;
            }
            let length = path.as_ref().map_or(0, Vec::len);
            if self.hits.len() >= HITS_MAX || self.bytes.saturating_add(length) > BYTES_MAX {
                let count = self.uncounted.entry(index).or_default();
                *count = count.saturating_add(1);
                continue;
            }
            if let Some(path) = path.take() {
                self.bytes = self.bytes.saturating_add(path.len());
                self.paths.push(path);
            }
            let start = start.max(range.start);
            let end = end.min(range.end);
            self.hits.push(Hit {
                start: start.saturating_sub(start % BLOCK_SIZE),
                end: end.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(end).min(range.end),
                path: self.paths.len().saturating_sub(1),
                role,
            });
        }
    }

    fn touches(&self, start: u64, end: u64) -> bool {
        let first = self.ranges.partition_point(|range| range.end <= start);
        self.ranges.get(first).is_some_and(|range| range.start < end)
    }

    fn inode(&mut self, inode: &Inode, path: &mut Option<Vec<u8>>) {
        self.touch(inode.offset, inode.body_end(), path, Role::Metadata);
        if let Layout::Chunked { map, .. }
        | Layout::Compressed { map, .. }
        | Layout::Encoded { map, .. }
        | Layout::Fragment { map, .. } = inode.layout
        {
            self.touch(map, inode.unit_end(), path, Role::Metadata);
        }
        self.packed_inode(inode, path);
        self.shared_xattrs(inode, path);
        let fs = self.fs;
        let role = if inode.file_type == FileType::File { Role::Content } else { Role::Metadata };
        for extent in fs.extents(inode) {
            let Some(budget) = self.budget.checked_sub(1) else { return };
            self.budget = budget;
            let Ok(extent) = extent else { return };
            let Some(start) = extent.physical else { continue };
            let end = start.saturating_add(extent.stored());
            if !self.touches(start, end) {
                continue;
            }
            let last = extent.logical.saturating_add(extent.length) == inode.size;
            if last
                && inode.file_type == FileType::File
                && start.is_multiple_of(BLOCK_SIZE)
                && extent.compressed.is_none()
                && inode.owns_blocks()
                && self.dirty_behind(end)
            {
                let tail = end.saturating_sub(end % BLOCK_SIZE);
                self.touch(start, tail, path, role);
                self.touch(tail, end, path, Role::Padding);
            } else {
                self.touch(start, end, path, role);
            }
        }
    }

    /// Where an inode is part of the packed one: what of that says where its content is.
    fn packed_inode(&mut self, inode: &Inode, path: &mut Option<Vec<u8>>) {
        let Layout::Fragment { offset, .. } = inode.layout else { return };
        let Some(nid) = self.fs.superblock().packed else { return };
        let start = self.fs.inode_offset(nid);
        // Damaged, it may not be readable.
        let Ok(packed) = self.fs.packed_inode() else {
            return self.touch(start, start.saturating_add(SLOT), path, Role::Metadata);
        };
        self.touch(start, packed.body_end().saturating_add(MAP_HEADER_LEN), path, Role::Metadata);
        let part = packed.map_part(offset, inode.size);
        self.touch(part.start, part.end, path, Role::Metadata);
    }

    /// Whether something follows the end of a file inside its last, damaged block.
    fn dirty_behind(&self, end: u64) -> bool {
        let length =
            usize::try_from(end.next_multiple_of(BLOCK_SIZE).saturating_sub(end)).unwrap_or_default();
        if length == 0 || !self.touches(end, end.saturating_add(1)) {
            return false;
        }
        let mut padding = vec![0; length];
        self.fs.io().read_exact_at(&mut padding, end).is_ok() && padding.iter().any(|byte| *byte != 0)
    }

    /// Entries of the shared pool that an inode refers to.
    fn shared_xattrs(&mut self, inode: &Inode, path: &mut Option<Vec<u8>>) {
        if inode.xattr_len <= XATTR_HEADER_LEN {
            return;
        }
        let at = inode.offset.saturating_add(inode.inode_len);
        let mut head = [0; 5];
        if self.fs.io().read_exact_at(&mut head, at).is_err() {
            return;
        }
        let room = inode.xattr_len.saturating_sub(XATTR_HEADER_LEN) / 4;
        let count = u64::from(head[4]).min(room);
        let pool =
            u64::from(self.fs.superblock().xattr_block).saturating_mul(self.fs.superblock().block_size());
        for index in 0..count {
            let mut id = [0; 4];
            let place = at.saturating_add(XATTR_HEADER_LEN).saturating_add(index.saturating_mul(4));
            if self.fs.io().read_exact_at(&mut id, place).is_err() {
                return;
            }
            let entry = pool.saturating_add(u64::from(u32::from_le_bytes(id)).saturating_mul(4));
            let mut raw = [0; 4];
            let length = match self.fs.io().read_exact_at(&mut raw, entry) {
                Ok(()) => u64::from(raw[0])
                    .saturating_add(u16::from_le_bytes([raw[2], raw[3]]).into())
                    .saturating_add(4),
                Err(_) => 4,
            };
            self.touch(entry, entry.saturating_add(length), path, Role::Metadata);
        }
    }
}

/// Part of a range that is not done: its first paths, how many there are, what of them it holds, where it begins and ends.
struct Open {
    shown: Vec<usize>,
    all: usize,
    padding: bool,
    metadata: bool,
    start: u64,
    end: u64,
}

/// Cuts a range wherever the set of files changes.
fn segments(
    range: &Range<u64>,
    hits: &[Hit],
    paths: &[Vec<u8>],
    (uncounted, cut): (u64, Cut),
    mut take: impl FnMut(Segment),
) {
    let mut cuts: Vec<u64> = hits.iter().flat_map(|hit| [hit.start, hit.end]).collect();
    cuts.extend([range.start, range.end]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut ends: Vec<Hit> = hits.to_vec();
    ends.sort_unstable_by_key(|hit| hit.end);
    let (mut starting, mut ending) = (hits.iter().peekable(), ends.iter().peekable());
    // How often each path is active, and how many active hits are in padding and in metadata.
    let mut active: BTreeMap<usize, u32> = BTreeMap::new();
    let (mut in_padding, mut in_metadata) = (0_u32, 0_u32);
    let mut open: Option<Open> = None;
    let mut flush = |open: Option<Open>| {
        let Some(Open { shown, all, padding, metadata, start, end }) = open else { return };
        let more = u64::try_from(all.saturating_sub(shown.len())).unwrap_or_default();
        let paths = shown.iter().filter_map(|index| paths.get(*index).cloned()).collect();
        take(Segment { start, end, paths, more: more.saturating_add(uncounted), padding, metadata });
    };
    for pair in cuts.windows(2) {
        let [start, end] = *pair else { continue };
        while let Some(hit) = ending.next_if(|hit| hit.end <= start) {
            in_padding = in_padding.saturating_sub(u32::from(hit.role == Role::Padding));
            in_metadata = in_metadata.saturating_sub(u32::from(hit.role == Role::Metadata));
            if let Some(count) = active.get_mut(&hit.path) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    active.remove(&hit.path);
                }
            }
        }
        while let Some(hit) = starting.next_if(|hit| hit.start <= start) {
            in_padding = in_padding.saturating_add(u32::from(hit.role == Role::Padding));
            in_metadata = in_metadata.saturating_add(u32::from(hit.role == Role::Metadata));
            let count = active.entry(hit.path).or_default();
            *count = count.saturating_add(1);
        }
        let shown: Vec<usize> = active.keys().take(PATHS_MAX).copied().collect();
        let (padding, metadata) = (in_padding > 0, cut == Cut::FilesAndMetadata && in_metadata > 0);
        match &mut open {
            Some(open)
                if open.shown == shown
                    && open.all == active.len()
                    && (open.padding, open.metadata) == (padding, metadata) =>
            {
                open.end = end;
            }
            _ => {
                flush(open.take());
                open = Some(Open { shown, all: active.len(), padding, metadata, start, end });
            }
        }
    }
    flush(open);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_its_files_change() {
        let paths = [b"/a".to_vec(), b"/b".to_vec()];
        let hit = |start, end, path| Hit { start, end, path, role: Role::Content };
        let hits = [hit(0, 2, 0), hit(2, 4, 0), hit(3, 6, 1)];
        let mut found = Vec::new();
        segments(&(0..8), &hits, &paths, (0, Cut::Files), |segment| {
            found.push((segment.start, segment.end, segment.paths.concat()));
        });
        let expected =
            [(0, 3, b"/a".to_vec()), (3, 4, b"/a/b".to_vec()), (4, 6, b"/b".to_vec()), (6, 8, vec![])];
        assert_eq!(found, expected);
    }
}
