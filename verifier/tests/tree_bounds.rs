//! Audits of extracted trees that are deep, large, or led astray where only one side has a directory.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod maker;
#[path = "tree/sample.rs"]
mod sample;

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mkimg_format::erofs::FileType;
use mkimg_verify::tree::{
    DIFFERENCES_MAX, Difference, Field, Kind, Security, TreeOptions, TreeReport, audit_tree,
};
use rustix::fs::{CWD, Mode, OFlags};
use sample::{Entry, Scratch, entry, write_image, write_tree};

/// Names of 249 bytes, with a slash 250.
const NAME: usize = 249;

/// Audits content, types and names with one thread and with four; both must say the same.
fn audit(image: &[u8], root: &Path) -> TreeReport {
    let image = image.to_vec();
    let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs];
    let run = |threads| {
        let threads = NonZeroUsize::new(threads).unwrap();
        audit_tree(&image, root, &TreeOptions { threads, ignore: &ignore, ..TreeOptions::default() }).unwrap()
    };
    let one = run(1);
    assert_eq!(one, run(4));
    one
}

/// The root, and `depth` directories of it, each in the one before.
fn chain(letter: u8, depth: usize) -> Vec<Entry> {
    let mut list = vec![entry("/", FileType::Dir, 0o755, "")];
    let mut path = Vec::new();
    for _ in 0..depth {
        path.push(b'/');
        path.resize(path.len() + NAME, letter);
        list.push(entry(&path, FileType::Dir, 0o755, ""));
    }
    list
}

/// Makes `depth` directories, step by step: the whole path is longer than the system takes.
fn dig(root: &Path, letter: u8, depth: usize) {
    let name = vec![letter; NAME];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir: OwnedFd = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, name.as_slice(), Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, name.as_slice(), flags, Mode::empty()).unwrap();
    }
}

fn paths(report: &TreeReport, kind: Kind) -> Vec<&[u8]> {
    let of_kind = report.findings.iter().filter(|found| found.kind == kind);
    of_kind.map(|found| found.path.as_slice()).collect()
}

#[test]
fn paths_of_4000_bytes_that_one_side_has() {
    let list = chain(b'm', 16);
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list[..1], &root);
    dig(&root, b'e', 16);
    let report = audit(&image, &root);
    assert!(report.complete && report.truncated == 0, "{:?}", report.unseen);
    let listed =
        |letter| -> Vec<Vec<u8>> { chain(letter, 16)[1..].iter().map(|it| it.path.clone()).collect() };
    assert_eq!(paths(&report, Kind::Missing), listed(b'm'));
    assert_eq!(paths(&report, Kind::Extra), listed(b'e'));
    assert_eq!(report.findings.len(), 32);
    assert_eq!(report.findings.last().unwrap().path.len(), 4000);
    // As one side has it, so has the other.
    dig(&root, b'm', 16);
    let report = audit(&image, &root);
    assert_eq!((report.findings.len(), report.entries), (16, 17));
}

/// What is deeper than the system opens by one path is told, not left out.
#[test]
fn paths_that_are_too_long_are_unreadable() {
    let list = chain(b'm', 0);
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    dig(&root, b'e', 20);
    let report = audit(&image, &root);
    assert!(!report.complete);
    assert_eq!(paths(&report, Kind::Extra).len(), 17);
    assert_eq!(
        paths(&report, Kind::Unreadable).iter().map(|path| path.len()).collect::<Vec<_>>(),
        [17 * 250]
    );
}

#[test]
fn a_large_extra_tree_is_counted_to_the_last_name() {
    let list = [entry("/", FileType::Dir, 0o755, ""), entry("/f", FileType::File, 0o644, "x")];
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    for dir in 0..100 {
        let dir = root.join(format!("many/{dir:03}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..200 {
            fs::write(dir.join(format!("{file:03}")), "").unwrap();
        }
    }
    // The last of all names is the first of the report.
    let last = root.join("many/099/zzz");
    fs::write(&last, "").unwrap();
    rustix::fs::chmod(&last, Mode::from_raw_mode(0o4755)).unwrap();
    let report = audit(&image, &root);
    let all = 1 + 100 + 20_000 + 1;
    assert_eq!(report.findings.len(), DIFFERENCES_MAX);
    assert_eq!(report.truncated, all - DIFFERENCES_MAX as u64);
    assert!(report.complete && !report.is_clean());
    let (first, rest) = report.findings.split_first().unwrap();
    assert_eq!((first.path.as_slice(), first.security), (&b"/many/099/zzz"[..], Some(Security::SetId)));
    assert!(rest.is_sorted_by_key(|found| &found.path));
    assert_eq!(rest[0].path, b"/many");
}

/// An extra directory and a link to a victim change places all the time.
#[test]
fn a_racing_swap_of_an_extra_directory_does_not_lead_out() {
    let list = [entry("/", FileType::Dir, 0o755, "")];
    let image = write_image(&list).bytes;
    let scratch = Scratch::new();
    let root = scratch.root();
    write_tree(&list, &root);
    fs::create_dir_all(root.join("e/below")).unwrap();
    fs::write(root.join("e/below/inside"), "").unwrap();
    fs::create_dir_all(scratch.0.join("victim/below")).unwrap();
    fs::write(scratch.0.join("victim/below/secret"), "").unwrap();
    symlink("../victim", scratch.0.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    let mut whole = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                let (dir, link) = (root.join("e"), scratch.0.join("link"));
                rustix::fs::renameat_with(CWD, &dir, CWD, &link, swap).unwrap();
            }
        });
        let _stop = Stop(&stop);
        let ignore = [Field::Uid, Field::Gid, Field::Mtime, Field::Xattrs];
        for _ in 0..500 {
            let options =
                TreeOptions { ignore: &ignore, threads: NonZeroUsize::MIN, ..TreeOptions::default() };
            let report = audit_tree(&image, &root, &options).unwrap();
            let allowed = |found: &Difference| {
                matches!(found.kind, Kind::Extra | Kind::Changing)
                    && [&b"/"[..], b"/e", b"/e/below", b"/e/below/inside"].contains(&found.path.as_slice())
            };
            assert!(report.findings.iter().all(allowed), "{report:#?}");
            assert!(!report.is_clean());
            whole += usize::from(paths(&report, Kind::Extra).len() == 3);
        }
    });
    // Both of it were met.
    assert!(whole < 500, "nobody was at work");
}

/// Ends the thread that disturbs, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
