//! Requests, with limits and retries.

use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use crate::Error;

/// Redirects that are followed: registries have one, to where their blobs are.
const REDIRECTS_MAX: u32 = 5;
/// Bytes of the head of an answer.
const HEAD_MAX: usize = 64 << 10;

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection, and for the next bytes of an answer.
    pub wait: Duration,
    /// For a whole request.
    pub request: Duration,
    /// Times that a request is made again when that may help.
    pub retries: u32,
    /// Before the first of these; each time twice as long.
    pub pause: Duration,
}

impl Default for Limits {
    /// 20 s, 120 s, and three retries after 0.5, 1 and 2 s.
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(20),
            request: Duration::from_secs(120),
            retries: 3,
            pause: Duration::from_millis(500),
        }
    }
}

/// Makes requests.
pub(crate) struct Client {
    agent: Agent,
    limits: Limits,
}

/// Why a request has failed.
pub(crate) enum Failure {
    /// It may succeed when it is made again.
    Passing(Error),
    /// It will not.
    Lasting(Error),
}

impl Failure {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Passing(error) | Self::Lasting(error) => error,
        }
    }
}

impl Client {
    /// A client for one server: with `secure`, nothing goes over a connection without TLS, redirects neither.
    pub(crate) fn new(secure: bool, limits: Limits) -> Result<Self, Error> {
        let config = Agent::config_builder()
            .tls_config(tls(secure)?)
            .http_status_as_error(false)
            .https_only(secure)
            .max_redirects(REDIRECTS_MAX)
            .max_response_header_size(HEAD_MAX)
            .user_agent(concat!("mkimg/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(limits.wait))
            .timeout_per_read(Some(limits.wait))
            .timeout_per_write(Some(limits.wait))
            .timeout_global(Some(limits.request));
        Ok(Self { agent: config.build().new_agent(), limits })
    }

    /// Makes a request, without retries. Answers of every status are answers.
    pub(crate) fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.call().map_err(|error| failure(url, &error))
    }

    /// Does `attempt` again when its failure may pass.
    pub(crate) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
        let mut pause = self.limits.pause;
        for _ in 0..self.limits.retries {
            match attempt() {
                Ok(found) => return Ok(found),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(_)) => std::thread::sleep(pause),
            }
            pause = pause.saturating_mul(2);
        }
        attempt().map_err(Failure::error)
    }

    /// A document of at most `limit` bytes.
    pub(crate) fn document(url: &str, answer: Response<Body>, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut reader = answer.into_body().into_reader().take(limit.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(|error| Failure::Passing(transport(url, &error)))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
            let problem = format!("the answer is longer than {limit} bytes");
            return Err(Failure::Lasting(Error::Transport { url: url.to_owned(), problem }));
        }
        Ok(bytes)
    }
}

/// TLS by ring, which signs and verifies everything else here, and the authorities that the system trusts.
fn tls(required: bool) -> Result<TlsConfig, Error> {
    // SSL_CERT_FILE and SSL_CERT_DIR come first; a bundle that is broken in parts is good for the rest.
    let found = rustls_native_certs::load_native_certs().certs;
    if required && found.is_empty() {
        return Err(Error::NoAuthorities);
    }
    let roots: Vec<_> = found.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::from(roots))
        .build())
}

/// Whether an answer says that the same request may succeed later.
pub(crate) const fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// An answer that is none of those that are wanted.
pub(crate) fn refused(url: &str, status: u16, hint: &str) -> Failure {
    let error = Error::Status { url: url.to_owned(), status, hint: hint.to_owned() };
    if may_pass(status) { Failure::Passing(error) } else { Failure::Lasting(error) }
}

pub(crate) fn transport(url: &str, problem: &dyn std::fmt::Display) -> Error {
    // One line, whatever a server made of it.
    let mut text = String::new();
    for letter in problem.to_string().chars().take(300) {
        let _ = if letter.is_control() { text.write_char(' ') } else { text.write_char(letter) };
    }
    Error::Transport { url: url.to_owned(), problem: text }
}

fn failure(url: &str, error: &ureq::Error) -> Failure {
    let passing = matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::ConnectionFailed
            | ureq::Error::HostNotFound
    );
    let error = transport(url, error);
    if passing { Failure::Passing(error) } else { Failure::Lasting(error) }
}
