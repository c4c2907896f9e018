//! `mkimg seal` against those who read what it writes: mtree of NetBSD, bsdtar, b3sum, fsverity, and mkimg itself.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::listing::Listing;
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, names_in, require, scratch, sha256_of};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory with an image of one of everything in it.
fn with_image() -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", format!("oci:{}", dir.path().join("oci").display()), "-o", image]).ok();
    (dir, image)
}

/// A directory with an image of files with odd names in it.
fn with_odd_names() -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(source.join("a directory")).unwrap();
    let names: [&[u8]; 22] = [
        b"new\nline",
        b"sp ace",
        b"trailing ",
        b"tab\t",
        b"back\\slash",
        b"not\\040octal",
        b"#hash",
        b"in#side",
        b"star*",
        b"question?",
        b"[bracket]",
        b"eq=ual",
        b"quotes\"'`",
        b"-dash",
        b"~!@$%^&(){}|;:,<>",
        b"...dots",
        b"invalid\xff\xfe",
        b"\xc3\xa4\xe2\x82\xac",
        b"escape\x1b[31m",
        b"delete\x7f",
        b"a directory/in side",
        b"set",
    ];
    for name in names {
        std::fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(b"tar get\n\xff\\#"), source.join("link")).unwrap();
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image]).ok();
    (dir, image)
}

/// `mkimg seal --format mtree`
fn mtree_of(image: &Path) -> PathBuf {
    let file = image.with_extension("mtree");
    let _ = mkimg(args!["seal", image, "-o", file, "--format", "mtree"]).ok();
    file
}

/// What mtree says of a tree, and its exit status.
///
/// Both count: mtree 20180822 exits with 2 for what differs, but with 0 when something is missing or extra.
fn mtree(spec: &Path, tree: &Path) -> (String, Option<i32>) {
    let done = command::tool("mtree", args!["-f", spec, "-p", tree]).output();
    (done.everything(), done.status.code())
}

/// As [`mtree`], of a specification of the given lines below the root.
fn mtree_lines(dir: &Path, lines: &str) -> (String, Option<i32>) {
    let (spec, tree) = (dir.join("spec"), dir.join("tree"));
    std::fs::write(&spec, format!("#mtree\n. type=dir\n{lines}\n")).unwrap();
    mtree(&spec, &tree)
}

/// The names that bsdtar finds in a file, sorted.
fn names_by_bsdtar(file: &Path) -> Vec<String> {
    let listed = command::tool("bsdtar", args!["-tf", file]).ok();
    assert_eq!(listed.err(), "");
    let mut names: Vec<String> =
        listed.out().lines().map(|name| name.trim_end_matches('/').to_owned()).collect();
    names.sort();
    names
}

#[test]
fn root_mtree_and_bsdtar_accept_the_text() {
    require!(Need::Root, Need::Tool("mtree"), Need::Tool("bsdtar"));
    for (dir, image) in [with_image(), with_odd_names()] {
        let (spec, tree, tar) = (mtree_of(&image), dir.path().join("tree"), dir.path().join("tree.tar"));
        let text = std::fs::read_to_string(&spec).unwrap();
        assert!(text.starts_with("#mtree\n# ") && text.contains("verify --seal"), "{text}");
        assert!(text.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()), "{text}");

        let _ = mkimg(args!["extract", image, tree]).ok();
        assert_eq!(mtree(&spec, &tree), (String::new(), Some(0)));

        // By name, size and digest as the tree is walked, and nothing else.
        let listing = Listing::of(&tree);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(" type=")).collect();
        assert_eq!(lines.len(), listing.entries.len());
        let listed = command::tool("bsdtar", args!["-tvf", spec]).ok();
        assert_eq!((listed.out().lines().count(), listed.err()), (lines.len(), String::new()));
        for (path, entry) in &listing.entries {
            let Some(sha256) = &entry.sha256 else { continue };
            let wanted = format!(" size={} ", entry.size);
            let found = |line: &&&str| line.contains(&wanted) && line.ends_with(sha256.as_str());
            assert!(lines.iter().any(|line| found(&line)), "{}", String::from_utf8_lossy(path));
        }

        // bsdtar makes an archive of the tree from the text, and it has the same names.
        let make = args!["-cf", tar, "--format", "pax", format!("@{}", spec.display())];
        let _ = command::tool("bsdtar", make).current_dir(&tree).ok();
        assert_eq!(names_by_bsdtar(&tar), names_by_bsdtar(&spec));
    }
}

/// gomtree takes a name without a directory for one in the directory that it is in, so `..` has to lead out of each.
/// Everybody else reads these names from the root, and gomtree those with a slash inside.
#[test]
fn two_dots_lead_out_of_every_directory() {
    for (_dir, image) in [with_image(), with_odd_names()] {
        let text = std::fs::read_to_string(mtree_of(&image)).unwrap();
        let mut inside: Vec<&str> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line == ".." {
                assert!(inside.pop().is_some_and(|dir| dir != "."), "{text}");
                continue;
            }
            let (path, rest) = line.split_once(' ').unwrap();
            assert_eq!(path.rsplit_once('/').map(|(parent, _)| parent), inside.last().copied(), "{path}");
            if rest.starts_with("type=dir ") {
                inside.push(path);
            }
        }
        assert!(!inside.is_empty());
    }
}

/// What libarchive has no word for either: 3.6 takes a socket for a file, and says so. mtree knows sockets.
#[test]
fn root_sockets_are_known_to_mtree_alone() {
    require!(Need::Root, Need::Tool("mtree"), Need::Tool("bsdtar"));
    let dir = scratch();
    std::fs::create_dir(dir.path().join("source")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("source/socket")).unwrap();
    let (image, tree) = (dir.path().join("image.mkimg"), dir.path().join("tree"));
    let _ = mkimg(args!["build", format!("dir:{}", dir.path().join("source").display()), "-o", image]).ok();
    let _ = mkimg(args!["extract", image, tree]).ok();
    let spec = mtree_of(&image);
    assert_eq!(mtree(&spec, &tree), (String::new(), Some(0)));
    let listed = command::tool("bsdtar", args!["-tf", spec]).output();
    assert_eq!(listed.out(), ".\n./socket\n");
    assert!(listed.err().is_empty() || listed.err().contains("Unrecognized file type"), "{}", listed.err());
}

#[test]
fn root_mtree_finds_every_change() {
    require!(Need::Root, Need::Tool("mtree"));
    let (dir, image) = with_image();
    let (spec, tree) = (mtree_of(&image), dir.path().join("tree"));
    // A change, and what mtree says of it.
    let changes: &[(&str, &str)] = &[
        ("chmod 755 etc/small", "etc/small: permissions (0600, 0755)"),
        ("chmod 755 bin/tool", "bin/tool: permissions (04755, 0755)"),
        ("chown 5 etc/small", "etc/small: user (0, 5)"),
        ("chown 5 var/lib/state/new", "var/lib/state/new: user (4000000000, 5)"),
        ("chgrp 5 etc/small", "etc/small: gid (0, 5)"),
        ("chown -h 5 bin/sh", "bin/sh: user (0, 5)"),
        (
            "printf B | dd of=etc/small bs=1 seek=2 conv=notrunc status=none; touch -d @1700000000 etc/small",
            "etc/small: sha256 (0x",
        ),
        ("echo more >>etc/small; touch -d @1700000000 etc/small", "etc/small: size (12, 17)"),
        ("touch -d @1700000001 etc/small", "etc/small: modification time ("),
        ("touch -d @1700000000.000001 etc/small", "etc/small: modification time ("),
        ("touch -d @-1.5 var/lib/state/new", ""),
        ("touch -d @-1 var/lib/state/new", "var/lib/state/new: modification time ("),
        ("touch -d @-1.500001 var/lib/state/new", "var/lib/state/new: modification time ("),
        ("touch -d @10413792000 etc/far", "etc/far: modification time ("),
        // Of links, mtree names what it found first.
        ("ln -sfn server bin/sh; touch -hd @1700000000 bin/sh", "bin/sh: link ref (server, tool)"),
        ("touch etc/extra", "extra: etc/extra"),
        ("rm etc/small", "missing: ./etc/small"),
        ("rm etc/small; mkdir etc/small; touch -d @1700000000 etc/small", "etc/small: type (file, dir)"),
        ("rm bin/tool2; cp -p bin/tool bin/tool2", "bin/tool: link count (2, 1)"),
        (
            "rm dev/null; mknod -m 666 dev/null c 1 4; touch -d @1700000000 dev/null",
            "dev/null: device (0x103, 0x104)",
        ),
        (
            "rm dev/disk; mknod -m 660 dev/disk b 259 70001; touch -d @1700000000 dev/disk",
            "dev/disk: device (0x11110370, 0x11110371)",
        ),
    ];
    let _ = mkimg(args!["extract", image, tree]).ok();
    for (script, wanted) in changes {
        std::fs::remove_dir_all(&tree).unwrap();
        let _ = mkimg(args!["extract", image, tree]).ok();
        // The change alone, without what it does to its directory.
        let script = format!(
            "for dir in bin etc dev; do touch -r $dir ../time-of-$dir; done\n{script}\n\
             for dir in bin etc dev; do touch -r ../time-of-$dir $dir; done"
        );
        let _ = command::tool("sh", ["-euc", &script]).current_dir(&tree).ok();
        let (said, code) = mtree(&spec, &tree);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = if wanted.is_empty() { said.is_empty() } else { said.contains(wanted) };
        assert!(found, "{script}\nwanted {wanted:?}\nfound  {said:?}");
        let silent = wanted.is_empty() || wanted.starts_with("missing: ") || wanted.starts_with("extra: ");
        assert_eq!(code, Some(if silent { 0 } else { 2 }), "{script}\n{said}");
    }
}

/// The digits behind the dot are a number of nanoseconds: `.25` is 25 ns, so all nine have to be there. They count
/// upwards from the second before, also below 1970. mtree insists on a dot, and compares microseconds.
#[test]
fn times_are_read_so() {
    require!(Need::Tool("mtree"), Need::Tool("bsdtar"));
    let dir = scratch();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    let file = dir.path().join("tree/file");
    std::fs::write(&file, "").unwrap();
    let cases: &[(&str, &str, Option<i32>)] = &[
        ("1700000000.25", "1700000000.250000000", Some(0)),
        ("1700000000.25", "1700000000.25", Some(2)),
        ("1700000000.000000025", "1700000000.25", Some(0)),
        ("1700000000", "1700000000.000000000", Some(0)),
        ("1700000000", "1700000000", Some(1)),
        ("1700000000.123456789", "1700000000.123456000", Some(0)),
        ("1700000000.123456789", "1700000000.123455789", Some(2)),
        ("-0.5", "-1.500000000", Some(0)),
        ("-0.5", "0.500000000", Some(2)),
        ("-1.5", "-2.500000000", Some(0)),
        ("-1.5", "-1.500000000", Some(2)),
        ("10413792000.25", "10413792000.250000000", Some(0)),
    ];
    for (stored, written, wanted) in cases {
        let _ = command::tool("touch", args!["-d", format!("@{stored}"), file]).ok();
        let (said, code) = mtree_lines(dir.path(), &format!("./file type=file time={written}"));
        assert_eq!(code, *wanted, "{stored} as {written}: {said}");
    }
    // bsdtar copies both numbers as they are: right after 1970, and for its pax writer wrong before.
    for (written, wanted) in [
        ("1700000000.250000000", "1700000000.25\n"),
        ("1700000000.25", "1700000000.000000025\n"),
        ("-2.000000000", "-2\n"),
    ] {
        let _ = mtree_lines(dir.path(), &format!("./file type=file time={written}"));
        let spec = format!("@{}", dir.path().join("spec").display());
        let make = args!["-cf", "../tree.tar", "--format", "pax", spec];
        let _ = command::tool("bsdtar", make).current_dir(dir.path().join("tree")).ok();
        let archive = std::fs::read(dir.path().join("tree.tar")).unwrap();
        let record = format!(" mtime={wanted}");
        let there = archive.windows(record.len()).any(|window| window == record.as_bytes());
        assert!(there, "{written}: no {record:?}");
    }
}

/// Both take `native,MAJOR,MINOR`. In the `linux` form a minor number has 8 bits.
#[test]
fn root_devices_are_read_so() {
    require!(Need::Root, Need::Tool("mtree"), Need::Tool("bsdtar"));
    let dir = scratch();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    let _ = command::tool("mknod", args![dir.path().join("tree/disk"), "b", "259", "70000"]).ok();
    for (form, by_mtree, by_bsdtar) in [
        ("native,259,70000", Some(0), " 259,70000 "),
        ("native,259,70001", Some(2), " 259,70001 "),
        ("native,260,70000", Some(2), " 260,70000 "),
        ("linux,259,70000", Some(1), " 0,0 "),
    ] {
        let (said, code) = mtree_lines(dir.path(), &format!("./disk type=block device={form}"));
        assert_eq!(code, by_mtree, "{form}: {said}");
        let listed = command::tool("bsdtar", args!["-tvf", dir.path().join("spec")]).output();
        assert!(listed.out().contains(by_bsdtar), "{form}: {}", listed.everything());
    }
}

/// mtree undoes escapes before it looks for `*`, `?` and `[`, so such a name is a pattern whatever is written, and
/// covers other files. `mkimg verify` has no patterns.
#[test]
fn names_that_look_like_patterns_are_patterns_to_mtree() {
    require!(Need::Tool("mtree"));
    let dir = scratch();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a*"), "").unwrap();
    let (image, tree) = (dir.path().join("image.mkimg"), dir.path().join("tree"));
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image]).ok();
    let _ = mkimg(args!["extract", image, tree]).ok();
    let _ = command::tool("sh", ["-euc", "touch -r . ../time; mv 'a*' ab; touch -r ../time ."])
        .current_dir(&tree)
        .ok();
    assert_eq!(mtree(&mtree_of(&image), &tree), (String::new(), Some(0)));
    let lines = mkimg(args!["verify", "--json", image, tree]).output().code(1).json_lines();
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["missing", "extra"], "{lines:?}");
}

/// A line of JSON without some of its keys.
fn without(line: &Value, keys: &[&str]) -> Value {
    let mut line = line.clone();
    for key in keys {
        line.as_object_mut().unwrap().remove(*key);
    }
    line
}

#[test]
fn json_is_ls_with_the_sealed_records() {
    for (_dir, image) in [with_image(), with_odd_names()] {
        let (seal, file) = (image.with_extension("seal"), image.with_extension("json"));
        let _ = mkimg(args!["seal", image, "-o", seal]).ok();
        let _ = mkimg(args!["seal", image, "-o", file, "--format", "json"]).ok();
        let text = std::fs::read_to_string(&file).unwrap();
        // A detached seal has all that is needed.
        let _ = mkimg(args!["seal", seal, "-o", file, "--format", "json"]).ok();
        assert!(std::fs::read_to_string(&file).unwrap() == text);

        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (head, lines) = lines.split_first().unwrap();
        let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
        assert_eq!((&head["format"], &head["version"]), (&"mkimg-seal".into(), &1.into()));
        for key in ["root_hash", "data_blocks", "hash_offset"] {
            assert_eq!(head[key], inspection["verity"][key], "{key}");
        }
        assert_eq!(head["image_size"], inspection["image_size"]);
        assert_eq!(head["statement"], mkimg(args!["inspect", "--statement", image]).ok().json());

        let listed = mkimg(args!["ls", "--json", image]).ok().json_lines();
        assert_eq!(listed.len(), lines.len());
        for (line, listed) in lines.iter().zip(&listed) {
            assert_eq!(without(line, &["blake3", "fsverity", "layer"]), without(listed, &["sha256"]));
            for key in ["blake3", "fsverity"] {
                let digits = line[key].as_str().map_or(0, str::len);
                assert_eq!(digits, if line["type"] == "file" { 64 } else { 0 }, "{key} of {line}");
            }
        }
    }
}

#[test]
fn json_digests_and_layers_are_right() {
    require!(Need::Tool("b3sum"), Need::Tool("fsverity"));
    let (dir, image) = with_image();
    let file = dir.path().join("seal.json");
    let _ = mkimg(args!["seal", image, "-o", file, "--format", "json"]).ok();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    for path in ["/bin/tool", "/bin/server", "/etc/empty", "/etc/small", "/etc/block", "/var/sparse"] {
        let content = dir.path().join("content");
        std::fs::write(&content, mkimg(args!["cat", image, path]).ok().stdout).unwrap();
        let blake3 = command::tool("b3sum", args!["--no-names", content]).ok().out();
        assert_eq!(line(path)["blake3"], blake3.trim_end(), "{path}");
        let fsverity = command::tool("fsverity", args!["digest", "--compact", content]).ok().out();
        assert_eq!(line(path)["fsverity"], fsverity.trim_end(), "{path}");
    }
    for (path, layer) in [
        ("/bin", Some(0)),
        ("/bin/tool", Some(0)),
        ("/bin/server", Some(1)),
        ("/bin/sh", Some(1)),
        ("/dev/null", Some(1)),
        // Directories that are only there because something is in them.
        ("/", None),
        ("/dev", None),
        ("/var", None),
    ] {
        assert_eq!(line(path).get("layer").and_then(Value::as_u64), layer, "{path}");
    }
    assert_eq!(line("/bin/tool")["blake3"], line("/bin/tool2")["blake3"]);
}

#[test]
fn a_seal_appears_whole_or_not_at_all() {
    let (dir, image) = with_image();
    let seal = dir.path().join("image.seal");
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let before = (names_in(dir.path()), sha256_of(&image), sha256_of(&seal));
    let new = dir.path().join("new");
    for (arguments, wanted) in [
        (args!["seal", seal, "-o", new, "--format", "mtree"].to_vec(), "give the image itself"),
        (args!["seal", seal, "-o", new].to_vec(), "is a detached seal already"),
        (args!["seal", image, "-o", image, "--format", "mtree"].to_vec(), "is the input itself"),
        (args!["seal", image, "-o", image, "--format", "json"].to_vec(), "is the input itself"),
        (args!["seal", seal, "-o", seal, "--format", "json"].to_vec(), "is the input itself"),
        (args!["seal", image, "-o", dir.path(), "--format", "mtree"].to_vec(), "not a regular file"),
    ] {
        let line = mkimg(&arguments).output().code(1).error_line();
        assert!(line.contains(wanted), "{arguments:?}: {line}");
        let after = (names_in(dir.path()), sha256_of(&image), sha256_of(&seal));
        assert_eq!(after, before, "{arguments:?}");
    }
    // Metadata that ends in the middle: the names before it are not left behind as if they were all.
    let mut bytes = std::fs::read(&image).unwrap();
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    let area = &inspection["areas"][2];
    assert_eq!(area["name"], "metadata");
    let start = usize::try_from(area["offset"].as_u64().unwrap()).unwrap();
    let length = usize::try_from(area["length"].as_u64().unwrap()).unwrap();
    bytes[start + length / 2..start + length].fill(0xff);
    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, bytes).unwrap();
    for format in ["mtree", "json"] {
        let _ = mkimg(args!["seal", damaged, "-o", new, "--format", format]).output().code(1).error_line();
        assert!(!new.exists(), "{format}");
    }
    // The same text each time.
    let text = std::fs::read(mtree_of(&image)).unwrap();
    assert!(std::fs::read(mtree_of(&image)).unwrap() == text);
}
