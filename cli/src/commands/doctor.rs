//! `mkimg doctor`

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use mkimg_mount::doctor::{Status, probe};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::output::{json_line, stdout};

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    status: &'a str,
    found: &'a str,
    consequence: &'a str,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut out = stdout();
    for probe in probe() {
        let status = match probe.status {
            Status::Ok => "ok",
            Status::Limited => "limited",
            Status::Missing => "missing",
        };
        if args.json {
            let line =
                Line { name: probe.name, status, found: &probe.found, consequence: &probe.consequence };
            json_line(&mut out, &line)?;
        } else {
            writeln!(out, "{status:<8} {:<18} {}", probe.name, probe.found)?;
            writeln!(out, "{:27} {}", "", probe.consequence)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
