//! One row per rule: what a good archive means, and the exact message for a bad one.
#![allow(clippy::unwrap_used)]

mod tar_writer;

use mkimg_mkfs::tar::{Entry, Error, Fault, Kind, Limits, Segment, SparseFault, Time};
use tar_writer::{
    BLOCK, END, Head, expanded, extended, file, gnu_long, member, number, padded, pax, read_all, read_with,
    record, skip_all, sparse_1_0, sparse_gnu,
};

fn plain(path: impl AsRef<[u8]>, kind: Kind) -> Entry {
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        link: Vec::new(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time { sec: 0, nsec: 0 },
        rdev: (0, 0),
        size: 0,
        stored: 0,
        sparse: None,
        xattrs: Vec::new(),
        header_offset: 0,
        data_offset: 512,
    }
}

/// The first entry of an archive, and the rest of it.
fn first(archive: &[u8]) -> Entry {
    read_all(archive).unwrap().remove(0).0
}

fn message(archive: &[u8]) -> String {
    let error = read_all(archive).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn named(path: &str) -> Entry {
    plain(path, Kind::File)
}

#[test]
fn type_flags() {
    for (flag, kind) in [
        (b'0', Kind::File),
        (0, Kind::File),
        (b'7', Kind::File),
        (b'3', Kind::Char),
        (b'4', Kind::Block),
        (b'5', Kind::Dir),
        (b'6', Kind::Fifo),
    ] {
        assert_eq!(first(&Head::new(flag, "x").block()), plain("x", kind), "{flag}");
    }
    for (flag, kind) in [(b'1', Kind::Hardlink), (b'2', Kind::Symlink)] {
        let entry = Entry { link: b"t".to_vec(), ..plain("x", kind) };
        assert_eq!(first(&Head::new(flag, "x").link("t").block()), entry);
    }
    // The old way to write a directory.
    for flag in [b'0', 0] {
        assert_eq!(first(&Head::new(flag, "x/").v7().block()).kind, Kind::Dir);
        assert_eq!(
            message(&member(Head::new(flag, "x/"), "abc")),
            "entry at 0 (x/): file of 3 bytes whose name ends in a slash"
        );
    }
    for flag in b"89AVMDNEIZaszq\xff\x01" {
        let archive = [file("a", "a"), Head::new(*flag, "some/path").block()].concat();
        let shown =
            if flag.is_ascii_graphic() { char::from(*flag).to_string() } else { format!("\\x{flag:02x}") };
        assert_eq!(message(&archive), format!("entry at 1024 (some/path): unsupported entry type '{shown}'"));
    }
}

#[test]
fn only_files_have_data() {
    for flag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let head = Head::new(flag, "x").link("t").size(1024);
        let archives = [
            [head.clone().block(), file("y", "yy"), END.to_vec()].concat(),
            [pax(&[("size", "1024")]), head.size(0).block(), file("y", "yy"), END.to_vec()].concat(),
        ];
        for archive in archives {
            let entries = read_all(&archive[..]).unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!((entries[0].0.size, entries[0].0.stored), (0, 0));
            assert_eq!((&entries[1].0.path[..], &entries[1].1[..]), (&b"y"[..], &b"yy"[..]));
        }
    }
}

#[test]
fn precedence() {
    let rec = |pairs: &[(&str, &str)]| pax(pairs);
    let head = || file("plain", "");
    let link = || Head::new(b'2', "plain").link("link").block();
    let cases: [(Vec<u8>, &str, &str); 10] = [
        ([head()].concat(), "plain", ""),
        ([gnu_long(b'L', "long"), head()].concat(), "long", ""),
        ([rec(&[("path", "pax")]), gnu_long(b'L', "long"), head()].concat(), "pax", ""),
        ([gnu_long(b'L', "long"), rec(&[("path", "pax")]), head()].concat(), "pax", ""),
        ([gnu_long(b'L', "long"), gnu_long(b'L', "longer"), head()].concat(), "longer", ""),
        ([rec(&[("path", "one"), ("path", "two")]), head()].concat(), "two", ""),
        ([rec(&[("path", "one"), ("path", "")]), head()].concat(), "plain", ""),
        ([rec(&[("path", "one")]), rec(&[("uid", "1")]), head()].concat(), "plain", ""),
        ([gnu_long(b'K', "klink"), link()].concat(), "plain", "klink"),
        ([rec(&[("linkpath", "plink")]), gnu_long(b'K', "klink"), link()].concat(), "plain", "plink"),
    ];
    for (archive, path, target) in cases {
        let entry = first(&archive);
        assert_eq!((&entry.path[..], &entry.link[..]), (path.as_bytes(), target.as_bytes()));
        assert_eq!(entry.header_offset, 0);
        assert_eq!(entry.data_offset, archive.len() as u64);
    }
    // Nothing leaks into the next entry.
    let all = [rec(&[("path", "pax"), ("uid", "7"), ("mtime", "9.5")]), head(), head()].concat();
    let entries = read_all(&all[..]).unwrap();
    assert_eq!((&entries[0].0.path[..], entries[0].0.uid), (&b"pax"[..], 7));
    assert_eq!((&entries[1].0.path[..], entries[1].0.uid, entries[1].0.mtime.sec), (&b"plain"[..], 0, 0));
    // Global records change nothing, an extended header waits behind one.
    let global = extended(b'g', [record("uid", "77"), record("path", "g"), record("size", "1")].concat());
    let all = [global.clone(), rec(&[("gid", "8")]), global, head(), END.to_vec()].concat();
    let entry = first(&all);
    assert_eq!((&entry.path[..], entry.uid, entry.gid, entry.header_offset), (&b"plain"[..], 0, 8, 1024));
}

#[test]
fn fields() {
    let head = Head::new(b'0', "n".repeat(100)).put(345, "p".repeat(155));
    let long = format!("{}/{}", "p".repeat(155), "n".repeat(100));
    assert_eq!(first(&head.clone().block()).path, long.as_bytes());
    assert_eq!(first(&head.clone().gnu().block()).path, "n".repeat(100).as_bytes());
    assert_eq!(first(&head.v7().block()).path, "n".repeat(100).as_bytes());
    // star: access and change time behind a prefix of 131 bytes.
    let star = Head::new(b'0', "n").put(345, "p").put(476, "14524770000 14524770000 ").put(508, "tar\0");
    assert_eq!(first(&star.block()).path, b"p/n");

    let entry = first(
        &Head::new(b'0', "x").mode(0o107_755).owner(4_294_967_295, 16_777_216).mtime(-86400).gnu().block(),
    );
    assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime.sec), (0o7755, u32::MAX, 1 << 24, -86400));
    assert_eq!(first(&Head::new(b'3', "x").device(4095, 0xf_ffff).block()).rdev, (4095, 0xf_ffff));
    assert_eq!(first(&Head::new(b'3', "x").device(1, 3).v7().block()).rdev, (0, 0));
    // Only devices have numbers, whatever is in the fields.
    assert_eq!(first(&Head::new(b'0', "x").put(329, "garbage!").block()).rdev, (0, 0));

    let signed = Head::new(b'0', "caf\u{e9}");
    let block = signed.clone().block();
    let sum = |as_signed: bool| {
        let value = |(at, &byte): (usize, &u8)| match byte {
            _ if (148..156).contains(&at) => 32,
            _ if as_signed => i128::from(byte.cast_signed()),
            _ => i128::from(byte),
        };
        block.iter().enumerate().map(value).sum::<i128>()
    };
    assert_ne!(sum(true), sum(false));
    assert_eq!(first(&signed.checksum(sum(true))).path, "caf\u{e9}".as_bytes());
}

#[test]
fn xattrs() {
    let records = [
        ("SCHILY.xattr.user.z", "1"),
        ("LIBARCHIVE.xattr.user.a", "dmFsdWU"),
        ("LIBARCHIVE.xattr.user.b", "AP8="),
        ("LIBARCHIVE.xattr.user.per%25cent", "MQ"),
        ("SCHILY.xattr.user.both", "raw"),
        ("LIBARCHIVE.xattr.user.both", "b3RoZXI="),
        ("SCHILY.xattr.user.empty", ""),
        ("SCHILY.xattr.user.twice", "one"),
        ("SCHILY.xattr.user.twice", "two"),
        ("SCHILY.acl.access", "ignored"),
    ];
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(
        first(&[pax(&records), file("x", "")].concat()).xattrs,
        [
            pair("user.a", b"value"),
            pair("user.b", b"\0\xff"),
            pair("user.both", b"raw"),
            pair("user.empty", b""),
            pair("user.per%cent", b"1"),
            pair("user.twice", b"two"),
            pair("user.z", b"1"),
        ]
    );
    let raw = extended(b'x', record("SCHILY.xattr.user.bin", b"\0\xff\n=\0"));
    assert_eq!(first(&[raw, file("x", "")].concat()).xattrs, [pair("user.bin", b"\0\xff\n=\0")]);
    let limit =
        [("SCHILY.xattr.user.v", &*"v".repeat(65536)), (&*format!("SCHILY.xattr.{}", "n".repeat(255)), "x")];
    assert_eq!(first(&[pax(&limit), file("x", "")].concat()).xattrs.len(), 2);
}

#[test]
fn sparse_forms() {
    let map = [(0, 512), (4096, 1024), (100_000, 3), (100_100, 0)];
    let data: Vec<u8> = (0..1539u32).map(|at| at.to_le_bytes()[0] | 1).collect();
    let pairs: Vec<String> = map.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
    let lines: Vec<_> = map.iter().map(|(offset, len)| (offset.to_string(), len.to_string())).collect();
    let mut each = vec![("GNU.sparse.size", "100100"), ("GNU.sparse.numblocks", "4")];
    for (offset, len) in &lines {
        each.extend([("GNU.sparse.offset", &**offset), ("GNU.sparse.numbytes", &**len)]);
    }
    let listed = [
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
        ("GNU.sparse.name", "dir/x"),
        ("GNU.sparse.size", "100100"),
        ("GNU.sparse.numblocks", "4"),
        ("GNU.sparse.map", &*pairs.join(",")),
    ];
    let archives = [
        sparse_gnu("dir/x", 100_100, &map, &data),
        [pax(&each), file("dir/x", &data)].concat(),
        [pax(&listed), file("GNUSparseFile.0/x", &data)].concat(),
        sparse_1_0("dir/x", 100_100, &map, &data),
    ];
    let offsets = [512, 1536, 1536, 2048];
    for (archive, at) in archives.iter().zip(offsets) {
        let all = [&archive[..], &file("after", "after"), &END].concat();
        let entries = read_all(&all[..]).unwrap();
        let (entry, stored) = &entries[0];
        let segments = map[..3].iter().map(|&(offset, len)| Segment { offset, len }).collect();
        let wanted =
            Entry { size: 100_100, stored: 1539, sparse: Some(segments), data_offset: at, ..named("dir/x") };
        assert_eq!(entry, &wanted);
        let content = expanded(entry, stored);
        assert_eq!(content[4096..5120], data[512..1536]);
        assert_eq!(content.iter().filter(|&&byte| byte != 0).count(), 1539);
        assert_eq!(entries[1].1, b"after");
    }
    // 4 + 21 + 21 + 4 entries; parts that touch become one.
    let many: Vec<(u64, u64)> = (0..50).map(|at| (at * 1024, 512)).collect();
    let entry = first(&sparse_gnu("x", 1 << 20, &many, &[b'x'; 50 * 512]));
    assert_eq!((entry.sparse.unwrap().len(), entry.data_offset), (50, 512 * 4));
    let dense: Vec<(u64, u64)> = (0..100).map(|at| (at * 16, 16)).collect();
    let entry = first(&sparse_1_0("x", 1600, &dense, &[b'x'; 1600]));
    assert_eq!(entry.sparse, Some(vec![Segment { offset: 0, len: 1600 }]));
    for archive in [
        sparse_1_0("x", 12345, &[], b""),
        sparse_1_0("x", 12345, &[(12345, 0)], b""),
        sparse_gnu("x", 12345, &[], b""),
    ] {
        let entry = first(&archive);
        assert_eq!((entry.size, entry.stored, entry.sparse), (12345, 0, Some(Vec::new())));
    }
    // Its own name beats the path of the same header.
    let records =
        [("path", "p"), ("GNU.sparse.name", "s"), ("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,0")];
    assert_eq!(first(&[pax(&records), file("x", "")].concat()).path, b"s");
    // Numbers beyond octal.
    let entry = first(&sparse_gnu("x", 1 << 40, &[((1 << 40) - 512, 512)], &[b'x'; 512]));
    assert_eq!(entry.size, 1 << 40);
}

#[test]
fn the_end_of_an_archive() {
    for (end, good) in [
        (END.to_vec(), true),
        (Vec::new(), true),
        (vec![0; BLOCK], true),
        (vec![0; 10240], true),
        ([&END[..], &b"not a header".repeat(100)].concat(), true),
        (vec![0; 100], false),
        (vec![0; BLOCK + 100], false),
        (b"junk".to_vec(), false),
        ([&[0; BLOCK][..], &file("y", "")].concat(), false),
    ] {
        for front in [Vec::new(), file("x", "x"), Head::new(b'5', "d").block()] {
            assert_eq!(read_all(&[&front[..], &end].concat()[..]).is_ok(), good, "{end:?}");
        }
    }
    // The last padding may be missing, in part or as a whole; data may not.
    let whole = file("x", "abc");
    for len in 0..=whole.len() {
        let good = len == 0 || len >= 515;
        assert_eq!(read_all(&whole[..len]).is_ok(), good, "{len}");
    }
    assert_eq!(read_all(&whole[..515]).unwrap()[0].1, b"abc");
}

#[test]
fn archives_cut_short_are_errors_at_every_byte() {
    let map = [(0, 512), (1024, 0), (1025, 0), (1026, 0), (1027, 0), (2048, 512)];
    // Each with the length of its last padding.
    let archives = [
        ([pax(&[("path", "x")]), file("y", vec![b'x'; 700])].concat(), 324),
        ([gnu_long(b'L', "x"), gnu_long(b'K', "y"), Head::new(b'2', "y").link("z").block()].concat(), 0),
        (sparse_1_0("x", 5000, &[(0, 512), (4096, 512)], &[b'x'; 1024]), 0),
        (sparse_gnu("x", 50_000, &map, &[b'x'; 1024]), 0),
    ];
    for (archive, padding) in archives {
        for len in 1..=archive.len() {
            let good = len + padding >= archive.len();
            assert_eq!(read_all(&archive[..len]).is_ok(), good, "{len} of {}", archive.len());
            assert_eq!(skip_all(&archive[..len]).is_ok(), good, "{len} of {}", archive.len());
        }
    }
}

#[test]
#[allow(clippy::too_many_lines)]
fn bad_archives() {
    let good = || file("good", "good");
    let bad_pax = |body: &[u8]| [extended(b'x', body), file("x", "")].concat();
    let rec = |key: &str, value: &str| [pax(&[(key, value)]), file("x", "")].concat();
    let sparse = |pairs: &[(&str, &str)]| [pax(pairs), file("x", "")].concat();
    let field = |at: usize, bytes: &[u8]| Head::new(b'0', "x").put(at, bytes).block();
    let device = |at: usize, bytes: Vec<u8>| Head::new(b'3', "x").put(at, bytes).block();
    let mut extension = sparse_gnu("x", 9, &[(0, 1)], b"x");
    extension[482] = 1;
    let extension = Head(extension[..512].try_into().unwrap()).block();
    let huge = "9".repeat(25);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Head::new(b'0', "bad/sum").checksum(1234), "(bad/sum): header checksum is 1234, computed "),
        (field(124, &[0xff; 12]), "(x): size is -1, allowed are 0 to 9223372036854775807"),
        (field(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), "(x): size is 9223372036854775808, allowed are 0 to"),
        (field(124, b"-0000000001\0"), "(x): size is not a number: \"-0000000001\\x00\""),
        (field(124, b"00000000008\0"), "(x): size is not a number"),
        (field(108, &number(1 << 32, 8)), "(x): uid is 4294967296, allowed are 0 to 4294967295"),
        (field(116, &number(-1, 8)), "(x): gid is -1, allowed are 0 to 4294967295"),
        (field(100, b"rwxr-xr-"), "(x): mode is not a number: \"rwxr-xr-\""),
        (field(136, &number(1 << 64, 12)), "(x): mtime is 18446744073709551616, allowed are"),
        (
            field(124, &number((1 << 40) + 1, 12)),
            "(x): file of 1099511627777 bytes, the limit is 1099511627776",
        ),
        (device(329, number(4096, 8)), "(x): devmajor is 4096, allowed are 0 to 4095"),
        (device(337, number(1 << 20, 8)), "(x): devminor is 1048576, allowed are 0 to 1048575"),
        (device(329, b"garbage!".to_vec()), "(x): devmajor is not a number: \"garbage!\""),
        (
            bad_pax(b"99 path=elsewhere\n"),
            "(PaxHeaders/entry): malformed pax record at byte 0 of the extended header: the length leaves",
        ),
        (extended(b'g', b"99 path=elsewhere\n"), "(PaxHeaders/entry): malformed pax record at byte 0"),
        (
            extended(b'x', vec![b'x'; (1 << 20) + 1]),
            "(PaxHeaders/entry): extended header of 1048577 bytes, the limit is 1048576",
        ),
        (
            extended(b'g', vec![b'x'; (1 << 20) + 1]),
            "(PaxHeaders/entry): extended header of 1048577 bytes, the limit is 1048576",
        ),
        (gnu_long(b'L', "n".repeat(3 << 20)), "(././@LongLink): extended header of 3145729 bytes"),
        (Head::new(b'x', "p").size(1 << 62).block(), "(p): extended header of 4611686018427387904 bytes"),
        (Head::new(b'x', "p").size(-1).block(), "(p): size is -1, allowed are"),
        (
            rec("size", "18446744073709551615"),
            "(PaxHeaders/entry): pax record size=\"18446744073709551615\": too large a number",
        ),
        (rec("size", &huge), "too large a number"),
        (rec("size", "-1"), "pax record size=\"-1\": not a number without sign"),
        (
            rec("size", "9223372036854775807"),
            "(x): file of 9223372036854775807 bytes, the limit is 1099511627776",
        ),
        (rec("uid", "4294967296"), "pax record uid=\"4294967296\": too large a number"),
        (rec("gid", "root\n\u{1b}"), "pax record gid=\"root\\n\\x1b\": not a number without sign"),
        (rec("mtime", "yesterday"), "pax record mtime=\"yesterday\": not a time"),
        (rec("LIBARCHIVE.xattr.user.a", "no base64!"), "LIBARCHIVE.xattr.user.a=\"no base64!\": not base64"),
        (rec("SCHILY.xattr.", "v"), "SCHILY.xattr.=\"v\": xattr without a name"),
        (rec("LIBARCHIVE.xattr.user%00a", "AP8="), "(PaxHeaders/entry): nul byte in the name of an xattr"),
        (
            rec("SCHILY.xattr.user.big", &"v".repeat(65537)),
            "(x): xattr user.big has a value of 65537 bytes, the limit is 65536",
        ),
        (rec(&format!("SCHILY.xattr.{}", "n".repeat(256)), ""), " has a name of 256 bytes, the limit is 255"),
        (rec("path", "nul-in/na\0me"), "(nul-in/na\\x00me): nul byte in the path"),
        (
            rec("path", &format!("a/{}", "m".repeat(256))),
            "mmm): path component of 256 bytes, the limit is 255",
        ),
        (rec("path", &"abc/".repeat(1025)), "...): path of 4100 bytes, the limit is 4096"),
        ([gnu_long(b'L', "a\0b"), file("x", "")].concat(), "(a\\x00b): nul byte in the path"),
        (
            [pax(&[("linkpath", "a\0b")]), Head::new(b'2', "x").block()].concat(),
            "(x): nul byte in the symlink target",
        ),
        (
            [gnu_long(b'K', "t".repeat(4096)), Head::new(b'2', "x").block()].concat(),
            "(x): symlink target of 4096 bytes, the limit is 4095",
        ),
        (
            [gnu_long(b'K', "t".repeat(4097)), Head::new(b'1', "x").block()].concat(),
            "(x): hard link target of 4097 bytes, the limit is 4096",
        ),
        (Head::new(b'2', "x").block(), "(x): symlink without a target"),
        (Head::new(b'1', "x").block(), "(x): hard link without a target"),
        (pax(&[("path", "x")]), ": extended header without an entry behind it"),
        ([gnu_long(b'L', "x"), END.to_vec()].concat(), ": extended header without an entry behind it"),
        ([vec![0; 512], file("x", "")].concat(), "(x): a lone block of zeros before another header"),
        (
            file("x", vec![0; 5000])[..3000].to_vec(),
            "(x): archive ends at 4024, 2512 bytes before the end of the data",
        ),
        (file("x", "")[..100].to_vec(), ": archive ends at 1124, 412 bytes before the end of the header"),
        (
            pax(&[("path", &*"x".repeat(600))])[..700].to_vec(),
            "(PaxHeaders/entry): archive ends at 1724, 422 bytes before the end of the extended header",
        ),
        (
            pax(&[("path", &*"x".repeat(600))])[..512 + 609].to_vec(),
            "(PaxHeaders/entry): archive ends at 2145, 1 bytes before the end of the extended header",
        ),
        // Sparse maps.
        (
            sparse(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,0"), ("GNU.sparse.numblocks", "0")]),
            "(x): sparse map: 1 entries, 0 announced",
        ),
        (
            sparse_1_0("x", 9, &[(0, 5), (4, 1)], b"123456"),
            "(x): sparse map: entry at 4 overlaps or precedes the one that ends at 5",
        ),
        (
            sparse_1_0("x", 9, &[(5, 0), (4, 1)], b"1"),
            "(x): sparse map: entry at 4 overlaps or precedes the one that ends at 5",
        ),
        (
            sparse_1_0("x", 9, &[(5, 5)], b"12345"),
            "(x): sparse map: entry of 5 bytes at 5 leaves the file of 9 bytes",
        ),
        (
            sparse_1_0("x", 9, &[(u64::MAX, 5)], b"12345"),
            "(x): sparse map: entry of 5 bytes at 18446744073709551615 leaves the file of 9 bytes",
        ),
        (
            sparse_1_0("x", 9, &[(0, 5)], b"1234"),
            "(x): sparse map: entries cover 5 bytes, the archive holds 4",
        ),
        (
            sparse_1_0("x", 9, &[(0, 3)], b"1234"),
            "(x): sparse map: entries cover 3 bytes, the archive holds 4",
        ),
        (
            sparse_1_0("x", (1 << 40) + 1, &[], b""),
            "(x): sparse file of 1099511627777 bytes, the limit is 1099511627776",
        ),
        (
            sparse_1_0("sparse/bomb", 2_000_000, &vec![(0, 0); 1_000_001], b""),
            "(sparse/bomb): sparse map: more than 1000000 entries",
        ),
        (
            sparse_gnu("x", 9, &[(0, 5), (4, 1)], b"123456"),
            "(x): sparse map: entry at 4 overlaps or precedes the one that ends at 5",
        ),
        (
            sparse_gnu("x", 9, &[(0, 3)], b"1234"),
            "(x): sparse map: entries cover 3 bytes, the archive holds 4",
        ),
        (extension, "(x): sparse map: an extension behind the end of the map"),
        (
            Head::new(b'S', "x").gnu().put(410, number(1, 12)).block(),
            "(x): sparse map: an entry behind the end of the map",
        ),
        (
            Head::new(b'S', "x").gnu().put(386, number(1, 12)).block(),
            "(x): sparse map: an entry without offset or length",
        ),
        (
            Head::new(b'S', "x").gnu().put(386, number(-1, 12)).put(398, number(0, 12)).block(),
            "(x): sparse offset is -1, allowed are",
        ),
        (Head::new(b'S', "x").gnu().put(483, [0xff; 12]).block(), "(x): realsize is -1, allowed are"),
        (Head::new(b'S', "x").block(), "(x): sparse entry (type 'S') without the gnu magic"),
        (
            sparse(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1")]),
            "(x): sparse map: the data ends inside the map",
        ),
        (
            sparse(&[("GNU.sparse.major", "2"), ("GNU.sparse.size", "1")]),
            "(x): sparse map: unknown version 2.0",
        ),
        (sparse(&[("GNU.sparse.map", "0,1")]), "(x): sparse map: no file size"),
        (sparse(&[("GNU.sparse.size", "1")]), "(x): sparse map: no map"),
        (
            sparse(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,1,2")]),
            "(x): sparse map: an offset without a length",
        ),
        (
            sparse(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,x")]),
            "GNU.sparse.map=\"0,x\": not a list of numbers",
        ),
        (
            sparse(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,0"), ("GNU.sparse.numblocks", "2")]),
            "(x): sparse map: 1 entries, 2 announced",
        ),
        (
            sparse(&[("GNU.sparse.size", "1"), ("GNU.sparse.realsize", "2"), ("GNU.sparse.map", "0,0")]),
            "(x): sparse map: size and realsize differ",
        ),
        (
            sparse(&[("GNU.sparse.numbytes", "1")]),
            "(PaxHeaders/entry): sparse map: offset and numbytes do not take turns",
        ),
        (
            [pax(&[("GNU.sparse.size", "1"), ("GNU.sparse.map", "0,0")]), Head::new(b'5', "x").block()]
                .concat(),
            "(x): sparse map: for an entry that is no regular file",
        ),
    ];
    for (archive, wanted) in cases {
        let archive = [good(), archive].concat();
        let text = message(&archive);
        assert!(text.starts_with("entry at 1024"), "{text}\nwanted {wanted}");
        assert!(text.contains(wanted), "{text}\nwanted {wanted}");
        assert!(text.len() < 2000, "{text}");
    }
}

#[test]
fn names_at_their_limits() {
    let deep = ["n".repeat(255), "/".to_owned()].concat().repeat(16);
    let path = |len: usize| deep[..len].to_owned();
    for len in [255, 4000, 4095, 4096] {
        assert_eq!(
            first(&[gnu_long(b'L', path(len)), Head::new(b'5', "x").block()].concat()).path.len(),
            len
        );
    }
    let link = [gnu_long(b'K', "t".repeat(4095)), Head::new(b'2', "x").block()].concat();
    assert_eq!(first(&link).link.len(), 4095);
}

#[test]
fn limits_are_the_callers() {
    let limits = Limits { pax_bytes: 10, path: 3, sparse_entries: 1, file_size: 9, ..Limits::default() };
    let read = |archive: Vec<u8>| match read_with(&archive[..], limits.clone(), 10) {
        Err(Error::Malformed { fault, .. }) => Some(fault),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    assert_eq!(read(file("abc", "123456789")), None);
    assert_eq!(read(file("abcd", "")), Some(Fault::TooLong { what: "path", len: 4, limit: 3 }));
    assert_eq!(read(file("abc", "1234567890")), Some(Fault::TooLong { what: "file", len: 10, limit: 9 }));
    assert_eq!(
        read(pax(&[("abc", "defg")])),
        Some(Fault::TooLong { what: "extended header", len: 12, limit: 10 })
    );
    assert_eq!(read(sparse_gnu("x", 9, &[(0, 1)], b"1")), None);
    assert_eq!(read(sparse_gnu("x", 9, &[(0, 1), (2, 1)], b"12")), Some(SparseFault::TooMany(1).into()));
}

#[test]
fn an_extension_chain_cannot_outgrow_its_limit() {
    // Every block announces another one: 1,000,000 entries, 48 per KiB, would be 24 MB of archive.
    let head = Head::new(b'S', "x").gnu().put(482, [1]).put(483, number(1 << 30, 12));
    let mut head = head;
    for at in 0..4 {
        head = head.put(386 + 24 * at, [number(0, 12), number(0, 12)].concat());
    }
    let block = padded([[number(0, 12), number(0, 12)].concat().repeat(21), vec![1]].concat());
    let archive = [head.block(), block.repeat(50_000)].concat();
    assert_eq!(message(&archive), "entry at 0 (x): sparse map: more than 1000000 entries");
}

#[test]
fn after_an_error_everything_is_one() {
    let archive = [Head::new(b'0', "x").checksum(1), file("y", "")].concat();
    let mut reader = mkimg_mkfs::tar::Reader::new(&archive[..], Limits::default());
    reader.next_entry().unwrap_err();
    assert_eq!(reader.next_entry().unwrap_err().to_string(), "entry at 512: reading goes on after an error");
    assert_eq!(
        reader.read_data(&mut [0; 9]).unwrap_err().to_string(),
        "entry at 512: reading goes on after an error"
    );
}
