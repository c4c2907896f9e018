//! Differences between an image and a tree, for people and machines.
//!
//! The table has one line a path: what is worst about it, the path, then everything that differs. What is below a
//! directory that only one side has is counted on the line of the directory, unless it gives somebody power.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use mkimg_format::erofs::{Timestamp, escape};
use mkimg_verify::tree::{Difference, Kind};
use serde::Serialize;

use crate::output::{count, show, text_and_base64, utc};
use crate::style::Style;

/// One difference as JSON.
#[derive(Serialize)]
pub(crate) struct DifferenceLine<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_unit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<&'static str>,
    /// Of an overlay: what its upper directories made of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
}

impl<'a> DifferenceLine<'a> {
    /// `above` are the directories of an overlay over the image.
    pub(crate) fn new(difference: &'a Difference, above: &[PathBuf]) -> Self {
        let (path, path_b64) = text_and_base64(&difference.path);
        let layer = difference.layer.and_then(|index| above.get(index));
        Self {
            kind: difference.kind.word(),
            path,
            path_b64,
            expected: difference.expected.as_deref(),
            found: difference.found.as_deref(),
            offset: difference.offset.map(|offset| offset.at),
            offset_unit: difference.offset.map(|offset| offset.unit),
            security: difference.security.map(|security| security.word()),
            change: layer.map(|_| change(difference.kind)),
            layer: layer.map(|path| show(path)),
        }
    }
}

/// What an overlay made of a path, by what differs.
const fn change(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "deleted",
        Kind::Extra => "added",
        Kind::Type => "replaced",
        Kind::Content | Kind::Size => "content",
        Kind::Opaque | Kind::Redirect | Kind::Metacopy => kind.word(),
        kind if kind.hides() => kind.word(),
        _ => "metadata",
    }
}

/// How bad a kind is among those of one path, best last.
const fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Image | Kind::Unreadable => 0,
        Kind::Mount | Kind::Changing => 1,
        Kind::Missing | Kind::Extra => 2,
        Kind::Type => 3,
        Kind::Opaque | Kind::Redirect | Kind::Metacopy => 4,
        Kind::Content | Kind::Size => 5,
        _ => 6,
    }
}

/// What an image is compared with, which decides the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// A tree: names are missing or extra.
    Tree,
    /// An overlay over the image: names are deleted or added, and all of that by its upper directories.
    Overlay,
    /// A second image: names are deleted or added.
    Image,
}

/// Prints a table of differences.
pub(crate) struct Table<'a> {
    style: Style,
    view: View,
    /// What else there is to say about a path.
    note: &'a dyn Fn(&Difference) -> Option<String>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(style: Style, view: View) -> Self {
        Self { style, view, note: &|_| None }
    }

    /// Adds a note to the line of each path.
    pub(crate) fn note(self, note: &'a dyn Fn(&Difference) -> Option<String>) -> Self {
        Self { note, ..self }
    }

    /// Prints everything, paths that concern security first.
    pub(crate) fn print(&self, findings: &[Difference], out: &mut impl Write) -> Result<()> {
        let alarming: HashSet<&[u8]> = findings
            .iter()
            .filter(|found| found.security.is_some())
            .map(|found| found.path.as_slice())
            .collect();
        let mut order: Vec<&Difference> = findings.iter().collect();
        order.sort_by_key(|found| (!alarming.contains(found.path.as_slice()), &found.path));
        let mut groups = order.chunk_by(|one, other| one.path == other.path).peekable();
        while let Some(group) = groups.next() {
            let mut below = 0;
            if let [only] = group
                && matches!(only.kind, Kind::Missing | Kind::Extra)
                && only.security.is_none()
            {
                while groups.next_if(|next| is_below(only, next)).is_some() {
                    below += 1;
                }
            }
            self.line(group, below, out)?;
        }
        Ok(())
    }

    /// One path.
    fn line(&self, group: &[&Difference], below: u64, out: &mut impl Write) -> Result<()> {
        let Some(worst) = group.iter().min_by_key(|found| rank(found.kind)) else { return Ok(()) };
        let overlay = self.view == View::Overlay;
        let word = if self.view == View::Tree { class(worst.kind) } else { change(worst.kind) };
        let mut details: Vec<String> = group.iter().filter_map(|found| detail(found)).collect();
        if below > 0 {
            details.push(format!("and {} below", count(below, "name")));
        }
        let alarms: Vec<&str> =
            group.iter().filter_map(|found| found.security).map(|why| why.word()).collect();
        // The image itself is seen otherwise: nothing that a container does leads to that.
        let tampered = overlay && group.iter().any(|found| found.layer.is_none() && !found.kind.hides());
        let loud = !alarms.is_empty() || tampered || worst.kind.hides();
        let head = format!("{} {word:<10}", if loud { "!" } else { " " });
        let head = if loud { self.style.alarm(&head) } else { self.style.warning(&head) };
        write!(out, "{head} {}", escape(&worst.path))?;
        if !details.is_empty() {
            write!(out, "  {}", details.join("; "))?;
        }
        if let Some(note) = (self.note)(worst) {
            write!(out, "  {note}")?;
        }
        if let Some(first) = alarms.first() {
            write!(out, "  {}", self.style.alarm(&format!("[{first}]")))?;
        }
        if tampered {
            write!(out, "  {}", self.style.alarm("[not by the overlay]"))?;
        }
        writeln!(out)?;
        Ok(())
    }
}

/// Whether a group is one more name below a directory that only one side has, and needs no line of its own.
fn is_below(top: &Difference, group: &[&Difference]) -> bool {
    let [only] = group else { return false };
    only.kind == top.kind
        && only.layer == top.layer
        && only.security.is_none()
        && only.path.strip_prefix(top.path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
}

/// What differs about a path, in a word.
const fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Content | Kind::Size => "content",
        Kind::Missing | Kind::Extra | Kind::Type => kind.word(),
        kind if kind.hides() => kind.word(),
        Kind::Opaque | Kind::Redirect | Kind::Metacopy => kind.word(),
        _ => "metadata",
    }
}

/// One difference, behind the path.
fn detail(found: &Difference) -> Option<String> {
    let place = found.offset.map(|offset| match offset.unit {
        1 => format!("from byte {} on", offset.at),
        unit => format!("within the {unit} bytes from {} on", offset.at),
    });
    let word = found.kind.word();
    Some(match (found.kind, &found.expected, &found.found) {
        (Kind::Missing, Some(what), _) | (Kind::Extra, _, Some(what)) => what.clone(),
        (Kind::Content, ..) if place.is_some() => format!("differs {}", place?),
        (Kind::Size, Some(expected), Some(found)) => match place {
            Some(place) => format!("{expected} -> {found}, differs {place}"),
            None => format!("{expected} -> {found}"),
        },
        (Kind::Type | Kind::Content, Some(expected), Some(found)) => format!("{expected} -> {found}"),
        (kind, _, Some(found)) if kind.hides() || rank(kind) == 4 => found.clone(),
        (Kind::Image, Some(why), _) => why.clone(),
        (Kind::Mtime, Some(expected), Some(found)) => format!("{word} {} -> {}", time(expected), time(found)),
        (_, Some(expected), Some(found)) => format!("{word} {expected} -> {found}"),
        (_, Some(expected), None) => format!("{word} {expected} is gone"),
        (_, None, Some(found)) => format!("{word} {found} is new"),
        (_, None, None) => return None,
    })
}

/// Seconds and nanoseconds as a date, with the fraction if there is one.
fn time(text: &str) -> String {
    let Some((seconds, fraction)) = text.split_once('.') else { return text.to_owned() };
    let Ok(sec) = seconds.parse() else { return text.to_owned() };
    let date = utc(Timestamp { sec, nsec: 0 });
    if fraction.bytes().all(|digit| digit == b'0') { date } else { format!("{date}.{fraction}") }
}
