//! The content of one file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{Extent, FileSystem, Inode};

use crate::error::{Error, Result, host, image};

/// Bytes that are read and written at once.
const BUFFER: usize = 1 << 20;

/// Copies content; holes stay holes.
pub(crate) struct Copier<'a> {
    data: Vec<u8>,
    zeros: Vec<u8>,
    progress: Option<&'a dyn Fn(u64)>,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(progress: Option<&'a dyn Fn(u64)>) -> Self {
        Self { data: vec![0; BUFFER], zeros: vec![0; BUFFER], progress }
    }

    /// Writes the content of `inode` to the empty `file`, and compares its BLAKE3 digest.
    pub(crate) fn copy<R: ReadAt>(
        &mut self,
        fs: &FileSystem<R>,
        inode: &Inode,
        path: &[u8],
        file: &File,
        sealed: Option<[u8; 32]>,
    ) -> Result<()> {
        let mut hasher = sealed.map(|_| blake3::Hasher::new());
        // Where the file ends so far: behind the last data, not behind the last hole.
        let mut written = 0_u64;
        let mut reached = 0_u64;
        for extent in fs.extents(inode) {
            // A compressed piece is no longer than the buffer, so each is taken out once.
            let Extent { logical, length, physical, .. } = extent.map_err(image(path))?;
            let mut done = 0_u64;
            while done < length {
                let left = length.saturating_sub(done);
                if physical.is_none() && hasher.is_none() {
                    self.advance(left);
                    break;
                }
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
                let position = logical.saturating_add(done);
                if physical.is_some() {
                    let piece = self.data.get_mut(..room).unwrap_or_default();
                    let count = fs.read_file(inode, position, piece).map_err(image(path))?;
                    let piece =
                        piece.get(..count).filter(|piece| piece.len() == room).ok_or_else(|| short(path))?;
                    file.write_all_at(piece, position).map_err(host(path, "cannot write content"))?;
                    written = position.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
                }
                if let Some(hasher) = &mut hasher {
                    let from = if physical.is_some() { &self.data } else { &self.zeros };
                    hasher.update(from.get(..room).unwrap_or_default());
                }
                let room = u64::try_from(room).unwrap_or(u64::MAX);
                self.advance(room);
                done = done.saturating_add(room);
            }
            reached = logical.saturating_add(length);
        }
        if reached != inode.size {
            return Err(short(path));
        }
        if written != inode.size {
            file.set_len(inode.size).map_err(host(path, "cannot set size"))?;
        }
        if let Some((hasher, sealed)) = hasher.zip(sealed) {
            let found = *hasher.finalize().as_bytes();
            if found != sealed {
                return Err(Error::Digest { path: path.to_vec(), found, sealed });
            }
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        if let Some(progress) = self.progress {
            progress(bytes);
        }
    }
}

/// The map of a file that ends before the file does.
fn short(path: &[u8]) -> Error {
    host(path, "cannot read content")(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))
}
