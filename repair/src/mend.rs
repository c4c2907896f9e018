//! From the root down: what does not have its hash is replaced by what does.

use std::fs::File;

use mkimg_format::erofs::Superblock;
use mkimg_format::fec::Layout;
use mkimg_format::header::{HEADER_LEN, Header};
use mkimg_format::merkle::{FANOUT, hash_block};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};

use crate::round::Rounds;
use crate::tree::{Block, Node, SLOTS, Tree, slot};
use crate::{Error, Mended, Options};

/// Times that everything is gone through: each but the last has mended something.
const PASSES_MAX: u32 = 16;

/// Distance of bad blocks that are read from a copy at once: 32 KiB more of it come sooner than another answer.
const GAP_MAX: u64 = 8;

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
        let tree = Tree::new(work, shape, root);
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
            let slots = (0_u64..).zip(&hashes).filter(|(number, hash)| **hash != slot(&block, *number));
            let bad = slots.map(|(number, _)| number).collect();
            for number in self.copy_data(first, &block, bad)? {
                // What parity has mended for another block of its round has its hash by now.
                whole &= self.mend(Node::Data(first.saturating_add(number)), &slot(&block, number))?;
            }
            if let Some(progress) = options.progress {
                let done = first.saturating_add(FANOUT).min(self.tree.data_blocks);
                let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_SIZE);
                progress("mend", bytes(done), bytes(self.tree.data_blocks));
            }
        }
        Ok(whole)
    }

    /// Takes data blocks from copies, neighbours at once, as a copy may be far away. `bad` are their slots in the hash block
    /// `above`, whose first slot is that of data block `first`. Returns those that no copy has.
    fn copy_data(
        &mut self,
        first: u64,
        above: &[u8; BLOCK_LEN],
        mut bad: Vec<u64>,
    ) -> Result<Vec<u64>, Error> {
        for copy in self.copies {
            let mut left = Vec::new();
            for run in bad.chunk_by(|one, next| next.saturating_sub(*one) <= GAP_MAX) {
                let (start, last) = (run.first().copied().unwrap_or(0), run.last().copied().unwrap_or(0));
                let count = usize::try_from(last.saturating_sub(start)).unwrap_or(0).saturating_add(1);
                let mut blocks = vec![[0; BLOCK_LEN]; count];
                let offset = self.tree.offset(Node::Data(first.saturating_add(start)));
                let read = copy.read_exact_at(blocks.as_flattened_mut(), offset);
                for number in run {
                    let place = usize::try_from(number.saturating_sub(start)).unwrap_or(usize::MAX);
                    let found = blocks.get(place).filter(|_| read.is_ok());
                    match found.filter(|found| hash_block(&found[..]) == slot(above, *number)) {
                        Some(found) => {
                            self.write(Node::Data(first.saturating_add(*number)), found)?;
                            self.mended.copied = self.mended.copied.saturating_add(1);
                        }
                        None => left.push(*number),
                    }
                }
            }
            bad = left;
        }
        Ok(bad)
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

    fn write(&mut self, node: Node, block: &[u8; BLOCK_LEN]) -> Result<(), Error> {
        if let (Node::Hash(..), Some(rounds)) = (node, &mut self.rounds) {
            rounds.forget();
        }
        self.tree.write(node, block)
    }
}
