//! What was extracted, and what was not.

/// Something that could not be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Absolute path in the image.
    pub path: Vec<u8>,
    /// What of it, and why.
    pub what: String,
}

/// Longest list in [`Summary::skipped`].
pub const SKIPPED_MAX: usize = 1000;

/// What was extracted, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Regular files, each counted once however many names it has.
    pub files: u64,
    /// Directories created; the target counts if it was created or empty.
    pub dirs: u64,
    /// Directories that were there before and were merged with one of the image.
    pub merged: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, fifos and sockets.
    pub specials: u64,
    /// Further names of files, links and specials.
    pub hardlinks: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
    /// The first [`SKIPPED_MAX`] things that could not be restored.
    pub skipped: Vec<Skipped>,
    /// How many there were in all.
    pub skipped_total: u64,
}

impl Summary {
    pub(crate) fn skip(&mut self, path: &[u8], what: impl Into<String>) {
        self.skipped_total = self.skipped_total.saturating_add(1);
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push(Skipped { path: path.to_vec(), what: what.into() });
        }
    }
}

/// One more.
pub(crate) const fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_ends_and_the_count_does_not() {
        let mut summary = Summary::default();
        for at in 0..SKIPPED_MAX + 5 {
            summary.skip(b"/path", at.to_string());
        }
        assert_eq!((summary.skipped.len(), summary.skipped_total), (1000, 1005));
        assert_eq!(summary.skipped.last().unwrap().what, "999");
    }
}
