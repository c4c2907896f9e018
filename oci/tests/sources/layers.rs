//! Layer streams: codecs, checks and their order.

use std::io::{BufRead, Read};

use mkimg_oci::{Compression, Digest, Error, Layer, Limits, SourceSpec};

use crate::support::*;

const DOCKER_PLAIN: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

#[test]
fn every_packing_yields_the_tar() {
    let big = tar(&[("noise", &noise(900_000)), ("zeros", &vec![0; 2_000_000])]);
    let members: Vec<u8> = big.chunks(70_001).flat_map(gzip).collect();
    let skippable = b"\x53\x2a\x4d\x18\x05\0\0\0hello";
    let frames =
        [&skippable[..], &zstd(&big[..1_000_000]), skippable, &zstd(&big[1_000_000..]), skippable].concat();
    let named = [&b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03\x03\0abcname\0comment\0"[..], &[0; 2]].concat();
    let mut header = flate2::Crc::new();
    header.update(&named[..named.len() - 2]);
    let with_header =
        [&named[..named.len() - 2], &header.sum().to_le_bytes()[..2], &gzip(&big)[10..]].concat();
    for (name, blob, media, compression) in [
        ("plain", big.clone(), PLAIN, Compression::None),
        ("gzip", gzip(&big), GZIP, Compression::Gzip),
        ("members", members, GZIP, Compression::Gzip),
        ("empty members", [gzip(b""), gzip(&big), gzip(b""), gzip(b"")].concat(), GZIP, Compression::Gzip),
        ("zero padding", [gzip(&big), vec![0; 300_000]].concat(), GZIP, Compression::Gzip),
        ("extra, name, comment and checksum", with_header, GZIP, Compression::Gzip),
        ("zstd", zstd(&big), ZSTD, Compression::Zstd),
        ("frames", frames, ZSTD, Compression::Zstd),
        (
            "window of 128 MiB",
            [&b"\x28\xb5\x2f\xfd\x00\x88\x01\0\0"[..], &zstd(&big)].concat(),
            ZSTD,
            Compression::Zstd,
        ),
        ("docker gzip", gzip(&big), DOCKER_GZIP, Compression::Gzip),
        ("docker plain", big.clone(), DOCKER_PLAIN, Compression::None),
        ("docker plain that is gzip", gzip(&big), DOCKER_PLAIN, Compression::Gzip),
        ("docker plain that is zstd", zstd(&big), DOCKER_PLAIN, Compression::Zstd),
        (
            "foreign",
            gzip(&big),
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Compression::Gzip,
        ),
        (
            "non-distributable",
            zstd(&big),
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            Compression::Zstd,
        ),
    ] {
        let layout = image_of(&[(blob.clone(), media, big.clone())]);
        let dir = layout.write();
        let image = open_dir(dir.path(), None, None).unwrap();
        assert_eq!(image.layers[0].compression, compression, "{name}");
        let (data, summary) = read(&image.layers[0]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(data == big, "{name}");
        assert_eq!(summary.blob_digest, Digest::of(&blob), "{name}");
        assert_eq!(summary.diff_id, Digest::of(&big), "{name}");
        assert_eq!(summary.blob_size, u64::try_from(blob.len()).unwrap(), "{name}");
    }
}

#[test]
fn finish_reads_what_the_caller_left() {
    let big = tar(&[("noise", &noise(900_000))]);
    for (blob, media) in [(big.clone(), PLAIN), (gzip(&big), GZIP), (zstd(&big), ZSTD)] {
        let layout = image_of(&[(blob.clone(), media, big.clone())]);
        let dir = layout.write();
        let layer = &open_dir(dir.path(), None, None).unwrap().layers[0];
        for taken in [0, 1, 512, 600_000] {
            let mut reader = layer.open().unwrap();
            let mut start = vec![0; taken];
            reader.read_exact(&mut start).unwrap();
            assert!(start == big[..taken]);
            assert_eq!(reader.finish().unwrap().tar_size, u64::try_from(big.len()).unwrap());
        }
        // The second pass skips.
        let mut data = layer.reopen().unwrap();
        let mut two = [0; 2];
        data.read_exact(&mut two).unwrap();
        assert_eq!(data.skip(700_000).unwrap(), 700_000);
        data.read_exact(&mut two).unwrap();
        assert_eq!(two, big[700_002..700_004]);
        let left = u64::try_from(big.len() - 700_004).unwrap();
        assert_eq!(data.skip(u64::MAX).unwrap(), left);
        assert!(data.fill_buf().unwrap().is_empty());
    }
}

#[test]
fn layers_are_shared_between_threads() {
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let tars: Vec<Vec<u8>> = (1..5).map(|i| tar(&[("noise", &noise(i * 100_000))])).collect();
    let layers: Vec<_> = tars.iter().map(|tar| (gzip(tar), GZIP, tar.clone())).collect();
    let dir = tempfile::tempdir().unwrap();
    let files = image_of(&layers).all_files();
    let members: Vec<(&str, &[u8])> =
        files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    let path = file(&dir, "image.tar", &tar(&members));
    let image = mkimg_oci::open(&SourceSpec::OciArchive { path, tag: None }, None).unwrap();
    is_shared(&image);
    std::thread::scope(|scope| {
        for (layer, tar) in image.layers.iter().zip(&tars).chain(image.layers.iter().zip(&tars)) {
            scope.spawn(move || assert!(read(layer).unwrap().0 == *tar));
        }
    });
}

#[test]
fn empty_blobs() {
    assert_eq!(read_only(&image_of(&[(Vec::new(), PLAIN, Vec::new())])).unwrap().0, b"");
    for media in [GZIP, ZSTD] {
        let result = read_only(&image_of(&[(Vec::new(), media, Vec::new())]));
        assert_error!(result, Error::Decode { .. }, "layer 1", digest(b""));
    }
}

#[test]
fn damage_is_blamed_on_the_blob_before_the_decoder() {
    let data = tar(&[("noise", &noise(900_000))]);
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        for at in [0, 1, 5, blob.len() / 2, blob.len() - 1] {
            let mut layout = image_of(&[
                (b"\0".repeat(1024), PLAIN, b"\0".repeat(1024)),
                (blob.clone(), media, data.clone()),
            ]);
            layout.files.get_mut(&blob_path(&digest(&blob))).unwrap()[at] ^= 1;
            let dir = layout.write();
            let image = open_dir(dir.path(), None, None).unwrap();
            let found = Digest::of(&layout.files[&blob_path(&digest(&blob))]);
            let result = read(&image.layers[1]);
            assert_error!(result, Error::Digest { .. }, "layer 2", digest(&blob), found.to_string());
            // As a caller does that gives up in the middle.
            let result = image.layers[1].open().unwrap().finish();
            assert_error!(result, Error::Digest { .. }, "layer 2", digest(&blob));
        }
    }
}

#[test]
fn size_is_checked_first() {
    let data = tar(&[("a", b"a")]);
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let layout = image_of(&[(blob.clone(), media, data.clone())]);
        let longer = [&blob[..], b"x"].concat();
        for wrong in [&blob[..blob.len() - 1], &blob[..1], b"", &longer] {
            // When the image is opened, when the layer is opened, and when the file shrinks under the reader.
            let dir = layout.write();
            let path = dir.path().join(blob_path(&digest(&blob)));
            let image = open_dir(dir.path(), None, None).unwrap();
            let reader = image.layers[0].open().unwrap();
            std::fs::write(&path, wrong).unwrap();
            let sizes = (format!("size is {} bytes", wrong.len()), format!("declared are {}", blob.len()));
            let result = open_dir(dir.path(), None, None);
            assert_error!(result, Error::Size { .. }, "layer 1", digest(&blob), sizes.0, sizes.1);
            assert_error!(
                image.layers[0].open().map(drop),
                Error::Size { .. },
                "layer 1",
                digest(&blob),
                sizes.0
            );
            if wrong.len() < blob.len() {
                assert_error!(
                    reader.finish(),
                    Error::Size { .. },
                    "layer 1",
                    digest(&blob),
                    sizes.0,
                    sizes.1
                );
            } else {
                // The end is where the descriptor says, whatever the file does meanwhile.
                reader.finish().unwrap();
            }
        }
    }
}

#[test]
fn decoder_errors_when_the_digest_is_right() {
    let data = tar(&[("noise", &noise(300_000))]);
    let (gz, zst) = (gzip(&data), zstd(&data));
    let mut wrong_crc = gz.clone();
    let at = wrong_crc.len() - 8;
    wrong_crc[at] ^= 1;
    let mut wrong_len = gz.clone();
    let at = wrong_len.len() - 1;
    wrong_len[at] ^= 1;
    let mut reserved = gz.clone();
    reserved[3] |= 0x80;
    let window = [&b"\x28\xb5\x2f\xfd\x00\x90"[..], &[1, 0, 0]].concat();
    for (name, blob, media, reason) in [
        ("cut body", gz[..gz.len() / 2].to_vec(), GZIP, "ends early"),
        ("cut trailer", gz[..gz.len() - 3].to_vec(), GZIP, "ends early"),
        ("cut header", gz[..7].to_vec(), GZIP, "ends early"),
        ("cut second header", [&gz[..], &gz[..5]].concat(), GZIP, "ends early"),
        ("crc", wrong_crc, GZIP, "checksum or length"),
        ("length", wrong_len, GZIP, "checksum or length"),
        ("reserved flags", reserved, GZIP, "reserved gzip flags"),
        ("garbage", [&gz[..], b"garbage"].concat(), GZIP, "no gzip member at offset"),
        ("garbage after zeros", [&gz[..], b"\0\0\0x"].concat(), GZIP, "garbage behind the gzip data"),
        ("member after zeros", [&gz[..], b"\0", &gz].concat(), GZIP, "garbage behind the gzip data"),
        ("cut frame", zst[..zst.len() / 2].to_vec(), ZSTD, "ends early"),
        ("cut skippable", [&zst[..], b"\x50\x2a\x4d\x18\x05\0\0\0hi"].concat(), ZSTD, "ends early"),
        ("garbage frame", [&zst[..], b"garbage"].concat(), ZSTD, "zstd"),
        ("zero padding", [&zst[..], &[0; 16]].concat(), ZSTD, "zstd"),
        ("window of 256 MiB", window, ZSTD, "too much memory"),
        ("gzip that is plain", data.clone(), GZIP, "the blob is not compressed in a known way"),
        ("gzip that is zstd", zst.clone(), GZIP, "the blob is zstd"),
        ("zstd that is gzip", gz.clone(), ZSTD, "the blob is gzip"),
        ("plain that is gzip", gz.clone(), PLAIN, "the blob is gzip"),
        ("docker gzip that is zstd", zst.clone(), DOCKER_GZIP, "the blob is zstd"),
        ("xz", b"\xfd7zXZ\0\0\0".to_vec(), DOCKER_PLAIN, "the blob is xz"),
    ] {
        let result = read_only(&image_of(&[(blob.clone(), media, data.clone())]));
        assert_error!(result, Error::Decode { .. }, "layer 1", digest(&blob), reason);
        // Once failed, always failed: no bytes of a damaged stream come out later.
        let layout = image_of(&[(blob.clone(), media, data.clone())]).write();
        let layer = &open_dir(layout.path(), None, None).unwrap().layers[0];
        let mut reader = layer.open().unwrap();
        let first = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err().to_string();
        assert_eq!(reader.read(&mut [0; 9]).unwrap_err().to_string(), first, "{name}");
        if !first.contains("media type") {
            let mut data = layer.reopen().unwrap();
            std::io::copy(&mut data, &mut std::io::sink()).unwrap_err();
            data.read(&mut [0; 9]).unwrap_err();
        }
    }
}

#[test]
fn diff_id_is_checked_last() {
    let data = tar(&[("a", b"a")]);
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let layout = image_of(&[(blob.clone(), media, b"another".to_vec())]);
        let result = read_only(&layout);
        assert_error!(
            result,
            Error::DiffId { .. },
            "layer 1",
            digest(&blob),
            digest(b"another"),
            digest(&data)
        );
    }
}

#[test]
fn sha512_blobs() {
    // Of "abc".
    let sha512 = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                  2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let make = |content: &[u8]| {
        let mut layout = Layout::new();
        layout.files.insert(blob_path(sha512), content.to_vec());
        let layer = serde_json::json!({"mediaType": PLAIN, "digest": sha512, "size": 3});
        let config = layout.config(&[digest(b"abc")], "linux/amd64");
        let manifest = layout.manifest(&config, &[layer]);
        layout.tag(manifest, "x");
        layout
    };
    let (_, summary) = read_only(&make(b"abc")).unwrap();
    assert_eq!(
        (summary.blob_digest.to_string(), summary.diff_id.to_string()),
        (sha512.to_owned(), digest(b"abc"))
    );
    assert_error!(read_only(&make(b"abd")), Error::Digest { .. }, "layer 1", sha512);
}

#[test]
fn uncompressed_size_is_limited() {
    let data = vec![0; 4 << 20];
    let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let dir = image_of(&[(blob.clone(), media, data.clone())]).write();
        let spec = SourceSpec::OciDir { path: dir.path().to_owned(), tag: None };
        let image = mkimg_oci::open_with(&spec, None, &limits).unwrap();
        assert_error!(
            image.layers[0].open().unwrap().finish(),
            Error::Limit { .. },
            "layer 1",
            digest(&blob),
            "1048576"
        );
        let read = std::io::copy(&mut image.layers[0].reopen().unwrap(), &mut std::io::sink());
        assert!(read.unwrap_err().to_string().contains("1048576"));
    }
}

#[test]
fn only_regular_files_are_blobs() {
    let data = tar(&[("a", b"a")]);
    let layout = image_of(&[(gzip(&data), GZIP, data.clone())]);
    let path = blob_path(&digest(&gzip(&data)));
    type Replace = fn(&std::path::Path);
    let replacements: [(&str, Replace); 4] = [
        ("FIFO", |path| {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }),
        ("symlink", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
        ("directory", |path| std::fs::create_dir(path).unwrap()),
        ("socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap())),
    ];
    for (kind, replace) in replacements {
        let dir = layout.write();
        let image = open_dir(dir.path(), None, None).unwrap();
        std::fs::remove_file(dir.path().join(&path)).unwrap();
        // A socket's path must be short.
        let short = dir.path().join("x");
        replace(&short);
        std::fs::rename(&short, dir.path().join(&path)).unwrap();
        let blob = digest(&gzip(&data));
        assert_error!(open_dir(dir.path(), None, None), Error::NotRegular { .. }, "layer 1", blob, kind);
        assert_error!(image.layers[0].open().map(drop), Error::NotRegular { .. }, "layer 1", blob, kind);
    }
}

/// As layouts of build systems have them.
#[test]
fn a_blob_may_be_a_link_to_a_file() {
    let data = tar(&[("a", b"a")]);
    let layout = image_of(&[(gzip(&data), GZIP, data.clone())]);
    let dir = layout.write();
    let path = dir.path().join(blob_path(&digest(&gzip(&data))));
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", &path).unwrap();
    let image = open_dir(dir.path(), None, None).unwrap();
    assert_eq!(read(&image.layers[0]).unwrap().0, data);
    // The digest decides, not the place.
    std::fs::write(dir.path().join("elsewhere"), gzip(&tar(&[("a", b"b")]))).unwrap();
    let damaged = open_dir(dir.path(), None, None).and_then(|image| read(&image.layers[0]).map(drop));
    assert!(matches!(damaged, Err(Error::Digest { .. } | Error::Size { .. })), "{damaged:?}");
}

#[test]
fn missing_layers() {
    let data = tar(&[("a", b"a")]);
    for media in [PLAIN, "application/vnd.docker.image.rootfs.foreign.diff.tar"] {
        let mut layout = image_of(&[(data.clone(), media, data.clone())]);
        layout.files.remove(&blob_path(&digest(&data)));
        assert_error!(layout.open(None, None), Error::Missing { .. }, "layer 1", digest(&data), "missing");
    }
}

#[test]
fn a_tar_is_a_layer() {
    let data = tar(&[("a", &noise(300_000))]);
    let dir = tempfile::tempdir().unwrap();
    for blob in [data.clone(), gzip(&data), zstd(&data)] {
        let path = file(&dir, "layer", &blob);
        let image = mkimg_oci::open(&SourceSpec::Tar { path }, None).unwrap();
        assert!(image.manifest.is_none() && image.config.is_none() && image.reference.is_none());
        let [layer]: [Layer; 1] = image.layers.try_into().unwrap();
        assert_eq!((layer.number, layer.digest, layer.size, layer.diff_id), (1, None, None, None));
        let (found, summary) = read(&layer).unwrap();
        assert!(found == data);
        assert_eq!((summary.blob_digest, summary.diff_id), (Digest::of(&blob), Digest::of(&data)));
    }
    let path = file(&dir, "layer", b"BZh91AY&SY......");
    let image = mkimg_oci::open(&SourceSpec::Tar { path }, None).unwrap();
    assert_error!(read(&image.layers[0]), Error::Decode { .. }, "layer 1", "bzip2");
}
