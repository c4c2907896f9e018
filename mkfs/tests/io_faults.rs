//! Sources that change while they are read, and places that nothing can be written to.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use layers::listing::{What, read_image};
use layers::{
    Blob, Layer, build, build_into, file, gzip, layout_files, names_in, oci_dir, one_line, options, scratch,
    tar_of, write_layers, write_layout,
};
use mkimg_mkfs::{Compression, Error, Memory, Options, Progress, Stage, Trace};
use mkimg_oci::SourceSpec;

/// Does something to the source when a stage begins.
struct Meddler<F> {
    stage: Stage,
    act: Mutex<F>,
}

impl<F: FnMut() + Send> Progress for Meddler<F> {
    fn begin(&self, stage: Stage, _: u64) {
        if stage == self.stage {
            (self.act.lock().unwrap())();
        }
    }
    fn advance(&self, _: u64) {}
}

/// Builds while `act` meddles with the source between the passes.
fn build_and(source: &SourceSpec, out: &Path, act: impl FnMut() + Send) -> Result<(), Error> {
    build_with(source, out, &options(2), act)
}

fn build_with(
    source: &SourceSpec,
    out: &Path,
    options: &Options,
    act: impl FnMut() + Send,
) -> Result<(), Error> {
    std::fs::create_dir_all(out).unwrap();
    let meddler = Meddler { stage: Stage::Copy, act: Mutex::new(act) };
    let result = mkimg_mkfs::build(source, &out.join("image"), options, &meddler).map(drop);
    if result.is_err() {
        assert_eq!(names_in(out), [""; 0]);
    }
    result
}

fn layers() -> Vec<Layer> {
    let content = |byte: u8| vec![byte; 300_000];
    vec![
        vec![file("a", content(b'a')), file("b", content(b'b')), file("hidden", content(b'h'))],
        vec![file("c", content(b'c')), file(".wh.hidden", "")],
    ]
}

/// Bytes that do not compress, so that a blob is as long as its tar.
fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

fn content_of(image: &Path, path: &[u8]) -> Vec<u8> {
    match &read_image(image)[path].what {
        What::File(content) => content.clone(),
        _ => panic!("not a file"),
    }
}

/// What can be done to a blob, and what must be said about it; nothing when it does not matter.
type Meddling = (&'static str, fn(&Path), Option<&'static str>);

/// Offset of the content of `a`: behind its header.
const CONTENT: u64 = 512;

#[test]
fn blobs_that_change_between_the_passes() {
    fn write(path: &Path, bytes: &[u8], at: u64) {
        std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }
    fn replace(path: &Path, change: fn(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        let new = path.with_extension("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, path).unwrap();
    }
    let changed = Some("layer 1: /a: content changed while the image was built");
    let second = Some("layer 1: /b: content changed while the image was built");
    let cases: [Meddling; 11] = [
        ("one byte of content in place", |path| write(path, b"x", CONTENT + 1000), changed),
        ("last byte of content in place", |path| write(path, b"x", CONTENT + 299_999), changed),
        ("second file in place", |path| write(path, b"x", 301_568), second),
        ("header only", |path| write(path, b"other-name", 0), None),
        ("content that is not taken", |path| write(path, b"x", 2 * 301_056 + 512), None),
        ("swapped blob", |path| replace(path, |bytes| bytes[2000] ^= 1), changed),
        ("shifted blob", |path| replace(path, |bytes| drop(bytes.splice(0..0, [0; 512]))), Some("layer 1")),
        ("empty blob", |path| std::fs::write(path, "").unwrap(), Some("layer 1")),
        (
            "truncated inside the content",
            |path| {
                std::fs::File::options().write(true).open(path).unwrap().set_len(100_000).unwrap();
            },
            Some("layer 1"),
        ),
        ("removed", |path| std::fs::remove_file(path).unwrap(), Some("layer 1")),
        (
            "directory in its place",
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
            },
            Some("layer 1"),
        ),
    ];
    let mut wrong = String::new();
    for (name, act, expected) in cases {
        let dir = scratch();
        let blobs = write_layers(&dir.path().join("layout"), &layers());
        let out = dir.path().join("out");
        let result = build_and(&oci_dir(&dir.path().join("layout")), &out, || act(&blobs[0]));
        match (result, expected) {
            (Ok(()), None) => {
                assert_eq!(content_of(&out.join("image"), b"/a"), vec![b'a'; 300_000]);
                assert_eq!(content_of(&out.join("image"), b"/b"), vec![b'b'; 300_000]);
            }
            (Err(error), Some(expected)) if one_line(&error).contains(expected) => {}
            (result, expected) => {
                let found = result.err().map(|error| one_line(&error));
                wrong += &format!("{name}: expected {expected:?}, found {found:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Builds without compression and with it, on one thread and on several.
fn all_options(memory: Memory, scratch: bool) -> impl Iterator<Item = (String, Options)> {
    let all =
        [(Compression::None, 1), (Compression::None, 8), (Compression::Lz4, 2), (Compression::Zstd(3), 3)];
    all.into_iter().map(move |(compression, threads)| {
        let min_kernel = compression.min_kernel();
        let options = Options { compression, min_kernel, memory, scratch, ..options(threads) };
        (format!("{compression} on {threads} threads"), options)
    })
}

/// A layer that does not stay in memory, whatever the number of threads.
fn large_layers() -> Vec<Layer> {
    let content = |byte: u8| noise(3_000_000, byte);
    vec![
        vec![file("a", content(b'a')), file("hidden", content(b'h')), file("b", content(b'b'))],
        vec![file("c", content(b'c')), file(".wh.hidden", "")],
    ]
}

#[test]
fn compressed_blobs_that_change_between_the_passes() {
    let tars: Vec<Vec<u8>> = large_layers().iter().map(|layer| tar_of(layer)).collect();
    let other = |change: fn(&mut Vec<u8>)| {
        let mut tar = tars[0].clone();
        change(&mut tar);
        gzip(&tar)
    };
    let cases = [
        ("flipped", other(|tar| tar[2000] ^= 1)),
        ("flipped in the last content", other(|tar| tar[8_000_000] ^= 1)),
        ("shorter", other(|tar| tar.truncate(200_000))),
        ("cut", gzip(&tars[0])[..200].to_vec()),
        ("cut behind the first content", gzip(&tars[0])[..4_000_000].to_vec()),
        ("no gzip", vec![0x55; 5000]),
    ];
    for (how, options) in all_options(Memory::MIN, false) {
        for (name, bytes) in &cases {
            let dir = scratch();
            let blobs: Vec<Blob> = tars.iter().map(|tar| Blob::gzip(tar)).collect();
            let paths = write_layout(&dir.path().join("layout"), &blobs);
            let source = oci_dir(&dir.path().join("layout"));
            let out = dir.path().join("out");
            let error = build_with(&source, &out, &options, || std::fs::write(&paths[0], bytes).unwrap());
            let text = one_line(&error.unwrap_err());
            assert!(text.contains("layer 1"), "{how}, {name}: {text}");
        }
    }
}

/// A layer that was kept is as it was checked: what becomes of its blob does not matter any more.
#[test]
fn layers_that_are_kept_do_not_change() {
    let kept = |place: &str, layers: &[Layer], memory, scratch| {
        let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let blobs: Vec<Blob> = layers.iter().map(|layer| Blob::gzip(&tar_of(layer))).collect();
        let source = oci_dir(&dir.path().join("layout"));
        // What a trace puts first is read from the layers in a pass of its own, and they are still there for the other.
        let traces = [None, Some(Trace::parse(b"/c\n/b\n".to_vec()).unwrap())];
        let cases = traces.into_iter().flat_map(|optimize_for| {
            all_options(memory, scratch)
                .map(move |(how, options)| (how, Options { optimize_for: optimize_for.clone(), ..options }))
        });
        for (how, options) in cases {
            let paths = write_layout(&dir.path().join("layout"), &blobs);
            let (undisturbed, out) = (dir.path().join("undisturbed"), dir.path().join("out"));
            let plain = Options { scratch: false, memory: Memory::MIN, ..options.clone() };
            build_with(&source, &undisturbed, &plain, || ()).unwrap();
            let act = || paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
            build_with(&source, &out, &options, act)
                .unwrap_or_else(|error| panic!("{place}, {how}: {error}"));
            let read = |dir: &Path| std::fs::read(dir.join("image")).unwrap();
            assert!(read(&out) == read(&undisturbed), "{place}, {how}");
            assert_eq!(names_in(&out), ["image"], "{place}, {how}");
        }
    };
    kept("in memory", &layers(), Memory::suits(Compression::None), false);
    kept("in a file", &large_layers(), Memory::MIN, true);
}

/// Content behind the last survivor, and layers without any, are not read again.
#[test]
fn what_is_not_wanted_is_not_read_again() {
    let content = |byte: u8| noise(3_000_000, byte);
    let layers = [
        vec![file("gone", content(b'g')), file("gone too", content(b't'))],
        vec![file("kept", "kept"), file("hidden", content(b'h')), file("behind", content(b'b'))],
        vec![file(".wh.gone", ""), file(".wh.gone too", ""), file(".wh.hidden", ""), file(".wh.behind", "")],
    ];
    for (how, options) in all_options(Memory::MIN, false) {
        let dir = scratch();
        let blobs: Vec<Blob> = layers.iter().map(|layer| Blob::gzip(&tar_of(layer))).collect();
        let paths = write_layout(&dir.path().join("layout"), &blobs);
        let out = dir.path().join("out");
        let act = || {
            std::fs::remove_file(&paths[0]).unwrap();
            // Overwritten, not cut: the size is looked at when a blob is opened.
            let second = std::fs::File::options().write(true).open(&paths[1]).unwrap();
            let length = second.metadata().unwrap().len();
            second.write_all_at(&vec![0; 4_000_000], length - 4_000_000).unwrap();
        };
        build_with(&oci_dir(&dir.path().join("layout")), &out, &options, act)
            .unwrap_or_else(|error| panic!("{how}: {error}"));
        if options.compression == Compression::None {
            assert_eq!(content_of(&out.join("image"), b"/kept"), b"kept");
        }
    }
}

/// An archive is opened once, but its bytes may still change.
#[test]
fn archives_that_change_between_the_passes() {
    let blobs: Vec<Blob> = layers().iter().map(|layer| Blob::plain(tar_of(layer))).collect();
    let members: Vec<_> = layout_files(&blobs).into_iter().map(|(name, bytes)| file(name, bytes)).collect();
    let archive = tar_of(&members);
    let at = archive.windows(64).position(|window| window == [b'a'; 64]).unwrap();
    for truncate in [false, true] {
        let dir = scratch();
        let path = dir.path().join("archive");
        std::fs::write(&path, &archive).unwrap();
        let source = SourceSpec::OciArchive { path: path.clone(), tag: None };
        let open = std::fs::File::options().write(true).open(&path).unwrap();
        let at = at as u64 + 5;
        let act = || if truncate { open.set_len(at).unwrap() } else { open.write_all_at(b"x", at).unwrap() };
        let text = one_line(&build_and(&source, &dir.path().join("out"), act).unwrap_err());
        assert!(text.contains("layer 1"), "{truncate}: {text}");
    }
}

/// Files of a source directory.
#[test]
fn directories_that_change_between_the_passes() {
    let cases: [Meddling; 6] = [
        (
            "content",
            |dir| std::fs::write(dir.join("a"), vec![b'x'; 100_000]).unwrap(),
            Some("content changed"),
        ),
        ("shorter", |dir| std::fs::write(dir.join("a"), "x").unwrap(), Some("content changed")),
        ("gone", |dir| std::fs::remove_file(dir.join("a")).unwrap(), Some("No such file")),
        (
            "link in its place",
            |dir| {
                std::fs::write(dir.join("../same"), vec![b'a'; 100_000]).unwrap();
                std::fs::remove_file(dir.join("a")).unwrap();
                std::os::unix::fs::symlink("../same", dir.join("a")).unwrap();
            },
            Some("a"),
        ),
        (
            "fifo in its place",
            |dir| {
                std::fs::remove_file(dir.join("a")).unwrap();
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, dir.join("a"), rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
            Some("a"),
        ),
        ("the same bytes", |dir| std::fs::write(dir.join("a"), vec![b'a'; 100_000]).unwrap(), None),
    ];
    for (name, act, expected) in cases {
        let dir = scratch();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("a"), vec![b'a'; 100_000]).unwrap();
        let source = SourceSpec::Dir { path: tree.clone() };
        match (build_and(&source, &dir.path().join("out"), || act(&tree)), expected) {
            (Ok(()), None) => {}
            (Err(error), Some(expected)) => {
                let text = one_line(&error);
                assert!(text.contains(expected), "{name}: {text}");
            }
            (result, _) => panic!("{name}: {result:?}"),
        }
    }
}

/// Wrong digests are found in the first pass: nothing is ever copied.
#[test]
fn nothing_is_copied_from_blobs_with_wrong_digests() {
    let dir = scratch();
    let blobs = write_layers(&dir.path().join("layout"), &layers());
    let mut bytes = std::fs::read(&blobs[1]).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&blobs[1], bytes).unwrap();
    let mut copied = false;
    let error = build_and(&oci_dir(&dir.path().join("layout")), &dir.path().join("out"), || copied = true);
    let text = one_line(&error.unwrap_err());
    assert!(text.starts_with("layer 2 sha256:") && text.contains("digest mismatch"), "{text}");
    assert!(!copied);
}

fn source(dir: &Path) -> SourceSpec {
    write_layers(&dir.join("layout"), &layers());
    oci_dir(&dir.join("layout"))
}

#[test]
fn places_that_cannot_be_written_to() {
    let dir = scratch();
    let source = source(dir.path());
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("taken")).unwrap();
    std::fs::write(path("taken/inside"), "x").unwrap();
    std::fs::write(path("file"), "x").unwrap();
    let long = "n".repeat(300);
    for (target, says) in [
        (path("no/image"), "No such file or directory"),
        (path("taken"), "not a regular file"),
        (path("taken/"), "is a directory"),
        (path("taken/."), "not a regular file"),
        (path(".."), "is a directory"),
        (PathBuf::from("/"), "is a directory"),
        (PathBuf::new(), "is a directory"),
        (path("file/image"), "Not a directory"),
        (path(&long), "File name too long"),
        (PathBuf::from("/proc/image"), ""),
    ] {
        let text = one_line(&build(&source, &target).unwrap_err());
        assert!(text.contains(says), "{}: {text}", target.display());
        assert!(text.contains(&target.display().to_string()), "{}: {text}", target.display());
    }
    assert_eq!(names_in(dir.path()), ["file", "layout", "taken"]);
    assert_eq!(names_in(&path("taken")), ["inside"]);
}

/// Needs to be somebody whom permissions bind.
#[test]
fn a_directory_without_write_permission() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root writes everywhere");
        return;
    }
    let dir = scratch();
    let source = source(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o555)).unwrap();
    let text = one_line(&build(&source, &out.join("image")).unwrap_err());
    assert!(text.contains("Permission denied"), "{text}");
    assert_eq!(names_in(&out), [""; 0]);
}

/// What was at the target before is there until the new image is complete, and links to it keep the old one.
#[test]
fn targets_that_exist() {
    let dir = scratch();
    let source = source(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let (image, other) = (out.join("image"), out.join("other"));
    std::fs::write(&image, "old").unwrap();
    std::fs::hard_link(&image, &other).unwrap();
    let seen = Mutex::new(Vec::new());
    let meddler = Meddler {
        stage: Stage::Sync,
        act: Mutex::new(|| seen.lock().unwrap().extend(std::fs::read(&image).unwrap())),
    };
    mkimg_mkfs::build(&source, &image, &options(2), &meddler).unwrap();
    assert_eq!(*seen.lock().unwrap(), b"old");
    assert_eq!(std::fs::read(&other).unwrap(), b"old");
    assert_eq!(content_of(&image, b"/a").len(), 300_000);
    assert_eq!(names_in(&out), ["image", "other"]);

    // A link to a file is followed, and what it leads to keeps its permissions.
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink("other", &image).unwrap();
    build(&source, &image).unwrap();
    assert!(std::fs::symlink_metadata(&image).unwrap().is_symlink());
    assert_eq!(content_of(&other, b"/a").len(), 300_000);
    assert_eq!(std::fs::metadata(&other).unwrap().permissions().mode() & 0o7777, 0o600);
    // One to nothing is replaced.
    std::fs::remove_file(&other).unwrap();
    build(&source, &image).unwrap();
    assert!(std::fs::symlink_metadata(&image).unwrap().is_file());
    assert_eq!(names_in(&out), ["image"]);

    // An error leaves the old image.
    let before = std::fs::read(&image).unwrap();
    let error = build(&oci_dir(&dir.path().join("nowhere")), &image);
    one_line(&error.unwrap_err());
    assert_eq!(std::fs::read(&image).unwrap(), before);
    assert_eq!(names_in(&out), ["image"]);
}

/// The directory of the target goes away in the middle of it all.
#[test]
fn a_target_directory_that_goes_away() {
    let dir = scratch();
    let source = source(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let act = || {
        let _ = std::fs::remove_dir_all(&out);
    };
    let meddler = Meddler { stage: Stage::Sync, act: Mutex::new(act) };
    let text = one_line(&mkimg_mkfs::build(&source, &out.join("image"), &options(2), &meddler).unwrap_err());
    assert!(text.contains("image") && text.contains("No such file"), "{text}");
    assert_eq!(names_in(dir.path()), ["layout"]);
    // It works again as if nothing had been.
    build_into(&source, &out).unwrap();
}

/// The source is never what the image replaces.
#[test]
fn a_target_that_is_the_source() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let blobs: Vec<Blob> = layers().iter().map(|layer| Blob::plain(tar_of(layer))).collect();
    let members: Vec<_> = layout_files(&blobs).into_iter().map(|(name, bytes)| file(name, bytes)).collect();
    std::fs::write(path("archive"), tar_of(&members)).unwrap();
    std::fs::write(path("tar"), &blobs[0].bytes).unwrap();
    std::os::unix::fs::symlink("tar", path("link")).unwrap();
    let before = [std::fs::read(path("archive")).unwrap(), std::fs::read(path("tar")).unwrap()];
    let tar = |name: &str| SourceSpec::Tar { path: path(name) };
    for (source, target) in [
        (SourceSpec::OciArchive { path: path("archive"), tag: None }, "archive"),
        (tar("tar"), "tar"),
        (tar("tar"), "link"),
        (tar("link"), "tar"),
        (tar("link"), "link"),
    ] {
        let text = one_line(&build(&source, &path(target)).unwrap_err());
        assert!(text.contains("is the input itself"), "{target}: {text}");
    }
    assert_eq!(names_in(dir.path()), ["archive", "link", "tar"]);
    assert!(before == [std::fs::read(path("archive")).unwrap(), std::fs::read(path("tar")).unwrap()]);
}
