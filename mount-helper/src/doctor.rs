//! What this kernel and this process can do for a mount, and what follows from it.
//!
//! Where an experiment is possible it decides: a two-block image is mounted detached and dropped again.
//! Where neither an experiment nor a kernel interface tells, the answer is "unknown".

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use rustix::thread::CapabilitySet;

use crate::error::{Error, Result, errno_of};
use crate::mount::{Context, MountAttrs};
use crate::tiny_image::{self, Algorithm};
use mkimg_kernel::dm;
use mkimg_kernel::fsverity;
use mkimg_kernel::loop_device::{LoopDevice, LoopOptions};

/// Magic of tmpfs in statfs(2), which cannot back a mount from a file.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// How well something is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All there.
    Ok,
    /// There in part, or not to be told from here.
    Limited,
    /// Not there.
    Missing,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was looked for.
    pub name: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was found, one line.
    pub found: String,
    /// What that means for the user, one line.
    pub consequence: String,
}

/// Examines kernel and process. Changes nothing; takes some milliseconds.
#[must_use]
pub fn probe() -> Vec<Probe> {
    let mut probes = vec![kernel_version(), privileges(), mount_api(), erofs()];
    let file = try_file_backed();
    let loop_mount = file_result_or(&file, || try_loop(&tiny_image::build(None)));
    probes.push(file_backed(&file));
    probes.push(compressors(&file, &loop_mount));
    probes.push(loop_devices());
    probes.push(dm_verity());
    probes.push(signatures());
    probes.push(overlay());
    probes.push(fs_verity());
    probes
}

fn new(name: &'static str, status: Status, found: impl Into<String>, consequence: &str) -> Probe {
    Probe { name, status, found: found.into(), consequence: consequence.to_owned() }
}

fn kernel_version() -> Probe {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let name = "kernel";
    match version(&release) {
        None => new(name, Status::Limited, release, "version not understood; the findings below decide"),
        Some(v) if v >= (6, 15) => new(name, Status::Ok, release, "mounts every image that mkimg builds"),
        Some(v) if v >= (6, 12) => new(
            name,
            Status::Ok,
            release,
            "mounts all images but those built with --min-kernel 6.15 or later",
        ),
        Some(v) if v >= (5, 15) => new(
            name,
            Status::Limited,
            release,
            "mounts images without compression or with lz4; no mounts straight from a file",
        ),
        Some(_) => new(name, Status::Missing, release, "images need 5.15"),
    }
}

fn before_6_12() -> bool {
    running_kernel().is_some_and(|version| version < (6, 12))
}

/// Major and minor number of the running kernel, if it says so in the usual form.
pub(crate) fn running_kernel() -> Option<(u32, u32)> {
    version(&rustix::system::uname().release().to_string_lossy())
}

/// Major and minor number of `6.18.44-something`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn privileges() -> Probe {
    let name = "privileges";
    let euid = rustix::process::geteuid().as_raw();
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    let admin = if capable { "CAP_SYS_ADMIN" } else { "no CAP_SYS_ADMIN" };
    let namespace = if initial { "initial user namespace" } else { "inside a user namespace" };
    let found = format!("uid {euid}, {admin}, {namespace}");
    match (capable, initial) {
        (true, true) => new(name, Status::Ok, found, "may mount"),
        (true, false) => new(
            name,
            Status::Missing,
            found,
            "the kernel does not mount EROFS here, whatever the capabilities; run outside of the namespace",
        ),
        (false, _) => {
            new(name, Status::Missing, found, "cannot mount; build, verify, ls and extract work without")
        }
    }
}

fn mount_api() -> Probe {
    let name = "mount API";
    // tmpfs is in every kernel, so the answer is about the call and not about the type.
    match rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => new(name, Status::Ok, "fsopen works", "mounts appear complete or not at all"),
        Err(Errno::PERM) => {
            new(name, Status::Limited, "fsopen is there, not permitted", "mounting needs more privileges")
        }
        Err(errno) => new(
            name,
            Status::Missing,
            format!("fsopen: {errno}"),
            "cannot mount; needs Linux 5.2, and no seccomp filter that forbids fsopen",
        ),
    }
}

fn erofs() -> Probe {
    let name = "EROFS";
    let features = fs::read_dir("/sys/fs/erofs/features").map(|dir| {
        let mut names: Vec<String> =
            dir.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names.join(" ")
    });
    if filesystem("erofs") {
        let found = match features {
            Ok(features) if !features.is_empty() => format!("in the kernel: {features}"),
            _ => "in the kernel, features unknown".to_owned(),
        };
        new(name, Status::Ok, found, "images can be mounted")
    } else if module("erofs") {
        new(name, Status::Ok, "module, not loaded", "loaded by the first mount")
    } else {
        new(name, Status::Missing, "neither in the kernel nor a module", "images cannot be mounted")
    }
}

fn file_backed(result: &Result<()>) -> Probe {
    let name = "file-backed mounts";
    match result {
        Ok(()) => new(
            name,
            Status::Ok,
            "a test image was mounted from a file",
            "images are mounted without a loop device",
        ),
        Err(e) => match e.errno() {
            Some(Errno::PERM) => new(
                name,
                Status::Limited,
                "unknown: the experiment needs privileges",
                "where the kernel cannot, a loop device is used",
            ),
            Some(Errno::NOTBLK) => new(
                name,
                Status::Missing,
                "refused: block device required (Linux before 6.12, built without it, or a stacked file system)",
                "images are mounted over loop devices",
            ),
            _ if before_6_12() => new(
                name,
                Status::Missing,
                "the kernel is older than 6.12",
                "images are mounted over loop devices",
            ),
            _ => new(
                name,
                Status::Limited,
                format!("unknown: the experiment failed: {e}"),
                "where the kernel cannot, a loop device is used",
            ),
        },
    }
}

/// Each compressor by experiment, whichever way of mounting works.
fn compressors(file: &Result<()>, plain: &Result<()>) -> Probe {
    let name = "EROFS compressors";
    if let Err(e) = plain {
        return new(
            name,
            Status::Limited,
            format!("unknown: no test image could be mounted: {e}"),
            "mounting a compressed image tells",
        );
    }
    let (mut has, mut lacks) = (Vec::new(), Vec::new());
    for algorithm in Algorithm::ALL {
        let image = tiny_image::build(Some(algorithm));
        let mounted = if file.is_ok() { try_file(&image) } else { try_loop(&image) };
        if mounted.is_ok() { has.push(algorithm.name()) } else { lacks.push(algorithm.name()) }
    }
    let mut found = if has.is_empty() { "none".to_owned() } else { has.join(" ") };
    if !lacks.is_empty() {
        found = format!("{found}; refused: {}", lacks.join(" "));
    }
    // What mkimg writes: lzma is no option of the builder.
    if ["lz4", "deflate", "zstd"].iter().all(|wanted| has.contains(wanted)) {
        new(name, Status::Ok, found, "images of every compression can be mounted")
    } else if has.is_empty() {
        new(name, Status::Missing, found, "only images built with --compress none can be mounted")
    } else {
        new(name, Status::Limited, found, "images with a refused compression cannot be mounted")
    }
}

fn loop_devices() -> Probe {
    let name = "loop devices";
    let consequence = "needed for dm-verity, and where mounts straight from a file are not possible";
    match rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => new(name, Status::Ok, "/dev/loop-control works", "images can be mounted over loop devices"),
        Err(Errno::ACCESS | Errno::PERM) => {
            new(name, Status::Limited, "/dev/loop-control is there, not permitted", consequence)
        }
        Err(_) if module("loop") => {
            new(name, Status::Limited, "module, not loaded: modprobe loop", consequence)
        }
        Err(errno) => new(name, Status::Missing, format!("/dev/loop-control: {errno}"), consequence),
    }
}

fn dm_verity() -> Probe {
    let name = "dm-verity";
    match dm::available() {
        Ok(()) => new(
            name,
            Status::Ok,
            "device-mapper with the verity target",
            "the kernel can check every block it reads; --verity auto means kernel",
        ),
        Err(dm::Unavailable::Control(Errno::ACCESS | Errno::PERM)) => new(
            name,
            Status::Limited,
            "unknown: /dev/mapper/control is not permitted",
            "the kernel may check every block it reads once there are privileges",
        ),
        Err(reason) => new(
            name,
            Status::Missing,
            reason.to_string(),
            "--verity kernel fails; auto means once: the image is checked before the mount, later changes are not noticed by the kernel",
        ),
    }
}

fn signatures() -> Probe {
    let required = fs::read_to_string("/sys/module/dm_verity/parameters/require_signatures").ok();
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    signature_probe(required.map(|value| value.trim() == "Y"), certificates(&keys))
}

/// What `/proc/keys` says of the keyring of dm-verity (Linux 7.0): how many certificates are in it.
fn certificates(keys: &str) -> Option<u32> {
    let (_, count) = keys.lines().find_map(|line| line.split_once(" .dm-verity: "))?;
    // An empty keyring says so in a word.
    Some(count.trim().parse().unwrap_or(0))
}

/// `required` is the parameter of dm-verity, if it has one.
fn signature_probe(required: Option<bool>, certificates: Option<u32>) -> Probe {
    let name = "signatures";
    let by = match certificates {
        Some(count @ 1..) => format!("{count} in the keyring of dm-verity"),
        Some(0) => "none in the keyring of dm-verity".to_owned(),
        None => "no keyring of dm-verity".to_owned(),
    };
    match required {
        None => new(
            name,
            Status::Missing,
            "dm-verity is not loaded, or checks no signatures",
            "mount --kernel-signature may fail; verify and mount check signatures themselves with --key and --cert",
        ),
        Some(true) => new(
            name,
            Status::Ok,
            format!("required; certificates: {by}, and those of the kernel"),
            "--verity kernel fails without --kernel-signature",
        ),
        Some(false) if certificates.is_some_and(|count| count > 0) => new(
            name,
            Status::Ok,
            format!("on demand; certificates: {by}, and those of the kernel"),
            "mount --kernel-signature has the kernel check a signature",
        ),
        Some(false) => new(
            name,
            Status::Limited,
            format!("on demand; certificates: {by}, only those of the kernel"),
            "mount --kernel-signature takes what was signed by a certificate that the kernel trusts from the start",
        ),
    }
}

fn overlay() -> Probe {
    let name = "overlay";
    if filesystem("overlay") {
        new(name, Status::Ok, "in the kernel", "--upper and --work can be used")
    } else if module("overlay") {
        new(name, Status::Ok, "module, not loaded", "loaded by the first use of --upper")
    } else {
        new(name, Status::Missing, "neither in the kernel nor a module", "--upper cannot be used")
    }
}

fn fs_verity() -> Probe {
    let name = "fs-verity";
    let good = "single files can be sealed and measured by the kernel";
    let without = "files of an extracted tree are checked in user space only";
    let answer = temp_file(b"x").and_then(|(dir, file)| {
        let file = reopen_read_only(&file, &dir)?;
        Ok((dir, fsverity::measure(&file)))
    });
    match answer {
        Ok((dir, Err(Errno::NODATA) | Ok(_))) => {
            new(name, Status::Ok, format!("works on {}", dir.display()), good)
        }
        Ok((dir, Err(errno))) => {
            let kernel = ["ext4", "f2fs", "btrfs"]
                .iter()
                .any(|fs| Path::new("/sys/fs").join(fs).join("features/verity").exists());
            if kernel {
                let found = format!("in the kernel, not enabled on {} ({errno})", dir.display());
                new(name, Status::Limited, found, without)
            } else {
                new(name, Status::Missing, format!("refused on {}: {errno}", dir.display()), without)
            }
        }
        Err(e) => new(name, Status::Limited, format!("unknown: {e}"), without),
    }
}

/// Whether `/proc/filesystems` has the type.
fn filesystem(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.split_ascii_whitespace().last() == Some(name)))
}

/// Whether modprobe would find a module: its file is named in `modules.dep`.
fn module(name: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let list = Path::new("/lib/modules").join(release).join("modules.dep");
    fs::read_to_string(list).is_ok_and(|text| {
        text.lines().filter_map(|line| line.split(':').next()).any(|path| {
            path.rsplit('/')
                .next()
                .and_then(|file| file.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with(".ko"))
        })
    })
}

fn file_result_or(file: &Result<()>, other: impl FnOnce() -> Result<()>) -> Result<()> {
    if file.is_ok() { Ok(()) } else { other() }
}

fn try_file_backed() -> Result<()> {
    try_file(&tiny_image::build(None))
}

/// Mounts an image from an unnamed file, and drops the mount.
fn try_file(image: &[u8]) -> Result<()> {
    let (dir, file) = temp_file(image)?;
    let file = reopen_read_only(&file, &dir)?;
    mount_and_drop(&fd_path(file.as_fd()))
}

/// Mounts an image from a loop device over memory, and drops the mount and the device.
fn try_loop(image: &[u8]) -> Result<()> {
    let what = Path::new("memfd");
    let fd =
        rustix::fs::memfd_create("mkimg-doctor", MemfdFlags::CLOEXEC).map_err(Error::at("make", what))?;
    let mut file = File::from(fd);
    file.write_all(image).map_err(|e| Error::at("write", what)(errno_of(&e)))?;
    let device = LoopDevice::attach(file.as_fd(), &LoopOptions::default())?;
    mount_and_drop(&device.path())
}

fn mount_and_drop(source: &Path) -> Result<()> {
    let fs = Context::new("erofs", "mount test image", source)?;
    fs.set_string("source", source)?;
    fs.set_flag("ro")?;
    fs.create()?;
    fs.mount(MountAttrs { read_only: true, nodev: true, nosuid: true, noexec: true }.flags()).map(drop)
}

/// An unnamed file, on a disk file system if there is one.
fn temp_file(content: &[u8]) -> Result<(PathBuf, File)> {
    let mut last = None;
    for dir in [Path::new("/var/tmp"), Path::new("/tmp"), Path::new("/var/lib"), Path::new("/root")] {
        let on_disk = rustix::fs::statfs(dir)
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|magic| magic != TMPFS_MAGIC));
        if !on_disk {
            continue;
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                let mut file = File::from(fd);
                file.write_all(content).map_err(|e| Error::at("write test file in", dir)(errno_of(&e)))?;
                return Ok((dir.to_path_buf(), file));
            }
            Err(errno) => last = Some(Error::at("make test file in", dir)(errno)),
        }
    }
    Err(last.unwrap_or_else(|| Error::at("find a disk file system at", Path::new("/var/tmp"))(Errno::NOENT)))
}

/// Some file systems refuse to be read by the kernel while a writer is there.
fn reopen_read_only(file: &File, dir: &Path) -> Result<File> {
    let path = fd_path(file.as_fd());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(Error::at("open test file in", dir))
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        for (release, expected) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.15.0", Some((5, 15))),
            ("7.0-rc1", Some((7, 0))),
            ("6", None),
            ("", None),
            ("x.y", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn signatures_of_dm_verity() {
        let line = |keys: &str| {
            format!(
                "0a5d1234 I------     1 perm 1f030000     0     0 user      .dm-x: 1\n2cd81234 I--Q---     2 perm 08070000     0     0 keyring   .dm-verity: {keys}\n"
            )
        };
        assert_eq!(certificates(&line("3")), Some(3));
        assert_eq!(certificates(&line("empty")), Some(0));
        assert_eq!(certificates("2cd81234 I--Q---     2 perm 08070000 0 0 keyring   .fs-verity: 3\n"), None);
        for (required, certificates, status, found) in [
            (None, None, Status::Missing, "not loaded"),
            (Some(false), None, Status::Limited, "no keyring of dm-verity"),
            (Some(false), Some(0), Status::Limited, "none in the keyring"),
            (Some(false), Some(2), Status::Ok, "on demand; certificates: 2 in the keyring"),
            (Some(true), None, Status::Ok, "required"),
        ] {
            let probe = signature_probe(required, certificates);
            assert_eq!(probe.status, status, "{required:?} {certificates:?}");
            assert!(probe.found.contains(found), "{}", probe.found);
        }
    }

    #[test]
    fn a_probe_without_privileges_still_answers() {
        let probes = probe();
        assert_eq!(probes.len(), 11);
        assert!(filesystem("proc") && !filesystem("nodev") && !filesystem("no-such-type"));
        assert!(!module("no-such-module"));
    }

    #[test]
    fn root_each_way_of_trying_tells_good_from_bad() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: root_each_way_of_trying_tells_good_from_bad needs root");
            return;
        }
        let mut broken = tiny_image::build(None);
        broken[1024] ^= 1;
        let mut unknown_feature = tiny_image::build(None);
        unknown_feature[1024 + 0x53] = 0x40;
        for way in [try_file, try_loop] {
            if let Err(e) = way(&tiny_image::build(None)) {
                // Only what lacks in older kernels and in guests without a disk.
                assert!(matches!(e.errno(), Some(Errno::NOTBLK | Errno::NOENT)), "{e}");
                println!("skipped: one way of trying: {e}");
                continue;
            }
            assert!(way(&broken).is_err());
            assert!(way(&unknown_feature).is_err());
        }
    }
}
