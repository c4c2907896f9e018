//! The linter: is this image exactly what mkimg writes?
//!
//! The reader refuses what is dangerous; the linter refuses what is unusual. An image that passes has one legal
//! form for everything, so the parser of the kernel meets nothing it does not meet every day, and no byte of block
//! 0, of the data area or of the metadata area is without an owner: slack that dm-verity would bless as well could
//! carry hidden content.
//!
//! The rules, by module:
//!
//! | module | rules |
//! |---|---|
//! | `block0` | superblock agrees with the header; no feature beyond need; zeros around header and superblock |
//! | `tree` | `.` and `..`, one parent a directory, file types, packing of directory blocks, `nlink`, `i_ino`, `inos` |
//! | `inode` | place, form and data layout of every inode; devices; holes |
//! | `xattr` | bodies and the shared pool: no duplicates, no unused entry, no gap |
//! | `space` | order of the areas; overlaps and gaps; every data block has an owner; slack is zero |
//!
//! Not checked here: that equal content is stored once (it would take hashing all data; a builder is tested for
//! it), and the seal, the tree and the trailer, which have checks of their own.
//!
//! Work is bounded by the size of the image, whatever the image claims: directories, xattr bodies, chunk maps and
//! the shared pool are each examined up to the size of the metadata area in all, which an image without overlaps
//! cannot exceed, and slack is read once.
//!
//! Memory: at most 320 bytes per inode, 96 per further extent of a file with holes, 512 per shared xattr, 64 MiB for
//! the directories that are open at a time (what hundreds of nested large ones take; usual trees take kilobytes), and
//! 64 MiB for the paths of findings.

mod block0;
mod findings;
mod inode;
mod space;
mod tree;
mod xattr;

use crate::erofs::FileSystem;
use crate::erofs::raw::RawSuperblock;
use crate::header::Header;
use crate::{BLOCK_SIZE, Part, ReadAt, Result};

use findings::Findings;
use space::Space;
use tree::Inodes;
use xattr::Pool;

/// One place where an image is not what mkimg writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which structure is concerned.
    pub part: Part,
    /// Byte offset in the image.
    pub offset: u64,
    /// The path it concerns, where there is one.
    pub path: Option<Vec<u8>>,
    /// What is wrong, in one line.
    pub problem: String,
}

/// What the walk collects about one image.
struct Lint<'a> {
    out: Findings<'a>,
    /// The area of metadata in bytes: first, and first behind.
    meta: (u64, u64),
    inodes: Inodes,
    space: Space,
    pool: Pool,
    /// Whether a chunk-based inode was seen.
    chunked: bool,
    /// Bytes of inodes, xattr bodies, tails and chunk maps that may still be examined.
    bodies_left: u64,
    /// Bytes of directories that may still be examined.
    dirs_left: u64,
}

/// Checks that an image is exactly of the form that mkimg writes, so that the kernel's parser meets nothing unusual
/// and no byte is unaccounted for.
///
/// Covers blocks 0 to `header.seal_block`, that one excluded. Findings come in the order of the tree first and in
/// that of the image after that; of one structure no more than 1000 are reported, then their number.
///
/// Memory is bounded, see the [module](self).
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) alone; everything else is a [`Finding`].
pub fn lint<R: ReadAt>(image: &R, header: &Header, report: &mut dyn FnMut(Finding)) -> Result<()> {
    let mut out = Findings::new(report);
    let Some(superblock) = block0::check(image, header, &mut out)? else {
        out.finish();
        return Ok(());
    };
    let opened = FileSystem::open(image);
    let Some(fs) = out.take(opened, None)? else {
        out.finish();
        return Ok(());
    };
    let meta = (header.meta_block.saturating_mul(BLOCK_SIZE), header.seal_block.saturating_mul(BLOCK_SIZE));
    let area = meta.1.saturating_sub(meta.0);
    let pool_start = u64::from(fs.superblock().xattr_block).saturating_mul(BLOCK_SIZE);
    let mut lint = Lint {
        out,
        meta,
        inodes: Inodes::default(),
        space: Space::default(),
        pool: Pool::new(pool_start, meta.1),
        chunked: false,
        bodies_left: area,
        dirs_left: area,
    };
    lint.walk(&fs)?;
    lint.check_counts(&superblock);
    lint.close_pool();
    lint.check_metadata_space(&fs)?;
    lint.check_data_space(&fs)?;
    lint.out.find_paths(&fs);
    lint.out.finish();
    Ok(())
}

impl Lint<'_> {
    /// What only the whole tree tells.
    fn check_counts(&mut self, superblock: &RawSuperblock) {
        self.check_inodes(superblock.inos.get());
        let chunked = superblock.feature_incompat.get() & crate::erofs::raw::INCOMPAT_CHUNKED_FILE != 0;
        if chunked != self.chunked {
            let problem = if chunked {
                "feature CHUNKED_FILE is set without a chunk-based file"
            } else {
                "feature CHUNKED_FILE is clear in spite of a chunk-based file"
            };
            self.out.add(Part::Superblock, block0::at(0x50), None, problem);
        }
    }
}
