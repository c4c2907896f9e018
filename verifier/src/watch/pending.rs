//! What has happened and was not looked at yet.

use std::collections::BTreeSet;

use crate::tree::{Depth, Scope};

/// Why everything is looked at anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cause {
    /// The kernel's queue of events overflowed.
    Overflow,
    /// Something changed in a directory that is not known.
    UnknownDirectory,
    /// More has changed at once than is kept account of.
    Many,
    /// Something was mounted or unmounted in the tree.
    Mounts,
    /// The image file changed.
    File,
}

impl Cause {
    /// The cause in words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Overflow => "the queue of events overflowed",
            Self::UnknownDirectory => "something changed in an unknown directory",
            Self::Many => "too much changed at once",
            Self::Mounts => "something was mounted or unmounted",
            Self::File => "the image file changed",
        }
    }

    /// Whether something may have come and gone unseen.
    #[must_use]
    pub const fn loses(self) -> bool {
        matches!(self, Self::Overflow | Self::UnknownDirectory)
    }
}

/// What has happened and was not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Paths to compare.
    pub(super) scope: Scope,
    /// Paths at which directories came or went.
    pub(super) marks: BTreeSet<Vec<u8>>,
    /// Whether names came or went, so that hard links may have.
    pub(super) names: bool,
    /// Whether everything is to be marked and compared.
    pub(super) cause: Option<Cause>,
}

impl Pending {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.scope.is_empty() && self.cause.is_none()
    }

    /// Takes note of a path to compare.
    pub(super) fn add(&mut self, path: Vec<u8>, depth: Depth) {
        if self.cause.is_some() {
            return;
        }
        self.names |= depth == Depth::Below;
        self.scope.add(path, depth);
        if self.scope.is_everything() {
            self.everything(Cause::Many);
        }
    }

    /// Takes note that a directory came to a path, or went from there.
    pub(super) fn mark(&mut self, path: Vec<u8>) {
        if self.cause.is_none() {
            self.marks.insert(path);
        }
    }

    /// Takes note that everything is to be looked at. The first cause is the one that is told.
    pub(super) fn everything(&mut self, cause: Cause) {
        let first = self.cause.unwrap_or(cause);
        // A loss must not hide behind a cause that loses nothing.
        let cause = if cause.loses() && !first.loses() { cause } else { first };
        *self = Self { cause: Some(cause), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_outweighs_all_paths_and_keeps_the_worst_cause() {
        let mut pending = Pending::default();
        assert!(pending.is_empty());
        pending.add(b"/a".to_vec(), Depth::Own);
        assert!(!pending.is_empty() && !pending.names);
        pending.mark(b"/b".to_vec());
        pending.everything(Cause::Mounts);
        pending.add(b"/c".to_vec(), Depth::Below);
        pending.mark(b"/c".to_vec());
        assert!(pending.scope.is_empty() && pending.marks.is_empty() && !pending.is_empty());
        pending.everything(Cause::Overflow);
        assert_eq!(pending.cause, Some(Cause::Overflow));
        pending.everything(Cause::Many);
        assert_eq!(pending.cause, Some(Cause::Overflow));
    }

    #[test]
    fn the_whole_tree_at_once_is_too_much() {
        let mut pending = Pending::default();
        pending.add(Vec::new(), Depth::Below);
        assert_eq!(pending.cause, Some(Cause::Many));
    }
}
