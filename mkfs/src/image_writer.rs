//! Writes an image front to back, hashing every block once while it is in the cache.
//!
//! The producer fills buffers of 128 blocks (what one hash block covers); workers hash the blocks and write the
//! buffer to its place; the hashes come back in order and grow the dm-verity tree. What is produced and where it
//! goes never depends on how many workers there are.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use mkimg_format::header::Header;
use mkimg_format::merkle::{Builder, Sink, hash_block, hash_blocks};
use mkimg_format::verity::{Level, levels};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};

/// Bytes of one job: the blocks under one hash block.
pub(crate) const BUFFER: usize = 128 * BLOCK_LEN;

/// What a worker gives back: the buffer for reuse, and the hash of each of its blocks.
type Done = io::Result<(Vec<u8>, Vec<Sha256>)>;

struct Job {
    offset: u64,
    bytes: Vec<u8>,
    reply: SyncSender<Done>,
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
    jobs: SyncSender<Job>,
    pending: VecDeque<Receiver<Done>>,
    pending_max: usize,
    spare: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    /// Offset of the first byte in `buffer`.
    offset: u64,
    tree: Tree,
    /// Hashes that came back: called with each leaf in order.
    leaves: Box<dyn FnMut(&Sha256) + 'f>,
}

impl<'f> ImageWriter<'f> {
    /// Starts `threads` workers in `scope`, which may have `pending_max` buffers in hand. `leaves` is told the hash of every block, in order.
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
        let (jobs, queue) = mpsc::sync_channel::<Job>(pending_max);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.get() {
            let queue = Arc::clone(&queue);
            // The workers end when the writer, and with it the sending end of the queue, is gone.
            std::thread::Builder::new().spawn_scoped(scope, move || work(file, &queue))?;
        }
        Ok(Self {
            file,
            jobs,
            pending: VecDeque::with_capacity(pending_max),
            pending_max,
            spare: Vec::new(),
            buffer: Vec::with_capacity(BUFFER),
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
        while !self.pending.is_empty() {
            self.collect()?;
        }
        Ok(())
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
        if self.pending.len() >= self.pending_max {
            self.collect()?;
        }
        let mut next = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        next.clear();
        let bytes = std::mem::replace(&mut self.buffer, next);
        let length = bytes.len() as u64;
        let (reply, done) = mpsc::sync_channel(1);
        let job = Job { offset: self.offset, bytes, reply };
        self.jobs.send(job).map_err(|_| io::Error::other("the writing threads have stopped"))?;
        self.pending.push_back(done);
        self.offset += length;
        Ok(())
    }

    /// Takes the hashes of the oldest buffer into the tree.
    fn collect(&mut self) -> io::Result<()> {
        let Some(done) = self.pending.pop_front() else { return Ok(()) };
        let (buffer, hashes) =
            done.recv().map_err(|_| io::Error::other("a writing thread has stopped"))??;
        self.spare.push(buffer);
        hashes.iter().for_each(|leaf| (self.leaves)(leaf));
        self.grow(&hashes)
    }
}

impl Tree {
    fn growing(header: &Header) -> Self {
        Self::Growing { builder: Builder::new(), levels: levels(header.data_blocks, header.tree_offset()) }
    }
}

impl Write for ImageWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == BUFFER {
            self.submit()?;
        }
        let count = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and writes buffers until there are no more.
fn work(file: &File, queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { offset, bytes, reply }) = job else { return };
        let mut hashes = vec![[0; 32]; bytes.len() / BLOCK_LEN];
        hash_blocks(&bytes, &mut hashes);
        let done = file.write_all_at(&bytes, offset).map(|()| (bytes, hashes));
        // Nobody waits any more after an error.
        let _ = reply.send(done);
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
