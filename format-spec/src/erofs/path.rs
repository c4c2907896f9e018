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
        }
    }
}
