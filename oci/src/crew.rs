//! The checked reading of layers, cut into pieces of work that any thread may take.
//!
//! ```text
//! blob ── read and inflate ──┬── chunks of the tar ──> reader
//!              │             └── digest of the tar
//!              └── digest of the blob
//! ```
//!
//! Each of the three works of a layer goes on in order and on one thread at a time, but not always on the same: its state
//! (decoder or hasher) lies on the floor of the crew, whoever has time picks it up, works off one chunk and puts it back.
//! The thread that reads the layer does so whenever it would wait, so it needs no helper and never waits for one that has
//! not begun. With and without helpers the same code sees the same bytes in the same order: there is one set of errors.
//!
//! Nobody waits with the state of a work in hand, but for a decoder whose blob is read faster than it is hashed; that
//! hasher is then in the hands of somebody who does not wait. So there is always a thread that goes on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::chunk::Chunk;
use crate::decode::{Decoder, Fault};
use crate::digest::{Digest, Hasher};

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
        let lines = Lines { next: 0, ahead, closed: false, lines: BTreeMap::new() };
        Crew { floor: Arc::new(Floor { lines: Mutex::new(lines), changed: Condvar::new() }) }
    }

    /// Works for the readers of layers until the crew is dismissed.
    pub fn help(&self) {
        let mut lines = self.floor.lock();
        while !lines.closed {
            let job = lines.lines.iter_mut().find_map(|(id, line)| Some((*id, line.job()?)));
            lines = match job {
                Some((id, job)) => self.floor.work(lines, id, job),
                None => self.floor.wait(lines),
            };
        }
    }

    /// Sends all helpers home, now and later. Readers go on by themselves.
    pub fn dismiss(&self) {
        self.floor.lock().closed = true;
        self.floor.changed.notify_all();
    }

    /// A place for one more layer.
    pub(crate) fn enter(&self) -> Tap {
        let mut lines = self.floor.lock();
        let id = lines.next;
        lines.next += 1;
        Tap { floor: Arc::clone(&self.floor), id }
    }
}

/// What is to be done. What somebody has in hand is not here.
struct Floor {
    lines: Mutex<Lines>,
    /// Something was put back, or taken away that stood in the way.
    changed: Condvar,
}

struct Lines {
    next: u64,
    ahead: usize,
    closed: bool,
    /// By age, so that what was begun first is helped first.
    lines: BTreeMap<u64, Line>,
}

impl Floor {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, lines: MutexGuard<'a, Lines>) -> MutexGuard<'a, Lines> {
        self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner)
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
        self.changed.notify_all();
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
            if let Some(line) = self.floor.lock().lines.get_mut(&self.id) {
                line.lost = true;
            }
            self.floor.changed.notify_all();
        }
    }
}

/// One layer on its way.
struct Line {
    ahead: usize,
    decoder: Option<Box<Decoder>>,
    /// Decoded and not yet read.
    ready: VecDeque<Chunk>,
    /// Nothing follows what is ready.
    ended: bool,
    /// Why nothing does, if it is not the end.
    fault: Option<Fault>,
    blob: Lane,
    /// None if the tar is the blob.
    tar: Option<Lane>,
    /// Bytes read of the blob, and produced of the tar, when the decoder was last seen.
    progress: (u64, u64),
    /// A thread died over this layer.
    lost: bool,
}

/// Bytes on their way into a digest.
struct Lane {
    hasher: Option<Box<Hasher>>,
    queue: VecDeque<Chunk>,
}

#[derive(Clone, Copy)]
enum Side {
    Blob,
    Tar,
}

enum Job {
    Decode(Box<Decoder>),
    Hash(Side, Box<Hasher>, Chunk),
}

enum Done {
    Decoded(Box<Decoder>, Result<Chunk, Fault>),
    Hashed(Side, Box<Hasher>),
}

impl Job {
    fn run(self) -> Done {
        match self {
            Job::Decode(mut decoder) => {
                let outcome = decoder.refill().map(|()| decoder.take());
                Done::Decoded(decoder, outcome)
            }
            Job::Hash(side, mut hasher, chunk) => {
                hasher.update(&chunk);
                Done::Hashed(side, hasher)
            }
        }
    }
}

impl Lane {
    fn new(hasher: Hasher) -> Lane {
        Lane { hasher: Some(Box::new(hasher)), queue: VecDeque::new() }
    }

    fn job(&mut self, side: Side) -> Option<Job> {
        // In this order: a hasher taken out of an idle lane would be lost.
        let hasher = self.hasher.take_if(|_| !self.queue.is_empty())?;
        Some(Job::Hash(side, hasher, self.queue.pop_front()?))
    }
}

impl Line {
    /// The next thing to do: decoding, as all the rest depends on it, unless it is far enough ahead.
    fn job(&mut self) -> Option<Job> {
        let ahead = self.ready.len().max(self.tar.as_ref().map_or(0, |tar| tar.queue.len()));
        let decoder = self.decoder.take_if(|_| !self.ended && !self.lost && ahead <= self.ahead);
        decoder.map(Job::Decode).or_else(|| self.hash_job())
    }

    fn hash_job(&mut self) -> Option<Job> {
        let blob = self.blob.queue.len();
        let tar_first = self.tar.as_mut().filter(|tar| tar.queue.len() > blob);
        tar_first
            .and_then(|tar| tar.job(Side::Tar))
            .or_else(|| self.blob.job(Side::Blob))
            .or_else(|| self.tar.as_mut()?.job(Side::Tar))
    }

    fn put_back(&mut self, done: Done) {
        match done {
            Done::Decoded(decoder, outcome) => {
                self.progress = (decoder.blob.read, decoder.produced);
                self.decoder = Some(decoder);
                match outcome {
                    Ok(chunk) if chunk.is_empty() => self.ended = true,
                    Ok(chunk) => {
                        if let Some(tar) = &mut self.tar {
                            tar.queue.push_back(chunk.clone());
                        }
                        self.ready.push_back(chunk);
                    }
                    Err(fault) => {
                        self.ended = true;
                        self.fault = Some(fault);
                    }
                }
            }
            Done::Hashed(Side::Blob, hasher) => self.blob.hasher = Some(hasher),
            Done::Hashed(Side::Tar, hasher) => {
                if let Some(tar) = &mut self.tar {
                    tar.hasher = Some(hasher);
                }
            }
        }
    }
}

fn lost() -> io::Error {
    io::Error::other("a thread that read this layer has died")
}

/// Where the decoder of a layer drops what it reads of the blob.
pub(crate) struct Tap {
    floor: Arc<Floor>,
    id: u64,
}

impl Tap {
    /// The same place again.
    pub(crate) fn share(&self) -> Tap {
        Tap { floor: Arc::clone(&self.floor), id: self.id }
    }

    /// Begins the line. Until then nothing may be pushed.
    pub(crate) fn start(self, decoder: Decoder, blob: Hasher, tar: Option<Hasher>) -> Stream {
        let mut lines = self.floor.lock();
        let line = Line {
            ahead: lines.ahead,
            decoder: Some(Box::new(decoder)),
            ready: VecDeque::new(),
            ended: false,
            fault: None,
            blob: Lane::new(blob),
            tar: tar.map(Lane::new),
            progress: (0, 0),
            lost: false,
        };
        lines.lines.insert(self.id, line);
        self.floor.changed.notify_all();
        drop(lines);
        Stream { place: self }
    }

    /// Hands over bytes of the blob to be hashed; hashes itself when they pile up.
    pub(crate) fn push(&self, chunk: Chunk) -> io::Result<()> {
        let mut chunk = Some(chunk);
        self.until(|line| {
            if let Some(chunk) = chunk.take() {
                line.blob.queue.push_back(chunk);
                self.floor.changed.notify_all();
            }
            if line.blob.queue.len() <= line.ahead {
                return Next::Answer(());
            }
            line.blob.job(Side::Blob).map_or(Next::Wait, Next::Work)
        })
    }

    /// Works or waits until `next` has an answer.
    fn until<T>(&self, mut next: impl FnMut(&mut Line) -> Next<T>) -> io::Result<T> {
        let mut lines = self.floor.lock();
        loop {
            // Without a line nobody reads any more.
            let line = lines.lines.get_mut(&self.id).filter(|line| !line.lost).ok_or_else(lost)?;
            lines = match next(line) {
                Next::Answer(answer) => return Ok(answer),
                Next::Work(job) => self.floor.work(lines, self.id, job),
                Next::Wait => self.floor.wait(lines),
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
    /// The next chunk of the tar; an empty one at the end. After a fault, all further calls say that it is the end.
    pub(crate) fn next(&self) -> Result<Chunk, Fault> {
        self.place.until(|line| {
            if let Some(chunk) = line.ready.pop_front() {
                self.place.floor.changed.notify_all();
                return Next::Answer(Ok(chunk));
            }
            if line.ended {
                return Next::Answer(line.fault.take().map_or_else(|| Ok(Chunk::default()), Err));
            }
            line.job().map_or(Next::Wait, Next::Work)
        })?
    }

    /// Reads the rest of the blob behind the end or the fault; the number of bytes the blob turned out to have.
    pub(crate) fn drain(&self) -> io::Result<u64> {
        let mut decoder = self.place.until(|line| line.decoder.take().map_or(Next::Wait, Next::Answer))?;
        decoder.blob.drain()
    }

    /// Digests of all of the blob and, if it is another stream, of all of the tar.
    pub(crate) fn digests(&self) -> io::Result<(Digest, Option<Digest>)> {
        let (blob, tar) = self.place.until(|line| {
            if let Some(job) = line.hash_job() {
                return Next::Work(job);
            }
            let tar_idle = line.tar.as_ref().is_none_or(|tar| tar.hasher.is_some());
            match line.blob.hasher.take_if(|_| tar_idle) {
                Some(blob) => Next::Answer((blob, line.tar.as_mut().and_then(|tar| tar.hasher.take()))),
                None => Next::Wait,
            }
        })?;
        Ok((blob.finish(), tar.map(|tar| tar.finish())))
    }

    /// Bytes of the blob that were read, and of the tar that were produced, so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.place.floor.lock().lines.get(&self.place.id).map_or((0, 0), |line| line.progress)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let line = self.place.floor.lock().lines.remove(&self.place.id);
        self.place.floor.changed.notify_all();
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
        let blob = Blob::new(extent, Some(place.share()));
        let decoder = Decoder::new(blob, Compression::None, &Limits::default()).unwrap();
        place.start(decoder, Hasher::sha256(), None)
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
                    line.blob.hasher.take().is_some()
                })
            });
            assert!(taken.unwrap(), "{loss}");
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let read = loop {
                        match stream.next() {
                            Ok(chunk) if chunk.is_empty() => break Ok(()),
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
        while !stream.next().unwrap().is_empty() {}
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
            assert_eq!((line.ready.len(), line.blob.queue.len()), (ahead + 1, 0), "{ahead}");
        }
    }
}
