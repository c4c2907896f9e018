//! `mkimg verify IMAGE` of an image that mkimg has not written.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use mkimg_verify::{Finding, Options, verify_volume};

use super::image_report::{self, Unsealed};
use crate::args::VerifyArgs;
use crate::output::show;
use crate::progress::Bar;
use crate::volume::VolumeFile;

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
    image_report::finish(args, path, &report, by.as_ref(), Some(unsealed))
}
