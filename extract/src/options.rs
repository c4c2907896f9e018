//! What to extract, and how.

/// What becomes of owners and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// Restored by root (effective user id 0); left out for everybody else, with one line in the summary.
    #[default]
    Auto,
    /// Restored; an error when that is not allowed.
    Keep,
    /// Everything belongs to the caller.
    Skip,
}

/// What to extract, and how.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// What becomes of owners and groups.
    ///
    /// Where they are not restored, set-user-id and set-group-id bits of files are left out too, unless the file
    /// happens to belong to the right user or group.
    pub owners: Owners,
    /// Absolute paths in the image; these and everything below them are extracted, with the directories on the way.
    /// Symbolic links in them are not followed. Empty: the whole tree.
    pub paths: Vec<Vec<u8>>,
    /// Whether the target may be a directory that holds something already.
    ///
    /// Directories that exist keep their attributes, the target itself too. Anything else that exists is an error.
    pub into_existing: bool,
    /// Whether the kernel is to check every read of a file from now on, which can then be replaced but not changed.
    ///
    /// Takes a file system with fs-verity (ext4 and f2fs with the feature `verity`, btrfs); an error elsewhere.
    pub fs_verity: bool,
    /// Told how many more bytes of content are done, holes included.
    pub progress: Option<&'a dyn Fn(u64)>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Options")
            .field("owners", &self.owners)
            .field("paths", &self.paths)
            .field("into_existing", &self.into_existing)
            .field("fs_verity", &self.fs_verity)
            .finish_non_exhaustive()
    }
}
