//! Images made by the builder, extracted, and compared with what they were made from.
//!
//! Tests that need root, a tool or a feature of the file system say `skipped: REASON` where it is missing.
#![allow(clippy::unwrap_used)]

mod hostile;
mod round_trip;
mod snapshot;
mod support;
mod unprivileged;
