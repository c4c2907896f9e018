//! `mkimg report --json`

use mkimg_format::hex;
use mkimg_report::security::{Subject, Subjects};
use mkimg_report::stored::Stored;
use mkimg_report::{File, Report, deleted, duplicates, layers};
use serde::Serialize;

use super::layer_counts::LayerCounts;
use crate::output::{text_and_base64, text_or_base64};

/// A path, under the name that says how it is written.
#[derive(Serialize)]
struct PathOf {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl PathOf {
    fn new(path: &[u8]) -> Self {
        let (path, path_b64) = text_and_base64(path);
        Self { path, path_b64 }
    }
}

/// The whole report.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    name: Option<&'a str>,
    root_hash: String,
    image_size: u64,
    detached: bool,
    names: u64,
    files: u64,
    bytes: u64,
    #[serde(flatten)]
    stored: StoredLine,
    directories: u64,
    symlinks: u64,
    special: u64,
    hard_links: u64,
    layers: Vec<LayerLine<'a>>,
    kinds: Vec<KindLine>,
    largest_directories: Vec<DirectoryLine>,
    largest_files: Vec<FileLine>,
    duplicates: Duplicates,
    deleted: Deleted,
    security: [SubjectList; 4],
}

#[derive(Serialize)]
struct LayerLine<'a> {
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(flatten)]
    counts: LayerCounts,
}

#[derive(Serialize)]
struct KindLine {
    kind: &'static str,
    bytes: u64,
    files: u64,
    #[serde(flatten)]
    stored: StoredLine,
}

#[derive(Serialize)]
struct StoredLine {
    distinct_bytes: u64,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct DirectoryLine {
    #[serde(flatten)]
    path: PathOf,
    bytes: u64,
    files: u64,
}

#[derive(Serialize)]
struct FileLine {
    #[serde(flatten)]
    path: PathOf,
    bytes: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<u64>,
}

#[derive(Serialize)]
struct Duplicates {
    contents: u64,
    copies: u64,
    saved_bytes: u64,
    uncounted: u64,
    list: Vec<DuplicateLine>,
}

#[derive(Serialize)]
struct DuplicateLine {
    bytes: u64,
    copies: u64,
    saved_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths_b64: Vec<String>,
}

#[derive(Serialize)]
struct Deleted {
    files: u64,
    bytes: u64,
    secrets: u64,
    list: Vec<DeletedLine>,
}

#[derive(Serialize)]
struct DeletedLine {
    #[serde(flatten)]
    path: PathOf,
    size: u64,
    layer: u64,
    deleted_by: u64,
    secret: bool,
}

#[derive(Serialize)]
struct SubjectList {
    what: &'static str,
    count: u64,
    list: Vec<SubjectLine>,
}

#[derive(Serialize)]
struct SubjectLine {
    #[serde(flatten)]
    path: PathOf,
    r#type: &'static str,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<[u32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<String>,
}

impl<'a> Document<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let totals = &report.totals;
        let directories = report.tree.heaviest_directories(report.top).into_iter();
        Self {
            name: report.name.as_deref(),
            root_hash: hex(&report.root_hash),
            image_size: report.image_size,
            detached: report.is_detached,
            names: totals.names,
            files: totals.files.files,
            bytes: totals.files.bytes,
            stored: StoredLine::new(totals.stored),
            directories: totals.directories,
            symlinks: totals.symlinks,
            special: totals.special,
            hard_links: totals.hard_links,
            layers: report.layers.iter().map(LayerLine::new).collect(),
            kinds: report
                .kinds
                .iter()
                .map(|sum| KindLine {
                    kind: sum.kind.word(),
                    bytes: sum.bytes,
                    files: sum.files,
                    stored: StoredLine::new(sum.stored),
                })
                .collect(),
            largest_directories: directories
                .filter_map(|index| {
                    let node = report.tree.node(index)?;
                    let path = PathOf::new(&report.tree.path(index));
                    Some(DirectoryLine { path, bytes: node.bytes, files: node.files })
                })
                .collect(),
            largest_files: report.files.iter().map(FileLine::new).collect(),
            duplicates: Duplicates {
                contents: report.duplicates.contents,
                copies: report.duplicates.copies,
                saved_bytes: report.duplicates.saved,
                uncounted: report.duplicates.uncounted,
                list: report.duplicates.list.iter().map(DuplicateLine::new).collect(),
            },
            deleted: Deleted {
                files: report.deleted.files,
                bytes: report.deleted.bytes,
                secrets: report.deleted.secrets,
                list: report.deleted.list.iter().map(DeletedLine::new).collect(),
            },
            security: [
                SubjectList::new("set-id", &report.security.set_id),
                SubjectList::new("capabilities", &report.security.capabilities),
                SubjectList::new("device", &report.security.devices),
                SubjectList::new("world-writable", &report.security.world_writable),
            ],
        }
    }
}

impl<'a> LayerLine<'a> {
    fn new(layer: &'a layers::Layer) -> Self {
        Self {
            digest: &layer.digest,
            size: layer.blob,
            command: layer.command.as_deref(),
            counts: layer.counts.into(),
        }
    }
}

impl StoredLine {
    fn new(stored: Stored) -> Self {
        Self { distinct_bytes: stored.distinct, stored_bytes: stored.bytes, ratio: stored.ratio() }
    }
}

impl FileLine {
    fn new(file: &File) -> Self {
        Self { path: PathOf::new(&file.path), bytes: file.bytes, kind: file.kind.word(), layer: file.layer }
    }
}

impl DuplicateLine {
    fn new(duplicate: &duplicates::Duplicate) -> Self {
        let (mut paths, mut paths_b64) = (Vec::new(), Vec::new());
        for path in &duplicate.paths {
            match text_or_base64(path) {
                Ok(path) => paths.push(path),
                Err(path) => paths_b64.push(path),
            }
        }
        let (bytes, copies, saved_bytes) = (duplicate.bytes, duplicate.copies, duplicate.saved);
        Self { bytes, copies, saved_bytes, paths, paths_b64 }
    }
}

impl DeletedLine {
    fn new(file: &deleted::DeletedFile) -> Self {
        Self {
            path: PathOf::new(file.path()),
            size: file.bytes,
            layer: file.layer,
            deleted_by: file.deleted_by,
            secret: file.secret,
        }
    }
}

impl SubjectList {
    fn new(what: &'static str, subjects: &Subjects) -> Self {
        Self { what, count: subjects.count, list: subjects.list.iter().map(SubjectLine::new).collect() }
    }
}

impl SubjectLine {
    fn new(subject: &Subject) -> Self {
        Self {
            path: PathOf::new(&subject.path),
            r#type: subject.file_type.word(),
            mode: subject.mode,
            uid: subject.uid,
            gid: subject.gid,
            rdev: subject.rdev.map(|(major, minor)| [major, minor]),
            capabilities: subject.capabilities.clone(),
        }
    }
}
