//! Recording which files of a mounted image are read, in the order of first access.
//!
//! The file system is marked before anybody can see it, so nothing is missed from the first process on. What the kernel
//! tells are inode numbers; the image tells their paths in the end. So it does not matter by which mount, in which
//! namespace or below which overlay a file was opened. What an overlay took into its upper directory, or has nowhere
//! else, is not read from the image, and not recorded.
//!
//! Opening counts as reading: a library is mapped, and never read, and no event tells of a page fault. Directories are
//! metadata, and left out.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use mkimg_format::erofs::{FileSystem, FileType};
use mkimg_format::trace;
use mkimg_kernel::mountinfo::{self, Changes, MountEntry};
use mkimg_kernel::opens::Opens;
use mkimg_kernel::signals::Termination;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::doctor::running_kernel;
use crate::error::{Error, Result, errno_of};
use crate::policy::{CheckedImage, MountRequest, Mounted, VerityPolicy, mount_prepared};

/// First kernel that tells of files that an overlay opens in the layer below it.
const OVERLAY_KERNEL: (u32, u32) = (6, 5);

/// A recording that has begun.
#[derive(Debug)]
pub struct Recorder {
    image: File,
    path: PathBuf,
    opens: Opens,
    changes: Changes,
    /// Number of the mount and of its file system; `None` if it is gone already.
    mount: Option<(u32, u32, u32)>,
    /// Inodes that were opened, each with how many were before it. No more than the image has.
    first: HashMap<u64, usize>,
    lost: bool,
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// A trace, see [`mkimg_format::trace`].
    pub text: String,
    /// Files in it.
    pub files: usize,
    /// Whether the kernel lost events, so that files may be missing.
    pub lost: bool,
}

/// As [`mount()`](crate::mount()), and records from the beginning what is opened.
///
/// # Errors
/// As that; [`Error::Record`] without `CAP_SYS_ADMIN`, and for an overlay before Linux 6.5.
pub fn mount_and_record(
    request: &MountRequest<'_>,
    check: &mut dyn FnMut(&File, VerityPolicy) -> std::result::Result<CheckedImage, String>,
) -> Result<(Mounted, Recorder)> {
    let failed = |reason: String| Error::Record { image: request.image.to_path_buf(), reason };
    if request.upper.is_some() && running_kernel().is_some_and(|version| version < OVERLAY_KERNEL) {
        return Err(failed("needs Linux 6.5 below an overlay; mount without one to record".to_owned()));
    }
    let changes = Changes::open()?;
    let mut begun = None;
    let mounted = mount_prepared(request, check, &mut |_| {}, &mut |image, fs| {
        let opens = Opens::of_file_system(fs).map_err(|errno| {
            failed(match errno {
                Errno::PERM => format!("{errno}: needs CAP_SYS_ADMIN"),
                Errno::NOSYS | Errno::INVAL => format!("{errno}: needs fanotify of Linux 5.1"),
                _ => errno.to_string(),
            })
        })?;
        let image = image.try_clone().map_err(|error| Error::at("open", request.image)(errno_of(&error)))?;
        begun = Some((image, opens));
        Ok(())
    })?;
    let (image, opens) = begun.ok_or_else(|| failed("was not begun".to_owned()))?;
    let mount = mountinfo::find(&mountinfo::read()?, &mounted.target).map(identity);
    let path = request.image.to_path_buf();
    Ok((mounted, Recorder { image, path, opens, changes, mount, first: HashMap::new(), lost: false }))
}

/// What tells a mount from all others while it is there.
const fn identity(entry: &MountEntry) -> (u32, u32, u32) {
    (entry.id, entry.major, entry.minor)
}

impl Recorder {
    /// Records until somebody wants it to end, or the mount is gone from this namespace.
    ///
    /// # Errors
    /// When the kernel tells nothing more.
    pub fn run(&mut self, end: &Termination) -> Result<()> {
        loop {
            let mut sources = [
                PollFd::new(end, PollFlags::IN),
                PollFd::new(&self.changes, PollFlags::PRI),
                PollFd::new(&self.opens, PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(&errno)),
            }
            let [ending, remounted, _] = sources.map(|source| !source.revents().is_empty());
            let over = ending || remounted && !self.is_mounted()?;
            // What came before the end is in the queue by now.
            self.take()?;
            if over {
                return Ok(());
            }
        }
    }

    fn failed(&self, reason: &impl ToString) -> Error {
        Error::Record { image: self.path.clone(), reason: reason.to_string() }
    }

    fn is_mounted(&self) -> Result<bool> {
        Ok(mountinfo::read()?.iter().any(|entry| Some(identity(entry)) == self.mount))
    }

    fn take(&mut self) -> Result<()> {
        let opened = self.opens.read().map_err(|error| self.failed(&error))?;
        self.lost |= opened.lost;
        for inode in opened.inodes {
            let before = self.first.len();
            self.first.entry(inode).or_insert(before);
        }
        Ok(())
    }

    /// What was recorded so far. A file with several names gets the first one.
    ///
    /// # Errors
    /// When the image cannot be read any more.
    pub fn recorded(&self) -> Result<Recorded> {
        let fs = FileSystem::open(&self.image).map_err(|error| self.failed(&error))?;
        let mut paths: Vec<Option<Vec<u8>>> = vec![None; self.first.len()];
        for entry in fs.walk() {
            let entry = entry.map_err(|error| self.failed(&error))?;
            let place = self.first.get(&entry.inode.nid.0).and_then(|place| paths.get_mut(*place));
            if let Some(place) = place.filter(|_| entry.inode.file_type == FileType::File) {
                place.get_or_insert(entry.path);
            }
        }
        // Devices and pipes can be opened, but have no content.
        let paths: Vec<&[u8]> = paths.iter().filter_map(Option::as_deref).collect();
        let (files, lost) = (paths.len(), self.lost);
        Ok(Recorded { text: trace::to_text(paths), files, lost })
    }

    /// The image that is recorded, as it was given.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.path
    }
}
