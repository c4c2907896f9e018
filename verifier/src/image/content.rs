//! The seal against the file system it seals, once every hash holds.
//!
//! The hashes say that the image is what its builder made; this says that the builder's records are true: every
//! inode has its record, and every content has the fs-verity digest that its record claims. The leaves of that digest
//! are those of the dm-verity tree, so file data is not read again.
//!
//! Inodes and their records both ascend, so they are gone through side by side and nothing is kept of them. One thread
//! does that, as it is quick; the digests are left to [`digests`].

use std::iter::Peekable;
use std::num::NonZeroU64;

use mkimg_format::erofs::{FileSystem, FileType, Inode, Inodes, Nid};
use mkimg_format::lint::is_twin;
use mkimg_format::merkle::hash_block;
use mkimg_format::seal::{InodeRecord, NONE, Records, Seal, Section, Statement};
use mkimg_format::verity::Level;
use mkimg_format::{BLOCK_SIZE, Error, Part, ReadAt, hex};
use sha2::{Digest as _, Sha512};

use super::cache::Cached;
use super::digests::{self, Claim, Item};
use super::faults::{Fault, Faults};
use super::report::{Findings, Region};

/// Contents that are checked in one go, 8 bytes each. The inodes of an image with more are gone through again.
const CONTENTS_HELD: usize = 1 << 20;
/// Leaves that are put into fs-verity digests, beyond four for each block of the image: maps and holes can make
/// files of any length out of a few bytes.
const LEAVES_MAX: u64 = 1 << 30;

/// The seal and file system under test.
pub(crate) struct Sealed<'a, 'i, R> {
    image: &'a Cached<'i, R>,
    fs: &'a FileSystem<&'a Cached<'i, R>>,
    seal: &'a Seal<&'a Cached<'i, R>>,
}

impl<'a, 'i, R: ReadAt + Sync> Sealed<'a, 'i, R> {
    pub(crate) fn new(
        image: &'a Cached<'i, R>,
        fs: &'a FileSystem<&'a Cached<'i, R>>,
        seal: &'a Seal<&'a Cached<'i, R>>,
    ) -> Self {
        Self { image, fs, seal }
    }

    /// Checks everything but the contents. Returns whether all inodes could be read; `None` when their records cannot be
    /// used.
    pub(crate) fn check(&self, faults: &mut Faults, findings: &mut Findings) -> Option<bool> {
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
        self.records(faults, findings)
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
                    let problem = format!("inode {} has no record in the seal", inode.nid);
                    faults.add(&inode, Fault::Problem(problem), findings);
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
                let problem = format!("layer {layer} of its record does not exist");
                faults.add(&inode, Fault::Problem(problem), findings);
            }
            let content = record.content.get();
            if inode.file_type != FileType::File {
                if content != NONE {
                    let problem = format!("content {content} of its record, but it is no regular file");
                    faults.add(&inode, Fault::Problem(problem), findings);
                }
            } else if u64::from(content) >= contents {
                let problem = format!("content {content} of its record does not exist");
                faults.add(&inode, Fault::Problem(problem), findings);
            }
        }
        let recorded = self.seal.inodes().len();
        if whole && count != recorded {
            self.fault(Section::Inodes, format!("{recorded} records for {count} inodes"), findings);
        }
        Some(whole)
    }

    /// One file of each content against the record of that, with so many threads. `whole` says that all files are known,
    /// and `leaves` where those of the tree are, unless it is damaged; `absent`, that there is no file data.
    pub(crate) fn contents(
        &self,
        whole: bool,
        leaves: Option<Level>,
        absent: bool,
        threads: usize,
        faults: &mut Faults,
        findings: &mut Findings,
    ) {
        let mut owners = Owners::new(self, leaves.is_some(), absent);
        match leaves {
            Some(leaves) => digests::check(self.fs, leaves, threads, &mut owners, faults, findings),
            None => {
                let wrong = owners.by_ref().filter_map(|(inode, claim)| Some((inode, claim.err()?)));
                wrong.for_each(|(inode, fault)| faults.add(&inode, fault, findings));
            }
        }
        if let Some(unused) = owners.unused.filter(|_| whole) {
            self.fault(Section::Contents, format!("content {unused} belongs to no file"), findings);
        }
    }

    fn pairs(&self) -> Pairs<'a, Cached<'i, R>> {
        let (inodes, records) = (self.fs.inodes().peekable(), self.seal.inodes());
        Pairs { inodes, records, ahead: None, last: None, ended: false }
    }
}

/// Files whose content has to be looked at, or is known to be wrong.
///
/// Of files in the same place one is enough: each content has the file that came up for it first.
struct Owners<'s, 'a, 'i, R: ReadAt> {
    sealed: &'s Sealed<'a, 'i, R>,
    /// Whether digests can be checked at all.
    digests: bool,
    absent: bool,
    pairs: Pairs<'a, Cached<'i, R>>,
    /// The first of the contents that are looked at in this round, and the first file of each.
    first: u64,
    owners: Vec<Option<NonZeroU64>>,
    /// The first content without a file.
    unused: Option<u64>,
    /// Leaves that may still be put into digests.
    budget: u64,
}

impl<'s, 'a, 'i, R: ReadAt + Sync> Owners<'s, 'a, 'i, R> {
    fn new(sealed: &'s Sealed<'a, 'i, R>, digests: bool, absent: bool) -> Self {
        let blocks = u64::from(sealed.fs.superblock().blocks);
        let mut new = Self {
            sealed,
            digests,
            absent,
            pairs: sealed.pairs(),
            first: 0,
            owners: Vec::new(),
            unused: None,
            budget: LEAVES_MAX.saturating_add(blocks.saturating_mul(4)),
        };
        new.begin(0);
        new
    }

    /// Begins the round of the contents from `first` on; `false` when there are none.
    fn begin(&mut self, first: u64) -> bool {
        let left = self.sealed.seal.contents().len().saturating_sub(first);
        self.first = first;
        self.owners.clear();
        self.owners.resize(usize::try_from(left).unwrap_or(CONTENTS_HELD).min(CONTENTS_HELD), None);
        self.pairs = self.sealed.pairs();
        left > 0
    }

    /// What there is to be done about a file, if anything.
    fn look_at(&mut self, inode: &Inode, content: u32) -> Result<Option<Claim>, Fault> {
        let place = u64::from(content).checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let owner = place.and_then(|place| self.owners.get_mut(place));
        let Some(owner) = owner.filter(|_| inode.file_type == FileType::File) else { return Ok(None) };
        if let Some(first) = owner
            && is_twin(self.sealed.fs, inode, Nid(first.get())).map_err(Fault::Error)?
        {
            return Ok(None);
        }
        // No file is inode 0.
        *owner = owner.or(NonZeroU64::new(inode.nid.0));
        let record = self.sealed.seal.contents().get(content.into()).map_err(Fault::Error)?;
        let Some(record) = record else { return Ok(None) };
        if record.reserved.get() != 0 {
            return Err(Fault::Problem(format!("reserved field of content {content} is not 0")));
        }
        if record.size.get() != inode.size {
            let (size, recorded) = (inode.size, record.size.get());
            return Err(Fault::Problem(format!("size is {size}, content {content} has {recorded}")));
        }
        // Compressed content that is not there has no digest that could be computed.
        if !self.digests || self.absent && inode.is_packed() {
            return Ok(None);
        }
        self.spend(inode).map_err(Fault::Error)?;
        Ok(Some(Claim { content, digest: record.fsverity }))
    }

    /// Takes the leaves of a file off the budget.
    fn spend(&mut self, inode: &Inode) -> Result<(), Error> {
        let left = self.budget.checked_sub(inode.size.div_ceil(BLOCK_SIZE));
        self.budget = left.ok_or_else(|| Error::Unsupported {
            part: Part::Data,
            offset: inode.offset,
            feature: "an image whose files add up to more than 4 TiB beyond its size".to_owned(),
        })?;
        Ok(())
    }
}

impl<R: ReadAt + Sync> Iterator for Owners<'_, '_, '_, R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            match self.pairs.next() {
                Some(Pair::Both(inode, record)) => {
                    if let Some(item) = self.look_at(&inode, record.content.get()).transpose() {
                        return Some((inode, item));
                    }
                }
                Some(_) => {}
                None => {
                    let free = self.owners.iter().position(Option::is_none);
                    let free = free.and_then(|place| self.first.checked_add(u64::try_from(place).ok()?));
                    self.unused = self.unused.or(free);
                    let next = self.first.saturating_add(u64::try_from(CONTENTS_HELD).unwrap_or(u64::MAX));
                    if !self.begin(next) {
                        return None;
                    }
                }
            }
        }
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
