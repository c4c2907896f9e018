//! Real root file systems: every tool that can look into the image must see the same tree, and the same source must
//! always give the same bytes.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::audit;
use mkimg_tests::command::{self, mkimg, mkimg_path};
use mkimg_tests::images::{self, Real};
use mkimg_tests::listing::Listing;
use mkimg_tests::mount::{Exclusive, Mounted, loops_behind};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, require, scratch, sha256_of};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What a test works on: the image file, made once per test program, and where it came from.
struct Subject {
    name: &'static str,
    source: String,
    /// The layout that umoci unpacks; the archive and zstd forms have a gzip twin.
    reference: PathBuf,
    image: PathBuf,
}

impl Subject {
    /// Builds the image of a source below cargo's directory for temporary files.
    fn new(name: &'static str, source: String, reference: PathBuf) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("roots");
        std::fs::create_dir_all(&dir).unwrap();
        let image = dir.join(format!("{name}.mkimg"));
        let _ = mkimg(args!["build", source, "-o", image]).ok();
        Self { name, source, reference, image }
    }

    fn real(name: &'static str) -> Result<Self, String> {
        let Real { source, reference, .. } = images::real_one(name)?;
        Ok(Self::new(name, source, reference))
    }

    fn sample() -> Result<Self, String> {
        let source = images::sample();
        let reference = PathBuf::from(source.trim_start_matches("oci:"));
        Ok(Self::new("sample", source, reference))
    }

    fn synthetic() -> Result<Self, String> {
        let layout = Path::new(env!("CARGO_TARGET_TMPDIR")).join("roots/synthetic.oci");
        let _ = std::fs::remove_dir_all(&layout);
        images::one_of_everything(&layout);
        Ok(Self::new("synthetic", format!("oci:{}", layout.display()), layout))
    }
}

macro_rules! subjects {
    ($($name:ident: $make:expr;)+) => {$(
        mod $name {
            use super::*;

            /// The image, or the reason why it cannot be made here.
            fn subject() -> Option<&'static Subject> {
                static MADE: OnceLock<Result<Subject, String>> = OnceLock::new();
                MADE.get_or_init(|| $make).as_ref().map_err(|reason| skipped(reason)).ok()
            }

            #[test]
            fn same_bytes_whatever_the_circumstances() {
                if let Some(subject) = subject() { super::same_bytes(subject); }
            }

            #[test]
            fn veritysetup_accepts_the_tree() {
                require!(Need::Tool("veritysetup"));
                if let Some(subject) = subject() { super::veritysetup(subject); }
            }

            #[test]
            fn fsck_erofs_has_no_complaint() {
                require!(Need::Tool("fsck.erofs"));
                if let Some(subject) = subject() { super::fsck(subject); }
            }

            #[test]
            fn root_every_view_shows_the_same_tree() {
                require!(Need::Root, Need::Tool("umoci"), Need::FileSystem("erofs"), Need::Loop);
                if let Some(subject) = subject() { super::views(subject); }
            }

            #[test]
            fn root_every_compression_shows_the_same_tree() {
                require!(Need::Root, Need::FileSystem("erofs"), Need::Loop);
                if let Some(subject) = subject() { super::compressions(subject); }
            }

            #[test]
            fn verify_passes_and_names_the_damaged_file() {
                if let Some(subject) = subject() { super::damage(subject); }
            }
        }
    )+};
}

subjects! {
    debian: Subject::real("debian");
    python: Subject::real("python");
    tiny: Subject::real("tiny");
    tiny_archive: Subject::real("tiny-archive");
    sample: Subject::sample();
    synthetic: Subject::synthetic();
}

fn same_bytes(subject: &Subject) {
    let wanted = sha256_of(&subject.image);
    let dir = scratch();
    let out = dir.path().join("again.mkimg");
    for options in [&[][..], &["--threads", "1"], &["--threads", "2"], &["--threads", "4"]] {
        let _ = mkimg(args!["build", subject.source, "-o", out]).args(options).ok();
        assert_eq!(sha256_of(&out), wanted, "{}: built again with {options:?}", subject.name);
    }
    // Another umask, time zone, locale, working directory, and clock setting for tools that obey it.
    let script = r#"umask 077; exec "$0" build "$1" -o "$2""#;
    let _ = command::tool("sh", args!["-c", script, mkimg_path(), subject.source, out])
        .current_dir("/")
        .env("TZ", "Pacific/Chatham")
        .env("LC_ALL", "C")
        .env("SOURCE_DATE_EPOCH", "12345")
        .ok();
    assert_eq!(sha256_of(&out), wanted, "{}: built in another environment", subject.name);
}

fn veritysetup(subject: &Subject) {
    let inspection = mkimg(args!["inspect", "--json", subject.image]).ok().json();
    let root_hash = inspection["verity"]["root_hash"].as_str().expect("verity.root_hash");
    let offset = inspection["verity"]["hash_offset"].as_u64().expect("verity.hash_offset");
    let _ = command::tool("veritysetup", ["verify"])
        .args(args![subject.image, subject.image, root_hash, format!("--hash-offset={offset}")])
        .ok();
}

/// fsck.erofs exits with 0 on some errors that it prints, so its words count and not its exit status alone.
fn fsck(subject: &Subject) {
    let version = command::tool("fsck.erofs", ["--version"]).ok().everything();
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = number.unwrap_or("0").split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < (1, 8) {
        skipped(&format!("fsck.erofs {version:?} is older than 1.8 (tests/setup.sh brings a newer one)"));
        return;
    }
    let done = command::tool("fsck.erofs", args!["-d3", subject.image]).ok();
    let complaints: Vec<String> = done
        .everything()
        .lines()
        .filter(|line| !line.contains("No errors found"))
        .filter(|line| {
            let line = line.to_lowercase();
            ["<e>", "<w>", "error", "fail", "corrupt", "invalid", "mismatch", "unsupported", "bogus"]
                .iter()
                .any(|word| line.contains(word))
        })
        .map(str::to_owned)
        .collect();
    assert!(complaints.is_empty(), "{}: {complaints:#?}", subject.name);
    assert!(done.everything().contains("No errors found"), "{}: {}", subject.name, done.everything());
}

/// umoci against `mkimg extract`, the kernel over a loop device, and `mkimg mount`.
fn views(subject: &Subject) {
    let _one_at_a_time = Exclusive::take();
    let dir = scratch();
    let (bundle, extracted) = (dir.path().join("bundle"), dir.path().join("extracted"));
    let (kernel, ours) = (dir.path().join("kernel"), dir.path().join("ours"));
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();

    let _ = mkimg(args!["extract", subject.image, extracted]).ok();
    let extracted = Listing::of(&extracted);
    let mounted = Mounted::erofs(&subject.image, &kernel);
    Listing::of(mounted.path()).assert_same(&extracted, "kernel mount (left) and mkimg extract (right)");
    drop(mounted);

    std::fs::create_dir(&ours).unwrap();
    let mounted = Mounted::adopt(&ours);
    let _ = mkimg(args!["mount", subject.image, ours]).ok();
    Listing::of(mounted.path()).assert_same(&extracted, "mkimg mount (left) and mkimg extract (right)");
    let _ = mkimg(args!["umount", ours]).ok();
    drop(mounted);
    assert_eq!(loops_behind(&subject.image), Vec::<String>::new(), "loop devices left behind");

    let mut source = std::ffi::OsString::from(&subject.reference);
    source.push(":latest");
    let _ = command::tool("umoci", args!["unpack", "--image", source, bundle]).ok();
    let mut unpacked = Listing::of(&bundle.join("rootfs"));

    // umoci 0.4 makes a parent directory that no layer describes with the time of the unpacking, and touches the
    // directory above it. That is an accident of unpacking in place: no layer says so, and it differs from run to
    // run. In mkimg such a parent has time 0, and the directory above keeps what its layer said. Both facts were
    // checked against the tar headers. Only these directories, and only their times, are excused.
    let invented: &[&str] = match subject.name {
        "tiny" | "tiny-archive" => &["/usr", "/usr/libexec"],
        "synthetic" => &["/", "/var", "/var/lib", "/var/many", "/dev"],
        _ => &[],
    };
    for path in invented {
        let ours = &extracted.entries[path.as_bytes()];
        let theirs =
            unpacked.entries.get_mut(path.as_bytes()).unwrap_or_else(|| panic!("umoci has no {path}"));
        if u64::try_from(theirs.mtime.0).is_ok_and(|time| time >= started) {
            assert_eq!(ours.kind, "dir", "{path}");
            assert!(ours.mtime.0 < i64::try_from(started).unwrap(), "{path}: mkimg invented a time as well");
            theirs.mtime = ours.mtime;
        }
    }
    if subject.name == "synthetic" {
        // umoci passes times through 64-bit nanoseconds, which end in 2262.
        let far = &extracted.entries[b"/etc/far".as_slice()];
        assert_eq!(far.mtime, (10_413_792_000, 250_000_000));
        unpacked.entries.get_mut(b"/etc/far".as_slice()).unwrap().mtime = far.mtime;
    }
    unpacked.assert_same(&extracted, "umoci unpack (left) and mkimg extract (right)");
}

/// Every compression, and shared blocks, against the plain image: the kernel, `mkimg extract`, `verify`, and what a flipped bit
/// of data is said to be.
fn compressions(subject: &Subject) {
    let _one_at_a_time = Exclusive::take();
    let dir = scratch();
    let (image, extracted, kernel) =
        (dir.path().join("image"), dir.path().join("extracted"), dir.path().join("kernel"));
    let _ = mkimg(args!["extract", subject.image, extracted]).ok();
    let wanted = Listing::of(&extracted);
    for options in [
        &["--dedup", "blocks"][..],
        &["--compress", "lz4"],
        &["--compress", "lz4", "--min-kernel", "6.1"],
        &["--compress", "lz4hc:3"],
        &["--compress", "deflate:1"],
        &["--compress", "zstd"],
        &["--compress", "zstd", "--min-kernel", "6.15"],
        &["--compress", "lz4", "--min-kernel", "6.15"],
    ] {
        let name = format!("{}: {}", subject.name, options.join(" "));
        let _ = mkimg(args!["build", subject.source, "-o", image]).args(options).ok();
        let _ = mkimg(args!["verify", image]).ok();
        // A detached seal has no data to take content out of.
        let seal = dir.path().join("seal");
        let _ = mkimg(args!["seal", image, "-o", seal]).ok();
        let _ = mkimg(args!["verify", seal]).ok();
        std::fs::remove_file(&seal).unwrap();
        // `verify` has read all content with the same reader; writing all of it once more would show no more.
        if !matches!(subject.name, "debian" | "python") {
            std::fs::remove_dir_all(&extracted).unwrap();
            let _ = mkimg(args!["extract", image, extracted]).ok();
            Listing::of(&extracted)
                .assert_same(&wanted, &format!("{name}: compressed (left) and not (right)"));
        }
        if options.contains(&"6.15") && images::kernel() < (6, 15) {
            skipped(&format!("{name}: the kernel is older than 6.15"));
        } else {
            let mounted = Mounted::erofs(&image, &kernel);
            Listing::of(mounted.path()).assert_same(&wanted, &format!("{name}: kernel (left)"));
            drop(mounted);
            std::fs::remove_dir(&kernel).unwrap();
        }
        let mut bytes = std::fs::read(&image).unwrap();
        let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
        let data = inspection["areas"][1]["length"].as_u64().unwrap();
        bytes[4096 + usize::try_from(data / 2).unwrap()] ^= 0x10;
        std::fs::write(&image, &bytes).unwrap();
        let report = mkimg(args!["verify", "--json", image]).output().code(1).json_lines();
        let found = audit::findings(&report);
        let named = found.iter().any(|finding| finding.region == "data" && !finding.paths.is_empty());
        assert!(named, "{name}: damaged data without a path: {found:?}");
    }
}

/// A clean image verifies; one flipped bit in a file's data is reported with the file's path.
fn damage(subject: &Subject) {
    let _ = mkimg(args!["verify", subject.image]).ok();

    let dir = scratch();
    let image = dir.path().join("plain.mkimg");
    let _ = mkimg(args!["build", subject.source, "--compress", "none", "-o", image]).ok();
    let listed = mkimg(args!["ls", "--json", image]).ok().json_lines();
    // Some file of several blocks with content of its own; its first block is then found in the image.
    let mut count = std::collections::HashMap::new();
    for line in &listed {
        *count.entry(line["sha256"].to_string()).or_insert(0) += 1;
    }
    let victim = listed
        .iter()
        .filter(|line| {
            line["type"] == "file" && line["size"].as_u64() > Some(4096) && line["path"].is_string()
        })
        .find(|line| count[&line["sha256"].to_string()] == 1)
        .expect("a file of more than one block");
    let path = victim["path"].as_str().unwrap();
    let content = mkimg(args!["cat", image, path]).ok().stdout;
    let mut bytes = std::fs::read(&image).unwrap();
    let block = &content[..4096];
    let place = bytes.chunks(4096).position(|chunk| chunk == block).expect("the file's first block") * 4096;
    bytes[place + 1234] ^= 0x10;
    std::fs::write(&image, &bytes).unwrap();

    let table = mkimg(args!["verify", image]).output().code(1);
    assert!(table.everything().contains(path), "{path} is not named: {}", table.everything());
    let report = mkimg(args!["verify", "--json", image]).output().code(1).json_lines();
    let found = audit::findings(&report);
    let named =
        found.iter().any(|finding| finding.paths.iter().any(|p| p == path) && finding.region == "data");
    assert!(named, "{path} is not reported as damaged data: {found:?}");
}
