//! From a residual to a probability.
//!
//! A calibrator sees residuals of points that the baseline had not learned yet, each divided by the
//! baseline's spread, and answers how improbable a residual is when nothing is unusual. What it
//! learns is how the metric's own noise differs from the normal distribution the spread assumes.

use crate::Result;
use crate::codec::Reader;
use crate::distribution::{MIN_LN_P, deviation_from_ln_p, student_t_quantile_from_normal};
use crate::verdict::Tail;

/// A probability between 0 and 1 that is asked for again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alpha {
    /// Its natural logarithm, finite and below 0.
    pub ln_p: f64,
    /// Its two-sided normal quantile.
    pub z: f64,
}

impl Alpha {
    /// Of a logarithm, which is brought below 0 and above that of the largest deviation.
    pub fn from_ln(ln_p: f64) -> Self {
        let ln_p = ln_p.clamp(MIN_LN_P, -f64::EPSILON);
        Alpha { ln_p, z: deviation_from_ln_p(ln_p) }
    }
}

/// Turns standardised out-of-sample residuals into probabilities. Strictly monotone in |residual|,
/// and defined beyond everything seen, from the first residual on.
///
/// `dof` is how many degrees of freedom the estimate of the spread has: with a spread estimated
/// from few points even normal noise has Student's tails.
pub trait Calibrator {
    /// Learns the residual of one point, made before the baseline learned that point.
    fn learn(&mut self, residual: f64, dof: f64);
    /// The two-sided tail beyond a residual.
    fn tail(&self, residual: f64, dof: f64) -> Tail;
    /// The |residual| below and above the centre beyond which p is below `alpha`.
    fn quantiles(&self, alpha: &Alpha, dof: f64) -> (f64, f64);
    /// ln p of a residual.
    fn ln_p(&self, residual: f64, dof: f64) -> f64 {
        match self.tail(residual, dof) {
            Tail::LnP(ln_p) => ln_p,
            Tail::StudentT { t, dof } => crate::distribution::ln_p_student_t_two_sided(t, dof),
        }
    }
}

/// Residuals count as at most this many spreads, so that one gross outlier in the history cannot
/// make the tails so heavy that nothing is unusual any more.
const WINSOR: f64 = 8.0;
/// The calibrator starts as if it had seen this many residuals of normal noise.
const PRIOR: f64 = 20.0;
/// Below 2.5 the variance by which the scale is matched does not mean anything.
const MIN_DOF: f64 = 2.5;
/// Beyond this the tail is that of the normal distribution for every practical purpose, and the
/// continued fraction of the tail stays short.
const MAX_DOF: f64 = 500.0;

/// Student's t fitted to the residuals by moments: degrees of freedom from the kurtosis
/// (4 + 6/excess, less where winsorising hides some of it), scale from the second moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StudentT {
    count: u64,
    sum2: f64,
    sum4: f64,
    fit: Fit,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Fit {
    /// √ of the second moment, normal noise = 1.
    scale: f64,
    /// Degrees of freedom the kurtosis asks for.
    dof: f64,
}

impl Default for Fit {
    fn default() -> Self {
        Fit { scale: 1.0, dof: MAX_DOF }
    }
}

impl StudentT {
    /// Makes what was learned so far count. Between two calls the distribution stands still, which
    /// is what allows critical values to be kept.
    pub fn refresh(&mut self) {
        let n = PRIOR + self.count as f64;
        let m2 = (PRIOR + self.sum2) / n;
        let m4 = (3.0 * PRIOR + self.sum4) / n;
        // The kurtosis of n normal values has a standard error of √(24/n). It is taken one standard
        // error up: tails too light cost false alarms, and few residuals show little of the tails.
        let excess = m4 / (m2 * m2) - 3.0 + libm::sqrt(24.0 / n);
        // 4 + 6/excess for residuals that are not winsorised. Winsorising at 8 lowers the excess of
        // heavy tails; the term excess/4 makes good for it (by numerical integration, for spreads
        // from standard deviation and from MAD: 10, 6, 5 and 4 degrees of freedom have excess 0.98,
        // 2.4, 3.3 and 5.0 and are given 9.9, 5.9, 5.0 and 3.95).
        let dof =
            if excess > 0.0 { (4.0 - 0.25 * excess).max(MIN_DOF) + 6.0 / excess } else { MAX_DOF };
        self.fit = Fit { scale: libm::sqrt(m2), dof: dof.clamp(MIN_DOF, MAX_DOF) };
    }

    /// Scale of a residual, and degrees of freedom, given those of the baseline's spread.
    fn scale_and_dof(&self, dof: f64) -> (f64, f64) {
        let limit = dof.clamp(MIN_DOF, MAX_DOF);
        let dof = self.fit.dof.min(limit);
        // Same variance whatever the degrees of freedom; a t with `limit` of them is what normal
        // noise gives, and its scale is 1.
        let matched = (dof - 2.0) / dof * (limit / (limit - 2.0));
        (self.fit.scale * libm::sqrt(matched), dof)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        for v in [self.sum2, self.sum4, self.fit.scale, self.fit.dof] {
            out.extend_from_slice(&v.to_le_bytes());
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.u64()?;
        let sum2 = reader.non_negative("second moment")?;
        let sum4 = reader.non_negative("fourth moment")?;
        let scale = reader.non_negative("scale")?;
        let dof = reader.non_negative("degrees of freedom")?;
        if scale == 0.0 || !(MIN_DOF..=MAX_DOF).contains(&dof) {
            return Err(reader.corrupted("calibration out of range"));
        }
        Ok(StudentT { count, sum2, sum4, fit: Fit { scale, dof } })
    }
}

impl Calibrator for StudentT {
    fn learn(&mut self, residual: f64, dof: f64) {
        // A spread from so few points says nothing about the noise.
        if dof < 4.5 || residual.is_nan() {
            return;
        }
        // To unit variance: normal noise over an estimated spread is Student's t.
        let w = residual.abs() * libm::sqrt((dof - 2.0) / dof);
        let w2 = w.min(WINSOR).powi(2);
        self.count = self.count.saturating_add(1);
        self.sum2 += w2;
        self.sum4 += w2 * w2;
    }

    fn tail(&self, residual: f64, dof: f64) -> Tail {
        let (scale, dof) = self.scale_and_dof(dof);
        Tail::StudentT { t: (residual.abs() / scale).min(f64::MAX), dof }
    }

    fn quantiles(&self, alpha: &Alpha, dof: f64) -> (f64, f64) {
        let (scale, dof) = self.scale_and_dof(dof);
        let r = (scale * student_t_quantile_from_normal(alpha.ln_p, alpha.z, dof)).min(f64::MAX);
        (r, r)
    }
}
