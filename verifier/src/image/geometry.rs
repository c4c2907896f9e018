//! Sizes and places of an image, from whichever of its sources can be believed.
//!
//! Header, EROFS superblock, dm-verity superblock and trailer each say how many blocks are under the tree, and
//! the position of the latter two says it once more, as does the length of the file. Whatever most of them agree on
//! is taken; each one that is damaged or disagrees is a finding of its own. How much parity there is, header, trailer and
//! length say.

use mkimg_format::erofs::{Superblock, raw};
use mkimg_format::fec::{self, Layout};
use mkimg_format::header::{HEADER_LEN, Header};
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{self, Level};
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256, hex};

use super::Error;
use super::report::{Findings, Region, unreadable};
use super::view::read_block;

/// Where the EROFS superblock ends, but for what configures compression.
const SUPERBLOCK_END: usize = 1152;
/// Where it starts.
const SUPERBLOCK_AT: usize = 1024;

type Block = Box<[u8; BLOCK_LEN]>;

/// What is known about an image before its blocks are read.
pub(crate) struct Geometry {
    pub(crate) file_size: u64,
    pub(crate) data_blocks: u64,
    /// Parity bytes of a codeword; 0 without parity.
    fec_roots: u32,
    /// The header, read or mended; `None` when too little of it is left.
    pub(crate) header: Option<Header>,
    /// First metadata block.
    pub(crate) meta_block: u64,
    /// First block of the seal; `data_blocks` when unknown.
    pub(crate) seal_block: u64,
    /// Levels of the tree, leaf level first.
    pub(crate) levels: Vec<Level>,
    /// Block 0 as it was read.
    pub(crate) block0: Option<Block>,
    verity_block: Option<Result<Block, Option<i32>>>,
    trailer_block: Option<Result<Block, Option<i32>>>,
}

/// Offsets that follow from the number of data blocks and the strength of the parity alone.
fn header_for(data_blocks: u64, fec_roots: u32) -> Header {
    Header { data_blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 }.with_fec(fec_roots)
}

/// The block count whose image is `size` bytes long.
fn blocks_by_size(size: u64, fec_roots: u32) -> Option<u64> {
    let image_size = |blocks| header_for(blocks, fec_roots).image_size();
    let (mut low, mut high) = (3_u64, u64::from(u32::MAX));
    while low < high {
        let middle = low.midpoint(high);
        if image_size(middle) < size { low = middle.saturating_add(1) } else { high = middle }
    }
    (image_size(low) == size).then_some(low)
}

/// Every strength of parity, that of none first.
fn strengths() -> impl Iterator<Item = u32> {
    std::iter::once(0).chain(fec::ROOTS)
}

/// What is named most often; of several the one that is named first.
fn majority<T: Copy + PartialEq>(votes: &[T]) -> Option<T> {
    let count = |vote: &T| votes.iter().filter(|other| *other == vote).count();
    let most = votes.iter().map(count).max()?;
    votes.iter().copied().find(|vote| count(vote) == most)
}

/// Block 0 with everything cleared that belongs neither to the header nor to the superblock.
pub(crate) fn without_slack(block0: &[u8; BLOCK_LEN]) -> Block {
    let mut mended = Box::new(*block0);
    mended[HEADER_LEN..SUPERBLOCK_AT].fill(0);
    mended[Superblock::end(block0)..].fill(0);
    mended
}

/// The superblock if it holds once the slack behind it is cleared; the reason otherwise.
fn read_superblock(block0: &[u8; BLOCK_LEN]) -> Result<Superblock, String> {
    let mended = without_slack(block0);
    let superblock = Superblock::from_bytes(&mended[SUPERBLOCK_AT..]).map_err(|error| error.to_string())?;
    if superblock.compat & raw::COMPAT_SB_CHKSUM == 0 {
        return Err("feature_compat has no checksum flag".to_owned());
    }
    if superblock.block_bits != 12 {
        return Err(format!("blkszbits is {}, must be 12", superblock.block_bits));
    }
    Ok(superblock)
}

/// Reads a block that may be what is looked for. Any error of the system is reported.
fn try_block(image: &impl ReadAt, offset: u64, region: Region, findings: &mut Findings) -> Option<Block> {
    let mut block = Box::new([0; BLOCK_LEN]);
    match image.read_exact_at(&mut block[..], offset) {
        Ok(()) => Some(block),
        // File data that a detached seal does not hold: a guess led there, nothing is missing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            findings.mark_incomplete();
            findings.add(region, offset, BLOCK_SIZE, unreadable(error.raw_os_error()));
            None
        }
    }
}

fn read_header(block0: &[u8; BLOCK_LEN]) -> Result<Header, String> {
    let bytes = block0.first_chunk::<HEADER_LEN>().ok_or("too short")?;
    Header::from_bytes(bytes).map_err(|error| error.to_string())
}

/// Restores a damaged header from what it says twice: the candidate whose bytes differ least from those found.
fn mend_header(
    block0: &[u8; BLOCK_LEN],
    data_blocks: u64,
    fec_roots: u32,
    known_meta: Option<u64>,
) -> Option<Header> {
    let stored = block0.first_chunk::<HEADER_LEN>()?;
    let word = |at: usize| {
        stored.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
    };
    let (meta_block, meta_blocks, seal_block, seal_blocks) = (word(32), word(40), word(48), word(56));
    let seals = [
        seal_block,
        data_blocks.saturating_sub(seal_blocks),
        meta_block.checked_add(meta_blocks).unwrap_or_default(),
        known_meta.and_then(|meta| meta.checked_add(meta_blocks)).unwrap_or_default(),
    ];
    let mut best: Option<(usize, Header)> = None;
    for seal_block in seals {
        let metas = [meta_block, seal_block.saturating_sub(meta_blocks), known_meta.unwrap_or_default()];
        for meta_block in metas {
            let header = Header { meta_block, seal_block, ..header_for(data_blocks, fec_roots) };
            if meta_block == 0 || meta_block >= seal_block || seal_block >= data_blocks {
                continue;
            }
            let wrong = header.to_bytes().iter().zip(stored).filter(|(a, b)| a != b).count();
            if best.is_none_or(|(least, _)| wrong < least) {
                best = Some((wrong, header));
            }
        }
    }
    best.map(|(_, header)| header)
}

impl Geometry {
    /// Reads all sources and decides.
    pub(crate) fn find(image: &impl ReadAt, findings: &mut Findings) -> Result<Self, Error> {
        let file_size = image.size().map_err(|source| Error::Io { offset: 0, source })?;
        let header_len = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
        if file_size < header_len {
            return Err(Error::NotAnImage { reason: format!("{file_size} bytes are too few for a header") });
        }
        let mut block = Box::new([0; BLOCK_LEN]);
        let there = usize::try_from(file_size.min(BLOCK_SIZE)).unwrap_or(BLOCK_LEN);
        let read = image.read_exact_at(block.get_mut(..there).unwrap_or_default(), 0);
        let block0 = match read {
            Ok(()) => Some(block),
            Err(error) => {
                findings.mark_incomplete();
                findings.add(Region::Header, 0, BLOCK_SIZE, unreadable(error.raw_os_error()));
                None
            }
        };
        let has_superblock = there >= SUPERBLOCK_END;
        let header = block0.as_ref().map(|block| read_header(block));
        let superblock = block0.as_ref().filter(|_| has_superblock).map(|block| read_superblock(block));
        let good_header = header.as_ref().and_then(|header| header.as_ref().ok());
        let good_superblock = superblock.as_ref().and_then(|superblock| superblock.as_ref().ok());

        let mut votes: Vec<u64> = Vec::new();
        votes.extend(good_header.map(|header| header.data_blocks));
        votes.extend(good_superblock.map(|superblock| u64::from(superblock.blocks)));
        let mut strength_votes: Vec<u32> = good_header.iter().map(|header| header.fec_roots).collect();
        let last_block = (file_size / BLOCK_SIZE).saturating_sub(1).saturating_mul(BLOCK_SIZE);

        // The trailer at its place, and at the end of the file where the others may have lost it.
        let named: Vec<u32> =
            if strength_votes.is_empty() { strengths().collect() } else { strength_votes.clone() };
        let mut places: Vec<u64> = votes
            .iter()
            .flat_map(|blocks| named.iter().map(|roots| header_for(*blocks, *roots).trailer_offset()))
            .collect();
        places.push(last_block);
        places.sort_unstable();
        places.dedup();
        let end_of = |place: u64| place.checked_add(BLOCK_SIZE);
        let mut trailer_votes = Vec::new();
        for place in places {
            if end_of(place).is_none_or(|end| end > file_size) {
                continue;
            }
            let block = try_block(image, place, Region::Trailer, findings);
            let Some(trailer) = block.and_then(|block| Trailer::from_block(&block, place).ok()) else {
                continue;
            };
            let own = header_for(trailer.data_blocks, trailer.fec_roots);
            trailer_votes.extend(if own.trailer_offset() == place {
                Some(trailer.data_blocks)
            } else {
                blocks_by_size(place.saturating_add(BLOCK_SIZE), trailer.fec_roots)
            });
            strength_votes
                .extend(Some(trailer.fec_roots).filter(|roots| strengths().any(|other| other == *roots)));
        }
        let claimed: Vec<u32> =
            if strength_votes.is_empty() { strengths().collect() } else { strength_votes.clone() };
        let mut by_size: Vec<u64> =
            claimed.iter().filter_map(|roots| blocks_by_size(file_size, *roots)).collect();
        by_size.sort_unstable();
        by_size.dedup();
        votes.extend(trailer_votes);

        let mut places = votes.clone();
        places.extend(&by_size);
        places.sort_unstable();
        places.dedup();
        for blocks in places {
            let place = header_for(blocks, 0).hash_offset();
            if end_of(place).is_none_or(|end| end > file_size) {
                continue;
            }
            let found = try_block(image, place, Region::VeritySuperblock, findings);
            if found.is_some_and(|block| verity::Superblock::from_block(&block, place).is_ok()) {
                votes.push(blocks);
            }
        }
        votes.retain(|blocks| (3..=u64::from(u32::MAX)).contains(blocks));
        if votes.is_empty() {
            let reason = "no header, EROFS superblock, verity superblock or trailer in it".to_owned();
            return Err(Error::NotAnImage { reason });
        }
        votes.extend(by_size);
        // The earlier source wins a tie.
        let data_blocks = majority(&votes).unwrap_or_default();
        strength_votes
            .extend(strengths().find(|roots| blocks_by_size(file_size, *roots) == Some(data_blocks)));
        let fec_roots = majority(&strength_votes).unwrap_or_default();

        let own_meta = good_superblock.map(|superblock| u64::from(superblock.meta_block));
        let mended = match good_header {
            Some(header) if (header.data_blocks, header.fec_roots) == (data_blocks, fec_roots) => {
                Some(*header)
            }
            _ => block0.as_ref().and_then(|block| mend_header(block, data_blocks, fec_roots, own_meta)),
        };
        let fallback = own_meta.filter(|meta| (1..=data_blocks).contains(meta)).unwrap_or(1);
        let geometry = Self {
            file_size,
            data_blocks,
            fec_roots,
            header: mended,
            meta_block: mended.map_or(fallback, |header| header.meta_block),
            seal_block: mended.map_or(data_blocks, |header| header.seal_block),
            levels: verity::levels(data_blocks, header_for(data_blocks, fec_roots).tree_offset()),
            block0,
            verity_block: None,
            trailer_block: None,
        };
        geometry.report_block0(header, superblock, findings);
        Ok(geometry.with_tail(image, findings))
    }

    /// Reads the two blocks outside the tree.
    fn with_tail(mut self, image: &impl ReadAt, findings: &mut Findings) -> Self {
        let read = |offset: u64| {
            (offset.saturating_add(BLOCK_SIZE) <= self.file_size).then(|| read_block(image, offset))
        };
        let (verity_block, trailer_block) = (read(self.hash_offset()), read(self.trailer_offset()));
        for (region, offset, block) in [
            (Region::VeritySuperblock, self.hash_offset(), &verity_block),
            (Region::Trailer, self.trailer_offset(), &trailer_block),
        ] {
            if let Some(Err(errno)) = block {
                findings.mark_incomplete();
                findings.add(region, offset, BLOCK_SIZE, unreadable(*errno));
            }
        }
        self.verity_block = verity_block;
        self.trailer_block = trailer_block;
        self
    }

    /// Block 0: header, superblock and slack, each by itself.
    fn report_block0(
        &self,
        header: Option<Result<Header, String>>,
        superblock: Option<Result<Superblock, String>>,
        findings: &mut Findings,
    ) {
        let expected = self.data_blocks;
        match header {
            Some(Err(problem)) => findings.add(Region::Header, 0, 512, problem),
            Some(Ok(header)) if header.data_blocks != expected => {
                let problem = format!("data_blocks is {}, the image has {expected}", header.data_blocks);
                findings.add(Region::Header, 0, 512, problem);
            }
            Some(Ok(header)) if header.fec_roots != self.fec_roots => {
                let problem = format!("fec_roots is {}, the image has {}", header.fec_roots, self.fec_roots);
                findings.add(Region::Header, 0, 512, problem);
            }
            _ => {}
        }
        match superblock {
            Some(Err(problem)) => findings.add(Region::Superblock, 1024, 128, problem),
            Some(Ok(superblock)) if u64::from(superblock.blocks) != expected => {
                let problem = format!("blocks is {}, the image has {expected}", superblock.blocks);
                findings.add(Region::Superblock, 1024, 128, problem);
            }
            _ => {}
        }
        let Some(block0) = &self.block0 else { return };
        for (start, end, what) in [
            (HEADER_LEN, SUPERBLOCK_AT, "bytes between header and superblock are not zero"),
            (Superblock::end(block0), BLOCK_LEN, "bytes behind the superblock are not zero"),
        ] {
            report_nonzero(block0, start..end, 0, what, findings);
        }
    }

    /// Compares the two blocks outside the tree with the only form they can have for this root hash.
    pub(crate) fn report_tail(&self, root: &Sha256, findings: &mut Findings) {
        if let Some(Ok(block)) = &self.verity_block {
            let expected = verity::Superblock::new(self.data_blocks, root).to_block();
            let offset = self.hash_offset();
            let at = block.iter().zip(expected.iter()).take(verity::SUPERBLOCK_LEN).position(|(a, b)| a != b);
            if at.is_some() {
                let problem = match verity::Superblock::from_block(block, offset) {
                    Err(error) => error.to_string(),
                    Ok(found) if found.data_blocks != self.data_blocks => {
                        format!("data_blocks is {}, the image has {}", found.data_blocks, self.data_blocks)
                    }
                    Ok(_) => "uuid is not derived from the root hash".to_owned(),
                };
                findings.add(Region::VeritySuperblock, offset, 512, problem);
            }
            let what = "bytes behind the verity superblock are not zero";
            report_nonzero(block, verity::SUPERBLOCK_LEN..BLOCK_LEN, offset, what, findings);
        }
        if let Some(Ok(block)) = &self.trailer_block {
            let offset = self.trailer_offset();
            let expected = Trailer::new(&self.shape(), *root);
            let problem = match Trailer::from_block(block, offset) {
                Err(error) => error.to_string(),
                Ok(trailer) if trailer.same_tree(&expected) => return,
                Ok(trailer) if trailer.root_hash != *root => {
                    format!("names root hash {}, the tree has {}", hex(&trailer.root_hash), hex(root))
                }
                Ok(trailer) => format!(
                    "says data_blocks {}, hash_offset {}, image_size {}, fec_offset {}, fec_roots {}; the image has {}, {}, {}, {}, {}",
                    trailer.data_blocks,
                    trailer.hash_offset,
                    trailer.image_size,
                    trailer.fec_offset,
                    trailer.fec_roots,
                    expected.data_blocks,
                    expected.hash_offset,
                    expected.image_size,
                    expected.fec_offset,
                    expected.fec_roots,
                ),
            };
            findings.add(Region::Trailer, offset, BLOCK_SIZE, problem);
        }
    }

    /// The file's length against the image's.
    pub(crate) fn report_length(&self, unchecked: u64, findings: &mut Findings) {
        let expected = self.image_size();
        if let Some(missing) = expected.checked_sub(self.file_size).filter(|missing| *missing > 0) {
            let mut problem = format!("the file has {} bytes, the image {expected}", self.file_size);
            if unchecked > 0 {
                problem.push_str(&format!(
                    "; for want of the tree {unchecked} blocks of data could not be checked"
                ));
            }
            findings.add(Region::Truncated, self.file_size, missing, problem);
        } else if self.file_size > expected {
            let extra = self.file_size.saturating_sub(expected);
            let problem = format!("{extra} bytes behind the end of the image at {expected}");
            findings.add(Region::Trailing, expected, extra, problem);
        }
    }

    /// Bytes of the blocks outside the tree that could be read.
    pub(crate) fn tail_bytes(&self) -> u64 {
        let tail = [&self.verity_block, &self.trailer_block];
        let read = tail.into_iter().filter(|block| matches!(block, Some(Ok(_)))).count();
        u64::try_from(read).unwrap_or_default().saturating_mul(BLOCK_SIZE)
    }

    /// Root hash that the trailer names, if its checksum holds.
    pub(crate) fn trailer_root(&self) -> Option<Sha256> {
        let block = self.trailer_block.as_ref()?.as_ref().ok()?;
        Trailer::from_block(block, 0).ok().map(|trailer| trailer.root_hash)
    }

    /// Whether the trailer, damaged or not, or the UUID of the dm-verity superblock speaks for a root hash.
    pub(crate) fn speaks_for(&self, root: &Sha256) -> bool {
        let expected = verity::Superblock::new(self.data_blocks, root).to_block();
        let uuid = |block: &Block| block.get(16..32) == expected.get(16..32);
        let named = |block: &Block| block.get(16..48) == Some(&root[..]);
        let good = |block: &Option<Result<Block, Option<i32>>>, test: &dyn Fn(&Block) -> bool| {
            block.as_ref().and_then(|block| block.as_ref().ok()).is_some_and(test)
        };
        good(&self.verity_block, &uuid) || good(&self.trailer_block, &named)
    }

    /// Sizes and offsets that do not depend on what is in the image.
    fn shape(&self) -> Header {
        header_for(self.data_blocks, self.fec_roots)
    }

    /// The parity, if there is any.
    pub(crate) fn parity(&self) -> Option<Layout> {
        Layout::of(&self.shape())
    }

    pub(crate) const fn hash_offset(&self) -> u64 {
        self.data_blocks.saturating_mul(BLOCK_SIZE)
    }

    pub(crate) const fn tree_offset(&self) -> u64 {
        self.hash_offset().saturating_add(BLOCK_SIZE)
    }

    pub(crate) fn trailer_offset(&self) -> u64 {
        self.shape().trailer_offset()
    }

    pub(crate) fn image_size(&self) -> u64 {
        self.shape().image_size()
    }

    /// The region that a byte of the protected area or of the tree belongs to.
    pub(crate) const fn region(&self, offset: u64) -> Region {
        let block = offset / BLOCK_SIZE;
        if offset >= self.hash_offset() {
            Region::Tree
        } else if block == 0 {
            Region::Header
        } else if block < self.meta_block {
            Region::Data
        } else if block < self.seal_block {
            Region::Metadata
        } else {
            Region::Seal
        }
    }
}

/// One finding that spans the non-zero bytes of a range that must be zero; `base` is the offset of the block.
fn report_nonzero(
    block: &[u8; BLOCK_LEN],
    range: std::ops::Range<usize>,
    base: u64,
    what: &str,
    findings: &mut Findings,
) {
    let bytes = block.get(range.clone()).unwrap_or_default();
    let Some(first) = bytes.iter().position(|byte| *byte != 0) else { return };
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(first);
    let start = u64::try_from(range.start.saturating_add(first)).unwrap_or_default();
    let length = u64::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or_default();
    findings.add(Region::Slack, base.saturating_add(start), length, what);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_size_names_its_block_count() {
        for roots in [0, 2, 24] {
            for blocks in [3, 127, 128, 129, 16_384, 16_385, u64::from(u32::MAX)] {
                let size = header_for(blocks, roots).image_size();
                assert_eq!(blocks_by_size(size, roots), Some(blocks));
                assert_eq!(blocks_by_size(size + 1, roots), None);
            }
            assert_eq!(blocks_by_size(0, roots), None);
        }
    }

    #[test]
    fn one_flipped_byte_of_a_header_is_mended() {
        for roots in [0, 2] {
            let header = Header { meta_block: 150, seal_block: 190, ..header_for(200, roots) };
            for at in 0..HEADER_LEN {
                for mask in [1, 0x80, 0xff] {
                    let mut block = Box::new([0; BLOCK_LEN]);
                    block[..HEADER_LEN].copy_from_slice(&header.to_bytes());
                    block[at] ^= mask;
                    for known in [Some(150), None] {
                        let mended = mend_header(&block, 200, roots, known);
                        assert_eq!(mended, Some(header), "byte {at} mask {mask}");
                    }
                }
            }
        }
    }
}
