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
//! | `digests` | have the contents the digests that the records claim? |
//! | `volume` | the same questions of an image of another writer, which has no records |
//!
//! `zeros` looks for what stands where nothing belongs; `cache` serves the many small reads of the last two questions and of the linter from whole blocks; `in_turn` spreads work over
//! threads, so that nobody can tell from the report how many there were.
//!
//! Reading is by position, never by mapping. Memory is bounded whatever the image holds: 512 KiB a thread, some
//! 50 MiB at most for records of damage; 16 MiB for parity; and for the structure of an image without damage, which is checked after
//! that, 8 MiB of cached blocks, 8 MiB for contents and what [`mkimg_format::lint`] says, none of it for each inode. For the
//! digests of contents each thread has 1 MiB of cached blocks, 2 MiB for content on its way and the same for a decoder, the last
//! eight pieces that hold small files (3 MiB in images of mkimg, at most 8), and 2 MiB for the jobs that wait for it.

mod audit;
mod blame;
mod cache;
mod content;
mod digests;
mod disk;
mod error;
mod faults;
mod geometry;
mod in_turn;
mod lowest;
mod parity;
mod paths;
mod report;
mod scan;
mod view;
mod volume;
mod zeros;

pub use audit::{Options, verify_image};
pub(crate) use cache::Cached;
pub use error::Error;
pub use report::{FINDINGS_MAX, Finding, PATHS_MAX, Region, Report};
pub use volume::verify_volume;
