//! The signature in the signature partition of a disk.

use mkimg_format::hex;
use mkimg_format::verity_signature::VeritySignature;

use crate::certificate::Certificate;
use crate::pkcs7::Pkcs7;
use crate::trust::Problem;

/// Makes sure that it is PKCS#7, and if it is by the holder of one of the certificates, that it is over the root hash.
///
/// # Errors
/// Why it is not, or that another certificate is named than the signer's.
pub fn check(signature: &VeritySignature, certificates: &[Certificate]) -> Result<(), Problem> {
    let pkcs7 = Pkcs7::parse(&signature.pkcs7)?;
    let text = hex(&signature.root_hash);
    for certificate in certificates.iter().filter(|certificate| pkcs7.is_by(certificate)) {
        if !pkcs7.verify(certificate, text.as_bytes()) {
            return Err(Problem::WrongPkcs7(certificate.subject().to_owned()));
        }
        if signature.fingerprint.is_some_and(|digest| digest != certificate.digest()) {
            return Err(Problem::OtherCertificate(certificate.subject().to_owned()));
        }
    }
    Ok(())
}
