//! Layers made by attackers: inputs of published vulnerabilities of tar readers and image unpackers.
//!
//! Every source and every image lies beside a directory that nobody may touch. An input is either refused, with one
//! line that says where, and nothing is left; or it becomes a tree of which nothing lies outside.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::time::{Duration, Instant};

use layers::listing::{What, read_image};
use layers::scene::Scene;
use layers::{Item, char_device, dir, fifo, file, hardlink, symlink, tar_of};
use tar_writer::{
    END, Head, extended, gnu_long, member, number, padded, pax, record, sparse_1_0, sparse_gnu,
};

/// What must come of an input.
enum Expect {
    /// This tree, in the notation of [`describe`].
    Tree(&'static str),
    /// An error whose message holds all these.
    Error(&'static [&'static str]),
}
use Expect::{Error, Tree};

fn check(cases: Vec<(&str, Vec<Vec<u8>>, Expect)>) {
    let mut wrong = String::new();
    for (name, tars, expect) in cases {
        let scene = Scene::new();
        let start = Instant::now();
        let found = scene.build(&tars);
        let good = match &expect {
            Tree(tree) => found == *tree,
            Error(parts) => found.starts_with("error: ") && parts.iter().all(|part| found.contains(part)),
        };
        let expected = match &expect {
            Tree(tree) => (*tree).to_owned(),
            Error(parts) => format!("error: {parts:?}"),
        };
        if !good {
            wrong +=
                &format!("{name}:\n  expected {expected}\n  found    {}\n", &found[..found.len().min(500)]);
        }
        if start.elapsed() > Duration::from_secs(10) {
            wrong += &format!("{name}: took {:?}\n", start.elapsed());
        }
        assert!(found.len() < 100_000, "{name}: {} bytes of message", found.len());
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn one(items: &[Item]) -> Vec<Vec<u8>> {
    vec![tar_of(items)]
}

/// A tar of raw members.
fn raw(members: &[Vec<u8>]) -> Vec<Vec<u8>> {
    vec![[members.concat(), END.to_vec()].concat()]
}

#[test]
fn links_that_lead_out() {
    check(vec![
        (
            "RUSTSEC-2018-0002: data through a symlink",
            one(&[symlink("x", "../victim/hello"), file("x", "pwned")]),
            Tree("x:pwned"),
        ),
        (
            "RUSTSEC-2018-0002: data through a hard link",
            one(&[hardlink("x", "../victim/hello"), file("x", "pwned")]),
            Error(&["layer 1", "x: hard link target ../victim/hello does not exist"]),
        ),
        (
            "RUSTSEC-2021-0080: directories through ..",
            one(&[symlink("link", ".."), file("link/exploit/foo/bar", "1")]),
            Tree("exploit/ exploit/foo/ exploit/foo/bar:1 link->.."),
        ),
        (
            "RUSTSEC-2026-0067: mode through a symlink",
            one(&[symlink("d", "../victim"), dir("d").mode(0o777)]),
            Tree("d/"),
        ),
        (
            "CVE-2026-17106: chain of links",
            one(&[
                dir("inner"),
                symlink("inner/go_up", ".."),
                symlink("inner/go_up/escape", "../victim"),
                file("inner/go_up/escape/new", "1"),
            ]),
            Tree("escape->../victim inner/ inner/go_up->.. victim/ victim/new:1"),
        ),
        (
            "the same over two layers",
            vec![
                tar_of(&[symlink("a", "../..")]),
                tar_of(&[symlink("a/b", "../victim")]),
                tar_of(&[file("b/f", "1")]),
            ],
            Tree("a->../.. b->../victim victim/ victim/f:1"),
        ),
        (
            "go-archive: hard link to a symlink",
            one(&[symlink("s", "../victim/hello"), hardlink("h", "s"), file("h", "1")]),
            Tree("h:1 s->../victim/hello"),
        ),
        (
            "go-archive: hard link through a symlink",
            one(&[symlink("s", "../victim"), hardlink("h", "s/hello")]),
            Error(&["layer 1", "h: hard link target s/hello does not exist"]),
        ),
        (
            "go-archive: a link that is replaced",
            one(&[symlink("victim", "../victim"), file("victim", "1")]),
            Tree("victim:1"),
        ),
        (
            "go-archive: directory with the same beginning",
            one(&[file("../out-evil/x", "1")]),
            Error(&["layer 1", "../out-evil/x", "\"..\""]),
        ),
        (
            "CVE-2026-24842: hard link with ..",
            one(&[dir("d"), hardlink("d/h", "d/../../victim/hello")]),
            Error(&["layer 1", "d/h", "does not exist"]),
        ),
        (
            "hard link with .. to what is inside",
            one(&[file("f", "1"), hardlink("d/h", "../../../f")]),
            Tree("d/ d/h=f:1"),
        ),
        (
            "CVE-2024-9676: passwd is a link to a fifo",
            one(&[symlink("etc/passwd", "../../victim/fifo"), symlink("etc/group", "/proc/self/fd/0")]),
            Tree("etc/ etc/group->/proc/self/fd/0 etc/passwd->../../victim/fifo"),
        ),
        (
            "CVE-2026-41579: dev is a link",
            one(&[symlink("dev", "/proc"), char_device("dev/null", 1, 3)]),
            Tree("dev->/proc proc/ proc/null%1:3"),
        ),
        (
            "links to this process",
            one(&[symlink("root", "/proc/self/root"), file("root/etc/shadow", "1")]),
            Tree(
                "proc/ proc/self/ proc/self/root/ proc/self/root/etc/ proc/self/root/etc/shadow:1 \
                root->/proc/self/root",
            ),
        ),
        (
            "marker through a link",
            vec![tar_of(&[symlink("s", "../victim"), file("f", "1")]), tar_of(&[file("s/.wh.hello", "")])],
            Tree("f:1 s->../victim"),
        ),
        (
            "opaque marker through a link",
            vec![tar_of(&[symlink("s", "/"), file("f", "1")]), tar_of(&[file("s/.wh..wh..opq", "")])],
            Tree(""),
        ),
    ]);
}

/// Absolute names of this machine.
#[test]
fn absolute_paths_stay_inside() {
    let scene = Scene::new();
    let victim = scene.path("victim").display().to_string();
    let inside: Vec<String> = victim
        .match_indices('/')
        .skip(1)
        .map(|(at, _)| format!("{}/", &victim[1..at]))
        .chain([format!("{}/", &victim[1..])])
        .collect();
    let inside = inside.join(" ");
    // CVE-2026-46703, CVE-2021-32760, CVE-2026-23745.
    let found = scene.build(&one(&[symlink("0", &victim), file("0/pwned", "1")]));
    assert_eq!(found, format!("0->{victim} {inside} {}/pwned:1", &victim[1..]));
    let found = scene.build(&one(&[file(format!("{victim}/hello"), "1").mode(0o4777)]));
    assert_eq!(found, format!("{inside} {}/hello:1", &victim[1..]));
    let found = scene.build(&one(&[hardlink("h", format!("{victim}/hello"))]));
    assert_eq!(found, format!("error: layer 1: h: hard link target {victim}/hello does not exist"));
    let found = scene.build(&one(&[file(format!("{victim}/.wh.hello"), "")]));
    assert_eq!(found, "");
    let found = scene.build(&one(&[fifo(format!("{victim}/fifo")), dir(&victim)]));
    assert_eq!(found, format!("{inside} {}/fifo|", &victim[1..]));
}

#[test]
fn names_that_lead_out() {
    let mut cases = Vec::new();
    for name in
        ["..", "../x", "../../../../tini", "/../x", "a/../x", "a/..", "./../x", "a/../../x", "x/..//y", "../"]
    {
        for (kind, item) in [("file", file(name, "1")), ("dir", dir(name)), ("link", symlink(name, "t"))] {
            // A file whose name ends in a slash is refused for that.
            if !(kind == "file" && name.ends_with('/')) {
                let tars = one(&[dir("a"), item]);
                cases.push((name, tars, Error(&["layer 1", "..", "name climbs out"])));
            }
        }
    }
    // CVE-2021-29136 and go-archive: the root under any name.
    for name in ["/.", ".", "./", "/", "", "//", "././."] {
        for item in [symlink(name, "victim"), fifo(name), hardlink(name, "f"), char_device(name, 1, 3)] {
            let tars = one(&[file("f", "1"), item]);
            cases.push((name, tars, Error(&["layer 1", "the root can only be a directory"])));
        }
        cases.push((name, one(&[dir(name).mode(0o700), file("f", "1")]), Tree("f:1")));
    }
    for (name, tars) in [
        ("empty whiteout", one(&[file(".wh.", "")])),
        ("empty whiteout below", one(&[dir("a"), file("a/.wh.", "")])),
        ("whiteout of the directory", one(&[file("a/.wh..", "")])),
        ("whiteout of the parent", one(&[file("a/.wh...", "")])),
    ] {
        cases.push((name, tars, Error(&["layer 1", ".wh.", "whiteout for no name"])));
    }
    check(cases);
}

/// Archives that two readers understand differently, and broken ones.
#[test]
fn archives_that_smuggle() {
    let inner = tar_of(&[file("inner", "smuggled")]);
    let size = inner.len().to_string();
    let mut cases = vec![
        (
            "RUSTSEC-2026-0068: PAX size below the plain one",
            raw(&[
                pax(&[("size", "5")]),
                Head::new(b'0', "f").size(4000).block(),
                padded(b"hello".to_vec()),
                tar_writer::file("g", "2"),
            ]),
            Tree("f:hello g:2"),
        ),
        (
            "the same, PAX size above the plain one",
            raw(&[
                pax(&[("size", "5")]),
                Head::new(b'0', "f").size(1).block(),
                padded(b"hello".to_vec()),
                tar_writer::file("g", "2"),
            ]),
            Tree("f:hello g:2"),
        ),
        (
            "CVE-2025-62518: PAX size 0 before a tar",
            raw(&[
                pax(&[("size", "0")]),
                Head::new(b'0', "outer").size(inner.len() as i128).block(),
                inner.clone(),
            ]),
            Tree("inner:smuggled outer:"),
        ),
        (
            "two extended headers, the last one counts",
            raw(&[pax(&[("path", "a")]), pax(&[("path", "b")]), tar_writer::file("c", "1")]),
            Tree("b:1"),
        ),
        (
            "global headers do not count",
            raw(&[extended(b'g', record("path", "evil")), tar_writer::file("f", "1")]),
            Tree("f:1"),
        ),
        (
            "symlink with a size",
            raw(&[Head::new(b'2', "s").link("t").size(512).block(), tar_writer::file("f", "1")]),
            Tree("f:1 s->t"),
        ),
        ("not a tar", vec![b"this is no archive at all".repeat(100)], Error(&["layer 1", "chksum"])),
        ("short garbage", vec![b"short".to_vec()], Error(&["layer 1"])),
        ("zeros", vec![vec![0; 1 << 20]], Tree("")),
        ("nothing", vec![Vec::new()], Tree("")),
        (
            "RUSTSEC-2026-0066: long name without an entry",
            raw(&[gnu_long(b'L', "n".repeat(200))]),
            Error(&["layer 1"]),
        ),
        ("extended header without an entry", raw(&[pax(&[("path", "x")])]), Error(&["layer 1"])),
        ("negative size", raw(&[Head::new(b'0', "f").size(-512).block()]), Error(&["layer 1", "f", "size"])),
        (
            "negative PAX size",
            raw(&[pax(&[("size", "-1")]), tar_writer::file("f", "")]),
            Error(&["layer 1", "size"]),
        ),
        ("enormous size", raw(&[Head::new(b'0', "f").size(1 << 62).block()]), Error(&["layer 1", "f"])),
        (
            "enormous PAX size",
            raw(&[pax(&[("size", "99999999999999999999")]), tar_writer::file("f", "")]),
            Error(&["layer 1", "size"]),
        ),
        ("cut content", vec![Head::new(b'0', "f").size(5000).block()], Error(&["layer 1", "f"])),
        (
            "device number",
            raw(&[Head::new(b'3', "c").device(1 << 20, 0).block()]),
            Error(&["layer 1", "c", "devmajor"]),
        ),
        (
            "owner",
            raw(&[pax(&[("uid", "4294967296")]), tar_writer::file("f", "")]),
            Error(&["layer 1", "uid"]),
        ),
        (
            "NUL in a name",
            raw(&[extended(b'x', record("path", b"a\0b")), tar_writer::file("f", "")]),
            Error(&["layer 1", "nul"]),
        ),
        (
            "NUL in a target",
            raw(&[extended(b'x', record("linkpath", b"a\0b")), Head::new(b'2', "s").link("t").block()]),
            Error(&["layer 1", "nul"]),
        ),
        (
            "CVE-2022-2879: huge extended header",
            raw(&[Head::new(b'x', "p").size(1 << 40).block()]),
            Error(&["layer 1"]),
        ),
        (
            "just too large an extended header",
            raw(&[extended(b'x', record("comment", vec![b'c'; 1 << 20])), tar_writer::file("f", "")]),
            Error(&["layer 1", "limit"]),
        ),
        (
            "CVE-2025-58183: sparse map of a billion entries",
            {
                let area = padded(b"1000000000\n0\n0\n".to_vec());
                let records = [
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "f"),
                    ("GNU.sparse.realsize", "1"),
                ];
                raw(&[pax(&records), member(Head::new(b'0', "x"), area)])
            },
            Error(&["layer 1", "1000000"]),
        ),
        (
            "CVE-2026-32288: old sparse map without end",
            {
                let entries =
                    [[number(1, 12), number(0, 12)].concat().repeat(21), vec![1], vec![0; 7]].concat();
                let head = Head::new(b'S', "f").gnu().put(482, [1]).put(483, number(1 << 20, 12));
                let head = (0..4)
                    .fold(head, |head, at| head.put(386 + 24 * at, [number(0, 12), number(0, 12)].concat()));
                vec![[head.block(), entries.repeat(60_000)].concat()]
            },
            Error(&["layer 1", "f"]),
        ),
        (
            "overlapping sparse map",
            raw(&[sparse_gnu("f", 100, &[(0, 10), (5, 10)], &[1; 20])]),
            Error(&["layer 1", "f", "overlaps"]),
        ),
        (
            "sparse map that leaves the file",
            raw(&[sparse_1_0("f", 100, &[(90, 20)], &[1; 20])]),
            Error(&["layer 1", "f"]),
        ),
        ("enormous hole", raw(&[sparse_1_0("f", 1 << 62, &[], &[])]), Error(&["layer 1", "f"])),
        (
            "many large holes",
            raw(&(0..300).map(|at| sparse_1_0(&format!("f{at}"), 1 << 40, &[], &[])).collect::<Vec<_>>()),
            Error(&["layer 1", "f0", "holes"]),
        ),
        ("long component", one(&[file("n".repeat(256), "")]), Error(&["layer 1", "256", "255"])),
        ("long path", one(&[file("n/".repeat(2048) + "x", "")]), Error(&["layer 1", "4096"])),
        ("long target", one(&[symlink("s", "t".repeat(4096))]), Error(&["layer 1", "s", "4095"])),
        (
            "large xattr",
            one(&[file("f", "").xattr("user.v", vec![0; 65_537])]),
            Error(&["layer 1", "f", "user.v", "65536"]),
        ),
        (
            "xattr larger than EROFS has them",
            one(&[file("f", "").xattr("user.v", vec![0; 65_536])]),
            Error(&["layer 1", "f", "user.v", "65535"]),
        ),
        (
            "xattrs that fit alone, but not together",
            {
                let xattrs =
                    (0..5).fold(file("f", ""), |item, at| item.xattr(format!("user.{at}"), vec![0; 60_000]));
                one(&[xattrs])
            },
            Error(&["layer 1", "f", "all xattrs together"]),
        ),
        (
            "terminal escapes in a name",
            one(&[file("\x1b[2J\n/../\r", "1")]),
            Error(&["layer 1", "\\n", "climbs out"]),
        ),
    ];
    for (body, name) in [
        (&b"abc path=x\n"[..], "length is no number"),
        (b"0 path=x\n", "length 0"),
        (b"999 path=x\n", "length beyond the end"),
        (b"10 path=xyz", "no line end"),
        (b"9 pathxx\n", "no equals sign"),
        (b"8 =abcd\n", "no key"),
        (b"-9 path=x\n", "negative length"),
        (b"99999999999999999999999 path=x\n", "length beyond all numbers"),
    ] {
        cases.push((
            name,
            raw(&[extended(b'x', body), tar_writer::file("f", "1")]),
            Error(&["layer 1", "pax record"]),
        ));
    }
    check(cases);

    // The converse of CVE-2025-62518: what is content stays content.
    let scene = Scene::new();
    let head = Head::new(b'0', "outer").size(0).block();
    let tars = raw(&[pax(&[("size", &size)]), head, inner.clone(), tar_writer::file("after", "1")]);
    scene.build(&tars);
    let listing = read_image(&scene.path("out/image"));
    assert!(listing[&b"/outer"[..]].what == What::File(inner));
    assert_eq!(listing.keys().map(|path| &path[..]).collect::<Vec<_>>(), [&b"/"[..], b"/after", b"/outer"]);
}

#[test]
fn mazes_of_links() {
    let deep = "d/".repeat(2000);
    let name = |at: usize| format!("l{at:03}");
    // Each link leads to the next one.
    let chain = |count: usize| {
        let mut items = vec![dir("end")];
        items.extend(
            (0..count)
                .map(|at| symlink(name(at), if at + 1 == count { "end".to_owned() } else { name(at + 1) })),
        );
        items
    };
    let mut doubling = vec![symlink("l000", ".")];
    doubling.extend((1..60).map(|at| symlink(name(at), format!("{0}/{0}", name(at - 1)))));
    doubling.push(file("l059/f", "1"));
    // CVE-2025-4517: 16 directories of long names, each with a short link, and a link over all of them.
    let mut path_max = Vec::new();
    let (mut long, mut short) = (String::new(), String::new());
    for letter in 'a'..='p' {
        let name = "d".repeat(247);
        path_max.push(dir(format!("{long}{name}")));
        path_max.push(symlink(format!("{long}{letter}"), &name));
        long = format!("{long}{name}/");
        short = format!("{short}{letter}/");
    }
    let far = format!("{short}{}", "l".repeat(254));
    path_max.push(symlink(&far, "../".repeat(16)));
    path_max.push(symlink("escape", format!("{far}/../../../../victim")));
    path_max.push(hardlink("flag", "escape/hello"));
    let with = |mut items: Vec<Item>, last: Item| {
        items.push(last);
        one(&items)
    };
    check(vec![
        (
            "loop",
            one(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "1")]),
            Error(&["layer 1: a/x: more than 255 symbolic links"]),
        ),
        ("loop of one", one(&[symlink("a", "a"), dir("a/x")]), Error(&["layer 1: a/x: more than 255"])),
        (
            "loop that grows",
            one(&[symlink("a", "a/b/c/d"), dir("a/x")]),
            Error(&["layer 1: a/x: more than 255"]),
        ),
        (
            "loop through the root",
            one(&[symlink("a", "/../a/../a"), dir("a/x")]),
            Error(&["layer 1: a/x: more than 255"]),
        ),
        (
            "marker in a loop",
            vec![tar_of(&[symlink("a", "a")]), tar_of(&[file("a/.wh.x", "")])],
            Error(&["layer 2: a/.wh.x: more than 255"]),
        ),
        (
            "hard link into a loop",
            one(&[symlink("a", "a"), hardlink("h", "a/x")]),
            Error(&["layer 1: h: more than 255"]),
        ),
        ("loops that nobody walks", one(&[symlink("a", "b"), symlink("b", "a")]), Tree("a->b b->a")),
        ("256 links", with(chain(256), file("l000/f", "1")), Error(&["layer 1: l000/f: more than 255"])),
        ("links that double", one(&doubling), Error(&["layer 1: l059/f: more than 255"])),
        (
            "CVE-2025-4517",
            one(&path_max),
            Error(&["layer 1", "path after symbolic links has", "at most 4096"]),
        ),
        (
            "deeper than any path",
            one(&[dir(&deep), symlink("s", &deep), dir(format!("s/{deep}"))]),
            Error(&["layer 1: s/d/d/", "path after symbolic links has", "at most 4096"]),
        ),
        (
            "deeper step by step",
            {
                let step = |at: usize| {
                    [dir(format!("s{at}/d")), symlink(format!("s{}", at + 1), format!("s{at}/d"))]
                };
                let mut items = vec![symlink("s0", ".")];
                items.extend((0..300).flat_map(step));
                one(&items)
            },
            Error(&["layer 1", "more than 255"]),
        ),
    ]);
    let scene = Scene::new();
    let found = scene.build(&with(chain(255), file("l000/f", "1")));
    assert!(found.starts_with("end/ end/f:1 l000->l001 "), "{}", &found[..200]);
    // The deepest tree there is: 2047 directories.
    let deepest = "d/".repeat(2047);
    let found = scene.build(&one(&[dir(&deepest), symlink("s", &deepest[..4000])]));
    assert!(found.ends_with(&format!("/d/ s->{}", &deepest[..4000])), "{}", &found[..200]);
    assert_eq!(read_image(&scene.path("out/image")).len(), 2049);
}
