//! A directory of this machine as a source.
//!
//! Every step is relative to an open descriptor and never follows a symbolic link, and what is mounted inside the
//! tree is left out: the tree may belong to somebody else, and may change while it is read.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mkimg_format::erofs::{PATH_MAX, SYMLINK_MAX, Timestamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::entry::{Attributes, Entry, FileData, Node, Place, Scan, Span};
use crate::error::{Error, Result, origin};
use crate::progress::Progress;
use crate::scan::{Scanner, hash_content, read_full};

/// Bytes of the names of all xattrs of one file, and of one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// The directory.
pub(crate) struct HostDir {
    root: OwnedFd,
    /// What the messages call it.
    name: Vec<u8>,
    /// Mount that the root is on.
    mount: u64,
}

/// Number of the mount that something is on (Linux 5.8).
fn mount_of(fd: impl AsFd) -> rustix::io::Result<u64> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS);
    }
    Ok(stat.stx_mnt_id)
}

impl HostDir {
    /// Opens a directory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.as_os_str().as_encoded_bytes().to_vec();
        let fail = |error: Errno| Error::Host { path: name.clone(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
        let mount = mount_of(&root).map_err(fail)?;
        Ok(Self { root, mount, name })
    }

    /// Opens something below the directory without following any link on the way.
    fn open_below(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { &b"."[..] } else { path };
        rustix::fs::openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            resolve,
        )
    }

    /// Opens a regular file for reading.
    pub(crate) fn open_file(&self, path: &[u8]) -> io::Result<File> {
        // Never waits for a writer, should a fifo have taken the file's place.
        let file = self.open_below(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("is no regular file any more"));
        }
        Ok(file.into())
    }

    /// Reads the whole tree, as one layer.
    ///
    /// `output` are the files, by device and inode number, that are the image to be: it must not contain itself.
    pub(crate) fn scan(&self, output: &[(u64, u64)], progress: &dyn Progress) -> Result<Scan> {
        let mut walk = Walk {
            dir: self,
            output,
            scanner: Scanner::new(0),
            links: HashMap::new(),
            buffer: vec![0; 256 << 10],
            progress,
        };
        let stat = rustix::fs::fstat(&self.root).map_err(|error| host(&self.name, error))?;
        walk.add(b"", &stat, self.root.as_fd())?;
        // Directories still to read. Paths, not descriptors: a tree may be deeper than a process may have files.
        let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(path) = ahead.pop() {
            walk.read_dir(&path, &mut ahead)?;
        }
        Ok(walk.scanner.scan)
    }
}

fn host(path: &[u8], error: impl Into<io::Error>) -> Error {
    let path = if path.is_empty() { b"." } else { path };
    Error::Host { path: path.to_vec(), source: error.into() }
}

/// A walk in progress.
struct Walk<'a> {
    dir: &'a HostDir,
    output: &'a [(u64, u64)],
    scanner: Scanner,
    /// First path of every file that has more names.
    links: HashMap<(u64, u64), Span>,
    buffer: Vec<u8>,
    progress: &'a dyn Progress,
}

impl Walk<'_> {
    fn read_dir(&mut self, path: &[u8], ahead: &mut Vec<Vec<u8>>) -> Result<()> {
        let fail = |error: Errno| host(path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.dir.open_below(path, flags).map_err(fail)?;
        let mut names: Vec<CString> = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let mut child = path.to_vec();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.to_bytes());
            if child.len() > PATH_MAX {
                return Err(host(&child, Errno::NAMETOOLONG));
            }
            self.visit(&fd, &name, child, ahead)?;
        }
        Ok(())
    }

    fn visit(&mut self, dir: &OwnedFd, name: &CStr, path: Vec<u8>, ahead: &mut Vec<Vec<u8>>) -> Result<()> {
        let fail = |error: Errno| host(&path, error);
        // O_PATH opens anything, devices and fifos too, without touching it.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(fail)?;
        let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).map_err(fail)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let mounted = mount_of(&fd).map_err(fail)? != self.dir.mount;
        if !is_dir && self.output.contains(&(stat.st_dev, stat.st_ino)) {
            self.scanner.warn(&path, "is the output itself and left out");
            return Ok(());
        }
        if mounted {
            self.scanner.warn(
                &path,
                if is_dir { "what is mounted here is left out" } else { "is mounted here and left out" },
            );
        }
        if is_dir || !mounted {
            self.add(&path, &stat, fd.as_fd())?;
        }
        if is_dir && !mounted {
            ahead.push(path);
        }
        Ok(())
    }

    /// Adds one inode, or one more name of it.
    fn add(&mut self, path: &[u8], stat: &Stat, fd: impl AsFd) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let span = self.scanner.keep(path)?;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let node = Node::Hardlink(*first);
                return self.scanner.add_entry(Entry { path: span, node, attributes: Attributes::IMPLIED });
            }
            self.links.insert((stat.st_dev, stat.st_ino), span);
        }
        let xattrs = read_xattrs(&fd).map_err(|error| host(path, error))?;
        let attributes = Attributes {
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timestamp { sec: stat.st_mtime, nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            xattrs: self.scanner.keep_xattrs(path, xattrs)?,
        };
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let node = match kind {
            FileType::RegularFile => {
                let file = self.read_file(path, span, (stat.st_dev, stat.st_ino))?;
                self.scanner.add_file(file)?
            }
            FileType::Directory => Node::Dir,
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(|error| host(path, error))?;
                if target.as_bytes().len() as u64 > SYMLINK_MAX {
                    return Err(host(path, Errno::NAMETOOLONG));
                }
                Node::Symlink(self.scanner.keep(target.as_bytes())?)
            }
            FileType::CharacterDevice => Node::Char(major, minor),
            FileType::BlockDevice => Node::Block(major, minor),
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
            FileType::Unknown => return Err(host(path, Errno::INVAL)),
        };
        self.scanner.add_entry(Entry { path: span, node, attributes })
    }

    /// Hashes a file, which must still be the inode whose attributes were taken.
    fn read_file(&mut self, path: &[u8], span: Span, inode: (u64, u64)) -> Result<FileData> {
        let fail = |error: io::Error| host(path, error);
        let changed = || Error::Changed { origin: origin(0), path: path.to_vec() };
        let mut file = self.dir.open_file(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if (metadata.dev(), metadata.ino()) != inode {
            return Err(changed());
        }
        let size = metadata.len();
        let mut read = 0;
        let hashes = hash_content(size, None, &mut self.buffer, |buf| {
            let count = read_full(&mut file, buf)?;
            read += count as u64;
            Ok(count)
        })
        .map_err(fail)?;
        if read != size {
            return Err(changed());
        }
        self.progress.advance(size);
        Ok(FileData { blake3: hashes.content, size, place: Place::Host(span), sparse: None })
    }
}

/// All xattrs of an inode that is open as a path.
fn read_xattrs(fd: &impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // A path descriptor has no xattr calls of its own; its link in /proc leads to the very inode.
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::listxattr(&link, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_MAX];
        match rustix::fs::getxattr(&link, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}
