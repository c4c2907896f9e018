//! Images that mkimg has not written: where their dm-verity tree is.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use mkimg_format::detached::Sealed;
use mkimg_format::volume::{Joined, Place, Volume, in_own_file, is_of_others};
use mkimg_format::{Error, Problem};

use crate::image::open_file;
use crate::output::show;

/// Where the tree of an image of another writer is.
#[derive(Debug, Args)]
pub(crate) struct HashArgs {
    /// Byte at which `veritysetup format` has put its superblock, of an EROFS image that mkimg has not written [default: where the
    /// file system ends].
    #[arg(long, value_name = "N")]
    pub hash_offset: Option<u64>,
    /// The file that has its dm-verity tree, if that is another one than the image.
    #[arg(long, value_name = "FILE")]
    pub hash_file: Option<PathBuf>,
}

/// An image of another writer, and its tree.
pub(crate) struct VolumeFile<'a> {
    pub image: Joined<&'a Sealed<File>, File>,
    pub volume: Volume,
}

impl HashArgs {
    /// Whether anything is said of the tree.
    pub(crate) const fn is_any(&self) -> bool {
        self.hash_offset.is_some() || self.hash_file.is_some()
    }

    /// Where the superblock is looked for.
    pub(crate) fn place(&self) -> Place {
        self.hash_offset.map_or(Place::Usual, Place::At)
    }

    /// Finds the tree of an image of another writer; `None` for whatever is no such image.
    pub(crate) fn open<'a>(&self, path: &Path, image: &'a Sealed<File>) -> Result<Option<VolumeFile<'a>>> {
        // What cannot be read is for others to report.
        if image.is_detached() || !is_of_others(image).unwrap_or(false) {
            if self.is_any() {
                let name = show(path);
                bail!(
                    "{name}: --hash-offset and --hash-file are for EROFS images that mkimg has not written"
                );
            }
            return Ok(None);
        }
        let hashes = self.hash_file.as_deref().map(open_file).transpose()?;
        let image = Joined::new(image, hashes);
        let volume = match Volume::open(&image, self.place()) {
            Err(Error::Corrupt { problem: Problem::Magic | Problem::OutOfBounds { .. }, .. }) => {
                let path = show(path);
                match (&self.hash_file, self.hash_offset) {
                    (Some(file), offset) => {
                        let offset = offset.unwrap_or_default();
                        bail!("{}: there is no dm-verity superblock at byte {offset}", show(file))
                    }
                    (None, Some(offset)) => {
                        bail!("{path}: there is no dm-verity superblock at byte {offset}")
                    }
                    (None, None) => bail!(
                        "{path}: mkimg has not written this image, and there is no dm-verity superblock behind its file system; --hash-offset and --hash-file say where else"
                    ),
                }
            }
            volume => volume.map_err(|error| {
                let (error, of_hashes) = in_own_file(error);
                let file = self.hash_file.as_deref().filter(|_| of_hashes).unwrap_or(path);
                anyhow::Error::new(error).context(show(file))
            })?,
        };
        Ok(Some(VolumeFile { image, volume }))
    }
}
