//! What is mounted at a mount point.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use mkimg_format::erofs::escape;
use mkimg_kernel::mountinfo::{self, MountEntry};
use mkimg_kernel::mounts::{Backing, Behind, ImageMount, behind};
use mkimg_kernel::overlay_layers::OverlayLayers;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{Error, Problem, ProblemKind};

/// A mount point, and the image behind it.
pub(super) struct Place {
    dir: OwnedFd,
    pub(super) image: ImageMount,
    pub(super) overlay: Option<OverlayLayers>,
    /// Directories of the overlay above the image, topmost first.
    pub(super) above: Vec<PathBuf>,
    /// Those below it, topmost first.
    pub(super) beneath: Vec<PathBuf>,
    /// Root of the visible mount of the image that an overlay was made over.
    lower: Option<OwnedFd>,
    /// Mounts at the same place that hide the image.
    pub(super) covers: Vec<Problem>,
}

impl Place {
    pub(super) fn find(target: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Target { path: target.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(target, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        let canonical = target.canonicalize().map_err(fail)?;
        let entries = mountinfo::read()?;
        let top = mount_of(&dir, &entries).or_else(|| mountinfo::find(&entries, &canonical));
        let Some(top) = top.filter(|entry| entry.target == canonical) else {
            let mount = top.map_or_else(|| PathBuf::from("/"), |entry| entry.target.clone());
            return Err(Error::NotAMount { path: canonical, mount });
        };
        // From the top down: what hides the image is a finding, as long as there is one below.
        let mut covers = Vec::new();
        let mut entry = top;
        loop {
            if let Some(Behind { image, overlay, above, beneath, lower_mount }) = behind(entry, &entries) {
                if entry.root != Path::new("/") {
                    return Err(Error::Part { path: canonical, root: entry.root.clone() });
                }
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let lower = rustix::fs::open(&image.target, flags, Mode::empty()).ok();
                let lower = lower.filter(|lower| mount_id(lower) == Some(u64::from(lower_mount)));
                return Ok(Self { dir, image, overlay, above, beneath, lower, covers });
            }
            let (fstype, origin) = describe(entry);
            let below = entries.iter().find(|below| below.id == entry.parent && below.target == entry.target);
            let Some(below) = below else {
                let (fstype, origin) = describe(top);
                return Err(Error::NotAnImage { path: canonical, fstype, origin });
            };
            let text = format!("{fstype} from {origin} is mounted over it");
            covers.push(Problem { kind: ProblemKind::OverMounted, text });
            entry = below;
        }
    }

    /// A path that leads to the directory that was opened, whatever is mounted meanwhile.
    pub(super) fn view(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
    }

    /// Identifier of the file system of the image, as statfs(2) tells it; `None` where only what lies above it answers.
    pub(super) fn file_system_id(&self) -> Option<u64> {
        let image = match &self.lower {
            Some(lower) => lower,
            None if self.overlay.is_some() || !self.covers.is_empty() => return None,
            None => &self.dir,
        };
        rustix::fs::fstatvfs(image).ok().map(|found| found.f_fsid)
    }

    /// What lies between mount and image, in words.
    pub(super) fn how(&self) -> String {
        let image = match &self.image.backing {
            Backing::File => "EROFS straight from the file".to_owned(),
            Backing::Loop(number) => format!("EROFS on loop{number}"),
            Backing::Dm { name, .. } => format!("EROFS on dm-verity device {}", escape(name.as_bytes())),
            _ => "EROFS on a block device".to_owned(),
        };
        if self.overlay.is_some() { format!("overlay over {image}") } else { image }
    }
}

/// Number of the mount that an open directory is seen through, where the system (Linux 5.8) says so.
fn mount_id(dir: &OwnedFd) -> Option<u64> {
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

fn mount_of<'a>(dir: &OwnedFd, entries: &'a [MountEntry]) -> Option<&'a MountEntry> {
    let id = mount_id(dir)?;
    entries.iter().find(|entry| u64::from(entry.id) == id)
}

fn describe(entry: &MountEntry) -> (String, String) {
    let text = |word: &std::ffi::OsStr| escape(word.as_encoded_bytes());
    (text(&entry.fstype), text(&entry.source))
}
