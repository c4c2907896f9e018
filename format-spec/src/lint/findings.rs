//! Findings on their way out: counted, capped, and given a path.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::erofs::{FileSystem, Nid, PATH_MAX};
use crate::{Error, Part, ReadAt, Result};

/// Findings of one part that are reported before only their number is.
const CAP: u64 = 1000;

/// Bytes of the paths of all findings.
const PATHS_MAX: usize = 4 << 20;

/// What a finding is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'a> {
    /// A place that belongs to no file.
    Nothing,
    /// An inode.
    Inode(Nid),
    /// A name in a directory.
    Name(Nid, &'a [u8]),
}

/// A finding that has no path yet.
#[derive(Debug)]
struct Waiting {
    nid: Option<Nid>,
    name: Option<Box<[u8]>>,
    finding: Finding,
}

/// Reports findings.
///
/// No path is known while an image is examined; only one that has findings is walked for them in the end.
pub(super) struct Findings<'a> {
    report: &'a mut dyn FnMut(Finding),
    /// How many there were of each part.
    counts: BTreeMap<Part, u64>,
    waiting: Vec<Waiting>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(report: &'a mut dyn FnMut(Finding)) -> Self {
        Self { report, counts: BTreeMap::new(), waiting: Vec::new() }
    }

    /// Adds one finding.
    pub(super) fn add(&mut self, part: Part, offset: u64, about: About<'_>, problem: impl Into<String>) {
        let count = self.counts.entry(part).or_default();
        *count = count.saturating_add(1);
        if *count > CAP {
            return;
        }
        let (nid, name) = match about {
            About::Nothing => (None, None),
            About::Inode(nid) => (Some(nid), None),
            About::Name(nid, name) => (Some(nid), Some(name.into())),
        };
        let finding = Finding { part, offset, path: None, problem: problem.into() };
        self.waiting.push(Waiting { nid, name, finding });
    }

    /// How many there were of a part.
    pub(super) fn count_of(&self, part: Part) -> u64 {
        self.counts.get(&part).copied().unwrap_or(0)
    }

    /// Turns every error but that of the system into a finding.
    pub(super) fn take<T>(&mut self, result: Result<T>, about: About<'_>) -> Result<Option<T>> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(Error::Corrupt { part, offset, problem }) => {
                self.add(part, offset, about, problem.to_string());
            }
            Err(Error::Unsupported { part, offset, feature }) => {
                self.add(part, offset, about, format!("{feature} is not supported"));
            }
            Err(Error::Path { problem, .. }) => self.add(Part::Directory, 0, about, problem),
        }
        Ok(None)
    }

    /// Reports everything, and how many findings were left out. Without a file system there are no paths.
    pub(super) fn finish<R: ReadAt>(mut self, fs: Option<&FileSystem<R>>) -> Result<()> {
        let nids: BTreeSet<Nid> = self.waiting.iter().filter_map(|waiting| waiting.nid).collect();
        let paths = match fs {
            Some(fs) if !nids.is_empty() => fs.paths_of(nids, PATHS_MAX)?,
            _ => BTreeMap::new(),
        };
        for Waiting { nid, name, mut finding } in self.waiting.drain(..) {
            finding.path = nid.and_then(|nid| paths.get(&nid)).map(|path| match name {
                None => path.clone(),
                Some(name) => join(path, &name),
            });
            (self.report)(finding);
        }
        for (part, count) in self.counts {
            if let Some(more @ 1..) = count.checked_sub(CAP) {
                let problem = format!("{more} more findings of this kind");
                (self.report)(Finding { part, offset: 0, path: None, problem });
            }
        }
        Ok(())
    }
}

/// A name below a directory; the directory itself where the path would be too long to be one.
fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let path = [dir.strip_suffix(b"/").unwrap_or(dir), b"/", name].concat();
    if path.len() <= PATH_MAX { path } else { dir.to_vec() }
}
