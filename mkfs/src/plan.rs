//! Layout: where everything will stand, before the first byte is written.
//!
//! Nothing here depends on timing or on the bytes of files, only on the tree and the digests of contents:
//!
//! 1. contents: every distinct content once, in the order of its first visible copy in the source (layer, then
//!    position), so that the copy reads each layer once and front to back;
//! 2. inodes, breadth first, so that the children of a directory stand together;
//! 3. whole blocks of directories and long link targets;
//! 4. shared xattrs;
//! 5. seal.

use mkimg_format::erofs::Timestamp;
use mkimg_format::erofs::raw::{DIRENT_LEN, NULL_ADDR, SLOT};
use mkimg_format::header::Header;
use mkimg_format::seal::{Section, Table};
use mkimg_format::{BLOCK_SIZE, blocks_for};

use crate::error::{Error, Result};
use crate::flatten::Flat;
use crate::scan::{Run, for_each_run};
use crate::tree::{Dir, InodeId, Node, ROOT};
use crate::xattrs::XattrPlan;

/// "No content": not a regular file.
pub(crate) const NO_CONTENT: u32 = u32::MAX;

/// Chunks that one map may have before larger chunks are used: bounds metadata of huge sparse files.
const CHUNKS_MAX: u64 = 1 << 16;

/// One distinct content.
#[derive(Debug)]
pub(crate) struct Content {
    /// Layer and file that it is copied from.
    pub layer: u32,
    pub file: u32,
    pub size: u64,
    /// First block; meaningless without blocks.
    pub start: u32,
    /// Blocks it takes in the image.
    pub blocks: u64,
    /// For content with holes.
    pub chunks: Option<Chunks>,
}

/// Map of a sparse content.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// log2 of blocks in a chunk.
    pub bits: u32,
    /// Block address of each chunk, or [`NULL_ADDR`].
    pub map: Box<[u32]>,
}

/// Where one inode stands, and what its form depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub id: InodeId,
    pub nid: u32,
    /// Index of its content, or [`NO_CONTENT`].
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
pub(crate) struct Plan {
    pub contents: Vec<Content>,
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
    /// Whether any inode is chunk-based.
    pub chunked: bool,
}

/// What the plan must know of the seal besides the tree.
pub(crate) struct Documents<'a> {
    pub statement: &'a [u8],
    pub manifest: &'a [u8],
    pub config: &'a [u8],
}

impl Plan {
    /// Places everything.
    ///
    /// # Errors
    /// [`Error::Limit`] when the image would be larger than 32-bit block addresses reach.
    pub(crate) fn new(flat: &Flat, documents: &Documents<'_>, holes: bool) -> Result<Self> {
        let order = breadth_first(flat);
        let (contents, content_of) = place_contents(flat, &order, holes)?;
        let chunked = contents.iter().any(|content| content.chunks.is_some());
        let meta_block = contents.iter().fold(1, |sum, content| sum + content.blocks);

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
            let content = content_of.get(id.0 as usize).copied().unwrap_or(NO_CONTENT);
            let placed = placer.place(flat, id, content, &contents, &xattrs, epoch)?;
            position[id.0 as usize] = u32::try_from(inodes.len()).unwrap_or(u32::MAX);
            inodes.push(placed);
        }
        let body_block = meta_block + blocks_for(placer.slot * SLOT);
        let xattr_block = body_block + placer.body_blocks;
        let seal_block = xattr_block + blocks_for(xattrs.pool_len);

        let lengths = |section: Section| {
            let records = match section {
                Section::Statement => documents.statement.len(),
                Section::Manifest => documents.manifest.len(),
                Section::Config => documents.config.len(),
                Section::Contents => contents.len(),
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
            inodes,
            position,
            xattrs,
            epoch,
            header: check_size(header)?,
            seal,
            chunked,
        })
    }

    /// Where an inode stands.
    pub(crate) fn placed(&self, id: InodeId) -> Option<&Placed> {
        self.inodes.get(*self.position.get(id.0 as usize)? as usize)
    }

    /// The content of a placed file.
    pub(crate) fn content(&self, placed: &Placed) -> Option<&Content> {
        self.contents.get(placed.content as usize)
    }
}

fn check_size(header: Header) -> Result<Header> {
    block_address(header.data_blocks)?;
    Ok(header)
}

/// A block number as the 32 bits that EROFS has for it.
fn block_address(block: u64) -> Result<u32> {
    u32::try_from(block).ok().filter(|address| *address != NULL_ADDR).ok_or(Error::Limit {
        what: "blocks of 4096 bytes in the image",
        found: block,
        limit: u64::from(NULL_ADDR) - 1,
    })
}

/// All inodes, the root first, then directory by directory.
fn breadth_first(flat: &Flat) -> Vec<InodeId> {
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

/// Distinct contents with their blocks, and the content of each inode.
fn place_contents(flat: &Flat, order: &[InodeId], holes: bool) -> Result<(Vec<Content>, Vec<u32>)> {
    // (layer, file, inode), sorted: the order in which the source has them.
    let mut files: Vec<(u32, u32, InodeId)> = order
        .iter()
        .filter_map(|id| match flat.tree.inode(*id) {
            crate::tree::Inode { node: Node::File(file), layer, .. } => Some((*layer, *file, *id)),
            _ => None,
        })
        .collect();
    files.sort_unstable();
    let first = first_copies(flat, &files);
    let mut contents: Vec<Content> = Vec::new();
    let mut content_of = vec![NO_CONTENT; flat.tree.slots()];
    let mut block = 1;
    for (index, (layer, file, id)) in files.iter().copied().enumerate() {
        let Some(data) = flat.file(layer, file) else { continue };
        let copy_of = first.get(index).map_or(index, |first| *first as usize);
        if copy_of != index {
            let original = files.get(copy_of).map_or(id, |(_, _, id)| *id);
            content_of[id.0 as usize] = content_of[original.0 as usize];
            continue;
        }
        let start = u32::try_from(block).unwrap_or(NULL_ADDR);
        let segments = data.segments().filter(|_| holes);
        let chunks = segments.and_then(|segments| chunk_map(data.size, segments, start));
        let blocks = match &chunks {
            None => blocks_for(data.size),
            Some(chunks) => chunks.blocks(data.size),
        };
        block += blocks;
        content_of[id.0 as usize] = u32::try_from(contents.len()).unwrap_or(NO_CONTENT);
        contents.push(Content { layer, file, size: data.size, start, blocks, chunks });
    }
    block_address(block)?;
    Ok((contents, content_of))
}

/// For each file the position of the first one with the same content.
///
/// Sorted positions instead of a hash table: a tenth of the memory, and images have millions of files.
fn first_copies(flat: &Flat, files: &[(u32, u32, InodeId)]) -> Vec<u32> {
    let key = |index: &u32| {
        let (layer, file, _) = files[*index as usize];
        flat.file(layer, file).map(|data| (&data.blake3, data.size))
    };
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let mut by_content: Vec<u32> = (0..count).collect();
    by_content.sort_unstable_by(|a, b| key(a).cmp(&key(b)).then(a.cmp(b)));
    let mut first: Vec<u32> = (0..count).collect();
    for copies in by_content.chunk_by(|a, b| key(a) == key(b)) {
        for copy in copies {
            first[*copy as usize] = copies[0];
        }
    }
    first
}

impl Chunks {
    /// Blocks in one full chunk.
    pub(crate) const fn chunk_blocks(&self) -> u64 {
        1 << self.bits
    }

    /// Blocks of chunk `index` of a file of `size` bytes: fewer in the last one.
    pub(crate) fn blocks_of(&self, index: usize, size: u64) -> u64 {
        self.chunk_blocks().min(blocks_for(size) - index as u64 * self.chunk_blocks())
    }

    /// Blocks of all chunks that are there.
    fn blocks(&self, size: u64) -> u64 {
        let there = self.map.iter().enumerate().filter(|(_, address)| **address != NULL_ADDR);
        there.map(|(index, _)| self.blocks_of(index, size)).sum()
    }
}

/// The chunk map of a sparse file; `None` when no whole chunk would be a hole.
fn chunk_map(size: u64, segments: &[crate::tar::Segment], start: u32) -> Option<Chunks> {
    let blocks = blocks_for(size);
    let bits = (0..31).find(|bits| blocks.div_ceil(1 << bits) <= CHUNKS_MAX)?;
    let chunk = BLOCK_SIZE << bits;
    let mut used = vec![false; usize::try_from(size.div_ceil(chunk)).ok()?];
    let mut at = 0;
    let marked: std::result::Result<(), ()> = for_each_run(size, Some(segments), |run| {
        match run {
            Run::Hole(length) => at += length,
            Run::Data(length) => {
                let end = at + length;
                let last = usize::try_from(end.div_ceil(chunk)).map_err(|_| ())?;
                let first = usize::try_from(at / chunk).map_err(|_| ())?;
                used.get_mut(first..last).ok_or(())?.fill(true);
                at = end;
            }
        }
        Ok(())
    });
    marked.ok()?;
    if used.iter().all(|used| *used) {
        return None;
    }
    let mut next = u64::from(start);
    let map = used
        .into_iter()
        .enumerate()
        .map(|(index, used)| {
            if !used {
                return NULL_ADDR;
            }
            let address = u32::try_from(next).unwrap_or(NULL_ADDR);
            next += (1 << bits).min(blocks - index as u64 * (1 << bits));
            address
        })
        .collect();
    Some(Chunks { bits, map })
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
        content: u32,
        contents: &[Content],
        xattrs: &XattrPlan,
        epoch: Timestamp,
    ) -> Result<Placed> {
        let inode = flat.tree.inode(id);
        let chunks = contents.get(content as usize).and_then(|content| content.chunks.as_ref());
        let body_len = match &inode.node {
            Node::Dir(dir) => dir_len(dir),
            Node::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let size = contents.get(content as usize).map_or(body_len, |content| content.size);
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
        let map = chunks.map_or(0, |chunks| chunks.map.len() as u64 * 4);
        let unit = head + if inline { tail } else { map };

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
        let whole = if inline { body_len / BLOCK_SIZE } else { blocks_for(body_len) };
        let body_block = block_address(self.body_blocks)?;
        self.body_blocks += whole;
        let file_type = inode.file_type().dirent_type();
        Ok(Placed { id, nid, content, body_block, compact, inline, file_type })
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
