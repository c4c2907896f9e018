//! `mkimg verify`: what is audited depends on what is named.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use mkimg_format::detached::Sealed;

use super::{verify_image, verify_mount, verify_tree, verify_volume};
use crate::args::VerifyArgs;
use crate::image::open_file;
use crate::output::show;

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let is_file = args.dir.is_none() && args.image.as_deref().is_some_and(|image| !image.is_dir());
    if args.hashes.is_any() && !is_file {
        bail!("--hash-offset and --hash-file are for the audit of an image file");
    }
    match (&args.seal, &args.image, &args.dir) {
        (Some(seal), Some(dir), None) => verify_tree::run(args, seal, dir),
        (None, Some(image), Some(dir)) => verify_tree::run(args, image, dir),
        (None, Some(mount), None) if mount.is_dir() => verify_mount::run(args, mount),
        (None, Some(image), None) => of_image(args, image),
        _ => bail!("nothing to verify"),
    }
}

/// An image of mkimg, or of another writer.
fn of_image(args: &VerifyArgs, path: &Path) -> Result<ExitCode> {
    let image = Sealed::open(open_file(path)?).with_context(|| show(path))?;
    match args.hashes.open(path, &image)? {
        Some(_) if image.disk().is_some() => bail!(
            "{}: is a disk with an image that mkimg has not written; what is around it would not be audited: give the image itself",
            show(path)
        ),
        Some(volume) => verify_volume::run(args, path, &volume),
        None => verify_image::run(args, path, &image),
    }
}
