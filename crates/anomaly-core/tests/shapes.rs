//! `random_cut_forest` and `matrix_profile`: what they are for, beside what `every_strategy` asks of
//! all strategies.

mod common;

use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Point, Verdict};
use common::{Rng, config, in_full, repetitions, with_alpha};
use proptest::prelude::*;
use serde_json::{Value, json};

const BOTH: [&str; 2] = ["random_cut_forest", "matrix_profile"];
const STEP: i64 = 60_000_000;

fn feed(detector: &Detector, state: &mut EntityState, from: usize, xs: &[f64]) -> Vec<Verdict> {
    let point = |(i, x): (usize, &f64)| Point::new((from + i) as i64 * STEP, *x);
    xs.iter().enumerate().map(point).map(|p| detector.process(state, None, &p).verdict).collect()
}

fn trained(detector: &Detector, xs: &[f64]) -> EntityState {
    let mut state = detector.new_state();
    for (i, x) in xs.iter().enumerate() {
        detector.train(&mut state, &Point::new(i as i64 * STEP, *x));
    }
    state
}

fn white(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.normal()).collect()
}

fn sine(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n)
        .map(|i| 5.0 * libm::sin(i as f64 / 48.0 * std::f64::consts::TAU) + 0.5 * rng.normal())
        .collect()
}

/// Where the shape is wrong and every value in range: how many of its points are flagged, in each of
/// ten series, and how many of 500 points before.
fn found(strategy: &str, change: impl Fn(&mut [f64])) -> (Vec<usize>, usize) {
    let detector = with_alpha(strategy, 0.001);
    let mut quiet = 0;
    let hits = (0..10)
        .map(|seed| {
            let mut xs = sine(900 + seed, 3600);
            let range = xs.iter().fold((f64::MAX, f64::MIN), |r, x| (r.0.min(*x), r.1.max(*x)));
            change(&mut xs[3510 + 3 * seed as usize..][..48]);
            let mut state = trained(&detector, &xs[..3000]);
            let verdicts = feed(&detector, &mut state, 3000, &xs[3000..]);
            assert!(xs.iter().all(|x| range.0 <= *x && *x <= range.1));
            quiet += verdicts[..500].iter().filter(|v| v.is_anomaly).count();
            verdicts[510..].iter().filter(|v| v.is_anomaly).count()
        })
        .collect();
    (hits, quiet)
}

#[test]
fn a_wrong_shape_is_found_though_every_value_is_in_range() {
    for strategy in BOTH {
        let (reversed, quiet) = found(strategy, |xs| xs.iter_mut().for_each(|x| *x *= -0.9));
        assert!(reversed.iter().all(|n| *n > 0), "{strategy}: reversed {reversed:?}");
        assert!(quiet <= 15, "{strategy}: {quiet} of 5000 quiet points");
    }
    let (flat, _) = found("matrix_profile", |xs| {
        let level = xs[0];
        xs.iter_mut().for_each(|x| *x = level);
    });
    assert!(flat.iter().all(|n| *n > 0), "flattened {flat:?}");
}

/// Without a shape there is nothing to find, at the rate that was asked for.
#[test]
fn the_flagged_share_of_noise_is_nominal() {
    let series = repetitions(16, 4);
    const CALIBRATION: usize = 6000;
    const JUDGED: usize = 5000;
    let mut shares = Vec::new();
    for strategy in BOTH {
        let detectors = [0.01, 0.001].map(|alpha| (alpha, with_alpha(strategy, alpha)));
        let mut flagged = [0; 2];
        for seed in 0..series {
            let xs = white(100 + seed, CALIBRATION + JUDGED);
            // no rule plays a part in training
            let (_, any) = &detectors[0];
            let learned = any.encode_state(&trained(any, &xs[..CALIBRATION])).unwrap();
            for ((_, detector), flagged) in detectors.iter().zip(&mut flagged) {
                let mut state = detector.decode_state(&learned).unwrap();
                let verdicts = feed(detector, &mut state, CALIBRATION, &xs[CALIBRATION..]);
                *flagged += verdicts.iter().filter(|v| v.is_anomaly).count();
            }
        }
        for ((alpha, _), flagged) in detectors.iter().zip(flagged) {
            let share = flagged as f64 / (series as usize * JUDGED) as f64 / alpha;
            println!("{strategy} at {alpha}: {share:.3} times nominal");
            shares.push((strategy, *alpha, share));
        }
    }
    // 80 are expected at 0.001 in full, else 20, and they cluster
    let range = |alpha: f64| match (alpha > 0.005, in_full()) {
        (true, true) => 0.8..=1.2,
        (true, false) => 0.7..=1.3,
        (false, true) => 0.65..=1.4,
        (false, false) => 0.3..=1.8,
    };
    assert!(shares.iter().all(|(_, alpha, s)| range(*alpha).contains(s)), "{shares:?}");
}

/// Each value is usual, each feature is, only both together are not: high load with few users.
#[test]
fn a_combination_of_columns_is_found() {
    let detector = with_alpha("random_cut_forest", 0.01);
    let mut rng = Rng(31);
    let mut state = detector.new_state();
    let mut users = 0.0;
    let mut row = |i: i64| {
        users = 0.9 * users + rng.normal();
        (Point::new(i * STEP, 50.0 + 10.0 * users + rng.normal()), [1000.0 + 100.0 * users])
    };
    for i in 0..4000 {
        let (point, features) = row(i);
        detector.train(&mut state, &Point { features: &features, ..point });
    }
    let mut quiet = 0;
    for i in 4000..4500 {
        let (point, features) = row(i);
        let point = Point { features: &features, ..point };
        quiet += i32::from(detector.process(&mut state, None, &point).verdict.is_anomaly);
    }
    assert!(quiet <= 12, "{quiet} of 500");
    let (point, features) = row(4500);
    let judge = |features: &[f64]| detector.judge(&state, &Point { features, ..point });
    let usual = judge(&features);
    assert!(!usual.is_anomaly, "{usual:?}");
    let other = judge(&[features[0] - 600.0]);
    assert!(other.ln_p() < usual.ln_p() && other.is_anomaly, "{usual:?} {other:?}");

    // Missing and superfluous features count as usual ones, whatever they are.
    let missing = judge(&[]);
    assert_eq!(missing.ln_p(), judge(&[f64::NAN]).ln_p());
    assert_eq!(usual.ln_p(), judge(&[features[0], 1e9, f64::NAN]).ln_p());
    for odd in [f64::INFINITY, f64::NEG_INFINITY, 1e308, -5e-324] {
        let verdict = judge(&[odd]);
        assert!(verdict.ln_p().is_finite() && verdict.expected.is_finite(), "{verdict:?}");
    }

    let bytes = detector.encode_state(&state).unwrap();
    let back = detector.decode_state(&bytes).unwrap();
    let point = Point { features: &features, ..point };
    assert_eq!(detector.judge(&state, &point), detector.judge(&back, &point));
    assert!(bytes.len() < 64_000, "{} bytes", bytes.len());
}

#[test]
fn parameters_are_checked() {
    for (strategy, params, valid) in [
        ("random_cut_forest", json!({"trees": 3}), "number_of_trees"),
        ("random_cut_forest", json!({"number_of_trees": 0}), "1 to 100"),
        ("random_cut_forest", json!({"sample_size": 31}), "32 to 256"),
        ("random_cut_forest", json!({"shingle_size": 17}), "1 to 16"),
        ("random_cut_forest", json!({"history": 100}), "256 to 8192"),
        ("random_cut_forest", json!({"random_state": -1}), "0 to"),
        ("matrix_profile", json!({"window": 3}), "4 to 128"),
        ("matrix_profile", json!({"window": 2.5}), "4 to 128"),
        ("matrix_profile", json!({"history": 9000}), "256 to 8192"),
        ("matrix_profile", json!({"m": 9}), "window, history"),
    ] {
        let made = Detector::new(DetectorConfig { params: params.clone(), ..config(strategy) });
        let Err(Error::InvalidParameter { hint, .. }) = made else {
            panic!("{strategy} took {params}");
        };
        assert!(hint.contains(valid), "{hint}");
    }
}

fn with_params(strategy: &str, params: Value) -> Detector {
    Detector::new(DetectorConfig { params, ..config(strategy) }).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_another_forest() {
    let state = |params: Value| {
        let detector = with_params("random_cut_forest", params);
        detector.encode_state(&trained(&detector, &white(5, 700))).unwrap()
    };
    assert_eq!(state(json!({})), state(json!({"random_state": 42})));
    assert_ne!(state(json!({})), state(json!({"random_state": 43})));
}

/// The largest states that parameters allow, and those of the defaults.
#[test]
fn bytes_of_state() {
    for (strategy, params, most) in [
        ("random_cut_forest", json!({}), 40_000),
        ("matrix_profile", json!({}), 40_000),
        (
            "random_cut_forest",
            json!({"number_of_trees": 100, "sample_size": 256, "history": 8192}),
            300_000,
        ),
        ("matrix_profile", json!({"window": 128, "history": 8192}), 140_000),
    ] {
        let detector = with_params(strategy, params.clone());
        let state = trained(&detector, &white(6, 9000));
        let bytes = detector.encode_state(&state).unwrap();
        println!("{strategy} {params}: {} bytes", bytes.len());
        assert!(bytes.len() < most, "{strategy} {params}: {} bytes", bytes.len());
        let back = detector.decode_state(&bytes).unwrap();
        let point = Point::new(9000 * STEP, 1.5);
        assert_eq!(detector.judge(&state, &point), detector.judge(&back, &point));
    }
}

/// A missing point is filled and a long break starts anew: neither raises anything.
#[test]
fn gaps_are_no_anomalies() {
    for strategy in BOTH {
        let detector = with_alpha(strategy, 0.001);
        let xs = sine(77, 4000);
        let mut state = detector.new_state();
        let mut flagged = 0;
        for (i, x) in xs.iter().enumerate() {
            if i % 50 == 7 || (3300..3450).contains(&i) {
                continue;
            }
            let point = Point::new(i as i64 * STEP, *x);
            if i < 3000 {
                detector.train(&mut state, &point);
            } else {
                let verdict = detector.process(&mut state, None, &point).verdict;
                flagged += usize::from(verdict.is_anomaly);
            }
        }
        assert!(flagged <= 4, "{strategy}: {flagged}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the history: p does not rise with the distance from the forecast on either side, and
    /// the deviation grows beyond all bounds.
    #[test]
    fn deviation_grows_with_distance(
        seed in any::<u64>(),
        n in 0usize..300,
        pick in 0usize..2,
        regime in 0usize..4,
        threshold in prop::option::of(0.5f64..8.0),
    ) {
        let detector = Detector::new(DetectorConfig { threshold, ..config(BOTH[pick]) }).unwrap();
        let mut rng = Rng(seed);
        let xs: Vec<f64> = (0..n)
            .map(|i| match regime {
                0 => rng.normal(),
                1 => f64::from(u8::from(rng.uniform() < 0.5)) * 10.0 + 0.1 * rng.normal(),
                2 => (i % 7) as f64,
                _ => 1e12 + libm::exp(3.0 * rng.normal()),
            })
            .collect();
        let state = trained(&detector, &xs);
        let at = n as i64 * STEP;
        let expected = detector.judge(&state, &Point::new(at, 0.0)).expected;
        prop_assume!(expected.is_finite());
        for side in [-1.0, 1.0] {
            let mut last: Option<Verdict> = None;
            for step in 0..220 {
                let x = expected + side * 1e-3 * libm::exp(0.2 * f64::from(step));
                let verdict = detector.judge(&state, &Point::new(at, x));
                if let Some(last) = last {
                    prop_assert!(verdict.ln_p() <= last.ln_p(), "{last:?} then {verdict:?}");
                    prop_assert!(verdict.statistic >= last.statistic);
                    prop_assert!(verdict.is_anomaly >= last.is_anomaly);
                    prop_assert_eq!((verdict.lower, verdict.upper), (last.lower, last.upper));
                }
                last = Some(verdict);
            }
            let far = last.unwrap();
            // By the last regime's own points, few and over nine powers of ten, even this is not so far.
            let least = if regime == 3 { 2.0 } else { 3.0 };
            prop_assert!(n < 3 || far.deviation() > least, "{far:?}");
        }
    }
}
