//! Hostile images, and targets that somebody else prepares or changes. Beside every target lies a victim; a change
//! of anything about it fails the test.

use std::cell::Cell;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use mkimg_extract::{Error, Options, Summary, extract};
use mkimg_format::erofs::{FileSystem, Inode};
use mkimg_format::header::Header;
use tempfile::TempDir;

use crate::snapshot::{Snapshot, snapshot};
use crate::support::{
    child_image, extract_sealed, find, has_tool, image_of, is_root, patch, run_in_child, skip_unless, write,
};

/// A target with a victim beside it.
struct Scene {
    place: TempDir,
    before: Option<(Snapshot, Vec<(i64, i64)>)>,
}

impl Scene {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        for dir in ["source", "target", "victim", "victim/dir"] {
            std::fs::create_dir(place.path().join(dir)).unwrap();
        }
        write(&place.path().join("victim/file"), b"precious");
        write(&place.path().join("victim/dir/file"), b"precious too");
        Self { place, before: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Everything about the victim, times of change too.
    fn victim(&self) -> (Snapshot, Vec<(i64, i64)>) {
        let names = ["victim", "victim/dir", "victim/file", "victim/dir/file"];
        let times = names.map(|name| {
            let stat = self.path(name).metadata().unwrap();
            (stat.ctime(), stat.ctime_nsec())
        });
        (snapshot(&self.path("victim")), times.to_vec())
    }

    /// The trap is set: from here on the victim may not change.
    fn watch(&mut self) {
        self.before = Some(self.victim());
    }

    /// Extracts into the target as it is.
    fn merge(&mut self, image: &[u8]) -> Result<Summary, Error> {
        self.watch();
        let options = Options { into_existing: true, ..Options::default() };
        let result = extract_sealed(image, &self.path("target"), &options);
        self.check();
        result
    }

    fn check(&self) {
        assert_eq!(self.before.as_ref().unwrap(), &self.victim());
    }
}

/// `d/f`, and beside it `s -> x`, `p` a fifo, `h` and `i` one file.
fn example(scene: &Scene) -> Vec<u8> {
    let source = scene.path("source");
    std::fs::create_dir(source.join("d")).unwrap();
    write(&source.join("d/f"), b"from the image");
    write(&source.join("h"), b"two names");
    std::fs::hard_link(source.join("h"), source.join("i")).unwrap();
    symlink("x", source.join("s")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("p"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    image_of(&source)
}

#[test]
fn planted_entries_are_neither_followed_nor_overwritten() {
    type Plant = fn(&Path, &Path);
    let link: Plant = |at, victim| symlink(victim, at).unwrap();
    let link_to_file: Plant = |at, victim| symlink(victim.join("file"), at).unwrap();
    let dangling: Plant = |at, victim| symlink(victim.join("new"), at).unwrap();
    let hard: Plant = |at, victim| std::fs::hard_link(victim.join("file"), at).unwrap();
    let file: Plant = |at, _| write(at, b"mine");
    let dir: Plant = |at, _| std::fs::create_dir(at).unwrap();
    for (kind, plant) in [
        ("link", link),
        ("link to file", link_to_file),
        ("dangling", dangling),
        ("hard link", hard),
        ("file", file),
    ] {
        for name in ["d", "d/f", "h", "i", "s", "p"] {
            let mut scene = Scene::new();
            let image = example(&scene);
            let at = scene.path("target").join(name);
            if name == "d/f" {
                std::fs::create_dir(at.parent().unwrap()).unwrap();
            }
            plant(&at, &scene.path("victim"));
            let planted = at.symlink_metadata().unwrap().ino();
            let error = scene.merge(&image).unwrap_err();
            let expected = format!("/{name}");
            assert!(
                matches!(&error, Error::Exists { path } if path == expected.as_bytes()),
                "{kind} at {name}: {error}"
            );
            assert_eq!(at.symlink_metadata().unwrap().ino(), planted, "{kind} at {name}");
        }
    }
    // A directory is in the way of everything else.
    for name in ["h", "i", "s", "p"] {
        let mut scene = Scene::new();
        let image = example(&scene);
        dir(&scene.path("target").join(name), &scene.path("victim"));
        assert!(matches!(scene.merge(&image), Err(Error::Exists { .. })), "{name}");
    }
}

#[test]
fn the_target_is_resolved_once() {
    let mut scene = Scene::new();
    let image = example(&scene);
    symlink(scene.path("target"), scene.path("alias")).unwrap();
    symlink(scene.path("victim/new"), scene.path("dangling")).unwrap();
    symlink(scene.path("victim/file"), scene.path("to-file")).unwrap();
    scene.watch();
    for (name, doing) in [
        ("dangling", "cannot create directory"),
        ("dangling/", "cannot create directory"),
        ("to-file", "cannot open directory"),
        ("victim/file", "cannot open directory"),
        ("none/new", "cannot create directory"),
    ] {
        let path = scene.path(name);
        let error = extract_sealed(&image, &path, &Options::default()).unwrap_err();
        assert!(matches!(&error, Error::Target { doing: found, .. } if *found == doing), "{name}: {error}");
    }
    let error = extract_sealed(&image, &scene.path("victim"), &Options::default());
    assert!(matches!(error, Err(Error::NotEmpty { .. })));
    scene.check();
    // The user's own link to an empty directory is fine, and so is a slash behind a new name.
    extract_sealed(&image, &scene.path("alias"), &Options::default()).unwrap();
    assert!(scene.path("target/d/f").exists());
    extract_sealed(&image, &scene.path("fresh/"), &Options::default()).unwrap();
    assert!(scene.path("fresh/d/f").exists());
    scene.check();
}

/// Extracts, and does something to the target when the first content has been written.
fn interrupted(scene: &mut Scene, image: &[u8], act: &dyn Fn(&Path, &Path)) -> Result<Summary, Error> {
    let (target, victim) = (scene.path("target"), scene.path("victim"));
    let first = Cell::new(true);
    let after = Cell::new(None);
    let progress = |_| {
        if first.replace(false) {
            act(&target, &victim);
            after.set(Some(scene.victim()));
        }
    };
    let result = extract_sealed(image, &target, &Options { progress: Some(&progress), ..Options::default() });
    let after = after.take();
    assert!(after.is_some(), "nothing was written");
    scene.before = after;
    scene.check();
    result
}

#[test]
fn a_directory_that_becomes_a_link_is_noticed() {
    let mut scene = Scene::new();
    let image = example(&scene);
    let result = interrupted(&mut scene, &image, &|target, victim| {
        std::fs::rename(target.join("d"), target.join("moved")).unwrap();
        symlink(victim, target.join("d")).unwrap();
    });
    assert!(matches!(&result, Err(Error::Replaced { path }) if path == b"/d"), "{result:?}");
    assert!(scene.path("target/moved/f").exists());
}

#[test]
fn a_directory_that_becomes_another_one_is_noticed() {
    let mut scene = Scene::new();
    let image = example(&scene);
    let result = interrupted(&mut scene, &image, &|target, victim| {
        std::fs::rename(target.join("d"), target.join("moved")).unwrap();
        std::fs::rename(victim.join("dir"), target.join("d")).unwrap();
        std::fs::create_dir(victim.join("dir")).unwrap();
        write(&victim.join("dir/file"), b"stands in");
    });
    assert!(matches!(&result, Err(Error::Replaced { path }) if path == b"/d"), "{result:?}");
    assert_eq!(std::fs::read(scene.path("target/d/file")).unwrap(), b"precious too");
    assert_eq!(scene.path("target/d").read_dir().unwrap().count(), 1);
}

#[test]
fn a_link_far_above_the_open_directories_is_noticed() {
    let mut scene = Scene::new();
    let source = scene.path("source");
    let bottom = (0..100).fold(source.clone(), |path, _| {
        let below = path.join("d");
        std::fs::create_dir(&below).unwrap();
        below
    });
    write(&bottom.join("f"), b"deep");
    write(&source.join("d/d/z"), b"on the way back");
    let image = image_of(&source);
    let result = interrupted(&mut scene, &image, &|target, victim| {
        std::fs::create_dir(target.join("moved")).unwrap();
        std::fs::rename(target.join("d/d"), target.join("moved/d")).unwrap();
        symlink(victim, target.join("d/d")).unwrap();
    });
    assert!(matches!(&result, Err(Error::Replaced { path }) if path == b"/d/d"), "{result:?}");
}

#[test]
fn a_first_name_that_becomes_another_file_is_not_linked() {
    let mut scene = Scene::new();
    let source = scene.path("source");
    write(&source.join("h"), b"two names");
    std::fs::hard_link(source.join("h"), source.join("i")).unwrap();
    let image = image_of(&source);
    let result = interrupted(&mut scene, &image, &|target, victim| {
        std::fs::remove_file(target.join("h")).unwrap();
        std::fs::hard_link(victim.join("file"), target.join("h")).unwrap();
    });
    assert!(matches!(&result, Err(Error::Replaced { path }) if path == b"/i"), "{result:?}");
    assert!(!scene.path("target/i").exists());
}

#[test]
fn another_mount_in_the_target_is_not_entered() {
    const NAME: &str = "hostile::another_mount_in_the_target_is_not_entered";
    if let Some(image) = child_image() {
        let place = TempDir::new().unwrap();
        let inside = place.path().join("d");
        std::fs::create_dir(&inside).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &inside, "tmpfs", flags, None).unwrap();
        let options = Options { into_existing: true, ..Options::default() };
        let error = extract_sealed(&image, place.path(), &options).unwrap_err();
        assert_eq!(error.to_string(), "/d: cannot open directory: Invalid cross-device link (os error 18)");
        assert_eq!(inside.read_dir().unwrap().count(), 0);
        rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::empty()).unwrap();
        return;
    }
    if skip_unless(is_root() && has_tool("unshare"), "not root, or no unshare") {
        return;
    }
    run_in_child(&["unshare", "--mount"], NAME, &example(&Scene::new()));
}

#[test]
fn names_that_climb_out_are_errors() {
    let mut scene = Scene::new();
    let source = scene.path("source");
    std::fs::create_dir(source.join("dir")).unwrap();
    write(&source.join("dir/Q1_Q2_evil_name"), b"pwned");
    write(&source.join("dir/Q"), b"pwned");
    let good = image_of(&source);
    let at = find(&good, b"Q1_Q2_evil_name");
    for name in [
        &b"../../victim/xx"[..],
        b"/victim/new/xxx",
        b"x/../../victim/",
        b"..\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b".\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let mut image = good.clone();
        patch(&mut image, at, name);
        let error = scene.merge(&image).unwrap_err();
        assert!(matches!(&error, Error::Image { path, .. } if path == b"/dir"), "{name:?}: {error}");
        std::fs::remove_dir_all(scene.path("target")).unwrap();
        std::fs::create_dir(scene.path("target")).unwrap();
    }
}

fn inode(image: &[u8], path: &[u8]) -> Inode {
    let fs = FileSystem::open(image.to_vec()).unwrap();
    fs.resolve(path, false).unwrap()
}

#[test]
fn a_link_count_that_lies_is_an_error() {
    let mut scene = Scene::new();
    let mut image = example(&scene);
    let inode = inode(&image, b"/h");
    // `i_nlink` of a compact or an extended inode.
    patch(&mut image, inode.offset + if inode.inode_len == 32 { 6 } else { 44 }, &1_u16.to_le_bytes());
    let error = scene.merge(&image).unwrap_err();
    assert!(matches!(&error, Error::LinkCount { path, .. } if path == b"/i"), "{error}");
}

#[test]
fn a_directory_that_contains_itself_is_an_error() {
    let mut scene = Scene::new();
    std::fs::create_dir(scene.path("source/dir")).unwrap();
    std::fs::create_dir(scene.path("source/dir/below")).unwrap();
    let mut image = image_of(&scene.path("source"));
    let (dir, below) = (inode(&image, b"/dir").nid.0, inode(&image, b"/dir/below").nid.0);
    let last =
        image.windows(8).enumerate().filter(|(_, bytes)| *bytes == below.to_le_bytes()).map(|(at, _)| at);
    let places: Vec<usize> = last.collect();
    // In the directory itself (`.`) and in its parent; the seal's record is left alone by the reader.
    for at in places {
        patch(&mut image, at as u64, &dir.to_le_bytes());
    }
    let fs = FileSystem::open(image).unwrap();
    scene.watch();
    let error = extract(&fs, None, &scene.path("target"), &Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Image { path, .. } if path == b"/dir/below"), "{error}");
    scene.check();
}

#[test]
fn an_owner_that_no_file_can_have_is_left_out() {
    if skip_unless(is_root(), "not root") {
        return;
    }
    let scene = Scene::new();
    std::fs::create_dir(scene.path("source/d")).unwrap();
    write(&scene.path("source/d/f"), b"content");
    // More than a compact inode holds.
    std::os::unix::fs::chown(scene.path("source/d/f"), Some(70_000), None).unwrap();
    let mut image = image_of(&scene.path("source"));
    let file = inode(&image, b"/d/f");
    assert_eq!(file.inode_len, 64);
    // `i_uid` and `i_mode`.
    patch(&mut image, file.offset + 24, &u32::MAX.to_le_bytes());
    patch(&mut image, file.offset + 4, &0o104_755_u16.to_le_bytes());
    let summary = extract_sealed(&image, &scene.path("target"), &Options::default()).unwrap();
    let whats: Vec<&str> = summary.skipped.iter().map(|skipped| skipped.what.as_str()).collect();
    assert_eq!(
        whats,
        ["owner 4294967295:0 is none that a file can have", "set-id bits of mode 4755: owner not restored"]
    );
    assert_eq!(scene.path("target/d/f").metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn damaged_content_is_found_and_removed() {
    let scene = Scene::new();
    let source = scene.path("source");
    write(&source.join("a"), b"good");
    let mut content = vec![7; 3 << 20];
    content[2 << 20..(2 << 20) + 16].copy_from_slice(b"sixteen letters!");
    write(&source.join("b"), &content);
    let mut image = image_of(&source);
    let at = find(&image, b"sixteen letters!");
    patch(&mut image, at, b"S");
    let target = scene.path("target");
    let error = extract_sealed(&image, &target, &Options::default()).unwrap_err();
    let sealed = *blake3::hash(&content).as_bytes();
    content[2 << 20] = b'S';
    let found = *blake3::hash(&content).as_bytes();
    match error {
        Error::Digest { path, found: f, sealed: s } => {
            assert_eq!((&path[..], f, s), (&b"/b"[..], found, sealed))
        }
        other => panic!("{other}"),
    }
    // What came before stays.
    assert_eq!(snapshot(&target).keys().collect::<Vec<_>>(), [&b""[..], b"a"]);
    // Nobody is told without digests.
    let fs = FileSystem::open(image).unwrap();
    extract(&fs, None, &scene.path("second"), &Options::default()).unwrap();
    assert_eq!(std::fs::read(scene.path("second/b")).unwrap(), content);
    // A seal that says nothing about a file is no seal.
    let error = extract(&fs, Some(&|_| Ok(None)), &scene.path("third"), &Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Unsealed { path } if path == b"/a"), "{error}");
}

#[test]
fn damaged_metadata_never_reaches_the_victim() {
    let mut scene = Scene::new();
    let good = example(&scene);
    let header = Header::read(&good).unwrap();
    let (start, end) = (header.meta_block * 4096, header.seal_block * 4096);
    scene.watch();
    let (mut whole, mut refused) = (0, 0);
    // The structures, without the zeros behind the last one.
    let length = good[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]
        .iter()
        .rposition(|byte| *byte != 0);
    let end = start + length.unwrap() as u64 + 1;
    for at in (start..end).step_by(2).chain([1024, 1036, 1038, 1064]) {
        for flip in [0x01, 0x80, 0xff] {
            let mut image = good.clone();
            image[usize::try_from(at).unwrap()] ^= flip;
            let target = scene.path("damaged");
            // Without digests: nothing stops a tree of the wrong shape early.
            let result = FileSystem::open(image)
                .map_err(|source| Error::Image { path: Vec::new(), source })
                .and_then(|fs| extract(&fs, None, &target, &Options::default()));
            match result {
                Ok(_) => whole += 1,
                Err(Error::Image { .. } | Error::LinkCount { .. } | Error::Exists { .. }) => refused += 1,
                Err(other) => panic!("byte {at} ^ {flip:#x}: {other}"),
            }
            if target.exists() {
                std::fs::remove_dir_all(&target).unwrap();
            }
        }
    }
    assert!(whole > 50 && refused > 200, "{whole} extracted, {refused} refused");
    scene.check();
    let mut left: Vec<_> =
        scene.place.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["source", "target", "victim"]);
}
