//! A layer with several faults: which one is reported does not depend on the number of threads.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use layers::{Blob, Layer, file, gzip, names_in, oci_dir, one_line, options, scratch, tar_of, write_layout};
use mkimg_mkfs::Silent;

const THREADS: [usize; 4] = [1, 2, 3, 8];

/// Files that fill several buffers, half of their bytes compressible.
fn good() -> Vec<u8> {
    let content = |number: u32| -> Vec<u8> {
        (0..60_000_u32)
            .flat_map(|at| [at.wrapping_mul(2_654_435_761 + number) >> 13, 0x2e2e_2e2e])
            .flat_map(u32::to_le_bytes)
            .collect()
    };
    let layer: Layer = (0..6).map(|number| file(format!("f{number}"), content(number))).collect();
    tar_of(&layer)
}

/// Where the header of the fourth file is.
const FOURTH: usize = 3 * (512 + 480_256);

/// A layer with all that its case says.
struct Case {
    name: &'static str,
    blob: Blob,
    /// What stands in the place of the blob, whatever its digest.
    replaced: Option<Vec<u8>>,
    expected: &'static str,
}

fn cases() -> Vec<Case> {
    let good = good();
    let mut malformed = good.clone();
    assert_eq!(malformed[FOURTH..][..3], *b"f3\0");
    malformed[FOURTH] ^= 1;
    let other = Blob::plain(b"other".to_vec()).diff_id;
    let packed = gzip(&good);
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let of = |tar: &[u8], bytes: Vec<u8>| Blob { bytes, ..Blob::gzip(tar) };
    let wrong = |tar: &[u8]| Blob { diff_id: other.clone(), ..Blob::gzip(tar) };
    let case = |name, blob, expected| Case { name, blob, replaced: None, expected };
    let replace = |name, blob, replaced, expected| Case { name, blob, replaced: Some(replaced), expected };
    vec![
        case("malformed tar", Blob::gzip(&malformed), "checksum"),
        case("malformed plain tar", Blob::plain(malformed.clone()), "checksum"),
        case("wrong diff_id", wrong(&good), "diff id mismatch"),
        case("wrong diff_id, malformed tar", wrong(&malformed), "diff id mismatch"),
        case("cut gzip", of(&good, packed[..packed.len() / 2].to_vec()), "gzip data ends early"),
        case(
            "cut gzip, wrong diff_id",
            Blob { bytes: packed[..packed.len() / 2].to_vec(), ..wrong(&good) },
            "gzip data ends early",
        ),
        case(
            "cut gzip, malformed tar",
            of(&malformed, {
                let all = gzip(&malformed);
                all[..all.len() - 9].to_vec()
            }),
            "gzip data ends early",
        ),
        case("bytes behind gzip", of(&good, [&packed[..], b"more"].concat()), "no gzip member at offset"),
        case(
            "bytes behind gzip, malformed tar",
            of(&malformed, [&gzip(&malformed)[..], b"\0\0more"].concat()),
            "garbage behind the gzip data",
        ),
        replace("wrong digest", Blob::gzip(&good), flipped(&packed, packed.len() - 1), ": digest mismatch"),
        replace("wrong digest, nothing else", Blob::gzip(&good), flipped(&packed, 4), ": digest mismatch"),
        replace(
            "wrong digest, malformed tar",
            Blob::gzip(&malformed),
            flipped(&gzip(&malformed), 4),
            ": digest mismatch",
        ),
        replace(
            "wrong digest, malformed plain tar",
            Blob::plain(good.clone()),
            malformed.clone(),
            ": digest mismatch",
        ),
        replace("wrong digest, wrong diff_id", wrong(&good), flipped(&packed, 4), ": digest mismatch"),
        replace(
            "wrong digest, broken gzip",
            Blob::gzip(&good),
            flipped(&packed, packed.len() / 2),
            ": digest mismatch",
        ),
        replace(
            "wrong size, broken gzip",
            Blob::gzip(&good),
            flipped(&packed[1..], packed.len() / 2),
            "declared are",
        ),
    ]
}

#[test]
fn one_fault_speaks_whatever_the_number_of_threads() {
    let mut wrong = String::new();
    for Case { name, blob, replaced, expected } in cases() {
        let dir = scratch();
        let layout = dir.path().join("layout");
        let first = Blob::gzip(&tar_of(&[file("below", "content")]));
        let last = Blob::gzip(&tar_of(&[file("above", vec![b'a'; 1 << 20])]));
        let paths = write_layout(&layout, &[first, blob, last]);
        if let Some(bytes) = &replaced {
            std::fs::write(&paths[1], bytes).unwrap();
        }
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let found = THREADS.map(|threads| {
            let result = mkimg_mkfs::build(&oci_dir(&layout), &out.join("image"), &options(threads), &Silent);
            assert_eq!(names_in(&out), [""; 0], "{name}");
            one_line(&result.unwrap_err())
        });
        if !found[0].contains("layer 2")
            || !found[0].contains(expected)
            || found.iter().any(|other| *other != found[0])
        {
            wrong += &format!("{name}: expected {expected:?}, found {found:#?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Of two damaged layers the lower one is named, although the other one is found out first.
#[test]
fn the_lowest_layer_speaks() {
    let dir = scratch();
    let layout = dir.path().join("layout");
    let good = good();
    let cut = |tar: &[u8], by: usize| {
        let whole = gzip(tar);
        Blob { bytes: whole[..whole.len() - by].to_vec(), ..Blob::gzip(tar) }
    };
    write_layout(&layout, &[cut(&good, 4), cut(b"short", 12)]);
    for threads in THREADS {
        for _ in 0..3 {
            let target = dir.path().join("image");
            let result = mkimg_mkfs::build(&oci_dir(&layout), &target, &options(threads), &Silent);
            let message = one_line(&result.unwrap_err());
            assert!(message.contains("layer 1") && message.contains("ends early"), "{threads}: {message}");
        }
    }
}
