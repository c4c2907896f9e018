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

/// Shared ids that one inode can name: `h_shared_count` is a byte. A set with more xattrs shares none of them.
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
    /// The sets themselves, by [`XattrSet`].
    sets: Vec<Arc<[XattrPair]>>,
    bodies: Vec<Body>,
    /// Entries of the pool, ascending: set, and position in it.
    pool: Vec<(u32, u32)>,
    /// Length of the pool in bytes.
    pub pool_len: u64,
}

/// Body of one set.
#[derive(Default)]
struct Body {
    /// Ids in the pool, in the order of the set.
    shared: Box<[u32]>,
    /// Positions in the set of those that stand in the body itself.
    inline: Box<[u32]>,
    len: u64,
}

impl XattrPlan {
    /// Puts every xattr that at least two inodes have into the pool; `uses` counts the inodes of each set.
    pub(crate) fn new(sets: &[Arc<[XattrPair]>], uses: &[u32]) -> Self {
        // Every occurrence, sorted by what it is: equal ones stand together.
        let pair = |(set, position): (u32, u32)| &sets[set as usize][position as usize];
        let mut all: Vec<(u32, u32)> = (0_u32..)
            .zip(sets.iter().zip(uses))
            .filter(|(_, (pairs, uses))| **uses > 0 && pairs.len() <= SHARED_MAX)
            .flat_map(|(set, (pairs, _))| {
                (0_u32..).zip(pairs.iter()).map(move |(position, _)| (set, position))
            })
            .collect();
        all.sort_unstable_by(|a, b| pair(*a).cmp(pair(*b)).then(a.cmp(b)));
        let mut pool = Vec::new();
        let mut pool_len = 0;
        let mut ids: HashMap<(u32, u32), u32> = HashMap::new();
        for same in all.chunk_by(|a, b| pair(*a) == pair(*b)) {
            let inodes: u64 = same.iter().map(|(set, _)| u64::from(uses[*set as usize])).sum();
            // Ids count 4-byte units in 32 bits; what lies beyond stays inline.
            let (true, Ok(id)) = (inodes > 1, u32::try_from(pool_len / 4)) else { continue };
            let (name, value) = pair(same[0]);
            pool.push(same[0]);
            pool_len += entry_len(name, value);
            ids.extend(same.iter().map(|occurrence| (*occurrence, id)));
        }
        let bodies = (0_u32..)
            .zip(sets.iter().zip(uses))
            .map(|(set, (pairs, uses))| {
                if *uses == 0 || pairs.is_empty() {
                    return Body::default();
                }
                let (mut shared, mut inline) = (Vec::new(), Vec::new());
                let mut len = XATTR_HEADER_LEN;
                for (position, (name, value)) in (0_u32..).zip(pairs.iter()) {
                    match ids.get(&(set, position)) {
                        Some(id) => {
                            shared.push(*id);
                            len += 4;
                        }
                        None => {
                            inline.push(position);
                            len += entry_len(name, value);
                        }
                    }
                }
                Body { shared: shared.into(), inline: inline.into(), len }
            })
            .collect();
        Self { sets: sets.to_vec(), bodies, pool, pool_len }
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
        body.inline.iter().try_for_each(|position| self.write(set.0, *position, out))
    }

    /// Writes the pool.
    pub(crate) fn write_pool(&self, out: &mut impl Write) -> io::Result<()> {
        self.pool.iter().try_for_each(|(set, position)| self.write(*set, *position, out))
    }

    fn write(&self, set: u32, position: u32, out: &mut impl Write) -> io::Result<()> {
        write_entry(&self.sets[set as usize][position as usize], out)
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
