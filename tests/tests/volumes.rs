//! Images that mkimg has not written: `mkfs.erofs` makes the file system, `veritysetup format` the tree, and says what is
//! wrong with them as well.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use mkimg_tests::command::{Finished, mkimg, tool};
use mkimg_tests::mount::Exclusive;
use mkimg_tests::need::Need;
use mkimg_tests::signer::Signer;
use mkimg_tests::{Seeded, args, images, require, scratch};

macro_rules! require_tools {
    () => {
        require!(Need::Tool("mkfs.erofs"), Need::Tool("veritysetup"))
    };
}

const BLOCK: u64 = 4096;
/// Most people take what `veritysetup` makes of nothing: 32 random bytes.
const SALT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A directory with `tree`, and `image` made of it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(options: &[&str]) -> Self {
        let bench = Self(scratch());
        let tree = bench.path("tree");
        std::fs::create_dir_all(tree.join("dir/below")).unwrap();
        for (name, length) in
            [("large", 700_000), ("small", 300), ("dir/block", 4096), ("dir/below/other", 9000)]
        {
            // Bytes of no other file, and none that compress to nothing.
            let mut random = Seeded::new(length);
            let byte = |at: u64| (random.below(5) ^ (at / 256)).to_le_bytes()[0];
            let bytes: Vec<u8> = (0..length).map(byte).collect();
            std::fs::write(tree.join(name), bytes).unwrap();
        }
        std::fs::write(tree.join("dir/empty"), "").unwrap();
        std::os::unix::fs::symlink("dir/block", tree.join("link")).unwrap();
        bench.make_file_system(options);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make_file_system(&self, options: &[&str]) {
        let fixed = ["-T0", "-U00000000-0000-4000-8000-000000000042", "--all-root"];
        let _ = tool("mkfs.erofs", options.iter().chain(&fixed))
            .args([self.path("image"), self.path("tree")])
            .ok();
    }

    fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).unwrap().len()
    }

    /// Puts the tree behind the image. Returns root hash and hash offset.
    fn append(&self, salt: &str) -> (String, u64) {
        let image = self.path("image");
        let offset = self.length("image").next_multiple_of(BLOCK);
        std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(offset).unwrap();
        (self.format("image", "image", salt, offset), offset)
    }

    /// `veritysetup format`: returns the root hash.
    fn format(&self, data: &str, hashes: &str, salt: &str, offset: u64) -> String {
        let blocks = if data == hashes { offset } else { self.length(data) } / BLOCK;
        let options =
            [format!("--salt={salt}"), format!("--hash-offset={offset}"), format!("--data-blocks={blocks}")];
        let done =
            tool("veritysetup", args!["format", self.path(data), self.path(hashes)]).args(options).ok();
        let line = done.out().lines().find(|line| line.starts_with("Root hash")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().to_owned()
    }

    fn mkimg(&self, line: &str) -> Finished {
        mkimg(line.split(' ')).current_dir(self.0.path()).output()
    }

    /// Whether `veritysetup verify` accepts it.
    fn veritysetup(&self, hashes: &str, root: &str, offset: u64) -> bool {
        let line =
            args!["verify", self.path("image"), self.path(hashes), root, format!("--hash-offset={offset}")];
        tool("veritysetup", line).output().status.success()
    }

    fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }
}

/// A line of the report for people, as it is.
fn only_finding(done: Finished) -> (String, String, Vec<String>) {
    let lines = done.code(1).json_lines();
    let [finding, summary] = &lines[..] else { panic!("{lines:#?}") };
    assert_eq!(summary["clean"], false);
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    let paths =
        finding["paths"].as_array().into_iter().flatten().map(|path| path.as_str().unwrap().to_owned());
    (text("region"), text("problem"), paths.collect())
}

#[test]
fn every_salt_and_depth() {
    require_tools!();
    // Salts of 0, 1, 32 and 256 bytes; trees of no, one, two and three levels; behind the image and in a file.
    let salts = ["-", "7f", SALT, &"5ac3".repeat(128)];
    for (number, blocks) in [1, 2, 128, 129, 16_385].into_iter().enumerate() {
        let bench = Bench(scratch());
        std::fs::create_dir(bench.path("tree")).unwrap();
        std::fs::write(bench.path("tree/file"), "content").unwrap();
        bench.make_file_system(&[]);
        assert_eq!(bench.length("image"), BLOCK, "the smallest file system");
        let file = std::fs::OpenOptions::new().write(true).open(bench.path("image")).unwrap();
        for (index, salt) in salts.into_iter().enumerate() {
            if blocks > 1000 && index % 4 != number % 4 {
                continue;
            }
            file.set_len(blocks * BLOCK).unwrap();
            let root = bench.format("image", "hashes", salt, 0);
            let (appended, offset) = bench.append(salt);
            assert_eq!((&appended, offset), (&root, blocks * BLOCK));
            let at_the_end = bench.mkimg(&format!("verify --json image --root-hash {root}"));
            let named =
                bench.mkimg(&format!("verify --json image --root-hash {root} --hash-offset {offset}"));
            file.set_len(blocks * BLOCK).unwrap();
            let apart = bench.mkimg(&format!("verify --json image --root-hash {root} --hash-file hashes"));
            for (place, done) in [("appended", at_the_end), ("named", named), ("apart", apart)] {
                let summary = done.code(0).json();
                let what = format!("{blocks} blocks, salt {salt}, {place}");
                assert_eq!(summary["data_blocks"], blocks, "{what}");
                assert_eq!(summary["root_hash"], root.as_str(), "{what}");
                assert_eq!(summary["unsealed"]["salt"], salt.trim_start_matches('-'), "{what}");
                assert_eq!(summary["unsealed"]["hash_file"], place == "apart", "{what}");
            }
            let wrong = "0".repeat(64);
            let (region, ..) = only_finding(
                bench.mkimg(&format!("verify --json image --root-hash {wrong} --hash-file hashes")),
            );
            assert_eq!(region, if blocks == 1 { "superblock" } else { "root-hash" }, "{blocks} blocks");
        }
    }
}

/// One flipped bit anywhere: both tools say so, and mkimg says where. What only mkimg sees is listed.
#[test]
fn both_tools_see_the_same_damage() {
    require_tools!();
    let bench = Bench::new(&[]);
    let (root, hash) = bench.append(SALT);
    let bytes = std::fs::read(bench.path("image")).unwrap();
    let end = bytes.len() as u64;
    let verify = format!("verify --json image --root-hash {root}");
    let summary = bench.mkimg(&verify).code(0).json();
    assert_eq!((&summary["bytes_read"], &summary["clean"]), (&end.into(), &true.into()));
    let mut random = Seeded::new(9);
    let mut offsets: Vec<u64> = (0..24).map(|_| random.below(hash)).collect();
    offsets.extend((0..8).map(|_| hash + BLOCK + random.below(end - hash - BLOCK)));
    offsets.extend([
        0,
        1023,
        1032,
        4095,
        hash - 1,
        hash + 8,
        hash + 40,
        hash + 72,
        hash + 90,
        hash + 300,
        hash + 2000,
    ]);
    for at in offsets {
        let byte = bytes[usize::try_from(at).unwrap()];
        bench.patch("image", at, &[byte ^ 4]);
        let field = at.checked_sub(hash);
        // Padding, unused salt and what is behind the superblock are nothing to veritysetup.
        let unseen = field.is_some_and(|field| matches!(field, 39..64 | 120..4096));
        assert_eq!(bench.veritysetup("image", &root, hash), unseen, "byte {at}: veritysetup");
        let done = bench.mkimg(&verify);
        match field {
            // Another version of the superblock: nothing can be checked.
            Some(8..16) => {
                let error = done.code(2).error_line();
                assert!(error.contains("version 5 is not supported"), "{error}");
            }
            field => {
                let (region, problem, _) = only_finding(done);
                let wanted: &[&str] = match field {
                    None if at < BLOCK => &["superblock"],
                    None => &["data", "metadata"],
                    Some(0..512) => &["verity-superblock"],
                    Some(512..4096) => &["slack"],
                    Some(_) => &["tree"],
                };
                assert!(wanted.contains(&region.as_str()), "byte {at}: {region}: {problem}");
            }
        }
        bench.patch("image", at, &[byte]);
    }
    let _ = bench.mkimg(&verify).code(0);
}

#[test]
fn damage_has_the_names_of_its_files() {
    require_tools!();
    for options in [&[][..], &["--chunksize=4096"], &["-Eforce-inode-extended"], &["-b1024"]] {
        let bench = Bench::new(options);
        let (root, _) = bench.append(SALT);
        let bytes = std::fs::read(bench.path("image")).unwrap();
        for name in ["large", "dir/block", "dir/below/other"] {
            let content = std::fs::read(bench.path("tree").join(name)).unwrap();
            let middle = &content[content.len() / 2..][..64];
            let places: Vec<usize> = bytes
                .windows(64)
                .enumerate()
                .filter(|(_, window)| *window == middle)
                .map(|(at, _)| at)
                .collect();
            let [at] = places[..] else { panic!("{options:?}: {name} lies at {places:?}") };
            bench.patch("image", at as u64, &[!bytes[at]]);
            let (region, problem, paths) =
                only_finding(bench.mkimg(&format!("verify --json image --root-hash {root}")));
            assert_eq!(problem, "does not match its hash in the tree", "{options:?}: {name}");
            assert!(paths.contains(&format!("/{name}")), "{options:?}: {name} is not in {paths:?}");
            // Smaller blocks of other things may share one of the tree.
            assert!(region == "data" || options == ["-b1024"], "{options:?}: {name}: {region}");
            bench.patch("image", at as u64, &[bytes[at]]);
        }
    }
}

/// Compressed files of `mkfs.erofs` are of forms that mkimg does not write and does not read; the hashes hold all the same.
#[test]
fn what_cannot_be_read_is_said() {
    require_tools!();
    for (options, reason, sees) in [
        (&["-zlz4"][..], "data layout 3 is not supported", true),
        (&["-zlz4", "-Eztailpacking"], "feature_incompat 0x10 is not supported", false),
        (&["-zlz4", "-Efragments"], "data layout 3 is not supported", true),
    ] {
        let bench = Bench::new(options);
        let (root, hash) = bench.append(SALT);
        let done = bench.mkimg(&format!("verify image --root-hash {root}"));
        let said = done.code(0).out();
        assert!(
            said.contains("structure could not be checked in ") && said.contains(reason),
            "{options:?}: {said}"
        );
        // The last block of data belongs to a compressed file.
        let at = if sees { hash / 2 / BLOCK * BLOCK } else { BLOCK };
        bench.patch("image", at, &[0x55; 8]);
        let (region, problem, paths) =
            only_finding(bench.mkimg(&format!("verify --json image --root-hash {root}")));
        assert_eq!((region.as_str(), paths.len()), ("data", 0), "{options:?}");
        let start = "does not match its hash in the tree; paths unknown: ";
        assert!(problem.starts_with(start) && problem.contains(reason), "{options:?}: {problem}");
    }
}

#[test]
fn a_signature_of_the_root_hash_is_enough() {
    require_tools!();
    require!(Need::Tool("openssl"));
    let bench = Bench::new(&[]);
    let (root, _) = bench.append(SALT);
    let signer = Signer::new(bench.0.path(), "signer");
    let _ = Signer::new(bench.0.path(), "stranger");
    std::fs::write(bench.path("root"), &root).unwrap();
    std::fs::write(bench.path("upper"), root.to_uppercase()).unwrap();
    let form = ["smime", "-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256", "-outform", "DER"];
    for (text, to) in [("root", "root.p7s"), ("upper", "upper.p7s")] {
        let who = args!["-signer", signer.certificate, "-inkey", signer.key];
        let _ =
            tool("openssl", form).args(who).args(args!["-in", bench.path(text), "-out", bench.path(to)]).ok();
    }
    let said = bench.mkimg("verify image --cert signer.pem --signature root.p7s").code(0).out();
    assert!(said.starts_with("image: checked against the PKCS#7 signature of CN=signer,O=mkimg"), "{said}");
    assert!(
        said.contains("mkimg has not written it: there are no records, so no digest of any file"),
        "{said}"
    );
    let own = "has no seal, as mkimg has not written it, and so no ";
    for (options, problem) in [
        ("--cert signer.pem", "is not signed"),
        (
            "--cert stranger.pem --signature root.p7s",
            "no signature holds: there is none of CN=stranger,O=mkimg",
        ),
        (
            "--cert signer.pem --signature upper.p7s",
            "no signature holds: the PKCS#7 signature of CN=signer,O=mkimg is over the root hash in upper case, not over its 64 lower-case digits",
        ),
        ("--cert signer.pem --signature root.p7s --min-epoch 1", &format!("{own}epoch")),
        (
            "--key signer.pub --signature root.p7s",
            &format!("{own}signature of a key: --cert with --signature checks one of its root hash"),
        ),
        (&format!("--root-hash {root} --epoch-state state"), &format!("{own}epoch")),
    ] {
        let (region, found, _) = only_finding(bench.mkimg(&format!("verify --json image {options}")));
        assert_eq!((region.as_str(), found.as_str()), ("trust", problem), "{options}");
    }
}

#[test]
fn files_can_be_listed_and_taken_out() {
    require_tools!();
    let bench = Bench::new(&[]);
    let plain = bench.mkimg("ls image").code(0).out();
    assert_eq!(
        plain.lines().collect::<Vec<_>>(),
        [
            "/",
            "/dir",
            "/dir/below",
            "/dir/below/other",
            "/dir/block",
            "/dir/empty",
            "/large",
            "/link",
            "/small"
        ]
    );
    let large = std::fs::read(bench.path("tree/large")).unwrap();
    assert_eq!(bench.mkimg("cat image /large").code(0).stdout, large);
    // Without a tree nothing vouches for anything.
    let done = bench.mkimg("extract image bare --no-owner").code(0);
    assert_eq!(done.err(), "mkimg: warning: image: nothing says what its files must be\n");
    assert_eq!(std::fs::read(bench.path("bare/large")).unwrap(), large);
    let error =
        bench.mkimg(&format!("extract image out --root-hash {}", "0".repeat(64))).code(1).error_line();
    let no_tree = "mkimg: image: mkimg has not written this image, and there is no dm-verity superblock behind its file system; --hash-offset and --hash-file say where else";
    assert_eq!(error, no_tree);

    let (root, hash) = bench.append(SALT);
    let inspection = bench.mkimg("inspect --json image").code(0).json();
    assert_eq!(inspection["format"], serde_json::Value::Null);
    assert_eq!(inspection["uuid"], "00000000-0000-4000-8000-000000000042");
    let verity = &inspection["verity"];
    assert_eq!((&verity["root_hash"], &verity["salt"]), (&root.as_str().into(), &SALT.into()));
    assert_eq!((&verity["hash_offset"], &verity["data_blocks"]), (&hash.into(), &(hash / BLOCK).into()));
    let text = bench.mkimg("inspect image").code(0).out();
    assert!(text.contains(&format!("root hash   {root}\n")) && text.contains("another program"), "{text}");

    // Against a root hash every block is proven when it is read.
    let extract = format!("extract image proven --no-owner --root-hash {root}");
    let said = bench.mkimg(&extract).code(0).out();
    assert!(said.starts_with("image: checked against the given root hash\n"), "{said}");
    assert_eq!(std::fs::read(bench.path("proven/large")).unwrap(), large);
    let image = std::fs::read(bench.path("image")).unwrap();
    let at = image.windows(64).position(|window| window == &large[300_000..300_064]).unwrap() as u64;
    bench.patch("image", at, &[0xee]);
    let error = bench.mkimg(&extract.replace("proven", "damaged")).code(1).error_line();
    let block = at / BLOCK;
    assert!(error.contains(&format!("block {block} does not lead to root hash {root}")), "{error}");
}

#[test]
fn what_takes_a_seal_or_a_tree_says_so() {
    require_tools!();
    let bench = Bench::new(&[]);
    let _ = mkimg(args!["build", images::sample(), "-o", bench.path("own")]).ok();
    let no_seal = "mkimg: image: has no seal, as mkimg has not written it";
    for line in ["report image", "seal image -o seal", "inspect --statement image", "diff image image"] {
        let done = bench.mkimg(line);
        assert_ne!(done.status.code(), Some(0), "{line}");
        assert_eq!(done.error_line(), no_seal, "{line}");
    }
    let _ = std::fs::copy(bench.path("image"), bench.path("bare")).unwrap();
    let (root, hash) = bench.append(SALT);
    for (line, error) in [
        (
            "verify bare",
            "bare: mkimg has not written this image, and there is no dm-verity superblock behind its file system; --hash-offset and --hash-file say where else",
        ),
        ("verify bare --hash-offset 512", "bare: there is no dm-verity superblock at byte 512"),
        ("verify bare --hash-file tree/large", "tree/large: there is no dm-verity superblock at byte 0"),
        (
            "verify own --hash-offset 512",
            "own: --hash-offset and --hash-file are for EROFS images that mkimg has not written",
        ),
        (
            "verify image tree --hash-offset 512",
            "--hash-offset and --hash-file are for the audit of an image file",
        ),
        ("verify image tree", "image: has no seal, as mkimg has not written it"),
    ] {
        assert_eq!(bench.mkimg(line).code(2).error_line(), format!("mkimg: {error}"), "{line}");
    }
    // A gap before the tree, as tools leave it that align to more than a block.
    let _ = std::fs::copy(bench.path("bare"), bench.path("image")).unwrap();
    let gap = hash + (1 << 20);
    let options =
        [format!("--hash-offset={gap}"), format!("--data-blocks={}", hash / BLOCK), format!("--salt={SALT}")];
    let _ = tool("veritysetup", args!["format", bench.path("image"), bench.path("image")]).args(options).ok();
    let verify = format!("verify --json image --root-hash {root} --hash-offset {gap}");
    let _ = bench.mkimg(&verify).code(0);
    bench.patch("image", hash + 5000, b"hidden");
    let (region, problem, _) = only_finding(bench.mkimg(&verify));
    assert_eq!(region, "slack");
    assert_eq!(problem, "bytes between data and verity superblock are not zero, and no hash covers them");
}

/// A cut tree is a finding like any other, a hole of any size takes no time, and nothing is left to guess in two files.
#[test]
fn what_ends_early_or_comes_late_is_told() {
    require_tools!();
    let bench = Bench::new(&[]);
    let _ = std::fs::copy(bench.path("image"), bench.path("bare")).unwrap();
    let (root, hash) = bench.append(SALT);
    let image = std::fs::OpenOptions::new().write(true).open(bench.path("image")).unwrap();
    image.set_len(hash + BLOCK).unwrap();
    for line in ["verify --json image".to_owned(), format!("verify --json image --root-hash {root}")] {
        let found = bench.mkimg(&line).code(1).json_lines();
        assert!(found.iter().any(|finding| finding["region"] == "truncated"), "{line}: {found:#?}");
    }
    let _ = std::fs::copy(bench.path("bare"), bench.path("image")).unwrap();
    let _ = bench.format("image", "hashes", SALT, 0);
    let hashes = std::fs::OpenOptions::new().write(true).open(bench.path("hashes")).unwrap();
    hashes.set_len(BLOCK).unwrap();
    let found = bench.mkimg("verify --json image --hash-file hashes").code(1).json_lines();
    assert!(found.iter().any(|finding| finding["region"] == "truncated"), "{found:#?}");

    let far = 1 << 42;
    let superblock = {
        let _ = bench.format("image", "hashes", SALT, 0);
        std::fs::read(bench.path("hashes")).unwrap()
    };
    bench.patch("image", far, &superblock);
    let found = bench.mkimg(&format!("verify --json image --hash-offset {far}")).code(2).json_lines();
    let what = "more than 1 GiB between data and verity superblock: the rest was not looked at";
    assert!(found.iter().any(|finding| finding["problem"] == what), "{found:#?}");
}

/// What is around such an image on a disk nobody would look at.
#[test]
fn on_a_disk_it_is_read_and_not_audited() {
    require_tools!();
    require!(Need::Tool("sfdisk"));
    let bench = Bench::new(&[]);
    let (root, hash) = bench.append(SALT);
    let image = std::fs::read(bench.path("image")).unwrap();
    let script = "truncate --size 4M \"$0\" && printf '%s\\n' 'label: gpt' \
        \"start=2048, size=$1, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709\" \
        \"start=4096, size=$2, type=2c7357ed-ebd2-46d9-aec1-23d437ec2bf5\" | sfdisk --quiet \"$0\"";
    let sectors = [hash / 512, (image.len() as u64 - hash) / 512].map(|sectors| sectors.to_string());
    let _ = tool("sh", args!["-euc", script, bench.path("disk")]).args(sectors).ok();
    let (data, tree) = image.split_at(usize::try_from(hash).unwrap());
    bench.patch("disk", 1 << 20, data);
    bench.patch("disk", 2 << 20, tree);
    let listed = bench.mkimg("ls disk").code(0).out();
    assert!(listed.contains("/dir/below/other"), "{listed}");
    let error = bench.mkimg(&format!("verify disk --root-hash {root}")).code(2).error_line();
    let wanted = "mkimg: disk: is a disk with an image that mkimg has not written; what is around it would not be audited: give the image itself";
    assert_eq!(error, wanted);
}

#[test]
fn root_a_checked_image_is_mounted_once() {
    require!(Need::Root, Need::FileSystem("erofs"), Need::Loop);
    require_tools!();
    let _one_at_a_time = Exclusive::take();
    let bench = Bench::new(&[]);
    let (root, _) = bench.append(SALT);
    std::fs::create_dir(bench.path("point")).unwrap();
    let mount = format!("mount image point --verity once --root-hash {root}");
    let said = bench.mkimg(&mount).code(0).out();
    let same = same_files(&bench.path("tree"), &bench.path("point"));
    // There is nothing to compare the mount with; the blocks of the file are checked.
    let seen = bench.mkimg(&format!("verify point --json --root-hash {root}")).code(2).json();
    let _ = bench.mkimg("umount point").code(0);
    assert_eq!((&seen["anchored"], &seen["findings"]), (&true.into(), &0.into()), "{seen}");
    assert!(seen["unseen"].to_string().contains("mkimg has not written this image"), "{seen}");
    assert!(same && said.contains("vouched for by the given root hash"), "{said}");

    let other = "0".repeat(64);
    let error = bench.mkimg(&mount.replace(&root, &other)).code(1).error_line();
    assert!(error.ends_with(&format!("not mounted: root hash is {root}, wanted is {other}")), "{error}");
    bench.patch("image", 1 << 19, &[1, 2, 3]);
    let error = bench.mkimg(&mount).code(1).error_line();
    assert!(
        error.contains("the audit has 1 finding: data at byte ") && error.contains("(/large)"),
        "{error}"
    );

    // What the reader does not know it cannot check before the kernel parses it.
    let bench = Bench::new(&["-zlz4"]);
    let (root, hash) = bench.append(SALT);
    std::fs::create_dir(bench.path("point")).unwrap();
    let error =
        bench.mkimg(&format!("mount image point --verity once --root-hash {root}")).code(1).error_line();
    assert!(
        error.contains("its structure cannot be checked before the kernel parses it: inode at byte "),
        "{error}"
    );
    let by_hand =
        format!("veritysetup open IMAGE NAME IMAGE {root} --hash-offset={hash}, and mount /dev/mapper/NAME");
    assert!(error.ends_with(&by_hand), "{error}");
}

fn same_files(a: &Path, b: &Path) -> bool {
    ["large", "small", "dir/block", "dir/below/other", "link"]
        .iter()
        .all(|name| std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap())
}
