//! From layers to one flattened, sealed EROFS image.
//!
//! Data goes one way, and no stage looks back:
//!
//! ```text
//! scan ──> flatten ──> plan ──> emit: copy, metadata, sections ──> image_writer
//! (tar)    (tree)      (layout)  (what stands where)                (hash and write)
//! ```
//!
//! When file data is compressed, or equal blocks of it are stored once, only writing it tells where it ends: then it
//! goes through `packer` or `dedup` to its place, and the rest is planned behind it.
//!
//! A trace changes one thing: the contents that it names come first, by way of a `spool`.
//!
//! Parity, if wanted, comes last: `parity` reads what was written once more.
//!
//! The source is read twice. The first pass checks every digest, keeps entries and hashes of content, and drops the
//! data; then the tree is flattened and everything is given its place; the second pass copies the content that
//! survived, once, in layout order, and hashes each block while it is in the cache. Nothing is ever unpacked to a
//! file system, and nothing gets into the image before every digest has been checked. Layers may wait for the second pass
//! inflated, in memory or in `scratch` files that nobody can open.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod compression;
mod contents;
mod copy;
mod dedup;
mod emit;
mod entry;
mod error;
mod flatten;
mod fsverity;
mod host_dir;
mod image_writer;
mod known_blocks;
mod memory;
mod metadata;
mod ordered;
mod output;
mod packer;
mod parity;
mod path;
mod plan;
mod progress;
mod scan;
mod scratch;
mod sections;
mod source;
mod spool;
pub mod tar;
mod trace;
mod tree;
mod waste;
mod xattrs;

pub use build::{Built, Options, build};
pub use compression::Compression;
pub use dedup::Dedup;
pub use error::{Error, Problem, Result};
pub use memory::{Memory, MemoryError};
pub use mkimg_format::trace::{Trace, TraceError};
pub use output::Output;
pub use progress::{Progress, Silent, Stage};
