//! fs-verity file digests: SHA-256, 4096-byte blocks, no salt.
//!
//! Source: Linux `Documentation/filesystems/fsverity.rst`, "File digest computation". The digest is the hash of
//! a 256-byte descriptor that holds the size and the root of the same tree that [`crate::merkle`] builds.

use sha2::{Digest as _, Sha256 as Hasher};

use crate::merkle::{Builder, Discard, hash_block, hash_blocks};
use crate::{BLOCK_LEN, Sha256};

/// fs-verity digest of a file of `size` bytes whose Merkle root is `root` (all zero for an empty file).
#[must_use]
pub fn digest(size: u64, root: &Sha256) -> Sha256 {
    Hasher::digest(descriptor(size, root)).into()
}

/// Length in bytes of what a digest is the hash of.
const DESCRIPTOR_LEN: usize = 256;

fn descriptor(size: u64, root: &Sha256) -> [u8; DESCRIPTOR_LEN] {
    let mut descriptor = [0_u8; DESCRIPTOR_LEN];
    descriptor[0] = 1; // version
    descriptor[1] = 1; // FS_VERITY_HASH_ALG_SHA256
    descriptor[2] = 12; // log2 of the block size
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..48].copy_from_slice(root);
    descriptor
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

/// Files that a [`Batch`] holds: as many as are hashed at once, some times over.
const BATCH: usize = 64;

/// Files whose last hashes are computed side by side: of small files they are half of the work.
pub struct Batch<T> {
    waiting: Vec<(T, u64, Top)>,
    /// Blocks whose hash is a root.
    blocks: Vec<u8>,
}

/// How the root of a tree comes to be.
enum Top {
    Root(Sha256),
    /// It is the hash of a block; the blocks have the order of the files.
    Block,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::with_capacity(BATCH),
            blocks: Vec::with_capacity(BATCH.saturating_mul(BLOCK_LEN)),
        }
    }
}

impl<T> Batch<T> {
    /// Adds a file of `size` bytes, all of whose leaves have arrived.
    pub fn push(&mut self, file: T, digester: Digester, size: u64) {
        let top = match digester.tree.only_block() {
            Some(block) => {
                self.blocks.extend_from_slice(block);
                Top::Block
            }
            None => Top::Root(digester.tree.finish(&mut Discard)),
        };
        self.waiting.push((file, size, top));
    }

    /// Whether it is time to take the digests.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH
    }

    /// All files, in order, with their digests.
    pub fn take(&mut self) -> impl Iterator<Item = (T, Sha256)> + use<T> {
        let mut roots = vec![[0; 32]; self.blocks.len() / BLOCK_LEN];
        hash_blocks(&self.blocks, &mut roots);
        self.blocks.clear();
        let mut roots = roots.into_iter();
        let mut descriptors = Vec::with_capacity(self.waiting.len().saturating_mul(DESCRIPTOR_LEN));
        let mut files = Vec::with_capacity(self.waiting.len());
        for (file, size, top) in self.waiting.drain(..) {
            let root = match top {
                Top::Root(root) => root,
                Top::Block => roots.next().unwrap_or_default(),
            };
            descriptors.extend_from_slice(&descriptor(size, &root));
            files.push(file);
        }
        let mut digests = vec![[0; 32]; files.len()];
        mkimg_hash::hash_blocks(&descriptors, DESCRIPTOR_LEN, &mut digests);
        files.into_iter().zip(digests)
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

    #[test]
    fn a_batch_gives_the_digests_of_its_files() {
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for leaves in (0_u64..140).chain([255, 256, 257]) {
            let digester = || {
                let mut digester = Digester::new();
                (0..leaves).for_each(|leaf| digester.push(&hash_block(&leaf.to_le_bytes())));
                digester
            };
            batch.push(leaves, digester(), leaves * 4096);
            expected.push((leaves, digester().finish(leaves * 4096)));
            if batch.is_full() {
                assert_eq!(batch.take().collect::<Vec<_>>(), std::mem::take(&mut expected));
            }
        }
        assert_eq!(batch.take().collect::<Vec<_>>(), expected);
        assert_eq!(batch.take().count(), 0);
    }
}
