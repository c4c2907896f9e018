//! What an image holds, path by path, in a form that two readers can be compared by.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use mkimg_format::erofs::{FileSystem, FileType, escape};
use mkimg_format::header::Header;
use mkimg_format::seal::{NONE, Seal};

/// What an inode is.
#[derive(Clone, PartialEq, Eq)]
pub enum What {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// All there is to know of one path.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub what: What,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub nlink: u64,
    /// The first path of the same inode.
    pub first: Vec<u8>,
    /// Index of the layer it came from, where that is known.
    pub layer: Option<u32>,
}

/// Everything, by absolute path.
pub type Listing = BTreeMap<Vec<u8>, Seen>;

impl fmt::Debug for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |bytes: &[u8]| escape(&bytes[..bytes.len().min(80)]);
        match &self.what {
            What::File(content) => {
                let digest = crate::layers::sha256(content);
                write!(out, "file {} {} \"{}\"", content.len(), &digest[..8], show(content))?;
            }
            What::Dir => write!(out, "dir")?,
            What::Symlink(target) => write!(out, "-> {} \"{}\"", target.len(), show(target))?,
            What::Char(major, minor) => write!(out, "char {major}:{minor}")?,
            What::Block(major, minor) => write!(out, "block {major}:{minor}")?,
            What::Fifo => write!(out, "fifo")?,
        }
        let (sec, nsec) = self.mtime;
        write!(out, " {:o} {}:{} {sec}.{nsec:09} nlink {}", self.mode, self.uid, self.gid, self.nlink)?;
        write!(out, " first {} layer {:?}", show(&self.first), self.layer)?;
        let mut xattrs = self.xattrs.iter();
        xattrs.try_for_each(|(name, value)| write!(out, " {}={}:{}", show(name), value.len(), show(value)))
    }
}

/// Reads an image with the format's own reader.
pub fn read_image(path: &Path) -> Listing {
    let bytes = std::fs::read(path).unwrap();
    let header = Header::read(&bytes[..]).unwrap();
    let seal = Seal::open(&bytes[..], &header).unwrap();
    let fs = FileSystem::open(&bytes[..]).unwrap();
    let mut listing = Listing::new();
    let mut first = BTreeMap::new();
    for entry in fs.walk() {
        let entry = entry.unwrap();
        let inode = entry.inode;
        let what = match inode.file_type {
            FileType::File => {
                let mut content = vec![0; usize::try_from(inode.size).unwrap()];
                assert_eq!(fs.read_file(&inode, 0, &mut content).unwrap(), content.len());
                What::File(content)
            }
            FileType::Dir => What::Dir,
            FileType::Symlink => What::Symlink(fs.read_link(&inode).unwrap()),
            FileType::Char => What::Char(inode.rdev.0, inode.rdev.1),
            FileType::Block => What::Block(inode.rdev.0, inode.rdev.1),
            FileType::Fifo => What::Fifo,
            FileType::Socket => panic!("no layer holds a socket"),
        };
        assert_eq!(entry.dirent_type, inode.file_type.dirent_type());
        let xattrs = fs.xattrs(&inode).unwrap();
        let record = seal.inode_record(inode.nid.0).unwrap().unwrap();
        let seen = Seen {
            what,
            mode: inode.mode.into(),
            uid: inode.uid,
            gid: inode.gid,
            mtime: (inode.mtime.sec, inode.mtime.nsec),
            xattrs: xattrs.into_iter().map(|xattr| (xattr.name, xattr.value)).collect(),
            nlink: inode.nlink.into(),
            first: first.entry(inode.nid).or_insert_with(|| entry.path.clone()).clone(),
            layer: Some(record.layer.get()).filter(|layer| *layer != NONE),
        };
        assert!(listing.insert(entry.path, seen).is_none());
    }
    // The walk is depth first, the order of paths is another.
    name_groups(&mut listing);
    listing
}

/// Makes `first` the first path in the order of the listing.
pub fn name_groups(listing: &mut Listing) {
    let mut names: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, seen) in listing.iter_mut() {
        seen.first = names.entry(seen.first.clone()).or_insert_with(|| path.clone()).clone();
    }
}

/// The differences, one line each; empty for none.
pub fn differences(expected: &Listing, found: &Listing) -> String {
    let mut text = String::new();
    for path in expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path))) {
        match (expected.get(path), found.get(path)) {
            (Some(expected), Some(found)) if expected == found => {}
            (expected, found) => {
                let show =
                    |seen: Option<&Seen>| seen.map_or("nothing".to_owned(), |seen| format!("{seen:?}"));
                let shown = escape(&path[..path.len().min(120)]);
                text += &format!("{shown}:\n  expected {}\n  found    {}\n", show(expected), show(found));
            }
        }
    }
    text
}

pub fn assert_same(expected: &Listing, found: &Listing) {
    let differences = differences(expected, found);
    assert!(differences.is_empty(), "{differences}");
}

/// A tree in one line: `d/`, `f:content`, `s->target`, `c%major:minor` (char), `b#major:minor` (block), `p|` (fifo);
/// names of one inode are joined by `=`. Checks the link counts.
pub fn describe(listing: &Listing) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut words = Vec::new();
    for (path, seen) in listing.iter().filter(|(path, seen)| *path != b"/" && seen.first == **path) {
        let names =
            listing.iter().filter(|(_, other)| other.first == *path).map(|(name, _)| text(&name[1..]));
        let names: Vec<_> = names.collect();
        let links = if seen.what == What::Dir { 1 } else { seen.nlink };
        assert_eq!(links, names.len() as u64, "link count of {names:?}");
        let names = names.join("=");
        words.push(match &seen.what {
            What::File(content) => format!("{names}:{}", text(content)),
            What::Dir => format!("{names}/"),
            What::Symlink(target) => format!("{names}->{}", text(target)),
            What::Char(major, minor) => format!("{names}%{major}:{minor}"),
            What::Block(major, minor) => format!("{names}#{major}:{minor}"),
            What::Fifo => format!("{names}|"),
        });
    }
    words.join(" ")
}
