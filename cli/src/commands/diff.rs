//! `mkimg diff`

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use mkimg_format::erofs::FileSystem;
use mkimg_format::hex;
use mkimg_format::seal::Seal;
use mkimg_sign::Trust;
use mkimg_verify::diff::{DiffReport, Origin, diff_images, layer_of};
use mkimg_verify::tree::audit_tree;
use serde::Serialize;

use super::verify_tree::{self, Baseline, differ};
use crate::args::DiffArgs;
use crate::differences::{DifferenceLine, Table, View};
use crate::output::{count, json_line, show, stdout};
use crate::style::Style;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    difference: DifferenceLine<'a>,
    /// Index of the layer that the path comes from, on either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_layer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_layer: Option<u32>,
}

#[derive(Serialize)]
struct Summary<'a> {
    equal: bool,
    complete: bool,
    first: SideLine,
    second: SideLine,
    entries: u64,
    findings: u64,
    unseen: &'a [String],
}

/// One of the two that are compared.
#[derive(Serialize)]
struct SideLine {
    path: String,
    /// Of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    root_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Diff ids of its layers, lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
}

impl SideLine {
    fn of_image(path: &Path, image: &Baseline) -> Result<Self> {
        let statement = Seal::open(&image.image, &image.header)?.statement().with_context(|| show(path))?;
        Ok(Self {
            path: show(path),
            root_hash: Some(hex(&image.root_hash)),
            name: statement.name,
            layers: statement.layers.into_iter().map(|layer| layer.diff_id).collect(),
        })
    }

    fn of_dir(path: &Path) -> Self {
        Self { path: show(path), root_hash: None, name: None, layers: Vec::new() }
    }

    /// One line for people.
    fn text(&self) -> String {
        let mut text = self.path.clone();
        if let Some(root) = &self.root_hash {
            text.push_str(&format!(": root hash {root}, {}", count(self.layers.len() as u64, "layer")));
        }
        text
    }
}

pub(crate) fn run(args: &DiffArgs) -> Result<ExitCode> {
    if args.first.is_dir() {
        bail!("{}: is a directory, the image comes first: mkimg diff IMAGE DIR", show(&args.first));
    }
    let options = verify_tree::options(&args.compare);
    let threads = options.threads;
    let first = Baseline::open(&args.first, &Trust::default(), threads)?;
    let first_line = SideLine::of_image(&args.first, &first)?;
    let (found, second_line, view) = if args.second.is_dir() {
        let report = audit_tree(&first.image, &args.second, &options).with_context(|| show(&args.second))?;
        let fs = FileSystem::open(&first.image)?;
        let seal = Seal::open(&first.image, &first.header)?;
        let origin = |path: &[u8]| Origin { first: layer_of(&fs, &seal, path), second: None };
        let origins = report.findings.iter().map(|finding| origin(&finding.path)).collect();
        (DiffReport { report, origins }, SideLine::of_dir(&args.second), View::Tree)
    } else {
        let second = Baseline::open(&args.second, &Trust::default(), threads)?;
        let line = SideLine::of_image(&args.second, &second)?;
        (diff_images(&first.image, &second.image, &options)?, line, View::Image)
    };
    let printed = if args.compare.json {
        json(&found, first_line, second_line)
    } else {
        text(&found, view, &first_line, &second_line)
    };
    super::verdict(found.report.is_clean(), found.report.complete, printed)
}

fn json(found: &DiffReport, first: SideLine, second: SideLine) -> Result<()> {
    let mut out = stdout();
    let report = &found.report;
    for (finding, origin) in report.findings.iter().zip(&found.origins) {
        let difference = DifferenceLine::new(finding, &[]);
        let line = Line { difference, first_layer: origin.first, second_layer: origin.second };
        json_line(&mut out, &line)?;
    }
    let summary = Summary {
        equal: report.is_clean(),
        complete: report.complete,
        first,
        second,
        entries: report.entries,
        findings: report.truncated.saturating_add(report.findings.len() as u64),
        unseen: &report.unseen,
    };
    json_line(&mut out, &summary)?;
    out.flush()?;
    Ok(())
}

fn text(found: &DiffReport, view: View, first: &SideLine, second: &SideLine) -> Result<()> {
    let mut out = stdout();
    let (style, report) = (Style::of_stdout(), &found.report);
    writeln!(out, "--- {}", first.text())?;
    writeln!(out, "+++ {}", second.text())?;
    let note = |difference: &mkimg_verify::tree::Difference| {
        let index = report.findings.binary_search(difference).ok()?;
        origin(*found.origins.get(index)?)
    };
    Table::new(style, view).note(&note).print(&report.findings, &mut out)?;
    for unseen in &report.unseen {
        writeln!(out, "not seen: {unseen}")?;
    }
    let compared = match view {
        View::Image => format!("{} compared, content by its sealed digests", count(report.entries, "name")),
        _ => verify_tree::compared(report),
    };
    if report.is_clean() {
        writeln!(out, "{}: {compared}", style.good("equal"))?;
    } else {
        let incomplete = if report.complete { "" } else { ", and not everything could be compared" };
        writeln!(out, "{}{incomplete}; {compared}", differ(&report.findings, report.truncated))?;
    }
    out.flush()?;
    Ok(())
}

/// Which layers a path comes from.
fn origin(origin: Origin) -> Option<String> {
    Some(match (origin.first, origin.second) {
        (None, None) => return None,
        (Some(first), Some(second)) if first == second => format!("(layer {first})"),
        (Some(first), Some(second)) => format!("(layer {first} -> {second})"),
        (Some(layer), None) | (None, Some(layer)) => format!("(layer {layer})"),
    })
}
