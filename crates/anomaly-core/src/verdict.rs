//! What a model says about one point: one struct for every strategy and every caller.

use std::fmt;
use std::str::FromStr;

use crate::calibration::SideTail;
use crate::distribution::{MAX_DEVIATION, MIN_LN_P, deviation_from_ln_p};
use crate::point::Point;
use crate::{Error, Result};

/// How far a point is from normal. The same scale for every strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Info,
    Warning,
    Critical,
    Emergency,
}

impl Severity {
    /// All of them, ascending.
    pub const ALL: [Severity; 4] =
        [Severity::Info, Severity::Warning, Severity::Critical, Severity::Emergency];

    /// Deviation ≥ 2 is a warning, ≥ 3 critical, ≥ 5 an emergency.
    pub fn from_deviation(deviation: f64) -> Self {
        if deviation >= 5.0 {
            Severity::Emergency
        } else if deviation >= 3.0 {
            Severity::Critical
        } else if deviation >= 2.0 {
            Severity::Warning
        } else {
            Severity::Info
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
            Severity::Emergency => "emergency",
        }
    }

    /// True for critical and emergency.
    pub fn is_critical(self) -> bool {
        self >= Severity::Critical
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Severity::ALL.into_iter().find(|v| v.as_str() == s).ok_or_else(|| {
            Error::invalid(
                format!("unknown severity \"{s}\""),
                "Severities are info, warning, critical and emergency.",
            )
        })
    }
}

/// On which side of the expected value a point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    High,
    Low,
    None,
}

impl Direction {
    pub fn of(value: f64, expected: f64) -> Self {
        if value > expected {
            Direction::High
        } else if value < expected {
            Direction::Low
        } else {
            Direction::None
        }
    }

    /// The side that counts for a detector: `None` for `both`.
    pub fn side(s: &str) -> Result<Option<Self>> {
        match s {
            "both" => Ok(None),
            "above" => Ok(Some(Direction::High)),
            "below" => Ok(Some(Direction::Low)),
            _ => Err(Error::invalid(
                format!("unknown direction \"{s}\""),
                "Directions of a detector are both, above and below.",
            )),
        }
    }

    /// The word used in descriptions: `above`, `below` or `at`.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::High => "above",
            Direction::Low => "below",
            Direction::None => "at",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Direction {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "above" => Ok(Direction::High),
            "below" => Ok(Direction::Low),
            "at" => Ok(Direction::None),
            _ => Err(Error::invalid(
                format!("unknown direction \"{s}\""),
                "Directions are above, below and at.",
            )),
        }
    }
}

/// How much a verdict is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Judged by the entity's own baseline.
    Ok,
    /// The entity has too few points of its own; judged by the shared baseline, or not at all.
    Warming { have: u64, need: u64 },
    /// There is no value, and the detector was told that this is an anomaly.
    Missing,
    /// The value is NaN or infinite. NaN is never called an anomaly and never called normal.
    NonFinite,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Ok => f.write_str("ok"),
            Status::Warming { have, need } => write!(f, "warming ({have} of {need})"),
            Status::Missing => f.write_str("missing"),
            Status::NonFinite => f.write_str("non-finite value"),
        }
    }
}

/// Where the probability of a point comes from. Kept unevaluated because the exact logarithm costs
/// more than the rest of a verdict and only a few points in a thousand are ever asked for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tail {
    /// The natural logarithm of the two-sided p itself, ≤ 0.
    LnP(f64),
    /// What a calibrator says of a residual by a spread with `dof` degrees of freedom.
    Calibrated { residual: f64, dof: f64, side: SideTail },
}

/// What a model says about one point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub at: i64,
    pub value: f64,
    /// What the model expected, in the metric's unit; NaN when there is no baseline at all.
    pub expected: f64,
    /// The value above which, not at which, the point would be normal; NaN without a baseline.
    pub lower: f64,
    /// As `lower`, on the other side.
    pub upper: f64,
    pub direction: Direction,
    pub is_anomaly: bool,
    pub status: Status,
    /// The strategy's own figure: z-score, distance past the nearer quartile in IQRs, modified z.
    pub statistic: f64,
    pub tail: Tail,
}

impl Verdict {
    /// A verdict without a baseline: nothing is expected and nothing is unusual.
    pub fn without_baseline(point: &Point) -> Self {
        Verdict {
            at: point.at,
            value: point.value,
            expected: f64::NAN,
            lower: f64::NAN,
            upper: f64::NAN,
            direction: Direction::None,
            is_anomaly: false,
            status: Status::Ok,
            statistic: 0.0,
            tail: Tail::LnP(0.0),
        }
    }

    /// The same of a value that is no number: an infinity is as improbable as can be, NaN is neither
    /// normal nor anomalous.
    pub(crate) fn of_non_finite(mut self) -> Self {
        self.status = Status::NonFinite;
        if self.value.is_infinite() {
            self.is_anomaly = true;
            self.direction = Direction::of(self.value, 0.0);
            self.statistic = f64::MAX.copysign(self.value);
            self.tail = Tail::LnP(MIN_LN_P);
        }
        self
    }

    /// Natural logarithm of the two-sided p: the chance of a point at least this far out when
    /// nothing is unusual. Finite, ≤ 0.
    pub fn ln_p(&self) -> f64 {
        match self.tail {
            Tail::LnP(ln_p) => ln_p,
            Tail::Calibrated { residual, dof, side } => side.ln_p_of_residual(residual, dof),
        }
    }

    /// p itself; underflows to 0 where `ln_p` still distinguishes.
    pub fn p_value(&self) -> f64 {
        libm::exp(self.ln_p())
    }

    /// 1 − p, for display. Rank by [`Verdict::deviation`]: below p = 1e-16 this is exactly 1.
    pub fn score(&self) -> f64 {
        // Not a negation: the score of p = 1 is 0, not −0.
        0.0 - libm::expm1(self.ln_p())
    }

    /// How many standard deviations of a normal distribution p is worth: 0 ≤ deviation ≤ 1e6.
    pub fn deviation(&self) -> f64 {
        deviation_from_ln_p(self.ln_p()).min(MAX_DEVIATION)
    }

    pub fn severity(&self) -> Severity {
        Severity::from_deviation(self.deviation())
    }
}
