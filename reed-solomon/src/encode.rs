//! Parity, 4096 codewords side by side.
//!
//! Parity is what makes a codeword, taken as a polynomial, 0 at the powers 0 to `roots - 1` of x. So the message is evaluated
//! there by Horner's rule, which takes rows one after the other: `sum = sum * x^i + row`; and parity is what has the same
//! values. To multiply by x is cheap when bits of the same weight stand together: a block is turned into eight *planes*,
//! and a product is then three exclusive ors and a renaming for 64 bytes at a time, which compilers turn into vectors.

#![allow(clippy::arithmetic_side_effects, reason = "indices into arrays of fixed size, and powers below 24")]

use crate::field::{invert, mul, power, products};
use crate::{COLUMNS, ROOTS_MAX};

/// Words of a plane.
const WORDS: usize = COLUMNS / 64;

/// A block, its bits sorted by weight: plane `b` has bit `b` of every byte, in an order of its own.
type Planes = [[u64; WORDS]; 8];

/// Between words `distance` apart, exchanges the bits under `mask` of the upper one with those `distance` higher of the lower.
fn swap(words: &mut [u64; 8], distance: usize, mask: u64) {
    for low in (0..8).filter(|index| index & distance == 0) {
        let high = low + distance;
        let difference = ((words[low] >> distance) ^ words[high]) & mask;
        words[high] ^= difference;
        words[low] ^= difference << distance;
    }
}

/// Eight words, one for each plane: bit `b` of the bytes of word `w` becomes bit `w` of the bytes of word `b`.
fn transpose(words: &mut [u64; 8]) {
    swap(words, 1, 0x5555_5555_5555_5555);
    swap(words, 2, 0x3333_3333_3333_3333);
    swap(words, 4, 0x0f0f_0f0f_0f0f_0f0f);
}

/// Sorts the bits of a block.
fn to_planes(block: &[u8], planes: &mut Planes) {
    for (plane, bytes) in planes.iter_mut().zip(block.chunks_exact(COLUMNS / 8)) {
        for (word, bytes) in plane.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    transpose_all(planes);
}

/// What [`to_planes`] does, backwards.
fn from_planes(planes: &Planes, block: &mut [u8]) {
    let mut planes = *planes;
    transpose_all(&mut planes);
    for (plane, bytes) in planes.iter().zip(block.chunks_exact_mut(COLUMNS / 8)) {
        for (word, bytes) in plane.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = word.to_le_bytes();
        }
    }
}

fn transpose_all(planes: &mut Planes) {
    for at in 0..WORDS {
        let mut words: [u64; 8] = std::array::from_fn(|bit| planes[bit][at]);
        transpose(&mut words);
        for (plane, word) in planes.iter_mut().zip(words) {
            plane[at] = word;
        }
    }
}

/// `sum * x^POWER + row`, for every byte.
fn step<const POWER: usize>(sum: &mut Planes, row: &Planes) {
    for at in 0..WORDS {
        let mut s: [u64; 8] = std::array::from_fn(|bit| sum[bit][at]);
        for _ in 0..POWER {
            // What leaves at the top comes back as the polynomial, 0x1d.
            s = [s[7], s[0], s[1] ^ s[7], s[2] ^ s[7], s[3] ^ s[7], s[4], s[5], s[6]];
        }
        for bit in 0..8 {
            sum[bit][at] = s[bit] ^ row[bit][at];
        }
    }
}

/// One for each root.
const STEPS: [fn(&mut Planes, &Planes); ROOTS_MAX] = [
    step::<0>, step::<1>, step::<2>, step::<3>, step::<4>, step::<5>, step::<6>, step::<7>, step::<8>,
    step::<9>, step::<10>, step::<11>, step::<12>, step::<13>, step::<14>, step::<15>, step::<16>,
    step::<17>, step::<18>, step::<19>, step::<20>, step::<21>, step::<22>, step::<23>,
];

/// The values at all roots of the 4096 polynomials whose coefficients have come so far, highest power first.
#[derive(Clone)]
pub struct Sums(Vec<Planes>);

impl Sums {
    /// Of no coefficients yet; for at most [`ROOTS_MAX`] roots.
    #[must_use]
    pub fn new(roots: usize) -> Self {
        Self(vec![[[0; WORDS]; 8]; roots])
    }

    /// Starts anew.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|planes| *planes = [[0; WORDS]; 8]);
    }

    /// Takes the next row.
    ///
    /// # Panics
    /// When the row is shorter than [`COLUMNS`].
    pub fn push(&mut self, block: &[u8]) {
        assert!(block.len() >= COLUMNS, "a row has {COLUMNS} bytes");
        let mut row = [[0; WORDS]; 8];
        to_planes(block, &mut row);
        for (sum, step) in self.0.iter_mut().zip(STEPS) {
            step(sum, &row);
        }
    }

    /// The values at each root, a block of them.
    pub(crate) fn values(&self) -> Vec<[u8; COLUMNS]> {
        let mut values = vec![[0; COLUMNS]; self.0.len()];
        self.0.iter().zip(&mut values).for_each(|(planes, block)| from_planes(planes, block));
        values
    }
}

/// Turns values of messages into parity.
pub struct Encoder {
    /// For each parity byte and root: products of the factor of the value there.
    factors: Vec<Vec<[u8; 256]>>,
}

impl Encoder {
    /// For so many parity bytes a codeword.
    #[must_use]
    pub fn new(roots: usize) -> Self {
        // Parity p of degree below `roots` with p(x^i) = message(x^i) * x^(i * roots).
        let vandermonde = |root: usize| (0..roots).map(|at| power(root * (roots - 1 - at))).collect();
        // Powers of x are distinct, so there always is an inverse.
        let inverse = invert((0..roots).map(vandermonde).collect()).unwrap_or_default();
        let table = |(root, factor): (usize, &u8)| products(mul(*factor, power(root * roots)));
        Self { factors: inverse.iter().map(|row| row.iter().enumerate().map(table).collect()).collect() }
    }

    /// Parity of the messages in `sums`, codeword after codeword.
    pub fn parity(&self, sums: &Sums, parity: &mut [u8]) {
        let values = sums.values();
        let roots = self.factors.len();
        let mut column = [0; COLUMNS];
        for (at, factors) in self.factors.iter().enumerate() {
            column.fill(0);
            for (products, values) in factors.iter().zip(&values) {
                for (byte, value) in column.iter_mut().zip(values) {
                    *byte ^= products[usize::from(*value)];
                }
            }
            for (place, byte) in parity.iter_mut().skip(at).step_by(roots).zip(&column) {
                *place = *byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]

    use super::*;
    use crate::CODEWORD;

    /// Division by the generator polynomial, byte by byte, as textbooks have it.
    fn remainder(message: &[u8], roots: usize) -> Vec<u8> {
        let mut generator = vec![1];
        for root in 0..roots {
            let mut next = vec![0; generator.len() + 1];
            for (at, factor) in generator.iter().enumerate() {
                next[at] ^= factor;
                next[at + 1] ^= mul(*factor, power(root));
            }
            generator = next;
        }
        let mut parity = vec![0; roots];
        for byte in message {
            let feedback = byte ^ parity[0];
            parity.rotate_left(1);
            parity[roots - 1] = 0;
            parity.iter_mut().zip(&generator[1..]).for_each(|(byte, factor)| *byte ^= mul(*factor, feedback));
        }
        parity
    }

    #[test]
    fn planes_come_back_as_the_block_they_were() {
        let block: Vec<u8> = (0..COLUMNS).map(|at| (at * 7 % 251) as u8).collect();
        let (mut planes, mut back) = ([[0; WORDS]; 8], vec![0; COLUMNS]);
        to_planes(&block, &mut planes);
        for (bit, plane) in planes.iter().enumerate() {
            let ones: u32 = plane.iter().map(|word| word.count_ones()).sum();
            let wanted = block.iter().filter(|byte| **byte >> bit & 1 == 1).count();
            assert_eq!(ones as usize, wanted, "bit {bit}");
        }
        from_planes(&planes, &mut back);
        assert_eq!(back, block);
    }

    #[test]
    fn parity_is_the_remainder_of_the_textbook() {
        // As in SPEC.md, section 7.1.
        assert_eq!(remainder(&[1, 2, 3], 2), [0x04, 0x04]);
        assert_eq!(remainder(&[1, 2, 3], 4), [0x8b, 0xf3, 0x8e, 0xf6]);
        for roots in [2, 3, 8, 17, 24] {
            let rows: Vec<Vec<u8>> = (0..CODEWORD - roots)
                .map(|row| (0..COLUMNS).map(|at| (row * 31 + at * at / 3 + at) as u8).collect())
                .collect();
            let mut sums = Sums::new(roots);
            rows.iter().for_each(|row| sums.push(row));
            let mut parity = vec![0; roots * COLUMNS];
            Encoder::new(roots).parity(&sums, &mut parity);
            for column in [0, 1, 63, 64, 2047, 4095] {
                let message: Vec<u8> = rows.iter().map(|row| row[column]).collect();
                let found = &parity[column * roots..(column + 1) * roots];
                assert_eq!(found, remainder(&message, roots), "{roots} roots, codeword {column}");
            }
        }
    }
}
