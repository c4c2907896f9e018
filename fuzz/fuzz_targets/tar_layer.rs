//! Any bytes as a layer's tar.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use mkimg_fuzz::{assert_one_line, flags, tar};
use mkimg_mkfs::tar::{Entry, Kind, Limits, Reader};

/// Bits of the flags; the lowest five choose the sizes of reads.
const MEND: u8 = 0x80;
const TIGHT: u8 = 0x40;

const BLOCK: usize = 512;

/// What one reading yields.
#[derive(Debug, PartialEq)]
struct Reading {
    entries: Vec<(Entry, Vec<u8>)>,
    error: Option<String>,
    /// Bytes consumed.
    end: u64,
}

/// Hands out a few bytes at a time.
struct Slow<'a> {
    rest: &'a [u8],
    most: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = self.most.min(buf.len());
        self.rest.read(&mut buf[..most])
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let mut bytes = input.to_vec();
    if flags & MEND != 0 {
        tar::mend(&mut bytes);
    }
    let limits = if flags & TIGHT != 0 { tight() } else { Limits::default() };
    let whole = read(&bytes[..], &limits, 1 << 16);
    whole.entries.iter().for_each(|(entry, data)| check(entry, data, &limits, bytes.len()));

    // However the bytes arrive and are asked for, they mean the same.
    let most = 1 + usize::from(flags & 0x1f) * 37;
    assert_eq!(read(Slow { rest: &bytes, most }, &limits, most * 3), whole, "reads of {most} bytes");
    skip(&bytes, &limits, &whole);
    concatenate(&bytes, &limits, &whole);
});

fn tight() -> Limits {
    Limits {
        pax_bytes: 700,
        path: 60,
        name: 20,
        symlink: 30,
        xattr_name: 12,
        xattr_value: 40,
        sparse_entries: 3,
        file_size: 5000,
    }
}

fn read(archive: impl Read, limits: &Limits, piece: usize) -> Reading {
    let mut reader = Reader::new(archive, limits.clone());
    let mut reading = Reading { entries: Vec::new(), error: None, end: 0 };
    let mut buffer = vec![0; piece];
    let error = 'archive: loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        assert_eq!(reader.offset(), entry.data_offset);
        let mut data = Vec::new();
        loop {
            match reader.read_data(&mut buffer) {
                Ok(0) => break,
                Ok(count) => data.extend_from_slice(&buffer[..count]),
                Err(error) => break 'archive Some(error),
            }
        }
        assert_eq!(data.len() as u64, entry.stored);
        reading.entries.push((entry, data));
    };
    reading.end = reader.offset();
    match error {
        Some(error) => {
            assert_one_line(&error);
            assert!(
                reader.next_entry().is_err() && reader.read_data(&mut buffer).is_err(),
                "goes on after {error}"
            );
            reading.error = Some(error.to_string());
        }
        None => {
            assert!(matches!(reader.next_entry(), Ok(None)), "an end that is none");
            assert!(matches!(reader.read_data(&mut buffer), Ok(0)), "data behind the end");
        }
    }
    reading
}

fn check(entry: &Entry, data: &[u8], limits: &Limits, archive: usize) {
    assert!(entry.path.len() <= limits.path && !entry.path.contains(&0));
    assert!(entry.path.split(|byte| *byte == b'/').all(|name| name.len() <= limits.name));
    let link_max = if entry.kind == Kind::Symlink { limits.symlink } else { limits.path };
    assert!(entry.link.len() <= link_max && !entry.link.contains(&0));
    assert_eq!(entry.link.is_empty(), !matches!(entry.kind, Kind::Symlink | Kind::Hardlink));
    assert!(entry.mode <= 0o7777 && entry.mtime.nsec < 1_000_000_000);
    assert!(entry.rdev.0 < 1 << 12 && entry.rdev.1 < 1 << 20);
    assert!(entry.rdev == (0, 0) || matches!(entry.kind, Kind::Char | Kind::Block));
    assert!(entry.size <= limits.file_size && entry.stored <= entry.size);
    assert!(entry.kind == Kind::File || (entry.size == 0 && data.is_empty() && entry.sparse.is_none()));
    assert!(entry.header_offset.is_multiple_of(512) && entry.header_offset < entry.data_offset);
    assert!(entry.data_offset.is_multiple_of(512));
    assert!(entry.data_offset + entry.stored <= archive as u64);
    assert!(entry.xattrs.is_sorted_by(|a, b| a.0 < b.0));
    for (name, value) in &entry.xattrs {
        assert!(!name.is_empty() && name.len() <= limits.xattr_name && !name.contains(&0), "{name:?}");
        assert!(value.len() <= limits.xattr_value);
    }
    match &entry.sparse {
        None => assert_eq!(entry.stored, entry.size),
        Some(segments) => {
            assert!(segments.len() <= limits.sparse_entries);
            let (mut end, mut sum) = (None, 0);
            for segment in segments {
                assert!(segment.len > 0 && end.is_none_or(|end| end < segment.offset), "{segments:?}");
                end = Some(segment.offset + segment.len);
                sum += segment.len;
            }
            assert!(end.unwrap_or(0) <= entry.size && sum == entry.stored, "{segments:?}");
        }
    }
}

/// Data that nobody reads changes nothing.
fn skip(bytes: &[u8], limits: &Limits, whole: &Reading) {
    let mut reader = Reader::new(bytes, limits.clone());
    for (entry, _) in &whole.entries {
        assert_eq!(reader.next_entry().expect("was read before").as_ref(), Some(entry));
    }
    // The last entry may be the one whose data is cut: then its header comes first.
    let error = loop {
        match reader.next_entry() {
            Ok(None) => break None,
            Ok(Some(_)) => {}
            Err(error) => break Some(error.to_string()),
        }
    };
    assert_eq!(error, whole.error);
}

/// What follows an end marker does not matter; without one, an archive goes on in the next.
fn concatenate(bytes: &[u8], limits: &Limits, whole: &Reading) {
    if whole.error.is_some() || !bytes.len().is_multiple_of(BLOCK) {
        return;
    }
    let end = usize::try_from(whole.end).expect("64-bit machines");
    let marker = end.checked_sub(2 * BLOCK).is_some_and(|start| {
        let behind = whole.entries.last().map_or(0, |(entry, _)| entry.data_offset + entry.stored);
        start as u64 >= behind && bytes[start..end].iter().all(|byte| *byte == 0)
    });
    let lone = bytes.len() >= BLOCK && bytes[bytes.len() - BLOCK..].iter().all(|byte| *byte == 0);
    let twice = read(&[bytes, bytes].concat()[..], limits, 1 << 16);
    if marker {
        assert_eq!(&twice, whole, "bytes behind the end marker matter");
    } else if !lone && end == bytes.len() {
        assert_eq!(twice.error, None);
        let (first, second) = twice.entries.split_at(whole.entries.len());
        assert!(first == whole.entries && second.len() == first.len(), "an archive does not go on");
        for ((a, data_a), (b, data_b)) in first.iter().zip(second) {
            let mut moved = a.clone();
            moved.header_offset += end as u64;
            moved.data_offset += end as u64;
            assert!(moved == *b && data_a == data_b, "{a:?} becomes {b:?}");
        }
    }
}
