//! The ioctls that rustix has no wrapper for: loop, device-mapper, fs-verity.
//!
//! This is one of the two modules of the crate with unsafe code, `handle` is the other. Every function here is safe to call with
//! any argument: the kernel validates what it is handed, and the buffers it writes to are owned by
//! the caller for the time of the call and at least as long as the kernel was told.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{self, Errno};
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter, Updater, ioctl};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Read-only device, `LO_FLAGS_READ_ONLY` in `linux/loop.h`.
pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
/// Detach at last close, `LO_FLAGS_AUTOCLEAR`.
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Bypass the page cache of the backing file, `LO_FLAGS_DIRECT_IO`.
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const FS_IOC_ENABLE_VERITY: Opcode = 0x4080_6685;
const FS_IOC_MEASURE_VERITY: Opcode = 0xc004_6686;

/// `struct loop_info64` of `linux/loop.h`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LoopInfo64 {
    /// st_dev of the backing file (kernel's encoding); out only.
    pub lo_device: u64,
    /// st_ino of the backing file; out only.
    pub lo_inode: u64,

    /// Device number of the backing device; out only.
    pub lo_rdevice: u64,
    /// First byte of the backing file that is mapped.
    pub lo_offset: u64,

    /// Bytes mapped, 0 = to the end.
    pub lo_sizelimit: u64,
    /// Number of the loop device; out only.
    pub lo_number: u32,
    /// Unused since 5.16.
    pub lo_encrypt_type: u32,

    /// Unused since 5.16.
    pub lo_encrypt_key_size: u32,
    /// `LO_FLAGS_*`.
    pub lo_flags: u32,
    /// Name for the eyes of losetup, NUL-terminated.
    pub lo_file_name: [u8; 64],
    /// Unused.
    pub lo_crypt_name: [u8; 64],
    /// Unused.
    pub lo_encrypt_key: [u8; 32],
    /// Unused.
    pub lo_init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h` (Linux 5.8).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LoopConfig {
    /// The backing file.
    pub fd: u32,
    /// Logical block size in bytes, 0 = the kernel's choice.
    pub block_size: u32,
    /// Everything else.
    pub info: LoopInfo64,
    /// Must be zero.
    pub reserved: [u64; 8],
}

/// `struct dm_ioctl` of `linux/dm-ioctl.h`, the head of every device-mapper command.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DmIoctl {
    /// Interface version: major must be 4.
    pub version: [u32; 3],
    /// Size in bytes of the whole buffer, this head included.
    pub data_size: u32,

    /// Offset in bytes of the payload from the start of the buffer.
    pub data_start: u32,
    /// Number of targets in the payload.
    pub target_count: u32,
    /// Openers of the device; out only.
    pub open_count: i32,
    /// `DM_*_FLAG`.
    pub flags: u32,

    /// Event counter, udev cookie on some commands.
    pub event_nr: u32,
    /// Zero.
    pub padding: u32,
    /// Device number, `huge_encode_dev`.
    pub dev: u64,

    /// Device name, NUL-terminated.
    pub name: [u8; 128],
    /// Device UUID, NUL-terminated.
    pub uuid: [u8; 129],
    /// Zero.
    pub data: [u8; 7],
}

/// `struct dm_target_spec` of `linux/dm-ioctl.h`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DmTargetSpec {
    /// First 512-byte sector of the target.
    pub sector_start: u64,
    /// Length in 512-byte sectors.
    pub length: u64,

    /// Error code; out only.
    pub status: i32,
    /// Bytes from this spec (table load) or from the payload's start (status) to the next.
    pub next: u32,
    /// Target type, NUL-terminated.
    pub target_type: [u8; 16],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<LoopInfo64>() == 232);
    assert!(offset_of!(LoopInfo64, lo_offset) == 24);
    assert!(offset_of!(LoopInfo64, lo_number) == 40);
    assert!(offset_of!(LoopInfo64, lo_flags) == 52);
    assert!(offset_of!(LoopInfo64, lo_file_name) == 56);
    assert!(offset_of!(LoopInfo64, lo_encrypt_key) == 184);
    assert!(offset_of!(LoopInfo64, lo_init) == 216);
    assert!(size_of::<LoopConfig>() == 304);
    assert!(offset_of!(LoopConfig, info) == 8);
    assert!(offset_of!(LoopConfig, reserved) == 240);
    assert!(size_of::<DmIoctl>() == 312);
    assert!(offset_of!(DmIoctl, data_size) == 12);
    assert!(offset_of!(DmIoctl, data_start) == 16);
    assert!(offset_of!(DmIoctl, target_count) == 20);
    assert!(offset_of!(DmIoctl, open_count) == 24);
    assert!(offset_of!(DmIoctl, flags) == 28);
    assert!(offset_of!(DmIoctl, event_nr) == 32);
    assert!(offset_of!(DmIoctl, dev) == 40);
    assert!(offset_of!(DmIoctl, name) == 48);
    assert!(offset_of!(DmIoctl, uuid) == 176);
    assert!(offset_of!(DmIoctl, data) == 305);
    assert!(size_of::<DmTargetSpec>() == 40);
    assert!(offset_of!(DmTargetSpec, length) == 8);
    assert!(offset_of!(DmTargetSpec, status) == 16);
    assert!(offset_of!(DmTargetSpec, next) == 20);
    assert!(offset_of!(DmTargetSpec, target_type) == 24);
    assert!(dm_opcode(DM_DEV_CREATE) == 0xc138_fd03);
    assert!(dm_opcode(DM_DEV_REMOVE) == 0xc138_fd04);
    assert!(dm_opcode(DM_DEV_SUSPEND) == 0xc138_fd06);
    assert!(dm_opcode(DM_TABLE_LOAD) == 0xc138_fd09);
    assert!(dm_opcode(DM_TABLE_STATUS) == 0xc138_fd0c);
};

pub(crate) const DM_VERSION: u8 = 0;
pub(crate) const DM_LIST_DEVICES: u8 = 2;
pub(crate) const DM_DEV_CREATE: u8 = 3;
pub(crate) const DM_DEV_REMOVE: u8 = 4;
pub(crate) const DM_DEV_SUSPEND: u8 = 6;
pub(crate) const DM_DEV_STATUS: u8 = 7;
pub(crate) const DM_TABLE_LOAD: u8 = 9;
pub(crate) const DM_TABLE_STATUS: u8 = 12;
pub(crate) const DM_LIST_VERSIONS: u8 = 13;
pub(crate) const DM_GET_TARGET_VERSION: u8 = 17;

/// `_IOWR(0xfd, command, struct dm_ioctl)`.
const fn dm_opcode(command: u8) -> Opcode {
    rustix::ioctl::opcode::read_write::<DmIoctl>(0xfd, command)
}

impl LoopConfig {
    /// A configuration with every field zero except the backing file.
    pub(crate) fn new(backing: BorrowedFd<'_>) -> io::Result<Self> {
        let mut config = LoopConfig::new_zeroed();
        config.fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::BADF)?;
        Ok(config)
    }
}

/// `LOOP_CTL_GET_FREE` takes no argument and answers through its return value.
struct LoopCtlGetFree;

// SAFETY: the command reads and writes no memory of the caller (`loop_control_ioctl` ignores the
// argument), so the null pointer is never followed; the output is made from the return value alone.
unsafe impl Ioctl for LoopCtlGetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> io::Result<u32> {
        u32::try_from(out).map_err(|_| Errno::RANGE)
    }
}

/// Number of a loop device that is free at this moment; made when all are taken.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: see `LoopCtlGetFree`; on any other kind of file the number is unknown and refused.
    unsafe { ioctl(control, LoopCtlGetFree) }
}

/// Binds a file to a loop device and configures it in one step.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, config: LoopConfig) -> io::Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose size and offsets are asserted
    // above, and writes nothing to the caller's memory.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// State of a bound loop device; `ENXIO` when it is not bound.
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> io::Result<LoopInfo64> {
    let mut info = LoopInfo64::new_zeroed();
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64` (size asserted above, every bit
    // pattern valid) to `info`, which lives past the call.
    unsafe { ioctl(device, Updater::<LOOP_GET_STATUS64, LoopInfo64>::new(&mut info))? };
    Ok(info)
}

/// Unbinds a loop device, at its last close when it is in use.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD has no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// A device-mapper command on a caller's buffer.
struct DmCommand<'a> {
    command: u8,
    buffer: &'a mut [u8],
}

// SAFETY: `dm_ctl_ioctl` copies in and out at most `data_size` bytes; `dm` below writes the length
// of `buffer` there and is the only place that makes this type. The kernel wants no alignment (it
// copies), and any bytes are valid in `buffer`, which is borrowed mutably for the time of the call.
unsafe impl Ioctl for DmCommand<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        dm_opcode(self.command)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> io::Result<()> {
        Ok(())
    }
}

/// Runs one device-mapper command. `buffer` starts with a [`DmIoctl`], whose `data_size` is set here.
pub(crate) fn dm(control: BorrowedFd<'_>, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    let size = u32::try_from(buffer.len()).map_err(|_| Errno::INVAL)?;
    if buffer.len() < size_of::<DmIoctl>() {
        return Err(Errno::INVAL);
    }
    let at = std::mem::offset_of!(DmIoctl, data_size);
    buffer.get_mut(at..at + 4).ok_or(Errno::INVAL)?.copy_from_slice(&size.to_ne_bytes());
    // SAFETY: the buffer is at least one head long and `data_size` tells the kernel its true length.
    unsafe { ioctl(control, DmCommand { command, buffer }) }
}

/// `struct fsverity_digest` with room for the longest digest.
#[repr(C)]
struct FsVerityDigest {
    digest_algorithm: u16,
    digest_size: u16,
    digest: [u8; 64],
}

const _: () = assert!(size_of::<FsVerityDigest>() == 68);

/// fs-verity digest of a file: algorithm number of `linux/fsverity.h` and the digest.
///
/// `ENODATA`: the file has none. `ENOTTY` or `EOPNOTSUPP`: file system or kernel cannot.
pub(crate) fn measure_verity(file: impl AsFd) -> io::Result<(u16, Vec<u8>)> {
    let mut out = FsVerityDigest { digest_algorithm: 0, digest_size: 64, digest: [0; 64] };
    // SAFETY: FS_IOC_MEASURE_VERITY reads `digest_size` and writes at most the four bytes of the
    // head and `digest_size` bytes after it: 68 bytes, the size of `out` (asserted above).
    unsafe { ioctl(file, Updater::<FS_IOC_MEASURE_VERITY, FsVerityDigest>::new(&mut out))? };
    let len = usize::from(out.digest_size).min(out.digest.len());
    Ok((out.digest_algorithm, out.digest.get(..len).unwrap_or_default().to_vec()))
}

/// `struct fsverity_enable_arg` of `linux/fsverity.h`, without salt and signature.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FsVerityEnable {
    /// 1.
    version: u32,
    hash_algorithm: u32,
    /// Bytes.
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

const _: () = assert!(size_of::<FsVerityEnable>() == 128);

/// Turns fs-verity on for a file; see [`crate::fsverity::enable`].
pub(crate) fn enable_verity(file: impl AsFd, hash_algorithm: u32, block_size: u32) -> io::Result<()> {
    let argument = FsVerityEnable { version: 1, hash_algorithm, block_size, ..FsVerityEnable::new_zeroed() };
    // SAFETY: FS_IOC_ENABLE_VERITY reads one `struct fsverity_enable_arg`, whose size is asserted above, and follows
    // no pointer in it, because salt_size and sig_size are 0.
    unsafe { ioctl(file, Setter::<FS_IOC_ENABLE_VERITY, FsVerityEnable>::new(argument)) }
}
