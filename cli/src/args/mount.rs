//! `mkimg mount`, `umount`, `mounts`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::trust::TrustArgs;

/// How far the bytes of a mounted image are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verity {
    /// `kernel` if this kernel has dm-verity, else `once`.
    Auto,
    /// By the kernel on every read (dm-verity).
    Kernel,
    /// Completely, right before the mount.
    Once,
    /// Not at all.
    Off,
}

/// What the kernel does when a block does not match its hash, and no parity mends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnCorruption {
    /// The read fails with an I/O error.
    Eio,
    /// The machine restarts.
    Restart,
    /// The kernel panics (Linux 5.9).
    Panic,
}

/// What carries a mounted image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// `file` where it works, else `loop`.
    Auto,
    /// The file itself (Linux 6.12).
    File,
    /// A loop device.
    Loop,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg mount web.img /mnt --root-hash 5d0f...
  mkimg mount web.img /mnt --upper up --work work     writable, the image below stays as it is
  mkimg mount web.img /mnt --on-corruption panic      no I/O error at a damaged block, but a panic (with dm-verity)
  mkimg mount other.erofs /mnt --root-hash 5d0f...    of mkfs.erofs and `veritysetup format`
  mkimg mount web.img /mnt --record web.trace &       and write down what is read, for `build --optimize-for`

The printed line says which guarantee holds. Structure is checked before the kernel parses it. Device
nodes of the image cannot be opened through the mount (nodev); containers bring their own /dev.")]
pub(crate) struct MountArgs {
    /// The image file.
    pub image: PathBuf,
    /// Where to mount it.
    pub target: PathBuf,
    /// Directory for changes: mounts an overlay over the image.
    #[arg(long, value_name = "DIR", requires = "work")]
    pub upper: Option<PathBuf>,
    /// Empty directory on the file system of --upper.
    #[arg(long, value_name = "DIR", requires = "upper")]
    pub work: Option<PathBuf>,
    /// How the bytes are checked.
    #[arg(long, value_enum, default_value_t = Verity::Auto)]
    pub verity: Verity,
    /// What the kernel does at a damaged block (with dm-verity) [default: eio].
    ///
    /// A mount with another policy than an earlier one of the same image has a mapped device of its own. Where an
    /// image is mounted at boot, one damaged block that is read there makes `restart` a loop.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_corruption: Option<OnCorruption>,
    /// Let the kernel check the PKCS#7 signature of the root hash by its own keyrings (with dm-verity).
    #[arg(long)]
    pub kernel_signature: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Byte at which `veritysetup format` has put its superblock, of an image that mkimg has not written [default: where the
    /// file system ends].
    #[arg(long, value_name = "N")]
    pub hash_offset: Option<u64>,
    /// What carries the image.
    #[arg(long, value_enum, default_value_t = Via::Auto)]
    pub via: Via,
    /// Stay and record which files are read, until it is unmounted or SIGINT or SIGTERM comes; then write them here.
    ///
    /// The files stand in the order of first access, whoever opened them: in containers too, and with --upper
    /// (Linux 6.5).
    #[arg(long, value_name = "TRACE")]
    pub record: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Detach now, and let go when the last user is done.
    #[arg(long)]
    pub lazy: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MountsArgs {
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}
