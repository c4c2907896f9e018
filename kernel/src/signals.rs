//! The wish to end (`SIGINT`, `SIGTERM`) as a descriptor that can be waited for beside others.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::{self, Errno};

/// Readable once somebody wants the process to end.
#[derive(Debug)]
pub struct Termination(SignalFd);

impl Termination {
    /// From now on the two signals end nothing by themselves.
    ///
    /// To be called before there is a second thread: threads inherit what is blocked.
    ///
    /// # Errors
    /// What the system said, for example that there are too many descriptors.
    pub fn catch() -> io::Result<Self> {
        let errno = |error: nix::Error| Errno::from_raw_os_error(error as i32);
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(errno)?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .map_err(errno)
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn a_signal_waits_to_be_seen() {
        let caught = Termination::catch().unwrap();
        let readable = |caught: &Termination| {
            poll(&mut [PollFd::new(caught, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
        };
        assert!(!readable(&caught));
        // To this thread alone, which is the one that holds it back.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert!(readable(&caught));
    }
}
