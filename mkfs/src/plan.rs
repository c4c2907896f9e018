//! Layout: where everything stands, once the place of every content is known.
//!
//! Without compression that is before the first byte is written, with it when file data has been written. Nothing
//! here depends on timing:
//!
//! 1. contents, see [`crate::contents`];
//! 2. inodes, breadth first, so that the children of a directory stand together;
//! 3. whole blocks of directories and long link targets;
//! 4. shared xattrs;
//! 5. seal.

use mkimg_format::erofs::pieces::{encoded_map_end, map_len};
use mkimg_format::erofs::raw::{DIRENT_LEN, MAP_HEADER_LEN, NULL_ADDR, SLOT};
use mkimg_format::erofs::{Algorithm, Features, Timestamp};
use mkimg_format::header::Header;
use mkimg_format::seal::{Section, Table};
use mkimg_format::{BLOCK_SIZE, blocks_for};

use crate::contents::{Content, Contents, Data, Form, Packed, Stored};
use crate::error::{Error, Result};
use crate::flatten::Flat;
use crate::tree::{Dir, InodeId, Node, ROOT};
use crate::xattrs::XattrPlan;

/// Where one inode stands, and what its form depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub id: InodeId,
    pub nid: u32,
    /// Index of its content, or [`NO_CONTENT`](crate::contents::NO_CONTENT).
    pub content: u32,
    /// First whole block of a directory or link target, from the start of their area.
    pub body_block: u32,
    /// 32 bytes instead of 64.
    pub compact: bool,
    /// The last bytes of its body stand behind it.
    pub inline: bool,
    /// `EROFS_FT_*`, for the names that lead here.
    pub file_type: u8,
}

/// The layout of an image.
pub(crate) struct Plan<'a> {
    contents: &'a Contents,
    stored: Vec<Stored>,
    /// The packed inode and its number; it stands behind all others.
    pub packed: Option<(u32, Packed)>,
    /// In the order of their numbers.
    pub inodes: Vec<Placed>,
    /// Position in `inodes` by id.
    position: Vec<u32>,
    pub xattrs: XattrPlan,
    /// What compact inodes have.
    pub epoch: Timestamp,
    pub header: Header,
    /// Block of the whole blocks of directories.
    pub body_block: u32,
    /// Block of the shared xattrs.
    pub xattr_block: u32,
    pub seal: Table,
    /// What the inodes need.
    pub features: Features,
}

/// What the plan must know of the seal besides the tree.
pub(crate) struct Documents<'a> {
    pub statement: &'a [u8],
    pub manifest: &'a [u8],
    pub config: &'a [u8],
}

impl<'a> Plan<'a> {
    /// Places everything behind the contents, which stand where `data` says; compressed ones are so by `algorithm`.
    ///
    /// # Errors
    /// [`Error::Limit`] when the image would be larger than 32-bit block addresses reach.
    pub(crate) fn new(
        flat: &Flat,
        documents: &Documents<'_>,
        contents: &'a Contents,
        data: Data,
        algorithm: Option<Algorithm>,
    ) -> Result<Self> {
        let Data { stored, packed, end: meta_block } = data;
        let order = breadth_first(flat);
        let compressed = || contents.list.iter().zip(&stored).filter(|(_, stored)| stored.is_compressed());
        let any = |form: fn(&Form) -> bool| stored.iter().any(|stored| form(&stored.form));
        let tails = any(|form| matches!(form, Form::Tail(_)));
        let mapped = any(|form| matches!(form, Form::Mapped(_)));
        let features = Features {
            chunked: mapped || contents.list.iter().any(|content| content.chunks.is_some()),
            // Where there are tails it says that there may be.
            algorithm: algorithm.filter(|_| tails || compressed().next().is_some()),
            shared: packed.is_some() || compressed().any(|(content, _)| content.several),
            encoded: packed.as_ref().is_some_and(|packed| !packed.indexed)
                || compressed().any(|(_, stored)| matches!(stored.form, Form::Encoded(_))),
        };

        let mut uses = vec![0_u32; flat.xattrs.len()];
        for id in &order {
            let set = flat.tree.inode(*id).attributes.xattrs;
            if let Some(uses) = uses.get_mut(set.0 as usize) {
                *uses = uses.saturating_add(1);
            }
        }
        let xattrs = XattrPlan::new(&flat.xattrs, &uses);

        let epoch = most_common_time(flat, &order);
        let mut placer = Placer { slot: 1, body_blocks: 0 };
        let mut inodes = Vec::with_capacity(order.len());
        let mut position = vec![u32::MAX; flat.tree.slots()];
        for id in order {
            let placed = placer.place(flat, id, (contents, &stored), &xattrs, epoch)?;
            position[id.0 as usize] = u32::try_from(inodes.len()).unwrap_or(u32::MAX);
            inodes.push(placed);
        }
        let packed = match packed {
            Some(packed) => Some((placer.place_packed(&packed)?, packed)),
            None => None,
        };
        let body_block = meta_block + blocks_for(placer.slot * SLOT);
        let xattr_block = body_block + placer.body_blocks;
        let seal_block = xattr_block + blocks_for(xattrs.pool_len);

        let lengths = |section: Section| {
            let records = match section {
                Section::Statement => documents.statement.len(),
                Section::Manifest => documents.manifest.len(),
                Section::Config => documents.config.len(),
                Section::Contents => contents.list.len(),
                Section::Inodes => inodes.len(),
                Section::Layers => flat.waste.layers.len(),
                Section::Deleted => flat.waste.deleted.len(),
                Section::Paths => flat.waste.deleted.iter().map(|deleted| deleted.path.len()).sum(),
            };
            records as u64 * section.record_len()
        };
        let seal = Table::plan(seal_block, lengths);
        let header =
            Header { data_blocks: seal.end_block(), meta_block, seal_block, fec_blocks: 0, fec_roots: 0 };
        Ok(Self {
            body_block: block_address(body_block)?,
            xattr_block: block_address(xattr_block)?,
            contents,
            stored,
            packed,
            inodes,
            position,
            xattrs,
            epoch,
            header: check_size(header)?,
            seal,
            features,
        })
    }

    /// Where an inode stands.
    pub(crate) fn placed(&self, id: InodeId) -> Option<&Placed> {
        self.inodes.get(*self.position.get(id.0 as usize)? as usize)
    }

    /// What compact inodes have as time: not before 1970, or none has.
    pub(crate) fn superblock_epoch(&self) -> Timestamp {
        if self.epoch.sec < 0 { Timestamp::default() } else { self.epoch }
    }

    /// All contents, in layout order.
    pub(crate) fn contents(&self) -> &'a [Content] {
        &self.contents.list
    }

    /// The content of a placed file, and where it is.
    pub(crate) fn content(&self, placed: &Placed) -> Option<(&'a Content, &Stored)> {
        let index = placed.content as usize;
        self.contents.list.get(index).zip(self.stored.get(index))
    }
}

fn check_size(header: Header) -> Result<Header> {
    block_address(header.data_blocks)?;
    Ok(header)
}

/// A block number as the 32 bits that EROFS has for it.
pub(crate) fn block_address(block: u64) -> Result<u32> {
    u32::try_from(block).ok().filter(|address| *address != NULL_ADDR).ok_or(Error::Limit {
        what: "blocks of 4096 bytes in the image",
        found: block,
        limit: u64::from(NULL_ADDR) - 1,
    })
}

/// All inodes, the root first, then directory by directory.
pub(crate) fn breadth_first(flat: &Flat) -> Vec<InodeId> {
    let mut seen = vec![false; flat.tree.slots()];
    let mut order = Vec::with_capacity(flat.tree.len());
    order.push(ROOT);
    seen[ROOT.0 as usize] = true;
    let mut next = 0;
    while let Some(id) = order.get(next) {
        next += 1;
        let Some(dir) = flat.tree.inode(*id).dir() else { continue };
        for child in dir.names.values() {
            if !std::mem::replace(&mut seen[child.0 as usize], true) {
                order.push(*child);
            }
        }
    }
    order
}

/// The modification time that most inodes share; the earliest of several.
///
/// Compact inodes have no time of their own that every kernel reads, so they are for this one.
fn most_common_time(flat: &Flat, order: &[InodeId]) -> Timestamp {
    let mut times: Vec<Timestamp> = order.iter().map(|id| flat.tree.inode(*id).attributes.mtime).collect();
    times.sort_unstable();
    let mut best = (Timestamp::default(), 0);
    for run in times.chunk_by(|a, b| a == b) {
        if run.len() > best.1
            && let Some(time) = run.first()
        {
            best = (*time, run.len());
        }
    }
    best.0
}

/// Hands out slots.
struct Placer {
    /// Next free 32-byte slot. Slot 0 stays empty: readdir of inode number 0 means "deleted" to old programs.
    slot: u64,
    /// Whole blocks so far.
    body_blocks: u64,
}

impl Placer {
    fn place(
        &mut self,
        flat: &Flat,
        id: InodeId,
        (contents, stored): (&Contents, &[Stored]),
        xattrs: &XattrPlan,
        epoch: Timestamp,
    ) -> Result<Placed> {
        let inode = flat.tree.inode(id);
        let content = contents.of(id);
        let (data, stored) = (contents.list.get(content as usize), stored.get(content as usize));
        let body_len = match &inode.node {
            Node::Dir(dir) => dir_len(dir),
            Node::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let size = data.map_or(body_len, |data| data.size);
        let attributes = &inode.attributes;
        let compact = u16::try_from(attributes.uid).is_ok()
            && u16::try_from(attributes.gid).is_ok()
            && u16::try_from(nlink(flat, id)).is_ok()
            && u32::try_from(size).is_ok()
            && attributes.mtime == epoch
            // Signed on disk in extended inodes, unsigned here.
            && epoch.sec >= 0;
        let head = if compact { 32 } else { 64 } + xattrs.body_len(attributes.xattrs);
        let tail = body_len % BLOCK_SIZE;
        // Old kernels want inode, xattrs and tail of a link in one block; so does whoever reads them at once.
        let inline = tail > 0 && head + tail <= BLOCK_SIZE;
        let unit = if inline {
            head + tail
        } else if let Some(Form::Mapped(map)) = stored.map(|stored| &stored.form) {
            head + map.len() as u64 * 4
        } else if let Some(chunks) = data.and_then(|data| data.chunks.as_ref()) {
            head + chunks.map.len() as u64 * 4
        } else {
            match stored.map(|stored| &stored.form) {
                Some(Form::Indexed(_)) => head.next_multiple_of(MAP_HEADER_LEN) + map_len(size),
                Some(Form::Encoded(_)) => encoded_map_end(head.next_multiple_of(MAP_HEADER_LEN), size),
                Some(Form::Fragment) => head.next_multiple_of(MAP_HEADER_LEN) + MAP_HEADER_LEN,
                Some(Form::Tail(tail)) => head + tail.len() as u64,
                _ => head,
            }
        };

        let nid = self.place_unit(unit)?;
        let whole = if inline { body_len / BLOCK_SIZE } else { blocks_for(body_len) };
        let body_block = block_address(self.body_blocks)?;
        self.body_blocks += whole;
        let file_type = inode.file_type().dirent_type();
        Ok(Placed { id, nid, content, body_block, compact, inline, file_type })
    }

    /// Places the packed inode; returns its number.
    fn place_packed(&mut self, packed: &Packed) -> Result<u32> {
        let head = packed.inode_len();
        self.place_unit(if packed.indexed {
            head + map_len(packed.size)
        } else {
            encoded_map_end(head, packed.size)
        })
    }

    /// Finds room for an inode and what follows it, `unit` bytes in all; returns its number.
    fn place_unit(&mut self, unit: u64) -> Result<u32> {
        let offset = self.slot * SLOT;
        // What does not fit into the rest of a block starts at the next one, even if it needs several.
        if !offset.is_multiple_of(BLOCK_SIZE) && unit > BLOCK_SIZE - offset % BLOCK_SIZE {
            self.slot = offset.next_multiple_of(BLOCK_SIZE) / SLOT;
        }
        let nid = u32::try_from(self.slot).map_err(|_| Error::Limit {
            what: "32-byte slots of inodes",
            found: self.slot,
            limit: u32::MAX.into(),
        })?;
        self.slot += unit.div_ceil(SLOT);
        Ok(nid)
    }
}

/// Number of names as it is shown: of a directory 2 and its subdirectories.
pub(crate) fn nlink(flat: &Flat, id: InodeId) -> u32 {
    let inode = flat.tree.inode(id);
    match &inode.node {
        Node::Dir(dir) => {
            let below = dir.names.values().filter(|child| flat.tree.inode(**child).dir().is_some()).count();
            u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2)
        }
        _ => inode.nlink,
    }
}

/// Names of a directory as they are stored: sorted, with `.` and `..` among them.
pub(crate) fn dir_names(dir: &Dir, itself: InodeId) -> impl Iterator<Item = (&[u8], InodeId)> + Clone {
    let dots = [(&b"."[..], itself), (&b".."[..], dir.parent)];
    let names = || dir.names.iter().map(|(name, id)| (&**name, *id));
    // Names that sort before the dots start with one of the bytes below '.'.
    names()
        .take_while(|(name, _)| *name < &b"."[..])
        .chain(dots.into_iter().take(1))
        .chain(names().skip_while(|(name, _)| *name < &b"."[..]).take_while(|(name, _)| *name < &b".."[..]))
        .chain(dots.into_iter().skip(1))
        .chain(names().skip_while(|(name, _)| *name < &b".."[..]))
}

/// Splits names into directory blocks: number of names of each, and bytes of the last one.
pub(crate) fn dir_blocks<'a>(names: impl Iterator<Item = (&'a [u8], InodeId)>) -> (Vec<usize>, u64) {
    let mut blocks = Vec::new();
    let (mut count, mut used) = (0, 0);
    for (name, _) in names {
        let need = (DIRENT_LEN + name.len()) as u64;
        if used + need > BLOCK_SIZE {
            blocks.push(count);
            (count, used) = (0, 0);
        }
        count += 1;
        used += need;
    }
    blocks.push(count);
    (blocks, used)
}

/// Size of a directory in bytes.
pub(crate) fn dir_len(dir: &Dir) -> u64 {
    let (blocks, last) = dir_blocks(dir_names(dir, ROOT));
    (blocks.len() as u64 - 1) * BLOCK_SIZE + last
}
