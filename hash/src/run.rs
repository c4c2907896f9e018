//! Consecutive blocks that wait to be hashed.

use std::array;

use crate::Digest;

/// Blocks of one length and the places of their digests.
pub(crate) struct Run<'a> {
    blocks: &'a [u8],
    block_len: usize,
    digests: &'a mut [Digest],
}

impl<'a> Run<'a> {
    pub(crate) fn new(blocks: &'a [u8], block_len: usize, digests: &'a mut [Digest]) -> Self {
        assert_eq!(
            Some(blocks.len()),
            block_len.checked_mul(digests.len()),
            "bytes of {} blocks of {block_len} bytes",
            digests.len()
        );
        Self { blocks, block_len, digests }
    }

    /// Hashes `N` blocks at a time, as long as there are so many.
    pub(crate) fn groups<const N: usize>(&mut self, hash: impl Fn([&'a [u8]; N]) -> [Digest; N]) {
        let (groups, rest) = std::mem::take(&mut self.digests).as_chunks_mut();
        for group in groups {
            // As many blocks as digests, says `new`: none is missing.
            *group = hash(array::from_fn(|_| self.blocks.split_off(..self.block_len).unwrap_or_default()));
        }
        self.digests = rest;
    }
}
