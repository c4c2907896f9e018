//! `mkimg export`: what it writes and prints is read by the tools that it is for.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{Finished, mkimg, tool};
use mkimg_tests::need::Need;
use mkimg_tests::signer::Signer;
use mkimg_tests::{args, images, names_in, require, scratch, sha256_of};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A small image from a directory, under this name.
fn image(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
    let (source, image) = (dir.join("source"), dir.join(name));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), images::pattern(100_000, 1)).unwrap();
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image]).args(options).ok();
    image
}

fn verity(image: &Path) -> Value {
    mkimg(args!["inspect", "--json", image]).ok().json()["verity"].clone()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn flip(file: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Options of `export` that write each of the sidecars.
const SIDECARS: [&str; 8] =
    ["--sidecar", "roothash", "--sidecar", "verity", "--sidecar", "dmverity", "--sidecar", "verity-json"];

#[test]
fn sidecars_are_those_of_veritysetup() {
    require!(Need::Tool("veritysetup"));
    for options in [&[][..], &["--fec", "2"]] {
        let dir = scratch();
        let image = image(dir.path(), "web.raw", options);
        let _ = mkimg(args!["export", image]).args(SIDECARS).ok();
        let mut written = names_in(dir.path());
        written.retain(|name| name.starts_with("web"));
        let wanted = ["web.raw", "web.raw.dmverity", "web.raw.verity.json", "web.roothash", "web.verity"];
        assert_eq!(written, wanted);

        let [root_hash, tree] = ["web.roothash", "web.verity"].map(|name| dir.path().join(name));
        let root_hash = format!("--root-hash-file={}", root_hash.display());
        let offset = format!("--hash-offset={}", verity(&image)["hash_offset"]);
        let _ = tool("veritysetup", args!["verify", image, image, offset, root_hash]).ok();
        let _ = tool("veritysetup", args!["verify", image, tree, root_hash]).ok();
        // The tree is all there is in the file: superblock, root block, nothing else.
        let dump = tool("veritysetup", args!["dump", tree]).ok().out();
        assert!(dump.contains("Hash blocks:     \t1\n"), "{dump}");
        assert_eq!(std::fs::metadata(&tree).unwrap().len(), 2 * 4096);
        flip(&tree, 4096);
        let _ = tool("veritysetup", args!["verify", image, tree, root_hash]).output().code(2);
    }
}

#[test]
fn documents_say_what_inspect_says() {
    let dir = scratch();
    let image = image(dir.path(), "layer.erofs", &["--fec", "2"]);
    let _ = mkimg(args!["export", image]).args(SIDECARS).ok();
    let verity = verity(&image);
    // The names and types of containerd's DmverityMetadata, and no other.
    let (root_hash, offset) = (&verity["root_hash"], &verity["hash_offset"]);
    let wanted = json!({ "roothash": root_hash, "hashoffset": offset });
    assert_eq!(json_of(&dir.path().join("layer.erofs.dmverity")), wanted);

    let document = json_of(&dir.path().join("layer.erofs.verity.json"));
    let mut known = 0;
    for (key, value) in document.as_object().unwrap() {
        if let Some(wanted) = verity.get(key) {
            assert_eq!(value, wanted, "{key}");
            known += 1;
        }
    }
    assert_eq!(known, 7, "fields of both");
    assert_eq!(document["fec"]["roots"], verity["fec_roots"]);
    assert_eq!(document["fec"]["offset"], verity["fec_offset"]);
    if let Ok(()) = Need::Tool("veritysetup").check() {
        let dump = tool("veritysetup", args!["dump", image, format!("--hash-offset={offset}")]).ok().out();
        assert!(dump.contains(document["uuid"].as_str().unwrap()), "{dump}");
    }
}

#[test]
fn root_systemd_finds_the_sidecars() {
    require!(Need::Root, Need::Loop, Need::Tool("systemd-dissect"), Need::Tool("openssl"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let image = image(dir.path(), "web.raw", &[]);
    let verity = |image: &Path, options: &[String]| {
        let found = tool("systemd-dissect", args!["--json=short", image]).args(options).ok().json();
        found["mounts"][0]["verity"].clone()
    };
    assert_eq!(verity(&image, &[]), Value::Null, "without sidecars");
    let _ = mkimg(args!["sign", image, "--key", signer.key, "--cert", signer.certificate]).ok();
    let _ = mkimg(args!["export", image, "--sidecar", "p7s"]).args(SIDECARS).ok();
    assert_eq!(verity(&image, &[]), "external");
    // Whatever the image is called, it takes them when it is told.
    let [tree, root_hash, signature] =
        ["web.verity", "web.roothash", "web.roothash.p7s"].map(|name| dir.path().join(name));
    let renamed = dir.path().join("image");
    let _ = std::fs::copy(&image, &renamed).unwrap();
    let digits = std::fs::read_to_string(root_hash).unwrap().trim_end().to_owned();
    let options = [
        format!("--root-hash={digits}"),
        format!("--verity-data={}", tree.display()),
        format!("--root-hash-sig={}", signature.display()),
    ];
    assert_eq!(verity(&renamed, &options), "external");
    // The signature is over the digits, without a line end.
    let text = dir.path().join("digits");
    std::fs::write(&text, digits).unwrap();
    let checks = ["smime", "-verify", "-binary", "-inform", "DER", "-noverify", "-in"];
    let _ = tool("openssl", checks)
        .args(args![signature, "-content", text, "-certfile", signer.certificate])
        .ok();
}

#[test]
fn printed_lines_run_in_a_shell() {
    require!(Need::Tool("veritysetup"));
    let dir = scratch();
    let odd = dir.path().join("a b\"c");
    std::fs::create_dir(&odd).unwrap();
    for (name, options) in [("it's $HOME.img", &[][..]), ("-`id`; #*.img", &["--fec", "2"])] {
        let image = image(&odd, name, options);
        let printed = mkimg(args!["export", format!("./{name}"), "--print", "veritysetup"])
            .current_dir(&odd)
            .ok()
            .out();
        // Mapping takes device-mapper, which is a matter of the virtual machines.
        let check: String = printed.lines().filter(|line| line.starts_with("veritysetup verify ")).collect();
        assert!(check.contains(odd.to_str().unwrap()), "{check}");
        let run = || tool("sh", ["-euc", &check]).current_dir(dir.path()).output();
        let _ = run().code(0);
        flip(&image, 8000);
        let _ = run().code(2);
    }
}

#[test]
fn root_a_device_needs_no_loop() {
    require!(Need::Root, Need::Loop, Need::Tool("losetup"));
    let dir = scratch();
    let image = image(dir.path(), "web.img", &[]);
    let device = tool("losetup", args!["--find", "--show", "--read-only", image]).ok().out();
    let device = device.trim_end();
    let printed = mkimg(["export", device, "--print", "dmsetup"]).output();
    let _ = tool("losetup", ["--detach", device]).ok();
    let printed = printed.code(0).out();
    assert!(printed.starts_with(&format!("device={device} &&\ndmsetup create ")), "{printed}");
    assert!(!printed.contains("losetup"), "{printed}");
}

#[test]
fn all_that_is_printed_is_a_line_of_its_kind_or_a_comment() {
    require!(Need::Tool("openssl"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let image = image(dir.path(), "web.raw", &["--fec", "2"]);
    let _ = mkimg(args!["sign", image, "--key", signer.key, "--cert", signer.certificate]).ok();
    let root_hash = verity(&image)["root_hash"].as_str().unwrap().to_owned();
    let all = mkimg(args!["export", image, "--print", "all", "--sidecar", "roothash"]).ok().out();
    let lines: Vec<&str> = all.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
    let path = image.display();
    let device = format!("/verity-{}", &root_hash[..16]);
    let wanted = [
        format!("veritysetup verify {path} {path} {root_hash} --hash-offset="),
        format!("veritysetup open {path} verity-"),
        format!("device=$(losetup --find --show --read-only {path}) &&"),
        format!("dmsetup create {} --readonly --table \"0 ", &device[1..]),
        "{ losetup --detach \"$device\"; false; }".to_owned(),
        "[Service]".to_owned(),
        format!("RootImage={path}"),
        format!("RootHash={root_hash}"),
        format!("RootVerity={}", dir.path().join("web.verity").display()),
        format!("RootHashSignature={}", dir.path().join("web.roothash.p7s").display()),
        format!("policy_name={} policy_version=0.0.0", &device[1..]),
        "DEFAULT action=ALLOW".to_owned(),
        "DEFAULT op=EXECUTE action=DENY".to_owned(),
        "op=EXECUTE boot_verified=TRUE action=ALLOW".to_owned(),
        format!("op=EXECUTE dmverity_roothash=sha256:{root_hash} action=ALLOW"),
        "measure func=CRITICAL_DATA label=device-mapper template=ima-buf".to_owned(),
    ];
    assert_eq!(lines.len(), wanted.len(), "{all}");
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.starts_with(&wanted), "{line}\nis not {wanted}");
    }
    // What only an image with a signature has.
    assert!(all.contains("# op=EXECUTE dmverity_signature=TRUE action=ALLOW\n"), "{all}");
    assert!(all.contains("/web.roothash.p7s\n# mount "), "{all}");
    // One kind alone is the same lines, in the order of the list, whatever was asked first.
    let two = mkimg(args!["export", image, "--print", "ima", "--print", "ipe", "--json"]).ok().json();
    let tools: Vec<&str> =
        two["lines"].as_array().unwrap().iter().map(|line| line["tool"].as_str().unwrap()).collect();
    assert_eq!(tools, ["ipe", "ima"]);
    for line in two["lines"].as_array().unwrap() {
        assert!(all.contains(line["text"].as_str().unwrap()), "{line}");
    }
}

#[test]
fn systemd_takes_the_settings() {
    require!(Need::Tool("systemd-analyze"), Need::Tool("openssl"));
    let dir = scratch();
    let signer = Signer::new(dir.path(), "signer");
    let image = image(dir.path(), "50 % of it's \"web\".raw", &[]);
    let _ = mkimg(args!["sign", image, "--key", signer.key, "--cert", signer.certificate]).ok();
    let printed =
        mkimg(args!["export", image, "--print", "systemd", "--sidecar", "verity", "--sidecar", "p7s"]).ok();
    let unit = dir.path().join("web.service");
    let check = |settings: &str| {
        std::fs::write(&unit, format!("{settings}ExecStart=/bin/true\n")).unwrap();
        tool("systemd-analyze", args!["verify", unit]).output().err()
    };
    let said = check(&printed.out());
    assert!(!said.contains("web.service:"), "{said}");
    // It would have said so.
    let said = check(&printed.out().replace("RootVerity=/", "RootVerity="));
    assert!(said.contains("web.service:"), "{said}");
}

/// Manifest and configuration of a layout, and the path of its layer.
fn read_layout(layout: &Path) -> (Value, Value, PathBuf) {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = layout.join("blobs/sha256").join(digest);
        assert_eq!(sha256_of(&path), digest);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), descriptor["size"].as_u64().unwrap());
        path
    };
    let index = json_of(&layout.join("index.json"));
    let manifest = json_of(&blob(&index["manifests"][0]));
    let config = json_of(&blob(&manifest["config"]));
    let layer = blob(&manifest["layers"][0]);
    assert_eq!(names_in(&layout.join("blobs/sha256")).len(), 3);
    (manifest, config, layer)
}

fn draft(image: &Path, layout: &Path, flavor: &str) -> Finished {
    mkimg(args!["export", image, "--draft-oci", layout, "--flavor", flavor, "--json"]).ok()
}

#[test]
fn a_layout_holds_the_image_and_the_configuration_of_its_source() {
    let dir = scratch();
    let image = dir.path().join("web.img");
    let _ = mkimg(args!["build", images::sample(), "-o", image, "--compress", "zstd", "--name", "web"]).ok();
    let original: Value = mkimg(args!["inspect", "--config", image]).ok().json();
    let root_hash = verity(&image)["root_hash"].as_str().unwrap().to_owned();
    for (flavor, media_type) in [
        ("containerd", "application/vnd.erofs.layer.v1"),
        ("erofs", "application/vnd.erofs"),
        ("stacker", "application/vnd.stacker.image.layer.erofs+zstd+verity"),
    ] {
        let layout = dir.path().join(flavor);
        let said = draft(&image, &layout, flavor).json()["draft_oci"].clone();
        let (manifest, mut config, layer) = read_layout(&layout);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        let descriptor = &manifest["layers"][0];
        assert_eq!(descriptor["mediaType"], media_type);
        assert_eq!(
            [&said["media_type"], &said["layer"], &said["reference"]],
            [&descriptor["mediaType"], &descriptor["digest"], &json!("web")]
        );
        let annotations = json!({
            "io.stackeroci.stacker.atomfs_verity_root_hash": root_hash,
            "org.erofs.dmverity.block_size": "4096",
            "org.erofs.dmverity.hash_offset": verity(&image)["hash_offset"].to_string(),
            "org.erofs.dmverity.root_digest": format!("sha256:{root_hash}"),
        });
        assert_eq!(descriptor["annotations"], annotations);
        assert_eq!(std::fs::read(&layer).unwrap(), std::fs::read(&image).unwrap());
        let _ = mkimg(args!["verify", layer, "--root-hash", root_hash]).ok();

        // All that a runtime goes by is as it was.
        assert_eq!(config["rootfs"], json!({ "type": "layers", "diff_ids": [descriptor["digest"]] }));
        assert_eq!(config["os.features"], json!(["erofs"]));
        assert_eq!(config["history"].as_array().unwrap().len(), 1);
        let config = config.as_object_mut().unwrap();
        let mut rest = original.clone();
        for key in ["rootfs", "history", "os.features"] {
            let _ = config.remove(key);
            let _ = rest.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(*config, *rest.as_object().unwrap());

        // The same bytes again, and nothing of what is there is replaced.
        let again = dir.path().join("again");
        assert_eq!(draft(&image, &again, flavor).json()["draft_oci"]["manifest"], said["manifest"]);
        assert_eq!(sha256_of(&again.join("index.json")), sha256_of(&layout.join("index.json")));
        std::fs::remove_dir_all(&again).unwrap();
        let refused = mkimg(args!["export", image, "--draft-oci", layout]).output().code(1);
        assert!(refused.error_line().ends_with("exists and is not empty"), "{}", refused.err());
    }
    // A signature that comes later changes the image and not the blob.
    let (.., layer) = read_layout(&dir.path().join("erofs"));
    flip(&image, std::fs::metadata(&image).unwrap().len() - 1);
    assert_ne!(sha256_of(&image), sha256_of(&layer));
    let _ = read_layout(&dir.path().join("erofs"));
}

#[test]
fn a_layout_is_copied_and_read_by_others() {
    require!(Need::Tool("skopeo"), Need::Tool("umoci"));
    let dir = scratch();
    let image = image(dir.path(), "web.img", &[]);
    for flavor in ["containerd", "erofs", "stacker"] {
        // An empty directory will do.
        let layout = dir.path().join(flavor);
        std::fs::create_dir(&layout).unwrap();
        let said = draft(&image, &layout, flavor).json()["draft_oci"].clone();
        let inspected = tool("skopeo", args!["inspect", format!("oci:{}:latest", layout.display())]).ok();
        let inspected = inspected.json();
        assert_eq!([&inspected["Digest"], &inspected["Layers"][0]], [&said["manifest"], &said["layer"]]);
        assert_eq!(inspected["Os"], "linux");
        assert!(!inspected["Architecture"].as_str().unwrap().is_empty());
        let (from, to) = (format!("oci:{}", layout.display()), dir.path().join(format!("{flavor}-copy")));
        let _ = tool("skopeo", args!["copy", "-q", from, format!("oci:{}:latest", to.display())]).ok();
        assert_eq!(read_layout(&to), {
            let (manifest, config, layer) = read_layout(&layout);
            (manifest, config, to.join(layer.strip_prefix(&layout).unwrap()))
        });
        let _ = tool("umoci", args!["stat", "--image", format!("{}:latest", layout.display())]).ok();
    }
}

#[test]
fn refusals_come_before_anything_is_written() {
    let dir = scratch();
    let good = image(dir.path(), "good.img", &[]);
    let seal = dir.path().join("good.seal");
    let _ = mkimg(args!["seal", good, "-o", seal]).ok();
    let [damaged, line, text, layout] =
        ["damaged.img", "two\nlines.img", "text.img", "layout"].map(|name| dir.path().join(name));
    for copy in [&damaged, &line] {
        let _ = std::fs::copy(&good, copy).unwrap();
    }
    flip(&damaged, 5000);
    std::fs::write(&text, "no image".repeat(1000)).unwrap();
    let other = "0".repeat(64);
    let before = names_in(dir.path());
    for (image, options, reason) in [
        (&good, &["--sidecar", "p7s"][..], "has no PKCS#7 signature; mkimg sign --cert makes one"),
        (&seal, &["--sidecar", "roothash"], "is a detached seal; give the image itself"),
        (&text, &["--sidecar", "roothash"], "trailer at byte"),
        (&damaged, &["--sidecar", "verity"], "is not exported, for it is damaged"),
        (&damaged, &["--draft-oci", layout.to_str().unwrap()], "is not exported, for it is damaged"),
        (&line, &["--print", "all", "--sidecar", "roothash"], "cannot be named in a line for other tools"),
        (&good, &["--sidecar", "roothash", "--root-hash", &other], "does not lead to root hash 0000"),
        (&good, &["--sidecar", "roothash", "--require-signature"], "a signature is wanted"),
    ] {
        let refused = mkimg(args!["export", image]).args(options).output().code(1);
        assert!(refused.error_line().contains(reason), "{options:?}: {}", refused.err());
    }
    for options in [&[][..], &["--json"], &["--flavor", "erofs"], &["--print", "nobody"]] {
        let _ = mkimg(args!["export", good]).args(options).output().code(2);
    }
    assert_eq!(names_in(dir.path()), before);
    // Damage of file data is no matter for lines and digests: they say how it is found.
    let _ = mkimg(args!["export", damaged, "--sidecar", "roothash", "--print", "veritysetup"]).ok();
}

#[test]
fn no_command_believes_a_sidecar() {
    let dir = scratch();
    let image = image(dir.path(), "web.raw", &[]);
    let verify = || {
        let out = mkimg(args!["verify", image, "--json"]).ok().json_lines().pop().unwrap();
        [out["root_hash"].clone(), out["anchored"].clone()]
    };
    let before = verify();
    assert_eq!(before[1], false);
    let _ = mkimg(args!["export", image]).args(SIDECARS).ok();
    for name in ["web.roothash", "web.verity", "web.raw.dmverity", "web.raw.verity.json"] {
        assert_eq!(verify(), before, "with {name}");
        std::fs::write(dir.path().join(name), "0".repeat(64)).unwrap();
        assert_eq!(verify(), before, "with a lie in {name}");
    }
    // And export replaces the lies.
    let _ = mkimg(args!["export", image]).args(SIDECARS).ok();
    let root_hash = std::fs::read_to_string(dir.path().join("web.roothash")).unwrap();
    assert_eq!(root_hash.trim_end(), before[0]);
}
