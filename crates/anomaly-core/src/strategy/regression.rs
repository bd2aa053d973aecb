//! `statistical_regression`: residual of a robust regression on trend, season and calendar.
//!
//! Good at: series that a line, a known season and the hours and weekdays explain, forecast days
//! ahead by their true time. Bad at: seasons of unknown length and levels that wander (`seasonal`).
//! Cost: 1 µs a judgement and some µs a point learned, most of it for refits; 16 bytes per point of
//! the window.
//!
//! Model, over the latest `window` points: value = constant + slope·time + Σ_h (a_h·cos + b_h·sin)
//! (2πh·time/period) + effect of the local hour + effect of the local weekday + noise, fitted by
//! iteratively reweighted least squares with Huber's weights (Huber 1964; k = 1.345 and the median
//! absolute residual as scale, as statsmodels' RLM). A group of effects takes part when the window is
//! long enough to tell: the season one period, the hours two days, the weekdays two weeks. While the
//! latest eight learned points all lie beyond two spreads on the same side, forecasts of the next 24
//! points move by their median: a jump of the level is one event, and the window has time to make it its
//! own; further ahead it may have been an episode.
//!
//! Parameters: `include_trend`, `include_seasonal`, `include_hour`, `include_weekday` (true);
//! `seasonality`, the period in sampling intervals (24); `period_seconds`, the same in seconds;
//! `harmonics` (2: the period and its half); `window`, in points (1000).

use std::collections::VecDeque;
use std::f64::consts::TAU;

use serde_json::{Map, Value};

use super::forecast::{z_bounds, z_score};
use super::linear::Cholesky;
use super::location_scale::{Baseline, Fit, LocationScale, ROUNDING, finite};
use super::{
    Context, EntityModel, Kind, Strategy, bool_param, check_keys, integer_param, json_number,
    number_param,
};
use crate::Result;
use crate::calendar::Calendar;
use crate::codec::Reader;
use crate::point::Point;
use crate::seasonality::median;
use crate::verdict::Verdict;

const DAY: f64 = 86_400e6;
/// Huber's k: 95 % efficiency for normal noise.
const HUBER: f64 = 1.345;
/// The median absolute value of normal noise.
const MEDIAN: f64 = 0.674_489_750_196_081_7;
/// So many of the latest points, all beyond so many spreads on the same side, make a new level.
const SHIFT: usize = 8;
const SHIFT_SPREADS: f64 = 2.0;
/// For how many sampling intervals that holds.
const SHIFT_REACH: f64 = 24.0;
/// Constant, slope, hours, weekdays.
const MAX_FEATURES: usize = 2 + 2 * MAX_HARMONICS + 23 + 6;
const MAX_HARMONICS: usize = 10;

/// What takes part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Terms {
    trend: bool,
    harmonics: usize,
    hour: bool,
    weekday: bool,
}

impl Terms {
    fn dense(&self) -> usize {
        1 + usize::from(self.trend) + 2 * self.harmonics
    }

    fn features(&self) -> usize {
        self.dense() + 23 * usize::from(self.hour) + 6 * usize::from(self.weekday)
    }
}

/// Checked parameters.
#[derive(Debug, Clone)]
struct Config {
    terms: Terms,
    seasonality: f64,
    /// Microseconds; `None`: `seasonality` sampling intervals.
    period: Option<f64>,
    window: usize,
    calendar: Calendar,
}

/// See the module.
pub struct Regression {
    config: Config,
    kind: Kind,
}

impl Regression {
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        const KEYS: [&str; 8] = [
            "include_trend",
            "include_seasonal",
            "include_hour",
            "include_weekday",
            "seasonality",
            "period_seconds",
            "harmonics",
            "window",
        ];
        check_keys("statistical_regression", params, &KEYS)?;
        let harmonics = integer_param(params, "harmonics", 2, 1..=MAX_HARMONICS as u64)?;
        let seasonal = bool_param(params, "include_seasonal", true)?;
        Ok(Regression {
            kind: context.kind,
            config: Config {
                terms: Terms {
                    trend: bool_param(params, "include_trend", true)?,
                    harmonics: if seasonal { harmonics as usize } else { 0 },
                    hour: bool_param(params, "include_hour", true)?,
                    weekday: bool_param(params, "include_weekday", true)?,
                },
                seasonality: number_param(params, "seasonality", 2.0..=1e6)?.unwrap_or(24.0),
                period: number_param(params, "period_seconds", 1e-3..=1e10)?.map(|s| s * 1e6),
                window: integer_param(params, "window", 1000, 32..=10_000)? as usize,
                calendar: context.calendar.clone(),
            },
        })
    }
}

impl Strategy for Regression {
    fn name(&self) -> &'static str {
        "statistical_regression"
    }

    fn short_name(&self) -> &'static str {
        "regression"
    }

    fn statistic_name(&self) -> &'static str {
        "z-score"
    }

    fn algorithm(&self) -> u16 {
        5
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Regressor::new(self.config.clone())).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Regressor::decode(r, self.config.clone()))?))
    }
}

/// One row of the design: the first `dense` values as they are, and ones at two places behind them.
struct Features {
    values: [f64; 2 + 2 * MAX_HARMONICS],
    dense: usize,
    ones: [Option<usize>; 2],
}

impl Features {
    /// All of them, in order.
    fn spread_out(&self, size: usize) -> [f64; MAX_FEATURES] {
        let mut all = [0.0; MAX_FEATURES];
        all[..self.dense].copy_from_slice(&self.values[..self.dense]);
        for one in self.ones.into_iter().flatten().filter(|one| *one < size) {
            all[one] = 1.0;
        }
        all
    }

    fn dot(&self, coefficients: &[f64]) -> f64 {
        let dense: f64 =
            self.values[..self.dense].iter().zip(coefficients).map(|(x, c)| x * c).sum();
        dense + self.ones.iter().flatten().map(|one| coefficients[*one]).sum::<f64>()
    }
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
struct Fitted {
    terms: Terms,
    /// Time of the newest point of the window, and length of the window in microseconds.
    origin: i64,
    span: f64,
    /// Microseconds.
    period: f64,
    /// Coefficients and scale are in units of 2^exponent.
    exponent: i32,
    coefficients: Vec<f64>,
    scale: f64,
    normal: Cholesky,
}

impl Fitted {
    fn features(&self, at: i64, calendar: &Calendar) -> Features {
        features(&self.terms, self.origin, self.span, self.period, at, calendar)
    }

    /// Expected value and the spread of a new point around it.
    fn predict(&self, at: i64, calendar: &Calendar) -> (f64, f64) {
        let features = self.features(at, calendar);
        let mut x = features.spread_out(self.normal.size());
        self.normal.forward(&mut x[..self.normal.size()]);
        let leverage: f64 = x[..self.normal.size()].iter().map(|v| v * v).sum();
        let spread = self.scale * (1.0 + leverage).sqrt();
        let centre = features.dot(&self.coefficients);
        (
            finite(libm::scalbn(centre, self.exponent)),
            finite(libm::scalbn(finite(spread), self.exponent)),
        )
    }
}

fn features(
    terms: &Terms,
    origin: i64,
    span: f64,
    period: f64,
    at: i64,
    calendar: &Calendar,
) -> Features {
    let elapsed = (i128::from(at) - i128::from(origin)) as f64;
    let mut values = [0.0; 2 + 2 * MAX_HARMONICS];
    values[0] = 1.0;
    let mut next = 1;
    if terms.trend {
        values[next] = elapsed / span;
        next += 1;
    }
    if terms.harmonics > 0 {
        let cycles = elapsed / period;
        let (sin, cos) = libm::sincos(TAU * (cycles - cycles.floor()));
        let (mut c, mut s) = (cos, sin);
        for _ in 0..terms.harmonics {
            values[next] = c;
            values[next + 1] = s;
            next += 2;
            (c, s) = (c * cos - s * sin, s * cos + c * sin);
        }
    }
    let mut ones = [None; 2];
    if terms.hour || terms.weekday {
        let local = calendar.local(at);
        let hour = local.hour() as usize;
        // Hour 0 and Monday are the reference.
        if terms.hour && hour > 0 {
            ones[0] = Some(next + hour - 1);
        }
        let weekday = usize::from(local.weekday);
        if terms.weekday && weekday > 0 {
            ones[1] = Some(next + 23 * usize::from(terms.hour) + weekday - 1);
        }
    }
    Features { values, dense: next, ones }
}

/// Weighted normal equations: the lower triangle of XᵀWX row by row, and XᵀWy.
fn normal_equations(
    rows: &[Features],
    y: &[f64],
    weights: &[f64],
    size: usize,
) -> (Vec<f64>, Vec<f64>) {
    let mut a = vec![0.0; size * (size + 1) / 2];
    let mut b = vec![0.0; size];
    let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
    for ((row, y), w) in rows.iter().zip(y).zip(weights) {
        let dense = &row.values[..row.dense];
        for (i, x) in dense.iter().enumerate() {
            let wx = w * x;
            for (j, other) in dense[..=i].iter().enumerate() {
                a[at(i, j)] += wx * other;
            }
            b[i] += wx * y;
        }
        for one in row.ones.iter().flatten() {
            for (j, x) in dense.iter().enumerate() {
                a[at(*one, j)] += w * x;
            }
            a[at(*one, *one)] += w;
            b[*one] += w * y;
        }
        if let [Some(hour), Some(weekday)] = row.ones {
            a[at(weekday, hour)] += w;
        }
    }
    (a, b)
}

/// What is added to the diagonal of the normal equations, relatively: where harmonics of a day meet the
/// effects of its hours, they are singular but for rounding, and forecasts would be cancellations of
/// coefficients without bounds.
const RIDGE: f64 = 1e-7;

/// Coefficients by the normal equations, and their decomposition. Corrections by what is left of the
/// gradient take the bias of the ridge back where the data say anything.
fn solve_stably(
    rows: &[Features],
    y: &[f64],
    weights: &[f64],
    mut a: Vec<f64>,
    mut b: Vec<f64>,
) -> (Vec<f64>, Cholesky) {
    let size = b.len();
    for i in 0..size {
        a[i * (i + 1) / 2 + i] *= 1.0 + RIDGE;
    }
    let normal = Cholesky::new(size, a);
    normal.solve(&mut b);
    for _ in 0..2 {
        let mut gradient = vec![0.0; size];
        for ((row, y), w) in rows.iter().zip(y).zip(weights) {
            let error = w * (y - row.dot(&b));
            for (g, x) in gradient.iter_mut().zip(&row.values[..row.dense]) {
                *g += error * x;
            }
            for one in row.ones.iter().flatten() {
                gradient[*one] += error;
            }
        }
        normal.solve(&mut gradient);
        for (b, correction) in b.iter_mut().zip(&gradient) {
            *b += correction;
        }
    }
    (b, normal)
}

fn huber(residual: f64, scale: f64) -> f64 {
    if residual.abs() <= HUBER * scale || scale <= 1e-13 {
        1.0
    } else {
        HUBER * scale / residual.abs()
    }
}

/// A fit by least squares with Huber's weights: coefficients, scale, and XᵀWX.
///
/// `residuals` are those of a fit nearby, to begin with, or 0.
fn fit_robust(
    rows: &[Features],
    y: &[f64],
    size: usize,
    mut residuals: Vec<f64>,
) -> (Vec<f64>, f64, Cholesky) {
    let mut work: Vec<f64> = residuals.iter().map(|r| r.abs()).collect();
    let mut previous = median(&mut work) / MEDIAN;
    let mut weights: Vec<f64> = residuals.iter().map(|r| huber(*r, previous)).collect();
    let mut round = 0;
    loop {
        let (a, b) = normal_equations(rows, y, &weights, size);
        let (b, normal) = solve_stably(rows, y, &weights, a, b);
        let mut change = 0.0_f64;
        for ((residual, row), y) in residuals.iter_mut().zip(rows).zip(y) {
            let new = y - row.dot(&b);
            change = change.max((new - *residual).abs());
            *residual = new;
        }
        work.clear();
        work.extend(residuals.iter().map(|r| r.abs()));
        let scale = median(&mut work) / MEDIAN;
        // Residuals of rounding noise would make weights of their own.
        let settled = round > 0 && change <= 1e-4 * scale.max(previous);
        if scale <= 1e-13 || settled || round == 30 {
            return (b, scale, normal);
        }
        previous = scale;
        for (w, r) in weights.iter_mut().zip(&residuals) {
            *w = huber(*r, scale);
        }
        round += 1;
    }
}

/// The window of one entity and the fit to it.
struct Regressor {
    config: Config,
    count: u64,
    /// Count at the last fit.
    fitted_at: u64,
    /// In the order they came.
    points: VecDeque<(i64, f64)>,
    fitted: Option<Fitted>,
    /// What the latest points add to every forecast; follows from the points and the fit.
    offset: f64,
}

impl Regressor {
    fn new(config: Config) -> Self {
        Regressor {
            config,
            count: 0,
            fitted_at: 0,
            points: VecDeque::new(),
            fitted: None,
            offset: 0.0,
        }
    }

    /// Each point at first, then with every eighth of the window.
    fn refit_due(&self) -> bool {
        let step = (self.points.len() / 8) as u64;
        self.count <= 48 || self.count - self.fitted_at >= step.max(3)
    }

    fn refit(&mut self) {
        self.fitted_at = self.count;
        let n = self.points.len();
        let mut times: Vec<i64> = self.points.iter().map(|p| p.0).collect();
        times.sort_unstable();
        let (Some(first), Some(origin)) = (times.first().copied(), times.last().copied()) else {
            return;
        };
        let between = |a: i64, b: i64| (i128::from(b) - i128::from(a)) as f64;
        let span = between(first, origin);
        let mut steps: Vec<f64> =
            times.windows(2).map(|t| between(t[0], t[1])).filter(|d| *d > 0.0).collect();
        let interval = if steps.is_empty() { 1.0 } else { median(&mut steps) };
        let period = self.config.period.unwrap_or(self.config.seasonality * interval);
        let wanted = &self.config.terms;
        let trend = wanted.trend && n >= 10 && span > 0.0;
        let harmonics =
            if span >= period && n >= 8 * wanted.harmonics { wanted.harmonics } else { 0 };
        let terms = Terms {
            trend,
            harmonics,
            hour: wanted.hour && span >= 2.0 * DAY && n >= 48,
            weekday: wanted.weekday && span >= 14.0 * DAY && n >= 28,
        };
        let largest = self.points.iter().fold(0.0_f64, |m, p| m.max(p.1.abs()));
        let exponent = if largest > 0.0 { libm::frexp(largest).1 } else { 0 };
        let span = span.max(1.0);
        let calendar = &self.config.calendar;
        let rows: Vec<Features> = self
            .points
            .iter()
            .map(|(at, _)| features(&terms, origin, span, period, *at, calendar))
            .collect();
        let y: Vec<f64> = self.points.iter().map(|p| libm::scalbn(p.1, -exponent)).collect();
        let size = terms.features();
        // The fit before is where most of the rounds can be saved.
        let nearby: Vec<f64> = match &self.fitted {
            Some(fitted) if fitted.terms == terms => self
                .points
                .iter()
                .zip(&y)
                .map(|((at, _), y)| {
                    let centre = fitted.features(*at, calendar).dot(&fitted.coefficients);
                    finite(y - libm::scalbn(centre, fitted.exponent - exponent))
                })
                .collect(),
            _ => vec![0.0; n],
        };
        let (coefficients, scale, normal) = fit_robust(&rows, &y, size, nearby);
        // Fitting k coefficients makes residuals smaller than the noise. The floor is rounding noise.
        let free = n.saturating_sub(size).max(1) as f64;
        let scale = scale * (n as f64 / free).sqrt();
        let scale = if scale > 0.0 { scale.max(1e-14) } else { 0.0 };
        self.fitted =
            Some(Fitted { terms, origin, span, period, exponent, coefficients, scale, normal });
    }

    /// The median residual of the latest points if they all tell of a new level, else 0.
    fn shift(&self) -> f64 {
        let Some(fitted) = &self.fitted else { return 0.0 };
        if self.points.len() < 2 * SHIFT {
            return 0.0;
        }
        let mut residuals = [0.0; SHIFT];
        for (residual, (at, value)) in residuals.iter_mut().zip(self.points.iter().rev()) {
            let (centre, spread) = fitted.predict(*at, &self.config.calendar);
            *residual = finite(value - centre);
            // Most of the time the newest point settles it.
            if residual.abs() <= SHIFT_SPREADS * spread {
                return 0.0;
            }
        }
        let above = residuals.iter().filter(|r| **r > 0.0).count();
        if above == 0 || above == SHIFT { median(&mut residuals) } else { 0.0 }
    }

    /// Expected value and spread at a time.
    fn predict(&self, at: i64) -> Option<(f64, f64)> {
        let fitted = self.fitted.as_ref()?;
        let (centre, spread) = fitted.predict(at, &self.config.calendar);
        let near = SHIFT_REACH * fitted.span / self.points.len() as f64;
        let ahead = (i128::from(at) - i128::from(self.points.back()?.0)) as f64;
        let offset = if ahead.abs() <= near { self.offset } else { 0.0 };
        Some((finite(centre + offset), spread))
    }

    fn decode(reader: &mut Reader<'_>, config: Config) -> Result<Self> {
        let mut state = Regressor::new(config);
        state.count = reader.u64()?;
        state.fitted_at = reader.u64()?;
        let n = reader.u32()? as usize;
        if n > state.config.window
            || n as u64 > state.count
            || state.fitted_at > state.count
            || n > reader.remaining() / 16
        {
            return Err(reader.corrupted("more points than the window has"));
        }
        for _ in 0..n {
            state.points.push_back((reader.i64()?, reader.finite("value")?));
        }
        state.fitted = match reader.u8()? {
            0 => None,
            1 => Some(Fitted::decode(reader, &state.config.terms)?),
            _ => return Err(reader.corrupted("unknown fit")),
        };
        if state.fitted.is_none() && n > 0 {
            return Err(reader.corrupted("points without a fit"));
        }
        state.offset = state.shift();
        Ok(state)
    }
}

impl Fitted {
    fn encode(&self, out: &mut Vec<u8>) {
        let bits = u8::from(self.terms.trend)
            | u8::from(self.terms.hour) << 1
            | u8::from(self.terms.weekday) << 2;
        out.push(bits);
        out.push(self.terms.harmonics as u8);
        out.extend_from_slice(&self.origin.to_le_bytes());
        out.extend_from_slice(&self.exponent.to_le_bytes());
        for v in [self.span, self.period, self.scale] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        for v in self.coefficients.iter().chain(self.normal.rows()) {
            out.extend_from_slice(&v.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>, wanted: &Terms) -> Result<Self> {
        let bits = reader.u8()?;
        let terms = Terms {
            trend: bits & 1 != 0,
            hour: bits & 2 != 0,
            weekday: bits & 4 != 0,
            harmonics: usize::from(reader.u8()?),
        };
        if bits > 7 || (terms.harmonics != 0 && terms.harmonics != wanted.harmonics) {
            return Err(reader.corrupted("unknown terms"));
        }
        let origin = reader.i64()?;
        let exponent = reader.u32()? as i32;
        let span = reader.finite("span")?;
        let period = reader.finite("period")?;
        let scale = reader.finite("scale")?;
        if !(-1100..=1100).contains(&exponent) || span <= 0.0 || period <= 0.0 || scale < 0.0 {
            return Err(reader.corrupted("fit out of range"));
        }
        let size = terms.features();
        let triangle = size * (size + 1) / 2;
        if reader.remaining() / 8 < size + triangle {
            return Err(reader.corrupted("fit is not complete"));
        }
        let mut coefficients = Vec::with_capacity(size);
        for _ in 0..size {
            coefficients.push(reader.finite("coefficient")?);
        }
        let mut rows = Vec::with_capacity(triangle);
        for _ in 0..triangle {
            rows.push(reader.f64()?);
        }
        let normal = Cholesky::from_rows(size, rows);
        let normal = normal.ok_or_else(|| reader.corrupted("fit is not positive definite"))?;
        Ok(Fitted { terms, origin, span, period, exponent, coefficients, scale, normal })
    }
}

impl Baseline for Regressor {
    /// Of the median absolute residual.
    const EFFICIENCY: f64 = 0.37;

    fn dof(&self, count: u64) -> f64 {
        let n = count.min(self.config.window as u64) as f64;
        let size = self.fitted.as_ref().map_or(1, |f| f.terms.features());
        (Self::EFFICIENCY * (n - size as f64)).max(0.0)
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        self.count += 1;
        if self.points.len() == self.config.window {
            self.points.pop_front();
        }
        self.points.push_back((point.at, point.value));
        if self.refit_due() {
            self.refit();
        }
        self.offset = self.shift();
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        let (centre, spread) = self.predict(point.at)?;
        // Rounding noise of the terms that a forecast is the sum of, which may be 0 itself.
        let exponent = self.fitted.as_ref().map_or(0, |f| f.exponent);
        let spread = if spread > libm::scalbn(ROUNDING, exponent) { spread } else { 0.0 };
        Some(Fit { centre, below: spread, above: spread })
    }

    fn statistic(&self, point: &Point, fit: &Fit) -> f64 {
        z_score(point.value, fit)
    }

    fn bounds(&self, _point: &Point, fit: &Fit, threshold: f64) -> (f64, f64) {
        z_bounds(fit, threshold)
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let Some(fitted) = &self.fitted else { return };
        let Some((centre, spread)) = self.predict(verdict.at) else { return };
        map.insert("z_score".into(), json_number(verdict.statistic));
        map.insert("predicted_value".into(), json_number(centre));
        map.insert("residual".into(), json_number(finite(verdict.value - centre)));
        map.insert("residual_std".into(), json_number(spread));
        map.insert("period_seconds".into(), json_number(fitted.period / 1e6));
        let slope = if fitted.terms.trend {
            libm::scalbn(fitted.coefficients[1], fitted.exponent) / fitted.span * DAY
        } else {
            0.0
        };
        map.insert("trend_per_day".into(), json_number(finite(slope)));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.fitted_at.to_le_bytes());
        out.extend_from_slice(&(self.points.len() as u32).to_le_bytes());
        for (at, value) in &self.points {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        match &self.fitted {
            None => out.push(0),
            Some(fitted) => {
                out.push(1);
                fitted.encode(out);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn regressor(params: Value) -> Regressor {
        let context = Context::new(Calendar::default(), Kind::Value);
        let made = Regression::new(params.as_object().unwrap(), &context).unwrap();
        Regressor::new(made.config)
    }

    const HOUR: i64 = 3_600_000_000;

    /// 200 hours of trend, day and noise, with outliers.
    fn series() -> Vec<f64> {
        let value = |i: usize| {
            let noise = ((7919 * i) % 1000) as f64 / 1000.0 - 0.5;
            10.0 + 0.05 * i as f64 + 3.0 * (TAU * i as f64 / 24.0).sin() + noise
        };
        let mut y: Vec<f64> = (0..200).map(value).collect();
        y[30] += 15.0;
        y[77] -= 12.0;
        y[150..153].iter_mut().for_each(|v| *v += 8.0);
        y
    }

    /// statsmodels 0.15, columns 1, (i−199)/199, cos and sin of 2π(i−199)/24 and of twice that:
    /// `OLS(y, X).fit()` and `RLM(y, X, M=HuberT()).fit(tol=1e-12, maxiter=200)`.
    #[test]
    fn check_c17_coefficients_are_those_of_statsmodels() {
        let params = json!({"include_hour": false, "include_weekday": false});
        let mut state = regressor(params);
        let y = series();
        for (i, v) in y.iter().enumerate() {
            state.points.push_back((i as i64 * HOUR, *v));
        }
        state.count = 200;
        state.refit();
        let fitted = state.fitted.as_ref().unwrap();
        let robust = [
            20.043074842148087,
            10.141789046656315,
            2.9006302808752356,
            -0.7836434792560811,
            0.2216104952716973,
            -0.145562475038085,
        ];
        for (c, expected) in fitted.coefficients.iter().zip(robust) {
            let c = libm::scalbn(*c, fitted.exponent);
            assert!((c - expected).abs() < 2e-4, "{c} is not {expected}");
        }
        let scale = libm::scalbn(fitted.scale, fitted.exponent) / (200.0f64 / 194.0).sqrt();
        assert!((scale - 0.1629991638567143).abs() < 2e-4, "{scale}");

        let rows: Vec<Features> =
            (0..200).map(|i| fitted.features(i * HOUR, &state.config.calendar)).collect();
        let (a, mut b) = normal_equations(&rows, &y, &[1.0; 200], 6);
        Cholesky::new(6, a).solve(&mut b);
        let least_squares = [
            20.13994911658569,
            10.077230264426902,
            3.1574304637025943,
            -0.7604860839596757,
            0.46219666145851096,
            -0.08316458790433404,
        ];
        for (c, expected) in b.iter().zip(least_squares) {
            assert!((c - expected).abs() < 1e-10, "{c} is not {expected}");
        }
    }

    /// Each group of effects finds its own signal, and only when it is switched on.
    #[test]
    fn check_c17_hours_and_weekdays_can_be_switched_off() {
        let value = |i: i64| {
            let (hour, weekday) = (i % 24, i / 24 % 7);
            100.0 + if hour == 5 { 20.0 } else { 0.0 } + if weekday == 3 { 50.0 } else { 0.0 }
        };
        for (hour, weekday, expected) in
            [(true, true, 0.5), (false, true, 20.0), (true, false, 50.0)]
        {
            let mut state = regressor(json!({
                "include_hour": hour, "include_weekday": weekday, "include_trend": false,
                "include_seasonal": false,
            }));
            for i in 0..24 * 7 * 5 {
                let wiggle = ((i * 7919) % 100) as f64 / 100.0;
                state.push(&Point::new(i * HOUR, value(i) + wiggle));
            }
            let mut worst = 0.0_f64;
            for i in 24 * 7 * 5..24 * 7 * 6 {
                let fit = state.fit(&Point::new(i * HOUR, 0.0)).unwrap();
                worst = worst.max((fit.centre - value(i)).abs());
            }
            assert!(
                (0.5 * expected..1.5 * expected + 0.5).contains(&worst),
                "{hour} {weekday}: {worst}"
            );
        }
    }

    /// With hourly points the harmonics of a day are sums of the effects of its hours: how much of a course
    /// is which is arbitrary, and the forecast is not.
    #[test]
    fn harmonics_and_hours_do_not_fight() {
        for (params, low, high) in
            [(json!({}), 0.3, 5.0), (json!({}), 0.3, 0.3), (json!({"harmonics": 5}), -1e6, 1e6)]
        {
            let mut state = regressor(params);
            let value = |i: i64| {
                let last_digits = f64::EPSILON * ((i * 7919) % 5 - 2) as f64;
                (1.0 + last_digits) * if i % 24 < 12 { low } else { high }
            };
            for i in 0..2000 {
                state.push(&Point::new(i * HOUR, value(i)));
                if i > 1000 {
                    let fit = state.fit(&Point::new((i + 1) * HOUR, 0.0)).unwrap();
                    let error = (fit.centre - value(i + 1)) / high;
                    assert!(error.abs() < 1e-9, "{low} {high} {i}: {error:e}");
                }
            }
        }
    }

    /// The period in seconds counts, whatever the sampling; without it, sampling intervals do.
    #[test]
    fn the_period_is_given_in_points_or_in_seconds() {
        for (params, minutes) in
            [(json!({"seasonality": 60}), 10), (json!({"period_seconds": 36_000}), 15)]
        {
            let mut state = regressor(params);
            let value = |i: i64| (TAU * (i * minutes) as f64 / 600.0).sin() * 10.0;
            for i in 0..400 {
                let wiggle = ((i * 7919) % 100) as f64 / 100.0;
                state.push(&Point::new(i * minutes * HOUR / 60, value(i) + wiggle));
            }
            for i in 420..480 {
                let fit = state.fit(&Point::new(i * minutes * HOUR / 60, 0.0)).unwrap();
                assert!((fit.centre - value(i) - 0.5).abs() < 1.0, "{minutes} {i}: {fit:?}");
            }
        }
    }
}
