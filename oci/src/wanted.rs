//! Which bytes of a stream somebody is going to read.

use std::collections::VecDeque;
use std::ops::Range;

/// Gaps up to so many bytes are read over: the next chunk would hold what is behind them anyway.
const GAP_MAX: u64 = crate::decode::BUFFER as u64;

/// Ranges of bytes of a tar, in order. What is between them need not be kept, and what is behind the last one need not
/// be read at all.
///
/// There is at most one range for each 256 KiB of tar, so that this is small even for millions of files.
#[derive(Clone, Debug, Default)]
pub struct Wanted(VecDeque<Range<u64>>);

impl Wanted {
    /// All of a stream, however long it is.
    pub fn everything() -> Wanted {
        let mut wanted = Wanted::default();
        wanted.add(0..u64::MAX);
        wanted
    }

    /// Adds a range that does not begin before the last one.
    pub fn add(&mut self, range: Range<u64>) {
        match self.0.back_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end.saturating_add(GAP_MAX) => {
                last.end = last.end.max(range.end)
            }
            _ => self.0.push_back(range),
        }
    }

    /// The first wanted byte that is not before `at`.
    pub(crate) fn next(&self, at: u64) -> Option<u64> {
        self.0.iter().find(|range| at < range.end).map(|range| at.max(range.start))
    }

    /// Whether nothing is wanted from `at` on.
    pub(crate) fn ends_at(&self, at: u64) -> bool {
        self.next(at).is_none()
    }

    /// Leaves out everything before `to`.
    pub(crate) fn forget(&mut self, to: u64) {
        while self.0.front().is_some_and(|range| range.end <= to) {
            self.0.pop_front();
        }
        if let Some(first) = self.0.front_mut() {
            first.start = first.start.max(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_order() {
        let mut wanted = Wanted::default();
        assert!(wanted.ends_at(0));
        for range in
            [10..20, 20..20, 20..30, 25..28, GAP_MAX + 30..GAP_MAX + 40, 3 * GAP_MAX..3 * GAP_MAX + 1]
        {
            wanted.add(range);
        }
        assert_eq!(wanted.0, [10..GAP_MAX + 40, 3 * GAP_MAX..3 * GAP_MAX + 1]);
        let found =
            [0, 10, 15, GAP_MAX + 39, GAP_MAX + 40, 3 * GAP_MAX, 3 * GAP_MAX + 1].map(|at| wanted.next(at));
        let expected = [10, 10, 15, GAP_MAX + 39, 3 * GAP_MAX, 3 * GAP_MAX].map(Some);
        assert_eq!(found[..6], expected);
        assert_eq!(found[6], None);
        wanted.forget(15);
        assert_eq!(wanted.next(0), Some(15));
        wanted.forget(GAP_MAX + 40);
        assert_eq!(wanted.next(0), Some(3 * GAP_MAX));
        wanted.forget(u64::MAX);
        assert!(wanted.ends_at(0));
        assert!(!Wanted::everything().ends_at(u64::MAX - 1));
    }
}
