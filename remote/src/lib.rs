//! Reads ranges of a file on a web server, or of a blob in a registry.
//!
//! [`Remote`] is [`ReadAt`](mkimg_format::ReadAt): whoever reads blocks of an image by position can read them from there. It asks for no
//! more than what is wanted, and trusts nothing that comes back: whether bytes are the right ones, the caller has to know, from
//! a hash tree. What a server can do is withhold them, so everything it sends is bounded in length and in time.
//!
//! | module | |
//! |---|---|
//! | `place` | where it is: a URL, or a name in a registry |
//! | `http` | requests, with limits and retries |
//! | `range` | what an answer to a request for a range must look like |
//! | `registry` | from a name in a registry to its blob, and the tokens that it takes |
//! | `credentials` | user names and passwords that other tools have stored |
//! | `remote` | the whole as one that can be read at offsets |
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects)]

mod credentials;
mod error;
mod http;
mod place;
mod range;
mod registry;
mod remote;

pub use error::Error;
pub use http::Limits;
pub use place::{BadPlace, Place};
pub use remote::{Remote, Traffic};
