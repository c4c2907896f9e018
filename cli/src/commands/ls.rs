//! `mkimg ls`

use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, WalkEntry, escape};
use mkimg_format::hex;
use serde::Serialize;

use crate::args::LsArgs;
use crate::digests::Digests;
use crate::entry::Entry;
use crate::image::open_any;
use crate::output::{json_line, stdout, utc};

/// One path, as `--json` prints it.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    entry: Entry,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

pub(crate) fn run(args: &LsArgs) -> Result<ExitCode> {
    let image = open_any(&args.image.image)?;
    let fs = FileSystem::open(&image)?;
    // As the walk writes paths: one slash before each name.
    let names =
        args.path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let wanted: Vec<u8> = names.flat_map(|name| [&b"/"[..], name].concat()).collect();
    // Data is missing from a detached seal, and so are digests that would have to be computed.
    let mut digests = (!image.is_detached()).then(Digests::default);
    let mut out = stdout();
    let mut found = false;
    for entry in fs.walk() {
        let entry = entry?;
        let below = entry.path.strip_prefix(&wanted[..]);
        if !below.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || wanted.is_empty()) {
            continue;
        }
        found = true;
        if args.json {
            json_line(&mut out, &line(&fs, &entry, digests.as_mut())?)?;
        } else if args.long {
            long(&fs, &entry, &mut out)?;
        } else {
            writeln!(out, "{}", escape(&entry.path))?;
        }
    }
    if !found {
        bail!("{}: no such file or directory", escape(&wanted));
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn line<R: ReadAt>(fs: &FileSystem<R>, entry: &WalkEntry, digests: Option<&mut Digests>) -> Result<Line> {
    let sha256 = match (entry.inode.file_type, digests) {
        (FileType::File, Some(digests)) => Some(hex(&digests.of(fs, &entry.inode)?)),
        _ => None,
    };
    Ok(Line { entry: Entry::new(fs, entry)?, sha256 })
}

fn long<R: ReadAt>(fs: &FileSystem<R>, entry: &WalkEntry, out: &mut impl Write) -> Result<()> {
    let inode = &entry.inode;
    let size = match inode.file_type {
        FileType::Char | FileType::Block => format!("{}, {}", inode.rdev.0, inode.rdev.1),
        _ => inode.size.to_string(),
    };
    write!(
        out,
        "{} {:>3} {:>5} {:>5} {:>11} {} {}",
        mode_string(inode.file_type, inode.mode),
        inode.nlink,
        inode.uid,
        inode.gid,
        size,
        utc(inode.mtime),
        escape(&entry.path),
    )?;
    if inode.file_type == FileType::Symlink {
        write!(out, " -> {}", escape(&fs.read_link(inode)?))?;
    }
    writeln!(out)?;
    Ok(())
}

/// As `ls -l` writes it.
fn mode_string(file_type: FileType, mode: u16) -> String {
    let mut text = String::with_capacity(10);
    text.push(match file_type {
        FileType::File => '-',
        FileType::Dir => 'd',
        FileType::Char => 'c',
        FileType::Block => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Symlink => 'l',
    });
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = (mode >> shift) & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => set,
            (false, true) => unset,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_like_those_of_ls() {
        for (file_type, mode, text) in [
            (FileType::File, 0o644, "-rw-r--r--"),
            (FileType::File, 0o4755, "-rwsr-xr-x"),
            (FileType::File, 0o2644, "-rw-r-Sr--"),
            (FileType::Dir, 0o1777, "drwxrwxrwt"),
            (FileType::Dir, 0o1770, "drwxrwx--T"),
        ] {
            assert_eq!(mode_string(file_type, mode), text);
        }
    }
}
