//! Forward error correction as dm-verity has it: Reed-Solomon parity over data and hash tree.
//!
//! A codeword has 255 bytes, `255 - roots` of message and `roots` of parity, which restore so many bytes that are known to be
//! wrong, or half as many that are not. Codewords are interleaved: the message, which is the protected area and then the
//! tree, is cut into 255 - `roots` *rows* of [`Layout::rounds`] blocks each, and a codeword takes one byte of each row, at the
//! same place. So a burst of damage is spread over many codewords. The blocks at the same place of all rows are a *round*:
//! 4096 codewords, whose parity stands together.
//!
//! ```text
//! row 0          block 0        block 1      ...   block R-1     \
//! row 1          block R        block R+1    ...   block 2R-1     |  message, zeros behind its end
//!  ...                                                            |
//! row k-1        ...            ...          ...   block kR-1    /
//!                 |              |
//! parity         round 0        round 1      ...                    roots blocks each, codeword after codeword
//! ```
//!
//! Facts: Linux `Documentation/admin-guide/device-mapper/verity.rst`, cryptsetup `lib/verity/verity_fec.c`.
//! `mkimg-reed-solomon` computes.

use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

use mkimg_reed_solomon::{CODEWORD, Encoder, Sums};

use crate::header::Header;
use crate::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

/// How many parity bytes a codeword may have: what `veritysetup` and the kernel take.
pub const ROOTS: RangeInclusive<u32> = 2..=24;

/// Memory of all threads together.
const MEMORY: usize = 16 << 20;
/// Rounds that are read at once at most: reads of 1 MiB.
const ROUNDS_MAX: usize = 256;

/// Where parity stands, and what it protects. Units are blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    data_blocks: u64,
    tree_blocks: u64,
    roots: u32,
}

impl Layout {
    /// The parity of an image; `None` if it has none, or if [`ROOTS`] does not hold its `fec_roots`.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        ROOTS.contains(&header.fec_roots).then(|| Self {
            data_blocks: header.data_blocks,
            tree_blocks: header.tree_blocks(),
            roots: header.fec_roots,
        })
    }

    /// Parity bytes of a codeword.
    #[must_use]
    pub const fn roots(&self) -> u32 {
        self.roots
    }

    /// [`Self::roots`] as a count of rows.
    #[must_use]
    pub fn parity_rows(&self) -> usize {
        usize::try_from(self.roots).unwrap_or(CODEWORD)
    }

    /// Message bytes of a codeword, which is the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        CODEWORD.saturating_sub(self.parity_rows())
    }

    /// Blocks that are protected: data and tree, without the dm-verity superblock between them.
    #[must_use]
    pub const fn message_blocks(&self) -> u64 {
        self.data_blocks.saturating_add(self.tree_blocks)
    }

    /// Blocks of a row, which is the distance between two bytes of a codeword.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.message_blocks().div_ceil(u64::try_from(self.rows()).unwrap_or(u64::MAX))
    }

    /// Blocks of parity.
    #[must_use]
    pub fn parity_blocks(&self) -> u64 {
        self.rounds().saturating_mul(self.roots.into())
    }

    /// First block of parity in the image.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.message_blocks().saturating_add(1)
    }

    /// Byte offset of the parity of a round in the image.
    #[must_use]
    pub fn round_offset(&self, round: u64) -> u64 {
        self.start().saturating_add(round.saturating_mul(self.roots.into())).saturating_mul(BLOCK_SIZE)
    }

    /// Bytes of parity of one round.
    #[must_use]
    pub fn round_len(&self) -> usize {
        self.parity_rows().saturating_mul(BLOCK_LEN)
    }

    /// The block of the image that is block `index` of the message; `None` behind its end, where all is zero.
    #[must_use]
    pub const fn image_block(&self, index: u64) -> Option<u64> {
        if index < self.data_blocks {
            Some(index)
        } else if index < self.message_blocks() {
            Some(index.saturating_add(1))
        } else {
            None
        }
    }

    /// Row and round of a block of the image; `None` for one that is not protected.
    #[must_use]
    pub fn place(&self, block: u64) -> Option<(usize, u64)> {
        let index = match block {
            block if block < self.data_blocks => block,
            block if block > self.data_blocks && block < self.start() => block.saturating_sub(1),
            _ => return None,
        };
        let row = index.checked_div(self.rounds())?;
        Some((usize::try_from(row).ok()?, index.checked_rem(self.rounds())?))
    }

    /// The block of the image at a row and round; `None` where the message has ended.
    #[must_use]
    pub fn at(&self, row: usize, round: u64) -> Option<u64> {
        let before = u64::try_from(row).ok()?.checked_mul(self.rounds())?;
        self.image_block(before.checked_add(round)?)
    }

    /// Reads consecutive blocks of one row, from `round` on.
    fn read_row<R: ReadAt + ?Sized>(
        &self,
        image: &R,
        row: usize,
        round: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let row = u64::try_from(row).unwrap_or(u64::MAX);
        let mut index = row.saturating_mul(self.rounds()).saturating_add(round);
        let mut left = buffer;
        while !left.is_empty() {
            let Some(block) = self.image_block(index) else {
                left.fill(0);
                return Ok(());
            };
            let end = if index < self.data_blocks { self.data_blocks } else { self.message_blocks() };
            let room = usize::try_from(end.saturating_sub(index)).unwrap_or(usize::MAX);
            let length = left.len().min(room.saturating_mul(BLOCK_LEN));
            let (now, later) = left.split_at_mut(length);
            image.read_exact_at(now, block.saturating_mul(BLOCK_SIZE))?;
            left = later;
            index = end;
        }
        Ok(())
    }
}

/// Takes the parity of a round, by number, or the reason why its blocks could not be read.
pub type Take<'a> = dyn Fn(u64, Result<&[u8], &io::Error>) + Sync + 'a;

/// Computes the parity of all rounds on at most `threads` threads, and hands each out: the number of the round, and its
/// [`Layout::round_len`] bytes or why its blocks could not be read. Rounds come from any thread and in any order.
///
/// Every row is read from front to back in pieces of at most 1 MiB; the memory for that is 16 MiB, however many threads.
pub fn for_each_round<R: ReadAt + Sync + ?Sized>(
    image: &R,
    layout: &Layout,
    threads: usize,
    take: &Take<'_>,
) {
    let all = usize::try_from(layout.rounds()).unwrap_or(usize::MAX);
    let threads = threads.clamp(1, all.max(1));
    let per_thread = layout.round_len().saturating_add(BLOCK_LEN).saturating_mul(threads);
    let fitting = MEMORY.checked_div(per_thread).unwrap_or_default().clamp(1, ROUNDS_MAX);
    let window = fitting.min(all.div_ceil(threads));
    let rounds = u64::try_from(window).unwrap_or(1);
    let encoder = Encoder::new(layout.parity_rows());
    let next = AtomicU64::new(0);
    let work = || {
        let mut worker = Worker::new(layout, window);
        loop {
            let first = next.fetch_add(1, Ordering::Relaxed).saturating_mul(rounds);
            if first >= layout.rounds() {
                return;
            }
            worker.window(image, layout, first, &encoder, take);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be started is not missed: the others take its rounds.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// What a thread works with.
struct Worker {
    /// One for each round of the window.
    sums: Vec<Sums>,
    row: Vec<u8>,
    parity: Vec<u8>,
}

impl Worker {
    fn new(layout: &Layout, window: usize) -> Self {
        Self {
            sums: vec![Sums::new(layout.parity_rows()); window],
            row: vec![0; window.saturating_mul(BLOCK_LEN)],
            parity: vec![0; layout.round_len()],
        }
    }

    /// The rounds from `first` on, as many as there is room for.
    fn window<R: ReadAt + ?Sized>(
        &mut self,
        image: &R,
        layout: &Layout,
        first: u64,
        encoder: &Encoder,
        take: &Take<'_>,
    ) {
        let left = usize::try_from(layout.rounds().saturating_sub(first)).unwrap_or(usize::MAX);
        let count = self.sums.len().min(left);
        let sums = self.sums.get_mut(..count).unwrap_or_default();
        sums.iter_mut().for_each(Sums::clear);
        let buffer = self.row.get_mut(..count.saturating_mul(BLOCK_LEN)).unwrap_or_default();
        for row in 0..layout.rows() {
            if let Err(error) = layout.read_row(image, row, first, buffer) {
                (first..).take(count).for_each(|round| take(round, Err(&error)));
                return;
            }
            for (sums, block) in sums.iter_mut().zip(buffer.chunks_exact(BLOCK_LEN)) {
                sums.push(block);
            }
        }
        for (round, sums) in (first..).zip(sums) {
            encoder.parity(sums, &mut self.parity);
            take(round, Ok(&self.parity));
        }
    }
}

/// Blocks of parity that an image of so many blocks has with `roots` parity bytes a codeword; 0 without.
#[must_use]
pub fn parity_blocks(data_blocks: u64, roots: u32) -> u64 {
    let header = Header { data_blocks, meta_block: 0, seal_block: 0, fec_blocks: 0, fec_roots: roots };
    Layout::of(&header).map_or(0, |layout| layout.parity_blocks())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256 as Hasher};

    use super::*;
    use crate::{Sha256, hex};

    fn layout(data_blocks: u64, tree_blocks: u64, roots: u32) -> Layout {
        Layout { data_blocks, tree_blocks, roots }
    }

    /// Data of consecutive u64 counters, a block that stands for the dm-verity superblock, and a tree with salt 00..1f.
    fn salted_image(data_blocks: usize) -> Vec<u8> {
        let salt: Vec<u8> = (0..32).collect();
        let digest = |block: &[u8]| -> Sha256 {
            Hasher::new().chain_update(&salt).chain_update(block).finalize().into()
        };
        let data: Vec<u8> = (0_u64..).flat_map(u64::to_le_bytes).take(data_blocks * BLOCK_LEN).collect();
        let mut levels = vec![data.clone()];
        while levels.last().unwrap().len() > BLOCK_LEN {
            let mut above: Vec<u8> = levels.last().unwrap().chunks(BLOCK_LEN).flat_map(digest).collect();
            above.resize(above.len().next_multiple_of(BLOCK_LEN), 0);
            levels.push(above);
        }
        let mut image = data;
        image.resize(image.len() + BLOCK_LEN, 0xee);
        levels.drain(1..).rev().for_each(|level| image.extend(level));
        image
    }

    fn parity(image: &Vec<u8>, layout: Layout, threads: usize) -> Vec<u8> {
        let parity = std::sync::Mutex::new(std::collections::BTreeMap::new());
        for_each_round(image, &layout, threads, &|round, bytes| {
            assert_eq!(parity.lock().unwrap().insert(round, bytes.unwrap().to_vec()), None);
        });
        parity.into_inner().unwrap().into_values().flatten().collect()
    }

    /// Made by `veritysetup format --salt 00..1f --fec-device FILE --fec-roots N` over consecutive u64 counters.
    #[test]
    fn golden_parity() {
        for (data, tree, roots, bytes, digest) in [
            (200, 3, 2, 8192, "0e63ad095040a75cbc8a3ed8950ad78d9c2802fa2ea9b6a55528e22998830cc5"),
            (1000, 9, 24, 491_520, "8900e2bba102a17460f66b12e5bf4508f455f120ba94affa177e4ba7153ca413"),
        ] {
            let image = salted_image(data);
            assert_eq!(image.len() / BLOCK_LEN, data + 1 + tree);
            let layout = layout(data as u64, tree as u64, roots);
            for threads in [1, 2, 8] {
                let parity = parity(&image, layout, threads);
                assert_eq!(parity.len(), bytes);
                assert_eq!(hex(&Hasher::digest(&parity)), digest, "{data} blocks, {threads} threads");
            }
        }
    }

    #[test]
    fn sizes_and_places() {
        for (data, tree, roots, rounds) in [
            (252, 1, 2, 1),
            (253, 1, 2, 2),
            (200, 3, 24, 1),
            (1000, 9, 24, 5),
            (4_294_967_295, 33_818_641, 2, 17_109_826),
        ] {
            let layout = layout(data, tree, roots);
            assert_eq!(layout.rounds(), rounds, "{data} + {tree} blocks");
            assert_eq!(layout.parity_blocks(), rounds * u64::from(roots));
            assert_eq!(layout.round_offset(0), (data + 1 + tree) * BLOCK_SIZE);
            for block in [0, 1, data - 1, data + 1, data + tree] {
                let (row, round) = layout.place(block).unwrap();
                assert!(row < layout.rows() && round < rounds);
                assert_eq!(layout.at(row, round), Some(block));
            }
            assert_eq!((layout.place(data), layout.place(data + 1 + tree)), (None, None));
            assert_eq!(layout.image_block(data + tree), None);
        }
        let header =
            |fec_roots| Header { data_blocks: 9, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots };
        for roots in [0, 1, 25, 255, u32::MAX] {
            assert_eq!(Layout::of(&header(roots)), None, "{roots}");
            assert_eq!(parity_blocks(9, roots), 0);
        }
    }
}
