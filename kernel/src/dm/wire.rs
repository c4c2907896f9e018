//! Commands and answers of device-mapper as bytes.

use std::fmt;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::DevNumber;
use crate::ioctl::{DmIoctl, DmTargetSpec};

pub(super) const DM_READONLY_FLAG: u32 = 1;
pub(super) const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
pub(super) const DM_ACTIVE_PRESENT_FLAG: u32 = 1 << 5;
pub(super) const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
pub(super) const DM_DEFERRED_REMOVE: u32 = 1 << 17;

const HEAD: usize = size_of::<DmIoctl>();
const SPEC: usize = size_of::<DmTargetSpec>();
/// Head of `struct dm_name_list`: device number and offset of the next entry.
const NAME_HEAD: usize = 12;
/// Head of `struct dm_target_versions`: offset of the next entry and three numbers.
const VERSION_HEAD: usize = 16;

/// What a command is about: a device by one of both, a new one by both, or none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Device<'a> {
    pub(super) name: &'a str,
    pub(super) uuid: &'a str,
}

impl<'a> Device<'a> {
    pub(super) const fn named(name: &'a str) -> Self {
        Self { name, uuid: "" }
    }

    pub(super) const fn of_uuid(uuid: &'a str) -> Self {
        Self { name: "", uuid }
    }
}

/// Buffer of a command: head, payload, zeros up to `room` bytes for the answer.
pub(super) fn request(
    device: Device<'_>,
    flags: u32,
    targets: u32,
    payload: &[u8],
    room: usize,
) -> Option<Vec<u8>> {
    let mut head = DmIoctl::new_zeroed();
    head.version = [4, 0, 0];
    head.data_start = u32::try_from(HEAD).ok()?;
    head.target_count = targets;
    head.flags = flags;
    let Device { name, uuid } = device;
    // The last byte of both fields stays NUL.
    head.name.get_mut(..127)?.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    head.uuid.get_mut(..128)?.get_mut(..uuid.len())?.copy_from_slice(uuid.as_bytes());
    let mut buffer = vec![0u8; room];
    buffer.get_mut(..HEAD)?.copy_from_slice(head.as_bytes());
    buffer.get_mut(HEAD..)?.get_mut(..payload.len())?.copy_from_slice(payload);
    Some(buffer)
}

/// One `dm_target_spec` with its NUL-terminated text, padded to 8 bytes.
pub(super) fn table_payload(sectors: u64, table: &str) -> Option<Vec<u8>> {
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

/// The head of an answer in checked types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) number: DevNumber,
    /// Whether it has a table that is in force.
    pub(super) active: bool,
    pub(super) uuid: String,
}

impl State {
    pub(super) fn of(head: &DmIoctl) -> Option<Self> {
        let active = head.flags & DM_ACTIVE_PRESENT_FLAG != 0;
        Some(Self { number: DevNumber::from_huge(head.dev)?, active, uuid: text(&head.uuid)? })
    }
}

/// One target of a device: its table, or its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    kind: String,
    start: u64,
    /// Length in sectors of 512 bytes.
    pub(super) sectors: u64,
    text: String,
}

impl Target {
    /// The first target in an answer.
    pub(super) fn first(payload: &[u8]) -> Option<Self> {
        let (spec, rest) = DmTargetSpec::read_from_prefix(payload).ok()?;
        let kind = text(&spec.target_type)?;
        let text = text(rest)?.trim_end().to_owned();
        Some(Self { kind, start: spec.sector_start, sectors: spec.length, text })
    }

    /// Its text, if it is a verity target at the start of the device.
    pub(super) fn verity(&self) -> Option<&str> {
        (self.kind == "verity" && self.start == 0).then_some(self.text.as_str())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.start, self.sectors, self.kind, self.text)
    }
}

/// Names of devices in an answer (`struct dm_name_list`).
pub(super) fn names(payload: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = payload;
    // Each round goes forward by at least a head, so it ends.
    while let Some((head, name)) = rest.split_at_checked(NAME_HEAD) {
        let next = head.get(8..).and_then(number);
        // The only entry of an empty list has the device number 0.
        if head.get(..8).is_some_and(|dev| dev != [0; 8]) {
            found.extend(text(name));
        }
        match next.and_then(|next| rest.get(next.max(NAME_HEAD)..)) {
            Some(further) if next != Some(0) => rest = further,
            _ => break,
        }
    }
    found
}

/// Major and minor version of the verity target in an answer (`struct dm_target_versions`).
pub(super) fn verity_version(payload: &[u8]) -> Option<(u32, u32)> {
    let mut rest = payload;
    loop {
        let (head, name) = rest.split_at_checked(VERSION_HEAD)?;
        if text(name)? == "verity" {
            let word = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            return Some((word(4)?, word(8)?));
        }
        let next = number(head).filter(|next| *next >= VERSION_HEAD)?;
        rest = rest.get(next..)?;
    }
}

/// The first four bytes as a number.
fn number(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next()?;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROOM: usize = 16 << 10;

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

        let buffer =
            request(Device { name: "mkimg-x", uuid: "U" }, DM_READONLY_FLAG, 1, &payload, ROOM).unwrap();
        assert_eq!(buffer.len(), ROOM);
        assert_eq!(buffer[0..4], 4u32.to_ne_bytes());
        assert_eq!(buffer[16..20], 312u32.to_ne_bytes());
        assert_eq!(buffer[20..24], 1u32.to_ne_bytes());
        assert_eq!(buffer[28..32], 1u32.to_ne_bytes());
        assert_eq!(&buffer[48..56], b"mkimg-x\0");
        assert_eq!(&buffer[176..178], b"U\0");
        assert_eq!(buffer[312..360], payload[..]);
        assert!(request(Device::named(&"n".repeat(127)), 0, 0, &[], ROOM).is_some());
        assert!(request(Device::named(&"n".repeat(128)), 0, 0, &[], ROOM).is_none());
        assert!(request(Device::of_uuid(&"u".repeat(129)), 0, 0, &[], ROOM).is_none());
        assert!(request(Device::default(), 0, 0, &vec![0; ROOM - size_of::<DmIoctl>() + 1], ROOM).is_none());
    }

    #[test]
    fn answers() {
        let payload = table_payload(8000, "V ").unwrap();
        let target = Target::first(&payload).unwrap();
        assert_eq!(target.verity(), Some("V"));
        assert_eq!(target.to_string(), "0 8000 verity V");
        assert_eq!(Target::first(&payload[..39]), None);
        let mut other = payload;
        other[24..30].copy_from_slice(b"linear");
        let other = Target::first(&other).unwrap();
        assert_eq!((other.verity(), other.to_string().as_str()), (None, "0 8000 linear V"));
        assert_eq!(Target::first(&[]), None);
    }

    fn name_entry(dev: u64, next: u32, name: &[u8]) -> Vec<u8> {
        let mut entry = [&dev.to_ne_bytes()[..], &next.to_ne_bytes(), name, &[0]].concat();
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry
    }

    #[test]
    fn lists_of_devices() {
        let two = [name_entry(0xfd00, 24, b"mkimg-a"), name_entry(0xfd01, 0, b"b")].concat();
        assert_eq!(names(&two), ["mkimg-a", "b"]);
        assert!(names(&name_entry(0, 0, b"")).is_empty());
        assert!(names(&[]).is_empty());
        // Offsets that lead nowhere or back end the list.
        for next in [1, 4096, u32::MAX] {
            let names = names(&name_entry(0xfd00, next, b"a"));
            assert_eq!(names.first().map(String::as_str), Some("a"), "{next}");
            assert!(names.len() < 3, "{next}");
        }
    }

    #[test]
    fn versions_of_targets() {
        let entry = |next: u32, version: [u32; 3], name: &[u8]| {
            let head = [next, version[0], version[1], version[2]].map(u32::to_ne_bytes).concat();
            [&head[..], name, &[0; 8]].concat()
        };
        let verity = entry(0, [1, 10, 2], b"verity\0");
        assert_eq!(verity_version(&verity), Some((1, 10)));
        let linear = entry(32, [1, 4, 0], b"linear\0\0");
        assert_eq!(verity_version(&[&linear[..], &verity].concat()), Some((1, 10)));
        for broken in [&[][..], &linear, &verity[..15], &entry(3, [1, 4, 0], b"linear")] {
            assert_eq!(verity_version(broken), None);
        }
    }
}
