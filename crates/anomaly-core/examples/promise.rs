//! How the alert rate of a strategy on quiet series compares with the promised one as they grow, per
//! kind of series, in Markdown: flagged share divided by alpha, by the points seen before.
//!
//! `cargo run --release -p anomaly-core --example promise -- STRATEGY [series per cell]`

use std::io::Write;
use std::time::Instant;

use anomaly_core::strategy::Kind;
use anomaly_core::{Detector, DetectorConfig, Point};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/stable.rs"]
mod stable;

const AGES: [usize; 6] = [100, 200, 400, 1000, 3000, 10_000];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let strategy = args.first().map_or("auto", String::as_str);
    let series: u64 = args.get(1).and_then(|a| a.parse().ok()).unwrap_or(30);
    println!("| series |");
    AGES.windows(2).for_each(|w| print!(" {} to {} |", w[0], w[1]));
    println!();
    for noise in &stable::KINDS {
        let mut line = format!("| {} |", noise.name);
        let mut seconds = 0.0;
        let mut cells = vec![String::new(); AGES.len() - 1];
        for alpha in [0.01, 0.001] {
            let detector = Detector::new(DetectorConfig {
                strategy: strategy.into(),
                kind: noise.kind,
                alerts_per_day: alpha,
                points_per_day: Some(1.0),
                ..DetectorConfig::default()
            });
            let Ok(detector) = detector else { continue };
            let detector = detector.with_ranges_of_anomalies_only();
            let mut flagged = [0u64; AGES.len() - 1];
            let start = Instant::now();
            for seed in 1..=series {
                let mut rng = common::Rng(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
                let mut state = detector.new_state();
                let mut last = 0.0;
                for i in 0..AGES[AGES.len() - 1] {
                    last = (noise.next)(&mut rng, i, last);
                    let level = if noise.kind == Kind::Value { 100.0 } else { 0.0 };
                    let point = Point::new(i as i64 * 3_600_000_000, level + last);
                    let verdict = detector.process(&mut state, None, &point).verdict;
                    if verdict.is_anomaly
                        && let Some(age) = AGES.windows(2).position(|w| (w[0]..w[1]).contains(&i))
                    {
                        flagged[age] += 1;
                    }
                }
            }
            seconds += start.elapsed().as_secs_f64();
            for ((cell, w), n) in cells.iter_mut().zip(AGES.windows(2)).zip(flagged) {
                let due = alpha * (series as usize * (w[1] - w[0])) as f64;
                cell.push_str(&format!(" {:.2}", n as f64 / due));
            }
        }
        cells.iter().for_each(|c| line.push_str(&format!("{c} |")));
        println!("{line} {:.2} µs", seconds * 1e6 / (2 * series as usize * 10_000) as f64);
        let _ = std::io::stdout().flush();
    }
}
