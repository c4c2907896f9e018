//! SHA-256 of many blocks of equal length at once.
//!
//! One SHA-256 is a chain: no step of 64 bytes can begin before the one in front of it is done, so a processor that
//! hashes one block waits most of the time. Blocks of a hash tree do not depend on each other and have one length.
//! Their chains run side by side here, in the lanes of vector registers or interleaved in one stream of instructions.
//! The digests are plain SHA-256, the same from every [`Implementation`]. A salt that stands before each block, as dm-verity
//! has it, makes no chains depend on each other.
//!
//! | module | what |
//! |---|---|
//! | `run` | blocks and the places of their digests, taken group by group |
//! | `message` | salt and padding |
//! | `avx512` | sixteen blocks in sixteen lanes |
//! | `sha_ni` | blocks interleaved on the SHA extensions |
//! | `x86` | what the processor can do; the unsafe code, and why it is sound |
//!
//! On other architectures, and on processors without any of this, the `sha2` crate hashes block after block.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod constants;
#[cfg(target_arch = "x86_64")]
mod message;
mod run;
#[cfg(target_arch = "x86_64")]
mod sha_ni;
#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::{Digest as _, Sha256};

use crate::run::Run;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Hashes consecutive blocks: digest `i` is that of bytes `i * block_len .. (i + 1) * block_len`.
///
/// # Panics
/// When `blocks` is not as long as the blocks of all `digests`.
pub fn hash_blocks(blocks: &[u8], block_len: usize, digests: &mut [Digest]) {
    hash_salted_blocks(&[], blocks, block_len, digests);
}

/// Hashes consecutive blocks as [`hash_blocks`] does, each with `salt` before it.
///
/// # Panics
/// When `blocks` is not as long as the blocks of all `digests`.
pub fn hash_salted_blocks(salt: &[u8], blocks: &[u8], block_len: usize, digests: &mut [Digest]) {
    Implementation::fastest().hash_salted_blocks(salt, blocks, block_len, digests);
}

/// A way to compute digests that this processor can go.
#[derive(Debug, Clone, Copy)]
pub struct Implementation(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    ShaNi(x86::ShaNi),
    Portable,
}

impl Implementation {
    /// All by name, the fastest first; `None` stands for what this processor cannot do.
    #[must_use]
    pub fn all() -> [(&'static str, Option<Self>); 3] {
        #[cfg(target_arch = "x86_64")]
        let (avx512, sha_ni) =
            (x86::Avx512::detect().map(Kind::Avx512), x86::ShaNi::detect().map(Kind::ShaNi));
        #[cfg(not(target_arch = "x86_64"))]
        let (avx512, sha_ni) = (None, None);
        [("avx512", avx512.map(Self)), ("sha-ni", sha_ni.map(Self)), ("portable", Some(Self(Kind::Portable)))]
    }

    /// What [`hash_salted_blocks`] uses.
    #[must_use]
    pub fn fastest() -> Self {
        Self::all().into_iter().find_map(|(_, here)| here).unwrap_or(Self(Kind::Portable))
    }

    /// As [`hash_salted_blocks`] does it.
    ///
    /// # Panics
    /// When `blocks` is not as long as the blocks of all `digests`.
    pub fn hash_salted_blocks(self, salt: &[u8], blocks: &[u8], block_len: usize, digests: &mut [Digest]) {
        let mut run = Run::new(blocks, block_len, digests);
        #[cfg(target_arch = "x86_64")]
        {
            // What does not fill the sixteen lanes is left to the next.
            if let Kind::Avx512(avx512) = self.0 {
                run.groups(|blocks| avx512.hash(salt, blocks));
            }
            let sha_ni = match self.0 {
                Kind::Avx512(_) => x86::ShaNi::detect(),
                Kind::ShaNi(sha_ni) => Some(sha_ni),
                Kind::Portable => None,
            };
            if let Some(sha_ni) = sha_ni {
                run.groups(|blocks: [_; sha_ni::LANES]| sha_ni.hash(salt, blocks));
                run.groups(|block: [_; 1]| sha_ni.hash(salt, block));
            }
        }
        run.groups(|[block]| [Sha256::new().chain_update(salt).chain_update(block).finalize().into()]);
    }
}
