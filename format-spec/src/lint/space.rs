//! The metadata area: who owns which byte of it.
//!
//! Everything stands where the thing before it ends: units of inodes, then bodies of directories and links in the
//! order of their inodes, then the pool. So two cursors see every overlap and every gap.

use super::findings::About;
use super::{Lint, first_nonzero};
use crate::erofs::raw::SLOT;
use crate::erofs::{FileSystem, Inode, Nid, next_block};
use crate::{BLOCK_SIZE, Part, ReadAt, Result, blocks_for};

/// How far the metadata area has been seen.
#[derive(Debug)]
pub(super) struct Space {
    /// First byte of the area.
    pub(super) start: u64,
    /// First byte behind it.
    pub(super) end: u64,
    /// The highest inode so far.
    pub(super) last: Nid,
    /// The slot behind its unit; `None` where it could not be read.
    next: Option<Nid>,
    /// First byte of the bodies, and first behind those so far.
    bodies: Option<(u64, u64)>,
    /// Whether every inode stands where it must, so that they can be gone through without the tree, and no byte was
    /// examined too often.
    pub(super) intact: bool,
}

/// Where an inode stands that a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the next inode must stand.
    Next,
    /// Where one stood before.
    Before,
    /// Anywhere else.
    Elsewhere,
}

impl Space {
    pub(super) const fn new(start: u64, end: u64) -> Self {
        Self { start, end, last: Nid(0), next: Some(Nid(1)), bodies: None, intact: true }
    }

    /// Takes note that the next inode could not be read.
    pub(super) const fn lose_place(&mut self) {
        self.next = None;
        self.intact = false;
    }

    fn offset(&self, nid: Nid) -> u64 {
        self.start.saturating_add(nid.0.saturating_mul(SLOT))
    }
}

impl Lint<'_> {
    /// Takes note of an inode that a name leads to, and reports when it stands where it must not.
    pub(super) fn place<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        about: About<'_>,
    ) -> Result<Place> {
        let Inode { nid, offset, .. } = *inode;
        let end = inode.unit_end();
        let length = end.saturating_sub(offset);
        if offset < self.space.start.saturating_add(SLOT) || end > self.space.end {
            let problem = format!("{length} bytes lie outside the metadata area");
            self.out.add(Part::Inode, offset, about, problem);
            self.space.intact = false;
            return Ok(Place::Elsewhere);
        }
        if nid <= self.space.last {
            return Ok(Place::Before);
        }
        let Some(free) = self.space.next else {
            // The inode before could not be read, so this one may stand anywhere behind it.
            self.arrive(fs, inode)?;
            return Ok(Place::Next);
        };
        if nid < free {
            self.space.intact = false;
            let overlap = self.space.offset(free).min(end).saturating_sub(offset);
            let problem = format!("{overlap} bytes overlap what stands before");
            self.out.add(Part::Inode, offset, about, problem);
            self.arrive(fs, inode)?;
            return Ok(Place::Next);
        }
        let next = fs.next_unit(free)?;
        if nid != next {
            self.space.intact = false;
            // An inode without a name may stand between.
            let skipped = fs.inode(next).ok().map(|skipped| skipped.next_nid());
            if !skipped.is_some_and(|behind| nid == behind || nid == next_block(behind)) {
                let problem = if self.space.bodies.is_some_and(|(start, _)| offset >= start)
                    || offset >= self.pool.start()
                {
                    "stands behind what it must stand before: inodes, directories, shared xattrs".to_owned()
                } else {
                    format!("stands out of order or overlaps what does not: inode {next} must come next")
                };
                self.out.add(Part::Inode, offset, about, problem);
                return Ok(Place::Elsewhere);
            }
        } else if free < next {
            let room = self.space.offset(next).saturating_sub(self.space.offset(free));
            if length <= room {
                let problem = format!("starts a block, must start {room} bytes before: it fits there");
                self.out.add(Part::Inode, offset, about, problem);
            }
        }
        self.check_gap(fs, self.space.offset(free), offset)?;
        self.arrive(fs, inode)?;
        Ok(Place::Next)
    }

    /// Moves the cursor behind the unit of an inode.
    fn arrive<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        let behind = inode.next_nid().max(self.space.next.unwrap_or_default());
        self.space.last = inode.nid;
        self.space.next = Some(behind);
        self.check_gap(fs, inode.unit_end(), self.space.offset(inode.next_nid()))
    }

    /// Takes note of the whole blocks of a directory or link, `length` bytes from `start` on.
    pub(super) fn place_body<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        nid: Nid,
        start: u64,
        length: u64,
    ) -> Result<()> {
        let about = About::Inode(nid);
        let stop = start.saturating_add(length);
        let block_end = blocks_for(stop).saturating_mul(BLOCK_SIZE);
        if start < self.space.start || block_end > self.space.end {
            let problem = format!("{length} bytes lie outside the metadata area");
            self.out.add(Part::Directory, start, about, problem);
            return Ok(());
        }
        let (first, cursor) = self.space.bodies.unwrap_or((start, start));
        if start < cursor {
            let overlap = cursor.min(stop).saturating_sub(start);
            let problem = format!("{overlap} bytes overlap what stands before");
            self.out.add(Part::Directory, start, about, problem);
        } else {
            self.check_gap(fs, cursor, start)?;
            self.check_gap(fs, stop, block_end)?;
        }
        self.space.bodies = Some((first, cursor.max(block_end)));
        Ok(())
    }

    /// What is left of the metadata area when every inode has been seen, up to the pool.
    pub(super) fn close_metadata<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let start = self.space.start;
        self.check_gap(fs, start, start.saturating_add(SLOT))?;
        let pool = if self.pool.is_used() { self.pool.start() } else { self.space.end };
        let (bodies, bodies_end) = self.space.bodies.unwrap_or((pool, pool));
        if let Some(next) = self.space.next {
            let units_end = self.space.offset(next);
            if units_end > bodies {
                let about = About::Inode(self.space.last);
                let problem = "overlaps what it must stand before: inodes, directories, shared xattrs";
                self.out.add(Part::Inode, self.space.offset(self.space.last), about, problem);
            } else {
                self.check_gap(fs, units_end, bodies)?;
            }
        }
        if bodies_end > pool {
            let problem = "shared xattrs overlap what stands before";
            self.out.add(Part::Xattr, pool, About::Nothing, problem);
            return Ok(());
        }
        self.check_gap(fs, bodies_end, pool)
    }

    /// Alignment may leave less than a block of zeros.
    pub(super) fn check_gap<R: ReadAt>(&mut self, fs: &FileSystem<&R>, start: u64, end: u64) -> Result<()> {
        let length = end.saturating_sub(start);
        // Before a root that does not fit behind slot 0 is a block of zeros but for that slot.
        if length >= BLOCK_SIZE {
            let problem = format!("{length} bytes of metadata belong to nothing");
            self.out.add(Part::Slack, start, About::Nothing, problem);
        }
        if let Some(offset) = first_nonzero(fs, start, end)? {
            let problem = "byte of metadata that belongs to nothing is not zero";
            self.out.add(Part::Slack, offset, About::Nothing, problem);
        }
        Ok(())
    }
}
