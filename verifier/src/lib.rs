//! Audits: is it still what was shipped?
//!
//! | of | by | looks at |
//! |---|---|---|
//! | an image file, or a detached seal | [`verify_image`] | every byte of it |
//! | a tree that was extracted | [`tree::audit_tree`] | every name, attribute and content |
//! | a live mount, or an overlay over one | [`live::audit_mount`] | what processes see, the bytes below, what the kernel knows |
//! | two images | [`diff::diff_images`] | their sealed records |
//!
//! An audit never stops at the first thing that it finds. What is wrong is data: a [`Finding`] about bytes of an image, a
//! [`tree::Difference`] about a path. An error means that there was nothing to audit.
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

mod attributes;
/// Differences of two images.
pub mod diff;
mod difference;
mod image;
/// Audits of live mounts.
pub mod live;
/// Audits of extracted trees.
pub mod tree;

pub use image::{Error, FINDINGS_MAX, Finding, Options, PATHS_MAX, Region, Report, verify_image};
