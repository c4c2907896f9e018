//! Checksums and trees of images that a fuzzer has changed.

use mkimg_format::header::{HEADER_LEN, Header};
use mkimg_format::merkle::{Builder, hash_block};
use mkimg_format::trailer::Trailer;
use mkimg_format::{BLOCK_LEN, Sha256, verity};

/// Mends the CRC-32 in the last four of the first `length` bytes.
pub fn mend_crc(bytes: &mut [u8], length: usize) {
    if let Some((crc, rest)) = bytes
        .get_mut(..length)
        .and_then(|bytes| bytes.split_last_chunk_mut::<4>())
        .map(|(rest, crc)| (crc, rest))
    {
        *crc = crc32fast::hash(rest).to_le_bytes();
    }
}

/// Mends the CRC-32C of an EROFS superblock.
pub fn mend_superblock(image: &mut [u8]) {
    let Some(bits) = image.get(1036).copied().filter(|bits| (9..=12).contains(bits)) else { return };
    let block = 1_usize << bits;
    let covered = if block > 1024 { block - 1024 } else { block };
    let Some(bytes) = image.get_mut(1024..1024 + covered) else { return };
    bytes[4..8].fill(0);
    let crc = !crc32c::crc32c(bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Mends header and superblock.
pub fn mend_block0(image: &mut [u8]) {
    mend_crc(image, HEADER_LEN);
    mend_superblock(image);
}

/// Hashes the protected area anew and writes dm-verity superblock, tree and trailer behind it.
///
/// `None`, and nothing done, when the header does not parse or the image is too short for what it says.
pub fn reseal(image: &mut Vec<u8>) -> Option<Sha256> {
    mend_block0(image);
    let header = Header::read(image).ok()?;
    let end = usize::try_from(header.hash_offset()).ok().filter(|end| *end <= image.len())?;
    image.truncate(end);
    let tree_offset = usize::try_from(header.tree_offset()).ok()?;
    let levels = verity::levels(header.data_blocks, header.tree_offset());
    let mut tree = vec![0; usize::try_from(header.tree_blocks()).ok()? * BLOCK_LEN];
    let mut sink = |level: usize, index: u64, block: &[u8; BLOCK_LEN]| {
        let at = usize::try_from(levels[level].block_offset(index)).unwrap_or(usize::MAX) - tree_offset;
        tree[at..at + BLOCK_LEN].copy_from_slice(block);
    };
    let mut builder = Builder::new();
    for block in image.chunks(BLOCK_LEN) {
        builder.push(&hash_block(block), &mut sink);
    }
    let root = builder.finish(&mut sink);
    image.extend_from_slice(&verity::Superblock::new(header.data_blocks, &root).to_block()[..]);
    image.extend_from_slice(&tree);
    image.extend_from_slice(&Trailer::new(&header, root).to_block()[..]);
    assert_eq!(image.len() as u64, header.image_size(), "the parts of an image fill it");
    Some(root)
}
