//! `mkimg seal` and `sign`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What a seal is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SealFormat {
    /// The image without its file data: proves itself, and `verify --seal` compares trees with it.
    Detached,
    /// Text for mtree(8), gomtree and bsdtar, with SHA-256 of each file.
    Mtree,
    /// One JSON object a line: the image first, then each name with its sealed digests.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg seal web.img -o web.seal
  mkimg verify web.seal --root-hash 5d0f...        a seal proves itself
  mkimg verify --seal web.seal rootfs              a tree against a seal
  mkimg seal web.img -o web.mtree --format mtree
  mtree -f web.mtree -p rootfs                     the same question, to another judge
  mkimg seal web.seal -o web.json --format json    who ships what, line by line

Text and JSON repeat what the image says and prove nothing by themselves: run `mkimg verify` first
if it may have been changed. JSON needs no file data, so it can be made of a detached seal as well.
mtree(5) has no word for extended attributes; `mkimg verify --seal` compares them, too.")]
pub(crate) struct SealArgs {
    /// The image file; for JSON also its detached seal.
    pub image: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value_t = SealFormat::Detached)]
    pub format: SealFormat,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mkimg sign web.img --key release.key                     Ed25519, RSA or ECDSA
  mkimg sign web.img --key release.key --cert release.crt  also for the kernel and systemd (PKCS#7)

With a key that is elsewhere:
  mkimg sign web.img --detached-digest web.msg
  openssl pkeyutl -sign -rawin -inkey release.key -in web.msg -out web.raw
  mkimg sign web.img --attach-signature web.raw --key release.pub
and for PKCS#7:
  mkimg sign web.img --detached-digest web.hash --cert release.crt
  openssl smime -sign -binary -noattr -nocerts -md sha256 -in web.hash -signer release.crt \\
      -inkey release.key -outform DER -out web.der
  mkimg sign web.img --attach-signature web.der --cert release.crt

The image is checked first, and nothing of it is changed but the trailer. Signing again replaces the
signature of the same key; those of other keys stay.")]
pub(crate) struct SignArgs {
    /// The image file.
    pub image: PathBuf,
    /// The private key, in PEM or DER; with --attach-signature the public one.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["detached_digest", "attach_signature"])]
    pub key: Option<PathBuf>,
    /// The certificate of the key: adds a PKCS#7 signature of the root hash.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Write the signatures to IMAGE.sig and IMAGE.p7s, too.
    #[arg(long)]
    pub sidecar: bool,
    /// Write what has to be signed: with --cert the root hash for PKCS#7, else all that a signature is over.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "sidecar", "json"])]
    pub detached_digest: Option<PathBuf>,
    /// Put in a signature that was made elsewhere, after a check that it fits: PKCS#7 with --cert, else with --key.
    #[arg(long, value_name = "FILE", conflicts_with = "detached_digest")]
    pub attach_signature: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}
