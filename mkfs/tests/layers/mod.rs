//! Layers as tests write them down, images of them, and what an image holds.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod generate;
pub mod listing;
pub mod model;
pub mod scene;

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use mkimg_mkfs::{Built, Compression, Dedup, Error, Memory, Options, Silent};
use mkimg_oci::SourceSpec;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::tar_writer::{self, Head, extended, number, padded, record};

/// A directory for one test, in memory where there is such a place: images are synced to the disk.
pub fn scratch() -> TempDir {
    TempDir::with_prefix_in("mkimg-", "/dev/shm").or_else(|_| TempDir::with_prefix("mkimg-")).unwrap()
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    /// Size, and the stored parts with their offsets.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
    Dir,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// One entry of a layer.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A layer.
pub type Layer = Vec<Item>;

fn item(name: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Item {
    let name = name.as_ref().to_vec();
    Item { name, kind, mode, uid: 0, gid: 0, mtime: (1_000_000_000, 0), xattrs: Vec::new() }
}

pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    item(name, Kind::File(content.as_ref().to_vec()), 0o644)
}
pub fn dir(name: impl AsRef<[u8]>) -> Item {
    item(name, Kind::Dir, 0o755)
}
pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    item(name, Kind::Symlink(target.as_ref().to_vec()), 0o777)
}
pub fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    item(name, Kind::Hardlink(target.as_ref().to_vec()), 0o600)
}
pub fn char_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Item {
    item(name, Kind::Char(major, minor), 0o666)
}
pub fn block_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Item {
    item(name, Kind::Block(major, minor), 0o660)
}
pub fn fifo(name: impl AsRef<[u8]>) -> Item {
    item(name, Kind::Fifo, 0o640)
}
/// `.wh.NAME` beside NAME.
pub fn whiteout(name: &str) -> Item {
    match name.rsplit_once('/') {
        Some((parent, name)) => file(format!("{parent}/.wh.{name}"), ""),
        None => file(format!(".wh.{name}"), ""),
    }
}
/// The opaque marker of a directory.
pub fn opaque(name: &str) -> Item {
    file(format!("{name}/.wh..wh..opq"), "")
}

impl Item {
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
    pub fn time(mut self, sec: i64, nsec: u32) -> Self {
        self.mtime = (sec, nsec);
        self
    }
    pub fn xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The name for messages.
    pub fn shown(&self) -> String {
        mkimg_format::erofs::escape(&self.name)
    }

    /// Headers and data of the entry.
    pub fn to_tar(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let (flag, mut stored) = match &self.kind {
            Kind::File(content) => (b'0', content.clone()),
            Kind::Sparse(size, parts) => {
                let mut map = format!("{}\n", parts.len());
                for (offset, part) in parts {
                    map += &format!("{offset}\n{}\n", part.len());
                }
                for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size.to_string())] {
                    records.extend(record(format!("GNU.sparse.{key}"), value));
                }
                records.extend(record("GNU.sparse.name", &self.name));
                let data = parts.iter().flat_map(|(_, part)| part.iter().copied()).collect();
                (b'0', [padded(map.into_bytes()), data].concat())
            }
            Kind::Hardlink(_) => (b'1', Vec::new()),
            Kind::Symlink(_) => (b'2', Vec::new()),
            Kind::Char(..) => (b'3', Vec::new()),
            Kind::Block(..) => (b'4', Vec::new()),
            Kind::Dir => (b'5', Vec::new()),
            Kind::Fifo => (b'6', Vec::new()),
        };
        let sparse = matches!(self.kind, Kind::Sparse(..));
        let short = |text: &[u8]| text.get(..100).unwrap_or(text).to_vec();
        let name = if sparse { b"GNUSparseFile.0/x".to_vec() } else { short(&self.name) };
        if self.name.len() > 100 && !sparse {
            records.extend(record("path", &self.name));
        }
        let mut head = Head::new(flag, name)
            .mode(self.mode.into())
            .owner(self.uid.into(), self.gid.into())
            .mtime(self.mtime.0.into());
        if self.mtime.1 != 0 {
            records.extend(record("mtime", decimal(self.mtime)));
        }
        match &self.kind {
            Kind::Symlink(target) | Kind::Hardlink(target) => {
                head = head.link(short(target));
                if target.len() > 100 {
                    records.extend(record("linkpath", target));
                }
            }
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                head = head.device((*major).into(), (*minor).into());
            }
            _ => {}
        }
        for (name, value) in &self.xattrs {
            records.extend(record([b"SCHILY.xattr.", &name[..]].concat(), value));
        }
        let mut out = if records.is_empty() { Vec::new() } else { extended(b'x', records) };
        let size = number(stored.len().try_into().unwrap(), 12);
        out.extend(head.put(124, size).block());
        out.append(&mut stored);
        padded(out)
    }
}

/// A time as PAX writes it.
fn decimal((sec, nsec): (i64, u32)) -> String {
    if sec < 0 && nsec > 0 {
        return format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec);
    }
    format!("{sec}.{nsec:09}")
}

impl std::fmt::Debug for Item {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |bytes: &[u8]| mkimg_format::erofs::escape(&bytes[..bytes.len().min(60)]);
        write!(out, "{} ", show(&self.name))?;
        match &self.kind {
            Kind::File(content) => write!(out, "file({} \"{}\")", content.len(), show(content))?,
            Kind::Sparse(size, parts) => {
                let parts: Vec<_> = parts.iter().map(|(at, part)| (at, part.len())).collect();
                write!(out, "sparse({size} {parts:?})")?;
            }
            Kind::Dir => write!(out, "dir")?,
            Kind::Symlink(target) => write!(out, "-> \"{}\"", show(target))?,
            Kind::Hardlink(target) => write!(out, "== \"{}\"", show(target))?,
            Kind::Char(major, minor) => write!(out, "char {major}:{minor}")?,
            Kind::Block(major, minor) => write!(out, "block {major}:{minor}")?,
            Kind::Fifo => write!(out, "fifo")?,
        }
        let (sec, nsec) = self.mtime;
        write!(out, " {:o} {}:{} {sec}.{nsec:09}", self.mode, self.uid, self.gid)?;
        self.xattrs.iter().try_for_each(|(name, value)| write!(out, " {}={}", show(name), show(value)))
    }
}

/// A layer as a tar.
pub fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut tar: Vec<u8> = items.iter().flat_map(Item::to_tar).collect();
    tar.extend(tar_writer::END);
    tar
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    mkimg_format::hex(&Sha256::digest(bytes))
}

/// A layer as it is stored.
pub struct Blob {
    pub bytes: Vec<u8>,
    /// SHA-256 of the tar, in hex.
    pub diff_id: String,
    pub media_type: &'static str,
}

impl Blob {
    pub fn plain(tar: Vec<u8>) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self { diff_id: sha256(&tar), bytes: tar, media_type }
    }

    pub fn gzip(tar: &[u8]) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Self { diff_id: sha256(tar), bytes: gzip(tar), media_type }
    }
}

/// Files of an OCI layout, names relative to it; blobs of layers come first, in their order.
pub fn layout_files(blobs: &[Blob]) -> Vec<(String, Vec<u8>)> {
    layout_files_with(blobs, |_, _| {})
}

/// As [`layout_files`]; `edit` may change `config`, `manifest` and `index` before they are stored.
pub fn layout_files_with(blobs: &[Blob], edit: impl Fn(&str, &mut Value)) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut put = |bytes: Vec<u8>| {
        let digest = sha256(&bytes);
        let size = bytes.len();
        files.push((format!("blobs/sha256/{digest}"), bytes));
        (format!("sha256:{digest}"), size)
    };
    let mut layers = Vec::new();
    for blob in blobs {
        let (digest, size) = put(blob.bytes.clone());
        layers.push(json!({"mediaType": blob.media_type, "digest": digest, "size": size}));
    }
    let diff_ids: Vec<_> = blobs.iter().map(|blob| format!("sha256:{}", blob.diff_id)).collect();
    let mut config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    edit("config", &mut config);
    let (digest, size) = put(config.to_string().into_bytes());
    let media_type = "application/vnd.oci.image.config.v1+json";
    let config = json!({"mediaType": media_type, "digest": digest, "size": size});
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut manifest =
        json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    edit("manifest", &mut manifest);
    let (digest, size) = put(manifest.to_string().into_bytes());
    let manifest = json!({"mediaType": media_type, "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "latest"}});
    let mut index = json!({"schemaVersion": 2, "manifests": [manifest]});
    edit("index", &mut index);
    files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files
}

/// Writes an OCI layout; returns the paths of the layers' blobs.
pub fn write_layout(dir: &Path, blobs: &[Blob]) -> Vec<PathBuf> {
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let files = layout_files(blobs);
    for (name, bytes) in &files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    files.iter().take(blobs.len()).map(|(name, _)| dir.join(name)).collect()
}

/// Plain layers as an OCI layout.
pub fn write_layers(dir: &Path, layers: &[Layer]) -> Vec<PathBuf> {
    let blobs: Vec<Blob> = layers.iter().map(|layer| Blob::plain(tar_of(layer))).collect();
    write_layout(dir, &blobs)
}

pub fn oci_dir(path: &Path) -> SourceSpec {
    SourceSpec::OciDir { path: path.to_owned(), tag: None }
}

pub fn options(threads: usize) -> Options {
    let threads = NonZeroUsize::new(threads).unwrap();
    let compression = Compression::None;
    Options {
        platform: None,
        name: None,
        epoch: 0,
        compression,
        dedup: Dedup::Files,
        min_kernel: compression.min_kernel(),
        optimize_for: None,
        fec_roots: 0,
        threads,
        memory: Memory::suits(compression),
        scratch: true,
    }
}

pub fn build(source: &SourceSpec, target: &Path) -> Result<Built, Error> {
    mkimg_mkfs::build(source, target, &options(2), &Silent)
}

/// Builds an image of `layers` in `dir`, and demands that the directory of the image holds it alone, or nothing.
pub fn build_layers(dir: &Path, layers: &[Layer]) -> Result<(Built, PathBuf), String> {
    build_blobs(dir, &layers.iter().map(|layer| Blob::plain(tar_of(layer))).collect::<Vec<_>>())
}

/// As [`build_layers`], from blobs.
pub fn build_blobs(dir: &Path, blobs: &[Blob]) -> Result<(Built, PathBuf), String> {
    let layout = dir.join("layout");
    write_layout(&layout, blobs);
    build_into(&oci_dir(&layout), &dir.join("out"))
}

/// Builds `OUT/image`, and demands that OUT then holds the image alone, or nothing.
pub fn build_into(source: &SourceSpec, out: &Path) -> Result<(Built, PathBuf), String> {
    std::fs::create_dir_all(out).unwrap();
    let target = out.join("image");
    match build(source, &target) {
        Ok(built) => {
            assert_eq!(names_in(out), ["image"]);
            assert_eq!(built.image_size, std::fs::metadata(&target).unwrap().len());
            Ok((built, target))
        }
        Err(error) => {
            assert_eq!(names_in(out), [""; 0]);
            Err(one_line(&error))
        }
    }
}

/// The message of an error, which must be one line and hold all its causes.
pub fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.is_empty(), "{text:?}");
    let mut chain = text;
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text:?}");
        if !chain.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        cause = error.source();
    }
    chain
}

pub fn names_in(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}
