//! Blocks side by side on the SHA extensions.
//!
//! An instruction for two rounds waits for the result of the one before. With several messages in turn there is
//! always one that need not wait.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::Digest;
use crate::constants::{INITIAL, ROUND};
use crate::message::{Message, STEP};
use crate::x86::{load128, store128};

/// Blocks that are hashed together: four are some 10 % faster than two, more do not fit into the registers.
pub(crate) const LANES: usize = 4;

/// The state as the instructions want it: words a, b, e, f and words c, d, g, h, the first in the highest place.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// Hashes blocks, which have one length, behind a salt.
#[target_feature(enable = "sha,ssse3")]
pub(crate) fn hash<const N: usize>(salt: &[u8], blocks: [&[u8]; N]) -> [Digest; N] {
    let messages = blocks.map(|block| Message::new(salt, block));
    let runs = messages.each_ref().map(Message::runs);
    let [a, b, c, d, e, f, g, h] = INITIAL.map(u32::cast_signed);
    let first = State { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) };
    let mut states = [first; N];
    for run in 0..runs[0].len() {
        compress(&mut states, runs.map(|runs| runs[run]));
    }
    let mut digests = [[0; 32]; N];
    for (digest, State { abef, cdgh }) in digests.iter_mut().zip(states) {
        let (mut feba, mut hgdc) = ([0; 4], [0; 4]);
        store128(&mut feba, abef);
        store128(&mut hgdc, cdgh);
        let words = [feba[3], feba[2], hgdc[3], hgdc[2], feba[1], feba[0], hgdc[1], hgdc[0]];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
    }
    digests
}

/// Takes as many steps of each message into its state.
#[target_feature(enable = "sha,ssse3")]
fn compress<const N: usize>(states: &mut [State; N], messages: [&[[u8; STEP]]; N]) {
    let count = messages[0].len();
    // Cut once, so that no step is checked against all lengths.
    let messages = messages.map(|message| &message[..count]);
    let mut all = *states;
    for index in 0..count {
        let mut w = [[_mm_setzero_si128(); 4]; N];
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        for (words, message) in w.iter_mut().zip(messages) {
            for (word, bytes) in words.iter_mut().zip(message[index].as_chunks::<16>().0) {
                *word = _mm_shuffle_epi8(load128(bytes), swap);
            }
        }
        let before = all;
        // The loop over the schedule is written out, so that it stays in registers.
        macro_rules! rounds {
            ($first:literal: $($i:literal)*) => { $(
                let k = constants($first + $i);
                for lane in 0..N {
                    let words = &mut w[lane];
                    if $first > 0 {
                        words[$i] =
                            schedule(words[$i], words[($i + 1) % 4], words[($i + 2) % 4], words[($i + 3) % 4]);
                    }
                    rounds4(&mut all[lane], _mm_add_epi32(words[$i], k));
                }
            )* };
        }
        rounds!(0: 0 1 2 3);
        rounds!(4: 0 1 2 3);
        rounds!(8: 0 1 2 3);
        rounds!(12: 0 1 2 3);
        for (state, before) in all.iter_mut().zip(before) {
            state.abef = _mm_add_epi32(state.abef, before.abef);
            state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
        }
    }
    *states = all;
}

/// Constants of four rounds.
#[inline]
#[target_feature(enable = "sse2")]
fn constants(four: usize) -> __m128i {
    let k = |i: usize| ROUND[4 * four + i].cast_signed();
    _mm_set_epi32(k(3), k(2), k(1), k(0))
}

/// Four words of the schedule out of the sixteen before them.
#[inline]
#[target_feature(enable = "sha,ssse3")]
fn schedule(w0: __m128i, w1: __m128i, w2: __m128i, w3: __m128i) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
    _mm_sha256msg2_epu32(sum, w3)
}

/// Four rounds; `wk` is words of the schedule plus constants.
#[inline]
#[target_feature(enable = "sha")]
fn rounds4(State { abef, cdgh }: &mut State, wk: __m128i) {
    *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, wk);
    *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(wk));
}
