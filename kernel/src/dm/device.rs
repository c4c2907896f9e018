//! The life of a mapped dm-verity device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::control::Control;
use super::table::same_parameters;
use super::target::{VerityTarget, is_uuid_of};
use super::{DevNumber, named};
use crate::error::{Error, Result};
use crate::keyring::ThreadKey;

/// How often to try when a device that was found vanishes. The n-th try waits n milliseconds.
const ATTEMPTS: u64 = 25;
/// What all names begin with.
const PREFIX: &str = "mkimg-";

/// A mapped dm-verity device that is held open; the kernel removes it at its last close.
#[derive(Debug)]
pub struct VerityDevice {
    node: OwnedFd,
    number: DevNumber,
    name: String,
    shared: bool,
}

impl VerityDevice {
    /// Maps the device, or takes the one that exists with the same parameters.
    ///
    /// # Errors
    /// The kernel has no dm-verity, or too old a one, or refuses the table; or a device of that name has another table.
    pub fn activate(target: &VerityTarget) -> Result<Self> {
        let control = Control::open()?;
        let version = control.verity_version().map_err(super::Unavailable::NoVerity)?;
        target.on_corruption.known_to(version)?;
        let name = target.name();
        // The kernel finds the signature by the name that the table has for it.
        let signature = target.signature.as_deref();
        let _key = signature.map(|signature| ThreadKey::add(&name, signature)).transpose()?;
        let locked = control.lock();
        if locked {
            // It is a favour to others: this device is made without it.
            let _ = remove_abandoned(&control);
        }
        let plan = Plan {
            control: &control,
            locked,
            uuid: target.uuid(),
            table: target.table_line()?,
            sectors: target.sectors()?,
            signed: signature.is_some(),
            name,
        };
        let mut attempt = 0;
        loop {
            match plan.attempt()? {
                Attempt::Done(device) => return Ok(device),
                Attempt::Vanished(last) if attempt == ATTEMPTS => return Err(last),
                Attempt::Vanished(_) => attempt = attempt.saturating_add(1),
            }
            std::thread::sleep(Duration::from_millis(attempt));
        }
    }

    /// Node of the device, `/dev/dm-N`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(self.number)
    }

    /// Name of the device below `/dev/mapper`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device existed before and is shared with an earlier mount.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.shared
    }

    /// Status word of the verity target: `V` while everything read was good, `C` after a mismatch.
    pub fn status(&self) -> Result<String> {
        super::status(&self.name)
    }
}

impl AsFd for VerityDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

/// Removes devices that a process of this kind has left half-made because it was killed.
///
/// Such a device has never had a table in force, so nobody can have read of it. Nothing happens without device-mapper,
/// or while another process makes a device.
///
/// # Errors
/// Device-mapper cannot be asked.
pub fn sweep() -> Result<()> {
    let control = Control::open()?;
    if control.lock() {
        remove_abandoned(&control).map_err(named("list devices", PREFIX))?;
    }
    Ok(())
}

/// What [`sweep`] does, for who has the lock.
fn remove_abandoned(control: &Control) -> rustix::io::Result<()> {
    for name in control.names()?.iter().filter(|name| name.starts_with(PREFIX)) {
        if let Ok(state) = control.state(name)
            && !state.active
            && is_uuid_of(&state.uuid, name)
        {
            // Where somebody has it open after all, it is left to its last close, as every device is.
            let _ = control.remove_at_last_close(&state.uuid);
        }
    }
    Ok(())
}

/// How one attempt to get a device went.
enum Attempt {
    Done(VerityDevice),
    /// The device went away, or was not there in full; what to say if that does not change.
    Vanished(Error),
}

/// A device to be had, and what it takes.
struct Plan<'a> {
    control: &'a Control,
    /// Whether no other process is making a device, so that one which is not finished never will be.
    locked: bool,
    name: String,
    uuid: String,
    table: String,
    sectors: u64,
    signed: bool,
}

impl Plan<'_> {
    fn attempt(&self) -> Result<Attempt> {
        match self.control.create(&self.name, &self.uuid) {
            Err(Errno::BUSY | Errno::EXIST) => self.share(),
            Err(errno) => Err(self.failed("create", errno)),
            Ok(()) => {
                let made = self.make();
                if !matches!(made, Ok(Attempt::Done(_))) {
                    // Nothing is in force, or it goes with the node that `make` had open.
                    let _ = self.control.remove_at_last_close(&self.uuid);
                }
                made
            }
        }
    }

    /// Finishes the device that was just created. It is open and bound to go with its last close before its table
    /// comes in force: from then on it cannot be left behind.
    fn make(&self) -> Result<Attempt> {
        let number = match self.control.load(&self.uuid, self.sectors, &self.table) {
            Err(Errno::NXIO) => return self.vanished("load table of", Errno::NXIO),
            loaded => loaded.map_err(|errno| self.refused(errno))?,
        };
        let node = match open_node(number) {
            Err(errno @ (Errno::NXIO | Errno::NODEV)) => return self.vanished("open node of", errno),
            node => node.map_err(|errno| self.failed("open node of", errno))?,
        };
        match self.control.remove_at_last_close(&self.uuid) {
            Err(Errno::NXIO) => return self.vanished("remove (deferred)", Errno::NXIO),
            marked => marked.map_err(|errno| self.failed("remove (deferred)", errno))?,
        }
        match self.control.resume(&self.uuid) {
            Err(Errno::NXIO) => return self.vanished("resume", Errno::NXIO),
            resumed => resumed.map_err(|errno| self.failed("resume", errno))?,
        }
        self.confirm(node, number, false)
    }

    /// Takes the device that has the name.
    fn share(&self) -> Result<Attempt> {
        let state = match self.control.state(&self.name) {
            Err(Errno::NXIO) => return self.vanished("status", Errno::NXIO),
            state => state.map_err(|errno| self.failed("status", errno))?,
        };
        if !state.active {
            if self.locked && state.uuid == self.uuid {
                let _ = self.control.remove_at_last_close(&self.uuid);
            }
            return Ok(Attempt::Vanished(self.conflict("none")));
        }
        let node = match open_node(state.number) {
            Err(errno @ (Errno::NXIO | Errno::NODEV)) => return self.vanished("open node of", errno),
            node => node.map_err(|errno| self.failed("open node of", errno))?,
        };
        self.confirm(node, state.number, true)
    }

    /// Looks at the table after the node was opened: from then on neither its number nor its name can come to mean
    /// another device.
    fn confirm(&self, node: OwnedFd, number: DevNumber, shared: bool) -> Result<Attempt> {
        match self.control.table(&self.name) {
            Ok((found, _)) if found != number => self.vanished("table of", Errno::NXIO),
            Ok((_, target)) => {
                // A shorter one would leave room for a second target that checks nothing.
                let whole = target.sectors == self.sectors;
                match target.verity().filter(|found| whole && same_parameters(found, &self.table)) {
                    Some(_) => {
                        Ok(Attempt::Done(VerityDevice { node, number, name: self.name.clone(), shared }))
                    }
                    None => Err(self.conflict(target)),
                }
            }
            Err(errno) => self.vanished("table of", errno),
        }
    }

    fn vanished(&self, command: &'static str, errno: Errno) -> Result<Attempt> {
        Ok(Attempt::Vanished(self.failed(command, errno)))
    }

    fn failed(&self, command: &'static str, errno: Errno) -> Error {
        named(command, &self.name)(errno)
    }

    fn conflict(&self, found: impl ToString) -> Error {
        Error::DeviceMapperConflict { name: self.name.clone(), found: found.to_string() }
    }

    /// Why the kernel does not take the table.
    fn refused(&self, errno: Errno) -> Error {
        if errno == Errno::NOKEY || self.signed {
            return Error::RootHashSignature { name: self.name.clone(), errno, given: self.signed };
        }
        self.failed("load table of", errno)
    }
}

fn node_path(number: DevNumber) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", number.minor))
}

/// Opens `/dev/dm-N`, waiting up to a second for the node, and makes sure it is that device.
fn open_node(number: DevNumber) -> rustix::io::Result<OwnedFd> {
    for _ in 0..100 {
        match rustix::fs::open(node_path(number), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(errno),
            Ok(node) => {
                return match DevNumber::of(&node) {
                    Ok(found) if found == number => Ok(node),
                    _ => Err(Errno::NODEV),
                };
            }
        }
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::super::{CONTROL, Unavailable, available};
    use super::*;
    use crate::dm::OnCorruption;
    use std::path::Path;

    #[test]
    fn without_device_mapper_the_reason_is_typed() {
        if Path::new(CONTROL).exists() {
            println!("skipped: this kernel has device-mapper");
            return;
        }
        assert_eq!(available(), Err(Unavailable::NoDeviceMapper));
        for on_corruption in [OnCorruption::Eio, OnCorruption::Restart, OnCorruption::Panic] {
            let target = VerityTarget { on_corruption, ..crate::dm::target::tests::target() };
            assert!(matches!(
                VerityDevice::activate(&target),
                Err(Error::VerityUnavailable(Unavailable::NoDeviceMapper))
            ));
        }
        assert!(matches!(sweep(), Err(Error::VerityUnavailable(Unavailable::NoDeviceMapper))));
    }
}
