//! `statistical_level_shift`: the level of the latest points against that of the points before.
//!
//! The statistic is the median of the latest w values, the tested one included, minus the median of
//! the w values before them, in standard deviations of the noise around the level. The median of w
//! values moves when half of them have: a level shift is told after w/2 points, whatever its size, and
//! no smaller number of outliers in a row is one. The first point beyond the critical value signals;
//! then there is silence until the two medians have met again, at the latest 2w points after the
//! shift.
//!
//! Excursions of the statistic are calibrated (`statistic.rs`): the promised rate is one of signals, and
//! holds for independent and moderately autocorrelated noise. Bad at slow trends, and at seasons
//! longer than the window, whose slopes are shifts. `lower` and `upper` bound the level: a shift is
//! told when the median of the latest w values lies beyond them.
//!
//! State: 16·w bytes and the calibrator's, at most 470. O(w) per point, w at most 500.
//!
//! Parameter: `window` (5 to 500, default 20), w in points.

use serde_json::{Map, Value};

use super::error_scale::NoiseScale;
use super::location_scale::{OffCentre, ROUNDING, finite};
use super::statistic::{Excursions, Side, describe, non_finite, part};
use super::{Context, EntityModel, Rule, Strategy, check_keys, integer_param, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};

const WINDOWS: std::ops::RangeInclusive<u64> = 5..=500;
const DEFAULT_WINDOW: u64 = 20;
/// π/2: the variance of a median of normal noise against that of the mean.
const MEDIAN_VARIANCE: f64 = std::f64::consts::FRAC_PI_2;
/// What a shift of a constant counts as.
const FAR: f64 = 40.0;

/// Difference of the medians of two adjacent windows.
///
/// The filtered derivative (M. Basseville and I. V. Nikiforov, Detection of Abrupt Changes, 1993,
/// §2.1) with medians for means.
pub struct LevelShift {
    window: usize,
}

impl LevelShift {
    /// Parameter `window`, in points.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_level_shift", params, &["window"])?;
        let window = integer_param(params, "window", DEFAULT_WINDOW, WINDOWS)?;
        Ok(LevelShift { window: window as usize })
    }
}

impl Strategy for LevelShift {
    fn name(&self) -> &'static str {
        "statistical_level_shift"
    }

    fn short_name(&self) -> &'static str {
        "level_shift"
    }

    fn statistic_name(&self) -> &'static str {
        "shift in standard deviations"
    }

    fn algorithm(&self) -> u16 {
        12
    }

    fn tells_once(&self) -> bool {
        true
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Contrast {
            windows: AdjacentWindows::new(self.window),
            noise: NoiseScale::default(),
            excursions: Excursions::new(),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let excursions = Excursions::decode(reader)?;
        let noise = NoiseScale::decode(reader)?;
        let windows = AdjacentWindows::decode(reader, self.window)?;
        if windows.len() as u64 != noise.count().min(windows.capacity() as u64) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(Box::new(Contrast { windows, noise, excursions }))
    }
}

/// The latest 2w − 1 values, which the next one makes 2w: w before, w − 1 recent.
pub(super) struct AdjacentWindows {
    w: usize,
    /// In the order of time.
    ring: std::collections::VecDeque<f64>,
    /// Both windows ascending; derived, never stored.
    before: Vec<f64>,
    recent: Vec<f64>,
}

fn insert(sorted: &mut Vec<f64>, x: f64) {
    let at = sorted.partition_point(|v| *v < x);
    sorted.insert(at, x);
}

fn remove(sorted: &mut Vec<f64>, x: f64) {
    let at = sorted.partition_point(|v| *v < x);
    if at < sorted.len() {
        sorted.remove(at);
    }
}

/// Of two values, without overflow.
fn middle(a: f64, b: f64) -> f64 {
    0.5 * a + 0.5 * b
}

impl AdjacentWindows {
    pub fn new(w: usize) -> Self {
        AdjacentWindows {
            w,
            ring: std::collections::VecDeque::with_capacity(2 * w),
            before: Vec::with_capacity(w + 1),
            recent: Vec::with_capacity(w + 1),
        }
    }

    pub fn width(&self) -> usize {
        self.w
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// The window before, ascending.
    pub fn before(&self) -> &[f64] {
        &self.before
    }

    /// The recent values, ascending.
    pub fn recent(&self) -> &[f64] {
        &self.recent
    }

    pub fn capacity(&self) -> usize {
        2 * self.w - 1
    }

    pub fn is_full(&self) -> bool {
        self.ring.len() == self.capacity()
    }

    pub fn push(&mut self, x: f64) {
        let x = x + 0.0; // −0 is 0
        if self.is_full()
            && let Some(oldest) = self.ring.pop_front()
        {
            remove(&mut self.before, oldest);
        }
        self.ring.push_back(x);
        insert(&mut self.recent, x);
        if self.recent.len() == self.w {
            // Positions from the end: the newest is 1.
            let leaving = self.ring[self.ring.len() - self.w];
            remove(&mut self.recent, leaving);
            insert(&mut self.before, leaving);
        }
    }

    /// Median of the window before.
    fn level_before(&self) -> f64 {
        let v = &self.before;
        middle(v[(v.len() - 1) / 2], v[v.len() / 2])
    }

    /// Median of the recent values and `x`.
    fn level_with(&self, x: f64) -> f64 {
        let v = &self.recent; // w − 1 values
        let m = v.len() / 2;
        if v.len().is_multiple_of(2) {
            x.max(v[m - 1]).min(v[m])
        } else {
            middle(v[m], x.max(v[m - 1]).min(v[m + 1]))
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.ring.len() as u32).to_le_bytes());
        for x in &self.ring {
            out.extend_from_slice(&x.to_le_bytes());
        }
    }

    pub fn decode(reader: &mut Reader<'_>, w: usize) -> Result<Self> {
        let mut windows = AdjacentWindows::new(w);
        let len = reader.u32()? as usize;
        if len > windows.capacity() {
            return Err(reader.corrupted("window of another size"));
        }
        for _ in 0..len {
            let x = reader.finite("value of a window")?;
            windows.push(x);
        }
        Ok(windows)
    }
}

/// Smaller excursions are no evidence: what is calibrated is the tail.
const LEAST: f64 = 1.0;

/// A smooth normal process passes z standard deviations as often as exp(−z²/2) says (S. O. Rice 1944).
fn evidence(z: f64) -> f64 {
    if z > 0.0 { (0.5 * z * z - LEAST).clamp(f64::MIN_POSITIVE, 1e12) } else { 0.0 }
}

struct Contrast {
    windows: AdjacentWindows,
    noise: NoiseScale,
    excursions: Excursions,
}

impl Contrast {
    fn is_degenerate(&self, level: f64) -> bool {
        self.noise.sd() <= ROUNDING * level.abs()
    }

    /// The standard deviation of the contrast of two medians of normal noise.
    fn unit(&self) -> f64 {
        finite(self.noise.sd() * (2.0 * MEDIAN_VARIANCE / self.windows.w as f64).sqrt())
    }

    /// Level before, level with the point, and the contrast in its standard deviations; `None` before
    /// both windows are full.
    fn contrast(&self, x: f64) -> Option<(f64, f64, f64)> {
        if !self.windows.is_full() {
            return None;
        }
        let (before, now) = (self.windows.level_before(), self.windows.level_with(x));
        let d = finite(now - before);
        let z = if !self.is_degenerate(before) {
            finite(d / self.unit())
        } else if d.abs() > ROUNDING * before.abs() {
            FAR.copysign(d)
        } else {
            0.0
        };
        Some((before, now, z))
    }

    fn learn_value(&mut self, x: f64) {
        if let Some((before, _, z)) = self.contrast(x) {
            let of =
                |side: Side| part(Side::of(x, before) == Some(side), evidence(side.sign() * z));
            self.excursions.learn(of(Side::Below), of(Side::Above));
        }
        self.windows.push(x);
        self.noise.push(x);
    }
}

impl EntityModel for Contrast {
    fn count(&self) -> u64 {
        self.noise.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let Some((before, _, _)) = self.contrast(0.0) else {
            non_finite(point, &mut verdict);
            return verdict;
        };
        let degenerate = self.is_degenerate(before);
        let (below, above) = if degenerate {
            let d = OffCentre::default().quantile(before, self.count(), &rule.alpha());
            (d, d)
        } else if let Some(threshold) = rule.threshold {
            let d = finite(threshold * self.noise.sd());
            (d, d)
        } else {
            let (below, above) = self.excursions.critical(&rule.alpha());
            let z = |evidence: f64| (2.0 * (evidence + LEAST)).sqrt();
            (finite(z(below) * self.unit()), finite(z(above) * self.unit()))
        };
        verdict.expected = before;
        (verdict.lower, verdict.upper) = (finite(before - below), finite(before + above));
        if non_finite(point, &mut verdict) {
            return verdict;
        }
        let Some((_, now, z)) = self.contrast(point.value) else { return verdict };
        // A point on the other side of the level before is no part of the shift.
        let Some(side) = Side::of(point.value, before) else { return verdict };
        verdict.direction = Direction::of(point.value, before);
        if side.sign() * z <= 0.0 {
            return verdict;
        }
        verdict.statistic =
            if degenerate { z } else { finite(finite(now - before) / self.noise.sd()) };
        let own = rule.threshold.map(|t| verdict.statistic.abs() > t);
        if degenerate {
            if !self.excursions.is_silent(side) {
                let ln_p = OffCentre::default().ln_p(before, self.count(), now);
                verdict.tail = Tail::LnP(ln_p);
                verdict.is_anomaly = own.unwrap_or(ln_p < rule.ln_alpha);
            }
            return verdict;
        }
        self.excursions.judge(side, evidence(side.sign() * z), own, rule, &mut verdict);
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.learn_value(point.value);
        }
    }

    fn learn_clipped(&mut self, _point: &Point) {}

    fn leave_out(&mut self, point: &Point) {
        let x = point.value;
        if !x.is_finite() {
            return;
        }
        if let Some((before, _, z)) = self.contrast(x)
            && let Some(side) = Side::of(x, before)
            && side.sign() * z > 0.0
        {
            self.excursions.signalled(side, evidence(z.abs()));
        }
        self.learn_value(x);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.excursions.encode(out);
        self.noise.encode(out);
        self.windows.encode(out);
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("shift_in_std".into(), json_number(verdict.statistic));
        if let Some((before, now, _)) = self.contrast(finite(verdict.value)) {
            map.insert("level_before".into(), json_number(before));
            map.insert("level".into(), json_number(now));
            map.insert("shift".into(), json_number(finite(now - before)));
        }
        map.insert("std".into(), json_number(self.noise.sd()));
        map.insert("window".into(), Value::from(self.windows.w));
        describe(verdict, rule, self.count(), &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against medians of sorted copies, for odd and even windows.
    #[test]
    fn medians_of_both_windows() {
        for w in [5, 6, 20, 21] {
            let mut windows = AdjacentWindows::new(w);
            let values: Vec<f64> = (0..200).map(|i| f64::from((i * 7919) % 101)).collect();
            for (i, x) in values.iter().enumerate() {
                if windows.is_full() {
                    let median = |v: &[f64]| {
                        let mut v = v.to_vec();
                        v.sort_by(f64::total_cmp);
                        middle(v[(v.len() - 1) / 2], v[v.len() / 2])
                    };
                    assert_eq!(windows.level_before(), median(&values[i + 1 - 2 * w..=i - w]));
                    assert_eq!(windows.level_with(*x), median(&values[i + 1 - w..=i]));
                }
                windows.push(*x);
            }
            assert!(windows.is_full());
        }
    }
}
