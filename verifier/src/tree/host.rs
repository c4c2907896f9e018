//! The tree on this machine, through descriptors.
//!
//! The path of the tree is looked at once. Everything else is opened below a descriptor, by calls that refuse
//! symbolic links and mounts instead of following them, so whoever changes the tree cannot lead the audit out of it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mkimg_format::erofs::{FileType, Nid, Timestamp, escape};
use mkimg_kernel::mountinfo;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::Error;
use crate::attributes::Attributes;

/// Attempts at a call that a rename elsewhere interrupts (`EAGAIN` of openat2).
const ATTEMPTS: usize = 16;

/// Where the descriptors of a process have names that lead to the very inodes that are open.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The tree.
pub(crate) struct Tree {
    root: OwnedFd,
    /// Where this process's descriptors have names.
    descriptors: OwnedFd,
    mount: u64,
    resolve: ResolveFlags,
    cross_mounts: bool,
    /// Who reads; whoever owns a file may read it without leaving a trace in its access time.
    euid: u32,
}

/// An inode as the system shows it.
#[derive(Clone, Copy)]
pub(crate) struct Stat(Statx);

/// Which inode of this machine: device and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity(u32, u32, u64);

impl Identity {
    /// An inode of an image in the place of one of this machine.
    pub(crate) const fn of_image(nid: Nid) -> Self {
        Self(0, 0, nid.0)
    }
}

impl Tree {
    pub(crate) fn open(path: &Path, cross_mounts: bool) -> Result<Self, Error> {
        let fail = |error: Errno| Error::Tree { path: path.to_owned(), source: error.into() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        if !cross_mounts {
            resolve |= ResolveFlags::NO_XDEV;
        }
        let euid = rustix::process::geteuid().as_raw();
        let mount = Stat::of(&root).map_err(fail)?.mount();
        let path = Path::new(DESCRIPTORS);
        let fail_proc = |error: Errno| Error::Tree { path: path.to_owned(), source: error.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::open(path, flags, Mode::empty()).map_err(fail_proc)?;
        let tree = Self { root, descriptors, mount, resolve, cross_mounts, euid };
        // Whether there is openat2 at all: without it nothing could be opened.
        tree.open_dir(b"").map_err(fail)?;
        Ok(tree)
    }

    /// The directory itself.
    pub(crate) const fn root(&self) -> &OwnedFd {
        &self.root
    }

    fn open_at(&self, base: impl AsFd, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut attempts = 0_usize..ATTEMPTS;
        loop {
            attempts.next();
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat2(base.as_fd(), name, flags, Mode::empty(), self.resolve) {
                Err(Errno::AGAIN | Errno::INTR) if !attempts.is_empty() => {}
                other => return other,
            }
        }
    }

    /// Opens a directory by its path below the root, without a slash in front.
    pub(crate) fn open_dir(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_at(&self.root, not_empty(path), OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// As [`Self::open_dir`], for a directory whose names may not be read.
    pub(crate) fn open_dir_path(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_at(&self.root, not_empty(path), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens for reading what is open as a path, and of which `stat` says that it is a regular file.
    ///
    /// Not by its name: to open a device may do something (a watchdog starts, a tape rewinds), and whoever may make
    /// device nodes could put one there at the last moment.
    pub(crate) fn open_file(&self, path: &OwnedFd, stat: &Stat) -> rustix::io::Result<OwnedFd> {
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::openat(&self.descriptors, DecInt::from_fd(path), flags, Mode::empty())
        };
        if self.euid == 0 || self.euid == stat.uid() {
            match open(OFlags::NOATIME) {
                Err(Errno::PERM) => {}
                other => return other,
            }
        }
        open(OFlags::empty())
    }

    /// Opens one name as a path: anything, without touching or following it.
    pub(crate) fn open_path(&self, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_at(dir, name, OFlags::PATH)
    }

    /// What is mounted where an inode of another mount is seen.
    pub(crate) fn describe_mount(&self, stat: &Stat) -> String {
        let entries = mountinfo::read().unwrap_or_default();
        match entries.iter().find(|entry| u64::from(entry.id) == stat.mount()) {
            Some(entry) => {
                let text = |word: &OsStr| escape(word.as_bytes());
                format!("{} from {} is mounted here", text(&entry.fstype), text(&entry.source))
            }
            None => "something is mounted here".to_owned(),
        }
    }

    /// Whether an inode is behind a mount that is not to be entered.
    pub(crate) fn is_foreign(&self, stat: &Stat) -> bool {
        !self.cross_mounts && stat.mount() != self.mount
    }
}

impl Stat {
    /// What is open.
    pub(crate) fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        Self::read(fd, b"", AtFlags::EMPTY_PATH)
    }

    /// One name of a directory.
    pub(crate) fn at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Self> {
        Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    fn read(fd: impl AsFd, name: &[u8], flags: AtFlags) -> rustix::io::Result<Self> {
        rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).map(Self)
    }

    /// Number of its mount, or of its device where the system (before Linux 5.8) does not say.
    pub(crate) fn mount(&self) -> u64 {
        if self.0.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return self.0.stx_mnt_id;
        }
        rustix::fs::makedev(self.0.stx_dev_major, self.0.stx_dev_minor)
    }

    pub(crate) const fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.0.stx_mode)
    }

    /// What is compared with the image; `None` for types that no image has.
    pub(crate) fn attributes(&self) -> Option<Attributes> {
        Some(Attributes {
            file_type: self.file_type()?,
            mode: self.0.stx_mode & 0o7777,
            uid: self.0.stx_uid,
            gid: self.0.stx_gid,
            size: self.0.stx_size,
            mtime: time(self.0.stx_mtime),
            rdev: (self.0.stx_rdev_major, self.0.stx_rdev_minor),
        })
    }

    /// Whether the kernel vouches for the content (fs-verity, Linux 5.5).
    pub(crate) fn has_verity(&self) -> bool {
        (self.0.stx_attributes & self.0.stx_attributes_mask).contains(StatxAttributes::VERITY)
    }

    pub(crate) const fn uid(&self) -> u32 {
        self.0.stx_uid
    }

    pub(crate) const fn size(&self) -> u64 {
        self.0.stx_size
    }

    pub(crate) const fn nlink(&self) -> u32 {
        self.0.stx_nlink
    }

    pub(crate) const fn identity(&self) -> Identity {
        Identity(self.0.stx_dev_major, self.0.stx_dev_minor, self.0.stx_ino)
    }

    /// When anybody did anything to it the last time. Nobody can set that.
    pub(crate) const fn ctime(&self) -> Timestamp {
        time(self.0.stx_ctime)
    }

    /// Whether mode and times are those of `other`, as it is where one file system shows the inode of another.
    pub(crate) fn mirrors(&self, other: &Self) -> bool {
        self.0.stx_mode == other.0.stx_mode
            && time(self.0.stx_mtime) == time(other.0.stx_mtime)
            && time(self.0.stx_ctime) == time(other.0.stx_ctime)
    }

    /// Whether this is the same inode as `later`, and nobody did anything to it in between.
    pub(crate) fn is_unchanged(&self, later: &Self) -> bool {
        // Every change of content or attributes moves the ctime, which nobody can set.
        self.identity() == later.identity()
            && self.size() == later.size()
            && time(self.0.stx_mtime) == time(later.0.stx_mtime)
            && self.ctime() == later.ctime()
    }
}

const fn time(time: StatxTimestamp) -> Timestamp {
    Timestamp { sec: time.tv_sec, nsec: time.tv_nsec }
}

const fn not_empty(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// A path that leads to the very inode that is open, for calls that take no path descriptor.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    format!("{DESCRIPTORS}/{}", fd.as_fd().as_raw_fd())
}

/// Whether the error of a call means that a name is not any more what it was a moment ago.
///
/// `EXDEV` too: a mount that was there has been seen before anything is opened, so it is a new one, or the directory
/// was moved out of the tree.
pub(crate) const fn is_replaced(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE | Errno::XDEV)
}
