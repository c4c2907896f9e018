//! What an audit of a tree found.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Field;

/// Differences that a report holds; further ones are counted.
pub const DIFFERENCES_MAX: usize = 10_000;

/// Bytes of text in a whole report; differences beyond are counted.
const TEXT_MAX: usize = 16 << 20;

/// What a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// The image has it and the tree has not. What would be below it is not listed.
    Missing,
    /// The tree has it and the image has not. What is below it is not listed.
    Extra,
    /// It is of another type; nothing else of it is compared.
    Type,
    /// Permission, set-id and sticky bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Length, and so content.
    Size,
    /// Content.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Major and minor number of a device.
    Rdev,
    /// Hard links.
    Links,
    /// One extended attribute.
    Xattr,
    /// Something is mounted there, and what is behind was not looked at.
    Mount,
    /// It changed while it was looked at.
    Changing,
    /// It could not be read.
    Unreadable,
    /// The image could not be read there, or contradicts itself.
    Image,
}

impl Kind {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Mtime => "mtime",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Rdev => "rdev",
            Self::Links => "links",
            Self::Xattr => "xattr",
            Self::Mount => "mount",
            Self::Changing => "changing",
            Self::Unreadable => "unreadable",
            Self::Image => "image",
        }
    }

    /// The field whose comparison finds it; `None` for what is always reported.
    #[must_use]
    pub const fn field(self) -> Option<Field> {
        Some(match self {
            Self::Mode => Field::Mode,
            Self::Uid => Field::Uid,
            Self::Gid => Field::Gid,
            Self::Mtime => Field::Mtime,
            Self::Size => Field::Size,
            Self::Content => Field::Content,
            Self::Target => Field::Target,
            Self::Rdev => Field::Rdev,
            Self::Links => Field::Links,
            Self::Xattr => Field::Xattrs,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// One thing that is not as it was shipped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Absolute path in the image; `/` for the root.
    pub path: Vec<u8>,
    /// What it is about.
    pub kind: Kind,
    /// How the image has it, printable; `None` when there is nothing to say.
    pub expected: Option<String>,
    /// How the tree has it, or what the system said, printable.
    pub found: Option<String>,
}

/// The result of an audit of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReport {
    /// Everything that differs, by path and then kind; at most [`DIFFERENCES_MAX`].
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
}

impl TreeReport {
    /// Whether everything was looked at and nothing differs.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complete && self.findings.is_empty() && self.truncated == 0
    }
}

/// Differences as they come, from any thread.
pub(super) struct Findings {
    kept: Mutex<Kept>,
    incomplete: AtomicBool,
    /// Whether there are names that were not looked at.
    hidden: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
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
    pub(super) const fn new() -> Self {
        Self {
            kept: Mutex::new(Kept { all: BTreeSet::new(), text: 0, dropped: 0, bar: None }),
            incomplete: AtomicBool::new(false),
            hidden: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn add(
        &self,
        path: Vec<u8>,
        kind: Kind,
        expected: impl Into<Option<String>>,
        found: impl Into<Option<String>>,
    ) {
        if matches!(kind, Kind::Unreadable | Kind::Image) {
            self.incomplete.store(true, Ordering::Relaxed);
        }
        if matches!(kind, Kind::Unreadable | Kind::Image | Kind::Mount | Kind::Changing) {
            self.hidden.store(true, Ordering::Relaxed);
        }
        let difference = Difference { path, kind, expected: expected.into(), found: found.into() };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.add(difference);
    }

    /// Whether there may be names that were not looked at.
    pub(super) fn hides(&self) -> bool {
        self.hidden.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn finish(self, unseen: Vec<String>) -> TreeReport {
        let kept = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        TreeReport {
            findings: kept.all.into_iter().collect(),
            truncated: kept.dropped,
            complete: !self.incomplete.into_inner() && unseen.is_empty(),
            unseen,
            entries: self.entries.into_inner(),
            bytes: self.bytes.into_inner(),
        }
    }
}

impl Kept {
    fn add(&mut self, difference: Difference) {
        if self.bar.as_ref().is_some_and(|bar| difference >= *bar) {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let text = text_len(&difference);
        if self.all.insert(difference) {
            self.text = self.text.saturating_add(text);
        }
        while self.all.len() > DIFFERENCES_MAX || self.text > TEXT_MAX {
            let Some(last) = self.all.pop_last() else { break };
            self.text = self.text.saturating_sub(text_len(&last));
            self.dropped = self.dropped.saturating_add(1);
            self.bar = Some(last);
        }
    }
}

fn text_len(difference: &Difference) -> usize {
    let side = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    difference.path.len().saturating_add(side(&difference.expected)).saturating_add(side(&difference.found))
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
            let findings = Findings::new();
            for index in order {
                findings.add(difference(*index), Kind::Extra, None, None);
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
