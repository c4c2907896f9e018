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
//! | `block0` | superblock agrees with the header; configuration of the algorithm; zeros around header and superblock |
//! | `tree` | `.` and `..`, one parent a directory, file types, packing of directory blocks, `inos`, path lengths |
//! | `links` | `nlink` of what is not a directory |
//! | `inode` | form and data layout of every inode; `i_ino`; devices; holes |
//! | `pieces` | maps of compressed files |
//! | `packed` | as `data`, where contents stand byte after byte; the packed inode has one owner for each byte |
//! | `xattr` | bodies and the shared pool: no duplicates, no unused entry, no gap |
//! | `space` | the place of every inode and of every body; overlaps and gaps; slack is zero |
//! | `data` | every data block has an owner; what is shared is shared whole; slack is zero |
//! | `shared` | as `data`, where files share single blocks, which the statement in the seal says |
//!
//! Not checked here: that equal content is stored once (it would take hashing all data; a builder is tested for
//! it), and the seal, the tree and the trailer, which have checks of their own.
//!
//! # Memory
//!
//! Nothing is kept for each inode. The format numbers inodes breadth first and places everything behind the thing
//! before it, so a pass over the directories in that order meets the inodes in the order in which they stand, and a
//! cursor sees whatever is out of place. What no order helps with is kept for a window at a time, and the inodes are
//! gone through again for the next window:
//!
//! | what | window | memory |
//! |---|---|---|
//! | first owner of a data block | 16 GiB of file data | 20 MiB |
//! | place of a content, where they are packed | 1,048,576 of them | 24 MiB |
//! | what files have of a block, where they share such | 8 GiB of file data | 12 MiB |
//! | names of an inode that has several | 1,048,576 such inodes | 12 MiB |
//! | which shared xattrs are used | 512 MiB of them | 16 MiB |
//! | findings | 1000 of each part | 4 MiB of paths, which one walk looks up in the end |
//!
//! One of these is held at a time. The walk needs a block for each directory on the way down, 8 MiB at worst.
//!
//! # Work
//!
//! Bounded by the size of the image, whatever the image claims: directories, units of inodes and the shared pool are
//! each examined up to the size of the metadata area in all, which an image without overlaps cannot exceed; slack is
//! read once; windows are gone through only when every inode stands where it must.

mod block0;
mod data;
mod findings;
mod inode;
mod links;
mod packed;
mod pieces;
mod shared;
mod space;
mod tree;
mod xattr;

use std::ops::Range;

use crate::erofs::raw::{INCOMPAT_48BIT, INCOMPAT_CHUNKED_FILE, INCOMPAT_COMPR_CFGS, RawSuperblock};
use crate::erofs::{Extent, FileSystem, Inode};
use crate::header::Header;
use crate::seal::Seal;
use crate::{BLOCK_SIZE, Error, Part, ReadAt, Result};

pub use data::is_twin;
use findings::{About, Findings};
use space::Space;
use tree::Census;
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

/// What is known about an image so far.
struct Lint<'a> {
    out: Findings<'a>,
    census: Census,
    space: Space,
    pool: Pool,
    /// Whether files share compressed blocks.
    shared: bool,
    /// Whether files may share single blocks.
    dedup: bool,
    /// Bytes of units that may still be examined.
    units_left: u64,
    /// Bytes of directories in which `..` may still be looked up.
    met_left: u64,
    /// Bytes of directories that may still be examined.
    dirs_left: u64,
}

/// Checks that an image is exactly of the form that mkimg writes, so that the kernel's parser meets nothing unusual
/// and no byte is unaccounted for.
///
/// Covers blocks 0 to `header.seal_block`, that one excluded. Of one structure no more than 1000 findings are
/// reported, then their number. Where an inode does not stand in its place, what needs all inodes is not checked.
///
/// Memory is bounded by constants, see the [module](self).
///
/// # Errors
/// [`crate::Error::Io`] alone; everything else is a [`Finding`].
pub fn lint<R: ReadAt>(image: &R, header: &Header, report: &mut dyn FnMut(Finding)) -> Result<()> {
    let mut out = Findings::new(report);
    let Some(superblock) = block0::check(image, header, &mut out)? else {
        return out.finish::<&R>(None);
    };
    let opened = FileSystem::open(image);
    let Some(fs) = out.take(opened, About::Nothing)? else {
        return out.finish::<&R>(None);
    };
    let (start, end) =
        (header.meta_block.saturating_mul(BLOCK_SIZE), header.seal_block.saturating_mul(BLOCK_SIZE));
    let area = end.saturating_sub(start);
    let pool_start = u64::from(fs.superblock().xattr_block).saturating_mul(BLOCK_SIZE);
    let mut lint = Lint {
        out,
        census: Census::default(),
        space: Space::new(start, end),
        pool: Pool::new(pool_start, end),
        shared: false,
        dedup: shares_blocks(image, header)?,
        units_left: area,
        met_left: area,
        dirs_left: area,
    };
    lint.walk(&fs)?;
    lint.check_packed_inode(&fs)?;
    lint.check_counts(&superblock);
    if lint.space.intact {
        let passes = [
            Lint::close_metadata,
            Lint::check_links,
            Lint::check_pool,
            Lint::check_data,
            Lint::check_fragments,
        ];
        for pass in passes {
            // Whatever can be wrong with an inode was found before, unless the image has changed since.
            let done = pass(&mut lint, &fs);
            lint.out.take(done, About::Nothing)?;
        }
    }
    lint.out.finish(Some(&fs))
}

impl Lint<'_> {
    /// What only the whole tree tells.
    fn check_counts(&mut self, superblock: &RawSuperblock) {
        self.check_inos(superblock.inos.get());
        let incompat = superblock.feature_incompat.get();
        for (name, bit, needed, by) in [
            ("CHUNKED_FILE", INCOMPAT_CHUNKED_FILE, self.census.chunked, "chunk-based file"),
            ("COMPR_CFGS", INCOMPAT_COMPR_CFGS, self.census.compressed, "compressed or inline file"),
            ("48BIT", INCOMPAT_48BIT, self.census.encoded, "file with encoded extents"),
        ] {
            let problem = match (incompat & bit != 0, needed) {
                (true, false) => format!("feature {name} is set without a {by}"),
                (false, true) => format!("feature {name} is clear in spite of a {by}"),
                _ => continue,
            };
            self.out.add(Part::Superblock, block0::at(0x50), About::Nothing, problem);
        }
    }
}

/// Whether the seal says that files share single blocks. What is wrong with a seal is for others to report.
fn shares_blocks<R: ReadAt>(image: &R, header: &Header) -> Result<bool> {
    match Seal::open(image, header).and_then(|seal| seal.statement()) {
        Ok(statement) => Ok(statement.shares_blocks()),
        Err(error @ Error::Io { .. }) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Where the content of a file stands. A broken map, which the check of its inode reports, ends it.
fn stretches<'a, R: ReadAt>(
    fs: &'a FileSystem<R>,
    inode: &'a Inode,
) -> impl Iterator<Item = Result<Range<u64>>> + 'a {
    let whole = |extent| match extent {
        Err(error @ Error::Io { .. }) => Some(Err(error)),
        extent => extent.ok().map(Ok),
    };
    fs.extents(inode).map_while(whole).filter_map(|extent: Result<Extent>| {
        let stretch = |extent: Extent| {
            let start = extent.physical.filter(|_| extent.stored() > 0)?;
            Some(start..start.saturating_add(extent.stored()))
        };
        extent.map(stretch).transpose()
    })
}

/// Offset of the first byte of a range that is not zero.
fn first_nonzero<R: ReadAt>(fs: &FileSystem<R>, start: u64, end: u64) -> Result<Option<u64>> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut buffer = [0; 4096];
    let mut at = start;
    while at < end {
        let room = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        let Some(piece) = buffer.get_mut(..room) else { break };
        match fs.read(Part::Slack, piece, at) {
            Ok(()) => {}
            Err(error @ Error::Io { .. }) => return Err(error),
            // Not reached: both areas lie in the file system.
            Err(_) => return Ok(Some(at)),
        }
        // Nearly always equal, and comparing memory is much faster than looking at bytes.
        if Some(&*piece) != ZEROS.get(..room)
            && let Some(skip) = piece.iter().position(|byte| *byte != 0)
        {
            return Ok(Some(at.saturating_add(u64::try_from(skip).unwrap_or(0))));
        }
        at = at.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
    }
    Ok(None)
}
