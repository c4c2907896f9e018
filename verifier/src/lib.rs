//! Audits of sealed images.
//!
//! [`verify_image`] reads every byte of one image file and says what is not as it should be: which blocks, in which
//! part of the image, and which files they belong to. It never stops at the first finding. Damage is data
//! ([`Finding`]); an [`Error`] means that there was nothing to audit.
//!
//! | module | question |
//! |---|---|
//! | `geometry` | how large is the image, and which of its four sources are wrong about it? |
//! | `scan` | does every block have the hash that the tree holds? |
//! | `blame` | is it the data or the tree that is damaged? |
//! | `paths` | whose bytes are they? |
//! | `content` | do the records of the seal fit the file system? |
//!
//! Reading is by position, never by mapping. Memory is bounded whatever the image holds: 512 KiB a thread, some
//! 50 MiB at most for records of damage.
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod attributes;
mod audit;
mod blame;
mod block_cache;
mod content;
/// Differences of two images.
pub mod diff;
mod difference;
mod error;
mod geometry;
/// Audits of live mounts.
pub mod live;
mod lowest;
mod paths;
mod report;
mod scan;
/// Audits of extracted trees.
pub mod tree;
mod view;

pub use audit::{Options, verify_image};
pub use error::Error;
pub use report::{FINDINGS_MAX, Finding, PATHS_MAX, Region, Report};
