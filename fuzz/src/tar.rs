//! A small tar writer, and checksums for headers that a fuzzer has changed.

const BLOCK: usize = 512;

/// Two blocks of zeros.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Octal where it fits, base-256 otherwise.
fn number(value: u64, width: usize) -> Vec<u8> {
    if value >> (3 * (width - 1)).min(63) == 0 {
        return format!("{value:0w$o}\0", w = width - 1).into_bytes();
    }
    let mut field = u128::from(value).to_be_bytes()[16 - width..].to_vec();
    field[0] |= 0x80;
    field
}

/// One header block under construction.
#[derive(Clone)]
pub struct Head([u8; BLOCK]);

impl Head {
    /// A ustar header: mode 0644, owner 0:0, time 0. A name is cut at 100 bytes.
    pub fn new(kind: u8, name: &[u8]) -> Self {
        let head = Self([0; BLOCK]).put(257, b"ustar\x0000").put(0, &name[..name.len().min(100)]);
        head.put(156, &[kind]).mode(0o644).owner(0, 0).size(0).mtime(0)
    }

    /// Puts bytes at an offset.
    #[must_use]
    pub fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    #[must_use]
    pub fn mode(self, mode: u64) -> Self {
        self.put(100, &number(mode, 8))
    }

    #[must_use]
    pub fn owner(self, uid: u64, gid: u64) -> Self {
        self.put(108, &number(uid, 8)).put(116, &number(gid, 8))
    }

    #[must_use]
    pub fn size(self, size: u64) -> Self {
        self.put(124, &number(size, 12))
    }

    #[must_use]
    pub fn mtime(self, mtime: u64) -> Self {
        self.put(136, &number(mtime, 12))
    }

    /// A link target is cut at 100 bytes.
    #[must_use]
    pub fn link(self, target: &[u8]) -> Self {
        self.put(157, &target[..target.len().min(100)])
    }

    #[must_use]
    pub fn device(self, major: u64, minor: u64) -> Self {
        self.put(329, &number(major, 8)).put(337, &number(minor, 8))
    }

    #[must_use]
    pub fn gnu(self) -> Self {
        self.put(257, b"ustar  \0")
    }

    /// Without a magic, as before POSIX.
    #[must_use]
    pub fn v7(self) -> Self {
        self.put(257, &[0; 8])
    }

    /// The block with its checksum.
    pub fn block(mut self) -> Vec<u8> {
        set_checksum(&mut self.0);
        self.0.to_vec()
    }
}

fn set_checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

/// Header, size and data.
pub fn member(head: Head, data: &[u8]) -> Vec<u8> {
    [head.size(data.len() as u64).block(), padded(data.to_vec())].concat()
}

/// A regular file.
pub fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(Head::new(b'0', name.as_bytes()), data)
}

/// A directory.
pub fn dir(name: &str) -> Vec<u8> {
    Head::new(b'5', name.as_bytes()).mode(0o755).block()
}

/// A link: `'1'` hard, `'2'` symbolic.
pub fn link(kind: u8, name: &str, target: &str) -> Vec<u8> {
    Head::new(kind, name.as_bytes()).link(target.as_bytes()).block()
}

/// One PAX record.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut len = body.len() + 1;
    while len.to_string().len() + body.len() != len {
        len += 1;
    }
    [len.to_string().into_bytes(), body].concat()
}

/// An extended header for the next member.
pub fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    member(Head::new(b'x', b"PaxHeaders/entry"), &body)
}

/// GNU `L` (long name) or `K` (long link target).
pub fn gnu_long(kind: u8, text: &[u8]) -> Vec<u8> {
    member(Head::new(kind, b"././@LongLink").gnu(), &[text, b"\0"].concat())
}

/// A PAX sparse file with its map in front of the data.
pub fn sparse_1_0(name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for (offset, len) in map {
        text += &format!("{offset}\n{len}\n");
    }
    let size = size.to_string();
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name.as_bytes()),
        (b"GNU.sparse.realsize", size.as_bytes()),
    ];
    [pax(&records), file("GNUSparseFile.0/x", &[padded(text.into_bytes()), data.to_vec()].concat())].concat()
}

/// A PAX sparse file with its map in one record (version 0.1).
pub fn sparse_0_1(name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let pairs: Vec<String> = map.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
    let (size, blocks, pairs) = (size.to_string(), map.len().to_string(), pairs.join(","));
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.size", size.as_bytes()),
        (b"GNU.sparse.numblocks", blocks.as_bytes()),
        (b"GNU.sparse.name", name.as_bytes()),
        (b"GNU.sparse.map", pairs.as_bytes()),
    ];
    [pax(&records), file("GNUSparseFile.0/x", data)].concat()
}

/// The old GNU form.
pub fn sparse_gnu(name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Vec<u8> {
    let pairs: Vec<Vec<u8>> =
        map.iter().map(|(offset, len)| [number(*offset, 12), number(*len, 12)].concat()).collect();
    let (first, rest) = pairs.split_at(pairs.len().min(4));
    let head = Head::new(b'S', name.as_bytes()).gnu().put(386, &first.concat());
    let head = head.put(482, &[u8::from(!rest.is_empty())]).put(483, &number(size, 12));
    let mut out = head.size(data.len() as u64).block();
    let blocks = rest.chunks(21).count();
    for (at, chunk) in rest.chunks(21).enumerate() {
        let mut block = chunk.concat();
        block.resize(504, 0);
        block.push(u8::from(at + 1 < blocks));
        out.extend(padded(block));
    }
    [out, padded(data.to_vec())].concat()
}

/// Mends the checksum of every header as far as the sizes lead.
///
/// A size in a PAX record leads elsewhere than the plain field; what then follows is found by its magic.
pub fn mend(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<BLOCK>()) {
        at += BLOCK;
        if *block == [0; BLOCK] {
            continue;
        }
        set_checksum(block);
        let has_data = matches!(block[156], 0 | b'0' | b'7' | b'x' | b'X' | b'g' | b'L' | b'K' | b'S');
        let digits = block[124..136].iter().map_while(|byte| char::from(*byte).to_digit(8));
        let size = digits.fold(0_usize, |size, digit| (size << 3) | digit as usize);
        let behind = at.saturating_add(size.next_multiple_of(BLOCK));
        if has_data && behind <= archive.len() {
            at = behind;
        }
    }
}
