//! Text of mtree(5): a line for each name, as mtree of NetBSD, gomtree and bsdtar read it.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use mkimg_format::erofs::{FileSystem, FileType, WalkEntry};
use mkimg_format::{ReadAt, hex};

use crate::digests::Digests;

/// What stands above the entries. The first line is how bsdtar knows the format.
const HEAD: &str = "\
#mtree
# Extended attributes are not in here, mtree(5) has no word for them: `mkimg verify --seal` compares them.
";

/// Writes the whole tree of `fs`, in the order in which it is walked. Returns the number of names.
pub(crate) fn write<R: ReadAt>(fs: &FileSystem<R>, out: &mut impl Write) -> Result<u64> {
    let mut digests = Digests::default();
    let mut names = 0;
    // Directories that a reader is in: gomtree takes a name right below the root for one in the last directory.
    let mut inside = 0;
    out.write_all(HEAD.as_bytes())?;
    for entry in fs.walk() {
        let entry = entry?;
        let depth =
            if entry.path == b"/" { 0 } else { entry.path.iter().filter(|byte| **byte == b'/').count() };
        for _ in depth..inside {
            out.write_all(b"..\n")?;
        }
        write_entry(fs, &entry, &mut digests, out)?;
        inside = depth + usize::from(entry.inode.file_type == FileType::Dir);
        names += 1;
    }
    Ok(names)
}

fn write_entry<R: ReadAt>(
    fs: &FileSystem<R>,
    entry: &WalkEntry,
    digests: &mut Digests,
    out: &mut impl Write,
) -> Result<()> {
    let inode = &entry.inode;
    let path = if entry.path == b"/" { String::new() } else { escape(&entry.path) };
    write!(
        out,
        ".{path} type={} uid={} gid={} mode={}",
        word(inode.file_type),
        inode.uid,
        inode.gid,
        octal(inode.mode)
    )?;
    // How many links a directory has is up to the file system that it is extracted to.
    if inode.file_type != FileType::Dir {
        write!(out, " nlink={}", inode.nlink)?;
    }
    if inode.file_type == FileType::File {
        write!(out, " size={}", inode.size)?;
    }
    // What stands behind the dot is a number of nanoseconds to all readers, so it needs all its digits.
    write!(out, " time={}", inode.mtime)?;
    match inode.file_type {
        FileType::Symlink => write!(out, " link={}", escape(&fs.read_link(inode)?))?,
        // Not `linux`: that one is the old format, with 8 bits for a minor number.
        FileType::Char | FileType::Block => {
            write!(out, " device=native,{},{}", inode.rdev.0, inode.rdev.1)?;
        }
        FileType::File => write!(out, " sha256digest={}", hex(&digests.of(fs, inode)?))?,
        FileType::Dir | FileType::Fifo | FileType::Socket => {}
    }
    out.write_all(b"\n")?;
    Ok(())
}

/// Word for a type of file.
const fn word(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Symlink => "link",
        other => other.word(),
    }
}

/// A mode as C writes it with `%#o`, because gomtree compares text: one zero in front, and 0 is just that.
fn octal(mode: u16) -> String {
    if mode == 0 { "0".to_owned() } else { format!("0{mode:o}") }
}

/// Bytes as vis(3) writes them with `VIS_OCTAL`: three octal digits for all but harmless ASCII.
///
/// The backslash is doubled, which all readers know, because gomtree compares link targets as they are written.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        // Those of ASCII that begin comments or patterns, or separate keyword and value, are not harmless.
        if byte == b'\\' {
            text.push_str("\\\\");
        } else if byte.is_ascii_graphic() && !b"#*?[]=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_c() {
        for (mode, text) in [(0, "0"), (0o7, "07"), (0o644, "0644"), (0o4755, "04755")] {
            assert_eq!(octal(mode), text);
        }
    }

    #[test]
    fn names_are_one_word_of_ascii() {
        for (name, text) in [
            (&b"/usr/lib/libstdc++.so.6"[..], r"/usr/lib/libstdc++.so.6"),
            (b"two words\n", r"two\040words\012"),
            (b"\xff\xc3\xa4\0\x7f", r"\377\303\244\000\177"),
            (b"\\#=", r"\\\043\075"),
            (b"a*?[b]", r"a\052\077\133b\135"),
        ] {
            assert_eq!(escape(name), text);
        }
    }
}
