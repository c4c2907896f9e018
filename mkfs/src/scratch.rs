//! Files in which large layers wait, inflated, for the second pass.
//!
//! They stand beside the image without a name, so nothing is left of them whatever happens. They are worth it only while
//! they stay in the page cache, and must not take the room of the image: there are none unless both is likely.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use mkimg_oci::{LayerReader, Room};

use crate::output::Output;

/// A process may have few descriptors, and an image many layers. It is the large ones that matter.
const FILES_MAX: usize = 32;

/// Where scratch files come from.
pub(crate) struct Scratches<'a> {
    output: &'a Output,
    room: Room,
    /// How many more there may be.
    left: AtomicUsize,
}

impl<'a> Scratches<'a> {
    /// In half of the memory that is free and of the disk: the other halves are for the image.
    pub(crate) fn beside(output: &'a Output) -> Self {
        let room = free_memory().and_then(|memory| Some(memory.min(output.free()?) / 2));
        Self { output, room: Room::new(room.unwrap_or(0)), left: AtomicUsize::new(FILES_MAX) }
    }

    /// None at all.
    pub(crate) fn none(output: &'a Output) -> Self {
        Self { output, room: Room::default(), left: AtomicUsize::new(0) }
    }

    /// Keeps a layer, if it pays.
    pub(crate) fn keep(&self, layer: &mut LayerReader) {
        layer.keep_in(&self.room, || self.file());
    }

    fn file(&self) -> Option<File> {
        let less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        self.output.nameless()
    }
}

/// Bytes that the kernel could give away without swapping.
fn free_memory() -> Option<u64> {
    available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_the_kernel_says() {
        let text = "MemTotal:       24683996 kB\nMemFree:         1214496 kB\nMemAvailable:   12564996 kB\n";
        assert_eq!(available(text), Some(12_564_996 * 1024));
        for text in [
            "",
            "MemFree: 1 kB",
            "MemAvailable: 1",
            "MemAvailable: x kB",
            "MemAvailable: 18014398509481984 kB",
        ] {
            assert_eq!(available(text), None, "{text}");
        }
        assert!(free_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
