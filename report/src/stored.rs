//! What contents take in the image.
//!
//! That is what the image grows by: blocks where content stands in blocks, bytes where it does not. Contents that are
//! equal stand in it once, and so do blocks, where it was built so. A fragment takes its share of
//! the pieces that it lies in.

use mkimg_format::erofs::{Extent, FileSystem, Inode, Layout};
use mkimg_format::seal::Seal;
use mkimg_format::{Error, Part, Problem, ReadAt, Result};

use crate::duplicates::CONTENTS_MAX;
use crate::numbers::Numbers;

/// Pieces of the packed inode that are told apart: 256 GiB of fragments, and 16 MiB of memory. Those behind them count
/// as one.
const PIECES_MAX: usize = 1 << 20;

/// Blocks that are looked up, to see whether they are shared: 16 TiB. Those of more content, which stands in few blocks
/// then, count each time.
const LOOKUPS_MAX: u64 = 1 << 32;

/// What the image has for some files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes of their contents, without copies that are not stored again: a content counts with the first inode that has it.
    pub distinct: u64,
    /// Bytes that these take. Blocks that several contents share count once, with the first of them; of a piece that
    /// holds several files, each takes a share.
    pub bytes: u64,
}

impl Stored {
    /// Both sums.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            distinct: self.distinct.saturating_add(other.distinct),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Bytes of content that a stored byte gives, to two digits behind the point; `None` if nothing is stored.
    ///
    /// It is less than 1 where blocks are not full.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        let stored = u128::from(self.bytes);
        let hundredths = u128::from(self.distinct).saturating_mul(100).saturating_add(stored / 2);
        let hundredths = hundredths.checked_div(stored)?;
        Some(f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0)
    }
}

/// What is in the image so far.
#[derive(Debug)]
pub(crate) struct Store {
    /// Inodes whose content is that of one before.
    copies: Numbers,
    blocks: Blocks,
    packed: Vec<Piece>,
    /// Bytes that all maps to come may have: no two of them overlap.
    maps: u64,
}

impl Store {
    /// Looks for copies, and reads the map of the packed inode.
    pub(crate) fn new<R: ReadAt>(fs: &FileSystem<R>, seal: &Seal<R>) -> Result<Self> {
        let maps = fs.superblock().length();
        let mut store = Self { copies: copies(seal)?, blocks: Blocks::default(), packed: Vec::new(), maps };
        if fs.superblock().packed.is_some() {
            let mut sum = 0_u64;
            let inode = fs.packed_inode()?;
            for extent in fs.extents(inode) {
                let extent = extent?;
                if store.packed.len() < PIECES_MAX {
                    store.packed.push(Piece { logical: extent.logical, before: sum });
                }
                sum = sum.saturating_add(store.blocks.take(fs, inode, &extent));
            }
            store.packed.push(Piece { logical: inode.size, before: sum });
        }
        Ok(store)
    }

    /// Counts a regular file, whose inode the walk has not seen before.
    ///
    /// # Errors
    /// A broken map, or one that overlaps others.
    pub(crate) fn add<R: ReadAt>(&mut self, fs: &FileSystem<R>, inode: &Inode) -> Result<Stored> {
        if self.copies.contains(inode.nid.0) {
            return Ok(Stored::default());
        }
        if let Layout::Fragment { offset, .. } = inode.layout {
            let end = offset.saturating_add(inode.size);
            let bytes = before(&self.packed, end).saturating_sub(before(&self.packed, offset));
            return Ok(Stored { distinct: inode.size, bytes });
        }
        // What stands behind the inode is its tail or its map. Maps that overlap would make few bytes much work.
        let map = inode.unit_end().saturating_sub(inode.body_end());
        self.maps = self.maps.checked_sub(map).ok_or(Error::Corrupt {
            part: Part::PieceMap,
            offset: inode.offset,
            problem: Problem::TooMany("bytes of maps"),
        })?;
        let mut bytes = 0_u64;
        for extent in fs.extents(inode) {
            bytes = bytes.saturating_add(self.blocks.take(fs, inode, &extent?));
        }
        Ok(Stored { distinct: inode.size, bytes })
    }
}

/// All inodes but the first of each content. They take nothing: whatever several inodes have is stored once.
fn copies<R: ReadAt>(seal: &Seal<R>) -> Result<Numbers> {
    let (mut contents, mut copies) = (Numbers::default(), Numbers::default());
    for record in seal.inodes() {
        let record = record?;
        let content = u64::from(record.content.get());
        if content < CONTENTS_MAX && !contents.insert(content) {
            copies.insert(record.nid.get());
        }
    }
    Ok(copies)
}

/// Blocks of the image that have content.
#[derive(Debug, Default)]
struct Blocks {
    seen: Numbers,
    looked_up: u64,
}

impl Blocks {
    /// What an extent takes of the image, and nothing before it.
    fn take<R: ReadAt>(&mut self, fs: &FileSystem<R>, inode: &Inode, extent: &Extent) -> u64 {
        let Some(start) = extent.physical else { return 0 };
        let (stored, block) = (extent.stored(), fs.superblock().block_size());
        if !inode.owns_blocks() || start.checked_rem(block) != Some(0) {
            return stored;
        }
        let (first, count) = (start.checked_div(block).unwrap_or(0), stored.div_ceil(block));
        self.looked_up = self.looked_up.saturating_add(count);
        let new = if self.looked_up > LOOKUPS_MAX {
            count
        } else {
            self.seen.insert_all(first..first.saturating_add(count))
        };
        new.saturating_mul(block)
    }
}

/// Where a piece of the packed inode begins.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Byte of the content.
    logical: u64,
    /// Bytes that all before it take in the image.
    before: u64,
}

/// What the content before byte `at` takes. The last of the pieces is the end of all.
///
/// A file takes the difference of two: so all files together take what there is, however much is rounded.
fn before(pieces: &[Piece], at: u64) -> u64 {
    let behind = pieces.partition_point(|piece| piece.logical <= at);
    let Some(piece) = behind.checked_sub(1).and_then(|index| pieces.get(index)) else { return 0 };
    let Some(next) = pieces.get(behind) else { return piece.before };
    let stored = u128::from(next.before.saturating_sub(piece.before));
    let skip = u128::from(at.saturating_sub(piece.logical));
    let whole = u128::from(next.logical.saturating_sub(piece.logical));
    let share = stored.saturating_mul(skip).checked_div(whole).unwrap_or(0);
    piece.before.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use mkimg_format::detached::Sealed;
    use mkimg_format::header::Header;
    use mkimg_mkfs::{Compression, Dedup, Memory, Options, Silent, build};
    use mkimg_oci::SourceSpec;

    use super::*;

    #[test]
    fn maps_do_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("source"), dir.path().join("image"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), vec![b'x'; 300_000]).unwrap();
        let options = Options {
            platform: None,
            name: None,
            epoch: 0,
            compression: Compression::Lz4,
            dedup: Dedup::Files,
            min_kernel: (6, 1),
            optimize_for: None,
            scratch: true,
            fec_roots: 0,
            threads: NonZeroUsize::MIN,
            memory: Memory::MIN,
        };
        build(&SourceSpec::Dir { path: source }, &path, &options, &Silent).unwrap();
        let image = Sealed::open(std::fs::File::open(path).unwrap()).unwrap();
        let seal = Seal::open(&image, &Header::read(&image).unwrap()).unwrap();
        let fs = FileSystem::open(&image).unwrap();
        let mut store = Store::new(&fs, &seal).unwrap();
        let file = fs.resolve(b"/file", false).unwrap();
        let map = file.unit_end() - file.body_end();
        assert!(map > 16, "the file has no map");
        store.maps = map;
        assert!(store.add(&fs, &file).unwrap().bytes > 0);
        let found = store.add(&fs, &file).unwrap_err();
        assert!(matches!(
            found,
            Error::Corrupt { part: Part::PieceMap, offset, problem: Problem::TooMany("bytes of maps") }
                if offset == file.offset
        ));
    }

    #[test]
    fn ratios_are_rounded() {
        for (distinct, bytes, ratio) in [
            (0, 0, None),
            (5, 0, None),
            (0, 5, Some(0.0)),
            (5000, 8192, Some(0.61)),
            (200, 100, Some(2.0)),
            (2, 3, Some(0.67)),
            (u64::MAX, u64::MAX, Some(1.0)),
            (u64::MAX, 1, Some(42_949_672.95)),
        ] {
            assert_eq!(Stored { distinct, bytes }.ratio(), ratio, "{distinct} in {bytes}");
        }
    }

    #[test]
    fn fragments_take_their_share_of_pieces() {
        let pieces =
            [(0, 0), (100, 50), (110, 60), (410, 160)].map(|(logical, before)| Piece { logical, before });
        for (start, end, stored) in [
            (0, 100, 50),
            (0, 10, 5),
            (99, 100, 1),
            (90, 111, 15),
            (110, 410, 100),
            (110, 112, 0),
            (112, 113, 1),
            (0, 410, 160),
            // No packed inode is that long.
            (400, 1000, 4),
            (500, u64::MAX, 0),
        ] {
            assert_eq!(before(&pieces, end) - before(&pieces, start), stored, "{start}..{end}");
        }
        assert_eq!(before(&[], 7), 0);
        // In whatever parts, all is counted once.
        let parts: u64 = (0..410).map(|at| before(&pieces, at + 1) - before(&pieces, at)).sum();
        assert_eq!(parts, 160);
    }
}
