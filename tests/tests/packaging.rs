//! What packages are made of: manual pages, completions, and a program that needs nothing of its machine.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use mkimg_tests::command::{mkimg, mkimg_path, tool};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, images, names_in, require, scratch};

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = mkimg(["--help"]).ok().out();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// The long options that the help of a command names.
fn options(command: &str) -> Vec<String> {
    let help = mkimg([command, "--help"]).ok().out();
    let words =
        help.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches(',').to_owned()).collect()
}

#[test]
fn every_command_has_a_manual_page_with_its_options_and_examples() {
    let dir = scratch();
    let _ = mkimg(args!["man", "--output", dir.path()]).ok();
    let mut expected: Vec<String> = commands().iter().map(|name| format!("mkimg-{name}.1")).collect();
    expected.push("mkimg.1".to_owned());
    expected.sort();
    assert!(expected.len() > 15, "{expected:?}");
    assert_eq!(names_in(dir.path()), expected);
    for command in commands() {
        let page = std::fs::read_to_string(dir.path().join(format!("mkimg-{command}.1"))).unwrap();
        assert_eq!(mkimg(["man", &command]).ok().out(), page, "{command}: both ways");
        for option in options(&command) {
            let escaped = option.replace('-', "\\-");
            assert!(page.contains(&escaped), "{command}: {option}");
        }
        let help = mkimg([&*command, "--help"]).ok().out();
        assert_eq!(page.contains(".SH EXAMPLES"), help.contains("\nExamples:\n"), "{command}");
    }
    let done = mkimg(["man", "frobnicate"]).output();
    assert_eq!(done.status.code(), Some(1));
    assert!(done.err().contains("frobnicate: no such command"), "{}", done.err());
}

#[test]
fn manual_pages_are_good_roff() {
    require!(Need::Tool("man"));
    let dir = scratch();
    let _ = mkimg(args!["man", "--output", dir.path()]).ok();
    for name in names_in(dir.path()) {
        let shown = tool("man", args!["--warnings=all", "-l", dir.path().join(&name)]).ok();
        assert_eq!(shown.err(), "", "{name}");
        assert!(shown.out().contains("SYNOPSIS"), "{name}");
    }
}

#[test]
fn completions_are_scripts_that_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = mkimg(["completions", shell]).ok().out();
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
    let dir = scratch();
    let script = dir.path().join("mkimg.bash");
    std::fs::write(&script, mkimg(["completions", "bash"]).ok().out()).unwrap();
    let ask = "source \"$1\"; COMP_WORDS=(mkimg ver); COMP_CWORD=1; _mkimg mkimg ver mkimg; echo \"${COMPREPLY[*]}\"";
    assert_eq!(tool("bash", args!["-euc", ask, "bash", script]).ok().out().trim(), "verify");
}

/// In a root file system of nothing but the program, an image is built, checked and read.
#[test]
fn root_a_static_program_needs_nothing() {
    require!(Need::Root);
    let said = tool("ldd", args![mkimg_path()]).output();
    if !(said.out() + &said.err()).contains("statically linked") {
        skipped("the program under test is not static (`cargo static` makes one, run.sh tests it)");
        return;
    }
    let dir = scratch();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(mkimg_path(), root.join("mkimg")).unwrap();
    images::one_of_everything(&root.join("oci"));
    let inside = |arguments: &[&str]| tool("chroot", args![root, "/mkimg"]).args(arguments).ok().out();
    let _ = inside(&["build", "oci:/oci", "-o", "/image"]);
    assert!(inside(&["verify", "/image"]).contains("clean"));
    assert!(!inside(&["ls", "/image"]).is_empty());
    assert!(Path::new(&root.join("image")).exists());
}
