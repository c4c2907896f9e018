//! What the signature partition of a disk image holds: a PKCS#7 signature of a root hash, as JSON.
//!
//! Source: UAPI group, "Discoverable Partitions Specification"; systemd `src/shared/dissect-image.c`, which reads the text
//! up to the first NUL and wants nothing but NULs behind it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::{BLOCK_LEN, Error, Part, Problem, Result, Sha256, hex, parse_sha256};

/// Longest signature partition that is read, in bytes; systemd has the same limit.
pub const LENGTH_MAX: u64 = 4 << 20;

/// A signature of a root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VeritySignature {
    /// What is signed.
    pub root_hash: Sha256,
    /// PKCS#7 in DER over the 64 digits of the root hash. What is in it is read by `mkimg-sign`.
    pub pkcs7: Vec<u8>,
    /// SHA-256 of the certificate of the signer in DER, where it is named.
    pub fingerprint: Option<Sha256>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    root_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate_fingerprint: Option<String>,
    signature: String,
}

impl VeritySignature {
    /// The bytes of a partition: the document with NULs behind it, in whole blocks.
    #[must_use]
    pub fn to_partition(&self) -> Vec<u8> {
        let document = Document {
            root_hash: hex(&self.root_hash),
            certificate_fingerprint: self.fingerprint.as_ref().map(|digest| hex(digest)),
            signature: BASE64_STANDARD.encode(&self.pkcs7),
        };
        // Text has a JSON form always.
        let mut bytes = serde_json::to_vec(&document).unwrap_or_default();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        bytes
    }

    /// Reads the bytes of a partition that stands at byte `offset` of its disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with what breaks a rule: other keys, or one of them twice, other values, or anything but NULs behind.
    pub fn from_partition(bytes: &[u8], offset: u64) -> Result<Self> {
        let wrong = |at: usize, problem| {
            let at = offset.saturating_add(u64::try_from(at).unwrap_or_default());
            Error::corrupt(Part::SignaturePartition, at, problem)
        };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let padding = bytes.get(text.len()..).unwrap_or_default();
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            let what = "bytes behind the text are not NUL".to_owned();
            return Err(wrong(text.len().saturating_add(at), Problem::Disagree(what)));
        }
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_LEN) {
            let found = u64::try_from(bytes.len()).unwrap_or_default();
            let rule = "a multiple of 4096";
            return Err(wrong(0, Problem::Field { field: "length of the partition", found, rule }));
        }
        let document: Document =
            serde_json::from_slice(text).map_err(|error| wrong(0, Problem::Document(error.to_string())))?;
        let digest = |name: &str, text: &str| {
            // One form for one value, and the one that systemd writes.
            parse_sha256(text).filter(|digest| hex(digest) == text).ok_or_else(|| {
                wrong(0, Problem::Document(format!("{name} is not 64 lower-case hexadecimal digits")))
            })
        };
        let pkcs7 = BASE64_STANDARD.decode(&document.signature);
        Ok(Self {
            root_hash: digest("rootHash", &document.root_hash)?,
            pkcs7: pkcs7
                .map_err(|error| wrong(0, Problem::Document(format!("signature is not base64: {error}"))))?,
            fingerprint: document
                .certificate_fingerprint
                .map(|text| digest("certificateFingerprint", &text))
                .transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "abababababababababababababababababababababababababababababababab";

    fn partition(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(BLOCK_LEN, 0);
        bytes
    }

    #[test]
    fn has_the_form_that_systemd_repart_writes() {
        let mut signature =
            VeritySignature { root_hash: [0xab; 32], pkcs7: b"\x30\x03abc".to_vec(), fingerprint: None };
        let text = format!(r#"{{"rootHash":"{DIGITS}","signature":"MANhYmM="}}"#);
        assert_eq!(signature.to_partition(), partition(&text));
        assert_eq!(VeritySignature::from_partition(&partition(&text), 0).unwrap(), signature);

        signature.fingerprint = Some([0xab; 32]);
        let text = format!(
            r#"{{"rootHash":"{DIGITS}","certificateFingerprint":"{DIGITS}","signature":"MANhYmM="}}"#
        );
        assert_eq!(signature.to_partition(), partition(&text));
        assert_eq!(VeritySignature::from_partition(&partition(&text), 0).unwrap(), signature);

        signature.pkcs7 = vec![7; 9000];
        let long = signature.to_partition();
        assert_eq!(long.len(), 3 * BLOCK_LEN);
        assert_eq!(VeritySignature::from_partition(&long, 0).unwrap(), signature);
    }

    #[test]
    fn what_is_no_signature_is_refused_with_the_reason() {
        let good = format!(r#"{{"rootHash":"{DIGITS}","signature":"MANhYmM="}}"#);
        let upper = DIGITS.to_uppercase();
        let with = |from: &str, to: &str| partition(&good.replace(from, to));
        let mut behind = partition(&good);
        behind[4000] = b'x';
        let mut short = partition(&good);
        short.truncate(4095);
        for (bytes, expected) in [
            (with("}", r#","salt":""}"#), "unknown field `salt`"),
            (with("}", ",\"\u{7f}\":0}"), r"unknown field `\u{7f}`"),
            (with("}", r#","signature":"MANhYmM="}"#), "duplicate field `signature`"),
            (with("}", &format!(r#","rootHash":"{DIGITS}"}}"#)), "duplicate field `rootHash`"),
            (with(r#","signature":"MANhYmM=""#, ""), "missing field `signature`"),
            (with(&format!(r#""rootHash":"{DIGITS}","#), ""), "missing field `rootHash`"),
            (with(DIGITS, &upper), "rootHash is not 64 lower-case hexadecimal digits"),
            (with(DIGITS, &DIGITS[1..]), "rootHash is not 64 lower-case hexadecimal digits"),
            (with("MANhYmM=", "MANhYmM"), "signature is not base64"),
            (with("MANhYmM=", "MANh*mM="), "signature is not base64"),
            (with(r#""MANhYmM=""#, "7"), "invalid type: integer"),
            (with("}", r#","certificateFingerprint":"00"}"#), "certificateFingerprint is not 64"),
            (with("}", "} x"), "trailing characters"),
            (with(&good, ""), "EOF while parsing"),
            (behind, "signature partition at byte 12192: bytes behind the text are not NUL"),
            (short, "length of the partition is 4095, must be a multiple of 4096"),
            (Vec::new(), "length of the partition is 0"),
        ] {
            let error = VeritySignature::from_partition(&bytes, 8192).unwrap_err().to_string();
            assert!(error.starts_with("signature partition at byte "), "{error}");
            assert!(error.contains(expected), "{error}: {expected}");
        }
    }
}
