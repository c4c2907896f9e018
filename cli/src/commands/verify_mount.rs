//! `mkimg verify MOUNTPOINT`

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use mkimg_format::hex;
use mkimg_format::volume::{Joined, Place, Volume, is_of_others};
use mkimg_sign::{Anchor, Vouching};
use mkimg_verify::live::{LiveOptions, LiveReport, audit_mount, backing_file};
use mkimg_verify::tree::TreeOptions;
use mkimg_verify::{Options, Report};
use serde::Serialize;

use super::image_report::{self, FindingLine};
use super::verify_tree::{self, compared, differ};
use crate::args::VerifyArgs;
use crate::differences::{DifferenceLine, Table, View};
use crate::output::{count, json_line, show, size, stdout};
use crate::progress::Bar;
use crate::style::Style;
use crate::trust::Anchored;

/// One finding of one of the three views.
#[derive(Serialize)]
#[serde(tag = "view", rename_all = "kebab-case")]
pub(super) enum Line<'a> {
    /// The mount as a whole.
    Kernel { kind: &'static str, problem: &'a str },
    /// What processes see.
    Processes(DifferenceLine<'a>),
    /// The bytes of the backing file.
    File(FindingLine<'a>),
}

#[derive(Serialize)]
struct Summary<'a> {
    clean: bool,
    complete: bool,
    #[serde(flatten)]
    anchored: Anchored,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_hash: Option<String>,
    target: String,
    image: String,
    how: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_corruption: Option<&'static str>,
    above: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    beneath: Vec<String>,
    entries: u64,
    bytes: u64,
    measured: u64,
    bytes_read: u64,
    findings: u64,
    unseen: Vec<&'a str>,
}

/// Audits the mount at `target`.
pub(crate) fn run(args: &VerifyArgs, target: &Path) -> Result<ExitCode> {
    if args.seal.is_some() {
        bail!("{}: a seal is compared with a directory: mkimg verify --seal SEAL DIR", show(target));
    }
    let bar = Bar::new();
    let done = AtomicU64::new(0);
    let tree_progress = |bytes| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        bar.show("mount", done, done);
    };
    let image_progress = |done, total| bar.show("file", done, total);
    let anchor = anchor(args, target)?;
    let options = options(args, anchor.as_ref());
    let options = LiveOptions {
        tree: TreeOptions { progress: Some(&tree_progress), ..options.tree },
        image: Options { progress: Some(&image_progress), ..options.image },
    };
    let report = audit_mount(target, &options);
    bar.clear();
    let report = report?;
    admit(anchor.as_ref(), &report)?;
    super::verdict(report.is_clean(), report.is_complete(), print(args, target, &report, anchor.as_ref()))
}

/// Who vouches for the image behind a mount; `None` if nobody is asked for. A backing file that cannot be read is left to
/// the audit, which says why; then only a root hash that was given can be gone by.
pub(super) fn anchor(args: &VerifyArgs, target: &Path) -> Result<Option<Anchor>> {
    let trust = args.trust.trust()?;
    if trust.is_root_hash_only() {
        return Ok(trust.anchor_by_root_hash());
    }
    match backing_file(target)? {
        Some(file) if is_of_others(&file).unwrap_or(false) => {
            let joined = Joined::new(&file, None::<&File>);
            let root = Volume::open(&joined, Place::Usual).and_then(|volume| volume.claimed_root(&joined));
            let root = root.with_context(|| show(target))?;
            trust.anchor_root(root, SystemTime::now()).with_context(|| show(target))
        }
        Some(file) => crate::trust::anchor(target, &file, &trust),
        None => bail!("{}: the backing file cannot be read, and the signatures are in it", show(target)),
    }
}

/// Remembers the release, if the image behind the mount is the one that was vouched for, whatever lies over it.
pub(super) fn admit(anchor: Option<&Anchor>, report: &LiveReport) -> Result<()> {
    match anchor.filter(|_| report.backing.as_ref().is_some_and(Report::is_clean)) {
        Some(anchor) => Ok(anchor.admit()?),
        None => Ok(()),
    }
}

/// What the arguments say about how to audit a mount.
pub(super) fn options<'a>(args: &'a VerifyArgs, anchor: Option<&Anchor>) -> LiveOptions<'a> {
    let threads = super::threads(args.compare.threads);
    let root_hash = anchor.map(|anchor| anchor.root_hash);
    let image = Options { root_hash, threads, progress: None };
    LiveOptions { tree: verify_tree::options(&args.compare), image }
}

pub(super) fn print(
    args: &VerifyArgs,
    target: &Path,
    report: &LiveReport,
    anchor: Option<&Anchor>,
) -> Result<()> {
    let mut out = stdout();
    let by = anchor.map(|anchor| &anchor.by);
    if args.compare.json {
        json(target, report, by, &mut out)?;
    } else {
        text(target, report, by, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

fn json(target: &Path, report: &LiveReport, by: Option<&Vouching>, out: &mut impl Write) -> Result<()> {
    let layers = report.layers();
    for problem in &report.problems {
        json_line(out, &Line::Kernel { kind: problem.kind.word(), problem: &problem.text })?;
    }
    for difference in report.tree.iter().flat_map(|tree| &tree.findings) {
        json_line(out, &Line::Processes(DifferenceLine::new(difference, &layers)))?;
    }
    for finding in report.backing.iter().flat_map(|backing| &backing.findings) {
        json_line(out, &Line::File(image_report::finding_line(finding)))?;
    }
    let tree = report.tree.as_ref();
    let summary = Summary {
        clean: report.is_clean(),
        complete: report.is_complete(),
        anchored: Anchored::new(report.is_anchored(), by),
        root_hash: report.root_hash().map(|root| hex(&root)),
        target: show(target),
        image: show(&report.image),
        how: &report.how,
        on_corruption: report.on_corruption,
        above: report.above.iter().map(|path| show(path)).collect(),
        beneath: report.beneath.iter().map(|path| show(path)).collect(),
        entries: tree.map_or(0, |tree| tree.entries),
        bytes: tree.map_or(0, |tree| tree.bytes),
        measured: tree.map_or(0, |tree| tree.measured),
        bytes_read: report.backing.as_ref().map_or(0, |backing| backing.bytes_read),
        findings: report.findings(),
        unseen: unseen(report).collect(),
    };
    json_line(out, &summary)
}

fn unseen(report: &LiveReport) -> impl Iterator<Item = &str> {
    let tree = report.tree.iter().flat_map(|tree| &tree.unseen);
    report.unseen.iter().chain(tree).map(String::as_str)
}

fn text(target: &Path, report: &LiveReport, by: Option<&Vouching>, out: &mut impl Write) -> Result<()> {
    let style = Style::of_stdout();
    let target = show(target);
    let claim = match by {
        Some(by) if report.is_anchored() => format!("checked against {by}"),
        Some(by) => format!("nothing could be checked against {by}"),
        None if report.tree.is_some() => {
            let hint = "give --root-hash, --key or --cert to know whose they are";
            format!("checked against the records in its own image; {hint}")
        }
        None => "compared with no records".to_owned(),
    };
    writeln!(out, "{target}: {claim}")?;
    writeln!(out, "{target}: {} {}", report.how, show(&report.image))?;
    for problem in &report.problems {
        writeln!(out, "{} {}", style.alarm(&format!("! {:<17}", problem.kind.word())), problem.text)?;
    }
    if let Some(tree) = &report.tree {
        // Where a directory was not seen, nobody knows what is not by the overlay.
        let view = if report.layers_seen && report.is_overlay() { View::Overlay } else { View::Tree };
        Table::new(style, view).print(&tree.findings, out)?;
    }
    for finding in report.backing.iter().flat_map(|backing| &backing.findings) {
        write!(out, "{} ", style.alarm("! file"))?;
        image_report::text_line(finding, out)?;
    }
    for unseen in unseen(report) {
        writeln!(out, "not seen: {unseen}")?;
    }
    let read = |bytes| format!("{} of the backing file read", size(bytes));
    let mut looked: Vec<String> = Vec::new();
    looked.extend(report.tree.as_ref().map(compared));
    looked.extend(report.backing.as_ref().map(|backing| read(backing.bytes_read)));
    let looked = looked.join(", ");
    if report.is_clean() {
        let root = report.root_hash().map(|root| hex(&root)).unwrap_or_default();
        writeln!(out, "{}: {looked}, root hash {root}", style.good("clean"))?;
        return Ok(());
    }
    let mut found = Vec::new();
    if !report.problems.is_empty() {
        found.push(format!("{} of the mount", count(report.problems.len() as u64, "problem")));
    }
    if let Some(tree) = report.tree.as_ref().filter(|tree| !tree.findings.is_empty()) {
        found.push(differ(&tree.findings, tree.truncated));
    }
    if let Some(backing) = report.backing.as_ref().filter(|backing| !backing.findings.is_empty()) {
        found.push(format!("{} in the backing file", count(image_report::findings(backing), "finding")));
    }
    if !report.is_complete() {
        found.push("not everything could be looked at".to_owned());
    }
    if !looked.is_empty() {
        found.push(looked);
    }
    writeln!(out, "{}: {}", style.alarm("NOT clean"), found.join("; "))?;
    Ok(())
}
