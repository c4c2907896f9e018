//! `mkimg verify IMAGE DIR`

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use mkimg_format::detached::{Sealed, WithoutData};
use mkimg_format::header::Header;
use mkimg_format::hex;
use mkimg_sign::{Anchor, Trust, Vouching};
use mkimg_verify::tree::{Difference, TreeOptions, TreeReport, audit_tree};
use mkimg_verify::{Options, verify_image};
use serde::Serialize;

use crate::args::{CompareArgs, VerifyArgs};
use crate::differences::{DifferenceLine, Table, View};
use crate::image::{header as image_header, open_file};
use crate::output::{count, json_line, show, size, stdout};
use crate::progress::Bar;
use crate::style::Style;
use crate::trust::{Anchored, anchor, with_partition};

#[derive(Serialize)]
struct Summary<'a> {
    clean: bool,
    complete: bool,
    #[serde(flatten)]
    anchored: Anchored,
    root_hash: String,
    entries: u64,
    bytes: u64,
    measured: u64,
    findings: u64,
    unseen: &'a [String],
}

/// An image or detached seal to compare with, whose records were checked.
pub(super) struct Baseline {
    pub(super) image: Sealed<File>,
    /// The file that it is read from.
    pub(super) file: File,
    pub(super) header: Header,
    /// Who vouches for it, if anybody was asked for.
    pub(super) anchor: Option<Anchor>,
    pub(super) root_hash: [u8; 32],
}

impl Baseline {
    /// Opens it and checks its records: whatever equals forged records proves nothing. File data is not needed for
    /// that.
    pub(super) fn open(path: &Path, trust: &Trust, threads: NonZeroUsize) -> Result<Self> {
        let file = open_file(path)?;
        let image = Sealed::open(file.try_clone()?).with_context(|| show(path))?;
        let header = image_header(path, &image)?;
        let anchor = anchor(path, &image, &with_partition(trust.clone(), &image))?;
        let root_hash = check_records(path, &image, &header, anchor.as_ref(), threads)?;
        if let Some(anchor) = &anchor {
            anchor.admit().with_context(|| show(path))?;
        }
        Ok(Self { image, file, header, anchor, root_hash })
    }
}

/// Makes sure that the records of an image are those that were built, and of the one that is trusted. Returns its root hash.
pub(super) fn check_records(
    path: &Path,
    image: &Sealed<File>,
    header: &Header,
    anchor: Option<&Anchor>,
    threads: NonZeroUsize,
) -> Result<[u8; 32]> {
    let records = WithoutData::new(image, header);
    let root_hash = anchor.map(|anchor| anchor.root_hash);
    let checked = verify_image(&records, &Options { root_hash, threads, progress: None });
    let checked = checked.with_context(|| show(path))?;
    if !checked.is_clean() {
        let findings = count(checked.findings.len() as u64, "finding");
        bail!("{}: its records cannot be trusted ({findings}); see mkimg verify {0}", show(path));
    }
    Ok(checked.root_hash)
}

impl Baseline {
    fn by(&self) -> Option<&Vouching> {
        self.anchor.as_ref().map(|anchor| &anchor.by)
    }
}

/// Audits `dir` against the image or detached seal `baseline`.
pub(crate) fn run(args: &VerifyArgs, baseline: &Path, dir: &Path) -> Result<ExitCode> {
    let baseline = Baseline::open(baseline, &args.trust.trust()?, super::threads(args.compare.threads))?;
    let bar = Bar::new();
    let (done, total) = (AtomicU64::new(0), baseline.header.hash_offset());
    let advance = |bytes| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        bar.show("check", done, total.max(done));
    };
    let options = TreeOptions { progress: Some(&advance), ..options(&args.compare) };
    let report = audit_tree(&baseline.image, dir, &options);
    bar.clear();
    let report = report.with_context(|| show(dir))?;
    super::verdict(report.is_clean(), report.complete, print(args, dir, &baseline, &report))
}

/// What the arguments say about how to audit a tree.
pub(super) fn options(args: &CompareArgs) -> TreeOptions<'_> {
    TreeOptions {
        threads: super::threads(args.threads),
        ignore: &args.ignore,
        ignore_paths: &args.ignore_path,
        ignore_xattrs: &args.ignore_xattr,
        cross_mounts: args.cross_mounts,
        only_security: args.only.is_some(),
        progress: None,
    }
}

pub(super) fn print(args: &VerifyArgs, dir: &Path, baseline: &Baseline, report: &TreeReport) -> Result<()> {
    let mut out = stdout();
    if args.compare.json {
        for difference in &report.findings {
            json_line(&mut out, &DifferenceLine::new(difference, &[]))?;
        }
        let summary = Summary {
            clean: report.is_clean(),
            complete: report.complete,
            anchored: Anchored::new(baseline.anchor.is_some(), baseline.by()),
            root_hash: hex(&baseline.root_hash),
            entries: report.entries,
            bytes: report.bytes,
            measured: report.measured,
            findings: findings(report),
            unseen: &report.unseen,
        };
        json_line(&mut out, &summary)?;
    } else {
        text(dir, baseline, report, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

fn findings(report: &TreeReport) -> u64 {
    report.truncated.saturating_add(report.findings.len() as u64)
}

fn text(dir: &Path, baseline: &Baseline, report: &TreeReport, out: &mut impl Write) -> Result<()> {
    let dir = show(dir);
    if let Some(by) = baseline.by() {
        writeln!(out, "{dir}: compared with the sealed records of {by}")?;
    } else {
        let hint = "give --root-hash, --key or --cert to know whose they are";
        writeln!(out, "{dir}: compared with records that nothing vouches for; {hint}")?;
    }
    let style = Style::of_stdout();
    Table::new(style, View::Tree).print(&report.findings, out)?;
    for unseen in &report.unseen {
        writeln!(out, "not seen: {unseen}")?;
    }
    if report.is_clean() {
        writeln!(out, "{}: {}", style.good("clean"), compared(report))?;
    } else {
        let incomplete = if report.complete { "" } else { ", and not everything could be looked at" };
        let found = differ(&report.findings, report.truncated);
        writeln!(out, "{}: {found}{incomplete}; {}", style.alarm("NOT clean"), compared(report))?;
    }
    Ok(())
}

/// What an audit of a tree looked at.
pub(super) fn compared(report: &TreeReport) -> String {
    let read = size(report.bytes);
    let mut text = format!("{} and {read} of content compared", count(report.entries, "name"));
    if report.measured > 0 {
        text.push_str(&format!(", {} vouched for by the kernel", count(report.measured, "file")));
    }
    text
}

/// How many paths differ, and how many of them concern security.
pub(super) fn differ(findings: &[Difference], truncated: u64) -> String {
    let paths = |wanted: &dyn Fn(&Difference) -> bool| {
        let paths: HashSet<&[u8]> =
            findings.iter().filter(|found| wanted(found)).map(|found| found.path.as_slice()).collect();
        paths.len() as u64
    };
    let all = paths(&|_| true);
    let mut text = format!("{} {}", count(all, "path"), if all == 1 { "differs" } else { "differ" });
    let alarming = paths(&|found| found.security.is_some());
    if alarming > 0 {
        text.push_str(&format!(", {alarming} of them in what gives power"));
    }
    if truncated > 0 {
        text.push_str(&format!(", and {truncated} more differences are not listed"));
    }
    text
}
