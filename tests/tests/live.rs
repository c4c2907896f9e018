//! Audits of mounts as the kernel makes them: what processes see, the bytes below, and what the kernel knows.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{mkimg, tool};
use mkimg_tests::listing::Listing;
use mkimg_tests::live::{Stage, Verdict, WAYS, drop_caches, sh};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, require};
use std::os::unix::fs::FileExt;

macro_rules! require_mounts {
    () => {
        require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop)
    };
}

#[test]
fn root_healthy_however_it_is_mounted_and_used() {
    require_mounts!();
    require!(Need::Tool("python3"));
    let stage = Stage::new();
    for way in WAYS {
        let guards = stage.mount_by(way);
        stage.verify(&[]).assert_healthy(way);
        stage.verify(&["--threads", "1"]).assert_healthy(way);
        stage.verify(&["--only", "security"]).assert(way, 0, &[]);

        // A process that has a directory, an open file and a mapped one.
        let script = "import mmap, os, sys, time
os.chdir('etc'); small = open('small'); small.read(1)
block = open('block', 'rb'); mapped = mmap.mmap(block.fileno(), 0, prot=mmap.PROT_READ); mapped[:]
print('ready', flush=True); time.sleep(600)";
        let mut user = tool("python3", ["-c", script]).current_dir(&stage.point).spawn();
        let mut ready = [0; 6];
        std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut ready).unwrap();
        stage.verify(&[]).assert_healthy(way);
        let _ = Listing::of(&stage.point);
        stage.verify(&[]).assert_healthy(way);
        drop_caches();
        stage.verify(&[]).assert_healthy(way);
        user.kill().unwrap();
        user.wait().unwrap();

        // The same mount seen somewhere else.
        let other = Mounted::new(&["--bind"], &stage.point, &stage.path("other"));
        Verdict::of(&mkimg(args!["verify", "--json", other.path()]).output()).assert_healthy(way);
        drop(other);
        drop(guards);
    }
    stage.assert_clean();
}

/// A fresh overlay shows the root that was shipped, whatever that is and however its directories came to be.
#[test]
fn root_a_fresh_overlay_is_clean() {
    require_mounts!();
    let stage = Stage::with(|dir| {
        let script = "mkdir root; echo x >root/x; chown 123:456 root; chmod 1733 root
            setfattr -n user.a -v b root; setfattr -n trusted.c -v d root; touch -d @-5.25 root";
        let _ = sh(dir, script);
        format!("dir:{}", dir.join("root").display())
    });
    for (what, before) in [
        ("directories made by mkimg", "true"),
        ("empty directories", "mkdir upper work"),
        (
            "odd empty directories",
            "mkdir -m 4701 upper; mkdir -m 700 work; chown 9:9 upper; touch -d @7 upper",
        ),
    ] {
        let _ = stage.sh(&format!("rm -rf upper work; {before}"));
        for time in ["first", "second"] {
            let what = format!("{what}, {time} mount");
            let guard = stage.mount(&["--upper", "upper", "--work", "work"]);
            stage.verify(&[]).assert_healthy(&what);
            stage.verify(&[]).assert_healthy(&what);
            drop(guard);
        }
    }
    stage.assert_clean();
}

/// Data that processes have read stays as it was in the page cache: then the file alone tells.
#[test]
fn root_data_changed_below_a_mount() {
    require_mounts!();
    let stage = Stage::new();
    let below = "file data 4096 /bin/tool /bin/tool2";
    let seen = ["content /bin/tool [privileged] 0+4096", "content /bin/tool2 [privileged] 0+4096", below];
    for way in WAYS {
        let guards = stage.mount_by(way);
        stage.flip(4106);
        stage.verify(&[]).assert(&format!("{way}: not yet read"), 1, &seen);
        stage.verify(&["--only", "security"]).assert(&format!("{way}: security"), 1, &seen);
        let text = stage.text(&[]);
        let marked = text.lines().filter(|line| line.ends_with("[not by the overlay]")).count();
        assert_eq!(marked, if way.contains("overlay") || way == "by hand" { 2 } else { 0 }, "{text}");
        stage.flip(4106);
        drop_caches();
        stage.verify(&[]).assert_healthy(&format!("{way}: restored"));

        stage.flip(4106);
        stage.verify(&[]).assert(&format!("{way}: read"), 1, &[below]);
        assert_eq!(std::fs::read(stage.point.join("bin/tool")).unwrap()[10], {
            let mut byte = [0];
            std::fs::File::open(&stage.image).unwrap().read_exact_at(&mut byte, 4106).unwrap();
            byte[0] ^ 1
        });
        drop_caches();
        stage.verify(&[]).assert(&format!("{way}: forgotten"), 1, &seen);
        stage.flip(4106);
        drop(guards);
    }
    stage.assert_clean();
}

/// Below an overlay, what was done to the image is told from what the overlay did.
#[test]
fn root_data_changed_below_a_changed_overlay() {
    require_mounts!();
    let stage = Stage::new();
    let whole = std::fs::read(&stage.image).unwrap();
    let block = images::pattern(4096, 2);
    let block = whole.chunks_exact(4096).position(|found| found == block).unwrap() as u64 * 4096;
    let by_tool = "file data 4096 /bin/tool /bin/tool2";
    let by_block = format!("file data {block} /etc/block");
    let options = "lowerdir=@/low,upperdir=@/upper,workdir=@/work";
    for (what, mount) in [
        ("overlay", None),
        ("by hand", Some(options.to_owned())),
        ("data left below", Some(format!("metacopy=on,{options}"))),
    ] {
        let guards = match &mount {
            None => vec![stage.overlay()],
            Some(options) => stage.by_hand(options, "").into(),
        };
        let script = "chmod 600 etc/block; echo x >>bin/server; rm etc/small; exec 3<>bin/tool2";
        let _ = sh(&stage.point, script);
        stage.flip(4106);
        stage.flip(block + 5);
        drop_caches();
        let mut found = vec![
            "content /bin/tool [privileged] 0+4096",
            "links /bin/tool metadata@upper",
            "links /bin/tool2 metadata@upper",
            "missing /etc/small deleted@upper",
            "mode /etc/block metadata@upper",
            "mtime /bin/server metadata@upper",
            "mtime /etc metadata@upper",
            "size /bin/server content@upper 5000+1",
            "xattr /bin/server metadata@upper",
            by_tool,
            &by_block,
        ];
        if what == "data left below" {
            found.push("content /etc/block 0+4096");
        }
        stage.verify(&[]).assert(what, 1, &found);
        let text = stage.text(&[]);
        let blamed = text.lines().filter(|line| line.ends_with("[not by the overlay]"));
        let blamed: Vec<&str> = blamed.map(|line| line.split_whitespace().nth(2).unwrap()).collect();
        let wanted: &[&str] =
            if what == "data left below" { &["/bin/tool", "/etc/block"] } else { &["/bin/tool"] };
        assert_eq!(blamed, wanted, "{text}");
        stage.flip(4106);
        stage.flip(block + 5);
        drop(guards);
    }
    stage.assert_clean();
}

/// Without records that can be trusted nobody knows what processes should see.
#[test]
fn root_records_changed_below_a_mount() {
    require_mounts!();
    let stage = Stage::new();
    let (metadata, seal) = (stage.area("metadata"), stage.area("seal"));
    let (verity, trailer) = (stage.area("verity"), stage.area("trailer"));
    for way in WAYS {
        for (region, offset, block, why) in [
            ("header", 100, 0, "the records cannot be found"),
            ("superblock", 1100, 1024, "cannot be trusted"),
            ("seal", seal + 70, seal, "cannot be trusted"),
            ("verity-superblock", verity + 40, verity, "cannot be trusted"),
            ("tree", verity + 4099, verity + 4096, "cannot be trusted"),
            ("trailer", trailer + 100, trailer, "cannot be trusted"),
        ] {
            let what = format!("{way}: {region}");
            let guards = stage.mount_by(way);
            stage.flip(offset);
            let verdict = stage.verify(&[]);
            verdict.assert(&what, 2, &[&format!("file {region} {block}")]);
            verdict.assert_unseen(&what, why);
            stage.verify(&["--only", "security"]).assert(&what, 2, &[&format!("file {region} {block}")]);
            stage.flip(offset);
            drop(guards);
        }
        // Whatever has an inode in the block that was changed.
        let guards = stage.mount_by(way);
        stage.flip(metadata + 70);
        let verdict = stage.verify(&[]);
        let [found] = verdict.found.as_slice() else { panic!("{way}: {:?}", verdict.found) };
        assert!(
            found.starts_with(&format!("file metadata {metadata} / /bin /bin/server ")),
            "{way}: {found}"
        );
        assert_eq!(verdict.code, Some(2), "{way}");
        verdict.assert_unseen(way, "cannot be trusted");
        stage.flip(metadata + 70);
        drop(guards);
    }
    stage.assert_clean();
}

/// What is done to the file of a mount, and what is said then if it is mounted straight, straight below an overlay of
/// mkimg, and by a loop device.
type Fate = (&'static str, &'static str, [(i32, &'static [&'static str]); 3]);

const FATES: [Fate; 10] = [
    (
        "cut in the data",
        "truncate -s 40960 image.mkimg",
        [
            (2, &["file truncated 40960"]),
            (2, &["file truncated 40960"]),
            (2, &["file truncated 40960", "kernel backing-truncated"]),
        ],
    ),
    (
        "cut by the trailer",
        "truncate -s -4096 image.mkimg",
        [
            (2, &["file truncated 122880"]),
            (2, &["file truncated 122880"]),
            (2, &["file truncated 122880", "kernel backing-truncated"]),
        ],
    ),
    ("longer", "echo x >>image.mkimg", [(1, &["file trailing 126976"]); 3]),
    (
        "deleted",
        "rm image.mkimg",
        [
            (2, &["kernel backing-deleted"]),
            (2, &["kernel backing-deleted"]),
            (1, &["kernel backing-deleted"]),
        ],
    ),
    // The kernel knows the new name of the file of a loop device.
    (
        "renamed",
        "mv image.mkimg away",
        [(2, &["kernel backing-deleted"]), (2, &["kernel backing-deleted"]), (0, &[])],
    ),
    (
        "another image",
        "mv another image.mkimg",
        [
            (2, &["kernel backing-replaced"]),
            (2, &["kernel backing-replaced"]),
            (1, &["kernel backing-replaced"]),
        ],
    ),
    // Mounted straight from a file, the kernel does not tell which file of the same UUID it is.
    (
        "a copy",
        "cp master copy; mv copy image.mkimg",
        [(0, &[]), (2, &["kernel backing-replaced"]), (1, &["kernel backing-replaced"])],
    ),
    (
        "a directory",
        "rm image.mkimg; mkdir image.mkimg",
        [(2, &[]), (2, &[]), (1, &["kernel backing-replaced"])],
    ),
    ("a second name", "ln image.mkimg second", [(0, &[]); 3]),
    ("another time", "touch -d @1 image.mkimg", [(0, &[]); 3]),
];

#[test]
fn root_the_file_itself_goes() {
    require_mounts!();
    let stage = Stage::new();
    let _ = stage.sh("cp image.mkimg master; mkdir t; echo x >t/x");
    let _ =
        mkimg(args!["build", format!("dir:{}", stage.path("t").display()), "-o", stage.path("kept")]).ok();
    for (what, script, verdicts) in FATES {
        for way in WAYS {
            let what = format!("{way}: {what}");
            let _ = stage.sh("cp kept another");
            let guards = stage.mount_by(way);
            stage.verify(&[]).assert_healthy(&what);
            let _ = stage.sh(script);
            let [straight, overlay, by_loop] = verdicts;
            let (code, found) = match way {
                "file" | "by hand" => straight,
                "overlay" => overlay,
                _ => by_loop,
            };
            let verdict = stage.verify(&[]);
            verdict.assert(&what, code, found);
            assert_eq!(verdict.summary["unseen"].as_array().unwrap().is_empty(), code != 2, "{what}");
            stage.verify(&["--only", "security"]).assert(&what, code, found);
            drop(guards);
            let _ = stage.sh("rm -rf image.mkimg second away; cp master image.mkimg");
        }
    }
    stage.assert_clean();
}

/// What a loop device shows is read below its cache, wherever in a file it begins, and when no name leads there.
#[test]
fn root_the_bytes_below_a_loop_device() {
    require_mounts!();
    let stage = Stage::new();
    let seen = ["content /bin/tool [privileged] 0+4096", "content /bin/tool2 [privileged] 0+4096"];
    let below = "file data 4096 /bin/tool /bin/tool2";

    let _ = stage.sh("truncate -s 1M shifted; cat image.mkimg >>shifted");
    let guard =
        Mounted::new(&["-t", "erofs", "-o", "ro,loop,offset=1048576"], &stage.path("shifted"), &stage.point);
    stage.verify(&[]).assert_healthy("at an offset");
    let shifted = std::fs::OpenOptions::new().write(true).open(stage.path("shifted")).unwrap();
    shifted.write_all_at(b"XYZ", (1 << 20) + 4106).unwrap();
    stage.verify(&[]).assert("at an offset, read", 1, &[below]);
    drop_caches();
    stage.verify(&[]).assert("at an offset, forgotten", 1, &[seen[0], seen[1], below]);
    shifted.set_len((1 << 20) + 40960).unwrap();
    let verdict = stage.verify(&[]);
    assert_eq!(verdict.code, Some(2), "{:?}", verdict.found);
    assert!(verdict.found.contains(&"kernel backing-truncated".to_owned()), "{:?}", verdict.found);
    drop(guard);

    let guards = stage.mount_by("loop");
    let open = std::fs::OpenOptions::new().write(true).open(&stage.image).unwrap();
    let _ = stage.sh("cp image.mkimg copy; mv copy image.mkimg");
    stage.verify(&[]).assert("a copy has its name", 1, &["kernel backing-replaced"]);
    open.write_all_at(b"XYZ", 4106).unwrap();
    stage.verify(&[]).assert("the real one changed", 1, &["kernel backing-replaced", below]);
    drop(guards);
    stage.assert_clean();
}

/// Files and directories that something is mounted on.
#[test]
fn root_mounts_inside() {
    require_mounts!();
    let stage = Stage::new();
    let _ = stage.sh("echo other >other; mkdir dir");
    for way in WAYS {
        let guards = stage.mount_by(way);
        let _ = stage.sh("cp -a mnt/etc/small same; mount --bind same mnt/etc/small");
        stage.verify(&[]).assert(way, 1, &["mount /etc/small"]);
        stage.verify(&["--only", "security"]).assert(way, 1, &["mount /etc/small"]);
        stage.verify(&["--cross-mounts"]).assert_healthy(way);
        stage.verify(&["--ignore-path", "/etc/small"]).assert_healthy(way);

        let _ = stage.sh("mount --bind other mnt/etc/block; mount -t tmpfs -o mode=755 tmpfs mnt/var/lib; : >mnt/var/lib/su; chmod 4755 mnt/var/lib/su");
        stage.verify(&[]).assert(way, 1, &["mount /etc/block", "mount /etc/small", "mount /var/lib"]);
        stage.verify(&["--cross-mounts"]).assert(
            way,
            1,
            &[
                "extra /var/lib/su [set-id]",
                "missing /var/lib/state",
                "missing /var/lib/state/new",
                "mtime /etc/block",
                "mtime /var/lib",
                "size /etc/block 0+1",
            ],
        );
        let security = ["--cross-mounts", "--only", "security"];
        stage.verify(&security).assert(way, 1, &["extra /var/lib/su [set-id]"]);
        stage
            .verify(&["--ignore-path", "/etc/small", "--ignore-path", "/etc/b*", "--ignore-path", "/var/lib"])
            .assert_healthy(way);
        drop(guards);
    }
    stage.assert_clean();
}

/// Of an overlay, what is behind a mount inside it is not by the overlay, though it changed the same paths.
#[test]
fn root_mounts_inside_a_changed_overlay() {
    require_mounts!();
    let stage = Stage::new();
    let guard = stage.overlay();
    let _ = stage
        .sh("echo other >other; chmod 600 mnt/etc/block; rm mnt/var/lib/state/new; chmod 600 mnt/etc/far
         mount --bind other mnt/etc/block; mount -t tmpfs -o mode=755 tmpfs mnt/var/lib");
    stage.verify(&["--ignore", "mtime"]).assert(
        "not entered",
        1,
        &["mode /etc/far metadata@upper", "mount /etc/block", "mount /var/lib"],
    );
    stage.verify(&["--ignore", "mtime", "--cross-mounts"]).assert(
        "entered",
        1,
        &[
            "missing /var/lib/state",
            "missing /var/lib/state/new",
            "mode /etc/far metadata@upper",
            "size /etc/block 0+1",
        ],
    );
    drop(guard);
    stage.assert_clean();
}

/// Mounts that hide all of an image.
#[test]
fn root_mounts_on_top() {
    require_mounts!();
    let stage = Stage::new();
    let _ = stage.sh("mkdir dir");
    for way in WAYS {
        let guards = stage.mount_by(way);
        let mut found = Vec::new();
        for script in ["mount -t tmpfs tmpfs mnt", "mount --bind dir mnt", "mount -t proc proc mnt"] {
            let _ = stage.sh(script);
            found.push("kernel over-mounted");
            let verdict = stage.verify(&[]);
            verdict.assert(way, 2, &found);
            verdict.assert_unseen(way, "hidden by another mount");
            stage.verify(&["--only", "security"]).assert(way, 2, &found);
            // It still says what is in the file.
            stage.flip(4106);
            let mut both = found.clone();
            both.push("file data 4096 /bin/tool /bin/tool2");
            stage.verify(&[]).assert(way, 2, &both);
            stage.flip(4106);
        }
        let _ = stage.sh("umount mnt; umount mnt; umount mnt");
        stage.verify(&[]).assert_healthy(way);
        drop(guards);
    }
    // An overlay over its own lower directory hides nothing.
    let low = stage.mount(&[]);
    let _ = stage.sh("rm -rf upper work; mkdir upper work; chmod --reference=mnt upper; touch -r mnt upper
         mount -t overlay -o lowerdir=$PWD/mnt,upperdir=$PWD/upper,workdir=$PWD/work overlay mnt");
    stage.verify(&[]).assert_healthy("over itself");
    let _ = stage.sh("echo x >>mnt/etc/small");
    stage.verify(&[]).assert(
        "over itself",
        1,
        &["mtime /etc/small metadata@upper", "size /etc/small content@upper 12+1"],
    );
    drop(low);
    stage.assert_clean();
}
