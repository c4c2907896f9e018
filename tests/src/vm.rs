//! Virtual machines with the stock kernels that `vm/setup.sh` unpacks.
//!
//! The running kernel may lack what mkimg is for: device-mapper, fs-verity. QEMU emulates a machine, so this needs
//! neither hardware support nor root. The guest has a busybox, the kernel's modules, programs of this machine with their
//! libraries, and one ext4 disk with whatever the test puts there. If that is an image `root.mkimg`, it goes on with the
//! systemd in there (`vm/systemd/boot`). `vm/run-steps` runs the steps of a folder in one boot, and says how each went
//! on a serial port of its own.

use crate::command::{self, Run};
use crate::need::{find_tool, tools_dir};
use crate::{args, project};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a machine may run. Emulated, it boots in a few seconds, with systemd in half a minute, and uses one
/// processor most of the time, so several run side by side, which takes each a minute or two.
const DEADLINE: Duration = Duration::from_secs(300);

/// Room on the disk of the guest.
const DISK_SIZE: &str = "256M";

/// What a guest must find in a mounted image, as `tree_is_as_listed` of `vm/helpers.sh` compares it.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree {
    /// A line for each name: type and mode, owner, group, size, links and seconds of its time.
    stat: String,
    /// A line for each regular file.
    sha256: String,
}

impl Tree {
    /// The tree of an image, as `mkimg ls` lists it on this machine.
    pub fn of(image: &Path) -> Self {
        let (mut stat, mut sha256) = (Vec::new(), String::new());
        for line in command::mkimg(args!["ls", "--json", image]).ok().json_lines() {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            let number = |key: &str| line[key].as_u64().unwrap();
            let kind = match text("type").as_str() {
                "file" => 0o100_000,
                "dir" => 0o040_000,
                "symlink" => 0o120_000,
                "char" => 0o020_000,
                "block" => 0o060_000,
                "fifo" => 0o010_000,
                other => panic!("the image has a {other}"),
            };
            // As find names it, from the top of the tree.
            let path = format!(".{}", text("path"));
            let path = path.strip_suffix('/').unwrap_or(&path);
            // Whole seconds, rounded down, stand before the point.
            let mtime = text("mtime");
            let seconds = mtime.split('.').next().unwrap();
            let [uid, gid, size, links] = ["uid", "gid", "size", "nlink"].map(number);
            stat.push(format!("{path} {:x} {uid} {gid} {size} {links} {seconds}\n", kind | number("mode")));
            if line["sha256"].is_string() {
                writeln!(sha256, "{}  {}", text("sha256"), path.trim_start_matches("./")).unwrap();
            }
        }
        stat.sort();
        Self { stat: stat.concat(), sha256 }
    }

    /// Writes the lists into the files `stat` and `sha256` of `dir`.
    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("stat"), &self.stat).unwrap();
        std::fs::write(dir.join("sha256"), &self.sha256).unwrap();
    }
}

/// A kernel, and what else is needed to run it.
#[derive(Debug)]
pub struct Machine {
    qemu: PathBuf,
    kernel: PathBuf,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything it looked for was so.
    Pass,
    /// It does not apply to this kernel, for the reason given.
    Skip(String),
    /// It said what was wrong on the console.
    Fail,
}

/// What a run has shown.
#[derive(Debug)]
pub struct Report {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The steps in the order of their names.
    pub steps: Vec<(String, Outcome)>,
    /// One line: seconds of the machine from its start to the first step, and of each step.
    pub times: String,
    /// What the kernel and the steps have said.
    pub console: String,
}

/// What a machine that ran has said, on its two serial ports.
struct Ended {
    /// By itself, before its deadline.
    ended: bool,
    console: String,
    results: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how =
            if self.ended { "ended otherwise than it should" } else { "was still running at its deadline" };
        write!(f, "{how}\nconsole:\n{}\nresults:\n{}", self.console, self.results)
    }
}

impl Machine {
    /// The machine with the kernel that `vm/setup.sh` calls `name`. `Err` holds the reason why there is none.
    pub fn find(name: &str) -> Result<Self, String> {
        let qemu = find_tool("qemu-system-x86_64").ok_or("no QEMU (tests/vm/setup.sh gets it)")?;
        let kernel = tools_dir().join("vm").join(name);
        if !kernel.join("modules.cpio").is_file() {
            return Err(format!("no kernel {name} (tests/vm/setup.sh gets it)"));
        }
        Ok(Self { qemu, kernel })
    }

    /// Boots, runs `steps` of `folder` with the files in `disk` as the root of the guest's disk, and reports.
    /// `programs` can be called in the guest by the names given. Temporary files go to `scratch`.
    ///
    /// Panics when the machine does not come to its end, with what its console shows.
    pub fn run(
        &self,
        folder: &str,
        steps: &[String],
        programs: &[(&str, PathBuf)],
        disk: &Path,
        scratch: &Path,
    ) -> Report {
        let run = self.boot(folder, steps, "", programs, disk, scratch);
        match parse(&run.results) {
            Some(report) if report.release == self.release() => Report { console: run.console, ..report },
            _ => panic!("the machine {run}"),
        }
    }

    /// Boots and runs `vm/fatal/damage.sh` alone, in which a damaged block is read of an image that was mounted with
    /// `--on-corruption POLICY`. Gives back what the console shows of the end of the machine.
    ///
    /// Panics when the machine ends in another way: by a step that failed, by switching off, or not at all.
    pub fn run_to_death(
        &self,
        policy: &str,
        programs: &[(&str, PathBuf)],
        disk: &Path,
        scratch: &Path,
    ) -> String {
        let run =
            self.boot("fatal", &["damage".to_owned()], &format!("POLICY={policy}"), programs, disk, scratch);
        let [began] = run.results.lines().collect::<Vec<_>>()[..] else { panic!("the machine {run}") };
        assert!(began.starts_with(&format!("boot {} ", self.release())), "the machine {run}");
        assert!(run.ended, "the machine {run}");
        let (_, last) =
            run.console.split_once("read the damaged block").unwrap_or_else(|| panic!("the machine {run}"));
        last.to_owned()
    }

    /// As `uname -r` prints it.
    fn release(&self) -> String {
        std::fs::read_to_string(self.kernel.join("release")).unwrap().trim_end().to_owned()
    }

    /// Runs steps of a folder until the machine ends or its time is up. A restart is an end. `parameters` go to the kernel, which makes
    /// variables of them for the first process.
    fn boot(
        &self,
        folder: &str,
        steps: &[String],
        parameters: &str,
        programs: &[(&str, PathBuf)],
        disk: &Path,
        scratch: &Path,
    ) -> Ended {
        let (initrd, image) = (scratch.join("initrd.cpio"), scratch.join("disk.ext4"));
        let (console, results) = (scratch.join("console.log"), scratch.join("results.log"));
        let root = scratch.join("initrd");
        let scripts = project().join("tests/vm").join(folder);
        for step in steps.iter().map(|step| format!("{step}.sh")) {
            install(&scripts.join(&step), &root.join("steps").join(&step));
        }
        self.write_initrd(programs, &root, &initrd);
        // The feature for fs-verity, and blocks of the size of a page, without which old kernels refuse to seal.
        let _ = command::tool(
            "mkfs.ext4",
            args!["-q", "-b", "4096", "-O", "verity", "-d", disk, image, DISK_SIZE],
        )
        .ok();
        let run = Run::new(&self.qemu)
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "1024",
                "-smp",
                "2",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args(args!["-no-reboot", "-kernel", self.kernel.join("vmlinuz"), "-initrd", initrd])
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 {parameters}")])
            .args(["-drive", &format!("file={},if=virtio,format=raw,cache=unsafe", image.display())])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("file:{}", results.display())]);
        let started = Instant::now();
        let mut child = run.spawn();
        let ended = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if started.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        Ended { ended, console: text(&console), results: text(&results) }
    }

    /// The first root file system: the kernel's modules, and a second archive of `root` that is unpacked over them.
    fn write_initrd(&self, programs: &[(&str, PathBuf)], root: &Path, initrd: &Path) {
        let scripts = project().join("tests/vm");
        let scripts = ["init", "run-steps", "helpers.sh", "systemd"].map(|name| scripts.join(name));
        let _ = command::tool("cp", ["-r"]).args(scripts).args([root]).ok();
        install(&find_tool("busybox").expect("busybox-static is installed"), &root.join("bin/busybox"));
        for (name, program) in programs {
            install(program, &root.join("programs").join(name));
            for library in libraries(program) {
                install(&library, &root.join(library.strip_prefix("/").unwrap()));
            }
        }
        let pack = "cd \"$1\" && find . | busybox cpio -o -H newc | cat \"$2\" - >\"$3\"";
        let modules = self.kernel.join("modules.cpio");
        let _ = command::tool("sh", args!["-euc", pack, "sh", root, modules, initrd]).ok();
    }
}

/// The names of the steps in a folder of `tests/vm`, in the order in which they run.
pub fn steps(folder: &str) -> Vec<String> {
    let names = crate::names_in(&project().join("tests/vm").join(folder));
    names
        .iter()
        .map(|name| name.strip_suffix(".sh").expect("guest steps are shell scripts").to_owned())
        .collect()
}

/// Copies a file, not a link to it, with its mode.
fn install(file: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(file, to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// The dynamic loader and the libraries of a program; none when it is linked statically.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = command::tool("ldd", args![program]).output().out();
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Reads the lines of `vm/run-steps`. `None` when they do not go from `boot` to `end`.
fn parse(results: &str) -> Option<Report> {
    let mut lines = results.lines();
    let (release, boot) = lines.next()?.strip_prefix("boot ")?.split_once(' ')?;
    let (mut steps, mut times) = (Vec::new(), format!("boot {boot} s"));
    for line in lines {
        if line == "end" {
            return Some(Report { release: release.to_owned(), steps, times, console: String::new() });
        }
        let (word, rest) = line.split_once(' ')?;
        let (step, detail) = rest.split_once(' ')?;
        let outcome = match word {
            "PASS" => {
                times.push_str(&format!(", {step} {detail} s"));
                Outcome::Pass
            }
            "SKIP" => Outcome::Skip(detail.to_owned()),
            "FAIL" => Outcome::Fail,
            _ => return None,
        };
        steps.push((step.to_owned(), outcome));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_to_their_end_or_not_at_all() {
        let whole = "boot 6.1.0 2.5\r\nPASS a 0.1\r\nSKIP b too old for it\r\nFAIL c 1\r\nend\r\n";
        let report = parse(whole).unwrap();
        let wanted =
            [("a", Outcome::Pass), ("b", Outcome::Skip("too old for it".to_owned())), ("c", Outcome::Fail)]
                .map(|(step, outcome)| (step.to_owned(), outcome));
        assert_eq!((report.release.as_str(), &report.steps[..]), ("6.1.0", &wanted[..]));
        assert_eq!(report.times, "boot 2.5 s, a 0.1 s");
        for broken in
            ["", "boot 6.1.0 2.5\nPASS a 0.1\n", "PASS a 0.1\nend\n", "boot 6.1.0 2\nHUH a 1\nend\n"]
        {
            assert!(parse(broken).is_none(), "{broken:?}");
        }
    }
}
