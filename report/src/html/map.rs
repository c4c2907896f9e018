//! Maps of directories: rectangles within rectangles, each as large as what it stands for.
//!
//! Places and widths are in per cent of the picture, heights in pixels, so a map takes the width that there is and
//! its text keeps its size. A rectangle is an `svg` of its own, which cuts off what does not fit.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Write};

use super::markup::Html;
use crate::kinds::Kind;
use crate::tree::{Node, Tree};
use crate::treemap::{Rect, squarify};
use crate::words::{count, size};

/// Directories that have a map.
pub(super) const MAPS_MAX: usize = 24;
/// Rectangles in a map.
pub(super) const CELLS_MAX: usize = 280;

/// The size that a map is laid out for, in pixels; it is this high on every screen.
const PAGE: Rect = Rect { x: 0.0, y: 0.0, width: 1140.0, height: 560.0 };
/// Smallest rectangle of its own, in square pixels; the rest of a directory is drawn as one.
const AREA_MIN: f64 = 320.0;
/// Directories within directories.
const DEPTH_MAX: usize = 6;
/// Height of a line of text.
const LINE: f64 = 18.0;
/// Longest text in a rectangle, and in what is shown when a pointer rests on it.
const LABEL_MAX: usize = 60;
const TITLE_MAX: usize = 120;

/// What a rectangle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Node(usize),
    /// What is too small to be drawn.
    Rest {
        bytes: u64,
        files: u64,
    },
}

/// A rectangle.
#[derive(Debug, Clone, Copy)]
struct Cell {
    content: Content,
    rect: Rect,
    /// Whether others lie in it.
    is_open: bool,
}

/// A directory whose rectangle has room for what is in it; the largest is greatest.
#[derive(Debug, PartialEq)]
struct Pending {
    dir: usize,
    within: Rect,
    depth: usize,
    /// Its place among the cells; `None` for the whole map.
    cell: Option<usize>,
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> Ordering {
        self.within.area().total_cmp(&other.within.area()).then(other.dir.cmp(&self.dir))
    }
}

/// Writes the section of the map.
pub(super) fn write(tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let maps = directories(tree);
    let numbers: HashMap<usize, usize> = maps.iter().copied().zip(0..).collect();
    writeln!(
        out,
        "<section><h2 id=\"map\">Map</h2>\n<p>Each rectangle is as large as what it stands for. Choose a folder to \
         zoom in; the path above the map leads back, and so does the browser. The tables below say the same in words.</p>"
    )?;
    legend(out)?;
    // That of the root is the last, because it is shown unless the address names one of those before it.
    for (number, index) in maps.into_iter().enumerate().rev() {
        picture(tree, index, number, &numbers, out)?;
    }
    writeln!(out, "</section>")
}

/// Directories that have a map: the root and the heaviest. What is above one of them is one of them.
fn directories(tree: &Tree) -> Vec<usize> {
    let bytes = |index: &usize| tree.node(*index).map_or(0, |node| node.bytes);
    let has_map = |index: &usize| {
        *index == 0 || tree.node(*index).is_some_and(|node| node.is_dir) && !tree.children(*index).is_empty()
    };
    let mut found: Vec<usize> = (0..tree.nodes().len()).filter(has_map).collect();
    found.sort_by_key(|index| (std::cmp::Reverse(bytes(index)), *index));
    found.truncate(MAPS_MAX);
    found
}

fn legend(out: &mut impl Write) -> io::Result<()> {
    write!(out, "<ul class=\"legend\">")?;
    for kind in Kind::ALL {
        write!(out, "<li><i class=\"swatch k-{}\"></i>{}</li>", kind.word(), kind.title())?;
    }
    writeln!(out, "</ul>")
}

/// Draws one directory.
fn picture(
    tree: &Tree,
    index: usize,
    number: usize,
    numbers: &HashMap<usize, usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(node) = tree.node(index) else { return Ok(()) };
    let path = Html::short(&tree.path(index), TITLE_MAX);
    write!(
        out,
        "<div class=\"map\" id=\"m{number}\">\n<nav class=\"crumbs\" aria-label=\"path of the map\">"
    )?;
    for above in tree.line(index) {
        let name = tree.node(above).map_or(&[][..], |node| &node.name);
        let name = if above == 0 { Html::name(b"/") } else { Html::short(name, LABEL_MAX) };
        match numbers.get(&above) {
            Some(number) if above != index => write!(out, "<a href=\"#m{number}\">{name}</a> ")?,
            _ => write!(out, "<b aria-current=\"true\">{name}</b> ")?,
        }
    }
    writeln!(out, "<span>{} in {}</span></nav>", size(node.bytes), count(node.files, "file"))?;
    writeln!(out, "<svg class=\"treemap\" role=\"group\" aria-label=\"map of {path}\">")?;
    for cell in cells(tree, index) {
        draw(tree, &cell, numbers, out)?;
    }
    writeln!(out, "</svg></div>")
}

/// The rectangles of a map, each behind the one that it lies in. The largest directories are opened first.
fn cells(tree: &Tree, index: usize) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    let mut pending = BinaryHeap::from([Pending { dir: index, within: PAGE, depth: 0, cell: None }]);
    while let Some(Pending { dir, within, depth, cell }) = pending.pop() {
        let found = inside(tree, dir, within, CELLS_MAX.saturating_sub(cells.len()));
        if let Some(cell) = cell.and_then(|cell| cells.get_mut(cell)) {
            cell.is_open = !found.is_empty();
        }
        for cell in found {
            if let Content::Node(child) = cell.content
                && tree.node(child).is_some_and(|node| node.is_dir)
                && depth < DEPTH_MAX
                && cell.rect.width > 60.0
                && cell.rect.height > 2.0 * LINE
            {
                let (within, depth) = (cell.rect.inset(LINE, 2.0), depth.saturating_add(1));
                pending.push(Pending { dir: child, within, depth, cell: Some(cells.len()) });
            }
            cells.push(cell);
        }
    }
    cells
}

/// What is directly in a directory: at most `room` rectangles.
fn inside(tree: &Tree, dir: usize, within: Rect, room: usize) -> Vec<Cell> {
    let Some(node) = tree.node(dir).filter(|node| node.bytes > 0) else { return Vec::new() };
    // As many of the heaviest as are large enough. One place is for the rest.
    let least = least_bytes(node.bytes, AREA_MIN / within.area().max(1.0));
    let shown: Vec<(usize, &Node)> = tree
        .children(dir)
        .iter()
        .take(room.saturating_sub(1))
        .filter_map(|child| Some((*child, tree.node(*child)?)))
        .take_while(|(_, child)| child.bytes >= least)
        .collect();
    let mut contents: Vec<(Content, u64)> =
        shown.iter().map(|(child, node)| (Content::Node(*child), node.bytes)).collect();
    let sum = |of: fn(&Node) -> u64| shown.iter().fold(0_u64, |sum, (_, node)| sum.saturating_add(of(node)));
    let bytes = node.bytes.saturating_sub(sum(|node| node.bytes));
    let files = node.files.saturating_sub(sum(|node| node.files));
    if bytes > 0 && room > 0 && !contents.is_empty() {
        contents.push((Content::Rest { bytes, files }, bytes));
    }
    let weights: Vec<u64> = contents.iter().map(|(_, bytes)| *bytes).collect();
    let rects = squarify(&weights, within);
    contents
        .into_iter()
        .zip(rects)
        .map(|((content, _), rect)| Cell { content, rect, is_open: false })
        .collect()
}

/// `share` of `bytes`, one byte at least.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a size, neither negative nor larger than it; casts from floats saturate"
)]
fn least_bytes(bytes: u64, share: f64) -> u64 {
    ((bytes as f64 * share.min(1.0)) as u64).max(1)
}

fn draw(tree: &Tree, cell: &Cell, numbers: &HashMap<usize, usize>, out: &mut impl Write) -> io::Result<()> {
    let Rect { x, y, width, height } = cell.rect;
    let (class, title, label, bytes, link) = match cell.content {
        Content::Rest { bytes, files } => {
            let title = Html::text(&format!("{} more, {}", count(files, "file"), size(bytes)));
            ("rest", title, Html::text(&format!("{files} more")), bytes, None)
        }
        Content::Node(index) => {
            let Some(node) = tree.node(index) else { return Ok(()) };
            let path = Html::short(&tree.path(index), TITLE_MAX);
            let label = Html::short(&node.name, LABEL_MAX);
            let (size, kind) = (size(node.bytes), node.kind.title());
            let title = if node.is_dir {
                let files = count(node.files, "file");
                Html::markup(format_args!("{path}: {size} in {files}, mostly {kind}"))
            } else {
                Html::markup(format_args!("{path}: {size}, {kind}"))
            };
            let class = if cell.is_open { "dir" } else { class(node.kind) };
            (class, title, label, node.bytes, numbers.get(&index))
        }
    };
    if let Some(number) = link {
        write!(out, "<a href=\"#m{number}\">")?;
    }
    write!(
        out,
        "<svg x=\"{:.2}%\" y=\"{y:.1}\" width=\"{:.2}%\" height=\"{height:.1}\"><title>{title}</title><rect class=\"{class}\" width=\"100%\" height=\"100%\"/>",
        x * 100.0 / PAGE.width,
        width * 100.0 / PAGE.width,
    )?;
    if width >= 44.0 && height >= 15.0 {
        // On a small screen there is no room for text in what is narrow.
        let narrow = if width < 200.0 { " class=\"s\"" } else { "" };
        if cell.is_open {
            write!(
                out,
                "<text{narrow} x=\"4\" y=\"13\"><tspan class=\"b\">{label}</tspan> {}</text>",
                size(bytes)
            )?;
        } else {
            write!(out, "<text{narrow} x=\"4\" y=\"13\">{label}</text>")?;
            if height >= 2.0 * LINE {
                write!(out, "<text{narrow} x=\"4\" y=\"28\">{}</text>", size(bytes))?;
            }
        }
    }
    write!(out, "</svg>")?;
    if link.is_some() {
        write!(out, "</a>")?;
    }
    writeln!(out)
}

/// Class of a kind in the style sheet.
const fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Elf => "k-elf",
        Kind::Script => "k-script",
        Kind::Bytecode => "k-bytecode",
        Kind::Text => "k-text",
        Kind::Archive => "k-archive",
        Kind::Media => "k-media",
        Kind::Other => "k-other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Growth;

    fn large() -> Tree {
        let mut growth = Growth::default();
        for dir in 0..60_u32 {
            growth.enter(format!("dir-{dir}").as_bytes());
            for file in 0..90_u64 {
                growth.file(format!("file-{file}").as_bytes(), 1 + file * file * u64::from(dir), Kind::Elf);
            }
            growth.ascend(0);
        }
        growth.finish()
    }

    #[test]
    fn a_map_is_bounded_and_adds_up() {
        let tree = large();
        assert_eq!(directories(&tree).len(), MAPS_MAX);
        assert_eq!(directories(&tree)[0], 0);
        for index in directories(&tree) {
            let cells = cells(&tree, index);
            assert!(!cells.is_empty() && cells.len() <= CELLS_MAX, "{}", cells.len());
            // The first ones lie in the page itself, and fill it.
            let direct = inside(&tree, index, PAGE, CELLS_MAX);
            let area: f64 = direct.iter().map(|cell| cell.rect.area()).sum();
            assert!((area - PAGE.area()).abs() < 1.0);
            let bytes: u64 = direct
                .iter()
                .map(|cell| match cell.content {
                    Content::Node(child) => tree.nodes()[child].bytes,
                    Content::Rest { bytes, .. } => bytes,
                })
                .sum();
            assert_eq!(bytes, tree.nodes()[index].bytes);
        }
    }

    /// However deep it goes: no stack, no endless loop.
    #[test]
    fn a_deep_tree_has_a_map() {
        let mut growth = Growth::default();
        for _ in 0..2000 {
            growth.enter(b"d");
        }
        growth.file(b"f", 1, Kind::Text);
        let tree = growth.finish();
        let mut page = Vec::new();
        write(&tree, &mut page).unwrap();
        assert!(page.len() < 100_000, "{}", page.len());
    }

    #[test]
    fn nothing_has_a_map_as_well() {
        let mut page = Vec::new();
        write(&Growth::default().finish(), &mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("id=\"m0\""));
    }
}
