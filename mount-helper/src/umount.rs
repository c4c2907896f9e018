//! Unmounting, with a look at what is there first.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use crate::error::{Error, Result, errno_of};
use mkimg_kernel::mounts::{Backing, ImageMount, image_mount};
use mkimg_kernel::{dm, mountinfo};

/// How to unmount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UmountOptions {
    /// Detach now and clean up when the last user is gone, instead of failing while it is in use.
    pub lazy: bool,
    /// Unmount whatever is there, not only images.
    pub force: bool,
}

/// What was unmounted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmounted {
    /// The mount point.
    pub target: PathBuf,
    /// Type of its file system.
    pub fstype: String,
    /// The image, when it was one.
    pub image: Option<ImageMount>,
}

/// Unmounts the topmost mount at `target`.
///
/// Without `force` only an EROFS mount or an overlay made by this crate is touched. Loop devices clear
/// themselves and mapped devices are removed by the kernel once the last user is gone.
pub fn umount(target: &Path, options: UmountOptions) -> Result<Unmounted> {
    let path = target.canonicalize().map_err(|e| Error::at("resolve target", target)(errno_of(&e)))?;
    let entries = mountinfo::read()?;
    let entry = mountinfo::find(&entries, &path).ok_or_else(|| Error::NotMounted { path: path.clone() })?;
    let fstype = entry.fstype.to_string_lossy().into_owned();
    let image = image_mount(entry).map(|(mount, _)| mount);
    if image.is_none() && !options.force {
        let source_name = entry.source.to_string_lossy().into_owned();
        return Err(Error::NotOurs { path, fstype, source_name });
    }
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, options.lazy);
    rustix::mount::unmount(&path, flags).map_err(Error::at("unmount", &path))?;
    if image.as_ref().is_some_and(|image| matches!(image.backing, Backing::Dm { .. })) {
        // Of a mount that was killed; this one is gone whether or not that works.
        let _ = dm::sweep();
    }
    // The mapped device is not removed by its name: removal has been pending since the mount, and the name may
    // already be that of the next mount of the same image.
    Ok(Unmounted { target: path, fstype, image })
}
