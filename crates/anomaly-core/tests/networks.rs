//! Autoencoder and LSTM forecaster: what they learn, what they refuse, and what they are stored as.

mod common;

use anomaly_core::autoencoder::{Autoencoder, AutoencoderOptions};
use anomaly_core::codec::Reader;
use anomaly_core::lstm::{LstmForecaster, LstmOptions, Sequence, Trained, Workspace};
use anomaly_core::neural::{Budget, Ended, FitOptions};
use anomaly_core::progress::{StopAfter, Unbounded};
use anomaly_core::{Error, Result};
use common::Rng;
use proptest::prelude::*;

const PERIOD: usize = 24;

fn sine(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng(seed);
    (0..n).map(|i| (wave(i) + 0.1 * rng.normal()) as f32).collect()
}

fn wave(i: usize) -> f64 {
    1.4 * libm::sin(i as f64 / PERIOD as f64 * std::f64::consts::TAU)
}

/// Training on one column.
fn train(network: &mut LstmForecaster, xs: &[f32], options: &LstmOptions) -> Result<Trained> {
    train_within(network, xs, options, &mut Budget::unbounded(&mut Unbounded))
}

fn train_within(
    network: &mut LstmForecaster,
    xs: &[f32],
    options: &LstmOptions,
    budget: &mut Budget<'_>,
) -> Result<Trained> {
    let n = xs.len() - 1;
    let follows: Vec<bool> = (0..n).map(|i| i > 0).collect();
    let sequence =
        Sequence { rows: &xs[..n], targets: &xs[1..], follows: &follows, season: Some(PERIOD) };
    network.train(&sequence, options, budget)
}

/// Quick to train.
fn small() -> LstmOptions {
    let options = LstmOptions::default();
    let fit = FitOptions { epochs: 30, learning_rate: 5e-3, ..options.fit };
    LstmOptions { units: 12, fit, ..options }
}

#[test]
fn check_c21_the_default_lstm_forecasts_a_sine_and_sees_its_phase() {
    let xs = sine(1, 600);
    let options = LstmOptions::default();
    let mut network = LstmForecaster::new(1, &options).unwrap();
    let trained = train(&mut network, &xs, &options).unwrap();
    println!("{trained:?}");
    let e = trained.evaluation;
    assert!(e.network < 0.1 * e.constant && e.network < 0.6 * e.last, "{e:?}");
    assert!(trained.report.error < trained.report.error_before, "{trained:?}");
    let mut space = Workspace::default();
    // after each of the next hours the true course is near, and the opposite phase is far
    for from in 700..700 + PERIOD {
        let rows: Vec<f32> = (from..from + 10).map(|i| wave(i) as f32).collect();
        let forecast = f64::from(network.forecast(&rows, &mut space));
        let (right, wrong) = (wave(from + 10), wave(from + 10 + PERIOD / 2));
        assert!((forecast - right).abs() < 0.35, "{from}: {forecast} for {right}");
        if (right - wrong).abs() > 1.5 {
            assert!(
                (forecast - wrong).abs() > 3.0 * (forecast - right).abs(),
                "{from}: {forecast}"
            );
        }
    }
    // in a byte for each parameter it does much the same
    let (near, _) = network.clone().quantised();
    for from in 700..700 + PERIOD {
        let rows: Vec<f32> = (from..from + 10).map(|i| wave(i) as f32).collect();
        let off = near.forecast(&rows, &mut space) - network.forecast(&rows, &mut space);
        assert!(off.abs() < 0.1, "{off}");
    }
}

/// Where there is nothing to learn the evaluation says so.
#[test]
fn noise_is_not_worth_a_network() {
    let mut rng = Rng(5);
    let xs: Vec<f32> = (0..600).map(|_| rng.normal() as f32).collect();
    let options = small();
    let mut network = LstmForecaster::new(1, &options).unwrap();
    let e = train(&mut network, &xs, &options).unwrap().evaluation;
    assert!(e.network > 0.95 * e.constant && e.last > 1.5 * e.constant, "{e:?}");
    let mut x = 0.0;
    let walk: Vec<f32> = (0..600)
        .map(|_| {
            x += 0.1 * rng.normal();
            x as f32
        })
        .collect();
    let mut network = LstmForecaster::new(1, &options).unwrap();
    let e = train(&mut network, &walk, &options).unwrap().evaluation;
    assert!(!e.is_worth_it() && e.last < e.network, "{e:?}");
}

fn correlated(seed: u64, n: usize, columns: usize) -> Vec<f32> {
    let mut rng = Rng(seed);
    let mut rows = Vec::new();
    for _ in 0..n {
        let (a, b) = (rng.normal(), rng.normal());
        for c in 0..columns {
            let own = match c % 4 {
                0 => a,
                1 => b,
                2 => 0.7 * a - 0.7 * b,
                _ => -a,
            };
            rows.push((own + 0.1 * rng.normal()) as f32);
        }
    }
    rows
}

#[test]
fn check_c20_the_autoencoder_learns_what_goes_with_what() {
    let options = AutoencoderOptions {
        fit: FitOptions { epochs: 100, learning_rate: 5e-3, ..AutoencoderOptions::default().fit },
        ..AutoencoderOptions::default()
    };
    let mut network = Autoencoder::new(8, &options).unwrap();
    assert_eq!(network.encoding_dim(), 4, "narrower than half the row");
    let rows = correlated(2, 1000, 8);
    let mut unbounded = Unbounded;
    let budget = &mut Budget::unbounded(&mut unbounded);
    let trained = network.train(&rows, &options, budget).unwrap();
    println!("{trained:?}");
    assert!(trained.report.error < 0.3 * trained.constant, "{trained:?}");
    let mut found = 0;
    let test = correlated(3, 200, 8);
    let usual = test.chunks(8).map(|r| network.error(r)).sum::<f64>() / 200.0;
    for (i, row) in test.chunks(8).enumerate() {
        let mut odd = row.to_vec();
        let planted = i % 8;
        odd[planted] += if odd[planted] > 0.0 { -3.0 } else { 3.0 };
        assert!(network.error(&odd) > network.error(row), "{i}");
        let shares = network.shares(&odd);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let most = (0..8).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap();
        found += u32::from(most == planted);
        // further out is never less unusual
        let mut last = network.error(&odd);
        for far in [10.0, 100.0, 1e4, 1e9, 3e38] {
            odd[planted] = far;
            let error = network.error(&odd);
            assert!(error > last && error.is_finite(), "{far}: {error} {last}");
            last = error;
        }
    }
    assert!(usual < 0.2, "{usual}");
    assert!(found >= 180, "{found} of 200");
}

#[test]
fn check_c20_defect_s15_one_column_works() {
    let mut rng = Rng(4);
    let rows: Vec<f32> = (0..400).map(|_| rng.normal() as f32).collect();
    let options = AutoencoderOptions::default();
    let mut network = Autoencoder::new(1, &options).unwrap();
    assert_eq!(network.encoding_dim(), 1);
    let trained = network.train(&rows, &options, &mut Budget::unbounded(&mut Unbounded)).unwrap();
    assert!(trained.report.error < trained.constant, "{trained:?}");
    assert!(network.error(&[50.0]) > 100.0 * network.error(&[0.5]).max(0.1));
}

#[test]
fn training_stops_when_asked_and_keeps_to_its_budget() {
    let xs = sine(1, 300);
    let options = small();
    let rows = correlated(2, 300, 4);
    let auto = AutoencoderOptions::default();
    for after in [0, 2, 15] {
        let mut network = LstmForecaster::new(1, &options).unwrap();
        let before = network.clone();
        let mut stop = StopAfter(after);
        let result = train_within(&mut network, &xs, &options, &mut Budget::unbounded(&mut stop));
        assert_eq!(result.err(), Some(Error::Stopped));
        assert_eq!(network, before, "as it was");
        let mut network = Autoencoder::new(4, &auto).unwrap();
        let before = network.clone();
        let mut stop = StopAfter(after);
        let result = network.train(&rows, &auto, &mut Budget::unbounded(&mut stop));
        assert_eq!(result.err(), Some(Error::Stopped));
        assert_eq!(network, before, "as it was");
    }
    let mut unbounded = Unbounded;
    let mut budget = Budget { bytes: 1000, ..Budget::unbounded(&mut unbounded) };
    let mut network = LstmForecaster::new(1, &options).unwrap();
    let error = train_within(&mut network, &xs, &options, &mut budget).err();
    assert!(matches!(error, Some(Error::TooLarge(_))), "{error:?}");
    let error = Autoencoder::new(4, &auto).unwrap().train(&rows, &auto, &mut budget).err();
    assert!(matches!(error, Some(Error::TooLarge(_))), "{error:?}");
    // time and work: the best so far
    let clock = std::cell::Cell::new(0.0);
    let elapsed = || {
        clock.set(clock.get() + 1.0);
        clock.get()
    };
    let mut unbounded = Unbounded;
    let mut budget =
        Budget { elapsed: Some(&elapsed), seconds: 5.0, ..Budget::unbounded(&mut unbounded) };
    let trained = train_within(&mut network, &xs, &options, &mut budget).unwrap();
    assert_eq!(trained.report.ended, Ended::Budget);
    let mut unbounded = Unbounded;
    let mut budget = Budget { work: 1_000_000, ..Budget::unbounded(&mut unbounded) };
    let trained = train_within(&mut network, &xs, &options, &mut budget).unwrap();
    assert_eq!(trained.report.ended, Ended::Budget);
}

#[test]
fn bad_input_gets_an_error() {
    let options = small();
    for columns in [0, 257] {
        assert!(matches!(LstmForecaster::new(columns, &options), Err(Error::TooLarge(_))));
    }
    for columns in [0, 10_001] {
        let options = AutoencoderOptions::default();
        assert!(matches!(Autoencoder::new(columns, &options), Err(Error::TooLarge(_))));
    }
    let mut xs = sine(1, 100);
    let mut network = LstmForecaster::new(1, &options).unwrap();
    for n in [1, 2, 9, 11] {
        let error = train(&mut network, &xs[..n], &options).err();
        assert!(matches!(error, Some(Error::Data(_))), "{n}: {error:?}");
    }
    for bad in [f32::NAN, f32::INFINITY] {
        xs[50] = bad;
        assert!(matches!(train(&mut network, &xs, &options), Err(Error::Data(_))), "{bad}");
        let options = AutoencoderOptions::default();
        let mut network = Autoencoder::new(2, &options).unwrap();
        let mut unbounded = Unbounded;
        let budget = &mut Budget::unbounded(&mut unbounded);
        assert!(matches!(network.train(&xs, &options, budget), Err(Error::Data(_))));
        assert!(matches!(network.train(&[], &options, budget), Err(Error::Data(_))));
        assert!(matches!(network.train(&[0.0; 3], &options, budget), Err(Error::Data(_))));
    }
    // huge, constant: no error and no infinity
    for value in [0.0, 5.0, 1e38, -1e38, 1e-45] {
        let mut network = LstmForecaster::new(1, &options).unwrap();
        let e = train(&mut network, &[value; 100], &options).unwrap().evaluation;
        assert!(e.network.is_finite() && e.last.is_finite(), "{value}: {e:?}");
        let options = AutoencoderOptions::default();
        let mut network = Autoencoder::new(2, &options).unwrap();
        let mut unbounded = Unbounded;
        let budget = &mut Budget::unbounded(&mut unbounded);
        network.train(&[value; 100], &options, budget).unwrap();
        assert!(network.error(&[value, -value]).is_finite());
        assert!(network.shares(&[0.0, 0.0]).iter().all(|s| s.is_finite()));
    }
    assert!("softmax".parse::<anomaly_core::neural::Activation>().is_err());
}

fn networks() -> (LstmForecaster, Autoencoder) {
    let options = LstmOptions { units: 4, fit: FitOptions { epochs: 3, ..small().fit }, ..small() };
    let mut lstm = LstmForecaster::new(1, &options).unwrap();
    train(&mut lstm, &sine(1, 200), &options).unwrap();
    let options = AutoencoderOptions {
        fit: FitOptions { epochs: 3, ..AutoencoderOptions::default().fit },
        ..AutoencoderOptions::default()
    };
    let mut auto = Autoencoder::new(5, &options).unwrap();
    let mut unbounded = Unbounded;
    let budget = &mut Budget::unbounded(&mut unbounded);
    auto.train(&correlated(1, 200, 5), &options, budget).unwrap();
    (lstm, auto)
}

fn encoded() -> [Vec<u8>; 2] {
    let (lstm, auto) = networks();
    let mut bytes = [Vec::new(), Vec::new()];
    lstm.encode(&mut bytes[0]);
    auto.encode(&mut bytes[1]);
    bytes
}

/// A change of these is a change of the format or of what a seed means.
const GOLDEN: [(usize, u32); 2] = [(632, 2_761_190_869), (293, 2_887_226_827)];

#[test]
fn the_same_rows_give_the_same_bytes_that_read_back() {
    let [a, b] = encoded();
    assert_eq!(encoded(), [a.clone(), b.clone()]);
    let (lstm, auto) = networks();
    assert_eq!(LstmForecaster::decode(&mut Reader::new(&a)), Ok(lstm));
    assert_eq!(Autoencoder::decode(&mut Reader::new(&b)), Ok(auto));
    for (i, bytes) in [&a, &b].into_iter().enumerate() {
        assert_eq!((bytes.len(), crc32fast::hash(bytes)), GOLDEN[i], "{i}");
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            let refused = if i == 0 {
                LstmForecaster::decode(&mut reader).is_err()
            } else {
                Autoencoder::decode(&mut reader).is_err()
            };
            assert!(refused, "{i} cut at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_or_are_refused(
        at in any::<prop::sample::Index>(),
        word in any::<u32>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        static SOUND: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(encoded);
        let _ = LstmForecaster::decode(&mut Reader::new(&noise));
        let _ = Autoencoder::decode(&mut Reader::new(&noise));
        let [mut a, mut b] = SOUND.clone();
        for bytes in [&mut a, &mut b] {
            let at = at.index(bytes.len() - 4);
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(network) = LstmForecaster::decode(&mut Reader::new(&a)) {
            let rows = vec![1e30; network.columns() * network.sequence_length()];
            prop_assert!(network.forecast(&rows, &mut Workspace::default()).is_finite());
        }
        if let Ok(network) = Autoencoder::decode(&mut Reader::new(&b)) {
            prop_assert!(network.error(&vec![-1e30; network.columns()]).is_finite());
        }
    }
}
