//! The black-box suite of layer cases, when it lies beside the project.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg_path};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, require, scratch};
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
    let mut run = command::tool("python3", args![suite, "check", "--mkimg", mkimg_path()]);
    match [Need::Root, Need::Loop, Need::FileSystem("erofs")].into_iter().try_for_each(Need::check) {
        Ok(()) => run = run.args(["--mount"]),
        Err(reason) => skipped(&format!("cases through a kernel mount: {reason}")),
    }
    let done = run.args(args![out]).within(Duration::from_secs(900)).output();
    let text = done.everything();
    let summary =
        text.lines().rev().find(|line| line.contains(" passed, ")).unwrap_or("no summary").to_owned();
    assert!(done.status.success() && summary.contains(" 0 failed"), "{summary}\n{text}");
    assert!(!summary.starts_with("0 passed"), "{summary}");
    if !summary.contains(" 0 skipped") {
        skipped(&format!("cases of the suite: {summary}"));
    }
}
