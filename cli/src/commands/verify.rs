//! `mkimg verify`: what is audited depends on what is named.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{verify_image, verify_mount, verify_tree};
use crate::args::VerifyArgs;

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let is_file = args.dir.is_none() && args.image.as_deref().is_some_and(|image| !image.is_dir());
    if args.hashes.is_any() && !is_file {
        bail!("--hash-offset and --hash-file are for the audit of an image file");
    }
    match (&args.seal, &args.image, &args.dir) {
        (Some(seal), Some(dir), None) => verify_tree::run(args, seal, dir),
        (None, Some(image), Some(dir)) => verify_tree::run(args, image, dir),
        (None, Some(mount), None) if mount.is_dir() => verify_mount::run(args, mount),
        (None, Some(image), None) => verify_image::run(args, image),
        _ => bail!("nothing to verify"),
    }
}
