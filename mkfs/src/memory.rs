//! How much memory a build may take for what is on its way, and who gets how much of it.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use thiserror::Error;

use crate::compression::Compression;

/// Bytes of a chunk of a layer.
const CHUNK: u64 = 256 << 10;

/// What each thread can make use of for data that is on its way.
const FOR_A_THREAD: u64 = 16 << 20;

/// Chunks of a layer that is checked: so many in any case (its blob, and what somebody has in hand), and so many times the
/// distance of its works.
const CHECKED: u64 = 8;
const CHECKED_EACH: u64 = 3;

/// Chunks of a layer that is copied from, besides those that are inflated ahead.
const COPIED: u64 = 4;

/// Works of one layer that are further apart than so many chunks gain nothing.
const AHEAD_MAX: u64 = 8;

/// A budget in bytes: what a build may take for data on its way, and for layers that stay inflated until they are copied.
///
/// Besides it a build takes some 20 MiB and 300 bytes an entry, and 8 MiB for each GiB of an image that is compressed. The
/// budget never changes the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(u64);

/// A size that is no budget.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// It is no size.
    #[error("{0:?} is no size: a number with K, M, G or T, as in 256M")]
    Malformed(String),
    /// It is too small to get anywhere.
    #[error("{0} is too little: the smallest value is {smallest}", smallest = Memory::MIN)]
    TooLittle(Memory),
}

impl Memory {
    /// The smallest budget.
    pub const MIN: Memory = Memory(8 << 20);

    /// What a build takes when nobody says anything: all of it stays below 64 MiB and 300 bytes an entry, or with
    /// compression below 256 MiB.
    pub const fn suits(compression: Compression) -> Memory {
        match compression {
            Compression::None => Memory(32 << 20),
            _ => Memory(128 << 20),
        }
    }

    /// A budget of so many bytes.
    ///
    /// # Errors
    /// [`MemoryError::TooLittle`] below [`Memory::MIN`].
    pub const fn new(bytes: u64) -> Result<Memory, MemoryError> {
        if bytes < Self::MIN.0 { Err(MemoryError::TooLittle(Memory(bytes))) } else { Ok(Memory(bytes)) }
    }

    /// For data on its way: no more than half, and no more than the threads can make use of.
    const fn moving(self, threads: NonZeroUsize) -> u64 {
        let useful = FOR_A_THREAD.saturating_mul(threads.get() as u64);
        if useful < self.0 / 2 { useful } else { self.0 / 2 }
    }

    /// For layers that stay inflated.
    pub(crate) const fn kept(self, threads: NonZeroUsize) -> u64 {
        self.0 - self.moving(threads)
    }

    /// How many layers are checked at once, and how many chunks the works of each may be apart.
    pub(crate) fn checking(self, threads: NonZeroUsize, layers: usize) -> Lanes {
        Lanes::of(self.moving(threads), threads, layers, |chunks| {
            chunks.saturating_sub(CHECKED) / CHECKED_EACH
        })
    }

    /// How many layers are open for copying at once, and how many chunks of each are inflated ahead. The other half of what
    /// is on its way is the image's.
    pub(crate) fn copying(self, threads: NonZeroUsize, layers: usize) -> Lanes {
        Lanes::of(self.moving(threads) / 2, threads, layers, |chunks| chunks.saturating_sub(COPIED))
    }

    /// Buffers of `size` bytes of which each thread fills one while another is emptied: those of one of `queues` queues.
    pub(crate) fn queue(self, threads: NonZeroUsize, queues: u64, size: u64) -> usize {
        let room = self.moving(threads) / 2 / queues.max(1) / size.max(1);
        usize::try_from(room).unwrap_or(usize::MAX).clamp(1, 2 * threads.get())
    }
}

/// Layers that are read side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    pub layers: usize,
    /// Chunks of 256 KiB.
    pub ahead: usize,
}

impl Lanes {
    /// As many layers as there are threads, but with room for each.
    fn of(room: u64, threads: NonZeroUsize, layers: usize, ahead: impl Fn(u64) -> u64) -> Lanes {
        let chunks = room / CHUNK;
        let most = usize::try_from(chunks / CHECKED).unwrap_or(usize::MAX);
        let layers = layers.min(threads.get()).min(most).max(1);
        let ahead = match threads.get() {
            // A single thread stays in its cache.
            1 => 0,
            _ => ahead(chunks / layers as u64).min(AHEAD_MAX),
        };
        Lanes { layers, ahead: usize::try_from(ahead).unwrap_or(0) }
    }
}

/// Suffixes of sizes.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Memory {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Memory, MemoryError> {
        let malformed = || MemoryError::Malformed(text.to_owned());
        let unit = UNITS.iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_lowercase()]));
        let digits = unit.map_or(text, |_| &text[..text.len() - 1]);
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(malformed());
        }
        let number: u64 = digits.parse().map_err(|_| malformed())?;
        let bytes = number.checked_mul(1 << unit.map_or(0, |(_, bits)| *bits)).ok_or_else(malformed)?;
        Memory::new(bytes)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, bits)| self.0 > 0 && self.0.trailing_zeros() >= *bits);
        match whole {
            Some((unit, bits)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("8388608", 8 << 20),
            ("8192K", 8 << 20),
            ("8m", 8 << 20),
            ("256M", 256 << 20),
            ("1G", 1 << 30),
            ("2t", 2 << 40),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Memory(bytes)), "{text}");
        }
        for text in
            ["", "M", "x", "1.5G", "-1G", "+9G", "1 G", "1GB", "1GiB", "16777216T", "99999999999999999999"]
        {
            assert_eq!(text.parse::<Memory>(), Err(MemoryError::Malformed(text.to_owned())), "{text}");
        }
        for (text, found) in [("0", "0"), ("7M", "7M"), ("8388607", "8388607"), ("1k", "1K")] {
            let error = text.parse::<Memory>().unwrap_err();
            assert_eq!(error.to_string(), format!("{found} is too little: the smallest value is 8M"));
        }
        for text in ["8M", "300M", "1G", "8388609", "9000K"] {
            assert_eq!(text.parse::<Memory>().unwrap().to_string(), text);
        }
    }

    /// Whatever the numbers of threads and layers, the shares stay within the budget, and nobody goes without.
    #[test]
    fn shares_stay_within_the_budget() {
        let budgets = [8, 9, 32, 128, 1 << 10, 1 << 20].map(|mebibytes| Memory(mebibytes << 20));
        for memory in budgets {
            for threads in (1..=64).filter_map(NonZeroUsize::new) {
                for layers in [1, 2, 6, 127] {
                    let case = format!("{memory} {threads} {layers}");
                    let checking = memory.checking(threads, layers);
                    let held =
                        checking.layers as u64 * (CHECKED + CHECKED_EACH * checking.ahead as u64) * CHUNK;
                    assert!(held + memory.kept(threads) <= memory.0, "{case}: {checking:?}");
                    let copying = memory.copying(threads, layers);
                    let held = copying.layers as u64 * (COPIED + copying.ahead as u64) * CHUNK;
                    let size = 1 << 20;
                    let queued = 2 * memory.queue(threads, 2, size) as u64 * size;
                    // One buffer is always there.
                    let queued = if queued > 2 * size { queued } else { 0 };
                    assert!(held + queued + memory.kept(threads) <= memory.0, "{case}: {copying:?}");
                    for lanes in [checking, copying] {
                        assert!((1..=threads.get().min(layers)).contains(&lanes.layers), "{case}: {lanes:?}");
                        assert!(
                            threads.get() == 1 || memory.0 == 8 << 20 || lanes.ahead > 0 || lanes.layers > 1
                        );
                    }
                    assert!((1..=2 * threads.get()).contains(&memory.queue(threads, 2, size)), "{case}");
                }
            }
        }
    }
}
