//! Streaming decompression of one layer blob, with the blob's digest taken on the way in.
//!
//! The decoders are driven by hand rather than through the `Read` adapters of their crates: gzip needs its own rule for
//! what may follow the last member, zstd a window limit and a check for a cut frame, and after a failure the rest of the
//! blob must still reach the hash, so the input has to stay in our hands.

use std::io;

use crc32fast::Hasher as Crc;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use crate::chunk::{Chunk, Ring};
use crate::compression::Compression;
use crate::crew::Tap;
use crate::limits::Limits;
use crate::store::Extent;

/// Bytes of each buffer. Inflate copies a 32 KiB window whenever its output buffer is full, and short hash
/// updates cost: smaller buffers are measurably slower.
pub(crate) const BUFFER: usize = 256 << 10;

/// Bytes of a name or comment in a gzip header.
const GZIP_TEXT_MAX: usize = 64 << 10;

/// Why no more bytes come.
#[derive(Debug)]
pub(crate) enum Fault {
    Read(io::Error),
    Malformed(String),
    TooLong,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Read(error)
    }
}

/// The bytes of the blob, in order, never more than the extent.
pub(crate) struct Blob {
    extent: Extent,
    /// Bytes read from the file so far.
    pub(crate) read: u64,
    ring: Ring,
    at_hand: Chunk,
    /// Where all that is read goes to be hashed.
    tap: Option<Tap>,
}

impl Blob {
    pub(crate) fn new(extent: Extent, tap: Option<Tap>) -> Blob {
        Blob { extent, read: 0, ring: Ring::new(BUFFER), at_hand: Chunk::default(), tap }
    }

    /// What is at hand; reads on when nothing is. Empty at the end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.at_hand.is_empty() {
            self.at_hand = Chunk::default();
            let (extent, read) = (&self.extent, self.read);
            self.at_hand = self.ring.fill(|buffer| extent.read_at(buffer, read))?;
            self.read = self.read.saturating_add(u64::try_from(self.at_hand.len()).unwrap_or(u64::MAX));
            if let Some(tap) = self.tap.as_ref().filter(|_| !self.at_hand.is_empty()) {
                tap.push(self.at_hand.clone())?;
            }
        }
        Ok(&self.at_hand)
    }

    fn consume(&mut self, n: usize) {
        self.at_hand.consume(n);
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.fill()?.first().copied();
        self.consume(1);
        Ok(byte)
    }

    /// Offset of the next byte in the blob.
    fn position(&self) -> u64 {
        self.read.saturating_sub(u64::try_from(self.at_hand.len()).unwrap_or(0))
    }

    /// Reads and hashes the rest; the number of bytes the blob turned out to have.
    pub(crate) fn drain(&mut self) -> io::Result<u64> {
        loop {
            let n = self.fill()?.len();
            if n == 0 {
                return Ok(self.read);
            }
            self.consume(n);
        }
    }
}

enum Codec {
    Plain,
    Gzip(Gzip),
    Zstd { decoder: ZstdDecoder<'static>, in_frame: bool, any: bool },
    Refused(String),
}

/// The uncompressed bytes of a blob.
pub(crate) struct Decoder {
    pub(crate) blob: Blob,
    codec: Codec,
    ring: Ring,
    /// Uncompressed bytes produced so far.
    pub(crate) produced: u64,
    limit: u64,
}

impl Decoder {
    pub(crate) fn new(blob: Blob, compression: Compression, limits: &Limits) -> io::Result<Decoder> {
        let codec = match compression {
            Compression::None => Codec::Plain,
            Compression::Gzip => Codec::Gzip(Gzip::new()),
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(limits.zstd_window_log))?;
                Codec::Zstd { decoder, in_frame: false, any: false }
            }
        };
        Ok(Decoder::with(blob, codec, limits))
    }

    /// A decoder that fails at once, for a blob that is still to be drained and checked.
    pub(crate) fn refused(blob: Blob, reason: String, limits: &Limits) -> Decoder {
        Decoder::with(blob, Codec::Refused(reason), limits)
    }

    fn with(blob: Blob, codec: Codec, limits: &Limits) -> Decoder {
        Decoder { blob, codec, ring: Ring::new(BUFFER), produced: 0, limit: limits.layer_bytes }
    }

    /// The next chunk; an empty one at the end.
    pub(crate) fn next(&mut self) -> Result<Chunk, Fault> {
        let filled = match &mut self.codec {
            Codec::Plain => {
                self.blob.fill()?;
                Ok(std::mem::take(&mut self.blob.at_hand))
            }
            Codec::Refused(reason) => Err(Fault::Malformed(reason.clone())),
            Codec::Gzip(gzip) => self.ring.fill(|out| gzip.run(&mut self.blob, out)),
            Codec::Zstd { decoder, in_frame, any } => {
                self.ring.fill(|out| unzstd(&mut self.blob, decoder, in_frame, any, out))
            }
        };
        let chunk = filled.map_err(|fault| self.stop(fault))?;
        let n = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.produced = self.produced.saturating_add(n);
        if self.produced > self.limit { Err(Fault::TooLong) } else { Ok(chunk) }
    }

    /// A decoder that has failed must not be asked to go on.
    fn stop(&mut self, fault: Fault) -> Fault {
        if let Fault::Malformed(reason) = &fault {
            self.codec = Codec::Refused(reason.clone());
        }
        fault
    }

    /// Goes on at byte `to` of a tar that is neither compressed nor hashed. All others have to be read up to there.
    pub(crate) fn jump(&mut self, to: u64) {
        if matches!(self.codec, Codec::Plain) && self.blob.tap.is_none() {
            self.blob.read = to.min(self.blob.extent.len).max(self.blob.read);
            self.produced = self.blob.read;
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum GzipState {
    /// In front of the first member.
    Start,
    Body,
    /// Behind a member.
    Between,
    End,
}

struct Gzip {
    inflate: Decompress,
    crc: Crc,
    state: GzipState,
}

impl Gzip {
    fn new() -> Gzip {
        Gzip { inflate: Decompress::new(false), crc: Crc::new(), state: GzipState::Start }
    }

    /// Fills `out` as far as the input goes; 0 at the end.
    fn run(&mut self, blob: &mut Blob, out: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while done < out.len() {
            match self.state {
                GzipState::End => break,
                GzipState::Start => {
                    gzip_header(blob)?;
                    self.state = GzipState::Body;
                }
                GzipState::Between => match blob.fill()?.first() {
                    None => self.state = GzipState::End,
                    Some(0) => {
                        zeros_only(blob)?;
                        self.state = GzipState::End;
                    }
                    Some(_) => {
                        gzip_header(blob)?;
                        self.inflate.reset(false);
                        self.crc.reset();
                        self.state = GzipState::Body;
                    }
                },
                GzipState::Body => {
                    let at = blob.position();
                    let input = blob.fill()?;
                    let ended = input.is_empty();
                    let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
                    let status = self
                        .inflate
                        .decompress(input, &mut out[done..], FlushDecompress::None)
                        .map_err(|_| {
                            Fault::Malformed(format!("corrupt deflate data near offset {at} of the blob"))
                        })?;
                    let read = usize::try_from(self.inflate.total_in() - read).unwrap_or(0);
                    let written = usize::try_from(self.inflate.total_out() - written).unwrap_or(0);
                    blob.consume(read);
                    self.crc.update(&out[done..done + written]);
                    done += written;
                    if status == Status::StreamEnd {
                        self.trailer(blob)?;
                        self.state = GzipState::Between;
                    } else if read == 0 && written == 0 {
                        return Err(Fault::Malformed(if ended {
                            "gzip data ends early".to_owned()
                        } else {
                            format!("deflate makes no progress at offset {at} of the blob")
                        }));
                    }
                }
            }
        }
        Ok(done)
    }

    /// CRC-32 and size modulo 2^32, little-endian.
    fn trailer(&self, blob: &mut Blob) -> Result<(), Fault> {
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            *byte = blob.byte()?.ok_or_else(|| Fault::Malformed("gzip data ends early".to_owned()))?;
        }
        let [a, b, c, d, size @ ..] = trailer;
        let [e, f, g, h, ..] = self.inflate.total_out().to_le_bytes();
        if u32::from_le_bytes([a, b, c, d]) != self.crc.clone().finalize() || size != [e, f, g, h] {
            return Err(Fault::Malformed(format!(
                "gzip checksum or length wrong in the member that ends at offset {} of the blob",
                blob.position()
            )));
        }
        Ok(())
    }
}

/// RFC 1952 section 2.3.
fn gzip_header(blob: &mut Blob) -> Result<(), Fault> {
    let at = blob.position();
    let garbage = || Fault::Malformed(format!("no gzip member at offset {at} of the blob"));
    let mut crc = Crc::new();
    let mut next = |crc: &mut Crc| -> Result<u8, Fault> {
        let byte = blob.byte()?.ok_or_else(|| Fault::Malformed("gzip data ends early".to_owned()))?;
        crc.update(&[byte]);
        Ok(byte)
    };
    let mut fixed = [0; 10];
    for (i, byte) in fixed.iter_mut().enumerate() {
        *byte = next(&mut crc)?;
        // Magic number and method 8; checked as they come so that short garbage is not called a cut member.
        if i < 3 && *byte != [0x1f, 0x8b, 8][i] {
            return Err(garbage());
        }
    }
    let flags = fixed[3];
    if flags & 0xe0 != 0 {
        return Err(Fault::Malformed(format!("reserved gzip flags {flags:#04x} at offset {at} of the blob")));
    }
    if flags & 4 != 0 {
        let len = u16::from_le_bytes([next(&mut crc)?, next(&mut crc)?]);
        for _ in 0..len {
            next(&mut crc)?;
        }
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let mut len = 0;
            while next(&mut crc)? != 0 {
                len += 1;
                if len > GZIP_TEXT_MAX {
                    return Err(Fault::Malformed(format!("gzip name or comment over {GZIP_TEXT_MAX} bytes")));
                }
            }
        }
    }
    if flags & 2 != 0 {
        let [low, high, ..] = crc.clone().finalize().to_le_bytes();
        let mut unused = Crc::new();
        if [next(&mut unused)?, next(&mut unused)?] != [low, high] {
            return Err(Fault::Malformed(format!("gzip header checksum wrong at offset {at} of the blob")));
        }
    }
    Ok(())
}

/// Padding to a block or sector size, as tapes and some registries leave it.
fn zeros_only(blob: &mut Blob) -> Result<(), Fault> {
    loop {
        let at = blob.position();
        let data = blob.fill()?;
        if data.is_empty() {
            return Ok(());
        }
        if let Some(i) = data.iter().position(|byte| *byte != 0) {
            let at = at.saturating_add(u64::try_from(i).unwrap_or(0));
            return Err(Fault::Malformed(format!("garbage behind the gzip data at offset {at} of the blob")));
        }
        let n = data.len();
        blob.consume(n);
    }
}

/// As [`Gzip::run`]. The library steps from frame to frame and over skippable frames by itself.
fn unzstd(
    blob: &mut Blob,
    decoder: &mut ZstdDecoder<'static>,
    in_frame: &mut bool,
    any: &mut bool,
    out: &mut [u8],
) -> Result<usize, Fault> {
    let mut done = 0;
    while done < out.len() {
        let at = blob.position();
        let input = blob.fill()?;
        let ended = input.is_empty();
        if ended && !*in_frame {
            if !*any {
                return Err(Fault::Malformed("no zstd frame in the blob".to_owned()));
            }
            break;
        }
        let status = decoder
            .run_on_buffers(input, &mut out[done..])
            .map_err(|error| Fault::Malformed(format!("zstd near offset {at} of the blob: {error}")))?;
        blob.consume(status.bytes_read);
        done += status.bytes_written;
        *in_frame = status.remaining != 0;
        *any = true;
        if status.bytes_read == 0 && status.bytes_written == 0 && (*in_frame || !ended) {
            return Err(Fault::Malformed(if ended {
                "zstd data ends early".to_owned()
            } else {
                format!("zstd makes no progress at offset {at} of the blob")
            }));
        }
    }
    Ok(done)
}
