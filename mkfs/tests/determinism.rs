//! The same source gives the same bytes, wherever, whenever and however it is built.
//!
//! Every build runs in a process of its own, so that the seeds of hash tables, addresses and the environment differ.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use layers::{
    Blob, Layer, dir, fifo, file, generate, hardlink, layout_files, model, options, scratch, sha256, symlink,
    tar_of, write_layout,
};
use mkimg_mkfs::{Compression, Dedup, Options, Silent};
use mkimg_oci::SourceSpec;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Names of the variables that tell a child what to do.
const SOURCE: &str = "MKIMG_TEST_SOURCE";
const TARGET: &str = "MKIMG_TEST_TARGET";
const THREADS: &str = "MKIMG_TEST_THREADS";
const COMPRESSION: &str = "MKIMG_TEST_COMPRESSION";
const DEDUP: &str = "MKIMG_TEST_DEDUP";

/// Does nothing, unless a test below starts this program again to have one build done.
#[test]
fn child_that_builds() {
    let Ok(source) = std::env::var(SOURCE) else { return };
    let threads = std::env::var(THREADS).unwrap().parse().unwrap();
    let target = PathBuf::from(std::env::var(TARGET).unwrap());
    let source = SourceSpec::parse(source.as_ref()).unwrap();
    let compression = std::env::var(COMPRESSION).map_or(Compression::None, |text| text.parse().unwrap());
    let dedup = std::env::var(DEDUP).map_or(Dedup::Files, |text| text.parse().unwrap());
    let options = Options { dedup, ..compressed(threads, compression) };
    mkimg_mkfs::build(&source, &target, &options, &Silent).unwrap();
}

fn compressed(threads: usize, compression: Compression) -> Options {
    Options { compression, min_kernel: compression.min_kernel(), ..options(threads) }
}

/// One build in a new process.
fn build_in_child(source: &str, target: &Path, threads: usize, change: impl FnOnce(&mut Command)) -> Vec<u8> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_builds"]);
    command.env(SOURCE, source).env(TARGET, target).env(THREADS, threads.to_string());
    change(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let target = command.get_current_dir().unwrap_or(Path::new(".")).join(target);
    let image = std::fs::read(&target).unwrap();
    std::fs::remove_file(target).unwrap();
    image
}

/// Layers with everything that an order could creep into: equal contents, equal xattrs, many layers and names.
fn layers() -> Vec<Layer> {
    let mut layers = Vec::new();
    for number in 0..9_u8 {
        let mut layer = vec![dir(format!("d{number}")).xattr("user.same", "v").xattr("user.own", [number])];
        for at in 0..60_u8 {
            let content = vec![b'a' + at % 7; usize::from(at) * 997 % 20_000];
            let item = file(format!("d{number}/f{at:02}"), content).xattr("user.mod", [at % 5]);
            layer.push(item.time((at % 3).into(), 0).xattr("user.same", "v"));
        }
        layer.push(hardlink(format!("d{number}/h"), format!("d{number}/f01")));
        layer.push(symlink(format!("d{number}/s"), format!("../d{number}/f02")));
        layer.push(fifo(format!("d{number}/p")).xattr("trusted.t", "same"));
        if number > 2 {
            layer.push(file(format!("d{}/.wh.f{number:02}", number - 2), ""));
            layer.push(file(format!("d{}/.wh..wh..opq", number - 3), ""));
        }
        layers.push(layer);
    }
    // More than one buffer of 128 blocks.
    layers.push(vec![file("big", (0..1_500_000_u32).flat_map(|at| at.to_le_bytes()).collect::<Vec<u8>>())]);
    layers
}

fn blobs() -> Vec<Blob> {
    let pack = |(at, layer): (usize, &Layer)| {
        let tar = tar_of(layer);
        if at % 2 == 0 { Blob::gzip(&tar) } else { Blob::plain(tar) }
    };
    layers().iter().enumerate().map(pack).collect()
}

#[test]
fn nothing_but_the_source_decides_the_bytes() {
    let dir = scratch();
    let layout = dir.path().join("layout");
    write_layout(&layout, &blobs());
    let source = format!("oci:{}", layout.display());
    let target = dir.path().join("image");
    let first = build_in_child(&source, &target, 1, |_| {});
    let mut wrong = Vec::new();
    let mut check = |what: &str, image: Vec<u8>| {
        if image != first {
            let at = image.iter().zip(&first).position(|(a, b)| a != b);
            wrong.push(format!(
                "{what}: {} and {} bytes, first difference at {at:?}",
                image.len(),
                first.len()
            ));
        }
    };
    for _ in 0..3 {
        check("again", build_in_child(&source, &target, 1, |_| {}));
    }
    for threads in [2, 3, 7, 64] {
        check("threads", build_in_child(&source, &target, threads, |_| {}));
    }
    check("other name", build_in_child(&source, &dir.path().join("other name"), 2, |_| {}));
    check(
        "time zone",
        build_in_child(&source, &target, 2, |command| {
            command
                .env("TZ", "Pacific/Kiritimati")
                .env("LC_ALL", "tr_TR.UTF-8")
                .env("SOURCE_DATE_EPOCH", "12345");
        }),
    );
    check(
        "no environment",
        build_in_child(&source, &target, 2, |command| {
            command.env_clear().env(SOURCE, &source).env(TARGET, &target).env(THREADS, "2");
        }),
    );
    check(
        "work directory",
        build_in_child(&source, Path::new("image"), 2, |command| {
            command.current_dir(dir.path());
        }),
    );
    check(
        "relative source",
        build_in_child("oci:layout", Path::new("./image"), 2, |command| {
            command.current_dir(dir.path());
        }),
    );
    check(
        "umask",
        build_in_child(&source, &target, 2, |command| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", "umask 0777; exec \"$0\" \"$@\""])
                .arg(command.get_program())
                .args(command.get_args());
            shell.env(SOURCE, &source).env(TARGET, &target).env(THREADS, "2");
            // The file itself is made readable by nobody, which stops all but root from reading it back.
            shell.args(["--nocapture"]);
            if rustix::process::geteuid().is_root() {
                *command = shell;
            }
        }),
    );
    check(
        "signals and sessions",
        build_in_child(&source, &target, 2, |command| {
            command.process_group(0);
        }),
    );

    // The layout elsewhere, its files written in another order and at another time.
    let copy = dir.path().join("a copy");
    std::fs::create_dir_all(copy.join("blobs/sha256")).unwrap();
    for (name, bytes) in layout_files(&blobs()).into_iter().rev() {
        std::fs::write(copy.join(&name), bytes).unwrap();
    }
    check("copy", build_in_child(&format!("oci:{}", copy.display()), &target, 2, |_| {}));
    // Named or chosen because it is the only one, it is the same image.
    check("tag", build_in_child(&format!("oci:{}:latest", copy.display()), &target, 2, |_| {}));
    check("detected", build_in_child(&copy.display().to_string(), &target, 2, |_| {}));

    // As an archive, with its members in either order.
    let mut members: Vec<_> = layout_files(&blobs()).iter().map(|(name, bytes)| file(name, bytes)).collect();
    let archive = dir.path().join("archive.tar");
    for order in ["archive", "archive backwards"] {
        std::fs::write(&archive, tar_of(&members)).unwrap();
        check(order, build_in_child(&format!("oci-archive:{}", archive.display()), &target, 2, |_| {}));
        members.reverse();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The image says what its layers were packed with, so only the tree is the same.
#[test]
fn packing_changes_the_statement_and_nothing_else() {
    let dir = scratch();
    let build = |name: &str, pack: fn(Vec<u8>) -> Blob| {
        let layout = dir.path().join(name);
        write_layout(&layout, &layers().iter().map(|layer| pack(tar_of(layer))).collect::<Vec<_>>());
        let target = dir.path().join(format!("{name}.img"));
        layers::build(&layers::oci_dir(&layout), &target).unwrap();
        target
    };
    let plain = build("plain", Blob::plain);
    let gzip = build("gzip", |tar| Blob::gzip(&tar));
    layers::listing::assert_same(&layers::listing::read_image(&plain), &layers::listing::read_image(&gzip));
    let area = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let header = mkimg_format::header::Header::read(&bytes).unwrap();
        let end = usize::try_from(header.seal_block * 4096).unwrap();
        sha256(&bytes[4096..end])
    };
    assert_eq!(area(&plain), area(&gzip));
}

#[test]
fn images_of_every_form_are_the_same_with_any_number_of_threads() {
    let dir = scratch();
    let layout = dir.path().join("layout");
    write_layout(&layout, &blobs());
    let source = format!("oci:{}", layout.display());
    let target = dir.path().join("image");
    for (option, value) in [
        (COMPRESSION, "lz4"),
        (COMPRESSION, "lz4hc:4"),
        (COMPRESSION, "deflate"),
        (COMPRESSION, "zstd"),
        (DEDUP, "blocks"),
    ] {
        let build = |threads| {
            build_in_child(&source, &target, threads, |command| {
                command.env(option, value);
            })
        };
        let first = build(1);
        for threads in [1, 2, 3, 8, 64] {
            assert!(build(threads) == first, "{value} on {threads} threads");
        }
    }
}

#[test]
fn random_layers_are_the_same_with_any_number_of_threads() {
    let config = Config { rng_seed: RngSeed::Fixed(11), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    for _ in 0..40 {
        let layers = model::settle(generate::layers().new_tree(&mut runner).unwrap().current(), false);
        let dir = scratch();
        let layout = dir.path().join("layout");
        layers::write_layers(&layout, &layers);
        for (compression, dedup) in [
            (Compression::None, Dedup::Files),
            (Compression::None, Dedup::Blocks),
            (Compression::Zstd(3), Dedup::Files),
        ] {
            let images: Vec<_> = [1, 2, 7]
                .into_iter()
                .map(|threads| {
                    let target = dir.path().join("image");
                    let options = Options { dedup, ..compressed(threads, compression) };
                    mkimg_mkfs::build(&layers::oci_dir(&layout), &target, &options, &Silent).unwrap();
                    std::fs::read(target).unwrap()
                })
                .collect();
            assert!(images[0] == images[1] && images[1] == images[2], "{compression} {dedup} {layers:#?}");
        }
    }
}

/// An error is the same, too: that of the lowest layer that has one.
#[test]
fn errors_do_not_depend_on_threads() {
    let mut bad = layers();
    bad[3].push(file("../x", ""));
    bad[7].push(hardlink("no", "where"));
    bad[8].insert(0, file("/..", ""));
    let dir = scratch();
    let layout = dir.path().join("layout");
    layers::write_layers(&layout, &bad);
    for threads in [1, 2, 7, 1, 2, 7] {
        let target = dir.path().join("image");
        let error =
            mkimg_mkfs::build(&layers::oci_dir(&layout), &target, &options(threads), &Silent).unwrap_err();
        assert_eq!(layers::one_line(&error), "layer 4: ../x: name climbs out with \"..\"");
    }
}
