//! `mkimg export`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mkimg_export::Image;
use mkimg_format::hex;
use serde::Serialize;

use crate::args::ExportArgs;
use crate::image::open_file;
use crate::output::{json_line, show, stdout};
use crate::trust::anchor;

#[derive(Serialize)]
struct Outcome {
    image: String,
    root_hash: String,
    sidecars: Vec<String>,
}

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let file = open_file(&args.image)?;
    let anchor = anchor(&args.image, &file, &args.trust.trust()?)?;
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash);
    let image = Image::open(file, root_hash).with_context(|| show(&args.image))?;
    let mut sidecars = Vec::new();
    for sidecar in &args.sidecar {
        sidecars.push(show(&sidecar.kind().write(&args.image, &image)?));
    }
    if let Some(anchor) = anchor {
        anchor.admit()?;
    }
    let mut out = stdout();
    if args.json {
        let (image, root_hash) = (show(&args.image), hex(&image.root_hash));
        json_line(&mut out, &Outcome { image, root_hash, sidecars })?;
    } else {
        for sidecar in sidecars {
            writeln!(out, "{sidecar}: written")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
