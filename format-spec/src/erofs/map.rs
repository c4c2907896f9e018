//! Where the bytes of a file are.

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::pieces::{Index, PIECE_MAX, records_start};
use super::raw::{
    EXTENT_FORMAT_SHIFT, EXTENT_LENGTH_MASK, INDEX_LEN, MAP_HEADER_LEN, NULL_ADDR, RawExtent, RawIndex,
};
use super::{Algorithm, FileSystem, Inode, Layout};
use crate::{Error, Part, Problem, ReadAt, Result};

/// How a piece of content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// By which algorithm.
    pub algorithm: Algorithm,
    /// Bytes that it takes in the image; the stream is at their end, and there are zeros before.
    pub length: u64,
    /// Bytes that it gives.
    pub whole: u64,
    /// How many of them come before the content: a fragment is a part of a piece.
    pub skip: u64,
}

/// A run of file content that is consecutive in the image, a compressed piece, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset in the file.
    pub logical: u64,
    /// Length in bytes; the last extent ends with the file, not with its block.
    pub length: u64,
    /// Byte offset in the image; `None` for a hole.
    pub physical: Option<u64>,
    /// For content that is not stored as it is.
    pub compressed: Option<Compressed>,
}

impl Extent {
    /// Bytes that it takes in the image.
    #[must_use]
    pub const fn stored(&self) -> u64 {
        match (self.physical, self.compressed) {
            (None, _) => 0,
            (Some(_), Some(compressed)) => compressed.length,
            (Some(_), None) => self.length,
        }
    }

    /// What is content as it is, or a hole.
    const fn plain(logical: u64, length: u64, physical: Option<u64>) -> Self {
        Self { logical, length, physical, compressed: None }
    }
}

/// The extents of a file, in order, merged where they touch. A compressed piece, or what a fragment has of one, is an
/// extent of its own.
///
/// Reads maps piece by piece, so memory does not depend on the size of the file.
pub struct Extents<'a, R> {
    fs: &'a FileSystem<R>,
    inode: &'a Inode,
    /// Byte offset in the file of the next piece.
    next: u64,
    /// No piece starts at or behind this byte of the file.
    stop: u64,
    /// Of encoded extents: the next record.
    record: u64,
    /// Of a fragment: the packed inode.
    packed: Option<Box<Self>>,
    /// A piece that starts the next extent.
    ahead: Option<Extent>,
    /// Part of the map: index of its first entry, entries.
    window: (u64, Vec<u8>),
    failed: bool,
}

/// Bytes of a map that are read at once.
const WINDOW: u64 = 4096;

impl<'a, R: ReadAt> Extents<'a, R> {
    pub(super) fn new(fs: &'a FileSystem<R>, inode: &'a Inode) -> Self {
        Self::within(fs, inode, 0, inode.size)
    }

    /// The extents that touch `length` file bytes from `offset` on.
    ///
    /// Pieces are merged up to the end of that range and not beyond: whoever reads a file bit by bit would go
    /// through the rest of its map every time.
    pub(super) fn within(fs: &'a FileSystem<R>, inode: &'a Inode, offset: u64, length: u64) -> Self {
        let next = match inode.layout {
            Layout::Chunked { chunk_bits, .. } => {
                let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
                offset.saturating_sub(offset.checked_rem(chunk).unwrap_or(0))
            }
            // The piece there begins at or before it.
            Layout::Compressed { .. } | Layout::Encoded { .. } | Layout::Fragment { .. } => offset,
            _ => 0,
        };
        let stop = offset.saturating_add(length).min(inode.size);
        Self {
            fs,
            inode,
            next,
            stop,
            record: 0,
            packed: None,
            ahead: None,
            window: (0, Vec::new()),
            failed: false,
        }
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
        let extent = match self.inode.layout {
            Layout::None => return Ok(None),
            Layout::Plain { start } => Extent::plain(logical, left, start.map(at)),
            Layout::Inline { start, tail } => {
                let whole = size.saturating_sub(size.checked_rem(block).unwrap_or(0));
                if logical < whole {
                    Extent::plain(logical, whole, start.map(at))
                } else {
                    Extent::plain(logical, left, Some(tail))
                }
            }
            Layout::Compressed { algorithm, map } => self.compressed_piece(algorithm, map)?,
            Layout::Encoded { record_len: 16, count, map } => self.encoded_piece::<16>(count, map)?,
            Layout::Encoded { count, map, .. } => self.encoded_piece::<32>(count, map)?,
            Layout::Fragment { offset, map } => self.fragment_piece(offset, map)?,
            Layout::Chunked { chunk_bits, indexes, map } => {
                let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
                let length = left.min(chunk);
                let start = self.chunk(logical >> chunk_bits.min(63), indexes, map)?;
                Extent::plain(logical, length, start.map(at))
            }
        };
        if let Some(start) = extent.physical {
            let (length, limit) = (extent.stored(), self.fs.superblock().length());
            if start.checked_add(length).is_none_or(|end| end > limit) {
                let part = match self.inode.layout {
                    Layout::Chunked { .. } => Part::ChunkMap,
                    _ => Part::PieceMap,
                };
                let problem = Problem::OutOfBounds { start, length, limit };
                return Err(Error::corrupt(part, self.inode.offset, problem));
            }
        }
        self.next = extent.logical.saturating_add(extent.length);
        Ok(Some(extent))
    }

    /// Entry `index` of a map of `total` entries of `LEN` bytes, which starts at byte `map`.
    fn entry<const LEN: usize>(&mut self, part: Part, map: u64, total: u64, index: u64) -> Result<[u8; LEN]> {
        let unit = u64::try_from(LEN).unwrap_or(u64::MAX);
        let offset = map.saturating_add(index.saturating_mul(unit));
        let (first, bytes) = &self.window;
        let held = u64::try_from(bytes.len()).unwrap_or(0).checked_div(unit).unwrap_or(0);
        if index < *first || index >= first.saturating_add(held) {
            let wanted = total.saturating_sub(index).saturating_mul(unit).min(WINDOW);
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
            self.fs.read(part, &mut bytes, offset)?;
            self.window = (index, bytes);
        }
        let (first, bytes) = &self.window;
        let at = usize::try_from(index.saturating_sub(*first)).ok().and_then(|at| at.checked_mul(LEN));
        let entry = at.and_then(|at| bytes.get(at..)).and_then(|rest| rest.first_chunk::<LEN>());
        entry.copied().ok_or_else(|| Error::corrupt(part, offset, Problem::TooMany("entries of its map")))
    }

    /// The compressed piece, or the block that is stored as it is, that holds byte `self.next`.
    fn compressed_piece(&mut self, algorithm: Algorithm, map: u64) -> Result<Extent> {
        let part = Part::PieceMap;
        let block = self.fs.superblock().block_size();
        let table = map.saturating_add(MAP_HEADER_LEN.saturating_mul(2));
        let total = self.inode.size.div_ceil(block);
        let longest = PIECE_MAX.checked_div(block).unwrap_or(1);
        let (wanted, size) = (self.next, self.inode.size);
        let mut index = |at: u64| {
            let raw: [u8; 8] = self.entry(part, table, total, at)?;
            let offset = table.saturating_add(at.saturating_mul(INDEX_LEN));
            let raw = RawIndex::read_from_bytes(&raw).unwrap_or_default();
            Ok((offset, Index::parse(raw, offset, block)?))
        };
        let here = wanted.checked_div(block).unwrap_or(0);
        let mut at = here;
        let (logical, start, compressed) = loop {
            let (offset, found) = index(at)?;
            let back = match found {
                Index::Head { offset: skip, start, compressed } => {
                    let logical = at.saturating_mul(block).saturating_add(skip);
                    if logical <= wanted {
                        break (logical, start, compressed);
                    }
                    1
                }
                Index::Tail { back } => back,
                Index::Second { .. } => 1,
            };
            at = at.checked_sub(back).filter(|at| here.saturating_sub(*at) <= longest).ok_or_else(|| {
                Error::field(part, offset, "delta[0]", back, "the way back to the beginning of a piece")
            })?;
        };
        let (mut blocks, mut end) = (1, size);
        let mut next = at.saturating_add(1);
        while next < total && next.saturating_sub(at) <= longest {
            match index(next)?.1 {
                Index::Head { offset, .. } => {
                    end = end.min(next.saturating_mul(block).saturating_add(offset));
                    break;
                }
                Index::Second { blocks: stored } if next == at.saturating_add(1) => blocks = stored,
                Index::Second { .. } | Index::Tail { .. } => {}
            }
            next = next.saturating_add(1);
        }
        let (length, stored) = (end.saturating_sub(logical), blocks.saturating_mul(block));
        let offset = table.saturating_add(at.saturating_mul(INDEX_LEN));
        for (name, found, most, rule) in [
            ("length of a piece", length, PIECE_MAX, "at most 1 MiB"),
            ("blocks of a piece", stored, PIECE_MAX, "at most 1 MiB"),
            ("content of a stored block", if compressed { 0 } else { length }, stored, "at most the block"),
        ] {
            if found > most {
                return Err(Error::field(part, offset, name, found, rule));
            }
        }
        for (name, found, rule) in [
            ("blocks of a piece", stored, "at least 1"),
            ("end of a piece", end.saturating_sub(wanted), "behind its beginning"),
        ] {
            if found == 0 {
                return Err(Error::field(part, offset, name, found, rule));
            }
        }
        let physical = Some(u64::from(start).saturating_mul(block));
        let compressed =
            compressed.then_some(Compressed { algorithm, length: stored, whole: length, skip: 0 });
        Ok(Extent { logical, length, physical, compressed })
    }

    /// The piece of a file with encoded extents, in records of `LEN` bytes, that holds byte `self.next`.
    fn encoded_piece<const LEN: usize>(&mut self, count: u64, map: u64) -> Result<Extent> {
        let part = Part::PieceMap;
        let record_len = u64::try_from(LEN).unwrap_or(u64::MAX);
        let table = records_start(map, record_len);
        let (wanted, size, mut index) = (self.next, self.inode.size, self.record);
        let offset = |index: u64| table.saturating_add(index.saturating_mul(record_len));
        let mut record = |index: u64| -> Result<RawExtent> {
            let bytes: [u8; LEN] = self.entry(part, table, count, index)?;
            let mut raw = RawExtent::default();
            for (to, from) in raw.as_mut_bytes().iter_mut().zip(bytes) {
                *to = from;
            }
            Ok(raw)
        };
        // Most often the next one is wanted. Else as the kernel does: the last one that begins no later.
        if index >= count || record(index)?.logical() != wanted {
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = low.midpoint(high);
                if record(middle)?.logical() > wanted {
                    high = middle;
                } else {
                    low = middle.saturating_add(1);
                }
            }
            index = low.checked_sub(1).ok_or_else(|| {
                let rule = "0: the first piece begins with the content";
                Error::field(part, offset(0), "lstart", wanted, rule)
            })?;
        }
        let raw = record(index)?;
        let behind = index.saturating_add(1);
        let end = if behind < count { record(behind)?.logical() } else { size };
        let logical = raw.logical();
        if end <= wanted || end > size || logical > wanted {
            let rule = "ascending, and inside the content";
            return Err(Error::field(part, offset(behind), "lstart", end, rule));
        }
        self.record = behind;
        let offset = offset(index);
        let plen = raw.plen.get();
        let (stored, length) = (u64::from(plen & EXTENT_LENGTH_MASK), end.saturating_sub(logical));
        let format = plen >> EXTENT_FORMAT_SHIFT;
        let number = u8::try_from(format).ok().and_then(|format| format.checked_sub(1));
        let algorithm = number.and_then(Algorithm::from_number);
        let rest = plen & !EXTENT_LENGTH_MASK & !(15 << EXTENT_FORMAT_SHIFT);
        if rest != 0 || stored == 0 || raw.reserved != [0; 12] || (format != 0 && algorithm.is_none()) {
            let feature = format!("encoded extent {plen:#010x}");
            return Err(Error::Unsupported { part, offset, feature });
        }
        for (name, found, wrong, rule) in [
            ("length of a piece", length, length > PIECE_MAX, "at most 1 MiB"),
            ("length of an encoded extent", stored, stored > PIECE_MAX, "at most 1 MiB"),
            (
                "length of an encoded extent",
                stored,
                algorithm.is_none() && stored != length,
                "that of its content where it is stored",
            ),
        ] {
            if wrong {
                return Err(Error::field(part, offset, name, found, rule));
            }
        }
        let compressed =
            algorithm.map(|algorithm| Compressed { algorithm, length: stored, whole: length, skip: 0 });
        Ok(Extent { logical, length, physical: Some(raw.physical()), compressed })
    }

    /// What a fragment at byte `offset` of the packed inode has at byte `self.next`.
    fn fragment_piece(&mut self, offset: u64, map: u64) -> Result<Extent> {
        let packed = self.fs.packed_inode()?;
        let size = self.inode.size;
        if offset.checked_add(size).is_none_or(|end| end > packed.size) {
            let problem = Problem::OutOfBounds { start: offset, length: size, limit: packed.size };
            return Err(Error::corrupt(Part::PieceMap, map, problem));
        }
        let at = offset.saturating_add(self.next);
        let left = self.stop.saturating_sub(self.next);
        let pieces = self.packed.get_or_insert_with(|| Box::new(Extents::within(self.fs, packed, at, left)));
        // The maps of packed inodes have no fragments, so this goes no deeper.
        let Some(piece) = pieces.piece()? else {
            let problem = Problem::OutOfBounds { start: at, length: 1, limit: packed.size };
            return Err(Error::corrupt(Part::PieceMap, map, problem));
        };
        let skip = at.saturating_sub(piece.logical);
        let length = piece.length.saturating_sub(skip).min(size.saturating_sub(self.next));
        Ok(Extent {
            logical: self.next,
            length,
            physical: match piece.compressed {
                Some(_) => piece.physical,
                None => piece.physical.map(|start| start.saturating_add(skip)),
            },
            compressed: piece.compressed.map(|compressed| Compressed { skip, ..compressed }),
        })
    }

    /// Block address of chunk `index`; `None` for a hole.
    fn chunk(&mut self, index: u64, indexes: bool, map: u64) -> Result<Option<u32>> {
        let Layout::Chunked { chunk_bits, .. } = self.inode.layout else { return Ok(None) };
        let total = self.inode.size.div_ceil(1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX));
        let part = Part::ChunkMap;
        let address = if indexes {
            let [hi0, hi1, dev0, dev1, a, b, c, d] = self.entry(part, map, total, index)?;
            let address = u32::from_le_bytes([a, b, c, d]);
            let rest = u32::from_le_bytes([hi0, hi1, dev0, dev1]);
            if rest != 0 && address != NULL_ADDR {
                let offset = map.saturating_add(index.saturating_mul(8));
                let rule = "0: one device, 32-bit addresses";
                return Err(Error::field(part, offset, "chunk index", rest.into(), rule));
            }
            address
        } else {
            u32::from_le_bytes(self.entry(part, map, total, index)?)
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
                        let plain = whole.compressed.is_none() && piece.compressed.is_none();
                        let follows = match (whole.physical, piece.physical) {
                            _ if !plain => false,
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
