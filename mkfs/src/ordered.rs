//! Works that several threads do, handed back in the order in which they were given out.
//!
//! So what is made of the results never depends on how many threads there are, or which of them is faster.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// A work, and where to give it back.
type Job<T> = (T, SyncSender<T>);

/// Works under way: so many at most.
pub(crate) struct Ordered<T> {
    jobs: SyncSender<Job<T>>,
    pending: VecDeque<Receiver<T>>,
    pending_max: usize,
}

impl<T: Send> Ordered<T> {
    /// Starts `threads` threads in `scope`, each of which does works with a function of its own. `pending_max` works may be
    /// under way.
    ///
    /// They end when this, and with it the sending end of their queue, is gone.
    pub(crate) fn start<'scope, W>(
        scope: &'scope Scope<'scope, '_>,
        threads: NonZeroUsize,
        pending_max: usize,
        mut worker: impl FnMut() -> io::Result<W>,
    ) -> io::Result<Self>
    where
        T: 'scope,
        W: FnMut(&mut T) + Send + 'scope,
    {
        let (jobs, queue) = mpsc::sync_channel(pending_max);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads.get() {
            let queue = Arc::clone(&queue);
            let worker = worker()?;
            std::thread::Builder::new().spawn_scoped(scope, move || serve(&queue, worker))?;
        }
        Ok(Self { jobs, pending: VecDeque::with_capacity(pending_max), pending_max })
    }

    /// Gives out a work. Hands over the oldest one, done, when as many as may be are under way.
    pub(crate) fn give(&mut self, work: T) -> io::Result<Option<T>> {
        let oldest = if self.pending.len() < self.pending_max { None } else { self.take()? };
        let (reply, done) = mpsc::sync_channel(1);
        self.jobs.send((work, reply)).map_err(|_| stopped())?;
        self.pending.push_back(done);
        Ok(oldest)
    }

    /// Waits for the oldest work; `None` when there is none under way.
    pub(crate) fn take(&mut self) -> io::Result<Option<T>> {
        self.pending.pop_front().map(|done| done.recv().map_err(|_| stopped())).transpose()
    }
}

fn stopped() -> io::Error {
    io::Error::other("a working thread has stopped")
}

/// Does works until there are no more.
fn serve<T>(queue: &Mutex<Receiver<Job<T>>>, mut worker: impl FnMut(&mut T)) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((mut work, reply)) = job else { return };
        worker(&mut work);
        // Nobody waits any more after an error.
        let _ = reply.send(work);
    }
}
