//! Bytes by directory, in bounded memory.
//!
//! A walk tells of directories and files in the order in which it comes to them. Nodes stand in that order, so what is
//! below a directory stands right behind it. When there are too many, the lightest are forgotten, each with what is
//! below it: whatever is kept, all above it is kept as well, and the sums of directories stay exact.

use crate::kinds::Kind;

/// Most nodes that are kept: with names of 255 bytes some 6 MiB.
///
/// When there are more, the lighter half is dropped, and nothing that is as light as any of it is kept from then on.
/// Of very many that weigh the same, that may be all.
pub const NODES_MAX: usize = 16_384;

/// A directory or a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Index of its directory; that of the root is the root.
    pub parent: usize,
    /// Its name; empty for the root.
    pub name: Box<[u8]>,
    /// Content in bytes, of a directory that of all below it.
    pub bytes: u64,
    /// Regular files, of a directory those below it.
    pub files: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Kind of its content, of a directory that of most of its bytes.
    pub kind: Kind,
}

/// The heaviest directories and files of an image.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    children: Vec<Vec<usize>>,
}

impl Tree {
    /// All nodes; the root first, and each behind its directory.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// What is directly in a directory and was kept, heaviest first.
    #[must_use]
    pub fn children(&self, index: usize) -> &[usize] {
        self.children.get(index).map_or(&[], Vec::as_slice)
    }

    /// A node's directories from the root on, and the node itself.
    #[must_use]
    pub fn line(&self, index: usize) -> Vec<usize> {
        let mut line = vec![index];
        let mut at = index;
        while let Some(node) = self.nodes.get(at).filter(|node| node.parent < at) {
            at = node.parent;
            line.push(at);
        }
        line.reverse();
        line
    }

    /// Absolute path of a node.
    #[must_use]
    pub fn path(&self, index: usize) -> Vec<u8> {
        let names = self.line(index).into_iter().skip(1).filter_map(|index| self.nodes.get(index));
        let path: Vec<u8> = names.flat_map(|node| [&b"/"[..], &node.name].concat()).collect();
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// The heaviest directories below the root, heaviest first.
    ///
    /// One that is little more than one directory in it is left out: that one says it better.
    #[must_use]
    pub fn heaviest_directories(&self, room: usize) -> Vec<usize> {
        let is_dir = |index: usize| self.nodes.get(index).is_some_and(|node| node.is_dir);
        let bytes = |index: usize| self.nodes.get(index).map_or(0, |node| node.bytes);
        let says_little = |index: usize| {
            let inner = self.children(index).iter().find(|child| is_dir(**child));
            let inner = inner.map_or(0, |child| u128::from(bytes(*child)));
            inner.saturating_mul(4) > u128::from(bytes(index)).saturating_mul(3)
        };
        let mut found: Vec<usize> =
            (1..self.nodes.len()).filter(|index| is_dir(*index) && !says_little(*index)).collect();
        found.sort_by_key(|index| (std::cmp::Reverse(bytes(*index)), *index));
        found.truncate(room);
        found
    }
}

/// A directory that the walk is in.
#[derive(Debug, Default)]
struct Open {
    index: usize,
    /// Bytes by kind, in the order of [`Kind::ALL`].
    kinds: [u64; Kind::ALL.len()],
}

/// A tree that is being told of.
#[derive(Debug)]
pub(crate) struct Growth {
    nodes: Vec<Node>,
    /// Directories that the walk is in, the root first.
    open: Vec<Open>,
    /// Nothing that is closed is kept unless it is heavier.
    threshold: u64,
    room: usize,
}

impl Default for Growth {
    fn default() -> Self {
        Self::with_room(NODES_MAX)
    }
}

impl Growth {
    fn with_room(room: usize) -> Self {
        let root =
            Node { parent: 0, name: Box::default(), bytes: 0, files: 0, is_dir: true, kind: Kind::Other };
        Self { nodes: vec![root], open: vec![Open::default()], threshold: 0, room }
    }

    /// Goes to the directory whose path has `depth` names, one that the walk is in.
    pub(crate) fn ascend(&mut self, depth: usize) {
        while self.open.len() > depth.saturating_add(1) {
            self.close();
        }
    }

    /// Goes into a directory of the current one.
    pub(crate) fn enter(&mut self, name: &[u8]) {
        let parent = self.current();
        self.open.push(Open { index: self.nodes.len(), ..Open::default() });
        self.push(Node { parent, name: name.into(), bytes: 0, files: 0, is_dir: true, kind: Kind::Other });
    }

    /// Counts a file of the current directory.
    pub(crate) fn file(&mut self, name: &[u8], bytes: u64, kind: Kind) {
        let parent = self.current();
        let mut kinds = Open::default().kinds;
        for (sum, this) in kinds.iter_mut().zip(Kind::ALL) {
            *sum = if this == kind { bytes } else { 0 };
        }
        self.add(bytes, 1, kinds);
        if bytes > self.threshold {
            self.push(Node { parent, name: name.into(), bytes, files: 1, is_dir: false, kind });
        }
    }

    /// The tree, when the walk is over.
    pub(crate) fn finish(mut self) -> Tree {
        self.ascend(0);
        // The walk never leaves the root.
        if let (Some(node), Some(open)) = (self.nodes.first_mut(), self.open.first()) {
            node.kind = main_kind(open.kinds);
        }
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            if let Some(siblings) = children.get_mut(node.parent) {
                siblings.push(index);
            }
        }
        let bytes = |index: &usize| self.nodes.get(*index).map_or(0, |node| node.bytes);
        for siblings in &mut children {
            siblings.sort_by_key(|index| std::cmp::Reverse(bytes(index)));
        }
        Tree { nodes: self.nodes, children }
    }

    /// The directory that the walk is in.
    fn current(&self) -> usize {
        self.open.last().map_or(0, |open| open.index)
    }

    /// Adds to the current directory.
    fn add(&mut self, bytes: u64, files: u64, kinds: [u64; Kind::ALL.len()]) {
        let Some(open) = self.open.last_mut() else { return };
        for (sum, bytes) in open.kinds.iter_mut().zip(kinds) {
            *sum = sum.saturating_add(bytes);
        }
        if let Some(node) = self.nodes.get_mut(open.index) {
            node.bytes = node.bytes.saturating_add(bytes);
            node.files = node.files.saturating_add(files);
        }
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        if self.nodes.len() > self.room {
            self.prune();
        }
    }

    /// Leaves the current directory, which adds to the one above.
    fn close(&mut self) {
        let Some(Open { index, kinds }) = self.open.pop() else { return };
        let Some(node) = self.nodes.get_mut(index) else { return };
        node.kind = main_kind(kinds);
        let (bytes, files) = (node.bytes, node.files);
        self.add(bytes, files, kinds);
        if bytes <= self.threshold {
            // What is below it stands behind it, and is no heavier.
            self.nodes.truncate(index);
        }
    }

    /// Raises the threshold to the weight that half of the room is enough for, and drops what is not heavier.
    ///
    /// Directories that the walk is in stay: their sums are not known yet.
    fn prune(&mut self) {
        let mut open = self.open.iter().map(|open| open.index).peekable();
        let closed = self.nodes.iter().enumerate().filter(|(index, _)| open.next_if_eq(index).is_none());
        let mut weights: Vec<u64> = closed.map(|(_, node)| node.bytes).collect();
        let drop = weights.len().saturating_sub(self.room / 2).saturating_sub(1);
        if !weights.is_empty() {
            let (_, weight, _) = weights.select_nth_unstable(drop);
            self.threshold = self.threshold.max(*weight);
        }
        let mut moved: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut kept: Vec<Node> = Vec::new();
        let mut open = self.open.iter().map(|open| open.index).peekable();
        for (index, mut node) in std::mem::take(&mut self.nodes).into_iter().enumerate() {
            let is_open = open.next_if_eq(&index).is_some();
            moved.push(kept.len());
            if is_open || node.bytes > self.threshold {
                // A directory is at least as heavy as what is in it, so that of a node that stays has stayed.
                node.parent = moved.get(node.parent).copied().unwrap_or(0);
                kept.push(node);
            }
        }
        self.nodes = kept;
        for Open { index, .. } in &mut self.open {
            *index = moved.get(*index).copied().unwrap_or(0);
        }
    }
}

/// The kind with most bytes.
fn main_kind(kinds: [u64; Kind::ALL.len()]) -> Kind {
    let largest = Kind::ALL.into_iter().zip(kinds).max_by_key(|(_, bytes)| *bytes);
    largest.map_or(Kind::Other, |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `/a/x` 10, `/a/b/y` 90, `/z` 5
    fn small(room: usize) -> Tree {
        let mut growth = Growth::with_room(room);
        growth.enter(b"a");
        growth.file(b"x", 10, Kind::Text);
        growth.enter(b"b");
        growth.file(b"y", 90, Kind::Elf);
        growth.ascend(0);
        growth.file(b"z", 5, Kind::Other);
        growth.finish()
    }

    #[test]
    fn directories_sum_up_what_is_below() {
        let tree = small(NODES_MAX);
        let shown: Vec<_> = (0..tree.nodes().len())
            .map(|index| {
                (
                    String::from_utf8(tree.path(index)).unwrap(),
                    tree.nodes[index].bytes,
                    tree.nodes[index].files,
                )
            })
            .collect();
        let wanted = [
            ("/", 105, 3),
            ("/a", 100, 2),
            ("/a/x", 10, 1),
            ("/a/b", 90, 1),
            ("/a/b/y", 90, 1),
            ("/z", 5, 1),
        ];
        assert_eq!(shown, wanted.map(|(path, bytes, files)| (path.to_owned(), bytes, files)));
        assert_eq!(tree.children(0), [1, 5]);
        assert_eq!(tree.children(1), [3, 2]);
        assert_eq!((tree.nodes[1].kind, tree.nodes[0].kind), (Kind::Elf, Kind::Elf));
        // `/a` is little more than `/a/b`.
        assert_eq!(tree.heaviest_directories(9), [3]);
    }

    #[test]
    fn nothing_light_is_left_of_a_full_tree() {
        let mut growth = Growth::with_room(100);
        for dir in 0..500_u64 {
            growth.enter(format!("d{dir}").as_bytes());
            for file in 0..10 {
                growth.file(format!("f{file}").as_bytes(), dir * 100, Kind::Text);
            }
            growth.ascend(0);
            assert!(growth.nodes.len() <= 100);
        }
        let tree = growth.finish();
        assert_eq!((tree.nodes[0].bytes, tree.nodes[0].files), (1000 * 499 * 500 / 2, 5000));
        assert_eq!(tree.path(tree.heaviest_directories(1)[0]), b"/d499");
    }

    proptest! {
        /// However little room there is: sums are right, heavier nodes are not dropped for lighter ones.
        #[test]
        fn pruning_keeps_sums_and_lines(steps in prop::collection::vec((0_usize..4, 0_u64..1 << 20), 1..400), room in 32_usize..64) {
            let (mut small, mut large) = (Growth::with_room(room), Growth::default());
            let mut depth = 0;
            for (number, (step, bytes)) in steps.iter().enumerate() {
                let name = format!("n{number}");
                for growth in [&mut small, &mut large] {
                    match step {
                        0 if depth < 10 => growth.enter(name.as_bytes()),
                        1 => growth.ascend(usize::try_from(*bytes).unwrap() % (depth + 1)),
                        _ => growth.file(name.as_bytes(), *bytes, Kind::Text),
                    }
                }
                match step {
                    0 if depth < 10 => depth += 1,
                    1 => depth = usize::try_from(*bytes).unwrap() % (depth + 1),
                    _ => {}
                }
                prop_assert!(small.nodes.len() <= room, "{}", small.nodes.len());
            }
            let (small, large) = (small.finish(), large.finish());
            let sums = |tree: &Tree| -> std::collections::BTreeMap<Vec<u8>, (u64, u64)> {
                (0..tree.nodes.len()).map(|index| (tree.path(index), (tree.nodes[index].bytes, tree.nodes[index].files))).collect()
            };
            let (kept, all) = (sums(&small), sums(&large));
            prop_assert_eq!(kept[&b"/"[..]], all[&b"/"[..]]);
            for (path, sum) in &kept {
                prop_assert_eq!(Some(sum), all.get(path));
            }
            let dropped = all.iter().filter(|(path, _)| !kept.contains_key(*path)).map(|(_, sum)| sum.0).max();
            let lightest = kept.iter().filter(|(path, _)| *path != b"/").map(|(_, sum)| sum.0).min();
            if let (Some(dropped), Some(lightest)) = (dropped, lightest) {
                prop_assert!(dropped < lightest);
            }
        }
    }
}
