//! Which paths are to be looked at, when it is not all of them.

use std::collections::BTreeMap;

/// Paths that are held; instead of more, everything is looked at.
const PATHS_MAX: usize = 1 << 14;

/// How much is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The name itself; of a directory not its names.
    Own,
    /// With everything below it.
    Below,
}

/// Paths that are to be looked at. The root is the empty path, all others have a slash in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    paths: BTreeMap<Vec<u8>, Depth>,
}

impl Scope {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self { paths: BTreeMap::from([(Vec::new(), Depth::Below)]) }
    }

    /// Whether it is everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.paths.get(&b""[..]) == Some(&Depth::Below)
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Adds a path. Of too many it becomes everything.
    pub fn add(&mut self, path: Vec<u8>, depth: Depth) {
        if self.is_everything() {
            return;
        }
        let held = self.paths.entry(path).or_insert(depth);
        *held = depth.max(*held);
        if self.paths.len() > PATHS_MAX || self.is_everything() {
            *self = Self::everything();
        }
    }

    /// The paths in order, without those below another one that is looked at with everything below it.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Depth)> {
        let outermost = self.paths.iter().filter(|(path, _)| !self.covers(path));
        outermost.map(|(path, depth)| (path.as_slice(), *depth))
    }

    /// Whether a path is in it.
    #[must_use]
    pub fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path) || self.covers(path)
    }

    /// Whether something above a path is looked at with everything below it.
    fn covers(&self, path: &[u8]) -> bool {
        std::iter::successors(parent(path), |path| parent(path))
            .any(|above| self.paths.get(above) == Some(&Depth::Below))
    }
}

/// The directory that a path is in; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').and_then(|slash| path.get(..slash))
}

/// What all paths below one begin with, and no others.
pub(crate) fn below(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

/// A path of a report as it is in a scope, where the root is empty.
pub(crate) fn of_report(path: &[u8]) -> &[u8] {
    if path == b"/" { b"" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(paths: &[(&str, Depth)]) -> Scope {
        let mut scope = Scope::default();
        for (path, depth) in paths {
            scope.add(path.as_bytes().to_vec(), *depth);
        }
        scope
    }

    fn shown(scope: &Scope) -> Vec<(String, Depth)> {
        scope.iter().map(|(path, depth)| (String::from_utf8_lossy(path).into_owned(), depth)).collect()
    }

    #[test]
    fn what_is_below_is_looked_at_once() {
        use Depth::{Below, Own};
        let found = scope(&[
            ("/a/x", Own),
            ("/a", Own),
            ("/a", Below),
            ("/a", Own),
            ("/a-b", Own),
            ("/a-b/c", Own),
            ("/a/y/z", Below),
            ("", Own),
        ]);
        let expected = [("", Own), ("/a", Below), ("/a-b", Own), ("/a-b/c", Own)];
        assert_eq!(shown(&found), expected.map(|(path, depth)| (path.to_owned(), depth)));
        for (path, inside) in [("/a/y", true), ("/a-b/d", false), ("", true), ("/b", false), ("/a", true)] {
            assert_eq!(found.contains(path.as_bytes()), inside, "{path}");
        }
    }

    #[test]
    fn everything() {
        assert!(Scope::default().is_empty() && !Scope::default().is_everything());
        let mut scope = scope(&[("/a", Depth::Own), ("", Depth::Below), ("/b", Depth::Below)]);
        assert_eq!(scope, Scope::everything());
        assert!(scope.contains(b"/c") && scope.contains(b""));
        scope = Scope::default();
        for index in 0..=PATHS_MAX {
            assert!(!scope.is_everything());
            scope.add(format!("/{index}").into_bytes(), Depth::Own);
        }
        assert_eq!(scope, Scope::everything());
    }

    #[test]
    fn parents() {
        for (path, above) in [("", None), ("/a", Some("")), ("/a/b", Some("/a"))] {
            assert_eq!(parent(path.as_bytes()), above.map(str::as_bytes));
        }
    }
}
