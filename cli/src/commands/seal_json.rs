//! `mkimg seal --format json`

use std::io::Write;

use anyhow::{Context as _, Result};
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileType, WalkEntry, escape};
use mkimg_format::hex;
use mkimg_format::seal::{Content, Seal, Statement};
use mkimg_format::trailer::Trailer;
use serde::Serialize;

use crate::entry::Entry;
use crate::image::Image;
use crate::output::json_line;

/// The first line.
#[derive(Serialize)]
struct Head<'a> {
    format: &'static str,
    /// Of this output; that of the image is in the statement.
    version: u32,
    root_hash: String,
    data_blocks: u64,
    hash_offset: u64,
    image_size: u64,
    statement: &'a Statement,
}

/// Every other line.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    entry: Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fsverity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<u32>,
}

/// Writes what the seal records. Returns the number of names.
pub(super) fn write(image: &Image, out: &mut impl Write) -> Result<u64> {
    let fs = image.file_system()?;
    let seal = image.seal()?;
    let statement = seal.statement()?;
    let head = Head {
        format: "mkimg-seal",
        version: 1,
        root_hash: hex(&Trailer::read(&image.sealed)?.root_hash),
        data_blocks: image.header.data_blocks,
        hash_offset: image.header.hash_offset(),
        image_size: image.header.image_size(),
        statement: &statement,
    };
    json_line(out, &head)?;
    let mut names = 0;
    for entry in fs.walk() {
        let entry = entry?;
        let name = || format!("{}: the seal has no record of it", escape(&entry.path));
        let sealed = sealed(&seal, &entry)?.with_context(name)?;
        let line = Line {
            entry: Entry::new(&fs, &entry)?,
            blake3: sealed.content.map(|content| hex(&content.blake3)),
            fsverity: sealed.content.map(|content| hex(&content.fsverity)),
            // The tree of a directory counts as a layer, but there is nothing to say about it.
            layer: usize::try_from(sealed.layer)
                .is_ok_and(|layer| layer < statement.layers.len())
                .then_some(sealed.layer),
        };
        json_line(out, &line)?;
        names += 1;
    }
    Ok(names)
}

/// What the seal records of an inode.
struct SealedInode {
    layer: u32,
    /// Of a regular file.
    content: Option<Content>,
}

/// Looks up an inode; `None` when its record is missing, or that of a file's content.
fn sealed<R: ReadAt>(seal: &Seal<R>, entry: &WalkEntry) -> Result<Option<SealedInode>> {
    let Some(record) = seal.inode_record(entry.inode.nid.0)? else { return Ok(None) };
    let content = match entry.inode.file_type {
        FileType::File => match seal.contents().get(record.content.get().into())? {
            None => return Ok(None),
            content => content,
        },
        _ => None,
    };
    Ok(Some(SealedInode { layer: record.layer.get(), content }))
}
