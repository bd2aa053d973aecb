//! Each score against reference numbers, against a fresh computation and on degenerate frames.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// What PostgreSQL does with a moving aggregate over `ROWS width PRECEDING`: the frame holds the row
/// and `width` before it, and is built again when the inverse gives up.
struct Frame<S> {
    rows: VecDeque<Option<f64>>,
    width: usize,
    parameters: Vec<Option<f64>>,
    state: S,
    rebuilt: usize,
}

impl<S: MovingScore> Frame<S> {
    fn new(width: usize, parameters: &[f64]) -> Self {
        let parameters = parameters.iter().map(|&p| Some(p)).collect();
        Frame { rows: VecDeque::new(), width, parameters, state: S::default(), rebuilt: 0 }
    }

    fn push(&mut self, v: Option<f64>) -> Option<f64> {
        if self.rows.len() > self.width {
            let oldest = self.rows.pop_front().unwrap();
            if self.rows.is_empty() {
                self.state = S::default();
            } else if !self.state.pop(oldest) {
                self.rebuilt += 1;
                self.state = self.build();
            }
        }
        self.rows.push_back(v);
        self.state.configure(&self.parameters).unwrap();
        self.state.push(v).unwrap();
        self.state.score()
    }

    fn build(&self) -> S {
        let mut state = S::default();
        for &row in &self.rows {
            state.configure(&self.parameters).unwrap();
            state.push(row).unwrap();
        }
        state
    }

    fn fresh(&self) -> Option<f64> {
        self.build().score()
    }
}

fn scores<S: MovingScore>(
    width: usize,
    parameters: &[f64],
    rows: &[Option<f64>],
) -> Vec<Option<f64>> {
    let mut frame = Frame::<S>::new(width, parameters);
    rows.iter().map(|&v| frame.push(v)).collect()
}

fn same(a: Option<f64>, b: Option<f64>, tolerance: f64) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a == b
                || (a.is_nan() && b.is_nan())
                || (a - b).abs() <= tolerance * b.abs().max(a.abs())
        }
        _ => false,
    }
}

fn assert_same(found: &[Option<f64>], expected: &[Option<f64>], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        assert!(same(a, b, tolerance), "row {i}: {a:?} instead of {b:?}");
    }
}

const SERIES: [f64; 12] = [12.5, 9.75, 10.25, 11.0, 30.0, 10.5, 9.5, 10.0, 10.0, -4.0, 11.5, 10.75];

fn series() -> Vec<Option<f64>> {
    SERIES.iter().map(|&x| Some(x)).collect()
}

fn some<const N: usize>(nulls: usize, rest: [f64; N]) -> Vec<Option<f64>> {
    std::iter::repeat_n(None, nulls).chain(rest.into_iter().map(Some)).collect()
}

// The expected numbers of the next five tests: for i in 0..12, o = SERIES[max(0, i-7):i] and x = SERIES[i].

/// numpy 2: `(x - o.mean()) / o.std()`.
#[test]
fn zscore_equals_numpy() {
    let expected = some(
        2,
        [
            -0.6363636363636364,
            0.13934660285832304,
            18.419035522122687,
            -0.5450180806722483,
            -0.6244130818223642,
            -0.48970290430430247,
            -0.43133109281375365,
            -2.455047510364248,
            0.05443886642662033,
            -0.0349900659593603,
        ],
    );
    assert_same(&scores::<ZscoreWindow>(7, &[], &series()), &expected, 1e-12);
}

/// numpy 2: `m = np.median(o); 0.6745 * (x - m) / np.median(abs(o - m))`.
#[test]
fn modified_zscore_equals_numpy() {
    let expected = some(
        3,
        [
            1.01175,
            20.9095,
            -0.2698,
            -1.1241666666666668,
            -0.44966666666666666,
            -0.33725,
            -38.4465,
            2.0235,
            1.01175,
        ],
    );
    assert_same(&scores::<ModifiedZscoreWindow>(7, &[], &series()), &expected, 1e-14);
}

/// numpy 2: `q1, q3 = np.quantile(o, [.25, .75])`, then the distance beyond them over `q3 - q1`.
#[test]
fn iqr_score_equals_numpy() {
    let expected =
        some(4, [14.9, 0.0, -0.4482758620689655, 0.0, 0.0, -18.666666666666668, 0.75, 0.0]);
    assert_same(&scores::<IqrScoreWindow>(7, &[], &series()), &expected, 1e-14);
}

/// pandas 2: `e = pd.Series(o).ewm(alpha=…, adjust=True); (x - e.mean().iloc[-1]) / e.std().iloc[-1]`.
#[test]
fn ewma_score_equals_pandas() {
    let expected = some(
        2,
        [
            -0.3251934929521023,
            0.3105778017482095,
            19.384199267168253,
            -0.6734152629681489,
            -0.6129943179750963,
            -0.4109202332305524,
            -0.32320252344664746,
            -2.5826478995643756,
            0.5120337965277805,
            0.3184349509782383,
        ],
    );
    assert_same(&scores::<EwmaScoreWindow>(7, &[0.3], &series()), &expected, 1e-12);
    let expected = some(
        2,
        [
            0.128564869306645,
            1.2656771024073876,
            32.99520264252423,
            -1.3105737567777949,
            -0.21086975224197643,
            0.04902614614154356,
            0.015412182629837057,
            -30.42740184037571,
            1.431586332293788,
            0.06347684953748722,
        ],
    );
    assert_same(&scores::<EwmaScoreWindow>(7, &[0.9], &series()), &expected, 1e-11);
    // pd.Series([1, 2, nan, 4, 3]).ewm(alpha=.4, adjust=True, ignore_na=True), x = 10
    let rows = [Some(1.0), Some(2.0), None, Some(4.0), Some(3.0), Some(10.0)];
    let last = scores::<EwmaScoreWindow>(9, &[0.4], &rows)[5];
    assert!(same(last, Some(6.393087491192089), 1e-12), "{last:?}");
}

#[test]
fn fault_i1_null_nan_and_infinity_follow_the_rule() {
    fn check<S: MovingScore>(parameters: &[f64], infinite: f64) {
        let clean: Vec<_> = (0..12).map(|i| Some(f64::from(i * i % 7))).collect();
        let mut frame = Frame::<S>::new(100, parameters);
        for &v in &clean {
            frame.push(v);
        }
        let expected = frame.push(Some(4.5));
        assert!(expected.is_some_and(f64::is_finite));
        // The same values with rows in between that must not count.
        let mut frame = Frame::<S>::new(100, parameters);
        for &v in &clean {
            frame.push(v);
            assert_eq!(frame.push(None), None);
            frame.push(Some(f64::INFINITY));
            frame.push(Some(f64::NAN));
        }
        assert_eq!(frame.push(Some(4.5)), expected);
        assert!(frame.push(Some(f64::NAN)).unwrap().is_nan());
        assert_eq!(frame.push(Some(f64::INFINITY)), Some(infinite));
        let negative = frame.push(Some(f64::NEG_INFINITY)).unwrap();
        assert_eq!(negative.abs(), infinite);
        assert_eq!(frame.push(None), None);
        // After they have left the frame they leave no trace.
        let mut frame = Frame::<S>::new(12, parameters);
        for v in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            frame.push(Some(v));
        }
        for &v in &clean {
            frame.push(v);
        }
        assert_eq!(frame.push(Some(4.5)), expected);
        assert_eq!(frame.rebuilt, 0);
    }
    check::<ZscoreWindow>(&[], f64::INFINITY);
    check::<ModifiedZscoreWindow>(&[], f64::INFINITY);
    check::<IqrScoreWindow>(&[], f64::INFINITY);
    check::<EwmaScoreWindow>(&[0.2], f64::INFINITY);
    check::<AnomalyScoreWindow>(&[], 1.0);
}

#[test]
fn fault_i2_constant_and_short_frames() {
    fn check<S: MovingScore>(parameters: &[f64], needed: usize, above: f64, below: f64) {
        // An empty window has no last row.
        assert_eq!(S::default().score(), None);
        for constant in [0.0, 0.1, -7.3e-300, 1e15, 1.7e308] {
            let mut frame = Frame::<S>::new(20, parameters);
            for others in 0..60 {
                let score = frame.push(Some(constant));
                assert_eq!(score, (others >= needed).then_some(0.0), "{others} others");
            }
            let next =
                if constant == 1.7e308 { f64::MAX } else { constant + 1.0_f64.max(constant) };
            assert_eq!(frame.push(Some(next)), Some(above));
            let mut frame = Frame::<S>::new(20, parameters);
            for _ in 0..30 {
                frame.push(Some(constant));
            }
            assert_eq!(frame.push(Some(constant - 1.0_f64.max(constant.abs()))), Some(below));
        }
        // Fewer than needed: NULL even for NaN and infinity, because nothing can be said.
        let mut frame = Frame::<S>::new(20, parameters);
        for _ in 1..needed {
            frame.push(Some(1.0));
        }
        assert_eq!(frame.push(Some(f64::NAN)), None);
        assert_eq!(frame.push(Some(f64::INFINITY)), None);
    }
    check::<ZscoreWindow>(&[], 2, f64::INFINITY, f64::NEG_INFINITY);
    check::<ModifiedZscoreWindow>(&[], 3, f64::INFINITY, f64::NEG_INFINITY);
    check::<IqrScoreWindow>(&[], 4, f64::INFINITY, f64::NEG_INFINITY);
    check::<EwmaScoreWindow>(&[0.1], 2, f64::INFINITY, f64::NEG_INFINITY);
    check::<EwmaScoreWindow>(&[1.0], 2, f64::INFINITY, f64::NEG_INFINITY);
    check::<AnomalyScoreWindow>(&[], 5, 1.0, 1.0);
}

#[test]
fn fault_i2_constant_again_after_a_spike() {
    let rows: Vec<_> = (0..400).map(|i| Some(if i % 60 == 7 { 1e6 } else { 0.1 })).collect();
    let z = scores::<ZscoreWindow>(10, &[], &rows);
    let e = scores::<EwmaScoreWindow>(10, &[0.2], &rows);
    for i in 20..400 {
        let since = (i + 60 - 7) % 60;
        let expected = if since == 0 { f64::INFINITY } else { 0.0 };
        if since == 0 || since > 10 {
            assert_eq!(z[i], Some(expected), "row {i}");
            assert_eq!(e[i], Some(expected), "row {i}");
        } else {
            assert!(z[i].is_some_and(|z| z < 0.0 && z.is_finite()), "row {i}: {:?}", z[i]);
        }
    }
}

#[test]
fn fault_i3_huge_and_tiny_values() {
    fn check<S: MovingScore>(parameters: &[f64], to_scale: bool) {
        for factor in [1e306, 1e200, 1e-200, 5e-324 * 4e15] {
            // Multiplying a frame by a power of ten changes no score but by rounding.
            let row = |i: i64| ((i * 7919) % 101 - 50) as f64;
            let mut plain = Frame::<S>::new(30, parameters);
            let mut scaled = Frame::<S>::new(30, parameters);
            for i in 0..200 {
                let (a, b) = (plain.push(Some(row(i))), scaled.push(Some(row(i) * factor)));
                if to_scale {
                    assert!(same(a, b, 1e-9), "row {i} × {factor:e}: {a:?}, {b:?}");
                }
            }
        }
        // The whole range at once, and back to small numbers.
        let mut frame = Frame::<S>::new(10, parameters);
        for i in 0..400 {
            let x = match i % 100 {
                3 => 1.7e308,
                5 => -1.7e308,
                7 => f64::from_bits(1),
                n => f64::from(n % 9),
            };
            let score = frame.push(Some(x));
            assert!(score.is_none_or(|s| !s.is_nan()), "row {i}: {score:?}");
            if i % 100 > 20 {
                assert!(same(score, frame.fresh(), 1e-9), "row {i}: {score:?}");
            }
        }
    }
    check::<ZscoreWindow>(&[], true);
    check::<ModifiedZscoreWindow>(&[], true);
    check::<IqrScoreWindow>(&[], true);
    check::<EwmaScoreWindow>(&[0.3], true);
    check::<AnomalyScoreWindow>(&[], true);
    // A quotient beyond the range of float8 is infinite, as documented.
    let rows = [0.0, 1e-10, 0.0, 1e-10, 0.0, 1e308].map(Some);
    assert_eq!(scores::<ZscoreWindow>(9, &[], &rows)[5], Some(f64::INFINITY));
}

#[test]
fn fault_i6_alpha_out_of_range() {
    let mut state = EwmaScoreWindow::default();
    for alpha in
        [Some(0.0), Some(-0.1), Some(1.0 + 1e-15), Some(f64::NAN), Some(f64::INFINITY), None]
    {
        let error = state.configure(&[alpha]).unwrap_err();
        assert!(matches!(error, crate::Error::InvalidParameter { .. }), "{alpha:?}: {error}");
    }
    assert_eq!(state.configure(&[Some(0.5)]), Ok(()));
    assert_eq!(state.configure(&[Some(0.5)]), Ok(()));
    let error = state.configure(&[Some(0.6)]).unwrap_err();
    assert_eq!(error.to_string(), "alpha changes from 0.5 to 0.6 inside a frame");
}

/// SplitMix64, so that the tests need no generator of random numbers.
fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn uniform(i: u64) -> f64 {
    (mix(i) >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_million_slides_over_1e9_lose_nothing() {
    fn check<S: MovingScore>(width: usize, parameters: &[f64]) {
        let mut frame = Frame::<S>::new(width, parameters);
        let mut last = None;
        for i in 0..1_000_000_u64 {
            last = frame.push(Some(1e9 + 2.0 * uniform(i) - 1.0));
            if i % 99_991 == 0 {
                assert!(same(last, frame.fresh(), 1e-9), "row {i}: {last:?}");
            }
        }
        assert!(same(last, frame.fresh(), 1e-9), "{last:?}");
        // Precision must come from the sums, not from building the frame again all the time.
        assert!(frame.rebuilt < 200, "{} frames built again", frame.rebuilt);
    }
    check::<ZscoreWindow>(100, &[]);
    check::<ZscoreWindow>(1000, &[]);
    check::<EwmaScoreWindow>(100, &[0.05]);
    check::<EwmaScoreWindow>(100, &[1e-7]);
    check::<ModifiedZscoreWindow>(100, &[]);
}

#[test]
fn one_1e15_among_values_near_1_leaves_no_trace() {
    fn check<S: MovingScore>(parameters: &[f64]) {
        let mut frame = Frame::<S>::new(100, parameters);
        for i in 0..1000_u64 {
            let x = if i == 300 { 1e15 } else { 0.5 + uniform(i) };
            let score = frame.push(Some(x));
            assert!(same(score, frame.fresh(), 1e-9), "row {i}: {score:?}, {:?}", frame.fresh());
        }
        assert!(frame.rebuilt <= 4, "{}", frame.rebuilt);
    }
    check::<ZscoreWindow>(&[]);
    check::<ModifiedZscoreWindow>(&[]);
    check::<IqrScoreWindow>(&[]);
    check::<AnomalyScoreWindow>(&[]);
    check::<EwmaScoreWindow>(&[0.01]);
    check::<EwmaScoreWindow>(&[0.1]);
    check::<EwmaScoreWindow>(&[0.5]);
}

/// Ramps and level shifts move far from where the window began; both must stay cheap and exact.
#[test]
fn drift_is_followed_without_rebuilding() {
    let mut frame = Frame::<ZscoreWindow>::new(50, &[]);
    for i in 0..200_000_u64 {
        let score =
            frame.push(Some(i as f64 * 1e3 + uniform(i) + if i > 100_000 { 1e12 } else { 0.0 }));
        if i % 4_999 == 0 {
            assert!(same(score, frame.fresh(), 1e-9), "row {i}: {score:?}, {:?}", frame.fresh());
        }
    }
    assert!(frame.rebuilt < 50, "{}", frame.rebuilt);
}

fn naive(kind: usize, others: &[f64], x: f64) -> Option<f64> {
    let n = others.len();
    let needed = [2, 3, 4][kind];
    if n < needed {
        return None;
    }
    if !x.is_finite() {
        return Some(x);
    }
    let quantile = |v: &[f64], q: f64| {
        let mut v = v.to_vec();
        v.sort_by(f64::total_cmp);
        let h = (n - 1) as f64 * q;
        let (lo, hi) = (v[h.floor() as usize], v[h.ceil() as usize]);
        lo + (h - h.floor()) * (hi - lo)
    };
    let ratio = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a / b };
    Some(match kind {
        0 => {
            let mean = others.iter().sum::<f64>() / n as f64;
            let variance = others.iter().map(|o| (o - mean).powi(2)).sum::<f64>() / n as f64;
            ratio(x - mean, variance.sqrt())
        }
        1 => {
            let median = quantile(others, 0.5);
            let deviations: Vec<f64> = others.iter().map(|o| (o - median).abs()).collect();
            0.6745 * ratio(x - median, quantile(&deviations, 0.5))
        }
        _ => {
            let (q1, q3) = (quantile(others, 0.25), quantile(others, 0.75));
            if x > q3 {
                ratio(x - q3, q3 - q1)
            } else if x < q1 {
                ratio(x - q1, q3 - q1)
            } else {
                0.0
            }
        }
    })
}

/// Values with many ties, some rows without a value, and outliers of all sizes.
fn rows() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop::collection::vec(
        prop_oneof![
            8 => (-4i32..4).prop_map(|x| Some(f64::from(x))),
            8 => (-10.0..10.0f64).prop_map(Some),
            2 => Just(None),
            1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)].prop_map(Some),
            1 => (-1e15..1e15f64).prop_map(Some),
        ],
        0..300,
    )
}

fn agrees_with_fresh<S: MovingScore>(
    rows: &[Option<f64>],
    width: usize,
    parameters: &[f64],
) -> Result<(), TestCaseError> {
    let mut frame = Frame::<S>::new(width, parameters);
    for (i, &v) in rows.iter().enumerate() {
        let (score, fresh) = (frame.push(v), frame.fresh());
        let close = match (score, fresh) {
            // Near zero a score is a difference of nearly equal numbers.
            (Some(a), Some(b)) => same(score, fresh, 1e-9) || (a - b).abs() < 1e-9,
            _ => score == fresh,
        };
        prop_assert!(close, "row {}: {:?} instead of {:?}", i, score, fresh);
    }
    Ok(())
}

proptest! {
    #[test]
    fn sliding_equals_fresh(rows in rows(), width in 1usize..60, alpha in 0.001..1.0f64) {
        agrees_with_fresh::<ZscoreWindow>(&rows, width, &[])?;
        agrees_with_fresh::<ModifiedZscoreWindow>(&rows, width, &[])?;
        agrees_with_fresh::<IqrScoreWindow>(&rows, width, &[])?;
        agrees_with_fresh::<AnomalyScoreWindow>(&rows, width, &[])?;
        agrees_with_fresh::<EwmaScoreWindow>(&rows, width, &[alpha])?;
    }

    #[test]
    fn sliding_equals_the_definition(
        rows in prop::collection::vec(prop_oneof![
            6 => (-4i32..4).prop_map(|x| Some(f64::from(x) / 4.0)),
            6 => (-1e3..1e3f64).prop_map(Some),
            1 => Just(None),
            1 => Just(Some(f64::NAN)),
        ], 0..200),
        width in 1usize..60,
    ) {
        let found = [
            scores::<ZscoreWindow>(width, &[], &rows),
            scores::<ModifiedZscoreWindow>(width, &[], &rows),
            scores::<IqrScoreWindow>(width, &[], &rows),
        ];
        for i in 0..rows.len() {
            let others: Vec<f64> = rows[i.saturating_sub(width)..i]
                .iter().flatten().copied().filter(|x| x.is_finite()).collect();
            for (kind, found) in found.iter().enumerate() {
                let expected = rows[i].and_then(|x| naive(kind, &others, x));
                let close = match (found[i], expected) {
                    (Some(a), Some(b)) => same(found[i], expected, 1e-9) || (a - b).abs() < 1e-9
                        // All equal but for rounding in the naive sum of squares.
                        || (kind == 0 && a == 0.0 && b.abs() <= 1.0 && others.windows(2).all(|w| w[0] == w[1])),
                    (a, b) => a == b,
                };
                prop_assert!(close, "kind {} row {}: {:?} instead of {:?}", kind, i, found[i], expected);
            }
        }
    }

    #[test]
    fn anomaly_score_is_a_probability(rows in rows(), width in 1usize..40) {
        for score in scores::<AnomalyScoreWindow>(width, &[], &rows).into_iter().flatten() {
            prop_assert!(score.is_nan() || (0.0..=1.0).contains(&score), "{}", score);
        }
    }
}
