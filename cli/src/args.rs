//! The command line. Texts here are the manual: `--help` shows them.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mkimg_export::Sidecar;
use mkimg_export::draft_oci::Flavor;
use mkimg_export::lines::Tool;
use mkimg_mkfs::{Compression, Dedup, Memory};
use mkimg_verify::tree::{Field, Glob};

use crate::trust::TrustArgs;
use crate::volume::HashArgs;

/// Turn an OCI image into one sealed EROFS file, mount it, and audit it at any time.
#[derive(Debug, Parser)]
#[command(name = "mkimg", version, max_term_width = 100, propagate_version = true, after_help = EXAMPLES)]
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
#[command(after_help = "\
Examples:
  mkimg build oci:web:latest -o web.img
  mkimg build docker-archive:web.tar -o web.img --platform linux/arm64
  mkimg build oci:web:latest -o web.img --compress zstd
  mkimg build dir:disks -o disks.img --dedup blocks
  mkimg build dir:rootfs -o rootfs.img --name rootfs --epoch 3
  mkimg build oci:web:latest -o web.img --optimize-for web.trace    what starts first stands first

The same source and options give the same bytes, whatever the machine and the number of threads.
A path without a scheme is looked at: a layout, an archive, a tar or a directory.")]
pub(crate) struct BuildArgs {
    #[expect(rustdoc::broken_intra_doc_links, reason = "brackets stand for what may be left out")]
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], dir:DIR, tar:FILE, or a path.
    pub source: OsString,
    /// The image file to write.
    #[arg(short, long, value_name = "IMAGE")]
    pub output: PathBuf,
    /// Which image of a multi-platform index: OS/ARCH[/VARIANT] [default: this machine's].
    #[arg(long)]
    pub platform: Option<mkimg_oci::Platform>,
    /// How file data is compressed: none, lz4, lz4hc, zstd or deflate; the last three with a level, as in zstd:19
    /// [default: lz4, but none with `--dedup blocks` or for kernels before 5.13].
    ///
    /// lz4 reads fast and mounts everywhere; zstd is a third smaller; without compression a block of the image is a
    /// block of a file.
    #[arg(long, value_name = "ALGORITHM[:LEVEL]")]
    pub compress: Option<Compression>,
    /// What is stored once: files that are equal as a whole, or also equal blocks of 4096 bytes, wherever they are in
    /// files: files or blocks.
    ///
    /// Blocks are for uncompressed images with files that are nearly equal: versions of a file, disk images, models.
    /// Blocks of zeros become holes.
    #[arg(long, value_name = "WHAT", default_value_t = Dedup::Files)]
    pub dedup: Dedup,
    /// Oldest kernel that must mount the image, from 5.4 on [default: 5.15, with zstd or deflate 6.12].
    ///
    /// Below 5.15 sparse files are written out; from 6.1 on equal files share compressed data; from 6.15 on
    /// compressed data is packed without padding, which is up to a quarter smaller.
    #[arg(long, value_name = "X.Y", value_parser = kernel_version)]
    pub min_kernel: Option<(u32, u32)>,
    /// A trace by `mkimg mount --record`: the files that it names stand first in the image, in its order.
    ///
    /// It is text, one absolute path a line, so it may also be written by hand. A directory stands for all files
    /// below it; symbolic links are followed inside the image; what is not there is left out with a warning.
    #[arg(long, value_name = "TRACE")]
    pub optimize_for: Option<PathBuf>,
    /// Add parity, from 2 to 24 bytes in 255, that mends as many damaged ones [default: none].
    ///
    /// With it the kernel reads through damage, and `mkimg repair` mends the file. 2 bytes take 0.8 % of the
    /// image, 24 take 10 %.
    #[arg(long, value_name = "ROOTS", value_parser = clap::value_parser!(u32).range(2..=24))]
    pub fec: Option<u32>,
    /// Name of the image [default: the reference of the source].
    #[arg(long, value_parser = image_name)]
    pub name: Option<String>,
    /// Counter that grows with every release, so that an older image can be refused.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub epoch: u64,
    /// Number of threads, at most 64 [default: one for each processor, at most 8].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Memory for data on its way and for layers that then need not be inflated twice, at least 8M [default: 32M,
    /// with compression 128M].
    ///
    /// A build takes some 20 MiB and 300 bytes an entry besides, and 8 MiB for each GiB of a compressed image.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Memory>,
    /// Inflate layers that memory has no room for twice, instead of keeping them in files without names beside the image.
    ///
    /// They are kept there until they are copied, if half of the free memory and half of the free disk have room for them.
    /// The image is the same either way.
    #[arg(long)]
    pub no_scratch: bool,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// An image argument that several commands have.
#[derive(Debug, Args)]
pub(crate) struct ImageArg {
    /// The image file, a disk with it (mkimg export --ddi), or its detached seal.
    pub image: PathBuf,
}

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
  mkimg export web.img --ddi web.raw                          the same as a disk with partitions
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
    /// All other commands but sign and mount read it as they read the image. With --cert the certificate of the
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

fn kernel_version(text: &str) -> Result<(u32, u32), String> {
    let parsed =
        text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match parsed {
        None => Err("must be of the form X.Y".to_owned()),
        Some(version) if version < (5, 4) => Err("EROFS came with Linux 5.4".to_owned()),
        Some(version) => Ok(version),
    }
}

fn image_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
        return Err("must have 1 to 255 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// More threads than this only cost memory.
const THREADS_MAX: usize = 64;

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= THREADS_MAX);
    number.ok_or_else(|| format!("must be a number from 1 to {THREADS_MAX}"))
}

/// Longer lists are for `ls`.
const TOP_MAX: usize = 1000;

fn top(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=TOP_MAX).contains(number));
    number.ok_or_else(|| format!("must be a number from 1 to {TOP_MAX}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definitions_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel_version("6.12"), Ok((6, 12)));
        for wrong in ["5.3", "6", "6.x", "", "6.12.1"] {
            assert!(kernel_version(wrong).is_err(), "{wrong}");
        }
    }
}
