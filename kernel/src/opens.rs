//! Which files of an EROFS file system are opened, as it happens.
//!
//! fanotify(7) is told of every open by every process, through any mount of the file system, in any mount namespace. A
//! program that is started, a library that is mapped and a file that is read are all opened first. Marked is the file
//! system itself, and the events bear file handles, not descriptors: nothing here keeps it from being unmounted.
//!
//! The handle of an EROFS inode holds its number, which is its place in the image. Tried on Linux 6.18: straight from
//! a file and over a loop device; below an overlay the opens of the overlay are seen as well, as they are from Linux 6.5
//! on (before, overlayfs opens its lower files without a word).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io;

use crate::fanotify::{Group, Malformed, ReadError, file_handle, for_each_event, for_each_record};

/// `FAN_EVENT_INFO_TYPE_FID`: a handle of what it is about.
const FID: u8 = 1;

/// A queue of opens.
#[derive(Debug)]
pub struct Opens(Group);

/// What was in the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Numbers of the inodes, in the order of their opens. One may come several times.
    pub inodes: Vec<u64>,
    /// Whether others were lost.
    pub lost: bool,
}

impl Opens {
    /// Notices opens in the file system of what is open, from now on.
    ///
    /// # Errors
    /// `EPERM`: no `CAP_SYS_ADMIN`. `EINVAL`: older than Linux 5.1. `ENODEV`: the file system has no id.
    pub fn of_file_system(fs: impl AsFd) -> io::Result<Self> {
        let group = Group::of_opens()?;
        group.mark_opens(fs)?;
        Ok(Self(group))
    }

    /// Takes from the queue what is in it now. Does not wait.
    ///
    /// # Errors
    /// When the call fails, or the answer is not understood.
    pub fn read(&mut self) -> Result<Opened, ReadError> {
        let mut opened = Opened::default();
        loop {
            let bytes = self.0.take()?;
            if bytes.is_empty() {
                return Ok(opened);
            }
            parse(bytes, &mut opened)?;
        }
    }
}

impl AsFd for Opens {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adds the events that were read.
fn parse(bytes: &[u8], opened: &mut Opened) -> Result<(), Malformed> {
    for_each_event(bytes, |event| {
        let Some((_, records)) = event else {
            opened.lost = true;
            return Ok(());
        };
        for_each_record(records, |kind, body| {
            if kind == FID {
                opened.inodes.extend(file_handle(body)?.0.erofs_inode());
            }
            Ok(())
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Digits of bytes as Linux 6.18 wrote them for an open, each field apart, little-endian.
    const OF_6_18: &str = "38000000 03 00 1800 2000000000000000 ffffffff 03270000 \
        01 00 2000 3aedcebceed40729 0c000000 81000000 000000000600000000000000";
    /// With the handle that older kernels write: 32 bits.
    const OF_32_BITS: &str = "34000000 03 00 1800 2000000000000000 ffffffff 03270000 \
        01 00 1c00 3aedcebceed40729 08000000 01000000 0c000000 00000000";
    const OVERFLOW: &str = "18000000 03 00 1800 0040000000000000 ffffffff 00000000";

    fn bytes(digits: &str) -> Vec<u8> {
        let digits: Vec<char> = digits.chars().filter(|c| !c.is_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn events_of_all_forms() {
        let mut opened = Opened::default();
        parse(&bytes(&[OF_6_18, OVERFLOW, OF_32_BITS, OF_6_18].concat()), &mut opened).unwrap();
        assert_eq!(opened, Opened { inodes: vec![6, 12, 6], lost: true });
        // Handles of another kind name no inode.
        let mut opened = Opened::default();
        parse(&bytes(&OF_6_18.replace("81000000", "82000000")), &mut opened).unwrap();
        assert_eq!(opened, Opened::default());
    }

    /// Cut and changed at every place, no event is a panic.
    #[test]
    fn every_byte_may_be_anything() {
        let good = bytes(OF_6_18);
        for at in 0..good.len() {
            assert!(parse(&good[..at], &mut Opened::default()).is_err() || at == 0);
            for byte in 0..=u8::MAX {
                let mut event = good.clone();
                event[at] = byte;
                let _ = parse(&event, &mut Opened::default());
            }
        }
    }
}
