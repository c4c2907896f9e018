//! Putting signatures into an image. Only its trailer is written: one block, in one write.
//!
//! A crash leaves the old trailer or the new one. A disk that tears blocks may leave some of both: the checksum tells, the
//! data is untouched, and signing again writes the trailer anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use mkimg_format::BLOCK_SIZE;
use mkimg_format::records::{Kind, Record, Records};
use mkimg_format::trailer::Trailer;

use crate::pkcs7::Pkcs7;
use crate::signature::Signature;

/// A trailer with new signatures, and which of them had room in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The trailer to write.
    pub trailer: Trailer,
    /// Whether the own signature is in it.
    pub signature: bool,
    /// Whether the PKCS#7 signature is in it.
    pub pkcs7: bool,
}

/// Adds signatures to a trailer. One of the same key is replaced, and so is any PKCS#7 signature: a kernel takes one.
#[must_use]
pub fn attach(trailer: &Trailer, signature: Option<&Signature>, pkcs7: Option<&Pkcs7>) -> Attached {
    let is_replaced = |record: &Record| match record.kind {
        Kind::Signature => {
            let old = Signature::from_bytes(&record.content);
            signature.is_some_and(|new| old.is_none_or(|old| old.key == new.key))
        }
        Kind::Pkcs7 => pkcs7.is_some(),
    };
    let mut kept: Vec<Record> = trailer.records.iter().filter(|old| !is_replaced(old)).cloned().collect();
    let mut add = |kind, content: Option<Vec<u8>>| {
        let Some(content) = content else { return false };
        kept.push(Record { kind, content });
        let fits = Records::new(kept.clone()).is_some();
        if !fits {
            kept.pop();
        }
        fits
    };
    let signature = add(Kind::Signature, signature.map(Signature::to_bytes));
    let pkcs7 = add(Kind::Pkcs7, pkcs7.map(|pkcs7| pkcs7.as_der().to_vec()));
    let records = Records::new(kept).unwrap_or_default();
    Attached { trailer: Trailer { records, ..trailer.clone() }, signature, pkcs7 }
}

/// Writes the trailer of an image, and waits until it is on the medium.
///
/// # Errors
/// What the system says.
pub fn write(image: &File, trailer: &Trailer) -> io::Result<()> {
    let place = trailer.image_size.saturating_sub(BLOCK_SIZE);
    image.write_all_at(&trailer.to_block()[..], place)?;
    image.sync_data()
}

#[cfg(test)]
mod tests {
    use mkimg_format::header::Header;

    use super::*;
    use crate::key::{KeyId, KeyKind};

    fn trailer() -> Trailer {
        let header = Header { data_blocks: 9, meta_block: 5, seal_block: 7, fec_blocks: 0, fec_roots: 0 };
        Trailer::new(&header, [7; 32])
    }

    fn signature(key: u8, length: usize) -> Signature {
        Signature { kind: KeyKind::Ed25519, key: KeyId([key; 32]), bytes: vec![key; length] }
    }

    #[test]
    fn keys_stand_side_by_side_and_replace_their_own() {
        let first = attach(&trailer(), Some(&signature(1, 64)), None);
        assert!(first.signature && !first.pkcs7);
        let second = attach(&first.trailer, Some(&signature(2, 64)), None);
        assert_eq!(second.trailer.records.iter().count(), 2);
        let again = attach(&second.trailer, Some(&signature(1, 70)), None);
        let lengths: Vec<usize> = again.trailer.records.iter().map(|record| record.content.len()).collect();
        assert_eq!(lengths, [36 + 70, 36 + 64]);
        assert_eq!(again.trailer.image_size, 49152);
    }

    #[test]
    fn what_has_no_room_is_left_out() {
        let full = attach(&trailer(), Some(&signature(1, 3900)), None);
        assert!(full.signature);
        let more = attach(&full.trailer, Some(&signature(2, 64)), None);
        assert!(!more.signature);
        assert_eq!(more.trailer, full.trailer);
    }

    #[test]
    fn only_the_trailer_is_written() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[9; 49152], 0).unwrap();
        let attached = attach(&trailer(), Some(&signature(1, 64)), None);
        write(&file, &attached.trailer).unwrap();
        let mut bytes = vec![0; 49152];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..45056].iter().all(|byte| *byte == 9));
        assert_eq!(bytes[45056..], attached.trailer.to_block()[..]);
        assert_eq!(file.metadata().unwrap().len(), 49152);
    }
}
