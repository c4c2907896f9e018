//! Images that are optimized for a trace: what it names stands first, in its order and with nothing between.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::num::NonZeroUsize;
use std::path::Path;

use layers::listing::read_image;
use layers::{
    Blob, Layer, dir, fifo, file, hardlink, names_in, oci_dir, options, scratch, symlink, tar_of,
    write_layout,
};
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{FileSystem, Layout};
use mkimg_format::header::Header;
use mkimg_format::seal::{Seal, Statement};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, hex};
use mkimg_mkfs::{Built, Error, Options, Silent, Trace};
use mkimg_oci::SourceSpec;
use sha2::{Digest as _, Sha256};

/// Without and with compression: in blocks, and byte after byte.
const ALL: [(&str, (u32, u32)); 6] = [
    ("none", (5, 15)),
    ("lz4", (5, 15)),
    ("lz4hc", (6, 1)),
    ("zstd", (6, 12)),
    ("zstd", (6, 15)),
    ("lz4", (6, 15)),
];

/// Half of it can be compressed; the same for the same seed, and different from those of others in every block.
fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| if at % 4096 < 2048 { seed } else { (at * at / 7 + at).to_le_bytes()[0] ^ seed })
        .collect()
}

/// Three layers, whose files are wanted in another order than they come in.
fn three_layers() -> Vec<Layer> {
    vec![
        vec![
            dir("bin"),
            file("bin/a", content(1, 10_000)),
            file("bin/b", content(2, 300_000)),
            file("bin/c", content(3, 5)),
            hardlink("bin/c-too", "bin/c"),
            file("empty", ""),
            symlink("sbin", "bin"),
            symlink("bin/link", "/sbin/b"),
            symlink("bin/nowhere", "nothing"),
            symlink("bin/loop", "loop"),
            fifo("pipe"),
        ],
        vec![
            file("lib/x", content(4, 70_000)),
            file("lib/y", content(5, 4096)),
            file("lib/same-as-a", content(1, 10_000)),
            file("lib/z", content(6, 123)),
        ],
        vec![
            file("srv/deep/1", content(7, 200_000)),
            file("srv/deep/0", content(8, 4097)),
            file("srv/2", content(9, 3)),
            file("srv/line\nbreak", content(10, 8192)),
            file("bin/a-too", content(11, 1)),
        ],
    ]
}

fn layout(dir: &Path, layers: &[Layer]) -> SourceSpec {
    let pack = |(at, layer): (usize, &Layer)| {
        let tar = tar_of(layer);
        if at % 2 == 0 { Blob::gzip(&tar) } else { Blob::plain(tar) }
    };
    write_layout(&dir.join("layout"), &layers.iter().enumerate().map(pack).collect::<Vec<_>>());
    oci_dir(&dir.join("layout"))
}

struct Setting<'a> {
    compression: &'a str,
    min_kernel: (u32, u32),
    trace: Option<&'a str>,
    threads: usize,
}

const PLAIN: Setting<'_> = Setting { compression: "none", min_kernel: (5, 15), trace: None, threads: 2 };

impl Setting<'_> {
    fn build(&self, source: &SourceSpec, target: &Path) -> Result<Built, Error> {
        let options = Options {
            compression: self.compression.parse().unwrap(),
            min_kernel: self.min_kernel,
            optimize_for: self.trace.map(|text| Trace::parse(text.as_bytes().to_vec()).unwrap()),
            threads: NonZeroUsize::new(self.threads).unwrap(),
            ..options(1)
        };
        mkimg_mkfs::build(source, target, &options, &Silent)
    }
}

/// First byte, first byte behind, path.
type Place = (u64, u64, String);

/// Where the contents of files stand that are in the data area; each place once, ascending. Places in the packed inode come first.
fn places(image: &Path) -> (Vec<Place>, Vec<Place>) {
    let bytes = std::fs::read(image).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    let metadata = u64::from(fs.superblock().meta_block) * BLOCK_SIZE;
    let (mut packed, mut places): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
    for entry in fs.walk() {
        let entry = entry.unwrap();
        let path = mkimg_format::erofs::escape(&entry.path);
        if let Layout::Fragment { offset, .. } = entry.inode.layout {
            packed.push((offset, offset + entry.inode.size, path));
            continue;
        }
        let extents = fs.extents(&entry.inode).map(Result::unwrap);
        let stored: Vec<(u64, u64)> = extents
            .filter_map(|extent| Some((extent.physical?, extent.physical? + extent.stored())))
            .collect();
        let place = stored.first().zip(stored.last());
        if let (Some((first, last)), mkimg_format::erofs::FileType::File) = (place, entry.inode.file_type)
            && first.0 < metadata
        {
            places.push((first.0, last.1, path));
        }
    }
    for places in [&mut packed, &mut places] {
        places.sort_by_key(|(start, ..)| *start);
        places.dedup_by_key(|(start, ..)| *start);
    }
    (packed, places)
}

/// The statement, and the first byte of the hot contents and the first behind them.
fn hot(image: &Path) -> (Statement, Option<(u64, u64)>) {
    let sealed = Sealed::open(std::fs::File::open(image).unwrap()).unwrap();
    let header = Header::read(&sealed).unwrap();
    let seal = Seal::open(&sealed, &header).unwrap();
    let statement = seal.statement().unwrap();
    let fs = FileSystem::open(&sealed).unwrap();
    let range = statement.hot.and_then(|hot| seal.hot_range(&fs, hot).unwrap());
    (statement, range.map(|range| (range.start, range.end)))
}

fn assert_clean(image: &Path) {
    let file = std::fs::File::open(image).unwrap();
    let report = mkimg_verify::verify_image(&file, &mkimg_verify::Options::default()).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// Traces, what stands first then, and what is said about paths that are not there.
const TRACES: [(&str, &[&str], Option<&str>); 9] = [
    ("/srv/deep/1\n/bin/c\n/lib/x\n/bin/b\n", &["/srv/deep/1", "/bin/c", "/lib/x", "/bin/b"], None),
    // A file of each layer, against their order; the second time counts for nothing.
    ("/srv/2\n/lib/y\n/bin/a\n/lib/y\n/srv/2\n", &["/srv/2", "/lib/y", "/bin/a"], None),
    // Another name of a file, and another file of the same content.
    ("/bin/c-too\n/lib/same-as-a\n/bin/a\n/bin/c\n", &["/bin/c", "/bin/a"], None),
    // Links, to a file, to a directory on the way, and from the root.
    ("/bin/link\n/sbin/a\n//bin/../lib/./z\n/../bin/c\n", &["/bin/b", "/bin/a", "/lib/z", "/bin/c"], None),
    // A directory: what is in it that was not named before, by name, but nothing that links in it lead to.
    (
        "# all of it\n\n/srv/2\n/srv\n/bin\n/srv/deep\n",
        &[
            "/srv/2",
            "/srv/deep/0",
            "/srv/deep/1",
            "/srv/line\\nbreak",
            "/bin/a",
            "/bin/a-too",
            "/bin/b",
            "/bin/c",
        ],
        None,
    ),
    ("/srv/line\\nbreak\n/empty\n/bin/a\n", &["/srv/line\\nbreak", "/bin/a"], None),
    (
        "/tmp/cache\n/bin/a\n/bin/nowhere\n/bin/loop\n/pipe\n/bin/a/b\n/lib/x/..\n/\\x01\n",
        // The last one leads to /lib: what is no directory is as good as missing, and `..` undoes it.
        &["/bin/a", "/lib/x", "/lib/y", "/lib/z"],
        Some("6 of 8 paths lead to no file in the image, the first in line 1: /tmp/cache"),
    ),
    ("# nothing\n", &[], None),
    ("\n/none\\n\n", &[], Some("1 of 1 paths lead to no file in the image, the first in line 2: /none\\n")),
];

#[test]
fn what_a_trace_names_stands_first() {
    let scratch = scratch();
    let source = layout(scratch.path(), &three_layers());
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let target = out.join("image");
    for (compression, min_kernel) in ALL {
        PLAIN.build(&source, &target).unwrap();
        let listing = read_image(&target);
        Setting { compression, min_kernel, ..PLAIN }.build(&source, &target).unwrap();
        let (packed_before, before) = places(&target);
        for (trace, first, warning) in TRACES {
            let what = format!("{compression} {min_kernel:?}: {trace:?}");
            let setting = Setting { compression, min_kernel, trace: Some(trace), threads: 2 };
            let built = setting.build(&source, &target).unwrap();
            assert_eq!(names_in(&out), ["image"], "{what}");
            let warnings: Vec<String> = warning.iter().map(|warning| format!("trace: {warning}")).collect();
            assert_eq!(built.warnings, warnings, "{what}");
            assert_clean(&target);
            layers::listing::assert_same(&listing, &read_image(&target));
            // First what was asked for, then the rest in the order that it has without a trace.
            let (packed, places) = places(&target);
            for (places, before) in [(&packed, &packed_before), (&places, &before)] {
                let order: Vec<&str> = places.iter().map(|(.., path)| &**path).collect();
                let known: Vec<&str> = before.iter().map(|(.., path)| &**path).collect();
                let hot = first.iter().copied().filter(|path| known.contains(path));
                let rest = known.iter().copied().filter(|path| !first.contains(path));
                assert_eq!(order, hot.chain(rest).collect::<Vec<_>>(), "{what}");
            }
            // With nothing between them that belongs to nobody, but what is packed.
            let hot_places: Vec<_> = places.iter().filter(|(.., path)| first.contains(&&**path)).collect();
            let mut next = BLOCK_SIZE;
            for (start, end, path) in hot_places.iter().copied().filter(|_| packed.is_empty()) {
                assert_eq!(*start, next.next_multiple_of(BLOCK_SIZE), "{what}: {path}");
                next = *end;
            }
            let (statement, range) = hot(&target);
            assert_eq!(statement.hot, Some(first.len() as u64), "{what}");
            let digest = format!("sha256:{}", hex(&Sha256::digest(trace)));
            assert_eq!(statement.options["optimize_for"], digest, "{what}");
            // All of it stands before what is not wanted, unless that is packed with it.
            let end = range.map_or(BLOCK_SIZE, |(start, end)| {
                assert_eq!(start, BLOCK_SIZE, "{what}");
                end
            });
            let others = places.iter().filter(|(.., path)| !first.contains(&&**path));
            assert!(others.clone().all(|(start, ..)| *start >= end), "{what}: {end}: {places:?}");
        }
    }
}

#[test]
fn a_directory_as_source() {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("d")).unwrap();
    for (name, seed, length) in [("a", 1, 9000), ("b", 2, 4096), ("d/c", 3, 100), ("d/e", 4, 200_000)] {
        std::fs::write(tree.join(name), content(seed, length)).unwrap();
    }
    let source = SourceSpec::Dir { path: tree };
    let target = scratch.path().join("image");
    for (compression, min_kernel) in ALL {
        let setting = Setting { compression, min_kernel, trace: Some("/d/e\n/b\n/d\n/a\n"), threads: 2 };
        setting.build(&source, &target).unwrap();
        assert_clean(&target);
        let (packed, places) = places(&target);
        let order: Vec<String> = packed.into_iter().chain(places).map(|(.., path)| path).collect();
        let inline = if (compression, min_kernel) == ("lz4", (5, 15)) { vec!["/d/c"] } else { Vec::new() };
        let mut expected = vec!["/d/e", "/b", "/d/c", "/a"];
        expected.retain(|path| !inline.contains(path));
        assert_eq!(order, expected, "{compression} {min_kernel:?}");
    }
}

/// Small files share pieces, and a piece is written when it is full: what is wanted first does not wait for that.
#[test]
fn small_files_that_come_first_stand_first() {
    let scratch = scratch();
    let large: Layer = (0..4).map(|seed| file(format!("large/{seed}"), content(seed, 1_000_000))).collect();
    let small: Layer =
        (0..60).map(|seed| file(format!("small/{seed:02}"), content(100 + seed, 9000))).collect();
    let source = layout(scratch.path(), &[large, small]);
    let target = scratch.path().join("image");
    let trace = Some("/small/40\n/large/2\n/small/07\n/small/51\n");
    for (compression, min_kernel) in ALL {
        let what = format!("{compression} {min_kernel:?}");
        let before = Setting { compression, min_kernel, ..PLAIN };
        before.build(&source, &target).unwrap();
        let plain = read_image(&target);
        let setting = Setting { trace, ..before };
        setting.build(&source, &target).unwrap();
        assert_clean(&target);
        layers::listing::assert_same(&plain, &read_image(&target));
        let bytes = std::fs::read(&target).unwrap();
        Setting { threads: 8, ..setting }.build(&source, &target).unwrap();
        assert!(std::fs::read(&target).unwrap() == bytes, "{what}");
        let (packed, places) = places(&target);
        let (statement, range) = hot(&target);
        assert_eq!(statement.hot, Some(4), "{what}");
        let order: Vec<&str> = packed.iter().chain(&places).take(3).map(|(.., path)| &**path).collect();
        if !packed.is_empty() {
            // Then, to fill the piece, the first ones of the rest.
            assert_eq!(order, ["/small/40", "/small/07", "/small/51"], "{what}");
            assert_eq!(packed[3].2, "/small/00", "{what}");
        }
        let (start, end) = range.unwrap();
        assert_eq!(start, BLOCK_SIZE, "{what}");
        let others = places.iter().filter(|(.., path)| path.starts_with("/large/") && path != "/large/2");
        assert!(others.clone().all(|(start, ..)| *start >= end), "{what}: {end}: {places:?}");
    }
}

#[test]
fn the_trace_decides_and_nothing_else() {
    let scratch = scratch();
    let source = layout(scratch.path(), &three_layers());
    let image = |compression, min_kernel, trace, threads| {
        let target = scratch.path().join("image");
        Setting { compression, min_kernel, trace, threads }.build(&source, &target).unwrap();
        std::fs::read(&target).unwrap()
    };
    for (compression, min_kernel) in ALL {
        let of = |trace, threads| image(compression, min_kernel, trace, threads);
        let trace = Some("/srv\n/lib/x\n/bin/b\n");
        let first = of(trace, 1);
        for threads in [1, 2, 7] {
            assert!(of(trace, threads) == first, "{compression}: {threads} threads");
        }
        // The digest is part of the statement: a comment makes another image, of the same order.
        let commented = of(Some("#\n/srv\n/lib/x\n/bin/b\n"), 2);
        assert!(commented != first, "{compression}");
        let end = usize::try_from(Header::read(&first).unwrap().meta_block * BLOCK_SIZE).unwrap();
        let data = BLOCK_LEN..end;
        assert!(commented[data.clone()] == first[data], "{compression}");
        // Without a trace nothing of it is left.
        let (statement, range) = {
            of(None, 2);
            hot(&scratch.path().join("image"))
        };
        assert_eq!((statement.hot, range), (None, None));
        assert!(!statement.options.contains_key("optimize_for"));
    }
}

/// Files with holes go through the spool as they are stored: without them.
#[test]
fn sparse_files_stay_sparse() {
    let scratch = scratch();
    let sparse = |name: &str, seed| {
        let parts = vec![(8192, content(seed, 4096)), (1_000_000, content(seed + 1, 5000))];
        layers::Item { kind: layers::Kind::Sparse(2_000_000, parts), ..file(name, "") }
    };
    let source =
        layout(scratch.path(), &[vec![file("a", content(1, 9000)), sparse("s", 20), sparse("t", 30)]]);
    let target = scratch.path().join("image");
    PLAIN.build(&source, &target).unwrap();
    let (listing, size) = (read_image(&target), std::fs::metadata(&target).unwrap().len());
    for (compression, min_kernel) in ALL {
        Setting { compression, min_kernel, trace: Some("/t\n/s\n"), threads: 2 }
            .build(&source, &target)
            .unwrap();
        assert_clean(&target);
        layers::listing::assert_same(&listing, &read_image(&target));
        let (packed, places) = places(&target);
        let order: Vec<String> = places.into_iter().chain(packed).map(|(.., path)| path).collect();
        assert_eq!(order, ["/t", "/s", "/a"], "{compression}");
        assert!(std::fs::metadata(&target).unwrap().len() <= size, "{compression}");
    }
}

/// What goes through the spool is compared with the first pass like everything else.
#[test]
fn hot_content_that_changes_between_the_passes() {
    use mkimg_mkfs::{Progress, Stage};
    struct Meddler<'a>(&'a Path);
    impl Progress for Meddler<'_> {
        fn begin(&self, stage: Stage, _: u64) {
            use std::os::unix::fs::FileExt as _;
            if stage == Stage::Copy {
                std::fs::File::options().write(true).open(self.0).unwrap().write_all_at(b"x", 600).unwrap();
            }
        }
        fn advance(&self, _: u64) {}
    }
    let scratch = scratch();
    let layer = vec![file("a", content(1, 9000)), file("b", content(2, 100))];
    let blobs = write_layout(&scratch.path().join("layout"), &[Blob::plain(tar_of(&layer))]);
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let optimize_for = Some(Trace::parse(b"/b\n/a\n".to_vec()).unwrap());
    let options = Options { optimize_for, ..options(2) };
    let source = oci_dir(&scratch.path().join("layout"));
    let error = mkimg_mkfs::build(&source, &out.join("image"), &options, &Meddler(&blobs[0])).unwrap_err();
    assert_eq!(error.to_string(), "layer 1: /a: content changed while the image was built");
    assert_eq!(names_in(&out), [""; 0]);
}

/// Many lines that name everything, and links that lead nowhere for long, cost no more than they are worth.
#[test]
fn hostile_traces_end() {
    let scratch = scratch();
    let mut layer = vec![dir("d")];
    for at in 0..2000 {
        layer.push(file(format!("d/{at}"), at.to_string()));
    }
    for at in 0..200 {
        let around = format!("{}/../", "x".repeat(255)).repeat(15);
        layer.push(symlink(format!("l{at}"), format!("{around}l{}", at + 1)));
    }
    let source = layout(scratch.path(), &[layer]);
    let target = scratch.path().join("image");
    let everything = "/\n/d\n".repeat(50_000);
    let built = Setting { trace: Some(&everything), ..PLAIN }.build(&source, &target).unwrap();
    assert_eq!(built.warnings, [""; 0]);
    assert_eq!(hot(&target).0.hot, Some(2000));
    let links = "/l0\n".repeat(10_000);
    let error = Setting { trace: Some(&links), ..PLAIN }.build(&source, &target).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("trace: line ") && text.contains("symbolic links in all"), "{text}");
}
