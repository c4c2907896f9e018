//! A small tar writer for tests: every byte of a header can be chosen, right or wrong.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use mkimg_mkfs::tar::{Entry, Error, Limits, Reader};

pub const BLOCK: usize = 512;
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Octal where it fits, base-256 otherwise.
pub fn number(value: i128, width: usize) -> Vec<u8> {
    if (0..1 << (3 * (width - 1))).contains(&value) {
        return format!("{value:0w$o}\0", w = width - 1).into_bytes();
    }
    let mut field = value.to_be_bytes()[16 - width..].to_vec();
    field[0] = if value < 0 { 0xff } else { 0x80 };
    field
}

/// One header block under construction.
#[derive(Clone)]
pub struct Head(pub [u8; BLOCK]);

impl Head {
    /// A ustar header, mode 0644, owner 0:0, time 0.
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let mut head = Self([0; BLOCK]).put(257, b"ustar\x0000").name(name).mode(0o644).owner(0, 0).size(0);
        head.0[156] = kind;
        head.mtime(0)
    }

    pub fn put(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.put(0, name)
    }
    pub fn mode(self, mode: i128) -> Self {
        self.put(100, number(mode, 8))
    }
    pub fn owner(self, uid: i128, gid: i128) -> Self {
        self.put(108, number(uid, 8)).put(116, number(gid, 8))
    }
    pub fn size(self, size: i128) -> Self {
        self.put(124, number(size, 12))
    }
    pub fn mtime(self, mtime: i128) -> Self {
        self.put(136, number(mtime, 12))
    }
    pub fn link(self, link: impl AsRef<[u8]>) -> Self {
        self.put(157, link)
    }
    pub fn device(self, major: i128, minor: i128) -> Self {
        self.put(329, number(major, 8)).put(337, number(minor, 8))
    }
    pub fn gnu(self) -> Self {
        self.put(257, b"ustar  \0")
    }
    pub fn v7(self) -> Self {
        self.put(257, [0; 8])
    }

    /// The block with its checksum.
    pub fn block(mut self) -> Vec<u8> {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.checksum(sum.into())
    }

    /// The block with the given checksum.
    pub fn checksum(self, sum: i128) -> Vec<u8> {
        self.put(148, format!("{sum:06o}\0 ")).0.to_vec()
    }
}

pub fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

/// Header, size and data.
pub fn member(head: Head, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [head.size(i128::try_from(data.len()).unwrap()).block(), padded(data.to_vec())].concat()
}

pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Vec<u8> {
    member(Head::new(b'0', name), data)
}

pub fn record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let body = [b" ", key.as_ref(), b"=", value.as_ref(), b"\n"].concat();
    let mut len = body.len() + 1;
    while len.to_string().len() + body.len() != len {
        len += 1;
    }
    [len.to_string().into_bytes(), body].concat()
}

/// An extended header for the next member.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    extended(b'x', body)
}

pub fn extended(kind: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    member(Head::new(kind, "PaxHeaders/entry"), body)
}

/// GNU `L` (long name) or `K` (long link target).
pub fn gnu_long(kind: u8, text: impl AsRef<[u8]>) -> Vec<u8> {
    member(Head::new(kind, "././@LongLink").gnu(), [text.as_ref(), b"\0"].concat())
}

/// The form of PAX sparse files with the map in front of the data.
pub fn sparse_1_0(name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, len) in map {
        text += &format!("{offset}\n{len}\n");
    }
    let area = [padded(text.into_bytes()), data.to_vec()].concat();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", name),
        ("GNU.sparse.realsize", &size.to_string()),
    ];
    [pax(&records), file("GNUSparseFile.0/x", area)].concat()
}

/// The old GNU form.
pub fn sparse_gnu(name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let pairs: Vec<Vec<u8>> = map
        .iter()
        .map(|&(offset, len)| [number(offset.into(), 12), number(len.into(), 12)].concat())
        .collect();
    let (first, rest) = pairs.split_at(pairs.len().min(4));
    let head = Head::new(b'S', name)
        .gnu()
        .put(386, first.concat())
        .put(482, [u8::from(!rest.is_empty())])
        .put(483, number(size.into(), 12))
        .size(i128::try_from(data.len()).unwrap());
    let mut out = head.block();
    let blocks = rest.chunks(21).count();
    for (at, chunk) in rest.chunks(21).enumerate() {
        let mut block = chunk.concat();
        block.resize(504, 0);
        block.push(u8::from(at + 1 < blocks));
        out.extend(padded(block));
    }
    [out, padded(data.to_vec())].concat()
}

/// All entries and their stored data.
pub fn read_all(archive: impl std::io::Read) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    read_with(archive, Limits::default(), 100_000)
}

pub fn read_with(
    archive: impl std::io::Read,
    limits: Limits,
    piece: usize,
) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut reader = Reader::new(archive, limits);
    let mut out = Vec::new();
    let mut buffer = vec![0; piece];
    while let Some(entry) = reader.next_entry()? {
        assert_eq!(reader.offset(), entry.data_offset);
        let mut data = Vec::new();
        loop {
            match reader.read_data(&mut buffer)? {
                0 => break,
                count => data.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(data.len() as u64, entry.stored);
        out.push((entry, data));
    }
    assert_eq!(reader.next_entry()?, None);
    assert_eq!(reader.read_data(&mut buffer)?, 0);
    Ok(out)
}

/// Reads headers alone and skips all data; says how many entries there are.
pub fn skip_all(archive: impl std::io::Read) -> Result<usize, Error> {
    let mut reader = Reader::new(archive, Limits::default());
    let mut count = 0;
    while reader.next_entry()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// The content of an entry with its holes.
pub fn expanded(entry: &Entry, stored: &[u8]) -> Vec<u8> {
    let Some(segments) = &entry.sparse else { return stored.to_vec() };
    let mut out = vec![0; usize::try_from(entry.size).unwrap()];
    let (mut from, mut end) = (0, 0);
    for segment in segments {
        assert!(segment.len > 0 && segment.offset >= end);
        end = segment.offset + segment.len;
        let (at, len) = (usize::try_from(segment.offset).unwrap(), usize::try_from(segment.len).unwrap());
        out[at..at + len].copy_from_slice(&stored[from..from + len]);
        from += len;
    }
    assert!(end <= entry.size);
    assert_eq!(from, stored.len());
    out
}
