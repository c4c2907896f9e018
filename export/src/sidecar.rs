//! Files beside an image, by which other tools know what it is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use mkimg_format::hex;
use mkimg_mkfs::Output;
use serde::Serialize;

use crate::{Error, Image, Result};

/// What stands beside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// `.roothash`: the root hash in hexadecimal digits, for systemd and `veritysetup --root-hash-file`.
    RootHash,
    /// `.roothash.p7s`: the PKCS#7 signature of the root hash, for systemd and `veritysetup --root-hash-signature`.
    Pkcs7,
    /// `.verity`: superblock and tree, for systemd, which finds them nowhere else in an image without partitions.
    Verity,
    /// `.dmverity`: where the tree is, for the EROFS snapshotter of containerd.
    Dmverity,
    /// `.verity.json`: all that `veritysetup` and `dmsetup` can be told.
    VerityJson,
}

/// `DmverityMetadata` of containerd, `internal/dmverity/dmverity.go`.
#[derive(Serialize)]
struct Dmverity {
    roothash: String,
    hashoffset: u64,
}

impl Dmverity {
    fn of(image: &Image) -> Self {
        Self { roothash: hex(&image.root_hash), hashoffset: image.header.hash_offset() }
    }
}

impl Sidecar {
    /// Where it stands: systemd leaves out `.raw` in front of its own suffixes, all others keep the whole name.
    #[must_use]
    pub fn path(self, image: &Path) -> PathBuf {
        let whole = image.as_os_str().as_bytes();
        let short = whole.strip_suffix(b".raw").unwrap_or(whole);
        let (name, suffix) = match self {
            Self::RootHash => (short, ".roothash"),
            Self::Pkcs7 => (short, ".roothash.p7s"),
            Self::Verity => (short, ".verity"),
            Self::Dmverity => (whole, ".dmverity"),
            Self::VerityJson => (whole, ".verity.json"),
        };
        OsString::from_vec([name, suffix.as_bytes()].concat()).into()
    }

    /// Whether blocks of the image go into it: then the image should be checked before.
    #[must_use]
    pub fn holds_blocks(self) -> bool {
        self == Self::Verity
    }

    /// Makes sure that there is something to write.
    ///
    /// # Errors
    /// [`Error::Unsigned`].
    pub fn check(self, image: &Image) -> Result<()> {
        if self == Self::Pkcs7 && image.pkcs7.is_none() { Err(Error::Unsigned) } else { Ok(()) }
    }

    /// Writes it beside the image at `path`, in place of what was there, and returns where that is.
    ///
    /// # Errors
    /// It cannot be written, or there is no signature to write; then what was there is there still.
    pub fn write(self, path: &Path, image: &Image) -> Result<PathBuf> {
        let path = self.path(path);
        let output = Output::create(&path)?;
        output.spare(&image.file)?;
        let mut file = output.file();
        let written = match self {
            Self::RootHash => writeln!(file, "{}", hex(&image.root_hash)),
            Self::Pkcs7 => file.write_all(image.pkcs7.as_ref().ok_or(Error::Unsigned)?.as_der()),
            Self::Verity => copy_tree(image, file),
            Self::Dmverity => write_json(file, &Dmverity::of(image)),
            Self::VerityJson => write_json(file, &image.parameters()),
        };
        written.map_err(Error::write(&path))?;
        image.unchanged()?;
        output.finish()?;
        Ok(path)
    }
}

/// Copies superblock and tree, which name no offset and so can stand anywhere.
fn copy_tree(image: &Image, mut output: &File) -> io::Result<()> {
    let mut source = &image.file;
    let (start, end) = (image.header.hash_offset(), image.header.fec_offset());
    source.seek(SeekFrom::Start(start))?;
    let length = end.saturating_sub(start);
    match io::copy(&mut source.take(length), &mut output)? {
        copied if copied == length => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image ends in its tree")),
    }
}

/// A document for machines, and for people who look into it.
fn write_json(mut file: &File, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_others_look_for() {
        use Sidecar::{Dmverity, Pkcs7, RootHash, Verity, VerityJson};
        for (image, sidecar, path) in [
            ("web.img", RootHash, "web.img.roothash"),
            ("dir/web.raw", RootHash, "dir/web.roothash"),
            ("web.raw.img", RootHash, "web.raw.img.roothash"),
            (".raw", RootHash, ".roothash"),
            ("web.raw", Pkcs7, "web.roothash.p7s"),
            ("web.raw", Verity, "web.verity"),
            ("web.img", Verity, "web.img.verity"),
            ("web.raw", Dmverity, "web.raw.dmverity"),
            ("layer.erofs", Dmverity, "layer.erofs.dmverity"),
            ("web.raw", VerityJson, "web.raw.verity.json"),
        ] {
            assert_eq!(sidecar.path(Path::new(image)), Path::new(path));
        }
    }
}
