//! A full disk is an ordinary error: exit status 1, one line, nothing left behind.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::images;
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::mount::{Exclusive, Mounted};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, names_in, require, scratch, sha256_of};
use std::path::Path;

#[test]
fn root_no_room_from_the_start() {
    require!(Need::Root, Need::FileSystem("tmpfs"));
    let _one_at_a_time = Exclusive::take();
    let source = match images::real_one("python") {
        Ok(image) => image.source,
        Err(reason) => return skipped(&reason),
    };
    let dir = scratch();
    let small = Mounted::tmpfs("1m", &dir.path().join("small"));
    let done = mkimg(args!["build", "--compress", "none", source, "-o", small.path().join("image.mkimg")])
        .output()
        .code(1);
    let line = done.error_line().to_lowercase();
    assert!(line.contains("no space"), "{line}");
    assert_eq!(names_in(small.path()), Vec::<String>::new());
}

/// The disk fills up in each of the last parts: trailer, tree, seal, metadata, data.
#[test]
fn root_no_room_for_the_last_blocks() {
    require!(Need::Root, Need::FileSystem("tmpfs"));
    let _one_at_a_time = Exclusive::take();
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let source = format!("oci:{}", dir.path().join("oci").display());
    let whole = dir.path().join("whole.mkimg");
    let _ = mkimg(args!["build", "--compress", "none", source, "-o", whole]).ok();
    let size = std::fs::metadata(&whole).unwrap().len();
    assert_eq!(size % 4096, 0, "an image is a whole number of blocks");

    for missing in (1..=size / 4096).step_by(1 + usize::try_from(size / 4096 / 24).unwrap()) {
        let room = size - missing * 4096;
        let disk = Mounted::tmpfs(&room.max(4096).to_string(), &dir.path().join("disk"));
        let done = mkimg(args!["build", "--compress", "none", source, "-o", disk.path().join("image.mkimg")])
            .output()
            .code(1);
        let line = done.error_line().to_lowercase();
        assert!(line.contains("no space"), "{missing} blocks short: {line}");
        assert_eq!(names_in(disk.path()), Vec::<String>::new(), "{missing} blocks short");
    }
    let disk = Mounted::tmpfs(&(size + (1 << 20)).to_string(), &dir.path().join("disk"));
    let _ = mkimg(args!["build", "--compress", "none", source, "-o", disk.path().join("image.mkimg")]).ok();
    assert_eq!(sha256_of(&disk.path().join("image.mkimg")), sha256_of(&whole), "a build on tmpfs");
}

/// The previous image survives a build that does not fit.
#[test]
fn root_no_room_keeps_the_previous_image() {
    require!(Need::Root, Need::FileSystem("tmpfs"));
    let _one_at_a_time = Exclusive::take();
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let source = format!("oci:{}", dir.path().join("oci").display());
    let disk = Mounted::tmpfs("16k", &dir.path().join("disk"));
    let image = disk.path().join("image.mkimg");
    std::fs::write(&image, b"the previous release").unwrap();
    let _ = mkimg(args!["build", "--compress", "none", source, "-o", image]).output().code(1).error_line();
    assert_eq!(names_in(disk.path()), ["image.mkimg"]);
    assert_eq!(std::fs::read(&image).unwrap(), b"the previous release");
}

/// Layers that wait beside the image never take its room: where it fits alone, it fits.
#[test]
fn root_no_room_for_scratch_files() {
    require!(Need::Root, Need::Loop, Need::FileSystem("ext4"), Need::Tool("mkfs.ext4"));
    const MIB: u64 = 1 << 20;
    let _one_at_a_time = Exclusive::take();
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    for (number, level) in [Some(1), Some(1), None].into_iter().enumerate() {
        let mut layer = layout.layer(level);
        let noise = images::pattern(1 << 20, number as u64);
        let mut seed = 0u64;
        // No two blocks are equal.
        let piece = || {
            let mut bytes = noise.clone();
            for block in bytes.chunks_mut(4096) {
                seed += 1;
                block[..8].copy_from_slice(&seed.to_le_bytes());
            }
            bytes
        };
        layer.big_file(&format!("part-{number}"), &Attr::default(), 12 * MIB, piece);
        layer.finish();
    }
    layout.finish();
    let source = format!("oci:{}", dir.path().join("oci").display());

    let disk = dir.path().join("disk.ext4");
    let _ = command::tool("mkfs.ext4", args!["-q", "-m", "0", "-O", "^has_journal", disk, "128M"]).ok();
    let disk = Mounted::new(&["-o", "loop"], &disk, &dir.path().join("disk"));
    let (image, filler) = (disk.path().join("image.mkimg"), disk.path().join("filler"));
    let free = || {
        let disk = rustix::fs::statvfs(disk.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    for compression in ["none", "lz4"] {
        let whole = dir.path().join("whole.mkimg");
        let build = |image: &Path| mkimg(args!["build", source, "-o", image, "--compress", compression]);
        let _ = build(&whole).args(args!["--no-scratch"]).ok();
        let size = std::fs::metadata(&whole).unwrap().len();
        let wanted = sha256_of(&whole);
        for room in (size - 4 * MIB..size + 60 * MIB).step_by(2 << 20) {
            for threads in ["1", "2", "8"] {
                let file = std::fs::File::create(&filler).unwrap();
                let taken = free().saturating_sub(room);
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).unwrap();
                let what = format!("{compression} on {threads} threads, {room} of {size} bytes free");
                let done = build(&image).args(args!["--memory", "8M", "--threads", threads]);
                if room > size + MIB {
                    let _ = done.ok();
                    assert_eq!(sha256_of(&image), wanted, "{what}");
                    std::fs::remove_file(&image).unwrap();
                } else if room < size {
                    let line = done.output().code(1).error_line().to_lowercase();
                    assert!(line.contains("no space"), "{what}: {line}");
                }
                std::fs::remove_file(&filler).unwrap();
                assert_eq!(names_in(disk.path()), ["lost+found"], "{what}");
            }
        }
    }
}
