//! First pass over the layers: every digest is checked, headers become entries, data is hashed and dropped.

use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use mkimg_format::erofs::{Timestamp, XattrClass, escape};
use mkimg_oci::{Crew, Kept, Layer, LayerReader, LayerSummary, Room};

use crate::entry::{Attributes, Entry, FileData, Node, Place, Scan, Sparse, XattrPair, XattrSet};
use crate::error::{Error, Problem, Result, origin};
use crate::memory::Memory;
use crate::progress::Progress;
use crate::scratch::Scratches;
use crate::tar;

/// Zeros that sparse files of one image may expand to. They cost no space, but every one is hashed.
const HOLES_MAX: u64 = 64 << 30;

/// Stored parts of all sparse files of one image. They are kept in memory, 16 bytes each.
const SEGMENTS_MAX: u64 = 4 << 20;

/// Entries of one layer.
const ENTRIES_MAX: usize = 1 << 27;

/// Bytes of names and link targets in one layer: so many in any case, and so many more for each entry. Real layers
/// have some 100 an entry.
const TEXT_BASE: u64 = 64 << 20;
const TEXT_EACH: u64 = 1000;

/// Bytes of the names of all xattrs of one file: what Linux can list (`XATTR_LIST_MAX`).
const XATTR_NAMES_MAX: usize = 64 << 10;

/// Warnings that one layer may cause.
const WARNINGS_MAX: usize = 100;

/// Largest value that `e_value_size` can tell.
const XATTR_VALUE_MAX: usize = u16::MAX as usize;

const BUFFER: usize = 256 << 10;

/// What came of a layer.
pub(crate) struct Scanned {
    pub summary: LayerSummary,
    pub scan: Scan,
    /// Its tar, if there was room for it somewhere.
    pub kept: Option<Kept>,
}

/// Scans all layers on up to `threads` threads and hands them over in order, lowest first.
///
/// # Errors
/// The error of the lowest layer that has one, or that of `take`.
pub(crate) fn scan_layers(
    layers: &[Layer],
    threads: NonZeroUsize,
    memory: Memory,
    scratches: &Scratches<'_>,
    progress: &dyn Progress,
    mut take: impl FnMut(usize, Scanned) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let lanes = memory.checking(threads, layers.len());
    let shared = Shared::new(Room::new(memory.kept(threads)), scratches);
    let crew = Crew::new(lanes.ahead);
    let (send, results) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        // However this ends, nobody is left behind.
        let _dismissal = Dismissal(&crew);
        // One reads a layer, one inflates it, two hash: more cannot be busy with it.
        for worker in 0..threads.get().min(layers.len().saturating_mul(4)) {
            let send = send.clone();
            let (next, shared, crew) = (&next, &shared, &crew);
            let scanner = move || {
                // As many layers at once as there is memory for.
                let own = || {
                    let index = (worker < lanes.layers).then(|| next.fetch_add(1, Ordering::Relaxed))?;
                    Some((index, layers.get(index).filter(|_| !shared.stops())?))
                };
                while let Some((index, layer)) = own() {
                    let result = scan_layer(layer, crew, shared, progress);
                    // The receiver is gone after an error: nothing more to do.
                    if send.send((index, result)).is_err() {
                        return;
                    }
                }
                // Who has no layer of its own helps with those of others, until the last result is there.
                drop(send);
                crew.help();
            };
            std::thread::Builder::new().spawn_scoped(scope, scanner).map_err(|source| {
                shared.stop.store(true, Ordering::Relaxed);
                Error::Thread { source }
            })?;
        }
        drop(send);
        let mut waiting = HashMap::new();
        let mut wanted = 0;
        let outcome = (|| {
            for (index, result) in &results {
                waiting.insert(index, result);
                while let Some(result) = waiting.remove(&wanted) {
                    take(wanted, result?)?;
                    wanted += 1;
                }
            }
            // A layer that nobody has scanned must never be missing without a word.
            if wanted < layers.len() { Err(Error::Stopped) } else { Ok(()) }
        })();
        // Nobody listens any more: the scope need not wait for layers to be read to their end.
        shared.stop.store(true, Ordering::Relaxed);
        drop(results);
        outcome
    })
}

/// Sends the helpers home when it goes.
pub(crate) struct Dismissal<'a>(pub &'a Crew);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.dismiss();
    }
}

/// What the scans of all layers have in common.
struct Shared<'a> {
    /// The result is not wanted any more.
    stop: AtomicBool,
    /// Bytes of holes of all sparse files.
    holes: AtomicU64,
    /// Stored parts of all sparse files.
    segments: AtomicU64,
    /// For layers that stay in memory.
    room: Room,
    /// For others.
    scratches: &'a Scratches<'a>,
}

impl<'a> Shared<'a> {
    fn new(room: Room, scratches: &'a Scratches<'a>) -> Self {
        let (stop, holes, segments) = Default::default();
        Self { stop, holes, segments, room, scratches }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds a file. It has at most 2^40 bytes and a million parts: there is no overflow.
    fn add_sparse(&self, entry: &tar::Entry) -> std::result::Result<(), Problem> {
        let segments = entry.sparse.as_ref().map_or(0, Vec::len) as u64;
        for (what, total, more, limit) in [
            ("bytes in holes", &self.holes, entry.size.saturating_sub(entry.stored), HOLES_MAX),
            ("parts", &self.segments, segments, SEGMENTS_MAX),
        ] {
            let found = total.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if found > limit {
                return Err(Problem::Sparse { what, found, limit });
            }
        }
        Ok(())
    }
}

/// Scans one layer.
fn scan_layer(layer: &Layer, crew: &Crew, shared: &Shared<'_>, progress: &dyn Progress) -> Result<Scanned> {
    let mut reader = layer.open_with(crew)?;
    if !reader.keep(&shared.room) {
        shared.scratches.keep(&mut reader);
    }
    let watched = Watched { reader, progress, seen: 0 };
    let mut reader = tar::Reader::new(watched, tar::Limits::default());
    let scanned = scan_tar(layer.number, &mut reader, shared);
    if shared.stops() {
        return Err(scanned.err().unwrap_or(Error::Stopped));
    }
    // A damaged blob makes any nonsense of a tar: its digest speaks first.
    let Watched { reader, seen, .. } = reader.into_inner();
    let (summary, kept) = reader.finish_kept()?;
    progress.advance(summary.blob_size.saturating_sub(seen));
    Ok(Scanned { summary, scan: scanned?, kept })
}

/// A layer whose reading is shown.
struct Watched<'a> {
    reader: LayerReader,
    progress: &'a dyn Progress,
    /// Bytes of the blob that were shown.
    seen: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buf)?;
        let read = self.reader.blob_read();
        if read > self.seen {
            self.progress.advance(read - self.seen);
            self.seen = read;
        }
        Ok(count)
    }
}

/// Reads a tar to its end marker.
fn scan_tar<R: Read>(number: usize, reader: &mut tar::Reader<R>, shared: &Shared<'_>) -> Result<Scan> {
    let fault = |source| Error::Tar { layer: number, source: Box::new(source) };
    let mut scanner = Scanner::new(number);
    let mut buffer = vec![0; BUFFER];
    while let Some(entry) = reader.next_entry().map_err(fault)? {
        if shared.stops() {
            return Err(Error::Stopped);
        }
        let hashes = if entry.kind == tar::Kind::File {
            shared.add_sparse(&entry).map_err(|problem| scanner.fail(&entry.path, problem))?;
            hash_content(entry.size, entry.sparse.as_deref(), &mut buffer, |buf| {
                reader.read_data(buf).map_err(fault)
            })?
        } else {
            Hashes::default()
        };
        scanner.add(entry, hashes)?;
    }
    Ok(scanner.scan)
}

/// BLAKE3 of one content.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hashes {
    /// Of all of it, holes as zeros.
    pub content: [u8; 32],
    /// Of the stored bytes; the same unless there are holes.
    pub stored: [u8; 32],
}

/// Hashes content whose stored bytes come from `read`.
pub(crate) fn hash_content<E>(
    size: u64,
    sparse: Option<&[tar::Segment]>,
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> std::result::Result<usize, E>,
) -> std::result::Result<Hashes, E> {
    let mut content = blake3::Hasher::new();
    let mut stored = sparse.map(|_| blake3::Hasher::new());
    for_each_run(size, sparse, |run| match run {
        Run::Hole(length) => {
            hash_zeros(&mut content, length);
            Ok(())
        }
        Run::Data(mut left) => {
            while left > 0 {
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let count = read(&mut buffer[..room])?;
                if count == 0 {
                    return Ok(()); // the tar reader reports a short entry by itself
                }
                content.update(&buffer[..count]);
                if let Some(stored) = &mut stored {
                    stored.update(&buffer[..count]);
                }
                left -= count as u64;
            }
            Ok(())
        }
    })?;
    let content = content.finalize().into();
    Ok(Hashes { content, stored: stored.map_or(content, |stored| stored.finalize().into()) })
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// So many zeros that are not stored.
    Hole(u64),
    /// So many stored bytes.
    Data(u64),
}

/// Calls `take` for the stretches of a file in order.
pub(crate) fn for_each_run<E>(
    size: u64,
    sparse: Option<&[tar::Segment]>,
    mut take: impl FnMut(Run) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let Some(segments) = sparse else { return take(Run::Data(size)) };
    let mut at = 0;
    for segment in segments {
        if segment.offset > at {
            take(Run::Hole(segment.offset - at))?;
        }
        take(Run::Data(segment.len))?;
        at = segment.offset.saturating_add(segment.len);
    }
    if at < size { take(Run::Hole(size - at)) } else { Ok(()) }
}

/// Hashes zeros.
fn hash_zeros(hasher: &mut blake3::Hasher, mut length: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while length > 0 {
        let room = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..room]);
        length -= room as u64;
    }
}

/// Collects the entries of one layer.
pub(crate) struct Scanner {
    number: usize,
    pub(crate) scan: Scan,
    sets: HashMap<Arc<[XattrPair]>, XattrSet>,
}

impl Scanner {
    /// For the layer with this number, or 0 for a source directory.
    pub(crate) fn new(number: usize) -> Self {
        let empty: Arc<[XattrPair]> = Arc::from([]);
        let scan = Scan { number, xattrs: vec![Arc::clone(&empty)], ..Scan::default() };
        Self { number, scan, sets: HashMap::from([(empty, XattrSet(0))]) }
    }

    fn fail(&self, path: &[u8], problem: Problem) -> Error {
        Error::Entry { layer: self.number, path: path.to_vec(), problem }
    }

    /// Notes what was not taken over as it was.
    pub(crate) fn warn(&mut self, path: &[u8], what: &str) {
        let count = self.scan.warnings.len();
        if count < WARNINGS_MAX {
            self.scan.warnings.push(format!("{}: {}: {what}", origin(self.number), escape(path)));
        } else if count == WARNINGS_MAX {
            self.scan.warnings.push(format!("{}: more warnings are left out", origin(self.number)));
        }
    }

    /// Keeps a text of an entry.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Result<crate::entry::Span> {
        let found = self.scan.text.len() as u64 + text.len() as u64;
        let limit = TEXT_BASE + TEXT_EACH * self.scan.entries.len() as u64;
        let kept = if found > limit { None } else { self.scan.keep(text) };
        kept.ok_or_else(|| self.fail(text, Problem::Names { found, limit }))
    }

    /// Keeps the xattrs of an entry, but for those of overlayfs.
    pub(crate) fn keep_xattrs(&mut self, path: &[u8], xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<XattrSet> {
        let mut kept = Vec::with_capacity(xattrs.len());
        for (name, value) in xattrs {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                self.warn(path, &format!("xattr {} of overlayfs is dropped", escape(&name)));
                continue;
            }
            let class = XattrClass::of(&name);
            if !class.is_visible() {
                self.warn(path, &format!("xattr {} is kept, but Linux does not show it", escape(&name)));
            }
            for (what, found, limit) in
                [("value", value.len(), XATTR_VALUE_MAX), ("name", class.suffix.len(), usize::from(u8::MAX))]
            {
                if found > limit {
                    let what = format!("{what} of xattr {}", escape(&name));
                    let problem = Problem::Xattr { what, found: found as u64, limit: limit as u64 };
                    return Err(self.fail(path, problem));
                }
            }
            kept.push((name.into_boxed_slice(), value.into_boxed_slice()));
        }
        let names: usize = kept.iter().map(|(name, _): &XattrPair| name.len() + 1).sum();
        if names > XATTR_NAMES_MAX {
            let what = "names of all xattrs together".to_owned();
            let problem = Problem::Xattr { what, found: names as u64, limit: XATTR_NAMES_MAX as u64 };
            return Err(self.fail(path, problem));
        }
        kept.sort_unstable();
        let kept: Arc<[XattrPair]> = Arc::from(kept);
        if let Some(known) = self.sets.get(&kept) {
            return Ok(*known);
        }
        let room = crate::xattrs::inline_len(kept.iter().map(|(name, value)| (&**name, &**value)));
        if mkimg_format::erofs::raw::xattr_icount(room).is_none() {
            let limit = crate::xattrs::BODY_MAX;
            let problem = Problem::Xattr { what: "all xattrs together".to_owned(), found: room, limit };
            return Err(self.fail(path, problem));
        }
        let set = XattrSet(u32::try_from(self.scan.xattrs.len()).unwrap_or(u32::MAX));
        self.scan.xattrs.push(Arc::clone(&kept));
        self.sets.insert(kept, set);
        Ok(set)
    }

    /// Adds a member of a tar; a file comes with the hashes of its content.
    fn add(&mut self, entry: tar::Entry, hashes: Hashes) -> Result<()> {
        let attributes = Attributes {
            // Linux shows every symbolic link like this, whatever an archive says.
            mode: match entry.kind {
                tar::Kind::Symlink => 0o777,
                _ => u16::try_from(entry.mode & 0o7777).unwrap_or(0),
            },
            uid: entry.uid,
            gid: entry.gid,
            mtime: Timestamp { sec: entry.mtime.sec, nsec: entry.mtime.nsec },
            xattrs: match entry.kind {
                tar::Kind::Hardlink => XattrSet(0),
                _ => self.keep_xattrs(&entry.path, entry.xattrs)?,
            },
        };
        let path = self.keep(&entry.path)?;
        let (major, minor) = entry.rdev;
        let node = match entry.kind {
            tar::Kind::File => self.add_file(FileData {
                blake3: hashes.content,
                size: entry.size,
                place: Place::Tar(entry.data_offset),
                sparse: entry.sparse.map(|segments| {
                    Box::new(Sparse { segments: segments.into_boxed_slice(), stored_blake3: hashes.stored })
                }),
            })?,
            tar::Kind::Hardlink => Node::Hardlink(self.keep(&entry.link)?),
            tar::Kind::Symlink => Node::Symlink(self.keep(&entry.link)?),
            tar::Kind::Char => Node::Char(major, minor),
            tar::Kind::Block => Node::Block(major, minor),
            tar::Kind::Dir => Node::Dir,
            tar::Kind::Fifo => Node::Fifo,
        };
        self.add_entry(Entry { path, node, attributes })
    }

    /// Adds the content of a file.
    pub(crate) fn add_file(&mut self, file: FileData) -> Result<Node> {
        let found = self.scan.files.len();
        let index = u32::try_from(found).map_err(|_| Error::Limit {
            what: "files in one layer",
            found: found as u64,
            limit: ENTRIES_MAX as u64,
        })?;
        self.scan.files.push(file);
        Ok(Node::File(index))
    }

    /// Adds an entry.
    pub(crate) fn add_entry(&mut self, entry: Entry) -> Result<()> {
        let found = self.scan.entries.len();
        if found >= ENTRIES_MAX {
            let limit = ENTRIES_MAX as u64;
            return Err(Error::Limit { what: "entries in one layer", found: found as u64, limit });
        }
        self.scan.entries.push(entry);
        Ok(())
    }
}

/// Reads until `buf` is full or the reader ends.
pub(crate) fn read_full(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match reader.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
