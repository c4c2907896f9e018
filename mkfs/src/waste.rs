//! What each layer ships, and what becomes of it.

use crate::tree::{Inode, Node};

/// Bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub bytes: u64,
    pub files: u64,
}

impl Amount {
    pub(crate) const fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files = self.files.saturating_add(1);
    }

    const fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), files: self.files.saturating_sub(other.files) }
    }
}

/// Regular files of one layer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LayerWaste {
    pub shipped: Amount,
    /// Replaced by a later entry.
    pub shadowed: Amount,
    /// Hidden by a whiteout or opaque marker.
    pub deleted: Amount,
}

impl LayerWaste {
    /// What is left in the image.
    pub(crate) const fn visible(&self) -> Amount {
        self.shipped.less(self.shadowed).less(self.deleted)
    }
}

/// A file that is deleted by a later layer, but still ships.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub path: Box<[u8]>,
    pub size: u64,
    /// Layer that ships it.
    pub layer: u32,
    pub deleted_by: u32,
}

/// Why an inode lost its last name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cause {
    Replaced,
    /// By a marker in this layer.
    Deleted(u32),
}

/// Bytes of deleted paths that are kept in any case, and for each of them.
///
/// Enough for every real image. A few short entries behind a link to a deep directory could make gigabytes.
const PATHS_BASE: u64 = 16 << 20;
const PATHS_EACH: u64 = 100;

/// The books of all layers.
#[derive(Debug, Default)]
pub(crate) struct Waste {
    pub layers: Vec<LayerWaste>,
    pub deleted: Vec<Deleted>,
    /// Deleted files that are counted, but not listed.
    pub unlisted: u64,
    path_bytes: u64,
}

impl Waste {
    /// Enters an inode that is gone; `size` is that of its content.
    pub(crate) fn gone(&mut self, inode: &Inode, size: u64, path: &[u8], cause: Cause) {
        if !matches!(inode.node, Node::File(_)) {
            return;
        }
        let Some(layer) = self.layers.get_mut(inode.layer as usize) else { return };
        match cause {
            Cause::Replaced => layer.shadowed.add(size),
            Cause::Deleted(by) => {
                layer.deleted.add(size);
                let length = path.len() as u64;
                if self.path_bytes + length > PATHS_BASE + PATHS_EACH * self.deleted.len() as u64 {
                    self.unlisted += 1;
                    return;
                }
                self.path_bytes += length;
                self.deleted.push(Deleted { path: path.into(), size, layer: inode.layer, deleted_by: by });
            }
        }
    }
}
