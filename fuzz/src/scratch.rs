//! Files for code that wants a path: in memory where that is possible.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// A file without a name that is gone with its descriptor.
pub struct MemFile {
    _file: File,
    path: PathBuf,
}

impl MemFile {
    /// A file with this content.
    pub fn new(content: &[u8]) -> Self {
        use std::io::Write as _;
        let descriptor = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        let mut file = File::from(descriptor);
        file.write_all(content).expect("room in memory");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self { _file: file, path }
    }

    /// Where it can be opened by this process.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A folder below `TMPDIR` that is removed with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty folder. `run.sh` lets `TMPDIR` point to memory.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("mkimg-fuzz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a folder for scratch files");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.0)).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
