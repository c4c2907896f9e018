//! What has to be known of a dm-verity tree to use it.

use mkimg_format::fec::Layout;
use mkimg_format::header::Header;
use mkimg_format::verity::Superblock;
use mkimg_format::{BLOCK_SIZE, Sha256, hex};
use serde::Serialize;

/// Bytes in a sector of device-mapper.
const SECTOR: u64 = 512;

/// Everything that `veritysetup` and `dmsetup` can be told about an image.
///
/// Blocks have 4096 bytes, offsets are in bytes. Fields that `mkimg inspect --json` has are called as they are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Root hash in hexadecimal digits.
    pub root_hash: String,
    /// Digest.
    pub algorithm: &'static str,
    /// Version of the tree's format: the salt comes first.
    pub hash_type: u32,
    /// There is none.
    pub salt: &'static str,
    /// As in the superblock, where it is a label and nothing else.
    pub uuid: String,
    /// Bytes in a data block.
    pub data_block_size: u64,
    /// Bytes in a hash block.
    pub hash_block_size: u64,
    /// Blocks under the tree.
    pub data_blocks: u64,
    /// The same in sectors of 512 bytes: the length of the mapped device.
    pub sectors: u64,
    /// Where the superblock is.
    pub hash_offset: u64,
    /// First block of the tree, which is behind the superblock.
    pub hash_start_block: u64,
    /// Parity, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fec: Option<Fec>,
}

/// Parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fec {
    /// Parity bytes of a codeword.
    pub roots: u32,
    /// Where it is.
    pub offset: u64,
    /// The same in blocks.
    pub start_block: u64,
    /// Blocks that it protects: data, then tree.
    pub protected_blocks: u64,
}

impl Parameters {
    /// Those of the image with this header.
    #[must_use]
    pub fn new(header: &Header, root_hash: &Sha256) -> Self {
        let uuid = hex(&Superblock::new(header.data_blocks, root_hash).uuid);
        let part = |range| uuid.get(range).unwrap_or_default();
        let parts = [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)];
        Self {
            root_hash: hex(root_hash),
            algorithm: "sha256",
            hash_type: 1,
            salt: "-",
            uuid: parts.join("-"),
            data_block_size: BLOCK_SIZE,
            hash_block_size: BLOCK_SIZE,
            data_blocks: header.data_blocks,
            sectors: header.hash_offset() / SECTOR,
            hash_offset: header.hash_offset(),
            hash_start_block: header.tree_offset() / BLOCK_SIZE,
            fec: Layout::of(header).map(|layout| Fec {
                roots: layout.roots(),
                offset: header.fec_offset(),
                start_block: layout.start(),
                protected_blocks: layout.message_blocks(),
            }),
        }
    }

    /// The line of a device-mapper table (`Documentation/admin-guide/device-mapper/verity.rst`), with the tree, and parity if
    /// there is any, on the device of the data.
    #[must_use]
    pub fn table(&self, device: &str) -> String {
        let Self { root_hash, algorithm, hash_type, salt, data_blocks, sectors, .. } = self;
        let Self { data_block_size, hash_block_size, hash_start_block, .. } = self;
        let mut table = format!(
            "0 {sectors} verity {hash_type} {device} {device} {data_block_size} {hash_block_size} {data_blocks} \
             {hash_start_block} {algorithm} {root_hash} {salt}"
        );
        if let Some(Fec { roots, start_block, protected_blocks, .. }) = self.fec {
            let words = [
                format!("use_fec_from_device {device}"),
                format!("fec_blocks {protected_blocks} fec_start {start_block} fec_roots {roots}"),
            ];
            table += &format!(" 8 {}", words.join(" "));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use mkimg_kernel::dm::{DevNumber, Fec as KernelFec, OnCorruption, VerityTarget};

    use super::*;

    /// `mkimg mount` maps images by code of its own: both must tell the kernel the same.
    #[test]
    fn tables_are_those_of_the_mount() {
        let dev = DevNumber { major: 7, minor: 3 };
        for (data_blocks, roots) in [(3, 0), (200, 2), (128, 24), (16385, 8), (u64::from(u32::MAX), 0)] {
            let header = Header { data_blocks, meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
            let header = header.with_fec(roots);
            let layout = Layout::of(&header);
            let target = VerityTarget {
                data_dev: dev,
                hash_dev: dev,
                data_block_size: 4096,
                hash_block_size: 4096,
                data_blocks,
                hash_start_block: header.hash_offset() / 4096 + 1,
                algorithm: "sha256".to_owned(),
                root_hash: vec![0xa5; 32],
                salt: Vec::new(),
                on_corruption: OnCorruption::Eio,
                fec: layout.map(|layout| KernelFec {
                    dev,
                    blocks: layout.message_blocks(),
                    start: layout.start(),
                    roots,
                }),
                signature: None,
            };
            let wanted = format!("0 {} verity {}", target.sectors().unwrap(), target.table_line().unwrap());
            assert_eq!(Parameters::new(&header, &[0xa5; 32]).table("7:3"), wanted);
        }
    }

    #[test]
    fn documents_have_every_parameter() {
        let header =
            Header { data_blocks: 200, meta_block: 150, seal_block: 190, fec_blocks: 0, fec_roots: 0 };
        let found = serde_json::to_value(Parameters::new(&header.with_fec(2), &[0xab; 32])).unwrap();
        let wanted = serde_json::json!({
            "root_hash": "ab".repeat(32),
            "algorithm": "sha256",
            "hash_type": 1,
            "salt": "-",
            "uuid": "abababab-abab-8bab-abab-abababababab",
            "data_block_size": 4096,
            "hash_block_size": 4096,
            "data_blocks": 200,
            "sectors": 1600,
            "hash_offset": 819_200,
            "hash_start_block": 201,
            "fec": { "roots": 2, "offset": 835_584, "start_block": 204, "protected_blocks": 203 },
        });
        assert_eq!(found, wanted);
        let found = serde_json::to_value(Parameters::new(&header, &[0xab; 32])).unwrap();
        assert!(found.get("fec").is_none());
    }
}
