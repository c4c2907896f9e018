//! An index of the members of an outer tar archive (`oci-archive`, `docker-archive`): name to place in the file.
//!
//! Only headers are read, nothing is unpacked, and links are resolved among the members alone. The reader is strict: a
//! header that is not understood is an error, because another reader might see other members behind it.
//!
//! Source: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format".

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, quote};
use crate::limits::Limits;
use crate::store::{Extent, read_exact_at};

const BLOCK: u64 = 512;
/// Bytes of one extended header (PAX records, GNU long name).
const EXTENDED_MAX: u64 = 1 << 20;
/// Bytes of one member name or link target.
const NAME_MAX: usize = 4096;

/// An archive and what is in it. The last member of a name wins.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug, Clone, PartialEq)]
enum Member {
    File {
        offset: u64,
        len: u64,
    },
    /// Normalised name of another member.
    Link(Vec<u8>),
    Sparse,
    Special,
}

impl Archive {
    /// Reads all headers.
    pub(crate) fn index(path: &Path, file: Arc<File>, len: u64, limits: &Limits) -> Result<Archive, Error> {
        let mut members = HashMap::new();
        let mut names = 0_u64;
        let mut walk = Walk::new(path, &file, len, limits.archive_members);
        while let Some((name, member)) = walk.next()? {
            let bytes = name.len() + if let Member::Link(target) = &member { target.len() } else { 0 };
            names = names.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            if names > limits.archive_name_bytes {
                return Err(Error::Limit {
                    object: path.display().to_string(),
                    what: "length of all member names".to_owned(),
                    limit: limits.archive_name_bytes,
                });
            }
            members.insert(name, member);
        }
        Ok(Archive { path: path.to_owned(), file, members })
    }

    /// Where the content of the member `name` is, none if there is no such member.
    pub(crate) fn find(&self, name: &str, limits: &Limits) -> Result<Option<Extent>, Error> {
        let object = || format!("{}: member {}", self.path.display(), quote(name));
        let Some(mut at) = normalise(name.as_bytes()) else { return Ok(None) };
        for _ in 0..=limits.archive_links {
            match self.members.get(&at) {
                None => return Ok(None),
                Some(Member::File { offset, len }) => {
                    return Ok(Some(Extent { file: Arc::clone(&self.file), offset: *offset, len: *len }));
                }
                Some(Member::Link(target)) => at = target.clone(),
                Some(Member::Sparse) => {
                    return Err(Error::NotRegular { object: object(), found: "sparse member" });
                }
                Some(Member::Special) => {
                    return Err(Error::NotRegular { object: object(), found: "directory or special file" });
                }
            }
        }
        Err(Error::Limit {
            object: object(),
            what: "number of links to follow".to_owned(),
            limit: limits.archive_links.into(),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    pub(crate) fn has_below(&self, prefix: &str) -> bool {
        self.members.keys().any(|name| name.starts_with(prefix.as_bytes()))
    }
}

/// Reads one header after the other.
struct Walk<'a> {
    path: &'a Path,
    file: &'a File,
    len: u64,
    at: u64,
    left: u32,
    limit: u32,
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<'a> Walk<'a> {
    fn new(path: &'a Path, file: &'a File, len: u64, limit: u32) -> Walk<'a> {
        Walk { path, file, len, at: 0, left: limit, limit }
    }

    fn error(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::Archive { path: self.path.to_owned(), offset, reason: reason.into() }
    }

    /// The next member, none at the end of the archive.
    fn next(&mut self) -> Result<Option<(Vec<u8>, Member)>, Error> {
        let mut extended = Extended::default();
        let mut pending = false;
        loop {
            let start = self.at;
            if start == self.len && !pending {
                return Ok(None);
            }
            let mut header = [0; 512];
            self.read(start, &mut header)?;
            if header.iter().all(|byte| *byte == 0) {
                if pending {
                    return Err(self.error(start, "the archive ends after an extended header"));
                }
                return Ok(None);
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| Error::Limit {
                object: self.path.display().to_string(),
                what: "number of archive members".to_owned(),
                limit: self.limit.into(),
            })?;
            if !checksum_holds(&header) {
                return Err(self.error(start, "wrong tar header checksum"));
            }
            let declared = number(&header[124..136]).ok_or_else(|| self.error(start, "unreadable size"))?;
            let kind = header[156];
            if let b'x' | b'g' | b'L' | b'K' = kind {
                let data = self.extended_data(start, declared)?;
                match kind {
                    b'x' => self.records(start, &data, &mut extended)?,
                    b'L' => extended.name = Some(until_nul(&data).to_vec()),
                    b'K' => extended.link = Some(until_nul(&data).to_vec()),
                    _ => {}
                }
                pending |= kind != b'g';
                continue;
            }
            let has_data = !matches!(kind, b'1'..=b'6');
            let size = if has_data { extended.size.unwrap_or(declared) } else { 0 };
            let offset = start.saturating_add(BLOCK);
            self.at = self.behind(start, offset, size)?;

            let raw_name = extended.name.unwrap_or_else(|| plain_name(&header));
            let raw_link = extended.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
            if raw_name.len() > NAME_MAX || raw_link.len() > NAME_MAX {
                return Err(self.error(start, format!("a name of more than {NAME_MAX} bytes")));
            }
            let Some(name) = normalise(&raw_name) else {
                return Err(self.error(start, "a member name with .. or without an end"));
            };
            let member = match kind {
                b'0' | 0 | b'7' if raw_name.ends_with(b"/") => Member::Special,
                b'0' | 0 | b'7' if extended.sparse => Member::Sparse,
                b'0' | 0 | b'7' => Member::File { offset, len: size },
                b'S' => {
                    // Old GNU sparse maps may go on in blocks between header and data; without reading them the
                    // next header cannot be found.
                    return Err(self.error(start, "sparse members are not supported in an image archive"));
                }
                b'1' => match normalise(&raw_link) {
                    Some(target) => Member::Link(target),
                    None => Member::Special,
                },
                b'2' => match beside(&name, &raw_link) {
                    Some(target) => Member::Link(target),
                    None => Member::Special,
                },
                _ => Member::Special,
            };
            return Ok(Some((name, member)));
        }
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let want = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if at.checked_add(want).is_none_or(|end| end > self.len) {
            return Err(self.error(at, "the archive ends early"));
        }
        read_exact_at(self.file, buf, at)
            .map_err(|source| Error::Io { object: self.path.display().to_string(), source })
    }

    /// Offset of the next header; the last member may lack its padding.
    fn behind(&self, start: u64, offset: u64, size: u64) -> Result<u64, Error> {
        let end = offset.checked_add(size).filter(|end| *end <= self.len);
        let end =
            end.ok_or_else(|| self.error(start, format!("a member of {size} bytes leaves the archive")))?;
        Ok(end.next_multiple_of(BLOCK).min(self.len))
    }

    fn extended_data(&mut self, start: u64, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENDED_MAX {
            return Err(
                self.error(start, format!("an extended header of {size} bytes, the limit is {EXTENDED_MAX}"))
            );
        }
        let offset = start.saturating_add(BLOCK);
        self.at = self.behind(start, offset, size)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read(offset, &mut data)?;
        Ok(data)
    }

    /// PAX records: `LENGTH KEY=VALUE\n`, LENGTH in decimal and counting all of it.
    fn records(&self, start: u64, mut data: &[u8], extended: &mut Extended) -> Result<(), Error> {
        let bad = || self.error(start, "malformed PAX record");
        while !data.is_empty() {
            let space = data.iter().take(20).position(|c| *c == b' ').ok_or_else(bad)?;
            let len = decimal(&data[..space]).and_then(|len| usize::try_from(len).ok()).ok_or_else(bad)?;
            if len <= space + 1 || len > data.len() {
                return Err(bad());
            }
            let (record, rest) = data.split_at(len);
            data = rest;
            let (b'\n', record) = record[space + 1..].split_last().ok_or_else(bad)? else {
                return Err(bad());
            };
            let equals = record.iter().position(|c| *c == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"" => return Err(bad()),
                b"path" => extended.name = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => extended.size = Some(decimal(value).ok_or_else(bad)?),
                _ if key.starts_with(b"GNU.sparse.") => extended.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Name without leading `/`, `.` components and repeated slashes; none with a `..` component or a NUL.
fn normalise(name: &[u8]) -> Option<Vec<u8>> {
    beside(b"", name.strip_prefix(b"/").unwrap_or(name))
        .filter(|_| !name.split(|c| *c == b'/').any(|part| part == b".."))
}

/// What the symlink target `target` of the member `link` means inside the archive; none if it leads out of it.
fn beside(link: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.contains(&0) || target.len() > NAME_MAX {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    if !target.starts_with(b"/") {
        parts.extend(link.split(|c| *c == b'/'));
        parts.pop();
    }
    for part in target.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join(&b'/'))
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

fn plain_name(header: &[u8; 512]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    // GNU archives ("ustar" and two spaces) use the prefix area for other things.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

fn checksum_holds(header: &[u8; 512]) -> bool {
    let Some(stored) = number(&header[148..156]) else { return false };
    let byte = |(i, byte): (usize, &u8)| if (148..156).contains(&i) { b' ' } else { *byte };
    let unsigned: u64 = header.iter().enumerate().map(|item| u64::from(byte(item))).sum();
    // Some old writers summed signed bytes.
    let signed: i64 = header.iter().enumerate().map(|item| i64::from(byte(item).cast_signed())).sum();
    stored == unsigned || i64::try_from(stored) == Ok(signed)
}

/// Octal with blanks around it, or base-256 where the first bit is set. None if negative, too large or unreadable.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        if *first != 0x80 {
            return None;
        }
        return rest
            .iter()
            .try_fold(0_u64, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let blank = |c: &u8| *c == b' ' || *c == 0;
    let from = field.iter().position(|c| !blank(c)).unwrap_or(field.len());
    let text = &field[from..];
    let end = text.iter().position(blank).unwrap_or(text.len());
    if !text[end..].iter().all(blank) {
        return None;
    }
    text[..end].iter().try_fold(0_u64, |value, c| match c {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(c - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, c| match c {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(c - b'0')),
        _ => None,
    })
}
