//! fs-verity digests of all contents, from the hashes of their blocks.
//!
//! Uncompressed contents stand in the image one after the other, block-aligned and zero-padded, so the dm-verity leaf
//! of a block is at the same time the leaf that fs-verity computes for the file. Each leaf is used here as it passes.

use mkimg_format::erofs::raw::NULL_ADDR;
use mkimg_format::fsverity::{Digester, zero_leaf};
use mkimg_format::{Sha256, blocks_for};

use crate::contents::Content;

/// Takes the hashes of all blocks of contents in order, and gives the digests of the contents in order.
pub(crate) struct FsVerity<'a> {
    contents: &'a [Content],
    /// Content whose leaves are coming.
    current: usize,
    digester: Digester,
    /// Leaves of it so far, holes included.
    leaves: u64,
    zero: Sha256,
    digests: Vec<Sha256>,
}

impl<'a> FsVerity<'a> {
    pub(crate) fn new(contents: &'a [Content]) -> Self {
        let mut itself = Self {
            contents,
            current: 0,
            digester: Digester::new(),
            leaves: 0,
            zero: zero_leaf(),
            digests: Vec::with_capacity(contents.len()),
        };
        itself.skip_holes();
        itself
    }

    /// Takes the hash of the next block of contents that is not a hole; what comes behind the last is ignored.
    pub(crate) fn push(&mut self, leaf: &Sha256) {
        if self.current < self.contents.len() {
            self.digester.push(leaf);
            self.leaves += 1;
            self.skip_holes();
        }
    }

    /// Hands over the digests of all contents, once their leaves have passed.
    pub(crate) fn take_digests(&mut self) -> Vec<Sha256> {
        std::mem::take(&mut self.digests)
    }

    /// Goes on to the next block that is in the image: over holes, and over the end of contents.
    fn skip_holes(&mut self) {
        while let Some(content) = self.contents.get(self.current) {
            let blocks = blocks_for(content.size);
            if let Some(chunks) = &content.chunks {
                while self.leaves < blocks {
                    let index = usize::try_from(self.leaves / chunks.chunk_blocks()).unwrap_or(usize::MAX);
                    if chunks.map.get(index).is_some_and(|address| *address != NULL_ADDR) {
                        return;
                    }
                    for _ in 0..chunks.blocks_of(index, content.size) {
                        self.digester.push(&self.zero);
                        self.leaves += 1;
                    }
                }
            }
            if self.leaves < blocks {
                return;
            }
            self.digests.push(std::mem::take(&mut self.digester).finish(content.size));
            self.leaves = 0;
            self.current += 1;
        }
    }
}
