//! Writes an image front to back, hashing every block once while it is in the cache.
//!
//! The producer fills buffers of 128 blocks (what one hash block covers); workers hash the blocks and write the
//! buffer to its place; the hashes come back in order and grow the dm-verity tree. What is produced and where it
//! goes never depends on how many workers there are.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use mkimg_format::header::Header;
use mkimg_format::merkle::{Builder, Sink, hash_block, hash_blocks};
use mkimg_format::verity::{Level, levels};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};

use crate::ordered::Ordered;

/// Bytes of one job: the blocks under one hash block.
pub(crate) const BUFFER: usize = 128 * BLOCK_LEN;

/// What a worker hashes and writes.
struct Work {
    offset: u64,
    bytes: Vec<u8>,
    /// The hash of each block; empty if they were known before.
    hashes: Vec<Sha256>,
    hashed: bool,
    outcome: io::Result<()>,
}

/// The tree over what is written.
enum Tree {
    /// It grows with every hash that comes back.
    Growing { builder: Builder, levels: Vec<Level> },
    /// Its place is not known yet, nor is block 0, so the hashes wait: 8 MiB for each GiB of image.
    Waiting(Vec<Sha256>),
}

/// The writer. Implements [`Write`] for the protected area.
pub(crate) struct ImageWriter<'f> {
    file: &'f File,
    works: Ordered<Work>,
    spare: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    /// Whether the hashes of what is in it are known, and in the tree already.
    hashed: bool,
    /// Offset of the first byte in `buffer`.
    offset: u64,
    tree: Tree,
    /// Hashes that came back: called with each leaf in order.
    leaves: Box<dyn FnMut(&Sha256) + 'f>,
}

impl<'f> ImageWriter<'f> {
    /// Starts `threads` workers in `scope`, which may have `pending_max` buffers in hand. `leaves` is told the hash of every
    /// block, in order.
    ///
    /// Without a `header`, which tells the place of the tree, [`Self::place`] has to follow.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, 'f>,
        file: &'f File,
        header: Option<&Header>,
        threads: NonZeroUsize,
        pending_max: usize,
        leaves: impl FnMut(&Sha256) + 'f,
    ) -> io::Result<Self> {
        // File systems let one write to a file at a time; who waits in the kernel for that may keep its processor busy.
        let turn = Arc::new(Mutex::new(()));
        let worker = || {
            let turn = Arc::clone(&turn);
            Ok(move |work: &mut Work| work.run(file, &turn))
        };
        Ok(Self {
            file,
            works: Ordered::start(scope, threads, pending_max, worker)?,
            spare: Vec::new(),
            buffer: Vec::with_capacity(BUFFER),
            hashed: false,
            offset: 0,
            tree: header.map_or_else(|| Tree::Waiting(Vec::new()), Tree::growing),
            leaves: Box::new(leaves),
        })
    }

    /// Bytes written so far.
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Fills up with zeros to the next block.
    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.position().next_multiple_of(BLOCK_SIZE) - self.position());
        self.write_all(&[0; BLOCK_LEN][..length.unwrap_or(0)])
    }

    /// Waits until every block so far is hashed and written. The position must be at a block boundary.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        self.submit()?;
        while let Some(work) = self.works.take()? {
            self.collect(work)?;
        }
        Ok(())
    }

    /// Appends a block whose hash is known. The position must be at a block boundary, and the place of the tree unknown.
    pub(crate) fn write_hashed(&mut self, block: &[u8; BLOCK_LEN], hash: &Sha256) -> io::Result<()> {
        if !self.hashed {
            self.drain()?;
            self.hashed = true;
        }
        if self.buffer.len() == BUFFER {
            self.submit()?;
        }
        self.buffer.extend_from_slice(block);
        self.grow(std::slice::from_ref(hash))
    }

    /// The hashes of all blocks up to the last that came with its own, as long as the place of the tree is unknown.
    pub(crate) fn leaves(&self) -> &[Sha256] {
        match &self.tree {
            Tree::Waiting(leaves) => leaves,
            Tree::Growing { .. } => &[],
        }
    }

    /// Writes block 0, now that it is known where everything is, over what was written as such; and lets the tree grow.
    pub(crate) fn place(&mut self, header: &Header, block0: &[u8; BLOCK_LEN]) -> io::Result<()> {
        self.drain()?;
        self.file.write_all_at(block0, 0)?;
        let Tree::Waiting(mut leaves) = std::mem::replace(&mut self.tree, Tree::growing(header)) else {
            return Err(io::Error::other("the place of the tree is known twice"));
        };
        if let Some(first) = leaves.first_mut() {
            *first = hash_block(block0);
        }
        self.grow(&leaves)
    }

    /// Ends the protected area and writes the rest of the tree; returns the root hash.
    pub(crate) fn finish(mut self) -> io::Result<Sha256> {
        self.drain()?;
        let Tree::Growing { builder, levels } = self.tree else {
            return Err(io::Error::other("the place of the tree is not known"));
        };
        let mut blocks = HashBlocks::new(self.file, &levels);
        let root = builder.finish(&mut blocks);
        blocks.outcome.map(|()| root)
    }

    /// Takes hashes into the tree.
    fn grow(&mut self, leaves: &[Sha256]) -> io::Result<()> {
        match &mut self.tree {
            Tree::Waiting(waiting) => {
                waiting.extend_from_slice(leaves);
                Ok(())
            }
            Tree::Growing { builder, levels } => {
                let mut blocks = HashBlocks::new(self.file, levels);
                leaves.iter().for_each(|leaf| builder.push(leaf, &mut blocks));
                blocks.outcome
            }
        }
    }

    /// Hands the buffer to a worker.
    fn submit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        next.clear();
        let bytes = std::mem::replace(&mut self.buffer, next);
        let (offset, length) = (self.offset, bytes.len() as u64);
        let work = Work { offset, bytes, hashes: Vec::new(), hashed: self.hashed, outcome: Ok(()) };
        self.offset += length;
        match self.works.give(work)? {
            Some(oldest) => self.collect(oldest),
            None => Ok(()),
        }
    }

    /// Takes the hashes of a buffer into the tree.
    fn collect(&mut self, work: Work) -> io::Result<()> {
        work.outcome?;
        self.spare.push(work.bytes);
        work.hashes.iter().for_each(|leaf| (self.leaves)(leaf));
        self.grow(&work.hashes)
    }
}

impl Tree {
    fn growing(header: &Header) -> Self {
        Self::Growing { builder: Builder::new(), levels: levels(header.data_blocks, header.tree_offset()) }
    }
}

impl Write for ImageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == BUFFER || self.hashed {
            self.submit()?;
            self.hashed = false;
        }
        let count = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Work {
    fn run(&mut self, file: &File, turn: &Mutex<()>) {
        if !self.hashed {
            self.hashes = vec![[0; 32]; self.bytes.len() / BLOCK_LEN];
            hash_blocks(&self.bytes, &mut self.hashes);
        }
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.outcome = file.write_all_at(&self.bytes, self.offset);
    }
}

/// Writes hash blocks to their places, and keeps the first error.
struct HashBlocks<'a> {
    file: &'a File,
    levels: &'a [Level],
    outcome: io::Result<()>,
}

impl<'a> HashBlocks<'a> {
    const fn new(file: &'a File, levels: &'a [Level]) -> Self {
        Self { file, levels, outcome: Ok(()) }
    }
}

impl Sink for HashBlocks<'_> {
    fn block(&mut self, level: usize, index: u64, block: &[u8; BLOCK_LEN]) {
        let written = match self.levels.get(level) {
            Some(level) => self.file.write_all_at(block, level.block_offset(index)),
            None => Err(io::Error::other("more hash blocks than planned")),
        };
        if self.outcome.is_ok() {
            self.outcome = written;
        }
    }
}
