//! Images mounted by the kernel: every attribute of every path must be what went in. Needs root and a loop device.
//!
//! `MKIMG_KERNEL_TREES` asks for more random trees than 20.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use layers::listing::{Listing, Seen, What, assert_same, name_groups, read_image};
use layers::{
    Item, Kind, Layer, block_device, build_layers, char_device, dir, fifo, file, generate, hardlink, model,
    scratch, symlink,
};
use mkimg_format::erofs::FileSystem;
use mkimg_mkfs::{Compression, Dedup, Options, Silent};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rustix::io::Errno;

/// Why this machine cannot run these tests.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices");
    }
    // A module is loaded by the first mount; one that fails is enough for that.
    let _ = Command::new("mount").args(["-t", "erofs", "-o", "ro", "/dev/null", "/mnt"]).output();
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.contains("erofs")).then_some("the kernel has no erofs")
}

macro_rules! need_mount {
    () => {
        if let Some(reason) = missing() {
            println!("skipped: {reason}");
            return;
        }
    };
}

struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, point: &Path) -> Self {
        std::fs::create_dir(point).unwrap();
        let mut command = Command::new("mount");
        let output = command.args(["-t", "erofs", "-o", "ro,loop"]).args([image, point]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(point.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

fn read_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
            Ok(length) => value.truncate(length),
            // User attributes of anything but files and directories are listed and not given out.
            Err(Errno::NODATA) if name.starts_with(b"user.") => continue,
            Err(error) => panic!("{}: {}: {error}", path.display(), name.escape_ascii()),
        }
        assert!(xattrs.insert(name.to_vec(), value).is_none());
    }
    xattrs
}

/// What processes see below a directory.
fn read_mount(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut ahead: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(name) = ahead.pop() {
        let path = if name.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(&name[1..])) };
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let rdev = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let what = if kind.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                // d_type is another copy of the type.
                assert_eq!(entry.file_type().unwrap(), entry.metadata().unwrap().file_type());
                ahead.push([&name[..], b"/", entry.file_name().as_bytes()].concat());
            }
            What::Dir
        } else if kind.is_file() {
            What::File(std::fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            assert_eq!(std::fs::read_link(&path).unwrap().as_os_str().len() as u64, metadata.len());
            What::Symlink(std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if kind.is_char_device() {
            What::Char(rdev.0, rdev.1)
        } else if kind.is_block_device() {
            What::Block(rdev.0, rdev.1)
        } else {
            assert!(kind.is_fifo());
            What::Fifo
        };
        if let What::File(content) = &what {
            assert_eq!(content.len() as u64, metadata.len());
        }
        let own = if name.is_empty() { b"/".to_vec() } else { name.clone() };
        let seen = Seen {
            what,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap()),
            xattrs: read_xattrs(&path),
            nlink: metadata.nlink(),
            first: first.entry(metadata.ino()).or_insert_with(|| own.clone()).clone(),
            layer: None,
        };
        listing.insert(own, seen);
    }
    name_groups(&mut listing);
    listing
}

/// The tree that one layer without repetitions describes.
fn expected(items: &[Item]) -> Listing {
    let path = |name: &[u8]| if name == b"." { b"/".to_vec() } else { [b"/", name].concat() };
    let mut listing = Listing::new();
    for item in items {
        let what = match &item.kind {
            Kind::Hardlink(target) => {
                let seen = listing[&path(target)].clone();
                listing.insert(path(&item.name), seen);
                continue;
            }
            Kind::File(content) => What::File(content.clone()),
            Kind::Sparse(size, parts) => {
                let mut content = vec![0; usize::try_from(*size).unwrap()];
                for (offset, part) in parts {
                    let at = usize::try_from(*offset).unwrap();
                    content[at..at + part.len()].copy_from_slice(part);
                }
                What::File(content)
            }
            Kind::Dir => What::Dir,
            Kind::Symlink(target) => What::Symlink(target.clone()),
            Kind::Char(major, minor) => What::Char(*major, *minor),
            Kind::Block(major, minor) => What::Block(*major, *minor),
            Kind::Fifo => What::Fifo,
        };
        let seen = Seen {
            what,
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            mtime: item.mtime,
            xattrs: item.xattrs.iter().cloned().collect(),
            nlink: 0,
            first: path(&item.name),
            layer: None,
        };
        listing.insert(path(&item.name), seen);
    }
    let mut links: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for (name, seen) in &listing {
        if seen.what == What::Dir {
            *links.entry(name.clone()).or_default() += 2;
            let parent = name.rsplitn(2, |byte| *byte == b'/').last().unwrap();
            let parent = if parent.is_empty() { b"/" } else { parent };
            *links.entry(parent.to_vec()).or_default() += u64::from(name != b"/");
        } else {
            *links.entry(seen.first.clone()).or_default() += 1;
        }
    }
    listing.values_mut().for_each(|seen| seen.nlink = links[&seen.first]);
    name_groups(&mut listing);
    listing
}

/// What Linux makes of it.
fn as_shown(mut listing: Listing) -> Listing {
    for seen in listing.values_mut() {
        seen.layer = None;
        if !matches!(seen.what, What::File(_) | What::Dir) {
            seen.xattrs.retain(|name, _| !name.starts_with(b"user."));
        }
    }
    listing
}

fn round_trip(layers: &[Layer], expected: Listing) {
    let scratch = scratch();
    let (_, image) = build_layers(scratch.path(), layers).unwrap();
    let mut own = read_image(&image);
    own.values_mut().for_each(|seen| seen.layer = None);
    let without_layers = |mut listing: Listing| {
        listing.values_mut().for_each(|seen| seen.layer = None);
        listing
    };
    assert_same(&without_layers(expected.clone()), &own);
    let shown = as_shown(expected);
    let mount = Mount::new(&image, &scratch.path().join("mnt"));
    assert_same(&shown, &read_mount(&mount.0));
    for (number, way) in ["lz4", "zstd", "deflate", "none"].into_iter().enumerate() {
        let image = scratch.path().join(way);
        let compression: Compression = way.parse().unwrap();
        let dedup = if way == "none" { Dedup::Blocks } else { Dedup::Files };
        let min_kernel = compression.min_kernel();
        let options = Options { compression, dedup, min_kernel, ..layers::options(2) };
        let source = layers::oci_dir(&scratch.path().join("layout"));
        mkimg_mkfs::build(&source, &image, &options, &Silent).unwrap();
        let mount = Mount::new(&image, &scratch.path().join(format!("mnt-{number}")));
        assert_same(&shown, &read_mount(&mount.0));
    }
}

/// Random numbers, the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }
    fn bits(&mut self) -> u32 {
        (self.next() >> 32).try_into().unwrap()
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
    /// Bytes without NUL, and without those in `not`.
    fn text(&mut self, length: usize, not: &[u8]) -> Vec<u8> {
        let mut text = self.bytes(length);
        while let Some(at) = text.iter().position(|byte| *byte == 0 || not.contains(byte)) {
            text[at] = self.next().to_le_bytes()[0];
        }
        text
    }

    fn name(&mut self) -> Vec<u8> {
        loop {
            let length = match self.below(6) {
                0 => 255,
                1 => 1 + self.below(255),
                _ => 1 + self.below(12),
            };
            let name = self.text(length, b"/");
            if name != b"." && name != b".." && !name.starts_with(b".wh.") {
                return name;
            }
        }
    }

    fn attributes(&mut self, mut item: Item) -> Item {
        item.mode = if matches!(item.kind, Kind::Symlink(_)) { 0o777 } else { self.bits() & 0o7777 };
        let ids = [0, 0, 0, 1000, 65535, 65536, u32::MAX - 1, self.bits().min(u32::MAX - 1)];
        (item.uid, item.gid) = (self.pick(&ids), self.pick(&ids));
        let seconds = i64::from(self.bits());
        let times =
            [0, 0, 0, seconds, -seconds, seconds << 8, i64::from(i32::MAX) + 1, -1, i64::from(u32::MAX) + 1];
        item.mtime = (self.pick(&times), if self.below(2) == 0 { 0 } else { self.bits() % 1_000_000_000 });
        let with_user = matches!(item.kind, Kind::File(_) | Kind::Sparse(..) | Kind::Dir);
        if self.below(3) == 0 {
            let mut xattrs = BTreeMap::new();
            for _ in 0..self.below(6) {
                let class = self.pick(&[&b"user."[..], b"trusted.", b"security."]);
                let length = 1 + self.below(30);
                let suffix = self.text(length, b"=");
                let length = match self.below(12) {
                    0 => self.below(9000),
                    _ => self.below(40),
                };
                // Some values come again, so that they are shared.
                let shared = self.below(4) == 0;
                let suffix = if shared { b"shared".to_vec() } else { suffix };
                let value = if shared { vec![b'v'; length % 7] } else { self.bytes(length) };
                if with_user || class != b"user." {
                    xattrs.insert([class, &suffix].concat(), value);
                }
            }
            if matches!(item.kind, Kind::File(_)) && self.below(3) == 0 {
                xattrs.insert(b"security.capability".to_vec(), capability(self.bits()));
            }
            if with_user && self.below(3) == 0 {
                xattrs.insert(b"system.posix_acl_access".to_vec(), acl(self.bits()));
            }
            if item.kind == Kind::Dir && self.below(2) == 0 {
                xattrs.insert(b"system.posix_acl_default".to_vec(), acl(self.bits()));
            }
            item.xattrs = xattrs.into_iter().collect();
        }
        item
    }

    /// A size from 0 to 3 blocks, near the end of a block more often than not.
    fn size(&mut self) -> usize {
        match self.below(3) {
            0 => self.below(12_289),
            1 => (4096 * self.below(4) + self.below(5)).saturating_sub(2),
            _ => self.below(64),
        }
    }

    fn kind(&mut self, files: &[Vec<u8>]) -> Kind {
        match self.below(16) {
            0..=4 => {
                let length = self.size();
                Kind::File(self.bytes(length))
            }
            5 => Kind::File(vec![self.pick(b"ab"); self.size()]),
            6 => {
                let (mut at, mut parts) = (0, Vec::new());
                for _ in 0..self.below(4) {
                    at += self.next() % 200_000;
                    let length = 1 + self.below(9000);
                    parts.push((at, self.bytes(length)));
                    at += length as u64 + 1;
                }
                Kind::Sparse(at + self.next() % 50_000, parts)
            }
            7..=9 => {
                let length = match self.below(3) {
                    0 => 1 + self.below(4095),
                    _ => 1 + self.below(60),
                };
                Kind::Symlink(self.text(length, b""))
            }
            10 => Kind::Char(self.bits() % 4096, self.bits() % (1 << 20)),
            11 => Kind::Block(self.bits() % 4096, self.bits() % (1 << 20)),
            12 => Kind::Fifo,
            _ if !files.is_empty() => Kind::Hardlink(files[self.below(files.len())].clone()),
            _ => Kind::Dir,
        }
    }

    /// A tree of some hundred paths, parents first.
    fn tree(&mut self) -> Layer {
        let root = self.attributes(dir("."));
        let mut items = vec![root];
        let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut taken = std::collections::BTreeSet::new();
        for count in 0..250 {
            let crowd = count == 100;
            let parent = dirs[self.below(dirs.len())].clone();
            for _ in 0..if crowd { 1 + self.below(300) } else { 1 } {
                let mut name = parent.clone();
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend(self.name());
                if name.len() > 4000 || !taken.insert(name.clone()) {
                    continue;
                }
                let is_dir = !crowd && self.below(6) == 0;
                let kind = if is_dir { Kind::Dir } else { self.kind(&files) };
                match &kind {
                    Kind::Dir => dirs.push(name.clone()),
                    _ => files.push(name.clone()),
                }
                let mut item = file(name, "");
                item.kind = kind;
                items.push(self.attributes(item));
            }
        }
        items
    }
}

/// File capabilities, version 2: what Linux gives out as it is stored.
fn capability(permitted: u32) -> Vec<u8> {
    [0x0200_0001, permitted, 0, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// An access control list with a named user.
fn acl(user: u32) -> Vec<u8> {
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    [
        2_u32.to_le_bytes().to_vec(),
        entry(0x01, 6, none),
        entry(0x02, 4, user & 0xffff),
        entry(0x04, 4, none),
        entry(0x10, 6, none),
        entry(0x20, 4, none),
    ]
    .concat()
}

#[test]
fn root_random_trees_survive_the_kernel() {
    need_mount!();
    let trees = std::env::var("MKIMG_KERNEL_TREES").map_or(20, |text| text.parse().unwrap());
    for seed in 0..trees {
        let items = Random(seed).tree();
        round_trip(std::slice::from_ref(&items), expected(&items));
    }
}

#[test]
fn root_random_layers_survive_the_kernel() {
    need_mount!();
    let config = Config { rng_seed: RngSeed::Fixed(5), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    for _ in 0..20 {
        let mut layers = generate::layers().new_tree(&mut runner).unwrap().current();
        for item in layers.iter_mut().flatten() {
            // Even root may not look into a directory whose owner is -1.
            (item.uid, item.gid) = (item.uid.min(u32::MAX - 1), item.gid.min(u32::MAX - 1));
            // Values that mean something to Linux are random here.
            item.xattrs.retain(|(name, _)| {
                [&b"user.a"[..], b"user.b", b"trusted.t", b"user.overlay.opaque"].contains(&&name[..])
            });
        }
        let layers = model::settle(layers, false);
        let tree = model::flatten(&layers).tree;
        round_trip(&layers, tree);
    }
}

#[test]
fn root_sizes_around_blocks() {
    need_mount!();
    let mut random = Random(100);
    let mut items = vec![dir(".")];
    for size in [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 12287, 12288, 12289] {
        items.push(file(format!("file-{size}"), random.bytes(size)));
        items.push(file(format!("zero-{size}"), vec![0; size]));
        items.push(file(format!("late-{size}"), random.bytes(size)).time(size.try_into().unwrap(), 1));
    }
    // In 32-byte and in 64-byte inodes: with the most common time and with another.
    for length in [1, 31, 32, 33, 63, 64, 4000, 4031, 4032, 4033, 4063, 4064, 4065, 4094, 4095] {
        items.push(symlink(format!("link-{length}"), random.text(length, b"")));
        items.push(symlink(format!("late-link-{length}"), random.text(length, b"")).time(-5, 999_999_999));
    }
    for size in [1_u64, 4095, 4096, 4097, 8192, 1 << 20, (1 << 20) + 1] {
        let mut hole = file(format!("hole-{size}"), "");
        hole.kind = Kind::Sparse(size, Vec::new());
        items.push(hole.clone());
        hole.name = format!("end-{size}").into_bytes();
        hole.kind = Kind::Sparse(size, vec![(size - 1, b"x".to_vec())]);
        items.push(hole.clone());
        hole.name = format!("start-{size}").into_bytes();
        hole.kind = Kind::Sparse(size, vec![(0, b"x".to_vec())]);
        items.push(hole);
    }
    // 140,000 blocks: chunks of more than one block, the last one short.
    let mut huge = file("huge", "");
    huge.kind =
        Kind::Sparse(140_000 * 4096 - 7, vec![(4096 * 5, vec![1; 4096]), (139_998 * 4096, vec![2; 5000])]);
    items.push(huge);
    for (name, major, minor) in
        [("zero", 0, 0), ("small", 255, 255), ("large", 4095, 1_048_575), ("odd", 256, 256)]
    {
        items.push(char_device(format!("char-{name}"), major, minor));
        items.push(block_device(format!("block-{name}"), major, minor).time(1, 1));
    }
    for mode in [0, 0o1777, 0o4755, 0o2755, 0o6711, 0o7777] {
        items.push(file(format!("mode-{mode:o}"), "").mode(mode));
        items.push(dir(format!("dir-mode-{mode:o}")).mode(mode));
        items.push(fifo(format!("fifo-mode-{mode:o}")).mode(mode));
    }
    for (name, sec, nsec) in [
        ("epoch", 0, 0),
        ("before", -1, 0),
        ("just before", -1, 999_999_999),
        ("1901", i64::from(i32::MIN), 1),
        ("2038", i64::from(i32::MAX) + 1, 999_999_999),
        ("2106", i64::from(u32::MAX) + 1, 0),
        ("far", 1 << 40, 5),
        ("long ago", -(1 << 40), 5),
        ("end", i64::MAX, 999_999_999),
        ("beginning", i64::MIN, 0),
    ] {
        items.push(file(format!("time {name}"), "").time(sec, nsec));
        items.push(dir(format!("dir time {name}")).time(sec, nsec));
    }
    round_trip(std::slice::from_ref(&items), expected(&items));
}

#[test]
fn root_directories_around_blocks() {
    need_mount!();
    let mut items = vec![dir(".")];
    for count in [0, 1, 300, 5000] {
        items.push(dir(format!("count-{count}")));
        items.extend((0..count).map(|at| file(format!("count-{count}/{at}"), "")));
    }
    items.push(dir("long"));
    items.extend((0..80).map(|at| fifo(format!("long/{at:0>255}"))));
    let mut sizes = Vec::new();
    // Names of 100 bytes; the last ones fill the directory up to so many bytes.
    for blocks in [1_usize, 2, 3] {
        for rest in [-66_isize, -65, -64, -63, -34, -33, -32, -31, -1, 0, 1, 2, 20] {
            for late in [false, true] {
                let parent = format!("size-{blocks}-{rest}-{late}");
                let time = if late { 7 } else { 1_000_000_000 };
                items.push(dir(&parent).time(time, 0));
                // Blocks but the last are full to the byte: "." and ".." take 27 bytes, names of 100 take 112.
                for block in 0..blocks {
                    let mut used = if block == 0 { 27 } else { 0 };
                    let end =
                        if block + 1 == blocks { (4096 + rest).try_into().unwrap() } else { 4096_usize };
                    while end - used > 112 + 255 {
                        items.push(fifo(format!("{parent}/{block}-{used:04}-{}", "n".repeat(93))));
                        used += 112;
                    }
                    let last = [(end - used) / 2, (end - used).div_ceil(2)];
                    for (at, len) in last.into_iter().enumerate() {
                        let name = format!("{block}-z{at}-");
                        items.push(fifo(format!("{parent}/{name}{}", "n".repeat(len - 12 - name.len()))));
                    }
                }
                if rest <= 0 {
                    sizes.push((parent, blocks * 4096 - rest.unsigned_abs()));
                }
            }
        }
    }
    let scratch = scratch();
    let (_, image) = build_layers(scratch.path(), std::slice::from_ref(&items)).unwrap();
    let fs = FileSystem::open(std::fs::File::open(image).unwrap()).unwrap();
    for (path, size) in sizes {
        assert_eq!(fs.resolve(path.as_bytes(), false).unwrap().size, size as u64, "{path}");
    }
    round_trip(std::slice::from_ref(&items), expected(&items));
}

#[test]
fn root_xattrs_around_blocks() {
    need_mount!();
    let mut random = Random(200);
    let mut items = vec![dir(".")];
    // Header 12, entry 4, name 1: inode and xattrs fill a block at 4047 and 4015 bytes.
    let lengths = (0..8).chain(3990..4060).chain([4095, 4096, 4097, 8100, 8191, 8192, 12_288, 65_535]);
    for length in lengths {
        for (late, time) in [(false, 1_000_000_000), (true, 9)] {
            let value = random.bytes(length);
            items
                .push(file(format!("file-{length}-{late}"), "content").xattr("user.v", &value).time(time, 0));
            if length < 5000 {
                let value = random.bytes(length);
                let tail = symlink(format!("link-{length}-{late}"), "some/where").xattr("trusted.v", value);
                items.push(tail.time(time, 0));
                let parent = format!("dir-{length}-{late}");
                items.push(dir(&parent).xattr("user.v", random.bytes(length)).time(time, 0));
                items.push(fifo(format!("{parent}/child")));
            }
        }
    }
    // More shared ones than an inode can name, and a pool of many blocks.
    for name in ["many-1", "many-2"] {
        let mut many = file(name, "");
        for at in 0..300_usize {
            many = many.xattr(format!("user.{at:04}"), vec![b'v'; at * 7 % 1000]);
        }
        items.push(many);
    }
    for at in 0..2 {
        let large = file(format!("large-{at}"), "");
        items
            .push(large.xattr("user.empty", "").xattr("user.large", vec![b'l'; 65_535]).xattr("user.z", "z"));
        let name = format!("user.{}", "n".repeat(250));
        items.push(file(format!("long-name-{at}"), "").xattr(name, "v"));
        let caps = file(format!("caps-{at}"), "").xattr("security.capability", capability(1 << at));
        items.push(caps.xattr("system.posix_acl_access", acl(1000)));
        let acls = dir(format!("acls-{at}")).xattr("system.posix_acl_access", acl(at));
        items.push(acls.xattr("system.posix_acl_default", acl(2000)));
    }
    round_trip(std::slice::from_ref(&items), expected(&items));
}

#[test]
fn root_more_hard_links_than_16_bits_count() {
    need_mount!();
    let mut items = vec![dir("."), file("f", "content")];
    items.extend((0..65_540).map(|at| hardlink(format!("{at}"), "f")));
    round_trip(std::slice::from_ref(&items), expected(&items));
}
