//! Parity and repair, as users and other tools see them: `veritysetup` writes the same parity, threads make no difference, and
//! what is damaged is mended or named.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::need::Need;
use mkimg_tests::{args, images, names_in, require, scratch};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Builds an image of one file of so many blocks, and returns what `inspect` says.
fn build_blocks(dir: &Path, blocks: usize, roots: &str, threads: &str) -> Value {
    let source = dir.join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), images::pattern(blocks * 4096, 5)).unwrap();
    build(dir, &format!("dir:{}", source.display()), roots, threads)
}

fn build(dir: &Path, source: &str, roots: &str, threads: &str) -> Value {
    let image = dir.join("image");
    let _ = mkimg(args![
        "build",
        "--compress",
        "none",
        source,
        "--fec",
        roots,
        "--threads",
        threads,
        "-o",
        image
    ])
    .ok();
    mkimg(args!["inspect", "--json", image]).ok().json()
}

fn verity(inspection: &Value, key: &str) -> u64 {
    inspection["verity"][key].as_u64().unwrap()
}

/// Blocks that the parity protects: data and tree.
fn message(inspection: &Value) -> u64 {
    verity(inspection, "fec_offset") / 4096 - 1
}

/// Has `veritysetup` make tree and parity of the data of `image` anew, and compares.
fn assert_as_veritysetup(dir: &Path, inspection: &Value, what: &str) {
    let (image, theirs) = (dir.join("image"), dir.join("theirs"));
    let bytes = std::fs::read(&image).unwrap();
    let [hash, data, parity, roots] =
        ["hash_offset", "data_blocks", "fec_offset", "fec_roots"].map(|key| verity(inspection, key));
    std::fs::write(&theirs, &bytes[..usize::try_from(hash).unwrap()]).unwrap();
    let places = |file: &Path| {
        let file = file.display();
        [
            format!("--hash-offset={hash}"),
            format!("--data-blocks={data}"),
            format!("--fec-device={file}"),
            format!("--fec-offset={parity}"),
            format!("--fec-roots={roots}"),
        ]
    };
    let made =
        command::tool("veritysetup", args!["format", "--salt=-", theirs, theirs]).args(places(&theirs)).ok();
    let root = inspection["verity"]["root_hash"].as_str().unwrap();
    assert!(made.out().contains(root), "{what}: {}", made.out());
    let found = std::fs::read(&theirs).unwrap();
    let tree = usize::try_from(hash).unwrap() + 4096;
    assert!(found[tree..] == bytes[tree..bytes.len() - 4096], "{what}: tree or parity differ");
    let _ = command::tool("veritysetup", args!["verify", image, image, root]).args(places(&image)).ok();
}

#[test]
fn parity_is_that_of_veritysetup() {
    require!(Need::Tool("veritysetup"));
    for roots in [2, 8, 24] {
        let (dir, rows) = (scratch(), 255 - roots);
        let text = roots.to_string();
        // The last block of a row, the first of the next, and what is far from either.
        for wanted in [30, rows - 1, rows, rows + 1, 2 * rows, 2 * rows + 1, 5 * rows - 7] {
            let mut blocks = 1;
            let mut inspection = build_blocks(dir.path(), 1, &text, "2");
            // More data is more tree, so it takes an attempt or two to come out right.
            while message(&inspection) != wanted {
                blocks = blocks + usize::try_from(wanted).unwrap()
                    - usize::try_from(message(&inspection)).unwrap();
                inspection = build_blocks(dir.path(), blocks, &text, "2");
            }
            let rounds = wanted.div_ceil(rows);
            assert_eq!(verity(&inspection, "fec_blocks"), rounds * roots, "{wanted} blocks, {roots} roots");
            assert_as_veritysetup(dir.path(), &inspection, &format!("{wanted} blocks, {roots} roots"));
        }
    }
}

#[test]
fn parity_of_a_real_image_is_that_of_veritysetup() {
    require!(Need::Tool("veritysetup"));
    let (dir, image) = (scratch(), "image");
    for compression in ["none", "lz4", "zstd"] {
        let image = dir.path().join(image);
        let options = ["--fec", "3", "--compress", compression];
        let _ = mkimg(args!["build", images::sample(), "-o", image]).args(options).ok();
        let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
        assert_as_veritysetup(dir.path(), &inspection, compression);
        assert_eq!(inspection["options"]["fec"], "3");
        let _ = mkimg(args!["verify", image]).ok();
    }
}

#[test]
fn threads_make_no_difference() {
    let dir = scratch();
    let _ = build_blocks(dir.path(), 3000, "2", "2");
    let source = format!("dir:{}", dir.path().join("source").display());
    for roots in ["2", "24"] {
        let mut built: Vec<Vec<u8>> = Vec::new();
        for threads in ["1", "2", "8"] {
            let _ = build(dir.path(), &source, roots, threads);
            built.push(std::fs::read(dir.path().join("image")).unwrap());
        }
        assert!(built[0] == built[1] && built[1] == built[2], "{roots} roots");
    }
}

#[test]
fn without_parity_nothing_speaks_of_it() {
    let dir = scratch();
    let image = dir.path().join("image");
    let _ = mkimg(args!["build", images::sample(), "-o", image]).ok();
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    assert_eq!(["fec_roots", "fec_offset", "fec_blocks"].map(|key| verity(&inspection, key)), [0; 3]);
    assert_eq!(inspection["options"]["fec"], Value::Null);
    for wrong in ["0", "1", "25", "255", "x", "-1"] {
        let refused = mkimg(args!["build", images::sample(), "-o", image, format!("--fec={wrong}")]);
        let _ = refused.output().code(2);
    }
}

/// The whole way: damage is found, mended into a new file, and the damaged one is as it was.
#[test]
fn a_damaged_image_is_mended_or_left() {
    let dir = scratch();
    let inspection = build_blocks(dir.path(), 3000, "2", "2");
    let root = inspection["verity"]["root_hash"].as_str().unwrap();
    let (image, mended) = (dir.path().join("image"), dir.path().join("mended"));
    let good = std::fs::read(&image).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    // A burst over data, as long as the parity is.
    let burst = usize::try_from(verity(&inspection, "fec_blocks")).unwrap() * 4096;
    file.write_all_at(&vec![0; burst], 40 * 4096).unwrap();
    let damaged = std::fs::read(&image).unwrap();
    let _ = mkimg(args!["verify", image, "--root-hash", root]).output().code(1);

    let said = mkimg(args!["repair", image, "-o", mended, "--root-hash", root]).ok().out();
    assert!(said.contains("mended up to the given root hash"), "{said}");
    assert!(std::fs::read(&mended).unwrap() == good, "the mended image is the image");
    assert!(std::fs::read(&image).unwrap() == damaged, "the damaged image is as it was");
    std::fs::remove_file(&mended).unwrap();

    // One block more than the burst: nothing is written, and the file is named whose data is lost.
    file.write_all_at(&vec![0; 4096], 40 * 4096 + burst as u64).unwrap();
    let names = names_in(dir.path());
    let done = mkimg(args!["repair", image, "-o", mended, "--json"]).output().code(1);
    let lines = done.json_lines();
    assert_eq!(names_in(dir.path()), names, "nothing is left behind");
    let summary = lines.last().unwrap();
    assert_eq!((&summary["repaired"], &summary["anchored"]), (&Value::Bool(false), &Value::Bool(false)));
    assert!(lines.iter().any(|line| line["region"] == "data" && line["paths"][0] == "/file"), "{lines:?}");
    let done = mkimg(args!["repair", image, "-o", mended]).output().code(1);
    assert!(done.out().contains("nothing was written"), "{}", done.out());

    // A copy that is damaged elsewhere, and the seal.
    let (copy, seal) = (dir.path().join("copy"), dir.path().join("seal"));
    let mut other = good.clone();
    other[..4096].fill(0);
    std::fs::write(&copy, &other).unwrap();
    let _ = mkimg(args!["repair", image, "-o", mended, "--from", copy, "--root-hash", root]).ok();
    assert!(std::fs::read(&mended).unwrap() == good, "the copy has what is missing");
    let _ = mkimg(args!["seal", mended, "-o", seal]).ok();
    let _ = mkimg(args!["repair", copy, "-o", mended, "--from", seal]).ok();
    assert!(std::fs::read(&mended).unwrap() == good, "the seal has block 0");

    // Never in place, and no seals.
    for (output, from) in [(&image, &copy), (&copy, &copy)] {
        let refused = mkimg(args!["repair", image, "-o", output, "--from", from]).output().code(1);
        assert!(refused.error_line().contains("is the input itself"), "{}", refused.err());
    }
    let refused = mkimg(args!["repair", seal, "-o", mended]).output().code(1);
    assert!(refused.error_line().contains("detached seal"), "{}", refused.err());
}

/// A registry on a port of its own, until it is dropped.
struct Registry {
    child: Child,
    host: String,
}

impl Registry {
    /// Serves what lies below `dir`; `http` and `more` go into its configuration.
    fn start(dir: &Path, http: &str, more: &str) -> Self {
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (root, config) = (dir.join("registry"), dir.join("registry.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'{http}}}\n{more}\n",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = command::tool("docker-registry", args!["serve", config]).spawn();
        let begun = Instant::now();
        while TcpStream::connect(&host).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, host }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A layout with one manifest, whose one layer is a file; returns the digest of that.
fn layout_of(dir: &Path, layer: &[u8]) -> String {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let path = blobs.join("new");
        std::fs::write(&path, bytes).unwrap();
        let digest = mkimg_tests::sha256_of(&path);
        std::fs::rename(&path, blobs.join(&digest)).unwrap();
        serde_json::json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let layer = put("application/octet-stream", layer);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest_type, "artifactType": "application/vnd.example.image",
        "config": put("application/vnd.oci.empty.v1+json", b"{}"), "layers": [layer],
    });
    let mut manifest = put(manifest_type, manifest.to_string().as_bytes());
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "v1"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layer["digest"].as_str().unwrap().to_owned()
}

/// A copy in a registry: what is damaged is fetched from there, and little else.
#[test]
fn a_copy_in_a_registry_mends_what_is_damaged() {
    require!(Need::Tool("docker-registry"), Need::Tool("skopeo"));
    let dir = scratch();
    let inspection = build_blocks(dir.path(), 8000, "2", "2");
    let root = inspection["verity"]["root_hash"].as_str().unwrap();
    let (image, mended, seal) =
        (dir.path().join("image"), dir.path().join("mended"), dir.path().join("seal"));
    let good = std::fs::read(&image).unwrap();
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let registry = Registry::start(dir.path(), "", "");
    let host = &registry.host;
    let push = |name: &str, bytes: &[u8]| {
        let layout = dir.path().join(name);
        let digest = layout_of(&layout, bytes);
        let from = format!("oci:{}:v1", layout.display());
        let to = format!("docker://{host}/{name}:v1");
        let _ = command::tool("skopeo", args!["copy", "--dest-tls-verify=false", from, to]).ok();
        digest
    };
    let digest = push("images/web", &good);
    let _ = push("seals/web", &std::fs::read(&seal).unwrap());

    // Two runs of blocks, some more with gaps between, and a single one: more than the parity mends.
    let bad: Vec<u64> = (1000..1300).chain((2000..2040).step_by(4)).chain([7000]).collect();
    let mut damaged = good.clone();
    for block in &bad {
        damaged[usize::try_from(block * 4096).unwrap()] ^= 1;
    }
    std::fs::write(&image, &damaged).unwrap();
    let damage = bad.len() as u64 * 4096;
    let _ = mkimg(args!["repair", image, "-o", mended]).output().code(1);
    for from in [
        format!("docker://{host}/images/web:v1"),
        format!("docker://{host}/images/web@{digest}"),
        format!("http://{host}/v2/images/web/blobs/{digest}"),
    ] {
        let done =
            mkimg(args!["repair", image, "-o", mended, "--root-hash", root, "--from", from, "--json"]).ok();
        let summary = done.json();
        assert!(std::fs::read(&mended).unwrap() == good, "{from}");
        assert_eq!(summary["copied"], bad.len(), "{from}");
        let fetched = summary["fetched"].as_u64().unwrap();
        assert!((damage..damage + damage / 4).contains(&fetched), "{from}: {fetched} bytes for {damage}");
        let said = mkimg(args!["repair", image, "-o", mended, "--from", from]).ok().out();
        assert!(said.contains(&format!("{from}: ")) && said.contains("fetched in"), "{said}");
    }

    // The seal has metadata.
    let mut cut = good.clone();
    let meta = usize::try_from(inspection["areas"][2]["offset"].as_u64().unwrap()).unwrap();
    cut[meta..meta + 4096].fill(0);
    cut[..4096].fill(0);
    std::fs::write(&image, &cut).unwrap();
    let from = format!("docker://{host}/seals/web:v1");
    let _ = mkimg(args!["repair", image, "-o", mended, "--from", from, "--root-hash", root]).ok();
    assert!(std::fs::read(&mended).unwrap() == good, "the seal has what is missing");

    // What is not there.
    for (from, text) in [
        (format!("docker://{host}/images/web:v2"), "404"),
        (format!("docker://{host}/images/web@sha256:{}", "0".repeat(64)), "404"),
        (format!("http://{host}/images/web"), "404"),
        ("https://".to_owned(), "no host"),
        ("docker://web".to_owned(), "not a remote file"),
    ] {
        let refused = mkimg(args!["repair", image, "-o", mended, "--from", from]).output().code(1);
        assert!(refused.error_line().contains(text), "{}", refused.err());
    }

    std::fs::write(&image, &damaged).unwrap();
    a_registry_with_a_password(dir.path(), &image, &mended);
    let error = a_registry_with_tls(dir.path(), &image, &mended, &format!("/v2/images/web/blobs/{digest}"));
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    assert!(std::fs::read(&mended).unwrap() == good, "over TLS");
}

/// `user` and `secret`, as htpasswd has them.
const HTPASSWD: &str = "user:$2b$04$1sxJKlGwgsMBXe6hNJFgf..aILx8RBxVQY/WYH5DKqNFmurOz7dXa\n";

fn a_registry_with_a_password(dir: &Path, image: &Path, mended: &Path) {
    let (passwords, logins) = (dir.join("htpasswd"), dir.join("auth.json"));
    std::fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", passwords.display());
    let registry = Registry::start(dir, "", &auth);
    for (password, text) in [("dXNlcjpzZWNyZXQ=", ""), ("dXNlcjp3cm9uZw==", "401"), ("", "none are stored")] {
        let login = serde_json::json!({"auths": {&registry.host: {"auth": password}}});
        std::fs::write(&logins, login.to_string()).unwrap();
        let from = format!("docker://{}/images/web:v1", registry.host);
        let run =
            mkimg(args!["repair", image, "-o", mended, "--from", from]).env("REGISTRY_AUTH_FILE", &logins);
        if text.is_empty() {
            let _ = run.ok();
        } else {
            let refused = run.output().code(1);
            assert!(refused.error_line().contains(text), "{}", refused.err());
        }
    }
}

/// Repairs over TLS, with an authority that is named; returns what is said when it is not.
fn a_registry_with_tls(dir: &Path, image: &Path, mended: &Path, path: &str) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let new_key =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "1"];
    let [authority, authority_key, cert, key] = ["ca.pem", "ca.key", "server.pem", "server.key"].map(file);
    let _ = command::tool("openssl", new_key)
        .args(args!["-keyout", authority_key, "-out", authority, "-subj", "/CN=authority"])
        .ok();
    let _ = command::tool("openssl", new_key)
        .args(args![
            "-CA",
            authority,
            "-CAkey",
            authority_key,
            "-keyout",
            key,
            "-out",
            cert,
            "-subj",
            "/CN=server"
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"])
        .ok();
    let registry = Registry::start(dir, &format!(", tls: {{certificate: {cert}, key: {key}}}"), "");
    let from = format!("https://{}{path}", registry.host);
    let repair = || mkimg(args!["repair", image, "-o", mended, "--from", from]);
    let _ = repair().env("SSL_CERT_FILE", &authority).ok();
    // Another authority than the one that has signed it.
    repair().env("SSL_CERT_FILE", &cert).output().code(1).error_line()
}
