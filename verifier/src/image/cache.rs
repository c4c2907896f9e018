//! Blocks of metadata and records that are read again and again.

use std::cell::RefCell;
use std::io;

use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

/// Blocks that are held for a check of the structure: 4 MiB.
const BLOCKS: usize = 1024;

/// An image of which small reads are served from whole blocks.
///
/// Checks of the structure read inodes, records and digests of some bytes each, mostly side by side. A read that
/// would cost a system call each is a copy then. File data is passed through: it is read once.
pub(crate) struct Cached<'a, R> {
    io: &'a R,
    /// First byte that is worth holding.
    start: u64,
    /// Block `b` is held in place `b % held.len()`, if at all.
    held: RefCell<Vec<Option<Held>>>,
}

struct Held {
    number: u64,
    bytes: Box<[u8; BLOCK_LEN]>,
}

impl<'a, R: ReadAt> Cached<'a, R> {
    /// Holds blocks from byte `start` on.
    pub(crate) fn new(io: &'a R, start: u64) -> Self {
        Self::of_blocks(BLOCKS, io, start)
    }

    /// Holds so many blocks, from byte `start` on.
    pub(crate) fn of_blocks(blocks: usize, io: &'a R, start: u64) -> Self {
        let held = (0..blocks).map(|_| None).collect();
        Self { io, start, held: RefCell::new(held) }
    }

    /// What is below, and from which byte on blocks of it are held.
    pub(crate) const fn below(&self) -> (&'a R, u64) {
        (self.io, self.start)
    }

    /// Copies bytes of one block out of it; `false` when the block cannot be read.
    fn copy(&self, buf: &mut [u8], number: u64, skip: usize) -> bool {
        let Ok(mut held) = self.held.try_borrow_mut() else { return false };
        let place = usize::try_from(number).ok().and_then(|number| number.checked_rem(held.len()));
        let Some(place) = place.and_then(|place| held.get_mut(place)) else { return false };
        if place.as_ref().is_none_or(|held| held.number != number) {
            let mut bytes = place.take().map_or_else(|| Box::new([0; BLOCK_LEN]), |held| held.bytes);
            if self.io.read_exact_at(&mut bytes[..], number.saturating_mul(BLOCK_SIZE)).is_err() {
                return false;
            }
            *place = Some(Held { number, bytes });
        }
        let bytes = place.as_ref().and_then(|held| held.bytes.get(skip..)?.get(..buf.len()));
        bytes.map(|bytes| buf.copy_from_slice(bytes)).is_some()
    }
}

impl<R: ReadAt> ReadAt for Cached<'_, R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let skip = usize::try_from(offset % BLOCK_SIZE).unwrap_or(BLOCK_LEN);
        let inside = skip.saturating_add(buf.len()) <= BLOCK_LEN;
        if offset >= self.start && inside && self.copy(buf, offset / BLOCK_SIZE, skip) {
            return Ok(());
        }
        // Where a block cannot be read, what is wanted of it may be; and the error is that of these bytes.
        self.io.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.io.size()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Ends in the middle of a block, and counts its reads.
    struct Counted(Vec<u8>, Cell<u32>);

    impl ReadAt for Counted {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.1.set(self.1.get() + 1);
            self.0.read_exact_at(buf, offset)
        }

        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
    }

    #[test]
    fn reads_are_those_of_what_is_below() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|at| (at % 251) as u8).collect();
        let below = Counted(bytes.clone(), Cell::new(0));
        let cached = Cached::new(&below, BLOCK_SIZE);
        for length in [1, 32, 64, 4096, 5000] {
            for offset in (0..9990).step_by(97) {
                let (mut found, mut expected) = (vec![0; length], vec![0; length]);
                let read = cached.read_exact_at(&mut found, offset);
                assert_eq!(read.is_ok(), bytes.read_exact_at(&mut expected, offset).is_ok(), "{offset}");
                assert_eq!(found, expected, "{length} bytes at {offset}");
            }
        }
    }

    #[test]
    fn a_block_is_read_once() {
        let below = Counted(vec![7; 3 * BLOCK_LEN], Cell::new(0));
        let cached = Cached::new(&below, BLOCK_SIZE);
        for offset in (BLOCK_SIZE..3 * BLOCK_SIZE).step_by(32) {
            cached.read_exact_at(&mut [0; 32], offset).unwrap();
        }
        assert_eq!(below.1.get(), 2);
    }
}
