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
/// Holds one block at a time, as it is stored.
pub struct Dir<'a, R> {
    fs: &'a FileSystem<R>,
    inode: Inode,
    /// Byte offset in the directory of the next block to load.
    next_block: u64,
    block: Block,
    /// Index of the next entry in the block.
    next: usize,
    /// The name before; empty in front of the first.
    last: Vec<u8>,
    failed: bool,
}

impl<'a, R: ReadAt> Dir<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>, inode: Inode) -> Self {
        let (block, last) = (Block::default(), Vec::new());
        Self { fs, inode, next_block: 0, block, next: 0, last, failed: false }
    }

    /// Loads the next block; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        let left = self.inode.size.saturating_sub(self.next_block);
        if left == 0 {
            return Ok(false);
        }
        self.fs.load_dir_block(&self.inode, self.next_block, &mut self.block)?;
        self.next = 0;
        self.next_block = self.next_block.saturating_add(left.min(self.fs.superblock().block_size()));
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<DirEntry>> {
        while self.next >= self.block.count {
            if !self.load()? {
                return Ok(None);
            }
        }
        let Some(entry) = self.block.entry(self.next) else { return Ok(None) };
        self.next = self.next.saturating_add(1);
        if self.last.as_slice() >= entry.name {
            let problem = Problem::Order(escape(entry.name));
            return Err(Error::corrupt(Part::Directory, self.inode.offset, problem));
        }
        self.last.clear();
        self.last.extend_from_slice(entry.name);
        Ok(Some(entry.to_entry()))
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

/// One directory block, of which every entry has been checked.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    count: usize,
}

/// An entry where it is stored.
struct StoredEntry<'a> {
    name: &'a [u8],
    raw: RawDirent,
}

impl StoredEntry<'_> {
    fn to_entry(&self) -> DirEntry {
        DirEntry { name: self.name.to_vec(), nid: Nid(self.raw.nid.get()), file_type: self.raw.file_type }
    }
}

impl Block {
    fn dirent(&self, index: usize) -> Option<RawDirent> {
        let bytes = self.bytes.get(index.checked_mul(DIRENT_LEN)?..)?;
        RawDirent::read_from_prefix(bytes).ok().map(|(raw, _)| raw)
    }

    /// Bytes from the start of a name to the start of the next one, or to the end of the block.
    fn field(&self, index: usize, raw: &RawDirent) -> Option<&[u8]> {
        let end = match index.saturating_add(1) {
            next if next == self.count => self.bytes.len(),
            next => usize::from(self.dirent(next)?.nameoff.get()),
        };
        self.bytes.get(usize::from(raw.nameoff.get())..end)
    }

    /// Entry `index`; `None` behind the last.
    fn entry(&self, index: usize) -> Option<StoredEntry<'_>> {
        let raw = self.dirent(index).filter(|_| index < self.count)?;
        let field = self.field(index, &raw)?;
        // Only the last name of a block has no successor to end it: NUL or the end of the block does.
        let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        Some(StoredEntry { name: field.get(..length)?, raw })
    }

    fn entries(&self) -> impl Iterator<Item = StoredEntry<'_>> {
        (0..self.count).map_while(|index| self.entry(index))
    }

    /// Checks the block, which stands at byte `at` of the image.
    fn check(&mut self, at: u64) -> Result<()> {
        let part = Part::Directory;
        self.count = 0;
        let first = self.dirent(0).map_or(0, |raw| usize::from(raw.nameoff.get()));
        if first < DIRENT_LEN || !first.is_multiple_of(DIRENT_LEN) || first >= self.bytes.len() {
            let found = u64::try_from(first).unwrap_or(u64::MAX);
            let rule = "a multiple of 12 in the block";
            return Err(Error::field(part, at, "nameoff of the first entry", found, rule));
        }
        self.count = first.checked_div(DIRENT_LEN).unwrap_or(0);
        for index in 0..self.count {
            let Some(raw) = self.dirent(index) else { break };
            let start = usize::from(raw.nameoff.get());
            let Some(field) = self.field(index, &raw).filter(|_| start >= first) else {
                let found = raw.nameoff.get().into();
                return Err(Error::field(part, at, "nameoff", found, "ascending and inside the block"));
            };
            let mut name = field;
            if index.saturating_add(1) == self.count {
                let length = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
                let (text, padding) = field.split_at(length);
                if padding.iter().any(|byte| *byte != 0) {
                    return Err(Error::corrupt(part, at, Problem::Name(escape(field))));
                }
                name = text;
            }
            if !is_file_name(name) && name != b"." && name != b".." {
                return Err(Error::corrupt(part, at, Problem::Name(format!("\"{}\"", escape(name)))));
            }
            if raw.reserved != 0 {
                return Err(Error::field(part, at, "reserved", raw.reserved.into(), "0"));
            }
        }
        Ok(())
    }
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
        let mut block = Block::default();
        while blocks.start < blocks.end {
            let half = blocks.end.saturating_sub(blocks.start) >> 1;
            let middle = blocks.start.saturating_add(half);
            self.load_dir_block(dir, middle.saturating_mul(size), &mut block)?;
            let last = block.count.saturating_sub(1);
            if block.entry(0).is_none_or(|first| name < first.name) {
                blocks.end = middle;
            } else if block.entry(last).is_some_and(|last| name > last.name) {
                blocks.start = middle.saturating_add(1);
            } else {
                let found = block.entries().find(|entry| entry.name == name);
                return Ok(found.map(|entry| Nid(entry.raw.nid.get())));
            }
        }
        Ok(None)
    }

    /// Loads the block at byte `offset` of a directory; there are no entries behind its end.
    fn load_dir_block(&self, inode: &Inode, offset: u64, block: &mut Block) -> Result<()> {
        let length = inode.size.saturating_sub(offset).min(self.superblock().block_size());
        block.count = 0;
        block.bytes.resize(usize::try_from(length).unwrap_or(0), 0);
        if length == 0 {
            return Ok(());
        }
        let at = self.read_dir_block(inode, offset, &mut block.bytes)?;
        block.check(at)
    }

    /// Reads the directory block at byte `offset` of a directory; returns its byte offset in the image.
    fn read_dir_block(&self, inode: &Inode, offset: u64, block: &mut [u8]) -> Result<u64> {
        let mut at = None;
        let wanted = u64::try_from(block.len()).unwrap_or(u64::MAX);
        for extent in self.extents_within(inode, offset, wanted) {
            let Extent { logical, length, physical, compressed } = extent?;
            if offset < logical.saturating_add(length) {
                let physical = physical.filter(|_| compressed.is_none());
                at = physical.and_then(|start| start.checked_add(offset.checked_sub(logical)?));
                break;
            }
        }
        let Some(at) = at else {
            let rule = "in blocks of the image, without holes or compression";
            return Err(Error::field(Part::Directory, inode.offset, "directory block", offset, rule));
        };
        self.read(Part::Directory, block, at)?;
        Ok(at)
    }
}
