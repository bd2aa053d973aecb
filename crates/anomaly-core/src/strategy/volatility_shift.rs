//! `statistical_volatility_shift`: the spread of the latest points against that of the points before.
//!
//! The spread of a window is the mean distance of its values from their median, the largest tenth left
//! out; the statistic is the logarithm of the ratio of the latest w values' spread, the tested one
//! included, to that of the w values before. More and less spread are both told. The first point
//! beyond the critical value signals; then there is silence until the ratio has passed 1 again.
//!
//! Excursions of the statistic are calibrated (`statistic.rs`): the promised rate is one of signals, and
//! holds for independent and moderately autocorrelated noise. Good at a metric that becomes nervous or
//! freezes around the same level. Blind to single outliers and to the level itself; trends and level
//! shifts widen the window in which they happen. `expected` is the median of the latest values;
//! `lower` and `upper` are four times the largest spread that would be normal around it, about three
//! standard deviations.
//!
//! State: 16·w bytes and the calibrator's, at most 470. O(w log w) per point, w at most 500.
//!
//! Parameter: `window` (10 to 500, default 30), w in points.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::level_shift::AdjacentWindows;
use super::location_scale::{ROUNDING, finite};
use super::statistic::{Excursions, Side, describe, non_finite};
use super::{Context, EntityModel, Rule, Strategy, check_keys, integer_param, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Verdict};

const WINDOWS: std::ops::RangeInclusive<u64> = 10..=500;
const DEFAULT_WINDOW: u64 = 30;
/// Variance of the logarithm of the ratio of two spreads of w normal values, times w.
const LOG_RATIO_VARIANCE: f64 = 1.5;
/// What a spread after none, and none after one, count as, in standard deviations.
const FAR: f64 = 40.0;
/// Smaller excursions are no evidence: what is calibrated is the tail.
const LEAST: f64 = 1.5;
/// `lower` and `upper` are so many spreads out.
const REACH: f64 = 4.0;

/// Ratio of the robust spreads of two adjacent windows.
///
/// The variance-change statistic of C. Inclan and G. C. Tiao, J. Amer. Stat. Assoc. 89 (1994), over
/// two windows, with mean absolute deviations for squares (H. Levene 1960).
pub struct VolatilityShift {
    window: usize,
}

impl VolatilityShift {
    /// Parameter `window`, in points.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_volatility_shift", params, &["window"])?;
        let window = integer_param(params, "window", DEFAULT_WINDOW, WINDOWS)?;
        Ok(VolatilityShift { window: window as usize })
    }
}

impl Strategy for VolatilityShift {
    fn name(&self) -> &'static str {
        "statistical_volatility_shift"
    }

    fn short_name(&self) -> &'static str {
        "volatility_shift"
    }

    fn statistic_name(&self) -> &'static str {
        "ratio of spreads"
    }

    fn algorithm(&self) -> u16 {
        13
    }

    fn tells_once(&self) -> bool {
        true
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Ratio {
            windows: AdjacentWindows::new(self.window),
            count: 0,
            excursions: Excursions::new(),
            spreads: Cell::new(None),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let excursions = Excursions::decode(reader)?;
        let count = reader.u64()?;
        let windows = AdjacentWindows::decode(reader, self.window)?;
        if count > i64::MAX as u64 || windows.len() as u64 != count.min(windows.capacity() as u64) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(Box::new(Ratio { windows, count, excursions, spreads: Cell::new(None) }))
    }
}

/// What both windows say without the tested point.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spreads {
    /// Median of the recent values.
    centre: f64,
    before: f64,
    /// Of the recent values.
    others: f64,
    /// The recent spread with a further value at distance d: (inner + min(d, next)) / kept.
    inner: f64,
    next: f64,
    kept: f64,
}

/// Values of a window of n that count.
fn kept(n: usize) -> usize {
    n - n / 10
}

/// The distances from the median, ascending, each divided by the number of values so that sums do not
/// overflow; and the median.
fn distances(sorted: &[f64], n: f64) -> (Vec<f64>, f64) {
    let m = sorted.len();
    let centre = 0.5 * sorted[(m - 1) / 2] + 0.5 * sorted[m / 2];
    let mut d: Vec<f64> = sorted.iter().map(|x| (x / n - centre / n).abs()).collect();
    d.sort_by(f64::total_cmp);
    (d, centre)
}

impl Spreads {
    /// `before` has w ≥ 10 values and `recent` w − 1, both ascending.
    fn of(before: &[f64], recent: &[f64]) -> Self {
        let w = before.len();
        let n = kept(w);
        let floor = |spread: f64, centre: f64| {
            if spread > ROUNDING * centre.abs() { spread } else { 0.0 }
        };
        let (old, old_centre) = distances(before, n as f64);
        let (new, centre) = distances(recent, n as f64);
        let inner: f64 = new[..n - 1].iter().sum();
        Spreads {
            centre,
            before: floor(old[..n].iter().sum(), old_centre),
            others: floor(inner * (n as f64 / (n - 1) as f64), centre),
            inner,
            next: new.get(n - 1).copied().unwrap_or(f64::MAX),
            kept: n as f64,
        }
    }

    /// The recent spread with the value.
    fn with(&self, x: f64) -> f64 {
        let d = (x / self.kept - self.centre / self.kept).abs();
        let spread = self.inner + d.min(self.next);
        if spread > ROUNDING * self.centre.abs() { spread } else { 0.0 }
    }

    /// Standard deviations of ln(spread / before).
    fn score(&self, spread: f64, w: usize) -> f64 {
        if spread == self.before {
            return 0.0;
        }
        let z =
            (libm::log(spread) - libm::log(self.before)) / (LOG_RATIO_VARIANCE / w as f64).sqrt();
        z.clamp(-FAR, FAR)
    }

    fn ratio(&self, spread: f64) -> f64 {
        if spread == self.before { 1.0 } else { finite(spread / self.before) }
    }
}

/// A smooth normal process passes z standard deviations as often as exp(−z²/2) says (S. O. Rice 1944).
fn evidence(z: f64) -> f64 {
    if z > 0.0 { (0.5 * z * z - LEAST).max(f64::MIN_POSITIVE) } else { 0.0 }
}

struct Ratio {
    windows: AdjacentWindows,
    count: u64,
    excursions: Excursions,
    /// Derived from the windows; made when first needed.
    spreads: Cell<Option<Spreads>>,
}

impl Ratio {
    fn spreads(&self) -> Option<Spreads> {
        if !self.windows.is_full() {
            return None;
        }
        let spreads = self
            .spreads
            .get()
            .unwrap_or_else(|| Spreads::of(self.windows.before(), self.windows.recent()));
        self.spreads.set(Some(spreads));
        Some(spreads)
    }

    /// Evidence of less spread, which the value has no part in, and of more.
    fn evidence_with(&self, spreads: &Spreads, x: f64) -> (f64, f64) {
        let w = self.windows.width();
        let less = evidence(-spreads.score(spreads.others, w));
        let more = evidence(spreads.score(spreads.with(x), w));
        (less, more)
    }

    fn learn_value(&mut self, x: f64) {
        if let Some(spreads) = self.spreads() {
            let (less, more) = self.evidence_with(&spreads, x);
            self.excursions.learn(less, more);
        }
        self.windows.push(x);
        self.count = self.count.saturating_add(1);
        self.spreads.set(None);
    }

    /// The verdict on either side alone.
    fn sides(&self, spreads: &Spreads, verdict: &Verdict, rule: &Rule) -> (Verdict, Verdict) {
        let (less, more) = self.evidence_with(spreads, verdict.value);
        let (mut below, mut above) = (*verdict, *verdict);
        below.statistic = spreads.ratio(spreads.others);
        above.statistic = spreads.ratio(spreads.with(verdict.value));
        let own = |statistic: f64| rule.threshold.map(|t| statistic > t);
        let inverse = if below.statistic > 0.0 { finite(1.0 / below.statistic) } else { f64::MAX };
        self.excursions.judge(Side::Below, less, own(inverse), rule, &mut below);
        self.excursions.judge(Side::Above, more, own(above.statistic), rule, &mut above);
        (below, above)
    }
}

impl EntityModel for Ratio {
    fn count(&self) -> u64 {
        self.count
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let Some(spreads) = self.spreads() else {
            non_finite(point, &mut verdict);
            return verdict;
        };
        let largest = match rule.threshold {
            Some(threshold) => finite(threshold * spreads.before),
            None => {
                let (_, above) = self.excursions.critical(&rule.alpha());
                let z = (2.0 * (above + LEAST)).sqrt();
                let log = z * (LOG_RATIO_VARIANCE / self.windows.width() as f64).sqrt();
                finite(spreads.before * libm::exp(log))
            }
        };
        let reach = finite(REACH * largest.max(f64::MIN_POSITIVE));
        verdict.expected = spreads.centre;
        verdict.lower = finite(spreads.centre - reach);
        verdict.upper = finite(spreads.centre + reach);
        if non_finite(point, &mut verdict) {
            return verdict;
        }
        verdict.direction = Direction::of(point.value, spreads.centre);
        let (below, above) = self.sides(&spreads, &verdict, rule);
        if below.ln_p() < above.ln_p() {
            Verdict { is_anomaly: below.is_anomaly || above.is_anomaly, ..below }
        } else {
            Verdict { is_anomaly: below.is_anomaly || above.is_anomaly, ..above }
        }
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.learn_value(point.value);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        let x = point.value;
        if !x.is_finite() {
            return;
        }
        if let Some(spreads) = self.spreads() {
            // Which side it was is not known here: that with more evidence.
            let (less, more) = self.evidence_with(&spreads, x);
            let side = if less > more { Side::Below } else { Side::Above };
            self.excursions.signalled(side, less.max(more));
        }
        self.learn_value(x);
    }

    fn learn_clipped(&mut self, _point: &Point) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.excursions.encode(out);
        out.extend_from_slice(&self.count.to_le_bytes());
        self.windows.encode(out);
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("ratio".into(), json_number(verdict.statistic));
        if let Some(spreads) = self.spreads() {
            let spread = spreads.with(finite(verdict.value));
            map.insert("spread".into(), json_number(spread));
            map.insert("spread_before".into(), json_number(spreads.before));
            map.insert("median".into(), json_number(spreads.centre));
        }
        map.insert("window".into(), Value::from(self.windows.width()));
        describe(verdict, rule, self.count, &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a sort of all distances.
    #[test]
    fn the_recent_spread_with_a_value_is_the_trimmed_mean_distance() {
        let value = |i: usize| ((i * 7919) % 101) as f64;
        for w in [10, 17, 30] {
            let mut before: Vec<f64> = (0..w).map(value).collect();
            let mut recent: Vec<f64> = (w..2 * w - 1).map(value).collect();
            before.sort_by(f64::total_cmp);
            recent.sort_by(f64::total_cmp);
            let spreads = Spreads::of(&before, &recent);
            for x in [0.0, 50.0, 51.5, 99.0, 1e6] {
                let mut d: Vec<f64> = recent.iter().map(|r| (r - spreads.centre).abs()).collect();
                d.push((x - spreads.centre).abs());
                d.sort_by(f64::total_cmp);
                let expected = d[..kept(w)].iter().sum::<f64>() / kept(w) as f64;
                assert!((spreads.with(x) - expected).abs() < 1e-9, "{w} {x}");
            }
        }
    }
}
