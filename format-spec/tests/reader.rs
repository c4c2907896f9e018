//! The reader on images that mkfs.erofs made, and on hostile names.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

mod image;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{BLOCK, Content, Node, Tree, full};
use mkimg_format::Error;
use mkimg_format::erofs::{FileSystem, FileType, Layout, Timestamp, Xattr};

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mkimg-format-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool; `false` and a line when it is not there.
fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}

/// What a listing shows of one name.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    word: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: Timestamp,
    nlink: u64,
    rdev: u64,
    /// File content or target.
    content: Vec<u8>,
}

fn word(file_type: fs::FileType) -> &'static str {
    match () {
        () if file_type.is_dir() => "dir",
        () if file_type.is_symlink() => "symlink",
        () if file_type.is_fifo() => "fifo",
        () if file_type.is_char_device() => "char",
        () if file_type.is_block_device() => "block",
        () if file_type.is_socket() => "socket",
        () => "file",
    }
}

/// The tree as the kernel shows it.
fn by_kernel(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let content = match word(kind) {
            "file" => fs::read(&path).unwrap(),
            "symlink" => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = [b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat();
        seen.insert(
            name,
            Seen {
                word: word(kind),
                mode: metadata.mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
                size: if kind.is_dir() { 0 } else { metadata.size() },
                mtime: Timestamp {
                    sec: metadata.mtime(),
                    nsec: u32::try_from(metadata.mtime_nsec()).unwrap(),
                },
                nlink: metadata.nlink(),
                rdev: metadata.rdev(),
                content,
            },
        );
    }
    seen
}

/// The tree as the reader shows it, read in two ways.
fn by_reader(fs: &FileSystem<File>) -> BTreeMap<Vec<u8>, Seen> {
    let mut seen = BTreeMap::new();
    for entry in fs.walk() {
        let entry = entry.unwrap();
        let inode = entry.inode;
        assert_eq!(entry.dirent_type, inode.file_type.dirent_type());
        let mut content = Vec::new();
        match inode.file_type {
            FileType::File => {
                fs.for_each_piece(&inode, |piece| {
                    content.extend_from_slice(piece);
                    Ok::<_, Error>(())
                })
                .unwrap();
                let mut odd = vec![0; 1000];
                let mut again = Vec::new();
                while let 1.. = {
                    let read = fs.read_file(&inode, again.len() as u64, &mut odd).unwrap();
                    again.extend_from_slice(&odd[..read]);
                    read
                } {}
                assert!(content == again, "{:?}", entry.path);
            }
            FileType::Symlink => content = fs.read_link(&inode).unwrap(),
            _ => {}
        }
        assert_eq!(fs.resolve(&entry.path, false).unwrap().nid, inode.nid);
        let (major, minor) = inode.rdev;
        seen.insert(
            entry.path,
            Seen {
                word: inode.file_type.word(),
                mode: inode.mode.into(),
                owner: (inode.uid, inode.gid),
                size: if inode.file_type == FileType::Dir { 0 } else { inode.size },
                mtime: inode.mtime,
                nlink: inode.nlink.into(),
                // As makedev(3) packs it for small numbers.
                rdev: u64::from(major) << 8 | u64::from(minor),
                content,
            },
        );
    }
    seen
}

/// A tree with what differs between layouts: sizes around blocks, many names, links, devices, times.
fn populate(root: &Path) {
    for size in [0, 1, 100, 4000, 4095, 4096, 4097, 8192, 10_000, 100_000] {
        let content: Vec<u8> = (0..size).map(|byte: u32| (byte % 253) as u8).collect();
        fs::write(root.join(format!("size-{size}")), content).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(300_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 150_000).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    fs::write(root.join("many/first"), b"hardlinks").unwrap();
    for number in 0..5000 {
        fs::hard_link(root.join("many/first"), root.join(format!("many/name-{number}"))).unwrap();
    }
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/c/setuid"), b"#!").unwrap();
    fs::set_permissions(root.join("a/b/c/setuid"), Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("a/b"), Permissions::from_mode(0o3771)).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff")), b"x").unwrap();
    fs::write(root.join("!before-dot"), b"x").unwrap();
    for length in [1, 59, 60, 1000, 4000] {
        symlink("t".repeat(length), root.join(format!("link-{length}"))).unwrap();
    }
    let old = File::options().write(true).open(root.join("size-1")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    old.set_modified(time).unwrap();
    let _ = Command::new("mkfifo").arg(root.join("fifo")).status();
    for (name, kind, major, minor) in [("char", "c", "1", "3"), ("block", "b", "8", "17")] {
        let _ = Command::new("mknod")
            .arg(root.join(name))
            .args([kind, major, minor])
            .stderr(Stdio::null())
            .status();
    }
}

/// Sets xattrs; what could be set comes back.
fn set_xattrs(root: &Path) -> BTreeMap<Vec<u8>, Vec<Xattr>> {
    let mut set: BTreeMap<Vec<u8>, Vec<Xattr>> = BTreeMap::new();
    for (name, key, value) in [
        ("size-0", "user.shared", "the same value everywhere".to_owned()),
        ("size-1", "user.shared", "the same value everywhere".to_owned()),
        ("size-100", "user.shared", "the same value everywhere".to_owned()),
        ("a/b", "user.shared", "the same value everywhere".to_owned()),
        ("a/b", "user.own", "1".to_owned()),
        ("size-4096", "user.long", "v".repeat(3000)),
        ("size-8192", "trusted.overlay.opaque", "y".to_owned()),
        ("size-4097", "security.test", "label".to_owned()),
    ] {
        let done = Command::new("setfattr")
            .args(["-n", key, "-v", &value])
            .arg(root.join(name))
            .stderr(Stdio::null())
            .status();
        if done.is_ok_and(|status| status.success()) {
            let xattr = Xattr { name: key.as_bytes().to_vec(), value: value.into_bytes() };
            set.entry([b"/", name.as_bytes()].concat()).or_default().push(xattr);
        }
    }
    set.values_mut().for_each(|xattrs| xattrs.sort());
    set
}

/// Needs `mkfs.erofs`; as root it covers devices and privileged xattrs as well.
#[test]
fn images_of_mkfs_erofs_read_as_what_they_were_made_from() {
    if !have("mkfs.erofs") {
        return;
    }
    let scratch = Scratch::new("mkfs");
    let root = scratch.0.join("tree");
    fs::create_dir(&root).unwrap();
    populate(&root);
    let xattrs = set_xattrs(&root);
    let expected = by_kernel(&root);
    assert!(expected.len() > 5020);
    for options in [
        &["-Eforce-inode-extended"][..],
        &["-Eforce-inode-extended", "-Enoinline_data"],
        &["-Eforce-inode-extended", "-x1"],
        &["-Eforce-inode-extended", "-x100000"],
        &["-Eforce-inode-extended", "--chunksize=4096"],
        &["-Eforce-inode-extended,force-chunk-indexes", "--chunksize=4096"],
        &["-Eforce-inode-extended", "--chunksize=65536"],
        &["-Eforce-inode-extended", "-Elegacy-compress"],
        &["-Eforce-inode-compact", "-T1500000000"],
    ] {
        let file = scratch.0.join("image");
        let output = Command::new("mkfs.erofs").args(options).arg(&file).arg(&root).output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let fs = FileSystem::open(File::open(&file).unwrap()).unwrap();
        let mut seen = by_reader(&fs);
        let compact = options[0].contains("compact");
        assert_eq!(seen.len(), expected.len(), "{options:?}");
        for (path, expected) in &expected {
            let name = String::from_utf8_lossy(path);
            let mut found = seen.remove(path).unwrap_or_else(|| panic!("{options:?}: {name} is missing"));
            if compact {
                assert_eq!(found.mtime.sec, 1_500_000_000);
                found.mtime = expected.mtime;
            }
            assert!(found.content == expected.content, "{options:?}: content of {name}");
            found.content.clone_from(&expected.content);
            assert_eq!(found, *expected, "{options:?}: {name}");
            let inode = fs.resolve(path, false).unwrap();
            assert_eq!(inode.inode_len, if compact { 32 } else { 64 });
            // Other xattrs may come from the host (SELinux, ACL defaults): what was set must be there.
            let found = fs.xattrs(&inode).unwrap();
            for xattr in xattrs.get(path).into_iter().flatten() {
                assert!(found.contains(xattr), "{options:?}: {name}: {found:?}");
            }
        }
        let layout = fs.resolve(b"/sparse", false).unwrap().layout;
        let chunked = options.iter().any(|option| option.starts_with("--chunksize"));
        assert_eq!(matches!(layout, Layout::Chunked { .. }), chunked, "{options:?}");
        let indexes = options[0].contains("indexes");
        assert!(!chunked || matches!(layout, Layout::Chunked { indexes: found, .. } if found == indexes));
    }
}

/// The test writer is an opinion of its own: another tool must read its image as well. Needs `fsck.erofs`.
#[test]
fn fsck_erofs_accepts_the_image_of_the_test_writer() {
    if !have("fsck.erofs") {
        return;
    }
    let scratch = Scratch::new("fsck");
    let file = scratch.0.join("image");
    fs::write(&file, full().build().bytes).unwrap();
    let output = Command::new("fsck.erofs").arg(&file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn the_reader_sees_what_the_test_writer_wrote() {
    let tree = full();
    let image = tree.build();
    let fs = FileSystem::open(&image.bytes).unwrap();
    let mut names = 0;
    for entry in fs.walk() {
        entry.unwrap();
        names += 1;
    }
    assert_eq!(names, tree.nodes.len() + tree.links.len());
    for node in &tree.nodes {
        let inode = fs.resolve(&node.path, false).unwrap();
        assert_eq!((inode.uid, inode.mode), (node.uid, node.mode & 0o7777));
        assert_eq!((inode.mtime.sec, inode.mtime.nsec), node.mtime);
        assert_eq!(fs.xattrs(&inode).unwrap().len(), node.xattrs.len() + node.shared.len());
        let mut content = vec![0; inode.size as usize];
        assert_eq!(fs.read_file(&inode, 0, &mut content).unwrap(), content.len());
        match &node.content {
            Content::File(data) => assert!(*data == content),
            Content::Link(target) => assert_eq!(fs.read_link(&inode).unwrap(), *target),
            Content::Special(i_u) if *i_u != 0 => assert_eq!(inode.rdev, (i_u >> 8, i_u & 0xff)),
            Content::Sparse(chunks) => {
                let whole: Vec<u8> =
                    chunks.iter().flat_map(|chunk| chunk.clone().unwrap_or_else(|| vec![0; BLOCK])).collect();
                assert!(whole == content);
            }
            _ => {}
        }
    }
}

#[test]
fn every_name_is_found_and_no_other() {
    let image = full().build();
    let fs = FileSystem::open(&image.bytes).unwrap();
    for path in [&b"/"[..], b"/big", b"/plain", b"/dir", b"/dir/sub"] {
        let dir = fs.resolve(path, false).unwrap();
        for entry in fs.read_dir(&dir) {
            let entry = entry.unwrap();
            assert_eq!(fs.lookup(&dir, &entry.name).unwrap(), Some(entry.nid), "{entry:?}");
            for other in [[&entry.name[..], b"\x01"].concat(), entry.name[1..].to_vec(), b"\xff".to_vec()] {
                let there = fs.read_dir(&dir).any(|entry| entry.unwrap().name == other);
                assert_eq!(fs.lookup(&dir, &other).unwrap().is_some(), there, "{other:?}");
            }
        }
    }
}

/// Names that would leave the directory they are extracted to. The walk reports them and goes on beside.
#[test]
fn hostile_names_never_come_out_of_a_walk() {
    for name in [&b"../p"[..], b"a/bc", b"/abc", b"..\0a", b"\0\0\0\0", b"ab\0c"] {
        let nodes = vec![
            Node::new("/", 0o040_755, Content::Dir),
            Node::new("/dir", 0o040_755, Content::Dir),
            Node::new("/dir/good", 0o010_600, Content::Special(0)),
            Node::new("/dir/hhhh", 0o010_600, Content::Special(0)),
            Node::new("/dir/z", 0o010_600, Content::Special(0)),
            Node::new("/next", 0o010_600, Content::Special(0)),
        ];
        let mut image = Tree { nodes, links: vec![], pool: vec![] }.build();
        let at = image.dirent_in("/dir", "hhhh");
        let start = image.at("/dir").tail + usize::from(image.u16_at(at + 8));
        image.put(start, name);
        let fs = FileSystem::open(&image.bytes).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = fs.walk().partition(Result::is_ok);
        let paths: Vec<Vec<u8>> = good.into_iter().map(|entry| entry.unwrap().path).collect();
        assert_eq!(paths, [&b"/"[..], b"/dir", b"/next"], "{name:?}");
        assert_eq!(bad.len(), 1, "{name:?}");
        assert!(fs.resolve(b"/dir/good", false).is_err());
    }
}
