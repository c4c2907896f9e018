//! One thing in a tree that is not as it was shipped.

use std::cmp::Ordering;
use std::fmt;

use crate::tree::Field;

/// What a difference is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// The image has it and the tree has not.
    Missing,
    /// The tree has it and the image has not.
    Extra,
    /// It is of another type; nothing else of it is compared.
    Type,
    /// Permission, set-id and sticky bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Length, and so content.
    Size,
    /// Content.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Major and minor number of a device.
    Rdev,
    /// Hard links.
    Links,
    /// One extended attribute.
    Xattr,
    /// An upper directory hides all that the image has in it.
    Opaque,
    /// An upper entry takes what the image has at another path.
    Redirect,
    /// An upper file takes its content from elsewhere, and the overlay does not do that by itself.
    Metacopy,
    /// Something is mounted there, and what is behind was not looked at.
    Mount,
    /// It changed while it was looked at.
    Changing,
    /// It could not be read.
    Unreadable,
    /// The image could not be read there, or contradicts itself.
    Image,
}

impl Kind {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Mtime => "mtime",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Rdev => "rdev",
            Self::Links => "links",
            Self::Xattr => "xattr",
            Self::Opaque => "opaque",
            Self::Redirect => "redirect",
            Self::Metacopy => "metacopy",
            Self::Mount => "mount",
            Self::Changing => "changing",
            Self::Unreadable => "unreadable",
            Self::Image => "image",
        }
    }

    /// The field whose comparison finds it; `None` for what is always reported.
    #[must_use]
    pub const fn field(self) -> Option<Field> {
        Some(match self {
            Self::Mode => Field::Mode,
            Self::Uid => Field::Uid,
            Self::Gid => Field::Gid,
            Self::Mtime => Field::Mtime,
            Self::Size => Field::Size,
            Self::Content => Field::Content,
            Self::Target => Field::Target,
            Self::Rdev => Field::Rdev,
            Self::Links => Field::Links,
            Self::Xattr => Field::Xattrs,
            _ => return None,
        })
    }

    /// Whether it says that something was not compared, rather than that it differs.
    #[must_use]
    pub const fn hides(self) -> bool {
        matches!(self, Self::Mount | Self::Changing | Self::Unreadable | Self::Image)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Why a difference gives somebody power that the image did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Security {
    /// A file runs as its owner or group, and did not.
    SetId,
    /// A file has other capabilities.
    Capability,
    /// A device node is there, or is another one, or has another owner or more permissions.
    Device,
    /// The content or owner of a file that runs as its owner or group, or with capabilities, is another one, or it has
    /// more permissions.
    Privileged,
}

impl Security {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::SetId => "set-id",
            Self::Capability => "capability",
            Self::Device => "device",
            Self::Privileged => "privileged",
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Where content differs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset {
    /// Byte offset in the file.
    pub at: u64,
    /// How exact that is, in bytes: 1, or the size of a block when only its digest is known.
    pub unit: u64,
}

/// One thing that is not as it was shipped.
///
/// Ordered as reports are: what concerns security first, then by path and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Absolute path in the image; `/` for the root.
    pub path: Vec<u8>,
    /// What it is about.
    pub kind: Kind,
    /// How the image has it, printable; `None` when there is nothing to say.
    pub expected: Option<String>,
    /// How the tree has it, or what the system said, printable.
    pub found: Option<String>,
    /// Of content: where it differs first, if that could be found out.
    pub offset: Option<Offset>,
    /// Whether it gives somebody power, and which.
    pub security: Option<Security>,
    /// Of an overlay: which directory above the image made it, counted from the top; `None` when none did, so that
    /// the image itself is seen otherwise than it was shipped.
    pub layer: Option<usize>,
}

impl Difference {
    /// A difference with nothing more to say.
    #[must_use]
    pub const fn new(path: Vec<u8>, kind: Kind) -> Self {
        Self { path, kind, expected: None, found: None, offset: None, security: None, layer: None }
    }

    /// Says how the image has it.
    #[must_use]
    pub fn expected(self, text: impl Into<String>) -> Self {
        Self { expected: Some(text.into()), ..self }
    }

    /// Says how it was found, or why it was not.
    #[must_use]
    pub fn found(self, text: impl Into<String>) -> Self {
        Self { found: Some(text.into()), ..self }
    }

    /// Says where content differs first.
    #[must_use]
    pub fn offset(self, offset: Option<Offset>) -> Self {
        Self { offset, ..self }
    }

    /// Says which power it gives.
    #[must_use]
    pub fn security(self, security: Option<Security>) -> Self {
        Self { security, ..self }
    }

    /// Bytes of text in it.
    pub(crate) fn text_len(&self) -> usize {
        let side = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.path.len().saturating_add(side(&self.expected)).saturating_add(side(&self.found))
    }

    fn key(&self) -> impl Ord {
        let Self { path, kind, expected, found, offset, security, layer } = self;
        (security.is_none(), path, *kind, expected, found, *offset, *security, *layer)
    }
}

impl Ord for Difference {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Difference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
