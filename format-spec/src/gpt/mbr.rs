//! The protective MBR: the first sector of a disk, for programs that know no GUID partition table.

use std::ops::Range;

use crate::{Error, Part, Problem, Result};

/// Length of a protective MBR in bytes; with larger sectors zeros follow.
pub const MBR_LEN: usize = 512;

/// The first bytes of a disk of so many sectors: to a program that knows no GPT it is full.
#[must_use]
pub fn protective_mbr(sectors: u64) -> [u8; MBR_LEN] {
    let mut mbr = [0; MBR_LEN];
    let length = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    // Not bootable, from cylinder 0, head 0, sector 2 on; type; to where no address reaches; from sector 1 on.
    mbr[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&length.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

/// Checks the first bytes of a disk of so many sectors: nothing but the one record that covers all of it.
///
/// Another partition table would be another disk to whoever reads that one, and boot code is none of an image. In which
/// cylinder the disk ends, nobody reads any more; as libfdisk has it, that is everywhere beyond the last.
///
/// # Errors
/// [`Error::Corrupt`] with what breaks a rule.
pub fn check_protective_mbr(found: &[u8; MBR_LEN], sectors: u64) -> Result<()> {
    let expected = protective_mbr(sectors);
    let differs = |range: Range<usize>| {
        let start = range.start;
        let pairs =
            found.get(range.clone()).unwrap_or_default().iter().zip(expected.get(range).unwrap_or_default());
        pairs
            .enumerate()
            .find(|(_, (found, expected))| found != expected)
            .map(|(at, _)| start.saturating_add(at))
    };
    for (range, what) in [
        (510..512, "has no signature 55aa"),
        (450..451, "first record is not of type ee, which protects the disk"),
        (446..447, "first record is bootable"),
        (454..458, "first record does not begin with sector 1"),
        (458..462, "first record is not as long as the disk"),
        (447..454, "first record is not from cylinder 0, sector 2, up to where no address reaches"),
        (0..446, "bytes in front of the records are not zero"),
        (462..510, "there are more records than the one that protects the disk"),
    ] {
        if let Some(at) = differs(range) {
            let at = u64::try_from(at).unwrap_or_default();
            return Err(Error::corrupt(Part::ProtectiveMbr, at, Problem::Disagree(what.to_owned())));
        }
    }
    Ok(())
}
