//! What file data is compressed with, and the encoders.

use std::fmt;
use std::io;
use std::str::FromStr;

use libdeflater::{CompressionLvl, Compressor};
use mkimg_format::erofs::Algorithm;
use zstd_safe::{CCtx, CParameter};

use crate::dedup::Dedup;

/// How file data is compressed: algorithm and level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4, the fast way.
    Lz4,
    /// LZ4, searched for longer; level 3 to 12.
    Lz4Hc(u8),
    /// Raw DEFLATE, level 1 to 12.
    Deflate(u8),
    /// Zstandard, level 1 to 22.
    Zstd(u8),
}

impl Compression {
    /// What images are compressed with when nobody says anything: LZ4, which costs little to read, unless something else
    /// that was asked for does not go together with it.
    #[must_use]
    pub fn usual(dedup: Dedup, min_kernel: Option<(u32, u32)>) -> Self {
        let readable = min_kernel.is_none_or(|kernel| kernel >= Algorithm::Lz4.min_kernel());
        if readable && dedup == Dedup::Files { Self::Lz4 } else { Self::None }
    }

    /// The algorithm as images name it.
    #[must_use]
    pub const fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::None => None,
            Self::Lz4 | Self::Lz4Hc(_) => Some(Algorithm::Lz4),
            Self::Deflate(_) => Some(Algorithm::Deflate),
            Self::Zstd(_) => Some(Algorithm::Zstd),
        }
    }

    /// The oldest kernel that images are built for when nobody says otherwise: a long-term one that has the algorithm.
    #[must_use]
    pub const fn min_kernel(self) -> (u32, u32) {
        match self {
            Self::None | Self::Lz4 | Self::Lz4Hc(_) => (5, 15),
            Self::Deflate(_) | Self::Zstd(_) => (6, 12),
        }
    }

    pub(crate) fn encoder(self) -> io::Result<Encoder> {
        Ok(match self {
            Self::None => Encoder::None,
            Self::Lz4 => Encoder::Lz4,
            Self::Lz4Hc(level) => Encoder::Lz4Hc(level.into()),
            Self::Deflate(level) => {
                let level = CompressionLvl::new(level.into()).map_err(|_| io::ErrorKind::InvalidInput)?;
                Encoder::Deflate(Compressor::new(level))
            }
            Self::Zstd(level) => {
                let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                let set = context.set_parameter(CParameter::CompressionLevel(level.into()));
                set.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
                Encoder::Zstd(context)
            }
        })
    }
}

/// What a kernel can do with compressed data, whichever the algorithm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// Inodes may share compressed blocks, and be fragments of the packed inode. Before 6.1, reading two of them at the
    /// same time fails.
    pub share: bool,
    /// Pieces need not fill blocks, with encoded extents (6.15).
    pub encoded: bool,
}

impl Abilities {
    pub(crate) fn of(kernel: (u32, u32)) -> Self {
        Self { share: kernel >= (6, 1), encoded: kernel >= (6, 15) }
    }
}

/// Name, default level and the lowest and highest one.
type Row = (&'static str, Option<(u8, u8, u8)>, fn(u8) -> Compression);

const TABLE: [Row; 5] = [
    ("none", None, |_| Compression::None),
    ("lz4", None, |_| Compression::Lz4),
    ("lz4hc", Some((9, 3, 12)), Compression::Lz4Hc),
    ("deflate", Some((6, 1, 12)), Compression::Deflate),
    ("zstd", Some((3, 1, 22)), Compression::Zstd),
];

impl FromStr for Compression {
    type Err = String;

    /// Reads `NAME` or `NAME:LEVEL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        let Some((_, levels, make)) = TABLE.iter().find(|row| row.0 == name) else {
            let names = TABLE.map(|row| row.0).join(", ");
            return Err(format!("{name} is no compression, known are {names}"));
        };
        match (levels, level) {
            (None, Some(_)) => Err(format!("{name} has no levels")),
            (None, None) => Ok(make(0)),
            (Some((default, ..)), None) => Ok(make(*default)),
            (Some((_, lowest, highest)), Some(level)) => {
                let found = level.parse().ok().filter(|level| (lowest..=highest).contains(&level));
                found
                    .map(make)
                    .ok_or_else(|| format!("level of {name} is {lowest} to {highest}, not {level}"))
            }
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Lz4 => out.write_str("lz4"),
            Self::Lz4Hc(level) => write!(out, "lz4hc:{level}"),
            Self::Deflate(level) => write!(out, "deflate:{level}"),
            Self::Zstd(level) => write!(out, "zstd:{level}"),
        }
    }
}

/// Compresses pieces. What comes out depends on the piece alone, not on those before it.
pub(crate) enum Encoder {
    None,
    Lz4,
    Lz4Hc(i32),
    Deflate(Compressor),
    Zstd(CCtx<'static>),
}

impl Encoder {
    /// Compresses `plain` into `room`; the number of bytes, or `None` when it does not fit.
    pub(crate) fn encode(&mut self, plain: &[u8], room: &mut [u8]) -> Option<usize> {
        if plain.is_empty() || room.is_empty() {
            return None;
        }
        // These two begin with fresh tables, which the calls named after their levels do not: old entries of a table
        // can change what is found.
        let filled = |result: lzzzz::Result<(usize, usize)>| {
            result.ok().filter(|(read, _)| *read == plain.len()).map(|(_, written)| written)
        };
        match self {
            Self::None => None,
            Self::Lz4 => filled(lzzzz::lz4::compress_fill(plain, room)),
            Self::Lz4Hc(_) | Self::Deflate(_) | Self::Zstd(_) if hopeless(plain, room) => None,
            Self::Lz4Hc(level) => filled(lzzzz::lz4_hc::compress_fill(plain, room, *level)),
            Self::Deflate(encoder) => {
                let length = encoder.deflate_compress(plain, room).ok()?;
                // Zeros before a stream are padding, but a stored block that is not the last begins with one. Its
                // bits 3 to 7 say nothing: one of them is set.
                if let Some(first @ 0) = room.first_mut() {
                    *first = 1 << 3;
                }
                Some(length)
            }
            Self::Zstd(context) => context.compress2(room, plain).ok(),
        }
    }
}

/// Bytes of each of the [`SAMPLES`] parts of a piece whose bytes are counted.
const SAMPLE: usize = 2 << 10;
const SAMPLES: usize = 8;

/// Whether a piece is like noise: all bytes are about as frequent everywhere, and nothing repeats.
///
/// What LZ4 cannot shrink the slow encoders can shrink only where bytes are not evenly spread, and LZ4 gives up on
/// noise ten times as fast as they do. Most data is not spread like noise, and is not looked at further.
fn hopeless(plain: &[u8], room: &mut [u8]) -> bool {
    if plain.len() < 2 * SAMPLE * SAMPLES {
        return false;
    }
    let mut counts = [0_u32; 256];
    for part in plain.chunks(plain.len() / SAMPLES) {
        part.iter().take(SAMPLE).for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    let squares: u64 = counts.iter().map(|count| u64::from(*count).pow(2)).sum();
    // Noise has (n^2 / 256) + n, give or take little; bytes that carry 7.9 bits have a tenth more.
    let sampled = (SAMPLE * SAMPLES) as u64;
    let even = sampled * sampled / 256 + sampled;
    squares < even + even / 10
        && !lzzzz::lz4::compress_fill(plain, room).is_ok_and(|(read, _)| read == plain.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual() {
        for (dedup, min_kernel, expected) in [
            (Dedup::Files, None, Compression::Lz4),
            (Dedup::Files, Some((5, 13)), Compression::Lz4),
            (Dedup::Files, Some((5, 12)), Compression::None),
            (Dedup::Files, Some((6, 15)), Compression::Lz4),
            (Dedup::Blocks, None, Compression::None),
        ] {
            assert_eq!(Compression::usual(dedup, min_kernel), expected, "{dedup} {min_kernel:?}");
        }
    }

    #[test]
    fn options() {
        for (text, expected, shown) in [
            ("none", Compression::None, "none"),
            ("lz4", Compression::Lz4, "lz4"),
            ("lz4hc", Compression::Lz4Hc(9), "lz4hc:9"),
            ("lz4hc:12", Compression::Lz4Hc(12), "lz4hc:12"),
            ("deflate:1", Compression::Deflate(1), "deflate:1"),
            ("deflate", Compression::Deflate(6), "deflate:6"),
            ("zstd", Compression::Zstd(3), "zstd:3"),
            ("zstd:22", Compression::Zstd(22), "zstd:22"),
        ] {
            let found: Compression = text.parse().unwrap();
            assert_eq!((found, found.to_string().as_str()), (expected, shown));
            assert_eq!(shown.parse(), Ok(expected));
        }
        for wrong in [
            "",
            "rar",
            "none:1",
            "lz4:1",
            "lz4hc:2",
            "lz4hc:13",
            "zstd:0",
            "zstd:23",
            "zstd:",
            "zstd:x",
            "deflate:13",
        ] {
            assert!(wrong.parse::<Compression>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn noise_is_told_from_data() {
        let mut state = 7_u64;
        let mut noise = vec![0; 1 << 17];
        noise.fill_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        let mut room = vec![0; noise.len() - 4096];
        assert!(hopeless(&noise, &mut room));
        // Seven bits of eight, digits of base64, half noise and half text, and noise that repeats.
        let masked: Vec<u8> = noise.iter().map(|byte| byte & 0x7f).collect();
        let half: Vec<u8> =
            noise.iter().take(1 << 16).chain(b"text".iter().cycle().take(1 << 16)).copied().collect();
        let twice: Vec<u8> = noise.iter().take(1 << 16).cycle().take(1 << 17).copied().collect();
        let short = noise[..4096].repeat(32);
        for (name, data) in [("masked", masked), ("half", half), ("short", short)] {
            assert!(!hopeless(&data, &mut room), "{name}");
        }
        // Just beyond the window of LZ4: given up, though zstd would find it.
        assert!(hopeless(&twice, &mut room));
    }

    /// Noise in front makes zlib begin with a stored block, and text behind it makes the whole worth compressing.
    #[test]
    fn no_stream_begins_with_zero() {
        let mut state = 1_u64;
        let mut noise = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        let mut stored = 0;
        for length in [40_000, 60_000, 70_000, 90_000] {
            let mut plain: Vec<u8> = noise.by_ref().take(length).collect();
            plain.resize(1 << 17, b'x');
            for compression in ["lz4", "lz4hc", "deflate:1", "deflate:6", "deflate:12", "zstd:1", "zstd:19"] {
                let compression: Compression = compression.parse().unwrap();
                let mut room = vec![0; plain.len()];
                let length = compression.encoder().unwrap().encode(&plain, &mut room).unwrap();
                assert_ne!(room[0], 0, "{compression}");
                stored += u32::from(room[0] == 8 && compression.algorithm() == Some(Algorithm::Deflate));
                let stream = &room[..length];
                let mut out = Vec::new();
                if compression.algorithm() == Some(Algorithm::Deflate) {
                    io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(stream), &mut out).unwrap();
                    assert!(out == plain, "{compression}");
                }
            }
        }
        assert!(stored > 0, "no stream begins with a stored block: the remedy is not tested");
    }

    /// An encoder gives for a piece what a new one gives, whatever it did before.
    #[test]
    fn nothing_stays() {
        let pieces: Vec<Vec<u8>> = (0..40_u32)
            .map(|seed| {
                (0..(seed * 3571) % 100_000)
                    .map(|at| {
                        (at.wrapping_mul(seed.wrapping_mul(at >> 7) | 1) >> (seed % 20)).to_le_bytes()[0]
                    })
                    .collect()
            })
            .collect();
        for compression in ["lz4", "lz4hc:3", "lz4hc", "deflate:1", "deflate", "zstd:1", "zstd", "zstd:12"] {
            let compression: Compression = compression.parse().unwrap();
            let mut kept = compression.encoder().unwrap();
            for piece in &pieces {
                let (mut one, mut other) = (vec![0; piece.len()], vec![0; piece.len()]);
                let found = kept.encode(piece, &mut one);
                assert_eq!(found, compression.encoder().unwrap().encode(piece, &mut other), "{compression}");
                let found = found.unwrap_or(0);
                assert!(one[..found] == other[..found], "{compression}");
            }
        }
    }
}
