//! Builders of layouts and archives, and the checks that most tests share.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use mkimg_oci::{Digest, Error, Image, Layer, LayerSummary, Platform, SourceSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A tar with regular files and, for contents that begin with `->`, symlinks.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(target) = content.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, std::str::from_utf8(target).unwrap()).unwrap();
        } else {
            header.set_size(content.len().try_into().unwrap());
            builder.append_data(&mut header, name, *content).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn digest(data: &[u8]) -> String {
    Digest::of(data).to_string()
}

/// An image layout in memory.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) entries: Vec<Value>,
}

impl Layout {
    pub(crate) fn new() -> Layout {
        let files =
            BTreeMap::from([("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())]);
        Layout { files, entries: Vec::new() }
    }

    /// Stores a blob and returns its descriptor.
    pub(crate) fn add(&mut self, blob: &[u8], media_type: &str) -> Value {
        let digest = digest(blob);
        self.files.insert(blob_path(&digest), blob.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": blob.len()})
    }

    pub(crate) fn add_json(&mut self, document: &Value, media_type: &str) -> Value {
        self.add(&serde_json::to_vec(document).unwrap(), media_type)
    }

    pub(crate) fn config(&mut self, diff_ids: &[String], platform: &str) -> Value {
        let platform: Platform = platform.parse().unwrap();
        let config = json!({"os": platform.os, "architecture": platform.arch, "variant": platform.variant,
            "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        self.add_json(&config, CONFIG)
    }

    pub(crate) fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.add_json(&manifest, MANIFEST)
    }

    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        self.add_json(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}), INDEX)
    }

    /// Manifest of an image with one small layer that holds `text`.
    pub(crate) fn image(&mut self, text: &str, platform: &str) -> Value {
        let data = tar(&[("text", text.as_bytes())]);
        let layer = self.add(&data, PLAIN);
        let config = self.config(&[digest(&data)], platform);
        self.manifest(&config, &[layer])
    }

    pub(crate) fn tag(&mut self, mut descriptor: Value, tag: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.entries.push(descriptor);
    }

    pub(crate) fn all_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        if !files.contains_key("index.json") {
            let index = json!({"schemaVersion": 2, "manifests": self.entries});
            files.insert("index.json".to_owned(), serde_json::to_vec(&index).unwrap());
        }
        files
    }

    pub(crate) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in self.all_files() {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    pub(crate) fn open(&self, tag: Option<&str>, platform: Option<&str>) -> Result<Image, Error> {
        open_dir(self.write().path(), tag, platform)
    }
}

/// A layout with one image, `latest`, whose layers are `(blob, media type, tar)`.
pub(crate) fn image_of(layers: &[(Vec<u8>, &str, Vec<u8>)]) -> Layout {
    let mut layout = Layout::new();
    let descriptors: Vec<Value> = layers.iter().map(|(blob, media, _)| layout.add(blob, media)).collect();
    let diff_ids: Vec<String> = layers.iter().map(|(_, _, tar)| digest(tar)).collect();
    let config = layout.config(&diff_ids, "linux/amd64");
    let manifest = layout.manifest(&config, &descriptors);
    layout.tag(manifest, "latest");
    layout
}

pub(crate) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

pub(crate) fn open_dir(path: &Path, tag: Option<&str>, platform: Option<&str>) -> Result<Image, Error> {
    let spec = SourceSpec::OciDir { path: path.to_owned(), tag: tag.map(str::to_owned) };
    mkimg_oci::open(&spec, platform.map(|text| text.parse().unwrap()).as_ref())
}

pub(crate) fn file(dir: &TempDir, name: &str, data: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, data).unwrap();
    path
}

/// Both passes over a layer.
pub(crate) fn read(layer: &Layer) -> Result<(Vec<u8>, LayerSummary), Error> {
    let mut reader = layer.open()?;
    let mut data = Vec::new();
    let result = reader.read_to_end(&mut data);
    let summary = reader.finish()?;
    result.unwrap();
    let mut again = Vec::new();
    layer.reopen()?.read_to_end(&mut again).unwrap();
    assert!(again == data, "the second pass differs from the first");
    assert_eq!(summary.tar_size, u64::try_from(data.len()).unwrap());
    Ok((data, summary))
}

/// The only layer of a layout, read.
pub(crate) fn read_only(layout: &Layout) -> Result<(Vec<u8>, LayerSummary), Error> {
    let dir = layout.write();
    read(&open_dir(dir.path(), None, None)?.layers[0])
}

/// The message of an error, which is one line that mentions everything in `mentions`.
#[track_caller]
pub(crate) fn assert_says<T>(result: Result<T, Error>, mentions: &[&str]) -> Error {
    let Err(error) = result else { panic!("no error, expected one that mentions {mentions:?}") };
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message:?}");
    for text in mentions {
        assert!(message.contains(text), "{message:?} does not mention {text:?}");
    }
    error
}

/// `$result` is an error of the kind `$kind` whose message mentions the rest.
macro_rules! assert_error {
    ($result:expr, $kind:pat, $($mention:expr),* $(,)?) => {{
        let error = $crate::support::assert_says($result, &[$(AsRef::<str>::as_ref(&$mention)),*]);
        assert!(matches!(error, $kind), "{error:?}");
    }};
}
pub(crate) use assert_error;
