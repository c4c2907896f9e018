//! One name that image and tree have both.

use std::cmp::Ordering;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};

use mkimg_format::erofs::{FileSystem, FileType, Inode, Nid, Xattr, escape};
use mkimg_format::{ReadAt, hex};
use mkimg_kernel::fsverity;
use rustix::fs::Advice;
use rustix::io::Errno;

use super::Field;
use super::digests::Group;
use super::first_difference::SealedFile;
use super::host::Stat;
use super::walk::{Audit, Task, join};
use super::xattrs::{CAPABILITY, Handle, Reader, xattr_difference};
use crate::attributes::{Attributes, bytes};
use crate::difference::{Difference, Kind, Offset, Security};
use crate::image::Cached;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Files of more bytes than this are announced to the system as read from front to back.
const LARGE: u64 = 1 << 20;
/// Blocks of metadata that are held: 256 KiB. Inodes of one directory tend to stand side by side.
const BLOCKS: usize = 64;

/// One thread: what it needs to compare entry after entry.
pub(super) struct Worker<'a, R> {
    audit: &'a Audit<'a, R>,
    /// The image through blocks that are held; not for file data.
    fs: FileSystem<Cached<'a, R>>,
    group: Group,
    reader: Reader,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

/// What reading a file came to.
enum Reading {
    /// All that its size promised.
    Whole([u8; 32]),
    /// It ended earlier.
    Short,
}

impl<'a, R: ReadAt + Sync> Worker<'a, R> {
    pub(super) fn new(audit: &'a Audit<'a, R>) -> Self {
        Self {
            audit,
            fs: audit.fs.through(Cached::of_blocks(BLOCKS, audit.fs.io(), 0)),
            group: Group::default(),
            reader: Reader::new(),
            hasher: blake3::Hasher::new(),
            buffer: vec![0; BUFFER],
        }
    }

    fn add(&self, difference: Difference) {
        self.audit.findings.add(difference);
    }

    fn changed(&self, path: Vec<u8>) {
        self.add(Difference::new(path, Kind::Changing).found("changed during the audit"));
    }

    /// Looks at one name, and opens it as a path, which does nothing to it; `None` when that is impossible or not
    /// wanted, which has been said then.
    fn look(&self, dir: &OwnedFd, parent: &[u8], name: &[u8]) -> Option<(OwnedFd, Stat)> {
        let tree = &self.audit.tree;
        let failed = |error| {
            self.audit.failed(join(parent, name), error);
            None
        };
        match tree.open_path(dir, name).and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat))) {
            Ok(opened) => Some(opened),
            Err(Errno::XDEV) => match Stat::at(dir, name) {
                Ok(stat) if tree.is_foreign(&stat) => {
                    let what = tree.describe_mount(&stat);
                    self.add(Difference::new(join(parent, name), Kind::Mount).found(what));
                    None
                }
                Ok(_) => failed(Errno::XDEV),
                Err(error) => failed(error),
            },
            Err(error) => failed(error),
        }
    }

    /// Compares one name that both sides have; returns what there is to do below it.
    pub(super) fn entry(&mut self, dir: &OwnedFd, parent: &[u8], name: &[u8], nid: Nid) -> Option<Task> {
        let path = || join(parent, name);
        let inode = match self.fs.inode(nid) {
            Ok(inode) => inode,
            Err(error) => {
                self.audit.image_fault(path(), &error);
                return None;
            }
        };
        let (fd, stat) = self.look(dir, parent, name)?;
        let is_dir = inode.file_type == FileType::Dir;
        if stat.file_type() != Some(inode.file_type) {
            let word = stat.file_type().map_or("unknown", FileType::word);
            let security = self.power(&fd, &path, &stat);
            let difference = Difference::new(path(), Kind::Type).expected(inode.file_type.word()).found(word);
            self.add(difference.security(security));
            if is_dir {
                return Some(Task::Missing(nid));
            }
            return (stat.file_type() == Some(FileType::Dir)).then_some(Task::Extra);
        }
        if is_dir {
            return Some(Task::Compare(nid));
        }
        self.audit.findings.count(1, 0);
        if inode.file_type == FileType::File {
            self.file(&fd, &path, &inode, &stat);
        } else {
            self.special(&fd, &path, &inode, &stat);
        }
        None
    }

    /// Reports one name that the image has not; returns what there is to do below it.
    pub(super) fn extra(&mut self, dir: &OwnedFd, parent: &[u8], name: &[u8]) -> Option<Task> {
        let path = || join(parent, name);
        let (fd, stat) = self.look(dir, parent, name)?;
        let what = stat.attributes().as_ref().map_or_else(|| "unknown".to_owned(), Attributes::describe);
        if let Some(file_type) = stat.file_type() {
            self.audit.findings.count_linked(file_type, stat.nlink());
        }
        let security = self.power(&fd, &path, &stat);
        self.add(Difference::new(path(), Kind::Extra).found(what).security(security));
        (stat.file_type() == Some(FileType::Dir)).then_some(Task::Extra)
    }

    /// The power of something that nobody shipped.
    fn power(&mut self, fd: &OwnedFd, path: &dyn Fn() -> Vec<u8>, stat: &Stat) -> Option<Security> {
        let attributes = stat.attributes()?;
        let power = attributes.power();
        if power.is_some() || attributes.file_type != FileType::File {
            return power;
        }
        match self.reader.value(Handle::Path(fd.as_fd()), CAPABILITY) {
            Ok(value) => value.map(|_| Security::Capability),
            Err(Errno::OPNOTSUPP) => None,
            Err(error) => {
                self.xattr_unreadable(path(), CAPABILITY, error);
                None
            }
        }
    }

    /// A regular file, which is open as a path.
    fn file(&mut self, file: &OwnedFd, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        let fd = match self.audit.tree.open_file(file, stat) {
            Ok(fd) => fd,
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                // Attributes are not secret.
                self.audit.failed(path(), error);
                return self.special(file, path, inode, stat);
            }
            Err(error) => return self.audit.failed(path(), error),
        };
        let set_id = self.attributes(path, inode, stat);
        self.links(path, inode, stat);
        let capable = self.xattrs(path, inode, Handle::Open(fd.as_fd()));
        let security = (set_id || capable).then_some(Security::Privileged);
        let verdict = if self.audit.options.only_security && security.is_none() {
            None
        } else {
            self.content(&fd, path, inode, stat)
        };
        match Stat::of(&fd) {
            // Bytes of different times prove nothing, so the digest is not told.
            Ok(after) if !stat.is_unchanged(&after) => self.changed(path()),
            Ok(_) => {
                if let Some(difference) = verdict {
                    self.add(difference.security(security));
                }
            }
            Err(error) => self.audit.failed(path(), error),
        }
    }

    /// Compares size and content; returns how they differ.
    fn content(
        &mut self,
        fd: &OwnedFd,
        path: &dyn Fn() -> Vec<u8>,
        inode: &Inode,
        stat: &Stat,
    ) -> Option<Difference> {
        let compares = |field| self.audit.options.compares(field);
        if stat.size() != inode.size {
            // Another size is other content, which is said once.
            let kind = if compares(Field::Size) { Kind::Size } else { Kind::Content };
            return (compares(Field::Size) || compares(Field::Content)).then(|| {
                let offset = self.first_difference(fd, inode, stat);
                Difference::new(path(), kind)
                    .expected(bytes(inode.size))
                    .found(bytes(stat.size()))
                    .offset(offset)
            });
        }
        if !compares(Field::Content) {
            return None;
        }
        let sealed = match self.audit.digests.of(inode, &mut self.group) {
            Ok(Some(content)) if content.size.get() == inode.size => content,
            Ok(found) => {
                let why = match found {
                    None => "the seal has no digest of it".to_owned(),
                    Some(content) => {
                        format!("size is {}, the digest in the seal is of {}", inode.size, content.size)
                    }
                };
                self.add(Difference::new(path(), Kind::Image).expected(why));
                return None;
            }
            Err(error) => {
                self.audit.image_fault(path(), &error);
                return None;
            }
        };
        // The kernel checks every read against this digest, so there is nothing that reading could add. Another digest
        // may be one of other parameters: then reading decides.
        if stat.has_verity() && fsverity::measure(fd).is_ok_and(|measured| measured == sealed.fsverity) {
            self.audit.findings.count_measured();
            return None;
        }
        let difference = Difference::new(path(), Kind::Content);
        match self.read(fd, inode.size) {
            Ok(Reading::Whole(found)) if found == sealed.blake3 => None,
            Ok(Reading::Whole(found)) => Some(
                difference
                    .expected(format!("blake3 {}", hex(&sealed.blake3)))
                    .found(format!("blake3 {}", hex(&found)))
                    .offset(self.first_difference(fd, inode, stat)),
            ),
            Ok(Reading::Short) => {
                Some(difference.expected(bytes(inode.size)).found("an earlier end".to_owned()))
            }
            Err(error) => {
                self.add(Difference::new(path(), Kind::Unreadable).found(error.to_string()));
                None
            }
        }
    }

    fn first_difference(&self, fd: &OwnedFd, inode: &Inode, stat: &Stat) -> Option<Offset> {
        let sealed = SealedFile { fs: self.audit.fs, blocks: &self.audit.blocks, inode };
        sealed.first_difference(fd, stat.size())
    }

    /// Reads and hashes `size` bytes. What is behind them shows in the size.
    fn read(&mut self, fd: &OwnedFd, size: u64) -> rustix::io::Result<Reading> {
        if size > LARGE {
            // Advice that is not taken costs nothing but time.
            let _ = rustix::fs::fadvise(fd, 0, NonZeroU64::new(size), Advice::Sequential);
        }
        self.hasher.reset();
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let buffer = self.buffer.get_mut(..room).unwrap_or_default();
            let count = match rustix::io::read(fd, &mut *buffer) {
                Ok(0) => return Ok(Reading::Short),
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            self.hasher.update(buffer.get(..count).unwrap_or_default());
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            left = left.saturating_sub(count);
            self.audit.findings.count(0, count);
            if let Some(progress) = self.audit.options.progress {
                progress(count);
            }
        }
        Ok(Reading::Whole(*self.hasher.finalize().as_bytes()))
    }

    /// Anything that is not opened: symbolic links, devices, FIFOs, sockets, and files that may not be read.
    fn special(&mut self, fd: &OwnedFd, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        self.attributes(path, inode, stat);
        self.links(path, inode, stat);
        self.xattrs(path, inode, Handle::Path(fd.as_fd()));
        if inode.file_type == FileType::Symlink && self.audit.options.compares(Field::Target) {
            self.target(fd, path, inode);
        }
    }

    fn target(&self, fd: &OwnedFd, path: &dyn Fn() -> Vec<u8>, inode: &Inode) {
        let expected = match self.fs.read_link(inode) {
            Ok(target) => target,
            Err(error) => return self.audit.image_fault(path(), &error),
        };
        match rustix::fs::readlinkat(fd, "", Vec::new()) {
            Ok(found) if found.to_bytes() == expected => {}
            Ok(found) => {
                let difference = Difference::new(path(), Kind::Target).expected(escape(&expected));
                self.add(difference.found(escape(found.to_bytes())));
            }
            Err(error) => self.audit.failed(path(), error),
        }
    }

    /// Compares what a stat shows of anything, but for size; returns whether it runs as its owner or group.
    pub(super) fn attributes(&self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) -> bool {
        // Types have been compared, so it has one.
        let Some(found) = stat.attributes() else { return false };
        Attributes::from(inode)
            .compare(&found, path, self.audit.options, &mut |difference| self.add(difference));
        found.is_set_id()
    }

    /// Compares hard links, of anything but directories.
    fn links(&self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        self.audit.findings.count_linked(inode.file_type, inode.nlink.max(stat.nlink()));
        if !self.audit.options.compares(Field::Links) {
            return;
        }
        if inode.nlink > 1 {
            self.audit.links.add(inode, stat.identity(), stat.nlink(), path());
        } else if stat.nlink() != 1 {
            let found = format!("{} links", stat.nlink());
            self.add(Difference::new(path(), Kind::Links).expected("1 link").found(found));
        }
    }

    /// Compares extended attributes, byte for byte; returns whether there are capabilities among them.
    pub(super) fn xattrs(&mut self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, handle: Handle<'_>) -> bool {
        let sealed = if self.audit.options.compares(Field::Xattrs) {
            match self.fs.xattrs(inode) {
                Ok(xattrs) => xattrs,
                Err(error) => {
                    self.audit.image_fault(path(), &error);
                    return false;
                }
            }
        } else {
            // Not compared, but the content of a file that has power is worth more.
            return self.reader.value(handle, CAPABILITY).is_ok_and(|value| value.is_some());
        };
        let names = match self.reader.names(handle) {
            Ok(names) => names,
            Err(error) => {
                self.xattr_unreadable(path(), b"list of xattrs", error);
                return false;
            }
        };
        let capable = names.iter().any(|name| name == CAPABILITY);
        let mut sealed = sealed.iter().peekable();
        let mut names = names.iter().peekable();
        loop {
            let order = match (sealed.peek(), names.peek()) {
                (None, None) => return capable,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(xattr), Some(name)) => xattr.name.cmp(name),
            };
            let expected = if order == Ordering::Greater { None } else { sealed.next() };
            let name = if order == Ordering::Less { None } else { names.next() };
            self.xattr(path, handle, expected, name.map(Vec::as_slice));
        }
    }

    /// Compares one attribute, as the image has it and by the name that the tree has.
    fn xattr(
        &mut self,
        path: &dyn Fn() -> Vec<u8>,
        handle: Handle<'_>,
        expected: Option<&Xattr>,
        name: Option<&[u8]>,
    ) {
        let Some(either) = name.or_else(|| expected.map(|xattr| xattr.name.as_slice())) else { return };
        if self.audit.options.ignores_xattr(either) {
            return;
        }
        let found = match name {
            // It may well be there: the report says that these are not shown to us.
            None if !self.audit.sees_trusted && either.starts_with(b"trusted.") => return,
            None => None,
            Some(name) => match self.reader.value(handle, name) {
                Ok(value) => value,
                Err(error) => return self.xattr_unreadable(path(), name, error),
            },
        };
        let expected = expected.map(|xattr| xattr.value.as_slice());
        if let Some(difference) = xattr_difference(path, either, expected, found) {
            self.audit.findings.add(difference);
        }
    }

    fn xattr_unreadable(&self, path: Vec<u8>, name: &[u8], error: Errno) {
        self.add(Difference::new(path, Kind::Unreadable).found(format!("{}: {error}", escape(name))));
    }
}
