//! User names and passwords for registries, as `docker login` and its like store them.
//!
//! Only what stands in the file is used. A credential helper is another program, and libraries here run none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::Error;

/// Bytes of the file.
const FILE_MAX: u64 = 1 << 20;

/// What is known of a registry.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `USER:PASSWORD` in Base64: what `Authorization: Basic` takes.
    pub(crate) basic: Option<String>,
    /// Why there are credentials that cannot be used.
    pub(crate) unusable: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    identitytoken: String,
}

/// Credentials of a registry, out of `$REGISTRY_AUTH_FILE`, or else `config.json` in `$DOCKER_CONFIG` or `~/.docker`.
pub(crate) fn find(host: &str) -> Result<Credentials, Error> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = variable("REGISTRY_AUTH_FILE");
    let usual = || {
        let dir = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
        dir.map(|dir| dir.join("config.json"))
    };
    match (named, usual) {
        (Some(path), _) => read(&path, host, true),
        (None, usual) => usual().map_or_else(|| Ok(Credentials::default()), |path| read(&path, host, false)),
    }
}

fn read(path: &Path, host: &str, must_exist: bool) -> Result<Credentials, Error> {
    let fail = |problem: String| Error::Authentication { host: path.display().to_string(), problem };
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(Credentials::default()),
        Err(error) => return Err(fail(format!("cannot read credentials: {error}"))),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > FILE_MAX) => {
            return Err(fail("credentials are longer than 1 MiB".to_owned()));
        }
        Ok(_) => {}
    }
    // What serde says could quote a secret.
    let place = |error: serde_json::Error| format!("credentials are broken at line {}", error.line());
    let config: Config = serde_json::from_slice(&text).map_err(|error| fail(place(error)))?;
    Ok(config.credentials(host))
}

impl Config {
    fn credentials(&self, host: &str) -> Credentials {
        // Docker Hub has a name of its own in these files; others stand there as a host, or as they were typed.
        let names: Vec<String> = match host {
            "docker.io" => vec!["https://index.docker.io/v1/".to_owned(), "docker.io".to_owned()],
            _ => ["", "https://", "http://"]
                .iter()
                .flat_map(|scheme| ["", "/", "/v1/", "/v2/"].map(|path| format!("{scheme}{host}{path}")))
                .collect(),
        };
        let entry = names.iter().find_map(|name| self.auths.get(name));
        let basic = entry.map(|entry| entry.auth.trim()).filter(|auth| !auth.is_empty());
        if let Some(auth) = basic {
            return match STANDARD.decode(auth) {
                Ok(pair) if pair.contains(&b':') => {
                    Credentials { basic: Some(auth.to_owned()), unusable: None }
                }
                _ => Credentials::unusable("the stored `auth` is not USER:PASSWORD in Base64"),
            };
        }
        let helper = names.iter().find_map(|name| self.cred_helpers.get(name)).unwrap_or(&self.creds_store);
        if !helper.is_empty() {
            return Credentials::unusable(&format!(
                "its credentials are with the helper docker-credential-{helper}, which mkimg does not run; put an `auth` entry \
                 into a file and name it in REGISTRY_AUTH_FILE"
            ));
        }
        if entry.is_some_and(|entry| !entry.identitytoken.is_empty()) {
            return Credentials::unusable("an identity token is stored for it, which mkimg cannot use");
        }
        Credentials::default()
    }
}

impl Credentials {
    fn unusable(why: &str) -> Self {
        Self { basic: None, unusable: Some(why.to_owned()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_host() {
        // user:secret
        let auth = "dXNlcjpzZWNyZXQ=";
        for (text, host, basic, why) in [
            (r#"{}"#, "a.org", None, ""),
            (r#"{"auths":{"a.org":{"auth":"AUTH"}}}"#, "a.org", Some(auth), ""),
            (r#"{"auths":{"https://a.org/v2/":{"auth":"AUTH"}}}"#, "a.org", Some(auth), ""),
            (r#"{"auths":{"a.org:5000":{"auth":"AUTH"}}}"#, "a.org", None, ""),
            (r#"{"auths":{"https://index.docker.io/v1/":{"auth":"AUTH"}}}"#, "docker.io", Some(auth), ""),
            (r#"{"auths":{"a.org":{"auth":"AUTH"}},"credsStore":"pass"}"#, "a.org", Some(auth), ""),
            (r#"{"auths":{"a.org":{}},"credsStore":"pass"}"#, "a.org", None, "docker-credential-pass"),
            (r#"{"credHelpers":{"a.org":"gcr"}}"#, "a.org", None, "docker-credential-gcr"),
            (r#"{"credHelpers":{"b.org":"gcr"}}"#, "a.org", None, ""),
            (r#"{"auths":{"a.org":{"identitytoken":"x"}}}"#, "a.org", None, "identity token"),
            (r#"{"auths":{"a.org":{"auth":"!!"}}}"#, "a.org", None, "Base64"),
            (r#"{"auths":{"a.org":{"auth":"c2VjcmV0"}}}"#, "a.org", None, "USER:PASSWORD"),
        ] {
            let config: Config = serde_json::from_str(&text.replace("AUTH", auth)).unwrap();
            let found = config.credentials(host);
            assert_eq!(found.basic.as_deref(), basic, "{text}");
            assert!(found.unusable.as_deref().unwrap_or_default().contains(why), "{text}");
            assert_eq!(found.unusable.is_some(), !why.is_empty(), "{text}");
        }
    }

    #[test]
    fn broken_files_are_errors_without_what_stands_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(read(&path, "a.org", false).is_ok_and(|found| found == Credentials::default()));
        assert!(read(&path, "a.org", true).is_err());
        for text in ["{\"auths\": \"secret\"", "secret", &format!("\"secret{}\"", " ".repeat(1 << 20))] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, "a.org", false).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
