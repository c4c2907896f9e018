//! The inputs of the tests: real root file systems made by `images.sh`, the sample of the repository, and a small
//! image with one of everything.

use crate::layout::{Attr, Layout};
use std::path::{Path, PathBuf};

/// A real image.
#[derive(Debug, Clone)]
pub struct Real {
    /// Its name in `images.sh`.
    pub name: &'static str,
    /// What `mkimg build` is given.
    pub source: String,
    /// The same image as a layout that umoci can unpack.
    pub reference: PathBuf,
}

/// The images of `images.sh`, from `MKIMG_IMAGES` or `target/images`. `Err` holds the reason why there are none.
pub fn real() -> Result<Vec<Real>, String> {
    let dir = std::env::var_os("MKIMG_IMAGES")
        .map_or_else(|| crate::project().join("target/images"), PathBuf::from);
    let image = |name, kind: &str, file: &str, reference: &str| Real {
        name,
        source: format!("{kind}:{}", dir.join(file).display()),
        reference: dir.join(reference),
    };
    let all = vec![
        image("debian", "oci", "debian", "debian"),
        image("python", "oci", "python", "python"),
        image("tiny", "oci", "tiny", "tiny-gzip"),
        image("tiny-archive", "docker-archive", "tiny.tar", "tiny-gzip"),
    ];
    for image in &all {
        if !image.reference.join("index.json").is_file() {
            return Err(format!("no image {} (tests/images.sh makes it)", image.name));
        }
    }
    Ok(all)
}

/// One image of [`real`].
pub fn real_one(name: &str) -> Result<Real, String> {
    real()?.into_iter().find(|image| image.name == name).ok_or_else(|| format!("no image called {name}"))
}

/// The sample layout of the repository, as a source.
pub fn sample() -> String {
    format!("oci:{}", Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/image").display())
}

/// The path of the secret that the sample deletes in its second layer.
pub const SAMPLE_SECRET: &str = "/etc/secret.key";

/// Writes a small image with one of everything into `dir`.
pub fn one_of_everything(dir: &Path) {
    let mut layout = Layout::create(dir);
    let mut layer = layout.layer(Some(6));
    layer.dir("bin", &Attr::mode(0o755));
    layer.dir("etc", &Attr::mode(0o755).xattr("user.dir", b"on a directory"));
    layer.dir("var/lib/state", &Attr::mode(0o1777));
    layer.file("bin/tool", &Attr::mode(0o4755), &pattern(20_000, 1));
    layer.file("etc/empty", &Attr::default(), b"");
    layer.file("etc/small", &Attr::mode(0o600), b"a few bytes\n");
    layer.file("etc/block", &Attr::default(), &pattern(4096, 2));
    layer.file("etc/gone", &Attr::default(), b"never in the image: 9f8b1c\n");
    layer.file("var/lib/state/old", &Attr::default(), b"hidden");
    layer.sparse(
        "var/sparse",
        &Attr::default(),
        70_000,
        &[(8192, &pattern(4096, 3)), (69_000, &pattern(1000, 4))],
    );
    layer.finish();
    let mut layer = layout.layer(None);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    layer.file("bin/server", &Attr::mode(0o755).xattr("security.capability", &capability), &pattern(5000, 5));
    layer.hardlink("bin/tool2", "bin/tool");
    layer.symlink("bin/sh", "tool");
    layer.symlink("etc/long", &"../".repeat(500));
    layer.device("dev/null", b'3', &Attr::mode(0o666), 1, 3);
    layer.device("dev/disk", b'4', &Attr::mode(0o660), 259, 70_000);
    layer.fifo("dev/pipe", &Attr::default());
    layer.whiteout("etc/gone");
    layer.opaque("var/lib/state");
    layer.file(
        "var/lib/state/new",
        &Attr { uid: 4_000_000_000, mtime: "-1.5".to_owned(), ..Attr::default() },
        b"new",
    );
    layer.file("etc/far", &Attr { mtime: "10413792000.25".to_owned(), ..Attr::default() }, b"the year 2300");
    for i in 0..40 {
        layer.file(
            &format!("var/many/file-{i:03}"),
            &Attr::default().xattr("user.shared", b"shared"),
            &[b'x'; 30],
        );
    }
    layer.finish();
    layout.finish();
}

/// `n` bytes that do not compress, the same for the same `seed`.
pub fn pattern(n: usize, seed: u64) -> Vec<u8> {
    let mut random = crate::Seeded::new(seed);
    std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(n).collect()
}

/// Version of the running kernel, as (major, minor).
pub fn kernel() -> (u32, u32) {
    kernel_of(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

/// Version of a kernel by its release, as (major, minor).
pub fn kernel_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
