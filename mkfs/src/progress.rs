//! How far a build is.

/// Stages of a build, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Layers are read and checked; bytes count compressed input.
    Scan,
    /// File content is copied; bytes count output.
    Copy,
    /// Parity is computed; bytes count what it protects.
    Parity,
    /// The image is on its way to the disk.
    Sync,
}

/// Told how a build goes on. Called from several threads.
pub trait Progress: Sync {
    /// A stage begins that will take about `total` bytes; 0 when unknown.
    fn begin(&self, stage: Stage, total: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: u64) {}
}
