//! Where the bytes of a file are.

use super::raw::NULL_ADDR;
use super::{FileSystem, Inode, Layout};
use crate::{Error, Part, Problem, ReadAt, Result};

/// A run of file content that is consecutive in the image, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset in the file.
    pub logical: u64,
    /// Length in bytes; the last extent ends with the file, not with its block.
    pub length: u64,
    /// Byte offset in the image; `None` for a hole.
    pub physical: Option<u64>,
}

/// The extents of a file, in order, merged where they touch.
///
/// Reads chunk maps piece by piece, so memory does not depend on the size of the file.
pub struct Extents<'a, R> {
    fs: &'a FileSystem<R>,
    inode: &'a Inode,
    /// Byte offset in the file of the next piece.
    next: u64,
    /// No piece starts at or behind this byte of the file.
    stop: u64,
    /// A piece that starts the next extent.
    ahead: Option<Extent>,
    /// Part of the chunk map: index of its first entry, entries.
    window: (u64, Vec<u8>),
    failed: bool,
}

/// Bytes of a chunk map that are read at once.
const WINDOW: u64 = 4096;

impl<'a, R: ReadAt> Extents<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>, inode: &'a Inode) -> Self {
        Self::within(fs, inode, 0, inode.size)
    }

    /// The extents that touch `length` file bytes from `offset` on.
    ///
    /// Pieces are merged up to the end of that range and not beyond: whoever reads a file bit by bit would go
    /// through the rest of its chunk map every time.
    pub(super) fn within(fs: &'a FileSystem<R>, inode: &'a Inode, offset: u64, length: u64) -> Self {
        let next = match inode.layout {
            Layout::Chunked { chunk_bits, .. } => {
                let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
                offset.saturating_sub(offset.checked_rem(chunk).unwrap_or(0))
            }
            _ => 0,
        };
        let stop = offset.saturating_add(length).min(inode.size);
        Self { fs, inode, next, stop, ahead: None, window: (0, Vec::new()), failed: false }
    }

    /// The smallest piece at `self.next`.
    fn piece(&mut self) -> Result<Option<Extent>> {
        let size = self.inode.size;
        let logical = self.next;
        if logical >= self.stop {
            return Ok(None);
        }
        let block = self.fs.superblock().block_size();
        let left = size.saturating_sub(logical);
        let at = |start: u32| u64::from(start).saturating_mul(block);
        let (length, physical) = match self.inode.layout {
            Layout::None => return Ok(None),
            Layout::Plain { start } => (left, start.map(at)),
            Layout::Inline { start, tail } => {
                let whole = size.saturating_sub(size.checked_rem(block).unwrap_or(0));
                if logical < whole { (whole, start.map(at)) } else { (left, Some(tail)) }
            }
            Layout::Chunked { chunk_bits, indexes, map } => {
                let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
                let length = left.min(chunk);
                let start = self.chunk(logical >> chunk_bits.min(63), indexes, map)?;
                (length, start.map(at))
            }
        };
        if let Some(start) = physical {
            let limit = self.fs.superblock().length();
            if start.checked_add(length).is_none_or(|end| end > limit) {
                let problem = Problem::OutOfBounds { start, length, limit };
                return Err(Error::corrupt(Part::ChunkMap, self.inode.offset, problem));
            }
        }
        self.next = logical.saturating_add(length);
        Ok(Some(Extent { logical, length, physical }))
    }

    /// Block address of chunk `index`; `None` for a hole.
    fn chunk(&mut self, index: u64, indexes: bool, map: u64) -> Result<Option<u32>> {
        let unit: u64 = if indexes { 8 } else { 4 };
        let held = u64::try_from(self.window.1.len()).unwrap_or(0).checked_div(unit).unwrap_or(0);
        if index < self.window.0 || index >= self.window.0.saturating_add(held) {
            let Layout::Chunked { chunk_bits, .. } = self.inode.layout else { return Ok(None) };
            let total = self.inode.size.div_ceil(1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX));
            let wanted = total.saturating_sub(index).saturating_mul(unit).min(WINDOW);
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
            self.fs.read(Part::ChunkMap, &mut bytes, map.saturating_add(index.saturating_mul(unit)))?;
            self.window = (index, bytes);
        }
        let at = index.saturating_sub(self.window.0).saturating_mul(unit);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let entry = at.checked_add(if indexes { 8 } else { 4 }).and_then(|end| self.window.1.get(at..end));
        let offset = map.saturating_add(index.saturating_mul(unit));
        let address = match entry {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            Some(&[hi0, hi1, dev0, dev1, a, b, c, d]) => {
                let address = u32::from_le_bytes([a, b, c, d]);
                let rest = u32::from_le_bytes([hi0, hi1, dev0, dev1]);
                if rest != 0 && address != NULL_ADDR {
                    let rule = "0: one device, 32-bit addresses";
                    return Err(Error::field(Part::ChunkMap, offset, "chunk index", rest.into(), rule));
                }
                address
            }
            _ => {
                return Err(Error::corrupt(Part::ChunkMap, offset, Problem::TooMany("chunks")));
            }
        };
        Ok((address != NULL_ADDR).then_some(address))
    }
}

impl<R: ReadAt> Iterator for Extents<'_, R> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut extent = self.ahead.take();
        loop {
            match self.piece() {
                Ok(None) => return extent.map(Ok),
                Ok(Some(piece)) => match &mut extent {
                    None => extent = Some(piece),
                    Some(whole) => {
                        let follows = match (whole.physical, piece.physical) {
                            (None, None) => true,
                            (Some(start), Some(next)) => start.checked_add(whole.length) == Some(next),
                            _ => false,
                        };
                        if follows {
                            whole.length = whole.length.saturating_add(piece.length);
                        } else {
                            self.ahead = Some(piece);
                            return extent.map(Ok);
                        }
                    }
                },
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
