//! The file tree in memory: inodes in one table, directories as sorted maps from name to inode.

use std::cell::Cell;
use std::collections::BTreeMap;

use mkimg_format::erofs::{FileType, NAME_MAX, PATH_MAX};

use crate::entry::Attributes;
use crate::error::Problem;
use crate::path::components;

/// "No layer": the inode was made because something below it needed it.
pub(crate) const NO_LAYER: u32 = u32::MAX;

/// Symbolic links that are followed on the way to one path.
const SYMLINKS_MAX: u32 = 255;

/// Bytes of targets of symbolic links that are followed in a whole image.
///
/// Real images follow some ten for each entry; a layer of links with long targets could ask for a million.
const FOLLOWED_MAX: u64 = 1 << 30;

/// Index of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InodeId(pub u32);

/// The root directory.
pub(crate) const ROOT: InodeId = InodeId(0);

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Node {
    Dir(Box<Dir>),
    /// Index into the files of the layer that the inode came from.
    File(u32),
    Symlink(Box<[u8]>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
    /// A slot that waits for reuse.
    Gone,
}

/// A directory.
#[derive(Debug)]
pub(crate) struct Dir {
    /// The root is its own parent.
    pub parent: InodeId,
    pub name: Box<[u8]>,
    pub names: BTreeMap<Box<[u8]>, InodeId>,
    /// Length of the absolute path; 0 for the root.
    path_len: usize,
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Inode {
    pub attributes: Attributes,
    /// Number of names; 1 for directories.
    pub nlink: u32,
    /// Index of the layer it came from, or [`NO_LAYER`].
    pub layer: u32,
    pub node: Node,
}

impl Inode {
    pub(crate) const fn dir(&self) -> Option<&Dir> {
        match &self.node {
            Node::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub(crate) const fn file_type(&self) -> FileType {
        match &self.node {
            Node::Dir(_) => FileType::Dir,
            Node::Symlink(_) => FileType::Symlink,
            Node::Char(..) => FileType::Char,
            Node::Block(..) => FileType::Block,
            Node::Fifo => FileType::Fifo,
            Node::Socket => FileType::Socket,
            Node::File(_) | Node::Gone => FileType::File,
        }
    }
}

/// Where a path leads: the deepest directory that is there, and the names that are missing below it.
pub(crate) struct Reached {
    pub dir: InodeId,
    pub missing: Vec<Vec<u8>>,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    free: Vec<InodeId>,
    /// Bytes of targets of symbolic links that were followed so far.
    followed: Cell<u64>,
}

impl Tree {
    /// A root that no layer describes.
    pub(crate) fn new() -> Self {
        let dir = Dir { parent: ROOT, name: Box::default(), names: BTreeMap::new(), path_len: 0 };
        let node = Node::Dir(Box::new(dir));
        let root = Inode { attributes: Attributes::IMPLIED, nlink: 1, layer: NO_LAYER, node };
        Self { inodes: vec![root], free: Vec::new(), followed: Cell::new(0) }
    }

    pub(crate) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.0 as usize]
    }

    /// Number of table slots; ids are below it.
    pub(crate) fn slots(&self) -> usize {
        self.inodes.len()
    }

    /// Number of inodes.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len() - self.free.len()
    }

    fn dir_mut(&mut self, id: InodeId) -> Option<&mut Dir> {
        match &mut self.inode_mut(id).node {
            Node::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// What a directory has under a name.
    pub(crate) fn lookup(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        self.inode(dir).dir()?.names.get(name).copied()
    }

    /// Absolute path of a directory, without a slash at its end.
    pub(crate) fn path_of(&self, dir: InodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut here = dir;
        while let Some(dir) = self.inode(here).dir().filter(|_| here != ROOT) {
            names.push(&dir.name);
            here = dir.parent;
        }
        names.iter().rev().fold(Vec::new(), |mut path, name| {
            path.push(b'/');
            path.extend_from_slice(name);
            path
        })
    }

    /// Follows a path of directories from the root; symbolic links are followed inside the tree.
    ///
    /// Absolute targets start at the root, `..` stops there, a missing name followed by `..` cancels out. Whatever
    /// is neither directory nor link counts as missing.
    pub(crate) fn reach<'a>(
        &'a self,
        path: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Result<Reached, Problem> {
        // Names still to follow, next one last. Bounded: 255 targets of at most 4095 bytes.
        let mut ahead: Vec<&[u8]> = path.rev().collect();
        let mut dir = ROOT;
        let mut missing: Vec<&[u8]> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                if missing.pop().is_none() {
                    dir = self.inode(dir).dir().map_or(ROOT, |dir| dir.parent);
                }
                continue;
            }
            let found = if missing.is_empty() { self.lookup(dir, name) } else { None };
            match found.map(|id| (id, &self.inode(id).node)) {
                Some((id, Node::Dir(_))) => dir = id,
                Some((_, Node::Symlink(target))) => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        let mut path = self.path_of(dir);
                        path.push(b'/');
                        path.extend_from_slice(name);
                        return Err(Problem::SymlinkLoop { path, limit: SYMLINKS_MAX });
                    }
                    if target.first() == Some(&b'/') {
                        dir = ROOT;
                    }
                    ahead.extend(components(target).rev());
                    self.followed.set(self.followed.get() + target.len() as u64);
                    if self.followed.get() > FOLLOWED_MAX {
                        return Err(Problem::SymlinkWork { limit: FOLLOWED_MAX });
                    }
                }
                _ => missing.push(name),
            }
        }
        Ok(Reached { dir, missing: missing.into_iter().map(<[u8]>::to_vec).collect() })
    }

    /// Puts an inode into the table, as yet without a name.
    fn add(&mut self, inode: Inode) -> InodeId {
        if let Some(id) = self.free.pop() {
            *self.inode_mut(id) = inode;
            return id;
        }
        // 2^32 inodes of more than a hundred bytes never fit in memory.
        let id = InodeId(u32::try_from(self.inodes.len()).unwrap_or(u32::MAX));
        self.inodes.push(inode);
        id
    }

    /// Length of the path of `name` in `dir`, if it is one that Linux can have.
    fn check_name(&self, dir: InodeId, name: &[u8]) -> Result<usize, Problem> {
        if name.len() > NAME_MAX {
            return Err(Problem::TooLong { what: "name", found: name.len(), limit: NAME_MAX });
        }
        let found = self.inode(dir).dir().map_or(0, |dir| dir.path_len) + 1 + name.len();
        if found > PATH_MAX {
            return Err(Problem::TooLong { what: "path after symbolic links", found, limit: PATH_MAX });
        }
        Ok(found)
    }

    /// Adds a directory under a name that is free.
    pub(crate) fn add_dir(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        layer: u32,
    ) -> Result<InodeId, Problem> {
        let path_len = self.check_name(parent, name)?;
        let dir = Dir { parent, name: name.into(), names: BTreeMap::new(), path_len };
        let id = self.add(Inode { attributes, nlink: 1, layer, node: Node::Dir(Box::new(dir)) });
        self.put_name(parent, name, id);
        Ok(id)
    }

    /// Adds anything but a directory under a name that is free.
    pub(crate) fn add_leaf(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        layer: u32,
        node: Node,
    ) -> Result<(), Problem> {
        self.check_name(parent, name)?;
        let id = self.add(Inode { attributes, nlink: 1, layer, node });
        self.put_name(parent, name, id);
        Ok(())
    }

    /// Gives an inode that is not a directory a further name, one that is free.
    pub(crate) fn link(&mut self, parent: InodeId, name: &[u8], id: InodeId) -> Result<(), Problem> {
        self.check_name(parent, name)?;
        self.hold(id);
        self.put_name(parent, name, id);
        Ok(())
    }

    /// Counts one more name of an inode, so that it outlives the removal of the others.
    pub(crate) fn hold(&mut self, id: InodeId) {
        self.inode_mut(id).nlink += 1;
    }

    /// Undoes [`Self::hold`] once the new name is in place.
    pub(crate) fn release(&mut self, id: InodeId) {
        self.inode_mut(id).nlink -= 1;
    }

    fn put_name(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        if let Some(dir) = self.dir_mut(parent) {
            dir.names.insert(name.into(), id);
        }
    }

    /// Removes a name with everything below it, and tells of each inode that loses its last name: inode, path.
    pub(crate) fn remove(&mut self, parent: InodeId, name: &[u8], gone: &mut dyn FnMut(&Inode, &[u8])) {
        let Some(dir) = self.dir_mut(parent) else { return };
        let Some((name, id)) = dir.names.remove_entry(name) else { return };
        let mut path = self.path_of(parent);
        // Directories on the way down, each with the length of its path and what is left in it.
        let mut stack =
            vec![(path.len(), std::iter::once((name, id)).collect::<BTreeMap<_, _>>().into_iter())];
        while let Some((length, names)) = stack.last_mut() {
            path.truncate(*length);
            let Some((name, id)) = names.next() else {
                stack.pop();
                continue;
            };
            path.push(b'/');
            path.extend_from_slice(&name);
            let inode = self.inode_mut(id);
            inode.nlink -= 1;
            if inode.nlink > 0 {
                continue;
            }
            gone(inode, &path);
            if let Node::Dir(dir) = std::mem::replace(&mut inode.node, Node::Gone) {
                stack.push((path.len(), dir.names.into_iter()));
            }
            self.free.push(id);
        }
    }
}
