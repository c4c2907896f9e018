//! `mkimg build`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use mkimg_mkfs::{Compression, Dedup, Memory};

use super::values::{image_name, kernel_version, threads};

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
