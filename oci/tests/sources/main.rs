//! Images written by the tests themselves, opened through the public interface.
#![allow(clippy::unwrap_used)]

mod crews;
mod docker_archives;
mod documents;
mod layers;
mod peers;
mod specs;
mod support;
