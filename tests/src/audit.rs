//! Reading `mkimg verify --json` and `mkimg inspect --json`.
//!
//! Each line of a report is an object. Those with a `region`, a `path` (or `path_b64`) or a non-empty `paths` are
//! findings; a line about the whole run has none of them.

use serde_json::Value;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The part of the image file, in lower case; empty for findings about a directory or a mount.
    pub region: String,
    /// The paths whose data or metadata is concerned.
    pub paths: Vec<String>,
}

/// The findings of a report.
pub fn findings(lines: &[Value]) -> Vec<Finding> {
    let mut found = Vec::new();
    for line in lines {
        assert!(line.is_object(), "a report line is an object: {line}");
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut paths: Vec<String> = text("path").or_else(|| text("path_b64")).into_iter().collect();
        let many = line.get("paths").and_then(Value::as_array).into_iter().flatten();
        paths.extend(many.filter_map(Value::as_str).map(str::to_owned));
        let region = text("region").unwrap_or_default().to_lowercase();
        if !region.is_empty() || !paths.is_empty() {
            found.push(Finding { region, paths });
        }
    }
    found
}

/// Where the parts of an image file lie, from `mkimg inspect --json`.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    /// Byte offset of the dm-verity superblock, the end of the protected area.
    pub hash_offset: u64,
    /// Byte offset of the parity, the end of the tree; of the trailer if there is none.
    pub fec_offset: u64,
    /// Size of the image file.
    pub size: u64,
}

impl Regions {
    /// Takes the offsets from an inspection and checks that they fit together.
    pub fn of(inspection: &Value, size: u64) -> Self {
        let number = |key: &str| {
            inspection["verity"][key].as_u64().unwrap_or_else(|| panic!("verity.{key} of {inspection}"))
        };
        let hash_offset = number("hash_offset");
        assert_eq!(number("data_blocks") * 4096, hash_offset, "the tree begins where the data ends");
        assert!(hash_offset < size, "the tree lies inside the file");
        let fec_offset = match number("fec_offset") {
            0 => size - 4096,
            offset => offset,
        };
        assert_eq!(size - 4096 - fec_offset, number("fec_blocks") * 4096, "the trailer follows the parity");
        Self { hash_offset, fec_offset, size }
    }

    /// The regions of which a damaged byte at `offset` must be reported in at least one.
    pub fn names_at(&self, offset: u64) -> &'static [&'static str] {
        let in_verity_superblock = self.hash_offset..self.hash_offset + 512;
        match offset {
            0..512 => &["header"],
            512..1024 => &["header", "slack"],
            1024..1152 => &["superblock"],
            1152..4096 => &["header", "superblock", "slack"],
            _ if offset < self.hash_offset => &["data", "metadata", "seal", "slack"],
            _ if in_verity_superblock.contains(&offset) => &["verity-superblock"],
            _ if offset < self.hash_offset + 4096 => &["verity-superblock", "slack"],
            _ if offset < self.fec_offset => &["tree"],
            _ if offset < self.size - 4096 => &["parity"],
            _ => &["trailer", "slack"],
        }
    }
}
