//! Walking the whole tree of an image that may be hostile.

use std::collections::BTreeMap;

use super::{Dir, FileSystem, FileType, Inode, Nid, PATH_MAX};
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

/// Depth-first walk without recursion, in memory that depends on nothing: a block for each directory on the way
/// down, which are 2048 at most.
///
/// Ends whatever the image holds. A directory is entered from the one that its `..` names and from no other, so
/// there are no loops; no path is longer than [`PATH_MAX`]; and the directories that are entered are together no
/// longer than the image, even where they share blocks. After an error below a directory the walk goes on beside it.
pub struct Walk<'a, R> {
    fs: &'a FileSystem<R>,
    stack: Vec<Frame<'a, R>>,
    path: Vec<u8>,
    /// A directory that was returned and is to be entered.
    ahead: Option<Inode>,
    /// Bytes of directories that may still be entered.
    budget: u64,
    started: bool,
}

/// A directory on the way down.
struct Frame<'a, R> {
    nid: Nid,
    path_len: usize,
    dir: Dir<'a, R>,
}

impl<'a, R: ReadAt> Walk<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>) -> Self {
        let budget = fs.superblock().length();
        Self { fs, stack: Vec::new(), path: Vec::new(), ahead: None, budget, started: false }
    }

    /// The directory whose entries come next; `/` at the top.
    #[must_use]
    pub fn position(&self) -> &[u8] {
        if self.path.is_empty() { b"/" } else { &self.path }
    }

    fn enter(&mut self, inode: &Inode) -> Result<()> {
        let part = Part::Directory;
        let Some(budget) = self.budget.checked_sub(inode.size) else {
            return Err(Error::corrupt(part, inode.offset, Problem::TooMany("bytes of directories")));
        };
        self.budget = budget;
        if let Some(parent) = self.stack.last() {
            // Only the root may be its own parent.
            let root = inode.nid == self.fs.superblock().root;
            if root || self.fs.lookup(inode, b"..")? != Some(parent.nid) {
                return Err(Error::corrupt(part, inode.offset, Problem::Loop));
            }
        }
        let dir = self.fs.read_dir(inode);
        self.stack.push(Frame { nid: inode.nid, path_len: self.path.len(), dir });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<WalkEntry>> {
        let dirent_type = FileType::Dir.dirent_type();
        if !self.started {
            self.started = true;
            let inode = self.fs.root()?;
            self.ahead = Some(inode.clone());
            return Ok(Some(WalkEntry { path: b"/".to_vec(), dirent_type, inode }));
        }
        if let Some(dir) = self.ahead.take() {
            self.enter(&dir)?;
        }
        loop {
            let Some(frame) = self.stack.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path_len);
            let entry = match frame.dir.next() {
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
                let offset = self.fs.inode_offset(entry.nid);
                return Err(Error::corrupt(Part::Directory, offset, Problem::LongPath));
            }
            let inode = self.fs.inode(entry.nid)?;
            if inode.file_type == FileType::Dir {
                self.ahead = Some(inode.clone());
            }
            return Ok(Some(WalkEntry { path: self.path.clone(), inode, dirent_type: entry.file_type }));
        }
    }
}

impl<R: ReadAt> Iterator for Walk<'_, R> {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl<R: ReadAt> FileSystem<R> {
    /// A path of each of some inodes, as far as names that can be read lead to it.
    ///
    /// One walk over the tree. The paths take at most `room` bytes together; inodes that come up when there is no
    /// more room are left out.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn paths_of(
        &self,
        nids: impl IntoIterator<Item = Nid>,
        mut room: usize,
    ) -> Result<BTreeMap<Nid, Vec<u8>>> {
        let mut paths: BTreeMap<Nid, Option<Vec<u8>>> = nids.into_iter().map(|nid| (nid, None)).collect();
        let mut missing = paths.len();
        let mut walk = self.walk();
        while missing > 0
            && let Some(entry) = walk.next()
        {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(_) => continue,
            };
            if let Some(path @ None) = paths.get_mut(&entry.inode.nid) {
                let Some(left) = room.checked_sub(entry.path.len()) else { continue };
                room = left;
                *path = Some(entry.path);
                missing = missing.saturating_sub(1);
            }
        }
        Ok(paths.into_iter().filter_map(|(nid, path)| Some((nid, path?))).collect())
    }
}
