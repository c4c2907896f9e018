//! The data area where contents stand byte after byte: who owns which byte of it.
//!
//! Every content is one run of bytes, and the runs of all contents follow each other without a gap, but for what fills
//! up a block before and behind a run that needs blocks of its own. The runs are met in the order of inodes and not of
//! the area, so the next [`WINDOW`] runs are sorted out of all of them at a time.

use std::collections::BinaryHeap;

use super::data::is_twin;
use super::findings::About;
use super::{Lint, first_nonzero};
use crate::erofs::{FileSystem, FileType, Inode, Layout, Nid};
use crate::{BLOCK_SIZE, Error, Part, ReadAt, Result};

/// Runs that are looked at in one go.
const WINDOW: usize = 1 << 20;

/// The bytes of one content. Runs compare by their place, then by their inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u64,
    nid: u32,
    end: u64,
}

impl Lint<'_> {
    /// Checks that every byte of the data area belongs to a file, and what is shared is shared whole.
    pub(super) fn check_packed<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let area_end = self.space.start;
        let (mut next, mut last) = (BLOCK_SIZE, None);
        let mut first_pass = true;
        loop {
            let mut runs = BinaryHeap::new();
            let mut more = false;
            for inode in fs.first_inodes(self.census.inodes) {
                let inode = inode?;
                let Some(run) = self.run_of(fs, &inode, first_pass)? else { continue };
                if last.is_none_or(|last| run > last) {
                    runs.push(run);
                    if runs.len() > WINDOW {
                        runs.pop();
                        more = true;
                    }
                }
            }
            for run in runs.into_sorted_vec() {
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

    /// The run of a file; `None` when it has none, or an impossible one, which is `told`.
    fn run_of<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, tell: bool) -> Result<Option<Run>> {
        if inode.file_type != FileType::File {
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
        let inside = |run: &Run| run.start >= BLOCK_SIZE && run.end <= self.space.start;
        if let Some(run) = run.filter(|run| tell && !inside(run)) {
            let problem =
                format!("{} bytes of content lie outside the data area", run.end.saturating_sub(run.start));
            self.out.add(Part::Data, run.start, About::Inode(inode.nid), problem);
        }
        Ok(run.filter(inside))
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
