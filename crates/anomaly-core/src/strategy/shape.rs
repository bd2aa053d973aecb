//! What `random_cut_forest` and `matrix_profile` share: both look at a point twice.
//!
//! The first look is at the shape: a statistic of the point together with those before it, whose
//! upper tail is calibrated on the statistic's own out-of-sample past ([`UpperTail`]). Such
//! statistics do not grow with distance for ever, so the second look is at the distance between the
//! value and its forecast, which [`LocationScale`] calibrates. The smaller p of the two counts, and
//! how often it is how small is calibrated once more: looks at the same point agree most of the time,
//! so that Bonferroni's 2·min(p₁, p₂) would flag little more than half of what was asked for (0.57
//! of it on white noise). It is what counts until there is enough to calibrate by.
//!
//! Along the direction away from the forecast a shape's statistic may rise and fall. What is
//! calibrated and judged is its largest value on the way from the forecast to the point: evaluated
//! at [`OFFSETS`], linear between them, constant beyond the last. So p never rises with distance,
//! and neither do the bounds depend on the point that is judged.

use std::cell::{Cell, RefCell};

use serde_json::{Map, Value};

use std::f64::consts::LN_2;

use super::location_scale::{Baseline, Fit, LocationScale, ROUNDING, finite, refresh_due};
use super::{EntityModel, Kind, Rule, contributions, json_number};
use crate::Result;
use crate::codec::Reader;
use crate::distribution::MIN_LN_P;
use crate::point::{Point, Question};
use crate::verdict::{Status, Tail, Verdict};

/// Values at which a shape's statistic is evaluated, in spreads from the forecast.
pub(super) const OFFSETS: [f64; 7] = [-6.0, -3.0, -1.5, 0.0, 1.5, 3.0, 6.0];
/// The index of the forecast itself.
const CENTRE: usize = 3;

/// A forecaster that also has a statistic of the shape that a point completes.
pub(super) trait Shape: Baseline {
    /// What the statistic is called in an alert's metadata. [`Verdict::statistic`] is how many standard
    /// deviations its logarithm lies above its mean, or the value from its forecast in spreads,
    /// whichever is more: the strategy's own rule compares that with its threshold.
    const STATISTIC: &'static str;
    /// The statistic (finite, ≥ 0, larger is more unusual) if the value were off by [`OFFSETS`]
    /// spreads from the centre of `fit`; `None` where the points before do not allow a look.
    fn profile(&self, point: &Point, fit: &Fit) -> Option<[f64; OFFSETS.len()]>;
    /// How many points after an unusual one have it in their shape and are unusual for it.
    fn disturbs(&self) -> u8 {
        0
    }
    /// Further columns that it looks at.
    fn features(&self) -> usize {
        0
    }
}

/// The largest statistic on the way from the forecast to any value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Envelope {
    centre: f64,
    spread: f64,
    at: [f64; OFFSETS.len()],
}

impl Envelope {
    fn new(fit: &Fit, mut at: [f64; OFFSETS.len()]) -> Self {
        for i in CENTRE + 1..OFFSETS.len() {
            at[i] = at[i].max(at[i - 1]);
            let mirrored = OFFSETS.len() - 1 - i;
            at[mirrored] = at[mirrored].max(at[mirrored + 1]);
        }
        Envelope { centre: fit.centre, spread: fit.below, at }
    }

    fn statistic(&self, x: f64) -> f64 {
        let offset = (x - self.centre) / self.spread;
        let last = OFFSETS.len() - 1;
        if offset <= OFFSETS[0] {
            return self.at[0];
        }
        if offset >= OFFSETS[last] {
            return self.at[last];
        }
        let above = OFFSETS.partition_point(|o| *o <= offset).clamp(1, last);
        let (a, b) = (OFFSETS[above - 1], OFFSETS[above]);
        let (low, high) = (self.at[above - 1], self.at[above]);
        // Anchored at the end nearer to the forecast, so that rounding cannot undercut it.
        if above > CENTRE {
            low + (high - low) * ((offset - a) / (b - a))
        } else {
            high + (low - high) * ((b - offset) / (b - a))
        }
    }

    /// The values at which the statistic passes `critical`, infinite where it does not.
    fn bounds(&self, critical: f64) -> (f64, f64) {
        let side = |sign: f64| {
            let at = |step: usize| {
                let i = if sign > 0.0 { CENTRE + step } else { CENTRE - step };
                (OFFSETS[i].abs(), self.at[i])
            };
            if at(0).1 > critical {
                return self.centre;
            }
            for step in 1..=CENTRE {
                let ((a, low), (b, high)) = (at(step - 1), at(step));
                if high > critical {
                    let offset = a + (b - a) * ((critical - low) / (high - low));
                    return finite(self.centre + sign * offset * self.spread);
                }
            }
            sign * f64::INFINITY
        };
        (side(-1.0), side(1.0))
    }
}

const BINS: usize = 128;
/// Width of a bin at the finest, 2^-10.
const FINEST: f64 = 1.0 / 1024.0;
const MAX_EXPONENT: u8 = 20;
/// Figures beyond ± this count as this.
const MOST: f64 = 1e4;
/// With fewer figures a tail is not worth a look.
const LEAST_COUNT: u64 = 50;
/// At so many the counts are halved: what was usual long ago fades.
const MOST_COUNT: u64 = 1 << 15;

/// The upper tail of a figure: its rank among those seen, p = (1 + number above)/(n + 1), from a
/// histogram of 128 bins; beyond the largest seen an exponential tail with the mean excess of the
/// top 2 % (at least 10). Of a logarithm that is Pareto's tail by Hill's estimate (Hill 1975).
#[derive(Debug, Clone, PartialEq)]
struct UpperTail {
    bins: [u32; BINS],
    count: u64,
    /// Bins are 2^exponent times [`FINEST`] wide, and the first begins at `first` of them.
    exponent: u8,
    first: i32,
}

impl Default for UpperTail {
    fn default() -> Self {
        UpperTail { bins: [0; BINS], count: 0, exponent: 0, first: 0 }
    }
}

impl UpperTail {
    fn width(&self) -> f64 {
        FINEST * f64::from(1u32 << self.exponent)
    }

    /// Position of a figure in bins from the beginning of the first.
    fn position(&self, figure: f64) -> f64 {
        figure.clamp(-MOST, MOST) / self.width() - f64::from(self.first)
    }

    fn coarsen(&mut self) {
        let first = self.first.div_euclid(2);
        let shift = self.first.rem_euclid(2) as usize;
        let mut bins = [0u32; BINS];
        for (i, n) in self.bins.iter().enumerate() {
            let target = &mut bins[((i + shift) / 2).min(BINS - 1)];
            *target = target.saturating_add(*n);
        }
        (self.bins, self.first, self.exponent) = (bins, first, self.exponent + 1);
    }

    fn learn(&mut self, figure: f64) {
        if self.count == 0 {
            self.first = libm::floor(figure.clamp(-MOST, MOST) / self.width()) as i32;
        }
        // Upwards the bins reach as far as there is anything. What lies below the first counts as
        // lying in it, but for the few figures at the beginning: small ones need no resolution.
        let low = self.count < LEAST_COUNT;
        let mut position = self.position(figure);
        while self.exponent < MAX_EXPONENT && (position >= BINS as f64 || low && position < 0.0) {
            if position < 0.0 && self.bins[BINS / 2..].iter().all(|n| *n == 0) {
                self.bins.rotate_right(BINS / 2);
                self.first -= BINS as i32 / 2;
            } else {
                self.coarsen();
            }
            position = self.position(figure);
        }
        let bin = (libm::floor(position).max(0.0) as usize).min(BINS - 1);
        self.bins[bin] = self.bins[bin].saturating_add(1);
        self.count += 1;
        if self.count >= MOST_COUNT {
            self.fade(2);
        }
    }

    /// Keeps one of so many figures, by rank, so that no rank moves.
    fn fade(&mut self, of: u64) {
        let (mut seen, mut kept) = (0, 0);
        for n in self.bins.iter_mut().rev() {
            seen += u64::from(*n);
            let share = (seen + of / 2) / of;
            *n = (share - kept) as u32;
            kept = share;
        }
        self.count = kept;
    }

    /// Counts a figure; that of an anomalous point as the largest there is, if it is larger. Never
    /// counted it would seem rarer than it is, at its own height it would make room for more.
    fn count(&mut self, figure: f64, anomalous: bool) {
        match self.bins.iter().rposition(|n| *n > 0) {
            Some(top) if anomalous && self.position(figure) >= top as f64 => {
                self.bins[top] = self.bins[top].saturating_add(1);
                self.count += 1;
            }
            _ => self.learn(figure),
        }
    }

    /// End of the last bin with anything in it, and the mean excess, both in bins.
    fn top(&self) -> (f64, f64) {
        let wanted = (self.count / 50).max(10);
        let last = self.bins.iter().rposition(|n| *n > 0).unwrap_or(0);
        let (mut seen, mut sum) = (0u64, 0.0);
        let mut from = 0;
        for (i, n) in self.bins.iter().enumerate().rev() {
            seen += u64::from(*n);
            sum += f64::from(*n) * (i as f64 + 0.5);
            if seen >= wanted {
                from = i;
                break;
            }
        }
        (last as f64 + 1.0, (sum / seen.max(1) as f64 - from as f64).max(0.5))
    }

    fn is_ready(&self) -> bool {
        self.count >= LEAST_COUNT
    }

    /// ln p of a figure at least this large; 0 while there are too few.
    fn ln_p(&self, figure: f64) -> f64 {
        if !self.is_ready() {
            return 0.0;
        }
        let position = figure.max(-MOST) / self.width() - f64::from(self.first);
        let n = self.count as f64;
        let (end, excess) = self.top();
        if position >= end {
            return -libm::log(n + 1.0) - (position - end) / excess;
        }
        if position <= 0.0 {
            return 0.0;
        }
        let bin = position as usize;
        let above: u64 = self.bins[bin + 1..].iter().map(|n| u64::from(*n)).sum();
        let within = f64::from(self.bins[bin]) * (1.0 - (position - bin as f64));
        libm::log(((above as f64 + within + 1.0) / (n + 1.0)).min(1.0))
    }

    /// The figure beyond which ln p is below `ln_alpha` < 0; infinite while there are too few.
    fn quantile(&self, ln_alpha: f64) -> f64 {
        if !self.is_ready() {
            return f64::INFINITY;
        }
        let n = self.count as f64;
        let (end, excess) = self.top();
        let wanted = libm::exp(ln_alpha) * (n + 1.0) - 1.0;
        let mut position = 0.0;
        if wanted <= 0.0 {
            position = end + excess * (-libm::log(n + 1.0) - ln_alpha).max(0.0);
        } else {
            let mut above = 0.0;
            for (i, n) in self.bins.iter().enumerate().rev() {
                let within = f64::from(*n);
                if above + within >= wanted {
                    position = i as f64 + 1.0 - (wanted - above) / within;
                    break;
                }
                above += within;
            }
        }
        (position + f64::from(self.first)) * self.width()
    }

    fn usual(&self) -> Usual {
        let n = self.count as f64;
        let moment = |of: &dyn Fn(f64) -> f64| {
            self.bins.iter().enumerate().map(|(i, c)| f64::from(*c) * of(i as f64)).sum::<f64>() / n
        };
        if !self.is_ready() {
            return Usual { mean: 0.0, sd: 0.0 };
        }
        let mean = moment(&|i| i);
        // A bin's own width keeps figures that are all alike from having no spread.
        let sd = (moment(&|i| (i - mean) * (i - mean)) + 1.0 / 12.0).sqrt();
        let width = self.width();
        Usual { mean: (mean + 0.5 + f64::from(self.first)) * width, sd: sd * width }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.exponent);
        out.extend_from_slice(&self.first.to_le_bytes());
        for n in self.bins {
            out.extend_from_slice(&n.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let exponent = reader.u8()?;
        let first = reader.u32()? as i32;
        if exponent > MAX_EXPONENT || first.unsigned_abs() > 1 << 25 {
            return Err(reader.corrupted("histogram out of range"));
        }
        let mut bins = [0; BINS];
        for n in &mut bins {
            *n = reader.u32()?;
        }
        let count = bins.iter().map(|n| u64::from(*n)).sum();
        Ok(UpperTail { bins, count, exponent, first })
    }
}

/// While the history fills, statistics fall: there is more and more to be like. At each power of two
/// of the count from here on, those so far count a quarter.
const FIRST_FADING: u64 = 256;
const LAST_FADING: u64 = 4096;

/// Points with a smaller ln p disturb the shapes of the next ones.
const UNUSUAL: f64 = -7.0;
/// What is less probable than e^-40 is learned as this: one gross outlier must not make all the rest
/// look alike.
const CERTAIN: f64 = 40.0;

/// Statistics below count as this.
const LEAST_STATISTIC: f64 = 1e-3;

/// What [`UpperTail`] is kept of for a statistic.
fn figure(statistic: f64) -> f64 {
    libm::log(statistic.max(LEAST_STATISTIC))
}

/// A rate with what both looks must fall below for it, kept until the next refresh.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Critical {
    ln_alpha: f64,
    by_value: Rule,
    statistic: f64,
    usual: Usual,
}

/// Mean and standard deviation of the figures of a statistic; both 0 while there are too few.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usual {
    mean: f64,
    sd: f64,
}

impl Usual {
    /// In standard deviations.
    fn sigmas(&self, statistic: f64) -> f64 {
        if self.sd > 0.0 { (figure(statistic) - self.mean) / self.sd } else { 0.0 }
    }

    fn statistic(&self, sigmas: f64) -> f64 {
        let limit = self.mean + sigmas * self.sd;
        if self.sd > 0.0 { libm::exp(limit.min(700.0)) } else { f64::INFINITY }
    }
}

/// An envelope as computed for a judgement, for those and the learning that follow it.
type Kept = (Question, Option<Envelope>);

/// A shape with its calibrations: the whole model of one entity.
pub(super) struct Shaped<B> {
    value: LocationScale<B>,
    statistics: UpperTail,
    /// Of −ln min(p₁, p₂), p₁ and p₂ being those of [`Shaped::judged`].
    smaller: UpperTail,
    /// What judges: `statistics` and `smaller` as of the last refresh, so that critical values last.
    judged: (UpperTail, UpperTail),
    /// Points to come whose shape holds an unusual one that was learned.
    disturbed: u8,
    /// Points learned, but for those learned clipped.
    learned: u64,
    refreshed: u64,
    critical: Cell<Option<Critical>>,
    kept: RefCell<Option<Kept>>,
}

impl<B: Shape> Shaped<B> {
    pub fn new(shape: B) -> Self {
        Shaped {
            value: LocationScale::new(shape),
            statistics: UpperTail::default(),
            smaller: UpperTail::default(),
            judged: Default::default(),
            disturbed: 0,
            learned: 0,
            refreshed: 0,
            critical: Cell::new(None),
            kept: RefCell::new(None),
        }
    }

    /// Of values that vary by chance as their kind does.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.value = self.value.of_kind(kind);
        self
    }

    pub fn decode(
        reader: &mut Reader<'_>,
        shape: impl FnOnce(&mut Reader<'_>) -> Result<B>,
    ) -> Result<Self> {
        let mut tails = [(); 4].map(|()| UpperTail::default());
        for tail in &mut tails {
            *tail = UpperTail::decode(reader)?;
        }
        let [statistics, smaller, a, b] = tails;
        let disturbed = reader.u8()?;
        let (learned, refreshed) = (reader.u64()?, reader.u64()?);
        let value = LocationScale::decode(reader, shape)?;
        if refreshed > learned || learned > value.count() {
            return Err(reader.corrupted("counts contradict each other"));
        }
        Ok(Shaped {
            value,
            statistics,
            smaller,
            judged: (a, b),
            disturbed,
            learned,
            refreshed,
            critical: Cell::new(None),
            kept: RefCell::new(None),
        })
    }

    /// The ln p of both looks together from the smaller of the two.
    fn combined(&self, smaller: f64) -> f64 {
        if self.judged.1.is_ready() {
            self.judged.1.ln_p(-smaller).min(0.0)
        } else {
            (smaller + LN_2).min(0.0)
        }
    }

    fn critical(&self, rule: &Rule) -> Critical {
        if let Some(kept) = self.critical.get()
            && kept.ln_alpha == rule.ln_alpha
        {
            return kept;
        }
        let smaller = if self.judged.1.is_ready() {
            -self.judged.1.quantile(rule.ln_alpha)
        } else {
            rule.ln_alpha - LN_2
        };
        let critical = Critical {
            ln_alpha: rule.ln_alpha,
            by_value: Rule::new(None, smaller),
            statistic: libm::exp(self.judged.0.quantile(smaller.min(0.0)).min(700.0)),
            usual: self.judged.0.usual(),
        };
        self.critical.set(Some(critical));
        critical
    }

    fn envelope(&self, point: &Point) -> Option<Envelope> {
        // The same whatever the value, and an ensemble asks about many.
        if let Some((question, envelope)) = &*self.kept.borrow()
            && question.is(point.at, point.features)
        {
            return *envelope;
        }
        let shape = self.value.baseline();
        let fit = shape.fit(point)?;
        if fit.is_degenerate() {
            return None;
        }
        Some(Envelope::new(&fit, shape.profile(point, &fit)?))
    }

    /// Counts both looks at a point that the model has not learned yet.
    fn calibrate(&mut self, point: &Point, anomalous: bool) {
        let Some(envelope) = self.envelope(point) else { return };
        // What follows an unusual point that was learned is unusual too. Where such points are left
        // out there is nothing of the kind, and it would make the tail too heavy.
        if !anomalous && self.disturbed > 0 {
            self.disturbed -= 1;
            return;
        }
        let figure = figure(envelope.statistic(point.value));
        if self.judged.0.is_ready() {
            // Any rule gives the same p, and the one at hand has its critical value computed.
            let any = Rule { range: false, ..Rule::new(None, -1.0) };
            let any = self.critical.get().map_or(any, |c| c.by_value);
            let by_value = self.value.judge(point, &any).ln_p();
            let smaller = by_value.min(self.judged.0.ln_p(figure));
            self.smaller.count((-smaller).min(CERTAIN), anomalous);
            if !anomalous && smaller < UNUSUAL {
                self.disturbed = self.value.baseline().disturbs();
            }
        }
        self.statistics.count(figure, anomalous);
    }

    /// −ln p of both looks together, as if they knew nothing of each other: neither hides the other.
    fn surprise(&self, point: &Point) -> f64 {
        let any = Rule { range: false, ..Rule::new(None, -1.0) };
        let by_value = self.value.judge(point, &any).ln_p();
        let by_shape = self.envelope(point).map(|envelope| {
            let statistic = envelope.statistic(point.value);
            self.judged.0.ln_p(figure(statistic))
        });
        -by_value - by_shape.unwrap_or(0.0)
    }

    /// One look only, where the points before do not allow the other.
    fn judge_value(&self, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = self.value.judge(point, &Rule { threshold: None, ..*rule });
        let fit = self.value.baseline().fit(point);
        let (Some(fit), Status::Ok) = (fit, verdict.status) else { return verdict };
        // Without any variation there is no distance in spreads, and p decides.
        verdict.statistic = 0.0;
        if !fit.is_degenerate() {
            verdict.statistic = fit.residual(point.value).abs();
            if let Some(threshold) = rule.threshold {
                verdict.is_anomaly = verdict.statistic > threshold;
                verdict.lower = finite(fit.centre - threshold * fit.below);
                verdict.upper = finite(fit.centre + threshold * fit.above);
                // by chance a little beside the forecast
                if verdict.lower <= verdict.upper {
                    verdict.expected = verdict.expected.clamp(verdict.lower, verdict.upper);
                }
            }
        }
        verdict
    }

    /// Makes what was learned count, on the cadence of the counts.
    fn refresh(&mut self) {
        *self.kept.get_mut() = None;
        if refresh_due(self.learned, self.refreshed) {
            self.refreshed = self.learned;
            self.judged = (self.statistics.clone(), self.smaller.clone());
            self.critical.set(None);
        }
    }
}

impl<B: Shape> EntityModel for Shaped<B> {
    fn count(&self) -> u64 {
        self.learned
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        let envelope = self.envelope(point);
        let kept = self.kept.borrow().as_ref().is_some_and(|(q, _)| q.is(point.at, point.features));
        if !kept {
            *self.kept.borrow_mut() = Some((Question::new(point.at, point.features), envelope));
        }
        let Some(envelope) = envelope else {
            return self.judge_value(point, rule);
        };
        let critical = self.critical(rule);
        let mut verdict = self.value.judge(point, &critical.by_value);
        if let Some(threshold) = rule.threshold {
            let reach = threshold * envelope.spread;
            verdict.lower = finite(envelope.centre - reach);
            verdict.upper = finite(envelope.centre + reach);
        }
        let shape = rule.threshold.map_or(critical.statistic, |t| critical.usual.statistic(t));
        let (lower, upper) = envelope.bounds(shape);
        (verdict.lower, verdict.upper) = (verdict.lower.max(lower), verdict.upper.min(upper));
        if verdict.status != Status::Ok {
            return verdict;
        }
        let statistic = envelope.statistic(point.value);
        let distance = (point.value - envelope.centre).abs() / envelope.spread;
        let smaller = verdict.ln_p().min(self.judged.0.ln_p(figure(statistic)));
        verdict.tail = Tail::LnP(self.combined(smaller).max(MIN_LN_P));
        verdict.statistic = finite(critical.usual.sigmas(statistic).max(distance));
        verdict.is_anomaly = match rule.threshold {
            Some(threshold) => verdict.statistic > threshold,
            // The bounds say the same, but for values so near to the largest number that no bound is
            // left for so small a p.
            None => verdict.ln_p() < rule.ln_alpha,
        };
        verdict
    }

    fn learn(&mut self, point: &Point) {
        if !point.value.is_finite() {
            return;
        }
        self.calibrate(point, false);
        self.value.learn(point);
        self.learned += 1;
        if self.learned.is_power_of_two() && (FIRST_FADING..=LAST_FADING).contains(&self.learned) {
            self.statistics.fade(4);
            self.smaller.fade(4);
        }
        self.refresh();
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.calibrate(point, true);
            self.value.leave_out(point);
            self.refresh();
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        self.value.learn_clipped(point);
        self.refresh();
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        for tail in [&self.statistics, &self.smaller, &self.judged.0, &self.judged.1] {
            tail.encode(out);
        }
        out.push(self.disturbed);
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        self.value.encode(out)
    }

    fn contributions(&self, point: &Point) -> Option<Vec<f64>> {
        let shape = self.value.baseline();
        let features = shape.features();
        if features == 0 || !point.value.is_finite() {
            return None;
        }
        // missing columns count as their medians
        let medians = vec![f64::NAN; features];
        let usual = shape.fit(&Point { features: &medians, ..*point })?.centre;
        contributions::shares(features + 1, |actual| {
            let value = if actual[0] { point.value } else { usual };
            let own = |j: usize| point.features.get(j).copied().filter(|_| actual[j + 1]);
            let features: Vec<f64> = (0..features).map(|j| own(j).unwrap_or(f64::NAN)).collect();
            self.surprise(&Point { value, features: &features, ..*point })
        })
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = Map::new();
        let critical = self.critical(rule);
        map.insert("sigmas".into(), json_number(verdict.statistic));
        let threshold = rule.threshold.unwrap_or_else(|| {
            critical.usual.sigmas(critical.statistic).min(critical.by_value.z_alpha)
        });
        map.insert("threshold".into(), json_number(threshold));
        let usual = json_number(libm::exp(critical.usual.mean));
        map.insert(format!("usual_{}", B::STATISTIC), usual);
        let limit = rule.threshold.map_or(critical.statistic, |t| critical.usual.statistic(t));
        map.insert(format!("unusual_{}", B::STATISTIC), json_number(finite(limit)));
        map.insert("p_value".into(), json_number(verdict.p_value()));
        map.insert("ln_p".into(), json_number(verdict.ln_p()));
        if rule.threshold.is_none() {
            map.insert("alpha".into(), json_number(libm::exp(rule.ln_alpha)));
        }
        map.insert("baseline_points".into(), Value::from(self.count()));
        self.value.baseline().metadata(verdict, &mut map);
        map
    }

    fn explain(&self) -> Map<String, Value> {
        self.value.baseline().explain()
    }
}

/// Where a point comes after those learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Before the latest.
    Late,
    /// So many steps after the latest, 1 for the next.
    Next(usize),
    /// So long after that what went before says nothing about it.
    Broken,
}

const DELTAS: usize = 15;
/// So many of the latest steps must agree for a longer one to count as points missing.
const AGREEING: usize = 12;

/// The sampling of the latest points. Where it is regular, missing points are noticed; where it is
/// not, points count as they come.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clock {
    last: i64,
    deltas: [i64; DELTAS],
    /// Points seen.
    seen: u64,
    /// The step of a regular sampling, else 0. Derived.
    step: i64,
}

impl Clock {
    pub fn new() -> Self {
        Clock { last: i64::MIN, deltas: [0; DELTAS], seen: 0, step: 0 }
    }

    pub fn position(&self, at: i64, limit: usize) -> Position {
        if self.seen == 0 {
            return Position::Next(1);
        }
        if at < self.last {
            return Position::Late;
        }
        if self.step == 0 {
            return Position::Next(1);
        }
        let delta = i128::from(at) - i128::from(self.last);
        let steps = ((delta + i128::from(self.step / 2)) / i128::from(self.step)).max(1);
        match usize::try_from(steps) {
            Ok(steps) if steps <= limit => Position::Next(steps),
            _ => Position::Broken,
        }
    }

    /// A point that is not late.
    pub fn push(&mut self, at: i64) {
        if self.seen > 0 {
            let delta = i128::from(at) - i128::from(self.last);
            self.deltas[(self.seen % DELTAS as u64) as usize] =
                i64::try_from(delta).unwrap_or(i64::MAX).max(0);
        }
        self.seen = self.seen.saturating_add(1);
        self.last = at;
        self.derive();
    }

    fn derive(&mut self) {
        self.step = 0;
        if self.seen > DELTAS as u64 {
            let mut sorted = self.deltas;
            sorted.sort_unstable();
            let median = sorted[DELTAS / 2];
            let off = |d: i64| (i128::from(d) - i128::from(median)).unsigned_abs();
            let near = u128::from(median.unsigned_abs() / 4);
            let near = sorted.iter().filter(|d| off(**d) <= near).count();
            if near >= AGREEING {
                self.step = median;
            }
        }
    }

    /// Time of the latest point; the first possible one before there is any.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The step of a regular sampling.
    pub fn step(&self) -> Option<i64> {
        (self.step > 0).then_some(self.step)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last.to_le_bytes());
        out.extend_from_slice(&self.seen.to_le_bytes());
        for d in self.deltas {
            out.extend_from_slice(&d.to_le_bytes());
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut clock = Clock { last: reader.i64()?, seen: reader.u64()?, ..Clock::new() };
        for d in &mut clock.deltas {
            *d = reader.i64()?;
            if *d < 0 {
                return Err(Reader::new(&[]).corrupted("time between points is negative"));
            }
        }
        clock.derive();
        Ok(clock)
    }
}

/// Scaled values lie within ± this: enough to be far out, and no square of it overflows.
const FARTHEST: f64 = 1e6;
/// The buffers of a history run so far beyond what is kept before they are moved.
const SLACK: usize = 256;

/// The latest values, and as many features of each, also scaled: (x − offset)/scale with the median
/// and the median absolute deviation, so that huge, tiny and offset values compute alike.
pub(super) struct History {
    /// Values of the latest points that are kept.
    keep: usize,
    /// Features of each point.
    width: usize,
    raw: Vec<f64>,
    pub z: Vec<f64>,
    raw_features: Vec<f64>,
    features: Vec<f64>,
    /// Whether a value was measured, not filled in.
    real: Vec<bool>,
    /// Values ever pushed.
    pub pushed: u64,
    /// (offset, scale) of the value and of each feature.
    scales: Vec<(f64, f64)>,
}

fn scaled(x: f64, (offset, scale): (f64, f64)) -> f64 {
    ((x - offset) / scale).clamp(-FARTHEST, FARTHEST)
}

/// Median and 1.4826 MAD; where more than half of the values are the same, the mean distance; where all
/// are, but for rounding noise, the median or 1.
pub(super) fn robust_scale(values: &mut [f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 1.0);
    }
    let middle = values.len() / 2;
    let median = *values.select_nth_unstable_by(middle, f64::total_cmp).1;
    let n = values.len() as f64;
    let mut mean = 0.0;
    for v in values.iter_mut() {
        *v = (*v - median).abs().min(f64::MAX);
        mean += *v / n;
    }
    let mad = 1.4826 * *values.select_nth_unstable_by(middle, f64::total_cmp).1;
    let scale = if mad > 0.0 { mad } else { mean };
    // Rounding noise has no shape: it becomes too small for one.
    let scale = if scale > ROUNDING * median.abs() { scale } else { median.abs() };
    (median, if scale > 0.0 { scale.min(f64::MAX) } else { 1.0 })
}

impl History {
    pub fn new(keep: usize, width: usize) -> Self {
        History {
            keep,
            width,
            raw: Vec::new(),
            z: Vec::new(),
            raw_features: Vec::new(),
            features: Vec::new(),
            real: Vec::new(),
            pushed: 0,
            scales: vec![(0.0, 1.0); width + 1],
        }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Values that are stored.
    pub fn keep(&self) -> usize {
        self.keep
    }

    /// A value at hand, in its own unit.
    pub fn raw(&self, slot: usize) -> f64 {
        self.raw[slot]
    }

    /// Its features in their own units.
    pub fn raw_features(&self, slot: usize) -> &[f64] {
        &self.raw_features[slot * self.width..][..self.width]
    }

    /// Values at hand, at least the latest `keep` of those pushed.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Index in the buffers of the point pushed as number `index`, from 0.
    pub fn slot(&self, index: u64) -> usize {
        (index + self.raw.len() as u64 - self.pushed) as usize
    }

    pub fn is_real(&self, slot: usize) -> bool {
        self.real[slot]
    }

    pub fn features(&self, slot: usize) -> &[f64] {
        &self.features[slot * self.width..][..self.width]
    }

    pub fn scale(&self, x: f64) -> f64 {
        scaled(x, self.scales[0])
    }

    /// Back to the unit of the values.
    pub fn unscale(&self, z: f64) -> f64 {
        let (offset, scale) = self.scales[0];
        finite(offset + z * scale)
    }

    /// A length in the unit of the values.
    pub fn unscale_length(&self, z: f64) -> f64 {
        (z * self.scales[0].1).min(f64::MAX)
    }

    /// The features of a point as they are learned: 0, the median, for those that are missing or NaN.
    pub fn scale_features<'a>(&'a self, features: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        (0..self.width).map(|j| match features.get(j) {
            Some(f) if !f.is_nan() => scaled(*f, self.scales[j + 1]),
            _ => 0.0,
        })
    }

    pub fn push(&mut self, x: f64, features: &[f64], real: bool) {
        if self.raw.len() >= self.keep + SLACK {
            let extra = self.raw.len() - self.keep + 1;
            self.raw.drain(..extra);
            self.z.drain(..extra);
            self.real.drain(..extra);
            self.raw_features.drain(..extra * self.width);
            self.features.drain(..extra * self.width);
        }
        self.raw.push(x);
        self.z.push(self.scale(x));
        self.real.push(real);
        for j in 0..self.width {
            let f = features.get(j).copied().unwrap_or(f64::NAN);
            let f = if f.is_nan() { self.scales[j + 1].0 } else { finite(f) };
            self.raw_features.push(f);
            self.features.push(scaled(f, self.scales[j + 1]));
        }
        self.pushed += 1;
    }

    /// Fits the scales to the values at hand. `None` if they have hardly changed; else the change of
    /// the value's: z' = z·factor + shift.
    pub fn rescale(&mut self) -> Option<(f64, f64)> {
        let from = self.len().saturating_sub(self.keep);
        let mut scales = Vec::with_capacity(self.width + 1);
        let mut column: Vec<f64> = self.raw[from..].to_vec();
        scales.push(robust_scale(&mut column));
        for j in 0..self.width {
            column.clear();
            column
                .extend(self.raw_features[from * self.width..].iter().skip(j).step_by(self.width));
            scales.push(robust_scale(&mut column));
        }
        let same = |(old, new): (&(f64, f64), &(f64, f64))| {
            (new.1 / old.1 - 1.25).abs() <= 0.75 && (new.0 - old.0).abs() <= 3.0 * old.1
        };
        if self.scales.iter().zip(&scales).all(same) {
            return None;
        }
        let ((o, s), (o2, s2)) = (self.scales[0], scales[0]);
        self.scales = scales;
        self.fill_scaled();
        let limited = |v: f64| if v.is_nan() { 0.0 } else { v.clamp(-1e100, 1e100) };
        Some((limited(s / s2), limited((o - o2) / s2)))
    }

    fn fill_scaled(&mut self) {
        self.z.clear();
        let scale = self.scales[0];
        self.z.extend(self.raw.iter().map(|x| scaled(*x, scale)));
        self.features.clear();
        if self.width > 0 {
            let scales = self.scales[1..].iter().cycle();
            self.features.extend(self.raw_features.iter().zip(scales).map(|(x, s)| scaled(*x, *s)));
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.width as u8);
        out.extend_from_slice(&self.pushed.to_le_bytes());
        for (offset, scale) in &self.scales {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&scale.to_le_bytes());
        }
        let from = self.len().saturating_sub(self.keep);
        out.extend_from_slice(&((self.len() - from) as u32).to_le_bytes());
        for x in self.raw[from..].iter().chain(&self.raw_features[from * self.width..]) {
            out.extend_from_slice(&x.to_le_bytes());
        }
        for flags in self.real[from..].chunks(8) {
            out.push(flags.iter().enumerate().fold(0, |byte, (i, f)| byte | u8::from(*f) << i));
        }
    }

    /// `keep` as it was when encoded.
    pub fn decode(
        reader: &mut Reader<'_>,
        keep: impl FnOnce(usize) -> usize,
        max_width: usize,
    ) -> Result<Self> {
        let width = usize::from(reader.u8()?);
        if width > max_width {
            return Err(reader.corrupted("too many features"));
        }
        let mut history = History::new(keep(width), width);
        history.pushed = reader.u64()?;
        for scale in &mut history.scales {
            *scale = (reader.finite("offset")?, reader.non_negative("scale")?);
            if scale.1 == 0.0 {
                return Err(Reader::new(&[]).corrupted("scale is 0"));
            }
        }
        let len = reader.u32()? as usize;
        if len as u64 != history.pushed.min(history.keep as u64) {
            return Err(reader.corrupted("number of values contradicts the count"));
        }
        for _ in 0..len {
            history.raw.push(reader.finite("value")?);
        }
        for _ in 0..len * width {
            history.raw_features.push(reader.finite("feature")?);
        }
        let flags = reader.take(len.div_ceil(8))?;
        history.real.extend((0..len).map(|i| flags[i / 8] >> (i % 8) & 1 == 1));
        history.fill_scaled();
        Ok(history)
    }
}

/// Over how many points what a forecast is worth fades.
const MEMORY: f64 = 500.0;
/// Errors count as at most this many spreads.
const WINSOR: f64 = 6.0;
/// Forecasts before they count at all.
const LEAST_FORECASTS: f64 = 16.0;

/// How far forecasts can be trusted: they are shrunk towards the mean by the slope of the regression
/// of values on forecasts, and the spread is that of their errors. All in scaled units.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Trust {
    values: f64,
    mean: f64,
    variance: f64,
    forecasts: f64,
    /// Moments of forecast × forecast and forecast × value about the mean.
    ff: f64,
    fx: f64,
    error: f64,
}

impl Trust {
    fn slope(&self) -> f64 {
        if self.forecasts < LEAST_FORECASTS || self.ff <= 0.0 {
            return 0.0;
        }
        (self.fx / self.ff).clamp(0.0, 1.0)
    }

    /// A forecast, shrunk.
    pub fn centre(&self, forecast: f64) -> f64 {
        self.mean + self.slope() * (forecast - self.mean)
    }

    /// Centre and spread, scaled, of a value `steps` ahead, with or without a forecast of it.
    pub fn expect(&self, forecast: Option<f64>, steps: usize) -> (f64, f64) {
        let uncertain = 1.0 + 1.0 / self.values.max(1.0);
        let plain = self.variance * uncertain;
        match forecast {
            Some(f) if self.forecasts >= LEAST_FORECASTS => {
                let error = self.error * uncertain;
                let ahead = (error * steps as f64).min(plain.max(error));
                (self.centre(f), ahead.sqrt())
            }
            _ => (self.mean, plain.sqrt()),
        }
    }

    pub fn learn(&mut self, x: f64, forecast: Option<f64>) {
        let sd = self.variance.sqrt();
        let limit = |d: f64, sd: f64, n: f64| {
            if n >= 2.0 * LEAST_FORECASTS && sd > 0.0 {
                d.clamp(-WINSOR * sd, WINSOR * sd)
            } else {
                d
            }
        };
        if let Some(f) = forecast {
            let error = limit(x - self.centre(f), self.error.sqrt(), self.forecasts);
            self.forecasts = (self.forecasts + 1.0).min(MEMORY);
            let weight = 1.0 / self.forecasts;
            self.error += (error * error - self.error) * weight;
            let (df, dx) =
                (limit(f - self.mean, sd, self.values), limit(x - self.mean, sd, self.values));
            self.ff += (df * df - self.ff) * weight;
            self.fx += (df * dx - self.fx) * weight;
        }
        self.values = (self.values + 1.0).min(MEMORY);
        let d = limit(x - self.mean, sd, self.values);
        self.mean += d / self.values;
        if self.values > 1.0 {
            // West 1979 with a bounded weight; n − 1 while the weight still grows.
            let weight =
                if self.values < MEMORY { 1.0 / (self.values - 1.0) } else { 1.0 / MEMORY };
            let share = (self.values - 1.0) / self.values;
            self.variance += (d * d * share - self.variance) * weight;
        }
    }

    /// After [`History::rescale`].
    pub fn rescale(&mut self, (factor, shift): (f64, f64)) {
        self.mean = (self.mean * factor + shift).clamp(-FARTHEST, FARTHEST);
        let square = |v: &mut f64| *v = (*v * factor * factor).min(FARTHEST * FARTHEST);
        [&mut self.variance, &mut self.ff, &mut self.error].into_iter().for_each(square);
        self.fx = (self.fx * factor * factor).clamp(-FARTHEST * FARTHEST, FARTHEST * FARTHEST);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for v in
            [self.values, self.forecasts, self.variance, self.ff, self.error, self.mean, self.fx]
        {
            out.extend_from_slice(&v.to_le_bytes());
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let trust = Trust {
            values: reader.non_negative("weight")?,
            forecasts: reader.non_negative("weight")?,
            variance: reader.non_negative("variance")?,
            ff: reader.non_negative("second moment")?,
            error: reader.non_negative("error")?,
            mean: reader.finite("mean")?,
            fx: reader.finite("second moment")?,
        };
        let largest = [trust.variance, trust.ff, trust.error, trust.mean.abs(), trust.fx.abs()]
            .into_iter()
            .fold(0.0, f64::max);
        if trust.values > MEMORY || trust.forecasts > MEMORY || largest > 1e15 {
            return Err(reader.corrupted("forecast moments out of range"));
        }
        Ok(trust)
    }
}

/// Whether the scales are due for a look when so many values have been pushed: at powers of two, and
/// then with every half history. A function of the counts alone.
pub(super) fn rescale_due(pushed: u64, keep: usize) -> bool {
    pushed >= 16
        && (pushed.is_power_of_two() && pushed < keep as u64
            || pushed.is_multiple_of(keep as u64 / 2))
}
