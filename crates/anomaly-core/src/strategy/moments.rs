//! Mean and variance of any finite values.

use crate::Result;
use crate::codec::Reader;

/// Beyond this the state changes to large units: the squared deviations of as many values of this
/// size as can be counted, 2^63, add up to 1e307 at most.
const LARGE: f64 = 1e144;
/// 2^-600: a power of two, so that changing units rounds nothing.
const UNIT: f64 = 2.409_919_865_102_884e-181;

/// Count, mean and sum of squared deviations by Welford's method (Welford 1962), in units of
/// 2^600 once a value beyond 1e144 was seen, so that ±1e308 does not overflow.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Moments {
    count: u64,
    mean: f64,
    m2: f64,
    large: bool,
}

impl Moments {
    /// `x` is finite.
    pub fn push(&mut self, x: f64) {
        if !self.large && x.abs() > LARGE {
            self.large = true;
            self.mean *= UNIT;
            self.m2 = self.m2 * UNIT * UNIT;
        }
        let x = if self.large { x * UNIT } else { x };
        self.count += 1;
        let delta = x - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (x - self.mean);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    fn in_units(&self, v: f64) -> f64 {
        if self.large { (v / UNIT).clamp(-f64::MAX, f64::MAX) } else { v }
    }

    pub fn mean(&self) -> f64 {
        self.in_units(self.mean)
    }

    /// Standard deviation with n in the denominator; 0 for no points.
    pub fn population_sd(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        self.in_units((self.m2 / self.count as f64).sqrt())
    }

    /// Standard deviation with n − 1 in the denominator; 0 for fewer than two points.
    pub fn sample_sd(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        self.in_units((self.m2 / (self.count - 1) as f64).sqrt())
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.mean.to_le_bytes());
        out.extend_from_slice(&self.m2.to_le_bytes());
        out.push(u8::from(self.large));
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.u64()?;
        if count > i64::MAX as u64 {
            return Err(reader.corrupted("count out of range"));
        }
        let mean = reader.finite("mean")?;
        let m2 = reader.non_negative("sum of squares")?;
        let large = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown unit")),
        };
        // Values within ±x have squared deviations of x² at most on average. Twice that and a little,
        // for rounding; what is beyond would overflow before long, and could not be read then.
        let x = if large { f64::MAX * UNIT } else { LARGE };
        if mean.abs() > 1.000_001 * x || m2 > 2.0 * x * x * count as f64 {
            return Err(reader.corrupted("mean or sum of squares beyond any values"));
        }
        Ok(Moments { count, mean, m2, large })
    }
}
