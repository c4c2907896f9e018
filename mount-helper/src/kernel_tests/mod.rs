//! Tests with real mounts. They need root and `mkfs.erofs`, and say so when they are skipped.
//!
//! Leaks are looked for by name: every image lies in the test's own directory, so a loop device whose
//! backing file is there, or a mount point there, belongs to the test whatever else the machine does.
#![allow(clippy::unwrap_used)]

mod loops;
mod overlays;
mod swaps;
mod verity;

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

use crate::mount::{Pin, Step, Target, detached_with};
use crate::overlay::{Layers, Naming, overlay_with};
use crate::policy::mount_with;
use crate::*;
use mkimg_format::salt::Salt;
use mkimg_kernel::Error as System;
use mkimg_kernel::image_file::open_image;
use mkimg_kernel::loop_device::{LoopDevice, LoopOptions, bound_devices};
use mkimg_kernel::mounts::{Backing, ImageMount, MAGIC, mounts};
use mkimg_kernel::overlay_source::OverlaySource;
use mkimg_kernel::{dm, mountinfo};

/// Loop devices are a resource of the whole machine: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const CHECKED: CheckedImage = CheckedImage {
    root_hash: [0xab; 32],
    data_blocks: 1,
    hash_offset: 4096,
    salt: Salt::NONE,
    signature: None,
    fec: None,
};

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
            on_corruption: None,
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
        file_id: None,
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
    let ok = || Some(CHECKED);
    let cases: Vec<(&str, MountRequest<'_>, Option<CheckedImage>, &str)> = vec![
        ("bad superblock", MountRequest { image: &broken, ..base }, ok(), "mount erofs image"),
        (
            "bad superblock, file",
            MountRequest { image: &broken, via: Via::File, ..base },
            ok(),
            "mount erofs image",
        ),
        (
            "bad superblock, loop",
            MountRequest { image: &broken, via: Via::Loop, ..base },
            ok(),
            "mount erofs image",
        ),
        (
            "empty image, loop",
            MountRequest { image: &empty, via: Via::Loop, ..base },
            ok(),
            "mount erofs image",
        ),
        ("image missing", MountRequest { image: &missing, ..base }, ok(), "open image"),
        ("image a directory", MountRequest { image: &target, ..base }, ok(), "is a directory"),
        ("image a fifo", MountRequest { image: &fifo, ..base }, ok(), "is a fifo"),
        ("target missing", MountRequest { target: &missing, via: Via::Loop, ..base }, ok(), "open target"),
        ("target a file", MountRequest { target: &plain, via: Via::Loop, ..base }, ok(), "open target"),
        ("check fails", MountRequest { via: Via::Loop, ..base }, None, "not mounted: block 7 differs"),
        ("upper alone", MountRequest { upper: Some(&upper), ..base }, ok(), "needs a work directory"),
        ("work alone", MountRequest { work: Some(&work), ..base }, ok(), "needs an upper directory"),
        (
            "work is upper",
            MountRequest { upper: Some(&upper), work: Some(&upper), ..base },
            ok(),
            "is the upper directory",
        ),
        (
            "work in upper",
            MountRequest { upper: Some(&upper), work: Some(&nested), ..base },
            ok(),
            "lie one in the other",
        ),
        (
            "work far away",
            MountRequest { upper: Some(&upper), work: Some(&far), via: Via::Loop, ..base },
            ok(),
            "not on the same mount",
        ),
        (
            "upper parent missing",
            MountRequest { upper: Some(&deep), work: Some(&work), ..base },
            ok(),
            "cannot be made",
        ),
        (
            "upper a file",
            MountRequest { upper: Some(&plain), work: Some(&work), ..base },
            ok(),
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
            ok(),
            "mount erofs image",
        ),
    ];
    for (name, request, answer, expected) in cases {
        let result = mount(&request, &mut |_, _| answer.clone().ok_or_else(|| "block 7 differs".to_owned()));
        let message = result.expect_err(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(!message.contains('\n'), "{name}: {message}");
        bench.assert_clean(name);
        for made in [&upper, &work, &far, &missing] {
            assert!(!made.exists(), "{name}: {} left behind", made.display());
        }
    }
}

#[test]
fn root_umount_looks_first() {
    let Some(bench) = Bench::new("root_umount_looks_first") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let plain = UmountOptions::default();
    assert!(matches!(umount(&target, plain), Err(Error::NotMounted { .. })));
    assert!(matches!(
        umount(&bench.at("missing"), plain),
        Err(Error::System(System::Path { errno: Errno::NOENT, .. }))
    ));
    rustix::mount::mount("tmp", &target, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    assert!(matches!(umount(&target, plain), Err(Error::NotOurs { .. })));
    umount(&target, UmountOptions { force: true, ..plain }).unwrap();
    bench.assert_clean("after the forced umount");

    mount(&MountRequest { via: Via::Loop, ..bench.request(&image, &target) }, &mut accept).unwrap();
    let busy = File::open(target.join("content")).unwrap();
    assert!(matches!(umount(&target, plain), Err(Error::System(System::Path { errno: Errno::BUSY, .. }))));
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
