//! `docs/json.md` names every field that `--json` prints, in the section of its command.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{Run, mkimg, mkimg_path, tool};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::Need;
use mkimg_tests::signer::Signer;
use mkimg_tests::watch::Watch;
use mkimg_tests::{args, images, project, require, scratch};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Objects whose keys are anybody's.
const MAPS: [&str; 4] = ["xattrs", "xattrs_b64", "options", "statement.options"];

/// The fields that the section `mkimg COMMAND` documents, all its tables together.
fn documented(command: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(project().join("docs/json.md")).unwrap();
    let heading = format!("\n## `mkimg {command}`\n");
    let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no section {heading:?}"));
    let section = section.split("\n## ").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(field, _)| field.to_owned())
        .collect()
}

/// The fields of a value: `verity`, `verity.root_hash`, `areas[].name`.
fn fields(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                if !MAPS.contains(&&*name) {
                    fields(value, &name, found);
                }
                found.insert(name);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{prefix}[]"), found)),
        _ => {}
    }
}

/// Compares what a command printed with its section. What is documented but not printed has to be in `rare`.
fn assert_documented(command: &str, lines: &[Value], rare: &[&str]) {
    assert!(!lines.is_empty(), "{command}: printed nothing");
    let mut printed = BTreeSet::new();
    for line in lines {
        fields(line, "", &mut printed);
    }
    let documented = documented(command);
    let unknown: Vec<_> = printed.difference(&documented).collect();
    assert!(unknown.is_empty(), "mkimg {command}: docs/json.md does not name {unknown:?}");
    let silent: BTreeSet<&str> = documented.difference(&printed).map(String::as_str).collect();
    assert_eq!(silent, rare.iter().copied().collect(), "mkimg {command}: documented, but not printed");
}

/// Images of one of everything, of the sample, and of a directory with names that are not UTF-8.
fn images_in(dir: &Path) -> [PathBuf; 3] {
    images::one_of_everything(&dir.join("oci"));
    let odd = dir.join("odd");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join(OsStr::from_bytes(b"\xff")), vec![b'x'; 5000]).unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(b"\xfe"), odd.join("link")).unwrap();
    let sources =
        [format!("oci:{}", dir.join("oci").display()), images::sample(), format!("dir:{}", odd.display())];
    let built = ["everything.mkimg", "sample.mkimg", "odd.mkimg"].map(|name| dir.join(name));
    for (source, image) in sources.iter().zip(&built) {
        let _ = mkimg(args!["build", source, "-o", image]).ok();
    }
    built
}

#[test]
fn every_field_is_documented() {
    require!(Need::Tool("openssl"));
    let dir = scratch();
    let [everything, sample, odd] = images_in(dir.path());
    let lines_of = |words: &[&str]| -> Vec<Value> {
        [&everything, &sample, &odd]
            .into_iter()
            .flat_map(|image| mkimg(words).args(args![image]).ok().json_lines())
            .collect()
    };
    let trace = dir.path().join("trace");
    std::fs::write(&trace, "/bin\n").unwrap();
    let oci = format!("oci:{}", dir.path().join("oci").display());
    let _ = mkimg(args!["build", oci, "-o", everything, "--optimize-for", trace]).ok();
    // A name of an attribute that is not UTF-8 takes a hand-made layer, a media type that is missing another source.
    let signer = Signer::new(dir.path(), "signer");
    let sign =
        args!["sign", "--json", sample, "--key", signer.key, "--cert", signer.certificate, "--sidecar"];
    assert_documented("sign --json", &mkimg(sign).ok().json_lines(), &[]);
    assert_documented("ls --json", &lines_of(&["ls", "--json"]), &["xattrs_b64"]);
    assert_documented("inspect --json", &lines_of(&["inspect", "--json"]), &[]);
    assert_documented(
        "inspect --deleted --json",
        &lines_of(&["inspect", "--deleted", "--json"]),
        &["path_b64"],
    );
    assert_documented("doctor --json", &mkimg(["doctor", "--json"]).ok().json_lines(), &[]);

    let layout = dir.path().join("layout");
    let export = args!["export", "--json", sample, "--print", "all", "--sidecar", "verity-json"];
    let disk = args!["--draft-oci", layout, "--ddi", dir.path().join("sample.raw")];
    let exported = mkimg(export).args(disk).ok().json_lines();
    assert_documented("export --json", &exported, &[]);
    let with_parity = dir.path().join("parity.mkimg");
    let _ = mkimg(args!["build", images::sample(), "-o", with_parity, "--fec", "2"]).ok();
    let _ = mkimg(args!["export", with_parity, "--sidecar", "verity-json"]).ok();
    let document = std::fs::read(dir.path().join("parity.mkimg.verity.json")).unwrap();
    let document = serde_json::from_slice(&document).unwrap();
    assert_documented("export --sidecar verity-json", &[document], &[]);

    let built = mkimg(args!["build", "--json", images::sample(), "-o", sample]).ok().json_lines();
    assert_documented("build --json", &built, &[]);

    // Files that lose a block each, with names of both kinds.
    let (broken, mended) = (dir.path().join("broken.mkimg"), dir.path().join("mended.mkimg"));
    let mut lines = Vec::new();
    for image in [&everything, &odd] {
        let mut bytes = std::fs::read(image).unwrap();
        bytes[4096] ^= 1;
        std::fs::write(&broken, bytes).unwrap();
        lines.extend(mkimg(args!["repair", "--json", broken, "-o", mended]).output().code(1).json_lines());
    }
    assert_documented("repair --json", &lines, &["more_paths"]);

    let file = dir.path().join("seal.json");
    let mut lines = Vec::new();
    for image in [&everything, &sample, &odd] {
        let _ = mkimg(args!["seal", image, "-o", file, "--format", "json"]).ok();
        let text = std::fs::read_to_string(&file).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    assert_documented("seal --format json", &lines, &["xattrs_b64"]);
}

#[test]
fn every_field_of_a_report_is_documented() {
    let dir = scratch();
    let [everything, sample, _] = images_in(dir.path());
    // Names that are not UTF-8 in every list.
    let (source, odd) = (dir.path().join("source"), dir.path().join("names.mkimg"));
    let inner = source.join(OsStr::from_bytes(b"\xff"));
    std::fs::create_dir_all(&inner).unwrap();
    for name in [b"\xfd", b"\xfe"] {
        let file = inner.join(OsStr::from_bytes(name));
        std::fs::write(&file, "twice").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
    }
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", odd]).ok();
    let lines: Vec<Value> = [everything, sample, odd]
        .iter()
        .flat_map(|image| mkimg(args!["report", "--json", image]).ok().json_lines())
        .collect();
    // A deleted file whose name is not UTF-8 takes a hand-made layer.
    assert_documented("report --json", &lines, &["deleted.list[].path_b64"]);
}

#[test]
fn every_field_of_an_audit_is_documented() {
    require!(Need::Tool("openssl"));
    let dir = scratch();
    let [everything, sample, odd] = images_in(dir.path());
    let signer = Signer::new(dir.path(), "signer");
    for image in [&sample, &odd] {
        let _ = mkimg(args!["sign", image, "--key", signer.key]).ok();
    }
    let trust = args!["--cert", signer.certificate];
    let mut lines = Vec::new();
    for image in [&everything, &odd] {
        // The first file of each: /bin/tool, and one whose name is not UTF-8.
        let mut bytes = std::fs::read(image).unwrap();
        bytes[4096] ^= 1;
        std::fs::write(image, bytes).unwrap();
        lines.extend(mkimg(args!["verify", "--json", image]).output().code(1).json_lines());
    }
    lines.extend(mkimg(args!["verify", "--json", sample]).args(&trust).ok().json_lines());
    assert_documented("verify --json IMAGE", &lines, &["more_paths", "unsealed"]);

    let tree = dir.path().join("odd");
    std::fs::write(tree.join(OsStr::from_bytes(b"\xff")), "shorter").unwrap();
    std::fs::write(tree.join("extra"), "").unwrap();
    std::fs::set_permissions(tree.join("extra"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let _ = mkimg(args!["build", format!("dir:{}", tree.display()), "-o", sample]).ok();
    let lines = mkimg(args!["verify", "--json", odd, tree]).output().code(1).json_lines();
    let unsigned = ["anchored_by", "key_id", "signer"];
    assert_documented("verify --json IMAGE DIR", &lines, &unsigned);
    let _ = mkimg(args!["sign", sample, "--key", signer.key]).ok();
    let lines = mkimg(args!["verify", "--json", sample, tree]).args(&trust).ok().json_lines();
    let [summary] = &lines[..] else { panic!("{lines:?}") };
    assert!(unsigned.iter().all(|field| summary.get(field).is_some()), "{summary}");
}

#[test]
fn every_field_of_an_image_of_others_is_documented() {
    require!(Need::Tool("mkfs.erofs"), Need::Tool("veritysetup"));
    let dir = scratch();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "text ".repeat(5000)).unwrap();
    let (mut audits, mut inspections) = (Vec::new(), Vec::new());
    for compression in [&[][..], &["-zlz4"]] {
        let _ = tool("mkfs.erofs", compression).args([&image, &tree]).ok();
        let offset = format!("--hash-offset={}", std::fs::metadata(&image).unwrap().len());
        let _ = tool("veritysetup", args!["format", image, image, offset]).ok();
        audits.push(mkimg(args!["verify", "--json", image]).ok().json()["unsealed"].clone());
        inspections.push(mkimg(args!["inspect", "--json", image]).ok().json());
    }
    assert_documented("verify --json OTHERS", &audits, &[]);
    assert_documented("inspect --json OTHERS", &inspections, &[]);
}

#[test]
fn every_field_of_a_comparison_is_documented() {
    let dir = scratch();
    let [everything, sample, odd] = images_in(dir.path());
    let set_id = dir.path().join("set-id");
    std::fs::create_dir(&set_id).unwrap();
    std::fs::write(set_id.join(OsStr::from_bytes(b"\xff")), "other").unwrap();
    std::fs::write(set_id.join("extra"), "").unwrap();
    std::fs::set_permissions(set_id.join("extra"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let other = dir.path().join("other.mkimg");
    let _ = mkimg(args!["build", format!("dir:{}", set_id.display()), "-o", other, "--name", "n"]).ok();
    let mut lines = mkimg(args!["diff", "--json", odd, other]).output().code(1).json_lines();
    lines.extend(mkimg(args!["diff", "--json", everything, sample]).output().code(1).json_lines());
    assert_documented("diff --json", &lines, &[]);
}

/// The events of a watch, each with its fields; those of differences and findings are documented with the audits.
#[test]
fn every_event_of_a_watch_is_documented() {
    let dir = scratch();
    let [.., odd] = images_in(dir.path());
    let tree = dir.path().join("odd");
    let watch = Watch::start(&args![odd, tree, "--ignore", "mtime"]);
    std::fs::write(tree.join("extra"), "").unwrap();
    let mut lines = watch.until_silence();
    std::fs::remove_file(tree.join("extra")).unwrap();
    lines.extend(watch.until_silence());
    let (_, last) = watch.end("TERM");
    lines.push(last);
    let page = std::fs::read_to_string(project().join("docs/json.md")).unwrap();
    let (_, section) = page.split_once("\n## `mkimg watch --json`\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let differences = documented("verify --json IMAGE DIR");
    let mut events = BTreeSet::new();
    for line in &lines {
        let event = line["event"].as_str().unwrap();
        let start = format!("| `{event}` |");
        let row = section.lines().find(|row| row.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("docs/json.md does not name the event {event}"));
        for field in line.as_object().unwrap().keys().filter(|field| *field != "event") {
            let told = row.contains(&format!("`{field}`"));
            assert!(told || event == "differs" && differences.contains(field), "{event}: {field}");
        }
        events.insert(event);
    }
    assert_eq!(events, ["differs", "ended", "restored"].into());
}

#[test]
fn root_every_field_of_an_audit_of_a_mount_is_documented() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop);
    require!(Need::Tool("openssl"));
    let dir = scratch();
    let [image, _, odd] = images_in(dir.path());
    let signer = Signer::new(dir.path(), "signer");
    let _ = mkimg(args!["sign", odd, "--key", signer.key]).ok();
    let mut lines = Vec::new();
    for (name, image) in [("everything", &image), ("odd", &odd)] {
        let [point, upper, work] = ["m", "u", "w"].map(|what| dir.path().join(format!("{name}.{what}")));
        std::fs::create_dir(&point).unwrap();
        let _mounted = Mounted::adopt(&point);
        let _ = mkimg(args![
            "mount", image, point, "--verity", "once", "--via", "loop", "--upper", upper, "--work", work
        ])
        .ok();
        std::fs::write(point.join("extra"), "").unwrap();
        std::fs::set_permissions(point.join("extra"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        let first = if name == "odd" { OsStr::from_bytes(b"\xff") } else { OsStr::new("bin/tool") };
        std::fs::write(point.join(first), "shorter").unwrap();
        // Damage of the file, and its name gone.
        let mut bytes = std::fs::read(image).unwrap();
        bytes[4096] ^= 1;
        std::fs::write(image, bytes).unwrap();
        std::fs::remove_file(image).unwrap();
        let trust = if name == "odd" { &args!["--cert", signer.certificate][..] } else { &[] };
        lines.extend(mkimg(args!["verify", "--json", point]).args(trust).output().code(1).json_lines());
    }
    // An overlay by hand, in which the image has a directory below it.
    let [image, ..] = images_in(&dir.path().join("again"));
    let [point, over, beneath] = ["image", "overlay", "beneath"].map(|what| dir.path().join(what));
    std::fs::create_dir(&beneath).unwrap();
    std::fs::write(beneath.join("extra"), "").unwrap();
    let _image = Mounted::erofs(&image, &point);
    let layers = format!("lowerdir={}:{}", point.display(), beneath.display());
    let _over = Mounted::new(&["-t", "overlay", "-o", &layers], Path::new("overlay"), &over);
    lines.extend(mkimg(args!["verify", "--json", over]).output().code(1).json_lines());
    assert_documented("verify --json MOUNTPOINT", &lines, &["more_paths", "on_corruption"]);
}

#[test]
fn root_every_field_of_a_mount_is_documented() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop);
    require!(Need::Tool("openssl"));
    let dir = scratch();
    let [image, ..] = images_in(dir.path());
    let signer = Signer::new(dir.path(), "signer");
    let _ = mkimg(args!["sign", image, "--key", signer.key]).ok();
    let point = dir.path().join("point");
    std::fs::create_dir(&point).unwrap();
    let _mounted = Mounted::adopt(&point);
    // Unmounted as soon as it is there, which ends the recording.
    let unmount = r#"until "$0" umount "$1" 2>/dev/null; do sleep 0.05; done"#;
    let unmounting = Run::new("sh").args(args!["-c", unmount, mkimg_path(), point]).spawn();
    let mut lines = mkimg(args![
        "mount",
        "--json",
        image,
        point,
        "--verity",
        "once",
        "--record",
        dir.path().join("trace")
    ])
    .ok()
    .json_lines();
    assert!(unmounting.wait_with_output().unwrap().status.success());
    lines.extend(
        mkimg(args!["mount", "--json", image, point, "--verity", "once", "--cert", signer.certificate])
            .ok()
            .json_lines(),
    );
    // Not over dm-verity, which takes another kernel than most machines for tests have: `tests/vm/guest`.
    assert_documented("mount --json", &lines, &["on_corruption"]);
    let shown = point.canonicalize().unwrap();
    let mut lines = mkimg(["mounts", "--json"]).ok().json_lines();
    lines.retain(|line| line["target"] == shown.to_str().unwrap());
    assert_documented("mounts --json", &lines, &["kernel_signature", "on_corruption"]);
}
