//! What is wrong with single inodes.

use std::collections::BTreeMap;

use mkimg_format::Error;
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, Inode, Nid};

use super::report::{FINDINGS_MAX, Finding, Findings, Region};

/// Bytes of the paths of inodes with findings.
const PATHS_MAX: usize = 4 << 20;

/// What is wrong with an inode.
pub(crate) enum Fault {
    /// A rule that is broken.
    Problem(String),
    /// Why it could not be looked at.
    Error(Error),
}

/// Findings about inodes, whose paths are looked up in the end.
#[derive(Default)]
pub(crate) struct Faults {
    kept: Vec<Kept>,
    dropped: u64,
}

struct Kept {
    nid: Nid,
    /// The inode in the image.
    offset: u64,
    length: u64,
    fault: Fault,
}

impl Faults {
    pub(crate) fn add(&mut self, inode: &Inode, fault: Fault, findings: &mut Findings) {
        if matches!(fault, Fault::Error(Error::Io { .. })) {
            findings.mark_incomplete();
        }
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(Kept { nid: inode.nid, offset: inode.offset, length: inode.inode_len, fault });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    pub(crate) fn report<R: ReadAt>(self, fs: &FileSystem<R>, findings: &mut Findings) {
        findings.drop(self.dropped);
        if self.kept.is_empty() {
            return;
        }
        let paths = match fs.paths_of(self.kept.iter().map(|kept| kept.nid), PATHS_MAX) {
            Ok(paths) => paths,
            Err(error) => {
                findings.add_error(&error, None);
                BTreeMap::new()
            }
        };
        for Kept { nid, offset, length, fault } in self.kept {
            let path = paths.get(&nid);
            match fault {
                Fault::Problem(problem) => findings.push(Finding {
                    offset,
                    length,
                    region: Region::Structure,
                    paths: path.cloned().into_iter().collect(),
                    more_paths: 0,
                    problem,
                }),
                Fault::Error(error) => findings.add_error(&error, path.map(Vec::as_slice)),
            }
        }
    }
}
