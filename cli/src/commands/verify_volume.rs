//! `mkimg verify IMAGE` of an image that mkimg has not written.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use mkimg_format::volume::in_own_file;
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
    let trust = args.trust.trust()?;
    let (anchor, refusal) = if trust.is_root_hash_only() {
        (trust.anchor_by_root_hash(), None)
    } else {
        // A tree that cannot be read leads nowhere, which is for the audit to tell in full.
        let claimed = volume.claimed_root(image).map_err(|error| in_own_file(error).0.to_string());
        let anchor = claimed.and_then(|claimed| {
            trust.anchor_root(claimed, SystemTime::now()).map_err(|refusal| refusal.to_string())
        });
        anchor.map_or_else(|refusal| (None, Some(refusal)), |anchor| (anchor, None))
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
