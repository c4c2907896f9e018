//! Keys and signatures that OpenSSL made, kept: what is taken today is taken tomorrow. `golden/README.md` has the commands.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_sign::key::KeyKind;
use mkimg_sign::{Certificate, Pkcs7, PrivateKey, PublicKey};
use proptest::prelude::*;

const MESSAGE: &[u8] = include_bytes!("golden/message");

struct Golden {
    kind: KeyKind,
    certificate: &'static [u8],
    pkcs7: &'static [u8],
    signature: &'static [u8],
}

const GOLDEN: [Golden; 2] = [
    Golden {
        kind: KeyKind::Rsa,
        certificate: include_bytes!("golden/rsa.crt"),
        pkcs7: include_bytes!("golden/rsa.p7s"),
        signature: include_bytes!("golden/rsa.sig"),
    },
    Golden {
        kind: KeyKind::P256,
        certificate: include_bytes!("golden/p256.crt"),
        pkcs7: include_bytes!("golden/p256.p7s"),
        signature: include_bytes!("golden/p256.sig"),
    },
];

impl Golden {
    fn certificate(&self) -> Certificate {
        Certificate::read(self.certificate).unwrap().remove(0)
    }
}

#[test]
fn what_openssl_made_is_taken() {
    for golden in &GOLDEN {
        let certificate = golden.certificate();
        assert_eq!(certificate.key().kind(), golden.kind);
        assert!(certificate.key().verify(MESSAGE, golden.signature));
        let pkcs7 = Pkcs7::parse(golden.pkcs7).unwrap();
        assert_eq!(pkcs7.as_der(), golden.pkcs7);
        assert!(pkcs7.is_by(&certificate) && pkcs7.verify(&certificate, MESSAGE));
    }
    let [rsa, p256] = GOLDEN.map(|golden| golden.certificate());
    let pkcs7 = Pkcs7::parse(GOLDEN[0].pkcs7).unwrap();
    assert!(!pkcs7.is_by(&p256) && !pkcs7.verify(&p256, MESSAGE) && pkcs7.is_by(&rsa));
}

#[test]
fn ed25519_signs_the_same_bytes() {
    let private = PrivateKey::read(include_bytes!("golden/ed25519.key")).unwrap();
    let public = PublicKey::read(include_bytes!("golden/ed25519.pub")).unwrap();
    assert_eq!(private.public(), &public);
    assert_eq!(private.sign(MESSAGE).unwrap(), include_bytes!("golden/ed25519.sig"));
    assert!(public.verify(MESSAGE, include_bytes!("golden/ed25519.sig")));
}

proptest! {
    /// However many bytes are changed, it is no signature any more.
    #[test]
    fn a_changed_pkcs7_is_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4)) {
        for golden in &GOLDEN {
            let mut bytes = golden.pkcs7.to_vec();
            for (place, change) in &changes {
                let place = place.index(bytes.len());
                bytes[place] ^= change;
            }
            let certificate = golden.certificate();
            let holds = Pkcs7::parse(&bytes).is_ok_and(|pkcs7| pkcs7.is_by(&certificate) && pkcs7.verify(&certificate, MESSAGE));
            prop_assert!(!holds || bytes == golden.pkcs7);
        }
    }

    /// Nothing is read out of anything.
    #[test]
    fn any_bytes_are_refused_with_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Pkcs7::read(&bytes).is_err());
        prop_assert!(Certificate::read(&bytes).is_err());
        prop_assert!(PublicKey::read(&bytes).is_err());
        prop_assert!(PrivateKey::read(&bytes).is_err());
    }
}
