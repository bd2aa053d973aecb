//! `statistical_cusum`: cumulative sum of small deviations in one direction.
//!
//! Two sums S⁺ ← max(0, S⁺ + z − k) and S⁻ ← max(0, S⁻ − z − k) of the standardised values (Page
//! 1954; tabular form: Montgomery, Introduction to Statistical Quality Control, 7th ed. 2013, §9.1). A
//! shift of δ standard deviations is best seen with k = δ/2.
//!
//! The in-control mean has a memory of 1,000 points, an outlier moving it as one of three standard
//! deviations; the standard deviation is that of neighbours. What is promised is a rate of signals:
//! excursions of the sums are calibrated (`statistic.rs`). A sum that has signalled is silent until it
//! has come back to 0 by itself, but for values that would signal alone from the new level: set back to
//! 0 it would signal a lasting shift again and again. A sum that stays up for 200 points shows the new
//! normal: its mean becomes the in-control mean.
//!
//! Good at small shifts that last: half a standard deviation to two, within ten to fifty points. Bad at
//! trends and seasons, which are such shifts; a single outlier is seen if it alone takes a sum across. The
//! promised rate holds for independent and moderately autocorrelated noise. 150 bytes of state and the
//! calibrator's, at most 470.
//!
//! Parameters: `k` (0.05 to 5, default 0.5), the allowance in standard deviations; `h` (0.5 to 100), the
//! textbook's decision limit (4 or 5) in place of the calibrated one; `threshold` is another name of it.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::error_scale::NoiseScale;
use super::location_scale::{OffCentre, ROUNDING, finite};
use super::statistic::{Excursions, Side, describe, non_finite};
use super::{Context, EntityModel, Rule, Strategy, check_keys, json_number, number_param};
use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};

/// Points that the in-control mean remembers.
const MEMORY: u64 = 1000;
/// A value moves the mean as at most so many standard deviations.
const CLIP: f64 = 3.0;
/// The sums start when mean and standard deviation have so many points behind them.
const WARM: u64 = 10;
/// A value is learned into a sum as at most so many standard deviations, and sums are kept up to a
/// highest one, so that they come back.
const STEP: f64 = 6.0;
const HIGHEST: f64 = 60.0;
/// An excursion of so many points is a new regime.
const ADOPT: u64 = 200;

/// Two-sided tabular CUSUM.
///
/// E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).
pub struct Cusum {
    k: f64,
    h: Option<f64>,
}

impl Cusum {
    /// Parameters `k` and `h`, in standard deviations.
    pub fn new(params: &Map<String, Value>, _context: &Context) -> Result<Self> {
        check_keys("statistical_cusum", params, &["k", "h"])?;
        let k = number_param(params, "k", 0.05..=5.0)?.unwrap_or(0.5);
        Ok(Cusum { k, h: number_param(params, "h", 0.5..=100.0)? })
    }
}

impl Strategy for Cusum {
    fn name(&self) -> &'static str {
        "statistical_cusum"
    }

    fn short_name(&self) -> &'static str {
        "cusum"
    }

    fn statistic_name(&self) -> &'static str {
        "cumulative sum"
    }

    fn algorithm(&self) -> u16 {
        7
    }

    fn threshold(&self) -> Option<f64> {
        self.h
    }

    fn tells_once(&self) -> bool {
        true
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(Sums {
            k: self.k,
            mean: 0.0,
            weight: 0,
            noise: NoiseScale::default(),
            below: Sum::default(),
            above: Sum::default(),
            excursions: Excursions::new(),
            critical: Cell::new(None),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let excursions = Excursions::decode(reader)?;
        let noise = NoiseScale::decode(reader)?;
        let mean = reader.finite("mean")?;
        let weight = reader.u64()?;
        if weight > MEMORY || (weight == 0) != (noise.count() == 0) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        let (below, above) = (Sum::decode(reader)?, Sum::decode(reader)?);
        Ok(Box::new(Sums {
            k: self.k,
            mean,
            weight,
            noise,
            below,
            above,
            excursions,
            critical: Cell::new(None),
        }))
    }
}

/// One side's sum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sum {
    s: f64,
    /// Points since the sum left 0, and their mean.
    length: u64,
    mean: f64,
}

impl Sum {
    fn next(&self, z: f64, k: f64) -> f64 {
        (self.s + z - k).max(0.0)
    }

    fn learn(&mut self, x: f64, z: f64, k: f64) {
        self.s = self.next(z.min(STEP), k).min(HIGHEST);
        if self.s == 0.0 {
            *self = Sum::default();
            return;
        }
        self.length += 1;
        let share = 1.0 / self.length as f64;
        self.mean = self.mean * (1.0 - share) + x * share;
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.s.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.mean.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let sum = Sum {
            s: reader.non_negative("cumulative sum")?,
            length: reader.u64()?,
            mean: reader.finite("mean of an excursion")?,
        };
        if sum.s > HIGHEST || sum.length > ADOPT || (sum.s == 0.0) != (sum.length == 0) {
            return Err(reader.corrupted("cumulative sum out of range"));
        }
        Ok(sum)
    }
}

/// ln of the rate per point at which one of two sums of independent normal noise passes `s`, by the
/// average run length of Siegmund, Sequential Analysis, 1985: (e^2kb − 2kb − 1) / 2k², b = s + 1.166.
fn ln_rate(s: f64, k: f64) -> f64 {
    let u = 2.0 * k * (s + 1.166);
    let ln_run = if u > 300.0 { u } else { libm::log(libm::expm1(u) - u) };
    (libm::log(4.0 * k * k) - ln_run).min(0.0)
}

/// Excursions that e³ points of noise have once are no evidence: what is calibrated is the tail.
const LEAST: f64 = 3.0;

/// −ln of the same less [`LEAST`], 0 for a sum of 0.
fn evidence(s: f64, k: f64) -> f64 {
    if s > 0.0 { (-ln_rate(s, k) - LEAST).max(f64::MIN_POSITIVE) } else { 0.0 }
}

/// The sum with this evidence, up to 1e6.
fn sum_of_evidence(evidence: f64, k: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if -ln_rate(middle, k) - LEAST < evidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Below and above.
type Limits = (f64, f64);

struct Sums {
    k: f64,
    mean: f64,
    /// Points behind the mean, at most [`MEMORY`].
    weight: u64,
    noise: NoiseScale,
    below: Sum,
    above: Sum,
    excursions: Excursions,
    /// The critical evidence that was asked for last, and their sums.
    critical: Cell<Option<(Limits, Limits)>>,
}

impl Sums {
    fn sd(&self) -> f64 {
        finite(self.noise.sd() * (1.0 + 1.0 / self.weight.max(1) as f64).sqrt())
    }

    fn is_degenerate(&self) -> bool {
        self.sd() <= ROUNDING * self.mean.abs()
    }

    /// Any other value is far from a constant.
    fn z(&self, x: f64) -> f64 {
        let d = x - self.mean;
        if !self.is_degenerate() {
            finite(d / self.sd())
        } else if d.abs() > ROUNDING * self.mean.abs() {
            HIGHEST.copysign(d)
        } else {
            0.0
        }
    }

    fn is_started(&self) -> bool {
        self.noise.count() >= WARM
    }

    fn learn_value(&mut self, x: f64) {
        if self.is_started() {
            let z = self.z(x);
            self.above.learn(x, z, self.k);
            self.below.learn(x, -z, self.k);
            let (below, above) = (self.below.s, self.above.s);
            self.excursions.learn(evidence(below, self.k), evidence(above, self.k));
            for side in [Side::Below, Side::Above] {
                let sum = if side == Side::Below { self.below } else { self.above };
                if sum.length >= ADOPT {
                    (self.mean, self.weight) = (finite(sum.mean), ADOPT / 2);
                    (self.below, self.above) = (Sum::default(), Sum::default());
                }
            }
        }
        self.weight = (self.weight + 1).min(MEMORY);
        let d = finite(x - self.mean);
        let d = if self.is_started() && !self.is_degenerate() {
            let reach = finite(CLIP * self.sd());
            d.clamp(-reach, reach)
        } else if self.is_started() {
            0.0
        } else {
            d
        };
        self.mean = finite(self.mean + d / self.weight as f64);
        self.noise.push(x);
    }

    fn critical_sums(&self, limits: Limits) -> Limits {
        if let Some((kept, sums)) = self.critical.get()
            && kept == limits
        {
            return sums;
        }
        let sums = (sum_of_evidence(limits.0, self.k), sum_of_evidence(limits.1, self.k));
        self.critical.set(Some((limits, sums)));
        sums
    }

    /// The sum that a point adds to. In the silence after a signal only a value does that would signal by
    /// itself if the mean of the excursion were the in-control mean: below 0 by their distance.
    fn sum(&self, side: Side) -> Sum {
        let sum = match side {
            Side::Below => self.below,
            Side::Above => self.above,
        };
        if !self.excursions.is_silent(side) {
            return sum;
        }
        let shift = if sum.length > 0 { side.sign() * self.z(sum.mean) } else { 0.0 };
        Sum { s: -shift.max(0.0), ..sum }
    }

    /// The side a point is on, with its sum.
    fn sum_with(&self, x: f64) -> Option<(Side, f64)> {
        let side = Side::of(x, self.mean)?;
        Some((side, self.sum(side).next(side.sign() * self.z(x), self.k)))
    }
}

impl EntityModel for Sums {
    fn count(&self) -> u64 {
        self.noise.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let own = rule.threshold;
        if self.weight > 0 {
            verdict.expected = self.mean;
            (verdict.lower, verdict.upper) = if self.is_degenerate() {
                let d = OffCentre::default().quantile(self.mean, self.count(), &rule.alpha());
                (finite(self.mean - d), finite(self.mean + d))
            } else {
                let (below, above) = match own {
                    Some(h) => (h, h),
                    None => {
                        let limits = self.excursions.critical(&rule.alpha());
                        self.critical_sums(limits)
                    }
                };
                // S + z − k = h; a sum far up already still leaves the expected value normal.
                let below = (below + self.k - self.sum(Side::Below).s).max(0.0);
                let above = (above + self.k - self.sum(Side::Above).s).max(0.0);
                (
                    finite(self.mean - finite(below * self.sd())),
                    finite(self.mean + finite(above * self.sd())),
                )
            };
        }
        if non_finite(point, &mut verdict) {
            return verdict;
        }
        verdict.direction = Direction::of(point.value, verdict.expected);
        if !self.is_started() {
            return verdict;
        }
        let Some((side, s)) = self.sum_with(point.value) else { return verdict };
        verdict.statistic = side.sign() * s;
        if self.is_degenerate() {
            if s > 0.0 {
                let ln_p = OffCentre::default().ln_p(self.mean, self.count(), point.value);
                verdict.tail = Tail::LnP(ln_p);
                verdict.is_anomaly = own.map_or(ln_p < rule.ln_alpha, |h| s > h);
            }
            return verdict;
        }
        let e = evidence(s, self.k);
        self.excursions.judge_aloud(side, e, own.map(|h| s > h), rule, &mut verdict);
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
        if let Some((side, s)) = self.sum_with(x) {
            self.excursions.signalled(side, evidence(s, self.k));
        }
        self.learn_value(x);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.excursions.encode(out);
        self.noise.encode(out);
        out.extend_from_slice(&self.mean.to_le_bytes());
        out.extend_from_slice(&self.weight.to_le_bytes());
        self.below.encode(out);
        self.above.encode(out);
        Ok(())
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("cusum".into(), json_number(verdict.statistic.abs()));
        let z = if verdict.value.is_finite() { self.z(verdict.value) } else { verdict.value };
        map.insert("z_score".into(), json_number(z));
        map.insert("mean".into(), json_number(self.mean));
        map.insert("std".into(), json_number(self.noise.sd()));
        map.insert("k".into(), json_number(self.k));
        if let Some(h) = rule.threshold {
            map.insert("h".into(), json_number(h));
        }
        describe(verdict, rule, self.count(), &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Montgomery, 7th ed., table 9.2: target 10, σ 1, K 0.5; the last ten samples come from a mean of
    /// 11. C⁺ at sample 29 is 5.28 and the first above H = 5; C⁻ ends at 0.
    #[test]
    fn sums_are_those_of_the_textbook() {
        let values = [
            9.45, 7.99, 9.29, 11.66, 12.16, 10.18, 8.04, 11.46, 9.2, 10.34, 9.03, 11.47, 10.51,
            9.4, 10.08, 9.37, 10.62, 10.31, 8.52, 10.84, 10.9, 9.33, 12.29, 11.5, 10.6, 11.08,
            10.38, 11.62, 11.31, 10.52,
        ];
        let (mut above, mut below) = (Sum::default(), Sum::default());
        let mut signals = Vec::new();
        for (i, x) in values.into_iter().enumerate() {
            above.learn(x, x - 10.0, 0.5);
            below.learn(x, 10.0 - x, 0.5);
            if above.s > 5.0 || below.s > 5.0 {
                signals.push((i + 1, (above.s * 100.0).round() / 100.0));
            }
            // C⁻ of samples 1 to 3 and C⁺ of samples 4 and 5
            let expected = [(0.05, 0.0), (1.56, 0.0), (1.77, 0.0), (0.0, 1.16), (0.0, 2.82)];
            if let Some((low, high)) = expected.get(i) {
                assert!((below.s - low).abs() < 1e-9 && (above.s - high).abs() < 1e-9);
            }
        }
        assert_eq!(signals, [(29, 5.28), (30, 5.3)]);
        // since sample 23: seven points up to sample 29
        assert_eq!(above.length, 8);
    }

    /// Montgomery, 7th ed., §9.1.2: for h = 5 and k = ½ Siegmund's run length is 938.2 on one side, half
    /// of that on both.
    #[test]
    fn the_rate_is_that_of_siegmund() {
        assert!((libm::exp(-ln_rate(5.0, 0.5)) - 469.1).abs() < 0.2);
        for s in [2.5, 3.0, 17.0] {
            assert!((sum_of_evidence(evidence(s, 0.5), 0.5) - s).abs() < 1e-6);
        }
        // what happens every few points is next to no evidence
        assert!(evidence(0.5, 0.5) < 1e-300);
    }
}
