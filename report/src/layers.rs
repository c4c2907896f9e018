//! What each layer of the source ships, and what becomes of it.

use mkimg_format::seal::{LayerRecord, Seal};
use mkimg_format::{ReadAt, Result};

use crate::history;

/// Bytes of regular files, and how many these are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Content in bytes.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
}

impl Amount {
    /// Both sums.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }
}

/// What becomes of what is shipped: `shipped = visible + shadowed + deleted`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// What a layer holds.
    pub shipped: Amount,
    /// Of that, what is in the image.
    pub visible: Amount,
    /// Of that, what a later entry replaces.
    pub shadowed: Amount,
    /// Of that, what a later layer deletes.
    pub deleted: Amount,
}

impl Counts {
    /// Both sums.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            shipped: self.shipped.plus(other.shipped),
            visible: self.visible.plus(other.visible),
            shadowed: self.shadowed.plus(other.shadowed),
            deleted: self.deleted.plus(other.deleted),
        }
    }

    /// What is shipped in vain.
    #[must_use]
    pub const fn wasted(self) -> Amount {
        self.shadowed.plus(self.deleted)
    }
}

impl From<&LayerRecord> for Counts {
    fn from(record: &LayerRecord) -> Self {
        Self {
            shipped: Amount { bytes: record.shipped.get(), files: record.shipped_files.get() },
            visible: Amount { bytes: record.visible.get(), files: record.visible_files.get() },
            shadowed: Amount { bytes: record.shadowed.get(), files: record.shadowed_files.get() },
            deleted: Amount { bytes: record.deleted.get(), files: record.deleted_files.get() },
        }
    }
}

/// A layer of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// Digest of its blob.
    pub digest: String,
    /// Length of its blob in bytes.
    pub blob: u64,
    /// The command that made it, as the configuration of the source tells; any text.
    pub command: Option<String>,
    /// What it ships, and what becomes of it.
    pub counts: Counts,
}

/// The layers, lowest first; none of a directory.
///
/// There are no more than a statement of [`mkimg_format::seal::DOCUMENT_MAX`] bytes can name.
pub(crate) fn read<R: ReadAt>(seal: &Seal<R>) -> Result<Vec<Layer>> {
    let statement = seal.statement()?;
    let commands = history::commands(seal, statement.layers.len())?;
    let mut layers = Vec::with_capacity(statement.layers.len());
    for ((named, record), command) in statement.layers.into_iter().zip(seal.layers()).zip(commands) {
        let counts = Counts::from(&record?);
        layers.push(Layer { digest: named.digest, blob: named.size, command, counts });
    }
    Ok(layers)
}
