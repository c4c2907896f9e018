//! Buffers that several threads read at once, and that are used again when the last of them is done.

use std::ops::Deref;
use std::sync::Arc;

/// Bytes of a stream. A clone shares them.
#[derive(Clone, Default)]
pub(crate) struct Chunk {
    buffer: Arc<[u8]>,
    from: usize,
    to: usize,
}

impl Chunk {
    /// Drops bytes from the front.
    pub(crate) fn consume(&mut self, n: usize) {
        self.from = self.from.saturating_add(n).min(self.to);
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }
}

/// Buffers that a ring remembers. What is kept longer than so many others is not coming back soon.
const REMEMBERED: usize = 64;

/// Buffers of one size. As many are made as there are chunks alive at once.
pub(crate) struct Ring {
    size: usize,
    buffers: Vec<Arc<[u8]>>,
}

impl Ring {
    pub(crate) fn new(size: usize) -> Ring {
        Ring { size, buffers: Vec::new() }
    }

    /// A chunk of what `fill` writes to the front of a buffer; it says how many bytes. The rest of the buffer is that
    /// of an older chunk.
    pub(crate) fn fill<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Chunk, E> {
        let free = self.buffers.iter_mut().position(|buffer| Arc::get_mut(buffer).is_some());
        let index = free.unwrap_or_else(|| {
            if self.buffers.len() == REMEMBERED {
                self.buffers.remove(0);
            }
            self.buffers.push(Arc::from(vec![0; self.size]));
            self.buffers.len() - 1
        });
        // Nobody else has it: `get_mut` has just said so, or it is new.
        let buffer = &mut self.buffers[index];
        let to = match Arc::get_mut(buffer) {
            Some(bytes) => fill(bytes)?.min(bytes.len()),
            None => 0,
        };
        Ok(Chunk { buffer: Arc::clone(buffer), from: 0, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(ring: &mut Ring, byte: u8) -> Chunk {
        let filled: Result<Chunk, ()> = ring.fill(|buffer| {
            buffer[..3].fill(byte);
            Ok(3)
        });
        filled.unwrap_or_default()
    }

    /// Chunks that stay alive cost neither time nor memory when the ring is searched.
    #[test]
    fn old_buffers_are_forgotten() {
        let mut ring = Ring::new(8);
        let kept: Vec<Chunk> = (0..200).map(|byte| chunk(&mut ring, byte)).collect();
        assert_eq!(ring.buffers.len(), REMEMBERED);
        assert!(kept.iter().zip(0..).all(|(chunk, byte)| chunk[..] == [byte; 3]));
    }

    #[test]
    fn a_buffer_is_used_again_when_its_last_chunk_is_gone() {
        let mut ring = Ring::new(8);
        let first = chunk(&mut ring, 1);
        let shared = first.clone();
        let mut second = chunk(&mut ring, 2);
        drop(first);
        let third = chunk(&mut ring, 3);
        assert_eq!((&shared[..], &second[..], &third[..]), (&[1; 3][..], &[2; 3][..], &[3; 3][..]));
        assert_eq!(ring.buffers.len(), 3);
        second.consume(2);
        assert_eq!(second[..], [2]);
        second.consume(usize::MAX);
        assert!(second.is_empty());
        drop((shared, third));
        let (_fourth, _fifth) = (chunk(&mut ring, 4), chunk(&mut ring, 5));
        assert_eq!(ring.buffers.len(), 3);
        assert_eq!(ring.fill(|_| Err::<usize, _>("failed")).err(), Some("failed"));
    }
}
