//! Images, and children of the test itself.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use mkimg_extract::{Error, Options, Summary, extract, sealed};
use mkimg_format::erofs::FileSystem;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_mkfs::{Compression, Dedup, Memory, Silent, build};
use mkimg_oci::SourceSpec;
use tempfile::TempDir;

/// Builds an image.
pub(crate) fn build_image(source: &SourceSpec, image: &Path) {
    let options = mkimg_mkfs::Options {
        platform: None,
        name: None,
        epoch: 0,
        compression: Compression::None,
        dedup: Dedup::Files,
        min_kernel: Compression::None.min_kernel(),
        optimize_for: None,
        fec_roots: 0,
        threads: NonZeroUsize::MIN,
        memory: Memory::MIN,
        scratch: true,
    };
    build(source, image, &options, &Silent).unwrap();
}

/// An image of a directory, in memory.
pub(crate) fn image_of(dir: &Path) -> Vec<u8> {
    image_from(&SourceSpec::Dir { path: dir.to_owned() })
}

/// An image of a tar archive, in memory.
pub(crate) fn image_of_tar(tar: &Path) -> Vec<u8> {
    image_from(&SourceSpec::Tar { path: tar.to_owned() })
}

fn image_from(source: &SourceSpec) -> Vec<u8> {
    let place = TempDir::new().unwrap();
    let path = place.path().join("image");
    build_image(source, &path);
    std::fs::read(path).unwrap()
}

/// Extracts with every digest checked.
pub(crate) fn extract_sealed(image: &[u8], target: &Path, options: &Options<'_>) -> Result<Summary, Error> {
    let seal = Seal::open(image.to_vec(), &Header::read(image).unwrap()).unwrap();
    let fs = FileSystem::open(image.to_vec()).unwrap();
    extract(&fs, Some(&sealed(&seal)), target, options)
}

/// Bytes at `offset` replaced.
pub(crate) fn patch(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let at = usize::try_from(offset).unwrap();
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Where the only occurrence of `needle` is.
pub(crate) fn find(image: &[u8], needle: &[u8]) -> u64 {
    let mut places = image.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    let (at, _) = places.next().expect("the bytes are in the image");
    assert!(places.next().is_none(), "the bytes are in the image more than once");
    at as u64
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the test must be left out; says so.
pub(crate) fn skip_unless(condition: bool, reason: &str) -> bool {
    if !condition {
        println!("skipped: {reason}");
    }
    !condition
}

/// Image for a child, where the child finds it.
const CHILD_IMAGE: &str = "MKIMG_EXTRACT_CHILD_IMAGE";

/// The image that the parent left, if this is a child.
pub(crate) fn child_image() -> Option<Vec<u8>> {
    std::env::var_os(CHILD_IMAGE).map(|path| std::fs::read(path).unwrap())
}

/// Runs one test of this binary again under a wrapping command.
pub(crate) fn run_in_child(wrapper: &[&str], test: &str, image: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    rustix::fs::fchmod(file.as_file(), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    // A copy, because the wrapper may take the right to look into the build directory away.
    let place = TempDir::new().unwrap();
    rustix::fs::chmod(place.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let binary: PathBuf = place.path().join("test");
    // By another process: a child that another test forks in the same moment would inherit our descriptor, and a file
    // that is open for writing cannot be executed.
    run(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&binary));
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(&binary)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD_IMAGE, file.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "the child ran no test: {text}");
}

/// Whether a command can be run at all.
pub(crate) fn has_tool(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file with some content.
pub(crate) fn write(path: &Path, content: &[u8]) {
    File::create_new(path).unwrap().write_all(content).unwrap();
}
