//! Compressed files: the map that says which piece of the content is where.
//!
//! Content is cut into *pieces* of [`PIECE_LEN`] bytes, see [`piece_len`], and each is compressed alone. A piece that
//! shrinks to fewer blocks takes these, its stream at their end and zeros before; any other is stored as it is. All
//! pieces of a file stand one behind the other. The map has an index for each block of content (`COMPRESSED_FULL` of
//! the kernel):
//!
//! ```text
//! compressed piece of n blocks in m    HEAD(address) NONHEAD(BLOCKS|m, n-1) NONHEAD(2, n-2) ... NONHEAD(n-1, 1)
//! piece that is stored as it is        PLAIN(address) PLAIN(address+1) ...
//! ```
//!
//! Where the last piece is compressed and does not end with a block of content, the index of that block is a `PLAIN`
//! one at the end of the content: the kernel takes the beginning of the next piece for the end of one.
//!
//! Since Linux 6.15 there is a form that needs neither blocks nor indexes: *encoded extents*. The pieces of a file stand
//! byte behind byte, and its map has a record for each, in which the kernel searches.
//!
//! Since Linux 6.1 files that are shorter than a piece need no pieces of their own: they are *fragments* of the *packed
//! inode*, a file without a name that holds them one behind the other, and that is compressed like any other.

use std::ops::Range;

use zerocopy::IntoBytes as _;

use super::raw::{
    ADVISE_BIG_PCLUSTER_1, ADVISE_BIG_PCLUSTER_2, ADVISE_EXTENTS, ADVISE_RECORD_SHIFT, EXTENT_FORMAT_SHIFT,
    EXTENT_LENGTH_MASK, FRAGMENT_INODE, INDEX_BLOCKS, INDEX_HEAD, INDEX_LEN, INDEX_NONHEAD, INDEX_PLAIN,
    MAP_HEADER_LEN, RawExtent, RawIndex, RawMapHeader,
};
use super::{Algorithm, Inode, Layout};
use crate::{BLOCK_SIZE, Error, Part, Problem, Result, blocks_for};

/// Bytes of content that are compressed together.
///
/// A longer piece takes less space, and more time when little of it is wanted.
pub const PIECE_LEN: u64 = 256 << 10;

/// Length of the longest piece: less than half a piece is no piece of its own, but makes the one before it longer.
pub const PIECE_LEN_MAX: u64 = PIECE_LEN + PIECE_LEN / 2 - 1;

/// Length of a piece behind whose beginning there are `left` bytes of content.
#[must_use]
pub const fn piece_len(left: u64) -> u64 {
    if left > PIECE_LEN_MAX { PIECE_LEN } else { left }
}

/// Number of pieces of `size` bytes of content.
#[must_use]
pub const fn piece_count(size: u64) -> u64 {
    let whole = size / PIECE_LEN;
    let rest = size % PIECE_LEN;
    if whole > 0 && rest < PIECE_LEN / 2 { whole } else { whole.saturating_add((rest > 0) as u64) }
}

/// Longest piece that is read, in bytes of content and in stored bytes. Other writers may have longer ones.
pub(crate) const PIECE_MAX: u64 = 1 << 20;

/// Most blocks that a compressed piece of `length` bytes may take; it is stored as it is if it needs more.
///
/// Gains below a thirty-second are not worth the time it takes to undo them.
#[must_use]
pub const fn compressed_blocks_max(length: u64) -> u64 {
    let blocks = blocks_for(length);
    let gain = blocks / 32;
    blocks.saturating_sub(if gain > 1 { gain } else { 1 })
}

/// Length of the part of a unit that is the map: from its head to its last index.
#[must_use]
pub const fn map_len(size: u64) -> u64 {
    MAP_HEADER_LEN.saturating_mul(2).saturating_add(blocks_for(size).saturating_mul(INDEX_LEN))
}

/// Most bytes that a compressed piece of `length` bytes may take where it need not fill blocks; it is stored as it is
/// if it needs more.
#[must_use]
pub const fn encoded_len_max(length: u64) -> u64 {
    length.saturating_sub(length / 32).saturating_sub(1)
}

/// Length of a record of encoded extents of a file of `size` bytes: the short form reaches as far as 32 bits do.
#[must_use]
pub const fn record_len(size: u64) -> u64 {
    if size > u32::MAX as u64 { RECORD_LEN_MAX } else { RECORD_LEN_MAX / 2 }
}

/// Length of a record without limits.
const RECORD_LEN_MAX: u64 = 32;
const _: () = assert!(size_of::<RawExtent>() as u64 == RECORD_LEN_MAX);

/// Where the records of encoded extents start behind a head at byte `map`.
#[must_use]
pub const fn records_start(map: u64, record_len: u64) -> u64 {
    match map.saturating_add(MAP_HEADER_LEN).checked_next_multiple_of(record_len) {
        Some(start) => start,
        None => u64::MAX,
    }
}

/// Byte behind a map of encoded extents of a file of `size` bytes, the head of which is at byte `map`.
#[must_use]
pub const fn encoded_map_end(map: u64, size: u64) -> u64 {
    let record_len = record_len(size);
    records_start(map, record_len).saturating_add(piece_count(size).saturating_mul(record_len))
}

/// Head of a map of encoded extents of a file of `size` bytes.
#[must_use]
pub fn encoded_map_header(size: u64) -> RawMapHeader {
    let code: u16 = if record_len(size) == RECORD_LEN_MAX { 3 } else { 2 };
    let [a, b, c, d, high, higher, ..] = piece_count(size).to_le_bytes();
    RawMapHeader {
        h_fragmentoff: u32::from_le_bytes([a, b, c, d]).into(),
        h_advise: (ADVISE_EXTENTS | (code << ADVISE_RECORD_SHIFT)).into(),
        h_algorithmtype: high,
        h_clusterbits: higher,
    }
}

/// Record of the piece that begins at byte `logical` of a file and takes `length` bytes from byte `start` of the image
/// on; without an algorithm it is stored as it is. The first [`record_len`] bytes of it stand in the map.
#[must_use]
pub fn encode_extent(algorithm: Option<Algorithm>, logical: u64, start: u64, length: u32) -> RawExtent {
    let format = algorithm.map_or(0, |algorithm| u32::from(algorithm.number()).saturating_add(1));
    let halves = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]).into(), u32::from_le_bytes([e, f, g, h]).into())
    };
    let ((pstart_lo, pstart_hi), (lstart_lo, lstart_hi)) = (halves(start), halves(logical));
    let plen = ((format << EXTENT_FORMAT_SHIFT) | (length & EXTENT_LENGTH_MASK)).into();
    RawExtent { plen, pstart_lo, pstart_hi, lstart_lo, lstart_hi, reserved: [0; 12] }
}

/// What stands in place of a map where the content is a fragment: its offset in the packed inode, and a mark.
#[must_use]
pub fn fragment_map(offset: u64) -> [u8; 8] {
    (offset | FRAGMENT_INODE).to_le_bytes()
}

/// Head of a map with indexes.
#[must_use]
pub fn map_header(algorithm: Algorithm) -> RawMapHeader {
    RawMapHeader {
        h_fragmentoff: 0.into(),
        h_advise: ADVISE_BIG_PCLUSTER_1.into(),
        h_algorithmtype: algorithm.number(),
        h_clusterbits: 0,
    }
}

/// One piece, as its indexes tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Block of the image where it starts.
    pub start: u32,
    /// Blocks of the image that it takes.
    pub blocks: u32,
    /// Bytes of content.
    pub length: u64,
    /// Whether it is stored as it is.
    pub plain: bool,
}

impl Piece {
    /// Its indexes.
    pub fn indexes(self) -> impl Iterator<Item = RawIndex> {
        let narrow = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        let whole = self.length / BLOCK_SIZE;
        (0..blocks_for(self.length)).map(move |at| {
            let address = |block: u32| {
                let [a, b, c, d] = block.to_le_bytes();
                [[a, b].into(), [c, d].into()]
            };
            let (kind, offset, di_u) = if self.plain {
                let block = self.start.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
                (INDEX_PLAIN, 0, address(block))
            } else if at == 0 {
                (INDEX_HEAD, 0, address(self.start))
            } else if at == whole {
                (INDEX_PLAIN, narrow(self.length % BLOCK_SIZE), address(0))
            } else {
                let back = if at == 1 {
                    INDEX_BLOCKS | narrow(self.blocks.into())
                } else {
                    narrow(at).min(INDEX_BLOCKS.saturating_sub(1))
                };
                (INDEX_NONHEAD, 0, [back.into(), narrow(whole.saturating_sub(at)).into()])
            };
            RawIndex { di_advise: kind.into(), di_clusterofs: offset.into(), di_u }
        })
    }
}

/// An index, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    /// A piece begins in its block of content.
    Head {
        /// Byte in the block.
        offset: u64,
        /// Block address.
        start: u32,
        compressed: bool,
    },
    /// The piece begins so many blocks before.
    Tail { back: u64 },
    /// The piece begins with the block before, and takes so many blocks of the image.
    Second { blocks: u64 },
}

impl Index {
    /// Checks the index at byte `offset` of the image.
    pub(super) fn parse(raw: RawIndex, offset: u64, block_size: u64) -> Result<Self> {
        let part = Part::PieceMap;
        let kind = raw.di_advise.get();
        let cluster_offset = u64::from(raw.di_clusterofs.get());
        if cluster_offset >= block_size {
            return Err(Error::field(part, offset, "di_clusterofs", cluster_offset, "inside a block"));
        }
        let [low, high] = raw.di_u;
        match kind {
            INDEX_PLAIN | INDEX_HEAD => {
                let start = u32::from(low.get()) | (u32::from(high.get()) << 16);
                Ok(Self::Head { offset: cluster_offset, start, compressed: kind == INDEX_HEAD })
            }
            INDEX_NONHEAD if low.get() & INDEX_BLOCKS != 0 => {
                Ok(Self::Second { blocks: (low.get() & !INDEX_BLOCKS).into() })
            }
            INDEX_NONHEAD if low.get() > 0 => Ok(Self::Tail { back: low.get().into() }),
            INDEX_NONHEAD => Err(Error::field(part, offset, "delta[0]", 0, "at least 1")),
            _ => {
                let feature = format!("index type {kind:#x}");
                Err(Error::Unsupported { part, offset, feature })
            }
        }
    }
}

impl Layout {
    /// The layout of a compressed inode by the head of its map, which is at byte `at`.
    pub(super) fn compressed(header: RawMapHeader, at: u64) -> Result<Self> {
        let part = Part::PieceMap;
        let unsupported = |feature: String| Err(Error::Unsupported { part, offset: at, feature });
        let whole = header.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if whole & FRAGMENT_INODE != 0 {
            return Ok(Self::Fragment { offset: whole ^ FRAGMENT_INODE, map: at });
        }
        let advise = header.h_advise.get();
        if advise & ADVISE_EXTENTS != 0 {
            let record_len = match advise ^ ADVISE_EXTENTS {
                0b100 => 16,
                0b110 => 32,
                _ => return unsupported(format!("h_advise {advise:#x} of a compressed inode")),
            };
            let count = u64::from(header.h_fragmentoff.get())
                | u64::from(header.h_algorithmtype) << 32
                | u64::from(header.h_clusterbits) << 40;
            return Ok(Self::Encoded { record_len, count, map: at });
        }
        if advise & !(ADVISE_BIG_PCLUSTER_1 | ADVISE_BIG_PCLUSTER_2) != 0 || header.h_fragmentoff.get() != 0 {
            return unsupported(format!("h_advise {advise:#x} of a compressed inode"));
        }
        if header.h_clusterbits != 0 {
            return unsupported(format!("h_clusterbits {:#x} of a compressed inode", header.h_clusterbits));
        }
        let number = header.h_algorithmtype & 15;
        let Some(algorithm) = Algorithm::from_number(number) else {
            return unsupported(format!("compression algorithm {number}"));
        };
        Ok(Self::Compressed { algorithm, map: at })
    }
}

impl Inode {
    /// Bytes of the image where the map of a compressed inode tells of `length` bytes of content from `offset` on: its
    /// indexes, or all encoded extents, which are searched.
    #[must_use]
    pub fn map_part(&self, offset: u64, length: u64) -> Range<u64> {
        match self.layout {
            Layout::Compressed { map, .. } => {
                let table = map.saturating_add(MAP_HEADER_LEN.saturating_mul(2));
                let index = |block: u64| table.saturating_add(block.saturating_mul(INDEX_LEN));
                index(offset / BLOCK_SIZE)..index(blocks_for(offset.saturating_add(length)))
            }
            Layout::Encoded { map, .. } => map..self.unit_end(),
            _ => 0..0,
        }
    }

    /// Checks that the map of a compressed inode lies in the image.
    pub(super) fn check_map(&self, map: u64, length: u64, limit: u64) -> Result<()> {
        if map.checked_add(length).is_none_or(|end| end > limit) {
            let problem = Problem::OutOfBounds { start: map, length, limit };
            return Err(Error::corrupt(Part::PieceMap, self.offset, problem));
        }
        Ok(())
    }
}

const _: () = assert!(PIECE_LEN_MAX <= PIECE_MAX);

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::hex;

    /// The maps of `mkfs.erofs -zALGORITHM -C131072 -Elegacy-compress -T0` 1.8.6 for files of words, some 75 % of
    /// whose blocks are left.
    #[test]
    fn golden_maps() {
        let tail: &[_] = &[
            "0100000001000000",
            "0200000004080400",
            "0200000002000300",
            "0200000003000200",
            "0200000004000100",
            "0000880300000000",
        ];
        let deflate: &[_] = &[
            "0100000001000000",
            "0200000003080400",
            "0200000002000300",
            "0200000003000200",
            "0200000004000100",
            "0000880300000000",
        ];
        for (length, blocks, expected) in
            [(5 * 4096 + 904, 4, tail), (5 * 4096, 4, &tail[..5]), (5 * 4096 + 904, 3, deflate)]
        {
            let piece = Piece { start: 1, blocks, length, plain: false };
            let found: Vec<_> = piece.indexes().map(|index| hex(index.as_bytes())).collect();
            assert_eq!(found, expected, "{length} bytes");
        }
        assert_eq!(hex(map_header(Algorithm::Zstd).as_bytes()), "0000000002000300");
        assert_eq!(hex(map_header(Algorithm::Deflate).as_bytes()), "0000000002000200");
    }

    /// A map of `mkfs.erofs -zlz4 -C65536 -Eall-fragments,48bit` 1.9.3 for the packed inode. Its head has 0x10 more in
    /// `h_advise`, as stored pieces are of another kind there, and the padding behind it is not zero.
    #[test]
    fn golden_extents() {
        let map = [
            (0, 0x1000, 0x1_0000, "00000110001000000000000000000000"),
            (0x1_aa51, 0x1_1000, 0x1_0000, "0000011000100100000000 0051aa0100"),
            (0x3_5435, 0x2_1000, 0xf000, "00f0001000100200000000 0035540300"),
        ];
        for (logical, start, length, expected) in map {
            let found = encode_extent(Some(Algorithm::Lz4), logical, start, length);
            assert_eq!(hex(&found.as_bytes()[..16]), expected.replace(' ', ""));
            assert_eq!(found.as_bytes()[16..], [0; 16]);
            assert_eq!((found.logical(), found.physical()), (logical, start));
        }
        assert_eq!(hex(encoded_map_header(3 * PIECE_LEN).as_bytes()), "0300000005000000");
        // And one of its files.
        assert_eq!(fragment_map(0x3_47d8), [0xd8, 0x47, 3, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn long_files_have_long_records() {
        let size = 1 << 32;
        assert_eq!((record_len(size - 1), record_len(size)), (16, 32));
        assert_eq!(hex(encoded_map_header(size).as_bytes()), "0040000007000000");
        assert_eq!(hex(encoded_map_header(1 << 52).as_bytes()), "0000000007000400");
        assert_eq!((records_start(40, 16), records_start(40, 32), records_start(24, 32)), (48, 64, 32));
        assert_eq!(encoded_map_end(40, size), 64 + 0x4000 * 32);
        let record = encode_extent(None, 0x1_2345_6789, 0x2_3456_789a, 5);
        assert_eq!(hex(&record.as_bytes()[..20]), "050000009a785634020000008967452301000000");
    }

    #[test]
    fn pieces_cover_a_content() {
        let half = PIECE_LEN / 2;
        for (size, expected) in [
            (1, vec![1]),
            (PIECE_LEN, vec![PIECE_LEN]),
            (PIECE_LEN_MAX, vec![PIECE_LEN_MAX]),
            (PIECE_LEN + half, vec![PIECE_LEN, half]),
            (2 * PIECE_LEN + 1, vec![PIECE_LEN, PIECE_LEN + 1]),
            (3 * PIECE_LEN - 1, vec![PIECE_LEN, PIECE_LEN, PIECE_LEN - 1]),
        ] {
            let (mut left, mut found) = (size, Vec::new());
            while left > 0 {
                found.push(piece_len(left));
                left -= piece_len(left);
            }
            assert_eq!(found, expected, "{size} bytes");
            assert_eq!(piece_count(size), found.len() as u64, "{size} bytes");
        }
        assert_eq!(piece_count(0), 0);
    }

    #[test]
    fn stored_pieces_have_a_head_for_each_block() {
        let piece = Piece { start: 0x1_ffff, blocks: 3, length: 8193, plain: true };
        let found: Vec<_> = piece.indexes().map(|index| hex(index.as_bytes())).collect();
        assert_eq!(found, ["00000000ffff0100", "0000000000000200", "0000000001000200"]);
    }

    #[test]
    fn only_pieces_that_gain_are_compressed() {
        for (length, blocks) in
            [(1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (1 << 17, 31), (1 << 18, 62), (1 << 20, 248)]
        {
            assert_eq!(compressed_blocks_max(length), blocks, "{length} bytes");
        }
    }
}
