//! What an audit of an image has found, as text and as JSON.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use mkimg_format::erofs::escape;
use mkimg_format::hex;
use mkimg_format::volume::Volume;
use mkimg_sign::Vouching;
use mkimg_verify::{Finding, Region, Report};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::output::{count, json_line, show, size, stdout, text_or_base64};
use crate::trust::Anchored;

#[derive(Serialize)]
pub(super) struct FindingLine<'a> {
    region: &'static str,
    offset: u64,
    length: u64,
    problem: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths_b64: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    more_paths: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize)]
struct Summary {
    clean: bool,
    complete: bool,
    #[serde(flatten)]
    anchored: Anchored,
    detached_seal: bool,
    root_hash: String,
    data_blocks: u64,
    image_size: u64,
    bytes_read: u64,
    findings: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsealed: Option<Unsealed>,
}

/// What is different about an image without a seal.
#[derive(Serialize)]
pub(super) struct Unsealed {
    hash_offset: u64,
    hash_file: bool,
    salt: String,
    /// Inodes, or file systems, of forms that the reader does not know.
    unread: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unread_first: Option<String>,
}

impl Unsealed {
    pub(super) fn new(volume: &Volume, report: &Report) -> Self {
        Self {
            hash_offset: volume.hash_offset.saturating_sub(volume.hash_file.unwrap_or_default()),
            hash_file: volume.hash_file.is_some(),
            salt: hex(volume.parameters.salt.bytes()),
            unread: report.unread.count,
            unread_first: report.unread.first.clone(),
        }
    }

    /// What people should know.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines =
            vec!["mkimg has not written it: there are no records, so no digest of any file".to_owned()];
        if let Some(first) = &self.unread_first {
            let places = if self.unread == 1 { "place" } else { "places" };
            lines.push(format!("structure could not be checked in {} {places}: {first}", self.unread));
        }
        lines
    }
}

/// Prints a report, whoever has written the image, and gives its exit status.
pub(super) fn finish(
    args: &VerifyArgs,
    path: &Path,
    report: &Report,
    by: Option<&Vouching>,
    unsealed: Option<Unsealed>,
) -> Result<ExitCode> {
    let printed = print(args, path, report, by, unsealed);
    super::verdict(report.is_clean(), report.complete, printed)
}

fn print(
    args: &VerifyArgs,
    path: &Path,
    report: &Report,
    by: Option<&Vouching>,
    unsealed: Option<Unsealed>,
) -> Result<()> {
    let mut out = stdout();
    if args.compare.json {
        for finding in &report.findings {
            json_line(&mut out, &finding_line(finding))?;
        }
        json_line(&mut out, &summary(report, by, unsealed))?;
    } else {
        text(path, report, by, unsealed.as_ref(), &mut out)?;
    }
    out.flush()?;
    Ok(())
}

pub(super) fn finding_line(finding: &Finding) -> FindingLine<'_> {
    let mut paths = Vec::new();
    let mut paths_b64 = Vec::new();
    for path in &finding.paths {
        match text_or_base64(path) {
            Ok(text) => paths.push(text),
            Err(encoded) => paths_b64.push(encoded),
        }
    }
    FindingLine {
        region: finding.region.word(),
        offset: finding.offset,
        length: finding.length,
        problem: &finding.problem,
        paths,
        paths_b64,
        more_paths: finding.more_paths,
    }
}

fn summary(report: &Report, by: Option<&Vouching>, unsealed: Option<Unsealed>) -> Summary {
    Summary {
        clean: report.is_clean(),
        complete: report.complete,
        anchored: Anchored::new(report.anchored, by.or(Some(&Vouching::RootHash))),
        detached_seal: report.data_absent,
        root_hash: hex(&report.root_hash),
        data_blocks: report.data_blocks,
        image_size: report.image_size,
        bytes_read: report.bytes_read,
        findings: findings(report),
        unsealed,
    }
}

pub(super) fn findings(report: &Report) -> u64 {
    report.truncated_findings.saturating_add(report.findings.len() as u64)
}

fn text(
    path: &Path,
    report: &Report,
    by: Option<&Vouching>,
    unsealed: Option<&Unsealed>,
    out: &mut impl Write,
) -> Result<()> {
    let path = show(path);
    if report.anchored {
        writeln!(out, "{path}: checked against {}", by.unwrap_or(&Vouching::RootHash))?;
    } else if report.findings.iter().any(|finding| finding.region == Region::Trust) {
        writeln!(out, "{path}: nobody who is trusted vouches for it; checked for consistency only")?;
    } else {
        let hint = match unsealed {
            Some(_) => "give --root-hash, or --cert with --signature, to know whose image it is",
            None => "give --root-hash, --key or --cert to know whose image it is",
        };
        writeln!(out, "{path}: checked for consistency only; {hint}")?;
    }
    for line in unsealed.iter().flat_map(|unsealed| unsealed.lines()) {
        writeln!(out, "{path}: {line}")?;
    }
    for finding in &report.findings {
        text_line(finding, out)?;
    }
    let what = match report {
        Report { data_absent: true, .. } => "detached seal",
        Report { on_disk: true, .. } => "disk",
        _ => "image",
    };
    if report.is_clean() {
        let read = size(report.bytes_read);
        writeln!(out, "clean: {read} of the {what} read, root hash {}", hex(&report.root_hash))?;
    } else {
        let found = count(findings(report), "finding");
        let incomplete = if report.complete { "" } else { ", and not everything could be read" };
        writeln!(out, "NOT clean: {found}{incomplete}")?;
    }
    Ok(())
}

/// One finding for people.
pub(super) fn text_line(finding: &Finding, out: &mut impl Write) -> Result<()> {
    write!(
        out,
        "{:<17} {:>12} {:>10}  {}",
        finding.region.word(),
        finding.offset,
        if finding.length == 0 { "-".to_owned() } else { size(finding.length) },
        finding.problem,
    )?;
    let more = finding.more_paths.saturating_add(finding.paths.len() as u64).saturating_sub(1);
    match finding.paths.first() {
        None => writeln!(out)?,
        Some(path) if more == 0 => writeln!(out, "  {}", escape(path))?,
        Some(path) => writeln!(out, "  {} and {more} more", escape(path))?,
    }
    Ok(())
}
