//! The hash tree over the file that is worked on: what is proven, and what hash blocks follow from what is below.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mkimg_format::header::Header;
use mkimg_format::merkle::{FANOUT, hash_block, hash_blocks};
use mkimg_format::verity::{Level, levels};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};

use crate::{Error, failed};

pub(crate) type Block = Box<[u8; BLOCK_LEN]>;

/// Slots of a hash block, and data blocks that are read at once.
pub(crate) const SLOTS: usize = 128;
/// A block that a hash says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A data block by number.
    Data(u64),
    /// A hash block by level, of which 0 is the leaf level, and index.
    Hash(usize, u64),
}

/// The tree over the file that is worked on.
pub(crate) struct Tree<'a> {
    work: &'a File,
    pub(crate) data_blocks: u64,
    /// Leaf level first.
    pub(crate) levels: Vec<Level>,
    pub(crate) root: Sha256,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(work: &'a File, shape: &Header, root: Sha256) -> Self {
        let levels = levels(shape.data_blocks, shape.tree_offset());
        Self { work, data_blocks: shape.data_blocks, levels, root }
    }

    /// Byte offset of a block.
    pub(crate) fn offset(&self, node: Node) -> u64 {
        match node {
            Node::Data(block) => block.saturating_mul(BLOCK_SIZE),
            Node::Hash(level, index) => {
                self.levels.get(level).map_or(u64::MAX, |level| level.block_offset(index))
            }
        }
    }

    /// What stands at a block of the file; `None` for blocks outside of data and tree.
    pub(crate) fn node(&self, block: u64) -> Option<Node> {
        if block < self.data_blocks {
            return Some(Node::Data(block));
        }
        let offset = block.checked_mul(BLOCK_SIZE)?;
        self.levels.iter().enumerate().find_map(|(number, level)| {
            let index = offset.checked_sub(level.offset)? / BLOCK_SIZE;
            (index < level.blocks).then_some(Node::Hash(number, index))
        })
    }

    pub(crate) fn read(&self, node: Node) -> Result<Block, Error> {
        let mut block = Box::new([0; BLOCK_LEN]);
        ReadAt::read_exact_at(self.work, &mut block[..], self.offset(node)).map_err(failed("cannot read"))?;
        Ok(block)
    }

    /// Puts a block to its place.
    pub(crate) fn write(&self, node: Node, block: &[u8; BLOCK_LEN]) -> Result<(), Error> {
        FileExt::write_all_at(self.work, block, self.offset(node)).map_err(failed("cannot write"))
    }

    pub(crate) fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        ReadAt::read_exact_at(self.work, bytes, offset).map_err(failed("cannot read"))
    }

    /// The hash block above, and the slot in it; `None` above the top.
    pub(crate) const fn parent(&self, node: Node) -> Option<(usize, u64, u64)> {
        let (level, index) = match node {
            Node::Data(block) => (0, block),
            Node::Hash(level, index) => (level.saturating_add(1), index),
        };
        if level < self.levels.len() { Some((level, index / FANOUT, index % FANOUT)) } else { None }
    }

    /// The hash that a block must have, if all hash blocks above it have theirs.
    pub(crate) fn wanted(&self, node: Node) -> Result<Option<Sha256>, Error> {
        let mut wanted = None;
        let mut at = node;
        // Upwards: each block must have the hash that the next one holds, and the last one that of the root.
        while let Some((level, index, number)) = self.parent(at) {
            let block = self.read(Node::Hash(level, index))?;
            let held = slot(&block, number);
            if wanted.is_some() && hash_block(&self.read(at)?[..]) != held {
                return Ok(None);
            }
            wanted.get_or_insert(held);
            at = Node::Hash(level, index);
        }
        match wanted {
            None => Ok(Some(self.root)),
            Some(wanted) => Ok((hash_block(&self.read(at)?[..]) == self.root).then_some(wanted)),
        }
    }

    /// Data blocks below a hash block.
    fn covered(&self, level: usize, index: u64) -> std::ops::Range<u64> {
        let exponent = u32::try_from(level).unwrap_or(u32::MAX).saturating_add(1);
        let span = FANOUT.saturating_pow(exponent);
        let start = index.saturating_mul(span).min(self.data_blocks);
        start..start.saturating_add(span).min(self.data_blocks)
    }

    /// Hashes of consecutive data blocks, at most [`SLOTS`].
    pub(crate) fn hashes(&self, first: u64, count: usize) -> Result<Vec<Sha256>, Error> {
        let mut bytes = vec![0; count.saturating_mul(BLOCK_LEN)];
        ReadAt::read_exact_at(self.work, &mut bytes, first.saturating_mul(BLOCK_SIZE))
            .map_err(failed("cannot read"))?;
        let mut hashes = vec![[0; 32]; count];
        hash_blocks(&bytes, &mut hashes);
        Ok(hashes)
    }

    /// The hash block that the blocks right below it make. Where they and what is stored disagree, copies have a say: of
    /// what was in this slot, and of what was below.
    pub(crate) fn made_of_children(
        &self,
        level: usize,
        index: u64,
        copies: &[&dyn ReadAt],
    ) -> Result<Block, Error> {
        let stored = self.read(Node::Hash(level, index))?;
        let first = index.saturating_mul(FANOUT);
        let mut block = Box::new([0; BLOCK_LEN]);
        for ((number, child), place) in (0..).zip(self.children(level, first)).zip(block.chunks_exact_mut(32))
        {
            let mut votes = vec![hash_block(&self.read(child)?[..]), slot(&stored, number)];
            if votes.first() != votes.last() {
                let mut ask = |node, vote: &dyn Fn(&[u8; BLOCK_LEN]) -> Sha256| {
                    let mut block = [0; BLOCK_LEN];
                    for copy in copies {
                        if copy.read_exact_at(&mut block, self.offset(node)).is_ok() {
                            votes.push(vote(&block));
                        }
                    }
                };
                ask(child, &|block| hash_block(block));
                ask(Node::Hash(level, index), &|block| slot(block, number));
            }
            let count = |vote: &&Sha256| votes.iter().filter(|other| other == vote).count();
            let most = votes.iter().map(|vote| count(&vote)).max();
            if let Some(vote) = votes.iter().find(|vote| Some(count(vote)) == most) {
                place.copy_from_slice(vote);
            }
        }
        Ok(block)
    }

    /// The blocks right below a hash block, of which the first has number `first`.
    pub(crate) fn children(&self, level: usize, first: u64) -> impl Iterator<Item = Node> + use<> {
        let below = level.checked_sub(1);
        let blocks = match below {
            None => self.data_blocks,
            Some(below) => self.levels.get(below).map_or(0, |level| level.blocks),
        };
        (first..first.saturating_add(FANOUT).min(blocks))
            .map(move |index| below.map_or(Node::Data(index), |below| Node::Hash(below, index)))
    }

    /// The hash block that the data below it makes, whatever stands between.
    pub(crate) fn made_of_data(&self, level: usize, index: u64) -> Result<Block, Error> {
        let covered = self.covered(level, index);
        // Hashes that wait for their hash block to be full, by level.
        let mut waiting: Vec<Vec<Sha256>> = vec![Vec::new(); level.saturating_add(1)];
        let mut first = covered.start;
        while first < covered.end {
            let left = usize::try_from(covered.end.saturating_sub(first)).unwrap_or(SLOTS);
            let count = left.min(SLOTS);
            if let Some(leaves) = waiting.first_mut() {
                *leaves = self.hashes(first, count)?;
            }
            first = first.saturating_add(FANOUT);
            for below in 0..level {
                let hashes = waiting.get(below).map_or(0, Vec::len);
                if hashes == SLOTS || hashes > 0 && first >= covered.end {
                    let hash =
                        waiting.get_mut(below).map(|hashes| hash_block(&packed(&std::mem::take(hashes))[..]));
                    if let Some(above) = waiting.get_mut(below.saturating_add(1)) {
                        above.extend(hash);
                    }
                }
            }
        }
        Ok(packed(&waiting.pop().unwrap_or_default()))
    }
}

/// The hash in a slot of a hash block.
pub(crate) fn slot(block: &[u8; BLOCK_LEN], number: u64) -> Sha256 {
    let start = usize::try_from(number).unwrap_or(SLOTS).saturating_mul(32);
    block.get(start..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

/// A hash block of these hashes.
fn packed(hashes: &[Sha256]) -> Block {
    let mut block = Box::new([0; BLOCK_LEN]);
    for (place, hash) in block.chunks_exact_mut(32).zip(hashes) {
        place.copy_from_slice(hash);
    }
    block
}
