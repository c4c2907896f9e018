//! `mkimg verify IMAGE`

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use mkimg_format::ddi::Role;
use mkimg_format::detached::Sealed;
use mkimg_sign::{Certificate, partition};
use mkimg_verify::{Finding, Options, verify_image};

use super::image_report;
use crate::args::VerifyArgs;
use crate::output::show;
use crate::progress::Bar;
use crate::trust::with_partition;

/// Audits an image file, a detached seal, or a disk with an image in it.
pub(super) fn run(args: &VerifyArgs, path: &Path, image: &Sealed<File>) -> Result<ExitCode> {
    let name = || show(path);
    let bar = Bar::new();
    let advance = |done, total| bar.show("check", done, total);
    // Who vouches for it comes first; that all of it is what they vouch for, the audit tells.
    let trust = with_partition(args.trust.trust()?, image);
    let (anchor, mut refusal) = match trust.anchor(image, SystemTime::now()) {
        Ok(anchor) => (anchor, None),
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash).or(args.trust.root_hash);
    let options =
        Options { root_hash, threads: super::threads(args.compare.threads), progress: Some(&advance) };
    // The file itself: of a disk all of it is audited, not only the image.
    let report = verify_image(image.io(), &options);
    bar.clear();
    let mut report = report.with_context(name)?;
    report.findings.extend(signature_partition(image, &trust.certificates));
    if let Some(anchor) = anchor.as_ref().filter(|_| report.is_clean()) {
        refusal = anchor.admit().err().map(|error| error.to_string());
    }
    if let Some(problem) = refusal {
        let offset = report.image_size.saturating_sub(mkimg_format::BLOCK_SIZE);
        report.findings.insert(0, Finding::of_trust(offset, problem));
    }
    let by = anchor.map(|anchor| anchor.by);
    image_report::finish(args, path, &report, by.as_ref(), None)
}

/// What is wrong with the signature in the signature partition of a disk, if it can be read at all.
fn signature_partition(image: &Sealed<File>, certificates: &[Certificate]) -> Option<Finding> {
    let disk = image.disk()?;
    let signature = disk.signature(image.io()).ok()??;
    let problem = partition::check(&signature, certificates).err()?;
    let offset = disk.partition(Role::Signature).map_or(0, |partition| partition.bytes.start);
    Some(Finding::of_signature_partition(offset, problem.to_string()))
}
