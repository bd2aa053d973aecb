//! Share of normal points that each strategy flags, against the promise, per kind of noise; the
//! table in docs/strategies. `cargo run --release -p anomaly-core --example calibration`.

use anomaly_core::{Detector, DetectorConfig, Point, Result};

#[path = "../tests/common/mod.rs"]
mod common;
use common::Rng;

fn main() -> Result<()> {
    type Noise = fn(&mut Rng) -> f64;
    let kinds: [(&str, Noise); 6] = [
        ("normal", |r| r.normal()),
        ("t(4)", |r| r.t4()),
        ("laplace", |r| r.exponential() * if r.uniform() < 0.5 { -1.0 } else { 1.0 }),
        ("exponential", |r| r.exponential()),
        ("lognormal(0.5)", |r| libm::exp(0.5 * r.normal())),
        ("counts (Poisson 3)", |r| {
            let (mut k, mut p) = (0.0, r.uniform());
            while p > 0.049_787_068 {
                p *= r.uniform();
                k += 1.0;
            }
            k
        }),
    ];
    println!("flagged share / promised share after 100 training points, 200,000 points fed");
    for alpha in [0.05, 0.01, 0.001] {
        for (name, noise) in kinds {
            print!("alpha {alpha:5} {name:20}");
            for strategy in common::STRATEGIES {
                let detector = Detector::new(DetectorConfig {
                    strategy: strategy.into(),
                    alerts_per_day: alpha,
                    points_per_day: Some(1.0),
                    ..DetectorConfig::default()
                })?;
                let mut flagged = 0u32;
                let runs = 20;
                for seed in 0..runs {
                    let mut rng = Rng(seed);
                    let mut state = detector.new_state();
                    for i in 0..100 {
                        detector.train(&mut state, &Point::new(i, noise(&mut rng)));
                    }
                    for i in 100..10_100 {
                        let outcome =
                            detector.process(&mut state, None, &Point::new(i, noise(&mut rng)));
                        flagged += u32::from(outcome.verdict.is_anomaly);
                    }
                }
                let share = f64::from(flagged) / (runs as f64 * 10_000.0);
                print!("  {:6.2}", share / alpha);
            }
            println!();
        }
    }
    Ok(())
}
