//! `mkimg repair`

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mkimg_format::detached::Sealed;
use mkimg_format::{ReadAt, hex};
use mkimg_remote::Remote;
use mkimg_repair::{Options, Repaired, repair};
use serde::Serialize;

use super::image_report::{finding_line, findings, text_line};
use crate::args::RepairArgs;
use crate::copies::Copy;
use crate::image::{open_file, refuse_others};
use crate::output::{count, json_line, show, size, stdout};
use crate::progress::Bar;

#[derive(Serialize)]
struct Summary {
    repaired: bool,
    anchored: bool,
    root_hash: String,
    image_size: u64,
    findings_before: u64,
    copied: u64,
    corrected: u64,
    computed: u64,
    fetched: u64,
    findings: u64,
}

pub(crate) fn run(args: &RepairArgs) -> Result<ExitCode> {
    let image = open_file(&args.image)?;
    let output = mkimg_mkfs::Output::create(&args.output)?;
    output.spare(&image)?;
    let copies = args.from.iter().map(|from| Copy::open(from, &output)).collect::<Result<Vec<_>>>()?;
    let readers: Vec<_> = copies.iter().map(Copy::reader).collect();
    let readers: Vec<&dyn ReadAt> = readers.iter().map(AsRef::as_ref).collect();
    let bar = Bar::new();
    let progress = |what, done, total| bar.show(what, done, total);
    let options = Options {
        root_hash: args.root_hash,
        threads: super::threads(args.threads),
        progress: Some(&progress),
    };
    // Of a disk, the image in it is mended. A damaged head of anything else is for the repair to judge.
    let repaired = match Sealed::open(&image) {
        Ok(sealed) if sealed.disk().is_some() => repair(&sealed, &readers, output.file(), &options),
        _ => repair(&image, &readers, output.file(), &options),
    };
    bar.clear();
    if repaired.is_err() {
        refuse_others(&args.image, &image)?;
    }
    let repaired = repaired.with_context(|| show(&args.image))?;
    if repaired.is_complete() {
        output.finish()?;
    }
    let remotes: Vec<&Remote> = copies.iter().filter_map(Copy::remote).collect();
    for failure in remotes.iter().filter_map(|remote| remote.failure()) {
        eprintln!("mkimg: warning: {failure}");
    }
    let mut out = stdout();
    if args.json {
        json(&repaired, &remotes, &mut out)?;
    } else {
        text(args, &repaired, &remotes, &mut out)?;
    }
    out.flush()?;
    Ok(if repaired.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(repaired: &Repaired, remotes: &[&Remote], out: &mut impl Write) -> Result<()> {
    for finding in &repaired.after.findings {
        json_line(out, &finding_line(finding))?;
    }
    let Repaired { before, mended, after } = repaired;
    let summary = Summary {
        repaired: repaired.is_complete(),
        anchored: before.anchored,
        root_hash: hex(&after.root_hash),
        image_size: after.image_size,
        findings_before: findings(before),
        copied: mended.copied,
        corrected: mended.corrected,
        computed: mended.computed,
        fetched: remotes.iter().map(|remote| remote.traffic().bytes).sum(),
        findings: findings(after),
    };
    json_line(out, &summary)
}

fn text(args: &RepairArgs, repaired: &Repaired, remotes: &[&Remote], out: &mut impl Write) -> Result<()> {
    let Repaired { before, mended, after } = repaired;
    let path = show(&args.image);
    if before.anchored {
        writeln!(out, "{path}: mended up to the given root hash")?;
    } else {
        writeln!(
            out,
            "{path}: mended up to the root hash that it names; give --root-hash to know whose image it is"
        )?;
    }
    let found = count(findings(before), "finding");
    let blocks = count(mended.blocks(), "block");
    writeln!(
        out,
        "{found}; {blocks} mended: {} from copies, {} from parity, {} computed",
        mended.copied, mended.corrected, mended.computed
    )?;
    for remote in remotes {
        let traffic = remote.traffic();
        let requests = count(traffic.requests, "request");
        writeln!(out, "{}: {} fetched in {requests}", remote.place(), size(traffic.bytes))?;
    }
    for finding in &after.findings {
        text_line(finding, out)?;
    }
    if repaired.is_complete() {
        let what = show(Path::new(&args.output));
        writeln!(out, "{what}: {}, clean, root hash {}", size(after.image_size), hex(&after.root_hash))?;
    } else {
        let left = count(findings(after), "finding");
        writeln!(out, "NOT repaired: {left} left, nothing was written")?;
    }
    Ok(())
}
