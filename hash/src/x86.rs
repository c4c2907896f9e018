//! What the processor can do, and all unsafe code of this crate.
//!
//! **Why it is needed.** Code for AVX-512 or the SHA extensions must not run on a processor without them, which only
//! the program can find out, when it runs. The language leaves that promise to the caller, and calls it unsafe. And
//! vectors can be moved to and from memory by pointer only.
//!
//! **Why it is sound.** [`Avx512`] and [`ShaNi`] are proofs: nobody can make one but `detect`, which asks the
//! processor and the operating system. Who has one may run the code, and gets at it only through one. Loads and
//! stores take references to arrays of exactly the bytes that they move, and the instructions need no alignment;
//! bytes, words and vectors have no invalid values. Everything else, rounds and schedules included, is safe code
//! over intrinsics that touch registers alone.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm512_loadu_si512, _mm512_storeu_si512,
};

use crate::message::STEP;
use crate::{Digest, avx512, sha_ni};

/// Proof that the processor has what [`avx512`] is compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        here.then_some(Self(()))
    }

    /// Hashes blocks, which have one length, behind a salt.
    pub(crate) fn hash(self, salt: &[u8], blocks: [&[u8]; avx512::LANES]) -> [Digest; avx512::LANES] {
        // SAFETY: `self` is proof of AVX512F and AVX512BW.
        unsafe { avx512::hash(salt, blocks) }
    }
}

/// Proof that the processor has what [`sha_ni`] is compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShaNi(());

impl ShaNi {
    pub(crate) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3");
        here.then_some(Self(()))
    }

    /// Hashes blocks, which have one length, behind a salt.
    pub(crate) fn hash<const N: usize>(self, salt: &[u8], blocks: [&[u8]; N]) -> [Digest; N] {
        // SAFETY: `self` is proof of SHA and SSSE3.
        unsafe { sha_ni::hash(salt, blocks) }
    }
}

/// Loads sixteen words, the first into the lowest lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load512(bytes: &[u8; STEP]) -> __m512i {
    // SAFETY: 64 bytes are there to be read, aligned or not.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Stores sixteen words, the lowest lane first.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store512(words: &mut [u32; 16], vector: __m512i) {
    // SAFETY: 64 bytes are there to be written, aligned or not.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
}

/// Loads four words, the first into the lowest lane.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn load128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes are there to be read, aligned or not.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// Stores four words, the lowest lane first.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn store128(words: &mut [u32; 4], vector: __m128i) {
    // SAFETY: 16 bytes are there to be written, aligned or not.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), vector) }
}
