//! Files that a later layer deletes, and that the source ships all the same.

use std::cmp::Reverse;

use mkimg_format::seal::Seal;
use mkimg_format::{ReadAt, Result};

use crate::secrets::looks_secret;
use crate::top::Top;

/// A file that is deleted, but still shipped. Layers count from 1, the lowest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeletedFile {
    /// Whether its name is one that secrets have.
    pub secret: bool,
    /// Length of its content.
    pub bytes: u64,
    /// Its path, for an order: a smaller one is greater.
    path: Reverse<Vec<u8>>,
    /// Layer that ships it.
    pub layer: u64,
    /// Layer that deletes it.
    pub deleted_by: u64,
}

impl DeletedFile {
    /// Absolute path that it had.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path.0
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Deleted {
    /// How many there are.
    pub files: u64,
    /// Their content in bytes.
    pub bytes: u64,
    /// How many have names that secrets have.
    pub secrets: u64,
    /// Those first, and then the largest.
    pub list: Vec<DeletedFile>,
}

/// Reads what the seal records, and keeps `room` of it.
pub(crate) fn read<R: ReadAt>(seal: &Seal<R>, room: usize) -> Result<Deleted> {
    let mut deleted = Deleted::default();
    let mut top = Top::new(room);
    for record in seal.deleted() {
        let record = record?;
        let path = seal.deleted_path(&record)?;
        let file = DeletedFile {
            secret: looks_secret(&path),
            bytes: record.size.get(),
            path: Reverse(path),
            layer: u64::from(record.layer.get()).saturating_add(1),
            deleted_by: u64::from(record.deleted_by.get()).saturating_add(1),
        };
        deleted.files = deleted.files.saturating_add(1);
        deleted.bytes = deleted.bytes.saturating_add(file.bytes);
        deleted.secrets = deleted.secrets.saturating_add(file.secret.into());
        top.offer(file);
    }
    deleted.list = top.into_sorted();
    Ok(deleted)
}
