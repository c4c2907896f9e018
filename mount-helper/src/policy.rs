//! One call from an image to a mounted tree: open, check, device, file system, overlay, attach.
//!
//! The image is opened once. That descriptor is what the check reads, what a loop device is bound to,
//! and what a path is compared with; no step looks the image up again and believes what it finds.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, Result, errno_of};
use crate::mount::{Identity, MAX_STRING, MountAttrs, Pin, Source, Step, Target, detached_with};
use crate::overlay::{Layers, detached_overlay};
use mkimg_format::fec::Layout;
use mkimg_format::salt::Salt;
use mkimg_kernel::dm::{self, DevNumber, Fec, OnCorruption, VerityDevice, VerityTarget};
use mkimg_kernel::image_file::open_image;
use mkimg_kernel::loop_device::{LoopDevice, LoopOptions};
use mkimg_kernel::overlay_source::OverlaySource;

/// Bytes in a block of an image, of its data and of its hash tree alike.
const BLOCK: u64 = 4096;

/// Who checks the bytes, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerityPolicy {
    /// [`VerityPolicy::Kernel`] where dm-verity is to be had, else [`VerityPolicy::Once`].
    #[default]
    Auto,
    /// dm-verity: the kernel checks every block it reads. Fails where it is not to be had.
    Kernel,
    /// The whole image is checked right before the mount, and never again.
    Once,
    /// Nobody.
    Off,
}

impl VerityPolicy {
    /// What a policy comes to when something is asked for that dm-verity alone can do.
    ///
    /// # Errors
    /// The policy is one without dm-verity; `option` is named as what it cannot be had with.
    pub fn kernel_only(self, option: &str) -> Result<Self> {
        match self {
            Self::Auto | Self::Kernel => Ok(Self::Kernel),
            Self::Once | Self::Off => {
                Err(Error::Usage { option: option.to_owned(), reason: "needs verity=kernel" })
            }
        }
    }
}

/// How the image becomes something that the kernel mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// Straight from the file, over a loop device where the kernel cannot do that.
    #[default]
    Auto,
    /// Straight from the file (Linux 6.12), or not at all.
    File,
    /// Over a loop device.
    Loop,
}

/// What is to be mounted where.
#[derive(Debug, Clone, Copy)]
pub struct MountRequest<'a> {
    /// The image: a regular file or a block device.
    pub image: &'a Path,
    /// The directory to mount on.
    pub target: &'a Path,
    /// Upper directory of a writable overlay; made if missing.
    pub upper: Option<&'a Path>,
    /// Work directory of the overlay, on the mount of `upper`; made if missing.
    pub work: Option<&'a Path>,
    /// Who checks the bytes.
    pub policy: VerityPolicy,
    /// What the kernel does when a block does not match. Whatever is given here makes dm-verity a must.
    pub on_corruption: Option<OnCorruption>,
    /// File or loop device.
    pub via: Via,
    /// Attributes of the mount that becomes visible.
    pub attrs: MountAttrs,
}

/// What the caller's check found out about the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedImage {
    /// Root of the hash tree (SHA-256).
    pub root_hash: [u8; 32],
    /// What its blocks are hashed behind; images of mkimg have no salt.
    pub salt: Salt,
    /// Number of 4096-byte blocks that the tree covers.
    pub data_blocks: u64,
    /// The block of the verity superblock, in bytes; the tree begins one block later.
    pub hash_offset: u64,
    /// PKCS#7 signature of the root hash that the kernel is to accept by its own keyrings, with dm-verity.
    pub signature: Option<Vec<u8>>,
    /// The parity, if the image has any.
    pub fec: Option<Layout>,
}

/// What was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mounted {
    /// Canonical path of the mount point.
    pub target: PathBuf,
    /// The policy that was carried out, never [`VerityPolicy::Auto`].
    pub policy: VerityPolicy,
    /// What the kernel does when a block does not match, with [`VerityPolicy::Kernel`].
    pub on_corruption: Option<OnCorruption>,
    /// What the kernel mounted, in words: file, loop device, mapped device, overlay.
    pub how: String,
    /// Which guarantee holds from now on, one sentence to show to the user.
    pub guarantee: String,
}

/// Mounts an image.
///
/// `check` audits the open image; it is told the policy that is going to be carried out, so that it can
/// do everything for [`VerityPolicy::Once`], and only structure and parameters for
/// [`VerityPolicy::Kernel`] and [`VerityPolicy::Off`]. Its `Err` is shown to the user.
///
/// On any error nothing is mounted, and no loop or mapped device is left.
pub fn mount(
    request: &MountRequest<'_>,
    check: &mut dyn FnMut(&File, VerityPolicy) -> std::result::Result<CheckedImage, String>,
) -> Result<Mounted> {
    mount_with(request, check, &mut |_| {})
}

/// As [`mount`]; `hook` is told the steps of a file-backed mount.
pub(crate) fn mount_with(
    request: &MountRequest<'_>,
    check: &mut dyn FnMut(&File, VerityPolicy) -> std::result::Result<CheckedImage, String>,
    hook: &mut dyn FnMut(Step),
) -> Result<Mounted> {
    mount_prepared(request, check, hook, &mut |_, _| Ok(()))
}

/// As [`mount_with`]; `prepare` is given the image and its file system before anybody can see that.
pub(crate) fn mount_prepared(
    request: &MountRequest<'_>,
    check: &mut dyn FnMut(&File, VerityPolicy) -> std::result::Result<CheckedImage, String>,
    hook: &mut dyn FnMut(Step),
    prepare: &mut dyn FnMut(&File, BorrowedFd<'_>) -> Result<()>,
) -> Result<Mounted> {
    let file = open_image(request.image)?;
    let image = Image::identify(file, request.image)?;
    let target = Target::open(request.target)?;
    let policy = match request.on_corruption {
        Some(_) => request.policy.kernel_only("on_corruption")?,
        None => request.policy,
    };
    let policy = resolve(policy)?;
    let on_corruption = (policy == VerityPolicy::Kernel).then_some(request.on_corruption.unwrap_or_default());
    if policy == VerityPolicy::Kernel && request.via == Via::File && !image.is_device {
        return Err(Error::Usage {
            option: "via=file".to_owned(),
            reason: "dm-verity needs a block device, use via=loop or via=auto",
        });
    }
    let layers = match (request.upper, request.work) {
        (Some(upper), Some(work)) => Some(Layers::open(upper, work)?),
        (None, None) => None,
        (Some(_), None) => {
            return Err(Error::Usage { option: "upper".to_owned(), reason: "needs a work directory too" });
        }
        (None, Some(_)) => {
            return Err(Error::Usage { option: "work".to_owned(), reason: "needs an upper directory too" });
        }
    };
    let checked = check(&image.file, policy)
        .map_err(|reason| Error::CheckFailed { path: image.path.clone(), reason })?;

    // With an overlay this is the layer below, and what becomes visible is the overlay.
    let lower = match on_corruption {
        Some(on_corruption) => verity_mount(&image, &checked, on_corruption, request.attrs)?,
        None => {
            // The source string of an overlay over a file must hold the whole path.
            let device = OverlaySource::file_device(image.identity.file());
            let prefix = device.len().saturating_add("mkimg::".len());
            let long = image.path.as_os_str().len().saturating_add(prefix) > MAX_STRING;
            let via =
                if layers.is_some() && long && request.via == Via::Auto { Via::Loop } else { request.via };
            plain_mount(&image, via, request.attrs, hook)?
        }
    };
    prepare(&image.file, lower.mount.as_fd())?;
    let mut guarantee = guarantee(policy, &checked, on_corruption.unwrap_or_default(), lower.mends);
    let mut how = lower.how;
    match layers {
        None => target.attach(lower.mount)?,
        Some(layers) => {
            let source = OverlaySource { device: lower.device, image: image.path.clone() };
            layers.adopt_root(lower.mount.as_fd())?;
            let overlay = detached_overlay(lower.mount.as_fd(), &layers, &source, request.attrs)?;
            target.attach(overlay)?;
            let upper = layers.upper().display().to_string();
            layers.keep();
            how = format!("overlay with upper {upper} over {how}");
            guarantee.push_str("; what is written goes to the upper directory, which nothing checks");
        }
    }
    Ok(Mounted { target: target.path().to_path_buf(), policy, on_corruption, how, guarantee })
}

/// The open image and what names it.
struct Image {
    file: File,
    /// Absolute and canonical.
    path: PathBuf,
    /// From before the check.
    identity: Identity,
    is_device: bool,
}

impl Image {
    fn identify(file: File, given: &Path) -> Result<Self> {
        let path = given.canonicalize().map_err(|e| Error::at("resolve image", given)(errno_of(&e)))?;
        let identity = Identity::of(&file).map_err(Error::at("stat image", &path))?;
        let stat = rustix::fs::fstat(&file).map_err(Error::at("stat image", &path))?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        let there = Identity::at(&path).map_err(Error::at("stat image", &path))?;
        if let Some(what) = there.difference(&identity) {
            return Err(Error::Changed { path, what });
        }
        Ok(Self { file, path, identity, is_device })
    }

    /// The same bytes as before the check?
    fn unchanged(&self) -> Result<()> {
        if self.is_device {
            return Ok(());
        }
        let now = Identity::of(&self.file).map_err(Error::at("stat image", &self.path))?;
        match self.identity.difference(&now) {
            Some(what) => Err(Error::Changed { path: self.path.clone(), what }),
            None => Ok(()),
        }
    }

    fn attach_loop(&self) -> Result<LoopDevice> {
        let options = LoopOptions { direct_io: true, name: Some(&self.path), ..LoopOptions::default() };
        Ok(LoopDevice::attach(self.file.as_fd(), &options)?)
    }
}

/// A detached EROFS mount.
struct Lower {
    mount: OwnedFd,
    /// As in [`OverlaySource::device`].
    device: String,
    how: String,
    /// Whether the kernel mends blocks from parity.
    mends: bool,
}

fn resolve(policy: VerityPolicy) -> Result<VerityPolicy> {
    match policy {
        VerityPolicy::Auto if dm::available().is_ok() => Ok(VerityPolicy::Kernel),
        VerityPolicy::Auto => Ok(VerityPolicy::Once),
        VerityPolicy::Kernel => {
            dm::available().map_err(mkimg_kernel::Error::from)?;
            Ok(policy)
        }
        VerityPolicy::Once | VerityPolicy::Off => Ok(policy),
    }
}

fn plain_mount(image: &Image, via: Via, attrs: MountAttrs, hook: &mut dyn FnMut(Step)) -> Result<Lower> {
    if image.is_device {
        let source = Source::BlockDevice { fd: image.file.as_fd(), path: &image.path };
        let mount = detached_with(source, attrs, Pin::Try, hook)?;
        let how = format!("block device {}", image.path.display());
        return Ok(Lower { mount, device: "dev".to_owned(), how, mends: false });
    }
    match via {
        Via::File => file_mount(image, Pin::Try, attrs, hook),
        Via::Loop => loop_mount(image, attrs),
        Via::Auto => match file_mount(image, Pin::Required, attrs, hook) {
            Err(file_error) if file_backed_refused(&file_error) => {
                loop_mount(image, attrs).map_err(|loop_error| Error::BothWays {
                    file_error: Box::new(file_error),
                    loop_error: Box::new(loop_error),
                })
            }
            other => other,
        },
    }
}

/// Whether a loop device may help: `ENOTBLK` from kernels without file-backed mounts and for files on
/// stacked file systems, `EINVAL` where the file system cannot serve the kernel's reads (tmpfs), and
/// when the path cannot be pinned or is too long for the mount API.
fn file_backed_refused(error: &Error) -> bool {
    let unpinned = matches!(error, Error::Unpinned { .. });
    let kernel = matches!(error, Error::Kernel { .. });
    unpinned
        || kernel
            && matches!(
                error.errno(),
                Some(
                    Errno::NOTBLK
                        | Errno::INVAL
                        | Errno::OPNOTSUPP
                        | Errno::NAMETOOLONG
                        | Errno::NODEV
                        | Errno::ACCESS
                        | Errno::LOOP
                )
            )
}

fn file_mount(image: &Image, pin: Pin, attrs: MountAttrs, hook: &mut dyn FnMut(Step)) -> Result<Lower> {
    let source = Source::File { fd: image.file.as_fd(), path: &image.path, identity: &image.identity };
    let mount = detached_with(source, attrs, pin, hook)?;
    let device = OverlaySource::file_device(image.identity.file());
    Ok(Lower { mount, device, how: "EROFS straight from the file".to_owned(), mends: false })
}

fn loop_mount(image: &Image, attrs: MountAttrs) -> Result<Lower> {
    let device = image.attach_loop()?;
    let path = device.path();
    let source = Source::BlockDevice { fd: device.as_fd(), path: &path };
    let mount = detached_with(source, attrs, Pin::Try, &mut |_| {})?;
    image.unchanged()?;
    let how = format!("EROFS on {}", describe(&device));
    Ok(Lower { mount, device: format!("loop{}", device.number()), how, mends: false })
}

fn verity_mount(
    image: &Image,
    checked: &CheckedImage,
    on_corruption: OnCorruption,
    attrs: MountAttrs,
) -> Result<Lower> {
    let hash_start_block = match checked.hash_offset.checked_rem(BLOCK) {
        Some(0) => checked.hash_offset / BLOCK,
        _ => {
            let (field, need) = ("hash offset", "a multiple of 4096");
            let value = checked.hash_offset.to_string();
            return Err(mkimg_kernel::Error::VerityParameter { field, value, need }.into());
        }
    };
    let loop_device = if image.is_device { None } else { Some(image.attach_loop()?) };
    let below = match &loop_device {
        Some(device) => DevNumber::of(device)?,
        None => DevNumber::of(&image.file)?,
    };
    let target = VerityTarget {
        data_dev: below,
        hash_dev: below,
        data_block_size: 4096,
        hash_block_size: 4096,
        data_blocks: checked.data_blocks,
        // At most 2^52, so no overflow: the superblock's own block comes first.
        hash_start_block: hash_start_block.saturating_add(1),
        algorithm: "sha256".to_owned(),
        root_hash: checked.root_hash.to_vec(),
        salt: checked.salt.bytes().to_vec(),
        on_corruption,
        signature: checked.signature.clone(),
        fec: checked.fec.map(|layout| Fec {
            dev: below,
            blocks: layout.message_blocks(),
            start: layout.start(),
            roots: layout.roots(),
        }),
    };
    let (device, mends) = match VerityDevice::activate(&target) {
        // A kernel may be built without parity; it checks all the same.
        Err(mkimg_kernel::Error::DeviceMapper { errno: Errno::INVAL, .. }) if target.fec.is_some() => {
            (VerityDevice::activate(&VerityTarget { fec: None, ..target })?, false)
        }
        device => (device?, target.fec.is_some()),
    };
    let path = device.path();
    let source = Source::BlockDevice { fd: device.as_fd(), path: &path };
    let mount = detached_with(source, attrs, Pin::Try, &mut |_| {})?;
    let below = if device.shared() {
        "shared with an earlier mount of the same image".to_owned()
    } else {
        match &loop_device {
            Some(device) => format!("over {}", describe(device)),
            None => format!("over {}", image.path.display()),
        }
    };
    let how = format!("EROFS on dm-verity device {}, {below}", device.name());
    let node = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Lower { mount, device: node, how, mends })
}

fn describe(device: &LoopDevice) -> String {
    let io = if device.direct_io() { "direct I/O" } else { "buffered" };
    format!("loop{} ({io})", device.number())
}

fn guarantee(
    policy: VerityPolicy,
    checked: &CheckedImage,
    on_corruption: OnCorruption,
    mends: bool,
) -> String {
    match policy {
        VerityPolicy::Kernel | VerityPolicy::Auto => format!(
            "the kernel checks every block it reads against root hash {}{}; a block that does not match {}{}",
            mkimg_format::hex(&checked.root_hash),
            if checked.signature.is_some() { ", whose signature it has accepted" } else { "" },
            if mends { "is mended from parity, or " } else { "" },
            match on_corruption {
                OnCorruption::Eio => "is an I/O error",
                OnCorruption::Restart => "restarts the machine",
                OnCorruption::Panic => "makes the kernel panic",
            }
        ),
        VerityPolicy::Once => format!(
            "checked once before the mount against root hash {}; later changes of the backing file are not noticed by the kernel",
            mkimg_format::hex(&checked.root_hash)
        ),
        VerityPolicy::Off => {
            "not checked: the content may differ from what was built, now and later".to_owned()
        }
    }
}
