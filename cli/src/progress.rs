//! A progress bar, on a terminal only.

use std::io::{IsTerminal as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use mkimg_mkfs::{Progress, Stage};

/// Shows stages and bytes on standard error if that is a terminal.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows nothing yet.
    pub(crate) fn new() -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style =
            ProgressStyle::with_template("{msg:8} {bar:40} {bytes:>10}/{total_bytes:10} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many bytes of so many, in a stage of that name.
    pub(crate) fn show(&self, what: &'static str, done: u64, total: u64) {
        self.0.set_message(what);
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Takes the bar off the screen.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn begin(&self, stage: Stage, total: u64) {
        let what = match stage {
            Stage::Scan => "check",
            Stage::Copy => "write",
            Stage::Parity => "parity",
            Stage::Sync => "sync",
        };
        self.show(what, 0, total);
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}
