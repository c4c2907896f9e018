//! Any bytes as a file system: the reader and the linter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mkimg_format::erofs::Superblock;
use mkimg_format::header::Header;
use mkimg_fuzz::{flags, image, patch, tree};

/// Bits of the flags.
const PATCHED: u8 = 1;
const MEND: u8 = 2;
const SEAL_BLOCK: u8 = 4;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let mut bytes = if flags & PATCHED != 0 { patch::apply(input).1 } else { input.to_vec() };
    if flags & PATCHED == 0 {
        // Small blocks make small file systems; the superblock's own reach to byte 4096.
        bytes.resize(bytes.len().next_multiple_of(512).max(4096), 0);
    }
    if flags & MEND != 0 {
        image::mend_block0(&mut bytes);
    }
    let seen = tree::examine(&bytes);
    if let Ok(header) = Header::read(&bytes) {
        tree::check_lint(&bytes, &header, seen.as_ref());
    }
    // A header that agrees with the superblock, so that the linter gets beyond it.
    if let Ok(superblock) = Superblock::read(&bytes) {
        let data_blocks = u64::from(superblock.blocks);
        let back = if flags & SEAL_BLOCK != 0 { 2 } else { 1 };
        let header = Header {
            data_blocks,
            meta_block: u64::from(superblock.meta_block),
            seal_block: data_blocks.saturating_sub(back),
            fec_blocks: 0,
            fec_roots: 0,
        };
        if Header::from_bytes(&header.to_bytes()).is_ok() {
            tree::check_lint(&bytes, &header, seen.as_ref());
        }
    }
});
