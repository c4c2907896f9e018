//! PKCS#7 SignedData (RFC 5652), in the one shape that Linux and systemd take for root hashes.
//!
//! Detached, one signer, no signed attributes: the signature is over the content itself. Linux refuses attributes here
//! (`pkcs7_verify.c` takes them for a few other uses only), so the builders of general libraries, which always add them,
//! are no help; the types below are the whole of it.
//!
//! No certificate is put in. Linux looks the signer up in its keyrings by issuer and serial number, systemd in `verity.d`,
//! and here it is the one that was given; a certificate inside would prove nothing and take space.

use der::asn1::{AnyRef, OctetStringRef, SetOfVec};
use der::oid::ObjectIdentifier;
use der::{Any, Decode as _, Encode as _, ErrorKind, Sequence, Tag, Tagged as _};

use crate::certificate::Certificate;
use crate::key::{DigestKind, KeyError, KeyKind, PrivateKey, RSA};
use crate::pem;

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// Largest PKCS#7 signature that is read, in bytes: one with a chain of certificates in it has less.
const LENGTH_MAX: usize = 64 << 10;

/// Why something is not a PKCS#7 signature that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Pkcs7Error {
    /// The bytes end too early.
    #[error("is truncated")]
    Truncated,
    /// Something follows.
    #[error("has bytes behind its end")]
    Trailing,
    /// No DER of SignedData.
    #[error("is no SignedData in DER")]
    Encoding,
    /// Another kind of message.
    #[error("is of content type {0}, not SignedData")]
    ContentType(String),
    /// The content is inside.
    #[error("is not detached: it has content inside")]
    Attached,
    /// None or several.
    #[error("has {0} signers, must have one")]
    Signers(usize),
    /// The signature is over attributes.
    #[error("has signed attributes, so it is not over the root hash itself; sign with -noattr")]
    SignedAttributes,
    /// The signer is named in another way.
    #[error("names its signer by key identifier, not by issuer and serial number")]
    KeyIdentifier,
    /// A digest that is not taken.
    #[error("uses digest {0}, not SHA-256, SHA-384 or SHA-512")]
    Digest(String),
    /// An algorithm that is not taken, or that is not of the digest.
    #[error("uses signature algorithm {0}, not RSA (PKCS#1 v1.5) or ECDSA with its digest")]
    Algorithm(String),
}

#[derive(Sequence)]
struct AlgorithmId<'a> {
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'a>>,
}

impl AlgorithmId<'_> {
    /// The algorithm, if it has no parameters: none of those that are taken has any.
    fn plain(&self) -> Result<ObjectIdentifier, Pkcs7Error> {
        let plain = self.parameters.is_none_or(|parameters| parameters == AnyRef::NULL);
        plain.then_some(self.oid).ok_or_else(|| Pkcs7Error::Algorithm(self.oid.to_string()))
    }
}

/// `ContentInfo`, and `EncapsulatedContentInfo`, which looks the same.
#[derive(Sequence)]
struct ContentInfo<'a> {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    content: Option<AnyRef<'a>>,
}

#[derive(Sequence)]
struct SignedData<'a> {
    version: u8,
    digest_algorithms: SetOfVec<Any>,
    content: ContentInfo<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true", constructed = "true")]
    certificates: Option<SetOfVec<Any>>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true", constructed = "true")]
    crls: Option<SetOfVec<Any>>,
    signers: SetOfVec<Any>,
}

#[derive(Sequence)]
struct IssuerAndSerial<'a> {
    issuer: AnyRef<'a>,
    serial: x509_cert::serial_number::SerialNumber,
}

#[derive(Sequence)]
struct SignerInfo<'a> {
    version: u8,
    signer: AnyRef<'a>,
    digest: AlgorithmId<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true", constructed = "true")]
    signed_attributes: Option<SetOfVec<Any>>,
    algorithm: AlgorithmId<'a>,
    signature: &'a OctetStringRef,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true", constructed = "true")]
    unsigned_attributes: Option<SetOfVec<Any>>,
}

/// A detached signature of one signer over content that is known from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs7 {
    der: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    digest: DigestKind,
    is_rsa: bool,
    signature: Vec<u8>,
}

impl Pkcs7 {
    /// Signs `message` by `key`, whose certificate is `certificate`: SHA-256, with P-384 SHA-384.
    ///
    /// # Errors
    /// An Ed25519 key, which neither Linux nor OpenSSL takes in this place, or one that does not sign.
    pub fn sign(key: &PrivateKey, certificate: &Certificate, message: &[u8]) -> Result<Self, KeyError> {
        let kind = key.public().kind();
        let (digest, algorithm) = match kind {
            KeyKind::Rsa => (SHA256, RSA),
            KeyKind::P256 => (SHA256, ECDSA_SHA256),
            KeyKind::P384 => (SHA384, ECDSA_SHA384),
            KeyKind::Ed25519 => return Err(KeyError::Kind("Ed25519 in PKCS#7".to_owned())),
        };
        let null = (kind == KeyKind::Rsa).then_some(AnyRef::NULL);
        let signature = key.sign(message)?;
        let encoded = encode(certificate, digest, algorithm, null, &signature);
        let der = encoded.map_err(|error| KeyError::Rejected(error.to_string()))?;
        Self::parse(&der).map_err(|error| KeyError::Rejected(error.to_string()))
    }

    /// Reads a file: DER, or PEM as OpenSSL labels it.
    ///
    /// # Errors
    /// As [`Pkcs7::parse`].
    pub fn read(file: &[u8]) -> Result<Self, Pkcs7Error> {
        Self::parse(&pem::der(file, &["PKCS7", "CMS"]).ok_or(Pkcs7Error::Encoding)?)
    }

    /// Reads DER.
    ///
    /// # Errors
    /// Anything but what [`Pkcs7::sign`] or `openssl smime -sign -noattr -binary` would write.
    pub fn parse(der: &[u8]) -> Result<Self, Pkcs7Error> {
        if der.len() > LENGTH_MAX {
            return Err(Pkcs7Error::Encoding);
        }
        let outer = ContentInfo::from_der(der).map_err(|error| match error.kind() {
            ErrorKind::Incomplete { .. } => Pkcs7Error::Truncated,
            ErrorKind::TrailingData { .. } => Pkcs7Error::Trailing,
            _ => Pkcs7Error::Encoding,
        })?;
        let encoding = |_| Pkcs7Error::Encoding;
        if outer.content_type != SIGNED_DATA {
            return Err(Pkcs7Error::ContentType(outer.content_type.to_string()));
        }
        let data: SignedData<'_> =
            outer.content.ok_or(Pkcs7Error::Encoding)?.decode_as().map_err(encoding)?;
        if data.content.content_type != DATA {
            return Err(Pkcs7Error::ContentType(data.content.content_type.to_string()));
        }
        if data.content.content.is_some() {
            return Err(Pkcs7Error::Attached);
        }
        let signer = match data.signers.as_ref() {
            [signer] => signer.to_der().map_err(encoding)?,
            others => return Err(Pkcs7Error::Signers(others.len())),
        };
        let signer = SignerInfo::from_der(&signer).map_err(encoding)?;
        if signer.signed_attributes.is_some() {
            return Err(Pkcs7Error::SignedAttributes);
        }
        if signer.signer.tag() != Tag::Sequence {
            return Err(Pkcs7Error::KeyIdentifier);
        }
        if (data.version, signer.version) != (1, 1) {
            return Err(Pkcs7Error::Encoding);
        }
        let name: IssuerAndSerial<'_> = signer.signer.decode_as().map_err(encoding)?;
        let digest = match signer.digest.plain()? {
            SHA256 => DigestKind::Sha256,
            SHA384 => DigestKind::Sha384,
            SHA512 => DigestKind::Sha512,
            other => return Err(Pkcs7Error::Digest(other.to_string())),
        };
        let is_rsa = match (signer.algorithm.plain()?, digest) {
            (RSA, _)
            | (RSA_SHA256, DigestKind::Sha256)
            | (RSA_SHA384, DigestKind::Sha384)
            | (RSA_SHA512, DigestKind::Sha512) => true,
            (ECDSA_SHA256, DigestKind::Sha256) | (ECDSA_SHA384, DigestKind::Sha384) => false,
            (other, _) => return Err(Pkcs7Error::Algorithm(other.to_string())),
        };
        // The list in front is for those who hash while they read; it has to say the same.
        let listed = [Any::encode_from(&signer.digest).map_err(encoding)?];
        if data.digest_algorithms.as_ref() != listed {
            return Err(Pkcs7Error::Encoding);
        }
        Ok(Self {
            der: der.to_vec(),
            issuer: name.issuer.to_der().map_err(encoding)?,
            serial: name.serial.as_bytes().to_vec(),
            digest,
            is_rsa,
            signature: signer.signature.as_bytes().to_vec(),
        })
    }

    /// The signature in DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// Serial number of the signer's certificate, in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> String {
        mkimg_format::hex(&self.serial)
    }

    /// Whether `certificate` is the one that the signature names as its signer's.
    #[must_use]
    pub fn is_by(&self, certificate: &Certificate) -> bool {
        self.issuer == certificate.issuer && self.serial == certificate.serial
    }

    /// Whether the key of `certificate` has signed `message`.
    #[must_use]
    pub fn verify(&self, certificate: &Certificate, message: &[u8]) -> bool {
        let key = certificate.key();
        let fits = match key.kind() {
            KeyKind::Rsa => self.is_rsa,
            KeyKind::P256 | KeyKind::P384 => !self.is_rsa,
            KeyKind::Ed25519 => false,
        };
        fits && key.verify_with(self.digest, message, &self.signature)
    }
}

fn encode(
    certificate: &Certificate,
    digest: ObjectIdentifier,
    algorithm: ObjectIdentifier,
    parameters: Option<AnyRef<'_>>,
    signature: &[u8],
) -> der::Result<Vec<u8>> {
    let digest = || AlgorithmId { oid: digest, parameters: Some(AnyRef::NULL) };
    let name = IssuerAndSerial {
        issuer: AnyRef::from_der(&certificate.issuer)?,
        serial: x509_cert::serial_number::SerialNumber::new(&certificate.serial)?,
    }
    .to_der()?;
    let signer = SignerInfo {
        version: 1,
        signer: AnyRef::from_der(&name)?,
        digest: digest(),
        signed_attributes: None,
        algorithm: AlgorithmId { oid: algorithm, parameters },
        signature: OctetStringRef::new(signature)?,
        unsigned_attributes: None,
    };
    let data = SignedData {
        version: 1,
        digest_algorithms: SetOfVec::try_from(vec![Any::encode_from(&digest())?])?,
        content: ContentInfo { content_type: DATA, content: None },
        certificates: None,
        crls: None,
        signers: SetOfVec::try_from(vec![Any::encode_from(&signer)?])?,
    }
    .to_der()?;
    ContentInfo { content_type: SIGNED_DATA, content: Some(AnyRef::from_der(&data)?) }.to_der()
}
