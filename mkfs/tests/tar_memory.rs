//! Endless archives: memory stays small however long they are. Alone in its process, because it looks at the peak.
#![allow(clippy::unwrap_used)]

mod tar_writer;

use std::io::{self, Read};

use mkimg_mkfs::tar::{Limits, Reader};
use tar_writer::{Head, extended, file, gnu_long, number, padded, record, sparse_1_0};

/// `piece` over and over behind `front`.
struct Endless {
    front: Vec<u8>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let source = if self.at < self.front.len() {
            &self.front[self.at..]
        } else {
            &self.piece[(self.at - self.front.len()) % self.piece.len()..]
        };
        let count = source.len().min(buf.len()).min(usize::try_from(self.left).unwrap());
        buf[..count].copy_from_slice(&source[..count]);
        self.at += count;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Peak resident memory of this process in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[test]
fn endless_archives_need_little_memory() {
    let Some(before) = peak() else {
        println!("skipped: no /proc/self/status");
        return;
    };
    let comment = record("comment", vec![b'c'; 1_000_000]);
    let lines: Vec<u8> = (0..80_000).flat_map(|at| record("uid", format!("{at}"))).collect();
    let entries = padded([[number(1, 12), number(0, 12)].concat().repeat(21), vec![1]].concat());
    let sparse = Head::new(b'S', "x").gnu().put(482, [1]).put(483, number(1 << 39, 12));
    let sparse =
        (0..4).fold(sparse, |head, at| head.put(386 + 24 * at, [number(0, 12), number(0, 12)].concat()));
    let none = Vec::new;
    let cases: [(&str, Vec<u8>, Vec<u8>); 9] = [
        ("global headers", none(), extended(b'g', &comment)),
        ("extended headers", none(), extended(b'x', &comment)),
        ("many records", none(), extended(b'x', &lines)),
        ("long names", none(), gnu_long(b'L', "n".repeat(1_000_000))),
        ("long links", none(), gnu_long(b'K', "n".repeat(1_000_000))),
        ("entries", none(), file("x", "data")),
        ("sparse extensions", sparse.block(), entries),
        ("sparse files", none(), sparse_1_0("x", 1 << 30, &[(1 << 20, 5)], b"12345")),
        ("one large file", Head::new(b'0', "x").size(1 << 39).block(), vec![0; 4096]),
    ];
    for (name, front, piece) in cases {
        let mut reader = Reader::new(Endless { front, piece, at: 0, left: 100 << 20 }, Limits::default());
        while let Ok(Some(_)) = reader.next_entry() {}
        // Only the map's limit ends a case early.
        assert!(reader.offset() > 20 << 20, "{name}: stopped at {}", reader.offset());
        let grown = peak().unwrap() - before;
        assert!(grown < 24 << 10, "{name}: {grown} KiB");
    }
}
