//! Numbers of block devices.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A block device by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DevNumber {
    /// Device number of an open block device.
    pub fn of(device: impl AsFd) -> Result<Self> {
        let what = Path::new("block device");
        let stat = rustix::fs::fstat(device).map_err(Error::at("stat", what))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(Error::Path { what: "use as", path: what.to_path_buf(), errno: Errno::NOTBLK });
        }
        Ok(Self { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) })
    }

    /// Undoes the kernel's `huge_encode_dev`: minor bits 0..8 and 20..32, major in bits 8..20.
    pub(super) fn from_huge(dev: u64) -> Option<Self> {
        let dev = u32::try_from(dev).ok()?;
        Some(Self { major: (dev >> 8) & 0xfff, minor: (dev & 0xff) | ((dev >> 12) & 0xf_ff00) })
    }
}

impl fmt::Display for DevNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        for (huge, major, minor) in [(0xfd00, 253, 0), (0x10_fd05, 253, 0x105), (0x700, 7, 0)] {
            assert_eq!(DevNumber::from_huge(huge), Some(DevNumber { major, minor }));
        }
        assert_eq!(DevNumber::from_huge(1 << 40), None);
    }
}
