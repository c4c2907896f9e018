//! Running programs with captured output and a deadline.

use crate::need;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may run unless the test says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target`.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::project().join("target"), PathBuf::from)
}

/// The `mkimg` program under test: `MKIMG_BIN`, or the newest one that cargo built in this source tree.
pub fn mkimg_path() -> PathBuf {
    if let Some(path) = std::env::var_os("MKIMG_BIN") {
        return PathBuf::from(path);
    }
    ["release", "debug"]
        .map(|profile| target().join(profile).join("mkimg"))
        .into_iter()
        .filter_map(|path| Some((std::fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .expect("no mkimg program: run `cargo build --release -p mkimg` or set MKIMG_BIN")
}

/// `mkimg ARGS...`
pub fn mkimg<I: IntoIterator<Item: AsRef<OsStr>>>(args: I) -> Run {
    Run::new(mkimg_path()).args(args)
}

/// `TOOL ARGS...`, the tool found by [`need::tool`].
pub fn tool<I: IntoIterator<Item: AsRef<OsStr>>>(name: &str, args: I) -> Run {
    Run::new(need::tool(name)).args(args)
}

/// The arguments of [`mkimg`] and [`tool`], of any mixture of string and path types.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$(std::ffi::OsString::from(AsRef::<std::ffi::OsStr>::as_ref(&$arg))),*]
    };
}

/// A program about to be run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
    deadline: Duration,
}

impl Run {
    /// Runs `program` with the C locale and no standard input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program.as_ref());
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, shown: program.as_ref().to_string_lossy().into_owned(), deadline: DEADLINE }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        for arg in args {
            self.shown.push(' ');
            self.shown.push_str(&arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in another working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Changes the deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the program and leaves it to the caller.
    pub fn spawn(mut self) -> Child {
        self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.shown))
    }

    /// Runs the program to its end. Panics when it passes its deadline.
    pub fn output(self) -> Finished {
        let (shown, deadline) = (self.shown.clone(), self.deadline);
        let started = Instant::now();
        let mut child = self.spawn();
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{shown}: still running after {deadline:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Finished {
            shown,
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
            elapsed: started.elapsed(),
        }
    }

    /// Runs the program and panics unless it exits with 0.
    pub fn ok(self) -> Finished {
        self.output().code(0)
    }
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("the pipe of a child is readable");
        }
        bytes
    })
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
}

impl Finished {
    /// Panics unless the exit status is `wanted`.
    #[must_use]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(wanted),
            "{}: exit status {:?}, signal {:?}\nstdout: {}\nstderr: {}",
            self.shown,
            self.status.code(),
            self.status.signal(),
            self.out(),
            self.err(),
        );
        self
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Both outputs, for tools that complain on either.
    pub fn everything(&self) -> String {
        self.out() + &self.err()
    }

    /// The one error line `mkimg: CONTEXT: CAUSE`. Panics when there is none or more than one; warnings do not count.
    pub fn error_line(&self) -> String {
        let text = self.err();
        let warnings = ["warning", "mkimg: warning"];
        let lines: Vec<&str> =
            text.lines().filter(|line| !warnings.iter().any(|w| line.starts_with(w))).collect();
        assert_eq!(lines.len(), 1, "{}: wanted one line on stderr: {text:?}", self.shown);
        assert!(text.ends_with('\n'), "{}: the error line is not ended: {text:?}", self.shown);
        assert!(lines[0].starts_with("mkimg: "), "{}: {text:?}", self.shown);
        assert!(!lines[0].chars().any(char::is_control), "{}: control characters: {text:?}", self.shown);
        lines[0].to_owned()
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: not JSON: {error}\n{}", self.shown, self.out()))
    }

    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}: not JSON: {error}: {line:?}", self.shown))
        };
        std::str::from_utf8(&self.stdout).expect("JSON is UTF-8").lines().map(parse).collect()
    }
}
