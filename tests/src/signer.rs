//! People who sign, with keys that OpenSSL makes.

use crate::args;
use crate::command::tool;
use std::path::{Path, PathBuf};

/// The files of somebody with a key.
#[derive(Debug)]
pub struct Signer {
    /// Private key in PEM.
    pub key: PathBuf,
    /// Public key in PEM.
    pub public: PathBuf,
    /// Certificate in PEM, of `CN=NAME,O=mkimg`.
    pub certificate: PathBuf,
}

impl Signer {
    /// Makes `NAME.key`, `NAME.pub` and `NAME.pem` in a directory, with an RSA key.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self::with_key(dir, name, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
    }

    /// The same with an ECDSA key on the curve P-256.
    pub fn elliptic(dir: &Path, name: &str) -> Self {
        Self::with_key(dir, name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    fn with_key(dir: &Path, name: &str, kind: &[&str]) -> Self {
        let [key, public, certificate] =
            ["key", "pub", "pem"].map(|extension| dir.join(format!("{name}.{extension}")));
        let _ = tool("openssl", ["genpkey"]).args(kind).args(args!["-out", key]).ok();
        let _ = tool("openssl", args!["pkey", "-in", key, "-pubout", "-out", public]).ok();
        let subject = format!("/O=mkimg/CN={name}");
        let _ = tool("openssl", ["req", "-x509", "-new", "-days", "3650", "-subj", &subject])
            .args(args!["-key", key, "-out", certificate])
            .ok();
        Self { key, public, certificate }
    }
}
