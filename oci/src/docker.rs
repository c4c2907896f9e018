//! Archives as `docker save` writes them: `manifest.json`, a configuration, and layers as members.
//!
//! Nothing in such an archive names its manifest by digest. What can be checked is checked: the configuration against
//! its name where that is a digest, blobs against theirs, and every layer against its diff id.

use std::sync::Arc;

use serde::Deserialize;

use crate::archive::Archive;
use crate::choice::no_platform;
use crate::compression::{Compression, Looks};
use crate::digest::Digest;
use crate::document::{self, Config};
use crate::error::{Error, list, quote, same_digest};
use crate::image::{Document, Image};
use crate::layer::{Layer, Place};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::store::Store;

pub(crate) const MANIFEST: &str = "manifest.json";

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.tags.as_deref().unwrap_or_default()
    }

    fn is_called(&self, name: &str) -> bool {
        self.tags().iter().any(|tag| tag == name || tag.strip_suffix(":latest") == Some(name))
    }
}

/// The images listed in `manifest.json`.
pub(crate) fn entries(store: &Store, limits: &Limits) -> Result<Vec<Entry>, Error> {
    let data = store.named(MANIFEST, MANIFEST, limits)?.read_all(MANIFEST, limits.json_bytes)?;
    document::parse(MANIFEST, &data)
}

/// Opens the image called `tag`.
pub(crate) fn open(
    archive: Arc<Archive>,
    tag: Option<&str>,
    wanted: Option<&Platform>,
    limits: &Limits,
) -> Result<Image, Error> {
    let store = Store::Archive(archive);
    let all = entries(&store, limits)?;
    let names = |entries: &[&Entry]| {
        list(entries.iter().map(|entry| entry.tags().first().unwrap_or(&entry.config).clone()))
    };
    let selected: Vec<&Entry> =
        all.iter().filter(|entry| tag.is_none_or(|tag| entry.is_called(tag))).collect();
    if selected.is_empty() {
        return Err(match tag {
            Some(tag) => {
                Error::NoTag { wanted: quote(tag), available: names(&all.iter().collect::<Vec<_>>()) }
            }
            None => {
                Error::NoImage { object: store.place(), reason: "manifest.json lists nothing".to_owned() }
            }
        });
    }
    if selected.len() > usize::try_from(limits.documents).unwrap_or(usize::MAX) {
        return Err(Error::Limit {
            object: MANIFEST.to_owned(),
            what: format!("number of images {}", selected.len()),
            limit: limits.documents.into(),
        });
    }

    let (entry, document, config) = if let ([entry], None) = (selected.as_slice(), wanted) {
        let (document, config) = read_config(&store, entry, limits)?;
        (*entry, document, config)
    } else {
        let host = Platform::host();
        let wanted = wanted.unwrap_or(&host);
        let (mut fitting, mut platforms) = (Vec::new(), Vec::new());
        for entry in selected {
            let (document, config) = read_config(&store, entry, limits)?;
            if config.platform.as_ref().is_some_and(|platform| wanted.accepts(platform)) {
                fitting.push((entry, document, config));
            } else {
                platforms.push(config.platform);
            }
        }
        match fitting.len() {
            0 => return Err(no_platform(wanted, platforms.iter().map(Option::as_ref))),
            1 => fitting.swap_remove(0),
            count => {
                let fitting: Vec<&Entry> = fitting.iter().map(|(entry, _, _)| *entry).collect();
                return Err(Error::Ambiguous { count, available: names(&fitting) });
            }
        }
    };

    let object = format!("config {}", document.digest);
    let members = entry.layers.as_deref().unwrap_or_default();
    config.check_count(&object, members.len())?;
    let mut layers = Vec::with_capacity(members.len());
    for ((member, diff_id), number) in members.iter().zip(&config.diff_ids).zip(1..) {
        layers.push(layer(&store, number, member, *diff_id, limits)?);
    }
    let reference =
        tag.and_then(|tag| entry.tags().iter().find(|name| *name == tag)).or(entry.tags().first()).cloned();
    Ok(Image { reference, manifest: None, config: Some(document), platform: config.platform, layers })
}

fn read_config(store: &Store, entry: &Entry, limits: &Limits) -> Result<(Document, Config), Error> {
    let name = &entry.config;
    let digest = config_digest(name);
    let object =
        digest.map_or_else(|| format!("config {}", quote(name)), |digest| format!("config {digest}"));
    let bytes = store.named(name, &object, limits)?.read_all(&object, limits.json_bytes)?;
    let found = digest.map_or_else(|| Digest::of(&bytes), |digest| digest.compute_alike(&bytes));
    same_digest(&object, digest.unwrap_or(found), found)?;
    let config = document::config(&object, &bytes)?;
    Ok((Document { digest: found, bytes }, config))
}

/// `HEX.json` (docker), `sha256:HEX` (go-containerregistry) or the name of a blob. Another name promises nothing.
fn config_digest(name: &str) -> Option<Digest> {
    let hex = name.strip_suffix(".json").unwrap_or(name);
    blob_digest(name).or_else(|| name.parse().ok()).or_else(|| format!("sha256:{hex}").parse().ok())
}

/// The digest in `blobs/ALGORITHM/HEX`.
fn blob_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.trim_start_matches("./").strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn layer(
    store: &Store,
    number: usize,
    member: &str,
    diff_id: Digest,
    limits: &Limits,
) -> Result<Layer, Error> {
    let digest = blob_digest(member);
    let label = crate::layer::label(number, digest.as_ref(), Some(member));
    let extent = store.named(member, &label, limits)?;
    let mut layer = Layer {
        number,
        digest,
        size: None,
        diff_id: Some(diff_id),
        media_type: None,
        compression: Compression::None,
        name: Some(member.to_owned()),
        place: Place::Extent(extent.clone()),
        limits: *limits,
    };
    if let Looks::Supported(compression) = layer.looks(&extent)? {
        layer.compression = compression;
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_digests() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = Some(Digest::of(b"abc"));
        for (name, config, blob) in [
            (format!("{hex}.json"), digest, None),
            (format!("sha256:{hex}"), digest, None),
            (format!("blobs/sha256/{hex}"), digest, digest),
            (format!("./blobs/sha256/{hex}"), digest, digest),
            (format!("blobs/sha256/../{}", &hex[3..]), None, None),
            ("config.json".to_owned(), None, None),
            (format!("{hex}/layer.tar"), None, None),
        ] {
            assert_eq!(config_digest(&name), config, "{name}");
            assert_eq!(blob_digest(&name), blob, "{name}");
        }
    }
}
