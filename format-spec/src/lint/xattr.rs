//! Xattr bodies and the shared pool.

use zerocopy::FromBytes;

use super::Lint;
use super::findings::About;
use crate::erofs::raw::{RawXattrEntry, RawXattrHeader, XATTR_ENTRY_LEN, XATTR_HEADER_LEN};
use crate::erofs::{FileSystem, Inode, entry_len, escape, parse_entry};
use crate::{Error, Part, Problem, ReadAt, Result};

/// Ids of the pool that are looked at in one go: a bit for each, 512 MiB of the pool, 16 MiB of memory.
const WINDOW: u64 = 1 << 27;

/// The area of shared xattrs.
#[derive(Debug)]
pub(super) struct Pool {
    start: u64,
    /// End of the area it lies in.
    limit: u64,
    /// Whether an inode refers to it.
    used: bool,
    /// Bytes that may still be examined.
    left: u64,
}

impl Pool {
    pub(super) const fn new(start: u64, limit: u64) -> Self {
        Self { start, limit, used: false, left: limit.saturating_sub(start) }
    }

    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    pub(super) const fn is_used(&self) -> bool {
        self.used
    }

    const fn place(&self, id: u64) -> u64 {
        self.start.saturating_add(id.saturating_mul(4))
    }

    fn beyond(&self, at: u64, length: u64) -> Error {
        let problem = Problem::OutOfBounds { start: at, length, limit: self.limit };
        Error::corrupt(Part::Xattr, at, problem)
    }

    /// The fixed part of entry `id`.
    fn head<R: ReadAt>(&self, fs: &FileSystem<&R>, id: u64) -> Result<RawXattrEntry> {
        let at = self.place(id);
        let mut head = [0; 4];
        if at.saturating_add(XATTR_ENTRY_LEN) > self.limit {
            return Err(self.beyond(at, XATTR_ENTRY_LEN));
        }
        fs.read(Part::Xattr, &mut head, at)?;
        Ok(RawXattrEntry::read_from_bytes(&head).unwrap_or_default())
    }

    /// Name of entry `id`, which has been checked. The value, which may be long, is not read.
    fn name<R: ReadAt>(&self, fs: &FileSystem<&R>, id: u64) -> Result<Vec<u8>> {
        let raw = self.head(fs, id)?;
        let bare = RawXattrEntry { e_value_size: 0.into(), ..raw };
        let mut bytes = vec![0; usize::try_from(entry_len(bare)).unwrap_or(0)];
        let (head, rest) = bytes.split_at_mut_checked(4).unwrap_or_default();
        head.copy_from_slice(&[raw.e_name_len, raw.e_name_index, 0, 0]);
        let suffix = rest.get_mut(..raw.e_name_len.into()).unwrap_or_default();
        let at = self.place(id);
        fs.read(Part::Xattr, suffix, at.saturating_add(XATTR_ENTRY_LEN))?;
        parse_entry(&bytes, at).map(|(xattr, _)| xattr.name)
    }

    /// Length of entry `id`, which is read whole and checked.
    fn check<R: ReadAt>(&mut self, fs: &FileSystem<&R>, id: u64) -> Result<u64> {
        let at = self.place(id);
        let length = entry_len(self.head(fs, id)?);
        if at.saturating_add(length) > self.limit {
            return Err(self.beyond(at, length));
        }
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| Error::corrupt(Part::Xattr, at, Problem::TooMany("shared xattrs")))?;
        // At most 65,796 bytes by the width of its fields.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        fs.read(Part::Xattr, &mut bytes, at)?;
        parse_entry(&bytes, at)?;
        Ok(length)
    }
}

/// The xattr body of an inode: ids of the pool, and the entries behind them.
struct Body {
    bytes: Vec<u8>,
    /// Where it starts in the image.
    at: u64,
    header: RawXattrHeader,
}

impl Body {
    /// `None` where there is none, or no xattr in it.
    fn read<R: ReadAt>(fs: &FileSystem<&R>, inode: &Inode) -> Result<Option<Self>> {
        if inode.xattr_len <= XATTR_HEADER_LEN {
            return Ok(None);
        }
        let at = inode.offset.saturating_add(inode.inode_len);
        // At most 262,148 bytes by the width of i_xattr_icount.
        let mut bytes = vec![0; usize::try_from(inode.xattr_len).unwrap_or(0)];
        fs.read(Part::Xattr, &mut bytes, at)?;
        let header = RawXattrHeader::read_from_prefix(&bytes).map(|(header, _)| header).unwrap_or_default();
        Ok(Some(Self { bytes, at, header }))
    }

    /// The ids, as many as there is room for, and what is behind them.
    fn split(&self) -> (&[[u8; 4]], &[u8]) {
        let rest = self.bytes.get(size_of::<RawXattrHeader>()..).unwrap_or_default();
        let count = usize::from(self.header.h_shared_count).min(rest.len() / 4);
        let (ids, entries) = rest.split_at_checked(count.saturating_mul(4)).unwrap_or_default();
        (ids.as_chunks().0, entries)
    }

    fn ids(&self) -> impl Iterator<Item = u64> {
        self.split().0.iter().map(|id| u32::from_le_bytes(*id).into())
    }

    /// Names of the entries that the body holds itself.
    fn names(&self) -> impl Iterator<Item = Result<Vec<u8>>> {
        let mut rest = self.split().1;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let done = self.bytes.len().saturating_sub(rest.len());
            let offset = self.at.saturating_add(u64::try_from(done).unwrap_or(0));
            match parse_entry(rest, offset) {
                Ok((xattr, after)) => {
                    rest = after;
                    Some(Ok(xattr.name))
                }
                Err(error) => {
                    rest = &[];
                    Some(Err(error))
                }
            }
        })
    }
}

impl Lint<'_> {
    /// The xattr body of an inode, but for the names that are in the pool.
    pub(super) fn check_xattrs<R: ReadAt>(&mut self, fs: &FileSystem<&R>, inode: &Inode) -> Result<()> {
        let about = About::Inode(inode.nid);
        let at = inode.offset.saturating_add(inode.inode_len);
        if inode.xattr_len == XATTR_HEADER_LEN {
            self.out.add(Part::Xattr, at, about, "xattr body without an xattr");
        }
        let Some(Some(body)) = self.out.take(Body::read(fs, inode), about)? else { return Ok(()) };
        let RawXattrHeader { h_name_filter, h_shared_count, h_reserved2 } = body.header;
        if h_name_filter.get() != 0 || h_reserved2 != [0; 7] {
            let problem = "name filter or reserved bytes of the body are not zero";
            self.out.add(Part::Xattr, at, about, problem);
        }
        if body.split().0.len() < h_shared_count.into() {
            let problem = format!("h_shared_count is {h_shared_count}, more than the body holds");
            self.out.add(Part::Xattr, at, about, problem);
        }
        for id in body.ids() {
            self.pool.used = true;
            let place = self.pool.place(id);
            if place.saturating_add(XATTR_ENTRY_LEN) > self.pool.limit {
                self.out.take::<()>(Err(self.pool.beyond(place, XATTR_ENTRY_LEN)), about)?;
            }
        }
        let mut names = Vec::new();
        for name in body.names() {
            names.extend(self.out.take(name, about)?);
        }
        self.check_twice(inode, names);
        Ok(())
    }

    fn check_twice(&mut self, inode: &Inode, mut names: Vec<Vec<u8>>) {
        names.sort_unstable();
        for pair in names.windows(2) {
            if let [first, second] = pair
                && first == second
            {
                let at = inode.offset.saturating_add(inode.inode_len);
                let problem = format!("{} is there twice", escape(second));
                self.out.add(Part::Xattr, at, About::Inode(inode.nid), problem);
            }
        }
    }

    /// No inode has the same name twice, counting those in the pool, which is sound.
    fn check_shared_names<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        for inode in fs.first_inodes(self.census.inodes) {
            let inode = inode?;
            let Some(body) = Body::read(fs, &inode)? else { continue };
            let (ids, entries) = body.split();
            // Most have a label that others have as well, and nothing beside it.
            if ids.is_empty() || (ids.len() == 1 && entries.is_empty()) {
                continue;
            }
            let mut names = Vec::new();
            for id in body.ids() {
                names.push(self.pool.name(fs, id)?);
            }
            for name in body.names() {
                names.push(name?);
            }
            self.check_twice(&inode, names);
        }
        Ok(())
    }

    /// The pool as a whole: entries one behind the other from its start on, each used.
    pub(super) fn check_pool<R: ReadAt>(&mut self, fs: &FileSystem<&R>) -> Result<()> {
        let Pool { start, limit, used, .. } = self.pool;
        if start < self.space.start || start > limit {
            let problem = "shared xattrs lie outside the metadata area";
            self.out.add(Part::Xattr, super::block0::at(0x2c), About::Nothing, problem);
            return Ok(());
        }
        if !used {
            if start != limit {
                let problem = "xattr_blkaddr must be the end of the metadata area when nothing is shared";
                self.out.add(Part::Xattr, super::block0::at(0x2c), About::Nothing, problem);
            }
            return Ok(());
        }
        let mut cursor = start;
        let ids = limit.saturating_sub(start) / 4;
        let mut first = 0;
        while first < ids {
            let end = first.saturating_add(WINDOW).min(ids);
            for id in used_ids(fs, self.census.inodes, first, end)? {
                let at = self.pool.place(id);
                let length = self.pool.check(fs, id);
                // One that is broken has no length.
                let Some(length) = self.out.take(length, About::Nothing)? else { continue };
                let problem = if at < cursor {
                    Some((at, format!("shared xattr {id} overlaps the one before")))
                } else {
                    let unused = at.saturating_sub(cursor);
                    let problem = format!("{unused} bytes of the shared xattrs are used by no inode");
                    (unused > 0).then_some((cursor, problem))
                };
                if let Some((offset, problem)) = problem {
                    self.out.add(Part::Xattr, offset, About::Nothing, problem);
                }
                cursor = cursor.max(at.saturating_add(length));
            }
            first = end;
        }
        self.check_gap(fs, cursor, limit)?;
        // Names of broken entries, and of such that overlap others, mean nothing.
        if self.out.count_of(Part::Xattr) == 0 { self.check_shared_names(fs) } else { Ok(()) }
    }
}

/// The ids from `first` up to `end` that the first `inodes` inodes refer to, ascending.
fn used_ids<R: ReadAt>(
    fs: &FileSystem<&R>,
    inodes: u64,
    first: u64,
    end: u64,
) -> Result<impl Iterator<Item = u64> + use<R>> {
    let words = end.saturating_sub(first).div_ceil(64);
    let mut bits = vec![0_u64; usize::try_from(words).unwrap_or(0)];
    for inode in fs.first_inodes(inodes) {
        let Some(body) = Body::read(fs, &inode?)? else { continue };
        for bit in body.ids().filter_map(|id| id.checked_sub(first)) {
            if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| bits.get_mut(word)) {
                *word |= 1 << (bit % 64);
            }
        }
    }
    let bits = bits.into_iter().enumerate().filter(|(_, word)| *word != 0);
    Ok(bits.flat_map(move |(index, word)| {
        let start = first.saturating_add(u64::try_from(index).unwrap_or(u64::MAX).saturating_mul(64));
        (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| start.saturating_add(bit))
    }))
}
