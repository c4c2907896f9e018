//! Distinct contents of an image, and where they are stored.
//!
//! Every distinct content is stored once, in the order of its first visible copy in the source (layer, then position),
//! so that the copy reads each layer once and front to back. What a trace names stands before all that, in its order.

use mkimg_format::erofs::TAIL_MAX;
use mkimg_format::erofs::pieces::{PIECE_LEN, piece_len};
use mkimg_format::erofs::raw::NULL_ADDR;
use mkimg_format::{BLOCK_SIZE, blocks_for};

use crate::entry::XattrSet;
use crate::error::Result;
use crate::flatten::Flat;
use crate::plan::{block_address, breadth_first};
use crate::scan::{Run, for_each_run};
use crate::tree::{InodeId, Node};

/// "No content": not a regular file.
pub(crate) const NO_CONTENT: u32 = u32::MAX;

/// Chunks that one map may have before larger chunks are used: bounds metadata of huge sparse files.
pub(crate) const CHUNKS_MAX: u64 = 1 << 16;

/// One distinct content.
#[derive(Debug)]
pub(crate) struct Content {
    /// Layer and file that it is copied from.
    pub layer: u32,
    pub file: u32,
    pub size: u64,
    /// For content with holes.
    pub chunks: Option<Chunks>,
    /// Whether several inodes have it.
    pub several: bool,
    /// Whether one of them has xattrs.
    pub xattrs: bool,
}

/// Map of a sparse content.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// log2 of blocks in a chunk.
    pub bits: u32,
    /// Of each chunk the block, counted from the first one of the content, or [`NULL_ADDR`].
    pub map: Box<[u32]>,
}

/// Where a content is.
#[derive(Debug)]
pub(crate) struct Stored {
    /// First byte in the image, or in the packed inode; meaningless if it is empty.
    pub start: u64,
    pub form: Form,
}

/// How a content is stored.
#[derive(Debug)]
pub(crate) enum Form {
    /// As it is, in blocks of its own.
    Plain,
    /// In pieces that take so many blocks each.
    Indexed(Box<[u16]>),
    /// In pieces that take so many bytes each, with nothing between them and between contents.
    Encoded(Box<[u32]>),
    /// In blocks that others may have as well: the address of each, or [`NULL_ADDR`] for zeros.
    Mapped(Box<[u32]>),
    /// In the packed inode.
    Fragment,
    /// As it is, in blocks of its own but for its last bytes, which wait here: they stand behind its inode.
    Tail(Box<[u8]>),
}

/// The inode that holds all small contents, one behind the other.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Bytes of these contents.
    pub size: u64,
    /// Whether its pieces fill blocks.
    pub indexed: bool,
    /// First byte in the image and stored length of each piece.
    pub pieces: Vec<(u64, u32)>,
}

impl Stored {
    pub(crate) const fn is_compressed(&self) -> bool {
        matches!(self.form, Form::Indexed(_) | Form::Encoded(_) | Form::Fragment)
    }

    /// Number of the first block.
    pub(crate) fn block(&self) -> u32 {
        // Places are checked to be such that 32 bits number their blocks.
        u32::try_from(self.start / BLOCK_SIZE).unwrap_or(NULL_ADDR)
    }
}

/// Where all contents are.
pub(crate) struct Data {
    /// In the order of [`Contents::list`].
    pub stored: Vec<Stored>,
    /// Where there are [`Form::Fragment`]s.
    pub packed: Option<Packed>,
    /// First block behind them.
    pub end: u64,
}

/// Distinct contents in layout order.
pub(crate) struct Contents {
    pub list: Vec<Content>,
    /// How many of them stand first because a trace names their files, in another order than in the source.
    pub hot: usize,
    /// How many stand there instead of where the source has them: those, and what fills up their last piece.
    pub led: usize,
    /// Index of the content of each inode.
    of: Vec<u32>,
}

impl Contents {
    /// Finds the contents of a tree. Sparse ones stay sparse, in as many chunks as a map may have; with 0 they do not.
    pub(crate) fn gather(flat: &Flat, chunks_max: u64) -> Self {
        // (layer, file, inode), sorted: the order in which the source has them.
        let mut files: Vec<(u32, u32, InodeId)> = breadth_first(flat)
            .into_iter()
            .filter_map(|id| match flat.tree.inode(id) {
                crate::tree::Inode { node: Node::File(file), layer, .. } => Some((*layer, *file, id)),
                _ => None,
            })
            .collect();
        files.sort_unstable();
        let first = first_copies(flat, &files);
        let mut contents: Vec<Content> = Vec::new();
        let mut content_of = vec![NO_CONTENT; flat.tree.slots()];
        for (index, (layer, file, id)) in files.iter().copied().enumerate() {
            let Some(data) = flat.file(layer, file) else { continue };
            let copy_of = first.get(index).map_or(index, |first| *first as usize);
            if copy_of != index {
                let original = files.get(copy_of).map_or(id, |(_, _, id)| *id);
                let content = content_of[original.0 as usize];
                content_of[id.0 as usize] = content;
                if let Some(content) = contents.get_mut(content as usize) {
                    content.several = true;
                }
                continue;
            }
            let xattrs = flat.tree.inode(id).attributes.xattrs != XattrSet::NONE;
            let segments = data.segments().filter(|_| chunks_max > 0);
            let chunks = segments.and_then(|segments| chunk_map(data.size, segments, chunks_max));
            content_of[id.0 as usize] = u32::try_from(contents.len()).unwrap_or(NO_CONTENT);
            contents.push(Content { layer, file, size: data.size, chunks, several: false, xattrs });
        }
        Self { list: contents, hot: 0, led: 0, of: content_of }
    }

    /// Puts the contents of these files first, in this order; the others stay in theirs. What has no bytes has no place
    /// either.
    ///
    /// With `packed`, small contents share pieces. Then the next small ones follow at once, as many as it takes to fill
    /// the last piece of those that come first: it would else stand where it gets full, far behind.
    pub(crate) fn lead_with(&mut self, files: &[InodeId], packed: bool) {
        let mut place = vec![NO_CONTENT; self.list.len()];
        let mut next = 0;
        for id in files {
            let index = self.of(*id) as usize;
            let Some(place) = place.get_mut(index).filter(|place| **place == NO_CONTENT) else { continue };
            if self.list.get(index).is_some_and(|content| content.size > 0) {
                *place = next;
                next += 1;
            }
        }
        self.hot = next as usize;
        let mut missing = if packed { self.missing_in_piece(&place) } else { 0 };
        for (content, place) in self.list.iter().zip(&mut place) {
            if missing > 0 && *place == NO_CONTENT && content.is_small() {
                missing = missing.saturating_sub(content.size);
                *place = next;
                next += 1;
            }
        }
        self.led = next as usize;
        for place in place.iter_mut().filter(|place| **place == NO_CONTENT) {
            *place = next;
            next += 1;
        }
        for of in &mut self.of {
            *of = place.get(*of as usize).copied().unwrap_or(NO_CONTENT);
        }
        let mut placed: Vec<(u32, Content)> = place.into_iter().zip(self.list.drain(..)).collect();
        placed.sort_unstable_by_key(|(place, _)| *place);
        self.list.extend(placed.into_iter().map(|(_, content)| content));
    }

    /// Bytes of small contents that fill the last piece of those which have a place already.
    fn missing_in_piece(&self, place: &[u32]) -> u64 {
        let small = || self.list.iter().zip(place).filter(|(content, _)| content.is_small());
        let all: u64 = small().map(|(content, _)| content.size).sum();
        let hot: u64 =
            small().filter(|(_, place)| **place != NO_CONTENT).map(|(content, _)| content.size).sum();
        let mut end = 0;
        while end < hot {
            end += piece_len(all - end);
        }
        end - hot
    }

    /// The content of an inode, or [`NO_CONTENT`].
    pub(crate) fn of(&self, id: InodeId) -> u32 {
        self.of.get(id.0 as usize).copied().unwrap_or(NO_CONTENT)
    }

    /// Their places from block 1 on when none is compressed.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) when block addresses do not reach so far.
    pub(crate) fn plain(&self) -> Result<Data> {
        let mut end = 1;
        let place = |content: &Content| {
            let start = end * BLOCK_SIZE;
            end += content.blocks();
            Stored { start, form: Form::Plain }
        };
        let stored = self.list.iter().map(place).collect();
        block_address(end)?;
        Ok(Data { stored, packed: None, end })
    }
}

impl Packed {
    /// Length of its inode without the map.
    pub(crate) fn inode_len(&self) -> u64 {
        if u32::try_from(self.size).is_ok() { 32 } else { 64 }
    }
}

impl Content {
    /// Whether it is shorter than a piece, so that it is better compressed together with others.
    pub(crate) const fn is_small(&self) -> bool {
        self.chunks.is_none() && self.size > 0 && self.size < PIECE_LEN
    }

    /// Length of its tail, if that may stand behind its inode: it is short, nobody else needs it, and it fits.
    pub(crate) fn tail(&self) -> Option<usize> {
        let tail = self.size % BLOCK_SIZE;
        let may = self.is_small() && !self.several && !self.xattrs && (1..=TAIL_MAX).contains(&tail);
        usize::try_from(tail).ok().filter(|_| may)
    }

    /// Blocks it takes uncompressed.
    pub(crate) fn blocks(&self) -> u64 {
        match &self.chunks {
            None => blocks_for(self.size),
            Some(chunks) => chunks.blocks(self.size),
        }
    }
}

/// For each file the position of the first one with the same content.
///
/// Sorted positions instead of a hash table: a tenth of the memory, and images have millions of files.
fn first_copies(flat: &Flat, files: &[(u32, u32, InodeId)]) -> Vec<u32> {
    let key = |index: &u32| {
        let (layer, file, _) = files[*index as usize];
        flat.file(layer, file).map(|data| (&data.blake3, data.size))
    };
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let mut by_content: Vec<u32> = (0..count).collect();
    by_content.sort_unstable_by(|a, b| key(a).cmp(&key(b)).then(a.cmp(b)));
    let mut first: Vec<u32> = (0..count).collect();
    for copies in by_content.chunk_by(|a, b| key(a) == key(b)) {
        for copy in copies {
            first[*copy as usize] = copies[0];
        }
    }
    first
}

impl Chunks {
    /// Blocks in one full chunk.
    pub(crate) const fn chunk_blocks(&self) -> u64 {
        1 << self.bits
    }

    /// Blocks of chunk `index` of a file of `size` bytes: fewer in the last one.
    pub(crate) fn blocks_of(&self, index: usize, size: u64) -> u64 {
        self.chunk_blocks().min(blocks_for(size) - index as u64 * self.chunk_blocks())
    }

    /// Blocks of all chunks that are there.
    fn blocks(&self, size: u64) -> u64 {
        let there = self.map.iter().enumerate().filter(|(_, address)| **address != NULL_ADDR);
        there.map(|(index, _)| self.blocks_of(index, size)).sum()
    }
}

/// The chunk map of a sparse file; `None` when no whole chunk would be a hole.
fn chunk_map(size: u64, segments: &[crate::tar::Segment], chunks_max: u64) -> Option<Chunks> {
    let blocks = blocks_for(size);
    let bits = (0..31).find(|bits| blocks.div_ceil(1 << bits) <= chunks_max)?;
    let chunk = BLOCK_SIZE << bits;
    let mut used = vec![false; usize::try_from(size.div_ceil(chunk)).ok()?];
    let mut at = 0;
    let marked: std::result::Result<(), ()> = for_each_run(size, Some(segments), |run| {
        match run {
            Run::Hole(length) => at += length,
            Run::Data(length) => {
                let end = at + length;
                let last = usize::try_from(end.div_ceil(chunk)).map_err(|_| ())?;
                let first = usize::try_from(at / chunk).map_err(|_| ())?;
                used.get_mut(first..last).ok_or(())?.fill(true);
                at = end;
            }
        }
        Ok(())
    });
    marked.ok()?;
    if used.iter().all(|used| *used) {
        return None;
    }
    let mut next = 0_u64;
    let map = used
        .into_iter()
        .enumerate()
        .map(|(index, used)| {
            if !used {
                return NULL_ADDR;
            }
            let address = u32::try_from(next).unwrap_or(NULL_ADDR);
            next += (1 << bits).min(blocks - index as u64 * (1 << bits));
            address
        })
        .collect();
    Some(Chunks { bits, map })
}
