//! Every attribute of every object below a directory, read through descriptors, and the differences of two such
//! listings.
//!
//! Sizes and link counts of directories are left out: they belong to the file system, not to the tree. Inode numbers
//! are compared as groups: an object is known by the first path, in byte order, that leads to the same inode.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The attributes of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `dir`, `symlink`, `char`, `block`, `fifo` or `socket`.
    pub kind: &'static str,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file or a link target; 0 for everything else.
    pub size: u64,
    /// Modification time in whole seconds, rounded down, and nanoseconds counted upwards.
    pub mtime: (i64, u32),
    /// Names of the inode; 0 for directories.
    pub nlink: u32,
    /// The first path of the same inode.
    pub inode: Vec<u8>,
    /// Major and minor number of a device.
    pub rdev: Option<(u32, u32)>,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
    /// Extended attributes with their raw names and values.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// SHA-256 of a file's content.
    pub sha256: Option<String>,
}

impl Entry {
    /// `(attribute, value)` for each attribute, as a report shows them.
    fn shown(&self) -> Vec<(String, String)> {
        let mut all = vec![
            ("type".to_owned(), self.kind.to_owned()),
            ("mode".to_owned(), format!("{:04o}", self.mode)),
            ("uid".to_owned(), self.uid.to_string()),
            ("gid".to_owned(), self.gid.to_string()),
            ("size".to_owned(), self.size.to_string()),
            ("mtime".to_owned(), format!("{}.{:09}", self.mtime.0, self.mtime.1)),
            ("nlink".to_owned(), self.nlink.to_string()),
            ("inode".to_owned(), show(&self.inode)),
            ("rdev".to_owned(), format!("{:?}", self.rdev)),
            ("target".to_owned(), self.target.as_deref().map(show).unwrap_or_default()),
            ("sha256".to_owned(), self.sha256.clone().unwrap_or_default()),
        ];
        all.extend(self.xattrs.iter().map(|(name, value)| (format!("xattr {}", show(name)), show(value))));
        all
    }
}

/// The tree below a directory. Paths are bytes with a leading slash; the directory itself is `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Attributes by path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

/// A directory being read: its path in the listing, its descriptor, and the subdirectories not entered yet.
struct Frame {
    path: Vec<u8>,
    fd: OwnedFd,
    pending: Vec<Vec<u8>>,
}

impl Listing {
    /// Walks `top`, following no symlink. Panics on any error: an entry that cannot be read is a failed test.
    pub fn of(top: &Path) -> Self {
        Self::walk(top).unwrap_or_else(|error| panic!("listing {}: {error}", top.display()))
    }

    fn walk(top: &Path) -> std::io::Result<Self> {
        let mut listing = Self::default();
        let mut inodes: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(top, flags, Mode::empty())?;
        let status = rustix::fs::fstat(&root)?;
        listing.entries.insert(b"/".to_vec(), describe(root.as_fd(), c".", &status)?);
        let mut stack = vec![Frame { path: Vec::new(), fd: root, pending: Vec::new() }];
        listing.read_dir(stack.last_mut().unwrap(), &mut inodes)?;
        while let Some(frame) = stack.last_mut() {
            let Some(name) = frame.pending.pop() else {
                stack.pop();
                continue;
            };
            let fd = rustix::fs::openat(&frame.fd, name.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty())?;
            let path = [&frame.path, b"/".as_slice(), &name].concat();
            stack.push(Frame { path, fd, pending: Vec::new() });
            listing.read_dir(stack.last_mut().unwrap(), &mut inodes)?;
        }
        for paths in inodes.values_mut() {
            paths.sort();
            for path in paths.iter() {
                listing.entries.get_mut(path).unwrap().inode.clone_from(&paths[0]);
            }
        }
        Ok(listing)
    }

    fn read_dir(
        &mut self,
        frame: &mut Frame,
        inodes: &mut HashMap<(u64, u64), Vec<Vec<u8>>>,
    ) -> std::io::Result<()> {
        for item in rustix::fs::Dir::read_from(&frame.fd)? {
            let item = item?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = [&frame.path, b"/".as_slice(), name.to_bytes()].concat();
            let status = rustix::fs::statat(&frame.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let entry = describe(frame.fd.as_fd(), name, &status)
                .map_err(|error| std::io::Error::other(format!("{}: {error}", show(&path))))?;
            if entry.kind == "dir" {
                frame.pending.push(name.to_bytes().to_vec());
            } else {
                inodes.entry((status.st_dev, status.st_ino)).or_default().push(path.clone());
            }
            assert!(self.entries.insert(path.clone(), entry).is_none(), "{}: listed twice", show(&path));
        }
        Ok(())
    }

    /// The paths and attributes in which two listings differ, one line each, in path order; empty when they agree.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{}: {} only on the left", show(path), entry.kind)),
                Some(twin) if twin != entry => {
                    let (left, right): (BTreeMap<_, _>, BTreeMap<_, _>) =
                        (entry.shown().into_iter().collect(), twin.shown().into_iter().collect());
                    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
                    names.sort();
                    names.dedup();
                    for name in names {
                        let absent = "absent".to_owned();
                        let (a, b) = (left.get(name).unwrap_or(&absent), right.get(name).unwrap_or(&absent));
                        if a != b {
                            lines.push(format!("{}: {name}: {a} != {b}", show(path)));
                        }
                    }
                }
                Some(_) => {}
            }
        }
        for (path, entry) in &other.entries {
            if !self.entries.contains_key(path) {
                lines.push(format!("{}: {} only on the right", show(path), entry.kind));
            }
        }
        lines.sort();
        lines
    }

    /// Panics with the first differences unless both listings are the same.
    pub fn assert_same(&self, other: &Self, what: &str) {
        let lines = self.differences(other);
        assert!(lines.is_empty(), "{what}: {} differences\n{}", lines.len(), first(&lines, 40));
    }
}

fn first(lines: &[String], most: usize) -> String {
    lines.iter().take(most).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    })
}

/// Bytes as text: printable ASCII as it is, everything else as `\xNN`.
pub fn show(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if (0x20..0x7f).contains(&byte) && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

fn describe(dir: BorrowedFd<'_>, name: &CStr, status: &rustix::fs::Stat) -> std::io::Result<Entry> {
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        _ => "socket",
    };
    let has_size = matches!(kind, "file" | "symlink");
    // O_PATH opens anything without side effects; /proc/self/fd then reaches the object itself, a symlink included.
    let handle =
        rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut entry = Entry {
        kind,
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        size: if has_size { u64::try_from(status.st_size).expect("sizes are not negative") } else { 0 },
        mtime: (status.st_mtime, u32::try_from(status.st_mtime_nsec).expect("below a second")),
        nlink: if kind == "dir" { 0 } else { u32::try_from(status.st_nlink).expect("a link count") },
        inode: Vec::new(),
        rdev: matches!(kind, "char" | "block")
            .then(|| (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev))),
        target: None,
        xattrs: xattrs(&format!("/proc/self/fd/{}", handle.as_raw_fd()))?,
        sha256: None,
    };
    if kind == "symlink" {
        let target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
        entry.target = Some(target);
    }
    if kind == "file" {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 16], 0u64);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    length += n as u64;
                }
            }
        }
        if length != entry.size {
            return Err(std::io::Error::other(format!("size {} but {length} bytes to read", entry.size)));
        }
        entry.sha256 = Some(crate::hex(&hash.finalize()));
    }
    Ok(entry)
}

fn xattrs(path: &str) -> std::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; rustix::fs::listxattr_query(path).or_else(none_there)?];
    let used = if names.is_empty() { 0 } else { rustix::fs::listxattr(path, names.as_mut_slice())? };
    let mut all = BTreeMap::new();
    for name in names[..used].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name_text = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0; rustix::fs::getxattr_query(path, name_text)?];
        if !value.is_empty() {
            let length = rustix::fs::getxattr(path, name_text, value.as_mut_slice())?;
            value.truncate(length);
        }
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

/// A file system without xattrs says so for every object of it.
fn none_there(error: rustix::io::Errno) -> rustix::io::Result<usize> {
    if error == rustix::io::Errno::NOTSUP { Ok(0) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_seen() {
        let (left, right) = (crate::scratch(), crate::scratch());
        for dir in [left.path(), right.path()] {
            std::fs::create_dir_all(dir.join("d/e")).unwrap();
            for name in ["content", "mode", "time", "linked", "other", "d/e/deep"] {
                std::fs::write(dir.join(name), "same").unwrap();
            }
            std::os::unix::fs::symlink("here", dir.join("target")).unwrap();
            std::fs::hard_link(dir.join("linked"), dir.join("twin")).unwrap();
        }
        let same_times = |dir: &Path| {
            for path in ["d/e/deep", "d/e", "d", "content", "mode", "time", "linked", "other", "target", "."]
            {
                let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 2 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(rustix::fs::CWD, dir.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)
                    .unwrap();
            }
        };
        same_times(left.path());
        same_times(right.path());
        Listing::of(left.path()).assert_same(&Listing::of(right.path()), "equal trees");

        let dir = right.path();
        std::fs::write(dir.join("content"), "diff").unwrap();
        std::fs::remove_file(dir.join("target")).unwrap();
        std::os::unix::fs::symlink("away", dir.join("target")).unwrap();
        std::fs::set_permissions(dir.join("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o4700))
            .unwrap();
        std::fs::remove_file(dir.join("twin")).unwrap();
        std::fs::hard_link(dir.join("other"), dir.join("twin")).unwrap();
        std::fs::write(dir.join("d/e/extra"), "").unwrap();
        std::fs::remove_file(dir.join("d/e/deep")).unwrap();
        same_times_but(dir);
        let found = Listing::of(left.path()).differences(&Listing::of(dir));
        let attributes: Vec<String> =
            found.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
        let wanted = [
            "/content: sha256",
            "/d/e/deep: file only on the left",
            "/d/e/extra: file only on the right",
            "/linked: nlink",
            "/mode: mode",
            "/other: nlink",
            "/target: target",
            "/time: mtime",
            "/twin: inode",
        ];
        assert_eq!(attributes, wanted, "{found:#?}");

        fn same_times_but(dir: &Path) {
            for (path, nanos) in
                [("d/e", 2), ("content", 2), ("mode", 2), ("time", 3), ("target", 2), ("twin", 2), (".", 2)]
            {
                let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: nanos };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(rustix::fs::CWD, dir.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)
                    .unwrap();
            }
        }
    }

    #[test]
    fn xattrs_are_listed_on_files_and_symlinks() {
        crate::require!(crate::need::Need::Root);
        let dir = crate::scratch();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        for (name, value) in [("file", "on the file"), ("link", "on the link")] {
            let path = dir.path().join(name);
            if let Err(error) = rustix::fs::lsetxattr(&path, "trusted.test", value.as_bytes(), flags) {
                crate::need::skipped(&format!("no trusted xattrs in {}: {error}", dir.path().display()));
                return;
            }
        }
        let listing = Listing::of(dir.path());
        for (path, value) in [("/file", "on the file"), ("/link", "on the link")] {
            let xattrs = &listing.entries[path.as_bytes()].xattrs;
            assert_eq!(
                xattrs.get(b"trusted.test".as_slice()).map(Vec::as_slice),
                Some(value.as_bytes()),
                "{path}"
            );
        }
    }
}
