//! The fs-verity digests of contents against what their records claim.
//!
//! Files are handed out in runs, and large ones in parts, so that whoever has many threads waits for no single file. An
//! answer of a run is what is wrong in it, one of a part is its leaves, which are put together in order.

use std::ops::Range;

use mkimg_format::erofs::{Extent, FileSystem, Inode, Layout};
use mkimg_format::fsverity::{Batch, Digester, zero_leaf};
use mkimg_format::merkle::{hash_block, hash_blocks};
use mkimg_format::verity::Level;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Error, Part, ReadAt, Sha256, hex};

use super::cache::Cached;
use super::faults::{Fault, Faults};
use super::in_turn::in_turn;
use super::report::Findings;

/// Bytes of content that are taken out of an image and hashed at once.
const TAKEN_OUT: usize = 1 << 20;
/// Bytes of content that are a job, unless a file that begins in it is longer: pieces that hold files of two jobs are taken
/// out twice, and jobs should not get too few.
const JOB: u64 = 4 << 20;
/// Files that are a job.
const JOB_FILES: usize = 1024;
/// Leaves of the tree that are read at once: a block of it.
const LEAVES: u64 = BLOCK_SIZE / 32;
/// Blocks that are held for each thread: 1 MiB, for maps and leaves.
const BLOCKS_HELD: usize = 256;

/// What the record of a content says about a file.
pub(crate) struct Claim {
    /// Number of the content.
    pub(crate) content: u32,
    /// Its fs-verity digest.
    pub(crate) digest: Sha256,
}

impl Claim {
    /// What is wrong when `found` is the digest of the file.
    fn refute(&self, found: &Sha256) -> Option<String> {
        let Self { content, digest } = self;
        let problem = || format!("fs-verity digest is {}, content {content} has {}", hex(found), hex(digest));
        (found != digest).then(problem)
    }
}

/// A file, and either what is to be checked or what is known to be wrong with it.
pub(crate) type Item = (Inode, Result<Claim, Fault>);

/// Checks all claims with so many threads. What is wrong is added in the order of the items.
pub(crate) fn check<'a, R: ReadAt + Sync>(
    fs: &FileSystem<&Cached<'a, R>>,
    leaves: Level,
    threads: usize,
    items: impl Iterator<Item = Item>,
    faults: &mut Faults,
    findings: &mut Findings,
) {
    let (image, start) = fs.io().below();
    let base = fs.through(image);
    let worker = || {
        let fs = base.through(Cached::of_blocks(BLOCKS_HELD, image, start));
        let mut worker = Worker::new(fs, leaves);
        move |job| worker.work(job)
    };
    let mut file = OpenFile::default();
    in_turn(threads, worker, Jobs::new(items), |answer| match answer {
        Answer::Files(wrong) => {
            wrong.into_iter().for_each(|(inode, fault)| faults.add(&inode, fault, findings));
        }
        Answer::Part { inode, leaves, last } => {
            file.put(leaves);
            if let Some(claim) = last
                && let Some(fault) = std::mem::take(&mut file).close(&inode, &claim)
            {
                faults.add(&inode, fault, findings);
            }
        }
    });
}

enum Job {
    /// Files, from first to last.
    Files(Vec<Item>),
    /// Content of a file from a byte on, up to [`JOB`] of it; the last part has the claim.
    Part { inode: Inode, start: u64, last: Option<Claim> },
}

enum Answer {
    /// Files with what is wrong.
    Files(Vec<(Inode, Fault)>),
    /// The leaves of a part.
    Part { inode: Inode, leaves: Result<Vec<Sha256>, Error>, last: Option<Claim> },
}

/// Cuts items into jobs. What the jobs are does not depend on who does them.
struct Jobs<I> {
    items: I,
    /// A large file, and where its next part begins.
    large: Option<(Inode, Claim, u64)>,
}

impl<I: Iterator<Item = Item>> Jobs<I> {
    const fn new(items: I) -> Self {
        Self { items, large: None }
    }
}

impl<I: Iterator<Item = Item>> Iterator for Jobs<I> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let mut files = Vec::new();
        let mut length = 0_u64;
        while self.large.is_none() && length < JOB && files.len() < JOB_FILES {
            match self.items.next() {
                None => break,
                Some((inode, Ok(claim))) if inode.size > JOB => self.large = Some((inode, claim, 0)),
                Some((inode, claim)) => {
                    length = length.saturating_add(inode.size);
                    files.push((inode, claim));
                }
            }
        }
        if !files.is_empty() {
            return Some(Job::Files(files));
        }
        let (inode, claim, start) = self.large.take()?;
        let next = start.saturating_add(JOB);
        if next >= inode.size {
            return Some(Job::Part { inode, start, last: Some(claim) });
        }
        self.large = Some((inode.clone(), claim, next));
        Some(Job::Part { inode, start, last: None })
    }
}

/// A large file of which parts have come.
#[derive(Default)]
struct OpenFile {
    digester: Digester,
    /// The first one.
    error: Option<Error>,
}

impl OpenFile {
    fn put(&mut self, leaves: Result<Vec<Sha256>, Error>) {
        match leaves {
            Ok(leaves) => leaves.iter().for_each(|leaf| self.digester.push(leaf)),
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }

    fn close(self, inode: &Inode, claim: &Claim) -> Option<Fault> {
        match self.error {
            Some(error) => Some(Fault::Error(error)),
            None => claim.refute(&self.digester.finish(inode.size)).map(Fault::Problem),
        }
    }
}

/// Computes leaves.
struct Worker<'a, R> {
    fs: FileSystem<Cached<'a, R>>,
    /// Leaf level of the tree.
    tree: Level,
    buffers: Buffers,
}

impl<'a, R: ReadAt> Worker<'a, R> {
    const fn new(fs: FileSystem<Cached<'a, R>>, tree: Level) -> Self {
        Self { fs, tree, buffers: Buffers::new() }
    }

    fn work(&mut self, job: Job) -> Answer {
        match job {
            Job::Files(files) => Answer::Files(self.files(files)),
            Job::Part { inode, start, last } => {
                let mut leaves = Vec::new();
                let done = self.leaves(&inode, start, JOB, &mut |leaf| leaves.push(*leaf));
                Answer::Part { inode, leaves: done.map(|()| leaves), last }
            }
        }
    }

    fn files(&mut self, files: Vec<Item>) -> Vec<(Inode, Fault)> {
        let mut wrong = Vec::new();
        let mut batch = Batch::default();
        let compare = |batch: &mut Batch<(Inode, Claim)>, wrong: &mut Vec<(Inode, Fault)>| {
            for ((inode, claim), found) in batch.take() {
                if let Some(problem) = claim.refute(&found) {
                    wrong.push((inode, Fault::Problem(problem)));
                }
            }
        };
        for (inode, claim) in files {
            let found = claim.and_then(|claim| {
                let mut digester = Digester::new();
                self.leaves(&inode, 0, inode.size, &mut |leaf| digester.push(leaf)).map_err(Fault::Error)?;
                Ok((claim, digester))
            });
            match found {
                Err(fault) => wrong.push((inode, fault)),
                Ok((claim, digester)) => {
                    let size = inode.size;
                    batch.push((inode, claim), digester, size);
                }
            }
            if batch.is_full() {
                compare(&mut batch, &mut wrong);
            }
        }
        compare(&mut batch, &mut wrong);
        wrong
    }

    /// Gives the leaves of `length` bytes of a file, from a block on: those of the tree, or from what compressed pieces
    /// give.
    fn leaves(
        &mut self,
        inode: &Inode,
        start: u64,
        length: u64,
        give: &mut impl FnMut(&Sha256),
    ) -> Result<(), Error> {
        let end = start.saturating_add(length).min(inode.size);
        if let Layout::Fragment { .. } = inode.layout {
            // Its extents begin anywhere.
            return self.buffers.hash(&self.fs, inode, start..end, give);
        }
        for extent in self.fs.extents_within(inode, start, end.saturating_sub(start)) {
            let Extent { logical, length, physical, compressed } = extent?;
            // An extent may reach beyond the range on both sides.
            let from = logical.max(start);
            let to = logical.saturating_add(length).min(end);
            if from >= to {
                continue;
            }
            let blocks = to.saturating_sub(from).div_ceil(BLOCK_SIZE);
            let physical = physical.map(|place| place.saturating_add(from.saturating_sub(logical)));
            match physical {
                // Leaves are those of the stored bytes, so the content has to be taken out and hashed.
                Some(_) if compressed.is_some() || !inode.owns_blocks() => {
                    self.buffers.hash(&self.fs, inode, from..to, give)?;
                }
                None => {
                    let zero = zero_leaf();
                    (0..blocks).for_each(|_| give(&zero));
                }
                Some(place) if place.is_multiple_of(BLOCK_SIZE) => {
                    let mut next = place / BLOCK_SIZE;
                    let behind = next.saturating_add(blocks);
                    let mut slots = [0; BLOCK_LEN];
                    while next < behind {
                        let count = behind.saturating_sub(next).min(LEAVES);
                        let bytes = usize::try_from(count.saturating_mul(32)).unwrap_or_default();
                        let slots = slots.get_mut(..bytes).unwrap_or_default();
                        let offset = self.tree.offset.saturating_add(next.saturating_mul(32));
                        let part = Part::Tree;
                        let read = self.fs.io().read_exact_at(slots, offset);
                        read.map_err(|source| Error::Io { part, offset, source })?;
                        slots.as_chunks::<32>().0.iter().for_each(&mut *give);
                        next = next.saturating_add(count);
                    }
                }
                // The tail behind an inode: it shares its block with other things.
                Some(_) => {
                    let length = usize::try_from(to.saturating_sub(from)).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
                    let mut block = [0; BLOCK_LEN];
                    self.fs.read_file(inode, from, block.get_mut(..length).unwrap_or_default())?;
                    give(&hash_block(&block));
                }
            }
        }
        Ok(())
    }
}

/// Content that was taken out, and the hashes of its blocks. The memory is used again.
struct Buffers {
    content: Vec<u8>,
    hashes: Vec<Sha256>,
}

impl Buffers {
    const fn new() -> Self {
        Self { content: Vec::new(), hashes: Vec::new() }
    }

    /// Gives the leaves of a range of content, which starts with a block of it.
    fn hash<R: ReadAt>(
        &mut self,
        fs: &FileSystem<R>,
        inode: &Inode,
        range: Range<u64>,
        give: &mut impl FnMut(&Sha256),
    ) -> Result<(), Error> {
        let mut start = range.start;
        while start < range.end {
            // As long as the longest piece, so that each is taken out once.
            let length = usize::try_from(range.end.saturating_sub(start)).unwrap_or(TAKEN_OUT).min(TAKEN_OUT);
            let padded = length.next_multiple_of(BLOCK_LEN);
            self.content.resize(padded, 0);
            let (content, padding) = self.content.split_at_mut(length);
            fs.read_file(inode, start, content)?;
            padding.fill(0);
            self.hashes.resize(padded / BLOCK_LEN, [0; 32]);
            hash_blocks(&self.content, &mut self.hashes);
            self.hashes.iter().for_each(&mut *give);
            start = start.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        Ok(())
    }
}
