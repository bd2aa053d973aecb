//! Consecutive anomalous points are one episode, and one episode is one alert.
//!
//! ```text
//!            anomalous                fire_after-th anomalous
//!   Quiet ───────────────▶ Pending ───────────────────────────▶ Open
//!     ▲                       │ normal                            │ clear_after-th normal
//!     └───────────────────────┴───────────────────────────────────┘
//! ```
//!
//! A pure state machine: the same points in the same order give the same transitions. A point that
//! is neither normal nor anomalous (NaN) changes nothing.

use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Severity, Status, Tail, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Quiet,
    /// Anomalous, but not for long enough to alert.
    Pending,
    Open,
}

/// The point of an episode with the largest deviation (the first of several).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    pub at: i64,
    pub value: f64,
    pub expected: f64,
    pub lower: f64,
    pub upper: f64,
    pub deviation: f64,
    pub ln_p: f64,
    pub direction: Direction,
    pub statistic: f64,
}

impl Peak {
    pub fn severity(&self) -> Severity {
        Severity::from_deviation(self.deviation)
    }

    fn of(verdict: &Verdict) -> Self {
        let ln_p = verdict.ln_p();
        Peak {
            at: verdict.at,
            value: verdict.value,
            expected: verdict.expected,
            lower: verdict.lower,
            upper: verdict.upper,
            deviation: verdict.deviation(),
            ln_p,
            direction: verdict.direction,
            statistic: verdict.statistic,
        }
    }
}

/// The verdict that made the peak.
impl From<&Peak> for Verdict {
    fn from(peak: &Peak) -> Self {
        Verdict {
            at: peak.at,
            value: peak.value,
            expected: peak.expected,
            lower: peak.lower,
            upper: peak.upper,
            direction: peak.direction,
            is_anomaly: true,
            // Of what is no number, only that it is missing is ever an anomaly.
            status: match peak.value {
                v if v.is_nan() => Status::Missing,
                v if v.is_infinite() => Status::NonFinite,
                _ => Status::Ok,
            },
            statistic: peak.statistic,
            tail: Tail::LnP(peak.ln_p),
        }
    }
}

const NO_PEAK: Peak = Peak {
    at: 0,
    value: 0.0,
    expected: 0.0,
    lower: 0.0,
    upper: 0.0,
    deviation: 0.0,
    ln_p: 0.0,
    direction: Direction::None,
    statistic: 0.0,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Episode {
    pub phase: Phase,
    /// Of the first anomalous point.
    pub started_at: i64,
    /// Of the latest anomalous point.
    pub last_at: i64,
    /// Anomalous points so far.
    pub points: u64,
    /// Consecutive normal points since the latest anomalous one.
    pub quiet: u32,
    pub peak: Peak,
    /// Row of the alert, 0 until it has been stored.
    pub alert_id: i64,
}

impl Default for Episode {
    fn default() -> Self {
        Episode {
            phase: Phase::Quiet,
            started_at: 0,
            last_at: 0,
            points: 0,
            quiet: 0,
            peak: NO_PEAK,
            alert_id: 0,
        }
    }
}

/// What a point did to the alert; each carries the episode as it was right after the point
/// (for `Resolved`: as it ended).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transition {
    Opened(Episode),
    Updated(Episode),
    Resolved(Episode),
}

impl Transition {
    pub fn episode(&self) -> &Episode {
        match self {
            Transition::Opened(e) | Transition::Updated(e) | Transition::Resolved(e) => e,
        }
    }
}

/// What [`Episode::observe`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observed {
    pub transition: Option<Transition>,
    /// The point became the peak.
    pub new_peak: bool,
    /// The episode that this point ended, whether it had been open or only pending.
    pub ended: Option<Episode>,
}

impl Episode {
    /// Takes in one verdict. `fire_after` and `clear_after` are ≥ 1.
    pub fn observe(&mut self, verdict: &Verdict, fire_after: u32, clear_after: u32) -> Observed {
        if verdict.is_anomaly {
            return self.anomalous(verdict, fire_after);
        }
        if self.phase == Phase::Quiet || verdict.value.is_nan() {
            return Observed::default();
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.phase == Phase::Open && self.quiet < clear_after {
            return Observed::default();
        }
        let ended = std::mem::take(self);
        Observed {
            transition: (ended.phase == Phase::Open).then_some(Transition::Resolved(ended)),
            new_peak: false,
            ended: Some(ended),
        }
    }

    fn anomalous(&mut self, verdict: &Verdict, fire_after: u32) -> Observed {
        let first = self.phase == Phase::Quiet;
        if first {
            *self = Episode {
                phase: Phase::Pending,
                started_at: verdict.at,
                last_at: verdict.at,
                ..Episode::default()
            };
        }
        self.started_at = self.started_at.min(verdict.at);
        self.last_at = self.last_at.max(verdict.at);
        self.points = self.points.saturating_add(1);
        self.quiet = 0;
        let peak = Peak::of(verdict);
        let new_peak = first || peak.deviation > self.peak.deviation;
        if new_peak {
            self.peak = peak;
        }
        let transition = match self.phase {
            Phase::Open => Some(Transition::Updated(*self)),
            _ if self.points >= u64::from(fire_after) => {
                self.phase = Phase::Open;
                Some(Transition::Opened(*self))
            }
            _ => None,
        };
        Observed { transition, new_peak, ended: None }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let phase = match self.phase {
            Phase::Quiet => {
                out.push(0);
                return;
            }
            Phase::Pending => 1,
            Phase::Open => 2,
        };
        out.push(phase);
        out.extend_from_slice(&self.started_at.to_le_bytes());
        out.extend_from_slice(&self.last_at.to_le_bytes());
        out.extend_from_slice(&self.points.to_le_bytes());
        out.extend_from_slice(&self.quiet.to_le_bytes());
        out.extend_from_slice(&self.alert_id.to_le_bytes());
        let p = &self.peak;
        out.extend_from_slice(&p.at.to_le_bytes());
        for v in [p.value, p.expected, p.lower, p.upper, p.deviation, p.ln_p, p.statistic] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.push(match p.direction {
            Direction::None => 0,
            Direction::High => 1,
            Direction::Low => 2,
        });
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let phase = match reader.u8()? {
            0 => return Ok(Episode::default()),
            1 => Phase::Pending,
            2 => Phase::Open,
            _ => return Err(reader.corrupted("unknown phase of an episode")),
        };
        Ok(Episode {
            phase,
            started_at: reader.i64()?,
            last_at: reader.i64()?,
            points: reader.u64()?,
            quiet: reader.u32()?,
            alert_id: reader.i64()?,
            peak: Peak {
                at: reader.i64()?,
                value: reader.f64()?,
                expected: reader.f64()?,
                lower: reader.f64()?,
                upper: reader.f64()?,
                deviation: reader.non_negative("deviation")?,
                ln_p: reader.finite("ln p")?,
                statistic: reader.f64()?,
                direction: match reader.u8()? {
                    0 => Direction::None,
                    1 => Direction::High,
                    2 => Direction::Low,
                    _ => return Err(reader.corrupted("unknown direction")),
                },
            },
        })
    }

    /// For callers that only need to know whether a point belongs to the episode.
    pub fn covers(&self, point: &Point) -> bool {
        self.phase != Phase::Quiet && (self.started_at..=self.last_at).contains(&point.at)
    }
}
