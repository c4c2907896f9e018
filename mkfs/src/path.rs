//! Names in archives, and what they mean.

use mkimg_format::erofs::{NAME_MAX, PATH_MAX};

use crate::error::Problem;

/// An entry's name without leading slashes, doubled slashes and single dots; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryPath<'a> {
    /// The directory it is in, by components.
    pub parent: Vec<&'a [u8]>,
    /// Its own name; `None` for the root.
    pub name: Option<&'a [u8]>,
}

impl<'a> EntryPath<'a> {
    /// Takes a name apart.
    ///
    /// # Errors
    /// `..` anywhere, a component of more than 255 bytes, a path of more than 4096.
    pub(crate) fn parse(path: &'a [u8]) -> Result<Self, Problem> {
        if path.len() > PATH_MAX {
            return Err(Problem::TooLong { what: "path", found: path.len(), limit: PATH_MAX });
        }
        let mut parent: Vec<&[u8]> = components(path).collect();
        if parent.contains(&&b".."[..]) {
            return Err(Problem::DotDot);
        }
        if let Some(long) = parent.iter().find(|name| name.len() > NAME_MAX) {
            return Err(Problem::TooLong { what: "name", found: long.len(), limit: NAME_MAX });
        }
        let name = parent.pop();
        Ok(Self { parent, name })
    }
}

/// The components of a path that mean something: empty ones and `.` are left out, `..` stays.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// What the name of an entry says about lower layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Marker<'a> {
    /// Nothing: an ordinary entry.
    None,
    /// `.wh.NAME`: hide NAME.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: hide everything in this directory.
    Opaque,
    /// Bookkeeping of aufs, or something below a marker: dropped.
    Dropped,
}

/// Whether a name is kept for markers.
pub(crate) fn is_marker_name(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl<'a> Marker<'a> {
    /// Reads the marker out of a name.
    ///
    /// # Errors
    /// A whiteout for the empty name, `.` or `..`.
    pub(crate) fn of(path: &EntryPath<'a>) -> Result<Self, Problem> {
        if path.parent.iter().any(|name| is_marker_name(name)) {
            return Ok(Self::Dropped);
        }
        let Some(name) = path.name else { return Ok(Self::None) };
        if name == OPAQUE {
            return Ok(Self::Opaque);
        }
        if name.starts_with(AUFS) {
            return Ok(Self::Dropped);
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Self::None),
            Some(b"" | b"." | b"..") => Err(Problem::Whiteout),
            Some(hidden) => Ok(Self::Whiteout(hidden)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_specification_says() {
        for (path, marker) in [
            (&b"a/b"[..], Ok(Marker::None)),
            (b"./", Ok(Marker::None)),
            (b"a/.wh.b", Ok(Marker::Whiteout(b"b"))),
            (b"a/.wh.b/", Ok(Marker::Whiteout(b"b"))),
            (b"/.wh..wh..opq", Ok(Marker::Opaque)),
            (b".wh..wh..opqx", Ok(Marker::Dropped)),
            (b".wh..wh.plnk/17.42", Ok(Marker::Dropped)),
            (b".wh.gone/child", Ok(Marker::Dropped)),
            (b"a/.wh.", Err(Problem::Whiteout)),
            (b"a/.wh..", Err(Problem::Whiteout)),
            (b"a/.wh...", Err(Problem::Whiteout)),
            (b"a/.wh....", Ok(Marker::Whiteout(b"..."))),
        ] {
            let parsed = EntryPath::parse(path).unwrap();
            assert_eq!(Marker::of(&parsed), marker, "{path:?}");
        }
    }

    #[test]
    fn spelling_does_not_matter_and_dot_dot_does() {
        for path in [&b"/a/b"[..], b"a//b", b"./a/./b", b"a/b/", b"a/b/."] {
            let parsed = EntryPath::parse(path).unwrap();
            assert_eq!((parsed.parent, parsed.name), (vec![&b"a"[..]], Some(&b"b"[..])));
        }
        assert_eq!(EntryPath::parse(b"././/").unwrap().name, None);
        for path in [&b".."[..], b"a/..", b"../a", b"a/../b"] {
            assert_eq!(EntryPath::parse(path), Err(Problem::DotDot));
        }
    }
}
