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
pub(crate) struct Blocks {
    leaves: Option<Level>,
    data_blocks: u64,
}

impl Blocks {
    pub(crate) fn new(header: &Header) -> Self {
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

    /// What is sealed of the block of a file that starts at byte `at`; `None` when its place cannot be read.
    fn sealed<R: ReadAt>(&self, fs: &FileSystem<&R>, inode: &Inode, at: u64) -> Option<Block> {
        let length = BLOCK_SIZE.min(inode.size.saturating_sub(at));
        let extent = fs.extents_within(inode, at, length).next()?.ok()?;
        let skip = at.checked_sub(extent.logical)?;
        // The leaves of compressed content say nothing of what it gives, nor do those of blocks with several files.
        let start = extent.physical.filter(|_| extent.compressed.is_none() && inode.owns_blocks());
        let leaf = start.and_then(|start| self.leaf(fs.io(), start.saturating_add(skip)));
        // Behind the end of a file there are zeros, in the image and under its leaf.
        let mut bytes = Box::new([0; BLOCK_LEN]);
        let read = fs.read_file(inode, at, bytes.get_mut(..usize::try_from(length).ok()?)?);
        let holds = leaf.is_none_or(|leaf| leaf == hash_block(&bytes[..]));
        Some(Block { bytes: (read.is_ok() && holds).then_some(bytes), leaf })
    }
}

/// A block of a sealed file.
struct Block {
    /// Its bytes, if they are at hand and what they should be.
    bytes: Option<Box<[u8; BLOCK_LEN]>>,
    /// Its digest; `None` where there is no block of data: holes, tails
    /// among the metadata, and compressed content.
    leaf: Option<Sha256>,
}

impl Block {
    /// Where in the first `kept` bytes it differs from `other`.
    fn difference(&self, other: &Self, at: u64, kept: usize) -> Option<Offset> {
        if let (Some(one), Some(other)) = (&self.bytes, &other.bytes) {
            let index = one.iter().zip(other.iter()).take(kept).position(|(one, other)| one != other)?;
            return Some(Offset { at: at.saturating_add(u64::try_from(index).ok()?), unit: 1 });
        }
        (self.digest()? != other.digest()?).then_some(Offset { at, unit: BLOCK_SIZE })
    }

    fn digest(&self) -> Option<Sha256> {
        self.leaf.or_else(|| self.bytes.as_ref().map(|bytes| hash_block(&bytes[..])))
    }
}

/// A file in an image, and the digests of that image's blocks.
pub(crate) struct SealedFile<'a, R> {
    pub(crate) fs: &'a FileSystem<&'a R>,
    pub(crate) blocks: &'a Blocks,
    pub(crate) inode: &'a Inode,
}

impl<R: ReadAt> SealedFile<'_, R> {
    /// Where `file`, of `size` bytes, first differs from the sealed content; `None` if nothing of it can be found to
    /// differ, or if image or file cannot be read.
    pub(super) fn first_difference(&self, file: &OwnedFd, size: u64) -> Option<Offset> {
        self.search(size, |at, kept| {
            let mut bytes = Box::new([0; BLOCK_LEN]);
            read_at(file, bytes.get_mut(..kept)?, at)?;
            Some(Block { bytes: Some(bytes), leaf: None })
        })
    }

    /// As [`Self::first_difference`], for a file in another image.
    pub(crate) fn first_difference_of<S: ReadAt>(&self, other: &SealedFile<'_, S>) -> Option<Offset> {
        self.search(other.inode.size, |at, _| other.blocks.sealed(other.fs, other.inode, at))
    }

    /// Compares block after block with what `other` gives for a place and the bytes that both files have of it.
    fn search(&self, size: u64, mut other: impl FnMut(u64, usize) -> Option<Block>) -> Option<Offset> {
        let common = self.inode.size.min(size);
        let mut at = 0;
        while at < common {
            let kept = usize::try_from(BLOCK_SIZE.min(common.saturating_sub(at))).ok()?;
            let sealed = self.blocks.sealed(self.fs, self.inode, at)?;
            if let Some(found) = sealed.difference(&other(at, kept)?, at, kept) {
                return Some(found);
            }
            at = at.saturating_add(BLOCK_SIZE);
        }
        (self.inode.size != size).then_some(Offset { at: common, unit: 1 })
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
