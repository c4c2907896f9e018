//! `mkimg export --ddi`

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mkimg_export::{Consumer, Ddi, Image};
use mkimg_format::hex;
use mkimg_sign::Trust;
use serde::Serialize;

use crate::args::ExportArgs;
use crate::output::{count, show, size};

/// A disk that was written.
#[derive(Serialize)]
pub(super) struct Disk {
    path: String,
    size: u64,
    partitions: Vec<PartitionLine>,
    signed: bool,
    /// Whether a certificate that was given has made the signature.
    signature_checked: bool,
    /// What whoever uses it may miss.
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

/// What whoever is going to use the disk may miss in the image.
///
/// # Errors
/// What it cannot be used without, all of it on one line.
pub(super) fn check(args: &ExportArgs, image: &Image, path: &Path) -> Result<Vec<String>> {
    let (consumer, program) = match args {
        ExportArgs { sysext: true, .. } => (Consumer::Sysext, "systemd-sysext"),
        ExportArgs { portable: true, .. } => (Consumer::Portable, "portablectl"),
        _ => return Ok(Vec::new()),
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{}: {program} takes no such name", show(path)))?;
    let found = consumer.check(&image.file_system()?, name).with_context(|| show(&args.image))?;
    if !found.needs.is_empty() {
        bail!("{}: {program} needs {}", show(&args.image), found.needs.join("; "));
    }
    Ok(found.wants)
}

/// Writes the disk.
pub(super) fn write(
    args: &ExportArgs,
    image: &Image,
    trust: &Trust,
    path: &Path,
    lacks: Vec<String>,
) -> Result<Disk> {
    let pkcs7 = image.pkcs7.clone().or_else(|| trust.sidecar_pkcs7());
    let ddi = Ddi::plan(image, args.architecture.as_deref(), pkcs7.as_ref(), &trust.certificates);
    let ddi = ddi.with_context(|| show(&args.image))?;
    ddi.write(path).with_context(|| show(&args.image))?;
    let partitions = ddi.table.partitions.iter().map(|partition| PartitionLine {
        name: partition.name.clone(),
        r#type: partition.kind.to_string(),
        uuid: partition.id.to_string(),
        offset: partition.bytes.start,
        length: partition.length(),
    });
    let partitions = partitions.collect();
    let (signed, signature_checked) = (ddi.is_signed(), ddi.is_checked());
    Ok(Disk { path: show(path), size: ddi.table.size, partitions, signed, signature_checked, lacks })
}

impl Disk {
    /// For people; `mark` is in front of each line.
    pub(super) fn text(&self, mark: &str, image: &Image, out: &mut impl Write) -> Result<()> {
        let path = &self.path;
        let partitions = count(self.partitions.len() as u64, "partition");
        let root_hash = hex(&image.root_hash);
        writeln!(out, "{mark}{path}: {}, {partitions}, root hash {root_hash}", size(self.size))?;
        if !self.signed {
            let why = "the image has no PKCS#7 signature; mkimg sign --cert makes one";
            writeln!(out, "{mark}{path}: no signature partition, for {why}")?;
        }
        if self.signed && !self.signature_checked {
            let what = "its signature was copied unchecked; with --cert it is checked, and the signer named";
            writeln!(out, "{mark}{path}: {what}")?;
        }
        for lack in &self.lacks {
            writeln!(out, "{mark}{path}: lacks {lack}")?;
        }
        Ok(())
    }
}
