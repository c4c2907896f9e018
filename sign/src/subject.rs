//! What of an image is signed.

use mkimg_format::header::{Header, VERSION};
use mkimg_format::seal::{Seal, Statement};
use mkimg_format::trailer::{SIGNED, Trailer};
use mkimg_format::{Proven, ReadAt, Sha256, hex};
use sha2::Digest as _;

/// First bytes of every message, so that no signature of this kind can be taken for one of anything else.
const DOMAIN: [u8; 16] = *b"mkimg signature\0";

/// What an image claims to be: all of it leads to its root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Where everything is.
    pub header: Header,
    /// The root hash that the claims lead to.
    pub root_hash: Sha256,
    /// What its builder states.
    pub statement: Statement,
}

impl Subject {
    /// Reads header and statement of the image of `root_hash`, and nothing that does not lead there.
    ///
    /// # Errors
    /// As [`Proven::open`] and [`Seal::statement`].
    pub fn read(image: &impl ReadAt, root_hash: Sha256) -> mkimg_format::Result<Self> {
        let (proven, header) = Proven::open(image, root_hash)?;
        let statement = Seal::open(&proven, &header)?.statement()?;
        Ok(Self { header, root_hash, statement })
    }

    /// What a PKCS#7 signature is over: 64 lower-case hexadecimal digits, as Linux and systemd have it.
    #[must_use]
    pub fn root_text(&self) -> String {
        hex(&self.root_hash)
    }

    /// What an own signature is over: the form is in `SPEC.md`, section 9.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let trailer = Trailer::new(&self.header, self.root_hash).to_block();
        let statement = &self.statement;
        let mut message = DOMAIN.to_vec();
        message.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        message.extend_from_slice(trailer.get(SIGNED).unwrap_or_default());
        message.extend_from_slice(&statement.epoch.to_le_bytes());
        message.extend_from_slice(&sha2::Sha256::digest(statement.to_json()));
        for text in [&statement.name, &statement.source.manifest_digest] {
            let text = text.as_deref().unwrap_or_default().as_bytes();
            // A statement has at most 4 MiB.
            message.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            message.extend_from_slice(text);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use mkimg_format::seal::Source;

    use super::*;

    #[test]
    fn messages_to_the_byte() {
        let header =
            Header { data_blocks: 200, meta_block: 150, seal_block: 190, fec_blocks: 0, fec_roots: 0 };
        let source = Source {
            kind: "oci".to_owned(),
            reference: None,
            manifest_digest: Some("sha256:00".to_owned()),
            config_digest: None,
        };
        let statement = Statement {
            format: 1,
            name: Some("demo".to_owned()),
            epoch: 3,
            source,
            layers: Vec::new(),
            hot: None,
            options: std::collections::BTreeMap::new(),
            tool: "mkimg".to_owned(),
        };
        let mut subject = Subject { header, root_hash: [0xab; 32], statement };
        let message = subject.message();
        assert_eq!(message[..24], *b"mkimg signature\0\x01\0\0\0\0\0\0\0");
        assert_eq!(message[24..56], [0xab; 32]);
        assert_eq!(message[56..64], 200_u64.to_le_bytes());
        assert_eq!(message[64..72], (200 * 4096_u64).to_le_bytes());
        assert_eq!(message[72..80], (205 * 4096_u64).to_le_bytes());
        assert_eq!(message[80..104], *b"\0\x10\0\0\0\x10\0\0sha256\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(message[104..136], [&[1][..], &[0; 31]].concat());
        assert_eq!(message[136..144], 3_u64.to_le_bytes());
        assert_eq!(message[144..176], *sha2::Sha256::digest(subject.statement.to_json()));
        assert_eq!(message[176..], *b"\x04\0\0\0demo\x09\0\0\0sha256:00");
        assert_eq!(subject.root_text(), "ab".repeat(32));
        // Everything that is stated is signed.
        let changes: [fn(&mut Subject); 6] = [
            |subject| subject.root_hash[31] ^= 1,
            |subject| subject.header.data_blocks += 1,
            |subject| subject.statement.epoch += 1,
            |subject| subject.statement.name = None,
            |subject| subject.statement.source.manifest_digest = None,
            |subject| subject.statement.tool.push('x'),
        ];
        for change in changes {
            let before = subject.message();
            change(&mut subject);
            assert_ne!(subject.message(), before);
        }
    }
}
