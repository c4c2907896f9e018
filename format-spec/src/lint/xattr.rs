//! Xattr bodies and the shared pool.

use std::collections::BTreeMap;

use zerocopy::FromBytes;

use super::Lint;
use super::space::Kind;
use crate::erofs::raw::{RawXattrEntry, RawXattrHeader, XATTR_HEADER_LEN};
use crate::erofs::{FileSystem, Inode, Nid, entry_len, escape, parse_entry};
use crate::{Error, Part, Problem, ReadAt, Result};

/// An entry of the pool.
#[derive(Debug)]
struct Entry {
    /// Length in bytes.
    length: u64,
    /// Name with prefix; empty when the entry is broken.
    name: Box<[u8]>,
}

/// The shared xattrs that inodes refer to. Each is read once, however many inodes have it.
#[derive(Debug)]
pub(super) struct Pool {
    start: u64,
    /// End of the area it lies in.
    limit: u64,
    entries: BTreeMap<u32, Entry>,
    /// Bytes that may still be examined.
    left: u64,
}

impl Pool {
    pub(super) fn new(start: u64, limit: u64) -> Self {
        Self { start, limit, entries: BTreeMap::new(), left: limit.saturating_sub(start) }
    }

    /// Reads the entry at byte `at`.
    fn read<R: ReadAt>(&mut self, fs: &FileSystem<&R>, at: u64) -> Result<Entry> {
        let beyond = |length: u64| {
            let problem = Problem::OutOfBounds { start: at, length, limit: self.limit };
            Error::corrupt(Part::Xattr, at, problem)
        };
        let mut head = [0; 4];
        if at.saturating_add(4) > self.limit {
            return Err(beyond(4));
        }
        fs.read(Part::Xattr, &mut head, at)?;
        let length = entry_len(RawXattrEntry::read_from_bytes(&head).unwrap_or_default());
        if at.saturating_add(length) > self.limit {
            return Err(beyond(length));
        }
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| Error::corrupt(Part::Xattr, at, Problem::TooMany("shared xattrs")))?;
        // At most 65,796 bytes by the width of its fields.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        fs.read(Part::Xattr, &mut bytes, at)?;
        let (xattr, _) = parse_entry(&bytes, at)?;
        Ok(Entry { length, name: xattr.name.into_boxed_slice() })
    }
}

impl Lint<'_> {
    /// The xattr body of an inode.
    pub(super) fn check_xattrs<R: ReadAt>(
        &mut self,
        fs: &FileSystem<&R>,
        inode: &Inode,
        path: &[u8],
    ) -> Result<()> {
        let at = inode.offset.saturating_add(inode.inode_len);
        if inode.xattr_len <= XATTR_HEADER_LEN {
            if inode.xattr_len != 0 {
                self.out.add(Part::Xattr, at, Some(path), "xattr body without an xattr");
            }
            return Ok(());
        }
        // At most 262,148 bytes by the width of i_xattr_icount.
        let mut body = vec![0; usize::try_from(inode.xattr_len).unwrap_or(0)];
        self.out.take(fs.read(Part::Xattr, &mut body, at), Some(path))?;
        let Ok((header, mut rest)) = RawXattrHeader::read_from_prefix(&body) else { return Ok(()) };
        if header.h_name_filter.get() != 0 || header.h_reserved2 != [0; 7] {
            self.out.add(
                Part::Xattr,
                at,
                Some(path),
                "name filter or reserved bytes of the body are not zero",
            );
        }
        let mut names: Vec<Box<[u8]>> = Vec::new();
        for _ in 0..header.h_shared_count {
            let Some((id, after)) = rest.split_first_chunk::<4>() else {
                let problem =
                    format!("h_shared_count is {}, more than the body holds", header.h_shared_count);
                self.out.add(Part::Xattr, at, Some(path), problem);
                break;
            };
            rest = after;
            let name = self.shared(fs, u32::from_le_bytes(*id), path)?;
            names.extend(name);
        }
        while !rest.is_empty() {
            let left = u64::try_from(rest.len()).unwrap_or(0);
            let offset = at.saturating_add(inode.xattr_len).saturating_sub(left);
            let Some((xattr, after)) = self.out.take(parse_entry(rest, offset), Some(path))? else { break };
            names.push(xattr.name.into_boxed_slice());
            rest = after;
        }
        names.sort_unstable();
        for pair in names.windows(2) {
            if let [first, second] = pair
                && first == second
            {
                self.out.add(Part::Xattr, at, Some(path), format!("{} is there twice", escape(second)));
            }
        }
        Ok(())
    }

    /// Name of a shared xattr; `None` when it is broken, which is reported the first time.
    fn shared<R: ReadAt>(&mut self, fs: &FileSystem<&R>, id: u32, path: &[u8]) -> Result<Option<Box<[u8]>>> {
        if !self.pool.entries.contains_key(&id) {
            let at = self.pool.start.saturating_add(u64::from(id).saturating_mul(4));
            let entry = self.pool.read(fs, at);
            let entry = self.out.take(entry, Some(path))?;
            let broken = Entry { length: 0, name: Box::default() };
            self.pool.entries.insert(id, entry.unwrap_or(broken));
        }
        let name = self.pool.entries.get(&id).map(|entry| entry.name.clone());
        Ok(name.filter(|name| !name.is_empty()))
    }

    /// The pool as a whole: entries one behind the other from its start on, each used.
    pub(super) fn close_pool(&mut self) {
        let Pool { start, limit, ref entries, .. } = self.pool;
        let mut cursor = start;
        let mut problems = Vec::new();
        // Broken ones have been reported and have no length.
        for (id, entry) in entries.iter().filter(|(_, entry)| entry.length > 0) {
            let at = start.saturating_add(u64::from(*id).saturating_mul(4));
            if at < cursor {
                problems.push((at, format!("shared xattr {id} overlaps the one before")));
            } else if at > cursor {
                let unused = at.saturating_sub(cursor);
                problems.push((cursor, format!("{unused} bytes of the shared xattrs are used by no inode")));
            }
            cursor = cursor.max(at.saturating_add(entry.length));
        }
        if entries.is_empty() && start != limit {
            let problem = "xattr_blkaddr must be the end of the metadata area when nothing is shared";
            problems.push((super::block0::at(0x2c), problem.into()));
        } else if start < self.meta.0 || cursor.saturating_sub(start) > limit.saturating_sub(start) {
            problems.push((super::block0::at(0x2c), "shared xattrs lie outside the metadata area".into()));
        }
        for (offset, problem) in problems {
            self.out.add_late(Part::Xattr, offset, None, problem);
        }
        if cursor > start {
            self.space.claim(Kind::Pool, Nid(0), start, cursor);
        }
    }
}
