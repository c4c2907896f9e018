//! The file behind a mount: is it there, is it the one, is it whole?
//!
//! | mount | how the file that is mounted is known |
//! |---|---|
//! | loop device, also below dm-verity | the device tells device and inode number of its file |
//! | overlay of mkimg straight over a file | so does the overlay's source string |
//! | EROFS straight from a file, also below an overlay | statfs(2) shows the UUID of what is mounted, folded to 64 bits |
//!
//! A copy has the same UUID: straight from a file it cannot be told from the file that was mounted.
//! Where the name leads to another file, or to none, a loop device itself still reads the file that is mounted.

use std::fs::File;
use std::path::{Path, PathBuf};

use mkimg_format::erofs::{Superblock, escape};
use mkimg_kernel::image_file::open_image;
use mkimg_kernel::loop_device::LoopState;
use mkimg_kernel::mounts::Backing;
use mkimg_kernel::overlay_source::FileId;
use rustix::fs::{Advice, FileType};

use super::ProblemKind;
use super::place::Place;
use super::report::LiveReport;

/// Opens what is to be read for the bytes below the mount, and reports what is wrong with the file.
pub(super) fn open(place: &Place, report: &mut LiveReport) -> Option<File> {
    let path = place.image.image.as_path();
    let number = match &place.image.backing {
        Backing::Loop(number) => Some(*number),
        Backing::Dm { loop_number, .. } => *loop_number,
        Backing::File => return straight(place, path, report),
        _ => None,
    };
    let Some(number) = number else { return readable(path, report) };
    match LoopState::of(number) {
        Ok(Some(state)) => over_loop(number, &state, report),
        Ok(None) => {
            report.unseen.push(format!("the backing file: /dev/loop{number} is not bound any more"));
            None
        }
        Err(error) => {
            report.unseen.push(format!("the backing file: {error}"));
            None
        }
    }
}

/// A mount straight from a file.
fn straight(place: &Place, path: &Path, report: &mut LiveReport) -> Option<File> {
    if !path.is_absolute() {
        let text =
            format!("the bytes below the mount: {} is a relative path, of whoever mounted it", show(path));
        report.unseen.push(text);
        return None;
    }
    if let Err(error) = std::fs::metadata(path)
        && error.kind() == std::io::ErrorKind::NotFound
    {
        let text = format!("{} is not there any more", show(path));
        report.problem(ProblemKind::BackingDeleted, text);
        report.unseen.push("the bytes below the mount, to which no name leads".to_owned());
        return None;
    }
    let file = readable(path, report)?;
    let same = match place.image.file_id {
        Some(mounted) => file_id(&file) == Some(mounted),
        None => is_same_file_system(place, &file),
    };
    if !same {
        let text = format!("{} is another file than the one that is mounted", show(path));
        report.problem(ProblemKind::BackingReplaced, text);
        report.unseen.push("the bytes below the mount, to which no name leads".to_owned());
        return None;
    }
    Some(file)
}

/// Whether the UUID in a file is that of the file system that is mounted. A file whose superblock cannot be read may be
/// the damaged one, which its own audit will say.
fn is_same_file_system(place: &Place, file: &File) -> bool {
    let Ok(superblock) = Superblock::read(file) else { return true };
    let (halves, _) = superblock.uuid.as_chunks::<8>();
    let folded = halves.iter().fold(0, |folded, half| folded ^ u64::from_le_bytes(*half));
    place.file_system_id().is_none_or(|mounted| mounted == folded)
}

/// A mount over a loop device, with or without dm-verity between.
fn over_loop(number: u32, state: &LoopState, report: &mut LiveReport) -> Option<File> {
    let path = state.path.as_path();
    let same = open_image(path).ok().filter(|file| file_id(file) == Some((state.device, state.inode)));
    match &same {
        Some(file) => {
            let length = file.metadata().map_or(u64::MAX, |found| found.len());
            let end = state.offset.saturating_add(state.size);
            if length < end {
                let text =
                    format!("{} has {length} bytes, but loop{number} was bound to {end} of them", show(path));
                report.problem(ProblemKind::BackingTruncated, text);
            }
        }
        None if !path.exists() => {
            let text = format!("{} is not there any more; read from loop{number} instead", show(path));
            report.problem(ProblemKind::BackingDeleted, text);
        }
        None => {
            let text = format!(
                "{} is another file than the one that is mounted; read from loop{number} instead",
                show(path)
            );
            report.problem(ProblemKind::BackingReplaced, text);
        }
    }
    match same {
        Some(file) if state.offset == 0 => Some(file),
        _ => readable(&PathBuf::from(format!("/dev/loop{number}")), report),
    }
}

/// What every change of a file moves: size, and times of modification and change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(i64, i64, u64, i64, u64)>);

impl Stamp {
    /// That of an open file; block devices have none.
    pub(super) fn of(file: &File) -> Self {
        let stat = rustix::fs::fstat(file).ok();
        let stat = stat.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        Self(stat.map(|s| (s.st_size, s.st_mtime, s.st_mtime_nsec, s.st_ctime, s.st_ctime_nsec)))
    }
}

/// Lets go what the system holds of a block device: below, its file may have changed since. Of a file it holds nothing
/// else than the file has.
pub(super) fn let_go(file: &File) {
    let stat = rustix::fs::fstat(file).ok();
    if stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice) {
        // Advice: what is in use stays.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    }
}

fn readable(path: &Path, report: &mut LiveReport) -> Option<File> {
    match open_image(path) {
        Ok(file) => Some(file),
        Err(error) => {
            report.unseen.push(format!("the backing file: {error}"));
            None
        }
    }
}

fn file_id(file: &File) -> Option<FileId> {
    rustix::fs::fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

fn show(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
