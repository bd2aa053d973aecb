//! Strategies of users: what is promised whatever their functions answer.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anomaly_core::strategy::{Functions, Kind, OwnFunctions};
use anomaly_core::{Detector, DetectorConfig, Direction, EntityState, Error, Point, Status};
use common::{Rng, repetitions, with_alpha, with_threshold};
use serde_json::json;

type Score = fn(mean: f64, sd: f64, value: f64) -> f64;

/// Mean and standard deviation of the history, and a score of both.
struct Test {
    score: Score,
    /// Of the points that were scored, so many points, and so many calls.
    scored: AtomicUsize,
    calls: AtomicUsize,
    version: AtomicU64,
}

fn test(score: Score) -> Arc<Test> {
    Arc::new(Test {
        score,
        scored: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
        version: AtomicU64::new(1),
    })
}

impl Functions for Test {
    fn name(&self) -> &str {
        "own_test"
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    fn callable(&self) -> bool {
        true
    }

    fn train(&self, at: &[i64], values: &[f64]) -> Option<String> {
        assert!(at.is_sorted(), "the history is in the order of time");
        let n = values.len() as f64;
        let mean = values.iter().map(|v| v / n).sum::<f64>();
        let sd = values.iter().map(|v| (v - mean) * (v - mean) / n).sum::<f64>().sqrt();
        Some(json!({"mean": mean, "sd": sd.min(f64::MAX)}).to_string())
    }

    fn score(&self, state: &str, at: &[i64], values: &[f64]) -> Vec<f64> {
        assert_eq!(at.len(), values.len());
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.scored.fetch_add(at.len(), Ordering::Relaxed);
        let state: serde_json::Value = serde_json::from_str(state).unwrap();
        let (mean, sd) = (state["mean"].as_f64().unwrap(), state["sd"].as_f64().unwrap());
        values.iter().map(|v| (self.score)(mean, sd, *v)).collect()
    }

    fn expected(&self, state: &str, _at: i64) -> Option<f64> {
        let state: serde_json::Value = serde_json::from_str(state).unwrap();
        state["mean"].as_f64()
    }
}

fn z(mean: f64, sd: f64, value: f64) -> f64 {
    if sd > 0.0 {
        ((value - mean) / sd).abs().min(1e300)
    } else {
        f64::from(u8::from(value != mean))
    }
}

fn detector(functions: &Arc<Test>, config: DetectorConfig) -> Detector {
    let own = Some(OwnFunctions(functions.clone()));
    Detector::new(DetectorConfig { strategy: "own_test".into(), own, ..config }).unwrap()
}

fn alpha(alpha: f64) -> DetectorConfig {
    DetectorConfig { alerts_per_day: alpha, points_per_day: Some(1.0), ..DetectorConfig::default() }
}

fn feed(detector: &Detector, state: &mut EntityState, from: i64, values: &[f64]) -> Vec<bool> {
    let judged = values.iter().zip(from..).map(|(value, at)| {
        detector.process(state, None, &Point::new(at, *value)).verdict.is_anomaly
    });
    judged.collect()
}

fn trained(detector: &Detector, values: &[f64]) -> EntityState {
    let mut state = detector.new_state();
    for (value, at) in values.iter().zip(0..) {
        detector.train(&mut state, &Point::new(at, *value));
    }
    detector.settle(&mut state, 0);
    state
}

fn noise(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| 100.0 + 5.0 * rng.normal()).collect()
}

/// Whatever scale a score is on, and whatever its distribution is, quiet data give the alerts that were
/// promised, not more.
#[test]
fn check_c42_a_score_of_any_scale_keeps_the_promise() {
    let scores: [(&str, Score); 6] = [
        ("z", z),
        ("its square in millionths", |m, s, v| z(m, s, v).powi(2) * 1e-6),
        ("below 0", |m, s, v| z(m, s, v) - 1000.0),
        ("exponential", |m, s, v| libm::exp(z(m, s, v))),
        ("one side", |m, s, v| (v - m) / s),
        ("the value itself", |_, _, v| v),
    ];
    let rounds = repetitions(20, 4);
    let wanted = 0.002;
    for (name, score) in scores {
        let (mut flagged, mut points) = (0, 0);
        for seed in 0..rounds {
            let mut rng = Rng(seed + 1);
            let detector = detector(&test(score), alpha(wanted));
            let mut state = trained(&detector, &noise(&mut rng, 2000));
            let quiet = noise(&mut rng, 10_000);
            flagged += feed(&detector, &mut state, 2000, &quiet).iter().filter(|a| **a).count();
            points += quiet.len();
        }
        let share = flagged as f64 / points as f64 / wanted;
        println!("{name}: {share:.2} of what was promised");
        assert!((0.4..1.5).contains(&share), "{name}: {share:.2} of what was promised");
    }
}

/// An own z-score and the built-in one call the same points anomalous by the textbook's rule.
#[test]
fn check_c42_an_own_zscore_agrees_with_the_built_in_one() {
    let mut rng = Rng(7);
    let mut values = noise(&mut rng, 1000);
    let mut live = noise(&mut rng, 2000);
    for place in [100, 700, 701, 1500] {
        live[place] = 160.0;
    }
    // nothing between 4 and 10 standard deviations, so that a slightly different mean tells nothing apart
    values.iter_mut().chain(&mut live).for_each(|v| {
        if (*v - 100.0).abs() > 19.0 && *v != 160.0 {
            *v = 100.0;
        }
    });
    let built_in = with_threshold("zscore", 5.0);
    let own = detector(&test(z), DetectorConfig { threshold: Some(5.0), ..alpha(1.0) });
    let mut state = built_in.new_state();
    for (value, at) in values.iter().zip(0..) {
        built_in.train(&mut state, &Point::new(at, *value));
    }
    let expected = feed(&built_in, &mut state, 1000, &live);
    let mut state = trained(&own, &values);
    assert_eq!(feed(&own, &mut state, 1000, &live), expected);
    assert_eq!(expected.iter().filter(|a| **a).count(), 4);
}

/// How points are divided into calls changes nothing, and announced ones are scored together.
#[test]
fn a_state_does_not_depend_on_how_points_are_divided_into_calls() {
    let mut rng = Rng(3);
    let history = noise(&mut rng, 1700);
    let live = noise(&mut rng, 900);
    let bytes = |chunk: usize, announce: bool| {
        let functions = test(z);
        let detector = detector(&functions, alpha(0.01)).with_ranges_of_anomalies_only();
        let mut state = detector.new_state();
        for (value, at) in history.iter().zip(0..) {
            detector.train(&mut state, &Point::new(at, *value));
            if (at as usize).is_multiple_of(chunk) {
                detector.settle(&mut state, 0);
            }
        }
        detector.settle(&mut state, 0);
        let before = functions.calls.load(Ordering::Relaxed);
        if announce {
            state.model.announce(&mut live.iter().zip(1700..).map(|(v, at)| (at, *v)));
        }
        feed(&detector, &mut state, 1700, &live);
        let calls = functions.calls.load(Ordering::Relaxed) - before;
        (detector.encode_state(&state).unwrap(), calls)
    };
    // some that do not come, and some that nobody has announced
    let functions = test(z);
    let skipping = detector(&functions, alpha(1e-9)).with_ranges_of_anomalies_only();
    let mut state = trained(&skipping, &history);
    let before = functions.calls.load(Ordering::Relaxed);
    state.model.announce(&mut live.iter().zip(1700..).map(|(v, at)| (at, *v)));
    for (i, value) in live.iter().enumerate().filter(|(i, _)| i % 10 != 3) {
        let value = if i % 100 == 50 { 101.0 } else { *value };
        assert!(!feed(&skipping, &mut state, 1700 + i as i64, &[value])[0]);
    }
    assert!(functions.calls.load(Ordering::Relaxed) - before < 30);

    let (whole, calls) = bytes(usize::MAX, true);
    for chunk in [1, 7, 512] {
        assert!(bytes(chunk, false).0 == whole, "chunks of {chunk}");
    }
    // beside the calls for ranges of anomalies
    assert!(calls < 120, "{calls} calls for announced points");
    assert!(bytes(7, false).1 > 900);
}

#[test]
fn a_state_survives_encoding_and_damage_is_found() {
    let mut rng = Rng(5);
    let detector = detector(&test(z), alpha(0.01));
    for n in [0, 1, 31, 32, 33, 400, 3000] {
        let mut state = trained(&detector, &noise(&mut rng, n));
        let bytes = detector.encode_state(&state).unwrap();
        let mut again = detector.decode_state(&bytes).unwrap();
        assert_eq!(again.model.count(), n as u64);
        assert!(detector.encode_state(&again).unwrap() == bytes, "{n} points");
        let live = noise(&mut rng, 300);
        let verdicts = feed(&detector, &mut state, 5000, &live);
        assert_eq!(feed(&detector, &mut again, 5000, &live), verdicts);
        for length in (0..bytes.len()).step_by(1 + bytes.len() / 97) {
            assert!(detector.decode_state(&bytes[..length]).is_err());
        }
        // past the checksum
        for place in (0..bytes.len() - 16).step_by(1 + bytes.len() / 199) {
            let mut payload = bytes[16..].to_vec();
            payload[place] ^= 0x55;
            let damaged = anomaly_core::codec::wrap(64, &payload).unwrap();
            let _ = detector.decode_state(&damaged);
        }
    }
}

/// The file was written by this test with UPDATE_GOLDEN=1; a change of it is a change of format.
#[test]
fn golden_bytes_of_an_own_strategy() {
    let detector = detector(&test(z), alpha(0.001));
    let values: Vec<f64> = (0..60).map(|i| f64::from((i * 37) % 11) + 0.25).collect();
    let bytes = detector.encode_state(&trained(&detector, &values)).unwrap();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state_v1_own.hex");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, hex.clone() + "\n").unwrap();
    }
    assert_eq!(hex, std::fs::read_to_string(path).unwrap().trim(), "the stored format has changed");
}

/// A state that other functions have made never reaches those of now: it is made anew of the history.
#[test]
fn other_functions_begin_from_the_history() {
    let mut rng = Rng(11);
    let functions = test(z);
    let detector = detector(&functions, alpha(0.001));
    let bytes = detector.encode_state(&trained(&detector, &noise(&mut rng, 3000))).unwrap();
    functions.version.store(2, Ordering::Relaxed);
    let mut state = detector.decode_state(&bytes).unwrap();
    // stored without having been asked anything, it is as it was
    assert!(detector.encode_state(&state).unwrap() == bytes);
    assert!(!feed(&detector, &mut state, 3000, &[101.0])[0]);
    assert_eq!(state.model.count(), 1001, "what is kept, and the point");
    assert!(feed(&detector, &mut state, 3001, &[200.0])[0]);
}

/// What is told of a point: expected value, range and figures.
#[test]
fn an_anomaly_is_told_with_its_range() {
    let mut rng = Rng(13);
    let detector = detector(&test(z), alpha(0.001));
    let mut state = trained(&detector, &noise(&mut rng, 1000));
    let normal = detector.judge(&state, &Point::new(1000, 102.0));
    assert!(!normal.is_anomaly && normal.deviation() < 2.0);
    let outcome = detector.process(&mut state, None, &Point::new(1000, 60.0));
    let verdict = outcome.verdict;
    assert!(verdict.is_anomaly && verdict.direction == Direction::Low);
    assert!((verdict.statistic - 8.0).abs() < 0.5, "{}", verdict.statistic);
    assert!((verdict.expected - 100.0).abs() < 1.0);
    assert!((76.0..88.0).contains(&verdict.lower), "{}", verdict.lower);
    assert!((110.0..124.0).contains(&verdict.upper), "{}", verdict.upper);
    // the range is where the same detector sees nothing
    for (value, unusual) in [(verdict.lower - 1.0, true), (verdict.lower + 0.1, false)] {
        assert_eq!(detector.judge(&state, &Point::new(1001, value)).is_anomaly, unusual, "{value}");
    }
    let metadata = outcome.metadata.unwrap();
    assert_eq!(metadata["score"], json!(verdict.statistic));
    assert!(metadata["score_limit"].as_f64().unwrap() < verdict.statistic);
    let text = detector.description(&verdict);
    assert!(text.starts_with("value is 60.00, below normal (score 8."), "{text}");
    assert!(state.model.explain()["state"]["mean"].as_f64().unwrap() > 99.0);
}

/// With a threshold the score itself decides; p and severity are what they are without.
#[test]
fn a_threshold_is_compared_with_the_score() {
    let mut rng = Rng(17);
    let functions = test(|m, s, v| 1000.0 * z(m, s, v));
    let history = noise(&mut rng, 1000);
    let by_rate = detector(&functions, alpha(0.001));
    let by_rule = detector(&functions, DetectorConfig { threshold: Some(2000.0), ..alpha(0.001) });
    let point = Point::new(1000, 111.0);
    let rate = by_rate.judge(&trained(&by_rate, &history), &point);
    let rule = by_rule.judge(&trained(&by_rule, &history), &point);
    assert!(rule.is_anomaly && !rate.is_anomaly && rule.ln_p() == rate.ln_p());
    assert!((108.5..110.5).contains(&rule.upper), "{}", rule.upper);
}

/// NULL has no place here: NaN, infinities, no point, one point, a constant, huge values.
#[test]
fn degenerate_series_are_judged_or_left_alone() {
    let detector = detector(&test(z), alpha(0.001));
    let mut state = detector.new_state();
    for value in [f64::NAN, f64::INFINITY, 1.0] {
        let verdict = detector.judge(&state, &Point::new(0, value));
        assert_eq!(verdict.is_anomaly, value.is_infinite(), "{value}");
        assert_eq!(verdict.status == Status::NonFinite, !value.is_finite());
    }
    feed(&detector, &mut state, 0, &[1.0, f64::NAN, f64::NEG_INFINITY]);
    assert_eq!(state.model.count(), 1);

    let mut state = trained(&detector, &[5.0; 500]);
    assert_eq!(feed(&detector, &mut state, 500, &[5.0; 50]), [false; 50]);
    assert!(detector.judge(&state, &Point::new(550, 6.0)).deviation() > 2.0);

    let huge: Vec<f64> = (0..500).map(|i| f64::MAX * (f64::from(i % 7) / 7.0 - 0.5)).collect();
    let mut state = trained(&detector, &huge);
    for verdict in feed(&detector, &mut state, 500, &huge[..100]) {
        assert!(!verdict);
    }
    let verdict = detector.judge(&state, &Point::new(600, f64::MAX));
    assert!(verdict.ln_p().is_finite() && !verdict.lower.is_nan(), "{verdict:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let functions = Some(OwnFunctions(test(z)));
    let own = |config: DetectorConfig| {
        Detector::new(DetectorConfig {
            strategy: "own_test".into(),
            own: functions.clone(),
            ..config
        })
    };
    for config in [
        DetectorConfig { kind: Kind::Ratio, ..DetectorConfig::default() },
        DetectorConfig { params: json!({"history": 99}), ..DetectorConfig::default() },
        DetectorConfig { params: json!([1]), ..DetectorConfig::default() },
        DetectorConfig { features: vec!["b".into()], ..DetectorConfig::default() },
    ] {
        assert!(matches!(own(config.clone()), Err(Error::InvalidParameter { .. })), "{config:?}");
    }
    assert!(own(DetectorConfig { params: json!({"anything": 1}), ..Default::default() }).is_ok());
    assert!(matches!(with_alpha("zscore", 0.1).decode_state(&[]), Err(Error::Corrupted(_))));
}
