//! What every strategy owes, whatever it does inside: each test goes over all that are available,
//! seen from outside, through [`Detector`].
//!
//! `PROPTEST_CASES=2000 STRATEGY=mad cargo test -p anomaly-core --test every_strategy` searches longer,
//! for one of them only.

mod common;

use anomaly_core::strategy::Kind;
use anomaly_core::{
    Detector, DetectorConfig, Direction, EntityState, Error, Point, Severity, Status, Verdict,
    codec,
};
use common::Rng;
use common::available::{
    defaults, detector, detector_if, each, every, of_kind, others, same, some, takes, trained_on,
};
use common::series::{
    Anomaly, DAY, HOUR, MINUTE, MONDAY, SHAPES, Sample, Series, Shape, Times, plain, series,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

/// What is wrong with a verdict that `state` gave, its texts included; empty when it means something.
fn flaws(detector: &Detector, state: &EntityState, v: &Verdict) -> Vec<String> {
    let mut flaws = verdict_flaws(detector, v);
    flaws.extend(text_flaws(detector, state, v));
    flaws
}

fn verdict_flaws(detector: &Detector, v: &Verdict) -> Vec<String> {
    let mut flaws = Vec::new();
    let mut check = |sound: bool, what: &str| {
        if !sound {
            flaws.push(format!("{what}: {v:?}"));
        }
    };
    let (ln_p, deviation) = (v.ln_p(), v.deviation());
    check(ln_p.is_finite() && ln_p <= 0.0, "ln p");
    check((0.0..=1e6).contains(&deviation), "deviation");
    check((0.0..=1.0).contains(&v.score()), "score");
    check((0.0..=1.0).contains(&v.p_value()), "p");
    check(v.severity() == Severity::from_deviation(deviation), "severity");
    check(
        v.lower <= v.upper || v.lower.is_nan() && v.upper.is_nan(),
        "lower is above upper, or one of them is missing",
    );
    check(v.lower != f64::INFINITY && v.upper != f64::NEG_INFINITY, "a range of infinities");
    check(!v.expected.is_infinite(), "expected");
    check(
        v.expected.is_nan() || v.lower.is_nan() || (v.lower <= v.expected && v.expected <= v.upper),
        "expected is outside the expected range",
    );
    check(!v.statistic.is_nan() || v.value.is_nan(), "statistic");
    if v.value.is_nan() {
        check(!v.is_anomaly, "NaN is anomalous");
        check(v.direction == Direction::None, "NaN has a direction");
        check(ln_p == 0.0, "NaN has a probability");
    } else if v.value.is_infinite() {
        check(deviation == 1e6, "deviation of an infinity");
        let side = if v.value > 0.0 { Direction::High } else { Direction::Low };
        check(v.direction == side, "direction of an infinity");
    } else {
        let sides = detector.strategy().has_sides();
        let side = match v.value.partial_cmp(&v.expected).filter(|_| sides) {
            Some(std::cmp::Ordering::Greater) => Direction::High,
            Some(std::cmp::Ordering::Less) => Direction::Low,
            _ => Direction::None,
        };
        check(v.direction == side, "direction");
    }
    check((v.status == Status::NonFinite) != v.value.is_finite(), "status");
    // nobody here has a shared model that would call it one
    let warming = matches!(v.status, Status::Warming { .. });
    check(!warming || !v.is_anomaly, "an anomaly while warming");
    let config = detector.config();
    if v.status == Status::Ok && config.threshold.is_none() {
        let rare = ln_p < detector.rule().ln_alpha;
        let any = config.direction.is_none()
            && config.min_effect == 0.0
            && config.min_relative_effect == 0.0;
        check(rare || !v.is_anomaly, "an anomaly that is not improbable");
        check(v.is_anomaly || !rare || !any, "improbable and no anomaly");
    }
    flaws
}

/// The same for what is said about it.
fn text_flaws(detector: &Detector, state: &EntityState, v: &Verdict) -> Vec<String> {
    let config = detector.config();
    let mut flaws = Vec::new();
    let mut check = |sound: bool, what: &str| {
        if !sound {
            flaws.push(format!("{what}: {v:?}"));
        }
    };
    let description = detector.description(v);
    check(description.starts_with(&config.metric_name), "description without the metric");
    if v.value.is_finite() && v.expected.is_finite() {
        check(description.contains(v.direction.as_str()), "description without the side");
        check(description.contains("threshold"), "description without the threshold");
        check(!description.contains("NaN"), "NaN in the description");
    }
    check(!detector.suggestion(v).is_empty(), "no suggestion");
    let metadata = state.model.metadata(v, detector.rule());
    // only a time may be out of reach of what JSON can say
    let unknown = metadata.iter().any(|(k, v)| v.is_null() && !k.ends_with("began"));
    let metadata = Value::Object(metadata).to_string();
    let known = !unknown && !metadata.contains("NaN");
    let sound = known || !v.value.is_finite() || v.expected.is_nan();
    check(sound && serde_json::from_str::<Value>(&metadata).is_ok(), &metadata);
    flaws
}

fn restored(detector: &Detector, state: &EntityState) -> EntityState {
    let bytes = detector.encode_state(state).unwrap();
    let back = detector.decode_state(&bytes).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(detector.encode_state(&back).unwrap(), bytes, "stored twice, different bytes");
    back
}

// ------------------------------------------------------------------------------------ bad input

struct Input {
    name: &'static str,
    zone: &'static str,
    samples: Vec<Sample>,
}

impl Input {
    /// Whether what is odd about it are its times: then values, kinds and rules are those of any input.
    fn is_about_time(&self) -> bool {
        let odd =
            ["time", "in ", "at 0", "between points", "apart", "unsorted", "backwards", "month"];
        self.zone != "UTC" || odd.iter().any(|word| self.name.contains(word))
    }
}

fn input(name: &'static str, samples: Vec<Sample>) -> Input {
    Input { name, zone: "UTC", samples }
}

fn timed(times: impl IntoIterator<Item = i64>, value: impl Fn(usize) -> f64) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for (i, at) in times.into_iter().enumerate() {
        samples.push(Sample { at, value: value(i), trials: f64::NAN, centre: 0.0 });
    }
    samples
}

fn inputs() -> Vec<Input> {
    let wave = |i: usize| 10.0 + libm::sin(i as f64 / 4.0) + ((i * 7919) % 13) as f64 / 20.0;
    let mut rng = Rng(3);
    let mut shuffled: Vec<i64> = (0..400).map(|i| MONDAY + i * MINUTE).collect();
    for i in (1..shuffled.len()).rev() {
        shuffled.swap(i, (rng.next() % (i as u64 + 1)) as usize);
    }
    let alternate = |a: f64, b: f64| plain((0..300).map(move |i| if i % 2 == 0 { a } else { b }));
    let every = |from: i64, step: i64, n: i64| (0..n).map(move |i| from + i * step);
    let mut all = vec![
        input("empty", vec![]),
        input("one point", plain([7.0])),
        input("one point of 0", plain([0.0])),
        input("two points", plain([1.0, 2.0])),
        input("two equal points", plain([4.0, 4.0])),
        input("all NaN", plain([f64::NAN; 200])),
        input("all infinite", plain([f64::INFINITY; 200])),
        input("both infinities", alternate(f64::INFINITY, f64::NEG_INFINITY)),
        input("every third value infinite", {
            let value = |i| if i % 3 == 0 { f64::NEG_INFINITY } else { wave(i) };
            plain((0..300).map(value))
        }),
        input("half NaN", plain((0..400).map(|i| if i % 2 == 0 { f64::NAN } else { wave(i) }))),
        input("constant", plain([42.5; 300])),
        input("constant 0", plain([0.0; 300])),
        input("constant -0", plain([-0.0; 300])),
        input("both zeros", alternate(0.0, -0.0)),
        input("constant, then one step", plain((0..300).map(|i| f64::from(i / 250)))),
        input("constant but for one", plain((0..300).map(|i| f64::from(u8::from(i == 150))))),
        input("constant 1e308", plain([1e308; 300])),
        input("constant MIN", plain([f64::MIN; 300])),
        input("alternating 1e308", alternate(1e308, -1e308)),
        input("alternating MAX and 0", alternate(f64::MAX, 0.0)),
        input("around 1e308", plain((0..300).map(|i| 1e308 + f64::from(i % 5) * 1e306))),
        input(
            "one 1e308 among ones",
            plain((0..300).map(|i| if i == 99 { 1e308 } else { wave(i) })),
        ),
        input("up to 1e308", plain((0..309).map(|i| libm::pow(10.0, f64::from(i))))),
        input("ramp to 1e308", plain((0..300).map(|i| f64::from(i) * 3e305))),
        input("zeros, 1e15 and -1e308", {
            let value = |i| match i {
                60 => 1e15,
                61 => -1e308,
                _ => 0.0,
            };
            plain((0..80).map(value))
        }),
        input("denormals", plain((0..300).map(|i| f64::from(i % 7) * 5e-324))),
        input("alternating denormals", alternate(5e-324, -5e-324)),
        input("from 1e-308 to 1e308", alternate(1e-308, 1e308)),
        input("1e15 and the last digit", plain((0..300).map(|i| 1e15 + f64::from(i % 3) * 0.125))),
        input("duplicates in time", timed((0..300).map(|i| MONDAY + i / 3 * MINUTE), wave)),
        input("all at one time", timed([MONDAY; 300], wave)),
        input("all at one time, constant", timed([MONDAY; 300], |_| 3.0)),
        input("unsorted", timed(shuffled, wave)),
        input("backwards", timed((0..300).map(|i| MONDAY - i * HOUR), wave)),
        input("in 1700", timed(every(-300 * 366 * DAY, HOUR, 300), wave)),
        input("at 0", timed(every(-150 * HOUR, HOUR, 300), wave)),
        input("in 290,000", timed(every(i64::MAX - 299 * HOUR, HOUR, 300), wave)),
        input("first times", timed(every(i64::MIN, HOUR, 300), wave)),
        input("first and last time", {
            timed((0..300).map(|i| if i % 2 == 0 { i64::MIN } else { i64::MAX }), wave)
        }),
        input("a year between points", timed(every(MONDAY, 365 * DAY, 250), wave)),
        input("a century between points", timed(every(MONDAY, 36_525 * DAY, 250), wave)),
        input("a microsecond apart", timed(every(MONDAY, 1, 300), wave)),
        input(
            "1.5 periods of a day",
            timed(every(MONDAY, 5 * MINUTE, 432), |i| {
                libm::sin(std::f64::consts::TAU * i as f64 / 288.0)
            }),
        ),
        input("half a period", plain((0..300).map(|i| libm::sin(f64::from(i) / 100.0)))),
        input("a hole of a month", {
            timed((0..400).map(|i| MONDAY + i * HOUR + if i < 200 { 0 } else { 30 * DAY }), wave)
        }),
    ];
    // Ten days with the clock change in the middle: 2024-03-31 and 2024-10-27; 03-10 and 11-03.
    for (name, zone, change) in [
        ("hour that does not exist, Berlin", "Europe/Berlin", 8_856),
        ("hour that comes twice, Berlin", "Europe/Berlin", 9_066),
        ("hour that does not exist, New York", "America/New_York", 8_835),
        ("hour that comes twice, New York", "America/New_York", 9_073),
    ] {
        let samples = timed(every((change - 7) * DAY, 15 * MINUTE, 10 * 96), |i| {
            50.0 + 20.0 * libm::sin(std::f64::consts::TAU * i as f64 / 96.0) + wave(i)
        });
        all.push(Input { name, zone, samples });
    }
    all
}

/// Around whatever the input was, and far from it.
const PROBES: [f64; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    10.5,
    42.5,
    1e15,
    5e-324,
    1e308,
    -1e308,
    f64::MAX,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

#[test]
fn fault_i1_i2_i3_i5_bad_input_gets_a_defined_verdict() {
    bad_input(&[
        (None, 1.0, Kind::Value),
        (Some(3.0), 1.0, Kind::Value),
        (None, 1.0, Kind::Count),
        (Some(3.0), 1.0, Kind::Ratio),
    ]);
}

/// Where the critical value itself overflows.
#[test]
fn fault_i3_bad_input_at_the_smallest_rate_gets_a_defined_verdict() {
    bad_input(&[(None, 1e-9, Kind::Value)]);
}

/// Threshold, alerts per day and kind of each detector.
fn bad_input(settings: &[(Option<f64>, f64, Kind)]) {
    let inputs = inputs();
    every(|strategy| {
        for &(threshold, alerts_per_day, kind) in settings.iter().filter(|s| takes(strategy, s.2)) {
            for input in some(strategy, 5, &inputs) {
                let Input { name, zone, samples } = input;
                if input.is_about_time() && (threshold.is_some() || kind != Kind::Value) {
                    continue;
                }
                let Some(detector) = detector_if(DetectorConfig {
                    threshold,
                    alerts_per_day,
                    time_zone: (*zone).into(),
                    min_data_points: 20,
                    ..of_kind(strategy, kind)
                }) else {
                    continue;
                };
                let context = format!("{strategy} {threshold:?} {alerts_per_day} {kind:?}, {name}");
                let sound = |state: &EntityState, verdict: &Verdict| {
                    let flaws = flaws(&detector, state, verdict);
                    assert!(flaws.is_empty(), "{context}: {flaws:#?}");
                };
                let mut fed = detector.new_state();
                for (i, s) in samples.iter().enumerate() {
                    let verdict = detector.process(&mut fed, None, &s.point()).verdict;
                    // texts cost more than all the rest
                    if i % 16 < 2 {
                        sound(&fed, &verdict);
                    } else {
                        let flaws = verdict_flaws(&detector, &verdict);
                        assert!(flaws.is_empty(), "{context}: {flaws:#?}");
                    }
                }
                let next = samples.last().map_or(MONDAY, |s| s.at.saturating_add(MINUTE));
                let trained = trained_on(&detector, samples);
                let finite = samples.iter().filter(|s| s.value.is_finite()).count() as u64;
                assert!(trained.model.count() <= finite, "{context}: learned what is not finite");
                for mut state in [trained, fed] {
                    let back = restored(&detector, &state);
                    for (at, trials) in [(next, f64::NAN), (i64::MIN, 10.0), (i64::MAX, 0.0)] {
                        for value in PROBES {
                            let point = Point { trials, ..Point::new(at, value) };
                            let verdict = detector.judge(&state, &point);
                            let flaws = verdict_flaws(&detector, &verdict);
                            assert!(flaws.is_empty(), "{context}: {flaws:#?}");
                            assert!(same(&verdict, &detector.judge(&back, &point)), "{context}");
                        }
                    }
                    for value in PROBES {
                        let verdict =
                            detector.process(&mut state, None, &Point::new(next, value)).verdict;
                        sound(&state, &verdict);
                    }
                    restored(&detector, &state);
                }
            }
        }
    });
}

/// What is not finite is neither learned nor remembered, and an infinity is always told.
#[test]
fn fault_i1_non_finite_values_change_nothing() {
    let history = series(Shape::White, Times::Every(MINUTE), 300, 1);
    every(|strategy| {
        let detector = detector(defaults(strategy));
        for n in [0, 1, 300] {
            let mut state = trained_on(&detector, &history.samples[..n]);
            let before = detector.encode_state(&state).unwrap();
            let at = MONDAY + 300 * MINUTE;
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                detector.train(&mut state, &Point::new(at, value));
                let after = detector.encode_state(&state).unwrap();
                assert_eq!(after, before, "{strategy} learned {value} after {n} points");
            }
            let nan = detector.process(&mut state, None, &Point::new(at, f64::NAN)).verdict;
            assert_eq!((nan.is_anomaly, nan.status), (false, Status::NonFinite), "{strategy}");
            assert_eq!(detector.encode_state(&state).unwrap(), before, "{strategy}: NaN");
            for value in [f64::INFINITY, f64::NEG_INFINITY] {
                let v = detector.process(&mut state, None, &Point::new(at, value)).verdict;
                assert!(v.is_anomaly && v.severity() == Severity::Emergency, "{strategy}: {v:?}");
                assert_eq!(state.model.count(), n as u64, "{strategy} learned {value}");
            }
        }
    });
}

/// Nor while an incident is going on.
#[test]
fn fault_i1_nan_changes_nothing_in_an_episode() {
    let history = series(Shape::White, Times::Every(MINUTE), 300, 1);
    every(|strategy| {
        let detector = detector(defaults(strategy));
        let mut state = trained_on(&detector, &history.samples);
        let at = MONDAY + 300 * MINUTE;
        detector.process(&mut state, None, &Point::new(at, 1e6));
        let before = detector.encode_state(&state).unwrap();
        detector.process(&mut state, None, &Point::new(at + MINUTE, f64::NAN));
        assert!(detector.encode_state(&state).unwrap() == before, "{strategy}");
    });
}

/// What is constant, or nothing but its course, up to the last digits that arithmetic leaves.
#[test]
fn rounding_noise_is_no_anomaly() {
    let ulps = |rng: &mut Rng| f64::EPSILON * libm::rint(rng.uniform() * 5.0 - 2.5);
    // the sum of a row's parts, in an order that differs from row to row
    let sum = |rng: &mut Rng| {
        let parts = [0.1, 0.2, 0.3, 0.4, 0.7];
        let first = (rng.next() % 5) as usize;
        (0..5).map(|i| parts[(first + i) % 5]).sum::<f64>()
    };
    type Value<'a> = &'a dyn Fn(i64, &mut Rng) -> f64;
    let cases: [(&str, Value); 5] = [
        ("0.3", &|_, rng| 0.3 * (1.0 + ulps(rng))),
        ("-1e9", &|_, rng| -1e9 * (1.0 + ulps(rng))),
        ("1e-9", &|_, rng| 1e-9 * (1.0 + ulps(rng))),
        ("rarely", &|i, rng| 100.0 * (1.0 + if i % 97 == 0 { 4.0 * ulps(rng) } else { 0.0 })),
        ("a sum", &|_, rng| sum(rng)),
    ];
    let day: Value =
        &|i, rng| if i % 24 < 12 { 5.3 - 0.3 + ulps(rng) } else { 0.1 + 0.2 + ulps(rng) };
    each(&others(&["flat_line", "threshold"]), |strategy| {
        let forecasts = ["regression", "holt_winters"].contains(&strategy);
        let of_day = forecasts.then_some(("half days", day));
        for threshold in [None, Some(3.0)] {
            let config = DetectorConfig {
                threshold,
                alerts_per_day: 1e-3,
                points_per_day: Some(1.0),
                ..defaults(strategy)
            };
            let Some(detector) = detector_if(config) else { continue };
            for (name, value) in cases.into_iter().chain(of_day) {
                let mut rng = Rng(5);
                let mut state = detector.new_state();
                for i in 0..1500 {
                    let point = Point::new(MONDAY + i * HOUR, value(i, &mut rng));
                    if i < 800 {
                        detector.train(&mut state, &point);
                        continue;
                    }
                    let v = detector.process(&mut state, None, &point).verdict;
                    assert!(!v.is_anomaly, "{strategy} {threshold:?}, {name} at {i}: {v:?}");
                }
                // and what is no rounding noise is seen, by what looks at single values
                let level = value(1500, &mut rng);
                let v =
                    detector.judge(&state, &Point::new(MONDAY + 1500 * HOUR, 1e6 + 3.0 * level));
                let blind = RANGE_OF_LEVEL.contains(&strategy) || level.abs() > 1e8;
                assert!(blind || v.deviation() > 3.0, "{strategy} {threshold:?}, {name}: {v:?}");
            }
        }
    });
}

// ----------------------------------------------------------------------------------------- fuzz

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -100.0..100.0f64,
        8 => (0..3i32).prop_map(f64::from),
        2 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => prop::sample::select(vec![0.0, -0.0, 1e308, -1e308, f64::MAX, 5e-324, 1e-300, 1e15]),
        1 => any::<f64>(),
    ]
}

fn any_gap() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => Just(MINUTE),
        4 => Just(HOUR),
        2 => Just(0),
        2 => -DAY..DAY,
        1 => any::<i64>(),
    ]
}

#[derive(Clone)]
struct Row {
    gap: i64,
    value: f64,
    trials: f64,
    features: Vec<f64>,
}

/// On one line, for a failure has hundreds of them.
impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after {} us {:?} of {} {:?}", self.gap, self.value, self.trials, self.features)
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let trials =
        prop::sample::select(vec![f64::NAN, 0.0, 1.0, 12.0, 1e4, 0.5, -3.0, 1e308, f64::INFINITY]);
    let features = prop_oneof![
        9 => Just(vec![]),
        1 => prop::collection::vec(any_value(), 0..4),
    ];
    (any_gap(), any_value(), trials, features).prop_map(|(gap, value, trials, features)| Row {
        gap,
        value,
        trials,
        features,
    })
}

/// Lengths 0 to 300; one in four has the same value most of the time.
fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    (prop::collection::vec(any_row(), 0..=300), 0..4u8, any_value()).prop_map(
        |(mut rows, tie, value)| {
            if tie == 0 {
                for row in rows.iter_mut().step_by(2) {
                    row.value = value;
                }
            }
            rows
        },
    )
}

fn any_config() -> impl Strategy<Value = DetectorConfig> {
    let threshold = prop_oneof![3 => Just(None), 3 => (0.01..10.0f64).prop_map(Some), 1 => Just(Some(1e-300)), 1 => Just(Some(1e300))];
    let rate = prop::sample::select(vec![1e-9, 0.01, 1.0, 24.0, 1e4, 1e12]);
    let points = prop::sample::select(vec![None, Some(1e-3), Some(24.0), Some(1e9)]);
    let side = prop::sample::select(vec![None, Some(Direction::High), Some(Direction::Low)]);
    let effect = prop::sample::select(vec![0.0, 0.0, 1e-300, 0.5, 20.0, 1e308]);
    let zone = prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
    ]);
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let counts = (2..200u64, 1..5u32, 1..5u32);
    (threshold, rate, points, side, (effect.clone(), effect), zone, kind, counts).prop_map(
        |(threshold, alerts_per_day, points_per_day, direction, effects, zone, kind, counts)| {
            DetectorConfig {
                threshold,
                alerts_per_day,
                points_per_day,
                direction,
                min_effect: effects.0,
                min_relative_effect: effects.1,
                time_zone: zone.into(),
                kind,
                min_data_points: counts.0,
                fire_after: counts.1,
                clear_after: counts.2,
                ..DetectorConfig::default()
            }
        },
    )
}

/// Cases for each strategy: an eighth of proptest's own number in full, else a quarter of that; the
/// same in every run unless PROPTEST_CASES asks for another number.
fn runner() -> TestRunner {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        cases: (default.cases / if asked || common::in_full() { 8 } else { 32 }).max(1),
        max_shrink_iters: 1024,
        failure_persistence: None,
        ..default
    };
    if asked {
        return TestRunner::new(config);
    }
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Any rows, any settings, stored and read at any place: a defined verdict each, and the same one as
/// without the interruption.
#[test]
fn fuzz_verdicts_are_defined_and_survive_stop_and_start() {
    every(|strategy| {
        let own = detector(defaults(strategy));
        let (tells_once, has_sides) = (own.strategy().tells_once(), own.strategy().has_sides());
        let takes = own.strategy().features();
        let cases = (any_config(), any_rows(), prop::collection::vec(0..300usize, 0..4));
        let run = runner().run(&cases, |(config, rows, cuts)| {
            let Some(detector) = detector_if(DetectorConfig {
                strategy: strategy.into(),
                params: common::available::needed_params(strategy),
                fire_after: if tells_once { 1 } else { config.fire_after },
                direction: config.direction.filter(|_| has_sides),
                min_effect: if has_sides { config.min_effect } else { 0.0 },
                min_relative_effect: if has_sides { config.min_relative_effect } else { 0.0 },
                kind: of_kind(strategy, config.kind).kind,
                // auto is another one with them
                features: ["a", "b"]
                    .iter()
                    .take(takes.min(cuts.len()))
                    .map(|f| f.to_string())
                    .collect(),
                ..config
            }) else {
                return Ok(());
            };
            let mut state = detector.new_state();
            let mut stopped = detector.new_state();
            let mut at = MONDAY;
            for (i, row) in rows.iter().enumerate() {
                at = at.wrapping_add(row.gap);
                let point =
                    Point { at, value: row.value, trials: row.trials, features: &row.features };
                if cuts.contains(&i) {
                    stopped = restored(&detector, &stopped);
                }
                let judged = detector.judge(&state, &point);
                let outcome = detector.process(&mut state, None, &point);
                let again = detector.process(&mut stopped, None, &point);
                let verdict = &outcome.verdict;
                prop_assert!(
                    same(verdict, &again.verdict),
                    "{:?} is not {:?}",
                    verdict,
                    again.verdict
                );
                prop_assert_eq!(outcome.transition.is_some(), again.transition.is_some());
                prop_assert_eq!(verdict.ln_p(), judged.ln_p(), "judge and process differ");
                let flaws = flaws(&detector, &state, verdict);
                prop_assert!(flaws.is_empty(), "{:#?}", flaws);
            }
            let bytes = detector.encode_state(&state).unwrap();
            prop_assert_eq!(&bytes, &detector.encode_state(&stopped).unwrap());
            restored(&detector, &state);
            Ok(())
        });
        assert!(run.is_ok(), "{strategy}: {}", run.unwrap_err());
    });
}

// -------------------------------------------------------------------------------------- storage

/// A realistic state with an episode open.
fn stored(detector: &Detector) -> Vec<u8> {
    let shape = Shape::Seasonal { weekly: false, trend: 0.1 };
    let history = series(shape, Times::Every(HOUR), 400, 9);
    let mut state = trained_on(detector, &history.samples);
    let last = history.samples[399];
    detector.process(&mut state, None, &Point::new(last.at + HOUR, last.value + 900.0));
    detector.encode_state(&state).unwrap()
}

/// What decodes must also be usable.
fn use_state(detector: &Detector, bytes: &[u8]) {
    let Ok(mut state) = detector.decode_state(bytes) else { return };
    for i in 0..40i64 {
        let value =
            [1.0, 100.0, -1e300, 1e300, f64::NAN, f64::INFINITY, 5e-324, 60.0][i as usize % 8];
        let outcome = detector.process(&mut state, None, &Point::new(MONDAY + i * HOUR, value));
        let _ = (outcome.verdict.deviation(), detector.description(&outcome.verdict));
        let _ = Value::Object(state.model.metadata(&outcome.verdict, detector.rule())).to_string();
        let _ = Value::Object(state.model.explain()).to_string();
    }
    for i in 0..200i64 {
        let at = MONDAY + (500 + i) * HOUR;
        detector.process(&mut state, None, &Point::new(at, 100.0 + (i % 24) as f64));
    }
    detector.encode_state(&state).unwrap();
}

#[test]
fn damaged_states_are_refused() {
    every(|strategy| {
        let detector = detector(defaults(strategy));
        let bytes = stored(&detector);
        assert!(detector.decode_state(&bytes).is_ok(), "{strategy}");
        let step = (bytes.len() / 200).max(1);
        for i in (0..bytes.len()).filter(|i| i % step == 0 || *i < 32) {
            let cut = detector.decode_state(&bytes[..i]).err();
            assert!(matches!(cut, Some(Error::Corrupted(_))), "{strategy} cut at {i}: {cut:?}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[i] ^= 1 << bit;
                let error = detector.decode_state(&damaged).err();
                let named = matches!(error, Some(Error::Corrupted(_) | Error::NewerFormat(_)));
                assert!(named, "{strategy}, bit {bit} of byte {i}: {error:?}");
            }
        }
        for other in others(&[strategy]) {
            let foreign = common::available::detector(defaults(other)).decode_state(&bytes).err();
            assert!(matches!(foreign, Some(Error::Corrupted(_))), "{strategy} read as {other}");
        }
    });
}

#[test]
fn fuzz_arbitrary_and_damaged_payloads_never_panic() {
    every(|strategy| {
        let detector = detector(DetectorConfig { min_data_points: 10, ..defaults(strategy) });
        let algorithm = detector.strategy().algorithm();
        let sound = stored(&detector);
        let (_, payload) = codec::unwrap(&sound).unwrap();
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        let extreme = prop::collection::vec((any::<prop::sample::Index>(), any::<f64>()), 0..3);
        let noise = prop::collection::vec(any::<u8>(), 0..600);
        let cut = (any::<prop::sample::Index>(), any::<bool>());
        let run = runner().run(&(edits, extreme, noise, cut), |(edits, extreme, noise, cut)| {
            let _ = detector.decode_state(&noise);
            use_state(&detector, &codec::wrap(algorithm, &noise).unwrap());
            let mut damaged = payload.to_vec();
            for (at, byte) in edits {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            for (at, figure) in extreme {
                let at = at.index(damaged.len() - 8);
                damaged[at..at + 8].copy_from_slice(&figure.to_le_bytes());
            }
            if cut.1 {
                damaged.truncate(cut.0.index(damaged.len()));
            }
            use_state(&detector, &codec::wrap(algorithm, &damaged).unwrap());
            Ok(())
        });
        assert!(run.is_ok(), "{strategy}: {}", run.unwrap_err());
    });
}

/// Bytes a stored state may have, whatever it has seen.
fn state_limit(strategy: &str) -> usize {
    match strategy {
        "zscore" | "iqr" | "mad" | "ewma" | "cusum" => 2_048,
        "seasonal" => 16_384,
        _ => 65_536,
    }
}

#[test]
fn states_are_bounded_after_20_000_points() {
    let mut history =
        series(Shape::Seasonal { weekly: true, trend: 0.3 }, Times::Every(15 * MINUTE), 20_000, 4);
    let mut rng = Rng(5);
    for s in &mut history.samples {
        s.value += rng.t4() * 4.0;
    }
    every(|strategy| {
        let detector = detector(defaults(strategy));
        let mut state = detector.new_state();
        let mut largest = 0;
        for (i, s) in history.samples.iter().enumerate() {
            detector.process(&mut state, None, &s.point());
            if i % 1000 == 999 {
                largest = largest.max(detector.encode_state(&state).unwrap().len());
            }
        }
        println!("{strategy}: {largest} bytes");
        let limit = state_limit(strategy);
        assert!(largest <= limit, "{strategy}: {largest} bytes, more than {limit}");
    });
}

// ------------------------------------------------------------------------- learning and judging

/// From history at once, in pieces with a restart between them, or point by point while it is being
/// watched: the same bytes, and so the same next verdict.
#[test]
fn training_in_pieces_or_point_by_point_is_the_same() {
    every(|strategy| {
        for (i, (name, shape, times)) in some(strategy, 4, SHAPES.iter().enumerate()) {
            let history = series(*shape, *times, 700, i as u64);
            let detector = detector(DetectorConfig {
                // never warm: everything is learned, whatever it looks like
                min_data_points: u64::MAX,
                ..of_kind(strategy, history.kind)
            });
            let whole = detector.encode_state(&trained_on(&detector, &history.samples)).unwrap();
            let mut pieces = detector.new_state();
            let mut fed = detector.new_state();
            let mut rng = Rng(i as u64);
            for s in &history.samples {
                if rng.uniform() < 0.01 {
                    pieces = restored(&detector, &pieces);
                }
                detector.train(&mut pieces, &s.point());
                detector.process(&mut fed, None, &s.point());
            }
            let pieces = detector.encode_state(&pieces).unwrap();
            assert!(pieces == whole, "{strategy}, {name}: in pieces differs from at once");
            let fed = detector.encode_state(&fed).unwrap();
            assert!(fed == whole, "{strategy}, {name}: point by point differs from at once");
        }
    });
}

#[test]
fn stop_and_start_gives_the_same_next_verdicts_on_every_shape() {
    every(|strategy| {
        for (i, (name, shape, times)) in some(strategy, 4, SHAPES.iter().enumerate()) {
            let mut all = series(*shape, *times, 900, 100 + i as u64);
            all.inject(650, Anomaly::Spike(12.0));
            all.inject(700, Anomaly::LevelShift(8.0));
            let detector = detector(of_kind(strategy, all.kind));
            let mut rng = Rng(i as u64);
            let cut = 500 + (rng.next() % 350) as usize;
            let (history, rest) = all.split(400);
            let mut state = trained_on(&detector, history);
            let mut stopped = trained_on(&detector, history);
            for (k, s) in rest.iter().enumerate() {
                if k + 400 == cut || rng.uniform() < 0.005 {
                    stopped = restored(&detector, &stopped);
                }
                let a = detector.process(&mut state, None, &s.point());
                let b = detector.process(&mut stopped, None, &s.point());
                let at = k + 400;
                assert!(same(&a.verdict, &b.verdict), "{strategy}, {name}, {at}: {a:?} {b:?}");
                assert_eq!(a.transition.is_some(), b.transition.is_some(), "{strategy}, {name}");
                assert_eq!(a.metadata, b.metadata, "{strategy}, {name}, {at}");
            }
        }
    });
}

/// Bounds and expected value come from the past and the time, never from the value itself; and
/// judging changes nothing.
#[test]
fn bounds_do_not_depend_on_the_tested_value() {
    every(|strategy| {
        for (i, (name, shape, times)) in some(strategy, 4, SHAPES.iter().enumerate()) {
            let all = series(*shape, *times, 520, 200 + i as u64);
            for threshold in [None, Some(3.0)] {
                let Some(detector) =
                    detector_if(DetectorConfig { threshold, ..of_kind(strategy, all.kind) })
                else {
                    continue;
                };
                let (history, rest) = all.split(500);
                let mut state = trained_on(&detector, history);
                for s in rest {
                    let before = detector.encode_state(&state).unwrap();
                    let own = detector.judge(&state, &s.point());
                    for value in [
                        s.value,
                        s.value + all.spread,
                        s.value - 4.0 * all.spread,
                        0.0,
                        -1.0,
                        1e3,
                        1e12,
                        -1e12,
                        f64::MAX,
                        5e-324,
                    ] {
                        let other = detector.judge(&state, &s.with(value).point());
                        let figures =
                            |v: &Verdict| [v.expected, v.lower, v.upper].map(f64::to_bits);
                        assert_eq!(
                            figures(&own),
                            figures(&other),
                            "{strategy} {threshold:?}, {name}: {own:?} but {other:?}"
                        );
                    }
                    assert!(before == detector.encode_state(&state).unwrap(), "{strategy}: judge");
                    detector.process(&mut state, None, &s.point());
                }
            }
        }
    });
}

/// The further a spike or drop goes, the larger its deviation, and once an anomaly always one.
#[test]
fn monotone_a_larger_spike_or_drop_never_scores_lower() {
    every(|strategy| {
        for seed in some(strategy, 5, 0..20) {
            for kind in Kind::ALL {
                let (shape, times) = match kind {
                    Kind::Value => (SHAPES[seed % SHAPES.len()].1, SHAPES[seed % SHAPES.len()].2),
                    Kind::Count => (
                        Shape::Poisson { rate: [0.3, 2.0, 9.0, 50.0][seed % 4] },
                        Times::Every(MINUTE),
                    ),
                    Kind::Ratio => {
                        let share = [0.01, 0.2, 0.97][seed % 3];
                        (Shape::Ratio { share, trials: 50.0 }, Times::Every(MINUTE))
                    }
                };
                let history = series(shape, times, 150 + 20 * seed, 300 + seed as u64);
                for threshold in [None, Some(3.0)] {
                    let Some(detector) =
                        detector_if(DetectorConfig { threshold, ..of_kind(strategy, kind) })
                    else {
                        continue;
                    };
                    let state = trained_on(&detector, &history.samples);
                    monotone(
                        &detector,
                        &state,
                        &history,
                        &format!("{strategy} {threshold:?} {kind:?}, seed {seed}, {shape:?}"),
                    );
                }
            }
        }
    });
}

fn monotone(detector: &Detector, state: &EntityState, history: &Series, context: &str) {
    let last = *history.samples.last().unwrap();
    let next = Sample { at: last.at + history.step, ..last };
    let judge = |value: f64| detector.judge(state, &next.with(value).point());
    let expected = judge(last.value).expected;
    let centre = if expected.is_finite() { expected } else { last.value };
    for side in [1.0, -1.0] {
        let mut before = judge(centre);
        let mut size = 1e-3;
        while size <= 1e12 {
            let verdict = judge(centre + side * size);
            assert!(
                verdict.deviation() >= before.deviation() * (1.0 - 1e-9),
                "{context}: {} at {}, {} at {}, expected {expected}",
                verdict.deviation(),
                verdict.value,
                before.deviation(),
                before.value,
            );
            assert!(
                verdict.is_anomaly || !before.is_anomaly,
                "{context}: no anomaly at {} but at {}",
                verdict.value,
                before.value
            );
            before = verdict;
            size *= 1.37;
        }
    }
}

// ------------------------------------------------------------------------ checklist, all strategies

/// A range in the metric's own unit, wherever the series has a level.
#[test]
fn check_c28_every_strategy_gives_an_expected_range() {
    let history = series(Shape::White, Times::Every(MINUTE), 1500, 6);
    every(|strategy| {
        for threshold in [None, Some(3.0)] {
            let Some(detector) = detector_if(DetectorConfig { threshold, ..defaults(strategy) })
            else {
                continue;
            };
            let state = trained_on(&detector, &history.samples);
            let v = detector.judge(&state, &Point::new(MONDAY + 1500 * MINUTE, 103.0));
            assert!(
                v.lower.is_finite() && v.upper.is_finite() && v.expected.is_finite(),
                "{strategy} {threshold:?}: {v:?}"
            );
            // a threshold below every usual statistic leaves no width
            let width = v.lower < v.upper || threshold.is_some() && v.lower == v.upper;
            assert!(width, "{strategy} {threshold:?}: {v:?}");
            if strategy != "threshold" {
                let near = |x: f64| (x - 100.0).abs() < 300.0;
                assert!(near(v.lower) && near(v.upper) && near(v.expected), "{strategy}: {v:?}");
            }
        }
    });
}

/// Whose range is one of the level, not of a single value: no value of one point alone is a shift.
const RANGE_OF_LEVEL: [&str; 4] = ["level_shift", "changepoint", "volatility_shift", "flat_line"];

/// Inside its own range nothing is anomalous, outside everything is.
#[test]
fn check_c28_the_range_is_where_anomalies_begin() {
    each(&others(&RANGE_OF_LEVEL), |strategy| {
        for (i, (name, shape, times)) in some(strategy, 4, SHAPES.iter().enumerate()) {
            let all = series(*shape, *times, 560, 400 + i as u64);
            for threshold in [None, Some(3.0)] {
                let Some(detector) =
                    detector_if(DetectorConfig { threshold, ..of_kind(strategy, all.kind) })
                else {
                    continue;
                };
                let (history, rest) = all.split(500);
                let mut state = trained_on(&detector, history);
                for s in rest {
                    let v = detector.judge(&state, &s.point());
                    if v.lower.is_nan() {
                        continue;
                    }
                    // rounding, and a range without width
                    let slack = 1e-6 * (v.upper - v.lower) + 1e-9 * (v.upper.abs() + v.lower.abs());
                    let slack = slack.max(1e-9 * all.spread);
                    let judge = |x: f64| detector.judge(&state, &s.with(x).point()).is_anomaly;
                    let far = [v.expected - 1e9 * all.spread, v.expected + 1e9 * all.spread];
                    if strategy == "cusum" && far.iter().any(|x| !judge(*x)) {
                        continue; // silent after a signal, whatever comes
                    }
                    let context = format!("{strategy} {threshold:?}, {name}: {v:?}");
                    if v.upper.is_finite() {
                        assert!(
                            !judge(v.upper - slack) || v.upper - v.lower <= 2.0 * slack,
                            "inside upper, {context}"
                        );
                        assert!(judge(v.upper + slack), "above upper, {context}");
                    }
                    if v.lower.is_finite() {
                        assert!(
                            !judge(v.lower + slack) || v.upper - v.lower <= 2.0 * slack,
                            "inside lower, {context}"
                        );
                        assert!(judge(v.lower - slack), "below lower, {context}");
                    }
                    detector.process(&mut state, None, &s.point());
                }
            }
        }
    });
}

/// Two entities of different levels are each judged by their own history; a young one by the shared.
#[test]
fn check_c29_every_entity_has_its_own_baseline() {
    each(&others(&["threshold"]), |strategy| {
        let detector = detector(DetectorConfig { threshold: None, ..defaults(strategy) });
        let low = series(Shape::White, Times::Every(MINUTE), 600, 7);
        let mut high = series(Shape::White, Times::Every(MINUTE), 600, 8);
        high.inject(0, Anomaly::LevelShift(100.0));
        let (a, b) = (trained_on(&detector, &low.samples), trained_on(&detector, &high.samples));
        let next = MONDAY + 600 * MINUTE;
        let expected = |state, value| detector.judge(state, &Point::new(next, value)).expected;
        assert!((expected(&a, 100.0) - 100.0).abs() < 60.0, "{strategy}");
        assert!((expected(&b, 600.0) - 600.0).abs() < 60.0, "{strategy}");

        let mut shared = detector.new_state();
        for (x, y) in low.samples.iter().zip(&high.samples) {
            detector.train(&mut shared, &x.point());
            detector.train(&mut shared, &y.point());
        }
        shared.entities = 2;
        let mut young = detector.new_state();
        for i in 0..150 {
            let point = Point::new(next + i * MINUTE, 100.0 + (i % 5) as f64);
            let have = young.model.count();
            let verdict = detector.process(&mut young, Some(&shared), &point).verdict;
            let flaws = flaws(&detector, if have < 100 { &shared } else { &young }, &verdict);
            assert!(flaws.is_empty(), "{strategy}: {flaws:#?}");
            let status = if have < 100 { Status::Warming { have, need: 100 } } else { Status::Ok };
            assert_eq!(verdict.status, status, "{strategy} at {i}");
        }
    });
}

/// An anomaly on the other side, or smaller than anybody cares for, is none; an infinity is one.
#[test]
fn side_and_size_decide_for_every_strategy() {
    let history = series(Shape::White, Times::Every(MINUTE), 600, 10);
    let at = MONDAY + 600 * MINUTE;
    every(|strategy| {
        if !detector(defaults(strategy)).strategy().has_sides() {
            let with = |config| Detector::new(config).err();
            for refused in [
                with(DetectorConfig { direction: Some(Direction::High), ..defaults(strategy) }),
                with(DetectorConfig { min_effect: 1.0, ..defaults(strategy) }),
                with(DetectorConfig { min_relative_effect: 0.1, ..defaults(strategy) }),
            ] {
                let hint = match refused {
                    Some(Error::InvalidParameter { hint, .. }) => hint,
                    other => panic!("{strategy}: {other:?}"),
                };
                assert!(hint.contains("Leave them out"), "{hint}");
            }
            return;
        }
        for (direction, min_effect) in
            [(None, 0.0), (Some(Direction::High), 0.0), (Some(Direction::Low), 0.0), (None, 500.0)]
        {
            let detector = detector(DetectorConfig { direction, min_effect, ..defaults(strategy) });
            let state = trained_on(&detector, &history.samples);
            for value in [-5000.0, -200.0, 0.0, 90.0, 110.0, 200.0, 400.0, 5000.0] {
                let v = detector.judge(&state, &Point::new(at, value));
                let wrong_side = match direction {
                    None => false,
                    Some(Direction::Low) => v.value >= v.expected,
                    Some(_) => v.value <= v.expected,
                };
                let small = (v.value - v.expected).abs() < min_effect;
                assert!(!v.is_anomaly || !wrong_side && !small, "{strategy}: {v:?}");
                let rare = v.ln_p() < detector.rule().ln_alpha;
                assert!(v.is_anomaly || wrong_side || small || !rare, "{strategy}: {v:?}");
            }
        }
    });
}

/// What is said of a point beforehand is what is said of it when it comes, and asking changes nothing:
/// warm or warming, with a shared model or without.
#[test]
fn check_write_time_a_preview_is_what_process_says() {
    every(|strategy| {
        for (i, (name, shape, times)) in some(strategy, 6, SHAPES.iter().enumerate()) {
            let mut history = series(*shape, *times, 500, i as u64);
            history.inject(450, Anomaly::LevelShift(60.0));
            let detector = detector(of_kind(strategy, history.kind));
            let (old, new) = history.samples.split_at(400);
            let mut shared = detector.new_state();
            for s in old {
                detector.train(&mut shared, &s.point());
            }
            shared.entities = 2;
            let mut young = detector.new_state();
            let mut trained = trained_on(&detector, old);
            for s in new {
                for (state, shared) in [(&mut trained, None), (&mut young, Some(&shared))] {
                    let before = detector.encode_state(state).unwrap();
                    let said = detector.preview(state, shared, &s.point());
                    let after = detector.encode_state(state).unwrap();
                    assert!(before == after, "{strategy}, {name}: asking has changed the state");
                    let came = detector.process(state, shared, &s.point()).verdict;
                    // Compared as text, because NaN is not equal to itself.
                    assert_eq!(format!("{said:?}"), format!("{came:?}"), "{strategy}, {name}");
                }
            }
        }
    });
}
