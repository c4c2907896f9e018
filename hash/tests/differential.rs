//! Every implementation that this processor has against the `sha2` crate, and against published digests.

use std::io::Write as _;

use mkimg_hash::{Digest, Implementation, hash_blocks};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

/// Calls a test with each implementation; says by name which of them cannot run here.
fn for_each_implementation(test: impl Fn(&str, Implementation)) {
    for (name, implementation) in Implementation::all() {
        let Some(implementation) = implementation else {
            skipped(&format!("{name} is not on this processor"));
            continue;
        };
        test(name, implementation);
    }
}

/// Past the capture of the test harness, and into the list that `tests/run.sh` prints.
fn skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: hash::{}: {reason}\n", thread.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("MKIMG_SKIPPED") {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        log.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the list of skipped tests is writable");
    }
}

/// Bytes without a pattern that a wrong order of blocks, steps or words could keep.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Digests by an implementation; what stood in their place before must not matter.
fn hashed(implementation: Implementation, blocks: &[u8], block_len: usize, count: usize) -> Vec<Digest> {
    let mut digests = vec![[0xee; 32]; count];
    implementation.hash_salted_blocks(&[], blocks, block_len, &mut digests);
    digests
}

fn expected(blocks: &[u8], block_len: usize, count: usize) -> Vec<Digest> {
    (0..count).map(|index| Sha256::digest(&blocks[index * block_len..][..block_len]).into()).collect()
}

#[test]
fn every_count_and_length() {
    // Around the places where padding takes another step, and where the tree of an image is.
    let lengths = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 4095, 4096, 4097, 65536];
    let bytes = noise(40 * 65536);
    for_each_implementation(|name, implementation| {
        for length in lengths {
            for count in 0..=40 {
                let blocks = &bytes[..count * length];
                assert_eq!(
                    hashed(implementation, blocks, length, count),
                    expected(blocks, length, count),
                    "{name}: {count} blocks of {length} bytes"
                );
            }
        }
    });
}

/// The salts that dm-verity has, and lengths at which salt and block meet inside a step, or do not fill one.
#[test]
fn every_salt() {
    let bytes = noise(21 * 4096);
    let salt = noise(256);
    for_each_implementation(|name, implementation| {
        for salt in (0..=256).map(|length| &salt[..length]) {
            for length in [0, 1, 7, 8, 31, 55, 56, 63, 64, 65, 4096] {
                let blocks = &bytes[..21 * length];
                let mut found = vec![[0xee; 32]; 21];
                implementation.hash_salted_blocks(salt, blocks, length, &mut found);
                let wanted: Vec<Digest> = (0..21)
                    .map(|index| Sha256::digest([salt, &blocks[index * length..][..length]].concat()).into())
                    .collect();
                assert_eq!(found, wanted, "{name}: salt of {} bytes, blocks of {length}", salt.len());
            }
        }
    });
}

#[test]
fn every_alignment() {
    let bytes = noise(21 * 4096 + 64);
    for_each_implementation(|name, implementation| {
        for shift in 0..=64 {
            let blocks = &bytes[shift..][..21 * 4096];
            let found = hashed(implementation, blocks, 4096, 21);
            assert_eq!(found, expected(blocks, 4096, 21), "{name}: {shift} bytes off");
        }
    });
}

/// A changed bit changes the digest of its block and no other, whatever lane it is in.
#[test]
fn a_change_stays_in_its_block() {
    let clean = noise(33 * 4096);
    for_each_implementation(|name, implementation| {
        for count in 1..=33 {
            let mut blocks = clean[..count * 4096].to_vec();
            let before = hashed(implementation, &blocks, 4096, count);
            for index in 0..count {
                for byte in [0, 2048, 4095] {
                    blocks[index * 4096 + byte] ^= 0x10;
                    let after = hashed(implementation, &blocks, 4096, count);
                    let changed: Vec<usize> = (0..count).filter(|&i| before[i] != after[i]).collect();
                    assert_eq!(changed, [index], "{name}: byte {byte} of block {index} of {count}");
                    assert_eq!(after[index], expected(&blocks, 4096, count)[index], "{name}: block {index}");
                    blocks[index * 4096 + byte] ^= 0x10;
                }
            }
        }
    });
}

/// FIPS 180-2, appendix B, and the empty message of NIST's `SHA256ShortMsg.rsp`.
#[test]
fn published_digests() {
    let million = vec![b'a'; 1_000_000];
    let vectors: [(&[u8], &str); 4] = [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    for_each_implementation(|name, implementation| {
        for (message, digest) in vectors {
            for count in [1, 4, 16, 21] {
                for found in hashed(implementation, &message.repeat(count), message.len(), count) {
                    let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!(found, digest, "{name}: {count} messages of {} bytes", message.len());
                }
            }
        }
    });
}

#[test]
fn the_fastest_is_the_first_that_is_here() {
    let first = Implementation::all().into_iter().find_map(|(_, here)| here).expect("one is always here");
    assert_eq!(format!("{first:?}"), format!("{:?}", Implementation::fastest()));
    assert!(Implementation::all().last().is_some_and(|(_, here)| here.is_some()), "portable is everywhere");
    let bytes = noise(128 * 4096);
    let mut digests = [Digest::default(); 128];
    hash_blocks(&bytes, 4096, &mut digests);
    assert_eq!(digests[..], expected(&bytes, 4096, 128));
}

#[test]
fn lengths_that_disagree_are_refused() {
    for (bytes, block_len, count) in
        [(4095, 4096, 1), (4097, 4096, 1), (4096, 4096, 2), (1, 0, 1), (0, usize::MAX, 2)]
    {
        let refused = std::panic::catch_unwind(|| {
            hash_blocks(&vec![0; bytes], block_len, &mut vec![Digest::default(); count]);
        });
        assert!(refused.is_err(), "{bytes} bytes as {count} blocks of {block_len}");
    }
}

proptest! {
    #[test]
    fn any_blocks(count in 0_usize..=40, length in 0_usize..=1500, seed in any::<u64>()) {
        let bytes = noise(count * length + 8);
        let blocks: Vec<u8> =
            bytes[..count * length].iter().zip(seed.to_le_bytes().iter().cycle()).map(|(a, b)| a ^ b).collect();
        for (name, implementation) in Implementation::all() {
            if let Some(implementation) = implementation {
                let found = hashed(implementation, &blocks, length, count);
                prop_assert_eq!(found, expected(&blocks, length, count), "{}", name);
            }
        }
    }
}
