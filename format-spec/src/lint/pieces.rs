//! Maps of compressed files: the one form that the writer gives them.

use zerocopy::{FromBytes, IntoBytes};

use super::findings::About;
use super::{Lint, first_nonzero};
use crate::erofs::pieces::{
    ENCODED_PIECES_MAX, PIECE_BITS, PIECE_LEN, Piece, compressed_blocks_max, encode_extent, encoded_len_max,
    encoded_map_header, map_header,
};
use crate::erofs::raw::{MAP_HEADER_LEN, RawCompactInode, RawIndex, RawMapHeader};
use crate::erofs::{Algorithm, Extent, FileSystem, Inode};
use crate::{BLOCK_SIZE, Error, Part, ReadAt, Result, blocks_for};

impl Lint<'_> {
    /// Reads a map as the kernel does, and writes it anew from the pieces that were found: the bytes must be the same.
    pub(super) fn check_pieces<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        algorithm: Algorithm,
        map: u64,
    ) -> Result<()> {
        let about = About::Inode(inode.nid);
        self.census.compressed = true;
        if must_be_encoded(fs, inode) {
            self.out.add(Part::PieceMap, map, about, "file has indexes, must have encoded extents");
        }
        if fs.superblock().features.algorithm.is_some_and(|other| other != algorithm) {
            let problem = format!("map is for {}, the superblock names another algorithm", algorithm.name());
            self.out.add(Part::PieceMap, map, about, problem);
        }
        let checked = self.check_indexes(fs, inode, algorithm, map);
        self.out.take(checked, about)?;
        Ok(())
    }

    fn check_indexes<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        algorithm: Algorithm,
        map: u64,
    ) -> Result<()> {
        let about = About::Inode(inode.nid);
        let part = Part::PieceMap;
        let mut head = RawMapHeader::default();
        fs.read(part, head.as_mut_bytes(), map)?;
        if head != map_header(algorithm) {
            self.out.add(part, map, about, "head of the map is not that of mkimg");
        }
        let table = map.saturating_add(MAP_HEADER_LEN.saturating_mul(2));
        for (start, end) in [(inode.body_end(), map), (map.saturating_add(MAP_HEADER_LEN), table)] {
            if let Some(offset) = first_nonzero(fs, start, end)? {
                self.out.add(Part::Slack, offset, about, "byte before the indexes is not zero");
            }
        }
        let (mut stored, mut compressed, mut next) = (0_u64, false, None);
        for piece in Pieces::new(fs, inode) {
            let (logical, piece) = piece?;
            compressed |= !piece.plain;
            if next.is_some_and(|next| next != piece.start) {
                self.out.add(part, map, about, "pieces do not stand one behind the other");
                break;
            }
            next = Some(piece.start.saturating_add(piece.blocks));
            stored = stored.saturating_add(piece.blocks.into());
            if !piece.plain && u64::from(piece.blocks) > compressed_blocks_max(piece.length) {
                let problem = format!("compressed piece at {logical} takes {} blocks", piece.blocks);
                self.out.add(part, map, about, problem);
            }
            let offset = table.saturating_add((logical / BLOCK_SIZE).saturating_mul(8));
            let length = blocks_for(piece.length).saturating_mul(8);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            fs.read(part, &mut bytes, offset)?;
            let found = bytes.as_chunks::<8>().0.iter().map(|raw| RawIndex::read_from_bytes(raw).ok());
            if !found.eq(piece.indexes().map(Some)) {
                let problem = format!("indexes of the piece at {logical} are not those of mkimg");
                self.out.add(part, offset, about, problem);
            }
        }
        if !compressed {
            self.out.add(part, map, about, "no piece of the file is compressed, must be plain");
        }
        self.check_blocks(fs, inode, stored)
    }
}

/// Whether a file that is not empty and has no holes must have encoded extents, as this is an image with such.
pub(super) fn must_be_encoded<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> bool {
    fs.superblock().features.encoded && inode.size.div_ceil(PIECE_LEN) <= ENCODED_PIECES_MAX
}

impl Lint<'_> {
    /// Encoded extents: as with indexes, the map is written anew from what is found.
    pub(super) fn check_encoded<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        piece_bits: u32,
        map: u64,
    ) -> Result<()> {
        let about = About::Inode(inode.nid);
        self.census.compressed = true;
        self.census.encoded = true;
        if piece_bits != PIECE_BITS || inode.size == 0 {
            let problem = format!("encoded extents of {} bytes in pieces of 2^{piece_bits}", inode.size);
            self.out.add(Part::PieceMap, map, about, problem);
            return Ok(());
        }
        let checked = self.check_extents(fs, inode, map);
        self.out.take(checked, about)?;
        Ok(())
    }

    fn check_extents<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, map: u64) -> Result<()> {
        let about = About::Inode(inode.nid);
        let part = Part::PieceMap;
        if let Some(offset) = first_nonzero(fs, inode.body_end(), map)? {
            self.out.add(Part::Slack, offset, about, "byte before the map is not zero");
        }
        let algorithm = fs.superblock().features.algorithm;
        let mut own = encoded_map_header().as_bytes().to_vec();
        let (mut start, mut stored) = (None, 0_u64);
        for logical in (0..inode.size).step_by(1 << PIECE_BITS) {
            let length = PIECE_LEN.min(inode.size.saturating_sub(logical));
            let Some(extent) = fs.extents_within(inode, logical, length).next() else { break };
            let extent = extent?;
            if start.is_none() {
                start = extent.physical;
                own.extend_from_slice(&extent.physical.unwrap_or(0).to_le_bytes());
            }
            let bytes = extent.compressed.map_or(length, |compressed| compressed.length);
            if let Some(compressed) = extent.compressed {
                if algorithm != Some(compressed.algorithm) {
                    self.out.add(part, map, about, "map is for another algorithm than the superblock");
                }
                if bytes > encoded_len_max(length) {
                    let problem = format!("compressed piece at {logical} takes {bytes} bytes");
                    self.out.add(part, map, about, problem);
                }
            }
            let algorithm = extent.compressed.map(|compressed| compressed.algorithm);
            let record = encode_extent(algorithm, u32::try_from(bytes).unwrap_or(u32::MAX));
            own.extend_from_slice(&record.to_le_bytes());
            stored = stored.saturating_add(bytes);
        }
        let mut found = vec![0; own.len()];
        fs.read(part, &mut found, map)?;
        if found != own {
            self.out.add(part, map, about, "map of encoded extents is not that of mkimg");
        }
        self.check_blocks(fs, inode, blocks_for(stored))
    }

    /// `i_u` of a compressed inode: the number of its stored blocks.
    fn check_blocks<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, stored: u64) -> Result<()> {
        let mut raw = RawCompactInode::default();
        fs.read(Part::Inode, raw.as_mut_bytes(), inode.offset)?;
        if u64::from(raw.i_u.get()) != stored {
            let problem = format!("i_u is {}, the pieces take {stored} blocks", raw.i_u.get());
            self.out.add(Part::Inode, inode.offset, About::Inode(inode.nid), problem);
        }
        Ok(())
    }
}

/// The pieces of a file with their places in it, those that are stored as they are put together again from their
/// blocks.
struct Pieces<'a, R> {
    fs: &'a FileSystem<R>,
    inode: &'a Inode,
    next: u64,
}

impl<'a, R: ReadAt> Pieces<'a, R> {
    const fn new(fs: &'a FileSystem<R>, inode: &'a Inode) -> Self {
        Self { fs, inode, next: 0 }
    }

    fn piece(&mut self) -> Result<Piece> {
        let logical = self.next;
        let length = PIECE_LEN.min(self.inode.size.saturating_sub(logical));
        let wrong = |found, rule| {
            Err(Error::field(Part::PieceMap, self.inode.offset, "beginning of a piece", found, rule))
        };
        // Blocks that follow each other in the image come as one.
        let Some(extent) = self.fs.extents_within(self.inode, logical, length).next() else {
            return wrong(logical, "inside the file");
        };
        let Extent { logical: found, length: extent_len, physical, compressed } = extent?;
        let whole = match compressed {
            Some(_) => extent_len == length,
            None => extent_len >= length,
        };
        if found != logical || !whole {
            return wrong(found, "a multiple of the length of pieces");
        }
        let block = |bytes: u64| u32::try_from(bytes.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        self.next = logical.saturating_add(length);
        Ok(Piece {
            start: block(physical.unwrap_or(0)),
            blocks: block(compressed.map_or(length, |compressed| compressed.length)),
            length,
            plain: compressed.is_none(),
        })
    }
}

impl<R: ReadAt> Iterator for Pieces<'_, R> {
    type Item = Result<(u64, Piece)>;

    fn next(&mut self) -> Option<Self::Item> {
        let logical = self.next;
        if logical >= self.inode.size {
            return None;
        }
        let piece = self.piece();
        if piece.is_err() {
            self.next = u64::MAX;
        }
        Some(piece.map(|piece| (logical, piece)))
    }
}
