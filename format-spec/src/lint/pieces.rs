//! Maps of compressed files: the one form that the writer gives them.

use zerocopy::{FromBytes, IntoBytes};

use super::findings::About;
use super::{Lint, first_nonzero};
use crate::erofs::pieces::{
    PIECE_LEN, Piece, compressed_blocks_max, encode_extent, encoded_len_max, encoded_map_end,
    encoded_map_header, map_header, piece_len, record_len, records_start,
};
use crate::erofs::raw::{MAP_HEADER_LEN, RawCompactInode, RawExtent, RawIndex, RawMapHeader};
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
        if fs.superblock().features.encoded {
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
            if next.is_some_and(|next| next != piece.start) && !is_packed_inode(fs, inode) {
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
        if !compressed && !is_packed_inode(fs, inode) {
            self.out.add(part, map, about, "no piece of the file is compressed, must be plain");
        }
        self.check_blocks(fs, inode, stored)
    }
}

/// Whether an inode is the one that holds fragments.
pub(super) fn is_packed_inode<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> bool {
    fs.superblock().packed == Some(inode.nid)
}

impl Lint<'_> {
    /// Encoded extents: as with indexes, the map is written anew from what is found.
    pub(super) fn check_encoded<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        map: u64,
    ) -> Result<()> {
        let about = About::Inode(inode.nid);
        self.census.compressed = true;
        self.census.encoded = true;
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
        let head = encoded_map_header(inode.size);
        let record_len = record_len(inode.size);
        let (table, end) = (records_start(map, record_len), encoded_map_end(map, inode.size));
        let mut found = RawMapHeader::default();
        fs.read(part, found.as_mut_bytes(), map)?;
        if found != head || inode.unit_end() != end {
            self.out.add(part, map, about, "head of the map is not that of mkimg");
            return Ok(());
        }
        if let Some(offset) = first_nonzero(fs, map.saturating_add(MAP_HEADER_LEN), table)? {
            self.out.add(Part::Slack, offset, about, "byte before the records is not zero");
        }
        let (mut logical, mut stored, mut next) = (0, 0_u64, None);
        let mut offset = table;
        while logical < inode.size {
            let length = piece_len(inode.size.saturating_sub(logical));
            let Some(extent) = fs.extents_within(inode, logical, length).next() else { break };
            let extent = extent?;
            let start = extent.physical.unwrap_or(0);
            if next.is_some_and(|next| next != start) && !is_packed_inode(fs, inode) {
                self.out.add(part, map, about, "pieces do not stand one behind the other");
                break;
            }
            let bytes = extent.compressed.map_or(length, |compressed| compressed.length);
            next = Some(start.saturating_add(bytes));
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
            let own = encode_extent(algorithm, logical, start, u32::try_from(bytes).unwrap_or(u32::MAX));
            let mut found = RawExtent::default();
            let room = usize::try_from(record_len).unwrap_or(0);
            fs.read(part, found.as_mut_bytes().get_mut(..room).unwrap_or_default(), offset)?;
            if found != own {
                let problem = format!("record of the piece at {logical} is not that of mkimg");
                self.out.add(part, offset, about, problem);
                break;
            }
            stored = stored.saturating_add(bytes);
            logical = logical.saturating_add(length);
            offset = offset.saturating_add(record_len);
        }
        self.check_blocks(fs, inode, blocks_for(stored))
    }

    /// A file in the packed inode.
    pub(super) fn check_fragment<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        map: u64,
    ) -> Result<()> {
        let about = About::Inode(inode.nid);
        self.census.compressed = true;
        self.shared = true;
        if inode.size == 0 || inode.size >= PIECE_LEN {
            let problem =
                format!("{} bytes are in the packed inode, must have a place of their own", inode.size);
            self.out.add(Part::PieceMap, map, about, problem);
        }
        if fs.superblock().packed.is_none() {
            self.out.add(Part::PieceMap, map, about, "file is in the packed inode, and there is none");
        }
        let zeros = first_nonzero(fs, inode.body_end(), map);
        if let Some(offset) = self.out.take(zeros, about)?.flatten() {
            self.out.add(Part::Slack, offset, about, "byte before the map is not zero");
        }
        let blocks = self.check_blocks(fs, inode, blocks_for(inode.size));
        self.out.take(blocks, about)?;
        Ok(())
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
        let length = piece_len(self.inode.size.saturating_sub(logical));
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
