//! `mkimg mount --record`

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mkimg_kernel::signals::Termination;
use mkimg_mkfs::Output;
use mkimg_mount::Recorder;
use serde::Serialize;

use crate::output::{Named, count, json_line, show, stdout};

/// A recording, and the file that it will be written to.
pub(crate) struct Recording<'a> {
    path: &'a Path,
    output: Output,
}

#[derive(Serialize)]
struct Line {
    trace: String,
    files: usize,
    complete: bool,
}

impl<'a> Recording<'a> {
    /// Before the mount: a file that cannot be written is known at once.
    pub(crate) fn prepare(path: &'a Path) -> Result<Self> {
        Ok(Self { path, output: Output::create(path)? })
    }

    /// Stays until the recording is over, and writes it.
    pub(crate) fn run(self, mut recorder: Recorder, json: bool) -> Result<ExitCode> {
        let end = Termination::catch().context("catch signals")?;
        if !json {
            let mut out = stdout();
            writeln!(out, "recording what is read, until it is unmounted or SIGINT or SIGTERM comes")?;
            out.flush()?;
        }
        recorder.run(&end)?;
        let recorded = recorder.recorded()?;
        Named { file: self.output.file(), path: self.path }.write_all(recorded.text.as_bytes())?;
        self.output.finish()?;
        if recorded.lost {
            eprintln!("mkimg: warning: the kernel lost events: the trace may be incomplete");
        }
        let mut out = stdout();
        if json {
            let trace = self.path.to_string_lossy().into_owned();
            json_line(&mut out, &Line { trace, files: recorded.files, complete: !recorded.lost })?;
        } else {
            let files = count(recorded.files as u64, "file");
            writeln!(out, "{}: {files} in the order of first access", show(self.path))?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
