//! A message as the compression function takes it: whole steps of 64 bytes, then one or two that end it.

/// Bytes that one call of the compression function takes.
pub(crate) const STEP: usize = 64;

/// A message of SHA-256 cut into steps.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    /// The steps that stand in the message itself.
    pub(crate) whole: &'a [[u8; STEP]],
    /// What is left of the message, the padding and the length.
    end: [[u8; STEP]; 2],
    /// How many of `end` count.
    ends: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let (whole, rest) = bytes.as_chunks::<STEP>();
        let mut end = [[0; STEP]; 2];
        end[0][..rest.len()].copy_from_slice(rest);
        end[0][rest.len()] = 0x80;
        // The length takes eight bytes behind the 0x80; they fit into this step or make another.
        let ends = if rest.len() < STEP - 8 { 1 } else { 2 };
        // The standard counts bits modulo 2^64; a slice is never that long.
        let bits = (bytes.len() as u64).wrapping_mul(8);
        end[ends - 1][STEP - 8..].copy_from_slice(&bits.to_be_bytes());
        Self { whole, end, ends }
    }

    /// The steps behind `whole`.
    pub(crate) fn end(&self) -> &[[u8; STEP]] {
        &self.end[..self.ends]
    }
}
