//! Files that give power, and files that anybody can change.

use mkimg_format::erofs::{FileSystem, FileType, WalkEntry};
use mkimg_format::{ReadAt, Result};

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;
const STICKY: u16 = 0o1000;
const WRITABLE_BY_OTHERS: u16 = 0o002;

/// A file, and what of it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Absolute path.
    pub path: Vec<u8>,
    /// What it is.
    pub file_type: FileType,
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device.
    pub rdev: Option<(u32, u32)>,
    /// Names of its file capabilities, in the order of their numbers, or `unreadable`.
    pub capabilities: Option<String>,
}

/// How many there are, and the first in the order of their paths.
#[derive(Debug, Default)]
pub struct Subjects {
    /// How many there are.
    pub count: u64,
    /// Some.
    pub list: Vec<Subject>,
}

impl Subjects {
    fn add(&mut self, room: usize, subject: &Subject) {
        self.count = self.count.saturating_add(1);
        if self.list.len() < room {
            self.list.push(subject.clone());
        }
    }
}

/// Files that matter to security.
#[derive(Debug, Default)]
pub struct Security {
    /// Regular files that run as their owner or group.
    pub set_id: Subjects,
    /// Regular files with capabilities.
    pub capabilities: Subjects,
    /// Device nodes.
    pub devices: Subjects,
    /// What anybody may write to: no devices, no links, and no directories with the sticky bit, as `/tmp` has it.
    pub world_writable: Subjects,
}

impl Security {
    /// The lists with their titles.
    #[must_use]
    pub fn lists(&self) -> [(&'static str, &Subjects); 4] {
        [
            ("set-id files", &self.set_id),
            ("files with capabilities", &self.capabilities),
            ("device nodes", &self.devices),
            ("writable by anybody", &self.world_writable),
        ]
    }

    /// Looks at one name; each list keeps `room` of them.
    pub(crate) fn look<R: ReadAt>(
        &mut self,
        fs: &FileSystem<R>,
        entry: &WalkEntry,
        room: usize,
    ) -> Result<()> {
        let inode = &entry.inode;
        let file_type = inode.file_type;
        let is_device = matches!(file_type, FileType::Char | FileType::Block);
        let capabilities = match file_type {
            FileType::File if inode.xattr_len > 0 => fs
                .xattrs(inode)?
                .into_iter()
                .find(|xattr| xattr.name == b"security.capability")
                .map(|xattr| capability_names(&xattr.value)),
            _ => None,
        };
        let subject = Subject {
            path: entry.path.clone(),
            file_type,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            rdev: is_device.then_some(inode.rdev),
            capabilities,
        };
        if file_type == FileType::File && inode.mode & SET_ID != 0 {
            self.set_id.add(room, &subject);
        }
        if subject.capabilities.is_some() {
            self.capabilities.add(room, &subject);
        }
        if is_device {
            self.devices.add(room, &subject);
        }
        let guarded = file_type == FileType::Dir && inode.mode & STICKY != 0;
        if inode.mode & WRITABLE_BY_OTHERS != 0 && !is_device && !guarded && file_type != FileType::Symlink {
            self.world_writable.add(room, &subject);
        }
        Ok(())
    }
}

/// Names of capabilities by their number (capabilities(7), `linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// What an xattr `security.capability` permits or lets inherit (`struct vfs_cap_data`): a revision in the highest
/// byte of the first word, and one or two pairs of sets.
fn capability_names(value: &[u8]) -> String {
    let word = |at: usize| {
        let bytes = value.get(at..at.saturating_add(4))?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let pairs = match (word(0).map(|magic| magic >> 24), value.len()) {
        (Some(1), 12) => 1,
        (Some(2), 20) | (Some(3), 24) => 2,
        _ => return "unreadable".to_owned(),
    };
    let mut set = 0;
    for (at, shift) in [(4_usize, 0), (12, 32)].into_iter().take(pairs) {
        for at in [at, at.saturating_add(4)] {
            set |= word(at).unwrap_or(0) << shift;
        }
    }
    let name = |bit: usize| CAPABILITIES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned());
    let names: Vec<String> = (0..64).filter(|bit| set >> bit & 1 == 1).map(name).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as setcap(8) writes them.
    #[test]
    fn capabilities_have_names() {
        let v2 = |low: u32, high: u32| [0x0200_0001, low, 0, high, 0_u32].map(u32::to_le_bytes).concat();
        for (value, names) in [
            (v2(1 << 10, 0), "net_bind_service"),
            (v2(1 | 1 << 13, 1 << 7), "chown net_raw bpf"),
            (v2(0, 1 << 31), "63"),
            ([v2(1 << 21, 0), vec![0; 4]].concat(), "unreadable"),
            (b"\0\0\0\x03\0\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0".to_vec(), "sys_admin"),
            (b"\0\0\0\x01\0\0\0\0\x01\0\0\0".to_vec(), "chown"),
            (vec![], "unreadable"),
        ] {
            assert_eq!(capability_names(&value), names, "{value:?}");
        }
    }
}
