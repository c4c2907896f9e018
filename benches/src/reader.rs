//! Reads a mounted tree and prints how long it took: `bench-reader walk|sequential|random cold|warm DIR`
//!
//! - `walk`: every directory is listed and every name looked up, as `find -ls` does. Prints seconds and names.
//! - `sequential`: every regular file, front to back, in the order of their names. Prints seconds and bytes.
//! - `random`: 4 KiB at a time, at places that depend on a fixed seed alone, each byte of the tree as likely as any other.
//!   Prints seconds and reads.
//!
//! Names are gathered before the clock starts. `cold` then empties the caches of the kernel, which takes root; `warm`
//! does the work once before it is measured. One thread.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const READS: u64 = 5000;
const READ_LEN: usize = 4096;
const BUFFER_LEN: usize = 1 << 20;
const SEED: u64 = 0x6d6b_696d_6700_0001;

/// The cache of pages, and that of names and inodes.
const DROP_CACHES: (&str, &str) = ("/proc/sys/vm/drop_caches", "3");

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [operation, state, dir] = arguments.as_slice() else {
        eprintln!("usage: bench-reader walk|sequential|random cold|warm DIR");
        return ExitCode::from(2);
    };
    match measure(operation, state, Path::new(dir)) {
        Ok((seconds, count)) => {
            println!("{seconds:.6} {count}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{operation} {state} {dir}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Seconds, and how much was done in them.
fn measure(operation: &str, state: &str, dir: &Path) -> io::Result<(f64, u64)> {
    let files = walk(dir)?.files;
    let work = || match operation {
        "walk" => walk(dir).map(|found| found.names),
        "sequential" => sequential(&files),
        "random" => random(&files),
        _ => Err(io::Error::other("no such operation")),
    };
    match state {
        "cold" => fs::write(DROP_CACHES.0, DROP_CACHES.1)?,
        "warm" => _ = work()?,
        _ => return Err(io::Error::other("neither cold nor warm")),
    }
    let start = Instant::now();
    let count = work()?;
    Ok((start.elapsed().as_secs_f64(), count))
}

#[derive(Default)]
struct Found {
    names: u64,
    /// Regular files that are not empty, sorted by name, with their size.
    files: Vec<(PathBuf, u64)>,
}

fn walk(dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            found.names += 1;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if metadata.is_file() && metadata.len() > 0 {
                found.files.push((entry.path(), metadata.len()));
            }
        }
    }
    found.files.sort();
    Ok(found)
}

fn sequential(files: &[(PathBuf, u64)]) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut bytes = 0;
    for (path, _) in files {
        let mut file = File::open(path)?;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            bytes += u64::try_from(n).unwrap_or_default();
        }
    }
    Ok(bytes)
}

fn random(files: &[(PathBuf, u64)]) -> io::Result<u64> {
    let mut ends = Vec::with_capacity(files.len());
    let mut total = 0;
    for (_, size) in files {
        total += size;
        ends.push(total);
    }
    if total == 0 {
        return Ok(0);
    }
    let mut buffer = [0; READ_LEN];
    let mut state = SEED;
    for _ in 0..READS {
        let place = next(&mut state) % total;
        let number = ends.partition_point(|end| *end <= place);
        let (path, size) = &files[number];
        let offset = (place - (ends[number] - size)) / READ_LEN as u64 * READ_LEN as u64;
        File::open(path)?.read_at(&mut buffer, offset)?;
    }
    Ok(READS)
}

/// The next of a row of numbers (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
