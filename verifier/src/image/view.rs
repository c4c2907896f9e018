//! The image as all stages of one audit see it.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

/// An image whose block 0 is held in memory.
///
/// Block 0 decides about everything else. Read once, it cannot change between the stages of an audit. A mended
/// copy, with slack cleared, lets files be named although the checksum of the superblock is broken.
pub(crate) struct View<'a, R> {
    io: &'a R,
    block0: Option<Box<[u8; BLOCK_LEN]>>,
    /// Bytes that a detached seal leaves out and that are to read as zeros.
    gap: Range<u64>,
    /// Place and number of the first error: whoever reads through this may drop it, an audit must not.
    failure: Mutex<Option<(u64, Option<i32>)>>,
}

impl<'a, R: ReadAt> View<'a, R> {
    pub(crate) const fn new(io: &'a R, block0: Option<Box<[u8; BLOCK_LEN]>>, gap: Range<u64>) -> Self {
        Self { io, block0, gap, failure: Mutex::new(None) }
    }

    pub(crate) const fn io(&self) -> &'a R {
        self.io
    }

    /// The first read that failed.
    pub(crate) fn failure(&self) -> Option<(u64, Option<i32>)> {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.io.read_exact_at(buf, offset).inspect_err(|error| {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert((offset, error.raw_os_error()));
        })
    }
}

impl<R: ReadAt> ReadAt for View<'_, R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(block0) = self.block0.as_ref().filter(|_| offset < BLOCK_SIZE) {
            let start = usize::try_from(offset).unwrap_or(BLOCK_LEN);
            let held = block0.get(start..).unwrap_or_default();
            let length = held.len().min(buf.len());
            let (head, rest) = buf.split_at_mut(length);
            head.copy_from_slice(held.get(..length).unwrap_or_default());
            if rest.is_empty() {
                return Ok(());
            }
            return self.read(rest, BLOCK_SIZE);
        }
        if self.gap.contains(&offset) {
            let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
            if offset.saturating_add(length) <= self.gap.end {
                buf.fill(0);
                return Ok(());
            }
        }
        self.read(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.io.size()
    }
}

/// Reads one block; the error is the number that the system gave.
pub(crate) fn read_block(io: &impl ReadAt, offset: u64) -> Result<Box<[u8; BLOCK_LEN]>, Option<i32>> {
    let mut block = Box::new([0; BLOCK_LEN]);
    io.read_exact_at(&mut block[..], offset).map_err(|error| error.raw_os_error())?;
    Ok(block)
}
