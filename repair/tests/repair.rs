//! Damage of every kind: the result is the image, to the byte, or an honest list of what is left.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::OnceLock;

use mkimg_format::fec::Layout;
use mkimg_format::header::Header;
use mkimg_format::records::{Kind, Record, Records};
use mkimg_format::trailer::Trailer;
use mkimg_format::{ReadAt, Sha256, detached};
use mkimg_mkfs::{Compression, Silent, build};
use mkimg_oci::SourceSpec;
use mkimg_repair::{Options, Repaired, repair};
use mkimg_verify::{Region, verify_image};
use proptest::prelude::*;

const BLOCK: usize = 4096;

struct Image {
    bytes: Vec<u8>,
    header: Header,
    root: Sha256,
}

/// Bytes that do not repeat.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect()
}

/// Some 800 blocks under a tree of two levels: four rounds with two roots.
fn image(roots: u32) -> &'static Image {
    static IMAGES: [OnceLock<Image>; 25] = [const { OnceLock::new() }; 25];
    IMAGES[roots as usize].get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir_all(source.join("etc")).unwrap();
        std::fs::write(source.join("large"), noise(3_000_000, 1)).unwrap();
        for index in 0..40 {
            std::fs::write(source.join(format!("etc/{index}")), noise(100 * index, 7)).unwrap();
        }
        let options = mkimg_mkfs::Options {
            dedup: mkimg_mkfs::Dedup::Files,
            memory: mkimg_mkfs::Memory::MIN,
            scratch: true,
            optimize_for: None,
            platform: None,
            name: Some("damaged".to_owned()),
            epoch: 0,
            compression: Compression::None,
            min_kernel: Compression::None.min_kernel(),
            fec_roots: roots,
            threads: NonZeroUsize::MIN,
        };
        let path = dir.path().join("image");
        build(&SourceSpec::Dir { path: source }, &path, &options, &Silent).unwrap();
        let bytes = std::fs::read(path).unwrap();
        let header = Header::read(&bytes).unwrap();
        let root = Trailer::read(&bytes).unwrap().root_hash;
        assert_eq!(header.fec_roots, roots);
        Image { bytes, header, root }
    })
}

fn mend(image: &(impl ReadAt + Sync), copies: &[&dyn ReadAt], root: Option<Sha256>) -> (Repaired, Vec<u8>) {
    mend_on(2, image, copies, root)
}

fn mend_on(
    threads: usize,
    image: &(impl ReadAt + Sync),
    copies: &[&dyn ReadAt],
    root: Option<Sha256>,
) -> (Repaired, Vec<u8>) {
    let output = tempfile::tempfile().unwrap();
    let threads = NonZeroUsize::new(threads).unwrap();
    let options = Options { root_hash: root, threads, progress: None };
    let repaired = repair(image, copies, &output, &options).unwrap();
    let mut bytes = vec![0; output.metadata().unwrap().len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&output, &mut bytes, 0).unwrap();
    (repaired, bytes)
}

fn assert_whole(what: &str, wanted: &Image, (repaired, bytes): &(Repaired, Vec<u8>)) {
    assert!(repaired.is_complete(), "{what}: {:?}", repaired.after.findings);
    assert!(*bytes == wanted.bytes, "{what}: the result is another image");
}

fn blocks(range: Range<u64>) -> Range<usize> {
    range.start as usize * BLOCK..range.end as usize * BLOCK
}

/// Every structure, destroyed by itself.
fn structures(image: &Image) -> Vec<(&'static str, Range<usize>)> {
    let header = &image.header;
    let tree = header.tree_offset() as usize;
    let at = |offset: u64| offset as usize..offset as usize + BLOCK;
    let mut all = vec![
        ("start of the header", 0..24),
        ("header", 0..512),
        ("zeros behind the header", 512..1024),
        ("superblock", 1024..1152),
        ("block 0", 0..BLOCK),
        ("data", at(4096 * 100)),
        ("metadata", at(header.meta_block * 4096)),
        ("seal", at(header.seal_block * 4096)),
        ("verity superblock", at(header.hash_offset())),
        ("top of the tree", tree..tree + BLOCK),
        ("leaf of the tree", tree + BLOCK..tree + 2 * BLOCK),
        ("last leaf of the tree", header.fec_offset() as usize - BLOCK..header.fec_offset() as usize),
        ("trailer", at(header.trailer_offset())),
    ];
    if header.fec_roots > 0 {
        all.push(("parity", at(header.fec_offset())));
        all.push(("all parity", header.fec_offset() as usize..header.trailer_offset() as usize));
    }
    all
}

#[test]
fn every_structure_comes_back() {
    for roots in [2, 8, 24] {
        let image = image(roots);
        for (what, range) in structures(image) {
            for root in [Some(image.root), None] {
                let mut bytes = image.bytes.clone();
                bytes[range.clone()].iter_mut().for_each(|byte| *byte = !*byte);
                let mended = mend(&bytes, &[], root);
                assert_whole(&format!("{what}, {roots} roots"), image, &mended);
                assert!(mended.0.mended.blocks() > 0, "{what}");
                assert!(!mended.0.before.is_clean(), "{what}");
            }
        }
    }
}

/// Without parity and copies, what follows from the rest is mended, and the rest is named.
#[test]
fn what_follows_from_the_rest_needs_no_parity() {
    let image = image(0);
    for (what, range) in structures(image) {
        let mut bytes = image.bytes.clone();
        bytes[range].iter_mut().for_each(|byte| *byte = !*byte);
        let mended = mend(&bytes, &[], Some(image.root));
        match what {
            "header" | "superblock" | "block 0" | "data" | "metadata" | "seal" => {
                assert!(!mended.0.is_complete(), "{what}");
                assert!(!mended.0.after.findings.is_empty(), "{what}");
                if what == "data" {
                    let finding = &mended.0.after.findings[0];
                    assert_eq!(
                        (finding.region, finding.offset, finding.length),
                        (Region::Data, 409_600, 4096)
                    );
                    assert_eq!(finding.paths, [b"/large"]);
                }
            }
            _ => assert_whole(what, image, &mended),
        }
    }
    let mut bytes = image.bytes.clone();
    bytes[image.header.hash_offset() as usize..].fill(0);
    assert_whole("everything behind the data", image, &mend(&bytes, &[], Some(image.root)));
    // Unanchored, and nobody left who names a root.
    let (repaired, _) = mend(&bytes, &[], None);
    assert!(!repaired.before.anchored);
}

/// A burst goes through all rounds: so many blocks as there are parity blocks are mended, and not one more.
#[test]
fn bursts_up_to_the_number_of_parity_blocks() {
    for roots in [2, 8] {
        let image = image(roots);
        let layout = Layout::of(&image.header).unwrap();
        for start in [0, 50] {
            for (more, whole) in [(0, true), (1, false)] {
                let mut bytes = image.bytes.clone();
                bytes[blocks(start..start + layout.parity_blocks() + more)].fill(0x33);
                let mended = mend(&bytes, &[], Some(image.root));
                let what = format!("{roots} roots, from {start}, {more} more");
                if whole {
                    assert_whole(&what, image, &mended);
                    assert!(mended.0.mended.corrected >= layout.parity_blocks() - 1, "{what}");
                } else {
                    assert!(!mended.0.is_complete(), "{what}");
                    // The round with too much damage is left, all others are whole.
                    let left: u64 = mended.0.after.findings.iter().map(|finding| finding.length).sum();
                    assert!(left <= (u64::from(roots) + 1) * 4096 + 512, "{what}: {left}");
                }
            }
        }
    }
}

#[test]
fn copies_have_what_is_missing() {
    for roots in [0, 2] {
        let image = image(roots);
        let (mut first, mut second) = (image.bytes.clone(), image.bytes.clone());
        let middle = image.bytes.len() / BLOCK / 2 * BLOCK;
        first[..middle].fill(0);
        second[middle..].fill(0);
        for (bytes, copy) in [(&first, &second), (&second, &first)] {
            let mended = mend(bytes, &[copy], Some(image.root));
            assert_whole("two halves", image, &mended);
            assert!(mended.0.mended.copied > 100);
        }
        // A detached seal has everything but file data.
        let mut seal = detached::head(&image.header).to_vec();
        seal.extend_from_slice(&image.bytes[..BLOCK]);
        seal.extend_from_slice(
            &image.bytes[blocks(image.header.meta_block..image.bytes.len() as u64 / 4096)],
        );
        let seal = detached::Sealed::open(seal).unwrap();
        let mut bytes = image.bytes.clone();
        bytes[..BLOCK].fill(0);
        bytes[blocks(image.header.meta_block..image.header.data_blocks)].fill(0);
        assert_whole("a seal", image, &mend(&bytes, &[&seal], Some(image.root)));
    }
    // Another image helps only where it has the same blocks, and never does harm.
    let (good, other) = (image(0), image(2));
    let mut bytes = good.bytes.clone();
    bytes[blocks(1..700)].fill(0);
    bytes[blocks(good.header.seal_block..good.header.data_blocks)].fill(0);
    let (repaired, _) = mend(&bytes, &[&other.bytes], Some(good.root));
    assert!(!repaired.is_complete());
    assert!(repaired.mended.copied >= 699);
    assert_whole("both", good, &mend(&bytes, &[&other.bytes, &good.bytes], Some(good.root)));
}

/// Writes down what it is asked for.
struct Asked<'a>(&'a [u8], RefCell<Vec<Range<u64>>>);

impl ReadAt for Asked<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let block = |at: u64| at.div_ceil(BLOCK as u64);
        self.1.borrow_mut().push(block(offset)..block(offset + buf.len() as u64));
        self.0.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

/// A copy may be far away: it is asked for what is bad, for neighbours at once, and when it has them nobody else is.
#[test]
fn copies_are_asked_for_what_is_bad_and_for_neighbours_at_once() {
    let image = image(0);
    let mut bytes = image.bytes.clone();
    for block in (200..300).chain([400, 404, 500]) {
        bytes[block * BLOCK] ^= 1;
    }
    let asked = || Asked(&image.bytes, RefCell::default());
    let (first, second) = (asked(), asked());
    assert_whole("from one", image, &mend(&bytes, &[&first, &second], Some(image.root)));
    // Each hash block covers 128 blocks.
    assert_eq!(first.1.into_inner(), [200..256, 256..300, 400..405, 500..501]);
    assert_eq!(second.1.into_inner(), []);
    // What the first has not either, the second is asked for.
    let (first, second) = (Asked(&bytes[..], RefCell::default()), asked());
    assert_whole("from the other", image, &mend(&bytes, &[&first, &second], Some(image.root)));
    assert_eq!(second.1.into_inner(), [200..256, 256..300, 400..405, 500..501]);
}

/// A leaf of the tree is damaged in both copies, and so is what it covers in one: slot by slot something is left of it.
#[test]
fn a_hash_block_is_pieced_together() {
    let image = image(0);
    let leaf = image.header.tree_offset() as usize + 2 * BLOCK;
    let (mut first, mut second) = (image.bytes.clone(), image.bytes.clone());
    first[200 * BLOCK] ^= 1;
    first[leaf] ^= 1;
    second[leaf + 100] ^= 1;
    second[leaf + 4000] ^= 1;
    assert_whole("from both", image, &mend(&first, &[&second], Some(image.root)));
    assert!(!mend(&first, &[&first.clone()], Some(image.root)).0.is_complete());
}

#[test]
fn lengths_are_mended() {
    for roots in [2, 24] {
        let image = image(roots);
        let cuts = [image.header.trailer_offset(), image.header.fec_offset(), image.bytes.len() as u64 - 1];
        for cut in cuts {
            let bytes = image.bytes[..cut as usize].to_vec();
            assert_whole(&format!("cut to {cut}"), image, &mend(&bytes, &[], Some(image.root)));
        }
        // What is left of a download, and a copy that lacks the beginning.
        let start = image.bytes[..BLOCK * 50].to_vec();
        let mut copy = image.bytes.clone();
        copy[..BLOCK * 20].fill(0);
        assert_whole("a start and a copy", image, &mend(&start, &[&copy], Some(image.root)));
        let output = tempfile::tempfile().unwrap();
        let options = Options { root_hash: None, threads: NonZeroUsize::MIN, progress: None };
        let refused = repair(&start, &[&start], &output, &options).unwrap_err();
        assert!(
            matches!(refused, mkimg_repair::Error::TooShort { found, .. } if found == 50 * 4096),
            "{refused}"
        );
        assert_eq!(output.metadata().unwrap().len(), 0);
        let longer = [&image.bytes[..], &[7; 5000]].concat();
        assert_whole("trailing bytes", image, &mend(&longer, &[], None));
    }
}

/// Whatever is asked for, nothing becomes an image that it is not.
#[test]
fn another_root_hash_is_not_reached() {
    let (first, second) = (image(2), image(0));
    let (repaired, _) = mend(&first.bytes, &[], Some(second.root));
    assert!(!repaired.is_complete());
    // A clean image is a clean copy.
    let (repaired, bytes) = mend(&first.bytes, &[], Some(first.root));
    assert!(repaired.before.is_clean() && repaired.is_complete() && bytes == first.bytes);
    assert_eq!(repaired.mended.blocks(), 0);
}

/// A header with a checksum of its own that claims another strength.
#[test]
fn a_header_of_another_strength_is_found_and_mended() {
    let image = image(8);
    for roots in [0, 2, 3, 24] {
        let mut bytes = image.bytes.clone();
        let forged = image.header.with_fec(roots).to_bytes();
        bytes[..512].copy_from_slice(&forged);
        let threads = NonZeroUsize::MIN;
        let options = mkimg_verify::Options { root_hash: Some(image.root), threads, progress: None };
        let report = verify_image(&bytes, &options).unwrap();
        assert!(report.findings.iter().any(|finding| finding.region == Region::Header), "{roots}");
        assert_eq!((report.fec_roots, report.image_size), (8, image.bytes.len() as u64));
        assert_whole(&format!("{roots} roots claimed"), image, &mend(&bytes, &[], Some(image.root)));
    }
}

/// Bytes of which some blocks cannot be read.
struct Unreadable<'a>(&'a [u8], Vec<u64>);

impl ReadAt for Unreadable<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if self.1.iter().any(|block| offset < (block + 1) * 4096 && block * 4096 < end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

#[test]
fn unreadable_blocks_are_mended() {
    let image = image(2);
    let last = image.bytes.len() as u64 / 4096 - 1;
    let parity = image.header.fec_offset() / 4096;
    for bad in [vec![0], vec![100, 101], vec![image.header.data_blocks], vec![parity, last]] {
        let what = format!("{bad:?}");
        let broken = Unreadable(&image.bytes, bad);
        let mended = mend(&broken, &[], Some(image.root));
        assert!(!mended.0.before.complete, "{what}");
        assert_whole(&what, image, &mended);
    }
}

/// Signatures stay, come from a copy, or are lost with the only trailer that had them.
#[test]
fn signatures_survive() {
    let image = image(2);
    let record = Record { kind: Kind::Signature, content: vec![7; 100] };
    let records = Records::new(vec![record]).unwrap();
    let trailer = image.bytes.len() - BLOCK;
    let signed = {
        let block = Trailer { records, ..Trailer::new(&image.header, image.root) }.to_block();
        [&image.bytes[..trailer], &block[..]].concat()
    };
    let mut damaged = signed.clone();
    damaged[5 * BLOCK] ^= 1;
    let mut torn = damaged.clone();
    torn[trailer + 0x90] ^= 1;
    for (what, found, copies, wanted) in [
        ("data alone", &damaged, &[][..], &signed),
        ("trailer, and a copy has it", &torn, &[&image.bytes[..1000], &signed[..]], &signed),
        ("trailer, and nobody has it", &torn, &[], &image.bytes),
    ] {
        let copies: Vec<&dyn ReadAt> = copies.iter().map(|copy| copy as &dyn ReadAt).collect();
        let (repaired, bytes) = mend(&&found[..], &copies, Some(image.root));
        assert!(repaired.is_complete(), "{what}: {:?}", repaired.after);
        assert!(bytes == **wanted, "{what}");
    }
}

#[test]
fn threads_make_no_difference() {
    let image = image(8);
    let mut bytes = image.bytes.clone();
    bytes[blocks(3..20)].fill(0);
    bytes[image.header.fec_offset() as usize] ^= 1;
    let results: Vec<_> =
        [1, 2, 8].map(|threads| mend_on(threads, &bytes, &[], Some(image.root))).into_iter().collect();
    for (repaired, found) in &results {
        assert_eq!(repaired.mended, results[0].0.mended);
        assert!(*found == image.bytes);
    }
}

#[derive(Debug, Clone)]
struct Damage {
    block: prop::sample::Index,
    start: usize,
    length: usize,
    mask: u8,
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = (any::<prop::sample::Index>(), 0..BLOCK, 1..=BLOCK, 1..=255_u8)
        .prop_map(|(block, start, length, mask)| Damage { block, start, length, mask });
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Random damage anywhere. Within the limit it must be mended: no round has more damaged blocks than roots, if its
    /// parity is whole.
    #[test]
    fn random_damage(damage in damage(), strong in any::<bool>(), anchored in any::<bool>()) {
        let image = image(if strong { 8 } else { 2 });
        let layout = Layout::of(&image.header).unwrap();
        let mut bytes = image.bytes.clone();
        for one in &damage {
            let block = one.block.index(bytes.len() / BLOCK);
            let end = (one.start + one.length).min(BLOCK);
            bytes[block * BLOCK + one.start..block * BLOCK + end].iter_mut().for_each(|byte| *byte ^= one.mask);
        }
        let mut rounds: BTreeMap<u64, u64> = BTreeMap::new();
        let mut outside = 0;
        for (block, (found, good)) in bytes.chunks(BLOCK).zip(image.bytes.chunks(BLOCK)).enumerate() {
            if found == good {
                continue;
            }
            let block = block as u64;
            match layout.place(block) {
                Some((_, round)) => *rounds.entry(round).or_default() += 1,
                // Half a round of parity may be gone, and with it everything that it could do.
                None if block >= layout.start() && block < layout.start() + layout.parity_blocks() => {
                    *rounds.entry((block - layout.start()) / u64::from(layout.roots())).or_default() += 100;
                }
                None => outside += 1,
            }
        }
        let within = rounds.values().all(|count| *count <= u64::from(layout.roots()) || *count % 100 == 0);
        // With header, superblock and trailer damaged nobody may be left who knows what the image was.
        let root = anchored.then_some(image.root);
        let (repaired, result) = mend(&bytes, &[], root);
        if repaired.is_complete() && repaired.after.root_hash == image.root {
            prop_assert!(result == image.bytes);
        } else if anchored {
            prop_assert!(!repaired.is_complete());
            prop_assert!(!repaired.after.findings.is_empty());
            prop_assert!(!within, "{:?} {} outside: {:?}", rounds, outside, repaired.after.findings);
        }
    }

    /// Whatever a copy lacks, the other one has, or both have a hole in common that is named.
    #[test]
    fn random_copies(first in damage(), second in damage()) {
        let image = image(0);
        let spoil = |damage: &[Damage]| {
            let mut bytes = image.bytes.clone();
            for one in damage {
                let block = one.block.index(bytes.len() / BLOCK);
                bytes[block * BLOCK + one.start] ^= one.mask;
            }
            bytes
        };
        let (first, second) = (spoil(&first), spoil(&second));
        let common = (0..image.header.data_blocks as usize).any(|block| {
            let range = block * BLOCK..(block + 1) * BLOCK;
            first[range.clone()] != image.bytes[range.clone()] && second[range.clone()] != image.bytes[range]
        });
        let (repaired, result) = mend(&first, &[&second], Some(image.root));
        if common {
            prop_assert!(repaired.is_complete() == (result == image.bytes));
        } else {
            prop_assert!(repaired.is_complete(), "{:?}", repaired.after.findings);
            prop_assert!(result == image.bytes);
        }
    }
}
