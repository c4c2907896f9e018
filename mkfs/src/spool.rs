//! Contents on their way from the order of the source to that of a trace.
//!
//! A layer can only be read front to back. So what a trace puts first is collected in a file without a name, as it comes,
//! and taken from there in the order in which it is wanted. What goes in was compared with the first pass by
//! [`crate::copy`]; nobody else can open the file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;

use crate::copy::BUFFER;
use crate::emit::DataSink;

/// Contents one behind the other.
pub(crate) struct Spool {
    file: BufWriter<File>,
    /// Bytes so far.
    length: u64,
    /// Where each content ends.
    ends: Vec<u64>,
}

impl Spool {
    /// Collects in an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(BUFFER, file), length: 0, ends: Vec::new() }
    }

    /// Copies the content that came as number `index`, from 0. What was written must have been flushed.
    pub(crate) fn copy(&self, index: usize, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().ok_or(io::ErrorKind::UnexpectedEof)?;
        while at < end {
            let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..room];
            self.file.get_ref().read_exact_at(piece, at)?;
            to.write_all(piece)?;
            at += room as u64;
        }
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl DataSink for Spool {
    fn end_content(&mut self) -> io::Result<()> {
        self.ends.push(self.length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_out_in_any_order() {
        let contents =
            [vec![b'a'; 3], Vec::new(), vec![b'b'; 2 * BUFFER + 1], vec![b'c'; BUFFER], vec![b'd']];
        let mut spool = Spool::new(tempfile::tempfile().unwrap());
        for content in &contents {
            for piece in content.chunks(1000) {
                spool.write_all(piece).unwrap();
            }
            spool.end_content().unwrap();
        }
        spool.flush().unwrap();
        for index in [4, 0, 2, 1, 3, 2] {
            let mut out = Vec::new();
            spool.copy(index, &mut out, &mut [0; 777]).unwrap();
            assert!(out == contents[index], "{index}");
        }
        assert!(spool.copy(5, &mut Vec::new(), &mut [0; 777]).is_err());
    }
}
