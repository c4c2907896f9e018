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

use mkimg_format::erofs::pieces::{
    ENCODED_PIECES_MAX, PIECE_BITS, PIECE_LEN, compressed_blocks_max, encoded_len_max,
};
use mkimg_format::merkle::hash_blocks;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};

use crate::compression::{Abilities, Compression, Encoder};
use crate::contents::{Content, Data, Form, Stored};
use crate::fsverity::FsVerity;
use crate::image_writer::ImageWriter;

/// Length of a piece in a buffer.
const PIECE: usize = 1 << PIECE_BITS;

/// Plain bytes after which a batch goes out.
const BATCH: usize = 4 * PIECE;

/// Bytes of a batch in memory at most: plain, with one piece more than makes it go out, and packed.
pub(crate) const BATCH_MEMORY: usize = 2 * (BATCH + PIECE);

/// One piece of a batch.
struct Piece {
    /// Bytes of content; in the batch they are padded to whole blocks.
    length: usize,
    form: PieceForm,
    /// Whether it is the last one of its content.
    last: bool,
}

/// What may become of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PieceForm {
    /// It stays as it is, in whole blocks.
    Plain,
    /// It is compressed if that gains blocks.
    Blocks,
    /// It is compressed if that gains bytes, and takes no more than it needs.
    Bytes,
}

/// Pieces that are compressed together.
#[derive(Default)]
struct Batch {
    plain: Vec<u8>,
    pieces: Vec<Piece>,
    /// What goes into the image.
    packed: Vec<u8>,
    /// Bytes of each piece in it.
    lengths: Vec<u32>,
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
    abilities: Abilities,
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
    /// Bytes of the pieces of the content that is coming back.
    lengths: Vec<u32>,
    /// Whether one of them is compressed.
    compressed: bool,
    /// First byte of that content.
    start: u64,
    fsverity: FsVerity<'a>,
}

impl<'a, 'f> Packer<'a, 'f> {
    /// Starts `threads` workers in `scope`, which may have `pending_max` batches in hand. The image is at block 1.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, 'f>,
        image: &'a mut ImageWriter<'f>,
        contents: &'a [Content],
        compression: Compression,
        abilities: Abilities,
        threads: NonZeroUsize,
        pending_max: usize,
    ) -> io::Result<Self> {
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
            abilities,
            jobs,
            pending: VecDeque::with_capacity(pending_max),
            pending_max,
            spare: Vec::new(),
            batch: Batch::default(),
            open: 0,
            incoming: 0,
            stored: Vec::with_capacity(contents.len()),
            lengths: Vec::new(),
            compressed: false,
            start: 0,
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
    pub(crate) fn finish(mut self) -> io::Result<(Data, Vec<Sha256>)> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.store_empty();
        self.image.pad()?;
        let end = self.image.position() / BLOCK_SIZE;
        Ok((Data { stored: self.stored, end }, self.fsverity.take_digests()))
    }

    /// Nothing is ever written of empty contents.
    fn skip_empty(&mut self) {
        while self.contents.get(self.incoming).is_some_and(|content| content.size == 0) {
            self.incoming += 1;
        }
    }

    fn close_piece(&mut self, last: bool) {
        let form = self.contents.get(self.incoming).map_or(PieceForm::Plain, |content| self.form_of(content));
        let length = self.batch.plain.len() - self.open;
        self.batch.pieces.push(Piece { length, form, last });
        self.open += length.next_multiple_of(BLOCK_LEN);
        self.batch.plain.resize(self.open, 0);
    }

    /// What may become of the pieces of a content.
    fn form_of(&self, content: &Content) -> PieceForm {
        if content.chunks.is_some() {
            PieceForm::Plain
        } else if self.abilities.encoded && content.size.div_ceil(PIECE_LEN) <= ENCODED_PIECES_MAX {
            PieceForm::Bytes
        } else if self.abilities.share || !content.several {
            PieceForm::Blocks
        } else {
            PieceForm::Plain
        }
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
        batch.leaves.iter().for_each(|leaf| self.fsverity.push(leaf));
        let mut rest = &*batch.packed;
        for (piece, length) in batch.pieces.iter().zip(&batch.lengths) {
            let (packed, behind) = rest.split_at(*length as usize);
            rest = behind;
            if self.lengths.is_empty() {
                self.store_empty();
                if piece.form != PieceForm::Bytes {
                    self.image.pad()?;
                }
                self.start = self.image.position();
            }
            self.image.write_all(packed)?;
            self.lengths.push(*length);
            self.compressed |= packed.len() < piece.length;
            if piece.last {
                let form = self.form(piece.form);
                self.stored.push(Stored { start: self.start, form });
                self.lengths.clear();
                self.compressed = false;
            }
        }
        batch.plain.clear();
        batch.pieces.clear();
        batch.packed.clear();
        batch.lengths.clear();
        self.spare.push(batch);
        Ok(())
    }

    /// What has become of the content whose pieces are back.
    fn form(&self, of: PieceForm) -> Form {
        match of {
            PieceForm::Bytes => Form::Encoded(Box::from(&*self.lengths)),
            PieceForm::Blocks if self.compressed => {
                // A piece has some dozens of blocks at most.
                let blocks =
                    |length: &u32| u16::try_from(u64::from(*length) / BLOCK_SIZE).unwrap_or(u16::MAX);
                Form::Indexed(self.lengths.iter().map(blocks).collect())
            }
            PieceForm::Plain | PieceForm::Blocks => Form::Plain,
        }
    }

    /// Empty contents have no pieces that could come back.
    fn store_empty(&mut self) {
        while self.contents.get(self.stored.len()).is_some_and(|content| content.size == 0) {
            self.stored.push(Stored { start: self.image.position(), form: Form::Plain });
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
                    // In blocks, a stream stands at their end.
                    if piece.form == PieceForm::Blocks {
                        batch
                            .packed
                            .resize(before + stream.len().next_multiple_of(BLOCK_LEN) - stream.len(), 0);
                    }
                    batch.packed.extend_from_slice(stream);
                }
                None if piece.form == PieceForm::Bytes => {
                    batch.packed.extend_from_slice(&plain[..piece.length]);
                }
                None => batch.packed.extend_from_slice(plain),
            }
            // No longer than a piece.
            batch.lengths.push(u32::try_from(batch.packed.len() - before).unwrap_or(u32::MAX));
        }
        // Nobody waits any more after an error.
        let _ = reply.send(batch);
    }
}

/// Compresses a piece, if that gains enough.
fn pack<'r>(encoder: &mut Encoder, piece: &Piece, plain: &[u8], room: &'r mut [u8]) -> Option<&'r [u8]> {
    let most = match piece.form {
        PieceForm::Plain => return None,
        PieceForm::Blocks => compressed_blocks_max(piece.length as u64) * BLOCK_SIZE,
        PieceForm::Bytes => encoded_len_max(piece.length as u64),
    };
    let room = room.get_mut(..usize::try_from(most).ok()?)?;
    let length = encoder.encode(plain.get(..piece.length)?, room)?;
    room.get(..length)
}
