//! The image file: nameless until it is complete and on the disk.
//!
//! With `O_TMPFILE` a build that is killed leaves nothing behind at all. File systems without it get a hidden file
//! beside the target, which is removed on every error.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A file under construction.
pub struct Output {
    file: File,
    target: PathBuf,
    directory: PathBuf,
    /// Name of the file, if it has one already.
    temporary: Option<PathBuf>,
}

impl Output {
    /// Opens a new file in the directory of `target`.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |source| Error::Output { path: target.to_owned(), doing: "cannot create", source };
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if target.file_name().is_none() || target.is_dir() {
            return Err(fail(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let mode = Mode::from_raw_mode(0o644);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let (file, temporary) = match rustix::fs::open(&directory, flags | OFlags::TMPFILE, mode) {
            Ok(file) => (file, None),
            // Not supported by the file system, or by a kernel that takes it for an open of the directory.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) if directory.is_dir() => {
                let (file, name) = named(target, &directory, |name| {
                    rustix::fs::open(name, flags | OFlags::CREATE | OFlags::EXCL, mode)
                })
                .map_err(fail)?;
                (file, Some(name))
            }
            Err(error) => return Err(fail(error.into())),
        };
        Ok(Self { file: file.into(), target: target.to_owned(), directory, temporary })
    }

    /// The file.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// An error while writing to the file.
    pub(crate) fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Output { path: self.target.clone(), doing, source }
    }

    /// Makes room for `size` bytes, so that a full disk is found before the work is done.
    pub(crate) fn reserve(&self, size: u64) -> Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size) {
            // What cannot be reserved may still be written.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.error("cannot reserve space for the image", error.into())),
        }
    }

    /// Brings the file to the disk and gives it its name, in place of what had it.
    pub fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(|source| self.error("cannot sync", source))?;
        let name = match self.temporary.take() {
            Some(name) => name,
            None => {
                let linked = named(&self.target, &self.directory, |name| self.link(name));
                linked.map_err(|source| self.error("cannot name", source))?.1
            }
        };
        self.temporary = Some(name.clone());
        std::fs::rename(&name, &self.target).map_err(|source| self.error("cannot rename", source))?;
        self.temporary = None;
        // The name is on the disk when the directory is.
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| self.error("cannot sync the directory", source))
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

/// Finds a hidden name beside the target that nobody has yet.
fn named<T>(
    target: &Path,
    directory: &Path,
    mut make: impl FnMut(&Path) -> rustix::io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    for attempt in 0..100 {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}-{attempt}", std::process::id()));
        let path = directory.join(name);
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
