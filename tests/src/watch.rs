//! A running `mkimg watch --json`, and what it says.

use crate::command::{Run, mkimg_path};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How soon a change must be reported.
const SOON: Duration = Duration::from_secs(2);
/// How long nothing more must be said for it to be all. More than it takes to notice a change.
const QUIET: Duration = Duration::from_millis(350);

/// A watch that has begun.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    lines: Receiver<Value>,
    /// What it said before it began to wait: the audit.
    pub audit: Vec<Value>,
}

impl Watch {
    /// Starts `mkimg watch --json ARGS...` and waits until it watches.
    pub fn start(args: &[OsString]) -> Self {
        let mut child = Run::new(mkimg_path()).args(["watch", "--json"]).args(args).spawn();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.expect("the pipe of a child is readable");
                let value: Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        let mut audit = Vec::new();
        loop {
            match lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line["event"] == "watching" => break,
                Ok(line) => audit.push(line),
                Err(_) => {
                    let mut said = String::new();
                    let _ = child.kill();
                    let _ = child.stderr.take().expect("a pipe").read_to_string(&mut said);
                    panic!("no watch has begun: {audit:?}\n{said}");
                }
            }
        }
        Self { child, lines, audit }
    }

    /// Whatever is said until there is silence. At least `least` lines must come soon.
    fn said(&self, least: usize) -> Vec<Value> {
        let started = Instant::now();
        let mut said = Vec::new();
        loop {
            let patience = if said.len() < least { SOON.saturating_sub(started.elapsed()) } else { QUIET };
            match self.lines.recv_timeout(patience) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Timeout) => return said,
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {said:?}"),
            }
        }
    }

    /// All lines that come, until none has come for longer than a change may take to be reported.
    pub fn until_silence(&self) -> Vec<Value> {
        std::iter::from_fn(|| self.lines.recv_timeout(SOON / 2).ok()).collect()
    }

    /// Panics unless exactly these lines come, soon.
    pub fn expect(&self, what: &str, wanted: &[&str]) {
        let mut wanted: Vec<String> = wanted.iter().map(|&line| line.to_owned()).collect();
        wanted.sort();
        let mut said: Vec<String> = self.said(wanted.len()).iter().map(short).collect();
        said.sort();
        assert_eq!(said, wanted, "{what}");
    }

    /// Panics if anything is said for so long.
    pub fn expect_silence(&self, long: Duration) {
        match self.lines.recv_timeout(long) {
            Err(RecvTimeoutError::Timeout) => {}
            other => panic!("not quiet: {other:?}"),
        }
    }

    /// Sends a signal, see kill(1).
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = crate::command::tool("kill", ["-s", name, &pid]).ok();
    }

    /// Ends it by a signal; returns the exit status, and the last line, which sums up.
    pub fn end(self, signal: &str) -> (Option<i32>, Value) {
        self.signal(signal);
        self.ended()
    }

    /// Waits for its end; returns the exit status, and the last line.
    pub fn ended(mut self) -> (Option<i32>, Value) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let last = std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_secs(5)).ok()).last();
        (status.code(), last.unwrap_or_default())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two words of a line that tests compare.
fn short(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().map(str::to_owned);
    let event = text("event").unwrap_or_else(|| panic!("a line without event: {line}"));
    let what = text("path").or_else(|| text("cause")).or_else(|| text("what"));
    // Of what is wrong below a mount, both the event and the part are told.
    let first = text("kind").filter(|_| what.is_some()).unwrap_or(event);
    let second = what.or_else(|| text("region")).or_else(|| text("kind"));
    second.map_or_else(|| first.clone(), |second| format!("{first} {second}"))
}
