//! Central moments up to the fourth order that merge exactly and neither overflow nor vanish.
//!
//! Values arrive in batches. A batch is reduced in two passes (mean, then powers of deviations) and
//! merged by the pairwise update of Pébay (Sandia report SAND2008-6212, 2008), so that the rounding
//! error grows with the number of batches, not with the number of values.
//!
//! Sums of fourth powers leave the range of `f64` for values past 1e77. Batches whose largest
//! magnitude is past 2^200 or below 2^-128 are therefore divided by a power of two first (exact), and
//! the exponent is kept beside the sums.

use crate::{Error, Result};

/// Magnitudes between these exponents need no scaling: 2^(4·200) times 2^63 values stays finite, and
/// a spread of one part in 2^53 of 2^-128 still has a fourth power above the smallest number.
const UNSCALED: std::ops::RangeInclusive<i32> = -128..=200;

/// Relative spread below which the shape of a distribution is rounding noise: SciPy's rule for
/// `skew` and `kurtosis` (`m2 <= (1e-15 * mean)^2`).
const SHAPE_RESOLUTION: f64 = 1e-15;

/// Count, extremes and central moments of a sample of finite numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Number of values.
    pub n: u64,
    /// Smallest value; `+Infinity` while there is none.
    pub min: f64,
    /// Largest value; `-Infinity` while there is none.
    pub max: f64,
    /// Mean, divided by 2^scale.
    pub mean: f64,
    /// Sum of squared deviations from the mean, divided by 2^(2·scale).
    pub m2: f64,
    /// Sum of cubed deviations, divided by 2^(3·scale).
    pub m3: f64,
    /// Sum of fourth powers of deviations, divided by 2^(4·scale).
    pub m4: f64,
    /// Exponent by which values were scaled; 0 for ordinary magnitudes.
    pub scale: i32,
}

impl Default for Moments {
    fn default() -> Self {
        Moments {
            n: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            mean: 0.0,
            m2: 0.0,
            m3: 0.0,
            m4: 0.0,
            scale: 0,
        }
    }
}

impl Moments {
    /// Moments of one batch of finite values.
    pub fn of(values: &[f64]) -> Moments {
        let Some((min, max)) = extremes(values) else {
            return Moments::default();
        };
        let scale = scale_for(min, max);
        let sums = if scale == 0 {
            central_sums(values)
        } else {
            let scaled: Vec<f64> = values.iter().map(|x| libm::scalbn(*x, -scale)).collect();
            central_sums(&scaled)
        };
        Moments {
            n: values.len() as u64,
            min,
            max,
            mean: sums.mean,
            m2: sums.m2,
            m3: sums.m3,
            m4: sums.m4,
            scale,
        }
    }

    /// Moments of both samples together.
    pub fn merge(&self, other: &Moments) -> Result<Moments> {
        if other.n == 0 {
            return Ok(*self);
        }
        if self.n == 0 {
            return Ok(*other);
        }
        let n = self
            .n
            .checked_add(other.n)
            .filter(|n| *n <= i64::MAX as u64)
            .ok_or_else(|| Error::TooLarge("a summary holds at most 2^63 - 1 values".into()))?;
        let min = self.min.min(other.min);
        let max = self.max.max(other.max);
        let scale = scale_for(min, max);
        let a = self.rescaled(scale);
        let b = other.rescaled(scale);

        // The weights are fractions of the whole, so that no product of counts can overflow.
        let total = n as f64;
        let (wa, wb) = (a.n as f64 / total, b.n as f64 / total);
        let delta = b.mean - a.mean;
        let delta2 = delta * delta;
        let mean = a.mean + delta * wb;
        let m2 = a.m2 + b.m2 + delta2 * total * wa * wb;
        let m3 = a.m3
            + b.m3
            + delta2 * delta * total * wa * wb * (wa - wb)
            + 3.0 * delta * (wa * b.m2 - wb * a.m2);
        let m4 = a.m4
            + b.m4
            + delta2 * delta2 * total * wa * wb * (wa * wa - wa * wb + wb * wb)
            + 6.0 * delta2 * (wa * wa * b.m2 + wb * wb * a.m2)
            + 4.0 * delta * (wa * b.m3 - wb * a.m3);
        Ok(Moments { n, min, max, mean, m2, m3, m4, scale })
    }

    fn rescaled(&self, scale: i32) -> Moments {
        if scale == self.scale {
            return *self;
        }
        // saturating, because a damaged value may hold any exponent
        let shift = self.scale.saturating_sub(scale);
        let scaled = |v: f64, power: i32| libm::scalbn(v, shift.saturating_mul(power));
        Moments {
            mean: scaled(self.mean, 1),
            m2: scaled(self.m2, 2),
            m3: scaled(self.m3, 3),
            m4: scaled(self.m4, 4),
            scale,
            ..*self
        }
    }

    /// Whether the figures fit to the count and to each other. Sums beyond those of any values with
    /// these extremes could overflow as more are added, and the result could not be read again.
    pub(super) fn plausible(&self) -> bool {
        if self.n == 0 {
            return self.min == f64::INFINITY && self.max == f64::NEG_INFINITY && self.scale == 0;
        }
        let sound = self.min.is_finite() && self.max.is_finite() && self.min <= self.max;
        if !sound || self.scale != scale_for(self.min, self.max) {
            return false;
        }
        let widest = 2.0 * libm::scalbn(self.min.abs().max(self.max.abs()), -self.scale);
        let n = self.n as f64;
        self.mean.abs() <= widest
            && (0.0..=n * widest * widest).contains(&self.m2)
            && self.m3.abs() <= n * widest * widest * widest
            && (0.0..=n * widest * widest * widest * widest).contains(&self.m4)
    }

    /// Arithmetic mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        // not clamp, which panics where a damaged value gives bounds that are none
        (self.n > 0).then(|| libm::scalbn(self.mean, self.scale).max(self.min).min(self.max))
    }

    /// Sample variance (divisor n - 1); `None` with fewer than two values, an error where it
    /// does not fit into a `f64`.
    pub fn variance(&self) -> Result<Option<f64>> {
        if self.n < 2 {
            return Ok(None);
        }
        finite(libm::scalbn(self.m2 / (self.n - 1) as f64, 2 * self.scale), "variance").map(Some)
    }

    /// Sample standard deviation (divisor n - 1), in the values' units.
    pub fn stddev(&self) -> Result<Option<f64>> {
        if self.n < 2 {
            return Ok(None);
        }
        let scaled = (self.m2 / (self.n - 1) as f64).sqrt();
        finite(libm::scalbn(scaled, self.scale), "standard deviation").map(Some)
    }

    /// Biased sample skewness g1 = m3 / m2^1.5 (SciPy's default); `None` for a constant sample.
    pub fn skewness(&self) -> Option<f64> {
        let (n, m2) = self.shape()?;
        Some(self.m3 / n / (m2 * m2.sqrt()))
    }

    /// Biased excess kurtosis g2 = m4 / m2² - 3 (Fisher's definition, SciPy's default); `None` for a
    /// constant sample.
    pub fn kurtosis(&self) -> Option<f64> {
        let (n, m2) = self.shape()?;
        Some(self.m4 / n / (m2 * m2) - 3.0)
    }

    fn shape(&self) -> Option<(f64, f64)> {
        let n = self.n as f64;
        let m2 = self.m2 / n;
        let noise = SHAPE_RESOLUTION * self.mean;
        (self.n > 0 && m2 > noise * noise).then_some((n, m2))
    }

    /// (x - mean) / population standard deviation. `None` with fewer than two values; over a
    /// constant sample 0 where `x` equals it and an infinity of the right sign otherwise.
    pub fn zscore(&self, x: f64) -> Option<f64> {
        if self.n < 2 {
            return None;
        }
        let distance = libm::scalbn(x, -self.scale) - self.mean;
        Some(standardise(distance, (self.m2 / self.n as f64).sqrt(), x))
    }
}

/// `distance / spread` with the rules for a vanishing spread; a quotient of finite numbers that
/// overflows saturates, because an infinity is reserved for "differs from a constant".
pub(super) fn standardise(distance: f64, spread: f64, x: f64) -> f64 {
    if x.is_nan() {
        f64::NAN
    } else if distance == 0.0 {
        0.0
    } else if spread == 0.0 || x.is_infinite() {
        f64::INFINITY.copysign(distance)
    } else {
        (distance / spread).clamp(f64::MIN, f64::MAX)
    }
}

/// An error instead of an infinity.
pub(super) fn finite(x: f64, what: &str) -> Result<f64> {
    if x.is_finite() {
        Ok(x)
    } else {
        Err(Error::OutOfRange(format!("the {what} is outside the range of double precision")))
    }
}

fn scale_for(min: f64, max: f64) -> i32 {
    let magnitude = min.abs().max(max.abs());
    // Damaged bytes may hold anything.
    if magnitude == 0.0 || !magnitude.is_finite() {
        return 0;
    }
    let exponent = libm::ilogb(magnitude);
    if UNSCALED.contains(&exponent) { 0 } else { exponent }
}

/// Independent partial sums: enough for the compiler to keep two SSE2 registers per sum busy, and a
/// fixed number so that the result does not depend on the processor.
const LANES: usize = 8;

fn extremes(values: &[f64]) -> Option<(f64, f64)> {
    let first = *values.first()?;
    let (mut low, mut high) = ([first; LANES], [first; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            low[lane] = if chunk[lane] < low[lane] { chunk[lane] } else { low[lane] };
            high[lane] = if chunk[lane] > high[lane] { chunk[lane] } else { high[lane] };
        }
    }
    let min = low.iter().chain(rest).fold(first, |a, b| a.min(*b));
    let max = high.iter().chain(rest).fold(first, |a, b| a.max(*b));
    Some((min, max))
}

struct Sums {
    mean: f64,
    m2: f64,
    m3: f64,
    m4: f64,
}

/// Two passes. The first is taken relative to the first value, which makes a constant batch exact
/// (its mean is the value and its deviations are zero).
fn central_sums(values: &[f64]) -> Sums {
    let n = values.len() as f64;
    let anchor = values[0];
    let mean = anchor + sum_powers::<1>(values, anchor)[0] / n;
    let [s1, s2, s3, s4] = sum_powers::<4>(values, mean);
    // The mean was rounded; c moves the sums to the exact one (Chan, Golub and LeVeque 1983).
    let c = s1 / n;
    Sums {
        mean: mean + c,
        m2: (s2 - c * s1).max(0.0),
        m3: s3 - 3.0 * c * s2 + 2.0 * c * c * s1,
        m4: s4 - 4.0 * c * s3 + 6.0 * c * c * s2 - 3.0 * c * c * c * s1,
    }
}

fn sum_powers<const ORDERS: usize>(values: &[f64], centre: f64) -> [f64; ORDERS] {
    let mut sums = [[0.0_f64; LANES]; ORDERS];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut deviation = [0.0; LANES];
        for lane in 0..LANES {
            deviation[lane] = chunk[lane] - centre;
        }
        let mut power = deviation;
        for sum in &mut sums {
            for lane in 0..LANES {
                sum[lane] += power[lane];
                power[lane] *= deviation[lane];
            }
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let deviation = value - centre;
        let mut power = deviation;
        for sum in &mut sums {
            sum[lane] += power;
            power *= deviation;
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}
