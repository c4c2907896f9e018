//! Tests with real mounts. They need root and `mkfs.erofs`, and say so when they are skipped.
//!
//! Leaks are looked for by name: every image lies in the test's own directory, so a loop device whose
//! backing file is there, or a mount point there, belongs to the test whatever else the machine does.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::loop_device::bound_devices;
use crate::mount::{Pin, Step, Target, detached_with, open_image};
use crate::mounts::MAGIC;
use crate::overlay::{Layers, Naming, OverlaySource, overlay_with};
use crate::policy::mount_with;
use crate::*;

/// Loop devices are a resource of the whole machine: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const CHECKED: CheckedImage = CheckedImage { root_hash: [0xab; 32], data_blocks: 1, hash_offset: 4096 };

/// A directory with an image, a mount point, and a promise to leave nothing behind.
struct Bench {
    dir: PathBuf,
    // Dropped after `drop` below has unmounted everything.
    _temp: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: {test} needs root");
            return None;
        }
        if Command::new("mkfs.erofs").arg("--help").output().is_err() {
            println!("skipped: {test} needs mkfs.erofs");
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = tempfile::Builder::new().prefix("mkimg mount ").tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        let bench = Self { dir, _temp: temp, _alone: alone };
        fs::create_dir(bench.at("mnt")).unwrap();
        bench.make_image("image", "good");
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An image with one file `content` that holds `text`, and our header.
    fn make_image(&self, name: &str, text: &str) -> PathBuf {
        let tree = self.at("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("content"), text).unwrap();
        let image = self.at(name);
        let made = Command::new("mkfs.erofs").arg(&image).arg(&tree).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::remove_dir_all(&tree).unwrap();
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(&MAGIC, 0).unwrap();
        image
    }

    fn loops(&self) -> Vec<(u32, PathBuf)> {
        bound_devices().unwrap().into_iter().filter(|(_, path)| path.starts_with(&self.dir)).collect()
    }

    fn mounted(&self) -> Vec<mountinfo::MountEntry> {
        mountinfo::read().unwrap().into_iter().filter(|entry| entry.target.starts_with(&self.dir)).collect()
    }

    /// Nothing mounted, no loop device bound. A child of another test may hold a descriptor between
    /// its fork and its exec, so a device is given a moment.
    fn assert_clean(&self, context: &str) {
        for _ in 0..100 {
            if self.loops().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.loops(), [], "{context}: loop device leaked");
        assert_eq!(self.mounted(), [], "{context}: mount leaked");
        if let Ok(left) = fs::read_dir("/run/mkimg") {
            assert_eq!(left.count(), 0, "{context}: private mount point leaked");
        }
    }

    fn request<'a>(&self, image: &'a Path, target: &'a Path) -> MountRequest<'a> {
        MountRequest {
            image,
            target,
            upper: None,
            work: None,
            policy: VerityPolicy::Once,
            via: Via::Auto,
            attrs: MountAttrs::default(),
        }
    }

    fn ours(&self) -> Vec<ImageMount> {
        mounts().unwrap().into_iter().filter(|mount| mount.target.starts_with(&self.dir)).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for entry in self.mounted().iter().rev() {
            let _ = rustix::mount::unmount(&entry.target, UnmountFlags::DETACH);
        }
    }
}

fn accept(_: &File, _: VerityPolicy) -> std::result::Result<CheckedImage, String> {
    Ok(CHECKED)
}

fn content(target: &Path) -> String {
    fs::read_to_string(target.join("content")).unwrap()
}

/// A file-backed mount is an experiment of its own on older kernels.
fn file_backed(bench: &Bench, test: &str) -> bool {
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let request = MountRequest { via: Via::File, ..bench.request(&image, &target) };
    match mount(&request, &mut accept) {
        Ok(_) => {
            umount(&target, UmountOptions::default()).unwrap();
            true
        }
        Err(e) => {
            println!("skipped: {test} needs file-backed mounts: {e}");
            false
        }
    }
}

#[test]
fn root_file_backed_mount_list_umount() {
    let Some(bench) = Bench::new("root_file_backed_mount_list_umount") else { return };
    if !file_backed(&bench, "root_file_backed_mount_list_umount") {
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let mut asked = Vec::new();
    let mounted = mount(&bench.request(&image, &target), &mut |file, policy| {
        asked.push((file.metadata().unwrap().ino(), policy));
        Ok(CHECKED)
    })
    .unwrap();
    assert_eq!(asked, [(fs::metadata(&image).unwrap().ino(), VerityPolicy::Once)]);
    assert_eq!(mounted.target, target);
    assert_eq!(mounted.how, "EROFS straight from the file");
    assert!(mounted.guarantee.starts_with("checked once before the mount against root hash abab"));
    assert_eq!(content(&target), "good");
    assert_eq!(bench.loops(), []);

    let entries = bench.mounted();
    let entry = entries.first().unwrap();
    assert_eq!((entry.fstype.to_str(), Path::new(&entry.source)), (Some("erofs"), image.as_path()));
    for option in ["ro", "nodev"] {
        assert!(entry.options.iter().any(|o| o == option), "{entry:?}");
    }
    assert!(!entry.options.iter().any(|o| o == "nosuid" || o == "noexec"), "{entry:?}");
    let expected = ImageMount {
        target: target.clone(),
        image: image.clone(),
        backing: Backing::File,
        upper: None,
        read_only: true,
    };
    assert_eq!(bench.ours(), std::slice::from_ref(&expected));

    let gone = umount(&target, UmountOptions::default()).unwrap();
    assert_eq!(gone.image, Some(expected));
    bench.assert_clean("after umount");
}

#[test]
fn root_attributes_are_set() {
    let Some(bench) = Bench::new("root_attributes_are_set") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let attrs = MountAttrs { read_only: true, nodev: false, nosuid: true, noexec: true };
    mount(&MountRequest { attrs, ..bench.request(&image, &target) }, &mut accept).unwrap();
    let entry = bench.mounted().remove(0);
    let has = |name: &str| entry.options.iter().any(|option| option == name);
    assert!(has("nosuid") && has("noexec") && !has("nodev"), "{entry:?}");
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_loop_mount_clears_itself() {
    let Some(bench) = Bench::new("root_loop_mount_clears_itself") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let request =
        MountRequest { via: Via::Loop, policy: VerityPolicy::Off, ..bench.request(&image, &target) };
    let mounted = mount(&request, &mut accept).unwrap();
    assert!(mounted.how.starts_with("EROFS on loop"), "{}", mounted.how);
    assert!(mounted.guarantee.starts_with("not checked"), "{}", mounted.guarantee);
    assert_eq!(content(&target), "good");
    let loops = bench.loops();
    assert_eq!(loops.len(), 1);
    let (number, backing) = &loops[0];
    assert_eq!(backing, &image);
    assert_eq!(LoopDevice::backing(*number).as_ref(), Some(&image));
    let sys = |name: &str| fs::read_to_string(format!("/sys/block/loop{number}/{name}")).unwrap();
    assert_eq!(sys("ro").trim(), "1");
    assert_eq!(sys("loop/autoclear").trim(), "1");
    assert_eq!(mounted.how.contains("direct I/O"), sys("loop/dio").trim() == "1");
    assert_eq!(bench.ours().len(), 1);
    assert_eq!(bench.ours()[0].backing, Backing::Loop(*number));
    assert_eq!(bench.ours()[0].image, image);

    // The header is read from the device: a deleted file is still recognised.
    fs::remove_file(&image).unwrap();
    assert_eq!(bench.ours().len(), 1);
    assert_eq!(bench.ours()[0].image, image);

    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_foreign_erofs_is_not_listed() {
    let Some(bench) = Bench::new("root_foreign_erofs_is_not_listed") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    File::options().write(true).open(&image).unwrap().write_all_at(&[0; 8], 0).unwrap();
    for via in [Via::Auto, Via::Loop] {
        mount(&MountRequest { via, ..bench.request(&image, &target) }, &mut accept).unwrap();
        assert_eq!(bench.ours(), []);
        // An EROFS mount all the same, so it may be unmounted.
        umount(&target, UmountOptions::default()).unwrap();
        bench.assert_clean("after umount");
    }
}

#[test]
fn root_loop_device_lives_as_long_as_its_users() {
    let Some(bench) = Bench::new("root_loop_device_lives_as_long_as_its_users") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    for direct_io in [true, false] {
        let name = bench.at("image");
        let options = LoopOptions { direct_io, name: Some(&name), ..LoopOptions::default() };
        let device = LoopDevice::attach(image.as_fd(), &options).unwrap();
        assert_eq!(bench.loops(), [(device.number(), name.clone())]);
        assert!(direct_io || !device.direct_io());
        // Read-only even for root.
        let writer = rustix::fs::open(device.path(), OFlags::RDWR, rustix::fs::Mode::empty());
        let denied = writer.and_then(|fd| rustix::io::pwrite(fd, b"x", 0));
        assert!(matches!(denied, Err(Errno::ACCESS | Errno::ROFS | Errno::PERM)), "{denied:?}");
        let path = device.path();
        let mounted = detached_with(
            Source::BlockDevice { fd: device.as_fd(), path: &path },
            MountAttrs::default(),
            Pin::Try,
            &mut |_| {},
        )
        .unwrap();
        drop(device);
        assert_eq!(bench.loops().len(), 1);
        drop(mounted);
        bench.assert_clean("after the detached mount was dropped");
    }
}

#[test]
fn root_loop_offset_and_limit() {
    let Some(bench) = Bench::new("root_loop_offset_and_limit") else { return };
    let path = bench.at("bytes");
    let bytes: Vec<u8> = (0u32..8192).map(|i| u8::try_from(i / 512).unwrap()).collect();
    fs::write(&path, &bytes).unwrap();
    let options = LoopOptions { offset: 1024, size_limit: 2048, block_size: 512, ..LoopOptions::default() };
    let device = LoopDevice::attach(open_image(&path).unwrap().as_fd(), &options).unwrap();
    assert_eq!(fs::read(device.path()).unwrap(), bytes[1024..3072]);
    drop(device);
    bench.assert_clean("after drop");
}

#[test]
fn root_loop_race_for_a_free_device_is_retried() {
    let Some(bench) = Bench::new("root_loop_race_for_a_free_device_is_retried") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    let mut thieves = Vec::new();
    let device = LoopDevice::attach_with(image.as_fd(), &LoopOptions::default(), &mut |number| {
        // Somebody else binds the very device, three times in a row.
        if thieves.len() < 3 {
            let thief = LoopDevice::attach(image.as_fd(), &LoopOptions::default()).unwrap();
            assert_eq!(thief.number(), number);
            thieves.push(thief);
        }
    })
    .unwrap();
    assert_eq!(thieves.len(), 3);
    assert!(thieves.iter().all(|thief| thief.number() != device.number()));
    thieves.clear();

    // Without end it is given up, and nothing is left.
    let mut thieves = Vec::new();
    let failed = LoopDevice::attach_with(image.as_fd(), &LoopOptions::default(), &mut |_| {
        thieves.push(LoopDevice::attach(image.as_fd(), &LoopOptions::default()).unwrap());
    });
    assert!(matches!(failed, Err(Error::NoLoop { .. })), "{failed:?}");
    drop(thieves);
    drop(device);
    bench.assert_clean("after the race");
}

#[test]
fn root_block_device_image() {
    let Some(bench) = Bench::new("root_block_device_image") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    let device = LoopDevice::attach(image.as_fd(), &LoopOptions::default()).unwrap();
    let (path, target) = (device.path(), bench.at("mnt"));
    assert!(fs::metadata(&path).unwrap().file_type().is_block_device());
    let mounted = mount(&bench.request(&path, &target), &mut accept).unwrap();
    assert_eq!(mounted.how, format!("block device {}", path.display()));
    assert_eq!(content(&target), "good");
    umount(&target, UmountOptions::default()).unwrap();
    drop(device);
    bench.assert_clean("after umount");
}

#[test]
fn root_overlay_takes_the_image_with_it() {
    let Some(bench) = Bench::new("root_overlay_takes_the_image_with_it") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    for via in [Via::Auto, Via::Loop] {
        // What breaks option strings: comma, colon, backslash, blank, equals sign.
        let (upper, work) = (bench.at(r"up,p:e\r =1"), bench.at(r"wo,r:k\, x"));
        let request =
            MountRequest { via, upper: Some(&upper), work: Some(&work), ..bench.request(&image, &target) };
        let mounted = mount(&request, &mut accept).unwrap();
        assert!(mounted.how.starts_with("overlay with upper "), "{}", mounted.how);
        assert!(mounted.guarantee.contains("goes to the upper directory"), "{}", mounted.guarantee);
        assert_eq!(content(&target), "good");
        fs::write(target.join("content"), "changed").unwrap();
        fs::write(target.join("new"), "new").unwrap();
        assert_eq!(fs::read_to_string(upper.join("content")).unwrap(), "changed");
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new");
        // One visible mount: the image below has no path of its own.
        assert_eq!(bench.mounted().len(), 1);
        let listed = bench.ours();
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].image, &listed[0].target), (&image, &target));
        assert_eq!(listed[0].upper.as_ref(), Some(&upper));
        assert!(!listed[0].read_only);
        match via {
            Via::Loop => assert_eq!(listed[0].backing, Backing::Loop(bench.loops()[0].0)),
            _ => assert_eq!(listed[0].backing, Backing::File),
        }
        let gone = umount(&target, UmountOptions::default()).unwrap();
        assert_eq!(gone.fstype, "overlay");
        bench.assert_clean("after umount of the overlay");
        fs::remove_dir_all(&upper).unwrap();
        fs::remove_dir_all(&work).unwrap();
    }
}

#[test]
fn root_overlay_read_only() {
    let Some(bench) = Bench::new("root_overlay_read_only") else { return };
    let (image, target, upper, work) = (bench.at("image"), bench.at("mnt"), bench.at("u"), bench.at("w"));
    let request = MountRequest {
        upper: Some(&upper),
        work: Some(&work),
        attrs: MountAttrs { read_only: true, ..MountAttrs::default() },
        ..bench.request(&image, &target)
    };
    mount(&request, &mut accept).unwrap();
    let denied = fs::write(target.join("new"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&denied), Some(Errno::ROFS));
    assert!(bench.ours()[0].read_only);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_overlay_each_way_of_naming_the_lower_layer() {
    let Some(bench) = Bench::new("root_overlay_each_way_of_naming_the_lower_layer") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    for naming in [Naming::Descriptor, Naming::PrivateMount] {
        for (upper, work) in [("u", "w"), (r"u\,:=", r"w\,:=")] {
            let device = LoopDevice::attach(image.as_fd(), &LoopOptions::default()).unwrap();
            let path = device.path();
            let source = Source::BlockDevice { fd: device.as_fd(), path: &path };
            let lower = detached_with(source, MountAttrs::default(), Pin::Try, &mut |_| {}).unwrap();
            let layers = Layers::open(&bench.at(upper), &bench.at(work)).unwrap();
            let name = OverlaySource { device: format!("loop{}", device.number()), image: bench.at("image") };
            let overlay = overlay_with(naming, lower.as_fd(), &layers, &name, MountAttrs::default()).unwrap();
            let target = Target::open(&bench.at("mnt")).unwrap();
            target.attach(overlay).unwrap();
            layers.keep();
            drop((lower, device));
            assert_eq!(bench.mounted().len(), 1);
            fs::write(bench.at("mnt").join("new"), naming_text(naming)).unwrap();
            assert_eq!(fs::read_to_string(bench.at(upper).join("new")).unwrap(), naming_text(naming));
            assert_eq!(bench.ours().len(), 1, "{naming:?}");
            umount(&bench.at("mnt"), UmountOptions::default()).unwrap();
            bench.assert_clean(naming_text(naming));
        }
    }
}

fn naming_text(naming: Naming) -> &'static str {
    match naming {
        Naming::Descriptor => "by descriptor",
        Naming::PrivateMount => "by private mount",
    }
}

/// Every failing call leaves mounts, loop devices and directories as they were.
#[test]
fn root_failures_leave_nothing() {
    let Some(bench) = Bench::new("root_failures_leave_nothing") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let broken = bench.at("broken");
    fs::copy(&image, &broken).unwrap();
    File::options().write(true).open(&broken).unwrap().write_all_at(&[0xff; 64], 1024).unwrap();
    let empty = bench.at("empty");
    File::create(&empty).unwrap();
    let plain = bench.at("plain");
    fs::write(&plain, "").unwrap();
    rustix::fs::mknodat(CWD, bench.at("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let (fifo, missing, nested) = (bench.at("fifo"), bench.at("missing"), bench.at("u/w"));
    let (upper, work, far) = (bench.at("u"), bench.at("w"), elsewhere.path().join("w"));
    let deep = bench.at("no/such/parent");
    let base = bench.request(&image, &target);
    let ok = Some(CHECKED);
    let cases: Vec<(&str, MountRequest<'_>, Option<CheckedImage>, &str)> = vec![
        ("bad superblock", MountRequest { image: &broken, ..base }, ok, "mount erofs image"),
        (
            "bad superblock, file",
            MountRequest { image: &broken, via: Via::File, ..base },
            ok,
            "mount erofs image",
        ),
        (
            "bad superblock, loop",
            MountRequest { image: &broken, via: Via::Loop, ..base },
            ok,
            "mount erofs image",
        ),
        (
            "empty image, loop",
            MountRequest { image: &empty, via: Via::Loop, ..base },
            ok,
            "mount erofs image",
        ),
        ("image missing", MountRequest { image: &missing, ..base }, ok, "open image"),
        ("image a directory", MountRequest { image: &target, ..base }, ok, "is a directory"),
        ("image a fifo", MountRequest { image: &fifo, ..base }, ok, "is a fifo"),
        ("target missing", MountRequest { target: &missing, via: Via::Loop, ..base }, ok, "open target"),
        ("target a file", MountRequest { target: &plain, via: Via::Loop, ..base }, ok, "open target"),
        ("check fails", MountRequest { via: Via::Loop, ..base }, None, "not mounted: block 7 differs"),
        ("upper alone", MountRequest { upper: Some(&upper), ..base }, ok, "needs a work directory"),
        ("work alone", MountRequest { work: Some(&work), ..base }, ok, "needs an upper directory"),
        (
            "work is upper",
            MountRequest { upper: Some(&upper), work: Some(&upper), ..base },
            ok,
            "is the upper directory",
        ),
        (
            "work in upper",
            MountRequest { upper: Some(&upper), work: Some(&nested), ..base },
            ok,
            "lie one in the other",
        ),
        (
            "work far away",
            MountRequest { upper: Some(&upper), work: Some(&far), via: Via::Loop, ..base },
            ok,
            "not on the same mount",
        ),
        (
            "upper parent missing",
            MountRequest { upper: Some(&deep), work: Some(&work), ..base },
            ok,
            "cannot be made",
        ),
        (
            "upper a file",
            MountRequest { upper: Some(&plain), work: Some(&work), ..base },
            ok,
            "cannot be opened",
        ),
        (
            "overlay, check fails",
            MountRequest { upper: Some(&upper), work: Some(&work), ..base },
            None,
            "block 7 differs",
        ),
        (
            "overlay, bad image",
            MountRequest { image: &broken, upper: Some(&upper), work: Some(&work), ..base },
            ok,
            "mount erofs image",
        ),
    ];
    for (name, request, answer, expected) in cases {
        let result = mount(&request, &mut |_, _| answer.ok_or_else(|| "block 7 differs".to_owned()));
        let message = result.expect_err(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(!message.contains('\n'), "{name}: {message}");
        bench.assert_clean(name);
        for made in [&upper, &work, &far, &missing] {
            assert!(!made.exists(), "{name}: {} left behind", made.display());
        }
    }
}

/// An upper directory that overlayfs itself refuses: found only when everything else is made.
#[test]
fn root_overlay_refused_by_the_kernel_leaves_nothing() {
    let Some(bench) = Bench::new("root_overlay_refused_by_the_kernel_leaves_nothing") else { return };
    let (image, target, low) = (bench.at("image"), bench.at("mnt"), bench.at("low"));
    fs::create_dir(&low).unwrap();
    mount(&bench.request(&image, &low), &mut accept).unwrap();
    // The root of a read-only file system as upper; made read-only, so that no directory is made in it.
    let work = bench.at("w");
    let request = MountRequest {
        via: Via::Loop,
        upper: Some(&low),
        work: Some(&work),
        ..bench.request(&image, &target)
    };
    assert!(matches!(mount(&request, &mut accept), Err(Error::Overlay { what: "work", .. })));
    assert!(!work.exists());
    assert_eq!(bench.mounted().len(), 1);
    assert_eq!(bench.loops(), []);
    umount(&low, UmountOptions::default()).unwrap();

    // Upper and work fit each other, but are an overlay's own mount: the kernel refuses late.
    let (u, w) = (bench.at("u"), bench.at("w"));
    let request = MountRequest { upper: Some(&u), work: Some(&w), ..bench.request(&image, &low) };
    mount(&request, &mut accept).unwrap();
    let (uu, ww) = (low.join("uu"), low.join("ww"));
    let request =
        MountRequest { via: Via::Loop, upper: Some(&uu), work: Some(&ww), ..bench.request(&image, &target) };
    match mount(&request, &mut accept) {
        Err(Error::Kernel { what, .. }) => assert_eq!(what, "mount overlay with upper"),
        other => panic!("{other:?}"),
    }
    assert!(!uu.exists() && !ww.exists());
    umount(&low, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_swapped_image_is_not_mounted() {
    let Some(bench) = Bench::new("root_swapped_image_is_not_mounted") else { return };
    if !file_backed(&bench, "root_swapped_image_is_not_mounted") {
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let evil = bench.make_image("evil", "evil");
    let keep = bench.at("keep");
    for via in [Via::Auto, Via::File] {
        for moment in [Step::BeforeCreate, Step::AfterCreate] {
            let result = mount_with(
                &MountRequest { via, ..bench.request(&image, &target) },
                &mut accept,
                &mut |step| {
                    if step == moment {
                        fs::rename(&image, &keep).unwrap();
                        fs::rename(&evil, &image).unwrap();
                    }
                },
            );
            assert!(matches!(result, Err(Error::Changed { what: "file", .. })), "{result:?}");
            bench.assert_clean("after the swap");
            fs::rename(&image, &evil).unwrap();
            fs::rename(&keep, &image).unwrap();
        }
    }
    // Swapped and swapped back: a rename changes ctime.
    let result = mount_with(&bench.request(&image, &target), &mut accept, &mut |step| match step {
        Step::BeforeCreate => {
            // Above the clock tick that ctime is taken from.
            std::thread::sleep(Duration::from_millis(20));
            fs::rename(&image, &keep).unwrap();
            fs::rename(&evil, &image).unwrap();
        }
        Step::AfterCreate => {
            fs::rename(&image, &evil).unwrap();
            fs::rename(&keep, &image).unwrap();
        }
    });
    assert!(matches!(result, Err(Error::Changed { what: "ctime", .. })), "{result:?}");
    bench.assert_clean("after the swap and back");
    // Gone altogether.
    let result = mount_with(&bench.request(&image, &target), &mut accept, &mut |step| {
        if step == Step::BeforeCreate {
            fs::rename(&image, &keep).unwrap();
        }
    });
    assert!(matches!(result, Err(Error::Changed { what: "file", .. })), "{result:?}");
    bench.assert_clean("after the removal");
}

/// The swap that no attribute of the file shows: a directory above it, there and back.
#[test]
fn root_swapped_directory_does_not_win() {
    let Some(bench) = Bench::new("root_swapped_directory_does_not_win") else { return };
    if !file_backed(&bench, "root_swapped_directory_does_not_win") {
        return;
    }
    let target = bench.at("mnt");
    let (dir, other, keep) = (bench.at("dir"), bench.at("other"), bench.at("keep"));
    fs::create_dir_all(dir.join("a")).unwrap();
    fs::create_dir_all(other.join("a")).unwrap();
    let image = dir.join("a/image");
    fs::rename(bench.at("image"), &image).unwrap();
    fs::rename(bench.make_image("evil", "evil"), other.join("a/image")).unwrap();
    let mut swap = |step| match step {
        Step::BeforeCreate => {
            fs::rename(&dir, &keep).unwrap();
            fs::rename(&other, &dir).unwrap();
        }
        Step::AfterCreate => {
            fs::rename(&dir, &other).unwrap();
            fs::rename(&keep, &dir).unwrap();
        }
    };
    mount_with(&MountRequest { via: Via::File, ..bench.request(&image, &target) }, &mut accept, &mut swap)
        .unwrap();
    assert_eq!(content(&target), "good");
    assert_eq!(Path::new(&bench.mounted()[0].source), image);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");

    // The same without the pinned path wins: this is the race that the pin closes.
    let file = open_image(&image).unwrap();
    let identity = Identity::of(&file).unwrap();
    let source = Source::File { fd: file.as_fd(), path: &image, identity: &identity };
    let mounted = detached_with(source, MountAttrs::default(), Pin::Never, &mut swap).unwrap();
    Target::open(&target).unwrap().attach(mounted).unwrap();
    assert_eq!(content(&target), "evil");
}

#[test]
fn root_image_written_during_the_check_is_not_mounted() {
    let Some(bench) = Bench::new("root_image_written_during_the_check_is_not_mounted") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    for via in [Via::Auto, Via::File, Via::Loop] {
        let result = mount(&MountRequest { via, ..bench.request(&image, &target) }, &mut |_, _| {
            std::thread::sleep(Duration::from_millis(20));
            File::options().write(true).open(&image).unwrap().write_all_at(b"x", 600).unwrap();
            Ok(CHECKED)
        });
        assert!(matches!(result, Err(Error::Changed { what: "mtime", .. })), "{via:?}: {result:?}");
        bench.assert_clean("after the write");
    }
}

#[test]
fn root_verity_kernel_never_downgrades() {
    let Some(bench) = Bench::new("root_verity_kernel_never_downgrades") else { return };
    if dm::available().is_ok() {
        println!("skipped: root_verity_kernel_never_downgrades needs a kernel without dm-verity");
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let called = Cell::new(false);
    let request = MountRequest { policy: VerityPolicy::Kernel, ..bench.request(&image, &target) };
    let result = mount(&request, &mut |_, _| {
        called.set(true);
        Ok(CHECKED)
    });
    assert!(matches!(result, Err(Error::VerityUnavailable(_))), "{result:?}");
    assert!(!called.get());
    bench.assert_clean("after the refusal");

    let request = MountRequest { policy: VerityPolicy::Auto, ..request };
    assert_eq!(mount(&request, &mut accept).unwrap().policy, VerityPolicy::Once);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_umount_looks_first() {
    let Some(bench) = Bench::new("root_umount_looks_first") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let plain = UmountOptions::default();
    assert!(matches!(umount(&target, plain), Err(Error::NotMounted { .. })));
    assert!(matches!(umount(&bench.at("missing"), plain), Err(Error::Path { errno: Errno::NOENT, .. })));
    rustix::mount::mount("tmp", &target, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    assert!(matches!(umount(&target, plain), Err(Error::NotOurs { .. })));
    umount(&target, UmountOptions { force: true, ..plain }).unwrap();
    bench.assert_clean("after the forced umount");

    mount(&MountRequest { via: Via::Loop, ..bench.request(&image, &target) }, &mut accept).unwrap();
    let busy = File::open(target.join("content")).unwrap();
    assert!(matches!(umount(&target, plain), Err(Error::Path { errno: Errno::BUSY, .. })));
    umount(&target, UmountOptions { lazy: true, ..plain }).unwrap();
    assert_eq!(bench.mounted(), []);
    assert_eq!(bench.loops().len(), 1);
    drop(busy);
    bench.assert_clean("after the last user");
}

#[test]
fn root_mount_erofs_directly() {
    let Some(bench) = Bench::new("root_mount_erofs_directly") else { return };
    if !file_backed(&bench, "root_mount_erofs_directly") {
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let file = open_image(&image).unwrap();
    let identity = Identity::of(&file).unwrap();
    let source = Source::File { fd: file.as_fd(), path: &image, identity: &identity };
    mount_erofs(source, &target, MountAttrs::default()).unwrap();
    assert_eq!(content(&target), "good");
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

/// tmpfs cannot serve a file-backed mount; the loop device takes over, unless it was ruled out.
#[test]
fn root_image_on_tmpfs_falls_back_to_loop() {
    let Some(bench) = Bench::new("root_image_on_tmpfs_falls_back_to_loop") else { return };
    let (target, tmpfs) = (bench.at("mnt"), bench.at("tmpfs"));
    fs::create_dir(&tmpfs).unwrap();
    rustix::mount::mount("tmp", &tmpfs, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let image = tmpfs.join("image");
    fs::copy(bench.at("image"), &image).unwrap();
    let request = bench.request(&image, &target);
    let mounted = mount(&request, &mut accept).unwrap();
    assert!(mounted.how.starts_with("EROFS on loop"), "{}", mounted.how);
    assert_eq!(content(&target), "good");
    umount(&target, UmountOptions::default()).unwrap();
    let refused = mount(&MountRequest { via: Via::File, ..request }, &mut accept);
    assert!(matches!(refused, Err(Error::Kernel { errno: Errno::NOTBLK | Errno::INVAL, .. })), "{refused:?}");
    umount(&tmpfs, UmountOptions { force: true, ..UmountOptions::default() }).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_doctor_agrees_with_this_kernel() {
    let Some(bench) = Bench::new("root_doctor_agrees_with_this_kernel") else { return };
    let before = bound_devices().unwrap();
    let probes = doctor::probe();
    let find = |name: &str| probes.iter().find(|probe| probe.name == name).unwrap();
    for probe in &probes {
        println!("{:28} {:?}: {} -> {}", probe.name, probe.status, probe.found, probe.consequence);
        assert!(!probe.found.is_empty() && !probe.consequence.is_empty(), "{probe:?}");
        assert!(!probe.found.contains('\n') && !probe.consequence.contains('\n'), "{probe:?}");
    }
    let mut names: Vec<&str> = probes.iter().map(|probe| probe.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), probes.len());
    // Oracles: what the mounts of the other tests show, and the device nodes.
    let works = file_backed(&bench, "comparison with the doctor");
    assert_eq!(find("file-backed mounts").status == doctor::Status::Ok, works);
    assert_eq!(find("dm-verity").status == doctor::Status::Ok, dm::available().is_ok());
    assert_eq!(find("EROFS").status, doctor::Status::Ok);
    assert_eq!(find("loop devices").status, doctor::Status::Ok);
    assert_eq!(find("privileges").status, doctor::Status::Ok);
    for _ in 0..50 {
        if bound_devices().unwrap().len() <= before.len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.assert_clean("after the probe");
}

/// Appends a hash tree with veritysetup; the oracle for what the kernel is handed.
fn seal(image: &Path) -> Option<CheckedImage> {
    let size = fs::metadata(image).unwrap().len().next_multiple_of(4096);
    File::options().write(true).open(image).unwrap().set_len(size).unwrap();
    let made = Command::new("veritysetup")
        .args(["format", "--salt=-", "--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--data-blocks={}", size / 4096))
        .arg(format!("--hash-offset={size}"))
        .args([image, image])
        .output()
        .ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    let hex = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
    let mut root_hash = [0u8; 32];
    for (index, byte) in root_hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
    }
    Some(CheckedImage { root_hash, data_blocks: size / 4096, hash_offset: size })
}

/// dm-verity from end to end: good, shared, damaged, wrong root hash.
#[test]
fn root_dm_verity() {
    let Some(bench) = Bench::new("root_dm_verity") else { return };
    if let Err(reason) = dm::available() {
        println!("skipped: root_dm_verity needs dm-verity: {reason}");
        return;
    }
    let text = "sealed ".repeat(2000);
    let image = bench.make_image("sealed", &text);
    let Some(checked) = seal(&image) else {
        println!("skipped: root_dm_verity needs veritysetup");
        return;
    };
    let (target, second) = (bench.at("mnt"), bench.at("mnt2"));
    fs::create_dir(&second).unwrap();
    let name = format!("mkimg-{}", dm::hex(&checked.root_hash));
    let gone = |context: &str| {
        for _ in 0..100 {
            if dm::status(&name).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = dm::status(&name);
        assert!(
            matches!(status, Err(Error::DeviceMapper { errno: Errno::NXIO, .. })),
            "{context}: {status:?}"
        );
        bench.assert_clean(context);
    };
    for policy in [VerityPolicy::Kernel, VerityPolicy::Auto] {
        let request = MountRequest { policy, ..bench.request(&image, &target) };
        let mounted = mount(&request, &mut |_, told| {
            assert_eq!(told, VerityPolicy::Kernel);
            Ok(checked)
        })
        .unwrap();
        assert_eq!(mounted.policy, VerityPolicy::Kernel);
        assert!(
            mounted.how.starts_with(&format!("EROFS on dm-verity device {name}, over loop")),
            "{}",
            mounted.how
        );
        assert_eq!(content(&target), text);
        assert_eq!(dm::status(&name).unwrap().split(' ').next(), Some("V"));
        let listed = bench.ours();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].image, image);
        match &listed[0].backing {
            Backing::Dm { name: found, loop_number, .. } => {
                assert_eq!((found, *loop_number), (&name, Some(bench.loops()[0].0)));
            }
            other => panic!("{other:?}"),
        }
        // A second mount shares the device and needs no loop device of its own.
        let shared = mount(&MountRequest { target: &second, ..request }, &mut |_, _| Ok(checked)).unwrap();
        assert!(shared.how.contains("shared with an earlier mount"), "{}", shared.how);
        assert_eq!(content(&second), text);
        umount(&target, UmountOptions::default()).unwrap();
        assert_eq!(content(&second), text);
        umount(&second, UmountOptions::default()).unwrap();
        gone("after both were unmounted");
    }

    // An overlay keeps device and loop, and is listed with both.
    let (upper, work) = (bench.at("u"), bench.at("w"));
    let request = MountRequest {
        policy: VerityPolicy::Kernel,
        upper: Some(&upper),
        work: Some(&work),
        ..bench.request(&image, &target)
    };
    mount(&request, &mut |_, _| Ok(checked)).unwrap();
    assert_eq!(content(&target), text);
    assert!(matches!(&bench.ours()[0].backing, Backing::Dm { name: found, .. } if *found == name));
    assert_eq!(bench.ours()[0].image, image);
    umount(&target, UmountOptions::default()).unwrap();
    gone("after the overlay was unmounted");

    // Another root hash: not even the superblock can be read.
    let request = MountRequest { policy: VerityPolicy::Kernel, ..bench.request(&image, &target) };
    let wrong = CheckedImage { root_hash: [7; 32], ..checked };
    let error = mount(&request, &mut |_, _| Ok(wrong)).unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "{error}");
    assert!(dm::status(&format!("mkimg-{}", "07".repeat(32))).is_err());
    bench.assert_clean("after the wrong root hash");
    let odd = CheckedImage { hash_offset: checked.hash_offset + 1, ..checked };
    assert!(matches!(mount(&request, &mut |_, _| Ok(odd)), Err(Error::VerityParameter { .. })));
    let outside = CheckedImage { data_blocks: 1 << 40, ..checked };
    assert!(matches!(mount(&request, &mut |_, _| Ok(outside)), Err(Error::DeviceMapper { .. })));
    gone("after parameters that do not fit");

    // One damaged block of data: the rest is readable, it is not, and the status says so.
    let bytes = fs::read(&image).unwrap();
    let at = bytes.windows(14).position(|window| window == b"sealed sealed ").unwrap();
    File::options().write(true).open(&image).unwrap().write_all_at(b"X", u64::try_from(at).unwrap()).unwrap();
    mount(&request, &mut |_, _| Ok(checked)).unwrap();
    let error = fs::read(target.join("content")).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    assert_eq!(dm::status(&name).unwrap().split(' ').next(), Some("C"));
    umount(&target, UmountOptions::default()).unwrap();
    gone("after the damaged image");
}
