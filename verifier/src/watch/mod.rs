//! Watching a tree or a mount: what changes is compared anew, and nothing else.
//!
//! [`Watch::start`] marks every directory (see [`mkimg_kernel::fanotify`] for why each of them), and only then is the
//! tree audited for the first time, so what changes meanwhile is looked at twice rather than never. [`Watch::run`]
//! waits. What comes within 100 ms is looked at together; after an audit that took longer, the next one waits as long,
//! so that a file that never rests takes half the machine's attention at most.
//!
//! | module | question |
//! |---|---|
//! | `run` | when is what looked at, and what is told of it? |
//! | `subject` | how is it audited? |
//! | `marks` | which directories are watched, and what is said of them? |
//! | `places` | where is the directory that an event speaks of? |
//! | `pending` | what has happened and was not looked at yet? |
//! | `aliases` | by which other names has it changed? |
//! | `known` | which differences are news? |
//!
//! Where something may have been missed, everything is looked at: when the queue of events overflows, when an event
//! speaks of an unknown directory, when more than 16384 paths change at once, when something is mounted or unmounted in
//! the tree, and when the image file changes. Each is a [`Notice::Full`]. The first two make the whole watch
//! incomplete: what came and went in between was never seen.
//!
//! Through a plain mount of an image nothing can change, so no directory of it is marked: its file is, and the list of
//! mounts is.
//!
//! Not seen at all: writes through a mapping, changes of a file by a name outside of the tree, and changes of an upper
//! directory behind the back of its overlay.
//!
//! The tree is opened anew each time, so nothing keeps it from being unmounted. Memory: for each directory some 200
//! bytes here and the inode that its mark keeps in the kernel; at most 32 MiB for what is known to differ.

mod aliases;
mod known;
mod marks;
mod pending;
mod places;
mod run;
mod subject;

pub use pending::Cause;
pub use run::{Error, Notice, Outcome, Tell, Watch};
pub use subject::{Below, Mount, Subject, Tree};
