//! Hashing runs of equal blocks.

use mkimg_format::merkle::hash_block;
use mkimg_format::{BLOCK_LEN, Sha256};

/// Hashes consecutive blocks: digest `i` is that of bytes `i * 4096 .. (i + 1) * 4096`.
///
/// A run is the unit because SHA-256 of one block is bound by latency: an implementation that interleaves several
/// blocks of equal length can take the place of this one without any change elsewhere.
pub(crate) fn hash_run(blocks: &[u8], digests: &mut [Sha256]) {
    for (block, digest) in blocks.chunks_exact(BLOCK_LEN).zip(digests) {
        *digest = hash_block(block);
    }
}
