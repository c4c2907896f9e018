//! The seal against the file system it seals, once every hash holds.
//!
//! The hashes say that the image is what its builder made; this says that the builder's records are true: every
//! inode has its record, and every content has the fs-verity digest that its record claims. The leaves of that digest
//! are those of the dm-verity tree, so file data is not read again.

use std::cell::Cell;
use std::collections::HashSet;

use mkimg_format::erofs::{Extent, FileSystem, FileType, Inode, Layout, Nid};
use mkimg_format::fsverity::{Digester, zero_leaf};
use mkimg_format::merkle::hash_block;
use mkimg_format::seal::{InodeRecord, NONE, Seal, Section, Statement};
use mkimg_format::verity::Level;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Error, Part, ReadAt, Sha256, hex};
use sha2::{Digest as _, Sha512};

use crate::report::{Finding, Findings, Region};

/// Inode records that are held in memory (16 bytes each); more are looked up in the image.
const RECORDS_HELD: u64 = 1 << 20;
/// Contents whose first inode is held in memory (8 bytes each).
const CONTENTS_HELD: u64 = 2 << 20;
/// Leaves that are put into fs-verity digests, beyond four for each block of the image: maps and holes can make
/// files of any length out of a few bytes.
const LEAVES_MAX: u64 = 1 << 30;
/// Hard-linked inodes that are told apart.
const LINKED_HELD: usize = 1 << 20;

/// The seal and file system under test.
pub(crate) struct Sealed<'a, R> {
    image: &'a R,
    fs: &'a FileSystem<&'a R>,
    seal: &'a Seal<&'a R>,
    /// Leaf level of the tree; `None` when the tree itself is damaged.
    leaves: Option<Level>,
    /// Leaves that may still be put into digests.
    budget: Cell<u64>,
}

impl<'a, R: ReadAt> Sealed<'a, R> {
    pub(crate) fn new(
        image: &'a R,
        fs: &'a FileSystem<&'a R>,
        seal: &'a Seal<&'a R>,
        leaves: Option<Level>,
    ) -> Self {
        let blocks = u64::from(fs.superblock().blocks);
        Self {
            image,
            fs,
            seal,
            leaves,
            budget: Cell::new(LEAVES_MAX.saturating_add(blocks.saturating_mul(4))),
        }
    }

    /// Runs every check.
    pub(crate) fn check(&self, findings: &mut Findings) {
        self.padding(findings);
        let layers = match self.seal.statement() {
            Ok(statement) => {
                self.documents(&statement, findings);
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

    /// Walks the tree and looks up every inode and content.
    fn inodes(&self, findings: &mut Findings) {
        let Some(records) = self.load_records(findings) else { return };
        let contents = self.seal.contents().len();
        let layers = self.seal.layers().len();
        // First inode of each content, 0 for none; nid 0 may be one, so they are stored plus one.
        let held = usize::try_from(contents.min(CONTENTS_HELD)).unwrap_or_default();
        let mut first = vec![0_u64; held];
        let mut linked: HashSet<Nid> = HashSet::new();
        let mut count = 0_u64;
        let mut whole = true;
        let mut walk = self.fs.walk();
        loop {
            let entry = match walk.next() {
                None => break,
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    // A broken structure is a finding of the linter, which looks at all of them.
                    if matches!(error, Error::Io { .. }) {
                        findings.add_error(&error, Some(walk.position()));
                    }
                    whole = false;
                    continue;
                }
            };
            let inode = &entry.inode;
            if inode.file_type != FileType::Dir
                && inode.nlink > 1
                && linked.len() < LINKED_HELD
                && !linked.insert(inode.nid)
            {
                continue;
            }
            count = count.saturating_add(1);
            let mut fault = |problem: String| {
                findings.push(Finding {
                    offset: inode.offset,
                    length: inode.inode_len,
                    region: Region::Structure,
                    paths: vec![entry.path.clone()],
                    more_paths: 0,
                    problem,
                });
            };
            let record = match self.record(&records, inode.nid) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    fault(format!("inode {} has no record in the seal", inode.nid));
                    continue;
                }
                Err(error) => {
                    findings.add_error(&error, Some(&entry.path));
                    continue;
                }
            };
            let layer = record.layer.get();
            if u64::from(layer) >= layers && !(layer == NONE && inode.file_type == FileType::Dir) {
                fault(format!("layer {layer} of its record does not exist"));
            }
            let content = record.content.get();
            if inode.file_type != FileType::File {
                if content != NONE {
                    fault(format!("content {content} of its record, but it is no regular file"));
                }
                continue;
            }
            if u64::from(content) >= contents {
                fault(format!("content {content} of its record does not exist"));
                continue;
            }
            let known = usize::try_from(content).ok().and_then(|content| first.get_mut(content));
            let twin = match known {
                Some(known) if *known == 0 => {
                    *known = inode.nid.0.saturating_add(1);
                    false
                }
                Some(known) => match self.fs.inode(Nid(known.saturating_sub(1))) {
                    Ok(checked) => same_blocks(&checked, inode),
                    Err(error) => {
                        findings.add_error(&error, Some(&entry.path));
                        continue;
                    }
                },
                None => false,
            };
            if twin {
                continue;
            }
            match self.check_content(inode, content) {
                Ok(None) => {}
                Ok(Some(problem)) => fault(problem),
                Err(error) => findings.add_error(&error, Some(&entry.path)),
            }
        }
        drop(walk);
        let recorded = self.seal.inodes().len();
        if whole && count != recorded && linked.len() < LINKED_HELD {
            self.fault(Section::Inodes, format!("{recorded} records for {count} inodes"), findings);
        }
        if let Some(unused) = first.iter().position(|nid| *nid == 0).filter(|_| whole) {
            self.fault(Section::Contents, format!("content {unused} belongs to no file"), findings);
        }
    }

    /// The inode records, checked to ascend; empty when there are too many to hold.
    fn load_records(&self, findings: &mut Findings) -> Option<Vec<InodeRecord>> {
        let mut records = Vec::new();
        let mut last = None;
        let hold = self.seal.inodes().len() <= RECORDS_HELD;
        for record in self.seal.inodes() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    findings.add_error(&error, None);
                    return None;
                }
            };
            let nid = record.nid.get();
            if last.is_some_and(|last| last >= nid) {
                self.fault(
                    Section::Inodes,
                    format!("record of inode {nid} is not in ascending order"),
                    findings,
                );
                return None;
            }
            last = Some(nid);
            if hold {
                records.push(record);
            }
        }
        Some(records)
    }

    fn record(&self, held: &[InodeRecord], nid: Nid) -> Result<Option<InodeRecord>, Error> {
        if held.is_empty() {
            return self.seal.inode_record(nid.0);
        }
        let index = held.binary_search_by_key(&nid.0, |record| record.nid.get());
        Ok(index.ok().and_then(|index| held.get(index)).copied())
    }

    /// Size and fs-verity digest of a file against its content record; what is wrong, if anything.
    fn check_content(&self, inode: &Inode, content: u32) -> Result<Option<String>, Error> {
        let Some(record) = self.seal.contents().get(content.into())? else { return Ok(None) };
        if record.reserved.get() != 0 {
            return Ok(Some(format!("reserved field of content {content} is not 0")));
        }
        if record.size.get() != inode.size {
            return Ok(Some(format!("size is {}, content {content} has {}", inode.size, record.size.get())));
        }
        let Some(leaves) = self.leaves else { return Ok(None) };
        let found = self.digest(inode, leaves)?;
        let wrong = found != record.fsverity;
        Ok(wrong.then(|| {
            format!("fs-verity digest is {}, content {content} has {}", hex(&found), hex(&record.fsverity))
        }))
    }

    /// fs-verity digest of a file, from leaves of the tree.
    fn digest(&self, inode: &Inode, leaves: Level) -> Result<Sha256, Error> {
        let mut digester = Digester::new();
        let mut window = vec![0; BLOCK_LEN];
        for extent in self.fs.extents(inode) {
            let Extent { logical, length, physical } = extent?;
            let blocks = length.div_ceil(BLOCK_SIZE);
            let Some(budget) = self.budget.get().checked_sub(blocks) else {
                return Err(Error::Unsupported {
                    part: Part::Data,
                    offset: inode.offset,
                    feature: "an image whose files add up to more than 4 TiB beyond its size".to_owned(),
                });
            };
            self.budget.set(budget);
            match physical {
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
        Ok(digester.finish(inode.size))
    }
}

/// Whether a file has its content in the very blocks of one that has been checked.
fn same_blocks(checked: &Inode, inode: &Inode) -> bool {
    let plain = matches!(inode.layout, Layout::Plain { .. });
    plain && checked.layout == inode.layout && checked.size == inode.size
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
