//! Disks for systemd: the image in the partitions of a disk, as `mkimg_format::ddi` has it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use mkimg_format::ddi::{Architecture, DATA_OFFSET, table};
use mkimg_format::gpt::Table;
use mkimg_format::hex;
use mkimg_format::verity_signature::VeritySignature;
use mkimg_mkfs::Output;
use mkimg_sign::{Certificate, Pkcs7};

use crate::{Error, Image, Result};

/// A disk that is going to be written.
#[derive(Debug)]
pub struct Ddi<'a> {
    image: &'a Image,
    /// Its partitions.
    pub table: Table,
    /// The bytes of the signature partition.
    signature: Option<Vec<u8>>,
    /// Whether one of the certificates has made that signature.
    checked: bool,
}

impl<'a> Ddi<'a> {
    /// Plans the disk of an image for the processors of `architecture`, or for those that its source names.
    ///
    /// `pkcs7` gets a partition of its own. If it is by the holder of one of the certificates, this one is named there.
    ///
    /// # Errors
    /// There is no type of partition for the architecture, or nobody says which it is; or the signature is by one of
    /// the certificates, and not over the root hash.
    pub fn plan(
        image: &'a Image,
        architecture: Option<&str>,
        pkcs7: Option<&Pkcs7>,
        certificates: &[Certificate],
    ) -> Result<Self> {
        let architecture = choose(image.seal()?.architecture()?.as_deref(), architecture)?;
        let signature = pkcs7.map(|pkcs7| signature(image, pkcs7, certificates)).transpose()?;
        let checked = signature.as_ref().is_some_and(|signature| signature.fingerprint.is_some());
        let signature = signature.map(|signature| signature.to_partition());
        let table = table(architecture, &image.header, &image.root_hash, signature.as_deref());
        Ok(Self { image, table, signature, checked })
    }

    /// Whether it has a signature partition.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Whether its signature was checked, against a certificate that is named in it now.
    #[must_use]
    pub const fn is_checked(&self) -> bool {
        self.checked
    }

    /// Writes it to `path`, in place of what was there.
    ///
    /// # Errors
    /// It cannot be written, or the image ends too early; then what was there is there still.
    pub fn write(&self, path: &Path) -> Result<()> {
        let output = Output::create(path)?;
        output.spare(&self.image.file)?;
        output.reserve(self.table.size)?;
        self.fill(output.file()).map_err(Error::write(path))?;
        self.image.unchanged()?;
        Ok(output.finish()?)
    }

    fn fill(&self, mut disk: &File) -> io::Result<()> {
        disk.write_all(&self.table.primary())?;
        disk.seek(SeekFrom::Start(DATA_OFFSET))?;
        let (mut image, length): (&File, u64) = (&self.image.file, self.image.header.image_size());
        image.seek(SeekFrom::Start(0))?;
        if io::copy(&mut image.take(length), &mut disk)? < length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image ends too early"));
        }
        disk.write_all(self.signature.as_deref().unwrap_or_default())?;
        disk.seek(SeekFrom::Start(self.table.backup_bytes().start))?;
        disk.write_all(&self.table.backup())
    }
}

/// The architecture by its name in the image, or else the name that somebody gives.
fn choose(own: Option<&str>, asked: Option<&str>) -> Result<&'static Architecture> {
    let name = match (own, asked) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(Error::OtherArchitecture { own: own.to_owned(), asked: asked.to_owned() });
        }
        (own, asked) => own.or(asked).ok_or(Error::NoArchitecture)?,
    };
    Architecture::by_oci_name(name).ok_or_else(|| Error::UnknownArchitecture(name.to_owned()))
}

fn signature(image: &Image, pkcs7: &Pkcs7, certificates: &[Certificate]) -> Result<VeritySignature> {
    let signer = certificates.iter().find(|certificate| pkcs7.is_by(certificate));
    if let Some(signer) = signer.filter(|signer| !pkcs7.verify(signer, hex(&image.root_hash).as_bytes())) {
        return Err(Error::WrongSignature(signer.subject().to_owned()));
    }
    Ok(VeritySignature {
        root_hash: image.root_hash,
        pkcs7: pkcs7.as_der().to_vec(),
        fingerprint: signer.map(Certificate::digest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_is_named_once() {
        let oci = |own, asked| choose(own, asked).map(|found| found.oci).map_err(|error| error.to_string());
        assert_eq!(oci(Some("amd64"), None).unwrap(), "amd64");
        assert_eq!(oci(None, Some("arm64")).unwrap(), "arm64");
        assert_eq!(oci(Some("s390x"), Some("s390x")).unwrap(), "s390x");
        for (own, asked, expected) in [
            (Some("amd64"), Some("arm64"), "is for amd64, not for arm64"),
            (None, None, "its source names no architecture; say which with --architecture"),
            (
                Some("wasm"),
                None,
                "systemd has no type of partition for architecture wasm; they are named as in OCI: arm, arm64, loong64, mips, \
                 mipsle, mips64, mips64le, ppc, ppc64, ppc64le, riscv, riscv64, s390, s390x, 386, amd64",
            ),
        ] {
            assert_eq!(oci(own, asked).unwrap_err(), expected);
        }
    }
}
