//! Second pass: the content of the survivors, from the source into the image.
//!
//! One thread copies everything in layout order and hashes it again on the way: only what the first pass has checked gets
//! into an image. Layers are inflated ahead of it by a crew, as many side by side and as far as memory allows, and only
//! as far as anything of them is wanted. Layers that were kept are not inflated again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroUsize;
use std::ops::Range;

use mkimg_format::BLOCK_SIZE;
use mkimg_format::erofs::raw::NULL_ADDR;
use mkimg_oci::{Crew, Image, Kept, LayerData, Wanted};

use crate::contents::{Chunks, Content, Contents};
use crate::emit::DataSink;
use crate::entry::{FileData, Place, text_at};
use crate::error::{Error, Result, origin};
use crate::flatten::Flat;
use crate::host_dir::HostDir;
use crate::memory::Memory;
use crate::output::Output;
use crate::progress::Progress;
use crate::scan::{Dismissal, Run, for_each_run};
use crate::source::Opened;
use crate::spool::Spool;

/// Buffer for files of a source directory, in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

/// Copies contents.
pub(crate) struct Copier<'a> {
    pub opened: &'a Opened,
    pub flat: &'a Flat,
    pub output: &'a Output,
    pub threads: NonZeroUsize,
    pub memory: Memory,
    /// Layers that are still inflated, by their index, until they are copied.
    pub kept: RefCell<Vec<Option<Kept>>>,
    pub progress: &'a dyn Progress,
}

/// Whether layers are read again after a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// They are, so what was kept of them stays.
    Early,
    /// What was kept of them goes when it has been copied.
    Last,
}

/// Contents of one layer, which stand in it in this order.
type Group<'c> = &'c [&'c Content];

impl Copier<'_> {
    /// Copies all contents in layout order.
    ///
    /// # Errors
    /// What makes the source unreadable or another one than it was, and what the output file says.
    pub(crate) fn copy(&self, contents: &Contents, image: &mut impl DataSink) -> Result<()> {
        let (hot, rest) = contents.list.split_at(contents.led);
        match self.opened {
            Opened::Image(_) => self.copy_by_spool(hot, image)?,
            // Files of a directory can be read in any order.
            Opened::Dir(_) => self.copy_sorted(hot.iter(), Visit::Early, image)?,
        }
        self.copy_sorted(rest.iter(), Visit::Last, image)?;
        // Nothing was wanted of these.
        self.kept.borrow_mut().clear();
        Ok(())
    }

    /// Takes room on the disk; layers that wait there give theirs if it is short.
    pub(crate) fn with_room<T>(&self, take: impl Fn() -> Result<T>) -> Result<T> {
        take().or_else(|error| if self.forget_files() { take() } else { Err(error) })
    }

    /// As [`with_room`](Self::with_room) when nobody knows how much the contents will take: more than they have is unlikely.
    pub(crate) fn spare_room(&self, contents: &Contents) {
        let blocks = |contents: &[Content]| contents.iter().map(Content::blocks).sum::<u64>();
        let (all, spooled) = (blocks(&contents.list), blocks(&contents.list[..contents.led]));
        let most = (all + all / 16 + spooled) * BLOCK_SIZE;
        if self.output.free().is_none_or(|free| free < most) {
            self.forget_files();
        }
    }

    /// Drops layers that wait on the disk: they will be inflated again. Whether there are any.
    fn forget_files(&self) -> bool {
        let mut found = false;
        for place in self.kept.borrow_mut().iter_mut() {
            found |= place.take_if(|kept| kept.is_file()).is_some();
        }
        found
    }

    /// Copies contents that layers have in another order: a pass of its own collects them.
    fn copy_by_spool(&self, hot: &[Content], image: &mut impl DataSink) -> Result<()> {
        if hot.is_empty() {
            return Ok(());
        }
        let mut by_source: Vec<usize> = (0..hot.len()).collect();
        by_source.sort_unstable_by_key(|index| (hot[*index].layer, hot[*index].file));
        let size = hot.iter().map(Content::blocks).sum::<u64>() * BLOCK_SIZE;
        let mut spool = Spool::new(self.with_room(|| self.output.scratch(size))?);
        self.copy_sorted(by_source.iter().map(|index| &hot[*index]), Visit::Early, &mut spool)?;
        let failed = |source| self.output.error("cannot write", source);
        spool.flush().map_err(failed)?;
        let mut arrival = vec![0; hot.len()];
        for (position, index) in by_source.into_iter().enumerate() {
            arrival[index] = position;
        }
        let mut buffer = vec![0; BUFFER];
        for position in arrival {
            spool.copy(position, image, &mut buffer).map_err(failed)?;
            image.end_content().map_err(failed)?;
        }
        Ok(())
    }

    /// Copies contents, which come layer by layer, in each in the order of its files. Empty ones are left out.
    fn copy_sorted<'c>(
        &self,
        contents: impl Iterator<Item = &'c Content>,
        visit: Visit,
        image: &mut impl DataSink,
    ) -> Result<()> {
        let contents: Vec<&Content> = contents.filter(|content| content.size > 0).collect();
        let groups: Vec<Group<'_>> = contents.chunk_by(|a, b| a.layer == b.layer).collect();
        match self.opened {
            Opened::Image(source) => self.copy_from_layers(source, &groups, visit, image),
            Opened::Dir(dir) => groups.iter().try_for_each(|group| self.copy_from_dir(dir, group, image)),
        }
    }

    fn copy_from_layers(
        &self,
        source: &Image,
        groups: &[Group<'_>],
        visit: Visit,
        image: &mut impl DataSink,
    ) -> Result<()> {
        let lanes = self.memory.copying(self.threads, groups.len());
        let crew = Crew::new(lanes.ahead);
        std::thread::scope(|scope| {
            // However this ends, nobody is left behind.
            let _dismissal = Dismissal(&crew);
            // This thread copies; more helpers than layers would have nothing to inflate.
            for _ in 1..self.threads.get().min(lanes.layers + 1) {
                let help = || crew.help();
                std::thread::Builder::new()
                    .spawn_scoped(scope, help)
                    .map_err(|source| Error::Thread { source })?;
            }
            let mut coming = groups.iter();
            let mut open = VecDeque::new();
            loop {
                let room = lanes.layers.saturating_sub(open.len());
                // What cannot be opened is an error when its turn comes.
                let next = coming.by_ref().take(room);
                open.extend(next.map(|group| (group, self.open(source, group, visit, &crew))));
                let Some((group, data)) = open.pop_front() else { return Ok(()) };
                self.copy_from_layer(group, &mut data?, image)?;
            }
        })
    }

    /// Opens the layer of a group, for what is wanted of it.
    fn open(&self, source: &Image, group: Group<'_>, visit: Visit, crew: &Crew) -> Result<LayerData> {
        let index = group.first().map_or(0, |first| first.layer as usize);
        let layer = source.layers.get(index).ok_or(Error::Limit {
            what: "layers of the source",
            found: index as u64,
            limit: source.layers.len() as u64,
        })?;
        let mut wanted = Wanted::default();
        for (_, data) in self.files(group) {
            if let Place::Tar(offset) = data.place {
                wanted.add(offset..offset.saturating_add(data.stored()));
            }
        }
        let mut kept = self.kept.borrow_mut();
        let Some(place) = kept.get_mut(index) else { return Ok(layer.reopen_with(crew, wanted)?) };
        let data = match &*place {
            Some(kept) => layer.recall(kept, crew, wanted)?,
            None => layer.reopen_with(crew, wanted)?,
        };
        if visit == Visit::Last {
            // What is open lasts until it has been read: a file that goes then need not be brought to the disk.
            *place = None;
        }
        Ok(data)
    }

    /// Contents of a group with their files.
    fn files<'c>(&self, group: Group<'c>) -> impl Iterator<Item = (&'c Content, &FileData)> {
        group.iter().filter_map(|content| Some((*content, self.flat.file(content.layer, content.file)?)))
    }

    fn copy_from_layer(
        &self,
        group: Group<'_>,
        reader: &mut LayerData,
        image: &mut impl DataSink,
    ) -> Result<()> {
        let mut at = 0;
        for (content, data) in self.files(group) {
            let Place::Tar(offset) = data.place else { continue };
            let layer = content.layer as usize + 1;
            let changed = || Error::Changed {
                origin: origin(layer),
                path: self.flat.path_of_file(content.layer, content.file),
            };
            let unreadable =
                |source| Error::Tar { layer, source: Box::new(crate::tar::Error::Io { offset, source }) };
            let gap = offset.checked_sub(at).ok_or_else(changed)?;
            if reader.skip(gap).map_err(unreadable)? < gap {
                return Err(changed());
            }
            let copied = copy_content(content, data, reader, image);
            copied.map_err(|error| self.error(error, unreadable, changed))?;
            at = offset + data.stored();
            self.progress.advance(content.size);
        }
        Ok(())
    }

    fn copy_from_dir(&self, dir: &HostDir, group: Group<'_>, image: &mut impl DataSink) -> Result<()> {
        let index = group.first().map_or(0, |first| first.layer as usize);
        let text = self.flat.layers.get(index).map_or(&[][..], |files| &files.text);
        let mut buffer = vec![0; BUFFER];
        for (content, data) in self.files(group) {
            let Place::Host(span) = data.place else { continue };
            let path = || text_at(text, span).to_vec();
            let changed = || Error::Changed { origin: origin(0), path: path() };
            let unreadable = |source| Error::Host { path: path(), source };
            let file = dir.open_file(text_at(text, span)).map_err(unreadable)?;
            let mut source = Buffered { file, buffer: &mut buffer, filled: 0..0 };
            let copied = copy_content(content, data, &mut source, image);
            copied.map_err(|error| self.error(error, unreadable, changed))?;
            self.progress.advance(content.size);
        }
        Ok(())
    }

    fn error(
        &self,
        error: CopyError,
        unreadable: impl Fn(io::Error) -> Error,
        changed: impl Fn() -> Error,
    ) -> Error {
        match error {
            CopyError::Source(source) => unreadable(source),
            CopyError::Changed => changed(),
            CopyError::Image(source) => self.output.error("cannot write", source),
        }
    }
}

/// A file, read through a buffer that others use as well.
struct Buffered<'b> {
    file: File,
    buffer: &'b mut [u8],
    filled: Range<usize>,
}

impl BufRead for Buffered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.filled.is_empty() {
            self.filled = 0..self.file.read(self.buffer)?;
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    fn consume(&mut self, n: usize) {
        self.filled.start = self.filled.end.min(self.filled.start + n);
    }
}

impl Read for Buffered<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

/// How copying one content can fail.
enum CopyError {
    /// The source cannot be read.
    Source(io::Error),
    /// The source is not what it was in the first pass.
    Changed,
    /// The image cannot be written.
    Image(io::Error),
}

/// Copies one content from `source`, which is at its first stored byte.
///
/// The stored bytes are hashed again on the way.
fn copy_content(
    content: &Content,
    data: &FileData,
    source: &mut impl BufRead,
    image: &mut impl DataSink,
) -> std::result::Result<(), CopyError> {
    let mut hasher = blake3::Hasher::new();
    let mut sink = Sink { content, image, at: 0 };
    for_each_run(content.size, data.segments(), |run| match run {
        Run::Hole(length) => sink.zeros(length).map_err(CopyError::Image),
        Run::Data(mut left) => {
            while left > 0 {
                let bytes = match source.fill_buf() {
                    Ok([]) => return Err(CopyError::Changed),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(CopyError::Source(error)),
                };
                let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                hasher.update(&bytes[..count]);
                sink.bytes(&bytes[..count]).map_err(CopyError::Image)?;
                source.consume(count);
                left -= count as u64;
            }
            Ok(())
        }
    })?;
    if hasher.finalize() != blake3::Hash::from_bytes(data.stored_blake3()) {
        return Err(CopyError::Changed);
    }
    image.end_content().map_err(CopyError::Image)
}

/// Writes the logical bytes of a content, leaving out the chunks that are holes.
struct Sink<'a, W> {
    content: &'a Content,
    image: &'a mut W,
    /// Byte offset in the content.
    at: u64,
}

impl<W: Write> Sink<'_, W> {
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (length, stored) = self.span(bytes.len() as u64);
            let (piece, rest) = bytes.split_at(usize::try_from(length).map_err(io::Error::other)?);
            if stored {
                self.image.write_all(piece)?;
            }
            self.at += length;
            bytes = rest;
        }
        Ok(())
    }

    fn zeros(&mut self, mut left: u64) -> io::Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        while left > 0 {
            let (length, stored) = self.span(left);
            let mut zeros = if stored { length } else { 0 };
            while zeros > 0 {
                let room = usize::try_from(zeros).unwrap_or(usize::MAX).min(ZEROS.len());
                self.image.write_all(&ZEROS[..room])?;
                zeros -= room as u64;
            }
            self.at += length;
            left -= length;
        }
        Ok(())
    }

    /// How many of the next `length` bytes have the same fate, and whether they are stored.
    fn span(&self, length: u64) -> (u64, bool) {
        let Some(chunks) = &self.content.chunks else { return (length, true) };
        let chunk = Chunks::chunk_blocks(chunks) * BLOCK_SIZE;
        let index = usize::try_from(self.at / chunk).unwrap_or(usize::MAX);
        let stored = chunks.map.get(index).is_some_and(|address| *address != NULL_ADDR);
        (length.min(chunk - self.at % chunk), stored)
    }
}
