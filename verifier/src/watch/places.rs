//! Where the directories are that events speak of by their handles.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use mkimg_kernel::handle::Handle;

use crate::tree::scope::below;

/// Directories that are remembered although they have left the tree. When there are more, all of them are forgotten,
/// and what is heard of them then is taken for something unknown.
const LEFT_MAX: usize = 1 << 16;

/// Paths of directories by their handles, and the other way round; some 200 bytes for each and twice its path.
#[derive(Debug, Default)]
pub(super) struct Places {
    paths: HashMap<Arc<Handle>, Arc<[u8]>>,
    handles: BTreeMap<Arc<[u8]>, Arc<Handle>>,
    left: HashSet<Arc<Handle>>,
}

/// Where a directory is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Here, empty for the root.
    In(&'a [u8]),
    /// Not in the tree any more.
    Left,
    /// Never heard of.
    Unknown,
}

impl Places {
    /// Takes note that a directory is at a path, and so neither where it was before nor is what was there before.
    pub(super) fn put(&mut self, handle: Handle, path: &[u8]) {
        let (handle, path) = (Arc::new(handle), Arc::from(path));
        self.left.remove(&handle);
        if let Some(before) = self.paths.insert(Arc::clone(&handle), Arc::clone(&path)) {
            self.handles.remove(&before);
        }
        if let Some(other) = self.handles.insert(path, Arc::clone(&handle))
            && other != handle
        {
            self.paths.remove(&other);
            self.leave(other);
        }
    }

    /// Takes note that there is no directory at a path nor below it, as far as is known.
    pub(super) fn clear(&mut self, path: &[u8]) {
        let first = below(path);
        let all = self.handles.range::<[u8], _>((Excluded(first.as_slice()), Unbounded));
        let mut gone: Vec<Arc<[u8]>> =
            all.map(|(path, _)| path).take_while(|path| path.starts_with(&first)).cloned().collect();
        gone.extend(self.handles.get_key_value(path).map(|(path, _)| Arc::clone(path)));
        for path in gone {
            if let Some(handle) = self.handles.remove(&path) {
                self.paths.remove(&handle);
                self.leave(handle);
            }
        }
    }

    fn leave(&mut self, handle: Arc<Handle>) {
        if self.left.len() >= LEFT_MAX {
            self.left.clear();
        }
        self.left.insert(handle);
    }

    /// Where a directory is.
    pub(super) fn find(&self, handle: &Handle) -> Place<'_> {
        match self.paths.get(handle) {
            Some(path) => Place::In(path),
            None if self.left.contains(handle) => Place::Left,
            None => Place::Unknown,
        }
    }

    /// How many directories are in the tree.
    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Handles of directories, of which there are as many as asked for.
    fn handles<const N: usize>(dir: &tempfile::TempDir) -> [Handle; N] {
        std::array::from_fn(|index| {
            let path = dir.path().join(index.to_string());
            std::fs::create_dir(&path).unwrap();
            Handle::of(File::open(path).unwrap()).unwrap()
        })
    }

    #[test]
    fn directories_move_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let [root, a, b, c] = handles(&dir);
        let mut places = Places::default();
        for (handle, path) in [(&root, ""), (&a, "/a"), (&b, "/a/b"), (&c, "/a-c")] {
            places.put(handle.clone(), path.as_bytes());
        }
        assert_eq!(places.find(&b), Place::In(b"/a/b"));

        // Moved, and met at its new place first.
        places.put(b.clone(), b"/b");
        places.clear(b"/a");
        assert_eq!(places.find(&b), Place::In(b"/b"));
        assert_eq!((places.find(&a), places.find(&c)), (Place::Left, Place::In(b"/a-c")));

        // Another one in its place.
        places.put(a.clone(), b"/b");
        assert_eq!((places.find(&a), places.find(&b)), (Place::In(b"/b"), Place::Left));
        assert_eq!(places.len(), 3);

        places.clear(b"");
        assert_eq!(places.len(), 0);
        assert_eq!(places.find(&root), Place::Left);
        assert_eq!(Places::default().find(&root), Place::Unknown);
    }
}
