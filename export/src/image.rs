//! What every export starts from.

use std::fs::File;

use mkimg_format::detached::Sealed;
use mkimg_format::erofs::FileSystem;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_format::trailer::Trailer;
use mkimg_format::{Proven, Sha256};
use mkimg_sign::Pkcs7;
use mkimg_sign::trust::Signatures;

use crate::{Error, Result};

/// An image whose header leads to its root hash. File data has not been looked at.
#[derive(Debug)]
pub struct Image {
    /// The image.
    pub file: File,
    /// Where everything is.
    pub header: Header,
    /// Root of the dm-verity tree.
    pub root_hash: Sha256,
    /// The signature of the root hash that Linux and systemd take, if there is one; of several the first.
    pub pkcs7: Option<Pkcs7>,
}

impl Image {
    /// Opens an image, which must have `root_hash`, or else has the one that it names.
    ///
    /// # Errors
    /// It is none, or block 0 does not lead to the root hash.
    pub fn open(file: File, root_hash: Option<Sha256>) -> Result<Self> {
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
        Ok(Self { file, header, root_hash, pkcs7 })
    }

    /// The file system. What is read of it leads to the root hash.
    ///
    /// # Errors
    /// There is none that can be read.
    pub fn file_system(&self) -> Result<FileSystem<Proven<&File>>> {
        let (proven, _) = Proven::open(&self.file, self.root_hash)?;
        Ok(FileSystem::open(proven)?)
    }

    /// The architecture that the configuration of its source names, if it had one.
    ///
    /// # Errors
    /// The seal cannot be read, or does not lead to the root hash.
    pub fn architecture(&self) -> Result<Option<String>> {
        let (proven, header) = Proven::open(&self.file, self.root_hash)?;
        Ok(Seal::open(&proven, &header)?.architecture()?)
    }
}
