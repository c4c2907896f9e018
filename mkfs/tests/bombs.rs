//! Small sources that ask for much: memory and time stay bounded.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use layers::listing::{describe, read_image};
use layers::scene::Scene;
use layers::{Blob, Item, Kind, build_into, dir, file, gzip, oci_dir, symlink, tar_of};
use tar_writer::{END, Head};

/// Many entries behind links with long targets, most of which is padding: time is what they cost.
#[test]
fn padded_targets_do_not_take_forever() {
    let mut items = vec![dir("end")];
    for at in 0..250 {
        let next = if at == 249 { "end".to_owned() } else { format!("l{}", at + 1) };
        items.push(symlink(format!("l{at}"), "./".repeat(2040) + &next));
    }
    items.extend((0..100).map(|at| file(format!("l0/{at}"), "")));
    let scene = Scene::new();
    let start = Instant::now();
    let found = scene.build(&[tar_of(&items)]);
    assert!(found.starts_with("end/ ") || found.starts_with("error: layer 1"), "{}", &found[..200]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_thousand_layers() {
    let scene = Scene::new();
    let layers: Vec<Vec<u8>> = (0..1000)
        .map(|at| {
            tar_of(&[
                file(format!("{at:03}"), "1"),
                file(format!(".wh.{:03}", (at + 990) % 1000), ""),
                file("same", ""),
            ])
        })
        .collect();
    let found = scene.build(&layers);
    assert_eq!(found, (990..1000).map(|at| format!("{at}:1 ")).collect::<String>() + "same:");
}

/// Name of the variable that makes [`child_that_builds_a_bomb`] do something.
const BOMB: &str = "MKIMG_TEST_BOMB";

const GIB: usize = 1 << 30;

/// Zeros, gzipped in pieces: 1 GiB takes a megabyte.
fn gzipped_zeros(length: usize) -> Vec<u8> {
    gzip(&vec![0; 1 << 24]).repeat(length >> 24)
}

/// SHA-256 of some bytes and zeros behind them.
fn sha256_with_zeros(front: &[u8], zeros: usize) -> String {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new_with_prefix(front);
    let piece = vec![0; 1 << 24];
    (0..zeros >> 24).for_each(|_| hasher.update(&piece));
    mkimg_format::hex(&hasher.finalize())
}

/// Does nothing, unless the test below starts this program again: memory is measured in a process of its own.
#[test]
fn child_that_builds_a_bomb() {
    let Ok(which) = std::env::var(BOMB) else { return };
    let scene = Scene::new();
    let bomb = |front: Vec<u8>| Blob {
        bytes: [gzip(&front), gzipped_zeros(GIB)].concat(),
        diff_id: sha256_with_zeros(&front, GIB),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
    };
    let front = |item: Item, size: usize| {
        let mut head = item.to_tar();
        head.truncate(512);
        [Head(head.try_into().unwrap()).size(size.try_into().unwrap()).block(), Vec::new()].concat()
    };
    let (blobs, expected) = match &*which {
        // Behind the end marker.
        "trailing" => (vec![bomb(tar_of(&[file("f", "1")]))], "f:1"),
        // A file that the next layer deletes.
        "deleted" => {
            (vec![bomb(front(file("zeros", ""), GIB)), Blob::plain(tar_of(&[file(".wh.zeros", "")]))], "")
        }
        // Data behind an extended header that claims to be one.
        "header" => (vec![bomb(Head::new(b'x', "p").size(GIB as i128).block())], "error: layer 1"),
        // A hole, which is not stored.
        "hole" => {
            let mut hole = file("hole", "");
            hole.kind = Kind::Sparse(GIB as u64 * 2, vec![(GIB as u64, b"x".to_vec())]);
            (vec![Blob::plain(tar_of(&[hole, dir("d")]))], "tree")
        }
        // Deleted files whose paths are much longer than their entries.
        _ => {
            let names = (0..30_000).map(|at| tar_writer::file(format!("s/{at:06}"), ""));
            let deep = format!("{}x", "deep-directory/".repeat(250));
            let tar =
                [dir(&deep).to_tar(), symlink("s", &deep).to_tar(), names.flatten().collect(), END.to_vec()]
                    .concat();
            let marker = format!("{deep}/.wh..wh..opq");
            (vec![Blob::gzip(&tar), Blob::plain(tar_of(&[file(marker, "")]))], "tree")
        }
    };
    let layout = scene.path("layout");
    layers::write_layout(&layout, &blobs);
    drop(blobs);
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let start = Instant::now();
    let result = build_into(&oci_dir(&layout), &scene.path("out"));
    let (time, memory) = (start.elapsed(), peak().saturating_sub(before));
    scene.check();
    match result {
        Ok((built, image)) if expected == "tree" => {
            assert!(built.image_size < 64 << 20, "{}", built.image_size);
            drop(image);
        }
        Ok((_, image)) => assert_eq!(describe(&read_image(&image)), expected),
        Err(error) => assert!(expected.starts_with("error") && error.starts_with("layer 1"), "{error}"),
    }
    assert!(time < Duration::from_secs(30), "{time:?}");
    // 64 MiB and 300 bytes an entry, and what is not resident before.
    let limit = if which == "entries" { (64 << 10) + 30_000 * 300 / 1024 } else { 64 << 10 };
    assert!(memory < limit, "{memory} KiB, at most {limit}");
    println!("{which}: {time:?}, {memory} KiB more");
}

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn bombs_need_little_memory_and_time() {
    if !Path::new("/proc/self/status").exists() {
        println!("skipped: no /proc/self/status");
        return;
    }
    for bomb in ["trailing", "deleted", "header", "hole", "entries"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_that_builds_a_bomb", "--nocapture"]).env(BOMB, bomb);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{bomb}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let line = text.lines().find(|line| line.contains("KiB more")).unwrap_or("?");
        println!("{line}");
    }
}
