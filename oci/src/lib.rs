//! Image sources: OCI layouts, OCI and Docker archives, and plain tars, as digest-checked layer streams.
//!
//! [`open`] reads the documents of an image (`index.json`, indexes, manifest, configuration), checks each against the
//! descriptor that leads to it and chooses the image for a [`Platform`]. What comes out is an [`Image`] with its
//! [`Layer`]s, each of which opens any number of independent streams: [`Layer::open`] hashes the blob and the tar inside
//! it, [`Layer::reopen`] is a second pass without hashing. Nothing is unpacked, no program is run, and nothing is
//! written but to a file that somebody hands over for it ([`LayerReader::keep_in`]).
//!
//! A source is hostile. Sizes and counts are compared with [`Limits`] before they are used, an index is followed in a
//! loop with a depth, not by recursion, file names are made from parsed digests only, and in a layout directory only
//! regular files are read.
//!
//! The JSON types are plain serde structs rather than those of `oci-spec`: its `ImageManifest` and `ImageIndex` drop
//! unknown fields, so that a manifest that also has `manifests` (CVE-2021-41190) looks like any other, and they refuse the
//! `null` that Go programs write for an empty list. The dozen fields needed here have rules of their own (sizes within
//! int64, strict digests, exclusive fields, no map of annotations to fill) that are best stated where they are parsed.
//!
//! Facts: OCI image specification 1.1 (`image-layout.md`, `image-index.md`, `manifest.md`, `config.md`, `layer.md`,
//! `descriptor.md`); Docker image specification 1.2 and 1.3 for the archives of `docker save`.

#![forbid(unsafe_code)]

mod archive;
mod choice;
mod chunk;
mod compression;
mod crew;
mod decode;
mod digest;
mod docker;
mod document;
mod error;
mod image;
mod kept;
mod layer;
mod limits;
mod platform;
mod source;
mod store;
mod wanted;

pub use compression::Compression;
pub use crew::Crew;
pub use digest::Digest;
pub use error::{Error, Mismatch};
pub use image::{Document, Image, open, open_with};
pub use kept::{Kept, Room};
pub use layer::{Layer, LayerData, LayerReader, LayerSummary};
pub use limits::Limits;
pub use platform::Platform;
pub use source::SourceSpec;
pub use wanted::Wanted;
