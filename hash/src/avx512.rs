//! Sixteen blocks at once: lane `i` of every vector belongs to block `i`.
//!
//! The words of sixteen messages are transposed into vectors, and then it is SHA-256 as FIPS 180-4 writes it, with a
//! vector for each word. AVX-512 has what the functions are made of: rotations, and any function of three bits.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_ror_epi32, _mm512_set1_epi32, _mm512_set4_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_ternarylogic_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use crate::Digest;
use crate::constants::{INITIAL, ROUND};
use crate::message::{Message, STEP};
use crate::x86::{load512, store512};

/// Blocks that are hashed together.
pub(crate) const LANES: usize = 16;

// Truth tables: bit `4 * x + 2 * y + z` is the result for x, y and z.
const XOR3: i32 = 0x96;
const CHOOSE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

type Vectors<const N: usize> = [__m512i; N];

/// Hashes blocks, which have one length, behind a salt.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn hash(salt: &[u8], blocks: [&[u8]; LANES]) -> [Digest; LANES] {
    let messages = blocks.map(|block| Message::new(salt, block));
    let runs = messages.each_ref().map(Message::runs);
    let mut state = [_mm512_setzero_si512(); 8];
    for (vector, word) in state.iter_mut().zip(INITIAL) {
        *vector = _mm512_set1_epi32(word.cast_signed());
    }
    for run in 0..runs[0].len() {
        compress(&mut state, runs.map(|runs| runs[run]));
    }
    let mut digests = [[0; 32]; LANES];
    for (index, vector) in state.into_iter().enumerate() {
        let mut words = [0; LANES];
        store512(&mut words, vector);
        for (digest, word) in digests.iter_mut().zip(words) {
            digest.as_chunks_mut::<4>().0[index] = word.to_be_bytes();
        }
    }
    digests
}

/// Takes as many steps of each message into its state.
#[target_feature(enable = "avx512f,avx512bw")]
fn compress(state: &mut Vectors<8>, messages: [&[[u8; STEP]]; LANES]) {
    let count = messages[0].len();
    // Cut once, so that no step is checked against sixteen lengths.
    let messages = messages.map(|message| &message[..count]);
    let mut all = *state;
    for index in 0..count {
        let mut w = load(messages.map(|message| &message[index]));
        // The loop over the schedule is written out, so that all vectors are in registers.
        let mut s = all;
        macro_rules! rounds {
            ($first:literal: $($i:literal)*) => { $(
                if $first > 0 {
                    w[$i] = schedule(w[$i], w[($i + 1) % 16], w[($i + 9) % 16], w[($i + 14) % 16]);
                }
                s = round(s, w[$i], ROUND[$first + $i]);
            )* };
        }
        rounds!(0: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        rounds!(16: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        rounds!(32: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        rounds!(48: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for (sum, vector) in all.iter_mut().zip(s) {
            *sum = _mm512_add_epi32(*sum, vector);
        }
    }
    *state = all;
}

/// One round; the letters are those of the standard.
#[inline]
#[target_feature(enable = "avx512f")]
fn round([a, b, c, d, e, f, g, h]: Vectors<8>, w: __m512i, k: u32) -> Vectors<8> {
    let add = |x, y| _mm512_add_epi32(x, y);
    let sum1 = xor3(_mm512_ror_epi32::<6>(e), _mm512_ror_epi32::<11>(e), _mm512_ror_epi32::<25>(e));
    let choose = _mm512_ternarylogic_epi32::<CHOOSE>(e, f, g);
    let wk = add(w, _mm512_set1_epi32(k.cast_signed()));
    let t1 = add(add(add(h, wk), choose), sum1);
    let sum0 = xor3(_mm512_ror_epi32::<2>(a), _mm512_ror_epi32::<13>(a), _mm512_ror_epi32::<22>(a));
    let majority = _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c);
    [add(t1, add(sum0, majority)), a, b, c, add(d, t1), e, f, g]
}

/// Word `t` of the schedule out of words `t - 16`, `t - 15`, `t - 7` and `t - 2`.
#[inline]
#[target_feature(enable = "avx512f")]
fn schedule(w16: __m512i, w15: __m512i, w7: __m512i, w2: __m512i) -> __m512i {
    let sigma0 = xor3(_mm512_ror_epi32::<7>(w15), _mm512_ror_epi32::<18>(w15), _mm512_srli_epi32::<3>(w15));
    let sigma1 = xor3(_mm512_ror_epi32::<17>(w2), _mm512_ror_epi32::<19>(w2), _mm512_srli_epi32::<10>(w2));
    _mm512_add_epi32(_mm512_add_epi32(w16, w7), _mm512_add_epi32(sigma0, sigma1))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(x: __m512i, y: __m512i, z: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR3>(x, y, z)
}

/// Word `i` of all messages in vector `i`: big-endian words, transposed.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(steps: [&[u8; STEP]; LANES]) -> Vectors<16> {
    let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let mut rows = [_mm512_setzero_si512(); 16];
    for (row, step) in rows.iter_mut().zip(steps) {
        *row = _mm512_shuffle_epi8(load512(step), swap);
    }
    // Inside each quarter of 128 bits: four rows become four columns.
    let mut fours = [_mm512_setzero_si512(); 16];
    for (four, row) in fours.as_chunks_mut::<4>().0.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (a, b) = (_mm512_unpacklo_epi32(row[0], row[1]), _mm512_unpackhi_epi32(row[0], row[1]));
        let (c, d) = (_mm512_unpacklo_epi32(row[2], row[3]), _mm512_unpackhi_epi32(row[2], row[3]));
        *four = [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ];
    }
    // Quarter `q` of `fours[4 * g + i]` holds word `4 * q + i` of messages `4 * g ..`: the quarters change places.
    let mut words = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let (a, b, c, d) = (fours[i], fours[4 + i], fours[8 + i], fours[12 + i]);
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        words[i] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        words[4 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        words[8 + i] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        words[12 + i] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    words
}
