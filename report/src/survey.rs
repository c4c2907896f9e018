//! One walk over an image, and what comes of it.

use std::cmp::Reverse;

use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{FileSystem, FileType, Nid, WalkEntry};
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use mkimg_format::trailer::Trailer;
use mkimg_format::{ReadAt, Result, Sha256};

use crate::deleted::{self, Deleted};
use crate::duplicates::{self, Duplicates};
use crate::kinds::{Kind, KindSum, Kinds};
use crate::layers::{self, Amount, Counts, Layer};
use crate::numbers::Numbers;
use crate::security::Security;
use crate::stored::{Store, Stored};
use crate::top::Top;
use crate::tree::{Growth, Tree};

/// What a survey is to find.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Length of each list.
    pub top: usize,
}

/// What there is in an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Names, the root included.
    pub names: u64,
    /// Regular files, each inode once, and their content.
    pub files: Amount,
    /// What the image has for that.
    pub stored: Stored,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, fifos and sockets.
    pub special: u64,
    /// Names beyond the first of files.
    pub hard_links: u64,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// First of its paths in the order of the walk.
    pub path: Vec<u8>,
    /// Length of its content.
    pub bytes: u64,
    /// Kind of its content.
    pub kind: Kind,
    /// Layer that ships it, the lowest is 1; `None` if the source has no layers.
    pub layer: Option<u64>,
}

/// What is in an image, and what its source wasted. Lists are as long as [`Options::top`] at most.
#[derive(Debug)]
pub struct Report {
    /// Name given by the user, or the reference of the source; any text.
    pub name: Option<String>,
    /// Root hash as the trailer has it.
    pub root_hash: Sha256,
    /// Length of the image in bytes.
    pub image_size: u64,
    /// Whether there was no file data to look at: kinds of files come from their names alone.
    pub is_detached: bool,
    /// What there is.
    pub totals: Totals,
    /// The layers of the source, lowest first.
    pub layers: Vec<Layer>,
    /// Bytes by kind of content, largest first.
    pub kinds: Vec<KindSum>,
    /// Largest files.
    pub files: Vec<File>,
    /// Bytes by directory.
    pub tree: Tree,
    /// Contents that several files share.
    pub duplicates: Duplicates,
    /// Files that are deleted, but still shipped by the source.
    pub deleted: Deleted,
    /// Files that give power.
    pub security: Security,
    /// How long lists are.
    pub top: usize,
}

impl Report {
    /// Whether contents of some kind take less room than they are long, so that there is a ratio to speak of.
    #[must_use]
    pub fn is_smaller(&self) -> bool {
        self.kinds.iter().any(|sum| sum.stored.bytes < sum.stored.distinct)
    }

    /// Sums of all layers.
    #[must_use]
    pub fn source(&self) -> Counts {
        self.layers.iter().fold(Counts::default(), |sum, layer| sum.plus(layer.counts))
    }
}

/// Walks an image, or its detached seal.
///
/// # Errors
/// The first thing that cannot be read.
pub fn survey<R: ReadAt>(image: &Sealed<R>, options: Options) -> Result<Report> {
    let header = Header::read(image)?;
    let fs = FileSystem::open(image)?;
    let seal = Seal::open(image, &header)?;
    let layers = layers::read(&seal)?;
    let mut walk = Walk {
        fs: &fs,
        data: !image.is_detached(),
        top: options.top,
        totals: Totals::default(),
        seen: Numbers::default(),
        store: Store::new(&fs, &seal)?,
        tree: Growth::default(),
        kinds: Kinds::default(),
        files: Top::new(options.top),
        duplicates: duplicates::Search::new(&seal, options.top)?,
        security: Security::default(),
    };
    for entry in fs.walk() {
        walk.step(&entry?)?;
    }
    let mut files = Vec::new();
    for BigFile { bytes, path: Reverse(path), kind, nid } in walk.files.into_sorted() {
        let record = seal.inode_record(nid.0)?;
        let layer = record.map(|record| u64::from(record.layer.get()));
        // The tree of a directory counts as a layer, but there is nothing to say about it.
        let layer = layer.filter(|layer| usize::try_from(*layer).is_ok_and(|layer| layer < layers.len()));
        files.push(File { path, bytes, kind, layer: layer.map(|layer| layer.saturating_add(1)) });
    }
    Ok(Report {
        name: seal.statement()?.name,
        root_hash: Trailer::read(image)?.root_hash,
        image_size: header.image_size(),
        is_detached: image.is_detached(),
        totals: walk.totals,
        layers,
        kinds: walk.kinds.into_sorted(),
        files,
        tree: walk.tree.finish(),
        duplicates: walk.duplicates.finish(),
        deleted: deleted::read(&seal, options.top)?,
        security: walk.security,
        top: options.top,
    })
}

/// Largest first, then by path.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BigFile {
    bytes: u64,
    path: Reverse<Vec<u8>>,
    kind: Kind,
    nid: Nid,
}

/// What a walk has found so far.
struct Walk<'a, R> {
    fs: &'a FileSystem<R>,
    data: bool,
    top: usize,
    totals: Totals,
    /// Inodes with several names that the walk came to.
    seen: Numbers,
    store: Store,
    tree: Growth,
    kinds: Kinds,
    files: Top<BigFile>,
    duplicates: duplicates::Search,
    security: Security,
}

impl<R: ReadAt> Walk<'_, R> {
    fn step(&mut self, entry: &WalkEntry) -> Result<()> {
        let inode = &entry.inode;
        let plus = |number: &mut u64| *number = number.saturating_add(1);
        let is_dir = inode.file_type == FileType::Dir;
        plus(&mut self.totals.names);
        if !is_dir && inode.nlink > 1 && !self.seen.insert(inode.nid.0) {
            plus(&mut self.totals.hard_links);
            return Ok(());
        }
        self.security.look(self.fs, entry, self.top)?;
        let depth = entry.path.iter().filter(|byte| **byte == b'/').count();
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        match inode.file_type {
            FileType::Dir => {
                plus(&mut self.totals.directories);
                if !name.is_empty() {
                    self.tree.ascend(depth.saturating_sub(1));
                    self.tree.enter(name);
                }
            }
            FileType::File => {
                let bytes = inode.size;
                let kind = Kind::of(self.fs, inode, name, self.data)?;
                self.totals.files = self.totals.files.plus(Amount { bytes, files: 1 });
                let stored = self.store.add(self.fs, inode)?;
                self.totals.stored = self.totals.stored.plus(stored);
                self.kinds.add(kind, bytes, stored);
                self.tree.ascend(depth.saturating_sub(1));
                self.tree.file(name, bytes, kind);
                self.duplicates.name(inode.nid, &entry.path);
                self.files.offer(BigFile { bytes, path: Reverse(entry.path.clone()), kind, nid: inode.nid });
            }
            FileType::Symlink => plus(&mut self.totals.symlinks),
            FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket => {
                plus(&mut self.totals.special);
            }
        }
        Ok(())
    }
}
