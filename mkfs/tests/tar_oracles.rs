//! The same archives through our reader and everybody else's: the `tar` crate, Python's tarfile, GNU tar, bsdtar.
//!
//! The archives are made by GNU tar and by Python. Where a reader is known to see something else, the difference is
//! pinned by a test of its own, so that it is noticed when it goes away. A reader that is not installed is
//! reported and left out.
#![allow(clippy::unwrap_used)]

mod tar_writer;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use mkimg_mkfs::tar::{Kind, Time};
use tar_writer::{END, Head, expanded, file, gnu_long, member, pax, read_all, record};

/// One member as all readers can tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: Vec<u8>,
    kind: char,
    link: Vec<u8>,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: (i64, u32),
    size: u64,
    rdev: (u32, u32),
    /// Adler-32 of the whole content.
    content: u32,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in data {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

/// Directories have a slash at the end or not, as the reader likes.
fn bare(path: &[u8], kind: char) -> Vec<u8> {
    let end = if kind == 'd' {
        path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1)
    } else {
        path.len()
    };
    path[..end].to_vec()
}

fn ours(archive: &[u8]) -> Vec<Seen> {
    let entries = read_all(archive).unwrap();
    let seen = |(entry, stored): &(mkimg_mkfs::tar::Entry, Vec<u8>)| {
        let kind = match entry.kind {
            Kind::File => 'f',
            Kind::Hardlink => 'h',
            Kind::Symlink => 'l',
            Kind::Char => 'c',
            Kind::Block => 'b',
            Kind::Dir => 'd',
            Kind::Fifo => 'p',
        };
        let Time { sec, nsec } = entry.mtime;
        Seen {
            path: bare(&entry.path, kind),
            kind,
            link: entry.link.clone(),
            mode: entry.mode,
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            mtime: (sec, nsec),
            size: entry.size,
            rdev: entry.rdev,
            content: adler32(&expanded(entry, stored)),
            xattrs: entry.xattrs.clone(),
        }
    };
    entries.iter().map(seen).collect()
}

/// The `tar` crate. It gives neither fractions of seconds nor xattrs by itself: those come from its raw records.
fn crate_tar(archive: &[u8]) -> std::io::Result<Vec<Seen>> {
    let mut out = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => 'f',
            tar::EntryType::Link => 'h',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Directory => 'd',
            tar::EntryType::Fifo => 'p',
            _ => '?',
        };
        let rdev = if "cb".contains(kind) {
            (entry.header().device_major()?.unwrap_or(0), entry.header().device_minor()?.unwrap_or(0))
        } else {
            (0, 0)
        };
        let mut xattrs = Vec::new();
        if let Some(records) = entry.pax_extensions()? {
            for record in records {
                let record = record?;
                if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                    xattrs.push((name.to_vec(), record.value_bytes().to_vec()));
                }
            }
        }
        xattrs.sort();
        let link = if "hl".contains(kind) {
            entry.link_name_bytes().unwrap_or_default().to_vec()
        } else {
            Vec::new()
        };
        let mtime = (entry.header().mtime()?.cast_signed(), 0);
        let (path, mode) = (bare(&entry.path_bytes(), kind), entry.header().mode()? & 0o7777);
        let (uid, gid) = (entry.header().uid()?, entry.header().gid()?);
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        let size = data.len() as u64;
        out.push(Seen {
            path,
            kind,
            link,
            mode,
            uid,
            gid,
            mtime,
            size,
            rdev,
            content: adler32(&data),
            xattrs,
        });
    }
    Ok(out)
}

const PYTHON_READER: &str = r#"
import sys, io, tarfile, zlib
from decimal import Decimal
raw = lambda text: text.encode("utf-8", "surrogateescape")
hexed = lambda data: data.hex() or "-"
tar = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), encoding="utf-8", errors="surrogateescape")
for m in tar:
    kind = ("f" if m.isreg() else "d" if m.isdir() else "l" if m.issym() else "h" if m.islnk() else
            "c" if m.ischr() else "b" if m.isblk() else "p" if m.isfifo() else "?")
    time = m.pax_headers.get("mtime")
    nanos = int((Decimal(time) * 10**9).to_integral_value("ROUND_FLOOR")) if time else int(m.mtime) * 10**9
    data = tar.extractfile(m).read() if kind == "f" else b""
    xattrs = sorted((raw(k[13:]), raw(v)) for k, v in m.pax_headers.items() if k.startswith("SCHILY.xattr."))
    dev = (m.devmajor, m.devminor) if kind in "cb" else (0, 0)
    link = raw(m.linkname) if kind in "hl" else b""
    print(hexed(raw(m.name)), kind, hexed(link), m.mode & 0o7777, m.uid, m.gid, nanos // 10**9, nanos % 10**9,
          len(data), dev[0], dev[1], zlib.adler32(data), *(hexed(k) + "=" + hexed(v) for k, v in xattrs))
"#;

fn unhex(text: &str) -> Vec<u8> {
    let text = text.trim_matches('-');
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn python(archive: &[u8]) -> Vec<Seen> {
    let text = run(Command::new("python3").args(["-c", PYTHON_READER]), archive);
    let parse = |line: &str| {
        let f: Vec<&str> = line.split(' ').collect();
        let kind = f[1].chars().next().unwrap();
        let xattr = |pair: &&str| {
            let (name, value) = pair.split_once('=').unwrap();
            (unhex(name), unhex(value))
        };
        Seen {
            path: bare(&unhex(f[0]), kind),
            kind,
            link: unhex(f[2]),
            mode: f[3].parse().unwrap(),
            uid: f[4].parse().unwrap(),
            gid: f[5].parse().unwrap(),
            mtime: (f[6].parse().unwrap(), f[7].parse().unwrap()),
            size: f[8].parse().unwrap(),
            rdev: (f[9].parse().unwrap(), f[10].parse().unwrap()),
            content: f[11].parse().unwrap(),
            xattrs: f[12..].iter().map(xattr).collect(),
        }
    };
    String::from_utf8(text).unwrap().lines().map(parse).collect()
}

/// What `tar -tv` prints. GNU tar: `MODE UID/GID SIZE DATE TIME NAME`.
fn gnu_listing(archive: &[u8]) -> Vec<String> {
    let mut command = Command::new("tar");
    command.env("TZ", "UTC0").env("LC_ALL", "C").args([
        "-tvf",
        "-",
        "--full-time",
        "--numeric-owner",
        "--quoting-style=escape",
    ]);
    let text = String::from_utf8(run(&mut command, archive)).unwrap();
    // It tells contiguous files (type 7) from others.
    let plain =
        |line: &str| line.strip_prefix('C').map_or_else(|| line.to_owned(), |rest| format!("-{rest}"));
    text.lines().map(|line| plain(&line.split_whitespace().collect::<Vec<_>>().join(" "))).collect()
}

/// The line that GNU tar should print for a member.
fn as_gnu_lists(seen: &Seen) -> String {
    let kind = if seen.kind == 'f' { '-' } else { seen.kind };
    let bit = |at: u32, c: char| if seen.mode >> at & 1 == 1 { c } else { '-' };
    let special = |x: u32, s: u32, both: char, only: char| match (seen.mode >> x & 1, seen.mode >> s & 1) {
        (1, 1) => both,
        (0, 1) => only,
        (1, _) => 'x',
        _ => '-',
    };
    let mode: String = [
        kind,
        bit(8, 'r'),
        bit(7, 'w'),
        special(6, 11, 's', 'S'),
        bit(5, 'r'),
        bit(4, 'w'),
        special(3, 10, 's', 'S'),
        bit(2, 'r'),
        bit(1, 'w'),
        special(0, 9, 't', 'T'),
    ]
    .iter()
    .collect();
    let size =
        if "cb".contains(kind) { format!("{},{}", seen.rdev.0, seen.rdev.1) } else { seen.size.to_string() };
    let mut name = String::from_utf8(seen.path.clone()).unwrap();
    if kind == 'd' {
        name.push('/');
    }
    let link = String::from_utf8(seen.link.clone()).unwrap();
    let link = match kind {
        'h' => format!(" link to {link}"),
        'l' => format!(" -> {link}"),
        _ => String::new(),
    };
    format!("{mode} {}/{} {size} {} {name}{link}", seen.uid, seen.gid, utc(seen.mtime))
}

/// `YYYY-MM-DD HH:MM:SS[.FRACTION]`, by Howard Hinnant's days-to-civil algorithm.
fn utc((sec, nsec): (i64, u32)) -> String {
    let (days, second) = (sec.div_euclid(86400), sec.rem_euclid(86400));
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    // GNU tar 1.34 lists -1.5 as the second 59 plus .5 and extracts it rightly as 58.5.
    let (second, nsec) =
        if sec < 0 && nsec > 0 { (second + 1, 1_000_000_000 - nsec) } else { (second, nsec) };
    let fraction = format!(".{nsec:09}");
    let fraction = if nsec == 0 { "" } else { fraction.trim_end_matches('0') };
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}{fraction}")
}

/// Path, time, size and content of a regular file.
type Content = (Vec<u8>, (i64, u32), u64, u32);

fn contents(seen: &[Seen]) -> Vec<Content> {
    let files = seen.iter().filter(|seen| seen.kind == 'f');
    files.map(|seen| (seen.path.clone(), seen.mtime, seen.size, seen.content)).collect()
}

/// The regular files among `seen` as GNU tar or bsdtar extract them.
fn extracted(program: &str, archive: &[u8], seen: &[Seen]) -> Vec<Content> {
    let dir = tempfile::tempdir().unwrap();
    run_any(
        Command::new(program).args(["-xf", "-", "--no-same-owner", "--exclude=dev*"]).current_dir(&dir),
        archive,
    );
    let read = |seen: &Seen| {
        let path = String::from_utf8(seen.path.clone()).unwrap();
        let place = dir.path().join(&path);
        let data = fs::read(&place).unwrap_or_else(|error| panic!("{program} {path}: {error}"));
        let metadata = fs::metadata(&place).unwrap();
        let mtime = (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap());
        (seen.path.clone(), mtime, data.len() as u64, adler32(&data))
    };
    seen.iter().filter(|seen| seen.kind == 'f').map(read).collect()
}

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run_any(command, input);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn run_any(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Programs stop reading behind the end of the archive: a broken pipe is none of our business.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn installed(program: &str) -> bool {
    let there =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        println!("skipped: {program} is not installed");
    }
    there
}

fn gnu_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    let there = version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
    if !there {
        println!("skipped: GNU tar is not installed");
    }
    there
}

/// A tree with everything that the formats can tell apart. `deep`: names that need extended headers.
fn tree(dir: &Path, deep: bool, fifo: bool) {
    fs::create_dir(dir.join("sub")).unwrap();
    for (name, len) in [("empty", 0), ("one", 1), ("block", 512), ("more", 513), ("sub/large", 700_001)] {
        let data: Vec<u8> =
            (0..len).map(|at: u32| at.to_le_bytes()[usize::from(at.is_multiple_of(3))]).collect();
        fs::write(dir.join(name), data).unwrap();
    }
    fs::set_permissions(dir.join("one"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(dir.join("more"), PermissionsExt::from_mode(0o2640)).unwrap();
    fs::set_permissions(dir.join("sub"), PermissionsExt::from_mode(0o1777)).unwrap();
    symlink("../elsewhere", dir.join("sub/symlink")).unwrap();
    fs::hard_link(dir.join("block"), dir.join("sub/hardlink")).unwrap();
    if fifo {
        assert!(Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
    }
    // Fits into the ustar prefix.
    let prefix = "p".repeat(90);
    fs::create_dir(dir.join(&prefix)).unwrap();
    if deep {
        fs::write(dir.join(&prefix).join("n".repeat(60)), "prefixed").unwrap();
    }
}

fn deeper(dir: &Path) {
    let parent = dir.join("a".repeat(200)).join("b".repeat(255));
    fs::create_dir_all(&parent).unwrap();
    fs::write(parent.join("c".repeat(255)), "long name").unwrap();
    symlink("target/".repeat(30), dir.join("long-target")).unwrap();
    fs::hard_link(parent.join("c".repeat(255)), dir.join("long-hardlink")).unwrap();
    fs::write(dir.join("caf\u{e9}"), "utf-8").unwrap();
}

/// Holes in front, between and at the end; more parts than one old GNU extension block holds.
fn holes(dir: &Path) {
    let write = |name: &str, size: u64, parts: &[(u64, usize)]| {
        let file = fs::File::create(dir.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &(offset, len) in parts {
            file.write_all_at(&vec![b'x'; len], offset).unwrap();
        }
    };
    write("holes-between", 400_001, &[(0, 4096), (200_704, 8192), (400_000, 1)]);
    write("hole-last", 300_000, &[(65536, 100)]);
    write("hole-only", 123_456, &[]);
    let many: Vec<(u64, usize)> = (0..60).map(|at| (at * 8192 + 4096, 512)).collect();
    write("many", 60 * 8192, &many);
    fs::write(dir.join("plain"), "plain").unwrap();
}

struct Archive {
    name: &'static str,
    bytes: Vec<u8>,
    /// The `tar` crate expands old GNU maps only.
    pax_sparse: bool,
}

fn gnu_archives() -> Vec<Archive> {
    let mut out = Vec::new();
    type Make = fn(&Path);
    let basic: Make = |dir| tree(dir, false, false);
    let ustar: Make = |dir| tree(dir, true, true);
    let full: Make = |dir| {
        tree(dir, true, true);
        deeper(dir);
    };
    let table: [(&'static str, Make, &[&str]); 14] = [
        ("v7", basic, &["--format=v7"]),
        ("ustar", ustar, &["--format=ustar"]),
        ("ustar-owner", ustar, &["--format=ustar", "--owner=o:2097151", "--group=g:70000"]),
        ("oldgnu", full, &["--format=oldgnu"]),
        ("gnu", full, &["--format=gnu"]),
        (
            "gnu-numbers",
            full,
            &["--format=gnu", "--owner=o:4294967294", "--group=g:3000000000", "--mtime=@-86400"],
        ),
        ("gnu-late", basic, &["--format=gnu", "--mtime=@8589934592"]),
        ("pax", full, &["--format=pax"]),
        ("pax-numbers", full, &["--format=pax", "--owner=o:4294967294", "--group=g:3000000000"]),
        ("pax-ns", full, &["--format=pax", "--mtime=@1700000000.123456789"]),
        ("pax-before-1970", full, &["--format=pax", "--mtime=@-1.5"]),
        ("pax-late", basic, &["--format=pax", "--mtime=@8589934592.000000001"]),
        (
            "pax-xattr",
            basic,
            &["--format=pax", "--pax-option=SCHILY.xattr.user.a:=value,SCHILY.xattr.user.b:=x=y"],
        ),
        ("pax-global", basic, &["--format=pax", "--pax-option=comment=global"]),
    ];
    for (name, make, options) in table {
        out.push(Archive { name, bytes: gnu_archive(make, options), pax_sparse: false });
    }
    let sparse: [(&'static str, &[&str]); 6] = [
        ("sparse-oldgnu", &["--format=oldgnu"]),
        ("sparse-gnu", &["--format=gnu"]),
        ("sparse-0.0", &["--format=pax", "--sparse-version=0.0"]),
        ("sparse-0.1", &["--format=pax", "--sparse-version=0.1"]),
        ("sparse-1.0", &["--format=pax", "--sparse-version=1.0"]),
        ("sparse-1.0-ns", &["--format=pax", "--sparse-version=1.0", "--mtime=@5.25", "--owner=o:70000000"]),
    ];
    for (name, options) in sparse {
        let options = [&["--sparse", "--hole-detection=raw"], options].concat();
        let bytes = gnu_archive(holes, &options);
        assert!(bytes.len() < 500_000, "{name}: holes are stored");
        out.push(Archive { name, bytes, pax_sparse: options.contains(&"--format=pax") });
    }
    out
}

fn gnu_archive(make: fn(&Path), options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let mut command = Command::new("tar");
    command.args(["-cf", "-", "--sort=name"]);
    if !options.iter().any(|option| option.starts_with("--mtime")) {
        command.arg("--mtime=@1700000000");
    }
    run(command.args(options).arg("-C").arg(dir.path()).arg("."), b"")
}

const PYTHON_WRITER: &str = r#"
import sys, io, tarfile
form, deep = sys.argv[1], sys.argv[1] != "ustar"
pax = form == "pax"
tar = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=getattr(tarfile, form.upper() + "_FORMAT"))
def add(name, kind=tarfile.REGTYPE, data=b"", **attrs):
    m = tarfile.TarInfo(name)
    m.type, m.size, m.mtime = kind, len(data), 1700000000
    for key, value in attrs.items():
        setattr(m, key, value)
    tar.addfile(m, io.BytesIO(data))
add("d", tarfile.DIRTYPE, mode=0o1755)
add("d/file", data=b"data" * 999, uid=2097151, gid=65536, uname="root", gname="nobody")
add("contiguous", tarfile.CONTTYPE, b"seven")
add("old", tarfile.AREGTYPE, b"nul type")
add("old-dir/", tarfile.AREGTYPE)
add("dev-null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
add("dev-big", tarfile.CHRTYPE, devmajor=4095, devminor=1048575)
add("dev-zero", tarfile.CHRTYPE)
add("dev-disk", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=8, devminor=0)
add("fifo", tarfile.FIFOTYPE, mode=0o600)
add("symlink", tarfile.SYMTYPE, linkname="../a//b/./c", mode=0o777)
add("hardlink", tarfile.LNKTYPE, linkname="d/file")
add("time-zero", mtime=0)
if deep:
    long = "/".join(c * 120 for c in "abc") + "/end"
    add(long, data=b"long")
    add("h", tarfile.LNKTYPE, linkname=long)
    add("s", tarfile.SYMTYPE, linkname="../" * 300)
    add("before", mtime=-86401)
    add("late", mtime=2**33)
    add("owner", uid=4294967294, gid=3000000000)
    add("owner-max", uid=4294967295, gid=4294967295)
    add("caf\u00e9", data=b"x")
if pax:
    add("ns", mtime=1700000000.25)
    add("ns-before", mtime=-1.5)
    add("ns-tiny", pax_headers={"mtime": "1.000000001"})
    add("cut", pax_headers={"mtime": "1.9999999999"})
    add("xattr", data=b"x", pax_headers={"SCHILY.xattr.user.a": "value", "SCHILY.xattr.user.caf\u00e9": "a=b=c",
                                         "comment": "ignored", "hdrcharset": "BINARY"})
tar.close()
"#;

fn python_archives() -> Vec<Archive> {
    let make = |name: &'static str, form: &str| Archive {
        name,
        bytes: run(Command::new("python3").args(["-c", PYTHON_WRITER, form]), b""),
        pax_sparse: false,
    };
    vec![make("python-ustar", "ustar"), make("python-gnu", "gnu"), make("python-pax", "pax")]
}

fn archives() -> Vec<Archive> {
    let mut out = if gnu_tar() { gnu_archives() } else { Vec::new() };
    if installed("python3") {
        out.extend(python_archives());
    }
    out
}

#[test]
fn good_archives_read_like_the_tar_crate_reads_them() {
    for Archive { name, bytes, pax_sparse } in archives() {
        let mut ours = ours(&bytes);
        let mut theirs = crate_tar(&bytes).unwrap();
        // It hands out global headers as entries.
        theirs.retain(|seen| seen.kind != '?');
        for (ours, theirs) in ours.iter_mut().zip(&mut theirs) {
            // PAX times are not merged into its header, and before 1970 it knows none.
            ours.mtime.1 = 0;
            if ours.mtime.0 < 0 || ours.mtime.0 >= 1 << 33 || name == "python-pax" {
                theirs.mtime = ours.mtime;
            }
            // Nor are PAX sparse maps.
            if pax_sparse && ours.path != theirs.path {
                theirs.path.clone_from(&ours.path);
            }
            if pax_sparse && ours.kind == 'f' {
                (theirs.size, theirs.content) = (ours.size, ours.content);
            }
            // A directory in the old style stays a file.
            if ours.path == b"old-dir" {
                (theirs.kind, theirs.path) = ('d', b"old-dir".to_vec());
            }
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn good_archives_read_like_python_reads_them() {
    if !installed("python3") {
        return;
    }
    for Archive { name, bytes, .. } in archives() {
        assert_eq!(ours(&bytes), python(&bytes), "{name}");
    }
}

#[test]
fn good_archives_list_and_extract_like_gnu_tar_does_it() {
    if !gnu_tar() {
        return;
    }
    for Archive { name, bytes, .. } in archives() {
        let ours = ours(&bytes);
        let lines: Vec<String> = ours.iter().map(as_gnu_lists).collect();
        let theirs: Vec<String> =
            gnu_listing(&bytes).iter().map(|line| line.replace("\\303\\251", "\u{e9}")).collect();
        assert_eq!(lines, theirs, "{name}");
        assert_eq!(extracted("tar", &bytes, &ours), contents(&ours), "{name}");
    }
}

#[test]
fn good_archives_extract_like_bsdtar_does_it() {
    if !installed("bsdtar") {
        return;
    }
    for Archive { name, bytes, .. } in archives() {
        let ours = ours(&bytes);
        for (theirs, mut ours) in extracted("bsdtar", &bytes, &ours).into_iter().zip(contents(&ours)) {
            // libarchive 3.6 adds the fraction of a time before 1970 instead of subtracting it: -1.5 becomes -0.5.
            // GNU tar and Python read it as we do.
            let (sec, nsec) = ours.1;
            if sec < 0 && nsec > 0 {
                ours.1 = (sec + 1, 1_000_000_000 - nsec);
            }
            let path = String::from_utf8_lossy(&theirs.0).into_owned();
            assert_eq!(theirs, ours, "{name}: {path}");
        }
    }
}

fn paths(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| String::from_utf8_lossy(&seen.path).into_owned()).collect()
}

// Differences, each with its reason. `crate_*` are why the reader does not sit on top of the `tar` crate.

#[test]
fn crate_hides_the_entry_behind_a_link_or_directory_with_a_size() {
    for kind in [b'1', b'2', b'5', b'6'] {
        let archive = [
            Head::new(kind, "x").link("t").size(512).block(),
            file("next", ""),
            file("after", ""),
            END.to_vec(),
        ]
        .concat();
        assert_eq!(paths(&ours(&archive)), ["x", "next", "after"]);
        assert_eq!(paths(&crate_tar(&archive).unwrap()), ["x", "after"]);
    }
}

#[test]
fn crate_leaves_pax_times_to_the_caller() {
    let archive = [pax(&[("mtime", "7.5")]), file("x", ""), END.to_vec()].concat();
    assert_eq!(ours(&archive)[0].mtime, (7, 500_000_000));
    assert_eq!(crate_tar(&archive).unwrap()[0].mtime, (0, 0));
}

#[test]
fn crate_returns_pax_sparse_files_as_stored() {
    let archive = [tar_writer::sparse_1_0("x", 2000, &[(1000, 3)], b"abc"), END.to_vec()].concat();
    assert_eq!((ours(&archive)[0].size, &ours(&archive)[0].path[..]), (2000, &b"x"[..]));
    let theirs = crate_tar(&archive).unwrap();
    assert_eq!((theirs[0].size, &theirs[0].path[..]), (515, &b"GNUSparseFile.0/x"[..]));
}

#[test]
fn crate_returns_global_headers_as_entries() {
    let archive = [tar_writer::extended(b'g', record("uid", "7")), file("x", ""), END.to_vec()].concat();
    assert_eq!(paths(&ours(&archive)), ["x"]);
    assert_eq!(crate_tar(&archive).unwrap()[0].kind, '?');
}

#[test]
fn a_lone_zero_block_is_an_error_where_gnu_python_and_the_crate_stop_or_go_on() {
    let archive = [file("x", ""), vec![0; 512], file("hidden", ""), END.to_vec()].concat();
    let error = read_all(&archive[..]).unwrap_err().to_string();
    assert_eq!(error, "entry at 512 (hidden): a lone block of zeros before another header");
    println!("crate: {:?}", crate_tar(&archive).map(|seen| paths(&seen)));
    if gnu_tar() {
        let output = run_any(Command::new("tar").env("LC_ALL", "C").args(["-tf", "-"]), &archive);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"x\n"[..]));
        assert!(String::from_utf8_lossy(&output.stderr).contains("A lone zero block at 2"));
    }
    if installed("python3") {
        assert_eq!(paths(&python(&archive)), ["x"]);
    }
}

#[test]
fn of_two_extended_headers_the_last_counts_alone_as_in_gnu_tar() {
    let archive =
        [pax(&[("path", "first"), ("uid", "7")]), pax(&[("gid", "8")]), file("plain", ""), END.to_vec()]
            .concat();
    let seen = ours(&archive);
    assert_eq!((&seen[0].path[..], seen[0].uid, seen[0].gid), (&b"plain"[..], 0, 8));
    if gnu_tar() {
        assert_eq!(gnu_listing(&archive), ["-rw-r--r-- 0/8 0 1970-01-01 00:00:00 plain"]);
    }
    if installed("python3") {
        let merged = &python(&archive)[0];
        assert_eq!((&merged.path[..], merged.uid, merged.gid), (&b"first"[..], 7, 8));
    }
}

#[test]
fn pax_beats_gnu_long_names_in_either_order_as_in_gnu_tar() {
    for archive in [
        [gnu_long(b'L', "long"), pax(&[("path", "pax")]), file("plain", ""), END.to_vec()].concat(),
        [pax(&[("path", "pax")]), gnu_long(b'L', "long"), file("plain", ""), END.to_vec()].concat(),
    ] {
        assert_eq!(paths(&ours(&archive)), ["pax"]);
        if gnu_tar() {
            assert_eq!(gnu_listing(&archive), ["-rw-r--r-- 0/0 0 1970-01-01 00:00:00 pax"]);
        }
    }
}

#[test]
fn crate_refuses_a_line_break_inside_a_pax_value() {
    let archive = [pax(&[("SCHILY.xattr.user.a", "1\n2=3")]), file("x", ""), END.to_vec()].concat();
    let xattrs = vec![(b"user.a".to_vec(), b"1\n2=3".to_vec())];
    assert_eq!(ours(&archive)[0].xattrs, xattrs);
    assert_eq!(crate_tar(&archive).unwrap_err().to_string(), "malformed pax extension");
    if installed("python3") {
        assert_eq!(python(&archive)[0].xattrs, xattrs);
    }
}

#[test]
fn missing_padding_at_the_end_is_accepted_where_the_crate_and_gnu_tar_complain() {
    let whole = member(Head::new(b'0', "x"), "abc");
    let archive = &whole[..515];
    assert_eq!(paths(&ours(archive)), ["x"]);
    assert_eq!(crate_tar(archive).unwrap_err().to_string(), "unexpected EOF during skip");
    if gnu_tar() {
        let output = run_any(Command::new("tar").args(["-tf", "-"]), archive);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b"x\n"[..]));
    }
}

#[test]
fn an_extended_header_waits_behind_a_global_one_as_in_gnu_tar_and_python() {
    let global = tar_writer::extended(b'g', record("comment", "x"));
    let archive = [pax(&[("uid", "7")]), global, file("x", ""), END.to_vec()].concat();
    let seen = ours(&archive);
    assert_eq!((seen.len(), seen[0].uid), (1, 7));
    if installed("python3") {
        assert_eq!(python(&archive), seen);
    }
    if gnu_tar() {
        assert_eq!(gnu_listing(&archive), ["-rw-r--r-- 7/0 0 1970-01-01 00:00:00 x"]);
    }
}

#[test]
fn digits_behind_a_leading_nul_are_an_error_because_gnu_tar_and_python_disagree() {
    let archive = [Head::new(b'0', "x").put(108, b"\x000000012").block(), END.to_vec()].concat();
    let error = read_all(&archive[..]).unwrap_err().to_string();
    assert_eq!(error, "entry at 0 (x): uid is not a number: \"\\x000000012\"");
    if gnu_tar() {
        assert_eq!(gnu_listing(&archive), ["-rw-r--r-- 10/0 0 1970-01-01 00:00:00 x"]);
    }
    if installed("python3") {
        assert_eq!(python(&archive)[0].uid, 0);
    }
}

#[test]
fn a_file_with_a_slash_is_an_error_because_gnu_tar_and_python_disagree() {
    let archive = [member(Head::new(0, "x/"), "abc"), file("next", ""), END.to_vec()].concat();
    assert_eq!(
        read_all(&archive[..]).unwrap_err().to_string(),
        "entry at 0 (x/): file of 3 bytes whose name ends in a slash"
    );
    if gnu_tar() {
        assert_eq!(gnu_listing(&archive).len(), 2);
    }
    if installed("python3") {
        // The data is taken for a header.
        assert_eq!(paths(&python(&archive)), ["x"]);
    }
}

#[test]
fn pax_size_hides_an_inner_archive_from_everybody() {
    let inner = [file("hidden", "hidden"), END.to_vec()].concat();
    let archive = [
        pax(&[("size", &inner.len().to_string())]),
        Head::new(b'0', "outer.tar").block(),
        inner,
        file("after", ""),
        END.to_vec(),
    ]
    .concat();
    let seen = ours(&archive);
    assert_eq!(paths(&seen), ["outer.tar", "after"]);
    assert_eq!(crate_tar(&archive).unwrap(), seen);
    if installed("python3") {
        assert_eq!(python(&archive), seen);
    }
    if gnu_tar() {
        assert_eq!(gnu_listing(&archive), seen.iter().map(as_gnu_lists).collect::<Vec<_>>());
    }
}

#[test]
fn a_part_in_the_middle_that_ends_inside_a_block_is_followed_at_once_as_in_python() {
    let archive =
        [tar_writer::sparse_1_0("x", 2000, &[(0, 3), (1000, 3)], b"abcdef"), file("after", ""), END.to_vec()]
            .concat();
    let seen = ours(&archive);
    assert_eq!(paths(&seen), ["x", "after"]);
    if installed("python3") {
        assert_eq!(seen, python(&archive));
    }
}
