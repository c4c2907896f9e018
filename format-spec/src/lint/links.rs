//! Link counts of what is not a directory.
//!
//! Only inodes that claim more than one name need a counter. They come ascending, so a counter is found by binary
//! search; there are [`COUNTERS_MAX`] at a time, and the names of an image that has more of such inodes are counted
//! anew for each lot.

use std::ops::RangeInclusive;

use super::Lint;
use super::findings::About;
use crate::erofs::{FileSystem, FileType, Inode, Nid};
use crate::{Error, Part, ReadAt, Result};

/// Counters at a time, 12 bytes each.
const COUNTERS_MAX: usize = 1 << 20;

/// Names of one inode.
#[derive(Debug)]
struct Counter {
    nid: u32,
    /// As stored.
    nlink: u32,
    found: u32,
}

impl Lint<'_> {
    /// Counts the names of every inode that claims several.
    pub(super) fn check_links<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        if !self.census.linked && self.census.further_names == 0 {
            return Ok(());
        }
        let inodes = self.census.inodes;
        let mut further = 0_u64;
        for_each_lot(fs, inodes, |counters, _| {
            for_each_name(fs, inodes, |nid, _, _| {
                if let Some(counter) = find(counters, nid) {
                    counter.found = counter.found.saturating_add(1);
                }
                Ok(())
            })?;
            for Counter { nid, nlink, found } in counters {
                further = further.saturating_add(found.saturating_sub(1).into());
                if nlink != found {
                    let nid = Nid((*nid).into());
                    let problem = format!("i_nlink is {nlink}, {found} links were found");
                    self.out.add(Part::Inode, fs.inode_offset(nid), About::Inode(nid), problem);
                }
            }
            Ok(())
        })?;
        // Every name that the pass over the tree took for one of an earlier inode was counted, or it leads to
        // bytes that only look like one.
        if further == self.census.further_names { Ok(()) } else { self.find_strays(fs) }
    }

    /// Reports names that lead into a unit, to what looks like an inode of several names.
    fn find_strays<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let inodes = self.census.inodes;
        for_each_lot(fs, inodes, |counters, range| {
            for_each_name(fs, inodes, |nid, dir, name| {
                if !range.contains(&nid) || find(counters, nid).is_some() {
                    return Ok(());
                }
                match fs.inode(nid) {
                    Err(error @ Error::Io { .. }) => return Err(error),
                    Ok(inode) if is_linked(&inode) => {
                        let problem = "leads into an inode, must lead to its start";
                        self.out.add(Part::Directory, dir.offset, About::Name(dir.nid, name), problem);
                    }
                    _ => {}
                }
                Ok(())
            })
        })
    }
}

fn find(counters: &mut [Counter], nid: Nid) -> Option<&mut Counter> {
    let nid = u32::try_from(nid.0).ok()?;
    let index = counters.binary_search_by_key(&nid, |counter| counter.nid).ok()?;
    counters.get_mut(index)
}

/// Calls `take` with counters for those of the first `inodes` inodes that claim several names, lot by lot, and the numbers that each lot is
/// about: the first lot from 0 on, the last one all that are left.
fn for_each_lot<R: ReadAt>(
    fs: &FileSystem<&R>,
    inodes: u64,
    mut take: impl FnMut(&mut [Counter], RangeInclusive<Nid>) -> Result<()>,
) -> Result<()> {
    let mut counters = Vec::with_capacity(COUNTERS_MAX);
    let mut linked = fs.first_inodes(inodes).filter(|inode| inode.as_ref().map_or(true, is_linked));
    let mut first = Nid(0);
    loop {
        counters.clear();
        for inode in linked.by_ref().take(COUNTERS_MAX) {
            let Inode { nid, nlink, .. } = inode?;
            counters.push(Counter { nid: u32::try_from(nid.0).unwrap_or(u32::MAX), nlink, found: 0 });
        }
        let full = counters.len() == COUNTERS_MAX;
        let last = counters.last().filter(|_| full).map_or(Nid(u64::MAX), |last| Nid(last.nid.into()));
        take(&mut counters, first..=last)?;
        if !full {
            return Ok(());
        }
        first = Nid(last.0.saturating_add(1));
    }
}

/// Whether several names lead to an inode.
fn is_linked(inode: &Inode) -> bool {
    inode.file_type != FileType::Dir && inode.nlink > 1
}

/// Calls `take` with every name but `.` and `..`: the inode it leads to, its directory, itself. What cannot be read
/// has been reported before.
fn for_each_name<R: ReadAt>(
    fs: &FileSystem<&R>,
    inodes: u64,
    mut take: impl FnMut(Nid, &Inode, &[u8]) -> Result<()>,
) -> Result<()> {
    for inode in fs.first_inodes(inodes) {
        let dir = inode?;
        if dir.file_type != FileType::Dir {
            continue;
        }
        for entry in fs.read_dir(&dir) {
            match entry {
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(_) => break,
                Ok(entry) if entry.is_dot() => {}
                Ok(entry) => take(entry.nid, &dir, &entry.name)?,
            }
        }
    }
    Ok(())
}
