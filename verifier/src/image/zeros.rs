//! Bytes that belong to nothing, and must be zero.

use std::io;
use std::ops::{ControlFlow, Range};

use mkimg_format::ReadAt;

/// From the first byte of a range that is not zero to the last one; `None` if all are zero.
///
/// `chunk` bytes are read at once. Of a chunk that cannot be read `unreadable` is told its bytes, and says whether to go on.
pub(super) fn nonzero(
    io: &(impl ReadAt + ?Sized),
    range: Range<u64>,
    chunk: usize,
    mut unreadable: impl FnMut(Range<u64>, &io::Error) -> ControlFlow<()>,
) -> Option<Range<u64>> {
    let (zeros, mut buffer) = (vec![0; chunk], vec![0; chunk]);
    let mut found: Option<Range<u64>> = None;
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end.saturating_sub(at)).unwrap_or(chunk).min(chunk);
        let bytes = buffer.get_mut(..length).unwrap_or_default();
        let place = |index: usize| at.saturating_add(u64::try_from(index).unwrap_or_default());
        let next = place(length);
        if let Err(error) = io.read_exact_at(bytes, at) {
            if unreadable(at..next, &error).is_break() {
                break;
            }
        // Nearly always equal, and comparing memory is much faster than looking at bytes.
        } else if Some(&*bytes) != zeros.get(..length) {
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(first);
            let start = found.map_or(place(first), |found| found.start);
            found = Some(start..place(last).saturating_add(1));
        }
        at = next;
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_span_reaches_over_chunks_and_holes() {
        for (places, range, wanted) in [
            (&[][..], 0..100, None),
            (&[5], 0..100, Some(5..6)),
            (&[5, 17, 90], 0..100, Some(5..91)),
            (&[5, 17, 90], 6..90, Some(17..18)),
            (&[5], 6..6, None),
        ] {
            let mut bytes = vec![0; 100];
            for place in places {
                bytes[*place] = 1;
            }
            let found = nonzero(&bytes, range, 16, |_, _| unreachable!());
            assert_eq!(found, wanted, "{places:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_chunk_by_chunk() {
        let bytes = vec![1; 20];
        for (flow, wanted) in
            [(ControlFlow::Continue(()), &[(16, 32), (32, 40)][..]), (ControlFlow::Break(()), &[(16, 32)])]
        {
            let mut told = Vec::new();
            let found = nonzero(&bytes, 0..40, 16, |range, _| {
                told.push((range.start, range.end));
                flow
            });
            assert_eq!((found, &told[..]), (Some(0..16), wanted));
        }
    }
}
