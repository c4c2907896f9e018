//! The command line as a contract: exit statuses, one-line errors, pipes, JSON.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg, mkimg_path};
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::listing::Listing;
use mkimg_tests::mount::loops_behind;
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, names_in, require, scratch};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// A directory with the small image in it.
fn with_image() -> (tempfile::TempDir, PathBuf) {
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", source(dir.path()), "-o", image]).ok();
    (dir, image)
}

fn source(dir: &Path) -> String {
    format!("oci:{}", dir.join("oci").display())
}

#[test]
fn usage_errors_exit_with_2() {
    let dir = scratch();
    let out = dir.path().join("out.mkimg");
    let out = out.to_str().unwrap();
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["--frobnicate"],
        &["build"],
        &["build", "oci:somewhere"],
        &["build", "-o", out],
        &["build", "oci:a", "oci:b", "-o", out],
        &["build", "oci:somewhere", "-o", out, "--compress", "rar"],
        &["build", "oci:somewhere", "-o", out, "--compress", "zstd:900"],
        &["build", "oci:somewhere", "-o", out, "--min-kernel", "newest"],
        &["build", "oci:somewhere", "-o", out, "--epoch", "-1"],
        &["build", "oci:somewhere", "-o", out, "--threads", "0"],
        &["build", "oci:somewhere", "-o", out, "--threads", "65"],
        &["build", "oci:somewhere", "-o", out, "--threads", "18446744073709551615"],
        &["build", "oci:somewhere", "-o", out, "--memory", "7M"],
        &["build", "oci:somewhere", "-o", out, "--memory", "much"],
        &["build", "oci:somewhere", "-o", out, "--name", "two\nlines"],
        &["build", "oci:somewhere", "-o", out, "--min-kernel", "5.3"],
        &["build", "oci:somewhere", "-o", out, "--compress", "lz4", "--min-kernel", "5.12"],
        &["build", "oci:somewhere", "-o", out, "--compress", "zstd", "--min-kernel", "6.9"],
        &["build", "oci:somewhere", "-o", out, "--dedup", "bytes"],
        &["build", "oci:somewhere", "-o", out, "--dedup", "blocks", "--compress", "lz4"],
        &["build", "oci:somewhere", "-o", out, "--dedup", "blocks", "--min-kernel", "5.14"],
        &["verify"],
        &["verify", out, "--root-hash", "xyz"],
        &["ls"],
        &["cat", out],
        &["extract", out],
        &["inspect"],
        &["report"],
        &["report", out, "--top", "0"],
        &["report", out, "--json", "--html", "page.html"],
        &["mount", out],
        &["mount", out, "somewhere", "--verity", "maybe"],
        &["mount", out, "somewhere", "--upper", "only"],
        &["umount"],
        &["seal", out],
        &["seal", out, "-o", out, "--format", "tar"],
    ];
    for case in cases {
        let done = mkimg(*case).output();
        assert_eq!(done.status.code(), Some(2), "{case:?}: {}", done.everything());
        assert!(!done.stderr.is_empty(), "{case:?}: silent");
        assert!(done.stdout.is_empty(), "{case:?}: a usage error belongs on stderr: {}", done.out());
    }
    assert_eq!(names_in(dir.path()), Vec::<String>::new());
}

#[test]
fn the_smallest_memory_is_named() {
    let done = mkimg(["build", "oci:somewhere", "-o", "out.mkimg", "--memory", "7M"]).output();
    assert!(done.err().contains("7M is too little: the smallest value is 8M"), "{}", done.err());
}

#[test]
fn help_and_version_succeed() {
    for case in
        [&["--help"][..], &["--version"], &["build", "--help"], &["verify", "--help"], &["mount", "--help"]]
    {
        let done = mkimg(case).ok();
        assert!(!done.stdout.is_empty() && done.stderr.is_empty(), "{case:?}");
    }
}

#[test]
fn what_is_missing_is_named_in_one_line() {
    let (dir, image) = with_image();
    let (image, missing) = (image.to_str().unwrap(), dir.path().join("missing"));
    let missing = missing.to_str().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let new = out.join("new.mkimg");
    let new = new.to_str().unwrap();
    let (oci, docker, dir_source) =
        (format!("oci:{missing}"), format!("docker-archive:{missing}"), format!("dir:{missing}"));
    let tag = format!("{}:no-such-tag", source(dir.path()));
    let existing = source(dir.path());
    let nowhere = format!("{missing}/x.mkimg");
    // (arguments, exit status, what the line must name). verify speaks as diff(1): 2 is "could not do it".
    let cases: &[(&[&str], i32, &str)] = &[
        (&["build", &oci, "-o", new], 1, "missing"),
        (&["build", &docker, "-o", new], 1, "missing"),
        (&["build", &dir_source, "-o", new], 1, "missing"),
        (&["build", missing, "-o", new], 1, "missing"),
        (&["build", &tag, "-o", new], 1, "no-such-tag"),
        (&["build", &existing, "-o", &nowhere], 1, "missing"),
        (&["build", &existing, "-o", out.to_str().unwrap()], 1, "out"),
        (&["verify", missing], 2, "missing"),
        (&["ls", missing], 1, "missing"),
        (&["cat", image, "/no/such/path"], 1, "no/such/path"),
        (&["cat", image, "/etc"], 1, "/etc"),
        (&["extract", missing, new], 1, "missing"),
        (&["inspect", missing], 1, "missing"),
        (&["report", missing], 1, "missing"),
        (&["report", image, "--html", &nowhere], 1, "missing"),
        (&["mount", missing, out.to_str().unwrap()], 1, "missing"),
    ];
    for (case, code, named) in cases {
        let done = mkimg(*case).output().code(*code);
        let line = done.error_line();
        assert!(line.contains(named), "{case:?}: {line}");
        assert!(done.stdout.is_empty(), "{case:?}: {}", done.out());
        assert_eq!(names_in(&out), Vec::<String>::new(), "{case:?}");
    }
}

/// Names inside an error are hostile too: no line breaks, no terminal sequences.
#[test]
fn names_in_errors_are_escaped() {
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    let mut layer = layout.layer(None);
    layer.file("evil\n\x1b[31mred/../x", &Attr::default(), b"x");
    layer.finish();
    layout.finish();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let line =
        mkimg(args!["build", source(dir.path()), "-o", out.join("x.mkimg")]).output().code(1).error_line();
    assert!(line.contains("evil") && line.contains("layer 1"), "{line}");
    assert_eq!(names_in(&out), Vec::<String>::new());
}

#[test]
fn files_that_are_no_images_never_verify() {
    let dir = scratch();
    let path = dir.path().join("file");
    let mut random = images::pattern(65536, 77);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("text", b"hello\n".to_vec()),
        ("zeros", vec![0; 65536]),
        ("noise", std::mem::take(&mut random)),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let done = mkimg(args!["verify", path]).output();
        assert!(
            matches!(done.status.code(), Some(1 | 2)),
            "{what}: {:?}: {}",
            done.status,
            done.everything()
        );
        for command in ["ls", "inspect", "report"] {
            let line = mkimg(args![command, path]).output().code(1).error_line();
            assert!(line.contains("file"), "{what}: {line}");
        }
    }
}

#[test]
fn truncated_and_extended_images_are_findings() {
    let (dir, image) = with_image();
    let bytes = std::fs::read(&image).unwrap();
    let copy = dir.path().join("copy.mkimg");
    let n = bytes.len();
    for length in
        [0, 1, 511, 512, 1024, 4095, 4096, 8192, n / 2, n / 2 + 1, n - 8192, n - 4096, n - 512, n - 1]
    {
        std::fs::write(&copy, &bytes[..length]).unwrap();
        let done = mkimg(args!["verify", copy]).output();
        // With the first block there is a header to compare with, so it is a difference and not a failure.
        let allowed: &[i32] = if length < 4096 { &[1, 2] } else { &[1] };
        let code = done.status.code().unwrap_or(-1);
        assert!(allowed.contains(&code), "cut to {length} of {n}: {code}: {}", done.everything());
    }
    for extra in [1, 511, 512, 4096, 8192] {
        for fill in [0u8, 0xa5] {
            let mut longer = bytes.clone();
            longer.resize(n + extra, fill);
            std::fs::write(&copy, longer).unwrap();
            let _ = mkimg(args!["verify", copy]).output().code(1);
        }
    }
    // A correct copy, and one with its own trailer appended a second time.
    std::fs::write(&copy, &bytes).unwrap();
    let _ = mkimg(args!["verify", copy]).ok();
    std::fs::write(&copy, [&bytes[..], &bytes[n - 4096..]].concat()).unwrap();
    let _ = mkimg(args!["verify", copy]).output().code(1);
}

#[test]
fn the_root_hash_anchors_a_run() {
    let (_dir, image) = with_image();
    let hash = mkimg(args!["inspect", "--json", image]).ok().json()["verity"]["root_hash"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
        "{hash}"
    );
    let _ = mkimg(args!["verify", image, "--root-hash", hash]).ok();
    let _ = mkimg(args!["verify", image, "--root-hash", "0".repeat(64)]).output().code(1);
    let unanchored = mkimg(args!["verify", image]).ok().out();
    let first = unanchored.lines().next().unwrap_or_default().to_lowercase();
    assert!(first.contains("consisten"), "the first line says that only consistency is proven: {first:?}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    let mut layer = layout.layer(None);
    for i in 0..5000 {
        layer.file(&format!("a-directory-with-a-long-name/file-{i:05}"), &Attr::default(), b"");
    }
    layer.file("big", &Attr::default(), &images::pattern(1 << 20, 9));
    layer.finish();
    layout.finish();
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", source(dir.path()), "-o", image]).ok();
    let cases = [
        args!["ls", image].to_vec(),
        args!["ls", "--json", image].to_vec(),
        args!["cat", image, "/big"].to_vec(),
    ];
    for case in cases {
        let mut child = mkimg(&case).spawn();
        let mut pipe = child.stdout.take().unwrap();
        pipe.read_exact(&mut [0; 10]).unwrap();
        drop(pipe);
        let mut complaint = String::new();
        child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(complaint, "", "{case:?}");
        assert!(status.success() || status.signal() == Some(13), "{case:?}: {status}");
    }
}

/// A full standard output is an error; nothing pretends that the list was complete.
/// Whoever reads the report may go away; the verdict stays.
#[test]
fn a_closed_pipe_does_not_turn_a_verdict() {
    let (dir, image) = with_image();
    let damaged = dir.path().join("damaged.mkimg");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    for (image, code) in [(&image, 0), (&damaged, 1)] {
        for format in [&[][..], &["--json"]] {
            let mut child = mkimg(args!["verify", image]).args(format).spawn();
            drop(child.stdout.take());
            assert_eq!(child.wait().unwrap().code(), Some(code), "{} {format:?}", image.display());
        }
    }
}

/// The target is a regular file or nothing, and never what is read.
#[test]
fn only_regular_files_are_replaced() {
    let (dir, image) = with_image();
    let path = |name: &str| dir.path().join(name);
    let _ = command::tool("mkfifo", args![path("fifo")]).ok();
    std::os::unix::fs::symlink("/dev/null", path("null")).unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    for target in ["fifo", "null", "directory", "directory/", "new/"] {
        let target = path(target);
        let line = mkimg(args!["build", source(dir.path()), "-o", target]).output().code(1).error_line();
        assert!(line.contains("cannot create"), "{line}");
    }
    let before = std::fs::read(&image).unwrap();
    let line = mkimg(args!["seal", image, "-o", image]).output().code(1).error_line();
    assert!(line.contains("is the input itself"), "{line}");
    assert!(std::fs::read(&image).unwrap() == before);

    // What is replaced keeps its permissions, and a link to it keeps leading there.
    std::fs::write(path("private"), "old").unwrap();
    std::fs::set_permissions(path("private"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("private", path("link")).unwrap();
    let _ = mkimg(args!["build", source(dir.path()), "-o", path("link")]).ok();
    assert!(std::fs::read(path("private")).unwrap() == before);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path("private")).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    assert!(std::fs::symlink_metadata(path("link")).unwrap().is_symlink());
}

/// Whatever a name in an image says, a report shows it as one line of text.
#[test]
fn names_from_an_image_are_escaped() {
    let dir = scratch();
    let mut layout = Layout::create(&dir.path().join("oci"));
    let mut layer = layout.layer(None);
    layer.file("evil\u{1b}[31m\nroot hash 00", &Attr::default(), &images::pattern(5000, 2));
    layer.finish();
    layout.finish();
    let image = dir.path().join("we\nird.mkimg");
    let said = mkimg(args!["build", source(dir.path()), "-o", image]).ok().out();
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    let report = mkimg(args!["verify", image]).output().code(1).out();
    let listed = mkimg(args!["ls", "-l", image]).ok().out();
    for (text, lines) in [(&said, 3), (&report, 3), (&listed, 2)] {
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    assert!(report.contains("evil\\u{1b}[31m\\nroot hash 00"), "{report}");
}

#[test]
fn a_full_standard_output_is_an_error() {
    let (_dir, image) = with_image();
    for words in ["ls", "ls --json", "inspect", "inspect --json", "report", "report --json", "cat"] {
        let path = if words == "cat" { "/bin/tool" } else { "" };
        let script = format!(r#"exec "$0" {words} "$1" {path} >/dev/full"#);
        let done = command::tool("sh", args!["-c", script, mkimg_path(), image]).output();
        assert!(matches!(done.status.code(), Some(1 | 2)), "{words}: {:?}", done.status);
        let _ = done.error_line();
    }
}

/// `ls --json` against the extracted tree, attribute by attribute.
#[test]
fn root_ls_json_describes_the_extracted_tree() {
    require!(Need::Root);
    let (dir, image) = with_image();
    let out = dir.path().join("extracted");
    let _ = mkimg(args!["extract", image, out]).ok();
    let listing = Listing::of(&out);
    let lines = mkimg(args!["ls", "--json", image]).ok().json_lines();
    let mut seen = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in &lines {
        let path = line["path"].as_str().expect("every path of this image is UTF-8");
        let entry = listing.entries.get(path.as_bytes()).unwrap_or_else(|| panic!("{path}: not extracted"));
        let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("{path}: {key}: {}", line[key]));
        assert_eq!(line["type"], entry.kind, "{path}");
        assert_eq!(number("mode"), u64::from(entry.mode), "{path}");
        assert_eq!((number("uid"), number("gid")), (u64::from(entry.uid), u64::from(entry.gid)), "{path}");
        assert_eq!(line["mtime"], format!("{}.{:09}", entry.mtime.0, entry.mtime.1), "{path}");
        let xattrs: BTreeMap<Vec<u8>, String> = line["xattrs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_str().unwrap().to_owned()))
            .collect();
        let wanted: BTreeMap<Vec<u8>, String> =
            entry.xattrs.iter().map(|(name, value)| (name.clone(), base64(value))).collect();
        assert_eq!(xattrs, wanted, "{path}");
        match entry.kind {
            "file" => {
                assert_eq!(number("size"), entry.size, "{path}");
                assert_eq!(line["sha256"].as_str(), entry.sha256.as_deref(), "{path}");
            }
            "symlink" => {
                assert_eq!(line["target"].as_str().map(str::as_bytes), entry.target.as_deref(), "{path}");
            }
            "char" | "block" => {
                let (major, minor) = entry.rdev.unwrap();
                assert_eq!(line["rdev"], serde_json::json!([major, minor]), "{path}");
            }
            _ => {}
        }
        if entry.kind != "dir" {
            assert_eq!(number("nlink"), u64::from(entry.nlink), "{path}");
            inodes.entry(number("ino")).or_default().push(path.to_owned());
        }
        assert!(seen.insert(path.to_owned(), ()).is_none(), "{path}: twice");
    }
    assert_eq!(seen.len(), listing.entries.len(), "every path is listed");
    let linked: Vec<Vec<String>> = inodes.into_values().filter(|paths| paths.len() > 1).collect();
    assert_eq!(linked, [["/bin/tool", "/bin/tool2"]]);
    assert_eq!(loops_behind(&image), Vec::<String>::new(), "reading needs no loop device");
}

#[test]
fn json_outputs_parse() {
    let (_dir, image) = with_image();
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    for key in ["root_hash", "hash_offset", "data_blocks"] {
        assert!(!inspection["verity"][key].is_null(), "verity.{key}");
    }
    assert!(inspection["min_kernel"].is_string(), "min_kernel: {}", inspection["min_kernel"]);
    let digest = inspection["source"]["manifest_digest"].as_str().expect("source.manifest_digest");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert_eq!(inspection["layers"].as_array().map(Vec::len), Some(2));
    let report = mkimg(args!["verify", "--json", image]).ok().json_lines();
    assert!(report.iter().all(Value::is_object), "{report:?}");
    // The same run gives the same report.
    let again = mkimg(args!["verify", "--json", image]).ok().json_lines();
    assert_eq!(report.len(), again.len());
}

#[test]
fn cat_prints_content() {
    let (_dir, image) = with_image();
    assert_eq!(mkimg(args!["cat", image, "/bin/tool"]).ok().stdout, images::pattern(20_000, 1));
    assert_eq!(
        mkimg(args!["cat", image, "/bin/sh"]).ok().stdout,
        images::pattern(20_000, 1),
        "through a symlink"
    );
    assert_eq!(mkimg(args!["cat", image, "/etc/empty"]).ok().stdout, b"");
    let mut sparse = vec![0; 70_000];
    sparse[8192..8192 + 4096].copy_from_slice(&images::pattern(4096, 3));
    sparse[69_000..].copy_from_slice(&images::pattern(1000, 4));
    assert_eq!(mkimg(args!["cat", image, "/var/sparse"]).ok().stdout, sparse);
}

/// An extracted tree is audited against the image: each kind of change is found, and nothing else.
#[test]
fn root_verify_of_an_extracted_tree() {
    require!(Need::Root);
    let (dir, image) = with_image();
    let tree = dir.path().join("tree");
    let seal = dir.path().join("image.seal");
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let changes: &[(&str, &str)] = &[
        (
            "content",
            "printf B | dd of=etc/small bs=1 seek=2 conv=notrunc status=none; touch -d @1700000000 etc/small",
        ),
        ("mode", "chmod 755 etc/small"),
        ("uid", "chown 5 etc/small"),
        ("gid", "chgrp 5 etc/small"),
        ("mtime", "touch -d @1700000001 etc/small"),
        ("missing", "rm etc/small; touch -d @1700000000 etc"),
        ("size", "echo more >>etc/small; touch -d @1700000000 etc/small"),
        ("xattr", "setfattr -n user.extra -v 1 etc/small"),
        ("type", "rm etc/small; mkdir etc/small; touch -d @1700000000 etc/small etc"),
    ];
    let _ = mkimg(args!["extract", image, tree]).ok();
    let clean = mkimg(args!["verify", image, tree]).ok().out();
    assert!(clean.contains("nothing vouches for") && clean.contains("\nclean: "), "{clean}");
    for (kind, script) in changes {
        std::fs::remove_dir_all(&tree).unwrap();
        let _ = mkimg(args!["extract", image, tree]).ok();
        let _ = command::tool("sh", ["-euc", script]).current_dir(&tree).ok();
        for baseline in [
            args!["verify", "--json", image, tree].to_vec(),
            args!["verify", "--json", "--seal", seal, tree].to_vec(),
        ] {
            let lines = mkimg(baseline).output().code(1).json_lines();
            let found: Vec<_> = lines
                .iter()
                .filter_map(|line| Some((line["kind"].as_str()?, line["path"].as_str()?)))
                .collect();
            assert_eq!(found, [(*kind, "/etc/small")], "{lines:?}");
        }
        let field = match *kind {
            // More bytes are other content as well, and the first two are no attributes.
            "missing" | "type" | "size" => continue,
            "xattr" => "xattrs",
            other => other,
        };
        let _ = mkimg(args!["verify", image, tree, "--ignore", field]).ok();
        let _ = mkimg(args!["verify", image, tree, "--ignore-path", "/etc/small"]).ok();
    }
    // Records that are not what the root hash says are no baseline.
    let wrong = "0".repeat(64);
    let line = mkimg(args!["verify", image, tree, "--root-hash", wrong]).output().code(2).error_line();
    assert!(line.contains("cannot be trusted"), "{line}");
    let line = mkimg(args!["verify", image, dir.path().join("no-such-tree")]).output().code(2).error_line();
    assert!(line.contains("no-such-tree"), "{line}");
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0usize, |word, &byte| word << 8 | usize::from(byte));
        for i in 0..4 {
            text.push(if i <= group.len() { char::from(DIGITS[word >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    text
}

#[test]
fn base64_of_this_file() {
    for (bytes, text) in
        [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
    {
        assert_eq!(base64(bytes), text);
    }
}
