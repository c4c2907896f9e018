//! Audits of extracted trees.
//!
//! [`audit_tree`] compares a directory of this machine with the records of an image, or of a detached seal: no file
//! data of the image is read, the digests are in the seal. (Only of a file that differs, to say where.) The image is taken as it is; whether it is the right one
//! is what [`verify_image`](crate::verify_image) says.
//!
//! One item of work is one directory. Its names are read and sorted, and merged with those of the image, which are
//! sorted already; files are hashed by the thread that listed them. A thread holds two descriptors at most, whatever
//! the depth: directories are opened by their path below the root, and nothing on the way may be a symbolic link or,
//! unless told, a mount.
//!
//! | module | question |
//! |---|---|
//! | `walk` | which directories are there, and who does which? |
//! | `scope`, `partial` | which paths, if not all of them? |
//! | `entry` | is this name what the image says? |
//! | `host` | how is the tree looked at without being led astray? |
//! | `names` | which names does a directory have? |
//! | `xattrs` | and which extended attributes? |
//! | `digests` | which content is sealed for an inode? |
//! | `first_difference` | where does content differ first? |
//! | `links` | which names are one inode? |
//!
//! Memory: 768 KiB a thread and the names of its current directory (at most 64 MiB of them), some 100 bytes for each
//! directory that waits, at most 16 MiB each for hard links and for the report.

mod digests;
mod entry;
mod error;
mod first_difference;
mod glob;
mod host;
mod links;
mod names;
mod options;
mod partial;
mod report;
pub(crate) mod scope;
mod walk;
mod xattrs;

pub use error::Error;
pub use glob::{Glob, GlobError};
pub use options::{Field, FieldError, TreeOptions};
pub use report::{DIFFERENCES_MAX, TreeReport};

pub use crate::difference::{Difference, Kind, Offset, Security};
pub use scope::{Depth, Scope};
pub use walk::{audit_scope, audit_tree};

pub(crate) use digests::{Digests, Group};
pub(crate) use first_difference::{Blocks, SealedFile};
pub(crate) use host::{Identity, Stat, Tree, is_replaced};
pub(crate) use links::Links;
pub(crate) use names::Names;
pub(crate) use report::Findings;
pub(crate) use walk::join;
pub(crate) use xattrs::{CAPABILITY, Handle, Reader, xattr_difference};
