//! What a scan of the source hands to flattening.

use std::sync::Arc;

use mkimg_format::erofs::Timestamp;

use crate::tar::Segment;

/// Index of a set of xattrs; 0 is the empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct XattrSet(pub u32);

impl XattrSet {
    /// The one without xattrs.
    pub(crate) const NONE: Self = Self(0);
}

/// One xattr: full name, value.
pub(crate) type XattrPair = (Box<[u8]>, Box<[u8]>);

/// Owner, permissions and the rest that every kind of inode has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission, set-id and sticky bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: XattrSet,
}

impl Attributes {
    /// Of directories that no layer describes.
    pub(crate) const IMPLIED: Self =
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp { sec: 0, nsec: 0 }, xattrs: XattrSet(0) };
}

/// A piece of the text that a scan keeps for its entries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    pub start: u32,
    pub len: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    /// Regular file: index into the scan's files.
    File(u32),
    Dir,
    Symlink(Span),
    /// Another name for the inode at this path.
    Hardlink(Span),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

/// One entry of a layer, in the order of the layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub path: Span,
    pub node: Node,
    pub attributes: Attributes,
}

/// Content of a regular file and where it is in the source.
#[derive(Debug, Clone)]
pub(crate) struct FileData {
    pub blake3: [u8; 32],
    /// Length with holes.
    pub size: u64,
    pub place: Place,
    /// For a file with holes.
    pub sparse: Option<Box<Sparse>>,
}

impl FileData {
    /// Stored parts of a file with holes.
    pub(crate) fn segments(&self) -> Option<&[Segment]> {
        self.sparse.as_deref().map(|sparse| &*sparse.segments)
    }

    /// Hash of the stored bytes.
    pub(crate) fn stored_blake3(&self) -> [u8; 32] {
        self.sparse.as_deref().map_or(self.blake3, |sparse| sparse.stored_blake3)
    }

    /// Number of stored bytes.
    pub(crate) fn stored(&self) -> u64 {
        self.segments().map_or(self.size, |segments| segments.iter().map(|segment| segment.len).sum())
    }
}

/// A file with holes.
#[derive(Debug, Clone)]
pub(crate) struct Sparse {
    /// Its stored parts.
    pub segments: Box<[Segment]>,
    /// Hash of the stored bytes alone: holes need not be hashed again when they are copied.
    pub stored_blake3: [u8; 32],
}

/// Where content is to be read again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Byte offset in the uncompressed tar.
    Tar(u64),
    /// A file below the source directory.
    Host(Span),
}

/// All entries of one layer, in little memory: texts stand side by side in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Number of the layer from 1, or 0 for a source directory, where no name is a marker.
    pub number: usize,
    pub text: Vec<u8>,
    pub entries: Vec<Entry>,
    pub files: Vec<FileData>,
    /// Distinct sets of xattrs; index 0 is the empty set.
    pub xattrs: Vec<Arc<[XattrPair]>>,
    pub warnings: Vec<String>,
}

impl Scan {
    /// Keeps a text. `None` when 4 GiB are full.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Option<Span> {
        let span = Span { start: u32::try_from(self.text.len()).ok()?, len: u32::try_from(text.len()).ok()? };
        span.start.checked_add(span.len)?;
        self.text.extend_from_slice(text);
        Some(span)
    }
}

/// The text at a span.
pub(crate) fn text_at(text: &[u8], span: Span) -> &[u8] {
    let start = span.start as usize;
    text.get(start..start + span.len as usize).unwrap_or_default()
}
