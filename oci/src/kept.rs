//! Layers that stay in memory as they were inflated.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::chunk::Chunk;
use crate::decode::BUFFER;

/// Memory in which layers may stay inflated from the first pass to the second; by default none.
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

    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// The inflated tar of a layer whose first pass went well; see [`LayerReader::finish_kept`](crate::LayerReader::finish_kept).
pub struct Kept {
    chunks: Vec<Chunk>,
    room: Room,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("chunks", &self.chunks.len()).finish_non_exhaustive()
    }
}

impl Kept {
    pub(crate) fn new(room: Room) -> Kept {
        Kept { chunks: Vec::new(), room }
    }

    /// Keeps one more chunk, which takes a whole buffer whatever is in it; `None` if there is no room.
    pub(crate) fn with(mut self, chunk: Chunk) -> Option<Kept> {
        self.room.take().then(|| self.chunks.push(chunk))?;
        Some(self)
    }

    /// The tar from front to back.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.chunks.iter().cloned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.chunks.len(), Ordering::Relaxed);
    }
}
