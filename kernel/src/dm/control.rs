//! The control node of device-mapper: one method a command.
//!
//! Devices are looked up by name. They are changed by UUID, which names the image and what is asked of it: whatever
//! came to bear it since, the same is wanted of it.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::{self, Errno};
use zerocopy::FromBytes;

use super::wire::{self, Device, State, Target};
use super::{DevNumber, Unavailable};
use crate::ioctl::{self, DmIoctl};

pub(super) const CONTROL: &str = "/dev/mapper/control";
/// Room for answers at first. The longest table line of one verity target is below 1 KiB.
const ANSWER_BYTES: usize = 16 << 10;
/// Room for answers at most: some ten thousand names.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long to wait for [`Control::lock`]: far longer than making a device takes.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Version of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetVersion {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for TargetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    pub(super) fn open() -> Result<Self, Unavailable> {
        let fd = rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |e| match e {
                Errno::NOENT => Unavailable::NoDeviceMapper,
                errno => Unavailable::Control(errno),
            },
        )?;
        let control = Self(fd);
        let (head, _) =
            control.command(ioctl::DM_VERSION, Device::default(), 0, 0, &[]).map_err(Unavailable::Control)?;
        match head.version {
            [4, ..] => Ok(control),
            [major, ..] => Err(Unavailable::Version(major)),
        }
    }

    /// Keeps other processes of this kind from making devices until this value is dropped or the process is killed.
    ///
    /// `false` when it could not be had: somebody holds it who was stopped.
    pub(super) fn lock(&self) -> bool {
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return true,
                Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return false,
            }
        }
    }

    /// Asks for the verity target by name, which also loads its module (Linux 5.4); else searches the list.
    pub(super) fn verity_version(&self) -> io::Result<TargetVersion> {
        let asked = self.command(ioctl::DM_GET_TARGET_VERSION, Device::named("verity"), 0, 0, &[]);
        let (_, payload) = match asked {
            Err(Errno::NOTTY) => self.command(ioctl::DM_LIST_VERSIONS, Device::default(), 0, 0, &[])?,
            answer => answer?,
        };
        let (major, minor) = wire::verity_version(&payload).ok_or(Errno::NOENT)?;
        Ok(TargetVersion { major, minor })
    }

    pub(super) fn create(&self, name: &str, uuid: &str) -> io::Result<()> {
        self.command(ioctl::DM_DEV_CREATE, Device { name, uuid }, wire::DM_READONLY_FLAG, 0, &[]).map(drop)
    }

    /// Loads a table, which is not yet in force.
    pub(super) fn load(&self, uuid: &str, sectors: u64, table: &str) -> io::Result<DevNumber> {
        let payload = wire::table_payload(sectors, table).ok_or(Errno::INVAL)?;
        let device = Device::of_uuid(uuid);
        let (head, _) = self.command(ioctl::DM_TABLE_LOAD, device, wire::DM_READONLY_FLAG, 1, &payload)?;
        State::of(&head).map(|state| state.number).ok_or(Errno::RANGE)
    }

    /// Puts the loaded table in force.
    pub(super) fn resume(&self, uuid: &str) -> io::Result<()> {
        self.command(ioctl::DM_DEV_SUSPEND, Device::of_uuid(uuid), 0, 0, &[]).map(drop)
    }

    /// Removes a device when it is closed for the last time, or at once if nobody has it open.
    pub(super) fn remove_at_last_close(&self, uuid: &str) -> io::Result<()> {
        let device = Device::of_uuid(uuid);
        self.command(ioctl::DM_DEV_REMOVE, device, wire::DM_DEFERRED_REMOVE, 0, &[]).map(drop)
    }

    pub(super) fn state(&self, name: &str) -> io::Result<State> {
        let (head, _) = self.command(ioctl::DM_DEV_STATUS, Device::named(name), 0, 0, &[])?;
        State::of(&head).ok_or(Errno::RANGE)
    }

    /// Number and table in force.
    pub(super) fn table(&self, name: &str) -> io::Result<(DevNumber, Target)> {
        let device = Device::named(name);
        let (head, payload) =
            self.command(ioctl::DM_TABLE_STATUS, device, wire::DM_STATUS_TABLE_FLAG, 0, &[])?;
        let state = State::of(&head).ok_or(Errno::RANGE)?;
        Ok((state.number, Target::first(&payload).ok_or(Errno::INVAL)?))
    }

    pub(super) fn status(&self, name: &str) -> io::Result<String> {
        let (_, payload) = self.command(ioctl::DM_TABLE_STATUS, Device::named(name), 0, 0, &[])?;
        let target = Target::first(&payload).ok_or(Errno::INVAL)?;
        target.verity().map(str::to_owned).ok_or(Errno::INVAL)
    }

    /// The names of all mapped devices.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let (_, payload) = self.command(ioctl::DM_LIST_DEVICES, Device::default(), 0, 0, &[])?;
        Ok(wire::names(&payload))
    }

    /// Runs one command; gives back the head and the payload of the answer.
    fn command(
        &self,
        command: u8,
        device: Device<'_>,
        flags: u32,
        targets: u32,
        payload: &[u8],
    ) -> io::Result<(DmIoctl, Vec<u8>)> {
        let mut room = ANSWER_BYTES;
        loop {
            let mut buffer =
                wire::request(device, flags, targets, payload, room).ok_or(Errno::NAMETOOLONG)?;
            ioctl::dm(self.0.as_fd(), command, &mut buffer)?;
            let (head, _) = DmIoctl::read_from_prefix(&buffer).map_err(|_| Errno::INVAL)?;
            if head.flags & wire::DM_BUFFER_FULL_FLAG != 0 {
                // Only commands that ask have long answers, so they can be asked again.
                room = room.checked_mul(4).filter(|room| *room <= MAX_ANSWER_BYTES).ok_or(Errno::OVERFLOW)?;
                continue;
            }
            let start = usize::try_from(head.data_start).map_err(|_| Errno::INVAL)?;
            let end = usize::try_from(head.data_size).map_err(|_| Errno::INVAL)?.min(buffer.len());
            let answer = buffer.get(start..end).unwrap_or_default().to_vec();
            return Ok((head, answer));
        }
    }
}
