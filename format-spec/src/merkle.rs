//! The hash tree that dm-verity and fs-verity share: SHA-256, no salt, 4096-byte blocks of 128 digests.
//!
//! Without a salt both trees are the same function of the data (`SPEC.md`, "Hash once"), so one builder serves
//! the tree of an image and the trees of its files. One with a [`Salt`] is of another writer. Facts: Linux `Documentation/admin-guide/device-mapper/verity.rst`
//! and `Documentation/filesystems/fsverity.rst`.

use sha2::{Digest as _, Sha256 as Hasher};

use crate::salt::Salt;
use crate::{BLOCK_LEN, Sha256};

/// Digests in one hash block.
pub const FANOUT: u64 = 128;

/// [`FANOUT`] as a count of slots.
const SLOTS: usize = 128;
const DIGEST: usize = 32;

/// Hash of one data block or hash block.
#[must_use]
pub fn hash_block(block: &[u8]) -> Sha256 {
    Hasher::digest(block).into()
}

/// Hashes of consecutive blocks, many at a time.
///
/// # Panics
/// When `blocks` is not as long as the blocks of all `digests`.
pub fn hash_blocks(blocks: &[u8], digests: &mut [Sha256]) {
    mkimg_hash::hash_blocks(blocks, BLOCK_LEN, digests);
}

/// Number of hash blocks on each level for `leaves` data blocks, leaf level first.
///
/// Empty for zero or one leaf: then the root is the leaf itself. The last level has one block.
#[must_use]
pub fn level_blocks(leaves: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = leaves;
    while below > 1 {
        below = below.div_ceil(FANOUT);
        levels.push(below);
    }
    levels
}

/// Receives finished hash blocks: level (0 is the leaf level), index inside the level, content.
pub trait Sink {
    /// Takes one block. Blocks of one level arrive in index order; levels interleave.
    fn block(&mut self, level: usize, index: u64, block: &[u8; BLOCK_LEN]);
}

/// For trees of which only the root is wanted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl Sink for Discard {
    fn block(&mut self, _: usize, _: u64, _: &[u8; BLOCK_LEN]) {}
}

impl<F: FnMut(usize, u64, &[u8; BLOCK_LEN])> Sink for F {
    fn block(&mut self, level: usize, index: u64, block: &[u8; BLOCK_LEN]) {
        self(level, index, block);
    }
}

/// One level that is being filled.
struct Level {
    block: Box<[u8; BLOCK_LEN]>,
    used: usize,
    finished: u64,
}

impl Level {
    fn new() -> Self {
        Self { block: Box::new([0; BLOCK_LEN]), used: 0, finished: 0 }
    }

    fn push(&mut self, digest: &Sha256) {
        for (slot, byte) in self.block.iter_mut().skip(self.used.saturating_mul(DIGEST)).zip(digest) {
            *slot = *byte;
        }
        self.used = self.used.saturating_add(1);
    }

    /// Hands the block out and returns its digest.
    fn flush(&mut self, level: usize, salt: &Salt, sink: &mut impl Sink) -> Sha256 {
        sink.block(level, self.finished, &self.block);
        let digest = salt.hash_block(&self.block[..]);
        self.block.fill(0);
        self.used = 0;
        self.finished = self.finished.saturating_add(1);
        digest
    }
}

/// Builds a tree from its leaves in order, keeping one block a level.
#[derive(Default)]
pub struct Builder {
    levels: Vec<Level>,
    salt: Salt,
}

impl Builder {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty tree of blocks that are hashed behind a salt, as their digests have to be.
    #[must_use]
    pub const fn salted(salt: Salt) -> Self {
        Self { levels: Vec::new(), salt }
    }

    /// Appends the digest of the next data block.
    pub fn push(&mut self, leaf: &Sha256, sink: &mut impl Sink) {
        let mut digest = *leaf;
        let mut index = 0_usize;
        loop {
            if self.levels.len() == index {
                self.levels.push(Level::new());
            }
            let Some(level) = self.levels.get_mut(index) else { return };
            level.push(&digest);
            if level.used < SLOTS {
                return;
            }
            digest = level.flush(index, &self.salt, sink);
            index = index.saturating_add(1);
        }
    }

    /// The block whose hash is the root, if so far there is only that one.
    pub(crate) fn only_block(&self) -> Option<&[u8; BLOCK_LEN]> {
        match self.levels.as_slice() {
            [level] if level.finished == 0 && level.used > 1 => Some(&level.block),
            _ => None,
        }
    }

    /// Hands out the unfinished blocks and returns the root hash.
    ///
    /// The root of one leaf is that leaf; the root of no leaves is all zero, as fs-verity has it.
    pub fn finish(mut self, sink: &mut impl Sink) -> Sha256 {
        let mut index = 0_usize;
        loop {
            let top = index.saturating_add(1) == self.levels.len();
            let Some(level) = self.levels.get_mut(index) else { return [0; DIGEST] };
            if top && level.used == 1 && level.finished == 0 {
                let mut root = [0; DIGEST];
                root.copy_from_slice(&level.block[..DIGEST]);
                return root;
            }
            if level.used > 0 {
                let digest = level.flush(index, &self.salt, sink);
                if top {
                    self.levels.push(Level::new());
                }
                if let Some(above) = self.levels.get_mut(index.saturating_add(1)) {
                    above.push(&digest);
                    // A level that has just become full is flushed when the loop reaches it.
                }
            }
            index = index.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A level filled to the brim by `finish` itself must still be handed out once and only once.
    #[test]
    fn levels_and_blocks_agree_with_the_geometry() {
        for leaves in [0_u64, 1, 2, 127, 128, 129, 255, 256, 16383, 16384, 16385, 16384 + 127, 32768] {
            let mut count = [0_u64; 8];
            let mut sink = |level: usize, index: u64, _: &[u8; BLOCK_LEN]| {
                assert_eq!(index, count[level], "level {level} out of order");
                count[level] += 1;
            };
            let mut builder = Builder::new();
            for leaf in 0..leaves {
                builder.push(&hash_block(&leaf.to_le_bytes()), &mut sink);
            }
            builder.finish(&mut sink);
            let expected = level_blocks(leaves);
            assert_eq!(&count[..expected.len()], &expected[..], "{leaves} leaves");
            assert!(count[expected.len()..].iter().all(|&n| n == 0), "{leaves} leaves: extra level");
        }
    }
}
