//! Audits of whole images, and of every way to damage one.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod maker;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use maker::{Image, Spec, detach, make, seal_up};
use mkimg_format::header::Header;
use mkimg_format::seal::Statement;
use mkimg_format::trailer::Trailer;
use mkimg_format::verity_signature::VeritySignature;
use mkimg_format::{BLOCK_LEN, ReadAt, Sha256, ddi, detached, verity};
use mkimg_verify::{Error, Finding, Options, Region, Report, verify_image};

fn options(threads: usize, root_hash: Option<Sha256>) -> Options<'static> {
    Options { root_hash, threads: NonZeroUsize::new(threads).unwrap(), progress: None }
}

fn verify(bytes: &[u8]) -> Report {
    verify_image(&bytes, &options(1, None)).unwrap()
}

fn anchored(bytes: &[u8], root: Sha256) -> Report {
    verify_image(&bytes, &options(1, Some(root))).unwrap()
}

fn paths(finding: &Finding) -> Vec<String> {
    finding.paths.iter().map(|path| mkimg_format::erofs::escape(path)).collect()
}

/// The region that the format gives a byte.
fn region_of(image: &Image, at: usize) -> Region {
    let header = &image.header;
    let block = (at / BLOCK_LEN) as u64;
    let offset = at as u64;
    match at {
        0..512 => Region::Header,
        512..1024 | 1152..4096 => Region::Slack,
        1024..1152 => Region::Superblock,
        _ if block < header.meta_block => Region::Data,
        _ if block < header.seal_block => Region::Metadata,
        _ if block < header.data_blocks => Region::Seal,
        _ if offset < header.hash_offset() + 512 => Region::VeritySuperblock,
        _ if offset < header.tree_offset() => Region::Slack,
        _ if offset < header.trailer_offset() => Region::Tree,
        _ => Region::Trailer,
    }
}

/// One flipped byte is one finding, in the right region, at the right block, with the right paths.
fn check_flip(image: &Image, at: usize, report: &Report) {
    let [finding] = report.findings.as_slice() else {
        panic!("byte {at}: {} findings: {:#?}", report.findings.len(), report.findings)
    };
    let region = region_of(image, at);
    assert_eq!(finding.region, region, "byte {at}: {finding:?}");
    let (start, end) = (finding.offset, finding.offset + finding.length);
    assert!((start..end).contains(&(at as u64)), "byte {at}: {finding:?}");
    let whole_block = matches!(region, Region::Data | Region::Metadata | Region::Tree | Region::Seal);
    assert!(!whole_block || finding.length == 4096, "byte {at}: {finding:?}");
    assert!(report.complete && !report.is_clean());
    assert_eq!(report.root_hash, image.root_hash, "byte {at}");
    let block = (at / BLOCK_LEN) as u64;
    if region == Region::Data {
        let (_, owners) = image.owners.iter().find(|(blocks, _)| blocks.contains(&block)).unwrap();
        assert_eq!(&paths(finding), owners, "byte {at}");
    }
    if region == Region::Metadata {
        // Damage may make other names unreadable; the owner of the byte is named as long as the way there is intact.
        let owner = image.bodies.iter().find(|(bytes, _)| bytes.contains(&(at as u64)));
        if let Some((_, path)) = owner.filter(|(_, path)| !path.starts_with("/dir/")) {
            let names = paths(finding);
            let lost = image.bodies.iter().any(|(bytes, path)| *path == "/" && bytes.contains(&(at as u64)));
            assert!(names.iter().any(|name| name == path) || lost, "byte {at}: {path} is not in {names:?}");
        }
    }
}

fn flip_all(image: &Image, offsets: &[usize], masks: &[u8], root: Option<Sha256>) {
    std::thread::scope(|scope| {
        for part in offsets.chunks(offsets.len().div_ceil(2).max(1)) {
            scope.spawn(move || {
                let mut bytes = image.bytes.clone();
                for &at in part {
                    for mask in masks {
                        bytes[at] ^= mask;
                        let report = verify_image(&bytes, &options(1, root)).unwrap();
                        check_flip(image, at, &report);
                        bytes[at] ^= mask;
                    }
                }
            });
        }
    });
}

#[test]
fn what_the_maker_writes_is_clean() {
    for blocks in [1, 2, 100, 111, 112, 113, 127, 128, 129, 300] {
        let image = make(&Spec { blocks, ..Spec::default() });
        let report = verify(&image.bytes);
        assert!(report.is_clean(), "{blocks} blocks: {report:#?}");
        assert_eq!(report.root_hash, image.root_hash);
        assert_eq!(report.image_size, image.bytes.len() as u64);
        assert_eq!(report.bytes_read, report.image_size);
        assert_eq!(report.data_blocks, image.header.data_blocks);
        assert!(!report.anchored && !report.data_absent);
        let report = anchored(&image.bytes, image.root_hash);
        assert!(report.is_clean() && report.anchored);
    }
}

/// Oracles: the maker's image is one for the tools of others as well.
#[test]
fn what_the_maker_writes_passes_veritysetup_and_fsck_erofs() {
    let image = make(&Spec { blocks: 300, ..Spec::default() });
    let dir = std::env::temp_dir().join(format!("mkimg-verify-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("image");
    std::fs::write(&path, &image.bytes).unwrap();
    let file = path.to_str().unwrap();
    let offset = format!("--hash-offset={}", image.header.hash_offset());
    let blocks = format!("--data-blocks={}", image.header.data_blocks);
    let root = mkimg_format::hex(&image.root_hash);
    for arguments in
        [&["veritysetup", "verify", &offset, &blocks, file, file, &root][..], &["fsck.erofs", file]]
    {
        match std::process::Command::new(arguments[0]).args(&arguments[1..]).output() {
            Ok(output) => assert!(output.status.success(), "{arguments:?}: {output:?}"),
            Err(error) => println!("skipped: {}: {error}", arguments[0]),
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn every_flipped_byte_is_found_and_named() {
    let image = make(&Spec::default());
    let all: Vec<usize> = (0..image.bytes.len()).collect();
    flip_all(&image, &all, &[1], None);
}

#[test]
fn every_flipped_bit_of_some_bytes_is_found() {
    let image = make(&Spec::default());
    let sample: Vec<usize> = (0..image.bytes.len()).step_by(401).collect();
    flip_all(&image, &sample, &[2, 4, 8, 16, 32, 64, 128, 255], Some(image.root_hash));
}

/// Two levels of tree, unused slots included.
#[test]
fn every_region_of_a_deeper_tree_is_told_apart() {
    let image = make(&Spec { blocks: 150, ..Spec::default() });
    let tree = image.header.tree_offset() as usize;
    let sample: Vec<usize> = (0..image.bytes.len())
        .step_by(4093)
        .chain((tree..image.header.trailer_offset() as usize).step_by(61))
        .collect();
    flip_all(&image, &sample, &[0x40], None);
}

/// A generator of test data, not of secrets.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn the_reported_blocks_are_the_damaged_blocks() {
    let image = make(&Spec { blocks: 700, ..Spec::default() });
    let header = image.header;
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for count in [1, 2, 3, 10, 50, 300, 700] {
        let mut bytes = image.bytes.clone();
        let mut damaged = BTreeSet::new();
        for _ in 0..count {
            let block = 1 + random(&mut state) % (header.data_blocks - 1);
            let at = block as usize * BLOCK_LEN + random(&mut state) as usize % BLOCK_LEN;
            if damaged.insert(block) {
                bytes[at] ^= 1 << (random(&mut state) % 8);
            }
        }
        for root in [None, Some(image.root_hash)] {
            let report = verify_image(&bytes, &options(2, root)).unwrap();
            let mut reported = BTreeSet::new();
            for finding in &report.findings {
                assert_ne!(finding.region, Region::Tree, "{finding:?}");
                let first = finding.offset / 4096;
                for block in first..first + finding.length / 4096 {
                    assert!(reported.insert(block), "block {block} is reported twice");
                }
            }
            assert_eq!(reported, damaged, "{count} blocks");
        }
    }
}

/// Damage of tree and data at once: nothing is missed, no proven block is blamed, and doubt stays below the
/// damaged hash blocks.
#[test]
fn mixed_damage_is_never_missed_and_never_blamed_on_the_wrong_block() {
    let image = make(&Spec { blocks: 2000, ..Spec::default() });
    let header = image.header;
    let tree_blocks = header.tree_blocks();
    let first_tree = header.tree_offset() / 4096;
    let leaf0 = verity::levels(header.data_blocks, header.tree_offset())[0].offset / 4096;
    let mut state = 0xfeed_beef_1234_5678;
    for round in 0..120 {
        let mut bytes = image.bytes.clone();
        let mut damaged = BTreeSet::new();
        for _ in 0..random(&mut state) % 12 {
            damaged.insert(1 + random(&mut state) % (header.data_blocks - 1));
        }
        for _ in 0..=random(&mut state) % 4 {
            damaged.insert(first_tree + random(&mut state) % tree_blocks);
        }
        for block in &damaged {
            for _ in 0..=random(&mut state) % 40 {
                let at = *block as usize * BLOCK_LEN + random(&mut state) as usize % BLOCK_LEN;
                bytes[at] = bytes[at].wrapping_add(1);
            }
        }
        let root = (round % 2 == 0).then_some(image.root_hash);
        let report = verify_image(&bytes, &options(1 + round % 3, root)).unwrap();
        let (mut blamed, mut doubted) = (BTreeSet::new(), BTreeSet::new());
        for finding in report.findings.iter().filter(|finding| finding.region != Region::RootHash) {
            let doubt = finding.problem.contains("vouched");
            let first = finding.offset / 4096;
            for block in first..first + finding.length / 4096 {
                assert!(if doubt { &mut doubted } else { &mut blamed }.insert(block), "{block} twice");
            }
        }
        for block in &damaged {
            assert!(
                blamed.contains(block) || doubted.contains(block),
                "block {block} was missed: {report:#?}"
            );
        }
        for block in &blamed {
            assert!(damaged.contains(block), "block {block} is fine: {report:#?}");
        }
        for block in doubted.difference(&damaged) {
            let hash_block = leaf0 + block / 128;
            let above = damaged.contains(&hash_block) || damaged.contains(&first_tree);
            assert!(above, "block {block} is in doubt without reason: {report:#?}");
        }
    }
}

#[test]
fn data_and_its_hash_block_can_both_be_damaged() {
    let image = make(&Spec { blocks: 300, ..Spec::default() });
    let mut bytes = image.bytes.clone();
    let levels = verity::levels(image.header.data_blocks, image.header.tree_offset());
    // One data block, and the slot of another one under the same hash block.
    bytes[40 * BLOCK_LEN] ^= 1;
    bytes[levels[0].block_offset(0) as usize + 32 * 50] ^= 1;
    let report = verify(&bytes);
    let found: Vec<_> =
        report.findings.iter().map(|finding| (finding.region, finding.offset / 4096)).collect();
    assert_eq!(found, [(Region::Data, 40), (Region::Tree, levels[0].offset / 4096)], "{report:#?}");
    // The whole tree is overwritten: the data still leads to the root.
    let mut bytes = image.bytes.clone();
    bytes[image.header.tree_offset() as usize..image.header.trailer_offset() as usize].fill(0x55);
    let report = verify(&bytes);
    assert!(report.findings.iter().all(|finding| finding.region == Region::Tree), "{report:#?}");
    assert_eq!(report.findings.iter().map(|finding| finding.length).sum::<u64>(), 4 * 4096);
    // Data changed and its hash block with it, but not the level above.
    let mut bytes = image.bytes.clone();
    bytes[200 * BLOCK_LEN] ^= 1;
    let leaf = mkimg_format::merkle::hash_block(&bytes[200 * BLOCK_LEN..201 * BLOCK_LEN]);
    let slot = levels[0].offset as usize + 200 * 32;
    bytes[slot..slot + 32].copy_from_slice(&leaf);
    let report = verify(&bytes);
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.region, finding.offset / 4096, finding.length / 4096))
        .collect();
    assert_eq!(
        found,
        [(Region::Data, 128, 128), (Region::Tree, levels[0].offset / 4096 + 1, 1)],
        "{report:#?}"
    );
}

#[test]
fn padding_behind_a_file_is_named() {
    let image = make(&Spec::default());
    let mut bytes = image.bytes.clone();
    bytes[3 * BLOCK_LEN + 101] ^= 1;
    let report = verify(&bytes);
    assert!(report.findings[0].problem.contains("behind the end of the file"), "{report:#?}");
    bytes[3 * BLOCK_LEN + 101] ^= 1;
    bytes[3 * BLOCK_LEN + 99] ^= 1;
    assert!(!verify(&bytes).findings[0].problem.contains("behind"));
}

/// All data replaced: bounded memory, one finding for each file, and nothing said about the tree.
#[test]
fn an_image_that_is_damaged_throughout() {
    let image = make(&Spec { blocks: 20_000, zeros: true, ..Spec::default() });
    let mut bytes = image.bytes.clone();
    let meta = image.header.meta_block as usize * BLOCK_LEN;
    bytes[BLOCK_LEN..meta].iter_mut().for_each(|byte| *byte ^= 0xff);
    let report = verify_image(&bytes, &options(2, None)).unwrap();
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.offset, finding.length, paths(finding).join(" ")))
        .collect();
    let end = 4096 * 20_001;
    let expected = [
        (4096, end - 4096, "/a /dir/hard".to_owned()),
        // The last block is apart: what stands behind the end of the file is not zero.
        (end, 4096, "/a /dir/hard".to_owned()),
        (end + 4096, 4096, "/b /dir/c".to_owned()),
        (end + 8192, 4096, "/holes".to_owned()),
        (end + 12288, 4096, "/holes".to_owned()),
    ];
    assert_eq!(found, expected);
    assert!(report.findings.iter().all(|finding| finding.region == Region::Data));
}

#[test]
fn every_truncation_is_found() {
    let image = make(&Spec { blocks: 120, ..Spec::default() });
    for length in (512..image.bytes.len()).step_by(512) {
        for root in [None, Some(image.root_hash)] {
            let report = verify_image(&&image.bytes[..length], &options(1, root)).unwrap();
            let finding = report.findings.iter().find(|finding| finding.region == Region::Truncated).unwrap();
            assert_eq!(finding.offset, length as u64);
            assert_eq!(finding.length, (image.bytes.len() - length) as u64);
            let others = report.findings.iter().filter(|finding| finding.region != Region::Truncated);
            // A cut superblock is damaged as well.
            assert!(others.clone().count() == 0 || length < 1152, "{length}: {report:#?}");
            assert_eq!(report.image_size, image.bytes.len() as u64);
            let (hash, tree) = (image.header.hash_offset(), image.header.tree_offset());
            let proven = length as u64 >= if root.is_some() { hash } else { tree };
            assert_eq!(
                finding.problem.contains("could not be checked"),
                !proven,
                "{length}: {}",
                finding.problem
            );
        }
    }
    for length in [0, 1, 511] {
        let found = verify_image(&&image.bytes[..length], &options(1, None));
        assert!(matches!(found, Err(Error::NotAnImage { .. })), "{length} bytes: {found:?}");
    }
}

#[test]
fn appended_bytes_are_found() {
    let image = make(&Spec::default());
    for count in [1, 511, 512, 4096, 8192, 10_000] {
        for value in [0, 0xff] {
            let mut bytes = image.bytes.clone();
            bytes.resize(bytes.len() + count, value);
            let report = verify(&bytes);
            let [finding] = report.findings.as_slice() else { panic!("{count}: {report:#?}") };
            assert_eq!(finding.region, Region::Trailing);
            assert_eq!((finding.offset, finding.length), (image.bytes.len() as u64, count as u64));
        }
    }
}

#[test]
fn a_changed_block_count_is_found() {
    let image = make(&Spec { blocks: 300, ..Spec::default() });
    let header = image.header;
    let (hash, trailer) = (header.hash_offset() as usize, header.trailer_offset() as usize);
    for change in [-128_i64, -1, 1, 128] {
        let blocks = header.data_blocks.checked_add_signed(change).unwrap();
        let wrong = Header { data_blocks: blocks, seal_block: header.seal_block.min(blocks - 1), ..header };
        for (sources, region) in [
            (&["header"][..], Region::Header),
            (&["trailer"], Region::Trailer),
            (&["verity"], Region::VeritySuperblock),
            (&["trailer", "verity"], Region::Trailer),
            (&["header", "trailer"], Region::Header),
        ] {
            let mut bytes = image.bytes.clone();
            for source in sources {
                match *source {
                    "header" => bytes[..512].copy_from_slice(&wrong.to_bytes()),
                    "trailer" => {
                        let block = Trailer::new(&wrong, image.root_hash).to_block();
                        bytes[trailer..trailer + BLOCK_LEN].copy_from_slice(&block[..]);
                    }
                    _ => {
                        let block = verity::Superblock::new(blocks, &image.root_hash).to_block();
                        bytes[hash..hash + BLOCK_LEN].copy_from_slice(&block[..]);
                    }
                }
            }
            let report = verify(&bytes);
            assert_eq!(report.data_blocks, header.data_blocks, "{change} {sources:?}");
            assert!(report.findings.iter().any(|finding| finding.region == region), "{change} {report:#?}");
            assert_eq!(report.findings.len(), sources.len(), "{change} {report:#?}");
        }
    }
}

/// The leaf level passed off as data has the same root hash.
#[test]
fn depth_confusion_is_found() {
    let image = make(&Spec { blocks: 700, ..Spec::default() });
    let levels = verity::levels(image.header.data_blocks, image.header.tree_offset());
    let blocks = levels[0].blocks;
    let area = &image.bytes[levels[0].offset as usize..image.header.trailer_offset() as usize];
    let header = Header { data_blocks: blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
    let (bytes, root) = seal_up(area.to_vec(), &header);
    assert_eq!(root, image.root_hash);
    for root in [None, Some(image.root_hash)] {
        let report = verify_image(&bytes, &options(1, root)).unwrap();
        assert!(report.findings.iter().any(|finding| finding.region == Region::Header), "{report:#?}");
        assert!(report.findings.iter().any(|finding| finding.region == Region::Superblock), "{report:#?}");
    }
}

#[test]
fn another_image_and_its_parts_are_found() {
    let ours = make(&Spec { blocks: 300, ..Spec::default() });
    let other = make(&Spec { blocks: 300, seed: 2, ..Spec::default() });
    assert_eq!(ours.bytes.len(), other.bytes.len());
    // The whole image.
    let report = anchored(&other.bytes, ours.root_hash);
    let [finding] = report.findings.as_slice() else { panic!("{report:#?}") };
    assert_eq!(finding.region, Region::RootHash);
    assert!(finding.problem.contains("consistent with itself"), "{}", finding.problem);
    assert_eq!(report.root_hash, other.root_hash);
    // Its tree: the data leads to our root, so it is the tree that is wrong.
    let (tree, trailer) = (ours.header.tree_offset() as usize, ours.header.trailer_offset() as usize);
    let mut bytes = ours.bytes.clone();
    bytes[tree..trailer].copy_from_slice(&other.bytes[tree..trailer]);
    for root in [None, Some(ours.root_hash)] {
        let report = verify_image(&bytes, &options(1, root)).unwrap();
        assert!(!report.is_clean());
        assert!(report.findings.iter().all(|finding| finding.region == Region::Tree), "{report:#?}");
        assert_eq!(report.root_hash, ours.root_hash);
    }
    // Its trailer.
    let mut bytes = ours.bytes.clone();
    bytes[trailer..].copy_from_slice(&other.bytes[trailer..]);
    for root in [None, Some(ours.root_hash)] {
        let report = verify_image(&bytes, &options(1, root)).unwrap();
        assert_eq!(report.root_hash, ours.root_hash);
        let [finding] = report.findings.as_slice() else { panic!("{report:#?}") };
        assert_eq!(finding.region, Region::Trailer);
    }
    // Half of it.
    let mut bytes = ours.bytes.clone();
    bytes[..tree / 2].copy_from_slice(&other.bytes[..tree / 2]);
    for root in [None, Some(ours.root_hash)] {
        let report = verify_image(&bytes, &options(1, root)).unwrap();
        assert!(report.findings.iter().any(|finding| finding.region == Region::Data), "{report:#?}");
    }
}

/// Fails the n-th read.
struct Failing<'a> {
    bytes: &'a [u8],
    left: AtomicU64,
    all_after: bool,
}

impl ReadAt for Failing<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(1) => return Err(io::Error::from_raw_os_error(5)),
            Err(_) if self.all_after => return Err(io::Error::from_raw_os_error(5)),
            _ => {}
        }
        self.bytes.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }
}

#[test]
fn a_failing_read_is_never_clean() {
    let image = make(&Spec { blocks: 150, ..Spec::default() });
    for (all_after, threads) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let mut reads = 0;
        for number in 1.. {
            let failing = Failing { bytes: &image.bytes, left: AtomicU64::new(number), all_after };
            let result = verify_image(&failing, &options(threads, Some(image.root_hash)));
            if failing.left.load(Ordering::Relaxed) > 0 {
                assert!(result.unwrap().is_clean());
                break;
            }
            reads = number;
            if let Ok(report) = result {
                assert!(!report.is_clean(), "read {number}: {report:#?}");
            }
        }
        assert!(reads > 20);
    }
}

/// Cannot read some blocks.
struct Bad<'a> {
    bytes: &'a [u8],
    blocks: &'a [u64],
}

impl ReadAt for Bad<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + buf.len() as u64;
        if self.blocks.iter().any(|block| range.start < (block + 1) * 4096 && block * 4096 < range.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.bytes.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }
}

#[test]
fn unreadable_blocks_are_findings() {
    let image = make(&Spec { blocks: 150, ..Spec::default() });
    let last = image.bytes.len() as u64 / 4096;
    for block in 0..last {
        let bad = Bad { bytes: &image.bytes, blocks: &[block] };
        let report = verify_image(&bad, &options(1, None)).unwrap();
        assert!(!report.complete, "block {block}");
        let [finding] = report.findings.as_slice() else { panic!("block {block}: {report:#?}") };
        assert_eq!(finding.offset, block * 4096);
        assert!(finding.problem.contains("unreadable: Input/output error"), "{}", finding.problem);
        let region = if block == 0 { Region::Header } else { region_of(&image, block as usize * BLOCK_LEN) };
        assert_eq!(finding.region, region);
    }
    let bad = Bad { bytes: &image.bytes, blocks: &[3, 4, 9] };
    let report = verify_image(&bad, &options(1, None)).unwrap();
    let found: Vec<_> =
        report.findings.iter().map(|finding| (finding.offset / 4096, finding.length / 4096)).collect();
    assert_eq!(found, [(3, 2), (9, 1)]);
}

#[test]
fn the_number_of_threads_does_not_show() {
    let image = make(&Spec { blocks: 3000, ..Spec::default() });
    let mut bytes = image.bytes.clone();
    let mut state = 77;
    for _ in 0..200 {
        let at = random(&mut state) as usize % bytes.len();
        bytes[at] ^= 0x10;
    }
    // Hashes that hold over records that lie, of a file of several parts as well.
    let twist = |records: &mut maker::Records| {
        records.contents.iter_mut().for_each(|content| content.fsverity[9] ^= 1);
        records.contents[1].size = 1.into();
    };
    let lies = make(&Spec { blocks: 3000, twist, ..Spec::default() });
    let problems = verify(&lies.bytes).findings.into_iter().map(|finding| finding.problem);
    let problems: Vec<String> = problems.filter(|problem| problem.contains("content")).collect();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    for (bytes, root_hash) in
        [(&image.bytes, image.root_hash), (&bytes, image.root_hash), (&lies.bytes, lies.root_hash)]
    {
        for root in [None, Some(root_hash)] {
            let one = verify_image(bytes, &options(1, root)).unwrap();
            for threads in [2, 8] {
                assert_eq!(one, verify_image(bytes, &options(threads, root)).unwrap());
            }
        }
    }
}

#[test]
fn three_levels() {
    let image = make(&Spec { blocks: 128 * 128, zeros: true, ..Spec::default() });
    let levels = verity::levels(image.header.data_blocks, image.header.tree_offset());
    assert_eq!(levels.len(), 3);
    let most = AtomicU64::new(0);
    let progress = |done: u64, total: u64| {
        assert!(done <= total);
        most.fetch_max(done, Ordering::Relaxed);
    };
    let with_progress = Options { progress: Some(&progress), ..options(2, None) };
    let report = verify_image(&image.bytes, &with_progress).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(most.into_inner(), image.bytes.len() as u64);
    for level in &levels {
        for index in [0, level.blocks - 1] {
            let mut bytes = image.bytes.clone();
            let at = level.block_offset(index) as usize;
            bytes[at] ^= 1;
            check_flip(&image, at, &verify(&bytes));
        }
    }
}

#[test]
fn a_detached_seal_is_checked_without_its_data() {
    let image = make(&Spec { blocks: 300, ..Spec::default() });
    let seal = detach(&image);
    let opened = detached::Sealed::open(seal.as_slice()).unwrap();
    for report in [verify(&seal), verify_image(&opened, &options(2, Some(image.root_hash))).unwrap()] {
        assert!(report.is_clean() && report.data_absent, "{report:#?}");
        assert_eq!((report.root_hash, report.image_size), (image.root_hash, image.bytes.len() as u64));
    }
    let cut = (image.header.meta_block as usize - 1) * BLOCK_LEN;
    for at in (BLOCK_LEN..seal.len()).step_by(211) {
        let mut bytes = seal.clone();
        bytes[at] ^= 1;
        let Ok(report) = verify_image(&bytes, &options(1, None)) else {
            assert!(at < 2 * BLOCK_LEN && at % BLOCK_LEN < 512, "byte {at}");
            continue;
        };
        let in_image = at - BLOCK_LEN + if at < 2 * BLOCK_LEN { 0 } else { cut };
        if region_of(&image, in_image) != Region::Tree {
            check_flip(&image, in_image, &report);
            continue;
        }
        // The slots of absent blocks cannot be recomputed: what shares their hash block is in doubt as well.
        let (tree, others): (Vec<_>, Vec<_>) =
            report.findings.iter().partition(|finding| finding.region == Region::Tree);
        let [finding] = tree.as_slice() else { panic!("byte {at}: {report:#?}") };
        assert_eq!((finding.offset, finding.length), (in_image as u64 / 4096 * 4096, 4096));
        assert!(others.iter().all(|finding| finding.problem.contains("vouched")), "byte {at}: {report:#?}");
    }
}

/// States that a trace decided the order, and how many contents it put first.
fn trace(statement: &mut Statement, hot: Option<u64>) {
    statement.options.insert("optimize_for".to_owned(), format!("sha256:{}", "0".repeat(64)));
    statement.hot = hot;
}

/// Everything is hashed as it is, so only the meaning is wrong.
#[test]
fn lies_of_a_builder_are_found() {
    type Case = (&'static str, Region, fn(&mut maker::Records));
    let cases: [Case; 18] = [
        ("statement has", Region::Seal, |records| records.manifest.push(b' ')),
        ("missing", Region::Seal, |records| records.config.clear()),
        ("has no digest", Region::Seal, |records| records.statement.source.config_digest = None),
        ("format is 2", Region::Seal, |records| records.statement.format = 2),
        ("1 hot contents without", Region::Seal, |records| records.statement.hot = Some(1)),
        ("without hot contents", Region::Seal, |records| trace(&mut records.statement, None)),
        ("18446744073709551615 hot contents of", Region::Seal, |records| {
            trace(&mut records.statement, Some(u64::MAX))
        }),
        ("fs-verity digest", Region::Structure, |records| records.contents[0].fsverity[0] ^= 1),
        ("fs-verity digest", Region::Structure, |records| records.contents[3].fsverity[31] ^= 1),
        ("size is", Region::Structure, |records| records.contents[2].size = 1.into()),
        ("reserved field", Region::Structure, |records| records.contents[1].reserved = 1.into()),
        ("belongs to no file", Region::Seal, |records| records.contents.push(records.contents[0])),
        ("has no record", Region::Structure, |records| records.inodes.truncate(7)),
        ("ascending", Region::Seal, |records| records.inodes.swap(1, 2)),
        ("layer 7", Region::Structure, |records| records.inodes[3].layer = 7.into()),
        ("content 9", Region::Structure, |records| records.inodes[1].content = 9.into()),
        ("visible + shadowed", Region::Seal, |records| records.layers[0].shipped = 1.into()),
        ("names layers", Region::Seal, |records| records.deleted[0].deleted_by = 3.into()),
    ];
    for (text, region, twist) in cases {
        let image = make(&Spec { twist, ..Spec::default() });
        let report = anchored(&image.bytes, image.root_hash);
        let hit = report.findings.iter().find(|finding| finding.problem.contains(text));
        assert_eq!(hit.map(|finding| finding.region), Some(region), "{text}: {report:#?}");
    }
    type Spoil = fn(&mut [u8], &Header);
    let cases: [(&str, Region, Spoil); 5] = [
        ("not zero", Region::Slack, |bytes, _| bytes[600] = 1),
        ("not zero", Region::Slack, |bytes, _| bytes[3 * BLOCK_LEN + 200] = 1),
        ("behind the", Region::Slack, |bytes, _| *bytes.last_mut().unwrap() = 1),
        ("section", Region::Seal, |bytes, header| bytes[header.seal_block as usize * BLOCK_LEN + 17] = 1),
        ("not a file name", Region::Structure, |bytes, header| {
            let at = header.meta_block as usize * BLOCK_LEN;
            let name = bytes[at..].windows(5).position(|window| window == b"empty").unwrap();
            bytes[at + name] = b'/';
        }),
    ];
    for (text, region, spoil) in cases {
        let image = make(&Spec { spoil, ..Spec::default() });
        let report = anchored(&image.bytes, image.root_hash);
        let hit = report.findings.iter().find(|finding| finding.problem.contains(text));
        assert_eq!(hit.map(|finding| finding.region), Some(region), "{text}: {report:#?}");
    }
}

#[test]
fn a_file_that_is_no_image_is_an_error() {
    for bytes in [vec![0; 100_000], vec![0xff; 5000], b"PK".repeat(30_000)] {
        let found = verify_image(&bytes, &options(1, None));
        assert!(matches!(found, Err(Error::NotAnImage { .. })), "{found:?}");
    }
}

/// Hostile structures under hashes that hold: whatever they say, the audit ends with a report.
#[test]
fn sealed_nonsense_never_panics() {
    let image = make(&Spec::default());
    let header = image.header;
    let area = &image.bytes[..header.hash_offset() as usize];
    let meta = header.meta_block as usize * BLOCK_LEN;
    let mut state = 0x1234_5678_9abc_def1;
    let mut dirty = 0;
    for _ in 0..1500 {
        let mut bytes = area.to_vec();
        for _ in 0..=random(&mut state) % 3 {
            // Inodes and directories, the table and records of the seal, or the superblock.
            let at = match random(&mut state) % 4 {
                0 | 1 => meta + random(&mut state) as usize % 1100,
                2 => {
                    let block =
                        header.seal_block + random(&mut state) % (header.data_blocks - header.seal_block);
                    block as usize * BLOCK_LEN + random(&mut state) as usize % 400
                }
                _ => 1032 + random(&mut state) as usize % 120,
            };
            let width = [1, 2, 4, 8][random(&mut state) as usize % 4];
            let value =
                [0, 1, u64::MAX, u64::MAX >> 1, 1 << 31, random(&mut state)][random(&mut state) as usize % 6];
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        let (bytes, root) = seal_up(bytes, &header);
        let report = verify_image(&bytes, &options(1, Some(root))).unwrap();
        dirty += usize::from(!report.is_clean());
        assert!(report.findings.iter().all(|finding| finding.region != Region::Tree), "{report:#?}");
        // And damaged on top of it, so that names are looked for in nonsense.
        let mut damaged = bytes;
        damaged[meta + 5] ^= 1;
        damaged[BLOCK_LEN] ^= 1;
        assert!(!verify_image(&damaged, &options(1, Some(root))).unwrap().is_clean());
    }
    assert!(dirty > 1000, "{dirty}");
}

/// An image in the partitions of a disk, and where the table is at its end.
fn on_a_disk(image: &Image, oci_name: &str) -> (Vec<u8>, ddi::Disk) {
    let architecture = ddi::Architecture::by_oci_name(oci_name).unwrap();
    let signature = VeritySignature { root_hash: image.root_hash, pkcs7: vec![7; 300], fingerprint: None };
    let signature = signature.to_partition();
    let table = ddi::table(architecture, &image.header, &image.root_hash, Some(&signature));
    let mut bytes = table.primary();
    bytes.resize(ddi::DATA_OFFSET as usize, 0);
    bytes.extend_from_slice(&image.bytes);
    bytes.extend_from_slice(&signature);
    bytes.resize(table.backup_bytes().start as usize, 0);
    bytes.extend(table.backup());
    let disk = ddi::Disk::open(&bytes).unwrap().unwrap();
    (bytes, disk)
}

#[test]
fn around_an_image_on_a_disk_every_flipped_byte_is_found() {
    let image = make(&Spec::default());
    let (mut bytes, disk) = on_a_disk(&image, "amd64");
    let report = verify(&bytes);
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.bytes_read, bytes.len() as u64);
    assert_eq!(report.root_hash, image.root_hash);
    assert!(anchored(&bytes, image.root_hash).is_clean());
    assert!(!anchored(&bytes, [1; 32]).is_clean());

    let signature = disk.partition(ddi::Role::Signature).unwrap().bytes.clone();
    let backup = disk.table().backup_bytes();
    let region = |at: u64| match at {
        0..512 => Region::ProtectiveMbr,
        512..0x4400 => Region::PartitionTable,
        _ if signature.contains(&at) => Region::SignaturePartition,
        _ if backup.contains(&at) => Region::PartitionTable,
        _ => Region::DiskSlack,
    };
    let end = bytes.len() as u64;
    let sample = (0..1300).step_by(3).chain([0x43ff, 0x4400, 0xf_ffff]).chain((0..0x10_0000).step_by(19_997));
    let sample = sample.chain((signature.start..end).step_by(23)).chain(end - 512..end - 400);
    for at in sample {
        bytes[at as usize] ^= 0x10;
        let report = verify(&bytes);
        let [finding] = report.findings.as_slice() else { panic!("byte {at}: {report:#?}") };
        assert_eq!(finding.region, region(at), "byte {at}: {finding:?}");
        assert!(report.complete && report.root_hash == image.root_hash, "byte {at}");
        bytes[at as usize] ^= 0x10;
    }
}

#[test]
fn damage_inside_of_a_disk_is_told_as_of_the_image() {
    let image = make(&Spec { blocks: 150, ..Spec::default() });
    let (good, _) = on_a_disk(&image, "amd64");
    for at in (0..image.bytes.len()).step_by(4093) {
        let mut bytes = good.clone();
        bytes[ddi::DATA_OFFSET as usize + at] ^= 0x40;
        check_flip(&image, at, &verify(&bytes));
    }
}

#[test]
fn a_disk_of_two_images_or_for_another_processor_is_not_clean() {
    let (image, other) = (make(&Spec::default()), make(&Spec { seed: 9, ..Spec::default() }));
    let (good, disk) = on_a_disk(&image, "amd64");
    let (of_other, _) = on_a_disk(&other, "amd64");
    let verity = disk.partition(ddi::Role::Verity).unwrap().bytes.clone();
    let (start, end) = (verity.start as usize, verity.end as usize);

    // The tree of another image behind the data of this one.
    let mut bytes = good.clone();
    bytes[start..end].copy_from_slice(&of_other[start..end]);
    let report = anchored(&bytes, image.root_hash);
    assert!(report.findings.iter().any(|finding| finding.region == Region::VeritySuperblock), "{report:#?}");
    assert!(!verify(&bytes).is_clean());
    // The same with all that is said around it: what is said is of the other, the data is not.
    let mut bytes = of_other.clone();
    bytes[ddi::DATA_OFFSET as usize..start].copy_from_slice(&good[ddi::DATA_OFFSET as usize..start]);
    let report = anchored(&bytes, other.root_hash);
    assert!(report.findings.iter().any(|finding| finding.region == Region::Data), "{report:#?}");

    let (bytes, _) = on_a_disk(&image, "arm64");
    let [finding] = &verify(&bytes).findings[..] else { panic!() };
    assert_eq!(
        (finding.region, finding.problem.as_str()),
        (Region::PartitionTable, "partitions are for arm64, the image is for amd64")
    );

    let mut bytes = good.clone();
    bytes.extend_from_slice(b"abc");
    let [finding] = &verify(&bytes).findings[..] else { panic!() };
    assert_eq!((finding.region, finding.offset, finding.length), (Region::Trailing, good.len() as u64, 3));

    for (bytes, expected) in [
        (good[..good.len() - 512].to_vec(), "the disk is truncated"),
        (good[..ddi::DATA_OFFSET as usize].to_vec(), "the disk is truncated"),
    ] {
        let error = verify_image(&bytes, &options(1, None)).unwrap_err();
        assert!(matches!(error, Error::Around(_)) && error.to_string().contains(expected), "{error}");
    }
}

/// A disk that claims a gap of 2^50 bytes, and has it as a hole.
#[test]
fn a_hole_between_partitions_is_not_read_for_ever() {
    struct Holey {
        bytes: Vec<u8>,
        hole: std::ops::Range<u64>,
        read: AtomicU64,
    }
    impl ReadAt for Holey {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if self.hole.contains(&offset) {
                self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
                buf.fill(0);
                return Ok(());
            }
            let skipped = if offset < self.hole.start { 0 } else { self.hole.end - self.hole.start };
            self.bytes.read_exact_at(buf, offset - skipped)
        }
        fn size(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64 + self.hole.end - self.hole.start)
        }
    }
    let image = make(&Spec::default());
    let (bytes, disk) = on_a_disk(&image, "amd64");
    let (gap, length) = (disk.gaps().pop().unwrap(), 1_u64 << 50);
    let mut table = disk.table().clone();
    table.size += length;
    table.usable.end += length;
    let head = table.primary();
    let tail = table.backup();
    let bytes = [&head, &bytes[head.len()..gap.end as usize], &tail].concat();
    let disk = Holey { bytes, hole: gap.start..gap.start + length, read: AtomicU64::new(0) };
    let report = verify_image(&disk, &options(1, None)).unwrap();
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    assert_eq!((finding.region, report.complete), (Region::DiskSlack, false));
    assert!(finding.problem.starts_with("more than 1 GiB outside of partitions"), "{finding:?}");
    assert!(disk.read.load(Ordering::Relaxed) <= 1 << 30);
}
