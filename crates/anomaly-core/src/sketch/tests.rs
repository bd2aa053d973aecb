//! Reference numbers: NumPy 2.4.6 (`mean`, `var(ddof=1)`, `quantile`) and SciPy 1.17.1 (`skew`,
//! `kurtosis`, `median_abs_deviation`, `iqr`, defaults) over the same values.

use proptest::prelude::*;

use super::*;

fn sketch_of(values: &[f64], capacity: usize) -> Sketch {
    let mut sketch = Sketch::new(capacity).unwrap();
    for x in values {
        sketch.push(*x).unwrap();
    }
    sketch
}

fn default_of(values: &[f64]) -> Sketch {
    sketch_of(values, DEFAULT_CAPACITY)
}

/// The sequence that the reference script uses.
fn reference(n: u64) -> Vec<f64> {
    (0..n).map(|i| (((i * 7919) % 10007).pow(2)) as f64 / 97.0).collect()
}

/// Reproducible numbers in [0, 1).
fn uniform(n: usize, mut seed: u64) -> Vec<f64> {
    (0..n)
        .map(|_| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        })
        .collect()
}

#[track_caller]
fn close(actual: f64, expected: f64, relative: f64) {
    let allowed = relative * expected.abs().max(f64::MIN_POSITIVE);
    assert!(
        (actual - expected).abs() <= allowed,
        "{actual} is not within {relative} of {expected}"
    );
}

#[test]
fn small_sample_equals_numpy_and_scipy() {
    let sketch = default_of(&reference(1500));
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    close(m.mean().unwrap(), 344675.18008247425, 1e-14);
    close(m.variance().unwrap().unwrap(), 94981108454.81308, 1e-13);
    close(m.stddev().unwrap().unwrap(), 308190.0524916615, 1e-13);
    close(m.skewness().unwrap(), 0.638209915433406, 1e-12);
    close(m.kurtosis().unwrap(), -0.8580243398568816, 1e-12);
    let expected = [
        0.0,
        113.47329896907216,
        64833.25,
        258505.94329896907,
        580554.3118556701,
        1012473.0372164949,
        1032165.3195876288,
    ];
    let actual = view.quantiles([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]).unwrap().unwrap();
    for (a, e) in actual.into_iter().zip(expected) {
        close(a, e, 1e-14);
    }
    close(view.robust().unwrap().unwrap().mad().unwrap(), 223890.3505154639, 1e-14);
    close(view.iqr().unwrap().unwrap(), 515721.06185567006, 1e-14);
    assert_eq!(view.rank_error(), 0.0);
}

#[test]
fn large_sample_has_exact_moments_and_bounded_quantiles() {
    let values = reference(20_000);
    let sketch = default_of(&values);
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    close(m.mean().unwrap(), 344080.51533865975, 1e-14);
    close(m.variance().unwrap().unwrap(), 94730846835.98973, 1e-13);
    close(m.skewness().unwrap(), 0.6389652935176026, 1e-12);
    close(m.kurtosis().unwrap(), -0.8570115105220748, 1e-12);
    assert_eq!((m.min, m.max, m.n), (0.0, 1032165.3195876288, 20_000));
    assert!(view.rank_error() > 0.0 && view.rank_error() < 0.004, "{}", view.rank_error());
    assert!(worst_rank_error(view, &values) < 0.003);
    let mad = view.robust().unwrap().unwrap().mad().unwrap();
    close(mad, 223497.71649484534, 0.01);
}

/// Largest distance between a quantile's fraction and the fraction of values up to it.
fn worst_rank_error(view: View<'_>, values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    (1..200)
        .map(|i| {
            let q = f64::from(i) / 200.0;
            let x = view.quantile(q).unwrap().unwrap();
            let below = sorted.partition_point(|y| *y < x) as f64 / n;
            let upto = sorted.partition_point(|y| *y <= x) as f64 / n;
            (below - q).max(q - upto).max(0.0)
        })
        .fold(0.0, f64::max)
}

#[test]
fn rank_error_keeps_its_bound_on_many_orders_and_capacities() {
    // 99 % per quantile; the largest over 199 quantiles and 60 samples may exceed it, but not by
    // half, and a bias of the coins would show as a multiple.
    let mut exceeded = 0;
    for (i, capacity) in [128, 224, 500, 2000].into_iter().enumerate() {
        for (j, n) in [3000, 20_000, 100_000].into_iter().enumerate() {
            let random = uniform(n, (7 * i + j) as u64);
            let mut ascending = random.clone();
            ascending.sort_by(f64::total_cmp);
            let descending: Vec<f64> = ascending.iter().rev().copied().collect();
            let mut zigzag = ascending.clone();
            for k in (0..n / 2).step_by(2) {
                zigzag.swap(k, n - 1 - k);
            }
            let skewed: Vec<f64> = random.iter().map(|u| (20.0 * u).exp()).collect();
            for values in [random, ascending, descending, zigzag, skewed] {
                let sketch = sketch_of(&values, capacity);
                let view = sketch.view().unwrap();
                let (worst, bound) = (worst_rank_error(view, &values), view.rank_error());
                assert!(worst <= 1.5 * bound, "capacity {capacity}, n {n}: {worst} > {bound}");
                exceeded += usize::from(worst > bound);
            }
        }
    }
    assert!(exceeded <= 6, "{exceeded} of 60 samples exceed the bound somewhere");
}

#[test]
fn rank_error_does_not_drift_with_depth() {
    // A coin that also decided which value of an odd level stays behind was off by a quarter here.
    let values = uniform(2_000_000, 21);
    let sketch = sketch_of(&values, 128);
    let view = sketch.view().unwrap();
    let (worst, bound) = (worst_rank_error(view, &values), view.rank_error());
    assert!(worst <= bound, "{worst} > {bound}");
}

#[test]
fn stated_rank_error_of_the_default_capacity() {
    // What the documentation promises: half a percent at five million values.
    let sketch = default_of(&uniform(5_000_000, 1));
    let view = sketch.view().unwrap();
    assert!(view.rank_error() <= 0.005, "{}", view.rank_error());
    assert!(view.used() <= HEADER + DEFAULT_CAPACITY);
    assert_eq!(view.num_vals(), 5_000_000);
}

#[test]
fn entity_sketch_stays_below_two_kilobytes() {
    let sketch = sketch_of(&uniform(100_000, 3), 224);
    assert!(sketch.words().len() * 8 <= 2048, "{} words", sketch.words().len());
    assert!(sketch.encode().unwrap().len() <= 2048);
}

#[test]
fn empty() {
    let sketch = Sketch::new(DEFAULT_CAPACITY).unwrap();
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    assert_eq!(view.num_vals(), 0);
    assert_eq!((m.mean(), m.skewness(), m.kurtosis()), (None, None, None));
    assert_eq!((m.variance(), m.stddev()), (Ok(None), Ok(None)));
    assert_eq!(m.zscore(1.0), None);
    assert_eq!(view.quantile(0.5), Ok(None));
    assert_eq!(view.robust(), Ok(None));
    assert_eq!(view.iqr_bounds(1.5), Ok(None));
    assert_eq!(view.rank_error(), 0.0);
    assert_eq!(Sketch::decode(&sketch.encode().unwrap()).unwrap().encode(), sketch.encode());
}

#[test]
fn one_value() {
    let sketch = default_of(&[7.0]);
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    assert_eq!(m.mean(), Some(7.0));
    assert_eq!(m.variance(), Ok(None));
    assert_eq!(m.zscore(8.0), None);
    assert_eq!(view.median(), Ok(Some(7.0)));
    let robust = view.robust().unwrap().unwrap();
    assert_eq!((robust.mad(), robust.modified_zscore(8.0)), (Ok(0.0), None));
}

#[test]
fn constant_sample_has_no_rounding_noise() {
    // 0.1 added 10,000 times does not sum to 1000.
    let sketch = default_of(&[0.1; 10_000]);
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    assert_eq!(m.variance(), Ok(Some(0.0)));
    assert_eq!((m.skewness(), m.kurtosis()), (None, None));
    assert_eq!(m.zscore(0.1), Some(0.0));
    assert_eq!(m.zscore(0.2), Some(f64::INFINITY));
    assert_eq!(m.zscore(0.0), Some(f64::NEG_INFINITY));
    assert!(m.zscore(f64::NAN).unwrap().is_nan());
    let robust = view.robust().unwrap().unwrap();
    assert_eq!(robust.modified_zscore(0.1), Some(0.0));
    assert_eq!(robust.modified_zscore(0.2), Some(f64::INFINITY));
}

#[test]
fn specials_are_counted_and_left_out() {
    let mut sketch =
        default_of(&[1.0, f64::NAN, f64::INFINITY, 2.0, f64::NEG_INFINITY, f64::INFINITY, -0.0]);
    sketch.push_null();
    let view = sketch.view().unwrap();
    assert_eq!((view.num_vals(), view.num_nulls(), view.num_nans(), view.num_infs()), (3, 1, 1, 3));
    assert_eq!(view.moments().unwrap().mean(), Some(1.0));
    assert!(view.quantile(0.0).unwrap().unwrap().is_sign_positive());
}

#[test]
fn small_spread_on_a_large_level() {
    let sketch = default_of(&[1.0, 2.0, 3.0, 4.0, 10.0].map(|x| x + 1e9));
    let m = sketch.view().unwrap().moments().unwrap();
    assert_eq!(m.variance(), Ok(Some(12.5)));
    close(m.skewness().unwrap(), 1.1384199576606167, 1e-14);
    close(m.kurtosis().unwrap(), -0.21199999999999974, 1e-13);
    close(m.zscore(1e9 + 7.0).unwrap(), 0.9486832980505138, 1e-14);
}

#[test]
fn fault_i3_extreme_magnitudes_stay_finite() {
    let base = [1.0, 2.0, 3.0, 4.0, 10.0];
    for exponent in [-1070, -600, -200, 200, 600, 1015] {
        let values = base.map(|x| libm::scalbn(x, exponent));
        let mut halves = default_of(&values[..2]);
        halves.merge(&default_of(&values[2..])).unwrap();
        for sketch in [default_of(&values), halves] {
            let m = sketch.view().unwrap().moments().unwrap();
            assert_eq!(m.mean(), Some(libm::scalbn(4.0, exponent)), "2^{exponent}");
            let sd = libm::scalbn(m.stddev().unwrap().unwrap(), -exponent);
            // Below 2^-1022 the result itself has few digits.
            close(sd, 12.5_f64.sqrt(), if exponent < -1022 { 0.05 } else { 1e-14 });
            close(m.skewness().unwrap(), 1.1384199576606167, 1e-13);
            close(m.kurtosis().unwrap(), -0.21199999999999974, 1e-12);
            close(m.zscore(libm::scalbn(7.0, exponent)).unwrap(), 0.9486832980505138, 1e-13);
        }
    }
}

#[test]
fn fault_i3_results_past_the_range_are_errors() {
    let sketch = default_of(&[-1.7e308, 1.7e308, -1.6e308, 1.6e308]);
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    assert_eq!(m.mean(), Some(0.0));
    assert!(matches!(m.variance(), Err(Error::OutOfRange(_))));
    assert!(matches!(m.stddev(), Err(Error::OutOfRange(_))));
    close(m.zscore(1.7e308).unwrap(), 1.0299, 1e-3);
    close(view.median().unwrap().unwrap() + 1.0, 1.0, 0.0);
    close(view.robust().unwrap().unwrap().mad().unwrap(), 1.65e308, 1e-15);
    assert!(matches!(view.iqr(), Err(Error::OutOfRange(_))));
    assert!(matches!(view.iqr_bounds(1.5), Err(Error::OutOfRange(_))));
}

#[test]
fn fault_i3_a_quotient_that_overflows_saturates() {
    let sketch = default_of(&[1e-320, 2e-320, 3e-320]);
    let view = sketch.view().unwrap();
    assert_eq!(view.moments().unwrap().zscore(-1e308), Some(f64::MIN));
    let score = view.robust().unwrap().unwrap().modified_zscore(1e308).unwrap();
    assert!(score.is_finite() && score > 1e307);
}

#[test]
fn fault_i6_bad_parameters() {
    let sketch = default_of(&[1.0]);
    let view = sketch.view().unwrap();
    for q in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(view.quantile(q), Err(Error::InvalidParameter { .. })), "{q}");
    }
    for k in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(view.iqr_bounds(k), Err(Error::InvalidParameter { .. })), "{k}");
    }
    for capacity in [0, 127, 65_537, usize::MAX] {
        assert!(matches!(Sketch::new(capacity), Err(Error::InvalidParameter { .. })));
    }
}

#[test]
fn merge_keeps_small_samples_exact() {
    let values = reference(1500);
    let mut left = default_of(&values[..700]);
    left.merge(&default_of(&values[700..])).unwrap();
    let view = left.view().unwrap();
    assert_eq!(view.rank_error(), 0.0);
    assert_eq!(view.median(), default_of(&values).view().unwrap().median());
}

#[test]
fn merge_of_different_capacities_takes_the_smaller() {
    let values = uniform(50_000, 9);
    for (a, b) in [(224, 2000), (2000, 224)] {
        let mut sketch = sketch_of(&values[..20_000], a);
        sketch.merge(&sketch_of(&values[20_000..], b)).unwrap();
        for x in &values {
            sketch.push(*x).unwrap();
        }
        let view = sketch.view().unwrap();
        assert_eq!((view.capacity(), view.num_vals()), (224, 100_000));
        assert!(worst_rank_error(view, &values) <= 1.5 * view.rank_error());
    }
}

#[test]
fn merging_many_sketches_keeps_the_bound() {
    let values = uniform(400_000, 5);
    let mut sketch = Sketch::new(DEFAULT_CAPACITY).unwrap();
    for part in values.chunks(3000) {
        sketch.merge(&default_of(part)).unwrap();
    }
    let view = sketch.view().unwrap();
    assert!(view.rank_error() < 0.006, "{}", view.rank_error());
    assert!(worst_rank_error(view, &values) <= 1.5 * view.rank_error());
}

#[test]
fn counts_cannot_overflow() {
    let mut words = initial();
    words[word::NULLS] = i64::MAX as u64;
    let full = words;
    assert!(matches!(merge(&mut words, &full), Err(Error::TooLarge(_))));
    words[word::NULLS] = u64::MAX;
    assert!(matches!(View::new(&words), Err(Error::Corrupted(_))));
}

#[test]
fn fault_i9_same_values_same_bytes() {
    let values = uniform(30_000, 11);
    assert_eq!(default_of(&values).encode(), default_of(&values).encode());
}

#[test]
fn golden_bytes_of_the_format() {
    let mut sketch = default_of(&[1.0, 2.5, -4.0, f64::NAN, f64::INFINITY]);
    sketch.push_null();
    let hex: String = sketch.encode().unwrap().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("golden_sketch_v1.hex").trim());
    // A compacted one: any change of coins or layout changes the checksum.
    let bytes = sketch_of(&reference(5000), 224).encode().unwrap();
    let crc = u32::from_le_bytes(*bytes.last_chunk().unwrap());
    assert_eq!((bytes.len(), crc), (1548, 1362809208));
}

#[test]
fn newer_format_is_named() {
    let mut bytes = default_of(&[1.0]).encode().unwrap();
    bytes[4] = 2;
    assert!(matches!(Sketch::decode(&bytes), Err(Error::NewerFormat(_))));
    bytes[4] = 0;
    assert!(matches!(Sketch::decode(&bytes), Err(Error::Corrupted(_))));
}

/// Recomputes the checksum, so that damage reaches the checks behind it.
fn sealed(words: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

#[test]
fn figures_beyond_any_values_are_refused() {
    let sketch = sketch_of(&reference(700), 128);
    let words = sketch.words()[..sketch.view().unwrap().used()].to_vec();
    assert!(Sketch::decode(&sealed(&words)).is_ok());
    for at in [word::MEAN, word::M2, word::M3, word::M4, word::VARIANCE] {
        for figure in [f64::MAX, f64::NAN] {
            let mut damaged = words.clone();
            damaged[at] = figure.to_bits();
            assert!(matches!(Sketch::decode(&sealed(&damaged)), Err(Error::Corrupted(_))), "{at}");
        }
    }
    let mut damaged = words.clone();
    damaged[word::COMPACTIONS] = u64::MAX;
    assert!(matches!(Sketch::decode(&sealed(&damaged)), Err(Error::Corrupted(_))));
}

/// A value in a table is checked for structure only.
#[test]
fn damaged_stored_values_do_not_panic() {
    let sketch = sketch_of(&reference(700), 128);
    for (at, bits) in [
        (word::MIN, f64::NAN.to_bits()),
        (word::MAX, f64::NAN.to_bits()),
        (word::MIN, f64::MAX.to_bits()),
        (word::SCALE, sketch.words()[word::SCALE] | 0x7fff_ffff),
    ] {
        let mut words = sketch.words().to_vec();
        words[at] = bits;
        let view = View::new(&words).unwrap();
        let _ = (view.quantiles([0.001, 0.5, 0.999]), view.robust());
        view.moments().unwrap().mean();
        let other = words.clone();
        let _ = merge(&mut words, &other);
    }
}

/// Everything that a decoded sketch is used for.
fn exercise(sketch: &Sketch) {
    let view = sketch.view().unwrap();
    let m = view.moments().unwrap();
    let _ = (m.mean(), m.variance(), m.skewness(), m.kurtosis(), m.zscore(1.0));
    let _ = (view.median(), view.robust(), view.iqr(), view.iqr_bounds(1.5), view.rank_error());
    let mut again = sketch.clone();
    let _ = again.merge(sketch);
    for i in 0..300 {
        let _ = again.push(f64::from(i));
    }
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        10 => -1e6_f64..1e6,
        3 => (0_i32..20).prop_map(f64::from),
        1 => any::<f64>(),
    ]
}

fn ordinary() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(
        prop_oneof![5 => -1e6_f64..1e6, 2 => (0_i32..20).prop_map(f64::from)],
        0..3000,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn combine_equals_whole(values in ordinary(), cut in 0.0_f64..1.0, capacity in 128_usize..600) {
        let at = (values.len() as f64 * cut) as usize;
        let whole = sketch_of(&values, capacity);
        let mut parts = sketch_of(&values[..at], capacity);
        parts.merge(&sketch_of(&values[at..], capacity)).unwrap();
        let (w, p) = (whole.view().unwrap(), parts.view().unwrap());
        let (a, b) = (w.moments().unwrap(), p.moments().unwrap());
        prop_assert_eq!((a.n, a.min, a.max), (b.n, b.min, b.max));
        let size = a.min.abs().max(a.max.abs());
        for (x, y, unit) in [
            (a.mean, b.mean, size),
            (a.m2, b.m2, a.m2),
            (a.m3, b.m3, a.m2.powf(1.5)),
            (a.m4, b.m4, a.m4),
        ] {
            prop_assert!((x - y).abs() <= 1e-12 * unit.max(f64::MIN_POSITIVE), "{} {}", x, y);
        }
        if !values.is_empty() {
            prop_assert!(worst_rank_error(w, &values) <= 1.5 * w.rank_error() + 1.0 / values.len() as f64);
            prop_assert!(worst_rank_error(p, &values) <= 1.5 * p.rank_error() + 1.0 / values.len() as f64);
        }
    }

    #[test]
    fn decode_undoes_encode(
        values in prop::collection::vec(any_value(), 0..1500),
        capacity in 128_usize..400,
    ) {
        let sketch = sketch_of(&values, capacity);
        let bytes = sketch.encode().unwrap();
        let back = Sketch::decode(&bytes).unwrap();
        prop_assert_eq!(back.encode().unwrap(), bytes);
        prop_assert_eq!(back.view().unwrap().median(), sketch.view().unwrap().median());
        let settled = sketch.view().unwrap().settled().unwrap();
        prop_assert_eq!(View::new(&settled).unwrap().num_vals(), sketch.view().unwrap().num_vals());
        exercise(&back);
    }

    #[test]
    fn quantiles_rise(values in prop::collection::vec(any_value(), 1..1500)) {
        let sketch = sketch_of(&values, 128);
        let view = sketch.view().unwrap();
        if let Some(qs) = view.quantiles([0.0, 0.1, 0.3, 0.5, 0.501, 0.9, 1.0]).unwrap() {
            prop_assert!(qs.windows(2).all(|w| w[0] <= w[1]), "{:?}", qs);
            let m = view.moments().unwrap();
            prop_assert_eq!((qs[0], qs[6]), (m.min, m.max));
        }
    }

    #[test]
    fn decode_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(sketch) = Sketch::decode(&bytes) {
            exercise(&sketch);
        }
    }

    #[test]
    fn decode_survives_damage_with_a_right_checksum(
        n in 0_usize..700,
        edits in prop::collection::vec((0_usize..60, prop_oneof![
            any::<u64>(), 0_u64..3000, Just(u64::MAX), Just(f64::NAN.to_bits()), Just(f64::MAX.to_bits()),
        ]), 1..4),
        cut in 0_usize..3,
    ) {
        let sketch = sketch_of(&reference(n as u64), 128);
        let mut words = sketch.words()[..sketch.view().unwrap().used()].to_vec();
        for (at, value) in edits {
            let at = at % words.len();
            words[at] = value;
        }
        words.truncate(words.len() - cut);
        if let Ok(sketch) = Sketch::decode(&sealed(&words)) {
            exercise(&sketch);
        }
        // The stored form is checked for structure only; reading it must be as safe.
        if let Ok(view) = View::new(&words) {
            let _ = (view.moments(), view.median(), view.robust(), view.settled(), view.encode());
        }
    }
}
