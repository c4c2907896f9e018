//! The reading of layers, cut into pieces of work that any thread may take.
//!
//! ```text
//! blob ── read and inflate ──┬── chunks of the tar ──> reader
//!              │             ├── digest of the tar
//!              │             └── scratch file, if the tar is to be kept in one
//!              └── digest of the blob
//! ```
//!
//! Each of the works of a layer goes on in order and on one thread at a time, but not always on the same: its state
//! (decoder, hasher or file) lies on the floor of the crew, whoever has time picks it up, works off one chunk and puts it back.
//! The thread that reads the layer does so whenever it would wait, so it needs no helper and never waits for one that has
//! not begun. With and without helpers the same code sees the same bytes in the same order: there is one set of errors.
//!
//! The second pass takes no digests, and says which parts of the tar it wants: the rest is dropped where it is inflated, and
//! behind the last part nothing is read. A layer that was kept in memory is one that is ready from the start, and one that
//! was kept in a file is a plain one.
//!
//! Nobody waits with the state of a work in hand, but for a decoder whose blob is read faster than it is hashed; that
//! hasher is then in the hands of somebody who does not wait. So there is always a thread that goes on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::chunk::Chunk;
use crate::decode::{Decoder, Fault};
use crate::digest::{Digest, Hasher};
use crate::kept::{Kept, Scratch};
use crate::wanted::Wanted;

/// Threads that read layers together.
///
/// A layer that is [opened with](crate::Layer::open_with) a crew is inflated ahead and hashed by all threads that are in
/// [`help`](Crew::help) at the time.
pub struct Crew {
    floor: Arc<Floor>,
}

impl Crew {
    /// A crew that lets each work of a layer get `ahead` chunks of 256 KiB further than the next one, which takes up to
    /// `3 * ahead + 8` buffers a layer. With 0 nothing is done ahead, and helpers find little to do.
    pub fn new(ahead: usize) -> Crew {
        let lines = Lines { next: 0, ahead, closed: false, idle: 0, lines: BTreeMap::new() };
        Crew { floor: Arc::new(Floor { lines: Mutex::new(lines), work: Condvar::new() }) }
    }

    /// Works for the readers of layers until the crew is dismissed.
    pub fn help(&self) {
        let mut lines = self.floor.lock();
        while !lines.closed {
            let job = lines.lines.iter_mut().find_map(|(id, line)| Some((*id, line.job()?)));
            lines = match job {
                Some((id, job)) => {
                    // Whoever finds work looks whether there is enough for one more.
                    self.floor.call(&lines);
                    self.floor.work(lines, id, job)
                }
                None => self.floor.idle(lines),
            };
        }
    }

    /// Sends all helpers home, now and later. Readers go on by themselves.
    pub fn dismiss(&self) {
        self.floor.lock().closed = true;
        self.floor.work.notify_all();
    }

    /// A place for one more layer.
    pub(crate) fn enter(&self) -> Tap {
        let mut lines = self.floor.lock();
        let id = lines.next;
        lines.next += 1;
        Tap { floor: Arc::clone(&self.floor), id, changed: Arc::default() }
    }
}

/// What is to be done. What somebody has in hand is not here.
struct Floor {
    lines: Mutex<Lines>,
    /// There is a job for one of those who have none.
    work: Condvar,
}

struct Lines {
    next: u64,
    ahead: usize,
    closed: bool,
    /// Helpers that wait for work.
    idle: usize,
    /// By age, so that what was begun first is helped first.
    lines: BTreeMap<u64, Line>,
}

impl Floor {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as a helper without work.
    fn idle<'a>(&'a self, mut lines: MutexGuard<'a, Lines>) -> MutexGuard<'a, Lines> {
        lines.idle += 1;
        let mut lines = self.work.wait(lines).unwrap_or_else(PoisonError::into_inner);
        lines.idle -= 1;
        lines
    }

    /// Wakes one idle helper if there is a job. Waking is dear: nobody is woken who would find nothing.
    fn call(&self, lines: &Lines) {
        if lines.idle > 0 && lines.lines.values().any(|line| line.next_work().is_some()) {
            self.work.notify_one();
        }
    }

    /// Tells those who wait that something was put back to line `id`, or taken away that stood in the way.
    fn changed(&self, lines: &Lines, id: u64) {
        if let Some(line) = lines.lines.get(&id).filter(|line| line.waiting > 0) {
            line.changed.notify_all();
        }
        self.call(lines);
    }

    /// Does a job of line `id` while others have the floor.
    fn work<'a>(&'a self, lines: MutexGuard<'a, Lines>, id: u64, job: Job) -> MutexGuard<'a, Lines> {
        drop(lines);
        let in_hand = InHand { floor: self, id };
        let done = job.run();
        drop(in_hand);
        let mut lines = self.lock();
        if let Some(line) = lines.lines.get_mut(&id) {
            line.put_back(done);
        }
        self.changed(&lines, id);
        lines
    }
}

/// Tells the others when its thread dies over a job: what it had in hand does not come back.
struct InHand<'a> {
    floor: &'a Floor,
    id: u64,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut lines = self.floor.lock();
            if let Some(line) = lines.lines.get_mut(&self.id) {
                line.lost = true;
            }
            self.floor.changed(&lines, self.id);
        }
    }
}

/// One layer on its way.
struct Line {
    ahead: usize,
    /// None in somebody's hand, and of a layer that needs none.
    decoder: Option<Box<Decoder>>,
    /// What is still to be decoded and read.
    wanted: Wanted,
    /// Decoded and not yet read, each chunk with its place in the tar.
    ready: VecDeque<(u64, Chunk)>,
    /// Nothing follows what is ready.
    ended: bool,
    /// Why nothing does, if it is not the end.
    fault: Option<Fault>,
    /// None in the second pass.
    blob: Option<Lane<Hasher>>,
    /// None in the second pass, or if the tar is the blob.
    tar: Option<Lane<Hasher>>,
    /// None if the tar is not to be kept in a file, or no more.
    scratch: Option<Lane<Scratch>>,
    /// Bytes read of the blob, and produced of the tar, when the decoder was last seen.
    progress: (u64, u64),
    /// A thread died over this layer.
    lost: bool,
    /// Threads that wait for this line: the one that reads it, or one that has its decoder.
    waiting: usize,
    /// For these.
    changed: Arc<Condvar>,
}

/// Bytes on their way into a digest or a file.
struct Lane<S> {
    /// None in somebody's hand.
    state: Option<Box<S>>,
    queue: VecDeque<Chunk>,
}

#[derive(Clone, Copy)]
enum Side {
    Blob,
    Tar,
}

/// What somebody could do.
#[derive(Clone, Copy)]
enum Work {
    Decode,
    Hash(Side),
    Save,
}

/// The same, with all that it takes.
enum Job {
    /// From a byte of the tar on, if it can be reached without reading.
    Decode(Box<Decoder>, u64),
    Hash(Side, Box<Hasher>, Chunk),
    Save(Box<Scratch>, Chunk),
}

enum Done {
    Decoded(Box<Decoder>, Result<Chunk, Fault>),
    Hashed(Side, Box<Hasher>),
    /// None if it could not be done.
    Saved(Option<Box<Scratch>>),
}

impl Job {
    fn run(self) -> Done {
        match self {
            Job::Decode(mut decoder, from) => {
                decoder.jump(from);
                let outcome = decoder.next();
                Done::Decoded(decoder, outcome)
            }
            Job::Hash(side, mut hasher, chunk) => {
                hasher.update(&chunk);
                Done::Hashed(side, hasher)
            }
            Job::Save(scratch, chunk) => Done::Saved(scratch.with(&chunk).map(Box::new)),
        }
    }
}

impl<S> Lane<S> {
    fn new(state: S) -> Lane<S> {
        Lane { state: Some(Box::new(state)), queue: VecDeque::new() }
    }

    /// Chunks that somebody could work off.
    fn work(&self) -> usize {
        if self.state.is_some() { self.queue.len() } else { 0 }
    }

    fn take(&mut self) -> Option<(Box<S>, Chunk)> {
        // In this order: a state taken out of an idle lane would be lost.
        let state = self.state.take_if(|_| !self.queue.is_empty())?;
        Some((state, self.queue.pop_front()?))
    }
}

impl Line {
    fn hashed(&mut self, side: Side) -> Option<&mut Lane<Hasher>> {
        match side {
            Side::Blob => self.blob.as_mut(),
            Side::Tar => self.tar.as_mut(),
        }
    }

    /// The next thing to do: decoding, as all the rest depends on it, unless it is far enough ahead.
    fn next_work(&self) -> Option<Work> {
        let hashed = self.tar.as_ref().map_or(0, |tar| tar.queue.len());
        let saved = self.scratch.as_ref().map_or(0, |scratch| scratch.queue.len());
        let ahead = self.ready.len().max(hashed).max(saved);
        let decodes = self.decoder.is_some() && !self.ended && !self.lost && ahead <= self.ahead;
        if decodes { Some(Work::Decode) } else { self.next_lane() }
    }

    /// The longest queue first.
    fn next_lane(&self) -> Option<Work> {
        let hashes = |lane: &Option<Lane<Hasher>>| lane.as_ref().map_or(0, Lane::work);
        let lanes = [
            (self.scratch.as_ref().map_or(0, Lane::work), Work::Save),
            (hashes(&self.tar), Work::Hash(Side::Tar)),
            (hashes(&self.blob), Work::Hash(Side::Blob)),
        ];
        let (work, longest) = lanes.into_iter().max_by_key(|(queued, _)| *queued)?;
        (work > 0).then_some(longest)
    }

    fn take(&mut self, work: Work) -> Option<Job> {
        match work {
            Work::Decode => {
                let from = self.wanted.next(self.progress.1).unwrap_or(0);
                Some(Job::Decode(self.decoder.take()?, from))
            }
            Work::Hash(side) => {
                let (hasher, chunk) = self.hashed(side)?.take()?;
                Some(Job::Hash(side, hasher, chunk))
            }
            Work::Save => {
                let (scratch, chunk) = self.scratch.as_mut()?.take()?;
                Some(Job::Save(scratch, chunk))
            }
        }
    }

    fn job(&mut self) -> Option<Job> {
        self.take(self.next_work()?)
    }

    fn put_back(&mut self, done: Done) {
        match done {
            Done::Decoded(decoder, outcome) => {
                self.progress = (decoder.blob.read, decoder.produced);
                self.decoder = Some(decoder);
                match outcome {
                    Ok(chunk) if chunk.is_empty() => self.ended = true,
                    Ok(chunk) => self.add(chunk),
                    Err(fault) => {
                        self.ended = true;
                        self.fault = Some(fault);
                    }
                }
            }
            Done::Hashed(side, hasher) => {
                if let Some(lane) = self.hashed(side) {
                    lane.state = Some(hasher);
                }
            }
            Done::Saved(Some(scratch)) => {
                if let Some(lane) = &mut self.scratch {
                    lane.state = Some(scratch);
                }
            }
            // It will be inflated again.
            Done::Saved(None) => self.scratch = None,
        }
    }

    /// Takes in what was decoded last.
    fn add(&mut self, chunk: Chunk) {
        if let Some(tar) = &mut self.tar {
            tar.queue.push_back(chunk.clone());
        }
        if let Some(scratch) = &mut self.scratch {
            scratch.queue.push_back(chunk.clone());
        }
        let end = self.progress.1;
        let start = end.saturating_sub(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.wanted.next(start).is_some_and(|next| next < end) {
            self.ready.push_back((start, chunk));
        }
        self.ended = self.wanted.ends_at(end);
    }
}

fn lost() -> io::Error {
    io::Error::other("a thread that read this layer has died")
}

/// Where the decoder of a layer drops what it reads of the blob.
#[derive(Clone)]
pub(crate) struct Tap {
    floor: Arc<Floor>,
    id: u64,
    changed: Arc<Condvar>,
}

impl Tap {
    /// Begins the line of a layer that is checked. Until then nothing may be pushed.
    pub(crate) fn check(self, decoder: Decoder, blob: Hasher, tar: Option<Hasher>) -> Stream {
        self.start(|line| {
            line.decoder = Some(Box::new(decoder));
            line.wanted = Wanted::everything();
            line.blob = Some(Lane::new(blob));
            line.tar = tar.map(Lane::new);
        })
    }

    /// Begins the line of a layer that was checked before, of which `wanted` is read.
    pub(crate) fn reread(self, decoder: Decoder, wanted: Wanted) -> Stream {
        self.start(|line| {
            line.decoder = Some(Box::new(decoder));
            line.ended = wanted.ends_at(0);
            line.wanted = wanted;
        })
    }

    /// Begins the line of a layer that is in memory: nothing is left to do.
    pub(crate) fn recall(self, chunks: impl Iterator<Item = Chunk>) -> Stream {
        self.start(|line| {
            for chunk in chunks {
                let start = line.progress.1;
                line.progress.1 = start.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                line.ready.push_back((start, chunk));
            }
            line.ended = true;
        })
    }

    fn start(self, set_up: impl FnOnce(&mut Line)) -> Stream {
        let mut lines = self.floor.lock();
        let mut line = Line {
            ahead: lines.ahead,
            decoder: None,
            wanted: Wanted::default(),
            ready: VecDeque::new(),
            ended: false,
            fault: None,
            blob: None,
            tar: None,
            scratch: None,
            progress: (0, 0),
            lost: false,
            waiting: 0,
            changed: Arc::clone(&self.changed),
        };
        set_up(&mut line);
        lines.lines.insert(self.id, line);
        self.floor.call(&lines);
        drop(lines);
        Stream { place: self }
    }

    /// Hands over bytes of the blob to be hashed; hashes itself when they pile up.
    pub(crate) fn push(&self, chunk: Chunk) -> io::Result<()> {
        let mut chunk = Some(chunk);
        self.until(|line| {
            let Some(lane) = &mut line.blob else { return Next::Answer(()) };
            lane.queue.extend(chunk.take());
            if lane.queue.len() <= line.ahead {
                return Next::Answer(());
            }
            line.take(Work::Hash(Side::Blob)).map_or(Next::Wait, Next::Work)
        })
    }

    /// Works or waits until `next` has an answer.
    fn until<T>(&self, mut next: impl FnMut(&mut Line) -> Next<T>) -> io::Result<T> {
        let mut lines = self.floor.lock();
        loop {
            // Without a line nobody reads any more.
            let line = lines.lines.get_mut(&self.id).filter(|line| !line.lost).ok_or_else(lost)?;
            lines = match next(line) {
                Next::Answer(answer) => {
                    self.floor.changed(&lines, self.id);
                    return Ok(answer);
                }
                Next::Work(job) => {
                    self.floor.call(&lines);
                    self.floor.work(lines, self.id, job)
                }
                Next::Wait => {
                    line.waiting += 1;
                    let mut lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
                    if let Some(line) = lines.lines.get_mut(&self.id) {
                        line.waiting -= 1;
                    }
                    lines
                }
            };
        }
    }
}

enum Next<T> {
    Answer(T),
    Work(Job),
    Wait,
}

/// The reading end of a line, which ends with it.
pub(crate) struct Stream {
    place: Tap,
}

impl Stream {
    /// The next chunk of the tar and its place in it; an empty one at the end. After a fault, all further calls say that it
    /// is the end.
    pub(crate) fn next(&self) -> Result<(u64, Chunk), Fault> {
        self.place.until(|line| {
            if let Some(chunk) = line.ready.pop_front() {
                return Next::Answer(Ok(chunk));
            }
            if line.ended {
                let end = (line.progress.1, Chunk::default());
                return Next::Answer(line.fault.take().map_or(Ok(end), Err));
            }
            line.job().map_or(Next::Wait, Next::Work)
        })?
    }

    /// Says that nothing before byte `to` of the tar is wanted any more.
    pub(crate) fn forget(&self, to: u64) -> io::Result<()> {
        self.place.until(|line| {
            line.wanted.forget(to);
            let ends = |(start, chunk): &(u64, Chunk)| start.saturating_add(chunk.len() as u64);
            while line.ready.front().is_some_and(|chunk| ends(chunk) <= to) {
                line.ready.pop_front();
            }
            Next::Answer(())
        })
    }

    /// Reads the rest of the blob behind the end or the fault; the number of bytes the blob turned out to have.
    pub(crate) fn drain(&self) -> io::Result<u64> {
        let mut decoder = self.place.until(|line| line.decoder.take().map_or(Next::Wait, Next::Answer))?;
        decoder.blob.drain()
    }

    /// Digests of all of the blob and, if it is another stream, of all of the tar.
    pub(crate) fn digests(&self) -> io::Result<(Digest, Option<Digest>)> {
        let (blob, tar) = self.place.until(|line| {
            if let Some(job) = line.next_lane().and_then(|work| line.take(work)) {
                return Next::Work(job);
            }
            let tar_idle = line.tar.as_ref().is_none_or(|tar| tar.state.is_some());
            let blob = line.blob.as_mut().and_then(|blob| blob.state.take_if(|_| tar_idle));
            match blob {
                Some(blob) => Next::Answer((blob, line.tar.as_mut().and_then(|tar| tar.state.take()))),
                None => Next::Wait,
            }
        })?;
        Ok((blob.finish(), tar.map(|tar| tar.finish())))
    }

    /// Writes the tar to a file as well. To be called before anything is read.
    pub(crate) fn save(&self, scratch: Scratch) -> io::Result<()> {
        let mut scratch = Some(scratch);
        self.place.until(|line| {
            line.scratch = scratch.take().map(|scratch| {
                let mut lane = Lane::new(scratch);
                // Helpers may be ahead already: all of that is still to be read.
                lane.queue.extend(line.ready.iter().map(|(_, chunk)| chunk.clone()));
                lane
            });
            Next::Answer(())
        })
    }

    /// What was written of the tar, if all was.
    pub(crate) fn saved(&self) -> io::Result<Option<Kept>> {
        let saved = self.place.until(|line| {
            if let Some(job) = line.take(Work::Save) {
                return Next::Work(job);
            }
            let Some(lane) = &mut line.scratch else { return Next::Answer(None) };
            lane.state.take().map_or(Next::Wait, |scratch| Next::Answer(Some(scratch)))
        })?;
        Ok(saved.map(|scratch| scratch.keep()))
    }

    /// Bytes of the blob that were read, and of the tar that were produced, so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.place.floor.lock().lines.get(&self.place.id).map_or((0, 0), |line| line.progress)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let line = self.place.floor.lock().lines.remove(&self.place.id);
        self.place.changed.notify_all();
        drop(line);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::compression::Compression;
    use crate::decode::Blob;
    use crate::limits::Limits;
    use crate::store::Extent;

    fn stream(crew: &Crew, bytes: usize) -> Stream {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        let place = crew.enter();
        let extent = Extent { file: Arc::new(file), offset: 0, len: bytes as u64 };
        let blob = Blob::new(extent, Some(place.clone()));
        let decoder = Decoder::new(blob, Compression::None, &Limits::default()).unwrap();
        place.check(decoder, Hasher::sha256(), None)
    }

    /// A decoder or a hasher that is lost with its thread ends the layer with an error, not with a wait for ever.
    #[test]
    fn a_thread_that_dies_is_missed() {
        for loss in ["decoder", "hasher"] {
            let crew = Crew::new(1);
            let stream = stream(&crew, 2 << 20);
            stream.next().unwrap();
            let taken = stream.place.until(|line| {
                Next::Answer(if loss == "decoder" {
                    line.decoder.take().is_some()
                } else {
                    line.blob.as_mut().unwrap().state.take().is_some()
                })
            });
            assert!(taken.unwrap(), "{loss}");
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let read = loop {
                        match stream.next() {
                            Ok((_, chunk)) if chunk.is_empty() => break Ok(()),
                            Ok(_) => {}
                            Err(fault) => break Err(fault),
                        }
                    };
                    (read.is_err(), stream.drain().is_err(), stream.digests().is_err())
                });
                let death = scope.spawn(|| {
                    let _in_hand = InHand { floor: &crew.floor, id: stream.place.id };
                    std::panic::resume_unwind(Box::new(()));
                });
                assert!(death.join().is_err());
                assert_eq!(reader.join().unwrap(), (true, true, true), "{loss}");
            });
        }
    }

    #[test]
    fn a_crew_that_is_dismissed_sends_late_helpers_home() {
        let crew = Crew::new(1);
        let stream = stream(&crew, 2 << 20);
        crew.dismiss();
        crew.help();
        while !stream.next().unwrap().1.is_empty() {}
        assert_eq!(stream.drain().unwrap(), 2 << 20);
        assert_eq!(stream.digests().unwrap(), (Digest::of(&vec![7; 2 << 20]), None));
        assert_eq!(stream.progress(), (2 << 20, 2 << 20));
    }

    /// However far the reader lags behind, the helpers stop.
    #[test]
    fn buffers_are_bounded() {
        for ahead in 0..4 {
            let crew = Crew::new(ahead);
            let stream = stream(&crew, 8 << 20);
            let mut lines = crew.floor.lock();
            while let Some(job) = lines.lines.get_mut(&stream.place.id).unwrap().job() {
                lines = crew.floor.work(lines, stream.place.id, job);
            }
            let line = &lines.lines[&stream.place.id];
            let queued = line.blob.as_ref().unwrap().queue.len();
            assert_eq!((line.ready.len(), queued), (ahead + 1, 0), "{ahead}");
        }
    }
}
