//! Stable series: nothing in them is unusual, so that what is flagged measures the calibration.
#![allow(dead_code)]

use anomaly_core::strategy::Kind;
use anomaly_core::{Detector, DetectorConfig, Point};

use super::common::Rng;

/// Points learned before any is counted.
pub const LEARNED: usize = 2000;
const HOUR: i64 = 3_600_000_000;

/// A kind of noise.
pub struct Noise {
    pub name: &'static str,
    pub kind: Kind,
    /// The value of hour `i`, given the value before.
    pub next: fn(&mut Rng, i: usize, last: f64) -> f64,
}

fn poisson(rng: &mut Rng, mean: f64) -> f64 {
    let (mut k, mut p) = (0.0, libm::exp(-mean));
    let mut u = rng.uniform() - p;
    while u > 0.0 && k < 1e4 {
        k += 1.0;
        p *= mean / k;
        u -= p;
    }
    k
}

fn t3(rng: &mut Rng) -> f64 {
    let chi2: f64 = (0..3).map(|_| rng.normal().powi(2)).sum();
    rng.normal() / (chi2 / 3.0).sqrt()
}

const fn value(name: &'static str, next: fn(&mut Rng, usize, f64) -> f64) -> Noise {
    Noise { name, kind: Kind::Value, next }
}

pub const KINDS: [Noise; 9] = [
    value("white", |r, _, _| r.normal()),
    value("AR(1) 0.5", |r, _, x| 0.5 * x + r.normal()),
    value("AR(1) 0.9", |r, _, x| 0.9 * x + r.normal()),
    value("season, trend", |r, i, _| {
        10.0 * libm::sin(i as f64 * std::f64::consts::TAU / 24.0) + 0.001 * i as f64 + r.normal()
    }),
    value("t(3)", |r, _, _| t3(r)),
    value("lognormal 0.5", |r, _, _| libm::exp(0.5 * r.normal())),
    Noise { name: "Poisson 0.3", kind: Kind::Count, next: |r, _, _| poisson(r, 0.3) },
    Noise { name: "Poisson 5", kind: Kind::Count, next: |r, _, _| poisson(r, 5.0) },
    Noise { name: "Poisson 50", kind: Kind::Count, next: |r, _, _| poisson(r, 50.0) },
];

/// Flagged of judged points, divided by alpha, over `series` series of `judged` points after the
/// learned ones, fitted on while they are judged; `None` for a strategy that needs parameters.
pub fn share(
    strategy: &str,
    noise: &Noise,
    alpha: f64,
    seeds: std::ops::Range<u64>,
    judged: usize,
) -> Option<f64> {
    let detector = Detector::new(DetectorConfig {
        strategy: strategy.into(),
        kind: noise.kind,
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        ..DetectorConfig::default()
    })
    .ok()?
    .with_ranges_of_anomalies_only();
    let all = (seeds.end - seeds.start) as f64 * judged as f64;
    let mut flagged = 0u32;
    for seed in seeds {
        let mut rng = Rng(seed.wrapping_mul(0x5851_F42D_4C95_7F2D));
        let mut state = detector.new_state();
        let mut last = 0.0;
        for i in 0..LEARNED + judged {
            last = (noise.next)(&mut rng, i, last);
            let level = if noise.kind == Kind::Value { 100.0 } else { 0.0 };
            let point = Point::new(i as i64 * HOUR, level + last);
            if i < LEARNED {
                detector.train(&mut state, &point);
            } else {
                let verdict = detector.process(&mut state, None, &point).verdict;
                flagged += u32::from(verdict.is_anomaly);
            }
        }
    }
    Some(f64::from(flagged) / (all * alpha))
}
