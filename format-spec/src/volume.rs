//! What others make: an EROFS image with a dm-verity tree over it, as `mkfs.erofs` and `veritysetup format` leave it.
//!
//! Such an image has no header, no seal and no trailer: no record of a file, no name, no epoch, no signature. And nothing
//! in it says where its tree is. That stands right behind the file system, at a place that somebody names, or in a file
//! of its own, and the root hash binds neither its size nor its depth. The EROFS superblock does, as it is in the first
//! block that is hashed: it says how many blocks there must be at least.

use std::io;

use zerocopy::FromBytes as _;

use crate::erofs::raw::{INCOMPAT_48BIT, RawSuperblock, SUPER_MAGIC, SUPERBLOCK_OFFSET};
use crate::header;
use crate::merkle::{FANOUT, level_blocks};
use crate::trailer;
use crate::verity::{self, Level, Parameters, SUPERBLOCK_LEN};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, ReadAt, Result, Sha256};

/// [`SUPERBLOCK_LEN`] as an offset.
const SUPERBLOCK_SIZE: u64 = 512;

/// Where the tree of an image is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Right behind the file system; at the start of a file of its own.
    #[default]
    Usual,
    /// At this byte, of the file that has the tree.
    At(u64),
}

/// Where a file with a tree begins: behind every image that a tree of 2^32 - 1 blocks can be over.
const HASH_FILE: u64 = 1 << 44;

/// An image, and far behind it the file that has its tree, if that is another one.
///
/// So whoever reads data and tree has one space of offsets.
#[derive(Debug)]
pub struct Joined<D, H = D> {
    image: D,
    hashes: Option<H>,
}

impl<D: ReadAt, H: ReadAt> Joined<D, H> {
    /// Both as one.
    pub const fn new(image: D, hashes: Option<H>) -> Self {
        Self { image, hashes }
    }

    /// The image alone.
    pub const fn image(&self) -> &D {
        &self.image
    }

    /// The file that has the tree, if that is another one.
    pub const fn hashes(&self) -> Option<&H> {
        self.hashes.as_ref()
    }
}

impl<D: ReadAt, H: ReadAt> ReadAt for Joined<D, H> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match (&self.hashes, offset.checked_sub(HASH_FILE)) {
            (Some(hashes), Some(offset)) => hashes.read_exact_at(buf, offset),
            _ => self.image.read_exact_at(buf, offset),
        }
    }

    fn size(&self) -> io::Result<u64> {
        match &self.hashes {
            Some(hashes) => Ok(HASH_FILE.saturating_add(hashes.size()?)),
            None => self.image.size(),
        }
    }
}

/// An error with the offset that it has in its own file, and whether that is the one with the tree.
#[must_use]
pub fn in_own_file(mut error: Error) -> (Error, bool) {
    let mut of_hashes = false;
    if let Error::Corrupt { offset, .. } | Error::Unsupported { offset, .. } | Error::Io { offset, .. } =
        &mut error
        && let Some(own) = offset.checked_sub(HASH_FILE)
    {
        (*offset, of_hashes) = (own, true);
    }
    (error, of_hashes)
}

/// An image of another writer: where its tree is, and how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What the dm-verity superblock says.
    pub parameters: Parameters,
    /// Byte offset of that superblock.
    pub hash_offset: u64,
    /// Blocks under the tree, by what most of its sources say: the superblock, its place, the file system.
    pub data_blocks: u64,
    /// Length in bytes of the file system, by a superblock that nobody has vouched for.
    pub file_system: Option<u64>,
    /// Length in bytes of the file that has the data.
    pub image_size: u64,
    /// Where the file with the tree begins, if that is another one.
    pub hash_file: Option<u64>,
    superblock: [u8; SUPERBLOCK_LEN],
}

/// Whether an image is an EROFS file system that mkimg has not written, however damaged what it writes may be.
///
/// # Errors
/// [`Error::Io`].
pub fn is_of_others(image: &(impl ReadAt + ?Sized)) -> Result<bool> {
    let Some(superblock) = raw_superblock(image)? else { return Ok(false) };
    let mut magic = [0; 8];
    image.read_exact_at(&mut magic, 0).map_err(io_error(Part::Header, 0))?;
    let alike = magic.iter().zip(&header::MAGIC).filter(|(found, own)| found == own).count();
    let size = image.size().map_err(io_error(Part::Trailer, 0))?;
    let last = (size / BLOCK_SIZE).saturating_sub(1).saturating_mul(BLOCK_SIZE);
    let mut end = [0; 8];
    image.read_exact_at(&mut end, last).map_err(io_error(Part::Trailer, last))?;
    // Four bytes of eight are no accident: others leave zeros there, or what a boot loader needs.
    Ok(superblock.magic.get() == SUPER_MAGIC && alike < 4 && end != trailer::MAGIC)
}

impl Volume {
    /// Finds the tree of an image and reads its superblock.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] with [`Problem::Magic`] if there is no superblock in that place, and otherwise
    /// as [`Parameters::from_bytes`].
    pub fn open<D: ReadAt, H: ReadAt>(image: &Joined<D, H>, place: Place) -> Result<Self> {
        let part = Part::VeritySuperblock;
        let size = image.size().map_err(io_error(part, 0))?;
        let image_size = image.image().size().map_err(io_error(part, 0))?;
        let raw = raw_superblock(image)?.filter(|raw| raw.magic.get() == SUPER_MAGIC);
        let file_system = raw.as_ref().and_then(length);
        let hash_file = image.hashes().map(|_| HASH_FILE);
        let places = match (place, hash_file) {
            (Place::At(offset), start) => [start.unwrap_or_default().checked_add(offset), None],
            (Place::Usual, Some(start)) => [Some(start), None],
            // The length of the file names the place once more, if nothing else is in it.
            (Place::Usual, None) => {
                let behind = file_system.and_then(|length| length.checked_next_multiple_of(BLOCK_SIZE));
                [behind, blocks_by_size(size).map(|blocks| blocks.saturating_mul(BLOCK_SIZE))]
            }
        };
        let mut first = None;
        for hash_offset in places.into_iter().flatten() {
            match read_superblock(image, hash_offset, size) {
                Ok((parameters, superblock)) => {
                    let hash_blocks = hash_file.is_none().then_some(hash_offset / BLOCK_SIZE);
                    // What overlaps the tree is no answer. Of two files, either may have been cut, not both: nobody is to
                    // look for more blocks than there are bytes to speak of them.
                    let room = hash_blocks.unwrap_or_else(|| {
                        let hashes = size.saturating_sub(HASH_FILE) / BLOCK_SIZE;
                        hashes.saturating_mul(FANOUT).max(image_size.div_ceil(BLOCK_SIZE))
                    });
                    let behind = hash_blocks.filter(|_| hash_offset.is_multiple_of(BLOCK_SIZE));
                    let votes = [
                        Some(parameters.data_blocks),
                        file_system.map(|length| length.div_ceil(BLOCK_SIZE)),
                        behind.or(hash_file.map(|_| image_size / BLOCK_SIZE)),
                    ];
                    let data_blocks = majority(
                        votes
                            .into_iter()
                            .flatten()
                            .filter(|blocks| (1..=room.min(u64::from(u32::MAX))).contains(blocks)),
                    );
                    let Some(data_blocks) = data_blocks else {
                        let (at, found) = (hash_offset.saturating_add(72), parameters.data_blocks);
                        return Err(Error::field(
                            part,
                            at,
                            "data_blocks",
                            found,
                            "at least 1, and no more than fit before it",
                        ));
                    };
                    return Ok(Self {
                        parameters,
                        hash_offset,
                        data_blocks,
                        file_system,
                        image_size,
                        hash_file,
                        superblock,
                    });
                }
                // What is there is a superblock, and not one that can be used.
                Err(error @ (Error::Unsupported { .. } | Error::Io { .. })) => return Err(error),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::corrupt(part, size, Problem::Magic)))
    }

    /// Byte offset of the first block of the tree.
    #[must_use]
    pub const fn tree_offset(&self) -> u64 {
        match self.hash_offset.saturating_add(SUPERBLOCK_SIZE).checked_next_multiple_of(BLOCK_SIZE) {
            Some(offset) => offset,
            None => u64::MAX,
        }
    }

    /// Levels of the tree, leaf level first.
    #[must_use]
    pub fn levels(&self) -> Vec<Level> {
        verity::levels(self.data_blocks, self.tree_offset())
    }

    /// Byte offset behind the tree.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.levels().first().map_or(self.tree_offset(), |leaf| leaf.block_offset(leaf.blocks))
    }

    /// The root hash that the tree leads to, if the blocks below do: nothing of it is proven.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn claimed_root(&self, image: &(impl ReadAt + ?Sized)) -> Result<Sha256> {
        let (part, offset) =
            if self.data_blocks == 1 { (Part::Data, 0) } else { (Part::Tree, self.tree_offset()) };
        let mut block = [0; BLOCK_LEN];
        image.read_exact_at(&mut block, offset).map_err(io_error(part, offset))?;
        Ok(self.parameters.salt.hash_block(&block))
    }

    /// Byte offset behind the data under the tree.
    #[must_use]
    pub const fn data_end(&self) -> u64 {
        self.data_blocks.saturating_mul(BLOCK_SIZE)
    }

    /// The first byte of the superblock that says nothing and is not zero: its offset, and the field that it is in.
    #[must_use]
    pub fn stray(&self) -> Option<(u64, &'static str)> {
        let (at, field) = self.parameters.stray(&self.superblock)?;
        Some((self.hash_offset.saturating_add(at), field))
    }
}

fn io_error(part: Part, offset: u64) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { part, offset, source }
}

/// The EROFS superblock as it is; `None` if the image is too short for one.
fn raw_superblock(image: &(impl ReadAt + ?Sized)) -> Result<Option<RawSuperblock>> {
    let mut bytes = [0; size_of::<RawSuperblock>()];
    match image.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET) {
        Ok(()) => Ok(RawSuperblock::read_from_bytes(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(io_error(Part::Superblock, SUPERBLOCK_OFFSET)(error)),
    }
}

/// Length of a file system in bytes, whether or not the reader knows its features.
fn length(raw: &RawSuperblock) -> Option<u64> {
    let wide = raw.feature_incompat.get() & INCOMPAT_48BIT != 0 && raw.rootnid_8b.get() != 0;
    // The root has moved, and more of the number of blocks stands in its place.
    let high = if wide { u64::from(raw.root_nid.get()) << 32 } else { 0 };
    let blocks = high | u64::from(raw.blocks.get());
    let block = 1_u64.checked_shl(raw.blkszbits.into()).filter(|_| (9..=16).contains(&raw.blkszbits))?;
    blocks.checked_mul(block).filter(|length| *length > 0)
}

fn read_superblock(
    image: &impl ReadAt,
    offset: u64,
    size: u64,
) -> Result<(Parameters, [u8; SUPERBLOCK_LEN])> {
    let part = Part::VeritySuperblock;
    if offset.checked_add(SUPERBLOCK_SIZE).is_none_or(|end| end > size) {
        let problem = Problem::OutOfBounds { start: offset, length: SUPERBLOCK_SIZE, limit: size };
        return Err(Error::corrupt(part, offset, problem));
    }
    let mut bytes = [0; SUPERBLOCK_LEN];
    image.read_exact_at(&mut bytes, offset).map_err(io_error(part, offset))?;
    Ok((Parameters::from_bytes(&bytes, offset)?, bytes))
}

/// The block count of which an image is `size` bytes long with its superblock and tree, and nothing else.
fn blocks_by_size(size: u64) -> Option<u64> {
    let whole = |blocks: u64| {
        let tree = level_blocks(blocks).iter().fold(1, |sum: u64, level| sum.saturating_add(*level));
        blocks.saturating_add(tree).saturating_mul(BLOCK_SIZE)
    };
    let (mut low, mut high) = (1_u64, u64::from(u32::MAX));
    while low < high {
        let middle = low.midpoint(high);
        if whole(middle) < size { low = middle.saturating_add(1) } else { high = middle }
    }
    (whole(low) == size).then_some(low)
}

/// What is said most often; of several the one that is said first.
fn majority(votes: impl Iterator<Item = u64> + Clone) -> Option<u64> {
    let count = |vote: u64| votes.clone().filter(|other| *other == vote).count();
    let most = votes.clone().map(count).max()?;
    votes.clone().find(|vote| count(*vote) == most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salt::Salt;

    /// Only as much of an image as says where its tree is.
    fn image(blocks: u32, bits: u8, hash_offset: u64, parameters: &Parameters, size: u64) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(size).unwrap()];
        image[1024..1028].copy_from_slice(&SUPER_MAGIC.to_le_bytes());
        image[1036] = bits;
        image[1060..1064].copy_from_slice(&blocks.to_le_bytes());
        let at = usize::try_from(hash_offset).unwrap();
        image[at..at + 512].copy_from_slice(&parameters.to_bytes());
        image
    }

    fn parameters(data_blocks: u64) -> Parameters {
        Parameters { uuid: [5; 16], data_blocks, salt: Salt::new(&[7; 32]).unwrap() }
    }

    fn open(image: &Vec<u8>, hashes: Option<&Vec<u8>>, place: Place) -> Result<Volume> {
        Volume::open(&Joined::new(image, hashes), place)
    }

    #[test]
    fn finds_the_tree_where_it_may_be() {
        // Right behind, also where a file system has smaller blocks and ends inside one of 4096 bytes.
        for (blocks, bits, hash_offset) in [(10, 12, 40960), (75, 9, 40960), (80, 9, 40960)] {
            let bytes = image(blocks, bits, hash_offset, &parameters(10), 49152);
            let volume = open(&bytes, None, Place::Usual).unwrap();
            assert_eq!((volume.hash_offset, volume.data_blocks, volume.end()), (hash_offset, 10, 49152));
            assert_eq!((volume.tree_offset(), volume.hash_file), (45056, None));
        }
        // At a place that is no multiple of a block: the tree begins with the next block.
        let bytes = image(10, 12, 41472, &parameters(10), 53248);
        assert!(open(&bytes, None, Place::Usual).is_err());
        let volume = open(&bytes, None, Place::At(41472)).unwrap();
        assert_eq!((volume.tree_offset(), volume.end()), (45056, 49152));
        // In a file of its own, at its start or elsewhere.
        let data = image(10, 12, 0, &parameters(1), 40960);
        for (place, offset) in [(Place::Usual, 0), (Place::At(8192), 8192)] {
            let mut hashes = vec![0; 16384];
            hashes[offset..offset + 512].copy_from_slice(&parameters(10).to_bytes());
            let volume = open(&data, Some(&hashes), place).unwrap();
            assert_eq!(volume.hash_offset, HASH_FILE + offset as u64);
            assert_eq!((volume.data_blocks, volume.hash_file), (10, Some(HASH_FILE)));
        }
    }

    #[test]
    fn one_wrong_number_is_outvoted() {
        // The file system is shorter than what is under the tree: padding.
        let padded = image(8, 12, 40960, &parameters(10), 49152);
        assert_eq!(open(&padded, None, Place::Usual).unwrap().data_blocks, 10);
        // Two agree.
        let lowered = image(10, 12, 40960, &parameters(9), 49152);
        let volume = open(&lowered, None, Place::Usual).unwrap();
        assert_eq!((volume.data_blocks, volume.parameters.data_blocks), (10, 9));
        // What would overlap the tree does not count.
        let raised = image(0, 12, 40960, &parameters(11), 49152);
        assert_eq!(open(&raised, None, Place::At(40960)).unwrap().data_blocks, 10);
        // Somebody has to say something that is possible.
        let nothing = image(0, 12, 512, &parameters(0), 49152);
        let error = open(&nothing, None, Place::At(512)).unwrap_err().to_string();
        assert_eq!(
            error,
            "verity superblock at byte 584: data_blocks is 0, must be at least 1, and no more than fit before it"
        );
    }

    #[test]
    fn every_byte_of_a_superblock_is_read_or_must_be_zero() {
        let good = parameters(10);
        let bytes = good.to_bytes();
        assert_eq!((Parameters::from_bytes(&bytes, 0).unwrap(), good.stray(&bytes)), (good.clone(), None));
        for at in 0..SUPERBLOCK_LEN {
            let mut bytes = bytes;
            bytes[at] ^= 1;
            match Parameters::from_bytes(&bytes, 0) {
                Err(_) => assert!((0..16).contains(&at) || (32..72).contains(&at) || at == 81, "byte {at}"),
                Ok(found) => {
                    let other = found != good;
                    let expected =
                        (16..32).contains(&at) || (72..82).contains(&at) || (88..120).contains(&at);
                    assert_eq!(other, expected, "byte {at}");
                    // A longer salt takes in bytes that were none before, a shorter one leaves some behind.
                    let stray = found.stray(&bytes).is_some();
                    assert_eq!(stray, !other, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused_with_its_reason() {
        let good = parameters(10).to_bytes();
        let refused = |at: usize, with: &[u8]| {
            let mut bytes = good;
            bytes[at..at + with.len()].copy_from_slice(with);
            Parameters::from_bytes(&bytes, 4096).unwrap_err().to_string()
        };
        for (at, with, text) in [
            (0, &b"Verity"[..], "verity superblock at byte 4096: wrong magic number"),
            (8, &[2], "verity superblock at byte 4104: version 2 is not supported"),
            (12, &[0], "verity superblock at byte 4108: hash type 0 is not supported"),
            (32, b"sha512", "verity superblock at byte 4128: hash algorithm sha512 is not supported"),
            (32, b"sha\n", "verity superblock at byte 4128: hash algorithm sha\\n56 is not supported"),
            (64, &[0, 2], "verity superblock at byte 4160: a data block size of 512 bytes is not supported"),
            (68, &[0, 2], "verity superblock at byte 4164: a hash block size of 512 bytes is not supported"),
            (80, &[1, 1], "verity superblock at byte 4176: salt_size is 257, must be at most 256"),
        ] {
            assert_eq!(refused(at, with), text);
        }
    }

    #[test]
    fn sizes_name_block_counts() {
        for (blocks, size) in [(1, 8192), (2, 16384), (128, 130 * 4096), (129, (129 + 4) * 4096)] {
            assert_eq!(blocks_by_size(size), Some(blocks));
            assert_eq!(blocks_by_size(size + 1), None);
        }
    }
}
