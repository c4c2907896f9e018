//! Makes a path name one certain inode while the kernel opens it.
//!
//! A file-backed mount takes its image by *path*: the kernel opens it a second time, after the audit,
//! and whoever may rename a directory above the image could put another file there in between. A path
//! below `/proc/self/fd` would name the open file, but that string then stands in mountinfo for ever
//! and says nothing.
//!
//! So the call that opens the path is made from a thread of its own whose root directory is an empty
//! tmpfs with nothing but that path in it, and at its end a bind mount of the *open file*. What
//! happens to the real path meanwhile does not matter; mountinfo shows the path as given. The thread
//! has its own mount namespace, all of which vanishes with it.
//!
//! A consequence: what the kernel holds is the bind mount, not the mount that the path leads through.
//! The file system that the image lies on can therefore be unmounted from its own mount point while the
//! image is mounted; it lives on, unseen, until the image is unmounted (as after a lazy unmount).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};
use rustix::thread::UnshareFlags;

/// How a pinned call ended.
#[derive(Debug)]
pub(crate) enum Pinned<T> {
    /// The call was made, with the path pinned.
    Called(T),
    /// The surroundings could not be made; the call was not made.
    Impossible(Errno),
}

/// Calls `call` where `path` (absolute, canonical) can only be the file open as `image`.
pub(crate) fn with_pinned_path<T: Send>(
    image: BorrowedFd<'_>,
    path: &Path,
    call: impl FnOnce() -> T + Send,
) -> Pinned<T> {
    // A copy of the file's mount has to be made before the thread leaves this namespace.
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let bind = match rustix::mount::open_tree(image, "", flags) {
        Ok(bind) => bind,
        Err(errno) => return Pinned::Impossible(errno),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mkimg-pin".to_owned()).spawn_scoped(scope, || {
            match enter(bind.as_fd(), path) {
                Ok(()) => Pinned::Called(call()),
                Err(errno) => Pinned::Impossible(errno),
            }
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Pinned::Impossible(Errno::CANCELED),
            Err(e) => Pinned::Impossible(crate::error::errno_of(&e)),
        }
    })
}

/// Moves the calling thread into a root that holds `path` alone, with the mount `bind` on it.
fn enter(bind: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    unshare_mounts()?;
    // Nothing mounted from here on may propagate to where the thread came from.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "mode", "0700")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let root =
        rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root.as_fd(), "", CWD, "/", from_fd)?;

    let mut dir = rustix::io::fcntl_dupfd_cloexec(&root, 0)?;
    let mut names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(Ok(name)),
        Component::RootDir => None,
        _ => Some(Err(Errno::INVAL)),
    });
    let mut name = names.next().ok_or(Errno::INVAL)??;
    for next in names {
        rustix::fs::mkdirat(&dir, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
        name = next?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&dir, name, flags, Mode::RUSR)?);
    rustix::mount::move_mount(bind, "", dir.as_fd(), name, from_fd)?;

    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    // The proof: the path, looked up as the kernel will, is the inode that was bound.
    let (there, bound) = (rustix::fs::stat(path)?, rustix::fs::statat(bind, "", AtFlags::EMPTY_PATH)?);
    if (there.st_dev, there.st_ino) == (bound.st_dev, bound.st_ino) { Ok(()) } else { Err(Errno::STALE) }
}

/// A mount namespace, root and working directory for the calling thread alone.
#[expect(deprecated, reason = "unsound only with CLONE_FILES, which is not asked for")]
fn unshare_mounts() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::FS)
}
