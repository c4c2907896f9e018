//! Hostile images cost no more than their size: no panic, no endless walk, no read beyond a few times the image.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

mod image;

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use image::{BLOCK, Content, Image, Node, Tree, full};
use mkimg_format::erofs::{FileSystem, FileType};
use mkimg_format::lint::lint;
use mkimg_format::{Error, ReadAt};
use proptest::prelude::*;

/// Counts the bytes that are read.
struct Counted {
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl ReadAt for Counted {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }
}

/// Times the size of the image that a linter run reads.
fn lint_cost(image: &Image) -> u64 {
    let counted = Counted { bytes: image.bytes.clone(), read: AtomicU64::new(0) };
    lint(&counted, &image.header, &mut |_| {}).unwrap();
    counted.read.into_inner() / image.bytes.len() as u64
}

/// Times the size of the image that a walk reads.
fn walk_cost(image: &Image) -> u64 {
    let counted = Counted { bytes: image.bytes.clone(), read: AtomicU64::new(0) };
    let _ = FileSystem::open(&counted).unwrap().walk().count();
    counted.read.into_inner() / image.bytes.len() as u64
}

/// The reader on everything that a tree leads to. Ends, whatever the image is.
fn read_all(bytes: &[u8]) {
    let Ok(fs) = FileSystem::open(bytes) else { return };
    let mut buffer = vec![0; 8192];
    // Files may share blocks, so their sizes have no common bound; a tool that copies them needs its own.
    for entry in fs.walk().flatten().take(10_000) {
        let _ = fs.xattrs(&entry.inode);
        let _ = fs.resolve(&entry.path, true);
        match entry.inode.file_type {
            FileType::Symlink => drop(fs.read_link(&entry.inode)),
            _ => {
                let _ = fs.read_file(&entry.inode, 0, &mut buffer);
                let _ = fs.read_file(&entry.inode, entry.inode.size / 2, &mut buffer);
                let _ = fs.extents(&entry.inode).take(1000).count();
            }
        }
    }
}

fn many(content: &Content, count: usize, mode: u16) -> Tree {
    let mut nodes = vec![Node::new("/", 0o040_755, Content::Dir)];
    nodes.extend((0..count).map(|number| Node::new(&format!("/{number:04}"), mode, content.clone())));
    Tree { nodes, links: vec![], pool: vec![] }
}

#[test]
fn directories_that_share_blocks_are_not_read_over_and_over() {
    let mut tree = many(&Content::Dir, 1000, 0o040_755);
    tree.nodes.push(Node::new("/shared", 0o040_755, Content::Dir));
    tree.nodes.push(Node::new("/file", 0o100_644, Content::File(vec![])));
    let file = tree.nodes.len() - 1;
    tree.links.extend((0..4000).map(|number| (format!("/shared/{number:020}").into_bytes(), file)));
    let mut image = tree.build();
    let shared = image.at("/shared");
    for number in 0..1000 {
        let at = image.at(&format!("/{number:04}")).inode;
        image.put(at, &[0]);
        image.put(at + 8, &((shared.size / BLOCK * BLOCK) as u32).to_le_bytes());
        image.put(at + 16, &((shared.blocks / BLOCK) as u32).to_le_bytes());
    }
    assert!(lint_cost(&image) <= 20, "{}", lint_cost(&image));
    assert!(walk_cost(&image) <= 5, "{}", walk_cost(&image));
}

#[test]
fn chunk_maps_that_overlap_are_not_read_over_and_over() {
    let mut image = many(&Content::File(vec![]), 3000, 0o100_644).build();
    let end = image.header.seal_block as usize * BLOCK;
    for number in 0..3000 {
        let at = image.at(&format!("/{number:04}")).inode;
        image.put(at, &[8]);
        let size = (end - at - 32) / 4 * BLOCK;
        image.put(at + 8, &(size as u32).to_le_bytes());
        image.put(at + 16, &[0; 4]);
    }
    assert!(lint_cost(&image) <= 10, "{}", lint_cost(&image));
}

#[test]
fn shared_xattrs_are_read_once() {
    let mut tree = many(&Content::File(vec![]), 300, 0o100_644);
    tree.pool =
        (0..255_u8).map(|number| (1, vec![b'a', number | 1, number.max(1)], vec![number; 65_000])).collect();
    let all: Vec<usize> = (0..255).collect();
    tree.nodes.iter_mut().for_each(|node| node.shared = all.clone());
    let image = tree.build();
    assert!(lint_cost(&image) <= 3, "{}", lint_cost(&image));
}

#[test]
fn shared_xattrs_that_overlap_are_not_read_over_and_over() {
    // Every 4 bytes of the pool look like the head of an entry of 40,004 bytes.
    let mut tree = many(&Content::File(vec![]), 100, 0o100_644);
    tree.pool = vec![(1, b"a".to_vec(), [0, 1, 0x40, 0x9c].repeat(16_000))];
    tree.nodes.iter_mut().for_each(|node| node.shared = vec![0; 255]);
    let mut image = tree.build();
    for number in 0..100 {
        let at = image.at(&format!("/{number:04}")).xattrs + 12;
        for id in 0..255_u32 {
            image.put(at + 4 * id as usize, &(id + 255 * number % 9000 + 2).to_le_bytes());
        }
    }
    assert!(lint_cost(&image) <= 5, "{}", lint_cost(&image));
}

#[test]
fn inodes_that_overlap_are_not_examined_over_and_over() {
    let mut image = many(&Content::File(vec![]), 3000, 0o100_644).build();
    for number in 0..3000 {
        let at = image.at(&format!("/{number:04}")).inode;
        image.put(at + 2, &4000_u16.to_le_bytes());
    }
    assert!(lint_cost(&image) <= 10, "{}", lint_cost(&image));
}

/// A chunk map that is gone through anew for every piece would make this quadratic.
#[test]
fn reading_a_chunk_based_file_piece_by_piece_is_linear() {
    let chunks = (0..500_u32).map(|number| Some(vec![number as u8; BLOCK])).chain([None]).collect();
    let mut tree = many(&Content::File(vec![]), 1, 0o100_644);
    tree.nodes.push(Node::new("/file", 0o100_644, Content::Sparse(chunks)));
    let image = tree.build();
    let counted = Counted { bytes: image.bytes.clone(), read: AtomicU64::new(0) };
    let fs = FileSystem::open(&counted).unwrap();
    let inode = fs.resolve(b"/file", false).unwrap();
    counted.read.store(0, Ordering::Relaxed);
    let mut buffer = vec![0; BLOCK];
    for number in 0..501_u64 {
        assert_eq!(fs.read_file(&inode, number * 4096, &mut buffer).unwrap(), BLOCK);
        assert!(buffer.iter().all(|byte| *byte == if number < 500 { number as u8 } else { 0 }));
    }
    // A window of the map and a block at a time.
    assert!(counted.read.into_inner() < 2 * 501 * 4096 + 4096);
}

#[test]
fn directories_that_hold_each_other_end() {
    let mut image = full().build();
    let at = image.dirent_in("/dir/sub", "deep");
    image.put(at, &image.at("/dir").nid.to_le_bytes());
    let fs = FileSystem::open(&image.bytes).unwrap();
    let errors: Vec<Error> = fs.walk().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].to_string().contains("reachable twice"), "{errors:?}");
}

/// Fails the n-th read with an error of the system, for every n: an error, never a finding and never a panic.
#[test]
fn errors_of_the_system_are_errors() {
    struct Failing(Vec<u8>, AtomicU64);
    impl ReadAt for Failing {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
                return Err(io::Error::other("EIO"));
            }
            self.0.read_exact_at(buf, offset)
        }
        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
    }
    let image = full().build();
    let mut reads = 0;
    loop {
        let failing = Failing(image.bytes.clone(), AtomicU64::new(reads));
        let mut findings = 0;
        let done = lint(&failing, &image.header, &mut |_| findings += 1);
        assert_eq!(findings, 0, "read {reads}");
        match done {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::Io { .. }), "read {reads}: {error}"),
        }
        reads += 1;
    }
    assert!(reads > 50);
}

/// Bytes of the metadata that hold content: another value makes another legal image.
fn is_content(image: &Image, at: usize) -> bool {
    if (image.pool..image.pool_end).contains(&at) {
        return true;
    }
    image.places.values().any(|place| {
        let extended = image.bytes[place.inode] & 1 == 1;
        let field =
            |start: usize, length: usize| (place.inode + start..place.inode + start + length).contains(&at);
        // Names of the directory block at `block`, and where one ends and the next begins.
        let names = |block: usize, length: usize| {
            let first = usize::from(image.u16_at(block + 8));
            (block + first..block + length).contains(&at)
                || (block + 12..block + first).contains(&at) && matches!((at - block) % 12, 8 | 9)
        };
        let tail = place.size % BLOCK;
        let kind = match image.u16_at(place.inode + 4) >> 12 {
            // Device number.
            2 | 6 => field(0x10, 4),
            4 => {
                (place.blocks > 0 && (0..place.size / BLOCK).any(|n| names(place.blocks + n * BLOCK, BLOCK)))
                    || (tail > 0 && names(place.tail, tail))
            }
            // A file that is a little longer ends with zeros of its block.
            8 => field(8, 2),
            10 if place.blocks > 0 => (place.blocks..place.blocks + place.size).contains(&at),
            10 => (place.tail..place.tail + tail).contains(&at),
            _ => false,
        };
        // Type and permissions, inode number, owner, time.
        let common = field(4, 2) || field(0x14, 4) || field(0x18, 4);
        let times = extended && (field(0x1c, 4) || field(0x20, 12));
        kind || common || times || (place.xattrs + 12..place.tail).contains(&at)
    })
}

/// Every byte is accounted for: a change is found, or is a change of content.
#[test]
fn every_byte_of_block_0_and_the_metadata_is_accounted_for() {
    let mut tree = full();
    tree.links.retain(|(path, _)| !path.starts_with(b"/big/"));
    let good = tree.build();
    assert_eq!(good.lint(), []);
    let metadata = good.header.meta_block as usize * BLOCK..good.header.seal_block as usize * BLOCK;
    for at in (512..BLOCK).chain(metadata) {
        // Checksum (made right again), epoch, UUID and label of the superblock.
        if matches!(at, 1028..1032 | 1048..1060 | 1072..1094) || at >= BLOCK && is_content(&good, at) {
            continue;
        }
        for change in [0x01, 0x80] {
            let mut image = good.clone();
            image.bytes[at] ^= change;
            image.seal();
            let near = good
                .places
                .iter()
                .filter(|(_, place)| place.inode <= at)
                .max_by_key(|(_, place)| place.inode);
            assert!(!image.lint().is_empty(), "byte {at} ^ {change:#x}, {near:?}");
        }
    }
}

fn good() -> &'static Image {
    static GOOD: OnceLock<Image> = OnceLock::new();
    GOOD.get_or_init(|| full().build())
}

/// Places and what is written there.
fn changes() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let good = good();
    let meta = good.header.meta_block as usize * BLOCK;
    let value = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u16>().prop_map(|word| word.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
        (0..64_u32).prop_map(|word| word.to_le_bytes().to_vec()),
        prop_oneof![Just(u64::MAX), Just(1 << 63), Just((1 << 63) - 1), Just(1 << 32), Just(0)]
            .prop_map(|word: u64| word.to_le_bytes().to_vec()),
    ];
    // Inodes and the superblock are hit more often than names.
    let inodes: Vec<usize> = good.places.values().map(|place| place.inode).collect();
    let place = prop_oneof![
        2 => (proptest::sample::select(inodes), 0..80_usize).prop_map(|(inode, skip)| inode + skip),
        2 => meta..good.pool_end,
        1 => 1024..1152_usize,
    ];
    proptest::collection::vec((place, value), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic_and_always_end(changes in changes()) {
        let mut image = good().clone();
        for (at, bytes) in changes {
            image.put(at, &bytes);
        }
        image.seal();
        read_all(&image.bytes);
        let cost = lint_cost(&image);
        prop_assert!(cost <= 40, "{} times the image was read", cost);
        // What the linter accepts, the reader reads.
        if image.lint().is_empty() {
            let fs = FileSystem::open(&image.bytes).unwrap();
            for entry in fs.walk() {
                let entry = entry.unwrap();
                fs.xattrs(&entry.inode).unwrap();
                fs.for_each_piece(&entry.inode, |_| Ok::<_, Error>(())).unwrap();
            }
        }
    }
}
