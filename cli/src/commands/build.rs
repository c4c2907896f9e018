//! `mkimg build`

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args as _;
use clap::error::ErrorKind;
use mkimg_format::hex;
use mkimg_format::trace::{TRACE_MAX, Trace};
use mkimg_mkfs::{Built, Compression, Error, Memory, Options};
use mkimg_oci::SourceSpec;
use serde::Serialize;

use crate::args::BuildArgs;
use crate::output::{count, json_line, show, size, stdout};
use crate::progress::Bar;

#[derive(Serialize)]
struct Outcome<'a> {
    image: String,
    root_hash: String,
    hash_offset: u64,
    data_blocks: u64,
    image_size: u64,
    fec_blocks: u64,
    min_kernel: String,
    manifest_digest: Option<&'a str>,
    layers: usize,
    inodes: u64,
    contents: u64,
    shipped_bytes: u64,
    visible_bytes: u64,
    deleted_bytes: u64,
    warnings: &'a [String],
}

pub(crate) fn run(args: &BuildArgs) -> Result<ExitCode> {
    let source = SourceSpec::parse(&args.source)?;
    let compression = args.compress.unwrap_or_else(|| Compression::usual(args.dedup, args.min_kernel));
    let options = Options {
        platform: args.platform.clone(),
        name: args.name.clone(),
        epoch: args.epoch,
        compression,
        dedup: args.dedup,
        min_kernel: args.min_kernel.unwrap_or_else(|| compression.min_kernel()),
        optimize_for: args.optimize_for.as_deref().map(read_trace).transpose()?,
        fec_roots: args.fec.unwrap_or(0),
        threads: super::threads(args.threads),
        memory: args.memory.unwrap_or_else(|| Memory::suits(compression)),
        scratch: !args.no_scratch,
    };
    let bar = Bar::new();
    let built = mkimg_mkfs::build(&source, &args.output, &options, &bar);
    bar.clear();
    let built = match built {
        // Options that do not go together: wrong usage, as what the parser of arguments finds.
        Err(error @ (Error::Dedup(_) | Error::Kernel { .. })) => {
            let command = clap::Command::new("mkimg build");
            BuildArgs::augment_args(command).error(ErrorKind::ArgumentConflict, error).exit();
        }
        built => built?,
    };
    for warning in &built.warnings {
        eprintln!("mkimg: warning: {warning}");
    }
    let mut out = stdout();
    if args.json {
        json_line(&mut out, &outcome(args, &built))?;
    } else {
        writeln!(out, "{}: {}", show(&args.output), size(built.image_size))?;
        writeln!(
            out,
            "{}, {}; {} of {} shipped are visible",
            count(built.layers as u64, "layer"),
            count(built.inodes, "inode"),
            size(built.visible_bytes),
            size(built.shipped_bytes),
        )?;
        writeln!(out, "root hash {}", hex(&built.root_hash))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a trace, and no more than a trace may have.
fn read_trace(path: &Path) -> Result<Trace> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(TRACE_MAX as u64 + 1).read_to_end(&mut text));
    read.with_context(|| show(path))?;
    Trace::parse(text).with_context(|| show(path))
}

fn outcome<'a>(args: &BuildArgs, built: &'a Built) -> Outcome<'a> {
    Outcome {
        image: args.output.to_string_lossy().into_owned(),
        root_hash: hex(&built.root_hash),
        hash_offset: built.hash_offset,
        data_blocks: built.data_blocks,
        image_size: built.image_size,
        fec_blocks: built.fec_blocks,
        min_kernel: super::kernel(built.min_kernel),
        manifest_digest: built.manifest_digest.as_deref(),
        layers: built.layers,
        inodes: built.inodes,
        contents: built.contents,
        shipped_bytes: built.shipped_bytes,
        visible_bytes: built.visible_bytes,
        deleted_bytes: built.deleted_bytes,
        warnings: &built.warnings,
    }
}
