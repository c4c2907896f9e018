//! Extended attributes.

use zerocopy::FromBytes;

use super::raw::{RawXattrEntry, RawXattrHeader, XATTR_ENTRY_LEN};
use super::{FileSystem, Inode, XATTRS_MAX, escape};
use crate::{Error, Part, Problem, ReadAt, Result};

/// One extended attribute with its full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with prefix.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// How EROFS shortens a name: `e_name_index` and the suffix that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XattrClass<'a> {
    /// `EROFS_XATTR_INDEX_*`.
    pub index: u8,
    /// What is left of the name.
    pub suffix: &'a [u8],
}

/// Prefixes by index. The ACL names are whole: nothing is left to store.
const PREFIXES: [(u8, &[u8], bool); 6] = [
    (1, b"user.", false),
    (2, b"system.posix_acl_access", true),
    (3, b"system.posix_acl_default", true),
    (4, b"trusted.", false),
    (5, b"lustre.", false),
    (6, b"security.", false),
];

impl<'a> XattrClass<'a> {
    /// Shortens a name.
    ///
    /// A name outside every namespace of EROFS gets index 0 and stays whole; Linux does not show such a one.
    #[must_use]
    pub fn of(name: &'a [u8]) -> Self {
        for (index, prefix, whole) in PREFIXES {
            if let Some(suffix) = name.strip_prefix(prefix)
                && suffix.is_empty() == whole
            {
                return Self { index, suffix };
            }
        }
        Self { index: 0, suffix: name }
    }

    /// Whether Linux shows attributes of this class.
    #[must_use]
    pub const fn is_visible(self) -> bool {
        !matches!(self.index, 0 | 5)
    }
}

impl<R: ReadAt> FileSystem<R> {
    /// The xattrs of an inode, sorted by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the body or a shared entry breaks the format or a name occurs twice.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        if inode.xattr_len == 0 {
            return Ok(Vec::new());
        }
        let part = Part::Xattr;
        let at = inode.offset.saturating_add(inode.inode_len);
        // At most 12 + 4 * 65534 bytes, by the width of i_xattr_icount.
        let mut body = vec![0; usize::try_from(inode.xattr_len).unwrap_or(0)];
        self.read(part, &mut body, at)?;
        let (header, mut rest) = RawXattrHeader::read_from_prefix(&body)
            .map_err(|_| Error::field(part, at, "i_xattr_icount", 1, "0 or at least 12 bytes"))?;
        if header.h_reserved2 != [0; 7] {
            return Err(Error::field(part, at, "h_reserved2", 1, "0"));
        }
        let mut xattrs = Vec::new();
        let mut shared = 0_u64;
        for _ in 0..header.h_shared_count {
            let Some((id, after)) = rest.split_first_chunk::<4>() else {
                let found = header.h_shared_count.into();
                return Err(Error::field(
                    part,
                    at,
                    "h_shared_count",
                    found,
                    "no more ids than the body holds",
                ));
            };
            let xattr = self.shared_xattr(u32::from_le_bytes(*id))?;
            let length =
                u64::try_from(xattr.name.len().saturating_add(xattr.value.len())).unwrap_or(u64::MAX);
            shared = shared.saturating_add(length);
            if shared > XATTRS_MAX {
                return Err(Error::corrupt(
                    part,
                    at,
                    Problem::TooMany("bytes of shared xattrs in one inode"),
                ));
            }
            xattrs.push(xattr);
            rest = after;
        }
        while !rest.is_empty() {
            let left = u64::try_from(rest.len()).unwrap_or(0);
            let offset = at.saturating_add(inode.xattr_len).saturating_sub(left);
            let (xattr, after) = parse_entry(rest, offset)?;
            xattrs.push(xattr);
            rest = after;
        }
        xattrs.sort();
        let twice =
            xattrs.windows(2).find(|pair| pair.first().map(|a| &a.name) == pair.last().map(|b| &b.name));
        if let Some([first, ..]) = twice {
            let problem = Problem::Disagree(format!("{} is there twice", escape(&first.name)));
            return Err(Error::corrupt(part, at, problem));
        }
        Ok(xattrs)
    }

    /// Entry `id` of the shared pool.
    fn shared_xattr(&self, id: u32) -> Result<Xattr> {
        let part = Part::Xattr;
        let sb = self.superblock();
        let at = u64::from(sb.xattr_block)
            .saturating_mul(sb.block_size())
            .saturating_add(u64::from(id).saturating_mul(4));
        let mut head = [0; 4];
        self.read(part, &mut head, at)?;
        let (raw, _) = RawXattrEntry::read_from_prefix(&head)
            .map_err(|_| Error::corrupt(part, at, Problem::TooMany("shared xattrs")))?;
        let length = entry_len(raw);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(part, &mut bytes, at)?;
        parse_entry(&bytes, at).map(|(xattr, _)| xattr)
    }
}

/// Bytes that an entry takes, padding included.
pub(crate) fn entry_len(raw: RawXattrEntry) -> u64 {
    let length = u64::from(raw.e_name_len).saturating_add(raw.e_value_size.get().into());
    XATTR_ENTRY_LEN.saturating_add(length).next_multiple_of(4)
}

/// Takes one entry from the front of `bytes`, which stand at byte `at` of the image.
pub(crate) fn parse_entry(bytes: &[u8], at: u64) -> Result<(Xattr, &[u8])> {
    let part = Part::Xattr;
    let limit = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let beyond = |length| Error::corrupt(part, at, Problem::OutOfBounds { start: 0, length, limit });
    let (raw, rest) = RawXattrEntry::read_from_prefix(bytes).map_err(|_| beyond(XATTR_ENTRY_LEN))?;
    let length = entry_len(raw);
    let name_len = usize::from(raw.e_name_len);
    let value_len = usize::from(raw.e_value_size.get());
    let (Some(suffix), Some(value), Some(padding), Some(after)) = (
        rest.get(..name_len),
        name_len.checked_add(value_len).and_then(|end| rest.get(name_len..end)),
        name_len
            .checked_add(value_len)
            .zip(usize::try_from(length.saturating_sub(XATTR_ENTRY_LEN)).ok())
            .and_then(|(start, end)| rest.get(start..end)),
        usize::try_from(length).ok().and_then(|length| bytes.get(length..)),
    ) else {
        return Err(beyond(length));
    };
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Error::field(part, at, "padding", 1, "0"));
    }
    let mut name = match raw.e_name_index {
        0 => Vec::new(),
        index => match PREFIXES.iter().find(|(known, ..)| *known == index) {
            Some((_, prefix, whole)) if *whole == suffix.is_empty() => prefix.to_vec(),
            Some(_) => {
                let found = raw.e_name_len.into();
                return Err(Error::field(
                    part,
                    at,
                    "e_name_len",
                    found,
                    "0 for an ACL, at least 1 otherwise",
                ));
            }
            None => {
                let feature = format!("xattr prefix {index:#x}");
                return Err(Error::Unsupported { part, offset: at, feature });
            }
        },
    };
    name.extend_from_slice(suffix);
    if name.is_empty() || name.contains(&0) {
        return Err(Error::corrupt(part, at, Problem::Name(format!("\"{}\"", escape(&name)))));
    }
    // Linux hides index 0. A whole `user.x` under it would be seen here and not there.
    if XattrClass::of(&name).index != raw.e_name_index {
        let found = raw.e_name_index.into();
        return Err(Error::field(part, at, "e_name_index", found, "that of the namespace the name is in"));
    }
    Ok((Xattr { name, value: value.to_vec() }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_by_their_namespace() {
        for (name, index, suffix) in [
            (&b"user.a"[..], 1, &b"a"[..]),
            (b"system.posix_acl_access", 2, b""),
            (b"system.posix_acl_default", 3, b""),
            (b"trusted.x", 4, b"x"),
            (b"security.capability", 6, b"capability"),
            (b"user.", 0, b"user."),
            (b"system.posix_acl_accessory", 0, b"system.posix_acl_accessory"),
            (b"system.nfs4_acl", 0, b"system.nfs4_acl"),
        ] {
            assert_eq!(XattrClass::of(name), XattrClass { index, suffix });
        }
    }
}
