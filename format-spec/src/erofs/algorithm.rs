//! Compression algorithms: their numbers, and decoders that trust no input.

use std::io::Read as _;

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

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

/// Largest window of zstd that the kernel accepts, in bytes (`Z_EROFS_ZSTD_MAX_DICT_SIZE`).
const ZSTD_WINDOW_MAX: u64 = 1 << 20;

/// Bits of the frame header descriptor (RFC 8878, 3.1.1.1.1) that are clear in images: reserved, checksum, dictionary.
///
/// The kernel refuses a wrong checksum, and our decoder does not look at it.
const ZSTD_UNUSED: u8 = 0b1111;

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
    zstd: Option<FrameDecoder>,
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

    /// One frame, as small as EROFS has them.
    fn unzstd(&mut self, mut packed: &[u8], plain: &mut [u8]) -> bool {
        let decoder = self.zstd.get_or_insert_with(|| {
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(ZSTD_WINDOW_MAX);
            decoder
        });
        if packed.get(4).is_none_or(|descriptor| descriptor & ZSTD_UNUSED != 0)
            || decoder.reset(&mut packed).is_err()
        {
            return false;
        }
        // Zero where the frame does not tell it.
        if ![0, plain.len() as u64].contains(&decoder.content_size()) {
            return false;
        }
        let mut room = plain;
        // Block by block, of which none has more than 128 KiB: a few bytes may stand for many blocks.
        while !decoder.is_finished() {
            if decoder.decode_blocks(&mut packed, BlockDecodingStrategy::UptoBlocks(1)).is_err() {
                return false;
            }
            while decoder.can_collect() > 0 {
                match decoder.read(room) {
                    Ok(count @ 1..) => room = std::mem::take(&mut room).split_at_mut(count).1,
                    _ => return false,
                }
            }
        }
        room.is_empty() && packed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ninety times `0123456789`, from `lz4 -1` without its frame, `zlib.compressobj(6, 8, -15)` and `zstd --no-check FILE`.
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
        (Algorithm::Zstd, "28b52ffd6084028d000050303132333435363738390100775b1524"),
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

    /// The decoder reads frames of every level as the reference library does. Damaged ones may be refused by one alone,
    /// but are never read as two different things.
    #[test]
    fn zstd_is_read_as_by_the_reference() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        let mut decoder = Decoder::default();
        let (mut both, mut stricter, mut laxer, mut neither) = (0, 0, 0, 0);
        for level in [1, 3, 9, 19, 22] {
            for length in [1, 300, 4096, 70_000, 1 << 17, (1 << 18) + 17] {
                // Words, numbers and noise: literals with and without a code, runs, repeated offsets.
                let mut plain = Vec::new();
                while plain.len() < length {
                    match random() % 4 {
                        0 => plain.extend_from_slice(b"libraries and programs "),
                        1 => plain.extend_from_slice(&random().to_le_bytes()),
                        2 => plain.resize(plain.len() + random() % 200, b' '),
                        _ => plain.extend_from_slice(random().to_string().as_bytes()),
                    }
                }
                plain.truncate(length);
                let mut packed = vec![0; zstd_safe::compress_bound(length)];
                let count = zstd_safe::compress(&mut packed[..], &plain, level).unwrap();
                packed.truncate(count);
                let mut out = vec![0; length];
                assert!(decoder.decode(Algorithm::Zstd, &packed, &mut out), "level {level}, {length} bytes");
                assert_eq!(out, plain);
                for _ in 0..200 {
                    let mut damaged = packed.clone();
                    let at = random() % damaged.len();
                    damaged[at] ^= 1 << (random() % 8);
                    let mut expected = vec![0; length];
                    let whole = zstd_safe::find_frame_compressed_size(&damaged) == Ok(damaged.len());
                    let good = whole && zstd_safe::decompress(&mut expected[..], &damaged) == Ok(length);
                    let found = decoder.decode(Algorithm::Zstd, &damaged, &mut out);
                    match (good, found) {
                        (true, true) => {
                            assert!(out == expected, "level {level}, {length} bytes, byte {at}");
                            both += 1;
                        }
                        (true, false) => stricter += 1,
                        (false, true) => laxer += 1,
                        (false, false) => neither += 1,
                    }
                }
            }
        }
        // Bits that a stream should not have left at its end are looked at in different places.
        assert!(both > 2000 && neither > 2000 && stricter < 900 && laxer < 20);
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
