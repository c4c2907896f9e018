//! The form of one inode.

use zerocopy::FromBytes;

use super::Lint;
use super::space::Kind;
use crate::erofs::raw::{LAYOUT_FLAT_PLAIN, RawCompactInode};
use crate::erofs::{Extent, FileSystem, FileType, Inode, Layout};
use crate::{BLOCK_SIZE, Part, ReadAt, Result};

impl Lint<'_> {
    /// Checks an inode and everything that belongs to it alone, and claims the bytes it has.
    pub(super) fn check_inode<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        path: &[u8],
    ) -> Result<()> {
        let Inode { nid, offset, .. } = *inode;
        let mut wrong = |problem: String| self.out.add(Part::Inode, offset, Some(path), problem);
        let end = inode.body_end().saturating_add(trailing(inode));
        let in_block = offset.checked_rem(BLOCK_SIZE).unwrap_or(0);
        // What does not fit into a block starts with one.
        if in_block != 0 && in_block.saturating_add(end.saturating_sub(offset)) > BLOCK_SIZE {
            wrong("inode and what follows it crosses a block boundary".into());
        }
        let mut bytes = [0; 32];
        let read = fs.read(Part::Inode, &mut bytes, offset);
        let raw = RawCompactInode::read_from_bytes(&bytes).unwrap_or_default();
        if inode.inode_len == 32 && raw.i_mtime.get() != 0 {
            wrong(format!("i_mtime of a compact inode is {}, must be 0", raw.i_mtime.get()));
        }
        if inode.layout == Layout::None {
            let layout = (raw.i_format.get() >> 1) & 7;
            if layout != LAYOUT_FLAT_PLAIN {
                wrong(format!("data layout of a {} is {layout}, must be 0", inode.file_type.word()));
            }
            let device = matches!(inode.file_type, FileType::Char | FileType::Block);
            if !device && raw.i_u.get() != 0 {
                wrong(format!("i_u of a {} is {}, must be 0", inode.file_type.word(), raw.i_u.get()));
            }
        }
        self.out.take(read, Some(path))?;
        self.space.claim(Kind::Inode, nid, offset, end);
        let Some(left) = self.bodies_left.checked_sub(end.saturating_sub(offset)) else {
            let problem = "inodes are together larger than the metadata area, not examined";
            self.out.add(Part::Inode, offset, Some(path), problem);
            return Ok(());
        };
        self.bodies_left = left;
        self.check_xattrs(fs, inode, path)?;
        match inode.file_type {
            FileType::File => self.check_file(fs, inode, path),
            FileType::Dir => {
                self.check_body(inode, path);
                Ok(())
            }
            FileType::Symlink => {
                self.check_body(inode, path);
                self.out.take(fs.read_link(inode), Some(path))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Files: plain, or with holes by chunks.
    fn check_file<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, path: &[u8]) -> Result<()> {
        let problem = match inode.layout {
            Layout::Chunked { .. } => return self.check_chunks(fs, inode, path),
            Layout::Plain { start: None } if inode.size > 0 => "hole in a file that is not chunk-based",
            Layout::Plain { start: Some(_) } if inode.size == 0 => "start block of an empty file",
            Layout::Plain { start: Some(start) } => {
                let physical = Some(u64::from(start).saturating_mul(BLOCK_SIZE));
                let extent = Extent { logical: 0, length: inode.size, physical };
                self.space.claim_data(inode.nid, extent, fingerprint(0, extent));
                return Ok(());
            }
            Layout::Inline { .. } => "file is inline, must be plain or chunk-based",
            _ => return Ok(()),
        };
        self.out.add(Part::Inode, inode.offset, Some(path), problem);
        Ok(())
    }

    /// Chunk maps.
    fn check_chunks<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode, path: &[u8]) -> Result<()> {
        self.chunked = true;
        if matches!(inode.layout, Layout::Chunked { indexes: true, .. }) {
            self.out.add(Part::ChunkMap, inode.offset, Some(path), "chunk map has 8-byte indexes");
        }
        let mut holes = false;
        let mut file = 0;
        // First what identifies the map, then the claims.
        for extent in fs.extents(inode) {
            let Some(extent) = self.out.take(extent, Some(path))? else { return Ok(()) };
            holes |= extent.physical.is_none();
            file = fingerprint(file, extent);
        }
        for extent in fs.extents(inode) {
            let Some(extent) = self.out.take(extent, Some(path))? else { break };
            self.space.claim_data(inode.nid, extent, file);
        }
        if !holes {
            self.out.add(Part::ChunkMap, inode.offset, Some(path), "chunk-based file without a hole");
        }
        Ok(())
    }

    /// Directories and links: inline when inode, xattrs and tail fit into one block, plain otherwise.
    fn check_body(&mut self, inode: &Inode, path: &[u8]) {
        let word = inode.file_type.word();
        let tail = inode.size.checked_rem(BLOCK_SIZE).unwrap_or(0);
        let head = inode.inode_len.saturating_add(inode.xattr_len);
        let fits = tail > 0 && head.saturating_add(tail) <= BLOCK_SIZE;
        let mut wrong = |problem: String| self.out.add(Part::Inode, inode.offset, Some(path), problem);
        let (start, length) = match inode.layout {
            Layout::Plain { start } => {
                if fits {
                    wrong(format!("{word} is plain, must be inline: its tail fits"));
                }
                (start, inode.size)
            }
            Layout::Inline { start, .. } => {
                if tail == 0 {
                    wrong(format!("{word} is inline without a tail, must be plain"));
                } else if !fits {
                    wrong(format!(
                        "{word} is inline, must be plain: its tail does not fit into one block with it"
                    ));
                }
                (start, inode.size.saturating_sub(tail))
            }
            _ => {
                wrong(format!("{word} is chunk-based, must be plain or inline"));
                return;
            }
        };
        match start {
            Some(start) if length > 0 => {
                let start = u64::from(start).saturating_mul(BLOCK_SIZE);
                self.space.claim(Kind::Body, inode.nid, start, start.saturating_add(length));
            }
            Some(_) => wrong(format!("start block of a {word} without whole blocks")),
            // A hole: reported where the content is read.
            None => {}
        }
    }
}

/// Bytes of the tail or of the chunk map behind the xattrs.
///
/// A chunk map starts where the xattrs end: both are aligned to 4 bytes. One with 8-byte indexes may start 4 bytes
/// later; it is a finding anyway.
fn trailing(inode: &Inode) -> u64 {
    match inode.layout {
        Layout::Inline { .. } => inode.size.checked_rem(BLOCK_SIZE).unwrap_or(0),
        Layout::Chunked { chunk_bits, indexes, map } => {
            let chunk = 1_u64.checked_shl(chunk_bits).unwrap_or(u64::MAX);
            let length = inode.size.div_ceil(chunk).saturating_mul(if indexes { 8 } else { 4 });
            map.saturating_add(length).saturating_sub(inode.body_end())
        }
        Layout::Plain { .. } | Layout::None => 0,
    }
}

/// Adds an extent to the number that identifies the whole map of a file.
fn fingerprint(before: u64, extent: Extent) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [before, extent.logical, extent.length, extent.physical.unwrap_or(u64::MAX)] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
