//! Everything about a tree that can be compared.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Everything about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) size: u64,
    pub(crate) rdev: u64,
    pub(crate) nlink: u64,
    /// First path of the same inode.
    pub(crate) group: Vec<u8>,
    /// Content, or target of a link.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) type Snapshot = BTreeMap<Vec<u8>, Facts>;

/// The tree at `root`, itself included under the empty path.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut groups: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut all = Snapshot::new();
    let mut names = vec![Vec::new()];
    while let Some(name) = names.pop() {
        let path = if name.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(&name)) };
        let stat = std::fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let file = entry.unwrap().file_name();
                let mut child = name.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(file.as_bytes());
                names.push(child);
            }
        }
        let content = match stat.file_type() {
            kind if kind.is_file() => std::fs::read(&path).unwrap(),
            kind if kind.is_symlink() => std::fs::read_link(&path).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let device = stat.file_type().is_char_device() || stat.file_type().is_block_device();
        let group = groups.entry((stat.dev(), stat.ino())).or_insert_with(|| name.clone());
        // Names are visited in no fixed order, so the smallest one is the group's.
        if name < *group {
            group.clone_from(&name);
        }
        let facts = Facts {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            size: if stat.is_dir() { 0 } else { stat.size() },
            rdev: if device { stat.rdev() } else { 0 },
            nlink: if stat.is_dir() { 0 } else { stat.nlink() },
            group: format!("{}:{}", stat.dev(), stat.ino()).into_bytes(),
            content,
            xattrs: xattrs(&path),
        };
        all.insert(name, facts);
    }
    let groups: HashMap<Vec<u8>, Vec<u8>> =
        groups.into_iter().map(|((dev, ino), name)| (format!("{dev}:{ino}").into_bytes(), name)).collect();
    for facts in all.values_mut() {
        facts.group = groups[&facts.group].clone();
    }
    all
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// Fails with the first names that differ, and not with two whole trees.
pub(crate) fn assert_same(found: &Snapshot, expected: &Snapshot) {
    let names = |tree: &Snapshot| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, facts) in expected {
        assert_eq!(&found[name], facts, "{}", String::from_utf8_lossy(name));
    }
}
