//! Archives of `docker save`, old and new, and OCI layouts in tars.

use std::path::PathBuf;

use mkimg_oci::{Digest, Error, Image, Limits, SourceSpec};
use serde_json::{Value, json};

use crate::support::*;

fn open(data: &[u8], tag: Option<&str>, platform: Option<&str>) -> Result<Image, Error> {
    let dir = tempfile::tempdir().unwrap();
    let spec = SourceSpec::DockerArchive { path: file(&dir, "image.tar", data), tag: tag.map(str::to_owned) };
    mkimg_oci::open(&spec, platform.map(|text| text.parse().unwrap()).as_ref())
}

fn config(layers: &[&[u8]], arch: &str) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    serde_json::to_vec(
        &json!({"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": ids}}),
    )
    .unwrap()
}

fn manifest(config: &str, tags: &[&str], layers: &[&str]) -> Value {
    json!({"Config": config, "RepoTags": tags, "Layers": layers})
}

fn archive(entries: &[Value], files: &[(&str, &[u8])]) -> Vec<u8> {
    let list = serde_json::to_vec(entries).unwrap();
    let mut all = files.to_vec();
    all.push(("manifest.json", &list));
    tar(&all)
}

fn config_name(config: &[u8]) -> String {
    format!("{}.json", Digest::of(config).hex())
}

#[test]
fn old_form_with_linked_and_compressed_layers() {
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", &noise(300_000))]));
    let config = config(&[&one, &two, &one, &two], "mips");
    let name = config_name(&config);
    let layers = ["x/layer.tar", "y/layer.tar", "z/layer.tar", "w/layer.tar"];
    let data = archive(
        &[manifest(&name, &["a/b:latest", "a/b:1"], &layers)],
        &[
            ("x/VERSION", b"1.0"),
            ("x/layer.tar", &one),
            ("./y/layer.tar", &gzip(&two)),
            ("z/layer.tar", b"->../x/layer.tar"),
            ("w/layer.tar", b"->../v/layer.tar"),
            ("v/layer.tar", b"->../y/layer.tar"),
            (&name, &config),
        ],
    );
    for tag in [None, Some("a/b:latest"), Some("a/b"), Some("a/b:1")] {
        let image = open(&data, tag, None).unwrap();
        assert!(image.manifest.is_none());
        assert_eq!(image.config.as_ref().unwrap().bytes, config);
        let expected = if tag == Some("a/b:1") { "a/b:1" } else { "a/b:latest" };
        assert_eq!(image.reference.as_deref(), Some(expected));
        for (layer, tar) in image.layers.iter().zip([&one, &two, &one, &two]) {
            assert!(read(layer).unwrap().0 == *tar);
        }
        assert_eq!(image.layers.len(), 4);
    }
    assert_error!(open(&data, Some("c"), None), Error::NoTag { .. }, "\"c\"", "a/b:latest");
    assert_error!(open(&data, None, Some("linux/s390x")), Error::NoPlatform { .. }, "linux/mips");
}

#[test]
fn names_with_digests_are_checked() {
    let layer = tar(&[("a", b"1")]);
    let (right, wrong) = (config(&[&layer], "amd64"), config(&[&layer], "mips"));
    let hex = Digest::of(&right).hex();
    let blob = blob_path(&digest(&layer));
    for name in [format!("{hex}.json"), format!("sha256:{hex}"), format!("blobs/sha256/{hex}")] {
        let entry = manifest(&name, &[], &[&blob]);
        let image =
            open(&archive(std::slice::from_ref(&entry), &[(&name, &right), (&blob, &layer)]), None, None)
                .unwrap();
        assert_eq!((image.reference, image.layers[0].digest), (None, Some(Digest::of(&layer))));
        let data = archive(std::slice::from_ref(&entry), &[(&name, &wrong), (&blob, &layer)]);
        assert_error!(
            open(&data, None, None),
            Error::Digest { .. },
            "config",
            digest(&right),
            digest(&wrong)
        );
        assert_error!(
            open(&archive(std::slice::from_ref(&entry), &[(&blob, &layer)]), None, None),
            Error::Missing { .. },
            hex
        );
        let data = archive(std::slice::from_ref(&entry), &[(&name, &right)]);
        assert_error!(open(&data, None, None), Error::Missing { .. }, "layer 1", digest(&layer));

        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "image.tar", &archive(&[entry], &[(&name, &right), (&blob, b"other")]));
        let image = mkimg_oci::open(&SourceSpec::DockerArchive { path, tag: None }, None).unwrap();
        assert_error!(
            read(&image.layers[0]),
            Error::Digest { .. },
            "layer 1",
            digest(&layer),
            digest(b"other")
        );
    }
}

#[test]
fn diff_ids_are_checked() {
    let layer = tar(&[("a", b"1")]);
    let config = config(&[&layer], "amd64");
    let entry = |layers: &[&str]| manifest("config.json", &[], layers);
    let image =
        open(&archive(&[entry(&["l"])], &[("config.json", &config), ("l", b"other")]), None, None).unwrap();
    assert_error!(
        read(&image.layers[0]),
        Error::DiffId { .. },
        "layer 1 \"l\"",
        digest(&layer),
        digest(b"other")
    );
    let data = archive(&[entry(&["l", "l"])], &[("config.json", &config), ("l", &layer)]);
    assert_error!(open(&data, None, None), Error::Document { .. }, "1 diff ids for 2 layers");
    let broken = &gzip(&layer)[..30];
    let image =
        open(&archive(&[entry(&["l"])], &[("config.json", &config), ("l", broken)]), None, None).unwrap();
    assert_error!(read(&image.layers[0]), Error::Decode { .. }, "layer 1 \"l\"", "ends early");
}

#[test]
fn several_images() {
    let layer = tar(&[("a", b"1")]);
    let (one, two) = (config(&[&layer], "mips"), config(&[&layer], "s390x"));
    let data = archive(
        &[manifest("1", &["one:1"], &["l"]), manifest("2", &["two:2"], &["l"])],
        &[("1", &one), ("2", &two), ("l", &layer)],
    );
    assert_eq!(open(&data, Some("two:2"), None).unwrap().config.unwrap().bytes, two);
    assert_eq!(open(&data, None, Some("linux/mips")).unwrap().config.unwrap().bytes, one);
    assert_error!(open(&data, None, Some("linux/ppc")), Error::NoPlatform { .. }, "linux/mips, linux/s390x");
    let data = archive(
        &[manifest("1", &["one:1"], &["l"]), manifest("1", &["two:2"], &["l"])],
        &[("1", &one), ("l", &layer)],
    );
    assert_error!(open(&data, None, Some("linux/mips")), Error::Ambiguous { count: 2, .. }, "one:1, two:2");
}

#[test]
fn links_stay_inside_and_end() {
    let layer = tar(&[("a", b"1")]);
    let config = config(&[&layer], "amd64");
    let chain: Vec<(String, String)> = (0..40).map(|i| (format!("c{i}"), format!("->c{}", i + 1))).collect();
    let mut files: Vec<(&str, &[u8])> =
        chain.iter().map(|(name, to)| (name.as_str(), to.as_bytes())).collect();
    files.extend([
        ("config.json", config.as_slice()),
        ("c40", &layer),
        ("loop", b"->loop"),
        ("out", b"->../../c40"),
        ("absolute", b"->/etc/passwd"),
        ("dangling", b"->nowhere"),
    ]);
    let open = |layer: &str| open(&archive(&[manifest("config.json", &[], &[layer])], &files), None, None);
    open("c30").unwrap();
    open("c24").unwrap();
    assert_error!(open("c0"), Error::Limit { .. }, "c0", "links");
    assert_error!(open("loop"), Error::Limit { .. }, "loop", "links");
    assert_error!(open("out"), Error::NotRegular { .. }, "out");
    assert_error!(open("absolute"), Error::Missing { .. }, "layer 1 \"absolute\"");
    assert_error!(open("dangling"), Error::Missing { .. }, "layer 1 \"dangling\"");
    assert_error!(open("../c40"), Error::Missing { .. }, "layer 1");
}

#[test]
fn compressed_as_a_whole() {
    let layer = tar(&[("a", b"1")]);
    let config = config(&[&layer], "amd64");
    let data = archive(&[manifest("c", &[], &["l"])], &[("c", &config), ("l", &layer)]);
    assert_error!(open(&gzip(&data), None, None), Error::Source { .. }, "compressed with gzip", "gunzip");
    assert_error!(open(&zstd(&data), None, None), Error::Source { .. }, "compressed with zstd", "unzstd");
}

/// A header with a valid checksum.
fn header(name: &[u8], kind: u8, size: &[u8; 12]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[124..136].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(data.len().next_multiple_of(512), 0);
    out
}

fn octal(size: usize) -> [u8; 12] {
    format!("{size:011o}\0").into_bytes().try_into().unwrap()
}

fn pax(records: &[u8]) -> Vec<u8> {
    [header(b"pax", b'x', &octal(records.len())), padded(records)].concat()
}

#[test]
fn names_of_every_tar_dialect() {
    // The same archive with the configuration under a long name, spelled in four ways; the last `l` counts.
    let layer = tar(&[("a", b"1")]);
    let config = config(&[&layer], "amd64");
    let long = format!("{}/{}", "d".repeat(100), "c".repeat(60));
    let list = serde_json::to_vec(&json!([manifest(&long, &[], &["l"])])).unwrap();
    let mut prefixed = header(&[b'c'; 60], b'0', &octal(config.len()));
    prefixed[345..445].fill(b'd');
    prefixed[148..156].fill(b' ');
    let sum: u32 = prefixed.iter().map(|byte| u32::from(*byte)).sum();
    prefixed[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let record = format!("{} path={long}\n", long.len() + 10);
    let size = format!("{} size={}\n", 9 + config.len().to_string().len(), config.len());
    let mut base256 = [0; 12];
    base256[0] = 0x80;
    base256[8..].copy_from_slice(&u32::try_from(config.len()).unwrap().to_be_bytes());
    for (name, spelled) in [
        ("ustar prefix", prefixed),
        ("PAX", [pax(record.as_bytes()), header(b"x", b'0', &octal(config.len()))].concat()),
        ("PAX size", [pax(format!("{record}{size}").as_bytes()), header(b"x", b'0', &octal(1))].concat()),
        (
            "GNU",
            [
                header(b"././@LongLink", b'L', &octal(long.len() + 1)),
                padded(format!("{long}\0").as_bytes()),
                header(b"x", b'0', &base256),
            ]
            .concat(),
        ),
    ] {
        let data = [
            header(b"l", b'0', &octal(5)),
            padded(b"first"),
            spelled,
            padded(&config),
            header(b"./l", b'0', &octal(layer.len())),
            padded(&layer),
            header(b"manifest.json", b'0', &octal(list.len())),
            padded(&list),
        ]
        .concat();
        let image = open(&data, None, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(image.config.unwrap().bytes, config, "{name}");
    }
}

#[test]
fn malformed_archives() {
    let good = header(b"a", b'0', &octal(3));
    let mut wrong_sum = good.clone();
    wrong_sum[0] ^= 1;
    let huge = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    let over = *b"\x80\0\0\x01\0\0\0\0\0\0\0\0";
    for (name, data, reason) in [
        ("checksum", [wrong_sum, vec![0; 512]].concat(), "offset 0: wrong tar header checksum"),
        ("no tar", vec![b'x'; 2048], "offset 0: wrong tar header checksum"),
        ("short header", good[..500].to_vec(), "offset 0: the archive ends early"),
        ("short data", [&good[..], b"ab"].concat(), "offset 0: a member of 3 bytes leaves the archive"),
        ("huge size", header(b"a", b'0', &huge), "leaves the archive"),
        ("size over 2^64", header(b"a", b'0', &over), "unreadable size"),
        ("negative size", header(b"a", b'0', &[0xff; 12]), "unreadable size"),
        ("size that is text", header(b"a", b'0', b"12x4567\0\0\0\0\0"), "unreadable size"),
        (
            "huge PAX header",
            [header(b"a", b'x', &octal(2 << 20)), vec![b'x'; 2 << 20]].concat(),
            "extended header of",
        ),
        ("PAX length", pax(b"99 path=a\n"), "malformed PAX record"),
        ("PAX length 0", pax(b"0 path=a\n"), "malformed PAX record"),
        ("PAX without key", pax(b"6 =ab\n"), "malformed PAX record"),
        ("PAX without newline", pax(b"10 path=abc"), "malformed PAX record"),
        ("PAX without number", pax(b"path=a\n"), "malformed PAX record"),
        (
            "PAX negative size",
            [pax(b"11 size=-1\n"), good.clone(), padded(b"abc")].concat(),
            "malformed PAX record",
        ),
        ("PAX length into padding", [pax(b"11 path=a\n"), vec![0; 1024]].concat(), "malformed PAX record"),
        ("end behind PAX", [pax(b"9 path=a\n"), vec![0; 1024]].concat(), "ends after an extended header"),
        ("cut behind PAX", pax(b"9 path=a\n"), "the archive ends early"),
        ("dots", header(b"a/../b", b'0', &octal(0)), "a member name with .."),
        ("sparse", header(b"a", b'S', &octal(0)), "sparse"),
    ] {
        let result = open(&data, None, None);
        let error = assert_says(result, &[reason]);
        assert!(matches!(error, Error::Archive { .. }), "{name}: {error:?}");
    }
    assert_error!(open(b"", None, None), Error::Missing { .. }, "manifest.json");
    assert_error!(
        open(&tar(&[("manifest.json", b"{}")]), None, None),
        Error::Document { .. },
        "manifest.json"
    );
    assert_error!(
        open(&tar(&[("manifest.json", b"[]")]), None, None),
        Error::NoImage { .. },
        "lists nothing"
    );
    let sparse =
        [pax(b"22 GNU.sparse.major=1\n"), header(b"manifest.json", b'0', &octal(2)), padded(b"[]")].concat();
    assert_error!(open(&sparse, None, None), Error::NotRegular { .. }, "manifest.json", "sparse");
}

#[test]
fn archive_limits() {
    let dir = tempfile::tempdir().unwrap();
    let data = tar(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    let spec = SourceSpec::DockerArchive { path: file(&dir, "image.tar", &data), tag: None };
    let limits = Limits { archive_members: 2, ..Limits::default() };
    assert_error!(mkimg_oci::open_with(&spec, None, &limits), Error::Limit { limit: 2, .. }, "members");
    let limits = Limits { archive_name_bytes: 2, ..Limits::default() };
    assert_error!(mkimg_oci::open_with(&spec, None, &limits), Error::Limit { limit: 2, .. }, "names");
}

fn oci_archive(layout: &Layout, prefix: &str) -> Vec<u8> {
    let files = layout.all_files();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in &files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len().try_into().unwrap());
        // Set by hand: the builder drops a leading `./`.
        let name = format!("{prefix}{name}");
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn oci_archives() {
    let data = tar(&[("noise", &noise(300_000))]);
    let mut layout = image_of(&[(gzip(&data), GZIP, data.clone()), (zstd(&data), ZSTD, data.clone())]);
    let dir = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| {
        mkimg_oci::open(&SourceSpec::OciArchive { path, tag: Some("latest".to_owned()) }, None)
    };
    for prefix in ["", "./"] {
        let image = open(file(&dir, "image.tar", &oci_archive(&layout, prefix))).unwrap();
        assert_eq!(image.reference.as_deref(), Some("latest"));
        assert!(image.manifest.is_some());
        for layer in &image.layers {
            assert!(read(layer).unwrap().0 == data);
        }
    }
    // A blob that is longer than declared is read to its declared end at most.
    let path = blob_path(&digest(&gzip(&data)));
    layout.files.get_mut(&path).unwrap().push(0);
    let result = open(file(&dir, "image.tar", &oci_archive(&layout, "")));
    assert_error!(result, Error::Size { .. }, "layer 1", digest(&gzip(&data)));
    layout.files.remove(&path);
    let result = open(file(&dir, "image.tar", &oci_archive(&layout, "")));
    assert_error!(result, Error::Missing { .. }, "layer 1", digest(&gzip(&data)), "image.tar");
}

#[test]
fn a_changed_byte_gives_the_same_image_or_an_error() {
    let data = tar(&[("text", b"text")]);
    let layout = image_of(&[(gzip(&data), GZIP, data.clone()), (zstd(&data), ZSTD, data.clone())]);
    let good = oci_archive(&layout, "");
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "image.tar", &good);
    let spec = SourceSpec::OciArchive { path: path.clone(), tag: None };
    let read_all = || -> Result<_, Error> {
        let image = mkimg_oci::open(&spec, None)?;
        let layers: Result<Vec<_>, Error> = image.layers.iter().map(|layer| Ok(read(layer)?.0)).collect();
        Ok((image.manifest, image.config, layers?))
    };
    let expected = read_all().unwrap();
    let (mut same, mut refused) = (0, 0);
    let changes = noise(good.len());
    for (at, change) in changes.into_iter().enumerate().step_by(7).filter(|(_, change)| *change != 0) {
        let mut bad = good.clone();
        bad[at] ^= change;
        std::fs::write(&path, &bad).unwrap();
        match read_all() {
            Ok(found) => {
                assert_eq!(found, expected, "byte {at}");
                same += 1;
            }
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                refused += 1;
            }
        }
    }
    // Padding and the end of the archive may change, headers and contents may not.
    assert!(same > 150 && refused > 400, "{same} {refused}");
    for len in (0..good.len() - 1024).step_by(13) {
        std::fs::write(&path, &good[..len]).unwrap();
        if let Ok(found) = read_all() {
            assert_eq!(found, expected, "length {len}");
        }
    }
}
