//! Owners, xattrs, modes and times.
//!
//! The order matters: changing the owner clears set-id bits and file capabilities, so it comes first; setting an
//! access control list changes the mode, so the mode comes after the xattrs; the time is last.

use std::os::fd::{AsFd, BorrowedFd};

use mkimg_format::erofs::{FileType, Inode, Timestamp, Xattr, escape};
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Result, host};
use crate::options::Owners;
use crate::summary::{Summary, count};
use crate::target::proc_path;

/// Set-user-id and set-group-id bits.
const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;

/// An inode of the target whose attributes are to be set.
#[derive(Clone, Copy)]
pub(crate) enum Handle<'a> {
    /// A file or directory, open.
    Open(BorrowedFd<'a>),
    /// Anything else, open as a path.
    Path(BorrowedFd<'a>),
}

impl<'a> Handle<'a> {
    const fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Open(fd) | Self::Path(fd) => fd,
        }
    }

    fn stat(self) -> rustix::io::Result<Stat> {
        rustix::fs::statat(self.fd(), "", AtFlags::EMPTY_PATH)
    }

    fn set_owner(self, uid: Uid, gid: Gid) -> rustix::io::Result<()> {
        rustix::fs::chownat(self.fd(), "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    fn set_xattr(self, xattr: &Xattr) -> rustix::io::Result<()> {
        let (name, value, flags) = (xattr.name.as_slice(), xattr.value.as_slice(), XattrFlags::empty());
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            // What the link in /proc leads to is not followed any further, not even a symbolic link.
            Self::Path(fd) => rustix::fs::setxattr(proc_path(fd), name, value, flags),
        }
    }

    fn set_mode(self, mode: u16) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Path(fd) => rustix::fs::chmod(proc_path(fd), mode),
        }
    }

    fn set_times(self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Path(fd) => rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH),
        }
    }
}

/// Restores attributes, within the privileges of the caller.
pub(crate) struct Restorer {
    /// Owners are restored.
    owners: bool,
    /// Whether it is worth a line that they are not.
    report_owners: bool,
    /// Inodes whose owner is another one than in the image.
    foreign: u64,
}

impl Restorer {
    pub(crate) fn new(owners: Owners) -> Self {
        let root = rustix::process::geteuid().is_root();
        let restore = owners == Owners::Keep || (owners == Owners::Auto && root);
        Self { owners: restore, report_owners: owners == Owners::Auto && !restore, foreign: 0 }
    }

    /// Sets everything that `inode` says about an inode of the target.
    pub(crate) fn restore(
        &mut self,
        handle: Handle<'_>,
        path: &[u8],
        inode: &Inode,
        xattrs: &[Xattr],
        summary: &mut Summary,
    ) -> Result<()> {
        let stat = self.restore_owner(handle, path, inode, summary)?;
        if !xattrs.is_empty() {
            if inode.file_type == FileType::File {
                // user.* may be set by those who may write, whatever the umask left of the mode.
                handle.set_mode(0o600).map_err(host(path, "cannot set mode"))?;
            }
            for xattr in xattrs {
                restore_xattr(handle, path, xattr, summary)?;
            }
        }
        if inode.file_type != FileType::Symlink {
            restore_mode(handle, path, inode, &stat, summary)?;
        }
        restore_mtime(handle, path, inode.mtime, summary)
    }

    /// Sets owner and group; returns how the inode is then.
    fn restore_owner(
        &mut self,
        handle: Handle<'_>,
        path: &[u8],
        inode: &Inode,
        summary: &mut Summary,
    ) -> Result<Stat> {
        if self.owners {
            // All ones means "leave it as it is" to the kernel; no file can belong to that number.
            if inode.uid == u32::MAX || inode.gid == u32::MAX {
                summary.skip(path, format!("owner {}:{} is none that a file can have", inode.uid, inode.gid));
            } else {
                let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
                handle.set_owner(uid, gid).map_err(host(path, "cannot set owner"))?;
            }
        }
        let stat = handle.stat().map_err(host(path, "cannot look at it"))?;
        if (stat.st_uid, stat.st_gid) != (inode.uid, inode.gid) {
            count(&mut self.foreign);
        }
        Ok(stat)
    }

    /// The line about owners, when all is done.
    pub(crate) fn finish(&self, summary: &mut Summary) {
        if self.report_owners && self.foreign > 0 {
            summary
                .skip(b"/", format!("owners of {} files and directories: not running as root", self.foreign));
        }
    }
}

fn restore_xattr(handle: Handle<'_>, path: &[u8], xattr: &Xattr, summary: &mut Summary) -> Result<()> {
    match handle.set_xattr(xattr) {
        Ok(()) => {}
        // No privilege, no such namespace here, `user.` on something that is neither file nor directory.
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)) => {
            summary.skip(path, format!("xattr {}: {error}", escape(&xattr.name)));
        }
        // A label that the security policy of this machine does not know.
        Err(error @ Errno::INVAL) if xattr.name.starts_with(b"security.") => {
            summary.skip(path, format!("xattr {}: {error}", escape(&xattr.name)));
        }
        Err(error) => {
            return Err(host(path, "cannot set xattr")(std::io::Error::other(format!(
                "{}: {error}",
                escape(&xattr.name)
            ))));
        }
    }
    Ok(())
}

/// Sets the mode, without set-id bits that would serve the wrong user.
fn restore_mode(
    handle: Handle<'_>,
    path: &[u8],
    inode: &Inode,
    stat: &Stat,
    summary: &mut Summary,
) -> Result<()> {
    let mut mode = inode.mode & 0o7777;
    // On directories they only say whom new files belong to.
    if inode.file_type != FileType::Dir {
        if stat.st_uid != inode.uid {
            mode &= !SET_UID;
        }
        if stat.st_gid != inode.gid {
            mode &= !SET_GID;
        }
        if mode != inode.mode & 0o7777 {
            summary
                .skip(path, format!("set-id bits of mode {:04o}: owner not restored", inode.mode & 0o7777));
        }
    }
    handle.set_mode(mode).map_err(host(path, "cannot set mode"))
}

fn restore_mtime(handle: Handle<'_>, path: &[u8], mtime: Timestamp, summary: &mut Summary) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() },
    };
    handle.set_times(&times).map_err(host(path, "cannot set time"))?;
    // Every file system has 1970 to 2038; beyond, the kernel silently takes the nearest time that it can store.
    if i32::try_from(mtime.sec).is_err() || mtime.sec < 0 {
        let stat = handle.stat().map_err(host(path, "cannot look at it"))?;
        if stat.st_mtime != mtime.sec {
            summary.skip(path, format!("time {mtime}: the file system stores {}", stat.st_mtime));
        }
    }
    Ok(())
}

impl<'a> Handle<'a> {
    /// A file or directory.
    pub(crate) fn open(fd: &'a impl AsFd) -> Self {
        Self::Open(fd.as_fd())
    }

    /// Something that is open as a path.
    pub(crate) fn path(fd: &'a impl AsFd) -> Self {
        Self::Path(fd.as_fd())
    }
}
