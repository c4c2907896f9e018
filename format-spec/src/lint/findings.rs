//! Findings on their way out: counted, capped, and given a path.

use std::collections::{BTreeMap, HashMap};

use super::Finding;
use crate::erofs::{FileSystem, Nid};
use crate::{Error, Part, ReadAt, Result};

/// Findings of one part that are reported before only their number is.
const CAP: u64 = 1000;

/// Reports findings.
pub(super) struct Findings<'a> {
    report: &'a mut dyn FnMut(Finding),
    /// How many there were of each part.
    counts: BTreeMap<Part, u64>,
    /// Findings about an inode whose path the walk has passed already.
    late: Vec<(Option<Nid>, Finding)>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(report: &'a mut dyn FnMut(Finding)) -> Self {
        Self { report, counts: BTreeMap::new(), late: Vec::new() }
    }

    /// Counts one; whether it is still to be reported.
    fn count(&mut self, part: Part) -> bool {
        let count = self.counts.entry(part).or_default();
        *count = count.saturating_add(1);
        *count <= CAP
    }

    /// Reports one finding.
    pub(super) fn add(&mut self, part: Part, offset: u64, path: Option<&[u8]>, problem: impl Into<String>) {
        if self.count(part) {
            let path = path.map(<[u8]>::to_vec);
            (self.report)(Finding { part, offset, path, problem: problem.into() });
        }
    }

    /// Keeps a finding about an inode until [`Self::find_paths`] knows its path.
    pub(super) fn add_late(&mut self, part: Part, offset: u64, nid: Option<Nid>, problem: impl Into<String>) {
        if self.count(part) {
            self.late.push((nid, Finding { part, offset, path: None, problem: problem.into() }));
        }
    }

    /// Turns every error but that of the system into a finding.
    pub(super) fn take<T>(&mut self, result: Result<T>, path: Option<&[u8]>) -> Result<Option<T>> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(Error::Corrupt { part, offset, problem }) => {
                self.add(part, offset, path, problem.to_string());
            }
            Err(Error::Unsupported { part, offset, feature }) => {
                self.add(part, offset, path, format!("{feature} is not supported"));
            }
            Err(Error::Path { problem, .. }) => self.add(Part::Directory, 0, path, problem),
        }
        Ok(None)
    }

    /// Reports what was kept. Only an image that has such findings is walked once more.
    pub(super) fn find_paths<R: ReadAt>(&mut self, fs: &FileSystem<R>) {
        let mut paths: HashMap<Nid, Option<Vec<u8>>> =
            self.late.iter().filter_map(|(nid, _)| nid.map(|nid| (nid, None))).collect();
        let mut missing = paths.len();
        for entry in fs.walk().flatten() {
            if missing == 0 {
                break;
            }
            if let Some(path @ None) = paths.get_mut(&entry.inode.nid) {
                *path = Some(entry.path);
                missing = missing.saturating_sub(1);
            }
        }
        for (nid, mut finding) in std::mem::take(&mut self.late) {
            finding.path = nid.and_then(|nid| paths.get(&nid).cloned().flatten());
            (self.report)(finding);
        }
    }

    /// Says how many findings were left out.
    pub(super) fn finish(&mut self) {
        for (part, count) in std::mem::take(&mut self.counts) {
            if let Some(more @ 1..) = count.checked_sub(CAP) {
                let problem = format!("{more} more findings of this kind");
                (self.report)(Finding { part, offset: 0, path: None, problem });
            }
        }
    }
}
