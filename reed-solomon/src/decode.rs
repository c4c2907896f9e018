//! Errors and erasures.
//!
//! A codeword that is right is 0 at all roots. Its values there, the *syndromes*, depend on what was added to it alone. Where
//! the rows that are wrong are known, the values of the damage follow from linear equations, the same for all
//! codewords. What contradicts them is looked for codeword by codeword: Berlekamp and Massey's algorithm, which starts with
//! the known rows, finds the others.

#![allow(clippy::arithmetic_side_effects, reason = "indices below 255, and powers of x")]

use crate::encode::Sums;
use crate::field::{inverse, invert, mul, power, products};
use crate::{CODEWORD, COLUMNS};

/// More is wrong than parity can mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncorrectable;

/// [`COLUMNS`] codewords, as [`CODEWORD`] rows.
pub struct Codewords {
    rows: Vec<[u8; COLUMNS]>,
    roots: usize,
}

impl Codewords {
    /// Of zeros, with so many bytes of parity each.
    #[must_use]
    pub fn new(roots: usize) -> Self {
        Self { rows: vec![[0; COLUMNS]; CODEWORD], roots }
    }

    /// A row; message first, then parity.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<&[u8; COLUMNS]> {
        self.rows.get(row)
    }

    /// A row, to be filled.
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [u8; COLUMNS]> {
        self.rows.get_mut(row)
    }

    /// Takes parity as an encoder gives it, codeword after codeword.
    pub fn set_parity(&mut self, parity: &[u8]) {
        let message = CODEWORD - self.roots;
        for (codeword, bytes) in parity.chunks_exact(self.roots).take(COLUMNS).enumerate() {
            for (row, byte) in self.rows[message..].iter_mut().zip(bytes) {
                row[codeword] = *byte;
            }
        }
    }

    /// Mends all codewords; the rows in `erasures` are known to be wrong.
    ///
    /// The result is a guess, and has to be compared with a hash: what is damaged beyond the strength of the code may look
    /// like something else.
    ///
    /// # Errors
    /// [`Uncorrectable`], when a codeword has more damage than can be mended; some may be mended by then.
    pub fn correct(&mut self, erasures: &[usize]) -> Result<(), Uncorrectable> {
        if erasures.len() > self.roots || erasures.iter().any(|row| *row >= CODEWORD) {
            return Err(Uncorrectable);
        }
        let mut sums = Sums::new(self.roots);
        self.rows.iter().for_each(|row| sums.push(row));
        let syndromes = sums.values();
        let equations = Equations::new(erasures)?;
        let damage = equations.solve(&syndromes);
        let consistent = equations.consistent(&syndromes, &damage);
        for (column, consistent) in consistent.iter().enumerate() {
            if *consistent {
                for (row, damage) in erasures.iter().zip(&damage) {
                    self.rows[*row][column] ^= damage[column];
                }
            } else {
                let own: Vec<u8> = syndromes.iter().map(|values| values[column]).collect();
                for (row, damage) in locate(&own, erasures)? {
                    self.rows[row][column] ^= damage;
                }
            }
        }
        Ok(())
    }
}

/// The power of x that belongs to a row: rows are coefficients, highest power first.
const fn degree(row: usize) -> usize {
    CODEWORD - 1 - row
}

/// Which damage in given rows has which syndromes.
struct Equations<'a> {
    rows: &'a [usize],
    /// For each row and syndrome: products of the factor.
    factors: Vec<Vec<[u8; 256]>>,
}

impl<'a> Equations<'a> {
    fn new(rows: &'a [usize]) -> Result<Self, Uncorrectable> {
        let equation = |root: usize| rows.iter().map(|row| power(root * degree(*row))).collect();
        // Without an inverse a row is there twice.
        let inverse = invert((0..rows.len()).map(equation).collect()).ok_or(Uncorrectable)?;
        let table = |row: &Vec<u8>| row.iter().map(|factor| products(*factor)).collect();
        Ok(Self { rows, factors: inverse.iter().map(table).collect() })
    }

    /// The damage in each row that the first syndromes ask for.
    fn solve(&self, syndromes: &[[u8; COLUMNS]]) -> Vec<[u8; COLUMNS]> {
        let mut damage = vec![[0; COLUMNS]; self.rows.len()];
        for (damage, factors) in damage.iter_mut().zip(&self.factors) {
            for (products, values) in factors.iter().zip(syndromes) {
                add_products(damage, products, values);
            }
        }
        damage
    }

    /// Whether it explains the other syndromes as well, for each codeword.
    fn consistent(&self, syndromes: &[[u8; COLUMNS]], damage: &[[u8; COLUMNS]]) -> Vec<bool> {
        let mut consistent = vec![true; COLUMNS];
        for (root, values) in syndromes.iter().enumerate().skip(self.rows.len()) {
            let mut left = *values;
            for (row, damage) in self.rows.iter().zip(damage) {
                add_products(&mut left, &products(power(root * degree(*row))), damage);
            }
            consistent.iter_mut().zip(left).for_each(|(consistent, left)| *consistent &= left == 0);
        }
        consistent
    }
}

fn add_products(sums: &mut [u8; COLUMNS], products: &[u8; 256], values: &[u8; COLUMNS]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum ^= products[usize::from(*value)];
    }
}

/// The value of a polynomial, lowest coefficient first.
fn evaluate(polynomial: &[u8], at: u8) -> u8 {
    polynomial.iter().rev().fold(0, |sum, factor| mul(sum, at) ^ factor)
}

/// Damaged rows of one codeword, those that are known and others, and what was added to them.
fn locate(syndromes: &[u8], erasures: &[usize]) -> Result<Vec<(usize, u8)>, Uncorrectable> {
    let roots = syndromes.len();
    // The locator has a zero at x^-degree of each damaged row. It starts with the known ones.
    let mut locator = vec![0; roots + 1];
    locator[0] = 1;
    for (count, row) in erasures.iter().enumerate() {
        for at in (0..=count).rev() {
            locator[at + 1] ^= mul(locator[at], power(degree(*row)));
        }
    }
    let mut length = erasures.len();
    let mut before = locator.clone();
    for step in erasures.len()..roots {
        before.rotate_right(1);
        before[0] = 0;
        let discrepancy = (0..=step).fold(0, |sum, at| sum ^ mul(locator[at], syndromes[step - at]));
        if discrepancy == 0 {
            continue;
        }
        let next: Vec<u8> =
            locator.iter().zip(&before).map(|(own, other)| own ^ mul(*other, discrepancy)).collect();
        if 2 * length <= step + erasures.len() {
            length = step + 1 + erasures.len() - length;
            before = locator.iter().map(|factor| mul(*factor, inverse(discrepancy))).collect();
        }
        locator = next;
    }
    let count = locator.iter().rposition(|factor| *factor != 0).unwrap_or_default();
    // Values of the damage by Forney's formula: numerator is locator times syndromes.
    let numerator: Vec<u8> = (0..roots)
        .map(|power| (0..=power).fold(0, |sum, at| sum ^ mul(locator[at], syndromes[power - at])))
        .collect();
    let derivative: Vec<u8> = (0..roots).map(|at| if at % 2 == 0 { locator[at + 1] } else { 0 }).collect();
    let mut found = Vec::new();
    for row in 0..CODEWORD {
        let at = power(CODEWORD - degree(row));
        if evaluate(&locator, at) != 0 {
            continue;
        }
        let slope = evaluate(&derivative, at);
        if slope == 0 {
            return Err(Uncorrectable);
        }
        found.push((row, mul(power(degree(row)), mul(evaluate(&numerator, at), inverse(slope)))));
    }
    if found.len() == count { Ok(found) } else { Err(Uncorrectable) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]

    use super::*;
    use crate::Encoder;

    /// Codewords as an encoder makes them.
    fn codewords(roots: usize) -> Codewords {
        let mut codewords = Codewords::new(roots);
        let mut sums = Sums::new(roots);
        for (number, row) in codewords.rows[..CODEWORD - roots].iter_mut().enumerate() {
            for (at, byte) in row.iter_mut().enumerate() {
                *byte = (number * 31 + at * at / 5 + at * 3) as u8;
            }
            sums.push(row);
        }
        let mut parity = vec![0; roots * COLUMNS];
        Encoder::new(roots).parity(&sums, &mut parity);
        codewords.set_parity(&parity);
        codewords
    }

    fn copy(of: &Codewords) -> Codewords {
        Codewords { rows: of.rows.clone(), roots: of.roots }
    }

    /// Every way to divide the strength of the code between known and unknown damage.
    #[test]
    fn everything_within_the_limit_is_mended() {
        for roots in [2, 3, 8, 24] {
            let good = codewords(roots);
            for known in 0..=roots {
                let unknown = (roots - known) / 2;
                let mut bad = copy(&good);
                // Known rows are lost altogether, unknown damage is in a few codewords, at other rows in each.
                let erasures: Vec<usize> = (0..known).map(|index| index * 10 + 3).collect();
                for row in &erasures {
                    bad.rows[*row].fill(0x5a);
                }
                for column in (0..COLUMNS).step_by(97) {
                    for index in 0..unknown {
                        bad.rows[(index * 10 + column / 97 * 20) % 250 + 4][column] ^= 0x81;
                    }
                }
                assert_eq!(bad.correct(&erasures), Ok(()), "{roots} roots, {known} known, {unknown} unknown");
                assert!(bad.rows == good.rows, "{roots} roots, {known} known, {unknown} unknown");
            }
        }
    }

    #[test]
    fn beyond_the_limit_nothing_becomes_whole() {
        for roots in [2, 8, 24] {
            let good = codewords(roots);
            let mut bad = copy(&good);
            let erasures: Vec<usize> = (0..=roots).map(|row| row * 3).collect();
            for row in &erasures {
                bad.rows[*row].iter_mut().for_each(|byte| *byte ^= 0x42);
            }
            assert_eq!(bad.correct(&erasures), Err(Uncorrectable), "more erasures than roots");
            // One of them unknown: whatever comes of it, it is not the truth.
            let _ = bad.correct(&erasures[1..]);
            assert!(bad.rows != good.rows);
        }
        let mut twice = codewords(8);
        assert_eq!(twice.correct(&[5, 5]), Err(Uncorrectable));
        assert_eq!(twice.correct(&[255]), Err(Uncorrectable));
    }
}
