//! Surveys of images that this project builds, whole and damaged.
#![allow(missing_docs, clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mkimg_format::BLOCK_SIZE;
use mkimg_format::detached::Sealed;
use mkimg_format::header::Header;
use mkimg_mkfs::{Compression, Dedup, Memory, Silent, build};
use mkimg_oci::SourceSpec;
use mkimg_report::kinds::Kind;
use mkimg_report::stored::Stored;
use mkimg_report::{Options, Report, html, survey};

/// `/a/big` and `/b/copy` with one content, `/a/link` a hard link, `/a/deep/er/note`, `/tool` with the set-id bit.
fn image() -> Vec<u8> {
    image_with(Compression::None, Compression::None.min_kernel())
}

fn image_with(compression: Compression, min_kernel: (u32, u32)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let file = |path: &str, content: &[u8], mode: u32| {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    file("a/big", &[0x7f; 9000], 0o644);
    file("b/copy", &[0x7f; 9000], 0o644);
    file("a/deep/er/note", b"text\n", 0o666);
    file("tool", b"#!/bin/sh\n", 0o4755);
    file("empty", b"", 0o644);
    std::fs::hard_link(source.join("a/big"), source.join("a/link")).unwrap();
    std::os::unix::fs::symlink("tool", source.join("other")).unwrap();
    image_of(&source, compression, min_kernel)
}

fn image_of(source: &Path, compression: Compression, min_kernel: (u32, u32)) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let options = mkimg_mkfs::Options {
        platform: None,
        name: Some("sample".to_owned()),
        epoch: 0,
        compression,
        dedup: Dedup::Files,
        min_kernel,
        optimize_for: None,
        fec_roots: 0,
        threads: NonZeroUsize::MIN,
        memory: Memory::MIN,
        scratch: true,
    };
    build(&SourceSpec::Dir { path: source.to_owned() }, &path, &options, &Silent).unwrap();
    std::fs::read(path).unwrap()
}

fn report(image: &[u8], top: usize) -> mkimg_format::Result<Report> {
    survey(&Sealed::open(image)?, Options { top })
}

#[test]
fn everything_is_counted_once() {
    let found = report(&image(), 10).unwrap();
    let totals = found.totals;
    assert_eq!((totals.files.files, totals.files.bytes), (5, 18_015));
    assert_eq!((totals.names, totals.directories, totals.symlinks, totals.hard_links), (12, 5, 1, 1));
    assert!(found.layers.is_empty() && found.deleted.list.is_empty());
    let kinds: Vec<_> = found.kinds.iter().map(|sum| (sum.kind, sum.bytes, sum.files, sum.stored)).collect();
    let stored = |distinct, blocks| Stored { distinct, bytes: blocks * BLOCK_SIZE };
    assert_eq!(
        kinds,
        [
            (Kind::Other, 18_000, 3, stored(9000, 3)),
            (Kind::Script, 10, 1, stored(10, 1)),
            (Kind::Text, 5, 1, stored(5, 1))
        ]
    );
    assert_eq!(totals.stored, stored(9015, 5));
    let files: Vec<_> = found.files.iter().map(|file| (&*file.path, file.bytes, file.layer)).collect();
    assert_eq!(
        files,
        [
            (&b"/a/big"[..], 9000, None),
            (b"/b/copy", 9000, None),
            (b"/tool", 10, None),
            (b"/a/deep/er/note", 5, None),
            (b"/empty", 0, None),
        ]
    );
    let duplicates = &found.duplicates;
    assert_eq!((duplicates.contents, duplicates.copies, duplicates.saved), (1, 1, 9000));
    let mut paths = duplicates.list[0].paths.clone();
    paths.sort();
    assert_eq!(paths, [b"/a/big".to_vec(), b"/b/copy".to_vec()]);
    assert_eq!((found.security.set_id.count, &*found.security.set_id.list[0].path), (1, &b"/tool"[..]));
    assert_eq!(found.security.world_writable.list[0].path, b"/a/deep/er/note");
    assert_eq!((found.security.capabilities.count, found.security.devices.count), (0, 0));
}

#[test]
fn lists_are_as_long_as_asked() {
    let found = report(&image(), 1).unwrap();
    assert_eq!((found.files.len(), found.duplicates.list.len()), (1, 1));
    assert_eq!(found.tree.heaviest_directories(found.top).len(), 1);
    assert_eq!(found.totals.files.files, 5);
}

/// Whatever byte of metadata, seal or trailer is wrong: an error or a report, and a page of each report.
#[test]
fn damaged_images_are_survived() {
    for (compression, min_kernel) in
        [(Compression::None, (5, 15)), (Compression::Lz4, (5, 15)), (Compression::Lz4, (6, 15))]
    {
        survive(&image_with(compression, min_kernel));
    }
}

fn survive(good: &[u8]) {
    let header = Header::read(good).unwrap();
    let start = usize::try_from(header.meta_block * BLOCK_SIZE).unwrap();
    let (mut reports, mut errors) = (0, 0);
    for at in (0..BLOCK_SIZE.try_into().unwrap()).step_by(7).chain(start..good.len()) {
        // Nobody has use for thousands of zeros in a row.
        if good[at] == 0 && at % 16 > 1 {
            continue;
        }
        let mut bytes = good.to_vec();
        bytes[at] ^= if at % 2 == 0 { 0xff } else { 0x10 };
        match report(&bytes, 3) {
            Ok(found) => {
                reports += 1;
                html::write(&found, &mut Vec::new()).unwrap();
            }
            Err(_) => errors += 1,
        }
    }
    assert!(reports > 100 && errors > 100, "{reports} reports, {errors} errors");
}
