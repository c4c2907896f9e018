//! Opening an image for the commands that only read it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mkimg_format::ReadAt;
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::FileSystem;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_format::volume::is_of_others;

use crate::output::show;

/// `O_NONBLOCK` of Linux: an open must not wait for the other end of a fifo.
const O_NONBLOCK: i32 = 0o4000;

/// Opens a regular file or block device for reading.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a regular file or block device to change a part of it.
pub(crate) fn open_for_update(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true).write(true))
}

fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File> {
    let name = || show(path);
    let file = options.custom_flags(O_NONBLOCK).open(path).with_context(name)?;
    let kind = file.metadata().with_context(name)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        bail!("{}: is no regular file and no block device", show(path));
    }
    Ok(file)
}

/// Opens an image of any writer, for what needs its file system alone.
pub(crate) fn open_any(path: &Path) -> Result<Sealed<File>> {
    let name = || show(path);
    let sealed = Sealed::open(open_file(path)?).with_context(name)?;
    if is_of_others(&sealed).unwrap_or(false) {
        return Ok(sealed);
    }
    Header::read(&sealed).with_context(name)?;
    Ok(sealed)
}

/// Refuses an image of another writer, where nothing can be done without a seal.
pub(crate) fn refuse_others(path: &Path, image: &impl ReadAt) -> Result<()> {
    if is_of_others(image).unwrap_or(false) {
        bail!("{}: has no seal, as mkimg has not written it", show(path));
    }
    Ok(())
}

/// The header of an image, for what needs its records.
pub(crate) fn header(path: &Path, image: &Sealed<File>) -> Result<Header> {
    refuse_others(path, image)?;
    Header::read(image).with_context(|| show(path))
}

/// An image, or a detached seal, and the file system in it.
pub(crate) struct Image {
    pub sealed: Sealed<File>,
    pub header: Header,
}

impl Image {
    /// Opens an image.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::of(path, Sealed::open(open_file(path)?).with_context(|| show(path))?)
    }

    /// An image that is open already.
    pub(crate) fn of(path: &Path, sealed: Sealed<File>) -> Result<Self> {
        let header = header(path, &sealed)?;
        Ok(Self { sealed, header })
    }

    /// The file system.
    pub(crate) fn file_system(&self) -> Result<FileSystem<&Sealed<File>>> {
        Ok(FileSystem::open(&self.sealed)?)
    }

    /// The seal.
    pub(crate) fn seal(&self) -> Result<Seal<&Sealed<File>>> {
        Ok(Seal::open(&self.sealed, &self.header)?)
    }
}
