//! The sample image of the repository: its bytes follow from its program, and flattening it does what its
//! documentation promises.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::images::{SAMPLE_SECRET, sample};
use mkimg_tests::need::Need;
use mkimg_tests::{args, require, scratch};
use std::collections::BTreeMap;
use std::path::Path;

fn files_below(top: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![top.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_sample_is_what_its_program_writes() {
    require!(Need::Tool("python3"));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample");
    let dir = scratch();
    let _ = command::tool("python3", args![here.join("make.py"), dir.path().join("image")]).ok();
    let (stored, made) = (files_below(&here.join("image")), files_below(&dir.path().join("image")));
    assert_eq!(stored.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
    for (name, bytes) in &stored {
        assert!(made[name] == *bytes, "{name} differs; run tests/sample/make.py tests/sample/image");
    }
    let total: usize = stored.values().map(Vec::len).sum();
    assert!(total < 60 << 10, "{total} bytes");
}

#[test]
fn the_secret_is_gone_and_reported() {
    let dir = scratch();
    let image = dir.path().join("image.mkimg");
    let _ = mkimg(args!["build", sample(), "--compress", "none", "-o", image]).ok();
    let bytes = std::fs::read(&image).unwrap();
    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(!contains(b"sample secret"), "the content of a deleted file is in the image");
    assert!(!contains(b"stale stale"), "the content of a hidden directory is in the image");
    assert!(contains(b"It still works") && !contains(b"It works"), "the newest page alone is in the image");
    let deleted = mkimg(args!["inspect", "--deleted", "--json", image]).ok().json_lines();
    let secret = deleted.iter().find(|line| line["path"] == SAMPLE_SECRET).unwrap();
    assert_eq!((secret["layer"].as_u64(), secret["deleted_by"].as_u64()), (Some(1), Some(2)));
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    assert_eq!(inspection["layers"][0]["deleted_bytes"], secret["size"]);

    let listed = mkimg(args!["ls", "--json", image]).ok().json_lines();
    let find = |path: &str| listed.iter().find(|line| line["path"] == path);
    assert!(find(SAMPLE_SECRET).is_none());
    assert!(find("/srv/www/cache/stale-1").is_none());
    assert!(find("/srv/www/cache/fresh").is_some());
    let (notes, twin) = (find("/usr/lib/notes.txt").unwrap(), find("/srv/www/notes.txt").unwrap());
    assert_eq!(
        (&notes["ino"], notes["nlink"].as_u64()),
        (&twin["ino"], Some(2)),
        "a hard link across layers"
    );
    assert_eq!(find("/usr/bin/login").unwrap()["mode"].as_u64(), Some(0o4755));
    assert!(find("/usr/bin/httpd").unwrap()["xattrs"]["security.capability"].is_string());
    assert_eq!(
        find("/srv/www/cache").unwrap()["mode"].as_u64(),
        Some(0o750),
        "an opaque directory keeps its mode"
    );
}
