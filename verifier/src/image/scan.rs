//! Reading and hashing every block, once.
//!
//! Threads take runs of 128 data blocks, which is what one hash block of the leaf level covers, hash them and
//! compare with that hash block. The hash of the hash block goes up to its parent, which is compared as soon as its
//! last child has arrived, and so on to the root. Only hash blocks that differ are kept; who is to blame is
//! decided later, from the root down (`blame`), because a hash block proves nothing before it is proven itself.
//!
//! Two digests go up: that of the stored block, and the one that the block would have if the whole tree were built
//! anew from the data. The second proves data below a damaged tree.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mkimg_format::merkle::FANOUT;
use mkimg_format::salt::Salt;
use mkimg_format::verity::Level;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256};

use super::lowest::Lowest;
use super::view::read_block;

/// Slots of a hash block.
const SLOTS: usize = 128;
const DIGEST: usize = 32;
/// Bytes of the data below one leaf hash block.
const RUN_LEN: usize = SLOTS * BLOCK_LEN;

/// Records kept for the leaf level and for each level above: bounds memory, whatever the damage.
const RECORDS_MAX: [usize; 2] = [65_536, 16_384];
/// Hash blocks kept in full, stored and rebuilt, with the same split.
const DETAILS_MAX: [usize; 2] = [1024, 256];

/// More threads than this gain nothing and cost 512 KiB each.
const THREADS_MAX: usize = 32;

/// What is to be scanned.
pub(crate) struct Shape<'a> {
    pub(crate) data_blocks: u64,
    /// Leaf level first.
    pub(crate) levels: &'a [Level],
    /// What blocks are hashed behind.
    pub(crate) salt: &'a Salt,
    pub(crate) file_size: u64,
    /// Data blocks that are left out of a detached seal.
    pub(crate) absent: Range<u64>,
}

impl Shape<'_> {
    /// Blocks on the level below `level`.
    fn below(&self, level: usize) -> u64 {
        match level.checked_sub(1) {
            None => self.data_blocks,
            Some(below) => self.levels.get(below).map_or(0, |level| level.blocks),
        }
    }

    /// Used slots of a hash block.
    pub(crate) fn used(&self, level: usize, index: u64) -> u32 {
        let first = index.saturating_mul(FANOUT);
        u32::try_from(self.below(level).saturating_sub(first).min(FANOUT)).unwrap_or_default()
    }

    pub(crate) fn offset(&self, level: usize, index: u64) -> u64 {
        self.levels.get(level).map_or(0, |level| level.block_offset(index))
    }

    /// Whether the file reaches behind a block.
    pub(crate) const fn reaches(&self, offset: u64) -> bool {
        offset.saturating_add(BLOCK_SIZE) <= self.file_size
    }
}

/// A hash block as it was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Present,
    /// Behind the end of the file.
    Missing,
    Unreadable(Option<i32>),
}

/// A hash block that is not what its children make it, or that could not be compared.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) state: Stored,
    /// Slots in which the stored and the rebuilt block differ.
    pub(crate) differ: u128,
    /// Data blocks below a leaf hash block that could not be read, and the reason of the first.
    pub(crate) unreadable: u128,
    pub(crate) errno: Option<i32>,
    /// Whether the data below could be read only piece by piece, although no piece is unreadable.
    pub(crate) unsteady: bool,
    /// Digest of the stored block.
    pub(crate) stored: Option<Sha256>,
    /// Digest of the block built from the digests of its stored children.
    pub(crate) rebuilt: Option<Sha256>,
    /// Digest of the block built from data alone.
    pub(crate) pure: Option<Sha256>,
}

/// A stored hash block and what it should be.
#[derive(Debug, Clone)]
pub(crate) struct Detail {
    pub(crate) stored: Box<[u8; BLOCK_LEN]>,
    pub(crate) rebuilt: Box<[u8; BLOCK_LEN]>,
}

/// The result of a scan.
pub(crate) struct Scan {
    /// Records by level, leaf level first, and by index.
    pub(crate) records: Vec<Lowest<Record>>,
    pub(crate) details: Vec<Lowest<Detail>>,
    /// Digest of the top block, and the root that the data alone leads to.
    pub(crate) top: Digests,
    pub(crate) bytes_read: u64,
    /// Data blocks that had no hash block to be compared with.
    pub(crate) unchecked: u64,
    /// Damaged blocks whose records had to be dropped.
    pub(crate) dropped: u64,
    /// What blocks were hashed behind.
    pub(crate) salt: Salt,
}

/// What a block tells its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    /// Of the stored block, or of the rebuilt one where there is none.
    pub(crate) pushed: Option<Sha256>,
    /// Of the block built from data alone.
    pub(crate) pure: Option<Sha256>,
}

/// What went wrong while the data below a hash block was read.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    unreadable: u128,
    errno: Option<i32>,
    any: bool,
}

impl Trouble {
    fn note(&mut self, error: &std::io::Error) {
        self.errno = error.raw_os_error();
        self.any = true;
    }
}

/// A hash block in the making.
struct Pending {
    rebuilt: Box<[u8; BLOCK_LEN]>,
    pure: Box<[u8; BLOCK_LEN]>,
    /// Slots whose digest is known.
    known: u128,
    pure_known: u128,
    arrived: u32,
}

impl Pending {
    fn new() -> Self {
        Self {
            rebuilt: Box::new([0; BLOCK_LEN]),
            pure: Box::new([0; BLOCK_LEN]),
            known: 0,
            pure_known: 0,
            arrived: 0,
        }
    }

    fn put(&mut self, slot: usize, digests: &Digests) {
        if let Some(digest) = &digests.pushed {
            set_slot(&mut self.rebuilt, slot, digest);
            self.known |= bit(slot);
        }
        if let Some(digest) = &digests.pure {
            set_slot(&mut self.pure, slot, digest);
            self.pure_known |= bit(slot);
        }
        self.arrived = self.arrived.saturating_add(1);
    }
}

/// The bit of a slot.
pub(crate) fn bit(slot: usize) -> u128 {
    u32::try_from(slot).ok().and_then(|slot| 1_u128.checked_shl(slot)).unwrap_or_default()
}

/// Bits of the first `count` slots.
pub(crate) fn first_bits(count: u32) -> u128 {
    1_u128.checked_shl(count).map_or(u128::MAX, |bit| bit.wrapping_sub(1))
}

/// The digest in a slot.
pub(crate) fn slot(block: &[u8; BLOCK_LEN], slot: usize) -> Sha256 {
    let start = slot.saturating_mul(DIGEST);
    block.get(start..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

pub(crate) fn set_slot(block: &mut [u8; BLOCK_LEN], slot: usize, digest: &Sha256) {
    if let Some(place) = block.chunks_exact_mut(DIGEST).nth(slot) {
        place.copy_from_slice(digest);
    }
}

/// Slots in which two hash blocks differ.
fn differing(a: &[u8; BLOCK_LEN], b: &[u8; BLOCK_LEN]) -> u128 {
    if a == b {
        return 0;
    }
    let pairs = a.chunks_exact(DIGEST).zip(b.chunks_exact(DIGEST)).enumerate();
    pairs.filter(|(_, (a, b))| a != b).fold(0, |bits, (slot, _)| bits | bit(slot))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs under these locks; a poisoned one still holds what was put in.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Kept {
    records: Vec<Lowest<Record>>,
    details: Vec<Lowest<Detail>>,
    dropped: u64,
}

struct Scanner<'a, R> {
    image: &'a R,
    shape: &'a Shape<'a>,
    progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
    next: AtomicU64,
    bytes: AtomicU64,
    unchecked: AtomicU64,
    /// Hash blocks above the leaf level whose children are on their way. Runs are taken in order, so there are at
    /// most as many on a level as there are threads, and one.
    pending: Vec<Mutex<HashMap<u64, Pending>>>,
    kept: Mutex<Kept>,
    top: Mutex<Digests>,
}

/// Reads all blocks that are there and compares them with the tree.
pub(crate) fn scan<R: ReadAt + Sync>(
    image: &R,
    shape: &Shape<'_>,
    threads: NonZeroUsize,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Scan {
    let levels = shape.levels.len();
    let limit = |limits: [usize; 2], level: usize| if level == 0 { limits[0] } else { limits[1] };
    let scanner = Scanner {
        image,
        shape,
        progress,
        next: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        unchecked: AtomicU64::new(0),
        pending: (0..levels).map(|_| Mutex::new(HashMap::new())).collect(),
        kept: Mutex::new(Kept {
            records: (0..levels).map(|level| Lowest::new(limit(RECORDS_MAX, level))).collect(),
            details: (0..levels).map(|level| Lowest::new(limit(DETAILS_MAX, level))).collect(),
            dropped: 0,
        }),
        top: Mutex::new(Digests::default()),
    };
    let runs = shape.data_blocks.div_ceil(FANOUT);
    let threads = threads.get().min(THREADS_MAX).min(usize::try_from(runs).unwrap_or(usize::MAX));
    if threads > 1 {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // A thread that cannot be started is not missed: the others take its runs.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || scanner.work(runs));
            }
            scanner.work(runs);
        });
    } else {
        scanner.work(runs);
    }
    let kept = scanner.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
    Scan {
        records: kept.records,
        details: kept.details,
        top: scanner.top.into_inner().unwrap_or_else(PoisonError::into_inner),
        bytes_read: scanner.bytes.into_inner(),
        unchecked: scanner.unchecked.into_inner(),
        dropped: kept.dropped,
        salt: shape.salt.clone(),
    }
}

impl<R: ReadAt> Scanner<'_, R> {
    fn work(&self, runs: u64) {
        let mut buffer = vec![
            0;
            RUN_LEN.min(
                usize::try_from(self.shape.data_blocks.saturating_mul(BLOCK_SIZE)).unwrap_or(RUN_LEN)
            )
        ];
        loop {
            let run = self.next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return;
            }
            self.run(run, &mut buffer);
        }
    }

    fn count(&self, bytes: u64) {
        let done = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(progress) = self.progress {
            progress(done, self.shape.file_size);
        }
    }

    /// One run of data blocks.
    fn run(&self, run: u64, buffer: &mut [u8]) {
        let first = run.saturating_mul(FANOUT);
        let used = self.shape.used(0, run);
        let end = first.saturating_add(u64::from(used));
        let mut leaves = [[0; DIGEST]; SLOTS];
        let mut known = 0_u128;
        let mut trouble = Trouble::default();
        let absent = &self.shape.absent;
        // What is there: the part before the gap of a detached seal, and the part behind it.
        let parts = if absent.is_empty() {
            [first..end, end..end]
        } else {
            [first..end.min(absent.start), first.max(absent.end)..end]
        };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let count = usize::try_from(part.end.saturating_sub(part.start)).unwrap_or_default();
            let slot0 = usize::try_from(part.start.saturating_sub(first)).unwrap_or_default();
            let Some(bytes) = buffer.get_mut(..count.saturating_mul(BLOCK_LEN)) else { continue };
            let digests = leaves.get_mut(slot0..slot0.saturating_add(count)).unwrap_or_default();
            let offset = part.start.saturating_mul(BLOCK_SIZE);
            let mut good = count;
            let read = self.image.read_exact_at(bytes, offset);
            if let Err(error) = &read {
                trouble.note(error);
            }
            if read.is_ok() {
                self.shape.salt.hash_blocks(bytes, digests);
                known |= first_bits(u32::try_from(count).unwrap_or_default())
                    .checked_shl(u32::try_from(slot0).unwrap_or_default())
                    .unwrap_or_default();
            } else {
                // Something in this run cannot be read: find out what.
                for (index, (block, digest)) in bytes.chunks_exact_mut(BLOCK_LEN).zip(digests).enumerate() {
                    let at = offset
                        .saturating_add(u64::try_from(index).unwrap_or_default().saturating_mul(BLOCK_SIZE));
                    let slot = slot0.saturating_add(index);
                    match self.image.read_exact_at(block, at) {
                        Ok(()) => {
                            *digest = self.shape.salt.hash_block(block);
                            known |= bit(slot);
                        }
                        Err(error) => {
                            if trouble.unreadable == 0 {
                                trouble.errno = error.raw_os_error();
                            }
                            trouble.unreadable |= bit(slot);
                            good = good.saturating_sub(1);
                        }
                    }
                }
            }
            self.count(u64::try_from(good).unwrap_or_default().saturating_mul(BLOCK_SIZE));
        }
        if self.shape.levels.is_empty() {
            // The hash of a single block is the root.
            let root = leaves.first().copied().filter(|_| known & 1 != 0);
            *lock(&self.top) = Digests { pushed: root, pure: root };
            return;
        }
        let mut block = Pending::new();
        for (slot, leaf) in leaves.iter().enumerate().filter(|(slot, _)| known & bit(*slot) != 0) {
            set_slot(&mut block.rebuilt, slot, leaf);
        }
        block.pure.copy_from_slice(&block.rebuilt[..]);
        block.known = known;
        block.pure_known = known;
        let mut digests = self.settle(0, run, block, trouble);
        // Upwards, as long as this was the last child to arrive.
        let mut index = run;
        for level in 1..=self.shape.levels.len() {
            let slot = usize::try_from(index % FANOUT).unwrap_or_default();
            index /= FANOUT;
            let Some(pending) = self.pending.get(level) else {
                *lock(&self.top) = digests;
                return;
            };
            let complete = {
                let mut pending = lock(pending);
                let block = pending.entry(index).or_insert_with(Pending::new);
                block.put(slot, &digests);
                if block.arrived < self.shape.used(level, index) { None } else { pending.remove(&index) }
            };
            let Some(block) = complete else { return };
            digests = self.settle(level, index, block, Trouble::default());
        }
    }

    /// Compares a hash block with what its children make it.
    fn settle(&self, level: usize, index: u64, block: Pending, trouble: Trouble) -> Digests {
        let Pending { mut rebuilt, pure, known, pure_known, .. } = block;
        let offset = self.shape.offset(level, index);
        let used = first_bits(self.shape.used(level, index));
        let all_pure = pure_known == used;
        let hash_block = |block: &[u8]| self.shape.salt.hash_block(block);
        let stored = if self.shape.reaches(offset) { Some(read_block(&self.image, offset)) } else { None };
        let (state, stored) = match stored {
            None => (Stored::Missing, None),
            Some(Err(errno)) => (Stored::Unreadable(errno), None),
            Some(Ok(block)) => {
                self.count(BLOCK_SIZE);
                (Stored::Present, Some(block))
            }
        };
        if let Some(stored) = &stored {
            // What could not be computed is taken for right: it is judged elsewhere.
            for slot_index in (0..SLOTS).filter(|index| used & !known & bit(*index) != 0) {
                set_slot(&mut rebuilt, slot_index, &slot(stored, slot_index));
            }
        }
        let complete = stored.is_some() || known == used;
        if !complete && level == 0 {
            self.unchecked.fetch_add(u64::from(known.count_ones()), Ordering::Relaxed);
        }
        let rebuilt_hash = complete.then(|| hash_block(&rebuilt[..]));
        let pure_hash = all_pure
            .then(|| if complete && pure == rebuilt { rebuilt_hash } else { Some(hash_block(&pure[..])) });
        let pure_hash = pure_hash.flatten();
        let differ = stored.as_ref().map_or(0, |stored| differing(stored, &rebuilt));
        let stored_hash = stored.as_ref().map(|stored| {
            if differ == 0 { rebuilt_hash.unwrap_or_default() } else { hash_block(&stored[..]) }
        });
        let digests = Digests { pushed: stored_hash.or(rebuilt_hash), pure: pure_hash };
        let impure = pure_hash.is_some() && stored_hash.is_some() && stored_hash != pure_hash;
        let odd = differ != 0 || impure || trouble.any || matches!(state, Stored::Unreadable(_));
        if odd {
            let record = Record {
                state,
                differ,
                unreadable: trouble.unreadable,
                errno: trouble.errno,
                unsteady: trouble.any && trouble.unreadable == 0,
                stored: stored_hash,
                rebuilt: rebuilt_hash,
                pure: pure_hash,
            };
            let mut kept = lock(&self.kept);
            let dropped = kept.records.get_mut(level).and_then(|records| records.insert(index, record));
            if let Some(record) = dropped {
                let bits = (record.differ | record.unreadable).count_ones().max(1);
                kept.dropped = kept.dropped.saturating_add(bits.into());
            }
            if let Some(stored) = stored.filter(|_| differ != 0)
                && let Some(details) = kept.details.get_mut(level)
            {
                details.insert(index, Detail { stored, rebuilt });
            }
        }
        digests
    }
}
