//! Changes to a sound image, eight bytes of input each: far smaller than an image, and each lands where it matters.

use mkimg_format::BLOCK_SIZE;
use mkimg_format::header::Header;

use crate::sample::{SAMPLES, Sample};

/// Length of one change: area, operation, offset (2), value (4).
pub const LEN: usize = 8;

/// The first byte chooses a sample, the rest are changes. What remains below [`LEN`] bytes is left out.
pub fn apply(input: &[u8]) -> (&'static Sample, Vec<u8>) {
    let (choice, changes) =
        input.split_first().map_or((0, input), |(first, rest)| (usize::from(*first), rest));
    let sample = &SAMPLES[choice % SAMPLES.len()];
    let header = Header::read(&sample.bytes).expect("samples are sound");
    let mut bytes = sample.bytes.clone();
    for change in changes.chunks_exact(LEN) {
        let offset = u64::from(u16::from_le_bytes([change[2], change[3]]));
        one(&mut bytes, &header, change[0], change[1], offset, [change[4], change[5], change[6], change[7]]);
    }
    (sample, bytes)
}

fn one(bytes: &mut Vec<u8>, header: &Header, area: u8, operation: u8, offset: u64, value: [u8; 4]) {
    let block = BLOCK_SIZE;
    let (start, end) = match area % 8 {
        0 => (0, 512),
        1 => (1024, 1152),
        // Inodes stand in slots of 32 bytes: the first is empty, the second is the root.
        2 => (header.meta_block * block, header.seal_block * block),
        3 => (header.seal_block * block, header.hash_offset()),
        4 => (header.hash_offset(), header.tree_offset()),
        5 => (header.tree_offset(), header.trailer_offset()),
        6 => (header.trailer_offset(), header.image_size()),
        _ => (0, header.image_size()),
    };
    // The whole image is longer than a 16-bit offset reaches.
    let scale = if area % 8 == 7 { 7 } else { 1 };
    let at = usize::try_from(start + (offset * scale) % (end - start)).unwrap_or(0);
    let width = usize::from(operation >> 4).clamp(1, 4);
    match operation % 8 {
        5 => bytes.truncate(at),
        6 => bytes.extend(value),
        7 => {
            let from = usize::from(u16::from_le_bytes([value[0], value[1]]));
            let length = usize::from(value[2]) * 16;
            if from + length <= bytes.len() && at + length <= bytes.len() {
                bytes.copy_within(from..from + length, at);
            }
        }
        kind => {
            for (byte, value) in bytes.iter_mut().skip(at).zip(value).take(width) {
                *byte = match kind {
                    0 | 1 => value,
                    2 => *byte ^ value,
                    3 => byte.wrapping_add(value),
                    _ => 0,
                };
            }
        }
    }
}
