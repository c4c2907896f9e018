//! `mkimg seal`

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use mkimg_format::{BLOCK_SIZE, detached};

use crate::args::SealArgs;
use crate::image::Image;
use crate::output::{show, size, stdout};

pub(crate) fn run(args: &SealArgs) -> Result<ExitCode> {
    let image = Image::open(&args.image)?;
    if image.sealed.is_detached() {
        bail!("{}: is a detached seal already", show(&args.image));
    }
    let name = || show(&args.output);
    let mut source = image.sealed.io();
    let output = mkimg_mkfs::Output::create(&args.output)?;
    output.spare(source)?;
    let mut file: &File = output.file();
    let mut copy = |from: u64, length: u64| -> Result<()> {
        source.seek(SeekFrom::Start(from))?;
        let copied = std::io::copy(&mut std::io::Read::take(source, length), &mut file).with_context(name)?;
        if copied < length {
            bail!("{}: ends at byte {}, should have {}", show(&args.image), from + copied, from + length);
        }
        Ok(())
    };
    let header = &image.header;
    (&mut output.file()).write_all(&detached::head(header)[..]).with_context(name)?;
    let tail = header.meta_block * BLOCK_SIZE;
    copy(0, BLOCK_SIZE)?;
    copy(tail, header.image_size() - tail)?;
    output.finish()?;
    let length = BLOCK_SIZE * 2 + header.image_size() - tail;
    let mut out = stdout();
    let per_mille = u128::from(length) * 1000 / u128::from(header.image_size());
    writeln!(
        out,
        "{}: {}, {}.{} % of the image",
        show(&args.output),
        size(length),
        per_mille / 10,
        per_mille % 10
    )?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
