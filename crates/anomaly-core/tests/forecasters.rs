//! What holds for every strategy that forecasts: degenerate input, monotony, stored states, seasons
//! and level shifts.

mod common;

use std::f64::consts::TAU;

use anomaly_core::strategy::EntityModel;
use anomaly_core::{Detector, DetectorConfig, EntityState, Phase, Point, Status, Transition};
use common::{Rng, config, trained, with_alpha};
use proptest::prelude::*;
use serde_json::{Value, json};

const FORECASTERS: [&str; 4] = [
    "statistical_moving_average",
    "statistical_regression",
    "statistical_seasonal",
    "statistical_holt_winters",
];
/// Those that know a day.
const SEASONAL: [&str; 3] =
    ["statistical_regression", "statistical_seasonal", "statistical_holt_winters"];

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// 2024-01-01, a Monday.
const START: i64 = 757_382_400_000_000;

fn with_params(strategy: &str, alpha: f64, params: Value) -> Detector {
    Detector::new(DetectorConfig {
        alerts_per_day: alpha,
        points_per_day: Some(1.0),
        params,
        ..config(strategy)
    })
    .unwrap()
}

fn hourly(detector: &Detector, values: impl IntoIterator<Item = f64>) -> EntityState {
    let mut state = detector.new_state();
    for (i, v) in values.into_iter().enumerate() {
        detector.train(&mut state, &Point::new(START + i as i64 * HOUR, v));
    }
    state
}

fn day(i: f64) -> f64 {
    100.0 + 20.0 * (TAU * i / 24.0).sin()
}

/// A day as a sine with noise of one twentieth.
fn days(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng(seed);
    (0..n).map(|i| day(i as f64) + rng.normal()).collect()
}

fn ln_p(detector: &Detector, state: &EntityState, at: i64, value: f64) -> f64 {
    detector.judge(state, &Point::new(at, value)).ln_p()
}

/// Nights without anything teach no spread, and the first days do: also when the first night comes first.
#[test]
fn a_constant_beginning_is_no_constant_series() {
    let detector = with_alpha("statistical_seasonal", 1e-3);
    let mut rng = Rng(8);
    let mut value = |i: usize| match i % 24 {
        0..12 => 0.0,
        hour => 100.0 + 5.0 * hour as f64 + 2.0 * rng.normal(),
    };
    let state = hourly(&detector, (0..24 * 21).map(&mut value));
    for (hour, x, unusual) in [(15, 175.0, false), (15, 172.0, false), (15, 100.0, true)] {
        let at = START + (24 * 21 + hour) * HOUR;
        let v = detector.judge(&state, &Point::new(at, x));
        assert_eq!(v.is_anomaly, unusual, "{v:?}");
        assert!(v.upper - v.lower < 60.0, "{v:?}");
    }
}

#[test]
fn check_c17_true_values_are_silent_and_the_opposite_phase_alerts() {
    for name in SEASONAL {
        let detector = with_alpha(name, 1e-3);
        for n in [240, 480, 24 * 60] {
            let state = hourly(&detector, days(n, n as u64));
            for ahead in [1, 7, 13, 19, 240] {
                // n is midnight; one hour ahead of the last point is n
                let i = (n + ahead - 1) as f64;
                let at = START + i as i64 * HOUR;
                for offset in [-1.0, 0.0, 1.0] {
                    let p = ln_p(&detector, &state, at, day(i) + offset);
                    assert!(p > libm::log(0.02), "{name} {n} +{ahead}: {p}");
                }
                // At 0 and 12 h both phases are the same value.
                if (day(i) - 100.0).abs() > 5.0 {
                    let verdict = detector.judge(&state, &Point::new(at, 200.0 - day(i)));
                    assert!(verdict.is_anomaly, "{name} {n} +{ahead}: {verdict:?}");
                }
            }
        }
    }
}

#[test]
fn a_level_shift_is_one_event_and_then_the_new_normal() {
    for name in FORECASTERS {
        let detector =
            Detector::new(DetectorConfig { alerts_per_day: 0.1, ..config(name) }).unwrap();
        for seed in 0..3 {
            let mut rng = Rng(seed);
            let seasonal = SEASONAL.contains(&name);
            let value = |i: usize, noise: f64| {
                let season = if seasonal { day(i as f64) } else { 100.0 };
                season + noise + if i < 700 { 0.0 } else { 60.0 }
            };
            let mut state = detector.new_state();
            let (mut opened, mut last) = (Vec::new(), 0);
            for i in 0..1400 {
                let point = Point::new(START + i as i64 * HOUR, value(i, rng.normal()));
                let outcome = detector.process(&mut state, None, &point);
                if let Some(Transition::Opened(_)) = outcome.transition {
                    opened.push(i);
                }
                if i >= 700 && outcome.verdict.is_anomaly {
                    last = i;
                }
            }
            let at_shift: Vec<_> = opened.iter().filter(|i| **i >= 700).collect();
            assert_eq!(at_shift, [&700], "{name} {seed}: {opened:?}");
            assert!(last < 760, "{name} {seed}: {last}");
            assert_eq!(state.episode.phase, Phase::Quiet, "{name} {seed}");
        }
    }
}

#[test]
fn degenerate_series_have_defined_verdicts() {
    let constant = |n: usize| vec![5.0; n];
    let cases: Vec<(&str, Vec<f64>)> = vec![
        ("empty", vec![]),
        ("one point", vec![3.0]),
        ("two points", vec![3.0, 4.0]),
        ("constant", constant(200)),
        ("zeros", vec![0.0; 200]),
        ("NaN", vec![f64::NAN; 200]),
        ("infinite", vec![f64::INFINITY, f64::NEG_INFINITY, 1.0, 2.0]),
        ("huge", (0..200).map(|i| if i % 2 == 0 { 1e308 } else { -1e308 }).collect()),
        ("denormal", (0..200).map(|i| 5e-324 * f64::from(i % 7)).collect()),
        ("mixed", (0..200).map(|i| [1e308, 5e-324, -1.0, 0.0][i % 4]).collect()),
        ("line", (0..200).map(f64::from).collect()),
        ("long period", (0..200).map(|i| (f64::from(i) / 300.0 * TAU).sin()).collect()),
    ];
    for name in FORECASTERS {
        let detector = with_alpha(name, 1e-3);
        for (case, values) in &cases {
            let state = hourly(&detector, values.iter().copied());
            let finite = values.iter().filter(|v| v.is_finite()).count();
            assert_eq!(state.model.count(), finite as u64, "{name} {case}");
            let at = START + values.len() as i64 * HOUR;
            for x in [0.0, 5.0, 5.1, -1e308, 1e308, 5e-324, f64::NAN, f64::INFINITY] {
                let verdict = detector.judge(&state, &Point::new(at, x));
                let ln_p = verdict.ln_p();
                assert!(ln_p <= 0.0 && ln_p.is_finite(), "{name} {case} {x}: {verdict:?}");
                assert!(verdict.statistic.is_finite(), "{name} {case} {x}");
                assert_eq!(verdict.expected.is_finite(), finite > 0, "{name} {case} {x}");
                assert_eq!(verdict.status == Status::NonFinite, !x.is_finite());
                let ordered = verdict.lower <= verdict.upper || verdict.lower.is_nan();
                assert!(ordered, "{name} {case} {x}: {verdict:?}");
                let metadata = state.model.metadata(&verdict, detector.rule());
                serde_json::to_string(&metadata).unwrap();
            }
        }
        let state = hourly(&detector, constant(200));
        let verdict = detector.judge(&state, &Point::new(START + 200 * HOUR, 5.0));
        assert!(!verdict.is_anomaly, "{name}: {verdict:?}");
        let verdict = detector.judge(&state, &Point::new(START + 200 * HOUR, 1e9));
        assert!(verdict.deviation() > 5.0, "{name}: {verdict:?}");
    }
}

#[test]
fn any_times_are_fine() {
    for name in FORECASTERS {
        let detector = with_alpha(name, 1e-3);
        let mut rng = Rng(1);
        // all at once, shuffled, and at the ends of time
        let same: Vec<i64> = vec![START; 200];
        let shuffled: Vec<i64> = (0..200).map(|i| START + (i * 77 % 200) * HOUR).collect();
        let ends: Vec<i64> = (0..200).map(|i| [i64::MIN, i64::MAX, 0, START][i % 4]).collect();
        let backwards: Vec<i64> = (0..200).map(|i| START - i * HOUR).collect();
        for times in [same, shuffled, ends, backwards] {
            let mut state = detector.new_state();
            for at in &times {
                let point = Point::new(*at, 10.0 + rng.normal());
                detector.process(&mut state, None, &point);
            }
            for at in [START, START + 200 * HOUR, START + 5 * HOUR / 2, i64::MAX, i64::MIN, 0] {
                let verdict = detector.judge(&state, &Point::new(at, 10.0));
                assert!(
                    verdict.expected.is_finite() && verdict.ln_p().is_finite(),
                    "{name}: {verdict:?}"
                );
                assert!(verdict.lower <= verdict.upper, "{name}: {verdict:?}");
            }
            let verdict = detector.judge(&state, &Point::new(START + 200 * HOUR, 1e6));
            if times[1] < i64::MAX {
                assert!(verdict.is_anomaly, "{name}: {verdict:?}");
            }
        }
    }
}

/// Clocks change in the last night of March and the last of October.
#[test]
fn days_with_a_clock_change_are_days() {
    for name in SEASONAL {
        let detector = Detector::new(DetectorConfig {
            time_zone: "Europe/Berlin".into(),
            alerts_per_day: 1e-3,
            points_per_day: Some(1.0),
            ..config(name)
        })
        .unwrap();
        let mut state = detector.new_state();
        let mut rng = Rng(9);
        let march = START + 60 * DAY;
        for i in 0..24 * 60 {
            let at = march + i * HOUR;
            let value = day(i as f64) + rng.normal();
            let outcome = detector.process(&mut state, None, &Point::new(at, value));
            assert!(outcome.verdict.ln_p().is_finite());
        }
        assert!(state.model.count() > 24 * 58, "{name}: {}", state.model.count());
    }
}

fn model_bytes(state: &EntityState) -> Vec<u8> {
    let mut out = Vec::new();
    state.model.encode(&mut out).unwrap();
    out
}

#[test]
fn a_stored_state_goes_on_as_if_nothing_had_happened() {
    for name in FORECASTERS {
        let detector = with_alpha(name, 1e-3);
        let values = days(1200, 5);
        for stop in [0, 1, 5, 31, 33, 64, 100, 333, 1100] {
            let mut state = hourly(&detector, values[..stop].iter().copied());
            let bytes = detector.encode_state(&state).unwrap();
            let mut restored = detector.decode_state(&bytes).unwrap();
            assert_eq!(detector.encode_state(&restored).unwrap(), bytes, "{name} {stop}");
            for (i, v) in values.iter().enumerate().skip(stop).take(100) {
                let point = Point::new(START + i as i64 * HOUR, *v);
                let (a, b) = (
                    detector.process(&mut state, None, &point),
                    detector.process(&mut restored, None, &point),
                );
                assert_eq!(format!("{a:?}"), format!("{b:?}"), "{name} {stop} {i}");
            }
            assert_eq!(model_bytes(&state), model_bytes(&restored), "{name} {stop}");
        }
    }
}

#[test]
fn incidents_do_not_move_the_season() {
    for name in SEASONAL {
        let detector = with_alpha(name, 1e-3);
        let mut values = days(24 * 40, 11);
        let clean = hourly(&detector, values.iter().copied());
        let mut rng = Rng(12);
        for v in &mut values {
            if rng.uniform() < 0.01 {
                *v += 500.0;
            }
        }
        // an outage of five hours
        values[500..505].fill(0.0);
        let hurt = hourly(&detector, values.iter().copied());
        for i in 24 * 40..24 * 41 {
            let at = START + i * HOUR;
            let a = detector.judge(&clean, &Point::new(at, 100.0)).expected;
            let b = detector.judge(&hurt, &Point::new(at, 100.0)).expected;
            assert!((a - b).abs() < 1.5, "{name} {i}: {a} and {b}");
        }
    }
}

#[test]
fn gaps_and_irregular_sampling_are_followed_by_time() {
    for name in SEASONAL {
        let detector = with_alpha(name, 1e-3);
        let mut rng = Rng(21);
        let mut state = detector.new_state();
        let mut i = 0.0;
        while i < 24.0 * 45.0 {
            // about one an hour, a third missing, a weekend without any
            i += if rng.uniform() < 0.33 { 2.0 } else { 1.0 };
            if !(480.0..530.0).contains(&i) {
                let at = START + (i * HOUR as f64) as i64 + (rng.uniform() * 60e6) as i64;
                detector.train(&mut state, &Point::new(at, day(i) + rng.normal()));
            }
        }
        for ahead in 0..48 {
            let i = f64::from(ahead) + 24.0 * 46.0;
            let verdict =
                detector.judge(&state, &Point::new(START + (i * HOUR as f64) as i64, day(i)));
            assert!(verdict.ln_p() > libm::log(0.01), "{name} {ahead}: {verdict:?}");
            // Holt-Winters rounds to a grid, and its season has the age of the latest value.
            let effect = if name == "statistical_holt_winters" { 60.0 } else { 15.0 };
            let at = START + (i * HOUR as f64) as i64;
            let verdict = detector.judge(&state, &Point::new(at, day(i) + effect));
            assert!(verdict.is_anomaly, "{name} {ahead}: {verdict:?}");
        }
    }
}

/// The false alarm rate on noise that a forecaster understands is the one asked for, roughly: the
/// whole table is in the benchmark.
#[test]
fn normal_noise_is_flagged_as_often_as_asked() {
    for name in FORECASTERS {
        let detector = with_alpha(name, 0.01);
        let (mut flagged, mut judged) = (0, 0);
        for seed in 0..6 {
            let mut rng = Rng(seed);
            let mut state = detector.new_state();
            for i in 0..3000_i64 {
                let season = if SEASONAL.contains(&name) { day(i as f64) } else { 100.0 };
                let point = Point::new(START + i * HOUR, season + rng.normal());
                let outcome = detector.process(&mut state, None, &point);
                if i >= 1000 {
                    judged += 1;
                    flagged += i32::from(outcome.verdict.is_anomaly);
                }
            }
        }
        let rate = f64::from(flagged) / f64::from(judged);
        eprintln!("{name}: {rate}");
        assert!((0.006..0.016).contains(&rate), "{name}: {rate}");
    }
}

#[test]
fn check_c16_three_windows_and_the_largest_z() {
    let detector = with_params("moving_average", 1e-3, json!({"window": 24}));
    let mut rng = Rng(3);
    let values: Vec<f64> = (0..100).map(|_| 50.0 + rng.normal()).collect();
    let threshold =
        Detector::new(DetectorConfig { threshold: Some(3.0), ..config("moving_average") }).unwrap();
    let state = trained(&threshold, values.iter().copied());
    let stats = |w: usize| {
        let last = &values[100 - w..];
        let mean = last.iter().sum::<f64>() / w as f64;
        let var = last.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (w - 1) as f64;
        (mean, var.sqrt())
    };
    for x in [50.0, 52.0, 54.0, 60.0, 40.0, 46.5] {
        let point = Point::new(100, x);
        let verdict = threshold.judge(&state, &point);
        let z = [6, 12, 24].map(|w| (w, (x - stats(w).0) / stats(w).1));
        let largest = z.iter().fold(z[0], |a, b| if b.1.abs() >= a.1.abs() { *b } else { a });
        assert!((verdict.statistic - largest.1).abs() < 1e-9, "{x}");
        assert_eq!(verdict.is_anomaly, largest.1.abs() > 3.0, "{x}");
        assert_eq!(verdict.is_anomaly, x < verdict.lower || x > verdict.upper, "{x}");
        let metadata = Value::Object(state.model.metadata(&verdict, threshold.rule()));
        assert_eq!(metadata["window"], json!(largest.0));
        assert_eq!(metadata["threshold"], json!(3.0));
        let firing: Vec<u64> = metadata["windows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["window"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = z.iter().filter(|z| z.1.abs() > 3.0).map(|z| z.0 as u64).collect();
        assert_eq!(firing, expected, "{x}");
        assert!(metadata["mean"].is_number() && metadata["std"].is_number());
    }
    let state = trained(&detector, values.iter().copied());
    assert!(!detector.judge(&state, &Point::new(100, 50.0)).is_anomaly);
}

/// Points in any order, and a late one is compared with what was before it.
#[test]
fn check_c16_unsorted_and_late_points_are_fine() {
    let detector = Detector::new(DetectorConfig {
        threshold: Some(3.0),
        time_zone: "Asia/Kathmandu".into(),
        params: json!({"window": 50}),
        ..config("moving_average")
    })
    .unwrap();
    let mut rng = Rng(4);
    let values: Vec<f64> = (0..200).map(|i| f64::from(i / 100) * 100.0 + rng.normal()).collect();
    let feed = |order: Vec<usize>| {
        let mut state = detector.new_state();
        for i in order {
            detector.train(&mut state, &Point::new(START + i as i64 * HOUR, values[i]));
        }
        state
    };
    let sorted = feed((0..200).collect());
    let shuffled = feed((0..200).map(|i| i * 77 % 200).collect());
    for x in [100.0, 103.0, 110.0, 0.0] {
        let point = Point::new(START + 200 * HOUR, x);
        let (a, b) = (detector.judge(&sorted, &point), detector.judge(&shuffled, &point));
        assert_eq!((a.expected, a.statistic), (b.expected, b.statistic));
        assert_eq!((a.lower, a.upper), (b.lower, b.upper));
    }
    // The window follows: 0 was normal before the shift, 100 is now.
    assert!(detector.judge(&sorted, &Point::new(START + 200 * HOUR, 0.0)).is_anomaly);
    assert!(!detector.judge(&sorted, &Point::new(START + 200 * HOUR, 100.0)).is_anomaly);
    let short = feed((0..120).collect());
    assert!(!detector.judge(&short, &Point::new(START + 99 * HOUR, 0.0)).is_anomaly);
    assert!(detector.judge(&short, &Point::new(START + 99 * HOUR, 100.0)).is_anomaly);
}

#[test]
fn bad_parameters_are_refused() {
    for (name, params) in [
        ("moving_average", json!({"window": 2})),
        ("moving_average", json!({"window": 1001})),
        ("moving_average", json!({"windows": 24})),
        ("regression", json!({"seasonality": 1})),
        ("regression", json!({"include_trend": 1})),
        ("regression", json!({"harmonics": 0})),
        ("regression", json!({"period_seconds": "day"})),
        ("regression", json!({"window": 31})),
        ("regression", json!({"trend": true})),
        ("seasonal", json!({"calendar": 1})),
        ("seasonal", json!({"period": 24})),
        ("holt_winters", json!({"period": 1})),
        ("holt_winters", json!({"period": 513})),
        ("holt_winters", json!({"alpha": 0})),
        ("holt_winters", json!({"phi": 1.1})),
        ("holt_winters", json!({"seasonality": 24})),
    ] {
        let made = Detector::new(DetectorConfig { params: params.clone(), ..config(name) });
        assert!(made.is_err(), "{name} took {params}");
    }
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -100.0..100.0f64,
        4 => prop::sample::select(vec![0.0, 1.0, 5.0]),
        1 => prop::sample::select(vec![
            f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1e308, 5e-324, 1e-300,
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_series_is_judged_and_learned(
        values in prop::collection::vec((value(), 0i64..4), 0..300),
        name in prop::sample::select(FORECASTERS.to_vec()),
        unit in prop::sample::select(vec![1, 60_000_000, HOUR, DAY]),
    ) {
        let detector = with_alpha(name, 0.01);
        let (mut state, mut trained) = (detector.new_state(), detector.new_state());
        let mut at = START;
        for (v, step) in &values {
            at += step * unit;
            let point = Point::new(at, *v);
            let outcome = detector.process(&mut state, None, &point);
            prop_assert!(outcome.verdict.ln_p() <= 0.0);
            prop_assert!(outcome.verdict.ln_p().is_finite());
            prop_assert!(!outcome.verdict.expected.is_infinite());
            detector.train(&mut trained, &point);
        }
        let bytes = detector.encode_state(&state).unwrap();
        let restored = detector.decode_state(&bytes).unwrap();
        prop_assert_eq!(detector.encode_state(&restored).unwrap(), bytes);
        // The further from what is expected, the less likely; and the bounds do not depend on the value.
        for state in [&state, &trained] {
            let expected = detector.judge(state, &Point::new(at + unit, 0.0));
            let centre = if expected.expected.is_nan() { 0.0 } else { expected.expected };
            for side in [-1.0, 1.0] {
                let mut last = 0.0;
                for exponent in [-20, -3, -1, 0, 1, 2, 5, 20, 100, 300] {
                    let x = centre + side * 10f64.powi(exponent);
                    let verdict = detector.judge(state, &Point::new(at + unit, x));
                    prop_assert_eq!(verdict.lower.to_bits(), expected.lower.to_bits());
                    prop_assert_eq!(verdict.upper.to_bits(), expected.upper.to_bits());
                    prop_assert!(verdict.ln_p() <= last + 1e-9, "{} at {}", verdict.ln_p(), x);
                    last = verdict.ln_p();
                }
            }
        }
    }

    #[test]
    fn garbage_never_decodes_badly(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        n in 0usize..300,
        name in prop::sample::select(FORECASTERS.to_vec()),
    ) {
        let detector = with_alpha(name, 0.01);
        let decode = |bytes: &[u8]| {
            let mut reader = anomaly_core::codec::Reader::new(bytes);
            detector.strategy().decode_state(&mut reader)
        };
        let check = |model: Box<dyn EntityModel>| {
            let mut state = EntityState { model, ..detector.new_state() };
            for k in 0..70 {
                let point = Point::new(START + k * HOUR, k as f64);
                let verdict = detector.process(&mut state, None, &point).verdict;
                assert!(!verdict.ln_p().is_nan());
            }
        };
        if let Ok(model) = decode(&bytes) {
            check(model);
        }
        let state = hourly(&detector, days(n, 3));
        bytes = model_bytes(&state);
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(model) = decode(&bytes) {
            check(model);
        }
    }
}
