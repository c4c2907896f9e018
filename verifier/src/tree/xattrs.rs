//! Extended attributes of the tree.

use std::os::fd::BorrowedFd;

use mkimg_format::erofs::escape;
use mkimg_format::hex;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::host::proc_path;
use crate::difference::{Difference, Kind, Security};

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux, in bytes.
const LIST_MAX: usize = 64 << 10;
const VALUE_MAX: usize = 64 << 10;
/// Bytes that are asked for at first. The kernel allocates, and for values clears, as many as we ask for.
const USUAL: usize = 512;

/// File capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Bytes of a value that a report shows.
const SHOWN: usize = 64;

/// An inode of the tree whose attributes are read.
#[derive(Clone, Copy)]
pub(crate) enum Handle<'a> {
    /// Open for reading.
    Open(BorrowedFd<'a>),
    /// Open as a path.
    Path(BorrowedFd<'a>),
}

/// Reads attributes into buffers of its own.
pub(crate) struct Reader {
    list: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { list: vec![0; LIST_MAX], value: vec![0; VALUE_MAX] }
    }

    /// The names of all attributes, sorted.
    pub(crate) fn names(&mut self, handle: Handle<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
        let length = match handle {
            Handle::Open(fd) => sized(&mut self.list, |list| rustix::fs::flistxattr(fd, list)),
            Handle::Path(fd) => {
                // What the link in /proc leads to is not followed any further, not even a symbolic link.
                let path = proc_path(fd);
                sized(&mut self.list, |list| rustix::fs::listxattr(&path, list))
            }
        };
        let length = match length {
            Ok(length) => length,
            // No attributes on this file system.
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(error),
        };
        let list = self.list.get(..length).unwrap_or_default();
        let mut names: Vec<Vec<u8>> =
            list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The value of one attribute; `None` when it is not there any more.
    pub(crate) fn value(&mut self, handle: Handle<'_>, name: &[u8]) -> rustix::io::Result<Option<&[u8]>> {
        let length = match handle {
            Handle::Open(fd) => sized(&mut self.value, |value| rustix::fs::fgetxattr(fd, name, value)),
            Handle::Path(fd) => {
                let path = proc_path(fd);
                sized(&mut self.value, |value| rustix::fs::getxattr(&path, name, value))
            }
        };
        match length {
            Ok(length) => Ok(self.value.get(..length)),
            Err(Errno::NODATA) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Calls with some room, and with all there is if that was too little.
fn sized(
    buffer: &mut [u8],
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    match call(buffer.get_mut(..USUAL).unwrap_or_default()) {
        Err(Errno::RANGE) => call(buffer),
        done => done,
    }
}

/// Name and value on one line: text as text, other short values as digits, long ones by their digest.
fn show(name: &[u8], value: &[u8]) -> String {
    let name = escape(name);
    if value.len() > SHOWN {
        let digest = hex(blake3::hash(value).as_bytes());
        return format!("{name}: {} bytes, blake3 {digest}", value.len());
    }
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{name}=\"{}\"", escape(value)),
        _ => format!("{name}=0x{}", hex(value)),
    }
}

/// How one attribute differs between image and tree, if it does.
pub(crate) fn xattr_difference(
    path: &dyn Fn() -> Vec<u8>,
    name: &[u8],
    expected: Option<&[u8]>,
    found: Option<&[u8]>,
) -> Option<Difference> {
    if expected == found {
        return None;
    }
    let security = (name == CAPABILITY && found.is_some()).then_some(Security::Capability);
    let mut difference = Difference::new(path(), Kind::Xattr).security(security);
    difference.expected = expected.map(|value| show(name, value));
    difference.found = found.map(|value| show(name, value));
    Some(difference)
}

/// Whether `trusted.*` is shown to us: it takes `CAP_SYS_ADMIN`, and not in a user namespace.
pub(super) fn sees_trusted() -> bool {
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    // The first user namespace maps every number to itself. Another one that does as well is made by root alone.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    capable && words == ["0", "0", "4294967295"]
}
