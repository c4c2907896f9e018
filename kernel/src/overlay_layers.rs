//! Which directories an overlay is made of, from its line in mountinfo.
//!
//! The kernel shows what whoever mounted it said (`ovl_show_options`): either `lowerdir=A:B::C`, with colons and
//! backslashes in a path behind a backslash and data-only layers behind two colons, or `lowerdir+=` and `datadir+=` once
//! for each layer. Paths are those of the mount namespace that it was mounted from.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::mountinfo::MountEntry;

/// The directories of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayLayers {
    /// Where changes go; `None` when the overlay is read-only.
    pub upper: Option<PathBuf>,
    /// The layers below, topmost first. One that was given as a descriptor is shown as a path inside its own mount.
    pub lower: Vec<PathBuf>,
    /// Whether private attributes are `user.overlay.*` instead of `trusted.overlay.*`.
    pub user_xattrs: bool,
    /// Whether the overlay itself makes files of metadata alone.
    pub metacopy: bool,
    /// Whether hard links of a file stay links when one of them is written to (`index=on`).
    pub index: bool,
}

impl OverlayLayers {
    /// Reads a mount as an overlay; `None` when it is another file system.
    #[must_use]
    pub fn of(entry: &MountEntry) -> Option<Self> {
        if entry.fstype != "overlay" {
            return None;
        }
        let mut lower = Vec::new();
        for option in &entry.super_options {
            let option = option.as_bytes();
            if let Some(list) = option.strip_prefix(b"lowerdir=") {
                lower.extend(split_lower(list));
            } else if let Some(path) = option.strip_prefix(b"lowerdir+=") {
                lower.push(PathBuf::from(OsStr::from_bytes(path)));
            }
        }
        let flag = |name: &str| entry.super_options.iter().any(|option| option == name);
        // Shown only where it differs from the module's default.
        let switch = |name: &str| match entry.super_option(name) {
            Some(value) => value == "on",
            None => std::fs::read(format!("/sys/module/overlay/parameters/{name}"))
                .is_ok_and(|text| text.starts_with(b"Y")),
        };
        Some(Self {
            upper: entry.super_option("upperdir").map(PathBuf::from),
            lower,
            user_xattrs: flag("userxattr"),
            metacopy: switch("metacopy"),
            index: switch("index"),
        })
    }
}

/// Splits the value of `lowerdir=`, without the data-only layers behind two colons.
fn split_lower(list: &[u8]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut path = Vec::new();
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            // Behind two colons come layers that have no names in the tree.
            b':' if path.is_empty() => break,
            b':' => paths.push(std::mem::take(&mut path)),
            _ => path.push(byte),
        }
    }
    paths.push(path);
    paths.retain(|path| !path.is_empty());
    paths.into_iter().map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn layers(options: &str) -> OverlayLayers {
        let line = format!("45 27 0:40 / /t rw - overlay overlay {options}");
        OverlayLayers::of(crate::mountinfo::parse(line.as_bytes()).unwrap().first().unwrap()).unwrap()
    }

    #[test]
    fn lower_directories_of_all_forms() {
        for (options, lower) in [
            ("rw,lowerdir=/a", &["/a"][..]),
            ("rw,lowerdir=/a:/b:/c,upperdir=/u,workdir=/w", &["/a", "/b", "/c"]),
            ("rw,lowerdir=/a\\134:b:/c", &["/a:b", "/c"]),
            ("rw,lowerdir=/a\\134\\134b", &["/a\\b"]),
            ("rw,lowerdir=/a:/b::/data", &["/a", "/b"]),
            ("rw,lowerdir+=/x:y,lowerdir+=/z,datadir+=/d", &["/x:y", "/z"]),
            ("rw", &[]),
        ] {
            assert_eq!(
                layers(options).lower,
                lower.iter().map(PathBuf::from).collect::<Vec<_>>(),
                "{options}"
            );
        }
    }

    #[test]
    fn flags() {
        let found = layers("rw,lowerdir=/a,upperdir=/u\\040x,workdir=/w,userxattr,metacopy=on,index=on");
        assert_eq!(found.upper, Some(PathBuf::from("/u x")));
        assert!(found.user_xattrs && found.metacopy && found.index);
        let found = layers("ro,lowerdir=/a:/b,metacopy=off,index=off");
        assert!(found.upper.is_none() && !found.user_xattrs && !found.metacopy && !found.index);
        let other = crate::mountinfo::parse(b"45 27 0:40 / /t rw - tmpfs t rw").unwrap();
        assert_eq!(OverlayLayers::of(&other[0]), None);
    }
}
