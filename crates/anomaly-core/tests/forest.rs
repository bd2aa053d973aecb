//! Isolation forests: sampling, training, scoring, storing, explaining.

mod common;

use anomaly_core::forest::sampler::{self, Room};
use anomaly_core::forest::{IsolationForest, Model, Options, Sample, Sampler, Scratch};
use anomaly_core::progress::{Progress, StopAfter, Unbounded};
use anomaly_core::verdict::Severity;
use anomaly_core::{Error, Result, codec};
use common::Rng;
use proptest::prelude::*;
use serde_json::{Value, json};

const VARIANTS: [&str; 6] = ["mixed", "standard", "extended", "sciforest", "density", "auto"];

fn options(json: Value) -> Result<Options> {
    Options::from_json(json.as_object().unwrap())
}

fn train(features: usize, values: Vec<f64>, json: Value) -> Result<Model> {
    let sample = Sample::new(features, values)?;
    Model::train(&sample, &options(json)?, &mut Unbounded)
}

fn normal_rows(rng: &mut Rng, rows: usize, features: usize) -> Vec<f64> {
    (0..rows * features).map(|i| (i % features + 1) as f64 * rng.normal()).collect()
}

fn judge(forest: &Model, row: &[f64]) -> anomaly_core::forest::Scored {
    forest.judge(row, &mut Scratch::default()).unwrap()
}

/// 1,000 values of a metric around 100 with a standard deviation of 20.
fn around_100(rng: &mut Rng) -> Vec<f64> {
    (0..1000).map(|_| 100.0 + 20.0 * rng.normal()).collect()
}

#[test]
fn check_c18_five_points_and_the_share_above_the_threshold() {
    for variant in VARIANTS {
        for seed in 0..5 {
            let values = around_100(&mut Rng(seed));
            let forest = train(1, values.clone(), json!({"variant": variant})).unwrap();
            for silent in [105.0, 87.5, 122.3] {
                let scored = judge(&forest, &[silent]);
                assert!(
                    !scored.is_anomaly && scored.deviation() < 2.0,
                    "{variant} {silent}: {scored:?}"
                );
            }
            for alert in [1500.0, 0.5] {
                let scored = judge(&forest, &[alert]);
                assert!(
                    scored.is_anomaly && scored.deviation() >= 1.0,
                    "{variant} {alert}: {scored:?}"
                );
            }
            assert_eq!(judge(&forest, &[1500.0]).severity(), Severity::Emergency, "{variant}");
            let above = values.iter().filter(|v| judge(&forest, &[**v]).is_anomaly).count();
            assert!((40..=55).contains(&above), "{variant}: {above} of 1000");
        }
    }
}

/// One extreme among the training rows, or two, hide nothing that lies before it.
#[test]
fn extremes_in_the_sample_do_not_widen_its_range() {
    for variant in VARIANTS {
        for extremes in [&[15_000.0][..], &[15_000.0, 16_000.0], &[-1e6, 1e300]] {
            let mut values = around_100(&mut Rng(3));
            values.extend(extremes);
            let forest = train(1, values, json!({"variant": variant})).unwrap();
            for silent in [105.0, 87.5, 122.3] {
                assert!(judge(&forest, &[silent]).deviation() < 2.0, "{variant} {silent}");
            }
            let mut last = 0.0;
            for value in [200.0, 300.0, 1500.0, 10_000.0, 15_000.0, 15_500.0, 16_000.0, 1e5, 1e9] {
                let scored = judge(&forest, &[value]);
                assert!(scored.deviation() > last, "{variant} {value}: {scored:?}, before {last}");
                last = scored.deviation();
            }
            let far = judge(&forest, &[1500.0]);
            assert_eq!(far.severity(), Severity::Emergency, "{variant} {extremes:?}: {far:?}");
        }
    }
}

#[test]
fn deviation_is_finite_and_grows_with_distance() {
    for variant in VARIANTS {
        let mut rng = Rng(7);
        let forest = train(3, normal_rows(&mut rng, 2000, 3), json!({"variant": variant})).unwrap();
        for side in [-1.0, 1.0] {
            let mut last = 0.0;
            for far in [10.0, 20.0, 100.0, 1e4, 1e9, 1e100, 1e308, f64::INFINITY] {
                let scored = judge(&forest, &[0.3, side * far, -1.0]);
                let deviation = scored.deviation();
                assert!(scored.is_anomaly && scored.ln_p.is_finite());
                assert!(
                    deviation > last || far.is_infinite() && deviation >= last,
                    "{variant} {far}: {deviation} after {last}"
                );
                last = deviation;
            }
            assert!(last > 5.0 && last <= 1e6, "{variant}: {last}");
        }
    }
}

/// On the way out from the range of the sample nothing ever seems more normal again.
#[test]
fn never_less_unusual_on_the_way_out() {
    for variant in VARIANTS {
        let mut rng = Rng(8);
        let forest = train(2, normal_rows(&mut rng, 500, 2), json!({"variant": variant})).unwrap();
        for i in 0..200 {
            let angle = f64::from(i) * 0.0314;
            let (x, y) = (libm::cos(angle), libm::sin(angle));
            let mut last = 0.0;
            for step in 0..40 {
                let r = 12.0 * 1.3f64.powi(step);
                let deviation = judge(&forest, &[r * x, r * y]).deviation();
                assert!(
                    deviation >= last - 1e-12,
                    "{variant} {angle} {r}: {deviation} after {last}"
                );
                last = deviation;
            }
        }
    }
}

#[test]
fn same_seed_same_bytes() {
    for variant in VARIANTS {
        let mut rng = Rng(3);
        let mut rows = normal_rows(&mut rng, 700, 4);
        for i in (0..rows.len()).step_by(37) {
            rows[i] = f64::NAN;
        }
        let json = json!({"variant": variant, "n_estimators": 11, "keep_rows": 3});
        let a = train(4, rows.clone(), json.clone()).unwrap();
        let b = train(4, rows.clone(), json.clone()).unwrap();
        let bytes = a.encode().unwrap();
        assert_eq!(bytes, b.encode().unwrap());
        let mut other = json.clone();
        other["random_state"] = json!(43);
        assert_ne!(bytes, train(4, rows.clone(), other).unwrap().encode().unwrap());

        let read = Model::decode(&bytes).unwrap();
        assert_eq!(read.encode().unwrap(), bytes);
        let mut scratch = Scratch::default();
        for row in rows.chunks(4).take(100) {
            assert_eq!(read.judge(row, &mut scratch), a.judge(row, &mut scratch));
            assert_eq!(
                format!("{:?}", read.explain(row, &mut scratch)),
                format!("{:?}", a.explain(row, &mut scratch))
            );
        }
    }
}

/// Bytes of format 1 for ever: what is stored today has to be read by every later version.
#[test]
fn golden_bytes() {
    let mut rng = Rng(11);
    let mut rows = normal_rows(&mut rng, 40, 3);
    rows[1] = f64::NAN;
    for (i, row) in rows.chunks_mut(3).enumerate() {
        row[2] = [3.0, 5.0, 8.0][i % 3];
    }
    let json = json!({"n_estimators": 3, "max_samples": 16, "max_depth": 4, "categorical": [3], "keep_rows": 1});
    let bytes = train(3, rows, json).unwrap().encode().unwrap();
    let text = String::from_utf8(codec::to_text(&bytes)).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/isolation_forest_v1.hex");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{text}\n")).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap().trim());
}

/// Names are part of the model, once for all its forests, and say which features are categories.
#[test]
fn features_may_have_names() {
    let mut rng = Rng(5);
    let mut rows = normal_rows(&mut rng, 500, 3);
    for row in rows.chunks_mut(3) {
        row[2] = (rng.next() % 4) as f64;
    }
    let longest = "ä".repeat(127);
    for variant in ["mixed", "auto"] {
        let named = json!({"variant": variant, "features": ["a b", longest, "city"], "categorical": ["city"]});
        let model = train(3, rows.clone(), named).unwrap();
        assert_eq!(model.names(), ["a b", &longest, "city"]);
        let bytes = model.encode().unwrap();
        let back = Model::decode(&bytes).unwrap();
        assert_eq!(back.names(), model.names());
        assert_eq!(back.encode().unwrap(), bytes);
        let why = back.explain(&[60.0, 0.0, 1.0], &mut Scratch::default()).unwrap();
        assert!(why.sentence(&[60.0, 0.0, 1.0]).starts_with("a b is 60.00, "), "{why:?}");

        let positions = json!({"variant": variant, "categorical": [3]});
        let plain = train(3, rows.clone(), positions).unwrap();
        assert!(plain.names().is_empty());
        assert_eq!(judge(&plain, &[1.0, 2.0, 3.0]), judge(&model, &[1.0, 2.0, 3.0]));
        let names: usize = model.names().iter().map(|name| name.len() + 1).sum();
        assert_eq!(bytes.len(), plain.encode().unwrap().len() + names, "{variant}");
    }
    for bad in [
        json!({"features": ["a", "b"]}),
        json!({"features": ["a", "b", "c", "d"]}),
        json!({"features": ["a", "b", "a"]}),
        json!({"features": ["a", "b", ""]}),
        json!({"features": ["a", "b", 3]}),
        json!({"features": ["a", "b", "x".repeat(256)]}),
        json!({"features": "abc"}),
        json!({"features": {"a": 1}}),
        json!({"features": ["a", "b", "c"], "categorical": ["d"]}),
        json!({"categorical": ["c"]}),
    ] {
        let Err(Error::InvalidParameter { hint, .. }) = train(3, rows.clone(), bad.clone()) else {
            panic!("{bad} was accepted");
        };
        assert!(!hint.is_empty());
    }
}

#[test]
fn bad_options() {
    for bad in [
        json!({"contamination": 0}),
        json!({"contamination": 0.51}),
        json!({"contamination": -0.1}),
        json!({"contamination": "auto"}),
        json!({"n_estimators": 0}),
        json!({"n_estimators": 1001}),
        json!({"n_estimators": 1.5}),
        json!({"max_samples": 1}),
        json!({"max_samples": "all"}),
        json!({"max_depth": 0}),
        json!({"ndim": 0}),
        json!({"ntry": 65}),
        json!({"random_state": -1}),
        json!({"guided": 1.1}),
        json!({"scoring": 1}),
        json!({"variant": "deep"}),
        json!({"categorical": [0]}),
        json!({"categorical": 1}),
        json!({"sample_size": 1}),
        json!({"keep_rows": 1001}),
        json!({"trees": 10}),
    ] {
        let error = options(bad.clone()).unwrap_err();
        assert!(matches!(error, Error::InvalidParameter { .. }), "{bad}: {error:?}");
    }
    let error = train(2, vec![0.0; 10], json!({"categorical": [3]})).unwrap_err();
    assert!(matches!(error, Error::InvalidParameter { .. }), "{error:?}");
    for outside in [
        Options { trees: 0, ..Options::default() },
        Options { contamination: f64::NAN, ..Options::default() },
        Options { rows_per_tree: Some(1), ..Options::default() },
        Options { kept_rows: 1001, ..Options::default() },
    ] {
        let sample = Sample::new(1, vec![1.0, 2.0, 3.0]).unwrap();
        let error = IsolationForest::train(&sample, &outside, &mut Unbounded).unwrap_err();
        assert!(matches!(error, Error::InvalidParameter { .. }), "{error:?}");
    }
}

#[test]
fn bad_rows() {
    assert!(matches!(train(0, vec![], json!({})), Err(Error::Data(_))));
    assert!(matches!(train(2, vec![1.0; 3], json!({})), Err(Error::Data(_))));
    assert!(matches!(train(2, vec![], json!({})), Err(Error::Data(_))));
    assert!(matches!(train(2, vec![1.0, 2.0], json!({})), Err(Error::Data(_))));
    assert!(matches!(Sample::new(16_385, vec![]), Err(Error::TooLarge(_))));
    assert!(matches!(Sampler::new(16_385, 10, 0), Err(Error::TooLarge(_))));
    assert!(matches!(Sampler::new(0, 10, 0), Err(Error::Data(_))));
    assert!(matches!(Sampler::new(3, 1, 0), Err(Error::InvalidParameter { .. })));
    let mut sampler = Sampler::new(2, 10, 0).unwrap();
    sampler.add(&[1.0, 2.0]).unwrap();
    assert!(matches!(sampler.add(&[1.0]), Err(Error::Data(_))));
    for weight in [-1.0, f64::NAN, f64::INFINITY] {
        let error = sampler.add_weighted(&[1.0, 2.0], weight).unwrap_err();
        assert!(matches!(error, Error::InvalidParameter { .. }), "{weight}: {error:?}");
    }
    let other = Sampler::new(3, 10, 0).unwrap();
    assert!(matches!(sampler.merge(&other), Err(Error::Data(_))));
    let forest = train(2, vec![1.0, 2.0, 3.0, 4.0], json!({})).unwrap();
    let mut scratch = Scratch::default();
    for row in [&[][..], &[1.0], &[1.0, 2.0, 3.0]] {
        assert!(matches!(forest.judge(row, &mut scratch), Err(Error::Data(_))));
        assert!(matches!(forest.explain(row, &mut scratch), Err(Error::Data(_))));
    }
}

/// Defined results for tables that have nothing to learn from, or hardly anything.
#[test]
fn degenerate_tables() {
    let awkward = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e308,
        -1e308,
        5e-324,
        -5e-324,
        0.0,
        -0.0,
        1.0,
    ];
    let mut scratch = Scratch::default();
    for variant in VARIANTS {
        let mut tables = vec![
            (1, vec![5.0; 2]),
            (1, vec![5.0; 300]),
            (2, vec![f64::NAN; 20]),
            (2, [7.0, f64::NAN].repeat(50)),
            (2, vec![f64::INFINITY; 20]),
            (1, vec![1.0, 2.0]),
            (1, vec![-1e308, 1e308, 0.0, 1e308]),
            (1, vec![0.0, 5e-324, 1e-323]),
            (2, awkward.repeat(20)),
            (5, awkward.repeat(50)),
        ];
        // A column of which one value differs, beside one with ten values.
        tables.push((
            2,
            (0..400).flat_map(|i| [f64::from(i % 10), f64::from(u8::from(i == 399))]).collect(),
        ));
        for (features, values) in tables {
            let json = json!({"variant": variant, "n_estimators": 20});
            let forest = train(features, values.clone(), json).unwrap();
            for x in awkward {
                let row = vec![x; features];
                let scored = forest.judge(&row, &mut scratch).unwrap();
                assert!((0.0..=1.0).contains(&scored.score), "{variant} {x}: {scored:?}");
                assert!(scored.ln_p <= 0.0 && scored.ln_p.is_finite(), "{variant} {x}: {scored:?}");
                let why = forest.explain(&row, &mut scratch).unwrap();
                let sum: f64 = why.contributions.iter().sum();
                assert!((sum - 1.0).abs() < 1e-9, "{variant} {x}: {why:?}");
                assert!(why.contributions.iter().all(|c| *c >= 0.0));
            }
            let bytes = forest.encode().unwrap();
            assert_eq!(Model::decode(&bytes).unwrap().encode().unwrap(), bytes);
        }
    }
    // Nothing is unusual about a constant, anything else is, the more so the further away.
    let forest = train(1, vec![5.0; 300], json!({})).unwrap();
    assert_eq!(judge(&forest, &[5.0]).ln_p, 0.0);
    assert!(judge(&forest, &[5.1]).ln_p < -4.0);
    assert!(judge(&forest, &[1e9]).deviation() > judge(&forest, &[6.0]).deviation());
}

#[test]
fn ten_thousand_columns() {
    let mut rng = Rng(5);
    let features = 10_000;
    let mut sampler = Sampler::new(features, 8000, 1).unwrap();
    let mut row = vec![0.0; features];
    for _ in 0..600 {
        row.iter_mut().for_each(|x| *x = rng.uniform());
        sampler.add(&row).unwrap();
    }
    // bounded whatever is asked for
    assert!(sampler.words().len() * 8 <= sampler::STATE_BYTES);
    let sample = sampler.sample().unwrap();
    assert!(sample.rows() >= sampler::LEAST_ROWS);
    let json = json!({"n_estimators": 10, "keep_rows": 0});
    let forest = Model::train(&sample, &options(json).unwrap(), &mut Unbounded).unwrap();
    let inside = judge(&forest, &row);
    row[4321] = 50.0;
    let outside = judge(&forest, &row);
    assert!(outside.deviation() > inside.deviation().max(4.0), "{inside:?} {outside:?}");
    let why = forest.explain(&row, &mut Scratch::default()).unwrap();
    assert_eq!(most(&why.contributions), 4321);
    assert_eq!(why.nearest, None);
}

fn most(of: &[f64]) -> usize {
    (0..of.len()).max_by(|a, b| of[*a].total_cmp(&of[*b])).unwrap()
}

/// Counts how often the work asks whether to go on.
struct Count(u64);

impl Progress for Count {
    fn tick(&mut self) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
}

#[test]
fn training_can_be_stopped_anywhere() {
    let mut rng = Rng(6);
    let sample = Sample::new(3, normal_rows(&mut rng, 2000, 3)).unwrap();
    let options = options(json!({"n_estimators": 20})).unwrap();
    let mut count = Count(0);
    IsolationForest::train(&sample, &options, &mut count).unwrap();
    assert!(count.0 > 500, "{} ticks", count.0);
    for after in [0, 1, 2, 3, 50, count.0 / 2, count.0 - 1] {
        let stopped = IsolationForest::train(&sample, &options, &mut StopAfter(after));
        assert_eq!(stopped.err(), Some(Error::Stopped), "after {after}");
    }
    assert!(IsolationForest::train(&sample, &options, &mut StopAfter(count.0)).is_ok());
}

#[test]
fn missing_values_take_both_ways() {
    let mut rng = Rng(9);
    let mut rows = normal_rows(&mut rng, 1000, 3);
    for i in 0..500 {
        rows[3 * (2 * i) + i % 3] = f64::NAN;
    }
    for variant in VARIANTS {
        let forest = train(3, rows.clone(), json!({"variant": variant})).unwrap();
        let normal = judge(&forest, &[0.1, f64::NAN, 0.2]);
        assert!(!normal.is_anomaly && normal.deviation() < 2.0, "{variant}: {normal:?}");
        let nothing = judge(&forest, &[f64::NAN; 3]);
        assert!(nothing.deviation() < 2.5, "{variant}: {nothing:?}");
        let unusual = judge(&forest, &[3.5, f64::NAN, -10.0]);
        assert!(unusual.score > normal.score && unusual.is_anomaly, "{variant}: {unusual:?}");
        // A score with a missing value is the mean over what the value might have been.
        let mut scratch = Scratch::default();
        let known: Vec<f64> = rows
            .chunks(3)
            .filter(|r| !r[1].is_nan())
            .map(|r| forest.judge(&[0.1, r[1], 0.2], &mut scratch).unwrap().score)
            .collect();
        let (low, high) = known.iter().fold((1.0f64, 0.0f64), |(l, h), s| (l.min(*s), h.max(*s)));
        assert!(low < normal.score && normal.score < high, "{variant}: {low} {high} {normal:?}");
    }
}

#[test]
fn categories_are_split_by_subset() {
    let mut rng = Rng(10);
    // Codes mean nothing: 1e9 is as common as 2, and 3 is rare.
    let codes = [2.0, 1e9, -5.0, 77.0];
    let mut rows = Vec::new();
    for i in 0..2000 {
        rows.push(rng.normal());
        rows.push(if i % 200 == 0 { 3.0 } else { codes[(rng.next() % 4) as usize] });
    }
    for variant in VARIANTS {
        let forest =
            train(2, rows.clone(), json!({"variant": variant, "categorical": [2]})).unwrap();
        let common: Vec<f64> = codes.iter().map(|c| judge(&forest, &[0.0, *c]).score).collect();
        let rare = judge(&forest, &[0.0, 3.0]);
        assert!(common.iter().all(|c| *c < rare.score), "{variant}: {common:?} {rare:?}");
        let unseen = judge(&forest, &[0.0, 4.0]);
        assert!(unseen.ln_p < judge(&forest, &[0.0, 2.0]).ln_p, "{variant}: {unseen:?}");
        let why = forest.explain(&[0.0, 4.0], &mut Scratch::default()).unwrap();
        assert_eq!(most(&why.contributions), 1, "{variant}: {why:?}");
    }
}

/// One feature in ten moved by 5 to 8 standard deviations, in 1,000 rows.
#[test]
fn explanations_point_at_the_planted_feature() {
    for variant in VARIANTS {
        let mut rng = Rng(12);
        let forest =
            train(10, normal_rows(&mut rng, 4000, 10), json!({"variant": variant})).unwrap();
        let mut scratch = Scratch::default();
        let mut found = 0;
        for _ in 0..1000 {
            let mut row = normal_rows(&mut rng, 1, 10);
            let planted = (rng.next() % 10) as usize;
            let sign = if rng.next().is_multiple_of(2) { 1.0 } else { -1.0 };
            row[planted] = sign * (5.0 + 3.0 * rng.uniform()) * (planted + 1) as f64;
            let why = forest.explain(&row, &mut scratch).unwrap();
            found += usize::from(most(&why.contributions) == planted);
            assert!((why.contributions.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            if most(&why.contributions) == planted {
                let sentence = why.sentence(&row);
                let beginning = format!("feature {} is {:.2}, ", planted + 1, row[planted]);
                assert!(sentence.starts_with(&beginning), "{sentence}");
            }
            let nearest = why.nearest.unwrap();
            assert!(!judge(&forest, &nearest).is_anomaly);
            assert!(why.ranges[planted].0 > row[planted] || why.ranges[planted].1 < row[planted]);
        }
        assert!(found >= 900, "{variant}: {found} of 1000");
    }
}

#[test]
fn sentences() {
    let values: Vec<f64> = (0..1000).flat_map(|i| [f64::from(i % 10), f64::from(i % 7)]).collect();
    let forest = train(2, values, json!({"keep_rows": 1})).unwrap();
    let say = |row: &[f64]| forest.explain(row, &mut Scratch::default()).unwrap().sentence(row);
    assert_eq!(say(&[5.0, 3.0]), "the row is like the others");
    let out = say(&[5.0, -100.0]);
    assert!(
        out.starts_with("feature 2 is -100.00, below the usual range (0.00 to 6.00); "),
        "{out}"
    );
    assert!(out.contains("the most similar normal row has "), "{out}");
    let missing = say(&[f64::NAN, 1e6]);
    assert!(missing.starts_with("feature 2 is 1000000.00, above"), "{missing}");
    let one = train(1, (0..1000).map(|i| f64::from(i).sqrt()).collect(), json!({"keep_rows": 0}));
    let row = [0.0];
    let why = one.unwrap().explain(&row, &mut Scratch::default()).unwrap();
    let rare = "feature 1 is 0.00, which is rare; it makes up 100 % of the deviation";
    assert_eq!(why.sentence(&row), rare);
}

/// No model takes more memory for its trees than was announced.
#[test]
fn most_bytes_bounds_the_stored_form() {
    let mut rng = Rng(77);
    let values = normal_rows(&mut rng, 3000, 5);
    for variant in VARIANTS {
        let asked =
            json!({"variant": variant, "n_estimators": 30, "max_samples": 1000, "keep_rows": 0});
        let bytes = train(5, values.clone(), asked.clone()).unwrap().encode().unwrap().len();
        let most = options(asked).unwrap().most_bytes();
        assert!((bytes as u64) < most, "{variant}: {bytes} of {most}");
    }
    let huge = options(json!({"n_estimators": 1000, "max_samples": 4096, "ndim": 64})).unwrap();
    assert!(huge.most_bytes() > 2 << 30);
}

/// 1 − p, ranked as deviations are.
#[test]
fn anomaly_score_is_one_minus_p() {
    let forest = train(1, around_100(&mut Rng(3)), json!({})).unwrap();
    let mut last = judge(&forest, &[150.0]);
    for x in [180.0, 250.0, 400.0, 1e9] {
        let scored = judge(&forest, &[x]);
        assert!(scored.anomaly_score() > last.anomaly_score() || scored.anomaly_score() == 1.0);
        assert!((1.0 - scored.anomaly_score() - scored.ln_p.exp()).abs() < 1e-12);
        last = scored;
    }
}

/// As above, inside the range of the feature alone: two features that go together, apart.
#[test]
fn explanations_point_at_features_inside_their_ranges() {
    let mut rng = Rng(13);
    let mut rows = Vec::new();
    for _ in 0..4000 {
        let x = 3.0 * rng.normal();
        rows.extend([rng.normal(), rng.normal(), x, x + 0.3 * rng.normal()]);
    }
    let forest = train(4, rows, json!({"variant": "sciforest"})).unwrap();
    let mut scratch = Scratch::default();
    let mut found = 0;
    for _ in 0..200 {
        let x = 5.0 + rng.uniform();
        let row = [rng.normal(), rng.normal(), x, -x];
        let why = forest.explain(&row, &mut scratch).unwrap();
        found += usize::from(why.contributions[2] + why.contributions[3] > 0.5);
    }
    assert!(found >= 180, "{found} of 200");
}

#[test]
fn samples_are_uniform_in_one_pass_and_merged() {
    let (mut in_one, mut merged) = (vec![0u32; 1000], vec![0u32; 1000]);
    for seed in 0..400 {
        let mut whole = Sampler::new(1, 50, seed).unwrap();
        let mut parts: Vec<Sampler> = (0..3).map(|_| Sampler::new(1, 50, seed).unwrap()).collect();
        for i in 0..1000 {
            whole.add(&[f64::from(i)]).unwrap();
            // unequal parts, one smaller than a sample
            let part = if i < 30 {
                0
            } else if i < 400 {
                1
            } else {
                2
            };
            parts[part].add(&[f64::from(i)]).unwrap();
        }
        let (first, rest) = parts.split_at_mut(1);
        for part in rest.iter() {
            first[0].merge(part).unwrap();
        }
        for (counts, sampler) in [(&mut in_one, &whole), (&mut merged, &first[0])] {
            let sample = sampler.sample().unwrap();
            assert_eq!((sample.rows(), sample.seen), (50, 1000));
            for x in sample.values {
                counts[x as usize] += 1;
            }
        }
    }
    // 20 of each are expected; 7.4 standard deviations
    for counts in [in_one, merged] {
        assert_eq!(counts.iter().sum::<u32>(), 20_000);
        assert!(counts.iter().all(|c| *c < 54), "{:?}", counts.iter().max());
        // no stretch is preferred: 2,000 of each hundred, 5 standard deviations
        for hundred in counts.chunks(100) {
            let sum: u32 = hundred.iter().sum();
            assert!((1785..2215).contains(&sum), "{sum}");
        }
    }
}

#[test]
fn samples_follow_weights() {
    let (mut heavy, mut rows) = (0, 0);
    for seed in 0..200 {
        let mut sampler = Sampler::new(1, 50, seed).unwrap();
        for i in 0..1000 {
            let weight = if i % 10 == 0 { 5.0 } else { 1.0 };
            sampler.add_weighted(&[f64::from(i % 10)], weight).unwrap();
            sampler.add_weighted(&[3.5], 0.0).unwrap();
        }
        let sample = sampler.sample().unwrap();
        heavy += sample.values.iter().filter(|x| **x == 0.0).count();
        rows += sample.rows();
        assert!(sample.values.iter().all(|x| *x != 3.5));
        // drawn in proportion already, but for what a heavy row could not be drawn twice
        let (least, most) =
            sample.weights.iter().fold((f64::MAX, 0.0f64), |(l, h), w| (l.min(*w), h.max(*w)));
        assert!(most / least < 1.3, "{least} {most}");
    }
    // 500 of 1400, less what is sampled without replacement
    let share = heavy as f64 / rows as f64;
    assert!((0.31..0.37).contains(&share), "{share}");
    // All rows fit: the weights themselves.
    let mut sampler = Sampler::new(1, 50, 1).unwrap();
    sampler.add_weighted(&[1.0], 2.0).unwrap();
    sampler.add_weighted(&[2.0], 6.0).unwrap();
    let mut weights = sampler.sample().unwrap().weights;
    weights.sort_by(f64::total_cmp);
    assert_eq!(weights, [2.0, 6.0]);
}

/// Rows that count a hundredfold make what they show normal.
#[test]
fn weights_reach_the_forest() {
    let mut score = [0.0; 2];
    for (weight, score) in [1.0, 100.0].into_iter().zip(&mut score) {
        let mut rng = Rng(14);
        let mut sampler = Sampler::new(1, 8000, 1).unwrap();
        for i in 0..1000 {
            let x = if i % 100 == 0 { 30.0 + rng.normal() } else { rng.normal() };
            sampler.add_weighted(&[x], if i % 100 == 0 { weight } else { 1.0 }).unwrap();
        }
        let sample = sampler.sample().unwrap();
        let forest = Model::train(&sample, &Options::default(), &mut Unbounded).unwrap();
        *score = judge(&forest, &[30.0]).score;
    }
    assert!(score[0] > score[1] + 0.1, "{score:?}");
}

#[test]
fn sampler_states_grow_and_are_stored() {
    let mut words = sampler::initial(2, 300, 9, b"{\"n_estimators\": 7}").unwrap();
    let mut grown = 0;
    for i in 0..5000 {
        loop {
            match sampler::add(&mut words, &[f64::from(i), 1.0]).unwrap() {
                Room::Ready => break,
                Room::Grow(to) => {
                    assert!(to > words.len());
                    words.resize(to, 0);
                    grown += 1;
                }
            }
        }
        if i % 611 == 0 {
            let bytes = sampler::encode(&words).unwrap();
            let read = sampler::decode(&bytes).unwrap();
            assert_eq!(read[..], words[..sampler::used(&words).unwrap()]);
            assert_eq!(Sample::from_words(&read), Sample::from_words(&words));
        }
    }
    assert!((3..12).contains(&grown), "{grown}");
    assert_eq!(sampler::options(&words).unwrap(), b"{\"n_estimators\": 7}");
    let other = sampler::initial(2, 300, 9, b"{}").unwrap();
    assert!(matches!(sampler::merge(&mut words, &other), Err(Error::Data(_))));
    for i in 0..40 {
        let mut bytes = sampler::encode(&words).unwrap();
        bytes[i * 97] ^= 4;
        assert!(matches!(sampler::decode(&bytes), Err(Error::Corrupted(_))), "byte {}", i * 97);
    }
    assert!(matches!(sampler::add(&mut [0; 20], &[1.0, 2.0]), Err(Error::Corrupted(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged model is refused, and what is not refused can be used.
    #[test]
    fn damaged_models(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in 0..4usize,
        variant in 0..VARIANTS.len(),
    ) {
        let mut rng = Rng(15);
        let json = json!({"variant": VARIANTS[variant], "n_estimators": 3, "max_samples": 32, "categorical": [2]});
        let rows: Vec<f64> = normal_rows(&mut rng, 60, 3).chunks(3).flat_map(|r| [r[0], r[1].round(), r[2]]).collect();
        let bytes = train(3, rows, json).unwrap().encode().unwrap();
        let (algorithm, payload) = codec::unwrap(&bytes).unwrap();
        let mut payload = payload.to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        payload.truncate(payload.len() - cut);
        let sealed = codec::wrap(algorithm, &payload).unwrap();
        if let Ok(forest) = Model::decode(&sealed) {
            let mut scratch = Scratch::default();
            for x in [0.0, 1e308, f64::NAN, f64::NEG_INFINITY] {
                let row = vec![x; forest.features()];
                let scored = forest.judge(&row, &mut scratch).unwrap();
                prop_assert!(scored.ln_p <= 0.0 && scored.ln_p.is_finite());
                forest.explain(&row, &mut scratch).unwrap();
            }
            prop_assert_eq!(forest.encode().unwrap(), sealed);
        }
        // The checksum alone finds any flipped bit.
        let mut flipped = bytes.clone();
        let at = at % flipped.len();
        flipped[at] ^= 1;
        prop_assert!(Model::decode(&flipped).is_err());
    }
}

/// The sets of reference/isolation_forest.py.
fn reference_row(set: usize, rng: &mut Rng) -> Vec<f64> {
    let bell = |rng: &mut Rng| {
        let sum = rng.uniform() + rng.uniform();
        sum + rng.uniform() + rng.uniform() - 2.0
    };
    match set {
        0 => (0..3).map(|_| bell(rng)).collect(),
        1 => {
            let x = bell(rng);
            vec![x, x + 0.1 * bell(rng)]
        }
        2 => {
            let far = if rng.uniform() < 0.05 { 3.0 } else { 0.0 };
            (0..8).map(|_| bell(rng) + far).collect()
        }
        3 => (0..4).map(|_| 1.0 / (0.01 + rng.uniform())).collect(),
        _ => {
            let first = (5.0 * rng.uniform()).trunc();
            let second = rng.uniform();
            let third = bell(rng);
            vec![first, second, third, (3.0 * rng.uniform()).trunc()]
        }
    }
}

/// Mean ranks of tied values.
fn ranks(of: &[f64]) -> Vec<f64> {
    let rank = |x: f64| {
        let below = of.iter().filter(|v| **v < x).count() as f64;
        below + 0.5 * (of.iter().filter(|v| **v == x).count() as f64 - 1.0)
    };
    of.iter().map(|x| rank(*x)).collect()
}

fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum()
    };
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

/// With 1,000 trees on each side, as alike as two seeds of scikit-learn are.
#[test]
fn scores_agree_with_scikit_learn() {
    let table = include_str!("reference/isolation_forest.csv");
    let mut sets = 0;
    for (set, line) in table.lines().skip(1).enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        let two_seeds: f64 = fields[1].parse().unwrap();
        let theirs: Vec<f64> = fields[2].split(' ').map(|s| s.parse().unwrap()).collect();
        let mut rng = Rng(1000 + set as u64);
        let rows: Vec<Vec<f64>> = (0..1000).map(|_| reference_row(set, &mut rng)).collect();
        let json = json!({"variant": "standard", "n_estimators": 1000});
        let forest = train(rows[0].len(), rows.concat(), json).unwrap();
        let ours: Vec<f64> = rows[..theirs.len()].iter().map(|r| judge(&forest, r).score).collect();
        let rho = rank_correlation(&ours, &theirs);
        assert!(rho >= two_seeds - 0.005, "set {set}: {rho}, two seeds {two_seeds}");
        // not the ranks alone
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 0.03, "set {set}: {apart}");
        sets += 1;
    }
    assert_eq!(sets, 5);
}
