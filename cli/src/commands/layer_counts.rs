//! What a layer of the source ships, and what becomes of it, as JSON has it.

use mkimg_report::layers::Counts;
use serde::Serialize;

/// Fields of a layer, wherever one is printed.
#[derive(Serialize)]
pub(super) struct LayerCounts {
    pub shipped_bytes: u64,
    pub visible_bytes: u64,
    pub shadowed_bytes: u64,
    pub deleted_bytes: u64,
    shipped_files: u64,
    visible_files: u64,
    shadowed_files: u64,
    deleted_files: u64,
}

impl From<Counts> for LayerCounts {
    fn from(counts: Counts) -> Self {
        Self {
            shipped_bytes: counts.shipped.bytes,
            visible_bytes: counts.visible.bytes,
            shadowed_bytes: counts.shadowed.bytes,
            deleted_bytes: counts.deleted.bytes,
            shipped_files: counts.shipped.files,
            visible_files: counts.visible.files,
            shadowed_files: counts.shadowed.files,
            deleted_files: counts.deleted.files,
        }
    }
}
