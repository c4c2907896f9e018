//! What a stat shows of an inode, of an image or of this machine, and how two of them differ.

use mkimg_format::erofs::{FileType, Inode, Timestamp};

use crate::difference::{Difference, Kind, Security};
use crate::tree::{Field, TreeOptions};

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;
/// What owner, group and others may do.
const PERMISSIONS: u16 = 0o777;

/// What a stat shows of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) file_type: FileType,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    /// Major and minor number, of devices.
    pub(crate) rdev: (u32, u32),
}

impl From<&Inode> for Attributes {
    fn from(inode: &Inode) -> Self {
        let Inode { file_type, mode, uid, gid, size, mtime, rdev, .. } = *inode;
        Self { file_type, mode, uid, gid, size, mtime, rdev }
    }
}

impl Attributes {
    /// Whether running it gives the rights of its owner or group.
    pub(crate) const fn is_set_id(&self) -> bool {
        matches!(self.file_type, FileType::File) && self.mode & SET_ID != 0
    }

    pub(crate) const fn is_device(&self) -> bool {
        matches!(self.file_type, FileType::Char | FileType::Block)
    }

    /// The power that comes with it when nobody shipped it.
    pub(crate) const fn power(&self) -> Option<Security> {
        if self.is_set_id() {
            Some(Security::SetId)
        } else if self.is_device() {
            Some(Security::Device)
        } else {
            None
        }
    }

    /// Type, mode and size of something that only one side has.
    pub(crate) fn describe(&self) -> String {
        let word = self.file_type.word();
        match self.file_type {
            FileType::File => format!("{word} {:04o}, {}", self.mode, bytes(self.size)),
            FileType::Char | FileType::Block => {
                format!("{word} device {} {:04o}", device(self.rdev), self.mode)
            }
            FileType::Symlink => word.to_owned(),
            _ => format!("{word} {:04o}", self.mode),
        }
    }

    /// Reports what differs of two inodes of the same type, but for content and size.
    pub(crate) fn compare(
        &self,
        found: &Self,
        path: &dyn Fn() -> Vec<u8>,
        options: &TreeOptions<'_>,
        report: &mut dyn FnMut(Difference),
    ) {
        let mut add = |kind, expected: String, actual: String, security: Option<Security>| {
            report(Difference::new(path(), kind).expected(expected).found(actual).security(security));
        };
        // Who may run it, or open it, is as good as what it is.
        let power = if found.is_set_id() {
            Some(Security::Privileged)
        } else {
            found.is_device().then_some(Security::Device)
        };
        // Nobody can set the mode of a symbolic link.
        if options.compares(Field::Mode) && self.mode != found.mode && self.file_type != FileType::Symlink {
            let added = found.mode & !self.mode;
            let new = found.is_set_id() && added & SET_ID != 0;
            let security =
                if new { Some(Security::SetId) } else { power.filter(|_| added & PERMISSIONS != 0) };
            add(Kind::Mode, format!("{:04o}", self.mode), format!("{:04o}", found.mode), security);
        }
        if options.compares(Field::Uid) && self.uid != found.uid {
            add(Kind::Uid, self.uid.to_string(), found.uid.to_string(), power);
        }
        if options.compares(Field::Gid) && self.gid != found.gid {
            add(Kind::Gid, self.gid.to_string(), found.gid.to_string(), power);
        }
        if options.compares(Field::Mtime) && self.mtime != found.mtime {
            add(Kind::Mtime, self.mtime.to_string(), found.mtime.to_string(), None);
        }
        if options.compares(Field::Rdev) && self.rdev != found.rdev && self.is_device() {
            add(Kind::Rdev, device(self.rdev), device(found.rdev), Some(Security::Device));
        }
    }
}

/// A length for a report.
pub(crate) fn bytes(size: u64) -> String {
    format!("{size} bytes")
}

fn device((major, minor): (u32, u32)) -> String {
    format!("{major}:{minor}")
}
