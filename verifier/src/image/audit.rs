//! The audit of one image, stage by stage.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;

use mkimg_format::ddi::Disk;
use mkimg_format::erofs::FileSystem;
use mkimg_format::salt::Salt;
use mkimg_format::seal::{Seal, Table};
use mkimg_format::sound::Unread;
use mkimg_format::{BLOCK_SIZE, Part, ReadAt, Sha256, detached, hex, lint};

use super::Error;
use super::blame::{Damage, Damaged, Expect, Verdict, judge, leads_to};
use super::cache::Cached;
use super::content::{Sealed, section_word};
use super::disk;
use super::faults::Faults;
use super::geometry::{Geometry, without_slack};
use super::parity::{self, Flaw};
use super::paths::{self, Cut, Segment};
use super::report::{Finding, Findings, Region, Report, unreadable};
use super::scan::{Scan, Shape, Stored, scan};
use super::view::View;

/// How to audit.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The root hash that the image must have. Without it a run proves that an image is consistent, not which.
    pub root_hash: Option<Sha256>,
    /// Threads that read and hash.
    pub threads: NonZeroUsize,
    /// Called with the bytes done and the bytes of the file, from any of the threads and out of order.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

impl Default for Options<'_> {
    /// Not anchored, one thread for each processor.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { root_hash: None, threads, progress: None }
    }
}

/// Reads a whole image, a detached seal, or a disk with an image in it, and reports everything that is wrong with it.
///
/// # Errors
/// When nothing could be checked: the image cannot be opened, or it is none. Blocks that cannot be read are findings.
pub fn verify_image(image: &(impl ReadAt + Sync), options: &Options<'_>) -> Result<Report, Error> {
    let mut findings = Findings::new();
    match detached::Sealed::open(image) {
        Ok(opened) => {
            let report = Audit::new(&opened, options, findings)?.run(options)?;
            Ok(match opened.disk() {
                Some(disk) => with_disk(report, &opened, disk),
                None => report,
            })
        }
        Err(mkimg_format::Error::Io { offset, source, .. })
            if source.kind() == io::ErrorKind::UnexpectedEof =>
        {
            Err(Error::NotAnImage {
                reason: format!("it ends before byte {}", offset.saturating_add(BLOCK_SIZE)),
            })
        }
        // Whether it is a detached seal stands in block 0. Without that it can only be an image.
        Err(mkimg_format::Error::Io { source, part: Part::Header | Part::DetachedSeal, .. }) => {
            findings.mark_incomplete();
            findings.add(Region::Header, 0, BLOCK_SIZE, unreadable(source.raw_os_error()));
            Audit::new(image, options, findings)?.run(options)
        }
        Err(other) => Err(Error::Around(other)),
    }
}

/// Adds to the report of an image what is wrong around it.
fn with_disk<R: ReadAt>(mut report: Report, image: &detached::Sealed<R>, disk: &Disk) -> Report {
    let mut findings = Findings::new();
    let around = disk::audit(image, disk, &report.root_hash, &mut findings);
    findings.add_report(&mut report);
    let (findings, truncated_findings, complete) = findings.finish();
    let bytes_read = report.bytes_read.saturating_add(around);
    Report { findings, truncated_findings, complete, bytes_read, on_disk: true, ..report }
}

struct Audit<'a, R> {
    view: View<'a, R>,
    geometry: Geometry,
    findings: Findings,
    /// Whether file data is left out.
    data_absent: bool,
    /// Block 1 could not be read when it was first looked at.
    probe_failure: Option<Option<i32>>,
}

impl<'a, R: ReadAt + Sync> Audit<'a, R> {
    fn new(image: &'a R, options: &Options<'_>, mut findings: Findings) -> Result<Self, Error> {
        let geometry = Geometry::find(image, &mut findings)?;
        if let Some(progress) = options.progress {
            progress(0, geometry.file_size);
        }
        // A detached seal may have been opened by the caller: then its gap shows by how it answers.
        let probe =
            if geometry.file_size > BLOCK_SIZE { image.read_exact_at(&mut [0], BLOCK_SIZE) } else { Ok(()) };
        let gap = probe.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let probe_failure = probe.err().filter(|_| !gap).map(|error| error.raw_os_error());
        let view = View::new(image, geometry.block0.clone(), 0..0);
        Ok(Self { view, data_absent: gap && geometry.meta_block > 1, geometry, findings, probe_failure })
    }

    fn run(mut self, options: &Options<'_>) -> Result<Report, Error> {
        let absent = if self.data_absent { 1..self.geometry.meta_block } else { 0..0 };
        let levels = self.geometry.levels.clone();
        let shape = Shape {
            data_blocks: self.geometry.data_blocks,
            levels: &levels,
            salt: &Salt::NONE,
            file_size: self.geometry.file_size,
            absent,
        };
        // When the file ends before the tree there is nothing to compare its blocks with.
        let has_tree = self.geometry.file_size >= self.geometry.hash_offset();
        let mut bytes_read = 0;
        let mut root_hash = options.root_hash.or_else(|| self.geometry.trailer_root()).unwrap_or_default();
        let mut unchecked;
        if has_tree {
            let scan = scan(&self.view, &shape, options.threads, options.progress);
            bytes_read = scan.bytes_read.saturating_add(self.geometry.tail_bytes());
            unchecked = scan.unchecked;
            let expect = self.choose_root(&scan, options, &mut root_hash);
            let verdict = judge(&scan, &shape, expect);
            if !shape.reaches(self.geometry.tree_offset()) {
                // Without a tree, the data is proven if it leads to a root that somebody names; or not at all.
                let named = options.root_hash == Some(root_hash) || self.geometry.speaks_for(&root_hash);
                let proven = named && scan.top.pure == Some(root_hash);
                unchecked = if proven { 0 } else { self.geometry.data_blocks };
            }
            self.findings.drop(verdict.dropped);
            self.report_damage(&verdict.ranges);
            self.report_unsteady(&verdict);
            bytes_read = bytes_read.saturating_add(self.report_parity(&verdict, options.threads));
            self.geometry.report_tail(&root_hash, &mut self.findings);
            let whole = self.geometry.file_size >= self.geometry.image_size();
            if unchecked == 0 && !self.damaged_inside(&verdict.ranges) {
                let tree_holds = whole && verdict.ranges.is_empty();
                self.check_structure(tree_holds, options.threads);
            }
        } else {
            unchecked = self.geometry.file_size.div_ceil(BLOCK_SIZE).min(self.geometry.data_blocks);
        }
        self.geometry.report_length(unchecked, &mut self.findings);
        if let Some(progress) = options.progress {
            progress(self.geometry.file_size, self.geometry.file_size);
        }
        let (findings, truncated_findings, complete) = self.findings.finish();
        Ok(Report {
            anchored: options.root_hash.is_some(),
            root_hash,
            data_blocks: self.geometry.data_blocks,
            image_size: self.geometry.image_size(),
            fec_roots: self.geometry.parity().map_or(0, |parity| parity.roots()),
            header: self.geometry.header,
            bytes_read,
            findings,
            truncated_findings,
            complete,
            data_absent: self.data_absent,
            on_disk: false,
            unread: Unread::default(),
        })
    }

    /// Decides against which root the tree is judged, and reports what claims another.
    fn choose_root(&mut self, scan: &Scan, options: &Options<'_>, root_hash: &mut Sha256) -> Expect {
        let claimed = self.geometry.trailer_root();
        let expect = |root: &Sha256| {
            if scan.top.pushed.as_ref() == Some(root) { Expect::Holds } else { Expect::Is(*root) }
        };
        let candidates = [options.root_hash, claimed];
        if let Some(root) = candidates.iter().flatten().find(|root| leads_to(scan, root)) {
            if let Some(wanted) = options.root_hash.filter(|wanted| wanted != root) {
                let problem = format!(
                    "the image is consistent with itself, but it is the image of root hash {}, not of {}",
                    hex(root),
                    hex(&wanted)
                );
                self.root_finding(problem);
            }
            *root_hash = *root;
            // The other of two claims is reported with the trailer that makes it.
            return expect(root);
        }
        let own = scan.top.pushed;
        let top = scan.records.last().and_then(|records| records.get(0));
        let consistent = top.is_none_or(|record| record.state == Stored::Present && record.differ == 0);
        if options.root_hash.is_none() {
            // A damaged or rewritten trailer: the UUID of the dm-verity superblock may decide.
            let rebuilt = top.and_then(|record| record.rebuilt);
            let hinted = [own, rebuilt, scan.top.pure]
                .into_iter()
                .flatten()
                .find(|root| self.geometry.speaks_for(root));
            if let Some(root) = hinted {
                *root_hash = root;
                return expect(&root);
            }
        }
        let Some(own) = own else { return Expect::Unknown };
        match options.root_hash.or(claimed) {
            None => {
                *root_hash = own;
                Expect::Holds
            }
            Some(wanted) if consistent => {
                self.root_finding(format!(
                    "the tree leads to root hash {}, not to {}",
                    hex(&own),
                    hex(&wanted)
                ));
                *root_hash = own;
                Expect::Unknown
            }
            Some(wanted) => {
                *root_hash = wanted;
                if options.root_hash.is_some() {
                    self.root_finding(format!(
                        "neither the tree nor the data leads to root hash {}",
                        hex(&wanted)
                    ));
                }
                Expect::Is(wanted)
            }
        }
    }

    fn root_finding(&mut self, problem: String) {
        self.findings.add(Region::RootHash, self.geometry.tree_offset(), BLOCK_SIZE, problem);
    }

    fn damaged_inside(&self, ranges: &[Damaged]) -> bool {
        let end = self.geometry.hash_offset();
        ranges.iter().any(|range| range.start < end)
            || self.findings.has(&[Region::Header, Region::Superblock])
    }

    /// Turns damaged ranges into findings.
    fn report_damage(&mut self, ranges: &[Damaged]) {
        let mut files: Vec<(Range<u64>, Damage)> = Vec::new();
        for range in ranges {
            if matches!(range.damage, Damage::Unreadable(_)) {
                self.findings.mark_incomplete();
            }
            // A range may run over the border of two regions.
            let geometry = &self.geometry;
            let borders =
                [BLOCK_SIZE, at(geometry.meta_block), at(geometry.seal_block), geometry.hash_offset()];
            let mut start = range.start;
            while start < range.end {
                let end = borders.into_iter().filter(|border| *border > start).fold(range.end, u64::min);
                match self.geometry.region(start) {
                    Region::Header => self.report_block0(range.damage),
                    Region::Seal => self.report_seal(start..end, range.damage),
                    Region::Tree => {
                        self.findings.add(
                            Region::Tree,
                            start,
                            end.saturating_sub(start),
                            problem(range.damage),
                        );
                    }
                    _ => files.push((start..end, range.damage)),
                }
                start = end;
            }
        }
        self.report_files(&files);
    }

    /// What was read in the end is as it should be, but a medium that has to be asked twice is no clean result.
    fn report_unsteady(&mut self, verdict: &Verdict) {
        for (range, errno) in &verdict.unsteady {
            let region = self.geometry.region(range.start.max(BLOCK_SIZE));
            let problem = format!("{}, but readable block by block", unreadable(*errno));
            self.findings.add(region, range.start, range.end.saturating_sub(range.start), problem);
        }
        let Some(errno) = self.probe_failure else { return };
        let covered = verdict.ranges.iter().any(|range| (range.start..range.end).contains(&BLOCK_SIZE));
        if !covered {
            let problem = format!("{}, but readable later", unreadable(errno));
            self.findings.add(self.geometry.region(BLOCK_SIZE), BLOCK_SIZE, BLOCK_SIZE, problem);
        }
    }

    /// Compares the parity with what data and tree make it, and returns how many bytes of it could be read.
    fn report_parity(&mut self, verdict: &Verdict, threads: NonZeroUsize) -> u64 {
        // Without file data nothing can be computed, and without the end of the tree no round is whole.
        let Some(layout) = self.geometry.parity().filter(|_| !self.data_absent) else { return 0 };
        // Nor can rounds be judged when there is more damage than could be kept.
        if self.geometry.file_size < layout.round_offset(0) || verdict.dropped > 0 {
            return 0;
        }
        let compared = parity::compare(&self.view, &layout, &verdict.ranges, threads.get());
        for (range, flaw) in compared.flaws {
            let problem = match flaw {
                Flaw::Wrong => "is not the parity of what the image holds".to_owned(),
                Flaw::Unreadable(errno) => {
                    self.findings.mark_incomplete();
                    unreadable(errno)
                }
            };
            self.findings.add(Region::Parity, range.start, range.end.saturating_sub(range.start), problem);
        }
        self.findings.drop(compared.dropped);
        compared.bytes_read
    }

    /// The hash says no more about block 0 than header, superblock and slack said already.
    fn report_block0(&mut self, damage: Damage) {
        if !self.findings.has(&[Region::Header, Region::Superblock, Region::Slack]) {
            let problem = format!("block 0 {}, although the checksums in it hold", problem(damage));
            self.findings.add(Region::Header, 0, BLOCK_SIZE, problem);
        }
    }

    /// Names the sections that damaged blocks of the seal belong to.
    fn report_seal(&mut self, range: Range<u64>, damage: Damage) {
        let places = match &self.geometry.header {
            Some(header) => {
                Table::read(&self.view, header).map(|table| table.places().to_vec()).unwrap_or_default()
            }
            None => Vec::new(),
        };
        let table_end = at(self.geometry.seal_block.saturating_add(1));
        let mut named = places.iter().filter(|place| place.length > 0).map(|place| {
            let end = place.offset.saturating_add(place.length);
            (place.offset..end.next_multiple_of(BLOCK_SIZE), section_word(place.section))
        });
        let mut start = range.start;
        while start < range.end {
            let (end, word) = if start < table_end {
                (table_end, "table of sections")
            } else {
                match named.find(|(place, _)| place.contains(&start)) {
                    Some((place, word)) => (place.end, word),
                    None => (range.end, "section unknown"),
                }
            };
            let end = end.min(range.end);
            let problem = format!("{word}: {}", problem(damage));
            self.findings.add(Region::Seal, start, end.saturating_sub(start), problem);
            start = end;
        }
    }

    /// Names the files that damaged blocks of data and metadata belong to.
    fn report_files(&mut self, files: &[(Range<u64>, Damage)]) {
        if files.is_empty() {
            return;
        }
        let ranges: Vec<Range<u64>> = files.iter().map(|(range, _)| range.clone()).collect();
        let geometry = &self.geometry;
        let findings = &mut self.findings;
        let mut take = |index: usize, segment: Segment| {
            let Some((range, damage)) = files.get(index) else { return };
            let mut problem = problem(*damage);
            if segment.padding {
                problem.push_str("; bytes behind the end of the file are not zero");
            }
            findings.push(Finding {
                offset: segment.start,
                length: segment.end.saturating_sub(segment.start),
                region: geometry.region(range.start),
                paths: segment.paths,
                more_paths: segment.more,
                problem,
            });
        };
        // Broken slack breaks the checksum of the superblock, which says nothing about the superblock itself.
        let mended = geometry.block0.as_ref().map(|block| without_slack(block));
        let view = View::new(self.view.io(), mended, 0..0);
        let cached = Cached::new(&view, at(self.geometry.meta_block));
        match FileSystem::open(&cached) {
            Ok(fs) => paths::map(&fs, &ranges, Cut::Files, |index, segment, _| take(index, segment)),
            Err(_) => {
                for (index, range) in ranges.iter().enumerate() {
                    let (start, end) = (range.start, range.end);
                    take(index, Segment::of_nobody(start, end));
                }
            }
        }
    }

    /// What hashes cannot say: whether the image means what it should.
    fn check_structure(&mut self, tree_holds: bool, threads: NonZeroUsize) {
        let Some(header) = self.geometry.header else { return };
        // Slack that is protected by the hash is reported by itself, and must not hide the rest.
        let mended = self.geometry.block0.as_ref().map(|block| without_slack(block));
        let gap = if self.data_absent { BLOCK_SIZE..at(self.geometry.meta_block) } else { 0..0 };
        let view = View::new(self.view.io(), mended, gap);
        let meta = at(self.geometry.meta_block);
        let findings = &mut self.findings;
        let leaves = self.geometry.levels.first().copied().filter(|_| tree_holds);
        let lint = || {
            let mut found = Vec::new();
            let done = lint::lint(&Cached::new(&view, meta), &header, &mut |finding| found.push(finding));
            (found, done)
        };
        let cached = Cached::new(&view, meta);
        let opened = Seal::open(&cached, &header).and_then(|seal| Ok((seal, FileSystem::open(&cached)?)));
        let sealed = opened.as_ref().map(|(seal, fs)| Sealed::new(&cached, fs, seal));
        let mut faults = Faults::default();
        // Format and records have nothing to do with each other.
        let ((found, done), whole) = std::thread::scope(|scope| {
            let spawn = || std::thread::Builder::new().spawn_scoped(scope, lint).ok();
            let helper = (threads.get() > 1).then(spawn).flatten();
            let whole = sealed.as_ref().ok().and_then(|sealed| sealed.check(&mut faults, findings));
            match helper.map(std::thread::ScopedJoinHandle::join) {
                None => (lint(), whole),
                Some(Ok(linted)) => (linted, whole),
                Some(Err(panic)) => std::panic::resume_unwind(panic),
            }
        });
        match (sealed, whole) {
            (Ok(sealed), Some(whole)) => {
                sealed.contents(whole, leaves, self.data_absent, threads.get(), &mut faults, findings);
            }
            (Ok(_), None) => {}
            (Err(error), _) => findings.add_error(error, None),
        }
        if let Ok((_, fs)) = &opened {
            faults.report(fs, findings);
        }
        for lint::Finding { part, offset, path, problem } in found {
            let paths = path.into_iter().collect();
            findings.push(Finding {
                offset,
                length: 0,
                region: Region::of(part),
                paths,
                more_paths: 0,
                problem,
            });
        }
        if let Err(error) = done {
            findings.add_error(&error, None);
        }
        if let Some((offset, errno)) = view.failure().filter(|_| findings.is_complete()) {
            findings.mark_incomplete();
            findings.add(Region::Structure, offset, 0, unreadable(errno));
        }
    }
}

const fn at(block: u64) -> u64 {
    block.saturating_mul(BLOCK_SIZE)
}

pub(super) fn problem(damage: Damage) -> String {
    match damage {
        Damage::Wrong => "does not match its hash in the tree".to_owned(),
        Damage::Unvouched => "cannot be vouched for: the tree above it is damaged or missing".to_owned(),
        Damage::Unreadable(errno) => unreadable(errno),
        Damage::Tree => "hash block is damaged, and what it covers is accounted for".to_owned(),
        Damage::TreeAndBelow => "hash block is damaged, and something that it covers as well".to_owned(),
        Damage::TreeReplaced => {
            "hash block does not match the block above it, though it fits what it covers".to_owned()
        }
    }
}
