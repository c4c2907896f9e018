//! Layers and the streams of their tars.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read};

use crate::chunk::Chunk;
use crate::compression::{Compression, Looks};
use crate::crew::{Crew, Stream};
use crate::decode::{Blob, Decoder, Fault};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Mismatch, quote, same_digest};
use crate::kept::{Kept, Room, Scratch, Tar};
use crate::limits::Limits;
use crate::store::{Extent, Store};
use crate::wanted::Wanted;

/// One layer of an image. Opening it is cheap and can be done from several threads at once.
#[derive(Clone)]
pub struct Layer {
    /// Position from 1, the lowest.
    pub number: usize,
    /// Digest of the blob; none in a plain tar and in docker archives that do not name their blobs by digest.
    pub digest: Option<Digest>,
    /// Declared bytes of the blob, if something declares them.
    pub size: Option<u64>,
    /// Declared digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// As in the descriptor.
    pub media_type: Option<String>,
    /// How the blob is packed.
    pub compression: Compression,
    /// Name of the member in an archive without digests.
    pub(crate) name: Option<String>,
    pub(crate) place: Place,
    pub(crate) limits: Limits,
}

/// Where the blob is. Files of a layout directory are opened when they are needed: an image may have more layers than a
/// process may have descriptors.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Blob(Store),
    Extent(Extent),
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("number", &self.number)
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("diff_id", &self.diff_id)
            .field("media_type", &self.media_type)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// Name of a layer in messages.
pub(crate) fn label(number: usize, digest: Option<&Digest>, name: Option<&str>) -> String {
    match (digest, name) {
        (Some(digest), _) => format!("layer {number} {digest}"),
        (None, Some(name)) => format!("layer {number} {}", quote(name)),
        (None, None) => format!("layer {number}"),
    }
}

impl Layer {
    /// `layer N sha256:HEX`, with what is known.
    pub fn label(&self) -> String {
        label(self.number, self.digest.as_ref(), self.name.as_deref())
    }

    /// First pass: the tar, with everything checked by [`LayerReader::finish`]. All is done by the calling thread.
    pub fn open(&self) -> Result<LayerReader, Error> {
        self.open_with(&Crew::new(0))
    }

    /// As [`open`](Layer::open), with the help of a crew. That changes nothing but the time it takes.
    pub fn open_with(&self, crew: &Crew) -> Result<LayerReader, Error> {
        let label = self.label();
        let extent = self.locate()?;
        let looks = self.looks(&extent)?;
        let blob_hasher = Hasher::like(self.digest.as_ref());
        let tar_hasher = Hasher::like(self.diff_id.as_ref());
        let compressed = self.compression != Compression::None;
        // The tar of a plain blob is the blob: one hash serves both.
        let tar_hasher = (compressed || !tar_hasher.same_algorithm(&blob_hasher)).then_some(tar_hasher);
        let likely_size = self.likely_size(&extent);
        let place = crew.enter();
        let blob = Blob::new(extent, Some(place.clone()));
        let decoder = match self.contradiction(looks) {
            Some(reason) => Decoder::refused(blob, reason, &self.limits),
            None => Decoder::new(blob, self.compression, &self.limits)
                .map_err(|source| io_error(&label, source))?,
        };
        Ok(LayerReader {
            label,
            stream: place.check(decoder, blob_hasher, tar_hasher),
            chunk: Chunk::default(),
            fault: None,
            likely_size,
            kept: None,
            size: self.size,
            digest: self.digest,
            diff_id: self.diff_id,
            limit: self.limits.layer_bytes,
        })
    }

    /// Second pass: the same bytes without any check of digests. Only for a layer whose first pass went well. All is done by
    /// the calling thread.
    pub fn reopen(&self) -> Result<LayerData, Error> {
        self.reopen_with(&Crew::new(0), Wanted::everything())
    }

    /// As [`reopen`](Layer::reopen), with a crew that inflates ahead what is wanted. Nothing else can be read.
    pub fn reopen_with(&self, crew: &Crew, wanted: Wanted) -> Result<LayerData, Error> {
        let label = self.label();
        let blob = Blob::new(self.locate()?, None);
        let decoder =
            Decoder::new(blob, self.compression, &self.limits).map_err(|source| io_error(&label, source))?;
        Ok(self.data(label, crew.enter().reread(decoder, wanted)))
    }

    /// As [`reopen_with`](Layer::reopen_with), from what was kept of the first pass.
    pub fn recall(&self, kept: &Kept, crew: &Crew, wanted: Wanted) -> Result<LayerData, Error> {
        let label = self.label();
        let stream = match kept.tar.clone() {
            Tar::Memory(chunks) => crew.enter().recall(chunks.into_iter()),
            Tar::File(extent) => {
                let io = |source| io_error(&label, source);
                if extent.file.metadata().map_err(io)?.len() != extent.len {
                    return Err(io(io::Error::other("the scratch file has another length than was written")));
                }
                let decoder = Decoder::new(Blob::new(extent, None), Compression::None, &self.limits);
                crew.enter().reread(decoder.map_err(io)?, wanted)
            }
        };
        Ok(self.data(label, stream))
    }

    fn data(&self, label: String, stream: Stream) -> LayerData {
        LayerData {
            label,
            stream,
            chunk: Chunk::default(),
            at: 0,
            fault: None,
            limit: self.limits.layer_bytes,
        }
    }

    /// The blob, with the declared size.
    pub(crate) fn locate(&self) -> Result<Extent, Error> {
        let extent = match (&self.place, &self.digest) {
            (Place::Extent(extent), _) => extent.clone(),
            (Place::Blob(store), Some(digest)) => store.blob(digest, &self.label(), &self.limits)?,
            (Place::Blob(store), None) => {
                return Err(Error::Missing { object: self.label(), place: store.place() });
            }
        };
        match self.size {
            Some(declared) if declared != extent.len => {
                Err(Error::Size { object: self.label(), declared, found: extent.len })
            }
            _ => Ok(extent),
        }
    }

    /// Bytes that the tar of a compressed blob will probably have: it would be a waste to keep most of it in vain.
    fn likely_size(&self, extent: &Extent) -> Option<u64> {
        // Root file systems shrink to a third.
        let estimate = extent.len.saturating_mul(3);
        match self.compression {
            Compression::None => None,
            Compression::Zstd => Some(estimate),
            Compression::Gzip => {
                // A member ends with its length, modulo 2^32. Mostly there is one, and behind it nothing.
                let mut end = [0; 4];
                let read = extent.read_at(&mut end, extent.len.saturating_sub(4)).is_ok_and(|n| n == 4);
                let length = u64::from(u32::from_le_bytes(end));
                // What does not compress grows a little, with fast compressors by a twentieth.
                let least = extent.len - extent.len / 8;
                Some(if read && length >= least { length } else { estimate })
            }
        }
    }

    /// What the first bytes of the blob look like.
    pub(crate) fn looks(&self, extent: &Extent) -> Result<Looks, Error> {
        let mut prefix = [0; Looks::PREFIX];
        let n = extent.read_at(&mut prefix, 0).map_err(|source| io_error(&self.label(), source))?;
        Ok(Looks::like(&prefix[..n]))
    }

    fn contradiction(&self, looks: Looks) -> Option<String> {
        match (looks, &self.media_type) {
            (Looks::Supported(found), _) if found == self.compression => None,
            (Looks::Unsupported(found), None) => Some(format!("{found} compression is not supported")),
            (_, media_type) => {
                let media_type = media_type.as_deref().unwrap_or("");
                Some(format!("media type {}, but the blob is {}", quote(media_type), looks.name()))
            }
        }
    }
}

fn io_error(label: &str, source: io::Error) -> Error {
    Error::Io { object: label.to_owned(), source }
}

fn fault_error(label: &str, fault: Fault, limit: u64) -> Error {
    let object = label.to_owned();
    match fault {
        Fault::Read(source) => Error::Io { object, source },
        Fault::Malformed(reason) => Error::Decode { object, reason },
        Fault::TooLong => Error::Limit { object, what: "uncompressed size".to_owned(), limit },
    }
}

/// A failure may be asked for again, but an error cannot be copied: the reader keeps it and hands out its message.
fn as_io(error: &Error) -> io::Error {
    let kind = match error {
        Error::Io { source, .. } => source.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error.to_string())
}

/// What a layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Digest of the blob, by the declared algorithm or SHA-256.
    pub blob_digest: Digest,
    /// Digest of the uncompressed tar, by the declared algorithm or SHA-256.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// Bytes of the uncompressed tar.
    pub tar_size: u64,
}

/// The uncompressed tar of a layer, hashed on the way. [`BufRead`] saves a copy.
///
/// Nothing that was read is to be trusted before [`finish`](LayerReader::finish) has returned without error. That is also
/// the call to make when reading fails or the tar makes no sense: most often the blob is damaged, and then only `finish`
/// knows.
pub struct LayerReader {
    label: String,
    stream: Stream,
    chunk: Chunk,
    fault: Option<Error>,
    /// Bytes that the tar of a compressed blob will probably have.
    likely_size: Option<u64>,
    /// What was read so far, as long as there is room for it.
    kept: Option<Kept>,
    size: Option<u64>,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
    limit: u64,
}

impl LayerReader {
    /// Bytes of the blob that were read so far.
    pub fn blob_read(&self) -> u64 {
        self.stream.progress().0
    }

    /// Uncompressed bytes that were handed out or are buffered, so far.
    pub fn produced(&self) -> u64 {
        self.stream.progress().1
    }

    /// Keeps the tar in memory, if it is compressed and there is room for all of it; others are read again as fast. To be
    /// called before anything is read. Whether there probably is room.
    pub fn keep(&mut self, room: &Room) -> bool {
        self.kept = self.likely_size.filter(|size| room.has(*size)).map(|_| Kept::new(room));
        self.kept.is_some()
    }

    /// As [`keep`](LayerReader::keep), in a file that is empty and nobody else has, and that is asked for if there is room.
    /// Helpers write it. What cannot be written is not kept.
    pub fn keep_in(&mut self, room: &Room, file: impl FnOnce() -> Option<File>) {
        let file = self.likely_size.filter(|size| room.has(*size)).and_then(|_| file());
        if let Some(file) = file {
            // A layer that has lost a thread says so when it is read.
            let _ = self.stream.save(Scratch::new(file, room));
        }
    }

    fn refill(&mut self) -> Result<(), &Error> {
        if self.fault.is_none() && self.chunk.is_empty() {
            // The buffer is free for the next chunk.
            self.chunk = Chunk::default();
            match self.stream.next() {
                Ok((_, chunk)) => {
                    if !chunk.is_empty() {
                        self.kept = self.kept.take().and_then(|kept| kept.with(chunk.clone()));
                    }
                    self.chunk = chunk;
                }
                Err(fault) => self.fault = Some(fault_error(&self.label, fault, self.limit)),
            }
        }
        match &self.fault {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Reads what is left of the tar and of the blob, then checks the size of the blob, its digest, the decompression and the
    /// digest of the tar; the first that fails is the error.
    pub fn finish(self) -> Result<LayerSummary, Error> {
        Ok(self.finish_kept()?.0)
    }

    /// As [`finish`](LayerReader::finish); hands over the tar if all of it was [kept](LayerReader::keep).
    pub fn finish_kept(mut self) -> Result<(LayerSummary, Option<Kept>), Error> {
        self.chunk = Chunk::default();
        while self.refill().is_ok() && !self.chunk.is_empty() {
            self.chunk = Chunk::default();
        }
        let tar_size = self.produced();
        let object = self.label;
        let blob_size = self.stream.drain().map_err(|source| io_error(&object, source))?;
        if let Some(declared) = self.size.filter(|declared| *declared != blob_size) {
            return Err(Error::Size { object, declared, found: blob_size });
        }
        let (blob_digest, tar_digest) = self.stream.digests().map_err(|source| io_error(&object, source))?;
        same_digest(&object, self.digest.unwrap_or(blob_digest), blob_digest)?;
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let diff_id = tar_digest.unwrap_or(blob_digest);
        if let Some(expected) = self.diff_id.filter(|expected| *expected != diff_id) {
            return Err(Error::DiffId { object, digests: Box::new(Mismatch { expected, found: diff_id }) });
        }
        let kept = match self.kept {
            Some(kept) => Some(kept),
            None => self.stream.saved().map_err(|source| io_error(&object, source))?,
        };
        Ok((LayerSummary { blob_digest, diff_id, blob_size, tar_size }, kept))
    }
}

impl BufRead for LayerReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill().map_err(as_io)?;
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        self.chunk.consume(n);
    }
}

impl Read for LayerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buf)
    }
}

/// The uncompressed tar of a layer that was checked before; see [`Layer::reopen`].
pub struct LayerData {
    label: String,
    stream: Stream,
    chunk: Chunk,
    /// Place of the chunk in the tar.
    at: u64,
    fault: Option<Error>,
    limit: u64,
}

impl LayerData {
    /// Skips `n` bytes of the tar, fewer at its end, and returns how many. A plain layer is not read for that.
    pub fn skip(&mut self, n: u64) -> io::Result<u64> {
        let (from, to) = (self.at, self.at.saturating_add(n));
        if to.saturating_sub(from) > self.chunk.len() as u64 {
            self.stream.forget(to)?;
        }
        while self.at < to {
            if self.chunk.is_empty() {
                self.refill().map_err(as_io)?;
                if self.chunk.is_empty() {
                    self.at = self.at.min(to);
                    break;
                }
                if self.at > to {
                    return Err(self.unwanted(to));
                }
            }
            let step = self.chunk.len().min(usize::try_from(to - self.at).unwrap_or(usize::MAX));
            self.consume(step);
        }
        Ok(self.at - from)
    }

    fn unwanted(&self, at: u64) -> io::Error {
        io::Error::other(format!("{}: nobody said that byte {at} of the tar is wanted", self.label))
    }

    /// Takes the next chunk in place of one that is used up. It may stand further on than that has ended.
    fn refill(&mut self) -> Result<(), &Error> {
        if self.fault.is_none() {
            // The buffer is free for the next chunk.
            self.chunk = Chunk::default();
            match self.stream.next() {
                Ok((at, chunk)) => (self.at, self.chunk) = (at, chunk),
                Err(fault) => self.fault = Some(fault_error(&self.label, fault, self.limit)),
            }
        }
        match &self.fault {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl BufRead for LayerData {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            let at = self.at;
            self.refill().map_err(as_io)?;
            if self.at != at && !self.chunk.is_empty() {
                return Err(self.unwanted(at));
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        let n = n.min(self.chunk.len());
        self.chunk.consume(n);
        self.at += n as u64;
    }
}

impl Read for LayerData {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buf)
    }
}

fn copy_out(from: &mut impl BufRead, to: &mut [u8]) -> io::Result<usize> {
    if to.is_empty() {
        return Ok(0);
    }
    let chunk = from.fill_buf()?;
    let n = chunk.len().min(to.len());
    to[..n].copy_from_slice(&chunk[..n]);
    from.consume(n);
    Ok(n)
}
