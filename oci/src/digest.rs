//! Content digests as the OCI descriptor spells them.
//!
//! Source: OCI image specification 1.1, `descriptor.md`, "Digests".

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use sha2::Digest as _;

use crate::error::{Error, quote};

/// A SHA-256 or SHA-512 digest. Displays as `sha256:HEX`.
///
/// Parsing is strict (algorithm, exact length, lower-case digits), so that a digest can be used as a file name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Value);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

impl Digest {
    /// A SHA-256 digest that was computed elsewhere.
    pub fn from_sha256(bytes: [u8; 32]) -> Digest {
        Digest(Value::Sha256(bytes))
    }

    /// The SHA-256 digest of `data`.
    pub fn of(data: &[u8]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(data);
        hasher.finish()
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Value::Sha256(_) => "sha256",
            Value::Sha512(_) => "sha512",
        }
    }

    /// The 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Value::Sha256(bytes) => bytes,
            Value::Sha512(bytes) => bytes,
        }
    }

    /// The bytes of a SHA-256 digest, none for another algorithm.
    pub fn as_sha256(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            Value::Sha256(bytes) => Some(bytes),
            Value::Sha512(_) => None,
        }
    }

    /// Lower-case hexadecimal digits without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        self.as_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }

    /// Whether `data` has this digest.
    pub fn matches(&self, data: &[u8]) -> bool {
        self.compute_alike(data) == *self
    }

    /// The digest of `data` by the same algorithm.
    pub(crate) fn compute_alike(&self, data: &[u8]) -> Digest {
        let mut hasher = Hasher::like(Some(self));
        hasher.update(data);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest, Error> {
        let value = match text.split_once(':') {
            Some(("sha256", hex)) => decode(hex).map(Value::Sha256),
            Some(("sha512", hex)) => decode(hex).map(Value::Sha512),
            _ => None,
        };
        value.map(Digest).ok_or_else(|| Error::BadDigest(quote(text)))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut out = [0; N];
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

/// A digest in the making.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub(crate) fn sha256() -> Hasher {
        Hasher::Sha256(sha2::Sha256::new())
    }

    /// By the algorithm of `digest`; SHA-256 where there is none to compare with.
    pub(crate) fn like(digest: Option<&Digest>) -> Hasher {
        match digest.map(|digest| digest.0) {
            Some(Value::Sha512(_)) => Hasher::Sha512(sha2::Sha512::new()),
            _ => Hasher::sha256(),
        }
    }

    pub(crate) fn same_algorithm(&self, other: &Hasher) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(data),
            Hasher::Sha512(hasher) => hasher.update(data),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(match self {
            Hasher::Sha256(hasher) => Value::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Value::Sha512(hasher.finalize().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_answers() {
        // FIPS 180-4 examples for "abc".
        let abc256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let abc512 = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert_eq!(Digest::of(b"abc").to_string(), abc256);
        for text in [abc256, abc512] {
            let digest: Digest = text.parse().unwrap();
            assert_eq!(digest.to_string(), text);
            assert!(digest.matches(b"abc"));
            assert!(!digest.matches(b"abd"));
        }
    }

    #[test]
    fn strict() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for bad in [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{hex}\n"),
            format!("sha256: {}", &hex[1..]),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha512:{hex}"),
            format!("sha384:{hex}{}", &hex[..32]),
            format!("sha256:../../{}", &hex[6..]),
            format!("sha256:+{}", &hex[1..]),
            format!("sha256:é{}", &hex[2..]),
            "sha256:../../x".to_owned(),
        ] {
            assert!(matches!(bad.parse::<Digest>(), Err(Error::BadDigest(_))), "{bad:?}");
        }
    }
}
