//! dm-verity superblock, and the geometry and the roots of trees.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mkimg_format::header::Header;
use mkimg_format::merkle::{Builder, Discard, FANOUT, hash_block};
use mkimg_format::verity::{Superblock, levels};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};
use mkimg_fuzz::{assert_one_line, flags};

/// Leaves of a tree that is really built.
const LEAVES_MAX: u64 = 20_000;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    superblock(input);
    let Some((number, seed)) = input.split_first_chunk::<8>() else { return };
    let number = u64::from_le_bytes(*number);
    geometry(number >> (flags & 63));
    tree(number % if flags & 0x80 != 0 { LEAVES_MAX } else { 300 }, seed);
});

/// Whatever is accepted has one form only.
fn superblock(input: &[u8]) {
    let mut block = [0; BLOCK_LEN];
    for (to, from) in block.iter_mut().zip(input) {
        *to = *from;
    }
    match Superblock::from_block(&block, 8192) {
        Ok(found) => {
            assert!(*found.to_block() == block, "a superblock in two forms");
            // veritysetup reads its fields from these places.
            assert_eq!(block[72..80], found.data_blocks.to_le_bytes());
        }
        Err(error) => assert_one_line(&error),
    }
}

/// Levels stand side by side, root first, and each has room for the digests of the one below.
fn geometry(data_blocks: u64) {
    let header = Header { data_blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
    let levels = levels(data_blocks, header.tree_offset());
    assert!(levels.len() <= 10, "{} levels", levels.len());
    let mut below = data_blocks;
    for level in &levels {
        assert_eq!(level.blocks, below.div_ceil(FANOUT));
        below = level.blocks;
    }
    assert!(levels.last().is_none_or(|root| root.blocks == 1 && root.offset == header.tree_offset()));
    let sum: u128 = levels.iter().map(|level| u128::from(level.blocks)).sum();
    if data_blocks <= u64::from(u32::MAX) {
        assert_eq!(sum, u128::from(header.tree_blocks()));
        for pair in levels.windows(2) {
            assert_eq!(pair[1].offset + pair[1].blocks * BLOCK_SIZE, pair[0].offset);
        }
        if let Some(leaves) = levels.first() {
            assert_eq!(leaves.block_offset(leaves.blocks), header.trailer_offset());
        }
        assert_eq!(header.image_size(), header.trailer_offset() + BLOCK_SIZE);
    }
}

/// The builder against a plain definition of the tree, and against its own blocks.
fn tree(count: u64, seed: &[u8]) {
    let leaves: Vec<Sha256> = (0..count)
        .map(|index| {
            let mut leaf = [0; 32];
            leaf[..8].copy_from_slice(&index.to_le_bytes());
            for (to, from) in leaf[8..].iter_mut().zip(seed) {
                *to = *from;
            }
            leaf
        })
        .collect();
    let shape = levels(count, 0);
    let mut next = vec![0; shape.len()];
    let mut builder = Builder::new();
    let mut sink = |level: usize, index: u64, _: &[u8; BLOCK_LEN]| {
        assert_eq!(index, next[level], "blocks of a level out of order");
        next[level] += 1;
    };
    for leaf in &leaves {
        builder.push(leaf, &mut sink);
    }
    let root = builder.finish(&mut sink);
    assert!(next.iter().zip(&shape).all(|(count, level)| *count == level.blocks), "levels of another size");

    let mut below = leaves.clone();
    while below.len() > 1 {
        below = below
            .chunks(128)
            .map(|digests| {
                let mut block = digests.concat();
                block.resize(BLOCK_LEN, 0);
                hash_block(&block)
            })
            .collect();
    }
    assert_eq!(root, below.first().copied().unwrap_or_default(), "the root of {count} leaves");

    let mut quiet = Builder::new();
    leaves.iter().for_each(|leaf| quiet.push(leaf, &mut Discard));
    assert_eq!(root, quiet.finish(&mut Discard));
}
