//! Helpers of the end-to-end tests: they run the `mkimg` program and compare what it makes with what the kernel and
//! other people's tools see.
//!
//! Nothing here depends on a crate of mkimg: an oracle that shares code with the thing it judges agrees with its
//! mistakes. [`listing`] walks directories, [`layout`] writes OCI images, [`command`] runs programs with a deadline,
//! [`signer`] makes keys, [`floors`] an image of every feature set, [`mount`] undoes what a test mounted, [`live`] audits
//! it, [`watch`] talks to a running watch, [`audit`] reads reports, [`vm`] boots other kernels, and [`need`] skips a test loudly when the machine cannot run it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a helper that fails must fail the test that called it")]

pub mod audit;
pub mod command;
pub mod floors;
pub mod images;
pub mod layout;
pub mod listing;
pub mod live;
pub mod mount;
pub mod need;
pub mod signer;
pub mod vm;
pub mod watch;

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A scratch directory that is removed when the test ends, in [`scratch_top`].
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("t-").tempdir_in(scratch_top()).expect("a scratch directory")
}

/// Where scratch directories lie: `MKIMG_TEST_DIR`, or a folder of the build directory. The system's temporary
/// directory is often a tmpfs, without user xattrs and with little room.
pub fn scratch_top() -> PathBuf {
    let top =
        std::env::var_os("MKIMG_TEST_DIR").map_or_else(|| command::target().join("scratch"), PathBuf::from);
    std::fs::create_dir_all(&top).unwrap_or_else(|error| panic!("{}: {error}", top.display()));
    top
}

/// The root of the source tree.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project").to_path_buf()
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file, as hexadecimal digits.
pub fn sha256_of(path: &Path) -> String {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut buffer = vec![0; 1 << 16];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).unwrap() {
            0 => return hex(&hash.finalize()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The names in a directory, sorted; to prove that a failed run left nothing behind.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A small seeded generator (splitmix64) for offsets and kill points: failures must be repeatable.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the sequence.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}
