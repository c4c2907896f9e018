//! A sound disk, and changes to what is around the image on it.

use std::sync::LazyLock;

use mkimg_format::ddi::{Architecture, DATA_OFFSET, table};
use mkimg_format::gpt::Table;
use mkimg_format::header::Header;
use mkimg_format::verity_signature::VeritySignature;

use crate::sample::{SAMPLES, Sample};

/// Length of one change: area, operation, offset (2), value (4).
const LEN: usize = 8;

struct Sound {
    bytes: Vec<u8>,
    table: Table,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let sample = &SAMPLES[0];
    let header = Header::read(&sample.bytes).expect("samples are sound");
    let architecture = Architecture::by_oci_name("amd64").expect("a common architecture");
    let (root_hash, pkcs7) = (sample.root_hash, vec![7; 300]);
    let signature = VeritySignature { root_hash, pkcs7, fingerprint: None }.to_partition();
    let table = table(architecture, &header, &root_hash, Some(&signature));
    let mut bytes = table.primary();
    let length = |offset: u64| usize::try_from(offset).expect("64 bits");
    bytes.resize(length(DATA_OFFSET), 0);
    bytes.extend_from_slice(&sample.bytes);
    bytes.extend_from_slice(&signature);
    bytes.resize(length(table.backup_bytes().start), 0);
    bytes.extend(table.backup());
    Sound { bytes, table }
});

/// An image, and the disk that it is on.
pub fn sound() -> (&'static Sample, &'static [u8]) {
    (&SAMPLES[0], &SOUND.bytes)
}

/// Changes a disk, eight bytes of input each.
pub fn apply(disk: &[u8], input: &[u8]) -> Vec<u8> {
    let mut bytes = disk.to_vec();
    let table = &SOUND.table;
    for change in input.chunks_exact(LEN) {
        let backup = table.backup_bytes();
        let (start, end) = match change[0] % 8 {
            0 => (440, 512),
            1 => (512, 604),
            // The entries in use, and the one behind them.
            2 => (1024, 1536),
            3 => (backup.start, backup.start + 512),
            4 => (backup.end - 512, backup.end - 420),
            5 => (DATA_OFFSET, backup.start),
            6 => (table.partitions[2].bytes.start, table.partitions[2].bytes.start + 800),
            _ => (0, backup.end),
        };
        let offset = u64::from(u16::from_le_bytes([change[2], change[3]]));
        let scale = if end - start > 1 << 16 { 97 } else { 1 };
        let at = usize::try_from(start + offset * scale % (end - start)).unwrap_or(0);
        let width = usize::from(change[1] >> 4).clamp(1, 4);
        match change[1] % 8 {
            5 => bytes.truncate(at),
            6 => bytes.extend(&change[4..]),
            kind => {
                for (byte, value) in bytes.iter_mut().skip(at).zip(&change[4..]).take(width) {
                    *byte = match kind {
                        0 | 1 => *value,
                        2 => *byte ^ value,
                        3 => byte.wrapping_add(*value),
                        _ => 0,
                    };
                }
            }
        }
    }
    bytes
}

/// Mends the checksums of both copies of a table with 512-byte sectors, as far as they are where they belong.
pub fn mend(bytes: &mut [u8]) {
    for header in [512, (bytes.len() / 512).saturating_sub(1) * 512] {
        let Some(raw) = bytes.get(header..header + 92).filter(|raw| raw.starts_with(b"EFI PART")) else {
            continue;
        };
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let (array, count) = (u64::from(word(72)) * 512, u64::from(word(80)) * 128);
        let range = usize::try_from(array).ok().zip(usize::try_from(array + count).ok());
        let array = range.and_then(|(start, end)| bytes.get(start..end)).map(crc32fast::hash);
        if let Some(crc) = array {
            bytes[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
        }
        bytes[header + 16..header + 20].fill(0);
        let crc = crc32fast::hash(&bytes[header..header + 92]);
        bytes[header + 16..header + 20].copy_from_slice(&crc.to_le_bytes());
    }
}
