//! Kinds of content.
//!
//! By name where the name says it, by the first bytes where it does not. Nobody's security hangs on it: a file that
//! lies about its kind is counted with what it says it is.

use mkimg_format::erofs::{FileSystem, Inode};
use mkimg_format::{ReadAt, Result};

use crate::stored::Stored;

/// Bytes at the start of a file that are looked at: up to the magic number of a tar.
const START: usize = 262;

/// A kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Programs, shared libraries, kernel modules.
    Elf,
    /// Source of interpreted languages.
    Script,
    /// Compiled for a virtual machine: Python, Java, Emacs, WebAssembly.
    Bytecode,
    /// Text, markup, configuration, headers.
    Text,
    /// Archives, static libraries, compressed files.
    Archive,
    /// Pictures, sound, fonts.
    Media,
    /// Anything else.
    Other,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] =
        [Self::Elf, Self::Script, Self::Bytecode, Self::Text, Self::Archive, Self::Media, Self::Other];

    /// One word, for machines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Script => "script",
            Self::Bytecode => "bytecode",
            Self::Text => "text",
            Self::Archive => "archive",
            Self::Media => "media",
            Self::Other => "other",
        }
    }

    /// A few words, for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Elf => "programs and libraries (ELF)",
            Self::Script => "scripts",
            Self::Bytecode => "bytecode",
            Self::Text => "text and configuration",
            Self::Archive => "archives, static libraries",
            Self::Media => "pictures, sound, fonts",
            Self::Other => "other",
        }
    }

    /// Kind of a regular file; without its data if `data` says that there is none.
    ///
    /// # Errors
    /// As [`FileSystem::read_file`].
    pub(crate) fn of<R: ReadAt>(fs: &FileSystem<R>, inode: &Inode, name: &[u8], data: bool) -> Result<Self> {
        if let Some(kind) = Self::of_name(name) {
            return Ok(kind);
        }
        if !data || inode.size == 0 {
            return Ok(Self::Other);
        }
        let mut start = [0; START];
        let length = fs.read_file(inode, 0, &mut start)?;
        Ok(Self::of_start(start.get(..length).unwrap_or_default()))
    }

    /// Kind that a file name stands for; `None` if it says nothing.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Option<Self> {
        let (stem, extension) = {
            let dot = name.iter().rposition(|byte| *byte == b'.')?;
            (name.get(..dot)?, name.get(dot.saturating_add(1)..)?.to_ascii_lowercase())
        };
        Some(match &*extension {
            b"so" | b"ko" | b"o" => Self::Elf,
            // libz.so.1.2.13
            version
                if version.iter().all(u8::is_ascii_digit) && stem.windows(3).any(|part| part == b".so") =>
            {
                Self::Elf
            }
            b"sh" | b"bash" | b"py" | b"pl" | b"pm" | b"rb" | b"js" | b"mjs" | b"cjs" | b"ts" | b"lua"
            | b"php" | b"tcl" | b"awk" | b"el" | b"r" | b"jl" => Self::Script,
            b"pyc" | b"pyo" | b"class" | b"elc" | b"wasm" | b"beam" | b"luac" => Self::Bytecode,
            b"txt" | b"md" | b"rst" | b"html" | b"htm" | b"css" | b"xml" | b"xsd" | b"xsl" | b"json"
            | b"yaml" | b"yml" | b"toml" | b"ini" | b"conf" | b"cfg" | b"csv" | b"h" | b"hh" | b"hpp"
            | b"c" | b"cc" | b"cpp" | b"inc" | b"rs" | b"go" | b"java" | b"pyi" | b"pxd" | b"pyx"
            | b"proto" | b"cmake" | b"tex" | b"log" | b"list" | b"md5sums" | b"service" | b"pem" | b"crt"
            | b"pc" | b"map" | b"po" | b"in" => Self::Text,
            b"gz" | b"tgz" | b"xz" | b"bz2" | b"zst" | b"lz4" | b"br" | b"zip" | b"jar" | b"war" | b"whl"
            | b"egg" | b"tar" | b"deb" | b"rpm" | b"apk" | b"7z" | b"a" | b"rlib" | b"cpio" => Self::Archive,
            b"png" | b"jpg" | b"jpeg" | b"gif" | b"webp" | b"svg" | b"ico" | b"bmp" | b"tif" | b"tiff"
            | b"ttf" | b"otf" | b"woff" | b"woff2" | b"pfb" | b"mp3" | b"ogg" | b"wav" | b"mp4" | b"webm" => {
                Self::Media
            }
            b"mo" | b"db" | b"sqlite" | b"bin" | b"dat" | b"npy" | b"npz" | b"h5" | b"pb" => Self::Other,
            _ => return None,
        })
    }

    /// Kind by the first bytes.
    #[must_use]
    pub fn of_start(start: &[u8]) -> Self {
        const MAGIC: [(&[u8], Kind); 14] = [
            (b"\x7fELF", Kind::Elf),
            (b"#!", Kind::Script),
            (b"\xca\xfe\xba\xbe", Kind::Bytecode),
            (b"\0asm", Kind::Bytecode),
            (b"!<arch>\n", Kind::Archive),
            (b"\x1f\x8b", Kind::Archive),
            (b"\xfd7zXZ\0", Kind::Archive),
            (b"\x28\xb5\x2f\xfd", Kind::Archive),
            (b"BZh", Kind::Archive),
            (b"PK\x03\x04", Kind::Archive),
            (b"\x89PNG", Kind::Media),
            (b"\xff\xd8\xff", Kind::Media),
            (b"GIF8", Kind::Media),
            (b"OggS", Kind::Media),
        ];
        if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
            return *kind;
        }
        if start.get(257..262) == Some(b"ustar") {
            return Self::Archive;
        }
        // The last character may be cut off.
        let is_text = match std::str::from_utf8(start) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none() && start.len() == START,
        };
        let is_plain = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
        if is_text && start.iter().all(is_plain) { Self::Text } else { Self::Other }
    }
}

/// What there is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindSum {
    /// Which.
    pub kind: Kind,
    /// Regular files.
    pub files: u64,
    /// Their content in bytes.
    pub bytes: u64,
    /// What the image has for that.
    pub stored: Stored,
}

/// Sums of all kinds.
#[derive(Debug)]
pub(crate) struct Kinds(Vec<KindSum>);

impl Default for Kinds {
    fn default() -> Self {
        Self(Kind::ALL.map(|kind| KindSum { kind, files: 0, bytes: 0, stored: Stored::default() }).to_vec())
    }
}

impl Kinds {
    /// Counts a file.
    pub(crate) fn add(&mut self, kind: Kind, bytes: u64, stored: Stored) {
        if let Some(sum) = self.0.iter_mut().find(|sum| sum.kind == kind) {
            sum.files = sum.files.saturating_add(1);
            sum.bytes = sum.bytes.saturating_add(bytes);
            sum.stored = sum.stored.plus(stored);
        }
    }

    /// Those that occur, largest first.
    pub(crate) fn into_sorted(mut self) -> Vec<KindSum> {
        self.0.retain(|sum| sum.files > 0);
        self.0.sort_by_key(|sum| (std::cmp::Reverse(sum.bytes), sum.kind));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_inside() {
        for (name, kind) in [
            (&b"libz.so"[..], Some(Kind::Elf)),
            (b"libz.so.1.2.13", Some(Kind::Elf)),
            (b"libpython3.11.so.1.0", Some(Kind::Elf)),
            (b"notes.1", None),
            (b"setup.PY", Some(Kind::Script)),
            (b"os.cpython-311.pyc", Some(Kind::Bytecode)),
            (b"libc.a", Some(Kind::Archive)),
            (b".png", Some(Kind::Media)),
            (b"python3", None),
            (b"\xff.\xff", None),
            (b"ends.", None),
        ] {
            assert_eq!(Kind::of_name(name), kind, "{name:?}");
        }
    }

    #[test]
    fn first_bytes_say_what_is_inside() {
        let mut tar = vec![0; START];
        tar[257..].copy_from_slice(b"ustar");
        let mut cut = vec![b'a'; START];
        cut[START - 1] = 0xc3;
        for (start, kind) in [
            (&b"\x7fELF\x02\x01"[..], Kind::Elf),
            (b"#!/bin/sh\n", Kind::Script),
            (b"!<arch>\n", Kind::Archive),
            (&tar, Kind::Archive),
            (b"root:x:0:0\n", Kind::Text),
            (&cut, Kind::Text),
            (b"\xc3", Kind::Other),
            ("caf\u{e9}\n".as_bytes(), Kind::Text),
            (b"a\0b", Kind::Other),
            (b"\x89PNG\r\n", Kind::Media),
        ] {
            assert_eq!(Kind::of_start(start), kind, "{start:?}");
        }
    }
}
