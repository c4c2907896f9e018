//! The copy that is worked on.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt};

use crate::{Error, Options, failed};

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// Copies an image as far as it can be read. Blocks that cannot, and such as are missing at its end, become zeros.
pub(crate) fn copy(
    image: &(impl ReadAt + ?Sized),
    output: &File,
    image_size: u64,
    options: &Options<'_>,
) -> Result<(), Error> {
    output.set_len(image_size).map_err(failed("cannot set the length"))?;
    let end = image.size().unwrap_or(image_size).min(image_size);
    let mut buffer = vec![0; PIECE];
    let mut at = 0_u64;
    while at < end {
        let length = usize::try_from(end.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        if image.read_exact_at(piece, at).is_err() {
            let mut offset = at;
            for block in piece.chunks_mut(BLOCK_LEN) {
                if image.read_exact_at(block, offset).is_err() {
                    block.fill(0);
                }
                offset = offset.saturating_add(BLOCK_SIZE);
            }
        }
        output.write_all_at(piece, at).map_err(failed("cannot write"))?;
        at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if let Some(progress) = options.progress {
            progress("copy", at, end);
        }
    }
    Ok(())
}
