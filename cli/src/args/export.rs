//! `mkimg export`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use mkimg_export::Sidecar;
use mkimg_export::draft_oci::Flavor;
use mkimg_export::lines::Tool;

use crate::trust::TrustArgs;

/// A file beside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SidecarArg {
    /// IMAGE.roothash, the root hash: for systemd, and veritysetup --root-hash-file.
    Roothash,
    /// IMAGE.roothash.p7s, its PKCS#7 signature: for systemd, and veritysetup --root-hash-signature.
    P7s,
    /// IMAGE.verity, the hash tree: for RootImage= of systemd and systemd-nspawn.
    Verity,
    /// IMAGE.dmverity: for the EROFS snapshotter of containerd.
    Dmverity,
    /// IMAGE.verity.json, every parameter for veritysetup and dmsetup.
    VerityJson,
}

impl SidecarArg {
    pub(crate) const fn kind(self) -> Sidecar {
        match self {
            Self::Roothash => Sidecar::RootHash,
            Self::P7s => Sidecar::Pkcs7,
            Self::Verity => Sidecar::Verity,
            Self::Dmverity => Sidecar::Dmverity,
            Self::VerityJson => Sidecar::VerityJson,
        }
    }
}

/// Whom lines are printed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ToolArg {
    /// For a shell: check and map the image.
    Veritysetup,
    /// For a shell: map it without cryptsetup.
    Dmsetup,
    /// Settings of a unit, for the image with its sidecars.
    Systemd,
    /// A policy for Integrity Policy Enforcement.
    Ipe,
    /// Rules for IMA.
    Ima,
    /// All of them.
    All,
}

/// Whose media type a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlavorArg {
    /// application/vnd.erofs.layer.v1
    Containerd,
    /// application/vnd.erofs, of the erofs-image-spec draft
    Erofs,
    /// application/vnd.stacker.image.layer.erofs, of stacker and atomfs
    Stacker,
}

impl FlavorArg {
    pub(crate) const fn kind(self) -> Flavor {
        match self {
            Self::Containerd => Flavor::Containerd,
            Self::Erofs => Flavor::Erofs,
            Self::Stacker => Flavor::Stacker,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    group(exports()),
    after_help = "\
Examples:
  mkimg export web.raw --sidecar roothash --sidecar verity    for RootImage= and systemd-nspawn
  mkimg export web.img --ddi disk.raw                         the same as a disk with partitions
  mkimg export tools.img --ddi tools.raw --sysext             a disk for systemd-sysext
  mkimg export web.img --ddi web_3.raw --portable             a disk for portablectl
  mkimg export web.img --print veritysetup                    lines for a shell; | sh runs them
  mkimg export web.img --print ipe --key release.pub          if the key has signed the image
  mkimg export web.img --draft-oci web-erofs                  a layout with one EROFS layer

systemd leaves out .raw in front of its suffixes: web.raw has web.roothash and web.verity.

The image stays as it is, and is checked completely before blocks of it are copied. What is written
is for other tools: mkimg reads no sidecar unless told to, and none says whom to trust. --root-hash,
--key and --cert make sure whose image it is before anything is written."
)]
pub(crate) struct ExportArgs {
    /// The image file.
    pub image: PathBuf,
    /// Write a file beside the image; may be given several times.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub sidecar: Vec<SidecarArg>,
    /// Write a disk with a GUID partition table, as systemd wants it: file system, dm-verity tree, and the PKCS#7
    /// signature if there is one.
    ///
    /// All other commands but export, sign and mount read it as they read the image. With --cert the certificate of the
    /// signer is named in it.
    #[arg(long, value_name = "FILE")]
    pub ddi: Option<PathBuf>,
    /// Which processors the disk is for, as in amd64, where the source of the image does not say.
    #[arg(long, value_name = "ARCH", requires = "ddi")]
    pub architecture: Option<String>,
    /// Make sure first that systemd-sysext can lay the disk over /usr and /opt.
    #[arg(long, requires = "ddi")]
    pub sysext: bool,
    /// Make sure first that portablectl can attach the disk: units are to be named like the file.
    #[arg(long, requires = "ddi", conflicts_with = "sysext")]
    pub portable: bool,
    /// Print lines to paste; may be given several times.
    #[arg(long, value_enum, value_name = "TOOL")]
    pub print: Vec<ToolArg>,
    /// DRAFT: write an OCI image layout with the image as its one layer to a new directory.
    ///
    /// The names of EROFS layers are not settled, and may change with any release of mkimg.
    #[arg(long, value_name = "DIR")]
    pub draft_oci: Option<PathBuf>,
    /// Whose media type the layer has.
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t = FlavorArg::Containerd, requires = "draft_oci")]
    pub flavor: FlavorArg,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What can be exported: at least one of these.
fn exports() -> ArgGroup {
    ArgGroup::new("exports").args(["sidecar", "ddi", "print", "draft_oci"]).multiple(true).required(true)
}

impl ExportArgs {
    /// Whom lines are wanted for, in the order of the list.
    pub(crate) fn tools(&self) -> impl Iterator<Item = Tool> {
        let wanted = |tool: &Tool| {
            self.print.iter().any(|arg| match arg {
                ToolArg::Veritysetup => *tool == Tool::Veritysetup,
                ToolArg::Dmsetup => *tool == Tool::Dmsetup,
                ToolArg::Systemd => *tool == Tool::Systemd,
                ToolArg::Ipe => *tool == Tool::Ipe,
                ToolArg::Ima => *tool == Tool::Ima,
                ToolArg::All => true,
            })
        };
        Tool::ALL.into_iter().filter(wanted)
    }

    /// Whether blocks of the image are copied.
    pub(crate) fn copies_blocks(&self) -> bool {
        self.ddi.is_some()
            || self.draft_oci.is_some()
            || self.sidecar.iter().any(|sidecar| sidecar.kind().holds_blocks())
    }
}
