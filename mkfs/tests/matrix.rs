//! What meets what: every kind of lower object under every kind of upper entry and marker, hard links across layers,
//! whiteouts and opaque markers, each with the tree that must come out, written by hand.
//! [`describe`] has the notation.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use layers::listing::{What, describe, read_image};
use layers::{
    Item, Kind, Layer, block_device, build_layers, char_device, dir, fifo, file, hardlink, opaque, scratch,
    symlink, whiteout,
};

fn tree_of(layers: &[Layer]) -> String {
    let dir = scratch();
    match build_layers(dir.path(), layers) {
        Ok((_, image)) => describe(&read_image(&image)),
        Err(error) => format!("error: {error}"),
    }
}

/// Checks all cases and reports all that differ.
fn check(cases: &[(String, Vec<Layer>, &str)]) {
    let mut wrong = String::new();
    for (name, layers, expected) in cases {
        let found = tree_of(layers);
        if found != *expected {
            wrong += &format!("{name}:\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Lower objects under the name x, beside `t/` with `t/f`.
fn lowers() -> [(&'static str, Layer); 8] {
    [
        ("nothing", vec![]),
        ("file", vec![file("x", "low")]),
        ("dir", vec![dir("x"), file("x/f", "child")]),
        ("link to dir", vec![symlink("x", "t")]),
        ("dangling link", vec![symlink("x", "gone")]),
        ("char", vec![char_device("x", 1, 3)]),
        ("fifo", vec![fifo("x")]),
        ("linked file", vec![file("x", "low"), hardlink("y", "x")]),
    ]
}

#[test]
fn every_kind_under_every_kind() {
    // One row for each upper layer, one tree for each lower object in the order above.
    let rows: [(&str, Layer, [&str; 8]); 18] = [
        (
            "nothing",
            vec![],
            [
                "t/ t/f:keep",
                "t/ t/f:keep x:low",
                "t/ t/f:keep x/ x/f:child",
                "t/ t/f:keep x->t",
                "t/ t/f:keep x->gone",
                "t/ t/f:keep x%1:3",
                "t/ t/f:keep x|",
                "t/ t/f:keep x=y:low",
            ],
        ),
        (
            "file",
            vec![file("x", "up")],
            [
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up y:low",
            ],
        ),
        (
            "dir",
            vec![dir("x")],
            [
                "t/ t/f:keep x/",
                "t/ t/f:keep x/",
                "t/ t/f:keep x/ x/f:child",
                "t/ t/f:keep x/",
                "t/ t/f:keep x/",
                "t/ t/f:keep x/",
                "t/ t/f:keep x/",
                "t/ t/f:keep x/ y:low",
            ],
        ),
        (
            "link",
            vec![symlink("x", "t/f")],
            [
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f",
                "t/ t/f:keep x->t/f y:low",
            ],
        ),
        (
            "hard link",
            vec![hardlink("x", "t/f")],
            [
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep",
                "t/ t/f=x:keep y:low",
            ],
        ),
        (
            "hard link to itself",
            vec![hardlink("x", "x")],
            [
                "error: layer 2: x: hard link target x does not exist",
                "t/ t/f:keep x:low",
                "error: layer 2: x: hard link target x is a directory",
                "t/ t/f:keep x->t",
                "t/ t/f:keep x->gone",
                "t/ t/f:keep x%1:3",
                "t/ t/f:keep x|",
                "t/ t/f:keep x=y:low",
            ],
        ),
        (
            "hard link to it",
            vec![hardlink("z", "x")],
            [
                "error: layer 2: z: hard link target x does not exist",
                "t/ t/f:keep x=z:low",
                "error: layer 2: z: hard link target x is a directory",
                "t/ t/f:keep x=z->t",
                "t/ t/f:keep x=z->gone",
                "t/ t/f:keep x=z%1:3",
                "t/ t/f:keep x=z|",
                "t/ t/f:keep x=y=z:low",
            ],
        ),
        (
            "char",
            vec![char_device("x", 5, 1)],
            [
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1",
                "t/ t/f:keep x%5:1 y:low",
            ],
        ),
        (
            "block",
            vec![block_device("x", 259, 1_048_575)],
            [
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575",
                "t/ t/f:keep x#259:1048575 y:low",
            ],
        ),
        (
            "char 0:0, which is no whiteout here",
            vec![char_device("x", 0, 0)],
            [
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0",
                "t/ t/f:keep x%0:0 y:low",
            ],
        ),
        (
            "fifo",
            vec![fifo("x")],
            [
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x|",
                "t/ t/f:keep x| y:low",
            ],
        ),
        (
            "child",
            vec![file("x/n", "new")],
            [
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/f:child x/n:new",
                "t/ t/f:keep t/n:new x->t",
                "gone/ gone/n:new t/ t/f:keep x->gone",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new y:low",
            ],
        ),
        (
            "whiteout",
            vec![whiteout("x")],
            [
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep",
                "t/ t/f:keep y:low",
            ],
        ),
        (
            "whiteout and file, in either order",
            vec![file("x", "up"), whiteout("x")],
            [
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up",
                "t/ t/f:keep x:up y:low",
            ],
        ),
        (
            "whiteout and child",
            vec![whiteout("x"), file("x/n", "new")],
            [
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new y:low",
            ],
        ),
        (
            "whiteout of a child",
            vec![whiteout("x/f")],
            [
                "t/ t/f:keep",
                "t/ t/f:keep x:low",
                "t/ t/f:keep x/",
                "t/ x->t",
                "t/ t/f:keep x->gone",
                "t/ t/f:keep x%1:3",
                "t/ t/f:keep x|",
                "t/ t/f:keep x=y:low",
            ],
        ),
        (
            "opaque",
            vec![opaque("x")],
            [
                "t/ t/f:keep",
                "t/ t/f:keep x:low",
                "t/ t/f:keep x/",
                "t/ x->t",
                "t/ t/f:keep x->gone",
                "t/ t/f:keep x%1:3",
                "t/ t/f:keep x|",
                "t/ t/f:keep x=y:low",
            ],
        ),
        (
            "child and opaque behind it",
            vec![file("x/n", "new"), opaque("x")],
            [
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/n:new x->t",
                "gone/ gone/n:new t/ t/f:keep x->gone",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new",
                "t/ t/f:keep x/ x/n:new y:low",
            ],
        ),
    ];
    let mut cases = Vec::new();
    for (upper_name, upper, trees) in rows {
        for ((lower_name, mut lower), tree) in lowers().into_iter().zip(trees) {
            lower.splice(0..0, [dir("t"), file("t/f", "keep")]);
            cases.push((format!("{lower_name} below {upper_name}"), vec![lower, upper.clone()], tree));
        }
    }
    check(&cases);
}

/// The same entries in one layer: the last one wins, and markers do nothing.
#[test]
fn every_kind_after_every_kind_in_one_layer() {
    let one = |items: Vec<Item>| vec![items];
    let cases: Vec<(&str, Vec<Layer>, &str)> = vec![
        ("file, file", one(vec![file("x", "1"), file("x", "2")]), "x:2"),
        ("file, dir", one(vec![file("x", "1"), dir("x")]), "x/"),
        ("file, child", one(vec![file("x", "1"), file("x/f", "2")]), "x/ x/f:2"),
        ("dir, file", one(vec![dir("x"), file("x/f", "1"), file("x", "2")]), "x:2"),
        ("dir, dir", one(vec![dir("x"), file("x/f", "1"), dir("x")]), "x/ x/f:1"),
        ("dir, link, child", one(vec![dir("x"), symlink("x", "t"), file("x/f", "1")]), "t/ t/f:1 x->t"),
        ("link, dir, child", one(vec![symlink("x", "t"), dir("x"), file("x/f", "1")]), "x/ x/f:1"),
        ("file, whiteout", one(vec![file("x", "1"), whiteout("x")]), "x:1"),
        ("child, opaque", one(vec![file("x/f", "1"), opaque("x")]), "x/ x/f:1"),
        ("file, link, file", one(vec![file("x", "1"), hardlink("y", "x"), file("x", "2")]), "x:2 y:1"),
        (
            "absolute link below a directory",
            one(vec![dir("d"), symlink("d/s", "/t"), file("d/s/f", "1")]),
            "d/ d/s->/t t/ t/f:1",
        ),
        (
            "missing names and ..",
            one(vec![symlink("s", "no/such/../t"), file("s/f", "1")]),
            "no/ no/t/ no/t/f:1 s->no/such/../t",
        ),
        (
            "link before file",
            one(vec![hardlink("y", "x"), file("x", "1")]),
            "error: layer 1: y: hard link target x does not exist",
        ),
        ("link twice", one(vec![file("x", "1"), hardlink("y", "x"), hardlink("y", "x")]), "x=y:1"),
        ("chain of links", one(vec![file("x", "1"), hardlink("y", "x"), hardlink("z", "y")]), "x=y=z:1"),
        ("link over its own directory", one(vec![file("d/x", "1"), hardlink("d", "d/x")]), "d:1"),
        ("link over the other name", one(vec![file("x", "1"), file("y", "2"), hardlink("x", "y")]), "x=y:2"),
    ];
    check(&cases.into_iter().map(|(name, layers, tree)| (name.to_owned(), layers, tree)).collect::<Vec<_>>());
}

#[test]
fn hard_links_across_layers() {
    let lower = || vec![dir("d"), file("d/f", "1"), symlink("s", "d"), symlink("abs", "/d"), file("g", "2")];
    let cases: Vec<(&str, Layer, &str)> = vec![
        ("plain", vec![hardlink("h", "d/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("leading slash", vec![hardlink("h", "/d/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("dots and slashes", vec![hardlink("h", ".//d/./f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("out and in again", vec![hardlink("h", "../../d/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("through a missing name", vec![hardlink("h", "no/../d/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("through a link", vec![hardlink("h", "s/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("through an absolute link", vec![hardlink("h", "abs/f")], "abs->/d d/ d/f=h:1 g:2 s->d"),
        ("up from a link", vec![hardlink("h", "s/../g")], "abs->/d d/ d/f:1 g=h:2 s->d"),
        ("below a link", vec![hardlink("s/h", "g")], "abs->/d d/ d/f:1 d/h=g:2 s->d"),
        ("of a link", vec![hardlink("h", "s")], "abs->/d d/ d/f:1 g:2 h=s->d"),
        ("new parents", vec![hardlink("n/m/h", "g")], "abs->/d d/ d/f:1 g=n/m/h:2 n/ n/m/ s->d"),
        ("then replaced", vec![hardlink("h", "g"), file("g", "3")], "abs->/d d/ d/f:1 g:3 h:2 s->d"),
        ("replaced before", vec![file("g", "3"), hardlink("h", "g")], "abs->/d d/ d/f:1 g=h:3 s->d"),
        (
            "to a hidden file",
            vec![whiteout("g"), hardlink("h", "g")],
            "error: layer 2: h: hard link target g does not exist",
        ),
        (
            "to a hidden file, marker last",
            vec![hardlink("h", "g"), whiteout("g")],
            "error: layer 2: h: hard link target g does not exist",
        ),
        ("to a directory", vec![hardlink("h", "d")], "error: layer 2: h: hard link target d is a directory"),
        ("to the root", vec![hardlink("h", "/")], "error: layer 2: h: hard link target / is a directory"),
        (
            "to a parent",
            vec![hardlink("h", "d/..")],
            "error: layer 2: h: hard link target d/.. is a directory",
        ),
        (
            "to nothing",
            vec![hardlink("h", "d/no")],
            "error: layer 2: h: hard link target d/no does not exist",
        ),
        (
            "below a file",
            vec![hardlink("h", "g/f")],
            "error: layer 2: h: hard link target g/f does not exist",
        ),
        ("as the root", vec![hardlink("./", "g")], "error: layer 2: ./: the root can only be a directory"),
    ];
    let mut all: Vec<(String, Vec<Layer>, &str)> =
        cases.into_iter().map(|(name, upper, tree)| (name.to_owned(), vec![lower(), upper], tree)).collect();
    // Three layers: what happens later to one name leaves the others alone.
    let linked = || vec![file("a", "1"), hardlink("b", "a"), hardlink("d/c", "a")];
    for (name, upper, tree) in [
        ("hide one", vec![whiteout("a")], "b=d/c:1 d/"),
        ("hide two", vec![whiteout("a"), whiteout("d/c")], "b:1 d/"),
        ("hide the directory of one", vec![whiteout("d")], "a=b:1"),
        ("hide all by an opaque root", vec![file(".wh..wh..opq", "")], ""),
        ("replace one", vec![file("b", "2")], "a=d/c:1 b:2 d/"),
        ("replace all", vec![file("a", "2"), file("b", "3"), file("d", "4")], "a:2 b:3 d:4"),
        ("link hidden, new link to the rest", vec![whiteout("a"), hardlink("e", "b")], "b=d/c=e:1 d/"),
    ] {
        all.push((name.to_owned(), vec![vec![dir("d")], linked(), upper], tree));
    }
    check(&all);
}

/// Attributes of a hard link entry count for nothing.
#[test]
fn hard_links_have_the_attributes_of_their_inode() {
    let link = hardlink("h", "f").mode(0o4777).owner(1, 2).time(5, 6).xattr("user.x", "y");
    let scratch = scratch();
    let lower = vec![file("f", "1").mode(0o640).owner(7, 8).time(9, 10).xattr("user.f", "v")];
    let (_, image) = build_layers(scratch.path(), &[lower, vec![link]]).unwrap();
    let listing = read_image(&image);
    let (f, h) = (&listing[&b"/f"[..]], &listing[&b"/h"[..]]);
    assert_eq!(f, h);
    assert_eq!((h.mode, h.uid, h.gid, h.mtime, h.layer), (0o640, 7, 8, (9, 10), Some(0)));
    assert_eq!(h.xattrs.keys().map(|name| &name[..]).collect::<Vec<_>>(), [b"user.f"]);
}

#[test]
fn whiteouts_and_opaque_markers() {
    let lower = || vec![dir("d"), file("d/f", "1"), dir("d/s"), file("d/s/g", "2"), file("k", "3")];
    let cases: Vec<(&str, Vec<Layer>, &str)> = vec![
        ("file", vec![vec![whiteout("d/f")]], "d/ d/s/ d/s/g:2 k:3"),
        ("subtree", vec![vec![whiteout("d/s")]], "d/ d/f:1 k:3"),
        ("outer and inner", vec![vec![whiteout("d"), whiteout("d/s/g")]], "k:3"),
        ("inner and outer", vec![vec![whiteout("d/s/g"), whiteout("d")]], "k:3"),
        ("missing name", vec![vec![whiteout("d/no")]], "d/ d/f:1 d/s/ d/s/g:2 k:3"),
        ("missing parent", vec![vec![whiteout("no/no")]], "d/ d/f:1 d/s/ d/s/g:2 k:3"),
        ("below a file", vec![vec![whiteout("k/no")]], "d/ d/f:1 d/s/ d/s/g:2 k:3"),
        ("opaque", vec![vec![opaque("d")]], "d/ k:3"),
        ("opaque subtree", vec![vec![opaque("d/s")]], "d/ d/f:1 d/s/ k:3"),
        ("opaque root", vec![vec![opaque(".")]], ""),
        ("opaque and survivor", vec![vec![opaque("d"), file("d/n", "4")]], "d/ d/n:4 k:3"),
        (
            "opaque in a new directory",
            vec![vec![dir("n"), opaque("n"), file("n/x", "4")]],
            "d/ d/f:1 d/s/ d/s/g:2 k:3 n/ n/x:4",
        ),
        ("opaque as a directory", vec![vec![dir("d/.wh..wh..opq/")]], "d/ k:3"),
        ("opaque as a link", vec![vec![symlink("d/.wh..wh..opq", "k")]], "d/ k:3"),
        (
            "whiteout as a directory",
            vec![vec![dir("d/.wh.f"), file("d/.wh.f/x", "no")]],
            "d/ d/s/ d/s/g:2 k:3",
        ),
        ("whiteout as a hard link to nothing", vec![vec![hardlink("d/.wh.f", "no")]], "d/ d/s/ d/s/g:2 k:3"),
        ("whiteout as a device", vec![vec![char_device("d/.wh.f", 0, 0)]], "d/ d/s/ d/s/g:2 k:3"),
        ("whiteout with content", vec![vec![file("d/.wh.f", "not this")]], "d/ d/s/ d/s/g:2 k:3"),
        ("other spelling", vec![vec![file(".//d/./.wh.f", "")]], "d/ d/s/ d/s/g:2 k:3"),
        (
            "name that begins with a dot",
            vec![vec![file("d/.x", "4")], vec![file("d/.wh..x", "")]],
            "d/ d/f:1 d/s/ d/s/g:2 k:3",
        ),
        ("almost opaque", vec![vec![file("d/.wh..wh..opq2", "")]], "d/ d/f:1 d/s/ d/s/g:2 k:3"),
        (
            "aufs",
            vec![vec![dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "4"), file(".wh..wh.aufs", "5")]],
            "d/ d/f:1 d/s/ d/s/g:2 k:3",
        ),
        (
            "near misses",
            vec![vec![file(".wh", "4"), file(".whx", "5"), file("a.wh.k", "6")]],
            ".wh:4 .whx:5 a.wh.k:6 d/ d/f:1 d/s/ d/s/g:2 k:3",
        ),
        ("hidden, then shipped again", vec![vec![whiteout("d")], vec![file("d/f", "4")]], "d/ d/f:4 k:3"),
        ("shipped, then hidden", vec![vec![file("d/n", "4")], vec![whiteout("d")]], "k:3"),
        ("hidden twice", vec![vec![whiteout("d")], vec![whiteout("d")]], "k:3"),
        (
            "no name",
            vec![vec![file("d/.wh.", "")]],
            "error: layer 2: d/.wh.: whiteout for no name that a file can have",
        ),
        (
            "dot",
            vec![vec![file("d/.wh..", "")]],
            "error: layer 2: d/.wh..: whiteout for no name that a file can have",
        ),
        (
            "dot dot",
            vec![vec![file("d/.wh...", "")]],
            "error: layer 2: d/.wh...: whiteout for no name that a file can have",
        ),
    ];
    let with_lower = |(name, uppers, tree): (&str, Vec<Layer>, &'static str)| {
        (name.to_owned(), [vec![lower()], uppers].concat(), tree)
    };
    check(&cases.into_iter().map(with_lower).collect::<Vec<_>>());
}

/// An opaque marker keeps the directory's own attributes, a whiteout does not.
#[test]
fn attributes_of_directories_under_markers() {
    let lower = || vec![dir("d").mode(0o2711).owner(1, 2).time(3, 4).xattr("user.d", "v"), file("d/f", "1")];
    for (name, upper, mode, layer) in [
        ("opaque", vec![opaque("d"), file("d/n", "")], 0o2711, Some(0)),
        ("child", vec![file("d/n", "")], 0o2711, Some(0)),
        ("whiteout and child", vec![whiteout("d"), file("d/n", "")], 0o755, None),
        ("opaque and entry", vec![dir("d").mode(0o700), opaque("d")], 0o700, Some(1)),
        ("entry", vec![dir("d").mode(0o700)], 0o700, Some(1)),
    ] {
        let scratch = scratch();
        let (_, image) = build_layers(scratch.path(), &[lower(), upper]).unwrap();
        let listing = read_image(&image);
        let d = &listing[&b"/d"[..]];
        assert_eq!((d.mode, d.layer), (mode, layer), "{name}");
        let own = layer == Some(0);
        assert_eq!((d.uid, d.gid, d.xattrs.len()), if own { (1, 2, 1) } else { (0, 0, 0) }, "{name}");
        let time = if own { (3, 4) } else { (if layer.is_some() { 1_000_000_000 } else { 0 }, 0) };
        assert_eq!(d.mtime, time, "{name}");
    }
}

/// Equal contents are stored once, however each of them is packed, and every copy can be read.
#[test]
fn equal_contents_are_stored_once() {
    let mut content = vec![0; 50_000];
    content[20_000..20_100].fill(7);
    let sparse = |name: &str, parts: &[(usize, usize)]| {
        let parts = parts.iter().map(|(from, to)| (*from as u64, content[*from..*to].to_vec())).collect();
        Item { kind: Kind::Sparse(50_000, parts), ..file(name, "") }
    };
    let forms = [
        file("plain", &content),
        sparse("tight", &[(20_000, 20_100)]),
        sparse("loose", &[(0, 10), (12_288, 30_000)]),
        sparse("last", &[(20_000, 20_100), (49_999, 50_000)]),
    ];
    for first in 0..forms.len() {
        let mut items = forms.to_vec();
        items.rotate_left(first);
        let upper = vec![file("again", &content), hardlink("link", "plain")];
        let scratch = scratch();
        let (built, image) = build_layers(scratch.path(), &[items, upper]).unwrap();
        assert_eq!(built.contents, 1);
        let listing = read_image(&image);
        for name in [&b"/plain"[..], b"/tight", b"/loose", b"/last", b"/again", b"/link"] {
            assert!(listing[name].what == What::File(content.clone()), "{}", name.escape_ascii());
        }
        let bytes = std::fs::read(&image).unwrap();
        let report = mkimg_verify::verify_image(&bytes, &mkimg_verify::Options::default()).unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    }
}

/// Linux has no other mode for symbolic links, and no tree could be extracted that has.
#[test]
fn symbolic_links_are_0777() {
    for mode in [0, 0o644, 0o755, 0o7777] {
        let scratch = scratch();
        let (_, image) = build_layers(scratch.path(), &[vec![symlink("s", "t").mode(mode)]]).unwrap();
        assert_eq!(read_image(&image)[&b"/s"[..]].mode, 0o777);
    }
}

/// Neither under their own name nor where a link leads.
#[test]
fn markers_never_show_up() {
    for target in [".wh.d", ".wh..wh..opq/x", "/.wh..wh.plnk"] {
        let tree = tree_of(&[vec![symlink("s", target), file("s/f", "1")]]);
        assert!(tree.starts_with("error: layer 1: s/f: ") || tree == format!("s->{target}"), "{tree}");
    }
}
