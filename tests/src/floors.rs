//! Kernel floors: which options and files give which features, and the oldest kernel that mounts an image with them.
//!
//! [`STEPS`] is the table that `docs/kernels.md` shows. What the program makes is compared with it, and kernels at and
//! below the floors say whether it is true.

use crate::command::mkimg;
use crate::images::pattern;
use crate::layout::{Attr, Layer, Layout};
use crate::vm::Tree;
use crate::{Seeded, args};
use std::fmt::{self, Write as _};
use std::path::Path;

/// A kernel release, as (major, minor).
pub type Release = (u32, u32);

/// What is in an image, besides directories, links, devices, xattrs and large files without holes, which are in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// A sparse file.
    pub holes: bool,
    /// Small files, and files with equal content.
    pub small: bool,
}

/// All kinds of content that decide about features, in the order of [`Step::incompat`].
pub const FILES: [Files; 4] = [
    Files { holes: false, small: false },
    Files { holes: true, small: false },
    Files { holes: false, small: true },
    Files { holes: true, small: true },
];

/// What the builder does from one kernel on.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Value of `--compress`.
    pub compress: &'static str,
    /// Value of `--dedup`.
    pub dedup: &'static str,
    /// The first value of `--min-kernel` for which it is so; the step before ends there.
    pub from: Release,
    /// `available_compr_algs` of the superblock.
    pub algorithms: u16,
    /// `feature_incompat` of the superblock, for each of [`FILES`].
    pub incompat: [u32; 4],
}

/// Every way in which the builder decides about features.
pub static STEPS: [Step; 11] = [
    step("none", "files", (5, 4), 0, [0x00, 0x00, 0x00, 0x00]),
    step("none", "files", (5, 15), 0, [0x00, 0x04, 0x00, 0x04]),
    step("none", "blocks", (5, 15), 0, [0x04, 0x04, 0x04, 0x04]),
    step("lz4", "files", (5, 13), 1, [0x03, 0x03, 0x03, 0x03]),
    step("lz4", "files", (5, 15), 1, [0x03, 0x07, 0x03, 0x07]),
    step("lz4", "files", (6, 1), 1, [0x03, 0x07, 0x23, 0x27]),
    step("lz4", "files", (6, 15), 1, [0x83, 0x87, 0xa3, 0xa7]),
    step("deflate", "files", (6, 6), 4, [0x03, 0x07, 0x23, 0x27]),
    step("deflate", "files", (6, 15), 4, [0x83, 0x87, 0xa3, 0xa7]),
    step("zstd", "files", (6, 10), 8, [0x03, 0x07, 0x23, 0x27]),
    step("zstd", "files", (6, 15), 8, [0x83, 0x87, 0xa3, 0xa7]),
];

const fn step(
    compress: &'static str,
    dedup: &'static str,
    from: Release,
    algorithms: u16,
    incompat: [u32; 4],
) -> Step {
    Step { compress, dedup, from, algorithms, incompat }
}

/// The first kernel with each feature: bits of `feature_incompat` or of `available_compr_algs`.
///
/// From the history of `fs/erofs` in Linux. Where two features share a bit, this is the later one.
const INCOMPAT_SINCE: [(u32, Release); 4] = [
    (0x03, (5, 13)), // LZ4_0PADDING alone is of 5.4; COMPR_CFGS
    (0x04, (5, 15)), // CHUNKED_FILE
    (0x20, (6, 1)),  // FRAGMENTS, DEDUPE
    (0x80, (6, 15)), // 48BIT
];
const ALGORITHM_SINCE: [(u16, Release); 3] = [(1, (5, 4)), (4, (6, 6)), (8, (6, 10))];

/// The first kernel that mounts an image with these bits.
pub fn floor(incompat: u32, algorithms: u16) -> Release {
    let known = INCOMPAT_SINCE.iter().fold(0, |bits, (bit, _)| bits | bit);
    assert_eq!(incompat & !known, 0, "bits that are not in the table");
    let incompat = INCOMPAT_SINCE.iter().filter(|(bits, _)| incompat & bits != 0).map(|(_, since)| *since);
    let algorithm = ALGORITHM_SINCE.iter().filter(|(bit, _)| algorithms & bit != 0).map(|(_, since)| *since);
    // EROFS is part of Linux since 5.4.
    incompat.chain(algorithm).fold((5, 4), Release::max)
}

/// The step that decides for these options; `None` where they are refused.
pub fn step_for(compress: &str, dedup: &str, kernel: Release) -> Option<&'static Step> {
    STEPS.iter().rfind(|step| step.compress == compress && step.dedup == dedup && step.from <= kernel)
}

/// The first kernel that reads images with this `--compress`.
pub fn first(compress: &str) -> Release {
    STEPS.iter().find(|step| step.compress == compress).expect("a compression of the table").from
}

/// An image: a step and what is in it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How it is built.
    pub step: &'static Step,
    /// What is in it.
    pub files: Files,
    /// `feature_incompat`.
    pub incompat: u32,
}

/// All images, in the order of the page.
pub fn cases() -> impl Iterator<Item = Case> {
    STEPS.iter().flat_map(|step| FILES.map(|files| Case::of(step, files)))
}

/// A release as it is written.
pub fn shown((major, minor): Release) -> String {
    format!("{major}.{minor}")
}

impl Case {
    /// The image of a step with these files.
    pub fn of(step: &'static Step, files: Files) -> Self {
        let place = FILES.iter().position(|other| *other == files).expect("one of the four");
        Self { step, files, incompat: step.incompat[place] }
    }

    /// Builds it from the layout `source`, for kernels from the start of the step on.
    fn build(&self, source: &Path, image: &Path) {
        let Step { compress, dedup, from, .. } = self.step;
        let source = format!("oci:{}", source.display());
        let options = args!["--compress", compress, "--dedup", dedup, "--min-kernel", shown(*from)];
        let _ = mkimg(args!["build", source, "-o", image]).args(options).ok();
    }

    /// Panics unless an image has these features, `verify` takes them, and `inspect` names this floor.
    pub fn check(&self, image: &Path) {
        let bytes = std::fs::read(image).unwrap();
        let incompat = u32::from_le_bytes(*bytes[1024 + 0x50..].first_chunk().unwrap());
        let algorithms = u16::from_le_bytes(*bytes[1024 + 0x54..].first_chunk().unwrap());
        let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
        let wanted = (self.incompat, self.step.algorithms, &*shown(self.floor()));
        let floor = inspection["min_kernel"].as_str().unwrap();
        assert_eq!((incompat, algorithms, floor), wanted, "{} for {}", self.step, shown(self.step.from));
        let _ = mkimg(args!["verify", image]).ok();
    }

    /// The first kernel that mounts it.
    pub fn floor(&self) -> Release {
        floor(self.incompat, self.step.algorithms)
    }

    /// The line of `docs/kernels.md`, with what each of `kernels` does.
    pub fn line(&self, kernels: &[Release]) -> String {
        let (step, floor) = (self.step, self.floor());
        let cells: String =
            kernels.iter().map(|kernel| if *kernel < floor { " refused |" } else { " read |" }).collect();
        format!(
            "| `{step}` | {} | {} | {:#04x} | {} | {} |{cells}",
            shown(step.from),
            self.files,
            self.incompat,
            step.algorithms,
            shown(floor)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.compress)?;
        if self.dedup == "blocks" { out.write_str(" --dedup blocks") } else { Ok(()) }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match (self.holes, self.small) {
            (false, false) => "large",
            (true, false) => "large, holes",
            (false, true) => "large, small",
            (true, true) => "all",
        })
    }
}

/// Shorter files are compressed together: this is the length of a piece of compression.
const LARGE: usize = 1 << 18;
const BLOCK: usize = 4096;

/// A file with a bit of everything: its first piece shrinks, the second does not; of its blocks, two runs are those of
/// another file, with a block between that is not.
const MIXED: &str = "large/mixed";

/// Places in [`MIXED`] that a guest reads before all else: in the second piece, from the first to the second, and around
/// the block between the runs.
const PARTS: [usize; 3] = [300_001, LARGE - 4000, 83_000];

/// Bytes at each of [`PARTS`].
const PART_LEN: usize = 9000;

/// Content of [`MIXED`].
fn mixed() -> Vec<u8> {
    let other = plain();
    let runs = [&other[9 * BLOCK..30 * BLOCK], &text(BLOCK, 2), &other[31 * BLOCK..64 * BLOCK]].concat();
    [&runs[..], &text(LARGE - runs.len(), 3), &pattern(LARGE / 2 + 100, 1)].concat()
}

/// A single piece, longer than most.
fn plain() -> Vec<u8> {
    text(LARGE + 20_000, 1)
}

/// Writes an OCI layout with `files` into `dir`.
pub fn write_source(dir: &Path, files: Files) {
    let mut layout = Layout::create(dir);
    let mut layer = layout.layer(None);
    furniture(&mut layer);
    layer.file("large/plain", &Attr::default().xattr("user.shared", b"shared"), &plain());
    layer.hardlink("large/link", "large/plain");
    layer.file(MIXED, &Attr::default(), &mixed());
    layer.file("large/noise", &Attr::mode(0o600), &pattern(LARGE + 3, 3));
    if files.holes {
        // Runs of other files in another order, a hole between, and a tail of its own.
        let (plain, mixed) = (plain(), mixed());
        let pieces = [
            (0, &mixed[70 * BLOCK..90 * BLOCK]),
            (40 * BLOCK as u64, &plain[..20 * BLOCK]),
            (70 * BLOCK as u64, &mixed[..2 * BLOCK + 1000]),
        ];
        layer.sparse("holes/disk", &Attr::default(), 72 * BLOCK as u64 + 1000, &pieces);
        layer.sparse("holes/tail", &Attr::default(), 70_000, &[(8192, &pattern(5000, 4))]);
    }
    if files.small {
        let twin = [b"all of these are equal, ".repeat(LARGE / 24 + 1), text(LARGE / 2, 6)].concat();
        for name in ["a", "b", "c"] {
            layer.file(&format!("twins/{name}"), &Attr::default(), &twin);
            layer.file(&format!("twins/small-{name}"), &Attr::default(), &text(50_000, 7));
        }
        for number in 1..25 {
            let content = text(number * 331 + 9000 * (number % 4), 10 + number as u64);
            let uid = if number == 7 { 4_000_000_000 } else { 0 };
            layer.file(&format!("small/{number:02}"), &Attr { uid, ..Attr::default() }, &content);
        }
    }
    layer.finish();
    layout.finish();
}

/// What needs no feature: both forms of inodes, directories of one and of several blocks, links, devices, xattrs.
fn furniture(layer: &mut Layer<'_>) {
    layer.dir("etc", &Attr::mode(0o1777).xattr("user.dir", b"on a directory"));
    layer.file("etc/empty", &Attr::default().xattr("user.shared", b"shared"), b"");
    layer.file("etc/far", &Attr { mtime: "10413792000.25".to_owned(), ..Attr::default() }, b"");
    layer.file("etc/early", &Attr { mtime: "-1.5".to_owned(), ..Attr::default() }, b"");
    layer.symlink("etc/short", "empty");
    layer.symlink("etc/long", &"../".repeat(500));
    layer.device("dev/null", b'3', &Attr::mode(0o666), 1, 3);
    layer.device("dev/disk", b'4', &Attr::mode(0o660), 259, 70_000);
    layer.fifo("dev/pipe", &Attr::default());
    for number in 0..150 {
        layer.hardlink(&format!("etc/many/a-name-of-some-length-{number:03}"), "etc/empty");
    }
}

/// `length` bytes that shrink to about a third, the same for the same `seed`.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        text.extend_from_slice(format!("word-{} ", random.below(5000)).as_bytes());
    }
    text.truncate(length);
    text
}

/// Fills the directory `sets` of a guest, as `vm/helpers.sh` says, and names its images with their floors.
pub fn fill(sets: &Path, scratch: &Path) -> Vec<(String, Release)> {
    let (mut images, mut list) = (Vec::new(), String::new());
    for files in FILES {
        let name = files.to_string().replace(", ", "-");
        let (source, dir) = (scratch.join(&name), sets.join(&name));
        write_source(&source, files);
        std::fs::create_dir_all(&dir).unwrap();
        let mut tree = None;
        for case in cases().filter(|case| case.files == files) {
            let Step { compress, dedup, from, .. } = case.step;
            let file = format!("{name}/{compress}-{dedup}-{}", shown(*from));
            let image = sets.join(&file);
            case.build(&source, &image);
            case.check(&image);
            let found = Tree::of(&image);
            assert!(tree.is_none_or(|tree| tree == found), "{file} has another tree than the one before");
            tree = Some(found);
            let (major, minor) = case.floor();
            writeln!(list, "{major} {minor} {file}").unwrap();
            images.push((file, case.floor()));
        }
        tree.expect("a step").write(&dir);
    }
    std::fs::write(sets.join("list"), list).unwrap();
    let mixed = mixed();
    for at in PARTS {
        std::fs::write(sets.join(format!("part-{at}")), &mixed[at..][..PART_LEN]).unwrap();
    }
    images
}
