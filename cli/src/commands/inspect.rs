//! `mkimg inspect`

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{Superblock, escape};
use mkimg_format::hex;
use mkimg_format::seal::{Layer, LayerRecord, Seal, Section, Statement};
use mkimg_format::trailer::Trailer;
use mkimg_format::volume::is_of_others;
use mkimg_report::layers::Counts;
use mkimg_sign::trust::Signatures;
use serde::Serialize;

use super::inspect_volume;
use super::layer_counts::LayerCounts;
use crate::args::InspectArgs;
use crate::image::{Image, open_any};
use crate::output::{count, json_line, show, size, stdout, text_and_base64, uuid_text};

#[derive(Serialize)]
struct Inspection<'a> {
    format: u32,
    name: Option<&'a str>,
    epoch: u64,
    image_size: u64,
    uuid: String,
    min_kernel: String,
    inodes: u64,
    contents: u64,
    verity: Verity,
    signatures: Vec<SignatureLine>,
    areas: Vec<Area>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hot: Option<Hot>,
    source: &'a mkimg_format::seal::Source,
    layers: Vec<LayerLine<'a>>,
    deleted_files: u64,
    options: &'a std::collections::BTreeMap<String, String>,
    tool: &'a str,
}

#[derive(Serialize)]
struct Verity {
    root_hash: String,
    hash_offset: u64,
    data_blocks: u64,
    data_block_size: u64,
    hash_block_size: u64,
    algorithm: &'static str,
    salt: &'static str,
    fec_roots: u32,
    fec_offset: u64,
    fec_blocks: u64,
}

/// A signature that the image carries. Whether it holds, `verify` says.
#[derive(Serialize)]
struct SignatureLine {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
}

#[derive(Serialize)]
struct Area {
    name: &'static str,
    offset: u64,
    length: u64,
}

/// What stands first because a trace names it. Without contents there are no blocks.
#[derive(Serialize)]
struct Hot {
    contents: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_block: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_block: Option<u64>,
}

#[derive(Serialize)]
struct LayerLine<'a> {
    #[serde(flatten)]
    layer: &'a Layer,
    #[serde(flatten)]
    counts: LayerCounts,
}

/// A file that is deleted, but still shipped. Layers count from 1, the lowest.
#[derive(Serialize)]
struct DeletedLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    size: u64,
    layer: u64,
    deleted_by: u64,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let file = open_any(&args.image.image)?;
    let whole = !(args.manifest || args.config || args.statement || args.deleted);
    if whole && is_of_others(&file).unwrap_or(false) {
        return inspect_volume::run(&args.image.image, &file, args.json);
    }
    let image = Image::of(&args.image.image, file)?;
    let seal = image.seal()?;
    let mut out = stdout();
    let document = match args {
        InspectArgs { manifest: true, .. } => Some((Section::Manifest, "manifest")),
        InspectArgs { config: true, .. } => Some((Section::Config, "configuration")),
        InspectArgs { statement: true, .. } => Some((Section::Statement, "statement")),
        _ => None,
    };
    if let Some((section, name)) = document {
        let Some(bytes) = seal.document(section)? else {
            bail!("{}: its source had no {name}", show(&args.image.image));
        };
        out.write_all(&bytes)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.deleted {
        for record in seal.deleted() {
            let record = record?;
            let path = seal.deleted_path(&record)?;
            let layer = u64::from(record.layer.get()) + 1;
            let deleted_by = u64::from(record.deleted_by.get()) + 1;
            let bytes = record.size.get();
            if args.json {
                let (path, path_b64) = text_and_base64(&path);
                json_line(&mut out, &DeletedLine { path, path_b64, size: bytes, layer, deleted_by })?;
            } else {
                let path = escape(&path);
                writeln!(
                    out,
                    "{:>10}  layer {deleted_by} deletes what layer {layer} ships  {path}",
                    size(bytes)
                )?;
            }
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }

    let statement = seal.statement()?;
    let superblock = Superblock::read(&image.sealed)?;
    let trailer = Trailer::read(&image.sealed)?;
    let header = &image.header;
    let records: Vec<LayerRecord> = seal.layers().collect::<Result<_, _>>()?;
    let block = mkimg_format::BLOCK_SIZE;
    let area = |name, from: u64, to: u64| Area { name, offset: from, length: to.saturating_sub(from) };
    let (meta, sealed) = (header.meta_block * block, header.seal_block * block);
    let inspection = Inspection {
        format: statement.format,
        name: statement.name.as_deref(),
        epoch: statement.epoch,
        image_size: header.image_size(),
        uuid: uuid_text(&superblock.uuid),
        min_kernel: super::kernel(superblock.features.min_kernel()),
        inodes: seal.inodes().len(),
        contents: seal.contents().len(),
        verity: Verity {
            root_hash: hex(&trailer.root_hash),
            hash_offset: header.hash_offset(),
            data_blocks: header.data_blocks,
            data_block_size: block,
            hash_block_size: block,
            algorithm: "sha256",
            salt: "-",
            fec_roots: trailer.fec_roots,
            fec_offset: trailer.fec_offset,
            fec_blocks: header.fec_blocks,
        },
        signatures: signatures(&trailer),
        areas: vec![
            area("header", 0, block),
            area("data", block, meta),
            area("metadata", meta, sealed),
            area("seal", sealed, header.hash_offset()),
            area("verity", header.hash_offset(), header.fec_offset()),
            area("parity", header.fec_offset(), header.trailer_offset()),
            area("trailer", header.trailer_offset(), header.image_size()),
        ]
        .into_iter()
        .filter(|area| area.length > 0 || area.name != "parity")
        .collect(),
        hot: statement.hot.map(|contents| hot(&image, &seal, contents)).transpose()?,
        source: &statement.source,
        layers: layer_lines(&statement, &records),
        deleted_files: seal.deleted().len(),
        options: &statement.options,
        tool: &statement.tool,
    };
    if args.json {
        json_line(&mut out, &inspection)?;
    } else {
        text(&inspection, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn signatures(trailer: &Trailer) -> Vec<SignatureLine> {
    let found = Signatures::of(trailer);
    let own = found.own.iter().map(|own| SignatureLine {
        kind: "signature",
        key_id: Some(own.key.to_string()),
        key_kind: Some(own.kind.to_string()),
        serial: None,
    });
    let pkcs7 = found.pkcs7.iter().map(|pkcs7| SignatureLine {
        kind: "pkcs7",
        key_id: None,
        key_kind: None,
        serial: Some(pkcs7.serial()),
    });
    own.chain(pkcs7).collect()
}

/// What the statement says of each layer, and what the builder counted in it. A directory has counts only.
fn layer_lines<'a>(statement: &'a Statement, records: &[LayerRecord]) -> Vec<LayerLine<'a>> {
    let lines = statement.layers.iter().zip(records.iter().map(Counts::from));
    lines.map(|(layer, counts)| LayerLine { layer, counts: counts.into() }).collect()
}

/// Where the hot contents are.
fn hot(image: &Image, seal: &Seal<&Sealed<File>>, contents: u64) -> Result<Hot> {
    let range = seal.hot_range(&image.file_system()?, contents)?;
    let block = |byte: u64| byte / mkimg_format::BLOCK_SIZE;
    Ok(Hot {
        contents,
        bytes: range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start)),
        first_block: range.as_ref().map(|range| block(range.start)),
        last_block: range.as_ref().map(|range| block(range.end.saturating_sub(1))),
    })
}

fn text(inspection: &Inspection<'_>, out: &mut impl Write) -> Result<()> {
    // Names and digests come from the image, which may be anybody's.
    let mut row = |name: &str, value: &str| writeln!(out, "{name:<12}{}", escape(value.as_bytes()));
    row("name", inspection.name.unwrap_or("-"))?;
    row("epoch", &inspection.epoch.to_string())?;
    row("size", &format!("{} ({} bytes)", size(inspection.image_size), inspection.image_size))?;
    row("root hash", &inspection.verity.root_hash)?;
    for signature in &inspection.signatures {
        let text = match (&signature.key_id, &signature.key_kind, &signature.serial) {
            (Some(id), Some(kind), _) => format!("{kind} key {id}"),
            (.., Some(serial)) => format!("PKCS#7 by the certificate with serial number {serial}"),
            _ => continue,
        };
        row("signed by", &text)?;
    }
    row("kernel", &format!("Linux {} or later", inspection.min_kernel))?;
    row("compression", inspection.options.get("compress").map_or("-", |compress| compress))?;
    if inspection.verity.fec_roots > 0 {
        let roots = inspection.verity.fec_roots;
        row("parity", &format!("{roots} bytes a codeword mend as many of each 255"))?;
    }
    row("uuid", &inspection.uuid)?;
    row("source", &inspection.source.kind)?;
    if let Some(digest) = &inspection.source.manifest_digest {
        row("manifest", digest)?;
    }
    if let Some(digest) = &inspection.source.config_digest {
        row("config", digest)?;
    }
    row(
        "content",
        &format!("{}, {}", count(inspection.inodes, "inode"), count(inspection.contents, "distinct content")),
    )?;
    if let Some(hot) = &inspection.hot {
        let place = match (hot.first_block, hot.last_block) {
            (Some(first), Some(last)) => format!(" in blocks {first} to {last} ({})", size(hot.bytes)),
            _ => String::new(),
        };
        row("hot", &format!("{}{place}", count(hot.contents, "content")))?;
    }
    row("built by", inspection.tool)?;
    writeln!(out)?;
    writeln!(out, "{:<10} {:>14} {:>12}", "area", "offset", "length")?;
    for area in &inspection.areas {
        writeln!(out, "{:<10} {:>14} {:>12}", area.name, area.offset, size(area.length))?;
    }
    if inspection.layers.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:>5}  {:<19} {:>11} {:>11} {:>11} {:>11}",
        "layer", "digest", "shipped", "visible", "shadowed", "deleted"
    )?;
    for (number, line) in (1..).zip(&inspection.layers) {
        writeln!(
            out,
            "{number:>5}  {:<19.19} {:>11} {:>11} {:>11} {:>11}",
            escape(line.layer.digest.as_bytes()),
            size(line.counts.shipped_bytes),
            size(line.counts.visible_bytes),
            size(line.counts.shadowed_bytes),
            size(line.counts.deleted_bytes),
        )?;
    }
    if inspection.deleted_files > 0 {
        let files = count(inspection.deleted_files, "file");
        writeln!(out, "\n{files} deleted, but still shipped by the source: see --deleted")?;
    }
    Ok(())
}
