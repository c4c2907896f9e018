//! Which release of each image was seen last, so that an older one is refused.
//!
//! A text file: a line that names the format, then one line an image, `EPOCH NAME`, ascending by name. It is replaced as a
//! whole (a new file, renamed over it) under a lock on a file beside it, so a crash leaves the old state or the new one,
//! and two runs at a time count as one after the other. Whoever can write the file can roll back: it belongs where only
//! the one who checks can write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

const FORMAT: &str = "mkimg epochs 1";

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Why a release is not admitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EpochError {
    /// A newer one was seen.
    #[error("rollback: epoch of {name} is {epoch}, and {seen} was seen before (in {})", .file.display())]
    Older {
        /// Name of the image.
        name: String,
        /// Its epoch.
        epoch: u64,
        /// The highest epoch so far.
        seen: u64,
        /// Where that is written.
        file: PathBuf,
    },
    /// Without a name there is nothing to compare with.
    #[error("the image has no name to keep an epoch for; build it with --name")]
    NoName,
    /// A name that would break the file.
    #[error("the name of the image cannot be kept: it has control characters")]
    Name,
    /// The file does not hold what it should.
    #[error("{}: line {line} is not {wanted}", .file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What should be there.
        wanted: &'static str,
    },
    /// It cannot be read, locked or written.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether an epoch is at least the highest that was seen for a name.
///
/// # Errors
/// It is lower; or the file cannot be read. A file that is not there has seen nothing.
pub fn check(file: &Path, name: Option<&str>, epoch: u64) -> Result<(), EpochError> {
    let name = checked(name)?;
    compare(file, &read(file)?, name, epoch)
}

/// Makes an epoch the highest that was seen for a name.
///
/// # Errors
/// As [`check`], also when another run has raised it since; or the file cannot be written.
pub fn raise(file: &Path, name: Option<&str>, epoch: u64) -> Result<(), EpochError> {
    let name = checked(name)?;
    let failed = |path: &Path| {
        let file = path.to_owned();
        move |source| EpochError::Io { file, source }
    };
    let lock = beside(file, ".lock");
    let held = File::options().create(true).append(true).open(&lock).map_err(failed(&lock))?;
    held.lock().map_err(failed(&lock))?;
    let mut seen = read(file)?;
    compare(file, &seen, name, epoch)?;
    if seen.insert(name.to_owned(), epoch) == Some(epoch) {
        return Ok(());
    }
    let mut text = format!("{FORMAT}\n");
    for (name, epoch) in &seen {
        text.push_str(&format!("{epoch} {name}\n"));
    }
    // Nobody else writes it while the lock is held, so one that is there is of a run that died.
    let next = beside(file, ".new");
    let write = || -> io::Result<()> {
        let mut out = File::create(&next)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&next, file)?;
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed(file))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn checked(name: Option<&str>) -> Result<&str, EpochError> {
    let name = name.filter(|name| !name.is_empty()).ok_or(EpochError::NoName)?;
    if name.contains(char::is_control) { Err(EpochError::Name) } else { Ok(name) }
}

fn compare(file: &Path, seen: &BTreeMap<String, u64>, name: &str, epoch: u64) -> Result<(), EpochError> {
    match seen.get(name) {
        Some(&seen) if epoch < seen => {
            Err(EpochError::Older { name: name.to_owned(), epoch, seen, file: file.to_owned() })
        }
        _ => Ok(()),
    }
}

/// A file in another form than [`raise`] writes is refused, not mended: its state may be what keeps an attacker out.
fn read(file: &Path) -> Result<BTreeMap<String, u64>, EpochError> {
    let mut text = String::new();
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(EpochError::Io { file: file.to_owned(), source }),
    };
    opened
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(|source| EpochError::Io { file: file.to_owned(), source })?;
    let broken = |line, wanted| EpochError::Broken { file: file.to_owned(), line, wanted };
    let mut lines = text.split_inclusive('\n').enumerate();
    if lines.next().map(|(_, line)| line) != Some("mkimg epochs 1\n") {
        return Err(broken(1, "\"mkimg epochs 1\""));
    }
    let mut seen = BTreeMap::new();
    for (index, line) in lines {
        let wrong = || broken(index.saturating_add(1), "\"EPOCH NAME\", ascending by name");
        let (epoch, name) =
            line.strip_suffix('\n').and_then(|line| line.split_once(' ')).ok_or_else(wrong)?;
        let number: u64 = epoch.parse().map_err(|_| wrong())?;
        let ascending = seen.last_key_value().is_none_or(|(last, _): (&String, _)| **last < *name);
        if number.to_string() != epoch || !ascending || checked(Some(name)).is_err() {
            return Err(wrong());
        }
        seen.insert(name.to_owned(), number);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_only_rise() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epochs");
        check(&file, Some("web"), 3).unwrap();
        assert!(!file.exists(), "a check writes nothing");
        raise(&file, Some("web"), 3).unwrap();
        raise(&file, Some("a b"), 0).unwrap();
        raise(&file, Some("web"), 3).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mkimg epochs 1\n0 a b\n3 web\n");
        for attempt in [check, raise] {
            let error = attempt(&file, Some("web"), 2).unwrap_err().to_string();
            assert!(error.starts_with("rollback: epoch of web is 2, and 3 was seen before (in "), "{error}");
            attempt(&file, Some("other"), 1).unwrap();
        }
        assert!(matches!(raise(&file, None, 9), Err(EpochError::NoName)));
        assert!(matches!(raise(&file, Some("a\nb"), 9), Err(EpochError::Name)));
        let mut names: Vec<_> =
            dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["epochs", "epochs.lock"]);
    }

    #[test]
    fn a_file_in_another_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epochs");
        for (text, line) in [
            ("", 1),
            ("mkimg epochs 2\n", 1),
            ("mkimg epochs 1\n3 web", 2),
            ("mkimg epochs 1\n03 web\n", 2),
            ("mkimg epochs 1\n-1 web\n", 2),
            ("mkimg epochs 1\n3\n", 2),
            ("mkimg epochs 1\n3 b\n1 a\n", 3),
            ("mkimg epochs 1\n3 b\n1 b\n", 3),
            ("mkimg epochs 1\n99999999999999999999 b\n", 2),
        ] {
            std::fs::write(&file, text).unwrap();
            for attempt in [check, raise] {
                match attempt(&file, Some("web"), 9).unwrap_err() {
                    EpochError::Broken { line: found, .. } => assert_eq!(found, line, "{text:?}"),
                    other => panic!("{text:?}: {other}"),
                }
            }
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "it stays as it is");
        }
    }

    /// Whatever the order, the highest of many runs at once is what is left, and no other name is lost.
    #[test]
    fn many_runs_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = &dir.path().join("epochs");
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                scope.spawn(move || {
                    for epoch in 0..10 {
                        raise(file, Some(&format!("own {thread}")), epoch).unwrap();
                        let _ = raise(file, Some("shared"), epoch * 4 + thread);
                    }
                });
            }
        });
        let seen = read(file).unwrap();
        assert_eq!(seen.len(), 5);
        assert_eq!(seen["shared"], 39);
        assert!((0..4).all(|thread| seen[&format!("own {thread}")] == 9));
    }
}
