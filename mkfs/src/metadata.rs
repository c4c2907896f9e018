//! The metadata area: inodes with what follows them, directory blocks, shared xattrs.
//!
//! Written front to back from the plan, and a pure function of it: it is written twice, once into a hash that
//! becomes the UUID, once into the image.

use std::io::{self, Write};

use mkimg_format::erofs::pieces::{
    Piece, encode_extent, encoded_map_header, fragment_map, map_header, piece_len, record_len, records_start,
};
use mkimg_format::erofs::raw::{
    CHUNK_BITS_MASK, DIRENT_LEN, FORMAT_EXTENDED, LAYOUT_CHUNK_BASED, LAYOUT_COMPRESSED_FULL,
    LAYOUT_FLAT_INLINE, LAYOUT_FLAT_PLAIN, MAP_HEADER_LEN, NULL_ADDR, RawCompactInode, RawDirent,
    RawExtendedInode, SLOT, encode_rdev, xattr_icount,
};
use mkimg_format::erofs::{Algorithm, FileType};
use mkimg_format::{BLOCK_SIZE, blocks_for};
use zerocopy::IntoBytes as _;

use crate::contents::{Chunks, Form, Packed, Stored};
use crate::flatten::Flat;
use crate::plan::{Placed, Plan, dir_blocks, dir_len, dir_names, nlink};
use crate::tree::{Dir, Node};

/// Counts what it passes on, and can fill up with zeros.
struct Counted<W> {
    out: W,
    at: u64,
}

impl<W: Write> Counted<W> {
    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        while self.at < offset {
            let room = usize::try_from(offset - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_all(&ZEROS[..room])?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buf)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes the blocks from `meta_block` up to `seal_block`.
///
/// # Errors
/// What `out` reports.
pub(crate) fn write_metadata(flat: &Flat, plan: &Plan<'_>, out: &mut impl Write) -> io::Result<()> {
    let meta = plan.header.meta_block;
    let area = |block: u32| (u64::from(block) - meta) * BLOCK_SIZE;
    let mut out = Counted { out, at: 0 };
    for placed in &plan.inodes {
        out.pad_to(u64::from(placed.nid) * SLOT)?;
        write_inode(flat, plan, placed, &mut out)?;
    }
    if let (Some((nid, packed)), Some(algorithm)) = (&plan.packed, plan.features.algorithm) {
        out.pad_to(u64::from(*nid) * SLOT)?;
        write_packed(plan, *nid, packed, algorithm, &mut out)?;
    }
    out.pad_to(area(plan.body_block))?;
    for placed in &plan.inodes {
        write_body(flat, plan, placed, &mut out)?;
    }
    out.pad_to(area(plan.xattr_block))?;
    plan.xattrs.write_pool(&mut out)?;
    out.pad_to((plan.header.seal_block - meta) * BLOCK_SIZE)?;
    out.flush()
}

/// Writes an inode, its xattrs, and its tail or map.
fn write_inode(flat: &Flat, plan: &Plan<'_>, placed: &Placed, out: &mut impl Write) -> io::Result<()> {
    let inode = flat.tree.inode(placed.id);
    let attributes = &inode.attributes;
    let content = plan.content(placed);
    let body = u64::from(plan.body_block) + u64::from(placed.body_block);
    let body = u32::try_from(body).map_err(io::Error::other)?;
    let flat_layout = if placed.inline { LAYOUT_FLAT_INLINE } else { LAYOUT_FLAT_PLAIN };
    let start_of = |size: u64| if placed.inline && size < BLOCK_SIZE { NULL_ADDR } else { body };
    let (layout, size, i_u) = match (&inode.node, content) {
        (Node::Dir(dir), _) => {
            let size = dir_len(dir);
            (flat_layout, size, start_of(size))
        }
        (Node::Symlink(target), _) => {
            let size = target.len() as u64;
            (flat_layout, size, start_of(size))
        }
        (Node::File(_), Some((content, Stored { form: Form::Mapped(_), .. }))) => {
            // Chunks of one block.
            (LAYOUT_CHUNK_BASED, content.size, 0)
        }
        (Node::File(_), Some((content, stored))) => match &content.chunks {
            Some(chunks) => (LAYOUT_CHUNK_BASED, content.size, chunks.bits & u32::from(CHUNK_BITS_MASK)),
            None if content.size == 0 => (LAYOUT_FLAT_PLAIN, 0, NULL_ADDR),
            None => match &stored.form {
                Form::Plain | Form::Mapped(_) => (LAYOUT_FLAT_PLAIN, content.size, stored.block()),
                Form::Tail(_) if content.size < BLOCK_SIZE => (LAYOUT_FLAT_INLINE, content.size, NULL_ADDR),
                Form::Tail(_) => (LAYOUT_FLAT_INLINE, content.size, stored.block()),
                Form::Indexed(blocks) => {
                    (LAYOUT_COMPRESSED_FULL, content.size, blocks.iter().copied().map(u32::from).sum())
                }
                Form::Encoded(lengths) => {
                    let blocks = blocks_for(lengths.iter().copied().map(u64::from).sum());
                    let blocks = u32::try_from(blocks).map_err(io::Error::other)?;
                    (LAYOUT_COMPRESSED_FULL, content.size, blocks)
                }
                // Not of its own. But tar takes a file that has no blocks for one big hole.
                Form::Fragment => {
                    let blocks = u32::try_from(blocks_for(content.size)).map_err(io::Error::other)?;
                    (LAYOUT_COMPRESSED_FULL, content.size, blocks)
                }
            },
        },
        (Node::Char(major, minor) | Node::Block(major, minor), _) => {
            (LAYOUT_FLAT_PLAIN, 0, encode_rdev(*major, *minor))
        }
        _ => (LAYOUT_FLAT_PLAIN, 0, 0),
    };
    let icount = xattr_icount(plan.xattrs.body_len(attributes.xattrs)).unwrap_or(0);
    let mode = inode.file_type().mode_bits() | attributes.mode;
    let links = nlink(flat, placed.id);
    if placed.compact {
        let raw = RawCompactInode {
            i_format: (layout << 1).into(),
            i_xattr_icount: icount.into(),
            i_mode: mode.into(),
            i_nlink: u16::try_from(links).map_err(io::Error::other)?.into(),
            i_size: u32::try_from(size).map_err(io::Error::other)?.into(),
            i_u: i_u.into(),
            i_ino: placed.nid.into(),
            i_uid: u16::try_from(attributes.uid).map_err(io::Error::other)?.into(),
            i_gid: u16::try_from(attributes.gid).map_err(io::Error::other)?.into(),
            ..RawCompactInode::default()
        };
        out.write_all(raw.as_bytes())?;
    } else {
        let raw = RawExtendedInode {
            i_format: (FORMAT_EXTENDED | (layout << 1)).into(),
            i_xattr_icount: icount.into(),
            i_mode: mode.into(),
            i_size: size.into(),
            i_u: i_u.into(),
            i_ino: placed.nid.into(),
            i_uid: attributes.uid.into(),
            i_gid: attributes.gid.into(),
            i_mtime: attributes.mtime.sec.cast_unsigned().into(),
            i_mtime_nsec: attributes.mtime.nsec.into(),
            i_nlink: links.into(),
            ..RawExtendedInode::default()
        };
        out.write_all(raw.as_bytes())?;
    }
    plan.xattrs.write_body(attributes.xattrs, out)?;
    match (&inode.node, content) {
        (Node::Dir(dir), _) if placed.inline => write_dir(plan, placed, dir, Part::Tail, out),
        (Node::Symlink(target), _) if placed.inline => {
            let whole = target.len() - target.len() % 4096;
            out.write_all(&target[whole..])
        }
        (Node::File(_), Some((_, Stored { form: Form::Mapped(map), .. }))) => {
            map.iter().try_for_each(|block| out.write_all(&block.to_le_bytes()))
        }
        (Node::File(_), Some((content, stored))) => {
            if let Some(chunks) = &content.chunks {
                return write_chunks(chunks, stored, out);
            }
            if let Form::Tail(tail) = &stored.form {
                return out.write_all(tail);
            }
            let head = 32 + if placed.compact { 0 } else { 32 } + plan.xattrs.body_len(attributes.xattrs);
            let Some(algorithm) = plan.features.algorithm.filter(|_| stored.is_compressed()) else {
                return Ok(());
            };
            let map = head.next_multiple_of(MAP_HEADER_LEN);
            write_zeros(map - head, out)?;
            let mut at = stored.start;
            let mut place = |length: u64| {
                let start = at;
                at += length;
                (start, length)
            };
            match &stored.form {
                Form::Plain | Form::Mapped(_) | Form::Tail(_) => Ok(()),
                Form::Indexed(blocks) => {
                    let pieces = blocks.iter().map(|blocks| place(u64::from(*blocks) * BLOCK_SIZE));
                    write_indexes(content.size, pieces, algorithm, out)
                }
                Form::Encoded(lengths) => {
                    let pieces = lengths.iter().map(|length| place((*length).into()));
                    write_extents(map, content.size, pieces, algorithm, out)
                }
                Form::Fragment => out.write_all(&fragment_map(stored.start)),
            }
        }
        _ => Ok(()),
    }
}

/// Writes the map of a sparse file.
fn write_chunks(chunks: &Chunks, stored: &Stored, out: &mut impl Write) -> io::Result<()> {
    chunks.map.iter().try_for_each(|block| {
        let address = if *block == NULL_ADDR { NULL_ADDR } else { stored.block() + block };
        out.write_all(&address.to_le_bytes())
    })
}

/// Writes the packed inode: a file of nobody's, as old as most others.
fn write_packed(
    plan: &Plan<'_>,
    nid: u32,
    packed: &Packed,
    algorithm: Algorithm,
    out: &mut impl Write,
) -> io::Result<()> {
    let pieces = packed.pieces.iter().map(|(start, length)| (*start, u64::from(*length)));
    let blocks = blocks_for(pieces.clone().map(|(_, length)| length).sum());
    let i_u = u32::try_from(blocks).map_err(io::Error::other)?;
    let mode = FileType::File.mode_bits() | 0o644;
    match u32::try_from(packed.size) {
        Ok(size) => {
            let raw = RawCompactInode {
                i_format: (LAYOUT_COMPRESSED_FULL << 1).into(),
                i_mode: mode.into(),
                i_nlink: 1.into(),
                i_size: size.into(),
                i_u: i_u.into(),
                i_ino: nid.into(),
                ..RawCompactInode::default()
            };
            out.write_all(raw.as_bytes())?;
        }
        Err(_) => {
            let epoch = plan.superblock_epoch();
            let raw = RawExtendedInode {
                i_format: (FORMAT_EXTENDED | (LAYOUT_COMPRESSED_FULL << 1)).into(),
                i_mode: mode.into(),
                i_size: packed.size.into(),
                i_u: i_u.into(),
                i_ino: nid.into(),
                i_mtime: epoch.sec.cast_unsigned().into(),
                i_mtime_nsec: epoch.nsec.into(),
                i_nlink: 1.into(),
                ..RawExtendedInode::default()
            };
            out.write_all(raw.as_bytes())?;
        }
    }
    if packed.indexed {
        write_indexes(packed.size, pieces, algorithm, out)
    } else {
        write_extents(packed.inode_len(), packed.size, pieces, algorithm, out)
    }
}

fn write_zeros(length: u64, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 32][..usize::try_from(length).map_err(io::Error::other)?])
}

/// Writes the map of a content of `size` bytes: first byte and stored length of each piece are `pieces`.
fn write_indexes(
    size: u64,
    pieces: impl Iterator<Item = (u64, u64)>,
    algorithm: Algorithm,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(map_header(algorithm).as_bytes())?;
    write_zeros(MAP_HEADER_LEN, out)?;
    let mut left = size;
    for (start, stored) in pieces {
        let length = piece_len(left);
        left -= length;
        let block = |bytes: u64| u32::try_from(bytes / BLOCK_SIZE).map_err(io::Error::other);
        let piece = Piece {
            start: block(start)?,
            blocks: block(stored)?,
            length,
            plain: stored == blocks_for(length) * BLOCK_SIZE,
        };
        for index in piece.indexes() {
            out.write_all(index.as_bytes())?;
        }
    }
    Ok(())
}

/// Writes encoded extents in place of indexes; the map starts `map` bytes behind a slot.
fn write_extents(
    map: u64,
    size: u64,
    pieces: impl Iterator<Item = (u64, u64)>,
    algorithm: Algorithm,
    out: &mut impl Write,
) -> io::Result<()> {
    out.write_all(encoded_map_header(size).as_bytes())?;
    let record_len = record_len(size);
    write_zeros(records_start(map, record_len) - map - MAP_HEADER_LEN, out)?;
    let mut logical = 0;
    for (start, stored) in pieces {
        let length = piece_len(size - logical);
        let algorithm = (stored < length).then_some(algorithm);
        let stored = u32::try_from(stored).map_err(io::Error::other)?;
        let record = encode_extent(algorithm, logical, start, stored);
        out.write_all(&record.as_bytes()[..usize::try_from(record_len).map_err(io::Error::other)?])?;
        logical += length;
    }
    Ok(())
}

/// Writes the whole blocks of a directory or link target.
fn write_body(
    flat: &Flat,
    plan: &Plan<'_>,
    placed: &Placed,
    out: &mut Counted<impl Write>,
) -> io::Result<()> {
    match &flat.tree.inode(placed.id).node {
        Node::Dir(dir) => write_dir(plan, placed, dir, Part::Blocks, out)?,
        Node::Symlink(target) if !placed.inline => out.write_all(target)?,
        _ => return Ok(()),
    }
    let end = out.at.next_multiple_of(BLOCK_SIZE);
    out.pad_to(end)
}

/// Which part of a directory.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Part {
    /// All blocks, but for the one that stands behind the inode.
    Blocks,
    /// The last block, as far as it is used.
    Tail,
}

fn write_dir(
    plan: &Plan<'_>,
    placed: &Placed,
    dir: &Dir,
    part: Part,
    out: &mut impl Write,
) -> io::Result<()> {
    let names = dir_names(dir, placed.id);
    let (blocks, _) = dir_blocks(names.clone());
    let mut names = names;
    let last = blocks.len() - 1;
    for (index, count) in blocks.into_iter().enumerate() {
        let wanted = match part {
            Part::Blocks => index < last || !placed.inline,
            Part::Tail => index == last,
        };
        let names = names.by_ref().take(count);
        if !wanted {
            names.for_each(drop);
            continue;
        }
        let names: Vec<_> = names.collect();
        let mut nameoff = count * DIRENT_LEN;
        for (name, id) in &names {
            let target = plan.placed(*id).ok_or_else(|| io::Error::other("a name leads to no inode"))?;
            let dirent = RawDirent {
                nid: u64::from(target.nid).into(),
                nameoff: u16::try_from(nameoff).map_err(io::Error::other)?.into(),
                file_type: target.file_type,
                reserved: 0,
            };
            out.write_all(dirent.as_bytes())?;
            nameoff += name.len();
        }
        for (name, _) in &names {
            out.write_all(name)?;
        }
        if index < last {
            out.write_all(&vec![0; 4096 - nameoff])?;
        }
    }
    Ok(())
}
