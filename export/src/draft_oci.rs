//! A draft: an OCI image layout whose only layer is the image.
//!
//! EROFS as a layer is not in the OCI image specification yet. Three families of tools agree on the idea and not on its
//! names, so a [`Flavor`] chooses the media type; the annotations of all of them are written together, since readers pass
//! over those that they do not know. None of this is stable.
//!
//! | names | from |
//! |---|---|
//! | `application/vnd.erofs.layer.v1` | containerd 2.3, `core/images/mediatypes.go` |
//! | `application/vnd.erofs`, `org.erofs.dmverity.*`, `erofs` in `os.features` | draft of erofs-image-spec |
//! | `application/vnd.stacker.image.layer.erofs`, `io.stackeroci.stacker.atomfs_verity_root_hash` | atomfs, `pkg/erofs/mediatype.go` |
//!
//! The layer is a copy, or shares its blocks on a file system that can do that. It is no hard link: `mkimg sign` changes
//! an image in its place, and the blob would not have its digest any more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use mkimg_format::seal::{Section, Statement};
use mkimg_format::{ReadAt as _, hex};
use mkimg_mkfs::Output;
use mkimg_oci::Platform;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Error, Image, Parameters, Result};

/// Bytes that are hashed at once.
const PIECE: usize = 1 << 20;

/// Whose media type the layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// `application/vnd.erofs.layer.v1`
    Containerd,
    /// `application/vnd.erofs`
    Erofs,
    /// `application/vnd.stacker.image.layer.erofs`, with what atomfs puts behind it.
    Stacker,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Media type of the layer.
    pub media_type: String,
    /// Digest of the layer, which is also its diff id.
    pub layer: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// The name that the layout has for it.
    pub reference: String,
}

/// A descriptor of the OCI image specification.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: [Descriptor; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: [Descriptor; 1],
}

/// Writes a layout to a directory, which must be new or empty. What makes it one, `index.json`, comes last.
///
/// The same image and flavor give the same bytes, except that an image without an OCI configuration gets the platform of
/// this machine.
///
/// # Errors
/// The image cannot be read, or the directory not be written.
pub fn write(directory: &Path, flavor: Flavor, image: &Image) -> Result<Written> {
    let seal = image.seal()?;
    let statement = seal.statement()?;
    let config = match seal.document(Section::Config)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(Error::Config)?,
        None => Map::new(),
    };
    let blobs = Blobs::create(directory)?;
    let (layer, size) = blobs.image(image)?;
    image.unchanged()?;
    let config = adapted(config, &layer, &statement);
    let platform = ["architecture", "os", "os.version", "os.features", "variant"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())))
        .collect();
    let config = blobs.document("application/vnd.oci.image.config.v1+json", &config)?;
    let layer = Descriptor {
        media_type: media_type(flavor, &statement),
        digest: layer,
        size,
        platform: None,
        annotations: annotations(&image.parameters()),
    };
    let (media_type, layer_digest) = (layer.media_type.clone(), layer.digest.clone());
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let document = Manifest { schema_version: 2, media_type: manifest, config, layers: [layer] };
    let manifest = blobs.document(manifest, &document)?;
    let (digest, reference) = (manifest.digest.clone(), reference(&statement));
    let annotations = BTreeMap::from([("org.opencontainers.image.ref.name", reference.clone())]);
    let manifest = Descriptor { platform: Some(Value::Object(platform)), annotations, ..manifest };
    let index = "application/vnd.oci.image.index.v1+json";
    let index = Index { schema_version: 2, media_type: index, manifests: [manifest] };
    put(&directory.join("oci-layout"), &to_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    put(&directory.join("index.json"), &to_bytes(&index))?;
    Ok(Written { media_type, layer: layer_digest, manifest: digest, reference })
}

fn media_type(flavor: Flavor, statement: &Statement) -> String {
    match flavor {
        Flavor::Containerd => "application/vnd.erofs.layer.v1".to_owned(),
        Flavor::Erofs => "application/vnd.erofs".to_owned(),
        Flavor::Stacker => {
            let algorithm = statement.options.get("compress").and_then(|option| option.split(':').next());
            let compression = match algorithm {
                None | Some("none") => String::new(),
                Some(algorithm) => format!("+{algorithm}"),
            };
            format!("application/vnd.stacker.image.layer.erofs{compression}+verity")
        }
    }
}

fn annotations(parameters: &Parameters) -> BTreeMap<&'static str, String> {
    let Parameters { root_hash, algorithm, hash_offset, data_block_size, .. } = parameters;
    BTreeMap::from([
        ("io.stackeroci.stacker.atomfs_verity_root_hash", root_hash.clone()),
        ("org.erofs.dmverity.block_size", data_block_size.to_string()),
        ("org.erofs.dmverity.hash_offset", hash_offset.to_string()),
        ("org.erofs.dmverity.root_digest", format!("{algorithm}:{root_hash}")),
    ])
}

/// The configuration of the source for the one layer that there is now: all that a runtime goes by stays.
fn adapted(mut config: Map<String, Value>, layer: &str, statement: &Statement) -> Map<String, Value> {
    let host = Platform::host();
    config.entry("architecture").or_insert_with(|| host.arch.into());
    config.entry("os").or_insert_with(|| host.os.into());
    let features = config.entry("os.features").or_insert_with(|| json!([]));
    if let Value::Array(features) = features
        && !features.iter().any(|feature| feature == "erofs")
    {
        features.push("erofs".into());
    }
    config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [layer] }));
    // The moment may be left out, but umoci 0.4 does not expect that.
    let created = config.get("created").cloned().unwrap_or_else(|| "1970-01-01T00:00:00Z".into());
    let history = json!({
        "created": created,
        "created_by": "mkimg export",
        "comment": format!("layers of the source in one EROFS image: {}", statement.layers.len()),
    });
    config.insert("history".to_owned(), json!([history]));
    config
}

/// The name of the image if a layout can have it, else `latest`.
///
/// The grammar is that of `org.opencontainers.image.ref.name`: components between slashes, each of letters and digits with
/// single separators between them.
fn reference(statement: &Statement) -> String {
    let component = |component: &str| {
        let component = component.replace("--", "-");
        let mut words = component.split(|c| "-._:@+".contains(c));
        words.all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric()))
    };
    let name = statement.name.as_deref().filter(|name| name.split('/').all(component));
    name.unwrap_or("latest").to_owned()
}

/// The folder of blobs, each of which has its digest as its name.
struct Blobs(PathBuf);

impl Blobs {
    fn create(directory: &Path) -> Result<Self> {
        let failed = Error::write(directory);
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_dir(directory).map_err(&failed)?.next().is_some() {
                    return Err(Error::NotEmpty { path: directory.to_owned() });
                }
            }
            made => made.map_err(&failed)?,
        }
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed)?;
        Ok(Self(blobs))
    }

    /// Copies the image. The digest is that of the copy, whatever happens to the image meanwhile.
    fn image(&self, image: &Image) -> Result<(String, u64)> {
        let path = self.0.join("layer");
        let failed = Error::write(&path);
        let output = Output::create(&path)?;
        let size = image.header.image_size();
        let digest = copy(&image.file, output.file(), size).map_err(&failed)?;
        output.finish()?;
        fs::rename(&path, self.0.join(&digest)).map_err(failed)?;
        Ok((format!("sha256:{digest}"), size))
    }

    fn document(&self, media_type: &str, document: &impl Serialize) -> Result<Descriptor> {
        let bytes = to_bytes(document);
        let digest = hex(&Sha256::digest(&bytes));
        put(&self.0.join(&digest), &bytes)?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{digest}"),
            size: u64::try_from(bytes.len()).unwrap_or_default(),
            platform: None,
            annotations: BTreeMap::new(),
        })
    }
}

/// Copies `size` bytes, by sharing them where the file systems can, and returns the digest of the copy.
fn copy(mut image: &File, mut blob: &File, size: u64) -> io::Result<String> {
    image.seek(SeekFrom::Start(0))?;
    io::copy(&mut image.take(size), &mut blob)?;
    let (mut hash, mut at, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    while at < size {
        let length = usize::try_from(size.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..length).unwrap_or_default();
        blob.read_exact_at(piece, at)?;
        hash.update(piece);
        at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    Ok(hex(&hash.finalize()))
}

fn to_bytes(document: &impl Serialize) -> Vec<u8> {
    // Nothing here has keys that are no text, the one thing that could fail.
    serde_json::to_vec(document).unwrap_or_default()
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let output = Output::create(path)?;
    output.file().write_all(bytes).map_err(Error::write(path))?;
    Ok(output.finish()?)
}

#[cfg(test)]
mod tests {
    use mkimg_format::seal::Source;

    use super::*;

    fn statement(name: Option<&str>, compress: Option<&str>) -> Statement {
        let source =
            Source { kind: "dir".to_owned(), reference: None, manifest_digest: None, config_digest: None };
        Statement {
            format: 1,
            name: name.map(str::to_owned),
            epoch: 0,
            source,
            layers: Vec::new(),
            hot: None,
            options: compress.map(|value| ("compress".to_owned(), value.to_owned())).into_iter().collect(),
            tool: String::new(),
        }
    }

    #[test]
    fn references_are_names_that_a_layout_can_have() {
        for (name, wanted) in [
            (Some("web"), "web"),
            (Some("web-1.2_3"), "web-1.2_3"),
            (Some("registry.example:5000/web:1"), "registry.example:5000/web:1"),
            (Some("a--b"), "a--b"),
            (Some("a---b"), "latest"),
            (Some("-web"), "latest"),
            (Some("web:"), "latest"),
            (Some("a b"), "latest"),
            (Some("../web"), "latest"),
            (Some("/web"), "latest"),
            (Some("w\u{e9}b"), "latest"),
            (None, "latest"),
        ] {
            assert_eq!(reference(&statement(name, None)), wanted, "{name:?}");
        }
    }

    #[test]
    fn stacker_names_the_compression() {
        for (compress, suffix) in [
            (None, "+verity"),
            (Some("none"), "+verity"),
            (Some("lz4"), "+lz4+verity"),
            (Some("zstd:19"), "+zstd+verity"),
        ] {
            let found = media_type(Flavor::Stacker, &statement(None, compress));
            assert_eq!(found, format!("application/vnd.stacker.image.layer.erofs{suffix}"));
        }
    }

    #[test]
    fn configurations_keep_all_but_what_is_about_layers() {
        let original = json!({
            "architecture": "riscv64",
            "os": "linux",
            "os.features": ["win32k"],
            "created": "2020-01-01T00:00:00Z",
            "config": { "Entrypoint": ["/bin/sh"], "Env": ["A=b"], "User": "1:2" },
            "rootfs": { "type": "layers", "diff_ids": ["sha256:1", "sha256:2"] },
            "history": [{}, {}, { "empty_layer": true }],
            "vendor": { "kept": [1, 2] },
        });
        let original = original.as_object().unwrap();
        let found = adapted(original.clone(), "sha256:3", &statement(None, None));
        assert_eq!(found["rootfs"], json!({ "type": "layers", "diff_ids": ["sha256:3"] }));
        assert_eq!(found["history"].as_array().unwrap().len(), 1);
        assert_eq!(found["history"][0]["created"], "2020-01-01T00:00:00Z");
        assert_eq!(found["os.features"], json!(["win32k", "erofs"]));
        for key in ["architecture", "os", "created", "config", "vendor"] {
            assert_eq!(found[key], original[key], "{key}");
        }
        // Once more, and there is nothing left to do.
        assert_eq!(adapted(found.clone(), "sha256:3", &statement(None, None)), found);
        let bare = adapted(Map::new(), "sha256:3", &statement(None, None));
        assert_eq!([&bare["os"], &bare["os.features"]], [&json!("linux"), &json!(["erofs"])]);
    }
}
