//! Indexes, manifests, configurations, and the choice of an image.

use mkimg_oci::{Digest, Error, Image, Platform};
use serde_json::{Value, json};

use crate::support::*;

/// What the only layer of an image says.
fn text(image: &Image) -> String {
    let (tar, _) = read(&image.layers[0]).unwrap();
    String::from_utf8(tar[512..].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
}

fn host() -> String {
    Platform::host().to_string()
}

#[track_caller]
fn open_text(layout: &Layout, tag: Option<&str>, platform: Option<&str>) -> String {
    let dir = layout.write();
    text(&open_dir(dir.path(), tag, platform).unwrap())
}

/// An index with one image per platform.
fn index_of(layout: &mut Layout, platforms: &[&str]) -> Value {
    let mut entries = Vec::new();
    for name in platforms {
        let platform: Platform = name.parse().unwrap();
        let mut entry = layout.image(name, name);
        entry["platform"] = json!({"os": platform.os, "architecture": platform.arch});
        if let Some(variant) = platform.variant {
            entry["platform"]["variant"] = json!(variant);
        }
        entries.push(entry);
    }
    layout.index(&entries)
}

#[test]
fn documents_are_handed_out_as_they_are() {
    let mut layout = Layout::new();
    let manifest = layout.image("x", "linux/riscv64");
    layout.tag(manifest.clone(), "v1");
    let dir = layout.write();
    let image = open_dir(dir.path(), None, None).unwrap();
    assert_eq!(image.reference.as_deref(), Some("v1"));
    assert_eq!(image.platform, Some("linux/riscv64".parse().unwrap()));
    for document in [image.manifest.unwrap(), image.config.unwrap()] {
        assert_eq!(layout.files[&blob_path(&document.digest.to_string())], document.bytes);
        assert_eq!(Digest::of(&document.bytes), document.digest);
    }
    assert_eq!(image.layers[0].size, Some(2048));
}

#[test]
fn platform_choice() {
    let mut layout = Layout::new();
    let host = host();
    let index = index_of(
        &mut layout,
        &[
            "linux/s390x",
            "linux/arm/v6",
            &host,
            "linux/arm/v7",
            "linux/mips/r2",
            "linux/mips",
            "linux/ppc64le",
        ],
    );
    layout.tag(index, "x");
    for (wanted, found) in [
        (None, host.as_str()),
        (Some("linux/s390x"), "linux/s390x"),
        (Some("linux/arm/v7"), "linux/arm/v7"),
        (Some("linux/arm/v6"), "linux/arm/v6"),
        // The first of several variants, or the one without.
        (Some("linux/arm"), "linux/arm/v6"),
        (Some("linux/mips"), "linux/mips"),
    ] {
        assert_eq!(open_text(&layout, None, wanted), found);
    }
    for wanted in ["linux/sparc", "windows/s390x", "linux/s390x/z15", "linux/arm/v5"] {
        let result = layout.open(None, Some(wanted));
        assert_error!(
            result,
            Error::NoPlatform { .. },
            wanted,
            "linux/s390x",
            "linux/arm/v6, ",
            "linux/ppc64le"
        );
    }
}

#[test]
fn a_single_manifest_needs_no_platform_but_must_fit_a_named_one() {
    let mut layout = Layout::new();
    let manifest = layout.image("x", "linux/mips");
    layout.tag(manifest, "x");
    assert_eq!(open_text(&layout, None, None), "x");
    assert_eq!(open_text(&layout, None, Some("linux/mips")), "x");
    assert_error!(
        layout.open(None, Some("linux/s390x")),
        Error::NoPlatform { .. },
        "linux/s390x",
        "linux/mips"
    );

    // In an index it does.
    let mut layout = Layout::new();
    let index = index_of(&mut layout, &["linux/mips"]);
    layout.tag(index, "x");
    assert_error!(layout.open(None, None), Error::NoPlatform { .. }, host(), "available: linux/mips");
    assert_eq!(open_text(&layout, None, Some("linux/mips")), "linux/mips");
}

#[test]
fn an_index_without_platforms_is_asked_for_configurations() {
    let mut layout = Layout::new();
    let entries = [layout.image("a", "linux/mips"), layout.image("b", &host())];
    let index = layout.index(&entries);
    layout.tag(index, "x");
    assert_eq!(open_text(&layout, None, None), "b");
    assert_eq!(open_text(&layout, None, Some("linux/mips")), "a");
}

#[test]
fn a_descriptor_that_lies_about_the_platform() {
    let mut layout = Layout::new();
    let mut manifest = layout.image("a", "linux/mips");
    manifest["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let index = layout.index(&[manifest]);
    layout.tag(index, "x");
    assert_error!(layout.open(None, Some("linux/s390x")), Error::NoPlatform { .. }, "available: linux/mips");
}

#[test]
fn attestations_and_artifacts_are_no_images() {
    let mut layout = Layout::new();
    let mut image = layout.image("image", &host());
    image["platform"] = json!({"os": Platform::host().os, "architecture": Platform::host().arch});
    let mut attestation = layout.image("attestation", &host());
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let mut referrer = layout.image("referrer", &host());
    referrer["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut artifact = layout.image("artifact", &host());
    artifact["artifactType"] = json!("application/vnd.example");
    let other = json!({"mediaType": "application/vnd.example", "digest": digest(b""), "size": 0});
    let index = layout.index(&[attestation.clone(), other, artifact, referrer, image]);
    layout.tag(index, "x");
    assert_eq!(open_text(&layout, None, None), "image");

    let mut layout = Layout::new();
    let index = layout.index(&[attestation]);
    layout.tag(index, "x");
    assert_error!(layout.open(None, None), Error::NoImage { .. }, "no image");
}

#[test]
fn tags() {
    let mut layout = Layout::new();
    let mut digests = Vec::new();
    for name in ["one", "two:three", "reg.example/a/b:c"] {
        let manifest = layout.image(name, &host());
        digests.push(manifest["digest"].as_str().unwrap().to_owned());
        layout.tag(manifest, name);
    }
    for name in ["one", "two:three", "reg.example/a/b:c"] {
        assert_eq!(open_text(&layout, Some(name), None), name);
    }
    assert_eq!(open_text(&layout, Some(&digests[1]), None), "two:three");
    assert_error!(
        layout.open(None, None),
        Error::Ambiguous { count: 3, .. },
        "one, two:three, reg.example/a/b:c"
    );
    assert_error!(layout.open(Some("four"), None), Error::NoTag { .. }, "\"four\"", "one, two:three");
    // One image under two names is one image.
    let mut layout = Layout::new();
    let manifest = layout.image("x", "linux/mips");
    layout.tag(manifest.clone(), "a");
    layout.tag(manifest, "b");
    assert_eq!(open_text(&layout, None, None), "x");
    // Tags that fit different machines leave one.
    let mut layout = Layout::new();
    for platform in ["linux/mips", &host()] {
        let manifest = layout.image(platform, platform);
        layout.tag(manifest, platform);
    }
    assert_eq!(open_text(&layout, None, None), host());
    assert_eq!(open_text(&layout, None, Some("linux/mips")), "linux/mips");
    // A name for a terminal.
    let mut layout = Layout::new();
    for name in ["a\n\x1b[2J", "b"] {
        let manifest = layout.image(name, &host());
        layout.tag(manifest, name);
    }
    assert_error!(layout.open(None, None), Error::Ambiguous { .. }, r"a\n\u{1b}[2J, b");
}

#[test]
fn indexes_in_indexes() {
    for (depth, fine) in [(1, true), (8, true), (9, false)] {
        let mut layout = Layout::new();
        let mut entry = layout.image("deep", &host());
        for _ in 0..depth {
            entry = layout.index(&[entry]);
        }
        layout.tag(entry, "x");
        if fine {
            assert_eq!(open_text(&layout, None, None), "deep");
        } else {
            assert_error!(layout.open(None, None), Error::Limit { .. }, "index sha256:", "depth");
        }
    }
    // The same index again and again costs nothing.
    let mut layout = Layout::new();
    let mut entry = layout.image("wide", &host());
    for _ in 0..8 {
        entry = layout.index(&vec![entry; 100]);
    }
    layout.tag(entry, "x");
    assert_eq!(open_text(&layout, None, None), "wide");
    // Many different ones do.
    let mut layout = Layout::new();
    let mut entries = Vec::new();
    for i in 0..1001 {
        entries
            .push(layout.add(format!(r#"{{"schemaVersion":2,"manifests":[],"i":{i}}}"#).as_bytes(), INDEX));
    }
    let index = layout.index(&entries);
    layout.tag(index, "x");
    assert_error!(layout.open(None, None), Error::Limit { .. }, "number of documents", "1000");
}

#[test]
fn documents_are_limited_in_sum() {
    let mut layout = Layout::new();
    let entries: Vec<Value> = (0..6)
        .map(|i| {
            layout.add_json(
                &json!({"schemaVersion": 2, "manifests": [], "i": i, "x": "x".repeat(3 << 20)}),
                INDEX,
            )
        })
        .collect();
    let index = layout.index(&entries);
    layout.tag(index, "x");
    assert_error!(
        layout.open(None, None),
        Error::Limit { limit: 0x100_0000, .. },
        "index sha256:",
        "size of the documents"
    );
}

/// A layout whose manifest has passed through `change`.
fn changed_manifest(change: impl FnOnce(&mut Value)) -> (Layout, String) {
    let mut layout = Layout::new();
    let descriptor = layout.image("x", "linux/amd64");
    let bytes = &layout.files[&blob_path(descriptor["digest"].as_str().unwrap())];
    let mut manifest: Value = serde_json::from_slice(bytes).unwrap();
    change(&mut manifest);
    let descriptor = layout.add_json(&manifest, MANIFEST);
    let digest = descriptor["digest"].as_str().unwrap().to_owned();
    layout.tag(descriptor, "x");
    (layout, digest)
}

#[test]
fn optional_fields() {
    for change in [
        (|m| drop(m.as_object_mut().unwrap().remove("mediaType"))) as fn(&mut Value),
        |m| m["unknown"] = json!({"deep": [1, {"a": null}]}),
        |m| m["annotations"] = json!({"a": "b"}),
        |m| m["manifests"] = json!(null),
        |m| m["layers"][0]["annotations"] = json!(null),
        |m| m["layers"][0]["urls"] = json!(["https://example.org"]),
    ] {
        changed_manifest(change).0.open(None, None).unwrap();
    }
    // No layers: Go writes null.
    for empty in [json!(null), json!([])] {
        let mut layout = Layout::new();
        let config = layout.add_json(
            &json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": empty}}),
            CONFIG,
        );
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": empty});
        let manifest = layout.add_json(&manifest, MANIFEST);
        layout.tag(manifest, "x");
        assert_eq!(layout.open(None, None).unwrap().layers.len(), 0);
    }
}

#[test]
fn bad_manifests() {
    for (change, reason) in [
        ((|m| m["manifests"] = json!([])) as fn(&mut Value), "manifests of an index"),
        (|m| m["mediaType"] = json!(INDEX), "media type is"),
        (|m| m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json"), "media type is"),
        (|m| m["schemaVersion"] = json!(1), "schemaVersion is 1"),
        (|m| m["schemaVersion"] = json!("2"), "not valid"),
        (|m| drop(m.as_object_mut().unwrap().remove("schemaVersion")), "not valid"),
        (|m| drop(m.as_object_mut().unwrap().remove("config")), "without config"),
        (|m| m["layers"][0]["size"] = json!(-1), "not valid"),
        (|m| m["layers"][0]["size"] = json!(2048.0), "not valid"),
        (|m| m["layers"][0]["size"] = json!("2048"), "not valid"),
        (|m| m["layers"][0]["size"] = json!(u64::MAX), "2^63-1"),
        (|m| drop(m["layers"][0].as_object_mut().unwrap().remove("size")), "not valid"),
        (|m| m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd"), "not valid"),
        (|m| m["layers"][0]["digest"] = json!(format!("sha256:{}", "A".repeat(64))), "not valid"),
        (|m| m["layers"] = json!({}), "not valid"),
        (|m| *m = json!([]), "not valid"),
        (|m| *m = json!(null), "not valid"),
    ] {
        let (layout, digest) = changed_manifest(change);
        assert_error!(
            layout.open(None, None),
            Error::Document { .. } | Error::MediaType { .. },
            digest,
            reason
        );
    }
    for (text, reason) in [
        ("", "not valid"),
        ("{\"schemaVersion\":2", "not valid"),
        ("{\"schemaVersion\":2,\"schemaVersion\":2}", "duplicate"),
        ("{\"schemaVersion\":2} x", "trailing"),
        (&"[".repeat(100_000), "not valid"),
        (&format!("{{\"a\":{}", "[".repeat(100_000)), "not valid"),
        ("\u{feff}{}", "not valid"),
    ] {
        let mut layout = Layout::new();
        let descriptor = layout.add(text.as_bytes(), MANIFEST);
        layout.tag(descriptor, "x");
        assert_error!(layout.open(None, None), Error::Document { .. }, digest(text.as_bytes()), reason);
    }
}

#[test]
fn bad_layer_descriptors() {
    for (change, reason) in [
        (
            (|m| m["layers"][0]["mediaType"] = json!("application/vnd.example.tar+gzip")) as fn(&mut Value),
            "vnd.example",
        ),
        (|m| drop(m["layers"][0].as_object_mut().unwrap().remove("mediaType")), "media type \"\""),
        (|m| m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+xz"), "tar+xz"),
    ] {
        let (layout, _) = changed_manifest(change);
        let layer = digest(&tar(&[("text", b"x")]));
        assert_error!(layout.open(None, None), Error::MediaType { .. }, "layer 1", layer, reason);
    }
}

#[test]
fn bad_indexes() {
    let mut layout = Layout::new();
    let manifest = layout.image("x", "linux/amd64");
    for (document, reason) in [
        (
            json!({"schemaVersion": 2, "manifests": [manifest], "layers": []}),
            "config or layers of a manifest",
        ),
        (
            json!({"schemaVersion": 2, "manifests": [manifest], "config": manifest}),
            "config or layers of a manifest",
        ),
        (json!({"schemaVersion": 2, "mediaType": MANIFEST, "manifests": [manifest]}), "media type is"),
        (json!({"schemaVersion": 1, "manifests": [manifest]}), "schemaVersion"),
        (json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "size": 1}]}), "digest"),
    ] {
        let text = serde_json::to_vec(&document).unwrap();
        let mut one = layout.clone();
        one.files.insert("index.json".to_owned(), text.clone());
        assert_error!(
            one.open(None, None),
            Error::Document { .. } | Error::MediaType { .. },
            "index.json",
            reason
        );

        let mut one = layout.clone();
        let descriptor = one.add(&text, INDEX);
        one.tag(descriptor, "x");
        let kind = digest(&text);
        assert_error!(one.open(None, None), Error::Document { .. } | Error::MediaType { .. }, kind, reason);
    }
    // Promised as the other.
    let index = layout.index(std::slice::from_ref(&manifest));
    for (mut descriptor, promised) in [(index, MANIFEST), (manifest.clone(), INDEX)] {
        descriptor["mediaType"] = json!(promised);
        let mut one = layout.clone();
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        one.tag(descriptor, "x");
        assert_error!(one.open(None, None), Error::MediaType { .. }, digest, promised);
    }
    let mut descriptor = manifest;
    descriptor["mediaType"] = json!("application/vnd.example");
    layout.tag(descriptor, "x");
    assert_error!(layout.open(None, None), Error::MediaType { .. }, "manifest sha256:", "vnd.example");
    assert_error!(Layout::new().open(None, None), Error::NoImage { .. }, "lists nothing");
}

#[test]
fn bad_configurations() {
    let data = tar(&[("text", b"x")]);
    let ids = json!([digest(&data)]);
    for (config, reason) in [
        (json!({"rootfs": {"type": "layers", "diff_ids": []}}), "0 diff ids for 1 layers"),
        (json!({"rootfs": {"type": "layers", "diff_ids": [ids[0], ids[0]]}}), "2 diff ids for 1 layers"),
        (json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}), "not valid"),
        (json!({"rootfs": {"type": "layers+base", "diff_ids": ids}}), "rootfs.type"),
        (json!({"os": "linux"}), "rootfs"),
        (json!("x"), "not valid"),
    ] {
        let mut layout = Layout::new();
        let layer = layout.add(&data, PLAIN);
        let config = layout.add_json(&config, CONFIG);
        let manifest = layout.manifest(&config, &[layer]);
        layout.tag(manifest, "x");
        let digest = config["digest"].as_str().unwrap();
        assert_error!(layout.open(None, None), Error::Document { .. }, "config", digest, reason);
    }
    let mut layout = Layout::new();
    let config = layout.add(b"{}", "application/vnd.oci.empty.v1+json");
    let manifest = layout.manifest(&config, &[]);
    layout.tag(manifest, "x");
    assert_error!(layout.open(None, None), Error::MediaType { .. }, digest(b"{}"), "vnd.oci.empty");
}

#[test]
fn documents_are_checked() {
    // Manifest, configuration and nested index: cut, changed, missing, too large.
    let mut layout = Layout::new();
    let manifest = layout.image("x", &host());
    let index = layout.index(std::slice::from_ref(&manifest));
    layout.tag(index.clone(), "x");
    let bytes = &layout.files[&blob_path(manifest["digest"].as_str().unwrap())];
    let config = serde_json::from_slice::<Value>(bytes).unwrap()["config"].clone();
    for descriptor in [manifest, index, config] {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = blob_path(digest);
        let mut changed = layout.clone();
        let last = changed.files[&path].len() - 1;
        changed.files.get_mut(&path).unwrap()[last] = b' ';
        assert_error!(changed.open(None, None), Error::Digest { .. }, digest);
        changed.files.get_mut(&path).unwrap().pop();
        assert_error!(changed.open(None, None), Error::Size { .. }, digest);
        changed.files.insert(path.clone(), vec![b' '; 5 << 20]);
        assert_error!(changed.open(None, None), Error::Limit { .. }, digest, "4194304");
        changed.files.remove(&path);
        assert_error!(changed.open(None, None), Error::Missing { .. }, digest);
    }
    let dir = layout.write();
    let path = dir.path().join("index.json");
    std::fs::remove_file(&path).unwrap();
    assert_error!(open_dir(dir.path(), None, None), Error::Missing { .. }, "index.json");
    std::os::unix::fs::symlink("oci-layout", &path).unwrap();
    assert_error!(open_dir(dir.path(), None, None), Error::NotRegular { .. }, "index.json", "symlink");
    let filler = "x".repeat(5 << 20);
    let (large, digest) = changed_manifest(|m| m["filler"] = json!(filler));
    assert_error!(large.open(None, None), Error::Limit { .. }, digest, "4194304");
    layout.files.insert("index.json".to_owned(), vec![b' '; (4 << 20) + 1]);
    assert_error!(layout.open(None, None), Error::Limit { .. }, "index.json", "4194304");
    assert_error!(
        open_dir(std::path::Path::new("/nonexistent"), None, None),
        Error::Io { .. },
        "/nonexistent"
    );
}
