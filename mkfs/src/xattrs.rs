//! Xattrs on disk: bodies behind inodes, and the pool of those that more than one inode has.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use mkimg_format::erofs::XattrClass;
use mkimg_format::erofs::raw::{RawXattrEntry, RawXattrHeader, XATTR_ENTRY_LEN, XATTR_HEADER_LEN};
use zerocopy::IntoBytes as _;

use crate::entry::{XattrPair, XattrSet};

/// Longest xattr body: what `i_xattr_icount` can tell.
pub(crate) const BODY_MAX: u64 = XATTR_HEADER_LEN + 4 * (u16::MAX as u64 - 1);

/// Shared ids that one inode can name: `h_shared_count` is a byte.
const SHARED_MAX: usize = 255;

/// Bytes of one entry, padding included.
fn entry_len(name: &[u8], value: &[u8]) -> u64 {
    let suffix = XattrClass::of(name).suffix.len() as u64;
    (XATTR_ENTRY_LEN + suffix + value.len() as u64).next_multiple_of(4)
}

/// Bytes of a body that holds all these itself; 0 for none.
pub(crate) fn inline_len<'a>(xattrs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> u64 {
    let entries: u64 = xattrs.map(|(name, value)| entry_len(name, value)).sum();
    if entries == 0 { 0 } else { XATTR_HEADER_LEN + entries }
}

/// How each set of xattrs is stored.
pub(crate) struct XattrPlan {
    bodies: Vec<Body>,
    /// Entries of the pool, ascending.
    pool: Vec<XattrPair>,
    /// Length of the pool in bytes.
    pub pool_len: u64,
}

/// Body of one set.
#[derive(Default)]
struct Body {
    shared: Vec<u32>,
    inline: Vec<XattrPair>,
    len: u64,
}

impl XattrPlan {
    /// Puts every xattr that at least two inodes have into the pool; `uses` counts the inodes of each set.
    pub(crate) fn new(sets: &[Arc<[XattrPair]>], uses: &[u32]) -> Self {
        let mut counts: HashMap<&XattrPair, u32> = HashMap::new();
        for (set, uses) in sets.iter().zip(uses) {
            for pair in set.iter() {
                let count = counts.entry(pair).or_default();
                *count = count.saturating_add(*uses);
            }
        }
        let mut pool: Vec<XattrPair> =
            counts.into_iter().filter(|(_, uses)| *uses > 1).map(|(pair, _)| pair.clone()).collect();
        pool.sort_unstable();
        let mut ids = HashMap::new();
        let mut pool_len = 0;
        pool.retain(|(name, value)| {
            // Ids count 4-byte units in 32 bits; what lies beyond stays inline.
            let Ok(id) = u32::try_from(pool_len / 4) else { return false };
            ids.insert((name.clone(), value.clone()), id);
            pool_len += entry_len(name, value);
            true
        });
        let bodies = sets
            .iter()
            .zip(uses)
            .map(|(set, uses)| {
                let mut body = Body::default();
                if *uses == 0 {
                    return body;
                }
                for pair in set.iter() {
                    match ids.get(pair).filter(|_| body.shared.len() < SHARED_MAX) {
                        Some(id) => body.shared.push(*id),
                        None => body.inline.push(pair.clone()),
                    }
                }
                let inline: u64 = body.inline.iter().map(|(name, value)| entry_len(name, value)).sum();
                if !set.is_empty() {
                    body.len = XATTR_HEADER_LEN + 4 * body.shared.len() as u64 + inline;
                }
                body
            })
            .collect();
        Self { bodies, pool, pool_len }
    }

    /// Bytes behind an inode with this set.
    pub(crate) fn body_len(&self, set: XattrSet) -> u64 {
        self.bodies.get(set.0 as usize).map_or(0, |body| body.len)
    }

    /// Writes the body of a set.
    pub(crate) fn write_body(&self, set: XattrSet, out: &mut impl Write) -> io::Result<()> {
        let Some(body) = self.bodies.get(set.0 as usize).filter(|body| body.len > 0) else { return Ok(()) };
        let header = RawXattrHeader {
            h_shared_count: u8::try_from(body.shared.len()).unwrap_or(u8::MAX),
            ..RawXattrHeader::default()
        };
        out.write_all(header.as_bytes())?;
        for id in &body.shared {
            out.write_all(&id.to_le_bytes())?;
        }
        body.inline.iter().try_for_each(|pair| write_entry(pair, out))
    }

    /// Writes the pool.
    pub(crate) fn write_pool(&self, out: &mut impl Write) -> io::Result<()> {
        self.pool.iter().try_for_each(|pair| write_entry(pair, out))
    }
}

fn write_entry((name, value): &XattrPair, out: &mut impl Write) -> io::Result<()> {
    let class = XattrClass::of(name);
    // The scan has refused what these fields cannot tell.
    let entry = RawXattrEntry {
        e_name_len: u8::try_from(class.suffix.len()).map_err(io::Error::other)?,
        e_name_index: class.index,
        e_value_size: u16::try_from(value.len()).map_err(io::Error::other)?.into(),
    };
    out.write_all(entry.as_bytes())?;
    out.write_all(class.suffix)?;
    out.write_all(value)?;
    let length = entry.as_bytes().len() + class.suffix.len() + value.len();
    out.write_all(&[0; 3][..length.next_multiple_of(4) - length])
}
