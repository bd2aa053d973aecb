//! `hybrid_ensemble` and `hybrid_adaptive`, seen from outside; what every strategy owes is in
//! `every_strategy.rs`.

mod common;

use anomaly_core::strategy::{Kind, Performance, STRATEGIES};
use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Point, Severity, Verdict};
use common::Rng;
use common::available::detector;
use common::series::{HOUR, MONDAY};
use serde_json::{Map, Value, json};

fn with(strategy: &str, params: Value) -> DetectorConfig {
    DetectorConfig { strategy: strategy.into(), params, ..DetectorConfig::default() }
}

fn ensemble(params: Value) -> Detector {
    detector(with("ensemble", params))
}

const N: i64 = 721;

/// A month of hours of 100 ± 20, as the original was tried on.
fn trained(detector: &Detector) -> EntityState {
    let mut state = detector.new_state();
    let mut rng = Rng(42);
    for i in 0..N {
        detector.train(&mut state, &Point::new(MONDAY + i * HOUR, 100.0 + 20.0 * rng.normal()));
    }
    state
}

fn next(value: f64) -> Point<'static> {
    Point::new(MONDAY + N * HOUR, value)
}

fn judged(detector: &Detector, value: f64) -> (Verdict, Map<String, Value>) {
    let state = trained(detector);
    let verdict = detector.judge(&state, &next(value));
    let metadata = state.model.metadata(&verdict, detector.rule());
    (verdict, metadata)
}

fn figures(metadata: &Map<String, Value>, key: &str) -> Vec<(String, f64)> {
    let Some(Value::Object(map)) = metadata.get(key) else { panic!("no {key} in {metadata:?}") };
    map.iter().map(|(name, v)| (name.clone(), v.as_f64().unwrap())).collect()
}

fn figure(metadata: &Map<String, Value>, key: &str) -> f64 {
    metadata.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {key}"))
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9, "{a} is not {b}");
}

/// Message and hint of a refusal.
fn refused(config: DetectorConfig) -> (String, String) {
    match Detector::new(config.clone()).err() {
        Some(Error::InvalidParameter { message, hint }) => (message, hint),
        other => panic!("{config:?}: {other:?}"),
    }
}

/// Two that look at single values, in one ensemble with weights of a quarter and three quarters.
fn two(weights: [f64; 2]) -> Value {
    json!([{"strategy": "zscore", "weight": weights[0]}, {"strategy": "iqr", "weight": weights[1]}])
}

/// zscore, and a member that sees nothing unusual in any of these values.
fn half_blind(weight: f64) -> Value {
    json!([
        {"strategy": "zscore", "weight": weight},
        {"strategy": "threshold", "weight": 1.0 - weight, "params": {"min": -1e12, "max": 1e12}}
    ])
}

#[test]
fn check_c23_default_members_with_their_weights() {
    let forest = STRATEGIES.iter().any(|s| s.short_name == "isolation_forest" && s.is_available());
    let of_all = if forest { 1.0 } else { 0.5 };
    for strategy in ["ensemble", "adaptive"] {
        let (verdict, metadata) = judged(&detector(with(strategy, Value::Null)), 400.0);
        assert!(verdict.is_anomaly);
        let weights = figures(&metadata, "weights");
        let expected = [
            ("learning_isolation_forest", 0.5),
            ("statistical_iqr", 0.2),
            ("statistical_zscore", 0.3),
        ];
        let expected = expected.iter().filter(|(name, _)| forest || !name.starts_with("learning"));
        assert_eq!(weights.len(), expected.clone().count());
        for ((name, weight), (expected_name, expected)) in weights.iter().zip(expected) {
            assert_eq!(name, expected_name);
            close(*weight, expected / of_all);
        }
    }
}

#[test]
fn check_c23_metadata_holds_scores_weights_and_their_sum() {
    for combine in ["mean", "max", "vote"] {
        let params = json!({"detectors": two([1.0, 3.0]), "combine": combine});
        for threshold in [None, Some(3.0)] {
            let config = DetectorConfig { threshold, ..with("ensemble", params.clone()) };
            let (verdict, metadata) = judged(&detector(config), 175.0);
            let (scores, weights) =
                (figures(&metadata, "detector_results"), figures(&metadata, "weights"));
            assert_eq!(weights[0], ("statistical_iqr".into(), 0.75));
            assert_eq!(weights[1], ("statistical_zscore".into(), 0.25));
            assert!(scores.iter().all(|(_, s)| (0.0..1.0).contains(s)), "{scores:?}");
            let each = scores.iter().zip(&weights).map(|((_, s), (_, w))| s * w);
            let together = match combine {
                "max" => each.map(|v| v / 0.75).fold(0.0, f64::max),
                _ => each.sum(),
            };
            close(figure(&metadata, "weighted_score"), together);
            close(verdict.statistic, together);
            assert_eq!(metadata["combine"], combine);
            let limit = figure(&metadata, "threshold");
            assert!(limit > 0.0 && limit <= 1.0);
            assert_eq!(verdict.is_anomaly, together >= limit, "{combine} {threshold:?}");
            if threshold.is_some() {
                close(limit, 0.6);
            }
        }
    }
}

/// Three standard deviations in everybody's eyes are the score 0.6, unless the threshold says
/// otherwise.
#[test]
fn check_c23_the_threshold_of_the_ensemble_decides_where_it_is_given() {
    let z_of = |deviation: f64| 100.0 + 20.0 * deviation;
    let params = json!({"detectors": two([1.0, 1.0]), "ensemble_threshold": 0.6});
    let by_score = ensemble(params);
    assert!(by_score.rule().threshold.is_some());
    assert!(!judged(&by_score, z_of(2.6)).0.is_anomaly);
    assert!(judged(&by_score, z_of(3.5)).0.is_anomaly);
    let strict = ensemble(json!({"detectors": two([1.0, 1.0]), "ensemble_threshold": 0.9}));
    assert!(!judged(&strict, z_of(3.5)).0.is_anomaly);
    assert!(judged(&strict, z_of(12.0)).0.is_anomaly);
    // the detector's threshold is what one member has to find
    let params = json!({"detectors": two([1.0, 1.0])});
    for (threshold, value, anomaly) in
        [(2.0, 2.3, true), (2.0, 1.7, false), (5.0, 4.0, false), (5.0, 6.5, true)]
    {
        let config =
            DetectorConfig { threshold: Some(threshold), ..with("ensemble", params.clone()) };
        let (verdict, metadata) = judged(&detector(config), z_of(value));
        close(figure(&metadata, "threshold"), 0.6);
        assert_eq!(verdict.is_anomaly, anomaly, "{threshold}, {value}: {verdict:?}");
    }
}

#[test]
fn check_c23_full_and_short_names_are_the_same_member() {
    let state = |name: &str, kind: Value| {
        let mut member = json!({"strategy": name, "weight": 2});
        if !kind.is_null() {
            member["type"] = kind;
        }
        let detector = ensemble(json!({"detectors": [member, {"strategy": "mad"}]}));
        assert_eq!(detector.strategy().members(), ["statistical_ewma", "statistical_mad"]);
        detector.encode_state(&trained(&detector)).unwrap()
    };
    let full = state("statistical_ewma", Value::Null);
    assert_eq!(state("ewma", Value::Null), full);
    assert_eq!(state("ewma", "statistical".into()), full);
    let alias = ensemble(json!({"detectors": [{"type": "learning", "strategy": "deep_lstm"}]}));
    assert_eq!(alias.strategy().members(), ["learning_lstm"]);
    // parameters reach the member
    let with = |memory: Value| {
        let member = json!({"strategy": "iqr", "params": {"sketch_capacity": memory}});
        refused(with("ensemble", json!({"detectors": [member]}))).0
    };
    assert!(with(json!(-1)).starts_with("member statistical_iqr: "), "{}", with(json!(-1)));
}

#[test]
fn check_c23_what_cannot_be_is_refused_with_a_hint() {
    let of = |detectors: Value| json!({"detectors": detectors});
    for (params, what, how) in [
        (json!({"detector": []}), "unknown parameter", "detectors"),
        (of(json!([])), "no list of members", "1 to 8"),
        (of(json!({})), "no list of members", "1 to 8"),
        (of(json!([1, 2])), "a member is 1", "strategy"),
        (of(json!([{"type": "statistical"}])), "no strategy", "strategy"),
        (of(json!([{"strategy": "magic"}])), "unknown strategy", "statistical_zscore"),
        (of(json!([{"strategy": "zscore", "wait": 1}])), "unknown parameter", "weight"),
        (of(json!([{"strategy": "zscore", "type": "learning"}])), "type", "statistical"),
        (of(json!([{"strategy": "zscore", "type": "kafka"}])), "type", "statistical"),
        (of(json!([{"strategy": "ensemble"}])), "no member of an ensemble", "statistical and"),
        (of(json!([{"strategy": "auto"}])), "no member of an ensemble", "statistical and"),
        (of(json!([{"strategy": "flat_line"}])), "no member of an ensemble", "stays"),
        (of(json!([{"strategy": "zscore"}, {"strategy": "zscore"}])), "listed twice", "once"),
        (of(json!([{"strategy": "zscore", "weight": -1}])), "weight of zscore", "from 0 on"),
        (of(json!([{"strategy": "zscore", "weight": "1"}])), "weight of zscore", "from 0 on"),
        (of(json!([{"strategy": "zscore", "weight": 0}])), "all 0", "above 0"),
        (of(json!([{"strategy": "threshold"}])), "member statistical_threshold", "min"),
        (
            of(json!([{"strategy": "one_class_svm", "params": {"contamination": 0.1}}])),
            "limit of its own",
            "Leave it out",
        ),
        (
            of(json!([{"strategy": "cusum", "params": {"h": 4}}, {"strategy": "zscore"}])),
            "limit of its own",
            "Leave it out",
        ),
        (json!({"ensemble_weights": 3}), "ensemble_weights", "statistical_iqr"),
        (json!({"ensemble_weights": {"mad": 1}}), "no member", "statistical_iqr"),
        (json!({"ensemble_weights": {"zscore": -0.1}}), "weight of zscore", "from 0 on"),
        (json!({"ensemble_threshold": 0}), "ensemble_threshold", "above 0"),
        (json!({"ensemble_threshold": 1.1}), "ensemble_threshold", "0 to 1"),
        (json!({"ensemble_threshold": "0.5"}), "ensemble_threshold", "0 to 1"),
        (json!({"combine": "sum"}), "combine", "vote"),
    ] {
        for strategy in ["ensemble", "adaptive"] {
            let (message, hint) = refused(with(strategy, params.clone()));
            assert!(message.contains(what) && hint.contains(how), "{params}: {message}; {hint}");
        }
    }
    let nine: Vec<Value> = STRATEGIES.iter().take(9).map(|s| json!({"strategy": s.name})).collect();
    assert!(refused(with("ensemble", of(json!(nine)))).1.contains("1 to 8"));
}

/// A member that does not take a kind makes the ensemble refuse it; of the default ones it is left
/// out.
#[test]
fn check_c23_members_decide_which_kinds_are_taken() {
    let of_kind = |params: Value| DetectorConfig { kind: Kind::Count, ..with("ensemble", params) };
    let listed = json!({"detectors": [{"strategy": "zscore"}, {"strategy": "esd"}]});
    let (message, hint) = refused(of_kind(listed));
    assert!(message.contains("statistical_esd") && hint.contains("zscore"), "{message}; {hint}");
    for kind in Kind::ALL {
        let made = detector(DetectorConfig { kind, ..with("ensemble", Value::Null) });
        assert!(made.strategy().members().len() >= 2);
    }
}

/// Members agree about 5000, and each of those that find it is named.
#[test]
fn check_c27_an_alert_lists_the_members_that_fire() {
    let detector = ensemble(json!({"detectors": half_blind(0.6)}));
    let mut state = trained(&detector);
    let outcome = detector.process(&mut state, None, &next(5000.0));
    assert!(outcome.transition.is_some());
    let metadata = outcome.metadata.unwrap();
    assert_eq!(metadata["found_by"].as_array().map(Vec::len), Some(1));
    let text = detector.description_with(&outcome.verdict, &metadata);
    for part in [
        "value is 5000.00, above normal",
        "score 0.6",
        "threshold",
        "; found by statistical_zscore (z-score 2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("statistical_threshold"), "{text}");
    // nobody is named where nothing is found
    let verdict = detector.judge(&state, &next(101.0));
    let metadata = state.model.metadata(&verdict, detector.rule());
    assert_eq!(metadata["found_by"], json!([]));
    assert!(!detector.description_with(&verdict, &metadata).contains("found by"));
}

/// Words in the order of the alphabet made an emergency less than a warning.
#[test]
fn defect_s3_severity_is_on_the_common_scale() {
    let detector = ensemble(Value::Null);
    let state = trained(&detector);
    let severity = |x: f64| detector.judge(&state, &next(x)).severity();
    assert_eq!(severity(100.0), Severity::Info);
    assert_eq!(severity(142.0), Severity::Warning);
    assert_eq!(severity(5000.0), Severity::Emergency);
    let (mut before, mut seen) = (Severity::Info, Vec::new());
    for i in 0..4000 {
        let verdict = detector.judge(&state, &next(100.0 + 0.1 * f64::from(i)));
        assert_eq!(verdict.severity(), Severity::from_deviation(verdict.deviation()));
        assert!(verdict.severity() >= before);
        before = verdict.severity();
        seen.push(before);
    }
    seen.dedup();
    assert_eq!(seen, Severity::ALL);
}

/// 0.3 · 2.05 was more than 0.6.
#[test]
fn defect_s16_one_weak_member_alone_does_not_fire() {
    // just over 2 in everybody's eyes, under the rule of the original
    for value in [141.5, 58.5] {
        for params in
            [json!({"ensemble_threshold": 0.6}), json!({"ensemble_weights": {"zscore": 9}})]
        {
            let config = DetectorConfig { threshold: Some(3.0), ..with("ensemble", params) };
            let (verdict, _) = judged(&detector(config), value);
            assert!(!verdict.is_anomaly && verdict.statistic < 0.6, "{verdict:?}");
        }
    }
    // one that nobody follows, however sure it is
    let params = json!({"detectors": half_blind(0.3), "ensemble_threshold": 0.6});
    for value in [142.0, 160.0, 300.0, 1e6] {
        let (verdict, metadata) = judged(&ensemble(params.clone()), value);
        assert!(!verdict.is_anomaly && verdict.statistic <= 0.3, "{verdict:?}");
        assert!(figures(&metadata, "detector_results").iter().all(|(_, s)| *s <= 1.0));
    }
    let mostly = json!({"detectors": half_blind(0.7), "ensemble_threshold": 0.6});
    assert!(judged(&ensemble(mostly), 300.0).0.is_anomaly);
}

/// A member's huge negative score cancelled all others at 70 sigma.
#[test]
fn defect_s2c_no_member_silences_the_others() {
    let silent = ensemble(json!({"detectors": half_blind(0.5)}));
    let (verdict, _) = judged(&silent, 1500.0);
    assert!(verdict.is_anomaly && verdict.severity() == Severity::Emergency, "{verdict:?}");
    let members = json!([
        {"strategy": "zscore", "weight": 0.3},
        {"strategy": "iqr", "weight": 0.2},
        {"strategy": "one_class_svm", "weight": 0.5}
    ]);
    for params in [json!({"detectors": members}), Value::Null] {
        for threshold in [None, Some(2.0)] {
            let config = DetectorConfig { threshold, ..with("ensemble", params.clone()) };
            let (verdict, _) = judged(&detector(config), 1500.0);
            assert!(verdict.is_anomaly && verdict.severity() == Severity::Emergency, "{verdict:?}");
        }
    }
}

#[test]
fn defect_s18_the_weights_of_the_caller_are_honoured() {
    // by the list, by ensemble_weights, by short or full name
    for params in [
        json!({"detectors": two([3.0, 1.0])}),
        json!({"detectors": two([1.0, 1.0]), "ensemble_weights": {"zscore": 3}}),
        json!({"detectors": two([1.0, 9.0]),
               "ensemble_weights": {"statistical_zscore": 0.75, "iqr": 0.25}}),
    ] {
        let (_, metadata) = judged(&ensemble(params), 170.0);
        let weights = figures(&metadata, "weights");
        assert_eq!(weights[0], ("statistical_iqr".into(), 0.25));
        assert_eq!(weights[1], ("statistical_zscore".into(), 0.75));
    }
    // and they decide: all of the weight on one member makes its score that of the ensemble
    let params = json!({"detectors": two([1.0, 1.0]), "ensemble_weights": {"iqr": 0}});
    let (verdict, metadata) = judged(&ensemble(params), 170.0);
    let scores = figures(&metadata, "detector_results");
    close(verdict.statistic, scores[1].1);
}

/// The range of an ensemble was a score, and what zscore called an emergency was nothing to iqr.
#[test]
fn defect_s17_ranges_are_in_the_unit_of_the_metric_and_severities_agree() {
    for strategy in ["ensemble", "adaptive", "zscore", "iqr", "one_class_svm", "autoencoder"] {
        for threshold in [None, Some(3.0)] {
            let config = DetectorConfig { threshold, ..with(strategy, Value::Null) };
            let (verdict, _) = judged(&detector(config), 200.0);
            let sides = [verdict.lower, verdict.expected, verdict.upper];
            for (bound, around) in sides.into_iter().zip([30.0, 100.0, 170.0]) {
                assert!((bound - around).abs() < 45.0, "{strategy} {threshold:?}: {verdict:?}");
            }
            assert!(verdict.severity() >= Severity::Critical, "{strategy}: {verdict:?}");
        }
    }
}

/// A member that has learned too little to say anything leaves its weight to the others.
#[test]
fn defect_s18_a_member_that_cannot_train_does_not_disable_the_others() {
    let detector = detector(DetectorConfig {
        min_data_points: 30,
        ..with(
            "ensemble",
            json!({"detectors": [
                {"strategy": "zscore"},
                {"strategy": "lstm", "params": {"sequence_length": 64}},
                {"strategy": "level_shift"}
            ]}),
        )
    });
    let mut state = detector.new_state();
    let mut rng = Rng(1);
    for i in 0..40 {
        detector.train(&mut state, &Point::new(MONDAY + i * HOUR, rng.normal()));
    }
    let verdict = detector.judge(&state, &Point::new(MONDAY + 40 * HOUR, 50.0));
    assert!(verdict.is_anomaly && verdict.severity() >= Severity::Critical, "{verdict:?}");
}

/// However members are combined: finite, and more the further out.
#[test]
fn check_c23_deviation_grows_with_distance() {
    for combine in ["mean", "max", "vote"] {
        let detector = ensemble(json!({"combine": combine}));
        let state = trained(&detector);
        let mut before = 0.0;
        for i in 1..60 {
            let x = 100.0 + 20.0 * libm::pow(1.3, f64::from(i));
            let deviation = detector.judge(&state, &next(x)).deviation();
            assert!(deviation.is_finite() && deviation > before, "{combine}, {x}: {deviation}");
            before = deviation;
        }
    }
}

fn counts(tp: u64, fp: u64, r#fn: u64) -> Performance {
    Performance {
        true_positives: tp,
        false_positives: fp,
        true_negatives: 100,
        false_negatives: r#fn,
    }
}

fn adaptive(performance: &[(&str, Performance)]) -> Detector {
    let performance = performance.iter().map(|(name, p)| ((*name).to_owned(), *p)).collect();
    let params = json!({"detectors": half_blind(0.3), "ensemble_threshold": 0.6});
    detector(DetectorConfig { performance, ..with("adaptive", params) })
}

#[test]
fn check_c24_weights_follow_the_share_of_f1() {
    let (zscore, threshold) = ("statistical_zscore", "statistical_threshold");
    let weights = |performance: &[(&str, Performance)]| {
        let (_, metadata) = judged(&adaptive(performance), 1500.0);
        let configured = figures(&metadata, "weights");
        assert_eq!(configured[1].0, zscore);
        close(configured[1].1, 0.3);
        figures(&metadata, "adaptive_weights")[1].1
    };
    // nobody was right yet, or ever
    close(weights(&[]), 0.3);
    close(weights(&[(zscore, counts(0, 5, 5)), (threshold, counts(0, 2, 2))]), 0.3);
    // F1 of 0.9 and 0.45
    let many = [(zscore, counts(90_000, 10_000, 10_000)), (threshold, counts(45_000, 0, 110_000))];
    let share = weights(&many);
    assert!((share - 2.0 / 3.0).abs() < 1e-3, "{share}");
    // counts of somebody else's members change nothing
    close(weights(&[("statistical_mad", counts(50, 0, 0))]), 0.3);
}

/// The next verdict is by the new weights, and the model needs no training for it.
#[test]
fn check_c24_feedback_changes_the_next_result() {
    let before = adaptive(&[]);
    let state = trained(&before);
    let bytes = before.encode_state(&state).unwrap();
    let verdict = before.judge(&state, &next(1500.0));
    assert!(!verdict.is_anomaly && verdict.statistic <= 0.3);
    let after = adaptive(&[
        ("statistical_zscore", counts(40, 2, 1)),
        ("statistical_threshold", counts(0, 0, 40)),
    ]);
    let state = after.decode_state(&bytes).unwrap();
    let verdict = after.judge(&state, &next(1500.0));
    assert!(verdict.is_anomaly && verdict.statistic > 0.6, "{verdict:?}");
    let explained = Value::Object(state.model.explain());
    assert!(explained["members"][0]["weight"].as_f64() > Some(0.6), "{explained}");
    close(explained["members"][0]["configured_weight"].as_f64().unwrap(), 0.3);
}

/// One member's first judgement gave it all the weight.
#[test]
fn defect_s19_a_member_without_history_is_not_silenced() {
    let (_, metadata) = judged(&adaptive(&[("statistical_zscore", counts(1, 0, 0))]), 1500.0);
    let weights = figures(&metadata, "adaptive_weights");
    assert!(weights[0].1 > 0.5 && weights[1].1 > 0.3, "{weights:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Written by this test with UPDATE_GOLDEN=1; a change is a change of format.
#[test]
fn golden_bytes() {
    for name in ["ensemble", "adaptive"] {
        let detector = detector(with(name, json!({"detectors": two([1.0, 1.0])})));
        let mut state = detector.new_state();
        for i in 0..130 {
            let value = f64::from((i * 37) % 11) + 0.25;
            detector.train(&mut state, &Point::new(MONDAY + i64::from(i) * HOUR, value));
        }
        let bytes = detector.encode_state(&state).unwrap();
        let path = format!("{}/tests/golden/state_v1_{name}.hex", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, hex(&bytes) + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert_eq!(hex(&bytes), golden.trim(), "the stored format of {name} has changed");
        let back = detector.decode_state(&bytes).unwrap();
        assert_eq!(back.model.count(), 130);
        // other members are not taken for these
        for members in [
            json!([{"strategy": "iqr"}, {"strategy": "zscore"}]),
            json!([{"strategy": "zscore"}]),
            json!([{"strategy": "zscore"}, {"strategy": "iqr"}, {"strategy": "mad"}]),
        ] {
            let others = common::available::detector(with(name, json!({"detectors": members})));
            let error = others.decode_state(&bytes).err();
            assert!(matches!(error, Some(Error::Corrupted(_))), "{members}: {error:?}");
        }
    }
}

/// Members that expect different values: the ensemble expects what one of them does, and no value on
/// the way out scores lower than one before.
#[test]
fn members_that_disagree_are_combined_without_a_dip() {
    let detector = ensemble(json!({"detectors": [
        {"strategy": "seasonal"}, {"strategy": "zscore"}, {"strategy": "persist"}
    ]}));
    let mut state = detector.new_state();
    let mut rng = Rng(3);
    let mut wrong = 0.0;
    for i in 0..2000i64 {
        let season = 50.0 * libm::sin(std::f64::consts::TAU * i as f64 / 24.0);
        let point = Point::new(MONDAY + i * HOUR, 100.0 + season + rng.normal());
        if i < 1000 {
            detector.train(&mut state, &point);
            continue;
        }
        let v = detector.process(&mut state, None, &point).verdict;
        wrong += (v.expected - 100.0 - season).abs() / 1000.0;
        assert!(v.lower <= v.expected && v.expected <= v.upper);
    }
    // that of seasonal, which is nearly always the best
    assert!(wrong < 2.0, "{wrong}");
    let at = MONDAY + 2000 * HOUR;
    let expected = detector.judge(&state, &Point::new(at, 0.0)).expected;
    for sign in [-1.0, 1.0] {
        let mut before = 0.0;
        for i in 0..2000 {
            let x = expected + sign * 0.1 * f64::from(i);
            let deviation = detector.judge(&state, &Point::new(at, x)).deviation();
            assert!(deviation >= before * (1.0 - 1e-9), "{x}: {deviation} after {before}");
            before = deviation;
        }
    }
}
