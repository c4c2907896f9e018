//! The tree: one walk over all directories, and what it says about names and links.

use std::collections::HashMap;

use super::Lint;
use crate::erofs::raw::DIRENT_LEN;
use crate::erofs::{Dir, DirEntry, FileSystem, FileType, Inode, Nid, PATH_MAX, escape};
use crate::{BLOCK_LEN, BLOCK_SIZE, Part, ReadAt, Result};

/// What is known about an inode that has been seen.
#[derive(Debug, Clone, Copy)]
struct Record {
    ino: u32,
    /// As stored.
    nlink: u32,
    /// As counted: names, or 2 and the subdirectories of a directory.
    links: u32,
    file_type: FileType,
}

/// The inodes that names lead to.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    records: HashMap<Nid, Record>,
}

/// A directory that is open.
struct Frame<'a, R> {
    dir: Dir<'a, R>,
    inode: Inode,
    parent: Nid,
    /// Length of its path.
    path_len: usize,
    dots: Dots,
    subdirs: u32,
    /// Bytes of the directory up to the last entry, when blocks are filled as the writer does.
    packed: u64,
    /// Whether all entries could be read.
    complete: bool,
}

/// Which of the two standing entries were met.
#[derive(Default)]
struct Dots {
    own: bool,
    parent: bool,
}

impl<R> Frame<'_, R> {
    /// Adds a name to the packing: an entry and its name never go over a block boundary.
    fn pack(&mut self, name: &[u8]) {
        let length = u64::try_from(DIRENT_LEN.saturating_add(name.len())).unwrap_or(BLOCK_SIZE);
        let left = self.packed.next_multiple_of(BLOCK_SIZE).saturating_sub(self.packed);
        if left < length {
            self.packed = self.packed.saturating_add(left);
        }
        self.packed = self.packed.saturating_add(length);
    }
}

const _: () = assert!(DIRENT_LEN + 255 <= BLOCK_LEN);

impl Lint<'_> {
    /// Walks over every directory once and looks at every inode once.
    pub(super) fn walk<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let Some(root) = self.out.take(fs.root(), Some(b"/"))? else { return Ok(()) };
        let mut path = Vec::new();
        let mut stack = Vec::new();
        self.meet(fs, &root, b"/")?;
        let parent = root.nid;
        stack.extend(self.enter(fs, root, parent, &path));
        while let Some(frame) = stack.last_mut() {
            path.truncate(frame.path_len);
            match frame.dir.next() {
                None => {
                    if let Some(frame) = stack.pop() {
                        self.leave(&frame, &path);
                    }
                }
                Some(Err(error)) => {
                    frame.complete = false;
                    self.out.take::<()>(Err(error), Some(shown(&path)))?;
                }
                Some(Ok(entry)) => {
                    frame.pack(&entry.name);
                    if entry.is_dot() {
                        self.check_dot(frame, &entry, &path);
                        continue;
                    }
                    path.push(b'/');
                    path.extend_from_slice(&entry.name);
                    let parent = frame.inode.nid;
                    if let Some(dir) = self.follow(fs, frame, &entry, &path)? {
                        stack.extend(self.enter(fs, dir, parent, &path));
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens a directory, unless the directories so far are already larger than the metadata area.
    fn enter<'a, R: ReadAt>(
        &mut self,
        fs: &'a FileSystem<&'a R>,
        inode: Inode,
        parent: Nid,
        path: &[u8],
    ) -> Option<Frame<'a, &'a R>> {
        let Some(left) = self.dirs_left.checked_sub(inode.size) else {
            let problem = "directories are together larger than the metadata area, not examined";
            self.out.add(Part::Directory, inode.offset, Some(shown(path)), problem);
            return None;
        };
        self.dirs_left = left;
        Some(Frame {
            dir: fs.read_dir(&inode),
            inode,
            parent,
            path_len: path.len(),
            dots: Dots::default(),
            subdirs: 0,
            packed: 0,
            complete: true,
        })
    }

    /// Closes a directory of which the last entry was read.
    fn leave<R>(&mut self, frame: &Frame<'_, R>, path: &[u8]) {
        let Frame { inode, dots, subdirs, packed, complete, .. } = frame;
        let record = self.inodes.records.get_mut(&inode.nid);
        if !complete {
            // What was not read cannot be counted.
            if let Some(record) = record {
                record.links = record.nlink;
            }
            return;
        }
        if let Some(record) = record {
            record.links = subdirs.saturating_add(2);
        }
        for (there, name) in [(dots.own, "."), (dots.parent, "..")] {
            if !there {
                let problem = format!("entry {name} is missing");
                self.out.add(Part::Directory, inode.offset, Some(shown(path)), problem);
            }
        }
        if *packed != inode.size {
            let problem = format!("i_size is {}, the entries take {packed} bytes", inode.size);
            self.out.add(Part::Directory, inode.offset, Some(shown(path)), problem);
        }
    }

    /// `.` and `..`.
    fn check_dot<R>(&mut self, frame: &mut Frame<'_, R>, entry: &DirEntry, path: &[u8]) {
        let expected = if entry.name == b"." {
            frame.dots.own = true;
            frame.inode.nid
        } else {
            frame.dots.parent = true;
            frame.parent
        };
        let name = escape(&entry.name);
        if entry.nid != expected {
            let problem = format!("entry {name} leads to inode {}, must be {expected}", entry.nid);
            self.out.add(Part::Directory, frame.inode.offset, Some(shown(path)), problem);
        }
        if entry.file_type != FileType::Dir.dirent_type() {
            let problem = format!("file_type of entry {name} is {}, must be 2", entry.file_type);
            self.out.add(Part::Directory, frame.inode.offset, Some(shown(path)), problem);
        }
    }

    /// Any other entry. Returns the inode of a directory that is to be entered.
    fn follow<R: ReadAt, F>(
        &mut self,
        fs: &FileSystem<&R>,
        frame: &mut Frame<'_, F>,
        entry: &DirEntry,
        path: &[u8],
    ) -> Result<Option<Inode>> {
        let at = frame.inode.offset;
        let is_dir = entry.file_type == FileType::Dir.dirent_type();
        if path.len() > PATH_MAX {
            self.out.add(Part::Directory, at, Some(path), format!("path is longer than {PATH_MAX} bytes"));
            frame.complete = false;
            return Ok(None);
        }
        let (file_type, entered) = match self.inodes.records.get_mut(&entry.nid) {
            Some(record) => {
                let file_type = record.file_type;
                if file_type == FileType::Dir {
                    let problem = format!("directory {} has a second name", entry.nid);
                    self.out.add(Part::Directory, at, Some(path), problem);
                } else {
                    record.links = record.links.saturating_add(1);
                }
                (file_type, None)
            }
            None => {
                let Some(inode) = self.out.take(fs.inode(entry.nid), Some(path))? else {
                    frame.subdirs = frame.subdirs.saturating_add(is_dir.into());
                    return Ok(None);
                };
                self.meet(fs, &inode, path)?;
                (inode.file_type, Some(inode))
            }
        };
        if file_type.dirent_type() != entry.file_type {
            let problem = format!("file_type is {}, the inode is a {}", entry.file_type, file_type.word());
            self.out.add(Part::Directory, at, Some(path), problem);
        }
        let dir = entered.filter(|inode| inode.file_type == FileType::Dir);
        frame.subdirs = frame.subdirs.saturating_add(dir.is_some().into());
        Ok(dir)
    }

    /// An inode that has not been seen before.
    fn meet<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, path: &[u8]) -> Result<()> {
        // A directory that is not entered keeps what it says.
        let links = if inode.file_type == FileType::Dir { inode.nlink } else { 1 };
        let record = Record { ino: inode.ino, nlink: inode.nlink, links, file_type: inode.file_type };
        self.inodes.records.insert(inode.nid, record);
        self.check_inode(fs, inode, path)
    }

    /// Link counts, inode numbers and the number of inodes.
    pub(super) fn check_inodes(&mut self, inos: u64) {
        let records = std::mem::take(&mut self.inodes.records);
        let found = u64::try_from(records.len()).unwrap_or(u64::MAX);
        if inos != found {
            let problem = format!("inos is {inos}, {found} inodes were found");
            self.out.add_late(Part::Superblock, super::block0::at(0x10), None, problem);
        }
        let mut records: Vec<(Nid, Record)> = records.into_iter().collect();
        records.sort_unstable_by_key(|(nid, _)| *nid);
        for (nid, record) in &records {
            if record.links != record.nlink {
                let problem = format!("i_nlink is {}, {} links were found", record.nlink, record.links);
                self.out.add_late(Part::Inode, self.offset_of(*nid), Some(*nid), problem);
            }
            if record.ino == 0 {
                self.out.add_late(Part::Inode, self.offset_of(*nid), Some(*nid), "i_ino is 0");
            }
        }
        records.sort_unstable_by_key(|(nid, record)| (record.ino, *nid));
        for pair in records.windows(2) {
            if let [(first, a), (nid, b)] = pair
                && a.ino == b.ino
                && a.ino != 0
            {
                let problem = format!("i_ino {} is that of inode {first} as well", b.ino);
                self.out.add_late(Part::Inode, self.offset_of(*nid), Some(*nid), problem);
            }
        }
    }

    fn offset_of(&self, nid: Nid) -> u64 {
        self.meta.0.saturating_add(nid.0.saturating_mul(crate::erofs::raw::SLOT))
    }
}

/// The root has an empty path while walking.
fn shown(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"/" } else { path }
}
