//! `statistical_flat_line`: a value that stays the same for unusually long.
//!
//! Values are the same when they differ by no more than the rounding of floating point and a millionth
//! of the usual difference of neighbours, or by the parameter `tolerance`. A run of L equal values, the
//! tested one included, is compared with the n runs that have ended:
//!
//! ```text
//!   p = (1 + runs of at least L) / (1 + n)             up to the longest run, M
//!   p = (M / L)² / (1 + n)                             beyond it
//! ```
//!
//! Without a run that has ended p is 1: a metric that is constant by nature never alerts, nor one that is
//! constant every night as long as last night. A stuck sensor among noise alerts at the fifth equal
//! value. An alert stays open as long as the value stays the same; the run counts afterwards with the
//! length at which it was told, so that incidents do not become normal.
//!
//! Blind to everything but equality. There is no rate to keep: p is one per run. `expected` is the mean
//! of the values so far, `lower` and `upper` their range; an anomaly is inside it. About 420 bytes of
//! state, O(1).
//!
//! Parameters: `tolerance` (from 0), in the metric's unit; `points` (2 to 100,000, default 5), the
//! shortest run that can alert. With `threshold` a run of more than so many points alerts.

use serde_json::{Map, Value};

use super::error_scale::NoiseScale;
use super::location_scale::{ROUNDING, finite};
use super::statistic::{describe, non_finite};
use super::{
    Context, EntityModel, Rule, Strategy, check_keys, integer_param, json_number, number_param,
};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Tail, Verdict};

/// Cells of the histogram of run lengths: 1 to 8, then four to each doubling, up to 2^14.
const CELLS: usize = 52;
/// Share of the usual difference of neighbours that is no difference.
const NEARLY: f64 = 1e-6;

/// Run length of equal values against the history of run lengths.
///
/// The check for stuck values of sensor quality control (for example QARTOD, flat line test, U.S.
/// Integrated Ocean Observing System 2020), with the limit learned.
pub struct FlatLine {
    tolerance: Option<f64>,
    points: u64,
}

impl FlatLine {
    /// Parameters `tolerance` and `points`.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_flat_line", params, &["tolerance", "points"])?;
        let tolerance = number_param(params, "tolerance", 0.0..=f64::MAX)?;
        let points = integer_param(params, "points", 5, 2..=100_000)?;
        Ok(FlatLine { tolerance, points })
    }
}

impl Strategy for FlatLine {
    fn name(&self) -> &'static str {
        "statistical_flat_line"
    }

    fn short_name(&self) -> &'static str {
        "flat_line"
    }

    fn statistic_name(&self) -> &'static str {
        "equal values in a row"
    }

    fn algorithm(&self) -> u16 {
        14
    }

    fn has_sides(&self) -> bool {
        false
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Runs {
            tolerance: self.tolerance,
            points: self.points,
            noise: NoiseScale::default(),
            mean: 0.0,
            min: 0.0,
            max: 0.0,
            value: 0.0,
            length: 0,
            told: 0,
            longest: 0,
            ended: [0; CELLS],
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let noise = NoiseScale::decode(reader)?;
        let mut figure = |what| reader.finite(what);
        let (mean, min, max) = (figure("mean")?, figure("minimum")?, figure("maximum")?);
        let value = figure("value of a run")?;
        let (length, told, longest) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let mut ended = [0; CELLS];
        let mut sum = 0u64;
        for cell in &mut ended {
            *cell = reader.u64()?;
            sum = sum.saturating_add(*cell);
        }
        let count = noise.count();
        if length > count || told > length || longest > count || sum > count || min > max {
            return Err(reader.corrupted("counts contradict each other"));
        }
        if (length == 0) != (count == 0) || (longest == 0) != (sum == 0) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(Box::new(Runs {
            tolerance: self.tolerance,
            points: self.points,
            noise,
            mean: mean.clamp(min, max),
            min,
            max,
            value,
            length,
            told,
            longest,
            ended,
        }))
    }
}

struct Runs {
    tolerance: Option<f64>,
    points: u64,
    noise: NoiseScale,
    mean: f64,
    min: f64,
    max: f64,
    /// First value and length of the run under way.
    value: f64,
    length: u64,
    /// Length at which the run under way was told, 0 before.
    told: u64,
    /// The longest run that has ended.
    longest: u64,
    /// Runs that have ended, by [`cell`].
    ended: [u64; CELLS],
}

/// The cell of a run length ≥ 1.
fn cell(length: u64) -> usize {
    if length <= 8 {
        return length.saturating_sub(1) as usize;
    }
    let octave = length.ilog2();
    let quarter = (length >> (octave - 2)) & 3;
    (8 + (octave as usize - 3) * 4 + quarter as usize).min(CELLS - 1)
}

impl Runs {
    fn is_same(&self, x: f64) -> bool {
        let usual = NEARLY * self.noise.sd() * std::f64::consts::SQRT_2;
        let tolerance = self.tolerance.unwrap_or(usual).max(ROUNDING * self.value.abs());
        (x - self.value).abs() <= tolerance
    }

    fn length_with(&self, x: f64) -> u64 {
        if self.length > 0 && self.is_same(x) { self.length + 1 } else { 1 }
    }

    fn ln_p(&self, length: u64) -> f64 {
        let n: u64 = self.ended.iter().sum();
        if n == 0 || length < self.points {
            return 0.0;
        }
        let runs = (n + 1) as f64;
        if length <= self.longest {
            let as_long: u64 = self.ended[cell(length)..].iter().sum();
            return libm::log((as_long + 1) as f64 / runs).min(0.0);
        }
        2.0 * libm::log(self.longest as f64 / length as f64) - libm::log(runs)
    }

    fn learn_value(&mut self, x: f64) {
        let length = self.length_with(x);
        if length == 1 {
            if self.length > 0 {
                let counts = if self.told > 0 { self.told } else { self.length };
                self.ended[cell(counts)] += 1;
                self.longest = self.longest.max(counts);
            }
            (self.value, self.told) = (x, 0);
        }
        self.length = length;
        self.noise.push(x);
        let n = self.noise.count();
        if n == 1 {
            (self.mean, self.min, self.max) = (x, x, x);
        } else {
            let share = 1.0 / n as f64;
            (self.min, self.max) = (self.min.min(x), self.max.max(x));
            self.mean = (self.mean * (1.0 - share) + x * share).clamp(self.min, self.max);
        }
    }
}

impl EntityModel for Runs {
    fn count(&self) -> u64 {
        self.noise.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        if self.length > 0 {
            (verdict.expected, verdict.lower, verdict.upper) = (self.mean, self.min, self.max);
        }
        if non_finite(point, &mut verdict) || self.length == 0 {
            return verdict;
        }
        let length = self.length_with(point.value);
        verdict.statistic = length as f64;
        let ln_p = self.ln_p(length);
        verdict.tail = Tail::LnP(ln_p);
        verdict.is_anomaly = match rule.threshold {
            Some(threshold) => length as f64 > threshold,
            None => ln_p < rule.ln_alpha,
        };
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.learn_value(point.value);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.learn_value(point.value);
            if self.told == 0 {
                self.told = self.length;
            }
        }
    }

    fn learn_clipped(&mut self, _point: &Point) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.noise.encode(out);
        for v in [self.mean, self.min, self.max, self.value] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        for v in [self.length, self.told, self.longest] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        for v in self.ended {
            out.extend_from_slice(&v.to_le_bytes());
        }
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("run_length".into(), json_number(verdict.statistic));
        map.insert("run_value".into(), json_number(finite(self.value)));
        map.insert("longest_run_before".into(), Value::from(self.longest));
        map.insert("runs_before".into(), Value::from(self.ended.iter().sum::<u64>()));
        describe(verdict, rule, self.count(), &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_in_order_and_cover_all_lengths() {
        let mut last = 0;
        for length in 1..100_000 {
            let c = cell(length);
            assert!(c == last || c == last + 1 || length == 1, "{length}: {last}, {c}");
            last = c;
        }
        assert_eq!(last, CELLS - 1);
        assert_eq!(cell(u64::MAX), CELLS - 1);
        assert_eq!([cell(1), cell(8), cell(9), cell(10), cell(16)], [0, 7, 8, 9, 12]);
    }
}
