//! Why a remote file cannot be read.

/// Why a remote file cannot be read. URLs in it have no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer came, or none that is HTTP: names, connections, TLS, timeouts, redirects.
    #[error("{url}: {problem}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// The server refuses.
    #[error("{url}: the server answers {status}{hint}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What may be the reason, if that is known.
        hint: String,
    },
    /// The server sends whole files only.
    #[error(
        "{url}: the server does not send parts of a file (it ignores `Range`); download the file and name that"
    )]
    NoRanges {
        /// What was asked for.
        url: String,
    },
    /// The answer is not the part that was asked for.
    #[error("{url}: asked for bytes {start} to {last}, {problem}")]
    BadRange {
        /// What was asked for.
        url: String,
        /// The first byte.
        start: u64,
        /// The last byte.
        last: u64,
        /// What came instead.
        problem: String,
    },
    /// The file is another one than at the first request.
    #[error("{url}: the file has changed while it was read: {what}")]
    Changed {
        /// What was asked for.
        url: String,
        /// What is different.
        what: String,
    },
    /// A registry has something else under the name.
    #[error("{name}: {problem}")]
    NoImage {
        /// The name in the registry.
        name: String,
        /// What is there.
        problem: String,
    },
    /// A registry asks for a kind of authentication that is not supported, or stored credentials cannot be used.
    #[error("{host}: {problem}")]
    Authentication {
        /// The registry.
        host: String,
        /// What is the matter.
        problem: String,
    },
    /// There is no certificate authority to check a server against.
    #[error("no certificate authorities found on this system; name a file of them in SSL_CERT_FILE")]
    NoAuthorities,
}
