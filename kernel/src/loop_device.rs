//! Loop devices: a block device over an open file.
//!
//! The invariant: a device is bound with `LO_FLAGS_AUTOCLEAR`, so the kernel unbinds it when its last
//! user is gone. While a [`LoopDevice`] lives it is a user; a mounted file system or a device-mapper
//! table is another. Dropping the value on a failure path is therefore all the cleanup there is.
//!
//! `LOOP_CONFIGURE` (Linux 5.8) binds and configures in one step, so nobody ever sees a device that
//! is bound but still writable, or not yet marked for clearing.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::ioctl::{self, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LoopConfig};

/// Tries before giving up on the race between `LOOP_CTL_GET_FREE` and `LOOP_CONFIGURE`.
const ATTEMPTS: u32 = 64;
/// Longest time waited for a device node to appear, in steps of 10 ms.
const NODE_WAIT_STEPS: u32 = 50;

/// How a file is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopOptions<'a> {
    /// First byte of the file that the device shows.
    pub offset: u64,
    /// Number of bytes shown, 0 = to the end of the file.
    pub size_limit: u64,
    /// Logical block size in bytes, 0 = the kernel's choice (512, or what direct I/O needs).
    pub block_size: u32,
    /// Ask for direct I/O; done without when the backing file system refuses it.
    pub direct_io: bool,
    /// Name shown by losetup, cut to 63 bytes.
    pub name: Option<&'a Path>,
}

/// A bound loop device, read-only, unbound when its last user is gone.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
    number: u32,
    direct_io: bool,
}

impl LoopDevice {
    /// Binds `image` to a free loop device.
    pub fn attach(image: BorrowedFd<'_>, options: &LoopOptions<'_>) -> Result<Self> {
        Self::attach_with(image, options, &mut |_| {})
    }

    /// As [`LoopDevice::attach`]; `before_configure` is told the number that is about to be bound.
    #[doc(hidden)]
    pub fn attach_with(
        image: BorrowedFd<'_>,
        options: &LoopOptions<'_>,
        before_configure: &mut dyn FnMut(u32),
    ) -> Result<Self> {
        let control_path = Path::new("/dev/loop-control");
        let control = rustix::fs::open(control_path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| match errno {
                Errno::NOENT | Errno::NXIO | Errno::NODEV => Error::NoLoop {
                    reason: format!("/dev/loop-control: {errno}; the kernel has no loop driver loaded"),
                },
                _ => Error::Path { what: "open", path: control_path.to_path_buf(), errno },
            },
        )?;
        let mut config = LoopConfig::new(image).map_err(Error::at("loop backing file", control_path))?;
        config.block_size = options.block_size;
        config.info.lo_offset = options.offset;
        config.info.lo_sizelimit = options.size_limit;
        config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
        if options.direct_io {
            config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
        }
        if let Some(name) = options.name {
            let name = name.as_os_str().as_bytes();
            // The last byte stays NUL.
            for (to, from) in config.info.lo_file_name.iter_mut().take(63).zip(name) {
                *to = *from;
            }
        }
        for attempt in 0..ATTEMPTS {
            let number = ioctl::loop_get_free(control.as_fd())
                .map_err(Error::at("get a free loop device from", control_path))?;
            let path = node(number);
            let fd = match open_node(&path) {
                Ok(fd) => fd,
                // Removed again between the two calls: LOOP_CTL_REMOVE by somebody else.
                Err(Errno::NXIO | Errno::NODEV) => continue,
                Err(Errno::NOENT) => {
                    return Err(Error::NoLoop {
                        reason: format!(
                            "{}: the kernel made the device but no node appeared; is /dev a devtmpfs?",
                            path.display()
                        ),
                    });
                }
                Err(errno) => return Err(Error::Path { what: "open loop device", path, errno }),
            };
            before_configure(number);
            let mut bound = ioctl::loop_configure(fd.as_fd(), config);
            if let Err(Errno::INVAL | Errno::OPNOTSUPP) = bound
                && config.info.lo_flags & LO_FLAGS_DIRECT_IO != 0
            {
                config.info.lo_flags &= !LO_FLAGS_DIRECT_IO;
                bound = ioctl::loop_configure(fd.as_fd(), config);
            }
            match bound {
                Ok(()) => {
                    let status = ioctl::loop_status(fd.as_fd())
                        .map_err(Error::at("read state of loop device", &path))?;
                    let direct_io = status.lo_flags & LO_FLAGS_DIRECT_IO != 0;
                    let device = LoopDevice { fd, number, direct_io };
                    if status.lo_flags & LO_FLAGS_AUTOCLEAR == 0 {
                        // Would stay behind: clear by hand and refuse to go on.
                        let _ = ioctl::loop_clear(device.fd.as_fd());
                        return Err(Error::NoLoop {
                            reason: format!("{}: the kernel did not take autoclear", path.display()),
                        });
                    }
                    return Ok(device);
                }
                // Somebody else was faster with the same number.
                Err(Errno::BUSY) => {
                    drop(fd);
                    std::thread::sleep(Duration::from_millis(u64::from(attempt.min(10))));
                }
                Err(errno) => return Err(Error::Path { what: "bind loop device", path, errno }),
            }
        }
        Err(Error::NoLoop { reason: format!("{ATTEMPTS} free devices were taken by others before use") })
    }

    /// Number N of `/dev/loopN`.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node(self.number)
    }

    /// Whether the kernel took direct I/O for the backing file.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        self.direct_io
    }

    /// Path of the file behind `/dev/loopN` as the kernel names it, without the mark ` (deleted)`.
    ///
    /// `None` when the device is not bound.
    #[must_use]
    pub fn backing(number: u32) -> Option<PathBuf> {
        read_backing(&PathBuf::from(format!("/sys/block/loop{number}/loop/backing_file")))
    }
}

/// What the kernel says about a bound loop device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopState {
    /// Path of the backing file as the kernel names it, without the mark ` (deleted)`.
    pub path: PathBuf,
    /// `st_dev` of the backing file.
    pub device: u64,
    /// `st_ino` of the backing file.
    pub inode: u64,
    /// First byte of the file that the device shows.
    pub offset: u64,
    /// Bytes that the device shows. It keeps them when the file gets shorter.
    pub size: u64,
}

impl LoopState {
    /// State of `/dev/loopN`; `None` when it is not bound.
    ///
    /// # Errors
    /// The node cannot be opened or asked.
    pub fn of(number: u32) -> Result<Option<Self>> {
        let sys = PathBuf::from(format!("/sys/block/loop{number}"));
        let Some(path) = LoopDevice::backing(number) else { return Ok(None) };
        let node = node(number);
        let fd = rustix::fs::open(&node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::at("open loop device", &node))?;
        let status = match ioctl::loop_status(fd.as_fd()) {
            Ok(status) => status,
            Err(Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(Error::at("read state of loop device", &node)(errno)),
        };
        // In sectors of 512 bytes, whatever the block size.
        let sectors = fs::read_to_string(sys.join("size")).ok().and_then(|text| text.trim().parse().ok());
        let size = sectors.unwrap_or(0_u64).saturating_mul(512);
        let (device, inode, offset) = (status.lo_device, status.lo_inode, status.lo_offset);
        Ok(Some(Self { path, device, inode, offset, size }))
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Every bound loop device, by number, with the path of its backing file.
pub fn bound_devices() -> Result<Vec<(u32, PathBuf)>> {
    let dir = Path::new("/sys/block");
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::at("list", dir)(crate::error::errno_of(&e))),
    };
    let mut devices: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let number = name.to_str()?.strip_prefix("loop")?.parse().ok()?;
            Some((number, LoopDevice::backing(number)?))
        })
        .collect();
    devices.sort();
    Ok(devices)
}

fn node(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Opens a node that may take a moment to appear.
fn open_node(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    for _ in 0..NODE_WAIT_STEPS {
        match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    Err(Errno::NOENT)
}

fn read_backing(path: &Path) -> Option<PathBuf> {
    let mut bytes = fs::read(path).ok()?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if let Some(rest) = bytes.strip_suffix(b" (deleted)") {
        bytes.truncate(rest.len());
    }
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
}
