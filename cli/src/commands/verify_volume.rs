//! `mkimg verify IMAGE` of an image that mkimg has not written.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use mkimg_format::hex;
use mkimg_format::volume::Volume;
use mkimg_verify::{Finding, Options, Report, verify_volume};
use serde::Serialize;

use super::verify_image;
use crate::args::VerifyArgs;
use crate::output::show;
use crate::progress::Bar;
use crate::volume::VolumeFile;

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
    fn new(volume: &Volume, report: &Report) -> Self {
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

/// Audits the image and its tree.
pub(super) fn run(args: &VerifyArgs, path: &Path, file: &VolumeFile<'_>) -> Result<ExitCode> {
    let name = || show(path);
    let VolumeFile { image, volume } = file;
    let claimed = volume.claimed_root(image).with_context(name)?;
    let (anchor, refusal) = match args.trust.trust()?.anchor_root(claimed, SystemTime::now()) {
        Ok(anchor) => (anchor, None),
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash).or(args.trust.root_hash);
    let bar = Bar::new();
    let advance = |done, total| bar.show("check", done, total);
    let options =
        Options { root_hash, threads: super::threads(args.compare.threads), progress: Some(&advance) };
    let report = verify_volume(image, volume, &options);
    bar.clear();
    let mut report = report.with_context(name)?;
    if let Some(problem) = refusal {
        report.findings.insert(0, Finding::of_trust(volume.hash_offset, problem));
    }
    let by = anchor.map(|anchor| anchor.by);
    let unsealed = Unsealed::new(volume, &report);
    verify_image::finish(args, path, &report, by.as_ref(), Some(unsealed))
}
