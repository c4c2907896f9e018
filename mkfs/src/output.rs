//! The image file: nameless until it is complete and on the disk.
//!
//! With `O_TMPFILE` a build that is killed leaves nothing behind at all. File systems without it get a hidden file
//! beside the target, which is removed on every error. A target that exists keeps its owner and permissions, and a symbolic
//! link to a file keeps leading there; nothing but a regular file is ever replaced.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// `f_type` of tmpfs, from Linux `magic.h`.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// A file under construction.
pub struct Output {
    file: File,
    target: PathBuf,
    directory: PathBuf,
    /// Name of the file, if it has one already.
    temporary: Option<PathBuf>,
    /// The file that will be replaced.
    existing: Option<Metadata>,
}

impl Output {
    /// Opens a new file in the directory of `target`.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |source| Error::Output { path: target.to_owned(), doing: "cannot create", source };
        if target.file_name().is_none() || target.as_os_str().as_bytes().ends_with(b"/") {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        let existing = match std::fs::metadata(target) {
            Ok(existing) => Some(existing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fail(error)),
        };
        if existing.as_ref().is_some_and(|existing| !existing.is_file()) {
            return Err(fail(io::Error::other("exists and is not a regular file")));
        }
        // A link to a file leads to what is replaced. One to nothing is replaced itself.
        let target = match &existing {
            Some(_) => &*std::fs::canonicalize(target).map_err(fail)?,
            None => target,
        };
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // What replaces a file gets its permissions at the end, and is not for others before.
        let mode = Mode::from_raw_mode(if existing.is_some() { 0o600 } else { 0o644 });
        let (file, temporary) = new_file(&directory, mode).map_err(fail)?;
        Ok(Self { file, target: target.to_owned(), directory, temporary, existing })
    }

    /// A file for what has to wait on its way to the image, at most `size` bytes: in the same directory, without a name.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be made, or there is no room for it.
    pub(crate) fn scratch(&self, size: u64) -> Result<File> {
        let made = new_file(&self.directory, Mode::RUSR | Mode::WUSR);
        let nameless = made.and_then(|(file, name)| match name {
            Some(name) => std::fs::remove_file(name).map(|()| file),
            None => Ok(file),
        });
        let file = nameless.map_err(|source| self.error("cannot create a temporary file", source))?;
        make_room(&file, size)
            .map_err(|source| self.error("cannot reserve space for a temporary file", source))?;
        Ok(file)
    }

    /// A file that never has a name, in the same directory, if that is on a disk: in a file system in memory it would
    /// take the memory that it is to save.
    pub(crate) fn nameless(&self) -> Option<File> {
        if rustix::fs::fstatfs(&self.file).ok()?.f_type == TMPFS_MAGIC {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        Some(rustix::fs::open(&self.directory, flags, Mode::RUSR | Mode::WUSR).ok()?.into())
    }

    /// Bytes that are free on the disk of the file, for everybody.
    pub(crate) fn free(&self) -> Option<u64> {
        let disk = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The new file and the one that will be replaced, by device and inode number.
    pub(crate) fn identities(&self) -> Vec<(u64, u64)> {
        let new = self.file.metadata().ok();
        new.iter().chain(&self.existing).map(|file| (file.dev(), file.ino())).collect()
    }

    /// Makes sure that an input is not the file that will be replaced.
    ///
    /// # Errors
    /// [`Error::Output`] if it is.
    pub fn spare(&self, input: &File) -> Result<()> {
        let input = input.metadata().map_err(|source| self.error("cannot stat the input", source))?;
        if self.identities().contains(&(input.dev(), input.ino())) {
            return Err(self.error("cannot create", io::Error::other("is the input itself")));
        }
        Ok(())
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Makes sure that no file of an input directory is replaced.
    ///
    /// # Errors
    /// [`Error::Output`] if the target is there and inside.
    pub(crate) fn spare_inside(&self, input: &Path) -> Result<()> {
        let inside = std::fs::canonicalize(input).is_ok_and(|input| self.target.starts_with(input));
        if self.existing.is_some() && inside {
            return Err(self.error("cannot create", io::Error::other("is part of the input")));
        }
        Ok(())
    }

    /// An error while writing to the file.
    pub(crate) fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Output { path: self.target.clone(), doing, source }
    }

    /// Makes room for `size` bytes, so that a full disk is found before the work is done.
    ///
    /// # Errors
    /// [`Error::Output`] if there is none.
    pub fn reserve(&self, size: u64) -> Result<()> {
        make_room(&self.file, size).map_err(|source| self.error("cannot reserve space for the image", source))
    }

    /// Brings the file to the disk and gives it its name, in place of what had it.
    pub fn finish(mut self) -> Result<()> {
        if let Some(existing) = self.existing.take() {
            // Only root can give files away; for everybody else the owner is right already or cannot be kept.
            let _ = std::os::unix::fs::fchown(&self.file, Some(existing.uid()), Some(existing.gid()));
            let set = self.file.set_permissions(existing.permissions());
            set.map_err(|source| self.error("cannot set the permissions", source))?;
        }
        self.file.sync_all().map_err(|source| self.error("cannot sync", source))?;
        let name = match self.temporary.take() {
            Some(name) => Some(name),
            // Straight to its name if that is free: then there is no moment with another one.
            None => match self.link(&self.target) {
                Ok(()) => None,
                Err(Errno::EXIST) => {
                    let linked = named(&self.directory, |name| self.link(name));
                    Some(linked.map_err(|source| self.error("cannot name", source))?.1)
                }
                Err(error) => return Err(self.error("cannot name", error.into())),
            },
        };
        if let Some(name) = name {
            self.temporary = Some(name.clone());
            std::fs::rename(&name, &self.target).map_err(|source| self.error("cannot rename", source))?;
            self.temporary = None;
        }
        // The name is on the disk when the directory is. One that may be written but not read cannot be synced.
        match File::open(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            opened => opened
                .and_then(|directory| directory.sync_all())
                .map_err(|source| self.error("cannot sync the directory", source)),
        }
    }

    /// Gives a nameless file a name.
    fn link(&self, name: &Path) -> rustix::io::Result<()> {
        use std::os::fd::AsRawFd as _;
        match rustix::fs::linkat(&self.file, "", CWD, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the way leads through /proc.
            Err(Errno::NOENT | Errno::PERM) => {
                let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, descriptor, CWD, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Reserves `size` bytes for a file.
fn make_room(file: &File, size: u64) -> io::Result<()> {
    // Beyond this limit a signal would end the process without a word.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| size > limit) {
        return Err(Errno::FBIG.into());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        // What cannot be reserved may still be written.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a file without a name, or with a hidden one where file systems have no others.
fn new_file(directory: &Path, mode: Mode) -> io::Result<(File, Option<PathBuf>)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok((file.into(), None)),
        // Not supported by the file system, or by a kernel that takes it for an open of the directory.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) if directory.is_dir() => {
            let (file, name) =
                named(directory, |name| rustix::fs::open(name, flags | OFlags::CREATE | OFlags::EXCL, mode))?;
            Ok((file.into(), Some(name)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Finds a hidden name in a directory that nobody has yet.
fn named<T>(
    directory: &Path,
    mut make: impl FnMut(&Path) -> rustix::io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    for attempt in 0..100 {
        let path = directory.join(format!(".mkimg-{}-{attempt}", std::process::id()));
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
