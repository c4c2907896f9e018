//! `mkimg report` on a terminal: one screen for a usual image.

use std::io::Write;

use anyhow::Result;
use mkimg_format::erofs::escape;
use mkimg_report::Report;
use mkimg_report::layers::{Amount, Counts};
use mkimg_report::security::Subject;
use mkimg_report::stored::Stored;
use mkimg_report::words::{percent, ratio, shorten};

use crate::output::{count, size};
use crate::style::Style;

/// Characters of a command or a path in a list.
const WIDTH: usize = 76;

pub(super) fn write(report: &Report, out: &mut impl Write) -> Result<()> {
    let totals = &report.totals;
    writeln!(
        out,
        "{}: {}; {} of content in {}, {} directories, {}",
        escape(report.name.as_deref().unwrap_or("image").as_bytes()),
        size(report.image_size),
        size(totals.files.bytes),
        count(totals.files.files, "file"),
        totals.directories,
        count(totals.symlinks, "symlink"),
    )?;
    layers(report, out)?;
    kinds(report, out)?;
    sizes(report, out)?;
    duplicates(report, out)?;
    deleted(report, out)?;
    security(report, out)
}

/// Text of the image on one line.
fn show(bytes: &[u8], width: usize) -> String {
    shorten(&escape(bytes), width)
}

fn layers(report: &Report, out: &mut impl Write) -> Result<()> {
    if report.layers.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>5} {:>11} {:>11} {:>11} {:>11}  made by",
        "layer", "shipped", "visible", "shadowed", "deleted"
    )?;
    let mut row = |name: &str, counts: Counts, made: &str| {
        let line = format!(
            "{name:>5} {:>11} {:>11} {:>11} {:>11}  {made}",
            size(counts.shipped.bytes),
            size(counts.visible.bytes),
            size(counts.shadowed.bytes),
            size(counts.deleted.bytes),
        );
        writeln!(out, "{}", line.trim_end())
    };
    for (number, layer) in (1..).zip(&report.layers) {
        let made = match &layer.command {
            Some(command) => show(command.as_bytes(), 48),
            None => escape(layer.digest.as_bytes()).chars().take(19).collect(),
        };
        row(&number.to_string(), layer.counts, &made)?;
    }
    if report.layers.len() > 1 {
        let all = report.source();
        let wasted = percent(all.wasted().bytes, all.shipped.bytes);
        row("all", all, &format!("{wasted} wasted by the source"))?;
    }
    Ok(())
}

/// Without compression, and without blocks that are shared, a ratio tells of nothing but padding, and is left out.
fn kinds(report: &Report, out: &mut impl Write) -> Result<()> {
    let has_ratio = report.is_smaller();
    let column = |text: &str| if has_ratio { format!(" {text:>6}") } else { String::new() };
    writeln!(
        out,
        "\n{:>11} {:>7} {:>8} {:>11}{}  type",
        "size",
        "of all",
        "files",
        "stored",
        column("ratio")
    )?;
    let mut row = |amount: Amount, stored: Stored, name: &str| {
        let share = percent(amount.bytes, report.totals.files.bytes);
        let (bytes, stored, ratio) = (size(amount.bytes), size(stored.bytes), column(&ratio(stored.ratio())));
        writeln!(out, "{bytes:>11} {share:>7} {:>8} {stored:>11}{ratio}  {name}", amount.files)
    };
    for sum in &report.kinds {
        row(Amount { bytes: sum.bytes, files: sum.files }, sum.stored, sum.kind.title())?;
    }
    if report.kinds.len() > 1 {
        row(report.totals.files, report.totals.stored, "all")?;
    }
    Ok(())
}

fn sizes(report: &Report, out: &mut impl Write) -> Result<()> {
    writeln!(out, "\n{:>11} {:>7} {:>8}  biggest directories", "size", "of all", "files")?;
    for index in report.tree.heaviest_directories(report.top) {
        let Some(node) = report.tree.node(index) else { continue };
        let share = percent(node.bytes, report.totals.files.bytes);
        let path = show(&report.tree.path(index), WIDTH);
        writeln!(out, "{:>11} {share:>7} {:>8}  {path}", size(node.bytes), node.files)?;
    }
    writeln!(out, "\n{:>11} {:>7} {:>8}  biggest files", "size", "layer", "type")?;
    for file in &report.files {
        let layer = file.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        let kind = file.kind.word();
        writeln!(out, "{:>11} {layer:>7} {kind:>8}  {}", size(file.bytes), show(&file.path, WIDTH))?;
    }
    Ok(())
}

fn duplicates(report: &Report, out: &mut impl Write) -> Result<()> {
    let duplicates = &report.duplicates;
    if duplicates.contents == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>11} {:>7} {:>8}  duplicates; {} are saved by storing each content once",
        "saved",
        "copies",
        "each",
        size(duplicates.saved)
    )?;
    for duplicate in &duplicates.list {
        let path = duplicate.paths.first().map_or_else(String::new, |path| show(path, WIDTH));
        let (saved, each) = (size(duplicate.saved), size(duplicate.bytes));
        writeln!(out, "{saved:>11} {:>7} {each:>8}  {path}", duplicate.copies)?;
    }
    Ok(())
}

fn deleted(report: &Report, out: &mut impl Write) -> Result<()> {
    let deleted = &report.deleted;
    if deleted.files == 0 {
        return Ok(());
    }
    let style = Style::of_stdout();
    writeln!(
        out,
        "\n{:>11} {:>7} {:>8}  deleted, but still shipped by the source: {}, {}",
        "size",
        "layer",
        "gone in",
        count(deleted.files, "file"),
        size(deleted.bytes)
    )?;
    for file in &deleted.list {
        let secret = if file.secret { style.alarm("  [name of a secret]") } else { String::new() };
        let path = show(file.path(), WIDTH);
        writeln!(out, "{:>11} {:>7} {:>8}  {path}{secret}", size(file.bytes), file.layer, file.deleted_by)?;
    }
    Ok(())
}

fn security(report: &Report, out: &mut impl Write) -> Result<()> {
    writeln!(out)?;
    for (title, subjects) in report.security.lists() {
        let mut names: Vec<String> = subjects.list.iter().map(describe).collect();
        if subjects.count > report.top.try_into().unwrap_or(u64::MAX) {
            names.push("...".to_owned());
        }
        let line = format!("{title:<24} {:>4}  {}", subjects.count, names.join(", "));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A path, and what is special about it.
fn describe(subject: &Subject) -> String {
    let path = show(&subject.path, WIDTH);
    match (&subject.capabilities, subject.rdev) {
        (Some(names), _) => format!("{path} ({names})"),
        (_, Some((major, minor))) => format!("{path} ({} {major}:{minor})", subject.file_type.word()),
        _ => path,
    }
}
