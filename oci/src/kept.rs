//! Layers that stay inflated from the first pass to the second: in memory, or in a file.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunk::Chunk;
use crate::decode::BUFFER;
use crate::store::Extent;

/// Room in which layers may stay inflated, in memory or on a disk; by default none.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Free buffers.
    left: Arc<AtomicUsize>,
}

impl Room {
    /// Room for `bytes`.
    pub fn new(bytes: u64) -> Room {
        let buffers = usize::try_from(bytes).unwrap_or(usize::MAX) / BUFFER;
        Room { left: Arc::new(AtomicUsize::new(buffers)) }
    }

    /// Whether so many bytes could be in it.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        usize::try_from(bytes).is_ok_and(|bytes| bytes.div_ceil(BUFFER) <= self.left.load(Ordering::Relaxed))
    }
}

/// What somebody has of a room, until it goes.
struct Share {
    room: Room,
    buffers: usize,
}

impl Share {
    fn of(room: &Room) -> Share {
        Share { room: room.clone(), buffers: 0 }
    }

    /// Takes one more buffer; `None` if there is none.
    fn grow(&mut self) -> Option<()> {
        let less = |left: usize| left.checked_sub(1);
        self.room.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        self.buffers += 1;
        Some(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.buffers, Ordering::Relaxed);
    }
}

/// The inflated tar of a layer whose first pass went well; see [`LayerReader::finish_kept`](crate::LayerReader::finish_kept).
pub struct Kept {
    pub(crate) tar: Tar,
    share: Share,
}

/// Where it is.
#[derive(Clone)]
pub(crate) enum Tar {
    Memory(Vec<Chunk>),
    File(Extent),
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("buffers", &self.share.buffers).finish_non_exhaustive()
    }
}

impl Kept {
    /// Nothing so far, in memory.
    pub(crate) fn new(room: &Room) -> Kept {
        Kept { tar: Tar::Memory(Vec::new()), share: Share::of(room) }
    }

    /// Keeps one more chunk, which takes a whole buffer whatever is in it; `None` if there is no room.
    pub(crate) fn with(mut self, chunk: Chunk) -> Option<Kept> {
        let Tar::Memory(chunks) = &mut self.tar else { return None };
        self.share.grow()?;
        chunks.push(chunk);
        Some(self)
    }

    /// Whether it takes room on a disk, not in memory.
    pub fn is_file(&self) -> bool {
        matches!(self.tar, Tar::File(_))
    }
}

/// A file that a tar is written to while it is inflated. Whoever writes it cannot know yet whether it is the right one.
pub(crate) struct Scratch {
    file: File,
    /// Bytes so far.
    length: u64,
    share: Share,
}

impl Scratch {
    /// Writes to an empty file.
    pub(crate) fn new(file: File, room: &Room) -> Scratch {
        Scratch { file, length: 0, share: Share::of(room) }
    }

    /// Writes what comes next; `None` if there is no room, on the disk or of what was granted. A tar that is not kept can
    /// be inflated again: whatever goes wrong here is no error.
    pub(crate) fn with(mut self, bytes: &[u8]) -> Option<Scratch> {
        self.share.grow()?;
        self.file.write_all_at(bytes, self.length).ok()?;
        self.length = self.length.checked_add(u64::try_from(bytes.len()).ok()?)?;
        Some(self)
    }

    /// All of it is there, and was right.
    pub(crate) fn keep(self) -> Kept {
        let extent = Extent { file: Arc::new(self.file), offset: 0, len: self.length };
        Kept { tar: Tar::File(extent), share: self.share }
    }
}
