//! A message as the compression function takes it: whole steps of 64 bytes, then one or two that end it.

/// Bytes that one call of the compression function takes.
pub(crate) const STEP: usize = 64;

/// A message of SHA-256, a salt and a block behind it, cut into steps.
///
/// Most of the steps stand in the block itself and are not copied: only the one across the seam of salt and block is,
/// and those of the end.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    salt: &'a [[u8; STEP]],
    /// What is left of the salt and the beginning of the block.
    seam: [[u8; STEP]; 1],
    /// Whether `seam` counts.
    seams: usize,
    whole: &'a [[u8; STEP]],
    /// What is left of the message, the padding and the length.
    end: [[u8; STEP]; 2],
    /// How many of `end` count.
    ends: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn new(salt: &'a [u8], block: &'a [u8]) -> Self {
        // The standard counts bits modulo 2^64; slices are never that long.
        let bits = (salt.len() as u64).wrapping_add(block.len() as u64).wrapping_mul(8);
        let (salt, left) = salt.as_chunks::<STEP>();
        let fill = if left.is_empty() { 0 } else { block.len().min(STEP - left.len()) };
        let (first, block) = block.split_at(fill);
        let mut seam = [[0; STEP]; 1];
        let mut used = left.len() + first.len();
        seam[0][..left.len()].copy_from_slice(left);
        seam[0][left.len()..used].copy_from_slice(first);
        let (whole, rest) = block.as_chunks::<STEP>();
        let mut end = [[0; STEP]; 2];
        let seams = usize::from(used == STEP);
        if seams == 0 {
            // Salt and block together may not fill a step: then all there is is the end.
            end[0] = seam[0];
        } else {
            used = 0;
        }
        let length = used + rest.len();
        end[0][used..length].copy_from_slice(rest);
        end[0][length] = 0x80;
        // The length takes eight bytes behind the 0x80; they fit into this step or make another.
        let ends = if length < STEP - 8 { 1 } else { 2 };
        end[ends - 1][STEP - 8..].copy_from_slice(&bits.to_be_bytes());
        Self { salt, seam, seams, whole, end, ends }
    }

    /// All steps in order, in four runs. Messages of one salt and of blocks of one length have runs of the same lengths.
    pub(crate) fn runs(&self) -> [&[[u8; STEP]]; 4] {
        [self.salt, &self.seam[..self.seams], self.whole, &self.end[..self.ends]]
    }
}
