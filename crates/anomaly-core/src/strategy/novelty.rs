//! `statistical_novelty`: values and courses of the day that were never seen before.
//!
//! A value is novel when it lies beyond everything seen so far in its context: in all history, or at
//! the same time of day; as it is, or averaged with the points before it (a course that is wrong
//! without one value being so). Each such *view* asks how far, and its own past says how improbable
//! that is: the excesses beyond a range are rare and have a Pareto tail. The surprise S of a point is
//!
//! ```text
//!   S = −ln p(residual of the baseline) + Σ −ln p(excess in view i)        (Fisher 1932)
//! ```
//!
//! with equal weights, over the views that the value exceeds on its side of the expected value. The
//! residual itself is such a view, too: how much less probable is it than any before? So S never falls
//! as a value moves away from what is expected.
//!
//! Under a trend every new height would be one never seen. So the ranges move along with it, as far as
//! it is beyond doubt ([`Drift`]).
//!
//! **Habituation.** What was just told is news no more: S counts in full if it exceeds the memory of
//! earlier surprises, which fades over [`MEMORY`] points, by a nat; below, it only ranks among the
//! unremarkable. An incident is told at once and again when it gets worse, not with every point.
//! Neither is what goes on told again where it meets another range: while an event lasts that moved
//! the values by so much, S of a value moved back by that must be news, too. So a new level is one event
//! although the ranges of every hour have still to learn it, and a spike from it is another.
//!
//! The surprise itself is calibrated once more by its own past, so that p is what it says however the
//! parts depend on each other: shares where many were seen, beyond that an exponential tail. What was
//! never seen gets rarer the more was seen (the chance that the next of n points is a record is 2/n), so
//! that older surprises count for less.
//!
//! The range is what the best detectors of the Numenta Anomaly Benchmark learn in other words:
//! categories that no earlier input resonates with (ARTime), contexts never met (CAD OSE); both also
//! rest after an alarm.

use std::cell::Cell;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite, refresh_due};
use super::{
    Context, EntityModel, Expectation, Kind, Rule, Strategy, check_keys, integer_param, json_number,
};
use crate::calendar::Calendar;
use crate::codec::{self, Reader};
use crate::distribution::MIN_LN_P;
use crate::point::Point;
use crate::verdict::{Direction, Tail, Verdict};
use crate::{Error, Result};

/// Bins of a quarter of an hour.
const BINS: usize = 96;
const BIN_SECONDS: u32 = 900;
/// Over how many points a surprise is remembered.
pub(super) const MEMORY: u64 = 400;
/// How much more surprising than what is remembered a point must be to be news: e times less probable.
const NEWS: f64 = 1.0;
/// An event that is told moves the values if its −ln p is so many times what the points can vouch for.
const BEYOND_DOUBT: f64 = 1.5;
/// Longest mean of a view; and what ends an event, points in a row that have nothing to do with it.
const LONGEST: usize = 12;
/// So many times the typical time between points is a gap, after which a course starts anew.
const GAP: f64 = 3.0;
/// Over how many points that time is averaged.
const INTERVALS: f64 = 64.0;
/// S of a count below 0 and of a ratio outside 0 to 1.
const IMPOSSIBLE: f64 = 1e4;
/// What the −ln p of a residual counts for if that is news by itself.
const FIRM: f64 = 4.0;
/// Of counts and ratios, what lies within so many standard deviations of chance is no news.
const CHANCE: f64 = 2.0;
/// A range of so few points says nothing yet.
const MIN_CONTEXT: u32 = 20;
/// Relative uncertainty of a bound.
const TOLERANCE: f64 = 1e-8;
/// Relative difference that is rounding noise of a mean.
const ROUNDING: f64 = 1e-12;

/// What is compared with its earlier range.
#[derive(Debug, Clone, Copy, PartialEq)]
struct View {
    /// The mean of so many points, the tested one last.
    points: usize,
    /// Bins on either side of the point's own time of day; `None`: all history.
    reach: Option<usize>,
}

const VIEWS: [View; 5] = [
    View { points: 1, reach: Some(4) },
    View { points: 1, reach: Some(16) },
    View { points: 1, reach: None },
    View { points: 4, reach: Some(8) },
    View { points: 12, reach: None },
];
/// Which means have a table by time of day.
const TABLED: [usize; 2] = [1, 4];
/// Which means have a range over all history.
const RANGED: [usize; 2] = [1, 12];

/// Lowest and highest value seen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    const EMPTY: Range = Range { low: f64::INFINITY, high: f64::NEG_INFINITY };

    fn add(&mut self, v: f64) {
        self.low = self.low.min(v);
        self.high = self.high.max(v);
    }

    fn join(&mut self, other: &Range) {
        // no NaN among them, and f64::min costs three times as much
        self.low = if other.low < self.low { other.low } else { self.low };
        self.high = if other.high > self.high { other.high } else { self.high };
    }

    fn is_empty(&self) -> bool {
        self.low > self.high
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.low.to_le_bytes());
        out.extend_from_slice(&self.high.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let range = Range { low: reader.f64()?, high: reader.f64()? };
        let sound = range == Range::EMPTY
            || (range.low.is_finite() && range.high.is_finite() && range.low <= range.high);
        if sound { Ok(range) } else { Err(reader.corrupted("range out of order")) }
    }
}

/// Where a view's range ends, in terms of the tested value itself.
#[derive(Debug, Clone, Copy)]
struct Edge {
    low: f64,
    high: f64,
    /// Excess of the mean per excess of the value.
    slope: f64,
}

impl Edge {
    const NONE: Edge = Edge { low: f64::NEG_INFINITY, high: f64::INFINITY, slope: 1.0 };

    /// Where it is after a trend; none stays none.
    fn moved(mut self, by: f64) -> Edge {
        if self.high < f64::INFINITY {
            (self.low, self.high) = (finite(self.low + by), finite(self.high + by));
        }
        self
    }

    fn above(&self, x: f64) -> f64 {
        self.excess(x - self.high, self.high)
    }

    fn below(&self, x: f64) -> f64 {
        self.excess(self.low - x, self.low)
    }

    fn excess(&self, d: f64, edge: f64) -> f64 {
        // written so that NaN is no excess
        if d > ROUNDING * edge.abs() { (d * self.slope).min(f64::MAX) } else { 0.0 }
    }
}

/// The ranges seen so far, by view.
struct Ranges {
    by_time: [[Range; BINS]; TABLED.len()],
    counts: [u32; BINS],
    overall: [Range; RANGED.len()],
    /// The latest values, the latest last.
    latest: [f64; LONGEST],
    count: u64,
    /// Points in a row without a gap, the latest last; [`LONGEST`] at most.
    run: u8,
    latest_at: i64,
    /// Typical time between points, µs.
    interval: f64,
}

impl Ranges {
    fn new() -> Self {
        Ranges {
            by_time: [[Range::EMPTY; BINS]; TABLED.len()],
            counts: [0; BINS],
            overall: [Range::EMPTY; RANGED.len()],
            latest: [0.0; LONGEST],
            count: 0,
            run: 0,
            latest_at: 0,
            interval: 0.0,
        }
    }

    fn elapsed(&self, at: i64) -> f64 {
        (i128::from(at) - i128::from(self.latest_at)) as f64
    }

    /// How many of the latest points belong to the course that a point at this time goes on with.
    fn course(&self, at: i64) -> usize {
        let elapsed = self.elapsed(at);
        let goes_on = elapsed >= 0.0 && elapsed <= GAP * self.interval;
        if goes_on { usize::from(self.run) } else { 0 }
    }

    /// The share of the earlier points in the mean of `points`.
    fn rest(&self, points: usize) -> f64 {
        let n = points as f64;
        self.latest[LONGEST + 1 - points..].iter().map(|v| v / n).sum()
    }

    fn edges(&self, at: i64, bin: usize) -> [Edge; VIEWS.len()] {
        let course = self.course(at);
        VIEWS.map(|view| {
            if view.points > course + 1 {
                return Edge::NONE;
            }
            let range = match view.reach {
                None => {
                    let which = RANGED.iter().position(|p| *p == view.points).unwrap_or(0);
                    if self.count < u64::from(MIN_CONTEXT) {
                        return Edge::NONE;
                    }
                    self.overall[which]
                }
                Some(reach) => {
                    let which = TABLED.iter().position(|p| *p == view.points).unwrap_or(0);
                    let (mut range, mut count) = (Range::EMPTY, 0u32);
                    // from the bins before to those after, which may be across midnight
                    let (from, to) = (bin + BINS - reach, bin + BINS + reach);
                    let parts = match (from >= BINS, to >= 2 * BINS) {
                        (true, true) => [from - BINS..BINS, 0..to - 2 * BINS + 1],
                        (true, false) => [from - BINS..to - BINS + 1, 0..0],
                        (false, _) => [from..BINS, 0..to - BINS + 1],
                    };
                    for part in parts {
                        for other in &self.by_time[which][part.clone()] {
                            range.join(other);
                        }
                        for n in &self.counts[part] {
                            count = count.saturating_add(*n);
                        }
                    }
                    if count < MIN_CONTEXT {
                        return Edge::NONE;
                    }
                    range
                }
            };
            if range.is_empty() {
                return Edge::NONE;
            }
            let n = view.points as f64;
            let rest = self.rest(view.points);
            Edge {
                low: finite(n * (range.low - rest)),
                high: finite(n * (range.high - rest)),
                slope: 1.0 / n,
            }
        })
    }

    fn learn(&mut self, at: i64, x: f64, bin: usize) {
        let course = self.course(at);
        for (which, points) in TABLED.into_iter().enumerate() {
            if points <= course + 1 {
                let mean = self.rest(points) + x / points as f64;
                self.by_time[which][bin].add(finite(mean));
            }
        }
        for (which, points) in RANGED.into_iter().enumerate() {
            if points <= course + 1 {
                let mean = self.rest(points) + x / points as f64;
                self.overall[which].add(finite(mean));
            }
        }
        self.counts[bin] = self.counts[bin].saturating_add(1);
        self.latest.rotate_left(1);
        self.latest[LONGEST - 1] = x;
        self.run = (course + 1).min(LONGEST) as u8;
        if self.count > 0 {
            let elapsed = self.elapsed(at).max(0.0);
            if self.interval == 0.0 {
                self.interval = elapsed;
            } else {
                // a gap counts as the longest time that is none
                let n = (self.count as f64).min(INTERVALS);
                self.interval += (elapsed.min(GAP * self.interval) - self.interval) / n;
            }
        }
        self.latest_at = at;
        self.count = self.count.saturating_add(1);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        for v in self.latest {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.push(self.run);
        out.extend_from_slice(&self.latest_at.to_le_bytes());
        out.extend_from_slice(&self.interval.to_le_bytes());
        for range in self.overall {
            range.encode(out);
        }
        for (bin, count) in self.counts.into_iter().enumerate() {
            codec::put_varint(out, count);
            if count > 0 {
                for table in &self.by_time {
                    table[bin].encode(out);
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut ranges = Ranges::new();
        ranges.count = reader.u64()?;
        for v in &mut ranges.latest {
            *v = reader.finite("latest value")?;
        }
        ranges.run = reader.u8()?;
        ranges.latest_at = reader.i64()?;
        ranges.interval = reader.non_negative("interval")?;
        if usize::from(ranges.run) > LONGEST || u64::from(ranges.run) > ranges.count {
            return Err(reader.corrupted("counts contradict each other"));
        }
        for range in &mut ranges.overall {
            *range = Range::decode(reader)?;
        }
        for bin in 0..BINS {
            ranges.counts[bin] = reader.varint()?;
            if ranges.counts[bin] > 0 {
                for table in &mut ranges.by_time {
                    table[bin] = Range::decode(reader)?;
                }
            }
        }
        Ok(ranges)
    }
}

/// So many blocks become half as many.
const BLOCKS: usize = 16;
/// A trend counts as far as its mean step from block to block is more than so many standard errors.
const DOUBT: f64 = 4.0;
const DAY: f64 = 86_400e6;

/// How far a trend has led, and the ranges with it.
///
/// Means of blocks of whole days, in which the time of day does not show, are compared one after the
/// other: a trend is a mean step that stands out from how much the steps differ. So a random walk, whose
/// steps are as much up as down, has none. The largest and the smallest step are trimmed (Yuen 1974): one
/// new level, or one incident, neither makes a trend nor hides it. What is within the doubt about the mean
/// step is left out, so that ranges never run ahead of the values, and nothing jumps when a trend becomes
/// certain.
#[derive(Clone, PartialEq, Debug)]
struct Drift {
    /// Mean value and mean time, the latest last.
    blocks: Vec<(f64, f64)>,
    /// Days of a block.
    days: u32,
    /// The block that goes on: its first time, its points, their mean, and their mean time after the
    /// first.
    since: i64,
    count: u32,
    mean: f64,
    time: f64,
    /// By how much the ranges move in a µs; follows from the blocks.
    speed: f64,
    /// How far they had moved at the latest time.
    moved: f64,
    latest_at: i64,
}

impl Drift {
    fn new() -> Self {
        Drift {
            blocks: Vec::new(),
            days: 1,
            since: 0,
            count: 0,
            mean: 0.0,
            time: 0.0,
            speed: 0.0,
            moved: 0.0,
            latest_at: 0,
        }
    }

    fn width(&self) -> f64 {
        f64::from(self.days) * DAY
    }

    /// How far the ranges have moved at a time. No gap moves them by more than a block does.
    fn at(&self, at: i64) -> f64 {
        if self.speed == 0.0 {
            return self.moved;
        }
        let elapsed = (i128::from(at) - i128::from(self.latest_at)) as f64;
        finite(self.moved + self.speed * elapsed.clamp(0.0, self.width()))
    }

    fn learn(&mut self, at: i64, x: f64) {
        if self.count == 0 {
            (self.since, self.latest_at) = (at, at);
        }
        self.moved = self.at(at);
        self.latest_at = self.latest_at.max(at);
        let mut elapsed = (i128::from(at) - i128::from(self.since)) as f64;
        if elapsed >= self.width() {
            self.close();
            (self.since, self.count, self.mean, self.time) = (at, 0, 0.0, 0.0);
            elapsed = 0.0;
        }
        self.count = self.count.saturating_add(1);
        let n = f64::from(self.count);
        self.mean = finite(self.mean + (x / n - self.mean / n));
        self.time += (elapsed.max(0.0) - self.time) / n;
    }

    /// Ends the block that goes on.
    fn close(&mut self) {
        self.blocks.push((self.mean, self.since as f64 + self.time));
        if self.blocks.len() == BLOCKS {
            let middle = |a: f64, b: f64| 0.5 * a + 0.5 * b;
            let pairs = self.blocks.chunks_exact(2);
            self.blocks = pairs.map(|b| (middle(b[0].0, b[1].0), middle(b[0].1, b[1].1))).collect();
            self.days = self.days.saturating_mul(2);
        }
        self.speed = self.trend();
    }

    /// The part of the trend that is beyond doubt, in a µs; 0 while there is none, and when it has ended.
    fn trend(&self) -> f64 {
        if self.blocks.len() < BLOCKS / 2 {
            return 0.0;
        }
        let step = |b: &[(f64, f64)]| {
            let elapsed = (b[1].1 - b[0].1).max(1.0);
            b[1].0 / elapsed - b[0].0 / elapsed
        };
        let mut steps: Vec<f64> = self.blocks.windows(2).map(step).collect();
        let last = steps.len() - 1;
        let latest = 0.5 * steps[last - 1] + 0.5 * steps[last];
        steps.sort_unstable_by(f64::total_cmp);
        (steps[0], steps[last]) = (steps[1], steps[last - 1]);
        let mean_of = |steps: &[f64]| steps.iter().sum::<f64>() / steps.len() as f64;
        let (mean, of_all) = (mean_of(&steps[1..last]), mean_of(&steps));
        let squares: f64 = steps.iter().map(|s| (s - of_all) * (s - of_all)).sum();
        let n = steps.len() as f64;
        let error = libm::sqrt(squares / (n - 1.0) / n) * n / (n - 2.0);
        let goes_on = latest * mean.signum() >= 0.5 * mean.abs();
        let certain = (mean.abs() - DOUBT * error).max(0.0);
        if goes_on && certain > 0.0 { certain.copysign(mean) } else { 0.0 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.blocks.len() as u8);
        for (mean, time) in &self.blocks {
            out.extend_from_slice(&mean.to_le_bytes());
            out.extend_from_slice(&time.to_le_bytes());
        }
        codec::put_varint(out, self.days);
        codec::put_varint(out, self.count);
        out.extend_from_slice(&self.since.to_le_bytes());
        for v in [self.mean, self.time, self.moved] {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out.extend_from_slice(&self.latest_at.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut drift = Drift::new();
        let blocks = usize::from(reader.u8()?);
        if blocks >= BLOCKS {
            return Err(reader.corrupted("too many blocks"));
        }
        for _ in 0..blocks {
            drift
                .blocks
                .push((reader.finite("mean of a block")?, reader.finite("time of a block")?));
        }
        drift.days = reader.varint()?;
        drift.count = reader.varint()?;
        drift.since = reader.i64()?;
        drift.mean = reader.finite("mean of a block")?;
        drift.time = reader.non_negative("time of a block")?;
        drift.moved = reader.finite("drift")?;
        drift.latest_at = reader.i64()?;
        if drift.days == 0 || (drift.count == 0 && blocks > 0) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        drift.speed = drift.trend();
        Ok(drift)
    }
}

/// Cells of a histogram of excesses, a quarter of an octave each, below the largest one seen.
const CELLS: usize = 128;
/// The Pareto tail is fitted to this share of all points.
const TAIL_SHARE: f64 = 0.05;
/// The tail starts as if one excess of index 2 had been seen.
const TAIL_PRIOR: (f64, f64) = (1.0, 0.5);

/// Two bits of the mantissa and the exponent: a rising function of a positive number.
fn key(d: f64) -> u32 {
    (d.to_bits() >> 50) as u32
}

fn of_key(key: u32) -> f64 {
    f64::from_bits(u64::from(key) << 50)
}

/// How improbable an excess is, by the excesses so far (most of which are 0).
#[derive(Clone, PartialEq, Debug)]
struct ExcessTail {
    cells: [u32; CELLS],
    /// Excesses from each cell on; follows from `cells`.
    from: [u32; CELLS + 1],
    /// Key of the last cell.
    top: u32,
    /// Points, those without excess included.
    count: u64,
    refreshed: u64,
    /// Where the Pareto tail begins, 0 for nowhere, and the mean of ln(d/threshold) beyond.
    threshold: f64,
    index: f64,
    /// ln threshold, and ln(1 + excesses beyond it); follow from the rest.
    ln_threshold: f64,
    ln_beyond: f64,
}

impl ExcessTail {
    fn new() -> Self {
        ExcessTail {
            cells: [0; CELLS],
            from: [0; CELLS + 1],
            top: 0,
            count: 0,
            refreshed: 0,
            threshold: 0.0,
            index: TAIL_PRIOR.1,
            ln_threshold: f64::NEG_INFINITY,
            ln_beyond: 0.0,
        }
    }

    fn learn(&mut self, d: f64) {
        if d > 0.0 {
            let key = key(d);
            if key > self.top {
                let shift = ((key - self.top) as usize).min(CELLS);
                // what falls out below is counted in the lowest cell
                let lost: u32 = self.cells[..shift].iter().fold(0, |s, c| s.saturating_add(*c));
                self.cells.copy_within(shift.., 0);
                self.cells[CELLS - shift..].fill(0);
                self.cells[0] = self.cells[0].saturating_add(lost);
                self.top = key;
            }
            let cell = (CELLS as u32 - 1).saturating_sub(self.top - key) as usize;
            self.cells[cell] = self.cells[cell].saturating_add(1);
            self.sum();
        }
        self.count = self.count.saturating_add(1);
        if refresh_due(self.count, self.refreshed) {
            self.refreshed = self.count;
            self.fit();
        }
    }

    fn sum(&mut self) {
        // Most cells are empty, and those below the first one that is not are many.
        let first = self.cells.iter().position(|c| *c > 0).unwrap_or(CELLS);
        for cell in (first..CELLS).rev() {
            self.from[cell] = self.from[cell + 1].saturating_add(self.cells[cell]);
        }
        let all = self.from[first];
        self.from[..first].fill(all);
        self.ln_threshold = libm::log(self.threshold);
        self.ln_beyond = libm::log(self.beyond(self.threshold) + 1.0);
    }

    /// Excesses so far that were larger than d, within a cell in proportion.
    fn beyond(&self, d: f64) -> f64 {
        let key = key(d);
        if key > self.top {
            return 0.0;
        }
        let cell = (CELLS as u32 - 1).saturating_sub(self.top - key) as usize;
        let (from, to) = (self.lower_edge(cell), self.lower_edge(cell + 1));
        let part = if to > from { ((to - d) / (to - from)).clamp(0.0, 1.0) } else { 0.0 };
        f64::from(self.from[cell + 1]) + part * f64::from(self.cells[cell])
    }

    fn lower_edge(&self, cell: usize) -> f64 {
        of_key((self.top + cell as u32).saturating_sub(CELLS as u32 - 1))
    }

    fn fit(&mut self) {
        if self.top == 0 {
            // no excess so far
            return;
        }
        let wanted = (TAIL_SHARE * self.count as f64).max(5.0);
        let (mut k, mut lowest) = (0.0, None);
        for cell in (0..CELLS).rev() {
            if self.cells[cell] > 0 {
                k += f64::from(self.cells[cell]);
                lowest = Some(cell);
            }
            if k >= wanted {
                break;
            }
        }
        let Some(lowest) = lowest else {
            self.threshold = 0.0;
            self.sum();
            return;
        };
        self.threshold = self.lower_edge(lowest).max(f64::MIN_POSITIVE);
        let mut sum = TAIL_PRIOR.0 * TAIL_PRIOR.1;
        for cell in lowest..CELLS {
            if self.cells[cell] > 0 {
                let (from, to) = (self.lower_edge(cell), self.lower_edge(cell + 1));
                let middle = (0.5 * from + 0.5 * to.min(f64::MAX)).max(f64::MIN_POSITIVE);
                sum +=
                    f64::from(self.cells[cell]) * (libm::log(middle) - libm::log(self.threshold));
            }
        }
        self.index = (sum / (k + TAIL_PRIOR.0)).clamp(1e-3, 1e3);
        self.sum();
    }

    /// ln of the points so far and one more.
    fn ln_points(&self) -> f64 {
        libm::log(self.count as f64 + 1.0)
    }

    /// −ln p of an excess, given [`ExcessTail::ln_points`]; 0 for none, never falling with it.
    fn surprise(&self, d: f64, ln_points: f64) -> f64 {
        if d <= 0.0 || self.count < 10 {
            return 0.0;
        }
        if self.threshold == 0.0 {
            return ln_points;
        }
        let at_threshold = ln_points - self.ln_beyond;
        if d < self.threshold {
            return (ln_points - libm::log(self.beyond(d) + 1.0)).clamp(0.0, at_threshold.max(0.0));
        }
        (libm::log(d) - self.ln_threshold) / self.index + at_threshold.max(0.0)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        out.extend_from_slice(&self.top.to_le_bytes());
        out.extend_from_slice(&self.threshold.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        // large excesses are rare, and small ones rarer still
        let empty = self.cells.iter().take_while(|c| **c == 0).count();
        out.push(empty as u8);
        self.cells[empty..].iter().for_each(|c| codec::put_varint(out, *c));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut tail = ExcessTail::new();
        tail.count = reader.u64()?;
        tail.refreshed = reader.u64()?;
        tail.top = reader.u32()?;
        tail.threshold = reader.non_negative("threshold")?;
        tail.index = reader.non_negative("tail index")?;
        let empty = usize::from(reader.u8()?);
        let cells = tail.cells.get_mut(empty..);
        let cells = cells.ok_or_else(|| reader.corrupted("excesses have too many cells"))?;
        for c in cells {
            *c = reader.varint()?;
        }
        let sum: u64 = tail.cells.iter().map(|c| u64::from(*c)).sum();
        if sum > tail.count
            || tail.refreshed > tail.count
            || tail.top > key(f64::MAX)
            || !(1e-3..=1e3).contains(&tail.index)
        {
            return Err(reader.corrupted("excesses out of range"));
        }
        tail.sum();
        Ok(tail)
    }
}

/// Cells of the histogram of surprises: 64 a nat up to 2, then 4 a nat.
const FINE: usize = 128;
const SURPRISES: usize = 632;
/// A surprise is counted as so many units: counts that fade need fractions.
const UNITS: u32 = 256;
/// At so many surprises every count loses a quarter.
const SURPRISE_MEMORY: u32 = 8192;
/// The calibration starts as if so many surprises of an exponential distribution had been seen.
const SURPRISE_PRIOR: f64 = 10.0;
/// With every doubling of the points counts lose a sixth: what was never seen gets rarer the more was
/// seen, and its chance is that of now.
const AGEING: u32 = 6;
/// Fewer points than this have no age.
const OLD: u64 = 32;
/// The tail is fitted to this share of the surprises.
const SURPRISE_TAIL: f64 = 0.002;
/// Its mean: the views depend on each other, so that S rises by so many nats for one of −ln p.
const SLOPE: f64 = 5.5;
/// It starts as if so many excesses of that mean had been seen.
const SLOPE_PRIOR: f64 = 20.0;
/// One excess counts as so many nats at most: incidents are no noise.
const LARGEST_EXCESS: f64 = 3.0 * SLOPE;

/// P of the prior at the edges.
static PRIOR_SHARES: LazyLock<[f64; SURPRISES]> =
    LazyLock::new(|| std::array::from_fn(|cell| libm::exp(-surprise_edge(cell))));

/// The distribution of surprises: what they are worth.
#[derive(Clone)]
struct Surprises {
    cells: [u32; SURPRISES],
    /// Units from each cell on; follows from `cells`.
    from: [u32; SURPRISES + 1],
    learned: u64,
    refreshed: u64,
    /// Cell where the exponential tail begins.
    top: usize,
    /// Its mean.
    mean: f64,
}

fn surprise_cell(t: f64) -> usize {
    if t < 2.0 {
        (t * 64.0) as usize
    } else {
        FINE.saturating_add(((t - 2.0) * 4.0) as usize).min(SURPRISES - 1)
    }
}

fn surprise_edge(cell: usize) -> f64 {
    if cell <= FINE { cell as f64 / 64.0 } else { 2.0 + (cell - FINE) as f64 / 4.0 }
}

impl Surprises {
    fn new() -> Self {
        Surprises {
            cells: [0; SURPRISES],
            from: [0; SURPRISES + 1],
            learned: 0,
            refreshed: 0,
            top: surprise_cell(4.0),
            mean: SLOPE,
        }
    }

    fn units(&self) -> u32 {
        self.from[0]
    }

    fn learn(&mut self, t: f64) {
        let cell = surprise_cell(t);
        self.cells[cell] += UNITS;
        for sum in &mut self.from[..=cell] {
            *sum += UNITS;
        }
        self.learned = self.learned.saturating_add(1);
        if self.learned.is_power_of_two() && self.learned >= OLD {
            self.fade(AGEING);
        }
        if self.units() >= SURPRISE_MEMORY * UNITS {
            self.fade(4);
        }
        if refresh_due(self.learned, self.refreshed) {
            self.refreshed = self.learned;
            self.fit();
        }
    }

    /// Takes one part of so many from every count.
    fn fade(&mut self, parts: u32) {
        for c in &mut self.cells {
            *c -= *c / parts;
        }
        self.sum();
    }

    fn sum(&mut self) {
        for cell in (0..SURPRISES).rev() {
            self.from[cell] = self.from[cell + 1].saturating_add(self.cells[cell]);
        }
    }

    fn fit(&mut self) {
        let wanted = (SURPRISE_TAIL * f64::from(self.units())) as u32;
        let wanted = wanted.max(10 * UNITS);
        // the last cell with so many from it on, 1 at least
        let from = &self.from[2..SURPRISES];
        let mut top = 1 + from.partition_point(|units| *units >= wanted);
        // the tail begins above the cell that would make it too long
        top = (top + 1).min(SURPRISES - 1);
        let from = surprise_edge(top);
        let mut sum = SLOPE_PRIOR * SLOPE;
        for cell in top..SURPRISES {
            if self.cells[cell] > 0 {
                let middle = 0.5 * (surprise_edge(cell) + surprise_edge(cell + 1));
                let count = f64::from(self.cells[cell]) / f64::from(UNITS);
                sum += count * (middle - from).min(LARGEST_EXCESS);
            }
        }
        self.top = top;
        let count = f64::from(self.from[top]) / f64::from(UNITS);
        self.mean = sum / (count + SLOPE_PRIOR);
    }

    /// Share of surprises from a cell's lower edge on, the prior included.
    fn share(&self, cell: usize) -> f64 {
        let units = f64::from(UNITS);
        let seen = f64::from(self.from[cell]) / units + SURPRISE_PRIOR * PRIOR_SHARES[cell];
        (seen / (f64::from(self.units()) / units + SURPRISE_PRIOR)).min(1.0)
    }

    /// ln p of a surprise: 0 at 0, never rising with it.
    fn ln_p(&self, t: f64) -> f64 {
        let top = surprise_edge(self.top);
        if t >= top {
            return (libm::log(self.share(self.top)) - (t - top) / self.mean).max(MIN_LN_P);
        }
        let cell = surprise_cell(t);
        let (from, to) = (surprise_edge(cell), surprise_edge(cell + 1));
        let part = ((t - from) / (to - from)).clamp(0.0, 1.0);
        let (at_from, at_to) = (self.share(cell), self.share(cell + 1));
        libm::log(at_from + part * (at_to - at_from))
    }

    /// The surprise whose p is alpha.
    fn critical(&self, ln_alpha: f64) -> f64 {
        let ln_top = libm::log(self.share(self.top));
        if ln_alpha <= ln_top {
            return surprise_edge(self.top) + (ln_top - ln_alpha) * self.mean;
        }
        let alpha = libm::exp(ln_alpha);
        // shares never rise from cell to cell
        let (mut cell, mut beyond) = (0, self.top);
        while beyond - cell > 1 {
            let middle = cell.midpoint(beyond);
            if self.share(middle) >= alpha {
                cell = middle;
            } else {
                beyond = middle;
            }
        }
        let (from, to) = (surprise_edge(cell), surprise_edge(beyond));
        let (at_from, at_to) = (self.share(cell), self.share(beyond));
        from + ((at_from - alpha) / (at_from - at_to)).clamp(0.0, 1.0) * (to - from)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        out.extend_from_slice(&(self.top as u16).to_le_bytes());
        out.extend_from_slice(&self.mean.to_le_bytes());
        let used = self.cells.iter().rposition(|c| *c > 0).map_or(0, |last| last + 1);
        out.extend_from_slice(&(used as u16).to_le_bytes());
        self.cells[..used].iter().for_each(|c| codec::put_varint(out, *c));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut s = Surprises::new();
        s.learned = reader.u64()?;
        s.refreshed = reader.u64()?;
        s.top = usize::from(reader.u16()?);
        s.mean = reader.non_negative("mean surprise")?;
        let used = usize::from(reader.u16()?);
        let cells = s.cells.get_mut(..used);
        let cells = cells.ok_or_else(|| reader.corrupted("surprises have too many cells"))?;
        for c in cells {
            *c = reader.varint()?;
        }
        s.sum();
        if s.units() >= SURPRISE_MEMORY * UNITS
            || u64::from(s.units()) > s.learned.saturating_mul(u64::from(UNITS))
            || s.refreshed > s.learned
            || !(1..SURPRISES).contains(&s.top)
            || !(1e-3..=LARGEST_EXCESS).contains(&s.mean)
        {
            return Err(reader.corrupted("surprises out of range"));
        }
        Ok(s)
    }
}

/// What a point that was judged is worth when it is learned next.
#[derive(Debug, Clone, Copy)]
struct Judged {
    at: i64,
    value: u64,
    trials: u64,
    count: u64,
    seen: Seen,
    /// Of the forecast.
    expected: f64,
    spread: f64,
    s: f64,
    /// S on the scale on which it is calibrated.
    told: f64,
    ln_p: f64,
    /// The value without what chance explains.
    x: f64,
    /// −ln p of the residual alone.
    b: f64,
}

/// What was never seen, on top of any model of the expected: the whole model of one entity.
pub(super) struct Surprise {
    /// Of values without what a trend has moved them by.
    ranges: Box<Ranges>,
    drift: Drift,
    tails: Box<[ExcessTail; VIEWS.len()]>,
    surprises: Box<Surprises>,
    /// The surprise that is remembered, and the share of it that one point leaves.
    remembered: f64,
    /// How far from what was expected an event is that was told and still goes on, with its sign; else 0.
    explained: f64,
    /// Points in a row that had nothing to do with it.
    apart: u8,
    /// −ln p of the residual that was farthest out so far, and how much farther others were than what
    /// was the farthest before.
    farthest: f64,
    far: Box<ExcessTail>,
    /// Whether the forecast explains so much that a residual is news without any view.
    pub trusted: bool,
    fade: f64,
    calendar: Calendar,
    judged: Cell<Option<Judged>>,
}

/// What the −ln p of a baseline counts for. By n points it can vouch for p down to 1/n, −ln p up to
/// `known`; what it extrapolates beyond is a guess about tails, and counts by its logarithm only.
fn vouched(surprise: f64, known: f64) -> f64 {
    if surprise <= known { surprise } else { known + libm::log1p(surprise - known) }
}

/// A point as the views see it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    bin: usize,
    edges: [Edge; VIEWS.len()],
}

impl Surprise {
    /// `memory` is over how many points a surprise is remembered; 0: not at all.
    pub fn new(calendar: Calendar, memory: u64) -> Self {
        Surprise {
            ranges: Box::new(Ranges::new()),
            drift: Drift::new(),
            tails: Box::new(std::array::from_fn(|_| ExcessTail::new())),
            surprises: Box::new(Surprises::new()),
            remembered: 0.0,
            explained: 0.0,
            apart: 0,
            farthest: 0.0,
            far: Box::new(ExcessTail::new()),
            trusted: false,
            fade: if memory == 0 { 0.0 } else { libm::exp(-1.0 / memory as f64) },
            calendar,
            judged: Cell::new(None),
        }
    }

    /// Points seen, those that the model of the expected leaves out included.
    pub fn count(&self) -> u64 {
        self.ranges.count
    }

    fn bin(&self, at: i64) -> usize {
        (self.calendar.local_second(at).rem_euclid(86_400) / i64::from(BIN_SECONDS)) as usize % BINS
    }

    fn see(&self, at: i64) -> Seen {
        let bin = self.bin(at);
        let moved = self.drift.at(at);
        Seen { bin, edges: self.ranges.edges(at, bin).map(|edge| edge.moved(moved)) }
    }

    /// Adds a value to the ranges, where they would be without the trend.
    fn widen(&mut self, at: i64, x: f64, bin: usize) {
        self.drift.learn(at, x);
        self.ranges.learn(at, finite(x - self.drift.at(at)), bin);
    }

    /// S brought to the scale on which it is calibrated: in full if it is news.
    fn told(&self, s: f64) -> f64 {
        if self.fade == 0.0 || s > self.remembered + NEWS {
            s
        } else {
            s / (NEWS + self.remembered)
        }
    }

    /// The smallest S whose calibrated surprise is beyond t.
    fn untold(&self, t: f64) -> f64 {
        if self.fade == 0.0 {
            return t;
        }
        if t <= 1.0 { t * (NEWS + self.remembered) } else { t.max(self.remembered + NEWS) }
    }

    /// From where on S is too large.
    fn limit(&self, rule: &Rule) -> f64 {
        let critical = || self.untold(self.surprises.critical(rule.ln_alpha));
        rule.threshold.unwrap_or_else(critical)
    }

    /// Where the range of normal values ends on one side.
    fn bound(&self, side: &Side, direction: Direction, rule: &Rule) -> f64 {
        let bound = side.bound(direction, self.limit(rule));
        let sign = if direction == Direction::High { 1.0 } else { -1.0 };
        if rule.threshold.is_some() || self.explained * sign <= 0.0 {
            return bound;
        }
        let critical = self.surprises.critical(rule.ln_alpha);
        let further = finite(side.bound(direction, critical) + self.explained);
        if direction == Direction::High { bound.max(further) } else { bound.min(further) }
    }

    /// The verdict on a point, given the model of the expected.
    pub fn judge(&self, base: &dyn EntityModel, point: &Point, rule: &Rule) -> Verdict {
        let mut verdict = Verdict::without_baseline(point);
        let expectation = base.expectation(point);
        let side = expectation.as_ref().map(|e| Side::new(self, e, base.count(), point.at));
        if let Some(side) = &side {
            verdict.expected = side.expected;
            if rule.range {
                verdict.upper = self.bound(side, Direction::High, rule);
                verdict.lower = self.bound(side, Direction::Low, rule);
            }
        }
        if !point.value.is_finite() {
            return verdict.of_non_finite();
        }
        let Some(side) = side else { return verdict };
        let judged = side.judge(point);
        let s = judged.s;
        verdict.direction = Direction::of(point.value, side.expected);
        verdict.statistic = if verdict.direction == Direction::Low { -s } else { s };
        verdict.tail = Tail::LnP(judged.ln_p);
        verdict.is_anomaly = match rule.threshold {
            Some(threshold) => s > threshold,
            None => judged.ln_p < rule.ln_alpha,
        };
        self.judged.set(Some(judged));
        verdict
    }

    /// What was found of a point that was judged last and is learned now.
    fn known(&self, point: &Point) -> Option<Judged> {
        self.judged.get().filter(|j| {
            (j.at, j.value, j.trials, j.count)
                == (point.at, point.value.to_bits(), point.trials.to_bits(), self.ranges.count)
        })
    }

    /// The expected value and the spread that a point was judged by, if it was judged last.
    pub fn forecast(&self, point: &Point) -> Option<(f64, f64)> {
        self.known(point).map(|j| (j.expected, j.spread))
    }

    /// Takes note of a point with a finite value, before the model of the expected does. Its ln p, if
    /// anything was expected.
    pub fn learn(&mut self, base: &dyn EntityModel, point: &Point) -> Option<f64> {
        let judged = self.known(point).or_else(|| {
            let expectation = base.expectation(point)?;
            Some(Side::new(self, &expectation, base.count(), point.at).judge(point))
        });
        self.judged.set(None);
        let Some(judged) = judged else {
            let bin = self.bin(point.at);
            self.widen(point.at, point.value, bin);
            return None;
        };
        let mut ln_p = None;
        if base.count() > 1 {
            ln_p = Some(judged.ln_p);
            self.surprises.learn(judged.told);
            self.follow(&judged, libm::log(base.count() as f64 + 1.0));
            self.remembered =
                (self.remembered * self.fade).max(if self.fade > 0.0 { judged.s } else { 0.0 });
            for (edge, tail) in judged.seen.edges.iter().zip(self.tails.iter_mut()) {
                if edge.high.is_finite() || edge.low.is_finite() {
                    tail.learn(edge.above(judged.x).max(edge.below(judged.x)));
                }
            }
        }
        if self.ranges.count >= u64::from(MIN_CONTEXT) {
            self.far.learn((judged.b - self.farthest).max(0.0));
        }
        self.farthest = self.farthest.max(judged.b);
        self.widen(point.at, judged.x, judged.seen.bin);
        ln_p
    }

    /// Keeps how far the event that was told last has moved the values, as long as it goes on: while they
    /// lie beyond their ranges, but for a few.
    fn follow(&mut self, judged: &Judged, known: f64) {
        if self.fade == 0.0 {
            return;
        }
        let moved = finite(2.0 * (judged.x / 2.0 - judged.expected / 2.0));
        let further = moved * self.explained.signum() > self.explained.abs();
        if moved != 0.0 && -judged.ln_p > BEYOND_DOUBT * known {
            if further || moved.signum() != self.explained.signum() {
                self.explained = moved;
            }
            self.apart = 0;
            return;
        }
        if self.explained == 0.0 {
            return;
        }
        let goes_on = judged.seen.edges.iter().any(|edge| {
            let below = self.explained < 0.0;
            if below { edge.below(judged.x) > 0.0 } else { edge.above(judged.x) > 0.0 }
        });
        if goes_on {
            self.apart = 0;
            if further {
                self.explained = moved;
            }
        } else {
            self.apart += 1;
            if usize::from(self.apart) >= LONGEST {
                (self.explained, self.apart) = (0.0, 0);
            }
        }
    }

    /// Typical time between points, µs.
    pub fn interval(&self) -> f64 {
        self.ranges.interval
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.remembered.to_le_bytes());
        out.extend_from_slice(&self.explained.to_le_bytes());
        out.push(self.apart);
        out.push(u8::from(self.trusted));
        out.extend_from_slice(&self.farthest.to_le_bytes());
        self.far.encode(out);
        self.ranges.encode(out);
        self.drift.encode(out);
        for tail in self.tails.iter() {
            tail.encode(out);
        }
        self.surprises.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>, calendar: Calendar, memory: u64) -> Result<Self> {
        let mut surprise = Surprise::new(calendar, memory);
        surprise.remembered = reader.non_negative("remembered surprise")?;
        surprise.explained = reader.finite("explained displacement")?;
        surprise.apart = reader.u8()?;
        if usize::from(surprise.apart) >= LONGEST {
            return Err(reader.corrupted("counts contradict each other"));
        }
        surprise.trusted = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.corrupted("unknown flag")),
        };
        surprise.farthest = reader.non_negative("farthest residual")?;
        *surprise.far = ExcessTail::decode(reader)?;
        *surprise.ranges = Ranges::decode(reader)?;
        surprise.drift = Drift::decode(reader)?;
        for tail in surprise.tails.iter_mut() {
            *tail = ExcessTail::decode(reader)?;
        }
        *surprise.surprises = Surprises::decode(reader)?;
        Ok(surprise)
    }

    pub fn metadata(&self, verdict: &Verdict, rule: &Rule, map: &mut Map<String, Value>) {
        map.insert("surprise".into(), json_number(verdict.statistic.abs()));
        map.insert("threshold".into(), json_number(self.limit(rule)));
        map.insert("remembered".into(), json_number(self.remembered));
    }
}

/// The surprise of any value at the time of a point.
struct Side<'a> {
    surprise: &'a Surprise,
    expectation: &'a Expectation<'a>,
    expected: f64,
    seen: Seen,
    /// ln of the points that the model of the expected can vouch by.
    known: f64,
    /// [`ExcessTail::ln_points`] of each view, and of [`Surprise::far`]; NaN where nobody has asked: few
    /// values exceed anything.
    ln_points: [Cell<f64>; VIEWS.len()],
    ln_far: Cell<f64>,
}

/// −ln p of an excess; `ln_points` as of [`Side::ln_points`].
fn surprise_of(tail: &ExcessTail, d: f64, ln_points: &Cell<f64>) -> f64 {
    if d <= 0.0 {
        return 0.0;
    }
    if ln_points.get().is_nan() {
        ln_points.set(tail.ln_points());
    }
    tail.surprise(d, ln_points.get())
}

impl<'a> Side<'a> {
    fn new(surprise: &'a Surprise, expectation: &'a Expectation<'a>, count: u64, at: i64) -> Self {
        let seen = surprise.see(at);
        Side {
            surprise,
            expectation,
            expected: expectation.expected(),
            seen,
            ln_points: [const { Cell::new(f64::NAN) }; VIEWS.len()],
            ln_far: Cell::new(f64::NAN),
            known: libm::log(count as f64 + 1.0),
        }
    }

    /// A value without what chance explains: of z standard deviations, [`CHANCE`] are no news.
    fn news(&self, x: f64) -> f64 {
        match self.expectation.deviation_by_chance(x) {
            None => x,
            Some(z) if z <= CHANCE => self.expected,
            Some(z) => self.expected + (x - self.expected) * (1.0 - CHANCE / z),
        }
    }

    /// All that is to be known of a point with a finite value.
    fn judge(&self, point: &Point) -> Judged {
        let value = point.value;
        let (s, b) = if self.expectation.is_impossible(value) {
            (IMPOSSIBLE, -self.expectation.ln_p(value))
        } else {
            let x = self.expectation.without_rounding(value);
            let b = -self.expectation.ln_p(x);
            (self.total(self.novelty(x), b), b)
        };
        let told = self.surprise.told(s).min(self.rest(value));
        Judged {
            at: point.at,
            value: value.to_bits(),
            trials: point.trials.to_bits(),
            count: self.surprise.ranges.count,
            seen: self.seen,
            expected: self.expected,
            spread: self.expectation.spread(),
            s,
            told,
            ln_p: self.surprise.surprises.ln_p(told),
            x: self.news(value),
            b,
        }
    }

    /// S of a value.
    fn surprise(&self, x: f64) -> f64 {
        if self.expectation.is_impossible(x) {
            return IMPOSSIBLE;
        }
        let x = self.expectation.without_rounding(x);
        self.total(self.novelty(x), -self.expectation.ln_p(x))
    }

    /// S of what an event that was told already does not explain of a value.
    fn rest(&self, value: f64) -> f64 {
        let explained = self.surprise.explained;
        let from_expected = finite(value - self.expected);
        if explained * from_expected.signum() <= 0.0 {
            return f64::INFINITY;
        }
        if from_expected.abs() <= explained.abs() {
            return 0.0;
        }
        self.surprise(finite(value - explained))
    }

    fn total(&self, novelty: f64, base: f64) -> f64 {
        let sum = novelty
            + vouched(base, self.known)
            + surprise_of(&self.surprise.far, base - self.surprise.farthest, &self.ln_far);
        if self.surprise.trusted && base > self.known {
            return sum.max(FIRM * base);
        }
        sum
    }

    /// What the views add.
    fn novelty(&self, x: f64) -> f64 {
        let news = self.news(x);
        let mut sum = 0.0;
        for (i, edge) in self.seen.edges.iter().enumerate() {
            let d = match Direction::of(x, self.expected) {
                Direction::High => edge.above(news),
                Direction::Low => edge.below(news),
                Direction::None => 0.0,
            };
            if d > 0.0 {
                sum += surprise_of(&self.surprise.tails[i], d, &self.ln_points[i]);
            }
        }
        sum
    }

    /// Whether S exceeds a limit; the views often tell without the forecast.
    fn exceeds(&self, x: f64, limit: f64) -> bool {
        let x = self.expectation.without_rounding(x);
        let novelty = self.novelty(x);
        novelty > limit
            || self.expectation.is_impossible(x)
            || self.total(novelty, -self.expectation.ln_p(x)) > limit
    }

    /// Where S reaches `limit` on one side.
    fn bound(&self, side: Direction, limit: f64) -> f64 {
        let sign = if side == Direction::High { 1.0 } else { -1.0 };
        let at = |d: f64| finite(self.expected + sign * d);
        let excess = |d: f64| self.surprise(at(d)) - limit;
        let exceeds = |d: f64| self.exceeds(at(d), limit);
        // S jumps at the edges of views and is smooth between them.
        let mut edges = self.seen.edges.map(|e| match side {
            Direction::High => e.high - self.expected,
            _ => self.expected - e.low,
        });
        edges.sort_unstable_by(f64::total_cmp);
        let beyond = |d: f64| d + 4.0 * ROUNDING * at(d).abs().max(self.expected.abs());
        let (mut low, mut high) = (0.0, f64::INFINITY);
        if edges[0] <= 0.0 && exceeds(beyond(0.0)) {
            return self.expected;
        }
        // The first edge beyond which S is too large. What chance explains moves them, who knows where.
        let known = if self.expectation.is_by_chance() { 0 } else { edges.len() };
        let edges = &edges[..edges.partition_point(|e| *e < f64::INFINITY).min(known)];
        let edges = &edges[edges.partition_point(|e| *e <= 0.0)..];
        let first = edges.partition_point(|e| !exceeds(beyond(*e)));
        if first > 0 {
            low = beyond(edges[first - 1]);
        }
        if let Some(edge) = edges.get(first) {
            if !exceeds(*edge) {
                return at(*edge);
            }
            high = *edge;
        }
        let mut step = self.expectation.spread().max(0.1 * low).max(1e-9 * self.expected.abs());
        step = step.max(1e-300);
        while high == f64::INFINITY {
            let further = low + step;
            if !(self.expected + sign * further).is_finite() {
                return finite(sign * f64::INFINITY);
            }
            if exceeds(further) {
                high = further;
            } else {
                low = further;
                step *= 4.0;
            }
        }
        at(root(&excess, low, high))
    }
}

/// Just above where a rising function becomes positive, between `low`, where it is not, and `high`,
/// where it is: inverse quadratic interpolation where that is safe, else bisection (Chandrupatla
/// 1997, "A new hybrid quadratic/bisection algorithm").
pub(super) fn root(f: &dyn Fn(f64) -> f64, low: f64, high: f64) -> f64 {
    // a: latest, b: the other side, c: the one before
    let (mut a, mut b) = (high, low);
    let (mut fa, mut fb) = (f(a), f(b).min(-f64::MIN_POSITIVE));
    let (mut c, mut fc);
    let mut part = 0.5;
    for _ in 0..100 {
        let x = a + part * (b - a);
        let fx = f(x);
        if (fx > 0.0) == (fa > 0.0) {
            (c, fc) = (a, fa);
        } else {
            (c, b, fc, fb) = (b, a, fb, fa);
        }
        (a, fa) = (x, fx);
        let width = (b - a).abs();
        let least = 0.5 * TOLERANCE * a.abs().max(b.abs()) / width;
        if least > 0.5 || width <= f64::MIN_POSITIVE {
            break;
        }
        let (xi, phi) = ((a - b) / (c - b), (fa - fb) / (fc - fb));
        part = if phi * phi < xi && (1.0 - phi) * (1.0 - phi) < 1.0 - xi {
            fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        } else {
            0.5
        };
        part = part.clamp(least, 1.0 - least);
    }
    if fa > 0.0 { a } else { b }
}

/// The mean of the latest days at a time of day.
struct DayProfile {
    calendar: Calendar,
    means: [f64; BINS],
    weights: [f64; BINS],
    count: u64,
    level: f64,
    variance: f64,
}

/// Days that a bin remembers, and points that the spread does.
const PROFILE_DAYS: f64 = 14.0;
const SPREAD_POINTS: f64 = 500.0;
/// Neighbouring bins that a bin is averaged with.
const SMOOTHING: usize = 2;

impl DayProfile {
    fn new(calendar: Calendar) -> Self {
        DayProfile {
            calendar,
            means: [0.0; BINS],
            weights: [0.0; BINS],
            count: 0,
            level: 0.0,
            variance: 0.0,
        }
    }

    fn bin(&self, at: i64) -> usize {
        (self.calendar.local(at).second / BIN_SECONDS) as usize % BINS
    }

    fn centre(&self, bin: usize) -> f64 {
        let (mut sum, mut weight) = (0.0, 0.0);
        for i in bin + BINS - SMOOTHING..=bin + BINS + SMOOTHING {
            weight += self.weights[i % BINS];
        }
        if weight <= 0.0 {
            return self.level;
        }
        for i in bin + BINS - SMOOTHING..=bin + BINS + SMOOTHING {
            sum += self.means[i % BINS] * (self.weights[i % BINS] / weight);
        }
        finite(sum)
    }
}

impl Baseline for DayProfile {
    const EFFICIENCY: f64 = 1.0;

    fn dof(&self, count: u64) -> f64 {
        (count.saturating_sub(1) as f64).min(SPREAD_POINTS)
    }

    fn count(&self) -> u64 {
        self.count
    }

    fn push(&mut self, point: &Point) {
        let bin = self.bin(point.at);
        let x = point.value;
        if self.count == 0 {
            self.level = x;
        } else {
            let n = (self.count as f64).min(SPREAD_POINTS);
            let residual = x / 1e8 - self.centre(bin) / 1e8;
            self.variance =
                (self.variance + (residual * residual - self.variance) / n).min(f64::MAX);
            self.level = finite(self.level + (x / n - self.level / n));
        }
        self.weights[bin] = (self.weights[bin] + 1.0).min(PROFILE_DAYS);
        let w = self.weights[bin];
        self.means[bin] = finite(self.means[bin] + (x / w - self.means[bin] / w));
        self.count = self.count.saturating_add(1);
    }

    fn fit(&self, point: &Point) -> Option<Fit> {
        if self.count == 0 {
            return None;
        }
        let spread = finite(libm::sqrt(self.variance) * 1e8);
        Some(Fit { centre: self.centre(self.bin(point.at)), below: spread, above: spread })
    }

    fn metadata(&self, _verdict: &Verdict, _map: &mut Map<String, Value>) {}

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.level.to_le_bytes());
        out.extend_from_slice(&self.variance.to_le_bytes());
        for (mean, weight) in self.means.iter().zip(&self.weights) {
            out.push(*weight as u8);
            if *weight > 0.0 {
                out.extend_from_slice(&mean.to_le_bytes());
            }
        }
        Ok(())
    }
}

impl DayProfile {
    fn decode(reader: &mut Reader<'_>, calendar: Calendar) -> Result<Self> {
        let mut profile = DayProfile::new(calendar);
        profile.count = reader.u64()?;
        profile.level = reader.finite("level")?;
        profile.variance = reader.non_negative("variance")?;
        for i in 0..BINS {
            profile.weights[i] = f64::from(reader.u8()?);
            if profile.weights[i] > PROFILE_DAYS {
                return Err(reader.corrupted("profile out of range"));
            }
            if profile.weights[i] > 0.0 {
                profile.means[i] = reader.finite("profile")?;
            }
        }
        Ok(profile)
    }
}

/// See the head of this file.
pub struct Novelty {
    calendar: Calendar,
    kind: Kind,
    memory: u64,
}

impl Novelty {
    /// `habituation`: over how many points a surprise is remembered, 0 to 1,000,000 (0: never), 400
    /// by default.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_novelty", params, &["habituation"])?;
        let memory = integer_param(params, "habituation", MEMORY, 0..=1_000_000)?;
        Ok(Novelty { calendar: context.calendar.clone(), kind: context.kind, memory })
    }
}

impl Strategy for Novelty {
    fn name(&self) -> &'static str {
        "statistical_novelty"
    }

    fn short_name(&self) -> &'static str {
        "novelty"
    }

    fn statistic_name(&self) -> &'static str {
        "surprise"
    }

    fn algorithm(&self) -> u16 {
        20
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(NoveltyModel {
            base: LocationScale::new(DayProfile::new(self.calendar.clone())).of_kind(self.kind),
            surprise: Surprise::new(self.calendar.clone(), self.memory),
        })
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let surprise = Surprise::decode(reader, self.calendar.clone(), self.memory)?;
        let base = LocationScale::decode(reader, |r| DayProfile::decode(r, self.calendar.clone()))?;
        if surprise.surprises.learned > surprise.ranges.count {
            return Err(Error::Corrupted("stored state: counts contradict each other".into()));
        }
        Ok(Box::new(NoveltyModel { base, surprise }))
    }
}

struct NoveltyModel {
    base: LocationScale<DayProfile>,
    surprise: Surprise,
}

impl EntityModel for NoveltyModel {
    fn count(&self) -> u64 {
        self.surprise.count()
    }

    fn judge(&self, point: &Point, rule: &Rule) -> Verdict {
        self.surprise.judge(&self.base, point, rule)
    }

    fn learn(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.surprise.learn(&self.base, point);
            self.base.learn(point);
        }
    }

    fn leave_out(&mut self, point: &Point) {
        if point.value.is_finite() {
            self.surprise.learn(&self.base, point);
            self.base.leave_out(point);
        }
    }

    fn learn_clipped(&mut self, point: &Point) {
        self.base.learn_clipped(point);
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.surprise.encode(out);
        self.base.encode(out)
    }

    fn metadata(&self, verdict: &Verdict, rule: &Rule) -> Map<String, Value> {
        let mut map = self.base.metadata(verdict, rule);
        self.surprise.metadata(verdict, rule, &mut map);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    /// SplitMix64; nearly normal.
    struct Rng(u64);

    impl Rng {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    fn drift_of(n: usize, mut value: impl FnMut(usize) -> f64) -> Drift {
        let mut drift = Drift::new();
        (0..n).for_each(|i| drift.learn(i as i64 * HOUR, value(i)));
        drift
    }

    fn daily(i: usize) -> f64 {
        10.0 * libm::sin(i as f64 * std::f64::consts::TAU / 24.0)
    }

    #[test]
    fn ranges_follow_a_trend_and_stop_with_it() {
        for sign in [-1.0, 1.0] {
            let mut rng = Rng(3);
            let mut value = |i: usize| daily(i) + sign * 0.001 * i.min(8000) as f64 + rng.normal();
            let at_end = drift_of(8000, &mut value);
            let moved = sign * at_end.moved;
            assert!((3.0..8.0).contains(&moved), "{moved} of 8");
            assert!(sign * at_end.speed * HOUR as f64 > 0.0005, "{}", at_end.speed * HOUR as f64);
            // a value moved by as much as the trend is where it was
            assert!(sign * at_end.at(at_end.latest_at + HOUR) > moved);
            let mut rng = Rng(3);
            let mut value = |i: usize| daily(i) + sign * 0.001 * i.min(8000) as f64 + rng.normal();
            let after = drift_of(12_000, &mut value);
            assert_eq!(after.speed, 0.0);
            // all of it was 8: they never run ahead
            assert!(sign * after.moved < 8.0, "{} after {moved}", after.moved);
        }
    }

    #[test]
    fn what_is_no_trend_moves_no_range() {
        let mut wrong = 0;
        for seed in 0..40 {
            let mut rng = Rng(seed);
            let (mut level, mut seen) = (0.0, Range::EMPTY);
            let walk = drift_of(4000, |_| {
                level += rng.normal();
                seen.add(level);
                level
            });
            wrong += u32::from(walk.moved.abs() > 0.1 * (seen.high - seen.low));
            let noise = drift_of(4000, |i| daily(i) + rng.normal());
            assert!(noise.moved.abs() < 0.2, "{}", noise.moved);
            let step = drift_of(4000, |i| rng.normal() + if i > 2000 { 20.0 } else { 0.0 });
            assert!(step.moved.abs() < 0.2, "{}", step.moved);
            let incident = drift_of(4000, |i| if i == 2000 { 1e9 } else { rng.normal() });
            assert!(incident.moved.abs() < 0.2, "{}", incident.moved);
        }
        assert!(wrong <= 2, "{wrong} of 40 random walks");
    }

    #[test]
    fn drift_knows_gaps_order_and_huge_values() {
        let mut drift = drift_of(4000, |i| 0.1 * i as f64);
        let before = drift.moved;
        let block = drift.speed * drift.width();
        assert!(block > 0.0 && drift.at(i64::MAX) <= before + 1.001 * block);
        assert_eq!(drift.at(i64::MIN), before);
        drift.learn(i64::MIN, 0.0);
        drift.learn(i64::MAX, 0.0);
        assert!(drift.moved.is_finite());
        for x in [f64::MAX, -f64::MAX, 5e-324] {
            let drift = drift_of(2000, |i| if i % 100 < 50 { x } else { -x });
            assert!(drift.moved.is_finite() && drift.mean.is_finite());
            let mut bytes = Vec::new();
            drift.encode(&mut bytes);
            assert_eq!(Drift::decode(&mut Reader::new(&bytes)), Ok(drift));
        }
    }
}
