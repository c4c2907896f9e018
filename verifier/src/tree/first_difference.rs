//! Where the content of a file differs first.
//!
//! The hash of each block is a leaf of the image's tree, so the first block that differs is found without the image's
//! data, which a detached seal does not have. Where the data is there, and is what its leaf says, the byte is told.

use std::os::fd::OwnedFd;

use mkimg_format::erofs::{FileSystem, Inode};
use mkimg_format::header::Header;
use mkimg_format::merkle::{FANOUT, hash_block};
use mkimg_format::verity::{self, Level};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};
use rustix::io::Errno;

use crate::difference::Offset;

/// The sealed digests of all blocks of an image.
pub(super) struct Blocks {
    leaves: Option<Level>,
    data_blocks: u64,
}

impl Blocks {
    pub(super) fn new(header: &Header) -> Self {
        let data_blocks = header.data_blocks;
        Self { leaves: verity::levels(data_blocks, header.tree_offset()).first().copied(), data_blocks }
    }

    /// The digest of the block that starts at byte `offset` of the image.
    fn leaf(&self, io: &impl ReadAt, offset: u64) -> Option<Sha256> {
        let block = offset / BLOCK_SIZE;
        if !offset.is_multiple_of(BLOCK_SIZE) || block >= self.data_blocks {
            return None;
        }
        let place = (block % FANOUT).saturating_mul(32);
        let mut digest = [0; 32];
        let at = self.leaves?.block_offset(block / FANOUT).saturating_add(place);
        io.read_exact_at(&mut digest, at).ok()?;
        Some(digest)
    }

    /// Where `file`, of `size` bytes, first differs from the sealed content; `None` if nothing of it can be found to
    /// differ, or if image or file cannot be read.
    pub(super) fn first_difference<R: ReadAt>(
        &self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        file: &OwnedFd,
        size: u64,
    ) -> Option<Offset> {
        let common = inode.size.min(size);
        let (mut found, mut sealed) = ([0; BLOCK_LEN], [0; BLOCK_LEN]);
        for extent in fs.extents(inode) {
            let extent = extent.ok()?;
            let mut done = 0;
            while done < extent.length {
                let at = extent.logical.saturating_add(done);
                if at >= common {
                    break;
                }
                // What the image has of this block; the rest of the block is zeros there.
                let length = BLOCK_SIZE.min(extent.length.saturating_sub(done));
                let kept = usize::try_from(length.min(common.saturating_sub(at))).ok()?;
                found.fill(0);
                read_at(file, found.get_mut(..kept)?, at)?;
                sealed.fill(0);
                let data = sealed.get_mut(..usize::try_from(length).ok()?)?;
                let (leaf, known) = match extent.physical {
                    None => (None, true),
                    Some(start) => {
                        let start = start.saturating_add(done);
                        (self.leaf(fs.io(), start), fs.io().read_exact_at(data, start).is_ok())
                    }
                };
                if known && leaf.is_none_or(|leaf| leaf == hash_block(&sealed)) {
                    let differs = found.iter().zip(&sealed).take(kept).position(|(one, other)| one != other);
                    if let Some(index) = differs {
                        let at = at.saturating_add(u64::try_from(index).ok()?);
                        return Some(Offset { at, unit: 1 });
                    }
                } else if leaf.is_some_and(|leaf| leaf != hash_block(&found)) {
                    return Some(Offset { at, unit: BLOCK_SIZE });
                }
                done = done.saturating_add(length);
            }
        }
        (inode.size != size).then_some(Offset { at: common, unit: 1 })
    }
}

/// Fills `buffer`, or nothing.
fn read_at(file: &OwnedFd, mut buffer: &mut [u8], mut offset: u64) -> Option<()> {
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, offset) {
            Ok(0) => return None,
            Ok(count) => {
                buffer = buffer.get_mut(count..)?;
                offset = offset.saturating_add(u64::try_from(count).ok()?);
            }
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}
