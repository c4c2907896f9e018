//! Directories.

use zerocopy::FromBytes;

use super::raw::{DIRENT_LEN, RawDirent};
use super::{Extent, FileSystem, Inode, Nid, escape, is_file_name};
use crate::{Error, Part, Problem, ReadAt, Result};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// File name, 1 to 255 bytes; `.` and `..` occur once each.
    pub name: Vec<u8>,
    /// Inode it leads to.
    pub nid: Nid,
    /// `EROFS_FT_*` as stored.
    pub file_type: u8,
}

impl DirEntry {
    /// Whether this is `.` or `..`.
    #[must_use]
    pub fn is_dot(&self) -> bool {
        self.name == b"." || self.name == b".."
    }
}

/// The entries of a directory in stored order, which must be strictly ascending.
///
/// Holds one block at a time.
pub struct Dir<'a, R> {
    fs: &'a FileSystem<R>,
    inode: Inode,
    /// Byte offset in the directory of the next block to load.
    next_block: u64,
    /// Entries of the loaded block, last first.
    entries: Vec<DirEntry>,
    last: Option<Vec<u8>>,
    failed: bool,
}

impl<'a, R: ReadAt> Dir<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>, inode: Inode) -> Self {
        Self { fs, inode, next_block: 0, entries: Vec::new(), last: None, failed: false }
    }

    /// Loads the next block; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        let left = self.inode.size.saturating_sub(self.next_block);
        if left == 0 {
            return Ok(false);
        }
        self.entries = self.fs.dir_block(&self.inode, self.next_block)?;
        self.entries.reverse();
        self.next_block = self.next_block.saturating_add(left.min(self.fs.superblock().block_size()));
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<DirEntry>> {
        while self.entries.is_empty() {
            if !self.load()? {
                return Ok(None);
            }
        }
        let Some(entry) = self.entries.pop() else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= entry.name) {
            let problem = Problem::Order(escape(&entry.name));
            return Err(Error::corrupt(Part::Directory, self.inode.offset, problem));
        }
        self.last = Some(entry.name.clone());
        Ok(Some(entry))
    }
}

impl<R: ReadAt> Iterator for Dir<'_, R> {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// Parses one directory block that stands at byte `at` of the image.
fn parse_block(block: &[u8], at: u64) -> Result<Vec<DirEntry>> {
    let part = Part::Directory;
    let dirent = |index: usize| {
        let start = index.checked_mul(DIRENT_LEN);
        start
            .and_then(|start| block.get(start..))
            .and_then(|bytes| RawDirent::read_from_prefix(bytes).ok())
            .map(|(raw, _)| raw)
    };
    let first = dirent(0).map_or(0, |raw| usize::from(raw.nameoff.get()));
    if first < DIRENT_LEN || first % DIRENT_LEN != 0 || first >= block.len() {
        let found = u64::try_from(first).unwrap_or(u64::MAX);
        return Err(Error::field(
            part,
            at,
            "nameoff of the first entry",
            found,
            "a multiple of 12 in the block",
        ));
    }
    let count = first.checked_div(DIRENT_LEN).unwrap_or(0);
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let Some(raw) = dirent(index) else { break };
        let start = usize::from(raw.nameoff.get());
        let last = index.saturating_add(1) == count;
        let end = if last {
            block.len()
        } else {
            dirent(index.saturating_add(1)).map_or(0, |next| usize::from(next.nameoff.get()))
        };
        let Some(mut name) = block.get(start..end).filter(|_| start >= first) else {
            let found = raw.nameoff.get().into();
            return Err(Error::field(part, at, "nameoff", found, "ascending and inside the block"));
        };
        if last {
            // Only the last name of a block has no successor to end it: NUL or the end of the block does.
            let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            let (text, padding) = name.split_at(length);
            if padding.iter().any(|byte| *byte != 0) {
                return Err(Error::corrupt(part, at, Problem::Name(escape(name))));
            }
            name = text;
        }
        if !is_file_name(name) && name != b"." && name != b".." {
            return Err(Error::corrupt(part, at, Problem::Name(format!("\"{}\"", escape(name)))));
        }
        if raw.reserved != 0 {
            return Err(Error::field(part, at, "reserved", raw.reserved.into(), "0"));
        }
        entries.push(DirEntry { name: name.to_vec(), nid: Nid(raw.nid.get()), file_type: raw.file_type });
    }
    Ok(entries)
}

impl<R: ReadAt> FileSystem<R> {
    /// Looks up one name in a directory by binary search, as the kernel does.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Corrupt`] when a block on the way breaks the format. Order is not checked: in a
    /// directory that is not sorted, a name may not be found here and in the kernel alike.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<Nid>> {
        let size = self.superblock().block_size();
        let mut blocks = 0..dir.size.div_ceil(size);
        while blocks.start < blocks.end {
            let half = blocks.end.saturating_sub(blocks.start) >> 1;
            let middle = blocks.start.saturating_add(half);
            let entries = self.dir_block(dir, middle.saturating_mul(size))?;
            if entries.first().is_none_or(|first| name < first.name.as_slice()) {
                blocks.end = middle;
            } else if entries.last().is_some_and(|last| name > last.name.as_slice()) {
                blocks.start = middle.saturating_add(1);
            } else {
                return Ok(entries.iter().find(|entry| entry.name == name).map(|entry| entry.nid));
            }
        }
        Ok(None)
    }

    /// The entries of the block at byte `offset` of a directory; none behind its end.
    fn dir_block(&self, inode: &Inode, offset: u64) -> Result<Vec<DirEntry>> {
        let length = inode.size.saturating_sub(offset).min(self.superblock().block_size());
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut block = vec![0; usize::try_from(length).unwrap_or(0)];
        let at = self.read_dir_block(inode, offset, &mut block)?;
        parse_block(&block, at)
    }

    /// Reads the directory block at byte `offset` of a directory; returns its byte offset in the image.
    fn read_dir_block(&self, inode: &Inode, offset: u64, block: &mut [u8]) -> Result<u64> {
        let mut at = None;
        let wanted = u64::try_from(block.len()).unwrap_or(u64::MAX);
        for extent in self.extents_within(inode, offset, wanted) {
            let Extent { logical, length, physical } = extent?;
            if offset < logical.saturating_add(length) {
                at = physical.and_then(|start| start.checked_add(offset.checked_sub(logical)?));
                break;
            }
        }
        let Some(at) = at else {
            let rule = "in blocks of the image, without holes";
            return Err(Error::field(Part::Directory, inode.offset, "directory block", offset, rule));
        };
        self.read(Part::Directory, block, at)?;
        Ok(at)
    }
}
