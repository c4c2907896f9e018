//! What an audit of a tree found.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::difference::{Difference, Kind};

/// Differences that a report holds; further ones are counted.
pub const DIFFERENCES_MAX: usize = 10_000;

/// Bytes of text in a whole report; differences beyond are counted.
const TEXT_MAX: usize = 16 << 20;

/// The result of an audit of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Everything that differs, what concerns security first, then by path; at most [`DIFFERENCES_MAX`].
    pub findings: Vec<Difference>,
    /// Differences beyond those.
    pub truncated: u64,
    /// Whether everything could be looked at. If not, a report without findings proves nothing.
    pub complete: bool,
    /// What this run could not see anywhere, and why, one line each. The rest is [`Kind::Unreadable`] and
    /// [`Kind::Image`] among the findings.
    pub unseen: Vec<String>,
    /// Names that image and tree have both, the root included, and that were compared.
    pub entries: u64,
    /// Bytes of file content that were read.
    pub bytes: u64,
    /// Files that were not read, because the kernel vouches for their content (fs-verity).
    pub measured: u64,
}

impl TreeReport {
    /// Whether everything was looked at and nothing differs.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complete && self.findings.is_empty() && self.truncated == 0
    }
}

/// Differences as they come, from any thread.
pub(crate) struct Findings {
    kept: Mutex<Kept>,
    incomplete: AtomicBool,
    /// Whether there are names that were not looked at.
    hidden: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
    measured: AtomicU64,
    /// Only what concerns security, and what hides anything, is kept.
    only_security: bool,
}

struct Kept {
    all: BTreeSet<Difference>,
    text: usize,
    dropped: u64,
    /// The least that was dropped: nothing behind it is kept, so that what is kept does not depend on the order in
    /// which it came.
    bar: Option<Difference>,
}

impl Findings {
    pub(crate) const fn new(only_security: bool) -> Self {
        Self {
            kept: Mutex::new(Kept { all: BTreeSet::new(), text: 0, dropped: 0, bar: None }),
            incomplete: AtomicBool::new(false),
            hidden: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            only_security,
        }
    }

    pub(crate) fn add(&self, difference: Difference) {
        if matches!(difference.kind, Kind::Unreadable | Kind::Image) {
            self.incomplete.store(true, Ordering::Relaxed);
        }
        if difference.kind.hides() {
            self.hidden.store(true, Ordering::Relaxed);
        } else if self.only_security && difference.security.is_none() {
            return;
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).add(difference);
    }

    /// Whether there may be names that were not looked at.
    pub(crate) fn hides(&self) -> bool {
        self.hidden.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file was not read, because the kernel vouches for it.
    pub(crate) fn count_measured(&self) {
        self.measured.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn finish(self, unseen: Vec<String>) -> TreeReport {
        let kept = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        TreeReport {
            findings: kept.all.into_iter().collect(),
            truncated: kept.dropped,
            complete: !self.incomplete.into_inner() && unseen.is_empty(),
            unseen,
            entries: self.entries.into_inner(),
            bytes: self.bytes.into_inner(),
            measured: self.measured.into_inner(),
        }
    }
}

impl Kept {
    fn add(&mut self, difference: Difference) {
        if self.bar.as_ref().is_some_and(|bar| difference >= *bar) {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let text = difference.text_len();
        if self.all.insert(difference) {
            self.text = self.text.saturating_add(text);
        }
        while self.all.len() > DIFFERENCES_MAX || self.text > TEXT_MAX {
            let Some(last) = self.all.pop_last() else { break };
            self.text = self.text.saturating_sub(last.text_len());
            self.dropped = self.dropped.saturating_add(1);
            self.bar = Some(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_report_does_not_depend_on_the_order() {
        let difference = |index: usize| {
            // The longest paths stand in the middle, so that bytes and numbers both set limits.
            let length = if (4000..4600).contains(&index) { 40_000 } else { 10 };
            let mut path = format!("/{index:08}").into_bytes();
            path.resize(length, b'x');
            path
        };
        let all: Vec<usize> = (0..12_000).collect();
        let report = |order: &mut dyn Iterator<Item = &usize>| {
            let findings = Findings::new(false);
            for index in order {
                findings.add(Difference::new(difference(*index), Kind::Extra));
            }
            findings.finish(Vec::new())
        };
        let forwards = report(&mut all.iter());
        let backwards = report(&mut all.iter().rev());
        let middle = report(&mut all[6000..].iter().chain(&all[..6000]));
        assert_eq!(forwards, backwards);
        assert_eq!(forwards, middle);
        assert_eq!(forwards.findings.len() + usize::try_from(forwards.truncated).unwrap_or(0), 12_000);
        assert!(!forwards.is_clean() && forwards.findings.len() > 4000);
    }
}
