//! `/proc/self/mountinfo`: the kernel's own list of mounts.
//!
//! One line a mount (`proc_pid_mountinfo(5)`), fields separated by single blanks:
//!
//! ```text
//! 36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id parent dev root target     options    optional…  type source    super options
//! ```
//!
//! Blank, tab, newline and backslash inside a field are written as three octal digits. Fields are
//! bytes: a path need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, errno_of};

/// The list itself.
const TABLE: &str = "/proc/self/mountinfo";

/// Largest table that is read, in bytes: some 500,000 mounts, five times the kernel's default limit.
const MAX_BYTES: usize = 128 << 20;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountEntry {
    /// Mount id, unique while the mount lives.
    pub id: u32,
    /// Id of the mount this one is mounted on.
    pub parent: u32,
    /// Major device number of the file system; 0 when it has no block device.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Path inside the file system that is the root of the mount.
    pub root: PathBuf,
    /// Where it is mounted, seen from the process's root.
    pub target: PathBuf,
    /// Options of this mount.
    pub options: Vec<OsString>,
    /// Optional fields, for example `shared:2`.
    pub optional: Vec<OsString>,
    /// Type of the file system.
    pub fstype: OsString,
    /// Source as given by whoever mounted it.
    pub source: OsString,
    /// Options of the file system, unescaped.
    pub super_options: Vec<OsString>,
}

impl MountEntry {
    /// Whether writes are refused, by the mount or by the file system.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.options.iter().chain(&self.super_options).any(|option| option == "ro")
    }

    /// Value of the super option `key=value`.
    #[must_use]
    pub fn super_option(&self, key: &str) -> Option<&OsStr> {
        self.super_options.iter().find_map(|option| {
            let rest = option.as_bytes().strip_prefix(key.as_bytes())?;
            rest.strip_prefix(b"=").map(OsStr::from_bytes)
        })
    }
}

/// Notices that the list of mounts changes: an exceptional condition (`POLLPRI`) of the descriptor, each time once.
#[derive(Debug)]
pub struct Changes(std::fs::File);

impl Changes {
    /// Notices all changes from now on.
    ///
    /// # Errors
    /// Without a mounted `/proc`.
    pub fn open() -> Result<Self> {
        let path = Path::new(TABLE);
        std::fs::File::open(path).map(Self).map_err(|error| Error::at("open", path)(errno_of(&error)))
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The mounts of the calling process's namespace, in the kernel's order.
pub fn read() -> Result<Vec<MountEntry>> {
    let path = Path::new(TABLE);
    let fail = |e: std::io::Error| Error::at("read", path)(errno_of(&e));
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge { what: "mountinfo", found: bytes.len(), limit: MAX_BYTES });
    }
    parse(&bytes)
}

/// Parses the text of a mountinfo file.
pub fn parse(bytes: &[u8]) -> Result<Vec<MountEntry>> {
    let mut entries = Vec::new();
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let entry = parse_line(line).map_err(|reason| Error::MountInfo {
            line: index.saturating_add(1),
            reason,
            text: String::from_utf8_lossy(line.get(..200).unwrap_or(line)).into_owned(),
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

/// The topmost mount at exactly this path (compared byte by byte, so pass a canonical path).
///
/// Of several mounts on one path the last mounted hides the others; it is the one that no other mount
/// on that path has as its parent.
#[must_use]
pub fn find<'a>(entries: &'a [MountEntry], target: &Path) -> Option<&'a MountEntry> {
    let here: Vec<&MountEntry> = entries.iter().filter(|entry| entry.target == target).collect();
    here.iter()
        .rev()
        .find(|entry| !here.iter().any(|other| other.parent == entry.id && other.id != entry.id))
        .copied()
}

fn parse_line(line: &[u8]) -> std::result::Result<MountEntry, &'static str> {
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |what| fields.next().filter(|field| !field.is_empty()).ok_or(what);
    let id = number(next("no mount id")?).ok_or("mount id is not a number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is not a number")?;
    let device = next("no device number")?;
    let colon = device.iter().position(|b| *b == b':').ok_or("device number without colon")?;
    let (major, minor) = device.split_at(colon);
    let major = number(major).ok_or("major is not a number")?;
    let minor = minor.strip_prefix(b":").and_then(number).ok_or("minor is not a number")?;
    let root = PathBuf::from(unescape(next("no root")?));
    let target = PathBuf::from(unescape(next("no mount point")?));
    let options = option_list(next("no mount options")?);
    let mut optional = Vec::new();
    loop {
        match next("no separator")? {
            b"-" => break,
            field => optional.push(unescape(field)),
        }
    }
    let fstype = unescape(next("no file system type")?);
    // The source may be empty (`mount -t tmpfs "" /x`): then two blanks follow each other.
    let source = unescape(fields.next().ok_or("no source")?);
    let super_options = option_list(fields.next().ok_or("no super options")?);
    Ok(MountEntry {
        id,
        parent,
        major,
        minor,
        root,
        target,
        options,
        optional,
        fstype,
        source,
        super_options,
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    if !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Splits at commas first: a comma inside a value is written as `\054`.
fn option_list(bytes: &[u8]) -> Vec<OsString> {
    bytes.split(|b| *b == b',').filter(|option| !option.is_empty()).map(unescape).collect()
}

/// Replaces `\ooo` by its byte; anything else stays as it is.
fn unescape(bytes: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some((digits, after)) = tail.split_first_chunk::<3>()
            && let Some(value) = octal(*digits)
        {
            out.push(value);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let mut value = 0u16;
    for digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value * 8 + u16::from(digit - b'0');
    }
    u8::try_from(value).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn one(line: &[u8]) -> MountEntry {
        let mut entries = parse(line).unwrap();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn every_field() {
        let entry = one(
            b"36 35 98:7 /ro\\040ot /mnt/a\\134b\\011c rw,noatime master:1 shared:2 - ext3 /dev/r\\012x rw,errors=continue\n",
        );
        assert_eq!((entry.id, entry.parent, entry.major, entry.minor), (36, 35, 98, 7));
        assert_eq!(entry.root, Path::new("/ro ot"));
        assert_eq!(entry.target, Path::new("/mnt/a\\b\tc"));
        assert_eq!(entry.options, ["rw", "noatime"]);
        assert_eq!(entry.optional, ["master:1", "shared:2"]);
        assert_eq!(entry.fstype, "ext3");
        assert_eq!(entry.source, "/dev/r\nx");
        assert_eq!(entry.super_options, ["rw", "errors=continue"]);
        assert!(!entry.read_only());
        assert_eq!(entry.super_option("errors"), Some(OsStr::new("continue")));
        assert_eq!(entry.super_option("error"), None);
    }

    #[test]
    fn overlay_line_of_linux_6_18() {
        let entry = one(b"45 27 0:40 / /t rw,relatime - overlay mkimg:file:/i,\\134\\040mg rw,lowerdir+=/,upperdir=/tmp/u\\054p:e\\134r\\040x,workdir=/w");
        assert_eq!(entry.source, "mkimg:file:/i,\\ mg");
        assert_eq!(entry.super_option("upperdir"), Some(OsStr::new("/tmp/u,p:e\\r x")));
        assert_eq!(entry.super_option("lowerdir+"), Some(OsStr::new("/")));
        assert!(entry.optional.is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf8_and_odd_escapes() {
        let entry = one(b"1 2 0:3 / /\xff\\377\\9\\40 ro - erofs \\134054 ro");
        assert_eq!(entry.target.as_os_str().as_bytes(), b"/\xff\xff\\9\\40");
        assert_eq!(entry.source, "\\054");
        assert!(entry.read_only());
        // Above one byte is no escape.
        assert_eq!(one(b"1 2 0:3 / /\\777 rw - x y rw").target, Path::new("/\\777"));
    }

    #[test]
    fn empty_source() {
        let entry = one(b"1 2 0:3 / /x rw - tmpfs  rw");
        assert_eq!(entry.source, "");
        assert_eq!(entry.super_options, ["rw"]);
    }

    #[test]
    fn malformed_lines_name_line_and_rule() {
        let good = b"1 2 0:3 / /x rw - tmpfs t rw\n".to_vec();
        for (line, reason) in [
            (&b"x 2 0:3 / /x rw - t s rw"[..], "mount id is not a number"),
            (b"1 +2 0:3 / /x rw - t s rw", "parent id is not a number"),
            (b"1 2 03 / /x rw - t s rw", "device number without colon"),
            (b"1 2 0: / /x rw - t s rw", "minor is not a number"),
            (b"1 2 99999999999:1 / /x rw - t s rw", "major is not a number"),
            (b"1 2 0:3 / /x rw", "no separator"),
            (b"1 2 0:3 / /x rw -", "no file system type"),
            (b"1 2 0:3 / /x rw - t", "no source"),
            (b"1 2 0:3 / /x rw - t s", "no super options"),
            (b" ", "no mount id"),
        ] {
            let text = [&good[..], line].concat();
            match parse(&text).unwrap_err() {
                Error::MountInfo { line: 2, reason: found, .. } => assert_eq!(found, reason),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn topmost_of_stacked_mounts() {
        let entries =
            parse(b"9 5 0:9 / /x rw - c c rw\n5 1 0:5 / /x rw - a a rw\n7 1 0:7 / /x/y rw - b b rw\n")
                .unwrap();
        assert_eq!(find(&entries, Path::new("/x")).unwrap().id, 9);
        assert_eq!(find(&entries, Path::new("/x/y")).unwrap().id, 7);
        assert!(find(&entries, Path::new("/z")).is_none());
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let entries = read().unwrap();
        assert_eq!(find(&entries, Path::new("/proc")).unwrap().fstype, "proc");
    }
}
