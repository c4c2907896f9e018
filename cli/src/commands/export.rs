//! `mkimg export`

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use mkimg_export::{Consumer, Ddi, Image};
use mkimg_format::hex;
use mkimg_sign::Trust;
use serde::Serialize;

use crate::args::ExportArgs;
use crate::image::open_file;
use crate::output::{count, json_line, show, size, stdout};
use crate::trust::anchor;

#[derive(Serialize)]
struct Outcome {
    image: String,
    root_hash: String,
    sidecars: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ddi: Option<Disk>,
}

/// A disk that was written.
#[derive(Serialize)]
struct Disk {
    path: String,
    size: u64,
    partitions: Vec<PartitionLine>,
    signed: bool,
    /// What its user may miss.
    lacks: Vec<String>,
}

#[derive(Serialize)]
struct PartitionLine {
    name: String,
    r#type: String,
    uuid: String,
    offset: u64,
    length: u64,
}

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let file = open_file(&args.image)?;
    let trust = args.trust.trust()?;
    let anchor = anchor(&args.image, &file, &trust)?;
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash);
    let image = Image::open(file, root_hash).with_context(|| show(&args.image))?;
    let ddi = match &args.ddi {
        Some(path) => Some(write_disk(args, &image, &trust, path)?),
        None => None,
    };
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
        json_line(&mut out, &Outcome { image, root_hash, sidecars, ddi })?;
    } else {
        if let Some(disk) = &ddi {
            text(disk, &hex(&image.root_hash), &mut out)?;
        }
        for sidecar in sidecars {
            writeln!(out, "{sidecar}: written")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_disk(args: &ExportArgs, image: &Image, trust: &Trust, path: &Path) -> Result<Disk> {
    let consumer = match args {
        ExportArgs { sysext: true, .. } => Some((Consumer::Sysext, "systemd-sysext")),
        ExportArgs { portable: true, .. } => Some((Consumer::Portable, "portablectl")),
        _ => None,
    };
    let mut lacks = Vec::new();
    if let Some((consumer, program)) = consumer {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{}: {program} takes no such name", show(path)))?;
        let found = consumer.check(&image.file_system()?, name).with_context(|| show(&args.image))?;
        if !found.needs.is_empty() {
            bail!("{}: {program} needs {}", show(&args.image), found.needs.join("; "));
        }
        lacks = found.wants;
    }
    let pkcs7 = image.pkcs7.clone().or_else(|| trust.sidecar_pkcs7());
    let ddi = Ddi::plan(image, args.architecture.as_deref(), pkcs7.as_ref(), &trust.certificates);
    let ddi = ddi.with_context(|| show(&args.image))?;
    ddi.write(path)?;
    let partitions = ddi.table.partitions.iter().map(|partition| PartitionLine {
        name: partition.name.clone(),
        r#type: partition.kind.to_string(),
        uuid: partition.id.to_string(),
        offset: partition.bytes.start,
        length: partition.length(),
    });
    Ok(Disk {
        path: show(path),
        size: ddi.table.size,
        partitions: partitions.collect(),
        signed: ddi.is_signed(),
        lacks,
    })
}

fn text(disk: &Disk, root_hash: &str, out: &mut impl std::io::Write) -> Result<()> {
    let path = &disk.path;
    let partitions = count(disk.partitions.len() as u64, "partition");
    writeln!(out, "{path}: {}, {partitions}, root hash {root_hash}", size(disk.size))?;
    if !disk.signed {
        writeln!(
            out,
            "{path}: no signature partition, for the image has no PKCS#7 signature: mkimg sign --cert makes one"
        )?;
    }
    for lack in &disk.lacks {
        writeln!(out, "{path}: lacks {lack}")?;
    }
    Ok(())
}
