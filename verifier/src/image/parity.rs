//! Is the parity that of the data?
//!
//! No hash covers parity: it is computed anew and compared. Where something that it protects is damaged, nobody can say
//! what it should be, so rounds with such blocks are left out.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mkimg_format::fec::{Layout, for_each_round};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

use super::blame::Damaged;
use super::report::FINDINGS_MAX;

/// What is wrong with a run of parity blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flaw {
    /// They are not what the data makes them.
    Wrong,
    /// The system reported an error.
    Unreadable(Option<i32>),
}

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Flawed blocks as ranges of bytes, in order.
    pub(crate) flaws: Vec<(Range<u64>, Flaw)>,
    /// Flawed blocks beyond those that are kept.
    pub(crate) dropped: u64,
    /// Bytes of parity that were read.
    pub(crate) bytes_read: u64,
}

/// Rounds that cannot be judged, a bit each: at most 2 MiB.
struct Doubtful(Vec<u64>);

impl Doubtful {
    fn new(layout: &Layout, damage: &[Damaged]) -> Self {
        let words = if damage.is_empty() { 0 } else { layout.rounds().div_ceil(64) };
        let mut doubtful = Self(vec![0; usize::try_from(words).unwrap_or_default()]);
        for range in damage {
            let blocks = range.start / BLOCK_SIZE..range.end.div_ceil(BLOCK_SIZE);
            // Blocks that follow each other are of rounds that do: so many blocks are all rounds.
            let all = layout.rounds().saturating_add(1);
            for block in blocks.take(usize::try_from(all).unwrap_or(usize::MAX)) {
                let Some((_, round)) = layout.place(block) else { continue };
                if let Some(word) = doubtful.word(round) {
                    *word |= 1 << (round % 64);
                }
            }
        }
        doubtful
    }

    fn word(&mut self, round: u64) -> Option<&mut u64> {
        self.0.get_mut(usize::try_from(round / 64).ok()?)
    }

    fn has(&self, round: u64) -> bool {
        let word = usize::try_from(round / 64).ok().and_then(|index| self.0.get(index));
        word.is_some_and(|word| word >> (round % 64) & 1 == 1)
    }
}

/// Compares the parity of all rounds but those of which something is damaged.
pub(crate) fn compare<R: ReadAt + Sync>(
    image: &R,
    layout: &Layout,
    damage: &[Damaged],
    threads: usize,
) -> Compared {
    let doubtful = Doubtful::new(layout, damage);
    let flaws = Mutex::new(Flaws::default());
    let bytes_read = AtomicU64::new(0);
    for_each_round(image, layout, threads, &|round, parity| {
        // What cannot be read has been reported as such.
        let Ok(parity) = parity else { return };
        if doubtful.has(round) {
            return;
        }
        let add = |block: usize, flaw| {
            let skip = u64::try_from(block).unwrap_or_default().saturating_mul(BLOCK_SIZE);
            let offset = layout.round_offset(round).saturating_add(skip);
            flaws.lock().unwrap_or_else(PoisonError::into_inner).add(offset, flaw);
        };
        let mut stored = vec![0; parity.len()];
        let read = |block: usize, bytes: &mut [u8]| {
            let skip = u64::try_from(block).unwrap_or_default().saturating_mul(BLOCK_SIZE);
            let read = image.read_exact_at(bytes, layout.round_offset(round).saturating_add(skip));
            if read.is_ok() {
                let length = u64::try_from(bytes.len()).unwrap_or_default();
                bytes_read.fetch_add(length, Ordering::Relaxed);
            }
            read
        };
        let whole = read(0, &mut stored);
        let blocks = stored.chunks_exact_mut(BLOCK_LEN).zip(parity.chunks_exact(BLOCK_LEN)).enumerate();
        for (number, (found, wanted)) in blocks {
            match if whole.is_ok() { Ok(()) } else { read(number, found) } {
                Ok(()) if found == wanted => {}
                Ok(()) => add(number, Flaw::Wrong),
                // A file that ends early is a finding of its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => add(number, Flaw::Unreadable(error.raw_os_error())),
            }
        }
    });
    let flaws = flaws.into_inner().unwrap_or_else(PoisonError::into_inner);
    Compared { bytes_read: bytes_read.into_inner(), ..flaws.finish() }
}

/// Flawed blocks as they come, the first ones by offset.
#[derive(Default)]
struct Flaws {
    kept: std::collections::BTreeMap<u64, Flaw>,
    dropped: u64,
}

impl Flaws {
    fn add(&mut self, offset: u64, flaw: Flaw) {
        self.kept.insert(offset, flaw);
        if self.kept.len() > FINDINGS_MAX {
            self.kept.pop_last();
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Joins neighbours.
    fn finish(self) -> Compared {
        let mut flaws: Vec<(Range<u64>, Flaw)> = Vec::new();
        for (offset, flaw) in self.kept {
            let end = offset.saturating_add(BLOCK_SIZE);
            match flaws.last_mut() {
                Some((range, same)) if range.end == offset && *same == flaw => range.end = end,
                _ => flaws.push((offset..end, flaw)),
            }
        }
        Compared { flaws, dropped: self.dropped, bytes_read: 0 }
    }
}
