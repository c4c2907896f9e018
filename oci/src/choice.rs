//! Which image of a layout is meant: by tag, then by platform.
//!
//! Indexes are followed breadth first with a depth, a list of the ones already seen and a count, so that neither a deep
//! nor a wide nor a repetitive layout costs more than the limits allow.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::digest::Digest;
use crate::document::{self, Descriptor};
use crate::error::{Error, list, quote};
use crate::limits::Limits;
use crate::platform::Platform;
use crate::store::Store;

/// The image that was chosen.
pub(crate) struct Chosen {
    pub(crate) descriptor: Descriptor,
    /// Name in `index.json`.
    pub(crate) reference: Option<String>,
}

/// An image manifest somewhere below `index.json`.
struct Candidate {
    descriptor: Descriptor,
    platform: Option<Platform>,
    /// Index of the entry in `index.json` that leads to it.
    root: usize,
    depth: u32,
}

/// Reads documents on the way to a choice, and counts them and their bytes.
struct Reader<'a> {
    store: &'a Store,
    limits: &'a Limits,
    documents: u32,
    bytes: u64,
}

impl Reader<'_> {
    fn read(&mut self, descriptor: &Descriptor, object: &str) -> Result<Vec<u8>, Error> {
        let over =
            |what: &str, limit| Error::Limit { object: object.to_owned(), what: what.to_owned(), limit };
        self.documents = self.documents.saturating_add(1);
        if self.documents > self.limits.documents {
            return Err(over("number of documents read to choose an image", self.limits.documents.into()));
        }
        let data = document::read(self.store, descriptor, object, self.limits)?;
        self.bytes = self.bytes.saturating_add(descriptor.size);
        if self.bytes > self.limits.documents_bytes {
            return Err(over("size of the documents read to choose an image", self.limits.documents_bytes));
        }
        Ok(data)
    }
}

/// Chooses among `roots`, the entries of `index.json`.
pub(crate) fn choose(
    store: &Store,
    roots: Vec<Descriptor>,
    tag: Option<&str>,
    wanted: Option<&Platform>,
    limits: &Limits,
) -> Result<Chosen, Error> {
    let names = |roots: &[&Descriptor]| {
        list(roots.iter().map(|root| root.name().map_or_else(|| root.digest.to_string(), str::to_owned)))
    };
    let selected: Vec<&Descriptor> =
        roots.iter().filter(|root| tag.is_none_or(|tag| root.is_called(tag))).collect();
    if let (Some(tag), true) = (tag, selected.is_empty()) {
        return Err(Error::NoTag { wanted: quote(tag), available: names(&roots.iter().collect::<Vec<_>>()) });
    }

    let mut reader = Reader { store, limits, documents: 0, bytes: 0 };
    let mut candidates = expand(&mut reader, &selected)?;
    if candidates.is_empty() {
        let kinds: BTreeSet<&str> = selected.iter().map(|root| root.media_type()).collect();
        let reason = match kinds.len() {
            0 => "index.json lists nothing".to_owned(),
            _ => format!("entries are of type {}", list(kinds.into_iter().map(str::to_owned))),
        };
        return Err(Error::NoImage { object: store.place(), reason });
    }

    // A single image that is not in an index is what it is; its own platform is compared by the caller when the user
    // names one.
    if let ([only], None) = (candidates.as_slice(), wanted)
        && only.depth == 0
    {
        return Ok(chosen(&selected, candidates.swap_remove(0)));
    }

    for candidate in &mut candidates {
        if candidate.platform.is_none() {
            candidate.platform = platform_of(&mut reader, &candidate.descriptor)?;
        }
    }
    let host = Platform::host();
    let wanted = wanted.unwrap_or(&host);
    let (mut fitting, others): (Vec<Candidate>, Vec<Candidate>) = candidates
        .into_iter()
        .partition(|candidate| candidate.platform.as_ref().is_some_and(|platform| wanted.accepts(platform)));
    if fitting.is_empty() {
        return Err(no_platform(wanted, others.iter().map(|candidate| candidate.platform.as_ref())));
    }

    let found_by: BTreeSet<usize> = fitting.iter().map(|candidate| candidate.root).collect();
    if found_by.len() > 1 {
        let fitting: Vec<&Descriptor> =
            found_by.iter().filter_map(|root| selected.get(*root).copied()).collect();
        return Err(Error::Ambiguous { count: fitting.len(), available: names(&fitting) });
    }
    // Of several variants in one index the one without is made for every machine; else the first, as the
    // specification says.
    let plain = |candidate: &Candidate| {
        candidate.platform.as_ref().is_some_and(|platform| platform.variant.is_none())
    };
    let best = fitting.iter().position(plain).unwrap_or(0);
    Ok(chosen(&selected, fitting.swap_remove(best)))
}

/// The error that lists the platforms there are.
pub(crate) fn no_platform<'a>(
    wanted: &Platform,
    available: impl Iterator<Item = Option<&'a Platform>>,
) -> Error {
    let mut seen = HashSet::new();
    let names = available.map(|platform| platform.map_or_else(|| "unknown".to_owned(), Platform::to_string));
    Error::NoPlatform {
        wanted: wanted.to_string(),
        available: list(names.filter(|name| seen.insert(name.clone()))),
    }
}

fn chosen(roots: &[&Descriptor], candidate: Candidate) -> Chosen {
    let reference = roots.get(candidate.root).and_then(|root| root.name()).map(str::to_owned);
    Chosen { descriptor: candidate.descriptor, reference }
}

/// All image manifests that `roots` lead to, each once, in the order of the indexes.
fn expand(reader: &mut Reader<'_>, roots: &[&Descriptor]) -> Result<Vec<Candidate>, Error> {
    let mut candidates = Vec::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    let mut queue: VecDeque<(Descriptor, usize, u32)> = VecDeque::new();
    queue.extend(roots.iter().enumerate().map(|(root, descriptor)| ((*descriptor).clone(), root, 0)));
    while let Some((descriptor, root, depth)) = queue.pop_front() {
        if descriptor.is_artifact() || !seen.insert(descriptor.digest) {
            continue;
        }
        let media_type = descriptor.media_type();
        if document::is_manifest(media_type) {
            let platform = descriptor.platform();
            candidates.push(Candidate { descriptor, platform, root, depth });
        } else if document::is_index(media_type) {
            let object = format!("index {}", descriptor.digest);
            let below = depth.saturating_add(1);
            if below > reader.limits.index_depth {
                return Err(Error::Limit {
                    object,
                    what: "depth of indexes".to_owned(),
                    limit: reader.limits.index_depth.into(),
                });
            }
            let data = reader.read(&descriptor, &object)?;
            let entries = document::index(&object, &data, Some(media_type))?;
            queue.extend(entries.into_iter().map(|entry| (entry, root, below)));
        } else if roots.len() == 1 && depth == 0 {
            // Entries of unknown types are to be skipped, but here nothing else is left that could be meant.
            return Err(Error::MediaType {
                object: format!("manifest {}", descriptor.digest),
                reason: format!("media type {} is neither a manifest nor an index", quote(media_type)),
            });
        }
    }
    Ok(candidates)
}

/// The platform in an image's configuration, for an index that does not state it.
fn platform_of(reader: &mut Reader<'_>, descriptor: &Descriptor) -> Result<Option<Platform>, Error> {
    let object = format!("manifest {}", descriptor.digest);
    let data = reader.read(descriptor, &object)?;
    let manifest = document::manifest(&object, &data, descriptor.media_type())?;
    if !document::is_config(manifest.config.media_type()) {
        return Ok(None);
    }
    let object = format!("config {}", manifest.config.digest);
    let data = reader.read(&manifest.config, &object)?;
    Ok(document::config(&object, &data)?.platform)
}
