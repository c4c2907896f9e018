//! The directories of an overlay that lie above an image: which of them made a difference, and how.
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
//! its maker, and what an upper directory does without showing in the merged tree is added.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, Nid, escape};
use mkimg_kernel::overlay_layers::OverlayLayers;

use super::report::LiveReport;
use crate::difference::{Difference, Kind};
use crate::tree::{DIFFERENCES_MAX, Handle, Names, Reader, Stat, Tree, TreeOptions, TreeReport, join};

/// The directories above an image, topmost first.
pub(super) struct Upper {
    layers: Vec<Tree>,
    opaque: Vec<u8>,
    redirect: Vec<u8>,
    metacopy: Vec<u8>,
    /// Whether the overlay itself makes files of metadata alone.
    makes_metacopy: bool,
}

impl Upper {
    /// Opens the directories; what cannot be opened is told in the report.
    pub(super) fn open(overlay: &OverlayLayers, above: &[PathBuf], report: &mut LiveReport) -> Self {
        let mut layers = Vec::new();
        for path in above {
            match Tree::open(path, true) {
                Ok(tree) => layers.push(tree),
                Err(error) => report.unseen.push(format!("changes of the overlay: {error}")),
            }
        }
        let class = if overlay.user_xattrs { "user" } else { "trusted" };
        let name = |word: &str| format!("{class}.overlay.{word}").into_bytes();
        Self {
            layers,
            opaque: name("opaque"),
            redirect: name("redirect"),
            metacopy: name("metacopy"),
            makes_metacopy: overlay.metacopy,
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
            difference.layer = explainer.maker(&difference.path);
        }
        explainer.links(tree)?;
        if !options.only_security {
            for index in 0..self.layers.len() {
                explainer.walk(index, options, tree);
            }
        }
        tree.findings.sort();
        Ok(())
    }
}

struct Explainer<'a, R> {
    upper: &'a Upper,
    fs: &'a FileSystem<&'a R>,
    reader: Reader,
}

impl<R: ReadAt> Explainer<'_, R> {
    /// The topmost directory that decides what is seen at a path.
    fn maker(&mut self, path: &[u8]) -> Option<usize> {
        self.upper.layers.iter().position(|layer| self.decides(layer, path))
    }

    /// Whether an upper directory has a path, or hides what is below it.
    fn decides(&mut self, layer: &Tree, path: &[u8]) -> bool {
        let Ok(mut dir) = layer.open_dir_path(b"") else { return false };
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let Ok(fd) = layer.open_path(&dir, name) else { return false };
            let Ok(stat) = Stat::of(&fd) else { return false };
            // A deleted name is no directory either.
            let hides = stat.file_type() != Some(FileType::Dir)
                || self.is_opaque(&fd)
                || self.value(&fd, &self.upper.redirect).is_some();
            if hides || names.peek().is_none() {
                return true;
            }
            dir = fd;
        }
        // The root of an overlay is that of its topmost directory.
        true
    }

    /// A name that is written to gets an inode of its own, which shows at the names that it leaves behind as well.
    fn links(&mut self, tree: &mut TreeReport) -> Result<(), mkimg_format::Error> {
        let mut open: Vec<(&mut Difference, Nid)> = Vec::new();
        for difference in &mut tree.findings {
            if difference.kind == Kind::Links && difference.layer.is_none() {
                let inode = self.fs.resolve(&difference.path, false)?;
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
                *maker = self.maker(&entry.path);
            }
        }
        for (difference, nid) in open {
            difference.layer = makers.get(&nid).copied().flatten();
        }
        Ok(())
    }

    /// Looks through an upper directory for what it does without showing.
    fn walk(&mut self, index: usize, options: &TreeOptions<'_>, tree: &mut TreeReport) {
        let Some(layer) = self.upper.layers.get(index) else { return };
        let mut names = Names::default();
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let opened = layer.open_dir(path.strip_prefix(b"/").unwrap_or(&path));
            let dir = match opened.and_then(|dir| names.read(&dir).map(|()| dir)) {
                Ok(dir) => dir,
                Err(error) => {
                    tree.unseen.push(format!("changes of the overlay in {}: {error}", escape(&path)));
                    tree.complete = false;
                    continue;
                }
            };
            for name in (0..).map_while(|index| names.get(index)) {
                let path = join(&path, name);
                // What has gone meanwhile makes no difference any more.
                let Some((fd, stat)) = layer.open_path(&dir, name).ok().and_then(|fd| {
                    let stat = Stat::of(&fd).ok()?;
                    (!options.ignores(&path)).then_some((fd, stat))
                }) else {
                    continue;
                };
                let is_dir = stat.file_type() == Some(FileType::Dir);
                for (kind, text) in self.marks(&path, &fd, is_dir) {
                    if tree.findings.len() >= DIFFERENCES_MAX {
                        tree.truncated = tree.truncated.saturating_add(1);
                        continue;
                    }
                    let mut difference = Difference::new(path.clone(), kind).found(text);
                    difference.layer = Some(index);
                    tree.findings.push(difference);
                }
                if is_dir {
                    waiting.push(path);
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
