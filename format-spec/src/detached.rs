//! A detached seal: an image without its file data.
//!
//! It is one head block, block 0 of the image, and the image from the metadata area to its end, unchanged. All
//! offsets inside stay those of the image, so the same code reads both; only file data is missing. Because the
//! whole hash tree comes along, a detached seal is checked against the root hash by itself.

use std::io;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ddi::Disk;
use crate::header::{self, Header, VERSION};
use crate::{BLOCK_LEN, BLOCK_SIZE, Error, Part, Problem, ReadAt, Result};

/// First bytes of a detached seal.
pub const MAGIC: [u8; 8] = *b"mkimgDET";

const CRC_AT: usize = BLOCK_LEN - 4;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    reserved0: U32,

    cut_start: U64,
    cut_end: U64,

    reserved1: [u8; BLOCK_LEN - 36],
    crc32: U32,
}

const _: () = assert!(size_of::<RawHead>() == BLOCK_LEN);

/// The head block of the detached seal of an image.
#[must_use]
pub fn head(header: &Header) -> Box<[u8; BLOCK_LEN]> {
    let mut raw = RawHead {
        magic: MAGIC,
        version: VERSION.into(),
        reserved0: 0.into(),
        cut_start: BLOCK_SIZE.into(),
        cut_end: header.meta_block.saturating_mul(BLOCK_SIZE).into(),
        reserved1: [0; BLOCK_LEN - 36],
        crc32: 0.into(),
    };
    raw.crc32 = crc32fast::hash(&raw.as_bytes()[..CRC_AT]).into();
    let mut block = Box::new([0; BLOCK_LEN]);
    block.copy_from_slice(raw.as_bytes());
    block
}

/// An image, or a detached seal or a disk at the offsets of its image.
#[derive(Debug)]
pub struct Sealed<R> {
    io: R,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Image,
    /// A detached seal, and the byte range of the image that is not there.
    Cut(u64, u64),
    /// In the partitions of a disk.
    Disk(Box<Disk>),
}

impl<R: ReadAt> Sealed<R> {
    /// Looks at the first bytes and opens whichever it is.
    ///
    /// # Errors
    /// [`Error::Io`], a broken head of a detached seal, or a disk on which no image is found as [`Disk::open`] has it.
    pub fn open(io: R) -> Result<Self> {
        let part = Part::DetachedSeal;
        let mut magic = [0; 8];
        io.read_exact_at(&mut magic, 0).map_err(|source| Error::Io {
            part: Part::Header,
            offset: 0,
            source,
        })?;
        if magic != MAGIC {
            // What begins as an image is one. Only then it can be a disk, or an image with a damaged header.
            let disk = if magic == header::MAGIC { None } else { Disk::open(&io)? };
            let form = disk.map_or(Form::Image, |disk| Form::Disk(Box::new(disk)));
            return Ok(Self { io, form });
        }
        let mut block = Box::new([0; BLOCK_LEN]);
        io.read_exact_at(&mut block[..], 0).map_err(|source| Error::Io { part, offset: 0, source })?;
        let raw =
            RawHead::read_from_bytes(&block[..]).map_err(|_| Error::corrupt(part, 0, Problem::Magic))?;
        // The head has one form for a given cut, and the header it carries says which cut.
        let header = Header::read(&Shifted(&io))?;
        if head(&header) != block {
            let found = raw.cut_end.get();
            return Err(Error::field(
                part,
                0,
                "cut_end, checksum or reserved",
                found,
                "as the header has it",
            ));
        }
        Ok(Self { io, form: Form::Cut(BLOCK_SIZE, raw.cut_end.get()) })
    }

    /// Whether file data is missing.
    pub const fn is_detached(&self) -> bool {
        matches!(self.form, Form::Cut(..))
    }

    /// The disk that the image is on, if it is on one.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.form {
            Form::Disk(disk) => Some(disk),
            Form::Image | Form::Cut(..) => None,
        }
    }

    /// What it is read from.
    pub const fn io(&self) -> &R {
        &self.io
    }
}

/// An image whose file data is not looked at: reads of it fail as they do in a detached seal.
///
/// For audits that need the records alone, and not the gigabytes between them.
#[derive(Debug)]
pub struct WithoutData<R> {
    io: R,
    data: std::ops::Range<u64>,
}

impl<R: ReadAt> WithoutData<R> {
    /// Leaves out the data area that `header` names.
    #[must_use]
    pub const fn new(io: R, header: &Header) -> Self {
        Self { io, data: BLOCK_SIZE..header.meta_block.saturating_mul(BLOCK_SIZE) }
    }
}

impl<R: ReadAt> ReadAt for WithoutData<R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        if offset < self.data.end && end > self.data.start {
            return Err(io::Error::new(io::ErrorKind::NotFound, "file data is left out"));
        }
        self.io.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.io.size()
    }
}

/// The bytes behind the head block.
struct Shifted<'a, R>(&'a R);

impl<R: ReadAt> ReadAt for Shifted<'_, R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset.saturating_add(BLOCK_SIZE))
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.size()?.saturating_sub(BLOCK_SIZE))
    }
}

impl<R: ReadAt> ReadAt for Sealed<R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (start, end) = match &self.form {
            Form::Image => return self.io.read_exact_at(buf, offset),
            Form::Disk(disk) => return disk.read_image(&self.io, buf, offset),
            Form::Cut(start, end) => (*start, *end),
        };
        let last = offset.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        if last <= start {
            return Shifted(&self.io).read_exact_at(buf, offset);
        }
        if offset < end {
            return Err(io::Error::new(io::ErrorKind::NotFound, "a detached seal holds no file data"));
        }
        let stored = offset.saturating_sub(end.saturating_sub(start));
        Shifted(&self.io).read_exact_at(buf, stored)
    }

    fn size(&self) -> io::Result<u64> {
        match &self.form {
            Form::Image => self.io.size(),
            Form::Disk(disk) => Ok(disk.image_size()),
            Form::Cut(start, end) => Ok(Shifted(&self.io).size()?.saturating_add(end.saturating_sub(*start))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_at_the_offsets_of_the_image() {
        let header = Header { data_blocks: 6, meta_block: 4, seal_block: 5, fec_blocks: 0, fec_roots: 0 };
        let mut image = vec![0; usize::try_from(header.image_size()).unwrap()];
        image[..512].copy_from_slice(&header.to_bytes());
        for (block, bytes) in image.chunks_mut(BLOCK_LEN).enumerate().skip(1) {
            bytes.fill(u8::try_from(block).unwrap());
        }
        let mut file = head(&header).to_vec();
        file.extend_from_slice(&image[..BLOCK_LEN]);
        file.extend_from_slice(&image[4 * BLOCK_LEN..]);
        let seal = Sealed::open(file.clone()).unwrap();
        assert!(seal.is_detached());
        assert_eq!(seal.size().unwrap(), header.image_size());
        assert_eq!(Header::read(&seal).unwrap(), header);
        let mut byte = [0];
        for (offset, expected) in [(4 * 4096, 4), (5 * 4096 + 7, 5), (header.trailer_offset(), 8)] {
            seal.read_exact_at(&mut byte, offset).unwrap();
            assert_eq!(byte[0], expected);
        }
        for offset in [4096, 4 * 4096 - 1] {
            assert_eq!(seal.read_exact_at(&mut byte, offset).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        for at in 0..BLOCK_LEN {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let found = Sealed::open(changed);
            assert!(found.is_err() || !found.unwrap().is_detached(), "byte {at} of the head");
        }
    }
}
