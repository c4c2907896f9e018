//! Audits of extracted trees: one attribute changed at a time, and whoever tries to fool the audit.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod maker;
#[path = "tree/sample.rs"]
mod sample;

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mkimg_format::erofs::FileType;
use mkimg_format::seal::{Seal, Section};
use mkimg_verify::tree::{
    DIFFERENCES_MAX, Difference, Error, Field, Glob, Kind, Offset, Security, TreeOptions, TreeReport,
    audit_tree,
};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, XattrFlags};
use sample::{Entry, Scratch, acl, entry, everything, fill, place, set_mtime, write_image, write_tree};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

fn skips_without_root(test: &str) -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        println!("skipped: {test} needs root");
    }
    skip
}

/// Audits with one thread and with four; both must say the same.
fn audit(image: &[u8], root: &Path, options: TreeOptions<'_>) -> TreeReport {
    let image = image.to_vec();
    let one = audit_tree(&image, root, &TreeOptions { threads: ONE, ..options }).unwrap();
    let four = NonZeroUsize::new(4).unwrap();
    let many = audit_tree(&image, root, &TreeOptions { threads: four, ..options }).unwrap();
    assert_eq!(one, many);
    one
}

/// Ends a thread that disturbs, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kinds(report: &TreeReport) -> Vec<(String, Kind)> {
    let show = |found: &Difference| (mkimg_format::erofs::escape(&found.path), found.kind);
    report.findings.iter().map(show).collect()
}

fn expect(report: &TreeReport, expected: &[(&str, Kind)], what: &str) {
    let expected: Vec<(String, Kind)> =
        expected.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    assert_eq!(kinds(report), expected, "{what}: {report:#?}");
    assert!(!report.is_clean() || expected.is_empty(), "{what}");
}

/// Changes something, and gives the directory around it its time back.
fn quietly(dir: &Path, change: impl FnOnce()) {
    let stat = fs::metadata(dir).unwrap();
    change();
    set_mtime(dir, (stat.mtime(), u32::try_from(stat.mtime_nsec()).unwrap()));
}

/// Changes content in place, and gives the file its time back.
fn poke(path: &Path, bytes: &[u8], at: u64) {
    quietly(path, || File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap());
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

fn find<'a>(list: &'a [Entry], path: &str) -> &'a Entry {
    list.iter().find(|entry| entry.path == path.as_bytes()).unwrap()
}

/// Replaces an entry by another inode with the attributes that the list has.
fn rewrite(root: &Path, entry: &Entry) {
    let path = place(root, &entry.path);
    quietly(path.parent().unwrap(), || {
        fs::remove_file(&path).unwrap();
        write_tree(std::slice::from_ref(entry), root);
    });
}

#[test]
fn what_is_as_shipped_is_clean_root() {
    if skips_without_root("what_is_as_shipped_is_clean_root") {
        return;
    }
    let list = everything();
    let image = write_image(&list);
    let whole = mkimg_verify::verify_image(&image.bytes, &mkimg_verify::Options::default()).unwrap();
    for finding in whole.findings {
        // The sample writer knows one layout of directories, which the kernel takes as well.
        assert!(finding.problem.ends_with("must be inline: its tail fits"), "{}", finding.problem);
    }
    let scratch = Scratch::new();
    write_tree(&list, &scratch.root());
    let seen = AtomicU64::new(0);
    let count = |bytes| {
        seen.fetch_add(bytes, Ordering::Relaxed);
    };
    let seal = maker::detach(&image);
    let opened = mkimg_format::detached::Sealed::open(&seal).unwrap();
    let report = audit(&image.bytes, &scratch.root(), TreeOptions::default());
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.entries, list.len() as u64);
    // Every name is read, also the second of an inode.
    let body = |entry: &Entry| match &entry.link {
        Some(first) => find(&list, std::str::from_utf8(first).unwrap()).body.len() as u64,
        None if entry.file_type == FileType::File => entry.body.len() as u64,
        None => 0,
    };
    assert_eq!(report.bytes, list.iter().map(body).sum::<u64>());
    // A detached seal does as well, opened by the caller or not.
    let options = TreeOptions { progress: Some(&count), ..TreeOptions::default() };
    assert_eq!(audit_tree(&opened, &scratch.root(), &options).unwrap(), report);
    assert_eq!(seen.load(Ordering::Relaxed), report.bytes);
    assert_eq!(audit(&seal, &scratch.root(), TreeOptions::default()), report);
}

type Change = (&'static str, fn(&Path, &[Entry]), &'static [(&'static str, Kind)]);

const CHANGES: &[Change] = &[
    ("a byte of content", |root, _| poke(&root.join("b"), b"!", 699), &[("/b", Kind::Content)]),
    ("a byte far in", |root, _| poke(&root.join("big"), b"!", 2 << 20), &[("/big", Kind::Content)]),
    (
        "content deep down",
        |root, _| poke(&root.join("dir/deep/deeper/file"), b"D", 0),
        &[("/dir/deep/deeper/file", Kind::Content)],
    ),
    ("longer", |root, _| poke(&root.join("b"), b"!", 700), &[("/b", Kind::Size)]),
    ("empty is not", |root, _| poke(&root.join("empty"), b"!", 0), &[("/empty", Kind::Size)]),
    (
        "shorter",
        |root, _| {
            quietly(&root.join("b"), || {
                File::options().write(true).open(root.join("b")).unwrap().set_len(699).unwrap();
            })
        },
        &[("/b", Kind::Size)],
    ),
    (
        "swapped",
        |root, list| {
            let (mut one, mut other) = (find(list, "/b").clone(), find(list, "/b2").clone());
            std::mem::swap(&mut one.body, &mut other.body);
            rewrite(root, &one);
            rewrite(root, &other);
        },
        &[("/b", Kind::Content), ("/b2", Kind::Content)],
    ),
    ("mode", |root, _| chmod(&root.join("b"), 0o601), &[("/b", Kind::Mode)]),
    ("setuid gone", |root, _| chmod(&root.join("dir/setuid"), 0o755), &[("/dir/setuid", Kind::Mode)]),
    ("setgid new", |root, _| chmod(&root.join("b"), 0o2600), &[("/b", Kind::Mode)]),
    ("sticky gone", |root, _| chmod(&root.join("dir"), 0o750), &[("/dir", Kind::Mode)]),
    ("mode of a device", |root, _| chmod(&root.join("char"), 0o666), &[("/char", Kind::Mode)]),
    ("mode of the root", |root, _| chmod(root, 0o777), &[("/", Kind::Mode)]),
    ("owner", |root, _| chown(&root.join("b"), Some(77), None), &[("/b", Kind::Uid)]),
    ("group", |root, _| chown(&root.join("b"), None, Some(77)), &[("/b", Kind::Gid)]),
    ("owner of a link", |root, _| chown(&root.join("link"), Some(77), None), &[("/link", Kind::Uid)]),
    (
        "group of a directory",
        |root, _| chown(&root.join("dir/deep"), None, Some(77)),
        &[("/dir/deep", Kind::Gid)],
    ),
    (
        "a nanosecond",
        |root, list| {
            let (sec, nsec) = find(list, "/b").mtime;
            set_mtime(&root.join("b"), (sec, nsec ^ 1));
        },
        &[("/b", Kind::Mtime)],
    ),
    (
        "a second of a link",
        |root, list| {
            let (sec, nsec) = find(list, "/link").mtime;
            set_mtime(&root.join("link"), (sec + 1, nsec));
        },
        &[("/link", Kind::Mtime)],
    ),
    (
        "time of a directory",
        |root, _| set_mtime(&root.join("emptydir"), (1, 1)),
        &[("/emptydir", Kind::Mtime)],
    ),
    (
        "target",
        |root, list| {
            let link = Entry { body: b"dir/setuiD".to_vec(), ..find(list, "/link").clone() };
            rewrite(root, &link);
        },
        &[("/link", Kind::Target)],
    ),
    (
        "minor",
        |root, list| rewrite(root, &Entry { rdev: (1, 5), ..find(list, "/char").clone() }),
        &[("/char", Kind::Rdev)],
    ),
    (
        "major",
        |root, list| rewrite(root, &Entry { rdev: (8, 300), ..find(list, "/block").clone() }),
        &[("/block", Kind::Rdev)],
    ),
    (
        "a broken link",
        |root, list| {
            let copy = Entry { path: b"/dir/hard".to_vec(), ..find(list, "/a").clone() };
            rewrite(root, &copy);
        },
        &[("/dir/hard", Kind::Links)],
    ),
    (
        "a broken link of three",
        |root, list| {
            let copy = Entry { path: b"/h1".to_vec(), ..find(list, "/h1").clone() };
            rewrite(root, &copy);
        },
        &[("/h1", Kind::Links)],
    ),
    (
        "a link out of the tree",
        |root, _| {
            fs::hard_link(root.join("b"), root.with_file_name("outside")).unwrap();
        },
        &[("/b", Kind::Links)],
    ),
    (
        "a further link out of the tree",
        |root, _| {
            fs::hard_link(root.join("a"), root.with_file_name("outside")).unwrap();
        },
        &[("/a", Kind::Links)],
    ),
    (
        "an extra link in the tree",
        |root, _| {
            quietly(root, || {
                fs::hard_link(root.join("h1"), root.join("h4")).unwrap();
            })
        },
        &[("/h1", Kind::Links), ("/h4", Kind::Extra)],
    ),
    (
        "a missing link",
        |root, _| quietly(root, || fs::remove_file(root.join("h2")).unwrap()),
        &[("/h2", Kind::Missing)],
    ),
    ("a value", |root, _| set_xattr(&root.join("x"), "user.k", b"valuE"), &[("/x", Kind::Xattr)]),
    ("a long value", |root, _| set_xattr(&root.join("x"), "user.long", &[1; 1000]), &[("/x", Kind::Xattr)]),
    ("an extra xattr", |root, _| set_xattr(&root.join("b"), "user.new", b""), &[("/b", Kind::Xattr)]),
    (
        "a long list of xattrs",
        |root, _| {
            for letter in ["k", "l", "m"] {
                set_xattr(&root.join("b"), &format!("user.{}", letter.repeat(240)), b"");
            }
        },
        &[("/b", Kind::Xattr), ("/b", Kind::Xattr), ("/b", Kind::Xattr)],
    ),
    (
        "an xattr less",
        |root, _| rustix::fs::removexattr(root.join("x"), "user.empty").unwrap(),
        &[("/x", Kind::Xattr)],
    ),
    (
        "a capability",
        |root, _| {
            let mut capability = sample::CAPABILITY;
            capability[5] ^= 0x10;
            set_xattr(&root.join("x"), "security.capability", &capability);
        },
        &[("/x", Kind::Xattr)],
    ),
    (
        "an access control list",
        |root, _| {
            set_xattr(&root.join("x"), "system.posix_acl_access", &acl(1001));
        },
        &[("/x", Kind::Xattr)],
    ),
    (
        "a default list",
        |root, _| {
            set_xattr(&root.join("xdir"), "system.posix_acl_default", &acl(1001));
        },
        &[("/xdir", Kind::Xattr)],
    ),
    ("a label", |root, _| set_xattr(&root.join("dir"), "security.label", b"x"), &[("/dir", Kind::Xattr)]),
    ("trusted", |root, _| set_xattr(&root.join("x"), "trusted.t", b"\0binary\xfe"), &[("/x", Kind::Xattr)]),
    ("of a link", |root, _| set_xattr(&root.join("link"), "trusted.l", b""), &[("/link", Kind::Xattr)]),
    ("of a fifo", |root, _| set_xattr(&root.join("fifo"), "trusted.new", b""), &[("/fifo", Kind::Xattr)]),
    (
        "a missing file",
        |root, _| quietly(root, || fs::remove_file(root.join("b")).unwrap()),
        &[("/b", Kind::Missing)],
    ),
    (
        "a missing directory",
        |root, _| {
            quietly(&root.join("dir"), || {
                fs::remove_dir_all(root.join("dir/deep")).unwrap();
            })
        },
        &[
            ("/dir/deep", Kind::Missing),
            ("/dir/deep/deeper", Kind::Missing),
            ("/dir/deep/deeper/file", Kind::Missing),
        ],
    ),
    (
        "an extra file deep down",
        |root, _| {
            quietly(&root.join("dir/deep/deeper"), || {
                fs::write(root.join("dir/deep/deeper/more"), "").unwrap();
            })
        },
        &[("/dir/deep/deeper/more", Kind::Extra)],
    ),
    (
        "an extra directory",
        |root, _| {
            quietly(root, || {
                fs::create_dir_all(root.join("zz/below")).unwrap();
            })
        },
        &[("/zz", Kind::Extra), ("/zz/below", Kind::Extra)],
    ),
    (
        "renamed",
        |root, _| quietly(root, || fs::rename(root.join("b"), root.join("B")).unwrap()),
        &[("/B", Kind::Extra), ("/b", Kind::Missing)],
    ),
    (
        "a newline less",
        |root, _| {
            quietly(root, || {
                fs::rename(root.join("new\nline"), root.join("newline")).unwrap();
            })
        },
        &[("/new\\nline", Kind::Missing), ("/newline", Kind::Extra)],
    ),
    (
        "a byte that is not UTF-8",
        |root, _| poke(&place(root, b"/\xff\xfe"), b"3", 0),
        &[("/\\xff\\xfe", Kind::Content)],
    ),
    (
        "a fifo for a file",
        |root, _| {
            quietly(root, || {
                fs::remove_file(root.join("b")).unwrap();
                rustix::fs::mknodat(CWD, root.join("b"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
            })
        },
        &[("/b", Kind::Type)],
    ),
    (
        "a device for a file",
        |root, list| {
            rewrite(root, &Entry { file_type: FileType::Char, rdev: (5, 0), ..find(list, "/b").clone() });
        },
        &[("/b", Kind::Type)],
    ),
    (
        "a link for a file",
        |root, _| {
            quietly(root, || {
                fs::rename(root.join("b"), root.with_file_name("b")).unwrap();
                symlink("../b", root.join("b")).unwrap();
            })
        },
        &[("/b", Kind::Type)],
    ),
    // What is behind the link is as the image has it; it must not be looked at.
    (
        "a link for a directory",
        |root, _| {
            quietly(root, || {
                fs::rename(root.join("dir"), root.with_file_name("victim")).unwrap();
                symlink("../victim", root.join("dir")).unwrap();
            })
        },
        &[
            ("/a", Kind::Links),
            ("/dir", Kind::Type),
            ("/dir/deep", Kind::Missing),
            ("/dir/deep/deeper", Kind::Missing),
            ("/dir/deep/deeper/file", Kind::Missing),
            ("/dir/hard", Kind::Missing),
            ("/dir/setuid", Kind::Missing),
        ],
    ),
    (
        "a file for a directory",
        |root, _| {
            quietly(root, || {
                fs::remove_dir(root.join("emptydir")).unwrap();
                fs::write(root.join("emptydir"), "").unwrap();
            })
        },
        &[("/emptydir", Kind::Type)],
    ),
    (
        "a directory for a file",
        |root, _| {
            quietly(root, || {
                fs::remove_file(root.join("b")).unwrap();
                fs::create_dir_all(root.join("b/c")).unwrap();
            })
        },
        &[("/b", Kind::Type), ("/b/c", Kind::Extra)],
    ),
];

#[test]
fn every_change_is_found_and_nothing_else_root() {
    if skips_without_root("every_change_is_found_and_nothing_else_root") {
        return;
    }
    let list = everything();
    let image = write_image(&list);
    for (what, change, expected) in CHANGES {
        let scratch = Scratch::new();
        let root = scratch.root();
        write_tree(&list, &root);
        change(&root, &list);
        let report = audit(&image.bytes, &root, TreeOptions::default());
        expect(&report, expected, what);
        assert!(report.complete, "{what}");
        // Without the field that it is about, there is nothing.
        let fields: Vec<Field> = expected.iter().filter_map(|(_, kind)| kind.field()).collect();
        if fields.len() == expected.len() {
            let mut ignore = fields;
            // Another size is other content.
            ignore.extend(ignore.contains(&Field::Size).then_some(Field::Content));
            let report =
                audit(&image.bytes, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
            assert!(report.is_clean(), "{what}: {report:#?}");
        }
        // Nor without the paths; but a link is the affair of all names of its inode.
        if expected.iter().any(|(_, kind)| *kind == Kind::Links) {
            continue;
        }
        let globs: Vec<Glob> = report.findings.iter().map(|found| Glob::new(&found.path).unwrap()).collect();
        let report =
            audit(&image.bytes, &root, TreeOptions { ignore_paths: &globs, ..TreeOptions::default() });
        assert!(report.is_clean(), "{what}: {report:#?}");
    }
}

#[test]
fn both_sides_are_told() {
    let list = [entry("/", FileType::Dir, 0o755, ""), entry("/f", FileType::File, 0o600, "abc")];
    let image = write_image(&list);
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let path = root.join("f");
    poke(&path, b"abd", 0);
    chmod(&path, 0o4711);
    set_xattr(&path, "user.k", b"v");
    let ignore = [Field::Uid, Field::Gid, Field::Mtime];
    let report = audit(&image.bytes, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
    let told: Vec<_> = report
        .findings
        .iter()
        .map(|found| {
            (found.kind, found.expected.clone().unwrap_or_default(), found.found.clone().unwrap_or_default())
        })
        .collect();
    let digest = |text: &str| format!("blake3 {}", blake3::hash(text.as_bytes()).to_hex());
    assert_eq!(
        told,
        [
            (Kind::Mode, "0600".to_owned(), "4711".to_owned()),
            (Kind::Content, digest("abc"), digest("abd")),
            (Kind::Xattr, String::new(), "user.k=\"v\"".to_owned()),
        ]
    );
    // Sizes are left out, contents are not.
    fs::write(&path, "abcd").unwrap();
    let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Mode, Field::Size, Field::Xattrs];
    let report = audit(&image.bytes, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
    expect(&report, &[("/f", Kind::Content)], "other size");
    let globs = ["user.*".parse().unwrap(), "/f/../x".parse().unwrap()];
    let options = TreeOptions { ignore: &ignore[..5], ignore_xattrs: &globs, ..TreeOptions::default() };
    expect(&audit(&image.bytes, &root, options), &[("/f", Kind::Content)], "ignored xattr");
}

/// Whoever gets power by a change is told first, and alone if nothing else is wanted.
#[test]
fn what_gives_power_comes_first_root() {
    if skips_without_root("what_gives_power_comes_first_root") {
        return;
    }
    let list = everything();
    let image = write_image(&list);
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let add = |path: &str, mode: u32| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        chmod(&path, mode);
        path
    };
    // Nothing of this gives power: set-id on a directory, a mode without set-id, new content without either, less mode.
    chmod(&root.join("block"), 0o600);
    chmod(&root.join("emptydir"), 0o2755);
    chmod(&root.join("b2"), 0o777);
    poke(&root.join("b"), b"!", 0);
    add("aaa", 0o755);
    // All of this does.
    add("new/deep/suid", 0o4755);
    add("sgid", 0o2755);
    set_xattr(&add("capable", 0o755), "security.capability", &sample::CAPABILITY);
    rustix::fs::mknodat(CWD, root.join("disk"), rustix::fs::FileType::BlockDevice, Mode::RUSR, 2049).unwrap();
    chmod(&root.join("h1"), 0o4755);
    poke(&root.join("dir/setuid"), b"?", 0);
    poke(&root.join("x"), b"?", 0);
    // The system takes set-id and capabilities away from whatever is written to.
    set_xattr(&root.join("x"), "security.capability", &sample::CAPABILITY);
    chown(&root.join("dir/setuid"), Some(5), None);
    chmod(&root.join("dir/setuid"), 0o4757);
    chmod(&root.join("char"), 0o622);
    chown(&root.join("block"), None, Some(77));
    rewrite(&root, &Entry { file_type: FileType::Char, rdev: (1, 1), ..find(&list, "/empty").clone() });
    let powers = |report: &TreeReport| -> Vec<(String, Kind, Option<Security>)> {
        report
            .findings
            .iter()
            .map(|f| (String::from_utf8_lossy(&f.path).into_owned(), f.kind, f.security))
            .collect()
    };
    let expected: Vec<_> = [
        ("/block", Kind::Gid, Security::Device),
        ("/capable", Kind::Extra, Security::Capability),
        ("/char", Kind::Mode, Security::Device),
        ("/dir/setuid", Kind::Mode, Security::Privileged),
        ("/dir/setuid", Kind::Uid, Security::Privileged),
        ("/dir/setuid", Kind::Content, Security::Privileged),
        ("/disk", Kind::Extra, Security::Device),
        ("/empty", Kind::Type, Security::Device),
        ("/h1", Kind::Mode, Security::SetId),
        ("/h2", Kind::Mode, Security::SetId),
        ("/h3", Kind::Mode, Security::SetId),
        ("/new/deep/suid", Kind::Extra, Security::SetId),
        ("/sgid", Kind::Extra, Security::SetId),
        ("/x", Kind::Content, Security::Privileged),
    ]
    .map(|(path, kind, security)| (path.to_owned(), kind, Some(security)))
    .to_vec();
    let report = audit(&image.bytes, &root, TreeOptions::default());
    assert_eq!(powers(&report)[..expected.len()], expected, "{report:#?}");
    assert!(powers(&report)[expected.len()..].iter().all(|(.., security)| security.is_none()));
    let report = audit(&image.bytes, &root, TreeOptions { only_security: true, ..TreeOptions::default() });
    assert_eq!(powers(&report), expected);
    // Power counts where it is not compared itself.
    let options = TreeOptions { only_security: true, ignore: &[Field::Xattrs], ..TreeOptions::default() };
    assert_eq!(powers(&audit(&image.bytes, &root, options)), expected);
    let whole = audit(&image.bytes, &root, TreeOptions::default());
    assert!(report.bytes < whole.bytes / 10, "files without power are not read: {} bytes", report.bytes);
}

/// The first byte that differs is told with the image at hand, its block without.
#[test]
fn where_content_differs_is_told() {
    let body = fill(20_000, 9);
    let list = [
        entry("/", FileType::Dir, 0o755, ""),
        entry("/f", FileType::File, 0o600, body.as_slice()),
        entry("/g", FileType::File, 0o600, "abc"),
    ];
    let image = write_image(&list);
    let seal = maker::detach(&image);
    let scratch = Scratch::new();
    let root = scratch.root();
    let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs];
    type Row = (&'static str, fn(&Path), u64, Option<u64>);
    let rows: &[Row] = &[
        ("first byte", |path| poke(path, b"\x00\x01\x02", 0), 0, None),
        ("last byte of a block", |path| poke(path, &[0xff], 4095), 4095, None),
        ("first byte of a block", |path| poke(path, &[0xfe], 8192), 8192, None),
        (
            "two places",
            |path| {
                poke(path, &[0xfd], 19_999);
                poke(path, &[0xfd], 12_300)
            },
            12_300,
            None,
        ),
        ("last byte", |path| poke(path, &[0xfc], 19_999), 19_999, None),
        ("appended", |path| poke(path, b"more", 20_000), 20_000, Some(20_000)),
        ("appended over blocks", |path| poke(path, &[7; 9000], 20_000), 20_000, Some(20_000)),
        (
            "cut",
            |path| File::options().write(true).open(path).unwrap().set_len(5000).unwrap(),
            5000,
            Some(4096),
        ),
        (
            "cut at a block",
            |path| File::options().write(true).open(path).unwrap().set_len(8192).unwrap(),
            8192,
            Some(8192),
        ),
        ("emptied", |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap(), 0, Some(0)),
    ];
    for (what, change, exact, in_seal) in rows {
        write_tree(&list, &root);
        change(&root.join("f"));
        for (baseline, at, unit) in [
            (&image.bytes, *exact, 1),
            (
                &seal,
                in_seal.unwrap_or(exact / 4096 * 4096),
                if in_seal.is_some_and(|at| at == *exact) { 1 } else { 4096 },
            ),
        ] {
            let report = audit(baseline, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
            assert_eq!(report.findings.len(), 1, "{what}: {report:#?}");
            assert_eq!(report.findings[0].offset, Some(Offset { at, unit }), "{what}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
    // A damaged image does not mislead: the leaf decides, and the block is told.
    write_tree(&list, &root);
    poke(&root.join("f"), &[0xff], 9000);
    let mut damaged = image.bytes.clone();
    let block = damaged.chunks(4096).position(|block| block == &body[8192..12_288]).unwrap();
    damaged[block * 4096] ^= 1;
    let report = audit(&damaged, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
    assert_eq!(report.findings[0].offset, Some(Offset { at: 8192, unit: 4096 }));
}

#[test]
fn directories_of_several_blocks_and_many_findings() {
    let mut list = vec![entry("/", FileType::Dir, 0o755, "")];
    list.extend((0..12_000).map(|index| entry(format!("/f{index:05}"), FileType::File, 0o600, "")));
    let image = write_image(&list);
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    for index in (0..12_000).step_by(3) {
        fs::remove_file(root.join(format!("f{index:05}"))).unwrap();
        fs::write(root.join(format!("f{index:05}x")), "").unwrap();
    }
    let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs];
    let report = audit(&image.bytes, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
    assert_eq!((report.findings.len(), report.truncated), (8000, 0));
    let is = |kind| report.findings.iter().filter(|found| found.kind == kind).count();
    assert_eq!((is(Kind::Missing), is(Kind::Extra)), (4000, 4000));
    assert!(report.findings.is_sorted());
    let report = audit(&image.bytes, &root, TreeOptions { ignore: &[Field::Uid], ..TreeOptions::default() });
    assert_eq!(report.findings.len(), 8001, "and the time of the root");
    for index in (1..12_000).step_by(3) {
        chmod(&root.join(format!("f{index:05}")), 0o644);
    }
    let report = audit(&image.bytes, &root, TreeOptions { ignore: &ignore, ..TreeOptions::default() });
    assert_eq!((report.findings.len(), report.truncated), (DIFFERENCES_MAX, 2000));
}

/// Whoever writes while the audit reads is never certified.
#[test]
fn a_racing_writer_is_not_clean() {
    let good = fill(4 << 20, 5);
    let list = [entry("/", FileType::Dir, 0o755, ""), entry("/f", FileType::File, 0o600, good.as_slice())];
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let path = root.join("f");
    poke(&path, &[good[0] ^ 1], 0);
    let stop = AtomicBool::new(false);
    let changing = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                // There is never a moment at which all is well.
                file.write_all_at(&[good[0] ^ 1], 0).unwrap();
                file.write_all_at(&[good[good.len() - 1] ^ 1], good.len() as u64 - 1).unwrap();
                file.write_all_at(&good[..1], 0).unwrap();
                file.write_all_at(&[good[0] ^ 1], 0).unwrap();
                file.write_all_at(&good[good.len() - 1..], good.len() as u64 - 1).unwrap();
            }
        });
        let _stop = Stop(&stop);
        let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs];
        for _ in 0..30 {
            let options = TreeOptions { ignore: &ignore, threads: ONE, ..TreeOptions::default() };
            let report = audit_tree(&image, &root, &options).unwrap();
            // One name, one verdict.
            let [found] = report.findings.as_slice() else { panic!("{report:#?}") };
            assert!(matches!(found.kind, Kind::Changing | Kind::Content), "{report:#?}");
            changing.fetch_add(u64::from(found.kind == Kind::Changing), Ordering::Relaxed);
        }
    });
    assert!(changing.into_inner() > 0);
}

/// A directory and a link to a victim change places all the time.
#[test]
fn a_racing_swap_does_not_lead_out() {
    let list = [
        entry("/", FileType::Dir, 0o755, ""),
        entry("/d", FileType::Dir, 0o755, ""),
        entry("/d/f", FileType::File, 0o600, "inside"),
    ];
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let victim = scratch.0.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("f"), "VICTIM of another length").unwrap();
    symlink("../victim", scratch.0.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (dir, link) = (root.join("d"), scratch.0.join("link"));
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &dir, CWD, &link, swap).unwrap();
            }
        });
        let _stop = Stop(&stop);
        let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs, Field::Mode];
        for _ in 0..300 {
            let options = TreeOptions { ignore: &ignore, threads: ONE, ..TreeOptions::default() };
            let report = audit_tree(&image, &root, &options).unwrap();
            for found in &report.findings {
                // Never the size of the victim.
                assert!(matches!(found.kind, Kind::Changing | Kind::Type | Kind::Missing), "{report:#?}");
            }
        }
    });
}

/// A file and a FIFO change places all the time. Whoever waits at the other end of the FIFO never sees it opened; a
/// device would have noticed, too.
#[test]
fn a_racing_fifo_is_never_opened() {
    let list = [entry("/", FileType::Dir, 0o755, ""), entry("/f", FileType::File, 0o600, "inside")];
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let (file, pipe) = (root.join("f"), scratch.0.join("pipe"));
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let stop = AtomicBool::new(false);
    let readers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &file, CWD, &pipe, rustix::fs::RenameFlags::EXCHANGE).unwrap();
                // Succeeds on a FIFO only while somebody has it open for reading.
                let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
                for path in [&file, &pipe] {
                    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { continue };
                    let mode = rustix::fs::fstat(&fd).unwrap().st_mode;
                    let is_fifo = rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Fifo;
                    readers.fetch_add(u64::from(is_fifo), Ordering::Relaxed);
                }
            }
        });
        let _stop = Stop(&stop);
        let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs, Field::Mode];
        let mut seen = [0; 2];
        for _ in 0..3000 {
            let options = TreeOptions { ignore: &ignore, threads: ONE, ..TreeOptions::default() };
            let report = audit_tree(&image, &root, &options).unwrap();
            seen[usize::from(report.findings.iter().any(|found| found.kind == Kind::Type))] += 1;
        }
        assert!(seen.iter().all(|times| *times > 0), "it was seen as both: {seen:?}");
    });
    assert_eq!(readers.into_inner(), 0);
}

#[test]
fn mounts_are_found_root() {
    if skips_without_root("mounts_are_found_root") {
        return;
    }
    let list = everything();
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    let mounted = |args: &[&std::ffi::OsStr]| {
        std::process::Command::new("mount").args(args).status().is_ok_and(|status| status.success())
    };
    let dir = root.join("dir");
    let type_tmpfs = ["-t", "tmpfs", "none"].map(AsRef::as_ref);
    if !mounted(&[&type_tmpfs[..], &[dir.as_os_str()]].concat()) {
        println!("skipped: mounts_are_found_root cannot mount tmpfs");
        return;
    }
    let report = std::panic::catch_unwind(|| audit(&image, &root, TreeOptions::default()));
    let crossed = std::panic::catch_unwind(|| {
        audit(&image, &root, TreeOptions { cross_mounts: true, ..TreeOptions::default() })
    });
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    expect(&report.unwrap(), &[("/dir", Kind::Mount)], "tmpfs");
    let crossed = kinds(&crossed.unwrap());
    assert!(crossed.contains(&("/dir/setuid".to_owned(), Kind::Missing)), "{crossed:?}");
    // A file over a file.
    let (file, other) = (root.join("b"), scratch.0.join("other"));
    fs::write(&other, "").unwrap();
    assert!(mounted(&["--bind".as_ref(), other.as_os_str(), file.as_os_str()]));
    let report = std::panic::catch_unwind(|| audit(&image, &root, TreeOptions::default()));
    rustix::mount::unmount(&file, rustix::mount::UnmountFlags::DETACH).unwrap();
    expect(&report.unwrap(), &[("/b", Kind::Mount)], "bind mount");
    assert!(audit(&image, &root, TreeOptions::default()).is_clean());
}

/// Set in the run of this very test that has given up its privileges.
const UNPRIVILEGED: &str = "MKIMG_TEST_TREE_UNPRIVILEGED";

#[test]
fn an_unprivileged_run_is_incomplete() {
    if let Some(scratch) = std::env::var_os(UNPRIVILEGED) {
        let scratch = Path::new(&scratch);
        let image = fs::read(scratch.join("image")).unwrap();
        let root = scratch.join("root");
        let report = audit(&image, &root, TreeOptions::default());
        let unreadable = [("/b", Kind::Unreadable), ("/d", Kind::Unreadable)];
        expect(&report, &unreadable, "as nobody");
        assert!(!report.complete);
        assert_eq!(report.unseen.len(), 1, "{report:#?}");
        assert!(report.unseen[0].starts_with("xattrs trusted.*"));
        // Only what is left out knowingly makes it complete.
        let paths = ["/b".parse().unwrap(), "/d".parse().unwrap()];
        let xattrs = ["trusted.*".parse().unwrap()];
        let options = TreeOptions { ignore_paths: &paths, ..TreeOptions::default() };
        let report = audit(&image, &root, options);
        assert!(report.findings.is_empty() && !report.complete && !report.is_clean(), "{report:#?}");
        let report = audit(&image, &root, TreeOptions { ignore_xattrs: &xattrs, ..options });
        assert!(report.is_clean(), "{report:#?}");
        println!("as nobody: done");
        return;
    }
    if skips_without_root("an_unprivileged_run_is_incomplete") {
        return;
    }
    let mut list = vec![
        entry("/", FileType::Dir, 0o755, ""),
        entry("/a", FileType::File, 0o644, "open"),
        entry("/b", FileType::File, 0o600, "secret"),
        entry("/d", FileType::Dir, 0o700, ""),
        entry("/d/f", FileType::File, 0o644, "behind"),
    ];
    list[1].xattrs = vec![(b"trusted.x".to_vec(), b"y".to_vec()), (b"user.x".to_vec(), b"z".to_vec())];
    let scratch = Scratch::new();
    chmod(&scratch.0, 0o755);
    write_tree(&list, &scratch.root());
    fs::write(scratch.0.join("image"), write_image(&list).bytes).unwrap();
    // The test binary may stand where nobody but root can go. It is copied by another process: a child that another
    // test forks in the same moment would inherit our descriptor, and what is open for writing cannot be executed.
    let binary = scratch.0.join("test");
    let copied = std::process::Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&binary).status();
    assert!(copied.unwrap().success());
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&binary)
        .args(["--exact", "an_unprivileged_run_is_incomplete", "--nocapture"])
        .env(UNPRIVILEGED, &scratch.0)
        .output();
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => println!("skipped: needs setpriv"),
        output => {
            let output = output.unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("as nobody: done"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let image = write_image(&[entry("/", FileType::Dir, 0o755, "")]).bytes;
    let scratch = Scratch::new();
    fs::write(scratch.0.join("file"), "").unwrap();
    for path in ["nothing", "file"] {
        let error = audit_tree(&image, &scratch.0.join(path), &TreeOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Tree { .. }), "{error}");
        assert!(error.to_string().starts_with("cannot open directory /"), "{error}");
    }
    let error = audit_tree(&vec![0; 8192], &scratch.0, &TreeOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Image(_)), "{error}");
}

/// A broken image is said to be one, and makes no report complete.
#[test]
fn an_image_that_contradicts_itself_is_told() {
    let list = [entry("/", FileType::Dir, 0o755, ""), entry("/f", FileType::File, 0o600, "abc")];
    let image = write_image(&list);
    let scratch = Scratch::new();
    write_tree(&list, &scratch.root());
    let ignore = [Field::Uid, Field::Gid, Field::Xattrs];
    let options = TreeOptions { ignore: &ignore, ..TreeOptions::default() };
    assert!(
        audit(&image.bytes, &scratch.root(), options).is_clean() || !rustix::process::geteuid().is_root()
    );
    let (meta, seal) = (image.header.meta_block as usize * 4096, image.header.seal_block as usize * 4096);
    for at in meta..seal + 8 * 4096 {
        let mut bytes = image.bytes.clone();
        bytes[at] ^= 0xff;
        // Whatever is broken, there is no panic, and no clean report that has not compared everything.
        if let Ok(report) = audit_tree(&bytes, &scratch.root(), &TreeOptions { threads: ONE, ..options }) {
            assert!(report.is_clean() || !report.findings.is_empty() || !report.complete, "byte {at}");
            assert!(report.entries == 2 || !report.is_clean(), "byte {at}");
        }
    }
    let seal = Seal::open(&image.bytes, &image.header).unwrap();
    let records = seal.table().place(Section::Inodes);
    assert_eq!(records.length, 32);
    let mut bytes = image.bytes.clone();
    bytes[records.offset as usize + 16 + 12] = 9;
    let report = audit(&bytes, &scratch.root(), options);
    expect(&report, &[("/f", Kind::Image)], "no content");
    assert!(!report.complete);
}

#[test]
fn fields_have_words() {
    for field in Field::ALL {
        assert_eq!(field.to_string().parse::<Field>().unwrap(), field);
    }
    assert_eq!(
        "Mode\n".parse::<Field>().unwrap_err().to_string(),
        "Mode\\n is no field, must be one of mode, uid, gid, mtime, size, content, target, rdev, links, xattrs"
    );
}
