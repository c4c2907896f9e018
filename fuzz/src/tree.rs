//! What must hold for every file system that opens, however broken.

use mkimg_format::erofs::{FileSystem, FileType, Inode, PATH_MAX, SYMLINK_MAX, is_file_name};
use mkimg_format::header::Header;
use mkimg_format::{BLOCK_SIZE, Error, Problem, lint};

use crate::assert_one_line;

/// File content that one run reads in all.
const BYTES_MAX: u64 = 1 << 20;

/// Names that one run looks up again.
const LOOKUPS_MAX: usize = 64;

/// Extents that one run looks at.
const EXTENTS_MAX: usize = 1 << 16;

/// What a walk met.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Names, the root included.
    pub names: usize,
    /// Refusals.
    pub errors: usize,
    /// Sizes of all regular files, added up.
    pub file_bytes: u64,
}

/// Walks and reads everything; `None` when it does not open.
pub fn examine(image: &[u8]) -> Option<Seen> {
    let fs = match FileSystem::open(image) {
        Ok(fs) => fs,
        Err(error) => {
            assert_one_line(&error);
            return None;
        }
    };
    let length = fs.superblock().length();
    assert!(length <= image.len() as u64, "a file system longer than its image");
    // All directories together are no longer than the image, and an entry has at least 12 bytes of it.
    let most = 2 * (length / 12) + 4;
    let mut seen = Seen::default();
    let (mut budget, mut extents) = (BYTES_MAX, EXTENTS_MAX);
    let mut found = Vec::new();
    for (count, entry) in fs.walk().enumerate() {
        assert!((count as u64) < most, "a walk of more than {most} steps in {length} bytes");
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                seen.refuse(&error);
                continue;
            }
        };
        check_path(&entry.path);
        if count < LOOKUPS_MAX {
            found.push((entry.path, entry.inode.nid));
        }
        seen.names += 1;
        if entry.inode.file_type == FileType::File {
            seen.file_bytes = seen.file_bytes.saturating_add(entry.inode.size);
        }
        check_xattrs(&fs, &entry.inode, &mut seen);
        check_content(&fs, &entry.inode, &mut seen, &mut budget, &mut extents);
    }
    // A lookup may jump: names that are out of order are found by a walk alone.
    for (path, nid) in found {
        match fs.resolve(&path, false) {
            Ok(inode) => assert_eq!(inode.nid, nid, "a name leads to two inodes"),
            Err(error) => assert!(seen.errors > 0, "the walk found what is not there: {error}"),
        }
    }
    Some(seen)
}

impl Seen {
    fn refuse(&mut self, error: &Error) {
        // Bytes in memory can always be read: all refusals are about the format.
        assert!(!matches!(error, Error::Io { .. }), "read outside of the image: {error}");
        assert_one_line(error);
        self.errors += 1;
    }
}

fn check_path(path: &[u8]) {
    assert!(path.len() <= PATH_MAX, "a path of {} bytes", path.len());
    let names = path.strip_prefix(b"/").expect("an absolute path");
    assert!(names.is_empty() || names.split(|byte| *byte == b'/').all(is_file_name), "no path: {path:?}");
}

fn check_xattrs(fs: &FileSystem<&[u8]>, inode: &Inode, seen: &mut Seen) {
    match fs.xattrs(inode) {
        Ok(xattrs) => {
            assert!(xattrs.is_sorted_by(|a, b| a.name < b.name), "xattrs twice or out of order");
            for xattr in xattrs {
                assert!(
                    !xattr.name.is_empty() && !xattr.name.contains(&0),
                    "no xattr name: {:?}",
                    xattr.name
                );
                assert!(xattr.value.len() <= usize::from(u16::MAX), "an xattr value without bounds");
            }
        }
        Err(error) => seen.refuse(&error),
    }
}

/// Extents in order and inside, and three ways to the same bytes.
fn check_content(
    fs: &FileSystem<&[u8]>,
    inode: &Inode,
    seen: &mut Seen,
    budget: &mut u64,
    extents: &mut usize,
) {
    let limit = fs.superblock().length();
    let mut next = 0;
    let mut last: Option<Option<u64>> = None;
    let mut content = Vec::new();
    let whole = inode.size <= *budget;
    let mut packed = false;
    for extent in fs.extents(inode) {
        let extent = match extent {
            Ok(extent) => extent,
            Err(error) => return seen.refuse(&error),
        };
        if *extents == 0 {
            return;
        }
        *extents -= 1;
        assert_eq!(extent.logical, next, "a gap or overlap between extents");
        assert!(extent.length > 0, "an empty extent");
        next = extent.logical.checked_add(extent.length).expect("an extent inside its file");
        if let Some(start) = extent.physical {
            assert!(start.checked_add(extent.stored()).is_some_and(|end| end <= limit), "an extent outside");
        }
        if extent.compressed.is_some() {
            packed = true;
            last = None;
            continue;
        }
        // The end of a hole is a hole's end; of data, where it would go on.
        let starts = extent.physical;
        assert!(last != Some(starts), "two extents that are one");
        last = Some(extent.physical.and_then(|start| start.checked_add(extent.length)));
        if whole && !packed {
            match extent.physical {
                Some(start) => {
                    let (start, length) = (usize_of(start), usize_of(extent.length));
                    content.extend_from_slice(&fs.io()[start..start + length]);
                }
                None => content.resize(content.len() + usize_of(extent.length), 0),
            }
        }
    }
    let has_content = matches!(inode.file_type, FileType::File | FileType::Dir | FileType::Symlink);
    if has_content {
        assert_eq!(next, inode.size, "extents end before or behind the file");
    }
    if packed {
        // No map tells whether streams are sound.
        let taken = if whole { collect(fs, inode, &mut content) } else { return };
        match taken {
            Ok(()) => {}
            Err(Error::Corrupt { problem: Problem::Undecodable { .. }, .. }) => return,
            Err(error) => return seen.refuse(&error),
        }
    }
    if whole && has_content {
        *budget -= inode.size;
        let mut buffer = vec![0xee; content.len() + 5];
        assert_eq!(fs.read_file(inode, 0, &mut buffer).expect("sound extents"), content.len());
        assert!(
            buffer.starts_with(&content) && buffer.ends_with(&[0xee; 5]),
            "read_file differs from extents"
        );
        let mut pieces = Vec::new();
        collect(fs, inode, &mut pieces).expect("sound extents");
        assert!(pieces == content, "for_each_piece differs from extents");
    }
    let mut buffer = [0xee; 700];
    for offset in [1, inode.size / 2, inode.size.saturating_sub(3), inode.size, u64::MAX] {
        let expected = if has_content { inode.size.saturating_sub(offset).min(700) } else { 0 };
        let count = fs.read_file(inode, offset, &mut buffer).expect("sound extents");
        assert_eq!(count as u64, expected, "read_file at {offset} of {}", inode.size);
        if whole && has_content && count > 0 {
            assert!(content[usize_of(offset)..].starts_with(&buffer[..count]), "read_file at {offset}");
        }
    }
    if inode.file_type == FileType::Symlink {
        match fs.read_link(inode) {
            Ok(target) => {
                assert!(!target.is_empty() && target.len() as u64 <= SYMLINK_MAX, "{} bytes", target.len());
                assert!(!target.contains(&0) && target == content, "a target that is not the content");
            }
            Err(error) => seen.refuse(&error),
        }
    }
}

/// The content as it comes piece by piece.
fn collect(fs: &FileSystem<&[u8]>, inode: &Inode, content: &mut Vec<u8>) -> Result<(), Error> {
    content.clear();
    fs.for_each_piece(inode, |piece| {
        content.extend_from_slice(piece);
        assert!(content.len() as u64 <= inode.size, "more content than the file has");
        Ok(())
    })
}

/// Lints; an image without findings must be readable without a refusal.
pub fn check_lint(image: &[u8], header: &Header, seen: Option<&Seen>) {
    let mut count = 0_u64;
    let mut report = |finding: lint::Finding| {
        count += 1;
        assert!(!finding.problem.is_empty() && !finding.problem.contains(char::is_control), "{finding:?}");
        if let Some(path) = finding.path {
            check_path(&path);
        }
    };
    let linted = lint::lint(&image, header, &mut report);
    if header.data_blocks.checked_mul(BLOCK_SIZE).is_some_and(|end| end <= image.len() as u64) {
        linted.expect("bytes in memory can be read");
    } else {
        assert!(linted.is_err() || count > 0, "an image that ends too early passes the linter");
    }
    // Sixteen parts, of each a thousand findings and one that says how many more.
    assert!(count <= 16 * 1001, "{count} findings");
    if count == 0 && header.data_blocks * BLOCK_SIZE <= image.len() as u64 {
        let seen = seen.expect("an image that passes the linter opens");
        assert_eq!(seen.errors, 0, "an image that passes the linter cannot be read");
    }
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("64-bit machines")
}
