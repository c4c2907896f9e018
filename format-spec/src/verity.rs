//! dm-verity superblock and the places of the tree's levels.
//!
//! Source: cryptsetup `lib/verity/verity.c` (superblock version 1) and Linux
//! `Documentation/admin-guide/device-mapper/verity.rst`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::merkle::level_blocks;
use crate::salt::{SALT_MAX, Salt};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, Result, Sha256};

/// Length of the superblock in bytes; it is followed by zeros up to the next block.
pub const SUPERBLOCK_LEN: usize = 512;

/// First bytes of the superblock.
pub(crate) const SIGNATURE: [u8; 8] = *b"verity\0\0";

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSuperblock {
    signature: [u8; 8],
    version: U32,
    hash_type: U32,

    uuid: [u8; 16],

    algorithm: [u8; 32],

    data_block_size: U32,
    hash_block_size: U32,
    data_blocks: U64,

    salt_size: U16,
    pad1: [u8; 6],
    salt: [u8; 256],
    pad2: [u8; 168],
}

const _: () = assert!(size_of::<RawSuperblock>() == SUPERBLOCK_LEN);

/// What the superblock of any writer says, as far as mkimg can check its tree.
///
/// [`Superblock`] is the form of mkimg's own, which has no salt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Identity label of the hash device; carries no trust.
    pub uuid: [u8; 16],
    /// Blocks under the tree.
    pub data_blocks: u64,
    /// What every block is hashed behind.
    pub salt: Salt,
}

impl Parameters {
    /// The only form of a superblock with these parameters in which no byte is without a meaning.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut algorithm = [0; 32];
        algorithm[..6].copy_from_slice(b"sha256");
        let mut salt = [0; SALT_MAX];
        let own = self.salt.bytes();
        salt.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
        let raw = RawSuperblock {
            signature: SIGNATURE,
            version: 1.into(),
            hash_type: 1.into(),
            uuid: self.uuid,
            algorithm,
            data_block_size: 4096.into(),
            hash_block_size: 4096.into(),
            data_blocks: self.data_blocks.into(),
            // At most 256.
            salt_size: u16::try_from(own.len()).unwrap_or_default().into(),
            pad1: [0; 6],
            salt,
            pad2: [0; 168],
        };
        let mut bytes = [0; SUPERBLOCK_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads a superblock that stands at byte `offset`.
    ///
    /// As `veritysetup` does it: padding, unused salt and what follows the first NUL of the algorithm are not looked
    /// at. [`Self::stray`] does that. Whether there are so many data blocks, the superblock cannot say.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is none, [`Error::Unsupported`] if its tree is not one of SHA-256 over 4096-byte blocks.
    pub fn from_bytes(bytes: &[u8; SUPERBLOCK_LEN], offset: u64) -> Result<Self> {
        let part = Part::VeritySuperblock;
        let at = |field: u64| offset.saturating_add(field);
        let raw = RawSuperblock::read_from_bytes(bytes)
            .map_err(|_| Error::corrupt(part, offset, Problem::Magic))?;
        if raw.signature != SIGNATURE {
            return Err(Error::corrupt(part, offset, Problem::Magic));
        }
        let name = raw.algorithm.split(|byte| *byte == 0).next().unwrap_or_default();
        let algorithm = crate::erofs::escape(name);
        let (data, hash) = (raw.data_block_size.get(), raw.hash_block_size.get());
        for (field, known, feature) in [
            (8, raw.version.get() == 1, format!("version {}", raw.version.get())),
            (12, raw.hash_type.get() == 1, format!("hash type {}", raw.hash_type.get())),
            (32, name == b"sha256", format!("hash algorithm {algorithm}")),
            (64, data == 4096, format!("a data block size of {data} bytes")),
            (68, hash == 4096, format!("a hash block size of {hash} bytes")),
        ] {
            if !known {
                return Err(Error::Unsupported { part, offset: at(field), feature });
            }
        }
        let salt = raw.salt.get(..raw.salt_size.get().into()).and_then(Salt::new).ok_or_else(|| {
            Error::field(part, at(80), "salt_size", raw.salt_size.get().into(), "at most 256")
        })?;
        Ok(Self { uuid: raw.uuid, data_blocks: raw.data_blocks.get(), salt })
    }

    /// The first byte of a superblock that says nothing and is not zero: its place, and the field that it is in.
    #[must_use]
    pub fn stray(&self, bytes: &[u8; SUPERBLOCK_LEN]) -> Option<(u64, &'static str)> {
        let canonical = self.to_bytes();
        let at = bytes.iter().zip(&canonical).position(|(found, rule)| found != rule)?;
        let at = u64::try_from(at).ok()?;
        Some((at, field_at(at)))
    }
}

/// The parameters that `veritysetup` reads from a superblock of mkimg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Identity label of the hash device; carries no trust.
    pub uuid: [u8; 16],
    /// Blocks under the tree.
    pub data_blocks: u64,
}

impl Superblock {
    /// The superblock of an image: its UUID is derived from the root hash, so that equal images are equal bytes.
    #[must_use]
    pub fn new(data_blocks: u64, root_hash: &Sha256) -> Self {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&root_hash[..16]);
        Self { uuid: as_uuid(uuid), data_blocks }
    }

    /// The superblock with the zeros behind it.
    #[must_use]
    pub fn to_block(&self) -> Box<[u8; BLOCK_LEN]> {
        let Self { uuid, data_blocks } = *self;
        let mut block = Box::new([0; BLOCK_LEN]);
        block[..SUPERBLOCK_LEN]
            .copy_from_slice(&Parameters { uuid, data_blocks, salt: Salt::NONE }.to_bytes());
        block
    }

    /// Checks a superblock that stands at byte `offset`: the form that mkimg writes, and no other.
    ///
    /// `veritysetup` and the kernel ignore the UUID, the padding, unused salt and what follows the algorithm's
    /// first NUL. All of it could carry something, so here it must be zero.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the field that breaks a rule.
    pub fn from_block(block: &[u8; BLOCK_LEN], offset: u64) -> Result<Self> {
        let part = Part::VeritySuperblock;
        let raw = RawSuperblock::read_from_bytes(&block[..SUPERBLOCK_LEN])
            .map_err(|_| Error::corrupt(part, offset, Problem::Magic))?;
        if raw.signature != SIGNATURE {
            return Err(Error::corrupt(part, offset, Problem::Magic));
        }
        let superblock = Self { uuid: raw.uuid, data_blocks: raw.data_blocks.get() };
        let canonical = superblock.to_block();
        if let Some(at) = block.iter().zip(canonical.iter()).position(|(found, rule)| found != rule) {
            let found = block.get(at).copied().unwrap_or_default();
            let at = u64::try_from(at).unwrap_or_default();
            return Err(Error::field(
                part,
                offset.saturating_add(at),
                field_at(at),
                found.into(),
                "as version 1 with sha256, 4096-byte blocks and no salt has it",
            ));
        }
        Ok(superblock)
    }
}

/// Name of the superblock field that holds byte `at`.
const fn field_at(at: u64) -> &'static str {
    match at {
        0..8 => "signature",
        8..12 => "version",
        12..16 => "hash_type",
        16..32 => "uuid",
        32..64 => "algorithm",
        64..68 => "data_block_size",
        68..72 => "hash_block_size",
        72..80 => "data_blocks",
        80..82 => "salt_size",
        82..88 => "pad1",
        88..344 => "salt",
        344..512 => "pad2",
        _ => "slack behind the superblock",
    }
}

/// Makes sixteen bytes a UUID of version 8 (RFC 9562, "custom"), keeping 122 bits of them.
#[must_use]
pub const fn as_uuid(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

/// One level of the tree on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Byte offset of its first block.
    pub offset: u64,
    /// Its blocks.
    pub blocks: u64,
}

impl Level {
    /// Byte offset of block `index` of this level.
    #[must_use]
    pub const fn block_offset(&self, index: u64) -> u64 {
        self.offset.saturating_add(index.saturating_mul(BLOCK_SIZE))
    }
}

/// Where the levels of a tree over `data_blocks` blocks stand, leaf level first.
///
/// On disk the root level comes first. No levels at all for a single data block.
#[must_use]
pub fn levels(data_blocks: u64, tree_offset: u64) -> Vec<Level> {
    let mut offset = tree_offset;
    let mut levels: Vec<Level> = level_blocks(data_blocks)
        .into_iter()
        .rev()
        .map(|blocks| {
            let level = Level { offset, blocks };
            offset = level.block_offset(blocks);
            level
        })
        .collect();
    levels.reverse();
    levels
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256 as Hasher};

    use super::*;
    use crate::hex;
    use crate::merkle::{Builder, hash_block};

    /// Made by `veritysetup format --salt=- ` over 129 blocks of consecutive u64 counters, superblock at 0 with
    /// UUID 00000000-0000-4000-8000-000000000001: root hash, and SHA-256 of the whole hash file.
    #[test]
    fn golden_tree_without_salt() {
        let data: Vec<u8> = (0_u64..).flat_map(u64::to_le_bytes).take(528_384).collect();
        let mut tree = vec![0_u8; 3 * BLOCK_LEN];
        let levels = levels(129, 4096);
        let mut sink = |level: usize, index: u64, block: &[u8; BLOCK_LEN]| {
            let at = usize::try_from(levels[level].block_offset(index)).unwrap() - 4096;
            tree[at..at + BLOCK_LEN].copy_from_slice(block);
        };
        let mut builder = Builder::new();
        for block in data.chunks(BLOCK_LEN) {
            builder.push(&hash_block(block), &mut sink);
        }
        let root = builder.finish(&mut sink);
        assert_eq!(hex(&root), "48a081f65d368cb0b9e3933a7dec78c942e65c94444ccc0e73dc23996863f113");
        let uuid = [0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1];
        let mut file = Superblock { uuid, data_blocks: 129 }.to_block().to_vec();
        file.extend_from_slice(&tree);
        assert_eq!(file.len(), 16384);
        assert!(hex(&Hasher::digest(&file)).starts_with("aa45a6bd585eac3f"));
    }

    #[test]
    fn sizes_of_the_table_in_the_specification() {
        for (blocks, tree, appended) in [
            (1, 0, 4096),
            (2, 1, 8192),
            (128, 1, 8192),
            (129, 3, 16384),
            (16384, 129, 532_480),
            (16385, 132, 544_768),
            (262_144, 2065, 8_462_336_u64),
            (268_435_456, 2_113_665, 8_657_575_936),
        ] {
            let levels = levels(blocks, 4096);
            assert_eq!(levels.iter().map(|level| level.blocks).sum::<u64>(), tree, "{blocks} blocks");
            let end = levels.first().map_or(4096, |leaf| leaf.block_offset(leaf.blocks));
            assert_eq!(end, appended, "{blocks} blocks");
        }
    }

    #[test]
    fn refuses_every_changed_byte_but_those_of_its_two_values() {
        let good = Superblock::new(5, &[3; 32]).to_block();
        for at in 0..BLOCK_LEN {
            let mut block = good.clone();
            block[at] ^= 1;
            let found = Superblock::from_block(&block, 0);
            let own_value = (16..32).contains(&at) || (72..80).contains(&at);
            assert_eq!(found.is_ok(), own_value, "byte {at}");
        }
    }
}
