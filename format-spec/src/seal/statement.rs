//! What the builder states about an image.

use serde::{Deserialize, Serialize};

use crate::header::VERSION;

/// What the builder states about an image.
///
/// Stored as canonical JSON: keys in ascending order, no white space, absent values left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Version of the image format.
    pub format: u32,
    /// Name given by the user, or the reference of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Counter that a publisher raises so that older images can be refused.
    pub epoch: u64,
    /// Where the tree came from.
    pub source: Source,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// How many contents stand first because a trace names their files; only with the option `optimize_for`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<u64>,
    /// Options that change the bytes of the image.
    pub options: std::collections::BTreeMap<String, String>,
    /// Name and version of the builder.
    pub tool: String,
}

/// Where the tree came from. Host paths are left out: they would make equal images differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `oci`, `docker`, `tar` or `dir`.
    pub kind: String,
    /// Tag or name inside the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of the image manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// Digest of the image configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
}

/// One layer of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the blob as it was read.
    pub digest: String,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Digest of this and all lower layers, as the OCI image specification has it.
    pub chain_id: String,
    /// Media type of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

impl Statement {
    /// The bytes that are stored.
    ///
    /// # Panics
    /// Never: every value of a statement has a JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A map of serde_json keeps its keys sorted, which makes the form canonical.
        serde_json::to_value(self).map(|value| value.to_string().into_bytes()).unwrap_or_default()
    }

    /// Whether files of the image may share single blocks: option `dedup` is `blocks`.
    #[must_use]
    pub fn shares_blocks(&self) -> bool {
        self.options.get("dedup").is_some_and(|what| what == "blocks")
    }

    /// Reads the stored form and insists on it being canonical.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn from_json(bytes: &[u8]) -> std::result::Result<Self, String> {
        let statement: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if statement.format != VERSION {
            return Err(format!("format is {}, must be {VERSION}", statement.format));
        }
        if statement.to_json() != bytes {
            return Err("not in canonical form".to_owned());
        }
        Ok(statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            format: 1,
            name: Some("demo".to_owned()),
            epoch: 3,
            source: Source {
                kind: "oci".to_owned(),
                reference: None,
                manifest_digest: Some("sha256:00".to_owned()),
                config_digest: None,
            },
            layers: Vec::new(),
            hot: None,
            options: std::iter::once(("compress".to_owned(), "none".to_owned())).collect(),
            tool: "mkimg 0.1.0".to_owned(),
        }
    }

    #[test]
    fn statement_has_one_form() {
        let json = statement().to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"epoch":3,"format":1,"layers":[],"name":"demo","options":{"compress":"none"},"source":{"kind":"oci","manifest_digest":"sha256:00"},"tool":"mkimg 0.1.0"}"#
        );
        assert_eq!(Statement::from_json(&json).unwrap(), statement());
        let hot = Statement { hot: Some(7), ..statement() };
        assert!(hot.to_json().starts_with(br#"{"epoch":3,"format":1,"hot":7,"layers":[]"#));
        assert_eq!(Statement::from_json(&hot.to_json()).unwrap(), hot);
        let mut spaced = json.clone();
        spaced.push(b' ');
        assert!(Statement::from_json(&spaced).unwrap_err().contains("canonical"));
        let twice = String::from_utf8(json).unwrap().replace("\"epoch\":3", "\"epoch\":4,\"epoch\":3");
        assert!(Statement::from_json(twice.as_bytes()).is_err());
    }
}
