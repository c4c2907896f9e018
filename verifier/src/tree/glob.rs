//! Patterns of paths.

use std::fmt;
use std::str::FromStr;

/// Longest pattern in bytes.
const PATTERN_MAX: usize = 4096;

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// `?`: any byte but a slash.
    One,
    /// `*`: any bytes without a slash, or none.
    Name,
    /// `**`: any bytes, or none.
    Any,
    /// In front of the two tokens of `**/`, which may be left out.
    Maybe,
}

/// A pattern of paths, on bytes.
///
/// `?` is any byte and `*` any number of bytes, neither crosses a slash; `**` crosses slashes, and `**/` also stands
/// for no directory at all. Everything else stands for itself. A pattern without a slash is about the last name of a
/// path, one with a slash about the whole path from the root of the image, with or without a slash in front.
/// `/` alone is the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: Vec<u8>,
    tokens: Vec<Token>,
    whole: bool,
}

/// A pattern that is empty, or longer than 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to 4096 bytes, this one has {0}")]
pub struct GlobError(usize);

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is empty or longer than 4096 bytes.
    pub fn new(pattern: &[u8]) -> Result<Self, GlobError> {
        if pattern.is_empty() || pattern.len() > PATTERN_MAX {
            return Err(GlobError(pattern.len()));
        }
        let whole = pattern.contains(&b'/');
        let mut rest = pattern.strip_prefix(b"/").unwrap_or(pattern);
        let mut tokens = Vec::new();
        while let Some((first, after)) = rest.split_first() {
            let at_name = matches!(tokens.last(), None | Some(Token::Byte(b'/')));
            let (token, after) = match (first, after) {
                (b'*', [b'*', b'/', after @ ..]) if at_name => {
                    tokens.extend([Token::Maybe, Token::Any]);
                    (Token::Byte(b'/'), after)
                }
                (b'*', [b'*', after @ ..]) => (Token::Any, after),
                (b'*', after) => (Token::Name, after),
                (b'?', after) => (Token::One, after),
                (byte, after) => (Token::Byte(*byte), after),
            };
            tokens.push(token);
            rest = after;
        }
        Ok(Self { pattern: pattern.to_vec(), tokens, whole })
    }

    /// Whether it is about this path, which starts with a slash or is a bare name.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let text = if self.whole {
            path
        } else {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
            // Only a pattern that says so is about the root, which has no name.
            if name.is_empty() {
                return false;
            }
            name
        };
        self.matches_text(text)
    }

    /// Whether it is the root, and nothing else, that it is about.
    pub(super) fn is_root(&self) -> bool {
        self.whole && self.tokens.is_empty()
    }

    /// Tries all ways to match at once: time is the product of both lengths, whatever the pattern.
    fn matches_text(&self, text: &[u8]) -> bool {
        // Which tokens may come next; the last place means that all are used up.
        let mut next = vec![false; self.tokens.len().saturating_add(1)];
        mark(&mut next, 0);
        self.skip(&mut next);
        let mut after = next.clone();
        for &byte in text {
            after.fill(false);
            for (index, token) in self.tokens.iter().enumerate() {
                if next.get(index) != Some(&true) {
                    continue;
                }
                let (stays, moves) = match token {
                    Token::Byte(wanted) => (false, byte == *wanted),
                    Token::One => (false, byte != b'/'),
                    Token::Name => (byte != b'/', false),
                    Token::Any => (true, false),
                    Token::Maybe => (false, false),
                };
                if stays {
                    mark(&mut after, index);
                }
                if moves {
                    mark(&mut after, index.saturating_add(1));
                }
            }
            self.skip(&mut after);
            std::mem::swap(&mut next, &mut after);
        }
        next.last() == Some(&true)
    }

    /// Marks what may come next because tokens before it may stand for nothing.
    fn skip(&self, next: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if next.get(index) != Some(&true) {
                continue;
            }
            if matches!(token, Token::Name | Token::Any | Token::Maybe) {
                mark(next, index.saturating_add(1));
            }
            if *token == Token::Maybe {
                mark(next, index.saturating_add(3));
            }
        }
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        Self::new(text.as_bytes())
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&mkimg_format::erofs::escape(&self.pattern))
    }
}

fn mark(places: &mut [bool], index: usize) {
    if let Some(place) = places.get_mut(index) {
        *place = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn patterns_match_what_they_say() {
        for (pattern, yes, no) in [
            ("*.pyc", &["/a.pyc", "/x/y/.pyc", "/x/b.pyc"][..], &["/a.py", "/a.pyc/b", "/"][..]),
            ("/etc/*", &["/etc/a", "/etc/.b"], &["/etc", "/etc/a/b", "/x/etc/a"]),
            ("etc/*", &["/etc/a"], &["/x/etc/a"]),
            ("/etc/**", &["/etc/a", "/etc/a/b"], &["/etc", "/etcetera"]),
            ("**/cache", &["/cache", "/a/cache", "/a/b/cache"], &["/acache", "/a/cache/b", "/a/xcache"]),
            ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/a/xb", "/ab", "/a/b/c"]),
            ("/a/**/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/a/xb", "/ab"]),
            ("a**b", &["/ab", "/axb"], &["/a/b/c"]),
            ("/a**b", &["/ab", "/a/x/b"], &["/a/bc"]),
            ("?", &["/x", "/y/z"], &["/xy", "/"]),
            ("/a?b", &["/axb"], &["/a/b", "/ab"]),
            ("*", &["/x", "/x/y"], &["/"]),
            ("/", &["/"], &["/x"]),
            ("[x]", &["/[x]"], &["/x"]),
        ] {
            let glob: Glob = pattern.parse().unwrap();
            for path in yes {
                assert!(glob.matches(path.as_bytes()), "{pattern} {path}");
            }
            for path in no {
                assert!(!glob.matches(path.as_bytes()), "{pattern} {path}");
            }
        }
        assert!(Glob::new(b"\xff*").unwrap().matches(b"/\xff\n"));
        assert_eq!(Glob::new(b""), Err(GlobError(0)));
        assert!(Glob::new(&[b'*'; 4097]).is_err());
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn stars_do_not_explode() {
        let glob = Glob::new(&b"*a".repeat(2000)).unwrap();
        assert!(!glob.matches(&[b'a'; 255]));
    }
}
