//! The own signature of an image, as a record of the trailer: which key, and what it made of [`Subject::message`].
//!
//! [`Subject::message`]: crate::Subject::message

use crate::key::{KeyId, KeyKind, PublicKey};

/// Bytes in front of the signature: kind of the key, its name.
const HEAD_LEN: usize = 36;

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Kind of the key.
    pub kind: KeyKind,
    /// Which key.
    pub key: KeyId,
    /// What the key made: 64 bytes (Ed25519), as many as the modulus has (RSA), or DER of two numbers (ECDSA).
    pub bytes: Vec<u8>,
}

impl Signature {
    /// The signature `bytes` of `key`.
    #[must_use]
    pub fn new(key: &PublicKey, bytes: Vec<u8>) -> Self {
        Self { kind: key.kind(), key: key.id(), bytes }
    }

    /// Content of the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = self.kind as u32;
        [&kind.to_le_bytes()[..], &self.key.0, &self.bytes].concat()
    }

    /// Reads the content of a record.
    ///
    /// `None` when it is too short, or of an unknown kind of key.
    #[must_use]
    pub fn from_bytes(content: &[u8]) -> Option<Self> {
        let (head, bytes) = content.split_at_checked(HEAD_LEN)?;
        let (kind, key) = head.split_first_chunk()?;
        let kind = KeyKind::from_number(u32::from_le_bytes(*kind))?;
        let key = KeyId(*key.first_chunk()?);
        (!bytes.is_empty()).then(|| Self { kind, key, bytes: bytes.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_one_form() {
        let signature = Signature { kind: KeyKind::P256, key: KeyId([7; 32]), bytes: vec![1, 2] };
        let bytes = signature.to_bytes();
        assert_eq!(bytes, [&[3, 0, 0, 0][..], &[7; 32], &[1, 2]].concat());
        assert_eq!(Signature::from_bytes(&bytes), Some(signature));
        assert_eq!(Signature::from_bytes(&bytes[..36]), None);
        assert_eq!(Signature::from_bytes(&[]), None);
        assert_eq!(Signature::from_bytes(&[&[5, 0, 0, 0][..], &[7; 34]].concat()), None);
    }
}
