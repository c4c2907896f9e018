//! The list of bad input: what somebody hands in, what `veritysetup verify` says to it, and what mkimg says, to the word.
//!
//! Images of mkimg and images of other writers (`volume`), which have a dm-verity tree with a salt and nothing else. Both
//! tools are given the root hash of the image that was published.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod maker;

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use maker::{Image, Spec, make, seal_up};
use mkimg_format::erofs::escape;
use mkimg_format::header::Header;
use mkimg_format::merkle::Builder;
use mkimg_format::salt::Salt;
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{self, Parameters, SUPERBLOCK_LEN};
use mkimg_format::volume::{self, Joined, Place, Volume};
use mkimg_format::{BLOCK_LEN, Sha256, hex};
use mkimg_verify::{Finding, Options, Report, verify_image, verify_volume};

/// Of another salt, or another tree, nothing fits, and which it is the root hash cannot say.
const NOTHING_FITS: &str = "verity-superblock 1294336: no block has its hash in the tree: salt or number of blocks are not those that it was made with, or it is the tree of another image";

/// What a tool says to a file, by its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Fine,
    Wrong,
}

/// One thing that somebody may hand in.
struct Row {
    attack: &'static str,
    bytes: Vec<u8>,
    root: Sha256,
    hash_offset: u64,
    veritysetup: Says,
    /// Finding by finding, or why there is nothing to audit.
    mkimg: Vec<String>,
}

fn options(root: Sha256) -> Options<'static> {
    Options { root_hash: Some(root), threads: NonZeroUsize::MIN, progress: None }
}

/// A finding on a line: region, first byte, what is wrong, and whose it is.
fn line(finding: &Finding) -> String {
    let paths: Vec<String> = finding.paths.iter().map(|path| format!(" {}", escape(path))).collect();
    format!("{} {}: {}{}", finding.region, finding.offset, finding.problem, paths.concat())
}

fn lines(report: &Report) -> Vec<String> {
    assert_eq!(report.truncated_findings, 0);
    report.findings.iter().map(line).collect()
}

/// What mkimg says to a file and, if there is one, to the file with its tree; as the program does, which looks first who has
/// written it.
fn said(bytes: &[u8], hashes: Option<&[u8]>, root: Sha256) -> Vec<String> {
    if !volume::is_of_others(bytes).unwrap() {
        return match verify_image(&bytes, &options(root)) {
            Ok(report) => lines(&report),
            Err(error) => vec![error.to_string()],
        };
    }
    let joined = Joined::new(bytes, hashes);
    match Volume::open(&joined, Place::Usual) {
        Ok(volume) => lines(&verify_volume(&joined, &volume, &options(root)).unwrap()),
        Err(error) => vec![error.to_string()],
    }
}

/// What `veritysetup verify` says; `None` where it is not installed.
fn veritysetup(data: &Path, hashes: &Path, hash_offset: u64, root: &Sha256) -> Option<Says> {
    let status = Command::new("veritysetup")
        .arg("verify")
        .args([data, hashes])
        .args([hex(root), format!("--hash-offset={hash_offset}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) => Some(if status.success() { Says::Fine } else { Says::Wrong }),
        Err(error) => {
            skipped(&format!("veritysetup: {error}"));
            None
        }
    }
}

/// Past the capture of the test harness, and into the list that `tests/run.sh` prints.
fn skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: bad_input::{}: {reason}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("MKIMG_SKIPPED") {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        log.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

fn check(rows: Vec<Row>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    let mut wrong = Vec::new();
    for row in rows {
        std::fs::write(&file, &row.bytes).unwrap();
        let found = veritysetup(&file, &file, row.hash_offset, &row.root);
        if found.is_some_and(|found| found != row.veritysetup) {
            wrong.push(format!("{}: veritysetup says {found:?}", row.attack));
        }
        let found = said(&row.bytes, None, row.root);
        if found != row.mkimg {
            wrong.push(format!("{}: mkimg says {found:#?}, not {:#?}", row.attack, row.mkimg));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file system behind which only the tree of `veritysetup` is.
struct OfOthers {
    bytes: Vec<u8>,
    root: Sha256,
    hash_offset: u64,
    data_blocks: u64,
    salt: Salt,
}

/// The file system of an image of mkimg, without the header, and with another tree.
fn of_others(spec: &Spec, salt: &[u8]) -> OfOthers {
    let image = make(spec);
    let mut bytes = image.bytes[..image.header.hash_offset() as usize].to_vec();
    bytes[..512].fill(0);
    let salt = Salt::new(salt).unwrap();
    let (data_blocks, hash_offset) = (image.header.data_blocks, image.header.hash_offset());
    let (tree, root) = tree(&bytes, &salt);
    let parameters = Parameters { uuid: [0x42; 16], data_blocks, salt: salt.clone() };
    bytes.extend_from_slice(&parameters.to_bytes());
    bytes.resize(hash_offset as usize + BLOCK_LEN, 0);
    bytes.extend_from_slice(&tree);
    OfOthers { bytes, root, hash_offset, data_blocks, salt }
}

/// The tree over some blocks, root level first, and its root hash.
fn tree(data: &[u8], salt: &Salt) -> (Vec<u8>, Sha256) {
    let levels = verity::levels((data.len() / BLOCK_LEN) as u64, 0);
    let length = levels.first().map_or(0, |leaf| leaf.block_offset(leaf.blocks));
    let mut tree = vec![0; length as usize];
    let mut sink = |level: usize, index: u64, block: &[u8; BLOCK_LEN]| {
        let at = levels[level].block_offset(index) as usize;
        tree[at..at + BLOCK_LEN].copy_from_slice(block);
    };
    let mut builder = Builder::salted(salt.clone());
    for block in data.chunks(BLOCK_LEN) {
        builder.push(&salt.hash_block(block), &mut sink);
    }
    let root = builder.finish(&mut sink);
    (tree, root)
}

impl OfOthers {
    /// The same with another superblock before the tree.
    fn with(&self, change: impl FnOnce(&mut Parameters)) -> Vec<u8> {
        let salt = self.salt.clone();
        let mut parameters = Parameters { uuid: [0x42; 16], data_blocks: self.data_blocks, salt };
        change(&mut parameters);
        patched(&self.bytes, self.hash_offset as usize, &parameters.to_bytes())
    }
}

fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// The front of one file and the back of another.
fn spliced(front: &[u8], back: &[u8], at: usize) -> Vec<u8> {
    [&front[..at], &back[at..]].concat()
}

/// The leaf level of the tree passed off as data: its root hash is the same.
fn depth_confusion(image: &Image) -> (Vec<u8>, u64) {
    let levels = verity::levels(image.header.data_blocks, image.header.tree_offset());
    let area = &image.bytes[levels[0].offset as usize..image.header.trailer_offset() as usize];
    let header =
        Header { data_blocks: levels[0].blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
    let (bytes, root) = seal_up(area.to_vec(), &header);
    assert_eq!(root, image.root_hash);
    (bytes, header.hash_offset())
}

#[test]
fn images_of_mkimg() {
    let ours = make(&Spec { blocks: 300, ..Spec::default() });
    let other = make(&Spec { blocks: 300, seed: 2, ..Spec::default() });
    assert_eq!(ours.bytes.len(), other.bytes.len());
    let (hash, tree) = (ours.header.hash_offset() as usize, ours.header.tree_offset() as usize);
    let trailer = ours.header.trailer_offset() as usize;
    let row = |attack, veritysetup, bytes, mkimg: &[&str]| Row {
        attack,
        bytes,
        root: ours.root_hash,
        hash_offset: ours.header.hash_offset(),
        veritysetup,
        mkimg: mkimg.iter().map(|line| (*line).to_owned()).collect(),
    };
    let superblock = |change: &dyn Fn(&mut [u8; SUPERBLOCK_LEN])| {
        let mut bytes = *ours.bytes[hash..].first_chunk().unwrap();
        change(&mut bytes);
        patched(&ours.bytes, hash, &bytes)
    };
    let fewer = Header { data_blocks: ours.header.data_blocks - 1, ..ours.header };
    let another = format!(
        "root-hash 1298432: the image is consistent with itself, but it is the image of root hash {}, not of {}",
        hex(&other.root_hash),
        hex(&ours.root_hash)
    );
    let (confused, confused_offset) = {
        let big = make(&Spec { blocks: 700, ..Spec::default() });
        let (bytes, offset) = depth_confusion(&big);
        ((bytes, big.root_hash), offset)
    };
    check(vec![
        row("nothing", Says::Fine, ours.bytes.clone(), &[]),
        Row {
            root: confused.1,
            hash_offset: confused_offset,
            ..row(
                "a level of the tree as data",
                Says::Fine,
                confused.0,
                &[
                    "header 0: header at byte 0: wrong magic number",
                    "slack 512: bytes between header and superblock are not zero",
                    "superblock 1024: superblock at byte 1024: wrong magic number",
                    "slack 1152: bytes behind the superblock are not zero",
                ],
            )
        },
        row(
            "data_blocks lowered in the superblock",
            Says::Wrong,
            superblock(&|bytes| bytes[72..80].copy_from_slice(&fewer.data_blocks.to_le_bytes())),
            &["verity-superblock 1294336: data_blocks is 315, the image has 316"],
        ),
        row(
            "data_blocks lowered wherever no hash covers it",
            Says::Wrong,
            patched(
                &superblock(&|bytes| bytes[72..80].copy_from_slice(&fewer.data_blocks.to_le_bytes())),
                trailer,
                &Trailer::new(&fewer, ours.root_hash).to_block()[..],
            ),
            &[
                "verity-superblock 1294336: data_blocks is 315, the image has 316",
                "trailer 1314816: says data_blocks 315, hash_offset 1290240, image_size 1314816, fec_offset 0, fec_roots 0; the image has 316, 1294336, 1318912, 0, 0",
            ],
        ),
        row(
            "a salt where there is none",
            Says::Wrong,
            superblock(&|bytes| {
                bytes[80] = 32;
                bytes[88..120].fill(7);
            }),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294416: salt_size is 32, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        row(
            "a salt of zeros where there is none",
            Says::Wrong,
            superblock(&|bytes| bytes[80] = 1),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294416: salt_size is 1, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        row(
            "another algorithm",
            Says::Wrong,
            superblock(&|bytes| bytes[32..38].copy_from_slice(b"sha512")),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294371: algorithm is 53, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        // Type 0 hashes the salt behind the block: without one there is no difference.
        row(
            "another hash type",
            Says::Fine,
            superblock(&|bytes| bytes[12] = 0),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294348: hash_type is 0, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        row(
            "another block size",
            Says::Wrong,
            superblock(&|bytes| bytes[65] = 2),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294401: data_block_size is 2, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        row(
            "another UUID",
            Says::Fine,
            superblock(&|bytes| bytes[16] ^= 1),
            &["verity-superblock 1294336: uuid is not derived from the root hash"],
        ),
        row(
            "a byte in the padding",
            Says::Fine,
            superblock(&|bytes| bytes[400] = 1),
            &[
                "verity-superblock 1294336: verity superblock at byte 1294736: pad2 is 1, must be as version 1 with sha256, 4096-byte blocks and no salt has it",
            ],
        ),
        row(
            "the tree of another image",
            Says::Wrong,
            spliced(&ours.bytes, &spliced(&other.bytes, &ours.bytes, trailer), tree),
            &["tree 1298432: hash block is damaged, and what it covers is accounted for"],
        ),
        row(
            "superblock and tree of another image",
            Says::Wrong,
            spliced(&ours.bytes, &spliced(&other.bytes, &ours.bytes, trailer), hash),
            &[
                "verity-superblock 1294336: uuid is not derived from the root hash",
                "tree 1298432: hash block is damaged, and what it covers is accounted for",
            ],
        ),
        row(
            "front of another image",
            Says::Wrong,
            spliced(&other.bytes, &ours.bytes, 8 * BLOCK_LEN),
            &["data 4096: does not match its hash in the tree /a /dir/hard"],
        ),
        row(
            "back of another image",
            Says::Wrong,
            spliced(&ours.bytes, &other.bytes, 150 * BLOCK_LEN),
            &["data 4096: does not match its hash in the tree /a /dir/hard", &another],
        ),
        row("another image", Says::Wrong, other.bytes.clone(), &[&another]),
        row(
            "bytes appended",
            Says::Fine,
            [&ours.bytes[..], b"more"].concat(),
            &["trailing 1318912: 4 bytes behind the end of the image at 1318912"],
        ),
        row(
            "cut inside the tree",
            Says::Wrong,
            ours.bytes[..tree + 100].to_vec(),
            &["truncated 1298532: the file has 1298532 bytes, the image 1318912"],
        ),
    ]);
}

#[test]
fn images_of_others() {
    let salt = [0x5a; 32];
    let ours = of_others(&Spec { blocks: 300, ..Spec::default() }, &salt);
    let other = of_others(&Spec { blocks: 300, seed: 2, ..Spec::default() }, &salt);
    let (hash, tree_at) = (ours.hash_offset as usize, ours.hash_offset as usize + BLOCK_LEN);
    let row = |attack, veritysetup, bytes, mkimg: &[&str]| Row {
        attack,
        bytes,
        root: ours.root,
        hash_offset: ours.hash_offset,
        veritysetup,
        mkimg: mkimg.iter().map(|line| (*line).to_owned()).collect(),
    };
    let field = |at: usize, with: &[u8]| patched(&ours.bytes, hash + at, with);
    let another = format!(
        "root-hash 1298432: the tree leads to root hash {}, not to {}",
        hex(&other.root),
        hex(&ours.root)
    );
    let (confused, confused_blocks) = {
        let levels = verity::levels(ours.data_blocks, tree_at as u64);
        let mut bytes = ours.bytes[levels[0].offset as usize..].to_vec();
        let (above, root) = tree(&bytes, &ours.salt);
        assert_eq!(root, ours.root);
        let (blocks, salt) = (levels[0].blocks, ours.salt.clone());
        bytes.extend_from_slice(&Parameters { uuid: [1; 16], data_blocks: blocks, salt }.to_bytes());
        bytes.resize((blocks as usize + 1) * BLOCK_LEN, 0);
        bytes.extend_from_slice(&above);
        (bytes, blocks)
    };
    check(vec![
        row("nothing", Says::Fine, ours.bytes.clone(), &[]),
        Row {
            hash_offset: confused_blocks * 4096,
            ..row(
                "a level of the tree as data",
                Says::Fine,
                confused,
                &["not a mkimg image: no header, EROFS superblock, verity superblock or trailer in it"],
            )
        },
        row(
            "data_blocks lowered",
            Says::Wrong,
            ours.with(|p| p.data_blocks -= 1),
            &["verity-superblock 1294408: data_blocks is 315, the image has 316"],
        ),
        row(
            "data_blocks lowered by a hash block",
            Says::Wrong,
            ours.with(|p| p.data_blocks -= 128),
            &["verity-superblock 1294408: data_blocks is 188, the image has 316"],
        ),
        row(
            "data_blocks raised",
            Says::Wrong,
            ours.with(|p| p.data_blocks += 1),
            &["verity-superblock 1294408: data_blocks is 317, the image has 316"],
        ),
        row(
            "another salt",
            Says::Wrong,
            ours.with(|p| p.salt = Salt::new(&[0x5b; 32]).unwrap()),
            &[NOTHING_FITS],
        ),
        row("no salt", Says::Wrong, ours.with(|p| p.salt = Salt::NONE), &[NOTHING_FITS]),
        row(
            "a longer salt",
            Says::Wrong,
            ours.with(|p| p.salt = Salt::new(&[0x5a; 33]).unwrap()),
            &[NOTHING_FITS],
        ),
        row(
            "another algorithm",
            Says::Wrong,
            field(32, b"sha512"),
            &["verity superblock at byte 1294368: hash algorithm sha512 is not supported"],
        ),
        row(
            "another hash type",
            Says::Wrong,
            field(12, &[0]),
            &["verity superblock at byte 1294348: hash type 0 is not supported"],
        ),
        row(
            "another data block size",
            Says::Wrong,
            field(64, &[0, 2]),
            &["verity superblock at byte 1294400: a data block size of 512 bytes is not supported"],
        ),
        row(
            "another hash block size",
            Says::Wrong,
            field(68, &[0, 2]),
            &["verity superblock at byte 1294404: a hash block size of 512 bytes is not supported"],
        ),
        row(
            "another version",
            Says::Wrong,
            field(8, &[2]),
            &["verity superblock at byte 1294344: version 2 is not supported"],
        ),
        row(
            "no superblock",
            Says::Wrong,
            field(0, b"Verity"),
            &["verity superblock at byte 1294336: wrong magic number"],
        ),
        row("another UUID", Says::Fine, field(16, &[1]), &[]),
        row(
            "a byte in the padding",
            Says::Fine,
            field(400, &[1]),
            &["verity-superblock 1294736: byte of pad2 that says nothing is not zero"],
        ),
        row(
            "a byte behind the superblock",
            Says::Fine,
            field(700, &[1]),
            &["slack 1295036: bytes behind the verity superblock are not zero"],
        ),
        row(
            "the tree of another image",
            Says::Wrong,
            spliced(&ours.bytes, &other.bytes, tree_at),
            &["tree 1298432: hash block is damaged, and what it covers is accounted for"],
        ),
        row(
            "superblock and tree of another image",
            Says::Wrong,
            spliced(&ours.bytes, &other.bytes, hash),
            &["tree 1298432: hash block is damaged, and what it covers is accounted for"],
        ),
        row(
            "front of another image",
            Says::Wrong,
            spliced(&other.bytes, &ours.bytes, 8 * BLOCK_LEN),
            &["data 4096: does not match its hash in the tree /a /dir/hard"],
        ),
        row(
            "back of another image",
            Says::Wrong,
            spliced(&ours.bytes, &other.bytes, 150 * BLOCK_LEN),
            &["data 4096: does not match its hash in the tree /a /dir/hard", &another],
        ),
        row("another image", Says::Wrong, other.bytes.clone(), &[&another]),
        row(
            "bytes appended",
            Says::Fine,
            [&ours.bytes[..], b"more"].concat(),
            &["trailing 1314816: 4 bytes behind the end of the tree at 1314816"],
        ),
        row(
            "cut inside the tree",
            Says::Wrong,
            ours.bytes[..tree_at + 100].to_vec(),
            &["truncated 1298532: the file has 1298532 bytes, its tree ends at 1314816"],
        ),
        row(
            "cut inside the data",
            Says::Wrong,
            ours.bytes[..hash - 100].to_vec(),
            &["verity superblock at byte 1294336: 512 bytes from 1294336 reach beyond 1294236"],
        ),
    ]);
}

/// One flipped bit in each byte of a range, one after the other: what mkimg says must begin with a text, byte by byte.
fn flip_each(bytes: &[u8], root: Sha256, rows: &[(Range<usize>, &str)]) {
    let mut bytes = bytes.to_vec();
    for (range, text) in rows {
        for at in range.clone() {
            bytes[at] ^= 1;
            match said(&bytes, None, root).as_slice() {
                [] => assert!(text.is_empty(), "byte {at}: nothing said, wanted {text}"),
                [line] => {
                    assert!(!text.is_empty() && line.starts_with(text), "byte {at}: {line}, wanted {text}")
                }
                lines => panic!("byte {at}: {lines:#?}"),
            }
            bytes[at] ^= 1;
        }
    }
}

#[test]
fn every_byte_of_header_and_superblocks_of_an_image_of_mkimg() {
    let image = make(&Spec::default());
    let hash = image.header.hash_offset() as usize;
    let superblock =
        |at: usize| format!("verity-superblock {hash}: verity superblock at byte {}: ", hash + at);
    let (magic, pad) = (superblock(0), format!("verity-superblock {hash}: verity superblock at byte "));
    let data_blocks = format!("verity-superblock {hash}: data_blocks is ");
    let uuid = format!("verity-superblock {hash}: uuid is not derived from the root hash");
    flip_each(
        &image.bytes,
        image.root_hash,
        &[
            (0..8, "header 0: header at byte 0: wrong magic number"),
            (8..512, "header 0: header at byte 508: checksum is "),
            (512..520, "slack "),
            (1024..1028, "superblock 1024: superblock at byte 1024: wrong magic number"),
            (1028..1036, "superblock 1024: "),
            (1036..1037, "superblock 1024: superblock at byte 1036: blkszbits is 13, must be 9 to 12"),
            (1037..1152, "superblock 1024: superblock at byte 1028: checksum is "),
            (1152..1160, "slack "),
            (hash..hash + 8, &magic),
            (hash + 8..hash + 16, &pad),
            (hash + 16..hash + 32, &uuid),
            (hash + 32..hash + 72, &pad),
            (hash + 72..hash + 80, &data_blocks),
            (hash + 80..hash + 512, &pad),
            (hash + 512..hash + 520, "slack "),
        ],
    );
}

/// Where nothing but the superblock says how the tree was made, not every change can be told from another.
#[test]
fn every_byte_of_the_superblocks_of_an_image_of_others() {
    let ours = of_others(&Spec::default(), &[0x5a; 32]);
    let hash = ours.hash_offset as usize;
    let at = |field: usize, text: &str| format!("verity superblock at byte {}: {text}", hash + field);
    let nothing_fits = NOTHING_FITS.replace("1294336", &hash.to_string());
    let data_blocks = format!("verity-superblock {}: data_blocks is ", hash + 72);
    let block0 = "superblock 0: block 0, which has the superblock, does not match its hash in the tree";
    flip_each(
        &ours.bytes,
        ours.root,
        &[
            (0..8, block0),
            (1016..1024, block0),
            // Whatever it is, it is no EROFS image.
            (1024..1028, "not a mkimg image: "),
            (1028..1160, block0),
            (hash..hash + 8, &at(0, "wrong magic number")),
            (hash + 8..hash + 12, &at(8, "version ")),
            (hash + 12..hash + 16, &at(12, "hash type ")),
            // A label that nobody vouches for.
            (hash + 16..hash + 32, ""),
            (hash + 32..hash + 39, &at(32, "hash algorithm ")),
            (hash + 39..hash + 64, "verity-superblock "),
            (hash + 64..hash + 68, &at(64, "a data block size of ")),
            (hash + 68..hash + 72, &at(68, "a hash block size of ")),
            (hash + 72..hash + 80, &data_blocks),
            (hash + 80..hash + 81, &nothing_fits),
            (hash + 81..hash + 82, &at(80, "salt_size is 288, must be at most 256")),
            (hash + 82..hash + 88, "verity-superblock "),
            (hash + 88..hash + 120, &nothing_fits),
            (hash + 120..hash + 512, "verity-superblock "),
            (hash + 512..hash + 520, "slack "),
        ],
    );
}

/// What is under a tree that holds may still be made to attack a parser. It has no records and no linter, and has to be sound.
#[test]
fn file_systems_of_others_that_are_not_sound() {
    type Spoil = fn(&mut [u8], &Header);
    /// Where a name stands in the metadata area.
    fn name(bytes: &[u8], header: &Header, name: &[u8]) -> usize {
        let meta = header.meta_block as usize * BLOCK_LEN;
        meta + bytes[meta..].windows(name.len()).position(|window| window == name).unwrap()
    }
    // The inode of /a is 80 bytes before the name of its attribute.
    let cases: [(&str, Spoil); 6] = [
        ("structure 28768: directory at byte 28768: \"/mpty\" is not a file name /", |bytes, header| {
            bytes[name(bytes, header, b"empty")] = b'/';
        }),
        (
            "structure 28704: directory at byte 28704: entry holes is not in ascending order /",
            |bytes, header| bytes[name(bytes, header, b"empty")] = b'z',
        ),
        ("structure 29088: directory at byte 29088: directory is reachable twice /dir", |bytes, header| {
            // `..` of /dir leads to /dir.
            let at = name(bytes, header, b"...chard") - 4 * 12;
            let own: [u8; 8] = *bytes[at..].first_chunk().unwrap();
            bytes[at + 12..at + 20].copy_from_slice(&own);
        }),
        (
            "structure 28896: inode at byte 28896: 12288 bytes from 16773120 reach beyond 73728 /a",
            |bytes, header| {
                let inode = name(bytes, header, b"kvalue") - 80;
                bytes[inode + 16..inode + 20].copy_from_slice(&0xfff_u32.to_le_bytes());
            },
        ),
        ("structure 28972: xattr at byte 28972: 212 bytes from 0 reach beyond 12 /a", |bytes, header| {
            let at = name(bytes, header, b"kvalue");
            bytes[at - 4] = 200;
        }),
        ("structure 28896: inode at byte 28896: i_format is 241, must be below 16 /a", |bytes, header| {
            let inode = name(bytes, header, b"kvalue") - 80;
            bytes[inode] |= 0xf0;
        }),
    ];
    for (text, spoil) in cases {
        let image = of_others(&Spec { spoil, ..Spec::default() }, &[0x5a; 32]);
        let found = said(&image.bytes, None, image.root);
        assert_eq!(found.first().map(String::as_str), Some(text), "{found:#?}");
    }
}

/// A generator of test data, not of secrets.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Whatever numbers stand wherever, under hashes that hold or not, in one file or two: there is a report, and it is clean
/// for nothing but what was published.
#[test]
fn nonsense_of_others_is_never_clean_and_never_a_panic() {
    let ours = of_others(&Spec::default(), &[0x5a; 32]);
    let hash = ours.hash_offset as usize;
    let mut state = 0x0123_4567_89ab_cdef;
    for round in 0..1200 {
        let mut bytes = ours.bytes.clone();
        for _ in 0..=random(&mut state) % 3 {
            let at = match random(&mut state) % 5 {
                0 => 1024 + random(&mut state) as usize % 120,
                1 => 7 * BLOCK_LEN + random(&mut state) as usize % 1100,
                2 => hash + random(&mut state) as usize % 120,
                3 => hash + 72,
                _ => random(&mut state) as usize % (bytes.len() - 8),
            };
            let width = [1, 2, 4, 8][random(&mut state) as usize % 4];
            let value =
                [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, random(&mut state)][random(&mut state) as usize % 6];
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let mut root = ours.root;
        if round % 2 == 0 {
            // A tree that fits, so that it is structure alone that is wrong.
            let (tree, new) = tree(&bytes[..hash], &ours.salt);
            bytes[hash + BLOCK_LEN..].copy_from_slice(&tree);
            root = new;
        }
        let whole = said(&bytes, None, root);
        let (data, hashes) = bytes.split_at(hash);
        let apart = said(data, Some(hashes), root);
        if root == ours.root {
            let mut uuid = bytes.clone();
            uuid[hash + 16..hash + 32].fill(0x42);
            let same = uuid == ours.bytes;
            assert_eq!((whole.is_empty(), apart.is_empty()), (same, same), "round {round}");
        }
    }
}

/// Attack, data, tree, and what the two say.
type Case<'a> = (&'a str, &'a [u8], Vec<u8>, Says, Vec<&'a str>);

/// The tree is in a file of its own, and either file is that of another image.
#[test]
fn two_files_that_do_not_belong_together() {
    let salt = [0x5a; 32];
    let ours = of_others(&Spec { blocks: 300, ..Spec::default() }, &salt);
    let other = of_others(&Spec { blocks: 300, seed: 2, ..Spec::default() }, &[0x5b; 32]);
    let at = ours.hash_offset as usize;
    let (data, hashes) = ours.bytes.split_at(at);
    let (other_data, other_hashes) = other.bytes.split_at(at);
    let dir = tempfile::tempdir().unwrap();
    let files = [dir.path().join("data"), dir.path().join("hashes")];
    let mut damaged = data.to_vec();
    damaged[5 * BLOCK_LEN + 9] ^= 1;
    let another = format!(
        "root-hash 4096: in the hash file: the tree leads to root hash {}, not to {}",
        hex(&other.root),
        hex(&ours.root)
    );
    // The holes are the same in both.
    let all_data = [
        "data 4096: does not match its hash in the tree /a /dir/hard",
        "data 1236992: does not match its hash in the tree /b /dir/c",
        "data 1261568: does not match its hash in the tree",
        "data 1273856: does not match its hash in the tree",
    ];
    let whole = || hashes.to_vec();
    let tree_cut = "truncated 8192: in the hash file: the file has 8192 bytes, its tree ends at 20480";
    let tree_damaged =
        "tree 8192: in the hash file: hash block is damaged, and what it covers is accounted for";
    let (data_longer, tree_longer) = ([data, &[1; 10]].concat(), [hashes, &[1; 10]].concat());
    let rows: [Case<'_>; 11] = [
        ("nothing", data, whole(), Says::Fine, vec![]),
        (
            "a damaged block",
            &damaged,
            whole(),
            Says::Wrong,
            vec!["data 20480: does not match its hash in the tree /a /dir/hard"],
        ),
        ("a damaged hash block", data, patched(hashes, 8200, &[1, 2]), Says::Wrong, vec![tree_damaged]),
        (
            "the tree of another image",
            data,
            other_hashes.to_vec(),
            Says::Wrong,
            [&[another.as_str()], &all_data[..]].concat(),
        ),
        ("the data of another image", other_data, whole(), Says::Wrong, all_data.to_vec()),
        (
            "data cut",
            &data[..at - 8000],
            whole(),
            Says::Wrong,
            vec!["truncated 1286336: the image has 1286336 bytes, the tree covers 1294336"],
        ),
        (
            "data appended",
            &data_longer,
            whole(),
            Says::Fine,
            vec!["trailing 1294336: 10 bytes behind what the tree covers, which ends at 1294336"],
        ),
        ("tree cut", data, hashes[..8192].to_vec(), Says::Wrong, vec![tree_cut]),
        (
            "tree appended",
            data,
            tree_longer,
            Says::Fine,
            vec!["trailing 20480: in the hash file: 10 bytes behind the end of the tree at 20480"],
        ),
        (
            "a block less in all places but the file system",
            &data[..at - BLOCK_LEN],
            patched(hashes, 72, &315_u64.to_le_bytes()),
            Says::Wrong,
            vec![
                "superblock 1024: the file system has 1294336 bytes, the tree covers the first 1290240",
                "tree 16384: in the hash file: hash block has hashes of more than the 315 blocks of the image",
            ],
        ),
        (
            "another number of blocks",
            data,
            patched(hashes, 72, &[1, 0]),
            Says::Wrong,
            vec!["verity-superblock 72: in the hash file: data_blocks is 1, the image has 316"],
        ),
    ];
    for (attack, data, hashes, says, mkimg) in rows {
        for (file, bytes) in files.iter().zip([data, &hashes]) {
            std::fs::write(file, bytes).unwrap();
        }
        if let Some(found) = veritysetup(&files[0], &files[1], 0, &ours.root) {
            assert_eq!(found, says, "{attack}: veritysetup");
        }
        let found = said(data, Some(&hashes), ours.root);
        assert_eq!(found, mkimg, "{attack}");
    }
}
