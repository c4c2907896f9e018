//! Errors as one line.

use std::io;

/// The chain of causes as `CONTEXT: CAUSE`, each said once.
///
/// Some errors of the libraries already contain their source's text, others leave it to the chain.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    // Whatever slipped through unescaped must not break the line or speak to the terminal.
    text.chars().fold(String::new(), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

/// Whether the reader of our output has gone: no failure for `mkimg ls | head`.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_everything_once_and_on_one_line() {
        let inner = io::Error::other("disk\n\x1b[31mfull");
        let error = anyhow::Error::new(inner).context("cannot write: disk\n\x1b[31mfull").context("a.img");
        assert_eq!(describe(&error), "a.img: cannot write: disk\\n\\u{1b}[31mfull");
    }
}
