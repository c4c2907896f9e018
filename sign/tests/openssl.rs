//! OpenSSL as the oracle: it takes what is made here, and what it makes is taken here, or refused for the reason given.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use mkimg_sign::certificate::{CertificateError, Untimely};
use mkimg_sign::key::{KeyError, KeyKind};
use mkimg_sign::pkcs7::Pkcs7Error;
use mkimg_sign::{Certificate, Pkcs7, PrivateKey, PublicKey};

const MESSAGE: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Bench(tempfile::TempDir);

impl Bench {
    /// `None` where there is no OpenSSL, which is said.
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("skipped: openssl is not installed");
            return None;
        }
        let bench = Self(tempfile::tempdir().unwrap());
        bench.write("message", MESSAGE);
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs OpenSSL in the directory with a line of words; panics when it fails.
    fn openssl(&self, line: &str) -> &Self {
        assert!(self.accepts(line), "openssl {line}");
        self
    }

    fn accepts(&self, line: &str) -> bool {
        let done = Command::new("openssl").args(line.split(' ')).current_dir(self.0.path()).output().unwrap();
        if !done.status.success() {
            println!("openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success()
    }

    /// `NAME.key` and a certificate `NAME.crt` of a kind that openssl genpkey knows.
    fn pair(&self, name: &str, kind: &str) -> (PrivateKey, Certificate) {
        self.openssl(&format!("genpkey {kind} -out {name}.key"));
        self.openssl(&format!(
            "req -x509 -new -key {name}.key -subj /O=mkimg/CN={name} -days 30 -out {name}.crt"
        ));
        self.openssl(&format!("pkey -in {name}.key -pubout -out {name}.pub"));
        let mut certificates = Certificate::read(&self.read(&format!("{name}.crt"))).unwrap();
        (PrivateKey::read(&self.read(&format!("{name}.key"))).unwrap(), certificates.remove(0))
    }
}

const RSA_2048: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
/// Kind, how to make one, how OpenSSL is told the digest of an own signature.
const KINDS: [(KeyKind, &str, &str); 5] = [
    (KeyKind::Ed25519, "-algorithm ED25519", "-rawin"),
    (KeyKind::Rsa, RSA_2048, "-rawin -digest sha256"),
    (KeyKind::Rsa, "-algorithm RSA -pkeyopt rsa_keygen_bits:4096", "-rawin -digest sha256"),
    (KeyKind::P256, P256, "-rawin -digest sha256"),
    (KeyKind::P384, P384, "-rawin -digest sha384"),
];

#[test]
fn own_signatures_of_every_kind_in_both_directions() {
    for (kind, how, digest) in KINDS {
        let Some(bench) = Bench::new() else { return };
        let (private, certificate) = bench.pair("k", how);
        let public = PublicKey::read(&bench.read("k.pub")).unwrap();
        assert_eq!(public.kind(), kind);
        assert_eq!(&public, private.public());
        assert_eq!(&public, certificate.key());
        // Its name is what one line of shell says.
        bench.openssl("pkey -pubin -in k.pub -outform DER -out k.der");
        bench.openssl("dgst -sha256 -r -out id k.der");
        assert!(bench.read("id").starts_with(public.id().to_string().as_bytes()));
        assert_eq!(PublicKey::read(&bench.read("k.der")).unwrap(), public);

        let ours = private.sign(MESSAGE).unwrap();
        bench.write("ours", &ours);
        bench.openssl(&format!("pkeyutl -verify -pubin -inkey k.pub {digest} -in message -sigfile ours"));
        bench.openssl(&format!("pkeyutl -sign -inkey k.key {digest} -in message -out theirs"));
        let theirs = bench.read("theirs");
        assert!(public.verify(MESSAGE, &theirs), "{kind}");
        assert!(!public.verify(b"another message", &theirs));
        for at in 0..theirs.len() {
            let mut changed = theirs.clone();
            changed[at] ^= 1;
            assert!(!public.verify(MESSAGE, &changed), "{kind}: byte {at}");
            assert!(!public.verify(MESSAGE, &theirs[..at]), "{kind}: {at} bytes");
        }
    }
}

#[test]
fn private_keys_in_all_their_files() {
    let Some(bench) = Bench::new() else { return };
    bench.openssl("genpkey -algorithm ED25519 -out ed.key");
    bench.openssl(&format!("genpkey {RSA_2048} -out rsa.key"));
    bench.openssl(&format!("genpkey {P256} -out p256.key"));
    bench.openssl("ecparam -name secp384r1 -genkey -out p384.key");
    bench.openssl("rsa -in rsa.key -traditional -out rsa.pkcs1");
    bench.openssl("ec -in p256.key -out p256.sec1");
    for name in ["ed", "rsa", "p256"] {
        bench.openssl(&format!("pkey -in {name}.key -outform DER -out {name}.der"));
    }
    for (name, kind) in [
        ("ed.key", KeyKind::Ed25519),
        ("ed.der", KeyKind::Ed25519),
        ("rsa.key", KeyKind::Rsa),
        ("rsa.der", KeyKind::Rsa),
        ("rsa.pkcs1", KeyKind::Rsa),
        ("p256.key", KeyKind::P256),
        ("p256.sec1", KeyKind::P256),
        ("p256.der", KeyKind::P256),
        // Behind a block of parameters.
        ("p384.key", KeyKind::P384),
    ] {
        let key = PrivateKey::read(&bench.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(key.public().kind(), kind, "{name}");
    }
}

#[test]
fn keys_that_cannot_be_used() {
    let Some(bench) = Bench::new() else { return };
    bench.openssl("genpkey -algorithm ED25519 -aes128 -pass pass:x -out encrypted");
    bench.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out small");
    bench.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521");
    bench.openssl("genpkey -algorithm ED448 -out ed448");
    bench.openssl("ecparam -name secp521r1 -genkey -noout -out p521.sec1");
    bench.write("text", "no key at all");
    let private = |name| PrivateKey::read(&bench.read(name)).unwrap_err();
    assert_eq!(private("encrypted"), KeyError::Encrypted);
    assert_eq!(private("small"), KeyError::Rejected("TooSmall".to_owned()));
    for name in ["p521", "ed448", "text"] {
        assert!(matches!(private(name), KeyError::NoKey(_)), "{name}");
    }
    assert_eq!(
        private("p521.sec1").to_string(),
        "is a key of algorithm ECDSA on curve 1.3.132.0.35; Ed25519, RSA, and ECDSA on P-256 and P-384 can be used"
    );
    for name in ["small", "p521", "ed448"] {
        bench.openssl(&format!("pkey -in {name} -pubout -out {name}.pub"));
    }
    let public = |name| PublicKey::read(&bench.read(name)).unwrap_err();
    assert_eq!(public("small.pub"), KeyError::RsaBits(1024));
    assert_eq!(public("p521.pub"), KeyError::Kind("ECDSA on curve 1.3.132.0.35".to_owned()));
    assert_eq!(public("ed448.pub"), KeyError::Kind("1.3.101.113".to_owned()));
    // A private key is no public one, and the other way round.
    assert_eq!(public("small"), KeyError::NoKey("public key"));
    assert_eq!(private("small.pub"), KeyError::NoKey("single private key"));
}

#[test]
fn openssl_and_this_crate_take_each_other_s_pkcs7() {
    for (kind, how, _) in KINDS {
        let Some(bench) = Bench::new() else { return };
        let (private, certificate) = bench.pair("signer", how);
        let made = Pkcs7::sign(&private, &certificate, MESSAGE);
        if kind == KeyKind::Ed25519 {
            assert_eq!(made.unwrap_err(), KeyError::Kind("Ed25519 in PKCS#7".to_owned()));
            continue;
        }
        let made = made.unwrap();
        assert!(made.is_by(&certificate) && made.verify(&certificate, MESSAGE));
        bench.write("made", made.as_der());
        // As systemd checks: the signer is one of the given certificates, and none other is looked for.
        for command in ["smime", "cms"] {
            let verify = format!(
                "{command} -verify -inform DER -in made -content message -binary -certfile signer.crt -nointern -noverify"
            );
            assert!(bench.accepts(&verify), "{kind}: {command}");
            bench.write("other", "another message");
            assert!(!bench.accepts(&verify.replace("-content message", "-content other")));
        }
        for (command, form, extra) in [
            ("smime", "DER", "-nocerts"),
            ("smime", "DER", ""),
            ("smime", "PEM", ""),
            ("cms", "DER", "-nocerts"),
            ("cms", "PEM", "-md sha384"),
        ] {
            let line = format!(
                "{command} -sign -noattr -binary -in message -signer signer.crt -inkey signer.key -outform {form} -out theirs {extra}"
            );
            bench.openssl(line.trim_end());
            let theirs =
                Pkcs7::read(&bench.read("theirs")).unwrap_or_else(|error| panic!("{kind}: {line}: {error}"));
            assert!(theirs.is_by(&certificate), "{line}");
            assert!(theirs.verify(&certificate, MESSAGE), "{kind}: {line}");
            assert!(!theirs.verify(&certificate, b"another message"));
        }
        // The same bytes as OpenSSL writes, where the signature has no random number in it.
        if kind == KeyKind::Rsa {
            bench.openssl("smime -sign -noattr -nocerts -binary -in message -signer signer.crt -inkey signer.key -outform DER -md sha256 -out theirs");
            assert_eq!(bench.read("theirs"), made.as_der());
        }
    }
}

#[test]
fn another_certificate_of_the_same_name() {
    let Some(bench) = Bench::new() else { return };
    let (private, certificate) = bench.pair("a", RSA_2048);
    let made = Pkcs7::sign(&private, &certificate, MESSAGE).unwrap();
    // Same subject and key, another serial number; then the same issuer and serial number with another key.
    bench.openssl("req -x509 -new -key a.key -subj /O=mkimg/CN=a -days 30 -set_serial 77 -out b.crt");
    bench.openssl(&format!("genpkey {P256} -out other.key"));
    bench.openssl("req -x509 -new -key a.key -subj /O=mkimg/CN=a -days 30 -set_serial 5 -out c.crt");
    bench.openssl("req -x509 -new -key other.key -subj /O=mkimg/CN=a -days 30 -set_serial 5 -out d.crt");
    let [b, c, d] =
        ["b.crt", "c.crt", "d.crt"].map(|name| Certificate::read(&bench.read(name)).unwrap().remove(0));
    assert!(!made.is_by(&b));
    let made = Pkcs7::sign(&private, &c, MESSAGE).unwrap();
    assert!(made.is_by(&c) && made.verify(&c, MESSAGE));
    assert!(made.is_by(&d) && !made.verify(&d, MESSAGE), "an RSA signature under an ECDSA key");
}

/// What OpenSSL makes and a kernel would refuse, each by its reason.
#[test]
fn pkcs7_in_another_shape() {
    let Some(bench) = Bench::new() else { return };
    let (private, certificate) = bench.pair("signer", RSA_2048);
    bench.pair("second", RSA_2048);
    bench.pair("ed", "-algorithm ED25519");
    let sign = "-sign -binary -in message -signer signer.crt -inkey signer.key -outform DER -out made";
    let cases = [
        (format!("smime {sign}"), Pkcs7Error::SignedAttributes),
        (format!("smime {sign} -noattr -nodetach"), Pkcs7Error::Attached),
        (format!("smime {sign} -noattr -signer second.crt -inkey second.key"), Pkcs7Error::Signers(2)),
        (format!("cms {sign} -noattr -keyid"), Pkcs7Error::KeyIdentifier),
        (format!("cms {sign} -noattr -md sha1"), Pkcs7Error::Digest("1.3.14.3.2.26".to_owned())),
        (
            format!("cms {sign} -noattr -keyopt rsa_padding_mode:pss"),
            Pkcs7Error::Algorithm("1.2.840.113549.1.1.10".to_owned()),
        ),
        ("crl2pkcs7 -nocrl -certfile signer.crt -outform DER -out made".to_owned(), Pkcs7Error::Signers(0)),
        (
            "cms -data_create -in message -outform DER -out made".to_owned(),
            Pkcs7Error::ContentType("1.2.840.113549.1.7.1".to_owned()),
        ),
        (format!("cms {sign} -noattr -econtent_type 1.2.3"), Pkcs7Error::ContentType("1.2.3".to_owned())),
    ];
    for (line, expected) in cases {
        bench.openssl(&line);
        assert_eq!(Pkcs7::read(&bench.read("made")).unwrap_err(), expected, "{line}");
    }
    let good = Pkcs7::sign(&private, &certificate, MESSAGE).unwrap().as_der().to_vec();
    for end in 0..good.len() {
        assert!(Pkcs7::parse(&good[..end]).is_err(), "{end} bytes");
    }
    assert_eq!(Pkcs7::parse(&good[..good.len() - 1]).unwrap_err(), Pkcs7Error::Truncated);
    assert_eq!(Pkcs7::parse(&[&good[..], b"\n"].concat()).unwrap_err(), Pkcs7Error::Trailing);
    assert_eq!(Pkcs7::parse(b"").unwrap_err(), Pkcs7Error::Truncated);
    assert_eq!(
        Pkcs7::read(b"-----BEGIN PKCS7-----\n!\n-----END PKCS7-----\n").unwrap_err(),
        Pkcs7Error::Encoding
    );
    // No changed byte is taken for a signature over the message.
    for at in 0..good.len() {
        for mask in [1, 0x80] {
            let mut changed = good.clone();
            changed[at] ^= mask;
            let holds = Pkcs7::parse(&changed)
                .is_ok_and(|found| found.is_by(&certificate) && found.verify(&certificate, MESSAGE));
            assert!(!holds, "byte {at} mask {mask}");
        }
    }
}

#[test]
fn certificates_count_within_their_period() {
    let Some(bench) = Bench::new() else { return };
    bench.openssl("genpkey -algorithm ED25519 -out k.key");
    bench.openssl("req -x509 -new -key k.key -subj /CN=k -days 1 -out k.crt");
    let certificate = Certificate::read(&bench.read("k.crt")).unwrap().remove(0);
    let now = SystemTime::now();
    assert_eq!(certificate.subject(), "CN=k");
    assert_eq!(certificate.valid_at(now), Ok(()));
    let day = Duration::from_secs(86_400);
    assert!(matches!(certificate.valid_at(now - day), Err(Untimely::NotYet { .. })));
    let expired = certificate.valid_at(now + 2 * day).unwrap_err();
    assert!(expired.to_string().starts_with("certificate of CN=k has expired at 20"), "{expired}");
    assert!(matches!(certificate.valid_at(SystemTime::UNIX_EPOCH), Err(Untimely::NotYet { .. })));
    bench.openssl("x509 -in k.crt -noout -fingerprint -sha256 -out print");
    let print = String::from_utf8(bench.read("print")).unwrap().replace(':', "").to_lowercase();
    assert!(print.trim_end().ends_with(&certificate.fingerprint()), "{print}");
    // With text around, in DER, several of them, and what is none.
    bench.openssl("x509 -in k.crt -text -out text.crt").openssl("x509 -in k.crt -outform DER -out k.der");
    for name in ["text.crt", "k.der"] {
        assert_eq!(
            Certificate::read(&bench.read(name)).unwrap(),
            std::slice::from_ref(&certificate),
            "{name}"
        );
    }
    bench.write("two.crt", [bench.read("k.crt"), bench.read("text.crt")].concat());
    assert_eq!(Certificate::read(&bench.read("two.crt")).unwrap().len(), 2);
    assert_eq!(Certificate::read(&bench.read("k.key")), Err(CertificateError::NoCertificate));
    assert_eq!(Certificate::read(b"text"), Err(CertificateError::NoCertificate));
    bench.openssl("genpkey -algorithm ED448 -out ed448.key");
    bench.openssl("req -x509 -new -key ed448.key -subj /CN=x -out ed448.crt");
    let error = Certificate::read(&bench.read("ed448.crt")).unwrap_err();
    assert!(
        error.to_string().starts_with("certificate of CN=x: its key is a key of algorithm 1.3.101.113"),
        "{error}"
    );
}
