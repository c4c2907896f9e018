//! The data area of an image in which files share single blocks: every block belongs to a file, and what follows the
//! end of a file in its last block is zero.
//!
//! Any file may have any block, several times even, so nothing has to be kept of who has it. Of each block of a window
//! two numbers are enough: how far the longest stretch reaches that starts there, and the least that a file which ends
//! there uses of it. Both take as long to enter as the maps are; each block is read at most once.

use std::ops::Range;

use super::findings::About;
use super::{Lint, first_nonzero, stretches};
use crate::erofs::{Extent, FileSystem, FileType, Inode, Layout, SHARED_BLOCKS_MAX};
use crate::{BLOCK_SIZE, Part, ReadAt, Result, blocks_for};

/// Blocks that are looked at in one go: 8 GiB of data, 12 MiB of memory.
const WINDOW: u64 = 2 << 20;

/// The blocks of a window.
struct Blocks {
    first: u64,
    /// Where the longest stretch ends that starts with the block, as a position in the window; 0 for none.
    reach: Vec<u32>,
    /// Fewest bytes that a file has which ends inside the block; 0 for none.
    used: Vec<u16>,
}

impl Blocks {
    fn new(first: u64, length: u64) -> Self {
        let length = usize::try_from(length).unwrap_or(0);
        Self { first, reach: vec![0; length], used: vec![0; length] }
    }

    /// Enters a stretch of content, which lies in the data area.
    fn enter(&mut self, start: u64, stop: u64) {
        let position = |block: u64| {
            usize::try_from(block.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.reach.len())
        };
        let (from, to) = (position(start / BLOCK_SIZE), position(stop.div_ceil(BLOCK_SIZE)));
        if from >= to {
            return;
        }
        let end = u32::try_from(to).unwrap_or(u32::MAX);
        if let Some(reach) = self.reach.get_mut(from) {
            *reach = end.max(*reach);
        }
        let last = usize::try_from((stop / BLOCK_SIZE).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let tail = u16::try_from(stop % BLOCK_SIZE).unwrap_or(0);
        if let Some(used) = self.used.get_mut(last).filter(|_| tail > 0)
            && (*used == 0 || tail < *used)
        {
            *used = tail;
        }
    }
}

impl Lint<'_> {
    /// Checks that every block of the data area belongs to a file, and that nothing stands behind the end of one.
    pub(super) fn check_shared_data<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let end = self.space.start / BLOCK_SIZE;
        let mut unowned = None;
        let mut first = 1;
        while first < end {
            let length = end.saturating_sub(first).min(WINDOW);
            let mut blocks = Blocks::new(first, length);
            for inode in fs.first_inodes(self.census.inodes) {
                let inode = inode?;
                if inode.file_type == FileType::File {
                    self.enter_file(fs, &inode, &mut blocks)?;
                }
            }
            let mut reach = 0;
            for ((block, position), (end, used)) in
                (first..).zip(0_u32..).zip(blocks.reach.iter().zip(&blocks.used))
            {
                reach = reach.max(*end);
                match unowned {
                    None if position >= reach => unowned = Some(block),
                    Some(start) if position < reach => {
                        self.report_unowned(start, block);
                        unowned = None;
                    }
                    _ => {}
                }
                if *used > 0 {
                    let start = block.saturating_mul(BLOCK_SIZE);
                    let behind = start.saturating_add(u64::from(*used));
                    if let Some(offset) = first_nonzero(fs, behind, start.saturating_add(BLOCK_SIZE))? {
                        let problem = "byte between the end of a file and that of its block is not zero";
                        self.out.add(Part::Slack, offset, About::Nothing, problem);
                    }
                }
            }
            first = first.saturating_add(length);
        }
        if let Some(start) = unowned {
            self.report_unowned(start, end);
        }
        Ok(())
    }

    fn enter_file<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        blocks: &mut Blocks,
    ) -> Result<()> {
        for stretch in stretches(fs, inode) {
            let Range { start, end } = stretch?;
            if start >= BLOCK_SIZE && end <= self.space.start {
                blocks.enter(start, end);
            } else if blocks.first == 1 {
                let length = end.saturating_sub(start);
                let problem = format!("{length} bytes of content lie outside the data area");
                self.out.add(Part::Data, start, About::Inode(inode.nid), problem);
            }
        }
        Ok(())
    }

    /// What is wrong with the form of a file whose chunks may be anywhere.
    pub(super) fn shared_form<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> Option<&'static str> {
        let Layout::Chunked { chunk_bits, .. } = inode.layout else { return None };
        let single = u64::checked_shl(1, chunk_bits) == Some(BLOCK_SIZE);
        if single != (blocks_for(inode.size) <= SHARED_BLOCKS_MAX) {
            return Some("chunks are of one block exactly if the file has at most 4194304 of them");
        }
        let mut extents = fs.extents(inode);
        match (extents.next(), extents.next()) {
            (Some(Ok(Extent { physical: Some(_), .. })), None) => {
                Some("chunk-based file whose blocks are consecutive, must be plain")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_cut_at_the_window() {
        let bytes = |block: u64, more: u64| block * BLOCK_SIZE + more;
        for (start, stop, reach, used) in [
            // Before and behind the window of blocks 10 to 13.
            (bytes(1, 0), bytes(10, 0), [0; 4], [0; 4]),
            (bytes(1, 0), bytes(9, 7), [0; 4], [0; 4]),
            (bytes(14, 0), bytes(20, 5), [0; 4], [0; 4]),
            // In it, in part and all around.
            (bytes(10, 0), bytes(11, 0), [1, 0, 0, 0], [0; 4]),
            (bytes(11, 0), bytes(12, 5), [0, 3, 0, 0], [0, 0, 5, 0]),
            (bytes(5, 0), bytes(11, 9), [2, 0, 0, 0], [0, 9, 0, 0]),
            (bytes(13, 0), bytes(14, 9), [0, 0, 0, 4], [0; 4]),
            (bytes(5, 0), bytes(99, 9), [4, 0, 0, 0], [0; 4]),
            (bytes(13, 0), bytes(13, 4095), [0, 0, 0, 4], [0, 0, 0, 4095]),
        ] {
            let mut blocks = Blocks::new(10, 4);
            blocks.enter(start, stop);
            assert_eq!((&blocks.reach[..], &blocks.used[..]), (&reach[..], &used[..]), "{start} to {stop}");
        }
        // The longest and the shortest count.
        let mut blocks = Blocks::new(10, 4);
        for (stop, tail) in [(11, 100), (12, 50), (11, 30), (11, 200)] {
            blocks.enter(bytes(10, 0), bytes(stop, tail));
        }
        assert_eq!((blocks.reach[0], blocks.used), (3, vec![0, 30, 50, 0]));
    }
}
