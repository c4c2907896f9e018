//! Extraction by somebody who is not root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use mkimg_extract::{Error, Options, Owners};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags};
use tempfile::TempDir;

use crate::snapshot::snapshot;
use crate::support::{
    child_image, extract_sealed, has_tool, image_of, is_root, run_in_child, skip_unless, write,
};

const USER: u32 = 65_534;

fn own(path: &Path, uid: u32, gid: u32, mode: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn source() -> TempDir {
    let place = TempDir::new().unwrap();
    let root = place.path();
    std::fs::create_dir_all(root.join("locked/inner")).unwrap();
    write(&root.join("locked/inner/file"), b"in a directory without permissions");
    write(&root.join("locked/first"), b"linked");
    std::fs::hard_link(root.join("locked/first"), root.join("second")).unwrap();
    for name in ["su-root", "su-user", "secret"] {
        write(&root.join(name), name.as_bytes());
    }
    symlink("target", root.join("symlink")).unwrap();
    let node = |name: &str, kind| {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::RUSR, device).unwrap();
    };
    node("char", FileType::CharacterDevice);
    node("block", FileType::BlockDevice);
    node("fifo", FileType::Fifo);
    std::fs::hard_link(root.join("char"), root.join("char-too")).unwrap();
    for (path, name) in [("secret", "trusted.t"), ("symlink", "trusted.t"), ("secret", "user.u")] {
        rustix::fs::lsetxattr(root.join(path), name, b"v", XattrFlags::empty()).unwrap();
    }
    own(&root.join("su-root"), 0, USER, 0o6755);
    own(&root.join("su-user"), USER, 0, 0o6755);
    own(&root.join("secret"), 0, 0, 0o000);
    own(&root.join("locked/inner"), 0, 0, 0o000);
    own(&root.join("locked"), 0, 0, 0o000);
    own(root, 0, 0, 0o555);
    place
}

#[test]
fn without_privilege_the_rest_is_restored_and_reported() {
    const NAME: &str = "unprivileged::without_privilege_the_rest_is_restored_and_reported";
    if let Some(image) = child_image() {
        return child(&image);
    }
    if skip_unless(is_root() && has_tool("setpriv"), "not root, or no setpriv") {
        return;
    }
    let source = source();
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    run_in_child(&user, NAME, &image_of(source.path()));
}

fn child(image: &[u8]) {
    assert_eq!(rustix::process::geteuid().as_raw(), USER);
    let place = TempDir::new().unwrap();
    let target = place.path().join("target");
    let summary = extract_sealed(image, &target, &Options::default()).unwrap();
    let mode = |name: &str| target.join(name).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(""), 0o555);
    assert_eq!(mode("locked"), 0);
    // The other user's bit is gone, our own is not.
    assert_eq!(mode("su-root"), 0o2755);
    assert_eq!(mode("su-user"), 0o4755);
    assert_eq!(mode("secret"), 0);
    assert_eq!(target.join("second").metadata().unwrap().nlink(), 2);
    assert!(
        !target.join("char").exists() && !target.join("block").exists() && !target.join("char-too").exists()
    );
    let skipped: Vec<(String, String)> = summary
        .skipped
        .iter()
        .map(|skipped| (String::from_utf8(skipped.path.clone()).unwrap(), skipped.what.clone()))
        .collect();
    let not_permitted = "Operation not permitted (os error 1)";
    let expected = [
        ("/block", format!("block device 1:3: {not_permitted}")),
        ("/char", format!("char device 1:3: {not_permitted}")),
        ("/char-too", format!("char device 1:3: {not_permitted}")),
        ("/secret", format!("xattr trusted.t: {not_permitted}")),
        ("/su-root", "set-id bits of mode 6755: owner not restored".to_owned()),
        ("/su-user", "set-id bits of mode 6755: owner not restored".to_owned()),
        ("/symlink", format!("xattr trusted.t: {not_permitted}")),
        ("/", "owners of 10 files and directories: not running as root".to_owned()),
    ];
    assert_eq!(skipped, expected.map(|(path, what)| (path.to_owned(), what)));
    assert_eq!(summary.skipped_total, 8);
    // Now that the modes are known, a look below them.
    for name in ["locked", "locked/inner"] {
        std::fs::set_permissions(target.join(name), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    std::fs::set_permissions(target.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let found = snapshot(&target);
    assert_eq!(found[&b"locked/inner/file"[..]].content, b"in a directory without permissions");
    assert_eq!(found[&b"secret"[..]].xattrs[&b"user.u"[..]], b"v");
    assert_eq!(found[&b"secret"[..]].content, b"secret");

    let options = Options { owners: Owners::Keep, ..Options::default() };
    let error = extract_sealed(image, &place.path().join("keep"), &options).unwrap_err();
    assert!(matches!(&error, Error::Host { doing: "cannot set owner", .. }), "{error}");
    // Whoever asks for no owners is not told that there are none.
    let options = Options { owners: Owners::Skip, ..Options::default() };
    let summary = extract_sealed(image, &place.path().join("skip"), &options).unwrap();
    assert_eq!(summary.skipped_total, 7);
    for name in ["target", "skip", "skip/locked", "skip/locked/inner"] {
        std::fs::set_permissions(place.path().join(name), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}
