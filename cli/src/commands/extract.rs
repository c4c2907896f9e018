//! `mkimg extract`

use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use mkimg_extract::{Digests, Options, Owners, extract, sealed};
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{FileSystem, escape};
use mkimg_format::volume::is_of_others;
use mkimg_format::{Proven, ReadAt};
use mkimg_sign::Anchor;

use super::verify_tree::check_records;
use crate::args::ExtractArgs;
use crate::image::{Image, open_any};
use crate::output::{count, show, size, stdout};
use crate::progress::Bar;
use crate::trust::{anchor, with_partition};
use crate::volume::VolumeFile;

pub(crate) fn run(args: &ExtractArgs) -> Result<ExitCode> {
    let file = open_any(&args.image)?;
    if is_of_others(&file).unwrap_or(false) {
        return run_of_others(args, &file);
    }
    let image = Image::of(&args.image, file)?;
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
    write_out(args, &fs, Some(&digests), image.header.hash_offset(), anchor.as_ref())
}

/// Writes the files of an image that has no digests of them. Against a root hash, each block is led up to it when it
/// is read.
fn run_of_others(args: &ExtractArgs, file: &Sealed<File>) -> Result<ExitCode> {
    let trust = args.trust.trust()?;
    if trust.is_empty() {
        eprintln!("mkimg: warning: {}: nothing says what its files must be", show(&args.image));
    }
    if trust.is_empty() && !args.hashes.is_any() {
        let fs = FileSystem::open(file)?;
        return write_out(args, &fs, None, fs.superblock().length(), None);
    }
    let Some(VolumeFile { image, volume }) = args.hashes.open(&args.image, file)? else {
        bail!("{}: is no image of another writer any more", show(&args.image));
    };
    let name = || show(&args.image);
    let claimed = volume.claimed_root(&image).with_context(name)?;
    let anchor = trust.anchor_root(claimed, SystemTime::now()).with_context(name)?;
    let root_hash = anchor.as_ref().map_or(claimed, |anchor| anchor.root_hash);
    let fs = FileSystem::open(Proven::of_volume(&image, &volume, root_hash)).with_context(name)?;
    write_out(args, &fs, None, volume.data_end(), anchor.as_ref())
}

/// Writes the files and says so.
fn write_out<R: ReadAt>(
    args: &ExtractArgs,
    fs: &FileSystem<R>,
    digests: Option<Digests<'_>>,
    total: u64,
    anchor: Option<&Anchor>,
) -> Result<ExitCode> {
    let bar = Bar::new();
    let done = Cell::new(0);
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
    let summary = extract(fs, digests, &args.target, &options);
    bar.clear();
    let summary = summary?;
    if let Some(anchor) = anchor {
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
    if let Some(anchor) = anchor {
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
