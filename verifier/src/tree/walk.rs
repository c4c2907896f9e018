//! The directories of image and tree, side by side.
//!
//! Directories wait on one stack that all threads take from: the last one first, so that what waits is the siblings
//! on the way to where the threads are, not a whole level of the tree.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use mkimg_format::ReadAt;
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{DirEntry, FileSystem, FileType, Inode, Nid};
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use rustix::io::Errno;

use super::digests::Digests;
use super::entry::Worker;
use super::first_difference::Blocks;
use super::host::{Stat, Tree, is_replaced};
use super::links::Links;
use super::names::Names;
use super::report::{Findings, TreeReport};
use super::xattrs::{Handle, sees_trusted};
use super::{Error, Field, Scope, TreeOptions};
use crate::attributes::Attributes;
use crate::difference::{Difference, Kind};

/// Most threads that are used.
const THREADS_MAX: usize = 64;

/// Compares a directory of this machine with an image, or a detached seal, and reports everything that differs.
///
/// The image is taken as it is: audit it first. `image` may be a detached seal, opened or not.
///
/// # Errors
/// When nothing could be compared: the directory cannot be opened, or the image has no records. What cannot be read
/// in the tree is a finding.
pub fn audit_tree<R: ReadAt + Sync>(
    image: &R,
    dir: &Path,
    options: &TreeOptions<'_>,
) -> Result<TreeReport, Error> {
    audit_scope(image, dir, &Scope::everything(), options)
}

/// As [`audit_tree`], for some paths only.
///
/// Hard links are compared as far as they are among these paths: what is found of [`Kind::Links`] need not be one.
///
/// # Errors
/// As [`audit_tree`].
pub fn audit_scope<R: ReadAt + Sync>(
    image: &R,
    dir: &Path,
    scope: &Scope,
    options: &TreeOptions<'_>,
) -> Result<TreeReport, Error> {
    let image = Sealed::open(image)?;
    let header = Header::read(&image)?;
    let fs = FileSystem::open(&image)?;
    let seal = Seal::open(&image, &header)?;
    let audit = Audit {
        digests: Digests::new(&seal)?,
        blocks: Blocks::new(&header),
        tree: Tree::open(dir, options.cross_mounts)?,
        fs: &fs,
        options,
        findings: Findings::new(options.only_security),
        listed: Mutex::new(HashSet::new()),
        links: Links::default(),
        queue: Queue::default(),
        sees_trusted: sees_trusted(),
    };
    let root = fs.root()?.nid;
    audit.seed(scope, root);
    std::thread::scope(|scope| {
        for _ in 1..options.threads.min(NonZeroUsize::new(THREADS_MAX).unwrap_or(NonZeroUsize::MIN)).get() {
            // Fewer threads than wished do the same work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || audit.work());
        }
        audit.work();
    });
    Ok(audit.finish())
}

/// All that the threads share.
pub(super) struct Audit<'a, R> {
    pub(super) fs: &'a FileSystem<&'a R>,
    pub(super) digests: Digests<'a, R>,
    pub(super) blocks: Blocks,
    pub(super) tree: Tree,
    pub(super) options: &'a TreeOptions<'a>,
    pub(super) findings: Findings,
    pub(super) links: Links,
    pub(super) sees_trusted: bool,
    /// Directories of the image that were listed because the tree has them not: a broken image may be a circle.
    listed: Mutex<HashSet<Nid>>,
    queue: Queue,
}

/// What is to be done with a directory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
    /// Image and tree have it both.
    Compare(Nid),
    /// As before, but its names do not matter.
    Attributes(Nid),
    /// The image has it, the tree has not: everything in it is missing.
    Missing(Nid),
    /// The tree has it, the image has not: everything in it is extra.
    Extra,
}

/// A directory that waits.
struct Item {
    /// Path of the directory it is in; empty for the root.
    parent: Arc<[u8]>,
    /// Its name; empty for the root.
    name: Box<[u8]>,
    task: Task,
}

impl Item {
    /// Its path, with a slash in front; empty for the root.
    fn path(&self) -> Vec<u8> {
        if self.name.is_empty() { Vec::new() } else { join(&self.parent, &self.name) }
    }
}

/// A path in a directory whose own is empty if it is the root.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

/// A path as it is reported.
fn shown(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"/".to_vec() } else { path.to_vec() }
}

/// Puts directories below a path on the stack; the path is kept once for all of them.
struct Below<'a> {
    path: &'a [u8],
    parent: Option<Arc<[u8]>>,
    queue: &'a Queue,
}

impl<'a> Below<'a> {
    const fn new(path: &'a [u8], queue: &'a Queue) -> Self {
        Self { path, parent: None, queue }
    }

    fn push(&mut self, name: &[u8], task: Option<Task>) {
        let Some(task) = task else { return };
        let parent = self.parent.get_or_insert_with(|| self.path.into()).clone();
        self.queue.push(Item { parent, name: name.into(), task });
    }
}

/// The directories that wait.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Item>,
    /// Threads that may still find more.
    busy: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Item) {
        self.lock().waiting.push(item);
        self.ready.notify_one();
    }

    /// The next directory; `None` when there is none and none will come.
    fn take(&self) -> Option<Item> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.waiting.pop() {
                state.busy = state.busy.saturating_add(1);
                return Some(item);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A directory that was taken is done.
    fn done(&self) {
        let mut state = self.lock();
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 && state.waiting.is_empty() {
            self.ready.notify_all();
        }
    }
}

/// Says that a directory is done, even if doing it panicked: the other threads must not wait for ever.
struct Done<'a>(&'a Queue);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done();
    }
}

impl<R: ReadAt + Sync> Audit<'_, R> {
    /// Puts a directory on the stack.
    pub(super) fn push(&self, parent: &[u8], name: &[u8], task: Task) {
        self.queue.push(Item { parent: parent.into(), name: name.into(), task });
    }

    fn work(&self) {
        let mut worker = Worker::new(self);
        let mut names = Names::default();
        while let Some(item) = self.queue.take() {
            let _done = Done(&self.queue);
            let path = item.path();
            match item.task {
                Task::Compare(nid) => self.compare(&path, nid, &mut worker, &mut names),
                Task::Attributes(nid) => {
                    self.attributes(&path, nid, &mut worker);
                }
                Task::Missing(nid) => self.list_missing(&path, nid),
                Task::Extra => self.list_extra(&path, &mut worker, &mut names),
            }
        }
    }

    /// Compares one directory, and everything in it but its directories, which are put on the stack.
    fn compare(&self, path: &[u8], nid: Nid, worker: &mut Worker<'_, R>, names: &mut Names) {
        let Some((inode, fd, before)) = self.attributes(path, nid, worker) else { return };
        if let Err(error) = names.read(&fd) {
            return self.failed(shown(path), error);
        }
        self.merge(path, &inode, names, |name, nid| match nid {
            Some(nid) => worker.entry(&fd, path, name, nid),
            None => worker.extra(&fd, path, name),
        });
        self.check_unchanged(path, &fd, &before);
    }

    /// Compares a directory without what is in it; `None` if its names cannot be read, which has been said then.
    fn attributes(
        &self,
        path: &[u8],
        nid: Nid,
        worker: &mut Worker<'_, R>,
    ) -> Option<(Inode, OwnedFd, Stat)> {
        let shown = || shown(path);
        let failed = |error| self.failed(shown(), error);
        let inode = self.fs.inode(nid).map_err(|error| self.image_fault(shown(), &error)).ok()?;
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let (fd, readable) = match self.tree.open_dir(relative) {
            Ok(fd) => (fd, true),
            Err(error) => {
                failed(error);
                if !matches!(error, Errno::ACCESS | Errno::PERM) {
                    return None;
                }
                // Not to be had at all: that has been said.
                (self.tree.open_dir_path(relative).ok()?, false)
            }
        };
        let before = Stat::of(&fd).map_err(failed).ok()?;
        self.findings.count(1, 0);
        if !path.is_empty() || !self.options.ignores_root() {
            worker.attributes(&shown, &inode, &before);
            let fd = std::os::fd::AsFd::as_fd(&fd);
            worker.xattrs(&shown, &inode, if readable { Handle::Open(fd) } else { Handle::Path(fd) });
        }
        readable.then_some((inode, fd, before))
    }

    /// Lists what is in a directory that the image has not.
    fn list_extra(&self, path: &[u8], worker: &mut Worker<'_, R>, names: &mut Names) {
        let failed = |error| self.failed(path.to_vec(), error);
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let opened = self.tree.open_dir(relative).and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat)));
        let (fd, before) = match opened {
            Ok(opened) => opened,
            Err(error) => return failed(error),
        };
        if let Err(error) = names.read(&fd) {
            return failed(error);
        }
        let mut below = Below::new(path, &self.queue);
        let mut index = 0_usize;
        while let Some(name) = names.get(index) {
            if !self.ignores(path, name) {
                below.push(name, worker.extra(&fd, path, name));
            }
            index = index.saturating_add(1);
        }
        self.check_unchanged(path, &fd, &before);
    }

    /// Lists what is in a directory that the tree has not.
    fn list_missing(&self, path: &[u8], nid: Nid) {
        let inode = match self.fs.inode(nid) {
            Ok(inode) => inode,
            Err(error) => return self.image_fault(path.to_vec(), &error),
        };
        if !self.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(nid) {
            let why = "the directory has a second name";
            return self.findings.add(Difference::new(path.to_vec(), Kind::Image).expected(why));
        }
        let mut below = Below::new(path, &self.queue);
        for entry in self.fs.read_dir(&inode) {
            match entry {
                Ok(entry) if entry.is_dot() => {}
                Ok(entry) => below.push(&entry.name, self.missing(path, &entry)),
                Err(error) => return self.image_fault(path.to_vec(), &error),
            }
        }
    }

    fn check_unchanged(&self, path: &[u8], fd: &OwnedFd, before: &Stat) {
        match Stat::of(fd) {
            Ok(after) if before.is_unchanged(&after) => {}
            Ok(_) => {
                let why = "changed during the audit";
                self.findings.add(Difference::new(shown(path), Kind::Changing).found(why));
            }
            Err(error) => self.failed(shown(path), error),
        }
    }

    fn ignores(&self, path: &[u8], name: &[u8]) -> bool {
        !self.options.ignore_paths.is_empty() && self.options.ignores(&join(path, name))
    }

    /// Merges the sorted names of image and tree; calls `there` for those that the tree has, with the inode if the
    /// image has them too, and puts the directories that are to be done on the stack.
    fn merge(
        &self,
        path: &[u8],
        inode: &Inode,
        names: &Names,
        mut there: impl FnMut(&[u8], Option<Nid>) -> Option<Task>,
    ) {
        let mut below = Below::new(path, &self.queue);
        let mut index = 0_usize;
        let mut visit = |name: &[u8], nid: Option<Nid>| {
            if self.ignores(path, name) { None } else { there(name, nid) }
        };
        for entry in self.fs.read_dir(inode) {
            let entry = match entry {
                Ok(entry) if entry.is_dot() => continue,
                Ok(entry) => entry,
                Err(error) => return self.image_fault(shown(path), &error),
            };
            let mut found = false;
            while let Some(name) = names.get(index) {
                match name.cmp(&entry.name) {
                    Ordering::Less => below.push(name, visit(name, None)),
                    Ordering::Equal => found = true,
                    Ordering::Greater => break,
                }
                index = index.saturating_add(1);
                if found {
                    break;
                }
            }
            let task = if found { visit(&entry.name, Some(entry.nid)) } else { self.missing(path, &entry) };
            below.push(&entry.name, task);
        }
        while let Some(name) = names.get(index) {
            below.push(name, visit(name, None));
            index = index.saturating_add(1);
        }
    }

    /// Reports one name that the tree has not; returns what there is to do below it.
    pub(super) fn missing(&self, path: &[u8], entry: &DirEntry) -> Option<Task> {
        if self.ignores(path, &entry.name) {
            return None;
        }
        match self.fs.inode(entry.nid) {
            Ok(inode) => {
                let what = Attributes::from(&inode).describe();
                self.findings.count_linked(inode.file_type, inode.nlink);
                self.findings.add(Difference::new(join(path, &entry.name), Kind::Missing).expected(what));
                (inode.file_type == FileType::Dir).then_some(Task::Missing(entry.nid))
            }
            Err(error) => {
                self.image_fault(join(path, &entry.name), &error);
                None
            }
        }
    }

    /// What the error of a call on a name of the tree means.
    pub(super) fn failed(&self, path: Vec<u8>, error: Errno) {
        let (kind, why) = match error {
            error if is_replaced(error) => (Kind::Changing, "replaced during the audit".to_owned()),
            error => (Kind::Unreadable, error.to_string()),
        };
        self.findings.add(Difference::new(path, kind).found(why));
    }

    /// The image cannot be read, or breaks the format.
    pub(super) fn image_fault(&self, path: Vec<u8>, error: &mkimg_format::Error) {
        self.findings.add(Difference::new(path, Kind::Image).expected(error.to_string()));
    }

    fn finish(self) -> TreeReport {
        let mut unseen: Vec<String> = self.links.finish(self.options, &self.findings).into_iter().collect();
        let trusted = !self.sees_trusted && !self.options.ignores_xattr(b"trusted.any");
        if self.options.compares(Field::Xattrs) && trusted {
            let why = "xattrs trusted.*: the system shows them to CAP_SYS_ADMIN only";
            unseen.push(why.to_owned());
        }
        self.findings.finish(unseen)
    }
}
