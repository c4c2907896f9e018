//! What a test needs from the machine, and skipping it when that is missing.
//!
//! A skipped test prints `skipped: NAME: REASON` past the capture of the test harness. When `MKIMG_SKIPPED` names a
//! file, the line is appended there too; `run.sh` counts and prints them at the end.

use std::io::Write;
use std::path::PathBuf;

/// One requirement.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// Effective user 0.
    Root,
    /// A program found by [`tool`].
    Tool(&'a str),
    /// A file system that the running kernel knows.
    FileSystem(&'a str),
    /// A usable `/dev/loop-control`.
    Loop,
    /// An environment variable that must be set to something but `0`, and what setting it costs.
    Asked(&'a str, &'a str),
}

impl Need<'_> {
    /// `Err` holds the reason why the test cannot run.
    pub fn check(self) -> Result<(), String> {
        match self {
            Need::Root if rustix::process::geteuid().is_root() => Ok(()),
            Need::Root => Err("needs root".to_owned()),
            Need::Tool(name) => match find_tool(name) {
                Some(_) => Ok(()),
                None => Err(format!("{name} is not installed (tests/setup.sh installs it)")),
            },
            Need::FileSystem(name) => {
                let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
                if known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
                    Ok(())
                } else {
                    Err(format!("the running kernel has no {name}"))
                }
            }
            Need::Loop if std::path::Path::new("/dev/loop-control").exists() => Ok(()),
            Need::Loop => Err("no loop devices".to_owned()),
            Need::Asked(variable, cost) => match std::env::var(variable) {
                Ok(value) if value != "0" && !value.is_empty() => Ok(()),
                _ => Err(format!("{cost}; set {variable}=1 to run it")),
            },
        }
    }
}

/// Returns from the test when one of the [`Need`]s is not met.
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        $(if let Err(reason) = $need.check() {
            $crate::need::skipped(&reason);
            return;
        })+
    };
}

/// Reports that the running test, or a part of it, is skipped.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let binary = std::env::current_exe().ok();
    let file =
        binary.as_deref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let file = file.as_deref().and_then(|stem| stem.rsplit_once('-')).map_or("", |(name, _)| name);
    let line = format!("skipped: {file}::{}: {reason}\n", thread.name().unwrap_or("?"));
    // The handle itself, not eprintln!: the harness captures only the macros.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("MKIMG_SKIPPED") {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        log.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the list of skipped tests is writable");
    }
}

/// The folder of tools that `setup.sh` unpacks: `MKIMG_TOOLS`, or `target/tools`.
pub fn tools_dir() -> PathBuf {
    std::env::var_os("MKIMG_TOOLS").map_or_else(|| crate::project().join("target/tools"), PathBuf::from)
}

/// A program by name: first the newer tools of `setup.sh`, then `PATH`, then the folders of system programs.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools_dir().join("bin"))
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Like [`find_tool`], for a program that the test has required.
pub fn tool(name: &str) -> PathBuf {
    find_tool(name).unwrap_or_else(|| panic!("{name} is not installed"))
}
