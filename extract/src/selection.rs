//! Which paths of the image are wanted.

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, is_file_name};

use crate::error::{Error, Result, image};

/// The wanted subtrees, as absolute paths without needless slashes; none for the whole tree.
pub(crate) struct Selection {
    roots: Vec<Vec<u8>>,
}

impl Selection {
    /// Checks that every path leads somewhere, before anything is created.
    pub(crate) fn new<R: ReadAt>(fs: &FileSystem<R>, paths: &[Vec<u8>]) -> Result<Self> {
        let mut roots = Vec::new();
        for path in paths {
            let fail = |problem| Error::Path { path: path.clone(), problem };
            let mut here = fs.root().map_err(image(b"/"))?;
            let mut root = Vec::new();
            for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
                if !is_file_name(name) {
                    return Err(fail("only plain names can be extracted"));
                }
                if here.file_type != FileType::Dir {
                    return Err(fail("not a directory on the way"));
                }
                let found = fs.lookup(&here, name).map_err(image(path))?;
                here = fs.inode(found.ok_or_else(|| fail("not in the image"))?).map_err(image(path))?;
                root.push(b'/');
                root.extend_from_slice(name);
            }
            roots.push(root);
        }
        // The root as a subtree is everything.
        if roots.iter().any(Vec::is_empty) {
            roots.clear();
        }
        Ok(Self { roots })
    }

    /// Whether `path` is in a subtree, or a directory on the way to one.
    pub(crate) fn wants(&self, path: &[u8]) -> bool {
        self.roots.is_empty()
            || path == b"/"
            || self.roots.iter().any(|root| is_below(path, root) || is_below(root, path))
    }
}

/// Whether `path` is `dir` or below it.
fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_subtrees_and_the_way_to_them() {
        let selection = Selection { roots: vec![b"/a/b".to_vec()] };
        for (path, wanted) in [
            (&b"/"[..], true),
            (b"/a", true),
            (b"/a/b", true),
            (b"/a/b/c", true),
            (b"/a/bc", false),
            (b"/a/c", false),
            (b"/ab", false),
            (b"/b", false),
        ] {
            assert_eq!(selection.wants(path), wanted, "{path:?}");
        }
        assert!(Selection { roots: Vec::new() }.wants(b"/any"));
    }
}
