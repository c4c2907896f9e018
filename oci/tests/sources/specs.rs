//! How sources are spelled, and how the kind of a bare path is found.

use std::path::{Path, PathBuf};

use mkimg_oci::{Error, SourceSpec};

use crate::support::*;

fn parse(text: &str) -> Result<SourceSpec, Error> {
    text.parse()
}

fn oci(path: &str, tag: Option<&str>) -> SourceSpec {
    SourceSpec::OciDir { path: PathBuf::from(path), tag: tag.map(str::to_owned) }
}

#[test]
fn schemes() {
    for (text, expected) in [
        ("oci:some/dir", oci("some/dir", None)),
        ("oci:some/dir:tag", oci("some/dir", Some("tag"))),
        ("oci:some/dir:", oci("some/dir", None)),
        ("oci:some/dir:a:b", oci("some/dir", Some("a:b"))),
        ("oci-archive:f:t", SourceSpec::OciArchive { path: "f".into(), tag: Some("t".into()) }),
        ("docker-archive:f", SourceSpec::DockerArchive { path: "f".into(), tag: None }),
        (
            "docker-archive:f:reg:5000/a/b:t",
            SourceSpec::DockerArchive { path: "f".into(), tag: Some("reg:5000/a/b:t".into()) },
        ),
        ("dir:a:b", SourceSpec::Dir { path: "a:b".into() }),
        ("tar:/x/a:b", SourceSpec::Tar { path: "/x/a:b".into() }),
    ] {
        let spec = parse(text).unwrap();
        assert_eq!(spec, expected, "{text}");
        assert_eq!(parse(&spec.to_string()).unwrap(), spec);
    }
    for (text, reason) in [
        ("docker://alpine:latest", "registries are not supported yet"),
        ("https://example.org/x.tar", "unknown kind of source"),
        ("docker-daemon:alpine:latest", "this kind of source is not supported"),
        ("containers-storage:alpine", "this kind of source is not supported"),
        ("nonsense:x", "unknown kind of source"),
        ("no/such/path", "no such file or directory"),
        ("no/such/path:tag", "no such file or directory"),
        ("", "the path is empty"),
        ("oci:", "the path is empty"),
        ("oci::tag", "the path is empty"),
        ("tar:", "the path is empty"),
        ("dir:", "the path is empty"),
        ("bad\nname", r"bad\nname"),
    ] {
        assert_error!(parse(text), Error::Source { .. }, reason);
    }
}

#[test]
fn bare_paths() {
    let dir = tempfile::tempdir().unwrap();
    let layer =
        tar(&[("etc/passwd", b"x"), ("index.json", b"{}"), ("manifest.json", b"{\"name\": \"app\"}")]);
    let layout = image_of(&[(layer.clone(), PLAIN, layer.clone())]);
    let all = layout.all_files();
    let oci_tar = tar(&all.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect::<Vec<_>>());
    let docker = tar(&[("manifest.json", b"[{\"Config\":\"c\",\"RepoTags\":null,\"Layers\":[]}]")]);
    let old = tar(&[(&format!("{}/VERSION", "ab".repeat(32)), b"1.0"), ("manifest.json", b"[]")]);
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    for (name, data) in [
        ("oci.tar", &oci_tar),
        ("docker.tar", &docker),
        ("layer.tar", &layer),
        ("layer.tgz", &gzip(&layer)),
        ("layer.tzst", &zstd(&layer)),
        ("empty", &Vec::new()),
        ("nonsense", &noise(5000)),
        ("a:b.tar", &oci_tar),
    ] {
        std::fs::write(path(name), data).unwrap();
    }
    std::fs::create_dir(path("tree")).unwrap();
    std::fs::write(path("tree/index.json"), "{}").unwrap();
    let minimal = layout.write();
    std::fs::remove_file(minimal.path().join("oci-layout")).unwrap();
    std::fs::rename(minimal.path(), path("lay:out")).unwrap();

    let archive = |name: &str, tag: Option<&str>| SourceSpec::OciArchive {
        path: path(name),
        tag: tag.map(str::to_owned),
    };
    let tag = Some("x/y:t".to_owned());
    for (name, expected) in [
        ("oci.tar", archive("oci.tar", None)),
        ("oci.tar:latest", archive("oci.tar", Some("latest"))),
        ("a:b.tar", archive("a:b.tar", None)),
        ("a:b.tar:c", archive("a:b.tar", Some("c"))),
        ("docker.tar", SourceSpec::DockerArchive { path: path("docker.tar"), tag: None }),
        ("docker.tar:x/y:t", SourceSpec::DockerArchive { path: path("docker.tar"), tag: tag.clone() }),
        ("layer.tar", SourceSpec::Tar { path: path("layer.tar") }),
        ("layer.tgz", SourceSpec::Tar { path: path("layer.tgz") }),
        ("layer.tzst", SourceSpec::Tar { path: path("layer.tzst") }),
        ("empty", SourceSpec::Tar { path: path("empty") }),
        ("nonsense", SourceSpec::Tar { path: path("nonsense") }),
        ("tree", SourceSpec::Dir { path: path("tree") }),
        ("lay:out", SourceSpec::OciDir { path: path("lay:out"), tag: None }),
        ("lay:out:x/y:t", SourceSpec::OciDir { path: path("lay:out"), tag }),
    ] {
        assert_eq!(parse(&text(name)).unwrap(), expected, "{name}");
        if !name.starts_with('a') && expected.tag().is_some() {
            // The same with a scheme in front.
            let scheme = expected.to_string();
            assert_eq!(parse(&scheme).unwrap(), expected, "{scheme}");
        }
    }
    for (name, reason) in [("layer.tar:tag", "no tags"), ("tree:tag", "no tags")] {
        assert_error!(parse(&text(name)), Error::Source { .. }, reason);
    }
    for (name, data) in [("1", gzip(&old)), ("2", gzip(&docker)), ("3", zstd(&oci_tar))] {
        std::fs::write(path(name), data).unwrap();
        assert_error!(parse(&text(name)), Error::Source { .. }, "compressed with", "uncompress it first");
    }
    assert_error!(parse("/dev/null"), Error::NotRegular { .. }, "device");
}

#[test]
fn paths_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let spec = SourceSpec::parse(std::ffi::OsStr::from_bytes(b"oci:a\xff:t")).unwrap();
    assert_eq!((spec.path().as_os_str().as_bytes(), spec.tag()), (&b"a\xff"[..], Some("t")));
    let result = SourceSpec::parse(std::ffi::OsStr::from_bytes(b"oci:a:t\xff"));
    assert_error!(result, Error::Source { .. }, "not UTF-8");
}

#[test]
fn a_directory_has_no_layers() {
    let spec = SourceSpec::Dir { path: Path::new("/tmp").to_owned() };
    assert_error!(mkimg_oci::open(&spec, None), Error::Source { .. }, "no layers");
}
