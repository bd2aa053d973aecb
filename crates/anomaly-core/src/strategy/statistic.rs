//! What strategies with a statistic of their own share: from a statistic that runs over several
//! points to the probability of an event.
//!
//! A cumulative sum or the contrast of two windows leaves 0, passes a peak and comes back: an
//! *excursion*. Its points depend on each other, so a probability per point would promise too little
//! or signal ten times. What is calibrated is the excursion: a point counts with the peak of the
//! excursion that ends there, and with 0 otherwise. Then p of a statistic is the rate, per point, of
//! excursions that reach it; the first point beyond the critical value signals, and the rest of the
//! excursion is silent. Statistics come as evidence e ≥ 0, whose excursions beyond e are about as rare
//! as exp(−e) up to a factor: then their tail on the calibrator's scale is straight. (The clusters of extreme value theory: Coles, An Introduction to Statistical
//! Modeling of Extreme Values, 2001, §5.3.)

use std::cell::Cell;

use super::Rule;
use super::location_scale::refresh_due;
use crate::Result;
use crate::calibration::{Alpha, Calibrator};
use crate::codec::Reader;
use crate::distribution::{MAX_DEVIATION, MIN_LN_P, deviation_from_ln_p, ln_p_normal_two_sided};
use crate::point::Point;
use crate::verdict::{Direction, Status, Tail, Verdict};

/// The verdict on NaN and infinities, alike for every strategy; false for a finite value.
pub(super) fn non_finite(point: &Point, verdict: &mut Verdict) -> bool {
    let x = point.value;
    if x.is_finite() {
        return false;
    }
    verdict.status = Status::NonFinite;
    if x.is_infinite() {
        verdict.is_anomaly = true;
        verdict.direction = Direction::of(x, 0.0);
        verdict.statistic = f64::MAX.copysign(x);
        verdict.tail = Tail::LnP(MIN_LN_P);
    }
    true
}

/// Excursions count as at most this much evidence.
const HIGHEST: f64 = 70.0;
/// The calibrator sees evidence e as the residual of normal noise with p = exp(−e).
pub(super) const DOF: f64 = 500.0;

pub(super) fn residual_of(evidence: f64) -> f64 {
    deviation_from_ln_p(-evidence)
}

pub(super) fn evidence_of(residual: f64) -> f64 {
    -ln_p_normal_two_sided(residual.min(MAX_DEVIATION))
}

/// The side of a statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Below,
    Above,
}

impl Side {
    /// Of a value against what is expected; none at it.
    pub fn of(value: f64, expected: f64) -> Option<Side> {
        if value > expected {
            Some(Side::Above)
        } else if value < expected {
            Some(Side::Below)
        } else {
            None
        }
    }

    pub fn sign(self) -> f64 {
        match self {
            Side::Below => -1.0,
            Side::Above => 1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Excursion {
    /// 0 between excursions.
    peak: f64,
    /// It has been signalled.
    silent: bool,
}

/// The excursions of a statistic below and above 0, and the calibrator of their peaks.
pub(super) struct Excursions {
    calibrator: Calibrator,
    count: u64,
    refreshed: u64,
    below: Excursion,
    above: Excursion,
    /// ln alpha and the critical values that were computed last; forgotten at each refresh.
    critical: Cell<Option<(f64, (f64, f64))>>,
}

impl Excursions {
    pub fn new() -> Self {
        Excursions {
            calibrator: Calibrator::new(),
            count: 0,
            refreshed: 0,
            below: Excursion::default(),
            above: Excursion::default(),
            critical: Cell::new(None),
        }
    }

    fn side(&self, side: Side) -> &Excursion {
        match side {
            Side::Below => &self.below,
            Side::Above => &self.above,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut Excursion {
        match side {
            Side::Below => &mut self.below,
            Side::Above => &mut self.above,
        }
    }

    /// Whether the excursion on a side has been signalled.
    pub fn is_silent(&self, side: Side) -> bool {
        self.side(side).silent
    }

    /// Learns the evidence of one point on both sides, each ≥ 0.
    pub fn learn(&mut self, below: f64, above: f64) {
        let (mut fed, mut of) = (Excursion::default(), Side::Above);
        for (side, evidence) in [(Side::Below, below), (Side::Above, above)] {
            let excursion = self.side_mut(side);
            if evidence > 0.0 {
                if !excursion.silent {
                    excursion.peak = excursion.peak.max(evidence.min(HIGHEST));
                }
                continue;
            }
            let ended = std::mem::take(excursion);
            if ended.peak > fed.peak {
                (fed, of) = (ended, side);
            }
        }
        let residual = of.sign() * residual_of(fed.peak);
        if fed.silent {
            self.calibrator.learn_anomalous(residual, DOF);
        } else {
            self.calibrator.learn(residual, DOF);
        }
        self.count = self.count.saturating_add(1);
        if refresh_due(self.count, self.refreshed) {
            self.refreshed = self.count;
            self.calibrator.refresh();
            self.critical.set(None);
        }
    }

    /// The excursion that this evidence belongs to was signalled.
    pub fn signalled(&mut self, side: Side, evidence: f64) {
        let excursion = self.side_mut(side);
        excursion.peak = excursion.peak.max(evidence.min(HIGHEST));
        excursion.silent = true;
    }

    /// The critical evidence below and above.
    pub fn critical(&self, alpha: &Alpha) -> (f64, f64) {
        if let Some((ln_alpha, critical)) = self.critical.get()
            && ln_alpha == alpha.ln_p
        {
            return critical;
        }
        let (below, above) = self.calibrator.quantiles(alpha, DOF);
        let critical = (evidence_of(below), evidence_of(above));
        self.critical.set(Some((alpha.ln_p, critical)));
        critical
    }

    /// Puts the probability of evidence ≥ 0 into a verdict, and whether it is an anomaly: by the
    /// strategy's own rule if `own` says so, else by the rate. Nothing is, in an excursion that has been
    /// signalled.
    pub fn judge(
        &self,
        side: Side,
        evidence: f64,
        own: Option<bool>,
        rule: &Rule,
        verdict: &mut Verdict,
    ) {
        if !self.is_silent(side) {
            self.judge_aloud(side, evidence, own, rule, verdict);
        }
    }

    /// The same, whether or not the excursion has been signalled.
    pub fn judge_aloud(
        &self,
        side: Side,
        evidence: f64,
        own: Option<bool>,
        rule: &Rule,
        verdict: &mut Verdict,
    ) {
        if evidence <= 0.0 {
            return;
        }
        verdict.tail = self.calibrator.tail(side.sign() * residual_of(evidence), DOF);
        let (below, above) = self.critical(&rule.alpha());
        let critical = if side == Side::Below { below } else { above };
        verdict.is_anomaly = own.unwrap_or(evidence > critical);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.calibrator.encode(out);
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        for excursion in [self.below, self.above] {
            out.extend_from_slice(&excursion.peak.to_le_bytes());
            out.push(u8::from(excursion.silent));
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let calibrator = Calibrator::decode(reader)?;
        let (count, refreshed) = (reader.u64()?, reader.u64()?);
        if refreshed > count || count > i64::MAX as u64 {
            return Err(reader.corrupted("counts contradict each other"));
        }
        let mut excursion = || -> Result<Excursion> {
            let peak = reader.non_negative("peak")?;
            match reader.u8()? {
                0 => Ok(Excursion { peak, silent: false }),
                1 => Ok(Excursion { peak, silent: true }),
                _ => Err(reader.corrupted("unknown mark")),
            }
        };
        let (below, above) = (excursion()?, excursion()?);
        Ok(Excursions { calibrator, count, refreshed, below, above, critical: Cell::new(None) })
    }
}

/// What a point contributes to an excursion: a point on the other side of what is expected cannot signal
/// it, and only keeps it alive.
pub(super) fn part(same_side: bool, evidence: f64) -> f64 {
    if same_side { evidence } else { evidence.min(f64::MIN_POSITIVE) }
}

/// What every description of a calibrated verdict holds.
pub(super) fn describe(
    verdict: &Verdict,
    rule: &Rule,
    count: u64,
    map: &mut serde_json::Map<String, serde_json::Value>,
) {
    if let Some(threshold) = rule.threshold {
        map.insert("threshold".into(), super::json_number(threshold));
    } else {
        map.insert("alpha".into(), super::json_number(libm::exp(rule.ln_alpha)));
    }
    map.insert("p_value".into(), super::json_number(verdict.p_value()));
    map.insert("ln_p".into(), super::json_number(verdict.ln_p()));
    map.insert("baseline_points".into(), serde_json::Value::from(count));
}
