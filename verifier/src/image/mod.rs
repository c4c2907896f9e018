//! Audits of image files.
//!
//! | module | question |
//! |---|---|
//! | `geometry` | how large is the image, and which of its four sources are wrong about it? |
//! | `scan` | does every block have the hash that the tree holds? |
//! | `blame` | is it the data or the tree that is damaged? |
//! | `paths` | whose bytes are they? |
//! | `parity` | is the parity that of the data? |
//! | `disk` | if it is on a disk, what else is there? |
//! | `content` | do the records of the seal fit the file system? |
//!
//! `cache` serves the many small reads of the last question and of the linter from whole blocks.
//!
//! Reading is by position, never by mapping. Memory is bounded whatever the image holds: 512 KiB a thread, some
//! 50 MiB at most for records of damage; 16 MiB for parity; and for the structure of an image without damage, which is checked after
//! that, 8 MiB of cached blocks, 8 MiB for contents and what [`mkimg_format::lint`] says, none of it for each inode.

mod audit;
mod blame;
mod cache;
mod content;
mod disk;
mod error;
mod geometry;
mod lowest;
mod parity;
mod paths;
mod report;
mod scan;
mod view;

pub use audit::{Options, verify_image};
pub(crate) use cache::Cached;
pub use error::Error;
pub use report::{FINDINGS_MAX, Finding, PATHS_MAX, Region, Report};
