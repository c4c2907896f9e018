//! Is a file system sound, whoever has written it?
//!
//! [`lint`](crate::lint) knows one legal form of everything and is for images of mkimg. Here it is enough that the
//! reader can read all there is: every directory in order and entered once, every inode of a form that it knows, every
//! extent, attribute and link target inside the file system. It refuses what is dangerous to a parser, not what is unusual.
//! Whether places overlap, whether counts are right and what stands in slack is not looked at.

use zerocopy::FromBytes as _;

use crate::erofs::raw::{RawSuperblock, SUPERBLOCK_OFFSET};
use crate::erofs::{FileSystem, FileType, Inode};
use crate::{Error, Part, Problem, ReadAt, Result};

/// Problems that are reported.
const PROBLEMS_MAX: u64 = 1000;

/// What could not be read because the reader does not know its form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unread {
    /// Inodes, or the file system as a whole.
    pub count: u64,
    /// What the first of them asks for.
    pub first: Option<String>,
}

impl Unread {
    /// Takes note of an error that says so; gives any other back.
    pub fn note(&mut self, error: Error) -> Option<Error> {
        if !matches!(error, Error::Unsupported { .. }) {
            return Some(error);
        }
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| error.to_string());
        None
    }
}

/// Reads everything but the content of files, and calls `report` with each thing that is broken and the path that it
/// belongs to. Of very many the first thousand are reported.
///
/// The work is bounded by the size of the file system.
///
/// # Errors
/// [`Error::Io`].
pub fn check<R: ReadAt>(fs: &FileSystem<R>, report: &mut dyn FnMut(Vec<u8>, Error)) -> Result<Unread> {
    let mut unread = Unread::default();
    let mut reported = 0_u64;
    let mut take = |path: &[u8], error: Error| -> Result<()> {
        if matches!(error, Error::Io { .. }) {
            return Err(error);
        }
        if let Some(error) = unread.note(error) {
            reported = reported.saturating_add(1);
            if reported <= PROBLEMS_MAX {
                report(path.to_vec(), error);
            }
        }
        Ok(())
    };
    if let Err(error) = check_superblock(fs) {
        take(b"/", error)?;
    }
    // Entries of maps take at least four bytes each, so without overlaps there are no more than that.
    let mut budget = fs.superblock().length().saturating_add(1 << 20);
    let mut walk = fs.walk();
    while let Some(entry) = walk.next() {
        match entry {
            Ok(entry) => {
                if let Err(error) = check_inode(fs, &entry.inode, &mut budget) {
                    take(&entry.path, error)?;
                }
            }
            Err(error) => {
                let path = walk.position().to_vec();
                take(&path, error)?;
            }
        }
    }
    Ok(unread)
}

/// What the reader does not look at because it makes no use of it, and a kernel does.
fn check_superblock<R: ReadAt>(fs: &FileSystem<R>) -> Result<()> {
    let part = Part::Superblock;
    let mut bytes = [0; size_of::<RawSuperblock>()];
    fs.read(part, &mut bytes, SUPERBLOCK_OFFSET)?;
    let raw = RawSuperblock::read_from_bytes(&bytes).unwrap_or_default();
    for (field, set, feature) in [
        // A kernel that shares pages by fingerprints would take the word of the image for what other images hold.
        (0x69, raw.ishare_xattr_prefix_id != 0, "sharing of pages by fingerprints"),
        (0x5b, raw.xattr_prefix_count != 0, "a table of long xattr prefixes"),
    ] {
        if set {
            let (offset, feature) = (SUPERBLOCK_OFFSET.saturating_add(field), feature.to_owned());
            return Err(Error::Unsupported { part, offset, feature });
        }
    }
    Ok(())
}

fn check_inode<R: ReadAt>(fs: &FileSystem<R>, inode: &Inode, budget: &mut u64) -> Result<()> {
    fs.xattrs(inode)?;
    if inode.file_type == FileType::Symlink {
        fs.read_link(inode)?;
    }
    for extent in fs.extents(inode) {
        extent?;
        *budget = budget.checked_sub(4).ok_or_else(|| {
            let problem = Problem::TooMany("entries of maps");
            Error::corrupt(Part::ChunkMap, inode.offset, problem)
        })?;
    }
    Ok(())
}
