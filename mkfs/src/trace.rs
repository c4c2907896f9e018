//! The files of the tree that a trace names, in its order.
//!
//! A path is followed as a process in a container would follow it: symbolic links lead inside the image, the last one
//! too. A directory stands for all files below it, depth first and in the order of names; links in it are not followed.
//! A path that leads to no file and no directory is no error: a workload also reads what it wrote itself, and a trace may
//! be that of another version of the image.

use mkimg_format::erofs::escape;
use mkimg_format::trace::Trace;

use crate::error::{Error, Problem, Result};
use crate::path::components;
use crate::tree::{InodeId, Node, Tree};

/// The files that a trace names, each once. What it names in vain becomes a warning.
///
/// # Errors
/// [`Error::Trace`] when following its paths would take too much work.
pub(crate) fn files_of(trace: &Trace, tree: &Tree, warnings: &mut Vec<String>) -> Result<Vec<InodeId>> {
    let mut files = Vec::new();
    // A directory that was entered is not entered again, so a long trace costs no more than its length and the tree.
    let mut seen = vec![false; tree.slots()];
    let (mut total, mut missing, mut first) = (0_u64, 0_u64, None);
    for (line, path) in trace.paths() {
        total += 1;
        match find(tree, &path).map_err(|problem| Error::Trace { line, problem })? {
            Some(id) => add(tree, id, &mut seen, &mut files),
            None => {
                missing += 1;
                first.get_or_insert((line, path));
            }
        }
    }
    if let Some((line, path)) = first {
        let path = escape(&path);
        warnings.push(format!(
            "trace: {missing} of {total} paths lead to no file in the image, the first in line {line}: {path}"
        ));
    }
    Ok(files)
}

/// The file or directory that a path leads to.
fn find(tree: &Tree, path: &[u8]) -> std::result::Result<Option<InodeId>, Problem> {
    let reached = match tree.reach(components(path)) {
        Err(Problem::SymlinkLoop { .. }) => return Ok(None),
        reached => reached?,
    };
    // Whatever is no directory counts as missing there.
    Ok(match &reached.missing[..] {
        [] => Some(reached.dir),
        [name] => tree.lookup(reached.dir, name).filter(|id| matches!(tree.inode(*id).node, Node::File(_))),
        _ => None,
    })
}

/// Adds a file, or all files below a directory.
fn add(tree: &Tree, id: InodeId, seen: &mut [bool], files: &mut Vec<InodeId>) {
    let mut ahead = vec![id];
    while let Some(id) = ahead.pop() {
        if seen.get_mut(id.0 as usize).is_none_or(|seen| std::mem::replace(seen, true)) {
            continue;
        }
        match &tree.inode(id).node {
            Node::File(_) => files.push(id),
            Node::Dir(dir) => ahead.extend(dir.names.values().rev()),
            _ => {}
        }
    }
}
