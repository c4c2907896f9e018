//! The form of one inode.

use zerocopy::FromBytes;

use super::Lint;
use super::findings::About;
use super::space::Place;
use crate::erofs::pieces::PIECE_LEN;
use crate::erofs::raw::{LAYOUT_FLAT_PLAIN, RawCompactInode};
use crate::erofs::{FileSystem, FileType, Inode, Layout, SHARED_BLOCKS_MAX, TAIL_MAX};
use crate::{BLOCK_SIZE, Part, ReadAt, Result, blocks_for};

impl Lint<'_> {
    /// Checks an inode and everything that belongs to it alone.
    pub(super) fn check_inode<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        let Inode { nid, offset, .. } = *inode;
        let about = About::Inode(nid);
        let mut wrong = |problem: String| self.out.add(Part::Inode, offset, about, problem);
        let length = inode.unit_end().saturating_sub(offset);
        let in_block = offset.checked_rem(BLOCK_SIZE).unwrap_or(0);
        // What does not fit into a block starts with one.
        if in_block != 0 && in_block.saturating_add(length) > BLOCK_SIZE {
            wrong("inode and what follows it crosses a block boundary".into());
        }
        if u64::from(inode.ino) != nid.0 {
            let mut problem = format!("i_ino is {}, must be {nid}", inode.ino);
            if inode.ino != 0 {
                problem.push_str("; it is that of another inode as well");
            }
            wrong(problem);
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
        self.out.take(read, about)?;
        let Some(left) = self.units_left.checked_sub(length) else {
            let problem = "inodes are together larger than the metadata area, not examined";
            self.out.add(Part::Inode, offset, about, problem);
            self.space.intact = false;
            return Ok(());
        };
        self.units_left = left;
        self.check_xattrs(fs, inode)?;
        match inode.file_type {
            FileType::File => self.check_file(fs, inode),
            FileType::Dir => self.check_body(fs, inode),
            FileType::Symlink => {
                self.check_body(fs, inode)?;
                self.out.take(fs.read_link(inode), about)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The inode that holds fragments: it comes behind all that have names, and belongs to root.
    pub(super) fn check_packed_inode<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let Some(nid) = fs.superblock().packed else { return Ok(()) };
        let about = About::Inode(nid);
        let found = fs.packed_inode();
        let Some(inode) = self.out.take(found, about)? else {
            self.space.intact = false;
            return Ok(());
        };
        if self.place(fs, inode, about)? != Place::Next {
            if self.space.intact {
                self.out.add(
                    Part::Inode,
                    inode.offset,
                    about,
                    "the packed inode has a name or is another inode",
                );
            }
            self.space.intact = false;
            return Ok(());
        }
        let same = (inode.mode, inode.uid, inode.gid, inode.nlink) == (0o644, 0, 0, 1)
            && inode.xattr_len == 0
            && inode.size > 0
            && inode.mtime == fs.superblock().epoch
            && (inode.inode_len == 32) == u32::try_from(inode.size).is_ok();
        if !same {
            self.out.add(
                Part::Inode,
                inode.offset,
                about,
                "attributes of the packed inode are not those of mkimg",
            );
        }
        if !matches!(inode.layout, Layout::Compressed { .. } | Layout::Encoded { .. }) {
            self.out.add(Part::Inode, inode.offset, about, "the packed inode has no map of pieces");
        }
        self.check_inode(fs, inode)
    }

    /// Files: plain, compressed, or with holes by chunks.
    fn check_file<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        if must_be_fragment(fs, inode) && !matches!(inode.layout, Layout::Fragment { .. }) {
            let problem = "file is shorter than a piece, must be in the packed inode";
            self.out.add(Part::Inode, inode.offset, About::Inode(inode.nid), problem);
        }
        let problem = match inode.layout {
            Layout::Chunked { .. } => return self.check_chunks(fs, inode),
            Layout::Compressed { algorithm, map } => return self.check_pieces(fs, inode, algorithm, map),
            Layout::Encoded { map, .. } => return self.check_encoded(fs, inode, map),
            Layout::Fragment { map, .. } => return self.check_fragment(fs, inode, map),
            Layout::Plain { start: None } if inode.size > 0 => "hole in a file that is not chunk-based",
            Layout::Plain { start: Some(_) } if inode.size == 0 => "start block of an empty file",
            Layout::Plain { .. } if inode.size > 0 && fs.superblock().features.encoded => {
                "file is plain, must have encoded extents"
            }
            Layout::Inline { start, .. } => {
                // Kernels that the image is for are told so by the algorithm alone.
                self.census.compressed = true;
                if !may_have_tail(fs, inode) {
                    "file is inline, must be plain, compressed or chunk-based"
                } else if start.is_some() && inode.size < BLOCK_SIZE {
                    "start block of a file without whole blocks"
                } else {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        };
        self.out.add(Part::Inode, inode.offset, About::Inode(inode.nid), problem);
        Ok(())
    }

    /// Chunk maps.
    fn check_chunks<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        let about = About::Inode(inode.nid);
        self.census.chunked = true;
        if matches!(inode.layout, Layout::Chunked { indexes: true, .. }) {
            self.out.add(Part::ChunkMap, inode.offset, about, "chunk map has 8-byte indexes");
        }
        let mut holes = false;
        for extent in fs.extents(inode) {
            let Some(extent) = self.out.take(extent, about)? else { return Ok(()) };
            holes |= extent.physical.is_none();
        }
        if self.dedup
            && let Some(problem) = Self::shared_form(fs, inode)
        {
            self.out.add(Part::ChunkMap, inode.offset, about, problem);
        }
        let may_be_whole = self.dedup && blocks_for(inode.size) <= SHARED_BLOCKS_MAX;
        if !holes && !may_be_whole {
            self.out.add(Part::ChunkMap, inode.offset, about, "chunk-based file without a hole");
        }
        Ok(())
    }

    /// Directories and links: inline when inode, xattrs and tail fit into one block, plain otherwise.
    fn check_body<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        let word = inode.file_type.word();
        let tail = inode.size.checked_rem(BLOCK_SIZE).unwrap_or(0);
        let head = inode.inode_len.saturating_add(inode.xattr_len);
        let fits = tail > 0 && head.saturating_add(tail) <= BLOCK_SIZE;
        let mut wrong =
            |problem: String| self.out.add(Part::Inode, inode.offset, About::Inode(inode.nid), problem);
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
                wrong(format!("{word} has a map, must be plain or inline"));
                return Ok(());
            }
        };
        match start {
            Some(start) if length > 0 => {
                return self.place_body(fs, inode.nid, u64::from(start).saturating_mul(BLOCK_SIZE), length);
            }
            Some(_) => wrong(format!("start block of a {word} without whole blocks")),
            // A hole: reported where the content is read.
            None => {}
        }
        Ok(())
    }
}

/// The first kernel that reads a packed inode.
///
/// An image that none before it reads is built for one that does, so its small files are in there.
const PACKED_KERNEL: (u32, u32) = (6, 1);

/// Whether a file must be in the packed inode.
fn must_be_fragment<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> bool {
    let short = inode.size > 0 && inode.size < PIECE_LEN && !matches!(inode.layout, Layout::Chunked { .. });
    let superblock = fs.superblock();
    short && superblock.features.min_kernel() >= PACKED_KERNEL && superblock.packed != Some(inode.nid)
}

/// Whether the end of a file stands behind its inode, if it is stored as it is and no other file has the same content.
///
/// Only images for kernels that cannot read a packed inode have that. Others have one as soon as there is a file that is
/// shorter than a piece.
pub(super) fn may_have_tail<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> bool {
    let features = fs.superblock().features;
    let tail = inode.size.checked_rem(BLOCK_SIZE).unwrap_or(0);
    features.algorithm.is_some()
        && features.min_kernel() < PACKED_KERNEL
        && inode.size < PIECE_LEN
        && (1..=TAIL_MAX).contains(&tail)
        && inode.xattr_len == 0
}
