//! The whole way from a source to an image file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use mkimg_format::Sha256;
use mkimg_format::erofs::SHARED_BLOCKS_MAX;
use mkimg_format::fec;
use mkimg_format::header::VERSION;
use mkimg_format::seal::{DOCUMENT_MAX, Layer as LayerStatement, Source, Statement};
use mkimg_format::trace::Trace;
use mkimg_oci::{Image, Kept, Platform, SourceSpec};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::compression::{Abilities, Compression};
use crate::contents::{CHUNKS_MAX, Contents};
use crate::copy::Copier;
use crate::dedup::{CHUNKS_KERNEL, Dedup};
use crate::emit::Emitter;
use crate::error::{Error, Result};
use crate::flatten::{Flat, Flattener};
use crate::memory::Memory;
use crate::output::Output;
use crate::plan::Documents;
use crate::progress::{Progress, Stage};
use crate::scan::{Scanned, scan_layers};
use crate::scratch::Scratches;
use crate::source::{Opened, kind_of};
use crate::trace::files_of;

/// What decides the bytes of an image, besides the source; and how to get there.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image of an index.
    pub platform: Option<Platform>,
    /// Name in the statement and the label; the reference of the source if absent.
    pub name: Option<String>,
    /// Counter against rollback.
    pub epoch: u64,
    /// How file data is compressed.
    pub compression: Compression,
    /// What is stored only once.
    pub dedup: Dedup,
    /// Oldest kernel that must mount the image, as (major, minor); usually [`Compression::min_kernel`].
    pub min_kernel: (u32, u32),
    /// Files that come first in the image, in the order in which a workload reads them.
    pub optimize_for: Option<Trace>,
    /// Reed-Solomon parity bytes of a codeword, as many as [`fec::ROOTS`] holds; 0 for none.
    pub fec_roots: u32,
    /// Threads for scanning and for writing. Never changes the result.
    pub threads: NonZeroUsize,
    /// What may be taken for data on its way. Never changes the result.
    pub memory: Memory,
    /// Whether layers that memory has no room for may wait in files without names beside the image, if the system has room for
    /// them. Never changes the result.
    pub scratch: bool,
}

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
    /// Blocks of parity.
    pub fec_blocks: u64,
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
    if let Some(algorithm) = options.compression.algorithm()
        && algorithm.min_kernel() > options.min_kernel
    {
        let (compression, needed) = (options.compression, algorithm.min_kernel());
        return Err(Error::Kernel { compression, needed, asked: options.min_kernel });
    }
    options.dedup.check(options.compression, options.min_kernel)?;
    if options.fec_roots != 0 && !fec::ROOTS.contains(&options.fec_roots) {
        let (found, limit) = (options.fec_roots.into(), (*fec::ROOTS.end()).into());
        return Err(Error::Limit {
            what: "parity bytes of a codeword, of which there are 2 or more",
            found,
            limit,
        });
    }
    let opened = Opened::open(source, options.platform.as_ref())?;
    // Before the work is done: a target that cannot be written is known at once.
    let output = Output::create(target)?;
    if let Ok(input) = std::fs::File::open(source.path()) {
        output.spare(&input)?;
    }
    if matches!(source, SourceSpec::OciDir { .. }) {
        output.spare_inside(source.path())?;
    }
    let mut warnings = Vec::new();
    let (flat, layers, kept) = match &opened {
        Opened::Image(image) => flatten_layers(image, &output, options, progress, &mut warnings)?,
        Opened::Dir(dir) => {
            progress.begin(Stage::Scan, 0);
            let mut flattener = Flattener::new();
            let mut scan = dir.scan(&output.identities(), progress)?;
            warnings.append(&mut scan.warnings);
            flattener.apply(scan)?;
            (flattener.finish(), Vec::new(), Vec::new())
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
    let chunks_max = match options.dedup {
        Dedup::Blocks => SHARED_BLOCKS_MAX,
        Dedup::Files if options.min_kernel >= CHUNKS_KERNEL => CHUNKS_MAX,
        Dedup::Files => 0,
    };
    let abilities = Abilities::of(options.min_kernel);
    let mut contents = Contents::gather(&flat, chunks_max);
    if let Some(trace) = &options.optimize_for {
        let packed = options.compression != Compression::None && abilities.share;
        contents.lead_with(&files_of(trace, &flat.tree, &mut warnings)?, packed);
    }
    let statement = Statement {
        format: VERSION,
        name: options.name.clone().or_else(|| reference.clone()),
        epoch: options.epoch,
        source: Source {
            kind: kind_of(source).to_owned(),
            reference,
            manifest_digest: manifest.map(|document| document.digest.to_string()),
            config_digest: config.map(|document| document.digest.to_string()),
        },
        layers,
        hot: options.optimize_for.as_ref().map(|_| contents.hot as u64),
        options: stated(options),
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
    let copier = Copier {
        opened: &opened,
        flat: &flat,
        output: &output,
        threads: options.threads,
        memory: options.memory,
        kept: RefCell::new(kept),
        progress,
    };
    let emitter = Emitter {
        copier,
        contents: &contents,
        compression: options.compression,
        dedup: options.dedup,
        abilities,
        documents: &documents,
        fec_roots: options.fec_roots,
        name: statement.name.as_deref(),
    };
    let (root_hash, plan) = emitter.emit()?;
    progress.begin(Stage::Sync, 0);
    output.finish()?;

    let total = |amount: fn(&crate::waste::LayerWaste) -> u64| flat.waste.layers.iter().map(amount).sum();
    Ok(Built {
        root_hash,
        hash_offset: plan.header.hash_offset(),
        data_blocks: plan.header.data_blocks,
        image_size: plan.header.image_size(),
        fec_blocks: plan.header.fec_blocks,
        min_kernel: plan.features.min_kernel(),
        manifest_digest: statement.source.manifest_digest,
        layers: flat.waste.layers.len(),
        inodes: plan.inodes.len() as u64,
        contents: contents.list.len() as u64,
        shipped_bytes: total(|layer| layer.shipped.bytes),
        visible_bytes: total(|layer| layer.visible().bytes),
        deleted_bytes: total(|layer| layer.deleted.bytes),
        warnings,
    })
}

/// The options that change the bytes of the image, as the statement has them.
fn stated(options: &Options) -> BTreeMap<String, String> {
    let (major, minor) = options.min_kernel;
    let mut stated = BTreeMap::from([
        ("compress".to_owned(), options.compression.to_string()),
        ("min_kernel".to_owned(), format!("{major}.{minor}")),
    ]);
    if options.fec_roots != 0 {
        stated.insert("fec".to_owned(), options.fec_roots.to_string());
    }
    // What is as it always was is not named, so that such images do not change.
    if options.dedup != Dedup::Files {
        stated.insert("dedup".to_owned(), options.dedup.to_string());
    }
    if let Some(trace) = &options.optimize_for {
        stated.insert("optimize_for".to_owned(), format!("sha256:{}", mkimg_format::hex(trace.digest())));
    }
    stated
}

/// Checks and flattens the layers of an image; the tree, what the statement says of each layer, and what stays of it.
fn flatten_layers(
    image: &Image,
    output: &Output,
    options: &Options,
    progress: &dyn Progress,
    warnings: &mut Vec<String>,
) -> Result<(Flat, Vec<LayerStatement>, Vec<Option<Kept>>)> {
    progress.begin(Stage::Scan, image.layers.iter().filter_map(|layer| layer.size).sum());
    let mut flattener = Flattener::new();
    let mut statements: Vec<LayerStatement> = Vec::with_capacity(image.layers.len());
    let mut tars = Vec::with_capacity(image.layers.len());
    let Options { threads, memory, .. } = *options;
    let scratches = if options.scratch { Scratches::beside(output) } else { Scratches::none(output) };
    scan_layers(&image.layers, threads, memory, &scratches, progress, |index, scanned| {
        let Scanned { summary, mut scan, kept } = scanned;
        tars.push(kept);
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
    Ok((flattener.finish(), statements, tars))
}
