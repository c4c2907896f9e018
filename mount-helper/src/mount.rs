//! EROFS mounts through the mount API of Linux 5.2.
//!
//! A mount is made *detached* (`fsmount`) and attached (`move_mount`) as the last step of all, so no
//! process ever sees a half-made one, and a failure leaves nothing: the descriptor of a detached
//! mount, once closed, takes the file system, its loop device and its mapped device with it.
//!
//! # From the checked file to the mounted file
//!
//! What was audited is an open file; what a file-backed mount takes is a path. The module `pin` makes the
//! path name that very file while the kernel opens it, so renaming and replacing cannot win. Where
//! the surroundings for that cannot be made (no private mount namespace), the path is looked up in
//! the open, and device, inode, size, mtime and ctime of file and path are compared before and after.
//! The race left then: a directory *above* the image is renamed away and back within that one call;
//! that touches no attribute of the file. A loop device is bound to the descriptor and has no such
//! race at all, so [`crate::policy`] mounts without the pin only when asked for a mount from the file
//! and nothing else.
//!
//! In every case the attributes are compared after the mount with those from before the audit, so an
//! image that was written to meanwhile is not mounted. Writes through a mapping may update mtime late,
//! and whoever can write to the image can do so after the mount as well: only dm-verity notices that.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::error::{Error, Result};
use crate::pin::{Pinned, with_pinned_path};

/// Most text taken from a file system context, in bytes.
const MAX_LOG: usize = 4096;
pub(crate) use mkimg_kernel::overlay_source::MAX_STRING;

/// Attributes of the mount. The image is read-only in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountAttrs {
    /// An overlay over the image is read-only as well.
    pub read_only: bool,
    /// Device nodes in the image cannot be opened.
    pub nodev: bool,
    /// Set-id bits and file capabilities in the image have no effect.
    pub nosuid: bool,
    /// Nothing in the image can be executed.
    pub noexec: bool,
}

impl Default for MountAttrs {
    fn default() -> Self {
        Self { read_only: false, nodev: true, nosuid: false, noexec: false }
    }
}

impl MountAttrs {
    pub(crate) fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags
    }
}

/// Where the file system comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An open regular file and its absolute canonical path (Linux 6.12).
    File {
        /// The file that was checked.
        fd: BorrowedFd<'a>,
        /// The path that the kernel opens and that mountinfo shows.
        path: &'a Path,
        /// The file's attributes before it was checked.
        identity: &'a Identity,
    },
    /// An open block device and its path.
    BlockDevice {
        /// Keeps the device, and is compared with what the path names.
        fd: BorrowedFd<'a>,
        /// The path that the kernel opens and that mountinfo shows.
        path: &'a Path,
    },
}

impl<'a> Source<'a> {
    fn path(&self) -> &'a Path {
        match self {
            Source::File { path, .. } | Source::BlockDevice { path, .. } => path,
        }
    }
}

/// The attributes by which a file is recognised and a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    dev: u64,
    ino: u64,
    rdev: u64,
    size: i64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Identity {
    /// Attributes of an open file.
    pub fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::fstat(file).map(|stat| Self::from_stat(&stat))
    }

    /// Attributes of the file that a path names.
    pub fn at(path: &Path) -> rustix::io::Result<Self> {
        rustix::fs::stat(path).map(|stat| Self::from_stat(&stat))
    }

    fn from_stat(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            rdev: stat.st_rdev,
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Device and inode number.
    pub(crate) const fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// The first attribute that differs.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        if (self.dev, self.ino, self.rdev) != (other.dev, other.ino, other.rdev) {
            Some("file")
        } else if self.size != other.size {
            Some("size")
        } else if self.mtime != other.mtime {
            Some("mtime")
        } else if self.ctime != other.ctime {
            Some("ctime")
        } else {
            None
        }
    }
}

/// Mounts `source` read-only on the directory `target`.
pub fn mount_erofs(source: Source<'_>, target: &Path, attrs: MountAttrs) -> Result<()> {
    let target = Target::open(target)?;
    let mount = detached_erofs(source, attrs)?;
    target.attach(mount)
}

/// A mount of `source` that is attached nowhere.
pub fn detached_erofs(source: Source<'_>, attrs: MountAttrs) -> Result<OwnedFd> {
    detached_with(source, attrs, Pin::Try, &mut |_| {})
}

/// Whether the kernel is made to find the open file behind the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pin {
    /// Fail where that is impossible.
    Required,
    /// Do without where that is impossible.
    Try,
    /// Do without.
    Never,
}

/// Moments at which a test may interfere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The attributes have been compared; the kernel has not opened the path yet.
    BeforeCreate,
    /// The kernel has opened the path; the attributes have not been compared again.
    AfterCreate,
}

/// As [`detached_erofs`]; `pin` chooses whether the path is pinned, `hook` is told the steps.
pub(crate) fn detached_with(
    source: Source<'_>,
    attrs: MountAttrs,
    pin: Pin,
    hook: &mut dyn FnMut(Step),
) -> Result<OwnedFd> {
    let path = source.path();
    let unchanged = || match source {
        Source::File { fd, path, identity } => check_unchanged(fd, path, identity),
        Source::BlockDevice { fd, path } => check_same_device(fd, path),
    };
    let fs = Context::new("erofs", "mount erofs image", path)?;
    fs.set_string("source", path)?;
    fs.set_flag("ro")?;
    unchanged()?;
    hook(Step::BeforeCreate);
    match source {
        Source::File { fd, path, .. } if pin != Pin::Never => {
            match with_pinned_path(fd, path, || fs.create()) {
                Pinned::Called(result) => result?,
                Pinned::Impossible(_) if pin == Pin::Try => fs.create()?,
                Pinned::Impossible(errno) => {
                    return Err(Error::Unpinned { path: path.to_path_buf(), errno });
                }
            }
        }
        _ => fs.create()?,
    }
    let mount = fs.mount(attrs.flags() | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    hook(Step::AfterCreate);
    // On a difference the detached mount is dropped here, unseen.
    unchanged()?;
    Ok(mount)
}

fn check_unchanged(fd: BorrowedFd<'_>, path: &Path, before: &Identity) -> Result<()> {
    let now = Identity::of(fd).map_err(Error::at("stat image", path))?;
    let there = match Identity::at(path) {
        Ok(there) => there,
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(Error::Changed { path: path.to_path_buf(), what: "file" });
        }
        Err(errno) => return Err(Error::at("stat image", path)(errno)),
    };
    match there.difference(&now).or_else(|| before.difference(&now)) {
        Some(what) => Err(Error::Changed { path: path.to_path_buf(), what }),
        None => Ok(()),
    }
}

/// A device's size and times say nothing; its number does.
fn check_same_device(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let open = rustix::fs::fstat(fd).map_err(Error::at("stat device", path))?;
    let there = rustix::fs::stat(path).map_err(Error::at("stat device", path))?;
    let is_device = FileType::from_raw_mode(there.st_mode) == FileType::BlockDevice;
    if is_device && open.st_rdev == there.st_rdev {
        Ok(())
    } else {
        Err(Error::Changed { path: path.to_path_buf(), what: "file" })
    }
}

/// The directory that is going to be mounted on, opened before anything is made.
#[derive(Debug)]
pub(crate) struct Target {
    fd: OwnedFd,
    path: PathBuf,
}

impl Target {
    /// Opens the directory; fails when it is missing or no directory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::at("open target", path))?;
        let path =
            path.canonicalize().map_err(|e| Error::at("resolve target", path)(crate::error::errno_of(&e)))?;
        Ok(Self { fd, path })
    }

    /// Canonical path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a detached mount visible here.
    pub(crate) fn attach(&self, mount: OwnedFd) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), "", self.fd.as_fd(), "", flags).map_err(|errno| {
            Error::Kernel { what: "attach mount to", object: self.path.clone(), errno, log: String::new() }
        })
    }
}

/// A file system context (`fsopen`), whose errors carry the kernel's messages.
#[derive(Debug)]
pub(crate) struct Context {
    fd: OwnedFd,
    what: &'static str,
    object: PathBuf,
}

impl Context {
    pub(crate) fn new(fstype: &str, what: &'static str, object: &Path) -> Result<Self> {
        let fd = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
            let log = match errno {
                Errno::NODEV => format!("this kernel has no {fstype}"),
                Errno::PERM => "needs CAP_SYS_ADMIN".to_owned(),
                Errno::NOSYS => "needs Linux 5.2".to_owned(),
                _ => String::new(),
            };
            Error::Kernel { what, object: object.to_path_buf(), errno, log }
        })?;
        Ok(Self { fd, what, object: object.to_path_buf() })
    }

    /// Sets a text option; the kernel copies at most 255 bytes (`strndup_user` in `fsconfig`).
    pub(crate) fn set_string(&self, key: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let value = value.as_ref();
        if value.len() > MAX_STRING {
            return Err(Error::Kernel {
                what: self.what,
                object: self.object.clone(),
                errno: Errno::NAMETOOLONG,
                log: format!("{key} has {} bytes, the mount API takes {MAX_STRING}", value.len()),
            });
        }
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value).map_err(|e| self.error(e))
    }

    pub(crate) fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key).map_err(|e| self.error(e))
    }

    pub(crate) fn set_fd(&self, key: &str, fd: BorrowedFd<'_>) -> Result<()> {
        rustix::mount::fsconfig_set_fd(self.fd.as_fd(), key, fd).map_err(|e| self.error(e))
    }

    /// Makes the superblock: here the kernel opens the source and parses it.
    pub(crate) fn create(&self) -> Result<()> {
        rustix::mount::fsconfig_create(self.fd.as_fd()).map_err(|e| self.error(e))
    }

    /// A detached mount of the superblock.
    pub(crate) fn mount(&self, attrs: MountAttrFlags) -> Result<OwnedFd> {
        rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)
            .map_err(|e| self.error(e))
    }

    fn error(&self, errno: Errno) -> Error {
        Error::Kernel { what: self.what, object: self.object.clone(), errno, log: self.log() }
    }

    /// Messages so far, one read each, joined with `; ` and without their level letter.
    fn log(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0u8; 1024];
        while text.len() < MAX_LOG {
            let Ok(len) = rustix::io::read(&self.fd, &mut buffer) else { break };
            let Some(message) = buffer.get(..len).filter(|message| !message.is_empty()) else { break };
            let message = String::from_utf8_lossy(message);
            let message = message.trim().trim_start_matches(['e', 'w', 'i']).trim();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.extend(message.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        text
    }
}
