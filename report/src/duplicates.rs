//! Contents that several files share.
//!
//! The seal has a record for each distinct content, and each inode refers to one. So copies are counted from the seal
//! alone; the walk only finds names for the worst.

use std::cmp::Reverse;
use std::collections::HashMap;

use mkimg_format::erofs::Nid;
use mkimg_format::seal::Seal;
use mkimg_format::{ReadAt, Result};

use crate::top::Top;

/// Contents whose copies are counted: a number of 4 bytes for each, 64 MiB in all. [`Duplicates::uncounted`] are left.
pub const CONTENTS_MAX: u64 = 1 << 24;

/// Paths that are given for each content.
pub const PATHS_MAX: usize = 4;

/// A content that several files have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Its length.
    pub bytes: u64,
    /// Files that have it. Hard links are one file.
    pub copies: u64,
    /// Bytes that storing it once saves.
    pub saved: u64,
    /// Where some of them are, at most [`PATHS_MAX`].
    pub paths: Vec<Vec<u8>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Duplicates {
    /// Contents that several files have; empty ones do not count.
    pub contents: u64,
    /// Files that could be done without: all copies but the first of each content.
    pub copies: u64,
    /// Bytes that storing each content once saves.
    pub saved: u64,
    /// Contents that were not looked at, see [`CONTENTS_MAX`].
    pub uncounted: u64,
    /// Those that save most.
    pub list: Vec<Duplicate>,
}

/// Duplicates whose names are still to be found.
#[derive(Debug)]
pub(crate) struct Search {
    found: Duplicates,
    /// Place in the list, by inode.
    wanted: HashMap<u64, usize>,
}

impl Search {
    /// Counts copies, and keeps the `room` contents that save most.
    pub(crate) fn new<R: ReadAt>(seal: &Seal<R>, room: usize) -> Result<Self> {
        let contents = seal.contents().len();
        let counted = usize::try_from(contents.min(CONTENTS_MAX)).unwrap_or(0);
        let mut copies = vec![0_u32; counted];
        for record in seal.inodes() {
            if let Some(copies) =
                usize::try_from(record?.content.get()).ok().and_then(|at| copies.get_mut(at))
            {
                *copies = copies.saturating_add(1);
            }
        }
        let mut found =
            Duplicates { uncounted: contents.saturating_sub(CONTENTS_MAX), ..Duplicates::default() };
        let mut top = Top::new(room);
        for ((content, copies), index) in seal.contents().zip(&copies).zip(0_u32..) {
            let bytes = content?.size.get();
            let copies = u64::from(*copies);
            let more = copies.saturating_sub(1);
            if more == 0 || bytes == 0 {
                continue;
            }
            let saved = more.saturating_mul(bytes);
            found.contents = found.contents.saturating_add(1);
            found.copies = found.copies.saturating_add(more);
            found.saved = found.saved.saturating_add(saved);
            top.offer((saved, Reverse(index), bytes, copies));
        }
        let mut places = HashMap::new();
        for (saved, Reverse(index), bytes, copies) in top.into_sorted() {
            places.insert(index, found.list.len());
            found.list.push(Duplicate { bytes, copies, saved, paths: Vec::new() });
        }
        let mut left = vec![PATHS_MAX; found.list.len()];
        let mut wanted = HashMap::new();
        for record in seal.inodes() {
            let record = record?;
            if let Some(place) = places.get(&record.content.get())
                && let Some(left) = left.get_mut(*place).filter(|left| **left > 0)
            {
                *left = left.saturating_sub(1);
                wanted.insert(record.nid.get(), *place);
            }
        }
        Ok(Self { found, wanted })
    }

    /// Takes note of the first name of an inode.
    pub(crate) fn name(&mut self, nid: Nid, path: &[u8]) {
        if let Some(place) = self.wanted.remove(&nid.0)
            && let Some(duplicate) = self.found.list.get_mut(place)
        {
            duplicate.paths.push(path.to_vec());
        }
    }

    /// What was found.
    pub(crate) fn finish(self) -> Duplicates {
        self.found
    }
}
