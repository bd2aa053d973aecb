//! Consecutive anomalous points are one episode, and one episode is one alert.
//!
//! ```text
//!            anomalous                fire_after-th anomalous
//!   Quiet ───────────────▶ Pending ───────────────────────────▶ Open
//!     ▲                       │ normal                            │ clear_after-th normal
//!     └───────────────────────┴───────────────────────────────────┘
//! ```
//!
//! For `cool_down` after its end an episode is kept beside the phase ([`Ended`]): a run that begins until then
//! and opens an alert opens the same one again. It is kept beside and is no phase of its own, because whether a run
//! alerts is decided in the same way, by `Pending`, whatever was before it. An alert that was opened again
//! [`FLAPPING`] times is flapping until it has stayed quiet for `cool_down`.
//!
//! A pure state machine: the same points in the same order give the same transitions. A point that
//! is neither normal nor anomalous (NaN) changes nothing.

use crate::Result;
use crate::codec::Reader;
use crate::point::Point;
use crate::verdict::{Direction, Severity, Status, Tail, Verdict};

/// Bits beside the phase in the stored form; `detector.rs` has one more for what may precede it.
const IS_COOLING: u8 = 0x40;
const WAS_REOPENED: u8 = 0x20;

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

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.to_le_bytes());
        for v in [
            self.value,
            self.expected,
            self.lower,
            self.upper,
            self.deviation,
            self.ln_p,
            self.statistic,
        ] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.push(match self.direction {
            Direction::None => 0,
            Direction::High => 1,
            Direction::Low => 2,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Peak {
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
        })
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

/// So often opened again, an alert is flapping.
pub const FLAPPING: u32 = 3;

/// When an alert opens, ends, and may be opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeCycle {
    /// Consecutive anomalous points that open it, ≥ 1.
    pub fire_after: u32,
    /// Consecutive normal points that end it, ≥ 1.
    pub clear_after: u32,
    /// For how long after its end it is opened again instead of a new one, µs.
    pub cool_down: i64,
}

/// An episode that has ended and whose alert may be opened again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    pub started_at: i64,
    pub last_at: i64,
    /// Of the point that ended it.
    pub ended_at: i64,
    pub points: u64,
    pub reopened: u32,
    pub alert_id: i64,
    pub peak: Peak,
}

impl Ended {
    /// The episode as it was when it ended.
    pub fn episode(&self) -> Episode {
        Episode {
            phase: Phase::Open,
            started_at: self.started_at,
            last_at: self.last_at,
            points: self.points,
            peak: self.peak,
            alert_id: self.alert_id,
            reopened: self.reopened,
            ..Episode::default()
        }
    }
}

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
    /// How often the alert was opened again.
    pub reopened: u32,
    /// The peak is of a run that had ended before, so that it was learned then.
    pub peak_is_learned: bool,
    /// The episode before, while its alert may be opened again.
    pub cooling: Option<Ended>,
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
            reopened: 0,
            peak_is_learned: false,
            cooling: None,
        }
    }
}

/// What a point did to the alert; each carries the episode as it was right after the point
/// (for `Resolved`: as it ended).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transition {
    Opened(Episode),
    Updated(Episode),
    /// Updated, and the severity has risen.
    Escalated(Episode),
    /// The alert of an episode that had ended is open again.
    Reopened(Episode),
    Resolved(Episode),
}

impl Transition {
    pub fn episode(&self) -> &Episode {
        match self {
            Transition::Opened(e)
            | Transition::Updated(e)
            | Transition::Escalated(e)
            | Transition::Reopened(e)
            | Transition::Resolved(e) => e,
        }
    }
}

/// What [`Episode::observe`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Observed {
    pub transition: Option<Transition>,
    /// The point became the peak; of `Reopened`: a point of the new run did.
    pub new_peak: bool,
    /// The episode that this point ended, whether it had been open or only pending.
    pub ended: Option<Episode>,
    /// The alert that was flapping and has stayed quiet until this point.
    pub settled: Option<i64>,
}

impl Episode {
    /// Takes in one verdict.
    pub fn observe(&mut self, verdict: &Verdict, rules: &LifeCycle) -> Observed {
        if verdict.is_anomaly {
            let settled = self.cool(verdict.at, rules);
            return Observed { settled, ..self.anomalous(verdict, rules.fire_after) };
        }
        if verdict.value.is_nan() {
            return Observed::default();
        }
        if self.phase == Phase::Quiet {
            return Observed { settled: self.cool(verdict.at, rules), ..Observed::default() };
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.phase == Phase::Open && self.quiet < rules.clear_after {
            return Observed::default();
        }
        let ended = std::mem::take(self);
        self.cooling = ended.cooling;
        if ended.phase == Phase::Open && rules.cool_down > 0 {
            self.cooling = Some(Ended {
                started_at: ended.started_at,
                last_at: ended.last_at,
                ended_at: verdict.at,
                points: ended.points,
                reopened: ended.reopened,
                alert_id: ended.alert_id,
                peak: ended.peak,
            });
        }
        Observed {
            transition: (ended.phase == Phase::Open).then_some(Transition::Resolved(ended)),
            new_peak: false,
            ended: Some(ended),
            settled: self.cool(verdict.at, rules),
        }
    }

    /// Lets go of the episode before when its time is over; the alert, if it was flapping. A run that has
    /// begun in time is waited for.
    fn cool(&mut self, at: i64, rules: &LifeCycle) -> Option<i64> {
        let before = self.cooling?;
        if self.phase != Phase::Quiet || at <= before.ended_at.saturating_add(rules.cool_down) {
            return None;
        }
        self.cooling = None;
        (before.reopened >= FLAPPING).then_some(before.alert_id)
    }

    fn anomalous(&mut self, verdict: &Verdict, fire_after: u32) -> Observed {
        let first = self.phase == Phase::Quiet;
        if first {
            *self = Episode {
                phase: Phase::Pending,
                started_at: verdict.at,
                last_at: verdict.at,
                cooling: self.cooling,
                ..Episode::default()
            };
        }
        self.started_at = self.started_at.min(verdict.at);
        self.last_at = self.last_at.max(verdict.at);
        self.points = self.points.saturating_add(1);
        self.quiet = 0;
        let peak = Peak::of(verdict);
        let new_peak = first || peak.deviation > self.peak.deviation;
        let rises = !first && peak.severity() > self.peak.severity();
        if new_peak {
            self.peak = peak;
            self.peak_is_learned = false;
        }
        if self.phase == Phase::Open {
            let transition = match rises {
                true => Transition::Escalated(*self),
                false => Transition::Updated(*self),
            };
            return Observed { transition: Some(transition), new_peak, ..Observed::default() };
        }
        if self.points < u64::from(fire_after) {
            return Observed { new_peak, ..Observed::default() };
        }
        self.phase = Phase::Open;
        let Some(before) = self.cooling.take() else {
            let transition = Some(Transition::Opened(*self));
            return Observed { transition, new_peak, ..Observed::default() };
        };
        let new_peak = self.peak.deviation > before.peak.deviation;
        if !new_peak {
            self.peak = before.peak;
            self.peak_is_learned = true;
        }
        self.started_at = self.started_at.min(before.started_at);
        self.last_at = self.last_at.max(before.last_at);
        self.points = self.points.saturating_add(before.points);
        self.alert_id = before.alert_id;
        self.reopened = before.reopened.saturating_add(1);
        let transition = Some(Transition::Reopened(*self));
        Observed { transition, new_peak, ..Observed::default() }
    }

    /// Whether nothing is going on, and nothing was a moment ago.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Quiet && self.cooling.is_none()
    }

    /// The alert that is open or may be opened again, 0 where there is none.
    pub fn latest_alert(&self) -> i64 {
        match (self.phase, &self.cooling) {
            (Phase::Open, _) => self.alert_id,
            (_, Some(before)) => before.alert_id,
            _ => 0,
        }
    }

    /// Gives the alerts of the episode and of the one before other numbers.
    pub fn renumber(&mut self, id_of: impl Fn(i64) -> i64) {
        self.alert_id = id_of(self.alert_id);
        if let Some(before) = &mut self.cooling {
            before.alert_id = id_of(before.alert_id);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let phase = match self.phase {
            Phase::Quiet => 0,
            Phase::Pending => 1,
            Phase::Open => 2,
        };
        let cooling = if self.cooling.is_some() { IS_COOLING } else { 0 };
        let reopened = if self.reopened > 0 { WAS_REOPENED } else { 0 };
        out.push(phase | cooling | reopened);
        if self.phase != Phase::Quiet {
            out.extend_from_slice(&self.started_at.to_le_bytes());
            out.extend_from_slice(&self.last_at.to_le_bytes());
            out.extend_from_slice(&self.points.to_le_bytes());
            out.extend_from_slice(&self.quiet.to_le_bytes());
            out.extend_from_slice(&self.alert_id.to_le_bytes());
            self.peak.encode(out);
        }
        if self.reopened > 0 {
            out.extend_from_slice(&self.reopened.to_le_bytes());
            out.push(u8::from(self.peak_is_learned));
        }
        if let Some(before) = &self.cooling {
            out.extend_from_slice(&before.started_at.to_le_bytes());
            out.extend_from_slice(&before.last_at.to_le_bytes());
            out.extend_from_slice(&before.ended_at.to_le_bytes());
            out.extend_from_slice(&before.points.to_le_bytes());
            out.extend_from_slice(&before.reopened.to_le_bytes());
            out.extend_from_slice(&before.alert_id.to_le_bytes());
            before.peak.encode(out);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let first = reader.u8()?;
        let mut episode = match first & !(IS_COOLING | WAS_REOPENED) {
            0 => Episode::default(),
            phase @ (1 | 2) => Episode {
                phase: if phase == 1 { Phase::Pending } else { Phase::Open },
                started_at: reader.i64()?,
                last_at: reader.i64()?,
                points: reader.u64()?,
                quiet: reader.u32()?,
                alert_id: reader.i64()?,
                peak: Peak::decode(reader)?,
                ..Episode::default()
            },
            _ => return Err(reader.corrupted("unknown phase of an episode")),
        };
        if first & WAS_REOPENED != 0 {
            episode.reopened = reader.u32()?;
            episode.peak_is_learned = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(reader.corrupted("unknown state of a peak")),
            };
            if episode.phase != Phase::Open || episode.reopened == 0 {
                return Err(reader.corrupted("an episode that is not open was opened again"));
            }
        }
        if first & IS_COOLING != 0 {
            if episode.phase == Phase::Open {
                return Err(reader.corrupted("an episode before one that is open"));
            }
            episode.cooling = Some(Ended {
                started_at: reader.i64()?,
                last_at: reader.i64()?,
                ended_at: reader.i64()?,
                points: reader.u64()?,
                reopened: reader.u32()?,
                alert_id: reader.i64()?,
                peak: Peak::decode(reader)?,
            });
        }
        Ok(episode)
    }

    /// For callers that only need to know whether a point belongs to the episode.
    pub fn covers(&self, point: &Point) -> bool {
        self.phase != Phase::Quiet && (self.started_at..=self.last_at).contains(&point.at)
    }
}
