//! fanotify: the kernel tells what changes in directories, and in a single file.
//!
//! Facts: `linux/fanotify.h`, fanotify(7), fanotify_mark(2). A [`Group`] is a queue of events; directories are marked
//! one by one. A mark is on the inode, so it does not matter through which mount, or by which descriptor, a change is
//! made, and a mark keeps nothing from being unmounted.
//!
//! A mark on the whole file system would need no walk, but overlayfs refuses it (`EOPNOTSUPP`: its handles cannot be
//! decoded), it is for root alone, and on a shared file system everybody's changes would fill the queue. Marks on
//! directories work everywhere. What Linux 6.18 reports for them was found to be the same on ext4, xfs, btrfs, tmpfs
//! and overlayfs (upper directory on ext4 or tmpfs, copied up or not):
//!
//! | change | event |
//! |---|---|
//! | of a name in a marked directory | the directory's handle, and the name |
//! | of attributes of a marked directory | its own handle, and the name `.` |
//! | of content or attributes of something in it | the directory's handle, and the name |
//! | of a file by a name outside of all marked directories | none |
//! | of a file through a mapping | none |
//! | of the upper directory behind the back of an overlay | none |
//!
//! The time of a directory changes with its names, without an event of its own. A file that is made by `O_TMPFILE`
//! shows as a name (`#` and a number) that is not there.
//!
//! The queue is bounded (`/proc/sys/fs/fanotify/max_queued_events`, 16384 by default). What does not fit is lost, and
//! [`Event::Overflow`] says so.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::io::{self, Errno};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::handle::{self, Handle};

/// `FAN_REPORT_FID`, `FAN_REPORT_DIR_FID` and `FAN_REPORT_NAME` (Linux 5.9), which nix has no names for.
const FAN_REPORT_FID: u32 = 0x200;
const FAN_REPORT_DFID_NAME: u32 = 0x400 | 0x800;

/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;

/// `FAN_EVENT_INFO_TYPE_DFID_NAME` and `FAN_EVENT_INFO_TYPE_DFID`: a directory, with a name in it or without.
const DFID_NAME: u8 = 2;
const DFID: u8 = 3;

/// Bytes of events that are read at once. The longest event has less than 512.
const BUFFER: usize = 64 << 10;

/// `struct fanotify_event_metadata`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Metadata {
    /// Bytes of the whole event, this structure and the records included.
    event_len: u32,
    /// [`VERSION`].
    vers: u8,
    reserved: u8,
    /// Bytes of this structure.
    metadata_len: u16,
    /// What happened.
    mask: u64,

    /// A descriptor; groups that report handles have none here.
    fd: i32,
    /// Who did it; 0 when we may not know.
    pid: i32,
}

/// `struct fanotify_event_info_header`, the head of a record.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InfoHeader {
    info_type: u8,
    pad: u8,
    /// Bytes of the record, this head and padding included.
    len: u16,
}

/// What follows the head in `struct fanotify_event_info_fid`: the file system's id and the head of the handle.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct InfoFid {
    fsid: [i32; 2],
    handle_bytes: u32,
    handle_type: i32,
}

const _: () = {
    assert!(size_of::<Metadata>() == 24);
    assert!(size_of::<InfoHeader>() == 4);
    assert!(size_of::<InfoFid>() == 16);
};

/// A queue of events.
#[derive(Debug)]
pub struct Group {
    fanotify: Fanotify,
    buffer: Vec<u8>,
}

/// What is watched of an inode.
const NAMES: MaskFlags = MaskFlags::FAN_CREATE
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVED_FROM)
    .union(MaskFlags::FAN_MOVED_TO);
const CONTENT: MaskFlags =
    MaskFlags::FAN_MODIFY.union(MaskFlags::FAN_CLOSE_WRITE).union(MaskFlags::FAN_ATTRIB);
const SELF: MaskFlags = MaskFlags::FAN_DELETE_SELF.union(MaskFlags::FAN_MOVE_SELF);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Events were lost.
    Overflow,
    /// Something changed.
    Change(Change),
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    mask: u64,
    /// The directory it changed in, or that changed; `None` for a file that is marked itself.
    pub dir: Option<Handle>,
    /// The name in the directory; `.` for the directory itself. Empty where there is no directory.
    pub name: Vec<u8>,
}

impl Change {
    fn is_any_of(&self, flags: MaskFlags) -> bool {
        self.mask & flags.bits() != 0
    }

    /// Whether it is about a directory.
    #[must_use]
    pub fn of_directory(&self) -> bool {
        self.is_any_of(MaskFlags::FAN_ONDIR)
    }

    /// Whether the name came, went or means something else now.
    #[must_use]
    pub fn of_name(&self) -> bool {
        self.is_any_of(NAMES)
    }

    /// Whether the marked inode itself was moved, or has no name any more.
    #[must_use]
    pub fn of_self(&self) -> bool {
        self.is_any_of(SELF)
    }
}

/// What the kernel put into the queue is not of the documented form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fanotify: {what}: {found}")]
pub struct Malformed {
    /// The broken rule.
    pub what: &'static str,
    /// The number that breaks it.
    pub found: u64,
}

/// Why no events could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system call failed.
    #[error("read fanotify events: {0}")]
    Read(#[from] Errno),
    /// It answered something that is not understood.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Group {
    /// A queue for changes of directories and of what is in them, see [`Self::mark_directory`].
    ///
    /// # Errors
    /// `ENOSYS`: no fanotify in this kernel. `EINVAL`: older than Linux 5.9. `EPERM`: older than 5.13, and no
    /// `CAP_SYS_ADMIN`. `EMFILE`: too many queues of this user.
    pub fn of_directories() -> io::Result<Self> {
        Self::new(FAN_REPORT_DFID_NAME, InitFlags::empty())
    }

    /// A queue for changes of single files, see [`Self::mark_file`].
    ///
    /// # Errors
    /// As [`Self::of_directories`].
    pub fn of_files() -> io::Result<Self> {
        Self::new(FAN_REPORT_FID, InitFlags::empty())
    }

    /// A queue without a limit, for opens of files, see [`Self::mark_opens`].
    ///
    /// # Errors
    /// As [`Self::of_directories`]; always `EPERM` without `CAP_SYS_ADMIN`.
    pub(crate) fn of_opens() -> io::Result<Self> {
        Self::new(FAN_REPORT_FID, InitFlags::FAN_UNLIMITED_QUEUE)
    }

    fn new(report: u32, more: InitFlags) -> io::Result<Self> {
        let flags = more | InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let flags = flags | InitFlags::from_bits_retain(report);
        let init = |flags| Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC);
        let fanotify = match init(flags | InitFlags::FAN_UNLIMITED_MARKS) {
            Err(nix::Error::EPERM) => init(flags),
            other => other,
        };
        Ok(Self { fanotify: fanotify.map_err(errno)?, buffer: vec![0; BUFFER] })
    }

    /// Marks an open directory: its names, its attributes, and content and attributes of what is in it. Once more
    /// changes nothing.
    ///
    /// # Errors
    /// `ENOSPC`: more marks than this user may have. `EOPNOTSUPP` or `ENODEV`: the file system has no handles or no
    /// id. `EXDEV`: the directory is on a btrfs subvolume, before Linux 6.8.
    pub fn mark_directory(&self, dir: impl AsFd) -> io::Result<()> {
        let mask = NAMES | CONTENT | SELF | MaskFlags::FAN_ONDIR | MaskFlags::FAN_EVENT_ON_CHILD;
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_ONLYDIR;
        self.fanotify.mark(flags, mask, dir, None::<&Path>).map_err(errno)
    }

    /// Marks an open file: its content, its attributes with the number of its names, and its moves.
    ///
    /// # Errors
    /// As [`Self::mark_directory`].
    pub fn mark_file(&self, file: impl AsFd) -> io::Result<()> {
        self.fanotify.mark(MarkFlags::FAN_MARK_ADD, CONTENT | SELF, file, None::<&Path>).map_err(errno)
    }

    /// Marks the file system of an open directory: whatever in it is opened, but no directory.
    ///
    /// # Errors
    /// `EPERM`: no `CAP_SYS_ADMIN`. `ENODEV` or `EOPNOTSUPP`: the file system has no id or no handles.
    pub(crate) fn mark_opens(&self, fs: impl AsFd) -> io::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        // By a name, because a mount that is attached nowhere is no descriptor that can be marked itself.
        self.fanotify.mark(flags, MaskFlags::FAN_OPEN, fs, Some(".")).map_err(errno)
    }

    /// Takes from the queue what is in it now, at most 64 KiB; nothing when it is empty. Does not wait.
    ///
    /// # Errors
    /// When the call fails, or the answer is not understood.
    pub fn read(&mut self) -> Result<Vec<Event>, ReadError> {
        Ok(parse(self.take()?)?)
    }

    /// The bytes of events that [`Self::read`] would take.
    pub(crate) fn take(&mut self) -> io::Result<&[u8]> {
        let length = match rustix::io::read(&self.fanotify, self.buffer.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
        Ok(self.buffer.get(..length).unwrap_or_default())
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fanotify.as_fd()
    }
}

fn errno(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

const fn malformed(what: &'static str, found: u64) -> Malformed {
    Malformed { what, found }
}

/// Length of a slice; it fits, on any machine of Linux.
fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Reads one structure from the front.
fn head<T: FromBytes>(bytes: &[u8], what: &'static str) -> Result<T, Malformed> {
    T::read_from_prefix(bytes).map(|(head, _)| head).map_err(|_| malformed(what, length(bytes)))
}

/// Cuts `size` bytes off the front, of which the first `least` were read already.
fn cut<'a>(
    bytes: &'a [u8],
    size: impl TryInto<usize> + Into<u64> + Copy,
    least: usize,
    what: &'static str,
) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let count = size.try_into().ok().filter(|count| *count >= least);
    count.and_then(|count| bytes.split_at_checked(count)).ok_or(malformed(what, size.into()))
}

/// What was read, as events.
fn parse(bytes: &[u8]) -> Result<Vec<Event>, Malformed> {
    let mut events = Vec::new();
    for_each_event(bytes, |event| {
        let Some((mask, records)) = event else {
            events.push(Event::Overflow);
            return Ok(());
        };
        let place = place(records)?;
        let (dir, name) = place.map_or((None, Vec::new()), |(dir, name)| (Some(dir), name));
        events.push(Event::Change(Change { mask, dir, name }));
        Ok(())
    })?;
    Ok(events)
}

/// Splits what was read into events: what happened, and the records about it; `None` where events were lost.
pub(crate) fn for_each_event<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(Option<(u64, &'a [u8])>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let metadata: Metadata = head(bytes, "bytes left for an event")?;
        if metadata.vers != VERSION {
            return Err(malformed("version of events, need 3", metadata.vers.into()));
        }
        let (event, rest) = cut(bytes, metadata.event_len, size_of::<Metadata>(), "length of an event")?;
        let (_, records) = cut(event, metadata.metadata_len, size_of::<Metadata>(), "length of metadata")?;
        bytes = rest;
        let lost = metadata.mask & MaskFlags::FAN_Q_OVERFLOW.bits() != 0;
        take((!lost).then_some((metadata.mask, records)))?;
    }
    Ok(())
}

/// Splits records: the type of each, and what is behind its head.
pub(crate) fn for_each_record<'a>(
    mut records: &'a [u8],
    mut take: impl FnMut(u8, &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !records.is_empty() {
        let header: InfoHeader = head(records, "bytes left for a record")?;
        let (record, rest) = cut(records, header.len, size_of::<InfoHeader>(), "length of a record")?;
        records = rest;
        take(header.info_type, record.get(size_of::<InfoHeader>()..).unwrap_or_default())?;
    }
    Ok(())
}

/// The directory and the name among the records of an event. Records of other types are passed over.
fn place(records: &[u8]) -> Result<Option<(Handle, Vec<u8>)>, Malformed> {
    let mut place = None;
    for_each_record(records, |kind, body| {
        match kind {
            DFID_NAME => {
                let (handle, after) = file_handle(body)?;
                let end = after.iter().position(|byte| *byte == 0);
                let name = end.and_then(|end| after.get(..end)).filter(|name| !name.is_empty());
                let name = name.ok_or(malformed("bytes without a name", length(after)))?;
                place = Some((handle, name.to_vec()));
            }
            DFID => place = Some((file_handle(body)?.0, b".".to_vec())),
            _ => {}
        }
        Ok(())
    })?;
    Ok(place)
}

/// The handle in a record, and what is behind it.
pub(crate) fn file_handle(body: &[u8]) -> Result<(Handle, &[u8]), Malformed> {
    let fid: InfoFid = head(body, "bytes left for a handle")?;
    let bytes = body.get(size_of::<InfoFid>()..).unwrap_or_default();
    let count = usize::try_from(fid.handle_bytes).ok().filter(|count| *count <= handle::SIZE_MAX);
    let (handle, after) = count
        .and_then(|count| bytes.split_at_checked(count))
        .ok_or(malformed("length of a handle", fid.handle_bytes.into()))?;
    Ok((Handle::new(fid.handle_type, handle), after))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use super::*;
    /// A record of `kind`: an id, a handle of type 1, a name with a zero behind it, padding to four bytes.
    fn record(kind: u8, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend([7; 8]);
        bytes.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(handle);
        if let Some(name) = name {
            bytes.extend(name);
            bytes.push(0);
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let length = u16::try_from(bytes.len()).unwrap().to_ne_bytes();
        bytes[2..4].copy_from_slice(&length);
        bytes
    }

    fn event(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut bytes = u32::try_from(24 + records.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(42_i32.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn change(mask: u64, handle: &[u8], name: &[u8]) -> Event {
        Event::Change(Change { mask, dir: Some(Handle::new(1, handle)), name: name.to_vec() })
    }

    #[test]
    fn events_of_all_forms() {
        let bytes = [
            event(0x100, &[record(2, b"12345678", Some(b"name"))]),
            event(0x4000_0004, &[record(1, b"file", None), record(2, b"dir", Some(b"."))]),
            event(0x4000, &[]),
            event(0x2, &[record(1, b"file", None)]),
            event(0x4000_0400, &[record(3, b"d", None), record(200, b"later", None)]),
        ]
        .concat();
        let file = Event::Change(Change { mask: 2, dir: None, name: Vec::new() });
        let expected = [
            change(0x100, b"12345678", b"name"),
            change(0x4000_0004, b"dir", b"."),
            Event::Overflow,
            file,
            change(0x4000_0400, b"d", b"."),
        ];
        assert_eq!(parse(&bytes), Ok(expected.to_vec()));
    }

    #[test]
    fn what_a_change_is_about() {
        let about = |mask| {
            let change = Change { mask, dir: None, name: Vec::new() };
            (change.of_directory(), change.of_name(), change.of_self())
        };
        for (mask, expected) in [
            (0x2, (false, false, false)),
            (0x100, (false, true, false)),
            (0x200, (false, true, false)),
            (0x4000_0040, (true, true, false)),
            (0x4000_0080, (true, true, false)),
            (0x4000_0400, (true, false, true)),
            (0x800, (false, false, true)),
        ] {
            assert_eq!(about(mask), expected, "{mask:x}");
        }
    }

    #[test]
    fn hostile_lengths() {
        let good = event(0x100, &[record(2, b"12345678", Some(b"name"))]);
        let with = |at: usize, bytes: &[u8]| {
            let mut event = good.clone();
            event[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&event)
        };
        let short = |length: usize| parse(&good[..length]);
        let error = |what, found| Err(Malformed { what, found });
        for (found, expected) in [
            (short(23), error("bytes left for an event", 23)),
            (short(24), error("length of an event", 60)),
            (with(0, &0_u32.to_ne_bytes()), error("length of an event", 0)),
            (with(0, &23_u32.to_ne_bytes()), error("length of an event", 23)),
            (with(0, &61_u32.to_ne_bytes()), error("length of an event", 61)),
            (with(0, &u32::MAX.to_ne_bytes()), error("length of an event", u32::MAX.into())),
            (with(0, &58_u32.to_ne_bytes()), error("length of a record", 36)),
            (with(0, &27_u32.to_ne_bytes()), error("bytes left for a record", 3)),
            (with(4, &[2]), error("version of events, need 3", 2)),
            (with(6, &23_u16.to_ne_bytes()), error("length of metadata", 23)),
            (with(6, &61_u16.to_ne_bytes()), error("length of metadata", 61)),
            (with(26, &0_u16.to_ne_bytes()), error("length of a record", 0)),
            (with(26, &3_u16.to_ne_bytes()), error("length of a record", 3)),
            (with(26, &37_u16.to_ne_bytes()), error("length of a record", 37)),
            (with(26, &19_u16.to_ne_bytes()), error("bytes left for a handle", 15)),
            (with(36, &129_u32.to_ne_bytes()), error("length of a handle", 129)),
            (with(36, &u32::MAX.to_ne_bytes()), error("length of a handle", u32::MAX.into())),
            (with(36, &16_u32.to_ne_bytes()), error("bytes without a name", 0)),
            (with(52, &[0]), error("bytes without a name", 8)),
            (with(56, b"long"), error("bytes without a name", 8)),
        ] {
            assert_eq!(found, expected);
        }
    }

    /// Cut and changed at every place, no event is a panic.
    #[test]
    fn every_byte_may_be_anything() {
        let good = event(0x100, &[record(1, b"abc", None), record(2, b"12345678", Some(b"name"))]);
        for at in 0..good.len() {
            assert!(parse(&good[..at]).is_err() || at == 0);
            for byte in 0..=u8::MAX {
                let mut event = good.clone();
                event[at] = byte;
                let _ = parse(&event);
            }
        }
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        let mut group = match Group::of_directories() {
            Err(Errno::PERM | Errno::NOSYS) => return,
            group => group.unwrap(),
        };
        group.mark_directory(&open).unwrap();
        assert_eq!(group.read(), Ok(Vec::new()));
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let handle = Handle::of(&open).unwrap();
        let mut names = Vec::new();
        for event in group.read().unwrap() {
            let Event::Change(change) = event else { panic!("an overflow") };
            assert_eq!(change.dir.as_ref(), Some(&handle));
            assert!(change.of_name());
            names.push((change.name.clone(), change.of_directory()));
        }
        assert_eq!(names, [(b"file".to_vec(), false), (b"dir".to_vec(), true)]);
    }

    #[test]
    fn a_marked_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = File::open(&path).unwrap();
        let mut group = match Group::of_files() {
            Err(Errno::PERM | Errno::NOSYS) => return,
            group => group.unwrap(),
        };
        group.mark_file(&file).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let events = group.read().unwrap();
        assert!(
            matches!(&events[..], [Event::Change(change)] if change.of_self() && change.dir.is_none()),
            "{events:?}"
        );
    }
}
