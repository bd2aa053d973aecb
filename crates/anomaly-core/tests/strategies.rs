//! The rules of each strategy, on the one path that every caller takes.
//!
//! Reference numbers of the sequence `x_i = ((7919·i) mod 1000) / 10`: NumPy 2.4 `mean`, `std`,
//! `percentile` (linear) and `median(abs(x - median(x)))`.

mod common;

use anomaly_core::strategy::{
    ANOMALY_TYPES, STRATEGIES, anomaly_type_info, resolve_name, strategy,
};
use anomaly_core::{
    Detector, DetectorConfig, Direction, Error, Phase, Point, Severity, Status, Transition, Verdict,
};
use common::available::defaults;
use common::{Rng, config, context, trained, with_alpha, with_threshold};
use proptest::prelude::*;
use serde_json::{Value, json};

fn sequence(n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(|i| ((i * 7919) % 1000) as f64 / 10.0)
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-10 * b.abs().max(1e-10), "{a} is not {b}");
}

/// The outcome of one point, with the figures an alert would carry.
fn feed(detector: &Detector, values: &[f64], x: f64) -> (Verdict, Option<Value>) {
    let mut state = trained(detector, values.iter().copied());
    let outcome = detector.process(&mut state, None, &Point::new(1_000_000, x));
    (outcome.verdict, outcome.metadata.map(Value::Object))
}

fn number(map: &Value, key: &str) -> f64 {
    map[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {map}"))
}

#[test]
fn check_c1_every_listed_name_is_accepted_and_any_other_is_rejected() {
    for name in [
        "statistical_zscore",
        "statistical_iqr",
        "statistical_moving_average",
        "statistical_regression",
        "learning_isolation_forest",
        "learning_one_class_svm",
        "learning_autoencoder",
        "learning_lstm",
        "hybrid_ensemble",
        "hybrid_adaptive",
        "statistical_mad",
    ] {
        assert_eq!(resolve_name(name), Ok(name));
        let (_, short) = name.split_once('_').unwrap();
        assert_eq!(resolve_name(short), Ok(name));
    }
    assert_eq!(resolve_name("learning_deep_lstm"), Ok("learning_lstm"));
    assert_eq!(resolve_name("deep_lstm"), Ok("learning_lstm"));
    for name in ["", "zscores", "STATISTICAL_ZSCORE", "statistical_", "zscore "] {
        let Err(Error::InvalidParameter { message, hint }) = resolve_name(name) else {
            panic!("{name:?} was accepted");
        };
        assert!(message.contains(&format!("\"{name}\"")), "{message}");
        for s in STRATEGIES {
            assert!(hint.contains(s.name), "{hint}");
        }
    }

    assert_eq!(ANOMALY_TYPES.len(), 16);
    for name in [
        "system_cpu",
        "system_memory",
        "system_disk",
        "system_network",
        "system_error_rate",
        "system_latency",
        "user_login_pattern",
        "user_access_pattern",
        "user_transaction_pattern",
        "user_content_pattern",
        "data_outlier",
        "data_drift",
        "data_missing",
        "data_inconsistency",
        "data_volume",
        "data_quality",
    ] {
        let info = anomaly_type_info(name).unwrap();
        assert_eq!(info.family, name.split('_').next().unwrap());
    }
    assert!(matches!(anomaly_type_info("cpu"), Err(Error::InvalidParameter { .. })));

    for (name, severity) in [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("critical", Severity::Critical),
        ("emergency", Severity::Emergency),
    ] {
        assert_eq!(name.parse(), Ok(severity));
        assert_eq!(severity.as_str(), name);
    }
    assert!("fatal".parse::<Severity>().is_err());
    assert!(
        Severity::Info < Severity::Warning
            && Severity::Warning < Severity::Critical
            && Severity::Critical < Severity::Emergency
    );
    assert!(!Severity::Warning.is_critical() && Severity::Critical.is_critical());
}

#[test]
fn check_c1_a_strategy_that_is_not_there_yet_says_so() {
    for s in STRATEGIES {
        // the only one that cannot do without parameters
        let params = if s.short_name == "threshold" { json!({"max": 1}) } else { Value::Null };
        let made = strategy(s.name, &params, &context());
        match made {
            Ok(made) => {
                assert!(s.is_available());
                assert_eq!((made.name(), made.short_name()), (s.name, s.short_name));
            }
            Err(Error::Unsupported(message)) => {
                assert!(!s.is_available());
                assert!(message.contains(s.name));
            }
            Err(other) => panic!("{}: {other}", s.name),
        }
    }
}

#[test]
fn fault_i6_unknown_and_bad_parameters_are_refused() {
    for (name, params, valid) in [
        ("zscore", json!({"window": 3}), "takes no parameters"),
        ("iqr", json!({"capacity": 200}), "sketch_capacity"),
        ("mad", json!({"sketch_capacity": 127}), "128 to 4096"),
        ("mad", json!({"sketch_capacity": 1e9}), "128 to 4096"),
        ("mad", json!({"sketch_capacity": "many"}), "128 to 4096"),
        ("mad", json!([1]), "{}"),
        ("mad", json!("x"), "{}"),
    ] {
        let Err(Error::InvalidParameter { hint, .. }) = strategy(name, &params, &context()) else {
            panic!("{name} took {params}");
        };
        assert!(hint.contains(valid), "{hint}");
    }
    let base = DetectorConfig::default;
    for (bad, what) in [
        (DetectorConfig { threshold: Some(-1.0), ..base() }, "threshold"),
        (DetectorConfig { threshold: Some(0.0), ..base() }, "threshold"),
        (DetectorConfig { threshold: Some(f64::NAN), ..base() }, "threshold"),
        (DetectorConfig { threshold: Some(f64::INFINITY), ..base() }, "threshold"),
        (DetectorConfig { alerts_per_day: 0.0, ..base() }, "alerts_per_day"),
        (DetectorConfig { alerts_per_day: f64::NAN, ..base() }, "alerts_per_day"),
        (DetectorConfig { points_per_day: Some(-5.0), ..base() }, "points_per_day"),
        (DetectorConfig { min_data_points: 1, ..base() }, "min_data_points"),
        (DetectorConfig { fire_after: 0, ..base() }, "fire_after"),
        (DetectorConfig { clear_after: 0, ..base() }, "clear_after"),
        (DetectorConfig { metric_name: String::new(), ..base() }, "metric_name"),
        (DetectorConfig { strategy: "nothing".into(), ..base() }, "nothing"),
    ] {
        let Err(Error::InvalidParameter { message, hint }) = Detector::new(bad) else {
            panic!("{what} was accepted");
        };
        assert!(message.contains(what) && !hint.is_empty(), "{message}");
    }
}

/// Strategies say themselves whether they look at further columns; the others must not ignore them.
#[test]
fn features_are_refused_where_they_would_be_ignored() {
    let with = |strategy: &str, features: &[&str]| {
        let features = features.iter().map(|name| (*name).to_owned()).collect();
        Detector::new(DetectorConfig { features, ..defaults(strategy) }).map(|_| ())
    };
    let names: Vec<String> = (0..20).map(|i| format!("f{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for info in STRATEGIES.iter().filter(|s| s.is_available()) {
        assert!(with(info.short_name, &[]).is_ok(), "{}", info.name);
        if info.features == 0 {
            let Err(Error::InvalidParameter { hint, .. }) = with(info.short_name, &["f"]) else {
                panic!("{} ignores features", info.name);
            };
            assert!(hint.contains("one_class_svm") && hint.contains("lstm"), "{hint}");
            continue;
        }
        assert!(with(info.short_name, &names[..info.features]).is_ok(), "{}", info.name);
        for (bad, what) in [
            (&names[..=info.features], "more than"),
            (&["f", "g", "f"], "\"f\" is named twice"),
            (&["f", ""], "empty"),
        ] {
            let Err(Error::InvalidParameter { message, hint }) = with(info.short_name, bad) else {
                panic!("{} took {bad:?}", info.name);
            };
            assert!(message.contains(what) && !hint.is_empty(), "{message}");
        }
    }
}

/// The further columns of the row that an alert is about are told with it, those that are missing too.
#[test]
fn an_alert_has_the_features_of_its_peak() {
    let features = ["users".to_owned(), "errors".to_owned()].to_vec();
    let config = DetectorConfig { features, ..defaults("one_class_svm") };
    let detector = Detector::new(config).unwrap();
    let mut rng = Rng(3);
    let mut state = detector.new_state();
    let at = |i: i64| i * 60_000_000;
    for i in 0..400 {
        let features = [rng.normal(), f64::NAN];
        let point = Point { features: &features, ..Point::new(at(i), 10.0 + rng.normal()) };
        detector.train(&mut state, &point);
    }
    let mut process = |i: i64, value: f64, features: &[f64]| {
        let point = Point { features, ..Point::new(at(i), value) };
        detector.process(&mut state, None, &point)
    };
    let opened = process(400, 100.0, &[0.5, f64::NAN]).metadata.unwrap();
    let told = json!([{"name": "users", "value": 0.5}, {"name": "errors", "value": null}]);
    assert_eq!(opened["features"], told);
    assert!(process(401, 90.0, &[0.6, 0.0]).metadata.is_none());
    let higher = process(402, 200.0, &[f64::INFINITY, 1.0]).metadata.unwrap();
    let told = json!([{"name": "users", "value": "Infinity"}, {"name": "errors", "value": 1.0}]);
    assert_eq!(higher["features"], told);
    let alone = Detector::new(defaults("one_class_svm")).unwrap();
    let mut state = trained(&alone, (0..400).map(|i| f64::from(i % 7)));
    let opened = alone.process(&mut state, None, &Point::new(at(400), 100.0)).metadata.unwrap();
    assert!(!opened.contains_key("features"));
}

#[test]
fn the_rate_becomes_a_probability_within_its_limits() {
    let alpha = |alerts: f64, points: Option<f64>| {
        let config =
            DetectorConfig { alerts_per_day: alerts, points_per_day: points, ..config("zscore") };
        Detector::new(config).unwrap().rule().ln_alpha
    };
    close(alpha(1.0, Some(1440.0)), (1.0f64 / 1440.0).ln());
    close(alpha(1.0, None), (1.0f64 / 1440.0).ln());
    close(alpha(1.0, Some(2.0)), 0.05f64.ln());
    close(alpha(1e-9, Some(1e9)), 1e-12f64.ln());
    let three = DetectorConfig { fire_after: 3, points_per_day: Some(1440.0), ..config("zscore") };
    close(Detector::new(three).unwrap().rule().ln_alpha, (3.0f64 / 1440.0).ln());
}

/// The worst case for the promise: points that come in threes, where three in a row raise an alert.
#[test]
fn the_promised_rate_holds_for_points_that_repeat() {
    const DAYS: u64 = 200;
    let detector = Detector::new(DetectorConfig {
        alerts_per_day: 5.0,
        points_per_day: Some(1440.0),
        fire_after: 3,
        clear_after: 1,
        ..config("zscore")
    })
    .unwrap();
    let mut rng = Rng(11);
    let mut state = trained(&detector, (0..10_000).map(|_| rng.normal()));
    let mut opened = 0;
    for block in 0..(DAYS * 480) as i64 {
        let x = rng.normal();
        for i in 0..3 {
            let outcome = detector.process(&mut state, None, &Point::new(block * 3 + i, x));
            opened += u64::from(matches!(outcome.transition, Some(Transition::Opened(_))));
        }
    }
    // 1,000 promised; in the same limits as the share of flagged points below.
    assert!((700..=1300).contains(&opened), "{opened} alerts in {DAYS} days");
}

#[test]
fn check_c14_zscore_by_its_own_rule() {
    let values: Vec<f64> = sequence(150).collect();
    let (mean, std) = (49.21666666666667, 29.140545445974222);
    let detector = with_threshold("statistical_zscore", 2.0);
    let (verdict, metadata) = feed(&detector, &values, 120.0);
    let metadata = metadata.unwrap();
    close(number(&metadata, "mean"), mean);
    close(number(&metadata, "std"), std);
    close(number(&metadata, "z_score"), (120.0 - mean) / std);
    close(number(&metadata, "threshold"), 2.0);
    close(verdict.expected, mean);
    close(verdict.lower, mean - 2.0 * std);
    close(verdict.upper, mean + 2.0 * std);
    assert!(verdict.is_anomaly);
    assert_eq!(verdict.direction, Direction::High);
    assert_eq!(verdict.status, Status::Ok);

    // Strictly: 6 is exactly two standard deviations from the mean of 3 and 5.
    let values: Vec<f64> = (0..100).map(|i| if i % 2 == 0 { 3.0 } else { 5.0 }).collect();
    let (at, _) = feed(&detector, &values, 6.0);
    assert_eq!(at.statistic, 2.0);
    assert!(!at.is_anomaly);
    let (past, _) = feed(&detector, &values, 6.0 + 1e-12);
    assert!(past.is_anomaly);
    let (low, _) = feed(&detector, &values, 1.9);
    assert!(low.is_anomaly && low.direction == Direction::Low);
}

#[test]
fn check_c15_iqr_by_its_own_rule() {
    for (n, q1, median, q3) in
        [(150, 24.675, 49.35, 74.02499999999999), (1000, 24.975, 49.95, 74.92500000000001)]
    {
        let detector = Detector::new(DetectorConfig {
            threshold: Some(2.0),
            params: json!({"sketch_capacity": 2048}),
            ..config("statistical_iqr")
        })
        .unwrap();
        let values: Vec<f64> = sequence(n).collect();
        let iqr = q3 - q1;
        let (verdict, metadata) = feed(&detector, &values, 200.0);
        let metadata = metadata.unwrap();
        close(number(&metadata, "q1"), q1);
        close(number(&metadata, "q3"), q3);
        close(number(&metadata, "iqr"), iqr);
        close(number(&metadata, "threshold"), 2.0);
        close(verdict.expected, median);
        close(verdict.lower, q1 - 2.0 * iqr);
        close(verdict.upper, q3 + 2.0 * iqr);
        close(number(&metadata, "iqr_distance"), (200.0 - verdict.upper) / iqr);
        assert!(verdict.is_anomaly);
        let (below, metadata) = feed(&detector, &values, -100.0);
        close(number(&metadata.unwrap(), "iqr_distance"), (below.lower + 100.0) / iqr);
        assert_eq!(below.direction, Direction::Low);
    }
    // strictly: quartiles 1 and 3, IQR 2, bounds −3 and 7
    let values: Vec<f64> = (0..101).map(|i| f64::from(i % 5)).take(100).collect();
    let detector = with_threshold("statistical_iqr", 2.0);
    let (at, _) = feed(&detector, &values, 7.0);
    assert_eq!((at.lower, at.upper), (-3.0, 7.0));
    assert!(!at.is_anomaly);
    assert!(feed(&detector, &values, 7.000001).0.is_anomaly);
    assert!(feed(&detector, &values, -3.000001).0.is_anomaly);
}

#[test]
fn mad_by_its_own_rule() {
    let values: Vec<f64> = sequence(150).collect();
    let (median, mad) = (49.35, 24.749999999999996);
    let detector = with_threshold("statistical_mad", 3.5);
    let (verdict, metadata) = feed(&detector, &values, 200.0);
    let metadata = metadata.unwrap();
    close(number(&metadata, "median"), median);
    close(number(&metadata, "mad"), mad);
    close(number(&metadata, "modified_z"), 0.6745 * (200.0 - median) / mad);
    close(verdict.upper, median + 3.5 * mad / 0.6745);
    assert!(verdict.is_anomaly);
    assert!(!feed(&detector, &values, verdict.upper - 1e-9).0.is_anomaly);
    assert!(feed(&detector, &values, verdict.upper + 1e-9).0.is_anomaly);
}

#[test]
fn check_c14_c15_constant_training_data_are_handled() {
    for name in common::STRATEGIES {
        let detector = with_threshold(name, 2.0);
        let values = vec![5.0; 100];
        let (same, _) = feed(&detector, &values, 5.0);
        assert!(!same.is_anomaly);
        assert_eq!((same.deviation(), same.score()), (0.0, 0.0));
        let (other, metadata) = feed(&detector, &values, 5.1);
        // the spread of the original's rule for constant data: 1e-6
        assert!(other.is_anomaly);
        close(other.upper, 5.0 + 2e-6);
        assert_eq!(other.severity(), Severity::Warning);
        assert!(number(&metadata.unwrap(), "threshold") == 2.0);
    }
}

#[test]
fn check_c26_severity_by_deviation() {
    for (deviation, severity) in [
        (0.0, Severity::Info),
        (1.9, Severity::Info),
        (2.0, Severity::Warning),
        (2.99, Severity::Warning),
        (3.0, Severity::Critical),
        (4.99, Severity::Critical),
        (5.0, Severity::Emergency),
        (1e6, Severity::Emergency),
        (f64::NAN, Severity::Info),
    ] {
        assert_eq!(Severity::from_deviation(deviation), severity, "{deviation}");
    }
}

/// A point k standard deviations out is worth about k to every strategy, whatever the unit.
#[test]
fn check_c26_severities_are_comparable_between_strategies() {
    let mut rng = Rng(7);
    let values: Vec<f64> = (0..4000).map(|_| 1000.0 + 20.0 * rng.normal()).collect();
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let state = trained(&detector, values.iter().copied());
        for k in [-4.0, -2.5, -1.0, 1.0, 2.5, 4.0] {
            let verdict = detector.judge(&state, &Point::new(0, 1000.0 + 20.0 * k));
            let error = (verdict.deviation() - f64::abs(k)).abs();
            assert!(error < 0.15 * f64::abs(k), "{name} {k}: {}", verdict.deviation());
        }
    }
}

#[test]
fn check_c28_the_expected_range_is_in_the_metrics_unit_and_is_where_p_crosses_alpha() {
    let mut rng = Rng(3);
    let values: Vec<f64> = (0..500).map(|_| 250.0 + 4.0 * rng.normal()).collect();
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let state = trained(&detector, values.iter().copied());
        let verdict = detector.judge(&state, &Point::new(0, 251.0));
        assert!((verdict.expected - 250.0).abs() < 1.0, "{name}");
        assert!(verdict.lower > 220.0 && verdict.lower < 240.0, "{name} {}", verdict.lower);
        assert!(verdict.upper > 260.0 && verdict.upper < 280.0, "{name} {}", verdict.upper);
        for bound in [verdict.lower, verdict.upper] {
            let at = detector.judge(&state, &Point::new(0, bound));
            assert!((at.ln_p() - 0.001f64.ln()).abs() < 1e-9, "{name}: {}", at.ln_p());
            let outward = (bound - verdict.expected) * 1e-9;
            assert!(detector.judge(&state, &Point::new(0, bound + outward)).is_anomaly);
            assert!(!detector.judge(&state, &Point::new(0, bound - outward)).is_anomaly);
        }
    }
}

#[test]
fn check_c27_descriptions_name_metric_value_side_figure_and_threshold() {
    let values: Vec<f64> = sequence(150).collect();
    for (name, figure, threshold) in [
        ("statistical_zscore", "z-score 5.17", 2.0),
        ("statistical_iqr", "IQR distance 2.55", 2.0),
        ("statistical_mad", "modified z-score 4.11", 2.0),
    ] {
        let detector = Detector::new(DetectorConfig {
            threshold: Some(threshold),
            metric_name: "cpu_usage".into(),
            ..config(name)
        })
        .unwrap();
        let (high, _) = feed(&detector, &values, 200.0);
        let text = detector.description(&high);
        for part in ["cpu_usage is 200.00, above normal", figure, "threshold 2.00", "range"] {
            assert!(text.contains(part), "{text}: {part}");
        }
        let (low, _) = feed(&detector, &values, -100.0);
        assert!(detector.description(&low).contains("is -100.00, below normal"));

        let rate = Detector::new(DetectorConfig { metric_name: "m".into(), ..config(name) });
        let rate = rate.unwrap();
        let (high, _) = feed(&rate, &values, 1000.0);
        let text = rate.description(&high);
        for part in ["p = ", "threshold 6.9e-4", "m is 1000.00", "above"] {
            assert!(text.contains(part), "{text}: {part}");
        }
    }
    // sizes that two decimals cannot show
    let detector = with_threshold("statistical_zscore", 3.0);
    let (tiny, _) = feed(&detector, &[1e-5, 3e-5].repeat(50), 9e-4);
    assert!(detector.description(&tiny).contains("value is 9.00e-4"));
    let (infinite, _) = feed(&detector, &values, f64::INFINITY);
    assert!(detector.description(&infinite).contains("value is Infinity, above"));
    let (nan, _) = feed(&detector, &values, f64::NAN);
    assert!(detector.description(&nan).contains("NaN"));
    assert!(detector.description(&feed(&detector, &[], 1.0).0).contains("no baseline"));
}

#[test]
fn check_c27_suggestions_differ_by_group() {
    let suggest = |kind: &str, x: f64| {
        let detector =
            Detector::new(DetectorConfig { anomaly_type: kind.into(), ..config("zscore") })
                .unwrap();
        let values: Vec<f64> = sequence(150).collect();
        detector.suggestion(&feed(&detector, &values, x).0)
    };
    let groups = [
        suggest("system_cpu", 1e3),
        suggest("system_cpu", -1e3),
        suggest("system_latency", 1e3),
        suggest("user_login_pattern", 1e3),
        suggest("data_volume", 1e3),
        suggest("my_own_type", 1e3),
    ];
    for (i, a) in groups.iter().enumerate() {
        assert!(!a.is_empty());
        assert!(groups[..i].iter().all(|b| a != b), "{a}");
    }
    assert_eq!(suggest("system_memory", 1e3), groups[0]);
    assert_eq!(suggest("system_network", -1e3), groups[1]);
    assert_eq!(suggest("system_error_rate", -1e3), groups[2]);
    assert_eq!(suggest("data_quality", -1e3), groups[4]);
}

#[test]
fn fault_i1_non_finite_values_are_never_silently_normal() {
    for name in common::STRATEGIES {
        for detector in [with_alpha(name, 0.01), with_threshold(name, 3.0)] {
            for values in [vec![], vec![1.0], vec![5.0; 200], sequence(200).collect()] {
                let mut state = trained(&detector, values.iter().copied());
                let before = detector.encode_state(&state).unwrap();
                let nan = detector.process(&mut state, None, &Point::new(9, f64::NAN));
                assert!(!nan.verdict.is_anomaly);
                assert_eq!(nan.verdict.status, Status::NonFinite);
                assert_eq!(nan.verdict.status.to_string(), "non-finite value");
                assert_eq!(detector.encode_state(&state).unwrap(), before, "NaN was learned");
                for x in [f64::INFINITY, f64::NEG_INFINITY] {
                    let mut state = trained(&detector, values.iter().copied());
                    let outcome = detector.process(&mut state, None, &Point::new(9, x));
                    let verdict = outcome.verdict;
                    assert!(verdict.is_anomaly);
                    assert_eq!(verdict.status, Status::NonFinite);
                    assert_eq!(verdict.deviation(), 1e6);
                    assert_eq!(verdict.severity(), Severity::Emergency);
                    assert_eq!(state.model.count(), values.len() as u64, "infinity was learned");
                    let side = if x > 0.0 { Direction::High } else { Direction::Low };
                    assert_eq!(verdict.direction, side);
                    let json = Value::Object(outcome.metadata.unwrap()).to_string();
                    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
                }
                detector.train(&mut state, &Point::new(10, f64::NAN));
                detector.train(&mut state, &Point::new(10, f64::INFINITY));
                assert_eq!(state.model.count(), values.len() as u64);
            }
        }
    }
}

#[test]
fn fault_i2_degenerate_baselines_have_an_answer() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.01);
        for values in [vec![], vec![7.0], vec![7.0, 7.0], vec![0.0; 99], vec![1.0, 2.0]] {
            let mut state = trained(&detector, values.iter().copied());
            let outcome = detector.process(&mut state, None, &Point::new(9, 1e6));
            let v = outcome.verdict;
            // fewer than min_data_points: never an alert, never silent
            assert!(!v.is_anomaly);
            let have = values.len() as u64;
            assert_eq!(v.status, Status::Warming { have, need: 100 });
            assert_eq!(v.status.to_string(), format!("warming ({have} of 100)"));
            assert!(v.deviation() >= 0.0 && v.deviation() <= 1e6);
            assert!((0.0..=1.0).contains(&v.score()));
            assert_eq!(state.model.count(), have + 1);
        }
    }
}

/// The original made any change of a constant series an emergency.
#[test]
fn defect_s30_a_small_change_of_a_constant_is_a_warning() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.05);
        let state = trained(&detector, vec![5.0; 100]);
        let judge = |x: f64| detector.judge(&state, &Point::new(0, x));
        assert_eq!(judge(5.0).p_value(), 1.0);
        // p = 1/(101·(1 + 0.1/5)), but for the share within rounding noise, 5e-12/0.1 of 1
        let p = 1.0 / (101.0 * 1.02);
        assert!((judge(5.1).p_value() - p).abs() < 1e-10);
        assert!((judge(4.9).p_value() - p).abs() < 1e-10);
        assert_eq!(judge(5.1).severity(), Severity::Warning);
        close(judge(1e9).p_value(), 1.0 / (101.0 * (1.0 + (1e9 - 5.0) / 5.0)));
        assert_eq!(judge(1e9).severity(), Severity::Emergency);
        // monotone and continuous: no step larger than the step of the distance explains
        let mut last = judge(5.0);
        let mut d = 1e-15;
        while d < 1e12 {
            let next = judge(5.0 + d);
            assert!(next.deviation() >= last.deviation(), "{name} at {d}");
            assert!(next.deviation() - last.deviation() < 0.25, "{name} jumps at {d}");
            last = next;
            d *= 1.2;
        }
        // rounding noise is no change
        assert!(!judge(5.0 + 1e-13).is_anomaly);
    }
}

/// Nearly constant: noise of the last digits does not turn a change into ten thousand sigmas.
#[test]
fn nearly_constant_series_have_a_floor() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.01);
        let noisy = (0..200).map(|i| 1e6 * (1.0 + 1e-14 * f64::from(i % 3)));
        let state = trained(&detector, noisy);
        let verdict = detector.judge(&state, &Point::new(0, 1e6 + 1.0));
        assert!(verdict.deviation() < 3.5, "{name} {}", verdict.deviation());
        // 1e9 ± 1 is a real spread
        let state = trained(&detector, (0..200).map(|i| 1e9 + f64::from(i % 3) - 1.0));
        let verdict = detector.judge(&state, &Point::new(0, 1e9 + 20.0));
        assert!(verdict.deviation() > 4.0, "{name} {}", verdict.deviation());
        assert!(!detector.judge(&state, &Point::new(0, 1e9 + 1.0)).is_anomaly);
    }
}

#[test]
fn rare_events_of_a_quiet_counter_are_learned_as_rare_not_as_impossible() {
    // one point in 100 is 3, the rest are 0; promised: one alert in 1,000 points
    for name in ["statistical_iqr", "statistical_mad"] {
        let detector = with_alpha(name, 0.001);
        let value = |i: u32| if i % 100 == 50 { 3.0 } else { 0.0 };
        let mut state = trained(&detector, (0..2000).map(value));
        let mut opened = 0;
        for i in 2000..12_000 {
            let outcome = detector.process(&mut state, None, &Point::new(i64::from(i), value(i)));
            opened += u32::from(matches!(outcome.transition, Some(Transition::Opened(_))));
        }
        assert!(opened <= 10, "{name}: {opened} alerts instead of 10");
        let verdict = detector.judge(&state, &Point::new(0, 1e6));
        assert!(verdict.is_anomaly, "{name}: p = {}", verdict.p_value());
    }
}

#[test]
fn fault_i3_extreme_magnitudes_stay_finite() {
    let sets: [Vec<f64>; 6] = [
        (0..200).map(|i| if i % 2 == 0 { 1e308 } else { -1e308 }).collect(),
        (0..200).map(|i| 1e308 + f64::from(i % 5) * 1e306).collect(),
        vec![f64::MAX; 150],
        (0..200).map(|i| f64::from(i % 7) * 5e-324).collect(),
        (0..200).map(|i| if i == 3 { 1e308 } else { f64::from(i % 7) }).collect(),
        (0..200).map(|i| f64::from(i % 7) * 1e-300).collect(),
    ];
    for name in common::STRATEGIES {
        for detector in [with_alpha(name, 0.01), with_threshold(name, 3.0)] {
            for values in &sets {
                let mut state = trained(&detector, values.iter().copied());
                for x in [0.0, 1.0, -1.0, f64::MAX, f64::MIN, 5e-324, values[0]] {
                    let outcome = detector.process(&mut state, None, &Point::new(1, x));
                    let v = outcome.verdict;
                    for f in [v.expected, v.lower, v.upper, v.statistic, v.deviation(), v.ln_p()] {
                        assert!(f.is_finite(), "{name} {x}: {v:?}");
                    }
                    assert!(v.lower <= v.upper);
                    let bytes = detector.encode_state(&state).unwrap();
                    let back = detector.decode_state(&bytes).unwrap();
                    assert_eq!(detector.encode_state(&back).unwrap(), bytes);
                }
                let usual = detector.judge(&state, &Point::new(1, values[0]));
                assert!(!usual.is_anomaly, "{name}: {usual:?}");
            }
        }
    }
}

/// One reading of 1e12 in the history must not blind the robust strategies.
#[test]
fn one_gross_outlier_in_the_history_is_survived() {
    let mut rng = Rng(11);
    let mut values: Vec<f64> = (0..1000).map(|_| 50.0 + rng.normal()).collect();
    values[500] = 1e12;
    for name in ["statistical_iqr", "statistical_mad"] {
        let detector = with_alpha(name, 1.0 / 1440.0);
        let state = trained(&detector, values.iter().copied());
        let judge = |x: f64| detector.judge(&state, &Point::new(0, x));
        assert!(judge(50.0 + 10.0).is_anomaly, "{name}: {}", judge(60.0).ln_p());
        assert!(!judge(50.0 + 3.0).is_anomaly, "{name}");
    }
}

fn flagged_share(detector: &Detector, seed: u64, noise: fn(&mut Rng) -> f64) -> f64 {
    let mut rng = Rng(seed);
    let state = trained(detector, (0..4000).map(|_| 10.0 + noise(&mut rng)));
    let n = 40_000;
    let flagged = (0..n)
        .filter(|_| detector.judge(&state, &Point::new(0, 10.0 + noise(&mut rng))).is_anomaly)
        .count();
    flagged as f64 / f64::from(n)
}

#[test]
fn the_promised_share_of_normal_points_is_flagged() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.01);
        for (kind, noise) in [("normal", Rng::normal as fn(&mut Rng) -> f64), ("t(4)", Rng::t4)] {
            let share: f64 =
                (0..5).map(|seed| flagged_share(&detector, seed, noise)).sum::<f64>() / 5.0;
            assert!((0.007..=0.013).contains(&share), "{name} on {kind}: {share}");
        }
    }
}

/// A detector that left out everything it flags would trim its own baseline until it flags a
/// multiple of what it promised.
#[test]
fn defect_s35_the_flagged_share_does_not_creep_up_while_running() {
    for name in common::STRATEGIES {
        for (detector, promised) in [(with_alpha(name, 0.05), 0.05), (with_alpha(name, 0.01), 0.01)]
        {
            let mut rng = Rng(5);
            let mut state = trained(&detector, (0..1000).map(|_| rng.normal()));
            let mut flagged = 0;
            for i in 0..60_000 {
                let point = Point::new(i, rng.normal());
                let outcome = detector.process(&mut state, None, &point);
                // the second half, after any creep
                flagged += u32::from(i >= 30_000 && outcome.verdict.is_anomaly);
            }
            let share = f64::from(flagged) / 30_000.0;
            assert!(share < 1.3 * promised && share > 0.7 * promised, "{name}: {share}");
        }
    }
    let detector = with_threshold("statistical_zscore", 2.0);
    let mut rng = Rng(5);
    let mut state = trained(&detector, (0..1000).map(|_| rng.normal()));
    let flagged = (0..60_000)
        .map(|i| detector.process(&mut state, None, &Point::new(i, rng.normal())))
        .skip(30_000)
        .filter(|o| o.verdict.is_anomaly)
        .count();
    let share = flagged as f64 / 30_000.0;
    assert!((0.035..0.056).contains(&share), "nominal is 0.0455, not {share}");
}

/// A high incident is worth one unremarkable point.
#[test]
fn an_incident_does_not_poison_the_baseline() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let mut rng = Rng(17);
        let mut state = trained(&detector, (0..2000).map(|_| 50.0 + rng.normal()));
        let before = detector.judge(&state, &Point::new(0, 50.0));
        for i in 0..10 {
            let outcome = detector.process(&mut state, None, &Point::new(i, 90.0));
            assert!(outcome.verdict.is_anomaly);
            assert_eq!(state.model.count(), 2000, "an open incident was learned");
        }
        for i in 10..13 {
            detector.process(&mut state, None, &Point::new(i, 50.0));
        }
        assert_eq!(state.model.count(), 2004, "three normal points and one on the border");
        let after = detector.judge(&state, &Point::new(0, 50.0));
        assert!((after.expected - before.expected).abs() < 0.02, "{name}");
        let (wide, narrow) = (after.upper - after.lower, before.upper - before.lower);
        assert!(wide < 1.05 * narrow, "{name}: {wide} {narrow}");
    }
}

/// What lasts becomes normal: no detector holds on to its first points for ever.
#[test]
fn a_level_that_lasts_becomes_normal() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let mut rng = Rng(19);
        let mut state = trained(&detector, (0..500).map(|_| 50.0 + rng.normal()));
        let mut late = 0;
        for i in 0..3000 {
            let point = Point::new(i, 90.0 + rng.normal());
            let outcome = detector.process(&mut state, None, &point);
            assert!(i > 10 || outcome.verdict.is_anomaly, "{name}: the shift itself is seen");
            late += u32::from(i >= 2500 && outcome.verdict.is_anomaly);
        }
        assert!(late <= 5, "{name}: {late} of the last 500 points are still anomalous");
        assert_eq!(state.episode.phase, Phase::Quiet, "{name}");
    }
}

#[test]
fn check_c29_a_young_entity_is_judged_by_the_shared_baseline() {
    for name in common::STRATEGIES {
        let detector = with_alpha(name, 0.001);
        let mut rng = Rng(23);
        let mut shared = detector.new_state();
        let (mut a, mut b) = (detector.new_state(), detector.new_state());
        for i in 0..400 {
            let (low, high) = (10.0 + rng.normal(), 30.0 + rng.normal());
            for (state, x) in [(&mut a, low), (&mut b, high)] {
                detector.train(state, &Point::new(i, x));
                detector.train(&mut shared, &Point::new(i, x));
            }
        }
        shared.entities = 2;
        // each by its own history
        let own = |s, x| detector.judge(s, &Point::new(0, x)).is_anomaly;
        assert!(!own(&a, 11.0) && own(&a, 30.0), "{name}");
        assert!(!own(&b, 31.0) && own(&b, 10.0), "{name}");
        // a new one by the shared history, and says so
        let mut young = detector.new_state();
        for (x, anomaly) in [(10.0, false), (30.0, false), (500.0, true)] {
            let have = young.model.count();
            let outcome = detector.process(&mut young, Some(&shared), &Point::new(have as i64, x));
            assert_eq!(outcome.verdict.is_anomaly, anomaly, "{name} {x}");
            assert_eq!(outcome.verdict.status, Status::Warming { have, need: 100 });
        }
        // a shared baseline of a single entity is no second opinion
        shared.entities = 1;
        let alone = detector.process(&mut young, Some(&shared), &Point::new(9, 500.0));
        assert!(!alone.verdict.is_anomaly);
        // nor is a shared baseline that is itself too small
        let mut small = trained(&detector, (0..99).map(|i| f64::from(i % 9)));
        small.entities = 5;
        let outcome =
            detector.process(&mut detector.new_state(), Some(&small), &Point::new(0, 1e9));
        assert!(!outcome.verdict.is_anomaly);
        // and a warm entity is not judged by others
        let outcome = detector.process(&mut a, Some(&shared), &Point::new(900, 30.0));
        assert!(outcome.verdict.is_anomaly && outcome.verdict.status == Status::Ok);
    }
}

/// Normal noise at one of several levels and units.
fn series() -> impl Strategy<Value = Vec<f64>> {
    let level = prop_oneof![Just(0.0), Just(5.0), Just(-1e9), -1e3..1e3f64];
    let unit = prop_oneof![Just(0.0), Just(1.0), Just(1e-6), 1e-3..1e3f64];
    (level, unit, 100..700usize, any::<u64>()).prop_map(|(level, unit, n, seed)| {
        let mut rng = Rng(seed);
        (0..n).map(|_| level + unit * rng.normal()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn deviation_never_falls_with_distance(values in series(), pick in 0..3usize, up in any::<bool>()) {
        let detector = with_alpha(common::STRATEGIES[pick], 0.01);
        let state = trained(&detector, values.iter().copied());
        let centre = detector.judge(&state, &Point::new(0, values[0])).expected;
        let mut last = 0.0;
        let mut d = 1e-9;
        while d < 1e300 {
            let x = if up { centre + d } else { centre - d };
            let verdict = detector.judge(&state, &Point::new(0, x));
            let deviation = verdict.deviation();
            prop_assert!(deviation >= last * (1.0 - 1e-12), "{} after {} at {}", deviation, last, d);
            prop_assert!(deviation.is_finite() && deviation <= 1e6);
            last = deviation;
            d *= 1.3;
        }
        prop_assert!(last > 5.0);
    }

    #[test]
    fn bounds_do_not_depend_on_the_tested_value(values in series(), pick in 0..3usize, x in any::<f64>()) {
        let name = common::STRATEGIES[pick];
        for detector in [with_alpha(name, 0.01), with_threshold(name, 3.0)] {
            let state = trained(&detector, values.iter().copied());
            let a = detector.judge(&state, &Point::new(0, values[0]));
            let b = detector.judge(&state, &Point::new(0, x));
            prop_assert_eq!((a.expected, a.lower, a.upper), (b.expected, b.lower, b.upper));
        }
    }

    #[test]
    fn training_equals_feeding_when_nothing_is_anomalous(values in series(), pick in 0..3usize) {
        // alpha 1e-12: nothing of this is anomalous
        let detector = Detector::new(DetectorConfig {
            alerts_per_day: 1e-9,
            points_per_day: Some(1e9),
            ..config(common::STRATEGIES[pick])
        }).unwrap();
        let whole = trained(&detector, values.iter().copied());
        let mut fed = detector.new_state();
        let mut flagged = false;
        for (i, v) in values.iter().enumerate() {
            flagged |= detector.process(&mut fed, None, &Point::new(i as i64, *v)).verdict.is_anomaly;
            if i % 97 == 0 {
                // through storage and back on the way
                fed = detector.decode_state(&detector.encode_state(&fed).unwrap()).unwrap();
            }
        }
        prop_assume!(!flagged);
        prop_assert_eq!(detector.encode_state(&whole).unwrap(), detector.encode_state(&fed).unwrap());
    }

    #[test]
    fn a_state_is_small_and_survives_storage(values in series(), pick in 0..3usize, x in any::<f64>()) {
        let detector = with_alpha(common::STRATEGIES[pick], 0.01);
        let mut state = trained(&detector, values.iter().copied());
        detector.process(&mut state, None, &Point::new(7, x));
        let bytes = detector.encode_state(&state).unwrap();
        prop_assert!(bytes.len() <= 2000, "{} bytes", bytes.len());
        let back = detector.decode_state(&bytes).unwrap();
        prop_assert_eq!(back.episode.phase, state.episode.phase);
        prop_assert_eq!(&detector.encode_state(&back).unwrap(), &bytes);
        let point = Point::new(0, values[0] + 1.0);
        prop_assert_eq!(detector.judge(&back, &point), detector.judge(&state, &point));
    }
}

/// Incidents that come again and again are each as anomalous as the first: what is learned of them
/// does not widen the baseline without bound.
#[test]
fn repeated_incidents_do_not_become_normal() {
    for strategy in common::STRATEGIES.into_iter().chain(["statistical_quantile"]) {
        for threshold in [None, Some(8.0)] {
            let detector = Detector::new(DetectorConfig {
                strategy: strategy.into(),
                threshold,
                ..DetectorConfig::default()
            })
            .unwrap();
            let mut state = detector.new_state();
            let noise = |i: i64| ((i * 7919) % 401 - 200) as f64 / 100.0;
            for i in 0..400 {
                detector.train(&mut state, &Point::new(i, 100.0 + noise(i)));
            }
            let mut deviations = Vec::new();
            for i in 400..2000 {
                let incident = i % 25 == 0;
                let value = 100.0 + noise(i) + if incident { 40.0 } else { 0.0 };
                let verdict = detector.process(&mut state, None, &Point::new(i, value)).verdict;
                assert_eq!(verdict.is_anomaly, incident, "{strategy} {threshold:?} at {i}");
                if incident {
                    deviations.push(verdict.deviation());
                }
            }
            // The calibrator counts them, for after sixty of them one more is no longer so improbable as the
            // first was; but as an incident each and not as noise: every one is an emergency.
            let least = deviations.iter().copied().fold(f64::MAX, f64::min);
            assert!(least > 5.0, "{strategy}: {deviations:?}");
        }
    }
}

/// Ids with a short name stand for those with the full one; others for nothing.
#[test]
fn check_c3_short_names_in_ids() {
    use anomaly_core::strategy::full_ids;
    let full = |id: &str| full_ids(id);
    assert_eq!(full("system_cpu_zscore_cpu_usage"), ["system_cpu_statistical_zscore_cpu_usage"]);
    assert_eq!(full("data_outlier_auto_v"), ["data_outlier_hybrid_auto_v"]);
    assert_eq!(
        full("data_drift_moving_average_x_y"),
        ["data_drift_statistical_moving_average_x_y"]
    );
    let nothing: [&str; 0] = [];
    for id in [
        "",
        "_",
        "system_cpu",
        "system_cpu_zscore",
        "system_cpu_zscore_",
        "system_cpu_zscorecpu",
        "system_cpu_statistical_zscore_cpu_usage",
        "zscore_cpu",
        "läuft",
    ] {
        assert_eq!(full(id), nothing, "{id}");
    }
}
