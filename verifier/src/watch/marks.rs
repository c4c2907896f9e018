//! The marks on the directories of a tree, and what the kernel says about them.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use mkimg_format::erofs::escape;
use mkimg_kernel::fanotify::{Change, Event, Group, ReadError};
use mkimg_kernel::handle::Handle;
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::pending::{Cause, Pending};
use super::places::{Place, Places};
use crate::tree::scope::below;
use crate::tree::{Depth, Tree, TreeOptions, is_replaced};

/// Directories that are watched at most.
const DIRECTORIES_MAX: usize = 1 << 20;
/// Bytes of a directory that are read at once.
const BUFFER: usize = 32 << 10;
/// Times that the queue is read before what came is looked at: somebody may fill it faster than it is emptied.
const READS_MAX: usize = 64;

/// A marked tree.
#[derive(Debug)]
pub(super) struct Marks {
    group: Group,
    places: Places,
    blind: Blind,
}

/// Directories that cannot be watched.
#[derive(Debug, Default)]
struct Blind {
    paths: BTreeSet<Vec<u8>>,
    /// Why not the first of them.
    why: Option<String>,
}

impl Marks {
    /// Nothing is marked yet.
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self { group: Group::of_directories()?, places: Places::default(), blind: Blind::default() })
    }

    /// To wait on: readable when there are events.
    pub(super) const fn group(&self) -> &Group {
        &self.group
    }

    /// Marks a directory and all below it anew, whatever was there before. What is no directory is passed over.
    ///
    /// Each directory is marked before its names are read, so whoever makes another one in it is seen one way or the
    /// other.
    pub(super) fn mark(&mut self, tree: &Tree, path: &[u8], options: &TreeOptions<'_>) {
        self.places.clear(path);
        self.blind.clear(path);
        let mut stack = vec![path.to_vec()];
        while let Some(path) = stack.pop() {
            if options.ignores_with_parents(&path) {
                continue;
            }
            match self.mark_one(tree, &path, &mut stack) {
                Ok(()) => {}
                // Gone, no directory, or behind a mount: there is nothing to watch.
                Err(error) if is_replaced(error) => {}
                Err(error) => self.blind.add(path, error),
            }
        }
    }

    fn mark_one(&mut self, tree: &Tree, path: &[u8], stack: &mut Vec<Vec<u8>>) -> rustix::io::Result<()> {
        let fd = tree.open_dir(path.strip_prefix(b"/").unwrap_or(path))?;
        if self.places.len() >= DIRECTORIES_MAX {
            return Err(Errno::NOSPC);
        }
        self.group.mark_directory(&fd)?;
        self.places.put(Handle::of(&fd)?, path);
        directories_in(&fd, |name| stack.push([path, b"/", name].concat()))
    }

    /// Takes what the kernel has to say.
    pub(super) fn read(&mut self, options: &TreeOptions<'_>, pending: &mut Pending) -> Result<(), ReadError> {
        for _ in 0..READS_MAX {
            let events = self.group.read()?;
            if events.is_empty() {
                break;
            }
            for event in events {
                match event {
                    Event::Overflow => pending.everything(Cause::Overflow),
                    Event::Change(change) => self.change(&change, options, pending),
                }
            }
        }
        Ok(())
    }

    fn change(&self, change: &Change, options: &TreeOptions<'_>, pending: &mut Pending) {
        let dir = match change.dir.as_ref().map(|handle| self.places.find(handle)) {
            Some(Place::In(dir)) => dir,
            Some(Place::Left) => return,
            // The mark on a directory tells of directories in it as of themselves. Those that are not marked are not
            // to be watched, or have only just come, and are pending by their names.
            Some(Place::Unknown) if change.name == b"." => return,
            Some(Place::Unknown) | None => return pending.everything(Cause::UnknownDirectory),
        };
        let path = if change.name == b"." { dir.to_vec() } else { [dir, b"/", &change.name].concat() };
        if options.ignores_with_parents(&path) {
            return;
        }
        if !change.of_name() {
            return pending.add(path, Depth::Own);
        }
        // The names of a directory are its content, so its time has changed as well.
        pending.add(dir.to_vec(), Depth::Own);
        if change.of_directory() {
            pending.mark(path.clone());
        }
        pending.add(path, Depth::Below);
    }

    /// What cannot be watched, in words.
    pub(super) fn unwatched(&self) -> Option<String> {
        let (count, first) = (self.blind.paths.len(), self.blind.paths.first()?);
        let first = if first.is_empty() { "/".to_owned() } else { escape(first) };
        let why = self.blind.why.as_deref().unwrap_or_default();
        let more = count.saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Some(format!("changes in {first}{more}: {why}"))
    }
}

impl Blind {
    fn add(&mut self, path: Vec<u8>, error: Errno) {
        self.why.get_or_insert_with(|| match error {
            Errno::NOSPC => "more directories than may be watched".to_owned(),
            Errno::OPNOTSUPP | Errno::NODEV => "the file system has no file handles".to_owned(),
            error => error.to_string(),
        });
        self.paths.insert(path);
    }

    fn clear(&mut self, path: &[u8]) {
        let first = below(path);
        self.paths.retain(|blind| blind != path && !blind.starts_with(&first));
        if self.paths.is_empty() {
            self.why = None;
        }
    }
}

/// Calls `each` with the name of every directory in an open directory.
fn directories_in(dir: &OwnedFd, mut each: impl FnMut(&[u8])) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if may_be && name != b"." && name != b".." {
            each(name);
        }
    }
    Ok(())
}
