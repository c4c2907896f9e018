//! What systemd asks of the tree in a disk, so that it does not find out when it is too late.
//!
//! Source: systemd `src/shared/extension-release.c`, `src/sysext/sysext.c`, `src/portable/portable.c`, and the pages
//! systemd-sysext(8), portablectl(1) and PORTABLE_SERVICES.

use mkimg_format::ReadAt;
use mkimg_format::erofs::{FileSystem, FileType, Inode, escape};

use crate::{Error, Result};

/// Who is going to use the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// `systemd-sysext`: the tree is laid over `/usr` and `/opt` of the host.
    Sysext,
    /// `portablectl`: units of the tree run on the host, with the tree as their root directory.
    Portable,
}

/// What a tree lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// What it cannot be used without.
    pub needs: Vec<String>,
    /// What may be missed later.
    pub wants: Vec<String>,
}

/// Longest release file that is read, in bytes.
const RELEASE_MAX: u64 = 64 << 10;

/// Directories in which systemd looks for units of a portable service.
const UNIT_DIRS: [&str; 4] =
    ["etc/systemd/system", "usr/lib/systemd/system", "usr/local/lib/systemd/system", "lib/systemd/system"];

/// Kinds of units that a portable service may have.
const UNIT_KINDS: [&str; 5] = [".service", ".socket", ".target", ".timer", ".path"];

impl Consumer {
    /// Looks through a tree that is going to be in a file of this name.
    ///
    /// # Errors
    /// The tree cannot be read. What it lacks is no error.
    pub fn check(self, fs: &FileSystem<impl ReadAt>, file_name: &str) -> Result<Lacks> {
        let mut lacks = Lacks::default();
        let Some(name) = file_name.strip_suffix(".raw").filter(|name| !name.is_empty()) else {
            lacks.needs.push("a name of the file that ends in .raw".to_owned());
            return Ok(lacks);
        };
        match self {
            Self::Sysext => sysext(fs, name, &mut lacks)?,
            Self::Portable => portable(fs, name, &mut lacks)?,
        }
        Ok(lacks)
    }
}

fn sysext(fs: &FileSystem<impl ReadAt>, name: &str, lacks: &mut Lacks) -> Result<()> {
    for entry in fs.read_dir(&fs.root()?) {
        let entry = entry?;
        if !entry.is_dot() && entry.name != b"usr" && entry.name != b"opt" {
            lacks.needs.push(format!("nothing but /usr and /opt, and there is /{}", escape(&entry.name)));
        }
    }
    if find(fs, "usr/lib/os-release")?.is_some() {
        lacks.needs.push("no /usr/lib/os-release, which would hide that of the host".to_owned());
    }
    let path = format!("usr/lib/extension-release.d/extension-release.{name}");
    let Some(release) = release(fs, &path)? else {
        lacks.needs.push(format!("/{path} with the ID of the host, or ID=_any"));
        return Ok(());
    };
    match value(&release, "ID") {
        None => lacks.needs.push(format!("ID= in /{path}")),
        Some("_any") => {}
        Some(_) if value(&release, "SYSEXT_LEVEL").or_else(|| value(&release, "VERSION_ID")).is_some() => {}
        Some(_) => lacks.wants.push(format!(
            "VERSION_ID= or SYSEXT_LEVEL= in /{path}, without which only hosts without VERSION_ID take it"
        )),
    }
    Ok(())
}

fn portable(fs: &FileSystem<impl ReadAt>, name: &str, lacks: &mut Lacks) -> Result<()> {
    // What follows the first underscore is a version.
    let prefix = name.split_once('_').map_or(name, |(prefix, _)| prefix);
    let os_release = match release(fs, "etc/os-release")? {
        Some(release) => Some(release),
        None => release(fs, "usr/lib/os-release")?,
    };
    match os_release.as_deref().map(|release| value(release, "PORTABLE_PREFIXES")) {
        None => lacks.needs.push("/usr/lib/os-release or /etc/os-release".to_owned()),
        Some(None) => lacks
            .wants
            .push(format!("PORTABLE_PREFIXES={prefix} in os-release, which marks portable services")),
        Some(Some(allowed)) if allowed.split_whitespace().any(|allowed| prefix.starts_with(allowed)) => {}
        Some(Some(allowed)) => {
            lacks
                .needs
                .push(format!("PORTABLE_PREFIXES= with {prefix}, and it is {}", escape(allowed.as_bytes())));
        }
    }
    let mut found = false;
    for dir in UNIT_DIRS {
        let Some(dir) = find(fs, dir)?.filter(|dir| dir.file_type == FileType::Dir) else { continue };
        for entry in fs.read_dir(&dir) {
            found |= is_unit_of(&entry?.name, prefix);
        }
    }
    if !found {
        lacks.needs.push(format!(
            "a unit named {prefix}, or {prefix} with - or @ behind it, in /usr/lib/systemd/system or /etc/systemd/system"
        ));
    }
    // The root directory is read-only, so nobody makes these later.
    for (path, wanted) in [
        ("proc", FileType::Dir),
        ("sys", FileType::Dir),
        ("dev", FileType::Dir),
        ("run", FileType::Dir),
        ("tmp", FileType::Dir),
        ("var/tmp", FileType::Dir),
        ("etc/resolv.conf", FileType::File),
        ("etc/machine-id", FileType::File),
    ] {
        if find(fs, path)?.is_none_or(|inode| inode.file_type != wanted) {
            lacks.wants.push(format!("{} /{path} to mount over", wanted.word()));
        }
    }
    Ok(())
}

/// Whether a unit is one that `portablectl attach` takes: the prefix, then `-`, `@` or the dot of its kind.
fn is_unit_of(unit: &[u8], prefix: &str) -> bool {
    let Some(rest) = unit.strip_prefix(prefix.as_bytes()) else { return false };
    matches!(rest, [b'-' | b'.' | b'@', ..]) && UNIT_KINDS.iter().any(|kind| unit.ends_with(kind.as_bytes()))
}

/// What a path leads to, symbolic links followed; `None` if it leads nowhere.
fn find(fs: &FileSystem<impl ReadAt>, path: &str) -> Result<Option<Inode>> {
    match fs.resolve(path.as_bytes(), true) {
        Ok(inode) => Ok(Some(inode)),
        Err(mkimg_format::Error::Path { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The text of a release file; `None` if there is none.
fn release(fs: &FileSystem<impl ReadAt>, path: &str) -> Result<Option<String>> {
    let Some(inode) = find(fs, path)?.filter(|inode| inode.file_type == FileType::File) else {
        return Ok(None);
    };
    if inode.size > RELEASE_MAX {
        return Err(Error::LongRelease { path: path.to_owned(), size: inode.size });
    }
    let mut bytes = Vec::new();
    fs.for_each_piece(&inode, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, Error>(())
    })?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The value that a release file gives a key: the last one counts, as in a shell.
fn value<'a>(release: &'a str, key: &str) -> Option<&'a str> {
    let value = release.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some(unquoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_that_portablectl_takes() {
        for unit in ["web.service", "web-a.socket", "web@.service", "web-.timer", "web.a.path"] {
            assert!(is_unit_of(unit.as_bytes(), "web"), "{unit}");
        }
        for unit in ["webs.service", "web.mount", "web", "aweb.service", "web_1.service", ".service"] {
            assert!(!is_unit_of(unit.as_bytes(), "web"), "{unit}");
        }
    }

    #[test]
    fn values_of_a_release_file() {
        let text =
            "# ID=no\nID=debian\nVERSION_ID=\"12\"\n NAME='a b'\nID_LIKE=x\nEMPTY=\nID=_any\nQUOTE=\"\n";
        for (key, expected) in [
            ("ID", Some("_any")),
            ("VERSION_ID", Some("12")),
            ("NAME", Some("a b")),
            ("EMPTY", None),
            ("VERSION", None),
            ("QUOTE", Some("\"")),
        ] {
            assert_eq!(value(text, key), expected, "{key}");
        }
    }
}
