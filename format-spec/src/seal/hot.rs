//! Where the contents stand that come first because a trace names their files.

use std::ops::Range;

use super::{NONE, Seal};
use crate::erofs::{FileSystem, Nid};
use crate::{BLOCK_SIZE, ReadAt, Result};

impl<R: ReadAt> Seal<R> {
    /// The bytes of the image from the first to behind the last one of the first `hot` contents; `None` if they have none.
    ///
    /// What stands behind an inode is not counted. The statement has only their number: of compressed contents nobody knows the end when it is written.
    ///
    /// # Errors
    /// A broken inode or map of one of their files.
    pub fn hot_range<F: ReadAt>(&self, fs: &FileSystem<F>, hot: u64) -> Result<Option<Range<u64>>> {
        let mut range: Option<Range<u64>> = None;
        let metadata = u64::from(fs.superblock().meta_block).saturating_mul(BLOCK_SIZE);
        for record in self.inodes() {
            let record = record?;
            let content = record.content.get();
            if content == NONE || u64::from(content) >= hot {
                continue;
            }
            let inode = fs.inode(Nid(record.nid.get()))?;
            for extent in fs.extents(&inode) {
                let extent = extent?;
                let Some(start) = extent.physical.filter(|start| *start < metadata) else { continue };
                let end = start.saturating_add(extent.stored());
                let range = range.get_or_insert(start..end);
                *range = range.start.min(start)..range.end.max(end);
            }
        }
        Ok(range)
    }
}
