//! Partition tables, and images in the partitions of a disk.
#![no_main]

use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use mkimg_format::ddi::{Disk, Role};
use mkimg_format::detached::Sealed;
use mkimg_format::gpt::{Copies, Table};
use mkimg_format::verity_signature::VeritySignature;
use mkimg_format::{ReadAt, hex};
use mkimg_fuzz::{assert_one_line, disk, flags};
use mkimg_verify::{Options, verify_image};

/// The flags: a mode in the lowest bits, and whether to mend checksums.
const MEND: u8 = 0x80;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    match flags & 3 {
        0 => signature(input),
        1 => {
            let mut bytes = input.to_vec();
            if flags & MEND != 0 {
                disk::mend(&mut bytes);
            }
            examine(&bytes);
        }
        _ => changed(input, flags & MEND != 0),
    }
});

/// What is accepted says the same when it is written anew.
fn signature(input: &[u8]) {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    for bytes in [input, &bytes] {
        match VeritySignature::from_partition(bytes, 0) {
            Ok(signature) => {
                let again = VeritySignature::from_partition(&signature.to_partition(), 0);
                assert_eq!(again.expect("what is written is read"), signature);
            }
            Err(error) => assert_one_line(&error),
        }
    }
}

/// A sound disk with changes: what stays clean is the same image.
fn changed(input: &[u8], mend: bool) {
    let (sample, sound) = disk::sound();
    let mut bytes = disk::apply(sound, input);
    if mend {
        disk::mend(&mut bytes);
    }
    let same = bytes == sound;
    assert!(examine(&bytes) || !same, "the sound disk is not read");
    let Ok(opened) = Sealed::open(&bytes[..]) else { return };
    if opened.disk().is_none() {
        return;
    }
    let options = Options { root_hash: Some(sample.root_hash), threads: NonZeroUsize::MIN, progress: None };
    let report = match verify_image(&&bytes[..], &options) {
        Ok(report) => report,
        Err(error) => return assert_one_line(&error),
    };
    assert!(report.bytes_read <= bytes.len() as u64, "{} bytes read", report.bytes_read);
    assert!(report.findings.iter().all(|finding| !finding.problem.contains(char::is_control)));
    if report.is_clean() {
        assert!(mend || same, "a changed disk is clean");
        let mut image = vec![0; sample.bytes.len()];
        assert_eq!(opened.size().expect("bytes in memory"), image.len() as u64);
        opened.read_exact_at(&mut image, 0).expect("all of it is there");
        assert!(image == sample.bytes, "another image is clean under {}", hex(&sample.root_hash));
    } else {
        assert!(!same, "the sound disk is not clean: {:?}", report.findings);
    }
}

/// Every way into a disk. Returns whether an image was found on it.
fn examine(bytes: &[u8]) -> bool {
    let copies = match Copies::read(bytes) {
        Ok(Some(copies)) => copies,
        Ok(None) => return false,
        Err(error) => panic!("bytes in memory can be measured: {error}"),
    };
    for copy in [&copies.primary, &copies.backup] {
        match copy {
            Ok(table) => sound_table(table, bytes.len() as u64),
            Err(error) => assert_one_line(error),
        }
    }
    let disk = match Disk::open(bytes) {
        Ok(disk) => disk.expect("there is a table"),
        Err(error) => {
            assert_one_line(&error);
            return false;
        }
    };
    let mut end = 0;
    for gap in disk.gaps() {
        assert!(end <= gap.start && gap.start < gap.end && gap.end <= disk.size(), "gap {gap:?}");
        end = gap.end;
    }
    let place = |role| disk.partition(role).map_or(0..0, |partition| partition.bytes.clone());
    let (data, verity) = (place(Role::Data), place(Role::Verity));
    let size = disk.image_size();
    assert!(size <= data.end - data.start + verity.end - verity.start);
    for offset in [0, 511, 4096, data.end - data.start, size.saturating_sub(1), size, u64::MAX] {
        let mut pair = [0; 2];
        let read = disk.read_image(bytes, &mut pair, offset);
        assert_eq!(read.is_ok(), offset.checked_add(2).is_some_and(|end| end <= size), "{offset} of {size}");
    }
    for problem in disk.problems(bytes, &[7; 32]) {
        assert_one_line(&problem);
    }
    if let Err(error) = disk.signature(bytes) {
        assert_one_line(&error);
    }
    true
}

/// Partitions are inside, side by side or apart, and few.
fn sound_table(table: &Table, size: u64) {
    assert!(table.size <= size && table.usable.end <= table.size && table.partitions.len() <= 1024);
    let mut places: Vec<_> = table.partitions.iter().map(|partition| partition.bytes.clone()).collect();
    places.sort_by_key(|place| place.start);
    let mut end = table.usable.start;
    for place in places {
        assert!(end <= place.start && place.start < place.end && place.end <= table.usable.end);
        end = place.end;
    }
}
