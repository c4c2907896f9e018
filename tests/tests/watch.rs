//! Watching trees through the program, on the running kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{mkimg, tool};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::Need;
use mkimg_tests::watch::Watch;
use mkimg_tests::{Seeded, args, audit, images, require, scratch};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An image, and a place for a tree of it.
struct Scene {
    dir: tempfile::TempDir,
    image: PathBuf,
    tree: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = scratch();
        images::one_of_everything(&dir.path().join("oci"));
        let (image, tree) = (dir.path().join("image.mkimg"), dir.path().join("tree"));
        let source = format!("oci:{}", dir.path().join("oci").display());
        let _ = mkimg(args!["build", source, "--compress", "none", "-o", image]).ok();
        Self { dir, image, tree }
    }

    fn extracted() -> Self {
        let scene = Self::new();
        let _ = mkimg(args!["extract", scene.image, scene.tree]).ok();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Watches the tree; times may differ, and `/spare` belongs to the test.
    fn watch(&self) -> Watch {
        let watch =
            Watch::start(&args![self.image, self.tree, "--ignore", "mtime", "--ignore-path", "/spare"]);
        assert_eq!(watch.audit.len(), 1, "the tree is clean at first: {:?}", watch.audit);
        watch
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A change, what has to be said about it, the way back, and what has to be said then.
struct Step {
    what: &'static str,
    change: fn(&Path),
    said: &'static [&'static str],
    back: fn(&Path),
    restored: &'static [&'static str],
}

const STEPS: &[Step] = &[
    Step {
        what: "a new file",
        change: |tree| fs::write(tree.join("etc/new"), b"new").unwrap(),
        said: &["extra /etc/new"],
        back: |tree| fs::remove_file(tree.join("etc/new")).unwrap(),
        restored: &["restored /etc/new"],
    },
    Step {
        what: "a file moved out",
        change: |tree| fs::rename(tree.join("etc/small"), tree.join("spare/small")).unwrap(),
        said: &["missing /etc/small"],
        back: |tree| fs::rename(tree.join("spare/small"), tree.join("etc/small")).unwrap(),
        restored: &["restored /etc/small"],
    },
    Step {
        what: "a deleted file",
        change: |tree| {
            let _ = tool("cp", args!["-a", tree.join("etc/small"), tree.join("spare/small")]).ok();
            fs::remove_file(tree.join("etc/small")).unwrap();
        },
        said: &["missing /etc/small"],
        back: |tree| fs::rename(tree.join("spare/small"), tree.join("etc/small")).unwrap(),
        restored: &["restored /etc/small"],
    },
    Step {
        what: "mode of a file",
        change: |tree| set_mode(&tree.join("etc/block"), 0o600),
        said: &["mode /etc/block"],
        back: |tree| set_mode(&tree.join("etc/block"), 0o644),
        restored: &["restored /etc/block"],
    },
    Step {
        what: "mode of a directory",
        change: |tree| set_mode(&tree.join("etc"), 0o700),
        said: &["mode /etc"],
        back: |tree| set_mode(&tree.join("etc"), 0o755),
        restored: &["restored /etc"],
    },
    Step {
        what: "mode of the root",
        change: |tree| set_mode(tree, 0o711),
        said: &["mode /"],
        back: |tree| set_mode(tree, 0o755),
        restored: &["restored /"],
    },
    Step {
        what: "an attribute",
        change: |tree| {
            rustix::fs::setxattr(tree.join("etc/block"), "trusted.x", b"v", XattrFlags::empty()).unwrap()
        },
        said: &["xattr /etc/block"],
        back: |tree| rustix::fs::removexattr(tree.join("etc/block"), "trusted.x").unwrap(),
        restored: &["restored /etc/block"],
    },
    Step {
        what: "more content",
        change: |tree| {
            OpenOptions::new().append(true).open(tree.join("etc/block")).unwrap().write_all(b"x").unwrap();
        },
        said: &["size /etc/block"],
        back: |tree| {
            OpenOptions::new().write(true).open(tree.join("etc/block")).unwrap().set_len(4096).unwrap();
        },
        restored: &["restored /etc/block"],
    },
    Step {
        what: "other content of the same size, and the same mode again",
        change: |tree| {
            let file = OpenOptions::new().read(true).write(true).open(tree.join("etc/block")).unwrap();
            flip(&file, 17);
        },
        said: &["content /etc/block"],
        back: |tree| {
            let file = OpenOptions::new().read(true).write(true).open(tree.join("etc/block")).unwrap();
            flip(&file, 17);
        },
        restored: &["restored /etc/block"],
    },
    Step {
        what: "a rename",
        change: |tree| fs::rename(tree.join("var/many/file-000"), tree.join("var/many/renamed")).unwrap(),
        said: &["missing /var/many/file-000", "extra /var/many/renamed"],
        back: |tree| fs::rename(tree.join("var/many/renamed"), tree.join("var/many/file-000")).unwrap(),
        restored: &["restored /var/many/file-000", "restored /var/many/renamed"],
    },
    Step {
        what: "a rename over something",
        change: |tree| {
            let _ = tool("cp", args!["-a", tree.join("etc/block"), tree.join("spare/block")]).ok();
            let _ = tool("cp", args!["-a", tree.join("etc/block"), tree.join("spare/other")]).ok();
            let file = OpenOptions::new().read(true).write(true).open(tree.join("spare/other")).unwrap();
            flip(&file, 4000);
            drop(file);
            fs::rename(tree.join("spare/other"), tree.join("etc/block")).unwrap();
        },
        said: &["content /etc/block"],
        back: |tree| fs::rename(tree.join("spare/block"), tree.join("etc/block")).unwrap(),
        restored: &["restored /etc/block"],
    },
    Step {
        what: "a hard link",
        change: |tree| fs::hard_link(tree.join("etc/small"), tree.join("var/link")).unwrap(),
        said: &["extra /var/link", "links /etc/small"],
        back: |tree| fs::remove_file(tree.join("var/link")).unwrap(),
        restored: &["restored /var/link", "restored /etc/small"],
    },
    Step {
        what: "a file changed by a name that came and went",
        change: |tree| {
            fs::hard_link(tree.join("etc/small"), tree.join("var/passing")).unwrap();
            set_mode(&tree.join("var/passing"), 0o644);
            fs::remove_file(tree.join("var/passing")).unwrap();
        },
        said: &["mode /etc/small"],
        back: |tree| set_mode(&tree.join("etc/small"), 0o600),
        restored: &["restored /etc/small"],
    },
    Step {
        what: "the same in a directory that has only just come",
        change: |tree| {
            fs::create_dir(tree.join("var/new")).unwrap();
            fs::hard_link(tree.join("etc/small"), tree.join("var/new/passing")).unwrap();
            set_mode(&tree.join("var/new/passing"), 0o644);
            fs::remove_file(tree.join("var/new/passing")).unwrap();
        },
        said: &["extra /var/new", "mode /etc/small"],
        back: |tree| {
            fs::remove_dir(tree.join("var/new")).unwrap();
            set_mode(&tree.join("etc/small"), 0o600);
        },
        restored: &["restored /var/new", "restored /etc/small"],
    },
    Step {
        what: "a directory with content",
        change: |tree| {
            fs::create_dir_all(tree.join("etc/d/e")).unwrap();
            set_mode(&tree.join("etc/d"), 0o700);
            fs::write(tree.join("etc/d/e/f"), b"f").unwrap();
        },
        said: &["extra /etc/d", "extra /etc/d/e", "extra /etc/d/e/f"],
        back: |tree| fs::write(tree.join("etc/d/e/g"), b"later").unwrap(),
        restored: &["extra /etc/d/e/g"],
    },
    Step {
        what: "a directory renamed, and a file in it changed",
        change: |tree| {
            fs::rename(tree.join("etc/d/e"), tree.join("etc/d/moved")).unwrap();
        },
        said: &[
            "restored /etc/d/e",
            "restored /etc/d/e/f",
            "restored /etc/d/e/g",
            "extra /etc/d/moved",
            "extra /etc/d/moved/f",
            "extra /etc/d/moved/g",
        ],
        back: |tree| fs::remove_file(tree.join("etc/d/moved/f")).unwrap(),
        restored: &["restored /etc/d/moved/f"],
    },
    Step {
        what: "a directory moved out of the tree, where nobody is told what happens in it",
        change: |tree| {
            fs::rename(tree.join("etc/d/moved"), tree.join("spare/moved")).unwrap();
        },
        said: &["restored /etc/d/moved", "restored /etc/d/moved/g"],
        back: |tree| {
            fs::write(tree.join("spare/moved/h"), b"h").unwrap();
            fs::remove_dir_all(tree.join("etc/d")).unwrap();
        },
        restored: &["restored /etc/d"],
    },
    Step {
        what: "a directory removed with its content",
        change: |tree| {
            let _ = tool("cp", args!["-a", tree.join("var/lib/state"), tree.join("spare/state")]).ok();
            fs::remove_dir_all(tree.join("var/lib/state")).unwrap();
        },
        said: &["missing /var/lib/state", "missing /var/lib/state/new"],
        back: |tree| fs::rename(tree.join("spare/state"), tree.join("var/lib/state")).unwrap(),
        restored: &["restored /var/lib/state", "restored /var/lib/state/new"],
    },
    Step {
        what: "a symbolic link with another target",
        change: |tree| {
            symlink("elsewhere", tree.join("spare/sh")).unwrap();
            fs::rename(tree.join("spare/sh"), tree.join("bin/sh")).unwrap();
        },
        said: &["target /bin/sh"],
        back: |tree| {
            symlink("tool", tree.join("spare/sh")).unwrap();
            fs::rename(tree.join("spare/sh"), tree.join("bin/sh")).unwrap();
        },
        restored: &["restored /bin/sh"],
    },
    Step {
        what: "a file in place of a directory",
        change: |tree| {
            let _ = tool("cp", args!["-a", tree.join("var/lib/state"), tree.join("spare/state")]).ok();
            fs::remove_dir_all(tree.join("var/lib/state")).unwrap();
            fs::write(tree.join("var/lib/state"), b"a file").unwrap();
        },
        said: &["type /var/lib/state", "missing /var/lib/state/new"],
        back: |tree| {
            fs::remove_file(tree.join("var/lib/state")).unwrap();
            fs::rename(tree.join("spare/state"), tree.join("var/lib/state")).unwrap();
        },
        restored: &["restored /var/lib/state", "restored /var/lib/state/new"],
    },
    Step {
        what: "what came and went",
        change: |tree| {
            fs::write(tree.join("etc/passing"), b"x").unwrap();
            fs::remove_file(tree.join("etc/passing")).unwrap();
            fs::write(tree.join("spare/unwatched"), b"x").unwrap();
            set_mode(&tree.join("spare"), 0o700);
        },
        said: &[],
        back: |_| {},
        restored: &[],
    },
];

fn flip(file: &fs::File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn walk_through(tree: &Path, watch: &Watch) {
    for step in STEPS {
        (step.change)(tree);
        watch.expect(step.what, step.said);
        (step.back)(tree);
        watch.expect(&format!("back from {}", step.what), step.restored);
    }
}

fn ends_with_differences(watch: Watch) {
    let (status, last) = watch.end("TERM");
    assert_eq!(
        (status, &last["differed"], &last["complete"]),
        (Some(1), &true.into(), &true.into()),
        "{last}"
    );
}

#[test]
fn root_each_change_of_an_extracted_tree() {
    require!(Need::Root);
    let scene = Scene::extracted();
    fs::create_dir(scene.tree.join("spare")).unwrap();
    let watch = scene.watch();
    walk_through(&scene.tree, &watch);

    // One inode, and each of its names.
    let path = scene.tree.join("bin/tool2");
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    flip(&file, 19_000);
    watch.expect("a file with two names", &["content /bin/tool", "content /bin/tool2"]);
    flip(&file, 19_000);
    watch.expect("still open for writing", &["restored /bin/tool", "restored /bin/tool2"]);
    ends_with_differences(watch);
}

#[test]
fn root_each_change_on_tmpfs() {
    require!(Need::Root);
    let scene = Scene::new();
    let _tmpfs = Mounted::tmpfs("16m", &scene.path("tmp"));
    let scene = Scene { tree: scene.path("tmp/tree"), ..scene };
    fs::remove_dir(&scene.tree).unwrap();
    let _ = mkimg(args!["extract", scene.image, scene.tree]).ok();
    fs::create_dir(scene.tree.join("spare")).unwrap();
    let watch = scene.watch();
    walk_through(&scene.tree, &watch);
    ends_with_differences(watch);
}

#[test]
fn root_each_change_of_an_overlay() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop);
    let scene = Scene::new();
    let (upper, work) = (scene.path("upper"), scene.path("work"));
    let _overlay = Mounted::adopt(&scene.path("tree"));
    let _ = mkimg(args!["mount", scene.image, scene.tree, "--upper", upper, "--work", work]).ok();
    fs::create_dir(scene.tree.join("spare")).unwrap();
    let watch = scene.watch();
    walk_through(&scene.tree, &watch);
    ends_with_differences(watch);
}

#[test]
fn root_times_of_directories() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let etc = scene.tree.join("etc");
    let shipped = rustix::fs::stat(&etc).unwrap();
    let watch = Watch::start(&args![scene.image, scene.tree]);
    fs::write(etc.join("new"), b"new").unwrap();
    watch.expect("a new file", &["extra /etc/new", "mtime /etc"]);
    fs::remove_file(etc.join("new")).unwrap();
    let said = ["restored /etc/new", "mtime /etc"];
    watch.expect("its directory has another time again", &said);
    let nanoseconds = i64::try_from(shipped.st_mtime_nsec).unwrap();
    let time = Timespec { tv_sec: shipped.st_mtime, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, etc, &times, AtFlags::empty()).unwrap();
    watch.expect("the time that was shipped", &["restored /etc"]);
}

#[test]
fn a_quiet_tree() {
    let scene = Scene::extracted();
    let watch = Watch::start(&args![scene.image, scene.tree, "--ignore-xattr", "trusted.*"]);
    let _ = mkimg(args!["verify", scene.image, scene.tree]).output();
    watch.expect_silence(Duration::from_secs(3));
    drop(watch);
}

#[test]
fn root_exit_status_of_a_clean_watch() {
    require!(Need::Root);
    let scene = Scene::extracted();
    for signal in ["TERM", "INT"] {
        let (status, last) = Watch::start(&args![scene.image, scene.tree]).end(signal);
        assert_eq!(
            (status, &last["event"], &last["differed"]),
            (Some(0), &"ended".into(), &false.into()),
            "{last}"
        );
    }
    // What happened right before the signal is told.
    let watch = Watch::start(&args![scene.image, scene.tree]);
    set_mode(&scene.tree.join("etc/block"), 0o600);
    let (status, last) = watch.end("TERM");
    assert_eq!((status, &last["differed"]), (Some(1), &true.into()), "{last}");
}

#[test]
fn root_a_queue_that_overflows() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let watch = Watch::start(&args![scene.image, scene.tree, "--ignore", "mtime"]);
    let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let most: u32 = most.trim().parse().unwrap();
    if most > 100_000 {
        mkimg_tests::need::skipped("the queue is too long to be filled");
        return;
    }
    watch.signal("STOP");
    for index in 0..=most {
        let path = scene.tree.join(format!("etc/{index}"));
        fs::write(&path, b"").unwrap();
        fs::remove_file(&path).unwrap();
    }
    set_mode(&scene.tree.join("etc/block"), 0o600);
    watch.signal("CONT");
    let lost =
        "unseen what came and went before everything was looked at again: the queue of events overflowed";
    watch.expect("everything anew", &["full the queue of events overflowed", lost, "mode /etc/block"]);
    // Marks are still there.
    set_mode(&scene.tree.join("etc/block"), 0o644);
    watch.expect("after that", &["restored /etc/block"]);
    let (status, last) = watch.end("TERM");
    assert_eq!((status, &last["complete"]), (Some(2), &false.into()), "{last}");
    assert!(last["unseen"][0].as_str().unwrap().contains("overflowed"), "{last}");
}

#[test]
fn root_something_mounted_inside() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let watch = Watch::start(&args![scene.image, scene.tree, "--ignore", "mtime"]);
    let full = "full something was mounted or unmounted";
    let inside = scene.tree.join("etc/small");
    let bound = Mounted::adopt(&inside);
    let _ = tool("mount", args!["--bind", scene.tree.join("etc/block"), inside]).ok();
    watch.expect("over a file", &[full, "mount /etc/small"]);
    drop(bound);
    watch.expect("unmounted", &[full, "restored /etc/small"]);
    let elsewhere = Mounted::tmpfs("1m", &scene.path("elsewhere"));
    watch.expect_silence(Duration::from_millis(500));
    drop(elsewhere);

    let over = Mounted::tmpfs("1m", &scene.tree);
    let (status, _) = watch.ended();
    assert_eq!(status, Some(2), "the tree is hidden");
    drop(over);
}

#[test]
fn root_the_tree_itself_is_moved() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let watch = Watch::start(&args![scene.image, scene.tree]);
    fs::rename(&scene.tree, scene.dir.path().join("moved")).unwrap();
    let (status, _) = watch.ended();
    assert_eq!(status, Some(2));
}

/// One random change of a tree, which need not succeed.
fn any_change(tree: &Path, random: &mut Seeded) {
    const DIRS: [&str; 6] = ["etc", "var/lib", "var/many", "bin", "etc/a", "etc/a/b"];
    const NAMES: [&str; 9] = ["a", "b", "small", "file-001", "file-002", "tool", "tool2", "state", "sh"];
    let mut path = || {
        let dir = DIRS[usize::try_from(random.below(6)).unwrap()];
        tree.join(dir).join(NAMES[usize::try_from(random.below(9)).unwrap()])
    };
    let (one, other) = (path(), path());
    let _ = match random.below(9) {
        0 => fs::create_dir(one),
        1 => fs::write(one, b"written"),
        2 => fs::remove_file(one),
        3 => fs::remove_dir_all(one),
        4 | 5 => fs::rename(one, other),
        6 => fs::hard_link(one, other),
        7 => symlink("target", one),
        _ => fs::set_permissions(one, Permissions::from_mode(0o700)),
    };
}

/// After whatever happened, the watch knows of the same paths as an audit that begins from nothing.
fn any_changes(tree: &Path, what: &[OsString], seed: u64) {
    let watch = Watch::start(what);
    let mut known = BTreeSet::new();
    let mut random = Seeded::new(seed);
    for round in 0..16 {
        for _ in 0..random.below(60) {
            any_change(tree, &mut random);
            std::thread::sleep(Duration::from_micros(random.below(8000)));
        }
        let audit = mkimg(["verify", "--json"]).args(what).output();
        let found = audit::findings(&audit.json_lines());
        let found: BTreeSet<String> = found.into_iter().flat_map(|finding| finding.paths).collect();
        for line in watch.until_silence() {
            let path = line["path"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
            if line["event"] == "restored" {
                assert!(known.remove(&path), "round {round}: {path} was not known to differ");
            } else {
                known.insert(path);
            }
        }
        assert_eq!(known, found, "round {round} of seed {seed}");
    }
}

#[test]
fn root_any_changes_of_an_extracted_tree() {
    require!(Need::Root);
    let scene = Scene::extracted();
    any_changes(&scene.tree, &args![scene.image, scene.tree, "--ignore", "mtime"], 31);
}

#[test]
fn root_any_changes_of_an_overlay() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop);
    let scene = Scene::new();
    let (upper, work) = (scene.path("upper"), scene.path("work"));
    let _overlay = Mounted::adopt(&scene.path("tree"));
    let _ = mkimg(args!["mount", scene.image, scene.tree, "--upper", upper, "--work", work]).ok();
    any_changes(&scene.tree, &args![scene.tree, "--ignore", "mtime"], 31);
}

#[test]
fn root_the_file_behind_a_mount() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::Loop);
    let scene = Scene::new();
    let spare = scene.dir.path().join("spare.mkimg");
    for via in ["file", "loop"] {
        let mounted = Mounted::adopt(&scene.path("tree"));
        let _ = mkimg(args!["mount", scene.image, scene.tree, "--via", via, "--verity", "once"]).ok();
        let watch = Watch::start(&args![scene.tree]);
        assert_eq!(watch.audit.len(), 1, "clean at first: {:?}", watch.audit);
        watch.expect_silence(Duration::from_millis(300));

        // The audit has read the page, so processes go on seeing it as it was.
        let file = OpenOptions::new().read(true).write(true).open(&scene.image).unwrap();
        let full = "full the image file changed";
        flip(&file, 5000);
        watch.expect("a byte of the file", &[full, "broken data"]);
        flip(&file, 5000);
        watch.expect("the byte again", &[full, "mended data"]);

        fs::copy(&scene.image, &spare).unwrap();
        fs::remove_file(&scene.image).unwrap();
        let below = "unseen the bytes below the mount, to which no name leads";
        let records = "unseen what processes see: there are no records to compare it with; compare it with a copy of \
                       the image or its seal: mkimg verify --seal SEAL DIR";
        let lost: &[&str] = if via == "loop" { &[] } else { &[below, records] };
        watch.expect("no file", &[&[full, "broken backing-deleted"], lost].concat());
        let (status, last) = watch.end("TERM");
        let wanted = if via == "loop" { Some(1) } else { Some(2) };
        assert_eq!(
            status, wanted,
            "{via}: without its file a mount straight from it cannot be audited: {last}"
        );

        // Nothing keeps the mount from ending.
        fs::rename(&spare, &scene.image).unwrap();
        let watch = Watch::start(&args![scene.tree]);
        let _ = tool("umount", args![scene.tree]).ok();
        assert_eq!(watch.ended().0, Some(2), "{via}");
        drop(mounted);
    }
}

#[test]
fn root_the_image_of_an_extracted_tree() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let watch = Watch::start(&args![scene.image, scene.tree]);
    let file = OpenOptions::new().read(true).write(true).open(&scene.image).unwrap();
    flip(&file, 5000);
    watch.expect("file data, which a tree is not compared with", &["full the image file changed"]);
    flip(&file, file.metadata().unwrap().len() - 4096);
    let (status, _) = watch.ended();
    assert_eq!(status, Some(2), "there is nothing to compare with any more");
}

#[test]
fn root_only_what_gives_power() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let seal = scene.dir.path().join("seal");
    let _ = mkimg(args!["seal", scene.image, "-o", seal]).ok();
    let watch = Watch::start(&args!["--seal", seal, scene.tree, "--only", "security"]);
    fs::write(scene.tree.join("etc/new"), b"new").unwrap();
    watch.expect("a plain file", &[]);
    set_mode(&scene.tree.join("etc/new"), 0o4755);
    watch.expect("a set-id file", &["extra /etc/new"]);
    set_mode(&scene.tree.join("etc/new"), 0o755);
    watch.expect("no set-id file any more", &["restored /etc/new"]);
}

#[test]
fn root_for_people() {
    require!(Need::Root);
    let scene = Scene::extracted();
    let output = scene.dir.path().join("output");
    let to = fs::File::create(&output).unwrap();
    let watch = std::process::Command::new(mkimg_tests::command::mkimg_path())
        .args(args!["watch", scene.image, scene.tree, "--ignore", "mtime"])
        .stdout(to)
        .spawn();
    let mut watch = watch.unwrap();
    let said = |wanted: &str| {
        let text = || fs::read_to_string(&output).unwrap();
        for _ in 0..400 {
            if text().contains(wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{wanted:?} is not said: {}", text());
    };
    said("clean: ");
    said("watching ");
    fs::create_dir(scene.tree.join("etc/new")).unwrap();
    said("  extra      /etc/new  dir ");
    fs::remove_dir(scene.tree.join("etc/new")).unwrap();
    said("  as shipped /etc/new\n");
    let _ = tool("kill", [watch.id().to_string()]).ok();
    assert_eq!(watch.wait().unwrap().code(), Some(1));
    said("ended: differences were seen\n");
}

#[test]
fn an_image_alone_is_not_watched() {
    let scene = Scene::new();
    let refused = mkimg(args!["watch", scene.image]).output().code(2);
    assert!(refused.error_line().contains("mkimg watch IMAGE DIR"), "{}", refused.err());
}
