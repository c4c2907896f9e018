//! `mkimg diff`: two images differ as an image and the tree of the other do, and each path knows its layers.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{mkimg, tool};
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, require, scratch};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// What both commands say of a difference, without the layers that only `diff` knows.
fn bare(mut lines: Vec<Value>) -> Vec<Value> {
    lines.pop().unwrap();
    for line in &mut lines {
        let fields = line.as_object_mut().unwrap();
        fields.remove("first_layer");
        fields.remove("second_layer");
    }
    lines
}

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn poke(path: PathBuf, at: u64, byte: u8) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
}

fn run(program: &str, words: &[&str], path: PathBuf) {
    let _ = tool(program, words).args(args![path]).ok();
}

/// (what, how, kinds that must be among the findings of the paths that end so)
type Change = (&'static str, fn(&Path), &'static [(&'static str, &'static str)]);

const CHANGES: &[Change] = &[
    ("nothing", |_| {}, &[]),
    ("a byte", |tree| poke(tree.join("etc/block"), 4000, 0), &[("/etc/block", "content")]),
    ("longer", |tree| poke(tree.join("etc/small"), 100, 0), &[("/etc/small", "size")]),
    ("a byte in a hole", |tree| poke(tree.join("var/sparse"), 40_000, 1), &[("/var/sparse", "content")]),
    ("mode", |tree| chmod(tree.join("etc/small"), 0o640), &[("/etc/small", "mode")]),
    ("set-id", |tree| chmod(tree.join("bin/server"), 0o4755), &[("/bin/server", "mode")]),
    (
        "owner",
        |tree| run("chown", &["-h", "7:8"], tree.join("bin/sh")),
        &[("/bin/sh", "uid"), ("/bin/sh", "gid")],
    ),
    (
        "time",
        |tree| run("touch", &["-d", "@5.000000001"], tree.join("etc/empty")),
        &[("/etc/empty", "mtime")],
    ),
    (
        "target",
        |tree| {
            fs::remove_file(tree.join("bin/sh")).unwrap();
            symlink("server", tree.join("bin/sh")).unwrap();
        },
        &[("/bin/sh", "target"), ("/bin", "mtime")],
    ),
    (
        "device",
        |tree| {
            fs::remove_file(tree.join("dev/null")).unwrap();
            let null = tree.join("dev/null");
            let _ = tool("mknod", args!["-m", "666", null, "c", "1", "5"]).ok();
        },
        &[("/dev/null", "rdev")],
    ),
    (
        "a broken link",
        |tree| {
            let bytes = fs::read(tree.join("bin/tool")).unwrap();
            fs::remove_file(tree.join("bin/tool2")).unwrap();
            fs::write(tree.join("bin/tool2"), bytes).unwrap();
            chmod(tree.join("bin/tool2"), 0o4755);
        },
        &[("/bin/tool2", "links")],
    ),
    (
        "an extra link",
        |tree| fs::hard_link(tree.join("etc/empty"), tree.join("etc/empty2")).unwrap(),
        &[("/etc/empty", "links"), ("/etc/empty2", "extra")],
    ),
    (
        "xattrs",
        |tree| {
            run("setfattr", &["-n", "user.shared", "-v", "other"], tree.join("var/many/file-001"));
            run("setfattr", &["-n", "user.new", "-v", "new"], tree.join("etc/block"));
            run("setfattr", &["-x", "user.dir"], tree.join("etc"));
            run("setcap", &["cap_net_raw=ep"], tree.join("etc/small"));
        },
        &[
            ("/var/many/file-001", "xattr"),
            ("/etc/block", "xattr"),
            ("/etc", "xattr"),
            ("/etc/small", "xattr"),
        ],
    ),
    (
        "a directory less",
        |tree| fs::remove_dir_all(tree.join("var/many")).unwrap(),
        &[("/var/many", "missing"), ("/var/many/file-000", "missing"), ("/var/many/file-039", "missing")],
    ),
    (
        "a directory more",
        |tree| {
            fs::create_dir_all(tree.join("opt/deep/deeper")).unwrap();
            fs::write(tree.join("opt/deep/deeper/suid"), "x").unwrap();
            chmod(tree.join("opt/deep/deeper/suid"), 0o4755);
        },
        &[("/opt", "extra"), ("/opt/deep/deeper/suid", "extra")],
    ),
    (
        "types",
        |tree| {
            fs::remove_dir_all(tree.join("var/many")).unwrap();
            fs::write(tree.join("var/many"), "").unwrap();
            fs::remove_file(tree.join("etc/block")).unwrap();
            fs::create_dir_all(tree.join("etc/block/new")).unwrap();
        },
        &[
            ("/var/many", "type"),
            ("/var/many/file-000", "missing"),
            ("/etc/block", "type"),
            ("/etc/block/new", "extra"),
        ],
    ),
    (
        "odd names",
        |tree| {
            fs::write(tree.join("etc/new\nline"), "").unwrap();
            fs::write(tree.join("x".repeat(255)), "").unwrap();
        },
        &[("/etc/new\nline", "extra")],
    ),
];

/// A second image of the changed tree must differ from the first as the tree does: two ways to one answer.
#[test]
fn root_two_images_differ_as_an_image_and_a_tree() {
    require!(Need::Root, Need::Tool("setfattr"), Need::Tool("setcap"));
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let first = dir.path().join("first.mkimg");
    let _ = mkimg(args![
        "build",
        "--compress",
        "none",
        format!("oci:{}", dir.path().join("oci").display()),
        "-o",
        first
    ])
    .ok();
    for (index, (what, change, wanted)) in CHANGES.iter().enumerate() {
        let tree = dir.path().join(format!("tree{index}"));
        let second = dir.path().join(format!("second{index}.mkimg"));
        let _ = mkimg(args!["extract", first, tree]).ok();
        change(&tree);
        let _ =
            mkimg(args!["build", "--compress", "none", format!("dir:{}", tree.display()), "-o", second]).ok();
        let code = i32::from(!wanted.is_empty());
        let by_tree = bare(mkimg(args!["verify", "--json", first, tree]).output().code(code).json_lines());
        let by_image = bare(mkimg(args!["diff", "--json", first, second]).output().code(code).json_lines());
        assert_eq!(by_image, by_tree, "{what}");
        let by_dir = bare(mkimg(args!["diff", "--json", first, tree]).output().code(code).json_lines());
        assert_eq!(by_dir, by_tree, "{what}");
        for (path, kind) in *wanted {
            let found = by_image.iter().any(|line| line["path"] == *path && line["kind"] == *kind);
            assert!(found, "{what}: no {kind} of {path} in {by_image:#?}");
        }
        // Of two seals, where content differs is told by the block.
        let seals = [&first, &second].map(|image| {
            let seal = image.with_extension("seal");
            let _ = mkimg(args!["seal", image, "-o", seal]).ok();
            seal
        });
        let by_seal =
            bare(mkimg(args!["diff", "--json", seals[0], seals[1]]).output().code(code).json_lines());
        for (exact, rough) in by_image.iter().zip(&by_seal) {
            let mut expected = exact.clone();
            if let Some(at) = exact["offset"].as_u64() {
                let grown = rough["offset_unit"] == 1;
                expected["offset"] = json!(if grown { at } else { at / 4096 * 4096 });
                expected["offset_unit"] = json!(if grown { 1 } else { 4096 });
            }
            assert_eq!(*rough, expected, "{what}");
        }
        assert_eq!(by_seal.len(), by_image.len(), "{what}");
        // What gives power comes first, and alone if nothing else is wanted.
        let powers: Vec<&Value> = by_image.iter().filter(|line| line["security"].is_string()).collect();
        let only = mkimg(args!["diff", "--only", "security", "--json", first, second]);
        let only = bare(only.output().code(i32::from(!powers.is_empty())).json_lines());
        assert_eq!(only.iter().collect::<Vec<_>>(), powers, "{what}");
        assert_eq!(by_image.iter().take(powers.len()).collect::<Vec<_>>(), powers, "{what}");
        fs::remove_dir_all(&tree).unwrap();
    }
}

/// Layer by layer, as the sources have them.
#[test]
fn each_path_knows_its_layers() {
    let dir = scratch();
    let build = |name: &str, layers: &[&[(&str, &str)]]| {
        let (source, image) = (dir.path().join(name), dir.path().join(format!("{name}.mkimg")));
        let mut layout = Layout::create(&source);
        for files in layers {
            let mut layer = layout.layer(None);
            for (path, content) in *files {
                match content.strip_prefix("->") {
                    Some(target) => layer.symlink(path, target),
                    None => layer.file(path, &Attr::default(), content.as_bytes()),
                }
            }
            layer.finish();
        }
        layout.finish();
        let _ = mkimg(args!["build", format!("oci:{}", source.display()), "-o", image, "--name", name]).ok();
        image
    };
    let first = build("one", &[&[("a", "1"), ("b", "1"), ("gone", "1")], &[("b", "2"), ("l", "->a")]]);
    let second = build("two", &[&[("a", "1"), ("b", "1")], &[], &[("b", "3"), ("l", "->b"), ("new", "3")]]);
    let lines = mkimg(args!["diff", "--json", first, second]).output().code(1).json_lines();
    let told: Vec<(&str, &str, Option<u64>, Option<u64>)> = lines[..lines.len() - 1]
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap();
            (text("path"), text("kind"), line["first_layer"].as_u64(), line["second_layer"].as_u64())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("/b", "content", Some(1), Some(2)),
            ("/gone", "missing", Some(0), None),
            ("/l", "target", Some(1), Some(2)),
            ("/new", "extra", None, Some(2)),
        ]
    );
    let summary = lines.last().unwrap();
    assert_eq!(summary["first"]["name"], "one");
    assert_eq!(summary["second"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&summary["equal"], &summary["findings"], &summary["entries"]),
        (&json!(false), &json!(4), &json!(4))
    );

    let text = mkimg(args!["diff", first, second]).output().code(1).out();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("--- ") && lines[0].ends_with(", 2 layers"), "{text}");
    assert_eq!(
        lines[2..],
        [
            "  content    /b  differs from byte 0 on  (layer 1 -> 2)",
            "  deleted    /gone  file 0644, 1 bytes  (layer 0)",
            "  metadata   /l  target a -> b  (layer 1 -> 2)",
            "  added      /new  file 0644, 1 bytes  (layer 2)",
            "4 paths differ; 4 names compared, content by its sealed digests",
        ]
    );
    // As it is with itself, whatever is left out.
    let done = mkimg(args!["diff", first, first]).ok();
    assert!(
        done.out().ends_with("equal: 5 names compared, content by its sealed digests\n"),
        "{}",
        done.out()
    );
    let ignored = args![
        "diff",
        first,
        second,
        "--ignore",
        "content",
        "--ignore",
        "target",
        "--ignore-path",
        "/{gone,new}"
    ];
    let _ = mkimg(ignored).output().code(1);
    let ignored = args![
        "diff",
        first,
        second,
        "--ignore",
        "content",
        "--ignore",
        "target",
        "--ignore-path",
        "/gone",
        "--ignore-path",
        "/new"
    ];
    let _ = mkimg(ignored).ok();
}

#[test]
fn what_cannot_be_compared_exits_with_2() {
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", format!("oci:{}", dir.path().join("oci").display()), "-o", image]).ok();
    let damaged = dir.path().join("damaged.mkimg");
    let mut bytes = fs::read(&image).unwrap();
    // The seal: what it says would be compared.
    let seal = mkimg(args!["inspect", "--json", image]).ok().json();
    let place = seal["areas"].as_array().unwrap().iter().find(|area| area["name"] == "seal").unwrap();
    let at = usize::try_from(place["offset"].as_u64().unwrap()).unwrap() + 4096;
    bytes[at] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let nothing = dir.path().join("nothing");
    let text = dir.path().join("text");
    fs::write(&text, "x".repeat(9000)).unwrap();
    for (first, second, part) in [
        (&image, &damaged, "its records cannot be trusted"),
        (&damaged, &image, "its records cannot be trusted"),
        (&nothing, &image, "nothing"),
        (&image, &nothing, "nothing"),
        (&image, &text, "text"),
        (&dir.path().to_path_buf(), &image, "the image comes first: mkimg diff IMAGE DIR"),
    ] {
        let line = mkimg(args!["diff", first, second]).output().code(2).error_line();
        assert!(line.contains(part), "{line}");
    }
    let _ = mkimg(args!["diff", image]).output().code(2);
}
