//! Counts and ratios: how much they vary by chance follows from their mean.
//!
//! A count is negative binomial: Poisson when the variance of the errors so far is that of Poisson,
//! wider in proportion where it is more. A ratio is the binomial share of the point's own trials;
//! where successes come in clusters, of as many trials as are worth that much (the design effect of a
//! beta-binomial). The uncertainty of the mean widens both.
//!
//! Tails are the modified signed root of the deviance (Barndorff-Nielsen 1986) with the second
//! continuity correction of the saddlepoint tail (Daniels 1987): closed, smooth, and in the far tail
//! as accurate as near by; within 3 % of the exact tail above and 6 % below for means
//! from 0.3 on; 5 % of a negative binomial of size ½, and ½ % of ln p there.

use crate::Result;
use crate::codec::Reader;
use crate::distribution::MAX_DEVIATION;
use crate::point::Point;
use crate::strategy::Kind;

/// Beyond this the tail formula is no longer one; what varies more is the calibrator's to learn.
const MAX_CLUMPING: f64 = 10.0;
/// Of more events than this chance is no matter, and its formula would suffer from rounding.
const MAX_MEAN: f64 = 1e8;
/// When sums of so many points are reached they lose a quarter.
const MEMORY: f64 = 8192.0;

/// What is known of how counts or ratios vary around what a baseline expects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chance {
    kind: Kind,
    points: f64,
    /// Σ trials; a count has one a point.
    trials: f64,
    /// Σ (events − those the baseline expected): medians and smoothed means are not means.
    excess: f64,
    /// Σ events.
    events: f64,
    /// Σ of the variances of chance alone: Σ mean, or Σ trials.
    expected: f64,
    /// Σ (events − mean)², for a ratio divided by p(1 − p).
    squares: f64,
    /// Σ trials·(trials − 1).
    pairs: f64,
}

/// The distribution of one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Law {
    /// Events to expect, above 0.
    mean: f64,
    family: Family,
    /// Events per unit of the point's value.
    per_value: f64,
    /// Half the distance of two possible numbers of events.
    half: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    /// Variance mean + mean²·`clumping`; Poisson at 0.
    NegativeBinomial { clumping: f64 },
    /// Of so many trials, not necessarily a whole number.
    Binomial { trials: f64 },
}

/// ln(y / mean), also where they hardly differ.
fn ln_ratio(y: f64, mean: f64) -> f64 {
    let off = (y - mean) / mean;
    if off.abs() < 0.5 { libm::log1p(off) } else { libm::log(y) - libm::log(mean) }
}

impl Chance {
    pub fn new(kind: Kind) -> Self {
        Chance {
            kind,
            points: 0.0,
            trials: 0.0,
            excess: 0.0,
            events: 0.0,
            expected: 0.0,
            squares: 0.0,
            pairs: 0.0,
        }
    }

    /// The trials of a point; `None` where chance does not tell how a value varies.
    fn trials_of(&self, point: &Point) -> Option<f64> {
        match self.kind {
            Kind::Value => None,
            Kind::Count => Some(1.0),
            Kind::Ratio => (point.trials > 0.0 && point.trials <= 1e15).then_some(point.trials),
        }
    }

    /// What may be expected of a point by chance, when the baseline expects `centre`.
    pub fn law(&self, centre: f64, point: &Point) -> Option<Law> {
        let trials = self.trials_of(point)?;
        let shift = if self.trials > 0.0 { self.excess / self.trials } else { 0.0 };
        let least = 0.5 / (self.trials + 1.0);
        if self.kind == Kind::Count {
            let mean = (centre + shift).clamp(least, 1e270);
            let dispersion = ((self.squares + 1.0) / (self.expected + 1.0)).clamp(1.0, 1e300);
            // errors of a variance in proportion to the mean, and a mean known from so many events
            let clumping = (dispersion - 1.0) / mean + 1.0 / (self.events + 1.0);
            let family =
                Family::NegativeBinomial { clumping: clumping.clamp(1e-300, MAX_CLUMPING) };
            let law = Law { mean, family, per_value: 1.0, half: 0.5 };
            return (mean <= MAX_MEAN).then_some(law);
        }
        let p = (centre + shift).clamp(least.min(0.5), (1.0 - least).max(0.5));
        let clustering = if self.pairs > 0.0 {
            ((self.squares - self.expected) / self.pairs).clamp(0.0, 0.5)
        } else {
            0.0
        };
        let clustering = clustering + 1.0 / (self.trials + 2.0);
        let worth = trials / (1.0 + (trials - 1.0).max(0.0) * clustering);
        let law = Law {
            mean: worth * p,
            family: Family::Binomial { trials: worth },
            per_value: worth,
            half: 0.5 * worth / trials.max(1.0),
        };
        (law.mean <= MAX_MEAN).then_some(law)
    }

    /// Learns a point with a finite value of which the baseline expected `centre`.
    pub fn learn(&mut self, centre: f64, point: &Point) {
        let (Some(trials), Some(law)) = (self.trials_of(point), self.law(centre, point)) else {
            return;
        };
        let mean = law.expected() * trials;
        // A gross outlier moves the mean by no more than this; 1e150 keeps squares finite.
        let reach = 8.0 * (1.0 + law.sd() * trials);
        let events = (point.value * trials).clamp(mean - reach, mean + reach).clamp(-1e150, 1e150);
        let centre = centre.clamp(-1e150, 1e150);
        self.points += 1.0;
        self.trials += trials;
        self.excess += events - trials * centre;
        self.events += events.max(0.0);
        let error = (events - mean) * (events - mean);
        if self.kind == Kind::Count {
            self.expected += mean;
            self.squares += error;
        } else {
            let p = law.expected();
            self.expected += trials;
            self.squares += error / (p * (1.0 - p));
            self.pairs += trials * (trials - 1.0);
        }
        if self.points >= MEMORY {
            for sum in [
                &mut self.points,
                &mut self.trials,
                &mut self.excess,
                &mut self.events,
                &mut self.expected,
                &mut self.squares,
                &mut self.pairs,
            ] {
                *sum *= 0.75;
            }
        }
    }

    fn sums(&self) -> [f64; 7] {
        let Chance { points, trials, excess, events, expected, squares, pairs, .. } = *self;
        [points, trials, excess, events, expected, squares, pairs]
    }

    /// One byte, and the sums of counts and ratios.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::Value => 0,
            Kind::Count => 1,
            Kind::Ratio => 2,
        });
        if self.kind != Kind::Value {
            for sum in self.sums() {
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let kind = match reader.u8()? {
            0 => return Ok(Chance::new(Kind::Value)),
            1 => Kind::Count,
            2 => Kind::Ratio,
            _ => return Err(reader.corrupted("unknown kind of value")),
        };
        let chance = Chance {
            kind,
            points: reader.non_negative("number of points")?,
            trials: reader.non_negative("sum of trials")?,
            excess: reader.finite("sum of errors")?,
            events: reader.non_negative("sum of events")?,
            expected: reader.non_negative("sum of variances")?,
            squares: reader.non_negative("sum of squares")?,
            pairs: reader.finite("sum of pairs")?,
        };
        let large = chance.sums().iter().any(|sum| sum.abs() > 1e305);
        if large || chance.points > MEMORY {
            return Err(reader.corrupted("sums out of range"));
        }
        Ok(chance)
    }
}

impl Law {
    /// The mean in the metric's own unit.
    pub fn expected(&self) -> f64 {
        self.mean / self.per_value
    }

    /// The standard deviation of chance in the metric's own unit.
    pub fn sd(&self) -> f64 {
        let variance_per_mean = match self.family {
            Family::NegativeBinomial { clumping } => 1.0 + clumping * self.mean,
            Family::Binomial { trials } => 1.0 - self.mean / trials,
        };
        libm::sqrt(self.mean) * libm::sqrt(variance_per_mean.max(0.0)) / self.per_value
    }

    /// The least and the largest number of events for which there is a tail on either side.
    fn range(&self) -> (f64, f64) {
        match self.family {
            Family::NegativeBinomial { .. } => (0.4 * self.half, 1e280),
            Family::Binomial { trials } => (0.4 * self.half, trials - 0.4 * self.half),
        }
    }

    /// The signed root of the deviance of y events, its derivative and the standard deviation of an event
    /// there; for y within the range.
    fn root(&self, y: f64) -> (f64, f64, f64) {
        let mean = self.mean;
        let (s, deviance, sd) = match self.family {
            Family::NegativeBinomial { clumping } => {
                // with 1/size = clumping
                let ratio = clumping * (mean - y) / (1.0 + clumping * y);
                let spread = if ratio > -0.5 {
                    libm::log1p(ratio)
                } else {
                    libm::log1p(clumping * mean) - libm::log1p(clumping * y)
                };
                let s = ln_ratio(y, mean) + spread;
                let far = spread / clumping;
                (s, y * s + far, libm::sqrt(y) * libm::sqrt(1.0 + clumping * y))
            }
            Family::Binomial { trials } => {
                let (no, mean_no) = (trials - y, trials - mean);
                let up = ln_ratio(y, mean);
                // not of `no`, in which a few events of 1e12 trials do not show
                let off = (mean - y) / mean_no;
                let down = if off > -0.5 { libm::log1p(off) } else { libm::log(no / mean_no) };
                (up - down, y * up + no * down, libm::sqrt(y * (no / trials)))
            }
        };
        (libm::sqrt(2.0 * deviance.clamp(0.0, f64::MAX)).copysign(s), s, sd)
    }

    /// The normal quantile of y events, for y within the range and half an event from its ends.
    fn z_within(&self, y: f64) -> f64 {
        let (w, s, sd) = self.root(y);
        let u = 2.0 * libm::sinh((0.5 * s).clamp(-700.0, 700.0)) * sd;
        w + libm::log(u / w) / w
    }

    /// The same, rising with y all the way.
    fn z(&self, y: f64) -> f64 {
        let (low, high) = self.range();
        let y = y.clamp(low, high);
        let rest = match self.family {
            Family::NegativeBinomial { .. } => f64::INFINITY,
            Family::Binomial { trials } => trials - self.mean,
        };
        let straight = |(from, below): (f64, f64), (to, above): (f64, f64)| {
            below + (above - below) * ((y - from) / (to - from))
        };
        // Where the mean is less than half an event, the tail formula says nothing of values between none
        // and that, and would fall there: clusters make such values possible, and trials worth so little.
        let (few, many) = (low.max(0.5), high.min(self.mean + rest - 0.5));
        let few = (self.mean < 0.5 && y < few).then_some(few);
        let many = (rest < 0.5 && y > many).then_some(many);
        let sd = self.sd() * self.per_value;
        let near = (0.1 * sd).min(0.5 * self.mean).min(0.5 * rest);
        let z = match (few, many) {
            _ if high <= low => 0.0,
            (Some(few), None) if few < high => {
                straight((low, self.root(low).0), (few, self.z_within(few)))
            }
            (None, Some(many)) if many > low => {
                straight((many, self.z_within(many)), (high, self.root(high).0))
            }
            (None, None) if (y - self.mean).abs() >= near || near == 0.0 => self.z_within(y),
            // 0/0 at the mean, and rounding near it
            (None, None) => {
                let (a, b) = (self.mean - near, self.mean + near);
                straight((a, self.z_within(a)), (b, self.z_within(b)))
            }
            _ => straight((low, self.root(low).0), (high, self.root(high).0)),
        };
        if z.is_nan() { 0.0 } else { z.clamp(-MAX_DEVIATION, MAX_DEVIATION) }
    }

    /// How far a number of events lies outside what is possible.
    fn outside(&self, y: f64) -> f64 {
        let high = match self.family {
            Family::NegativeBinomial { .. } => f64::INFINITY,
            Family::Binomial { trials } => trials,
        };
        (-y).max(y - high).max(0.0) / (2.0 * self.half)
    }

    /// By how much a value lies outside what is possible, in events; `None` for rounding noise.
    pub fn impossible(&self, value: f64) -> Option<f64> {
        let outside = self.outside(value * self.per_value);
        (outside > 1e-6).then(|| outside.min(1e300))
    }

    /// The residual that a calibrator learns: the signed normal quantile of the point's mid-p.
    pub fn residual(&self, value: f64) -> f64 {
        let y = value * self.per_value;
        let z = self.z(y);
        let outside = self.outside(y);
        if outside > 0.0 { z + outside.min(1e300).copysign(y) } else { z }
    }

    /// The normal quantile of the two-sided p by chance, the probability of the value itself
    /// included: never below that of the value's side.
    pub fn deviation(&self, value: f64) -> f64 {
        let y = value * self.per_value;
        let z = if y >= self.mean {
            self.z((y - self.half).max(self.mean))
        } else {
            -self.z((y + self.half).min(self.mean))
        };
        z.max(0.0) + self.outside(y)
    }

    /// The events whose [`Law::z`] is `z`.
    fn inverse(&self, z: f64) -> f64 {
        let (low, high) = self.range();
        if self.z(low) >= z {
            return low;
        }
        if self.z(high) <= z {
            return high;
        }
        // z is nearly straight in the root of y; false position, with bisections in between, within a
        // bracket that grows from the mean
        let f = |t: f64| self.z(t * t) - z;
        let (least, most) = (libm::sqrt(low), libm::sqrt(high));
        let start = libm::sqrt(self.mean).clamp(least, most);
        let (mut a, mut b) = (start, start);
        let mut step = 0.5 * z.abs() + 0.1;
        while f(b) < 0.0 && b < most {
            a = b;
            b = (b + step).min(most);
            step *= 2.0;
        }
        while f(a) > 0.0 && a > least {
            b = a;
            a = (a - step).max(least);
            step *= 2.0;
        }
        let (mut fa, mut fb) = (f(a), f(b));
        for i in 0..90 {
            if (b - a).abs() <= 1e-13 * b {
                break;
            }
            let secant = a - fa * (b - a) / (fb - fa);
            let t = if i % 3 < 2 && secant > a && secant < b { secant } else { 0.5 * (a + b) };
            let ft = f(t);
            if ft.abs() < 1e-11 {
                return t * t;
            }
            if ft < 0.0 {
                (a, fa) = (t, ft);
            } else {
                (b, fb) = (t, ft);
            }
        }
        (0.5 * (a + b)) * (0.5 * (a + b))
    }

    /// The value with a residual of `z`.
    pub fn value(&self, z: f64) -> f64 {
        self.inverse(z) / self.per_value
    }

    /// The values beyond which the two-sided p is below that of a deviation `z`, and the residual is
    /// beyond the calibrator's `below` or `above`.
    pub fn bounds(&self, z: f64, below: f64, above: f64) -> (f64, f64) {
        let high = (self.inverse(z) + self.half).max(self.inverse(above));
        let low = (self.inverse(-z) - self.half).min(self.inverse(-below)).max(0.0);
        let most = match self.family {
            Family::NegativeBinomial { .. } => f64::MAX,
            Family::Binomial { trials } => trials,
        };
        (low / self.per_value, high.min(most) / self.per_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::ln_p_normal_two_sided;

    enum Exact {
        Poisson,
        Clumped(f64),
        Of(f64),
    }
    use Exact::*;

    fn law(exact: &Exact, mean: f64) -> Law {
        let family = match exact {
            Poisson => Family::NegativeBinomial { clumping: 1e-300 },
            Clumped(size) => Family::NegativeBinomial { clumping: 1.0 / size },
            Of(trials) => Family::Binomial { trials: *trials },
        };
        Law { mean, family, per_value: 1.0, half: 0.5 }
    }

    /// ln P(X ≥ x) above the mean, ln P(X ≤ x) below, by scipy.stats 1.17.1: poisson, nbinom(size,
    /// size/(size + mean)) and binom, `logsf(x − 1)` and `logcdf(x)`.
    const TAILS: [(Exact, f64, f64, f64); 44] = [
        (Poisson, 0.3, 2.0, -3.29856012),
        (Poisson, 0.3, 4.0, -8.23272431),
        (Poisson, 0.3, 9.0, -23.9072096),
        (Poisson, 1.0, 4.0, -3.96393982),
        (Poisson, 1.0, 6.0, -7.42832015),
        (Poisson, 1.0, 12.0, -20.9076566),
        (Poisson, 1.0, 0.0, -1.0),
        (Poisson, 5.0, 10.0, -3.44740707),
        (Poisson, 5.0, 14.0, -7.26730581),
        (Poisson, 5.0, 24.0, -20.9373836),
        (Poisson, 5.0, 2.0, -2.08222927),
        (Poisson, 5.0, 0.0, -5.0),
        (Poisson, 50.0, 63.0, -3.16082074),
        (Poisson, 50.0, 74.0, -7.02830548),
        (Poisson, 50.0, 99.0, -21.1601126),
        (Poisson, 50.0, 39.0, -2.73999966),
        (Poisson, 50.0, 30.0, -6.44149156),
        (Poisson, 2000.0, 2075.0, -3.02580748),
        (Poisson, 2000.0, 2141.0, -6.97318691),
        (Poisson, 2000.0, 2275.0, -20.7904751),
        (Poisson, 2000.0, 1927.0, -2.95974866),
        (Poisson, 2000.0, 1863.0, -6.88748619),
        (Clumped(2.0), 1.0, 4.0, -3.09516617),
        (Clumped(2.0), 1.0, 8.0, -6.94307162),
        (Clumped(2.0), 1.0, 22.0, -21.417935),
        (Clumped(3.0), 5.0, 13.0, -3.1830288),
        (Clumped(3.0), 5.0, 23.0, -6.92980917),
        (Clumped(3.0), 5.0, 56.0, -20.8130948),
        (Clumped(10.0), 50.0, 82.0, -3.01727322),
        (Clumped(10.0), 50.0, 120.0, -6.92227471),
        (Clumped(10.0), 50.0, 225.0, -20.7924511),
        (Clumped(0.5), 50.0, 194.0, -3.00425961),
        (Clumped(0.5), 50.0, 545.0, -6.91495149),
        (Clumped(0.5), 50.0, 1876.0, -20.7252028),
        (Of(1.0), 0.05, 1.0, -2.99573227),
        (Of(20.0), 1.0, 4.0, -4.1413402),
        (Of(20.0), 1.0, 6.0, -8.0185586),
        (Of(20.0), 1.0, 11.0, -21.3432368),
        (Of(1000.0), 50.0, 63.0, -3.25987399),
        (Of(1000.0), 50.0, 74.0, -7.34221149),
        (Of(1000.0), 50.0, 97.0, -20.96501),
        (Of(1000000.0), 100.0, 118.0, -3.15035523),
        (Of(1000000.0), 100.0, 133.0, -6.97548377),
        (Of(1000000.0), 100.0, 167.0, -21.2298162),
    ];

    #[test]
    fn tails_are_those_of_scipy() {
        for (exact, mean, x, ln_p) in TAILS {
            let deviation = law(&exact, mean).deviation(x);
            let one_sided = ln_p_normal_two_sided(deviation) - std::f64::consts::LN_2;
            let error = one_sided - ln_p;
            let most = match exact {
                Clumped(0.5) => 0.05 - 0.005 * ln_p,
                _ if x > mean => 0.03,
                _ => 0.06,
            };
            assert!(error.abs() < most, "{mean} {x}: {one_sided} instead of {ln_p}");
        }
    }

    fn laws() -> Vec<Law> {
        let mut all = Vec::new();
        for mean in [1e-9, 0.004, 0.3, 1.0, 7.5, 50.0, 1e4, 1e8] {
            all.push(law(&Poisson, mean));
            for size in [0.1, 0.5, 4.0, 1e6] {
                all.push(law(&Clumped(size), mean));
            }
            for trials in [1.0, 2.0, 33.0, 1e4, 1e12] {
                if mean < trials {
                    all.push(law(&Of(trials), mean));
                    let other = trials - mean.min(0.5 * trials);
                    if trials - other > 1e-10 * trials {
                        all.push(law(&Of(trials), other));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn further_out_is_never_less_unusual() {
        for law in laws() {
            let mut last = (f64::MIN, f64::MIN);
            let mut values: Vec<f64> =
                (-60..=60).map(|i| law.mean + 0.1 * f64::from(i) * (law.sd() + 0.1)).collect();
            values.extend((0..2000).map(|i| law.mean * libm::exp(0.01 * f64::from(i))));
            values.extend([0.0, -1.0, -1e6, 1e300]);
            values.sort_by(f64::total_cmp);
            for x in values {
                let signed = law.deviation(x).copysign(x - law.mean);
                let residual = law.residual(x);
                assert!(
                    residual >= last.0 - 1e-6 * last.0.abs(),
                    "{law:?} {x}: {residual} {last:?}"
                );
                assert!(signed >= last.1 - 1e-6 * last.1.abs(), "{law:?} {x}: {signed} {last:?}");
                assert!(residual.is_finite() && signed.is_finite());
                last = (residual, signed);
            }
        }
    }

    /// Also where the mean is a small part of an event and clusters make trials worth little.
    #[test]
    fn residuals_rise_all_the_way_through_the_mean() {
        let clustered = [0.3, 1.0, 2.5, 9.0, 40.0].into_iter().flat_map(|worth| {
            [0.001, 0.0102, 0.2, 0.9].map(|p| Law {
                mean: worth * p,
                family: Family::Binomial { trials: worth },
                per_value: worth,
                half: 0.5 * worth / 40.0,
            })
        });
        for law in laws().into_iter().chain(clustered) {
            let mut last = f64::MIN;
            for i in 0..400 {
                let x = law.expected() * (0.3 + 0.005 * f64::from(i));
                let residual = law.residual(x);
                assert!(residual >= last - 1e-9, "{law:?} {x}: {residual} after {last}");
                last = residual;
            }
        }
    }

    #[test]
    fn bounds_are_where_the_deviation_is() {
        for law in laws() {
            for z in [2.0, 3.3, 5.0] {
                let (low, high) = law.bounds(z, 0.0, 0.0);
                if law.mean > 1e14 {
                    continue; // one more is no more
                }
                let most = law.range().1 + 0.4 * law.half;
                let (first, last) = (low.ceil(), high.floor());
                for usual in [first, last] {
                    assert!(law.deviation(usual) < z + 1e-4, "{law:?} {z}: {usual} {low} {high}");
                }
                for unusual in [first - 1.0, last + 1.0] {
                    let possible = unusual >= 0.0 && unusual <= most;
                    let far = law.deviation(unusual) > z - 1e-4;
                    assert!(far || !possible, "{law:?} {z}: {unusual} {low} {high}");
                }
            }
        }
    }

    #[test]
    fn dispersion_and_clusters_are_found() {
        let mut counts = Chance::new(Kind::Count);
        let mut shares = Chance::new(Kind::Ratio);
        for i in 0..4000 {
            // mean 10, variance 100: five times 20 beside five times 0
            let x = if i % 2 == 0 { 20.0 } else { 0.0 };
            counts.learn(8.0, &Point::new(i, x));
            shares.learn(0.3, &Point { trials: 40.0, ..Point::new(i, x / 40.0) });
        }
        let law = counts.law(8.0, &Point::new(0, 0.0)).unwrap();
        assert!((law.expected() - 10.0).abs() < 0.1 && (law.sd() - 10.0).abs() < 0.5, "{law:?}");
        let law = shares.law(0.3, &Point { trials: 40.0, ..Point::new(0, 0.0) }).unwrap();
        assert!((law.expected() - 0.25).abs() < 0.01 && (law.sd() - 0.25).abs() < 0.02, "{law:?}");
        assert!(shares.law(0.3, &Point::new(0, 0.0)).is_none());
        let mut bytes = Vec::new();
        counts.encode(&mut bytes);
        assert_eq!(Chance::decode(&mut Reader::new(&bytes)), Ok(counts));
    }
}
