//! Images that store equal blocks once: what goes in comes out, whoever reads it, and where each block is.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use layers::{Item, Kind, Layer, dir, file, hardlink, oci_dir, scratch, write_layers};
use mkimg_format::erofs::{FileSystem, Inode, Layout};
use mkimg_format::header::Header;
use mkimg_format::lint::lint;
use mkimg_format::merkle::{Builder, Sink, hash_block};
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{Level, Superblock as VeritySuperblock, levels};
use mkimg_mkfs::{Built, Compression, Dedup, Error, Options, Silent};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

const BLOCK: usize = 4096;

/// A hole in a map.
const HOLE: u32 = u32::MAX;

/// Blocks that are taken from elsewhere only together.
const RUN: usize = 4;

type Block = Vec<u8>;

fn options(threads: usize) -> Options {
    Options { dedup: Dedup::Blocks, threads: NonZeroUsize::new(threads).unwrap(), ..layers::options(1) }
}

fn build(dir: &Path, layers: &[Layer], options: &Options) -> Result<(Built, PathBuf), Error> {
    let layout = dir.join("layout");
    if !layout.exists() {
        write_layers(&layout, layers);
    }
    let target = dir.join("image");
    let built = mkimg_mkfs::build(&oci_dir(&layout), &target, options, &Silent)?;
    Ok((built, target))
}

/// A block that is like no other of another number; number 0 is zeros.
fn block(number: u32) -> Block {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = vec![0; BLOCK];
    if number > 0 {
        bytes.fill_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
    }
    bytes
}

fn blocks(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(block).collect()
}

/// A content, and which of its blocks are holes in the source.
#[derive(Debug, Clone)]
struct Made {
    bytes: Vec<u8>,
    holes: Vec<bool>,
}

impl Made {
    fn item(&self, name: &str) -> Item {
        let mut item = file(name, &self.bytes);
        if self.holes.contains(&true) {
            let parts = self.bytes.chunks(BLOCK).zip(&self.holes).enumerate();
            let parts = parts.filter(|(_, (_, hole))| !**hole);
            let parts = parts.map(|(at, (bytes, _))| ((at * BLOCK) as u64, bytes.to_vec())).collect();
            item.kind = Kind::Sparse(self.bytes.len() as u64, parts);
        }
        item
    }
}

fn made(bytes: Vec<u8>) -> Made {
    let holes = vec![false; bytes.len().div_ceil(BLOCK)];
    Made { bytes, holes }
}

/// Where the blocks of contents are, by the rules of SPEC.md, written down without any regard to speed or memory.
#[derive(Default)]
struct Model {
    /// Blocks of the image; block 0 is none of a content.
    image: Vec<Block>,
    /// The first block of each kind.
    known: HashMap<Block, u32>,
}

impl Model {
    fn place(&mut self, content: &Made) -> Vec<u32> {
        let mut blocks: Vec<Block> = content.bytes.chunks(BLOCK).map(<[u8]>::to_vec).collect();
        blocks.iter_mut().for_each(|block| block.resize(BLOCK, 0));
        let zero = vec![0; BLOCK];
        let sparse = content.holes.contains(&true);
        let is_hole = |at: usize| content.holes[at] || sparse && blocks[at] == zero;
        let mut map = Vec::new();
        while map.len() < blocks.len() {
            let at = map.len();
            if is_hole(at) {
                map.push(HOLE);
                continue;
            }
            let rest = || (at..blocks.len()).take_while(|next| !is_hole(*next));
            let (from, length) = if blocks[at] == zero {
                (HOLE, rest().take_while(|next| blocks[*next] == zero).count())
            } else if let Some(from) = self.known.get(&blocks[at]) {
                let stored = &self.image[*from as usize..];
                (*from, rest().zip(stored).take_while(|(next, stored)| blocks[*next] == **stored).count())
            } else {
                (HOLE, 0)
            };
            if length >= RUN || length == blocks.len() {
                map.extend((0..).take(length).map(|step| if from == HOLE { HOLE } else { from + step }));
                continue;
            }
            for block in &blocks[at..at + length.max(1)] {
                let address = u32::try_from(self.image.len()).unwrap();
                self.known.entry(block.clone()).or_insert(address);
                self.image.push(block.clone());
                map.push(address);
            }
        }
        map
    }
}

/// Content out of slices of one sequence of blocks, zeros, single blocks and bytes, and holes.
fn content() -> impl Strategy<Value = Made> {
    let slice = (0..6_u8, 0..200_u32, prop_oneof![1..4_u32, 1..12_u32, 100..200_u32], any::<bool>());
    let tail = prop_oneof![2 => Just(0), 3 => 1..4096_u32];
    (proptest::collection::vec(slice, 0..6), tail, proptest::bool::weighted(0.2)).prop_map(
        |(slices, tail, sparse)| {
            let mut content = made(Vec::new());
            for (kind, start, length, hole) in slices {
                let numbers: Vec<u32> = match kind {
                    0 => vec![0; length.min(20) as usize],
                    1 => (0..length.min(9)).map(|at| 1 + (start + at * 7) % 11).collect(),
                    2 => (0..length).map(|at| 100_000 + start * 1000 + at).collect(),
                    _ => (0..length).map(|at| 1000 + start + at).collect(),
                };
                let hole = sparse && hole && kind == 0;
                content.holes.extend(numbers.iter().map(|_| hole));
                content.bytes.extend(blocks(numbers));
            }
            if tail > 0 {
                content.bytes.extend(block(1000 + tail % 50).into_iter().take(tail as usize));
                content.holes.push(false);
            }
            content
        },
    )
}

fn name_of(at: usize) -> String {
    format!("d/{at:03}")
}

/// Files under their numbers, in the order in which they are stored.
fn tree(contents: &[Made]) -> Layer {
    let files = contents.iter().enumerate().map(|(at, content)| {
        let item = content.item(&name_of(at));
        if at % 3 == 0 { item.time(1_000_000, 5).xattr("user.own", vec![b'x'; at % 90]) } else { item }
    });
    std::iter::once(dir("d")).chain(files).collect()
}

/// The address of each block of a file.
fn map_of(fs: &FileSystem<&[u8]>, inode: &Inode) -> Vec<u32> {
    let mut map = Vec::new();
    for extent in fs.extents(inode) {
        let extent = extent.unwrap();
        for at in 0..extent.length.div_ceil(BLOCK as u64) {
            map.push(extent.physical.map_or(HOLE, |start| u32::try_from(start / BLOCK as u64 + at).unwrap()));
        }
    }
    map
}

/// Checks an image without the kernel: the reader, the verifier, and where everything is.
fn check_image(image: &Path, contents: &[Made]) {
    let bytes = std::fs::read(image).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    let mut model = Model { image: vec![vec![1; 1]], ..Model::default() };
    let mut placed: HashMap<&[u8], Vec<u32>> = HashMap::new();
    for (at, content) in contents.iter().enumerate() {
        let inode = fs.resolve(name_of(at).as_bytes(), false).unwrap();
        let mut found = Vec::new();
        fs.for_each_piece(&inode, |piece| {
            found.extend_from_slice(piece);
            Ok::<_, mkimg_format::Error>(())
        })
        .unwrap();
        assert!(found == content.bytes, "file {at}");
        let map = placed.entry(&content.bytes).or_insert_with(|| model.place(content));
        assert_eq!(map_of(&fs, &inode), *map, "file {at}");
        let consecutive = !map.contains(&HOLE) && map.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        assert_eq!(matches!(inode.layout, Layout::Plain { .. }), consecutive, "file {at}");
    }
    assert_eq!(Header::read(&bytes[..]).unwrap().meta_block, model.image.len() as u64);
    assert_eq!(problems(image), [""; 0]);
}

/// What an audit of the image finds, with the paths.
fn problems(image: &Path) -> Vec<String> {
    let file = std::fs::File::open(image).unwrap();
    let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
    let shown = report.findings.iter().map(|finding| {
        let paths: Vec<_> = finding.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
        format!("{} {}", finding.problem, paths.join(" "))
    });
    shown.collect()
}

#[test]
fn random_contents_are_where_the_model_has_them() {
    let config =
        Config { rng_seed: RngSeed::Fixed(11), failure_persistence: None, cases: 40, ..Config::default() };
    let contents = proptest::collection::vec(content(), 1..9);
    TestRunner::new(config)
        .run(&contents, |contents| {
            let scratch = scratch();
            let mut images = Vec::new();
            for threads in [1, 2, 8] {
                let (_, image) = build(scratch.path(), &[tree(&contents)], &options(threads)).unwrap();
                images.push(std::fs::read(&image).unwrap());
            }
            prop_assert!(images[0] == images[1] && images[1] == images[2], "threads differ");
            check_image(&scratch.path().join("image"), &contents);
            Ok(())
        })
        .unwrap();
}

/// What a map looks like: `=` is a block of the first file, `+` a new one, `.` a hole.
fn shape(map: &[u32], first: &[u32]) -> String {
    let shape = |address: &u32| match *address {
        HOLE => '.',
        address if first.contains(&address) => '=',
        _ => '+',
    };
    map.iter().map(shape).collect()
}

#[test]
fn runs_decide_what_is_referred_to() {
    let first: Vec<u32> = (1..=20).collect();
    let of = |numbers: &[u32]| made(blocks(numbers.iter().copied()));
    for (case, second, expected, plain) in [
        ("all of it", of(&first), "====================", true),
        ("a slice", of(&first[7..12]), "=====", true),
        ("a short slice that is all of the file", of(&first[7..9]), "==", true),
        ("a short slice and more", of(&[8, 9, 100]), "+++", true),
        ("three are too few", of(&[100, 5, 6, 7, 101, 102]), "++++++", true),
        ("four are enough", of(&[100, 5, 6, 7, 8, 101]), "+====+", false),
        ("four at the end", of(&[100, 5, 6, 7, 8]), "+====", false),
        ("out of order", of(&[4, 3, 2, 1]), "++++", true),
        ("two runs", of(&[11, 12, 13, 14, 1, 2, 3, 4]), "========", false),
        ("goes on with the new blocks", of(&[17, 18, 19, 20, 100, 101]), "====++", true),
        ("zeros", of(&[0, 0]), "..", false),
        ("some zeros", of(&[100, 0, 0, 0, 101]), "+++++", true),
        ("more zeros", of(&[100, 0, 0, 0, 0, 101]), "+....+", false),
        ("a tail of zeros", made([blocks([100]), vec![0; 3 * BLOCK + 1]].concat()), "+....", false),
        ("a tail as of the first", made([blocks(17..=19), block(20)[..5].to_vec()].concat()), "++++", true),
    ] {
        let contents = [of(&first), second];
        let scratch = scratch();
        let (_, image) = build(scratch.path(), &[tree(&contents)], &options(1)).unwrap();
        check_image(&image, &contents);
        let bytes = std::fs::read(&image).unwrap();
        let fs = FileSystem::open(&bytes[..]).unwrap();
        let inode = |at| fs.resolve(name_of(at).as_bytes(), false).unwrap();
        let maps = [0, 1].map(|at| map_of(&fs, &inode(at)));
        assert_eq!(shape(&maps[1], &maps[0]), expected, "{case}");
        assert_eq!(matches!(inode(1).layout, Layout::Plain { .. }), plain, "{case}");
        assert_eq!(fs.superblock().features.chunked, !plain, "{case}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scratch = scratch();
    let layer = vec![file("f", blocks(1..9))];
    for (compression, min_kernel, message) in [
        ("lz4", (6, 1), "equal blocks can be shared in uncompressed images only, not with lz4"),
        ("zstd:3", (6, 15), "equal blocks can be shared in uncompressed images only, not with zstd:3"),
        ("none", (5, 14), "shared blocks need Linux 5.15, the image is for 5.14"),
    ] {
        let compression: Compression = compression.parse().unwrap();
        let options = Options { compression, min_kernel, ..options(1) };
        let error = build(scratch.path(), std::slice::from_ref(&layer), &options).unwrap_err();
        assert!(matches!(error, Error::Dedup(_)), "{error}");
        assert_eq!(error.to_string(), message);
    }
    assert!(!scratch.path().join("image").exists());
    for (text, expected) in [("files", Dedup::Files), ("blocks", Dedup::Blocks)] {
        assert_eq!(text.parse(), Ok(expected));
        assert_eq!(expected.to_string(), text);
    }
    assert!("chunks".parse::<Dedup>().is_err());
}

/// The option is named only where it is used: images without it are what they were before there was one.
#[test]
fn the_statement_says_it_only_when_it_is_so() {
    let layer = vec![file("f", blocks(1..9))];
    for (dedup, named) in [(Dedup::Files, false), (Dedup::Blocks, true)] {
        let scratch = scratch();
        let options = Options { dedup, ..options(1) };
        let (_, image) = build(scratch.path(), std::slice::from_ref(&layer), &options).unwrap();
        let image = std::fs::read(image).unwrap();
        let word: &[u8] = br#""dedup":"blocks""#;
        assert_eq!(image.windows(word.len()).any(|window| window == word), named);
        assert_eq!(image.windows(5).any(|window| window == b"dedup"), named);
    }
}

/// Three files: one of its own, one with a map into it, and one in the middle of it.
fn sample() -> (Vec<u8>, BTreeMap<&'static str, Inode>) {
    let scratch = scratch();
    let mapped = [blocks([100, 101]), blocks(3..9), blocks([102]), block(103)[..100].to_vec()].concat();
    let layer = vec![
        file("own", blocks(1..21)),
        file("mapped", &mapped),
        file("twin", &mapped).mode(0o600),
        file("inside", blocks(12..15)),
    ];
    let (_, image) = build(scratch.path(), &[layer], &options(1)).unwrap();
    let bytes = std::fs::read(image).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    let names = ["own", "mapped", "twin", "inside"];
    let inodes = names.map(|name| (name, fs.resolve(name.as_bytes(), false).unwrap()));
    (bytes.clone(), inodes.into())
}

/// Where the map of a file is.
fn map_at(inode: &Inode) -> usize {
    let Layout::Chunked { map, .. } = inode.layout else { panic!("no map") };
    usize::try_from(map).unwrap()
}

fn set(bytes: &mut [u8], inode: &Inode, entry: usize, address: u32) {
    let at = map_at(inode) + 4 * entry;
    bytes[at..at + 4].copy_from_slice(&address.to_le_bytes());
}

fn findings(bytes: &[u8]) -> Vec<String> {
    let header = Header::read(bytes).unwrap();
    let mut found = Vec::new();
    lint(&bytes, &header, &mut |finding| found.push(format!("{}: {}", finding.part, finding.problem)))
        .unwrap();
    found
}

type Broken = (&'static str, fn(&mut [u8], &BTreeMap<&str, Inode>), &'static str);

const BROKEN: [Broken; 8] = [
    (
        "block without a file",
        |b, i| {
            set(b, &i["mapped"], 8, 1);
            set(b, &i["twin"], 8, 1);
        },
        "4096 bytes of the data area belong to no file",
    ),
    ("block 0", |b, i| set(b, &i["mapped"], 4, 0), "lie outside the data area"),
    ("metadata", |b, i| set(b, &i["mapped"], 4, 25), "lie outside the data area"),
    ("beyond the image", |b, i| set(b, &i["mapped"], 4, 1 << 20), "reach beyond"),
    (
        "consecutive",
        |b, i| (0..10).for_each(|at| set(b, &i["mapped"], at as usize, 1 + at)),
        "consecutive, must be plain",
    ),
    (
        "larger chunks",
        |b, i| b[usize::try_from(i["mapped"].offset).unwrap() + 16] = 1,
        "chunks are of one block",
    ),
    (
        "bytes behind the end of a file",
        |b, i| {
            let at = map_at(&i["mapped"]) + 36;
            let block = u32::from_le_bytes(*b[at..].first_chunk().unwrap()) as usize;
            b[block * BLOCK + 100] = 1;
        },
        "between the end of a file and that of its block",
    ),
    (
        "statement",
        |b, _| {
            let word = br#""dedup":"blocks""#;
            let at = b.windows(word.len()).position(|window| window == word).unwrap();
            b[at + 9..at + 15].copy_from_slice(b"file..");
        },
        "shared in part",
    ),
];

#[test]
fn every_broken_rule_is_found() {
    let (good, inodes) = sample();
    assert_eq!(findings(&good), [""; 0]);
    for (rule, patch, word) in BROKEN {
        let mut bytes = good.clone();
        patch(&mut bytes, &inodes);
        let found = findings(&bytes);
        assert!(found.iter().any(|finding| finding.contains(word)), "{rule}: {word:?} not in {found:#?}");
    }
}

/// Writes the tree of changed bytes anew, as somebody would who wants them to be believed.
fn rebuild_tree(bytes: &mut [u8]) {
    struct Blocks<'a>(&'a mut [u8], Vec<Level>);
    impl Sink for Blocks<'_> {
        fn block(&mut self, level: usize, index: u64, block: &[u8; BLOCK]) {
            let at = usize::try_from(self.1[level].block_offset(index)).unwrap();
            self.0[at..at + BLOCK].copy_from_slice(block);
        }
    }
    let header = Header::read(&*bytes).unwrap();
    let end = usize::try_from(header.hash_offset()).unwrap();
    let leaves: Vec<_> = bytes[..end].chunks(BLOCK).map(hash_block).collect();
    let mut builder = Builder::new();
    let mut blocks = Blocks(bytes, levels(header.data_blocks, header.tree_offset()));
    leaves.iter().for_each(|leaf| builder.push(leaf, &mut blocks));
    let root = builder.finish(&mut blocks);
    let superblock = VeritySuperblock::new(header.data_blocks, &root).to_block();
    bytes[end..end + BLOCK].copy_from_slice(&superblock[..]);
    let trailer = bytes.len() - BLOCK;
    bytes[trailer..].copy_from_slice(&Trailer::new(&header, root).to_block()[..]);
}

/// The record of a content holds for every file that claims it, not only for the first that begins where it does.
#[test]
fn a_map_into_other_blocks_is_another_content() {
    let (good, inodes) = sample();
    let scratch = scratch();
    let image = scratch.path().join("image");
    let check = |bytes: &[u8]| {
        std::fs::write(&image, bytes).unwrap();
        problems(&image)
    };
    let mut bytes = good.clone();
    rebuild_tree(&mut bytes);
    assert!(bytes == good);
    for name in ["mapped", "twin"] {
        let mut bytes = good.clone();
        // Blocks that are there, and all of them still have a file.
        set(&mut bytes, &inodes[name], 4, 1);
        rebuild_tree(&mut bytes);
        let found = check(&bytes);
        let [found] = &found[..] else { panic!("{name}: {found:#?}") };
        assert!(found.contains("fs-verity digest is") && found.ends_with(&format!("/{name}")), "{found}");
    }
}

#[test]
fn damage_is_that_of_every_file_that_has_the_block() {
    let (good, inodes) = sample();
    let scratch = scratch();
    let image = scratch.path().join("image");
    let fs = FileSystem::open(&good[..]).unwrap();
    let own = map_of(&fs, &inodes["own"]);
    for (index, names) in
        [(0, "/own"), (3, "/mapped /own /twin"), (8, "/own"), (12, "/inside /own"), (19, "/own")]
    {
        let mut bytes = good.clone();
        bytes[own[index] as usize * BLOCK + 77] ^= 1;
        std::fs::write(&image, &bytes).unwrap();
        let expected = format!("does not match its hash in the tree {names}");
        assert_eq!(problems(&image), [expected], "block {index}");
    }
}

/// Many files that have all their blocks from one another: the audit looks at each stretch of a map, and they are more
/// than the image has blocks.
#[test]
fn damage_below_many_maps_names_its_files() {
    // Every other run of four is that of the file before.
    let row =
        |shift: u32| (0..256).flat_map(move |run| [0, 1, 2, 3].map(|at| 1 + (run * 8 + shift) % 4096 + at));
    let mut layer = vec![dir("d"), file("d/own", blocks(1..4200))];
    layer.extend((0..40).map(|at| file(format!("d/{at:02}"), blocks(row(at)))));
    layer.push(hardlink("d/link", "d/07"));
    let scratch = scratch();
    let (_, image) = build(scratch.path(), &[layer], &options(2)).unwrap();
    assert_eq!(problems(&image), [""; 0]);
    let mut bytes = std::fs::read(&image).unwrap();
    assert!(bytes.len() < 4400 * BLOCK, "{} bytes", bytes.len());
    bytes[BLOCK * 9] ^= 1;
    std::fs::write(&image, &bytes).unwrap();
    let found = problems(&image);
    assert_eq!(found.len(), 1, "{found:#?}");
    for name in ["/d/own", "/d/06", "/d/07", "/d/08", "/d/link"] {
        assert!(found[0].contains(name), "{name}: {found:#?}");
    }
}
