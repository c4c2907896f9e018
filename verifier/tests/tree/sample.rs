//! One list of entries, written twice: as an image, and as a tree by the calls of the system.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use mkimg_format::erofs::raw::{
    FORMAT_EXTENDED, LAYOUT_FLAT_INLINE, NULL_ADDR, RawDirent, RawExtendedInode, RawXattrEntry,
    RawXattrHeader, encode_rdev, xattr_icount,
};
use mkimg_format::erofs::{Features, SuperblockFields};
use mkimg_format::erofs::{FileType, XattrClass};
use mkimg_format::fsverity::Digester;
use mkimg_format::header::Header;
use mkimg_format::merkle::hash_block;
use mkimg_format::seal::{Content, InodeRecord, Layer, LayerRecord, NONE, Section, Source, Statement, Table};
use mkimg_format::{BLOCK_LEN, hex};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use zerocopy::IntoBytes as _;

use crate::maker::{Image, seal_up};

/// One name.
#[derive(Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub file_type: FileType,
    pub mode: u16,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub rdev: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Content or target.
    pub body: Vec<u8>,
    /// The path whose inode this is one more name of.
    pub link: Option<Vec<u8>>,
}

pub fn entry(path: impl AsRef<[u8]>, file_type: FileType, mode: u16, body: impl Into<Vec<u8>>) -> Entry {
    let path = path.as_ref().to_vec();
    // Every inode has a time of its own.
    let salt = path.iter().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    Entry {
        path,
        file_type,
        mode,
        owner: (salt % 4, salt % 5),
        mtime: (1_600_000_000 + i64::from(salt % 1000), salt % 1_000_000_000),
        rdev: (0, 0),
        xattrs: Vec::new(),
        body: body.into(),
        link: None,
    }
}

pub fn fill(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(salt ^ (at >> 8) as u8)).collect()
}

/// `struct vfs_cap_data`, revision 2: `cap_net_raw=ep`.
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An access control list in the form of the kernel: version 2, then tag, permissions and number.
pub fn acl(user: u32) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 4, u32::MAX)]
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Every type, every kind of attribute, names that hurt.
pub fn everything() -> Vec<Entry> {
    use FileType::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    let mut list = vec![
        entry("/", Dir, 0o755, ""),
        entry("/a", File, 0o644, fill(2 * BLOCK_LEN + 100, 1)),
        entry("/b", File, 0o600, fill(700, 2)),
        entry("/b2", File, 0o600, fill(700, 3)),
        entry("/big", File, 0o600, fill(3 << 20, 4)),
        entry("/dir", Dir, 0o1750, ""),
        entry("/dir/deep", Dir, 0o755, ""),
        entry("/dir/deep/deeper", Dir, 0o700, ""),
        entry("/dir/deep/deeper/file", File, 0o444, "deep down"),
        entry("/dir/hard", File, 0o644, ""),
        entry("/dir/setuid", File, 0o4755, "#!/bin/true"),
        entry("/empty", File, 0o640, ""),
        entry("/emptydir", Dir, 0o755, ""),
        entry("/link", Symlink, 0o777, "dir/setuid"),
        entry("/char", Char, 0o620, ""),
        entry("/block", Block, 0o660, ""),
        entry("/fifo", Fifo, 0o600, ""),
        entry("/socket", Socket, 0o600, ""),
        entry("/x", File, 0o644, "attributes"),
        entry("/xdir", Dir, 0o755, ""),
        entry(b"/new\nline", File, 0o644, "1"),
        entry(b"/\xff\xfe", File, 0o644, "2"),
        entry([b"/".as_slice(), &[b'n'; 255]].concat(), File, 0o644, "3"),
        entry("/h1", File, 0o644, "linked"),
        entry("/h2", File, 0o644, ""),
        entry("/h3", File, 0o644, ""),
    ];
    for item in &mut list {
        match item.path.as_slice() {
            b"/dir/hard" => item.link = Some(b"/a".to_vec()),
            b"/h2" | b"/h3" => item.link = Some(b"/h1".to_vec()),
            b"/char" => item.rdev = (1, 3),
            b"/block" => item.rdev = (7, 300),
            b"/x" => {
                item.xattrs = vec![
                    (b"security.capability".to_vec(), CAPABILITY.to_vec()),
                    (b"system.posix_acl_access".to_vec(), acl(1000)),
                    (b"trusted.t".to_vec(), b"\0binary\xff".to_vec()),
                    (b"user.empty".to_vec(), Vec::new()),
                    (b"user.k".to_vec(), b"value".to_vec()),
                    (b"user.long".to_vec(), fill(1000, 9)),
                ];
            }
            b"/xdir" => item.xattrs = vec![(b"user.d".to_vec(), b"of a directory".to_vec())],
            b"/link" => item.xattrs = vec![(b"trusted.l".to_vec(), b"of a link".to_vec())],
            b"/fifo" => item.xattrs = vec![(b"trusted.f".to_vec(), b"of a fifo".to_vec())],
            _ => {}
        }
    }
    list
}

/// A directory that goes away.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mkimg-tree-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The tree itself; beside it is room for other things.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a path of the image is in a tree.
pub fn place(root: &Path, path: impl AsRef<[u8]>) -> PathBuf {
    let path = path.as_ref();
    root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

pub fn set_mtime(path: &Path, (sec, nsec): (i64, u32)) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Writes the tree; owners as they are unless root.
pub fn write_tree(list: &[Entry], root: &Path) {
    for item in list {
        let path = place(root, &item.path);
        if let Some(first) = &item.link {
            std::fs::hard_link(place(root, first), &path).unwrap();
            continue;
        }
        let node = |kind| {
            let device = rustix::fs::makedev(item.rdev.0, item.rdev.1);
            rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, device).unwrap();
        };
        match item.file_type {
            FileType::Dir => std::fs::create_dir(&path).unwrap(),
            FileType::File => std::fs::write(&path, &item.body).unwrap(),
            FileType::Symlink => std::os::unix::fs::symlink(OsStr::from_bytes(&item.body), &path).unwrap(),
            FileType::Char => node(rustix::fs::FileType::CharacterDevice),
            FileType::Block => node(rustix::fs::FileType::BlockDevice),
            FileType::Fifo => node(rustix::fs::FileType::Fifo),
            FileType::Socket => node(rustix::fs::FileType::Socket),
        }
    }
    for item in list.iter().rev().filter(|item| item.link.is_none()) {
        let path = place(root, &item.path);
        let (uid, gid) = (Uid::from_raw(item.owner.0), Gid::from_raw(item.owner.1));
        if rustix::process::geteuid().is_root() {
            rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        for (name, value) in &item.xattrs {
            rustix::fs::lsetxattr(&path, name.as_slice(), value, XattrFlags::empty()).unwrap();
        }
        if item.file_type != FileType::Symlink {
            rustix::fs::chmod(&path, Mode::from_raw_mode(item.mode.into())).unwrap();
        }
        set_mtime(&path, item.mtime);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
}

fn xattr_body(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    if xattrs.is_empty() {
        return Vec::new();
    }
    let mut bytes = RawXattrHeader::default().as_bytes().to_vec();
    for (name, value) in xattrs {
        let class = XattrClass::of(name);
        let head = RawXattrEntry {
            e_name_len: class.suffix.len() as u8,
            e_name_index: class.index,
            e_value_size: (value.len() as u16).into(),
        };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(class.suffix);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Blocks of a directory, the last one as long as it is.
fn dir_blocks(entries: &BTreeMap<Vec<u8>, (u64, u8)>) -> Vec<u8> {
    let mut blocks: Vec<u8> = Vec::new();
    let mut rest: Vec<_> = entries.iter().collect();
    while !rest.is_empty() {
        let mut length = 0;
        let count = rest.iter().take_while(|(name, _)| {
            length += 12 + name.len();
            length <= BLOCK_LEN
        });
        let count = count.count();
        let (mut heads, mut names) = (Vec::new(), Vec::new());
        for (name, (nid, file_type)) in rest.drain(..count) {
            let nameoff = ((count * 12 + names.len()) as u16).into();
            let raw = RawDirent { nid: (*nid).into(), nameoff, file_type: *file_type, reserved: 0 };
            heads.extend_from_slice(raw.as_bytes());
            names.extend_from_slice(name);
        }
        pad(&mut blocks);
        blocks.extend(heads);
        blocks.extend(names);
    }
    blocks
}

fn fsverity(content: &[u8]) -> [u8; 32] {
    let mut digester = Digester::new();
    for chunk in content.chunks(BLOCK_LEN) {
        let mut block = [0; BLOCK_LEN];
        block[..chunk.len()].copy_from_slice(chunk);
        digester.push(&hash_block(&block));
    }
    digester.finish(content.len() as u64)
}

/// Number, type and names of an inode.
struct Node<'a> {
    entry: &'a Entry,
    nid: u64,
    nlink: u32,
    start: u32,
    size: usize,
}

/// The entries that are inodes, in the order of their first names: level by level, then by directory and name.
fn breadth_first(list: &[Entry]) -> Vec<&Entry> {
    let mut names: Vec<&Entry> = list.iter().collect();
    names.sort_by_key(|entry| {
        let names: Vec<&[u8]> =
            entry.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        (names.len(), names)
    });
    let mut inodes: Vec<&Entry> = Vec::new();
    for entry in names {
        let first = entry.link.as_ref().unwrap_or(&entry.path);
        if !inodes.iter().any(|inode| inode.path == *first) {
            inodes.extend(list.iter().find(|inode| inode.path == *first));
        }
    }
    inodes
}

/// Writes the image of a list whose first entry is the root and where parents come before children.
#[allow(clippy::too_many_lines)]
pub fn write_image(list: &[Entry]) -> Image {
    let mut bytes = vec![0; BLOCK_LEN];
    let mut nodes: Vec<Node<'_>> = Vec::new();
    let (mut at, mut contents) = (32_usize, Vec::new());
    for entry in breadth_first(list) {
        let links = list.iter().filter(|other| other.link.as_ref() == Some(&entry.path)).count();
        let mut start = NULL_ADDR;
        if entry.file_type == FileType::File && !entry.body.is_empty() {
            start = (bytes.len() / BLOCK_LEN) as u32;
            bytes.extend_from_slice(&entry.body);
            pad(&mut bytes);
        }
        let inline = if entry.file_type == FileType::Symlink { entry.body.len() } else { 0 };
        let length = 64 + xattr_body(&entry.xattrs).len() + inline;
        assert!(length <= BLOCK_LEN);
        if at % BLOCK_LEN + length > BLOCK_LEN {
            at = at.next_multiple_of(BLOCK_LEN);
        }
        let size = entry.body.len();
        nodes.push(Node { entry, nid: (at / 32) as u64, nlink: 1 + links as u32, start, size });
        at = (at + length).next_multiple_of(32);
    }
    let meta = bytes.len();
    let nid_of = |path: &[u8]| {
        let path = list.iter().find(|entry| entry.path == path).and_then(|entry| entry.link.as_deref());
        move |own: &[u8]| path.unwrap_or(own).to_vec()
    };
    let nids: BTreeMap<Vec<u8>, (u64, FileType)> =
        nodes.iter().map(|node| (node.entry.path.clone(), (node.nid, node.entry.file_type))).collect();
    let find = |path: &[u8]| nids[&nid_of(path)(path)];
    bytes.resize(meta + at.next_multiple_of(BLOCK_LEN), 0);
    for node in &mut nodes {
        if node.entry.file_type != FileType::Dir {
            continue;
        }
        let own = &node.entry.path;
        let prefix = if own == b"/" { own.clone() } else { [own.as_slice(), b"/"].concat() };
        let above = own.iter().rposition(|byte| *byte == b'/').unwrap();
        let above = if above == 0 { b"/".as_slice() } else { &own[..above] };
        let mut entries =
            BTreeMap::from([(b".".to_vec(), (node.nid, 2)), (b"..".to_vec(), (find(above).0, 2))]);
        for child in list {
            if let Some(name) = child.path.strip_prefix(prefix.as_slice())
                && !name.is_empty()
                && !name.contains(&b'/')
            {
                let (nid, file_type) = find(&child.path);
                entries.insert(name.to_vec(), (nid, file_type.dirent_type()));
                node.nlink += u32::from(file_type == FileType::Dir);
            }
        }
        node.nlink += 1;
        let blocks = dir_blocks(&entries);
        node.size = blocks.len();
        node.start = (bytes.len() / BLOCK_LEN) as u32;
        bytes.extend(blocks);
        pad(&mut bytes);
    }
    let mut inodes = Vec::new();
    for node in &nodes {
        let entry = node.entry;
        let body = xattr_body(&entry.xattrs);
        let is_link = entry.file_type == FileType::Symlink;
        let i_u = match entry.file_type {
            FileType::Char | FileType::Block => encode_rdev(entry.rdev.0, entry.rdev.1),
            FileType::Fifo | FileType::Socket => 0,
            _ => node.start,
        };
        let layout = if is_link { LAYOUT_FLAT_INLINE } else { 0 };
        let raw = RawExtendedInode {
            i_format: (FORMAT_EXTENDED | layout << 1).into(),
            i_xattr_icount: xattr_icount(body.len() as u64).unwrap().into(),
            i_mode: (entry.file_type.mode_bits() | entry.mode).into(),
            i_size: (node.size as u64).into(),
            i_u: i_u.into(),
            i_ino: (node.nid as u32).into(),
            i_uid: entry.owner.0.into(),
            i_gid: entry.owner.1.into(),
            i_mtime: entry.mtime.0.cast_unsigned().into(),
            i_mtime_nsec: entry.mtime.1.into(),
            i_nlink: node.nlink.into(),
            ..Default::default()
        };
        let mut place = meta + node.nid as usize * 32;
        let tail = if is_link { entry.body.as_slice() } else { &[] };
        for piece in [raw.as_bytes(), &body, tail] {
            bytes[place..place + piece.len()].copy_from_slice(piece);
            place += piece.len();
        }
        let mut content = NONE;
        if entry.file_type == FileType::File {
            let record = Content {
                blake3: *blake3::hash(&entry.body).as_bytes(),
                fsverity: fsverity(&entry.body),
                size: (entry.body.len() as u64).into(),
                reserved: 0.into(),
            };
            content = contents.iter().position(|known| *known == record).unwrap_or(contents.len()) as u32;
            if content as usize == contents.len() {
                contents.push(record);
            }
        }
        inodes.push(InodeRecord { nid: node.nid.into(), layer: 0.into(), content: content.into() });
    }
    finish(bytes, meta / BLOCK_LEN, &contents, &inodes)
}

/// Adds seal, superblock, tree and trailer.
fn finish(mut bytes: Vec<u8>, meta_block: usize, contents: &[Content], inodes: &[InodeRecord]) -> Image {
    let seal_block = (bytes.len() / BLOCK_LEN) as u64;
    let digest = |bytes: &[u8]| format!("sha256:{}", hex(&hash_block(bytes)));
    let (manifest, config) = (b"{\"schemaVersion\":2}".to_vec(), b"{}".to_vec());
    let statement = Statement {
        format: 1,
        name: Some("tree".to_owned()),
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
        options: BTreeMap::new(),
        tool: "sample".to_owned(),
    };
    let files = inodes.iter().filter(|record| record.content.get() != NONE);
    let sizes: Vec<u64> = files.map(|record| contents[record.content.get() as usize].size.get()).collect();
    let (visible, visible_files) = (sizes.iter().sum::<u64>(), sizes.len() as u64);
    let layer = LayerRecord {
        shipped: visible.into(),
        visible: visible.into(),
        shadowed: 0.into(),
        deleted: 0.into(),
        shipped_files: visible_files.into(),
        visible_files: visible_files.into(),
        shadowed_files: 0.into(),
        deleted_files: 0.into(),
    };
    let sections: Vec<(Section, Vec<u8>)> = vec![
        (Section::Statement, statement.to_json()),
        (Section::Manifest, manifest),
        (Section::Config, config),
        (Section::Contents, contents.as_bytes().to_vec()),
        (Section::Inodes, inodes.as_bytes().to_vec()),
        (Section::Layers, layer.as_bytes().to_vec()),
        (Section::Deleted, Vec::new()),
        (Section::Paths, Vec::new()),
    ];
    let length =
        |section: Section| sections.iter().find(|(known, _)| *known == section).unwrap().1.len() as u64;
    let table = Table::plan(seal_block, length);
    bytes.extend_from_slice(&table.to_block()[..]);
    for (section, content) in &sections {
        assert_eq!(bytes.len() as u64, table.place(*section).offset);
        bytes.extend_from_slice(content);
        pad(&mut bytes);
    }
    let data_blocks = table.end_block();
    let meta = meta_block as u64;
    let header = Header { data_blocks, meta_block: meta, seal_block, fec_blocks: 0, fec_roots: 0 };
    let mut block0 = [0; BLOCK_LEN];
    block0[..512].copy_from_slice(&header.to_bytes());
    SuperblockFields {
        root: 1,
        inodes: inodes.len() as u64,
        epoch: 1_600_000_000,
        fixed_nsec: 0,
        blocks: data_blocks as u32,
        meta_block: meta_block as u32,
        xattr_block: seal_block as u32,
        uuid: [7; 16],
        volume_name: *b"tree\0\0\0\0\0\0\0\0\0\0\0\0",
        packed: None,
        features: Features::default(),
    }
    .write(&mut block0);
    bytes[..BLOCK_LEN].copy_from_slice(&block0);
    let (bytes, root_hash) = seal_up(bytes, &header);
    Image { bytes, header, root_hash, owners: Vec::new(), bodies: Vec::new() }
}
