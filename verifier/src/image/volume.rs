//! The audit of an image of another writer: its blocks against its tree, the tree against a root hash.
//!
//! It has no header, no records and no trailer, so less can be said than of an image of mkimg: the numbers come from the
//! dm-verity superblock, its place and the file system, there are no digests of files, and structure has to be
//! sound only. Scan, blame and paths are the same.

use std::io;
use std::ops::{ControlFlow, Range};

use mkimg_format::erofs::FileSystem;
use mkimg_format::sound::{self, Unread};
use mkimg_format::volume::Volume;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, ReadAt, Sha256, hex};

use super::Error;
use super::audit::{Options, problem};
use super::blame::{Damage, Damaged, Expect, Verdict, judge, leads_to};
use super::cache::Cached;
use super::disk::GAPS_MAX;
use super::paths::{self, Cut, Segment};
use super::report::{Finding, Findings, Region, Report, unreadable};
use super::scan::{Scan, Shape, Stored, first_bits, scan};
use super::view::{View, read_block};
use super::zeros::nonzero;

/// Bytes that are read at once where nothing but zeros is expected.
const WINDOW: usize = 64 * BLOCK_LEN;

/// Reads a whole image of another writer with its tree, and reports everything that is wrong with it.
///
/// `image` is what `volume` was found in: a [`Joined`](mkimg_format::volume::Joined). Where the tree is a file of its own,
/// findings about that file say so in their text, and their offsets are in it.
///
/// # Errors
/// When the length of the image cannot be found out. Blocks that cannot be read are findings.
pub fn verify_volume(
    image: &(impl ReadAt + Sync),
    volume: &Volume,
    options: &Options<'_>,
) -> Result<Report, Error> {
    let size = image.size().map_err(|source| Error::Io { offset: 0, source })?;
    let mut findings = Findings::new();
    let block0 = match read_block(image, 0) {
        Ok(block) => Some(block),
        Err(errno) => {
            findings.mark_incomplete();
            findings.add(Region::Superblock, 0, BLOCK_SIZE, unreadable(errno));
            None
        }
    };
    let view = View::new(image, block0, 0..0);
    Ok(Audit { view, volume, size, findings }.run(options))
}

struct Audit<'a, R> {
    view: View<'a, R>,
    volume: &'a Volume,
    /// Behind the last byte that there is.
    size: u64,
    findings: Findings,
}

impl<R: ReadAt + Sync> Audit<'_, R> {
    fn run(mut self, options: &Options<'_>) -> Report {
        let volume = self.volume;
        let levels = volume.levels();
        // Of an image that was cut, what is missing need not be looked for.
        let there = volume.image_size / BLOCK_SIZE;
        let absent = if there < volume.data_blocks { there..volume.data_blocks } else { 0..0 };
        let shape = Shape {
            data_blocks: volume.data_blocks,
            levels: &levels,
            salt: &volume.parameters.salt,
            file_size: self.size,
            absent,
        };
        // Between two files there is nothing that could be read.
        let total = match volume.hash_file {
            Some(start) => volume.image_size.saturating_add(self.size.saturating_sub(start)),
            None => self.size,
        };
        let progress = options.progress.map(|progress| move |done, _| progress(done, total));
        let progress = progress.as_ref().map(|progress| progress as &(dyn Fn(u64, u64) + Sync));
        let scan = scan(&self.view, &shape, options.threads, progress);
        let (root_hash, expect) = self.choose_root(&scan, &shape, options.root_hash);
        let mut sound = scan.unchecked == 0;
        if let Some(expect) = expect {
            let verdict = judge(&scan, &shape, expect);
            self.findings.drop(verdict.dropped);
            self.report_damage(&verdict);
            sound &= verdict.ranges.iter().all(|range| range.start >= volume.tree_offset());
            if expect == Expect::Holds {
                self.report_spare_slots(&scan, &shape, &verdict);
            }
        }
        self.report_numbers();
        self.report_ends(scan.unchecked);
        sound &= !self.findings.has(&[Region::Superblock, Region::RootHash, Region::Truncated]);
        let unread = if expect.is_some() && sound { self.check_structure() } else { Unread::default() };
        let (findings, truncated_findings, complete) = self.findings.finish();
        Report {
            anchored: options.root_hash.is_some(),
            root_hash,
            data_blocks: volume.data_blocks,
            image_size: if volume.hash_file.is_some() { volume.data_end() } else { volume.end() },
            fec_roots: 0,
            header: None,
            // And the block of the superblock, which is no part of the tree.
            bytes_read: scan.bytes_read.saturating_add(BLOCK_SIZE),
            findings,
            truncated_findings,
            complete,
            data_absent: false,
            on_disk: false,
            unread,
        }
    }

    /// The root hash that the image has, and against what its tree is judged; that is nothing where no block fits.
    fn choose_root(
        &mut self,
        scan: &Scan,
        shape: &Shape<'_>,
        wanted: Option<Sha256>,
    ) -> (Sha256, Option<Expect>) {
        let own = scan.top.pushed;
        if let Some(wanted) = wanted.filter(|wanted| leads_to(scan, wanted)) {
            let holds = own == Some(wanted);
            return (wanted, Some(if holds { Expect::Holds } else { Expect::Is(wanted) }));
        }
        let root = wanted.or(own).unwrap_or_default();
        if shape.levels.is_empty() {
            if let Some(wanted) = wanted.filter(|_| own.is_some()) {
                let problem = format!("the only block of the image does not have root hash {}", hex(&wanted));
                self.findings.add(Region::Superblock, 0, BLOCK_SIZE, problem);
            }
            return (root, Some(Expect::Holds));
        }
        if self.nothing_fits(scan, shape) {
            let offset = self.volume.hash_offset;
            let problem = "no block has its hash in the tree: salt or number of blocks are not those that it was made with, or it is the tree of another image";
            self.add_of_hashes(Region::VeritySuperblock, offset, 512, problem.to_owned());
            return (root, None);
        }
        let top = scan.records.last().and_then(|records| records.get(0));
        let consistent = top.is_none_or(|record| record.state == Stored::Present && record.differ == 0);
        match (wanted, own) {
            (None, _) => (root, Some(Expect::Holds)),
            (Some(wanted), Some(own)) if consistent => {
                let problem = format!("the tree leads to root hash {}, not to {}", hex(&own), hex(&wanted));
                self.add_of_hashes(Region::RootHash, self.volume.tree_offset(), BLOCK_SIZE, problem);
                // Where it is damaged against itself is worth knowing.
                (own, Some(Expect::Holds))
            }
            (Some(wanted), _) => {
                let problem = format!("neither the tree nor the data leads to root hash {}", hex(&wanted));
                self.add_of_hashes(Region::RootHash, self.volume.tree_offset(), BLOCK_SIZE, problem);
                (wanted, Some(Expect::Is(wanted)))
            }
        }
    }

    /// Whether all of the tree is there, and not one block has the hash that it has there.
    fn nothing_fits(&self, scan: &Scan, shape: &Shape<'_>) -> bool {
        let Some(records) = scan.records.first() else { return false };
        let runs = shape.levels.first().map_or(0, |leaf| leaf.blocks);
        let matching = (0..runs).any(|run| {
            let used = first_bits(shape.used(0, run));
            records.get(run).is_none_or(|record| {
                record.state != Stored::Present || record.unreadable != 0 || record.differ & used != used
            })
        });
        !matching && scan.unchecked == 0 && scan.dropped == 0
    }

    /// Hashes behind the last one that is used were made for blocks that nobody looks at any more.
    fn report_spare_slots(&mut self, scan: &Scan, shape: &Shape<'_>, verdict: &Verdict) {
        for (level, records) in scan.records.iter().enumerate() {
            let last = shape.levels.get(level).map_or(0, |level| level.blocks.saturating_sub(1));
            let used = first_bits(shape.used(level, last));
            let offset = shape.offset(level, last);
            let damaged = verdict.ranges.iter().any(|range| (range.start..range.end).contains(&offset));
            if !damaged && records.get(last).is_some_and(|record| record.differ & !used != 0) {
                let blocks = self.volume.data_blocks;
                let problem = format!("hash block has hashes of more than the {blocks} blocks of the image");
                self.add_of_hashes(Region::Tree, offset, BLOCK_SIZE, problem);
            }
        }
    }

    /// A finding in the file that has the tree, at an offset of that.
    fn add_of_hashes(&mut self, region: Region, offset: u64, length: u64, mut problem: String) {
        let start = self.volume.hash_file;
        if start.is_some() {
            problem.insert_str(0, "in the hash file: ");
        }
        self.findings.add(region, offset.saturating_sub(start.unwrap_or_default()), length, problem);
    }

    /// Turns damaged ranges into findings.
    fn report_damage(&mut self, verdict: &Verdict) {
        let tree = self.volume.tree_offset();
        let end = self.volume.file_system.unwrap_or(u64::MAX);
        let mut files: Vec<(Range<u64>, Damage)> = Vec::new();
        for &Damaged { start, end: stop, damage } in &verdict.ranges {
            if matches!(damage, Damage::Unreadable(_)) {
                self.findings.mark_incomplete();
            }
            if start >= tree {
                self.add_of_hashes(Region::Tree, start, stop.saturating_sub(start), problem(damage));
                continue;
            }
            let mut from = start;
            for border in [BLOCK_SIZE, end, u64::MAX] {
                let to = stop.min(border);
                if from < to {
                    files.push((from..to, damage));
                    from = to;
                }
            }
        }
        for (range, errno) in &verdict.unsteady {
            let problem = format!("{}, but readable block by block", unreadable(*errno));
            self.findings.add(Region::Data, range.start, range.end.saturating_sub(range.start), problem);
        }
        self.report_files(&files);
    }

    /// Names the files that damaged blocks belong to, or says why it cannot.
    fn report_files(&mut self, files: &[(Range<u64>, Damage)]) {
        if files.is_empty() {
            return;
        }
        let ranges: Vec<Range<u64>> = files.iter().map(|(range, _)| range.clone()).collect();
        let end = self.volume.file_system.unwrap_or(u64::MAX);
        let findings = &mut self.findings;
        let mut take = |index: usize, segment: Segment, unknown: Option<String>| {
            let Some((range, damage)) = files.get(index) else { return };
            let mut problem = problem(*damage);
            let region = match range.start {
                0 => Region::Superblock,
                _ if segment.metadata => Region::Metadata,
                _ => Region::Data,
            };
            if range.start == 0 {
                problem.insert_str(0, "block 0, which has the superblock, ");
            }
            if segment.padding {
                problem.push_str("; bytes behind the end of the file are not zero");
            }
            if range.start >= end {
                problem.push_str("; behind the end of the file system");
            } else if let Some(unknown) = unknown.filter(|_| segment.paths.is_empty()) {
                problem.push_str("; paths unknown: ");
                problem.push_str(&unknown);
            }
            findings.push(Finding {
                offset: segment.start,
                length: segment.end.saturating_sub(segment.start),
                region,
                paths: segment.paths,
                more_paths: segment.more,
                problem,
            });
        };
        let data = Data::of(&self.view, self.volume);
        let cached = Cached::new(&data, 0);
        match FileSystem::open(&cached) {
            Ok(fs) => paths::map(&fs, &ranges, Cut::FilesAndMetadata, |index, segment, unread| {
                take(index, segment, describe(unread));
            }),
            Err(error) => {
                for (index, range) in ranges.iter().enumerate() {
                    take(index, Segment::of_nobody(range.start, range.end), Some(error.to_string()));
                }
            }
        }
    }

    /// The dm-verity superblock against everything else.
    fn report_numbers(&mut self) {
        let volume = self.volume;
        let (stated, blocks) = (volume.parameters.data_blocks, volume.data_blocks);
        if stated != blocks {
            let problem = format!("data_blocks is {stated}, the image has {blocks}");
            self.add_of_hashes(Region::VeritySuperblock, volume.hash_offset.saturating_add(72), 8, problem);
        }
        if let Some((offset, field)) = volume.stray() {
            let problem = format!("byte of {field} that says nothing is not zero");
            self.add_of_hashes(Region::VeritySuperblock, offset, 1, problem);
        }
        // Of a superblock that is damaged no number counts.
        let damaged = self.findings.has(&[Region::Superblock]);
        if let Some(length) = volume.file_system.filter(|length| !damaged && *length > volume.data_end()) {
            let covered = volume.data_end();
            let problem = format!("the file system has {length} bytes, the tree covers the first {covered}");
            self.findings.add(Region::Superblock, 1024, 128, problem);
        }
        let behind = volume.hash_offset.saturating_add(512);
        let what = "bytes behind the verity superblock are not zero";
        self.report_nonzero(behind..volume.tree_offset().min(self.size), what);
        if volume.hash_file.is_none() {
            let what = "bytes between data and verity superblock are not zero, and no hash covers them";
            let gap = volume.data_end()..volume.hash_offset;
            let end = gap.end.min(gap.start.saturating_add(GAPS_MAX));
            self.report_nonzero(gap.start..end, what);
            if end < gap.end {
                self.findings.mark_incomplete();
                let what = "more than 1 GiB between data and verity superblock: the rest was not looked at";
                self.add_of_hashes(Region::Slack, end, gap.end.saturating_sub(end), what.to_owned());
            }
        }
    }

    /// One finding from the first byte to the last that is not zero.
    fn report_nonzero(&mut self, range: Range<u64>, what: &str) {
        let mut failure = None;
        let found = nonzero(&self.view, range.clone(), WINDOW, |part, error| {
            failure = Some((part.start, error.raw_os_error()));
            ControlFlow::Break(())
        });
        if let Some((at, errno)) = failure {
            self.findings.mark_incomplete();
            self.add_of_hashes(Region::Slack, at, range.end.saturating_sub(at), unreadable(errno));
        }
        if let Some(found) = found {
            let length = found.end.saturating_sub(found.start);
            self.add_of_hashes(Region::Slack, found.start, length, what.to_owned());
        }
    }

    /// Lengths of the image, and of the file that has the tree.
    fn report_ends(&mut self, unchecked: u64) {
        let volume = self.volume;
        if volume.hash_file.is_some() {
            let (there, covered) = (volume.image_size, volume.data_end());
            if there < covered {
                let problem = format!("the image has {there} bytes, the tree covers {covered}");
                self.findings.add(Region::Truncated, there, covered.saturating_sub(there), problem);
            } else if there > covered {
                let extra = there.saturating_sub(covered);
                let problem = format!("{extra} bytes behind what the tree covers, which ends at {covered}");
                self.findings.add(Region::Trailing, covered, extra, problem);
            }
        }
        let start = volume.hash_file.unwrap_or_default();
        let (there, end) = (self.size.saturating_sub(start), volume.end().saturating_sub(start));
        if there < end {
            let mut problem = format!("the file has {there} bytes, its tree ends at {end}");
            if unchecked > 0 {
                problem.push_str(&format!(
                    "; for want of the tree {unchecked} blocks of data could not be checked"
                ));
            }
            let missing = end.saturating_sub(there);
            self.add_of_hashes(Region::Truncated, self.size, missing, problem);
        } else if there > end {
            let extra = there.saturating_sub(end);
            let problem = format!("{extra} bytes behind the end of the tree at {end}");
            self.add_of_hashes(Region::Trailing, volume.end(), extra, problem);
        }
    }

    /// What hashes cannot say: whether the file system is sound. Returns what of it could not be read.
    fn check_structure(&mut self) -> Unread {
        let findings = &mut self.findings;
        let data = Data::of(&self.view, self.volume);
        let cached = Cached::new(&data, 0);
        let mut unread = Unread::default();
        let checked = FileSystem::open(&cached)
            .and_then(|fs| sound::check(&fs, &mut |path, error| findings.add_error(&error, Some(&path))));
        match checked {
            Ok(found) => return found,
            Err(error) => {
                if let Some(error) = unread.note(error) {
                    findings.add_error(&error, None);
                }
            }
        }
        unread
    }
}

/// What the tree covers, as far as it is there: a file system that claims to be longer is none.
struct Data<'a, R> {
    view: &'a View<'a, R>,
    end: u64,
}

impl<'a, R> Data<'a, R> {
    fn of(view: &'a View<'a, R>, volume: &Volume) -> Self {
        Self { view, end: volume.data_end().min(volume.image_size) }
    }
}

impl<R: ReadAt> ReadAt for Data<'_, R> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.view.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.end)
    }
}

/// Why a block may belong to files that are not named.
fn describe(unread: &Unread) -> Option<String> {
    let first = unread.first.as_ref()?;
    Some(match unread.count {
        1 => first.clone(),
        count => format!("{count} inodes are of unknown forms, the first: {first}"),
    })
}
