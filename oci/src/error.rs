//! What can go wrong with a source.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

/// Why a source could not be opened or a layer could not be read.
///
/// `object` names the thing concerned: `manifest sha256:HEX`, `index.json`, or `layer N sha256:HEX` with N counted from 1,
/// the lowest. Every message is one line: text taken from the source is escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source as it was written on the command line makes no sense or is of a kind that is not supported.
    #[error("source {source_text}: {reason}")]
    Source {
        /// The text, quoted.
        source_text: String,
        /// What is wrong with it, and the remedy where there is one.
        reason: String,
    },
    /// A digest that is not `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal digits.
    #[error("digest {0} is not sha256:HEX or sha512:HEX in lower case")]
    BadDigest(String),
    /// A platform that is not `OS/ARCH` or `OS/ARCH/VARIANT`.
    #[error("platform {0} is not OS/ARCH or OS/ARCH/VARIANT")]
    BadPlatform(String),
    /// The operating system failed an operation.
    #[error("{object}: {source}")]
    Io {
        /// File or object.
        object: String,
        /// Cause.
        source: io::Error,
    },
    /// A blob or file that something refers to is not there.
    #[error("{object}: missing from {place}")]
    Missing {
        /// What was looked for.
        object: String,
        /// The directory or archive.
        place: String,
    },
    /// A symlink, directory, device, socket or FIFO where a regular file is needed.
    #[error("{object}: is a {found}, not a regular file")]
    NotRegular {
        /// What was opened.
        object: String,
        /// The file type found.
        found: &'static str,
    },
    /// The number of bytes is not the declared one.
    #[error("{object}: size is {found} bytes, declared are {declared}")]
    Size {
        /// The blob.
        object: String,
        /// Bytes according to the descriptor.
        declared: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The bytes of a blob do not have the digest they are addressed by.
    #[error("{object}: digest mismatch, {digests}")]
    Digest {
        /// The blob.
        object: String,
        /// Digest in the descriptor or name, and digest of the blob's bytes.
        digests: Box<Mismatch>,
    },
    /// The uncompressed layer does not have the digest that the configuration lists.
    #[error("{object}: diff id mismatch, {digests}")]
    DiffId {
        /// The layer.
        object: String,
        /// Digest in the configuration, and digest of the uncompressed bytes.
        digests: Box<Mismatch>,
    },
    /// Something exceeds one of the [`Limits`](crate::Limits).
    #[error("{object}: {what} is over the limit of {limit}")]
    Limit {
        /// What exceeds it.
        object: String,
        /// The quantity, with its value where it is known.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A media type that is unknown here, or that contradicts another statement or the bytes.
    #[error("{object}: {reason}")]
    MediaType {
        /// The blob.
        object: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A JSON document that does not parse or does not make sense.
    #[error("{object}: {reason}")]
    Document {
        /// The document.
        object: String,
        /// The rule broken.
        reason: String,
    },
    /// A malformed outer archive.
    #[error("{path}: offset {offset}: {reason}", path = path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Byte offset of the header concerned.
        offset: u64,
        /// The rule broken.
        reason: String,
    },
    /// A blob with the right digest that does not decompress.
    #[error("{object}: {reason}")]
    Decode {
        /// The layer.
        object: String,
        /// The rule broken and the offset.
        reason: String,
    },
    /// No image fits the platform.
    #[error("no image for platform {wanted}, available: {available}")]
    NoPlatform {
        /// `OS/ARCH[/VARIANT]` that was asked for, or that of the host.
        wanted: String,
        /// Comma-separated `OS/ARCH[/VARIANT]` of the images there are.
        available: String,
    },
    /// The tag, image name or digest asked for is not there.
    #[error("no image {wanted}, available: {available}")]
    NoTag {
        /// The tag, quoted.
        wanted: String,
        /// Comma-separated tags.
        available: String,
    },
    /// More than one image is left and nothing says which.
    #[error("{count} images fit, name one: {available}")]
    Ambiguous {
        /// Number of images.
        count: usize,
        /// Comma-separated tags, digests for untagged ones.
        available: String,
    },
    /// There is no container image in the source.
    #[error("{object}: no image in it, {reason}")]
    NoImage {
        /// The source.
        object: String,
        /// What was found instead.
        reason: String,
    },
}

/// Two digests that should be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The one that was promised.
    pub expected: Digest,
    /// The one of the bytes.
    pub found: Digest,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

/// Compares digests of a blob.
pub(crate) fn same_digest(object: &str, expected: Digest, found: Digest) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Digest { object: object.to_owned(), digests: Box::new(Mismatch { expected, found }) })
}

/// Text of the source, quoted and escaped, no longer than a line can bear.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// As [`quote`], without the quotation marks.
pub(crate) fn plain(text: &str) -> String {
    const LONGEST: usize = 256;
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push_str("...");
    }
    out
}

/// A comma-separated list in the order given, cut after 64 items.
pub(crate) fn list<I: IntoIterator<Item = String>>(items: I) -> String {
    const MOST: usize = 64;
    let mut out = String::new();
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        if i == MOST {
            out.push_str("...");
            break;
        }
        out.push_str(&plain(&item));
    }
    if out.is_empty() {
        out.push_str("none");
    }
    out
}
