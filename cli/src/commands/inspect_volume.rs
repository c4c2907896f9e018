//! `mkimg inspect` of an image that mkimg has not written: its file system, and its tree if there is one.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{Superblock, escape};
use mkimg_format::hex;
use mkimg_format::volume::{Joined, Place, Volume};
use serde::Serialize;

use crate::output::{json_line, show, size, stdout, uuid_text};

#[derive(Serialize)]
struct Inspection {
    /// No version of the format of mkimg.
    format: Option<u32>,
    uuid: String,
    label: String,
    min_kernel: String,
    inodes: u64,
    block_size: u64,
    file_system_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verity: Option<Verity>,
}

#[derive(Serialize)]
struct Verity {
    /// To which the tree leads, if the blocks below it do.
    root_hash: String,
    hash_offset: u64,
    data_blocks: u64,
    data_block_size: u64,
    hash_block_size: u64,
    algorithm: &'static str,
    salt: String,
    uuid: String,
}

pub(super) fn run(path: &Path, image: &Sealed<File>, json: bool) -> Result<ExitCode> {
    let superblock = Superblock::read(image).with_context(|| show(path))?;
    let joined = Joined::new(image, None::<File>);
    // There may be none, or one that is elsewhere.
    let verity =
        Volume::open(&joined, Place::Usual).ok().map(|volume| verity(&joined, &volume)).transpose()?;
    let label = superblock.volume_name.split(|byte| *byte == 0).next().unwrap_or_default();
    let inspection = Inspection {
        format: None,
        uuid: uuid_text(&superblock.uuid),
        label: escape(label),
        min_kernel: super::kernel(superblock.features.min_kernel()),
        inodes: superblock.inodes,
        block_size: superblock.block_size(),
        file_system_size: superblock.length(),
        verity,
    };
    let mut out = stdout();
    if json {
        json_line(&mut out, &inspection)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut row = |name: &str, value: &str| writeln!(out, "{name:<12}{value}");
    row("written by", "another program than mkimg: no name, no records")?;
    row("label", if inspection.label.is_empty() { "-" } else { &inspection.label })?;
    let bytes = inspection.file_system_size;
    row("size", &format!("{} ({bytes} bytes) of file system", size(bytes)))?;
    row("kernel", &format!("Linux {} or later", inspection.min_kernel))?;
    row("uuid", &inspection.uuid)?;
    row("content", &format!("{} inodes", inspection.inodes))?;
    match &inspection.verity {
        None => row("tree", "none behind the file system")?,
        Some(verity) => {
            let Verity { hash_offset, data_blocks, .. } = verity;
            row("root hash", &verity.root_hash)?;
            row("tree", &format!("over {data_blocks} blocks, at byte {hash_offset}"))?;
            row("salt", if verity.salt.is_empty() { "-" } else { &verity.salt })?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn verity(image: &Joined<&Sealed<File>, File>, volume: &Volume) -> Result<Verity> {
    Ok(Verity {
        root_hash: hex(&volume.claimed_root(image)?),
        hash_offset: volume.hash_offset,
        data_blocks: volume.data_blocks,
        data_block_size: mkimg_format::BLOCK_SIZE,
        hash_block_size: mkimg_format::BLOCK_SIZE,
        algorithm: "sha256",
        salt: hex(volume.parameters.salt.bytes()),
        uuid: uuid_text(&volume.parameters.uuid),
    })
}
