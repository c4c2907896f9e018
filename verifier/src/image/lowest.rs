//! A map that keeps the entries with the lowest keys.

use std::collections::BTreeMap;
use std::ops::Range;

/// Keeps at most a fixed number of entries, those with the lowest keys, whatever order they come in.
///
/// Threads deliver in any order; what is kept must not depend on it.
#[derive(Debug)]
pub(crate) struct Lowest<T> {
    entries: BTreeMap<u64, T>,
    limit: usize,
}

impl<T> Lowest<T> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { entries: BTreeMap::new(), limit }
    }

    /// Returns the entry that has to go, if any.
    pub(crate) fn insert(&mut self, key: u64, value: T) -> Option<T> {
        self.entries.insert(key, value);
        if self.entries.len() > self.limit { self.entries.pop_last().map(|(_, value)| value) } else { None }
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        self.entries.get(&key)
    }

    pub(crate) fn any_in(&self, keys: Range<u64>) -> bool {
        self.entries.range(keys).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::Lowest;

    #[test]
    fn what_is_kept_does_not_depend_on_the_order() {
        for order in [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2]] {
            let mut map = Lowest::new(2);
            let dropped: u64 = order.into_iter().filter_map(|key| map.insert(key, key)).sum();
            assert_eq!((map.get(1), map.get(2), map.get(3), dropped), (Some(&1), Some(&2), None, 7));
            assert!(map.any_in(2..9) && !map.any_in(3..9));
        }
    }
}
