//! What an audit of a live mount found.

use std::fmt;
use std::path::PathBuf;

use mkimg_format::Sha256;

use super::place::Place;
use crate::Report;
use crate::tree::TreeReport;

/// What a problem with a mount is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Another mount hides the image.
    OverMounted,
    /// No name leads to the backing file any more.
    BackingDeleted,
    /// Another file has the name of the backing file.
    BackingReplaced,
    /// The backing file is shorter than what is mounted from it.
    BackingTruncated,
    /// The backing file changed while it was audited.
    BackingChanging,
    /// dm-verity has met blocks that do not match.
    VerityCorrupted,
    /// dm-verity has mended blocks that did not match.
    VerityCorrected,
    /// dm-verity does not check everything.
    VerityOptions,
    /// dm-verity checks against another root hash.
    VerityRoot,
}

impl ProblemKind {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::OverMounted => "over-mounted",
            Self::BackingDeleted => "backing-deleted",
            Self::BackingReplaced => "backing-replaced",
            Self::BackingTruncated => "backing-truncated",
            Self::BackingChanging => "backing-changing",
            Self::VerityCorrupted => "verity-corrupted",
            Self::VerityCorrected => "verity-corrected",
            Self::VerityOptions => "verity-options",
            Self::VerityRoot => "verity-root",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Something that is wrong with a mount as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What it is about.
    pub kind: ProblemKind,
    /// What is wrong, on one line.
    pub text: String,
}

/// The result of an audit of a live mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveReport {
    /// The image file or device, as the kernel names it.
    pub image: PathBuf,
    /// What lies between mount and image, in words.
    pub how: String,
    /// What the kernel does when a block does not match: `eio`, `restart`, `panic` or `ignore`; `None` without dm-verity,
    /// or if that may not be asked.
    pub on_corruption: Option<&'static str>,
    /// Directories above the image when it is below an overlay, topmost first.
    pub above: Vec<PathBuf>,
    /// Those below the image, topmost first.
    pub beneath: Vec<PathBuf>,
    /// Whether all of them could be looked at, so that no one of them made a difference without a layer.
    pub layers_seen: bool,
    /// What is wrong with the mount as a whole.
    pub problems: Vec<Problem>,
    /// What processes see; `None` when it could not be compared.
    pub tree: Option<TreeReport>,
    /// The bytes of the backing file; `None` when they could not be read.
    pub backing: Option<Report>,
    /// What could not be looked at, and why, one line each.
    pub unseen: Vec<String>,
}

impl LiveReport {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            image: place.image.image.clone(),
            how: place.how(),
            on_corruption: None,
            above: place.above.clone(),
            beneath: place.beneath.clone(),
            layers_seen: true,
            problems: Vec::new(),
            tree: None,
            backing: None,
            unseen: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, kind: ProblemKind, text: String) {
        self.problems.push(Problem { kind, text });
    }

    /// All directories that [`Difference::layer`](crate::tree::Difference::layer) counts: those above the image, then
    /// those below it.
    #[must_use]
    pub fn layers(&self) -> Vec<PathBuf> {
        self.above.iter().chain(&self.beneath).cloned().collect()
    }

    /// Whether there is an overlay between processes and the image.
    #[must_use]
    pub const fn is_overlay(&self) -> bool {
        !self.above.is_empty() || !self.beneath.is_empty()
    }

    /// Whether bytes and records were compared with a root hash from outside.
    #[must_use]
    pub fn is_anchored(&self) -> bool {
        self.backing.as_ref().is_some_and(|backing| backing.anchored)
    }

    /// Whether everything was looked at and nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.is_complete() && self.findings() == 0
    }

    /// Whether everything could be looked at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unseen.is_empty()
            && self.tree.as_ref().is_some_and(|tree| tree.complete)
            && self.backing.as_ref().is_some_and(|backing| backing.complete)
    }

    /// Root hash of the backing file.
    #[must_use]
    pub fn root_hash(&self) -> Option<Sha256> {
        self.backing.as_ref().map(|backing| backing.root_hash)
    }

    /// Everything that is wrong, counted.
    #[must_use]
    pub fn findings(&self) -> u64 {
        let count =
            |findings: usize, more: u64| more.saturating_add(u64::try_from(findings).unwrap_or(u64::MAX));
        let tree = self.tree.as_ref().map_or(0, |tree| count(tree.findings.len(), tree.truncated));
        let backing = self
            .backing
            .as_ref()
            .map_or(0, |backing| count(backing.findings.len(), backing.truncated_findings));
        count(self.problems.len(), tree.saturating_add(backing))
    }
}
