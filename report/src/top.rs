//! The largest of many, in the memory of a few.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keeps the `room` largest of all that were offered.
#[derive(Debug)]
pub(crate) struct Top<T> {
    heap: BinaryHeap<Reverse<T>>,
    room: usize,
}

impl<T: Ord> Top<T> {
    /// Keeps none yet.
    pub(crate) const fn new(room: usize) -> Self {
        Self { heap: BinaryHeap::new(), room }
    }

    /// Takes `item` if it is among the largest so far.
    pub(crate) fn offer(&mut self, item: T) {
        if self.heap.len() < self.room {
            self.heap.push(Reverse(item));
        } else if let Some(mut least) = self.heap.peek_mut()
            && item > least.0
        {
            *least = Reverse(item);
        }
    }

    /// Largest first.
    pub(crate) fn into_sorted(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first() {
        for (room, wanted) in [(0, vec![]), (1, vec![9]), (3, vec![9, 9, 5]), (9, vec![9, 9, 5, 4, 1])] {
            let mut top = Top::new(room);
            [4, 9, 1, 9, 5].into_iter().for_each(|item| top.offer(item));
            assert_eq!(top.into_sorted(), wanted, "{room}");
        }
    }
}
