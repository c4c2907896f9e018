//! What shows an image or takes files out of it: `mkimg ls`, `cat`, `extract`, `inspect`, `report`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::values::top;
use crate::trust::TrustArgs;
use crate::volume::HashArgs;

/// An image argument that several commands have.
#[derive(Debug, Args)]
pub(crate) struct ImageArg {
    /// The image file, a disk with it (mkimg export --ddi), or its detached seal.
    pub image: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg ls web.img                  every path
  mkimg ls -l web.img /etc          with types, owners, sizes and times, below /etc
  mkimg ls --json web.img           one JSON object a line, with xattrs and SHA-256")]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub image: ImageArg,
    /// Only this path and what is below it.
    #[arg(default_value = "/")]
    pub path: OsString,
    /// Type, permissions, links, owner, size and time.
    #[arg(short, long)]
    pub long: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mkimg cat web.img /etc/os-release

The bytes are printed as they are in the file: run `mkimg verify` first if it may have been changed.")]
pub(crate) struct CatArgs {
    /// The image file.
    pub image: PathBuf,
    /// Files in the image; symbolic links are followed inside it.
    #[arg(required = true)]
    pub paths: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg extract web.img rootfs               everything, owners and xattrs too when root
  mkimg extract web.img etc-only --path /etc
  mkimg extract web.img rootfs --fs-verity   the kernel checks files whenever they are read

Content is checked against its sealed digest while it is written; whether the seal is the right one,
--root-hash, --key and --cert tell, before anything is written. Nothing outside the directory is ever touched, whatever the image
holds.")]
pub(crate) struct ExtractArgs {
    /// The image file.
    pub image: PathBuf,
    /// The directory to write to: new or empty.
    pub target: PathBuf,
    /// Only this path and what is below it; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub path: Vec<OsString>,
    /// Do not restore owners and groups.
    #[arg(long)]
    pub no_owner: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub hashes: HashArgs,
    /// Have the kernel check every read of the files (fs-verity); takes ext4, f2fs or btrfs with that feature.
    #[arg(long)]
    pub fs_verity: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg inspect web.img
  mkimg inspect web.img --json | jq .verity.root_hash
  mkimg inspect web.img --deleted            files that the source ships although they are deleted")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub image: ImageArg,
    /// Print one JSON object; with --deleted one a line.
    #[arg(long, conflicts_with_all = ["manifest", "config", "statement"])]
    pub json: bool,
    /// Print the OCI manifest, byte for byte.
    #[arg(long, group = "what")]
    pub manifest: bool,
    /// Print the OCI configuration, byte for byte.
    #[arg(long, group = "what")]
    pub config: bool,
    /// Print the sealed statement, byte for byte.
    #[arg(long, group = "what")]
    pub statement: bool,
    /// List the files that were deleted by a later layer, but still ship in the source.
    #[arg(long, group = "what")]
    pub deleted: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg report web.img                       what takes the space, and what is wasted
  mkimg report web.img --html web.html       the same as one page, with a map to zoom into
  mkimg report web.img --json | jq '.deleted.list[] | select(.secret)'

Sizes are those of file content; a file with several names counts once. What looks like a secret is
guessed by name alone. The image is taken at its word: run `mkimg verify` first if it may have been
changed.")]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub image: ImageArg,
    /// How many of each list, at most 1000 [default: 5 as text, 50 otherwise].
    #[arg(long, value_name = "N", value_parser = top)]
    pub top: Option<usize>,
    /// Write a page for a browser: one file, no script, nothing loaded from anywhere.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}
