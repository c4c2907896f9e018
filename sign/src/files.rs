//! Keys, certificates and signatures in files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::certificate::{Certificate, CertificateError};
use crate::key::{KeyError, PublicKey};
use crate::pem::FILE_MAX;

/// Where systemd looks for the certificates of those who sign images, first come first served.
pub const VERITY_D: [&str; 4] =
    ["/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d"];

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub problem: FileProblem,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is larger than any file of its kind.
    #[error("has more than 1 MiB")]
    TooLarge,
    /// It has no key that can be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It has no certificate that can be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The bytes of a file of at most 1 MiB.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    with(path, |bytes| Ok(bytes.to_vec()))
}

/// The public key in a file.
///
/// # Errors
/// As [`read`] and [`PublicKey::read`].
pub fn public_key(path: &Path) -> Result<PublicKey, FileError> {
    with(path, |bytes| Ok(PublicKey::read(bytes)?))
}

/// The certificates in a file.
///
/// # Errors
/// As [`read`] and [`Certificate::read`].
pub fn certificates(path: &Path) -> Result<Vec<Certificate>, FileError> {
    with(path, |bytes| Ok(Certificate::read(bytes)?))
}

/// The certificates in directories, `*.crt`: a file of an earlier directory hides one of the same name, and an empty one
/// takes it away, as systemd has it.
///
/// # Errors
/// A file that cannot be read. Directories may be missing.
pub fn certificates_in(directories: &[impl AsRef<Path>]) -> Result<Vec<Certificate>, FileError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
        paths.sort();
        for path in paths {
            let new = path.file_name().is_some_and(|name| seen.insert(name.to_owned()));
            if new && !read(&path)?.is_empty() {
                found.append(&mut certificates(&path)?);
            }
        }
    }
    Ok(found)
}

fn with<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, FileProblem>) -> Result<T, FileError> {
    let parsed = || {
        let mut bytes = Vec::new();
        let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() > FILE_MAX { Err(FileProblem::TooLarge) } else { parse(&bytes) }
    };
    parsed().map_err(|problem| FileError { file: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_directory_hides_the_names_of_later_ones() {
        let top = tempfile::tempdir().unwrap();
        let directories = ["first", "second", "missing"].map(|name| top.path().join(name));
        for directory in &directories[..2] {
            std::fs::create_dir(directory).unwrap();
        }
        // Empty: takes the broken one of the next directory away. Other names are not read at all.
        std::fs::write(directories[0].join("a.crt"), "").unwrap();
        std::fs::write(directories[1].join("a.crt"), "broken").unwrap();
        std::fs::write(directories[1].join("README"), "broken").unwrap();
        assert!(certificates_in(&directories).unwrap().is_empty());
        std::fs::remove_file(directories[0].join("a.crt")).unwrap();
        let error = certificates_in(&directories).unwrap_err().to_string();
        assert!(error.ends_with("second/a.crt: is no X.509 certificate in PEM or DER"), "{error}");
    }

    #[test]
    fn large_files_are_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(read(file.path()).unwrap().len(), 1 << 20);
        file.as_file().set_len((1 << 20) + 1).unwrap();
        assert!(matches!(read(file.path()).unwrap_err().problem, FileProblem::TooLarge));
    }
}
