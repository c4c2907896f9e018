//! Mounts that end with the test, and what the kernel says about loop devices.

use crate::{args, command};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Only one test at a time may hold this: tests that count loop devices, or measure time, disturb each other, also from
/// other test programs.
#[derive(Debug)]
pub struct Exclusive(#[allow(dead_code, reason = "the lock lives as long as the descriptor")] std::fs::File);

impl Exclusive {
    /// Waits until no other test holds the lock.
    pub fn take() -> Self {
        let path = crate::scratch_top().join("lock");
        let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("the lock of the tests");
        Self(file)
    }
}

/// A mount point that is unmounted, with everything below and on top of it, when the value is dropped.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// `mount OPTIONS... SOURCE POINT`
    pub fn new(options: &[&str], source: &Path, point: &Path) -> Self {
        std::fs::create_dir_all(point).unwrap();
        command::tool("mount", options).args(args![source, point]).ok();
        Self::adopt(point)
    }

    /// The kernel's EROFS driver over a loop device.
    pub fn erofs(image: &Path, point: &Path) -> Self {
        Self::new(&["-t", "erofs", "-o", "ro,loop"], image, point)
    }

    /// A tmpfs of `size` (`4m`, `200k`).
    pub fn tmpfs(size: &str, point: &Path) -> Self {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={size},mode=0755")], Path::new("mkimg-test"), point)
    }

    /// Takes charge of what something else mounted, or will mount, at `point`.
    pub fn adopt(point: &Path) -> Self {
        Self { point: point.to_path_buf() }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let top = std::fs::canonicalize(&self.point).unwrap_or_else(|_| self.point.clone());
        let mut points = mount_points();
        points.retain(|point| point.starts_with(&top));
        for point in points.iter().rev() {
            let done = command::tool("umount", args![point]).output();
            if !done.status.success() {
                let _ = command::tool("umount", args!["-l", point]).output();
            }
        }
    }
}

/// All mount points of this namespace, in the order of mounting.
pub fn mount_points() -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").expect("mountinfo");
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(field))))
        .collect()
}

/// Whether something is mounted exactly at `point`.
pub fn is_mount_point(point: &Path) -> bool {
    let point = std::fs::canonicalize(point).unwrap_or_else(|_| point.to_path_buf());
    mount_points().contains(&point)
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match digits {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// The loop devices in use and their backing files, `(loop7, PATH)`, sorted.
pub fn loop_devices() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) {
            found.push((name, file.trim_end().to_owned()));
        }
    }
    found.sort();
    found
}

/// The loop devices behind which `image` lies. Waits a moment first: an autoclear device outlives its last mount by
/// the time the kernel needs for the final close.
pub fn loops_behind(image: &Path) -> Vec<String> {
    let image = std::fs::canonicalize(image).unwrap_or_else(|_| image.to_path_buf());
    let image = image.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for _ in 0..100 {
        found = loop_devices()
            .into_iter()
            .filter(|(_, file)| file.starts_with(&image))
            .map(|(name, _)| name)
            .collect();
        if found.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    found
}
