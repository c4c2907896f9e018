//! The tree: one pass over all directories, and what it says about names and links.
//!
//! Inodes are numbered breadth first, so the directories can be taken in the order of their numbers, and whatever
//! name leads to an inode for the first time leads to the one that is next in the area. Two cursors, one at the
//! directory that is read and one behind the last inode that was met, are all that has to be kept.

use super::Lint;
use super::findings::About;
use super::space::Place;
use crate::erofs::raw::DIRENT_LEN;
use crate::erofs::{DirEntry, FileSystem, FileType, Inode, Nid, PATH_MAX, escape};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, ReadAt, Result};

/// What is counted on the way.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Inodes that were met.
    pub(super) inodes: u64,
    /// Names beyond the first of inodes that claim several.
    pub(super) further_names: u64,
    /// Whether an inode claims several names.
    pub(super) linked: bool,
    /// Whether a chunk-based inode was met.
    pub(super) chunked: bool,
    /// Whether a compressed inode was met.
    pub(super) compressed: bool,
    /// Whether an inode with encoded extents was met.
    pub(super) encoded: bool,
}

/// No path is longer than the longest names of all levels together.
#[derive(Debug)]
struct Depth {
    /// Last inode of the level above the names that are read.
    level_end: Nid,
    /// Longest name of this level, with its slash.
    longest: usize,
    /// Sum over the levels before.
    above: usize,
}

/// A directory that is read.
#[derive(Default)]
struct Reading {
    dots: Dots,
    subdirs: u32,
    /// Bytes of the directory up to the last entry, when blocks are filled as the writer does.
    packed: u64,
}

/// Which of the two standing entries were met.
#[derive(Default)]
struct Dots {
    own: bool,
    parent: bool,
}

impl Reading {
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
    /// Reads every directory once and looks at every inode once.
    pub(super) fn walk<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let about = About::Inode(fs.superblock().root);
        let Some(root) = self.out.take(fs.root(), about)? else { return Ok(()) };
        if self.place(fs, &root, about)? == Place::Next {
            self.meet(fs, &root, &root)?;
        }
        let mut depth = Depth { level_end: root.nid, longest: 0, above: 0 };
        let mut dirs = fs.first_inodes(u64::MAX);
        // What is behind the last inode has no name, and is no directory of this tree.
        while dirs.position() <= self.space.last
            && let Some(inode) = dirs.next()
        {
            let dir = match inode {
                Ok(inode) if inode.file_type == FileType::Dir && inode.nid <= self.space.last => inode,
                Err(error @ Error::Io { .. }) => return Err(error),
                // One that cannot be read was reported with its name.
                _ => continue,
            };
            if dir.nid > depth.level_end {
                depth.above = depth.above.saturating_add(depth.longest);
                (depth.level_end, depth.longest) = (self.space.last, 0);
            }
            let longest = self.check_dir(fs, &dir)?;
            depth.longest = depth.longest.max(longest.saturating_add(1));
        }
        if depth.above.saturating_add(depth.longest) > PATH_MAX && self.space.intact {
            self.check_paths(fs)?;
        }
        Ok(())
    }

    /// Reports paths that are too long. Everything else that a walk stumbles over has been reported.
    fn check_paths<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let mut walk = fs.walk();
        while let Some(entry) = walk.next() {
            let Err(error) = entry else { continue };
            if matches!(error, Error::Io { .. }) {
                return Err(error);
            }
            if walk.position().len() > PATH_MAX {
                self.out.take::<()>(Err(error), About::Nothing)?;
            }
        }
        Ok(())
    }

    /// Checks one directory and meets what it names. Returns the length of its longest name.
    fn check_dir<R: ReadAt>(&mut self, fs: &FileSystem<&R>, dir: &Inode) -> Result<usize> {
        let about = About::Inode(dir.nid);
        let Some(left) = self.dirs_left.checked_sub(dir.size) else {
            let problem = "directories are together larger than the metadata area, not examined";
            self.out.add(Part::Directory, dir.offset, about, problem);
            self.space.intact = false;
            return Ok(0);
        };
        self.dirs_left = left;
        let mut reading = Reading::default();
        let mut longest = 0;
        for entry in fs.read_dir(dir) {
            // What was not read cannot be counted.
            let Some(entry) = self.out.take(entry, about)? else { return Ok(longest) };
            longest = longest.max(entry.name.len());
            reading.pack(&entry.name);
            if entry.is_dot() {
                self.check_dot(dir, &mut reading, &entry);
            } else if self.follow(fs, dir, &entry)? {
                reading.subdirs = reading.subdirs.saturating_add(1);
            }
        }
        let Reading { dots, subdirs, packed } = reading;
        let mut wrong = |part: Part, problem: String| self.out.add(part, dir.offset, about, problem);
        for (there, name) in [(dots.own, "."), (dots.parent, "..")] {
            if !there {
                wrong(Part::Directory, format!("entry {name} is missing"));
            }
        }
        if packed != dir.size {
            let problem = format!("i_size is {}, the entries take {packed} bytes", dir.size);
            wrong(Part::Directory, problem);
        }
        let links = subdirs.saturating_add(2);
        if dir.nlink != links {
            wrong(Part::Inode, format!("i_nlink is {}, {links} links were found", dir.nlink));
        }
        Ok(longest)
    }

    /// `.` and `..`. Where `..` leads is checked when the directory is met, as its parent is known then.
    fn check_dot(&mut self, dir: &Inode, reading: &mut Reading, entry: &DirEntry) {
        let own = entry.name == b".";
        let dots = &mut reading.dots;
        *(if own { &mut dots.own } else { &mut dots.parent }) = true;
        if own && entry.nid != dir.nid {
            self.wrong_dot(dir, ".", entry.nid, dir.nid);
        }
        if entry.file_type != FileType::Dir.dirent_type() {
            let name = escape(&entry.name);
            let problem = format!("file_type of entry {name} is {}, must be 2", entry.file_type);
            self.out.add(Part::Directory, dir.offset, About::Inode(dir.nid), problem);
        }
    }

    fn wrong_dot(&mut self, dir: &Inode, name: &str, found: Nid, expected: Nid) {
        let problem = format!("entry {name} leads to inode {found}, must be {expected}");
        self.out.add(Part::Directory, dir.offset, About::Inode(dir.nid), problem);
    }

    /// Any other entry. Returns whether it leads to a directory of this one.
    fn follow<R: ReadAt>(&mut self, fs: &FileSystem<&R>, dir: &Inode, entry: &DirEntry) -> Result<bool> {
        let about = About::Name(dir.nid, &entry.name);
        let Some(inode) = self.out.take(fs.inode(entry.nid), about)? else {
            if entry.nid > self.space.last {
                self.space.lose_place();
            }
            return Ok(entry.file_type == FileType::Dir.dirent_type());
        };
        let is_dir = inode.file_type == FileType::Dir;
        let place = self.place(fs, &inode, about)?;
        match place {
            Place::Next => self.meet(fs, &inode, dir)?,
            Place::Before if is_dir => {
                let problem = format!("directory {} has a second name", entry.nid);
                self.out.add(Part::Directory, dir.offset, about, problem);
            }
            Place::Before if inode.nlink == 1 => {
                let problem = "i_nlink is 1, but more than one name leads here";
                self.out.add(Part::Inode, inode.offset, about, problem);
            }
            Place::Before => {
                self.census.further_names = self.census.further_names.saturating_add(1);
            }
            Place::Elsewhere => {
                if is_dir && self.parent_of(fs, &inode)?.is_some_and(|parent| parent != dir.nid) {
                    let problem = format!("directory {} has a second name", entry.nid);
                    self.out.add(Part::Directory, dir.offset, about, problem);
                }
            }
        }
        if inode.file_type.dirent_type() != entry.file_type {
            let word = inode.file_type.word();
            let problem = format!("file_type is {}, the inode is a {word}", entry.file_type);
            self.out.add(Part::Directory, dir.offset, about, problem);
        }
        Ok(is_dir && place == Place::Next)
    }

    /// An inode that has not been seen before.
    fn meet<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, parent: &Inode) -> Result<()> {
        let census = &mut self.census;
        census.inodes = census.inodes.saturating_add(1);
        census.linked |= inode.file_type != FileType::Dir && inode.nlink > 1;
        self.check_inode(fs, inode)?;
        if inode.file_type == FileType::Dir
            && let Some(found) = self.parent_of(fs, inode)?.filter(|found| *found != parent.nid)
        {
            self.wrong_dot(inode, "..", found, parent.nid);
        }
        Ok(())
    }

    /// Where `..` of a directory leads. `None` if that cannot be found, which the pass over its entries reports, as
    /// it does when directories are too large.
    fn parent_of<R: ReadAt>(&mut self, fs: &FileSystem<&R>, dir: &Inode) -> Result<Option<Nid>> {
        let Some(left) = self.met_left.checked_sub(dir.size) else { return Ok(None) };
        self.met_left = left;
        match fs.lookup(dir, b"..") {
            Err(error @ Error::Io { .. }) => Err(error),
            found => Ok(found.ok().flatten()),
        }
    }

    /// The number of inodes.
    pub(super) fn check_inos(&mut self, inos: u64) {
        let found = self.census.inodes;
        if inos != found {
            let problem = format!("inos is {inos}, {found} inodes were found");
            self.out.add(Part::Superblock, super::block0::at(0x10), About::Nothing, problem);
        }
    }
}
