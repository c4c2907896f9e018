//! Who owns which byte.

use super::Lint;
use crate::erofs::raw::SLOT;
use crate::erofs::{Extent, FileSystem, Nid};
use crate::{BLOCK_SIZE, Error, Part, ReadAt, Result};

/// What stands in a range of the metadata area. The order is that of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An inode and what follows it.
    Inode,
    /// Blocks of a directory, or of a link that does not fit behind its inode.
    Body,
    /// Shared xattrs.
    Pool,
}

impl Kind {
    const fn part(self) -> Part {
        match self {
            Self::Inode => Part::Inode,
            Self::Body => Part::Directory,
            Self::Pool => Part::Xattr,
        }
    }
}

/// A range of the metadata area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    start: u64,
    end: u64,
    nid: Nid,
    kind: Kind,
}

/// A run of file data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u64,
    length: u64,
    nid: Nid,
    /// Identifies all the extents of the file: who shares one shares all.
    file: u64,
}

/// Everything the inodes claim.
#[derive(Debug, Default)]
pub(super) struct Space {
    used: Vec<Used>,
    runs: Vec<Run>,
}

impl Space {
    /// Claims bytes of the metadata area.
    pub(super) fn claim(&mut self, kind: Kind, nid: Nid, start: u64, end: u64) {
        self.used.push(Used { start, end, nid, kind });
    }

    /// Claims the blocks of one extent of a file. `file` identifies the whole map of that file.
    pub(super) fn claim_data(&mut self, nid: Nid, extent: Extent, file: u64) {
        if let Some(start) = extent.physical {
            self.runs.push(Run { start, length: extent.length, nid, file });
        }
    }
}

impl Lint<'_> {
    /// The metadata area: inodes, blocks of directories, shared xattrs, in this order and without gaps.
    pub(super) fn check_metadata_space<R: ReadAt>(&mut self, fs: &FileSystem<R>) -> Result<()> {
        let (first, end) = self.meta;
        let mut used = std::mem::take(&mut self.space.used);
        used.sort_unstable();
        let mut cursor = first;
        let mut stage = Kind::Inode;
        for Used { start, end: stop, nid, kind } in used {
            let owner = (kind != Kind::Pool).then_some(nid);
            if start < first.saturating_add(SLOT) || stop > end {
                let problem = format!("{} bytes lie outside the metadata area", stop.saturating_sub(start));
                self.out.add_late(kind.part(), start, owner, problem);
                continue;
            }
            if kind < stage {
                let problem = "stands behind what it must stand before: inodes, directories, shared xattrs";
                self.out.add_late(kind.part(), start, owner, problem);
            }
            stage = stage.max(kind);
            if start < cursor {
                let problem =
                    format!("{} bytes overlap what stands before", cursor.min(stop).saturating_sub(start));
                self.out.add_late(kind.part(), start, owner, problem);
            } else {
                // A root that does not fit behind slot 0 leaves the first block empty.
                let from = if cursor == first && start == first.saturating_add(BLOCK_SIZE) {
                    first.saturating_add(SLOT)
                } else {
                    cursor
                };
                self.check_gap(fs, cursor, from, "metadata")?;
                self.check_gap(fs, from, start, "metadata")?;
            }
            cursor = cursor.max(stop);
        }
        self.check_gap(fs, cursor, end, "metadata")
    }

    /// The data area: every block belongs to a file, and what is shared is shared whole.
    pub(super) fn check_data_space<R: ReadAt>(&mut self, fs: &FileSystem<R>) -> Result<()> {
        let (first, end) = (BLOCK_SIZE, self.meta.0);
        let mut runs = std::mem::take(&mut self.space.runs);
        runs.sort_unstable();
        let mut cursor = first;
        let mut before: Option<Run> = None;
        for run in runs {
            let Run { start, length, nid, file } = run;
            let stop = start.saturating_add(length);
            let block_end = stop.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE);
            if start < first || block_end > end {
                let problem = format!("{length} bytes of content lie outside the data area");
                self.out.add_late(Part::Data, start, Some(nid), problem);
                continue;
            }
            let twin = before.filter(|twin| twin.start == start && twin.length == length);
            before = Some(run);
            if let Some(twin) = twin {
                if twin.nid == nid {
                    self.out.add_late(Part::Data, start, Some(nid), "a file holds the same blocks twice");
                } else if twin.file != file {
                    let problem = "content is shared in part with another file";
                    self.out.add_late(Part::Data, start, Some(nid), problem);
                }
                continue;
            }
            if start < cursor {
                let problem =
                    format!("{} bytes of content overlap another file", cursor.saturating_sub(start));
                self.out.add_late(Part::Data, start, Some(nid), problem);
            } else {
                self.check_unowned(cursor, start);
                if let Some(offset) = first_nonzero(fs, stop, block_end)? {
                    let problem = "byte between the end of a file and that of its block is not zero";
                    self.out.add_late(Part::Slack, offset, Some(nid), problem);
                }
            }
            cursor = cursor.max(block_end);
        }
        self.check_unowned(cursor, end);
        Ok(())
    }

    /// Blocks of the data area that no file has.
    fn check_unowned(&mut self, start: u64, end: u64) {
        if start < end {
            let problem = format!("{} bytes of the data area belong to no file", end.saturating_sub(start));
            self.out.add_late(Part::Slack, start, None, problem);
        }
    }

    /// Alignment may leave less than a block of zeros.
    fn check_gap<R: ReadAt>(&mut self, fs: &FileSystem<R>, start: u64, end: u64, area: &str) -> Result<()> {
        let length = end.saturating_sub(start);
        if length >= BLOCK_SIZE {
            let problem = format!("{length} bytes of {area} belong to nothing");
            self.out.add_late(Part::Slack, start, None, problem);
        }
        if let Some(offset) = first_nonzero(fs, start, end)? {
            let problem = format!("byte of {area} that belongs to nothing is not zero");
            self.out.add_late(Part::Slack, offset, None, problem);
        }
        Ok(())
    }
}

/// Offset of the first byte of a range that is not zero.
fn first_nonzero<R: ReadAt>(fs: &FileSystem<R>, start: u64, end: u64) -> Result<Option<u64>> {
    let mut buffer = [0; 4096];
    let mut at = start;
    while at < end {
        let room = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        let Some(piece) = buffer.get_mut(..room) else { break };
        match fs.read(Part::Slack, piece, at) {
            Ok(()) => {}
            Err(error @ Error::Io { .. }) => return Err(error),
            // Not reached: both areas lie in the file system.
            Err(_) => return Ok(Some(at)),
        }
        if let Some(skip) = piece.iter().position(|byte| *byte != 0) {
            return Ok(Some(at.saturating_add(u64::try_from(skip).unwrap_or(0))));
        }
        at = at.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
    }
    Ok(None)
}
