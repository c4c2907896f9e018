//! Layers, lists and sums.

use std::io::{self, Write};

use super::markup::{Column, Html, table};
use crate::Report;
use crate::layers::{Amount, Counts};
use crate::security::Subject;
use crate::stored::Stored;
use crate::words::{count, percent, ratio, size};

/// Begins a section.
fn section(out: &mut impl Write, id: &str, title: &str, about: &str) -> io::Result<()> {
    writeln!(out, "<section><h2 id=\"{id}\">{title}</h2>\n<p>{about}</p>")
}

fn number(number: u64) -> Html {
    Html::text(&number.to_string())
}

fn bytes(bytes: u64) -> Html {
    Html::text(&size(bytes))
}

/// Says how many are left out of a list.
fn more(out: &mut impl Write, all: u64, shown: usize) -> io::Result<()> {
    let left = all.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if left > 0 { writeln!(out, "<p class=\"more\">and {left} more</p>") } else { Ok(()) }
}

/// A part of a bar, in per cent of its whole length.
fn share(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part).saturating_mul(10_000).checked_div(whole.into()).unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// A bar of parts side by side: class and bytes of each.
fn bar(parts: &[(&str, u64)], whole: u64) -> Html {
    let mut drawn = String::new();
    let mut at = 0_u64;
    for (class, part) in parts.iter().filter(|(_, part)| *part > 0) {
        drawn += &format!(
            "<rect class=\"{class}\" x=\"{}%\" width=\"{}%\" height=\"100%\"/>",
            share(at, whole),
            share(*part, whole)
        );
        at = at.saturating_add(*part);
    }
    Html::markup(format_args!("<svg class=\"strip\" aria-hidden=\"true\">{drawn}</svg>"))
}

pub(super) fn layers(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.layers.is_empty() {
        return Ok(());
    }
    section(
        out,
        "layers",
        "Layers",
        "What each layer of the source ships, lowest first, and what becomes of it. The image holds the visible part \
         only; the rest is waste of the source.",
    )?;
    writeln!(
        out,
        "<ul class=\"legend\"><li><i class=\"swatch visible\"></i>visible</li><li><i class=\"swatch shadowed\"></i>shadowed: \
         replaced by a later entry</li><li><i class=\"swatch deleted\"></i>deleted by a later layer</li></ul>"
    )?;
    let longest = report.layers.iter().map(|layer| layer.counts.shipped.bytes).max().unwrap_or(0);
    let row = |name: Html, made: Html, counts: Counts, whole: u64| {
        let parts = [
            ("visible", counts.visible.bytes),
            ("shadowed", counts.shadowed.bytes),
            ("deleted", counts.deleted.bytes),
        ];
        vec![
            name,
            bar(&parts, whole),
            bytes(counts.shipped.bytes),
            number(counts.shipped.files),
            bytes(counts.visible.bytes),
            bytes(counts.shadowed.bytes),
            bytes(counts.deleted.bytes),
            made,
        ]
    };
    let mut rows: Vec<Vec<Html>> = report
        .layers
        .iter()
        .zip(1_u64..)
        .map(|(layer, index)| {
            let made = layer.command.as_deref().unwrap_or(&layer.digest);
            row(number(index), Html::short(made.as_bytes(), 90), layer.counts, longest)
        })
        .collect();
    if report.layers.len() > 1 {
        let all = report.source();
        rows.push(row(Html::text("all"), Html::text(""), all, all.shipped.bytes));
    }
    let columns = [
        ("layer", Column::Number),
        ("<span class=\"hidden\">share</span>", Column::Bar),
        ("shipped", Column::Number),
        ("files", Column::Number),
        ("visible", Column::Number),
        ("shadowed", Column::Number),
        ("deleted", Column::Number),
        ("made by", Column::Path),
    ];
    table(out, "layers", &columns, rows)?;
    writeln!(out, "</section>")
}

pub(super) fn kinds(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let how = if report.is_detached {
        "By the names of files: a detached seal holds no data to look at."
    } else {
        "By the names of files, and by their first bytes where names say nothing."
    };
    let has_ratio = report.is_smaller();
    let stored = if has_ratio {
        "Stored is what the image takes for it, each content once; the ratio is how much content a stored byte gives."
    } else {
        "Stored is what the image takes for it, each content once."
    };
    section(out, "types", "Types", &format!("{how} {stored}"))?;
    let totals = &report.totals;
    let largest = report.kinds.first().map_or(0, |sum| sum.bytes);
    let row = |name: Html, drawn: Html, amount: Amount, stored: Stored| {
        let mut row = vec![
            name,
            drawn,
            bytes(amount.bytes),
            Html::text(&percent(amount.bytes, totals.files.bytes)),
            number(amount.files),
            bytes(stored.bytes),
        ];
        if has_ratio {
            row.push(Html::text(&ratio(stored.ratio())));
        }
        row
    };
    let mut rows: Vec<Vec<Html>> = report
        .kinds
        .iter()
        .map(|sum| {
            let word = sum.kind.word();
            let name = Html::markup(format_args!("<i class=\"swatch k-{word}\"></i>{}", sum.kind.title()));
            let drawn = bar(&[(&format!("k-{word}"), sum.bytes)], largest);
            row(name, drawn, Amount { bytes: sum.bytes, files: sum.files }, sum.stored)
        })
        .collect();
    if report.kinds.len() > 1 {
        rows.push(row(Html::text("all"), Html::text(""), totals.files, totals.stored));
    }
    let mut columns = vec![
        ("type", Column::Text),
        ("<span class=\"hidden\">share</span>", Column::Bar),
        ("size", Column::Number),
        ("of all", Column::Number),
        ("files", Column::Number),
        ("stored", Column::Number),
    ];
    if has_ratio {
        columns.push(("ratio", Column::Number));
    }
    table(out, "types", &columns, rows)?;
    writeln!(out, "</section>")
}

pub(super) fn directories(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let about = "With all that is below. A folder that is little more than one folder in it is left out.";
    section(out, "folders", "Biggest folders", about)?;
    let rows = report.tree.heaviest_directories(report.top).into_iter().filter_map(|index| {
        let node = report.tree.node(index)?;
        Some(vec![
            bytes(node.bytes),
            Html::text(&percent(node.bytes, report.totals.files.bytes)),
            number(node.files),
            Html::name(&report.tree.path(index)),
        ])
    });
    let columns = [
        ("size", Column::Number),
        ("of all", Column::Number),
        ("files", Column::Number),
        ("path", Column::Path),
    ];
    table(out, "biggest folders", &columns, rows)?;
    writeln!(out, "</section>")
}

pub(super) fn files(report: &Report, out: &mut impl Write) -> io::Result<()> {
    section(out, "files", "Biggest files", "With the layer that each comes from.")?;
    let rows = report.files.iter().map(|file| {
        vec![
            bytes(file.bytes),
            Html::text(file.kind.word()),
            file.layer.map_or_else(|| Html::text("-"), number),
            Html::name(&file.path),
        ]
    });
    let columns =
        [("size", Column::Number), ("type", Column::Text), ("layer", Column::Number), ("path", Column::Path)];
    table(out, "biggest files", &columns, rows)?;
    more(out, report.totals.files.files, report.files.len())?;
    writeln!(out, "</section>")
}

pub(super) fn duplicates(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let duplicates = &report.duplicates;
    let about = match duplicates.contents {
        0 => "No two files have the same content.".to_owned(),
        _ => format!(
            "{} in more files than one. The image stores each once, which saves {}; in the source, and in a tree that \
             is unpacked from it, each copy takes its place.",
            count(duplicates.contents, "content"),
            size(duplicates.saved)
        ),
    };
    section(out, "duplicates", "Duplicates", &about)?;
    if !duplicates.list.is_empty() {
        let rows = duplicates.list.iter().map(|duplicate| {
            let shown = u64::try_from(duplicate.paths.len()).unwrap_or(u64::MAX);
            let mut paths: Vec<String> =
                duplicate.paths.iter().map(|path| Html::name(path).to_string()).collect();
            match duplicate.copies.saturating_sub(shown) {
                0 => {}
                left => paths.push(format!("<span class=\"more\">and {left} more</span>")),
            }
            vec![
                bytes(duplicate.saved),
                number(duplicate.copies),
                bytes(duplicate.bytes),
                Html::markup(format_args!("{}", paths.join("<br>"))),
            ]
        });
        let columns = [
            ("saved", Column::Number),
            ("copies", Column::Number),
            ("size", Column::Number),
            ("paths", Column::Path),
        ];
        table(out, "duplicates", &columns, rows)?;
        more(out, duplicates.contents, duplicates.list.len())?;
    }
    writeln!(out, "</section>")
}

pub(super) fn deleted(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let deleted = &report.deleted;
    let about = match deleted.files {
        0 => "Nothing that a layer ships is deleted by a later one.".to_owned(),
        _ => format!(
            "{} with {} deleted by a later layer. The image does not hold them, but whoever has the source has them: \
             a password in one of them is known, and has to be changed.",
            count(deleted.files, "file"),
            size(deleted.bytes)
        ),
    };
    section(out, "deleted", "Deleted, but still shipped", &about)?;
    if !deleted.list.is_empty() {
        let rows = deleted.list.iter().map(|file| {
            let path = Html::name(file.path());
            vec![
                bytes(file.bytes),
                number(file.layer),
                number(file.deleted_by),
                if file.secret {
                    Html::markup(format_args!("{path} <strong class=\"badge\">name of a secret</strong>"))
                } else {
                    path
                },
            ]
        });
        let columns = [
            ("size", Column::Number),
            ("shipped by layer", Column::Number),
            ("deleted by layer", Column::Number),
            ("path", Column::Path),
        ];
        table(out, "deleted files", &columns, rows)?;
        more(out, deleted.files, deleted.list.len())?;
    }
    writeln!(out, "</section>")
}

pub(super) fn security(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let about = "Files that give power to whoever runs or opens them, and files that anybody can change.";
    section(out, "security", "Security", about)?;
    for (title, subjects) in report.security.lists() {
        writeln!(out, "<h3>{} <span class=\"count\">{}</span></h3>", Html::text(title), subjects.count)?;
        if subjects.list.is_empty() {
            writeln!(out, "<p class=\"more\">none</p>")?;
            continue;
        }
        let has_more = subjects.list.iter().any(|subject| !what(subject).is_empty());
        let rows = subjects.list.iter().map(|subject| {
            let mut row = vec![
                Html::text(&format!("{:04o}", subject.mode)),
                Html::text(&format!("{}:{}", subject.uid, subject.gid)),
            ];
            if has_more {
                row.push(Html::text(&what(subject)));
            }
            row.push(Html::name(&subject.path));
            row
        });
        let mut columns = vec![("mode", Column::Text), ("owner", Column::Text), ("path", Column::Path)];
        if has_more {
            columns.insert(2, ("what", Column::Text));
        }
        table(out, title, &columns, rows)?;
        more(out, subjects.count, subjects.list.len())?;
    }
    writeln!(out, "</section>")
}

/// Capabilities of a file, or the numbers of a device.
fn what(subject: &Subject) -> String {
    match (&subject.capabilities, subject.rdev) {
        (Some(names), _) => names.clone(),
        (None, Some((major, minor))) => format!("{} {major}:{minor}", subject.file_type.word()),
        (None, None) => String::new(),
    }
}
