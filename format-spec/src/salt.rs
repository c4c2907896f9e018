//! What dm-verity hashes before each block.
//!
//! Images of mkimg have none: then the hash of a block is that of the block alone (`SPEC.md`, "Hash once"). Trees that
//! others have made over their images mostly have one.

use sha2::{Digest as _, Sha256 as Hasher};

use crate::{BLOCK_LEN, Sha256};

/// Most bytes of a salt: what a dm-verity superblock has room for.
pub const SALT_MAX: usize = 256;

/// Bytes that stand before each block, data and hash blocks alike, when it is hashed; there may be none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// That of mkimg.
    pub const NONE: Self = Self(Vec::new());

    /// A salt; `None` if it has more than [`SALT_MAX`] bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SALT_MAX).then(|| Self(bytes.to_vec()))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Hash of one data block or hash block.
    #[must_use]
    pub fn hash_block(&self, block: &[u8]) -> Sha256 {
        Hasher::new().chain_update(&self.0).chain_update(block).finalize().into()
    }

    /// Hashes of consecutive blocks, many at a time.
    ///
    /// # Panics
    /// When `blocks` is not as long as the blocks of all `digests`.
    pub fn hash_blocks(&self, blocks: &[u8], digests: &mut [Sha256]) {
        mkimg_hash::hash_salted_blocks(&self.0, blocks, BLOCK_LEN, digests);
    }
}
