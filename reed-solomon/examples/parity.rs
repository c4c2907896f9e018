//! Prints how fast parity is computed: `cargo run --release --example parity -p mkimg-reed-solomon`
//!
//! One thread, whole rounds of messages of 4 KiB rows; printed is the median.

use std::time::Instant;

use mkimg_reed_solomon::{CODEWORD, COLUMNS, Encoder, Sums};

const ROUNDS: usize = 21;

fn main() {
    for roots in [2, 4, 8, 16, 24] {
        let rows = CODEWORD - roots;
        let mut message = vec![0x5a; rows * COLUMNS];
        let (encoder, mut sums) = (Encoder::new(roots), Sums::new(roots));
        let mut parity = vec![0; roots * COLUMNS];
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            sums.clear();
            message.chunks_exact(COLUMNS).for_each(|row| sums.push(row));
            encoder.parity(&sums, &mut parity);
            // The next round has another message, so none can be left out.
            message[0] = parity[0];
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!("{roots:>2} roots: {:.2} GB/s", (rows * COLUMNS) as f64 / times[ROUNDS / 2] / 1e9);
    }
}
