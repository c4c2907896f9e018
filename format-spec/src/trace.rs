//! Traces: which files a workload reads, in the order of first access.
//!
//! A text that `mkimg mount --record` writes and `mkimg build --optimize-for` reads, or that somebody writes by hand:
//!
//! ```text
//! # anything
//! /usr/bin/python3
//! /usr/lib/python3.11/encodings/__init__.py
//! /srv/a\nname\x20with\xffescapes
//! ```
//!
//! One path a line, absolute from the root of the image, escaped as [`escape`] does it. Lines that begin with `#`, and
//! lines of nothing but blanks, say nothing.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256 as Hasher};

use crate::Sha256;
use crate::erofs::{PATH_MAX, escape, unescape};

/// Longest trace in bytes: a million paths of 64 bytes.
pub const TRACE_MAX: usize = 64 << 20;

/// What a recorded trace begins with.
const HEAD: &str = "# files in the order of first access\n";

/// Why a text is no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// It is longer than anything that a workload reads.
    #[error("more than {limit} bytes, which is the most a trace may have")]
    TooLong {
        /// [`TRACE_MAX`].
        limit: usize,
    },
    /// One of its lines is no path.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// The broken rule.
        problem: &'static str,
    },
}

/// A trace whose lines are all well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    text: Vec<u8>,
    digest: Sha256,
}

impl Trace {
    /// Checks a text. Nothing but the text itself is kept: a hostile one takes no more memory than its length.
    ///
    /// # Errors
    /// The first line that is no path.
    pub fn parse(text: Vec<u8>) -> Result<Self, TraceError> {
        if text.len() > TRACE_MAX {
            return Err(TraceError::TooLong { limit: TRACE_MAX });
        }
        lines(&text).try_for_each(|line| line.map(drop))?;
        let digest = Hasher::digest(&text).into();
        Ok(Self { text, digest })
    }

    /// SHA-256 of the text.
    #[must_use]
    pub const fn digest(&self) -> &Sha256 {
        &self.digest
    }

    /// The paths, each with the number of its line.
    pub fn paths(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        lines(&self.text).filter_map(Result::ok)
    }
}

/// The text of a trace of these paths.
pub fn to_text<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = HEAD.to_owned();
    for path in paths {
        let _ = writeln!(text, "{}", escape(path));
    }
    text
}

/// The lines that say something, with their numbers.
fn lines(text: &[u8]) -> impl Iterator<Item = Result<(u64, Vec<u8>), TraceError>> {
    let says = |line: &&[u8]| line.first() != Some(&b'#') && !line.trim_ascii().is_empty();
    let numbered = (1..).zip(text.split(|byte| *byte == b'\n')).filter(move |(_, line)| says(line));
    numbered.map(|(number, text)| match path(text) {
        Ok(path) => Ok((number, path)),
        Err(problem) => Err(TraceError::Line { line: number, problem }),
    })
}

/// The path in a line.
fn path(line: &[u8]) -> Result<Vec<u8>, &'static str> {
    if line.first() != Some(&b'/') {
        return Err("no absolute path: it must begin with \"/\"");
    }
    let path = unescape(line)?;
    if path.len() > PATH_MAX {
        return Err("path is longer than 4096 bytes");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, TraceError> {
        Trace::parse(text.to_vec()).map(|trace| trace.paths().collect())
    }

    #[test]
    fn what_lines_say() {
        type Case<'a> = (&'a [u8], &'a [(u64, &'a [u8])]);
        let cases: [Case<'_>; 9] = [
            (b"", &[]),
            (b"\n\n# /no\n  \t\n#", &[]),
            (b"/a\n/b\n", &[(1, b"/a"), (2, b"/b")]),
            (b"/a\n\n# x\n/b", &[(1, b"/a"), (4, b"/b")]),
            // Blanks belong to a name, and so does what looks like a comment behind it.
            (b"/a \n/ b # c\r\n", &[(1, b"/a "), (2, b"/ b # c\r")]),
            (b"/line\\nbreak\\\\\\t\\xff\\u{1b}", &[(1, b"/line\nbreak\\\t\xff\x1b")]),
            (b"/raw\xff", &[(1, b"/raw\xff")]),
            (b"/\n//a/./../b/\n", &[(1, b"/"), (2, b"//a/./../b/")]),
            (b"/a\n/a\n", &[(1, b"/a"), (2, b"/a")]),
        ];
        for (text, expected) in cases {
            let expected = expected.iter().map(|(line, path)| (*line, path.to_vec())).collect();
            assert_eq!(paths(text), Ok(expected), "{}", escape(text));
        }
    }

    #[test]
    fn what_is_no_trace() {
        let long = [b"/a\n/".to_vec(), vec![b'x'; PATH_MAX]].concat();
        for (text, line, part) in [
            (&b"a\n"[..], 1, "absolute"),
            (b" /a", 1, "absolute"),
            (b"\x7fELF", 1, "absolute"),
            (b"# c\n\n/ok\nusr/bin", 4, "absolute"),
            (b"/ok\n/a\\q", 2, "backslash"),
            (b"/ok\n/a\\", 2, "backslash"),
            (&long, 2, "4096"),
        ] {
            let error = paths(text).unwrap_err();
            assert!(matches!(error, TraceError::Line { line: found, .. } if found == line), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        // Escapes do not count.
        assert!(paths(format!("/{}", "\\xff".repeat(PATH_MAX - 1)).as_bytes()).is_ok());
        assert!(paths(format!("/{}", "\\xff".repeat(PATH_MAX)).as_bytes()).is_err());
        let limit = TRACE_MAX;
        assert_eq!(paths(&vec![b'#'; limit + 1]), Err(TraceError::TooLong { limit }));
        assert_eq!(paths(&vec![b'#'; limit]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_written_is_read() {
        let names: [&[u8]; 5] = [b"/usr/bin/env", b"/a\nb", b"/\xff\\", b"/#", b"/ "];
        let text = to_text(names);
        let read: Vec<Vec<u8>> = paths(text.as_bytes()).unwrap().into_iter().map(|(_, path)| path).collect();
        assert_eq!(read, names);
        assert!(text.starts_with("# ") && text.ends_with("/ \n"), "{text}");
    }

    /// `printf '/a\n' | sha256sum`
    #[test]
    fn the_digest_is_that_of_the_text() {
        let trace = Trace::parse(b"/a\n".to_vec()).unwrap();
        let expected = "2dcc5f529a273b6c724045ba06f40c4cfd82a940615ca7de15535ca68da5dbb0";
        assert_eq!(crate::hex(trace.digest()), expected);
    }
}
