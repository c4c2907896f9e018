//! What Linux says about images, and what it does for them: the kernel's own interfaces, each behind a safe call.
//!
//! | module | interface |
//! |---|---|
//! | [`mountinfo`] | the list of mounts |
//! | [`mounts`] | which of them are images, and what lies below them |
//! | [`overlay_layers`] | which directories an overlay is made of |
//! | [`overlay_source`] | how an overlay names the image below it |
//! | [`loop_device`] | block devices over files |
//! | [`dm`] | dm-verity through device-mapper |
//! | `keyring` | what dm-verity takes by the name of a key |
//! | [`fanotify`] | what changes in directories, as it happens |
//! | [`opens`] | which files of an image are opened, as it happens |
//! | [`handle`] | names of inodes that events bear |
//! | [`signals`] | the wish to end |
//! | [`fsverity`] | digests of files that the kernel vouches for |
//!
//! Mounting itself is what `mkimg-mount` does; audits of what is mounted are made by `mkimg-verify`. Both ask here, so
//! they cannot disagree about what is there. Nothing here runs another program, prints, or keeps state.
#![deny(unsafe_code)]

pub mod dm;
pub mod error;
pub mod fanotify;
pub mod fsverity;
pub mod handle;
pub mod image_file;
mod ioctl;
mod keyring;
pub mod loop_device;
pub mod mountinfo;
pub mod mounts;
pub mod opens;
pub mod overlay_layers;
pub mod overlay_source;
pub mod signals;

pub use error::{Error, Result};
