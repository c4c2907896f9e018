//! Which numbers have been seen: of inodes, of contents, of blocks.

use std::ops::Range;

/// Numbers that are remembered, a bit for each: 64 MiB. That is 16 GiB of inodes, or 2 TiB of blocks.
///
/// One behind them is new each time.
pub const NUMBERS_MAX: u64 = 1 << 29;

/// Numbers that occurred.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Vec<u64>);

impl Numbers {
    /// Takes note of a number. Returns whether it is new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        self.insert_all(number..number.saturating_add(1)) > 0
    }

    /// Takes note of some numbers in a row. Returns how many of them are new.
    pub(crate) fn insert_all(&mut self, numbers: Range<u64>) -> u64 {
        let end = numbers.end.min(NUMBERS_MAX);
        let mut at = numbers.start;
        let mut new = numbers.end.saturating_sub(at.max(end));
        while at < end {
            let next = (at | 63).saturating_add(1).min(end);
            let Ok(index) = usize::try_from(at / 64) else { break };
            if index >= self.0.len() {
                self.0.resize(index.saturating_add(1), 0);
            }
            if let Some(word) = self.0.get_mut(index) {
                // Of the bits of this word, those from `at` to `next`.
                let bits = (u64::MAX >> 64_u64.saturating_sub(next.saturating_sub(at))) << (at % 64);
                new = new.saturating_add((bits & !*word).count_ones().into());
                *word |= bits;
            }
            at = next;
        }
        new
    }

    /// Whether a number occurred.
    pub(crate) fn contains(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|index| self.0.get(index));
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut seen = Numbers::default();
        for (number, is_new) in [(7, true), (7, false), (6, true), (1000, true), (1000, false), (0, true)] {
            assert_eq!(seen.contains(number), !is_new, "{number}");
            assert_eq!(seen.insert(number), is_new, "{number}");
        }
        assert!(seen.insert(NUMBERS_MAX) && seen.insert(NUMBERS_MAX), "beyond the bound");
        assert!(!seen.contains(NUMBERS_MAX) && !seen.contains(u64::MAX));
        assert!(seen.0.len() < 100);
    }

    #[test]
    fn rows_count_what_is_new_in_them() {
        let mut seen = Numbers::default();
        for (numbers, new) in [
            (10..20, 10),
            (0..64, 54),
            (0..64, 0),
            (63..65, 1),
            (60..300, 235),
            (5..5, 0),
            (400..464, 64),
            (399..465, 2),
            (NUMBERS_MAX..NUMBERS_MAX + 3, 3),
            (u64::MAX - 1..u64::MAX, 1),
        ] {
            assert_eq!(seen.insert_all(numbers.clone()), new, "{numbers:?}");
        }
        let mut seen = Numbers::default();
        for new in [7, 3] {
            assert_eq!(seen.insert_all(NUMBERS_MAX - 4..NUMBERS_MAX + 3), new, "over the bound");
        }
    }
}
