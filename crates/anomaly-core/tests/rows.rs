//! Points with further columns, judged by strategies that take them: what `auto` makes of them.

mod common;

use anomaly_core::category::code;
use anomaly_core::strategy::STRATEGIES;
use anomaly_core::{Detector, DetectorConfig, EntityState, Error, Point, Severity, Verdict, codec};
use common::{Rng, config};
use proptest::prelude::*;
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000_000;
const N: i64 = 1200;

fn with(strategy: &str, params: Value, alpha: f64, features: &[&str]) -> Detector {
    Detector::new(DetectorConfig {
        params,
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        features: features.iter().map(|name| name.to_string()).collect(),
        ..config(strategy)
    })
    .unwrap()
}

fn auto(alpha: f64) -> Detector {
    with("auto", Value::Null, alpha, &["users", "errors"])
}

/// Requests follow the users and the hour; errors have nothing to do with either.
fn row(rng: &mut Rng, i: i64) -> (f64, [f64; 2]) {
    let day = 5.0 * libm::sin(std::f64::consts::TAU * i as f64 / 24.0);
    let users = rng.normal();
    (50.0 + 10.0 * users + day + 2.0 * rng.normal(), [1000.0 + 100.0 * users, 5.0 + rng.normal()])
}

fn point(i: i64, value: f64, features: &[f64]) -> Point<'_> {
    Point { features, ..Point::new(i * HOUR, value) }
}

fn trained(detector: &Detector, seed: u64) -> (EntityState, Rng) {
    let (mut state, mut rng) = (detector.new_state(), Rng(seed));
    for i in 0..N {
        let (value, features) = row(&mut rng, i);
        detector.train(&mut state, &point(i, value, &features));
    }
    (state, rng)
}

/// With further columns it is an ensemble of the one for values and of what judges rows, without
/// them it is what it was.
#[test]
fn auto_of_rows_combines_with_equal_weights_and_says_why() {
    let of_values = with("auto", Value::Null, 0.001, &[]);
    assert!(of_values.strategy().members().is_empty());
    let detector = auto(0.001);
    assert_eq!(detector.strategy().name(), "hybrid_auto");
    let members = ["hybrid_auto", "learning_isolation_forest", "learning_one_class_svm"];
    assert_eq!(detector.strategy().members(), members);
    assert_ne!(detector.strategy().algorithm(), of_values.strategy().algorithm());

    let (state, _) = trained(&detector, 1);
    let explained = Value::Object(state.model.explain());
    assert!(explained["because"].as_str().unwrap().contains("further columns"), "{explained}");
    for (member, name) in explained["members"].as_array().unwrap().iter().zip(members) {
        assert_eq!(member["member"], name);
        assert!((member["weight"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(member["points"], N);
    }
    // of the course of the value it says which forecast was chosen, of the forest that it is of four
    // kinds, those of the aggregate
    assert!(explained["members"][0]["explanation"]["because"].is_string(), "{explained}");
    assert_eq!(explained["members"][1]["explanation"]["forests"], 4);
    assert_eq!(explained["members"][1]["explanation"]["trees"], 100);
    assert_eq!(explained["members"][1]["explanation"]["features"], 2);

    // parameters are those of the one for values
    let chosen = with("auto", json!({"base": "zscore"}), 0.001, &["users", "errors"]);
    let (state, _) = trained(&chosen, 1);
    let explained = Value::Object(state.model.explain());
    assert_eq!(explained["members"][0]["explanation"]["strategy"], "zscore");
    let refused = |params: Value| {
        let features = vec!["users".into()];
        let made = Detector::new(DetectorConfig { params, features, ..config("auto") });
        let Some(Error::InvalidParameter { message, hint }) = made.err() else { panic!() };
        assert!(message.contains("auto") && !hint.is_empty(), "{message}; {hint}");
    };
    refused(json!({"base": "lstm"}));
    refused(json!({"detectors": []}));
    // and it is no member of another ensemble
    refused_member();
}

fn refused_member() {
    let params = json!({"detectors": [{"strategy": "auto"}]});
    let features = vec!["users".into()];
    let made = Detector::new(DetectorConfig { params, features, ..config("ensemble") });
    assert!(matches!(made.err(), Some(Error::InvalidParameter { .. })));
}

/// What is unusual in time only, in a column only and in the combination only, each of which one kind
/// of member can see; and quiet rows at the promised rate.
#[test]
fn auto_of_rows_finds_what_any_of_its_members_can_see() {
    let (mut quiet, mut judged) = (0, 0);
    for seed in 1..=common::repetitions(6, 3) {
        let detector = auto(0.01);
        let (mut state, mut rng) = trained(&detector, seed);
        for i in N..N + 500 {
            let (value, features) = row(&mut rng, i);
            let point = point(i, value, &features);
            quiet += usize::from(detector.process(&mut state, None, &point).verdict.is_anomaly);
            judged += 1;
        }
        let judge = |value: f64, features: &[f64]| -> Verdict {
            detector.judge(&state, &point(N + 500, value, features))
        };
        let usual = judge(50.0, &[1000.0, 5.0]);
        assert!(!usual.is_anomaly, "{usual:?}");
        for (what, odd) in [
            ("a value", judge(500.0, &[1000.0, 5.0])),
            ("a column", judge(50.0, &[1000.0, 40.0])),
            ("a combination", judge(75.0, &[800.0, 5.0])),
        ] {
            assert!(odd.is_anomaly && odd.ln_p() < usual.ln_p(), "{seed} {what}: {odd:?}");
        }
        // distance counts for ever, and one gross value is an emergency
        let mut last = 0.0;
        for value in [200.0, 400.0, 1500.0, 1e6, 1e12] {
            let far = judge(value, &[1000.0, 5.0]).deviation();
            assert!(far.is_finite() && far >= last, "{value}: {far} after {last}");
            last = far;
        }
        assert_eq!(judge(1500.0, &[1000.0, 5.0]).severity(), Severity::Emergency);
        // what is missing counts as usual, what is no number is told as ever
        assert_eq!(judge(50.0, &[]).ln_p(), judge(50.0, &[f64::NAN, f64::NAN]).ln_p());
        for odd in [f64::INFINITY, f64::NEG_INFINITY, 1e308, -5e-324] {
            let verdict = judge(50.0, &[odd, odd]);
            assert!(verdict.ln_p().is_finite() && verdict.expected.is_finite(), "{verdict:?}");
        }
    }
    // 0.01 was asked for
    println!("{quiet} of {judged}");
    assert!(quiet <= judged / 50, "{quiet} of {judged}");
}

/// An alert says which column did it, and who found it.
#[test]
fn auto_of_rows_blames_the_column() {
    let detector = auto(0.001);
    let (mut state, _) = trained(&detector, 3);
    let outcome = detector.process(&mut state, None, &point(N, 50.0, &[1000.0, 60.0]));
    assert!(outcome.verdict.is_anomaly, "{outcome:?}");
    let metadata = Value::Object(outcome.metadata.unwrap());
    let shares: Vec<f64> = serde_json::from_value(metadata["contributions"].clone()).unwrap();
    assert!(shares.len() == 3 && shares[2] > 0.5, "{metadata}");
    assert_eq!(metadata["features"][1]["value"], 60.0);
    let scores = metadata["detector_results"].as_object().unwrap();
    assert!(scores["learning_isolation_forest"].as_f64().unwrap() > 0.6, "{metadata}");
}

/// Few points, none, constant columns, huge and tiny ones.
#[test]
fn auto_of_rows_takes_any_rows() {
    let detector = auto(0.001);
    let cases: [&dyn Fn(i64) -> (f64, [f64; 2]); 5] = [
        &|_| (5.0, [1.0, 2.0]),
        &|i| (i as f64, [1e300, -1e300]),
        &|i| (1e300 * (i % 7) as f64, [f64::NAN, f64::INFINITY]),
        &|i| (5e-324 * (i % 3) as f64, [5e-324, 0.0]),
        &|i| ((i % 2) as f64, [(i % 2) as f64, f64::NAN]),
    ];
    for (number, row) in cases.iter().enumerate() {
        let mut state = detector.new_state();
        for i in 0..400 {
            let (value, features) = row(i);
            let before = detector.judge(&state, &point(i, value, &features));
            let verdict = detector.process(&mut state, None, &point(i, value, &features)).verdict;
            assert_eq!(before.ln_p(), verdict.ln_p());
            assert!(verdict.ln_p().is_finite() && verdict.ln_p() <= 0.0, "{number}: {verdict:?}");
        }
        let bytes = detector.encode_state(&state).unwrap();
        let back = detector.decode_state(&bytes).unwrap();
        assert!(bytes == detector.encode_state(&back).unwrap(), "{number}");
    }
}

fn stored(detector: &Detector) -> Vec<u8> {
    detector.encode_state(&trained(detector, 9).0).unwrap()
}

/// What the same rows lead to for ever; a change is a change of format.
#[test]
fn golden_states_of_rows() {
    let of = |detector: Detector| {
        let bytes = stored(&detector);
        let (_, payload) = codec::unwrap(&bytes).unwrap();
        (payload.len(), crc32fast::hash(payload))
    };
    let forest = with("isolation_forest", json!({"variant": "auto"}), 0.001, &["users", "errors"]);
    assert_eq!([of(auto(0.001)), of(forest)], GOLDEN);
}

const GOLDEN: [(usize, u32); 2] = [(109_898, 105_627_967), (69_984, 2_284_927_993)];

/// Stored in the middle of its course, it goes on as if nothing had been.
#[test]
fn states_of_rows_survive_storage() {
    let detector = auto(0.01);
    let (mut state, mut rng) = trained(&detector, 9);
    let bytes = detector.encode_state(&state).unwrap();
    println!("{} bytes", bytes.len());
    assert!(bytes.len() < 160_000, "{} bytes", bytes.len());
    let mut back = detector.decode_state(&bytes).unwrap();
    for i in N..N + 300 {
        let (value, features) = row(&mut rng, i);
        let point = point(i, value, &features);
        let (a, b) =
            (detector.process(&mut state, None, &point), detector.process(&mut back, None, &point));
        assert_eq!(a.verdict.ln_p(), b.verdict.ln_p(), "{i}");
    }
    assert!(detector.encode_state(&state).unwrap() == detector.encode_state(&back).unwrap());
    // it is no state of the one for values, and the other way round
    let of_values = with("auto", Value::Null, 0.01, &[]);
    assert!(matches!(of_values.decode_state(&bytes).err(), Some(Error::Corrupted(_))));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn damaged_states_of_rows_are_refused_or_usable(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..4),
        cut in prop_oneof![3 => Just(0), 1 => 0..5000_usize],
    ) {
        static STATE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| stored(&auto(0.001)));
        let detector = auto(0.001);
        let (algorithm, payload) = codec::unwrap(&STATE).unwrap();
        let mut payload = payload.to_vec();
        for (at, word) in &edits {
            let at = at.index(payload.len() - 8);
            payload[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        payload.truncate(payload.len() - cut);
        let bytes = codec::wrap(algorithm, &payload).unwrap();
        if let Ok(mut state) = detector.decode_state(&bytes) {
            for value in [0.0, 1e300, -1e300, f64::NAN, f64::INFINITY, 100.0, 5e-324] {
                let features = [value, 5.0];
                let point = point(N + 1, value, &features);
                let v = detector.process(&mut state, None, &point).verdict;
                prop_assert!(v.ln_p().is_finite() && !v.expected.is_infinite(), "{:?}", v);
            }
            let again = detector.encode_state(&state).unwrap();
            prop_assert!(detector.decode_state(&again).is_ok());
        }
    }
}

/// All that the registry says take columns do.
#[test]
fn every_strategy_that_takes_columns_is_made_with_them() {
    for info in STRATEGIES.iter().filter(|s| s.is_available() && s.features > 0) {
        let detector = with(info.short_name, Value::Null, 0.001, &["a", "b"]);
        assert_eq!(detector.strategy().features(), info.features, "{}", info.name);
    }
}

/// A plan of three that decides the value, an identifier, and a number.
fn of_categories(strategy: &str, alpha: f64) -> Detector {
    let params = if strategy == "lstm" {
        json!({"lstm_units": 4, "sequence_length": 4, "epochs": 2})
    } else {
        Value::Null
    };
    Detector::new(DetectorConfig {
        params,
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        features: ["plan", "session", "errors"].map(str::to_owned).to_vec(),
        categories: ["plan", "session"].map(str::to_owned).to_vec(),
        ..config(strategy)
    })
    .unwrap()
}

fn of_plan(plan: &str, session: &str, errors: f64) -> [f64; 3] {
    [code(plan.as_bytes()), code(session.as_bytes()), errors]
}

fn plan_row(rng: &mut Rng, i: i64) -> (f64, [f64; 3]) {
    // in no order that a memory of the values before could know
    let (plan, usual) = if rng.uniform() < 1.0 / 3.0 { ("free", 200.0) } else { ("paid", 100.0) };
    (usual + 10.0 * rng.normal(), of_plan(plan, &format!("s{i}"), 5.0 + rng.normal()))
}

fn trained_on_plans(detector: &Detector) -> (EntityState, Rng) {
    let (mut state, mut rng) = (detector.new_state(), Rng(5));
    for i in 0..N {
        let (value, features) = plan_row(&mut rng, i);
        detector.train(&mut state, &point(i, value, &features));
    }
    (state, rng)
}

/// A level that was never seen is unusual and no error, a new identifier is not, what is missing is not,
/// and the value that another plan has is.
#[test]
fn check_c22_categories_have_a_defined_rule() {
    for strategy in ["isolation_forest", "one_class_svm", "autoencoder", "auto"] {
        let detector = of_categories(strategy, 0.05);
        let (mut state, mut rng) = trained_on_plans(&detector);
        let mut quiet = 0;
        for i in N..N + 300 {
            let (value, features) = plan_row(&mut rng, i);
            let point = point(i, value, &features);
            quiet += usize::from(detector.process(&mut state, None, &point).verdict.is_anomaly);
        }
        assert!(quiet <= 30, "{strategy}: {quiet} of 300");
        let judge =
            |value: f64, row: [f64; 3]| detector.judge(&state, &point(N + 300, value, &row));
        let usual = judge(100.0, of_plan("paid", "new", 5.0));
        assert!(!usual.is_anomaly, "{strategy}: {usual:?}");
        let unseen = judge(100.0, of_plan("enterprise", "new", 5.0));
        println!("{strategy}: usual {}, unseen {}", usual.ln_p(), unseen.ln_p());
        assert!(unseen.is_anomaly && unseen.ln_p() < usual.ln_p(), "{strategy}: {unseen:?}");
        let missing = judge(100.0, [f64::NAN, f64::NAN, 5.0]);
        assert!(!missing.is_anomaly, "{strategy}: {missing:?}");
        let of_another = judge(200.0, of_plan("paid", "new", 5.0));
        println!("{strategy}: of another plan {}", of_another.ln_p());
        assert!(of_another.ln_p() < judge(200.0, of_plan("free", "new", 5.0)).ln_p(), "{strategy}");
        let shares =
            state.model.contributions(&point(N + 300, 100.0, &of_plan("enterprise", "new", 5.0)));
        let shares = shares.unwrap();
        assert!(shares[1] > 0.5, "{strategy}: {shares:?}");
        // stored, it goes on as it was
        let back = detector.decode_state(&detector.encode_state(&state).unwrap()).unwrap();
        let row = of_plan("enterprise", "new", 5.0);
        let again = detector.judge(&back, &point(N + 300, 100.0, &row));
        assert_eq!(again.ln_p(), unseen.ln_p(), "{strategy}");
    }
    // what takes numbers only says so, as a member too
    for (strategy, params) in [
        ("random_cut_forest", Value::Null),
        (
            "ensemble",
            json!({"detectors": [{"strategy": "random_cut_forest"}, {"strategy": "mad"}]}),
        ),
    ] {
        let made = Detector::new(DetectorConfig {
            params,
            features: vec!["plan".into()],
            categories: vec!["plan".into()],
            ..config(strategy)
        });
        let Some(Error::InvalidParameter { message, hint }) = made.err() else { panic!() };
        assert!(message.contains("categories") && hint.contains("one_class_svm"), "{message}");
    }
}

/// Sixteen categories of a thousand levels each: as many columns as there may be, and a bounded state.
#[test]
fn categories_are_bounded() {
    for strategy in ["isolation_forest", "one_class_svm", "autoencoder", "lstm", "auto"] {
        let names: Vec<String> = (0..16).map(|i| format!("c{i}")).collect();
        let detector = Detector::new(DetectorConfig {
            params: if strategy == "lstm" {
                json!({"lstm_units": 4, "epochs": 2})
            } else {
                Value::Null
            },
            features: names.clone(),
            categories: names,
            ..config(strategy)
        })
        .unwrap();
        let (mut state, mut rng) = (detector.new_state(), Rng(6));
        for i in 0..700 {
            let level = |k: u64| code(format!("{}", (rng.uniform() * k as f64) as u64).as_bytes());
            let features: Vec<f64> = [3, 5, 20, 1000].repeat(4).into_iter().map(level).collect();
            detector.process(&mut state, None, &point(i, rng.normal(), &features));
        }
        let bytes = detector.encode_state(&state).unwrap();
        println!("{strategy}: {} bytes", bytes.len());
        assert!(bytes.len() < 300_000, "{strategy}: {} bytes", bytes.len());
        let back = detector.decode_state(&bytes).unwrap();
        assert!(bytes == detector.encode_state(&back).unwrap(), "{strategy}");
        // numbers that are no codes are levels like any other
        for odd in [f64::INFINITY, f64::NEG_INFINITY, -7.0, 0.5, 1e308] {
            let verdict = detector.judge(&state, &point(701, 0.0, &[odd; 16]));
            assert!(verdict.ln_p().is_finite() && verdict.expected.is_finite(), "{verdict:?}");
        }
    }
}
