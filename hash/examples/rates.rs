//! Prints how fast each implementation hashes blocks of 4 KiB: `cargo run --release --example rates -p mkimg-hash`
//!
//! Each thread hashes a buffer of its own of 128 blocks, which fits into the cache. Implementations take turns, so
//! that a busy machine slows all of them down; printed is the median of the rounds.

use std::time::Instant;

use mkimg_hash::{Digest, Implementation};

const BLOCK_LEN: usize = 4096;
const BLOCKS: usize = 128;
const ROUNDS: usize = 15;
/// Buffers a thread hashes in one round.
const BUFFERS: usize = 400;

fn main() {
    for threads in [1, 2] {
        let mut rates: Vec<(&str, Implementation, Vec<f64>)> = Vec::new();
        for (name, implementation) in Implementation::all() {
            match implementation {
                Some(implementation) => rates.push((name, implementation, Vec::new())),
                None => println!("{name}: not on this processor"),
            }
        }
        for _ in 0..ROUNDS {
            for (_, implementation, rates) in &mut rates {
                rates.push(rate(*implementation, threads));
            }
        }
        for (name, _, mut rates) in rates {
            rates.sort_by(f64::total_cmp);
            println!("{threads} threads, {name}: {:.2} GB/s", rates[ROUNDS / 2]);
        }
    }
}

/// GB/s of all threads together.
fn rate(implementation: Implementation, threads: usize) -> f64 {
    let mut buffers = vec![(vec![0x5a; BLOCKS * BLOCK_LEN], [Digest::default(); BLOCKS]); threads];
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (blocks, digests) in &mut buffers {
            scope.spawn(move || {
                for _ in 0..BUFFERS {
                    implementation.hash_salted_blocks(&[], blocks, BLOCK_LEN, digests);
                    // The next round hashes other bytes, so none can be left out.
                    blocks[0] = digests[BLOCKS - 1][0];
                }
            });
        }
    });
    (threads * BUFFERS * BLOCKS * BLOCK_LEN) as f64 / start.elapsed().as_secs_f64() / 1e9
}
