//! From a name in a registry to its blob, and the tokens that it takes.
//!
//! Three requests of the OCI distribution API are needed: a manifest, a blob, and a token where the registry sends one away for it.
//! Nothing that comes back needs to have the digest it was asked for by: blocks of the image are checked one by one.

use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::Error;
use crate::credentials::{self, Credentials};
use crate::http::{Client, Failure, refused, transport};
use crate::place::{Pick, Reference, is_digest};

/// Bytes of a manifest: more than registries take.
const MANIFEST_MAX: u64 = 4 << 20;
/// Bytes of the answer that has a token.
const TOKEN_MAX: u64 = 64 << 10;

/// What a manifest may be.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.oci.image.index.v1+json;q=0.5, \
                         application/vnd.docker.distribution.manifest.list.v2+json;q=0.5";

/// A repository of a registry, and what it takes to be let in.
pub(crate) struct Registry {
    base: String,
    reference: Reference,
    credentials: Credentials,
    /// The value of `Authorization`, once it was asked for.
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Whether everything at a host goes over TLS: all but this machine, as other tools have it.
pub(crate) fn is_secure(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name != "localhost" && !name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Registry {
    pub(crate) fn new(reference: &Reference) -> Result<Self, Error> {
        let host = match reference.host.as_str() {
            // The one registry that has another name than its images.
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let scheme = if is_secure(host) { "https" } else { "http" };
        Ok(Self {
            base: format!("{scheme}://{host}/v2/{}", reference.name),
            reference: reference.clone(),
            credentials: credentials::find(&reference.host)?,
            authorization: None,
        })
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// The URL of the blob that the name leads to.
    pub(crate) fn blob(&mut self, client: &Client) -> Result<String, Error> {
        let pick = match &self.reference.pick {
            Pick::Tag(pick) | Pick::Digest(pick) => pick.clone(),
        };
        let url = format!("{}/manifests/{pick}", self.base);
        let manifest = client.persist(|| self.manifest(client, &url))?;
        let digest = match (manifest, &self.reference.pick) {
            (Some(manifest), _) => self.only_layer(&manifest)?,
            // It may be the digest of a blob.
            (None, Pick::Digest(digest)) => digest.clone(),
            (None, Pick::Tag(_)) => return Err(refused(&url, 404, "").error()),
        };
        Ok(format!("{}/blobs/{digest}", self.base))
    }

    /// A manifest; `None` where there is none.
    fn manifest(&mut self, client: &Client, url: &str) -> Result<Option<Manifest>, Failure> {
        let mut asked = false;
        loop {
            let mut headers = vec![("accept", MANIFESTS)];
            headers.extend(self.authorization().map(|value| ("authorization", value)));
            let answer = client.get(url, &headers)?;
            match answer.status().as_u16() {
                200 => {
                    let text = Client::document(url, answer, MANIFEST_MAX)?;
                    let manifest = serde_json::from_slice(&text).map_err(|error| {
                        Failure::Lasting(self.no_image(format!("its manifest cannot be read: {error}")))
                    })?;
                    return Ok(Some(manifest));
                }
                404 => return Ok(None),
                // A digest may be that of a blob, and some registries stumble over one that is asked for as a manifest.
                400 | 406 | 500 if matches!(self.reference.pick, Pick::Digest(_)) => return Ok(None),
                401 if !asked => self.authorize(client, answer.headers())?,
                status => return Err(self.refused(url, status)),
            }
            asked = true;
        }
    }

    fn only_layer(&self, manifest: &Manifest) -> Result<String, Error> {
        if let Some(manifests) = &manifest.manifests {
            let several = format!("it is an index of {} manifests; name one by its digest", manifests.len());
            return Err(self.no_image(several));
        }
        let layer = match manifest.layers.as_deref() {
            Some([layer]) => layer,
            Some(layers) => {
                return Err(
                    self.no_image(format!("it has {} layers, where an image of mkimg is one", layers.len()))
                );
            }
            None => return Err(self.no_image("its manifest has no layers".to_owned())),
        };
        if !is_digest(&layer.digest) {
            return Err(self.no_image("its manifest has a layer without a digest".to_owned()));
        }
        // A tar or a compressed layer is no image that could be read at offsets.
        if [".tar", "+gzip", "+zstd", ".gzip", "tar+"].iter().any(|word| layer.media_type.contains(word)) {
            return Err(
                self.no_image(format!("its layer is {}, and no image of mkimg", shown(&layer.media_type)))
            );
        }
        Ok(layer.digest.clone())
    }

    /// Gets what a registry wants to see, as it says in an answer of status 401.
    pub(crate) fn authorize(&mut self, client: &Client, headers: &HeaderMap) -> Result<(), Failure> {
        let challenges: Vec<&str> =
            headers.get_all("www-authenticate").iter().filter_map(|value| value.to_str().ok()).collect();
        let find = |scheme| challenges.iter().find_map(|challenge| Challenge::parse(challenge, scheme));
        if let Some(challenge) = find("bearer") {
            let token = self.token(client, &challenge)?;
            self.authorization = Some(format!("Bearer {token}"));
            return Ok(());
        }
        if find("basic").is_some() {
            let basic = self.credentials.basic.as_ref().ok_or_else(|| {
                let why = self.credentials.unusable.as_deref();
                self.no_entry(
                    why.unwrap_or("it wants a user name and a password, and none are stored for it"),
                )
            })?;
            self.authorization = Some(format!("Basic {basic}"));
            return Ok(());
        }
        Err(self.no_entry("it asks for authentication of a kind that mkimg does not know"))
    }

    fn token(&self, client: &Client, challenge: &Challenge) -> Result<String, Failure> {
        let realm = challenge.value("realm").unwrap_or_default();
        // Credentials go there.
        let host = realm.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next());
        let here = host.is_some_and(|host| !host.contains('@') && !is_secure(host));
        if !here && !realm.starts_with("https://") {
            return Err(self.no_entry("it sends for a token to a place that is not https"));
        }
        let mut url = realm.to_owned();
        let scope = format!("repository:{}:pull", self.reference.name);
        for (name, value) in [("service", challenge.value("service")), ("scope", Some(scope.as_str()))] {
            if let Some(value) = value {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(name);
                url.push('=');
                url.push_str(&escaped(value));
            }
        }
        let basic = self.credentials.basic.as_ref().map(|basic| format!("Basic {basic}"));
        let headers: Vec<_> = basic.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = client.get(&url, &headers)?;
        match answer.status().as_u16() {
            200 => {}
            status => return Err(self.refused(realm, status)),
        }
        let text = Client::document(realm, answer, TOKEN_MAX)?;
        let broken = || Failure::Lasting(transport(realm, &"the answer has no token that could be used"));
        // What serde says could quote it.
        let token: Token = serde_json::from_slice(&text).map_err(|_| broken())?;
        let token = token.token.or(token.access_token).unwrap_or_default();
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then_some(token).ok_or_else(broken)
    }

    pub(crate) fn refused(&self, url: &str, status: u16) -> Failure {
        let hint = match (status, &self.credentials.unusable) {
            (401 | 403, Some(why)) => format!("; {why}"),
            (401 | 403, None) if self.credentials.basic.is_none() => {
                "; no credentials are stored for it".to_owned()
            }
            _ => String::new(),
        };
        refused(url, status, &hint)
    }

    fn no_image(&self, problem: String) -> Error {
        Error::NoImage { name: self.reference.to_string(), problem }
    }

    fn no_entry(&self, problem: &str) -> Failure {
        let (host, problem) = (self.reference.host.clone(), problem.to_owned());
        Failure::Lasting(Error::Authentication { host, problem })
    }
}

/// What somebody else wrote, on one line and not too long.
fn shown(text: &str) -> String {
    text.chars().take(80).filter(|letter| !letter.is_control()).collect()
}

/// A value in the query of a URL.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// What `WWW-Authenticate` says of a scheme.
struct Challenge(Vec<(String, String)>);

impl Challenge {
    /// `scheme key="value",key=value…`; `None` when it is of another scheme.
    fn parse(text: &str, scheme: &str) -> Option<Self> {
        let (found, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !found.eq_ignore_ascii_case(scheme) {
            return None;
        }
        let mut values = Vec::new();
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            let value;
            (value, rest) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            values.push((name, value.trim().to_owned()));
        }
        Some(Self(values))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="https://auth.example.org/token?a=b",service="a, b", scope=x,error="""#;
        let challenge = Challenge::parse(text, "bearer").unwrap();
        for (name, value) in [
            ("realm", Some("https://auth.example.org/token?a=b")),
            ("service", Some("a, b")),
            ("scope", Some("x")),
            ("error", Some("")),
            ("other", None),
        ] {
            assert_eq!(challenge.value(name), value, "{name}");
        }
        assert!(Challenge::parse("Basic", "basic").is_some());
        assert!(Challenge::parse("Basic realm=a", "bearer").is_none());
        assert!(Challenge::parse("Bearer realm=\"open", "bearer").is_none());
        assert_eq!(escaped("a b&c=d/é"), "a%20b%26c%3Dd/%C3%A9");
    }

    #[test]
    fn only_this_machine_does_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "[::1]:80"] {
            assert!(!is_secure(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org:80", "10.0.0.1", "[::2]", "127.0.0.1.example.org"]
        {
            assert!(is_secure(host), "{host}");
        }
    }
}
