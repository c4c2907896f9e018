//! `mkimg export`: what it writes is read by the tools that it is for.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{mkimg, tool};
use mkimg_tests::need::Need;
use mkimg_tests::{args, require, scratch};
use std::path::{Path, PathBuf};

/// A small image from a directory, under this name.
fn image(dir: &Path, name: &str, options: &[&str]) -> PathBuf {
    let (source, image) = (dir.join("source"), dir.join(name));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), vec![b'x'; 100_000]).unwrap();
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image]).args(options).ok();
    image
}

fn verity(image: &Path) -> serde_json::Value {
    mkimg(args!["inspect", "--json", image]).ok().json()["verity"].clone()
}

#[test]
fn sidecar_with_the_root_hash_is_what_veritysetup_reads() {
    require!(Need::Tool("veritysetup"));
    let dir = scratch();
    let image = image(dir.path(), "web.raw", &[]);
    let _ = mkimg(args!["export", image, "--sidecar", "roothash"]).ok();
    let offset = format!("--hash-offset={}", verity(&image)["hash_offset"]);
    let file = format!("--root-hash-file={}", dir.path().join("web.roothash").display());
    let _ = tool("veritysetup", args!["verify", image, image, offset, file]).ok();
}
