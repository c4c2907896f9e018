//! mkimg on stock kernels with device-mapper and fs-verity, in virtual machines.
//!
//! Each test boots one kernel and asks that every step in `vm/guest` passes, or those in `vm/systemd` with a systemd. What a step finds in an image is compared
//! with what `mkimg ls` lists on this machine. The step `floors` proves what `docs/kernels.md` says of these kernels; that
//! page is compared with what the builder makes here, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "vm/systemd.rs"]
mod systemd;

use mkimg_tests::command::{mkimg, mkimg_path, tool as run};
use mkimg_tests::floors::{self, Release, shown};
use mkimg_tests::mount::{Exclusive, Mounted};
use mkimg_tests::need::{Need, skipped, tool};
use mkimg_tests::signer::Signer;
use mkimg_tests::vm::{Machine, Outcome, Report, Tree, steps};
use mkimg_tests::{args, images, project, require, scratch, sha256_of};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A file of `images::one_of_everything` that fills its blocks and shares them with no other.
const VICTIM: &str = "etc/block";

/// Writes the image and what the steps must know of it; `vm/helpers.sh` says how it is used.
fn fill_disk(disk: &Path, scratch: &Path) {
    let (source, image) = (scratch.join("oci"), disk.join("image.mkimg"));
    images::one_of_everything(&source);
    let built = mkimg(args![
        "build",
        "--compress",
        "none",
        "--json",
        format!("oci:{}", source.display()),
        "-o",
        image
    ])
    .ok()
    .json();
    Tree::of(&image).write(disk);
    std::fs::write(disk.join("small"), mkimg(args!["cat", image, "/etc/small"]).ok().stdout).unwrap();

    let content = mkimg(args!["cat", image, format!("/{VICTIM}")]).ok().stdout;
    let bytes = std::fs::read(&image).unwrap();
    let places: Vec<usize> =
        (0..bytes.len()).step_by(512).filter(|&at| bytes[at..].starts_with(&content)).collect();
    let [start] = places[..] else { panic!("{VICTIM} lies at {places:?}") };
    let offset = start + content.len() / 2;
    // The same with parity; file data stands where it stood.
    let with_parity = disk.join("fec.mkimg");
    let source = format!("oci:{}", source.display());
    let parity =
        mkimg(args!["build", "--compress", "none", "--json", source, "--fec", "2", "-o", with_parity])
            .ok()
            .json();
    assert!(std::fs::read(&with_parity).unwrap()[start..].starts_with(&content));
    sign(disk, &image, scratch);
    let facts = [
        foreign(disk, scratch),
        format!("DATA_BLOCKS={}", built["data_blocks"]),
        format!("ROOT_HASH={}", built["root_hash"].as_str().unwrap()),
        format!("FEC_ROOT_HASH={}", parity["root_hash"].as_str().unwrap()),
        format!("VICTIM={VICTIM}"),
        format!("DAMAGE_OFFSET={offset}"),
        format!("DAMAGE_BYTE='\\{:03o}'", bytes[offset] ^ 1),
    ];
    std::fs::write(disk.join("facts"), facts.join("\n") + "\n").unwrap();
}

/// Puts signed copies of the image on the disk; `vm/helpers.sh` names them.
fn sign(disk: &Path, image: &Path, scratch: &Path) {
    for name in ["trusted", "stranger", "elliptic"] {
        let signer = match name {
            "elliptic" => Signer::elliptic(scratch, name),
            _ => Signer::new(scratch, name),
        };
        let signed = disk.join(format!("{name}.mkimg"));
        let _ = std::fs::copy(image, &signed).unwrap();
        let _ =
            mkimg(args!["sign", signed, "--key", signer.key, "--cert", signer.certificate, "--sidecar"]).ok();
        let _ = std::fs::copy(&signer.public, disk.join(format!("{name}.pub"))).unwrap();
        let _ = std::fs::copy(&signer.certificate, disk.join(format!("{name}.pem"))).unwrap();
        let der = args!["-out", disk.join(format!("{name}.der"))];
        let _ = run("openssl", args!["x509", "-outform", "DER", "-in", signer.certificate]).args(der).ok();
    }
    // By the trusted one, over another root hash.
    let other = scratch.join("other");
    std::fs::write(&other, "0".repeat(64)).unwrap();
    let form = ["-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256", "-outform", "DER"];
    let [key, certificate] = ["key", "pem"].map(|extension| scratch.join(format!("trusted.{extension}")));
    let _ = run("openssl", ["smime"])
        .args(form)
        .args(args!["-in", other, "-signer", certificate, "-inkey", key, "-out", disk.join("other.p7s")])
        .ok();
}

/// Puts an image of other tools on the disk, and says what the step must know of it.
fn foreign(disk: &Path, scratch: &Path) -> String {
    let (tree, image) = (scratch.join("foreign"), disk.join("foreign.erofs"));
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    let content: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut sums = String::new();
    for (name, bytes) in [("etc/numbers", &content[..]), ("etc/small", b"small")] {
        std::fs::write(tree.join(name), bytes).unwrap();
        writeln!(sums, "{}  {name}", sha256_of(&tree.join(name))).unwrap();
    }
    std::fs::write(disk.join("foreign.sha256"), sums).unwrap();
    let _ = run("mkfs.erofs", args![image, tree]).ok();
    let bytes = std::fs::read(&image).unwrap();
    let start = bytes.windows(4096).position(|window| window == &content[..4096]).unwrap();
    let (salt, length) = ("5a".repeat(32), bytes.len());
    let options = [format!("--hash-offset={length}"), format!("--salt={salt}")];
    let said = run("veritysetup", args!["format", image, image]).args(options).ok().out();
    let root = said.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
    format!(
        "FOREIGN_ROOT_HASH={root}\nFOREIGN_HASH_OFFSET={length}\nFOREIGN_SALT={salt}\nFOREIGN_VICTIM=etc/numbers\nFOREIGN_DAMAGE_OFFSET={}\nFOREIGN_DAMAGE_BYTE='\\{:03o}'",
        start + 5000,
        bytes[start + 5000] ^ 1
    )
}

/// The kernels of `vm/setup.sh`, which are the last columns of the table in `docs/kernels.md`.
const KERNELS: [(&str, Release); 4] =
    [("5.10", (5, 10)), ("6.1", (6, 1)), ("6.12", (6, 12)), ("newest", (7, 3))];

#[test]
fn the_page_shows_every_feature_set() {
    let head = "| options | from | files | incompat | algorithms | floor |".to_owned();
    let head = KERNELS.iter().fold(head, |head, (name, _)| format!("{head} {name} |"));
    let releases = KERNELS.map(|(_, release)| release);
    let wanted: Vec<String> = floors::cases().map(|case| case.line(&releases)).collect();
    let page = std::fs::read_to_string(project().join("docs/kernels.md")).unwrap();
    let (_, table) = page.split_once(&head).unwrap_or_else(|| panic!("docs/kernels.md has no table {head}"));
    let found: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(found, wanted, "docs/kernels.md (left) has to have these lines:\n{}", wanted.join("\n"));
}

/// Around each kernel that decides about something: the features are those of its step, whatever else is asked for, or the
/// combination is refused.
#[test]
fn every_kernel_gets_the_features_of_its_step() {
    let dir = scratch();
    let (source, image, trace) = (dir.path().join("oci"), dir.path().join("image"), dir.path().join("trace"));
    let files = floors::FILES[3];
    floors::write_source(&source, files);
    std::fs::write(&trace, "/twins/b\n/large/mixed\n/etc\n").unwrap();
    let mut reached = BTreeSet::new();
    for (compress, algorithm) in
        [("none", "none"), ("lz4", "lz4"), ("lz4hc:3", "lz4"), ("deflate:1", "deflate"), ("zstd:1", "zstd")]
    {
        let first = floors::first(algorithm);
        let more = args!["--fec", "2", "--optimize-for", trace];
        for (dedup, more) in [("files", &[][..]), ("files", &more), ("blocks", &[])] {
            for asked in AROUND_STEPS {
                let kernel = shown(asked);
                let what = format!("--compress {compress} --dedup {dedup} --min-kernel {kernel} {more:?}");
                let build = mkimg(args!["build", "--json", format!("oci:{}", source.display()), "-o", image])
                    .args(args!["--compress", compress, "--dedup", dedup, "--min-kernel", kernel])
                    .args(more);
                let Some(step) = floors::step_for(algorithm, dedup, asked) else {
                    let reason = if asked < first {
                        format!("{compress} needs Linux {}, the image is for {kernel}", shown(first))
                    } else if compress == "none" {
                        format!("shared blocks need Linux 5.15, the image is for {kernel}")
                    } else {
                        format!("equal blocks can be shared in uncompressed images only, not with {compress}")
                    };
                    let said = build.output().code(2).err();
                    assert_eq!(said.lines().next(), Some(&*format!("error: {reason}")), "{what}");
                    assert!(!image.exists(), "{what}");
                    continue;
                };
                let built = build.ok().json();
                let case = floors::Case::of(step, files);
                case.check(&image);
                assert_eq!(built["min_kernel"], shown(case.floor()), "{what}");
                reached.insert((step.to_string(), step.from));
                std::fs::remove_file(&image).unwrap();
            }
        }
    }
    assert_eq!(reached.len(), floors::STEPS.len(), "{reached:?}");
}

/// The first kernel of each step, the last one before it, and one of the future.
const AROUND_STEPS: [Release; 14] = [
    (5, 4),
    (5, 12),
    (5, 13),
    (5, 14),
    (5, 15),
    (6, 0),
    (6, 1),
    (6, 5),
    (6, 6),
    (6, 9),
    (6, 10),
    (6, 14),
    (6, 15),
    (8, 0),
];

/// Every feature set, on the kernel of this machine.
#[test]
fn root_this_kernel_reads_what_the_floors_promise() {
    require!(Need::Root, Need::Loop, Need::FileSystem("erofs"));
    let _one_at_a_time = Exclusive::take();
    let (dir, sets) = (scratch(), scratch());
    let point = dir.path().join("mnt");
    for (file, floor) in floors::fill(sets.path(), dir.path()) {
        if images::kernel() < floor {
            skipped(&format!("{file}: the kernel is older than {}", shown(floor)));
            continue;
        }
        let mounted = Mounted::erofs(&sets.path().join(file), &point);
        let _ = mkimg(args!["verify", point]).ok();
        drop(mounted);
    }
}

/// The machine with a kernel, and the programs that steps call, unless something is missing.
fn machine(kernel: &str) -> Option<(Machine, Vec<(&'static str, PathBuf)>)> {
    let machine = match Machine::find(kernel) {
        Ok(machine) => machine,
        Err(reason) => {
            skipped(&reason);
            return None;
        }
    };
    let mut programs = vec![("mkimg", mkimg_path())];
    programs.extend(
        ["debugfs", "dmsetup", "fsverity", "keyctl", "losetup", "veritysetup"].map(|name| (name, tool(name))),
    );
    Some((machine, programs))
}

macro_rules! require_guest_programs {
    () => {
        require!(
            Need::Tool("busybox"),
            Need::Tool("mkfs.ext4"),
            Need::Tool("dmsetup"),
            Need::Tool("fsverity")
        );
        require!(Need::Tool("openssl"), Need::Tool("veritysetup"), Need::Tool("keyctl"));
        require!(Need::Tool("debugfs"), Need::Tool("losetup"), Need::Tool("mkfs.erofs"));
    };
}

/// Boots one of the kernels of `vm/setup.sh`, where these steps must pass.
fn steps_pass(kernel: &str, steps: &[String]) {
    require_guest_programs!();
    let Some((machine, programs)) = machine(kernel) else { return };
    let (dir, disk) = (scratch(), scratch());
    fill_disk(disk.path(), dir.path());
    let _ = floors::fill(&disk.path().join("sets"), dir.path());
    let report = machine.run("guest", steps, &programs, disk.path(), dir.path());
    let (_, wanted) = KERNELS.into_iter().find(|(name, _)| *name == kernel).unwrap();
    let found = images::kernel_of(&report.release);
    assert!(found == wanted || kernel == "newest" && found > wanted, "{} is no {kernel}", report.release);
    all_passed(&report, steps);
}

/// What ran are these steps, and none of them has failed.
fn all_passed(report: &Report, steps: &[String]) {
    println!("{}: {}", report.release, report.times);
    let ran: Vec<&String> = report.steps.iter().map(|(step, _)| step).collect();
    assert_eq!(ran, steps.iter().collect::<Vec<_>>(), "steps that ran\n{}", report.console);
    let mut failed = Vec::new();
    for (step, outcome) in &report.steps {
        match outcome {
            Outcome::Pass => {}
            Outcome::Skip(reason) => skipped(&format!("{step}: {reason}")),
            Outcome::Fail => failed.push(step),
        }
    }
    assert!(failed.is_empty(), "{}: failed: {failed:?}\n{}", report.release, report.console);
}

/// `--on-corruption restart` and `panic`, each in a machine that does not live through it.
#[test]
fn damage_ends_the_machine() {
    require_guest_programs!();
    for kernel in ["6.1", "newest"] {
        let Some((machine, programs)) = machine(kernel) else { continue };
        let (dir, disk) = (scratch(), scratch());
        fill_disk(disk.path(), dir.path());
        for (policy, wanted, not) in [
            ("restart", "Restarting system with command 'dm-verity device corrupted'", "Kernel panic"),
            ("panic", "Kernel panic - not syncing: dm-verity device corrupted", "Restarting system with"),
        ] {
            let scratch = scratch();
            let last = machine.run_to_death(policy, &programs, disk.path(), scratch.path());
            println!("{kernel}, {policy}:{last}");
            assert!(last.contains(wanted) && !last.contains(not), "{kernel}, {policy}: {last}");
        }
    }
}

#[test]
fn linux_5_10_refuses_and_reads_images() {
    steps_pass("5.10", &["floors".to_owned()]);
}

#[test]
fn linux_6_1() {
    steps_pass("6.1", &steps("guest"));
}

#[test]
fn linux_6_12() {
    steps_pass("6.12", &steps("guest"));
}

#[test]
fn linux_newest() {
    steps_pass("newest", &steps("guest"));
}
