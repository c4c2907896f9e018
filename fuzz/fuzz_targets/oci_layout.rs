//! Any bytes as an archive of an image, and any JSON documents as a layout.
#![no_main]

use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use mkimg_fuzz::scratch::{Folder, MemFile};
use mkimg_fuzz::{assert_one_line, flags, layout, tar};
use mkimg_oci::{Digest, Error, Image, Layer, LayerSummary, Limits, Platform, SourceSpec, open_with};

/// The flags: what the input is in the lowest bits, and how to ask for it.
const MEND: u8 = 0x80;
const TAG: u8 = 0x40;
const PLATFORM: u8 = 0x20;
/// A layout in a folder must be what it is in an archive.
const FOLDER: u8 = 0x10;

const LIMITS: Limits = Limits {
    json_bytes: 64 << 10,
    layer_bytes: 1 << 20,
    index_depth: 4,
    documents: 20,
    documents_bytes: 256 << 10,
    archive_members: 300,
    archive_name_bytes: 16 << 10,
    archive_links: 4,
    // The smallest window there is: what is larger costs time, not paths through the code.
    zstd_window_log: 20,
};

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let tag = (flags & TAG != 0).then(|| "latest".to_owned());
    let platform = Platform { os: "linux".to_owned(), arch: "amd64".to_owned(), variant: None };
    let platform = (flags & PLATFORM != 0).then_some(&platform);
    let parts = layout::split(input, 12);
    let files = match flags & 7 {
        0..=2 => {
            let mut bytes = input.to_vec();
            if flags & MEND != 0 {
                tar::mend(&mut bytes);
            }
            let file = MemFile::new(&bytes);
            detect(&file, flags);
            let path = file.path().to_owned();
            let spec = match flags & 7 {
                0 => SourceSpec::OciArchive { path, tag },
                1 => SourceSpec::DockerArchive { path, tag },
                _ => SourceSpec::Tar { path },
            };
            return drop(examine(open_with(&spec, platform, &LIMITS)));
        }
        _ => layout::of_documents(&parts, parts.get(3).and_then(|layer| unpacked(layer))),
    };
    let archive = MemFile::new(&layout::archive(&files));
    let path = archive.path().to_owned();
    if flags & 7 == 3 {
        return drop(examine(open_with(&SourceSpec::DockerArchive { path, tag }, platform, &LIMITS)));
    }
    let found = examine(open_with(&SourceSpec::OciArchive { path, tag: tag.clone() }, platform, &LIMITS));
    if flags & FOLDER != 0 {
        let folder = Folder::new();
        files.iter().for_each(|(name, content)| folder.write(name, content));
        let spec = SourceSpec::OciDir { path: folder.path().to_owned(), tag };
        let other = examine(open_with(&spec, platform, &LIMITS));
        assert_eq!(found.is_ok(), other.is_ok(), "archive: {found:?}, folder: {other:?}");
        if let (Ok(found), Ok(other)) = (found, other) {
            assert!(found == other, "archive: {found:?}, folder: {other:?}");
        }
    }
});

/// What a bare path would be taken for; a refusal is fine.
fn detect(file: &MemFile, flags: u8) {
    if flags & FOLDER != 0
        && let Err(error) = SourceSpec::parse(file.path().as_os_str())
    {
        assert_one_line(&error);
    }
}

/// Digest of a layer's tar, so that documents can name the right one.
fn unpacked(blob: &[u8]) -> Option<Digest> {
    let file = MemFile::new(blob);
    let image = open_with(&SourceSpec::Tar { path: file.path().to_owned() }, None, &LIMITS).ok()?;
    Some(image.layers.first()?.open().ok()?.finish().ok()?.diff_id)
}

/// What an image is, apart from where it was found.
type Found = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Result<LayerSummary, String>>);

fn examine(opened: Result<Image, Error>) -> Result<Found, String> {
    let image = opened.map_err(|error| {
        assert_one_line(&error);
        error.to_string()
    })?;
    for document in [&image.manifest, &image.config].into_iter().flatten() {
        assert!(document.digest.matches(&document.bytes), "a document of another digest");
        assert!(document.bytes.len() as u64 <= LIMITS.json_bytes);
    }
    let mut layers = Vec::new();
    for (number, layer) in (1..).zip(&image.layers).take(12) {
        assert_eq!(layer.number, number);
        layers.push(read(layer).map_err(|error| {
            assert_one_line(&error);
            error.to_string()
        }));
    }
    let bytes = |document: Option<mkimg_oci::Document>| document.map(|document| document.bytes);
    Ok((bytes(image.manifest), bytes(image.config), layers))
}

/// Both passes, and what the first one promises.
fn read(layer: &Layer) -> Result<LayerSummary, Error> {
    let mut reader = layer.open()?;
    let mut data = Vec::new();
    let reading = reader.read_to_end(&mut data);
    assert!(data.len() as u64 <= LIMITS.layer_bytes, "a layer beyond its limit");
    assert!(reader.produced() >= data.len() as u64);
    let summary = match reader.finish() {
        Ok(summary) => summary,
        Err(error) => {
            // Whoever does not read meets the same error.
            let blind =
                layer.open()?.finish().expect_err("a digest that holds only for those who do not look");
            assert_eq!(blind.to_string(), error.to_string());
            return Err(error);
        }
    };
    reading.expect("a layer that is sound");
    assert_eq!(summary, layer.open()?.finish().expect("a layer that is sound"));
    assert_eq!(summary.tar_size, data.len() as u64);
    assert_eq!(summary.blob_size, layer.size.unwrap_or(summary.blob_size));
    assert_eq!(summary.blob_digest, layer.digest.unwrap_or(summary.blob_digest));
    assert!(summary.diff_id.matches(&data) && summary.diff_id == layer.diff_id.unwrap_or(summary.diff_id));
    let mut again = Vec::new();
    layer.reopen()?.read_to_end(&mut again).expect("a layer that is sound");
    assert!(again == data, "the second pass differs from the first");
    for skip in [1, data.len() as u64 / 2, u64::MAX] {
        let mut reader = layer.reopen()?;
        let skipped = reader.skip(skip).expect("a layer that is sound");
        assert_eq!(skipped, skip.min(data.len() as u64));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("a layer that is sound");
        assert!(data.ends_with(&rest) && rest.len() as u64 + skipped == data.len() as u64, "skipping {skip}");
    }
    Ok(summary)
}
