//! mkimg on stock kernels with device-mapper and fs-verity, in virtual machines.
//!
//! Each test boots one kernel and asks that every step in `vm/guest` passes, or those in `vm/systemd` with a systemd.
//! What a step finds in an image is compared with what `mkimg ls` lists on this machine.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "vm/systemd.rs"]
mod systemd;

use mkimg_tests::command::{mkimg, mkimg_path, tool as run};
use mkimg_tests::need::{Need, skipped, tool};
use mkimg_tests::signer::Signer;
use mkimg_tests::vm::{Machine, Outcome, steps};
use mkimg_tests::{args, images, require, scratch};
use std::fmt::Write as _;
use std::path::Path;

/// A file of `images::one_of_everything` that fills its blocks and shares them with no other.
const VICTIM: &str = "etc/block";

/// Writes the image and what the steps must know of it; `vm/helpers.sh` says how it is used.
fn fill_disk(disk: &Path, scratch: &Path) {
    let (source, image) = (scratch.join("oci"), disk.join("image.mkimg"));
    images::one_of_everything(&source);
    let built = mkimg(args![
        "build",
        "--compress",
        "none",
        "--json",
        format!("oci:{}", source.display()),
        "-o",
        image
    ])
    .ok()
    .json();
    list(disk, &image);
    std::fs::write(disk.join("small"), mkimg(args!["cat", image, "/etc/small"]).ok().stdout).unwrap();

    let content = mkimg(args!["cat", image, format!("/{VICTIM}")]).ok().stdout;
    let bytes = std::fs::read(&image).unwrap();
    let places: Vec<usize> =
        (0..bytes.len()).step_by(512).filter(|&at| bytes[at..].starts_with(&content)).collect();
    let [start] = places[..] else { panic!("{VICTIM} lies at {places:?}") };
    let offset = start + content.len() / 2;
    // The same with parity; file data stands where it stood.
    let with_parity = disk.join("fec.mkimg");
    let source = format!("oci:{}", source.display());
    let parity =
        mkimg(args!["build", "--compress", "none", "--json", source, "--fec", "2", "-o", with_parity])
            .ok()
            .json();
    assert!(std::fs::read(&with_parity).unwrap()[start..].starts_with(&content));
    sign(disk, &image, scratch);
    let facts = [
        format!("DATA_BLOCKS={}", built["data_blocks"]),
        format!("ROOT_HASH={}", built["root_hash"].as_str().unwrap()),
        format!("FEC_ROOT_HASH={}", parity["root_hash"].as_str().unwrap()),
        format!("VICTIM={VICTIM}"),
        format!("DAMAGE_OFFSET={offset}"),
        format!("DAMAGE_BYTE='\\{:03o}'", bytes[offset] ^ 1),
    ];
    std::fs::write(disk.join("facts"), facts.join("\n") + "\n").unwrap();
}

/// Writes what is in the image, for `tree_is_as_listed`.
fn list(disk: &Path, image: &Path) {
    let (mut stats, mut sums) = (Vec::new(), String::new());
    for line in mkimg(args!["ls", "--json", image]).ok().json_lines() {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let number = |key: &str| line[key].as_u64().unwrap();
        let kind = match text("type").as_str() {
            "file" => 0o100_000,
            "dir" => 0o040_000,
            "symlink" => 0o120_000,
            "char" => 0o020_000,
            "block" => 0o060_000,
            "fifo" => 0o010_000,
            other => panic!("the image has a {other}"),
        };
        // As find names it, from the top of the tree.
        let path = format!(".{}", text("path"));
        let path = path.strip_suffix('/').unwrap_or(&path);
        // Whole seconds, rounded down, stand before the point.
        let mtime = text("mtime");
        let seconds = mtime.split('.').next().unwrap();
        let [uid, gid, size, links] = ["uid", "gid", "size", "nlink"].map(number);
        stats.push(format!("{path} {:x} {uid} {gid} {size} {links} {seconds}\n", kind | number("mode")));
        if line["sha256"].is_string() {
            writeln!(sums, "{}  {}", text("sha256"), path.trim_start_matches("./")).unwrap();
        }
    }
    stats.sort();
    std::fs::write(disk.join("stat"), stats.concat()).unwrap();
    std::fs::write(disk.join("sha256"), sums).unwrap();
}

/// Puts signed copies of the image on the disk; `vm/helpers.sh` names them.
fn sign(disk: &Path, image: &Path, scratch: &Path) {
    for name in ["trusted", "stranger"] {
        let signer = Signer::new(scratch, name);
        let signed = disk.join(format!("{name}.mkimg"));
        let _ = std::fs::copy(image, &signed).unwrap();
        let _ =
            mkimg(args!["sign", signed, "--key", signer.key, "--cert", signer.certificate, "--sidecar"]).ok();
        let _ = std::fs::copy(&signer.public, disk.join(format!("{name}.pub"))).unwrap();
        let _ = std::fs::copy(&signer.certificate, disk.join(format!("{name}.pem"))).unwrap();
        let der = args!["-out", disk.join(format!("{name}.der"))];
        let _ = run("openssl", args!["x509", "-outform", "DER", "-in", signer.certificate]).args(der).ok();
    }
    // By the trusted one, over another root hash.
    let other = scratch.join("other");
    std::fs::write(&other, "0".repeat(64)).unwrap();
    let form = ["-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256", "-outform", "DER"];
    let [key, certificate] = ["key", "pem"].map(|extension| scratch.join(format!("trusted.{extension}")));
    let _ = run("openssl", ["smime"])
        .args(form)
        .args(args!["-in", other, "-signer", certificate, "-inkey", key, "-out", disk.join("other.p7s")])
        .ok();
}

fn kernel(name: &str) {
    require!(Need::Tool("busybox"), Need::Tool("mkfs.ext4"), Need::Tool("dmsetup"), Need::Tool("fsverity"));
    require!(Need::Tool("openssl"), Need::Tool("veritysetup"), Need::Tool("keyctl"), Need::Tool("losetup"));
    let machine = match Machine::find(name) {
        Ok(machine) => machine,
        Err(reason) => return skipped(&reason),
    };
    let (dir, disk) = (scratch(), scratch());
    fill_disk(disk.path(), dir.path());
    every_step_passes(
        &machine,
        "guest",
        &["dmsetup", "fsverity", "keyctl", "losetup", "veritysetup"],
        disk.path(),
        dir.path(),
    );
}

/// Those in `folder`, with mkimg and more programs of this machine.
fn every_step_passes(machine: &Machine, folder: &str, programs: &[&str], disk: &Path, scratch: &Path) {
    let programs = programs.iter().map(|name| (*name, tool(name)));
    let programs: Vec<_> = std::iter::once(("mkimg", mkimg_path())).chain(programs).collect();
    let report = machine.run(folder, &programs, disk, scratch);
    println!("{}: {}", report.release, report.times);
    let ran: Vec<&String> = report.steps.iter().map(|(step, _)| step).collect();
    assert_eq!(ran, steps(folder).iter().collect::<Vec<_>>(), "steps that ran\n{}", report.console);
    let mut failed = Vec::new();
    for (step, outcome) in &report.steps {
        match outcome {
            Outcome::Pass => {}
            Outcome::Skip(reason) => skipped(&format!("{step}: {reason}")),
            Outcome::Fail => failed.push(step),
        }
    }
    assert!(failed.is_empty(), "{}: failed: {failed:?}\n{}", report.release, report.console);
}

#[test]
fn linux_6_1() {
    kernel("6.1");
}

#[test]
fn linux_6_12() {
    kernel("6.12");
}

#[test]
fn linux_newest() {
    kernel("newest");
}
