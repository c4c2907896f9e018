//! What else has changed with a file that has several names.
//!
//! An event tells by which name a file was changed, and what the file is called besides is not known: a name may have
//! been made, used and removed between two looks. But whatever is done to an inode moves its time of change, which
//! nobody can set. So where other names may matter, all of the tree is asked for that time. It is the system's clock
//! that it is compared with: when that is set back meanwhile, a change by another name can be missed.

use mkimg_format::erofs::{FileType, Timestamp};

use crate::tree::{Depth, Names, Scope, Stat, Tree, TreeOptions, join};

/// The files of a tree to which anything was done at a time or later, without those in `but`. Directories that cannot be
/// read are passed over: an audit of everything has told of them.
pub(super) fn changed_since(tree: &Tree, time: Timestamp, but: &Scope, options: &TreeOptions<'_>) -> Scope {
    let mut changed = Scope::default();
    let mut names = Names::default();
    let mut stack = vec![Vec::new()];
    while let Some(dir) = stack.pop() {
        let opened = tree.open_dir(dir.strip_prefix(b"/").unwrap_or(&dir));
        let Ok(fd) = opened.and_then(|fd| names.read(&fd).map(|()| fd)) else { continue };
        for name in (0..).map_while(|index| names.get(index)) {
            let path = join(&dir, name);
            let Ok(stat) = Stat::at(&fd, name) else { continue };
            if tree.is_foreign(&stat) || options.ignores(&path) {
                continue;
            }
            if stat.file_type() == Some(FileType::Dir) {
                stack.push(path);
            } else if stat.ctime() >= time && !but.contains(&path) {
                changed.add(path, Depth::Own);
            }
        }
    }
    changed
}
