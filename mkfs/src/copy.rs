//! Second pass: the content of the survivors, from the source into the image.

use std::io::{self, Read, Write};

use mkimg_format::BLOCK_SIZE;
use mkimg_format::erofs::raw::NULL_ADDR;

use crate::contents::{Chunks, Content};
use crate::entry::FileData;
use crate::scan::{Run, for_each_run, read_full};

/// Buffer between source and image, in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

/// How copying one content can fail.
pub(crate) enum CopyError {
    /// The source cannot be read.
    Source(io::Error),
    /// The source is not what it was in the first pass.
    Changed,
    /// The image cannot be written.
    Image(io::Error),
}

/// Copies one content from `source`, which is at its first stored byte.
///
/// The stored bytes are hashed again on the way: only what the first pass has checked gets into an image.
pub(crate) fn copy_content(
    content: &Content,
    data: &FileData,
    source: &mut impl Read,
    image: &mut impl Write,
    buffer: &mut [u8],
) -> Result<(), CopyError> {
    let mut hasher = blake3::Hasher::new();
    let mut sink = Sink { content, image, at: 0 };
    for_each_run(content.size, data.segments(), |run| match run {
        Run::Hole(length) => sink.zeros(length).map_err(CopyError::Image),
        Run::Data(mut left) => {
            while left > 0 {
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let count = read_full(source, &mut buffer[..room]).map_err(CopyError::Source)?;
                if count < room {
                    return Err(CopyError::Changed);
                }
                hasher.update(&buffer[..count]);
                sink.bytes(&buffer[..count]).map_err(CopyError::Image)?;
                left -= count as u64;
            }
            Ok(())
        }
    })?;
    if hasher.finalize() == blake3::Hash::from_bytes(data.stored_blake3()) {
        Ok(())
    } else {
        Err(CopyError::Changed)
    }
}

/// Writes the logical bytes of a content, leaving out the chunks that are holes.
struct Sink<'a, W> {
    content: &'a Content,
    image: &'a mut W,
    /// Byte offset in the content.
    at: u64,
}

impl<W: Write> Sink<'_, W> {
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (length, stored) = self.span(bytes.len() as u64);
            let (piece, rest) = bytes.split_at(usize::try_from(length).map_err(io::Error::other)?);
            if stored {
                self.image.write_all(piece)?;
            }
            self.at += length;
            bytes = rest;
        }
        Ok(())
    }

    fn zeros(&mut self, mut left: u64) -> io::Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        while left > 0 {
            let (length, stored) = self.span(left);
            let mut zeros = if stored { length } else { 0 };
            while zeros > 0 {
                let room = usize::try_from(zeros).unwrap_or(usize::MAX).min(ZEROS.len());
                self.image.write_all(&ZEROS[..room])?;
                zeros -= room as u64;
            }
            self.at += length;
            left -= length;
        }
        Ok(())
    }

    /// How many of the next `length` bytes have the same fate, and whether they are stored.
    fn span(&self, length: u64) -> (u64, bool) {
        let Some(chunks) = &self.content.chunks else { return (length, true) };
        let chunk = Chunks::chunk_blocks(chunks) * BLOCK_SIZE;
        let index = usize::try_from(self.at / chunk).unwrap_or(usize::MAX);
        let stored = chunks.map.get(index).is_some_and(|address| *address != NULL_ADDR);
        (length.min(chunk - self.at % chunk), stored)
    }
}
