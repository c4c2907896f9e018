//! Reed-Solomon parity, 4096 codewords side by side.
//!
//! A codeword has [`CODEWORD`] bytes: message, then 2 to 24 bytes of parity, which restore so many bytes that are known to be
//! wrong, or half as many that are not. Here codewords stand side by side: a *row* is a block of [`COLUMNS`] bytes, one of
//! each codeword, and every step is taken for a whole row.
//!
//! The code is that of dm-verity, which is Linux `lib/reed_solomon` with 8-bit symbols, polynomial 0x11d, first root 0 and
//! primitive element 1.
//!
//! | module | |
//! |---|---|
//! | `field` | arithmetic of GF(256) |
//! | `encode` | values of codewords at the roots, and parity |
//! | `decode` | errors and erasures |
#![forbid(unsafe_code)]

mod decode;
mod encode;
mod field;

pub use decode::{Codewords, Uncorrectable};
pub use encode::{Encoder, Sums};

/// Bytes of a codeword.
pub const CODEWORD: usize = 255;

/// Codewords side by side.
pub const COLUMNS: usize = 4096;

/// Most parity bytes that a codeword has here.
pub const ROOTS_MAX: usize = 24;
