//! Whom to trust, as the arguments of several commands say it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Args};
use mkimg_format::ReadAt;
use mkimg_format::detached::Sealed;
use mkimg_sign::{Anchor, Trust, Vouching, files};
use serde::Serialize;

use crate::output::show;

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
            ..Trust::of_files(&self.key, &self.cert)?
        };
        for path in &self.signature {
            trust.sidecars.push(files::read(path)?);
        }
        if self.require_signature && trust.keys.is_empty() && trust.certificates.is_empty() {
            trust.certificates = files::certificates_in(&files::VERITY_D)?;
        }
        Ok(trust)
    }
}

/// Who vouches for an image; `None` if nobody is asked for.
pub(crate) fn anchor(path: &Path, image: &impl ReadAt, trust: &Trust) -> Result<Option<Anchor>> {
    trust.anchor(image, SystemTime::now()).with_context(|| show(path))
}

/// Takes the signature partition of a disk, if it holds a signature, as one more that may be the one that is asked for.
pub(crate) fn with_partition(mut trust: Trust, image: &Sealed<File>) -> Trust {
    let signature = image.disk().and_then(|disk| disk.signature(image.io()).ok().flatten());
    trust.sidecars.extend(signature.map(|signature| signature.pkcs7));
    trust
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

pub(crate) fn root_hash(text: &str) -> Result<[u8; 32], String> {
    mkimg_format::parse_sha256(text).ok_or_else(|| "must be 64 hexadecimal digits".to_owned())
}
