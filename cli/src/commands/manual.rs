//! `mkimg completions` and `mkimg man`: made of the definitions that `--help` is made of.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args::{Arguments, CompletionsArgs, ManArgs};
use crate::output::{show, stdout};

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "mkimg", &mut script);
    let mut out = stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode> {
    let mut mkimg = Arguments::command().disable_help_subcommand(true);
    mkimg.build();
    if let Some(dir) = &args.output {
        let below: Vec<Command> = mkimg.get_subcommands().cloned().collect();
        for command in below.into_iter().chain([mkimg]) {
            let path = dir.join(Man::new(command.clone()).get_filename());
            let mut text = Vec::new();
            write_page(command, &mut text)?;
            std::fs::write(&path, text).with_context(|| show(&path))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let command = match &args.command {
        None => mkimg,
        Some(name) => {
            let found = mkimg.find_subcommand(name).cloned();
            found.ok_or_else(|| anyhow!("{name}: no such command; `mkimg --help` lists them"))?
        }
    };
    let mut out = stdout();
    write_page(command, &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes one page. The text behind the options keeps its lines where it shows examples.
fn write_page(command: Command, out: &mut impl Write) -> io::Result<()> {
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let man = Man::new(command).source(concat!("mkimg ", env!("CARGO_PKG_VERSION"))).manual("mkimg");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if has_commands {
        man.render_subcommands_section(out)?;
    }
    let mut text = Roff::new();
    let mut remarks = false;
    for paragraph in notes.split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            text.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in examples.lines() {
                text.text([roman(line)]);
            }
            text.control("fi", []);
        } else if !paragraph.is_empty() {
            text.control(if remarks { "PP" } else { "SH" }, if remarks { None } else { Some("NOTES") });
            text.text([roman(paragraph)]);
            remarks = true;
        }
    }
    text.to_writer(out)
}
