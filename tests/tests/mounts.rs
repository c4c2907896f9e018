//! Mounting through the program, on the running kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg, mkimg_path};
use mkimg_tests::listing::Listing;
use mkimg_tests::mount::{Exclusive, Mounted, is_mount_point, loop_devices, loops_behind};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::signer::Signer;
use mkimg_tests::{args, images, require, scratch};
use std::path::{Path, PathBuf};

/// Root, a lock, an image, and an empty directory to mount on.
struct Scene {
    dir: tempfile::TempDir,
    image: PathBuf,
    point: PathBuf,
    loops: Vec<(String, String)>,
    _one_at_a_time: Exclusive,
}

impl Scene {
    fn new() -> Self {
        let lock = Exclusive::take();
        let dir = scratch();
        images::one_of_everything(&dir.path().join("oci"));
        let (image, point) = (dir.path().join("image.mkimg"), dir.path().join("mnt"));
        let source = format!("oci:{}", dir.path().join("oci").display());
        let _ = mkimg(args!["build", source, "--compress", "none", "-o", image]).ok();
        std::fs::create_dir(&point).unwrap();
        Self { dir, image, point, loops: loop_devices(), _one_at_a_time: lock }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Nothing of the test is left in the kernel.
    fn assert_clean(&self) {
        assert!(!is_mount_point(&self.point), "still mounted");
        assert_eq!(loops_behind(&self.image), Vec::<String>::new(), "loop devices left behind");
        assert_eq!(loop_devices(), self.loops, "loop devices before and after");
    }
}

macro_rules! require_mounts {
    () => {
        require!(Need::Root, Need::FileSystem("erofs"), Need::Loop)
    };
}

fn has_device_mapper() -> bool {
    std::fs::read_to_string("/proc/misc")
        .unwrap_or_default()
        .lines()
        .any(|line| line.ends_with("device-mapper"))
}

#[test]
fn root_mount_list_read_umount() {
    require_mounts!();
    let scene = Scene::new();
    let guard = Mounted::adopt(&scene.point);
    let said = mkimg(args!["mount", scene.image, scene.point]).ok().everything();
    assert!(!said.trim().is_empty(), "mount says which guarantee holds");
    assert!(is_mount_point(&scene.point));
    let options = command::tool("findmnt", args!["-no", "FSTYPE,OPTIONS", scene.point]).ok().out();
    assert!(options.starts_with("erofs") && options.contains("ro"), "{options}");

    let listed = mkimg(["mounts"]).ok().out();
    assert!(listed.contains(scene.point.to_str().unwrap()), "{listed}");
    assert!(listed.contains(scene.image.to_str().unwrap()), "{listed}");

    let extracted = scene.dir.path().join("extracted");
    let _ = mkimg(args!["extract", scene.image, extracted]).ok();
    Listing::of(&scene.point).assert_same(&Listing::of(&extracted), "mount (left) and extract (right)");
    let write = std::fs::write(scene.point.join("etc/new"), "x").unwrap_err();
    assert_eq!(write.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let _ = mkimg(args!["umount", scene.point]).ok();
    let listed = mkimg(["mounts"]).ok().out();
    assert!(!listed.contains(scene.point.to_str().unwrap()), "{listed}");
    drop(guard);
    scene.assert_clean();
}

#[test]
fn root_overlay_takes_changes_and_leaves_the_image_alone() {
    require_mounts!();
    require!(Need::FileSystem("overlay"));
    let scene = Scene::new();
    // The upper directory on a tmpfs: an overlay cannot have one on another overlay, where tests may run.
    let writable = Mounted::tmpfs("16m", &scene.path("writable"));
    let (upper, work) = (writable.path().join("upper"), writable.path().join("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).unwrap();
    }
    let guard = Mounted::adopt(&scene.point);
    let _ = mkimg(args!["mount", scene.image, scene.point, "--upper", upper, "--work", work]).ok();
    let listed = mkimg(["mounts"]).ok().out();
    assert!(listed.contains(upper.to_str().unwrap()), "{listed}");

    let script =
        "echo new >etc/added; echo changed >etc/small; rm etc/block; chmod 6755 bin/server; rm -r var/many";
    let _ = command::tool("sh", ["-euc", script]).current_dir(&scene.point).ok();
    assert_eq!(std::fs::read(scene.point.join("etc/small")).unwrap(), b"changed\n");
    assert!(upper.join("etc/added").is_file() && !scene.point.join("var/many").exists());
    let _ = mkimg(args!["verify", scene.image]).ok();

    let _ = mkimg(args!["umount", scene.point]).ok();
    drop(guard);
    drop(writable);
    scene.assert_clean();
}

#[test]
fn root_kernel_verity_fails_closed_without_device_mapper() {
    require_mounts!();
    if has_device_mapper() {
        return skipped("this kernel has device-mapper");
    }
    let scene = Scene::new();
    for (options, reason) in [
        ("--verity kernel", "no device-mapper"),
        ("--verity kernel --on-corruption eio", "no device-mapper"),
        ("--on-corruption restart", "no device-mapper"),
        ("--on-corruption panic", "no device-mapper"),
        ("--kernel-signature", "no device-mapper"),
        ("--kernel-signature --on-corruption panic", "no device-mapper"),
        ("--verity once --on-corruption eio", "--on-corruption needs --verity kernel"),
        ("--verity off --on-corruption panic", "--on-corruption needs --verity kernel"),
        ("--verity once --kernel-signature", "--kernel-signature needs --verity kernel"),
    ] {
        let guard = Mounted::adopt(&scene.point);
        let refused =
            mkimg(args!["mount", scene.image, scene.point]).args(options.split(' ')).output().code(1);
        let line = refused.error_line();
        assert!(line.contains(reason), "{options}: {line}");
        drop(guard);
        scene.assert_clean();
    }
    // Auto says aloud that the kernel does not check, and what it does instead.
    let guard = Mounted::adopt(&scene.point);
    let said = mkimg(args!["mount", scene.image, scene.point]).ok().out();
    assert!(said.contains("checked once before the mount"), "{said}");
    assert!(said.contains("later changes of the backing file are not noticed by the kernel"), "{said}");
    let _ = mkimg(args!["umount", scene.point]).ok();
    drop(guard);
    scene.assert_clean();
}

#[test]
fn root_kernel_verity_mounts_with_device_mapper() {
    require_mounts!();
    if !has_device_mapper() {
        return skipped("this kernel has no device-mapper");
    }
    let scene = Scene::new();
    let guard = Mounted::adopt(&scene.point);
    let _ = mkimg(args!["mount", scene.image, scene.point, "--verity", "kernel"]).ok();
    let source = command::tool("findmnt", args!["-no", "SOURCE", scene.point]).ok().out();
    assert!(source.starts_with("/dev/mapper/") || source.starts_with("/dev/dm-"), "{source}");
    let _ = mkimg(args!["umount", scene.point]).ok();
    drop(guard);
    scene.assert_clean();
}

/// Damaged images are not mounted by a policy that checks, whatever is damaged.
#[test]
fn root_damaged_images_are_refused() {
    require_mounts!();
    let scene = Scene::new();
    let good = std::fs::read(&scene.image).unwrap();
    let inspection = mkimg(args!["inspect", "--json", scene.image]).ok().json();
    let hash_offset = usize::try_from(inspection["verity"]["hash_offset"].as_u64().unwrap()).unwrap();
    let guard = Mounted::adopt(&scene.point);
    for offset in [100, 1024, 4096, hash_offset / 2, hash_offset - 4096, hash_offset + 40, hash_offset + 4096]
    {
        let mut bytes = good.clone();
        bytes[offset] ^= 1;
        std::fs::write(&scene.image, &bytes).unwrap();
        for policy in ["auto", "once"] {
            if policy == "auto" && has_device_mapper() {
                continue; // dm-verity then answers at the time of reading
            }
            let done = mkimg(args!["mount", scene.image, scene.point, "--verity", policy]).output().code(1);
            let _ = done.error_line();
            assert!(!is_mount_point(&scene.point), "{policy}: mounted with a flipped bit at {offset}");
        }
    }
    std::fs::write(&scene.image, &good).unwrap();
    let wrong = "0".repeat(64);
    let _ =
        mkimg(args!["mount", scene.image, scene.point, "--root-hash", wrong]).output().code(1).error_line();
    drop(guard);
    scene.assert_clean();
}

#[test]
fn root_unchecked_mounts_are_made_only_when_asked() {
    require_mounts!();
    let scene = Scene::new();
    let guard = Mounted::adopt(&scene.point);
    let said = mkimg(args!["mount", scene.image, scene.point, "--verity", "off"]).ok().everything();
    assert!(!said.trim().is_empty(), "mount says that nothing is guaranteed");
    let _ = mkimg(args!["umount", scene.point]).ok();
    let said = mkimg(args!["mount", scene.image, scene.point, "--verity", "once"]).ok().everything();
    assert!(said.contains("once"), "{said}");
    let _ = mkimg(args!["umount", scene.point]).ok();
    drop(guard);
    scene.assert_clean();
}

#[test]
fn root_umount_of_something_else_is_refused() {
    require_mounts!();
    let scene = Scene::new();
    let _ = mkimg(args!["umount", scene.point]).output().code(1).error_line();
    let foreign = Mounted::tmpfs("1m", &scene.path("foreign"));
    let _ = mkimg(args!["umount", foreign.path()]).output().code(1).error_line();
    assert!(is_mount_point(foreign.path()), "somebody else's mount is left alone");
    drop(foreign);
    scene.assert_clean();
}

/// Several mounts of one image, an odd mount point, and what a mount on a mounted directory leaves.
#[test]
fn root_many_mounts_of_one_image() {
    require_mounts!();
    let scene = Scene::new();
    let points: Vec<PathBuf> =
        ["a", "with space", "back\\slash", "new\nline"].map(|name| scene.path(name)).into();
    let guards: Vec<Mounted> = points.iter().map(|point| Mounted::adopt(point)).collect();
    for point in &points {
        let _ = mkimg(args!["mount", scene.image, point]).ok();
    }
    for point in points.iter().rev() {
        assert!(is_mount_point(point));
        assert_eq!(std::fs::read(point.join("etc/small")).unwrap(), b"a few bytes\n");
        let _ = mkimg(args!["umount", point]).ok();
    }
    drop(guards);
    scene.assert_clean();
}

/// `mount -t mkimg IMAGE DIR`: mount(8) looks for `mount.mkimg` in its fixed folders, so the test puts one there in a
/// mount namespace of its own, with an overlay over the folder. The system does not see it.
#[test]
fn root_mount_8_finds_the_helper() {
    require_mounts!();
    require!(Need::Tool("unshare"), Need::Tool("openssl"), Need::FileSystem("overlay"));
    let scene = Scene::new();
    let [signer, stranger] = ["signer", "stranger"].map(|name| Signer::new(scene.dir.path(), name));
    let _ = mkimg(args!["sign", scene.image, "--key", signer.key]).ok();
    // Its name as a cargo program; installed it is mount.mkimg.
    let helper = mkimg_path().with_file_name("mount-mkimg");
    let script = r#"
        mount -t tmpfs -o mode=0755 tmpfs "$4" && mkdir "$4/upper" "$4/work"
        folder=$(readlink -f /sbin)
        mount -t overlay -o "lowerdir=$folder,upperdir=$4/upper,workdir=$4/work" overlay "$folder"
        cp "$1" "$folder/mount.mkimg"
        mount -t mkimg "$2" "$3"
        cat "$3/etc/small"
        findmnt -no FSTYPE "$3" >&2
        umount "$3"
        mount -t mkimg -o ro,verity=once "$2" "$3"
        umount "$3"
        ! mount -t mkimg -o verity=nonsense "$2" "$3" 2>/dev/null
        mount -t mkimg -o "key=$5,minepoch=0" "$2" "$3"
        umount "$3"
        ! mount -t mkimg -o on_corruption=panic,verity=once "$2" "$3"
        ! mount -t mkimg -o "key=$6" "$2" "$3"
    "#;
    let tmp = scene.path("sbin");
    let done = command::tool("unshare", args!["-m", "--propagation", "private", "sh", "-euc", script, "sh"])
        .args(args![helper, scene.image, scene.point, tmp, signer.public, stranger.public])
        .ok();
    assert_eq!(
        done.out().lines().find(|line| line.contains("bytes")),
        Some("a few bytes"),
        "{}",
        done.everything()
    );
    assert!(done.err().contains("erofs"), "{}", done.everything());
    assert!(done.err().contains("option on_corruption: needs verity=kernel"), "{}", done.everything());
    assert!(done.err().contains("no signature holds: there is none of key"), "{}", done.everything());
    scene.assert_clean();
}

/// An image on a tmpfs, on the disk, and reached through a symlink and a relative path.
#[test]
fn root_wherever_the_image_lies() {
    require_mounts!();
    let scene = Scene::new();
    let memory = Mounted::tmpfs("16m", &scene.path("memory"));
    std::fs::copy(&scene.image, memory.path().join("copy.mkimg")).unwrap();
    std::os::unix::fs::symlink(&scene.image, scene.dir.path().join("link.mkimg")).unwrap();
    let places: [(PathBuf, &Path); 3] = [
        (memory.path().join("copy.mkimg"), Path::new("/")),
        (scene.dir.path().join("link.mkimg"), Path::new("/")),
        (PathBuf::from("./image.mkimg"), scene.dir.path()),
    ];
    for (image, cwd) in places {
        let guard = Mounted::adopt(&scene.point);
        let _ = mkimg(args!["mount", image, scene.point]).current_dir(cwd).ok();
        assert_eq!(
            std::fs::read(scene.point.join("etc/small")).unwrap(),
            b"a few bytes\n",
            "{}",
            image.display()
        );
        let _ = mkimg(args!["umount", scene.point]).ok();
        drop(guard);
    }
    assert_eq!(loops_behind(&memory.path().join("copy.mkimg")), Vec::<String>::new());
    drop(memory);
    scene.assert_clean();
}
