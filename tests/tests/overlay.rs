//! What a writable overlay does to an image, operation by operation, as `mkimg verify MOUNTPOINT` tells it.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{mkimg_path, tool};
use mkimg_tests::live::{Stage, sh};
use mkimg_tests::need::Need;
use mkimg_tests::{args, require};

macro_rules! require_overlays {
    () => {
        require!(Need::Root, Need::FileSystem("erofs"), Need::FileSystem("overlay"), Need::Loop)
    };
}

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
    Row(
        "set-id file for more",
        "chmod 4777 bin/tool",
        &["links /bin/tool2 metadata@upper", "mode /bin/tool metadata@upper [privileged]"],
    ),
    Row(
        "set-id file for fewer",
        "chmod 4700 bin/tool",
        &["links /bin/tool2 metadata@upper", "mode /bin/tool metadata@upper"],
    ),
    Row("device for more", "chmod 666 dev/disk", &["mode /dev/disk metadata@upper [device]"]),
    Row("device for fewer", "chmod 600 dev/disk", &["mode /dev/disk metadata@upper"]),
    Row("device of somebody else", "chown 7 dev/disk", &["uid /dev/disk metadata@upper [device]"]),
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

#[test]
fn root_every_change_is_told() {
    require_overlays!();
    let stage = Stage::new();
    let mut failed = Vec::new();
    for Row(what, script, found) in CHANGES {
        let guard = stage.overlay();
        let _ = sh(&stage.point, script);
        let check = || stage.assert_found(what, found);
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

/// The longest name, and a path that is as long as the system takes.
#[test]
fn root_long_names() {
    require_overlays!();
    let stage = Stage::new();
    let guard = stage.overlay();
    let name = "n".repeat(255);
    let deep: Vec<String> =
        (1..=16).map(|depth| format!("/opt{}", format!("/{}", "d".repeat(246)).repeat(depth))).collect();
    // The path of the mount point comes on top: made step by step.
    let script = format!(
        ": >etc/{name}; mkdir opt; cd opt; for step in $(seq 16); do mkdir {0}; cd -P {0}; done; : >file",
        "d".repeat(246)
    );
    let _ = sh(&stage.point, &script);
    let mut found = vec![format!("extra /etc/{name} added@upper")];
    found.extend(
        ["mtime / metadata@upper", "mtime /etc metadata@upper", "extra /opt added@upper"].map(str::to_owned),
    );
    found.extend(deep.iter().map(|path| format!("extra {path} added@upper")));
    found.push(format!("extra {}/file added@upper", deep.last().unwrap()));
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert!(deep.last().unwrap().len() > 3900);
    stage.verify(&[]).assert("long names", 1, &found);
    drop(guard);
    stage.assert_clean();
}

/// Of very many changes the first are told, the others are counted, and none that gives power is lost.
#[test]
fn root_very_many_changes() {
    require_overlays!();
    require!(Need::Tool("python3"));
    let stage = Stage::new();
    let guard = stage.overlay();
    let script = "mkdir opt; for dir in $(seq 100 299); do mkdir opt/$dir; (cd opt/$dir; seq -f '%03g' 100 | xargs touch); done
        chmod 4755 opt/299/100";
    let _ = sh(&stage.point, script);
    let program = "import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))";
    let done =
        tool("python3", args!["-c", program, mkimg_path(), "verify", "--json", stage.point]).output().code(1);
    let out = done.out();
    let lines: Vec<&str> = out.lines().collect();
    let [findings @ .., summary, peak] = lines.as_slice() else { panic!("{out}") };
    assert_eq!(findings.len(), 10_000);
    assert!(
        findings[0].contains("\"/opt/299/100\"") && findings[0].contains("\"set-id\""),
        "{}",
        findings[0]
    );
    assert!(findings.iter().all(|line| line.contains("\"layer\":")));
    // The root, /opt, its 200 directories, and 100 files in each.
    assert!(summary.contains("\"findings\":20202,"), "{summary}");
    let peak: u64 = peak.parse().unwrap();
    eprintln!("20,000 new files: peak {peak} KiB");
    assert!(peak < 64 << 10, "peak {peak} KiB");
    drop(guard);
    stage.assert_clean();
}
