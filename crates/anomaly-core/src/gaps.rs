//! Buckets of time in which an entity has no value, and what stands in for them.
//!
//! Gaps are filled entity by entity, in the order of time and before anything is judged, so that
//! training, scans and single queries see the same series. A gap begins after the last bucket that had
//! a value: what lies before the first value of an entity is no gap.

use crate::bucket::Bucket;
use crate::codec::Reader;
use crate::distribution::MIN_LN_P;
use crate::point::Point;
use crate::{Error, Result};

/// The most buckets of one gap that are filled: its first ones. The rest of a longer gap is passed
/// over, so that a silence of years costs no more than one of weeks.
pub const MAX_FILLED: i64 = 10_000;

/// What stands in for a bucket without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// Nothing.
    Ignore,
    Zero,
    /// The value before the gap.
    Previous,
    /// The line between the values before and after the gap, once there is one after.
    Interpolate,
    /// Nothing: that there is no value is itself the anomaly.
    Anomaly,
}

impl OnMissing {
    pub const ALL: [OnMissing; 5] = [
        OnMissing::Ignore,
        OnMissing::Zero,
        OnMissing::Previous,
        OnMissing::Interpolate,
        OnMissing::Anomaly,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            OnMissing::Ignore => "ignore",
            OnMissing::Zero => "zero",
            OnMissing::Previous => "previous",
            OnMissing::Interpolate => "interpolate",
            OnMissing::Anomaly => "anomaly",
        }
    }
}

impl std::str::FromStr for OnMissing {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        OnMissing::ALL.into_iter().find(|v| v.as_str() == s).ok_or_else(|| {
            Error::invalid(
                format!("unknown on_missing \"{s}\""),
                "It is ignore, zero, previous, interpolate or anomaly.",
            )
        })
    }
}

/// How much of an entity's series is there: kept in its state, where gaps matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Presence {
    /// The last bucket that had a value or was filled.
    index: i64,
    /// The last bucket that had a finite value, with the value; NaN when there was none.
    known_index: i64,
    known_value: f64,
    known_trials: f64,
    /// Buckets with a value.
    present: u64,
    /// Gaps that are over, and how many buckets they had.
    gaps: u64,
    missing: u64,
    /// Buckets of the gap that is going on.
    run: u64,
}

impl Presence {
    fn first(index: i64) -> Self {
        Presence {
            index,
            known_index: index,
            known_value: f64::NAN,
            known_trials: f64::NAN,
            present: 0,
            gaps: 0,
            missing: 0,
            run: 0,
        }
    }

    /// Buckets of the gap that is going on.
    pub fn run(&self) -> u64 {
        self.run
    }

    fn saw(&mut self, index: i64, point: &Point) {
        self.index = self.index.max(index);
        if self.run > 0 {
            self.gaps = self.gaps.saturating_add(1);
            self.missing = self.missing.saturating_add(self.run);
            self.run = 0;
        }
        self.present = self.present.saturating_add(1);
        if point.value.is_finite() {
            self.known_index = index;
            self.known_value = point.value;
            self.known_trials = point.trials;
        }
    }

    /// ln p of a gap at least as long as the one that is going on, by the gaps before it: the chance
    /// that a gap begins after a bucket with a value, times the chance that one goes on for each
    /// further bucket, both by the rule of succession. Finite, ≤ 0, and lower with each bucket.
    pub fn ln_p(&self) -> f64 {
        let chance = |happened: u64, times: u64| {
            libm::log((happened as f64 + 1.0) / (times as f64 + 2.0)).min(0.0)
        };
        let begins = chance(self.gaps, self.present.max(self.gaps));
        let goes_on = chance(self.missing - self.gaps, self.missing);
        (begins + self.run.saturating_sub(1) as f64 * goes_on).max(MIN_LN_P)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.known_index.to_le_bytes());
        out.extend_from_slice(&self.known_value.to_le_bytes());
        out.extend_from_slice(&self.known_trials.to_le_bytes());
        for count in [self.present, self.gaps, self.missing, self.run] {
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let presence = Presence {
            index: reader.i64()?,
            known_index: reader.i64()?,
            known_value: reader.f64()?,
            known_trials: reader.f64()?,
            present: reader.u64()?,
            gaps: reader.u64()?,
            missing: reader.u64()?,
            run: reader.u64()?,
        };
        if presence.gaps > presence.missing || presence.known_index > presence.index {
            return Err(reader.corrupted("gaps that cannot be"));
        }
        Ok(presence)
    }
}

/// What comes next in an entity's series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival<'a> {
    Point(Point<'a>),
    /// A point that stands in for one that is missing; further columns of it are missing too.
    Filled(Point<'a>),
    /// Nothing, and that counts.
    Missing {
        at: i64,
    },
}

impl Arrival<'_> {
    pub fn at(&self) -> i64 {
        match self {
            Arrival::Point(point) | Arrival::Filled(point) => point.at,
            Arrival::Missing { at } => *at,
        }
    }
}

/// Fills the gaps of series of buckets.
#[derive(Debug, Clone)]
pub struct Gaps {
    bucket: Bucket,
    rule: OnMissing,
}

impl Gaps {
    /// `None` where gaps are ignored.
    pub fn new(bucket: &Bucket, rule: OnMissing) -> Option<Self> {
        (rule != OnMissing::Ignore).then(|| Gaps { bucket: bucket.clone(), rule })
    }

    /// Whether something stands in for a bucket before it is known what comes after the gap.
    pub fn fills_at_once(&self) -> bool {
        self.rule != OnMissing::Interpolate
    }

    /// Hands over what is missing between the last bucket and the `index`-th, then that one's point.
    ///
    /// `of` gives the presence within `state`, which `each` may change otherwise as it likes.
    pub fn arrive<S, E>(
        &self,
        state: &mut S,
        of: fn(&mut S) -> &mut Option<Presence>,
        index: i64,
        point: &Point,
        each: &mut dyn FnMut(&mut S, Arrival<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        of(state).get_or_insert_with(|| Presence::first(index));
        self.fill(state, of, index, Some(point), each)?;
        if let Some(presence) = of(state) {
            presence.saw(index, point);
        }
        each(state, Arrival::Point(*point))
    }

    /// Hands over what is missing up to and without the `end`-th bucket, of an entity that has been
    /// seen before.
    pub fn pass<S, E>(
        &self,
        state: &mut S,
        of: fn(&mut S) -> &mut Option<Presence>,
        end: i64,
        each: &mut dyn FnMut(&mut S, Arrival<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.fill(state, of, end, None, each)
    }

    fn fill<S, E>(
        &self,
        state: &mut S,
        of: fn(&mut S) -> &mut Option<Presence>,
        end: i64,
        next: Option<&Point>,
        each: &mut dyn FnMut(&mut S, Arrival<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let Some(before) = *of(state) else { return Ok(()) };
        let next = next.filter(|point| point.value.is_finite());
        if self.rule == OnMissing::Interpolate && next.is_none() {
            return Ok(());
        }
        let from = before.index.saturating_add(1);
        for index in from..end.min(from.saturating_add(MAX_FILLED)) {
            let at = self.bucket.start(index);
            let stand_in = |value: f64| {
                Arrival::Filled(Point { trials: before.known_trials, ..Point::new(at, value) })
            };
            let arrival = match (self.rule, next) {
                (OnMissing::Zero, _) => Some(stand_in(0.0)),
                (OnMissing::Previous, _) => Some(stand_in(before.known_value)),
                (OnMissing::Interpolate, Some(next)) => {
                    let length = end as f64 - before.known_index as f64;
                    let share = (index as f64 - before.known_index as f64) / length;
                    Some(stand_in(before.known_value * (1.0 - share) + next.value * share))
                }
                (OnMissing::Anomaly, _) => Some(Arrival::Missing { at }),
                _ => None,
            };
            if let Some(presence) = of(state) {
                presence.index = index;
                presence.run = presence.run.saturating_add(1);
            }
            // There is nothing to repeat before the first finite value.
            if let Some(arrival) =
                arrival.filter(|a| !matches!(a, Arrival::Filled(p) if p.value.is_nan()))
            {
                each(state, arrival)?;
            }
        }
        // What lies beyond the most that is filled has passed.
        if let Some(presence) = of(state) {
            presence.index = presence.index.max(end.saturating_sub(1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Calendar;

    const MINUTE: i64 = 60_000_000;

    fn gaps(rule: OnMissing) -> Gaps {
        let bucket = Bucket::new(0, 0, MINUTE, Calendar::default()).unwrap();
        Gaps::new(&bucket, rule).unwrap()
    }

    /// Feeds (minute, value) and then passes to the end; what was handed over, by minute.
    fn handed(
        gaps: &Gaps,
        state: &mut Option<Presence>,
        points: &[(i64, f64)],
        end: i64,
    ) -> Vec<(i64, Option<f64>)> {
        let mut seen = Vec::new();
        let zero = gaps.bucket.index(0);
        let mut each = |_: &mut Option<Presence>, arrival: Arrival| -> Result<()> {
            seen.push((
                arrival.at() / MINUTE,
                match arrival {
                    Arrival::Point(p) | Arrival::Filled(p) => Some(p.value),
                    Arrival::Missing { .. } => None,
                },
            ));
            Ok(())
        };
        for (minute, value) in points {
            let point = Point::new(minute * MINUTE, *value);
            gaps.arrive(state, |s| s, zero + minute, &point, &mut each).unwrap();
        }
        gaps.pass(state, |s| s, zero + end, &mut each).unwrap();
        seen
    }

    #[test]
    fn each_rule_fills_its_own_way() {
        let points = [(0, 10.0), (1, 20.0), (4, 50.0)];
        let some = |v: &[(i64, f64)]| v.iter().map(|(m, v)| (*m, Some(*v))).collect::<Vec<_>>();
        for (rule, expected) in [
            (
                OnMissing::Zero,
                some(&[(0, 10.0), (1, 20.0), (2, 0.0), (3, 0.0), (4, 50.0), (5, 0.0)]),
            ),
            (
                OnMissing::Previous,
                some(&[(0, 10.0), (1, 20.0), (2, 20.0), (3, 20.0), (4, 50.0), (5, 50.0)]),
            ),
            (
                OnMissing::Interpolate,
                some(&[(0, 10.0), (1, 20.0), (2, 30.0), (3, 40.0), (4, 50.0)]),
            ),
            (
                OnMissing::Anomaly,
                vec![
                    (0, Some(10.0)),
                    (1, Some(20.0)),
                    (2, None),
                    (3, None),
                    (4, Some(50.0)),
                    (5, None),
                ],
            ),
        ] {
            assert_eq!(handed(&gaps(rule), &mut None, &points, 6), expected, "{rule:?}");
        }
        let bucket = Bucket::new(0, 0, MINUTE, Calendar::default()).unwrap();
        assert!(Gaps::new(&bucket, OnMissing::Ignore).is_none());
    }

    #[test]
    fn windows_in_pieces_give_what_one_window_gives() {
        let points = [(0, 1.0), (1, 2.0), (7, 14.0), (8, 15.0), (20, 3.0)];
        for rule in OnMissing::ALL.into_iter().filter(|rule| *rule != OnMissing::Ignore) {
            let gaps = gaps(rule);
            let (mut whole, mut pieces) = (None, None);
            let expected = handed(&gaps, &mut whole, &points, 30);
            let mut seen = Vec::new();
            for end in 1..=30 {
                let now: Vec<_> = points.into_iter().filter(|(m, _)| *m == end - 1).collect();
                seen.extend(handed(&gaps, &mut pieces, &now, end));
                // as from one scan to the next
                let mut bytes = Vec::new();
                pieces.unwrap().encode(&mut bytes);
                pieces = Some(Presence::decode(&mut Reader::new(&bytes)).unwrap());
            }
            assert_eq!(seen, expected, "{rule:?}");
            assert_eq!(format!("{whole:?}"), format!("{pieces:?}"), "{rule:?}");
        }
    }

    #[test]
    fn nothing_is_missing_before_the_first_value_or_without_one() {
        for rule in OnMissing::ALL.into_iter().filter(|rule| *rule != OnMissing::Ignore) {
            let gaps = gaps(rule);
            assert!(handed(&gaps, &mut None, &[], 100).is_empty());
            assert_eq!(handed(&gaps, &mut None, &[(50, 1.0)], 51), [(50, Some(1.0))]);
        }
        // A value that is none is there, but cannot be repeated.
        let nan = handed(&gaps(OnMissing::Previous), &mut None, &[(0, f64::NAN)], 3);
        assert_eq!(nan.len(), 1);
        let points = [(0, 5.0), (1, f64::INFINITY)];
        let inf = handed(&gaps(OnMissing::Previous), &mut None, &points, 3);
        assert_eq!(inf.last(), Some(&(2, Some(5.0))));
        let line = handed(&gaps(OnMissing::Interpolate), &mut None, &[(0, -1e308), (2, 1e308)], 3);
        assert_eq!(line[1], (1, Some(0.0)));
    }

    #[test]
    fn of_an_endless_gap_only_the_beginning_is_filled() {
        let gaps = gaps(OnMissing::Zero);
        let mut state = None;
        let seen = handed(&gaps, &mut state, &[(0, 1.0), (40_000_000, 2.0)], 40_000_001);
        assert_eq!(seen.len() as i64, MAX_FILLED + 2);
        assert_eq!(seen[MAX_FILLED as usize], (MAX_FILLED, Some(0.0)));
        assert_eq!(seen.last(), Some(&(40_000_000, Some(2.0))));
        // and each window goes on where the one before ended
        assert_eq!(handed(&gaps, &mut state, &[], 40_000_003).len(), 2);
        let mut wide = Some(Presence::first(i64::MIN));
        handed(&gaps, &mut wide, &[], i64::MAX / MINUTE / 2);
    }

    #[test]
    fn a_gap_is_the_less_probable_the_rarer_and_the_longer_it_is() {
        let gaps = gaps(OnMissing::Anomaly);
        let ln_p = |present: i64, every: i64, run: i64| {
            let mut state = None;
            let points: Vec<_> =
                (0..present).filter(|m| m % every != every - 1).map(|m| (m, 1.0)).collect();
            handed(&gaps, &mut state, &points, present + run);
            let presence = state.unwrap();
            assert_eq!(presence.run(), run as u64);
            presence.ln_p()
        };
        let never = i64::MAX;
        // The first gap after a hundred buckets: 1 / 102.
        assert!((libm::exp(ln_p(100, never, 1)) - 1.0 / 102.0).abs() < 1e-12);
        let mut before = 0.0;
        for run in [1, 2, 3, 10, 100, 5000] {
            let now = ln_p(100, never, run);
            assert!(now < before && now.is_finite(), "{run}");
            before = now;
        }
        assert!(ln_p(10_000, never, 1) < ln_p(100, never, 1));
        assert!(ln_p(101, 3, 1) > ln_p(101, 20, 1));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut bytes = Vec::new();
        Presence::first(7).encode(&mut bytes);
        for end in 0..bytes.len() {
            assert!(Presence::decode(&mut Reader::new(&bytes[..end])).is_err());
        }
        // gaps: 1, missing: 0
        bytes[40] = 1;
        assert!(Presence::decode(&mut Reader::new(&bytes)).is_err());
        for byte in [0x00, 0x7f, 0xff] {
            if let Ok(presence) = Presence::decode(&mut Reader::new(&[byte; 64])) {
                assert!(presence.ln_p().is_finite() && presence.ln_p() <= 0.0);
            }
        }
    }
}
