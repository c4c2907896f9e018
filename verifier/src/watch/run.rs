//! When what is looked at, and what is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mkimg_format::erofs::Timestamp;
use mkimg_kernel::fanotify::{Group, ReadError};
use mkimg_kernel::handle::Handle;
use mkimg_kernel::mountinfo::{self, Changes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::aliases::changed_since;
use super::known::{Known, News};
use super::marks::Marks;
use super::pending::{Cause, Pending};
use super::subject::{Below, Found, Subject};
use crate::difference::{Difference, Kind};
use crate::live;
use crate::tree::scope::of_report;
use crate::tree::{self, Depth, Field, Scope, Stat, Tree, TreeOptions, TreeReport};

/// How long after the first event its successors are waited for.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest time between an event and the look at it, if audits take long.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How often something that changes while it is looked at is looked at again before that is reported.
const RETRIES: u8 = 8;

/// Why there is nothing to watch, or not any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refuses.
    #[error("cannot watch: {what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// Events cannot be read.
    #[error(transparent)]
    Events(#[from] ReadError),
    /// The list of mounts cannot be read.
    #[error(transparent)]
    Mounts(#[from] mkimg_kernel::Error),
    /// The directory that was watched is not there any more: it was removed, renamed, unmounted, or something was
    /// mounted over it.
    #[error("the directory is not the one any more whose watch began")]
    Replaced,
    /// The image is not the one any more whose watch began, or its records are damaged.
    #[error("the records of the image cannot be trusted any more")]
    Records,
    /// The tree or the image cannot be opened.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The mount cannot be looked at.
    #[error(transparent)]
    Mount(#[from] live::Error),
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] mkimg_format::Error),
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Something differs that did not: everything that was found at once.
    Differs(Vec<Difference>),
    /// A path that differed is as shipped again.
    Restored(Vec<u8>),
    /// Something is wrong below the mount that was not.
    Broken(Below),
    /// Something that was wrong below the mount is not any more.
    Mended(Below),
    /// Everything is looked at anew. What it finds follows.
    Full(Cause),
    /// Something cannot be seen from now on, and why.
    Unseen(String),
}

/// Whom a watch tells.
pub type Tell<'a, E> = dyn FnMut(Notice) -> Result<(), E> + 'a;

/// What a watch came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// Whether anything differed at any time.
    pub differed: bool,
    /// Whether not everything could be seen all the time. Then a watch without differences proves nothing.
    pub incomplete: bool,
    /// What was not seen, and why, one line each, beside what is said by differences.
    pub unseen: BTreeSet<String>,
}

/// Which directory it is that is watched.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    handle: Handle,
    mount: u64,
}

/// The watch over one tree or mount.
pub struct Watch<'a, S> {
    subject: &'a S,
    root: Root,
    marks: Option<Marks>,
    /// Events of the image file.
    file: Option<Group>,
    changes: Changes,
    /// What is mounted in the tree: number of the mount, and where.
    mounted: BTreeSet<(u32, PathBuf)>,
    known: Known,
    below: BTreeSet<Below>,
    pending: Pending,
    /// Not later than when events were read that were looked at.
    looked: Timestamp,
    /// Paths that changed while they were looked at, and how often.
    restless: BTreeMap<Vec<u8>, u8>,
    outcome: Outcome,
}

impl<'a, S: Subject> Watch<'a, S> {
    /// Begins to watch. What happens from now on is looked at by [`Self::run`].
    ///
    /// # Errors
    /// When the kernel cannot watch, or the directory cannot be opened.
    pub fn start(subject: &'a S) -> Result<Self, Error> {
        let begun = now();
        let changes = Changes::open()?;
        let tree = Tree::open(subject.dir(), subject.options().cross_mounts)?;
        let root = Root::of(&tree)?;
        let mut marks = None;
        if subject.is_writable() {
            let marks = marks.insert(Marks::new().map_err(|error| kernel("fanotify", error))?);
            marks.mark(&tree, b"", subject.options());
        }
        let (mut outcome, mut file) = (Outcome::default(), None);
        if let Some(opened) = subject.file()? {
            let group = Group::of_files().map_err(|error| kernel("fanotify", error))?;
            match group.mark_file(opened) {
                Ok(()) => file = Some(group),
                Err(error) => {
                    outcome.incomplete = true;
                    outcome.unseen.insert(format!("changes of the image file: {error}"));
                }
            }
        }
        Ok(Self {
            mounted: mounted_in(subject.dir())?,
            subject,
            root,
            marks,
            file,
            changes,
            known: Known::default(),
            below: BTreeSet::new(),
            pending: Pending::default(),
            looked: begun,
            restless: BTreeMap::new(),
            outcome,
        })
    }

    /// Audits everything for the first time. What differs is known from then on.
    ///
    /// # Errors
    /// When nothing could be audited.
    pub fn first(&mut self) -> Result<S::Report, Error> {
        let report = self.subject.audit()?;
        self.take(S::found(&report));
        Ok(report)
    }

    /// Waits for changes and tells what they are, until `end` is readable. Whatever happened before that is told.
    ///
    /// # Errors
    /// When the watch cannot go on, or nothing can be told any more. What it came to is in [`Self::outcome`].
    pub fn run<E: From<Error>>(&mut self, end: impl AsFd, tell: &mut Tell<'_, E>) -> Result<(), E> {
        self.note_unwatched();
        for unseen in self.outcome.unseen.clone() {
            tell(Notice::Unseen(unseen))?;
        }
        let mut pause = SETTLE;
        let mut due = self.due_in(pause);
        loop {
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ending = self.wait(&end, timeout)?;
            let now = Instant::now();
            due = due.or_else(|| self.due_in(pause));
            if !ending && due.is_none_or(|due| now < due) {
                continue;
            }
            self.look_and_tell(tell)?;
            if ending {
                // What moves while it is looked at is looked at again, so often and not more.
                while !self.pending.is_empty() {
                    self.look_and_tell(tell)?;
                }
                return Ok(());
            }
            pause = now.elapsed().clamp(SETTLE, SETTLE_MAX);
            due = self.due_in(pause);
        }
    }

    fn look_and_tell<E: From<Error>>(&mut self, tell: &mut Tell<'_, E>) -> Result<(), E> {
        let before = self.outcome.unseen.clone();
        let notices = self.look(tell)?;
        for unseen in self.outcome.unseen.difference(&before) {
            tell(Notice::Unseen(unseen.clone()))?;
        }
        notices.into_iter().try_for_each(tell)
    }

    /// When to look at what has happened; `None` if nothing has.
    fn due_in(&self, pause: Duration) -> Option<Instant> {
        if self.pending.is_empty() { None } else { Instant::now().checked_add(pause) }
    }

    /// What the watch has come to so far.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Waits for anything; returns whether it is the end.
    fn wait(&mut self, end: &impl AsFd, timeout: Option<Duration>) -> Result<bool, Error> {
        let mut sources = vec![PollFd::new(end, PollFlags::IN), PollFd::new(&self.changes, PollFlags::PRI)];
        let groups = self.marks.iter().map(Marks::group).chain(&self.file);
        sources.extend(groups.map(|group| PollFd::new(group, PollFlags::IN)));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(kernel("poll", error)),
        }
        let happened = |index: usize| sources.get(index).is_some_and(|source| !source.revents().is_empty());
        let (ending, remounted) = (happened(0), happened(1));
        if remounted {
            let mounted = mounted_in(self.subject.dir())?;
            if mounted != self.mounted || self.open().is_err() {
                self.mounted = mounted;
                self.pending.everything(Cause::Mounts);
            }
        }
        if let Some(marks) = &mut self.marks {
            marks.read(self.subject.options(), &mut self.pending)?;
        }
        if let Some(file) = &mut self.file
            && !file.read()?.is_empty()
        {
            self.pending.everything(Cause::File);
        }
        Ok(ending)
    }

    /// Opens the tree, if it is still the one whose watch began.
    fn open(&self) -> Result<Tree, Error> {
        let tree = Tree::open(self.subject.dir(), self.subject.options().cross_mounts)?;
        if Root::of(&tree)? == self.root { Ok(tree) } else { Err(Error::Replaced) }
    }

    /// Looks at all that has happened; returns what there is to tell.
    fn look<E: From<Error>>(&mut self, tell: &mut Tell<'_, E>) -> Result<Vec<Notice>, E> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let since = std::mem::replace(&mut self.looked, now());
        let tree = self.open()?;
        if let Some(cause) = pending.cause {
            tell(Notice::Full(cause))?;
            if cause.loses() {
                let what = "what came and went before everything was looked at again";
                self.note_unseen(format!("{what}: {}", cause.describe()));
            }
            self.mark(&tree, b"");
            let found = S::found(&self.subject.audit()?);
            return Ok(self.take(found));
        }
        for path in &pending.marks {
            self.mark(&tree, path);
        }
        let news = self.look_at(&tree, &pending, since)?;
        Ok(self.notices(news))
    }

    /// Marks directories anew.
    fn mark(&mut self, tree: &Tree, path: &[u8]) {
        if let Some(marks) = &mut self.marks {
            marks.mark(tree, path, self.subject.options());
        }
        self.note_unwatched();
    }

    /// Takes what an audit of everything has found; returns what there is to tell.
    fn take(&mut self, mut found: Found) -> Vec<Notice> {
        if !found.file {
            // What was not looked at is as it was.
            let file = self.below.iter().filter(|below| matches!(below, Below::File(_)));
            found.below.extend(file.cloned());
        }
        self.outcome.incomplete |= !found.complete;
        self.outcome.differed |= !found.below.is_empty();
        found.unseen.into_iter().for_each(|unseen| self.note_unseen(unseen));
        let mended = self.below.difference(&found.below).cloned().map(Notice::Mended);
        let broken = found.below.difference(&self.below).cloned().map(Notice::Broken);
        let mut notices: Vec<Notice> = mended.chain(broken).collect();
        self.below = found.below;
        if let Some(report) = found.tree {
            let news = self.settle(&Scope::everything(), report, |_| true);
            notices.extend(self.notices(news));
        }
        notices
    }

    /// Compares some paths, and what has changed with them by other names.
    fn look_at(&mut self, tree: &Tree, pending: &Pending, since: Timestamp) -> Result<News, Error> {
        let is_link = |difference: &Difference| difference.kind == Kind::Links;
        let options = self.subject.options();
        let Some(report) = self.subject.audit_scope(&pending.scope, options)? else {
            self.pending.everything(Cause::File);
            return Ok(News::default());
        };
        // Nobody saw what happened in a new directory before it was marked.
        let relinked = pending.names
            && (report.linked || !pending.marks.is_empty() || self.known.any(|known| is_link(known)));
        let aliased = relinked || report.linked;
        // Part of the names does not tell which are one inode.
        let mut news = self.settle(&pending.scope, report, |found| !is_link(found));
        if aliased {
            let scope = changed_since(tree, since, &pending.scope, options);
            if let Some(report) = self.subject.audit_scope(&scope, options)? {
                news.extend(self.settle(&scope, report, |found| !is_link(found)));
            }
        }
        if relinked && options.compares(Field::Links) && !options.only_security {
            let ignore: Vec<Field> = Field::ALL.into_iter().filter(|field| *field != Field::Links).collect();
            let options = TreeOptions { ignore: &ignore, ..*options };
            let scope = Scope::everything();
            if let Some(report) = self.subject.audit_scope(&scope, &options)? {
                news.extend(self.settle(&scope, report, is_link));
            }
        }
        Ok(news)
    }

    /// Takes what was found in a scope for what is there, but for what changed while it was looked at.
    fn settle(&mut self, scope: &Scope, report: TreeReport, about: impl Fn(&Difference) -> bool) -> News {
        self.outcome.incomplete |= !report.complete;
        self.outcome.unseen.extend(report.unseen);
        let mut restless = BTreeSet::new();
        let mut found = report.findings;
        found.retain(|difference| {
            if difference.kind != Kind::Changing {
                return about(difference);
            }
            let times = self.restless.entry(difference.path.clone()).or_default();
            *times = times.saturating_add(1);
            if *times > RETRIES {
                return true;
            }
            restless.insert(difference.path.clone());
            false
        });
        self.restless.retain(|path, _| restless.contains(path) || !scope.contains(of_report(path)));
        for path in &restless {
            self.pending.add(of_report(path).to_vec(), Depth::Below);
        }
        let about = |difference: &Difference| about(difference) && !restless.contains(&difference.path);
        let mut news = self.known.replace(scope, about, found);
        if report.truncated > 0 {
            // What is not listed may well be there.
            news.restored.clear();
        }
        news
    }

    fn notices(&mut self, news: News) -> Vec<Notice> {
        if self.known.is_full() {
            self.note_unseen("which of more than 32 MiB of differences are new".to_owned());
        }
        let mut notices: Vec<Notice> = news.restored.into_iter().map(Notice::Restored).collect();
        if !news.appeared.is_empty() {
            self.outcome.differed = true;
            notices.push(Notice::Differs(news.appeared));
        }
        notices
    }

    fn note_unseen(&mut self, unseen: String) {
        self.outcome.incomplete = true;
        self.outcome.unseen.insert(unseen);
    }

    fn note_unwatched(&mut self) {
        if let Some(unwatched) = self.marks.as_ref().and_then(Marks::unwatched) {
            self.note_unseen(unwatched);
        }
    }
}

impl Root {
    fn of(tree: &Tree) -> Result<Self, Error> {
        let handle = Handle::of(tree.root()).map_err(|error| {
            kernel("the directory has no handle (overlayfs has them from Linux 6.6 on)", error)
        })?;
        let stat = Stat::of(tree.root()).map_err(|error| kernel("stat of the directory", error))?;
        Ok(Self { handle, mount: stat.mount() })
    }
}

/// The system's time, a second ago: times of files may lag behind it by some milliseconds.
fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nsec = u32::try_from(now.tv_nsec).unwrap_or_default();
    Timestamp { sec: now.tv_sec.saturating_sub(1), nsec }
}

fn kernel(what: &'static str, error: Errno) -> Error {
    Error::Kernel { what, source: error.into() }
}

/// What is mounted below a directory.
fn mounted_in(dir: &Path) -> Result<BTreeSet<(u32, PathBuf)>, mkimg_kernel::Error> {
    let entries = mountinfo::read()?.into_iter();
    Ok(entries.filter(|entry| entry.target.starts_with(dir)).map(|entry| (entry.id, entry.target)).collect())
}
