//! Upper bounds on what a source may ask for.

/// Bounds that hold while an image is opened and read. Numbers in the source are compared with these before anything is
/// allocated or looped over by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one JSON document: `index.json`, index, manifest, configuration, `manifest.json`.
    pub json_bytes: u64,
    /// Bytes of one layer once it is uncompressed.
    pub layer_bytes: u64,
    /// Indexes within indexes, `index.json` not counted.
    pub index_depth: u32,
    /// JSON documents read while an image is chosen.
    pub documents: u32,
    /// Bytes of all these documents together, so that a wide layout cannot fill the memory with descriptors.
    pub documents_bytes: u64,
    /// Entries of an outer archive, of whatever type.
    pub archive_members: u32,
    /// Bytes of all member names of an outer archive together.
    pub archive_name_bytes: u64,
    /// Links followed from one member of an outer archive to another.
    pub archive_links: u32,
    /// Base-2 logarithm of the largest zstd window.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            json_bytes: 4 << 20,
            layer_bytes: 256 << 30,
            index_depth: 8,
            documents: 1000,
            documents_bytes: 16 << 20,
            archive_members: 100_000,
            archive_name_bytes: 16 << 20,
            archive_links: 16,
            zstd_window_log: 27,
        }
    }
}
