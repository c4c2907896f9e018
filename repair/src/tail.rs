//! What no hash covers, and follows from the rest: the dm-verity superblock, the parity, the trailer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mkimg_format::fec::{Layout, for_each_round};
use mkimg_format::header::Header;
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::Superblock;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};

use crate::{Error, Mended, Options, failed};

/// Writes the dm-verity superblock and the trailer.
pub(crate) fn write(
    work: &File,
    copies: &[&dyn ReadAt],
    shape: &Header,
    root: &Sha256,
    mended: &mut Mended,
) -> Result<(), Error> {
    let blocks = [
        (Superblock::new(shape.data_blocks, root).to_block(), shape.hash_offset()),
        (trailer(work, copies, shape, root).to_block(), shape.trailer_offset()),
    ];
    for (block, offset) in blocks {
        let changed = replace(work, &block[..], offset)?;
        mended.computed = mended.computed.saturating_add(changed);
    }
    Ok(())
}

/// The trailer that belongs to the tree, with the signatures of the image, or of the first copy, that still has it whole.
///
/// No hash vouches for signatures, nor has one to: they prove themselves to whoever asks for them.
fn trailer(work: &File, copies: &[&dyn ReadAt], shape: &Header, root: &Sha256) -> Trailer {
    let bare = Trailer::new(shape, *root);
    let offset = shape.trailer_offset();
    let mut block = [0; BLOCK_LEN];
    let mut whole = |image: &dyn ReadAt| {
        image.read_exact_at(&mut block, offset).ok()?;
        Trailer::from_block(&block, offset).ok().filter(|found| found.same_tree(&bare))
    };
    whole(work).or_else(|| copies.iter().find_map(|copy| whole(*copy))).unwrap_or(bare)
}

/// Writes the parity. Everything that it protects must be whole.
pub(crate) fn write_parity(
    work: &File,
    shape: &Header,
    options: &Options<'_>,
    mended: &mut Mended,
) -> Result<(), Error> {
    let Some(layout) = Layout::of(shape) else { return Ok(()) };
    let (changed, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let bytes = u64::try_from(layout.rows()).unwrap_or_default().saturating_mul(BLOCK_SIZE);
    for_each_round(work, &layout, options.threads.get(), &|round, parity| {
        let outcome = match parity {
            Ok(parity) => replace(work, parity, layout.round_offset(round)),
            Err(error) => Err(failed("cannot read")(io::Error::from(error.kind()))),
        };
        match outcome {
            Ok(blocks) => {
                changed.fetch_add(blocks, Ordering::Relaxed);
            }
            Err(error) => {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
        if let Some(progress) = options.progress {
            let done = done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            progress("parity", done, bytes.saturating_mul(layout.rounds()));
        }
    });
    mended.computed = mended.computed.saturating_add(changed.into_inner());
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Writes blocks that are not there already; how many that were.
fn replace(work: &File, blocks: &[u8], offset: u64) -> Result<u64, Error> {
    let mut found = vec![0; blocks.len()];
    ReadAt::read_exact_at(work, &mut found, offset).map_err(failed("cannot read"))?;
    let pairs = found.chunks(BLOCK_LEN).zip(blocks.chunks(BLOCK_LEN));
    let changed = pairs.filter(|(found, wanted)| found != wanted).count();
    if changed > 0 {
        work.write_all_at(blocks, offset).map_err(failed("cannot write"))?;
    }
    Ok(u64::try_from(changed).unwrap_or_default())
}
