//! Makes the seeds of every target: `seeds [FOLDER]`, by default `corpus` beside the manifest.
//!
//! Nothing here is random: the same program writes the same files, under the same names.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use mkimg_format::header::Header;
use mkimg_format::seal::{Seal, Section};
use mkimg_format::{BLOCK_LEN, detached};
use mkimg_fuzz::sample::{SAMPLES, image_of, layers};
use mkimg_fuzz::tar::{self, END, Head};
use mkimg_fuzz::{image, layout, patch};

/// Writes the seeds of one target.
struct Corpus {
    folder: PathBuf,
    count: usize,
}

impl Corpus {
    fn new(root: &Path, target: &str) -> std::io::Result<Self> {
        let folder = root.join(target);
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, count: 0 })
    }

    /// One seed: content, then flags.
    fn add(&mut self, content: &[u8], flags: u8) -> std::io::Result<()> {
        let name = format!("seed-{:03}", self.count);
        self.count += 1;
        std::fs::write(self.folder.join(name), [content, &[flags]].concat())
    }

    /// The same content with several flags.
    fn with(&mut self, content: &[u8], all: &[u8]) -> std::io::Result<()> {
        all.iter().try_for_each(|flags| self.add(content, *flags))
    }
}

fn main() -> std::io::Result<()> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let root = std::env::args_os().nth(1).map_or(beside, PathBuf::from);
    for (target, make) in TARGETS {
        let mut corpus = Corpus::new(&root, target)?;
        make(&mut corpus)?;
        println!("{target}: {} seeds", corpus.count);
    }
    Ok(())
}

type Make = fn(&mut Corpus) -> std::io::Result<()>;

const TARGETS: [(&str, Make); 9] = [
    ("disk", disk),
    ("erofs_reader", erofs_reader),
    ("flatten_build", flatten_build),
    ("oci_layout", oci_layout),
    ("seal", seal),
    ("signature", signature),
    ("tar_layer", tar_layer),
    ("verify", verify),
    ("verity", verity),
];

/// Changes to the samples that each reach another part of the format.
fn changes() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for sample in 0..7 {
        all.push(vec![sample]);
        for area in 0..8 {
            for (operation, offset) in [(0x11, 40_u16), (0x22, 33), (0x43, 72), (0x47, 300)] {
                let [low, high] = offset.to_le_bytes();
                all.push(vec![sample, area, operation, low, high, 1, 2, 3, 4]);
            }
        }
        all.push(vec![sample, 7, 5, 0, 9, 0, 0, 0, 0]);
        all.push(vec![sample, 7, 6, 0, 0, 1, 0, 0, 0]);
        all.push([&[sample][..], &[2, 0x11, 36, 0, 0xff, 0, 0, 0], &[3, 0x22, 16, 16, 1, 0, 0, 0]].concat());
    }
    assert!(all.iter().all(|change| change.len() % patch::LEN == 1));
    all
}

/// A file system of 512-byte blocks, small enough for a fuzzer: superblock at 1024, inodes from 1536 on.
fn small_blocks() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    bytes[1032] = 1;
    bytes[1036] = 9;
    bytes[1038] = 1; // root
    bytes[1040] = 4; // inodes
    bytes[1060] = 8; // blocks
    bytes[1064] = 3; // block of nid 0
    bytes[1068] = 6; // block of shared xattr 0
    bytes[1104] = 4; // chunks
    let mut inode = |nid: usize, format: u16, mode: u16, size: u32, at: u32, xattrs: u16| {
        let raw = &mut bytes[1536 + nid * 32..][..32];
        raw[..2].copy_from_slice(&format.to_le_bytes());
        raw[2..4].copy_from_slice(&xattrs.to_le_bytes());
        raw[4..6].copy_from_slice(&mode.to_le_bytes());
        raw[6] = 1;
        raw[8..12].copy_from_slice(&size.to_le_bytes());
        raw[16..20].copy_from_slice(&at.to_le_bytes());
    };
    inode(1, 0, 0o040_755, 12 * 5 + 1 + 2 + 1 + 1 + 1, 5, 0);
    inode(2, 4, 0o100_644, 5, u32::MAX, 0); // inline
    inode(4, 4, 0o120_777, 1, u32::MAX, 2); // inline, behind a body of 16 bytes
    inode(7, 8, 0o100_644, 1500, 0, 0); // chunks of one block
    bytes[1536 + 96..][..5].copy_from_slice(b"hello");
    bytes[1536 + 160..][..16].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes[1536 + 176] = b'f';
    for (index, block) in [7_u32, u32::MAX, 7].into_iter().enumerate() {
        bytes[1536 + 256 + index * 4..][..4].copy_from_slice(&block.to_le_bytes());
    }
    let names: [(u8, u8, &[u8]); 5] = [(1, 2, b"."), (1, 2, b".."), (2, 1, b"f"), (4, 7, b"l"), (7, 1, b"s")];
    let mut end = 60;
    for (index, (nid, kind, name)) in names.into_iter().enumerate() {
        let raw = &mut bytes[2560 + index * 12..][..12];
        raw[0] = nid;
        raw[8] = u8::try_from(end).unwrap_or(0);
        raw[10] = kind;
        bytes[2560 + end..][..name.len()].copy_from_slice(name);
        end += name.len();
    }
    bytes[3072..3084].copy_from_slice(b"\x01\x01\x03\0xyz1\0\0\0\0");
    image::mend_superblock(&mut bytes);
    bytes
}

fn disk(out: &mut Corpus) -> std::io::Result<()> {
    let (_, sound) = mkimg_fuzz::disk::sound();
    let signature = &sound[sound.len() - 5 * 4096 - 4096..][..420];
    let text: Vec<u8> = signature.iter().copied().take_while(|byte| *byte != 0).collect();
    assert!(text.starts_with(b"{\"rootHash\""), "the signature partition is in front of the backup table");
    out.add(&text, 0)?;
    // The first sectors alone, and with the last ones behind them.
    out.with(&sound[..17408], &[1, 0x81])?;
    out.with(&[&sound[..17408], &sound[sound.len() - 16896..]].concat(), &[1, 0x81])?;
    out.with(&[], &[2])?;
    for area in 0..8 {
        for (operation, offset) in [(0x11, 8_u16), (0x22, 16), (0x43, 32), (0x25, 72), (0x46, 0)] {
            let [low, high] = offset.to_le_bytes();
            out.with(&[area, operation, low, high, 1, 2, 3, 4], &[2, 0x82])?;
        }
    }
    Ok(())
}

fn erofs_reader(out: &mut Corpus) -> std::io::Result<()> {
    out.with(&small_blocks(), &[0, 2, 6])?;
    let seen = mkimg_fuzz::tree::examine(&small_blocks()).expect("a sound superblock");
    assert_eq!((seen.names, seen.errors), (4, 0), "the file system of small blocks is sound");
    out.with(&SAMPLES[0].bytes, &[0, 2])?;
    changes().iter().try_for_each(|change| out.with(change, &[1, 3]))
}

fn verify(out: &mut Corpus) -> std::io::Result<()> {
    out.with(&SAMPLES[0].bytes, &[0, 1, 0x80, 0x40])?;
    out.with(&SAMPLES[0].bytes[..9000], &[0])?;
    out.with(&small_blocks(), &[0, 1])?;
    for (index, change) in changes().iter().enumerate() {
        let threads = if index % 4 == 0 { 0x40 } else { 0 };
        out.with(change, &[2 | threads, 0x82, 4 | threads, 5 | threads])?;
    }
    Ok(())
}

fn verity(out: &mut Corpus) -> std::io::Result<()> {
    for (index, sample) in SAMPLES.iter().enumerate() {
        let header = Header::read(&sample.bytes).expect("samples are sound");
        let at = usize::try_from(header.hash_offset()).expect("64 bits");
        out.add(&sample.bytes[at..at + 512], u8::try_from(index).unwrap_or(0))?;
    }
    for leaves in [0_u64, 1, 2, 127, 128, 129, 16_384, 16_385, 16_511, u64::MAX] {
        out.with(&[&leaves.to_le_bytes()[..], b"seed"].concat(), &[0, 0x80])?;
    }
    Ok(())
}

fn signature(out: &mut Corpus) -> std::io::Result<()> {
    let golden: [&[u8]; 5] = [
        include_bytes!("../../../sign/tests/golden/rsa.p7s"),
        include_bytes!("../../../sign/tests/golden/p256.p7s"),
        include_bytes!("../../../sign/tests/golden/p256.crt"),
        include_bytes!("../../../sign/tests/golden/ed25519.pub"),
        include_bytes!("../../../sign/tests/golden/ed25519.key"),
    ];
    for bytes in golden {
        out.with(bytes, &[0, 2, 3])?;
    }
    out.add(&[], 1)?;
    out.add(&[40, 0, 1, 200, 1, 0x80], 1)?;
    // Records: one of each kind, and one of a kind that nobody knows.
    for (kind, content) in [(1_u16, &[1, 0, 0, 0, 7, 7][..]), (1, &[7; 100]), (2, golden[0]), (3, b"x")] {
        let length = u16::try_from(content.len()).unwrap_or_default();
        out.add(&[&kind.to_le_bytes()[..], &length.to_le_bytes(), content].concat(), 4)?;
    }
    Ok(())
}

fn seal(out: &mut Corpus) -> std::io::Result<()> {
    for sample in SAMPLES.iter() {
        let header = Header::read(&sample.bytes).expect("samples are sound");
        let seal = Seal::open(&sample.bytes[..], &header).expect("samples are sound");
        out.with(&sample.bytes[..512], &[0, 0x80])?;
        out.with(&sample.bytes[sample.bytes.len() - BLOCK_LEN..], &[1, 0x81])?;
        let statement = seal.document(Section::Statement).ok().flatten().unwrap_or_default();
        out.add(&statement, 2)?;
        let cut = usize::try_from(header.meta_block).expect("64 bits") * BLOCK_LEN;
        let head = [&detached::head(&header)[..], &sample.bytes[..BLOCK_LEN]].concat();
        out.with(&head, &[3, 0x83])?;
        out.add(&[&head[..], &sample.bytes[cut..]].concat(), 3)?;
        let mut lengths = Vec::new();
        let mut content = Vec::new();
        for place in seal.table().places() {
            let short = u16::try_from(place.length / place.section.record_len().min(17)).unwrap_or(0);
            lengths.extend(short.to_le_bytes());
            let start = usize::try_from(place.offset).expect("64 bits");
            content.extend_from_slice(
                &sample.bytes[start..start + usize::try_from(place.length).expect("64 bits")],
            );
        }
        out.add(&[lengths, content].concat(), 4)?;
    }
    // Two inodes, a layer, nothing else.
    out.add(&[&[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[1; 32]].concat(), 4)?;
    changes().iter().try_for_each(|change| out.with(change, &[5, 0x85]))
}

/// Archives of every dialect, sound and broken.
fn archives() -> Vec<Vec<u8>> {
    let long = vec![b'l'; 150];
    let sparse = [(0, 512), (4096, 512), (9000, 100)];
    let data = [3; 1124];
    let many: Vec<(u64, u64)> = (0..30).map(|n| (n * 1024, 10)).collect();
    let global = tar::member(Head::new(b'g', b"global"), b"13 comment=x\n");
    let sound: Vec<Vec<u8>> = vec![
        tar::file("ustar", b"hello"),
        tar::member(Head::new(b'0', b"v7").v7(), b"hello"),
        tar::member(Head::new(0, b"gnu").gnu().owner(3_000_000, 5), b"hello"),
        Head::new(b'0', b"old-dir/").v7().block(),
        tar::member(Head::new(b'0', b"name").put(345, b"prefix/of/ustar"), b"x"),
        [tar::gnu_long(b'L', &long), tar::file("cut", b"x")].concat(),
        [tar::gnu_long(b'K', &long), tar::link(b'2', "link", "cut")].concat(),
        [
            tar::pax(&[(b"path", &long), (b"mtime", b"-1.25"), (b"uid", b"77"), (b"gid", b"0")]),
            tar::file("x", b"y"),
        ]
        .concat(),
        [tar::pax(&[(b"size", b"5")]), Head::new(b'0', b"sized").block(), {
            let mut block = vec![0; 512];
            block[..5].copy_from_slice(b"12345");
            block
        }]
        .concat(),
        [tar::pax(&[(b"linkpath", b"target"), (b"comment", b"none")]), tar::link(b'2', "pax-link", "x")]
            .concat(),
        [
            tar::pax(&[(b"SCHILY.xattr.user.a", b"1"), (b"LIBARCHIVE.xattr.user.b", b"aGVsbG8")]),
            tar::file("xa", b""),
        ]
        .concat(),
        [global, tar::file("after-global", b"x")].concat(),
        tar::sparse_1_0("sparse-1.0", 10_000, &sparse, &data),
        tar::sparse_0_1("sparse-0.1", 10_000, &sparse, &data),
        tar::sparse_gnu("sparse-gnu", 10_000, &sparse, &data),
        tar::sparse_gnu("sparse-long", 40_000, &many, &[4; 300]),
        Head::new(b'3', b"char").device(1, 3).block(),
        Head::new(b'4', b"block").gnu().device(259, 70_000).block(),
        Head::new(b'6', b"fifo").block(),
        tar::dir("d/"),
        tar::link(b'1', "hard", "ustar"),
    ];
    let broken: Vec<Vec<u8>> = vec![
        Head::new(b'Z', b"unknown").block(),
        tar::file("slash/", b"data"),
        tar::member(Head::new(b'x', b"pax"), b"9 a=b\n"),
        Head::new(b'2', b"no target").block(),
        tar::pax(&[(b"path", b"orphan")]),
        tar::sparse_1_0("order", 10_000, &[(4096, 512), (0, 512)], &data[..1024]),
        tar::sparse_gnu("outside", 100, &[(4096, 512)], &data[..512]),
        Head::new(b'0', b"huge").size(1 << 50).block(),
        Head::new(b'0', b"sign").put(124, &[0xff; 12]).block(),
        [tar::file("lone", b"x"), vec![0; 512], tar::file("zeros", b"x")].concat(),
        tar::file("cut", &[1; 900])[..1000].to_vec(),
    ];
    let all = sound.concat();
    let ended = |archive: Vec<u8>| [archive, END.to_vec()].concat();
    let mut archives: Vec<Vec<u8>> = sound.into_iter().chain(broken).map(ended).collect();
    archives.push(all.clone());
    archives.push(ended(all));
    archives
}

fn tar_layer(out: &mut Corpus) -> std::io::Result<()> {
    archives().iter().try_for_each(|archive| out.with(archive, &[0, 0x83, 0xc1]))
}

fn flatten_build(out: &mut Corpus) -> std::io::Result<()> {
    for archive in archives() {
        out.with(&archive, &[0, 0x40])?;
    }
    let three = layers().join(layout::SEPARATOR);
    out.with(&three, &[0, 0x40, 0x60, 0x10])?;
    // Entries of `ops`: kinds by number, each with a path, a detail and, for links, a target.
    let lists: [&[u8]; 7] = [
        &[0, 0, 1, 10, 0x41, 5, 9],
        &[0, 0, 1, 11, 0x40, 0, 1, 15, 11, 4, 0, 11, 0, 2],
        &[11, 0x40, 0, 1, 15, 11, 0x40, 6, 0, 10, 0x40, 1, 3],
        &[2, 0, 0, 1, 11, 0x40, 2, 7, 4, 3, 0, 0x40, 2, 15, 4, 2, 0, 3],
        &[8, 0, 9, 9, 1, 200, 0x1a, 2, 1, 0x1a, 3, 3],
        &[6, 0, 0, 7, 1, 5, 0x20, 0xc0, 1, 2, 3, 255],
        &[10, 0x1f, 30, 2, 1, 1, 0xdf, 0x1f, 0x1f, 0x1f],
    ];
    lists.iter().try_for_each(|list| out.with(list, &[0x80, 0xa0, 0x90]))
}

fn gzip(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data)?;
    encoder.finish()
}

fn oci_layout(out: &mut Corpus) -> std::io::Result<()> {
    let layer = [tar::file("text", b"hello"), END.to_vec()].concat();
    let (gz, zst) = (gzip(&layer)?, zstd::encode_all(&layer[..], 1)?);
    let sound = layout::archive(&layout::of_layers(&[layer.clone(), layer.clone()]));
    out.with(&sound, &[0, 0x10, 0x20, 0x40])?;
    for archive in archives() {
        out.with(&archive, &[0x12, 0x80])?;
    }
    for blob in [&layer, &gz, &zst] {
        out.add(blob, 2)?;
        out.add(&blob[..blob.len() / 2], 2)?;
    }
    out.add(&[&gz[..], &gz].concat(), 2)?;

    let index = br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"$M","size":$m,"platform":{"os":"linux","architecture":"amd64"},"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}"#;
    let nested = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"$0","size":$a}]}"#;
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["$D"]}}"#;
    let manifest = |suffix: &str| {
        let media = "application/vnd.oci.image";
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{media}.config.v1+json","digest":"$C","size":$c}},"layers":[{{"mediaType":"{media}.layer.v1.tar{suffix}","digest":"$0","size":$a}}]}}"#
        )
    };
    for (suffix, blob) in [("", &layer), ("+gzip", &gz), ("+zstd", &zst), ("+gzip", &zst), ("", &gz)] {
        let parts = [&index[..], manifest(suffix).as_bytes(), config, blob].join(layout::SEPARATOR);
        out.with(&parts, &[4, 0x14, 0x34, 0x74])?;
    }
    let docker = "application/vnd.docker.image.rootfs.diff.tar";
    let listed = manifest("").replace("application/vnd.oci.image.layer.v1.tar", docker);
    out.with(&[&index[..], listed.as_bytes(), config, &gz].join(layout::SEPARATOR), &[0x14])?;
    out.with(&[&nested[..], b"", b"", index].join(layout::SEPARATOR), &[0x14, 0x34])?;
    let saved = br#"[{"Config":"blobs/sha256/x","RepoTags":["name:latest"],"Layers":["blobs/sha256/y"]}]"#;
    out.with(&[&saved[..], b"", config, &layer].join(layout::SEPARATOR), &[3, 0x43])?;

    // What `docker save` writes.
    let digest = mkimg_oci::Digest::of(&layer).to_string();
    let config = String::from_utf8_lossy(config).replace("$D", &digest).into_bytes();
    let name = format!("{}.json", mkimg_oci::Digest::of(&config).hex());
    let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["name:latest"],"Layers":["0/layer.tar"]}}]"#);
    let files = vec![
        (name, config),
        ("0/layer.tar".to_owned(), layer),
        ("manifest.json".to_owned(), manifest.into_bytes()),
    ];
    out.with(&layout::archive(&files), &[1, 0x11, 0x21, 0x41])?;
    // The images themselves are no archives.
    let (_, image) = image_of(&[END.to_vec()], (5, 15)).expect("an empty tree");
    out.add(&image[..4096], 0x12)
}
