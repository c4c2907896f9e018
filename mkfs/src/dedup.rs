//! File data on its way into an image that stores equal blocks once.
//!
//! The producer collects blocks in batches; workers hash them; the batches come back in the order in which they went
//! out, and each block is either found among those that are in the image already, or becomes the next one. Its hash is
//! not computed again: it is the leaf of the dm-verity tree and of the fs-verity tree alike.
//!
//! A block is not referred to for itself, but as part of a *run*: blocks of a content that follow each other where they
//! are stored. A file of which every second block is somewhere else is slow to read, and gains little.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::thread::Scope;

use mkimg_format::erofs::SHARED_BLOCKS_MAX;
use mkimg_format::erofs::raw::NULL_ADDR;
use mkimg_format::fsverity::zero_leaf;
use mkimg_format::merkle::hash_blocks;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256, blocks_for};

use crate::compression::Compression;
use crate::contents::{Content, Data, Form, Stored};
use crate::error::{Error, Result};
use crate::fsverity::FsVerity;
use crate::image_writer::ImageWriter;
use crate::known_blocks::KnownBlocks;
use crate::ordered::Ordered;

/// What is stored only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// Contents of files that are equal as a whole.
    #[default]
    Files,
    /// Blocks of 4096 bytes as well, wherever they are in files.
    Blocks,
}

impl Dedup {
    /// Checks that it goes together with what else is asked for.
    ///
    /// # Errors
    /// [`Error::Dedup`].
    pub(crate) fn check(self, compression: Compression, min_kernel: (u32, u32)) -> Result<()> {
        if self == Self::Files {
            return Ok(());
        }
        if compression != Compression::None {
            return Err(Error::Dedup(format!(
                "equal blocks can be shared in uncompressed images only, not with {compression}"
            )));
        }
        if min_kernel < CHUNKS_KERNEL {
            let ((major, minor), (asked_major, asked_minor)) = (CHUNKS_KERNEL, min_kernel);
            return Err(Error::Dedup(format!(
                "shared blocks need Linux {major}.{minor}, the image is for {asked_major}.{asked_minor}"
            )));
        }
        Ok(())
    }
}

impl FromStr for Dedup {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "files" => Ok(Self::Files),
            "blocks" => Ok(Self::Blocks),
            _ => Err(format!("{text} cannot be stored once, known are files and blocks")),
        }
    }
}

impl fmt::Display for Dedup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Files => "files",
            Self::Blocks => "blocks",
        })
    }
}

/// First kernel with chunk-based files, which sparse files and shared blocks need.
pub(crate) const CHUNKS_KERNEL: (u32, u32) = (5, 15);

/// Blocks of a run, unless it is the whole content. 16 KiB are what a kernel reads ahead at first; docs/measurements.md has
/// what other lengths cost and gain.
const RUN_MIN: usize = 4;

/// Bytes after which a batch goes out.
pub(crate) const BATCH: usize = 128 * BLOCK_LEN;

/// Blocks that are hashed together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// After how many of its blocks a content ends; ascending.
    ends: Vec<usize>,
    leaves: Vec<Sha256>,
}

/// Blocks of the content that is coming back which could be taken from elsewhere.
struct Run {
    /// Where the first of them is, or [`NULL_ADDR`] when they are zeros.
    from: u32,
    length: usize,
}

impl Run {
    /// Address of its block number `index`.
    fn address(&self, index: usize) -> u32 {
        match self.from {
            NULL_ADDR => NULL_ADDR,
            from => from.saturating_add(u32::try_from(index).unwrap_or(u32::MAX)),
        }
    }
}

/// Takes contents in layout order and writes to the image what is not there yet.
pub(crate) struct Deduper<'a, 'f> {
    image: &'a mut ImageWriter<'f>,
    contents: &'a [Content],
    batches: Ordered<Batch>,
    /// The batch that is being filled.
    batch: Batch,
    spare: Vec<Batch>,
    known: KnownBlocks,
    zero: Sha256,
    stored: Vec<Stored>,
    /// Addresses of the blocks of the content that is coming back, as far as they are settled.
    map: Vec<u32>,
    run: Option<Run>,
    /// The blocks of the run, and their hashes, as long as it is too short.
    held: Vec<u8>,
    held_leaves: Vec<Sha256>,
    fsverity: FsVerity<'a>,
}

impl<'a, 'f> Deduper<'a, 'f> {
    /// Starts `threads` workers in `scope`, which may have `pending_max` batches in hand. The image is at block 1, and its hashes wait.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, 'f>,
        image: &'a mut ImageWriter<'f>,
        contents: &'a [Content],
        threads: NonZeroUsize,
        pending_max: usize,
    ) -> io::Result<Self> {
        image.drain()?;
        let blocks = contents.iter().map(|content| blocks_for(content.size)).sum();
        let mut itself = Self {
            image,
            contents,
            batches: Ordered::start(scope, threads, pending_max, || Ok(hash))?,
            batch: Batch::default(),
            spare: Vec::new(),
            known: KnownBlocks::new(blocks),
            zero: zero_leaf(),
            stored: Vec::with_capacity(contents.len()),
            map: Vec::new(),
            run: None,
            held: Vec::new(),
            held_leaves: Vec::new(),
            fsverity: FsVerity::new(contents),
        };
        itself.store_empty();
        Ok(itself)
    }

    /// The end of the content that was written.
    pub(crate) fn end_content(&mut self) {
        let blocks = self.batch.bytes.len().div_ceil(BLOCK_LEN);
        self.batch.bytes.resize(blocks * BLOCK_LEN, 0);
        self.batch.ends.push(blocks);
    }

    /// Waits for the last blocks; what became of each content, and their fs-verity digests.
    pub(crate) fn finish(mut self) -> io::Result<(Data, Vec<Sha256>)> {
        self.submit()?;
        while let Some(batch) = self.batches.take()? {
            self.collect(batch)?;
        }
        let end = self.image.position() / BLOCK_SIZE;
        Ok((Data { stored: self.stored, packed: None, end }, self.fsverity.take_digests()))
    }

    /// Hands the batch to a worker.
    fn submit(&mut self) -> io::Result<()> {
        let next = self.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        match self.batches.give(batch)? {
            Some(oldest) => self.collect(oldest),
            None => Ok(()),
        }
    }

    /// Finds a place for the blocks of a batch.
    fn collect(&mut self, mut batch: Batch) -> io::Result<()> {
        let (blocks, _) = batch.bytes.as_chunks();
        let mut blocks = blocks.iter().zip(&batch.leaves);
        let mut done = 0;
        for end in &batch.ends {
            for (block, leaf) in blocks.by_ref().take(end - done) {
                self.block(block, leaf)?;
            }
            done = *end;
            self.settle_content()?;
        }
        for (block, leaf) in blocks {
            self.block(block, leaf)?;
        }
        batch.bytes.clear();
        batch.ends.clear();
        self.spare.push(batch);
        Ok(())
    }

    /// The content that is coming back.
    fn content(&self) -> Option<&'a Content> {
        self.contents.get(self.stored.len())
    }

    /// Takes the next block of the content.
    fn block(&mut self, block: &[u8; BLOCK_LEN], leaf: &Sha256) -> io::Result<()> {
        self.fsverity.push(leaf);
        self.skip_holes()?;
        let content = self.content();
        if !content.is_some_and(is_mapped) {
            let is_new = self.known.find(leaf, self.image.leaves()).is_none();
            let address = self.append(block, leaf)?;
            if is_new {
                self.known.learn(leaf, address);
            }
            // They stand one behind the other.
            if self.map.is_empty() {
                self.map.push(address);
            }
            return Ok(());
        }
        if *leaf == self.zero && content.is_some_and(|content| content.chunks.is_some()) {
            // It has a map anyway, and holes are read faster than anything.
            return self.hole();
        }
        let continues = self.run.as_ref().is_some_and(|run| match run.address(run.length) {
            NULL_ADDR => *leaf == self.zero,
            next => self.image.leaves().get(next as usize) == Some(leaf),
        });
        if !continues {
            self.settle_run(false)?;
            let found =
                if *leaf == self.zero { Some(NULL_ADDR) } else { self.known.find(leaf, self.image.leaves()) };
            match found {
                None => {
                    let address = self.append(block, leaf)?;
                    self.known.learn(leaf, address);
                    self.map.push(address);
                    return Ok(());
                }
                Some(from) => self.run = Some(Run { from, length: 0 }),
            }
        }
        if let Some(run) = &mut self.run {
            run.length += 1;
            if run.length < RUN_MIN {
                self.held.extend_from_slice(block);
                self.held_leaves.push(*leaf);
            }
        }
        Ok(())
    }

    /// Decides about the blocks of a run that goes no further; `whole` says that it is the whole content.
    fn settle_run(&mut self, whole: bool) -> io::Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let held = std::mem::take(&mut self.held);
        let held_leaves = std::mem::take(&mut self.held_leaves);
        if whole || run.length >= RUN_MIN {
            self.map.extend((0..run.length).map(|index| run.address(index)));
        } else {
            for (block, leaf) in held.as_chunks().0.iter().zip(&held_leaves) {
                let address = self.append(block, leaf)?;
                self.map.push(address);
            }
        }
        // For the next run.
        (self.held, self.held_leaves) = (held, held_leaves);
        self.held.clear();
        self.held_leaves.clear();
        Ok(())
    }

    /// Writes a block to the image; its address.
    fn append(&mut self, block: &[u8; BLOCK_LEN], leaf: &Sha256) -> io::Result<u32> {
        let address = u32::try_from(self.image.leaves().len()).map_err(io::Error::other)?;
        self.image.write_hashed(block, leaf)?;
        Ok(address)
    }

    fn hole(&mut self) -> io::Result<()> {
        self.settle_run(false)?;
        self.map.push(NULL_ADDR);
        Ok(())
    }

    /// Goes over the holes that the source tells of.
    fn skip_holes(&mut self) -> io::Result<()> {
        let Some(content) = self.content().filter(|content| is_mapped(content)) else { return Ok(()) };
        let Some(chunks) = &content.chunks else { return Ok(()) };
        loop {
            let next = self.map.len() + self.run.as_ref().map_or(0, |run| run.length);
            if chunks.map.get(next) != Some(&NULL_ADDR) {
                return Ok(());
            }
            self.hole()?;
        }
    }

    /// Decides how the content is stored whose blocks are all there.
    fn settle_content(&mut self) -> io::Result<()> {
        self.skip_holes()?;
        self.settle_run(self.map.is_empty())?;
        let first = self.map.first().copied().unwrap_or(NULL_ADDR);
        let consecutive = (u64::from(first)..).zip(&self.map).all(|(next, block)| next == u64::from(*block));
        let mapped = self.content().is_some_and(is_mapped);
        let form = if mapped && (!consecutive || first == NULL_ADDR) {
            Form::Mapped(Box::from(&*self.map))
        } else {
            Form::Plain
        };
        self.stored.push(Stored { start: u64::from(first) * BLOCK_SIZE, form });
        self.map.clear();
        self.store_empty();
        Ok(())
    }

    /// Empty contents have no blocks that could come back.
    fn store_empty(&mut self) {
        while self.content().is_some_and(|content| content.size == 0) {
            self.stored.push(Stored { start: 0, form: Form::Plain });
        }
    }
}

/// Whether blocks of a content may be taken from elsewhere. What is longer is stored as it is, or with holes in large
/// chunks; others may refer to its blocks.
fn is_mapped(content: &Content) -> bool {
    blocks_for(content.size) <= SHARED_BLOCKS_MAX
}

impl Write for Deduper<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.batch.bytes.len() == BATCH {
            self.submit()?;
        }
        let count = bytes.len().min(BATCH - self.batch.bytes.len());
        self.batch.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the workers do.
fn hash(batch: &mut Batch) {
    batch.leaves.resize(batch.bytes.len() / BLOCK_LEN, [0; 32]);
    hash_blocks(&batch.bytes, &mut batch.leaves);
}
