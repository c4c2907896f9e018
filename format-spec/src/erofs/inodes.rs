//! All inodes in the order of their numbers, without the tree.

use super::raw::SLOT;
use super::{FileSystem, Inode, Nid};
use crate::{BLOCK_SIZE, Error, ReadAt, Result};

/// Slots of a block.
pub(crate) const SLOTS: u64 = BLOCK_SIZE / SLOT;

/// The inodes of a mkimg image in the order of their numbers.
///
/// A *unit* is an inode with its xattrs and its inline tail or chunk map. Units stand one behind the other, each in
/// the next free slot or, where it does not fit into the rest of a block, at the start of the next block; so the
/// place of one follows from the one before, and no memory is needed. What is found on an image of another writer
/// means nothing.
///
/// Ends after as many inodes as the superblock says, or with the area they stand in. After an inode that cannot be
/// parsed it goes on with the next slot that holds one with the right `i_ino`.
pub struct Inodes<'a, R> {
    fs: &'a FileSystem<R>,
    /// Next slot to look at.
    next: Nid,
    /// First slot behind the area.
    end: Nid,
    left: u64,
    lost: bool,
}

impl<R> Inodes<'_, R> {
    /// The next slot that may hold an inode.
    pub(crate) const fn position(&self) -> Nid {
        self.next
    }
}

impl<R: ReadAt> FileSystem<R> {
    /// Every inode of a mkimg image, ascending by number.
    pub fn inodes(&self) -> Inodes<'_, R> {
        self.first_inodes(self.superblock().inodes)
    }

    /// The first `count` inodes.
    pub(crate) fn first_inodes(&self, count: u64) -> Inodes<'_, R> {
        let superblock = self.superblock();
        let blocks = superblock.xattr_block.saturating_sub(superblock.meta_block);
        Inodes {
            fs: self,
            next: superblock.root,
            end: Nid(u64::from(blocks).saturating_mul(superblock.block_size() / SLOT)),
            left: count,
            lost: false,
        }
    }

    /// Where the unit stands that is next in slot `nid` or behind it: there, or in the next block if the slot is
    /// empty.
    pub(crate) fn next_unit(&self, nid: Nid) -> Result<Nid> {
        let (bytes, _) = self.inode_bytes(nid)?;
        Ok(if bytes.iter().take(32).all(|byte| *byte == 0) { next_block(nid) } else { nid })
    }
}

/// The first slot of the next block; `nid` itself where a block starts.
pub(crate) const fn next_block(nid: Nid) -> Nid {
    Nid(nid.0.div_ceil(SLOTS).saturating_mul(SLOTS))
}

impl<R: ReadAt> Iterator for Inodes<'_, R> {
    type Item = Result<Inode>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 && self.next < self.end {
            let nid = match self.fs.next_unit(self.next) {
                Ok(nid) => nid,
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            };
            if nid >= self.end {
                break;
            }
            match self.fs.inode(nid) {
                Ok(inode) if !self.lost || u64::from(inode.ino) == nid.0 => {
                    self.lost = false;
                    self.left = self.left.saturating_sub(1);
                    self.next = inode.next_nid();
                    return Some(Ok(inode));
                }
                Err(error @ Error::Io { .. }) => {
                    self.left = 0;
                    return Some(Err(error));
                }
                found => {
                    self.next = Nid(nid.0.saturating_add(1));
                    if let Some(error) = found.err().filter(|_| !self.lost) {
                        self.lost = true;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}
