//! The command line. Texts here are the manual: `--help` shows them.

mod audit;
mod build;
mod export;
mod look;
mod mount;
mod seal;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use audit::{CompareArgs, DiffArgs, RepairArgs, VerifyArgs, WatchArgs};
pub(crate) use build::BuildArgs;
pub(crate) use export::ExportArgs;
pub(crate) use look::{CatArgs, ExtractArgs, InspectArgs, LsArgs, ReportArgs};
pub(crate) use mount::{MountArgs, MountsArgs, OnCorruption, UmountArgs, Verity, Via};
pub(crate) use seal::{SealArgs, SealFormat, SignArgs};

/// Turn an OCI image into one sealed EROFS file, mount it, and audit it at any time.
#[derive(Debug, Parser)]
#[command(name = "mkimg", version, max_term_width = 110, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mkimg build oci:web:latest -o web.img      flatten and seal an image
  mkimg verify web.img --root-hash HEX       check every byte of it
  mkimg mount web.img /mnt                   check, then mount read-only
  mkimg verify /mnt                          is it still what was shipped, right now?
  mkimg watch /mnt                           and tell whenever it is not
  mkimg inspect web.img                      what it is and where it came from

Exit status: 0 for success, 1 for failure, 2 for wrong usage. `verify`, `diff` and `watch` are like
diff(1): 0 means clean, 1 means differences were found, 2 means that not everything could be checked.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from an OCI layout, an archive, a directory or a tar.
    Build(BuildArgs),
    /// Check every byte of an image, of a tree extracted from it, or of a live mount, and name what differs.
    Verify(VerifyArgs),
    /// Name what differs between two images, or between an image and a directory.
    Diff(DiffArgs),
    /// Verify a tree or a mount, then stay and report what changes, as it happens.
    Watch(WatchArgs),
    /// Write a mended copy of a damaged image, from its parity and from other copies.
    Repair(RepairArgs),
    /// Mount an image read-only, or below a writable overlay.
    Mount(MountArgs),
    /// Unmount an image.
    Umount(UmountArgs),
    /// List the mounted images.
    Mounts(MountsArgs),
    /// List the files in an image.
    Ls(LsArgs),
    /// Print files of an image.
    Cat(CatArgs),
    /// Write the files of an image to a directory.
    Extract(ExtractArgs),
    /// Show what an image is, where it came from, and what its source wasted.
    Inspect(InspectArgs),
    /// Show what is in an image by size, and what its source wasted: as text, JSON, or a page with a map.
    Report(ReportArgs),
    /// Sign an image: for `mkimg verify`, and with a certificate for the kernel and systemd, too.
    Sign(SignArgs),
    /// Tell other tools about an image, in the files and words that they want.
    Export(ExportArgs),
    /// Cut the seal out of an image: enough to audit an extracted tree, also as mtree(5) text or JSON.
    Seal(SealArgs),
    /// Show what this kernel and this user can do with images.
    Doctor(DoctorArgs),
    /// Print the script that lets a shell complete commands and options.
    Completions(CompletionsArgs),
    /// Print a manual page, or write all of them to a directory.
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg completions bash > /usr/share/bash-completion/completions/mkimg
  mkimg completions zsh > /usr/share/zsh/site-functions/_mkimg")]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    pub shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg man verify | man -l -                 read one page
  mkimg man --output /usr/share/man/man1      install all of them")]
pub(crate) struct ManArgs {
    /// The command that the page is about [default: mkimg itself].
    #[arg(conflicts_with = "output")]
    pub command: Option<String>,
    /// Write a page for each command to this directory.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_are_sound() {
        Arguments::command().debug_assert();
    }
}
