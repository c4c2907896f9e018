//! File data on its way into a compressed image: cut into pieces, compressed by several threads, placed in order.
//!
//! The producer collects pieces in batches; workers compress them and hash the plain blocks, whose digests are the
//! leaves of the fs-verity trees; the batches come back in the order in which they went out. So the place of a piece
//! depends on the pieces before it, never on how many workers there are or which of them is faster.
//!
//! Small contents gather in the packed inode, where the kernel can read it. How long that will be is known before, so a
//! piece of it goes out as soon as there is enough for one, and stands between the contents that come in meanwhile.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::thread::Scope;

use mkimg_format::erofs::pieces::{PIECE_LEN_MAX, compressed_blocks_max, encoded_len_max, piece_len};
use mkimg_format::merkle::hash_blocks;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};

use crate::compression::{Abilities, Compression, Encoder};
use crate::contents::{Content, Data, Form, Packed, Stored};
use crate::fsverity::FsVerity;
use crate::image_writer::ImageWriter;
use crate::ordered::Ordered;

/// Plain bytes after which a batch goes out: those of two pieces.
const BATCH: usize = 512 << 10;

/// Bytes of a batch in memory at most: plain, with one piece more than makes it go out, once more what of it is in the
/// packed inode, and compressed.
pub(crate) const BATCH_MEMORY: usize = 3 * 2 * BATCH;
const _: () = assert!(PIECE_LEN_MAX <= BATCH as u64);

/// One piece of a batch.
struct Piece {
    /// Bytes of content.
    length: usize,
    form: PieceForm,
    of: Owner,
}

/// What a piece is a piece of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Content {
        /// Whether it is the last one of its content.
        last: bool,
    },
    /// The packed inode.
    Packed,
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
    /// It is in the packed inode, and only hashed here.
    Fragment,
}

/// Pieces that are compressed together.
#[derive(Default)]
struct Batch {
    /// Contents in order, each piece padded to whole blocks, as they are hashed.
    plain: Vec<u8>,
    /// Pieces of the packed inode.
    small: Vec<u8>,
    pieces: Vec<Piece>,
    /// What goes into the image.
    packed: Vec<u8>,
    /// Bytes of each piece in it.
    lengths: Vec<u32>,
    leaves: Vec<Sha256>,
}

/// Takes contents in layout order and writes them to the image.
pub(crate) struct Packer<'a, 'f> {
    image: &'a mut ImageWriter<'f>,
    contents: &'a [Content],
    abilities: Abilities,
    batches: Ordered<Batch>,
    spare: Vec<Batch>,
    batch: Batch,
    /// Where the open piece starts in the batch.
    open: usize,
    /// Content that is coming in.
    incoming: usize,
    /// Bytes of it from the open piece on.
    left: u64,
    /// Small contents that came in, as far as no piece was cut from them.
    small: Vec<u8>,
    /// Bytes of the packed inode from there on.
    small_left: u64,
    stored: Vec<Stored>,
    packed: Packed,
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
        let batches = Ordered::start(scope, threads, pending_max, || {
            let (mut encoder, mut room) = (compression.encoder()?, Vec::new());
            Ok(move |batch: &mut Batch| batch.pack(&mut encoder, &mut room))
        })?;
        let mut itself = Self {
            image,
            contents,
            abilities,
            batches,
            spare: Vec::new(),
            batch: Batch::default(),
            open: 0,
            incoming: 0,
            left: 0,
            small: Vec::new(),
            small_left: if abilities.share {
                contents.iter().filter(|content| content.is_small()).map(|content| content.size).sum()
            } else {
                0
            },
            stored: Vec::with_capacity(contents.len()),
            packed: Packed { size: 0, indexed: !abilities.encoded, pieces: Vec::new() },
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
        while let Some(batch) = self.batches.take()? {
            self.collect(batch)?;
        }
        self.store_empty();
        self.image.pad()?;
        let end = self.image.position() / BLOCK_SIZE;
        let packed = Some(self.packed).filter(|packed| packed.size > 0);
        Ok((Data { stored: self.stored, packed, end }, self.fsverity.take_digests()))
    }

    /// Goes on to the next content that bytes are written of.
    fn skip_empty(&mut self) {
        while self.contents.get(self.incoming).is_some_and(|content| content.size == 0) {
            self.incoming += 1;
        }
        let content = self.contents.get(self.incoming);
        // Of a sparse one nobody knows here how much is written, nor is it of importance.
        self.left =
            content.map_or(0, |content| if content.chunks.is_some() { u64::MAX } else { content.size });
    }

    fn close_piece(&mut self, last: bool) {
        let form = self.contents.get(self.incoming).map_or(PieceForm::Plain, |content| self.form_of(content));
        let length = self.batch.plain.len() - self.open;
        self.batch.pieces.push(Piece { length, form, of: Owner::Content { last } });
        self.left = self.left.saturating_sub(length as u64);
        if form == PieceForm::Fragment {
            self.small.extend_from_slice(&self.batch.plain[self.open..]);
            self.cut_packed();
        }
        self.open += length.next_multiple_of(BLOCK_LEN);
        self.batch.plain.resize(self.open, 0);
    }

    /// Cuts pieces from the packed inode, where there is enough for one.
    fn cut_packed(&mut self) {
        let form = if self.abilities.encoded { PieceForm::Bytes } else { PieceForm::Blocks };
        loop {
            let length = piece_len(self.small_left);
            let Some(piece) = usize::try_from(length).ok().and_then(|length| self.small.get(..length)) else {
                return;
            };
            if piece.is_empty() {
                return;
            }
            self.batch.small.extend_from_slice(piece);
            let length = piece.len();
            self.small.drain(..length);
            self.small_left -= length as u64;
            self.batch.pieces.push(Piece { length, form, of: Owner::Packed });
        }
    }

    /// What may become of the pieces of a content.
    fn form_of(&self, content: &Content) -> PieceForm {
        if content.chunks.is_some() {
            PieceForm::Plain
        } else if self.abilities.share && content.is_small() {
            PieceForm::Fragment
        } else if self.abilities.encoded {
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
        let next = self.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        self.open = 0;
        match self.batches.give(batch)? {
            Some(oldest) => self.collect(oldest),
            None => Ok(()),
        }
    }

    /// Places the pieces of a batch.
    fn collect(&mut self, mut batch: Batch) -> io::Result<()> {
        batch.leaves.iter().for_each(|leaf| self.fsverity.push(leaf));
        let mut rest = &*batch.packed;
        for (piece, length) in batch.pieces.iter().zip(&batch.lengths) {
            let (packed, behind) = rest.split_at(*length as usize);
            rest = behind;
            match piece.of {
                Owner::Packed => {
                    self.packed.pieces.push((self.image.position(), *length));
                    self.image.write_all(packed)?;
                }
                Owner::Content { last } => self.place(piece, packed, last)?,
            }
        }
        batch.plain.clear();
        batch.small.clear();
        batch.pieces.clear();
        batch.packed.clear();
        batch.lengths.clear();
        self.spare.push(batch);
        Ok(())
    }

    /// Places a piece of a content.
    fn place(&mut self, piece: &Piece, packed: &[u8], last: bool) -> io::Result<()> {
        if self.lengths.is_empty() {
            self.store_empty();
            if matches!(piece.form, PieceForm::Plain | PieceForm::Blocks) {
                self.image.pad()?;
            }
            self.start = self.image.position();
        }
        if piece.form == PieceForm::Fragment {
            self.stored.push(Stored { start: self.packed.size, form: Form::Fragment });
            self.packed.size += piece.length as u64;
            return Ok(());
        }
        let content = self.contents.get(self.stored.len());
        // Small contents have one piece.
        if piece.form == PieceForm::Blocks
            && packed.len() >= piece.length
            && let Some(tail) = content.and_then(Content::tail)
        {
            let (whole, rest) = packed.split_at(piece.length - tail);
            self.image.write_all(whole)?;
            let form = Form::Tail(rest[..tail].into());
            self.stored.push(Stored { start: self.start, form });
            return Ok(());
        }
        self.image.write_all(packed)?;
        // No longer than a piece.
        self.lengths.push(u32::try_from(packed.len()).unwrap_or(u32::MAX));
        self.compressed |= packed.len() < piece.length;
        if last {
            let form = self.form(piece.form);
            self.stored.push(Stored { start: self.start, form });
            self.lengths.clear();
            self.compressed = false;
        }
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
            PieceForm::Plain | PieceForm::Blocks | PieceForm::Fragment => Form::Plain,
        }
    }

    /// Bytes that the open piece can still take.
    fn room(&self) -> usize {
        let open = self.batch.plain.len() - self.open;
        usize::try_from(piece_len(self.left)).unwrap_or(usize::MAX).saturating_sub(open)
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
        if self.room() == 0 {
            self.close_piece(false);
            if self.batch.plain.len() >= BATCH {
                self.submit()?;
            }
        }
        let count = bytes.len().min(self.room());
        self.batch.plain.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Batch {
    /// Compresses its pieces, and hashes its contents. `room` is kept for the next batch.
    fn pack(&mut self, encoder: &mut Encoder, room: &mut Vec<u8>) {
        self.leaves.resize(self.plain.len() / BLOCK_LEN, [0; 32]);
        hash_blocks(&self.plain, &mut self.leaves);
        let (mut contents, mut small) = (&*self.plain, &*self.small);
        for piece in &self.pieces {
            let plain = match piece.of {
                Owner::Packed => take(&mut small, piece.length),
                Owner::Content { .. } => take(&mut contents, piece.length.next_multiple_of(BLOCK_LEN)),
            };
            let plain = &plain[..piece.length];
            let before = self.packed.len();
            let stream = pack(encoder, piece, plain, room);
            let blocks = matches!(piece.form, PieceForm::Plain | PieceForm::Blocks);
            let stored = if piece.form == PieceForm::Fragment { &[] } else { stream.unwrap_or(plain) };
            let padding = if blocks { stored.len().next_multiple_of(BLOCK_LEN) - stored.len() } else { 0 };
            // In blocks, a stream stands at their end, and what stays as it is at their beginning.
            if stream.is_some() {
                self.packed.resize(before + padding, 0);
            }
            self.packed.extend_from_slice(stored);
            if stream.is_none() {
                self.packed.resize(self.packed.len() + padding, 0);
            }
            // No longer than a piece.
            self.lengths.push(u32::try_from(self.packed.len() - before).unwrap_or(u32::MAX));
        }
    }
}

/// Takes `length` bytes off the front.
fn take<'b>(bytes: &mut &'b [u8], length: usize) -> &'b [u8] {
    let (front, rest) = bytes.split_at(length);
    *bytes = rest;
    front
}

/// Compresses a piece, if that gains enough.
fn pack<'r>(encoder: &mut Encoder, piece: &Piece, plain: &[u8], room: &'r mut Vec<u8>) -> Option<&'r [u8]> {
    let most = match piece.form {
        PieceForm::Plain | PieceForm::Fragment => return None,
        PieceForm::Blocks => compressed_blocks_max(piece.length as u64) * BLOCK_SIZE,
        PieceForm::Bytes => encoded_len_max(piece.length as u64),
    };
    let most = usize::try_from(most).ok()?;
    if room.len() < most {
        room.resize(most, 0);
    }
    let room = &mut room[..most];
    let length = encoder.encode(plain, room)?;
    room.get(..length)
}
