//! The directories of an overlay around an image: which of them made a difference, and how.
//!
//! | in an upper directory | means |
//! |---|---|
//! | device 0:0, or an empty file with `overlay.whiteout` | the name is deleted |
//! | directory with `overlay.opaque` = `y` | what the image has in it is hidden |
//! | directory or file with `overlay.redirect` | it continues what is below at another path |
//! | file with `overlay.metacopy` | its content is that of the file below |
//!
//! The attributes are `trusted.overlay.*`, or `user.overlay.*` when the overlay was mounted so
//! (`Documentation/filesystems/overlayfs.rst`). The merged tree has been compared already; here each difference finds
//! its maker, and what an upper directory does without showing in the merged tree is added. What lies below the image
//! can only add names.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, Nid, escape};
use mkimg_kernel::overlay_layers::OverlayLayers;

use super::place::Place;
use super::report::LiveReport;
use crate::difference::{Difference, Kind};
use crate::tree::{
    DIFFERENCES_MAX, Handle, Names, Reader, Stat, Tree, TreeOptions, TreeReport, is_replaced, join,
};

/// Attempts at looking at two directories while neither changes.
const ATTEMPTS: usize = 16;

/// The directories around an image. One that cannot be looked at is `None`.
pub(super) struct Upper {
    /// What processes see.
    merged: Tree,
    /// Number of its mount, if others inside it are entered as well.
    crossed: Option<u64>,
    /// Those above it, topmost first.
    above: Vec<Option<Tree>>,
    /// Those below it.
    beneath: Vec<Option<Tree>>,
    opaque: Vec<u8>,
    redirect: Vec<u8>,
    metacopy: Vec<u8>,
    /// Whether the overlay itself makes files of metadata alone.
    makes_metacopy: bool,
    /// Whether hard links stay links when they are written to.
    has_index: bool,
}

impl Upper {
    /// Opens the directories; what cannot be opened is told in the report.
    ///
    /// # Errors
    /// The merged tree cannot be opened.
    pub(super) fn open(
        overlay: &OverlayLayers,
        place: &Place,
        cross_mounts: bool,
        report: &mut LiveReport,
    ) -> Result<Self, crate::tree::Error> {
        let merged = Tree::open(&place.view(), cross_mounts)?;
        let mut open = |path: &PathBuf| match tree_at(path) {
            Ok(tree) => Some(tree),
            Err(why) => {
                report.unseen.push(format!("changes of the overlay: {why}"));
                report.layers_seen = false;
                None
            }
        };
        let mut above: Vec<Option<Tree>> = place.above.iter().map(&mut open).collect();
        let beneath = place.beneath.iter().map(&mut open).collect();
        if let Some(top @ Some(_)) = above.first_mut()
            && top.as_ref().is_some_and(|top| !is_top(top, &merged))
        {
            *top = None;
            let path = place.above.first().map(|path| escape(path.as_os_str().as_encoded_bytes()));
            let path = path.unwrap_or_default();
            report
                .unseen
                .push(format!("changes of the overlay: {path} is not the directory that is mounted"));
            report.layers_seen = false;
        }
        let class = if overlay.user_xattrs { "user" } else { "trusted" };
        let name = |word: &str| format!("{class}.overlay.{word}").into_bytes();
        let crossed = merged.open_dir_path(b"").and_then(Stat::of).ok().filter(|_| cross_mounts);
        Ok(Self {
            merged,
            crossed: crossed.map(|root| root.mount()),
            above,
            beneath,
            opaque: name("opaque"),
            redirect: name("redirect"),
            metacopy: name("metacopy"),
            makes_metacopy: overlay.metacopy,
            has_index: overlay.index,
        })
    }

    /// Has the merged tree read once wherever an upper directory takes part in it.
    ///
    /// An overlay writes into upper directories that somebody else has filled when they are first seen: where they come
    /// from, and what is not so any more. In the audit that would look like somebody at work.
    pub(super) fn settle(&self) {
        let mut names = Names::default();
        for layer in self.above.iter().flatten() {
            let mut waiting = Waiting::root();
            while let Some(path) = waiting.pop() {
                let relative = path.strip_prefix(b"/").unwrap_or(&path);
                // Whatever fails here will fail again where it is told.
                if let Ok(dir) = self.merged.open_dir(relative) {
                    let _ = names.read(&dir);
                }
                let Ok(dir) = layer.open_dir(relative) else { continue };
                if names.read(&dir).is_err() {
                    continue;
                }
                let is_dir = |name: &&[u8]| {
                    Stat::at(&dir, name).is_ok_and(|stat| stat.file_type() == Some(FileType::Dir))
                };
                for name in (0..).map_while(|index| names.get(index)).filter(is_dir) {
                    waiting.push(&path, name);
                }
            }
        }
    }

    /// Finds the makers of all differences, and adds what does not show in the merged tree.
    pub(super) fn explain(
        &self,
        image: &impl ReadAt,
        options: &TreeOptions<'_>,
        tree: &mut TreeReport,
    ) -> Result<(), mkimg_format::Error> {
        let fs = FileSystem::open(image)?;
        let mut explainer = Explainer { upper: self, fs: &fs, reader: Reader::new() };
        for difference in &mut tree.findings {
            difference.layer = explainer.maker_of(difference);
            // Of what was there and has gone since, nothing is left to tell who made it.
            if difference.layer.is_none()
                && difference.kind == Kind::Extra
                && !has(&self.merged, &difference.path)
            {
                difference.kind = Kind::Changing;
            }
        }
        explainer.links(tree)?;
        if !options.only_security {
            for (index, layer) in self.above.iter().enumerate() {
                if let Some(layer) = layer {
                    explainer.walk(index, layer, options, tree);
                }
            }
        }
        tree.findings.sort();
        Ok(())
    }
}

/// Opens a directory by the path that the kernel shows.
fn tree_at(path: &Path) -> Result<Tree, String> {
    // Before Linux 6.13 it may be that of a descriptor of whoever mounted it: ours of that number is something else.
    if !path.is_absolute() || path.starts_with("/proc") {
        let path = escape(path.as_os_str().as_encoded_bytes());
        return Err(format!("the path {path} means something to whoever mounted it alone"));
    }
    Tree::open(path, true).map_err(|error| error.to_string())
}

/// Directories that wait. The path of the one that they are in is kept once for all.
struct Waiting(Vec<Child>);

/// A directory by the path of the one that it is in, and its name; both are empty for the root.
struct Child {
    parent: Arc<[u8]>,
    name: Box<[u8]>,
}

impl Waiting {
    fn root() -> Self {
        Self(vec![Child { parent: Arc::default(), name: Box::default() }])
    }

    /// The path of the next, with a slash in front; empty for the root.
    fn pop(&mut self) -> Option<Arc<[u8]>> {
        let Child { parent, name } = self.0.pop()?;
        Some(if name.is_empty() { parent } else { join(&parent, &name).into() })
    }

    fn push(&mut self, parent: &Arc<[u8]>, name: &[u8]) {
        self.0.push(Child { parent: parent.clone(), name: name.into() });
    }
}

/// Whether a directory is the topmost of an overlay: the root of the overlay shows its attributes. The time of change is
/// one that nobody can set.
fn is_top(layer: &Tree, merged: &Tree) -> bool {
    let root = |tree: &Tree| tree.open_dir_path(b"").and_then(Stat::of).ok();
    for _ in 0..ATTEMPTS {
        let (Some(before), Some(shown), Some(after)) = (root(layer), root(merged), root(layer)) else {
            return false;
        };
        if before.is_unchanged(&after) {
            return shown.mirrors(&before);
        }
    }
    // Somebody is at work in both.
    true
}

struct Explainer<'a, R> {
    upper: &'a Upper,
    fs: &'a FileSystem<&'a R>,
    reader: Reader,
}

impl<R: ReadAt> Explainer<'_, R> {
    /// The directory that made a difference.
    fn maker_of(&mut self, difference: &Difference) -> Option<usize> {
        // These are not about what is in any directory.
        if matches!(difference.kind, Kind::Mount | Kind::Unreadable | Kind::Image)
            || self.upper.crossed.is_some_and(|mount| is_behind(&self.upper.merged, mount, &difference.path))
        {
            return None;
        }
        let of_data = matches!(difference.kind, Kind::Content | Kind::Size);
        self.maker(&difference.path, of_data).or_else(|| {
            let has = |layer: &Option<Tree>| layer.as_ref().is_some_and(|layer| has(layer, &difference.path));
            // Whatever the image has too hides what is below it.
            let index = self.upper.beneath.iter().position(has).filter(|_| difference.kind == Kind::Extra)?;
            Some(index.saturating_add(self.upper.above.len()))
        })
    }

    /// The topmost directory above the image that decides what is seen at a path, or what data a file there has.
    fn maker(&mut self, path: &[u8], of_data: bool) -> Option<usize> {
        let above = &self.upper.above;
        above.iter().position(|layer| layer.as_ref().is_some_and(|layer| self.decides(layer, path, of_data)))
    }

    /// Whether an upper directory has a path, or hides what is below it.
    fn decides(&mut self, layer: &Tree, path: &[u8], of_data: bool) -> bool {
        let Ok(mut dir) = layer.open_dir_path(b"") else { return false };
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let Ok(fd) = layer.open_path(&dir, name) else { return false };
            let Ok(stat) = Stat::of(&fd) else { return false };
            let redirects = self.value(&fd, &self.upper.redirect).is_some();
            if names.peek().is_none() {
                // A file of metadata alone shows the data below it, unless it leads elsewhere.
                let shows_below = of_data && self.value(&fd, &self.upper.metacopy).is_some() && !redirects;
                return !shows_below;
            }
            // A deleted name is no directory either.
            if stat.file_type() != Some(FileType::Dir) || redirects || self.is_opaque(&fd) {
                return true;
            }
            dir = fd;
        }
        // The root of an overlay is that of its topmost directory.
        true
    }

    /// Finds makers through the other names of an inode.
    ///
    /// A name that is written to gets an inode of its own, which shows at the names that it leaves behind as well. Or,
    /// with an index, they all get the new inode, though only this one name is in the upper directory.
    fn links(&mut self, tree: &mut TreeReport) -> Result<(), mkimg_format::Error> {
        let mut open: Vec<(&mut Difference, Nid)> = Vec::new();
        for difference in &mut tree.findings {
            let shared = difference.kind == Kind::Links
                || self.upper.has_index
                    && !matches!(difference.kind, Kind::Missing | Kind::Extra | Kind::Type);
            if difference.layer.is_some() || difference.kind.hides() || !shared {
                continue;
            }
            let inode = self.fs.resolve(&difference.path, false)?;
            if inode.nlink > 1 && inode.file_type != FileType::Dir {
                open.push((difference, inode.nid));
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let mut makers: HashMap<Nid, Option<usize>> = open.iter().map(|(_, nid)| (*nid, None)).collect();
        for entry in self.fs.walk() {
            let entry = entry?;
            if let Some(maker @ None) = makers.get_mut(&entry.inode.nid) {
                *maker = self.maker(&entry.path, false);
            }
        }
        for (difference, nid) in open {
            difference.layer = makers.get(&nid).copied().flatten();
        }
        Ok(())
    }

    /// Looks through an upper directory for what it does without showing.
    fn walk(&mut self, index: usize, layer: &Tree, options: &TreeOptions<'_>, tree: &mut TreeReport) {
        let mut add = |path: &[u8], kind, text: String| {
            if tree.findings.len() >= DIFFERENCES_MAX {
                tree.truncated = tree.truncated.saturating_add(1);
                return;
            }
            let mut difference = Difference::new(path.to_vec(), kind).found(text);
            difference.layer = Some(index);
            tree.findings.push(difference);
        };
        let mut names = Names::default();
        let mut waiting = Waiting::root();
        while let Some(path) = waiting.pop() {
            let opened = layer.open_dir(path.strip_prefix(b"/").unwrap_or(&path));
            let dir = match opened.and_then(|dir| names.read(&dir).map(|()| dir)) {
                Ok(dir) => dir,
                // What has gone meanwhile makes no difference any more.
                Err(error) if is_replaced(error) => continue,
                Err(error) => {
                    add(&path, Kind::Unreadable, format!("in the directory of the overlay: {error}"));
                    tree.complete = false;
                    continue;
                }
            };
            for name in (0..).map_while(|index| names.get(index)) {
                let (parent, path) = (&path, join(&path, name));
                if options.ignores(&path) {
                    continue;
                }
                let opened = layer.open_path(&dir, name).and_then(|fd| Stat::of(&fd).map(|stat| (fd, stat)));
                let Ok((fd, stat)) = opened else { continue };
                let is_dir = stat.file_type() == Some(FileType::Dir);
                for (kind, text) in self.marks(&path, &fd, is_dir) {
                    add(&path, kind, text);
                }
                if is_dir {
                    waiting.push(parent, name);
                }
            }
        }
    }

    /// What the marks of one directory or file mean.
    fn marks(&mut self, path: &[u8], fd: &OwnedFd, is_dir: bool) -> Vec<(Kind, String)> {
        let mut found = Vec::new();
        if let Some(target) = self.value(fd, &self.upper.redirect) {
            found.push((Kind::Redirect, format!("continues {}", escape(&target))));
        }
        let hides = is_dir && self.is_opaque(fd);
        if hides && self.fs.resolve(path, false).is_ok_and(|inode| inode.file_type == FileType::Dir) {
            found.push((Kind::Opaque, "a new directory: all that the image has in it is hidden".to_owned()));
        }
        if !is_dir && !self.upper.makes_metacopy && self.value(fd, &self.upper.metacopy).is_some() {
            found.push((
                Kind::Metacopy,
                "marked as metadata alone, which this overlay does not make".to_owned(),
            ));
        }
        found
    }

    fn is_opaque(&mut self, fd: &OwnedFd) -> bool {
        self.value(fd, &self.upper.opaque).is_some_and(|value| value == b"y")
    }

    /// A private attribute, if it is there.
    fn value(&mut self, fd: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
        let value = self.reader.value(Handle::Path(fd.as_fd()), name).ok()?;
        value.map(<[u8]>::to_vec)
    }
}

/// Whether what is nearest to a path of a tree is seen through another mount than `mount`.
fn is_behind(tree: &Tree, mount: u64, mut path: &[u8]) -> bool {
    let Ok(root) = tree.open_dir_path(b"") else { return false };
    while let Some(relative) = path.strip_prefix(b"/").filter(|relative| !relative.is_empty()) {
        if let Ok(stat) = tree.open_path(&root, relative).and_then(Stat::of) {
            return stat.mount() != mount;
        }
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        path = path.get(..slash).unwrap_or_default();
    }
    false
}

/// Whether a directory has a path, and no symbolic link on the way.
fn has(layer: &Tree, path: &[u8]) -> bool {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    layer.open_dir_path(b"").is_ok_and(|root| layer.open_path(&root, path).is_ok())
}
