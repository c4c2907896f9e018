//! Words for a shell.

/// Characters that no shell takes for anything but themselves.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c)
}

/// A text as one word of a POSIX shell: as it is if it can stand so, else in single quotes.
pub(crate) fn quote(text: &str) -> String {
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        for text in [
            "/srv/web.img",
            "",
            "a b",
            "it's",
            "''",
            r"\",
            "$HOME `id` $(id)",
            "\"",
            "*",
            "~",
            "a=b",
            "#x",
            "é\u{202e}",
            "a\tb",
        ] {
            let line = format!("printf %s {}", quote(text));
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert!(output.status.success(), "{line}");
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{line}");
        }
        assert_eq!(quote("/srv/web-1.img"), "/srv/web-1.img");
    }
}
