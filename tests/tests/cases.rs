//! The black-box suite of layer cases, when it lies beside the project.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg_path};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, images, require, scratch};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

#[test]
fn every_layer_case_passes() {
    require!(Need::Tool("python3"));
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases/cases.py");
    if !suite.is_file() {
        return skipped("the case suite is not there (shared/cases/cases.py beside the project)");
    }
    let dir = scratch();
    let out = dir.path().join("cases");
    let _ = command::tool("python3", args![suite, "make", out]).ok();
    let mount = [Need::Root, Need::Loop, Need::FileSystem("erofs")].into_iter().try_for_each(Need::check);
    if let Err(reason) = &mount {
        skipped(&format!("cases through a kernel mount: {reason}"));
    }
    // The suite knows one program with one way to build.
    let program = dir.path().join("mkimg");
    for options in
        ["none", "none --dedup blocks", "lz4", "lz4hc:3", "deflate:1", "zstd", "zstd --min-kernel 6.15"]
    {
        let mkimg = mkimg_path();
        let mkimg = mkimg.display();
        let script = format!(
            "#!/bin/sh\ncommand=$1\nshift\ncase $command in\n\
             build) exec '{mkimg}' build --compress {options} \"$@\" ;;\n\
             *) exec '{mkimg}' \"$command\" \"$@\" ;;\nesac\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut run = command::tool("python3", args![suite, "check", "--mkimg", program]);
        if mount.is_ok() && !(options.contains("6.15") && images::kernel() < (6, 15)) {
            run = run.args(["--mount"]);
        }
        let done = run.args(args![out]).within(Duration::from_secs(900)).output();
        let text = done.everything();
        let summary =
            text.lines().rev().find(|line| line.contains(" passed, ")).unwrap_or("no summary").to_owned();
        assert!(done.status.success() && summary.contains(" 0 failed"), "{options}: {summary}\n{text}");
        assert!(!summary.starts_with("0 passed"), "{options}: {summary}");
        if !summary.contains(" 0 skipped") {
            skipped(&format!("cases of the suite with {options}: {summary}"));
        }
    }
}
