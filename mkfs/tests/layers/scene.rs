//! A place to build in, with a victim beside it that nobody may touch.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::listing::{describe, read_image};
use super::{Blob, build_blobs, names_in, scratch};

/// A scratch directory with a victim in it.
pub struct Scene {
    pub dir: TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Scene {
    pub fn new() -> Self {
        let dir = scratch();
        let victim = dir.path().join("victim");
        std::fs::create_dir_all(victim.join("sub")).unwrap();
        std::fs::write(victim.join("hello"), "untouched").unwrap();
        std::fs::write(victim.join("sub/file"), "untouched").unwrap();
        std::os::unix::fs::symlink("hello", victim.join("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, victim.join("fifo"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        std::fs::create_dir(dir.path().join("out-evil")).unwrap();
        let before = Self::look(&victim);
        Self { dir, before }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything in the victim, with all that a change would leave a trace in.
    fn look(victim: &Path) -> BTreeMap<PathBuf, String> {
        let mut seen = BTreeMap::new();
        let mut ahead = vec![victim.to_owned()];
        while let Some(path) = ahead.pop() {
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            if stat.is_dir() {
                ahead.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            let owner = (stat.uid(), stat.gid(), stat.nlink(), stat.ino());
            seen.insert(path, format!("{:o} {owner:?} {times:?} {content:?}", stat.mode()));
        }
        seen
    }

    pub fn check(&self) {
        assert_eq!(Self::look(&self.path("victim")), self.before, "the victim has changed");
        assert_eq!(names_in(&self.path("out-evil")), [""; 0]);
        let expected = ["layout", "out", "out-evil", "victim"];
        let names = names_in(self.dir.path());
        assert!(names.iter().all(|name| expected.contains(&&**name)), "{names:?}");
    }

    /// Builds, and gives the tree in one line or the error.
    pub fn build(&self, tars: &[Vec<u8>]) -> String {
        let _ = std::fs::remove_file(self.path("out/image"));
        let blobs: Vec<Blob> = tars.iter().map(|tar| Blob::plain(tar.clone())).collect();
        let result = build_blobs(self.dir.path(), &blobs);
        self.check();
        match result {
            Ok((_, image)) => describe(&read_image(&image)),
            Err(error) => format!("error: {error}"),
        }
    }
}
