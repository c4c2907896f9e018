//! `mkimg extract`

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mkimg_extract::{Options, Owners, extract, sealed};
use mkimg_format::erofs::escape;

use super::verify_tree::check_records;
use crate::args::ExtractArgs;
use crate::image::Image;
use crate::output::{count, show, size, stdout};
use crate::progress::Bar;
use crate::trust::{anchor, with_partition};

pub(crate) fn run(args: &ExtractArgs) -> Result<ExitCode> {
    let image = Image::open(&args.image)?;
    if image.sealed.is_detached() {
        bail!("{}: a detached seal holds no file data", show(&args.image));
    }
    let anchor = anchor(&args.image, &image.sealed, &with_partition(args.trust.trust()?, &image.sealed))?;
    if anchor.is_some() {
        // Content is compared with the records, so that they are the right ones has to be known before.
        check_records(&args.image, &image.sealed, &image.header, anchor.as_ref(), super::threads(None))?;
    }
    let fs = image.file_system()?;
    let seal = image.seal()?;
    let digests = sealed(&seal);
    let bar = Bar::new();
    let done = Cell::new(0);
    let total = image.header.hash_offset();
    let advance = |bytes: u64| {
        done.set(done.get() + bytes);
        bar.show("write", done.get(), total.max(done.get()));
    };
    let options = Options {
        owners: if args.no_owner { Owners::Skip } else { Owners::Auto },
        paths: args.path.iter().map(|path| path.as_bytes().to_vec()).collect(),
        into_existing: false,
        fs_verity: args.fs_verity,
        progress: Some(&advance),
    };
    let summary = extract(&fs, Some(&digests), &args.target, &options);
    bar.clear();
    let summary = summary?;
    if let Some(anchor) = &anchor {
        anchor.admit()?;
    }
    for skipped in &summary.skipped {
        eprintln!("mkimg: warning: {}: {}", escape(&skipped.path), skipped.what);
    }
    let hidden = summary.skipped_total - summary.skipped.len() as u64;
    if hidden > 0 {
        eprintln!("mkimg: warning: {hidden} more of this kind");
    }
    let mut out = stdout();
    if let Some(anchor) = &anchor {
        writeln!(out, "{}: checked against {}", show(&args.image), anchor.by)?;
    }
    writeln!(
        out,
        "{}: {}, {}, {}, {}",
        show(&args.target),
        count(summary.files, "file"),
        if summary.dirs == 1 { "1 directory".to_owned() } else { format!("{} directories", summary.dirs) },
        count(summary.symlinks, "symbolic link"),
        size(summary.bytes),
    )?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
