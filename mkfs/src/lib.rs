//! From layers to one flattened, sealed EROFS image.
//!
//! Data goes one way, and no stage looks back:
//!
//! ```text
//! scan ──> flatten ──> plan ──> emit: copy, metadata, sections ──> image_writer
//! (tar)    (tree)      (layout)  (what stands where)                (hash and write)
//! ```
//!
//! Parity, if wanted, comes last: `parity` reads what was written once more.
//!
//! When file data is compressed, only writing it tells where it ends: then it goes through `packer` to its place, and
//! the rest is planned behind it.
//!
//! The source is read twice. The first pass checks every digest, keeps entries and hashes of content, and drops the
//! data; then the tree is flattened and everything is given its place; the second pass copies the content that
//! survived, once, in layout order, and hashes each block while it is in the cache. Nothing is ever unpacked to a
//! file system, and nothing is written before every digest has been checked.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod compression;
mod contents;
mod copy;
mod emit;
mod entry;
mod error;
mod flatten;
mod fsverity;
mod host_dir;
mod image_writer;
mod metadata;
mod output;
mod packer;
mod parity;
mod path;
mod plan;
mod progress;
mod scan;
mod sections;
mod source;
pub mod tar;
mod tree;
mod waste;
mod xattrs;

pub use build::{Built, Options, build};
pub use compression::Compression;
pub use error::{Error, Problem, Result};
pub use output::Output;
pub use progress::{Progress, Silent, Stage};
