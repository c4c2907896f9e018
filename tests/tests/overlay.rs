//! What a writable overlay does to an image, operation by operation, as `mkimg verify MOUNTPOINT` tells it.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::mkimg;
use mkimg_tests::live::{Stage, Verdict, sh};
use mkimg_tests::mount::Mounted;
use mkimg_tests::need::Need;
use mkimg_tests::{args, require};

macro_rules! require_overlays {
    () => {
        require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop)
    };
}

/// Options of an overlay made by hand.
const OVER: &str = "lowerdir=@/low,upperdir=@/upper,workdir=@/work";

/// What is done through an overlay of mkimg, and all that is found then.
struct Row(&'static str, &'static str, &'static [&'static str]);

const CHANGES: &[Row] = &[
    Row("nothing", "true", &[]),
    Row("a new file", "echo x >etc/new", &["extra /etc/new added@upper", "mtime /etc metadata@upper"]),
    Row(
        "a byte changed",
        "printf X | dd of=etc/block bs=1 seek=100 conv=notrunc status=none",
        &["content /etc/block content@upper 100+1", "mtime /etc/block metadata@upper"],
    ),
    Row(
        "a byte changed behind a hole",
        "printf X | dd of=var/sparse bs=1 seek=69999 conv=notrunc status=none",
        &["content /var/sparse content@upper 69999+1", "mtime /var/sparse metadata@upper"],
    ),
    Row(
        "data in a hole",
        "printf X | dd of=var/sparse bs=1 seek=20000 conv=notrunc status=none",
        &["content /var/sparse content@upper 20000+1", "mtime /var/sparse metadata@upper"],
    ),
    Row(
        "the same size and time",
        "touch -r etc/block ../stamp; printf X | dd of=etc/block bs=1 seek=4000 conv=notrunc status=none
         touch -r ../stamp etc/block",
        &["content /etc/block content@upper 4000+1"],
    ),
    Row(
        "appended",
        "echo more >>etc/small",
        &["mtime /etc/small metadata@upper", "size /etc/small content@upper 12+1"],
    ),
    Row(
        "an empty file filled",
        "echo more >>etc/empty",
        &["mtime /etc/empty metadata@upper", "size /etc/empty content@upper 0+1"],
    ),
    Row(
        "cut",
        "truncate -s 100 etc/block",
        &["mtime /etc/block metadata@upper", "size /etc/block content@upper 100+1"],
    ),
    Row("opened for writing", "exec 3<>etc/block; exec 3>&-", &[]),
    Row("mode", "chmod 640 etc/block", &["mode /etc/block metadata@upper"]),
    Row("mode of a directory", "chmod 700 var/lib", &["mode /var/lib metadata@upper"]),
    Row("mode of the root", "chmod 700 .", &["mode / metadata@upper"]),
    Row("owner", "chown 7:8 etc/block", &["gid /etc/block metadata@upper", "uid /etc/block metadata@upper"]),
    Row("owner of a link", "chown -h 7 bin/sh", &["uid /bin/sh metadata@upper"]),
    Row("time", "touch -d @5 etc/block", &["mtime /etc/block metadata@upper"]),
    Row(
        "time, by a nanosecond",
        "touch -d @1700000000.000000001 etc/block",
        &["mtime /etc/block metadata@upper"],
    ),
    Row("access time", "touch -a -d @5 etc/block", &[]),
    Row("xattr set", "setfattr -n user.a -v b etc/block", &["xattr /etc/block metadata@upper"]),
    Row("trusted xattr set", "setfattr -n trusted.a -v b etc/block", &["xattr /etc/block metadata@upper"]),
    Row(
        "xattrs removed",
        "setfattr -x user.shared var/many/file-000; setfattr -x user.dir etc",
        &["xattr /etc metadata@upper", "xattr /var/many/file-000 metadata@upper"],
    ),
    Row(
        "capability",
        "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 etc/block",
        &["xattr /etc/block metadata@upper [capability]"],
    ),
    Row(
        "other capability",
        "setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 bin/server",
        &["xattr /bin/server metadata@upper [capability]"],
    ),
    Row(
        "capability written as it is",
        "setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 bin/server",
        &[],
    ),
    Row(
        "capability removed",
        "setfattr -x security.capability bin/server",
        &["xattr /bin/server metadata@upper"],
    ),
    Row(
        "content of a capable file",
        "printf X | dd of=bin/server bs=1 conv=notrunc status=none
         setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 bin/server",
        &["content /bin/server content@upper [privileged] 0+1", "mtime /bin/server metadata@upper"],
    ),
    Row(
        "new capable file",
        ": >etc/new; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 etc/new",
        &["extra /etc/new added@upper [capability]", "mtime /etc metadata@upper"],
    ),
    Row("set-id", "chmod 4755 bin/server", &["mode /bin/server metadata@upper [set-id]"]),
    Row("set-group-id", "chmod 2644 etc/block", &["mode /etc/block metadata@upper [set-id]"]),
    Row("set-id of a directory", "chmod 2755 var/lib", &["mode /var/lib metadata@upper"]),
    Row(
        "new set-id file",
        ": >etc/new; chmod 4755 etc/new",
        &["extra /etc/new added@upper [set-id]", "mtime /etc metadata@upper"],
    ),
    Row(
        "new set-id file in a new directory",
        "mkdir -p etc/a/b/c; : >etc/a/b/c/new; chmod 2755 etc/a/b/c/new",
        &[
            "extra /etc/a added@upper",
            "extra /etc/a/b added@upper",
            "extra /etc/a/b/c added@upper",
            "extra /etc/a/b/c/new added@upper [set-id]",
            "mtime /etc metadata@upper",
        ],
    ),
    Row(
        "content of a set-id file",
        "printf X >>bin/tool; chmod 4755 bin/tool",
        &[
            "links /bin/tool2 metadata@upper",
            "mtime /bin/tool metadata@upper",
            "size /bin/tool content@upper [privileged] 20000+1",
        ],
    ),
    Row(
        "owner of a set-id file",
        "chown 7 bin/tool; chmod 4755 bin/tool",
        &["links /bin/tool2 metadata@upper", "uid /bin/tool metadata@upper [privileged]"],
    ),
    Row("deleted", "rm etc/small", &["missing /etc/small deleted@upper", "mtime /etc metadata@upper"]),
    Row(
        "directory deleted",
        "rm -r var/lib",
        &[
            "missing /var/lib deleted@upper",
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
        ],
    ),
    Row(
        "directory made anew",
        "rm -r var/lib; mkdir var/lib; echo x >var/lib/other",
        &[
            "extra /var/lib/other added@upper",
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
            "mtime /var/lib metadata@upper",
            "opaque /var/lib opaque@upper",
        ],
    ),
    Row(
        "directory by file",
        "rm -r var/lib; echo x >var/lib",
        &[
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
            "type /var/lib replaced@upper",
        ],
    ),
    Row(
        "directory by link",
        "rm -r var/lib; ln -s ../etc var/lib",
        &[
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
            "type /var/lib replaced@upper",
        ],
    ),
    Row(
        "file by directory",
        "rm etc/block; mkdir etc/block; echo x >etc/block/x",
        &["extra /etc/block/x added@upper", "mtime /etc metadata@upper", "type /etc/block replaced@upper"],
    ),
    Row(
        "link by set-id file",
        "rm bin/sh; echo x >bin/sh; chmod 4755 bin/sh",
        &["mtime /bin metadata@upper", "type /bin/sh replaced@upper [set-id]"],
    ),
    Row(
        "file by device",
        "rm etc/block; mknod etc/block b 8 0",
        &["mtime /etc metadata@upper", "type /etc/block replaced@upper [device]"],
    ),
    Row(
        "other device",
        "rm dev/null; mknod -m 666 dev/null c 1 1; touch -d @1700000000 dev/null",
        &["mtime /dev metadata@upper", "rdev /dev/null metadata@upper [device]"],
    ),
    Row(
        "file renamed",
        "mv etc/small etc/renamed",
        &["extra /etc/renamed added@upper", "missing /etc/small deleted@upper", "mtime /etc metadata@upper"],
    ),
    Row(
        "set-id file renamed over another",
        "mv bin/tool bin/server",
        &[
            "links /bin/tool2 metadata@upper",
            "missing /bin/tool deleted@upper",
            "mode /bin/server metadata@upper [set-id]",
            "mtime /bin metadata@upper",
            "size /bin/server content@upper [privileged] 0+1",
            "xattr /bin/server metadata@upper",
        ],
    ),
    Row(
        "directory renamed, by copy",
        "mv var/lib var/moved",
        &[
            "extra /var/moved added@upper",
            "extra /var/moved/state added@upper",
            "extra /var/moved/state/new added@upper",
            "missing /var/lib deleted@upper",
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
        ],
    ),
    Row(
        "new hard link",
        "ln etc/small etc/small2",
        &["extra /etc/small2 added@upper", "links /etc/small metadata@upper", "mtime /etc metadata@upper"],
    ),
    Row("hard link broken", "exec 3<>bin/tool", &["links /bin/tool2 metadata@upper"]),
    Row(
        "second hard link broken",
        "exec 3<>bin/tool2",
        &["links /bin/tool metadata@upper", "links /bin/tool2 metadata@upper"],
    ),
    Row(
        "hard link deleted",
        "rm bin/tool2",
        &["links /bin/tool metadata@upper", "missing /bin/tool2 deleted@upper", "mtime /bin metadata@upper"],
    ),
    Row(
        "device",
        "mknod etc/disk b 8 0",
        &["extra /etc/disk added@upper [device]", "mtime /etc metadata@upper"],
    ),
    Row("FIFO", "mkfifo etc/fifo", &["extra /etc/fifo added@upper", "mtime /etc metadata@upper"]),
    Row(
        "socket",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"etc/socket\")'",
        &["extra /etc/socket added@upper", "mtime /etc metadata@upper"],
    ),
    Row(
        "symbolic link",
        "ln -sfn server bin/sh; touch -h -d @1700000000 bin/sh",
        &["mtime /bin metadata@upper", "target /bin/sh metadata@upper"],
    ),
    Row(
        "below a directory that was changed",
        "chmod 711 var; printf xyz >var/lib/state/new",
        &[
            "content /var/lib/state/new content@upper 0+1",
            "mode /var metadata@upper",
            "mtime /var/lib/state/new metadata@upper",
        ],
    ),
    Row(
        "odd names",
        r#"touch "$(printf 'etc/new\nline')" "$(printf 'etc/\377')""#,
        &[
            "extra /etc/new\nline added@upper",
            "extra base64:L2V0Yy// added@upper",
            "mtime /etc metadata@upper",
        ],
    ),
];

/// What `--only security` keeps: what gives power, and what hides anything.
fn kept(found: &[&'static str]) -> Vec<&'static str> {
    let hides = ["mount ", "changing ", "unreadable ", "image ", "kernel ", "file "];
    let keeps = |line: &&&str| {
        line.ends_with(']') || line.contains("] ") || hides.iter().any(|kind| line.starts_with(kind))
    };
    found.iter().filter(keeps).copied().collect()
}

/// Exactly this is found, twice, and of that what `--only security` keeps.
fn assert_found(stage: &Stage, what: &str, found: &[&'static str]) -> Verdict {
    let unread = found.iter().any(|line| line.starts_with("unreadable "));
    let code = |found: &[&str]| if unread { 2 } else { i32::from(!found.is_empty()) };
    let verdict = stage.verify(&[]);
    verdict.assert(what, code(found), found);
    stage.verify(&["--threads", "1"]).assert(what, code(found), found);
    let kept = kept(found);
    stage.verify(&["--only", "security"]).assert(what, code(&kept), &kept);
    verdict
}

#[test]
fn root_every_change_is_told() {
    require_overlays!();
    let stage = Stage::new();
    let mut failed = Vec::new();
    for Row(what, script, found) in CHANGES {
        let guard = stage.overlay();
        let _ = sh(&stage.point, script);
        let check = || assert_found(&stage, what, found);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
            failed.push(*what);
        }
        // It is all in the upper directory: nothing else is left when that is away.
        assert!(stage.verify(&[]).found.iter().all(|line| line.contains("@upper")), "{what}");
        drop(guard);
    }
    stage.assert_clean();
    assert_eq!(failed, Vec::<&str>::new());
}

/// Options of an overlay made by hand, what its directories are filled with before, what is done through it, and what
/// is found.
struct Made(&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const MADE: &[Made] = &[
    Made("plain", OVER, "", "", &[]),
    Made("xino", "xino=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made("everything on", "metacopy=on,redirect_dir=on,index=on,xino=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made("userxattr", "userxattr,lowerdir=@/low,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made("volatile", "volatile,lowerdir=@/low,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made("read-only, image lowest", "lowerdir=@/one:@/two:@/low", "", "", &[]),
    Made("read-only, image in the middle", "lowerdir=@/one:@/low:@/two", "", "", &[]),
    Made("read-only, image on top", "lowerdir=@/low:@/one", "", "", &[]),
    Made("image lowest", "lowerdir=@/one:@/two:@/low,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made("image in the middle", "lowerdir=@/one:@/low:@/two,upperdir=@/upper,workdir=@/work", "", "", &[]),
    Made(
        "what each layer does",
        "lowerdir=@/one:@/low:@/two,upperdir=@/upper,workdir=@/work",
        "mkdir one/opt two/opt two/srv two/etc; echo 1 >one/opt/a; echo 2 >two/opt/b; echo 2 >two/srv/c
         echo 2 >two/etc/block; echo 2 >two/etc/more; : >two/srv/su; chmod 4755 two/srv/su",
        "echo u >opt/c; rm opt/b",
        &[
            "extra /etc/more added@two",
            "extra /opt added@upper",
            "extra /opt/a added@one",
            "extra /opt/c added@upper",
            "extra /srv added@two",
            "extra /srv/c added@two",
            "extra /srv/su added@two [set-id]",
        ],
    ),
    Made(
        "deleted by a lower directory",
        "lowerdir=@/one:@/low,upperdir=@/upper,workdir=@/work",
        "cp -a low/etc one/etc; rm one/etc/*; mknod one/etc/small c 0 0; touch -r low/etc one/etc",
        "",
        &["missing /etc/small deleted@one"],
    ),
    Made(
        "whiteout of what the image has not",
        OVER,
        "mknod upper/nothing c 0 0",
        "",
        &[],
    ),
    Made(
        "xattr whiteout",
        "lowerdir=@/one:@/low,upperdir=@/upper,workdir=@/work",
        "cp -a low/etc one/etc; rm one/etc/*; : >one/etc/small; touch -r low/etc one/etc
         setfattr -n trusted.overlay.whiteout -v y one/etc/small; setfattr -n trusted.overlay.opaque -v x one/etc",
        "",
        &["missing /etc/small deleted@one"],
    ),
    Made(
        "planted: opaque",
        OVER,
        "mkdir -p upper/var/lib; setfattr -n trusted.overlay.opaque -v y upper/var/lib
         touch -r low/var/lib upper/var/lib; touch -r low/var upper/var",
        "",
        &[
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "opaque /var/lib opaque@upper",
        ],
    ),
    Made(
        "planted: redirect of a directory",
        OVER,
        "cp -a low/etc upper/etc; rm upper/etc/*; touch -r low/etc upper/etc
         mknod upper/bin c 0 0; setfattr -n trusted.overlay.redirect -v /bin upper/etc",
        "",
        &[
            "extra /etc/server added@upper [capability]",
            "extra /etc/sh added@upper",
            "extra /etc/tool added@upper [set-id]",
            "extra /etc/tool2 added@upper [set-id]",
            "missing /bin deleted@upper",
            "missing /bin/server deleted@upper",
            "missing /bin/sh deleted@upper",
            "missing /bin/tool deleted@upper",
            "missing /bin/tool2 deleted@upper",
            "missing /etc/block deleted@upper",
            "missing /etc/empty deleted@upper",
            "missing /etc/far deleted@upper",
            "missing /etc/long deleted@upper",
            "missing /etc/small deleted@upper",
            "redirect /etc redirect@upper",
        ],
    ),
    Made(
        "planted: content of another file",
        "metacopy=on,redirect_dir=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "cp -a low/etc upper/etc; rm upper/etc/*; mknod upper/etc/far c 0 0
         truncate -s 4096 upper/etc/block; touch -r low/etc/block upper/etc/block; touch -r low/etc upper/etc
         setfattr -n trusted.overlay.metacopy upper/etc/block
         setfattr -n trusted.overlay.redirect -v /etc/far upper/etc/block",
        "",
        &[
            // The 13 bytes of the other file end before there is anything to compare.
            "content /etc/block content@upper",
            "missing /etc/far deleted@upper",
            "redirect /etc/block redirect@upper",
        ],
    ),
    Made(
        "planted: metadata alone, in an overlay that does not make it",
        OVER,
        "cp -a low/etc upper/etc; rm upper/etc/*; cp -a low/etc/block upper/etc/block; touch -r low/etc upper/etc
         setfattr -n trusted.overlay.metacopy upper/etc/block",
        "",
        // The kernel does not open such a file.
        &["metacopy /etc/block metacopy@upper", "unreadable /etc/block"],
    ),
    Made(
        "private attributes of another class mean nothing",
        "userxattr,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "cp -a low/var/lib upper/lib; setfattr -n trusted.overlay.opaque -v y upper/lib",
        "",
        &["extra /lib added@upper", "extra /lib/state added@upper", "extra /lib/state/new added@upper"],
    ),
    Made(
        "directory renamed",
        "redirect_dir=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "",
        "mv var/lib var/moved; echo x >var/moved/x",
        &[
            "extra /var/moved added@upper",
            "extra /var/moved/state added@upper",
            "extra /var/moved/state/new added@upper",
            "extra /var/moved/x added@upper",
            "missing /var/lib deleted@upper",
            "missing /var/lib/state deleted@upper",
            "missing /var/lib/state/new deleted@upper",
            "mtime /var metadata@upper",
            "redirect /var/moved redirect@upper",
        ],
    ),
    Made(
        "mode alone copied up",
        "metacopy=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "",
        "chmod 600 etc/block",
        &["mode /etc/block metadata@upper"],
    ),
    Made("hard links that stay", "index=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work", "", "exec 3<>bin/tool", &[]),
    Made(
        "content of hard links that stay",
        "index=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "",
        "printf X >>bin/tool2; chmod 4755 bin/tool2",
        &[
            "mtime /bin/tool metadata@upper",
            "mtime /bin/tool2 metadata@upper",
            "size /bin/tool content@upper [privileged] 20000+1",
            "size /bin/tool2 content@upper [privileged] 20000+1",
        ],
    ),
    Made(
        "hard link deleted, others stay",
        "index=on,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "",
        "rm bin/tool2",
        &["missing /bin/tool2 deleted@upper", "mtime /bin metadata@upper"],
    ),
];

#[test]
fn root_overlays_made_by_hand() {
    require_overlays!();
    let stage = Stage::new();
    let mut failed = Vec::new();
    for Made(what, options, before, script, found) in MADE {
        let check = || {
            let guards = stage.by_hand(options, before);
            let _ = sh(&stage.point, script);
            assert_found(&stage, what, found);
            drop(guards);
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
            failed.push(*what);
        }
    }
    stage.assert_clean();
    assert_eq!(failed, Vec::<&str>::new());
}

/// Directories whose names hurt, or that are not where they were.
#[test]
fn root_directories_of_an_overlay() {
    require_overlays!();
    let stage = Stage::new();
    let odd = "a:b,c\\ d\n\u{e9}";
    for options in [["--upper", odd, "--work", "work"], ["--upper", "upper", "--work", odd]] {
        let _ = stage.sh("rm -rf upper work a*");
        let guard = stage.mount(&options);
        stage.verify(&[]).assert_healthy(options[1]);
        let _ = sh(&stage.point, "chmod 600 etc/block");
        // As it is shown: escaped.
        let layer = if options[1] == odd { r"a:b,c\\ d\né" } else { "upper" };
        stage.verify(&[]).assert(layer, 1, &[&format!("mode /etc/block metadata@{layer}")]);
        drop(guard);
    }
    // The image at an odd place, and behind a symbolic link.
    for (name, option) in [("l:o é", r"l\:o é"), ("real", "link")] {
        let low = Mounted::adopt(&stage.path(name));
        let top = Mounted::adopt(&stage.point);
        let _ = stage.sh("rm -rf upper work; mkdir -p upper work; ln -sfn real link");
        let _ = stage.sh(&format!("mkdir -p '{name}'"));
        let _ = mkimg(args!["mount", stage.image, low.path()]).ok();
        let _ = stage.sh(&format!(
            "chmod --reference='{name}' upper; touch -r '{name}' upper
             mount -t overlay -o \"lowerdir=$PWD/{option},upperdir=$PWD/upper,workdir=$PWD/work\" overlay mnt"
        ));
        stage.verify(&[]).assert_healthy(name);
        drop(top);
        drop(low);
    }
    let guards = stage.overlay();
    let _ = sh(&stage.point, "chmod 600 etc/block");
    for (what, away, back) in [
        ("renamed", "mv upper kept", "mv kept upper"),
        ("another", "mv upper kept; mkdir upper", "rmdir upper; mv kept upper"),
        ("a copy", "mv upper kept; cp -a kept upper", "rm -r upper; mv kept upper"),
        ("covered", "mount -t tmpfs -o mode=755 tmpfs upper", "umount upper"),
    ] {
        let _ = stage.sh(away);
        let verdict = stage.verify(&[]);
        verdict.assert(what, 2, &["mode /etc/block"]);
        verdict.assert_unseen(what, "changes of the overlay: ");
        // Nobody knows who did it.
        let text = stage.text(&[]);
        assert!(text.contains("/etc/block  mode 0644 -> 0600\n"), "{what}: {text}");
        let _ = stage.sh(back);
        stage.verify(&[]).assert(what, 1, &["mode /etc/block metadata@upper"]);
    }
    drop(guards);
    stage.assert_clean();
}

/// The visible mount that an overlay was made over is gone, or something else is there now.
#[test]
fn root_an_overlay_whose_image_cannot_be_found() {
    require_overlays!();
    let stage = Stage::new();
    let _ = stage.sh("mkdir t; echo x >t/x");
    let another = stage.path("another");
    let _ = mkimg(args!["build", format!("dir:{}", stage.path("t").display()), "-o", another]).ok();
    for (what, script) in [("unmounted", "umount -l low"), ("moved", "mkdir -p away; mount --move low away")]
    {
        let guards = stage.by_hand(OVER, "");
        let away = Mounted::adopt(&stage.path("away"));
        let _ = stage.sh(script);
        let done = mkimg(args!["verify", "--json", stage.point]).output().code(2);
        assert!(done.error_line().contains("no overlay over exactly one"), "{what}: {}", done.err());
        drop(away);
        drop(guards);
    }
    // What came later at the same place is not below it.
    let guards = stage.by_hand(OVER, "");
    let _ = mkimg(args!["mount", another, stage.path("low")]).ok();
    stage.verify(&[]).assert_healthy("another image on top of the lower one");
    let _ = stage.sh("mount -t tmpfs tmpfs low");
    stage.verify(&[]).assert_healthy("a tmpfs on top of the lower one");
    drop(guards);
    stage.assert_clean();
}
