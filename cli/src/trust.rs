//! Whom to trust, as the arguments of several commands say it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args};
use mkimg_format::ReadAt;
use mkimg_sign::{Anchor, Certificate, PublicKey, Trust, Vouching};
use serde::Serialize;

use crate::output::show;

/// Largest file with a key, certificates or a signature, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Where systemd looks for the certificates of those who sign images, first come first served.
const VERITY_D: [&str; 4] =
    ["/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d"];

/// Whom to trust.
#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("anchors").args(["root_hash", "key", "cert", "require_signature"]).multiple(true)
))]
pub(crate) struct TrustArgs {
    /// The root hash that the image must have: 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", value_parser = root_hash)]
    pub root_hash: Option<[u8; 32]>,
    /// A public key that must have signed the image; of several, one must.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// A certificate whose key must have signed it, or its root hash (PKCS#7); of several, one must.
    #[arg(long, value_name = "FILE")]
    cert: Vec<PathBuf>,
    /// Take nothing that is not signed: without --key and --cert by a certificate in verity.d of systemd.
    #[arg(long)]
    require_signature: bool,
    /// A file with a signature, besides those in the image; may be given several times.
    #[arg(long, value_name = "FILE", requires = "anchors")]
    signature: Vec<PathBuf>,
    /// Refuse images of a lower epoch.
    #[arg(long, value_name = "N", requires = "anchors")]
    min_epoch: Option<u64>,
    /// Refuse images of a lower epoch than was seen before under their name; the file keeps the highest.
    #[arg(long, value_name = "FILE", requires = "anchors")]
    epoch_state: Option<PathBuf>,
}

impl TrustArgs {
    /// Reads keys and certificates.
    pub(crate) fn trust(&self) -> Result<Trust> {
        let mut trust = Trust {
            root_hash: self.root_hash,
            require_signature: self.require_signature,
            min_epoch: self.min_epoch,
            epoch_state: self.epoch_state.clone(),
            ..Trust::default()
        };
        for path in &self.key {
            trust.keys.push(PublicKey::read(&small_file(path)?).with_context(|| show(path))?);
        }
        for path in &self.cert {
            trust.certificates.append(&mut certificates(path)?);
        }
        for path in &self.signature {
            trust.sidecars.push(small_file(path)?);
        }
        if self.require_signature && trust.keys.is_empty() && trust.certificates.is_empty() {
            trust.certificates = certificates_in(&VERITY_D)?;
        }
        Ok(trust)
    }
}

/// Who vouches for an image; `None` if nobody is asked for.
pub(crate) fn anchor(path: &Path, image: &impl ReadAt, trust: &Trust) -> Result<Option<Anchor>> {
    trust.anchor(image, SystemTime::now()).with_context(|| show(path))
}

/// What an audit says of who vouches for the image.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Anchored {
    anchored: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    anchored_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
}

impl Anchored {
    pub(crate) fn new(anchored: bool, by: Option<&Vouching>) -> Self {
        let by = by.filter(|_| anchored);
        Self {
            anchored,
            anchored_by: by.map(Vouching::word),
            key_id: by.and_then(Vouching::key).map(|id| id.to_string()),
            signer: by.and_then(Vouching::signer).map(str::to_owned),
        }
    }
}

/// The bytes of a small file.
pub(crate) fn small_file(path: &Path) -> Result<Vec<u8>> {
    let name = || show(path);
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(name)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).with_context(name)?;
    if bytes.len() as u64 > FILE_MAX {
        bail!("{}: has more than 1 MiB", show(path));
    }
    Ok(bytes)
}

/// The certificates in a file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    Certificate::read(&small_file(path)?).with_context(|| show(path))
}

/// The certificates in directories, `*.crt`: one of an earlier directory hides one of the same name, and an empty one takes
/// it away, as systemd has it.
fn certificates_in(directories: &[impl AsRef<Path>]) -> Result<Vec<Certificate>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
        paths.sort();
        for path in paths {
            let new = path.file_name().is_some_and(|name| seen.insert(name.to_owned()));
            if new && !small_file(&path)?.is_empty() {
                found.append(&mut certificates(&path)?);
            }
        }
    }
    Ok(found)
}

fn root_hash(text: &str) -> Result<[u8; 32], String> {
    mkimg_format::parse_sha256(text).ok_or_else(|| "must be 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_directory_hides_the_names_of_later_ones() {
        let top = std::env::temp_dir().join(format!("mkimg-verity.d-{}", std::process::id()));
        let directories = ["first", "second", "missing"].map(|name| top.join(name));
        for directory in &directories[..2] {
            std::fs::create_dir_all(directory).unwrap();
        }
        // Empty: takes the broken one of the next directory away. Other names are not read at all.
        std::fs::write(directories[0].join("a.crt"), "").unwrap();
        std::fs::write(directories[1].join("a.crt"), "broken").unwrap();
        std::fs::write(directories[1].join("README"), "broken").unwrap();
        assert!(certificates_in(&directories).unwrap().is_empty());
        std::fs::remove_file(directories[0].join("a.crt")).unwrap();
        let error = certificates_in(&directories).unwrap_err();
        std::fs::remove_dir_all(&top).unwrap();
        assert!(format!("{error:#}").contains("second/a.crt: is no X.509 certificate"), "{error:#}");
    }
}
