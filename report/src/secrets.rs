//! Names that look like those of secrets.
//!
//! A guess that puts some files of a long list first: it knows the usual names of keys, passwords and tokens, and
//! nothing of what is in the files.

/// Whole names.
const NAMES: [&[u8]; 28] = [
    b"id_rsa",
    b"id_dsa",
    b"id_ecdsa",
    b"id_ed25519",
    b"shadow",
    b"shadow-",
    b"gshadow",
    b"gshadow-",
    b".env",
    b".npmrc",
    b".yarnrc",
    b".netrc",
    b"_netrc",
    b".pypirc",
    b".pgpass",
    b".my.cnf",
    b".htpasswd",
    b".git-credentials",
    b".dockercfg",
    b".dockerconfigjson",
    b".vault-token",
    b".bash_history",
    b".ash_history",
    b".zsh_history",
    b".psql_history",
    b"kubeconfig",
    b"service-account.json",
    b"application_default_credentials.json",
];

/// Ends of names. Certificates are public, but a `.pem` often holds the key as well.
const ENDINGS: [&[u8]; 14] = [
    b".key",
    b".pem",
    b".p12",
    b".pfx",
    b".pkcs12",
    b".jks",
    b".keystore",
    b".kdbx",
    b".ppk",
    b".secret",
    b".token",
    b".password",
    b"_key",
    b".htpasswd",
];

/// What stands before the first dot of a name, unless the file is source code or documentation.
const STEMS: [&[u8]; 12] = [
    b"secret",
    b"secrets",
    b"password",
    b"passwords",
    b"credential",
    b"credentials",
    b"token",
    b"tokens",
    b"apikey",
    b"api_key",
    b"api-key",
    b"private-key",
];

/// Files of these are about secrets, and hold none.
const SOURCES: [&[u8]; 14] =
    [b"py", b"pyc", b"pyi", b"js", b"ts", b"rb", b"go", b"rs", b"c", b"h", b"html", b"md", b"rst", b"so"];

/// Ends of paths.
const PATHS: [&[u8]; 3] = [b"/.docker/config.json", b"/.kube/config", b"/.config/gh/hosts.yml"];

/// Folders of public certificates.
const PUBLIC: [&[u8]; 3] = [b"/etc/ssl/certs/", b"/usr/share/ca-certificates/", b"/etc/pki/ca-trust/"];

/// Whether the name at the end of `path` is one of those that secrets have.
pub(crate) fn looks_secret(path: &[u8]) -> bool {
    let path = path.to_ascii_lowercase();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if PUBLIC.iter().any(|folder| path.starts_with(folder)) || name == b"cacert.pem" {
        return false;
    }
    let mut parts = name.split(|byte| *byte == b'.');
    let stem = parts.next().unwrap_or_default();
    let extension = parts.next_back().unwrap_or_default();
    NAMES.contains(&name)
        || name.starts_with(b".env.")
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || PATHS.iter().any(|end| path.ends_with(end))
        || STEMS.contains(&stem) && !SOURCES.contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_known() {
        for path in [
            "/root/.ssh/id_rsa",
            "/etc/secret.key",
            "/srv/TLS.PEM",
            "/app/.env",
            "/app/.env.production",
            "/etc/shadow",
            "/root/.aws/credentials",
            "/root/.npmrc",
            "/root/.netrc",
            "/etc/ssh/ssh_host_rsa_key",
            "/root/.docker/config.json",
            "/run/secrets.yaml",
            "/token",
            "/srv/password.txt",
        ] {
            assert!(looks_secret(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn others_are_not() {
        for path in [
            "/etc/passwd",
            "/root/.ssh/id_rsa.pub",
            "/usr/lib/libsecret.so",
            "/usr/lib/python3/secrets.py",
            "/etc/ssl/certs/ca.pem",
            "/app/environment",
            "/app/config.json",
            "/usr/share/doc/token.md",
            "/",
            "",
        ] {
            assert!(!looks_secret(path.as_bytes()), "{path}");
        }
    }
}
