//! One whole audit: any bytes, sound images with changes, and such images sealed anew.
#![no_main]

use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use mkimg_format::header::Header;
use mkimg_format::volume::{Joined, Place, Volume};
use mkimg_format::{Sha256, detached};
use mkimg_fuzz::{assert_one_line, flags, image, patch, tree};
use mkimg_verify::{FINDINGS_MAX, Options, PATHS_MAX, Report, verify_image, verify_volume};

/// The flags: what the input is in the lowest bits.
const ANCHOR: u8 = 0x80;
const THREADS: u8 = 0x40;

/// Content, holes included, that is worth the time: holes cost the verifier a hash of each block.
const CONTENT_MAX: u64 = 64 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let root = (flags & ANCHOR != 0).then_some([0x5a; 32]);
    match flags & 7 {
        // Any bytes.
        0 => {
            let report = audit(input, root, flags);
            assert!(report.is_none_or(|report| !report.is_clean() || root.is_none()));
            of_others(input, None, root);
            let (data, hashes) = input.split_at((input.len() / 2).next_multiple_of(4096).min(input.len()));
            of_others(data, Some(hashes), root);
        }
        // Any bytes, with good checksums and a good tree.
        1 => {
            let mut bytes = input.to_vec();
            image::reseal(&mut bytes);
            resealed(&bytes, flags);
        }
        // A sound image with changes: whatever differs is found, with and without the root hash.
        2 | 3 => {
            let (sample, bytes) = patch::apply(input);
            let root = (flags & ANCHOR != 0).then_some(sample.root_hash);
            let report = audit(&bytes, root, flags);
            let clean = report.is_some_and(|report| report.is_clean());
            assert_eq!(clean, bytes == sample.bytes, "clean: {clean}");
        }
        // A detached seal with changes.
        4 => {
            let (sample, mut bytes) = patch::apply(input);
            let same = bytes == sample.bytes;
            if let Ok(header) = Header::read(&sample.bytes) {
                let cut = usize::try_from(header.meta_block * 4096).unwrap_or(0).min(bytes.len());
                let block0 = bytes.get(..4096).unwrap_or(&bytes).to_vec();
                let same = same
                    || (block0 == sample.bytes[..4096]
                        && bytes[cut..] == sample.bytes[cut.min(sample.bytes.len())..]);
                bytes = [&detached::head(&header)[..], &block0, &bytes[cut..]].concat();
                let root = (flags & ANCHOR != 0).then_some(sample.root_hash);
                let clean =
                    audit(&bytes, root, flags).is_some_and(|report| report.is_clean() && report.data_absent);
                assert_eq!(clean, same, "clean: {clean}");
            }
        }
        // A changed image sealed anew: consistent, but not the one that is wanted.
        _ => {
            let (sample, mut bytes) = patch::apply(input);
            image::reseal(&mut bytes);
            let same = bytes == sample.bytes;
            if !resealed(&bytes, flags) {
                return;
            }
            if let Some(report) = audit(&bytes, Some(sample.root_hash), flags) {
                assert_eq!(report.is_clean(), same, "clean against the root hash of another image");
            }
        }
    }
});

/// What a consistent image is, if it is clean, can be read without a refusal. `false` for what takes too long.
fn resealed(bytes: &[u8], flags: u8) -> bool {
    let seen = tree::examine(bytes);
    if seen.as_ref().is_some_and(|seen| seen.file_bytes > CONTENT_MAX) {
        return false;
    }
    if let Some(report) = audit(bytes, None, flags)
        && report.is_clean()
    {
        let seen = seen.expect("a clean image opens");
        assert_eq!(seen.errors, 0, "a clean image that cannot be read");
        let header = Header::read(bytes).expect("a clean image has a header");
        let mut findings = Vec::new();
        mkimg_format::lint::lint(&bytes, &header, &mut |finding| findings.push(finding))
            .expect("bytes in memory");
        assert!(findings.is_empty(), "a clean image that the linter refuses: {findings:?}");
    }
    true
}

/// The same as an image that mkimg has not written, with its tree in it or in a file of its own.
fn of_others(image: &[u8], hashes: Option<&[u8]>, root_hash: Option<Sha256>) {
    let joined = Joined::new(image, hashes);
    let volume = match Volume::open(&joined, Place::Usual) {
        Ok(volume) => volume,
        Err(error) => return assert_one_line(&error),
    };
    let options = Options { root_hash, threads: NonZeroUsize::MIN, progress: None };
    let report = verify_volume(&joined, &volume, &options).expect("bytes in memory");
    assert!(report.complete && report.findings.is_sorted());
    assert!(!report.is_clean() || report.root_hash == root_hash.unwrap_or(report.root_hash));
}

fn audit(bytes: &[u8], root_hash: Option<Sha256>, flags: u8) -> Option<Report> {
    let mut options = Options { root_hash, threads: NonZeroUsize::MIN, progress: None };
    let report = verify_image(&bytes, &options);
    if flags & THREADS != 0 {
        options.threads = NonZeroUsize::MIN.saturating_add(2);
        let other = verify_image(&bytes, &options);
        assert_eq!(report.as_ref().ok(), other.as_ref().ok(), "the report depends on the number of threads");
    }
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            assert_one_line(&error);
            return None;
        }
    };
    assert_eq!(report.anchored, root_hash.is_some());
    assert!(report.complete, "memory was unreadable");
    assert!(report.findings.len() <= FINDINGS_MAX);
    assert!(report.findings.is_sorted(), "findings out of order");
    assert!(report.bytes_read <= bytes.len() as u64);
    // Offsets are those of the image, also in a detached seal, which is shorter.
    let absent = if report.data_absent { report.image_size } else { 0 };
    let end = report.image_size.max(absent + bytes.len() as u64);
    for finding in &report.findings {
        assert!(finding.paths.len() <= PATHS_MAX && finding.paths.is_sorted());
        assert!(!finding.problem.is_empty() && !finding.problem.contains(char::is_control), "{finding:?}");
        // Without a length it is about a place that something names, and that may be anywhere.
        let last = finding.offset.checked_add(finding.length);
        assert!(finding.length == 0 || last.is_some_and(|last| last <= end), "{finding:?} of {end}");
    }
    if report.is_clean() {
        assert_eq!(report.root_hash, root_hash.unwrap_or(report.root_hash));
        assert!(report.data_absent || report.image_size == bytes.len() as u64);
    }
    Some(report)
}
