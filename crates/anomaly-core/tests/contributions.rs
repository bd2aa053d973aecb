//! Which column makes a point unusual: what every strategy says that looks at several.

mod common;

use anomaly_core::{Detector, DetectorConfig, EntityState, Point};
use common::{Rng, config};
use serde_json::{Value, json};

const HOUR: i64 = 3_600_000_000;
const SERIES: u64 = 5;
const ANOMALIES: usize = 200;

/// A value that follows its first column, and two columns that say nothing about it.
fn row(rng: &mut Rng) -> (f64, [f64; 3]) {
    let users = rng.normal();
    let columns = [1000.0 + 100.0 * users, 5.0 + rng.normal(), 0.01 * rng.normal()];
    (50.0 + 8.0 * users + 6.0 * rng.normal(), columns)
}

/// Standard deviations of the value and of each column.
const SPREADS: [f64; 4] = [10.0, 100.0, 1.0, 0.01];

fn largest(shares: &[f64]) -> usize {
    assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)), "{shares:?}");
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap()
}

fn detector(strategy: &str, params: Value) -> Detector {
    Detector::new(DetectorConfig { params, ..config(strategy) }).unwrap()
}

fn trained(
    detector: &Detector,
    rng: &mut Rng,
    rows: i64,
    mut row: impl FnMut(&mut Rng) -> (f64, [f64; 3]),
) -> EntityState {
    let mut state = detector.new_state();
    for i in 0..rows {
        let (value, features) = row(rng);
        let point = Point::new(i * HOUR, value);
        detector.train(&mut state, &Point { features: &features, ..point });
    }
    state
}

/// One of 1,000 anomalies has one column of four 5 to 20 standard deviations off.
#[test]
fn the_planted_column_contributes_most() {
    for (strategy, params) in [
        ("isolation_forest", json!({})),
        ("one_class_svm", json!({})),
        ("autoencoder", json!({})),
        ("random_cut_forest", json!({})),
        ("ensemble", json!({})),
        ("auto", json!({})),
    ] {
        let features = ["users", "a", "b"].map(str::to_owned).to_vec();
        let config = DetectorConfig { params, features, ..config(strategy) };
        let detector = Detector::new(config).unwrap();
        let (mut right, mut flagged) = ([0; 4], 0);
        for seed in 0..SERIES {
            let mut rng = Rng(100 + seed);
            let state = trained(&detector, &mut rng, 1000, row);
            for i in 0..ANOMALIES {
                let (mut value, mut features) = row(&mut rng);
                let planted = i % 4;
                let size = (5.0 + 15.0 * rng.uniform()) * SPREADS[planted];
                let size = if rng.uniform() < 0.5 { size } else { -size };
                match planted {
                    0 => value += size,
                    j => features[j - 1] += size,
                }
                let point = Point { features: &features, ..Point::new(1000 * HOUR, value) };
                flagged += usize::from(detector.judge(&state, &point).is_anomaly);
                let shares = state.model.contributions(&point).unwrap();
                assert_eq!(shares.len(), 4);
                right[planted] += usize::from(largest(&shares) == planted);
            }
        }
        println!("{strategy}: {right:?} right, {flagged} flagged of 1000");
        let all: usize = right.iter().sum();
        assert!(all >= 900 && right.iter().all(|n| *n >= 200), "{strategy}: {right:?}");
    }
}

/// A recurrent network looks at the columns of the rows before: planted there, or in the value.
#[test]
fn the_planted_column_contributes_most_to_an_error_of_lstm() {
    let detector = detector("lstm", json!({"lstm_units": 8, "sequence_length": 4}));
    let (mut right, mut used) = ([0; 2], 0);
    for seed in 0..SERIES {
        let mut rng = Rng(200 + seed);
        // the value follows its first column by an hour
        let mut before = 0.0;
        let mut row = |rng: &mut Rng| {
            let value = 50.0 + 10.0 * before + rng.normal();
            before = rng.normal();
            (value, [1000.0 + 100.0 * before, 5.0 + rng.normal(), 0.01 * rng.normal()])
        };
        let mut state = trained(&detector, &mut rng, 767, &mut row);
        used += usize::from(state.model.explain()["status"] == "in use");
        // usual in all its columns
        let features = [1000.0, 5.0, 0.0];
        detector.train(&mut state, &Point { features: &features, ..Point::new(767 * HOUR, 50.0) });
        let bytes = detector.encode_state(&state).unwrap();
        let now = 769 * HOUR;
        for i in 0..ANOMALIES {
            let planted = i % 2;
            let size = 4.0 + 4.0 * rng.uniform();
            let size = if rng.uniform() < 0.5 { size } else { -size };
            let mut features = [1000.0, 5.0 + rng.normal(), 0.01 * rng.normal()];
            let mut value = 50.0 + rng.normal();
            match planted {
                0 => value += 10.0 * size,
                _ => features[0] += 100.0 * size,
            }
            let mut state = detector.decode_state(&bytes).unwrap();
            let point = Point::new(768 * HOUR, 50.0 + rng.normal());
            detector.train(&mut state, &Point { features: &features, ..point });
            let point = Point { features: &[1000.0, 5.0, 0.0], ..Point::new(now, value) };
            let shares = state.model.contributions(&point).unwrap();
            assert_eq!(shares.len(), 4);
            right[planted] += usize::from(largest(&shares) == planted);
        }
    }
    println!("lstm: {right:?} right of 1000, {used} networks of {SERIES} in use");
    assert_eq!(used as u64, SERIES);
    assert!(right[0] + right[1] >= 900 && right.iter().all(|n| *n >= 425), "{right:?}");
}

/// As many columns as are looked at: an outlier in the last of them is found and named, and the state
/// stays as small; one more is not looked at.
#[test]
fn sixteen_columns_are_looked_at() {
    for strategy in ["isolation_forest", "one_class_svm", "autoencoder"] {
        let detector = detector(strategy, json!({"contamination": 0.01}));
        let mut rng = Rng(16);
        let mut state = detector.new_state();
        for i in 0..700 {
            let features: Vec<f64> = (0..17).map(|_| rng.normal()).collect();
            let point = Point::new(i * HOUR, rng.normal());
            detector.train(&mut state, &Point { features: &features, ..point });
        }
        let judge = |column: usize, value: f64| {
            let mut features = [0.5; 17];
            features[column] = value;
            let point = Point { features: &features, ..Point::new(700 * HOUR, 0.0) };
            (detector.judge(&state, &point), state.model.contributions(&point))
        };
        let (far, shares) = judge(15, 20.0);
        assert!(far.is_anomaly, "{strategy}: {far:?}");
        let shares = shares.unwrap();
        assert_eq!((shares.len(), largest(&shares)), (17, 16), "{strategy}");
        assert_eq!(judge(16, 20.0).0.ln_p(), judge(16, 0.5).0.ln_p(), "{strategy}");
        let bytes = detector.encode_state(&state).unwrap().len();
        println!("{strategy}: {bytes} bytes");
        assert!(bytes < 81_920, "{strategy}: {bytes}");
        assert!(detector.decode_state(&detector.encode_state(&state).unwrap()).is_ok());
    }
}

/// The alert has them, in the order of the columns; a series of one column has none.
#[test]
fn alerts_say_what_each_column_contributes() {
    for strategy in ["isolation_forest", "one_class_svm", "autoencoder", "random_cut_forest"] {
        let detector = detector(strategy, json!({}));
        let mut rng = Rng(7);
        let mut state = trained(&detector, &mut rng, 600, row);
        let features = [1000.0, 40.0, 0.0];
        let point = Point { features: &features, ..Point::new(600 * HOUR, 50.0) };
        let metadata = detector.process(&mut state, None, &point).metadata.unwrap();
        let shares: Vec<f64> = serde_json::from_value(metadata["contributions"].clone()).unwrap();
        assert_eq!((shares.len(), largest(&shares)), (4, 2), "{strategy}: {metadata:?}");

        let mut state = detector.new_state();
        for i in 0..600 {
            detector.train(&mut state, &Point::new(i * HOUR, row(&mut rng).0));
        }
        let point = Point::new(600 * HOUR, 1e6);
        let metadata = detector.process(&mut state, None, &point).metadata.unwrap();
        assert_eq!(metadata.get("contributions"), None);
    }
}

/// Nothing, NaN, infinities, missing and superfluous columns.
#[test]
fn bad_input_has_no_contributions_or_finite_ones() {
    for strategy in
        ["isolation_forest", "one_class_svm", "autoencoder", "random_cut_forest", "lstm"]
    {
        let params = match strategy {
            "lstm" => json!({"lstm_units": 4, "sequence_length": 4, "epochs": 2}),
            _ => json!({}),
        };
        let detector = detector(strategy, params);
        let empty = detector.new_state();
        assert_eq!(empty.model.contributions(&Point::new(0, 1.0)), None);
        let state = trained(&detector, &mut Rng(9), 700, row);
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324, 1000.0];
        for value in odd {
            for column in odd {
                for features in [&[][..], &[column], &[1000.0, column, 0.0, 7.0, column]] {
                    let point = Point { features, ..Point::new(700 * HOUR, value) };
                    let Some(shares) = state.model.contributions(&point) else { continue };
                    assert!(value.is_finite() && shares.len() == 4, "{strategy}: {point:?}");
                    largest(&shares);
                }
            }
        }
    }
}
