//! The source string of overlays that this project mounts.
//!
//! It is free text to the kernel. Ours is `mkimg:DEVICE:IMAGE`, where DEVICE is `file@DEV,INO` (numbers of the image's
//! inode in decimal), `dev` (the image is a block device), `loopN` or `dm-N`: with it the image below can be named although
//! the lower layer has no line in mountinfo, and told from another file that has its name by now. A path too long for the
//! mount API is left out below a loop or mapped device, where the kernel tells it anyway.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Longest text option of the mount API, in bytes.
pub const MAX_STRING: usize = 255;
/// First word of an overlay's source string.
const SOURCE_PREFIX: &[u8] = b"mkimg:";
/// `st_dev` and `st_ino` of a file.
pub type FileId = (u64, u64);

fn file_id(device: &str) -> Option<FileId> {
    let (dev, inode) = device.strip_prefix("file@")?.split_once(',')?;
    let number =
        |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    Some((number(dev)?, number(inode)?))
}

/// What an overlay's source string says about its lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySource {
    /// `file@DEV,INO`, `dev`, `loopN` or `dm-N`.
    pub device: String,
    /// Absolute path of the image when it was mounted; `/` where it did not fit.
    pub image: PathBuf,
}

impl OverlaySource {
    /// The string for mountinfo.
    #[must_use]
    pub fn to_source(&self) -> OsString {
        let mut bytes = SOURCE_PREFIX.to_vec();
        bytes.extend_from_slice(self.device.as_bytes());
        bytes.push(b':');
        let image = self.image.as_os_str().as_bytes();
        let told_by_device = self.device.starts_with("loop") || self.device.starts_with("dm-");
        if told_by_device && bytes.len().saturating_add(image.len()) > MAX_STRING {
            bytes.push(b'/');
        } else {
            bytes.extend_from_slice(image);
        }
        OsString::from_vec(bytes)
    }

    /// What stands for an image file in [`Self::device`].
    #[must_use]
    pub fn file_device((device, inode): FileId) -> String {
        format!("file@{device},{inode}")
    }

    /// Which file the image was, where it was mounted straight from one.
    #[must_use]
    pub fn file_id(&self) -> Option<FileId> {
        file_id(&self.device)
    }

    /// Reads a source string; `None` when it is not of this form.
    #[must_use]
    pub fn parse(source: &OsStr) -> Option<Self> {
        let rest = source.as_bytes().strip_prefix(SOURCE_PREFIX)?;
        let colon = rest.iter().position(|b| *b == b':')?;
        let (device, image) = rest.split_at(colon);
        let device = std::str::from_utf8(device).ok()?;
        let numbered = |prefix| {
            device
                .strip_prefix(prefix)
                .is_some_and(|n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        if file_id(device).is_none() && device != "dev" && !numbered("loop") && !numbered("dm-") {
            return None;
        }
        let image = image.strip_prefix(b":")?;
        if image.first() != Some(&b'/') {
            return None;
        }
        Some(Self { device: device.to_owned(), image: PathBuf::from(OsStr::from_bytes(image)) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn source_strings_fit_the_mount_api() {
        let image = PathBuf::from(format!("/{}", "x".repeat(300)));
        for device in ["loop0", "dm-12"] {
            let source = OverlaySource { device: device.to_owned(), image: image.clone() }.to_source();
            assert_eq!(source, OsString::from(format!("mkimg:{device}:/")));
            assert_eq!(OverlaySource::parse(&source).unwrap().device, device);
        }
    }

    #[test]
    fn source_strings() {
        for (device, image) in [
            ("file@64768,12", "/a"),
            ("loop12", "/x:y,z \\"),
            ("dm-0", "/mkimg:file:/b"),
            ("dev", "/dev/vdb"),
        ] {
            let source = OverlaySource { device: device.to_owned(), image: PathBuf::from(image) };
            assert_eq!(source.to_source(), OsString::from(format!("mkimg:{device}:{image}")));
            assert_eq!(OverlaySource::parse(&source.to_source()), Some(source));
        }
        for other in [
            "",
            "overlay",
            "mkimg",
            "mkimg:",
            "mkimg:file@1,2",
            "mkimg:file@1,2:",
            "mkimg:file@1,2:rel",
            "mkimg:file:/a",
            "mkimg:file@1:/a",
            "mkimg:file@1,+2:/a",
            "mkimg:loop:/a",
            "mkimg:loopx:/a",
            "mkimg:/a",
            "mkimg::/a",
            "xmkimg:file@1,2:/a",
        ] {
            assert_eq!(OverlaySource::parse(OsStr::new(other)), None, "{other}");
        }
    }
}
