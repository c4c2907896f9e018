//! `mkimg cat`

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mkimg_format::erofs::{FileSystem, FileType, escape};

use crate::args::CatArgs;
use crate::image::open_any;
use crate::output::stdout;

pub(crate) fn run(args: &CatArgs) -> Result<ExitCode> {
    let image = open_any(&args.image)?;
    let fs = FileSystem::open(&image)?;
    let mut out = stdout();
    for path in &args.paths {
        let inode = fs.resolve(path.as_bytes(), true)?;
        if inode.file_type != FileType::File {
            bail!("{}: is a {}, not a file", escape(path.as_bytes()), inode.file_type.word());
        }
        fs.for_each_piece(&inode, |piece| {
            out.write_all(piece)?;
            Ok::<_, anyhow::Error>(())
        })?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
