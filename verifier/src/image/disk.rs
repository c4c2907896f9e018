//! What is around an image in the partitions of a disk.

use std::ops::{ControlFlow, Range};

use mkimg_format::ddi::Disk;
use mkimg_format::detached::Sealed;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_format::{ReadAt, Sha256};

use super::report::{Findings, Region, unreadable};
use super::zeros::nonzero;

/// Bytes between partitions that are read: nobody has more of them, and a file with holes could have any number.
pub(super) const GAPS_MAX: u64 = 1 << 30;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// Audits the disk that an image of this root hash is on. Returns how many bytes were read.
///
/// Offsets of findings are those of the disk.
pub(crate) fn audit<R: ReadAt>(
    image: &Sealed<R>,
    disk: &Disk,
    root_hash: &Sha256,
    findings: &mut Findings,
) -> u64 {
    for problem in disk.problems(image.io(), root_hash) {
        findings.add_error(&problem, None);
    }
    // An image whose records cannot be read has findings of its own.
    let sealed = Header::read(image).and_then(|header| Seal::open(image, &header)?.architecture());
    let (own, of_disk) = (sealed.ok().flatten(), disk.architecture().oci);
    if let Some(own) = own.filter(|own| own != of_disk) {
        let problem = format!("partitions are for {of_disk}, the image is for {own}");
        findings.add(Region::PartitionTable, disk.table().array, 0, problem);
    }
    let mut bytes_read = disk.size().saturating_sub(disk.image_size());
    let mut left = GAPS_MAX;
    for gap in disk.gaps() {
        let length = gap.end.saturating_sub(gap.start);
        let read = length.min(left);
        report_gap(image.io(), gap.start..gap.start.saturating_add(read), findings);
        left = left.saturating_sub(read);
        if read < length {
            findings.mark_incomplete();
            let problem = "more than 1 GiB outside of partitions: the rest was not looked at";
            findings.add(
                Region::DiskSlack,
                gap.start.saturating_add(read),
                length.saturating_sub(read),
                problem,
            );
            bytes_read = bytes_read.saturating_sub(length.saturating_sub(read));
        }
    }
    let trailing = disk.trailing();
    let length = trailing.end.saturating_sub(trailing.start);
    if length > 0 {
        let problem = format!("{length} bytes behind the end of the disk at {}", trailing.start);
        findings.add(Region::Trailing, trailing.start, length, problem);
    }
    bytes_read
}

/// One finding that spans the bytes of a gap that are not zero.
fn report_gap(io: &impl ReadAt, gap: Range<u64>, findings: &mut Findings) {
    let found = nonzero(io, gap, CHUNK, |range, error| {
        findings.mark_incomplete();
        let length = range.end.saturating_sub(range.start);
        findings.add(Region::DiskSlack, range.start, length, unreadable(error.raw_os_error()));
        ControlFlow::Continue(())
    });
    if let Some(found) = found {
        let length = found.end.saturating_sub(found.start);
        findings.add(Region::DiskSlack, found.start, length, "bytes outside of partitions are not zero");
    }
}
