//! Records of fixed size, and reading them.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Place, Section};
use crate::{Error, Part, ReadAt, Result, Sha256};

/// One distinct file content.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Content {
    /// BLAKE3-256 of the content.
    pub blake3: [u8; 32],

    /// fs-verity digest: SHA-256, 4096-byte blocks, no salt.
    pub fsverity: Sha256,

    /// Length in bytes.
    pub size: U64,
    /// 0.
    pub reserved: U64,
}

/// One inode.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InodeRecord {
    /// Its number.
    pub nid: U64,
    /// Index of the layer it came from, lowest is 0; [`super::NONE`] for directories that no layer describes.
    pub layer: U32,
    /// Index of its content in [`Section::Contents`]; [`super::NONE`] unless it is a regular file.
    pub content: U32,
}

/// What one layer of the source ships, in bytes of file content and in files.
///
/// `shipped = visible + shadowed + deleted`, for bytes and for files.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LayerRecord {
    /// Bytes of regular files in the layer.
    pub shipped: U64,
    /// Of these, bytes that are in the image.
    pub visible: U64,

    /// Bytes replaced by a later entry.
    pub shadowed: U64,
    /// Bytes hidden by a whiteout or opaque marker.
    pub deleted: U64,

    /// Regular files in the layer.
    pub shipped_files: U64,
    /// Of these, files that are in the image.
    pub visible_files: U64,

    /// Files replaced by a later entry.
    pub shadowed_files: U64,
    /// Files hidden by a whiteout or opaque marker.
    pub deleted_files: U64,
}

/// A file that a layer ships and a later layer deletes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeletedRecord {
    /// Length of its content in bytes.
    pub size: U64,
    /// Where its path starts in [`Section::Paths`].
    pub path_offset: U64,

    /// Length of its path in bytes.
    pub path_len: U32,
    /// Index of the layer that ships it.
    pub layer: U32,
    /// Index of the layer that deletes it.
    pub deleted_by: U32,
    /// 0.
    pub reserved: U32,
}

const _: () = assert!(size_of::<Content>() as u64 == Section::Contents.record_len());
const _: () = assert!(size_of::<InodeRecord>() as u64 == Section::Inodes.record_len());
const _: () = assert!(size_of::<LayerRecord>() as u64 == Section::Layers.record_len());
const _: () = assert!(size_of::<DeletedRecord>() as u64 == Section::Deleted.record_len());

/// Records of one section, read a block's worth at a time.
pub struct Records<'a, R, T> {
    io: &'a R,
    place: Place,
    next: u64,
    window: Vec<T>,
}

impl<'a, R, T> Records<'a, R, T> {
    pub(super) const fn new(io: &'a R, place: Place) -> Self {
        Self { io, place, next: 0, window: Vec::new() }
    }
}

impl<R: ReadAt, T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy> Records<'_, R, T> {
    /// Number of records.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.place.records()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Record `index`; `None` behind the last.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn get(&self, index: u64) -> Result<Option<T>> {
        if index >= self.len() {
            return Ok(None);
        }
        Ok(self.range(index, 1)?.first().copied())
    }

    /// At most `count` records from `index` on, read at once; fewer at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn range(&self, index: u64, count: u64) -> Result<Vec<T>> {
        let unit = self.place.section.record_len();
        let offset = self.place.offset.saturating_add(index.saturating_mul(unit));
        let count = count.min(self.len().saturating_sub(index));
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize::try_from(count.saturating_mul(unit)).unwrap_or(0)];
        let io = |source| Error::Io { part: Part::Seal, offset, source };
        self.io.read_exact_at(&mut bytes, offset).map_err(io)?;
        let step = usize::try_from(unit).unwrap_or(1);
        Ok(bytes.chunks_exact(step).filter_map(|record| T::read_from_bytes(record).ok()).collect())
    }
}

impl<R: ReadAt, T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy> Iterator
    for Records<'_, R, T>
{
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.window.is_empty() {
            if self.next >= self.len() {
                return None;
            }
            match self.range(self.next, 256) {
                Ok(records) if records.is_empty() => return None,
                Ok(mut records) => {
                    self.next = self.next.saturating_add(u64::try_from(records.len()).unwrap_or(u64::MAX));
                    records.reverse();
                    self.window = records;
                }
                Err(error) => {
                    self.next = self.len();
                    return Some(Err(error));
                }
            }
        }
        self.window.pop().map(Ok)
    }
}
