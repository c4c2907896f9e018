//! Files beside an image, by which other tools know what it is.

use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use mkimg_format::hex;
use mkimg_mkfs::Output;

use crate::{Error, Image, Result};

/// What stands beside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// `.roothash`: the root hash in hexadecimal digits, for systemd and `veritysetup --root-hash-file`.
    RootHash,
}

impl Sidecar {
    /// Where it stands: systemd leaves out `.raw` in front of its own suffixes.
    #[must_use]
    pub fn path(self, image: &Path) -> PathBuf {
        let name = image.as_os_str().as_bytes();
        let (name, suffix) = match self {
            Self::RootHash => (name.strip_suffix(b".raw").unwrap_or(name), ".roothash"),
        };
        std::ffi::OsString::from_vec([name, suffix.as_bytes()].concat()).into()
    }

    /// Writes it beside the image at `path`, in place of what was there, and returns where that is.
    ///
    /// # Errors
    /// It cannot be written; then what was there is there still.
    pub fn write(self, path: &Path, image: &Image) -> Result<PathBuf> {
        let path = self.path(path);
        let output = Output::create(&path)?;
        output.spare(&image.file)?;
        let text = match self {
            Self::RootHash => format!("{}\n", hex(&image.root_hash)),
        };
        let failed = |source| Error::Write { path: path.clone(), source };
        output.file().write_all(text.as_bytes()).map_err(failed)?;
        output.finish()?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_systemd_looks_for() {
        for (image, path) in [
            ("web.img", "web.img.roothash"),
            ("dir/web.raw", "dir/web.roothash"),
            ("web.raw.img", "web.raw.img.roothash"),
            (".raw", ".roothash"),
        ] {
            assert_eq!(Sidecar::RootHash.path(Path::new(image)), Path::new(path));
        }
    }
}
