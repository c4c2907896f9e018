//! The data area where contents stand byte after byte: who owns which byte of it.
//!
//! Every content is one run of bytes, so is every piece of the packed inode, and all runs follow each other without a
//! gap, but for what fills up a block before and behind a run that needs blocks of its own. The runs are met in the
//! order of inodes and not of the area, so the next [`WINDOW`] runs are sorted out of all of them at a time. The same is
//! done with the files in the packed inode.

use std::collections::BinaryHeap;

use super::data::is_twin;
use super::findings::About;
use super::{Lint, first_nonzero};
use crate::erofs::{FileSystem, FileType, Inode, Layout, Nid};
use crate::{BLOCK_SIZE, Error, Part, ReadAt, Result};

/// Runs that are looked at in one go.
const WINDOW: usize = 1 << 20;

/// The bytes of one content, or of one piece of the packed inode. Runs compare by their place, then by their inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u64,
    nid: u32,
    end: u64,
}

/// The next [`WINDOW`] runs of all.
struct Lot {
    behind: Option<Run>,
    runs: BinaryHeap<Run>,
    more: bool,
}

impl Lot {
    fn behind(last: Option<Run>) -> Self {
        Self { behind: last, runs: BinaryHeap::new(), more: false }
    }

    fn add(&mut self, run: Run) {
        if self.behind.is_none_or(|last| run > last) {
            self.runs.push(run);
            if self.runs.len() > WINDOW {
                self.runs.pop();
                self.more = true;
            }
        }
    }

    /// The runs, sorted, and whether there are more behind them.
    fn take(self) -> (Vec<Run>, bool) {
        (self.runs.into_sorted_vec(), self.more)
    }
}

impl Lint<'_> {
    /// Checks that every byte of the data area belongs to a file, and what is shared is shared whole.
    pub(super) fn check_packed<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let (area_end, inodes) = (self.space.start, self.census.inodes);
        let (mut next, mut first_pass) = (BLOCK_SIZE, true);
        let mut last = None;
        loop {
            let mut lot = Lot::behind(last);
            for inode in fs.first_inodes(inodes) {
                let inode = inode?;
                if let Some(run) = self.run_of(fs, &inode, first_pass)? {
                    lot.add(run);
                }
            }
            if fs.superblock().packed.is_some() {
                self.runs_of_pieces(fs, fs.packed_inode()?, first_pass, &mut lot)?;
            }
            let (runs, more) = lot.take();
            for run in runs {
                self.claim_run(fs, run, last, &mut next)?;
                last = Some(run);
            }
            first_pass = false;
            if !more {
                break;
            }
        }
        self.check_between(fs, next, area_end)
    }

    /// Checks that files in the packed inode stand there one behind the other, or at the very same place.
    pub(super) fn check_fragments<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        if fs.superblock().packed.is_none() {
            return Ok(());
        }
        let packed = fs.packed_inode()?;
        let problem = |bytes: u64| format!("{bytes} bytes of the packed inode belong to no file");
        let (mut next, mut last) = (0, None);
        loop {
            let mut lot = Lot::behind(last);
            for inode in fs.first_inodes(self.census.inodes) {
                let inode = inode?;
                let Layout::Fragment { offset, .. } = inode.layout else { continue };
                let nid = u32::try_from(inode.nid.0).unwrap_or(u32::MAX);
                lot.add(Run { start: offset, nid, end: offset.saturating_add(inode.size) });
            }
            let (runs, more) = lot.take();
            for run in runs {
                let about = About::Inode(Nid(run.nid.into()));
                let twin = last.is_some_and(|last: Run| (last.start, last.end) == (run.start, run.end));
                if run.start < next && !twin {
                    let overlap = next.min(run.end).saturating_sub(run.start);
                    let problem =
                        format!("{overlap} bytes of the packed inode overlap those of another file");
                    self.out.add(Part::PieceMap, packed.offset, about, problem);
                } else if run.start > next {
                    let gap = run.start.saturating_sub(next);
                    self.out.add(Part::Slack, packed.offset, About::Nothing, problem(gap));
                }
                next = next.max(run.end);
                last = Some(run);
            }
            if !more {
                break;
            }
        }
        if next < packed.size {
            self.out.add(
                Part::Slack,
                packed.offset,
                About::Nothing,
                problem(packed.size.saturating_sub(next)),
            );
        } else if next > packed.size {
            let problem =
                format!("{} bytes of files lie behind the packed inode", next.saturating_sub(packed.size));
            self.out.add(Part::PieceMap, packed.offset, About::Nothing, problem);
        }
        Ok(())
    }

    /// Adds the pieces of the packed inode, which stand wherever there was enough for one.
    fn runs_of_pieces<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        packed: &Inode,
        tell: bool,
        lot: &mut Lot,
    ) -> Result<()> {
        let nid = u32::try_from(packed.nid.0).unwrap_or(u32::MAX);
        for extent in fs.extents(packed) {
            let Some(extent) = self.out.take(extent, About::Nothing)? else { return Ok(()) };
            let start = extent.physical.unwrap_or(0);
            let run = Run { start, nid, end: start.saturating_add(extent.stored()) };
            if self.is_inside(run, tell) {
                lot.add(run);
            }
        }
        Ok(())
    }

    /// The run of a file; `None` when it has none, or an impossible one, which is `told`.
    fn run_of<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, tell: bool) -> Result<Option<Run>> {
        if inode.file_type != FileType::File || matches!(inode.layout, Layout::Fragment { .. }) {
            return Ok(None);
        }
        let mut run: Option<Run> = None;
        let nid = u32::try_from(inode.nid.0).unwrap_or(u32::MAX);
        for extent in fs.extents(inode) {
            let extent = match extent {
                Ok(extent) => extent,
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(_) => return Ok(None),
            };
            let Some(start) = extent.physical else { continue };
            let end = start.saturating_add(extent.stored());
            match &mut run {
                None => run = Some(Run { start, nid, end }),
                Some(run) if run.end == start => run.end = end,
                Some(_) => {
                    if tell {
                        let problem = "pieces or chunks of a file do not stand one behind the other";
                        self.out.add(Part::Data, start, About::Inode(inode.nid), problem);
                    }
                    return Ok(None);
                }
            }
        }
        Ok(run.filter(|run| self.is_inside(*run, tell)))
    }

    /// Whether a run lies in the data area.
    fn is_inside(&mut self, run: Run, tell: bool) -> bool {
        let inside = run.start >= BLOCK_SIZE && run.end <= self.space.start;
        if tell && !inside {
            let problem =
                format!("{} bytes of content lie outside the data area", run.end.saturating_sub(run.start));
            self.out.add(Part::Data, run.start, About::Inode(Nid(run.nid.into())), problem);
        }
        inside
    }

    /// Takes note of a run, which is the one behind `last`; `next` is where that ended.
    fn claim_run<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        run: Run,
        last: Option<Run>,
        next: &mut u64,
    ) -> Result<()> {
        let about = About::Inode(Nid(run.nid.into()));
        // Read before, so that only a change of the image can make it fail.
        let inode = fs.inode(Nid(run.nid.into()))?;
        if let Some(last) = last.filter(|last| last.start == run.start)
            && is_twin(fs, &inode, Nid(last.nid.into()))?
        {
            self.shared |= matches!(inode.layout, Layout::Encoded { .. } | Layout::Compressed { .. });
            return Ok(());
        }
        if run.start < *next {
            let overlap = next.saturating_sub(run.start);
            let problem =
                format!("{overlap} bytes of content overlap another file, or are shared in part with it");
            self.out.add(Part::Data, run.start, about, problem);
        } else {
            let expected = if inode.owns_blocks() { next.next_multiple_of(BLOCK_SIZE) } else { *next };
            if run.start == expected {
                self.check_between(fs, *next, run.start)?;
            } else {
                let problem =
                    format!("{} bytes of the data area belong to no file", run.start.saturating_sub(*next));
                self.out.add(Part::Slack, *next, About::Nothing, problem);
            }
        }
        let mut end = run.end;
        if inode.owns_blocks() {
            end = end.next_multiple_of(BLOCK_SIZE);
            self.check_between(fs, run.end, end)?;
        }
        *next = end.max(*next);
        Ok(())
    }

    /// What fills up a block: less than that, and zero.
    fn check_between<R: ReadAt>(&mut self, fs: &FileSystem<&R>, start: u64, end: u64) -> Result<()> {
        let length = end.saturating_sub(start);
        if length >= BLOCK_SIZE {
            let problem = format!("{length} bytes of the data area belong to no file");
            self.out.add(Part::Slack, start, About::Nothing, problem);
        } else if let Some(offset) = first_nonzero(fs, start, end)? {
            let problem = "byte of the data area that belongs to no file is not zero";
            self.out.add(Part::Slack, offset, About::Nothing, problem);
        }
        Ok(())
    }
}
