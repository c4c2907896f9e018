//! Writes the tree of an image to a directory.
//!
//! The image may be hostile, and so may other processes that can write to the target. Both are kept in the target:
//!
//! - The target is resolved once. From then on every name is one component below an open descriptor, or a path
//!   that `openat2(2)` resolves beneath the target without links and without leaving the file system.
//! - Everything is created new (`O_EXCL`, `mkdirat`, `mknodat`, ...). What exists is never followed, opened for
//!   writing or changed; only directories merge, when asked to.
//! - What is reopened by name must be the inode that was created: type, link count, owner, and device and inode
//!   number are compared.
//! - Directories are private (0700) until everything is in place; their owners, xattrs, modes and times are set at
//!   the very end, the deepest first. A file gets its mode after its content has been checked and its owner set, so
//!   that no set-id file exists with content or an owner that is not its own.
//!
//! Whoever may rename a directory of the target meanwhile can carry it away with what has been created in it; what is
//! still to come then ends in an error and not in what took its place.
//!
//! After an error the tree stays as far as it got; only the file that was being written is removed. `/proc` must be
//! mounted: devices, fifos, sockets and symbolic links can be opened as paths alone, and the calls for modes and
//! xattrs reach such a descriptor through `/proc/self/fd`. Nothing is synced to the disk.
//!
//! Not restored: access times (the image has none) and modes of symbolic links (Linux has none).
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::arithmetic_side_effects))]

mod attributes;
mod content;
mod dirs;
mod error;
mod extraction;
mod options;
mod selection;
mod summary;
mod target;

use std::path::Path;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, Nid};
use mkimg_format::seal::{Content, NONE, Seal};

pub use error::{Error, Result};
pub use options::{Options, Owners};
pub use summary::{SKIPPED_MAX, Skipped, Summary};

/// Says which digests the content of a regular file must have; `None` when none are known for it, which [`extract`] takes for an error. [`sealed`] makes one from a seal.
pub type Digests<'a> = &'a dyn Fn(Nid) -> mkimg_format::Result<Option<Content>>;

/// The digests that a seal has.
pub fn sealed<R: ReadAt>(seal: &Seal<R>) -> impl Fn(Nid) -> mkimg_format::Result<Option<Content>> + '_ {
    |nid| {
        let Some(record) = seal.inode_record(nid.0)? else { return Ok(None) };
        match record.content.get() {
            NONE => Ok(None),
            index => seal.contents().get(index.into()),
        }
    }
}

/// Writes the tree of `fs`, or the parts of it that `options` name, to the directory `target`.
///
/// With `digests`, the content of every file is compared while it is written.
///
/// # Errors
/// The first thing that is wrong with the image, the target or the options. What the system refuses only for want
/// of privilege, or because the target's file system has no such thing, is no error: see [`Summary::skipped`].
pub fn extract<R: ReadAt>(
    fs: &FileSystem<R>,
    digests: Option<Digests<'_>>,
    target: &Path,
    options: &Options<'_>,
) -> Result<Summary> {
    extraction::extract(fs, digests, target, options)
}
