//! What `mkimg export` writes for systemd, used by a real one.
//!
//! The guest is a Debian that itself runs out of an image. The steps in `vm/systemd/steps` hand two more images to all
//! the tools of systemd that take one, whole and damaged.

use crate::all_passed;
use mkimg_tests::command::{mkimg, mkimg_path, tool as run};
use mkimg_tests::layout::{Attr, Layer, Layout};
use mkimg_tests::need::{Need, skipped, tool, tools_dir};
use mkimg_tests::signer::Signer;
use mkimg_tests::vm::{Machine, Tree, steps};
use mkimg_tests::{args, images, require, scratch, sha256_of};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// A file that the program in the image reads.
const VICTIM: &str = "usr/share/app/data";

/// Says what its root directory lies on, and reads a file.
const PROGRAM: &str = "#!/bin/sh
while read -r _ _ device _ point _; do
    [ \"$point\" != / ] || name=$(cat \"/sys/dev/block/$device/dm/name\")
done </proc/self/mountinfo
echo \"root on ${name-nothing}\"
cd / && sha256sum -c /usr/share/app/sum
";

const UNIT: &str = "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/app
";

/// The root directory of a service.
fn app(layer: &mut Layer<'_>, scratch: &Path) {
    for dir in ["dev", "etc", "proc", "run", "sys", "tmp", "usr", "usr/bin", "usr/lib", "var", "var/tmp"] {
        layer.dir(dir, &Attr::mode(0o755));
    }
    let busybox = std::fs::read(tool("busybox")).unwrap();
    layer.file("usr/bin/busybox", &Attr::mode(0o755), &busybox);
    for applet in ["cat", "sh", "sha256sum"] {
        layer.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    layer.symlink("bin", "usr/bin");
    let data = images::pattern(300_000, 1);
    std::fs::write(scratch.join("data"), &data).unwrap();
    let sum = format!("{}  {VICTIM}\n", sha256_of(&scratch.join("data")));
    layer.file(VICTIM, &Attr::default(), &data);
    layer.file("usr/share/app/sum", &Attr::default(), sum.as_bytes());
    layer.file("usr/bin/app", &Attr::mode(0o755), PROGRAM.as_bytes());
    layer.file("usr/lib/systemd/system/app.service", &Attr::default(), UNIT.as_bytes());
    layer.file("usr/lib/os-release", &Attr::default(), b"ID=mkimg-test\nPORTABLE_PREFIXES=app\n");
    layer.symlink("etc/os-release", "../usr/lib/os-release");
    layer.file("etc/machine-id", &Attr::default(), b"");
    layer.file("etc/resolv.conf", &Attr::default(), b"");
}

/// A system extension for any system.
fn extension(layer: &mut Layer<'_>, _: &Path) {
    layer.file("usr/lib/extension-release.d/extension-release.ext", &Attr::default(), b"ID=_any\n");
    layer.file("usr/share/ext/hello", &Attr::default(), b"hello\n");
}

/// Builds `NAME.mkimg` in `scratch` and signs it; puts `NAME.raw`, `NAME.stranger.raw` and `NAME.unsigned.raw` on the disk.
/// Returns the root hash.
fn export(
    name: &str,
    fill: fn(&mut Layer<'_>, &Path),
    option: &str,
    signers: &[(&str, Signer)],
    disk: &Path,
    scratch: &Path,
) -> String {
    let (source, image) = (scratch.join(name), scratch.join(format!("{name}.mkimg")));
    let mut layout = Layout::create(&source);
    let mut layer = layout.layer(None);
    fill(&mut layer, scratch);
    layer.finish();
    layout.finish();
    let source = format!("oci:{}", source.display());
    // Parity is what no other tool expects behind the tree.
    let built = mkimg(args!["build", "--compress", "none", "--fec", "2", "--json", source, "-o", image]).ok();
    let _ = mkimg(args!["export", image, "--ddi", disk.join(format!("{name}.unsigned.raw"))]).ok();
    for (who, signer) in signers {
        let signed = scratch.join(format!("{who}/{name}.raw"));
        std::fs::create_dir_all(signed.parent().unwrap()).unwrap();
        let copy = scratch.join(format!("{name}.{who}"));
        let _ = std::fs::copy(&image, &copy).unwrap();
        let _ = mkimg(args!["sign", copy, "--key", signer.key, "--cert", signer.certificate]).ok();
        let _ = mkimg(args!["export", copy, "--ddi", signed, option, "--cert", signer.certificate]).ok();
        let to = if *who == "trusted" { format!("{name}.raw") } else { format!("{name}.{who}.raw") };
        let _ = std::fs::copy(signed, disk.join(to)).unwrap();
    }
    built.json()["root_hash"].as_str().unwrap().to_owned()
}

/// The partitions of a disk: where each begins and ends, in bytes.
fn partitions(disk: &Path) -> Vec<std::ops::Range<usize>> {
    let table = run("sfdisk", args!["--json", disk]).ok().json();
    let number =
        |partition: &Value, key: &str| usize::try_from(partition[key].as_u64().unwrap()).unwrap() * 512;
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    partitions
        .iter()
        .map(|partition| (number(partition, "start"), number(partition, "size")))
        .map(|(start, size)| start..start + size)
        .collect()
}

/// What is in a signature partition.
fn signature(disk: &[u8], place: std::ops::Range<usize>) -> Value {
    let text = disk[place].split(|byte| *byte == 0).next().unwrap();
    serde_json::from_slice(text).unwrap()
}

/// The place of the only occurrence of `part`.
fn only(bytes: &[u8], part: &[u8]) -> usize {
    let places: Vec<usize> =
        (0..bytes.len() - part.len()).filter(|at| bytes[*at..].starts_with(part)).collect();
    let [place] = places[..] else { panic!("found at {places:?}") };
    place
}

fn fill_disk(root: &Path, disk: &Path, scratch: &Path) {
    let mut facts = String::new();
    let mut fact = |name: &str, value: &str| writeln!(facts, "{name}={value}").unwrap();
    let system =
        mkimg(args!["build", "--json", format!("tar:{}", root.display()), "-o", disk.join("root.mkimg")])
            .ok();
    fact("SYSTEM_ROOT_HASH", system.json()["root_hash"].as_str().unwrap());

    let signers = ["trusted", "stranger"].map(|who| (who, Signer::new(scratch, who)));
    for (who, signer) in &signers {
        let _ = std::fs::copy(&signer.certificate, disk.join(format!("{who}.pem"))).unwrap();
    }
    fact("ROOT_HASH", &export("app", app, "--portable", &signers, disk, scratch));
    fact("EXT_ROOT_HASH", &export("ext", extension, "--sysext", &signers, disk, scratch));
    Tree::of(&scratch.join("app.mkimg")).write(disk);
    let plain = disk.join("plain.raw");
    let _ = std::fs::copy(scratch.join("app.trusted"), &plain).unwrap();
    let _ = mkimg(args!["export", plain, "--sidecar", "roothash", "--sidecar", "verity", "--sidecar", "p7s"])
        .ok();

    let [bytes, other] = ["app.raw", "ext.raw"].map(|name| std::fs::read(disk.join(name)).unwrap());
    let [places, other_places] = ["app.raw", "ext.raw"].map(|name| partitions(&disk.join(name)));
    let mut swapped = signature(&bytes, places[2].clone());
    let own = std::mem::replace(
        &mut swapped["signature"],
        signature(&other, other_places[2].clone())["signature"].take(),
    );
    std::fs::write(disk.join("other.json"), swapped.to_string()).unwrap();

    let victim = only(&bytes, &std::fs::read(scratch.join("data")).unwrap()[..4096]);
    let signed = only(&bytes, own.as_str().unwrap().as_bytes());
    fact("VICTIM", VICTIM);
    for (name, place) in [
        ("DAMAGE_OFFSET", victim + 100_000),
        ("TREE_OFFSET", places[1].start + 4096),
        ("SIGNATURE_OFFSET", signed + own.as_str().unwrap().len() / 2),
        ("SIGNATURE_START", places[2].start),
    ] {
        fact(name, &place.to_string());
    }
    std::fs::write(disk.join("facts"), facts).unwrap();
}

/// With the systemd of this version, as `vm/setup.sh` has them.
fn systemd(version: &str) {
    require!(Need::Tool("busybox"), Need::Tool("mkfs.ext4"), Need::Tool("dmsetup"));
    require!(Need::Tool("openssl"), Need::Tool("sfdisk"));
    let root = tools_dir().join(format!("systemd/{version}.tar"));
    let machine = match Machine::find("6.12") {
        Ok(_) if !root.is_file() => {
            return skipped(&format!("no systemd {version} (tests/vm/setup.sh gets it)"));
        }
        Ok(machine) => machine,
        Err(reason) => return skipped(&reason),
    };
    let (dir, disk) = (scratch(), scratch());
    fill_disk(&root, disk.path(), dir.path());
    let programs = [("mkimg", mkimg_path()), ("dmsetup", tool("dmsetup"))];
    let steps = steps("systemd/steps");
    all_passed(&machine.run("systemd/steps", &steps, &programs, disk.path(), dir.path()), &steps);
}

#[test]
fn systemd_252() {
    systemd("252");
}

#[test]
fn systemd_257() {
    systemd("257");
}
