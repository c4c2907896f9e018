//! The image as all stages of one audit see it.

use std::io;

use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

/// An image whose block 0 is held in memory.
///
/// Block 0 decides about everything else. Read once, it cannot change between the stages of an audit. A mended
/// copy, with slack cleared, lets files be named although the checksum of the superblock is broken.
pub(crate) struct View<'a, R> {
    pub(crate) io: &'a R,
    pub(crate) block0: Option<Box<[u8; BLOCK_LEN]>>,
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
            return self.io.read_exact_at(rest, BLOCK_SIZE);
        }
        self.io.read_exact_at(buf, offset)
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
