//! Seeded noise for tests.
#![allow(dead_code)]

use anomaly_core::calendar::Calendar;
use anomaly_core::strategy::{Context, Kind};
use anomaly_core::{Detector, DetectorConfig, EntityState, Point};

pub mod available;
pub mod series;

/// Whether every test does all of its repetitions: `make test` asks for them with ANOMALY_TESTS=full.
/// Without it a test does fewer, of other cases for each strategy, so that `make check` is quick.
pub fn in_full() -> bool {
    std::env::var("ANOMALY_TESTS").is_ok_and(|tests| tests == "full")
}

/// How often something random is repeated: `all` times in full, else `few` times. What is asserted
/// about its share has to leave more to chance then.
pub fn repetitions(all: u64, few: u64) -> u64 {
    if in_full() { all } else { few }
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Student's t with four degrees of freedom.
    pub fn t4(&mut self) -> f64 {
        let chi2 = -2.0 * libm::log(self.uniform() * self.uniform());
        self.normal() / (chi2 / 4.0).sqrt()
    }

    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.uniform())
    }
}

pub const STRATEGIES: [&str; 3] = ["statistical_zscore", "statistical_iqr", "statistical_mad"];

/// UTC, any kind of value.
pub fn context() -> Context {
    Context::new(Calendar::new("UTC").unwrap(), Kind::Value)
}

pub fn config(strategy: &str) -> DetectorConfig {
    DetectorConfig { strategy: strategy.into(), ..DetectorConfig::default() }
}

/// A detector with the given share of normal points flagged.
pub fn with_alpha(strategy: &str, alpha: f64) -> Detector {
    Detector::new(DetectorConfig {
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        ..config(strategy)
    })
    .unwrap()
}

pub fn with_threshold(strategy: &str, threshold: f64) -> Detector {
    Detector::new(DetectorConfig { threshold: Some(threshold), ..config(strategy) }).unwrap()
}

pub fn trained(detector: &Detector, values: impl IntoIterator<Item = f64>) -> EntityState {
    let mut state = detector.new_state();
    for (i, v) in values.into_iter().enumerate() {
        detector.train(&mut state, &Point::new(i as i64, v));
    }
    state
}
