//! Keys: RSA, ECDSA and Ed25519, as OpenSSL writes them.

use std::fmt;

use der::asn1::{AnyRef, BitStringRef, OctetStringRef, UintRef};
use der::oid::ObjectIdentifier;
use der::{Decode as _, Encode as _, Sequence};
use mkimg_format::{Sha256, hex};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use sha2::Digest as _;

use crate::pem;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
pub(crate) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither DER nor PEM of a key.
    #[error("is no {0} in PEM or DER")]
    NoKey(&'static str),
    /// A private key behind a passphrase.
    #[error("is encrypted; take the passphrase off with openssl pkey, or sign what --detached-digest writes")]
    Encrypted,
    /// A kind that is not used here.
    #[error("is a key of algorithm {0}; Ed25519, RSA, and ECDSA on P-256 and P-384 can be used")]
    Kind(String),
    /// An RSA key of another size than can be used.
    #[error("is an RSA key of {0} bits; 2048 to 4096 can be used")]
    RsaBits(usize),
    /// A private key that its library refuses.
    #[error("cannot be used: {0}")]
    Rejected(String),
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// Ed25519.
    Ed25519 = 1,
    /// RSA with PKCS#1 v1.5 padding.
    Rsa = 2,
    /// ECDSA on P-256.
    P256 = 3,
    /// ECDSA on P-384.
    P384 = 4,
}

impl KeyKind {
    /// The kind that a number in a record stands for.
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Ed25519),
            2 => Some(Self::Rsa),
            3 => Some(Self::P256),
            4 => Some(Self::P384),
            _ => None,
        }
    }

    /// The digest that this project signs with; Ed25519 has its own inside.
    pub(crate) const fn digest(self) -> DigestKind {
        match self {
            Self::P384 => DigestKind::Sha384,
            _ => DigestKind::Sha256,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
        })
    }
}

/// A digest that RSA and ECDSA sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DigestKind {
    Sha256,
    Sha384,
    Sha512,
}

/// Names a key: SHA-256 of its SubjectPublicKeyInfo in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub Sha256);

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

#[derive(Sequence)]
struct Algorithm<'a> {
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'a>>,
}

#[derive(Sequence)]
struct Spki<'a> {
    algorithm: Algorithm<'a>,
    key: BitStringRef<'a>,
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// `ECPrivateKey` of SEC 1, appendix C.4.
#[derive(Sequence)]
struct Sec1<'a> {
    version: u8,
    private_key: &'a OctetStringRef,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    curve: Option<ObjectIdentifier>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    public_key: Option<BitStringRef<'a>>,
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    /// `RSAPublicKey` in DER, an uncompressed point, or the 32 bytes of Ed25519.
    bytes: Vec<u8>,
    id: KeyId,
}

impl PublicKey {
    /// Reads a file with one public key: SubjectPublicKeyInfo in PEM or DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        let der = pem::der(file, &["PUBLIC KEY"]).ok_or(KeyError::NoKey("public key"))?;
        Self::from_spki(&der)
    }

    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let none = KeyError::NoKey("public key");
        let spki = Spki::from_der(der).map_err(|_| none.clone())?;
        let bytes = spki.key.as_bytes().ok_or_else(|| none.clone())?;
        let curve = || {
            let parameters = spki.algorithm.parameters.as_ref();
            parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok())
        };
        let kind = match spki.algorithm.oid {
            ED25519 if bytes.len() == 32 => KeyKind::Ed25519,
            RSA => {
                let key = RsaPublicKey::from_der(bytes).map_err(|_| none.clone())?;
                let bytes = key.modulus.as_bytes();
                let top = bytes.first().map_or(0, |byte| byte.leading_zeros());
                let top = usize::try_from(top).unwrap_or_default();
                let bits = bytes.len().saturating_mul(8).saturating_sub(top);
                if !(2048..=4096).contains(&bits) {
                    return Err(KeyError::RsaBits(bits));
                }
                KeyKind::Rsa
            }
            EC => match curve() {
                Some(P256) => KeyKind::P256,
                Some(P384) => KeyKind::P384,
                Some(other) => return Err(KeyError::Kind(format!("ECDSA on curve {other}"))),
                None => return Err(none),
            },
            other => return Err(KeyError::Kind(other.to_string())),
        };
        Ok(Self { kind, bytes: bytes.to_vec(), id: KeyId(sha2::Sha256::digest(der).into()) })
    }

    /// The key that `bytes`, in the form of the library, are of.
    fn from_bytes(kind: KeyKind, bytes: &[u8]) -> Result<Self, KeyError> {
        let (oid, parameters) = match kind {
            KeyKind::Ed25519 => (ED25519, None),
            KeyKind::Rsa => (RSA, Some(AnyRef::NULL)),
            KeyKind::P256 => (EC, Some(AnyRef::from(&P256))),
            KeyKind::P384 => (EC, Some(AnyRef::from(&P384))),
        };
        let encoded = BitStringRef::from_bytes(bytes)
            .and_then(|key| Spki { algorithm: Algorithm { oid, parameters }, key }.to_der());
        Self::from_spki(&encoded.map_err(|_| KeyError::NoKey("public key"))?)
    }

    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` is one of this key over `message`, in the way that this project signs.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verify_with(self.kind.digest(), message, signature)
    }

    /// The same with another digest. Ed25519 takes no other than its own.
    pub(crate) fn verify_with(&self, digest: DigestKind, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn signature::VerificationAlgorithm = match (self.kind, digest) {
            (KeyKind::Ed25519, _) => &signature::ED25519,
            (KeyKind::Rsa, DigestKind::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa, DigestKind::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, DigestKind::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::P256, DigestKind::Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, DigestKind::Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, DigestKind::Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, DigestKind::Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (KeyKind::P256 | KeyKind::P384, DigestKind::Sha512) => return false,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

/// A key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PrivateKey({})", self.public.id)
    }
}

impl PrivateKey {
    /// Reads a file with one private key in PEM or DER: PKCS#8, PKCS#1 (RSA) or SEC 1 (ECDSA).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(file: &[u8]) -> Result<Self, KeyError> {
        let Some(blocks) = pem::blocks(file) else {
            // DER does not say what it is; the three forms have nothing in common.
            return Self::from_pkcs8(file).or_else(|error| {
                Self::from_pkcs1(file).or_else(|_| Self::from_sec1(file)).map_err(|_| error)
            });
        };
        let mut keys = blocks.iter().filter(|block| block.label.ends_with("PRIVATE KEY"));
        let (Some(block), None) = (keys.next(), keys.next()) else {
            return Err(KeyError::NoKey("single private key"));
        };
        match block.label {
            "PRIVATE KEY" => Self::from_pkcs8(&block.der),
            "RSA PRIVATE KEY" => Self::from_pkcs1(&block.der),
            "EC PRIVATE KEY" => Self::from_sec1(&block.der),
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
            other => Err(KeyError::Kind(other.to_owned())),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let curve = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der, &random).map(Pair::Ecdsa);
        let attempts = [
            (KeyKind::Ed25519, Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519)),
            (KeyKind::Rsa, RsaKeyPair::from_pkcs8(der).map(Pair::Rsa)),
            (KeyKind::P256, curve(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)),
            (KeyKind::P384, curve(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)),
        ];
        let mut failure = KeyError::NoKey("private key (Ed25519, RSA, ECDSA P-256 or P-384, as PKCS#8)");
        for (kind, attempt) in attempts {
            match attempt {
                Ok(pair) => return Self::new(kind, pair),
                // Of another kind, or nothing at all; any other reason is about the key itself.
                Err(error) if matches!(&*error.to_string(), "WrongAlgorithm" | "InvalidEncoding") => {}
                Err(error) => failure = rejected(error),
            }
        }
        Err(failure)
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        Self::new(KeyKind::Rsa, Pair::Rsa(RsaKeyPair::from_der(der).map_err(rejected)?))
    }

    fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        let none = KeyError::NoKey("private key with curve and public key");
        let key = Sec1::from_der(der).map_err(|_| none.clone())?;
        let (kind, algorithm) = match key.curve {
            Some(P256) => (KeyKind::P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING),
            Some(P384) => (KeyKind::P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING),
            Some(other) => return Err(KeyError::Kind(format!("ECDSA on curve {other}"))),
            None => return Err(none),
        };
        let public = key.public_key.as_ref().and_then(BitStringRef::as_bytes).ok_or(none)?;
        let (private, random) = (key.private_key.as_bytes(), SystemRandom::new());
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &random);
        Self::new(kind, Pair::Ecdsa(pair.map_err(rejected)?))
    }

    fn new(kind: KeyKind, pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::Ed25519(pair) => PublicKey::from_bytes(kind, pair.public_key().as_ref()),
            Pair::Rsa(pair) => PublicKey::from_bytes(kind, pair.public_key().as_ref()),
            Pair::Ecdsa(pair) => PublicKey::from_bytes(kind, pair.public_key().as_ref()),
        }?;
        Ok(Self { pair, public })
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message; [`PublicKey::verify`] takes the result.
    ///
    /// # Errors
    /// No random numbers, or a key whose parts do not fit together.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let failed = |_| KeyError::Rejected("it does not sign".to_owned());
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Ecdsa(pair) => pair.sign(&random, message).map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                signature
            }
        };
        // A fault while signing can give the key away; what does not verify is not handed out.
        if self.public.verify(message, &signature) {
            Ok(signature)
        } else {
            Err(KeyError::Rejected("its signatures do not verify".to_owned()))
        }
    }
}

fn rejected(error: ring::error::KeyRejected) -> KeyError {
    KeyError::Rejected(error.to_string())
}
