//! What compares: `mkimg verify`, `diff`, `watch`, `repair`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mkimg_verify::tree::{Field, Glob};

use super::values::threads;
use crate::trust::TrustArgs;
use crate::volume::HashArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg verify web.img --root-hash 5d0f...    is this the image that was published?
  mkimg verify web.img --key release.pub      has the holder of this key signed it?
  mkimg verify web.img --json                 one JSON object a line, the summary last
  mkimg verify web.img rootfs                 is this tree still what was extracted from it?
  mkimg verify --seal web.seal rootfs --ignore mtime --ignore-path '/var/log/**'
  mkimg verify /mnt                           is this mount, and the file behind it?
  mkimg verify web/rootfs --only security     what has a container changed that gives power?
  mkimg verify other.erofs --root-hash 5d0f...   an image of mkfs.erofs and `veritysetup format`

Without --root-hash, --key or --cert the root hash in the image itself is taken: that proves that the
image is consistent, not whose it is. The first line says what was checked.")]
pub(crate) struct VerifyArgs {
    /// The image file, a disk with it, its detached seal, or where an image is mounted.
    #[arg(required_unless_present = "seal", value_name = "IMAGE|MOUNTPOINT")]
    pub image: Option<PathBuf>,
    /// A tree that was extracted from it: compared with its records, file by file.
    pub dir: Option<PathBuf>,
    /// The detached seal to compare a tree with: `verify --seal FILE DIR`.
    #[arg(long, value_name = "FILE", conflicts_with = "dir", requires = "image")]
    pub seal: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub hashes: HashArgs,
    #[command(flatten)]
    pub compare: CompareArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg diff web-1.img web-2.img                 what a new version changes, by path and layer
  mkimg diff web-1.seal web-2.seal --json        two detached seals will do
  mkimg diff web-1.img web-2.img --only security
  mkimg diff web.img rootfs --ignore mtime       as verify does, with the layer of each path

Content is compared by sealed digests; `mkimg verify` says whether an image keeps to its own. Exit
status: 0 no differences, 1 differences, 2 something could not be compared.")]
pub(crate) struct DiffArgs {
    /// An image file, or its detached seal.
    pub first: PathBuf,
    /// Another one, or a directory.
    pub second: PathBuf,
    #[command(flatten)]
    pub compare: CompareArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg watch web.img rootfs                          a tree that was extracted from the image
  mkimg watch --seal web.seal rootfs --ignore mtime --ignore-path '/var/log/**'
  mkimg watch /mnt                                    a mount, and the file behind it
  mkimg watch web/rootfs --only security --json       what a container changes that gives power

First comes what `mkimg verify` prints, then a line for each path when it begins to differ, and
one when it is as shipped again. When events may have been missed, everything is compared anew, and a
line says so. SIGINT and SIGTERM end it. Exit status: 0 if nothing ever differed, 1 if anything
did, 2 if it could not see everything all the time.")]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub what: VerifyArgs,
}

/// What counts as a difference, and how it is told.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// A field that may differ; may be given several times.
    #[arg(long, value_name = "FIELD")]
    pub ignore: Vec<Field>,
    /// Paths that are left out, with what is below them; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub ignore_path: Vec<Glob>,
    /// Names of extended attributes that may differ; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub ignore_xattr: Vec<Glob>,
    /// Go on into what is mounted inside a tree.
    #[arg(long)]
    pub cross_mounts: bool,
    /// Only what gives somebody power (set-id files, capabilities, devices), and what hides anything.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub only: Option<Only>,
    /// Number of threads, at most 64 [default: one for each processor, at most 8].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Print one JSON object a line: what was found, then the summary.
    #[arg(long)]
    pub json: bool,
}

/// Which differences are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// What gives somebody power that the image did not give.
    Security,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg repair web.img -o mended.img --root-hash 5d0f...    from parity (mkimg build --fec)
  mkimg repair web.img -o mended.img --from old.img         from a copy, which may be damaged as well
  mkimg repair web.img -o mended.img --from web.seal        all but file data, from the detached seal
  mkimg repair web.img -o mended.img --from https://example.org/web.img
  mkimg repair web.img -o mended.img --from docker://registry.example.org/web:v1

Of a copy on a web server or in a registry only the bad blocks are fetched, so the server has to send parts
of a file (HTTP ranges). In a registry it is the one layer of what the name stands for, or the blob with the
digest (docker://HOST/NAME@sha256:...); user names and passwords are taken from $REGISTRY_AUTH_FILE or
~/.docker/config.json, and certificate authorities from the system or $SSL_CERT_FILE.

Every block is checked against its hash before it is taken, up to the root hash. The damaged image is
only read. Exit status: 0 the copy is the image, to the byte; 1 it could not be mended: what is still
damaged is listed, and nothing is written.")]
pub(crate) struct RepairArgs {
    /// The damaged image.
    pub image: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The root hash that the image must have: 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", value_parser = crate::trust::root_hash)]
    pub root_hash: Option<[u8; 32]>,
    /// Another copy of the image, or its detached seal: a file, an http:// or https:// URL, or docker://HOST/NAME; may be
    /// given several times, and is asked in that order.
    #[arg(long, value_name = "FILE|URL")]
    pub from: Vec<OsString>,
    /// Number of threads, at most 64 [default: one for each processor, at most 8].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Print one JSON object a line: what is still damaged, then the summary.
    #[arg(long)]
    pub json: bool,
}
