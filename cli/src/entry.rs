//! One name of an image, as every `--json` shows it.

use std::collections::BTreeMap;

use anyhow::Result;
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, WalkEntry};
use serde::Serialize;

use crate::output::{base64, text_and_base64, text_or_base64};

/// One name of an image, and all that its inode says.
#[derive(Serialize)]
pub(crate) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    r#type: &'static str,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    nlink: u32,
    ino: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs_b64: BTreeMap<String, String>,
}

impl Entry {
    /// Describes what a walk of `fs` came to. Needs no file data.
    pub(crate) fn new<R: ReadAt>(fs: &FileSystem<R>, entry: &WalkEntry) -> Result<Self> {
        let inode = &entry.inode;
        let (path, path_b64) = text_and_base64(&entry.path);
        let (target, target_b64) = match inode.file_type {
            FileType::Symlink => text_and_base64(&fs.read_link(inode)?),
            _ => (None, None),
        };
        let mut xattrs = BTreeMap::new();
        let mut xattrs_b64 = BTreeMap::new();
        for xattr in fs.xattrs(inode)? {
            match text_or_base64(&xattr.name) {
                Ok(name) => xattrs.insert(name, base64(&xattr.value)),
                Err(name) => xattrs_b64.insert(name, base64(&xattr.value)),
            };
        }
        Ok(Self {
            path,
            path_b64,
            r#type: inode.file_type.word(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime: inode.mtime.to_string(),
            nlink: inode.nlink,
            ino: inode.nid.0,
            target,
            target_b64,
            rdev: matches!(inode.file_type, FileType::Char | FileType::Block)
                .then_some([inode.rdev.0, inode.rdev.1]),
            xattrs,
            xattrs_b64,
        })
    }
}
