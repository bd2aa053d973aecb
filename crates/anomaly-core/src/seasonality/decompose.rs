//! Trend, seasons and remainder: STL with robust weights, and MSTL for several periods.
//!
//! Cleveland, Cleveland, McRae and Terpenning 1990 (STL); Bandara, Hyndman and Bergmeir 2021 (MSTL).
//! Our own and not a library because missing values are part of it: they have weight 0 in every
//! local regression, and season and trend are defined there all the same.

use super::loess::Smoother;
use super::{median, scaled};
use crate::progress::Progress;
use crate::{Error, Result};

/// More values than this are refused: several copies of the series are held.
pub const MAX_LENGTH: usize = 10_000_000;
/// As many as [`super::detect_periods`] finds, and some.
const MAX_PERIODS: usize = 8;

/// How to decompose.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Bisquare weights, so that outliers do not change trend and season.
    pub robust: bool,
    /// How many values of the same phase the season is smoothed over, per period in the order of
    /// length, odd and at least 3; empty: 11, 15, 19 … as MSTL does.
    pub windows: Vec<usize>,
    /// How many values the trend is smoothed over, odd; `None`: 1.5 periods and some, as STL does.
    pub trend: Option<usize>,
    /// Loess is fitted at every so many points; `None`: at every tenth of its window.
    pub jump: Option<usize>,
    /// Passes over the periods, when there are several.
    pub passes: usize,
    /// Rounds of robust weights, at most.
    pub rounds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            robust: true,
            windows: Vec::new(),
            trend: None,
            jump: None,
            passes: 2,
            rounds: 15,
        }
    }
}

/// value = trend + seasons + residual, each as long as the series.
#[derive(Debug, Clone, PartialEq)]
pub struct Decomposition {
    pub trend: Vec<f64>,
    /// The periods, ascending.
    pub periods: Vec<usize>,
    /// One per period.
    pub seasonals: Vec<Vec<f64>>,
    /// NaN where the value is missing.
    pub residual: Vec<f64>,
}

/// Decomposes an equally spaced series; NaN and infinities are missing values.
///
/// Without periods there is a trend only. With no finite value at all everything is NaN.
/// `InvalidParameter` for a period below 2 or above half of the length, and for windows that are not
/// odd or not one per period; `TooLarge` beyond [`MAX_LENGTH`].
pub fn decompose(
    values: &[f64],
    periods: &[usize],
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Decomposition> {
    let n = values.len();
    if n > MAX_LENGTH {
        return Err(Error::TooLarge(format!("{n} values exceed {MAX_LENGTH}")));
    }
    let mut periods = periods.to_vec();
    periods.sort_unstable();
    periods.dedup();
    check(n, &periods, options)?;

    let (mut y, exponent) = scaled(values);
    let present: Option<Vec<bool>> =
        y.iter().any(|v| v.is_nan()).then(|| y.iter().map(|v| !v.is_nan()).collect());
    if present.as_ref().is_some_and(|p| !p.contains(&true)) {
        let missing = vec![f64::NAN; n];
        let seasonals = vec![missing.clone(); periods.len()];
        return Ok(Decomposition { trend: missing.clone(), periods, seasonals, residual: missing });
    }
    // Anything finite does: it has no weight.
    y.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 0.0);

    let mut stl = Stl::new(n, options, present.as_deref());
    let mut seasonals = vec![vec![0.0; n]; periods.len()];
    let mut trend = vec![0.0; n];
    let mut rest = y.clone();
    if periods.is_empty() {
        stl.trend_only(&y, &mut trend, progress)?;
    }
    let passes = if periods.len() > 1 { options.passes.max(1) } else { 1 };
    for _ in 0..passes {
        for (i, (period, seasonal)) in periods.iter().zip(&mut seasonals).enumerate() {
            add(&mut rest, seasonal, 1.0);
            let window = options.windows.get(i).copied().unwrap_or(11 + 4 * i);
            stl.fit(&rest, *period, window, seasonal, &mut trend, progress)?;
            add(&mut rest, seasonal, -1.0);
        }
    }
    let mut residual = rest;
    add(&mut residual, &trend, -1.0);
    if let Some(present) = &present {
        for (r, present) in residual.iter_mut().zip(present) {
            if !present {
                *r = f64::NAN;
            }
        }
    }
    for series in seasonals.iter_mut().chain([&mut trend, &mut residual]) {
        // Sums of halves: a component may be larger than any value, up to infinity at 1e308.
        series.iter_mut().for_each(|v| *v = libm::scalbn(*v, exponent).clamp(-f64::MAX, f64::MAX));
    }
    Ok(Decomposition { trend, periods, seasonals, residual })
}

fn check(n: usize, periods: &[usize], options: &Options) -> Result<()> {
    if periods.len() > MAX_PERIODS {
        return Err(Error::invalid(
            format!("{} periods are too many", periods.len()),
            format!("Give at most {MAX_PERIODS} periods."),
        ));
    }
    if let Some(period) = periods.iter().find(|p| **p < 2 || **p > n / 2) {
        return Err(Error::invalid(
            format!("period {period} does not fit a series of {n} values"),
            "A period is a number of values, at least 2 and at most half of the series.",
        ));
    }
    let windows = &options.windows;
    if !windows.is_empty() && windows.len() != periods.len() {
        return Err(Error::invalid(
            format!("{} windows for {} periods", windows.len(), periods.len()),
            "Give one window for each period, or none.",
        ));
    }
    let odd = windows.iter().chain(&options.trend);
    if let Some(window) = odd.clone().find(|w| **w < 3 || **w % 2 == 0 || **w > MAX_LENGTH) {
        return Err(Error::invalid(
            format!("window {window} is not an odd number of at least 3"),
            "Windows are odd numbers of values from 3 on.",
        ));
    }
    Ok(())
}

fn add(sum: &mut [f64], other: &[f64], sign: f64) {
    sum.iter_mut().zip(other).for_each(|(a, b)| *a += sign * b);
}

fn odd_from(n: usize) -> usize {
    n | 1
}

/// What one run after the other shares: options, missing values, buffers.
struct Stl<'a> {
    options: &'a Options,
    present: Option<&'a [bool]>,
    /// Robust weights times presence.
    weights: Vec<f64>,
    weighted: bool,
    /// As long as the series.
    buffer: Vec<f64>,
    /// A period longer on either side.
    cycles: Vec<f64>,
    averages: [Vec<f64>; 2],
    work: Vec<f64>,
}

impl<'a> Stl<'a> {
    fn new(n: usize, options: &'a Options, present: Option<&'a [bool]>) -> Self {
        Stl {
            options,
            present,
            weights: vec![1.0; n],
            weighted: false,
            buffer: vec![0.0; n],
            cycles: Vec::new(),
            averages: [Vec::new(), Vec::new()],
            work: Vec::new(),
        }
    }

    fn smoother(&self, window: usize) -> Smoother {
        let jump = self.options.jump.unwrap_or(window.div_ceil(10)).max(1);
        Smoother { window, degree: 1, jump }
    }

    fn reset_weights(&mut self) {
        self.weighted = self.present.is_some();
        match self.present {
            Some(present) => {
                self.weights.iter_mut().zip(present).for_each(|(w, p)| *w = f64::from(u8::from(*p)))
            }
            None => self.weights.fill(1.0),
        }
    }

    /// Bisquare weights of the residuals `y − fit`, 0 beyond six medians of their absolute values.
    /// True when nothing changed any more.
    fn reweight(&mut self, y: &[f64], fit: impl Fn(usize) -> f64) -> bool {
        let is_present = |i: usize| self.present.is_none_or(|p| p[i]);
        let residuals = &mut self.buffer;
        residuals.iter_mut().zip(y).enumerate().for_each(|(i, (r, y))| *r = (y - fit(i)).abs());
        self.work.clear();
        self.work.extend((0..y.len()).filter(|i| is_present(*i)).map(|i| residuals[i]));
        let limit = 6.0 * median(&mut self.work);
        let mut change = 0.0_f64;
        for (i, (r, weight)) in residuals.iter().zip(&mut self.weights).enumerate() {
            let w = if !is_present(i) || *r > 0.999 * limit {
                0.0
            } else if *r <= 0.001 * limit {
                1.0
            } else {
                let u = r / limit;
                (1.0 - u * u) * (1.0 - u * u)
            };
            change = change.max((w - *weight).abs());
            *weight = w;
        }
        let settled = self.weighted && change < 1e-6;
        self.weighted = true;
        settled
    }

    /// A robust loess over a third of the series, for one without periods.
    fn trend_only(
        &mut self,
        y: &[f64],
        out: &mut [f64],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        self.reset_weights();
        let window = self.options.trend.unwrap_or(odd_from((y.len() / 3).max(7)));
        let smoother = self.smoother(window);
        let rounds = if self.options.robust { self.options.rounds } else { 0 };
        for round in 0..=rounds {
            progress.tick()?;
            let weights = self.weighted.then_some(&self.weights[..]);
            smooth(&smoother, y, weights, self.present, out, &mut self.work);
            if round == rounds || self.reweight(y, |i| out[i]) {
                break;
            }
        }
        Ok(())
    }

    /// One STL: season and trend of `y`.
    fn fit(
        &mut self,
        y: &[f64],
        period: usize,
        window: usize,
        seasonal: &mut [f64],
        trend: &mut [f64],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let n = y.len();
        self.reset_weights();
        trend.fill(0.0);
        let of_season = self.smoother(window);
        let of_trend = self.smoother(self.options.trend.unwrap_or_else(|| {
            odd_from((1.5 * period as f64 / (1.0 - 1.5 / window as f64)).ceil() as usize)
        }));
        let low_pass = self.smoother(odd_from(period + 1));
        // As statsmodels: two inner rounds for robust fits, which have outer ones too, else five.
        let (inner, outer) = if self.options.robust { (2, self.options.rounds) } else { (5, 0) };
        for round in 0..=outer {
            for _ in 0..inner {
                progress.tick()?;
                for i in 0..n {
                    self.buffer[i] = y[i] - trend[i];
                }
                self.smooth_cycles(period, &of_season);
                progress.tick()?;
                let Stl { cycles, averages, buffer, weights, work, .. } = self;
                let [a, b] = averages;
                moving_average(cycles, period, a);
                moving_average(a, period, b);
                moving_average(b, 3, a);
                low_pass.smooth(a, None, buffer, work);
                progress.tick()?;
                for i in 0..n {
                    seasonal[i] = cycles[period + i] - buffer[i];
                    buffer[i] = y[i] - seasonal[i];
                }
                let weights = self.weighted.then_some(&weights[..]);
                smooth(&of_trend, buffer, weights, self.present, trend, work);
            }
            if round == outer || self.reweight(y, |i| trend[i] + seasonal[i]) {
                break;
            }
        }
        Ok(())
    }

    /// Smooths the values of each phase on their own, one further on either side: `buffer` → `cycles`.
    fn smooth_cycles(&mut self, period: usize, smoother: &Smoother) {
        let n = self.buffer.len();
        self.cycles.clear();
        self.cycles.resize(n + 2 * period, 0.0);
        let [values, smoothed] = &mut self.averages;
        let mut phase_weights = Vec::new();
        let mut phase_present = Vec::new();
        for phase in 0..period {
            let of_phase = || (phase..n).step_by(period);
            values.clear();
            values.extend(of_phase().map(|i| self.buffer[i]));
            let k = values.len();
            smoothed.clear();
            smoothed.resize(k, 0.0);
            phase_weights.clear();
            phase_weights.extend(of_phase().map(|i| self.weights[i]));
            let present = self.present.map(|present| {
                phase_present.clear();
                phase_present.extend(of_phase().map(|i| present[i]));
                &phase_present[..]
            });
            let weights = self.weighted.then_some(&phase_weights[..]);
            smooth(smoother, values, weights, present, smoothed, &mut self.work);
            let before = smoother.before(values, weights, &mut self.work).unwrap_or(smoothed[0]);
            let after = smoother.after(values, weights, &mut self.work).unwrap_or(smoothed[k - 1]);
            self.cycles[phase] = before;
            for (m, v) in smoothed.iter().enumerate() {
                self.cycles[(m + 1) * period + phase] = *v;
            }
            self.cycles[(k + 1) * period + phase] = after;
        }
    }
}

/// As [`Smoother::smooth`]; where it had to fall back on a missing value, linear between those beside
/// it, and where there are none, 0.
fn smooth(
    smoother: &Smoother,
    y: &[f64],
    weights: Option<&[f64]>,
    present: Option<&[bool]>,
    out: &mut [f64],
    work: &mut Vec<f64>,
) {
    let Some(present) = present else {
        smoother.smooth(y, weights, out, work);
        return;
    };
    if !present.contains(&true) {
        out.fill(0.0);
        return;
    }
    // The fallback is the value itself: make that of a missing one its neighbours'.
    let filled = interpolated(y, present);
    smoother.smooth(&filled, weights, out, work);
}

/// Missing values linear between their neighbours, constant at the ends.
fn interpolated(y: &[f64], present: &[bool]) -> Vec<f64> {
    let mut filled = y.to_vec();
    let mut last: Option<usize> = None;
    for i in (0..y.len()).filter(|i| present[*i]) {
        match last {
            None => filled[..i].fill(y[i]),
            Some(last) => {
                let step = (y[i] - y[last]) / (i - last) as f64;
                for (k, v) in filled[last..i].iter_mut().enumerate() {
                    *v = y[last] + step * k as f64;
                }
            }
        }
        last = Some(i);
    }
    if let Some(last) = last {
        filled[last..].fill(y[last]);
    }
    filled
}

/// Means of `window` values in a row, `window − 1` fewer than there are values.
fn moving_average(x: &[f64], window: usize, out: &mut Vec<f64>) {
    out.clear();
    let mut sum: f64 = x[..window].iter().sum();
    out.push(sum / window as f64);
    for i in window..x.len() {
        sum += x[i] - x[i - window];
        out.push(sum / window as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use proptest::prelude::*;

    use super::*;
    use crate::progress::{StopAfter, Unbounded};

    fn noise(i: usize) -> f64 {
        ((7919 * i) % 1000) as f64 / 1000.0 - 0.5
    }

    fn monthly() -> Vec<f64> {
        let mut y: Vec<f64> = (0..120)
            .map(|i| 10.0 + 0.05 * i as f64 + 3.0 * (TAU * i as f64 / 12.0).sin() + noise(i))
            .collect();
        y[30] += 15.0;
        y[77] -= 12.0;
        y
    }

    fn two_seasons() -> Vec<f64> {
        let season = |i: f64| 2.0 * (TAU * i / 7.0).sin() + 3.0 * (TAU * i / 30.0).cos();
        let mut y: Vec<f64> =
            (0..400).map(|i| 5.0 - 0.01 * i as f64 + season(i as f64) + noise(i)).collect();
        y[200] += 20.0;
        y
    }

    fn run(y: &[f64], periods: &[usize], options: &Options) -> Decomposition {
        decompose(y, periods, options, &mut Unbounded).unwrap()
    }

    fn assert_values(series: &[f64], at: &[usize], expected: &[f64], tolerance: f64) {
        for (i, expected) in at.iter().zip(expected) {
            let v = series[*i];
            assert!((v - expected).abs() < tolerance, "at {i}: {v} is not {expected}");
        }
    }

    /// statsmodels 0.15 `STL(y, period=12, seasonal=7, robust=…).fit()`; the robust fit is compared
    /// less exactly because ours ends when the weights have settled.
    #[test]
    fn one_period_is_that_of_statsmodels_stl() {
        let y = monthly();
        let at = [0, 30, 59, 77, 119];
        let options =
            |robust| Options { robust, windows: vec![7], jump: Some(1), ..Options::default() };
        let plain = run(&y, &[12], &options(false));
        let trend = [
            9.8724674456412,
            12.693170773635215,
            12.963411891557946,
            12.862651276644938,
            15.971092662323844,
        ];
        let seasonal = [
            -0.49206009492302344,
            3.218887084727401,
            -1.653204452008093,
            -1.395428573394077,
            -1.7297970610303564,
        ];
        let residual = [
            0.119592649281822,
            10.65794214163739,
            -0.13920743954985504,
            -7.854222703250858,
            0.0697043987064987,
        ];
        assert_values(&plain.trend, &at, &trend, 1e-9);
        assert_values(&plain.seasonals[0], &at, &seasonal, 1e-9);
        assert_values(&plain.residual, &at, &residual, 1e-9);

        let robust = run(&y, &[12], &options(true));
        let trend = [
            9.85195847885622,
            11.541461612225499,
            12.90689407074217,
            13.819817061556083,
            16.028449552818778,
        ];
        let seasonal = [
            -0.3475955114404453,
            0.10573857954684394,
            -1.7322076269711464,
            1.7861229704619042,
            -1.7186016766776198,
        ];
        assert_values(&robust.trend, &at, &trend, 1e-5);
        assert_values(&robust.seasonals[0], &at, &seasonal, 1e-5);
    }

    /// statsmodels 0.15 `MSTL(y, periods=(7, 30), stl_kwargs={"robust": …}).fit()`.
    #[test]
    fn several_periods_are_those_of_statsmodels_mstl() {
        let y = two_seasons();
        let at = [0, 100, 200, 399];
        let expected = [
            (
                false,
                [5.044515722159913, 3.9963941144729085, 3.695668538970493, 1.0227129015647884],
                [-0.20372038974950396, 1.951512430364342, 2.024998666623581, 0.06261624802907385],
                [2.8938736393786875, -1.5085958388002287, 0.5827361771854734, -0.9469880379279653],
            ),
            (
                true,
                [5.059638117259111, 3.993736872722817, 2.9903436572205306, 1.0367454643254765],
                [0.22438226881557227, 2.051242471403001, -0.9537667854219168, 0.000490702407991683],
                [2.752948500180667, -1.5314424813426852, -1.5371508558561733, -0.8756936581213761],
            ),
        ];
        for (robust, trend, week, month) in expected {
            let options = Options { robust, jump: Some(1), ..Options::default() };
            let parts = run(&y, &[30, 7], &options);
            assert_eq!(parts.periods, [7, 30]);
            let tolerance = if robust { 1e-4 } else { 1e-9 };
            assert_values(&parts.trend, &at, &trend, tolerance);
            assert_values(&parts.seasonals[0], &at, &week, tolerance);
            assert_values(&parts.seasonals[1], &at, &month, tolerance);
        }
    }

    #[test]
    fn jumps_change_little() {
        let y = two_seasons();
        let exact = run(&y, &[7, 30], &Options { jump: Some(1), ..Options::default() });
        let fast = run(&y, &[7, 30], &Options::default());
        for i in 0..y.len() {
            assert!((exact.trend[i] - fast.trend[i]).abs() < 0.1, "{i}");
            assert!((exact.seasonals[1][i] - fast.seasonals[1][i]).abs() < 0.3, "{i}");
        }
    }

    #[test]
    fn an_outlier_stays_in_the_residual() {
        let y = monthly();
        let parts = run(&y, &[12], &Options::default());
        assert!((parts.residual[30] - 15.0).abs() < 1.0, "{}", parts.residual[30]);
        assert!((parts.residual[77] + 12.0).abs() < 1.0, "{}", parts.residual[77]);
    }

    #[test]
    fn missing_values_have_a_trend_and_a_season() {
        let clean = run(&monthly(), &[12], &Options::default());
        let mut y = monthly();
        y[30] = f64::NAN;
        y[77] = f64::INFINITY;
        y[50..58].fill(f64::NAN);
        // every January of the beginning: a phase that begins with a gap
        y[0] = f64::NAN;
        y[12] = f64::NAN;
        let parts = run(&y, &[12], &Options::default());
        let apart = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
        };
        assert!(apart(&parts.trend, &clean.trend) < 0.1);
        assert!(apart(&parts.seasonals[0], &clean.seasonals[0]) < 0.2);
        for (i, v) in y.iter().enumerate() {
            assert!((parts.trend[i] - clean.trend[i]).abs() < 1.0, "{i}");
            assert_eq!(parts.residual[i].is_nan(), !v.is_finite(), "{i}");
        }
    }

    #[test]
    fn empty_missing_constant_and_huge_series_are_defined() {
        let options = Options::default();
        let empty = run(&[], &[], &options);
        assert!(empty.trend.is_empty() && empty.residual.is_empty());
        let one = run(&[3.5], &[], &options);
        assert_eq!((one.trend[0], one.residual[0]), (3.5, 0.0));
        let missing = run(&[f64::NAN; 10], &[3], &options);
        assert!(missing.trend.iter().chain(&missing.seasonals[0]).all(|v| v.is_nan()));
        let constant = run(&[7.0; 50], &[5], &options);
        for i in 0..50 {
            assert!((constant.trend[i] - 7.0).abs() < 1e-12);
            assert!(constant.seasonals[0][i].abs() < 1e-12 && constant.residual[i].abs() < 1e-12);
        }
        for unit in [1e308, 5e-324 * 1e6] {
            let y: Vec<f64> = (0..48).map(|i| unit * ((i % 4) as f64 - 1.5)).collect();
            let parts = run(&y, &[4], &options);
            for i in 0..48 {
                let season = parts.seasonals[0][i] / unit;
                assert!((season - ((i % 4) as f64 - 1.5)).abs() < 0.01, "{unit}: {season}");
            }
        }
    }

    #[test]
    fn bad_periods_and_windows_are_refused() {
        let y = vec![0.0; 20];
        let windows =
            |windows: &[usize]| Options { windows: windows.to_vec(), ..Options::default() };
        for (periods, options) in [
            (vec![1], Options::default()),
            (vec![0], Options::default()),
            (vec![11], Options::default()),
            (vec![2, 3, 4, 5, 6, 7, 8, 9, 10], Options::default()),
            (vec![5], windows(&[7, 9])),
            (vec![5], windows(&[8])),
            (vec![5], windows(&[1])),
            (vec![5], Options { trend: Some(4), ..Options::default() }),
        ] {
            let result = decompose(&y, &periods, &options, &mut Unbounded);
            assert!(matches!(result, Err(Error::InvalidParameter { .. })), "{periods:?}");
        }
        let stopped = decompose(&y, &[5], &Options::default(), &mut StopAfter(1));
        assert_eq!(stopped, Err(Error::Stopped));
    }

    proptest! {
        #[test]
        fn parts_add_up_whatever_the_series(
            y in prop::collection::vec(
                prop_oneof![
                    6 => -100.0..100.0f64,
                    2 => Just(1.0),
                    1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -1e300, 1e300, 1e-310]),
                ],
                0..300,
            ),
            period in 2usize..40,
            robust: bool,
        ) {
            let periods: Vec<usize> =
                [period, 2 * period + 1].into_iter().filter(|p| *p <= y.len() / 2).collect();
            let options = Options { robust, rounds: 3, ..Options::default() };
            let parts = run(&y, &periods, &options);
            let largest = y.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
            for i in 0..y.len() {
                let season: f64 = parts.seasonals.iter().map(|s| s[i] / 4.0).sum();
                let sum = parts.trend[i] / 4.0 + season + parts.residual[i] / 4.0;
                prop_assert_eq!(parts.residual[i].is_nan(), !y[i].is_finite());
                if y[i].is_finite() {
                    prop_assert!((sum - y[i] / 4.0).abs() <= 1e-9 * largest);
                }
            }
        }
    }
}
