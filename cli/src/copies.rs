//! Copies of an image that may help to mend it: files, and what is elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use anyhow::Result;
use mkimg_format::ReadAt;
use mkimg_format::detached::Sealed;
use mkimg_mkfs::Output;
use mkimg_remote::{Limits, Place, Remote};

use crate::image::open_file;

/// A copy of an image or its detached seal.
pub(crate) enum Copy {
    Local(File),
    Remote(Box<Remote>),
}

impl Copy {
    /// Opens what `--from` names; it must not be the output.
    pub(crate) fn open(from: &OsStr, output: &Output) -> Result<Self> {
        match from.to_str().filter(|text| Place::is_meant(text)) {
            Some(text) => Ok(Self::Remote(Box::new(Remote::open(&text.parse()?, Limits::default())?))),
            None => {
                let file = open_file(Path::new(from))?;
                output.spare(&file)?;
                Ok(Self::Local(file))
            }
        }
    }

    /// The copy as one that has its bytes where the image has them.
    pub(crate) fn reader(&self) -> Box<dyn ReadAt + '_> {
        match self {
            Self::Local(file) => unsealed(file),
            Self::Remote(remote) => unsealed(remote.as_ref()),
        }
    }

    pub(crate) const fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Local(_) => None,
            Self::Remote(remote) => Some(remote),
        }
    }
}

fn unsealed<R: ReadAt>(copy: &R) -> Box<dyn ReadAt + '_> {
    match Sealed::open(copy) {
        Ok(sealed) => Box::new(sealed),
        // A copy may be damaged anywhere.
        Err(_) => Box::new(copy),
    }
}
