//! What is watched, and how it is audited.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use mkimg_format::detached::{Sealed, WithoutData};
use mkimg_format::header::Header;
use mkimg_format::{ReadAt, Sha256};

use super::Error;
use crate::live::{self, LiveOptions, LiveReport, Problem, audit_mount};
use crate::tree::{Scope, TreeOptions, TreeReport, audit_scope, audit_tree};
use crate::{Finding, Options, Report, verify_image};

/// Something wrong below a mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Below {
    /// With the mount as a whole.
    Mount(Problem),
    /// With the bytes of the backing file.
    File(Finding),
}

/// What an audit of everything has found.
#[derive(Debug, Default)]
pub struct Found {
    pub(super) tree: Option<TreeReport>,
    pub(super) below: BTreeSet<Below>,
    /// Whether all that is wrong with the bytes of the image file is among it.
    pub(super) file: bool,
    pub(super) unseen: Vec<String>,
    pub(super) complete: bool,
}

/// Something to watch: a [`Tree`] or a [`Mount`].
pub trait Subject {
    /// What an audit of everything reports.
    type Report;

    /// Where it is, as a canonical path.
    fn dir(&self) -> &Path;

    /// How its tree is audited.
    fn options(&self) -> &TreeOptions<'_>;

    /// Whether anything in its tree can change.
    fn is_writable(&self) -> bool;

    /// The image file, which is watched too; `None` if it cannot be had.
    ///
    /// # Errors
    /// When nothing can be said about it.
    fn file(&self) -> Result<Option<File>, Error>;

    /// Audits everything.
    ///
    /// # Errors
    /// When nothing could be audited.
    fn audit(&self) -> Result<Self::Report, Error>;

    /// What a report holds.
    fn found(report: &Self::Report) -> Found;

    /// Audits some paths of the tree; `None` if there is nothing to compare with any more, which an audit of everything
    /// will say.
    ///
    /// # Errors
    /// When nothing could be audited.
    fn audit_scope(&self, scope: &Scope, options: &TreeOptions<'_>) -> Result<Option<TreeReport>, Error>;
}

/// A tree that was extracted from an image.
pub struct Tree<'a, R> {
    /// The image, or a detached seal.
    pub image: &'a R,
    /// The file that it is read from.
    pub file: &'a File,
    /// Its root hash, which it must keep.
    pub root_hash: Sha256,
    /// The tree, as a canonical path.
    pub dir: &'a Path,
    /// What to compare.
    pub options: TreeOptions<'a>,
}

impl<R: ReadAt + Sync> Subject for Tree<'_, R> {
    type Report = TreeReport;

    fn dir(&self) -> &Path {
        self.dir
    }

    fn options(&self) -> &TreeOptions<'_> {
        &self.options
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn file(&self) -> Result<Option<File>, Error> {
        Ok(self.file.try_clone().ok())
    }

    fn audit(&self) -> Result<TreeReport, Error> {
        // The records come first: a tree that equals forged records proves nothing.
        let image = Sealed::open(self.image)?;
        let records = WithoutData::new(&image, &Header::read(&image)?);
        let threads = self.options.threads;
        let options = Options { root_hash: Some(self.root_hash), threads, progress: None };
        if !verify_image(&records, &options).is_ok_and(|checked| checked.is_clean()) {
            return Err(Error::Records);
        }
        Ok(audit_tree(self.image, self.dir, &self.options)?)
    }

    fn found(report: &TreeReport) -> Found {
        Found { tree: Some(report.clone()), complete: report.complete, ..Found::default() }
    }

    fn audit_scope(&self, scope: &Scope, options: &TreeOptions<'_>) -> Result<Option<TreeReport>, Error> {
        Ok(Some(audit_scope(self.image, self.dir, scope, options)?))
    }
}

/// A mount of an image, or an overlay over one.
pub struct Mount<'a> {
    target: &'a Path,
    options: LiveOptions<'a>,
    overlay: bool,
}

impl<'a> Mount<'a> {
    /// Looks at what is mounted at `target`, which must be a canonical path.
    ///
    /// # Errors
    /// When no image is mounted there.
    pub fn new(target: &'a Path, options: LiveOptions<'a>) -> Result<Self, Error> {
        Ok(Self { target, options, overlay: live::is_overlay(target)? })
    }
}

impl Subject for Mount<'_> {
    type Report = LiveReport;

    fn dir(&self) -> &Path {
        self.target
    }

    fn options(&self) -> &TreeOptions<'_> {
        &self.options.tree
    }

    fn is_writable(&self) -> bool {
        self.overlay
    }

    fn file(&self) -> Result<Option<File>, Error> {
        Ok(live::backing_file(self.target)?)
    }

    fn audit(&self) -> Result<LiveReport, Error> {
        Ok(audit_mount(self.target, &self.options)?)
    }

    fn found(report: &LiveReport) -> Found {
        let problems = report.problems.iter().cloned().map(Below::Mount);
        let findings = report.backing.iter().flat_map(|backing| backing.findings.iter().cloned());
        let whole = |backing: &Report| backing.complete && backing.truncated_findings == 0;
        Found {
            file: report.backing.as_ref().is_some_and(whole),
            tree: report.tree.clone(),
            below: problems.chain(findings.map(Below::File)).collect(),
            unseen: report.unseen.clone(),
            complete: report.is_complete(),
        }
    }

    fn audit_scope(&self, scope: &Scope, options: &TreeOptions<'_>) -> Result<Option<TreeReport>, Error> {
        Ok(live::audit_scope_of_mount(self.target, scope, options)?)
    }
}
