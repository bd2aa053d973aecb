//! Runs a fuzzer's function over damaged copies of its seeds, so many times, on stable Rust:
//!
//! ```sh
//! cargo run --release -p anomaly-core --example fuzz_loop -- exported_model 10000000
//! ```
//!
//! The same number of times is the same inputs. It knows nothing of coverage, which is what cargo-fuzz is
//! for, and needs neither nightly Rust nor its sanitizers, which take most of the time there.

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::time::Instant;

use fuzz::TARGETS;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A number that is at the edge of something as often as not.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 10] = [
            0,
            1,
            255,
            65_535,
            i64::MAX as u64,
            i64::MIN as u64,
            u32::MAX as u64,
            u64::MAX,
            0x7FF8_0000_0000_0000, // NaN
            0x7FEF_FFFF_FFFF_FFFF, // the largest number
        ];
        match self.below(3) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.next() % 300,
            _ => self.next(),
        }
    }

    fn damage(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(data.len());
            match self.below(8) {
                0 => data.truncate(at),
                1 => data.extend_from_slice(&other[self.below(other.len())..]),
                2 => {
                    let until = (at + self.below(64)).min(data.len());
                    data.drain(at..until);
                }
                3 => {
                    let from = self.below(other.len());
                    let until = (from + self.below(64)).min(other.len());
                    data.splice(at..at, other[from..until].iter().copied());
                }
                4 if !data.is_empty() => data[at] ^= 1 << self.below(8),
                5 if !data.is_empty() => data[at] = self.next() as u8,
                _ => {
                    let bytes = self.number().to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    for (slot, byte) in data.iter_mut().skip(at).zip(&bytes[..width]) {
                        *slot = *byte;
                    }
                }
            }
        }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (name, times) = (arguments.next().unwrap_or_default(), arguments.next());
    let target = TARGETS.iter().find(|target| target.name == name);
    let (Some(target), Some(times)) = (target, times.and_then(|n| n.parse::<u64>().ok())) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz_loop TARGET TIMES, with a target of {}", names.join(", "));
        std::process::exit(2);
    };
    let seeds = (target.seeds)();
    let began = Instant::now();
    let mut random = Random(1);
    let mut data = Vec::new();
    for i in 0..times {
        data.clear();
        data.extend_from_slice(&seeds[random.below(seeds.len())]);
        let other = &seeds[random.below(seeds.len())];
        random.damage(&mut data, other);
        if std::panic::catch_unwind(|| (target.run)(&data)).is_err() {
            let text: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("execution {i} of {name} panicked on {text}");
            std::process::exit(1);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{times} executions of {name} in {seconds:.0} s, {:.0} a second",
        times as f64 / seconds
    );
}
