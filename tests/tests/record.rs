//! `mkimg mount --record` writes down what a workload reads, and an image that is built for it reads little else.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{Finished, mkimg, mkimg_path, tool};
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::live::{Stage, drop_caches};
use mkimg_tests::mount::{Mounted, is_mount_point};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, images, names_in, require};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A recording that is under way, in the directory of the stage.
struct Recording {
    child: Option<Child>,
    trace: PathBuf,
    _mounted: Mounted,
}

impl Recording {
    /// `mkimg mount IMAGE POINT --record TRACE --json OPTIONS...`; comes back when it is mounted.
    fn start(stage: &Stage, options: &[&str]) -> Self {
        let (trace, mounted) = (stage.path("trace"), Mounted::adopt(&stage.point));
        let child = Command::new(mkimg_path())
            .args(args!["mount", stage.image, stage.point, "--record", trace, "--json"])
            .args(options)
            .current_dir(stage.path(""))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let itself = Self { child: Some(child), trace, _mounted: mounted };
        let started = Instant::now();
        while !is_mount_point(&stage.point) {
            assert!(started.elapsed() < Duration::from_secs(60), "it was never mounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        itself
    }

    /// Waits for its end; the paths of the trace, which are as many as it says.
    fn ended(&mut self) -> Vec<String> {
        let mut child = self.child.take().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                panic!("the recording does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let out = String::from_utf8(done.stdout).unwrap();
        let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        let text = std::fs::read_to_string(&self.trace).unwrap();
        let paths: Vec<String> =
            text.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect();
        assert_eq!(last["files"], paths.len(), "{out}");
        assert_eq!(last["complete"], true, "{out}");
        paths
    }

    /// Asks it to end, see kill(1).
    fn signal(&self, name: &str) {
        let _ = tool("kill", ["-s", name, &self.child.as_ref().unwrap().id().to_string()]).ok();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Files of every kind, and a program that can be started outside of the image.
fn stage() -> Stage {
    Stage::with(|dir| {
        let mut layout = Layout::create(&dir.join("oci"));
        let mut layer = layout.layer(None);
        let program = std::fs::read("/bin/true").unwrap();
        layer.file("bin/true", &Attr::mode(0o755), &program);
        for name in ["etc/a", "etc/b", "etc/c", "etc/mapped", "etc/moved", "etc/unread"] {
            layer.file(name, &Attr::default(), name.as_bytes());
        }
        layer.file("etc/line\nbreak", &Attr::default(), b"a name of two lines");
        layer.hardlink("etc/z", "etc/c");
        layer.symlink("etc/link", "b");
        layer.fifo("etc/pipe", &Attr::default());
        layer.finish();
        layout.finish();
        format!("oci:{}", dir.join("oci").display())
    })
}

/// What [`WORKLOAD`] reads, by first access.
const READ: [&str; 6] = ["/etc/b", "/bin/true", "/etc/a", "/etc/mapped", "/etc/c", "/etc/line\\nbreak"];

/// Reads, starts and maps; looks at much, and reads some twice; from other mount namespaces and by a bind mount.
const WORKLOAD: &str = r#"
cat mnt/etc/link >/dev/null
ls -lR mnt >/dev/null
find mnt -type f -newer mnt/etc/a >/dev/null
mnt/bin/true
unshare -m sh -c 'mount --bind mnt/etc /mnt && cat /mnt/a mnt/etc/b >/dev/null'
python3 -c 'import mmap, os
file = os.open("mnt/etc/mapped", os.O_RDONLY)
assert mmap.mmap(file, 0, prot=mmap.PROT_READ)[:] == b"etc/mapped"'
cat mnt/etc/z mnt/etc/a >/dev/null
cat 'mnt/etc/line
break' >/dev/null
"#;

macro_rules! needs {
    () => {
        require!(
            Need::Root,
            Need::FileSystem("erofs"),
            Need::FileSystem("overlay"),
            Need::Loop,
            Need::Tool("unshare"),
            Need::Tool("python3"),
        );
    };
}

/// Recording below an overlay takes Linux 6.5.
fn overlays() -> bool {
    let can = images::kernel() >= (6, 5);
    if !can {
        skipped("overlays: needs Linux 6.5");
    }
    can
}

#[test]
fn root_all_reads_are_recorded_in_order() {
    needs!();
    let stage = stage();
    let overlay: &[&str] = &["--upper", "upper", "--work", "work"];
    for options in [&[][..], &["--via", "loop"], overlay] {
        if options == overlay && !overlays() {
            continue;
        }
        // A recorder must not be in the way of an unmount, however soon it comes.
        for _ in 0..5 {
            let mut recording = Recording::start(&stage, options);
            let _ = stage.sh(WORKLOAD);
            let _ = mkimg(args!["umount", stage.point]).ok();
            assert_eq!(recording.ended(), READ, "{options:?}");
        }
        stage.assert_clean();
    }
}

#[test]
fn root_what_an_overlay_has_itself_is_not_read_of_the_image() {
    needs!();
    if !overlays() {
        return;
    }
    let stage = stage();
    let options = ["--upper", "upper", "--work", "work"];
    let mut recording = Recording::start(&stage, &options);
    // Copying up reads the file; a name that was moved leads to the file of the image for ever.
    let _ = stage
        .sh("echo new >mnt/new; cat mnt/new; echo more >>mnt/etc/a; mv mnt/etc/moved mnt/here; cat mnt/here");
    let _ = mkimg(args!["umount", stage.point]).ok();
    assert_eq!(recording.ended(), ["/etc/a", "/etc/moved"]);
    let mut recording = Recording::start(&stage, &options);
    let _ = stage.sh("cat mnt/new mnt/etc/a mnt/here mnt/etc/b");
    let _ = mkimg(args!["umount", stage.point]).ok();
    assert_eq!(recording.ended(), ["/etc/b"]);
}

#[test]
fn root_a_signal_ends_the_recording_but_not_the_mount() {
    needs!();
    let stage = stage();
    for signal in ["INT", "TERM"] {
        std::fs::write(stage.path("trace"), "of the last time").unwrap();
        let mut recording = Recording::start(&stage, &[]);
        let _ = stage.sh("cat mnt/etc/a");
        assert_eq!(std::fs::read_to_string(stage.path("trace")).unwrap(), "of the last time");
        recording.signal(signal);
        assert_eq!(recording.ended(), ["/etc/a"], "{signal}");
        assert_eq!(stage.sh("cat mnt/etc/b").out(), "etc/b");
    }
}

#[test]
fn root_what_cannot_be_recorded() {
    needs!();
    let stage = stage();
    let refused = |trace: &str| -> Finished {
        mkimg(args!["mount", stage.image, stage.point, "--record", trace])
            .current_dir(stage.path(""))
            .output()
            .code(1)
    };
    let before = names_in(&stage.path(""));
    for trace in ["missing/trace", "mnt", "/proc/trace"] {
        let line = refused(trace).error_line();
        assert!(line.starts_with(&format!("mkimg: {trace}: cannot create")), "{line}");
        assert!(!is_mount_point(&stage.point), "{trace}");
    }
    assert_eq!(names_in(&stage.path("")), before);
}

/// 4 KiB pages of a file that are in memory, as ranges.
fn cached(file: &Path) -> Vec<(u64, u64)> {
    const SCRIPT: &str = r#"
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
size = os.path.getsize(sys.argv[1])
file = os.open(sys.argv[1], os.O_RDONLY)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
start = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
pages = ctypes.create_string_buffer((size + 4095) // 4096)
assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages) == 0
first = None
for at, page in enumerate(pages.raw + b"\0"):
    if page & 1 and first is None: first = at
    if not page & 1 and first is not None:
        print(first, at)
        first = None
"#;
    let out = tool("python3", args!["-c", SCRIPT, file]).ok().out();
    out.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(first, end)| (first.parse().unwrap(), end.parse().unwrap()))
        .collect()
}

/// Blocks of file data that a cold run of `script` brings into memory.
fn read_cold(stage: &Stage, script: &str) -> Vec<(u64, u64)> {
    let mounted = stage.mount(&["--via", "file", "--verity", "off"]);
    drop_caches();
    let _ = stage.sh(script);
    let meta = stage.area("metadata") / 4096;
    let pages = cached(&stage.image);
    drop(mounted);
    let data = pages.into_iter().map(|(first, end)| (first.max(1), end.min(meta)));
    data.filter(|(first, end)| first < end).collect()
}

/// Record, build, and read again: from the second image nothing is read but the range that `inspect` names, and what the
/// kernel reads ahead behind it.
#[test]
fn root_a_cold_start_reads_the_hot_range_alone() {
    /// Blocks that the disk below reads ahead at most: the default of Linux.
    const AHEAD: u64 = 32;
    needs!();
    require!(Need::Tool("mkfs.ext4"));
    if images::kernel() < (6, 12) {
        return skipped("mounts straight from a file: needs Linux 6.12");
    }
    let mut stage = Stage::with(|dir| {
        let mut layout = Layout::create(&dir.join("oci"));
        for number in 0..3_u64 {
            let mut layer = layout.layer(None);
            for at in 0..100 {
                let content = images::pattern(100_000, 1000 * number + at);
                layer.file(&format!("{number}/{at:02}"), &Attr::default(), &content);
            }
            layer.finish();
        }
        layout.finish();
        format!("oci:{}", dir.join("oci").display())
    });
    let source = format!("oci:{}", stage.path("oci").display());
    // Disks differ in how much they read ahead, so the image gets one of its own.
    let disk = stage.path("disk");
    std::fs::File::create(&disk).unwrap().set_len(80 << 20).unwrap();
    let _ = tool("mkfs.ext4", args!["-q", disk]).ok();
    let mounted = Mounted::new(&["-t", "ext4", "-o", "loop"], &disk, &stage.path("fs"));
    let minor = rustix::fs::minor(std::fs::metadata(mounted.path()).unwrap().dev());
    std::fs::write(format!("/sys/block/loop{minor}/queue/read_ahead_kb"), (AHEAD * 4).to_string()).unwrap();
    std::fs::rename(&stage.image, stage.path("first")).unwrap();
    stage.image = mounted.path().join("image");
    std::fs::copy(stage.path("first"), &stage.image).unwrap();
    // Backwards, and out of all layers.
    let script = "for at in 95 80 61 40 23 07; do cat mnt/2/$at mnt/0/$at mnt/1/$at; done >/dev/null";
    let wanted: Vec<String> = ["95", "80", "61", "40", "23", "07"]
        .iter()
        .flat_map(|at| [format!("/2/{at}"), format!("/0/{at}"), format!("/1/{at}")])
        .collect();
    let mut recording = Recording::start(&stage, &[]);
    let _ = stage.sh(script);
    let _ = mkimg(args!["umount", stage.point]).ok();
    assert_eq!(recording.ended(), wanted);
    let trace = stage.path("trace");

    let before = read_cold(&stage, script);
    for compression in ["none", "zstd"] {
        let done = mkimg(args!["build", source, "-o", stage.image, "--optimize-for", trace])
            .args(["--compress", compression])
            .ok();
        assert_eq!(done.err(), "", "{compression}");
        let hot = mkimg(args!["inspect", "--json", stage.image]).ok().json()["hot"].take();
        assert_eq!(hot["contents"], 18, "{compression}");
        assert_eq!(hot["first_block"], 1, "{compression}");
        let last = hot["last_block"].as_u64().unwrap();
        let blocks = hot["bytes"].as_u64().unwrap().div_ceil(4096);
        assert_eq!(last, blocks, "{compression}: {hot}");
        let after = read_cold(&stage, script);
        let read: u64 = after.iter().map(|(first, end)| end - first).sum();
        assert!(read >= last, "{compression}: {read} of {last}: {after:?}");
        // The kernel is up to two such windows ahead.
        let end = last + 1 + 2 * AHEAD;
        assert!(after.iter().all(|(_, read)| *read <= end), "{compression}: {last}: {after:?}");
        // The same image in the order of its layers is read here and there.
        let elsewhere = before.iter().filter(|(first, _)| *first > end).count();
        assert!(elsewhere >= 10, "{before:?}");
    }
}
