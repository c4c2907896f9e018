//! A writable overlay over an image.
//!
//! The lower layer is a *detached* mount of the image: overlayfs keeps its own copy of it, so the image
//! stays mounted exactly as long as the overlay does and is never reachable below it by a path.
//!
//! | kernel | how the lower layer is named |
//! |---|---|
//! | 6.15 | descriptor of the detached mount (`lowerdir+` by descriptor is 6.13) |
//! | 5.2 to 6.14 | a private directory below `/run/mkimg`, mounted for the moment and detached again |
//!
//! The overlay's *source* string is an [`OverlaySource`]: with it the overlay can be listed although its
//! lower layer has no line in mountinfo.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags};

use crate::error::{Error, Result};
use crate::mount::{Context, MAX_STRING, MountAttrs};
use mkimg_kernel::overlay_source::OverlaySource;

/// Where private mount points are made.
const RUN_DIR: &str = "/run/mkimg";
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux, in bytes.
const XATTR_MAX: usize = 64 << 10;

/// The two directories of an overlay, opened and checked; those made are removed unless kept.
#[derive(Debug)]
pub(crate) struct Layers {
    upper: Dir,
    work: Dir,
}

#[derive(Debug)]
struct Dir {
    what: &'static str,
    path: PathBuf,
    fd: OwnedFd,
    made: bool,
}

impl Layers {
    /// Opens both directories, making the last component where it is missing.
    pub(crate) fn open(upper: &Path, work: &Path) -> Result<Self> {
        let upper = Dir::open("upper", upper)?;
        let work = Dir::open("work", work)?;
        let fail = |path: &Path, reason: String| {
            Err(Error::Overlay { what: "work", path: path.to_path_buf(), reason })
        };
        if work.path == upper.path {
            return fail(&work.path, "is the upper directory, need another one".to_owned());
        }
        if work.path.starts_with(&upper.path) || upper.path.starts_with(&work.path) {
            let reason = format!("and upper {} lie one in the other", upper.path.display());
            return fail(&work.path, reason);
        }
        if work.mount_id()? != upper.mount_id()? {
            let reason = format!("not on the same mount as upper {}", upper.path.display());
            return fail(&work.path, reason);
        }
        Ok(Self { upper, work })
    }

    /// Gives an empty upper directory the attributes of the image's root.
    ///
    /// The root of an overlay has those of its upper directory: without this a container would see another owner,
    /// mode, time and labels on `/` than were shipped, before anybody changed anything.
    pub(crate) fn adopt_root(&self, lower: BorrowedFd<'_>) -> Result<()> {
        let upper = &self.upper.fd;
        let fail = |errno: Errno| Error::Overlay {
            what: "upper",
            path: self.upper.path.clone(),
            reason: format!("cannot take the attributes of the image's root: {errno}"),
        };
        if !is_empty(upper).map_err(fail)? {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(lower, ".", flags, Mode::empty()).map_err(fail)?;
        let stat = rustix::fs::fstat(&root).map_err(fail)?;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(upper, Some(uid), Some(gid)).map_err(fail)?;
        rustix::fs::fchmod(upper, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(fail)?;
        let mut names = vec![0; XATTR_MAX];
        let length = rustix::fs::flistxattr(&root, names.as_mut_slice()).map_err(fail)?;
        let mut value = vec![0; XATTR_MAX];
        for name in names.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty())
        {
            let length = rustix::fs::fgetxattr(&root, name, value.as_mut_slice()).map_err(fail)?;
            let value = value.get(..length).unwrap_or_default();
            match rustix::fs::fsetxattr(upper, name, value, XattrFlags::empty()) {
                // The upper file system has no such attributes: then no file can have them either.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        let nsec = |nsec: u64| i64::try_from(nsec).unwrap_or_default();
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nsec(stat.st_mtime_nsec) },
        };
        rustix::fs::futimens(upper, &times).map_err(fail)
    }

    /// Canonical path of the upper directory.
    pub(crate) fn upper(&self) -> &Path {
        &self.upper.path
    }

    /// The overlay is in place: keep the directories.
    pub(crate) fn keep(mut self) {
        self.upper.made = false;
        self.work.made = false;
    }
}

impl Dir {
    fn open(what: &'static str, path: &Path) -> Result<Self> {
        let fail = |reason: String| Error::Overlay { what, path: path.to_path_buf(), reason };
        let made = match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(fail(format!("cannot be made: {errno}"))),
        };
        let opened =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| fail(format!("cannot be opened: {errno}")))
                .and_then(|fd| {
                    let path = path
                        .canonicalize()
                        .map_err(|e| fail(format!("cannot be resolved: {}", crate::error::errno_of(&e))))?;
                    Ok((fd, path))
                });
        match opened {
            Ok((fd, path)) => Ok(Self { what, path, fd, made }),
            Err(e) => {
                if made {
                    let _ = rustix::fs::rmdir(path);
                }
                Err(e)
            }
        }
    }

    /// Number of the mount (Linux 5.8), of the file system before that.
    fn mount_id(&self) -> Result<u64> {
        let fail = |errno: Errno| Error::Overlay {
            what: self.what,
            path: self.path.clone(),
            reason: format!("cannot be examined: {errno}"),
        };
        match rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => return Ok(found.stx_mnt_id),
            Ok(_) | Err(Errno::NOSYS) => {}
            Err(errno) => return Err(fail(errno)),
        }
        rustix::fs::fstat(&self.fd).map(|stat| stat.st_dev).map_err(fail)
    }

    /// The path as an option string. Overlayfs undoes backslashes, old kernels split at commas; a
    /// path with either is named through the descriptor, which is then what mountinfo shows.
    fn option(&self) -> OsString {
        let bytes = self.path.as_os_str().as_bytes();
        if bytes.len() > MAX_STRING || bytes.iter().any(|b| matches!(b, b',' | b'\\')) {
            fd_path(self.fd.as_fd())
        } else {
            self.path.clone().into_os_string()
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.made {
            // Overlayfs makes `work/work` before some of its checks; both are empty then.
            let _ = rustix::fs::rmdir(self.path.join("work"));
            let _ = rustix::fs::rmdir(&self.path);
        }
    }
}

/// Whether a directory has no entries.
fn is_empty(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let mut entries = rustix::fs::Dir::read_from(dir)?;
    Ok(!entries.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))))
}

fn fd_path(fd: BorrowedFd<'_>) -> OsString {
    use std::os::fd::AsRawFd;
    OsString::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// How the lower layer is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Everything by descriptor.
    Descriptor,
    /// Over a private mount point.
    PrivateMount,
}

/// A detached overlay of `layers` over the detached mount `lower`.
pub(crate) fn detached_overlay(
    lower: BorrowedFd<'_>,
    layers: &Layers,
    source: &OverlaySource,
    attrs: MountAttrs,
) -> Result<OwnedFd> {
    match overlay_with(Naming::Descriptor, lower, layers, source, attrs) {
        // Before 6.13 layers are not taken by descriptor, before 6.15 not from a detached mount.
        Err(e) if matches!(e.errno(), Some(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP)) => {
            overlay_with(Naming::PrivateMount, lower, layers, source, attrs).map_err(|second| {
                // The first way is the one that works on the kernels that matter: its words first.
                if second.errno() == e.errno() { e } else { second }
            })
        }
        other => other,
    }
}

/// As [`detached_overlay`], one way only.
pub(crate) fn overlay_with(
    naming: Naming,
    lower: BorrowedFd<'_>,
    layers: &Layers,
    source: &OverlaySource,
    attrs: MountAttrs,
) -> Result<OwnedFd> {
    let fs = Context::new("overlay", "mount overlay with upper", &layers.upper.path)?;
    fs.set_string("source", source.to_source())?;
    match naming {
        Naming::Descriptor => {
            fs.set_fd("lowerdir+", lower)?;
            fs.set_fd("upperdir", layers.upper.fd.as_fd())?;
            fs.set_fd("workdir", layers.work.fd.as_fd())?;
            fs.create()?;
            fs.mount(attrs.flags())
        }
        Naming::PrivateMount => {
            let place = PrivateMount::new(lower)?;
            // One layer whose path has neither colon nor backslash: the plain option of every kernel.
            fs.set_string("lowerdir", place.path.as_path())?;
            fs.set_string("upperdir", layers.upper.option())?;
            fs.set_string("workdir", layers.work.option())?;
            fs.create()?;
            fs.mount(attrs.flags())
        }
    }
}

/// A mount in a directory that only root can enter, gone when dropped.
#[derive(Debug)]
struct PrivateMount {
    path: PathBuf,
    mounted: bool,
}

impl PrivateMount {
    fn new(mount: BorrowedFd<'_>) -> Result<Self> {
        let run = Path::new(RUN_DIR);
        match rustix::fs::mkdir(run, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::at("make directory", run)(errno)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(run, flags, Mode::empty()).map_err(Error::at("open", run))?;
        let stat = rustix::fs::fstat(&dir).map_err(Error::at("stat", run))?;
        let private = FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_mode & 0o077 == 0;
        if !private {
            return Err(Error::at("use (must be ours and mode 0700)", run)(Errno::PERM));
        }
        let pid = rustix::process::getpid();
        for attempt in 0..100u32 {
            let path = run.join(format!("lower-{}-{attempt}", pid.as_raw_nonzero()));
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(Error::at("make directory", &path)(errno)),
            }
            let mut place = Self { path, mounted: false };
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(mount, "", rustix::fs::CWD, place.path.as_path(), flags)
                .map_err(Error::at("mount lower layer on", &place.path))?;
            place.mounted = true;
            return Ok(place);
        }
        Err(Error::at("make directory below", run)(Errno::EXIST))
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let _ = rustix::fs::rmdir(&self.path);
    }
}
