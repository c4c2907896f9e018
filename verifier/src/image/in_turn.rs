//! Jobs that several threads do, and answers that come in the order of the jobs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that are of use.
const THREADS_MAX: usize = 32;

/// Jobs, for each thread, that may be handed out before the oldest answer has been taken.
const AHEAD: usize = 4;

/// Lets `threads` threads do `jobs`, and takes the answers in the order of the jobs.
///
/// The calling thread hands the jobs out and takes the answers; when it is far enough ahead, it does jobs as well. Each
/// thread does its jobs with a worker of its own. Whatever the number of threads, `take` sees the same.
pub(crate) fn in_turn<J: Send, A: Send, W: FnMut(J) -> A>(
    threads: usize,
    worker: impl Fn() -> W + Sync,
    jobs: impl Iterator<Item = J>,
    mut take: impl FnMut(A),
) {
    let threads = threads.min(THREADS_MAX);
    let mut own = worker();
    if threads <= 1 {
        return jobs.for_each(|job| take(own(job)));
    }
    let desk = Desk::default();
    std::thread::scope(|scope| {
        // However this ends, the helpers must not wait for more.
        let _closing = Closing(&desk);
        for _ in 1..threads {
            // A thread that cannot be started is not missed: the others do its jobs.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || {
                let _closing = Closing(&desk);
                let mut work = worker();
                while let Some((number, job)) = desk.next() {
                    let answer = work(job);
                    desk.lay_down(number, answer);
                }
            });
        }
        let window = threads.saturating_mul(AHEAD);
        let (mut handed, mut taken) = (0_usize, 0_usize);
        for job in jobs {
            desk.hand_out(handed, job);
            handed = handed.saturating_add(1);
            while handed.saturating_sub(taken) >= window {
                let Some(answer) = desk.answer(taken, &mut own) else { return };
                take(answer);
                taken = taken.saturating_add(1);
            }
        }
        while taken < handed {
            let Some(answer) = desk.answer(taken, &mut own) else { return };
            take(answer);
            taken = taken.saturating_add(1);
        }
    });
}

/// Where jobs and answers lie, by number.
struct Desk<J, A>(Mutex<Papers<J, A>>, Condvar);

struct Papers<J, A> {
    jobs: VecDeque<(usize, J)>,
    answers: BTreeMap<usize, A>,
    closed: bool,
}

impl<J, A> Default for Desk<J, A> {
    fn default() -> Self {
        let papers = Papers { jobs: VecDeque::new(), answers: BTreeMap::new(), closed: false };
        Self(Mutex::new(papers), Condvar::new())
    }
}

impl<J, A> Desk<J, A> {
    fn lock(&self) -> MutexGuard<'_, Papers<J, A>> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, papers: MutexGuard<'a, Papers<J, A>>) -> MutexGuard<'a, Papers<J, A>> {
        self.1.wait(papers).unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self, number: usize, job: J) {
        self.lock().jobs.push_back((number, job));
        self.1.notify_all();
    }

    fn lay_down(&self, number: usize, answer: A) {
        self.lock().answers.insert(number, answer);
        self.1.notify_all();
    }

    /// The oldest job, as soon as there is one; `None` when there will be none.
    fn next(&self) -> Option<(usize, J)> {
        let mut papers = self.lock();
        loop {
            match papers.jobs.pop_front() {
                Some(job) => return Some(job),
                None if papers.closed => return None,
                None => papers = self.wait(papers),
            }
        }
    }

    /// An answer; jobs are done until it is there. `None` when it will never come, as a helper has panicked.
    fn answer(&self, number: usize, work: &mut impl FnMut(J) -> A) -> Option<A> {
        let mut papers = self.lock();
        loop {
            if let Some(answer) = papers.answers.remove(&number) {
                return Some(answer);
            }
            if papers.closed {
                return None;
            }
            match papers.jobs.pop_front() {
                Some((number, job)) => {
                    drop(papers);
                    let answer = work(job);
                    papers = self.lock();
                    papers.answers.insert(number, answer);
                }
                None => papers = self.wait(papers),
            }
        }
    }
}

/// Closes a desk when it is dropped.
struct Closing<'a, J, A>(&'a Desk<J, A>);

impl<J, A> Drop for Closing<'_, J, A> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.1.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// The first job of each dozen takes longest, so that answers overtake each other.
    fn slow(job: usize) -> usize {
        if job.is_multiple_of(12) {
            std::thread::sleep(Duration::from_millis(2));
        }
        job * 3
    }

    #[test]
    fn answers_come_in_the_order_of_the_jobs() {
        for threads in [0, 1, 2, 3, 8, 100] {
            for count in [0, 1, 7, 200] {
                let (begun, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let mut answers = Vec::new();
                let worker = || {
                    |job| {
                        begun.fetch_add(1, Ordering::Relaxed);
                        slow(job)
                    }
                };
                in_turn(threads, worker, 0..count, |answer| {
                    answers.push(answer);
                    most.fetch_max(begun.load(Ordering::Relaxed) - answers.len(), Ordering::Relaxed);
                });
                assert_eq!(answers, (0..count).map(|job| job * 3).collect::<Vec<_>>(), "{threads} threads");
                assert!(most.into_inner() <= threads.min(THREADS_MAX) * AHEAD, "{threads} threads");
            }
        }
    }

    #[test]
    fn a_panic_does_not_leave_anybody_waiting() {
        for bad in [0, 50, 99] {
            let run = || in_turn(4, || |job| assert_ne!(slow(job), bad * 3), 0..100, |()| {});
            assert!(std::panic::catch_unwind(run).is_err(), "job {bad}");
        }
    }
}
