//! What is in an image, and what its source wasted.
//!
//! [`survey()`] walks the image once and reads its seal; the [`Report`] that comes of it is data. [`html::write`] makes a
//! page of it, other forms are up to the caller.
//!
//! | module | noun |
//! |---|---|
//! | [`layers`], [`deleted`] | what each layer of the source ships, and what of that is not to be seen |
//! | [`tree`] | bytes by directory |
//! | [`duplicates`] | contents that several files share |
//! | [`kinds`] | bytes by kind of content |
//! | [`stored`] | what contents take in the image |
//! | [`security`] | files that give power, or can be changed by anybody |
//! | [`treemap`] | a picture of a directory as rectangles |
//! | [`html`] | the page |
//!
//! The image is taken at its word: whether it keeps to its seal, an audit says. It may be hostile all the same. Memory
//! is bounded: lists hold the largest of a given number ([`Options::top`]), the tree holds [`tree::NODES_MAX`] nodes,
//! and what is known of each content is one number, see [`duplicates::CONTENTS_MAX`] and [`numbers::NUMBERS_MAX`].
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::arithmetic_side_effects))]

pub mod deleted;
pub mod duplicates;
mod history;
pub mod html;
pub mod kinds;
pub mod layers;
pub mod numbers;
mod secrets;
pub mod security;
pub mod stored;
mod survey;
mod top;
pub mod tree;
pub mod treemap;
pub mod words;

pub use survey::{File, Options, Report, Totals, survey};
