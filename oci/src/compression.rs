//! How a layer blob is packed: what its media type says and what its first bytes say.
//!
//! Sources: OCI image specification 1.1, `layer.md` and `media-types.md`; Docker image manifest V2 schema 2;
//! RFC 1952 (gzip), RFC 8878 (zstd).

use std::fmt;

/// How the bytes of a layer blob become a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The blob is the tar.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

/// What a layer media type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Exactly(Compression),
    /// Docker has pushed compressed layers under its plain media types, and containerd and the containers/image library
    /// therefore look at the bytes. The plain types of OCI have no such past and are taken at their word.
    Whatever,
}

/// None for a media type that is no layer.
pub(crate) fn promise(media_type: &str) -> Option<Promise> {
    let exactly = |compression| Some(Promise::Exactly(compression));
    if let Some(oci) = media_type.strip_prefix("application/vnd.oci.image.layer.") {
        return match oci.strip_prefix("nondistributable.").unwrap_or(oci) {
            "v1.tar" => exactly(Compression::None),
            "v1.tar+gzip" => exactly(Compression::Gzip),
            "v1.tar+zstd" => exactly(Compression::Zstd),
            _ => None,
        };
    }
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.")?;
    match docker.strip_prefix("foreign.").unwrap_or(docker) {
        "diff.tar" => Some(Promise::Whatever),
        "diff.tar.gzip" => exactly(Compression::Gzip),
        "diff.tar.zstd" => exactly(Compression::Zstd),
        _ => None,
    }
}

/// What the first bytes of a blob look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    Supported(Compression),
    Unsupported(&'static str),
}

impl Looks {
    /// Bytes that decide.
    pub(crate) const PREFIX: usize = 16;

    /// A tar begins with a file name, so only bytes that no sane name begins with count as compressed.
    pub(crate) fn like(prefix: &[u8]) -> Looks {
        match prefix {
            [0x1f, 0x8b, ..] => Looks::Supported(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Looks::Supported(Compression::Zstd)
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Looks::Unsupported("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => {
                Looks::Unsupported("bzip2")
            }
            [0x04, 0x22, 0x4d, 0x18, ..] => Looks::Unsupported("lz4"),
            _ => Looks::Supported(Compression::None),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Looks::Supported(Compression::None) => "not compressed in a known way",
            Looks::Supported(Compression::Gzip) => "gzip",
            Looks::Supported(Compression::Zstd) => "zstd",
            Looks::Unsupported(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        use Compression::{Gzip, None as Plain, Zstd};
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Promise::Exactly(Plain))),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Promise::Exactly(Gzip))),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Promise::Exactly(Zstd))),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", Some(Promise::Exactly(Plain))),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Promise::Exactly(Gzip))),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Some(Promise::Exactly(Zstd))),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Promise::Whatever)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Promise::Exactly(Gzip))),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Promise::Exactly(Zstd))),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar", Some(Promise::Whatever)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Promise::Exactly(Gzip))),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tar+bzip2", None),
            ("application/vnd.oci.image.layer.", None),
            ("application/vnd.oci.empty.v1+json", None),
            ("application/vnd.docker.image.rootfs.diff.tar.xz", None),
            ("application/octet-stream", None),
            ("", None),
        ] {
            assert_eq!(promise(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn first_bytes() {
        for (prefix, expected) in [
            (&b""[..], Looks::Supported(Compression::None)),
            (b"etc/passwd", Looks::Supported(Compression::None)),
            (b"BZh91.txt\0\0\0\0", Looks::Supported(Compression::None)),
            (b"\x1f\x8b\x08\0", Looks::Supported(Compression::Gzip)),
            (b"\x28\xb5\x2f\xfd", Looks::Supported(Compression::Zstd)),
            (b"\x5a\x2a\x4d\x18", Looks::Supported(Compression::Zstd)),
            (b"\xfd7zXZ\0", Looks::Unsupported("xz")),
            (b"BZh91AY&SY", Looks::Unsupported("bzip2")),
            (b"\x04\x22\x4d\x18", Looks::Unsupported("lz4")),
        ] {
            assert_eq!(Looks::like(prefix), expected, "{prefix:?}");
        }
    }
}
