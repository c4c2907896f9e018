//! The data area: who owns which block of it.
//!
//! Two files share all their blocks or none, so one number a block is enough: the first inode that has it. Whoever
//! comes later and finds it taken must have the very layout of that inode. The table covers [`WINDOW`] blocks; the
//! inodes of a larger image are gone through once for each window.

use std::ops::Range;

use super::block0::at;
use super::findings::About;
use super::inode::may_have_tail;
use super::{Lint, first_nonzero, stretches};
use crate::erofs::pieces::records_start;
use crate::erofs::raw::MAP_HEADER_LEN;
use crate::erofs::{FileSystem, FileType, Inode, Layout, Nid};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, ReadAt, Result};

/// Blocks that are looked at in one go: 16 GiB of data, 20 MiB of memory.
const WINDOW: u64 = 4 << 20;

/// First owner of each block of a window, 0 for none.
struct Owners {
    first: u64,
    nids: Vec<u32>,
    /// First blocks of files that must have their tail elsewhere, unless another file has the same blocks.
    lone: Vec<bool>,
}

impl Owners {
    /// The part of blocks `start..end` that lies in the window, as positions in it.
    fn within(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let position = |block: u64| {
            usize::try_from(block.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.nids.len())
        };
        position(start)..position(end)
    }
}

impl Lint<'_> {
    /// Checks that every block of the data area belongs to a file, and what is shared is shared whole.
    pub(super) fn check_data<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        if fs.superblock().features.encoded {
            self.check_packed(fs)?;
            self.check_sharing(fs);
            return Ok(());
        }
        if self.dedup {
            self.check_shared_data(fs)?;
            self.check_sharing(fs);
            return Ok(());
        }
        let end = self.space.start / BLOCK_SIZE;
        let mut unowned = None;
        let mut first = 1;
        let mut owners = Owners { first, nids: Vec::new(), lone: Vec::new() };
        loop {
            let length = end.saturating_sub(first).min(WINDOW);
            owners.first = first;
            owners.nids.clear();
            owners.nids.resize(usize::try_from(length).unwrap_or(0), 0);
            owners.lone.clear();
            owners.lone.resize(owners.nids.len(), false);
            for inode in fs.first_inodes(self.census.inodes) {
                let inode = inode?;
                if inode.file_type == FileType::File && !matches!(inode.layout, Layout::Fragment { .. }) {
                    self.claim(fs, &inode, &mut owners, end)?;
                }
            }
            if fs.superblock().packed.is_some() {
                self.claim(fs, fs.packed_inode()?, &mut owners, end)?;
            }
            for ((block, owner), lone) in (first..).zip(&owners.nids).zip(&owners.lone) {
                if *lone {
                    let problem =
                        "file is plain, must be inline: its tail is short, and it shares it with no other";
                    let about = About::Inode(Nid((*owner).into()));
                    self.out.add(Part::Data, block.saturating_mul(BLOCK_SIZE), about, problem);
                }
                match (owner, unowned) {
                    (0, None) => unowned = Some(block),
                    (1.., Some(start)) => {
                        self.report_unowned(start, block);
                        unowned = None;
                    }
                    _ => {}
                }
            }
            first = first.saturating_add(length);
            if first >= end {
                break;
            }
        }
        if let Some(start) = unowned {
            self.report_unowned(start, end);
        }
        self.check_sharing(fs);
        Ok(())
    }

    fn check_sharing<R: ReadAt>(&mut self, fs: &FileSystem<&R>) {
        let feature = fs.superblock().features.shared;
        if feature != self.shared {
            let problem = if feature {
                "feature DEDUPE is set, but no files share compressed blocks or are in the packed inode"
            } else {
                "feature DEDUPE is clear, but files share compressed blocks"
            };
            self.out.add(Part::Superblock, at(0x50), About::Nothing, problem);
        }
    }

    pub(super) fn report_unowned(&mut self, start: u64, end: u64) {
        let length = end.saturating_sub(start).saturating_mul(BLOCK_SIZE);
        let problem = format!("{length} bytes of the data area belong to no file");
        self.out.add(Part::Slack, start.saturating_mul(BLOCK_SIZE), About::Nothing, problem);
    }

    /// Makes a file the owner of its blocks in the window.
    fn claim<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        owners: &mut Owners,
        area_end: u64,
    ) -> Result<()> {
        let nid = inode.nid;
        let about = About::Inode(nid);
        let mut first = true;
        for stretch in stretches(fs, inode) {
            let Range { start, end: stop } = stretch?;
            if matches!(inode.layout, Layout::Inline { tail, .. } if tail == start) {
                continue;
            }
            let (block, block_end) = (start / BLOCK_SIZE, stop.div_ceil(BLOCK_SIZE));
            if block == 0 || block_end > area_end {
                if owners.first == 1 {
                    let length = stop.saturating_sub(start);
                    let problem = format!("{length} bytes of content lie outside the data area");
                    self.out.add(Part::Data, start, about, problem);
                }
                continue;
            }
            let inside = owners.within(block, block_end);
            if inside.is_empty() {
                continue;
            }
            let last =
                owners.first.saturating_add(u64::try_from(inside.end).unwrap_or(u64::MAX)) == block_end;
            let taken = owners.nids.get(inside.start).copied().unwrap_or(0);
            if first && taken != 0 && is_twin(fs, inode, Nid(taken.into()))? {
                self.shared |= matches!(inode.layout, Layout::Compressed { .. });
                if let Some(lone) = owners.lone.get_mut(inside.start) {
                    *lone = false;
                }
                return Ok(());
            }
            if first
                && block >= owners.first
                && matches!(inode.layout, Layout::Plain { .. })
                && may_have_tail(fs, inode)
                && let Some(lone) = owners.lone.get_mut(inside.start)
            {
                *lone = true;
            }
            first = false;
            let slots = owners.nids.get_mut(inside.clone()).unwrap_or_default();
            let own = u32::try_from(nid.0).unwrap_or(u32::MAX);
            let free = slots.iter().position(|owner| *owner != 0).unwrap_or(slots.len());
            if let Some(owner) = slots.get(free).copied() {
                let shared = block_end.saturating_sub(block).saturating_mul(BLOCK_SIZE);
                let problem = if owner == own {
                    "a file holds the same blocks twice".to_owned()
                } else {
                    format!(
                        "some of {shared} bytes of content overlap another file, or are shared in part with it"
                    )
                };
                self.out.add(Part::Data, start, about, problem);
            }
            slots.get_mut(..free).unwrap_or_default().fill(own);
            if last && let Some(offset) = first_nonzero(fs, stop, block_end.saturating_mul(BLOCK_SIZE))? {
                let problem = "byte between the end of a file and that of its block is not zero";
                self.out.add(Part::Slack, offset, about, problem);
            }
        }
        Ok(())
    }
}

/// Whether a file has the same content in the same blocks as the one that `owner` is.
///
/// # Errors
/// [`Error::Io`]; and what is wrong with a map.
pub fn is_twin<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode, owner: Nid) -> Result<bool> {
    if owner == inode.nid {
        return Ok(false);
    }
    let owner = match fs.inode(owner) {
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(_) => return Ok(false),
        Ok(owner) => owner,
    };
    let (a, b) = (inode.layout, owner.layout);
    match (a, b) {
        (Layout::Plain { .. }, Layout::Plain { .. }) => Ok(a == b && inode.size == owner.size),
        (Layout::Fragment { offset, .. }, Layout::Fragment { offset: other, .. }) => {
            Ok(offset == other && inode.size == owner.size)
        }
        (
            Layout::Chunked { chunk_bits, indexes, map },
            Layout::Chunked { chunk_bits: bits, indexes: other_indexes, map: other },
        ) => {
            let length = inode.unit_end().saturating_sub(map);
            let form = inode.size == owner.size && chunk_bits == bits && indexes == other_indexes;
            Ok(form && same_bytes(fs, map, other, length)?)
        }
        (Layout::Compressed { map, .. }, Layout::Compressed { map: other, .. }) => {
            let length = inode.unit_end().saturating_sub(map);
            Ok(inode.size == owner.size && same_bytes(fs, map, other, length)?)
        }
        (Layout::Encoded { map, record_len, count }, Layout::Encoded { map: other, .. }) => {
            // The head says how long the rest is; before the records may be padding.
            let (one, another) = (records_start(map, record_len), records_start(other, record_len));
            let length = count.saturating_mul(record_len);
            Ok(inode.size == owner.size
                && same_bytes(fs, map, other, MAP_HEADER_LEN)?
                && same_bytes(fs, one, another, length)?)
        }
        _ => Ok(false),
    }
}

fn same_bytes<R: ReadAt>(fs: &FileSystem<&R>, a: u64, b: u64, length: u64) -> Result<bool> {
    let mut buffers = [[0; BLOCK_LEN]; 2];
    let mut done = 0;
    while done < length {
        let room = length.saturating_sub(done).min(BLOCK_SIZE);
        let mut pieces = [a, b].into_iter().zip(&mut buffers).map(|(at, buffer)| {
            let piece = buffer.get_mut(..usize::try_from(room).unwrap_or(0)).unwrap_or_default();
            fs.read(Part::ChunkMap, piece, at.saturating_add(done)).map(|()| &*piece)
        });
        let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else { break };
        if first? != second? {
            return Ok(false);
        }
        done = done.saturating_add(room);
    }
    Ok(true)
}
