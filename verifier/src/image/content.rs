//! The seal against the file system it seals, once every hash holds.
//!
//! The hashes say that the image is what its builder made; this says that the builder's records are true: every
//! inode has its record, and every content has the fs-verity digest that its record claims. The leaves of that digest
//! are those of the dm-verity tree, so file data is not read again.
//!
//! Inodes and their records both ascend, so they are gone through side by side and nothing is kept of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::num::NonZeroU64;

use mkimg_format::erofs::{Extent, FileSystem, FileType, Inode, Inodes, Layout, Nid};
use mkimg_format::fsverity::{Batch, Digester, zero_leaf};
use mkimg_format::lint::is_twin;
use mkimg_format::merkle::{hash_block, hash_blocks};
use mkimg_format::seal::{InodeRecord, NONE, Records, Seal, Section, Statement};
use mkimg_format::verity::Level;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Error, Part, ReadAt, Sha256, hex};
use sha2::{Digest as _, Sha512};

use super::report::{FINDINGS_MAX, Finding, Findings, Region};

/// Contents that are checked in one go, 8 bytes each. The inodes of an image with more are gone through again.
const CONTENTS_HELD: usize = 1 << 20;
/// Bytes of content that are taken out of an image and hashed at once.
const PART: u64 = 1 << 20;
/// Bytes of the paths of inodes with findings.
const FAULT_PATHS_MAX: usize = 4 << 20;
/// Leaves that are put into fs-verity digests, beyond four for each block of the image: maps and holes can make
/// files of any length out of a few bytes.
const LEAVES_MAX: u64 = 1 << 30;

/// The seal and file system under test.
pub(crate) struct Sealed<'a, R> {
    image: &'a R,
    fs: &'a FileSystem<&'a R>,
    seal: &'a Seal<&'a R>,
    /// Leaf level of the tree; `None` when the tree itself is damaged.
    leaves: Option<Level>,
    /// Whether file data is not there: a detached seal.
    absent: bool,
    /// Leaves that may still be put into digests.
    budget: Cell<u64>,
}

impl<'a, R: ReadAt> Sealed<'a, R> {
    pub(crate) fn new(
        image: &'a R,
        fs: &'a FileSystem<&'a R>,
        seal: &'a Seal<&'a R>,
        leaves: Option<Level>,
        absent: bool,
    ) -> Self {
        let blocks = u64::from(fs.superblock().blocks);
        Self {
            image,
            fs,
            seal,
            leaves,
            absent,
            budget: Cell::new(LEAVES_MAX.saturating_add(blocks.saturating_mul(4))),
        }
    }

    /// Runs every check.
    pub(crate) fn check(&self, findings: &mut Findings) {
        self.padding(findings);
        let layers = match self.seal.statement() {
            Ok(statement) => {
                self.documents(&statement, findings);
                self.hot(&statement, findings);
                // A directory is recorded like one layer, but has no digests to state.
                let stated = if statement.source.kind == "dir" { 1 } else { statement.layers.len() };
                Some(u64::try_from(stated).unwrap_or(u64::MAX))
            }
            Err(error) => {
                findings.add_error(&error, None);
                None
            }
        };
        self.layers(layers, findings);
        self.deleted(findings);
        self.inodes(findings);
    }

    fn fault(&self, section: Section, problem: String, findings: &mut Findings) {
        let place = self.seal.table().place(section);
        findings.add(
            Region::Seal,
            place.offset,
            place.length,
            format!("{}: {problem}", section_word(section)),
        );
    }

    /// What is left of the last block of each section must be zero.
    fn padding(&self, findings: &mut Findings) {
        for place in self.seal.table().places() {
            let end = place.offset.saturating_add(place.length);
            let length = end.checked_next_multiple_of(BLOCK_SIZE).unwrap_or(end).saturating_sub(end);
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            if self.image.read_exact_at(&mut bytes, end).is_err() {
                findings.mark_incomplete();
                findings.add(Region::Seal, end, length, "unreadable");
            } else if bytes.iter().any(|byte| *byte != 0) {
                let problem = format!("bytes behind the {} are not zero", section_word(place.section));
                findings.add(Region::Slack, end, length, problem);
            }
        }
    }

    /// Manifest and configuration against the digests in the statement.
    fn documents(&self, statement: &Statement, findings: &mut Findings) {
        for (section, digest) in [
            (Section::Manifest, &statement.source.manifest_digest),
            (Section::Config, &statement.source.config_digest),
        ] {
            let bytes = match self.seal.document(section) {
                Ok(bytes) => bytes,
                Err(error) => {
                    findings.add_error(&error, None);
                    continue;
                }
            };
            match (bytes, digest) {
                (None, None) => {}
                (None, Some(digest)) => {
                    self.fault(section, format!("missing, the statement names {digest}"), findings)
                }
                (Some(_), None) => {
                    self.fault(section, "the statement has no digest of it".to_owned(), findings)
                }
                (Some(bytes), Some(digest)) => {
                    let found = match digest.split_once(':') {
                        Some(("sha256", _)) => format!("sha256:{}", hex(&hash_block(&bytes))),
                        Some(("sha512", _)) => format!("sha512:{}", hex(&Sha512::digest(&bytes))),
                        _ => "of an unknown kind".to_owned(),
                    };
                    if found != *digest {
                        self.fault(
                            section,
                            format!("digest is {found}, the statement has {digest}"),
                            findings,
                        );
                    }
                }
            }
        }
    }

    /// What is said of a trace: both or nothing, and no more contents than there are.
    fn hot(&self, statement: &Statement, findings: &mut Findings) {
        let contents = self.seal.contents().len();
        let traced = statement.options.contains_key("optimize_for");
        let problem = match statement.hot {
            None if traced => "option optimize_for without hot contents".to_owned(),
            Some(hot) if !traced => format!("{hot} hot contents without the option optimize_for"),
            Some(hot) if hot > contents => format!("{hot} hot contents of {contents}"),
            _ => return,
        };
        self.fault(Section::Statement, problem, findings);
    }

    fn layers(&self, stated: Option<u64>, findings: &mut Findings) {
        let records = self.seal.layers();
        if let Some(stated) = stated.filter(|stated| *stated != records.len()) {
            let problem = format!("{} records for the {stated} layers of the statement", records.len());
            self.fault(Section::Layers, problem, findings);
        }
        for (index, record) in records.enumerate() {
            let record = match record {
                Ok(record) => record,
                Err(error) => return findings.add_error(&error, None),
            };
            for (what, whole, parts) in [
                ("bytes", record.shipped, [record.visible, record.shadowed, record.deleted]),
                (
                    "files",
                    record.shipped_files,
                    [record.visible_files, record.shadowed_files, record.deleted_files],
                ),
            ] {
                let sum = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.get()));
                if sum != Some(whole.get()) {
                    let problem =
                        format!("layer {index}: {what} shipped are not visible + shadowed + deleted");
                    self.fault(Section::Layers, problem, findings);
                }
            }
        }
    }

    fn deleted(&self, findings: &mut Findings) {
        let layers = self.seal.layers().len();
        for (index, record) in self.seal.deleted().enumerate() {
            let record = match record {
                Ok(record) => record,
                Err(error) => return findings.add_error(&error, None),
            };
            let too_early = record.deleted_by.get() < record.layer.get();
            if too_early || u64::from(record.deleted_by.get()) >= layers || record.reserved.get() != 0 {
                self.fault(Section::Deleted, format!("record {index} names layers that cannot be"), findings);
            }
            match self.seal.deleted_path(&record) {
                Ok(path) if !path.is_empty() => {}
                Ok(_) => self.fault(Section::Deleted, format!("record {index} has no path"), findings),
                Err(error) => findings.add_error(&error, None),
            }
        }
    }

    /// Every inode against its record, and every content against the digest of a file that has it.
    fn inodes(&self, findings: &mut Findings) {
        let mut faults = Faults::default();
        if let Some(whole) = self.records(&mut faults, findings) {
            self.contents(whole, &mut faults, findings);
        }
        faults.report(self.fs, findings);
    }

    /// Goes through inodes and records side by side. Returns whether all inodes could be read; `None` when the
    /// records cannot be used.
    fn records(&self, faults: &mut Faults, findings: &mut Findings) -> Option<bool> {
        let contents = self.seal.contents().len();
        let layers = self.seal.layers().len();
        let mut count = 0_u64;
        let mut whole = true;
        for pair in self.pairs() {
            let (inode, record) = match pair {
                Pair::Both(inode, record) => (inode, record),
                Pair::Unrecorded(inode) => {
                    count = count.saturating_add(1);
                    faults.add(&inode, format!("inode {} has no record in the seal", inode.nid));
                    continue;
                }
                // The number of inodes will tell.
                Pair::Unfounded => continue,
                Pair::NoInode(error) => {
                    // A broken structure is a finding of the linter, which looks at all of them.
                    if matches!(error, Error::Io { .. }) {
                        findings.add_error(&error, None);
                    }
                    whole = false;
                    continue;
                }
                Pair::BadRecord(BadRecord::Unreadable(error)) => {
                    findings.add_error(&error, None);
                    return None;
                }
                Pair::BadRecord(BadRecord::OutOfOrder(nid)) => {
                    let problem = format!("record of inode {nid} is not in ascending order");
                    self.fault(Section::Inodes, problem, findings);
                    return None;
                }
            };
            count = count.saturating_add(1);
            let layer = record.layer.get();
            if u64::from(layer) >= layers && !(layer == NONE && inode.file_type == FileType::Dir) {
                faults.add(&inode, format!("layer {layer} of its record does not exist"));
            }
            let content = record.content.get();
            if inode.file_type != FileType::File {
                if content != NONE {
                    faults.add(&inode, format!("content {content} of its record, but it is no regular file"));
                }
            } else if u64::from(content) >= contents {
                faults.add(&inode, format!("content {content} of its record does not exist"));
            }
        }
        let recorded = self.seal.inodes().len();
        if whole && count != recorded {
            self.fault(Section::Inodes, format!("{recorded} records for {count} inodes"), findings);
        }
        Some(whole)
    }

    /// One file of each content against the record of that. `whole` says that all files are known.
    ///
    /// Of files in the same place one is enough: each content has the file that was checked for it first.
    fn contents(&self, whole: bool, faults: &mut Faults, findings: &mut Findings) {
        let contents = self.seal.contents().len();
        let mut unused = None;
        let mut leaves = vec![0; BLOCK_LEN];
        let mut batch = Batch::default();
        let mut checked: Vec<Option<NonZeroU64>> = Vec::new();
        for first in (0..contents).step_by(CONTENTS_HELD) {
            let length = contents.saturating_sub(first);
            checked.clear();
            checked.resize(usize::try_from(length).unwrap_or(CONTENTS_HELD).min(CONTENTS_HELD), None);
            for pair in self.pairs() {
                let Pair::Both(inode, record) = pair else { continue };
                let content = record.content.get();
                let place =
                    u64::from(content).checked_sub(first).and_then(|place| usize::try_from(place).ok());
                let Some(checked) = place.and_then(|place| checked.get_mut(place)) else { continue };
                if inode.file_type != FileType::File {
                    continue;
                }
                let twin = checked.map_or(Ok(false), |first| is_twin(self.fs, &inode, Nid(first.get())));
                let found = twin.and_then(|twin| {
                    if twin {
                        return Ok(None);
                    }
                    // No file is inode 0.
                    *checked = checked.or(NonZeroU64::new(inode.nid.0));
                    self.check_content(&inode, content, &mut leaves, &mut batch)
                });
                match found {
                    Ok(None) => {}
                    Ok(Some(problem)) => faults.add(&inode, problem),
                    Err(error) => faults.add_error(&inode, error, findings),
                }
                if batch.is_full() {
                    Self::compare(&mut batch, faults);
                }
            }
            Self::compare(&mut batch, faults);
            let position = checked.iter().position(Option::is_none);
            unused = unused.or_else(|| Some(first.saturating_add(u64::try_from(position?).ok()?)));
        }
        if let Some(unused) = unused.filter(|_| whole) {
            self.fault(Section::Contents, format!("content {unused} belongs to no file"), findings);
        }
    }

    fn pairs(&self) -> Pairs<'a, R> {
        let (inodes, records) = (self.fs.inodes().peekable(), self.seal.inodes());
        Pairs { inodes, records, ahead: None, last: None, ended: false }
    }

    /// Size of a file against its content record; what is wrong, if anything. Its fs-verity digest is left to the batch.
    fn check_content(
        &self,
        inode: &Inode,
        content: u32,
        window: &mut [u8],
        batch: &mut Batch<(Inode, u32, Sha256)>,
    ) -> Result<Option<String>, Error> {
        let Some(record) = self.seal.contents().get(content.into())? else { return Ok(None) };
        if record.reserved.get() != 0 {
            return Ok(Some(format!("reserved field of content {content} is not 0")));
        }
        if record.size.get() != inode.size {
            return Ok(Some(format!("size is {}, content {content} has {}", inode.size, record.size.get())));
        }
        let Some(leaves) = self.leaves else { return Ok(None) };
        // What it is the digest of takes data to compute.
        if self.absent && inode.is_packed() {
            return Ok(None);
        }
        let digester = self.digest(inode, leaves, window)?;
        batch.push((inode.clone(), content, record.fsverity), digester, inode.size);
        Ok(None)
    }

    /// Compares the digests of files that wait for it.
    fn compare(batch: &mut Batch<(Inode, u32, Sha256)>, faults: &mut Faults) {
        for ((inode, content, sealed), found) in batch.take() {
            if found != sealed {
                let (found, sealed) = (hex(&found), hex(&sealed));
                faults.add(&inode, format!("fs-verity digest is {found}, content {content} has {sealed}"));
            }
        }
    }

    /// What the fs-verity digest of a file is made of, from leaves of the tree, which are read into `window` by the block,
    /// or from what compressed pieces give.
    fn digest(&self, inode: &Inode, leaves: Level, window: &mut [u8]) -> Result<Digester, Error> {
        let mut digester = Digester::new();
        if let Layout::Fragment { .. } = inode.layout {
            // Its extents begin anywhere.
            self.spend(inode, inode.size)?;
            self.hash_content(inode, 0, inode.size, &mut digester)?;
            return Ok(digester);
        }
        for extent in self.fs.extents(inode) {
            let Extent { logical, length, physical, compressed } = extent?;
            let blocks = length.div_ceil(BLOCK_SIZE);
            self.spend(inode, length)?;
            match physical {
                // Leaves are those of the stored bytes, so the content has to be taken out and hashed.
                Some(_) if compressed.is_some() || !inode.owns_blocks() => {
                    self.hash_content(inode, logical, length, &mut digester)?;
                }
                None => {
                    let zero = zero_leaf();
                    (0..blocks).for_each(|_| digester.push(&zero));
                }
                Some(start) if start.is_multiple_of(BLOCK_SIZE) => {
                    let mut next = start / BLOCK_SIZE;
                    let end = next.saturating_add(blocks);
                    while next < end {
                        let count = end.saturating_sub(next).min(128);
                        let bytes = usize::try_from(count.saturating_mul(32)).unwrap_or_default();
                        let slots = window.get_mut(..bytes).unwrap_or_default();
                        let offset = leaves.offset.saturating_add(next.saturating_mul(32));
                        let part = Part::Tree;
                        self.image.read_exact_at(slots, offset).map_err(|source| Error::Io {
                            part,
                            offset,
                            source,
                        })?;
                        for leaf in slots.as_chunks::<32>().0 {
                            digester.push(leaf);
                        }
                        next = next.saturating_add(count);
                    }
                }
                // The tail behind an inode: it shares its block with other things.
                Some(_) => {
                    let length = usize::try_from(length.min(BLOCK_SIZE)).unwrap_or(BLOCK_LEN);
                    let mut block = [0; BLOCK_LEN];
                    self.fs.read_file(inode, logical, block.get_mut(..length).unwrap_or_default())?;
                    digester.push(&hash_block(&block));
                }
            }
        }
        Ok(digester)
    }
}

impl<R: ReadAt> Sealed<'_, R> {
    /// Takes the leaves of `length` bytes of a file off the budget.
    fn spend(&self, inode: &Inode, length: u64) -> Result<(), Error> {
        let left = self.budget.get().checked_sub(length.div_ceil(BLOCK_SIZE));
        let left = left.ok_or_else(|| Error::Unsupported {
            part: Part::Data,
            offset: inode.offset,
            feature: "an image whose files add up to more than 4 TiB beyond its size".to_owned(),
        })?;
        self.budget.set(left);
        Ok(())
    }

    /// Puts the leaves of a part of a file into its digest; the part starts with a block of content.
    fn hash_content(
        &self,
        inode: &Inode,
        logical: u64,
        length: u64,
        digester: &mut Digester,
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < length {
            // As long as the longest piece, so that each is taken out once.
            let part = usize::try_from(length.saturating_sub(done).min(PART)).unwrap_or_default();
            let mut content = vec![0; part.next_multiple_of(BLOCK_LEN)];
            let at = logical.saturating_add(done);
            self.fs.read_file(inode, at, content.get_mut(..part).unwrap_or_default())?;
            let mut leaves = vec![[0; 32]; content.len() / BLOCK_LEN];
            hash_blocks(&content, &mut leaves);
            leaves.iter().for_each(|leaf| digester.push(leaf));
            done = done.saturating_add(PART);
        }
        Ok(())
    }
}

/// Inodes and records, both ascending.
struct Pairs<'a, R: ReadAt> {
    inodes: Peekable<Inodes<'a, &'a R>>,
    records: Records<'a, &'a R, InodeRecord>,
    /// A record of an inode that has not come up yet.
    ahead: Option<InodeRecord>,
    /// Number of the record before.
    last: Option<u64>,
    ended: bool,
}

enum Pair {
    Both(Inode, InodeRecord),
    /// An inode without a record.
    Unrecorded(Inode),
    /// A record without an inode.
    Unfounded,
    /// An inode that cannot be read.
    NoInode(Error),
    /// The last pair: what follows cannot be used.
    BadRecord(BadRecord),
}

enum BadRecord {
    Unreadable(Error),
    /// The number of its inode is not above that of the record before.
    OutOfOrder(u64),
}

impl<R: ReadAt> Pairs<'_, R> {
    /// The next record, if it is for inode `nid` or one before.
    fn record(&mut self, nid: u64) -> Result<Option<InodeRecord>, BadRecord> {
        if self.ahead.is_none() {
            let Some(record) = self.records.next().transpose().map_err(BadRecord::Unreadable)? else {
                return Ok(None);
            };
            let number = record.nid.get();
            if self.last.is_some_and(|last| last >= number) {
                return Err(BadRecord::OutOfOrder(number));
            }
            self.last = Some(number);
            self.ahead = Some(record);
        }
        Ok(self.ahead.take_if(|record| record.nid.get() <= nid))
    }
}

impl<R: ReadAt> Iterator for Pairs<'_, R> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        if self.ended {
            return None;
        }
        // Records behind the last inode are looked at as well.
        let nid = match self.inodes.peek() {
            Some(Ok(inode)) => Some(inode.nid.0),
            Some(Err(_)) => return self.inodes.next()?.err().map(Pair::NoInode),
            None => None,
        };
        match self.record(nid.unwrap_or(u64::MAX)) {
            Err(bad) => {
                self.ended = true;
                Some(Pair::BadRecord(bad))
            }
            Ok(Some(record)) if Some(record.nid.get()) == nid => {
                self.inodes.next()?.ok().map(|inode| Pair::Both(inode, record))
            }
            Ok(Some(_)) => Some(Pair::Unfounded),
            Ok(None) => self.inodes.next()?.ok().map(Pair::Unrecorded),
        }
    }
}

/// Findings about inodes, whose paths are looked up in the end.
#[derive(Default)]
struct Faults {
    kept: Vec<(Nid, Fault)>,
    dropped: u64,
}

enum Fault {
    Problem { offset: u64, length: u64, problem: String },
    Error(Error),
}

impl Faults {
    fn add(&mut self, inode: &Inode, problem: String) {
        let (offset, length) = (inode.offset, inode.inode_len);
        self.push(inode.nid, Fault::Problem { offset, length, problem });
    }

    fn add_error(&mut self, inode: &Inode, error: Error, findings: &mut Findings) {
        if matches!(error, Error::Io { .. }) {
            findings.mark_incomplete();
        }
        self.push(inode.nid, Fault::Error(error));
    }

    fn push(&mut self, nid: Nid, fault: Fault) {
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push((nid, fault));
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn report<R: ReadAt>(self, fs: &FileSystem<R>, findings: &mut Findings) {
        findings.drop(self.dropped);
        if self.kept.is_empty() {
            return;
        }
        let paths = match fs.paths_of(self.kept.iter().map(|(nid, _)| *nid), FAULT_PATHS_MAX) {
            Ok(paths) => paths,
            Err(error) => {
                findings.add_error(&error, None);
                BTreeMap::new()
            }
        };
        for (nid, fault) in self.kept {
            let path = paths.get(&nid);
            match fault {
                Fault::Problem { offset, length, problem } => findings.push(Finding {
                    offset,
                    length,
                    region: Region::Structure,
                    paths: path.cloned().into_iter().collect(),
                    more_paths: 0,
                    problem,
                }),
                Fault::Error(error) => findings.add_error(&error, path.map(Vec::as_slice)),
            }
        }
    }
}

/// What a section is called in reports.
pub(crate) const fn section_word(section: Section) -> &'static str {
    match section {
        Section::Statement => "statement",
        Section::Manifest => "manifest",
        Section::Config => "config",
        Section::Contents => "contents",
        Section::Inodes => "inodes",
        Section::Layers => "layers",
        Section::Deleted => "deleted files",
        Section::Paths => "deleted paths",
    }
}
