//! File data on its way into a compressed image: cut into pieces, compressed by several threads, placed in order.
//!
//! The producer collects pieces in batches; workers compress them and hash the plain blocks, whose digests are the
//! leaves of the fs-verity trees; the batches come back in the order in which they went out. So the place of a piece
//! depends on the pieces before it, never on how many workers there are or which of them is faster.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use mkimg_format::erofs::pieces::{PIECE_BITS, compressed_blocks_max};
use mkimg_format::merkle::hash_blocks;
use mkimg_format::{BLOCK_LEN, Sha256};

use crate::compression::{Compression, Encoder};
use crate::contents::{Content, Stored};
use crate::fsverity::FsVerity;
use crate::image_writer::ImageWriter;

/// Length of a piece in a buffer.
const PIECE: usize = 1 << PIECE_BITS;

/// Plain bytes after which a batch goes out.
const BATCH: usize = 4 * PIECE;

/// One piece of a batch.
struct Piece {
    /// Bytes of content; in the batch they are padded to whole blocks.
    length: usize,
    /// Whether to try.
    compress: bool,
    /// Whether it is the last one of its content.
    last: bool,
}

/// Pieces that are compressed together. Lengths of both buffers are multiples of a block.
#[derive(Default)]
struct Batch {
    plain: Vec<u8>,
    pieces: Vec<Piece>,
    /// What goes into the image.
    packed: Vec<u8>,
    /// Blocks of each piece in it.
    blocks: Vec<u16>,
    leaves: Vec<Sha256>,
}

struct Job {
    batch: Batch,
    reply: SyncSender<Batch>,
}

/// Takes contents in layout order and writes them to the image.
pub(crate) struct Packer<'a, 'f> {
    image: &'a mut ImageWriter<'f>,
    contents: &'a [Content],
    /// Whether contents of several files may be compressed.
    share: bool,
    jobs: SyncSender<Job>,
    pending: VecDeque<Receiver<Batch>>,
    pending_max: usize,
    spare: Vec<Batch>,
    batch: Batch,
    /// Where the open piece starts in the batch.
    open: usize,
    /// Content that is coming in.
    incoming: usize,
    stored: Vec<Stored>,
    /// Blocks of the pieces of the content that is coming back.
    pieces: Vec<u16>,
    /// Whether one of them is compressed.
    compressed: bool,
    /// First block of that content.
    start: u32,
    /// Next block of the image.
    block: u32,
    fsverity: FsVerity<'a>,
}

impl<'a, 'f> Packer<'a, 'f> {
    /// Starts `threads` workers in `scope`. The image is at block 1.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, 'f>,
        image: &'a mut ImageWriter<'f>,
        contents: &'a [Content],
        compression: Compression,
        share: bool,
        threads: NonZeroUsize,
    ) -> io::Result<Self> {
        let pending_max = threads.get() * 2;
        let (jobs, queue) = mpsc::sync_channel::<Job>(pending_max);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.get() {
            let queue = Arc::clone(&queue);
            let encoder = compression.encoder()?;
            // The workers end when the packer, and with it the sending end of the queue, is gone.
            std::thread::Builder::new().spawn_scoped(scope, move || work(encoder, &queue))?;
        }
        let mut itself = Self {
            image,
            contents,
            share,
            jobs,
            pending: VecDeque::with_capacity(pending_max),
            pending_max,
            spare: Vec::new(),
            batch: Batch::default(),
            open: 0,
            incoming: 0,
            stored: Vec::with_capacity(contents.len()),
            pieces: Vec::new(),
            compressed: false,
            start: 1,
            block: 1,
            fsverity: FsVerity::new(contents),
        };
        itself.skip_empty();
        Ok(itself)
    }

    /// The end of the content that was written.
    pub(crate) fn end_content(&mut self) -> io::Result<()> {
        self.close_piece(true);
        self.incoming += 1;
        self.skip_empty();
        if self.batch.plain.len() >= BATCH { self.submit() } else { Ok(()) }
    }

    /// Waits for the last pieces; what became of each content, and their fs-verity digests.
    pub(crate) fn finish(mut self) -> io::Result<(Vec<Stored>, Vec<Sha256>)> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.store_empty();
        Ok((self.stored, self.fsverity.take_digests()))
    }

    /// Nothing is ever written of empty contents.
    fn skip_empty(&mut self) {
        while self.contents.get(self.incoming).is_some_and(|content| content.size == 0) {
            self.incoming += 1;
        }
    }

    fn close_piece(&mut self, last: bool) {
        let content = self.contents.get(self.incoming);
        let compress =
            content.is_some_and(|content| content.chunks.is_none() && (self.share || !content.several));
        let length = self.batch.plain.len() - self.open;
        self.batch.pieces.push(Piece { length, compress, last });
        self.open += length.next_multiple_of(BLOCK_LEN);
        self.batch.plain.resize(self.open, 0);
    }

    /// Hands the batch to a worker.
    fn submit(&mut self) -> io::Result<()> {
        if self.batch.pieces.is_empty() {
            return Ok(());
        }
        if self.pending.len() >= self.pending_max {
            self.collect()?;
        }
        let next = self.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        let (reply, done) = mpsc::sync_channel(1);
        let sent = self.jobs.send(Job { batch, reply });
        sent.map_err(|_| io::Error::other("the compressing threads have stopped"))?;
        self.pending.push_back(done);
        self.open = 0;
        Ok(())
    }

    /// Places the pieces of the oldest batch.
    fn collect(&mut self) -> io::Result<()> {
        let Some(done) = self.pending.pop_front() else { return Ok(()) };
        let mut batch = done.recv().map_err(|_| io::Error::other("a compressing thread has stopped"))?;
        self.image.write_all(&batch.packed)?;
        batch.leaves.iter().for_each(|leaf| self.fsverity.push(leaf));
        for (piece, blocks) in batch.pieces.iter().zip(&batch.blocks) {
            if self.pieces.is_empty() {
                self.store_empty();
            }
            self.pieces.push(*blocks);
            self.compressed |= usize::from(*blocks) < piece.length.div_ceil(BLOCK_LEN);
            let next = self.block.checked_add((*blocks).into());
            self.block = next.ok_or_else(|| io::Error::other("more blocks than 32 bits can count"))?;
            if piece.last {
                let pieces = if self.compressed { Box::from(&*self.pieces) } else { Box::default() };
                self.stored.push(Stored { start: self.start, blocks: self.block - self.start, pieces });
                self.start = self.block;
                self.pieces.clear();
                self.compressed = false;
            }
        }
        batch.plain.clear();
        batch.pieces.clear();
        batch.packed.clear();
        batch.blocks.clear();
        self.spare.push(batch);
        Ok(())
    }

    /// Empty contents have no pieces that could come back.
    fn store_empty(&mut self) {
        while self.contents.get(self.stored.len()).is_some_and(|content| content.size == 0) {
            self.stored.push(Stored { start: self.start, blocks: 0, pieces: Box::default() });
        }
    }
}

impl Write for Packer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only now is it known that a full piece was not the last one of its content.
        if self.batch.plain.len() - self.open == PIECE {
            self.close_piece(false);
            if self.batch.plain.len() >= BATCH {
                self.submit()?;
            }
        }
        let room = PIECE - (self.batch.plain.len() - self.open);
        let count = bytes.len().min(room);
        self.batch.plain.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses and hashes batches until there are no more.
fn work(mut encoder: Encoder, queue: &Mutex<Receiver<Job>>) {
    let mut room = vec![0; PIECE];
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut batch, reply }) = job else { return };
        batch.leaves.resize(batch.plain.len() / BLOCK_LEN, [0; 32]);
        hash_blocks(&batch.plain, &mut batch.leaves);
        let mut rest = &*batch.plain;
        for piece in &batch.pieces {
            let padded = piece.length.next_multiple_of(BLOCK_LEN);
            let (plain, behind) = rest.split_at(padded);
            rest = behind;
            let before = batch.packed.len();
            match pack(&mut encoder, piece, plain, &mut room) {
                Some(stream) => {
                    batch.packed.resize(before + stream.len().next_multiple_of(BLOCK_LEN) - stream.len(), 0);
                    batch.packed.extend_from_slice(stream);
                }
                None => batch.packed.extend_from_slice(plain),
            }
            // A piece has 32 blocks.
            let blocks = u16::try_from((batch.packed.len() - before) / BLOCK_LEN);
            batch.blocks.push(blocks.unwrap_or(u16::MAX));
        }
        // Nobody waits any more after an error.
        let _ = reply.send(batch);
    }
}

/// Compresses a piece, if that gains blocks.
fn pack<'r>(encoder: &mut Encoder, piece: &Piece, plain: &[u8], room: &'r mut [u8]) -> Option<&'r [u8]> {
    if !piece.compress {
        return None;
    }
    let blocks = usize::try_from(compressed_blocks_max(piece.length as u64)).ok()?;
    let room = room.get_mut(..blocks * BLOCK_LEN)?;
    let length = encoder.encode(plain.get(..piece.length)?, room)?;
    room.get(..length)
}
