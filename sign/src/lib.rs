//! Signatures of images: keys, what is signed, and whom to trust.
//!
//! | module | noun |
//! |---|---|
//! | [`subject`] | what of an image is signed: its root hash for Linux and systemd, all that it claims for mkimg |
//! | [`key`] | Ed25519, RSA and ECDSA keys, private and public |
//! | [`certificate`] | an X.509 certificate that is trusted as it is |
//! | [`signature`] | mkimg's own signature |
//! | [`pkcs7`] | the signature that Linux and systemd take |
//! | [`attach`] | signatures go into the trailer |
//! | [`partition`] | the signature in the signature partition of a disk |
//! | [`trust`] | the one question of every command: who vouches for this image? |
//! | [`files`] | where keys, certificates and signatures lie |
//! | [`epochs`] | which releases were seen, so that an older one is refused |
//!
//! Two kinds, because they serve two readers. A PKCS#7 signature is over the root hash alone, which is all that a kernel
//! looks at; it binds neither sizes nor depth of the tree, those the header in the image does (`SPEC.md`, section 13).
//! The own one is over everything that a reader goes by.
//!
//! Arithmetic on keys and signatures is done by `ring`, DER by `der`; nothing here is a cipher of our own. A refusal says
//! why, as a value.
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod attach;
pub mod certificate;
pub mod epochs;
pub mod files;
pub mod key;
pub mod partition;
mod pem;
pub mod pkcs7;
pub mod signature;
pub mod subject;
pub mod trust;

pub use certificate::Certificate;
pub use key::{KeyId, PrivateKey, PublicKey};
pub use pkcs7::Pkcs7;
pub use signature::Signature;
pub use subject::Subject;
pub use trust::{Anchor, Trust, Vouching};
