//! The directories of the target: which were created, and which are open.

use std::os::fd::OwnedFd;

use mkimg_format::erofs::Nid;

use crate::error::{Error, Result, host};
use crate::target::{Identity, Target};

/// Descriptors that are held for the directories on the way to the current one.
const OPEN_MAX: usize = 64;

/// A directory by number, in order of creation; 0 is the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirId(usize);

/// A directory of the target. Names, not paths: memory must not grow with the square of the depth.
struct Record {
    parent: DirId,
    name: Box<[u8]>,
    nid: Nid,
    identity: Identity,
    merged: bool,
}

/// A directory on the way to the current one.
struct Level {
    dir: DirId,
    /// Length of its path; 0 for the target.
    path_len: usize,
    /// `None` when there were too many; reopened on the way back.
    fd: Option<OwnedFd>,
}

/// The directories of the target.
pub(crate) struct Dirs {
    records: Vec<Record>,
    levels: Vec<Level>,
}

impl Dirs {
    pub(crate) fn new(target: &Target, nid: Nid) -> Result<Self> {
        let fd = target.root().try_clone().map_err(host(b"/", "cannot keep directory open"))?;
        let root = Record {
            parent: DirId(0),
            name: Box::default(),
            nid,
            identity: target.identity(),
            merged: target.is_merged(),
        };
        Ok(Self { records: vec![root], levels: vec![Level { dir: DirId(0), path_len: 0, fd: Some(fd) }] })
    }

    /// Makes the directory `path` (empty for the target) the current one; it must be on the way to it.
    pub(crate) fn leave_to(&mut self, target: &Target, path: &[u8]) -> Result<()> {
        while self.levels.len() > 1 && self.levels.last().is_some_and(|level| level.path_len > path.len()) {
            self.levels.pop();
        }
        let identity =
            self.levels.last().and_then(|level| self.record(level.dir)).map(|record| record.identity);
        let missing = || Error::Replaced { path: path.to_vec() };
        let level =
            self.levels.last_mut().filter(|level| level.path_len == path.len()).ok_or_else(missing)?;
        if level.fd.is_none() {
            let identity = identity.ok_or_else(missing)?;
            let fd = target.reopen(path, identity).map_err(host(path, "cannot open directory again"))?;
            level.fd = Some(fd.ok_or_else(missing)?);
        }
        Ok(())
    }

    /// The current directory, open.
    pub(crate) fn here(&self, path: &[u8]) -> Result<&OwnedFd> {
        let fd = self.levels.last().and_then(|level| level.fd.as_ref());
        fd.ok_or_else(|| Error::Replaced { path: path.to_vec() })
    }

    /// The current directory by number.
    pub(crate) fn current(&self) -> DirId {
        self.levels.last().map_or(DirId(0), |level| level.dir)
    }

    /// Whether what is created in the current directory may inherit from strangers.
    pub(crate) fn inherits(&self) -> bool {
        self.record(self.current()).is_some_and(|record| record.merged)
    }

    /// Goes down into a directory of the current one.
    pub(crate) fn enter(
        &mut self,
        path: &[u8],
        name: &[u8],
        nid: Nid,
        fd: OwnedFd,
        identity: Identity,
        merged: bool,
    ) {
        let dir = DirId(self.records.len());
        self.records.push(Record { parent: self.current(), name: name.into(), nid, identity, merged });
        self.levels.push(Level { dir, path_len: path.len(), fd: Some(fd) });
        // The target itself stays open.
        if let Some(far) = self.levels.len().checked_sub(OPEN_MAX).filter(|far| *far > 0)
            && let Some(level) = self.levels.get_mut(far)
        {
            level.fd = None;
        }
    }

    /// Absolute path of a directory; empty for the target.
    pub(crate) fn path(&self, dir: DirId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut here = dir;
        while here != DirId(0)
            && let Some(record) = self.record(here)
        {
            names.push(&*record.name);
            here = record.parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// Opens any directory again.
    pub(crate) fn reopen(&self, target: &Target, dir: DirId) -> Result<OwnedFd> {
        let path = self.path(dir);
        let missing = || Error::Replaced { path: path.clone() };
        let identity = self.record(dir).ok_or_else(missing)?.identity;
        let fd = target.reopen(&path, identity).map_err(host(&path, "cannot open directory again"))?;
        fd.ok_or_else(missing)
    }

    /// The directories that were created, the last one first, with their inodes.
    pub(crate) fn created(&self) -> impl Iterator<Item = (DirId, Nid)> + '_ {
        let all = self.records.iter().enumerate().rev();
        all.filter(|(_, record)| !record.merged).map(|(index, record)| (DirId(index), record.nid))
    }

    /// Closes all but the target.
    pub(crate) fn close(&mut self) {
        self.levels.clear();
    }

    fn record(&self, dir: DirId) -> Option<&Record> {
        self.records.get(dir.0)
    }
}
