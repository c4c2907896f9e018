//! File handles: names of inodes that outlive every descriptor.
//!
//! fanotify tells where something happened by the handle of a directory. Two ways lead from there to a path: the
//! kernel decodes the handle (`open_by_handle_at`), or whoever watches wrote down the handles of the directories
//! beforehand. The first is not to be had on overlayfs (handles of it cannot be decoded unless it is mounted with
//! `nfs_export=on`) nor without `CAP_DAC_READ_SEARCH`, so only the second is used, everywhere.
//!
//! Tried on Linux 6.18, and found the same for ext4, xfs, btrfs, tmpfs, EROFS and overlayfs over EROFS: the handle
//! that `name_to_handle_at` gives with `AT_HANDLE_FID` equals the one in events, byte for byte. On overlayfs it stays
//! what it was when the directory is copied up; there, without that flag, it is `EOPNOTSUPP`.
//!
//! This is one of the two modules of the crate with unsafe code, `ioctl` is the other.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::{self, Errno};

/// `MAX_HANDLE_SZ` of the kernel, in bytes.
pub(crate) const SIZE_MAX: usize = 128;

/// `AT_HANDLE_FID` (Linux 6.5): a handle to compare, which need not be one that can be opened.
const AT_HANDLE_FID: libc::c_int = 0x200;

/// Types of handles that begin with an inode number, of 32 and of 64 bits.
const FILEID_INO32_GEN: i32 = 1;
const FILEID_INO64_GEN: i32 = 0x81;

/// What an inode is called within its file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    kind: i32,
    bytes: Box<[u8]>,
}

impl Handle {
    /// A handle of type `kind` as the kernel wrote it.
    pub(crate) fn new(kind: i32, bytes: &[u8]) -> Self {
        Self { kind, bytes: bytes.into() }
    }

    /// The inode number in a handle of EROFS. Other file systems use these types for other things.
    pub(crate) fn erofs_inode(&self) -> Option<u64> {
        let (first, rest) = self.bytes.split_first_chunk()?;
        let first = u64::from(u32::from_ne_bytes(*first));
        match self.kind {
            FILEID_INO32_GEN => Some(first),
            // The upper half comes first, whatever the byte order.
            FILEID_INO64_GEN => Some(first << 32 | u64::from(u32::from_ne_bytes(*rest.first_chunk()?))),
            _ => None,
        }
    }

    /// The handle of what is open.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the file system has no handles.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        match name_to_handle(&fd, AT_HANDLE_FID) {
            // A kernel that does not know the flag. It gives handles that can be opened too, or none.
            Err(Errno::INVAL) => name_to_handle(&fd, 0),
            other => other,
        }
    }
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct FileHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    f_handle: [u8; SIZE_MAX],
}

const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(offset_of!(FileHandle, handle_bytes) == offset_of!(libc::file_handle, handle_bytes));
    assert!(offset_of!(FileHandle, handle_type) == offset_of!(libc::file_handle, handle_type));
    assert!(offset_of!(FileHandle, f_handle) == size_of::<libc::file_handle>());
    assert!(align_of::<FileHandle>() == align_of::<libc::file_handle>());
};

fn name_to_handle(fd: &impl AsFd, flags: libc::c_int) -> io::Result<Handle> {
    let room = libc::c_uint::try_from(SIZE_MAX).map_err(|_| Errno::OVERFLOW)?;
    let mut handle = FileHandle { handle_bytes: room, handle_type: 0, f_handle: [0; SIZE_MAX] };
    let mut mount_id: libc::c_int = 0;
    let fd = fd.as_fd();
    // SAFETY: the path is a C string; the kernel writes one int to `mount_id`, and to `handle` its head of eight bytes
    // and at most `handle_bytes` bytes behind it, which is the room that is there (layout asserted above). Both live
    // past the call, and every bit pattern is valid in them.
    let result = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount_id,
            flags | libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let length = usize::try_from(handle.handle_bytes).unwrap_or(usize::MAX);
    let bytes = handle.f_handle.get(..length).ok_or(Errno::OVERFLOW)?;
    Ok(Handle::new(handle.handle_type, bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn handles_tell_inodes_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("a")).unwrap();
        std::fs::create_dir(path("b")).unwrap();
        let of = |name: &str| Handle::of(std::fs::File::open(path(name)).unwrap()).unwrap();
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        let before = of("a");
        std::fs::rename(path("a"), path("c")).unwrap();
        assert_eq!(of("c"), before);
    }
}
