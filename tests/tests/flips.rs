//! One flipped bit anywhere in the file is found, and put into the right region. This is a sample through the
//! program; every byte of an image is tried in-process by the tests of the verifier.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::audit::{self, Regions};
use mkimg_tests::command::mkimg;
use mkimg_tests::{Seeded, args, images, scratch};
use std::os::unix::fs::FileExt;

const SAMPLE: u64 = 200;

#[test]
fn a_flipped_bit_is_found_and_located() {
    flips_are_found(&[]);
}

#[test]
fn a_flipped_bit_beside_parity_is_found_and_located() {
    flips_are_found(&["--fec", "3"]);
}

fn flips_are_found(options: &[&str]) {
    let dir = scratch();
    images::one_of_everything(&dir.path().join("oci"));
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", format!("oci:{}", dir.path().join("oci").display()), "-o", image])
        .args(options)
        .ok();
    let clean = mkimg(args!["verify", "--json", image]).ok().json_lines();
    assert_eq!(audit::findings(&clean), Vec::new(), "a clean image has no findings");

    let bytes = std::fs::read(&image).unwrap();
    let size = bytes.len() as u64;
    let regions = Regions::of(&mkimg(args!["inspect", "--json", image]).ok().json(), size);
    // The edges of every region, then a stratified sample, so that the small regions are hit as well.
    let hash = regions.hash_offset;
    let mut offsets = vec![
        0,
        1,
        7,
        511,
        512,
        1023,
        1024,
        1027,
        1028,
        1151,
        1152,
        4095,
        4096,
        hash - 4096,
        hash - 1,
        hash,
        hash + 7,
        hash + 511,
        hash + 512,
        hash + 4095,
        hash + 4096,
        size - 4097,
        size - 4096,
        size - 4095,
        size - 5,
        size - 1,
    ];
    let mut random = Seeded::new(0x0066_6c69_7073);
    let parity = regions.fec_offset;
    for (start, end) in [
        (0, 4096),
        (4096, hash),
        (hash, hash + 4096),
        (hash + 4096, parity),
        (parity, size - 4096),
        (size - 4096, size),
    ] {
        offsets.extend((0..SAMPLE / 5).filter(|_| start < end).map(|_| start + random.below(end - start)));
    }
    offsets.sort_unstable();
    offsets.dedup();

    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    let mut wrong = Vec::new();
    for &offset in &offsets {
        let original = bytes[usize::try_from(offset).unwrap()];
        let bit = 1u8 << random.below(8);
        file.write_all_at(&[original ^ bit], offset).unwrap();
        let done = mkimg(args!["verify", "--json", image]).output();
        let code = done.status.code();
        // Header and trailer hold the same facts, so no single flip makes an audit impossible (exit status 2).
        if code != Some(1) {
            wrong.push(format!("offset {offset}, bit {bit:#x}: exit status {code:?}: {}", done.err()));
        } else {
            let found = audit::findings(&done.json_lines());
            let names = regions.names_at(offset);
            if !found.iter().any(|finding| names.contains(&finding.region.as_str())) {
                wrong.push(format!("offset {offset}: wanted one of {names:?} among {found:?}"));
            }
        }
        file.write_all_at(&[original], offset).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {} flips:\n{}", wrong.len(), offsets.len(), wrong.join("\n"));
    let _ = mkimg(args!["verify", image]).ok();
}
