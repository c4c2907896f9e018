//! Where a remote file is.

use std::fmt;
use std::str::FromStr;

/// Bytes of a place.
const PLACE_MAX: usize = 4096;

/// Where a remote file is: `https://…`, `http://…`, or `docker://HOST[:PORT]/NAME[:TAG|@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(pub(crate) Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A URL of HTTP or HTTPS.
    Web(String),
    Registry(Reference),
}

/// A name in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, and port if it is not the usual one.
    pub(crate) host: String,
    /// The repository.
    pub(crate) name: String,
    pub(crate) pick: Pick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    Tag(String),
    /// Of a manifest or of a blob.
    Digest(String),
}

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a remote file: {problem}")]
pub struct BadPlace {
    text: String,
    problem: &'static str,
}

impl Place {
    /// Whether a text is meant to be a place, and not a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let parsed = match text.split_once("://") {
            _ if text.len() > PLACE_MAX => Err("it is longer than 4096 bytes"),
            Some(("http" | "https", rest)) => web(text, rest).map(Kind::Web),
            Some(("docker", rest)) => rest.parse().map(Kind::Registry),
            _ => Err("it begins with none of https://, http:// and docker://"),
        };
        // What stands before an `@` may be a password.
        let shown = || match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
            _ => text.to_owned(),
        };
        let shown = || shown().chars().take(100).collect();
        parsed.map(Self).map_err(|problem| BadPlace { text: shown(), problem })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Web(url) => out.write_str(url),
            Kind::Registry(reference) => write!(out, "docker://{reference}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, name, pick } = self;
        match pick {
            Pick::Tag(tag) => write!(out, "{host}/{name}:{tag}"),
            Pick::Digest(digest) => write!(out, "{host}/{name}@{digest}"),
        }
    }
}

fn web(text: &str, rest: &str) -> Result<String, &'static str> {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return Err("credentials in a URL end up in logs; they are not taken");
    }
    if !is_host(host) {
        return Err("it has no host");
    }
    if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("it has characters that a URL has to escape");
    }
    // A fragment is for the one who reads, not for the server.
    Ok(text.split('#').next().unwrap_or_default().to_owned())
}

impl FromStr for Reference {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (host, rest) = text.split_once('/').ok_or("it names a host or a repository, and not both")?;
        if !is_host(host) {
            return Err("it has no host");
        }
        let (name, pick) = match (rest.split_once('@'), rest.rsplit_once(':')) {
            // A digest says more than a tag beside it.
            (Some((name, digest)), _) => {
                (name.split(':').next().unwrap_or_default(), Pick::Digest(digest.to_owned()))
            }
            (None, Some((name, tag))) => (name, Pick::Tag(tag.to_owned())),
            (None, None) => (rest, Pick::Tag("latest".to_owned())),
        };
        if !is_name(name) {
            return Err("a repository is lower-case letters, digits, and `.`, `_`, `-` and `/` between them");
        }
        match &pick {
            Pick::Tag(tag) if !is_tag(tag) => Err("a tag is at most 128 letters, digits, `.`, `_` and `-`"),
            Pick::Digest(digest) if !is_digest(digest) => {
                Err("a digest is sha256: and 64 digits, or sha512: and 128")
            }
            _ => Ok(Self { host: host.to_owned(), name: name.to_owned(), pick }),
        }
    }
}

fn is_host(host: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    !host.is_empty() && !host.starts_with(':') && host.bytes().all(known)
}

fn is_name(name: &str) -> bool {
    name.split('/').all(|part| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = [part.bytes().next(), part.bytes().last()];
        ends.into_iter().all(|end| end.is_some_and(plain))
            && part.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
    })
}

fn is_tag(tag: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.bytes().all(known)
}

/// Whether a text is a digest as registries have them.
pub(crate) fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha512", hex)) => (hex, 128),
        _ => return false,
    };
    length.0.len() == length.1 && length.0.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_come_out_as_they_went_in() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, shown) in [
            ("https://example.org/web.img", None),
            ("http://[::1]:8080/a?b=c%20d", None),
            ("https://example.org/web.img#here", Some("https://example.org/web.img")),
            ("docker://localhost:5000/a/b-c:v1", None),
            ("docker://example.org/web", Some("docker://example.org/web:latest")),
            (&format!("docker://example.org/web@{digest}"), None),
            (
                &format!("docker://example.org/web:v1@{digest}"),
                Some(&format!("docker://example.org/web@{digest}")),
            ),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown.unwrap_or(text));
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (text, problem) in [
            ("web.img", "begins with none"),
            ("ftp://example.org/a", "begins with none"),
            ("https://", "no host"),
            ("https:///a", "no host"),
            ("https://user:secret@example.org/a", "credentials"),
            ("https://example.org/a b", "escape"),
            ("https://example.org/a\r\nHost: b", "escape"),
            ("docker://web", "and not both"),
            ("docker:///web", "no host"),
            ("docker://user@example.org/web", "no host"),
            ("docker://example.org/", "repository"),
            ("docker://example.org/../../web", "repository"),
            ("docker://example.org/a//b", "repository"),
            ("docker://example.org/Web", "repository"),
            ("docker://example.org/web:", "tag"),
            ("docker://example.org/web:a/b", "tag"),
            ("docker://example.org/web:.a", "tag"),
            ("docker://example.org/web@sha256:00", "digest"),
            ("docker://example.org/web@md5:00", "digest"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(format!("https://example.org/{}", "a".repeat(5000)).parse::<Place>().is_err());
    }
}
