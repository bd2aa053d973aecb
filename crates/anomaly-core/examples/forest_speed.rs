//! Microseconds per row of sampling, training and scoring: 1,000,000 rows of 10 normal features, 100
//! trees of 256 rows; the best of several passes.
//! `cargo run --release -p anomaly-core --example forest_speed`

use std::hint::black_box;
use std::time::Instant;

use anomaly_core::Result;
use anomaly_core::forest::{IsolationForest, Options, Sampler, Scratch};
use anomaly_core::progress::Unbounded;
use serde_json::json;

#[path = "../tests/common/mod.rs"]
mod common;
use common::Rng;

const ROWS: usize = 1_000_000;
const FEATURES: usize = 10;

/// Nanoseconds that this process has been on a processor, where the system tells (Linux), so that
/// other load does not count.
fn on_cpu() -> Option<f64> {
    std::fs::read_to_string("/proc/self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// Seconds of the best of `passes`.
fn best(passes: u32, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..passes {
        let (start, cpu) = (Instant::now(), on_cpu());
        work()?;
        best = best.min(match (cpu, on_cpu()) {
            (Some(a), Some(b)) if b > a => (b - a) / 1e9,
            _ => start.elapsed().as_secs_f64(),
        });
    }
    Ok(best)
}

fn main() -> Result<()> {
    let mut rng = Rng(1);
    let rows: Vec<f64> = (0..ROWS * FEATURES).map(|_| rng.normal()).collect();
    let mut sampler = Sampler::new(FEATURES, 8000, 1)?;
    let sampling = best(3, || {
        sampler = Sampler::new(FEATURES, 8000, 1)?;
        rows.chunks_exact(FEATURES).try_for_each(|row| sampler.add(row))
    })?;
    println!("sampling {:.4} µs/row", sampling);
    let sample = sampler.sample()?;
    for (variant, map) in [
        ("mixed", json!({})),
        ("standard", json!({"variant": "standard"})),
        ("sciforest", json!({"variant": "sciforest"})),
        ("extended", json!({"variant": "extended"})),
        ("density", json!({"variant": "density"})),
    ] {
        let options = Options::from_json(map.as_object().expect("it is an object"))?;
        let mut forest = IsolationForest::train(&sample, &options, &mut Unbounded)?;
        let training = best(3, || {
            forest = IsolationForest::train(&sample, &options, &mut Unbounded)?;
            Ok(())
        })?;
        let bytes = forest.encode()?;
        let decoding = best(3, || {
            black_box(IsolationForest::decode(&bytes)?);
            Ok(())
        })?;
        let mut scratch = Scratch::default();
        let part = &rows[..ROWS / 4 * FEATURES];
        let score = best(4, || {
            for row in part.chunks_exact(FEATURES) {
                black_box(forest.score(row, &mut scratch)?);
            }
            Ok(())
        })?;
        let judge = best(4, || {
            for row in part.chunks_exact(FEATURES) {
                black_box(forest.judge(row, &mut scratch)?);
            }
            Ok(())
        })?;
        println!(
            "{variant:9} training {training:.3} s, {} kB, decoded in {:.1} ms, score {:.3} µs/row, judge {:.3} µs/row",
            bytes.len() / 1000,
            1e3 * decoding,
            4.0 * score,
            4.0 * judge,
        );
    }
    Ok(())
}
