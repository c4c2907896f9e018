//! The steps of a build one by one, each on one thread: `steps SOURCE LAYER ROUNDS`
//!
//! Inflates a layer of an image and does with the beginning of its tar what a build does: hashing it in three ways, walking
//! through its headers, compressing pieces of it and taking them out again. Steps take turns, so that a busy machine slows
//! all of them down. Prints a line of JSON for each: seconds (the median of the rounds), bytes of plain data, and what part
//! of it is left after compression.

use std::error::Error;
use std::ffi::OsStr;
use std::hint::black_box;
use std::io::{BufRead, Read as _};
use std::time::Instant;

use mkimg_format::{BLOCK_LEN, Sha256};
use mkimg_mkfs::tar::{Limits, Reader};
use mkimg_oci::{Layer, SourceSpec};
use sha2::Digest as _;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a tar that are hashed and walked through, and of these the ones that are compressed.
const TAR_LEN: u64 = 256 << 20;
const PLAIN_LEN: usize = 32 << 20;
/// Bytes that are compressed at once, as a build does.
const PIECE_LEN: usize = 128 << 10;
/// Blocks that are hashed side by side.
const RUN: usize = 128 * BLOCK_LEN;

/// Something that is done to data; returns how many bytes of plain data there were.
type Step<'a> = (String, Box<dyn FnMut() -> Outcome<usize> + 'a>);

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [source, number, rounds] = arguments.as_slice() else {
        return Err("usage: steps SOURCE LAYER ROUNDS".into());
    };
    let (number, rounds): (usize, usize) = (parsed(number)?, parsed(rounds)?);
    let image = mkimg_oci::open(&SourceSpec::parse(source)?, None)?;
    let layer = image.layers.get(number).ok_or("no such layer")?;

    let mut tar = Vec::new();
    layer.reopen()?.take(TAR_LEN).read_to_end(&mut tar)?;
    let plain = &tar[..tar.len().min(PLAIN_LEN)];
    let codecs = codecs()?.into_iter().map(|codec| Packed::new(codec, plain)).collect::<Outcome<Vec<_>>>()?;
    let parts: Vec<_> = codecs.iter().map(|packed| packed.part(plain)).collect();

    let mut steps: Vec<Step<'_>> = vec![
        ("inflate".into(), Box::new(|| inflate(layer))),
        ("inflate, check digests".into(), Box::new(|| check(layer))),
        ("tar walk".into(), Box::new(|| walk(&tar))),
        ("SHA-256".into(), Box::new(|| Ok(hashed(&tar, |data| sha2::Sha256::digest(data).into())))),
        ("BLAKE3".into(), Box::new(|| Ok(hashed(&tar, |data| blake3::hash(data).into())))),
        ("leaves".into(), Box::new(|| Ok(leaves(&tar)))),
    ];
    let first_codec = steps.len();
    for Packed { codec, pieces } in codecs {
        let Codec { name, mut pack, mut unpack } = codec;
        let mut room = vec![0; 2 * PIECE_LEN];
        steps.push((
            format!("{name}: compress"),
            Box::new(move || {
                plain.chunks(PIECE_LEN).for_each(|piece| _ = black_box(pack(piece, &mut room)));
                Ok(plain.len())
            }),
        ));
        let mut room = vec![0; PIECE_LEN];
        steps.push((
            format!("{name}: decompress"),
            Box::new(move || {
                for (packed, piece) in pieces.iter().zip(plain.chunks(PIECE_LEN)) {
                    if !unpack(packed, &mut room[..piece.len()]) || room[..piece.len()] != *piece {
                        return Err("other data came out than went in".into());
                    }
                }
                Ok(plain.len())
            }),
        ));
    }

    let mut seconds = vec![Vec::new(); steps.len()];
    let mut bytes = vec![0; steps.len()];
    for _ in 0..rounds {
        for (number, (_, work)) in steps.iter_mut().enumerate() {
            let start = Instant::now();
            bytes[number] = work()?;
            seconds[number].push(start.elapsed().as_secs_f64());
        }
    }
    for (number, (name, _)) in steps.iter().enumerate() {
        seconds[number].sort_by(f64::total_cmp);
        let median = seconds[number].get(rounds / 2).ok_or("no rounds")?;
        let packed = number.checked_sub(first_codec).and_then(|number| parts.get(number / 2));
        let packed = packed.map_or(String::new(), |part| format!(r#", "packed": {part:.4}"#));
        println!(r#"{{"step": "{name}", "seconds": {median:.6}, "bytes": {}{packed}}}"#, bytes[number]);
    }
    Ok(())
}

fn parsed(text: &OsStr) -> Outcome<usize> {
    Ok(text.to_str().ok_or("not a number")?.parse()?)
}

fn inflate(layer: &Layer) -> Outcome<usize> {
    drained(&mut layer.reopen()?)
}

fn check(layer: &Layer) -> Outcome<usize> {
    let mut reader = layer.open()?;
    let bytes = drained(&mut reader)?;
    reader.finish()?;
    Ok(bytes)
}

fn drained(reader: &mut impl BufRead) -> Outcome<usize> {
    let mut bytes = 0;
    loop {
        let length = reader.fill_buf()?.len();
        if length == 0 {
            return Ok(bytes);
        }
        reader.consume(length);
        bytes += length;
    }
}

/// Reads the headers and skips the data. The last member is cut off, so the end may be an error.
fn walk(tar: &[u8]) -> Outcome<usize> {
    let mut reader = Reader::new(tar, Limits::default());
    let mut entries = 0;
    while let Ok(Some(entry)) = reader.next_entry() {
        black_box(entry);
        entries += 1;
    }
    if entries == 0 { Err("no entry in the layer".into()) } else { Ok(tar.len()) }
}

fn hashed(data: &[u8], hash: impl Fn(&[u8]) -> Sha256) -> usize {
    data.chunks(1 << 20).for_each(|chunk| _ = black_box(hash(chunk)));
    data.len()
}

fn leaves(data: &[u8]) -> usize {
    let mut digests = [Sha256::default(); RUN / BLOCK_LEN];
    let runs = data.chunks_exact(RUN);
    let length = data.len() - runs.remainder().len();
    for run in runs {
        mkimg_format::merkle::hash_blocks(run, &mut digests);
        black_box(&digests);
    }
    length
}

/// Compresses a piece into room that is always enough; the length.
type Pack = Box<dyn FnMut(&[u8], &mut [u8]) -> Option<usize>>;
/// Fills a piece with what was packed; whether it was full.
type Unpack = Box<dyn FnMut(&[u8], &mut [u8]) -> bool>;

/// An encoder as builds call it, and the decoder of mkimg's own reader.
struct Codec {
    name: &'static str,
    pack: Pack,
    unpack: Unpack,
}

fn codecs() -> Outcome<Vec<Codec>> {
    use libdeflater::{CompressionLvl, Compressor, Decompressor};
    use zstd_safe::{CCtx, CParameter, DCtx};

    let unlz4 = || -> Unpack {
        Box::new(|packed, plain| {
            lz4_flex::block::decompress_into(packed, plain).is_ok_and(|length| length == plain.len())
        })
    };
    let lz4: Pack = Box::new(|plain, room| Some(lzzzz::lz4::compress_fill(plain, room).ok()?.1));
    let lz4hc: Pack = Box::new(|plain, room| Some(lzzzz::lz4_hc::compress_fill(plain, room, 9).ok()?.1));
    let mut deflater = Compressor::new(CompressionLvl::new(6).map_err(|_| "no level 6")?);
    let mut inflater = Decompressor::new();
    let mut encoder = CCtx::create();
    encoder.set_parameter(CParameter::CompressionLevel(3)).map_err(zstd_safe::get_error_name)?;
    let mut decoder = DCtx::create();
    Ok(vec![
        Codec { name: "lz4", pack: lz4, unpack: unlz4() },
        Codec { name: "lz4hc:9", pack: lz4hc, unpack: unlz4() },
        Codec {
            name: "deflate:6",
            pack: Box::new(move |plain, room| deflater.deflate_compress(plain, room).ok()),
            unpack: Box::new(move |packed, plain| {
                inflater.deflate_decompress(packed, plain).is_ok_and(|length| length == plain.len())
            }),
        },
        Codec {
            name: "zstd:3",
            pack: Box::new(move |plain, room| encoder.compress2(room, plain).ok()),
            unpack: Box::new(move |packed, plain| {
                decoder.decompress(plain, packed).is_ok_and(|length| length == plain.len())
            }),
        },
    ])
}

/// A codec, and what it made of each piece.
struct Packed {
    codec: Codec,
    pieces: Vec<Vec<u8>>,
}

impl Packed {
    fn new(mut codec: Codec, plain: &[u8]) -> Outcome<Self> {
        let mut room = vec![0; 2 * PIECE_LEN];
        let mut pack = |piece| (codec.pack)(piece, &mut room).map(|length| room[..length].to_vec());
        let pieces: Option<_> = plain.chunks(PIECE_LEN).map(&mut pack).collect();
        Ok(Self { pieces: pieces.ok_or("a piece cannot be compressed")?, codec })
    }

    /// What part of the data is left. A build keeps a piece that gains nothing as it is.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn part(&self, plain: &[u8]) -> f64 {
        let packed: usize = self
            .pieces
            .iter()
            .zip(plain.chunks(PIECE_LEN))
            .map(|(packed, piece)| packed.len().min(piece.len()))
            .sum();
        packed as f64 / plain.len() as f64
    }
}
