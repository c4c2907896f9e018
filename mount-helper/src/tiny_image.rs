//! The smallest EROFS image that mounts: a superblock and an empty root directory.
//!
//! Two blocks. Asking the kernel to mount it is the only honest way to learn whether it can mount
//! from a file, and which compressors it was built with: neither stands in `/sys/fs/erofs`.

/// Compression algorithms by their number in the image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Lz4,
    Lzma,
    Deflate,
    Zstd,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// Bit in `available_compr_algs`, and the configuration record behind its length.
    fn config(self) -> (u16, &'static [u8]) {
        match self {
            // Largest distance 65535, pclusters of one block.
            Self::Lz4 => (1, &[0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // Dictionary of 64 KiB.
            Self::Lzma => (1 << 1, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            // Window of 2^15.
            Self::Deflate => (1 << 2, &[15, 0, 0, 0, 0, 0]),
            // Window of 2^(10 + 6).
            Self::Zstd => (1 << 3, &[0, 6, 0, 0, 0, 0]),
        }
    }
}

const SUPERBLOCK: usize = 1024;
const ROOT_INODE: usize = 2048;
const DIRECTORY: usize = 4096;
const SIZE: usize = 8192;
/// Inode number of the root: its place in units of 32 bytes.
const ROOT_NID: u16 = 64;

/// The image; with `algorithm`, one that declares that it may hold data compressed with it.
pub(crate) fn build(algorithm: Option<Algorithm>) -> Vec<u8> {
    let mut image = vec![0u8; SIZE];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in image.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(SUPERBLOCK, &0xE0F5_E1E2u32.to_le_bytes());
    put(SUPERBLOCK + 0x0C, &[12]);
    put(SUPERBLOCK + 0x0E, &ROOT_NID.to_le_bytes());
    put(SUPERBLOCK + 0x10, &1u64.to_le_bytes());
    put(SUPERBLOCK + 0x24, &2u32.to_le_bytes());
    if let Some(algorithm) = algorithm {
        let (bit, record) = algorithm.config();
        // LZ4_0PADDING and COMPR_CFGS.
        put(SUPERBLOCK + 0x50, &3u32.to_le_bytes());
        put(SUPERBLOCK + 0x54, &bit.to_le_bytes());
        let length = if record.len() == 14 { 14u16 } else { 6 };
        put(SUPERBLOCK + 128, &length.to_le_bytes());
        put(SUPERBLOCK + 130, record);
    }
    // Compact inode, plain data: a directory 0755 of 27 bytes in block 1 with two links.
    put(ROOT_INODE + 0x04, &0o040_755u16.to_le_bytes());
    put(ROOT_INODE + 0x06, &2u16.to_le_bytes());
    put(ROOT_INODE + 0x08, &27u32.to_le_bytes());
    put(ROOT_INODE + 0x10, &1u32.to_le_bytes());
    put(ROOT_INODE + 0x14, &1u32.to_le_bytes());
    // Entries `.` and `..`: inode number, offset of the name, type 2 (directory).
    for (entry, name_offset) in [(0, 24u16), (12, 25)] {
        put(DIRECTORY + entry, &u64::from(ROOT_NID).to_le_bytes());
        put(DIRECTORY + entry + 8, &name_offset.to_le_bytes());
        put(DIRECTORY + entry + 10, &[2]);
    }
    put(DIRECTORY + 24, b"...");
    image
}
