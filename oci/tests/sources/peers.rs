//! Images as other tools write them.

use std::path::Path;
use std::process::Command;

use mkimg_oci::{Image, SourceSpec};
use serde_json::json;

use crate::support::*;

fn run(program: &str, args: &[&str]) -> bool {
    match Command::new(program).args(args).output() {
        Err(error) => {
            println!("skipped: {program}: {error}");
            false
        }
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {args:?}: {stderr}");
            true
        }
    }
}

fn open(source: &str, platform: Option<&str>) -> Image {
    let spec: SourceSpec = source.parse().unwrap();
    mkimg_oci::open(&spec, platform.map(|text| text.parse().unwrap()).as_ref())
        .unwrap_or_else(|error| panic!("{source}: {error}"))
}

/// Two layers; skopeo cannot put zstd into a docker archive.
fn sample() -> (Layout, [Vec<u8>; 2]) {
    let tars = [tar(&[("a", &noise(300_000))]), tar(&[("b", b"b")])];
    let layers = [(gzip(&tars[0]), GZIP, tars[0].clone()), (gzip(&tars[1]), GZIP, tars[1].clone())];
    (image_of(&layers), tars)
}

#[test]
fn skopeo_copies_need_skopeo() {
    let (layout, tars) = sample();
    let from = layout.write();
    let from = format!("oci:{}:latest", from.path().display());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (kind, name, tag, bare) in [
        ("oci", "layout", ":v1", true),
        ("oci-archive", "oci.tar", ":v1", true),
        ("docker-archive", "docker.tar", ":example.org/a/b:v1", true),
        ("docker-archive", "untagged.tar", "", false),
    ] {
        let to = format!("{kind}:{}{tag}", at(name));
        let platform = ["--override-os", "linux", "--override-arch", "amd64"];
        let args = [&["--insecure-policy"][..], &platform, &["copy", "-q", &from, &to]].concat();
        if !run("skopeo", &args) {
            return;
        }
        for source in [&to, &at(name)].into_iter().take(if bare { 2 } else { 1 }) {
            for platform in [None, Some("linux/amd64")] {
                let image = open(source, platform);
                assert_eq!(image.reference.as_deref(), tag.strip_prefix(':'), "{source}");
                assert_eq!(image.manifest.is_some(), kind != "docker-archive", "{source}");
                assert_eq!(image.layers.len(), 2, "{source}");
                for (layer, tar) in image.layers.iter().zip(&tars) {
                    assert!(read(layer).unwrap().0 == *tar, "{source}: {}", layer.label());
                }
            }
        }
    }
}

#[test]
fn umoci_layouts_need_umoci() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    let at = |tag: &str| format!("{}:{tag}", path.display());
    if !run("umoci", &["init", "--layout", path.to_str().unwrap()]) {
        return;
    }
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), noise(100_000)).unwrap();
    run("umoci", &["new", "--image", &at("one")]);
    run("umoci", &["insert", "--rootless", "--image", &at("one"), tree.to_str().unwrap(), "/x"]);
    run("umoci", &["tag", "--image", &at("one"), "two"]);
    for source in [path.to_str().unwrap(), &at("one"), &format!("oci:{}", at("two"))] {
        let image = open(source, None);
        assert_eq!(image.layers.len(), 1);
        let (mut data, _) = read(&image.layers[0]).unwrap();
        // umoci 0.4.7 stops right behind the last content, without padding and end marker.
        data.resize(data.len().next_multiple_of(512), 0);
        let mut archive = tar::Archive::new(&data[..]);
        let paths: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert!(paths.iter().any(|path| path == Path::new("x/file")), "{paths:?}");
    }
}

#[test]
fn archives_of_gnu_tar_need_tar() {
    // Both tar dialects, and names as `tar -C DIR .` makes them.
    let (mut layout, tars) = sample();
    let blob = layout.files[&blob_path(&digest(&gzip(&tars[0])))].clone();
    let deep = format!("{}/{}/layer.tar", "d".repeat(120), "e".repeat(120));
    layout.files.insert(deep.clone(), blob);
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest(&tars[0])]}});
    layout.files.insert("c.json".to_owned(), serde_json::to_vec(&config).unwrap());
    let list = json!([{"Config": "c.json", "RepoTags": null, "Layers": [deep]}]);
    layout.files.insert("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap());
    let from = layout.write();
    let dir = tempfile::tempdir().unwrap();
    for format in ["gnu", "posix"] {
        let to = dir.path().join(format);
        let (from, to) = (from.path().to_str().unwrap(), to.to_str().unwrap());
        if !run("tar", &["-C", from, "--format", format, "-cf", to, "."]) {
            return;
        }
        assert_eq!(
            open(to, None).layers.len(),
            2,
            "both forms in one archive: the one with a manifest counts"
        );
        let image = open(&format!("docker-archive:{to}"), None);
        assert!(read(&image.layers[0]).unwrap().0 == tars[0]);
    }
}
