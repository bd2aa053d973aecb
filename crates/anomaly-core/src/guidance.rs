//! What people have said of an entity: what is normal of it, in which periods everything is, and which
//! must not train.
//!
//! An alert that was wrong says more than that one point belongs into the baseline: a single point
//! barely moves a quantile, and the next one like it would alert again. So the distance from the
//! expected value that was called normal is normal from then on, on its side and for its entity,
//! with [`MARGIN`] on top, because the next point like it is never exactly it. Points within it are
//! learned, so that the baseline grows into what it was told; what is further out alerts as before.
//!
//! It is a distance and not a probability: over a constant baseline, where everything else is as
//! improbable as can be, the probability of one point would excuse every other.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::point::Point;
use crate::verdict::{Direction, Verdict};

/// How much further out than what was called normal a point may be.
pub const MARGIN: f64 = 1.2;

/// What people have said of one entity. It is no part of its state: whoever loads that brings it along.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Guidance {
    pub accepted: Vec<Accepted>,
    /// Points of these times are judged but never learned.
    pub excluded: Periods,
    /// Points of these times are no anomalies, and are never learned either.
    pub expected: Periods,
}

impl Guidance {
    /// Whether a point of this time is learned, if it is normal.
    pub fn trains(&self, at: i64) -> bool {
        !self.excluded.contain(at) && !self.expected.contain(at)
    }
}

/// Periods of time. Many entities share them, and each of their points asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Periods(
    /// Ascending and apart.
    Arc<[RangeInclusive<i64>]>,
);

impl Default for Periods {
    fn default() -> Self {
        Periods([].into())
    }
}

impl FromIterator<RangeInclusive<i64>> for Periods {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<i64>>>(periods: T) -> Self {
        let mut sorted: Vec<_> = periods.into_iter().filter(|p| !p.is_empty()).collect();
        sorted.sort_unstable_by_key(|period| *period.start());
        let mut apart: Vec<RangeInclusive<i64>> = Vec::with_capacity(sorted.len());
        for period in sorted {
            match apart.last_mut() {
                Some(last) if *period.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(period.end());
                }
                _ => apart.push(period),
            }
        }
        Periods(apart.into())
    }
}

impl Periods {
    pub fn contain(&self, at: i64) -> bool {
        let after = self.0.partition_point(|period| *period.start() <= at);
        after > 0 && *self.0[after - 1].end() >= at
    }

    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<i64>> + '_ {
        self.0.iter().cloned()
    }
}

/// One judgement of an entity's points, in force for points of (from, until].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accepted {
    /// `None` for strategies whose anomalies lie on no side of the expected value.
    pub side: Direction,
    /// From the expected value in the metric's unit; without a side, the deviation. Above 0.
    pub distance: f64,
    pub from: i64,
    pub until: i64,
}

impl Accepted {
    /// What is called normal with a point like this, from a time on; `None` where there is no
    /// distance to go by: of an infinity, of a value that is missing, without an expected value.
    pub fn of(
        side: Direction,
        value: f64,
        expected: f64,
        deviation: f64,
        from: i64,
    ) -> Option<Accepted> {
        if !value.is_finite() {
            return None;
        }
        let distance = match side {
            Direction::None => deviation,
            _ => (value - expected).abs(),
        };
        let usable = distance > 0.0 && distance.is_finite();
        usable.then_some(Accepted { side, distance, from, until: i64::MAX })
    }
}

/// What is accepted of one point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Tolerance {
    above: f64,
    below: f64,
    /// In deviations.
    sideless: f64,
}

impl Tolerance {
    /// Of several judgements the widest counts.
    pub(crate) fn at(accepted: &[Accepted], point: &Point) -> Option<Tolerance> {
        let mut tolerance = Tolerance::default();
        for a in accepted.iter().filter(|a| a.from < point.at && point.at <= a.until) {
            let of = match a.side {
                Direction::High => &mut tolerance.above,
                Direction::Low => &mut tolerance.below,
                Direction::None => &mut tolerance.sideless,
            };
            *of = of.max(a.distance * MARGIN);
        }
        (tolerance != Tolerance::default()).then_some(tolerance)
    }

    /// Makes normal what is accepted, and widens the range of normal values to it.
    pub(crate) fn apply(&self, verdict: &mut Verdict) {
        if !verdict.value.is_finite() {
            return;
        }
        let distance = (verdict.value - verdict.expected).abs();
        let accepted = match verdict.direction {
            Direction::High => distance <= self.above,
            Direction::Low => distance <= self.below,
            Direction::None => {
                self.sideless > 0.0 && verdict.is_anomaly && verdict.deviation() <= self.sideless
            }
        };
        verdict.is_anomaly &= !accepted;
        // Bounds that nobody asked for are NaN and stay so.
        if self.above > 0.0 && !verdict.upper.is_nan() {
            verdict.upper = verdict.upper.max(verdict.expected + self.above);
        }
        if self.below > 0.0 && !verdict.lower.is_nan() {
            verdict.lower = verdict.lower.min(verdict.expected - self.below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Status, Tail};

    fn verdict(value: f64, direction: Direction, ln_p: f64) -> Verdict {
        Verdict {
            at: 10,
            value,
            expected: 100.0,
            lower: 90.0,
            upper: 110.0,
            direction,
            is_anomaly: true,
            status: Status::Ok,
            statistic: 0.0,
            tail: Tail::LnP(ln_p),
        }
    }

    fn applied(accepted: &[Accepted], mut verdict: Verdict) -> Verdict {
        if let Some(tolerance) = Tolerance::at(accepted, &Point::new(verdict.at, verdict.value)) {
            tolerance.apply(&mut verdict);
        }
        verdict
    }

    #[test]
    fn a_fifth_more_than_what_was_called_normal_is_normal_on_its_side_only() {
        let accepted = [Accepted::of(Direction::High, 150.0, 100.0, 9.0, 5).unwrap()];
        let normal = applied(&accepted, verdict(160.0, Direction::High, -50.0));
        assert!(!normal.is_anomaly);
        assert_eq!((normal.lower, normal.upper), (90.0, 160.0));
        assert!(applied(&accepted, verdict(160.1, Direction::High, -50.0)).is_anomaly);
        assert!(applied(&accepted, verdict(60.0, Direction::Low, -50.0)).is_anomaly);
        // What is normal anyhow stays so, and a range that is wider already does not shrink.
        let mut wide = verdict(105.0, Direction::High, -1.0);
        (wide.is_anomaly, wide.upper) = (false, 500.0);
        let wide = applied(&accepted, wide);
        assert!(!wide.is_anomaly && wide.upper == 500.0);
    }

    #[test]
    fn periods_contain_what_any_of_them_does() {
        let all = [
            30..=40,
            10..=12,
            13..=13,
            RangeInclusive::new(5, 4),
            35..=50,
            i64::MAX - 1..=i64::MAX,
            0..=0,
        ];
        let periods: Periods = all.clone().into_iter().collect();
        for at in (-3..60).chain([i64::MIN, i64::MAX, i64::MAX - 2]) {
            assert_eq!(periods.contain(at), all.iter().any(|p| p.contains(&at)), "{at}");
        }
        assert_eq!(periods.iter().count(), 4);
        assert!(!Periods::default().contain(0));
        let always: Periods = [i64::MIN..=i64::MAX, 3..=4].into_iter().collect();
        assert!(always.iter().eq([i64::MIN..=i64::MAX]));
    }

    #[test]
    fn it_holds_from_one_time_until_another() {
        let mut accepted = Accepted::of(Direction::High, 150.0, 100.0, 9.0, 10).unwrap();
        assert!(applied(&[accepted], verdict(150.0, Direction::High, -50.0)).is_anomaly);
        accepted.from = 9;
        assert!(!applied(&[accepted], verdict(150.0, Direction::High, -50.0)).is_anomaly);
        accepted.until = 9;
        assert!(applied(&[accepted], verdict(150.0, Direction::High, -50.0)).is_anomaly);
    }

    #[test]
    fn without_a_side_the_deviation_counts() {
        let accepted = [Accepted::of(Direction::None, 150.0, 100.0, 5.0, 0).unwrap()];
        let ln_p = crate::distribution::ln_p_normal_two_sided;
        assert!(!applied(&accepted, verdict(0.0, Direction::None, ln_p(5.9))).is_anomaly);
        assert!(applied(&accepted, verdict(0.0, Direction::None, ln_p(6.1))).is_anomaly);
        assert!(applied(&accepted, verdict(101.0, Direction::High, ln_p(5.9))).is_anomaly);
    }

    #[test]
    fn of_what_is_no_number_nothing_follows() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Accepted::of(Direction::High, value, 100.0, 9.0, 0), None);
        }
        assert_eq!(Accepted::of(Direction::High, 150.0, f64::NAN, 9.0, 0), None);
        assert_eq!(Accepted::of(Direction::High, 100.0, 100.0, 9.0, 0), None);
        let accepted = [Accepted::of(Direction::High, 1e300, 100.0, 9.0, 0).unwrap()];
        assert!(applied(&accepted, verdict(f64::INFINITY, Direction::High, -1e9)).is_anomaly);
        assert!(!applied(&accepted, verdict(1.1e300, Direction::High, -1e9)).is_anomaly);
    }
}
