//! What zscore, iqr and mad share: a centre, a spread on either side of it, and a calibrator for
//! the standardised residuals.
//!
//! Without a spread (a constant series) there is no scale to standardise by. Then p of a value at
//! distance d from the centre c is
//!
//! ```text
//!   p = (m + 1) / (n + 1) / (1 + d / (L·max(|c|, 1)))
//! ```
//!
//! with m the points so far that differed from the centre, out of n, and L their typical
//! 1 + d/max(|c|, 1). The first factor is what rank alone says about a value never seen before; the
//! second, with the tail of a Cauchy distribution, lets it shrink with distance: after 100 × 5.0 the
//! value 5.1 is worth a warning and 1e9 an emergency.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::chance::{Chance, Law};
use super::{EntityModel, Kind, Rule};
use crate::Result;
use crate::calibration::{Alpha, Calibrator, Critical};
use crate::codec::Reader;
use crate::distribution::{MIN_LN_P, ln_p_normal_two_sided};
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};

/// Relative spread that is rounding noise: 1e9 ± 1e-3 is not a constant, 1e9 ± 1e-4 is.
pub(super) const ROUNDING: f64 = 1e-12;
/// Up to here every point refreshes what is derived from the baseline.
const ALWAYS_REFRESH: u64 = 64;

/// Whether what is derived from `count` points, last at `refreshed`, is due again: each point up to
/// [`ALWAYS_REFRESH`], then with every 3 % of growth. A function of the counts alone, so that a
/// state does not depend on how its points were divided into calls.
pub(super) fn refresh_due(count: u64, refreshed: u64) -> bool {
    count <= ALWAYS_REFRESH || count >= refreshed.saturating_add(refreshed / 32)
}

/// A fitted centre and spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    pub centre: f64,
    /// Spread below the centre as a standard deviation, the uncertainty of the centre included.
    pub below: f64,
    pub above: f64,
}

impl Fit {
    pub(super) fn is_degenerate(&self) -> bool {
        let floor = self.rounding();
        // written so that NaN counts as degenerate
        !(self.below > floor && self.above > floor)
    }

    /// The least spread there is: less is rounding noise.
    fn rounding(&self) -> f64 {
        ROUNDING * self.centre.abs()
    }

    /// A value as a textbook's rule is to see it: one that differs from a constant by rounding noise only
    /// does not differ from it.
    fn without_rounding(&self, x: f64) -> f64 {
        let same = self.is_degenerate() && (x - self.centre).abs() <= self.rounding();
        if same { self.centre } else { x }
    }

    /// The bounds of a textbook's rule, made to hold what differs from a constant by rounding noise only.
    fn with_rounding(&self, (lower, upper): (f64, f64)) -> (f64, f64) {
        if !self.is_degenerate() {
            return (lower, upper);
        }
        let noise = self.rounding();
        (lower.min(finite(self.centre - noise)), upper.max(finite(self.centre + noise)))
    }

    /// The signed residual in spreads.
    pub(super) fn residual(&self, x: f64) -> f64 {
        let d = x - self.centre;
        let spread = if d < 0.0 { self.below } else { self.above };
        (d / spread).clamp(-f64::MAX, f64::MAX)
    }
}

/// A robust or plain estimate of centre and spread.
pub(super) trait Baseline: Send + Sized {
    /// The spread of n points of normal noise varies as a standard deviation of this share of them.
    const EFFICIENCY: f64;
    /// Degrees of freedom of the spread when `count` points have been learned.
    fn dof(&self, count: u64) -> f64 {
        Self::EFFICIENCY * count.saturating_sub(1) as f64
    }
    fn count(&self) -> u64;
    /// Learns a point whose value is finite.
    fn push(&mut self, point: &Point);
    /// What is expected of a point at its time (its value plays no part); `None` while nothing is.
    fn fit(&self, point: &Point) -> Option<Fit>;
    /// The fit that residuals are learned with; may lag behind [`Baseline::fit`] where that is costly.
    fn fit_for_learning(&self, point: &Point) -> Option<Fit> {
        self.fit(point)
    }
    /// Whether anomalous points are learned at once, by [`Baseline::leave_out`], instead of the peak of
    /// their episode afterwards.
    const RUNS: bool = false;
    /// Takes in an anomalous point whose value is finite.
    fn leave_out(&mut self, _point: &Point) {}
    /// Brings costly derived figures up to date; called on the cadence of [`refresh_due`].
    fn refresh(&mut self) {}
    /// The strategy's own figure for a point with a finite value; `f64::MAX` at most.
    fn statistic(&self, point: &Point, fit: &Fit) -> f64 {
        // Without a spread 0/0 at the centre.
        if point.value == fit.centre { 0.0 } else { fit.residual(point.value) }
    }
    /// Lower and upper bound of the strategy's own rule at the time of a point.
    fn bounds(&self, _point: &Point, fit: &Fit, threshold: f64) -> (f64, f64) {
        (finite(fit.centre - threshold * fit.below), finite(fit.centre + threshold * fit.above))
    }
    fn metadata(&self, verdict: &Verdict, map: &mut Map<String, Value>);
    /// See [`EntityModel::explain`].
    fn explain(&self) -> Map<String, Value> {
        Map::new()
    }
    fn encode(&self, out: &mut Vec<u8>) -> Result<()>;
}

/// Points that differed from a constant baseline.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct OffCentre {
    count: u64,
    /// Σ ln(1 + d/max(|c|, 1)).
    sum_ln: f64,
}

impl OffCentre {
    fn learn(&mut self, centre: f64, x: f64) {
        let relative = ((x - centre).abs() / centre.abs().max(1.0)).min(f64::MAX);
        if relative > ROUNDING {
            self.count = self.count.saturating_add(1);
            self.sum_ln += libm::log1p(relative);
        }
    }

    /// max(|c|, 1) times the typical relative distance of those that differed, and the chance that
    /// a point differs at all.
    fn unit_and_share(&self, centre: f64, n: u64) -> (f64, f64) {
        let typical =
            if self.count == 0 { 1.0 } else { libm::exp(self.sum_ln / self.count as f64) };
        let unit = (centre.abs().max(1.0) * typical).min(f64::MAX);
        (unit, ((self.count as f64 + 1.0) / (n as f64 + 1.0)).min(1.0))
    }

    pub fn ln_p(&self, centre: f64, n: u64, x: f64) -> f64 {
        let (unit, share) = self.unit_and_share(centre, n);
        let d = (x - centre).abs().min(f64::MAX);
        // From 1 at the centre to `share` within rounding noise: continuous, and strictly falling.
        let noise = d / (ROUNDING * centre.abs().max(1.0));
        let beyond_noise = if noise.is_finite() { noise / (1.0 + noise) } else { 1.0 };
        let p_far = share / (1.0 + d / unit);
        if beyond_noise >= 1.0 {
            libm::log(share) - libm::log1p(d / unit)
        } else {
            libm::log1p(-beyond_noise * (1.0 - p_far))
        }
    }

    /// The distance at which p crosses alpha.
    pub fn quantile(&self, centre: f64, n: u64, alpha: &Alpha) -> f64 {
        let (unit, share) = self.unit_and_share(centre, n);
        let ln_ratio = libm::log(share) - alpha.ln_p;
        if ln_ratio > 0.0 {
            return (unit * libm::expm1(ln_ratio)).min(f64::MAX);
        }
        let w = -libm::expm1(alpha.ln_p) / (1.0 - share);
        let noise = if w < 1.0 { w / (1.0 - w) } else { 1e16 };
        noise * ROUNDING * centre.abs().max(1.0)
    }
}

/// What was last computed of where p crosses alpha: `critical` is forgotten when the calibrator is
/// refreshed, the |residuals| below and above when the degrees of freedom change.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    ln_alpha: f64,
    critical: Critical,
    dof: f64,
    below: f64,
    above: f64,
}

/// A baseline with its calibrator: the whole model of one entity.
pub(super) struct LocationScale<B> {
    baseline: B,
    calibrator: Calibrator,
    chance: Chance,
    off_centre: OffCentre,
    /// Count at the last refresh.
    refreshed: u64,
    known: Cell<Option<Known>>,
}

impl<B: Baseline> LocationScale<B> {
    /// Of any values.
    pub fn new(baseline: B) -> Self {
        LocationScale {
            baseline,
            calibrator: Calibrator::default(),
            chance: Chance::new(Kind::Value),
            off_centre: OffCentre::default(),
            refreshed: 0,
            known: Cell::new(None),
        }
    }

    /// Of values that vary by chance as their kind does. For baselines that expect something like a
    /// mean: of the value before, say, chance knows nothing.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.chance = Chance::new(kind);
        self
    }

    /// Of a statistic that is unusual only where it is large; see [`Calibrator::one_sided`].
    pub fn one_sided(mut self) -> Self {
        self.calibrator = Calibrator::one_sided();
        self
    }

    /// Reads all but the baseline, which comes last.
    pub fn decode(
        reader: &mut Reader<'_>,
        baseline: impl FnOnce(&mut Reader<'_>) -> Result<B>,
    ) -> Result<Self> {
        let calibrator = Calibrator::decode(reader)?;
        let chance = Chance::decode(reader)?;
        let off_centre =
            OffCentre { count: reader.u64()?, sum_ln: reader.non_negative("distance")? };
        let refreshed = reader.u64()?;
        let baseline = baseline(reader)?;
        let count = baseline.count();
        if refreshed > count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(LocationScale {
            baseline,
            calibrator,
            chance,
            off_centre,
            refreshed,
            known: Cell::new(None),
        })
    }

    pub fn baseline(&self) -> &B {
        &self.baseline
    }

    /// Degrees of freedom of the spread; as of the last refresh, so that critical values last.
    fn dof(&self) -> f64 {
        self.baseline.dof(self.refreshed)
    }

    fn critical(&self, alpha: &Alpha, dof: f64) -> Known {
        let known = self.known.get().filter(|known| known.ln_alpha == alpha.ln_p);
        if let Some(known) = known.filter(|known| known.dof == dof) {
            return known;
        }
        let critical = known.map_or_else(|| self.calibrator.critical(alpha), |k| k.critical);
        let (below, above) = critical.residuals(dof);
        let known = Known { ln_alpha: alpha.ln_p, critical, dof, below, above };
        self.known.set(Some(known));
        known
    }

    /// Where p crosses alpha.
    fn p_bounds(&self, fit: &Fit, law: Option<&Law>, alpha: &Alpha) -> (f64, f64) {
        if let Some(law) = law {
            let critical = self.critical(alpha, f64::INFINITY);
            return law.bounds(alpha.z, critical.below, critical.above);
        }
        let (below, above) = if fit.is_degenerate() {
            let d = self.off_centre.quantile(fit.centre, self.baseline.count(), alpha);
            (d, d)
        } else {
            let critical = self.critical(alpha, self.dof());
            (critical.below * fit.below, critical.above * fit.above)
        };
        (finite(fit.centre - below), finite(fit.centre + above))
    }

    /// Counts the residual of a point with a finite value, which the baseline has not learned. What was
    /// expected of it.
    fn calibrate(&mut self, point: &Point, anomalous: bool) -> Option<Fit> {
        let fit = self.baseline.fit_for_learning(point);
        if let Some(fit) = fit {
            if let Some(law) = self.chance.law(fit.centre, point) {
                let residual = law.residual(point.value);
                if anomalous {
                    self.calibrator.learn_anomalous(residual, f64::INFINITY);
                } else {
                    self.calibrator.learn(residual, f64::INFINITY);
                }
            } else if fit.is_degenerate() {
                self.off_centre.learn(fit.centre, point.value);
            } else {
                let (residual, dof) = (fit.residual(point.value), self.dof());
                if anomalous {
                    self.calibrator.learn_anomalous(residual, dof);
                } else {
                    self.calibrator.learn(residual, dof);
                }
            }
        }
        fit
    }

    /// Teaches the baseline a point with a finite value, of which it expected so much.
    fn absorb(&mut self, point: &Point, fit: Option<Fit>) {
        if let Some(fit) = fit {
            self.chance.learn(fit.centre, point);
        }
        self.baseline.push(point);
        self.renew();
    }

    fn renew(&mut self) {
        let count = self.baseline.count();
        if refresh_due(count, self.refreshed) {
            self.refreshed = count;
            self.baseline.refresh();
            if self.calibrator.refresh_when_due() {
                self.known.set(None);
            }
        }
    }
}

/// What is expected at the time of a point, ready to be asked about any value.
pub struct Expectation<'a> {
    fit: Fit,
    law: Option<Law>,
    calibrator: &'a Calibrator,
    off_centre: OffCentre,
    count: u64,
    dof: f64,
}

impl Expectation<'_> {
    /// In the metric's unit.
    pub fn expected(&self) -> f64 {
        self.law.map_or(self.fit.centre, |law| law.expected())
    }

    /// The mean of both sides' spreads as a standard deviation; 0 of a constant series.
    pub fn spread(&self) -> f64 {
        if let Some(law) = self.law {
            return law.sd();
        }
        if self.fit.is_degenerate() { 0.0 } else { 0.5 * self.fit.below + 0.5 * self.fit.above }
    }

    /// Whether the value varies by chance as its kind does, and is impossible beyond some limit.
    pub fn is_by_chance(&self) -> bool {
        self.law.is_some()
    }

    /// How many standard deviations a value is worth by chance alone; `None` where chance does not tell.
    pub fn deviation_by_chance(&self, x: f64) -> Option<f64> {
        self.law.map(|law| law.deviation(x))
    }

    /// The value, or what is expected where the two differ by rounding noise.
    pub fn without_rounding(&self, x: f64) -> f64 {
        if self.law.is_none() { self.fit.without_rounding(x) } else { x }
    }

    pub fn is_impossible(&self, x: f64) -> bool {
        self.law.is_some_and(|law| law.impossible(x).is_some())
    }

    /// ln p of a finite value, and what it depends on where that can be told later.
    fn tail(&self, x: f64) -> Tail {
        if let Some(law) = self.law {
            // Whichever finds the value more usual: chance alone, or the errors so far.
            let by_chance = ln_p_normal_two_sided(law.deviation(x)).max(MIN_LN_P);
            let mut ln_p = by_chance.max(self.calibrator.ln_p(law.residual(x), f64::INFINITY));
            if let Some(outside) = law.impossible(x) {
                ln_p = ln_p.min(ln_p_normal_two_sided(IMPOSSIBLE + outside).max(MIN_LN_P));
            }
            return Tail::LnP(ln_p);
        }
        if self.fit.is_degenerate() {
            return Tail::LnP(self.off_centre.ln_p(self.fit.centre, self.count, x));
        }
        self.calibrator.tail(self.fit.residual(x), self.dof)
    }

    /// ln p of a finite value: 0 at most, never rising on the way out from what is expected.
    pub fn ln_p(&self, x: f64) -> f64 {
        if self.law.is_none() && !self.fit.is_degenerate() {
            return self.calibrator.ln_p(self.fit.residual(x), self.dof);
        }
        // The mean of a law is not its median: nothing is unusual about what is expected.
        if x == self.expected() {
            return 0.0;
        }
        match self.tail(x) {
            Tail::LnP(ln_p) => ln_p,
            Tail::Calibrated { residual, dof, side } => side.ln_p_of_residual(residual, dof),
        }
    }
}

/// The deviation of a count below 0 and of a ratio outside 0 to 1: it is an error, whatever was seen.
const IMPOSSIBLE: f64 = 100.0;

/// How many spreads out an anomalous point is learned at most. In spreads of the fit and not at a
/// quantile of the calibrator: where incidents are more frequent than the quantile's probability,
/// the calibrator would move it further out with each of them, and the baseline with it, until
/// incidents pass as normal (24 of them among 600 points took a deviation of 24 down to 5). At 3, a
/// share f of incidents widens the spread by √((1 − f) / (1 − 9 f)) at most, 5 % for one in a
/// hundred.
const BORDER: f64 = 3.0;

/// Bounds and figures stay finite: JSON and descriptions have no infinity.
pub(super) fn finite(v: f64) -> f64 {
    v.clamp(-f64::MAX, f64::MAX)
}

impl<B: Baseline> LocationScale<B> {
    fn expect(&self, fit: Fit, law: Option<Law>) -> Expectation<'_> {
        Expectation {
            fit,
            law,
            calibrator: &self.calibrator,
            off_centre: self.off_centre,
            count: self.baseline.count(),
            dof: self.dof(),
        }
    }
}

impl<B: Baseline> EntityModel for LocationScale<B> {
    fn count(&self) -> u64 {
        self.baseline.count()
    }

    fn expectation(&self, point: &Point) -> Option<Expectation<'_>> {
        let fit = self.baseline.fit(point)?;
        Some(self.expect(fit, self.chance.law(fit.centre, point)))
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let x = point.value;
        let fit = self.baseline.fit(point);
        let law = fit.and_then(|fit| self.chance.law(fit.centre, point));
        let mut moved = None;
        if let Some(fit) = &fit {
            (verdict.lower, verdict.upper) = match rule.threshold {
                Some(threshold) => fit.with_rounding(self.baseline.bounds(point, fit, threshold)),
                None if rule.range => self.p_bounds(fit, law.as_ref(), &rule.alpha()),
                None => (f64::NAN, f64::NAN),
            };
            let centre = law.map_or(fit.centre, |law| law.expected());
            // A rule's own range may leave out the centre: three windows that disagree, a median
            // beside a mean. What is expected lies in the range all the same.
            verdict.expected = if verdict.lower <= verdict.upper {
                centre.clamp(verdict.lower, verdict.upper)
            } else {
                centre
            };
            moved = Some((verdict.expected.min(centre), verdict.expected.max(centre)));
        }
        if !x.is_finite() {
            return verdict.of_non_finite();
        }
        let Some(fit) = fit else { return verdict };
        verdict.direction = Direction::of(x, verdict.expected);
        let seen = Point { value: fit.without_rounding(x), ..*point };
        verdict.statistic = self.baseline.statistic(&seen, &fit);
        verdict.tail = self.expect(fit, law).tail(x);
        let beyond_p = match verdict.tail {
            Tail::LnP(ln_p) => ln_p < rule.ln_alpha,
            Tail::Calibrated { residual, dof, .. } => {
                rule.threshold.is_none() && {
                    let critical = self.critical(&rule.alpha(), dof);
                    residual > critical.above || -residual > critical.below
                }
            }
        };
        // Nothing is unusual between what is expected and the centre, so that p never rises on the way
        // out.
        let between = moved.is_some_and(|(low, high)| low <= x && x <= high);
        if between {
            verdict.tail = Tail::LnP(0.0);
        }
        verdict.is_anomaly = match rule.threshold {
            // What is expected may be a bound, where rounding decides on which side of it it is.
            Some(threshold) => verdict.statistic.abs() > threshold && x != verdict.expected,
            None => beyond_p && !between,
        };
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            let fit = self.calibrate(point, false);
            self.absorb(point, fit);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.calibrate(point, true);
            self.baseline.leave_out(point);
            self.renew();
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        if point.value.is_nan() || B::RUNS {
            return;
        }
        let Some(fit) = self.baseline.fit(point) else { return };
        if let Some(law) = self.chance.law(fit.centre, point) {
            let value = finite(point.value).clamp(law.value(-BORDER), law.value(BORDER));
            self.absorb(&Point { value, ..*point }, self.baseline.fit_for_learning(point));
            return;
        }
        if fit.is_degenerate() {
            // A border point would give a constant series a spread that it does not have; that a
            // point differed is all there is to learn, and known.
            return;
        }
        let (lower, upper) = (fit.centre - BORDER * fit.below, fit.centre + BORDER * fit.above);
        let value = point.value.max(finite(lower)).min(finite(upper));
        self.absorb(&Point { value, ..*point }, self.baseline.fit_for_learning(point));
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.calibrator.encode(out);
        self.chance.encode(out);
        out.extend_from_slice(&self.off_centre.count.to_le_bytes());
        out.extend_from_slice(&self.off_centre.sum_ln.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        self.baseline.encode(out)
    }

    fn explain(&self) -> Map<String, Value> {
        self.baseline.explain()
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        self.baseline.metadata(verdict, &mut map);
        let threshold = match rule.threshold {
            Some(threshold) => threshold,
            // The statistic at the bound that was, or would have been, violated.
            None => {
                let bound =
                    if verdict.direction == Direction::Low { verdict.lower } else { verdict.upper };
                let bound = Point::new(verdict.at, bound);
                let fit = self.baseline.fit(&bound);
                fit.map_or(f64::NAN, |fit| self.baseline.statistic(&bound, &fit).abs())
            }
        };
        map.insert("threshold".into(), super::json_number(threshold));
        map.insert("p_value".into(), super::json_number(verdict.p_value()));
        map.insert("ln_p".into(), super::json_number(verdict.ln_p()));
        if rule.threshold.is_none() {
            map.insert("alpha".into(), super::json_number(libm::exp(rule.ln_alpha)));
        }
        map.insert("baseline_points".into(), Value::from(self.baseline.count()));
        map
    }
}
