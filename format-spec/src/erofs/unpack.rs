//! Taking compressed pieces out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::algorithm::Decoder;
use super::{Compressed, FileSystem};
use crate::{Error, Part, Problem, ReadAt, Result};

/// Takes compressed pieces out, with what is kept from one to the next.
#[derive(Default)]
pub(super) struct Unpacker {
    decoder: Decoder,
    packed: Vec<u8>,
}

impl Unpacker {
    /// Fills `plain` with the piece at byte `start` of the image.
    pub(super) fn unpack<R: ReadAt>(
        &mut self,
        fs: &FileSystem<R>,
        start: u64,
        compressed: Compressed,
        plain: &mut [u8],
    ) -> Result<()> {
        let Compressed { algorithm, length, .. } = compressed;
        // No longer than PIECE_MAX.
        self.packed.resize(usize::try_from(length).unwrap_or(0), 0);
        fs.read(Part::Data, &mut self.packed, start)?;
        let padding = self.packed.iter().position(|byte| *byte != 0).unwrap_or(self.packed.len());
        let stream = self.packed.get(padding..).unwrap_or_default();
        if self.decoder.decode(algorithm, stream, plain) {
            return Ok(());
        }
        let length = u64::try_from(plain.len()).unwrap_or(u64::MAX);
        Err(Error::corrupt(Part::Data, start, Problem::Undecodable { algorithm, length }))
    }
}

/// Pieces that are kept. Files stand in the tree much as they stand in the packed inode, but not quite.
const KEPT: usize = 8;

/// A piece at its place in the image, and how it is compressed.
type Piece = (u64, Compressed, Arc<[u8]>);

/// The pieces of which a part was wanted last, the latest in front: files that are fragments of one piece are read one
/// after the other, and the piece is taken out once.
///
/// Up to 8 pieces of at most 1 MiB, 384 KiB in images of mkimg.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Piece>>);

impl Recent {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// All that the piece at byte `start` of the image gives.
    pub(super) fn piece<R: ReadAt>(
        &self,
        fs: &FileSystem<R>,
        unpacker: &mut Unpacker,
        start: u64,
        compressed: Compressed,
    ) -> Result<Arc<[u8]>> {
        let compressed = Compressed { skip: 0, ..compressed };
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut pieces = lock();
            let known = |piece: &Piece| piece.0 == start && piece.1 == compressed;
            if let Some(piece) = pieces.iter().position(known).and_then(|index| pieces.remove(index)) {
                let plain = Arc::clone(&piece.2);
                pieces.push_front(piece);
                return Ok(plain);
            }
        }
        // Others may read meanwhile, even take out the same one.
        let mut plain = vec![0; usize::try_from(compressed.whole).unwrap_or(0)];
        unpacker.unpack(fs, start, compressed, &mut plain)?;
        let plain: Arc<[u8]> = plain.into();
        let mut pieces = lock();
        pieces.truncate(KEPT.saturating_sub(1));
        pieces.push_front((start, compressed, Arc::clone(&plain)));
        Ok(plain)
    }
}
