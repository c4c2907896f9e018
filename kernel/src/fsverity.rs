//! fs-verity: files whose content the kernel checks, and whose digest it tells.
//!
//! Facts: `linux/fsverity.h`, `Documentation/filesystems/fsverity.rst`.

use std::os::fd::AsFd;

use rustix::io::{self, Errno};

use crate::ioctl;

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u16 = 1;

/// Bytes in a block of the trees that images are sealed with.
const BLOCK_SIZE: u32 = 4096;

/// The digest of an open file, if it has fs-verity with SHA-256.
///
/// It depends on block size and salt of the file's tree, so it equals a sealed digest only if both are as sealed (4096
/// and none).
///
/// # Errors
/// `ENODATA`: the file has no fs-verity. `ENOTTY` or `EOPNOTSUPP`: file system or kernel cannot, or the algorithm is
/// another one.
pub fn measure(file: impl AsFd) -> io::Result<[u8; 32]> {
    let (algorithm, digest) = ioctl::measure_verity(file)?;
    if algorithm != SHA256 {
        return Err(Errno::OPNOTSUPP);
    }
    digest.try_into().map_err(|_| Errno::PROTO)
}

/// Makes a file read-only for ever and has the kernel check every read of it: SHA-256, 4096-byte blocks, no salt.
///
/// `file` must be open for reading only, and nobody may have it open for writing.
///
/// # Errors
/// `EEXIST`: it has fs-verity already. `ETXTBSY`: somebody may write to it. `EOPNOTSUPP` or `ENOTTY`: file system or
/// kernel cannot.
pub fn enable(file: impl AsFd) -> io::Result<()> {
    ioctl::enable_verity(file, SHA256.into(), BLOCK_SIZE)
}
