//! Nanoseconds per point of the detection path, the best of several passes, one line per strategy.
//! `cargo run --release -p anomaly-core --example detect_speed`
//!
//! process: one warm entity, 1M normal points. scan: 10,000 entities with 150 points each, decoded,
//! fed 100 points, encoded; per point.

use std::hint::black_box;
use std::time::Instant;

use anomaly_core::{Detector, DetectorConfig, Point, Result};

#[path = "../tests/common/mod.rs"]
mod common;
use common::Rng;

/// Nanoseconds that this process has been on a processor, where the system tells (Linux), so that
/// other load does not count.
fn on_cpu() -> Option<f64> {
    std::fs::read_to_string("/proc/self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// Nanoseconds per unit of work, the best of `passes`.
fn best(passes: u32, units: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..passes {
        let (start, cpu) = (Instant::now(), on_cpu());
        work()?;
        let elapsed = match (cpu, on_cpu()) {
            (Some(a), Some(b)) if b > a => b - a,
            _ => start.elapsed().as_nanos() as f64,
        };
        best = best.min(elapsed / units as f64);
    }
    Ok(best)
}

fn main() -> Result<()> {
    let mut rng = Rng(1);
    let points: Vec<Point> =
        (0..1_000_000).map(|i| Point::new(i, 100.0 + 20.0 * rng.normal())).collect();
    for strategy in common::STRATEGIES {
        let detector = Detector::new(DetectorConfig {
            strategy: strategy.into(),
            points_per_day: Some(1e6),
            ..DetectorConfig::default()
        })?;
        let mut state = detector.new_state();
        let train = best(50, 1000, || {
            state = detector.new_state();
            points[..1000].iter().for_each(|p| detector.train(&mut state, p));
            Ok(())
        })?;
        let process = best(5, points.len(), || {
            for p in &points {
                black_box(detector.process(&mut state, None, p));
            }
            Ok(())
        })?;
        let mut young = detector.new_state();
        points[..150].iter().for_each(|p| detector.train(&mut young, p));
        let young = detector.encode_state(&young)?;
        let scan = best(3, points.len(), || {
            for chunk in points.chunks(100) {
                let mut state = detector.decode_state(black_box(&young))?;
                for p in chunk {
                    black_box(detector.process(&mut state, None, p));
                }
                black_box(detector.encode_state(&state)?);
            }
            Ok(())
        })?;
        let bytes = detector.encode_state(&state)?;
        let decode = best(50, 1000, || {
            (0..1000).try_for_each(|_| {
                black_box(detector.decode_state(black_box(&bytes))?);
                Ok(())
            })
        })?;
        let encode = best(50, 1000, || {
            (0..1000).try_for_each(|_| {
                black_box(detector.encode_state(black_box(&state))?);
                Ok(())
            })
        })?;
        let verdicts: Vec<_> = points[..1000].iter().map(|p| detector.judge(&state, p)).collect();
        let ln_p = best(50, 1000, || {
            verdicts.iter().for_each(|v| {
                black_box(v.ln_p());
            });
            Ok(())
        })?;
        let deviation = best(50, 1000, || {
            verdicts.iter().for_each(|v| {
                black_box(v.deviation());
            });
            Ok(())
        })?;
        println!(
            "{strategy:18} ns/point: train {train:.0}, process {process:.0}, scan {scan:.0}, \
             ln_p {ln_p:.0}, deviation {deviation:.0}; ns/state: decode {decode:.0}, \
             encode {encode:.0}; {} bytes",
            bytes.len()
        );
    }
    Ok(())
}
