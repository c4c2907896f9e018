//! The whole way from a source to an image file.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;

use mkimg_format::erofs::SuperblockFields;
use mkimg_format::header::VERSION;
use mkimg_format::seal::{DOCUMENT_MAX, Layer as LayerStatement, Source, Statement};
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{Superblock as VeritySuperblock, as_uuid};
use mkimg_format::{BLOCK_LEN, Sha256};
use mkimg_oci::{Image, Platform, SourceSpec};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::copy::{self, CopyError, copy_content};
use crate::entry::{Place, text_at};
use crate::error::{Error, Result};
use crate::flatten::{Flat, Flattener};
use crate::fsverity::FsVerity;
use crate::host_dir::HostDir;
use crate::image_writer::ImageWriter;
use crate::metadata::write_metadata;
use crate::output::Output;
use crate::plan::{Documents, Plan};
use crate::progress::{Progress, Stage};
use crate::scan::scan_layers;
use crate::sections::write_seal;

/// What decides the bytes of an image, besides the source; and how to get there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of an index.
    pub platform: Option<Platform>,
    /// Name in the statement and the label; the reference of the source if absent.
    pub name: Option<String>,
    /// Counter against rollback.
    pub epoch: u64,
    /// Oldest kernel that must mount the image, as (major, minor).
    pub min_kernel: (u32, u32),
    /// Threads for scanning and for writing. Never changes the result.
    pub threads: NonZeroUsize,
}

/// The oldest kernel that any image of this builder needs: default of [`Options::min_kernel`].
pub const MIN_KERNEL: (u32, u32) = (5, 15);

/// First kernel with chunk-based files, which sparse files need to stay sparse.
const CHUNKS_KERNEL: (u32, u32) = (5, 15);

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Root of the dm-verity tree.
    pub root_hash: Sha256,
    /// Byte offset of the dm-verity superblock.
    pub hash_offset: u64,
    /// Blocks under the tree.
    pub data_blocks: u64,
    /// Length of the image in bytes.
    pub image_size: u64,
    /// Oldest kernel that mounts it.
    pub min_kernel: (u32, u32),
    /// Digest of the manifest it was made from.
    pub manifest_digest: Option<String>,
    /// Layers of the source.
    pub layers: usize,
    /// Inodes in the image.
    pub inodes: u64,
    /// Distinct file contents in the image.
    pub contents: u64,
    /// Bytes of file content that the source ships, over all layers.
    pub shipped_bytes: u64,
    /// Of these, bytes that are visible in the image, before identical contents are stored once.
    pub visible_bytes: u64,
    /// Bytes that layers ship and later layers delete.
    pub deleted_bytes: u64,
    /// What was not taken over as it was, one line each.
    pub warnings: Vec<String>,
}

/// The source, opened.
enum Opened {
    Image(Box<Image>),
    Dir(HostDir),
}

/// Builds an image of `source` at `target`.
///
/// The file appears under its name when it is complete and on the disk, or not at all.
///
/// # Errors
/// The first thing that is wrong with the source, or what the system says to writing.
pub fn build(
    source: &SourceSpec,
    target: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Built> {
    let kind = match source {
        SourceSpec::Dir { .. } => "dir",
        SourceSpec::Tar { .. } => "tar",
        SourceSpec::DockerArchive { .. } => "docker",
        _ => "oci",
    };
    let opened = match source {
        SourceSpec::Dir { path } => Opened::Dir(HostDir::open(path)?),
        _ => Opened::Image(Box::new(mkimg_oci::open(source, options.platform.as_ref())?)),
    };
    // Before the work is done: a target that cannot be written is known at once.
    let output = Output::create(target)?;
    if let Ok(input) = std::fs::File::open(source.path()) {
        output.spare(&input)?;
    }
    let mut warnings = Vec::new();
    let (flat, layers) = match &opened {
        Opened::Image(image) => flatten_layers(image, options, progress, &mut warnings)?,
        Opened::Dir(dir) => {
            progress.begin(Stage::Scan, 0);
            let mut flattener = Flattener::new();
            let mut scan = dir.scan(output.replaced(), progress)?;
            warnings.append(&mut scan.warnings);
            flattener.apply(scan)?;
            (flattener.finish(), Vec::new())
        }
    };
    let (manifest, config, reference) = match &opened {
        Opened::Image(image) => (image.manifest.as_ref(), image.config.as_ref(), image.reference.clone()),
        Opened::Dir(_) => (None, None, None),
    };
    if flat.waste.unlisted > 0 {
        warnings.push(format!(
            "{} deleted files with long paths are counted, but not listed",
            flat.waste.unlisted
        ));
    }
    let statement = Statement {
        format: VERSION,
        name: options.name.clone().or_else(|| reference.clone()),
        epoch: options.epoch,
        source: Source {
            kind: kind.to_owned(),
            reference,
            manifest_digest: manifest.map(|document| document.digest.to_string()),
            config_digest: config.map(|document| document.digest.to_string()),
        },
        layers,
        options: BTreeMap::from([
            ("compress".to_owned(), "none".to_owned()),
            ("min_kernel".to_owned(), format!("{}.{}", options.min_kernel.0, options.min_kernel.1)),
        ]),
        tool: concat!("mkimg ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let json = statement.to_json();
    if json.len() as u64 > DOCUMENT_MAX {
        let found = json.len() as u64;
        return Err(Error::Limit { what: "bytes in the statement", found, limit: DOCUMENT_MAX });
    }
    let documents = Documents {
        statement: &json,
        manifest: manifest.map_or(&[], |document| &document.bytes),
        config: config.map_or(&[], |document| &document.bytes),
    };
    let plan = Plan::new(&flat, &documents, options.min_kernel >= CHUNKS_KERNEL)?;
    let root_hash = emit(&opened, &flat, &plan, &documents, &statement, &output, options, progress)?;
    progress.begin(Stage::Sync, 0);
    output.finish()?;

    let total = |amount: fn(&crate::waste::LayerWaste) -> u64| flat.waste.layers.iter().map(amount).sum();
    Ok(Built {
        root_hash,
        hash_offset: plan.header.hash_offset(),
        data_blocks: plan.header.data_blocks,
        image_size: plan.header.image_size(),
        min_kernel: if plan.chunked { CHUNKS_KERNEL } else { (5, 4) },
        manifest_digest: statement.source.manifest_digest,
        layers: flat.waste.layers.len(),
        inodes: plan.inodes.len() as u64,
        contents: plan.contents.len() as u64,
        shipped_bytes: total(|layer| layer.shipped.bytes),
        visible_bytes: total(|layer| layer.visible().bytes),
        deleted_bytes: total(|layer| layer.deleted.bytes),
        warnings,
    })
}

/// Checks and flattens the layers of an image.
fn flatten_layers(
    image: &Image,
    options: &Options,
    progress: &dyn Progress,
    warnings: &mut Vec<String>,
) -> Result<(Flat, Vec<LayerStatement>)> {
    progress.begin(Stage::Scan, image.layers.iter().filter_map(|layer| layer.size).sum());
    let mut flattener = Flattener::new();
    let mut statements: Vec<LayerStatement> = Vec::with_capacity(image.layers.len());
    scan_layers(&image.layers, options.threads, progress, |index, summary, mut scan| {
        warnings.append(&mut scan.warnings);
        let diff_id = summary.diff_id.to_string();
        // OCI image specification, "Layer ChainID".
        let chain_id = statements.last().map_or_else(
            || diff_id.clone(),
            |below| {
                let text = format!("{} {diff_id}", below.chain_id);
                format!("sha256:{}", mkimg_format::hex(&Hasher::digest(text)))
            },
        );
        statements.push(LayerStatement {
            digest: summary.blob_digest.to_string(),
            size: summary.blob_size,
            diff_id,
            chain_id,
            media_type: image.layers.get(index).and_then(|layer| layer.media_type.clone()),
        });
        flattener.apply(scan)
    })?;
    Ok((flattener.finish(), statements))
}

/// Writes the image; returns the root hash.
#[allow(clippy::too_many_arguments)]
fn emit(
    opened: &Opened,
    flat: &Flat,
    plan: &Plan,
    documents: &Documents<'_>,
    statement: &Statement,
    output: &Output,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Sha256> {
    let failed = |source| output.error("cannot write", source);
    let header = &plan.header;
    output.reserve(header.image_size())?;
    progress.begin(Stage::Copy, header.image_size());
    let block0 = first_block(flat, plan, statement, documents).map_err(failed)?;
    let fsverity = std::cell::RefCell::new(FsVerity::new(&plan.contents));
    let root_hash = std::thread::scope(|scope| {
        let leaves = |leaf: &Sha256| fsverity.borrow_mut().push(leaf);
        let (data_blocks, tree) = (header.data_blocks, header.tree_offset());
        let mut image = ImageWriter::start(scope, output.file(), data_blocks, tree, options.threads, leaves)
            .map_err(|source| Error::Thread { source })?;
        image.write_all(&block0[..]).map_err(failed)?;
        copy_contents(opened, flat, plan, output, &mut image, progress)?;
        expect_position(&image, header.meta_block)?;
        write_metadata(flat, plan, &mut image).map_err(failed)?;
        expect_position(&image, header.seal_block)?;
        image.drain().map_err(failed)?;
        // The seal's own leaves pass while it is written, so the digests are taken out first.
        let digests = fsverity.borrow_mut().take_digests();
        write_seal(flat, plan, documents, &digests, &mut image).map_err(failed)?;
        expect_position(&image, header.data_blocks)?;
        image.finish().map_err(failed)
    })?;
    let place = |block: &[u8; BLOCK_LEN], offset| {
        use std::os::unix::fs::FileExt as _;
        output.file().write_all_at(block, offset).map_err(failed)
    };
    place(&VeritySuperblock::new(header.data_blocks, &root_hash).to_block(), header.hash_offset())?;
    place(&Trailer::new(header, root_hash).to_block(), header.trailer_offset())?;
    Ok(root_hash)
}

/// The plan and what was written must agree to the byte: a difference is a mistake of this program.
fn expect_position(image: &ImageWriter<'_>, block: u64) -> Result<()> {
    let planned = block * mkimg_format::BLOCK_SIZE;
    if image.position() == planned {
        return Ok(());
    }
    Err(Error::Limit { what: "internal error: bytes written", found: image.position(), limit: planned })
}

/// Block 0: header and superblock.
fn first_block(
    flat: &Flat,
    plan: &Plan,
    statement: &Statement,
    documents: &Documents<'_>,
) -> io::Result<Box<[u8; BLOCK_LEN]>> {
    let mut block = Box::new([0; BLOCK_LEN]);
    block[..512].copy_from_slice(&plan.header.to_bytes());
    let narrow = |value: u64| u32::try_from(value).map_err(io::Error::other);
    let root = plan.inodes.first().map_or(0, |root| root.nid);
    let seconds = u64::try_from(plan.epoch.sec);
    SuperblockFields {
        root: u16::try_from(root).map_err(io::Error::other)?,
        inodes: plan.inodes.len() as u64,
        epoch: seconds.unwrap_or(0),
        fixed_nsec: if seconds.is_ok() { plan.epoch.nsec } else { 0 },
        blocks: narrow(plan.header.data_blocks)?,
        meta_block: narrow(plan.header.meta_block)?,
        xattr_block: plan.xattr_block,
        uuid: image_uuid(flat, plan, documents)?,
        volume_name: label(statement.name.as_deref().unwrap_or_default()),
        chunked: plan.chunked,
    }
    .write(&mut block);
    Ok(block)
}

/// UUID of an image: a hash over everything that decides its bytes.
fn image_uuid(flat: &Flat, plan: &Plan, documents: &Documents<'_>) -> io::Result<[u8; 16]> {
    let mut hasher = blake3::Hasher::new_derive_key("mkimg 2026-11 uuid of an image");
    hasher.update(documents.statement);
    for content in &plan.contents {
        hasher.update(&flat.file(content.layer, content.file).map_or([0; 32], |file| file.blake3));
    }
    write_metadata(flat, plan, &mut hasher)?;
    let mut uuid = [0; 16];
    hasher.finalize_xof().fill(&mut uuid);
    Ok(as_uuid(uuid))
}

/// As much of a name as a label holds: 15 bytes, whole characters, and nothing that could not be shown.
fn label(name: &str) -> [u8; 16] {
    let mut label = [0; 16];
    let name = name.split(char::is_control).next().unwrap_or_default();
    let end = (0..=name.len().min(15)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    label[..end].copy_from_slice(&name.as_bytes()[..end]);
    label
}

/// Copies all contents in layout order.
fn copy_contents(
    opened: &Opened,
    flat: &Flat,
    plan: &Plan,
    output: &Output,
    image: &mut ImageWriter<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let mut buffer = vec![0; copy::BUFFER];
    for contents in plan.contents.chunk_by(|a, b| a.layer == b.layer) {
        let Some(first) = contents.first() else { continue };
        let layer_index = first.layer as usize;
        let number = layer_index + 1;
        let origin = || format!("layer {number}");
        match opened {
            Opened::Image(source) => {
                let Some(layer) = source.layers.get(layer_index) else { continue };
                let mut reader = layer.reopen()?;
                let mut at = 0;
                for content in contents {
                    let Some(data) = flat.file(content.layer, content.file) else { continue };
                    let Place::Tar(offset) = data.place else { continue };
                    let changed = || Error::Changed {
                        origin: origin(),
                        path: flat.path_of_file(content.layer, content.file),
                    };
                    let unreadable = |source| Error::Tar {
                        layer: number,
                        source: Box::new(crate::tar::Error::Io { offset, source }),
                    };
                    if content.size == 0 {
                        continue;
                    }
                    let gap = offset.checked_sub(at).ok_or_else(changed)?;
                    if reader.skip(gap).map_err(unreadable)? < gap {
                        return Err(changed());
                    }
                    copy_content(content, data, &mut reader, image, &mut buffer).map_err(
                        |error| match error {
                            CopyError::Source(source) => unreadable(source),
                            CopyError::Changed => changed(),
                            CopyError::Image(source) => output.error("cannot write", source),
                        },
                    )?;
                    at = offset + data.stored();
                    progress.advance(content.size);
                }
            }
            Opened::Dir(dir) => {
                for content in contents {
                    let Some(data) = flat.file(content.layer, content.file) else { continue };
                    let Place::Host(span) = data.place else { continue };
                    let path =
                        flat.layers.get(layer_index).map_or(&[][..], |files| text_at(&files.text, span));
                    let unreadable = |source| Error::Host { path: path.to_vec(), source };
                    let mut file = dir.open_file(path).map_err(unreadable)?;
                    copy_content(content, data, &mut file, image, &mut buffer).map_err(
                        |error| match error {
                            CopyError::Source(source) => unreadable(source),
                            CopyError::Changed => {
                                Error::Changed { origin: "source directory".to_owned(), path: path.to_vec() }
                            }
                            CopyError::Image(source) => output.error("cannot write", source),
                        },
                    )?;
                    progress.advance(content.size);
                }
            }
        }
    }
    Ok(())
}
