//! The standard deviation of forecast errors, exponentially weighted and robust: what ewma and
//! persist measure a residual by; and of the noise around a level, for what looks for its shifts.

use crate::Result;
use crate::codec::Reader;

/// Weight of the newest squared error once there are enough of them.
const RATE: f64 = 0.01;
/// Errors from which the standard deviation is an estimate to clip by.
const WARM: u64 = 10;
/// An error counts as at most so many standard deviations (Huber 1981, §1.3: an estimate whose
/// influence function is bounded).
const CLIP: f64 = 3.0;
/// So many clipped errors in a row may be outliers; with each further one the limit doubles, so that
/// what lasts is followed within a few points, however far away it is.
const OUTLIERS_IN_A_ROW: u8 = 2;

/// 17 bytes: count, standard deviation, how many of the latest errors were clipped.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct ErrorScale {
    count: u64,
    sd: f64,
    clipped: u8,
}

/// √((1 − w)·a² + w·b²) without overflow or underflow of the squares.
fn mix(a: f64, b: f64, w: f64) -> f64 {
    let largest = a.abs().max(b.abs());
    if largest == 0.0 {
        return 0.0;
    }
    let (a, b) = (a / largest, b / largest);
    (largest * ((1.0 - w) * a * a + w * b * b).sqrt()).min(f64::MAX)
}

impl ErrorScale {
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn sd(&self) -> f64 {
        self.sd
    }

    /// Degrees of freedom of the standard deviation after `count` errors.
    pub fn dof(count: u64) -> f64 {
        // Weights of a geometric series count as (2 − w) / w equal ones.
        (count as f64).min((2.0 - RATE) / RATE)
    }

    /// Learns an error and returns the part of it that counts.
    pub fn push(&mut self, error: f64) -> f64 {
        let error = error.clamp(-f64::MAX, f64::MAX);
        let mut counted = error;
        if self.count >= WARM {
            let base = CLIP * self.sd;
            let doublings =
                (u16::from(self.clipped) + 1).saturating_sub(u16::from(OUTLIERS_IN_A_ROW));
            if error.abs() <= base {
                self.clipped = 0;
            } else if base == 0.0 && doublings > 0 {
                // No deviation ever: there is no scale to double, and what lasts counts in full.
                self.clipped = 0;
            } else {
                let limit = (base * libm::exp2(f64::from(doublings))).min(f64::MAX);
                counted = error.clamp(-limit, limit);
                self.clipped = self.clipped.saturating_add(1);
            }
        }
        self.count += 1;
        self.sd = mix(self.sd, counted, RATE.max(1.0 / self.count as f64));
        counted
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.sd.to_le_bytes());
        out.push(self.clipped);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.u64()?;
        if count > i64::MAX as u64 {
            return Err(reader.corrupted("count out of range"));
        }
        Ok(ErrorScale {
            count,
            sd: reader.non_negative("standard deviation of errors")?,
            clipped: reader.u8()?,
        })
    }
}

/// The standard deviation of the noise around a level that may move, from the differences of
/// neighbours (the moving range of control charts: Montgomery, Introduction to Statistical Quality
/// Control, 7th ed. 2013, §6.4). A shift of the level is one large difference and counts as one of
/// three standard deviations. Where neighbours resemble each other it is less than the spread of the
/// values; whoever uses it learns by how much from the statistic it gives.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct NoiseScale {
    latest: Option<f64>,
    differences: ErrorScale,
}

impl NoiseScale {
    /// Values learned.
    pub fn count(&self) -> u64 {
        self.differences.count() + u64::from(self.latest.is_some())
    }

    pub fn sd(&self) -> f64 {
        self.differences.sd() * std::f64::consts::FRAC_1_SQRT_2
    }

    /// `x` is finite.
    pub fn push(&mut self, x: f64) {
        if let Some(latest) = self.latest {
            self.differences.push(x - latest);
        }
        self.latest = Some(x);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self.latest {
            None => out.push(0),
            Some(latest) => {
                out.push(1);
                out.extend_from_slice(&latest.to_le_bytes());
            }
        }
        self.differences.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let latest = match reader.u8()? {
            0 => None,
            1 => Some(reader.finite("latest value")?),
            _ => return Err(reader.corrupted("unknown mark")),
        };
        let differences = ErrorScale::decode(reader)?;
        if latest.is_none() && differences.count() > 0 {
            return Err(reader.corrupted("differences without a value"));
        }
        Ok(NoiseScale { latest, differences })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_counts_as_three_deviations_and_what_lasts_is_followed() {
        let mut scale = ErrorScale::default();
        for i in 0..1000 {
            scale.push(if i % 2 == 0 { 1.0 } else { -1.0 });
        }
        assert!((scale.sd() - 1.0).abs() < 1e-9);
        assert!((scale.push(1e9) - 3.0).abs() < 1e-9);
        assert!(scale.sd() < 1.05);
        let mut steps = 0;
        while scale.push(1e9) < 1e9 {
            steps += 1;
            assert!(steps < 20, "{}", scale.sd());
        }
        assert!(steps > 1);
    }

    #[test]
    fn a_constant_takes_no_scale_from_single_errors() {
        let mut scale = ErrorScale::default();
        for i in 0..500 {
            scale.push(if i % 50 == 20 { 7.0 } else { 0.0 });
            assert_eq!(scale.sd(), 0.0);
        }
        for _ in 0..3 {
            scale.push(7.0);
        }
        assert!(scale.sd() > 0.0);
    }

    #[test]
    fn extreme_errors_stay_finite() {
        let mut scale = ErrorScale::default();
        for e in [f64::MAX, f64::MIN, f64::INFINITY, 5e-324, 0.0].repeat(100) {
            scale.push(e);
            assert!(scale.sd().is_finite());
        }
        let mut tiny = ErrorScale::default();
        for _ in 0..20_000 {
            tiny.push(5e-324);
        }
        assert!(tiny.sd() > 0.0);
        for _ in 0..300 {
            tiny.push(f64::MAX);
        }
        assert!(tiny.sd() > 1e300, "{}", tiny.sd());
    }
}
