//! Block 0: the superblock, field by field, and the zeros around it.

use zerocopy::FromBytes;

use super::findings::{About, Findings};
use crate::erofs::raw::{COMPAT_MTIME, COMPAT_SB_CHKSUM, RawSuperblock, SUPER_MAGIC, SUPERBLOCK_OFFSET};
use crate::erofs::{Features, Superblock};
use crate::header::{HEADER_LEN, Header};
use crate::{BLOCK_LEN, Error, Part, ReadAt, Result};

/// End of the superblock.
const SUPERBLOCK_END: usize = 1024 + size_of::<RawSuperblock>();

/// Image offset of a superblock field.
pub(super) const fn at(field: u64) -> u64 {
    SUPERBLOCK_OFFSET.saturating_add(field)
}

/// Checks block 0. `None` when the places of the areas are not known for certain, so nothing else can be judged.
pub(super) fn check<R: ReadAt>(
    image: &R,
    header: &Header,
    out: &mut Findings<'_>,
) -> Result<Option<RawSuperblock>> {
    let io = |source| Error::Io { part: Part::Superblock, offset: 0, source };
    let size = image.size().map_err(io)?;
    if size < header.hash_offset() || header.data_blocks == 0 {
        let problem = format!("{} data blocks in an image of {size} bytes", header.data_blocks);
        out.add(Part::Header, 16, About::Nothing, problem);
        return Ok(None);
    }
    let mut block = [0; BLOCK_LEN];
    image.read_exact_at(&mut block, 0).map_err(io)?;
    let Some(Ok((raw, _))) = block.get(1024..).map(RawSuperblock::read_from_prefix) else {
        return Ok(None);
    };
    // What an image of another writer configures is said below, field by field.
    let features = Superblock::from_bytes(block.get(1024..).unwrap_or_default())
        .map_or_else(|_| Features::default(), |superblock| superblock.features);
    let end = Superblock::end(&block);
    if block.get(SUPERBLOCK_END..end) != Some(&features.config()) {
        let problem = "configuration of the algorithm is not that of mkimg";
        out.add(Part::Superblock, at(128), About::Nothing, problem);
    }
    for (start, end) in [(HEADER_LEN, 1024), (end, BLOCK_LEN)] {
        let used = block.get(start..end).unwrap_or_default().iter().position(|byte| *byte != 0);
        if let Some(skip) = used {
            let offset = u64::try_from(start.saturating_add(skip)).unwrap_or(0);
            out.add(
                Part::Slack,
                offset,
                About::Nothing,
                "byte of block 0 that belongs to nothing is not zero",
            );
        }
    }
    if raw.magic.get() != SUPER_MAGIC {
        out.add(Part::Superblock, at(0), About::Nothing, "wrong magic number");
        return Ok(None);
    }
    let places = [
        (0x24, "blocks", raw.blocks.get(), header.data_blocks, "data_blocks"),
        (0x28, "meta_blkaddr", raw.meta_blkaddr.get(), header.meta_block, "meta_block"),
    ];
    let mut certain = raw.blkszbits == 12;
    for (offset, name, found, expected, other) in places {
        if u64::from(found) != expected {
            certain = false;
            let problem = format!("{name} is {found}, {other} of the header is {expected}");
            out.add(Part::Superblock, at(offset), About::Nothing, problem);
        }
    }
    if header.meta_block == 0
        || header.meta_block >= header.seal_block
        || header.seal_block > header.data_blocks
    {
        certain = false;
        out.add(Part::Header, 32, About::Nothing, "sections of the header are not in order");
    }
    for (offset, name, found, expected) in [
        (
            0x08,
            "feature_compat",
            u64::from(raw.feature_compat.get()),
            u64::from(COMPAT_SB_CHKSUM | COMPAT_MTIME),
        ),
        (0x0c, "blkszbits", raw.blkszbits.into(), 12),
        (0x0d, "sb_extslots", raw.sb_extslots.into(), 0),
        (0x50, "feature_incompat", raw.feature_incompat.get().into(), features.incompat().into()),
        (0x54, "available_compr_algs", raw.available_compr_algs.get().into(), features.algorithms().into()),
        (0x56, "extra_devices", raw.extra_devices.get().into(), 0),
        (0x58, "devt_slotoff", raw.devt_slotoff.get().into(), 0),
        (0x5a, "dirblkbits", raw.dirblkbits.into(), 0),
        (0x5b, "xattr_prefix_count", raw.xattr_prefix_count.into(), 0),
        (0x5c, "xattr_prefix_start", raw.xattr_prefix_start.get().into(), 0),
        (0x68, "xattr_filter_reserved", raw.xattr_filter_reserved.into(), 0),
        (0x69, "ishare_xattr_prefix_id", raw.ishare_xattr_prefix_id.into(), 0),
        (0x6a, "reserved", u16::from_le_bytes(raw.reserved).into(), 0),
        (0x6c, "build_time", raw.build_time.get().into(), 0),
        (0x70, "rootnid_8b", raw.rootnid_8b.get(), 0),
        (0x78, "reserved2", raw.reserved2.get(), 0),
    ] {
        if found != expected {
            out.add(
                Part::Superblock,
                at(offset),
                About::Nothing,
                format!("{name} is {found}, must be {expected}"),
            );
        }
    }
    // Behind the empty slot 0, or in the next block if it does not fit there.
    if !matches!(raw.root_nid.get(), 1 | 128) {
        let problem = format!("root_nid is {}, must be 1 or 128", raw.root_nid.get());
        out.add(Part::Superblock, at(0x0e), About::Nothing, problem);
    }
    let label = raw.volume_name.iter().position(|byte| *byte == 0);
    let padding = label.and_then(|end| raw.volume_name.get(end..));
    if !padding.is_some_and(|padding| padding.iter().all(|byte| *byte == 0)) {
        out.add(Part::Superblock, at(0x40), About::Nothing, "volume_name is not padded with NUL");
    }
    Ok(certain.then_some(raw))
}
