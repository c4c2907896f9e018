//! What parity can do for a block.
//!
//! All blocks of its round are read and hashed. Those that are proven to be wrong are erasures; what no proven hash block
//! speaks of, and parity itself, may be wrong as well, which parity mends at twice the price.

use std::collections::HashMap;

use mkimg_format::fec::Layout;
use mkimg_format::merkle::hash_block;
use mkimg_format::{BLOCK_LEN, Sha256};
use mkimg_reed_solomon::Codewords;

use crate::Error;
use crate::tree::{Block, Node, Tree, slot};

/// Hash blocks that are held, 2 MiB: a round asks for one a row, and the next round mostly for the same.
const HELD_MAX: usize = 512;

/// The rounds of an image.
pub(crate) struct Rounds {
    layout: Layout,
    /// Rounds that could not be mended, a bit each: at most 2 MiB.
    hopeless: Vec<u64>,
    /// Hash blocks by level and index, if they are proven.
    held: HashMap<(usize, u64), Option<Block>>,
}

impl Rounds {
    pub(crate) fn new(layout: Layout) -> Self {
        let words = usize::try_from(layout.rounds().div_ceil(64)).unwrap_or_default();
        Self { layout, hopeless: vec![0; words], held: HashMap::new() }
    }

    /// Something has been mended since: tries again.
    pub(crate) fn hope(&mut self) {
        self.hopeless.fill(0);
        self.forget();
    }

    /// A hash block has changed.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
    }

    /// The hash that a block must have, if the hash block above is proven.
    fn wanted(&mut self, tree: &Tree<'_>, node: Node) -> Result<Option<Sha256>, Error> {
        let Some((level, index, number)) = tree.parent(node) else { return tree.wanted(node) };
        if !self.held.contains_key(&(level, index)) {
            let parent = Node::Hash(level, index);
            let block = tree.read(parent)?;
            let proven = tree.wanted(parent)? == Some(hash_block(&block[..]));
            if self.held.len() >= HELD_MAX {
                self.forget();
            }
            self.held.insert((level, index), proven.then_some(block));
        }
        let block = self.held.get(&(level, index)).and_then(Option::as_ref);
        Ok(block.map(|block| slot(block, number)))
    }

    fn word(&mut self, round: u64) -> Option<&mut u64> {
        self.hopeless.get_mut(usize::try_from(round / 64).ok()?)
    }

    /// Mends the round of a block. Returns all blocks that have their hashes now and had not before.
    pub(crate) fn correct(
        &mut self,
        tree: &Tree<'_>,
        node: Node,
        wanted: &Sha256,
    ) -> Result<Vec<(Node, Block)>, Error> {
        let number = tree.offset(node) / mkimg_format::BLOCK_SIZE;
        let Some((own, round)) = self.layout.place(number) else { return Ok(Vec::new()) };
        let bit = 1 << (round % 64);
        if self.word(round).is_none_or(|word| *word & bit != 0) {
            return Ok(Vec::new());
        }
        let mended = self.decode(tree, round, own, wanted)?;
        if !mended.iter().any(|(mended, _)| *mended == node)
            && let Some(word) = self.word(round)
        {
            *word |= bit;
        }
        Ok(mended)
    }

    fn decode(
        &mut self,
        tree: &Tree<'_>,
        round: u64,
        own: usize,
        wanted: &Sha256,
    ) -> Result<Vec<(Node, Block)>, Error> {
        let layout = self.layout;
        let mut codewords = Codewords::new(layout.parity_rows());
        let mut erasures: Vec<(usize, Node, Sha256)> = Vec::new();
        for row in 0..layout.rows() {
            let Some(node) = layout.at(row, round).and_then(|block| tree.node(block)) else { continue };
            let block = tree.read(node)?;
            let expected = if row == own { Some(*wanted) } else { self.wanted(tree, node)? };
            if let Some(expected) = expected.filter(|expected| hash_block(&block[..]) != *expected) {
                erasures.push((row, node, expected));
            }
            if erasures.len() > layout.parity_rows() {
                return Ok(Vec::new());
            }
            if let Some(row) = codewords.row_mut(row) {
                row.copy_from_slice(&block[..]);
            }
        }
        let mut parity = vec![0; layout.round_len()];
        tree.read_bytes(&mut parity, layout.round_offset(round))?;
        codewords.set_parity(&parity);
        let rows: Vec<usize> = erasures.iter().map(|(row, ..)| *row).collect();
        if codewords.correct(&rows).is_err() {
            return Ok(Vec::new());
        }
        let proven = erasures.into_iter().filter_map(|(row, node, expected)| {
            let block: &[u8; BLOCK_LEN] = codewords.row(row)?;
            (hash_block(block) == expected).then(|| (node, Box::new(*block)))
        });
        Ok(proven.collect())
    }
}
