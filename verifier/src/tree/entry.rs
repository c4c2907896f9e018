//! One name that image and tree have both.

use std::cmp::Ordering;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};

use mkimg_format::erofs::{FileType, Inode, Nid, Xattr, escape};
use mkimg_format::{ReadAt, hex};
use rustix::fs::Advice;
use rustix::io::Errno;

use super::Field;
use super::digests::Group;
use super::host::Stat;
use super::report::Kind;
use super::walk::{Audit, join};
use super::xattrs::{Handle, Reader, show, show_xattr};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Files of more bytes than this are announced to the system as read from front to back.
const LARGE: u64 = 1 << 20;

/// One thread: what it needs to compare entry after entry.
pub(super) struct Worker<'a, R> {
    audit: &'a Audit<'a, R>,
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
            group: Group::default(),
            reader: Reader::new(),
            hasher: blake3::Hasher::new(),
            buffer: vec![0; BUFFER],
        }
    }

    fn add(&self, path: Vec<u8>, kind: Kind, expected: impl Into<String>, found: impl Into<String>) {
        self.audit.findings.add(path, kind, expected.into(), found.into());
    }

    fn changed(&self, path: Vec<u8>) {
        self.audit.findings.add(path, Kind::Changing, None, "changed during the audit".to_owned());
    }

    /// Compares one name; returns its inode when it is a directory, which is left to do.
    pub(super) fn entry(&mut self, dir: &OwnedFd, parent: &[u8], name: &[u8], nid: Nid) -> Option<Nid> {
        let path = || join(parent, name);
        let inode = match self.audit.fs.inode(nid) {
            Ok(inode) => inode,
            Err(error) => {
                self.audit.image_fault(path(), &error);
                return None;
            }
        };
        let stat = match Stat::at(dir, name) {
            Ok(stat) => stat,
            Err(error) => {
                self.audit.failed(path(), error);
                return None;
            }
        };
        if self.audit.tree.is_foreign(&stat) {
            self.audit.findings.add(path(), Kind::Mount, None, "a mount".to_owned());
            return None;
        }
        if stat.file_type() != Some(inode.file_type) {
            self.type_differs(path(), &inode, &stat);
            return None;
        }
        if inode.file_type == FileType::Dir {
            return Some(nid);
        }
        self.audit.findings.count(1, 0);
        if inode.file_type == FileType::File {
            self.file(dir, name, &path, &inode, &stat);
        } else {
            self.special(dir, name, &path, &inode);
        }
        None
    }

    fn type_differs(&self, path: Vec<u8>, inode: &Inode, stat: &Stat) {
        let found = stat.file_type().map_or("unknown", FileType::word);
        self.add(path, Kind::Type, inode.file_type.word(), found);
    }

    /// A regular file, of which `stat` was seen by name.
    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        let fd = match self.audit.tree.open_file(dir, name, stat) {
            Ok(fd) => fd,
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                // Attributes are not secret.
                self.audit.failed(path(), error);
                return self.special(dir, name, path, inode);
            }
            Err(error) => return self.audit.failed(path(), error),
        };
        // What is open must be what was seen before it is read: it may be another one of another type by now.
        match Stat::of(&fd) {
            Ok(opened) if opened.identity() == stat.identity() => {}
            Ok(_) => return self.changed(path()),
            Err(error) => return self.audit.failed(path(), error),
        }
        self.attributes(path, inode, stat);
        self.links(path, inode, stat);
        self.xattrs(path, inode, Handle::Open(fd.as_fd()));
        let verdict = self.content(&fd, path, inode, stat);
        match Stat::of(&fd) {
            // Bytes of different times prove nothing, so the digest is not told.
            Ok(after) if !stat.is_unchanged(&after) => self.changed(path()),
            Ok(_) => {
                if let Some((expected, found)) = verdict {
                    self.add(path(), Kind::Content, expected, found);
                }
            }
            Err(error) => self.audit.failed(path(), error),
        }
    }

    /// Compares content; returns how it differs.
    fn content(
        &mut self,
        fd: &OwnedFd,
        path: &dyn Fn() -> Vec<u8>,
        inode: &Inode,
        stat: &Stat,
    ) -> Option<(String, String)> {
        if !self.audit.options.compares(Field::Content) {
            return None;
        }
        if stat.size() != inode.size {
            // Other content for sure. Where sizes are compared, that has been said.
            let said = self.audit.options.compares(Field::Size);
            return (!said).then(|| (bytes(inode.size), bytes(stat.size())));
        }
        let sealed = match self.audit.digests.of(inode, &mut self.group) {
            Ok(Some(content)) if content.size.get() == inode.size => content.blake3,
            Ok(found) => {
                let why = match found {
                    None => "the seal has no digest of it".to_owned(),
                    Some(content) => {
                        format!("size is {}, the digest in the seal is of {}", inode.size, content.size)
                    }
                };
                self.audit.findings.add(path(), Kind::Image, why, None);
                return None;
            }
            Err(error) => {
                self.audit.image_fault(path(), &error);
                return None;
            }
        };
        match self.read(fd, inode.size) {
            Ok(Reading::Whole(found)) if found == sealed => None,
            Ok(Reading::Whole(found)) => {
                Some((format!("blake3 {}", hex(&sealed)), format!("blake3 {}", hex(&found))))
            }
            Ok(Reading::Short) => Some((bytes(inode.size), "an earlier end".to_owned())),
            Err(error) => {
                self.audit.findings.add(path(), Kind::Unreadable, None, error.to_string());
                None
            }
        }
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
    fn special(&mut self, dir: &OwnedFd, name: &[u8], path: &dyn Fn() -> Vec<u8>, inode: &Inode) {
        let fd = match self.audit.tree.open_path(dir, name) {
            Ok(fd) => fd,
            Err(error) => return self.audit.failed(path(), error),
        };
        let stat = match Stat::of(&fd) {
            Ok(stat) => stat,
            Err(error) => return self.audit.failed(path(), error),
        };
        if stat.file_type() != Some(inode.file_type) {
            return self.changed(path());
        }
        self.attributes(path, inode, &stat);
        self.links(path, inode, &stat);
        self.xattrs(path, inode, Handle::Path(fd.as_fd()));
        if inode.file_type == FileType::Symlink && self.audit.options.compares(Field::Target) {
            self.target(&fd, path, inode);
        }
    }

    fn target(&self, fd: &OwnedFd, path: &dyn Fn() -> Vec<u8>, inode: &Inode) {
        let expected = match self.audit.fs.read_link(inode) {
            Ok(target) => target,
            Err(error) => return self.audit.image_fault(path(), &error),
        };
        match rustix::fs::readlinkat(fd, "", Vec::new()) {
            Ok(found) if found.to_bytes() == expected => {}
            Ok(found) => self.add(path(), Kind::Target, escape(&expected), escape(found.to_bytes())),
            Err(error) => self.audit.failed(path(), error),
        }
    }

    /// Compares what a stat shows of anything.
    pub(super) fn attributes(&self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        let file_type = inode.file_type;
        let compares = |field| self.audit.options.compares(field);
        // Nobody can set the mode of a symbolic link.
        if compares(Field::Mode) && stat.mode() != inode.mode && file_type != FileType::Symlink {
            self.add(path(), Kind::Mode, format!("{:04o}", inode.mode), format!("{:04o}", stat.mode()));
        }
        if compares(Field::Uid) && stat.uid() != inode.uid {
            self.add(path(), Kind::Uid, inode.uid.to_string(), stat.uid().to_string());
        }
        if compares(Field::Gid) && stat.gid() != inode.gid {
            self.add(path(), Kind::Gid, inode.gid.to_string(), stat.gid().to_string());
        }
        if compares(Field::Mtime) && stat.mtime() != inode.mtime {
            self.add(path(), Kind::Mtime, inode.mtime.to_string(), stat.mtime().to_string());
        }
        // The size of a directory is the file system's own affair, that of a link is its target.
        if compares(Field::Size) && stat.size() != inode.size && file_type == FileType::File {
            self.add(path(), Kind::Size, bytes(inode.size), bytes(stat.size()));
        }
        let is_device = matches!(file_type, FileType::Char | FileType::Block);
        if compares(Field::Rdev) && stat.rdev() != inode.rdev && is_device {
            let show = |(major, minor): (u32, u32)| format!("{major}:{minor}");
            self.add(path(), Kind::Rdev, show(inode.rdev), show(stat.rdev()));
        }
    }

    /// Compares hard links, of anything but directories.
    fn links(&self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, stat: &Stat) {
        if !self.audit.options.compares(Field::Links) {
            return;
        }
        if inode.nlink > 1 {
            self.audit.links.add(inode, stat, path());
        } else if stat.nlink() != 1 {
            self.add(path(), Kind::Links, "1 link", format!("{} links", stat.nlink()));
        }
    }

    /// Compares extended attributes, byte for byte.
    pub(super) fn xattrs(&mut self, path: &dyn Fn() -> Vec<u8>, inode: &Inode, handle: Handle<'_>) {
        if !self.audit.options.compares(Field::Xattrs) {
            return;
        }
        let sealed = match self.audit.fs.xattrs(inode) {
            Ok(xattrs) => xattrs,
            Err(error) => return self.audit.image_fault(path(), &error),
        };
        let names = match self.reader.names(handle) {
            Ok(names) => names,
            Err(error) => return self.xattr_unreadable(path(), b"list of xattrs", error),
        };
        let mut sealed = sealed.iter().peekable();
        let mut names = names.iter().peekable();
        loop {
            let order = match (sealed.peek(), names.peek()) {
                (None, None) => break,
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
        if found != expected.map(|xattr| xattr.value.as_slice()) {
            let found = found.map(|value| show(either, value));
            self.audit.findings.add(path(), Kind::Xattr, expected.map(show_xattr), found);
        }
    }

    fn xattr_unreadable(&self, path: Vec<u8>, name: &[u8], error: Errno) {
        self.audit.findings.add(path, Kind::Unreadable, None, format!("{}: {error}", escape(name)));
    }
}

fn bytes(size: u64) -> String {
    format!("{size} bytes")
}
