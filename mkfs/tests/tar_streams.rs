//! Streams that are slow, broken or hostile: generated archives, mutated ones, and every failing read.
#![allow(clippy::unwrap_used)]

mod tar_writer;

use std::io::{self, Read};

use mkimg_mkfs::tar::{Entry, Error, Kind, Limits, Reader, Segment, Time};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tar_writer::{
    END, Head, extended, file, gnu_long, member, pax, read_all, read_with, record, sparse_1_0, sparse_gnu,
};

/// Hands out 1 to `most` bytes at a time.
struct Short<'a> {
    data: &'a [u8],
    most: usize,
    turn: usize,
}

impl Read for Short<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = (self.turn % self.most + 1).min(buf.len());
        self.data.read(&mut buf[..count])
    }
}

/// Fails at the n-th read of 100 bytes.
struct Failing<'a> {
    data: &'a [u8],
    left: usize,
}

impl Read for Failing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
        let count = buf.len().min(100);
        self.data.read(&mut buf[..count])
    }
}

/// A bit of everything.
fn sample() -> Vec<u8> {
    [
        extended(b'g', record("comment", "x")),
        pax(&[("mtime", "1.5"), ("SCHILY.xattr.user.a", "value")]),
        file("first", vec![b'x'; 3000]),
        Head::new(b'5', "dir/").block(),
        gnu_long(b'L', "n".repeat(150)),
        gnu_long(b'K', "t".repeat(150)),
        Head::new(b'2', "link").block(),
        sparse_gnu(
            "old",
            100_000,
            &(0..30).map(|at| (at * 2048, 512)).collect::<Vec<_>>(),
            &[b'y'; 30 * 512],
        ),
        sparse_1_0("new", 100_000, &(0..100).map(|at| (at * 900, 5)).collect::<Vec<_>>(), &[b'z'; 500]),
        Head::new(b'3', "device").device(1, 3).block(),
        member(Head::new(b'0', "last"), "data"),
        END.to_vec(),
    ]
    .concat()
}

#[test]
fn short_reads_change_nothing() {
    let archive = sample();
    let whole = read_all(&archive[..]).unwrap();
    assert_eq!(whole.len(), 7);
    for most in [1, 2, 3, 7, 100, 511, 512, 513, 4096] {
        for piece in [1, 100, 200_000] {
            let short = Short { data: &archive, most, turn: 0 };
            assert_eq!(read_with(short, Limits::default(), piece).unwrap(), whole);
        }
    }
}

#[test]
fn every_failing_read_is_reported_as_such() {
    let archive = sample();
    let reads = archive.len().div_ceil(100);
    let mut failed = 0;
    for left in 0..reads + 2 {
        match read_all(Failing { data: &archive, left }) {
            Err(Error::Io { offset, source }) => {
                assert_eq!(source.to_string(), "the disk is gone");
                assert!(offset <= (left * 100).min(archive.len()) as u64);
                failed += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(entries) => assert_eq!(entries.len(), 7),
        }
    }
    // The end marker's blocks are the last that are read.
    assert_eq!(failed, reads);
}

#[test]
fn unread_data_is_skipped() {
    let archive = sample();
    let whole = read_all(&archive[..]).unwrap();
    for part in [0, 1, 511, 512, 700] {
        let mut reader = Reader::new(&archive[..], Limits::default());
        for (entry, data) in &whole {
            assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
            let mut piece = vec![0; part];
            let count = reader.read_data(&mut piece).unwrap();
            assert_eq!(piece[..count], data[..count]);
            assert_eq!(count, part.min(data.len()));
        }
        assert_eq!(reader.next_entry().unwrap(), None);
    }
}

#[test]
fn large_reads_go_past_the_buffer() {
    struct Sizes<'a>(&'a [u8], Vec<usize>);
    impl Read for Sizes<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1.push(buf.len());
            self.0.read(buf)
        }
    }
    let archive = [file("big", vec![7; 5 << 20]), END.to_vec()].concat();
    let mut reader = Reader::new(Sizes(&archive, Vec::new()), Limits::default());
    let entry = reader.next_entry().unwrap().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    while let count @ 1.. = reader.read_data(&mut buffer).unwrap() {
        assert!(buffer[..count].iter().all(|&byte| byte == 7));
        total += count as u64;
    }
    assert_eq!(total, entry.stored);
    let sizes = reader.into_inner().1;
    assert!(sizes.len() <= 8 && sizes[1..5].iter().all(|&size| size == 1 << 20), "{sizes:?}");
    // Without interest in the data no piece is tiny either.
    let mut reader = Reader::new(Sizes(&archive, Vec::new()), Limits::default());
    while reader.next_entry().unwrap().is_some() {}
    assert!(reader.into_inner().1.iter().all(|&size| size >= 128 << 10));
}

#[test]
fn mutated_samples_never_panic() {
    let archive = sample();
    for at in 0..archive.len() {
        // Data and padding prove nothing; headers, maps and records do.
        if at % 512 > 64 && at % 7 != 0 {
            continue;
        }
        for byte in [0, b'9', 0xff, archive[at] ^ 1] {
            let mut bad = archive.clone();
            bad[at] = byte;
            let start = at / 512 * 512;
            drop(read_all(&bad[start..]));
            // The same with a checksum that fits, so that the fields are looked at.
            if let Some(Ok(block)) = bad.get(start..start + 512).map(TryInto::try_into) {
                let sealed = Head(block).block();
                bad[start..start + 512].copy_from_slice(&sealed);
                drop(read_all(&bad[start..]));
            }
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = vec(1..=255u8, 1..60).prop_map(|mut part| {
        part.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
        part
    });
    vec(part, 1..6).prop_map(|parts| parts.join(&b'/'))
}

#[derive(Debug, Clone)]
struct Made {
    entry: Entry,
    data: Vec<u8>,
    /// GNU long names and base-256 instead of PAX.
    gnu: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let kind = prop_oneof![
        4 => Just(Kind::File),
        1 => Just(Kind::Hardlink),
        1 => Just(Kind::Symlink),
        1 => Just(Kind::Char),
        1 => Just(Kind::Block),
        1 => Just(Kind::Dir),
        1 => Just(Kind::Fifo),
    ];
    let xattrs = btree_map(vec(1..=255u8, 1..20), vec(any::<u8>(), 0..40), 0..4).prop_map(|map| {
        let mut map = map;
        map.retain(|name, _| !name.contains(&b'='));
        map.into_iter().collect::<Vec<_>>()
    });
    let numbers = (0..0o10000u32, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32);
    let sparse = proptest::option::of(vec((1..5000u64, 1..700u64), 0..40));
    (
        kind,
        name(),
        name(),
        numbers,
        (0..4096u32, 0..1u32 << 20),
        xattrs,
        vec(any::<u8>(), 0..3000),
        sparse,
        any::<bool>(),
    )
        .prop_map(|(kind, path, link, (mode, uid, gid, sec, nsec), rdev, xattrs, data, sparse, gnu)| {
            let is_link = matches!(kind, Kind::Hardlink | Kind::Symlink);
            let mut data = if kind == Kind::File { data } else { Vec::new() };
            let mut size = data.len() as u64;
            let mut segments = None;
            if let Some(parts) = sparse.filter(|_| kind == Kind::File) {
                let mut at = 0;
                let placed = parts.iter().map(|&(hole, len)| {
                    let segment = Segment { offset: at + hole, len };
                    at += hole + len;
                    segment
                });
                let placed: Vec<_> = placed.collect();
                let stored = placed.iter().map(|segment| usize::try_from(segment.len).unwrap()).sum();
                data.resize(stored, b's');
                size = at + 17;
                segments = Some(placed);
            }
            let entry = Entry {
                path,
                kind,
                link: if is_link { link } else { Vec::new() },
                mode,
                uid,
                gid,
                mtime: Time { sec, nsec: if gnu { 0 } else { nsec } },
                rdev: if matches!(kind, Kind::Char | Kind::Block) { rdev } else { (0, 0) },
                size,
                stored: data.len() as u64,
                sparse: segments,
                xattrs: if gnu { Vec::new() } else { xattrs },
                header_offset: 0,
                data_offset: 0,
            };
            Made { entry, data, gnu }
        })
}

fn decimal(time: Time) -> String {
    let nanos = i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Writes an entry; fills in its offsets.
fn write(out: &mut Vec<u8>, made: &mut Made) {
    let Made { entry, data, gnu } = made;
    entry.header_offset = out.len() as u64;
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::Hardlink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    };
    let map: Option<Vec<(u64, u64)>> =
        entry.sparse.as_ref().map(|segments| segments.iter().map(|s| (s.offset, s.len)).collect());
    let head = Head::new(kind, "").mode(entry.mode.into()).device(entry.rdev.0.into(), entry.rdev.1.into());
    if *gnu {
        out.extend(gnu_long(b'L', &entry.path));
        if !entry.link.is_empty() {
            out.extend(gnu_long(b'K', &entry.link));
        }
        let head = head.gnu().owner(entry.uid.into(), entry.gid.into()).mtime(entry.mtime.sec.into());
        let Some(map) = map else {
            out.extend(member(head, &data));
            entry.data_offset = (out.len() - data.len().next_multiple_of(512)) as u64;
            return;
        };
        // The map of a made-up header under the real fields.
        let mut whole = sparse_gnu("", entry.size, &map, data);
        let mut block: [u8; 512] = whole[..512].try_into().unwrap();
        block[..124].copy_from_slice(&head.0[..124]);
        block[136..148].copy_from_slice(&head.0[136..148]);
        whole[..512].copy_from_slice(&Head(block).block());
        out.extend(whole);
    } else {
        let mut records = vec![
            record("uid", entry.uid.to_string()),
            record("gid", entry.gid.to_string()),
            record("mtime", decimal(entry.mtime)),
        ];
        if !entry.link.is_empty() {
            records.push(record("linkpath", &entry.link));
        }
        for (name, value) in entry.xattrs.iter().rev() {
            records.push(record([b"SCHILY.xattr.", &name[..]].concat(), value));
        }
        let mut area = data.clone();
        if let Some(map) = map {
            records.push(record("GNU.sparse.name", &entry.path));
            let text = |separator: &str| {
                let numbers = map.iter().flat_map(|&(offset, len)| [offset.to_string(), len.to_string()]);
                numbers.collect::<Vec<_>>().join(separator)
            };
            records.push(record("GNU.sparse.size", entry.size.to_string()));
            // The size decides the form, so that all three come up.
            match entry.size % 3 {
                0 => {
                    records.push(record("GNU.sparse.major", "1"));
                    let lines =
                        format!("{}\n{}{}", map.len(), text("\n"), if map.is_empty() { "" } else { "\n" });
                    area = [tar_writer::padded(lines.into_bytes()), area].concat();
                }
                1 => {
                    records.push(record("GNU.sparse.numblocks", map.len().to_string()));
                    records.push(record("GNU.sparse.map", text(",")));
                }
                _ => {
                    records.push(record("GNU.sparse.numblocks", map.len().to_string()));
                    for (offset, len) in map {
                        records.push(record("GNU.sparse.offset", offset.to_string()));
                        records.push(record("GNU.sparse.numbytes", len.to_string()));
                    }
                }
            }
        } else {
            records.push(record("path", &entry.path));
        }
        out.extend(extended(b'x', records.concat()));
        out.extend(member(head, area));
    }
    entry.data_offset = (out.len() - data.len().next_multiple_of(512)) as u64;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(mut list in vec(made(), 0..6), most in 1..2000usize) {
        let mut archive = Vec::new();
        for made in &mut list {
            write(&mut archive, made);
        }
        archive.extend(END);
        let wanted: Vec<_> = list.into_iter().map(|made| (made.entry, made.data)).collect();
        prop_assert_eq!(&read_all(&archive[..]).unwrap(), &wanted);
        let short = Short { data: &archive, most, turn: 0 };
        prop_assert_eq!(&read_with(short, Limits::default(), most).unwrap(), &wanted);
    }

    #[test]
    fn arbitrary_headers_never_panic(mut bytes in vec(any::<u8>(), 512..4096), kind in any::<u8>(), ascii in any::<bool>()) {
        if ascii {
            bytes.iter_mut().for_each(|byte| *byte = b"01234567 \0\n=,xLg.-"[usize::from(*byte) % 18]);
        }
        let mut block: [u8; 512] = bytes[..512].try_into().unwrap();
        block[156] = if ascii { b"0123456xgLKS"[usize::from(kind) % 12] } else { kind };
        bytes[..512].copy_from_slice(&Head(block).block());
        if let Ok(entries) = read_all(&bytes[..]) {
            prop_assert!(entries.len() <= bytes.len() / 512);
        }
    }

    #[test]
    fn arbitrary_records_never_panic(pairs in vec((0..14usize, vec(any::<u8>(), 0..12), any::<u64>(), 0..3u8), 0..8), body in vec(any::<u8>(), 0..600)) {
        const KEYS: [&str; 14] = ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.user.a", "LIBARCHIVE.xattr.a",
            "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.offset", "GNU.sparse.numbytes"];
        let mut records = Vec::new();
        for (key, bytes, number, how) in pairs {
            let value = match how {
                0 => bytes,
                1 => (number % 3).to_string().into_bytes(),
                _ => number.to_string().into_bytes(),
            };
            records.extend(record(KEYS[key], value));
        }
        drop(read_all(&[extended(b'x', &records), file("x", &body), END.to_vec()].concat()[..]));
        drop(read_all(&[extended(b'x', &body), file("x", &records), END.to_vec()].concat()[..]));
    }
}
