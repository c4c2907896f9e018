//! Small reads out of whole blocks.
//!
//! The checks of the structure go along five or so rows of records of a few dozen bytes in turn: inodes, names,
//! records of the seal, leaves of the tree. A system call for each record costs more than the checks themselves.

use std::cell::RefCell;
use std::io;

use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

/// Blocks that are kept: more than there are rows.
const KEPT: usize = 8;
/// Longer reads do not go through kept blocks: they are data, or whole blocks.
const SMALL: usize = 512;

/// An image of which the blocks that records were read from last are kept.
///
/// No block is read that is not asked for, in part or as a whole, so an error is the same with and without it.
pub(crate) struct BlockCache<'a, R> {
    image: &'a R,
    /// The last used comes first.
    kept: RefCell<[Block; KEPT]>,
}

struct Block {
    /// `None` when nothing has been read.
    offset: Option<u64>,
    bytes: Box<[u8; BLOCK_LEN]>,
}

impl<'a, R: ReadAt> BlockCache<'a, R> {
    pub(crate) fn new(image: &'a R) -> Self {
        let empty = |_| Block { offset: None, bytes: Box::new([0; BLOCK_LEN]) };
        Self { image, kept: RefCell::new(std::array::from_fn(empty)) }
    }

    /// Copies bytes from `skip` on of the block at `offset`, which is read first if it is not there.
    fn copy(&self, buf: &mut [u8], offset: u64, skip: usize) -> io::Result<()> {
        let mut kept = self.kept.borrow_mut();
        let found = kept.iter().position(|block| block.offset == Some(offset));
        // The one that has not been used for the longest time makes room.
        kept[..=found.unwrap_or(KEPT - 1)].rotate_right(1);
        let [block, ..] = &mut *kept;
        if found.is_none() {
            block.offset = None;
            self.image.read_exact_at(&mut block.bytes[..], offset)?;
            block.offset = Some(offset);
        }
        block.bytes.get(skip..).unwrap_or_default().read_exact_at(buf, 0)
    }
}

impl<R: ReadAt> ReadAt for BlockCache<'_, R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let skip = usize::try_from(offset % BLOCK_SIZE).unwrap_or_default();
        if buf.len() <= SMALL && skip.saturating_add(buf.len()) <= BLOCK_LEN {
            match self.copy(buf, offset.saturating_sub(offset % BLOCK_SIZE), skip) {
                // The image may end inside the block, behind the bytes that are wanted.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                done => return done,
            }
        }
        self.image.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.image.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Counts reads. Those that touch `bad` fail in the way it says.
    struct Image {
        bytes: Vec<u8>,
        bad: std::ops::Range<u64>,
        kind: io::ErrorKind,
        reads: Cell<usize>,
    }

    impl ReadAt for Image {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.reads.set(self.reads.get() + 1);
            if offset < self.bad.end && offset + buf.len() as u64 > self.bad.start {
                return Err(self.kind.into());
            }
            self.bytes.read_exact_at(buf, offset)
        }

        fn size(&self) -> io::Result<u64> {
            self.bytes.size()
        }
    }

    fn image(length: u64, bad: std::ops::Range<u64>, kind: io::ErrorKind) -> Image {
        let bytes = (0..length).map(|index| (index % 251).to_le_bytes()[0]).collect();
        Image { bytes, bad, kind, reads: Cell::new(0) }
    }

    /// Every read gives the same bytes, or the same error, as one without kept blocks.
    #[test]
    fn nothing_changes() {
        let length = 12 * BLOCK_SIZE + 1000;
        let image = image(length, 5 * BLOCK_SIZE..7 * BLOCK_SIZE, io::ErrorKind::NotFound);
        let cache = BlockCache::new(&image);
        for step in [1, 37, 1000, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE * 5 + 3] {
            let sizes = [0, 1, 64, 511, 512, 513, 4096, 10_000].into_iter().cycle();
            for (turn, size) in (0..400).zip(sizes) {
                let offset = turn * step % (length + 100);
                let (mut found, mut wanted) = (vec![0xee; size], vec![0xee; size]);
                let result = cache.read_exact_at(&mut found, offset).map_err(|error| error.kind());
                let expected = image.read_exact_at(&mut wanted, offset).map_err(|error| error.kind());
                assert_eq!((result, found), (expected, wanted), "{size} bytes at {offset}");
            }
        }
    }

    /// A medium that fails is not asked again until it answers.
    #[test]
    fn failures_are_handed_on() {
        let mut image = image(2 * BLOCK_SIZE, 4000..4001, io::ErrorKind::Other);
        let cache = BlockCache::new(&image);
        let result = cache.read_exact_at(&mut [0; 64], 100).map_err(|error| error.kind());
        assert_eq!(result, Err(io::ErrorKind::Other));
        assert_eq!(image.reads.get(), 1);
        drop(cache);
        image.bad = 0..0;
        assert!(BlockCache::new(&image).read_exact_at(&mut [0; 64], 100).is_ok());
    }

    #[test]
    fn rows_in_turn_are_read_once() {
        let image = image(10 * BLOCK_SIZE, 0..0, io::ErrorKind::Other);
        let cache = BlockCache::new(&image);
        for record in 0..BLOCK_SIZE / 64 {
            for row in 0..7 {
                assert!(cache.read_exact_at(&mut [0; 64], row * BLOCK_SIZE + record * 64).is_ok());
            }
        }
        assert_eq!(image.reads.get(), 7);
    }
}
