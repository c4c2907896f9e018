//! Opening a source.

use std::path::Path;
use std::sync::Arc;

use crate::archive::Archive;
use crate::choice::{self, no_platform};
use crate::compression::{Compression, Looks, Promise, promise};
use crate::digest::Digest;
use crate::docker;
use crate::document::{self, Descriptor};
use crate::error::{Error, quote};
use crate::layer::{Layer, Place};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::source::SourceSpec;
use crate::store::{Extent, Store, open_file};

/// A JSON document of the image, byte for byte, and the digest that it was checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Digest of `bytes`.
    pub digest: Digest,
    /// As in the source.
    pub bytes: Vec<u8>,
}

/// A container image, opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Image {
    /// Tag in the layout, or name and tag in a docker archive. Never a path of this machine.
    pub reference: Option<String>,
    /// The OCI manifest; docker archives and tars have none.
    pub manifest: Option<Document>,
    /// The image configuration; tars have none.
    pub config: Option<Document>,
    /// The platform in the configuration.
    pub platform: Option<Platform>,
    /// Lowest first.
    pub layers: Vec<Layer>,
}

/// Opens the image at `spec` that fits `platform`; see [`open_with`].
pub fn open(spec: &SourceSpec, platform: Option<&Platform>) -> Result<Image, Error> {
    open_with(spec, platform, &Limits::default())
}

/// Opens an image: documents are read and checked, layers are looked up but not read.
///
/// Without `platform` an index yields the image of the host, and a single manifest is taken as it is. With `platform`
/// the configuration has to fit, too. [`SourceSpec::Dir`] is an error, because a directory has no layers to stream.
pub fn open_with(spec: &SourceSpec, platform: Option<&Platform>, limits: &Limits) -> Result<Image, Error> {
    match spec {
        SourceSpec::OciDir { path, tag } => {
            layout(&Store::directory(path)?, tag.as_deref(), platform, limits)
        }
        SourceSpec::OciArchive { path, tag } => {
            let store = Store::Archive(open_archive(path, limits)?);
            layout(&store, tag.as_deref(), platform, limits)
        }
        SourceSpec::DockerArchive { path, tag } => {
            docker::open(open_archive(path, limits)?, tag.as_deref(), platform, limits)
        }
        SourceSpec::Tar { path } => tar(path, limits),
        SourceSpec::Dir { path } => Err(Error::Source {
            source_text: quote(&path.display().to_string()),
            reason: "a directory has no layers".to_owned(),
        }),
    }
}

/// Indexes an outer archive. Random access needs it uncompressed.
fn open_archive(path: &Path, limits: &Limits) -> Result<Arc<Archive>, Error> {
    let extent = open_file(path)?;
    let mut prefix = [0; Looks::PREFIX];
    let object = path.display().to_string();
    let n = extent.read_at(&mut prefix, 0).map_err(|source| Error::Io { object: object.clone(), source })?;
    match Looks::like(&prefix[..n]) {
        Looks::Supported(Compression::None) => {}
        looks => return Err(compressed_archive(path, looks)),
    }
    Ok(Arc::new(Archive::index(path, extent.file, extent.len, limits)?))
}

/// The error for an image archive that is compressed as a whole.
pub(crate) fn compressed_archive(path: &Path, looks: Looks) -> Error {
    let remedy = match looks {
        Looks::Supported(Compression::Gzip) => "gunzip",
        Looks::Supported(Compression::Zstd) => "unzstd",
        Looks::Unsupported("xz") => "unxz",
        Looks::Unsupported("bzip2") => "bunzip2",
        _ => "unlz4",
    };
    Error::Source {
        source_text: quote(&path.display().to_string()),
        reason: format!("the archive is compressed with {}, uncompress it first with {remedy}", looks.name()),
    }
}

fn layout(
    store: &Store,
    tag: Option<&str>,
    wanted: Option<&Platform>,
    limits: &Limits,
) -> Result<Image, Error> {
    const INDEX: &str = "index.json";
    let data = store.named(INDEX, INDEX, limits)?.read_all(INDEX, limits.json_bytes)?;
    let roots = document::index(INDEX, &data, None)?;
    let chosen = choice::choose(store, roots, tag, wanted, limits)?;

    let descriptor = chosen.descriptor;
    let object = format!("manifest {}", descriptor.digest);
    let bytes = document::read(store, &descriptor, &object, limits)?;
    let manifest = document::manifest(&object, &bytes, descriptor.media_type())?;
    let document = Document { digest: descriptor.digest, bytes };

    let object = format!("config {}", manifest.config.digest);
    if !document::is_config(manifest.config.media_type()) {
        return Err(Error::MediaType {
            object,
            reason: format!("media type {} is no image configuration", quote(manifest.config.media_type())),
        });
    }
    let bytes = document::read(store, &manifest.config, &object, limits)?;
    let config = document::config(&object, &bytes)?;
    config.check_count(&object, manifest.layers.len())?;
    if let Some(wanted) = wanted
        && !config.platform.as_ref().is_some_and(|platform| wanted.accepts(platform))
        // An index may be more exact about the variant than the configuration, which chose this one.
        && descriptor.platform().is_none_or(|platform| !wanted.accepts(&platform) || differ(&platform, &config.platform))
    {
        return Err(no_platform(wanted, std::iter::once(config.platform.as_ref())));
    }

    let mut layers = Vec::with_capacity(manifest.layers.len());
    for ((descriptor, diff_id), number) in manifest.layers.iter().zip(&config.diff_ids).zip(1..) {
        layers.push(layer(store, number, descriptor, *diff_id, limits)?);
    }
    Ok(Image {
        reference: chosen.reference,
        manifest: Some(document),
        config: Some(Document { digest: manifest.config.digest, bytes }),
        platform: config.platform,
        layers,
    })
}

/// Whether a descriptor and a configuration speak of different machines, variants aside.
fn differ(descriptor: &Platform, config: &Option<Platform>) -> bool {
    config.as_ref().is_some_and(|config| config.os != descriptor.os || config.arch != descriptor.arch)
}

fn layer(
    store: &Store,
    number: usize,
    descriptor: &Descriptor,
    diff_id: Digest,
    limits: &Limits,
) -> Result<Layer, Error> {
    let media_type = descriptor.media_type();
    let mut layer = Layer {
        number,
        digest: Some(descriptor.digest),
        size: Some(descriptor.size),
        diff_id: Some(diff_id),
        media_type: Some(media_type.to_owned()),
        compression: Compression::None,
        name: None,
        place: Place::Blob(store.clone()),
        limits: *limits,
    };
    let Some(promise) = promise(media_type) else {
        return Err(Error::MediaType {
            object: layer.label(),
            reason: format!("media type {} is no supported layer type", quote(media_type)),
        });
    };
    // What is missing or cut is reported before any work is done; an archive's members stay open anyway.
    let extent = layer.locate()?;
    match promise {
        Promise::Exactly(compression) => layer.compression = compression,
        Promise::Whatever => {
            if let Looks::Supported(compression) = layer.looks(&extent)? {
                layer.compression = compression;
            }
        }
    }
    if let Store::Archive(_) = store {
        layer.place = Place::Extent(extent);
    }
    Ok(layer)
}

/// A tar is an image of one layer about which nothing is known.
fn tar(path: &Path, limits: &Limits) -> Result<Image, Error> {
    let extent: Extent = open_file(path)?;
    let mut layer = Layer {
        number: 1,
        digest: None,
        size: None,
        diff_id: None,
        media_type: None,
        compression: Compression::None,
        name: None,
        place: Place::Extent(extent.clone()),
        limits: *limits,
    };
    if let Looks::Supported(compression) = layer.looks(&extent)? {
        layer.compression = compression;
    }
    Ok(Image { reference: None, manifest: None, config: None, platform: None, layers: vec![layer] })
}
