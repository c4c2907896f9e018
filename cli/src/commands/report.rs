//! `mkimg report`

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use mkimg_report::{Options, Report, html, survey};

use super::{report_json, report_text};
use crate::args::ReportArgs;
use crate::image::Image;
use crate::output::{Named, json_line, show, size, stdout};

/// Length of lists on a terminal: one screen.
const TOP_TEXT: usize = 5;
/// Length of lists that are searched or scrolled.
const TOP: usize = 50;

pub(crate) fn run(args: &ReportArgs) -> Result<ExitCode> {
    let image = Image::open(&args.image.image)?;
    let default = if args.json || args.html.is_some() { TOP } else { TOP_TEXT };
    let survey = || survey(&image.sealed, Options { top: args.top.unwrap_or(default) });
    let mut out = stdout();
    if let Some(path) = &args.html {
        // Refuses what cannot be written to before the work.
        let output = mkimg_mkfs::Output::create(path)?;
        output.spare(image.sealed.io())?;
        let length = page(&survey()?, output.file(), path)?;
        output.finish()?;
        writeln!(out, "{}: {}", show(path), size(length))?;
    } else if args.json {
        json_line(&mut out, &report_json::Document::new(&survey()?))?;
    } else {
        report_text::write(&survey()?, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page. Returns its length in bytes.
fn page(report: &Report, file: &std::fs::File, path: &Path) -> Result<u64> {
    let mut out = BufWriter::new(Named { file, path });
    html::write(report, &mut out)?;
    out.flush()?;
    Ok(file.metadata()?.len())
}
