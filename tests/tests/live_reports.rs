//! Audits of mounts: what is refused, what the report says to people, and mounts that change meanwhile.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{Run, mkimg, mkimg_path, tool};
use mkimg_tests::live::{Stage, Verdict, WAYS, sh};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::Need;
use mkimg_tests::{args, require};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

macro_rules! require_mounts {
    () => {
        require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop)
    };
}

#[test]
fn root_what_is_no_mount_of_an_image_is_refused() {
    require_mounts!();
    let stage = Stage::new();
    let guard = stage.mount(&[]);
    for (what, script, target, words) in [
        ("a directory", "true", "", "no mount point, but a directory of the mount at /"),
        ("inside a mount", "true", "mnt/etc", "/mnt/etc: no mount point, but a directory of the mount at /"),
        ("a part", "mount --bind mnt/etc t", "t", "/t: shows only /etc of the image"),
        ("a tmpfs", "mount -t tmpfs none t", "t", "/t: tmpfs from none, which is no mkimg image"),
        ("proc", "mount -t proc none t", "t", "/t: proc from none, which is no mkimg image"),
        (
            "an overlay over two images",
            "$MKIMG mount image.mkimg two; mount -t overlay -o lowerdir=$PWD/mnt:$PWD/two overlay t",
            "t",
            "/t: overlay from overlay, which is no mkimg image and no overlay over exactly one",
        ),
        (
            "an overlay over a part",
            "mount -t overlay -o lowerdir=$PWD/mnt/etc:$PWD/mnt/var overlay t",
            "t",
            "/t: overlay from overlay, which is no mkimg image and no overlay over exactly one",
        ),
        (
            "a part of an overlay",
            "mkdir -p upper work; $MKIMG mount image.mkimg two --upper upper --work work; mount --bind two/etc t",
            "t",
            "/t: shows only /etc of the image",
        ),
        ("nothing", "true", "nowhere", "/nowhere: No such file or directory"),
    ] {
        let _ = stage.sh("mkdir -p t two");
        let guards = ["t", "two"].map(|name| Mounted::adopt(&stage.path(name)));
        let script = script.replace("$MKIMG", mkimg_path().to_str().unwrap());
        let _ = stage.sh(&script);
        for options in [&["--json"][..], &[]] {
            let done = mkimg(args!["verify", stage.path(target)]).args(options).output().code(2);
            assert!(done.error_line().contains(words), "{what}: {}", done.err());
            assert_eq!(done.out(), "", "{what}");
        }
        drop(guards);
    }
    drop(guard);
    stage.assert_clean();
}

#[test]
fn root_another_erofs_is_not_compared() {
    require_mounts!();
    require!(Need::Tool("mkfs.erofs"));
    let stage = Stage::new();
    let _ = stage.sh("mkdir tree; echo x >tree/x");
    let _ = tool("mkfs.erofs", args![stage.path("other"), stage.path("tree")]).ok();
    let guard = Mounted::erofs(&stage.path("other"), &stage.point);
    let verdict = stage.verify(&[]);
    verdict.assert("an EROFS of mkfs.erofs", 2, &[]);
    verdict
        .assert_unseen("an EROFS of mkfs.erofs", "mkimg has not written this image, so there are no records");
    verdict
        .assert_unseen("an EROFS of mkfs.erofs", "the backing file: no dm-verity tree that mkimg can check");
    drop(guard);
    stage.assert_clean();
}

/// Somebody without power is told so, and never that all is well.
#[test]
fn root_unprivileged_users_do_not_see_everything() {
    require_mounts!();
    require!(Need::Tool("setpriv"));
    let stage = Stage::with(|dir| {
        let _ = sh(dir, "chmod 755 .; mkdir root; echo x >root/x; chmod 644 root/x; chmod 755 root");
        format!("dir:{}", dir.join("root").display())
    });
    let nobody = |args: &[std::ffi::OsString]| {
        let who = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        tool("setpriv", who).args([mkimg_path()]).args(args).output()
    };
    if !nobody(&args!["--version"]).status.success() {
        return mkimg_tests::need::skipped("other users cannot run the program where it lies");
    }
    for (way, mode, found, words) in [
        ("file", 0o644, 2, "xattrs trusted.*"),
        ("file", 0o600, 2, "the backing file: "),
        ("mount(8)", 0o600, 2, "the backing file: "),
        ("overlay", 0o644, 2, "xattrs trusted.*"),
    ] {
        std::fs::set_permissions(&stage.image, std::fs::Permissions::from_mode(mode)).unwrap();
        let guards = stage.mount_by(way);
        let verdict = Verdict::of(&nobody(&args!["verify", "--json", stage.point]));
        assert_eq!(verdict.code, Some(found), "{way}, {mode:o}");
        verdict.assert_unseen(way, words);
        assert_eq!(verdict.found, Vec::<String>::new(), "{way}, {mode:o}");
        drop(guards);
    }
    // A mount point that may not be opened.
    let guards = stage.overlay();
    let _ = stage.sh("chmod 700 mnt");
    let done = nobody(&args!["verify", stage.point]).code(2);
    assert!(done.error_line().contains("mnt: Permission denied"), "{}", done.err());
    drop(guards);
    stage.assert_clean();
}

#[test]
fn root_the_root_hash_decides_whose_image_it_is() {
    require_mounts!();
    let stage = Stage::new();
    let (right, wrong) = (stage.root_hash(), "0".repeat(64));
    for way in WAYS {
        let guards = stage.mount_by(way);
        let first = |options: &[&str]| stage.text(options).lines().next().unwrap().to_owned();
        let point = stage.point.display();

        let verdict = stage.verify(&["--root-hash", &right]);
        verdict.assert_healthy(way);
        assert_eq!(verdict.summary["anchored"], true);
        assert_eq!(verdict.summary["root_hash"], *right);
        assert_eq!(first(&["--root-hash", &right]), format!("{point}: checked against the given root hash"));

        let verdict = stage.verify(&[]);
        assert_eq!(verdict.summary["anchored"], false);
        let own = "checked against the records in its own image; give --root-hash, --key or --cert to know whose they are";
        assert_eq!(first(&[]), format!("{point}: {own}"));

        let verdict = stage.verify(&["--root-hash", &wrong]);
        assert_eq!(verdict.code, Some(2), "{way}");
        assert_eq!(verdict.found, [format!("file root-hash {}", stage.area("verity") + 4096)], "{way}");
        verdict.assert_unseen(way, "the records in the backing file cannot be trusted");
        let text = stage.text(&["--root-hash", &wrong]);
        assert!(text.contains(&right) && text.contains(&wrong), "{text}");
        assert!(text.lines().last().unwrap().starts_with("NOT clean: "), "{text}");

        // What was not looked at was not checked against anything.
        let cover = Mounted::tmpfs("1m", &stage.point);
        let _ = stage.sh("mv image.mkimg away");
        if way == "file" {
            let verdict = stage.verify(&["--root-hash", &right]);
            verdict.assert(way, 2, &["kernel backing-deleted", "kernel over-mounted"]);
            assert_eq!(verdict.summary["anchored"], false);
            let none = "nothing could be checked against the given root hash";
            assert_eq!(first(&["--root-hash", &right]), format!("{point}: {none}"));
        }
        let _ = stage.sh("mv away image.mkimg");
        drop(cover);
        drop(guards);
    }
    stage.assert_clean();
}

/// One line a path, those that give power first, then in the order of a walk; what is below a directory that is new or
/// gone is counted on its line, unless it gives power.
#[test]
fn root_the_report_for_people() {
    require_mounts!();
    let stage = Stage::new();
    let guard = stage.overlay();
    let script = r#"
        mkdir -p opt/a/b opt/c; : >opt/a/b/f; : >opt/a/su; chmod 4755 opt/a/su; mkdir opt/a/b/d; mknod opt/a/b/d/disk b 8 0
        : >opt-x; rm -r var/many; chmod 600 etc/block; mv bin/tool bin/server; : >"$(printf 'etc/\033[31m\n\377')"
        mount -t tmpfs tmpfs var/lib
    "#;
    let _ = sh(&stage.point, script);
    let text = stage.text(&["--ignore", "mtime"]);
    let lines: Vec<&str> = text.lines().collect();
    let body = &lines[2..lines.len() - 1];
    assert_eq!(
        body,
        [
            "! content    /bin/server  mode 0755 -> 4755; 5000 bytes -> 20000 bytes, differs from byte 0 on; \
             xattr security.capability=0x0100000200040000000000000000000000000000 is gone  [set-id, privileged]",
            "! added      /opt/a/b/d/disk  block device 8:0 0644  [device]",
            "! added      /opt/a/su  file 4755, 0 bytes  [set-id]",
            "  deleted    /bin/tool  file 4755, 20000 bytes",
            r"  added      /etc/\u{1b}[31m\n\xff  file 0644, 0 bytes",
            "  metadata   /etc/block  mode 0644 -> 0600",
            "  added      /opt  dir 0755; and 5 names below",
            "  added      /opt-x  file 0644, 0 bytes",
            "! mount      /var/lib  tmpfs from tmpfs is mounted here",
            "  deleted    /var/many  dir 0755; and 40 names below",
        ],
        "{text}"
    );
    assert!(lines[1].starts_with(&format!("{}: overlay over EROFS ", stage.point.display())), "{text}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("NOT clean: 55 paths differ, 3 of them in what gives power; "), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    // None of what alarms was left out because of something else.
    let security = stage.text(&["--only", "security"]);
    let paths = |lines: &[&str]| -> Vec<String> {
        let alarms = lines.iter().filter(|line| line.starts_with('!'));
        alarms.map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&security.lines().collect::<Vec<_>>()), paths(body), "{security}");
    drop(guard);
    stage.assert_clean();
}

/// Colour is for terminals.
#[test]
fn root_colour_on_a_terminal_alone() {
    require_mounts!();
    require!(Need::Tool("script"));
    let stage = Stage::new();
    let guard = stage.overlay();
    let command = format!("{} verify {}", mkimg_path().display(), stage.point.display());
    let on_terminal = |term: &str, no_color: &str| {
        let run = Run::new("script").args(["-qec", &command, "/dev/null"]);
        run.env("TERM", term).env("NO_COLOR", no_color).output()
    };
    for (what, script, code, painted) in
        [("clean", "true", 0, "\x1b[32mclean\x1b[0m"), ("not", "chmod 4755 bin/server", 1, "\x1b[1;31m! ")]
    {
        let _ = sh(&stage.point, script);
        assert!(on_terminal("xterm", "").code(code).out().contains(painted), "{what}");
        for (term, no_color) in [("xterm", "1"), ("dumb", "")] {
            // The progress bar may move the cursor; that is no colour.
            let done = on_terminal(term, no_color).code(code);
            assert!(!done.out().contains("m! ") && !done.out().contains("[0m"), "{what}: {:?}", done.out());
        }
        let run = mkimg(args!["verify", stage.point]).env("TERM", "xterm").output().code(code);
        assert!(!run.everything().contains('\x1b'), "{what}: {}", run.everything());
    }
    drop(guard);
    stage.assert_clean();
}

/// Files that change, come and go: each audit ends, says no more than what happens, and never that all is well.
#[test]
fn root_writers_at_work() {
    require_mounts!();
    let stage = Stage::new();
    for way in ["overlay", "by hand"] {
        let guards = stage.mount_by(way);
        let writer = "
            head -c 300000 /dev/zero >etc/block
            while :; do
                head -c 300000 /dev/zero >etc/next; mv etc/next etc/block; printf x >>etc/block
                mkdir -p opt/a/b; : >opt/a/b/c; rm -r opt; ln -f etc/small etc/small2; rm etc/small2
            done";
        let mut writer = Run::new("sh").args(["-c", writer]).current_dir(&stage.point).spawn();
        let began = Instant::now();
        let (mut changing, mut audits) = (0, 0);
        while began.elapsed() < Duration::from_secs(30) && (changing == 0 || audits < 25) {
            let verdict = stage.verify(&[]);
            audits += 1;
            changing += usize::from(verdict.found.iter().any(|line| line.starts_with("changing ")));
            assert_ne!(verdict.code, Some(0), "{way}: {:?}", verdict.found);
            for line in &verdict.found {
                let path = line.split(' ').nth(1).unwrap();
                let touched = ["/", "/etc", "/etc/block", "/etc/next", "/etc/small", "/etc/small2"];
                assert!(touched.contains(&path) || path.starts_with("/opt"), "{way}: {line}");
                // Of what has gone again nobody is left to tell who made it; the image is not blamed.
                assert!(line.contains("@upper") || line.starts_with("changing "), "{way}: {line}");
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert!(changing > 0, "{way}: {audits} audits saw nobody at work");
        drop(guards);
    }
    stage.assert_clean();
}

/// The file below is written to, though nothing in it changes.
#[test]
fn root_a_writer_below() {
    require_mounts!();
    let stage = Stage::new();
    let guard = stage.mount(&[]);
    let script = "while :; do dd if=image.mkimg of=image.mkimg bs=512 count=1 conv=notrunc status=none; done";
    let mut writer = Run::new("sh").args(["-c", script]).current_dir(stage.path("")).spawn();
    let began = Instant::now();
    loop {
        let verdict = stage.verify(&[]);
        if verdict.found == ["kernel backing-changing"] {
            assert_eq!(verdict.code, Some(1));
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", verdict.found);
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    // The last dd may outlive the shell.
    std::thread::sleep(Duration::from_millis(500));
    stage.verify(&[]).assert_healthy("after that");
    drop(guard);
    stage.assert_clean();
}
