//! Keys, certificates, PKCS#7 and the records of a trailer, each out of any bytes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mkimg_format::BLOCK_LEN;
use mkimg_format::header::Header;
use mkimg_format::trailer::Trailer;
use mkimg_fuzz::{assert_one_line, flags, image};
use mkimg_sign::attach::attach;
use mkimg_sign::trust::{Sidecar, Signatures};
use mkimg_sign::{Certificate, Pkcs7, PrivateKey, PublicKey, Signature};

const MESSAGE: &[u8] = include_bytes!("../../sign/tests/golden/message");
const PKCS7: &[u8] = include_bytes!("../../sign/tests/golden/rsa.p7s");
static SIGNER: LazyLock<Certificate> = LazyLock::new(|| {
    Certificate::read(include_bytes!("../../sign/tests/golden/rsa.crt")).expect("it is sound").remove(0)
});

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    match flags & 7 {
        0 => pkcs7(input),
        1 => changed(input),
        2 => certificate(input),
        3 => keys(input),
        _ => records(input),
    }
});

/// What is accepted keeps its bytes, and holds for the message of its signer alone.
fn pkcs7(input: &[u8]) {
    match Pkcs7::read(input) {
        Ok(found) => {
            assert_eq!(Pkcs7::parse(found.as_der()).as_ref(), Ok(&found));
            assert!(!found.verify(&SIGNER, b"another message"));
        }
        Err(error) => assert_one_line(&error),
    }
    if let Sidecar::Pkcs7(Err(error)) = Sidecar::read(input) {
        assert_one_line(&error);
    }
}

/// A sound signature with bytes changed: pairs of a place, of two bytes, and what to flip there.
fn changed(input: &[u8]) {
    let mut bytes = PKCS7.to_vec();
    for change in input.chunks_exact(3).take(16) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        bytes[place] ^= change[2];
    }
    let holds =
        Pkcs7::parse(&bytes).is_ok_and(|found| found.is_by(&SIGNER) && found.verify(&SIGNER, MESSAGE));
    assert_eq!(holds, bytes == PKCS7);
}

fn certificate(input: &[u8]) {
    match Certificate::read(input) {
        Ok(found) => {
            for certificate in found {
                assert_eq!(certificate.fingerprint().len(), 64);
                let _ = certificate
                    .valid_at(std::time::SystemTime::UNIX_EPOCH)
                    .map_err(|error| assert_one_line(&error));
            }
        }
        Err(error) => assert_one_line(&error),
    }
}

fn keys(input: &[u8]) {
    match PublicKey::read(input) {
        Ok(key) => assert!(!key.verify(MESSAGE, input)),
        Err(error) => assert_one_line(&error),
    }
    match PrivateKey::read(input) {
        Ok(key) => {
            let signature = key.sign(MESSAGE).expect("a key that is accepted signs");
            assert!(key.public().verify(MESSAGE, &signature));
        }
        Err(error) => assert_one_line(&error),
    }
}

/// A trailer with any records: what is accepted can be signed, and is the same set but for the new one.
fn records(input: &[u8]) {
    let header = Header { data_blocks: 9, meta_block: 5, seal_block: 7, fec_blocks: 0, fec_roots: 0 };
    let sound = Trailer::new(&header, [7; 32]);
    let mut block = *sound.to_block();
    let length = input.len().min(3964);
    block[0x80..0x80 + length].copy_from_slice(&input[..length]);
    block[0x0c..0x10].copy_from_slice(&u32::try_from(length).expect("at most 3964").to_le_bytes());
    image::mend_crc(&mut block, BLOCK_LEN);
    let trailer = match Trailer::from_block(&block, 0) {
        Ok(trailer) => trailer,
        Err(error) => return assert_one_line(&error),
    };
    assert_eq!(*trailer.to_block(), block, "a set of records in two forms");
    assert!(trailer.same_tree(&sound));
    for problem in Signatures::of(&trailer).problems {
        assert_one_line(&problem);
    }
    let new = Signature::new(SIGNER.key(), vec![1; 256]);
    let attached = attach(&trailer, Some(&new), Some(&Pkcs7::parse(PKCS7).expect("it is sound")));
    let again = Trailer::from_block(&attached.trailer.to_block(), 0).expect("what is written can be read");
    assert_eq!(again, attached.trailer);
    let found = Signatures::of(&again);
    assert_eq!(found.own.iter().filter(|own| **own == new).count(), usize::from(attached.signature));
    assert!(found.pkcs7.len() <= 1);
}
