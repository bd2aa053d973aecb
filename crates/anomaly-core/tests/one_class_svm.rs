//! The one-class support vector machine against scikit-learn, and what it makes of bad rows.

mod common;

use anomaly_core::codec::Reader;
use anomaly_core::neural::Budget;
use anomaly_core::one_class_svm::{EXACT_ROWS, Gamma, Kernel, OneClassSvm, OneClassSvmOptions};
use anomaly_core::progress::{StopAfter, Unbounded};
use anomaly_core::{Error, Result};
use common::Rng;
use proptest::prelude::*;

const WIDTH: usize = 3;

/// Two clusters, moved by `shift` in every column.
fn rows(seed: u64, n: usize, spread: f64, shift: f64) -> Vec<f64> {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(WIDTH * n);
    for i in 0..n {
        let c = if i % 2 == 1 { 1.5 } else { -1.5 };
        for k in 0..WIDTH {
            let noise = rng.uniform() + rng.uniform() + rng.uniform() - 1.5;
            out.push(if k == 1 { -0.5 * c } else { c } + 2.0 * spread * noise + shift);
        }
    }
    out
}

fn fit(rows: &[f64], width: usize, options: &OneClassSvmOptions) -> Result<OneClassSvm> {
    OneClassSvm::fit(rows, width, options, &mut Budget::unbounded(&mut Unbounded))
}

fn options(kernel: Kernel, nu: f64, gamma: Gamma) -> OneClassSvmOptions {
    OneClassSvmOptions { kernel, nu, gamma, ..OneClassSvmOptions::default() }
}

// scikit-learn 1.9.1: OneClassSVM(kernel=…, nu=…, gamma=…, tol=1e-6).fit(rows(11, n, 1.0, shift))
// .decision_function(rows(12, 40, 2.5, shift)); poly with degree=3, coef0=1.
#[rustfmt::skip]
const RBF: [f64; 40] = [
    -0.660357, 0.41497, 0.0502749, -1.53991, 0.999821, 0.365124, 0.470091, -2.11598, -2.55028,
    0.674113, -3.18342, -1.32265, 0.475652, -1.29291, 0.575415, -2.495, -3.25958, -1.88574,
    -1.96342, 0.428073, -2.52704, -2.90889, -1.57136, -1.19043, -0.3746, -0.937006, -0.437073,
    -1.60747, -1.16134, -0.536266, -2.64133, 0.130145, -0.106082, -0.577096, -2.14294,
    -0.845372, -0.533706, 0.621321, 0.246519, -3.20387,
];
#[rustfmt::skip]
const RBF_HALF: [f64; 40] = [
    -7.40365, -0.430772, -5.36123, -9.73734, 0.33514, -0.318075, -0.68005, -10.1544, -10.1959,
    0.150108, -10.2005, -9.7102, -1.73494, -9.68325, -2.06388, -10.1763, -10.2005, -10.0483,
    -10.098, -0.778103, -10.196, -10.2003, -9.9344, -9.94588, -6.29086, -9.01813, -6.43224,
    -9.70747, -9.05228, -9.34934, -10.1951, -3.99907, -4.67678, -8.84158, -10.0978, -9.09753,
    -6.65945, 0.179046, -3.81219, -10.2005,
];
#[rustfmt::skip]
const LINEAR: [f64; 40] = [
    376.388, 204.647, 385.252, 425.396, 109.69, 64.591, 244.517, -236.697, -142.549, 155.514,
    561.0, 51.3771, 307.992, 50.2594, 235.912, -235.191, -568.901, 425.809, -115.251, 322.324,
    -314.269, 755.888, 72.4928, 294.178, -103.15, 323.759, -53.2137, 643.32, 67.8611, 364.334,
    -471.151, 319.235, 30.8374, 505.865, 341.86, 289.747, 153.863, 85.5623, -139.649, -506.91,
];
#[rustfmt::skip]
const POLY: [f64; 40] = [
    386.977, 391.087, 74.4642, 690.242, 109.95, -51.9691, 242.615, 230.41, 300.573, -68.7181,
    889.957, 160.294, -40.7784, 219.811, -49.0744, 530.012, 875.787, 925.857, 990.938, 166.098,
    995.484, 1080.33, 661.405, 138.204, 576.332, 108.585, 307.868, 527.056, 240.679, 67.6141,
    588.882, -13.201, -18.7029, 81.5897, 876.585, 56.6399, 225.313, -40.8257, 330.148, 645.937,
];
#[rustfmt::skip]
const RBF_6000: [f64; 40] = [
    -8.55895, 6.33801, -0.590623, -19.5749, 13.0875, 5.82661, 9.03876, -21.0037, -30.0348,
    7.28647, -41.8173, -15.4083, 4.07224, -16.0143, 4.56981, -26.8609, -43.3584, -21.9499,
    -27.8015, 6.07927, -36.1884, -37.2725, -17.4597, -17.7456, -7.21406, -9.35525, -5.32785,
    -16.7371, -11.3224, -8.8383, -35.2445, 1.16435, 1.3033, -8.01694, -24.1371, -8.73515,
    -6.15034, 7.55065, 0.232487, -41.2193,
];

fn ranks(xs: &[f64]) -> Vec<f64> {
    xs.iter().map(|x| xs.iter().filter(|y| *y < x).count() as f64).collect()
}

/// Spearman's.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    sum(&a, ma, &b, mb) / (sum(&a, ma, &a, ma) * sum(&b, mb, &b, mb)).sqrt()
}

fn decisions(machine: &OneClassSvm, shift: f64) -> Vec<f64> {
    rows(12, 40, 2.5, shift).chunks(WIDTH).map(|row| machine.decision(row)).collect()
}

#[test]
fn check_c19_decisions_are_those_of_scikit_learn() {
    for (options, shift, vectors, reference) in [
        (options(Kernel::Rbf, 0.05, Gamma::Scale), 0.0, 30, &RBF),
        (options(Kernel::Rbf, 0.5, Gamma::Value(0.7)), 0.0, 221, &RBF_HALF),
        (options(Kernel::Linear, 0.1, Gamma::Auto), 3.0, 41, &LINEAR),
        (options(Kernel::Poly, 0.2, Gamma::Auto), 0.0, 83, &POLY),
    ] {
        let machine = fit(&rows(11, 400, 1.0, shift), WIDTH, &options).unwrap();
        let own = decisions(&machine, shift);
        assert!(machine.terms().abs_diff(vectors) <= 4, "{options:?}: {}", machine.terms());
        let size = reference.iter().fold(0.0f64, |a, x| a.max(x.abs()));
        for (own, reference) in own.iter().zip(reference) {
            assert!((own - reference).abs() < 3e-3 * size, "{options:?}: {own} for {reference}");
        }
        assert!(rank_correlation(&own, reference) >= 0.995, "{options:?}");
    }
}

/// Beyond what is solved exactly.
#[test]
fn check_c19_random_features_rank_as_scikit_learn_does() {
    let train = rows(11, 6000, 1.0, 0.0);
    assert!(train.len() / WIDTH > EXACT_ROWS);
    let machine = fit(&train, WIDTH, &OneClassSvmOptions::default()).unwrap();
    let own = decisions(&machine, 0.0);
    let correlation = rank_correlation(&own, &RBF_6000);
    println!("rank correlation {correlation}");
    assert!(correlation >= 0.98, "{correlation}");
    let outside = train.chunks(WIDTH).filter(|row| machine.decision(row) < 0.0).count();
    assert!((outside as f64 / 6000.0 - 0.05).abs() < 0.005, "{outside}");
}

#[test]
fn nu_is_the_share_outside() {
    let train = rows(3, 1000, 1.0, 0.0);
    for nu in [0.01, 0.05, 0.2, 0.5] {
        let machine = fit(&train, WIDTH, &options(Kernel::Rbf, nu, Gamma::Scale)).unwrap();
        let outside = train.chunks(WIDTH).filter(|row| machine.decision(row) < -1e-3).count();
        assert!((outside as f64 / 1000.0) <= nu + 0.01, "{nu}: {outside}");
        assert!((outside as f64 / 1000.0) >= nu - 0.02, "{nu}: {outside}");
        assert!(machine.terms() as f64 >= nu * 1000.0 - 1.0, "{nu}: {}", machine.terms());
        for row in train.chunks(WIDTH) {
            let (f, score) = (machine.decision(row), machine.score(row));
            assert_eq!(f < 0.0, score > 1.0, "{f} {score}");
        }
    }
}

#[test]
fn bad_input_gets_an_error_that_says_what_to_do() {
    let good = rows(1, 50, 1.0, 0.0);
    for (options, word) in [
        (options(Kernel::Rbf, 0.0, Gamma::Scale), "nu"),
        (options(Kernel::Rbf, 1.1, Gamma::Scale), "nu"),
        (options(Kernel::Rbf, f64::NAN, Gamma::Scale), "nu"),
        (options(Kernel::Rbf, 0.1, Gamma::Value(0.0)), "gamma"),
        (options(Kernel::Rbf, 0.1, Gamma::Value(f64::INFINITY)), "gamma"),
    ] {
        let error = fit(&good, WIDTH, &options).err();
        let Some(Error::InvalidParameter { message, hint }) = error else { panic!("{options:?}") };
        assert!(message.contains(word) && hint.contains(word), "{message} {hint}");
    }
    let options = OneClassSvmOptions::default();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308] {
        let mut rows = good.clone();
        rows[7] = bad;
        assert!(matches!(fit(&rows, WIDTH, &options), Err(Error::Data(_))), "{bad}");
    }
    assert!(matches!(fit(&[], 3, &options), Err(Error::Data(_))));
    assert!(matches!(fit(&good[..4], 3, &options), Err(Error::Data(_))));
    assert!(matches!(fit(&good, 0, &options), Err(Error::TooLarge(_))));
    assert!(matches!(fit(&[0.0; 10_001], 10_001, &options), Err(Error::TooLarge(_))));
    assert!("cosine".parse::<Kernel>().is_err());
}

#[test]
fn odd_rows_get_a_machine() {
    for (name, rows, width) in [
        ("one row", vec![1.0, 2.0], 2),
        ("two equal rows", vec![1.0, 2.0, 1.0, 2.0], 2),
        ("constant", vec![5.0; 300], 3),
        ("denormal", (0..300).map(|i| f64::from(i % 7) * 5e-324).collect(), 1),
        ("large", (0..300).map(|i| f64::from(i % 7) * 1e18).collect(), 1),
        ("wide", (0..20_000).map(|i| f64::from(i % 13)).collect(), 10_000),
    ] {
        for kernel in Kernel::ALL {
            let options = options(kernel, 0.05, Gamma::Scale);
            let machine = fit(&rows, width, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            let far = vec![1e30; width];
            for row in [&rows[..width], &far, &[], &vec![f64::MAX; width], &vec![f64::NAN; width]] {
                let (f, score) = (machine.decision(row), machine.score(row));
                assert!(
                    !f.is_nan() && score.is_finite() && score >= 0.0,
                    "{name} {kernel:?}: {f} {score}"
                );
            }
        }
    }
}

#[test]
fn training_stops_when_asked_and_keeps_to_its_memory() {
    let train = rows(1, 1500, 1.0, 0.0);
    let large = rows(1, 5000, 1.0, 0.0);
    for rows in [&train, &large] {
        for after in [0, 3] {
            let mut stop = StopAfter(after);
            let mut budget = Budget::unbounded(&mut stop);
            let result = OneClassSvm::fit(rows, WIDTH, &OneClassSvmOptions::default(), &mut budget);
            assert_eq!(result.err(), Some(Error::Stopped));
        }
        let mut unbounded = Unbounded;
        let mut budget = Budget { bytes: 100_000, ..Budget::unbounded(&mut unbounded) };
        let result = OneClassSvm::fit(rows, WIDTH, &OneClassSvmOptions::default(), &mut budget);
        assert!(matches!(result, Err(Error::TooLarge(_))));
        // out of time at once: a machine all the same
        let late = || 9.0;
        let mut unbounded = Unbounded;
        let mut budget =
            Budget { elapsed: Some(&late), seconds: 1.0, ..Budget::unbounded(&mut unbounded) };
        let machine = OneClassSvm::fit(rows, WIDTH, &OneClassSvmOptions::default(), &mut budget);
        assert!(machine.unwrap().score(&[0.0; WIDTH]).is_finite());
    }
}

fn bytes_of(machine: &OneClassSvm) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.encode(&mut bytes);
    bytes
}

/// A change of these is a change of the format or of what a seed means.
#[test]
fn the_same_rows_give_the_same_bytes_that_read_back() {
    for n in [60, 2500] {
        let train = rows(7, n, 1.0, 0.0);
        let machine = fit(&train, WIDTH, &OneClassSvmOptions::default()).unwrap();
        let bytes = bytes_of(&machine);
        let again = fit(&train, WIDTH, &OneClassSvmOptions::default()).unwrap();
        assert_eq!(bytes_of(&again), bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(OneClassSvm::decode(&mut reader).as_ref(), Ok(&machine));
        assert_eq!(reader.remaining(), 0);
        let golden = if n == 60 { GOLDEN_60 } else { GOLDEN_2500 };
        assert_eq!((bytes.len(), crc32fast::hash(&bytes)), golden, "{n} rows");
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            assert!(OneClassSvm::decode(&mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }
}

const GOLDEN_60: (usize, u32) = (254, 3_698_119_677);
const GOLDEN_2500: (usize, u32) = (10_270, 1_546_182_538);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_or_are_refused(
        at in any::<prop::sample::Index>(),
        word in any::<u64>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = OneClassSvm::decode(&mut Reader::new(&noise));
        let machine = fit(&rows(7, 30, 1.0, 0.0), WIDTH, &OneClassSvmOptions::default()).unwrap();
        let mut bytes = bytes_of(&machine);
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        if let Ok(machine) = OneClassSvm::decode(&mut Reader::new(&bytes)) {
            for x in [0.0, 1e300, -1e300, f64::NAN] {
                prop_assert!(machine.score(&[x; 9]).is_finite());
            }
            prop_assert_eq!(bytes_of(&machine), bytes);
        }
    }
}
