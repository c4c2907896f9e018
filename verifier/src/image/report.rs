//! What an audit found.

use std::fmt;

use mkimg_format::header::Header;
use mkimg_format::sound::Unread;
use mkimg_format::{Part, Sha256};
use serde::Serialize;

/// Findings that a report holds; further ones are counted.
pub const FINDINGS_MAX: usize = 10_000;

/// Paths that a finding names; further ones are counted.
pub const PATHS_MAX: usize = 100;

/// Bytes of paths in a whole report; further ones are counted.
const PATH_BYTES_MAX: usize = 16 << 20;

/// The part of an image that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Region {
    /// File content.
    Data,
    /// Inodes, directories, extended attributes, chunk maps.
    Metadata,
    /// A hash block of the dm-verity tree.
    Tree,
    /// The dm-verity superblock.
    VeritySuperblock,
    /// The mkimg header in bytes 0..512.
    Header,
    /// The EROFS superblock.
    Superblock,
    /// The seal.
    Seal,
    /// A block of Reed-Solomon parity.
    Parity,
    /// The trailer block.
    Trailer,
    /// Bytes that belong to nothing and must be zero.
    Slack,
    /// Bytes that should be there and are not.
    Truncated,
    /// Bytes behind the end of the image, or of the disk that it is on.
    Trailing,
    /// The root of the tree as a whole.
    RootHash,
    /// The hashes hold, but what they protect breaks the format.
    Structure,
    /// The first sector of a disk.
    ProtectiveMbr,
    /// A partition table, or a partition that is not the one of the image.
    PartitionTable,
    /// The partition with the signature of the root hash.
    SignaturePartition,
    /// Bytes of a disk that are in no partition.
    DiskSlack,
    /// Nobody who is trusted vouches for the image, or it is an old release.
    Trust,
}

impl Region {
    /// The word that stands for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Tree => "tree",
            Self::VeritySuperblock => "verity-superblock",
            Self::Header => "header",
            Self::Superblock => "superblock",
            Self::Seal => "seal",
            Self::Parity => "parity",
            Self::Trailer => "trailer",
            Self::Slack => "slack",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::RootHash => "root-hash",
            Self::Structure => "structure",
            Self::ProtectiveMbr => "protective-mbr",
            Self::PartitionTable => "partition-table",
            Self::SignaturePartition => "signature-partition",
            Self::DiskSlack => "disk-slack",
            Self::Trust => "trust",
        }
    }

    /// Where a broken rule of the format belongs.
    pub(crate) const fn of(part: Part) -> Self {
        match part {
            Part::Seal | Part::SealTable => Self::Seal,
            Part::Slack => Self::Slack,
            Part::ProtectiveMbr => Self::ProtectiveMbr,
            Part::PartitionTable => Self::PartitionTable,
            Part::SignaturePartition => Self::SignaturePartition,
            _ => Self::Structure,
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// First byte that it is about: of the image, or for what is around it, of the disk.
    pub offset: u64,
    /// Length in bytes of what it is about.
    pub length: u64,
    /// The part of the image.
    pub region: Region,
    /// Absolute paths of the files whose data or metadata are affected, at most [`PATHS_MAX`], sorted.
    pub paths: Vec<Vec<u8>>,
    /// Affected paths beyond those.
    pub more_paths: u64,
    /// What is wrong, on one line.
    pub problem: String,
}

impl Finding {
    /// What an audit cannot find by itself: that the image as a whole is not one that is trusted. `offset` is that of the
    /// trailer, which has the signatures.
    #[must_use]
    pub const fn of_trust(offset: u64, problem: String) -> Self {
        Self::without_paths(Region::Trust, offset, problem)
    }

    /// What the format knows nothing of: that a signature partition holds no signature of this image. `offset` is its first
    /// byte on the disk.
    #[must_use]
    pub const fn of_signature_partition(offset: u64, problem: String) -> Self {
        Self::without_paths(Region::SignaturePartition, offset, problem)
    }

    const fn without_paths(region: Region, offset: u64, problem: String) -> Self {
        Self { offset, length: 0, region, paths: Vec::new(), more_paths: 0, problem }
    }
}

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether a root hash was given, so that the run proves more than consistency of the image with itself.
    pub anchored: bool,
    /// Root hash of the image: the one its tree leads to, or the claimed one where the tree is too damaged to say.
    pub root_hash: Sha256,
    /// Blocks of 4096 bytes under the tree.
    pub data_blocks: u64,
    /// Length in bytes that the image should have.
    pub image_size: u64,
    /// Parity bytes of a codeword; 0 without parity.
    pub fec_roots: u32,
    /// The header, read or mended; `None` when too little of it is left.
    pub header: Option<Header>,
    /// Bytes of the image that were read and compared.
    pub bytes_read: u64,
    /// Everything that is wrong, by offset; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings beyond those, and damaged blocks beyond what can be kept in memory.
    pub truncated_findings: u64,
    /// Whether everything could be read.
    pub complete: bool,
    /// Whether this was a detached seal, which holds no file data.
    pub data_absent: bool,
    /// Whether it was an image in the partitions of a disk, all of which was audited.
    pub on_disk: bool,
    /// What of the structure is of a form that the reader does not know. Its bytes were compared all the same. Images of
    /// mkimg have no such thing: there it is a finding.
    pub unread: Unread,
}

impl Report {
    /// Whether everything was read and nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.complete && self.findings.is_empty() && self.truncated_findings == 0
    }
}

/// Findings as they come, within bounds.
#[derive(Debug)]
pub(crate) struct Findings {
    kept: std::collections::BTreeSet<Finding>,
    dropped: u64,
    path_bytes: usize,
    /// Whether nothing was unreadable.
    complete: bool,
}

impl Findings {
    pub(crate) const fn new() -> Self {
        Self { kept: std::collections::BTreeSet::new(), dropped: 0, path_bytes: 0, complete: true }
    }

    pub(crate) fn add(&mut self, region: Region, offset: u64, length: u64, problem: impl Into<String>) {
        self.push(Finding {
            offset,
            length,
            region,
            paths: Vec::new(),
            more_paths: 0,
            problem: problem.into(),
        });
    }

    /// Keeps the first findings by offset, so that what a full report holds does not depend on their order.
    pub(crate) fn push(&mut self, mut finding: Finding) {
        finding.paths.sort();
        let mut left = PATH_BYTES_MAX.saturating_sub(self.path_bytes);
        let fitting = finding.paths.iter().take_while(|path| {
            let fits = path.len() <= left;
            left = left.saturating_sub(path.len());
            fits
        });
        let keep = fitting.count().min(PATHS_MAX);
        let cut = u64::try_from(finding.paths.len().saturating_sub(keep)).unwrap_or_default();
        finding.more_paths = finding.more_paths.saturating_add(cut);
        finding.paths.truncate(keep);
        let bytes = path_bytes(&finding);
        if self.kept.insert(finding) {
            self.path_bytes = self.path_bytes.saturating_add(bytes);
        }
        if self.kept.len() > FINDINGS_MAX {
            let last = self.kept.pop_last();
            self.path_bytes = self.path_bytes.saturating_sub(last.as_ref().map_or(0, path_bytes));
            self.drop(1);
        }
    }

    /// Counts what could not be kept.
    pub(crate) fn drop(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// Adds the findings of a report, and what could not be kept of them.
    pub(crate) fn add_report(&mut self, report: &mut Report) {
        for finding in std::mem::take(&mut report.findings) {
            self.push(finding);
        }
        self.drop(report.truncated_findings);
        self.complete &= report.complete;
    }

    /// Adds what the reader of the format reports.
    pub(crate) fn add_error(&mut self, error: &mkimg_format::Error, path: Option<&[u8]>) {
        use mkimg_format::Error;
        let (region, offset) = match error {
            Error::Io { part, offset, .. } => {
                self.complete = false;
                (Region::of(*part), *offset)
            }
            Error::Corrupt { part, offset, .. } | Error::Unsupported { part, offset, .. } => {
                (Region::of(*part), *offset)
            }
            _ => (Region::Structure, 0),
        };
        let paths = path.map(<[u8]>::to_vec).into_iter().collect();
        self.push(Finding { offset, length: 0, region, paths, more_paths: 0, problem: error.to_string() });
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn mark_incomplete(&mut self) {
        self.complete = false;
    }

    pub(crate) fn has(&self, regions: &[Region]) -> bool {
        self.kept.iter().any(|finding| regions.contains(&finding.region))
    }

    /// Findings in order, how many were dropped, whether everything was read.
    pub(crate) fn finish(self) -> (Vec<Finding>, u64, bool) {
        (self.kept.into_iter().collect(), self.dropped, self.complete)
    }
}

fn path_bytes(finding: &Finding) -> usize {
    finding.paths.iter().fold(0, |sum, path| sum.saturating_add(path.len()))
}

/// `unreadable: ` and the reason.
pub(crate) fn unreadable(errno: Option<i32>) -> String {
    match errno {
        Some(code) => format!("unreadable: {}", std::io::Error::from_raw_os_error(code)),
        None => "unreadable".to_owned(),
    }
}
