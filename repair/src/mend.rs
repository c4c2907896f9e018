//! From the root down: what does not have its hash is replaced by what does.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mkimg_format::erofs::Superblock;
use mkimg_format::fec::Layout;
use mkimg_format::header::{HEADER_LEN, Header};
use mkimg_format::merkle::{FANOUT, hash_block, hash_blocks};
use mkimg_format::verity::{Level, levels};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};

use crate::round::Rounds;
use crate::{Error, Mended, Options, failed};

pub(crate) type Block = Box<[u8; BLOCK_LEN]>;

/// Slots of a hash block, and data blocks that are read at once.
const SLOTS: usize = 128;
/// Times that everything is gone through: each but the last has mended something.
const PASSES_MAX: u32 = 16;

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
    data_blocks: u64,
    levels: Vec<Level>,
    root: Sha256,
}

impl Tree<'_> {
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

    pub(crate) fn read_bytes(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        ReadAt::read_exact_at(self.work, bytes, offset).map_err(failed("cannot read"))
    }

    /// The hash block above, and the slot in it; `None` above the top.
    const fn parent(&self, node: Node) -> Option<(usize, u64, u64)> {
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
    fn hashes(&self, first: u64, count: usize) -> Result<Vec<Sha256>, Error> {
        let mut bytes = vec![0; count.saturating_mul(BLOCK_LEN)];
        ReadAt::read_exact_at(self.work, &mut bytes, first.saturating_mul(BLOCK_SIZE))
            .map_err(failed("cannot read"))?;
        let mut hashes = vec![[0; 32]; count];
        hash_blocks(&bytes, &mut hashes);
        Ok(hashes)
    }

    /// The hash block that the blocks right below it make. Where they and what is stored disagree, copies have a say: of
    /// what was in this slot, and of what was below.
    fn made_of_children(&self, level: usize, index: u64, copies: &[&dyn ReadAt]) -> Result<Block, Error> {
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
    fn children(&self, level: usize, first: u64) -> impl Iterator<Item = Node> + use<> {
        let below = level.checked_sub(1);
        let blocks = match below {
            None => self.data_blocks,
            Some(below) => self.levels.get(below).map_or(0, |level| level.blocks),
        };
        (first..first.saturating_add(FANOUT).min(blocks))
            .map(move |index| below.map_or(Node::Data(index), |below| Node::Hash(below, index)))
    }

    /// The hash block that the data below it makes, whatever stands between.
    fn made_of_data(&self, level: usize, index: u64) -> Result<Block, Error> {
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
fn slot(block: &[u8; BLOCK_LEN], number: u64) -> Sha256 {
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

/// Mends the file that is worked on.
pub(crate) struct Mender<'a> {
    tree: Tree<'a>,
    copies: &'a [&'a dyn ReadAt],
    rounds: Option<Rounds>,
    /// The header as the audit has mended it.
    header: Option<Header>,
    mended: Mended,
}

impl<'a> Mender<'a> {
    pub(crate) fn new(
        work: &'a File,
        copies: &'a [&'a dyn ReadAt],
        shape: &Header,
        root: Sha256,
        header: Option<Header>,
    ) -> Self {
        let tree = Tree {
            work,
            data_blocks: shape.data_blocks,
            levels: levels(shape.data_blocks, shape.tree_offset()),
            root,
        };
        let rounds = Layout::of(shape).map(Rounds::new);
        Self { tree, copies, rounds, header, mended: Mended::default() }
    }

    pub(crate) const fn mended(&self) -> Mended {
        self.mended
    }

    /// Goes through everything until nothing can be mended any more; whether all has its hash then.
    pub(crate) fn run(&mut self, options: &Options<'_>) -> Result<bool, Error> {
        for _ in 0..PASSES_MAX {
            let before = self.mended;
            if self.pass(options)? {
                return Ok(true);
            }
            if self.mended == before {
                break;
            }
            if let Some(rounds) = &mut self.rounds {
                rounds.hope();
            }
        }
        Ok(false)
    }

    /// Goes through everything once. What is below a hash block that cannot be mended, nobody can judge.
    fn pass(&mut self, options: &Options<'_>) -> Result<bool, Error> {
        let mut whole = true;
        let top = self.tree.levels.len().saturating_sub(1);
        let mut stack = vec![(top, 0, self.tree.root)];
        while let Some((level, index, wanted)) = stack.pop() {
            let node = Node::Hash(level, index);
            let mut block = self.tree.read(node)?;
            if hash_block(&block[..]) != wanted {
                if !self.mend(node, &wanted)? {
                    whole = false;
                    continue;
                }
                block = self.tree.read(node)?;
            }
            let first = index.saturating_mul(FANOUT);
            if let Some(below) = level.checked_sub(1) {
                let blocks = self.tree.levels.get(below).map_or(0, |level| level.blocks);
                let end = first.saturating_add(FANOUT).min(blocks);
                stack.extend(
                    (first..end)
                        .rev()
                        .zip((0..end.saturating_sub(first)).rev())
                        .map(|(child, number)| (below, child, slot(&block, number))),
                );
                continue;
            }
            let left = usize::try_from(self.tree.data_blocks.saturating_sub(first)).unwrap_or(SLOTS);
            let hashes = self.tree.hashes(first, left.min(SLOTS))?;
            for ((number, hash), block_number) in (0_u64..).zip(hashes).zip(first..) {
                let wanted = slot(&block, number);
                // What parity has mended for another block of its round has its hash by now.
                whole &= hash == wanted || self.mend(Node::Data(block_number), &wanted)?;
            }
            if let Some(progress) = options.progress {
                let done = first.saturating_add(FANOUT).min(self.tree.data_blocks);
                let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_SIZE);
                progress("mend", bytes(done), bytes(self.tree.data_blocks));
            }
        }
        Ok(whole)
    }

    /// Finds the block that has hash `wanted`, and writes it to its place.
    fn mend(&mut self, node: Node, wanted: &Sha256) -> Result<bool, Error> {
        if hash_block(&self.tree.read(node)?[..]) == *wanted {
            return Ok(true);
        }
        let offset = self.tree.offset(node);
        let mut block = Box::new([0; BLOCK_LEN]);
        for copy in self.copies {
            if copy.read_exact_at(&mut block[..], offset).is_ok() && hash_block(&block[..]) == *wanted {
                self.write(node, &block)?;
                self.mended.copied = self.mended.copied.saturating_add(1);
                return Ok(true);
            }
        }
        let near = match node {
            Node::Data(0) => self.with_header()?,
            Node::Data(_) => None,
            Node::Hash(level, index) => Some(self.tree.made_of_children(level, index, self.copies)?),
        };
        if self.computed(node, near, wanted)? {
            return Ok(true);
        }
        if let Some(rounds) = &mut self.rounds {
            let corrected = rounds.correct(&self.tree, node, wanted)?;
            let own = corrected.iter().any(|(mended, _)| *mended == node);
            for (node, block) in corrected {
                self.write(node, &block)?;
                self.mended.corrected = self.mended.corrected.saturating_add(1);
            }
            if own {
                return Ok(true);
            }
        }
        match node {
            Node::Hash(level @ 1.., index) => {
                let far = Some(self.tree.made_of_data(level, index)?);
                self.computed(node, far, wanted)
            }
            _ => Ok(false),
        }
    }

    /// Takes a block that was computed, if it is the right one.
    fn computed(&mut self, node: Node, block: Option<Block>, wanted: &Sha256) -> Result<bool, Error> {
        let Some(block) = block.filter(|block| hash_block(&block[..]) == *wanted) else { return Ok(false) };
        self.write(node, &block)?;
        self.mended.computed = self.mended.computed.saturating_add(1);
        Ok(true)
    }

    /// Block 0 with the header that follows from what is left of it, and zeros where there must be zeros.
    fn with_header(&self) -> Result<Option<Block>, Error> {
        let Some(header) = self.header else { return Ok(None) };
        let mut block = self.tree.read(Node::Data(0))?;
        let end = Superblock::end(&block);
        block[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        block[HEADER_LEN..1024].fill(0);
        block[end..].fill(0);
        Ok(Some(block))
    }

    fn write(&self, node: Node, block: &[u8; BLOCK_LEN]) -> Result<(), Error> {
        FileExt::write_all_at(self.tree.work, block, self.tree.offset(node)).map_err(failed("cannot write"))
    }
}
