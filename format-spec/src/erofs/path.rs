//! File names and paths as bytes.

use std::fmt::Write as _;

/// Makes a path printable on one line: control characters, backslashes and bytes that are not UTF-8 become
/// escapes as in a C string.
#[must_use]
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                // Control characters, and the ones that reorder or hide text on a terminal.
                c if c.is_control() || is_invisible(c) => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes that [`escape`] made a text of. Bytes that it would have escaped are taken as they are, but for the backslash.
///
/// # Errors
/// What is wrong with an escape.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            path.push(*first);
            continue;
        }
        let (kind, tail) = tail.split_first().ok_or("a backslash at the end")?;
        rest = tail;
        match kind {
            b'\\' => path.push(b'\\'),
            b'n' => path.push(b'\n'),
            b't' => path.push(b'\t'),
            b'x' => {
                let (digits, tail) = tail.split_first_chunk::<2>().ok_or("\\x without two digits")?;
                let byte = hexadecimal(digits).and_then(|value| u8::try_from(value).ok());
                path.push(byte.ok_or("\\x without two digits")?);
                rest = tail;
            }
            b'u' => {
                const WRONG: &str = "\\u without a character in braces";
                let end = tail.iter().position(|byte| *byte == b'}').ok_or(WRONG)?;
                let (digits, tail) = tail.split_at_checked(end).ok_or(WRONG)?;
                let digits = digits.strip_prefix(b"{").filter(|digits| (1..=6).contains(&digits.len()));
                let character = digits.and_then(hexadecimal).and_then(char::from_u32).ok_or(WRONG)?;
                path.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = tail.get(1..).unwrap_or_default();
            }
            _ => return Err("a backslash before something else than \\, n, t, x or u"),
        }
    }
    Ok(path)
}

/// Value of hexadecimal digits, at most eight.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u32::from_str_radix(digits, 16).ok()
}

/// Characters that change how a terminal shows their neighbours.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Whether `name` can be the name of a file: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
#[must_use]
pub fn is_file_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= super::NAME_MAX
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_would_break_a_line() {
        for (bytes, text) in [
            (&b"plain/name"[..], "plain/name"),
            (b"line\nbreak\t\\", "line\\nbreak\\t\\\\"),
            (b"\xff\x1b[31m", "\\xff\\u{1b}[31m"),
            ("caf\u{e9}\u{202e}x".as_bytes(), "caf\u{e9}\\u{202e}x"),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text.as_bytes()).as_deref(), Ok(bytes));
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(escape(&all).as_bytes()), Ok(all));
        for character in (0..0x30000).filter_map(char::from_u32).chain(['\u{feff}', '\u{10ffff}']) {
            let path = format!("/{character}x").into_bytes();
            assert_eq!(unescape(escape(&path).as_bytes()), Ok(path));
        }
    }

    #[test]
    fn what_is_no_escape() {
        for text in [
            "\\",
            "a\\",
            "\\q",
            "\\N",
            "\\0",
            "\\x",
            "\\x4",
            "\\xg0",
            "\\x+1",
            "\\u",
            "\\u41",
            "\\u{",
            "\\u{}",
            "\\u{41",
            "\\u{+41}",
            "\\u{0000041}",
            "\\u{d800}",
            "\\u{110000}",
            "\\u{\u{e9}}",
        ] {
            assert!(unescape(text.as_bytes()).is_err(), "{text}");
        }
        // What needs no escape may have one, and what should have one may stand as it is.
        for (text, bytes) in [
            (&b"\\u{41}\\x2f"[..], &b"A/"[..]),
            (b"\xff\t \x1b", b"\xff\t \x1b"),
            (b"\\xFF\\u{E9}", b"\xff\xc3\xa9"),
            (b"", b""),
        ] {
            assert_eq!(unescape(text).as_deref(), Ok(bytes));
        }
    }
}
