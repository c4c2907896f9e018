//! dm-verity through the device-mapper ioctls.
//!
//! Life of a device: create, load the table, resume, open its node, ask for deferred removal. From
//! then on the kernel removes it at its last close, as autoclear does for loop devices: the open
//! descriptor in [`VerityDevice`] keeps it until the mount does, and a failure on the way leaves
//! nothing behind.
//!
//! The name is made from the root hash, so two mounts of one image share one device. A device that
//! exists is taken only if every word of its table but the two device numbers is the one wanted:
//! the parameters decide which bytes can be read, so the bytes are the same whichever copy of the
//! image lies below.

use mkimg_format::hex;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::error::{Error, Result};
use crate::ioctl::{self, DmIoctl, DmTargetSpec};
use crate::keyring::ThreadKey;

const CONTROL: &str = "/dev/mapper/control";
/// Room for answers; the longest table line of one verity target is below 1 KiB.
const ANSWER_BYTES: usize = 16 << 10;
const HEAD: usize = size_of::<DmIoctl>();
const SPEC: usize = size_of::<DmTargetSpec>();

/// Word in front of the name of the key with the signature.
const SIGNATURE_OPTION: &str = "root_hash_sig_key_desc";
/// Optional word of the table, followed by the device with the parity.
const FEC_DEVICE: &str = "use_fec_from_device";

const DM_READONLY_FLAG: u32 = 1;
const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
const DM_ACTIVE_PRESENT_FLAG: u32 = 1 << 5;
const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
const DM_DEFERRED_REMOVE: u32 = 1 << 17;

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

/// A block device by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DevNumber {
    /// Device number of an open block device.
    pub fn of(device: impl AsFd) -> Result<Self> {
        let what = Path::new("block device");
        let stat = rustix::fs::fstat(device).map_err(Error::at("stat", what))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(Error::Path { what: "use as", path: what.to_path_buf(), errno: Errno::NOTBLK });
        }
        Ok(Self { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) })
    }

    /// Undoes the kernel's `huge_encode_dev`: minor bits 0..8 and 20..32, major in bits 8..20.
    fn from_huge(dev: u64) -> Option<Self> {
        let dev = u32::try_from(dev).ok()?;
        Some(Self { major: (dev >> 8) & 0xfff, minor: (dev & 0xff) | ((dev >> 12) & 0xf_ff00) })
    }
}

impl fmt::Display for DevNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What the kernel does when a block does not match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnCorruption {
    /// The read fails with `EIO`.
    #[default]
    Eio,
    /// The machine restarts (`restart_on_corruption`).
    Restart,
    /// The kernel panics (`panic_on_corruption`, Linux 5.9).
    Panic,
}

/// Reed-Solomon parity on a device, which the kernel mends blocks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fec {
    /// Device with the parity.
    pub dev: DevNumber,
    /// Blocks that are protected: data, then tree.
    pub blocks: u64,
    /// First block of the parity.
    pub start: u64,
    /// Parity bytes of a codeword, 2 to 24.
    pub roots: u32,
}

/// Parameters of one dm-verity device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityTarget {
    /// Device with the data.
    pub data_dev: DevNumber,
    /// Device with the hash tree, the same one for an appended tree.
    pub hash_dev: DevNumber,
    /// Bytes in a data block: a power of two, 512 to 65536.
    pub data_block_size: u32,
    /// Bytes in a hash block: a power of two, 512 to 65536.
    pub hash_block_size: u32,
    /// Number of data blocks, at least 1.
    pub data_blocks: u64,
    /// First block of the tree (behind the superblock), in hash blocks.
    pub hash_start_block: u64,
    /// Digest, the kernel's name in lower case.
    pub algorithm: String,
    /// Root hash.
    pub root_hash: Vec<u8>,
    /// Salt, empty for none, at most 256 bytes.
    pub salt: Vec<u8>,
    /// Reaction to a mismatch.
    pub on_corruption: OnCorruption,
    /// Parity; takes equal block sizes.
    pub fec: Option<Fec>,
    /// PKCS#7 signature of the root hash, which the kernel has to accept by its own keyrings (Linux 5.4).
    pub signature: Option<Vec<u8>>,
}

impl VerityTarget {
    /// Length of the device in 512-byte sectors.
    pub fn sectors(&self) -> Result<u64> {
        self.validate()?;
        self.data_blocks.checked_mul(u64::from(self.data_block_size / 512)).ok_or_else(|| {
            Error::VerityParameter {
                field: "data blocks",
                value: self.data_blocks.to_string(),
                need: "a device below 2^64 sectors",
            }
        })
    }

    /// Parameter text of the table (`Documentation/admin-guide/device-mapper/verity.rst`).
    pub fn table_line(&self) -> Result<String> {
        self.validate()?;
        let salt = if self.salt.is_empty() { "-".to_owned() } else { hex(&self.salt) };
        let mut line = format!(
            "1 {} {} {} {} {} {} {} {} {salt}",
            self.data_dev,
            self.hash_dev,
            self.data_block_size,
            self.hash_block_size,
            self.data_blocks,
            self.hash_start_block,
            self.algorithm,
            hex(&self.root_hash),
        );
        let mut options: Vec<String> = match self.on_corruption {
            OnCorruption::Eio => Vec::new(),
            OnCorruption::Restart => vec!["restart_on_corruption".to_owned()],
            OnCorruption::Panic => vec!["panic_on_corruption".to_owned()],
        };
        // In the order in which the kernel shows them.
        if let Some(Fec { dev, blocks, start, roots }) = self.fec {
            let words = format!("{FEC_DEVICE} {dev} fec_blocks {blocks} fec_start {start} fec_roots {roots}");
            options.extend(words.split(' ').map(str::to_owned));
        }
        if self.signature.is_some() {
            options.extend([SIGNATURE_OPTION.to_owned(), self.name()]);
        }
        if !options.is_empty() {
            line.push_str(&format!(" {} {}", options.len(), options.join(" ")));
        }
        Ok(line)
    }

    /// Name of the mapped device: `mkimg-` and the root hash.
    #[must_use]
    pub fn name(&self) -> String {
        // 128 bytes with the NUL: a longer digest than 32 bytes is cut, the table comparison decides.
        let hash = hex(&self.root_hash);
        format!("mkimg-{}", hash.get(..64).unwrap_or(&hash))
    }

    /// UUID in the form of cryptsetup, which tells other tools what the device is.
    #[must_use]
    pub fn uuid(&self) -> String {
        let hash = hex(&self.root_hash);
        format!("CRYPT-VERITY-{}-{}", hash.get(..32).unwrap_or(&hash), self.name())
    }

    fn validate(&self) -> Result<()> {
        let bad = |field, value: String, need| Err(Error::VerityParameter { field, value, need });
        for (field, size) in
            [("data block size", self.data_block_size), ("hash block size", self.hash_block_size)]
        {
            if !size.is_power_of_two() || !(512..=65536).contains(&size) {
                return bad(field, size.to_string(), "a power of two from 512 to 65536");
            }
        }
        if self.data_blocks == 0 {
            return bad("data blocks", "0".to_owned(), "at least 1");
        }
        if self.root_hash.is_empty() || self.root_hash.len() > 64 {
            return bad("root hash", format!("{} bytes", self.root_hash.len()), "1 to 64 bytes");
        }
        if self.salt.len() > 256 {
            return bad("salt", format!("{} bytes", self.salt.len()), "at most 256 bytes");
        }
        if let Some(fec) = self.fec.filter(|fec| !(2..=24).contains(&fec.roots)) {
            return bad("fec roots", fec.roots.to_string(), "2 to 24");
        }
        // The name goes into a blank-separated line.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if self.algorithm.is_empty() || self.algorithm.len() > 32 || !self.algorithm.bytes().all(plain) {
            return bad("algorithm", self.algorithm.clone(), "a lower-case digest name");
        }
        Ok(())
    }
}

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
    pub fn activate(target: &VerityTarget) -> Result<Self> {
        let control = Control::open()?;
        let (name, table, sectors) = (target.name(), target.table_line()?, target.sectors()?);
        // The kernel finds the signature by the name that the table has for it.
        let signature = target.signature.as_deref();
        let _key = signature.map(|signature| ThreadKey::add(&name, signature)).transpose()?;
        let refused = |errno| match errno {
            Errno::NOKEY => {
                Error::RootHashSignature { name: name.clone(), errno, given: signature.is_some() }
            }
            _ if signature.is_some() => Error::RootHashSignature { name: name.clone(), errno, given: true },
            _ => named("load table of", &name)(errno),
        };
        // Again when a device that was found vanishes before it is opened, or is not loaded yet.
        let mut last = Errno::NXIO;
        for attempt in 0..20u64 {
            std::thread::sleep(Duration::from_millis(attempt));
            let created = match control.create(&name, &target.uuid()) {
                Ok(()) => true,
                Err(Errno::BUSY | Errno::EXIST) => false,
                Err(errno) => return Err(Error::DeviceMapper { command: "create", name, errno }),
            };
            let guard = created.then(|| RemoveOnDrop { control: &control, name: name.clone() });
            if created {
                control.load(&name, sectors, &table).map_err(refused)?;
                control.resume(&name).map_err(named("resume", &name))?;
            }
            let number = match control.number(&name) {
                Ok(number) => number,
                Err(Errno::NXIO) => continue,
                Err(errno) => return Err(Error::DeviceMapper { command: "status", name, errno }),
            };
            let node = match open_node(number) {
                Ok(node) => node,
                Err(Errno::NXIO | Errno::NODEV) => continue,
                Err(errno) => return Err(Error::DeviceMapper { command: "open node of", name, errno }),
            };
            // Read after the open: from here on the device cannot be replaced by another.
            match control.table(&name) {
                Ok((_, found)) if same_parameters(&found, &table) => {}
                Ok((_, found)) => return Err(Error::DeviceMapperConflict { name, found }),
                Err(errno) => {
                    last = errno;
                    continue;
                }
            }
            if created {
                control.remove(&name, true).map_err(named("remove (deferred)", &name))?;
            }
            drop(guard);
            return Ok(Self { node, number, name, shared: !created });
        }
        Err(Error::DeviceMapper { command: "activate", name, errno: last })
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
        Control::open()?.status(&self.name).map_err(named("status", &self.name))
    }
}

impl AsFd for VerityDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

/// Whether dm-verity can be used by this process on this kernel.
pub fn available() -> std::result::Result<(), Unavailable> {
    let control = Control::open()?;
    control.has_verity().map_err(Unavailable::NoVerity)
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

/// What a dm-verity device in use checks against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityTable {
    /// Number of data blocks.
    pub data_blocks: u64,
    /// Root hash in hexadecimal digits.
    pub root_hash: String,
    /// Optional words, such as `ignore_corruption` or `restart_on_corruption`.
    pub options: Vec<String>,
}

impl VerityTable {
    /// Reads the table of a mapped device by name.
    ///
    /// # Errors
    /// Device-mapper cannot be asked, or the device is none of dm-verity.
    pub fn of(name: &str) -> Result<Self> {
        let (_, line) = Control::open()?.table(name).map_err(named("table", name))?;
        Self::parse(&line).ok_or(Error::KernelAnswer { what: "dm-verity table", found: line })
    }

    /// Whether the kernel has checked a signature of the root hash by its own keyrings.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.options.iter().any(|word| word == SIGNATURE_OPTION)
    }

    /// Words: version, data device, hash device, two block sizes, data blocks, hash start, algorithm, root, salt,
    /// number of options, options (`Documentation/admin-guide/device-mapper/verity.rst`).
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let data_blocks = words.get(5)?.parse().ok()?;
        let root_hash = (*words.get(8)?).to_owned();
        let options = words.get(11..).unwrap_or_default().iter().map(|word| (*word).to_owned()).collect();
        Some(Self { data_blocks, root_hash, options })
    }
}

fn named(command: &'static str, name: &str) -> impl FnOnce(Errno) -> Error {
    let name = name.to_owned();
    move |errno| Error::DeviceMapper { command, name, errno }
}

/// Takes a half-made device away again; a no-op once deferred removal has done it.
struct RemoveOnDrop<'a> {
    control: &'a Control,
    name: String,
}

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        // On success removal is already pending and asking again changes nothing.
        let _ = self.control.remove(&self.name, true);
    }
}

#[derive(Debug)]
struct Control(OwnedFd);

impl Control {
    fn open() -> std::result::Result<Self, Unavailable> {
        let fd = rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |e| match e {
                Errno::NOENT => Unavailable::NoDeviceMapper,
                errno => Unavailable::Control(errno),
            },
        )?;
        let control = Self(fd);
        let (head, _) =
            control.command(ioctl::DM_VERSION, "", "", 0, 0, &[]).map_err(Unavailable::Control)?;
        match head.version {
            [4, ..] => Ok(control),
            [major, ..] => Err(Unavailable::Version(major)),
        }
    }

    /// Asks for the target by name, which also loads its module (Linux 5.4); else searches the list.
    fn has_verity(&self) -> rustix::io::Result<()> {
        match self.command(ioctl::DM_GET_TARGET_VERSION, "verity", "", 0, 0, &[]) {
            Ok(_) => Ok(()),
            Err(Errno::NOTTY) => {
                let (_, payload) = self.command(ioctl::DM_LIST_VERSIONS, "", "", 0, 0, &[])?;
                // Names are NUL-terminated; a target is not called so by accident inside another field.
                payload
                    .split(|b| *b == 0)
                    .any(|name| name.ends_with(b"verity"))
                    .then_some(())
                    .ok_or(Errno::NOENT)
            }
            Err(errno) => Err(errno),
        }
    }

    fn create(&self, name: &str, uuid: &str) -> rustix::io::Result<()> {
        self.command(ioctl::DM_DEV_CREATE, name, uuid, DM_READONLY_FLAG, 0, &[]).map(drop)
    }

    fn load(&self, name: &str, sectors: u64, table: &str) -> rustix::io::Result<()> {
        let payload = table_payload(sectors, table).ok_or(Errno::INVAL)?;
        self.command(ioctl::DM_TABLE_LOAD, name, "", DM_READONLY_FLAG, 1, &payload).map(drop)
    }

    fn resume(&self, name: &str) -> rustix::io::Result<()> {
        self.command(ioctl::DM_DEV_SUSPEND, name, "", 0, 0, &[]).map(drop)
    }

    fn number(&self, name: &str) -> rustix::io::Result<DevNumber> {
        let (head, _) = self.command(ioctl::DM_DEV_STATUS, name, "", 0, 0, &[])?;
        if head.flags & DM_ACTIVE_PRESENT_FLAG == 0 {
            // Somebody else has created it and not yet loaded it.
            return Err(Errno::NXIO);
        }
        DevNumber::from_huge(head.dev).ok_or(Errno::RANGE)
    }

    /// Length in sectors and parameter text of the active table.
    fn table(&self, name: &str) -> rustix::io::Result<(u64, String)> {
        let (_, payload) = self.command(ioctl::DM_TABLE_STATUS, name, "", DM_STATUS_TABLE_FLAG, 0, &[])?;
        first_target(&payload).ok_or(Errno::INVAL)
    }

    fn status(&self, name: &str) -> rustix::io::Result<String> {
        let (_, payload) = self.command(ioctl::DM_TABLE_STATUS, name, "", 0, 0, &[])?;
        first_target(&payload).map(|(_, text)| text).ok_or(Errno::INVAL)
    }

    fn remove(&self, name: &str, deferred: bool) -> rustix::io::Result<()> {
        let flags = if deferred { DM_DEFERRED_REMOVE } else { 0 };
        self.command(ioctl::DM_DEV_REMOVE, name, "", flags, 0, &[]).map(drop)
    }

    /// Runs one command; gives back the head and the payload of the answer.
    fn command(
        &self,
        command: u8,
        name: &str,
        uuid: &str,
        flags: u32,
        targets: u32,
        payload: &[u8],
    ) -> rustix::io::Result<(DmIoctl, Vec<u8>)> {
        let mut buffer = request(name, uuid, flags, targets, payload).ok_or(Errno::NAMETOOLONG)?;
        ioctl::dm(self.0.as_fd(), command, &mut buffer)?;
        let (head, _) = DmIoctl::read_from_prefix(&buffer).map_err(|_| Errno::INVAL)?;
        if head.flags & DM_BUFFER_FULL_FLAG != 0 {
            return Err(Errno::OVERFLOW);
        }
        let start = usize::try_from(head.data_start).map_err(|_| Errno::INVAL)?;
        let end = usize::try_from(head.data_size).map_err(|_| Errno::INVAL)?.min(buffer.len());
        let answer = buffer.get(start..end).unwrap_or_default().to_vec();
        Ok((head, answer))
    }
}

/// Buffer of a command: head, payload, zeros up to [`ANSWER_BYTES`].
fn request(name: &str, uuid: &str, flags: u32, targets: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let mut head = DmIoctl::new_zeroed();
    head.version = [4, 0, 0];
    head.data_start = u32::try_from(HEAD).ok()?;
    head.target_count = targets;
    head.flags = flags;
    // The last byte of both fields stays NUL.
    head.name.get_mut(..127)?.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    head.uuid.get_mut(..128)?.get_mut(..uuid.len())?.copy_from_slice(uuid.as_bytes());
    let mut buffer = vec![0u8; ANSWER_BYTES];
    buffer.get_mut(..HEAD)?.copy_from_slice(head.as_bytes());
    buffer.get_mut(HEAD..)?.get_mut(..payload.len())?.copy_from_slice(payload);
    Some(buffer)
}

/// One `dm_target_spec` with its NUL-terminated text, padded to 8 bytes.
fn table_payload(sectors: u64, table: &str) -> Option<Vec<u8>> {
    let mut spec = DmTargetSpec::new_zeroed();
    spec.length = sectors;
    spec.target_type.get_mut(..6)?.copy_from_slice(b"verity");
    let len = SPEC.checked_add(table.len())?.checked_add(1)?.checked_next_multiple_of(8)?;
    spec.next = u32::try_from(len).ok()?;
    let mut payload = spec.as_bytes().to_vec();
    payload.extend_from_slice(table.as_bytes());
    payload.resize(len, 0);
    Some(payload)
}

/// Length and text of the first target in an answer, if it is a verity target.
fn first_target(payload: &[u8]) -> Option<(u64, String)> {
    let (spec, rest) = DmTargetSpec::read_from_prefix(payload).ok()?;
    let kind = spec.target_type.split(|b| *b == 0).next()?;
    if kind != b"verity" || spec.sector_start != 0 {
        return None;
    }
    let text = rest.split(|b| *b == 0).next()?;
    Some((spec.length, String::from_utf8(text.to_vec()).ok()?.trim_end().to_owned()))
}

/// Whether a table that was found does what is wanted: all words are the same but the devices (words 2 and 3, and that of
/// the parity), and it may be signed where that is not asked for.
fn same_parameters(found: &str, wanted: &str) -> bool {
    let words = |line: &str| -> (Vec<String>, Vec<String>) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let before = |index: usize| index.checked_sub(1).and_then(|index| words.get(index));
        let is_device = |index: usize| matches!(index, 1 | 2) || before(index) == Some(&FEC_DEVICE);
        let (mut fixed, mut options) = (Vec::new(), Vec::new());
        for (index, word) in words.iter().enumerate().filter(|(index, _)| !is_device(*index)) {
            match index {
                0..10 => fixed.push((*word).to_owned()),
                // Some kernels print the count of optional words even when it is zero.
                10 => {}
                _ => options.push((*word).to_owned()),
            }
        }
        (fixed, options)
    };
    let ((found, mut extra), (wanted, asked)) = (words(found), words(wanted));
    if let Some(at) = extra.iter().position(|word| word == SIGNATURE_OPTION)
        && !asked.iter().any(|word| word == SIGNATURE_OPTION)
    {
        extra.drain(at..extra.len().min(at.saturating_add(2)));
    }
    (found, extra) == (wanted, asked)
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target() -> VerityTarget {
        VerityTarget {
            data_dev: DevNumber { major: 7, minor: 3 },
            hash_dev: DevNumber { major: 7, minor: 3 },
            data_block_size: 4096,
            hash_block_size: 4096,
            data_blocks: 1000,
            hash_start_block: 1001,
            algorithm: "sha256".to_owned(),
            root_hash: (0u8..32).collect(),
            salt: Vec::new(),
            on_corruption: OnCorruption::Eio,
            signature: None,
            fec: None,
        }
    }

    const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn table_line_to_the_byte() {
        let mut t = target();
        assert_eq!(t.table_line().unwrap(), format!("1 7:3 7:3 4096 4096 1000 1001 sha256 {ROOT} -"));
        assert_eq!(t.sectors().unwrap(), 8000);
        t.salt = vec![0xab, 0x01];
        t.hash_dev.minor = 12;
        t.on_corruption = OnCorruption::Restart;
        assert_eq!(
            t.table_line().unwrap(),
            format!("1 7:3 7:12 4096 4096 1000 1001 sha256 {ROOT} ab01 1 restart_on_corruption")
        );
        t.on_corruption = OnCorruption::Panic;
        t.data_block_size = 512;
        assert_eq!(
            t.table_line().unwrap(),
            format!("1 7:3 7:12 512 4096 1000 1001 sha256 {ROOT} ab01 1 panic_on_corruption")
        );
        assert_eq!(t.sectors().unwrap(), 1000);
        let signed = VerityTarget { signature: Some(vec![1]), ..target() };
        assert_eq!(
            signed.table_line().unwrap(),
            format!("1 7:3 7:3 4096 4096 1000 1001 sha256 {ROOT} - 2 root_hash_sig_key_desc mkimg-{ROOT}")
        );
        let both = VerityTarget { on_corruption: OnCorruption::Panic, ..signed };
        assert!(
            both.table_line()
                .unwrap()
                .ends_with(&format!(" - 3 panic_on_corruption root_hash_sig_key_desc mkimg-{ROOT}"))
        );
    }

    #[test]
    fn parity_in_a_table() {
        let mut t = target();
        t.on_corruption = OnCorruption::Panic;
        let words = "use_fec_from_device 7:3 fec_blocks 1009 fec_start 1010 fec_roots 2";
        t.fec = Some(Fec { dev: DevNumber { major: 7, minor: 3 }, blocks: 1009, start: 1010, roots: 2 });
        let line = t.table_line().unwrap();
        assert!(line.ends_with(&format!(" - 9 panic_on_corruption {words}")), "{line}");
        t.on_corruption = OnCorruption::Eio;
        let line = t.table_line().unwrap();
        assert!(line.ends_with(&format!(" - 8 {words}")), "{line}");
        assert!(same_parameters(&line.replace("7:3", "7:9"), &line));
        assert!(!same_parameters(&line.replace("fec_roots 2", "fec_roots 3"), &line));
    }

    #[test]
    fn mended_blocks_of_a_status() {
        for (status, blocks) in
            [("V", None), ("C", None), ("V -", None), ("V 0", Some(0)), ("C 17", Some(17))]
        {
            assert_eq!(corrected_blocks(status), blocks, "{status}");
        }
    }

    #[test]
    fn names() {
        let t = target();
        assert_eq!(t.name(), format!("mkimg-{ROOT}"));
        assert_eq!(t.uuid(), format!("CRYPT-VERITY-000102030405060708090a0b0c0d0e0f-mkimg-{ROOT}"));
        let long = VerityTarget { root_hash: vec![0xff; 64], ..t };
        assert!(long.name().len() < 128 && long.uuid().len() < 129);
    }

    #[test]
    fn parameters_out_of_range() {
        type Change = fn(&mut VerityTarget);
        let cases: [(Change, &str); 11] = [
            (|t| t.data_block_size = 0, "data block size"),
            (|t| t.data_block_size = 4097, "data block size"),
            (|t| t.hash_block_size = 1 << 17, "hash block size"),
            (|t| t.data_blocks = 0, "data blocks"),
            (|t| t.root_hash.clear(), "root hash"),
            (|t| t.root_hash = vec![0; 65], "root hash"),
            (|t| t.salt = vec![0; 257], "salt"),
            (|t| t.algorithm = "sha256 1 ignore_corruption".to_owned(), "algorithm"),
            (|t| t.algorithm.clear(), "algorithm"),
            (|t| t.fec = Some(Fec { dev: t.data_dev, blocks: 9, start: 9, roots: 1 }), "fec roots"),
            (|t| t.fec = Some(Fec { dev: t.data_dev, blocks: 9, start: 9, roots: 25 }), "fec roots"),
        ];
        for (change, expected) in cases {
            let mut t = target();
            change(&mut t);
            match t.table_line().unwrap_err() {
                Error::VerityParameter { field, .. } => assert_eq!(field, expected),
                other => panic!("{other}"),
            }
        }
        let t = VerityTarget { data_blocks: u64::MAX, ..target() };
        assert!(t.sectors().is_err());
    }

    #[test]
    fn load_request_to_the_byte() {
        let payload = table_payload(8000, "1 a b").unwrap();
        assert_eq!(payload.len(), 48);
        assert_eq!(payload[0..8], 0u64.to_ne_bytes());
        assert_eq!(payload[8..16], 8000u64.to_ne_bytes());
        assert_eq!(payload[16..20], [0; 4]);
        assert_eq!(payload[20..24], 48u32.to_ne_bytes());
        assert_eq!(&payload[24..40], b"verity\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&payload[40..48], b"1 a b\0\0\0");
        // A text that fills its last eight bytes still gets its NUL.
        assert_eq!(table_payload(1, "12345678").unwrap().len(), 56);

        let buffer = request("mkimg-x", "U", DM_READONLY_FLAG, 1, &payload).unwrap();
        assert_eq!(buffer.len(), ANSWER_BYTES);
        assert_eq!(buffer[0..4], 4u32.to_ne_bytes());
        assert_eq!(buffer[16..20], 312u32.to_ne_bytes());
        assert_eq!(buffer[20..24], 1u32.to_ne_bytes());
        assert_eq!(buffer[28..32], 1u32.to_ne_bytes());
        assert_eq!(&buffer[48..56], b"mkimg-x\0");
        assert_eq!(&buffer[176..178], b"U\0");
        assert_eq!(buffer[312..360], payload[..]);
        assert!(request(&"n".repeat(127), "", 0, 0, &[]).is_some());
        assert!(request(&"n".repeat(128), "", 0, 0, &[]).is_none());
        assert!(request("", &"u".repeat(129), 0, 0, &[]).is_none());
        assert!(request("", "", 0, 0, &vec![0; ANSWER_BYTES - HEAD + 1]).is_none());
    }

    #[test]
    fn answers() {
        let payload = table_payload(8000, "V ").unwrap();
        assert_eq!(first_target(&payload), Some((8000, "V".to_owned())));
        assert_eq!(first_target(&payload[..39]), None);
        let mut other = payload;
        other[24..30].copy_from_slice(b"linear");
        assert_eq!(first_target(&other), None);
        assert_eq!(first_target(&[]), None);
    }

    #[test]
    fn same_parameters_ignores_only_the_devices() {
        let wanted = "1 7:3 7:3 4096 4096 1000 1001 sha256 ab -";
        for (found, same) in [
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab -", true),
            ("1 7:9 253:1 4096 4096 1000 1001 sha256 ab -", true),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 0", true),
            ("1 7:3 7:3 4096 4096 999 1001 sha256 ab -", false),
            ("0 7:3 7:3 4096 4096 1000 1001 sha256 ab -", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 1 ignore_corruption", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 1 check_at_most_once", false),
            ("", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 2 root_hash_sig_key_desc k", true),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 3 ignore_corruption root_hash_sig_key_desc k", false),
        ] {
            assert_eq!(same_parameters(found, wanted), same, "{found}");
        }
        let signed = format!("{wanted} 2 root_hash_sig_key_desc k");
        assert!(same_parameters(&signed, &signed));
        assert!(!same_parameters(wanted, &signed), "a device that the kernel has not found signed");
        assert!(!same_parameters(&format!("{wanted} 2 root_hash_sig_key_desc l"), &signed));
    }

    #[test]
    fn tables_of_devices_in_use() {
        let table =
            VerityTable::parse("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 2 ignore_corruption x").unwrap();
        assert_eq!((table.data_blocks, table.root_hash.as_str()), (1000, "ab"));
        assert_eq!(table.options, ["ignore_corruption", "x"]);
        assert!(VerityTable::parse("1 7:3 7:3 4096 4096 1000 1001 sha256 ab -").unwrap().options.is_empty());
        for line in ["", "1 7:3 7:3 4096 4096 x 1001 sha256 ab -", "1 7:3 7:3 4096 4096 1000 1001 sha256"] {
            assert_eq!(VerityTable::parse(line), None, "{line}");
        }
    }

    #[test]
    fn device_numbers() {
        for (huge, major, minor) in [(0xfd00, 253, 0), (0x10_fd05, 253, 0x105), (0x700, 7, 0)] {
            assert_eq!(DevNumber::from_huge(huge), Some(DevNumber { major, minor }));
        }
        assert_eq!(DevNumber::from_huge(1 << 40), None);
    }

    #[test]
    fn without_device_mapper_the_reason_is_typed() {
        if Path::new(CONTROL).exists() {
            println!("skipped: this kernel has device-mapper");
            return;
        }
        assert_eq!(available(), Err(Unavailable::NoDeviceMapper));
        assert!(matches!(
            VerityDevice::activate(&target()),
            Err(Error::VerityUnavailable(Unavailable::NoDeviceMapper))
        ));
    }
}
