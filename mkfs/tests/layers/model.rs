//! The rules of flattening once more, as plainly as they can be said: paths are strings in one flat map, everything
//! is looked up from the root again and again, and what became of an inode is found by searching the whole map.
//!
//! Where the rules leave open which of two things comes first, the model says so ([`Outcome::unclear`]) instead of
//! choosing: markers whose way a link of their own layer changes, and hard links whose target changes when their own
//! parents are made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::listing::{Listing, Seen, What};
use super::{Item, Kind, Layer};

/// Number of an entry: layer and place in it.
pub type At = (usize, usize);

/// What a layer ships and what becomes of it: bytes and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Books {
    pub shipped: (u64, u64),
    pub visible: (u64, u64),
    pub shadowed: (u64, u64),
    pub deleted: (u64, u64),
}

/// A file that ships and is deleted: the names that it may be reported under, its size, its layer, the deleting layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    pub names: BTreeSet<Vec<u8>>,
    pub size: u64,
    pub layer: usize,
    pub by: usize,
}

/// What comes of applying layers, bad entries left out.
#[derive(Debug, Default)]
pub struct Outcome {
    pub tree: Listing,
    pub books: Vec<Books>,
    pub deleted: Vec<Deleted>,
    /// Entries that break a rule, in the order in which that shows.
    pub errors: Vec<(At, &'static str)>,
    /// Entries for which the rules do not decide.
    pub unclear: Vec<At>,
    /// Number of xattrs that are left out.
    pub warnings: usize,
}

#[derive(Clone)]
struct Inode {
    item: Item,
    layer: Option<usize>,
}

#[derive(Clone, Default)]
struct Model {
    inodes: Vec<Inode>,
    /// Absolute path to inode; the root is "".
    names: BTreeMap<Vec<u8>, usize>,
    /// Inodes that have been accounted for as gone.
    gone: BTreeSet<usize>,
}

/// More than 255 links.
#[derive(Debug, PartialEq, Eq)]
struct Loop;

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn join(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| [b"/", &name[..]].concat()).collect()
}

/// What a name is for.
enum Marker {
    None,
    Hide(Vec<u8>),
    Opaque,
    Dropped,
}

/// A place, and what is hidden there.
type Marked = (Vec<Vec<u8>>, Marker);

fn marker(path: &[Vec<u8>]) -> Result<Marker, &'static str> {
    let Some((name, parent)) = path.split_last() else { return Ok(Marker::None) };
    if parent.iter().any(|name| name.starts_with(b".wh.")) {
        return Ok(Marker::Dropped);
    }
    if name == b".wh..wh..opq" {
        return Ok(Marker::Opaque);
    }
    if name.starts_with(b".wh..wh.") {
        return Ok(Marker::Dropped);
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Marker::None),
        Some(b"" | b"." | b"..") => Err("whiteout"),
        Some(hidden) => Ok(Marker::Hide(hidden.to_vec())),
    }
}

fn size_of(item: &Item) -> Option<u64> {
    match &item.kind {
        Kind::File(content) => Some(content.len() as u64),
        Kind::Sparse(size, _) => Some(*size),
        _ => None,
    }
}

impl Model {
    fn kind(&self, path: &[u8]) -> Option<&Kind> {
        self.names.get(path).map(|id| &self.inodes[*id].item.kind)
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        self.kind(path) == Some(&Kind::Dir)
    }

    /// The place that a path of parents means.
    fn resolve(&self, path: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Loop> {
        let mut ahead: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            if let Some(Kind::Symlink(target)) = self.kind(&join(&at)) {
                links += 1;
                if links > 255 {
                    return Err(Loop);
                }
                if target.starts_with(b"/") {
                    at.clear();
                } else {
                    at.pop();
                }
                for name in components(target).into_iter().rev() {
                    ahead.push_front(name);
                }
            }
        }
        Ok(at)
    }

    fn insert(&mut self, path: Vec<u8>, item: Item, layer: Option<usize>) {
        self.names.insert(path, self.inodes.len());
        self.inodes.push(Inode { item, layer });
    }

    fn remove(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        self.names.retain(|name, _| name != path && !name.starts_with(&below));
    }

    /// Inodes that have lost their last name since the last call, with the names that they had in `before`.
    fn lost(&mut self, before: &BTreeMap<Vec<u8>, usize>) -> Vec<(usize, BTreeSet<Vec<u8>>)> {
        let mut lost = Vec::new();
        for id in 0..self.inodes.len() {
            if self.names.values().all(|named| *named != id) && self.gone.insert(id) {
                let names = before.iter().filter(|(_, named)| **named == id);
                lost.push((id, names.map(|(name, _)| name.clone()).collect()));
            }
        }
        lost
    }

    /// The directory for an entry, made if it is not there.
    fn make_parents(&mut self, parent: &[Vec<u8>]) -> Result<Vec<u8>, &'static str> {
        let place = self.resolve(parent).map_err(|Loop| "loop")?;
        for count in 1..=place.len() {
            let path = join(&place[..count]);
            if !self.is_dir(&path) {
                self.remove(&path);
                self.insert(path, super::dir("").time(0, 0), None);
            }
        }
        Ok(join(&place))
    }

    /// The inode that a hard link means.
    fn link_target(&self, target: &[u8]) -> Result<usize, &'static str> {
        let names = components(target);
        let Some((name, parent)) = names.split_last().filter(|(name, _)| *name != b"..") else {
            return Err("link to directory");
        };
        let mut place = self.resolve(parent).map_err(|Loop| "loop")?;
        place.push(name.clone());
        let path = join(&place);
        match self.names.get(&path) {
            None => Err("link to nothing"),
            Some(_) if self.is_dir(&path) => Err("link to directory"),
            Some(id) => Ok(*id),
        }
    }

    /// What an entry hides, if it is a marker.
    fn marked(&self, item: &Item) -> Result<Option<Marked>, &'static str> {
        let path = components(&item.name);
        if path.contains(&b"..".to_vec()) {
            return Err("dot dot");
        }
        let marker = marker(&path)?;
        if matches!(marker, Marker::None | Marker::Dropped) {
            return Ok(None);
        }
        let place = self.resolve(&path[..path.len() - 1]).map_err(|Loop| "loop")?;
        Ok(Some((place, marker)))
    }

    fn place(&mut self, item: &Item, layer: usize, unclear: &mut bool) -> Result<(), &'static str> {
        let path = components(&item.name);
        if !matches!(marker(&path)?, Marker::None) {
            return Ok(());
        }
        let mut item = item.clone();
        item.xattrs.retain(|(name, _)| {
            !name.starts_with(b"user.overlay.") && !name.starts_with(b"trusted.overlay.")
        });
        let Some((name, parent)) = path.split_last() else {
            if item.kind != Kind::Dir {
                return Err("root");
            }
            let root = self.names[&b""[..]];
            self.inodes[root] = Inode { item, layer: Some(layer) };
            return Ok(());
        };
        if let Kind::Hardlink(target) = &item.kind {
            let early = self.link_target(target);
            let mut trial = self.clone();
            trial.make_parents(parent)?;
            if trial.link_target(target) != early {
                *unclear = true;
                return Ok(());
            }
            // A link that breaks a rule leaves nothing behind, not even its parents.
            early?;
        }
        let path = [self.make_parents(parent)?, b"/".to_vec(), name.clone()].concat();
        match &item.kind {
            Kind::Hardlink(target) => {
                let id = self.link_target(target)?;
                if self.names.get(&path) != Some(&id) {
                    self.remove(&path);
                    self.names.insert(path, id);
                }
            }
            Kind::Dir if self.is_dir(&path) => {
                let id = self.names[&path];
                self.inodes[id] = Inode { item, layer: Some(layer) };
            }
            _ => {
                self.remove(&path);
                self.insert(path, item, Some(layer));
            }
        }
        Ok(())
    }

    fn listing(&self) -> Listing {
        let path_of = |name: &Vec<u8>| if name.is_empty() { b"/".to_vec() } else { name.clone() };
        let mut listing = Listing::new();
        for (name, id) in &self.names {
            let Inode { item, layer } = &self.inodes[*id];
            let what = match &item.kind {
                Kind::File(content) => What::File(content.clone()),
                Kind::Sparse(size, parts) => {
                    let mut content = vec![0; usize::try_from(*size).unwrap()];
                    for (offset, part) in parts {
                        let at = usize::try_from(*offset).unwrap();
                        content[at..at + part.len()].copy_from_slice(part);
                    }
                    What::File(content)
                }
                Kind::Dir => What::Dir,
                Kind::Symlink(target) => What::Symlink(target.clone()),
                Kind::Char(major, minor) => What::Char(*major, *minor),
                Kind::Block(major, minor) => What::Block(*major, *minor),
                Kind::Fifo => What::Fifo,
                Kind::Hardlink(_) => unreachable!("hard links are no inodes"),
            };
            let nlink = if item.kind == Kind::Dir {
                let below = [&name[..], b"/"].concat();
                let is_child = |other: &[u8]| {
                    other
                        .strip_prefix(&below[..])
                        .is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/'))
                };
                2 + self.names.keys().filter(|other| is_child(other) && self.is_dir(other)).count()
            } else {
                self.names.values().filter(|other| *other == id).count()
            };
            let first = self.names.iter().find(|(_, other)| *other == id).map(|(name, _)| path_of(name));
            let seen = Seen {
                what,
                mode: item.mode & 0o7777,
                uid: item.uid,
                gid: item.gid,
                mtime: item.mtime,
                xattrs: item.xattrs.iter().cloned().collect(),
                nlink: nlink as u64,
                first: first.unwrap(),
                layer: layer.map(|layer| u32::try_from(layer).unwrap()),
            };
            listing.insert(path_of(name), seen);
        }
        listing
    }
}

/// Applies layers, bottom to top.
pub fn flatten(layers: &[Layer]) -> Outcome {
    let mut model = Model::default();
    model.insert(Vec::new(), super::dir("").time(0, 0), None);
    let mut outcome = Outcome::default();
    for (number, layer) in layers.iter().enumerate() {
        outcome.books.push(Books::default());
        let start = model.clone();
        let mut hidden = Vec::new();
        for (index, item) in layer.iter().enumerate() {
            match model.marked(item) {
                Ok(Some((place, marker))) => hidden.push((index, place, marker)),
                Ok(None) => {}
                Err(error) => outcome.errors.push(((number, index), error)),
            }
        }
        let bad: BTreeSet<usize> =
            outcome.errors.iter().filter(|(at, _)| at.0 == number).map(|(at, _)| at.1).collect();
        for (_, place, marker) in &hidden {
            let dir = join(place);
            if !start.is_dir(&dir) {
                continue;
            }
            match marker {
                Marker::Hide(name) => model.remove(&[&dir[..], b"/", name].concat()),
                _ => {
                    let below = [&dir[..], b"/"].concat();
                    model.names.retain(|name, _| !name.starts_with(&below));
                }
            }
        }
        for (id, names) in model.lost(&start.names) {
            let Inode { item, layer: Some(layer) } = &model.inodes[id] else { continue };
            let Some(size) = size_of(item) else { continue };
            let books = &mut outcome.books[*layer].deleted;
            *books = (books.0 + size, books.1 + 1);
            outcome.deleted.push(Deleted { names, size, layer: *layer, by: number });
        }
        for (index, item) in layer.iter().enumerate().filter(|(index, _)| !bad.contains(index)) {
            let before = model.clone();
            let mut unclear = false;
            if let Err(error) = model.place(item, number, &mut unclear) {
                outcome.errors.push(((number, index), error));
                model = before;
                continue;
            }
            if unclear {
                outcome.unclear.push((number, index));
                continue;
            }
            let is_plain = matches!(marker(&components(&item.name)), Ok(Marker::None));
            if let Some(size) = size_of(item).filter(|_| is_plain) {
                let books = &mut outcome.books[number].shipped;
                *books = (books.0 + size, books.1 + 1);
            }
            for (id, _) in model.lost(&before.names) {
                let Inode { item, layer: Some(layer) } = &model.inodes[id] else { continue };
                let Some(size) = size_of(item) else { continue };
                let books = &mut outcome.books[*layer].shadowed;
                *books = (books.0 + size, books.1 + 1);
            }
        }
        outcome.warnings += layer
            .iter()
            .filter(|item| !matches!(item.kind, Kind::Hardlink(_)))
            .flat_map(|item| &item.xattrs)
            .filter(|(name, _)| name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay."))
            .count();
        for (index, place, _) in &hidden {
            let path = components(&layer[*index].name);
            if model.resolve(&path[..path.len() - 1]).as_ref() != Ok(place) {
                outcome.unclear.push((number, *index));
            }
        }
    }
    let visible: BTreeSet<usize> = model.names.values().copied().collect();
    for id in visible {
        let Inode { item, layer: Some(layer) } = &model.inodes[id] else { continue };
        let Some(size) = size_of(item) else { continue };
        let books = &mut outcome.books[*layer].visible;
        *books = (books.0 + size, books.1 + 1);
    }
    outcome.tree = model.listing();
    outcome
}

/// Leaves out what the rules do not decide, and of the entries that break a rule all, or all but the first.
pub fn settle(mut layers: Vec<Layer>, keep_error: bool) -> Vec<Layer> {
    loop {
        let outcome = flatten(&layers);
        let errors = outcome.errors.iter().map(|(at, _)| *at).skip(usize::from(keep_error));
        let mut drop: BTreeSet<At> = outcome.unclear.iter().copied().collect();
        if drop.is_empty() {
            drop = errors.collect();
        }
        if drop.is_empty() {
            return layers;
        }
        for (number, index) in drop.into_iter().rev() {
            layers[number].remove(index);
        }
    }
}
