//! Peak resident memory of a build: without compression at most 64 MiB and 300 bytes for each entry, with it 256 MiB on
//! two threads.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg, mkimg_path};
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, require, scratch};
use std::path::Path;
use std::time::Duration;

const BASE: u64 = 64 << 20;
const PER_ENTRY: u64 = 300;

/// What a build without compression takes besides `--memory`, entries aside.
const BESIDES: u64 = 20 << 20;

/// Runs the build below a Python parent, which asks the kernel for the peak of that one child.
fn peak_of_build(source: &str, image: &Path, options: &[&str]) -> u64 {
    let program = "import os, sys\n\
                   pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\n\
                   _, status, usage = os.wait4(pid, 0)\n\
                   print(usage.ru_maxrss)\n\
                   sys.exit(os.waitstatus_to_exitcode(status))";
    let done = command::tool("python3", args!["-c", program, mkimg_path()])
        .args(args!["build", source, "-o", image])
        .args(options)
        .within(Duration::from_secs(600))
        .ok();
    let last = done.out().lines().last().unwrap().to_owned();
    1024 * last.parse::<u64>().unwrap_or_else(|error| panic!("{last:?}: {error}"))
}

/// Builds on two threads with every compression.
fn assert_compressed_within(source: &str, image: &Path, what: &str) {
    const LIMIT: u64 = 256 << 20;
    for compression in ["lz4", "lz4hc:3", "deflate:1", "zstd", "zstd:19"] {
        if compression == "zstd:19" && std::fs::metadata(image).unwrap().len() > 100 << 20 {
            continue; // minutes, and nothing that the smaller image would not show
        }
        let peak = peak_of_build(source, image, &["--compress", compression, "--threads", "2"]);
        eprintln!("{what}, {compression}: peak {} KiB of {} KiB", peak / 1024, LIMIT / 1024);
        assert!(peak <= LIMIT, "{what}, {compression}: peak {} KiB", peak / 1024);
    }
}

fn assert_within(peak: u64, entries: u64, what: &str) {
    let limit = BASE + PER_ENTRY * entries;
    eprintln!("{what}: peak {} KiB of {} KiB", peak / 1024, limit / 1024);
    assert!(peak <= limit, "{what}: peak {} KiB, allowed {} KiB", peak / 1024, limit / 1024);
}

#[test]
fn a_hundred_thousand_small_entries() {
    require!(Need::Tool("python3"));
    const FILES: u64 = 100_000;
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    let mut layer = layout.layer(Some(1));
    let attr = Attr::default();
    for i in 0..FILES / 100 {
        layer.dir(&format!("srv/data/directory-{i:04}"), &Attr::mode(0o755));
        for j in 0..100 {
            let name = format!("srv/data/directory-{i:04}/some-module-{j:02}.py");
            layer.file(&name, &attr, format!("VALUE = {}\n", i * 100 + j).as_bytes());
        }
    }
    layer.finish();
    layout.finish();
    let image = dir.path().join("image.mkimg");
    let source = format!("oci:{}", dir.path().join("oci").display());
    let peak = peak_of_build(&source, &image, &["--compress", "none"]);
    assert_within(peak, FILES + FILES / 100 + 3, "100,000 files");
    let compressed = dir.path().join("compressed.mkimg");
    std::fs::write(&compressed, "").unwrap();
    assert_compressed_within(&source, &compressed, "100,000 files");
    let listed = mkimg(args!["ls", image]).ok();
    assert!(listed.stdout.split(|&byte| byte == b'\n').count() > 101_000);
}

#[test]
fn a_layer_of_one_gibibyte() {
    require!(Need::Tool("python3"), Need::Asked("MKIMG_TEST_LARGE", "half a minute and 3 GiB of disk"));
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    let mut layer = layout.layer(Some(1));
    // One large file and some of middle size; half the data compresses. No two blocks are equal.
    let mut number = 0u64;
    let noise = images::pattern(1 << 20, 6);
    let mut piece = || {
        let mut bytes = noise.clone();
        for block in bytes.chunks_mut(4096) {
            number += 1;
            block[..8].copy_from_slice(&number.to_le_bytes());
            block[2048..].fill(b'.');
        }
        bytes
    };
    layer.big_file("one-large-file", &Attr::default(), 768 << 20, &mut piece);
    for i in 0..16 {
        layer.big_file(&format!("sixteen/part-{i:02}"), &Attr::default(), (16 << 20) - 5, &mut piece);
    }
    layer.finish();
    layout.finish();
    let image = dir.path().join("image.mkimg");
    let source = format!("oci:{}", dir.path().join("oci").display());
    let peak = peak_of_build(&source, &image, &["--compress", "none"]);
    assert_within(peak, 19, "a layer of 1 GiB");
    assert!(std::fs::metadata(&image).unwrap().len() > 1 << 30);
    // Of each block a hash, a number in a table half empty, and one in the map of its file: 12 MiB for a GiB.
    let peak = peak_of_build(&source, &image, &["--dedup", "blocks"]);
    assert_within(peak, 19, "a layer of 1 GiB with shared blocks");
    assert!(std::fs::metadata(&image).unwrap().len() > 1 << 30);
    assert_compressed_within(&source, &image, "a layer of 1 GiB");
}

/// The budget is used, and kept to: layers stay in memory when it is large enough, and nothing goes beyond it.
#[test]
fn a_budget() {
    require!(Need::Tool("python3"));
    const MIB: u64 = 1 << 20;
    const LAYERS: u64 = 3;
    const EACH: u64 = 32 * MIB;
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    for number in 0..LAYERS {
        let mut layer = layout.layer(Some(1));
        let noise = images::pattern(1 << 20, number);
        layer.big_file(&format!("part-{number}"), &Attr::default(), EACH, &mut || noise.clone());
        layer.finish();
    }
    layout.finish();
    let source = format!("oci:{}", dir.path().join("oci").display());
    let image = dir.path().join("image.mkimg");
    let mut first = None;
    for threads in ["1", "2", "8"] {
        let peaks = [8, 32, 64, 128, 512].map(|budget| {
            let memory = format!("{budget}M");
            let peak = peak_of_build(&source, &image, &["--threads", threads, "--memory", &memory]);
            eprintln!("{threads} threads, {memory}: peak {} KiB", peak / 1024);
            let limit = BESIDES + budget * MIB;
            assert!(
                peak <= limit,
                "{threads} threads, {memory}: peak {} KiB, allowed {} KiB",
                peak / 1024,
                limit / 1024
            );
            let bytes = std::fs::read(&image).unwrap();
            assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{threads} threads, {memory}");
            peak
        });
        // One layer and more stay in memory, then all; and more than all is not taken.
        let [smallest, .., some, all] = peaks;
        assert!(some > smallest + EACH && all > LAYERS * EACH, "{threads} threads: {peaks:?}");
        assert!(all < LAYERS * EACH + 3 * BESIDES, "{threads} threads: {peaks:?}");
    }
}

#[test]
fn parity_on_many_threads() {
    require!(Need::Tool("python3"));
    let dir = scratch();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), images::pattern(96 << 20, 3)).unwrap();
    let image = dir.path().join("image.mkimg");
    for threads in ["1", "16"] {
        let options = ["--fec", "24", "--threads", threads];
        let peak = peak_of_build(&format!("dir:{}", source.display()), &image, &options);
        assert_within(peak, 2, &format!("parity on {threads} threads"));
    }
}
