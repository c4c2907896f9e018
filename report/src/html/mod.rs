//! The report as one page: no script, nothing loaded from anywhere, readable in a light and a dark room.
//!
//! Names in an image are anybody's, and so is all text in its seal. Text becomes markup in one place, which escapes
//! it; besides, the page forbids the browser whatever it does not need (`Content-Security-Policy`), scripts
//! first of all. Zooming into the map takes none: each directory that can be zoomed into is a section of its own,
//! and the style sheet shows the one that the address names.
//!
//! The page is bounded: [`Report::top`] rows a table, `MAPS_MAX` maps of `CELLS_MAX` rectangles, names of a few hundred
//! characters. That makes 1 MiB for a usual image, and 12 MiB for the worst names with lists of 50.

mod map;
mod markup;
mod tables;

use std::io::{self, Write};

use mkimg_format::hex;

use crate::Report;
use crate::words::{count, percent, size};
use markup::Html;

const STYLE: &str = include_str!("style.css");

/// Writes the page.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let name = Html::text(report.name.as_deref().unwrap_or("an image"));
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{name} \u{2013} mkimg report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    )?;
    write!(
        out,
        "<header><p class=\"kicker\">mkimg report</p>\n<h1>{name}</h1>\n<p class=\"hash\">root hash <code>{}</code></p></header>\n<main>\n",
        hex(&report.root_hash)
    )?;
    tiles(report, out)?;
    tables::layers(report, out)?;
    map::write(&report.tree, out)?;
    tables::kinds(report, out)?;
    tables::directories(report, out)?;
    tables::files(report, out)?;
    tables::duplicates(report, out)?;
    tables::deleted(report, out)?;
    tables::security(report, out)?;
    let made = concat!("made by mkimg ", env!("CARGO_PKG_VERSION"));
    write!(
        out,
        "</main>\n<footer><p>Sizes are those of file content; a file with several names counts once. \
         The image was taken at its word: <code>mkimg verify</code> checks it. {made}</p></footer>\n</body>\n</html>\n"
    )
}

/// The figures that matter most.
fn tiles(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let totals = &report.totals;
    writeln!(out, "<ul class=\"tiles\">")?;
    tile(
        out,
        "",
        &size(report.image_size),
        "image",
        if report.is_detached { "its detached seal was read" } else { "" },
    )?;
    let files = format!("in {}", count(totals.files.files, "file"));
    let others = format!("{}, {}", count(totals.directories, "folder"), count(totals.symlinks, "symlink"));
    tile(out, "", &size(totals.files.bytes), &files, &others)?;
    if !report.layers.is_empty() {
        let source = report.source();
        let wasted = source.wasted().bytes;
        let share =
            format!("{} of {} shipped", percent(wasted, source.shipped.bytes), size(source.shipped.bytes));
        tile(out, if wasted > 0 { "warn" } else { "" }, &size(wasted), "wasted by the source", &share)?;
    }
    let duplicates = &report.duplicates;
    if duplicates.copies > 0 {
        let copies = match duplicates.copies {
            1 => "1 copy is not stored again".to_owned(),
            more => format!("{more} copies are not stored again"),
        };
        tile(out, "", &size(duplicates.saved), "saved by sharing", &copies)?;
    }
    let deleted = &report.deleted;
    if deleted.files > 0 {
        let class = if deleted.secrets > 0 { "alarm" } else { "warn" };
        tile(out, class, &deleted.files.to_string(), "deleted, still shipped", &secrets(deleted.secrets))?;
    }
    writeln!(out, "</ul>")
}

fn tile(out: &mut impl Write, class: &str, figure: &str, label: &str, more: &str) -> io::Result<()> {
    let (figure, label, more) = (Html::text(figure), Html::text(label), Html::text(more));
    writeln!(
        out,
        "<li class=\"{class}\"><strong>{figure}</strong> <span>{label}</span> <small>{more}</small></li>"
    )
}

/// How many deleted files look like secrets.
fn secrets(number: u64) -> String {
    match number {
        0 => String::new(),
        1 => "1 has the name of a secret".to_owned(),
        more => format!("{more} have names of secrets"),
    }
}

#[cfg(test)]
mod tests {
    use mkimg_format::erofs::FileType;

    use super::*;
    use crate::deleted::Deleted;
    use crate::duplicates::{Duplicate, Duplicates};
    use crate::kinds::{Kind, KindSum};
    use crate::layers::{Amount, Counts, Layer};
    use crate::security::{Security, Subject, Subjects};
    use crate::stored::Stored;
    use crate::tree::Growth;
    use crate::{File, Totals};

    /// A report in which all that can be chosen by somebody is `text`, and lists are as long as they get by default.
    fn report(text: &[u8]) -> Report {
        const ROWS: usize = 50;
        let string = String::from_utf8_lossy(text).into_owned();
        let mut growth = Growth::default();
        for dir in 0..60_u64 {
            growth.enter(text);
            for file in 0..300 {
                growth.file(text, 1000 + file * dir, Kind::Script);
            }
            growth.ascend(0);
        }
        let stored = Stored { distinct: 9, bytes: 4 };
        let amount = Amount { bytes: u64::MAX, files: u64::MAX };
        let subject = Subject {
            path: text.to_vec(),
            file_type: FileType::Char,
            mode: 0o7777,
            uid: u32::MAX,
            gid: u32::MAX,
            rdev: Some((u32::MAX, u32::MAX)),
            capabilities: None,
        };
        let subjects = || Subjects { count: u64::MAX, list: vec![subject.clone(); ROWS] };
        let duplicate =
            Duplicate { bytes: 1, copies: u64::MAX, saved: u64::MAX, paths: vec![text.to_vec(); 4] };
        let layer = Layer {
            digest: string.clone(),
            command: Some(string.clone()),
            counts: Counts { shipped: amount, visible: amount, shadowed: amount, deleted: amount },
            ..Layer::default()
        };
        Report {
            name: Some(string),
            root_hash: [7; 32],
            image_size: u64::MAX,
            is_detached: true,
            totals: Totals { files: amount, ..Totals::default() },
            layers: vec![layer; 10],
            kinds: vec![KindSum { kind: Kind::Elf, files: 1, bytes: 9, stored }],
            files: vec![File { path: text.to_vec(), bytes: 1, kind: Kind::Elf, layer: Some(1) }; ROWS],
            tree: growth.finish(),
            duplicates: Duplicates {
                contents: u64::MAX,
                list: vec![duplicate; ROWS],
                ..Duplicates::default()
            },
            deleted: Deleted { files: 2, secrets: 2, ..Deleted::default() },
            security: Security {
                set_id: subjects(),
                capabilities: subjects(),
                devices: subjects(),
                world_writable: subjects(),
            },
            top: ROWS,
        }
    }

    fn page(text: &[u8]) -> String {
        let mut page = Vec::new();
        write(&report(text), &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    /// Text of others adds no markup: without it the page is that of any other text.
    #[test]
    fn text_is_text_everywhere() {
        let harmless = page(b"name");
        for hostile in
            [&b"<img src=x onerror=boom()>"[..], b"\"'><script>", b"--></style></svg></title>", b"]]>&#60;b"]
        {
            let text = markup::Html::name(hostile).to_string();
            let found = page(hostile);
            assert!(found.contains(&text));
            assert_eq!(found.replace(&text, "name"), harmless, "{text}");
        }
    }

    #[test]
    fn a_page_is_bounded() {
        let usual = page(b"libsomething-1.2.so.3").len();
        assert!(usual < 3 << 20, "{usual}");
        // Six bytes for each character, and names of 255 characters.
        let worst = page(&[b'"'; 255]).len();
        assert!(worst < 12 << 20, "{worst}");
    }
}
