//! fs-verity file digests: SHA-256, 4096-byte blocks, no salt.
//!
//! Source: Linux `Documentation/filesystems/fsverity.rst`, "File digest computation". The digest is the hash of
//! a 256-byte descriptor that holds the size and the root of the same tree that [`crate::merkle`] builds.

use sha2::{Digest as _, Sha256 as Hasher};

use crate::merkle::{Builder, Discard, hash_block};
use crate::{BLOCK_LEN, Sha256};

/// fs-verity digest of a file of `size` bytes whose Merkle root is `root` (all zero for an empty file).
#[must_use]
pub fn digest(size: u64, root: &Sha256) -> Sha256 {
    let mut descriptor = [0_u8; 256];
    descriptor[0] = 1; // version
    descriptor[1] = 1; // FS_VERITY_HASH_ALG_SHA256
    descriptor[2] = 12; // log2 of the block size
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..48].copy_from_slice(root);
    Hasher::digest(descriptor).into()
}

/// Hash of a block of zeros: the leaf of a hole.
#[must_use]
pub fn zero_leaf() -> Sha256 {
    hash_block(&[0; BLOCK_LEN])
}

/// Digest of a file whose leaves arrive in order.
#[derive(Default)]
pub struct Digester {
    tree: Builder,
}

impl Digester {
    /// No leaves yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the hash of the next zero-padded block.
    pub fn push(&mut self, leaf: &Sha256) {
        self.tree.push(leaf, &mut Discard);
    }

    /// The digest of a file of `size` bytes.
    #[must_use]
    pub fn finish(self, size: u64) -> Sha256 {
        digest(size, &self.tree.finish(&mut Discard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    /// Consecutive little-endian u64 counters, the pattern of the golden vectors.
    fn pattern(length: usize) -> Vec<u8> {
        (0_u64..).flat_map(u64::to_le_bytes).take(length).collect()
    }

    /// Made by `fsverity digest` (fsverity-utils) over the pattern.
    #[test]
    fn golden_digests() {
        for (length, expected) in [
            (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
            (4095, "5ee4b42d7113e8c6a8ba023f98d67bbffdeb121fc09524d2f1c8ce6fbaa48191"),
            (4096, "0d83a6515fd3fa7e860548ffb89b66fa74d036528cdb288de9e46b2f18df7d5c"),
            (4097, "f2a513f381749ce9af4771f18a74bb1ec7914795a813e62a0ff51e7232e578f0"),
            (524_288, "f7faf799ab8faffa303064693ced9cc2218876fcad3e24cff93a6b5afc2cd2fc"),
            (524_289, "2e8283229fa45a27ca0626633030bea24f398cc12ed8b204fbeaba56a75116bb"),
            (67_108_864, "78693fb7fb37d1dc9517245eb091953747c7626441a7f9a41b46adfec953aef0"),
            (67_108_865, "2c2e13559fba0f3dd188b27c48b046686fcd4fbcc2905a19e11dcb850b8b71ad"),
        ] {
            let mut digester = Digester::new();
            for block in pattern(length).chunks(BLOCK_LEN) {
                let mut padded = [0; BLOCK_LEN];
                padded[..block.len()].copy_from_slice(block);
                digester.push(&hash_block(&padded));
            }
            assert_eq!(hex(&digester.finish(length as u64)), expected, "{length} bytes");
        }
    }
}
