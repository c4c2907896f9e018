//! The walk through the image.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, Inode, Nid, WalkEntry};
use mkimg_format::seal::Content;
use mkimg_kernel::fsverity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::Digests;
use crate::attributes::{Handle, Restorer};
use crate::content::Copier;
use crate::dirs::{DirId, Dirs};
use crate::error::{Error, Result, host, image};
use crate::options::Options;
use crate::selection::Selection;
use crate::summary::{Summary, count};
use crate::target::{
    Identity, PRIVATE_DIR, Target, is_taken, open_dir, open_path, open_private, proc_path, split, strip_acls,
    strip_acls_by_path,
};

/// Where the first name of an inode with several names is.
struct Link {
    dir: DirId,
    name: Box<[u8]>,
    /// `None` when it could not be created.
    identity: Option<Identity>,
}

/// An extraction in progress.
struct Extraction<'a, R> {
    fs: &'a FileSystem<R>,
    digests: Option<Digests<'a>>,
    into_existing: bool,
    target: Target,
    dirs: Dirs,
    /// Inodes with one name that are done.
    single: HashSet<Nid>,
    /// Inodes with several names that have one.
    links: HashMap<Nid, Link>,
    copier: Copier<'a>,
    restorer: Restorer,
    fs_verity: bool,
    summary: Summary,
}

pub(crate) fn extract<R: ReadAt>(
    fs: &FileSystem<R>,
    digests: Option<Digests<'_>>,
    target: &Path,
    options: &Options<'_>,
) -> Result<Summary> {
    let selection = Selection::new(fs, &options.paths)?;
    let root = fs.root().map_err(image(b"/"))?;
    let target = Target::open(target, options.into_existing)?;
    let mut extraction = Extraction {
        fs,
        digests,
        into_existing: options.into_existing,
        dirs: Dirs::new(&target, root.nid)?,
        target,
        single: HashSet::new(),
        links: HashMap::new(),
        copier: Copier::new(options.progress),
        restorer: Restorer::new(options.owners),
        fs_verity: options.fs_verity,
        summary: Summary::default(),
    };
    let summary = &mut extraction.summary;
    count(if extraction.target.is_merged() { &mut summary.merged } else { &mut summary.dirs });
    let mut walk = fs.walk();
    while let Some(entry) = walk.next() {
        match entry {
            Ok(entry) if entry.path == b"/" => {}
            Ok(entry) if selection.wants(&entry.path) => extraction.create(&entry)?,
            Ok(_) => {}
            // Damage elsewhere does not keep the wanted parts from being extracted.
            Err(source) if selection.wants(walk.position()) => {
                return Err(Error::Image { path: walk.position().to_vec(), source });
            }
            Err(_) => {}
        }
    }
    extraction.finish()
}

impl<R: ReadAt> Extraction<'_, R> {
    /// Creates one name.
    fn create(&mut self, entry: &WalkEntry) -> Result<()> {
        let WalkEntry { path, inode, .. } = entry;
        let (parent, name) = split(path).map_err(host(path, "cannot split path"))?;
        self.dirs.leave_to(&self.target, parent)?;
        if inode.file_type == FileType::Dir {
            return self.create_dir(path, name, inode);
        }
        if inode.nlink == 1 {
            // Otherwise a small image could unpack to one copy for each of millions of names.
            if !self.single.insert(inode.nid) {
                return Err(Error::LinkCount { path: path.clone(), nid: inode.nid.0 });
            }
        } else if self.links.contains_key(&inode.nid) {
            return self.create_link(path, name, inode);
        }
        let identity = match inode.file_type {
            FileType::File => Some(self.create_file(path, name, inode)?),
            FileType::Symlink => Some(self.create_symlink(path, name, inode)?),
            _ => self.create_special(path, name, inode)?,
        };
        if inode.nlink > 1 {
            let link = Link { dir: self.dirs.current(), name: name.into(), identity };
            self.links.insert(inode.nid, link);
        }
        Ok(())
    }

    fn create_dir(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> Result<()> {
        let here = self.dirs.here(path)?;
        let (fd, merged) = match rustix::fs::mkdirat(here, name, PRIVATE_DIR) {
            Ok(()) => {
                let open = || open_dir(here, name);
                (open_private(here, name, open).map_err(taken(path, "cannot open directory"))?, false)
            }
            Err(Errno::EXIST) if self.into_existing => {
                (open_dir(here, name).map_err(exists(path, "cannot open directory"))?, true)
            }
            Err(error) => return Err(exists(path, "cannot create directory")(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(host(path, "cannot look at it"))?;
        if merged {
            count(&mut self.summary.merged);
        } else {
            if !self.target.is_new(&stat, rustix::fs::FileType::Directory) {
                return Err(Error::Replaced { path: path.to_vec() });
            }
            if self.dirs.inherits() {
                strip_acls(&fd).map_err(host(path, "cannot remove inherited access control list"))?;
            }
            // A umask, or a list that was inherited, may have taken our own permissions away.
            if stat.st_mode & 0o777 != PRIVATE_DIR.as_raw_mode() {
                rustix::fs::fchmod(&fd, PRIVATE_DIR).map_err(host(path, "cannot set mode"))?;
            }
            count(&mut self.summary.dirs);
        }
        self.dirs.enter(path, name, inode.nid, fd, Identity::of(&stat), merged);
        Ok(())
    }

    fn create_file(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> Result<Identity> {
        let sealed = match self.digests {
            None => None,
            Some(digests) => match digests(inode.nid).map_err(image(path))? {
                None => return Err(Error::Unsealed { path: path.to_vec() }),
                digest => digest,
            },
        };
        let xattrs = self.fs.xattrs(inode).map_err(image(path))?;
        let here = self.dirs.here(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(here, name, flags, mode).map_err(exists(path, "cannot create file"))?;
        let mut file = File::from(fd);
        let digest = sealed.map(|content| content.blake3);
        if let Err(error) = self.copier.copy(self.fs, inode, path, &file, digest) {
            // The first error is the one to tell; this one could only add that the file is still there.
            let _ = rustix::fs::unlinkat(here, name, AtFlags::empty());
            return Err(error);
        }
        if self.dirs.inherits() {
            strip_acls(&file).map_err(host(path, "cannot remove inherited access control list"))?;
        }
        if self.fs_verity {
            file = protect(file, path, sealed.as_ref())?;
        }
        self.restorer.restore(Handle::open(&file), path, inode, &xattrs, &mut self.summary)?;
        count(&mut self.summary.files);
        self.summary.bytes = self.summary.bytes.saturating_add(inode.size);
        let stat = rustix::fs::fstat(&file).map_err(host(path, "cannot look at it"))?;
        Ok(Identity::of(&stat))
    }

    fn create_symlink(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> Result<Identity> {
        let link = self.fs.read_link(inode).map_err(image(path))?;
        let xattrs = self.fs.xattrs(inode).map_err(image(path))?;
        let here = self.dirs.here(path)?;
        rustix::fs::symlinkat(link.as_slice(), here, name)
            .map_err(exists(path, "cannot create symbolic link"))?;
        let fd = open_path(here, name).map_err(taken(path, "cannot open symbolic link"))?;
        let stat =
            rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).map_err(host(path, "cannot look at it"))?;
        if !self.target.is_new(&stat, rustix::fs::FileType::Symlink) {
            return Err(Error::Replaced { path: path.to_vec() });
        }
        self.restorer.restore(Handle::path(&fd), path, inode, &xattrs, &mut self.summary)?;
        count(&mut self.summary.symlinks);
        Ok(Identity::of(&stat))
    }

    fn create_special(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> Result<Option<Identity>> {
        let kind = match inode.file_type {
            FileType::Char => rustix::fs::FileType::CharacterDevice,
            FileType::Block => rustix::fs::FileType::BlockDevice,
            FileType::Fifo => rustix::fs::FileType::Fifo,
            _ => rustix::fs::FileType::Socket,
        };
        let device = rustix::fs::makedev(inode.rdev.0, inode.rdev.1);
        let xattrs = self.fs.xattrs(inode).map_err(image(path))?;
        let here = self.dirs.here(path)?;
        match rustix::fs::mknodat(here, name, kind, Mode::RUSR | Mode::WUSR, device) {
            Ok(()) => {}
            Err(error @ Errno::PERM) => {
                self.summary.skip(path, special(inode, error));
                return Ok(None);
            }
            Err(error) => return Err(exists(path, "cannot create special file")(error)),
        }
        let fd = open_path(here, name).map_err(taken(path, "cannot open special file"))?;
        let stat =
            rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).map_err(host(path, "cannot look at it"))?;
        if !self.target.is_new(&stat, kind) || stat.st_rdev != device {
            return Err(Error::Replaced { path: path.to_vec() });
        }
        if self.dirs.inherits() {
            strip_acls_by_path(&fd).map_err(host(path, "cannot remove inherited access control list"))?;
        }
        self.restorer.restore(Handle::path(&fd), path, inode, &xattrs, &mut self.summary)?;
        count(&mut self.summary.specials);
        Ok(Some(Identity::of(&stat)))
    }

    /// One more name for an inode that has one.
    fn create_link(&mut self, path: &[u8], name: &[u8], inode: &Inode) -> Result<()> {
        let Some(link) = self.links.get(&inode.nid) else { return Ok(()) };
        let Some(identity) = link.identity else {
            self.summary.skip(path, special(inode, Errno::PERM));
            return Ok(());
        };
        let from = self.dirs.reopen(&self.target, link.dir)?;
        // The first name may not be what it was: it is the inode that gets one more name, not whatever is there now.
        let first =
            open_path(&from, &link.name).map_err(taken(path, "cannot open first name of hard link"))?;
        let stat =
            rustix::fs::statat(&first, "", AtFlags::EMPTY_PATH).map_err(host(path, "cannot look at it"))?;
        if Identity::of(&stat) != identity {
            return Err(Error::Replaced { path: path.to_vec() });
        }
        let here = self.dirs.here(path)?;
        // Follows the link in /proc, and not the inode if that is a symbolic link.
        rustix::fs::linkat(CWD, proc_path(&first), here, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(exists(path, "cannot create hard link"))?;
        count(&mut self.summary.hardlinks);
        Ok(())
    }

    /// Directories get their attributes, children before parents.
    fn finish(mut self) -> Result<Summary> {
        self.dirs.close();
        for (dir, nid) in self.dirs.created() {
            let mut path = self.dirs.path(dir);
            let fd = self.dirs.reopen(&self.target, dir)?;
            if path.is_empty() {
                path.push(b'/');
            }
            let inode = self.fs.inode(nid).map_err(image(&path))?;
            let xattrs = self.fs.xattrs(&inode).map_err(image(&path))?;
            if path == b"/" && !self.may_change_root(&fd)? {
                self.summary.skip(b"/", "attributes of the target: it belongs to somebody else");
                continue;
            }
            self.restorer.restore(Handle::open(&fd), &path, &inode, &xattrs, &mut self.summary)?;
        }
        self.restorer.finish(&mut self.summary);
        Ok(self.summary)
    }

    /// Whether the target is ours: an empty directory that somebody lets us write to is not.
    fn may_change_root(&self, fd: &std::os::fd::OwnedFd) -> Result<bool> {
        let stat = rustix::fs::fstat(fd).map_err(host(b"/", "cannot look at it"))?;
        Ok(rustix::process::geteuid().is_root() || self.target.belongs_to_owner(&stat))
    }
}

/// Turns fs-verity on for a file that is written: from here on the kernel checks every read of it.
///
/// The kernel wants no writer, so the file is opened anew. Its attributes can still be set.
fn protect(file: File, path: &[u8], sealed: Option<&Content>) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let reader = rustix::fs::open(proc_path(&file), flags, Mode::empty())
        .map_err(host(path, "cannot open file for fs-verity"))?;
    drop(file);
    fsverity::enable(&reader).map_err(host(path, "cannot enable fs-verity"))?;
    let found = fsverity::measure(&reader).map_err(host(path, "cannot read its fs-verity digest"))?;
    match sealed {
        Some(content) if content.fsverity != found => {
            Err(Error::FsVerity { path: path.to_vec(), found, sealed: content.fsverity })
        }
        _ => Ok(File::from(reader)),
    }
}

/// Why a special file is left out.
fn special(inode: &Inode, error: Errno) -> String {
    match (inode.file_type, inode.rdev) {
        (FileType::Char | FileType::Block, (major, minor)) => {
            format!("{} device {major}:{minor}: {error}", inode.file_type.word())
        }
        (other, _) => format!("{}: {error}", other.word()),
    }
}

/// The error of a call that creates something.
fn exists(path: &[u8], doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |error| match error {
        error if is_taken(error) => Error::Exists { path: path.to_vec() },
        error => host(path, doing)(error),
    }
}

/// The error of a call that opens what has just been created.
fn taken(path: &[u8], doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |error| match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Error::Replaced { path: path.to_vec() },
        error => host(path, doing)(error),
    }
}
