//! Where blobs and named files come from: a directory or an archive.
//!
//! In a directory the last component of a path is never followed when it is a symlink and only regular files are read, so
//! a FIFO cannot block and a device cannot be read. All reads are at explicit offsets: nothing shares a seek position.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use crate::archive::Archive;
use crate::digest::Digest;
use crate::error::Error;
use crate::limits::Limits;

/// A run of bytes in a file.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    /// Fewer bytes than asked for only at the end of the extent or of a file that was cut meanwhile.
    pub(crate) fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let Some(start) = self.offset.checked_add(at) else { return Ok(0) };
        let mut done = 0;
        while done < want {
            let position = start.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match self.file.read_at(&mut buf[done..want], position) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// All of it, if it is not longer than `limit`.
    pub(crate) fn read_all(&self, object: &str, limit: u64) -> Result<Vec<u8>, Error> {
        if self.len > limit {
            return Err(Error::Limit {
                object: object.to_owned(),
                what: format!("size of {} bytes", self.len),
                limit,
            });
        }
        let mut data = vec![0; usize::try_from(self.len).unwrap_or(0)];
        let got =
            self.read_at(&mut data, 0).map_err(|source| Error::Io { object: object.to_owned(), source })?;
        data.truncate(got);
        Ok(data)
    }
}

pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(buf, at)
}

/// An image layout.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    Directory { path: PathBuf, dir: Arc<OwnedFd> },
    Archive(Arc<Archive>),
}

impl Store {
    pub(crate) fn directory(path: &Path) -> Result<Store, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::Io { object: path.display().to_string(), source: errno.into() })?;
        Ok(Store::Directory { path: path.to_owned(), dir: Arc::new(dir) })
    }

    /// The path of the source, for messages.
    pub(crate) fn place(&self) -> String {
        match self {
            Store::Directory { path, .. } => path.display().to_string(),
            Store::Archive(archive) => archive.path.display().to_string(),
        }
    }

    /// The blob that `digest` names.
    ///
    /// In a directory it may be a symbolic link, as build systems make layouts that share blobs: wherever it leads, the
    /// bytes have to have the digest. Devices and fifos behind it are not even opened.
    pub(crate) fn blob(&self, digest: &Digest, object: &str, limits: &Limits) -> Result<Extent, Error> {
        let name = format!("blobs/{}/{}", digest.algorithm(), digest.hex());
        if let Store::Directory { path, .. } = self {
            let link = path.join(&name);
            let behind = std::fs::metadata(&link).ok().filter(std::fs::Metadata::is_file);
            if behind.is_some() && link.is_symlink() {
                return open_file(&link);
            }
        }
        self.named(&name, object, limits)
    }

    /// The file `name`, which the caller has made or checked: in a directory it is a path below it.
    pub(crate) fn named(&self, name: &str, object: &str, limits: &Limits) -> Result<Extent, Error> {
        let missing = || Error::Missing { object: object.to_owned(), place: self.place() };
        match self {
            Store::Directory { dir, .. } => {
                let flags =
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                    Ok(fd) => regular(File::from(fd), object),
                    Err(rustix::io::Errno::NOENT) => Err(missing()),
                    Err(rustix::io::Errno::LOOP) => {
                        Err(Error::NotRegular { object: object.to_owned(), found: "symlink" })
                    }
                    // The answer to opening a socket.
                    Err(rustix::io::Errno::NXIO) => {
                        Err(Error::NotRegular { object: object.to_owned(), found: "socket or device" })
                    }
                    Err(errno) => Err(Error::Io { object: object.to_owned(), source: errno.into() }),
                }
            }
            Store::Archive(archive) => archive.find(name, limits)?.ok_or_else(missing),
        }
    }
}

/// Opens a file that the user named: symlinks are followed, what is behind them has to be a regular file.
pub(crate) fn open_file(path: &Path) -> Result<Extent, Error> {
    let object = path.display().to_string();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Error::Io { object: object.clone(), source: errno.into() })?;
    regular(File::from(fd), &object)
}

fn regular(file: File, object: &str) -> Result<Extent, Error> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = file.metadata().map_err(|source| Error::Io { object: object.to_owned(), source })?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(Extent { file: Arc::new(file), offset: 0, len: metadata.len() });
    }
    let found = if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "FIFO"
    } else if kind.is_char_device() || kind.is_block_device() {
        "device"
    } else {
        "special file"
    };
    Err(Error::NotRegular { object: object.to_owned(), found })
}
