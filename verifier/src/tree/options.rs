//! What to compare, and how.

use std::fmt;
use std::iter::successors;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::Glob;
use super::scope::parent;

/// An attribute that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Field {
    /// Permission, set-id and sticky bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Length of a regular file.
    Size,
    /// Content of a regular file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Major and minor number of a device.
    Rdev,
    /// Which names are hard links of one inode, and that there are no others.
    Links,
    /// Extended attributes, with file capabilities, access control lists and security labels.
    Xattrs,
}

impl Field {
    /// All fields.
    pub const ALL: [Self; 10] = [
        Self::Mode,
        Self::Uid,
        Self::Gid,
        Self::Mtime,
        Self::Size,
        Self::Content,
        Self::Target,
        Self::Rdev,
        Self::Links,
        Self::Xattrs,
    ];

    /// The word that stands for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Mtime => "mtime",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Rdev => "rdev",
            Self::Links => "links",
            Self::Xattrs => "xattrs",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// A word that is no [`Field`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no field, must be one of mode, uid, gid, mtime, size, content, target, rdev, links, xattrs")]
pub struct FieldError(String);

impl FromStr for Field {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        let unknown = || FieldError(mkimg_format::erofs::escape(text.as_bytes()));
        Self::ALL.into_iter().find(|field| field.word() == text).ok_or_else(unknown)
    }
}

/// What to compare, and how.
#[derive(Clone, Copy)]
pub struct TreeOptions<'a> {
    /// Threads that read and hash; more than 64 are not used.
    pub threads: NonZeroUsize,
    /// Fields that are not compared.
    pub ignore: &'a [Field],
    /// Paths that are not looked at, with everything below them, whether the image or the tree has them.
    ///
    /// `/` alone leaves out the attributes of the root, and nothing else.
    pub ignore_paths: &'a [Glob],
    /// Names of extended attributes that are not compared, such as `security.selinux` or `trusted.*`.
    pub ignore_xattrs: &'a [Glob],
    /// Whether to go on into what is mounted inside the tree. Otherwise a mount is a finding.
    pub cross_mounts: bool,
    /// Keep only what gives somebody power that the image did not give, and what hides anything from the audit.
    ///
    /// Files whose content gives nobody power are not read then.
    pub only_security: bool,
    /// Told how many more bytes of content are done, from any of the threads.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Default for TreeOptions<'_> {
    /// Everything is compared, one thread for each processor.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            threads,
            ignore: &[],
            ignore_paths: &[],
            ignore_xattrs: &[],
            cross_mounts: false,
            only_security: false,
            progress: None,
        }
    }
}

impl fmt::Debug for TreeOptions<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TreeOptions")
            .field("threads", &self.threads)
            .field("ignore", &self.ignore)
            .field("ignore_paths", &self.ignore_paths)
            .field("ignore_xattrs", &self.ignore_xattrs)
            .field("cross_mounts", &self.cross_mounts)
            .field("only_security", &self.only_security)
            .finish_non_exhaustive()
    }
}

impl TreeOptions<'_> {
    pub(crate) fn compares(&self, field: Field) -> bool {
        !self.ignore.contains(&field)
    }

    /// Whether a path, which starts with a slash, is not looked at.
    pub(crate) fn ignores(&self, path: &[u8]) -> bool {
        self.ignore_paths.iter().any(|glob| glob.matches(path))
    }

    /// Whether a path, or one that it is below, is not looked at.
    pub(crate) fn ignores_with_parents(&self, path: &[u8]) -> bool {
        let ignores = |path: &&[u8]| !path.is_empty() && self.ignores(path);
        !self.ignore_paths.is_empty()
            && successors(Some(path), |path| parent(path)).any(|path| ignores(&path))
    }

    pub(super) fn ignores_root(&self) -> bool {
        self.ignore_paths.iter().any(Glob::is_root)
    }

    pub(crate) fn ignores_xattr(&self, name: &[u8]) -> bool {
        self.ignore_xattrs.iter().any(|glob| glob.matches(name))
    }
}
