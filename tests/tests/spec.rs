//! `format-spec/SPEC.md` says what images are: its tables add up, its example is what the program writes, and
//! `spec_reader.py`, which was written from it alone, sees in every image what `mkimg ls` sees.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::images::{one_of_everything, real, sample};
use mkimg_tests::layout::{Attr, Layout};
use mkimg_tests::need::{self, Need};
use mkimg_tests::signer::Signer;
use mkimg_tests::{args, project, require, scratch, sha256_of};

fn page_path() -> PathBuf {
    project().join("format-spec/SPEC.md")
}

fn page() -> String {
    std::fs::read_to_string(page_path()).unwrap()
}

fn spec_reader(options: &[&str], image: &Path) -> command::Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec_reader.py");
    command::tool("python3", args![script]).args(options).args([image])
}

/// Builds `source` and compares both readers line for line, on the image and on its detached seal.
fn readers_agree(name: &str, source: &str) {
    for dedup in ["files", "blocks"] {
        readers_agree_with(&format!("{name}, equal {dedup} once"), source, &["--dedup", dedup]);
    }
}

/// As [`readers_agree`], built with more options.
fn readers_agree_with(name: &str, source: &str, options: &[&str]) {
    let dir = scratch();
    let (image, seal) = (dir.path().join("image.mkimg"), dir.path().join("image.seal"));
    let _ = mkimg(args!["build", source, "--compress", "none", "-o", image]).args(options).ok();
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let _ = mkimg(args!["verify", image]).ok();
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    let root_hash = inspection["verity"]["root_hash"].as_str().unwrap();
    for file in [&image, &seal] {
        let ours = mkimg(args!["ls", "--json", file]).ok().json_lines();
        let done = spec_reader(&["--seal", "--root-hash", root_hash], file).ok();
        let theirs = done.json_lines();
        assert!(done.err().contains("agree with the file system"), "{name}: {}", done.err());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{name}: mkimg on the left, spec_reader.py on the right");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}: number of paths");
        assert!(!ours.is_empty(), "{name}: nothing was listed");
    }
}

#[test]
fn spec_reader_agrees_on_the_sample() {
    require!(Need::Tool("python3"));
    readers_agree("sample", &sample());
}

#[test]
fn spec_reader_agrees_on_one_of_everything() {
    require!(Need::Tool("python3"));
    let dir = scratch();
    one_of_everything(dir.path());
    let source = format!("oci:{}", dir.path().display());
    readers_agree("one of everything", &source);
    for roots in ["2", "9", "24"] {
        readers_agree_with(&format!("parity of {roots}"), &source, &["--fec", roots]);
    }
}

#[test]
fn spec_reader_agrees_on_a_disk_to_the_byte() {
    require!(Need::Tool("python3"), Need::Tool("openssl"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let (image, disk) = (dir.path().join("image.mkimg"), dir.path().join("image.raw"));
    let _ = mkimg(args!["build", sample(), "--compress", "none", "-o", image]).ok();
    for is_signed in [false, true] {
        if is_signed {
            let _ = mkimg(args!["sign", image, "--key", signer.key, "--cert", signer.certificate]).ok();
        }
        let export = args!["export", image, "--ddi", disk, "--architecture", "amd64", "--json"];
        let told = mkimg(export).ok().json();
        assert_eq!(told["ddi"]["signed"], is_signed);
        let ours = mkimg(args!["ls", "--json", image]).ok().json_lines();
        assert!(spec_reader(&["--seal"], &disk).ok().json_lines() == ours);
        let good = std::fs::read(&disk).unwrap();
        for at in [0, 500, 513, 700, 1025, 1100, 2000, 900_000, good.len() - 9000, good.len() - 400] {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            std::fs::write(&disk, bytes).unwrap();
            let done = spec_reader(&[], &disk).output().code(1);
            assert!(done.err().starts_with("spec_reader: "), "byte {at}: {}", done.err());
        }
    }
}

#[test]
fn spec_reader_agrees_on_an_image_for_a_trace() {
    require!(Need::Tool("python3"));
    let dir = scratch();
    one_of_everything(&dir.path().join("oci"));
    let trace = dir.path().join("trace");
    std::fs::write(&trace, "/var\n/bin/server\n/etc/block\n").unwrap();
    let source = format!("oci:{}", dir.path().join("oci").display());
    readers_agree_with("for a trace", &source, &["--optimize-for", trace.to_str().unwrap()]);
}

/// What real images seldom have: directories of many blocks, units around the size of a block, links that do not fit
/// inline, chunks of more than one block, names before the dots, a time before 1970 that most inodes have.
#[test]
fn spec_reader_agrees_on_corners() {
    require!(Need::Tool("python3"));
    let dir = scratch();
    let mut layout = Layout::create(dir.path());
    let old = Attr { mtime: "-1.25".to_owned(), ..Attr::default() };
    let mut layer = layout.layer(None);
    for i in 0..300 {
        layer.file(&format!("many/{i:03}{}", "x".repeat(i % 253)), &old, format!("{}", i % 7).as_bytes());
    }
    for name in ["!", "-", "+x", ".!", ".-", ".a", "..!", "..a", "...", "0", "\u{fc}", "\n"] {
        layer.file(&format!("dots/{name}"), &old, b"same");
    }
    for length in [1, 4031, 4032, 4033, 4063, 4064, 4065, 4094, 4095] {
        layer.symlink(&format!("links/{length}"), &"t".repeat(length));
    }
    for length in 3995..4005 {
        let value = vec![b'v'; length];
        layer.file(&format!("xattrs/{length}"), &old.clone().xattr("user.v", &value), b"");
        layer.file(&format!("xattrs/{length}-twice"), &old.clone().xattr("user.w", &value), b"");
        layer.file(&format!("xattrs/{length}-again"), &old.clone().xattr("user.w", &value), b"");
    }
    layer.file("xattrs/large", &old.clone().xattr("user.large", &[b'l'; 60_000]), b"");
    layer.file("epoch", &Attr { mtime: "0".to_owned(), ..Attr::default() }, b"");
    for (name, size) in
        [("sparse/even", 300 << 20), ("sparse/odd", (300 << 20) + 4097), ("sparse/small", 8193)]
    {
        layer.sparse(name, &old, size, &[(4096, b"data"), (size - 1, b"z")]);
    }
    layer.sparse("sparse/empty", &old, 70_000, &[]);
    layer.finish();
    layout.finish();
    readers_agree("corners", &format!("oci:{}", dir.path().display()));
}

#[test]
fn spec_reader_agrees_on_real_images() {
    require!(Need::Tool("python3"));
    match real() {
        Err(reason) => need::skipped(&reason),
        Ok(images) => images.iter().for_each(|image| readers_agree(image.name, &image.source)),
    }
}

/// One changed byte of each area ends the run of the script; so the agreement above is not that of two blind men.
#[test]
fn spec_reader_refuses_changed_images() {
    require!(Need::Tool("python3"));
    let dir = scratch();
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", sample(), "--compress", "none", "--fec", "2", "-o", image]).ok();
    let good = std::fs::read(&image).unwrap();
    let block =
        |at: usize| 4096 * usize::try_from(u64::from_le_bytes(good[at..at + 8].try_into().unwrap())).unwrap();
    let (hash_offset, meta, seal) = (block(0x10), block(0x20), block(0x30));
    let changed = dir.path().join("changed.mkimg");
    for (area, at) in [
        ("header", 0x10),
        ("zeros behind the header", 0x3ff),
        ("superblock", 1024 + 0x10),
        ("file data", 4096),
        ("metadata", meta + 32),
        ("seal", seal + 8),
        ("UUID of the verity superblock", hash_offset + 16),
        ("slack of the verity superblock", hash_offset + 4095),
        ("tree", hash_offset + 4096),
        ("parity", good.len() - 8192),
        ("trailer", good.len() - 4096 + 16),
        ("records of the trailer", good.len() - 100),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&changed, &bytes).unwrap();
        let done = spec_reader(&[], &changed).output().code(1);
        assert!(done.err().starts_with("spec_reader: "), "{area}: {}", done.err());
    }
    for bytes in [&good[..good.len() - 4096], &[&good[..], &[0; 4096]].concat()] {
        std::fs::write(&changed, bytes).unwrap();
        let _ = spec_reader(&[], &changed).output().code(1);
    }
}

/// `Some(n)` for a heading that ends in "(n bytes)" or holds it before an explanation.
fn bytes_of_heading(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix('#')?.split_once('(')?;
    rest.split_once(" bytes").and_then(|(number, _)| number.parse().ok())
}

/// The fields of each byte table leave no gap and end where the heading says.
#[test]
fn byte_tables_add_up() {
    let page = page();
    let (mut heading, mut tables) = (None, 0);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            heading = bytes_of_heading(line).map(|size| (line, size));
        }
        if !line.starts_with("| offset | size |") {
            continue;
        }
        let (title, size) = heading.take().unwrap_or_else(|| panic!("a byte table without a size: {line}"));
        let mut end = 0;
        for row in lines.by_ref().skip(1).take_while(|row| row.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let offset = u64::from_str_radix(cells[1].strip_prefix("0x").unwrap(), 16).unwrap();
            assert_eq!(offset, end, "{title}: {row}");
            end += cells[2].parse::<u64>().unwrap();
        }
        assert_eq!(end, size, "{title}");
        tables += 1;
    }
    assert_eq!(tables, 23, "byte tables on the page");
}

/// The text between a line that starts a fenced block and its end.
fn fenced<'a>(page: &'a str, kind: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("```{kind}\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

/// The example is what the program writes today. `MKIMG_SPEC_UPDATE=1` writes the bytes of today into the page.
#[test]
fn the_example_is_what_is_built() {
    require!(Need::Tool("python3"));
    let page = page();
    let dir = scratch();
    let _ = command::tool("python3", ["-c", fenced(&page, "python")]).current_dir(dir.path()).ok();
    let tar = dir.path().join("demo.tar");
    if !page.contains(&sha256_of(&tar)) {
        return need::skipped("this Python writes another tar than the one of the example");
    }
    let image = dir.path().join("demo.mkimg");
    let source = format!("tar:{}", tar.display());
    let _ = mkimg(args!["build", source, "--compress", "none", "--name", "demo", "-o", image]).ok();
    let bytes = std::fs::read(&image).unwrap();
    let shown = fenced(&page, "hexdump");
    let built: Vec<String> = shown
        .lines()
        .map(|line| match line.split_once(':') {
            Some((offset, _)) if !line.starts_with('#') => {
                dump_line(&bytes, usize::from_str_radix(offset, 16).unwrap())
            }
            _ => line.to_owned(),
        })
        .collect();
    let built = built.join("\n") + "\n";
    if std::env::var_os("MKIMG_SPEC_UPDATE").is_some() {
        std::fs::write(page_path(), page.replace(shown, &built)).unwrap();
    } else {
        assert_eq!(
            shown, built,
            "the example in SPEC.md is out of date; MKIMG_SPEC_UPDATE=1 renews its bytes"
        );
    }
    let sentence = format!("The image has {} blocks", bytes.len() / 4096);
    assert!(page.contains(&sentence), "SPEC.md does not say: {sentence}");
    let _ = spec_reader(&["--seal"], &image).ok();
}

/// Sixteen bytes as `xxd` shows them.
fn dump_line(bytes: &[u8], offset: usize) -> String {
    let row = &bytes[offset..offset + 16];
    let digits: Vec<String> = row.chunks(2).map(mkimg_tests::hex).collect();
    let text: String =
        row.iter().map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '.' }).collect();
    format!("{offset:08x}: {}  {text}", digits.join(" "))
}
