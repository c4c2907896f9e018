//! What can be wrong with an archive, and the one line that says so.

use std::fmt::{self, Display, Write as _};
use std::io;

/// Why a tar archive could not be read.
///
/// Offsets count bytes from the start of the uncompressed archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The inner reader failed; the archive itself may be fine.
    #[error("cannot read the tar stream at {offset}")]
    Io {
        /// Bytes of the archive that were consumed before.
        offset: u64,
        /// What the inner reader reported.
        source: io::Error,
    },
    /// The archive breaks a rule or a limit.
    #[error("{}: {fault}", Place { offset: *offset, path: path.as_deref() })]
    Malformed {
        /// Of the first block of the member, extended headers included.
        offset: u64,
        /// Name of the member as far as it is known, raw.
        path: Option<Vec<u8>>,
        /// The rule, and what was found.
        fault: Fault,
    },
}

/// The rule that a member breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The checksum field holds another number than the sum of the header's bytes.
    #[error("header checksum is {found}, computed {computed}")]
    Checksum {
        /// The stored number.
        found: i128,
        /// The sum over unsigned bytes, the form that POSIX defines.
        computed: u32,
    },
    /// A numeric header field that is neither octal nor base-256.
    #[error("{field} is not a number: \"{}\"", Escaped(value))]
    NotANumber {
        /// Name of the field in `tar.h`.
        field: &'static str,
        /// The whole field.
        value: Vec<u8>,
    },
    /// A number outside of what the field can mean.
    #[error("{field} is {value}, allowed are {min} to {max}")]
    OutOfRange {
        /// Name of the header field or PAX key.
        field: &'static str,
        /// The number.
        value: i128,
        /// Smallest allowed.
        min: i128,
        /// Largest allowed.
        max: i128,
    },
    /// A type flag that no layer may hold.
    #[error("unsupported entry type '{}'", Escaped(&[*.0]))]
    Type(u8),
    /// An old GNU sparse entry without the GNU magic: its map would overlap the name prefix.
    #[error("sparse entry (type 'S') without the gnu magic")]
    SparseDialect,
    /// The structure of an extended header (`x`, `X`, `g`) is broken.
    #[error("malformed pax record at byte {at} of the extended header: {problem}")]
    Record {
        /// Byte position inside the extended header's data.
        at: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A PAX record whose value makes no sense for its key.
    #[error("pax record {}=\"{}\": {problem}", Escaped(key), Escaped(value))]
    Value {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// What is wrong.
        problem: &'static str,
    },
    /// Something is longer than its limit.
    #[error("{what} of {len} bytes, the limit is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An extended attribute is longer than its limit.
    #[error("xattr {} has a {part} of {len} bytes, the limit is {limit}", Escaped(name))]
    Xattr {
        /// Name of the attribute.
        name: Vec<u8>,
        /// `name` or `value`.
        part: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A name holds a NUL byte.
    #[error("nul byte in the {0}")]
    Nul(&'static str),
    /// A link points nowhere.
    #[error("{0} without a target")]
    NoTarget(&'static str),
    /// A file's name ends in a slash, as only that of a directory may.
    #[error("file of {size} bytes whose name ends in a slash")]
    FileWithSlash {
        /// Its size in bytes.
        size: u64,
    },
    /// A sparse map breaks a rule.
    #[error("sparse map: {0}")]
    Sparse(SparseFault),
    /// The archive ends inside something.
    #[error("archive ends at {end}, {missing} bytes before the end of the {what}")]
    Truncated {
        /// What is incomplete.
        what: &'static str,
        /// Length of the archive in bytes.
        end: u64,
        /// How many bytes are missing.
        missing: u64,
    },
    /// Extended headers describe an entry that does not come.
    #[error("extended header without an entry behind it")]
    Orphan,
    /// One block of zeros with a header behind it.
    #[error("a lone block of zeros before another header")]
    LoneZeroBlock,
    /// The reader was used again after it had failed.
    #[error("reading goes on after an error")]
    AfterError,
}

/// The rule that a sparse map breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SparseFault {
    /// More entries than the limit.
    #[error("more than {0} entries")]
    TooMany(u64),
    /// An entry starts before the end of the one in front of it.
    #[error("entry at {offset} overlaps or precedes the one that ends at {previous}")]
    Order {
        /// Where the entry starts in the file.
        offset: u64,
        /// Where the previous one ended.
        previous: u64,
    },
    /// An entry leaves the file.
    #[error("entry of {len} bytes at {offset} leaves the file of {size} bytes")]
    Outside {
        /// Where the entry starts in the file.
        offset: u64,
        /// Its length.
        len: u64,
        /// The size of the file.
        size: u64,
    },
    /// The entries do not add up to the data in the archive.
    #[error("entries cover {mapped} bytes, the archive holds {stored}")]
    Sum {
        /// Sum of the entries' lengths.
        mapped: u64,
        /// Bytes of data in the archive.
        stored: u64,
    },
    /// The number of entries differs from the one announced.
    #[error("{found} entries, {announced} announced")]
    Count {
        /// Entries in the map.
        found: u64,
        /// The number in `GNU.sparse.numblocks`.
        announced: u64,
    },
    /// A version other than 0.0, 0.1 and 1.0.
    #[error("unknown version {major}.{minor}")]
    Version {
        /// `GNU.sparse.major`, 0 when absent.
        major: u64,
        /// `GNU.sparse.minor`, 0 when absent.
        minor: u64,
    },
    /// Any other contradiction.
    #[error("{0}")]
    Form(&'static str),
}

impl From<SparseFault> for Fault {
    fn from(fault: SparseFault) -> Self {
        Self::Sparse(fault)
    }
}

impl Fault {
    /// Places the fault at a member.
    pub(super) fn at(self, offset: u64, path: Option<&[u8]>) -> Error {
        Error::Malformed { offset, path: path.map(<[u8]>::to_vec), fault: self }
    }
}

struct Place<'a> {
    offset: u64,
    path: Option<&'a [u8]>,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Some(path) if !path.is_empty() => write!(f, "entry at {} ({})", self.offset, Escaped(path)),
            _ => write!(f, "entry at {}", self.offset),
        }
    }
}

/// Bytes from an archive as one line of text that cannot steer a terminal.
///
/// UTF-8 stays readable; every other byte, control and text-direction characters and the backslash
/// are escaped. Long names are cut after [`Escaped::SHOWN`] bytes: a message is no place for a megabyte.
pub(super) struct Escaped<'a>(pub(super) &'a [u8]);

impl Escaped<'_> {
    const SHOWN: usize = 512;
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..Self::SHOWN).unwrap_or(self.0);
        for chunk in shown.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(c))?,
                    '\u{80}'..='\u{9f}'
                    | '\u{200e}'
                    | '\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}' => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    _ => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if shown.len() < self.0.len() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let cases: [(&[u8], &str); 7] = [
            (b"usr/bin/env", "usr/bin/env"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"latin-\xe9", "latin-\\xe9"),
            (b"line\nbreak\ttab\r", "line\\nbreak\\ttab\\r"),
            (b"esc\x1b[31m\x7f\0", "esc\\x1b[31m\\x7f\\x00"),
            (b"back\\slash", "back\\\\slash"),
            ("a\u{202e}b\u{2028}c\u{9b}".as_bytes(), "a\\u{202e}b\\u{2028}c\\u{9b}"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Escaped(bytes).to_string(), text);
        }
        let long = Escaped(&[b'n'; 5000]).to_string();
        assert_eq!(long, format!("{}...", "n".repeat(512)));
    }

    #[test]
    fn names_the_place() {
        let fault = Fault::Checksum { found: 1234, computed: 5678 };
        assert_eq!(
            fault.clone().at(1024, Some(b"bad/sum")).to_string(),
            "entry at 1024 (bad/sum): header checksum is 1234, computed 5678"
        );
        assert_eq!(fault.at(0, None).to_string(), "entry at 0: header checksum is 1234, computed 5678");
    }
}
