//! What goes in comes out.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use mkimg_extract::{Error, Options, Owners};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use tempfile::TempDir;

use crate::snapshot::{assert_same, snapshot};
use crate::support::{
    child_image, extract_sealed, has_tool, image_of, image_of_tar, is_root, run, run_in_child, skip_unless,
    write,
};

fn set_time(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn set_owner(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A POSIX ACL: version 2, then (tag, permissions, id), little-endian (`linux/posix_acl_xattr.h`).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn example_acl() -> Vec<u8> {
    acl(&[(1, 6, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)])
}

/// What needs no privilege.
fn plain_tree(root: &Path) {
    write(&root.join("empty"), b"");
    write(&root.join("small"), b"small content");
    let large: Vec<u8> = (0..3_000_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write(&root.join("large"), &large);
    write(&root.join("line\nbreak"), b"1");
    write(&root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"2");
    write(&root.join("n".repeat(255)), b"3");
    std::fs::create_dir(root.join("dir")).unwrap();
    std::fs::create_dir(root.join("dir/empty")).unwrap();
    write(&root.join("dir/before-epoch"), b"old");
    set_time(&root.join("dir/before-epoch"), -86_400 * 365, 999_999_999);
    write(&root.join("dir/now"), b"new");
    set_time(&root.join("dir/now"), 1_700_000_000, 123_456_789);
    std::os::unix::fs::symlink("../../../no/such\nplace", root.join("link")).unwrap();
    set_time(&root.join("link"), 1_234_567_890, 987_654_321);
    std::fs::hard_link(root.join("small"), root.join("dir/small-too")).unwrap();
    std::fs::hard_link(root.join("small"), root.join("zz-small")).unwrap();
    std::fs::hard_link(root.join("link"), root.join("zz-link")).unwrap();
    set_xattr(&root.join("small"), "user.key", b"value\0with\xffbytes");
    set_xattr(&root.join("dir"), "user.dir", b"");
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(CWD, root.join("socket"), FileType::Socket, Mode::RUSR, 0).unwrap();
    for (at, mode) in [0o000, 0o444, 0o755, 0o1777, 0o2755, 0o4711, 0o6511].into_iter().enumerate() {
        let path = root.join(format!("mode-{at}"));
        write(&path, b"x");
        set_mode(&path, mode);
    }
    set_mode(&root.join("fifo"), 0o626);
    set_mode(&root.join("dir/empty"), 0o2571);
    set_time(&root.join("dir/empty"), 5, 5);
    set_time(&root.join("dir"), 1_000_000_000, 1);
    set_mode(root, 0o1755);
    set_time(root, 77, 7);
}

/// What only root can make.
fn privileged_tree(root: &Path) {
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    set_mode(&root.join("null"), 0o666);
    let disk = rustix::fs::makedev(259, 70_000);
    rustix::fs::mknodat(CWD, root.join("disk"), FileType::BlockDevice, Mode::RUSR, disk).unwrap();
    std::fs::hard_link(root.join("disk"), root.join("dir/disk-too")).unwrap();
    set_owner(&root.join("disk"), 0, 6);
    set_xattr(&root.join("null"), "security.test", b"on a device");
    set_xattr(&root.join("link"), "trusted.test", b"on a link");
    set_xattr(&root.join("fifo"), "trusted.test", b"on a fifo");
    set_xattr(&root.join("dir"), "trusted.test", b"on a directory");
    set_owner(&root.join("large"), 4_000_000_000, 70_000);
    set_owner(&root.join("link"), 100_000, 3);
    set_owner(&root.join("dir/empty"), 65_536, 65_536);
    // Changing the owner has cleared the bits.
    set_mode(&root.join("dir/empty"), 0o2571);
    for name in ["mode-5", "mode-6"] {
        let path = root.join(name);
        let mode = path.metadata().unwrap().mode();
        set_owner(&path, 12, 34);
        set_mode(&path, mode & 0o7777);
    }
    write(&root.join("ping"), b"capable");
    set_owner(&root.join("ping"), 5, 5);
    // cap_net_raw=ep, revision 2 (`linux/capability.h`).
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&root.join("ping"), "security.capability", &capability);
    set_xattr(&root.join("dir/now"), "system.posix_acl_access", &example_acl());
    set_xattr(&root.join("dir"), "system.posix_acl_default", &example_acl());
    set_time(&root.join("link"), 1_234_567_890, 987_654_321);
    set_time(&root.join("dir"), 1_000_000_000, 1);
    set_time(root, 77, 7);
}

#[test]
fn root_restores_everything() {
    if skip_unless(is_root(), "not root") {
        return;
    }
    let place = TempDir::new().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    plain_tree(&source);
    privileged_tree(&source);
    let expected = snapshot(&source);
    assert_eq!(expected[&b"link"[..]].xattrs.len(), 1);
    assert_eq!(expected[&b"dir/now"[..]].xattrs.len(), 1);
    let done = Cell::new(0);
    let progress = |bytes| done.set(done.get() + bytes);
    let options = Options { progress: Some(&progress), ..Options::default() };
    let summary = extract_sealed(&image_of(&source), &target, &options).unwrap();
    assert_same(&snapshot(&target), &expected);
    assert_eq!((summary.skipped_total, summary.skipped.len()), (0, 0), "{:?}", summary.skipped);
    assert_eq!((summary.files, summary.dirs, summary.merged), (16, 3, 0));
    assert_eq!((summary.symlinks, summary.specials, summary.hardlinks), (1, 4, 4));
    assert_eq!(summary.bytes, done.get());
    assert_eq!(summary.bytes, 3_000_001 + 13 + 1 + 1 + 1 + 3 + 3 + 7 + 7);
}

#[test]
fn an_inherited_access_control_list_is_not_taken_over() {
    if skip_unless(is_root(), "not root") {
        return;
    }
    let place = TempDir::new().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    plain_tree(&source);
    let expected = snapshot(&source);
    let image = image_of(&source);
    let parent = place.path().join("parent");
    std::fs::create_dir(&parent).unwrap();
    set_xattr(&parent, "system.posix_acl_default", &example_acl());
    extract_sealed(&image, &parent.join("new"), &Options::default()).unwrap();
    assert_same(&snapshot(&parent.join("new")), &expected);
    std::fs::create_dir(parent.join("empty")).unwrap();
    assert_eq!(snapshot(&parent.join("empty"))[&b""[..]].xattrs.len(), 2);
    extract_sealed(&image, &parent.join("empty"), &Options::default()).unwrap();
    assert_same(&snapshot(&parent.join("empty")), &expected);
    // A directory that is merged keeps its list, and what is new in it does not inherit.
    std::fs::create_dir(parent.join("merged")).unwrap();
    let before = snapshot(&parent.join("merged"))[&b""[..]].clone();
    let options = Options { into_existing: true, ..Options::default() };
    extract_sealed(&image, &parent.join("merged"), &options).unwrap();
    let mut merged = snapshot(&parent.join("merged"));
    let root = merged.remove(&b""[..]).unwrap();
    assert_eq!((root.mode, root.xattrs), (before.mode, before.xattrs));
    let mut rest = expected.clone();
    rest.remove(&b""[..]);
    assert_same(&merged, &rest);
}

#[test]
fn the_umask_does_not_matter() {
    const NAME: &str = "round_trip::the_umask_does_not_matter";
    if let Some(image) = child_image() {
        let place = TempDir::new().unwrap();
        set_mode(place.path(), 0o700);
        extract_sealed(&image, &place.path().join("target"), &Options::default()).unwrap();
        let found = snapshot(&place.path().join("target"));
        assert_eq!(found[&b"dir"[..]].mode & 0o7777, 0o751);
        assert_eq!(found[&b"dir/file"[..]].mode & 0o7777, 0o664);
        assert_eq!(found[&b"dir/file"[..]].xattrs[&b"user.x"[..]], b"y");
        assert_eq!(found[&b"fifo"[..]].mode & 0o7777, 0o622);
        return;
    }
    let source = TempDir::new().unwrap();
    let dir = source.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    write(&dir.join("file"), b"content");
    set_xattr(&dir.join("file"), "user.x", b"y");
    rustix::fs::mknodat(CWD, source.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for (path, mode) in [("dir", 0o751), ("dir/file", 0o664), ("fifo", 0o622)] {
        set_mode(&source.path().join(path), mode);
    }
    let image = image_of(source.path());
    let unprivileged = is_root() && has_tool("setpriv");
    for umask in ["000", "077", "277", "777"] {
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        run_in_child(&["sh", "-c", &script], NAME, &image);
        if unprivileged {
            let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script];
            run_in_child(&user, NAME, &image);
        } else {
            println!("skipped: umask {umask} without privilege: not root, or no setpriv");
        }
    }
}

#[test]
fn sparse_files_stay_sparse() {
    if skip_unless(has_tool("tar"), "no tar") {
        return;
    }
    let place = TempDir::new().unwrap();
    let file = std::fs::File::create(place.path().join("sparse")).unwrap();
    let end_hole = std::fs::File::create(place.path().join("end-hole")).unwrap();
    let all_hole = std::fs::File::create(place.path().join("all-hole")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 20 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"at the end", (40 << 20) + 5).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&end_hole, b"start", 0).unwrap();
    end_hole.set_len((30 << 20) + 1).unwrap();
    all_hole.set_len(30 << 20).unwrap();
    let archive = place.path().join("sparse.tar");
    let names = ["sparse", "end-hole", "all-hole"];
    run(Command::new("tar")
        .arg("-C")
        .arg(place.path())
        .arg("-S")
        .arg("--format=pax")
        .arg("-cf")
        .arg(&archive)
        .args(names));
    let target = place.path().join("target");
    extract_sealed(&image_of_tar(&archive), &target, &Options::default()).unwrap();
    for name in names {
        assert_eq!(
            std::fs::read(target.join(name)).unwrap(),
            std::fs::read(place.path().join(name)).unwrap()
        );
        let blocks = target.join(name).metadata().unwrap().blocks();
        assert!(blocks <= 256, "{name} takes {blocks} sectors");
    }
}

#[test]
fn a_time_that_does_not_fit_is_reported() {
    if skip_unless(has_tool("python3"), "no python3") {
        return;
    }
    let place = TempDir::new().unwrap();
    let archive = place.path().join("far.tar");
    let script = "import tarfile, sys\n\
                  t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)\n\
                  for n, s in [('far', 1 << 40), ('near', 1 << 31), ('past', -(1 << 31))]:\n\
                  \x20   i = tarfile.TarInfo(n); i.pax_headers = {'mtime': str(s)}; t.addfile(i)\n";
    run(Command::new("python3").arg("-c").arg(script).arg(&archive));
    let target = place.path().join("target");
    let summary = extract_sealed(&image_of_tar(&archive), &target, &Options::default()).unwrap();
    let reported: Vec<&[u8]> = summary.skipped.iter().map(|skipped| &skipped.path[..]).collect();
    let files = [("far", 1_i64 << 40), ("near", 1 << 31), ("past", -(1 << 31))];
    let differs =
        files.into_iter().filter(|(name, sec)| target.join(name).metadata().unwrap().mtime() != *sec);
    let expected: Vec<String> = differs.map(|(name, _)| format!("/{name}")).collect();
    assert_eq!(reported, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    for skipped in &summary.skipped {
        assert!(
            skipped.what.starts_with("time 1099511627776.000000000: the file system stores "),
            "{}",
            skipped.what
        );
    }
}

#[test]
fn depth_needs_few_descriptors() {
    const NAME: &str = "round_trip::depth_needs_few_descriptors";
    const DEPTH: usize = 2046;
    if let Some(image) = child_image() {
        let place = TempDir::new().unwrap();
        let target = place.path().join("t");
        let summary = extract_sealed(&image, &target, &Options::default()).unwrap();
        assert_eq!((summary.dirs, summary.files, summary.hardlinks), (DEPTH as u64 + 2, 301, 1));
        // Too deep for a path; the bottom is reached in steps.
        let mut dir = std::fs::File::open(&target).unwrap();
        for _ in 0..DEPTH {
            let flags = rustix::fs::OFlags::RDONLY;
            let next = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
            dir = next.into();
            assert_eq!(dir.metadata().unwrap().mtime(), 1);
        }
        assert!(rustix::fs::statat(&dir, "f", AtFlags::empty()).is_ok());
        run(Command::new("rm").arg("-rf").arg(&target));
        return;
    }
    if skip_unless(has_tool("prlimit") && has_tool("python3"), "no prlimit or no python3") {
        return;
    }
    let place = TempDir::new().unwrap();
    let archive = place.path().join("deep.tar");
    // A file on every seventh level comes after the levels below it, so that the way back reopens them.
    let script = format!(
        "import tarfile, sys\n\
         t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)\n\
         def add(name, kind, link=''):\n\
         \x20   i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.mtime = 1; i.mode = 0o755; t.addfile(i)\n\
         for n in range(1, {DEPTH} + 1): add('d/' * n, tarfile.DIRTYPE)\n\
         for n in range(1, 2101, 7): add('d/' * min(n, {DEPTH}) + 'z' if n < {DEPTH} else 'x' + str(n), tarfile.REGTYPE)\n\
         add('d/' * {DEPTH} + 'f', tarfile.REGTYPE)\n\
         add('zz', tarfile.DIRTYPE)\n\
         add('zz/link', tarfile.LNKTYPE, 'd/' * {DEPTH} + 'f')\n"
    );
    run(Command::new("python3").arg("-c").arg(script).arg(&archive));
    run_in_child(&["prlimit", "--nofile=128"], NAME, &image_of_tar(&archive));
}

#[test]
fn parts_come_with_the_directories_on_the_way() {
    let place = TempDir::new().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    for dir in ["source", "source/a", "source/a/b", "source/a/b/c", "source/a/bc", "source/x"] {
        std::fs::create_dir(place.path().join(dir)).unwrap();
    }
    for file in ["a/b/one", "a/b/c/two", "a/bc/three", "a/four", "x/five"] {
        write(&source.join(file), file.as_bytes());
    }
    std::os::unix::fs::symlink("a", source.join("link")).unwrap();
    set_mode(&source.join("a"), 0o711);
    set_time(&source.join("a"), 9, 9);
    let image = image_of(&source);
    let select = |paths: &[&str]| Options {
        paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
        ..Options::default()
    };
    let summary = extract_sealed(&image, &target, &select(&["/a/b/", "//x/five"])).unwrap();
    let mut expected = snapshot(&source);
    expected.retain(|path, _| !path.starts_with(b"a/bc") && path != b"a/four" && path != b"link");
    assert_same(&snapshot(&target), &expected);
    assert_eq!((summary.files, summary.dirs), (3, 5));
    for (path, problem) in [
        ("/a/none", "not in the image"),
        ("/link/b", "not a directory on the way"),
        ("/a/../x", "only plain names can be extracted"),
    ] {
        let target = place.path().join("never");
        let error = extract_sealed(&image, &target, &select(&[path])).unwrap_err();
        assert_eq!(error.to_string(), format!("{path}: {problem}"));
        assert!(!target.exists());
    }
}

#[test]
fn existing_directories_merge_and_keep_their_attributes() {
    let place = TempDir::new().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    for dir in ["source", "source/both", "source/both/new", "target", "target/both", "target/mine"] {
        std::fs::create_dir(place.path().join(dir)).unwrap();
    }
    write(&source.join("both/file"), b"from the image");
    write(&target.join("both/other"), b"from before");
    set_mode(&source.join("both"), 0o755);
    set_mode(&source.join("both/new"), 0o750);
    set_mode(&target.join("both"), 0o700);
    let image = image_of(&source);
    assert!(matches!(extract_sealed(&image, &target, &Options::default()), Err(Error::NotEmpty { .. })));
    let options = Options { into_existing: true, ..Options::default() };
    let summary = extract_sealed(&image, &target, &options).unwrap();
    assert_eq!((summary.merged, summary.dirs, summary.files), (2, 1, 1));
    let found = snapshot(&target);
    assert_eq!(found[&b"both"[..]].mode & 0o7777, 0o700);
    assert_eq!(found[&b"both/new"[..]].mode & 0o7777, 0o750);
    assert_eq!(found[&b"both/file"[..]].content, b"from the image");
    assert_eq!(found[&b"both/other"[..]].content, b"from before");
    let error = extract_sealed(&image, &target, &options).unwrap_err();
    assert!(matches!(&error, Error::Exists { path } if path == b"/both/file"), "{error}");
}

#[test]
fn owners_can_be_left_out() {
    if skip_unless(is_root(), "not root") {
        return;
    }
    let place = TempDir::new().unwrap();
    let (source, target) = (place.path().join("source"), place.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    for (name, uid, gid) in [("both", 0, 0), ("user", 7, 0), ("group", 0, 7)] {
        write(&source.join(name), b"x");
        set_owner(&source.join(name), uid, gid);
        set_mode(&source.join(name), 0o6755);
    }
    let options = Options { owners: Owners::Skip, ..Options::default() };
    let summary = extract_sealed(&image_of(&source), &target, &options).unwrap();
    let found = snapshot(&target);
    for (name, mode) in [("both", 0o6755), ("user", 0o2755), ("group", 0o4755)] {
        assert_eq!(found[name.as_bytes()].owner, (0, 0));
        assert_eq!(found[name.as_bytes()].mode & 0o7777, mode, "{name}");
    }
    assert_eq!(summary.skipped_total, 2, "{:?}", summary.skipped);
}
