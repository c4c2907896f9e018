//! `mkimg export`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mkimg_export::{Image, draft_oci};
use mkimg_format::hex;
use serde::Serialize;

use super::export_disk;
use crate::args::ExportArgs;
use crate::image::{open_file, refuse_others};
use crate::output::{json_line, show, stdout};
use crate::progress::Bar;
use crate::trust::anchor;

#[derive(Serialize)]
struct Outcome {
    image: String,
    root_hash: String,
    sidecars: Vec<String>,
    lines: Vec<Lines>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ddi: Option<export_disk::Disk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_oci: Option<DraftOci>,
}

#[derive(Serialize)]
struct Lines {
    tool: &'static str,
    text: String,
}

#[derive(Serialize)]
struct DraftOci {
    directory: String,
    reference: String,
    media_type: String,
    layer: String,
    manifest: String,
}

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let file = open_file(&args.image)?;
    refuse_others(&args.image, &file)?;
    let trust = args.trust.trust()?;
    let anchor = anchor(&args.image, &file, &trust)?;
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash);
    let image = || show(&args.image);
    let exported = Image::open(file, root_hash).with_context(image)?;
    let lacks = args.ddi.as_ref().map(|path| export_disk::check(args, &exported, path)).transpose()?;
    if args.copies_blocks() {
        audit(&exported).with_context(image)?;
    }
    let mut outcome = export(args, &exported).with_context(image)?;
    if let Some((path, lacks)) = args.ddi.as_ref().zip(lacks) {
        outcome.ddi = Some(export_disk::write(args, &exported, &trust, path, lacks)?);
    }
    if let Some(anchor) = anchor {
        anchor.admit()?;
    }
    let mut out = stdout();
    if args.json {
        json_line(&mut out, &outcome)?;
    } else {
        text(&outcome, &exported, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn audit(image: &Image) -> mkimg_export::Result<()> {
    let bar = Bar::new();
    let audited = image.audit(super::threads(None), Some(&|done, total| bar.show("check", done, total)));
    bar.clear();
    audited
}

fn export(args: &ExportArgs, image: &Image) -> mkimg_export::Result<Outcome> {
    let mut outcome = Outcome {
        image: show(&args.image),
        root_hash: hex(&image.root_hash),
        sidecars: Vec::new(),
        lines: Vec::new(),
        ddi: None,
        draft_oci: None,
    };
    // What can be refused is, before anything is written.
    for sidecar in &args.sidecar {
        sidecar.kind().check(image)?;
    }
    for tool in args.tools() {
        outcome.lines.push(Lines { tool: tool.name(), text: tool.lines(&args.image, image)? });
    }
    for sidecar in &args.sidecar {
        outcome.sidecars.push(show(&sidecar.kind().write(&args.image, image)?));
    }
    if let Some(directory) = &args.draft_oci {
        let written = draft_oci::write(directory, args.flavor.kind(), image)?;
        let draft_oci::Written { reference, media_type, layer, manifest } = written;
        let directory = show(directory);
        outcome.draft_oci = Some(DraftOci { directory, reference, media_type, layer, manifest });
    }
    Ok(outcome)
}

/// Lines are pasted and piped, so beside them everything else is a comment.
fn text(outcome: &Outcome, image: &Image, out: &mut impl std::io::Write) -> Result<()> {
    let mark = if outcome.lines.is_empty() { "" } else { "# " };
    for sidecar in &outcome.sidecars {
        writeln!(out, "{mark}{sidecar}: written")?;
    }
    if let Some(disk) = &outcome.ddi {
        disk.text(mark, image, out)?;
    }
    if let Some(DraftOci { directory, reference, media_type, manifest, .. }) = &outcome.draft_oci {
        writeln!(out, "{mark}{directory}: DRAFT of an OCI layout, {reference} is {manifest}")?;
        writeln!(out, "{mark}its layer is {media_type}, which may be called otherwise tomorrow")?;
    }
    let sections = outcome.lines.len();
    for (number, Lines { tool, text }) in outcome.lines.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        if sections > 1 {
            writeln!(out, "# {tool}")?;
        }
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}
