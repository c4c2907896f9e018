//! Which images are mounted, from what the kernel says alone.
//!
//! | mount | device number | where the image's path comes from |
//! |---|---|---|
//! | EROFS on a loop device | of the loop device | `/sys/block/loopN/loop/backing_file` |
//! | EROFS on dm-verity | of the mapped device | `/sys/block/dm-N/slaves`, then as above, also by its partitions |
//! | EROFS from a file | major 0 | source in mountinfo |
//! | overlay over a detached EROFS | major 0 | source in mountinfo, see [`crate::overlay_source`] |
//!
//! An image is ours when it begins with the eight bytes of the mkimg header. They are read from the
//! block device where there is one, so a backing file that was deleted is still recognised. For a
//! file-backed mount only the path is known: when the file or the file system it lies on is gone, or
//! another file is there now, the mount cannot be told from any other EROFS mount, and it is listed
//! only if that path carries the header.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::dm::DevNumber;
use crate::error::Result;
use crate::image_file::open_image;
use crate::loop_device::LoopDevice;
use crate::mountinfo::{self, MountEntry};
use crate::overlay_layers::OverlayLayers;
use crate::overlay_source::{FileId, OverlaySource};

/// The first eight bytes of an image.
pub use mkimg_format::header::MAGIC;

/// What lies between the file system and the image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// Nothing: mounted straight from the file.
    File,
    /// `/dev/loopN`.
    Loop(u32),
    /// A mapped device.
    Dm {
        /// N of `/dev/dm-N`.
        number: u32,
        /// Its name, for example `mkimg-` and a root hash.
        name: String,
        /// The loop device below it, or that its partitions are on, if there is one.
        loop_number: Option<u32>,
    },
    /// Another block device, which is the image itself.
    Device,
}

/// One mounted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMount {
    /// The mount point.
    pub target: PathBuf,
    /// The image file or device, as the kernel names it.
    pub image: PathBuf,
    /// What lies below the file system.
    pub backing: Backing,
    /// Upper directory, when it is an overlay over the image. Before Linux 6.13 one with a comma or a
    /// backslash in its path shows as a path below `/proc/self/fd`.
    pub upper: Option<PathBuf>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Which file it was mounted from, where that is known: of overlays straight over a file.
    pub file_id: Option<FileId>,
}

/// The mounted images of the caller's mount namespace, in the order of mountinfo.
pub fn mounts() -> Result<Vec<ImageMount>> {
    Ok(mountinfo::read()?.iter().filter_map(image_mount).filter(|(_, ours)| *ours).map(|(m, _)| m).collect())
}

/// Reads a mount as one of an image; the flag tells whether the mkimg header was found.
///
/// `None` when it is neither EROFS nor an overlay made by this crate.
#[must_use]
pub fn image_mount(entry: &MountEntry) -> Option<(ImageMount, bool)> {
    let mut file_id = None;
    let (backing, image) = if entry.fstype == "erofs" {
        if entry.major == 0 {
            (Backing::File, PathBuf::from(&entry.source))
        } else {
            let number = DevNumber { major: entry.major, minor: entry.minor };
            by_device(&device_name(number)?)
        }
    } else if entry.fstype == "overlay" {
        let source = OverlaySource::parse(&entry.source)?;
        file_id = source.file_id();
        match source.device.as_str() {
            _ if file_id.is_some() => (Backing::File, source.image),
            "dev" => (Backing::Device, source.image),
            name => {
                let (backing, image) = by_device(name);
                // A loop device that is not bound is not below anything.
                if backing == Backing::Device {
                    return None;
                }
                (backing, image)
            }
        }
    } else {
        return None;
    };
    let node = match &backing {
        Backing::File | Backing::Device => image.clone(),
        Backing::Loop(number) => PathBuf::from(format!("/dev/loop{number}")),
        Backing::Dm { number, .. } => PathBuf::from(format!("/dev/dm-{number}")),
    };
    let ours = has_header(&node);
    let upper = entry.super_option("upperdir").map(PathBuf::from);
    let target = entry.target.clone();
    Some((ImageMount { target, image, backing, upper, read_only: entry.read_only(), file_id }, ours))
}

/// The image behind a mount, with the overlay over it if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The image, as it is mounted below the overlay.
    pub image: ImageMount,
    /// The overlay.
    pub overlay: Option<OverlayLayers>,
    /// Directories of the overlay that lie above the image, topmost first.
    pub above: Vec<PathBuf>,
    /// Those that lie below it: what they have and the image has not shows as well.
    pub beneath: Vec<PathBuf>,
    /// Number of the visible mount of the image that an overlay was made over; 0 if there is none.
    pub lower_mount: u32,
}

/// Finds the image behind a mount of any kind: EROFS, an overlay made by this project, or one over the visible mount of
/// an image. Whether the image is one of mkimg's is left to whoever reads it.
///
/// `None` when there is none, or when an overlay lies over several.
#[must_use]
pub fn behind(entry: &MountEntry, entries: &[MountEntry]) -> Option<Behind> {
    let overlay = OverlayLayers::of(entry);
    if let Some((image, _)) = image_mount(entry) {
        let above = overlay.as_ref().and_then(|overlay| overlay.upper.clone()).into_iter().collect();
        return Some(Behind { image, overlay, above, beneath: Vec::new(), lower_mount: 0 });
    }
    let overlay = overlay?;
    let mut images = overlay.lower.iter().enumerate().filter_map(|(index, path)| {
        let below = lower_mount(entry, entries, path)?;
        let (image, _) =
            image_mount(below).filter(|_| below.fstype == "erofs" && below.root == Path::new("/"))?;
        Some((index, image, below.id))
    });
    let (index, image, lower_mount) = images.next()?;
    if images.next().is_some() {
        return None;
    }
    drop(images);
    let above = overlay.upper.iter().chain(overlay.lower.iter().take(index)).cloned().collect();
    let beneath = overlay.lower.iter().skip(index.saturating_add(1)).cloned().collect();
    Some(Behind { image, overlay: Some(overlay), above, beneath, lower_mount })
}

/// What was mounted at a lower directory of an overlay when the overlay was made.
///
/// The list is in the order of mounting, so it is something before the overlay, which may lie over its own lower
/// directory. The copy of a namespace (before Linux 6.8) is in the order of the tree: then it may also stand behind.
fn lower_mount<'a>(overlay: &MountEntry, entries: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    // A relative path meant something to whoever mounted it, and nobody else.
    if !path.is_absolute() {
        return None;
    }
    let place = entries.iter().position(|entry| entry.id == overlay.id).unwrap_or(entries.len());
    let (before, after) = entries.split_at(place);
    let at = |path: &Path| {
        mountinfo::find(before, path).or_else(|| mountinfo::find(after.get(1..).unwrap_or_default(), path))
    };
    at(path).or_else(|| at(&path.canonicalize().ok()?))
}

/// Kernel name of a block device: the last component of what `/sys/dev/block/M:N` points to.
fn device_name(number: DevNumber) -> Option<String> {
    let link = fs::read_link(format!("/sys/dev/block/{number}")).ok()?;
    link.file_name()?.to_str().map(str::to_owned)
}

fn by_device(name: &str) -> (Backing, PathBuf) {
    if let Some(number) = loop_number(name)
        && let Some(image) = LoopDevice::backing(number)
    {
        return (Backing::Loop(number), image);
    }
    let sys = Path::new("/sys/block").join(name);
    if let Some(number) = name.strip_prefix("dm-").and_then(|n| n.parse().ok())
        && let Ok(dm_name) = fs::read_to_string(sys.join("dm/name"))
    {
        let slave = first_entry(&sys.join("slaves")).unwrap_or_default();
        let loop_number = loop_below(&slave);
        let image =
            loop_number.and_then(LoopDevice::backing).unwrap_or_else(|| Path::new("/dev").join(slave));
        return (Backing::Dm { number, name: dm_name.trim_end().to_owned(), loop_number }, image);
    }
    (Backing::Device, Path::new("/dev").join(name))
}

fn loop_number(name: &str) -> Option<u32> {
    name.strip_prefix("loop")?.parse().ok()
}

/// The loop device that a block device is, or is a partition of.
fn loop_below(name: &str) -> Option<u32> {
    name.strip_prefix("loop")?.split('p').next()?.parse().ok()
}

/// The first name in a directory; data and hash device of an appended tree are one slave.
fn first_entry(dir: &Path) -> Option<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().next()
}

fn has_header(path: &Path) -> bool {
    fn read(file: &File) -> std::io::Result<bool> {
        let mut magic = [0u8; 8];
        file.read_exact_at(&mut magic, 0)?;
        Ok(magic == MAGIC)
    }
    path.is_absolute() && open_image(path).is_ok_and(|file| read(&file).unwrap_or(false))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is behind the overlay at `/m` of a list of mounts.
    fn at_m(mountinfo: &str) -> Option<Behind> {
        let entries = mountinfo::parse(mountinfo.as_bytes()).unwrap();
        let overlay = entries.iter().find(|entry| entry.fstype == "overlay").unwrap();
        behind(overlay, &entries)
    }

    #[test]
    fn loop_devices_have_partitions() {
        for (name, below, itself) in [
            ("loop7", Some(7), Some(7)),
            ("loop12p3", Some(12), None),
            ("loopp1", None, None),
            ("dm-1", None, None),
            ("sdp1", None, None),
        ] {
            assert_eq!((loop_below(name), loop_number(name)), (below, itself), "{name}");
        }
    }

    #[test]
    fn the_image_behind_an_overlay() {
        const A: &str = "10 1 0:40 / /low ro - erofs /a.img ro\n";
        const OVER: &str = "11 1 0:41 / /m rw - overlay o rw,lowerdir=/low,upperdir=/u,workdir=/w\n";
        for (what, list, image) in [
            ("one", [A, OVER].concat(), Some("/a.img")),
            ("in the order of the tree", [OVER, A].concat(), Some("/a.img")),
            ("something else before", ["9 1 0:39 / /low rw - tmpfs t rw\n", OVER, A].concat(), None),
            (
                "something else later",
                [A, OVER, "12 10 0:42 / /low ro - erofs /b.img ro\n"].concat(),
                Some("/a.img"),
            ),
            (
                "over its own lower directory",
                "10 1 0:40 / /m ro - erofs /a.img ro\n11 10 0:41 / /m rw - overlay o rw,lowerdir=/m,upperdir=/u\n"
                    .to_owned(),
                Some("/a.img"),
            ),
            ("a part", ["10 1 0:40 /x /low ro - erofs /a.img ro\n", OVER].concat(), None),
            ("none", OVER.to_owned(), None),
            ("a relative path", [A, "11 1 0:41 / /m rw - overlay o rw,lowerdir=low\n"].concat(), None),
            (
                "two",
                [
                    A,
                    "12 1 0:42 / /b ro - erofs /b.img ro\n",
                    "13 1 0:43 / /m ro - overlay o ro,lowerdir=/low:/b\n",
                ]
                .concat(),
                None,
            ),
        ] {
            let found = at_m(&list);
            assert_eq!(found.as_ref().map(|found| found.image.image.as_path()), image.map(Path::new), "{what}");
            assert!(found.is_none_or(|found| found.lower_mount == 10), "{what}");
        }
    }

    #[test]
    fn directories_above_and_below_the_image() {
        let list = "10 1 0:40 / /low ro - erofs /a.img ro\n\
            11 1 0:41 / /m rw - overlay o rw,lowerdir=/one:/two:/low:/three,upperdir=/u,workdir=/w\n";
        let found = at_m(list).unwrap();
        assert_eq!(found.above, ["/u", "/one", "/two"].map(PathBuf::from));
        assert_eq!(found.beneath, ["/three"].map(PathBuf::from));
    }
}
