//! The linter accepts what mkimg writes and nothing else.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

mod image;

use image::{BLOCK, Content, Image, Node, Tree, full};
use mkimg_format::Part;
use mkimg_format::lint::Finding;

#[test]
fn an_image_with_every_feature_is_clean() {
    assert_eq!(full().build().lint(), []);
}

#[test]
fn small_images_are_clean() {
    let root = Node::new("/", 0o040_755, Content::Dir);
    let only_root = Tree { nodes: vec![root.clone()], links: vec![], pool: vec![] };
    assert_eq!(only_root.build().lint(), []);
    for size in [1, 4095, 4096, 4097, 8192] {
        let file = Node::new("/file", 0o100_644, Content::File(vec![1; size]));
        let tree = Tree { nodes: vec![root.clone(), file], links: vec![], pool: vec![] };
        assert_eq!(tree.build().lint(), [], "file of {size} bytes");
    }
}

/// gVisor issue 13050: several blocks of the longest names.
#[test]
fn a_directory_of_80_longest_names_is_clean() {
    let mut tree = full();
    tree.nodes.push(Node::new("/names", 0o040_755, Content::Dir));
    for number in 0..80 {
        tree.links.push((format!("/names/{number:0255}").into_bytes(), 2));
    }
    let image = tree.build();
    assert_eq!(image.at("/names").size / BLOCK, 5);
    assert_eq!(image.lint(), []);
}

/// What a rule is about, how to break it, and the finding: part and a distinctive word.
type Row = (&'static str, fn(&mut Image), Part, &'static str);

const SB: usize = 1024;

fn null() -> [u8; 4] {
    [0xff; 4]
}

/// Gives an entry of a small directory another inode.
fn redirect(image: &mut Image, dir: &str, name: &str, nid: u64) {
    let at = image.dirent_in(dir, name);
    image.put(at, &nid.to_le_bytes());
}

/// Overwrites the name of an entry of a small directory with one of the same length.
fn rename(image: &mut Image, dir: &str, from: &str, to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at = image.dirent_in(dir, from);
    let start = image.at(dir).tail + usize::from(image.u16_at(at + 8));
    image.put(start, to);
}

fn block_of(image: &Image, path: &str) -> [u8; 4] {
    ((image.at(path).blocks / BLOCK) as u32).to_le_bytes()
}

const SUPERBLOCK: &[Row] = &[
    ("compatible feature", |i| i.put(SB + 0x08, &[7]), Part::Superblock, "feature_compat is 7"),
    ("no checksum", |i| i.put(SB + 0x08, &[2]), Part::Superblock, "feature_compat is 2"),
    ("incompatible feature", |i| i.put(SB + 0x50, &[5]), Part::Superblock, "feature_incompat"),
    ("chunk feature missing", |i| i.put(SB + 0x50, &[0]), Part::Superblock, "CHUNKED_FILE is clear"),
    ("compression", |i| i.put(SB + 0x54, &[1]), Part::Superblock, "available_compr_algs"),
    ("device table", |i| i.put(SB + 0x58, &[1]), Part::Superblock, "devt_slotoff"),
    ("prefixes", |i| i.put(SB + 0x5b, &[1]), Part::Superblock, "xattr_prefix_count"),
    ("build time", |i| i.put(SB + 0x6c, &[1]), Part::Superblock, "build_time"),
    ("label", |i| i.put(SB + 0x4f, b"x"), Part::Superblock, "volume_name"),
    ("size", |i| i.bytes[SB + 0x24] -= 1, Part::Superblock, "blocks is"),
    ("metadata block", |i| i.bytes[SB + 0x28] += 1, Part::Superblock, "meta_blkaddr is"),
    ("number of inodes", |i| i.bytes[SB + 0x10] += 1, Part::Superblock, "inos is"),
    ("root inode", |i| i.bytes[SB + 0x0e] += 1, Part::Superblock, "root_nid is"),
    ("xattr block too low", |i| i.bytes[SB + 0x2c] -= 1, Part::Xattr, "e_name_len"),
    ("xattr block too high", |i| i.bytes[SB + 0x2c] += 1, Part::Xattr, "reach beyond"),
    ("magic", |i| i.put(SB, b"EXT4"), Part::Superblock, "magic"),
    ("boot code", |i| i.put(513, &[1]), Part::Slack, "not zero"),
    ("behind the superblock", |i| i.put(4095, &[1]), Part::Slack, "not zero"),
];

const SPACE: &[Row] = &[
    ("padding of a file", |i| i.put(i.at("/hello").blocks + 5, b"!"), Part::Slack, "end of a file"),
    (
        "padding of a chunk",
        |i| i.put(i.u32_at(i.at("/sparse").tail + 12) as usize * BLOCK + 77, b"!"),
        Part::Slack,
        "end of a file",
    ),
    (
        "block without owner",
        |i| i.put(i.at("/old").inode + 16, &block_of(i, "/hello")),
        Part::Slack,
        "no file",
    ),
    ("overlap", |i| i.bump(i.at("/big.bin").inode + 16), Part::Data, "overlap"),
    ("same start, other size", |i| i.put(i.at("/hello2").inode + 8, &[4]), Part::Data, "overlap"),
    ("shared in part", |i| i.put(i.at("/sparse2").tail, &null()), Part::Data, "shared in part"),
    (
        "a block twice in a file",
        |i| i.put(i.at("/holes").tail, &[block_of(i, "/old"), block_of(i, "/old")].concat()),
        Part::Data,
        "twice",
    ),
    (
        "data in metadata",
        |i| i.put(i.at("/old").inode + 16, &(i.header.meta_block as u32).to_le_bytes()),
        Part::Data,
        "outside the data area",
    ),
    ("data in block 0", |i| i.put(i.at("/old").inode + 16, &[0; 4]), Part::Data, "outside the data area"),
    (
        "data in the seal",
        |i| i.put(i.at("/sparse").tail, &(i.header.seal_block as u32).to_le_bytes()),
        Part::Data,
        "outside the data area",
    ),
    ("slot 0", |i| i.put(i.header.meta_block as usize * BLOCK, &[1]), Part::Slack, "not zero"),
    ("gap behind a tail", |i| i.put(i.at("/link").tail + 12, &[1]), Part::Slack, "not zero"),
    ("end of the metadata", |i| i.put(i.pool_end, &[1]), Part::Slack, "not zero"),
    (
        "inode in slot 0",
        |i| {
            let (from, to) = (i.at("/fifo").inode, i.header.meta_block as usize * BLOCK);
            i.bytes.copy_within(from..from + 32, to);
            i.bytes[from..from + 32].fill(0);
            redirect(i, "/", "fifo", 0);
        },
        Part::Inode,
        "outside the metadata area",
    ),
    (
        "inode in the seal",
        |i| {
            let (from, to) = (i.at("/fifo").inode, i.header.seal_block as usize * BLOCK);
            i.bytes.copy_within(from..from + 32, to);
            i.bytes[from..from + 32].fill(0);
            redirect(i, "/", "fifo", (i.header.seal_block - i.header.meta_block) * 128);
        },
        Part::Inode,
        "outside the metadata area",
    ),
    (
        "inode behind the directories",
        |i| {
            let (from, to) = (i.at("/fifo").inode, i.pool_end.next_multiple_of(32));
            i.bytes.copy_within(from..from + 32, to);
            i.bytes[from..from + 32].fill(0);
            redirect(i, "/", "fifo", (to as u64 - i.header.meta_block * 4096) / 32);
        },
        Part::Inode,
        "must stand before",
    ),
    (
        "inode inside the tail of another",
        |i| {
            let (from, to) = (i.at("/fifo").inode, i.at("/midlink").tail + 128);
            i.bytes.copy_within(from..from + 32, to);
            redirect(i, "/", "fifo", (to as u64 - i.header.meta_block * 4096) / 32);
        },
        Part::Inode,
        "overlap",
    ),
    (
        "directories share blocks",
        |i| i.put(i.at("/plain").inode + 16, &block_of(i, "/big")),
        Part::Directory,
        "overlap",
    ),
    (
        "block of a directory without owner",
        |i| i.put(i.at("/plain").inode + 16, &block_of(i, "/big")),
        Part::Slack,
        "belong to nothing",
    ),
];

const INODE: &[Row] = &[
    ("reserved", |i| i.put(i.at("/hello").inode + 0x1c, &[1]), Part::Inode, "reserved is"),
    ("i_nb", |i| i.put(i.at("/old").inode + 6, &[1]), Part::Inode, "reserved is"),
    ("format", |i| i.put(i.at("/hello").inode + 1, &[1]), Part::Inode, "i_format"),
    ("time of a compact inode", |i| i.put(i.at("/hello").inode + 12, &[1]), Part::Inode, "i_mtime"),
    ("nanoseconds", |i| i.put(i.at("/old").inode + 0x28, &null()), Part::Inode, "i_mtime_nsec"),
    ("type", |i| i.put(i.at("/hello").inode + 5, &[0xf0]), Part::Inode, "i_mode"),
    ("links of a file", |i| i.bump(i.at("/hello").inode + 6), Part::Inode, "1 links were found"),
    ("links of a directory", |i| i.bump(i.at("/dir").inode + 6), Part::Inode, "3 links were found"),
    ("no link", |i| i.put(i.at("/hello").inode + 6, &[0]), Part::Inode, "i_nlink"),
    ("i_ino 0", |i| i.put(i.at("/hello").inode + 0x14, &[0; 4]), Part::Inode, "i_ino is 0"),
    (
        "i_ino twice",
        |i| i.put(i.at("/hello").inode + 0x14, &i.u32_at(i.at("/old").inode + 0x14).to_le_bytes()),
        Part::Inode,
        "as well",
    ),
    ("i_ino of nobody", |i| i.put(i.at("/hello").inode + 0x17, &[1]), Part::Inode, "i_ino is"),
    (
        "one link but two names",
        |i| i.put(i.at("/big/file").inode + 6, &[1, 0]),
        Part::Inode,
        "more than one name leads here",
    ),
    (
        "names out of turn",
        |i| {
            let (fifo, null) = (i.at("/fifo").nid, i.at("/null").nid);
            redirect(i, "/", "fifo", null);
            redirect(i, "/", "null", fifo);
        },
        Part::Inode,
        "out of order",
    ),
    (
        "a number before its turn",
        |i| redirect(i, "/", "fifo", i.at("/dir/sub").nid),
        Part::Inode,
        "out of order",
    ),
    ("inline file", |i| i.put(i.at("/empty").inode, &[4]), Part::Inode, "file is inline"),
    (
        "compressed file without a map",
        |i| i.put(i.at("/hello").inode, &[2]),
        Part::PieceMap,
        "of a compressed inode is not supported",
    ),
    (
        "start of an empty file",
        |i| i.put(i.at("/empty").inode + 16, &[1, 0, 0, 0]),
        Part::Inode,
        "empty file",
    ),
    ("plain hole", |i| i.put(i.at("/old").inode + 16, &null()), Part::Inode, "hole in a file"),
    ("plain symlink", |i| i.put(i.at("/link").inode, &[0]), Part::Inode, "symlink is plain"),
    (
        "inode and xattrs over a block boundary",
        |i| i.put(i.at("/hello").inode + 2, &1024_u16.to_le_bytes()),
        Part::Inode,
        "crosses a block boundary",
    ),
    ("plain directory", |i| i.put(i.at("/dir").inode, &[0]), Part::Inode, "dir is plain"),
    ("inline symlink", |i| i.put(i.at("/longlink").inode, &[5]), Part::Inode, "inline tail"),
    (
        "start of a symlink",
        |i| i.put(i.at("/link").inode + 16, &[1, 0, 0, 0]),
        Part::Inode,
        "start block of a sym",
    ),
    (
        "start of a directory",
        |i| i.put(i.at("/dir").inode + 16, &[1, 0, 0, 0]),
        Part::Inode,
        "start block of a dir",
    ),
    (
        "chunk-based directory",
        |i| {
            i.put(i.at("/dir").inode, &[8]);
            i.put(i.at("/dir").inode + 16, &[0; 4]);
        },
        Part::Inode,
        "dir has a map",
    ),
    ("inline directory without tail", |i| i.put(i.at("/plain").inode, &[4]), Part::Inode, "without a tail"),
    ("i_u of a fifo", |i| i.put(i.at("/fifo").inode + 16, &[1]), Part::Inode, "i_u of a fifo"),
    ("layout of a device", |i| i.put(i.at("/null").inode, &[4]), Part::Inode, "data layout of a char"),
    ("size of a device", |i| i.put(i.at("/null").inode + 8, &[4]), Part::Inode, "i_size"),
    ("chunk indexes", |i| i.put(i.at("/holes").inode + 16, &[0x20]), Part::ChunkMap, "8-byte"),
    (
        "chunk of another device",
        |i| {
            i.put(i.at("/holes").inode + 16, &[0x21]);
            i.put(i.at("/holes").tail, &[0, 0, 1, 0, 1, 0, 0, 0]);
        },
        Part::ChunkMap,
        "one device",
    ),
    ("chunk format", |i| i.put(i.at("/holes").inode + 18, &[1]), Part::Inode, "chunk format"),
    (
        "chunks without a hole",
        |i| i.put(i.at("/sparse").tail + 4, &block_of(i, "/old")),
        Part::ChunkMap,
        "without a hole",
    ),
    ("chunk outside", |i| i.put(i.at("/holes").tail, &[0xff, 0xff, 0]), Part::ChunkMap, "reach beyond"),
    ("negative size", |i| i.put(i.at("/old").inode + 15, &[0x80]), Part::Inode, "2^63"),
    ("size beyond the image", |i| i.put(i.at("/old").inode + 11, &[0x80]), Part::Inode, "reach beyond"),
    ("long symlink", |i| i.put(i.at("/longlink").inode + 8, &[0, 0x10]), Part::Inode, "1 to 4095"),
    ("huge symlink", |i| i.put(i.at("/longlink").inode + 14, &[1]), Part::Inode, "1 to 4095"),
    ("empty symlink", |i| i.put(i.at("/link").inode + 8, &[0]), Part::Inode, "1 to 4095"),
    ("NUL in a symlink", |i| i.put(i.at("/link").tail + 3, &[0]), Part::Symlink, "target"),
    ("tail over a block boundary", |i| i.put(i.at("/midlink").inode + 2, &[40]), Part::Inode, "inline tail"),
    ("map beyond the image", |i| i.put(i.at("/sparse").inode + 11, &[0xff]), Part::Inode, "reach beyond"),
];

const DIRECTORY: &[Row] = &[
    ("way out (CVE-2021-40153)", |i| rename(i, "/", "link", b"../p"), Part::Directory, "not a file name"),
    ("slash", |i| rename(i, "/", "link", b"li/k"), Part::Directory, "not a file name"),
    ("NUL", |i| rename(i, "/", "link", b"li\0k"), Part::Directory, "not a file name"),
    (
        "name twice (CVE-2021-41072)",
        |i| {
            let block = i.at("/plain").blocks;
            let at = i.dirent(block, BLOCK, &[b'b'; 255]);
            i.put(block + usize::from(i.u16_at(at + 8)), &[b'a'; 255]);
        },
        Part::Directory,
        "ascending",
    ),
    ("order", |i| rename(i, "/", "link", b"aaaa"), Part::Directory, "ascending"),
    ("no .", |i| rename(i, "/dir", ".", b"!"), Part::Directory, "entry . is missing"),
    ("no ..", |i| rename(i, "/dir", "..", b".!"), Part::Directory, "entry .. is missing"),
    (". elsewhere", |i| redirect(i, "/dir", ".", i.at("/").nid), Part::Directory, "entry . leads"),
    (".. elsewhere", |i| redirect(i, "/dir/sub", "..", i.at("/").nid), Part::Directory, "entry .. leads"),
    (".. of the root", |i| redirect(i, "/", "..", i.at("/dir").nid), Part::Directory, "entry .. leads"),
    ("type of .", |i| i.put(i.dirent_in("/dir", ".") + 10, &[1]), Part::Directory, "file_type of entry ."),
    ("type", |i| i.put(i.dirent_in("/", "link") + 10, &[1]), Part::Directory, "file_type is 1"),
    ("type unknown", |i| i.put(i.dirent_in("/", "link") + 10, &[0]), Part::Directory, "file_type is 0"),
    ("loop", |i| redirect(i, "/dir/sub", "deep", i.at("/dir").nid), Part::Directory, "second name"),
    ("loop to the root", |i| redirect(i, "/dir/sub", "deep", 1), Part::Directory, "second name"),
    ("two parents", |i| redirect(i, "/", "plain", i.at("/dir/sub").nid), Part::Directory, "second name"),
    ("inode far away", |i| redirect(i, "/", "fifo", u64::MAX), Part::Inode, "reach beyond"),
    ("lost inode", |i| redirect(i, "/", "fifo", i.at("/null").nid), Part::Slack, "not zero"),
    ("reserved", |i| i.put(i.dirent_in("/", "link") + 11, &[1]), Part::Directory, "reserved"),
    (
        "nameoff of the first entry",
        |i| i.put(i.at("/").tail + 8, &[13, 0]),
        Part::Directory,
        "multiple of 12",
    ),
    ("nameoff 0", |i| i.put(i.at("/").tail + 8, &[0, 0]), Part::Directory, "multiple of 12"),
    (
        "nameoff behind the block",
        |i| i.put(i.at("/plain").blocks + 8, &[8, 0x10]),
        Part::Directory,
        "multiple of 12",
    ),
    (
        "nameoff of a trailing entry",
        |i| {
            let at = i.dirent(i.at("/plain").blocks, BLOCK, &[b'p'; 52]);
            i.put(at + 8, &[0, 0x10]);
        },
        Part::Directory,
        "file name",
    ),
    (
        "nameoff far behind",
        |i| {
            let at = i.dirent(i.at("/plain").blocks, BLOCK, &[b'p'; 52]);
            i.put(at + 8, &[0xff, 0xff]);
        },
        Part::Directory,
        "nameoff",
    ),
    ("nameoff that falls", |i| i.put(i.at("/").tail + 12 * 3 + 8, &[1, 0]), Part::Directory, "nameoff"),
    ("size with padding", |i| i.bump(i.at("/dir").inode + 8), Part::Directory, "the entries take"),
    (
        "padding of names",
        |i| i.put(i.at("/big").blocks + BLOCK - 1, b"x"),
        Part::Directory,
        "not a file name",
    ),
    ("hole", |i| i.put(i.at("/plain").inode + 16, &null()), Part::Directory, "without holes"),
];

const XATTR: &[Row] = &[
    ("count of shared", |i| i.put(i.at("/dir").xattrs + 4, &[200]), Part::Xattr, "h_shared_count"),
    ("name filter", |i| i.put(i.at("/dir").xattrs, &[1]), Part::Xattr, "name filter"),
    ("reserved", |i| i.put(i.at("/dir").xattrs + 11, &[1]), Part::Xattr, "reserved"),
    ("shared twice", |i| i.put(i.at("/dir").xattrs + 16, &[0; 4]), Part::Xattr, "there twice"),
    (
        "inline and shared",
        |i| {
            let at = i.at("/hello").xattrs + 16;
            assert_eq!(i.bytes[at..at + 6], [1, 1, 1, 0, b'a', b'1']);
            i.put(at, &[0, 2, 2, 0]);
        },
        Part::Xattr,
        "system.posix_acl_access is there twice",
    ),
    ("shared id far away", |i| i.put(i.at("/dir").xattrs + 16, &null()), Part::Xattr, "reach beyond"),
    ("shared id beside", |i| i.bump(i.at("/dir").xattrs + 16), Part::Xattr, "reach beyond"),
    ("value too long", |i| i.put(i.at("/hello").xattrs + 18, &null()[..2]), Part::Xattr, "reach beyond"),
    ("name too long", |i| i.put(i.at("/hello").xattrs + 16, &[255]), Part::Xattr, "reach beyond"),
    ("prefix", |i| i.put(i.at("/hello").xattrs + 17, &[9]), Part::Xattr, "prefix 0x9"),
    ("long prefix", |i| i.put(i.at("/hello").xattrs + 17, &[0x81]), Part::Xattr, "prefix 0x81"),
    ("name of an ACL", |i| i.put(i.at("/hello").xattrs + 17, &[2]), Part::Xattr, "e_name_len"),
    ("NUL in a name", |i| i.put(i.at("/hello").xattrs + 20, &[0]), Part::Xattr, "not a file name"),
    ("padding", |i| i.put(i.at("/hello").xattrs + 22, &[1]), Part::Xattr, "padding"),
    ("padding in the pool", |i| i.put(i.pool_end - 1, &[1]), Part::Xattr, "padding"),
    ("empty body", |i| i.put(i.at("/hello2").inode + 2, &[1]), Part::Xattr, "without an xattr"),
    ("body over the next inode", |i| i.put(i.at("/hello").inode + 3, &[1]), Part::Inode, "overlap"),
    ("body beyond the image", |i| i.put(i.at("/hello").inode + 2, &null()[..2]), Part::Inode, "reach beyond"),
    ("value in the pool too long", |i| i.put(i.pool + 2, &null()[..2]), Part::Xattr, "reach beyond"),
];

#[test]
fn every_broken_rule_is_found() {
    let good = full().build();
    let mut missed = Vec::new();
    for (rule, patch, part, word) in [SUPERBLOCK, SPACE, INODE, DIRECTORY, XATTR].concat() {
        let mut image = good.clone();
        patch(&mut image);
        image.seal();
        let findings = image.lint();
        let hit = findings.iter().any(|finding| finding.part == part && finding.problem.contains(word));
        if !hit {
            let found = findings.iter().map(|finding| format!("{}: {}\n", finding.part, finding.problem));
            missed.push(format!("{rule}: {part} {word:?} is not among\n{}", found.collect::<String>()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// A second name may lead into another inode, to bytes that look like one with several names.
#[test]
fn a_name_that_leads_into_an_inode_is_found() {
    // A fifo of two names, as the target of a link that has room for it.
    let mut inside = [0; 32];
    inside[4..7].copy_from_slice(&[0x80, 0x11, 2]);
    let nodes = vec![
        Node::new("/", 0o040_755, Content::Dir),
        Node::new("/aaa", 0o120_777, Content::Link(vec![b'x'; 32])),
        Node::new("/mmm", 0o010_600, Content::Special(0)),
        Node::new("/zzz", 0o010_600, Content::Special(0)),
    ];
    let mut image = Tree { nodes, links: vec![], pool: vec![] }.build();
    assert_eq!(image.lint(), []);
    // The tail of /aaa stands right behind its 32 bytes.
    let (link, last) = (image.at("/aaa"), image.at("/zzz"));
    let (sub, into) = (image.dirent_in("/", "zzz"), link.nid + 1);
    image.put(link.tail, &inside);
    image.put(sub, &into.to_le_bytes());
    image.bytes[last.inode..last.inode + 32].fill(0);
    image.bytes[SB + 0x10] -= 1;
    image.seal();
    let findings = image.lint();
    let stray = findings.iter().find(|finding| finding.problem.contains("leads into an inode"));
    assert_eq!(stray.and_then(|finding| finding.path.clone()), Some(b"/zzz".to_vec()), "{findings:?}");
}

/// What fits into the rest of a block stands there.
#[test]
fn a_block_that_is_left_too_early_is_found() {
    let nodes =
        vec![Node::new("/", 0o040_755, Content::Dir), Node::new("/fifo", 0o010_600, Content::Special(0))];
    let mut image = Tree { nodes, links: vec![], pool: vec![] }.build();
    assert_eq!(image.lint(), []);
    // A block more of metadata, for the fifo alone.
    let seal = image.header.seal_block as usize * BLOCK;
    image.bytes.splice(seal..seal, [0; BLOCK]);
    image.header.seal_block += 1;
    image.header.data_blocks += 1;
    image.bytes[SB + 0x24] += 1;
    image.bytes[SB + 0x2c] += 1;
    let from = image.at("/fifo").inode;
    image.bytes.copy_within(from..from + 32, seal);
    image.bytes[from..from + 32].fill(0);
    image.put(seal + 0x14, &128_u32.to_le_bytes());
    redirect(&mut image, "/", "fifo", 128);
    image.seal();
    let findings = image.lint();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].problem.contains("it fits there"), "{findings:?}");
}

#[test]
fn findings_say_where() {
    let mut image = full().build();
    let place = image.at("/dir/sub/deep");
    image.put(place.inode + 6, &[9]);
    image.put(place.inode + 12, &[1]);
    let offset = place.inode as u64;
    let path = Some(b"/dir/sub/deep".to_vec());
    let finding =
        |problem: &str| Finding { part: Part::Inode, offset, path: path.clone(), problem: problem.into() };
    assert_eq!(
        image.lint(),
        [finding("i_mtime of a compact inode is 1, must be 0"), finding("i_nlink is 9, 1 links were found"),]
    );
}

#[test]
fn a_checksum_that_is_wrong_is_found() {
    let mut image = full().build();
    image.put(1028, &[0; 4]);
    let findings = image.lint();
    assert!(findings.iter().any(|finding| finding.problem.contains("checksum is")), "{findings:?}");
}

#[test]
fn a_feature_without_use_is_found() {
    let mut tree = full();
    tree.nodes.retain(|node| !matches!(node.content, Content::Sparse(_)));
    let mut image = tree.build();
    assert_eq!(image.lint(), []);
    image.put(SB + 0x50, &[4]);
    image.seal();
    let findings = image.lint();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].problem.contains("without a chunk-based file"), "{findings:?}");
}

#[test]
fn an_empty_pool_stands_at_the_end() {
    let mut tree = full();
    tree.pool.clear();
    tree.nodes.iter_mut().for_each(|node| node.shared.clear());
    let mut image = tree.build();
    assert_eq!(image.lint(), []);
    image.bytes[SB + 0x2c] -= 1;
    image.seal();
    let findings = image.lint();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].problem.contains("xattr_blkaddr"), "{findings:?}");
}

#[test]
fn unused_shared_xattrs_are_found() {
    // At the front it is a gap, at the end it is slack.
    for (unused, part) in [(0, Part::Xattr), (2, Part::Slack)] {
        let mut tree = full();
        tree.pool.insert(unused, (1, b"unused".to_vec(), b"hidden".to_vec()));
        for node in &mut tree.nodes {
            node.shared.iter_mut().for_each(|id| *id += usize::from(*id >= unused));
        }
        let findings = tree.build().lint();
        assert_eq!(findings.iter().map(|finding| finding.part).collect::<Vec<_>>(), [part], "{findings:?}");
    }
}

#[test]
fn a_shared_xattr_inside_another_is_found() {
    let mut tree = full();
    // The value is an entry of its own, 8 bytes behind the start of this one.
    tree.pool = vec![(1, b"name".to_vec(), b"\x01\x01\x03\0zabc".to_vec())];
    tree.nodes.iter_mut().for_each(|node| node.shared.retain(|id| *id == 0));
    let mut image = tree.build();
    assert_eq!(image.lint(), []);
    let at = image.at("/dir").xattrs + 12;
    image.put(at, &[2]);
    let findings = image.lint();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].problem.contains("overlaps the one before"), "{findings:?}");
}

/// Linux hides names of index 0, so `user.x` spelt that way would be seen by one reader and not by another.
#[test]
fn a_name_with_a_prefix_must_use_it() {
    let mut tree = full();
    tree.nodes[3] = tree.nodes[3].clone().xattr(0, b"user.x", b"1");
    let findings = tree.build().lint();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].problem.contains("e_name_index"), "{findings:?}");
}

/// Kernel fix 0dcd3c94: an extended inode over a block boundary.
#[test]
fn an_inode_over_a_block_boundary_is_found() {
    let mut nodes = vec![Node::new("/", 0o040_755, Content::Dir)];
    let fill = |nodes: Vec<Node>| Tree { nodes, links: vec![], pool: vec![] }.build();
    for number in 100..240 {
        nodes.push(Node::new(&format!("/{number}"), 0o010_600, Content::Special(0)));
        let mut with = nodes.clone();
        with.push(Node::new("/x", 0o010_600, Content::Special(0)).extended());
        let mut image = fill(with);
        let place = image.at("/x");
        let before = image.at(&format!("/{number}")).inode + 32;
        if place.inode % BLOCK != 0 || before % BLOCK != BLOCK - 32 {
            continue;
        }
        assert_eq!(image.lint(), []);
        image.bytes.copy_within(place.inode..place.inode + 64, place.inode - 32);
        image.bytes[place.inode + 32..place.inode + 64].fill(0);
        image.put(place.inode - 32 + 0x14, &(place.nid as u32 - 1).to_le_bytes());
        redirect(&mut image, "/", "x", place.nid - 1);
        let findings = image.lint();
        assert_eq!(findings.len(), 1);
        assert!(findings[0].problem.contains("crosses a block boundary"), "{findings:?}");
        return;
    }
    panic!("no layout puts an extended inode behind the last slot of a block");
}

/// A path as deep as the longest that can be opened is walked, a deeper one is not.
#[test]
fn paths_end_at_the_limit_of_the_kernel() {
    for last in [255, 1] {
        let mut tree = full();
        let mut path = String::new();
        for _ in 0..15 {
            path = format!("{path}/{}", "d".repeat(255));
            tree.nodes.push(Node::new(&path, 0o040_755, Content::Dir));
        }
        path = format!("{path}/{}", "f".repeat(last));
        tree.nodes.push(Node::new(&path, 0o040_755, Content::Dir));
        assert_eq!(tree.build().lint(), [], "path of {} bytes", path.len());
        if path.len() == 4096 {
            tree.nodes.push(Node::new(&format!("{path}/f"), 0o010_600, Content::Special(0)));
            let findings = tree.build().lint();
            assert!(findings[0].problem.contains("longer than 4096 bytes"), "{findings:?}");
        }
    }
}

#[test]
fn repeated_findings_are_summed_up() {
    let mut nodes = vec![Node::new("/", 0o040_755, Content::Dir)];
    nodes.extend((0..1500).map(|number| Node::new(&format!("/{number}"), 0o010_600, Content::Special(7))));
    let findings = Tree { nodes, links: vec![], pool: vec![] }.build().lint();
    assert_eq!(findings.len(), 1001);
    assert_eq!(findings[1000].problem, "500 more findings of this kind");
}

#[test]
fn a_truncated_image_is_a_finding() {
    let mut image = full().build();
    for length in [0, 1, 4095, 4096, image.bytes.len() - 1] {
        image.bytes.truncate(length);
        let findings = image.lint();
        assert_eq!(findings.len(), 1, "{length} bytes: {findings:?}");
        assert_eq!(findings[0].part, Part::Header);
        image = full().build();
    }
}
