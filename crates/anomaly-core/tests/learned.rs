//! `isolation_forest`, `one_class_svm`, `autoencoder` and `lstm`: what they are for, beside what `every_strategy` asks of
//! all strategies.

mod common;

use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Point, Severity, Verdict, codec};
use common::{Rng, config, in_full, repetitions, with_alpha};
use proptest::prelude::*;
use serde_json::{Value, json};

const ALL: [&str; 4] = ["isolation_forest", "one_class_svm", "autoencoder", "lstm"];
const HOUR: i64 = 3_600_000_000;

fn feed(detector: &Detector, state: &mut EntityState, from: usize, xs: &[f64]) -> Vec<Verdict> {
    let point = |(i, x): (usize, &f64)| Point::new((from + i) as i64 * HOUR, *x);
    xs.iter().enumerate().map(point).map(|p| detector.process(state, None, &p).verdict).collect()
}

fn trained(detector: &Detector, xs: &[f64]) -> EntityState {
    let mut state = detector.new_state();
    for (i, x) in xs.iter().enumerate() {
        detector.train(&mut state, &Point::new(i as i64 * HOUR, *x));
    }
    state
}

fn normal(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n).map(|_| 100.0 + 20.0 * rng.normal()).collect()
}

fn sine(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n).map(|i| wave(i) + 2.0 * rng.normal()).collect()
}

fn wave(hour: usize) -> f64 {
    100.0 + 30.0 * libm::sin(hour as f64 / 24.0 * std::f64::consts::TAU)
}

fn detector(strategy: &str, params: Value, alpha: f64) -> Detector {
    Detector::new(DetectorConfig {
        params,
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        ..config(strategy)
    })
    .unwrap()
}

fn judge(detector: &Detector, state: &EntityState, hour: usize, value: f64) -> Verdict {
    detector.judge(state, &Point::new(hour as i64 * HOUR, value))
}

/// The sample points of rows C18 to C20: 30 days of hours of 100 ± 20.
fn sample_points(strategy: &str) {
    let detector = with_alpha(strategy, 0.001);
    let state = trained(&detector, &normal(18, 720));
    for usual in [105.0, 87.5, 122.3, 100.0] {
        let v = judge(&detector, &state, 720, usual);
        assert!(!v.is_anomaly && v.severity() < Severity::Critical, "{v:?}");
    }
    for unusual in [200.0, 1500.0, 0.5, -40.0] {
        let v = judge(&detector, &state, 720, unusual);
        assert!(v.is_anomaly && v.deviation() >= 3.0, "{v:?}");
    }
    let far = judge(&detector, &state, 720, 1500.0);
    assert_eq!(far.severity(), Severity::Emergency, "{far:?}");
    let again = trained(&detector, &normal(18, 720));
    let bytes = |state| detector.encode_state(state).unwrap();
    assert!(bytes(&again) == bytes(&state), "another result by the same seed");
}

#[test]
fn check_c18_isolation_forest_judges_the_sample_points() {
    sample_points("isolation_forest");
}

#[test]
fn check_c19_one_class_svm_judges_the_sample_points() {
    sample_points("one_class_svm");
}

#[test]
fn check_c20_autoencoder_judges_the_sample_points() {
    sample_points("autoencoder");
}

#[test]
fn check_c21_lstm_judges_the_sample_points() {
    sample_points("lstm");
}

/// No threshold that is 0 up to rounding: deviations are finite, above 0 and grow with distance.
#[test]
fn defect_s2_deviations_are_finite_and_grow_with_distance() {
    let xs = normal(18, 720);
    for strategy in ALL {
        let detector = with_alpha(strategy, 0.001);
        let state = trained(&detector, &xs);
        let mut last = 0.0;
        for value in [150.0, 180.0, 200.0, 500.0, 1500.0, 15_000.0, 1e9, 1e300] {
            let v = judge(&detector, &state, 720, value);
            assert!(v.deviation().is_finite() && v.deviation() > last, "{strategy}: {v:?}");
            last = v.deviation();
        }
    }
}

/// An extreme that was learned in a further column hides nothing before it.
#[test]
fn extremes_in_the_history_do_not_widen_its_range() {
    for strategy in ["isolation_forest", "one_class_svm"] {
        let detector = with_alpha(strategy, 0.001);
        let mut rng = Rng(41);
        let mut state = detector.new_state();
        for i in 0..720 {
            let features = [5.0 + rng.normal() + if i == 310 { 300.0 } else { 0.0 }];
            let point = Point::new(i * HOUR, 100.0 + 20.0 * rng.normal());
            detector.train(&mut state, &Point { features: &features, ..point });
        }
        let judge = |column: f64| {
            detector.judge(&state, &Point { features: &[column], ..Point::new(720 * HOUR, 105.0) })
        };
        assert!(!judge(5.0).is_anomaly, "{strategy}");
        let mut last = 0.0;
        for column in [15.0, 30.0, 60.0, 250.0, 305.0] {
            let far = judge(column);
            assert!(far.is_anomaly && far.deviation() > last, "{strategy} {column}: {far:?}");
            last = far.deviation();
        }
    }
}

/// Of rows like those of training, whatever share is asked for.
#[test]
fn check_c22_defect_s14_contamination_is_the_flagged_share() {
    let xs = normal(3, 2400);
    for strategy in ALL {
        for share in [0.02, 0.05] {
            let detector = Detector::new(DetectorConfig {
                params: json!({"contamination": share}),
                ..config(strategy)
            })
            .unwrap();
            let mut state = trained(&detector, &xs);
            // as many of them at each hour of the day
            let mut flagged = 0;
            for (i, some) in xs.chunks(xs.len() / 24).enumerate() {
                let unusual = |x: &&f64| judge(&detector, &state, 2400 + i, **x).is_anomaly;
                flagged += some.iter().filter(unusual).count();
                detector.train(&mut state, &Point::new((2400 + i) as i64 * HOUR, xs[i]));
            }
            let flagged = flagged as f64 / xs.len() as f64;
            println!("{strategy}: {flagged} of {share}");
            assert!((0.6..=1.5).contains(&(flagged / share)), "{strategy}: {flagged} of {share}");
        }
        for bad in [json!(0), json!(0.6), json!(-1), json!("many"), json!(null)] {
            let config =
                DetectorConfig { params: json!({"contamination": bad}), ..config(strategy) };
            assert!(matches!(Detector::new(config), Err(Error::InvalidParameter { .. })));
        }
    }
}

/// On noise the alerts are those that were asked for.
#[test]
fn the_flagged_share_of_noise_is_nominal() {
    let mut shares = Vec::new();
    let (forest, svm, autoencoder, lstm) =
        (repetitions(8, 3), repetitions(8, 3), repetitions(8, 3), repetitions(3, 2));
    for (strategy, series) in [
        ("isolation_forest", forest),
        ("one_class_svm", svm),
        ("autoencoder", autoencoder),
        ("lstm", lstm),
    ] {
        let alpha = 0.01;
        let detector = with_alpha(strategy, alpha);
        let (mut flagged, mut judged) = (0, 0);
        for seed in 0..series {
            let xs = normal(100 + seed, 4000);
            let mut state = trained(&detector, &xs[..2000]);
            let verdicts = feed(&detector, &mut state, 2000, &xs[2000..]);
            flagged += verdicts.iter().filter(|v| v.is_anomaly).count();
            judged += verdicts.len();
        }
        let share = flagged as f64 / judged as f64 / alpha;
        println!("{strategy}: {share:.2} times nominal");
        shares.push((strategy, share));
    }
    let range = if in_full() { 0.6..=1.4 } else { 0.5..=1.6 };
    assert!(shares.iter().all(|(_, s)| range.contains(s)), "{shares:?}");
}

/// Every value is in range, only the hour is wrong; judged from the latest points, at any place.
fn phase_error(strategy: &str) {
    let xs = sine(5, 1000);
    let detector = with_alpha(strategy, 0.001);
    let mut state = trained(&detector, &xs[..800]);
    let quiet = feed(&detector, &mut state, 800, &xs[800..900]);
    let quiet = quiet.iter().filter(|v| v.is_anomaly).count();
    assert!(quiet <= 3, "{quiet} of 100");
    let mut found = 0;
    for hour in 900..924 {
        let right = judge(&detector, &state, hour, wave(hour));
        assert!(!right.is_anomaly, "at {hour}: {right:?}");
        let opposite = judge(&detector, &state, hour, wave(hour + 12));
        if (wave(hour) - wave(hour + 12)).abs() > 30.0 {
            found += usize::from(opposite.is_anomaly);
        } else {
            found += 1;
        }
        let near = (right.expected - wave(hour)).abs();
        // what knows where values lie knows no mean
        let reach = if ["lstm", "autoencoder"].contains(&strategy) { 10.0 } else { 20.0 };
        assert!(near < reach, "at {hour}: {right:?}");
        feed(&detector, &mut state, hour, &xs[hour..=hour]);
    }
    assert!(found >= 22, "{found} of 24");
}

#[test]
fn check_c20_autoencoder_finds_a_phase_error() {
    phase_error("autoencoder");
}

#[test]
fn check_c21_lstm_finds_a_phase_error() {
    phase_error("lstm");
}

#[test]
fn check_c22_a_value_at_the_wrong_hour_is_found() {
    phase_error("isolation_forest");
    phase_error("one_class_svm");
}

/// Forecasts follow the latest points, long after training, and are in the metric's unit.
#[test]
fn defect_s13_lstm_forecasts_from_the_latest_points() {
    let xs = sine(5, 1000);
    let detector = with_alpha("lstm", 0.001);
    let mut state = trained(&detector, &xs[..700]);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for hour in 700..1000 {
        let v = judge(&detector, &state, hour, xs[hour]);
        let metadata = state.model.metadata(&v, detector.rule());
        let predicted = metadata["predicted_value"].as_f64().unwrap();
        assert_eq!(predicted, v.expected);
        assert!((predicted - wave(hour)).abs() < 15.0, "at {hour}: {predicted}");
        (low, high) = (low.min(predicted), high.max(predicted));
        feed(&detector, &mut state, hour, &xs[hour..=hour]);
    }
    assert!(low < 80.0 && high > 120.0, "{low} to {high}");
}

/// No layer is empty with one column, and none is wider than the row.
#[test]
fn defect_s15_autoencoder_works_with_one_column() {
    for params in [json!({"lags": 0, "time_features": false}), json!({"time_features": false})] {
        let lags: u64 = if params["lags"] == 0 { 0 } else { 8 };
        let detector = detector("autoencoder", params, 0.001);
        let state = trained(&detector, &normal(18, 720));
        let explain = state.model.explain();
        assert_eq!(explain["columns"], lags + 1);
        let narrow = explain["encoding_dim"].as_u64().unwrap();
        assert!((1..=lags.div_ceil(2).max(1)).contains(&narrow), "{explain:?}");
        assert!(!judge(&detector, &state, 720, 100.0).is_anomaly);
        for value in [200.0, 1500.0] {
            assert!(judge(&detector, &state, 720, value).is_anomaly, "{value}");
        }
    }
}

/// Each cycle can be left out; then nothing is known of it.
#[test]
fn check_c22_time_features_are_on_or_off() {
    let xs = sine(5, 800);
    for strategy in ["isolation_forest", "one_class_svm"] {
        let with = |time_features: Value| {
            let detector = detector(strategy, json!({"time_features": time_features}), 0.001);
            let mut state = trained(&detector, &xs[..780]);
            let names = state.model.explain()["time_features"].clone();
            let expected: Vec<f64> = (780..800)
                .map(|hour| {
                    let expected = judge(&detector, &state, hour, 100.0).expected;
                    detector.train(&mut state, &Point::new(hour as i64 * HOUR, xs[hour]));
                    expected
                })
                .collect();
            let of = |f: fn(f64, f64) -> f64| expected.iter().copied().reduce(f).unwrap();
            (names, of(f64::max) - of(f64::min))
        };
        // the history covers two weeks, and no two months
        let (names, apart) = with(json!(true));
        assert_eq!(names, json!(["hour", "weekday"]), "{strategy}");
        assert!(apart > 30.0, "{strategy}: {apart}");
        let (names, apart) = with(json!(["hour"]));
        assert_eq!(names, json!(["hour"]));
        assert!(apart > 30.0, "{strategy}: {apart}");
        for off in [json!(false), json!([]), json!(["month", "day"])] {
            let (names, apart) = with(off);
            assert_eq!(names, json!([]));
            assert!(apart < 5.0, "{strategy}: {apart}");
        }
    }
}

/// With noise only, the state says that the network is no better than the mean.
#[test]
fn explain_says_what_a_network_is_worth() {
    for strategy in ["autoencoder", "lstm"] {
        let detector = with_alpha(strategy, 0.001);
        let explain = |xs: &[f64]| Value::Object(trained(&detector, xs).model.explain());
        let young = explain(&normal(1, 40));
        assert!(young["status"].as_str().unwrap().starts_with("not trained yet (40 of"), "{young}");
        let noise = explain(&normal(1, 720));
        assert!(noise["status"].as_str().unwrap().starts_with("not in use"), "{noise}");
        let constant = explain(&[5.0; 720]);
        assert_eq!(constant["status"], "nothing to learn from", "{constant}");
        let sine = explain(&sine(1, 720));
        println!("{strategy}: {sine}");
        let error = |name: &str| sine[name].as_f64().unwrap();
        assert!(error("held_out_error") < 0.5 * error("held_out_error_of_mean"), "{sine}");
        assert!(error("held_out_error") < error("held_out_error_of_last"), "{sine}");
    }
}

/// Each value is usual, each further column is, only both together are not.
#[test]
fn a_combination_of_columns_is_found() {
    for strategy in ["one_class_svm", "autoencoder"] {
        let detector = with_alpha(strategy, 0.01);
        let mut rng = Rng(31);
        let mut state = detector.new_state();
        let mut row = |i: i64| {
            let users = rng.normal();
            (Point::new(i * HOUR, 50.0 + 10.0 * users + rng.normal()), [1000.0 + 100.0 * users])
        };
        for i in 0..2000 {
            let (point, features) = row(i);
            detector.train(&mut state, &Point { features: &features, ..point });
        }
        let mut quiet = 0;
        for i in 2000..2200 {
            let (point, features) = row(i);
            let point = Point { features: &features, ..point };
            quiet += i32::from(detector.process(&mut state, None, &point).verdict.is_anomaly);
        }
        assert!(quiet <= 8, "{strategy}: {quiet} of 200");
        let judge = |value: f64, features: &[f64]| {
            detector.judge(&state, &Point { features, ..Point::new(2200 * HOUR, value) })
        };
        let usual = judge(60.0, &[1100.0]);
        let odd = judge(60.0, &[900.0]);
        assert!(!usual.is_anomaly, "{strategy}: {usual:?}");
        assert!(odd.is_anomaly && odd.ln_p() < usual.ln_p(), "{strategy}: {usual:?} {odd:?}");
    }
}

/// Missing and superfluous columns count as the median, whatever they are; one far out is found.
#[test]
fn check_c22_further_columns_have_a_defined_rule() {
    for strategy in ["isolation_forest", "one_class_svm", "autoencoder"] {
        let detector = with_alpha(strategy, 0.01);
        let mut rng = Rng(31);
        let mut state = detector.new_state();
        for i in 0..2000 {
            let users = rng.normal();
            let point = Point::new(i * HOUR, 50.0 + 10.0 * users + rng.normal());
            let features = [1000.0 + 100.0 * users];
            detector.train(&mut state, &Point { features: &features, ..point });
        }
        let judge = |value: f64, features: &[f64]| {
            detector.judge(&state, &Point { features, ..Point::new(2000 * HOUR, value) })
        };
        let missing = judge(50.0, &[]);
        assert!(!missing.is_anomaly, "{strategy}: {missing:?}");
        assert_eq!(missing.ln_p(), judge(50.0, &[f64::NAN]).ln_p());
        assert_eq!(judge(50.0, &[1100.0]).ln_p(), judge(50.0, &[1100.0, 1e9, f64::NAN]).ln_p());
        let mut last = 0.0;
        for column in [2000.0, 5000.0, 20_000.0] {
            let far = judge(50.0, &[column]);
            assert!(far.is_anomaly && far.deviation() >= last, "{strategy} {column}: {far:?}");
            last = far.deviation();
        }
        for odd in [f64::INFINITY, f64::NEG_INFINITY, 1e308, -5e-324] {
            let verdict = judge(50.0, &[odd]);
            assert!(verdict.ln_p().is_finite() && verdict.expected.is_finite(), "{verdict:?}");
        }
        let bytes = detector.encode_state(&state).unwrap();
        assert!(bytes.len() < 65_536, "{strategy}: {} bytes", bytes.len());
    }
}

#[test]
fn check_c18_c19_c20_c21_c22_parameters_are_checked() {
    for (strategy, params, valid) in [
        ("isolation_forest", json!({"n_estimators": 0}), "1 to 1000"),
        ("isolation_forest", json!({"max_samples": 1}), "2 to"),
        ("isolation_forest", json!({"max_samples": 1025}), "1024 at most"),
        ("isolation_forest", json!({"n_estimators": 1000, "max_samples": 96}), "65536"),
        ("isolation_forest", json!({"variant": "best"}), "extended"),
        ("isolation_forest", json!({"random_state": -1}), "whole number"),
        ("isolation_forest", json!({"ndim": 3}), "n_estimators"),
        ("one_class_svm", json!({"kernel": "cosine"}), "rbf"),
        ("one_class_svm", json!({"nu": 0}), "nu"),
        ("one_class_svm", json!({"nu": 1.5}), "0 to 1"),
        ("one_class_svm", json!({"gamma": "big"}), "gamma"),
        ("one_class_svm", json!({"gamma": -1}), "gamma"),
        ("one_class_svm", json!({"degree": 2}), "kernel"),
        ("autoencoder", json!({"encoding_dim": 0}), "1 to 64"),
        ("autoencoder", json!({"activation": "softmax"}), "relu"),
        ("autoencoder", json!({"learning_rate": 0}), "above 0"),
        ("autoencoder", json!({"epochs": 1.5}), "1 to 1000"),
        ("autoencoder", json!({"batch_size": 0}), "1 to 1024"),
        ("autoencoder", json!({"lags": 33}), "0 to 32"),
        ("lstm", json!({"sequence_length": 1}), "2 to 128"),
        ("lstm", json!({"lstm_units": 1000}), "1 to 128"),
        ("lstm", json!({"dropout_rate": 1}), "0 to 0.9"),
        ("lstm", json!({"time_features": ["minute"]}), "weekday"),
        ("lstm", json!({"random_state": -1}), "0 to"),
    ] {
        let error = Detector::new(DetectorConfig { params, ..config(strategy) }).err();
        let Some(Error::InvalidParameter { message, hint }) = error else { panic!("{strategy}") };
        assert!(hint.contains(valid), "{strategy}: {message}; {hint}");
    }
    for (strategy, params) in [
        ("isolation_forest", json!({"variant": "density", "max_samples": "auto"})),
        ("isolation_forest", json!({"variant": "sciforest"})),
        ("isolation_forest", json!({"variant": "auto"})),
        ("isolation_forest", json!({"variant": "auto", "n_estimators": 20})),
        ("isolation_forest", json!({"variant": "mixed", "max_samples": 300, "random_state": 7})),
        ("isolation_forest", json!({"variant": "standard", "n_estimators": 1000})),
        ("isolation_forest", json!({"n_estimators": 20, "time_features": false})),
        ("one_class_svm", json!({"kernel": "linear", "nu": 0.5, "gamma": "auto"})),
        ("one_class_svm", json!({"kernel": "poly", "nu": 1, "gamma": 0.1, "time_features": false})),
        (
            "autoencoder",
            json!({"encoding_dim": 2, "epochs": 3, "batch_size": 8, "lags": 0,
            "activation": "tanh", "learning_rate": 0.01, "time_features": ["hour", "month"]}),
        ),
        (
            "lstm",
            json!({"sequence_length": 5, "lstm_units": 4, "dropout_rate": 0, "epochs": 2,
            "batch_size": 10, "learning_rate": 0.01, "random_state": 7}),
        ),
    ] {
        let detector = detector(strategy, params.clone(), 0.001);
        let mut state = trained(&detector, &sine(1, 700));
        let verdict = detector.process(&mut state, None, &Point::new(700 * HOUR, 1500.0)).verdict;
        assert_eq!(verdict.severity(), Severity::Emergency, "{strategy} {params}: {verdict:?}");
    }
    // the old name still works
    assert!(Detector::new(config("learning_deep_lstm")).is_ok());
}

/// A seed means the same network for ever: what the same rows and seed lead to is written down here.
#[test]
fn golden_states() {
    let own = ALL.map(|strategy| {
        let value = |i: usize| ((i * 37) % 101) as f64 + 0.25 * wave(i);
        let xs: Vec<f64> = (0..700).map(value).collect();
        let params =
            if strategy == "lstm" { json!({"lstm_units": 8, "epochs": 2}) } else { json!({}) };
        let detector = detector(strategy, params, 0.001);
        let bytes = detector.encode_state(&trained(&detector, &xs)).unwrap();
        let (_, payload) = codec::unwrap(&bytes).unwrap();
        (payload.len(), crc32fast::hash(payload))
    });
    assert_eq!(own, GOLDEN);
}

const GOLDEN: [(usize, u32); 4] = [
    (47_554, 3_924_623_480),
    (15_574, 3_022_424_826),
    (15_589, 1_443_944_270),
    (12_486, 1_290_437_621),
];

/// States of trained machines: stored in the middle of a course they go on as if nothing had been,
/// and damaged ones are refused or usable.
#[test]
fn trained_states_survive_storage() {
    let xs = sine(9, 800);
    for strategy in ALL {
        let detector = with_alpha(strategy, 0.001);
        let mut state = trained(&detector, &xs[..690]);
        let bytes = detector.encode_state(&state).unwrap();
        println!("{strategy}: {} bytes", bytes.len());
        assert!(bytes.len() < 65_536);
        let mut back = detector.decode_state(&bytes).unwrap();
        let a = feed(&detector, &mut state, 690, &xs[690..]);
        let b = feed(&detector, &mut back, 690, &xs[690..]);
        assert_eq!(a, b, "{strategy}");
        assert!(detector.encode_state(&state).unwrap() == detector.encode_state(&back).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn damaged_states_are_refused_or_usable(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..4),
        cut in prop_oneof![3 => Just(0), 1 => 0..5000_usize],
    ) {
        static STATES: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
            let state = |s: &&str| {
                let detector = with_alpha(s, 0.001);
                detector.encode_state(&trained(&detector, &sine(9, 700))).unwrap()
            };
            ALL.iter().map(state).collect()
        });
        for (strategy, bytes) in ALL.iter().zip(STATES.iter()) {
            let detector = with_alpha(strategy, 0.001);
            let (algorithm, payload) = codec::unwrap(bytes).unwrap();
            let mut payload = payload.to_vec();
            for (at, word) in &edits {
                let at = at.index(payload.len() - 8);
                payload[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            payload.truncate(payload.len() - cut);
            let bytes = codec::wrap(algorithm, &payload).unwrap();
            let Ok(mut state) = detector.decode_state(&bytes) else { continue };
            for value in [0.0, 1e300, -1e300, f64::NAN, f64::INFINITY, 100.0, 5e-324] {
                let v = detector.process(&mut state, None, &Point::new(701 * HOUR, value)).verdict;
                prop_assert!(v.ln_p().is_finite() && !v.expected.is_infinite(), "{:?}", v);
            }
            let again = detector.encode_state(&state).unwrap();
            prop_assert!(detector.decode_state(&again).is_ok());
        }
    }
}
