//! Random layers: few names, so that they meet.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Item, Kind, Layer};

/// A name out of three, or rarely something that looks like a marker and is none.
fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![30 => select(vec!["a", "b", "c"]), 1 => select(vec![".wh", ".whx", "wh.a", "..."])]
}

/// A path as an entry spells it.
fn path(depth: usize) -> impl Strategy<Value = Vec<String>> {
    vec(name().prop_map(str::to_owned), 1..=depth)
}

/// The last name of an entry that says something about lower layers.
fn marker() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => name().prop_map(|name| format!(".wh.{name}")),
        6 => Just(".wh..wh..opq".to_owned()),
        2 => select(vec![".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh..opqx", ".wh..wh.orph/a"]).prop_map(str::to_owned),
        1 => select(vec![".wh.a/b", ".wh..wh.plnk/.wh.a"]).prop_map(str::to_owned),
        1 => select(vec![".wh.", ".wh..", ".wh...", ".wh...."]).prop_map(str::to_owned),
    ]
}

/// Writes the same path in another way.
fn spelling(names: Vec<String>, how: usize) -> Vec<u8> {
    match how {
        0 => format!("./{}", names.join("/")),
        1 => format!("/{}", names.join("/")),
        2 => format!("//.//{}", names.join("/./")),
        3 => names.join("//"),
        _ => names.join("/"),
    }
    .into_bytes()
}

/// Target of a link: with `..`, with a slash in front, or neither.
fn target() -> impl Strategy<Value = Vec<u8>> {
    let step = prop_oneof![6 => name().prop_map(str::to_owned), 1 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    let steps = (vec(step, 0..4), name()).prop_map(|(mut steps, last)| {
        steps.push(last.to_owned());
        steps.join("/")
    });
    let spelled = (steps, 0..9).prop_map(|(text, how)| match how {
        0 | 1 => format!("/{text}"),
        2 => format!("../{text}"),
        3 => format!("//../{}", text.replace('/', "//")),
        _ => text,
    });
    let fixed = select(vec!["..", "/", ".", "../..", "nowhere/else"]).prop_map(str::to_owned);
    prop_oneof![9 => spelled, 1 => fixed].prop_map(String::into_bytes)
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => vec(select(b"xyz".to_vec()), 0..3),
        1 => (select(vec![4095_usize, 4096, 4097, 9000]), any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn sparse() -> impl Strategy<Value = Kind> {
    (0..3_u64, 1..5000_usize, 0..3_u64, any::<u8>()).prop_map(|(before, len, behind, byte)| {
        let offset = before * 4000;
        Kind::Sparse(offset + len as u64 + behind * 4096, vec![(offset, vec![byte; len])])
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        8 => content().prop_map(Kind::File),
        8 => Just(Kind::Dir),
        6 => target().prop_map(Kind::Symlink),
        7 => target().prop_map(Kind::Hardlink),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Kind::Char(major, minor)),
        1 => Just(Kind::Char(0, 0)),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Kind::Block(major, minor)),
        1 => Just(Kind::Fifo),
        1 => sparse(),
    ]
}

/// Xattrs, sorted and each name once, as a reader gives them.
fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let names = vec![
        "user.a",
        "user.b",
        "user.overlay.opaque",
        "trusted.overlay.origin",
        "trusted.t",
        "security.capability",
        "security.selinux",
        "system.posix_acl_access",
        "other.namespace",
    ];
    let pair = (select(names), vec(any::<u8>(), 0..6));
    vec(pair, 0..4).prop_map(|pairs| {
        let map: std::collections::BTreeMap<_, _> =
            pairs.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect();
        map.into_iter().collect()
    })
}

fn time() -> impl Strategy<Value = (i64, u32)> {
    let sec = prop_oneof![
        3 => Just(1_700_000_000_i64),
        1 => -3_i64..3,
        1 => select(vec![i64::from(i32::MIN) - 1, i64::from(i32::MAX) + 1, i64::from(u32::MAX) + 1, 253_402_300_800]),
    ];
    (sec, prop_oneof![3 => Just(0), 1 => 1..1_000_000_000_u32])
}

fn owner() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(0), 1 => select(vec![1000, 65535, 65536, 2_097_152, u32::MAX - 1, u32::MAX])]
}

/// An entry.
pub fn item() -> impl Strategy<Value = Item> {
    let at = (path(4), 0..12_usize, any::<bool>(), weighted(0.2, marker()));
    let odd = prop_oneof![60 => Just(None), 1 => select(vec![
        "./", "/", "//.", "..", "a/..", "a/../b", "../a", "a/b/../../.."]).prop_map(Some)];
    let attributes = (0..0o10000_u32, owner(), owner(), time(), weighted(0.25, xattrs()));
    (at, odd, kind(), attributes).prop_map(|(at, odd, kind, (mode, uid, gid, mtime, xattrs))| {
        let (mut path, how, slash, marker) = at;
        if let Some(marker) = marker {
            path.pop();
            path.push(marker);
        }
        let mut name = odd.map_or_else(|| spelling(path, how), |odd| odd.as_bytes().to_vec());
        if slash && kind == Kind::Dir {
            name.push(b'/');
        }
        // A file whose name ends in a slash is another matter.
        let kind = if name.ends_with(b"/") && matches!(kind, Kind::File(_) | Kind::Sparse(..)) {
            Kind::Dir
        } else {
            kind
        };
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
        Item { name, kind, mode, uid, gid, mtime, xattrs: xattrs.unwrap_or_default() }
    })
}

/// Layers. Half of the hard links lead to an entry in front of them, in one spelling or another.
pub fn layers() -> impl Strategy<Value = Vec<Layer>> {
    (vec(vec(item(), 0..14), 1..=6), vec((any::<u16>(), 0..8_u8), 84)).prop_map(|(mut layers, picks)| {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for (item, (pick, how)) in layers.iter_mut().flatten().zip(picks) {
            match &mut item.kind {
                Kind::Hardlink(target) if how < 5 && !names.is_empty() => {
                    let name = &names[usize::from(pick) % names.len()];
                    let front: &[u8] = [&b""[..], b"/", b"../", b"a/../", b"b/./../"][usize::from(how)];
                    *target = [front, name].concat();
                }
                Kind::Dir => {}
                _ => names.push(item.name.clone()),
            }
        }
        layers
    })
}
