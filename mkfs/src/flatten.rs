//! Layers to one tree.
//!
//! Layers are applied bottom to top. Within one layer the markers come first, against the tree of the layers below,
//! so that neither their place in the archive nor the layer's own entries matter to them; then the entries in
//! order, each of which replaces what it meets, except that a directory keeps the children of a directory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::entry::{
    Attributes, Entry, FileData, Node as EntryNode, Place, Scan, Span, XattrPair, XattrSet, text_at,
};
use crate::error::{Error, Problem, Result};
use crate::path::{EntryPath, Marker, components, is_marker_name};
use crate::tree::{InodeId, NO_LAYER, Node, ROOT, Tree};
use crate::waste::{Cause, LayerWaste, Waste};

/// Files of one layer, and the text that their places point into.
#[derive(Debug, Default)]
pub(crate) struct LayerFiles {
    pub files: Vec<FileData>,
    /// Only kept for a source directory: paths of its files.
    pub text: Vec<u8>,
}

/// The flattened image, data not yet placed.
#[derive(Debug)]
pub(crate) struct Flat {
    pub tree: Tree,
    /// By layer index.
    pub layers: Vec<LayerFiles>,
    /// Distinct sets of xattrs by [`XattrSet`].
    pub xattrs: Vec<Arc<[XattrPair]>>,
    pub waste: Waste,
}

impl Flat {
    /// Content of the file with an index in a layer.
    pub(crate) fn file(&self, layer: u32, index: u32) -> Option<&FileData> {
        file_in(&self.layers, layer, index)
    }

    /// A path of the file with an index in a layer, for messages: looks at the whole tree.
    pub(crate) fn path_of_file(&self, layer: u32, index: u32) -> Vec<u8> {
        let dirs = (0_u32..)
            .take(self.tree.slots())
            .map(InodeId)
            .filter_map(|id| Some((id, self.tree.inode(id).dir()?)));
        for (id, dir) in dirs {
            for (name, child) in &dir.names {
                let inode = self.tree.inode(*child);
                if inode.layer == layer && matches!(inode.node, Node::File(file) if file == index) {
                    return [&self.tree.path_of(id)[..], b"/", name].concat();
                }
            }
        }
        Vec::new()
    }
}

/// Content of the file with an index in a layer.
fn file_in(layers: &[LayerFiles], layer: u32, index: u32) -> Option<&FileData> {
    layers.get(layer as usize)?.files.get(index as usize)
}

/// Applies layers to a tree.
pub(crate) struct Flattener {
    flat: Flat,
    interned: HashMap<Arc<[XattrPair]>, XattrSet>,
}

impl Flattener {
    /// An empty tree.
    pub(crate) fn new() -> Self {
        let empty: Arc<[XattrPair]> = Arc::from([]);
        Self {
            interned: HashMap::from([(Arc::clone(&empty), XattrSet(0))]),
            flat: Flat {
                tree: Tree::new(),
                layers: Vec::new(),
                xattrs: vec![empty],
                waste: Waste::default(),
            },
        }
    }

    /// Applies the next layer.
    ///
    /// # Errors
    /// The first entry that breaks a rule.
    pub(crate) fn apply(&mut self, mut scan: Scan) -> Result<()> {
        let number = scan.number;
        // In a directory of this machine a name is a name, whatever it looks like.
        let has_markers = number > 0;
        let layer = u32::try_from(self.flat.layers.len()).unwrap_or(NO_LAYER);
        let sets = self.intern(std::mem::take(&mut scan.xattrs));
        let mut shipped = LayerWaste::default();
        for file in &scan.files {
            shipped.shipped.add(file.size);
        }
        self.flat.waste.layers.push(shipped);
        let keeps_text = scan.files.iter().any(|file| matches!(file.place, Place::Host(_)));
        self.flat.layers.push(LayerFiles { files: std::mem::take(&mut scan.files), text: Vec::new() });

        let text = std::mem::take(&mut scan.text);
        let entries = std::mem::take(&mut scan.entries);
        let fail = |span: Span, problem| Error::Entry {
            layer: number,
            path: text_at(&text, span).to_vec(),
            problem,
        };

        if has_markers {
            self.hide(layer, &text, &entries).map_err(|(span, problem)| fail(span, problem))?;
        }
        for entry in &entries {
            let fail = |problem| fail(entry.path, problem);
            let path = EntryPath::parse(text_at(&text, entry.path)).map_err(fail)?;
            if has_markers && Marker::of(&path).map_err(fail)? != Marker::None {
                self.forget(layer, entry.node);
                continue;
            }
            let xattrs = sets.get(entry.attributes.xattrs.0 as usize).copied().unwrap_or_default();
            let entry = Entry { attributes: Attributes { xattrs, ..entry.attributes }, ..*entry };
            self.place(layer, &text, path, &entry).map_err(fail)?;
        }
        if keeps_text && let Some(files) = self.flat.layers.last_mut() {
            files.text = text;
        }
        Ok(())
    }

    /// The tree of all layers.
    pub(crate) fn finish(self) -> Flat {
        self.flat
    }

    /// Sets of this layer as sets of the image.
    fn intern(&mut self, sets: Vec<Arc<[XattrPair]>>) -> Vec<XattrSet> {
        sets.into_iter()
            .map(|set| {
                let next = XattrSet(u32::try_from(self.flat.xattrs.len()).unwrap_or(u32::MAX));
                *self.interned.entry(set).or_insert_with_key(|set| {
                    self.flat.xattrs.push(Arc::clone(set));
                    next
                })
            })
            .collect()
    }

    /// Applies all markers of a layer to the tree of the layers below.
    fn hide(
        &mut self,
        layer: u32,
        text: &[u8],
        entries: &[Entry],
    ) -> std::result::Result<(), (Span, Problem)> {
        // First all are found, then all are applied: one marker must not hide another's way.
        let mut hidden: Vec<(InodeId, Option<&[u8]>)> = Vec::new();
        for entry in entries {
            let fail = |problem| (entry.path, problem);
            let path = EntryPath::parse(text_at(text, entry.path)).map_err(fail)?;
            let name = match Marker::of(&path).map_err(fail)? {
                Marker::None | Marker::Dropped => continue,
                Marker::Whiteout(name) => Some(name),
                Marker::Opaque => None,
            };
            let reached = self.flat.tree.reach(path.parent.into_iter()).map_err(fail)?;
            if reached.missing.is_empty() {
                hidden.push((reached.dir, name));
            }
        }
        for (dir, name) in hidden {
            match name {
                Some(name) => self.remove(dir, name, Cause::Deleted(layer)),
                None => {
                    let names: Vec<Box<[u8]>> = self
                        .flat
                        .tree
                        .inode(dir)
                        .dir()
                        .map_or_else(Vec::new, |dir| dir.names.keys().cloned().collect());
                    for name in names {
                        self.remove(dir, &name, Cause::Deleted(layer));
                    }
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, dir: InodeId, name: &[u8], cause: Cause) {
        let Flat { tree, layers, waste, .. } = &mut self.flat;
        tree.remove(dir, name, &mut |inode, path| {
            let size = match inode.node {
                Node::File(index) => file_in(layers, inode.layer, index).map_or(0, |file| file.size),
                _ => 0,
            };
            waste.gone(inode, size, path, cause);
        });
    }

    /// Applies one entry that is no marker.
    fn place(
        &mut self,
        layer: u32,
        text: &[u8],
        path: EntryPath<'_>,
        entry: &Entry,
    ) -> std::result::Result<(), Problem> {
        let Some(name) = path.name else {
            if !matches!(entry.node, EntryNode::Dir) {
                return Err(Problem::Root);
            }
            let root = self.flat.tree.inode_mut(ROOT);
            root.attributes = entry.attributes;
            root.layer = layer;
            return Ok(());
        };
        let dir = self.make_parents(&path.parent)?;
        let existing = self.flat.tree.lookup(dir, name);
        let node = match entry.node {
            EntryNode::Dir => {
                let kept = existing.filter(|id| self.flat.tree.inode(*id).dir().is_some());
                if let Some(id) = kept {
                    let inode = self.flat.tree.inode_mut(id);
                    inode.attributes = entry.attributes;
                    inode.layer = layer;
                } else {
                    self.remove(dir, name, Cause::Replaced);
                    self.flat.tree.add_dir(dir, name, entry.attributes, layer)?;
                }
                return Ok(());
            }
            EntryNode::Hardlink(target) => {
                let id = self.find_link_target(text_at(text, target))?;
                if existing != Some(id) {
                    // Held, because its only name may be below the one that goes.
                    self.flat.tree.hold(id);
                    self.remove(dir, name, Cause::Replaced);
                    self.flat.tree.link(dir, name, id)?;
                    self.flat.tree.release(id);
                }
                return Ok(());
            }
            EntryNode::File(index) => Node::File(index),
            EntryNode::Symlink(target) => Node::Symlink(text_at(text, target).into()),
            EntryNode::Char(major, minor) => Node::Char(major, minor),
            EntryNode::Block(major, minor) => Node::Block(major, minor),
            EntryNode::Fifo => Node::Fifo,
            EntryNode::Socket => Node::Socket,
        };
        self.remove(dir, name, Cause::Replaced);
        self.flat.tree.add_leaf(dir, name, entry.attributes, layer, node)
    }

    /// A marker that happens to be a file with content does not count as shipped.
    fn forget(&mut self, layer: u32, node: EntryNode) {
        let EntryNode::File(index) = node else { return };
        let size = self.flat.file(layer, index).map_or(0, |file| file.size);
        if let Some(waste) = self.flat.waste.layers.get_mut(layer as usize) {
            waste.shipped.bytes = waste.shipped.bytes.saturating_sub(size);
            waste.shipped.files = waste.shipped.files.saturating_sub(1);
        }
    }

    /// The directory at a path; what is missing is made, what is in the way is replaced.
    fn make_parents(&mut self, parent: &[&[u8]]) -> std::result::Result<InodeId, Problem> {
        let reached = self.flat.tree.reach(parent.iter().copied())?;
        let mut dir = reached.dir;
        for name in reached.missing {
            if is_marker_name(&name) {
                return Err(Problem::ThroughMarker(name));
            }
            self.remove(dir, &name, Cause::Replaced);
            dir = self.flat.tree.add_dir(dir, &name, Attributes::IMPLIED, NO_LAYER)?;
        }
        Ok(dir)
    }

    /// The inode that a hard link means.
    fn find_link_target(&self, target: &[u8]) -> std::result::Result<InodeId, Problem> {
        let missing = || Problem::LinkMissing(target.to_vec());
        let mut parent: Vec<&[u8]> = components(target).collect();
        let name = match parent.pop() {
            Some(b"..") | None => return Err(Problem::LinkToDirectory(target.to_vec())),
            Some(name) => name,
        };
        let reached = self.flat.tree.reach(parent.into_iter())?;
        if !reached.missing.is_empty() {
            return Err(missing());
        }
        let id = self.flat.tree.lookup(reached.dir, name).ok_or_else(missing)?;
        if self.flat.tree.inode(id).dir().is_some() {
            return Err(Problem::LinkToDirectory(target.to_vec()));
        }
        Ok(id)
    }
}
