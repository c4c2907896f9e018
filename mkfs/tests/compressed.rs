//! Compressed images: what goes in comes out, whoever reads it, and no byte of a map can be otherwise.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use layers::{Kind, Layer, dir, file, hardlink, oci_dir, scratch, write_layers};
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, Inode, Layout, Nid};
use mkimg_format::header::Header;
use mkimg_format::lint::lint;
use mkimg_format::trailer::Trailer;
use mkimg_mkfs::{Built, Error, Options, Silent};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Every algorithm, and every rule that the oldest kernel decides.
const ALL: [(&str, (u32, u32)); 13] = [
    ("lz4", (5, 15)),
    ("lz4", (6, 1)),
    ("lz4hc:3", (5, 15)),
    ("lz4hc", (6, 1)),
    ("deflate:1", (6, 12)),
    ("deflate", (6, 6)),
    ("zstd:1", (6, 12)),
    ("zstd", (6, 10)),
    ("zstd:12", (6, 12)),
    ("lz4", (6, 15)),
    ("lz4hc:3", (6, 15)),
    ("deflate", (6, 15)),
    ("zstd", (6, 15)),
];

const PIECE: usize = 1 << 18;

fn options(compression: &str, min_kernel: (u32, u32), threads: usize) -> Options {
    Options {
        compression: compression.parse().unwrap(),
        min_kernel,
        fec_roots: 0,
        threads: NonZeroUsize::new(threads).unwrap(),
        ..layers::options(1)
    }
}

fn build(
    dir: &Path,
    layers: &[Layer],
    compression: &str,
    min_kernel: (u32, u32),
    threads: usize,
) -> Result<(Built, PathBuf), Error> {
    let layout = dir.join("layout");
    if !layout.exists() {
        write_layers(&layout, layers);
    }
    let target = dir.join("image");
    let built =
        mkimg_mkfs::build(&oci_dir(&layout), &target, &options(compression, min_kernel, threads), &Silent)?;
    Ok((built, target))
}

/// The same bytes for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; length];
    bytes.fill_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    });
    bytes
}

/// What shrinks to half, more or less.
fn words(seed: u64, length: usize) -> Vec<u8> {
    let picks = noise(seed, length / 2 + 1);
    let mut bytes: Vec<u8> =
        picks.iter().flat_map(|pick| format!("{:x} ", u32::from(*pick) * 77).into_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Content out of stretches of every kind, its size near the border of a block or piece more often than not.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (0..4_u8, any::<u64>(), prop_oneof![0..300_usize, 3000..9000_usize, 20_000..200_000_usize]);
    let border = (0..5_usize, prop_oneof![Just(4096_usize), Just(PIECE)], 0..5_usize);
    (proptest::collection::vec(stretch, 0..6), proptest::option::of(border)).prop_map(
        |(stretches, border)| {
            let mut bytes = Vec::new();
            for (kind, seed, length) in stretches {
                match kind {
                    0 => bytes.resize(bytes.len() + length, 0),
                    1 => bytes.extend(noise(seed, length)),
                    2 => bytes.extend(words(seed, length)),
                    _ => bytes.extend_from_within(..length.min(bytes.len())),
                }
            }
            if let Some((count, unit, beside)) = border {
                bytes.resize((count * unit + beside).saturating_sub(2), b'x');
            }
            bytes
        },
    )
}

fn tree(contents: &[Vec<u8>]) -> Layer {
    let mut layer = vec![dir("d").xattr("user.long", vec![b'v'; 300])];
    for (at, content) in contents.iter().enumerate() {
        let item = file(format!("d/{at:03}"), content);
        let item = if at % 3 == 0 { item.time(1_000_000, 5) } else { item };
        layer.push(if at % 4 == 1 { item.xattr("user.own", vec![b'x'; at * 7 % 90]) } else { item });
    }
    layer
}

fn sizes() -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    for size in
        [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 12_287, 12_288, 12_289, PIECE - 1, PIECE, PIECE + 1]
            .into_iter()
            .chain([PIECE + 4095, PIECE + 4096, PIECE + 4097, 2 * PIECE, 2 * PIECE + 904, 9 * PIECE + 5000])
    {
        contents.push(words(size as u64, size));
        contents.push(vec![0; size]);
        contents.push(noise(size as u64, size));
        // Pieces of both kinds: stored, compressed.
        let mixed = [noise(1 + size as u64, size), words(2 + size as u64, size)].concat();
        contents.push(mixed);
    }
    contents
}

/// Checks an image without the kernel: the reader, in one go and bit by bit, and the verifier.
fn check_image(image: &Path, contents: &[Vec<u8>]) {
    let bytes = std::fs::read(image).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    for (at, content) in contents.iter().enumerate() {
        let inode = fs.resolve(format!("d/{at:03}").as_bytes(), false).unwrap();
        let mut pieces = Vec::new();
        fs.for_each_piece(&inode, |piece| {
            pieces.extend_from_slice(piece);
            Ok::<_, mkimg_format::Error>(())
        })
        .unwrap();
        assert!(pieces == *content, "file {at}");
        let size = content.len();
        for offset in [0, 1, 4095, 4096, size / 2, PIECE - 3, PIECE, size.saturating_sub(1), size, size + 9] {
            for length in [1, 5000, 2 * PIECE] {
                let mut buffer = vec![7; length];
                let read = fs.read_file(&inode, offset as u64, &mut buffer).unwrap();
                let expected = content.get(offset..).unwrap_or_default();
                assert_eq!(read, expected.len().min(length), "file {at} from {offset}");
                assert!(buffer[..read] == expected[..read], "file {at} from {offset}");
            }
        }
        // What the extents say adds up.
        let mut reached = 0;
        for extent in fs.extents(&inode) {
            let extent = extent.unwrap();
            assert_eq!(extent.logical, reached);
            reached += extent.length;
        }
        assert_eq!(reached, content.len() as u64);
    }
    let file = std::fs::File::open(image).unwrap();
    let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn sizes_around_blocks_and_pieces() {
    let contents = sizes();
    let scratch = scratch();
    let mut plain = 0;
    for (compression, min_kernel) in [("none", (5, 15))].into_iter().chain(ALL) {
        let (built, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        check_image(&image, &contents);
        assert!(built.min_kernel <= min_kernel, "{compression}");
        if compression == "none" {
            plain = built.image_size;
        } else {
            // Three eighths of it are noise.
            assert!(built.image_size < plain * 7 / 10, "{compression}: {} of {plain}", built.image_size);
        }
    }
}

#[test]
fn random_contents_come_back() {
    let config =
        Config { rng_seed: RngSeed::Fixed(4), failure_persistence: None, cases: 40, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let turn = Cell::new(0);
    let contents = proptest::collection::vec(content(), 1..8);
    runner
        .run(&contents, |contents| {
            let scratch = scratch();
            let (compression, min_kernel) = ALL[turn.get() % ALL.len()];
            turn.set(turn.get() + 1);
            let mut images = Vec::new();
            for threads in [1, 2, 8] {
                let (_, image) =
                    build(scratch.path(), &[tree(&contents)], compression, min_kernel, threads).unwrap();
                images.push(std::fs::read(&image).unwrap());
            }
            prop_assert!(images[0] == images[1] && images[1] == images[2], "{compression}: threads differ");
            check_image(&scratch.path().join("image"), &contents);
            Ok(())
        })
        .unwrap();
}

/// Before 6.1 the kernel fails when it reads two inodes with the same compressed blocks at the same time.
#[test]
fn equal_files_share_compressed_blocks_where_the_kernel_can() {
    let content = words(1, 3 * PIECE);
    let other = words(2, 3 * PIECE);
    let scratch = scratch();
    let layer =
        vec![file("one", &content), file("two", &content), file("other", &other), hardlink("link", "other")];
    let blocks = |built: &Built| built.data_blocks;
    let mut sizes = BTreeMap::new();
    for (compression, min_kernel, needed) in [
        ("lz4", (5, 15), (5, 13)),
        ("lz4", (6, 0), (5, 13)),
        ("lz4", (6, 1), (6, 1)),
        ("deflate", (6, 12), (6, 6)),
        ("zstd", (6, 12), (6, 10)),
        ("lz4", (6, 15), (6, 15)),
        ("zstd", (6, 15), (6, 15)),
    ] {
        let (built, image) =
            build(scratch.path(), std::slice::from_ref(&layer), compression, min_kernel, 1).unwrap();
        assert_eq!(built.min_kernel, needed, "{compression} {min_kernel:?}");
        let fs = FileSystem::open(std::fs::read(&image).unwrap()).unwrap();
        let inode = |path: &str| fs.resolve(path.as_bytes(), false).unwrap();
        let start = |inode: &Inode| fs.extents(inode).next().unwrap().unwrap().physical;
        assert_eq!(start(&inode("one")), start(&inode("two")));
        let shares = min_kernel >= (6, 1);
        let compressed =
            |path| matches!(inode(path).layout, Layout::Compressed { .. } | Layout::Encoded { .. });
        assert_eq!(compressed("one"), shares, "{min_kernel:?}");
        // Several names of one inode are nothing of that kind.
        assert!(compressed("link"));
        assert_eq!(fs.superblock().features.encoded, min_kernel >= (6, 15));
        assert_eq!(fs.superblock().features.shared, shares);
        let file = std::fs::File::open(&image).unwrap();
        let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
        assert!(report.is_clean(), "{report:#?}");
        sizes.insert((compression, min_kernel), blocks(&built));
    }
    assert!(sizes[&("lz4", (6, 1))] < sizes[&("lz4", (5, 15))]);
}

#[test]
fn kernels_that_cannot_read_it_are_refused() {
    let scratch = scratch();
    let layer = vec![file("f", words(1, 50_000))];
    for (compression, min_kernel, message) in [
        ("lz4", (5, 12), "lz4 needs Linux 5.13, the image is for 5.12"),
        ("lz4hc", (5, 4), "lz4hc:9 needs Linux 5.13, the image is for 5.4"),
        ("deflate", (6, 5), "deflate:6 needs Linux 6.6, the image is for 6.5"),
        ("zstd:7", (6, 9), "zstd:7 needs Linux 6.10, the image is for 6.9"),
    ] {
        let error =
            build(scratch.path(), std::slice::from_ref(&layer), compression, min_kernel, 1).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    // What turns out not to be compressed needs nothing.
    let scratch = layers::scratch();
    let (built, image) =
        build(scratch.path(), &[vec![file("f", noise(1, PIECE))]], "zstd", (6, 12), 1).unwrap();
    assert_eq!(built.min_kernel, (5, 4));
    assert_eq!(std::fs::read(image).unwrap()[1104..1112], [0; 8]);
}

/// Files shorter than a piece stand one behind the other in the packed inode, equal ones once, and no name leads there.
#[test]
fn small_files_are_packed_where_the_kernel_can() {
    let twin = words(9, 3000);
    let contents =
        [words(1, 70), twin.clone(), Vec::new(), noise(2, PIECE - 1), words(3, PIECE), twin, noise(4, 1)];
    for (compression, min_kernel, packs) in [
        ("lz4", (6, 0), false),
        ("lz4", (6, 1), true),
        ("deflate", (6, 6), true),
        ("zstd", (6, 12), true),
        ("zstd", (6, 15), true),
    ] {
        let scratch = scratch();
        let (built, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        check_image(&image, &contents);
        let fs = FileSystem::open(std::fs::read(&image).unwrap()).unwrap();
        assert_eq!(fs.superblock().packed.is_some(), packs, "{compression} {min_kernel:?}");
        if !packs {
            continue;
        }
        assert!(built.min_kernel >= (6, 1), "{compression}");
        let offsets: Vec<Option<u64>> = (0..contents.len())
            .map(|at| match fs.resolve(format!("d/{at:03}").as_bytes(), false).unwrap().layout {
                Layout::Fragment { offset, .. } => Some(offset),
                _ => None,
            })
            .collect();
        let rest = 3070 + PIECE as u64 - 1;
        assert_eq!(offsets, [Some(0), Some(70), None, Some(3070), None, Some(70), Some(rest)]);
        let packed = fs.packed_inode().unwrap();
        assert_eq!(packed.size, rest + 1);
        let whole = [&contents[0], &contents[1], &contents[3], &contents[6]].map(|part| &**part).concat();
        let mut found = vec![0; whole.len()];
        assert_eq!(fs.read_file(packed, 0, &mut found).unwrap(), whole.len());
        assert!(found == whole, "{compression}");
        assert!(
            fs.walk().all(|entry| entry.unwrap().inode.nid != packed.nid),
            "{compression}: it has a name"
        );
    }
}

/// Where there is no packed inode, short tails of files that are stored as they are stand behind their inodes.
#[test]
fn short_tails_are_inline_where_nothing_is_packed() {
    let twin = noise(9, 100);
    let layer = vec![
        file("byte", "x"),
        file("longest", noise(1, 2560)),
        file("longer", noise(2, 2561)),
        file("block", noise(3, 4096)),
        file("and a byte", noise(4, 4097)),
        file("twin", &twin),
        file("other twin", &twin),
        file("with xattrs", noise(5, 100)).xattr("user.own", vec![b'x'; 9]),
        file("compressed", words(6, 20_000)),
        file("large", noise(7, PIECE + 100)),
        file("linked", noise(8, 50)),
        hardlink("link", "linked"),
    ];
    let inline = ["and a byte", "byte", "link", "linked", "longest"];
    for (compression, min_kernel, expected) in [
        ("none", (5, 15), &[][..]),
        ("lz4", (5, 15), &inline),
        ("lz4hc", (6, 0), &inline),
        ("lz4", (6, 1), &[]),
    ] {
        let scratch = scratch();
        let (_, image) =
            build(scratch.path(), std::slice::from_ref(&layer), compression, min_kernel, 1).unwrap();
        let bytes = std::fs::read(&image).unwrap();
        let fs = FileSystem::open(&bytes[..]).unwrap();
        let entries = fs.walk().map(Result::unwrap).filter(|entry| entry.inode.file_type == FileType::File);
        let found: Vec<String> = entries
            .filter(|entry| matches!(entry.inode.layout, Layout::Inline { .. }))
            .map(|entry| String::from_utf8(entry.path).unwrap().trim_start_matches('/').to_owned())
            .collect();
        assert_eq!(found, expected, "{compression} {min_kernel:?}");
        for item in [("longest", noise(1, 2560)), ("and a byte", noise(4, 4097)), ("linked", noise(8, 50))] {
            let mut content = vec![0; 5000];
            let inode = fs.resolve(item.0.as_bytes(), false).unwrap();
            let read = fs.read_file(&inode, 0, &mut content).unwrap();
            assert!(content[..read] == item.1, "{compression}: {}", item.0);
        }
        let file = std::fs::File::open(&image).unwrap();
        let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
        assert!(report.is_clean(), "{report:#?}");
        let finds = |patch: &dyn Fn(&mut [u8]), word: &str| {
            let mut bytes = bytes.clone();
            patch(&mut bytes);
            let found = findings(&with_checksum(bytes));
            assert!(found.iter().any(|finding| finding.contains(word)), "{compression}: {word}: {found:#?}");
        };
        if compression == "none" {
            // As if it were a compressed one.
            let config = [14, 0, 255, 255, 96];
            let patch = |b: &mut [u8]| {
                (b[1024 + 0x50], b[1024 + 0x54]) = (3, 1);
                b[1024 + 128..][..5].copy_from_slice(&config);
            };
            finds(&patch, "file is plain, must be inline");
        } else if !expected.is_empty() {
            finds(&|b| b[1024 + 0x50] |= 0x20, "file is inline, must be plain");
            let byte = fs.resolve(b"byte", false).unwrap();
            let at = usize::try_from(byte.offset).unwrap();
            finds(&|b| b[at + 16..at + 20].fill(0), "start block of a file without whole blocks");
        }
    }
}

/// More than one piece of small files, between the pieces of others.
#[test]
fn packed_pieces_stand_between_those_of_large_files() {
    let mut contents = Vec::new();
    for at in 0..24 {
        contents.push(words(at, 30_000 + usize::try_from(at).unwrap() * 1777));
        if at % 5 == 4 {
            contents.push(words(100 + at, PIECE + 70_000));
        }
    }
    let scratch = scratch();
    for (compression, min_kernel) in [("lz4", (6, 1)), ("zstd", (6, 12)), ("zstd", (6, 15))] {
        let (_, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        check_image(&image, &contents);
        let fs = FileSystem::open(std::fs::read(&image).unwrap()).unwrap();
        let extents: Vec<_> = fs.extents(fs.packed_inode().unwrap()).map(Result::unwrap).collect();
        assert!(extents.len() > 3, "{compression}");
        let apart = extents
            .windows(2)
            .filter(|pair| pair[0].physical.unwrap() + pair[0].stored() < pair[1].physical.unwrap());
        assert!(apart.count() > 0, "{compression}: nothing stands between");
    }
}

/// A damaged block of the packed inode is blamed on every file that has content in its piece, and on no other.
#[test]
fn damage_names_all_files_of_a_piece() {
    let contents: Vec<Vec<u8>> = (0..24).map(|at| words(at, 60_000)).collect();
    let scratch = scratch();
    let (_, image) = build(scratch.path(), &[tree(&contents)], "zstd", (6, 12), 2).unwrap();
    let good = std::fs::read(&image).unwrap();
    let fs = FileSystem::open(&good[..]).unwrap();
    let packed = fs.packed_inode().unwrap();
    for extent in fs.extents(packed).map(Result::unwrap) {
        let mut expected: Vec<String> = (0..contents.len() as u64)
            .filter(|at| at * 60_000 < extent.logical + extent.length && (at + 1) * 60_000 > extent.logical)
            .map(|at| format!("/d/{at:03}"))
            .collect();
        expected.sort_unstable();
        let mut bytes = good.clone();
        bytes[usize::try_from(extent.physical.unwrap() + extent.stored() - 9).unwrap()] ^= 1;
        std::fs::write(&image, &bytes).unwrap();
        let file = std::fs::File::open(&image).unwrap();
        let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
        let damaged = report.findings.iter().filter(|finding| finding.region.to_string() == "data");
        let mut found: Vec<String> = damaged
            .flat_map(|finding| &finding.paths)
            .map(|path| String::from_utf8(path.clone()).unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected, "piece at {}", extent.logical);
    }
    // What is damaged of its map.
    let Layout::Compressed { map, .. } = packed.layout else { panic!("{:?}", packed.layout) };
    let mut bytes = good.clone();
    bytes[usize::try_from(map + 16).unwrap()] ^= 0x10;
    std::fs::write(&image, &bytes).unwrap();
    let file = std::fs::File::open(&image).unwrap();
    let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
    let named = report.findings.iter().flat_map(|finding| &finding.paths).any(|path| path == b"/d/000");
    assert!(named, "{report:#?}");
}

/// Hashes the protected area of an image anew, so that everything leads to a root hash again: that of a builder who lies.
fn hash_anew(bytes: &mut [u8]) {
    let header = Header::read(&*bytes).unwrap();
    let levels = mkimg_format::verity::levels(header.data_blocks, header.tree_offset());
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let (area, rest) = bytes.split_at_mut(at(header.hash_offset()));
    let mut put = |offset: u64, block: &[u8]| {
        rest[at(offset - header.hash_offset())..][..4096].copy_from_slice(block);
    };
    let mut builder = mkimg_format::merkle::Builder::new();
    let mut tree =
        |level: usize, index: u64, block: &[u8; 4096]| put(levels[level].block_offset(index), block);
    for block in area.chunks(4096) {
        builder.push(&mkimg_format::merkle::hash_block(block), &mut tree);
    }
    let root = builder.finish(&mut tree);
    let superblock = mkimg_format::verity::Superblock::new(header.data_blocks, &root).to_block();
    put(header.hash_offset(), &superblock[..]);
    put(header.trailer_offset(), &Trailer::new(&header, root).to_block()[..]);
}

/// Fails one read.
struct Failing<'a> {
    bytes: &'a [u8],
    left: AtomicUsize,
}

impl ReadAt for Failing<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            Err(std::io::Error::from_raw_os_error(5))
        } else {
            self.bytes.read_exact_at(buf, offset)
        }
    }

    fn size(&self) -> std::io::Result<u64> {
        self.bytes.size()
    }
}

/// Content that is not what its record says, under hashes that hold: in large files, which are checked in parts, and in small
/// ones, which share pieces. Every thread count reports the same, and no error of a read is lost.
#[test]
fn wrong_contents_are_found_by_any_number_of_threads() {
    let mut contents: Vec<Vec<u8>> =
        (0..60).map(|at| words(at, 2000 * usize::try_from(at).unwrap())).collect();
    contents.push(words(99, (4 << 20) + 300_077));
    contents.push([noise(98, 4 << 20), words(97, 1 << 20)].concat());
    for (compression, min_kernel) in [("lz4", (5, 15)), ("lz4", (6, 1)), ("zstd", (6, 15))] {
        let scratch = scratch();
        let (_, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        let good = std::fs::read(image).unwrap();
        let verify = |image: &(dyn ReadAt + Sync), threads: usize| {
            let threads = NonZeroUsize::new(threads).unwrap();
            let options = mkimg_verify::Options { root_hash: None, threads, progress: None };
            mkimg_verify::verify_image(&image, &options).unwrap()
        };
        let mut bytes = good.clone();
        hash_anew(&mut bytes);
        assert!(bytes == good, "{compression}: the image is made of other hashes");
        let fs = FileSystem::open(&good[..]).unwrap();
        let mut damaged = BTreeSet::new();
        // In the last byte of a part, in the last piece, and in a small file.
        for (file, place) in [(60, (4 << 20) - 1), (61, 5 << 20), (40, 0)] {
            let path = format!("/d/{file:03}");
            let inode = fs.resolve(path.as_bytes(), false).unwrap();
            let extents = fs.extents(&inode).map(Result::unwrap);
            let extent = extents.filter(|extent| extent.logical <= place).last().unwrap();
            bytes[usize::try_from(extent.physical.unwrap() + extent.stored() - 9).unwrap()] ^= 1;
            // A piece of small files gives other content to some of them, not to all.
            damaged.extend((file >= 60).then_some(path));
        }
        hash_anew(&mut bytes);
        let one = verify(&bytes, 1);
        let named = one.findings.iter().flat_map(|finding| &finding.paths);
        let named: BTreeSet<String> = named.map(|path| String::from_utf8(path.clone()).unwrap()).collect();
        assert!(named.is_superset(&damaged) && named.len() > damaged.len(), "{compression}: {one:#?}");
        assert!(!named.contains("/d/059") && !named.contains("/d/001"), "{compression}: {one:#?}");
        for threads in [2, 8] {
            assert_eq!(one, verify(&bytes, threads), "{compression}, {threads} threads");
            assert!(verify(&good, threads).is_clean(), "{compression}, {threads} threads");
        }
        // The scan reads runs of half a MiB; what comes behind it are reads of the structure and of contents.
        let counting = Failing { bytes: &good, left: AtomicUsize::new(usize::MAX) };
        assert!(verify(&counting, 2).is_clean());
        let reads = usize::MAX - counting.left.into_inner();
        for number in (1..reads - 20).step_by((reads / 10).max(1)) {
            let failing = Failing { bytes: &good, left: AtomicUsize::new(number) };
            let report = verify(&failing, 2);
            assert!(failing.left.into_inner() == 0 && !report.is_clean(), "{compression}, read {number}");
        }
    }
}

/// What `compressed_image` knows of a file.
struct Map {
    inode: usize,
    map: usize,
    /// Where indexes or records start.
    table: usize,
    /// Where a compressed piece is.
    data: usize,
    content: Vec<u8>,
}

/// An image with one long piece, one with a stored and a compressed piece, and the packed inode; then some in it.
fn compressed_image(compression: &str, min_kernel: (u32, u32)) -> (Vec<u8>, Vec<Map>) {
    let small = [words(5, 12_000), noise(6, 3000), words(7, 70)];
    let large = [words(1, PIECE + 904), [noise(2, PIECE), words(3, PIECE + 9000)].concat()];
    let scratch = scratch();
    let layer = tree(&[&large[..], &small].concat());
    let (_, image) = build(scratch.path(), &[layer], compression, min_kernel, 1).unwrap();
    let bytes = std::fs::read(image).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    let number = |value: u64| usize::try_from(value).unwrap();
    let mut inodes: Vec<Inode> =
        ["d/000", "d/001"].iter().map(|path| fs.resolve(path.as_bytes(), false).unwrap()).collect();
    inodes.push(fs.packed_inode().unwrap().clone());
    inodes.push(fs.resolve(b"d/003", false).unwrap());
    let contents = large.into_iter().chain([small.concat(), small[1].clone()]);
    let maps = inodes.into_iter().zip(contents).map(|(inode, content)| {
        let (map, table) = match inode.layout {
            Layout::Compressed { map, .. } => (map, map + 16),
            Layout::Encoded { map, record_len, .. } => (map, (map + 8).next_multiple_of(record_len)),
            Layout::Fragment { map, .. } => (map, map),
            _ => panic!("inode {} is not compressed", inode.nid),
        };
        let extents: Vec<_> = fs.extents(&inode).map(Result::unwrap).collect();
        let data = extents.iter().find(|extent| extent.compressed.is_some()).unwrap().physical.unwrap();
        let [inode, map, table, data] = [inode.offset, map, table, data].map(number);
        Map { inode, map, table, data, content }
    });
    (bytes.clone(), maps.collect())
}

fn findings(bytes: &[u8]) -> Vec<String> {
    let header = Header::read(bytes).unwrap();
    let mut found = Vec::new();
    lint(&bytes, &header, &mut |finding| found.push(format!("{}: {}", finding.part, finding.problem)))
        .unwrap();
    found
}

/// A change of the image that breaks a rule, and a word of what must be found.
type Broken = (&'static str, fn(&mut [u8], &[Map]), &'static str);

const BROKEN: [Broken; 16] = [
    ("advise", |b, m| b[m[0].map + 4] = 6, "head of the map"),
    ("unknown advise", |b, m| b[m[0].map + 4] |= 0x10, "h_advise"),
    ("second algorithm", |b, m| b[m[0].map + 6] |= 0x10, "head of the map"),
    (
        "other algorithm",
        |b, m| b[m[0].map + 6] = if b[m[0].map + 6] == 2 { 3 } else { 2 },
        "another algorithm",
    ),
    ("unknown algorithm", |b, m| b[m[0].map + 6] = 1, "compression algorithm 1"),
    ("reserved", |b, m| b[m[0].map + 9] = 1, "byte before the indexes"),
    ("i_u", |b, m| b[m[0].inode + 16] ^= 8, "i_u is"),
    ("hole", |b, m| b[m[0].table + 1] |= 0x40, "index type"),
    ("delta0", |b, m| b[m[0].table + 20] = 1, "indexes of the piece at 0"),
    ("delta1", |b, m| b[m[0].table + 14] ^= 1, "indexes of the piece at 0"),
    ("offset of a tail", |b, m| b[m[0].table + 10] = 1, "indexes of the piece at 0"),
    ("blocks", |b, m| b[m[0].table + 12] = 65, "takes 65 blocks"),
    ("no blocks", |b, m| b[m[0].table + 12] = 0, "blocks of a piece"),
    ("address", |b, m| b[m[1].table + 64 * 8 + 4] ^= 1, "one behind the other"),
    ("short piece", |b, m| b[m[1].table + 90 * 8] = 1, "reach beyond"),
    ("address in the packed inode", |b, m| b[m[2].table + 4] ^= 1, "belong to no file"),
];

/// What is broken about files in the packed inode, whichever its map.
const BROKEN_FRAGMENTS: [Broken; 16] = [
    ("offset below", |b, m| b[m[3].map] -= 1, "1 bytes of the packed inode overlap those of another file"),
    ("offset above", |b, m| b[m[3].map] += 1, "1 bytes of the packed inode belong to no file"),
    ("far offset", |b, m| b[m[3].map + 4] = 1, "lie behind the packed inode"),
    ("no fragment", |b, m| b[m[3].map + 7] = 0, "h_advise 0x0"),
    ("i_u of a fragment", |b, m| b[m[3].inode + 16] ^= 4, "i_u is"),
    ("size of a fragment", |b, m| b[m[3].inode + 8] ^= 1, "1 bytes of the packed inode"),
    (
        "size of the packed inode",
        |b, m| b[m[2].inode + 8] += 1,
        "1 bytes of the packed inode belong to no file",
    ),
    ("short packed inode", |b, m| b[m[2].inode + 8] -= 1, "behind the packed inode"),
    ("mode", |b, m| b[m[2].inode + 4] ^= 1, "attributes of the packed inode"),
    ("link to a fragment", |b, m| b[m[2].inode + 5] ^= 0x20, "for a symbolic link"),
    ("owner", |b, m| b[m[2].inode + 24] = 1, "attributes of the packed inode"),
    ("time", |b, m| b[m[2].inode + 12] = 1, "i_mtime of a compact inode"),
    ("packed in itself", |b, m| b[m[2].map + 7] |= 0x80, "packed_nid"),
    ("a named one", |b, m| packed_nid(b, m[0].inode), "the packed inode has a name or is another inode"),
    ("none", |b, _| set_packed_nid(b, 0), "there is none"),
    ("shared", |b, _| b[1024 + 0x50] &= !0x20, "packed_nid is"),
];

/// Makes the inode at byte `inode` the packed one.
fn packed_nid(bytes: &mut [u8], inode: usize) {
    let meta = u32::from_le_bytes(bytes[1064..1068].try_into().unwrap());
    set_packed_nid(bytes, (inode as u64 - u64::from(meta) * 4096) / 32);
}

fn set_packed_nid(bytes: &mut [u8], nid: u64) {
    bytes[1024 + 0x60..][..8].copy_from_slice(&nid.to_le_bytes());
}

/// A checksum that holds, so that what it covers is looked at.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[1028..1032].fill(0);
    let checksum = !crc32c::crc32c(&bytes[1024..4096]);
    bytes[1028..1032].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn every_broken_rule_of_fragments_is_found() {
    let mut missed = Vec::new();
    for (compression, min_kernel) in [("lz4", (6, 1)), ("zstd", (6, 12)), ("zstd", (6, 15))] {
        let (good, maps) = compressed_image(compression, min_kernel);
        assert_eq!(findings(&with_checksum(good.clone())), [""; 0], "{compression}");
        for (rule, patch, word) in BROKEN_FRAGMENTS {
            let mut bytes = good.clone();
            patch(&mut bytes, &maps);
            let found = findings(&with_checksum(bytes));
            if !found.iter().any(|finding| finding.contains(word)) {
                missed.push(format!("{compression}: {rule}: {word:?} is not among {found:#?}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// What the superblock may say of features: `feature_incompat`, `available_compr_algs`, and the record of the algorithm.
const FEATURES: [(u16, &[u8]); 4] = [
    (0, &[]),
    (1, &[14, 0, 0xff, 0xff, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (4, &[6, 0, 15, 0, 0, 0, 0, 0]),
    (8, &[6, 0, 0, 9, 0, 0, 0, 0]),
];

fn with_features(mut bytes: Vec<u8>, incompat: u32, algorithms: u16, record: &[u8]) -> Vec<u8> {
    bytes[1024 + 0x50..][..4].copy_from_slice(&incompat.to_le_bytes());
    bytes[1024 + 0x54..][..2].copy_from_slice(&algorithms.to_le_bytes());
    bytes[1024 + 128..][..16].fill(0);
    bytes[1024 + 128..][..record.len()].copy_from_slice(record);
    with_checksum(bytes)
}

/// Of all features that a superblock can name, those that the image uses are the only ones the linter takes.
#[test]
fn no_other_features_are_accepted() {
    let large = || file("large", [words(1, PIECE), noise(2, PIECE / 2)].concat());
    let sparse = || {
        let mut item = file("sparse", "");
        item.kind = Kind::Sparse(40_000, vec![(20_480, words(3, 4096))]);
        item
    };
    // All of it stands behind its inode where small files are not packed.
    let small = || file("small", words(4, 300));
    let contents = [vec![], vec![sparse()], vec![small()], vec![sparse(), small()]];
    let mut sets = BTreeSet::new();
    for (compression, min_kernel) in ALL.into_iter().chain([("none", (5, 4)), ("none", (5, 15))]) {
        if compression.contains(':') {
            continue;
        }
        for (number, more) in contents.iter().enumerate() {
            for layer in [[vec![large()], more.clone()].concat(), more.clone()] {
                let scratch = scratch();
                let (_, image) = build(scratch.path(), &[layer], compression, min_kernel, 1).unwrap();
                let good = std::fs::read(image).unwrap();
                let what = format!("{compression} {min_kernel:?}, content {number}");
                assert_eq!(findings(&good), [""; 0], "{what}");
                let incompat = u32::from_le_bytes(good[1024 + 0x50..][..4].try_into().unwrap());
                let algorithms = u16::from_le_bytes(good[1024 + 0x54..][..2].try_into().unwrap());
                sets.insert((incompat, algorithms));
                for (other, record) in FEATURES {
                    for bits in (0..=0xff).filter(|bits| bits & !0xa7 == 0) {
                        let accepted = findings(&with_features(good.clone(), bits, other, record)).is_empty();
                        let own = (bits, other) == (incompat, algorithms);
                        assert_eq!(
                            accepted, own,
                            "{what}: has {incompat:#x}, {algorithms}: {bits:#x}, {other}"
                        );
                    }
                }
                for bits in
                    (0..32).map(|bit| 1 << bit).filter(|bit| bit & 0xa7 == 0).map(|bit| incompat | bit)
                {
                    let (_, record) = FEATURES.into_iter().find(|row| row.0 == algorithms).unwrap();
                    let found = findings(&with_features(good.clone(), bits, algorithms, record));
                    assert!(!found.is_empty(), "{what}: {bits:#x}");
                }
                for other in [2, 0x10, 0x8000, algorithms | 2, !algorithms] {
                    let (_, record) = FEATURES.into_iter().find(|row| row.0 == algorithms).unwrap();
                    let found = findings(&with_features(good.clone(), incompat, other, record));
                    assert!(!found.is_empty(), "{what}: algorithms {other:#x}");
                }
            }
        }
    }
    // As docs/kernels.md has them.
    let known: BTreeSet<(u32, u16)> = [(0, 0), (4, 0)]
        .into_iter()
        .chain([1, 4, 8].into_iter().flat_map(|algorithm| {
            [0x03, 0x07, 0x23, 0x27, 0x83, 0x87, 0xa3, 0xa7].map(|incompat| (incompat, algorithm))
        }))
        .collect();
    assert_eq!(sets, known);
}

/// Breaks each rule in images with every compression, and wants each to be found.
fn assert_found(broken: &[Broken], compressions: &[&str], min_kernel: (u32, u32)) {
    let mut missed = Vec::new();
    for compression in compressions {
        let (good, maps) = compressed_image(compression, min_kernel);
        assert_eq!(findings(&good), [""; 0], "{compression}");
        for (rule, patch, word) in broken {
            let mut bytes = good.clone();
            patch(&mut bytes, &maps);
            let found = findings(&bytes);
            if !found.iter().any(|finding| finding.contains(word)) {
                missed.push(format!("{compression}: {rule}: {word:?} is not among {found:#?}"));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_broken_rule_is_found() {
    assert_found(&BROKEN, &["lz4", "deflate", "zstd"], (6, 12));
}

/// The same for encoded extents: length and algorithm at 0 of a record, place at 4, place in the content at 12.
const BROKEN_EXTENTS: [Broken; 17] = [
    ("record size", |b, m| b[m[0].map + 4] = 3, "h_advise"),
    ("long records", |b, m| b[m[0].map + 4] = 7, "head of the map"),
    ("number of records", |b, m| b[m[0].map] += 1, "head of the map"),
    ("far too many records", |b, m| b[m[0].map + 6] = 0x7f, "reach beyond"),
    ("place", |b, m| b[m[0].table + 4] ^= 1, "overlap"),
    ("place in the packed inode", |b, m| b[m[2].table + 4] ^= 1, "of the data area"),
    ("far place", |b, m| b[m[0].table + 9] = 1, "reach beyond"),
    ("hole", |b, m| b[m[0].table..m[0].table + 3].fill(0), "encoded extent"),
    ("partial", |b, m| b[m[0].table + 3] |= 8, "encoded extent"),
    ("unknown algorithm", |b, m| b[m[0].table + 3] = 0x20, "encoded extent"),
    ("other algorithm", |b, m| b[m[0].table + 3] ^= 0x70, "another algorithm"),
    ("stored", |b, m| b[m[0].table + 3] = 0, "length of an encoded extent"),
    ("length", |b, m| b[m[0].table] ^= 2, "of the data area"),
    ("hole in front", |b, m| b[m[0].table + 12] = 1, "lstart"),
    ("not ascending", |b, m| b[m[1].table + 16 + 12..m[1].table + 32].fill(0), "lstart"),
    ("beyond the content", |b, m| b[m[1].table + 16 + 15] = 1, "lstart"),
    ("other pieces", |b, m| b[m[1].table + 16 + 13] ^= 0x10, "length of an encoded extent"),
];

#[test]
fn every_broken_rule_of_extents_is_found() {
    assert_found(&BROKEN_EXTENTS, &["deflate", "zstd"], (6, 15));
}

/// Any other byte of a map breaks a rule, and no reader fails of it.
#[test]
fn maps_have_one_form_and_hostile_ones_end() {
    for (compression, min_kernel) in [("lz4", (6, 12)), ("zstd", (6, 12)), ("zstd", (6, 15))] {
        let (good, maps) = compressed_image(compression, min_kernel);
        // The last one has no map, but a place.
        for map in &maps[..3] {
            // Head, and beginning and end of the table: where pieces begin, and where the last one ends.
            let pieces = [0, 8 * 62, 8 * 128, (map.content.len() / 4096) * 8 - 8];
            let table: Vec<usize> = if min_kernel >= (6, 15) {
                (map.table..map.table + 16 * if map.inode == maps[1].inode { 2 } else { 1 }).collect()
            } else if map.content.len() > PIECE {
                let blocks = map.content.len().div_ceil(4096) * 8;
                pieces.iter().flat_map(|at| map.table + at..map.table + (at + 32).min(blocks)).collect()
            } else {
                (map.table..map.table + map.content.len().div_ceil(4096) * 8).collect()
            };
            for at in (map.map..map.map + 8).chain(table) {
                for value in [0, 1, 2, 3, 8, 0x80, 0xff] {
                    if good[at] == value {
                        continue;
                    }
                    let mut bytes = good.clone();
                    bytes[at] = value;
                    let clean = findings(&bytes).is_empty();
                    let fs = FileSystem::open(&bytes[..]).unwrap();
                    let nid = Nid((map.inode as u64 - u64::from(fs.superblock().meta_block) * 4096) / 32);
                    let Ok(inode) = fs.inode(nid) else {
                        assert!(!clean);
                        continue;
                    };
                    let mut content = Vec::new();
                    let read = fs.for_each_piece(&inode, |piece| {
                        assert!(piece.len() <= 1 << 20);
                        content.extend_from_slice(piece);
                        Ok::<_, mkimg_format::Error>(())
                    });
                    // Where a piece ends that another follows at once, only the content tells.
                    let told = !clean || (min_kernel >= (6, 15) && (read.is_err() || content != map.content));
                    assert!(told, "{compression} {min_kernel:?}: byte {} of a map", at - map.map);
                    let total = content.len() as u64;
                    assert!(total <= inode.size);
                    for offset in [0, inode.size / 2, inode.size.saturating_sub(1)] {
                        let _ = fs.read_file(&inode, offset, &mut [0; 100]);
                    }
                    assert!(fs.extents(&inode).take(10_000).count() < 1000);
                }
            }
        }
    }
}

/// Streams that say something else are refused, and whatever they give has the length that the map says.
#[test]
fn damaged_streams_are_refused() {
    for compression in ["lz4", "lz4hc", "deflate", "zstd"] {
        let (good, maps) = compressed_image(compression, (6, 12));
        let fs = FileSystem::open(&good[..]).unwrap();
        let inode = fs.resolve(b"d/000", false).unwrap();
        let extent = fs.extents(&inode).next().unwrap().unwrap();
        let end = maps[0].data + usize::try_from(extent.stored()).unwrap();
        let padding = good[maps[0].data..].iter().position(|byte| *byte != 0).unwrap();
        let mut refused = 0;
        for at in (maps[0].data + padding..end).step_by(2011) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x41;
            let fs = FileSystem::open(&bytes[..]).unwrap();
            let mut content = vec![0; usize::try_from(inode.size).unwrap()];
            match fs.read_file(&inode, 0, &mut content) {
                Ok(read) => assert_eq!(read, content.len()),
                Err(error) => {
                    refused += 1;
                    let name = compression.trim_end_matches("hc");
                    assert!(
                        error.to_string().ends_with(&format!("is no {name} stream of {} bytes", PIECE + 904)),
                        "{error}"
                    );
                }
            }
        }
        assert!(refused > 0, "{compression}");
        // One more zero in front is padding, one less is another stream.
        let mut bytes = good.clone();
        bytes[maps[0].data + padding - 1] = 1;
        let fs = FileSystem::open(&bytes[..]).unwrap();
        assert!(fs.read_file(&inode, 0, &mut vec![0; PIECE + 904]).is_err(), "{compression}");
    }
}

/// Why this machine cannot mount.
fn cannot_mount() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices");
    }
    let _ = Command::new("mount").args(["-t", "erofs", "-o", "ro", "/dev/null", "/mnt"]).output();
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.contains("erofs")).then_some("the kernel has no erofs")
}

/// A mount, until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, point: PathBuf, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(&point).unwrap();
        let output = Command::new("mount")
            .args(["-t", "erofs", "-o", options])
            .arg(image)
            .arg(&point)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(Self(point))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn root_the_kernel_reads_every_byte() {
    if let Some(reason) = cannot_mount() {
        println!("skipped: {reason}");
        return;
    }
    let mut contents = sizes();
    contents.push(contents[contents.len() - 1].clone());
    let scratch = scratch();
    for (compression, min_kernel) in ALL {
        let (_, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        for options in ["ro,loop", "ro"] {
            let mount = match Mount::new(&image, scratch.path().join("mnt"), options) {
                Ok(mount) => mount,
                // Straight from a file since 6.12; not every kernel has every algorithm.
                Err(error) => {
                    println!("skipped: {compression} with -o {options}: {error}");
                    continue;
                }
            };
            for (at, content) in contents.iter().enumerate() {
                let path = mount.0.join(format!("d/{at:03}"));
                let file = std::fs::File::open(&path).unwrap();
                // Out of order first, while nothing is in the cache.
                for offset in [content.len() * 2 / 3, content.len() / 3, content.len().saturating_sub(3)] {
                    let mut buffer = vec![0; 100.min(content.len() - offset)];
                    ReadAt::read_exact_at(&file, &mut buffer, offset as u64).unwrap();
                    assert!(buffer == content[offset..offset + buffer.len()], "{compression}: file {at}");
                }
                assert!(std::fs::read(&path).unwrap() == *content, "{compression} -o {options}: file {at}");
            }
        }
    }
}

#[test]
fn fsck_erofs_agrees() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/fsck.erofs");
    if !program.exists() {
        println!("skipped: no fsck.erofs below target/tools (tests/setup.sh brings it)");
        return;
    }
    let contents = sizes();
    let scratch = scratch();
    // 1.8.6 does not know encoded extents.
    for (compression, min_kernel) in ALL.into_iter().filter(|(_, kernel)| *kernel < (6, 15)) {
        let (_, image) = build(scratch.path(), &[tree(&contents)], compression, min_kernel, 2).unwrap();
        let target = scratch.path().join("tree");
        let extract = format!("--extract={}", target.display());
        let output = Command::new(&program).args([&extract, "--overwrite"]).arg(&image).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compression}: {text}");
        for (at, content) in contents.iter().enumerate() {
            let found = std::fs::read(target.join(format!("d/{at:03}"))).unwrap();
            assert!(found == *content, "{compression}: file {at}");
        }
    }
}
