//! What an answer to a request for a range must look like.

use ureq::http::HeaderMap;

use crate::Error;
use crate::http::{Failure, refused};

/// A part of a file, as an answer has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Bytes of the answer.
    pub(crate) length: usize,
    /// Length of the whole file.
    pub(crate) total: u64,
}

/// Which part an answer has, if it is the one that was asked for: `length` bytes from `start` on, or up to the end of the file.
/// An answer that there is nothing from there on is a part without bytes.
pub(crate) fn part(
    url: &str,
    status: u16,
    headers: &HeaderMap,
    start: u64,
    length: usize,
) -> Result<Part, Failure> {
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    let last = start.saturating_add(wanted).saturating_sub(1);
    let bad = |problem: &str| {
        let (url, problem) = (url.to_owned(), problem.to_owned());
        Failure::Lasting(Error::BadRange { url, start, last, problem })
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let range = text("content-range").and_then(parse);
    match status {
        206 => {}
        200 => return Err(Failure::Lasting(Error::NoRanges { url: url.to_owned() })),
        416 => {
            return match range {
                Some(Range { found: None, total }) if total <= start => Ok(Part { length: 0, total }),
                _ => Err(bad("the server says there are none, and not how long the file is")),
            };
        }
        _ => return Err(refused(url, status, "")),
    }
    if text("content-encoding").is_some_and(|encoding| encoding != "identity") {
        return Err(bad("got them encoded"));
    }
    let Some(Range { found: Some((first, end)), total }) = range else {
        return Err(bad("got an answer that does not say which bytes it has"));
    };
    let whole = end == last || end < last && end.checked_add(1) == Some(total);
    if first != start || end < first || end >= total || !whole {
        return Err(bad(&format!("got bytes {first} to {end} of {total}")));
    }
    let found = end.saturating_sub(first).saturating_add(1);
    Ok(Part { length: usize::try_from(found).unwrap_or(length).min(length), total })
}

/// A `Content-Range`: the first and the last byte, and the length of the file.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    /// `None` for `*`.
    found: Option<(u64, u64)>,
    total: u64,
}

fn parse(text: &str) -> Option<Range> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let total = number(total)?;
    if range.trim() == "*" {
        return Some(Range { found: None, total });
    }
    let (first, last) = range.split_once('-')?;
    Some(Range { found: Some((number(first)?, number(last)?)), total })
}

/// Digits and nothing else: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn answer(status: u16, range: &str) -> Result<Part, String> {
        let mut headers = HeaderMap::new();
        headers.insert("content-range", range.parse().unwrap());
        part("url", status, &headers, 4096, 8192).map_err(|failure| failure.error().to_string())
    }

    #[test]
    fn the_part_that_was_asked_for_is_taken() {
        for (status, range, length, total) in [
            (206, "bytes 4096-12287/99999", 8192, 99999),
            (206, "bytes 4096-12287/12288", 8192, 12288),
            (206, "bytes 4096-4999/5000", 904, 5000),
            (416, "bytes */4096", 0, 4096),
            (416, "bytes */0", 0, 0),
        ] {
            assert_eq!(answer(status, range), Ok(Part { length, total }), "{status} {range}");
        }
    }

    #[test]
    fn any_other_is_refused() {
        for (status, range) in [
            (206, ""),
            (206, "bytes */99999"),
            (206, "bytes 4096-12287/*"),
            (206, "bytes 4096-12287"),
            (206, "bytes 0-8191/99999"),
            (206, "bytes 4096-12288/99999"),
            (206, "bytes 4096-9999/99999"),
            (206, "bytes 4096-12287/12287"),
            (206, "bytes 4096-4095/4096"),
            (206, "bytes 4096-18446744073709551615/18446744073709551615"),
            (206, "bytes 4096-18446744073709551616/18446744073709551617"),
            (206, "bytes +4096-12287/99999"),
            (206, "lines 4096-12287/99999"),
            (416, "bytes */99999"),
            (416, ""),
        ] {
            let error = answer(status, range).unwrap_err();
            assert!(error.contains("asked for bytes 4096 to 12287"), "{status} {range}: {error}");
        }
        assert!(answer(200, "bytes 4096-12287/99999").unwrap_err().contains("ignores `Range`"));
        assert!(answer(404, "").unwrap_err().contains("answers 404"));
    }
}
