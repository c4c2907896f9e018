//! `mkimg watch`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Error, Result, bail};
use mkimg_format::erofs::escape;
use mkimg_kernel::signals::Termination;
use mkimg_verify::live::LiveReport;
use mkimg_verify::tree::Difference;
use mkimg_verify::watch::{Below, Mount, Notice, Outcome, Subject, Tree, Watch};
use serde::Serialize;

use super::{image_report, verify_mount, verify_tree};
use crate::args::{VerifyArgs, WatchArgs};
use crate::differences::{DifferenceLine, Table, View};
use crate::failure;
use crate::output::{json_line, show, stdout, text_and_base64};
use crate::style::Style;

/// What happens after the audit, one object a line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    /// From now on.
    Watching,
    /// Something differs that did not.
    Differs(DifferenceLine<'a>),
    /// It does not any more.
    Restored {
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        path_b64: Option<String>,
    },
    /// Something is wrong below the mount that was not.
    Broken(verify_mount::Line<'a>),
    /// It is not any more.
    Mended(verify_mount::Line<'a>),
    /// Everything is compared anew.
    Full { cause: &'static str },
    /// What cannot be seen.
    Unseen { what: &'a str },
    /// The last line.
    Ended { differed: bool, complete: bool, unseen: Vec<&'a str> },
}

pub(crate) fn run(args: &WatchArgs) -> Result<ExitCode> {
    let args = &args.what;
    match (&args.seal, &args.image, &args.dir) {
        (Some(seal), Some(dir), None) => tree(args, seal, dir),
        (None, Some(image), Some(dir)) => tree(args, image, dir),
        (None, Some(target), None) if target.is_dir() => mount(args, target),
        (None, Some(image), None) => {
            bail!("{}: is no mount point; to watch a tree name it too: mkimg watch IMAGE DIR", show(image))
        }
        _ => bail!("nothing to watch"),
    }
}

/// Watches a tree that was extracted.
fn tree(args: &VerifyArgs, baseline: &Path, dir: &Path) -> Result<ExitCode> {
    let baseline =
        verify_tree::Baseline::open(baseline, &args.trust.trust()?, super::threads(args.compare.threads))?;
    let canonical = dir.canonicalize().with_context(|| show(dir))?;
    let subject = Tree {
        image: &baseline.image,
        file: &baseline.file,
        root_hash: baseline.root_hash,
        dir: &canonical,
        options: verify_tree::options(&args.compare),
    };
    watch(args, dir, &subject, |report| verify_tree::print(args, dir, &baseline, report), |_| None)
}

/// Watches a mount.
fn mount(args: &VerifyArgs, target: &Path) -> Result<ExitCode> {
    let canonical = target.canonicalize().with_context(|| show(target))?;
    let anchor = verify_mount::anchor(args, target)?;
    let subject = Mount::new(&canonical, verify_mount::options(args, anchor.as_ref()))?;
    let layers = |report: &LiveReport| report.is_overlay().then(|| report.layers());
    let print = |report: &LiveReport| {
        verify_mount::admit(anchor.as_ref(), report)?;
        verify_mount::print(args, target, report, anchor.as_ref())
    };
    watch(args, target, &subject, print, layers)
}

fn watch<S: Subject>(
    args: &VerifyArgs,
    dir: &Path,
    subject: &S,
    print: impl FnOnce(&S::Report) -> Result<()>,
    layers: impl FnOnce(&S::Report) -> Option<Vec<PathBuf>>,
) -> Result<ExitCode> {
    let mut watch = Watch::start(subject).with_context(|| show(dir))?;
    let report = watch.first().with_context(|| show(dir))?;
    // Not earlier: whoever does not want to wait for the audit may end it as any other.
    let end = Termination::catch().context("catch signals")?;
    let teller = Teller { json: args.compare.json, style: Style::of_stdout(), layers: layers(&report) };
    let told = print(&report)
        .and_then(|()| teller.begin(dir))
        .and_then(|()| watch.run(&end, &mut |notice| teller.tell(&notice)));
    let outcome = watch.outcome();
    let told = told.and_then(|()| teller.end(outcome));
    match told {
        Err(error) if !failure::is_broken_pipe(&error) => Err(error.context(show(dir))),
        _ if outcome.incomplete => Ok(ExitCode::from(2)),
        _ if outcome.differed => Ok(ExitCode::from(1)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Tells what happens, each time at once.
struct Teller {
    json: bool,
    style: Style,
    /// Directories of an overlay around the image, if there is one.
    layers: Option<Vec<PathBuf>>,
}

impl Teller {
    fn begin(&self, dir: &Path) -> Result<()> {
        self.say(&Line::Watching, || format!("watching {}", show(dir)))
    }

    fn tell(&self, notice: &Notice) -> Result<(), Error> {
        match notice {
            Notice::Differs(differences) => self.differs(differences),
            Notice::Restored(path) => {
                let (text, path_b64) = text_and_base64(path);
                let line = || format!("{} {}", self.style.good("  as shipped"), escape(path));
                self.say(&Line::Restored { path: text, path_b64 }, line)
            }
            Notice::Broken(below) => self.say(&Line::Broken(line(below)), || {
                format!("{} {}", self.style.alarm("! broken    "), text(below))
            }),
            Notice::Mended(below) => self.say(&Line::Mended(line(below)), || {
                format!("{} {}", self.style.good("  mended    "), text(below))
            }),
            Notice::Full(cause) => {
                let cause = cause.describe();
                self.say(&Line::Full { cause }, || format!("comparing everything anew: {cause}"))
            }
            Notice::Unseen(what) => self.say(&Line::Unseen { what }, || format!("not seen: {what}")),
            _ => Ok(()),
        }
    }

    fn differs(&self, differences: &[Difference]) -> Result<()> {
        let mut out = stdout();
        if self.json {
            for difference in differences {
                let layers = self.layers.as_deref().unwrap_or_default();
                json_line(&mut out, &Line::Differs(DifferenceLine::new(difference, layers)))?;
            }
        } else {
            let view = if self.layers.is_some() { View::Overlay } else { View::Tree };
            Table::new(self.style, view).print(differences, &mut out)?;
        }
        Ok(out.flush()?)
    }

    fn end(&self, outcome: &Outcome) -> Result<()> {
        let unseen: Vec<&str> = outcome.unseen.iter().map(String::as_str).collect();
        let line = Line::Ended { differed: outcome.differed, complete: !outcome.incomplete, unseen };
        self.say(&line, || {
            let found = if outcome.differed { "differences were seen" } else { "nothing differed" };
            let all = if outcome.incomplete { ", but not everything could be seen" } else { "" };
            format!("ended: {found}{all}")
        })
    }

    fn say(&self, line: &Line<'_>, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = stdout();
        if self.json {
            json_line(&mut out, line)?;
        } else {
            writeln!(out, "{}", text())?;
        }
        Ok(out.flush()?)
    }
}

fn line(below: &Below) -> verify_mount::Line<'_> {
    match below {
        Below::Mount(problem) => {
            verify_mount::Line::Kernel { kind: problem.kind.word(), problem: &problem.text }
        }
        Below::File(finding) => verify_mount::Line::File(image_report::finding_line(finding)),
    }
}

fn text(below: &Below) -> String {
    match below {
        Below::Mount(problem) => format!("{}  {}", problem.kind.word(), problem.text),
        Below::File(finding) => {
            let region = finding.region.word();
            let path = finding.paths.first().map_or_else(String::new, |path| format!("  {}", escape(path)));
            format!("file  {region} at {}: {}{path}", finding.offset, finding.problem)
        }
    }
}
