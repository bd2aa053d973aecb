//! Which segments of the rows behind a change explain it.
//!
//! A segment is a value of a dimension (`country` is `DE`), or a combination of several. What it had in the period
//! that is looked into is compared with what it had in others. The share of a segment in the change of the whole:
//!
//! * Sums and counts add up: the share is the segment's own change over the total one.
//! * Averages and ratios do not. With wₛ the segment's share of the weight (rows, or trials) and mₛ its mean, now and
//!   before, and M the mean of all before, the change of the mean is the sum over segments of
//!   wₛ·(mₛ − mₛ⁰), what changed *within*, and (wₛ − wₛ⁰)·(mₛ⁰ − M⁰), what changed because there is more or less of it,
//!   the *mix*. A segment that was not there before counts by what it is from M⁰.
//!
//! A large segment has a large share in any change. How *surprising* a segment is is Adtributor's measure (Bhagwan et
//! al., Adtributor: Revenue Debugging in Advertising Systems, NSDI 2014, §3): its term of the Jensen-Shannon divergence
//! between the shares before and now, 0 where the share is the same. Of an average, that of the weighted sum and that of the
//! weight are added. Within a dimension the most surprising segments are taken that have a share of at least a tenth each,
//! until they explain two thirds; dimensions are ranked by the surprise of what explains them.

/// The least share that explains anything, and how much of the whole is enough.
const LEAST_SHARE: f64 = 0.1;
const ENOUGH: f64 = 0.67;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Of [`Amount::sum`].
    Total,
    /// Of `sum / weight`.
    Mean,
}

/// What there is of a segment in a period.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Amount {
    /// Of the values, each times its weight.
    pub sum: f64,
    /// Rows that have a value; of ratios, trials.
    pub weight: f64,
}

impl Amount {
    fn of(self, measure: Measure) -> f64 {
        match measure {
            Measure::Total => self.sum,
            Measure::Mean => self.sum / self.weight,
        }
    }

    fn minus(self, other: Amount) -> Amount {
        Amount { sum: self.sum - other.sum, weight: self.weight - other.weight }
    }
}

/// Now, and before: of several periods, what one of them has on average.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Change {
    pub now: Amount,
    pub before: Amount,
}

/// A segment by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// Its place in the list that was given; `None`: all that are not in it.
    pub place: Option<usize>,
    /// NaN where there is none: a mean of nothing.
    pub actual: f64,
    pub expected: f64,
    /// Its share in the change of the whole; NaN where that has not changed.
    pub share: f64,
    /// Its part in the change of the whole, in the metric's unit; of a mean, the two parts of it.
    pub change: f64,
    pub within: f64,
    pub mix: f64,
    /// NaN where there are no shares: of sums on both sides of zero.
    pub surprise: f64,
    /// It is one of those that explain the change.
    pub explains: bool,
}

/// The segments of a dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension {
    /// Those that explain the change first, then by their part in it; what is left over at the end.
    pub segments: Vec<Segment>,
    /// How much of the change those explain that do, from 0 to 1 or more, and how surprising they are.
    pub explained: f64,
    pub surprise: f64,
}

/// Explains a change of `total` by `segments`, of which there may be more than are given.
pub fn explain(measure: Measure, total: Change, segments: &[Change]) -> Dimension {
    let change = difference(total.now.of(measure), total.before.of(measure));
    let mut all: Vec<Segment> = segments
        .iter()
        .enumerate()
        .map(|(place, segment)| explained(measure, &total, segment, Some(place), change))
        .collect();
    let others = segments.iter().fold(total, |rest, segment| Change {
        now: rest.now.minus(segment.now),
        before: rest.before.minus(segment.before),
    });
    // Beside rounding.
    let tiny = |x: f64, of: f64| x.abs() <= 1e-9 * of.abs();
    let nothing = tiny(others.now.weight, total.now.weight.max(total.before.weight))
        && tiny(others.before.weight, total.now.weight.max(total.before.weight));

    all.sort_by(|a, b| b.surprise.max(0.0).total_cmp(&a.surprise.max(0.0)));
    let (mut sum, mut surprise) = (0.0, 0.0);
    for segment in &mut all {
        if sum >= ENOUGH {
            break;
        }
        if segment.share >= LEAST_SHARE {
            segment.explains = true;
            sum += segment.share;
            surprise += segment.surprise.max(0.0);
        }
    }
    let part = |s: &Segment| s.change.abs().max(0.0);
    all.sort_by(|a, b| b.explains.cmp(&a.explains).then(part(b).total_cmp(&part(a))));
    if !nothing {
        all.push(explained(measure, &total, &others, None, change));
    }
    Dimension { segments: all, explained: sum, surprise }
}

/// `now − before`, each 0 where there is nothing.
fn difference(now: f64, before: f64) -> f64 {
    let known = |x: f64| if x.is_nan() { 0.0 } else { x };
    known(now) - known(before)
}

fn explained(
    measure: Measure,
    total: &Change,
    segment: &Change,
    place: Option<usize>,
    total_change: f64,
) -> Segment {
    let (actual, expected) = (segment.now.of(measure), segment.before.of(measure));
    let sums = surprise(
        share(segment.before.sum, total.before.sum),
        share(segment.now.sum, total.now.sum),
    );
    let (within, mix, surprise) = match measure {
        Measure::Total => (actual - expected, 0.0, sums),
        Measure::Mean => {
            let before = share(segment.before.weight, total.before.weight);
            let now = share(segment.now.weight, total.now.weight);
            let all_before = total.before.of(measure);
            let all_before = if all_before.is_nan() { 0.0 } else { all_before };
            let mean_before = if segment.before.weight > 0.0 { expected } else { all_before };
            let within = if segment.now.weight > 0.0 { now * (actual - mean_before) } else { 0.0 };
            (within, (now - before) * (mean_before - all_before), sums + surprise(before, now))
        }
    };
    let change = within + mix;
    Segment {
        place,
        actual,
        expected,
        share: if total_change == 0.0 { f64::NAN } else { change / total_change },
        change,
        within,
        mix,
        surprise,
        explains: false,
    }
}

/// 0 of nothing.
fn share(part: f64, of: f64) -> f64 {
    if of == 0.0 { 0.0 } else { part / of }
}

/// The term of the Jensen-Shannon divergence, in nats; NaN where p or q is no share.
fn surprise(p: f64, q: f64) -> f64 {
    if !(p >= 0.0 && q >= 0.0) {
        return f64::NAN;
    }
    let term = |x: f64| if x > 0.0 { x * libm::log(2.0 * x / (p + q)) } else { 0.0 };
    // Not below 0 but by rounding.
    (0.5 * (term(p) + term(q))).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(sum: f64, weight: f64) -> Amount {
        Amount { sum, weight }
    }

    fn totals(of: &[(f64, f64)]) -> Vec<Change> {
        of.iter()
            .map(|(before, now)| Change {
                now: amount(*now, *now),
                before: amount(*before, *before),
            })
            .collect()
    }

    fn total_of(segments: &[Change]) -> Change {
        segments.iter().fold(Change::default(), |t, s| Change {
            now: amount(t.now.sum + s.now.sum, t.now.weight + s.now.weight),
            before: amount(t.before.sum + s.before.sum, t.before.weight + s.before.weight),
        })
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    /// The example of the paper, §3: revenue of 100 is expected and 50 is there.
    #[test]
    fn the_papers_example_is_explained_by_its_data_center() {
        let centers = totals(&[(94.0, 47.0), (6.0, 3.0)]);
        let advertisers = totals(&[(50.0, 24.0), (20.0, 21.0), (20.0, 4.0), (10.0, 1.0)]);
        let total = total_of(&centers);
        assert_eq!(total, total_of(&advertisers));
        let by_center = explain(Measure::Total, total, &centers);
        let x = by_center.segments[0];
        // 47 of 50, and its share was and is 0.94: no surprise at all.
        assert!(close(x.share, 0.94) && close(x.surprise, 0.0) && x.explains);
        let by_advertiser = explain(Measure::Total, total, &advertisers);
        let a3 = by_advertiser.segments.iter().find(|s| s.place == Some(2)).unwrap();
        // 16 of 50; p = 0.2, q = 0.08: (0.2·ln(0.4 / 0.28) + 0.08·ln(0.16 / 0.28)) / 2
        assert!(close(a3.share, 0.32) && close(a3.surprise, 0.013_282_8), "{a3:?}");
        let a2 = by_advertiser.segments.iter().find(|s| s.place == Some(1)).unwrap();
        // The other way: p = 0.2, q = 0.42
        assert!(close(a2.share, -0.02) && !a2.explains);
        assert!(by_advertiser.surprise > by_center.surprise);
    }

    #[test]
    fn the_parts_of_a_total_add_up_with_what_is_not_given() {
        let segments = totals(&[(10.0, 40.0), (20.0, 21.0), (5.0, 0.0), (0.0, 7.0)]);
        let total = total_of(&segments);
        let found = explain(Measure::Total, total, &segments[..2]);
        assert_eq!(
            found.segments.iter().map(|s| s.place).collect::<Vec<_>>(),
            [Some(0), Some(1), None]
        );
        assert!(close(found.segments.iter().map(|s| s.share).sum(), 1.0));
        assert!(close(found.segments[0].share, 30.0 / 33.0) && found.segments[0].explains);
        assert!(close(found.explained, 30.0 / 33.0));
        let rest = found.segments[2];
        assert_eq!((rest.actual, rest.expected), (7.0, 5.0));
        // All given: nothing is left over.
        assert_eq!(explain(Measure::Total, total, &segments).segments.len(), 4);
    }

    /// 100 calls at 10 ms and 100 at 30 ms; then 50 at 10 ms and 150 at 30 ms, and those take 40 ms.
    #[test]
    fn a_mean_changes_within_and_by_the_mix() {
        let fast = Change { before: amount(1000.0, 100.0), now: amount(500.0, 50.0) };
        let slow = Change { before: amount(3000.0, 100.0), now: amount(6000.0, 150.0) };
        let total = total_of(&[fast, slow]);
        // from 20 to 32.5
        let found = explain(Measure::Mean, total, &[fast, slow]);
        let of = |place| *found.segments.iter().find(|s| s.place == Some(place)).unwrap();
        // fast: within 0.25·(10 − 10), mix (0.25 − 0.5)·(10 − 20)
        assert!(close(of(0).within, 0.0) && close(of(0).mix, 2.5));
        // slow: within 0.75·(40 − 30), mix (0.75 − 0.5)·(30 − 20)
        assert!(close(of(1).within, 7.5) && close(of(1).mix, 2.5));
        assert!(close(of(0).change + of(1).change, 12.5));
        assert!(close(of(1).share, 0.8) && of(1).explains);
        assert_eq!((of(1).actual, of(1).expected), (40.0, 30.0));
        assert_eq!(found.segments.len(), 2);
    }

    #[test]
    fn segments_that_come_and_go_keep_the_sum_of_a_mean() {
        let gone = Change { before: amount(90.0, 3.0), now: amount(0.0, 0.0) };
        let new = Change { before: amount(0.0, 0.0), now: amount(100.0, 2.0) };
        let stays = Change { before: amount(70.0, 7.0), now: amount(80.0, 8.0) };
        let all = [gone, new, stays];
        let total = total_of(&all);
        let found = explain(Measure::Mean, total, &all);
        // from 16 to 18
        assert!(close(found.segments.iter().map(|s| s.change).sum(), 2.0));
        let new = found.segments.iter().find(|s| s.place == Some(1)).unwrap();
        // 0.2·(50 − 16)
        assert!(close(new.within, 6.8) && new.mix == 0.0 && new.expected.is_nan());
        assert!(new.explains);
    }

    #[test]
    fn degenerate_changes_have_no_shares_and_no_panic() {
        assert!(explain(Measure::Total, Change::default(), &[]).segments.is_empty());
        assert!(explain(Measure::Mean, Change::default(), &[]).segments.is_empty());
        let same = totals(&[(5.0, 5.0)]);
        let found = explain(Measure::Total, total_of(&same), &same);
        assert!(found.segments[0].share.is_nan() && !found.segments[0].explains);
        // Sums on both sides of zero have no shares, but parts.
        let signed = [
            Change { before: amount(-10.0, 1.0), now: amount(50.0, 1.0) },
            Change { before: amount(20.0, 1.0), now: amount(20.0, 1.0) },
        ];
        let found = explain(Measure::Total, total_of(&signed), &signed);
        assert!(found.segments[0].explains && close(found.segments[0].share, 1.0));
        assert!(found.segments[0].surprise.is_nan());
        for x in [f64::NAN, f64::INFINITY, 1e308, -1e308] {
            let odd = [Change { before: amount(x, 1.0), now: amount(1.0, x) }];
            for measure in [Measure::Total, Measure::Mean] {
                let _ = explain(measure, total_of(&odd), &odd);
                let _ = explain(measure, Change::default(), &odd);
            }
        }
        // Everything is new.
        let fresh = totals(&[(0.0, 5.0), (0.0, 15.0)]);
        let found = explain(Measure::Total, total_of(&fresh), &fresh);
        assert!(close(found.segments[0].share, 0.75) && close(found.segments[1].share, 0.25));
    }
}
