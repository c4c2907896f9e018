//! Reading a few blocks of an image without trusting any other.

use std::io;

use crate::header::Header;
use crate::merkle::FANOUT;
use crate::salt::Salt;
use crate::verity::{Level, levels};
use crate::volume::Volume;
use crate::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Result, Sha256, hex};

/// The protected area of an image, each block of which is led up to a root hash when it is read.
///
/// The shape of the tree comes from the header, which is proven by that shape: a header of another image, or one that
/// was changed, does not lead to the root (`SPEC.md`, "What the root hash binds"). What is read is what was hashed, so a
/// file that changes meanwhile cannot slip in anything.
#[derive(Debug)]
pub struct Proven<R> {
    io: R,
    root_hash: Sha256,
    data_blocks: u64,
    levels: Vec<Level>,
    salt: Salt,
}

impl<R: ReadAt> Proven<R> {
    /// Opens an image that must be the one of `root_hash`, and reads its header.
    ///
    /// # Errors
    /// As [`Header::read`], and when block 0 does not lead to the root hash.
    pub fn open(io: R, root_hash: Sha256) -> Result<(Self, Header)> {
        let claimed = Header::read(&io)?;
        let levels = levels(claimed.data_blocks, claimed.tree_offset());
        let proven = Self { io, root_hash, data_blocks: claimed.data_blocks, levels, salt: Salt::NONE };
        let header = Header::read(&proven)?;
        Ok((proven, header))
    }

    /// The data of an image of another writer, which must be that of `root_hash`.
    ///
    /// Its shape is proven by nothing but what is read: whoever parses the file system has its superblock from here.
    pub fn of_volume(io: R, volume: &Volume, root_hash: Sha256) -> Self {
        let (levels, salt) = (volume.levels(), volume.parameters.salt.clone());
        Self { io, root_hash, data_blocks: volume.data_blocks, levels, salt }
    }

    /// One block of the protected area.
    fn block(&self, index: u64) -> io::Result<[u8; BLOCK_LEN]> {
        let wrong = || {
            let text = format!("block {index} does not lead to root hash {}", hex(&self.root_hash));
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let read = |offset| {
            let mut block = [0; BLOCK_LEN];
            self.io.read_exact_at(&mut block, offset).map(|()| block)
        };
        if index >= self.data_blocks {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside of the protected area"));
        }
        let found = read(index.saturating_mul(BLOCK_SIZE))?;
        let (mut digest, mut place) = (self.salt.hash_block(&found), index);
        for level in &self.levels {
            let hashes = read(level.block_offset(place / FANOUT))?;
            let (slots, _) = hashes.as_chunks::<32>();
            let slot = usize::try_from(place % FANOUT).unwrap_or(usize::MAX);
            if slots.get(slot) != Some(&digest) {
                return Err(wrong());
            }
            digest = self.salt.hash_block(&hashes);
            place /= FANOUT;
        }
        if digest == self.root_hash { Ok(found) } else { Err(wrong()) }
    }
}

impl<R: ReadAt> ReadAt for Proven<R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut rest = buf;
        let mut offset = offset;
        while !rest.is_empty() {
            let block = self.block(offset / BLOCK_SIZE)?;
            let skip = usize::try_from(offset % BLOCK_SIZE).unwrap_or_default();
            let bytes = block.get(skip..).unwrap_or_default();
            let length = bytes.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(bytes.get(..length).unwrap_or_default());
            rest = later;
            offset = offset.saturating_add(u64::try_from(length).unwrap_or_default());
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.data_blocks.saturating_mul(BLOCK_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Builder, hash_block};

    /// An image of which only the header and the tree are right, and its root.
    fn image(data_blocks: u64) -> (Vec<u8>, Sha256) {
        let header = Header { data_blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
        let mut image = vec![0; usize::try_from(header.image_size()).unwrap()];
        image[..512].copy_from_slice(&header.to_bytes());
        for block in 1..data_blocks {
            let at = usize::try_from(block * BLOCK_SIZE).unwrap();
            image[at..at + 8].copy_from_slice(&block.to_le_bytes());
        }
        let levels = levels(data_blocks, header.tree_offset());
        let (mut builder, mut tree) = (Builder::new(), Vec::new());
        let mut sink = |level: usize, index: u64, block: &[u8; BLOCK_LEN]| {
            tree.push((levels[level].block_offset(index), *block));
        };
        for block in image[..usize::try_from(header.hash_offset()).unwrap()].chunks(BLOCK_LEN) {
            builder.push(&hash_block(block), &mut sink);
        }
        let root = builder.finish(&mut sink);
        for (offset, block) in tree {
            let at = usize::try_from(offset).unwrap();
            image[at..at + BLOCK_LEN].copy_from_slice(&block);
        }
        (image, root)
    }

    #[test]
    fn reads_what_leads_to_the_root() {
        for data_blocks in [3, 128, 129, 300] {
            let (image, root) = image(data_blocks);
            let (proven, header) = Proven::open(&image, root).unwrap();
            assert_eq!(header.data_blocks, data_blocks);
            // Across a border of blocks, and the last bytes.
            for (offset, length) in [(4090, 20), (header.hash_offset() - 10, 10), (0, 3 * BLOCK_LEN)] {
                let mut found = vec![0; length];
                proven.read_exact_at(&mut found, offset).unwrap();
                let at = usize::try_from(offset).unwrap();
                assert_eq!(found, image[at..at + length]);
            }
            let behind = proven.read_exact_at(&mut [0; 11], header.hash_offset() - 10).unwrap_err();
            assert_eq!(behind.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn refuses_what_does_not() {
        let (good, root) = image(300);
        let error = Proven::open(&good, [1; 32]).unwrap_err().to_string();
        assert!(error.contains("block 0 does not lead to root hash 0101"), "{error}");
        let read = |image: &Vec<u8>| {
            let (proven, _) = Proven::open(image, root).ok()?;
            proven.read_exact_at(&mut [0; 8], 200 * BLOCK_SIZE).ok()
        };
        assert!(read(&good).is_some());
        let leaf = usize::try_from(levels(300, 301 * BLOCK_SIZE)[0].block_offset(1)).unwrap();
        let top = 301 * BLOCK_LEN;
        // The header, the block itself, its slot, another slot beside it, the level above.
        for at in [20, 200 * BLOCK_LEN, leaf + 72 * 32, leaf, top + 32] {
            let mut image = good.clone();
            image[at] ^= 1;
            assert!(read(&image).is_none(), "byte {at}");
        }
        // Another number of blocks in a header that is right by itself.
        let mut image = good.clone();
        let header = Header { data_blocks: 299, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
        image[..512].copy_from_slice(&header.to_bytes());
        assert!(Proven::open(&image, root).is_err());
    }
}
