//! Layers out of a few bytes: a list of entries over a small alphabet of names, so that they meet often.

use crate::tar::{self, END, Head};

/// Path components. Few, so that entries replace, shadow, delete and link to each other.
const NAMES: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    ".",
    "..",
    "",
    ".wh..wh.plnk",
    "-",
    "a.b",
    ".a",
    "...",
    ".wh.",
];

/// A component of the longest kind.
const LONG: usize = 255;

/// Reads input byte by byte, then zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// One to four components; the high bits of the first byte say how many.
    fn path(&mut self) -> String {
        let first = self.next();
        let mut path = if first & 0x20 != 0 { "/".to_owned() } else { String::new() };
        path += &component(first);
        for _ in 0..first >> 6 {
            path.push('/');
            path += &component(self.next());
        }
        if first & 0x10 != 0 {
            path.push('/');
        }
        path
    }
}

fn component(byte: u8) -> String {
    match byte & 0x1f {
        0x1f => "n".repeat(LONG),
        other => NAMES[usize::from(other & 0x0f)].to_owned(),
    }
}

/// Layers, lowest first: at most four with at most 200 entries in all.
pub fn layers(input: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = Bytes(input);
    let mut layers = vec![Vec::new()];
    for _ in 0..200 {
        if bytes.0.is_empty() {
            break;
        }
        let kind = bytes.next();
        if kind & 0x0f == 0x0f && layers.len() < 4 {
            layers.push(Vec::new());
            continue;
        }
        let member = member(kind, &mut bytes);
        if let Some(layer) = layers.last_mut() {
            layer.extend(member);
        }
    }
    for layer in &mut layers {
        layer.extend_from_slice(&END);
    }
    layers
}

fn member(kind: u8, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let path = bytes.path();
    let detail = u64::from(bytes.next());
    let mut out = Vec::new();
    if kind & 0x10 != 0 {
        let long = vec![b'v'; 4000];
        let value: &[u8] = if detail & 1 != 0 { &long } else { b"value" };
        let name: &[u8] = match detail & 6 {
            0 => b"SCHILY.xattr.user.a",
            2 => b"SCHILY.xattr.security.b",
            4 => b"SCHILY.xattr.trusted.overlay.opaque",
            _ => b"SCHILY.xattr.system.posix_acl_access",
        };
        out.extend(tar::pax(&[(name, value), (b"mtime", b"-1.5")]));
    }
    if path.len() > 100 {
        out.extend(tar::gnu_long(b'L', path.as_bytes()));
    }
    let head = |flag: u8| {
        let head = Head::new(flag, path.as_bytes()).mode(detail << 4).mtime(detail & 3);
        if kind & 0x20 != 0 { head.owner(detail << 12, 7) } else { head }
    };
    out.extend(match kind & 0x0f {
        0 | 1 => head(b'5').block(),
        2 | 3 => {
            let target = bytes.path();
            let long = if target.len() > 100 { tar::gnu_long(b'K', target.as_bytes()) } else { Vec::new() };
            [long, head(b'2').link(target.as_bytes()).block()].concat()
        }
        4 | 5 => {
            let target = bytes.path();
            let long = if target.len() > 100 { tar::gnu_long(b'K', target.as_bytes()) } else { Vec::new() };
            [long, head(b'1').link(target.as_bytes()).block()].concat()
        }
        6 => head(b'6').block(),
        7 => head(b'3').device(detail, detail << 8).block(),
        8 => tar::sparse_1_0(&path, detail << 12, &[(0, 0), (detail << 11, 512)], &[b's'; 512]),
        9 => tar::sparse_gnu(
            &path,
            40_960 + detail,
            &[(8192, 512), (40_960, detail)],
            &vec![9; 512 + detail as usize],
        ),
        10 => tar::member(head(b'0'), &vec![b'z'; detail as usize * 37]),
        _ => tar::member(head(b'0'), &[detail as u8 & 3; 5]),
    });
    out
}
