//! A small image writer for tests, written from the specification and not from the builder.
#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use mkimg_format::erofs::raw::{
    RawCompactInode, RawDirent, RawExtendedInode, RawSuperblock, RawXattrEntry, RawXattrHeader,
};
use mkimg_format::header::Header;
use mkimg_format::lint::{Finding, lint};
use zerocopy::IntoBytes as _;

pub(crate) const BLOCK: usize = 4096;
const NULL: u32 = 0xffff_ffff;
pub(crate) const EPOCH: u64 = 1_700_000_000;

/// What an inode holds.
#[derive(Clone)]
pub(crate) enum Content {
    Dir,
    File(Vec<u8>),
    /// Chunks of one block; the last may be short.
    Sparse(Vec<Option<Vec<u8>>>),
    Link(Vec<u8>),
    /// Device, fifo or socket: `i_u`.
    Special(u32),
}

/// One inode with its first path.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u16,
    pub(crate) content: Content,
    pub(crate) extended: bool,
    pub(crate) uid: u32,
    pub(crate) mtime: (i64, u32),
    /// Index, suffix, value.
    pub(crate) xattrs: Vec<(u8, Vec<u8>, Vec<u8>)>,
    /// Indexes into the shared pool.
    pub(crate) shared: Vec<usize>,
}

impl Node {
    pub(crate) fn new(path: &str, mode: u16, content: Content) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            mode,
            content,
            extended: false,
            uid: 0,
            mtime: (EPOCH.cast_signed(), 0),
            xattrs: Vec::new(),
            shared: Vec::new(),
        }
    }

    pub(crate) fn extended(mut self) -> Self {
        self.extended = true;
        self
    }

    pub(crate) fn shared(mut self, ids: &[usize]) -> Self {
        self.shared = ids.to_vec();
        self
    }

    pub(crate) fn xattr(mut self, index: u8, suffix: &[u8], value: &[u8]) -> Self {
        self.xattrs.push((index, suffix.to_vec(), value.to_vec()));
        self
    }

    fn inode_len(&self) -> usize {
        if self.extended { 64 } else { 32 }
    }
}

/// Where the parts of an inode are, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) nid: u64,
    pub(crate) inode: usize,
    pub(crate) xattrs: usize,
    /// Inline tail or chunk map.
    pub(crate) tail: usize,
    /// File data or whole directory blocks.
    pub(crate) blocks: usize,
    pub(crate) size: usize,
}

/// A finished image.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: Header,
    pub(crate) places: BTreeMap<Vec<u8>, Place>,
    /// Byte offset of the shared pool, of each entry in it, and of its end.
    pub(crate) pool: usize,
    pub(crate) pool_ids: Vec<u32>,
    pub(crate) pool_end: usize,
}

impl Image {
    pub(crate) fn at(&self, path: &str) -> Place {
        self.places[path.as_bytes()]
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds 1 to a byte.
    pub(crate) fn bump(&mut self, at: usize) {
        self.bytes[at] += 1;
    }

    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }

    /// Byte offset of the entry `name` of the directory block at `block`, which is `length` bytes long.
    pub(crate) fn dirent(&self, block: usize, length: usize, name: &[u8]) -> usize {
        let count = usize::from(self.u16_at(block + 8)) / 12;
        (0..count)
            .map(|index| block + 12 * index)
            .find(|at| {
                let start = usize::from(self.u16_at(at + 8));
                let end = if *at == block + 12 * (count - 1) { length } else { self.u16_at(at + 20).into() };
                self.bytes[block + start..block + end].split(|byte| *byte == 0).next().unwrap() == name
            })
            .unwrap()
    }

    /// As [`Self::dirent`], of a directory that is all tail.
    pub(crate) fn dirent_in(&self, path: &str, name: &str) -> usize {
        let place = self.at(path);
        assert!(place.size < BLOCK);
        self.dirent(place.tail, place.size, name.as_bytes())
    }

    /// Makes the checksum of the superblock right again.
    pub(crate) fn seal(&mut self) {
        let mut block = self.bytes[1024..BLOCK].to_vec();
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(&block);
        self.put(1028, &checksum.to_le_bytes());
    }

    pub(crate) fn lint(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        lint(&self.bytes, &self.header, &mut |finding| findings.push(finding)).unwrap();
        findings
    }
}

/// Names by directory, then inode: hardlinks are further names.
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// Further names: path, index of the node.
    pub(crate) links: Vec<(Vec<u8>, usize)>,
    /// Shared xattrs: index, suffix, value.
    pub(crate) pool: Vec<(u8, Vec<u8>, Vec<u8>)>,
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap();
    (if slash == 0 { b"/" } else { &path[..slash] }, &path[slash + 1..])
}

fn xattr_entry(index: u8, suffix: &[u8], value: &[u8]) -> Vec<u8> {
    let head = RawXattrEntry {
        e_name_len: suffix.len() as u8,
        e_name_index: index,
        e_value_size: (value.len() as u16).into(),
    };
    let mut bytes = [head.as_bytes(), suffix, value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Splits sorted names into blocks.
fn pack(names: &[(Vec<u8>, usize)]) -> Vec<Vec<(Vec<u8>, usize)>> {
    let mut blocks: Vec<Vec<(Vec<u8>, usize)>> = vec![Vec::new()];
    let mut used = 0;
    for name in names {
        let length = 12 + name.0.len();
        if used + length > BLOCK {
            blocks.push(Vec::new());
            used = 0;
        }
        used += length;
        blocks.last_mut().unwrap().push(name.clone());
    }
    blocks
}

impl Tree {
    pub(crate) fn build(&self) -> Image {
        let nodes = &self.nodes;
        // Names of every directory.
        let by_path: BTreeMap<&[u8], usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.path.as_slice(), index)).collect();
        let mut names: BTreeMap<usize, Vec<(Vec<u8>, usize)>> = BTreeMap::new();
        let mut nlink = vec![0_u32; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let is_dir = matches!(node.content, Content::Dir);
            let parent = if node.path == b"/" {
                index
            } else {
                let (dir, name) = split(&node.path);
                let parent = by_path[dir];
                names.entry(parent).or_default().push((name.to_vec(), index));
                nlink[parent] += u32::from(is_dir);
                nlink[index] += u32::from(!is_dir);
                parent
            };
            if is_dir {
                nlink[index] += 2;
                names.entry(index).or_default().extend([(b".".to_vec(), index), (b"..".to_vec(), parent)]);
            }
        }
        for (path, index) in &self.links {
            let (dir, name) = split(path);
            names.get_mut(&by_path[dir]).unwrap().push((name.to_vec(), *index));
            nlink[*index] += 1;
        }
        names.values_mut().for_each(|names| names.sort());

        // Breadth first, as inodes are numbered.
        let mut order = vec![by_path[&b"/"[..]]];
        let mut met = vec![false; nodes.len()];
        met[order[0]] = true;
        let mut next = 0;
        while next < order.len() {
            for (_, child) in names.get(&order[next]).into_iter().flatten() {
                if !std::mem::replace(&mut met[*child], true) {
                    order.push(*child);
                }
            }
            next += 1;
        }

        // Data, the same content once.
        let mut bytes = vec![0; BLOCK];
        let mut seen: BTreeMap<RunKey, u32> = BTreeMap::new();
        let mut place_data = |bytes: &mut Vec<u8>, key: RunKey, data: &[u8]| -> u32 {
            *seen.entry(key).or_insert_with(|| {
                let start = bytes.len() / BLOCK;
                bytes.extend_from_slice(data);
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
                start as u32
            })
        };
        let mut starts = vec![NULL; nodes.len()];
        let mut maps: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            match &node.content {
                Content::File(data) if !data.is_empty() => {
                    starts[index] = place_data(&mut bytes, (key(data), 0), data);
                }
                Content::Sparse(chunks) => {
                    let whole = key(chunks);
                    let map = chunks.iter().enumerate().map(|(number, chunk)| match chunk {
                        Some(data) => place_data(&mut bytes, (whole, number + 1), data),
                        None => NULL,
                    });
                    let map = map.collect();
                    maps.insert(index, map);
                }
                _ => {}
            }
        }
        let meta_block = bytes.len() / BLOCK;
        let meta = bytes.len();

        // The pool, so that ids are known.
        let mut pool = Vec::new();
        let mut pool_ids = Vec::new();
        for (index, suffix, value) in &self.pool {
            pool_ids.push(pool.len() as u32 / 4);
            pool.extend(xattr_entry(*index, suffix, value));
        }

        // Places of inodes, then of directory blocks.
        let mut places = vec![Place::default(); nodes.len()];
        let mut bodies = vec![Vec::new(); nodes.len()];
        let mut cursor = 32;
        let mut packed = BTreeMap::new();
        let mut inline = vec![false; nodes.len()];
        for (index, node) in order.iter().map(|index| (*index, &nodes[*index])) {
            let mut body = Vec::new();
            if !node.shared.is_empty() || !node.xattrs.is_empty() {
                let head = RawXattrHeader { h_shared_count: node.shared.len() as u8, ..Default::default() };
                body.extend_from_slice(head.as_bytes());
                for id in &node.shared {
                    body.extend_from_slice(&pool_ids[*id].to_le_bytes());
                }
                for (class, suffix, value) in &node.xattrs {
                    body.extend(xattr_entry(*class, suffix, value));
                }
            }
            let size = match &node.content {
                Content::Dir => {
                    let blocks = pack(&names[&index]);
                    let last: usize = blocks.last().unwrap().iter().map(|(name, _)| 12 + name.len()).sum();
                    let size = (blocks.len() - 1) * BLOCK + last;
                    packed.insert(index, blocks);
                    size
                }
                Content::File(data) => data.len(),
                Content::Sparse(chunks) => {
                    let last = chunks.last().unwrap().as_ref().map_or(BLOCK, Vec::len);
                    (chunks.len() - 1) * BLOCK + last
                }
                Content::Link(target) => target.len(),
                Content::Special(_) => 0,
            };
            let head = node.inode_len() + body.len();
            let (tail, aligned) = match &node.content {
                Content::Dir | Content::Link(_) if head + size % BLOCK <= BLOCK => (size % BLOCK, true),
                Content::Sparse(chunks) => (4 * chunks.len(), false),
                _ => (0, false),
            };
            inline[index] = aligned && tail > 0;
            // What does not fit into the rest of a block starts with the next one.
            if cursor % BLOCK != 0 && cursor % BLOCK + head + tail > BLOCK {
                cursor = cursor.next_multiple_of(BLOCK);
            }
            places[index] = Place {
                nid: cursor as u64 / 32,
                inode: meta + cursor,
                xattrs: meta + cursor + node.inode_len(),
                tail: meta + cursor + head,
                blocks: 0,
                size,
            };
            cursor = (cursor + head + tail).next_multiple_of(32);
            bodies[index] = body;
        }
        let mut next_block = (meta + cursor).div_ceil(BLOCK);
        for (index, node) in order.iter().map(|index| (*index, &nodes[*index])) {
            if matches!(node.content, Content::Dir | Content::Link(_)) {
                let size = places[index].size;
                let whole = if inline[index] { size / BLOCK } else { size.div_ceil(BLOCK) };
                if whole > 0 {
                    starts[index] = next_block as u32;
                    next_block += whole;
                }
            }
        }
        let pool_at = next_block * BLOCK;
        let seal_block = next_block + pool.len().div_ceil(BLOCK);
        bytes.resize((seal_block + 1) * BLOCK, 0);
        bytes[seal_block * BLOCK..].fill(0xaa);
        bytes[pool_at..pool_at + pool.len()].copy_from_slice(&pool);

        for (index, node) in nodes.iter().enumerate() {
            let place = &mut places[index];
            if starts[index] != NULL {
                place.blocks = starts[index] as usize * BLOCK;
            }
            let (layout, i_u): (u16, u32) = match &node.content {
                Content::Dir | Content::Link(_) => (if inline[index] { 2 } else { 0 }, starts[index]),
                Content::File(_) => (0, starts[index]),
                Content::Sparse(_) => (4, 0),
                Content::Special(i_u) => (0, *i_u),
            };
            let icount = if bodies[index].is_empty() { 0 } else { (bodies[index].len() as u16 - 12) / 4 + 1 };
            let ino = (place.nid as u32).into();
            let inode = if node.extended {
                RawExtendedInode {
                    i_format: (layout << 1 | 1).into(),
                    i_xattr_icount: icount.into(),
                    i_mode: node.mode.into(),
                    i_size: (place.size as u64).into(),
                    i_u: i_u.into(),
                    i_ino: ino,
                    i_uid: node.uid.into(),
                    i_mtime: node.mtime.0.cast_unsigned().into(),
                    i_mtime_nsec: node.mtime.1.into(),
                    i_nlink: nlink[index].into(),
                    ..Default::default()
                }
                .as_bytes()
                .to_vec()
            } else {
                RawCompactInode {
                    i_format: (layout << 1).into(),
                    i_xattr_icount: icount.into(),
                    i_mode: node.mode.into(),
                    i_nlink: (nlink[index] as u16).into(),
                    i_size: (place.size as u32).into(),
                    i_u: i_u.into(),
                    i_ino: ino,
                    i_uid: (node.uid as u16).into(),
                    ..Default::default()
                }
                .as_bytes()
                .to_vec()
            };
            bytes[place.inode..place.inode + inode.len()].copy_from_slice(&inode);
            bytes[place.xattrs..place.xattrs + bodies[index].len()].copy_from_slice(&bodies[index]);
            match &node.content {
                Content::Link(target) => {
                    let at = if inline[index] { place.tail } else { place.blocks };
                    bytes[at..at + target.len()].copy_from_slice(target);
                }
                Content::Sparse(_) => {
                    let map: Vec<u8> = maps[&index].iter().flat_map(|block| block.to_le_bytes()).collect();
                    bytes[place.tail..place.tail + map.len()].copy_from_slice(&map);
                }
                _ => {}
            }
        }
        for (index, blocks) in &packed {
            let place = places[*index];
            for (number, block) in blocks.iter().enumerate() {
                let mut offset = 12 * block.len();
                let mut text = Vec::new();
                let mut content = Vec::new();
                for (name, target) in block {
                    let file_type = match nodes[*target].mode >> 12 {
                        0o10 => 1,
                        0o04 => 2,
                        0o02 => 3,
                        0o06 => 4,
                        0o01 => 5,
                        0o14 => 6,
                        _ => 7,
                    };
                    let dirent = RawDirent {
                        nid: places[*target].nid.into(),
                        nameoff: (offset as u16).into(),
                        file_type,
                        reserved: 0,
                    };
                    content.extend_from_slice(dirent.as_bytes());
                    text.extend_from_slice(name);
                    offset += name.len();
                }
                content.extend(text);
                let whole = number < place.size / BLOCK || !inline[*index];
                let at = if whole { place.blocks + number * BLOCK } else { place.tail };
                bytes[at..at + content.len()].copy_from_slice(&content);
            }
        }
        let header = Header {
            data_blocks: seal_block as u64 + 1,
            meta_block: meta_block as u64,
            seal_block: seal_block as u64,
            fec_blocks: 0,
            fec_roots: 0,
        };
        bytes[..512].copy_from_slice(&header.to_bytes());
        let superblock = RawSuperblock {
            magic: 0xe0f5_e1e2.into(),
            feature_compat: 3.into(),
            blkszbits: 12,
            root_nid: (places[by_path[&b"/"[..]]].nid as u16).into(),
            inos: (nodes.len() as u64).into(),
            epoch: EPOCH.into(),
            blocks: (seal_block as u32 + 1).into(),
            meta_blkaddr: (meta_block as u32).into(),
            xattr_blkaddr: (next_block as u32).into(),
            volume_name: *b"label\0\0\0\0\0\0\0\0\0\0\0",
            feature_incompat: if maps.is_empty() { 0 } else { 4 }.into(),
            ..Default::default()
        };
        bytes[1024..1152].copy_from_slice(superblock.as_bytes());
        let mut image = Image {
            bytes,
            header,
            places: nodes.iter().zip(places).map(|(node, place)| (node.path.clone(), place)).collect(),
            pool: pool_at,
            pool_ids,
            pool_end: pool_at + pool.len(),
        };
        image.seal();
        image
    }
}

/// Whole content of a file, and which run of it.
type RunKey = (u64, usize);

fn key(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// A tree with every feature that mkimg writes.
pub(crate) fn full() -> Tree {
    let dir = 0o040_755;
    let file = 0o100_644;
    let label = (6, b"selinux".to_vec(), b"system_u:object_r:usr_t:s0\0".to_vec());
    let note = (1, b"note".to_vec(), vec![b'n'; 5001]);
    let mut nodes = vec![
        Node::new("/", dir, Content::Dir),
        Node::new("/big", dir, Content::Dir),
        Node::new("/big/file", file, Content::File(b"many names".to_vec())),
        Node::new("/big.bin", file, Content::File((0..12_388_u32).map(|i| (i % 251 + 1) as u8).collect())),
        Node::new("/dir", dir, Content::Dir).shared(&[0, 1]),
        Node::new("/dir/sub", 0o042_770, Content::Dir).extended(),
        Node::new("/dir/sub/deep", 0o104_755, Content::File(b"deep".to_vec()))
            .xattr(6, b"capability", &[1, 0, 0, 2, 0, 32, 0, 0])
            .shared(&[1]),
        Node::new("/empty", file, Content::File(Vec::new())),
        Node::new("/fifo", 0o010_600, Content::Special(0)),
        Node::new("/hello", file, Content::File(b"hello".to_vec()))
            .xattr(1, b"a", b"1")
            .xattr(2, b"", b"\x02\0\0\0")
            .shared(&[0]),
        Node::new("/hello2", file, Content::File(b"hello".to_vec())).extended(),
        Node::new("/holes", file, Content::Sparse(vec![None, None])),
        Node::new("/link", 0o120_777, Content::Link(b"dir/sub/deep".to_vec())),
        Node::new("/longlink", 0o120_777, Content::Link(vec![b'x'; 4095])).extended(),
        Node::new("/midlink", 0o120_777, Content::Link(vec![b'y'; 4000])),
        Node::new("/null", 0o020_666, Content::Special(0x103)),
        Node::new("/old", file, Content::File(vec![7; BLOCK])).extended(),
        Node::new("/plain", dir, Content::Dir),
        Node::new("/sda", 0o060_660, Content::Special(0x800)),
        Node::new("/sock", 0o140_755, Content::Special(0)),
        Node::new(
            "/sparse",
            file,
            Content::Sparse(vec![Some(vec![1; BLOCK]), None, Some(vec![2; BLOCK]), Some(vec![3; 77])]),
        ),
        Node::new(
            "/sparse2",
            file,
            Content::Sparse(vec![Some(vec![1; BLOCK]), None, Some(vec![2; BLOCK]), Some(vec![3; 77])]),
        ),
    ];
    let old = nodes.iter_mut().find(|node| node.path == b"/old").unwrap();
    old.uid = 100_000;
    old.mtime = (-5, 123_456_789);
    let many = 2;
    let mut links: Vec<(Vec<u8>, usize)> =
        (0..400).map(|number| (format!("/big/name-{number:03}").into_bytes(), many)).collect();
    // 13 + 14 + 15 * 267 + 64 = 4096: a directory of exactly one block.
    for letter in b'a'..b'p' {
        links.push(([&b"/plain/"[..], &[letter; 255]].concat(), many));
    }
    links.push(([&b"/plain/"[..], &[b'p'; 52]].concat(), many));
    links.push((b"/dir/sub/not-utf8-\xff".to_vec(), many));
    Tree { nodes, links, pool: vec![label, note] }
}
