//! dm-verity through the device-mapper ioctls.
//!
//! Life of a device: create, load the table, open its node, ask for removal at the last close, and only then put the
//! table in force. From then on the kernel removes it at its last close, as autoclear does for loop devices: the open
//! descriptor in [`VerityDevice`] keeps it until the mount does, and neither a failure nor a kill leaves it behind.
//!
//! A process that is killed before that leaves a device whose table was never in force. Devices are made under a lock
//! on the control node, which goes with the process; whoever has the lock next removes such devices, see [`sweep`].
//! The lock saves work alone. Where two processes do not share it, because their `/dev` are not the same, one may take
//! the half-made device of the other for left behind; the other finds it gone, and makes a new one. A device that
//! somebody has open is never taken away.
//!
//! The name is made from the root hash and from what happens at damage, so two mounts of one image share one device if
//! they want the same of it, and have one each if not. A device that exists is taken only if every word of its table
//! but the device numbers is the one wanted: the parameters decide which bytes can be read, so the bytes are the same
//! whichever copy of the image lies below.
//!
//! | module | what |
//! |---|---|
//! | `target` | what a device is to be |
//! | `device` | its life |
//! | `table` | what a device that exists does |
//! | `control` | the commands of device-mapper |
//! | `wire` | those as bytes |
//! | `number` | numbers of devices |

mod control;
mod device;
mod number;
mod table;
mod target;
mod wire;

use rustix::io::Errno;

use self::control::{CONTROL, Control};
use crate::error::{Error, Result};

pub use device::{VerityDevice, sweep};
pub use number::DevNumber;
pub use table::VerityTable;
pub use target::{Fec, OnCorruption, VerityTarget};

/// Why dm-verity cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The control node does not exist: no device-mapper in the kernel, or no node in this `/dev`.
    #[error("no device-mapper: {CONTROL} does not exist")]
    NoDeviceMapper,
    /// The control node cannot be opened or used.
    #[error("no device-mapper: {CONTROL}: {0}")]
    Control(Errno),
    /// The interface is of another major version.
    #[error("device-mapper interface version {0}, need 4")]
    Version(u32),
    /// The verity target is neither built in nor loadable.
    #[error("device-mapper has no verity target: {0}")]
    NoVerity(Errno),
}

/// Whether dm-verity can be used by this process on this kernel.
pub fn available() -> std::result::Result<(), Unavailable> {
    Control::open()?.verity_version().map(drop).map_err(Unavailable::NoVerity)
}

/// Verity status of a mapped device by name, see [`VerityDevice::status`].
pub fn status(name: &str) -> Result<String> {
    Control::open()?.status(name).map_err(named("status", name))
}

/// How many blocks have been mended from parity, of a status that says so: the second word, since version 1.13 of the target.
#[must_use]
pub fn corrected_blocks(status: &str) -> Option<u64> {
    status.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn named(command: &'static str, name: &str) -> impl FnOnce(Errno) -> Error {
    let name = name.to_owned();
    move |errno| Error::DeviceMapper { command, name, errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mended_blocks_of_a_status() {
        for (status, blocks) in
            [("V", None), ("C", None), ("V -", None), ("V 0", Some(0)), ("C 17", Some(17))]
        {
            assert_eq!(corrected_blocks(status), blocks, "{status}");
        }
    }
}
