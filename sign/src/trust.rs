//! Who vouches for an image?
//!
//! Every command that can be told whom to trust asks [`Trust::anchor`] and goes on with the root hash that comes of it,
//! exactly as if somebody had typed it in. So a signature is judged in one place, and nothing else has to know of it.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use mkimg_format::records::{Kind, Records};
use mkimg_format::trailer::Trailer;
use mkimg_format::{ReadAt, Sha256, hex};

use crate::certificate::{Certificate, Untimely};
use crate::epochs::{self, EpochError};
use crate::files::{self, FileError};
use crate::key::{KeyId, KeyKind, PublicKey};
use crate::pkcs7::{Pkcs7, Pkcs7Error};
use crate::signature::Signature;
use crate::subject::Subject;

/// Whom to trust, and which releases.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The image must have this root hash.
    pub root_hash: Option<Sha256>,
    /// One of these keys must have signed everything.
    pub keys: Vec<PublicKey>,
    /// Or the key of one of these must have, or at least the root hash (PKCS#7).
    pub certificates: Vec<Certificate>,
    /// A signature is wanted, even if there is no key and no certificate that could have made it.
    pub require_signature: bool,
    /// Signatures from files: PKCS#7, or the bytes of an own signature.
    pub sidecars: Vec<Vec<u8>>,
    /// Older releases are refused.
    pub min_epoch: Option<u64>,
    /// Releases older than the newest that was seen are refused.
    pub epoch_state: Option<PathBuf>,
}

/// Why an image is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// What has to be looked at cannot be read, or does not lead to the root hash.
    #[error(transparent)]
    Image(#[from] mkimg_format::Error),
    /// It is another image.
    #[error("root hash is {found}, wanted is {wanted}", found = hex(.found), wanted = hex(.wanted))]
    OtherImage {
        /// As the trailer has it.
        found: Sha256,
        /// As it must be.
        wanted: Sha256,
    },
    /// Nobody has signed it.
    #[error("is not signed")]
    Unsigned,
    /// There is nobody to trust.
    #[error(
        "a signature is wanted, and nobody is trusted; give --key or --cert, or put a certificate into /etc/verity.d"
    )]
    NobodyTrusted,
    /// No signature is one that was asked for; at least one reason.
    #[error("no signature holds: {}", join(.0))]
    NotVouched(Vec<Problem>),
    /// An old release.
    #[error("epoch is {found}, wanted is at least {least}")]
    Epoch {
        /// Of the image.
        found: u64,
        /// As asked for.
        least: u64,
    },
    /// Something is asked for that only images of mkimg have.
    #[error("has no seal, as mkimg has not written it, and so no {0}")]
    NoSeal(&'static str),
    /// An older release than was seen before, or nothing to compare with.
    #[error(transparent)]
    Seen(#[from] EpochError),
}

/// Why one signature, or one signer, does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A certificate of another time.
    #[error(transparent)]
    Untimely(#[from] Untimely),
    /// A signature that should hold and does not.
    #[error("the signature of key {0} is not over this image")]
    Wrong(KeyId),
    /// A PKCS#7 signature that should hold and does not.
    #[error("the PKCS#7 signature of {0} is not over this root hash")]
    WrongPkcs7(String),
    /// A PKCS#7 signature over something that is almost the root hash.
    #[error("the PKCS#7 signature of {subject} is over {what}, not over its 64 lower-case digits")]
    OtherForm {
        /// Whose it is.
        subject: String,
        /// What was signed.
        what: &'static str,
    },
    /// A signature partition that names another certificate.
    #[error("certificateFingerprint is not that of {0}, who has signed")]
    OtherCertificate(String),
    /// No PKCS#7 signature that can be read.
    #[error("PKCS#7 signature {0}")]
    Pkcs7(#[from] Pkcs7Error),
    /// No own signature that can be read.
    #[error("signature record is of an unknown form")]
    Record,
    /// A file that no trusted key has made.
    #[error("the signature in a file is of no key that was given")]
    Foreign,
    /// A key that has not signed.
    #[error("there is none of key {0}")]
    NoneOfKey(KeyId),
    /// A certificate whose key has not signed.
    #[error("there is none of {0}")]
    NoneOfCertificate(String),
}

fn join(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Who vouches for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouching {
    /// Whoever gave the root hash.
    RootHash,
    /// A key, for everything.
    Key {
        /// What kind of key.
        kind: KeyKind,
        /// Its name.
        id: KeyId,
    },
    /// The key of a certificate, for everything.
    Certificate {
        /// Whose it is.
        subject: String,
        /// The name of its key.
        id: KeyId,
    },
    /// A certificate, for the root hash.
    Pkcs7 {
        /// Whose it is.
        subject: String,
        /// The name of its key.
        id: KeyId,
    },
}

impl Vouching {
    /// One word for machines.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::RootHash => "root-hash",
            Self::Key { .. } | Self::Certificate { .. } => "signature",
            Self::Pkcs7 { .. } => "pkcs7",
        }
    }

    /// The key that has signed.
    #[must_use]
    pub const fn key(&self) -> Option<KeyId> {
        match self {
            Self::RootHash => None,
            Self::Key { id, .. } | Self::Certificate { id, .. } | Self::Pkcs7 { id, .. } => Some(*id),
        }
    }

    /// Whose certificate it was.
    #[must_use]
    pub fn signer(&self) -> Option<&str> {
        match self {
            Self::RootHash | Self::Key { .. } => None,
            Self::Certificate { subject, .. } | Self::Pkcs7 { subject, .. } => Some(subject),
        }
    }
}

impl fmt::Display for Vouching {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RootHash => write!(out, "the given root hash"),
            Self::Key { kind, id } => write!(out, "the signature of {kind} key {id}"),
            Self::Certificate { subject, .. } => write!(out, "the signature of {subject}"),
            Self::Pkcs7 { subject, .. } => write!(out, "the PKCS#7 signature of {subject}"),
        }
    }
}

/// What is known of an image that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The root hash that everything has to lead to.
    pub root_hash: Sha256,
    /// Who says so.
    pub by: Vouching,
    /// Name and epoch, if they had to be looked at.
    release: Option<(Option<String>, u64)>,
    epoch_state: Option<PathBuf>,
}

impl Anchor {
    /// Remembers the release as seen, if that was asked for: after everything else about the image was found good.
    ///
    /// # Errors
    /// As [`epochs::raise`].
    pub fn admit(&self) -> Result<(), EpochError> {
        match (&self.epoch_state, &self.release) {
            (Some(file), Some((name, epoch))) => epochs::raise(file, name.as_deref(), *epoch),
            _ => Ok(()),
        }
    }
}

impl Trust {
    /// Trusts the keys and certificates in these files.
    ///
    /// # Errors
    /// One of them cannot be read, or holds nothing that can be used.
    pub fn of_files(keys: &[PathBuf], certificates: &[PathBuf]) -> Result<Self, FileError> {
        let mut trust = Self::default();
        for path in keys {
            trust.keys.push(files::public_key(path)?);
        }
        for path in certificates {
            trust.certificates.append(&mut files::certificates(path)?);
        }
        Ok(trust)
    }

    fn wants_signature(&self) -> bool {
        self.require_signature || !self.keys.is_empty() || !self.certificates.is_empty()
    }

    /// Whether nothing has to be looked at in the image to know whose it must be.
    #[must_use]
    pub fn is_root_hash_only(&self) -> bool {
        !self.wants_signature() && !self.wants_epoch()
    }

    /// Whether nobody is trusted, so that nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_root_hash_only() && self.root_hash.is_none()
    }

    fn wants_epoch(&self) -> bool {
        self.min_epoch.is_some() || self.epoch_state.is_some()
    }

    /// The anchor that the given root hash is by itself.
    #[must_use]
    pub fn anchor_by_root_hash(&self) -> Option<Anchor> {
        let root_hash = self.root_hash?;
        Some(Anchor { root_hash, by: Vouching::RootHash, release: None, epoch_state: None })
    }

    /// The root hash that the image must have, and who says so; `None` if nothing is asked for.
    ///
    /// Only the few blocks that a signature is about are read and proven; that the image as a whole is that of the
    /// root hash is the next step, with it.
    ///
    /// # Errors
    /// Why the image is not trusted.
    pub fn anchor(&self, image: &impl ReadAt, now: SystemTime) -> Result<Option<Anchor>, Refusal> {
        if self.is_root_hash_only() {
            // The audit itself says all there is to say.
            return Ok(self.anchor_by_root_hash());
        }
        let (by, subject) = match self.root_hash {
            Some(root_hash) if !self.wants_signature() => {
                (Vouching::RootHash, Subject::read(image, root_hash)?)
            }
            wanted => {
                let trailer = Trailer::read(image)?;
                let found = trailer.root_hash;
                if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                    return Err(Refusal::OtherImage { found, wanted });
                }
                let subject = Subject::read(image, found)?;
                let signatures = self.signatures(&trailer);
                (self.vouching(&signatures, Some(&subject.message()), found, now)?, subject)
            }
        };
        let (root_hash, statement) = (subject.root_hash, subject.statement);
        if let Some(least) = self.min_epoch.filter(|least| statement.epoch < *least) {
            return Err(Refusal::Epoch { found: statement.epoch, least });
        }
        if let Some(file) = &self.epoch_state {
            epochs::check(file, statement.name.as_deref(), statement.epoch)?;
        }
        let release = Some((statement.name, statement.epoch));
        Ok(Some(Anchor { root_hash, by, release, epoch_state: self.epoch_state.clone() }))
    }

    /// As [`Self::anchor`] for an image of another writer, whose tree leads to root hash `claimed`: of such a one nothing
    /// can be signed but that, by PKCS#7, and the signature is in a file.
    ///
    /// # Errors
    /// Why the image is not trusted.
    pub fn anchor_root(&self, claimed: Sha256, now: SystemTime) -> Result<Option<Anchor>, Refusal> {
        if self.is_root_hash_only() {
            return Ok(self.anchor_by_root_hash());
        }
        if self.wants_epoch() {
            return Err(Refusal::NoSeal("epoch"));
        }
        if !self.keys.is_empty() {
            return Err(Refusal::NoSeal(
                "signature of a key: --cert with --signature checks one of its root hash",
            ));
        }
        if let Some(wanted) = self.root_hash.filter(|wanted| *wanted != claimed) {
            return Err(Refusal::OtherImage { found: claimed, wanted });
        }
        let signatures = Signatures::of_records(&Records::default(), &self.sidecars);
        let by = self.vouching(&signatures, None, claimed, now)?;
        Ok(Some(Anchor { root_hash: claimed, by, release: None, epoch_state: None }))
    }

    /// The signatures in a trailer and in the files that were given.
    #[must_use]
    pub fn signatures(&self, trailer: &Trailer) -> Signatures {
        Signatures::of_records(&trailer.records, &self.sidecars)
    }

    /// The first PKCS#7 signature in the files that were given.
    #[must_use]
    pub fn sidecar_pkcs7(&self) -> Option<Pkcs7> {
        Signatures::of_records(&Records::default(), &self.sidecars).pkcs7.into_iter().next()
    }

    /// The first signature that holds: own ones, over `message`, say more, so they come first.
    fn vouching(
        &self,
        found: &Signatures,
        message: Option<&[u8]>,
        root_hash: Sha256,
        now: SystemTime,
    ) -> Result<Vouching, Refusal> {
        if self.keys.is_empty() && self.certificates.is_empty() {
            return Err(Refusal::NobodyTrusted);
        }
        if found.is_empty() {
            return Err(Refusal::Unsigned);
        }
        let holds = |key: &PublicKey| found.holds(key, message?);
        let (mut problems, mut silent) = (found.problems.clone(), Vec::new());
        for key in &self.keys {
            match holds(key) {
                Some(true) => return Ok(Vouching::Key { kind: key.kind(), id: key.id() }),
                Some(false) => problems.push(Problem::Wrong(key.id())),
                None => silent.push(Problem::NoneOfKey(key.id())),
            }
        }
        let mut timely = Vec::new();
        for certificate in &self.certificates {
            match certificate.valid_at(now) {
                Ok(()) => timely.push(certificate),
                Err(problem) => problems.push(Problem::Untimely(problem)),
            }
        }
        let name = |certificate: &Certificate| (certificate.subject().to_owned(), certificate.key().id());
        let whole = |certificate: &&Certificate| holds(certificate.key()) == Some(true);
        if let Some(certificate) = timely.iter().copied().find(whole) {
            let (subject, id) = name(certificate);
            return Ok(Vouching::Certificate { subject, id });
        }
        for certificate in timely {
            let before = problems.len();
            if holds(certificate.key()).is_some() {
                problems.push(Problem::Wrong(certificate.key().id()));
            }
            for pkcs7 in found.pkcs7.iter().filter(|pkcs7| pkcs7.is_by(certificate)) {
                let Some(problem) = judge(pkcs7, certificate, &root_hash) else {
                    let (subject, id) = name(certificate);
                    return Ok(Vouching::Pkcs7 { subject, id });
                };
                problems.push(problem);
            }
            if problems.len() == before {
                silent.push(Problem::NoneOfCertificate(certificate.subject().to_owned()));
            }
        }
        if !found.raw.is_empty() {
            problems.push(Problem::Foreign);
        }
        problems.append(&mut silent);
        Err(Refusal::NotVouched(problems))
    }
}

/// Why a PKCS#7 signature of the holder of `certificate` is not one over the root hash; `None` if it is.
#[must_use]
pub fn judge(pkcs7: &Pkcs7, certificate: &Certificate, root_hash: &Sha256) -> Option<Problem> {
    let text = hex(root_hash);
    if pkcs7.verify(certificate, text.as_bytes()) {
        return None;
    }
    let name = certificate.subject().to_owned();
    // What people sign by mistake: to hear of it saves them an afternoon.
    let forms = [
        (text.to_uppercase().into_bytes(), "the root hash in upper case"),
        (format!("{text}\n").into_bytes(), "the root hash with a line end behind it"),
        (root_hash.to_vec(), "the 32 bytes of the root hash"),
    ];
    let form = forms.into_iter().find(|(form, _)| pkcs7.verify(certificate, form));
    Some(match form {
        Some((_, what)) => Problem::OtherForm { subject: name, what },
        None => Problem::WrongPkcs7(name),
    })
}

/// The signatures of an image, whoever has made them.
#[derive(Debug, Default)]
pub struct Signatures {
    /// Own signatures, ascending by key.
    pub own: Vec<Signature>,
    /// PKCS#7 signatures.
    pub pkcs7: Vec<Pkcs7>,
    /// Records that cannot be read.
    pub problems: Vec<Problem>,
    /// Bytes of own signatures whose key is not known.
    raw: Vec<Vec<u8>>,
}

impl Signatures {
    /// Reads the records of a trailer.
    #[must_use]
    pub fn of(trailer: &Trailer) -> Self {
        Self::of_records(&trailer.records, &[])
    }

    fn of_records(records: &Records, sidecars: &[Vec<u8>]) -> Self {
        let mut found = Self::default();
        for record in records.iter() {
            match record.kind {
                Kind::Signature => match Signature::from_bytes(&record.content) {
                    Some(signature) => found.own.push(signature),
                    None => found.problems.push(Problem::Record),
                },
                Kind::Pkcs7 => found.take(Pkcs7::parse(&record.content)),
            }
        }
        for sidecar in sidecars {
            match Sidecar::read(sidecar) {
                Sidecar::Pkcs7(pkcs7) => found.take(pkcs7),
                Sidecar::Raw(bytes) => found.raw.push(bytes),
            }
        }
        found
    }

    fn take(&mut self, pkcs7: Result<Pkcs7, Pkcs7Error>) {
        match pkcs7 {
            Ok(pkcs7) => self.pkcs7.push(pkcs7),
            Err(problem) => self.problems.push(Problem::Pkcs7(problem)),
        }
    }

    /// Whether own signatures of a key are over a message; `None` when there is none of it.
    fn holds(&self, key: &PublicKey, message: &[u8]) -> Option<bool> {
        let mut mine = self.own.iter().filter(|own| own.key == key.id()).peekable();
        let any = mine.peek().is_some();
        let mut all = mine.map(|own| &own.bytes).chain(&self.raw);
        let holds = all.any(|bytes| key.verify(message, bytes));
        (any || holds).then_some(holds)
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.pkcs7.is_empty() && self.problems.is_empty() && self.raw.is_empty()
    }
}

/// What a file with a signature holds.
#[derive(Debug)]
pub enum Sidecar {
    /// PKCS#7, or something that begins like it.
    Pkcs7(Result<Pkcs7, Pkcs7Error>),
    /// What a key made, without its name.
    Raw(Vec<u8>),
}

impl Sidecar {
    /// Looks at the first bytes: PEM, or a sequence that begins with an object identifier, is meant to be PKCS#7. The
    /// signatures that are sequences, those of ECDSA, begin with a number.
    #[must_use]
    pub fn read(file: &[u8]) -> Self {
        let sequence = match file {
            [0x30, length, rest @ ..] if *length < 0x80 => rest.first(),
            [0x30, length @ 0x81..=0x84, rest @ ..] => rest.get(usize::from(*length & 0x0f)),
            _ => None,
        };
        if sequence == Some(&0x06) || file.starts_with(b"-----BEGIN ") {
            Self::Pkcs7(Pkcs7::read(file))
        } else {
            Self::Raw(file.to_vec())
        }
    }
}
