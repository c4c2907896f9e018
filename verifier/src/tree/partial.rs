//! Audits of some paths of a tree.
//!
//! Each path is looked up on both sides and compared alone; what is below it, when that is wanted, is left to the walk.
//! The directories on the way there are passed through without a look.

use std::os::fd::OwnedFd;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{DirEntry, FileType, Inode, Nid};
use rustix::io::Errno;

use super::entry::Worker;
use super::host::{Stat, is_replaced};
use super::scope::{Depth, Scope, parent};
use super::walk::{Audit, Task};

/// A directory that names of the scope are in, on both sides.
struct Above {
    path: Vec<u8>,
    /// In the image; `None` if it has no such directory.
    inode: Option<Inode>,
    /// In the tree; `None` if it has no such directory.
    fd: Option<OwnedFd>,
}

impl<R: ReadAt + Sync> Audit<'_, R> {
    /// Compares the paths of a scope; directories that are to be done as a whole are put on the stack.
    pub(super) fn seed(&self, scope: &Scope, root: Nid) {
        let mut worker = Worker::new(self);
        let mut above: Option<Above> = None;
        for (path, depth) in scope.iter() {
            let Some(dir) = parent(path) else {
                self.push(
                    b"",
                    b"",
                    if depth == Depth::Own { Task::Attributes(root) } else { Task::Compare(root) },
                );
                continue;
            };
            if self.options.ignores_with_parents(path) {
                continue;
            }
            let current = match above.take().filter(|above| above.path == dir) {
                Some(above) => above,
                None => match self.above(dir) {
                    Some(above) => above,
                    None => continue,
                },
            };
            let name = path.get(dir.len()..).and_then(|rest| rest.strip_prefix(b"/")).unwrap_or_default();
            self.seed_name(&mut worker, &current, name, depth);
            above = Some(current);
        }
    }

    /// Opens a directory on both sides; `None` if that cannot be done, which has been said then.
    fn above(&self, path: &[u8]) -> Option<Above> {
        let inode = match self.image_directory(path) {
            Ok(inode) => inode,
            Err(error) => {
                self.image_fault(path.to_vec(), &error);
                return None;
            }
        };
        let fd = match self.tree.open_dir(path.strip_prefix(b"/").unwrap_or(path)) {
            Ok(fd) => Some(fd),
            // Behind a mount, which is a finding itself.
            Err(Errno::XDEV) => return None,
            Err(error) if is_replaced(error) => None,
            Err(error) => {
                self.failed(path.to_vec(), error);
                return None;
            }
        };
        Some(Above { path: path.to_vec(), inode, fd })
    }

    fn image_directory(&self, path: &[u8]) -> Result<Option<Inode>, mkimg_format::Error> {
        let mut inode = self.fs.root()?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.fs.lookup(&inode, name)? {
                Some(nid) => inode = self.fs.inode(nid)?,
                None => return Ok(None),
            }
            if inode.file_type != FileType::Dir {
                return Ok(None);
            }
        }
        Ok(Some(inode))
    }

    fn seed_name(&self, worker: &mut Worker<'_, R>, above: &Above, name: &[u8], depth: Depth) {
        let shipped = match above.inode.as_ref().map(|dir| self.fs.lookup(dir, name)).transpose() {
            Ok(shipped) => shipped.flatten(),
            Err(error) => return self.image_fault(above.path.clone(), &error),
        };
        let there = above.fd.as_ref().filter(|fd| !matches!(Stat::at(fd, name), Err(Errno::NOENT)));
        if there.is_none() {
            self.findings.suspect_links();
        }
        let task = match (shipped, there) {
            (None, None) => None,
            (Some(nid), Some(fd)) => worker.entry(fd, &above.path, name, nid),
            (None, Some(fd)) => worker.extra(fd, &above.path, name),
            (Some(nid), None) => {
                self.missing(&above.path, &DirEntry { name: name.to_vec(), nid, file_type: 0 })
            }
        };
        match (task, depth) {
            (None, _) => {}
            (Some(Task::Compare(nid)), Depth::Own) => self.push(&above.path, name, Task::Attributes(nid)),
            (Some(_), Depth::Own) => {}
            (Some(task), Depth::Below) => self.push(&above.path, name, task),
        }
    }
}
