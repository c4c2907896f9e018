//! Which names are one inode.
//!
//! Only inodes that have several names in the image are kept here. What is kept of them does not depend on the order
//! in which their names are found.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mkimg_format::erofs::{Inode, Nid, escape};

use super::host::Identity;
use super::options::{Field, TreeOptions};
use super::report::Findings;
use crate::difference::{Difference, Kind};

/// Bytes of memory for all of it.
const HELD_MAX: usize = 16 << 20;
/// What one inode takes beside its path.
const OVERHEAD: usize = 128;

/// Inodes of the tree, by the inode of the image whose names they have.
#[derive(Default)]
pub(crate) struct Links {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    members: HashMap<(Nid, Identity), Member>,
    bytes: usize,
    overflow: bool,
}

struct Member {
    /// Names that lead to it.
    names: u32,
    /// Names that the system counts, as seen at `path`.
    nlink: u32,
    /// Names that the image has.
    expected: u32,
    /// The first of its names.
    path: Vec<u8>,
}

impl Links {
    /// Takes note of one name.
    pub(crate) fn add(&self, inode: &Inode, identity: Identity, nlink: u32, path: Vec<u8>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        if let Some(member) = held.members.get_mut(&(inode.nid, identity)) {
            member.names = member.names.saturating_add(1);
            if path < member.path {
                held.bytes = held.bytes.saturating_sub(member.path.len()).saturating_add(path.len());
                member.nlink = nlink;
                member.path = path;
            }
            return;
        }
        let bytes = held.bytes.saturating_add(path.len()).saturating_add(OVERHEAD);
        if bytes > HELD_MAX {
            held.overflow = true;
            return;
        }
        held.bytes = bytes;
        let member = Member { names: 1, nlink, expected: inode.nlink, path };
        held.members.insert((inode.nid, identity), member);
    }

    /// Reports broken links and links that should not be there, if they are compared at all; returns what could not be
    /// seen.
    pub(crate) fn finish(self, options: &TreeOptions<'_>, findings: &Findings) -> Option<String> {
        if !options.compares(Field::Links) {
            return None;
        }
        // When every name of the tree was looked at, a link that the system counts and that was not found cannot be
        // one that belongs there.
        let everything = options.ignore_paths.is_empty() && !findings.hides();
        let held = self.held.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut members: Vec<((Nid, Identity), Member)> = held.members.into_iter().collect();
        // By inode of the image, the one with most names first: the others have broken off from it.
        members.sort_unstable_by(|((nid, _), one), ((other_nid, _), other)| {
            (nid, std::cmp::Reverse(one.names), &one.path).cmp(&(
                other_nid,
                std::cmp::Reverse(other.names),
                &other.path,
            ))
        });
        let mut owners: HashMap<Identity, Vec<u8>> = HashMap::new();
        let mut group: Option<(Nid, Vec<u8>)> = None;
        for ((nid, identity), member) in members {
            if let Some((_, first)) = group.as_ref().filter(|(known, _)| *known == nid) {
                let expected = format!("hard link of {}", escape(first));
                findings
                    .add(Difference::new(member.path, Kind::Links).expected(expected).found("another inode"));
                continue;
            }
            group = Some((nid, member.path.clone()));
            if let Some(owner) = owners.get(&identity) {
                let found = format!("hard link of {}", escape(owner));
                findings
                    .add(Difference::new(member.path, Kind::Links).expected("another inode").found(found));
                continue;
            }
            owners.insert(identity, member.path.clone());
            let known = member.names == member.nlink;
            if !known && (everything || member.nlink != member.expected) {
                let found = format!("{} links, {} of them found in place", member.nlink, member.names);
                let expected = format!("{} links", member.expected);
                findings.add(Difference::new(member.path, Kind::Links).expected(expected).found(found));
            }
        }
        held.overflow.then(|| "hard links: more inodes with several names than can be held".to_owned())
    }
}
