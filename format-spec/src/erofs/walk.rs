//! Walking the whole tree of an image that may be hostile.

use std::collections::HashSet;

use super::{Dir, FileSystem, FileType, Inode, Nid, PATH_MAX, escape};
use crate::{Error, Part, Problem, ReadAt, Result};

/// One name of the tree.
#[derive(Debug, Clone)]
pub struct WalkEntry {
    /// Absolute path; `/` for the root.
    pub path: Vec<u8>,
    /// The inode it leads to.
    pub inode: Inode,
    /// `EROFS_FT_*` of the directory entry; that of a directory for the root.
    pub dirent_type: u8,
}

/// Depth-first walk without recursion.
///
/// Ends whatever the image holds: no directory is entered twice, no path is longer than [`PATH_MAX`], and the
/// directories that are entered are together no longer than the image, even where they share blocks. After an error
/// below a directory the walk goes on beside it.
pub struct Walk<'a, R> {
    fs: &'a FileSystem<R>,
    stack: Vec<(usize, Dir<'a, R>)>,
    path: Vec<u8>,
    entered: HashSet<Nid>,
    /// Bytes of directories that may still be entered.
    budget: u64,
    started: bool,
}

impl<'a, R: ReadAt> Walk<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>) -> Self {
        let budget = fs.superblock().length();
        Self { fs, stack: Vec::new(), path: Vec::new(), entered: HashSet::new(), budget, started: false }
    }

    /// The directory whose entries come next; `/` at the top.
    #[must_use]
    pub fn position(&self) -> &[u8] {
        if self.path.is_empty() { b"/" } else { &self.path }
    }

    fn enter(&mut self, inode: &Inode) -> Result<()> {
        if !self.entered.insert(inode.nid) {
            return Err(Error::corrupt(Part::Directory, inode.offset, Problem::Loop));
        }
        let Some(budget) = self.budget.checked_sub(inode.size) else {
            let problem = Problem::TooMany("bytes of directories");
            return Err(Error::corrupt(Part::Directory, inode.offset, problem));
        };
        self.budget = budget;
        self.stack.push((self.path.len(), self.fs.read_dir(inode)));
        Ok(())
    }

    fn step(&mut self) -> Result<Option<WalkEntry>> {
        if !self.started {
            self.started = true;
            let inode = self.fs.root()?;
            self.enter(&inode)?;
            return Ok(Some(WalkEntry {
                path: b"/".to_vec(),
                dirent_type: FileType::Dir.dirent_type(),
                inode,
            }));
        }
        loop {
            let Some((length, dir)) = self.stack.last_mut() else { return Ok(None) };
            self.path.truncate(*length);
            let entry = match dir.next() {
                None => {
                    self.stack.pop();
                    continue;
                }
                Some(entry) => entry?,
            };
            if entry.is_dot() {
                continue;
            }
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            if self.path.len() > PATH_MAX {
                let name = Problem::Name(escape(&entry.name));
                return Err(Error::corrupt(Part::Directory, self.fs.inode_offset(entry.nid), name));
            }
            let inode = self.fs.inode(entry.nid)?;
            let path = self.path.clone();
            if inode.file_type == FileType::Dir {
                self.enter(&inode)?;
            }
            return Ok(Some(WalkEntry { path, inode, dirent_type: entry.file_type }));
        }
    }
}

impl<R: ReadAt> Iterator for Walk<'_, R> {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
