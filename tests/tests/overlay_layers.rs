//! Overlays of any make over an image: of several directories, with planted attributes, with names that hurt.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::mkimg;
use mkimg_tests::live::{Stage, sh};
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
        "planted: opaque, of the class that users may set",
        "userxattr,lowerdir=@/low,upperdir=@/upper,workdir=@/work",
        "mkdir -p upper/var/lib; setfattr -n user.overlay.opaque -v y upper/var/lib
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
            stage.assert_found(what, found);
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
