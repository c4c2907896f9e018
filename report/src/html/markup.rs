//! Text that is safe between tags and in attributes.

use std::fmt;
use std::io::{self, Write};

use mkimg_format::erofs::escape;

use crate::words::shorten;

/// Longest text in characters.
const TEXT_MAX: usize = 300;

/// Markup. Text of others gets in through [`Html::text`] and [`Html::name`] only, which leave no markup in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    /// Any text: on one line, cut to some 300 characters.
    pub(super) fn text(text: &str) -> Self {
        Self::name(text.as_bytes())
    }

    /// A name or path of an image, which may hold any bytes.
    pub(super) fn name(name: &[u8]) -> Self {
        Self::short(name, TEXT_MAX)
    }

    /// The same, cut to `max` characters.
    pub(super) fn short(name: &[u8], max: usize) -> Self {
        // Control characters, bytes that are not UTF-8 and what reorders text are spelled out.
        let text = shorten(&escape(name), max);
        let mut markup = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '&' => markup.push_str("&amp;"),
                '<' => markup.push_str("&lt;"),
                '>' => markup.push_str("&gt;"),
                '"' => markup.push_str("&quot;"),
                '\'' => markup.push_str("&#39;"),
                other => markup.push(other),
            }
        }
        Self(markup)
    }

    /// Markup of this crate; what is put into it has to be markup or numbers.
    pub(super) fn markup(arguments: fmt::Arguments<'_>) -> Self {
        Self(arguments.to_string())
    }
}

impl fmt::Display for Html {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// How the cells of a column look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Right-aligned.
    Number,
    /// Left-aligned.
    Text,
    /// Path, in a fixed-width font, broken anywhere.
    Path,
    /// A picture that says nothing that the numbers do not say.
    Bar,
}

impl Column {
    const fn class(self) -> &'static str {
        match self {
            Self::Number => "num",
            Self::Text => "text",
            Self::Path => "path",
            Self::Bar => "bar",
        }
    }
}

/// Writes a table that can be scrolled sideways on a small screen, also with the keyboard.
pub(super) fn table(
    out: &mut impl Write,
    label: &str,
    columns: &[(&str, Column)],
    rows: impl IntoIterator<Item = Vec<Html>>,
) -> io::Result<()> {
    writeln!(
        out,
        "<div class=\"scroll\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\"><table>\n<thead><tr>"
    )?;
    for (title, column) in columns {
        write!(out, "<th scope=\"col\" class=\"{}\">{title}</th>", column.class())?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for row in rows {
        write!(out, "<tr>")?;
        for (cell, (_, column)) in row.into_iter().zip(columns) {
            write!(out, "<td class=\"{}\">{cell}</td>", column.class())?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table></div>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_markup_in_it() {
        for (name, text) in [
            (&b"plain"[..], "plain"),
            (b"</script><img src=x onerror=alert(1)>", "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"),
            (b"\" onload='x' &lt;", "&quot; onload=&#39;x&#39; &amp;lt;"),
            (b"\xff\0\n", "\\xff\\u{0}\\n"),
            ("]]>\u{202e}".as_bytes(), "]]&gt;\\u{202e}"),
        ] {
            assert_eq!(Html::name(name).to_string(), text);
        }
        assert_eq!(Html::name(&[b'<'; 5000]).to_string().len(), 299 * 4 + "\u{2026}".len());
    }
}
