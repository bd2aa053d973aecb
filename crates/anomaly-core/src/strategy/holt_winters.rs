//! `statistical_holt_winters`: forecast error of triple exponential smoothing.
//!
//! Good at: regularly sampled series with one season of up to 512 points whose level, trend and season
//! drift. Bad at: several seasons, long ones and irregular sampling (`seasonal`). Cost: 1 µs a point and
//! some milliseconds for each of the rare searches for period and parameters; at most 13 kB a state.
//!
//! Additive season, damped trend (Hyndman and Athanasopoulos, "Forecasting: Principles and Practice",
//! 3rd edition, chapter 8), with the robust update of Gelper, Fried and Croux 2010 ("Robust forecasting
//! with exponential and Holt-Winters smoothing"): errors beyond two spreads count as two, and the spread
//! follows a bounded function of the errors. Times are rounded to a grid of the median sampling
//! interval; missing points are steps without an update. Period, smoothing parameters and initial state
//! come from the latest 1,024 cells of that grid, whenever the number of points has doubled, later each
//! 4,096 points. A jump of the level that has lasted eight learned points is followed at once.
//!
//! Parameters: `period`, in points (0: none; by default found in the data); `alpha`, `beta`, `gamma`,
//! `phi`: smoothing of level, trend and season, and damping (by default the combination of a grid with
//! the smallest forecast errors).

use serde_json::{Map, Value};

use super::forecast::{z_bounds, z_score};
use super::location_scale::{Baseline, Fit, LocationScale, finite};
use super::{
    Context, EntityModel, Kind, Strategy, check_keys, integer_param, json_number, number_param,
};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::seasonality::{detect_periods, median};
use crate::verdict::Verdict;

/// Cells of the grid that are kept.
const HISTORY: usize = 1024;
const MAX_PERIOD: usize = HISTORY / 2;
/// Gelper, Fried and Croux: errors count up to so many spreads, and the bounded function of the spread
/// has this height, which makes it consistent for normal noise.
const CLIP: f64 = 2.0;
const HEIGHT: f64 = 2.52;
/// How fast the spread follows; slower than the 0.1 to 0.3 of the paper, for the sake of the tails.
const SPREAD_RATE: f64 = 0.02;
/// Learned points in a row, beyond three spreads on the same side, that make a new level.
const SHIFT: usize = 8;
/// Beyond so many steps a forecast stays as it is.
const FAR: f64 = 1e4;

const ALPHAS: [f64; 5] = [0.02, 0.08, 0.2, 0.4, 0.7];
const BETAS: [f64; 3] = [0.0, 0.02, 0.1];
const GAMMAS: [f64; 3] = [0.03, 0.1, 0.3];
const PHIS: [f64; 2] = [0.9, 0.98];

/// Smoothing of level, trend and season, and damping of the trend.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Smoothing {
    alpha: f64,
    beta: f64,
    gamma: f64,
    phi: f64,
}

/// Parameters as given.
#[derive(Debug, Clone, Copy)]
struct Config {
    period: Option<usize>,
    alpha: Option<f64>,
    beta: Option<f64>,
    gamma: Option<f64>,
    phi: Option<f64>,
}

/// See the module.
pub struct HoltWinters {
    config: Config,
    kind: Kind,
}

impl HoltWinters {
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        const NAME: &str = "statistical_holt_winters";
        check_keys(NAME, params, &["period", "alpha", "beta", "gamma", "phi"])?;
        let period = match integer_param(params, "period", u64::MAX, 0..=MAX_PERIOD as u64)? {
            u64::MAX => None,
            1 => {
                return Err(crate::Error::invalid(
                    "parameter \"period\" is 1",
                    "It must be 0, for no season, or a whole number from 2 to 512.",
                ));
            }
            period => Some(period as usize),
        };
        Ok(HoltWinters {
            kind: context.kind,
            config: Config {
                period,
                alpha: number_param(params, "alpha", 1e-4..=1.0)?,
                beta: number_param(params, "beta", 0.0..=1.0)?,
                gamma: number_param(params, "gamma", 0.0..=1.0)?,
                phi: number_param(params, "phi", 0.5..=1.0)?,
            },
        })
    }
}

impl Strategy for HoltWinters {
    fn name(&self) -> &'static str {
        "statistical_holt_winters"
    }

    fn short_name(&self) -> &'static str {
        "holt_winters"
    }

    fn statistic_name(&self) -> &'static str {
        "z-score"
    }

    fn algorithm(&self) -> u16 {
        16
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(Model::new(self.config)).of_kind(self.kind))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        Ok(Box::new(LocationScale::decode(reader, |r| Model::decode(r, self.config))?))
    }
}

/// Level, trend, season and spread after some steps.
#[derive(Debug, Clone, PartialEq, Default)]
struct Smoothed {
    level: f64,
    /// Per step.
    trend: f64,
    /// One per cell of the period, empty without a season.
    season: Vec<f64>,
    /// Standard deviation of an error one step ahead.
    spread: f64,
    /// The latest errors, as far as they are beyond three spreads on one side.
    run: Vec<f64>,
}

impl Smoothed {
    fn season_at(&self, cell: i64) -> f64 {
        match self.season.len() as i64 {
            0 => 0.0,
            period => self.season[cell.rem_euclid(period) as usize],
        }
    }

    /// How far a damped trend leads in so many steps: φ + φ² + … + φ^steps.
    fn damped(phi: f64, steps: f64) -> f64 {
        if steps == 1.0 {
            phi
        } else if phi == 1.0 {
            steps
        } else {
            phi * (1.0 - libm::pow(phi, steps)) / (1.0 - phi)
        }
    }

    /// Level without season after so many steps.
    fn level_in(&self, smoothing: &Smoothing, steps: f64) -> f64 {
        finite(self.level + self.trend * Smoothed::damped(smoothing.phi, steps))
    }

    /// Learns the value of a cell, some steps after the last one, of which this much counts; gives the
    /// error of the forecast. No step for a late point.
    fn update(
        &mut self,
        smoothing: &Smoothing,
        cell: i64,
        steps: f64,
        value: f64,
        robust: bool,
    ) -> f64 {
        let before = self.level_in(smoothing, steps);
        let season = self.season_at(cell);
        let error = finite(value - finite(before + season));
        let counted = if robust {
            if self.follow_shift(before, error) {
                return error;
            }
            self.follow_spread(error);
            error.clamp(-CLIP * self.spread, CLIP * self.spread)
        } else {
            error
        };
        let level = finite(before + smoothing.alpha * counted);
        if steps > 0.0 {
            // The trend that the level's step shows, beside the damped one it had.
            let damped = self.trend * libm::pow(smoothing.phi, steps);
            let shown = finite(level - before) / steps;
            self.trend = finite(damped + smoothing.beta * shown);
        }
        self.level = level;
        let period = self.season.len() as i64;
        if period > 0 {
            let slot = &mut self.season[cell.rem_euclid(period) as usize];
            *slot = finite(*slot + smoothing.gamma * counted);
        }
        error
    }

    /// Whether this error completes a new level; then the level is there.
    fn follow_shift(&mut self, before: f64, error: f64) -> bool {
        let same_side = self.run.first().is_none_or(|first| (*first > 0.0) == (error > 0.0));
        if error.abs() <= 3.0 * self.spread || !same_side {
            self.run.clear();
        }
        if error.abs() > 3.0 * self.spread {
            self.run.push(error);
        }
        if self.run.len() < SHIFT {
            return false;
        }
        self.level = finite(before + median(&mut self.run));
        self.trend = 0.0;
        self.run.clear();
        true
    }

    fn follow_spread(&mut self, error: f64) {
        if self.spread <= 0.0 {
            return;
        }
        let u = (error / (CLIP * self.spread)).abs().min(1.0);
        let rest = 1.0 - u * u;
        let rho = HEIGHT * (1.0 - rest * rest * rest);
        self.spread = finite(self.spread * (1.0 - SPREAD_RATE + SPREAD_RATE * rho).sqrt());
    }
}

/// Differences at a lag between values that are there.
fn differences(y: &[f64], lag: usize) -> Vec<f64> {
    let pairs = y.iter().zip(y.iter().skip(lag));
    pairs.map(|(a, b)| finite(b - a)).filter(|d| !d.is_nan()).collect()
}

/// The median absolute value, as a standard deviation; of mostly zeros, that of the others.
fn robust_spread(values: &mut Vec<f64>) -> f64 {
    values.iter_mut().for_each(|v| *v = v.abs());
    let spread = median(values);
    if spread > 0.0 {
        return 1.4826 * spread;
    }
    values.retain(|v| *v > 0.0);
    if values.is_empty() { 0.0 } else { 1.4826 * median(values) }
}

/// Where smoothing begins: from the first cycles of a series whose cell 0 is `first`.
fn initial(y: &[f64], first: i64, period: usize) -> Smoothed {
    let lag = period.max(1);
    let slope = if y.len() >= 4 * lag && y.len() >= 16 {
        median(&mut differences(y, 2 * lag)) / (2 * lag) as f64
    } else {
        0.0
    };
    let slope = if slope.is_finite() { slope } else { 0.0 };
    let start = &y[..y.len().min((4 * period).max(12))];
    let straight = |i: usize| finite(start[i] - slope * i as f64);
    let mut values: Vec<f64> = (0..start.len()).map(straight).filter(|v| !v.is_nan()).collect();
    let level = if values.is_empty() { 0.0 } else { median(&mut values) };
    let mut season = vec![0.0; period];
    for phase in 0..period {
        let mut values: Vec<f64> = (phase..start.len())
            .step_by(period)
            .map(|i| finite(straight(i) - level))
            .filter(|v| !v.is_nan())
            .collect();
        if !values.is_empty() {
            season[(first + phase as i64).rem_euclid(period as i64) as usize] = median(&mut values);
        }
    }
    // Of what remains from one cycle to the next, or from one value to the next, the lesser.
    let mut spread = robust_spread(&mut differences(y, lag));
    if period > 1 {
        spread = spread.min(robust_spread(&mut differences(y, 1)));
    }
    let spread = finite(spread / std::f64::consts::SQRT_2);
    Smoothed { level: finite(level - slope), trend: slope, season, spread, run: Vec::new() }
}

/// Everything known of one entity.
struct Model {
    config: Config,
    count: u64,
    fitted_at: u64,
    /// Time of cell 0, and microseconds from cell to cell; 0 until two times are known.
    origin: i64,
    interval: f64,
    /// The first points' times, until the grid is known.
    early: Vec<(i64, f64)>,
    /// The newest cell, and the cells up to there.
    head: i64,
    cells: Vec<f64>,
    smoothing: Smoothing,
    smoothed: Smoothed,
}

/// Points after which the grid is laid.
const EARLY: usize = 8;

impl Model {
    fn new(config: Config) -> Self {
        Model {
            config,
            count: 0,
            fitted_at: 0,
            origin: 0,
            interval: 0.0,
            early: Vec::new(),
            head: -1,
            cells: Vec::new(),
            smoothing: Smoothing { alpha: 0.3, beta: 0.0, gamma: 0.0, phi: 0.9 },
            smoothed: Smoothed::default(),
        }
    }

    fn cell(&self, at: i64) -> i64 {
        if self.interval <= 0.0 {
            return 0;
        }
        let elapsed = (i128::from(at) - i128::from(self.origin)) as f64;
        (elapsed / self.interval).round().clamp(-1e15, 1e15) as i64
    }

    /// Steps from the newest cell, none to one that is not newer.
    fn steps(&self, cell: i64) -> f64 {
        ((cell - self.head) as f64).clamp(0.0, FAR)
    }

    /// Puts a value into its cell; the oldest cells leave.
    fn keep(&mut self, cell: i64, value: f64) {
        if cell > self.head {
            let gap = (cell - self.head).min(HISTORY as i64) as usize;
            let leaving = (self.cells.len() + gap).saturating_sub(HISTORY).min(self.cells.len());
            self.cells.drain(..leaving);
            self.cells.resize(self.cells.len() + gap, f64::NAN);
            self.head = cell;
        }
        let back = self.head - cell;
        if back < self.cells.len() as i64 {
            let place = self.cells.len() - 1 - back as usize;
            self.cells[place] = value;
        }
    }

    /// Lays the grid through the first points.
    fn begin(&mut self) {
        let mut early = std::mem::take(&mut self.early);
        early.sort_by_key(|p| p.0);
        let mut steps: Vec<f64> = early
            .windows(2)
            .map(|p| (i128::from(p[1].0) - i128::from(p[0].0)) as f64)
            .filter(|d| *d > 0.0)
            .collect();
        self.interval = if steps.is_empty() { 1.0 } else { median(&mut steps).max(1.0) };
        self.origin = early[0].0;
        for (at, value) in early {
            let cell = self.cell(at);
            self.keep(cell, value);
        }
    }

    fn fit_due(&self) -> bool {
        let since = self.count - self.fitted_at;
        // A series that was constant has no spread to learn by.
        let stuck = self.smoothed.spread <= 0.0 && since >= 32;
        self.interval > 0.0 && (self.count <= 16 || stuck || since >= self.fitted_at.min(4096))
    }

    /// A length that is an hour, a day or a week as far as a few cycles can tell is just that.
    fn natural(&self, length: usize) -> usize {
        const HOUR: f64 = 3600e6;
        let points = [HOUR, 24.0 * HOUR, 168.0 * HOUR].map(|unit| unit / self.interval);
        let near = points.into_iter().find(|points| (length as f64 / points - 1.0).abs() < 0.04);
        near.map_or(length, |points| (points.round() as usize).max(2))
    }

    /// Chooses period and parameters on the history, and smooths it with them.
    fn refit(&mut self) {
        self.fitted_at = self.count;
        let skip = self.cells.iter().take_while(|v| v.is_nan()).count();
        let y = &self.cells[skip..];
        let first = self.head - y.len() as i64 + 1;
        let period = match self.config.period {
            Some(period) if y.len() >= 2 * period => period,
            Some(_) => 0,
            None => detect_periods(y)
                .iter()
                .map(|p| self.natural(p.length))
                .find(|length| *length <= MAX_PERIOD && y.len() >= 3 * length)
                .unwrap_or(0),
        };
        let start = initial(y, first, period);
        let choice = |given: Option<f64>, grid: &[f64]| given.map_or(grid.to_vec(), |v| vec![v]);
        let gammas = if period > 0 { &GAMMAS[..] } else { &[0.0][..] };
        let config = self.config;
        let mut best = (f64::INFINITY, self.smoothing, start.clone());
        for alpha in choice(config.alpha, &ALPHAS) {
            for beta in choice(config.beta, &BETAS) {
                for gamma in choice(config.gamma, gammas) {
                    for phi in choice(config.phi, &PHIS) {
                        // Without a trend there is nothing to damp.
                        if beta == 0.0 && config.phi.is_none() && phi != PHIS[0] {
                            continue;
                        }
                        let smoothing = Smoothing { alpha, beta, gamma, phi };
                        let (loss, end) = smooth(y, first, &smoothing, &start);
                        if loss < best.0 {
                            best = (loss, smoothing, end);
                        }
                    }
                }
            }
        }
        (self.smoothing, self.smoothed) = (best.1, best.2);
    }

    /// Level, trend and spread at the newest cell, for a cell.
    fn forecast(&self, cell: i64) -> (f64, f64) {
        let steps = self.steps(cell);
        let level = self.smoothed.level_in(&self.smoothing, steps);
        // The variance of the level's random walk (the book's table 8.8, without trend).
        let ahead = (steps - 1.0).max(0.0);
        let spread = self.smoothed.spread * (1.0 + ahead * self.smoothing.alpha.powi(2)).sqrt();
        (finite(level + self.smoothed.season_at(cell)), finite(spread))
    }

    fn decode(reader: &mut Reader<'_>, config: Config) -> Result<Self> {
        let mut model = Model::new(config);
        model.count = reader.u64()?;
        model.fitted_at = reader.u64()?;
        model.origin = reader.i64()?;
        model.interval = reader.non_negative("interval")?;
        model.head = reader.i64()?;
        let early = usize::from(reader.u8()?);
        let laid = model.interval > 0.0;
        if model.fitted_at > model.count
            || early >= EARLY
            || (!laid && early as u64 != model.count)
            || (laid && (early > 0 || model.interval < 1.0 || model.count < EARLY as u64))
            || model.head.unsigned_abs() > 1_000_000_000_000_000
        {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for _ in 0..early {
            model.early.push((reader.i64()?, reader.finite("value")?));
        }
        let cells = usize::from(reader.u16()?);
        if cells > HISTORY || cells > reader.remaining() / 8 || (laid && cells == 0) {
            return Err(reader.corrupted("history too long"));
        }
        for _ in 0..cells {
            let v = reader.f64()?;
            if v.is_infinite() {
                return Err(reader.corrupted("value is infinite"));
            }
            model.cells.push(v);
        }
        let mut share = |what: &str| {
            let v = reader.finite(what)?;
            if (0.0..=1.0).contains(&v) { Ok(v) } else { Err(reader.corrupted(what)) }
        };
        model.smoothing = Smoothing {
            alpha: share("alpha")?,
            beta: share("beta")?,
            gamma: share("gamma")?,
            phi: share("phi")?,
        };
        model.smoothed.level = reader.finite("level")?;
        model.smoothed.trend = reader.finite("trend")?;
        model.smoothed.spread = reader.non_negative("spread")?;
        let period = usize::from(reader.u16()?);
        if period > MAX_PERIOD || period == 1 || period > reader.remaining() / 8 {
            return Err(reader.corrupted("period out of range"));
        }
        for _ in 0..period {
            model.smoothed.season.push(reader.finite("season")?);
        }
        let run = usize::from(reader.u8()?);
        if run >= SHIFT {
            return Err(reader.corrupted("run out of range"));
        }
        for _ in 0..run {
            model.smoothed.run.push(reader.finite("error")?);
        }
        Ok(model)
    }
}

/// Smooths a series from a start: the mean absolute error, large ones clipped, and the end.
fn smooth(y: &[f64], first: i64, smoothing: &Smoothing, start: &Smoothed) -> (f64, Smoothed) {
    let mut state = start.clone();
    let limit = 4.0 * start.spread;
    let (mut sum, mut n, mut steps) = (0.0, 0.0, 1.0);
    // The first cycle was seen by the initial state.
    let seen = start.season.len().max(4).min(y.len() / 2);
    for (i, v) in y.iter().enumerate() {
        if v.is_nan() {
            steps += 1.0;
            continue;
        }
        let error = state.update(smoothing, first + i as i64, steps, *v, true);
        steps = 1.0;
        if i >= seen {
            sum += error.abs().min(limit) / limit.max(f64::MIN_POSITIVE);
            n += 1.0;
        }
    }
    (if n > 0.0 { sum / n } else { 0.0 }, state)
}

impl Baseline for Model {
    /// Of the spread's bounded function at the rate it follows.
    const EFFICIENCY: f64 = 0.7;

    fn dof(&self, count: u64) -> f64 {
        Self::EFFICIENCY * (count as f64 - 1.0).clamp(0.0, 2.0 / SPREAD_RATE)
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        self.count += 1;
        if self.interval <= 0.0 {
            self.early.push((point.at, point.value));
            if self.early.len() == EARLY {
                self.begin();
                self.refit();
            }
            return;
        }
        let cell = self.cell(point.at);
        let steps = self.steps(cell);
        self.keep(cell, point.value);
        self.smoothed.update(&self.smoothing, cell, steps, point.value, true);
        if self.fit_due() {
            self.refit();
        }
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.interval <= 0.0 {
            // The mean of the first few, without a spread yet.
            let n = self.early.len() as f64;
            let centre = self.early.iter().map(|p| p.1 / n).sum::<f64>();
            return (n > 0.0).then_some(Fit { centre: finite(centre), below: 0.0, above: 0.0 });
        }
        let (centre, spread) = self.forecast(self.cell(point.at));
        Some(Fit { centre, below: spread, above: spread })
    }

    fn statistic(&self, point: &Point, fit: &Fit) -> f64 {
        z_score(point.value, fit)
    }

    fn bounds(&self, _point: &Point, fit: &Fit, threshold: f64) -> (f64, f64) {
        z_bounds(fit, threshold)
    }

    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>) {
        let cell = self.cell(verdict.at);
        let (centre, spread) = self.forecast(cell);
        let smoothing = &self.smoothing;
        for (key, v) in [
            ("z_score", verdict.statistic),
            ("predicted_value", centre),
            ("residual", finite(verdict.value - centre)),
            ("residual_std", spread),
            ("level", self.smoothed.level),
            ("trend_per_point", self.smoothed.trend),
            ("season", self.smoothed.season_at(cell)),
            ("alpha_level", smoothing.alpha),
            ("beta_trend", smoothing.beta),
            ("gamma_season", smoothing.gamma),
            ("phi_damping", smoothing.phi),
        ] {
            map.insert(key.into(), json_number(v));
        }
        map.insert("period".into(), Value::from(self.smoothed.season.len()));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.fitted_at.to_le_bytes());
        out.extend_from_slice(&self.origin.to_le_bytes());
        out.extend_from_slice(&self.interval.to_le_bytes());
        out.extend_from_slice(&self.head.to_le_bytes());
        out.push(self.early.len() as u8);
        for (at, value) in &self.early {
            out.extend_from_slice(&at.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&(self.cells.len() as u16).to_le_bytes());
        let Smoothing { alpha, beta, gamma, phi } = self.smoothing;
        let Smoothed { level, trend, season, spread, run } = &self.smoothed;
        for v in self.cells.iter().chain(&[alpha, beta, gamma, phi]).chain([level, trend, spread]) {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&(season.len() as u16).to_le_bytes());
        season.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        out.push(run.len() as u8);
        run.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use serde_json::json;

    use super::*;
    use crate::calendar::Calendar;

    fn model(params: Value) -> Model {
        let context = Context::new(Calendar::default(), Kind::Value);
        Model::new(HoltWinters::new(params.as_object().unwrap(), &context).unwrap().config)
    }

    fn series(i: usize) -> f64 {
        let noise = ((7919 * i) % 1000) as f64 / 1000.0 - 0.5;
        20.0 + 0.3 * i as f64 + 4.0 * (TAU * i as f64 / 6.0).sin() + noise
    }

    /// statsmodels 0.15 `ExponentialSmoothing(y, trend="add", damped_trend=…, seasonal="add",
    /// seasonal_periods=6, initialization_method="known", initial_level=20, initial_trend=0.3,
    /// initial_seasonal=[0, 3.5, 3.5, 0, -3.5, -3.5]).fit(smoothing_level=0.3, smoothing_trend=0.1,
    /// smoothing_seasonal=0.2, damping_trend=…, optimized=False)`.
    #[test]
    fn forecasts_are_those_of_statsmodels() {
        let cases = [
            (
                1.0,
                [20.3, 23.836, 19.358827584492357, 34.07803135583253],
                [37.562578762979655, 0.2850149575602796],
                [37.697060117414395, 41.51265908279607, 43.22274882815775],
            ),
            (
                0.9,
                [20.27, 23.76121, 18.941243227542916, 33.57106372663227],
                [36.3809530966006, 0.13250698320310686],
                [37.1934641215027, 40.848797475591, 41.30141418085702],
            ),
        ];
        for (phi, fitted, end, ahead) in cases {
            let smoothing = Smoothing { alpha: 0.3, beta: 0.1, gamma: 0.2, phi };
            let season = vec![0.0, 3.5, 3.5, 0.0, -3.5, -3.5];
            let mut state =
                Smoothed { level: 20.0, trend: 0.3, season, spread: 1.0, run: Vec::new() };
            let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{phi}: {a} is not {b}");
            for i in 0..60_i64 {
                let error = state.update(&smoothing, i, 1.0, series(i as usize), false);
                if let Some(k) = [0, 1, 10, 59].iter().position(|k| *k == i) {
                    close(series(i as usize) - error, fitted[k]);
                }
            }
            assert!((state.level - end[0]).abs() < 1e-7, "{}", state.level);
            close(state.trend, end[1]);
            for (steps, expected) in [1, 2, 8].into_iter().zip(ahead) {
                let level = state.level_in(&smoothing, f64::from(steps));
                close(level + state.season_at(59 + i64::from(steps)), expected);
            }
        }
    }

    #[test]
    fn the_period_is_found_and_given_parameters_are_kept() {
        let mut found = model(json!({}));
        let mut given =
            model(json!({"period": 6, "alpha": 0.3, "beta": 0.1, "gamma": 0.2, "phi": 0.9}));
        let mut none = model(json!({"period": 0}));
        for i in 0..300 {
            let point = Point::new(i as i64 * 60_000_000, series(i));
            found.push(&point);
            given.push(&point);
            none.push(&point);
        }
        assert_eq!(found.smoothed.season.len(), 6);
        assert_eq!(given.smoothed.season.len(), 6);
        assert_eq!(none.smoothed.season.len(), 0);
        assert_eq!(given.smoothing, Smoothing { alpha: 0.3, beta: 0.1, gamma: 0.2, phi: 0.9 });
        for i in 300..306 {
            let point = Point::new(i as i64 * 60_000_000, 0.0);
            for model in [&found, &given] {
                let fit = model.fit(&point).unwrap();
                assert!((fit.centre - series(i)).abs() < 2.0, "{i}: {fit:?}");
            }
        }
    }

    /// Gelper, Fried and Croux's point: an outlier moves the forecast by no more than two spreads do.
    #[test]
    fn an_outlier_moves_the_forecast_little() {
        let mut clean = model(json!({}));
        let mut hurt = model(json!({}));
        for i in 0..300 {
            let at = i as i64 * 60_000_000;
            clean.push(&Point::new(at, series(i)));
            let outlier = if i % 40 == 39 { 1e6 } else { 0.0 };
            hurt.push(&Point::new(at, series(i) + outlier));
        }
        let point = Point::new(300 * 60_000_000, 0.0);
        let (a, b) = (clean.fit(&point).unwrap(), hurt.fit(&point).unwrap());
        assert!((a.centre - b.centre).abs() < 1.5, "{a:?} {b:?}");
        assert!(b.above < 3.0 * a.above, "{a:?} {b:?}");
    }
}
