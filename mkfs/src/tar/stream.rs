//! The uncompressed archive as a stream with a position.

use std::io::{self, ErrorKind, Read};

/// Reads ahead in large pieces, so that headers and small files cost no call of the inner reader.
pub(super) struct Stream<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    offset: u64,
}

impl<R: Read> Stream<R> {
    const BUFFER: usize = 256 * 1024;

    pub(super) fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; Self::BUFFER].into_boxed_slice(), start: 0, end: 0, offset: 0 }
    }

    /// Bytes handed out or skipped so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// Reads at least one byte unless the stream has ended or `buf` is empty. Large reads go past the buffer.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let count = if self.start < self.end {
            self.take(buf)
        } else if buf.len() >= self.buffer.len() / 2 {
            retry(&mut self.inner, buf)?
        } else {
            self.fill()?;
            self.take(buf)
        };
        self.advance(count);
        Ok(count)
    }

    /// Fills `buf`; fewer bytes mean the end of the stream.
    pub(super) fn read_full(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read(rest)? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Skips `count` bytes; says how many there were.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<u64> {
        let mut done = 0;
        while done < count {
            if self.start == self.end && self.fill()? == 0 {
                break;
            }
            let piece = usize::try_from(count - done).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += piece;
            self.advance(piece);
            done += u64::try_from(piece).unwrap_or(u64::MAX);
        }
        Ok(done)
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let ready = &self.buffer[self.start..self.end];
        let count = ready.len().min(buf.len());
        buf[..count].copy_from_slice(&ready[..count]);
        self.start += count;
        count
    }

    /// Refills the empty buffer. It is left empty when the inner reader fails.
    fn fill(&mut self) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = retry(&mut self.inner, &mut self.buffer)?;
        Ok(self.end)
    }

    fn advance(&mut self, count: usize) {
        self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

fn retry(inner: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match inner.read(buf) {
            Ok(count) if count > buf.len() => {
                return Err(io::Error::other("reader claims more bytes than were asked for"));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
