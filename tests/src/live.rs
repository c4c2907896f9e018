//! A mounted image, ways to mount it, and what `mkimg verify MOUNTPOINT` says of it, in short.

use crate::command::{Finished, Run, mkimg, tool};
use crate::mount::{Exclusive, Mounted, loops_behind};
use crate::{args, images, scratch};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An image, a directory to mount it on, and room beside them.
#[derive(Debug)]
pub struct Stage {
    dir: tempfile::TempDir,
    /// The image file.
    pub image: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    _one_at_a_time: Exclusive,
}

impl Stage {
    /// With [`images::one_of_everything`].
    pub fn new() -> Self {
        Self::with(|dir| {
            images::one_of_everything(&dir.join("oci"));
            format!("oci:{}", dir.join("oci").display())
        })
    }

    /// With an image of the source that `make` writes and names.
    pub fn with(make: impl FnOnce(&Path) -> String) -> Self {
        let lock = Exclusive::take();
        let dir = scratch();
        let source = make(dir.path());
        let (image, point) = (dir.path().join("image.mkimg"), dir.path().join("mnt"));
        let _ = mkimg(args!["build", source, "--compress", "none", "-o", image]).ok();
        std::fs::create_dir(&point).unwrap();
        Self { dir, image, point, _one_at_a_time: lock }
    }

    /// A path beside the image.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a shell script beside the image.
    pub fn sh(&self, script: &str) -> Finished {
        sh(self.dir.path(), script)
    }

    /// `mkimg mount IMAGE POINT OPTIONS...`
    pub fn mount(&self, options: &[&str]) -> Mounted {
        let guard = Mounted::adopt(&self.point);
        let _ = mkimg(args!["mount", self.image, self.point]).args(options).current_dir(self.dir.path()).ok();
        guard
    }

    /// An overlay of mkimg, with `upper` and `work` made anew.
    pub fn overlay(&self) -> Mounted {
        let _ = self.sh("rm -rf upper work");
        self.mount(&["--upper", "upper", "--work", "work"])
    }

    /// An overlay of mount(8) with the options given, over a visible mount of the image at `low`.
    ///
    /// There are empty directories `one`, `two`, `upper` and `work` for it, made anew. `before` may fill them; then all
    /// get the attributes of the image's root. `@` in the options stands for the directory that they are in.
    pub fn by_hand(&self, options: &str, before: &str) -> [Mounted; 2] {
        let low = Mounted::adopt(&self.path("low"));
        let top = Mounted::adopt(&self.point);
        let _ = self.sh("rm -rf one two upper work; mkdir -p low one two upper work");
        let _ = mkimg(args!["mount", self.image, low.path()]).ok();
        let _ = self.sh(before);
        let _ = self.sh("chmod --reference=low one two upper; touch -r low one two upper");
        let options = options.replace('@', self.dir.path().to_str().unwrap());
        let _ = tool("mount", args!["-t", "overlay", "-o", options, "overlay", self.point]).ok();
        // The overlay goes first.
        [top, low]
    }

    /// Mounts the image in one of the ways of [`WAYS`].
    pub fn mount_by(&self, way: &str) -> Vec<Mounted> {
        match way {
            "file" => vec![self.mount(&["--via", "file"])],
            "loop" => vec![self.mount(&["--via", "loop"])],
            "mount(8)" => vec![Mounted::erofs(&self.image, &self.point)],
            "overlay" => vec![self.overlay()],
            "overlay of loop" => {
                let _ = self.sh("rm -rf upper work");
                vec![self.mount(&["--via", "loop", "--upper", "upper", "--work", "work"])]
            }
            "by hand" => self.by_hand("lowerdir=@/low,upperdir=@/upper,workdir=@/work", "").into(),
            other => panic!("no way to mount: {other}"),
        }
    }

    /// What an audit says.
    pub fn verify(&self, options: &[&str]) -> Verdict {
        Verdict::of(&mkimg(args!["verify", "--json", self.point]).args(options).output())
    }

    /// What an audit says to people.
    pub fn text(&self, options: &[&str]) -> String {
        mkimg(args!["verify", self.point]).args(options).output().out()
    }

    /// Root hash of the image.
    pub fn root_hash(&self) -> String {
        let inspection = mkimg(args!["inspect", "--json", self.image]).ok().json();
        inspection["verity"]["root_hash"].as_str().unwrap().to_owned()
    }

    /// First byte of a part of the image.
    pub fn area(&self, name: &str) -> u64 {
        let inspection = mkimg(args!["inspect", "--json", self.image]).ok().json();
        let areas = inspection["areas"].as_array().unwrap();
        areas.iter().find(|area| area["name"] == name).unwrap()["offset"].as_u64().unwrap()
    }

    /// Flips a bit of the byte at `offset` of the image.
    pub fn flip(&self, offset: u64) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&self.image).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }

    /// Exactly this is found, with any number of threads, and of that what `--only security` keeps.
    pub fn assert_found(&self, what: &str, found: &[&str]) {
        let unread = found.iter().any(|line| line.starts_with("unreadable "));
        let code = |found: &[&str]| if unread { 2 } else { i32::from(!found.is_empty()) };
        self.verify(&[]).assert(what, code(found), found);
        self.verify(&["--threads", "1"]).assert(what, code(found), found);
        let kept: Vec<&str> = found.iter().copied().filter(|line| is_kept(line)).collect();
        self.verify(&["--only", "security"]).assert(what, code(&kept), &kept);
    }

    /// Nothing of the test is left in the kernel.
    pub fn assert_clean(&self) {
        assert_eq!(loops_behind(&self.image), Vec::<String>::new(), "loop devices left behind");
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// Ways to mount an image.
pub const WAYS: [&str; 6] = ["file", "loop", "mount(8)", "overlay", "overlay of loop", "by hand"];

/// Runs a shell script in a directory; it must succeed.
pub fn sh(dir: &Path, script: &str) -> Finished {
    Run::new("sh").args(["-euc", script]).current_dir(dir).ok()
}

/// Forgets all that the system holds of files and can read again.
pub fn drop_caches() {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Whether `--only security` keeps a line of a [`Verdict`]: what gives power, and what hides anything.
fn is_kept(line: &str) -> bool {
    let hides = ["mount ", "changing ", "unreadable ", "image ", "kernel ", "file "];
    let powers = ["[set-id]", "[capability]", "[device]", "[privileged]"];
    hides.iter().any(|kind| line.starts_with(kind)) || powers.iter().any(|word| line.contains(word))
}

/// The JSON report of an audit.
#[derive(Debug)]
pub struct Verdict {
    /// Exit status.
    pub code: Option<i32>,
    /// Each finding in one line, sorted; see [`Verdict::of`].
    pub found: Vec<String>,
    /// The summary.
    pub summary: Value,
    shown: String,
}

impl Verdict {
    /// Reads what `mkimg verify --json MOUNTPOINT` printed.
    ///
    /// | view | line |
    /// |---|---|
    /// | kernel | `kernel KIND` |
    /// | processes | `KIND PATH CHANGE@LAYER [SECURITY] OFFSET+UNIT`, without what is absent; of LAYER the last name |
    /// | file | `file REGION OFFSET PATHS` |
    pub fn of(done: &Finished) -> Self {
        let mut lines = done.json_lines();
        let summary = lines.pop().unwrap_or_default();
        let shown = done.everything();
        assert!(summary["clean"].is_boolean(), "the summary comes last: {shown}");
        let mut found: Vec<String> = lines.iter().map(line).collect();
        found.sort();
        assert_eq!(summary["findings"], found.len(), "{shown}");
        // The three ways to say it agree.
        let code = done.status.code();
        let clean = summary["clean"] == true;
        let complete = summary["complete"] == true;
        let wanted = match (clean, complete) {
            (true, true) => 0,
            (false, true) => 1,
            (_, false) => 2,
        };
        assert_eq!(code, Some(wanted), "{shown}");
        assert_eq!(clean, complete && found.is_empty(), "{shown}");
        Self { code, found, summary, shown }
    }

    /// Panics unless exactly this was found, with this exit status.
    pub fn assert(&self, what: &str, code: i32, wanted: &[&str]) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(self.found, wanted, "{what}: {}", self.shown);
        assert_eq!(self.code, Some(code), "{what}: {}", self.shown);
    }

    /// Whether one of the reasons why not everything was seen has these words.
    pub fn assert_unseen(&self, what: &str, words: &str) {
        let unseen = self.summary["unseen"].as_array().unwrap();
        assert!(unseen.iter().any(|line| line.as_str().unwrap().contains(words)), "{what}: {}", self.shown);
    }

    /// Panics unless nothing was found.
    pub fn assert_healthy(&self, what: &str) {
        self.assert(what, 0, &[]);
        assert!(self.summary["entries"].as_u64() > Some(1), "{what}: {}", self.shown);
        assert!(self.summary["bytes_read"].as_u64() > Some(0), "{what}: {}", self.shown);
    }
}

fn line(value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let number = |key: &str| value[key].as_u64();
    match text("view") {
        "kernel" => format!("kernel {}", text("kind")),
        "file" => {
            let paths = |key: &str| value[key].as_array().cloned().unwrap_or_default();
            let paths: Vec<Value> = paths("paths").into_iter().chain(paths("paths_b64")).collect();
            let paths: Vec<&str> = paths.iter().filter_map(Value::as_str).collect();
            let line = format!("file {} {} {}", text("region"), number("offset").unwrap(), paths.join(" "));
            line.trim_end().to_owned()
        }
        "processes" => {
            let path = match value.get("path") {
                Some(path) => path.as_str().unwrap().to_owned(),
                None => format!("base64:{}", text("path_b64")),
            };
            let mut line = format!("{} {path}", text("kind"));
            if let Some(layer) = value.get("layer").and_then(Value::as_str) {
                let layer = Path::new(layer).file_name().unwrap().to_str().unwrap();
                line.push_str(&format!(" {}@{layer}", text("change")));
            } else {
                assert!(value.get("change").is_none(), "a change without a layer: {value}");
            }
            if value.get("security").is_some() {
                line.push_str(&format!(" [{}]", text("security")));
            }
            if let Some(offset) = number("offset") {
                line.push_str(&format!(" {offset}+{}", number("offset_unit").unwrap()));
            }
            line
        }
        other => panic!("view {other:?}: {value}"),
    }
}
