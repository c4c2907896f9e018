//! The directory that everything goes to.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Permissions of a directory that is being filled.
pub(crate) const PRIVATE_DIR: Mode = Mode::RWXU;

/// Names a default ACL gives to what is created below.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Which inode of this machine: device and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    pub(crate) const fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

/// The directory that everything goes to, open for good.
pub(crate) struct Target {
    root: OwnedFd,
    identity: Identity,
    /// Whether it keeps its attributes.
    merged: bool,
    /// Whom the file system says new files belong to.
    owner: u32,
}

impl Target {
    /// Opens the target, or creates it. The only time that its path is looked at.
    pub(crate) fn open(path: &Path, into_existing: bool) -> Result<Self> {
        let fail =
            |doing| move |error: Errno| Error::Target { path: path.to_owned(), doing, source: error.into() };
        let euid = rustix::process::geteuid().as_raw();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (root, created) = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => (root, false),
            Err(Errno::NOENT) => {
                // Without the trailing slash that would make open follow a link in spite of O_NOFOLLOW.
                let clean: PathBuf = path.components().collect();
                rustix::fs::mkdir(&clean, PRIVATE_DIR).map_err(fail("cannot create directory"))?;
                let name = clean.as_os_str().as_encoded_bytes();
                let open = || rustix::fs::open(&clean, flags | OFlags::NOFOLLOW, Mode::empty());
                (open_private(CWD, name, open).map_err(fail("cannot open directory"))?, true)
            }
            Err(error) => return Err(fail("cannot open directory")(error)),
        };
        let stat = rustix::fs::fstat(&root).map_err(fail("cannot look at directory"))?;
        let merged = into_existing && !created;
        if !merged {
            let not_empty = || Error::NotEmpty { path: path.to_owned() };
            if !is_empty(&root).map_err(fail("cannot read directory"))? {
                return Err(not_empty());
            }
            match rustix::fs::fchmod(&root, PRIVATE_DIR) {
                // Somebody else's directory that we may write to.
                Ok(()) | Err(Errno::PERM) => {}
                Err(error) => return Err(fail("cannot set mode")(error)),
            }
            // Again, now that nobody can add anything after the look.
            if !is_empty(&root).map_err(fail("cannot read directory"))? {
                return Err(not_empty());
            }
            strip_acls(&root).map_err(fail("cannot remove inherited access control list"))?;
        }
        let owner = if created { stat.st_uid } else { euid };
        Ok(Self { root, identity: Identity::of(&stat), merged, owner })
    }

    /// The directory itself.
    pub(crate) const fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(crate) const fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the target was there before and is left as it was.
    pub(crate) const fn is_merged(&self) -> bool {
        self.merged
    }

    /// Whether something that we created looks as it must: ours, and of the type that was asked for.
    pub(crate) fn is_new(&self, stat: &Stat, kind: FileType) -> bool {
        // The type bits are all of st_mode that a umask or an ACL leaves alone.
        FileType::from_raw_mode(stat.st_mode) == kind
            && self.belongs_to_owner(stat)
            && (stat.st_nlink == 1 || kind == FileType::Directory)
    }

    /// Whether an inode belongs to whom new files belong to.
    pub(crate) const fn belongs_to_owner(&self, stat: &Stat) -> bool {
        stat.st_uid == self.owner
    }

    /// Opens a directory by its absolute path in the image; `None` when it is another one than `identity`.
    pub(crate) fn reopen(&self, path: &[u8], identity: Identity) -> rustix::io::Result<Option<OwnedFd>> {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let fd = match open_dir(&self.root, if relative.is_empty() { b"." } else { relative }) {
            Ok(fd) => fd,
            // A link, another mount, a file or nothing where a directory was.
            Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((Identity::of(&rustix::fs::fstat(&fd)?) == identity).then_some(fd))
    }
}

/// Whether there is no name in a directory.
fn is_empty(dir: &OwnedFd) -> rustix::io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens a directory below `base` without following links or entering another mount.
pub(crate) fn open_dir(base: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(base, path, flags, Mode::empty(), resolve)
}

/// Opens a directory that has just been created, also where the umask took our own permissions away.
///
/// `open` is the way to do it; it is tried again when it was not allowed.
pub(crate) fn open_private(
    base: impl AsFd,
    name: &[u8],
    open: impl Fn() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    match open() {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let path = open_path(base, name)?;
    let stat = rustix::fs::statat(&path, "", AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    rustix::fs::chmod(proc_path(&path), PRIVATE_DIR)?;
    open()
}

/// Opens one name as a path: anything, without touching or following it.
pub(crate) fn open_path(base: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(base, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A path that leads to the very inode that is open, for calls that take no path descriptor.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Removes the access control lists that a default list further up gave to a new inode.
pub(crate) fn strip_acls(fd: impl AsFd) -> rustix::io::Result<()> {
    each_acl(|name| rustix::fs::fremovexattr(&fd, name))
}

/// As [`strip_acls`], for what is open as a path.
pub(crate) fn strip_acls_by_path(fd: impl AsFd) -> rustix::io::Result<()> {
    let path = proc_path(fd);
    each_acl(|name| rustix::fs::removexattr(path.as_str(), name))
}

fn each_acl(remove: impl Fn(&str) -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    for name in ACLS {
        match remove(name) {
            // None there, none possible, or not ours to change.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The error of the system for a place that somebody else took.
pub(crate) fn is_taken(error: Errno) -> bool {
    matches!(error, Errno::EXIST | Errno::LOOP | Errno::NOTDIR)
}

/// The last name and the directory of an absolute path.
pub(crate) fn split(path: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/').ok_or(io::ErrorKind::InvalidInput)?;
    let (dir, name) = path.split_at(at);
    Ok((dir, name.strip_prefix(b"/").unwrap_or(name)))
}
