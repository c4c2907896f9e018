//! `mkimg seal`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use mkimg_format::{BLOCK_SIZE, ReadAt as _, detached};

use super::seal_json;
use crate::args::{SealArgs, SealFormat};
use crate::image::Image;
use crate::mtree;
use crate::output::{Named, count, show, size, stdout};

/// Bytes that are written at once.
const BUFFER: usize = 256 << 10;

pub(crate) fn run(args: &SealArgs) -> Result<ExitCode> {
    let image = Image::open(&args.image)?;
    if image.sealed.is_detached() {
        match args.format {
            SealFormat::Detached => bail!("{}: is a detached seal already", show(&args.image)),
            SealFormat::Mtree => bail!(
                "{}: a detached seal holds no file data to make SHA-256 digests of; give the image itself",
                show(&args.image)
            ),
            SealFormat::Json => {}
        }
    }
    let output = mkimg_mkfs::Output::create(&args.output)?;
    output.spare(image.sealed.io())?;
    let what = match args.format {
        SealFormat::Detached => cut(args, &image, output.file())?,
        SealFormat::Mtree => listed(args, output.file(), |out| mtree::write(&image.file_system()?, out))?,
        SealFormat::Json => listed(args, output.file(), |out| seal_json::write(&image, out))?,
    };
    output.finish()?;
    let mut out = stdout();
    writeln!(out, "{}: {what}", show(&args.output))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Copies all but file data. Returns how much that was, in words.
fn cut(args: &SealArgs, image: &Image, mut file: &File) -> Result<String> {
    let name = || show(&args.output);
    let header = &image.header;
    file.write_all(&detached::head(header)[..]).with_context(name)?;
    let (there, wanted) = (image.sealed.size()?, header.image_size());
    if there < wanted {
        bail!("{}: ends at byte {there}, should have {wanted}", show(&args.image));
    }
    let tail = header.meta_block * BLOCK_SIZE;
    let mut buf = vec![0; BUFFER];
    for range in [0..BLOCK_SIZE, tail..wanted] {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(BUFFER as u64);
            let bytes = &mut buf[..usize::try_from(length)?];
            image.sealed.read_exact_at(bytes, at).with_context(|| show(&args.image))?;
            file.write_all(bytes).with_context(name)?;
            at += length;
        }
    }
    let length = BLOCK_SIZE * 2 + header.image_size() - tail;
    let per_mille = u128::from(length) * 1000 / u128::from(header.image_size());
    Ok(format!("{}, {}.{} % of the image", size(length), per_mille / 10, per_mille % 10))
}

/// Writes a list of all names. Returns how many there are, in words.
fn listed(
    args: &SealArgs,
    file: &File,
    write: impl FnOnce(&mut BufWriter<Named<'_>>) -> Result<u64>,
) -> Result<String> {
    let mut out = BufWriter::with_capacity(BUFFER, Named { file, path: &args.output });
    let names = write(&mut out)?;
    out.flush()?;
    Ok(count(names, "name"))
}
