//! What the user calls a source: `oci:DIR[:TAG]` and its kin, or a bare path whose kind is found by looking.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::archive::Archive;
use crate::compression::{Compression, Looks};
use crate::decode::{Blob, Decoder};
use crate::docker;
use crate::error::{Error, quote};
use crate::image::compressed_archive;
use crate::limits::Limits;
use crate::store::{Extent, Store, open_file};

/// A local image source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// `oci:DIR[:TAG]`: an OCI image layout.
    OciDir {
        /// The directory with `index.json`.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name`, or the digest of an entry in `index.json`.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar.
    OciArchive {
        /// The tar.
        path: PathBuf,
        /// As for a directory.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:NAME:TAG]`: what `docker save` writes.
    DockerArchive {
        /// The tar.
        path: PathBuf,
        /// One of the `RepoTags`.
        tag: Option<String>,
    },
    /// `dir:DIR`: a directory that is to become the tree.
    Dir {
        /// The directory.
        path: PathBuf,
    },
    /// `tar:FILE`: a tar, also with gzip or zstd, that is the only layer.
    Tar {
        /// The tar.
        path: PathBuf,
    },
}

/// Known elsewhere, so the error can be more precise than that for a missing file.
const FOREIGN: [&str; 8] = [
    "docker",
    "docker-daemon",
    "containers-storage",
    "containerd",
    "registry",
    "sif",
    "ostree",
    "oci-registry",
];

impl SourceSpec {
    /// Parses a source whose path need not be UTF-8. For a bare path the file system is looked at.
    ///
    /// A scheme comes first: a directory of the name `oci:x` is `./oci:x`. A path may contain colons: the longest part that
    /// exists is the path, and what is behind its colon is the tag.
    pub fn parse(text: &OsStr) -> Result<SourceSpec, Error> {
        let bytes = text.as_bytes();
        let refuse = |reason: &str| Error::Source {
            source_text: quote(&text.to_string_lossy()),
            reason: reason.to_owned(),
        };
        let scheme = bytes
            .iter()
            .position(|c| *c == b':')
            .map(|colon| (&bytes[..colon], &bytes[colon + 1..]))
            .filter(|(scheme, _)| scheme.iter().all(|c| c.is_ascii_alphanumeric() || b"+-".contains(c)));
        if let Some((scheme, rest)) = scheme {
            let known: Option<fn(PathBuf, Option<String>) -> SourceSpec> = match scheme {
                b"oci" => Some(|path, tag| SourceSpec::OciDir { path, tag }),
                b"oci-archive" => Some(|path, tag| SourceSpec::OciArchive { path, tag }),
                b"docker-archive" => Some(|path, tag| SourceSpec::DockerArchive { path, tag }),
                _ => None,
            };
            if let Some(make) = known {
                let (path, tag) = split(rest).ok_or_else(|| refuse("the tag is not UTF-8"))?;
                if path.as_os_str().is_empty() {
                    return Err(refuse("the path is empty"));
                }
                return Ok(make(path, tag));
            }
            let path = PathBuf::from(OsStr::from_bytes(rest));
            match scheme {
                b"dir" | b"tar" if rest.is_empty() => return Err(refuse("the path is empty")),
                b"dir" => return Ok(SourceSpec::Dir { path }),
                b"tar" => return Ok(SourceSpec::Tar { path }),
                _ if rest.starts_with(b"//") => {
                    return Err(match scheme {
                        b"docker" => {
                            refuse("registries are not supported yet, copy the image to an OCI layout first")
                        }
                        _ => refuse("unknown kind of source"),
                    });
                }
                _ => {}
            }
        }
        if bytes.is_empty() {
            return Err(refuse("the path is empty"));
        }
        let (path, tag) = split(bytes).ok_or_else(|| refuse("the tag is not UTF-8"))?;
        if std::fs::metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            let foreign =
                scheme.is_some_and(|(scheme, _)| FOREIGN.iter().any(|name| name.as_bytes() == scheme));
            return Err(refuse(if foreign {
                "this kind of source is not supported"
            } else if scheme.is_some() {
                "unknown kind of source, and no such file or directory"
            } else {
                "no such file or directory"
            }));
        }
        let spec = detect(&path, tag.clone(), &Limits::default())?;
        if tag.is_some() && spec.tag().is_none() {
            return Err(refuse("a plain directory or tar has no tags"));
        }
        Ok(spec)
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        match self {
            SourceSpec::OciDir { path, .. }
            | SourceSpec::OciArchive { path, .. }
            | SourceSpec::DockerArchive { path, .. }
            | SourceSpec::Dir { path }
            | SourceSpec::Tar { path } => path,
        }
    }

    /// The tag or name asked for.
    pub fn tag(&self) -> Option<&str> {
        match self {
            SourceSpec::OciDir { tag, .. }
            | SourceSpec::OciArchive { tag, .. }
            | SourceSpec::DockerArchive { tag, .. } => tag.as_deref(),
            SourceSpec::Dir { .. } | SourceSpec::Tar { .. } => None,
        }
    }
}

impl FromStr for SourceSpec {
    type Err = Error;

    /// See [`SourceSpec::parse`].
    fn from_str(text: &str) -> Result<SourceSpec, Error> {
        SourceSpec::parse(OsStr::new(text))
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            SourceSpec::OciDir { .. } => "oci",
            SourceSpec::OciArchive { .. } => "oci-archive",
            SourceSpec::DockerArchive { .. } => "docker-archive",
            SourceSpec::Dir { .. } => "dir",
            SourceSpec::Tar { .. } => "tar",
        };
        write!(f, "{scheme}:{}", self.path().display())?;
        self.tag().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

/// Path and tag: the longest prefix that ends in front of a colon (or at the end) and exists, else up to the first colon.
/// None if the tag is not UTF-8.
fn split(text: &[u8]) -> Option<(PathBuf, Option<String>)> {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let colons = || text.iter().enumerate().filter(|(_, c)| **c == b':').map(|(i, _)| i);
    let exists = |end: &usize| std::fs::symlink_metadata(path(&text[..*end])).is_ok();
    let whole = Some(text.len());
    let end =
        whole.filter(exists).or_else(|| colons().rev().filter(|at| *at > 0).find(exists)).or(colons().next());
    let Some(end) = end.filter(|end| *end < text.len()) else { return Some((path(text), None)) };
    let tag = std::str::from_utf8(&text[end + 1..]).ok()?;
    Some((path(&text[..end]), Some(tag.to_owned()).filter(|tag| !tag.is_empty())))
}

/// Looks what is at `path`.
fn detect(path: &Path, tag: Option<String>, limits: &Limits) -> Result<SourceSpec, Error> {
    let path = path.to_owned();
    let metadata = std::fs::metadata(&path)
        .map_err(|source| Error::Io { object: path.display().to_string(), source })?;
    if metadata.is_dir() {
        // A web application may have an index.json, too.
        let layout = path.join("oci-layout").is_file()
            || path.join("index.json").is_file() && path.join("blobs").is_dir();
        return Ok(if layout { SourceSpec::OciDir { path, tag } } else { SourceSpec::Dir { path } });
    }
    let extent = open_file(&path)?;
    let mut prefix = [0; Looks::PREFIX];
    let n = extent
        .read_at(&mut prefix, 0)
        .map_err(|source| Error::Io { object: path.display().to_string(), source })?;
    match Looks::like(&prefix[..n]) {
        Looks::Supported(Compression::None) => {}
        looks @ Looks::Supported(compression) => {
            return if first_member_is_of_image(&extent, compression, limits) {
                Err(compressed_archive(&path, looks))
            } else {
                Ok(SourceSpec::Tar { path })
            };
        }
        Looks::Unsupported(_) => return Ok(SourceSpec::Tar { path }),
    }
    // A tar with more members than an image archive may have, or one that this strict reader refuses, is a layer: its
    // reader will say what is wrong with it.
    let Ok(archive) = Archive::index(&path, Arc::clone(&extent.file), extent.len, limits) else {
        return Ok(SourceSpec::Tar { path });
    };
    let oci = archive.has("oci-layout") || archive.has("index.json") && archive.has_below("blobs/");
    let docker = archive.has(docker::MANIFEST);
    if oci && archive.has("index.json") {
        return Ok(SourceSpec::OciArchive { path, tag });
    }
    // The name is common, the form is not.
    if docker && docker::entries(&Store::Archive(Arc::new(archive)), limits).is_ok() {
        return Ok(SourceSpec::DockerArchive { path, tag });
    }
    Ok(SourceSpec::Tar { path })
}

/// Whether a compressed tar begins like an image archive. Reading all of it to be sure would take too long.
fn first_member_is_of_image(extent: &Extent, compression: Compression, limits: &Limits) -> bool {
    let Ok(mut decoder) = Decoder::new(Blob::new(extent.clone(), None), compression, limits) else {
        return false;
    };
    // The first chunk holds the header unless the blob is strangely cut into tiny members.
    let Ok(chunk) = decoder.next() else { return false };
    let Some(header) = chunk.get(..512) else { return false };
    let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let (first, rest) =
        name.split_at(name.iter().position(|c| *c == b'/' || *c == b'.').unwrap_or(name.len()));
    let is_id = first.len() == 64 && first.iter().all(u8::is_ascii_hexdigit);
    is_id && matches!(rest, b"/" | b".json" | b"/VERSION" | b"/json" | b"/layer.tar" | b".tar")
        || [&b"oci-layout"[..], b"index.json", b"manifest.json", b"repositories", b"blobs/"].contains(&name)
        || name.starts_with(b"blobs/sha256/")
}
