//! Reading a file system.

use std::sync::OnceLock;

use zerocopy::IntoBytes as _;

use super::raw::{RawMapHeader, SLOT};
use super::unpack::{Recent, Unpacker};
use super::{Dir, Extent, Extents, FileType, Inode, Layout, Nid, SYMLINK_MAX, Superblock, Walk, escape};
use crate::{BLOCK_LEN, Error, Part, Problem, ReadAt, Result};

/// Symbolic links that [`FileSystem::resolve`] follows in one path, as the kernel does.
const SYMLINK_DEPTH: u32 = 40;

/// An EROFS file system on something that can be read at offsets.
#[derive(Debug)]
pub struct FileSystem<R> {
    io: R,
    superblock: Superblock,
    /// The packed inode, once it was read.
    packed: OnceLock<Inode>,
    /// Pieces of which a part was wanted.
    recent: Recent,
}

impl<R: ReadAt> FileSystem<R> {
    /// Reads the superblock and checks that the file system is all there.
    ///
    /// # Errors
    /// As [`Superblock::read`]; also when the bytes end before the file system does.
    pub fn open(io: R) -> Result<Self> {
        let superblock = Superblock::read(&io)?;
        let offset = super::raw::SUPERBLOCK_OFFSET;
        let size = io.size().map_err(|source| Error::Io { part: Part::Superblock, offset, source })?;
        if superblock.length() > size {
            let problem = Problem::OutOfBounds { start: 0, length: superblock.length(), limit: size };
            return Err(Error::corrupt(Part::Superblock, offset, problem));
        }
        Ok(Self { io, superblock, packed: OnceLock::new(), recent: Recent::new() })
    }

    /// The same file system, of which all but the superblock is read through `io`.
    pub const fn through<S>(&self, io: S) -> FileSystem<S> {
        FileSystem { io, superblock: self.superblock, packed: OnceLock::new(), recent: Recent::new() }
    }

    /// The superblock.
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What the file system is read from.
    pub const fn io(&self) -> &R {
        &self.io
    }

    /// Reads exactly `buf.len()` bytes of the file system at `offset`.
    pub(crate) fn read(&self, part: Part, buf: &mut [u8], offset: u64) -> Result<()> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let limit = self.superblock.length();
        if offset.checked_add(length).is_none_or(|end| end > limit) {
            let problem = Problem::OutOfBounds { start: offset, length, limit };
            return Err(Error::corrupt(part, offset, problem));
        }
        self.io.read_exact_at(buf, offset).map_err(|source| Error::Io { part, offset, source })
    }

    /// Byte offset of an inode.
    #[must_use]
    pub fn inode_offset(&self, nid: Nid) -> u64 {
        let meta = u64::from(self.superblock.meta_block).saturating_mul(self.superblock.block_size());
        meta.saturating_add(nid.0.saturating_mul(SLOT))
    }

    /// Reads and checks one inode.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the field that breaks a rule.
    pub fn inode(&self, nid: Nid) -> Result<Inode> {
        let (bytes, length) = self.inode_bytes(nid)?;
        let bytes = bytes.get(..length).unwrap_or_default();
        Inode::parse(&self.superblock, nid, self.inode_offset(nid), bytes, |at| {
            let mut head = RawMapHeader::default();
            self.read(Part::PieceMap, head.as_mut_bytes(), at)?;
            Ok(head)
        })
    }

    /// The inode that holds fragments of files: a file without a name.
    ///
    /// # Errors
    /// As [`Self::inode`]; also when there is none, or it is not what can hold fragments.
    pub fn packed_inode(&self) -> Result<&Inode> {
        if let Some(inode) = self.packed.get() {
            return Ok(inode);
        }
        let offset = super::raw::SUPERBLOCK_OFFSET.saturating_add(0x60);
        let nid = self.superblock.packed.ok_or_else(|| {
            Error::field(Part::Superblock, offset, "packed_nid", 0, "an inode where files are fragments")
        })?;
        let inode = self.inode(nid)?;
        if inode.file_type != FileType::File || matches!(inode.layout, Layout::Fragment { .. }) {
            let rule = "that of a file with data of its own";
            return Err(Error::field(Part::Superblock, offset, "packed_nid", nid.0, rule));
        }
        Ok(self.packed.get_or_init(|| inode))
    }

    /// The bytes at the place of an inode, and how many of the 64 are there.
    pub(super) fn inode_bytes(&self, nid: Nid) -> Result<([u8; 64], usize)> {
        let offset = self.inode_offset(nid);
        let mut bytes = [0; 64];
        let left = self.superblock.length().saturating_sub(offset);
        if left < SLOT {
            let limit = self.superblock.length();
            let problem = Problem::OutOfBounds { start: offset, length: SLOT, limit };
            return Err(Error::corrupt(Part::Inode, offset, problem));
        }
        let length = usize::try_from(left.min(64)).unwrap_or(0);
        self.read(Part::Inode, bytes.get_mut(..length).unwrap_or_default(), offset)?;
        Ok((bytes, length))
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Self::inode`]; also when the root is no directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.superblock.root)?;
        if root.file_type != FileType::Dir {
            let found = root.file_type.mode_bits().into();
            return Err(Error::field(Part::Inode, root.offset, "i_mode of the root", found, "a directory"));
        }
        Ok(root)
    }

    /// The entries of a directory, `.` and `..` included, in stored order.
    pub fn read_dir(&self, inode: &Inode) -> Dir<'_, R> {
        Dir::new(self, inode.clone())
    }

    /// The extents of a file's content.
    pub fn extents<'a>(&'a self, inode: &'a Inode) -> Extents<'a, R> {
        Extents::new(self, inode)
    }

    /// The extents that touch `length` file bytes from `offset` on.
    pub fn extents_within<'a>(&'a self, inode: &'a Inode, offset: u64, length: u64) -> Extents<'a, R> {
        Extents::within(self, inode, offset, length)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it has holes, contains NUL or does not lie in the image.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>> {
        let length = usize::try_from(inode.size.min(SYMLINK_MAX)).unwrap_or(0);
        let mut target = vec![0; length];
        self.read_file(inode, 0, &mut target)?;
        if target.contains(&0) {
            let problem = Problem::Name(format!("target \"{}\"", escape(&target)));
            return Err(Error::corrupt(Part::Symlink, inode.offset, problem));
        }
        Ok(target)
    }

    /// Fills `buf` with file content from byte `offset` on; returns how much there was before the end of file.
    ///
    /// Of a compressed file whole pieces are taken out, so ask for as much as you can use.
    ///
    /// # Errors
    /// [`Error::Io`], a broken map, or compressed content that is none.
    pub fn read_file(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let wanted = u64::try_from(buf.len()).unwrap_or(u64::MAX).min(inode.size.saturating_sub(offset));
        let length = wanted;
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let buf = buf.get_mut(..wanted).unwrap_or_default();
        let mut done = 0_usize;
        let mut unpacker = Unpacker::default();
        for extent in self.extents_within(inode, offset, length) {
            let extent = extent?;
            let Extent { logical, length, physical, compressed } = extent;
            let position = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            let Some(skip) = position.checked_sub(logical) else { break };
            if skip >= length {
                continue;
            }
            let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
            let room = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(length.saturating_sub(skip));
            let Some(piece) = rest.get_mut(..usize::try_from(room).unwrap_or(0)) else { break };
            match (physical, compressed) {
                (Some(start), Some(compressed)) if room == compressed.whole => {
                    unpacker.unpack(self, start, compressed, piece)?;
                }
                (Some(start), Some(compressed)) => {
                    let whole = self.recent.piece(self, &mut unpacker, start, compressed)?;
                    let from = usize::try_from(compressed.skip.saturating_add(skip)).unwrap_or(usize::MAX);
                    if let Some(part) = whole.get(from..).and_then(|rest| rest.get(..piece.len())) {
                        piece.copy_from_slice(part);
                    }
                }
                (Some(start), None) => self.read(Part::Data, piece, start.saturating_add(skip))?,
                (None, _) => piece.fill(0),
            }
            done = done.saturating_add(piece.len());
        }
        Ok(done)
    }

    /// The inode at a path; symbolic links are followed inside the image, the last one only with `follow`.
    ///
    /// # Errors
    /// [`Error::Path`] when the path leads nowhere, [`Error::Corrupt`] on a broken structure.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Inode> {
        let fail = |problem| Error::Path { path: escape(path), problem };
        if path.len() > super::PATH_MAX {
            return Err(fail("path is longer than 4096 bytes"));
        }
        // Names still to walk, next one last. Directories on the way, for `..`.
        let mut names: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut above: Vec<Inode> = Vec::new();
        let mut here = self.root()?;
        let mut links = 0_u32;
        while let Some(name) = names.pop() {
            if name.is_empty() || name == b"." {
                continue;
            }
            if here.file_type != FileType::Dir {
                return Err(fail("not a directory"));
            }
            if name == b".." {
                here = above.pop().map_or_else(|| self.root(), Ok)?;
                continue;
            }
            let Some(nid) = self.lookup(&here, &name)? else {
                return Err(fail("no such file or directory"));
            };
            let inode = self.inode(nid)?;
            let last = names.iter().all(|name| name.is_empty());
            if inode.file_type == FileType::Symlink && (follow || !last) {
                links = links.saturating_add(1);
                if links > SYMLINK_DEPTH {
                    return Err(fail("too many levels of symbolic links"));
                }
                let target = self.read_link(&inode)?;
                if target.first() == Some(&b'/') {
                    above.clear();
                    here = self.root()?;
                }
                names.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                continue;
            }
            above.push(std::mem::replace(&mut here, inode));
        }
        Ok(here)
    }

    /// Every name in the file system, parents before children, siblings in stored order.
    pub fn walk(&self) -> Walk<'_, R> {
        Walk::new(self)
    }

    /// Calls `take` with the content of a file, piece by piece and in order; holes come as zeros.
    ///
    /// # Errors
    /// What reading or `take` reports.
    pub fn for_each_piece<E: From<Error>>(
        &self,
        inode: &Inode,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut buffer = vec![0; BLOCK_LEN.saturating_mul(64)];
        let mut unpacker = Unpacker::default();
        for extent in self.extents(inode) {
            let Extent { length, physical, compressed, .. } = extent?;
            if let Some((start, compressed)) = physical.zip(compressed) {
                // No longer than PIECE_MAX.
                let length = usize::try_from(length).unwrap_or(0);
                if length < usize::try_from(compressed.whole).unwrap_or(0) {
                    let whole = self.recent.piece(self, &mut unpacker, start, compressed)?;
                    let rest = whole.get(usize::try_from(compressed.skip).unwrap_or(0)..).unwrap_or_default();
                    take(rest.get(..length).unwrap_or(rest))?;
                    continue;
                }
                if buffer.len() < length {
                    buffer.resize(length, 0);
                }
                let piece = buffer.get_mut(..length).unwrap_or_default();
                unpacker.unpack(self, start, compressed, piece)?;
                take(piece)?;
                continue;
            }
            let mut done = 0_u64;
            if physical.is_none() {
                buffer.fill(0);
            }
            while done < length {
                let room =
                    usize::try_from(length.saturating_sub(done)).unwrap_or(usize::MAX).min(buffer.len());
                let Some(piece) = buffer.get_mut(..room) else { break };
                if let Some(start) = physical {
                    self.read(Part::Data, piece, start.saturating_add(done))?;
                }
                take(piece)?;
                done = done.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }
}
