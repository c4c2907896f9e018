//! Where layers or files come from.

use mkimg_oci::{Image, Platform, SourceSpec};

use crate::error::Result;
use crate::host_dir::HostDir;

/// A source, opened.
pub(crate) enum Opened {
    /// Layers of an image; a plain tar is one layer.
    Image(Box<Image>),
    Dir(HostDir),
}

impl Opened {
    /// Opens a source; of an index the image that fits `platform`.
    pub(crate) fn open(spec: &SourceSpec, platform: Option<&Platform>) -> Result<Self> {
        Ok(match spec {
            SourceSpec::Dir { path } => Self::Dir(HostDir::open(path)?),
            _ => Self::Image(Box::new(mkimg_oci::open(spec, platform)?)),
        })
    }
}

/// What the statement calls a source.
pub(crate) const fn kind_of(spec: &SourceSpec) -> &'static str {
    match spec {
        SourceSpec::Dir { .. } => "dir",
        SourceSpec::Tar { .. } => "tar",
        SourceSpec::DockerArchive { .. } => "docker",
        _ => "oci",
    }
}
