//! Mends damaged images.
//!
//! The damaged image is only read: it is copied to a new file, and the copy is mended from the root hash down. A hash block
//! that has the hash that the block above holds is proven, and so are the hashes in it; a block below that does not have
//! its hash is replaced by one that does. Where that comes from does not matter, because the hash proves it:
//!
//! | source | mends |
//! |---|---|
//! | other copies of the image, damaged elsewhere, or a detached seal | whatever they have |
//! | what a hash block covers | the hash block, if that is whole |
//! | the rest of block 0 | the header in it, which says everything twice |
//! | parity | blocks of a round as long as there are not more of them than parity bytes to a codeword |
//!
//! What no hash covers is computed: the dm-verity superblock, the parity, the trailer. A block that is mended can help others,
//! so this goes on until nothing changes. The last word has [`mkimg_verify`], which audits the result.
//!
//! | module | |
//! |---|---|
//! | `copy` | the copy that is worked on |
//! | `mend` | from the root down |
//! | `round` | what parity can do for a block |
//! | `tail` | what no hash covers |
//! | `tree` | which hash a block must have, and which hash blocks follow from what is below |
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]

mod copy;
mod mend;
mod round;
mod tail;
mod tree;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

use mkimg_format::header::Header;
use mkimg_format::{ReadAt, Sha256};
use mkimg_verify::{Report, verify_image};

use crate::mend::Mender;

/// How to repair.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The root hash that the image must have. Without it, it becomes consistent with the root hash that it names.
    pub root_hash: Option<Sha256>,
    /// Threads for what can be divided among them.
    pub threads: NonZeroUsize,
    /// Called with what is going on, the bytes done and the bytes there are; from any thread.
    pub progress: Option<&'a (dyn Fn(&'static str, u64, u64) + Sync)>,
}

/// Why nothing could be repaired at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is no image, or too little of it is left to tell what it was.
    #[error(transparent)]
    Image(#[from] mkimg_verify::Error),
    /// A detached seal has no parity, and is made anew from the image.
    #[error("is a detached seal; make it anew from the image")]
    DetachedSeal,
    /// So little is left that not even the place of the tree is reached, in no copy.
    #[error("ends at byte {found}, its data at {needed}; no copy is longer")]
    TooShort {
        /// Length of the longest copy.
        found: u64,
        /// Where the data of the image ends.
        needed: u64,
    },
    /// The copy that is worked on.
    #[error("{doing}: {source}")]
    Output {
        /// What was going on.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// Where the blocks came from that replaced others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Other copies.
    pub copied: u64,
    /// Parity.
    pub corrected: u64,
    /// Computed: hash blocks, the header, the dm-verity superblock, parity itself, the trailer.
    pub computed: u64,
}

impl Mended {
    /// All blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.copied.saturating_add(self.corrected).saturating_add(self.computed)
    }
}

/// What a repair came to.
#[derive(Debug)]
pub struct Repaired {
    /// The audit of the image as it was.
    pub before: Report,
    /// What was replaced.
    pub mended: Mended,
    /// The audit of the result, against the root hash that was mended for.
    pub after: Report,
}

impl Repaired {
    /// Whether the result is the image, to the byte.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.after.is_clean()
    }
}

/// Writes a mended copy of `image` to the empty file `output`; `copies` may have blocks that it has not.
///
/// Memory is bounded whatever the image: some 50 MiB for its audit, which ends before 16 MiB are taken for parity.
///
/// # Errors
/// When there is nothing to repair, or the output cannot be written. Damage that remains stands in [`Repaired::after`].
pub fn repair(
    image: &(impl ReadAt + Sync),
    copies: &[&dyn ReadAt],
    output: &File,
    options: &Options<'_>,
) -> Result<Repaired, Error> {
    let audit = |what: &'static str, image: &(dyn ReadAt + Sync), root_hash| {
        let progress = |done, total| {
            if let Some(progress) = options.progress {
                progress(what, done, total);
            }
        };
        let options =
            mkimg_verify::Options { root_hash, threads: options.threads, progress: Some(&progress) };
        verify_image(&image, &options)
    };
    let before = audit("check", image, options.root_hash)?;
    if before.data_absent {
        return Err(Error::DetachedSeal);
    }
    let root_hash = options.root_hash.unwrap_or(before.root_hash);
    // Sizes and offsets depend on these two alone.
    let shape =
        Header { data_blocks: before.data_blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
    let shape = shape.with_fec(before.fec_roots);
    // What an image claims to be costs time only as far as somebody has it.
    let lengths = copies.iter().map(|copy| copy.size()).chain([image.size()]);
    let (found, needed) =
        (lengths.map(Result::unwrap_or_default).max().unwrap_or_default(), shape.hash_offset());
    if found < needed {
        return Err(Error::TooShort { found, needed });
    }
    copy::copy(image, output, shape.image_size(), options)?;
    let mut mender = Mender::new(output, copies, &shape, root_hash, before.header);
    let whole = mender.run(options)?;
    let mut mended = mender.mended();
    tail::write(output, copies, &shape, &root_hash, &mut mended)?;
    if whole {
        tail::write_parity(output, &shape, options, &mut mended)?;
    }
    let after = audit("verify", output, Some(root_hash))?;
    Ok(Repaired { before, mended, after })
}

/// An error of the file that is worked on.
fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Output { doing, source }
}
