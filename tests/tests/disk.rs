//! `mkimg export --ddi`: systemd and partitioning tools read the disk, and so does every command that reads images.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{Finished, Run, mkimg, tool};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::signer::Signer;
use mkimg_tests::{args, images, require, scratch, sha256_of};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Byte offset of the data partition.
const DATA: u64 = 1 << 20;

/// An image of these files.
fn image_of(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let (source, image) = (dir.join(format!("{name}.source")), dir.join(name));
    for (path, text) in files {
        let path = source.join(path);
        if text.is_empty() {
            std::fs::create_dir_all(path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image]).ok();
    image
}

/// A small image; the source, a directory, says nothing of an architecture.
fn image(dir: &Path, name: &str) -> PathBuf {
    let text = String::from_utf8_lossy(&images::pattern(100_000, 1)).into_owned();
    image_of(dir, name, &[("usr/lib/os-release", "ID=test\nNAME=test\n"), ("usr/big", &text), ("etc/x", "x")])
}

fn export(image: &Path, disk: &Path) -> Run {
    mkimg(args!["export", image, "--ddi", disk, "--architecture", "amd64"])
}

fn write_at(file: &Path, offset: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Regions and problems of the findings, and the exit status.
fn verify(disk: &Path, options: &[std::ffi::OsString]) -> (i32, Vec<(String, String)>) {
    let done = mkimg(args!["verify", "--json", disk]).args(options).output();
    let lines = done.json_lines();
    let text = |line: &Value, key: &str| line[key].as_str().map(str::to_owned);
    let findings = lines.iter().filter_map(|line| Some((text(line, "region")?, text(line, "problem")?)));
    (done.status.code().unwrap(), findings.collect())
}

fn signed(dir: &Path, name: &str, signer: &Signer) -> PathBuf {
    let image = image(dir, name);
    let _ = mkimg(args!["sign", image, "--key", signer.key, "--cert", signer.certificate]).ok();
    image
}

/// Where the signature partition begins.
fn signature_of(disk: &Value) -> u64 {
    disk["ddi"]["partitions"][2]["offset"].as_u64().unwrap()
}

#[test]
fn the_partition_table_is_one_for_others_and_always_the_same() {
    require!(Need::Tool("sfdisk"), Need::Tool("sgdisk"), Need::Tool("openssl"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let image = signed(dir.path(), "web.img", &signer);
    let [disk, again, unsigned] = ["web.raw", "again.raw", "unsigned.raw"].map(|name| dir.path().join(name));
    let told = export(&image, &disk).args(args!["--cert", signer.certificate, "--json"]).ok().json();
    let _ = export(&image, &again).args(args!["--cert", signer.certificate]).ok();
    assert!(std::fs::read(&disk).unwrap() == std::fs::read(&again).unwrap());

    assert!(tool("sfdisk", args!["--verify", disk]).ok().out().contains("No errors detected."));
    assert!(tool("sgdisk", args!["--verify", disk]).ok().out().contains("No problems found."));
    let found = tool("sfdisk", args!["--json", disk]).ok().json();
    let table = &found["partitiontable"];
    let root = told["root_hash"].as_str().unwrap();
    let halves = [&root[..32], &root[32..]];
    for (number, partition) in table["partitions"].as_array().unwrap().iter().enumerate() {
        let ours = &told["ddi"]["partitions"][number];
        for (key, other) in [("uuid", "uuid"), ("type", "type"), ("name", "name")] {
            let theirs = partition[other].as_str().unwrap();
            assert_eq!(ours[key].as_str().unwrap(), theirs.to_lowercase(), "partition {number}");
        }
        let bytes = |key: &str| partition[key].as_u64().unwrap() * 512;
        assert_eq!((&ours["offset"], &ours["length"]), (&json!(bytes("start")), &json!(bytes("size"))));
        assert_eq!(partition["attrs"], "GUID:60");
        if let Some(half) = halves.get(number) {
            assert_eq!(ours["uuid"].as_str().unwrap().replace('-', ""), **half);
        }
    }
    assert_eq!(told["ddi"]["signed"], true);
    // Data and verity partition are the image.
    let (disk, image) = (std::fs::read(&disk).unwrap(), std::fs::read(&image).unwrap());
    assert!(disk[usize::try_from(DATA).unwrap()..][..image.len()] == image);
    // Without a signature there is no partition for one, and it is said.
    let plain = self::image(dir.path(), "plain.img");
    let done = export(&plain, &unsigned).ok().out();
    assert!(done.contains("2 partitions") && done.contains("no signature partition, for"), "{done}");
    assert_eq!(verify(&unsigned, &[]), (0, vec![]));
}

#[test]
fn root_systemd_dissect_lists_a_signed_root() {
    require!(Need::Root, Need::Loop, Need::FileSystem("erofs"), Need::Tool("systemd-dissect"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let image = signed(dir.path(), "web.img", &signer);
    let disk = dir.path().join("web.raw");
    let _ = export(&image, &disk).ok();
    let found = tool("systemd-dissect", args!["--json=short", disk]).ok().json();
    let listed: Vec<_> = found["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| {
            json!([mount["rw"], mount["designator"], mount["fstype"], mount["architecture"], mount["verity"]])
        })
        .collect();
    let row = |designator: &str, fstype: &str, verity| json!(["ro", designator, fstype, "x86-64", verity]);
    assert_eq!(
        listed,
        [
            row("root", "erofs", json!("signed")),
            row("root-verity", "DM_verity_hash", Value::Null),
            row("root-verity-sig", "verity_hash_signature", Value::Null),
        ]
    );
    assert_eq!(found["osRelease"], json!(["ID=test", "NAME=test"]));
    // The table of contents says it to people as well.
    assert!(tool("systemd-dissect", args!["--no-pager", disk]).ok().out().contains("signed"));
}

#[test]
fn types_of_partitions_are_those_of_systemd() {
    require!(Need::Tool("systemd-id128"), Need::Tool("openssl"));
    let known = tool("systemd-id128", ["show"]).ok().out();
    let known: std::collections::HashMap<&str, &str> =
        known.lines().filter_map(|line| line.split_once(' ')).map(|(name, id)| (name, id.trim())).collect();
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let (image, disk) = (signed(dir.path(), "web.img", &signer), dir.path().join("web.raw"));
    let mut checked = 0;
    for oci in [
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc", "ppc64",
        "ppc64le", "riscv", "riscv64", "s390", "s390x",
    ] {
        let export = mkimg(args!["export", image, "--ddi", disk, "--json", "--architecture", oci]);
        let told = export.ok().json();
        for partition in told["ddi"]["partitions"].as_array().unwrap() {
            let [name, kind] = ["name", "type"].map(|key| partition[key].as_str().unwrap());
            assert_eq!(known.get(name).copied(), Some(kind.replace('-', "").as_str()), "{oci}: {name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 48);
}

#[test]
fn root_a_disk_mounts_by_its_offset() {
    require!(Need::Root, Need::Loop, Need::FileSystem("erofs"));
    let dir = scratch();
    let (image, disk) = (image(dir.path(), "web.img"), dir.path().join("web.raw"));
    let _ = export(&image, &disk).ok();
    let options = format!("ro,loop,offset={DATA}");
    let mounted = Mounted::new(&["-t", "erofs", "-o", &options], &disk, &dir.path().join("mnt"));
    assert_eq!(std::fs::read(mounted.path().join("etc/x")).unwrap(), b"x");
}

#[test]
fn root_a_disk_of_systemd_repart_is_read() {
    require!(Need::Root, Need::Tool("systemd-repart"));
    let dir = scratch();
    let image = image(dir.path(), "web.img");
    let bytes = std::fs::read(&image).unwrap();
    let verity = &mkimg(args!["inspect", "--json", image]).ok().json()["verity"];
    let border = usize::try_from(verity["hash_offset"].as_u64().unwrap()).unwrap();
    let root = verity["root_hash"].as_str().unwrap();
    let definitions = dir.path().join("repart.d");
    std::fs::create_dir(&definitions).unwrap();
    // Another order, both partitions longer than what is in them, and a gap.
    for (name, kind, content, half) in [
        ("10", "root-x86-64-verity", &bytes[border..], &root[32..]),
        ("20", "root-x86-64", &bytes[..border], &root[..32]),
    ] {
        let blocks = dir.path().join(kind);
        std::fs::write(&blocks, content).unwrap();
        let text = format!(
            "[Partition]\nType={kind}\nUUID={half}\nCopyBlocks={}\nSizeMinBytes=2M\nPaddingMinBytes=1M\n",
            blocks.display()
        );
        std::fs::write(definitions.join(format!("{name}.conf")), text).unwrap();
    }
    let disk = dir.path().join("web.raw");
    let definitions = format!("--definitions={}", definitions.display());
    let seed = "--seed=01234567-89ab-4def-8123-456789abcdef";
    let options = ["--empty=create", "--size=auto", "--dry-run=no", "--no-pager", seed];
    let _ = tool("systemd-repart", options).args(args![definitions, disk]).ok();
    assert_eq!(verify(&disk, &args!["--root-hash", root]), (0, vec![]));
    let ls = |path: &Path| mkimg(args!["ls", "--json", path]).ok().stdout;
    assert_eq!(ls(&disk), ls(&image));
    let sealed = |path: &Path| {
        let seal = dir.path().join("seal");
        let _ = mkimg(args!["seal", path, "-o", seal]).ok();
        std::fs::read(seal).unwrap()
    };
    assert!(sealed(&disk) == sealed(&image));
}

#[test]
fn every_command_reads_a_disk_as_its_image() {
    let dir = scratch();
    let (image, disk) = (dir.path().join("everything.img"), dir.path().join("everything.raw"));
    images::one_of_everything(&dir.path().join("oci"));
    let source = format!("oci:{}", dir.path().join("oci").display());
    let _ = mkimg(args!["build", source, "-o", image, "--fec", "2"]).ok();
    // The source says which architecture.
    let _ = mkimg(args!["export", image, "--ddi", disk]).ok();
    let root = mkimg(args!["inspect", "--json", image]).ok().json()["verity"]["root_hash"].clone();
    let root = root.as_str().unwrap();
    for command in [
        &args!["ls", "--json"][..],
        &args!["inspect", "--json"],
        &args!["inspect", "--deleted"],
        &args!["report", "--json"],
    ] {
        let of = |path: &Path| mkimg(command).args([path]).ok().stdout;
        assert!(of(&disk) == of(&image), "{command:?}");
    }
    let [seal, tree, mended] = ["seal", "tree", "mended"].map(|name| dir.path().join(name));
    for format in ["detached", "json", "mtree"] {
        let of = |path: &Path| {
            let _ = mkimg(args!["seal", path, "-o", seal, "--format", format]).ok();
            std::fs::read(&seal).unwrap()
        };
        assert!(of(&disk) == of(&image), "{format}");
    }
    let _ = mkimg(args!["extract", disk, tree, "--no-owner", "--root-hash", root]).ok();
    let _ = mkimg(args!["diff", disk, image]).ok();
    assert_eq!(verify(&disk, &args!["--root-hash", root]), (0, vec![]));
    // Parity mends what is in a disk; what comes of it is the image.
    write_at(&disk, DATA + 5000, b"damage");
    let (code, found) = verify(&disk, &[]);
    assert_eq!((code, found[0].0.as_str()), (1, "data"));
    let _ = mkimg(args!["repair", disk, "-o", mended, "--root-hash", root]).ok();
    assert!(std::fs::read(&mended).unwrap() == std::fs::read(&image).unwrap());
    // And a disk mends an image.
    let _ = mkimg(args!["export", image, "--ddi", disk]).ok();
    let broken = dir.path().join("broken.img");
    let _ = std::fs::copy(&image, &broken).unwrap();
    write_at(&broken, 0, &[0; 9000]);
    let _ = mkimg(args!["repair", broken, "-o", mended, "--root-hash", root, "--from", disk]).ok();
    assert!(std::fs::read(&mended).unwrap() == std::fs::read(&image).unwrap());

    let refused = |done: Finished, why: &str| {
        let line = done.code(1).error_line();
        assert!(line.contains("is a disk with an image in it") && line.contains(why), "{line}");
    };
    refused(mkimg(args!["sign", disk, "--detached-digest", mended]).output(), "sign the image");
    refused(mkimg(args!["export", disk, "--ddi", mended]).output(), "give the image itself");
    std::fs::create_dir(dir.path().join("mnt")).unwrap();
    refused(mkimg(args!["mount", disk, dir.path().join("mnt")]).output(), "systemd-dissect --mount");
}

#[test]
fn the_signature_partition_vouches_for_the_image() {
    require!(Need::Tool("openssl"), Need::Tool("sgdisk"));
    let dir = scratch();
    let [signer, stranger] = ["signer", "stranger"].map(|name| Signer::new(dir.path(), name));
    let (image, disk) = (image(dir.path(), "web.img"), dir.path().join("web.raw"));
    let copy = dir.path().join("copy.img");
    let _ = std::fs::copy(&image, &copy).unwrap();
    let _ = mkimg(args!["sign", copy, "--key", signer.key, "--cert", signer.certificate, "--sidecar"]).ok();
    // The image itself has no signature: all there is of one is in the partition.
    let cert = args!["--cert", signer.certificate];
    let told = export(&image, &disk)
        .args(&cert)
        .args(args!["--signature", dir.path().join("copy.img.p7s"), "--json"])
        .ok()
        .json();
    assert_eq!(verify(&image, &cert).0, 1);
    let done = mkimg(args!["verify", "--json", disk]).args(&cert).ok().json_lines().pop().unwrap();
    assert_eq!((&done["anchored_by"], &done["clean"]), (&json!("pkcs7"), &json!(true)));
    let _ = mkimg(args!["extract", disk, dir.path().join("tree"), "--no-owner"]).args(&cert).ok();
    let (code, found) = verify(&disk, &args!["--cert", stranger.certificate]);
    assert_eq!((code, found.len(), found[0].0.as_str()), (1, 1, "trust"), "{found:?}");

    let at = signature_of(&told);
    let good = std::fs::read(&disk).unwrap();
    let document: Value = serde_json::from_slice(&partition_text(&disk, at)).unwrap();
    let der = dir.path().join("der");
    let _ = tool("openssl", args!["x509", "-outform", "DER", "-in", signer.certificate, "-out", der]).ok();
    assert_eq!(document["rootHash"], told["root_hash"]);
    assert_eq!(document["certificateFingerprint"], json!(sha256_of(&der)));

    // Signatures of something else. The UUID of the partition fits none of them; that of others may be any.
    let other_disk = dir.path().join("other.raw");
    let second = image_of(dir.path(), "second.img", &[("a", "b")]);
    let _ = mkimg(args!["sign", second, "--key", signer.key, "--cert", signer.certificate]).ok();
    let told_of_second = export(&second, &other_disk).args(["--json"]).ok().json();
    let second_text = partition_text(&other_disk, signature_of(&told_of_second));
    let of_second: Value = serde_json::from_slice(&second_text).unwrap();
    let mut forged = document.clone();
    forged["signature"] = of_second["signature"].clone();
    let uuid = "2d1e0b54-5b1c-4f60-8e8a-0123456789ab";
    for (document, why) in [
        (of_second.clone(), "is of root hash "),
        (forged, "the PKCS#7 signature of CN=signer,O=mkimg is not over this root hash"),
    ] {
        let mut bytes = document.to_string().into_bytes();
        bytes.resize(4096, 0);
        std::fs::write(&disk, &good).unwrap();
        write_at(&disk, at, &bytes);
        let (code, found) = verify(&disk, &cert);
        assert_eq!(code, 1, "{found:?}");
        let of_partition = |(region, problem): &&(String, String)| {
            region == "signature-partition" && problem.contains("what is in it makes it")
        };
        assert_eq!(found.iter().filter(of_partition).count(), 1, "{found:?}");
        // With a UUID that says nothing.
        let _ = tool("sgdisk", args![format!("--partition-guid=3:{uuid}"), disk]).ok();
        let (code, found) = verify(&disk, &cert);
        let told =
            found.iter().any(|(region, problem)| region == "signature-partition" && problem.contains(why));
        assert!(code == 1 && told, "{found:?}: {why}");
    }
}

fn partition_text(disk: &Path, at: u64) -> Vec<u8> {
    let bytes = std::fs::read(disk).unwrap();
    bytes[usize::try_from(at).unwrap()..].iter().copied().take_while(|byte| *byte != 0).collect()
}

#[test]
fn a_disk_that_was_changed_is_not_clean() {
    require!(Need::Tool("sgdisk"));
    let dir = scratch();
    let (image, good, disk) =
        (image(dir.path(), "web.img"), dir.path().join("good.raw"), dir.path().join("web.raw"));
    let _ = export(&image, &good).ok();
    let end = std::fs::metadata(&good).unwrap().len();
    // By hand.
    for (offset, bytes, region) in [
        (0, &b"boot"[..], "protective-mbr"),
        (512, b"x", "partition-table"),
        (1030, b"x", "partition-table"),
        (end - 500, b"x", "partition-table"),
        (DATA - 100, b"x", "disk-slack"),
        (end, b"x", "trailing"),
        (DATA, b"x", "header"),
    ] {
        let _ = std::fs::copy(&good, &disk).unwrap();
        write_at(&disk, offset, bytes);
        let (code, found) = verify(&disk, &[]);
        assert_eq!((code, found.len(), found[0].0.as_str()), (1, 1, region), "{offset}: {found:?}");
        let _ = mkimg(args!["ls", disk]).output().code(i32::from(offset == DATA));
    }
    // By a tool that makes all checksums right.
    let uuid = "2d1e0b54-5b1c-4f60-8e8a-0123456789ab";
    for (change, code, expected) in [
        (format!("--partition-guid=1:{uuid}"), 1, "UUID of partition 1 is 2d1e0b54"),
        (format!("--partition-guid=2:{uuid}"), 1, "UUID of partition 2 is 2d1e0b54"),
        ("--attributes=1:set:63".to_owned(), 1, "systemd does not look at partition 1"),
        ("--new=3:34:100".to_owned(), 1, "partition 3 of type 0fc63daf-8483-4772-8e79-3d69d8477de4 is none"),
        ("--typecode=1:b921b045-1df0-41c3-af44-4c6f280d3fae".to_owned(), 2, "partition 2 is for x86-64"),
        ("--typecode=2:0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(), 2, "and no verity partition"),
        ("--typecode=1:0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(), 2, "has no root partition"),
        ("--delete=1".to_owned(), 2, "has no root partition"),
        ("--zap".to_owned(), 2, "not a mkimg image"),
    ] {
        let _ = std::fs::copy(&good, &disk).unwrap();
        let _ = tool("sgdisk", args![change, disk]).ok();
        let done = mkimg(args!["verify", disk]).output().code(code);
        assert!(done.everything().contains(expected), "{change}: {}", done.everything());
    }
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(&disk, &bytes[..bytes.len() - 4096]).unwrap();
    let line = mkimg(args!["verify", disk]).output().code(2).error_line();
    assert!(line.contains("the disk is truncated: it has "), "{line}");
}

#[test]
fn extensions_are_checked_before_they_are_written() {
    let dir = scratch();
    let release = "usr/lib/extension-release.d/extension-release.tools";
    let disk = dir.path().join("tools.raw");
    let refused = |name: &str, files: &[(&str, &str)], reasons: &[&str]| {
        let image = image_of(dir.path(), name, files);
        let line = export(&image, &disk).args(["--sysext"]).output().code(1).error_line();
        for reason in reasons {
            assert!(line.contains(reason), "{line}: {reason}");
        }
        assert_eq!(line.matches(';').count() + 1, reasons.len(), "{line}");
        assert!(!disk.exists());
    };
    refused("a", &[("usr/bin/x", "x")], &["needs /usr/lib/extension-release.d/extension-release.tools with"]);
    refused("b", &[(release, "VERSION_ID=1\n")], &["needs ID= in /usr/lib/extension-release.d/"]);
    refused(
        "c",
        &[("usr/lib/os-release", "ID=x\n"), ("etc/extension-release.d/extension-release.tools", "ID=_any\n")],
        &["and there is /etc", "no /usr/lib/os-release", "extension-release.tools with the ID"],
    );
    let image = image_of(dir.path(), "d", &[(release, "ID=_any\n"), ("opt/tool", "x")]);
    let done = export(&image, &dir.path().join("tools.img")).args(["--sysext"]).output().code(1);
    assert!(done.error_line().contains("a name of the file that ends in .raw"));
    let done = export(&image, &disk).args(["--sysext"]).ok().out();
    assert!(!done.contains("lacks"), "{done}");
    let needs = [Need::Root, Need::Loop, Need::FileSystem("erofs"), Need::Tool("systemd-dissect")];
    match needs.iter().find_map(|need| need.check().err()) {
        None => {
            let found = tool("systemd-dissect", args!["--json=short", disk]).ok().json();
            assert_eq!(found["useSystemExtension"], true);
        }
        Some(reason) => skipped(&reason),
    }
    let bound = image_of(dir.path(), "e", &[(release, "ID=debian\n")]);
    let done = export(&bound, &disk).args(["--sysext"]).ok().out();
    assert!(done.contains("lacks VERSION_ID= or SYSEXT_LEVEL= in"), "{done}");
}

#[test]
fn portable_services_are_checked_before_they_are_written() {
    let dir = scratch();
    let disk = dir.path().join("web_1.2.raw");
    let unit = "[Service]\nExecStart=/bin/true\n";
    let refused = |name: &str, files: &[(&str, &str)], reasons: &[&str]| {
        let image = image_of(dir.path(), name, files);
        let line = export(&image, &disk).args(["--portable"]).output().code(1).error_line();
        for reason in reasons {
            assert!(line.contains(reason), "{line}: {reason}");
        }
        assert_eq!(line.matches(';').count() + 1, reasons.len(), "{line}");
        assert!(!disk.exists());
    };
    refused(
        "a",
        &[("usr/x", "x")],
        &["needs /usr/lib/os-release or /etc/os-release", "a unit named web, or"],
    );
    refused(
        "b",
        &[("etc/os-release", "ID=x\n"), ("usr/lib/systemd/system/website.service", unit)],
        &["portablectl needs a unit named web, or web with - or @ behind it"],
    );
    refused(
        "prefix",
        &[("etc/os-release", "PORTABLE_PREFIXES=\"db cache\"\n"), ("etc/systemd/system/web.timer", unit)],
        &["portablectl needs PORTABLE_PREFIXES= with web, and it is db cache"],
    );
    let mut files = vec![("usr/lib/os-release", "ID=x\n"), ("etc/systemd/system/web-1.service", unit)];
    let image = image_of(dir.path(), "c", &files);
    let told = export(&image, &disk).args(["--portable", "--json"]).ok().json();
    let lacks = told["ddi"]["lacks"].as_array().unwrap();
    assert_eq!((lacks.len(), &lacks[1]), (9, &json!("dir /proc to mount over")), "{lacks:?}");
    assert!(lacks[0].as_str().unwrap().starts_with("PORTABLE_PREFIXES=web in os-release"), "{lacks:?}");
    assert!(lacks.contains(&json!("file /etc/machine-id to mount over")));
    for dir in ["proc", "sys", "dev", "run", "tmp", "var/tmp"] {
        files.push((dir, ""));
    }
    files[0].1 = "ID=x\nPORTABLE_PREFIXES=we\n";
    files.extend([("etc/resolv.conf", "\n"), ("etc/machine-id", "\n")]);
    let image = image_of(dir.path(), "d", &files);
    let told = export(&image, &disk).args(["--portable", "--json"]).ok().json();
    assert_eq!(told["ddi"]["lacks"], json!([]));
}

#[test]
fn what_cannot_be_a_disk_is_refused() {
    let dir = scratch();
    let (image, disk) = (image(dir.path(), "web.img"), dir.path().join("web.raw"));
    let refused = |options: &[std::ffi::OsString], why: &str| {
        let line = mkimg(args!["export", image, "--ddi", disk]).args(options).output().code(1).error_line();
        assert!(line.contains(why), "{line}: {why}");
        assert!(!disk.exists());
    };
    refused(&[], "its source names no architecture; say which with --architecture");
    refused(&args!["--architecture", "wasm"], "systemd has no type of partition for architecture wasm");
    let line = export(&image, &image).output().code(1).error_line();
    assert!(line.contains("is the input itself"), "{line}");
    let seal = dir.path().join("web.seal");
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let line = export(&seal, &disk).output().code(1).error_line();
    assert!(line.contains("is a detached seal"), "{line}");
}
