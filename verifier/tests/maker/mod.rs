//! A second writer of the format, independent of the builder: what it writes must verify.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::ops::Range;

use mkimg_format::erofs::raw::{
    FORMAT_EXTENDED, LAYOUT_CHUNK_BASED, LAYOUT_FLAT_INLINE, NULL_ADDR, RawDirent, RawExtendedInode,
    RawXattrEntry, RawXattrHeader, xattr_icount,
};
use mkimg_format::erofs::{Features, SuperblockFields};
use mkimg_format::fsverity::Digester;
use mkimg_format::header::Header;
use mkimg_format::merkle::{Builder, hash_block};
use mkimg_format::seal::{
    Content, DeletedRecord, InodeRecord, Layer, LayerRecord, NONE, Section, Source, Statement, Table,
};
use mkimg_format::trailer::Trailer;
use mkimg_format::{BLOCK_LEN, Sha256, detached, hex, verity};
use zerocopy::IntoBytes as _;

/// What may be varied.
#[derive(Clone)]
pub struct Spec {
    /// Makes contents differ.
    pub seed: u8,
    /// Whole blocks of `/a`; it has 100 bytes more.
    pub blocks: usize,
    /// Whether those are zeros.
    pub zeros: bool,
    /// Changes records of the seal before they are sealed.
    pub twist: fn(&mut Records),
    /// Changes the protected area before it is hashed.
    pub spoil: fn(&mut [u8], &Header),
}

impl Default for Spec {
    fn default() -> Self {
        Self { seed: 1, blocks: 2, zeros: false, twist: |_| {}, spoil: |_, _| {} }
    }
}

/// Records of the seal.
pub struct Records {
    pub statement: Statement,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub contents: Vec<Content>,
    pub inodes: Vec<InodeRecord>,
    pub layers: Vec<LayerRecord>,
    pub deleted: Vec<DeletedRecord>,
    pub paths: Vec<u8>,
}

/// An image and what is known about it.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub header: Header,
    pub root_hash: Sha256,
    /// Data blocks and the paths that have them, sorted.
    pub owners: Vec<(Range<u64>, Vec<&'static str>)>,
    /// Bytes of metadata and the path they belong to.
    pub bodies: Vec<(Range<u64>, &'static str)>,
}

struct Node {
    path: &'static str,
    nid: u64,
    inode: RawExtendedInode,
    /// Xattr body, inline tail or chunk map.
    body: Vec<u8>,
    content: u32,
}

fn pad(bytes: &mut Vec<u8>, unit: usize) {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
}

fn dir_block(entries: &[(&str, u64, u8)]) -> Vec<u8> {
    let mut sorted = entries.to_vec();
    sorted.sort_unstable();
    let mut heads = Vec::new();
    let mut names = Vec::new();
    for (name, nid, file_type) in &sorted {
        let nameoff = sorted.len() * 12 + names.len();
        let raw = RawDirent {
            nid: (*nid).into(),
            nameoff: (nameoff as u16).into(),
            file_type: *file_type,
            reserved: 0,
        };
        heads.extend_from_slice(raw.as_bytes());
        names.extend_from_slice(name.as_bytes());
    }
    heads.extend_from_slice(&names);
    heads
}

fn xattr(index: u8, suffix: &[u8], value: &[u8]) -> Vec<u8> {
    let head = RawXattrEntry {
        e_name_len: suffix.len() as u8,
        e_name_index: index,
        e_value_size: (value.len() as u16).into(),
    };
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend_from_slice(suffix);
    bytes.extend_from_slice(value);
    pad(&mut bytes, 4);
    bytes
}

fn xattr_body(shared: &[u32], own: &[Vec<u8>]) -> Vec<u8> {
    let head = RawXattrHeader { h_shared_count: shared.len() as u8, ..Default::default() };
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend(shared.iter().flat_map(|id| id.to_le_bytes()));
    bytes.extend(own.iter().flatten());
    bytes
}

fn fsverity(content: &[u8]) -> Sha256 {
    let mut digester = Digester::new();
    for chunk in content.chunks(BLOCK_LEN) {
        let mut block = [0; BLOCK_LEN];
        block[..chunk.len()].copy_from_slice(chunk);
        digester.push(&hash_block(&block));
    }
    digester.finish(content.len() as u64)
}

/// Hashes a protected area and appends verity superblock, tree and trailer.
pub fn seal_up(mut bytes: Vec<u8>, header: &Header) -> (Vec<u8>, Sha256) {
    assert_eq!(bytes.len() as u64, header.hash_offset());
    let levels = verity::levels(header.data_blocks, header.tree_offset());
    let mut tree = vec![0; (header.trailer_offset() - header.tree_offset()) as usize];
    let mut sink = |level: usize, index: u64, block: &[u8; BLOCK_LEN]| {
        let at = (levels[level].block_offset(index) - header.tree_offset()) as usize;
        tree[at..at + BLOCK_LEN].copy_from_slice(block);
    };
    let mut builder = Builder::new();
    for block in bytes.chunks(BLOCK_LEN) {
        builder.push(&hash_block(block), &mut sink);
    }
    let root = builder.finish(&mut sink);
    bytes.extend_from_slice(&verity::Superblock::new(header.data_blocks, &root).to_block()[..]);
    bytes.extend_from_slice(&tree);
    bytes.extend_from_slice(&Trailer::new(header, root).to_block()[..]);
    assert_eq!(bytes.len() as u64, header.image_size());
    (bytes, root)
}

/// The detached seal of an image.
pub fn detach(image: &Image) -> Vec<u8> {
    let mut bytes = detached::head(&image.header).to_vec();
    bytes.extend_from_slice(&image.bytes[..BLOCK_LEN]);
    bytes.extend_from_slice(&image.bytes[image.header.meta_block as usize * BLOCK_LEN..]);
    bytes
}

/// `/a` (several blocks, own xattr, hard link `/dir/hard`), `/b` and `/dir/c` (same content and shared xattr),
/// `/empty`, `/holes` (block, hole, part of a block), `/link`.
#[allow(clippy::too_many_lines)]
pub fn make(spec: &Spec) -> Image {
    let fill = |length: usize, salt: u8| -> Vec<u8> {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(salt ^ (at >> 8) as u8) | 1).collect()
    };
    let a = if spec.zeros {
        vec![0; spec.blocks * BLOCK_LEN + 100]
    } else {
        fill(spec.blocks * BLOCK_LEN + 100, spec.seed)
    };
    let b = fill(700, spec.seed.wrapping_add(7));
    let mut holes = fill(BLOCK_LEN, 99);
    holes.resize(2 * BLOCK_LEN, 0);
    holes.extend(fill(33, 55));

    let mut bytes = vec![0; BLOCK_LEN];
    let mut put = |content: &[u8]| {
        let start = (bytes.len() / BLOCK_LEN) as u32;
        bytes.extend_from_slice(content);
        pad(&mut bytes, BLOCK_LEN);
        start
    };
    let a_start = put(&a);
    let b_start = put(&b);
    let h_start = put(&holes[..BLOCK_LEN]);
    let t_start = put(&holes[2 * BLOCK_LEN..]);
    let meta_block = (bytes.len() / BLOCK_LEN) as u32;

    let inode = |mode: u16, layout: u16, size: usize, i_u: u32, nlink: u32, body: &[u8]| RawExtendedInode {
        i_format: (FORMAT_EXTENDED | layout << 1).into(),
        i_xattr_icount: xattr_icount(body.len() as u64).unwrap().into(),
        i_mode: mode.into(),
        i_size: (size as u64).into(),
        i_u: i_u.into(),
        i_mtime: 1_700_000_000_u64.into(),
        i_nlink: nlink.into(),
        ..Default::default()
    };
    let own = xattr_body(&[], &[xattr(1, b"k", b"value")]);
    let shared = xattr_body(&[0], &[]);
    let map: Vec<u8> = [h_start, NULL_ADDR, t_start].iter().flat_map(|start| start.to_le_bytes()).collect();
    // Places depend on lengths alone, so directories are made twice: first for their length.
    let mut nids = [0_u64; 8];
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..2 {
        let [root, na, nb, ndir, nempty, nholes, nlink, nc] = nids;
        let root_dir = dir_block(&[
            (".", root, 2),
            ("..", root, 2),
            ("a", na, 1),
            ("b", nb, 1),
            ("dir", ndir, 2),
            ("empty", nempty, 1),
            ("holes", nholes, 1),
            ("link", nlink, 7),
        ]);
        let dir = dir_block(&[(".", ndir, 2), ("..", root, 2), ("c", nc, 1), ("hard", na, 1)]);
        // Breadth first.
        let rows = [
            ("/", inode(0o040_755, LAYOUT_FLAT_INLINE, root_dir.len(), NULL_ADDR, 3, &[]), root_dir, NONE),
            ("/a", inode(0o100_644, 0, a.len(), a_start, 2, &own), own.clone(), 0),
            ("/b", inode(0o100_644, 0, b.len(), b_start, 1, &shared), shared.clone(), 1),
            ("/dir", inode(0o040_700, LAYOUT_FLAT_INLINE, dir.len(), NULL_ADDR, 2, &[]), dir, NONE),
            ("/empty", inode(0o100_600, 0, 0, NULL_ADDR, 1, &[]), Vec::new(), 2),
            ("/holes", inode(0o100_600, LAYOUT_CHUNK_BASED, holes.len(), 0, 1, &[]), map.clone(), 3),
            ("/link", inode(0o120_777, LAYOUT_FLAT_INLINE, 5, NULL_ADDR, 1, &[]), b"dir/c".to_vec(), NONE),
            ("/dir/c", inode(0o104_755, 0, b.len(), b_start, 1, &shared), shared.clone(), 1),
        ];
        nodes.clear();
        let mut at = 32_u64;
        for (index, (path, inode, body, content)) in rows.into_iter().enumerate() {
            nids[index] = at / 32;
            let mut node = Node { path, nid: at / 32, inode, body, content };
            node.inode.i_ino = (node.nid as u32).into();
            at = (at + 64 + node.body.len() as u64).next_multiple_of(32);
            nodes.push(node);
        }
        assert!(at < 4096);
    }
    assert_eq!(nids[0], 1);
    let mut bodies = Vec::new();
    let meta = bytes.len();
    bytes.resize(meta + 2 * BLOCK_LEN, 0);
    for node in &nodes {
        let at = meta + node.nid as usize * 32;
        bytes[at..at + 64].copy_from_slice(node.inode.as_bytes());
        bytes[at + 64..at + 64 + node.body.len()].copy_from_slice(&node.body);
        bodies.push((at as u64..(at + 64 + node.body.len()) as u64, node.path));
    }
    let pool = xattr(4, b"shared", b"pool value");
    bytes[meta + BLOCK_LEN..meta + BLOCK_LEN + pool.len()].copy_from_slice(&pool);

    let seal_block = (bytes.len() / BLOCK_LEN) as u64;
    let content = |bytes: &[u8]| Content {
        blake3: *blake3::hash(bytes).as_bytes(),
        fsverity: fsverity(bytes),
        size: (bytes.len() as u64).into(),
        reserved: 0.into(),
    };
    let manifest = br#"{"schemaVersion":2}"#.to_vec();
    let config = br#"{"architecture":"amd64"}"#.to_vec();
    let digest = |bytes: &[u8]| format!("sha256:{}", hex(&hash_block(bytes)));
    let bytes_visible = (a.len() + 2 * b.len() + holes.len()) as u64;
    let mut records = Records {
        statement: Statement {
            format: 1,
            name: Some("test".to_owned()),
            epoch: 1,
            source: Source {
                kind: "oci".to_owned(),
                reference: None,
                manifest_digest: Some(digest(&manifest)),
                config_digest: Some(digest(&config)),
            },
            layers: vec![Layer {
                digest: digest(b"layer"),
                size: 5,
                diff_id: digest(b"tar"),
                chain_id: digest(b"tar"),
                media_type: None,
            }],
            hot: None,
            options: std::collections::BTreeMap::new(),
            tool: format!("maker {}", spec.seed),
        },
        manifest,
        config,
        contents: vec![content(&a), content(&b), content(b""), content(&holes)],
        inodes: nodes
            .iter()
            .map(|node| InodeRecord { nid: node.nid.into(), layer: 0.into(), content: node.content.into() })
            .collect(),
        layers: vec![LayerRecord {
            shipped: (bytes_visible + 9).into(),
            visible: bytes_visible.into(),
            shadowed: 0.into(),
            deleted: 9.into(),
            shipped_files: 6.into(),
            visible_files: 5.into(),
            shadowed_files: 0.into(),
            deleted_files: 1.into(),
        }],
        deleted: vec![DeletedRecord {
            size: 9.into(),
            path_offset: 0.into(),
            path_len: 5.into(),
            layer: 0.into(),
            deleted_by: 0.into(),
            reserved: 0.into(),
        }],
        paths: b"/gone".to_vec(),
    };
    (spec.twist)(&mut records);
    let sections: Vec<(Section, Vec<u8>)> = vec![
        (Section::Statement, records.statement.to_json()),
        (Section::Manifest, records.manifest),
        (Section::Config, records.config),
        (Section::Contents, records.contents.as_bytes().to_vec()),
        (Section::Inodes, records.inodes.as_bytes().to_vec()),
        (Section::Layers, records.layers.as_bytes().to_vec()),
        (Section::Deleted, records.deleted.as_bytes().to_vec()),
        (Section::Paths, records.paths),
    ];
    let length =
        |section: Section| sections.iter().find(|(known, _)| *known == section).unwrap().1.len() as u64;
    let table = Table::plan(seal_block, length);
    bytes.extend_from_slice(&table.to_block()[..]);
    for (section, content) in &sections {
        assert_eq!(bytes.len() as u64, table.place(*section).offset);
        bytes.extend_from_slice(content);
        pad(&mut bytes, BLOCK_LEN);
    }
    let header = Header {
        data_blocks: table.end_block(),
        meta_block: meta_block.into(),
        seal_block,
        fec_blocks: 0,
        fec_roots: 0,
    };
    let mut block0 = [0; BLOCK_LEN];
    block0[..512].copy_from_slice(&header.to_bytes());
    SuperblockFields {
        root: 1,
        inodes: 8,
        epoch: 1_700_000_000,
        fixed_nsec: 0,
        blocks: header.data_blocks as u32,
        meta_block,
        xattr_block: meta_block + 1,
        uuid: [7; 16],
        volume_name: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
        packed: None,
        features: Features { chunked: true, ..Features::default() },
    }
    .write(&mut block0);
    bytes[..BLOCK_LEN].copy_from_slice(&block0);
    (spec.spoil)(&mut bytes, &header);
    let (bytes, root_hash) = seal_up(bytes, &header);
    let owners = vec![
        (a_start.into()..b_start.into(), vec!["/a", "/dir/hard"]),
        (b_start.into()..h_start.into(), vec!["/b", "/dir/c"]),
        (h_start.into()..u64::from(meta_block), vec!["/holes"]),
    ];
    Image { bytes, header, root_hash, owners, bodies }
}
