//! The JSON documents of an image: parsed into the few fields that matter, and checked against each other.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{Error, plain, quote, same_digest};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::store::Store;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_LIST
}

pub(crate) fn is_manifest(media_type: &str) -> bool {
    media_type == OCI_MANIFEST || media_type == DOCKER_MANIFEST
}

pub(crate) fn is_config(media_type: &str) -> bool {
    media_type == OCI_CONFIG || media_type == DOCKER_CONFIG
}

/// A reference to a blob. A size that is negative, fractional or over 2^63-1 does not parse.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    pub(crate) digest: Digest,
    #[serde(deserialize_with = "size")]
    pub(crate) size: u64,
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(default)]
    platform: Option<PlatformFields>,
    #[serde(rename = "artifactType", default)]
    artifact_type: Option<String>,
}

/// The annotations that name or classify an image; others are skipped by the parser.
#[derive(Clone, Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name", default)]
    ref_name: Option<String>,
    #[serde(rename = "io.containerd.image.name", default)]
    containerd_name: Option<String>,
    #[serde(rename = "vnd.docker.reference.type", default)]
    reference_type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct PlatformFields {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    // The specification has int64; what is larger would be negative for other readers.
    if i64::try_from(size).is_err() {
        return Err(serde::de::Error::custom(format!("size {size} is over 2^63-1")));
    }
    Ok(size)
}

fn platform(os: String, architecture: String, variant: Option<String>) -> Platform {
    Platform { os, arch: architecture, variant: variant.filter(|variant| !variant.is_empty()) }
}

impl Descriptor {
    pub(crate) fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or("")
    }

    pub(crate) fn platform(&self) -> Option<Platform> {
        let fields = self.platform.as_ref().filter(|fields| !fields.os.is_empty())?;
        Some(platform(fields.os.clone(), fields.architecture.clone(), fields.variant.clone()))
    }

    /// `org.opencontainers.image.ref.name`, or the name that containerd gives to an image.
    pub(crate) fn name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        annotations.ref_name.as_deref().or(annotations.containerd_name.as_deref())
    }

    /// Whether the user means this entry of `index.json` by `tag`.
    pub(crate) fn is_called(&self, tag: &str) -> bool {
        let names = self.annotations.as_ref().map(|all| [&all.ref_name, &all.containerd_name]);
        names.is_some_and(|names| names.into_iter().flatten().any(|name| name == tag))
            || self.digest.to_string() == tag
    }

    /// Signatures, attestations and other things that lie beside images.
    pub(crate) fn is_artifact(&self) -> bool {
        self.platform().is_some_and(|platform| platform.is_unknown())
            || self.artifact_type.as_deref().is_some_and(|kind| !kind.is_empty() && !is_config(kind))
            || self.annotations.as_ref().is_some_and(|all| all.reference_type.is_some())
    }
}

/// An index or a manifest. Go writes empty lists as null.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// The parts of an image manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Parses an index. `media_type` is that of the descriptor, none for `index.json`.
pub(crate) fn index(object: &str, data: &[u8], media_type: Option<&str>) -> Result<Vec<Descriptor>, Error> {
    let fields = fields(object, data, media_type, is_index)?;
    if fields.config.is_some() || fields.layers.is_some() {
        return Err(bad(object, "an index that has the config or layers of a manifest"));
    }
    Ok(fields.manifests.unwrap_or_default())
}

/// Parses an image manifest.
pub(crate) fn manifest(object: &str, data: &[u8], media_type: &str) -> Result<Manifest, Error> {
    let fields = fields(object, data, Some(media_type), is_manifest)?;
    if fields.manifests.is_some() {
        return Err(bad(object, "a manifest that has the manifests of an index"));
    }
    let config = fields.config.ok_or_else(|| bad(object, "a manifest without config"))?;
    Ok(Manifest { config, layers: fields.layers.unwrap_or_default() })
}

fn fields(
    object: &str,
    data: &[u8],
    promised: Option<&str>,
    fits: fn(&str) -> bool,
) -> Result<Fields, Error> {
    let fields: Fields = parse(object, data)?;
    if let Some(found) = fields.media_type.as_deref().filter(|found| !found.is_empty()) {
        let expected = promised.unwrap_or(OCI_INDEX);
        if promised.is_some_and(|promised| promised != found) || !fits(found) {
            return Err(Error::MediaType {
                object: object.to_owned(),
                reason: format!("media type is {}, expected {}", quote(found), quote(expected)),
            });
        }
    }
    if fields.schema_version != 2 {
        return Err(bad(object, &format!("schemaVersion is {}, supported is 2", fields.schema_version)));
    }
    Ok(fields)
}

#[derive(Debug, Deserialize)]
struct ConfigFields {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// The parts of an image configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) platform: Option<Platform>,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Parses an image configuration.
pub(crate) fn config(object: &str, data: &[u8]) -> Result<Config, Error> {
    let fields: ConfigFields = parse(object, data)?;
    if fields.rootfs.kind != "layers" {
        return Err(bad(
            object,
            &format!("rootfs.type is {}, supported is \"layers\"", quote(&fields.rootfs.kind)),
        ));
    }
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let platform = match (some(fields.os), some(fields.architecture)) {
        (Some(os), Some(architecture)) => Some(platform(os, architecture, fields.variant)),
        _ => None,
    };
    Ok(Config { platform, diff_ids: fields.rootfs.diff_ids.unwrap_or_default() })
}

impl Config {
    /// One diff id for each of `layers` layers.
    pub(crate) fn check_count(&self, object: &str, layers: usize) -> Result<(), Error> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        Err(bad(object, &format!("{} diff ids for {layers} layers", self.diff_ids.len())))
    }
}

pub(crate) fn parse<T: DeserializeOwned>(object: &str, data: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(data)
        .map_err(|error| bad(object, &format!("not valid: {}", plain(&error.to_string()))))
}

fn bad(object: &str, reason: &str) -> Error {
    Error::Document { object: object.to_owned(), reason: reason.to_owned() }
}

/// Reads the document that `descriptor` points to and checks its size and digest.
pub(crate) fn read(
    store: &Store,
    descriptor: &Descriptor,
    object: &str,
    limits: &Limits,
) -> Result<Vec<u8>, Error> {
    let (declared, limit) = (descriptor.size, limits.json_bytes);
    if declared > limit {
        return Err(Error::Limit {
            object: object.to_owned(),
            what: format!("size of {declared} bytes"),
            limit,
        });
    }
    let data = store.blob(&descriptor.digest, object, limits)?.read_all(object, limit)?;
    let found = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if found != declared {
        return Err(Error::Size { object: object.to_owned(), declared, found });
    }
    same_digest(object, descriptor.digest, descriptor.digest.compute_alike(&data))?;
    Ok(data)
}
