//! Mounts sealed images: from a checked file to a mounted tree, through the kernel's own interfaces.
//!
//! [`mount()`] opens the image once, has it checked by its caller, and mounts it: over dm-verity, straight
//! from the file, or over a loop device, and with a writable overlay on top if one is asked for. What
//! comes in between (loop devices, mapped devices, detached mounts) is bound to open descriptors and
//! marked for removal at its last close, so every failure path cleans up by closing what it holds.
//! No state is kept in files: [`mkimg_kernel::mounts`] and [`umount()`] read what is there from the kernel.
//!
//! Nothing here runs another program, and nothing prints.
#![forbid(unsafe_code)]

mod check;
mod check_volume;
pub mod doctor;
mod error;
pub mod mount;
pub mod options;
pub mod overlay;
mod pin;
pub mod policy;
pub mod record;
mod tiny_image;
pub mod umount;

pub use check::{check_image, check_trusted};
pub use check_volume::check_volume;
pub use error::{Error, Result};
pub use mount::{Identity, MountAttrs, Source, mount_erofs};
pub use policy::{CheckedImage, MountRequest, Mounted, VerityPolicy, Via, mount};
pub use record::{Recorded, Recorder, mount_and_record};
pub use umount::{UmountOptions, Unmounted, umount};

#[cfg(test)]
mod kernel_tests;
