//! The names of one directory of the tree.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::RawDir;
use rustix::io::Errno;

/// Bytes of names and their places that one directory may have.
const NAMES_MAX: usize = 64 << 20;

/// Bytes of directory that are read at once.
const BUFFER: usize = 32 << 10;

/// The names of a directory, sorted bytewise, in one piece of memory.
#[derive(Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    start: u32,
    /// Names have at most 255 bytes, on any file system of Linux.
    length: u16,
}

impl Place {
    fn range(self) -> Range<usize> {
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        start..start.saturating_add(self.length.into())
    }
}

impl Names {
    /// Reads all names of a directory but `.` and `..`.
    ///
    /// `Errno::FBIG` (EFBIG) stands for more than can be held.
    pub(crate) fn read(&mut self, dir: &OwnedFd) -> rustix::io::Result<()> {
        self.bytes.clear();
        self.places.clear();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::FBIG)?;
            let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            self.bytes.extend_from_slice(name);
            self.places.push(Place { start, length });
            let held = self.places.len().saturating_mul(size_of::<Place>()).saturating_add(self.bytes.len());
            if held > NAMES_MAX {
                return Err(Errno::FBIG);
            }
        }
        let bytes = &self.bytes;
        let name = |place: &Place| bytes.get(place.range()).unwrap_or_default();
        self.places.sort_unstable_by(|one, other| name(one).cmp(name(other)));
        // A directory that changes while it is read may show a name twice.
        self.places.dedup_by(|one, other| name(one) == name(other));
        Ok(())
    }

    /// Name number `index`; `None` behind the last.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.places.get(index)?.range())
    }
}
