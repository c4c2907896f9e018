//! Audits: is it still what was shipped?
//!
//! | of | by | looks at |
//! |---|---|---|
//! | an image file, or a detached seal | [`verify_image`] | every byte of it |
//! | an image of another writer, with the tree of `veritysetup` | [`verify_volume`] | every byte of both |
//! | a tree that was extracted | [`tree::audit_tree`] | every name, attribute and content |
//! | a live mount, or an overlay over one | [`live::audit_mount`] | what processes see, the bytes below, what the kernel knows |
//! | either of these, as it changes | [`watch::Watch`] | what the kernel says has changed |
//! | two images | [`diff::diff_images`] | their sealed records |
//!
//! An audit never stops at the first thing that it finds. What is wrong is data: a [`Finding`] about bytes of an image, a
//! [`tree::Difference`] about a path. An error means that there was nothing to audit.
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod attributes;
pub mod diff;
mod difference;
mod image;
pub mod live;
pub mod tree;
pub mod watch;

pub use image::{
    Error, FINDINGS_MAX, Finding, Options, PATHS_MAX, Region, Report, verify_image, verify_volume,
};
