//! A certificate that is trusted as it is, as systemd trusts those in `verity.d`: no chain, no authority.

use std::time::{Duration, SystemTime};

use der::{Decode as _, Encode as _};
use mkimg_format::erofs::escape;
use mkimg_format::{Sha256, hex};
use sha2::Digest as _;
use x509_cert::time::Time;

use crate::key::{KeyError, PublicKey};
use crate::pem;

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Neither PEM nor DER of a certificate.
    #[error("is no X.509 certificate in PEM or DER")]
    NoCertificate,
    /// Its key cannot be used.
    #[error("certificate of {subject}: its key {problem}")]
    Key {
        /// Whose it is.
        subject: String,
        /// What is wrong with the key.
        problem: KeyError,
    },
}

/// Why a certificate does not count now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untimely {
    /// Too early.
    #[error("certificate of {subject} is not valid before {from}")]
    NotYet {
        /// Whose it is.
        subject: String,
        /// Date and time.
        from: String,
    },
    /// Too late.
    #[error("certificate of {subject} has expired at {until}")]
    Expired {
        /// Whose it is.
        subject: String,
        /// Date and time.
        until: String,
    },
}

/// A pinned certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    key: PublicKey,
    subject: String,
    pub(crate) issuer: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    not_before: Time,
    not_after: Time,
    fingerprint: Sha256,
}

impl Certificate {
    /// Reads all certificates of a file: PEM, or one in DER.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn read(file: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let Some(blocks) = pem::blocks(file) else { return Ok(vec![Self::from_der(file)?]) };
        let found = blocks.iter().filter(|block| block.label == "CERTIFICATE");
        let found: Vec<Self> = found.map(|block| Self::from_der(&block.der)).collect::<Result<_, _>>()?;
        if found.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(found) }
    }

    fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let none = |_| CertificateError::NoCertificate;
        let certificate = x509_cert::Certificate::from_der(der).map_err(none)?;
        let inner = certificate.tbs_certificate();
        // A name may hold anything, and stands in messages.
        let subject = escape(inner.subject().to_string().as_bytes());
        let spki = inner.subject_public_key_info().to_der().map_err(none)?;
        let key = PublicKey::from_spki(&spki)
            .map_err(|problem| CertificateError::Key { subject: subject.clone(), problem })?;
        Ok(Self {
            key,
            subject,
            issuer: inner.issuer().to_der().map_err(none)?,
            serial: inner.serial_number().as_bytes().to_vec(),
            not_before: inner.validity().not_before,
            not_after: inner.validity().not_after,
            fingerprint: sha2::Sha256::digest(der).into(),
        })
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whose it is, as RFC 4514 writes names, without control characters.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 of it in hexadecimal digits, as `openssl x509 -fingerprint -sha256` shows it but for the colons.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint)
    }

    /// SHA-256 of it in DER.
    #[must_use]
    pub const fn digest(&self) -> Sha256 {
        self.fingerprint
    }

    /// Whether it counts at a moment; both ends of its period do.
    ///
    /// # Errors
    /// Too early or too late.
    pub fn valid_at(&self, now: SystemTime) -> Result<(), Untimely> {
        // Certificates know no time before 1970.
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = Duration::from_secs(now.as_secs());
        let subject = self.subject.clone();
        if now < self.not_before.to_unix_duration() {
            return Err(Untimely::NotYet { subject, from: self.not_before.to_date_time().to_string() });
        }
        if now > self.not_after.to_unix_duration() {
            return Err(Untimely::Expired { subject, until: self.not_after.to_date_time().to_string() });
        }
        Ok(())
    }
}
