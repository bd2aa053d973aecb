//! The strategies of this version, as the registry lists them: a strategy that is added there is
//! tested without being named here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anomaly_core::strategy::{Kind, STRATEGIES};
use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Verdict};
use serde_json::{Value, json};

use super::series::Sample;

/// Short names of all strategies that can be used.
pub fn available() -> Vec<&'static str> {
    STRATEGIES.iter().filter(|s| s.is_available()).map(|s| s.short_name).collect()
}

/// Test, strategy and what is wrong with it. A test that holds for a strategy named here fails.
const KNOWN_DEFECTS: &[(&str, &str, &str)] = &[];

/// All that are available but these.
pub fn others(but: &[&str]) -> Vec<&'static str> {
    available().into_iter().filter(|s| !but.contains(s)).collect()
}

/// Runs a test for every strategy and fails with the list of those for which it failed. The variable
/// STRATEGY picks one.
pub fn every(test: impl Fn(&'static str)) {
    each(&available(), test);
}

/// The same for some of them, those that are not available yet left out.
pub fn each(strategies: &[&'static str], test: impl Fn(&'static str)) {
    let wanted = std::env::var("STRATEGY").ok();
    let wanted = |s: &str| wanted.as_ref().is_none_or(|w| w == s);
    let there = strategies.iter().copied().filter(|s| wanted(s) && is_available(s));
    // libtest names the thread after the test
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let (mut failed, mut held) = (Vec::new(), Vec::new());
    for strategy in there {
        let holds = catch_unwind(AssertUnwindSafe(|| test(strategy))).is_ok();
        match KNOWN_DEFECTS.iter().find(|d| d.0 == name && d.1 == strategy) {
            None if !holds => failed.push(strategy),
            Some(defect) if holds => held.push(defect),
            Some(defect) => eprintln!("known: {defect:?}"),
            None => {}
        }
    }
    assert!(failed.is_empty(), "failed for {}", failed.join(", "));
    assert!(held.is_empty(), "holds now, take it out of KNOWN_DEFECTS: {held:?}");
}

/// All cases of a test in full, else every `n`-th, beginning with another one for each strategy.
pub fn some<T>(
    strategy: &str,
    n: usize,
    cases: impl IntoIterator<Item = T>,
) -> impl Iterator<Item = T> {
    let n = if super::in_full() { 1 } else { n };
    let place = STRATEGIES.iter().position(|s| s.short_name == strategy).unwrap_or(0);
    cases.into_iter().skip(place % n).step_by(n)
}

/// Whether a registered strategy can be used yet; a test that is about one strategy ends if not.
pub fn is_available(short_name: &str) -> bool {
    let info = STRATEGIES.iter().find(|s| s.short_name == short_name);
    let there = info.unwrap_or_else(|| panic!("no strategy {short_name}")).is_available();
    if !there {
        eprintln!("{short_name} is not available in this version: not tested");
    }
    there
}

/// What a strategy must be told before it can judge anything, or to do so in seconds; null where
/// nothing is needed.
pub fn needed_params(short_name: &str) -> Value {
    match short_name {
        "threshold" => json!({"min": -1000, "max": 1000}),
        // a thousand fits each: tests/learned.rs has them with their defaults
        "lstm" => json!({"lstm_units": 4, "sequence_length": 4, "epochs": 4}),
        "autoencoder" => json!({"epochs": 10}),
        _ => Value::Null,
    }
}

/// Default settings.
pub fn defaults(short_name: &str) -> DetectorConfig {
    DetectorConfig {
        strategy: short_name.into(),
        params: needed_params(short_name),
        ..DetectorConfig::default()
    }
}

/// Whether a strategy takes values of a kind.
pub fn takes(short_name: &str, kind: Kind) -> bool {
    STRATEGIES.iter().any(|s| s.short_name == short_name && s.kinds.contains(&kind))
}

/// Default settings for a kind of values; for any values where the strategy does not take the kind.
pub fn of_kind(short_name: &str, kind: Kind) -> DetectorConfig {
    let kind = if takes(short_name, kind) { kind } else { Kind::Value };
    DetectorConfig { kind, ..defaults(short_name) }
}

pub fn detector(config: DetectorConfig) -> Detector {
    Detector::new(config.clone()).unwrap_or_else(|e| panic!("{e:?}: {config:?}"))
}

/// `None` for a strategy that has no rule of its own and says so.
pub fn detector_if(config: DetectorConfig) -> Option<Detector> {
    match Detector::new(config.clone()) {
        Err(Error::InvalidParameter { message, hint }) if config.threshold.is_some() => {
            assert!(message.contains("threshold") && !hint.is_empty(), "{message}; {hint}");
            None
        }
        made => Some(made.unwrap_or_else(|e| panic!("{e:?}: {config:?}"))),
    }
}

pub fn trained_on(detector: &Detector, samples: &[Sample]) -> EntityState {
    let mut state = detector.new_state();
    for s in samples {
        detector.train(&mut state, &s.point());
    }
    state
}

/// Whether two verdicts are the same to the last bit; NaN is the same as NaN.
pub fn same(a: &Verdict, b: &Verdict) -> bool {
    let figures = |v: &Verdict| {
        [v.value, v.expected, v.lower, v.upper, v.statistic, v.ln_p()].map(f64::to_bits)
    };
    (a.at, a.direction, a.is_anomaly, a.status) == (b.at, b.direction, b.is_anomaly, b.status)
        && figures(a) == figures(b)
}
