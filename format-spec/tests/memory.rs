//! Memory of the linter does not depend on the number of inodes. Alone in its process, because it looks at the peak.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use mkimg_format::erofs::raw::{RawCompactInode, RawDirent};
use mkimg_format::erofs::{Features, SuperblockFields};
use mkimg_format::header::Header;
use mkimg_format::lint::{Finding, lint};
use mkimg_format::{BLOCK_LEN, ReadAt};
use zerocopy::IntoBytes as _;

/// Bytes of a name and its entry.
const ENTRY: u64 = 12 + 8;
/// Names in a full block, and in the first one, which has `.` and `..` as well.
const NAMES: u64 = 4096 / ENTRY;
const FIRST: u64 = (4096 - 13 - 14) / ENTRY;
/// First slot behind the root, whose last name stands behind its inode.
const SLOT: u64 = 3;

/// An image that is computed where it is read: one directory of fifos.
struct Wide {
    /// Full blocks of the directory.
    blocks: u64,
    /// Names of each inode.
    links: u64,
    /// The inode that says otherwise, and what it says.
    liar: (u64, u16),
    recent: RefCell<HashMap<u64, Vec<u8>>>,
}

impl Wide {
    fn new(blocks: u64, links: u64, liar: (u64, u16)) -> Self {
        Self { blocks, links, liar, recent: RefCell::default() }
    }

    /// In the blocks, and one behind the inode.
    fn names(&self) -> u64 {
        FIRST + (self.blocks - 1) * NAMES + 1
    }

    fn inodes(&self) -> u64 {
        self.names().div_ceil(self.links)
    }

    fn bodies(&self) -> u64 {
        1 + (SLOT + self.inodes()).div_ceil(128)
    }

    fn header(&self) -> Header {
        let seal_block = self.bodies() + self.blocks;
        Header { data_blocks: seal_block + 1, meta_block: 1, seal_block, fec_blocks: 0, fec_roots: 0 }
    }

    /// Names `first..end`, behind `.` and `..` in the first block.
    fn entries(&self, first: u64, end: u64, dots: bool) -> Vec<u8> {
        let mut list: Vec<(String, u64, u8)> = Vec::new();
        if dots {
            list.extend([(".".to_owned(), 1, 2), ("..".to_owned(), 1, 2)]);
        }
        list.extend((first..end).map(|name| (format!("{name:08}"), SLOT + name / self.links, 5)));
        let mut nameoff = 12 * list.len() as u16;
        let (mut heads, mut names) = (Vec::new(), Vec::new());
        for (name, nid, file_type) in list {
            let raw = RawDirent { nid: nid.into(), nameoff: nameoff.into(), file_type, reserved: 0 };
            heads.extend_from_slice(raw.as_bytes());
            names.extend_from_slice(name.as_bytes());
            nameoff += name.len() as u16;
        }
        [heads, names].concat()
    }

    fn inode(&self, slot: u64) -> Vec<u8> {
        let Some(index) = slot.checked_sub(SLOT).filter(|index| *index < self.inodes()) else {
            return vec![0; 32];
        };
        let links = self.links.min(self.names() - index * self.links) as u16;
        let raw = RawCompactInode {
            i_mode: 0o010_644.into(),
            i_nlink: if self.liar.0 == index { self.liar.1 } else { links }.into(),
            i_ino: (slot as u32).into(),
            ..Default::default()
        };
        raw.as_bytes().to_vec()
    }

    fn block(&self, block: u64) -> Vec<u8> {
        let header = self.header();
        let mut bytes = vec![0; BLOCK_LEN];
        if block == 0 {
            bytes[..512].copy_from_slice(&header.to_bytes());
            let fields = SuperblockFields {
                root: 1,
                inodes: self.inodes() + 1,
                epoch: 0,
                fixed_nsec: 0,
                blocks: header.data_blocks as u32,
                meta_block: 1,
                xattr_block: header.seal_block as u32,
                uuid: [0; 16],
                volume_name: [0; 16],
                packed: None,
                features: Features::default(),
            };
            fields.write(bytes.first_chunk_mut().unwrap());
        } else if block < self.bodies() {
            let slots = (block - 1) * 128..block * 128;
            bytes = slots.flat_map(|slot| self.inode(slot)).collect();
            if block == 1 {
                let root = RawCompactInode {
                    i_format: 4.into(),
                    i_mode: 0o040_755.into(),
                    i_nlink: 2.into(),
                    i_size: ((self.blocks * 4096 + ENTRY) as u32).into(),
                    i_u: (self.bodies() as u32).into(),
                    i_ino: 1.into(),
                    ..Default::default()
                };
                let unit = [root.as_bytes(), &self.entries(self.names() - 1, self.names(), false)].concat();
                bytes[32..32 + unit.len()].copy_from_slice(&unit);
            }
        } else if block < header.seal_block {
            let number = block - self.bodies();
            let end = FIRST + number * NAMES;
            let entries = self.entries(if number == 0 { 0 } else { end - NAMES }, end, number == 0);
            bytes[..entries.len()].copy_from_slice(&entries);
        }
        bytes
    }

    fn lint(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        lint(self, &self.header(), &mut |finding| findings.push(finding)).unwrap();
        findings
    }
}

impl ReadAt for Wide {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut recent = self.recent.borrow_mut();
        let mut done = 0;
        while done < buf.len() {
            let (block, skip) = ((offset + done as u64) / 4096, (offset as usize + done) % BLOCK_LEN);
            let room = (BLOCK_LEN - skip).min(buf.len() - done);
            if recent.len() > 64 {
                recent.clear();
            }
            let bytes = recent.entry(block).or_insert_with(|| self.block(block));
            buf[done..done + room].copy_from_slice(&bytes[skip..skip + room]);
            done += room;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.header().data_blocks * 4096)
    }
}

/// Peak resident memory of this process in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[test]
fn a_million_inodes_need_no_more_memory_than_ten() {
    const NOBODY: (u64, u16) = (u64::MAX, 0);
    assert_eq!(Wide::new(1, 1, NOBODY).lint(), []);
    let Some(before) = peak() else {
        println!("skipped: no /proc/self/status");
        return;
    };
    assert_eq!(Wide::new(5000, 1, NOBODY).lint(), []);
    let plain = peak().unwrap() - before;
    assert!(plain < 4 << 10, "{plain} KiB for 1,020,000 inodes of one name");
    // More inodes of two names than are counted in one go; one of the second lot lies.
    let linked = Wide::new(11_000, 2, (1_100_000, 7));
    let findings = linked.lint();
    let found: Vec<&str> = findings.iter().map(|finding| finding.problem.as_str()).collect();
    assert_eq!(found, ["i_nlink is 7, 2 links were found"]);
    assert_eq!(findings[0].path.as_deref(), Some(&b"/02200000"[..]));
    let linked = peak().unwrap() - before;
    assert!(linked < 20 << 10, "{linked} KiB for 1,122,000 inodes of two names");
}
