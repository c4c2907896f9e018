//! Images in the containers and words of other tools.
//!
//! An image is one file that says everything about itself. Other tools want the same in other places: systemd looks for
//! files beside an image, containerd reads JSON, people paste lines into a shell. Nothing here changes an image, and
//! nothing that is written here is ever read by mkimg again: a sidecar is for others, and says nothing about whom
//! to trust.
//!
//! | module | |
//! |---|---|
//! | [`image`] | what every export starts from |
//! | [`parameters`] | what has to be known of the tree |
//! | [`sidecar`] | files beside the image |
//! | [`lines`] | lines to paste |
//! | [`ddi`] | the disk that systemd reads |
//! | [`consumer`] | what systemd asks of the tree in it |
//! | [`draft_oci`] | an OCI image layout, as far as drafts say |
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod consumer;
pub mod ddi;
pub mod draft_oci;
mod error;
pub mod image;
pub mod lines;
pub mod parameters;
mod shell;
pub mod sidecar;

pub use consumer::Consumer;
pub use ddi::Ddi;
pub use error::{Error, Result};
pub use image::Image;
pub use parameters::Parameters;
pub use sidecar::Sidecar;
