//! Differences of two images, by their sealed records.
//!
//! Nothing of the data is read to find out that content differs, so two detached seals do as well; only to say where it
//! differs to the byte. The images are taken as they are: audit them first.

use std::collections::HashSet;

use mkimg_format::ReadAt;
use mkimg_format::detached::Sealed;
use mkimg_format::erofs::{DirEntry, FileSystem, FileType, Inode, Nid, escape};
use mkimg_format::header::Header;
use mkimg_format::seal::{NONE, Seal};

use crate::attributes::{Attributes, bytes};
use crate::difference::{Difference, Kind, Security};
use crate::tree::{
    Blocks, CAPABILITY, Digests, Field, Findings, Group, Identity, Links, SealedFile, TreeOptions,
    TreeReport, join, xattr_difference,
};

/// The layers of its source that a path comes from, lowest is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// In the first image; `None` when it is not there, or no layer describes it.
    pub first: Option<u32>,
    /// In the second image.
    pub second: Option<u32>,
}

/// How two images differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffReport {
    /// The differences; of a name that only one image has, [`Kind::Missing`] means the first and [`Kind::Extra`] the
    /// second. [`TreeReport::bytes`] is 0: content is compared by its digests.
    pub report: TreeReport,
    /// Where the path of each finding comes from, in the same order.
    pub origins: Vec<Origin>,
}

/// Compares two images, or detached seals.
///
/// # Errors
/// One of them cannot be read. What breaks the format further in is a finding.
pub fn diff_images<R: ReadAt, S: ReadAt>(
    first: &R,
    second: &S,
    options: &TreeOptions<'_>,
) -> Result<DiffReport, mkimg_format::Error> {
    let (first, second) = (Sealed::open(first)?, Sealed::open(second)?);
    let (first, second) = (Image::open(&first)?, Image::open(&second)?);
    let (first_fs, second_fs) = (FileSystem::open(first.io)?, FileSystem::open(second.io)?);
    let mut diff = Diff {
        first: Side { fs: &first_fs, digests: Digests::new(&first.seal)?, blocks: &first.blocks },
        second: Side { fs: &second_fs, digests: Digests::new(&second.seal)?, blocks: &second.blocks },
        options,
        findings: Findings::new(options.only_security),
        links: Links::default(),
        groups: (Group::default(), Group::default()),
        entered: HashSet::new(),
        waiting: Vec::new(),
    };
    diff.run()?;
    let report = diff.finish();
    let origin = |path: &[u8]| Origin {
        first: layer_of(&first_fs, &first.seal, path),
        second: layer_of(&second_fs, &second.seal, path),
    };
    let origins = report.findings.iter().map(|finding| origin(&finding.path)).collect();
    Ok(DiffReport { report, origins })
}

/// The layer that a path of an image comes from; `None` when it is not there, or no layer describes it.
pub fn layer_of<R: ReadAt, S: ReadAt>(fs: &FileSystem<&R>, seal: &Seal<&S>, path: &[u8]) -> Option<u32> {
    let inode = fs.resolve(path, false).ok()?;
    let record = seal.inode_record(inode.nid.0).ok()??;
    Some(record.layer.get()).filter(|layer| *layer != NONE)
}

/// An open image.
struct Image<'a, R> {
    io: &'a R,
    seal: Seal<&'a R>,
    blocks: Blocks,
}

impl<'a, R: ReadAt> Image<'a, R> {
    fn open(io: &'a R) -> Result<Self, mkimg_format::Error> {
        let header = Header::read(io)?;
        Ok(Self { io, seal: Seal::open(io, &header)?, blocks: Blocks::new(&header) })
    }
}

/// One of the two images.
struct Side<'a, R> {
    fs: &'a FileSystem<&'a R>,
    digests: Digests<'a, R>,
    blocks: &'a Blocks,
}

impl<R: ReadAt> Side<'_, R> {
    /// The names of a directory but `.` and `..`, sorted as they are stored.
    fn names(&self, nid: Nid) -> Result<Vec<DirEntry>, mkimg_format::Error> {
        let inode = self.fs.inode(nid)?;
        self.fs.read_dir(&inode).filter(|entry| !entry.as_ref().is_ok_and(DirEntry::is_dot)).collect()
    }
}

/// A directory that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    Both(Nid, Nid),
    First(Nid),
    Second(Nid),
}

struct Diff<'a, R, S> {
    first: Side<'a, R>,
    second: Side<'a, S>,
    options: &'a TreeOptions<'a>,
    findings: Findings,
    links: Links,
    groups: (Group, Group),
    /// Directories that were entered: a broken image may be a circle.
    entered: HashSet<Task>,
    waiting: Vec<(Vec<u8>, Task)>,
}

impl<R: ReadAt, S: ReadAt> Diff<'_, R, S> {
    fn run(&mut self) -> Result<(), mkimg_format::Error> {
        let (first, second) = (self.first.fs.root()?, self.second.fs.root()?);
        self.findings.count(1, 0);
        self.same_type(b"/", &first, &second);
        self.waiting.push((Vec::new(), Task::Both(first.nid, second.nid)));
        while let Some((path, task)) = self.waiting.pop() {
            if !self.entered.insert(task) {
                self.broken(&path, "the directory has a second name");
                continue;
            }
            let listed = match task {
                Task::Both(first, second) => self.both(&path, first, second),
                Task::First(nid) => self.first.names(nid).map(|names| {
                    for entry in names {
                        self.only(&path, &entry, true);
                    }
                }),
                Task::Second(nid) => self.second.names(nid).map(|names| {
                    for entry in names {
                        self.only(&path, &entry, false);
                    }
                }),
            };
            if let Err(error) = listed {
                self.broken(&path, &error.to_string());
            }
        }
        Ok(())
    }

    fn finish(self) -> TreeReport {
        let unseen = self.links.finish(self.options, &self.findings);
        self.findings.finish(unseen.into_iter().collect())
    }

    fn add(&self, difference: Difference) {
        self.findings.add(difference);
    }

    fn broken(&self, path: &[u8], why: &str) {
        let path = if path.is_empty() { b"/" } else { path };
        self.add(Difference::new(path.to_vec(), Kind::Image).expected(why));
    }

    fn ignores(&self, path: &[u8]) -> bool {
        !self.options.ignore_paths.is_empty() && self.options.ignores(path)
    }

    /// Merges the names of a directory that both have.
    fn both(&mut self, path: &[u8], first: Nid, second: Nid) -> Result<(), mkimg_format::Error> {
        let mut ones = self.first.names(first)?.into_iter().peekable();
        let mut others = self.second.names(second)?.into_iter().peekable();
        loop {
            let order = match (ones.peek(), others.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(one), Some(other)) => one.name.cmp(&other.name),
            };
            let one = ones.next_if(|_| order.is_le());
            let other = others.next_if(|_| order.is_ge());
            match (one, other) {
                (Some(one), Some(other)) => self.pair(path, &one, &other)?,
                (Some(one), None) => self.only(path, &one, true),
                (None, Some(other)) => self.only(path, &other, false),
                (None, None) => return Ok(()),
            }
        }
    }

    /// A name that one of them has.
    fn only(&mut self, path: &[u8], entry: &DirEntry, in_first: bool) {
        let path = join(path, &entry.name);
        if self.ignores(&path) {
            return;
        }
        let inode = if in_first { self.first.fs.inode(entry.nid) } else { self.second.fs.inode(entry.nid) };
        let inode = match inode {
            Ok(inode) => inode,
            Err(error) => return self.broken(&path, &error.to_string()),
        };
        let what = Attributes::from(&inode).describe();
        if in_first {
            self.add(Difference::new(path.clone(), Kind::Missing).expected(what));
        } else {
            let power = self.power(&path, &inode);
            self.add(Difference::new(path.clone(), Kind::Extra).found(what).security(power));
        }
        if inode.file_type == FileType::Dir {
            self.waiting
                .push((path, if in_first { Task::First(entry.nid) } else { Task::Second(entry.nid) }));
        }
    }

    /// The power of something that only the second has.
    fn power(&self, path: &[u8], inode: &Inode) -> Option<Security> {
        let power = Attributes::from(inode).power();
        power.or_else(|| self.is_capable(path, inode).then_some(Security::Capability))
    }

    fn is_capable(&self, path: &[u8], inode: &Inode) -> bool {
        if inode.file_type != FileType::File {
            return false;
        }
        match self.second.fs.xattrs(inode) {
            Ok(xattrs) => xattrs.iter().any(|xattr| xattr.name == CAPABILITY),
            Err(error) => {
                self.broken(path, &error.to_string());
                false
            }
        }
    }

    /// A name that both have.
    fn pair(&mut self, path: &[u8], one: &DirEntry, other: &DirEntry) -> Result<(), mkimg_format::Error> {
        let path = join(path, &one.name);
        if self.ignores(&path) {
            return Ok(());
        }
        let (first, second) = (self.first.fs.inode(one.nid)?, self.second.fs.inode(other.nid)?);
        let is_dir = (first.file_type == FileType::Dir, second.file_type == FileType::Dir);
        if first.file_type == second.file_type {
            self.findings.count(1, 0);
            self.same_type(&path, &first, &second);
            if is_dir.0 {
                self.waiting.push((path, Task::Both(one.nid, other.nid)));
            }
            return Ok(());
        }
        let difference = Difference::new(path.clone(), Kind::Type)
            .expected(first.file_type.word())
            .found(second.file_type.word());
        let power = self.power(&path, &second);
        self.add(difference.security(power));
        match is_dir {
            (true, _) => self.waiting.push((path, Task::First(one.nid))),
            (_, true) => self.waiting.push((path, Task::Second(other.nid))),
            _ => {}
        }
        Ok(())
    }

    /// Two inodes of the same type.
    fn same_type(&mut self, path: &[u8], first: &Inode, second: &Inode) {
        let shown = || path.to_vec();
        let found = Attributes::from(second);
        Attributes::from(first).compare(&found, &shown, self.options, &mut |difference| self.add(difference));
        let capable = self.xattrs(&shown, first, second);
        if self.options.compares(Field::Links) && first.file_type != FileType::Dir {
            if first.nlink > 1 {
                self.links.add(first, Identity::of_image(second.nid), second.nlink, shown());
            } else if second.nlink != 1 {
                let found = format!("{} links", second.nlink);
                self.add(Difference::new(shown(), Kind::Links).expected("1 link").found(found));
            }
        }
        match first.file_type {
            FileType::File => {
                let security = (found.is_set_id() || capable).then_some(Security::Privileged);
                if let Some(difference) = self.content(&shown, first, second) {
                    self.add(difference.security(security));
                }
            }
            FileType::Symlink if self.options.compares(Field::Target) => {
                match (self.first.fs.read_link(first), self.second.fs.read_link(second)) {
                    (Ok(one), Ok(other)) if one == other => {}
                    (Ok(one), Ok(other)) => {
                        let difference = Difference::new(shown(), Kind::Target);
                        self.add(difference.expected(escape(&one)).found(escape(&other)));
                    }
                    (Err(error), _) | (_, Err(error)) => self.broken(path, &error.to_string()),
                }
            }
            _ => {}
        }
    }

    /// Compares extended attributes; returns whether the second has capabilities among them.
    fn xattrs(&self, path: &dyn Fn() -> Vec<u8>, first: &Inode, second: &Inode) -> bool {
        if !self.options.compares(Field::Xattrs) {
            return self.is_capable(&path(), second);
        }
        let (ones, others) = match (self.first.fs.xattrs(first), self.second.fs.xattrs(second)) {
            (Ok(ones), Ok(others)) => (ones, others),
            (Err(error), _) | (_, Err(error)) => {
                self.broken(&path(), &error.to_string());
                return false;
            }
        };
        let value = |list: &[mkimg_format::erofs::Xattr], name: &[u8]| {
            list.iter().find(|xattr| xattr.name == name).map(|xattr| xattr.value.clone())
        };
        let mut names: Vec<&[u8]> = ones.iter().chain(&others).map(|xattr| xattr.name.as_slice()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names.into_iter().filter(|name| !self.options.ignores_xattr(name)) {
            let (one, other) = (value(&ones, name), value(&others, name));
            if let Some(difference) = xattr_difference(path, name, one.as_deref(), other.as_deref()) {
                self.add(difference);
            }
        }
        others.iter().any(|xattr| xattr.name == CAPABILITY)
    }

    /// Compares size and content; returns how they differ.
    fn content(&mut self, path: &dyn Fn() -> Vec<u8>, first: &Inode, second: &Inode) -> Option<Difference> {
        let compares = |field| self.options.compares(field);
        if !compares(Field::Content) && (!compares(Field::Size) || first.size == second.size) {
            return None;
        }
        let digests = (
            self.first.digests.of(first, &mut self.groups.0),
            self.second.digests.of(second, &mut self.groups.1),
        );
        let (one, other) = match digests {
            (Ok(Some(one)), Ok(Some(other))) => (one, other),
            (Err(error), _) | (_, Err(error)) => {
                self.broken(&path(), &error.to_string());
                return None;
            }
            _ => {
                self.broken(&path(), "the seal has no digest of it");
                return None;
            }
        };
        if (one.size, one.blake3) == (other.size, other.blake3) {
            return None;
        }
        let sizes = first.size != second.size;
        let kind = if sizes && compares(Field::Size) { Kind::Size } else { Kind::Content };
        let (expected, found) = if sizes {
            (bytes(first.size), bytes(second.size))
        } else {
            let digest = |blake3: &[u8]| format!("blake3 {}", mkimg_format::hex(blake3));
            (digest(&one.blake3), digest(&other.blake3))
        };
        let one = SealedFile { fs: self.first.fs, blocks: self.first.blocks, inode: first };
        let other = SealedFile { fs: self.second.fs, blocks: self.second.blocks, inode: second };
        let offset = one.first_difference_of(&other);
        Some(Difference::new(path(), kind).expected(expected).found(found).offset(offset))
    }
}
