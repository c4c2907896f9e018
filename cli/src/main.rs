//! The `mkimg` program: arguments in, library calls, text or JSON out.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod copies;
mod differences;
mod digests;
mod entry;
mod failure;
mod image;
mod mtree;
mod output;
mod progress;
mod style;
mod trust;
mod volume;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An audit that could not be made must not look like one that found differences.
    let code_of_errors =
        if matches!(arguments.command, Command::Verify(_) | Command::Watch(_) | Command::Diff(_)) {
            2
        } else {
            1
        };
    let outcome = match arguments.command {
        Command::Build(args) => commands::build::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Watch(args) => commands::watch::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Repair(args) => commands::repair::run(&args),
        Command::Mount(args) => commands::mount::run(&args),
        Command::Umount(args) => commands::mount::umount(&args),
        Command::Mounts(args) => commands::mount::list(&args),
        Command::Ls(args) => commands::ls::run(&args),
        Command::Cat(args) => commands::cat::run(&args),
        Command::Extract(args) => commands::extract::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Sign(args) => commands::sign::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Seal(args) => commands::seal::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Completions(args) => commands::manual::completions(&args),
        Command::Man(args) => commands::manual::man(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimg: {}", failure::describe(&error));
            ExitCode::from(code_of_errors)
        }
    }
}
