//! What every export starts from.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;

use mkimg_format::detached::Sealed;
use mkimg_format::erofs::FileSystem;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_format::trailer::Trailer;
use mkimg_format::{Proven, Sha256};
use mkimg_sign::Pkcs7;
use mkimg_sign::trust::Signatures;
use mkimg_verify::{Options, verify_image};

use crate::{Error, Parameters, Result};

/// An image whose header leads to its root hash. File data has not been looked at.
#[derive(Debug)]
pub struct Image {
    /// The image.
    pub file: File,
    /// Where everything is.
    pub header: Header,
    /// Root of the dm-verity tree.
    pub root_hash: Sha256,
    /// The signature of the root hash that Linux and systemd take, if there is one. Whether it holds is for them to say.
    pub pkcs7: Option<Pkcs7>,
    stamp: Stamp,
}

/// What changes with the content of a file: length, and seconds and nanoseconds of mtime and ctime.
type Stamp = (u64, [i64; 4]);

fn stamp(file: &File) -> io::Result<Stamp> {
    let found = file.metadata()?;
    Ok((found.len(), [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()]))
}

impl Image {
    /// Opens an image, which must have `root_hash`, or else has the one that it names.
    ///
    /// # Errors
    /// It is none, or block 0 does not lead to the root hash.
    pub fn open(file: File, root_hash: Option<Sha256>) -> Result<Self> {
        let stamp = stamp(&file).map_err(Error::Stamp)?;
        let sealed = Sealed::open(&file)?;
        if sealed.is_detached() {
            return Err(Error::DetachedSeal);
        }
        if sealed.disk().is_some() {
            return Err(Error::Disk);
        }
        let trailer = Trailer::read(&file)?;
        let root_hash = root_hash.unwrap_or(trailer.root_hash);
        let (_, header) = Proven::open(&file, root_hash)?;
        let pkcs7 = Signatures::of(&trailer).pkcs7.into_iter().next();
        Ok(Self { file, header, root_hash, pkcs7, stamp })
    }

    /// What has to be known of its tree.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::new(&self.header, &self.root_hash)
    }

    /// Makes sure that every byte is as it was shipped, before they go elsewhere under other digests.
    ///
    /// `progress` is called with the bytes done and the bytes there are, from any thread.
    ///
    /// # Errors
    /// [`Error::Damaged`], or the image cannot be read.
    pub fn audit(&self, threads: NonZeroUsize, progress: Option<&(dyn Fn(u64, u64) + Sync)>) -> Result<()> {
        let options = Options { root_hash: Some(self.root_hash), threads, progress };
        let report = verify_image(&self.file, &options)?;
        if report.is_clean() { Ok(()) } else { Err(Error::Damaged { findings: report.findings.len() }) }
    }

    /// Makes sure that nobody has written to the image since it was opened: what was copied is what was audited.
    pub(crate) fn unchanged(&self) -> Result<()> {
        let now = stamp(&self.file).map_err(Error::Stamp)?;
        if now == self.stamp { Ok(()) } else { Err(Error::Changed) }
    }

    /// The file system, each block of which is led up to the root hash when it is read.
    ///
    /// # Errors
    /// There is none that can be read.
    pub fn file_system(&self) -> Result<FileSystem<Proven<&File>>> {
        let (proven, _) = Proven::open(&self.file, self.root_hash)?;
        Ok(FileSystem::open(proven)?)
    }

    /// The seal, each block of which is led up to the root hash when it is read.
    pub(crate) fn seal(&self) -> Result<Seal<Proven<&File>>> {
        let (proven, header) = Proven::open(&self.file, self.root_hash)?;
        Ok(Seal::open(proven, &header)?)
    }
}
