//! Compression algorithms: their numbers, and decoders that trust no input.

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::DCtx;

use crate::blocks_for;

/// A compression algorithm of EROFS that mkimg uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// LZ4 blocks.
    Lz4,
    /// Raw DEFLATE.
    Deflate,
    /// Zstandard frames.
    Zstd,
}

/// log2 of the window that images declare for DEFLATE: its largest.
const DEFLATE_WINDOW_BITS: u8 = 15;

impl Algorithm {
    /// All of them, by number.
    pub const ALL: [Self; 3] = [Self::Lz4, Self::Deflate, Self::Zstd];

    /// Its number in the superblock and in inodes.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Lz4 => 0,
            Self::Deflate => 2,
            Self::Zstd => 3,
        }
    }

    /// The algorithm with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// Its name, as the kernel and `--compress` have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The oldest kernel that reads it, as (major, minor): with pieces of several blocks, and configured behind the
    /// superblock.
    #[must_use]
    pub const fn min_kernel(self) -> (u32, u32) {
        match self {
            Self::Lz4 => (5, 13),
            Self::Deflate => (6, 6),
            Self::Zstd => (6, 10),
        }
    }

    /// Its record behind the superblock, for pieces of at most `piece_len` bytes.
    ///
    /// The kernel sets up its decoders by it: it refuses windows beyond the one of zstd, and keeps a buffer of as
    /// many blocks for each processor as a piece of LZ4 has.
    #[must_use]
    pub fn config(self, piece_len: u64) -> Vec<u8> {
        let payload: &[u8] = match self {
            Self::Lz4 => {
                let blocks = u16::try_from(blocks_for(piece_len)).unwrap_or(u16::MAX);
                let [low, high] = blocks.to_le_bytes();
                // The largest distance of the format.
                &[0xff, 0xff, low, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            Self::Deflate => &[DEFLATE_WINDOW_BITS, 0, 0, 0, 0, 0],
            Self::Zstd => {
                let bits = piece_len.checked_next_power_of_two().map_or(u64::BITS, u64::trailing_zeros);
                let window = u8::try_from(bits.saturating_sub(10)).unwrap_or(u8::MAX);
                &[0, window, 0, 0, 0, 0]
            }
        };
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        [&length.to_le_bytes(), payload].concat()
    }
}

/// Decoders, kept for the next piece.
#[derive(Default)]
pub(crate) struct Decoder {
    inflate: Option<Decompress>,
    zstd: Option<DCtx<'static>>,
}

impl Decoder {
    /// Fills `plain` from `packed`; whether `packed` is a stream that gives exactly so much, and nothing else.
    pub(crate) fn decode(&mut self, algorithm: Algorithm, packed: &[u8], plain: &mut [u8]) -> bool {
        match algorithm {
            Algorithm::Lz4 => {
                lz4_flex::block::decompress_into(packed, plain).is_ok_and(|length| length == plain.len())
            }
            Algorithm::Deflate => self.inflate(packed, plain),
            Algorithm::Zstd => self.unzstd(packed, plain),
        }
    }

    fn inflate(&mut self, packed: &[u8], plain: &mut [u8]) -> bool {
        let decoder = self.inflate.get_or_insert_with(|| Decompress::new(false));
        decoder.reset(false);
        let lengths = u64::try_from(packed.len()).ok().zip(u64::try_from(plain.len()).ok());
        matches!(decoder.decompress(packed, plain, FlushDecompress::Finish), Ok(Status::StreamEnd))
            && Some((decoder.total_in(), decoder.total_out())) == lengths
    }

    fn unzstd(&mut self, packed: &[u8], plain: &mut [u8]) -> bool {
        if self.zstd.is_none() {
            self.zstd = DCtx::try_create();
        }
        let Some(decoder) = &mut self.zstd else { return false };
        // One frame: the decoder alone would take several, and skip what calls itself none.
        zstd_safe::find_frame_compressed_size(packed) == Ok(packed.len())
            && decoder.decompress(&mut *plain, packed) == Ok(plain.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ninety times `0123456789`, from `lz4 -1` without its frame, `zlib.compressobj(6, 8, -15)` and `zstd --no-check`.
    fn golden() -> Vec<(Algorithm, Vec<u8>)> {
        let hex = |text: &str| -> Vec<u8> {
            text.as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        GOLDEN.iter().map(|(algorithm, text)| (*algorithm, hex(text))).collect()
    }

    const GOLDEN: [(Algorithm, &str); 3] = [
        (Algorithm::Lz4, "af303132333435363738390a00ffffff65503536373839"),
        (Algorithm::Deflate, "3330343236313533b7b03418658db2465903c00200"),
        (Algorithm::Zstd, "28b52ffd00588d000050303132333435363738390100775b1524"),
    ];

    #[test]
    fn golden_streams() {
        let plain = b"0123456789".repeat(90);
        for (algorithm, packed) in golden() {
            let mut decoder = Decoder::default();
            let mut out = vec![0; plain.len()];
            for _ in 0..2 {
                assert!(decoder.decode(algorithm, &packed, &mut out), "{algorithm:?}");
                assert_eq!(out, plain, "{algorithm:?}");
            }
            // Neither more nor less than the whole of both.
            for length in [0, plain.len() - 1, plain.len() + 1] {
                assert!(!decoder.decode(algorithm, &packed, &mut vec![0; length]), "{algorithm:?} {length}");
            }
            assert!(!decoder.decode(algorithm, &packed[..packed.len() - 1], &mut out), "{algorithm:?}");
            for more in [&[0][..], &packed, &[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7]] {
                let longer = [&packed, more].concat();
                assert!(!decoder.decode(algorithm, &longer, &mut out), "{algorithm:?} {more:?}");
            }
            assert!(decoder.decode(algorithm, &packed, &mut out), "{algorithm:?}: an error must not stay");
        }
    }

    #[test]
    fn numbers_and_records() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_number(algorithm.number()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_number(1), None);
        // Those of `mkfs.erofs -zALGORITHM -C131072` 1.8.6, but for the window of zstd, which is 1 MiB there.
        assert_eq!(Algorithm::Lz4.config(1 << 17), [14, 0, 255, 255, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Algorithm::Deflate.config(1 << 17), [6, 0, 15, 0, 0, 0, 0, 0]);
        assert_eq!(Algorithm::Zstd.config(1 << 17), [6, 0, 0, 7, 0, 0, 0, 0]);
        assert_eq!(Algorithm::Zstd.config((1 << 17) + 1), [6, 0, 0, 8, 0, 0, 0, 0]);
    }
}
