//! Image layouts made by attackers: documents that lie, files that are something else, blobs that do not decompress.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use std::path::{Path, PathBuf};

use layers::scene::Scene;
use layers::{Blob, build_blobs, build_into, file, gzip, layout_files_with, oci_dir, sha256, tar_of};
use mkimg_oci::SourceSpec;
use serde_json::json;

/// Documents that lie.
#[test]
fn documents_of_the_layout() {
    type Edit = fn(&str, &mut serde_json::Value);
    let cases: [(&str, Edit, &str); 11] = [
        (
            "CVE-2021-41190: manifest and index at once",
            |which, json| {
                if which == "manifest" {
                    json["manifests"] = json!([]);
                }
            },
            "manifest sha256:",
        ),
        (
            "negative size of a layer",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["size"] = json!(-1);
                }
            },
            "manifest sha256:",
        ),
        (
            "layer that is longer than declared",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["size"] = json!(512);
                }
            },
            "layer 1 sha256:",
        ),
        (
            "layer that is shorter than declared",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["size"] = json!(1_u64 << 60);
                }
            },
            "layer 1 sha256:",
        ),
        (
            "digest that leads out",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["digest"] = json!("sha256:../../../victim/hello");
                }
            },
            "manifest sha256:",
        ),
        (
            "digest of another algorithm",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["digest"] = json!("md5:00");
                }
            },
            "manifest sha256:",
        ),
        (
            "unknown compression",
            |which, json| {
                if which == "manifest" {
                    json["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+xz");
                }
            },
            "layer 1 sha256:",
        ),
        (
            "wrong diff id",
            |which, json| {
                if which == "config" {
                    json["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64)));
                }
            },
            "layer 1 sha256:",
        ),
        (
            "fewer diff ids than layers",
            |which, json| {
                if which == "config" {
                    json["rootfs"]["diff_ids"] = json!([]);
                }
            },
            "config sha256:",
        ),
        (
            "CVE-2023-25153: endless index",
            |which, json| {
                if which == "index" {
                    json["annotations"] = json!({"padding": "x".repeat(5 << 20)});
                }
            },
            "index.json",
        ),
        (
            "endless manifest",
            |which, json| {
                if which == "manifest" {
                    json["annotations"] = json!({"padding": "x".repeat(5 << 20)});
                }
            },
            "manifest sha256:",
        ),
    ];
    let mut wrong = String::new();
    for (name, edit, says) in cases {
        let scene = Scene::new();
        let layout = scene.path("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for (file, bytes) in layout_files_with(&[Blob::plain(tar_of(&[file("f", "1")]))], edit) {
            std::fs::write(layout.join(file), bytes).unwrap();
        }
        let result = build_into(&oci_dir(&layout), &scene.path("out"));
        scene.check();
        if !result.as_ref().is_err_and(|error| error.starts_with(says)) {
            wrong += &format!("{name}: {:?}\n", result.map(drop));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Files of the layout that are something else.
#[test]
fn layouts_with_links_and_fifos() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 4] = [
        ("fifo", |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("link out", |path| std::os::unix::fs::symlink("../../../victim/hello", path).unwrap()),
        ("link to a fifo", |path| std::os::unix::fs::symlink("../../../victim/fifo", path).unwrap()),
        ("directory", |path| std::fs::create_dir(path).unwrap()),
    ];
    for (name, make) in cases {
        let scene = Scene::new();
        let layout = scene.path("layout");
        let blobs = layers::write_layout(&layout, &[Blob::plain(tar_of(&[file("f", "1")]))]);
        std::fs::remove_file(&blobs[0]).unwrap();
        make(&blobs[0]);
        let error = build_into(&oci_dir(&layout), &scene.path("out")).unwrap_err();
        scene.check();
        assert!(error.starts_with("layer 1 sha256:"), "{name}: {error}");
    }
}

/// Compressed data that is none, or something else.
#[test]
fn blobs_that_do_not_decompress() {
    let tar = tar_of(&[file("f", vec![7; 20_000])]);
    let packed = gzip(&tar);
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    for (name, bytes) in [
        ("CVE-2021-20291: xz", b"\xfd7zXZ\0\0\x04garbage that is no tar".repeat(100)),
        ("plain tar", tar.clone()),
        ("cut", packed[..packed.len() / 2].to_vec()),
        ("no trailer", packed[..packed.len() - 4].to_vec()),
        ("wrong checksum", [&packed[..packed.len() - 8], &[1; 8]].concat()),
        ("garbage behind the end", [&packed[..], b"garbage"].concat()),
        ("nothing", Vec::new()),
    ] {
        let scene = Scene::new();
        let blob = Blob { bytes, diff_id: sha256(&tar), media_type };
        let error = build_blobs(scene.dir.path(), &[blob]).unwrap_err();
        scene.check();
        assert!(error.starts_with("layer 1"), "{name}: {error}");
    }
}

/// Sources that are not what they should be at all.
#[test]
fn sources_that_are_no_images() {
    let scene = Scene::new();
    let victim = scene.path("victim");
    for source in [
        SourceSpec::OciDir { path: victim.clone(), tag: None },
        SourceSpec::OciArchive { path: victim.join("hello"), tag: None },
        SourceSpec::DockerArchive { path: victim.join("hello"), tag: None },
        SourceSpec::Tar { path: victim.join("hello") },
        SourceSpec::Tar { path: victim.join("fifo") },
        SourceSpec::OciArchive { path: victim.join("fifo"), tag: None },
        SourceSpec::Tar { path: victim.clone() },
        SourceSpec::Dir { path: victim.join("hello") },
        SourceSpec::Dir { path: victim.join("fifo") },
        SourceSpec::Tar { path: PathBuf::from("/dev/null/x") },
    ] {
        build_into(&source, &scene.path("out")).map(drop).unwrap_err();
        scene.check();
    }
}
