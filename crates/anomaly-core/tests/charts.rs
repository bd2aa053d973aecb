//! Control charts and their relatives: ewma, persist, quantile, threshold, cusum, level_shift,
//! changepoint, esd, volatility_shift, flat_line.

mod common;

use anomaly_core::{
    Detector, DetectorConfig, Direction, Error, Point, Severity, Status, Transition, Verdict, codec,
};
use common::{Rng, config, in_full, repetitions, trained};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Strategy and parameters.
type Case = (&'static str, fn() -> Value);

fn none() -> Value {
    Value::Null
}

const CASES: &[Case] = &[
    ("ewma", none),
    ("ewma", || json!({"alpha": 1})),
    ("persist", none),
    ("quantile", none),
    ("quantile", || json!({"lower": 0.01, "upper": 0.9, "sketch_capacity": 512})),
    ("threshold", || json!({"min": -2, "max": 4})),
    ("threshold", || json!({"max": 4})),
    ("cusum", none),
    ("cusum", || json!({"k": 1, "h": 4})),
    ("level_shift", none),
    ("level_shift", || json!({"window": 7})),
    ("changepoint", none),
    ("esd", none),
    ("esd", || json!({"window": 15, "max_outliers": 5})),
    ("volatility_shift", none),
    ("volatility_shift", || json!({"window": 11})),
    ("flat_line", none),
    ("flat_line", || json!({"tolerance": 0.5, "points": 2})),
];

fn detector(case: &Case, alpha: f64) -> Detector {
    Detector::new(DetectorConfig {
        params: case.1(),
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        ..config(case.0)
    })
    .unwrap()
}

fn with_params(name: &str, params: Value) -> Detector {
    Detector::new(DetectorConfig { params, ..config(name) }).unwrap()
}

fn number(map: &Value, key: &str) -> f64 {
    map[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {map}"))
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-9), "{a} is not {b}");
}

#[test]
fn fault_i6_parameters_are_checked() {
    for (name, params, valid) in [
        ("ewma", json!({"alpha": 0}), "0.001 to 1"),
        ("ewma", json!({"alpha": 1.5}), "0.001 to 1"),
        ("ewma", json!({"alpha": "x"}), "0.001 to 1"),
        ("ewma", json!({"beta": 1}), "alpha"),
        ("persist", json!({"lag": 1}), "takes no parameters"),
        ("quantile", json!({"lower": 0.5}), "0.001 to 0.45"),
        ("quantile", json!({"upper": 1}), "0.55 to 0.999"),
        ("quantile", json!({"sketch_capacity": 5}), "128 to 4096"),
        ("threshold", json!({}), "{\"min\": 0, \"max\": 100}"),
        ("threshold", json!({"min": 3, "max": 2}), "at most"),
        ("threshold", json!({"min": null}), "a number"),
        ("threshold", json!({"low": 3}), "min, max"),
        ("cusum", json!({"k": 0}), "0.05 to 5"),
        ("cusum", json!({"h": 0}), "0.5 to 100"),
        ("cusum", json!({"target": 0}), "k, h"),
        ("level_shift", json!({"window": 4}), "5 to 500"),
        ("level_shift", json!({"window": 501}), "5 to 500"),
        ("level_shift", json!({"window": 10.5}), "5 to 500"),
        ("changepoint", json!({"hazard": 0.1}), "takes no parameters"),
        ("esd", json!({"window": 14}), "15 to 500"),
        ("esd", json!({"window": 30, "max_outliers": 11}), "1 to 10"),
        ("esd", json!({"alpha": 0.05}), "window, max_outliers"),
        ("volatility_shift", json!({"window": 9}), "10 to 500"),
        ("flat_line", json!({"tolerance": -1}), "from 0"),
        ("flat_line", json!({"points": 1}), "2 to 100000"),
    ] {
        let made = Detector::new(DetectorConfig { params: params.clone(), ..config(name) });
        let Err(Error::InvalidParameter { hint, .. }) = made else {
            panic!("{name} took {params}");
        };
        assert!(hint.contains(valid), "{name} {params}: {hint}");
    }
    for (name, params, valid) in [
        ("threshold", json!({"min": 3}), "\"min\" and \"max\""),
        ("esd", json!({}), "alerts_per_day"),
    ] {
        let given = DetectorConfig { params, threshold: Some(3.0), ..config(name) };
        let Err(Error::InvalidParameter { message, hint }) = Detector::new(given) else {
            panic!("{name} took a threshold");
        };
        assert!(message.contains("threshold is 3") && hint.contains(valid), "{hint}");
    }
}

fn white(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| 10.0 + rng.normal()).collect()
}

/// Autoregressive of order 1, coefficient ½.
fn ar1(rng: &mut Rng, n: usize) -> Vec<f64> {
    let mut x = rng.normal();
    (0..n)
        .map(|_| {
            x = 0.5 * x + rng.normal() * 0.75f64.sqrt();
            10.0 + x
        })
        .collect()
}

/// Share of flagged points of stable series while running, after 2,000 points of training.
fn share(case: &Case, alpha: f64, series: fn(&mut Rng, usize) -> Vec<f64>, many: u64) -> f64 {
    const TRAINING: usize = 2000;
    const RUNNING: usize = 4000;
    let detector = detector(case, alpha);
    let mut flagged = 0;
    for seed in 0..many {
        let values = series(&mut Rng(1000 + seed), TRAINING + RUNNING);
        let mut state = trained(&detector, values[..TRAINING].iter().copied());
        for (i, x) in values.iter().enumerate().skip(TRAINING) {
            let outcome = detector.process(&mut state, None, &Point::new(i as i64, *x));
            flagged += u32::from(outcome.verdict.is_anomaly);
        }
    }
    f64::from(flagged) / (many as f64 * RUNNING as f64)
}

/// Times the promised share, at 0.01 and 0.001.
fn times_nominal(name: &'static str, series: fn(&mut Rng, usize) -> Vec<f64>) -> [f64; 2] {
    [(0.01, repetitions(40, 10)), (0.001, repetitions(100, 25))]
        .map(|(alpha, many)| share(&(name, none), alpha, series, many) / alpha)
}

/// What share of the promised one is near enough.
fn nominal() -> std::ops::RangeInclusive<f64> {
    if in_full() { 0.8..=1.2 } else { 0.6..=1.4 }
}

const CALIBRATED: [&str; 6] =
    ["ewma", "persist", "quantile", "cusum", "level_shift", "volatility_shift"];

#[test]
fn the_promised_share_of_white_noise_is_flagged() {
    for name in CALIBRATED {
        let times = times_nominal(name, white);
        println!("{name} on white noise: {times:.2?} × nominal");
        for t in times {
            assert!(nominal().contains(&t), "{name} on white noise: {times:?} × nominal");
        }
    }
    // a new regime is never as frequent as one in a hundred points
    let times = times_nominal("changepoint", white);
    println!("changepoint on white noise: {times:.2?} × nominal");
    assert!(times.iter().all(|t| t <= nominal().end()), "{times:?}");
}

#[test]
fn the_promised_share_of_autocorrelated_noise_is_flagged() {
    for name in CALIBRATED.into_iter().chain(["changepoint"]) {
        let times = times_nominal(name, ar1);
        println!("{name} on AR(1): {times:.2?} × nominal");
        for t in times {
            assert!(nominal().contains(&t), "{name} on AR(1): {times:?} × nominal");
        }
    }
}

fn judged(detector: &Detector, values: &[f64], x: f64) -> (Verdict, Value) {
    let state = trained(detector, values.iter().copied());
    let verdict = detector.judge(&state, &Point::new(1_000_000, x));
    let metadata = state.model.metadata(&verdict, detector.rule());
    (verdict, Value::Object(metadata))
}

/// Reference: `s.ewm(alpha=0.2, adjust=True).mean()` of pandas 3.1; no value is clipped.
#[test]
fn ewma_is_that_of_pandas_and_ignores_an_outlier() {
    let values: Vec<f64> = (0..60).map(|i| f64::from((i * 37) % 11) + 0.25).collect();
    let detector = with_params("ewma", json!({"alpha": 0.2}));
    let (verdict, metadata) = judged(&detector, &values, 6.0);
    close(verdict.expected, EWMA_60);
    close(number(&metadata, "ewma"), EWMA_60);
    assert!((3.0..4.5).contains(&number(&metadata, "std")), "{metadata}");

    let mut with_outlier = values.clone();
    with_outlier.push(1e6);
    let (verdict, after) = judged(&detector, &with_outlier, 6.0);
    assert!((verdict.expected - EWMA_60).abs() < 3.0, "{}", verdict.expected);
    assert!(number(&after, "std") < 1.1 * number(&metadata, "std"), "{after}");
    // what lasts is followed
    with_outlier.extend(vec![1e6; 40]);
    let (verdict, _) = judged(&detector, &with_outlier, 6.0);
    assert!((verdict.expected - 1e6).abs() < 1e3, "{}", verdict.expected);
}

const EWMA_60: f64 = 4.710_509_092_376_049;

#[test]
fn ewma_and_persist_by_their_own_rule() {
    let values: Vec<f64> = (0..500).map(|i| if i % 2 == 0 { 3.0 } else { 5.0 }).collect();
    let detector = Detector::new(DetectorConfig { threshold: Some(3.0), ..config("persist") });
    let (verdict, metadata) = judged(&detector.unwrap(), &values, 11.5);
    // every difference is 2 in size
    close(number(&metadata, "std"), 2.0);
    close(number(&metadata, "difference"), 6.5);
    close(number(&metadata, "previous"), 5.0);
    close(verdict.statistic, 3.25);
    close(verdict.upper, 11.0);
    close(verdict.lower, -1.0);
    assert!(verdict.is_anomaly && verdict.direction == Direction::High);
    let detector = Detector::new(DetectorConfig { threshold: Some(3.0), ..config("ewma") });
    let (verdict, metadata) = judged(&detector.unwrap(), &values, 0.0);
    close(verdict.statistic, (0.0 - verdict.expected) / number(&metadata, "std"));
    assert_eq!(verdict.is_anomaly, verdict.statistic.abs() > 3.0);
}

/// numpy.quantile (linear): of 0 … 100 the 5 % quantile is 5, the 95 % quantile 95.
#[test]
fn quantile_by_its_own_rule() {
    let values: Vec<f64> = (0..101).map(|i| f64::from((i * 37) % 101)).collect();
    let detector = Detector::new(DetectorConfig { threshold: Some(1.0), ..config("quantile") });
    let detector = detector.unwrap();
    // the quantiles are renewed with every 3 % of growth
    let (verdict, metadata) = judged(&detector, &values, 96.0);
    assert!((number(&metadata, "lower_quantile") - 5.0).abs() < 1.0, "{metadata}");
    assert!((number(&metadata, "upper_quantile") - 95.0).abs() < 1.0, "{metadata}");
    close(verdict.upper, number(&metadata, "upper_quantile"));
    close(verdict.lower, number(&metadata, "lower_quantile"));
    assert!(verdict.is_anomaly);
    assert!(!judged(&detector, &values, verdict.upper).0.is_anomaly);
    assert!(judged(&detector, &values, verdict.upper + 1e-9).0.is_anomaly);
    // 64 points: renewed with each
    let values: Vec<f64> = (0..61).map(|i| f64::from((i * 37) % 61)).collect();
    let (verdict, _) = judged(&detector, &values, 0.0);
    close(verdict.lower, 3.0);
    close(verdict.upper, 57.0);
}

#[test]
fn threshold_knows_valid_from_the_first_point_on() {
    let detector = with_params("threshold", json!({"min": 0, "max": 100}));
    let mut state = detector.new_state();
    for (x, side) in [
        (0.0, Direction::None),
        (100.0, Direction::None),
        (100.000_001, Direction::High),
        (-1e-300, Direction::Low),
        (f64::MAX, Direction::High),
    ] {
        let verdict = detector.process(&mut state, None, &Point::new(0, x)).verdict;
        assert_eq!(verdict.status, Status::Ok, "no warm-up");
        assert_eq!(verdict.is_anomaly, side != Direction::None);
        assert!(!verdict.is_anomaly || verdict.direction == side, "{x}");
        assert_eq!((verdict.expected, verdict.lower, verdict.upper), (50.0, 0.0, 100.0));
        if verdict.is_anomaly {
            assert_eq!(verdict.severity(), Severity::Emergency);
        } else {
            assert_eq!(verdict.deviation(), 0.0);
        }
    }
    let deviation = |x: f64| detector.judge(&state, &Point::new(0, x)).deviation();
    assert!((deviation(150.0) - 10.5).abs() < 1e-9 && (deviation(-100.0) - 11.0).abs() < 1e-9);
    // one bound only: the other side is never unusual, but for infinity
    let detector = with_params("threshold", json!({"max": 0}));
    let state = detector.new_state();
    assert!(!detector.judge(&state, &Point::new(0, -1e300)).is_anomaly);
    assert!(detector.judge(&state, &Point::new(0, f64::NEG_INFINITY)).is_anomaly);
    assert!(detector.judge(&state, &Point::new(0, 5e-324)).is_anomaly);
    // equal bounds
    let detector = with_params("threshold", json!({"min": 7, "max": 7}));
    assert!(detector.judge(&detector.new_state(), &Point::new(0, 7.1)).is_anomaly);
}

/// A spike is its rise and its fall, a new level is its step alone.
#[test]
fn persist_compares_with_the_previous_value() {
    let mut rng = Rng(3);
    let mut level = 0.0;
    let values: Vec<f64> = (0..1000)
        .map(|_| {
            level += rng.normal();
            level
        })
        .collect();
    let detector = detector(&("persist", none), 0.001);
    let mut state = trained(&detector, values.iter().copied());
    let mut process =
        |i: i64, x: f64| detector.process(&mut state, None, &Point::new(2000 + i, x)).verdict;
    assert!(process(0, level + 20.0).is_anomaly);
    let back = process(1, level + 0.5);
    assert!(back.is_anomaly && back.direction == Direction::Low);
    close(back.expected, level + 20.0);
    for i in 2..5 {
        assert!(!process(i, level + 0.5).is_anomaly);
    }
    // the peak of the ended episode has not become the previous value
    close(process(5, level - 20.0).expected, level + 0.5);
    for i in 6..20 {
        assert!(!process(i, level - 20.0).is_anomaly);
    }
}

/// Alerts (opened episodes) and the first anomalous verdict's index and metadata, by default settings.
fn alerts(detector: &Detector, training: &[f64], values: &[f64]) -> Vec<(usize, Verdict, Value)> {
    let mut state = trained(detector, training.iter().copied());
    let mut opened = Vec::new();
    for (i, x) in values.iter().enumerate() {
        let at = (training.len() + i) as i64;
        let outcome = detector.process(&mut state, None, &Point::new(at, *x));
        if let Some(Transition::Opened(_)) = outcome.transition {
            opened.push((i, outcome.verdict, Value::Object(outcome.metadata.unwrap())));
        }
    }
    opened
}

/// One alert soon after the shift, then silence, whatever its size and side.
#[test]
fn a_level_shift_is_one_alert_and_then_silence() {
    for (name, size, latest) in [
        ("level_shift", 4.0, 20),
        ("level_shift", 50.0, 12),
        ("level_shift", -1e6, 12),
        ("changepoint", 2.0, 25),
        ("changepoint", 4.0, 12),
        ("changepoint", 50.0, 12),
        ("changepoint", -1e6, 12),
        ("cusum", 1.5, 40),
        ("cusum", -4.0, 10),
        ("cusum", 50.0, 1),
    ] {
        let detector = Detector::new(config(name)).unwrap();
        let mut total = 0;
        for seed in 0..20 {
            let mut rng = Rng(7 + seed);
            let training = white(&mut rng, 2000);
            let mut values = white(&mut rng, 600);
            for x in &mut values[100..] {
                *x += size;
            }
            let opened = alerts(&detector, &training, &values);
            let at: Vec<usize> = opened.iter().map(|a| a.0).collect();
            // the promise is one alert in 1,440 points: of 20 runs of 600 some have a false one too
            total += opened.len();
            let Some((i, verdict, metadata)) = opened.iter().find(|a| a.0 >= 100) else {
                panic!("{name} missed a shift of {size}");
            };
            assert!(*i <= 100 + latest, "{name} {size}: {at:?}");
            let side = if size > 0.0 { Direction::High } else { Direction::Low };
            assert_eq!(verdict.direction, side);
            assert!((verdict.expected - 10.0).abs() < 1.0, "{name}: {verdict:?}");
            assert!(number(metadata, "p_value") < 1.0 / 1440.0);
            if name == "changepoint" {
                let began = metadata["regime_began"].as_str().unwrap();
                let began = began.parse::<jiff::Timestamp>().unwrap().as_microsecond();
                let began = began - 946_684_800_000_000; // 2000
                assert!((began - 2100).abs() <= 10, "{name} {size}: {began}");
                assert_eq!(metadata["kind"], json!("level_shift"));
            }
        }
        println!("{name} {size}: {total} alerts of 20 shifts");
        assert!((20..=30).contains(&total), "{name} {size}: {total} alerts of 20 shifts");
    }
}

/// A constant that changes is one shift, and outliers are none.
#[test]
fn shifts_of_a_constant_and_outliers() {
    for name in ["level_shift", "changepoint", "cusum"] {
        let detector = Detector::new(config(name)).unwrap();
        let mut values = vec![5.0; 50];
        values.extend([7.0; 400]);
        let opened = alerts(&detector, &[5.0; 2000], &values);
        assert_eq!(opened.len(), 1, "{name}: {opened:?}");
        assert!((50..80).contains(&opened[0].0), "{name}: {opened:?}");
    }
    for name in ["level_shift", "changepoint"] {
        let detector = Detector::new(config(name)).unwrap();
        let mut rng = Rng(99);
        let training = white(&mut rng, 2000);
        let mut values = white(&mut rng, 400);
        for i in [50, 51, 120, 200, 201, 202, 300] {
            values[i] += 30.0;
        }
        assert_eq!(alerts(&detector, &training, &values).len(), 0, "{name}");
    }
}

/// The textbook's decision limit, by parameter or by threshold.
#[test]
fn cusum_by_its_own_rule() {
    let mut rng = Rng(5);
    let values = white(&mut rng, 3000);
    for detector in [
        with_params("cusum", json!({"h": 5})),
        Detector::new(DetectorConfig { threshold: Some(5.0), ..config("cusum") }).unwrap(),
    ] {
        let (verdict, metadata) = judged(&detector, &values, 11.0);
        let (mean, std) = (number(&metadata, "mean"), number(&metadata, "std"));
        assert!((mean - 10.0).abs() < 0.15 && (std - 1.0).abs() < 0.15, "{metadata}");
        assert_eq!(number(&metadata, "h"), 5.0);
        assert!(!verdict.is_anomaly);
        // the limit for this point: S + z − k = h
        let upper = judged(&detector, &values, verdict.upper).0;
        assert!((upper.statistic - 5.0).abs() < 1e-9, "{upper:?}");
        assert!(judged(&detector, &values, verdict.upper + 1e-6).0.is_anomaly);
        assert!(!judged(&detector, &values, verdict.upper - 1e-6).0.is_anomaly);
    }
}

/// The bounds of the rate are where p crosses alpha.
#[test]
fn cusum_bounds_are_where_it_would_signal() {
    let mut rng = Rng(6);
    let values = white(&mut rng, 3000);
    let detector = detector(&("cusum", none), 0.001);
    let (verdict, _) = judged(&detector, &values, 10.5);
    for (bound, outward) in [(verdict.upper, 1e-6), (verdict.lower, -1e-6)] {
        assert!(judged(&detector, &values, bound + outward).0.is_anomaly);
        assert!(!judged(&detector, &values, bound - outward).0.is_anomaly);
        let ln_p = judged(&detector, &values, bound).0.ln_p();
        assert!((ln_p - 0.001f64.ln()).abs() < 0.01, "{ln_p}");
    }
}

/// Twice the spread is told once, and so is half of it; outliers are not.
#[test]
fn a_volatility_shift_is_one_alert_and_then_silence() {
    for (factor, latest) in [(4.0, 30), (0.2, 60)] {
        let detector = Detector::new(config("volatility_shift")).unwrap();
        let mut total = 0;
        for seed in 0..20 {
            let mut rng = Rng(40 + seed);
            let training = white(&mut rng, 2000);
            let mut values = white(&mut rng, 500);
            for x in &mut values[100..] {
                *x = 10.0 + factor * (*x - 10.0);
            }
            let opened = alerts(&detector, &training, &values);
            total += opened.len();
            let Some((i, verdict, metadata)) = opened.iter().find(|a| a.0 >= 100) else {
                panic!("missed a factor of {factor}");
            };
            assert!(*i <= 100 + latest, "{factor}: {i}");
            let ratio = number(metadata, "ratio");
            assert!(if factor > 1.0 { ratio > 1.5 } else { ratio < 0.6 }, "{metadata}");
            assert_eq!(verdict.direction, Direction::of(verdict.value, verdict.expected));
        }
        println!("volatility × {factor}: {total} alerts of 20 shifts");
        assert!((20..=32).contains(&total), "{factor}: {total} alerts of 20 shifts");
    }
    let detector = Detector::new(config("volatility_shift")).unwrap();
    let mut rng = Rng(99);
    let training = white(&mut rng, 2000);
    let mut values = white(&mut rng, 300);
    for i in [50, 51, 120, 200, 300 - 1] {
        values[i] += 1e6;
    }
    assert_eq!(alerts(&detector, &training, &values).len(), 0);
}

#[test]
fn volatility_shift_by_its_own_rule() {
    let mut rng = Rng(4);
    let mut values = white(&mut rng, 300);
    values.extend((0..29).map(|i| if i % 2 == 0 { 5.0 } else { 15.0 }));
    let with = |t| DetectorConfig { threshold: Some(t), ..config("volatility_shift") };
    let detector = Detector::new(with(3.0)).unwrap();
    let (verdict, metadata) = judged(&detector, &values, 15.0);
    let ratio = number(&metadata, "spread") / number(&metadata, "spread_before");
    close(verdict.statistic, ratio);
    assert!(verdict.is_anomaly && ratio > 3.0, "{metadata}");
    let detector = Detector::new(with(ratio + 0.01)).unwrap();
    assert!(!judged(&detector, &values, 15.0).0.is_anomaly);
}

/// A stuck sensor alerts at the fifth equal value and stays one alert until it moves again; a metric
/// that is constant by nature, or for as long as it often is, does not.
#[test]
fn flat_line_tells_stuck_from_constant() {
    let detector = Detector::new(config("flat_line")).unwrap();
    let mut rng = Rng(12);
    let training = white(&mut rng, 1000);
    let mut values = white(&mut rng, 20);
    values.extend([values[19]; 300]);
    values.extend(white(&mut rng, 20));
    // nearly the same: a stuck sensor with noise of its last digit
    let stuck = values[339];
    values.extend((0..30).map(|i| stuck + 1e-9 * f64::from(i % 3)));
    let opened = alerts(&detector, &training, &values);
    let at: Vec<usize> = opened.iter().map(|a| a.0).collect();
    // the second time one later: what was told counts as a run of five
    assert_eq!(at, [23, 344]);
    assert_eq!(number(&opened[0].2, "run_length"), 5.0);
    // neither above nor below what is normal
    let mut stuck = trained(&detector, training.iter().copied());
    for i in 0..6 {
        let v = detector.process(&mut stuck, None, &Point::new(2000 + i, 1.5)).verdict;
        assert_eq!(v.direction, Direction::None);
        let text = detector.description(&v);
        assert!(text.starts_with("value stays at 1.50 (equal values in a row "), "{text}");
        assert!(!text.contains("above") && !text.contains("below"), "{text}");
    }
    assert_eq!(number(&opened[0].2, "longest_run_before"), 1.0);

    // through the whole run the deviation grows
    let state = trained(&detector, training.iter().copied());
    let mut last = 0.0;
    let mut state = detector.decode_state(&detector.encode_state(&state).unwrap()).unwrap();
    for i in 0..200 {
        let v = detector.process(&mut state, None, &Point::new(2000 + i, 10.0)).verdict;
        assert!(v.deviation() >= last && v.is_anomaly == (i >= 4), "{i}: {v:?}");
        last = v.deviation();
    }
    assert!(last > 5.0);

    let constant = alerts(&detector, &[3.0; 1000], &[3.0; 1000]);
    assert_eq!(constant.len(), 0);
    // constant every night, noisy by day
    let day: Vec<f64> =
        (0..20).flat_map(|_| [white(&mut rng, 50), vec![0.0; 40]].concat()).collect();
    assert_eq!(alerts(&detector, &day[..900], &day[900..]).len(), 0);
    // rounded to whole numbers: runs of two and three are usual
    let rounded: Vec<f64> = white(&mut rng, 3000).iter().map(|x| x.round()).collect();
    let opened = alerts(&detector, &rounded[..2000], &rounded[2000..]);
    assert!(opened.len() <= 2, "{opened:?}");
}

#[test]
fn flat_line_by_its_own_rule_and_parameters() {
    let mut rng = Rng(13);
    let mut values = white(&mut rng, 500);
    values.extend([40.0, 40.3, 39.8, 40.1]);
    let tolerant = with_params("flat_line", json!({"tolerance": 0.5, "points": 3}));
    assert_eq!(judged(&tolerant, &values, 40.5).0.statistic, 5.0);
    assert_eq!(judged(&tolerant, &values, 40.6).0.statistic, 1.0);
    let strict = DetectorConfig { threshold: Some(3.0), ..config("flat_line") };
    let strict = Detector::new(strict).unwrap();
    values.extend([40.1; 2]);
    assert!(judged(&strict, &values, 40.1).0.is_anomaly, "the fourth of them");
    values.pop();
    assert!(!judged(&strict, &values, 40.1).0.is_anomaly, "the third");
}

/// Outliers in the window do not hide the next one, and enough of them are the new normal.
#[test]
fn esd_sees_through_outliers_in_its_window() {
    let detector = Detector::new(config("esd")).unwrap();
    let mut rng = Rng(21);
    let training = white(&mut rng, 200);
    let mut state = trained(&detector, training.iter().copied());
    for i in 0..6 {
        let point = Point::new(1000 + i, 60.0 + i as f64);
        assert!(detector.process(&mut state, None, &point).verdict.is_anomaly, "{i}");
    }
    let v = detector.judge(&state, &Point::new(2000, 17.0));
    let metadata = Value::Object(state.model.metadata(&v, detector.rule()));
    assert!(v.is_anomaly && number(&metadata, "outliers_in_window") == 6.0, "{metadata}");
    assert!(!detector.judge(&state, &Point::new(2000, 11.5)).is_anomaly);
    // where the bound is
    let at = |x: f64| detector.judge(&state, &Point::new(2000, x));
    assert!(at(v.upper + 1e-9).is_anomaly && !at(v.upper - 1e-9).is_anomaly);
    assert!((at(v.upper).ln_p() - detector.rule().ln_alpha).abs() < 1e-6);
    let mut flagged = 0;
    for i in 0..100 {
        let point = Point::new(3000 + i, 60.0 + rng.normal());
        flagged += u32::from(detector.process(&mut state, None, &point).verdict.is_anomaly);
    }
    assert!(flagged < 10, "{flagged}");
}

/// Ties, noise, extremes, NaN and infinities.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-3..4i32).prop_map(f64::from),
        6 => -4.0..4.0f64,
        2 => Just(1.0),
        1 => prop_oneof![
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(1e308),
            Just(-1e308),
            Just(f64::MAX),
            Just(5e-324),
            Just(0.0),
            Just(-0.0),
        ],
    ]
}

/// Of one kind, mixed, or constant but for the last.
fn any_series() -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![
        4 => prop::collection::vec(value(), 0..300),
        1 => (0..300usize, value()).prop_map(|(n, x)| vec![x; n]),
        2 => (0..300usize, any::<u64>(), prop_oneof![Just(1.0), Just(1e-6), Just(1e300)]).prop_map(
            |(n, seed, unit)| {
                let mut rng = Rng(seed);
                (0..n).map(|_| unit * (5.0 + rng.normal())).collect()
            }
        ),
    ]
}

fn check_verdict(detector: &Detector, v: &Verdict) -> Result<(), TestCaseError> {
    prop_assert!((0.0..=1e6).contains(&v.deviation()), "{:?}", v);
    prop_assert!(v.ln_p() <= 0.0 && v.ln_p().is_finite(), "{:?}", v);
    prop_assert!(v.statistic.is_finite());
    prop_assert_eq!(v.expected.is_nan(), v.lower.is_nan() || v.upper.is_nan(), "{:?}", v);
    if !v.expected.is_nan() {
        prop_assert!(v.expected.is_finite() && v.lower.is_finite() && v.upper.is_finite());
        prop_assert!(v.lower <= v.upper, "{:?}", v);
    }
    if v.value.is_nan() {
        prop_assert!(!v.is_anomaly);
    }
    if v.value.is_infinite() {
        prop_assert_eq!(v.deviation(), 1e6);
    }
    if !v.value.is_finite() {
        prop_assert_eq!(v.status, Status::NonFinite);
    }
    detector.description(v);
    Ok(())
}

fn case() -> impl Strategy<Value = &'static Case> {
    (0..CASES.len()).prop_map(|i| &CASES[i])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_series_has_a_defined_answer(case in case(), values in any_series(), more in value()) {
        let config = DetectorConfig { min_data_points: 2, ..detector(case, 0.01).config().clone() };
        let detector = Detector::new(config).unwrap();
        let mut state = detector.new_state();
        for (i, x) in values.iter().enumerate() {
            let outcome = detector.process(&mut state, None, &Point::new(i as i64, *x));
            check_verdict(&detector, &outcome.verdict)?;
            if let Some(metadata) = outcome.metadata {
                let json = Value::Object(metadata).to_string();
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
            }
        }
        // through storage and back: the same next verdict, and the same state
        let bytes = detector.encode_state(&state).unwrap();
        let mut back = detector.decode_state(&bytes).unwrap();
        prop_assert_eq!(&detector.encode_state(&back).unwrap(), &bytes);
        for x in [more, 1.0, 1e300] {
            let point = Point::new(1000, x);
            let a = detector.process(&mut state, None, &point);
            let b = detector.process(&mut back, None, &point);
            check_verdict(&detector, &a.verdict)?;
            prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
            prop_assert_eq!(
                detector.encode_state(&state).unwrap(),
                detector.encode_state(&back).unwrap()
            );
        }
    }

    #[test]
    fn deviation_never_falls_with_distance_and_bounds_stand_still(
        case in case(), values in any_series(), up in any::<bool>(),
    ) {
        // A value that differs is never part of a run: its own test.
        prop_assume!(case.0 != "flat_line");
        let detector = detector(case, 0.01);
        let state = trained(&detector, values.iter().copied());
        let first = detector.judge(&state, &Point::new(0, 0.0));
        let centre = if first.expected.is_nan() { 0.0 } else { first.expected };
        let mut last = 0.0;
        let mut anomaly = false;
        let mut d = 1e-9;
        while d < 1e300 {
            let x = if up { centre + d } else { centre - d };
            let verdict = detector.judge(&state, &Point::new(0, x));
            let deviation = verdict.deviation();
            prop_assert!(deviation >= last * (1.0 - 1e-12), "{} after {} at {}", deviation, last, x);
            prop_assert!(verdict.is_anomaly >= anomaly, "normal again at {}", x);
            let bounds = |v: &Verdict| format!("{} {} {}", v.expected, v.lower, v.upper);
            prop_assert_eq!(bounds(&verdict), bounds(&first));
            (last, anomaly) = (deviation, verdict.is_anomaly);
            d *= 2.0;
        }
    }

    #[test]
    fn training_equals_feeding_when_nothing_is_anomalous(
        case in case(), n in 0..600usize, seed in any::<u64>(),
    ) {
        let detector = detector(case, 1e-12);
        let mut rng = Rng(seed);
        let values = ar1(&mut rng, n);
        let whole = trained(&detector, values.iter().copied());
        let mut fed = detector.new_state();
        let mut flagged = false;
        for (i, x) in values.iter().enumerate() {
            let point = Point::new(i as i64, *x);
            flagged |= detector.process(&mut fed, None, &point).verdict.is_anomaly;
            if i % 97 == 0 {
                fed = detector.decode_state(&detector.encode_state(&fed).unwrap()).unwrap();
            }
        }
        let own_rule = ["threshold", "flat_line", "esd", "cusum"].contains(&case.0);
        prop_assume!(!flagged || own_rule);
        if !flagged {
            prop_assert_eq!(
                detector.encode_state(&whole).unwrap(),
                detector.encode_state(&fed).unwrap()
            );
        }
    }

    /// A sound state with some bytes overwritten and a checksum that fits.
    #[test]
    fn damaged_states_never_panic(
        case in case(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        arbitrary in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let detector = detector(case, 0.001);
        let algorithm = detector.strategy().algorithm();
        let state = trained(&detector, (0..330).map(|i| f64::from((i * 37) % 11) / 4.0));
        let bytes = detector.encode_state(&state).unwrap();
        let (_, payload) = codec::unwrap(&bytes).unwrap();
        let cut_off = &payload[..cut.index(payload.len())];
        let mut payload = payload.to_vec();
        for (at, byte) in edits {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        for payload in [&payload, &arbitrary, cut_off] {
            let bytes = codec::wrap(algorithm, payload).unwrap();
            if let Ok(mut state) = detector.decode_state(&bytes) {
                for i in 0..300 {
                    for x in [i as f64, f64::NAN, f64::INFINITY, 1e308, -1e308, 5e-324] {
                        let v = detector.process(&mut state, None, &Point::new(i, x)).verdict;
                        prop_assert!(v.deviation() <= 1e6);
                        state.model.metadata(&v, detector.rule());
                    }
                }
                detector.encode_state(&state).unwrap();
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The files were written by this test with UPDATE_GOLDEN=1; a change of them is a change of format.
#[test]
fn golden_bytes() {
    for case in CASES {
        let name = case.0;
        if CASES.iter().find(|c| c.0 == name).map(|c| c.1()) != Some(case.1()) {
            continue; // the first of each strategy
        }
        let detector = detector(case, 0.001);
        let mut state = trained(&detector, (0..130).map(|i| f64::from((i * 37) % 11) / 4.0));
        detector.process(&mut state, None, &Point::new(5_000_000, 99.5));
        let bytes = detector.encode_state(&state).unwrap();
        println!("{name}: {} bytes", bytes.len());
        let path = format!("{}/tests/golden/state_v1_{name}.hex", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&bytes) + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert_eq!(hex(&bytes), golden.trim(), "the stored format of {name} has changed");
        let state = detector.decode_state(&bytes).unwrap();
        assert!(state.model.count() >= 130);
    }
}

#[test]
fn states_stay_small() {
    for case in CASES {
        let detector = detector(case, 0.001);
        let mut rng = Rng(1);
        let state = trained(&detector, white(&mut rng, 20_000));
        let bytes = detector.encode_state(&state).unwrap().len();
        println!("{} {}: {bytes} bytes", case.0, case.1());
        let limit = match case.0 {
            "quantile" => 6000,
            "changepoint" => 2500,
            "esd" => 2500,
            _ => 2000,
        };
        assert!(bytes <= limit, "{}: {bytes} bytes", case.0);
    }
}
