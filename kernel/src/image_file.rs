//! Opening an image without side effects.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::error::{Error, Result};

/// Opens a path for reading without side effects on special files.
///
/// # Errors
/// What the system said, or that it is neither a regular file nor a block device.
pub fn open_image(path: &Path) -> Result<std::fs::File> {
    // O_NONBLOCK: a FIFO must not block the open.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(Error::at("open image", path))?;
    let stat = rustix::fs::fstat(&fd).map_err(Error::at("stat image", path))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => {
            rustix::fs::fcntl_setfl(&fd, OFlags::empty()).map_err(Error::at("open image", path))?;
            return Ok(std::fs::File::from(fd));
        }
        FileType::Directory => "directory",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        _ => "special file",
    };
    Err(Error::NotAnImage { path: path.to_path_buf(), kind })
}
