//! SHA-256 of the contents in an image.

use std::collections::HashMap;

use anyhow::{Result, bail};
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, Inode, Layout, Nid};
use sha2::{Digest as _, Sha256};

/// Bytes of files with holes that are hashed: more than a build accepts. They cost an image nothing, but time here.
const SPARSE_TOTAL: u64 = 128 << 30;

/// SHA-256 of contents, each computed once: many names may lead to one content.
#[derive(Default)]
pub(crate) struct Digests {
    known: HashMap<Key, [u8; 32]>,
    /// Bytes of files with holes so far.
    sparse: u64,
}

/// What tells contents apart without reading them: where they are. The seal is not asked, nobody has verified it.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Blocks { start: u32, size: u64 },
    Fragment { offset: u64, size: u64 },
    Inode(Nid),
}

impl Digests {
    /// SHA-256 of the content of a regular file.
    pub(crate) fn of<R: ReadAt>(&mut self, fs: &FileSystem<R>, inode: &Inode) -> Result<[u8; 32]> {
        let key = match inode.layout {
            Layout::Plain { start: Some(start) } => Key::Blocks { start, size: inode.size },
            Layout::Fragment { offset, .. } => Key::Fragment { offset, size: inode.size },
            _ => Key::Inode(inode.nid),
        };
        if let Some(digest) = self.known.get(&key) {
            return Ok(*digest);
        }
        if matches!(inode.layout, Layout::Plain { start: None } | Layout::Chunked { .. }) {
            self.sparse = self.sparse.saturating_add(inode.size);
            if self.sparse > SPARSE_TOTAL {
                bail!("files with holes have more than {SPARSE_TOTAL} bytes in all");
            }
        }
        let mut hasher = Sha256::new();
        fs.for_each_piece(inode, |piece| {
            hasher.update(piece);
            Ok::<_, mkimg_format::Error>(())
        })?;
        let digest = hasher.finalize().into();
        self.known.insert(key, digest);
        Ok(digest)
    }
}
