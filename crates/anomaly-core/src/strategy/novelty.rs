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
//! with equal weights, over the views that the value exceeds on its side of the expected value. So S
//! never falls as a value moves away from what is expected.
//!
//! **Habituation.** What was just told is news no more: S counts in full if it exceeds the memory of
//! earlier surprises, which fades over [`MEMORY`] points, by a nat; below, it only ranks among the
//! unremarkable. An incident is told at once and again when it gets worse, not with every point.
//!
//! The surprise itself is calibrated once more by its own past, so that p is what it says however the
//! parts depend on each other: shares where many were seen, beyond that an exponential tail.
//!
//! The range is what the best detectors of the Numenta Anomaly Benchmark learn in other words:
//! categories that no earlier input resonates with (ARTime), contexts never met (CAD OSE); both also
//! rest after an alarm.

use std::cell::Cell;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::location_scale::{Baseline, Fit, LocationScale, finite, refresh_due};
use super::{Context, EntityModel, Rule, Strategy, check_keys, integer_param, json_number};
use crate::calendar::Calendar;
use crate::codec::Reader;
use crate::distribution::{MIN_LN_P, deviation_from_ln_p};
use crate::point::Point;
use crate::verdict::{Direction, Status, Tail, Verdict};
use crate::{Error, Result};

/// Bins of a quarter of an hour.
const BINS: usize = 96;
const BIN_SECONDS: u32 = 900;
/// Over how many points a surprise is remembered.
pub(super) const MEMORY: u64 = 400;
/// How much more surprising than what is remembered a point must be to be news: e times less probable.
const NEWS: f64 = 1.0;
/// Longest mean of a view.
const LONGEST: usize = 12;
/// A range of so few points says nothing yet.
const MIN_CONTEXT: u32 = 20;
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
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
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
}

impl Ranges {
    fn new() -> Self {
        Ranges {
            by_time: [[Range::EMPTY; BINS]; TABLED.len()],
            counts: [0; BINS],
            overall: [Range::EMPTY; RANGED.len()],
            latest: [0.0; LONGEST],
            count: 0,
        }
    }

    /// The share of the earlier points in the mean of `points`.
    fn rest(&self, points: usize) -> f64 {
        let n = points as f64;
        self.latest[LONGEST + 1 - points..].iter().map(|v| v / n).sum()
    }

    fn edges(&self, bin: usize) -> [Edge; VIEWS.len()] {
        VIEWS.map(|view| {
            if self.count + 1 < view.points.max(2) as u64 {
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
                    for i in bin + BINS - reach..=bin + BINS + reach {
                        range.join(&self.by_time[which][i % BINS]);
                        count = count.saturating_add(self.counts[i % BINS]);
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

    fn learn(&mut self, x: f64, bin: usize) {
        for (which, points) in TABLED.into_iter().enumerate() {
            if self.count + 1 >= points as u64 {
                let mean = self.rest(points) + x / points as f64;
                self.by_time[which][bin].add(finite(mean));
            }
        }
        for (which, points) in RANGED.into_iter().enumerate() {
            if self.count + 1 >= points as u64 {
                let mean = self.rest(points) + x / points as f64;
                self.overall[which].add(finite(mean));
            }
        }
        self.counts[bin] = self.counts[bin].saturating_add(1);
        self.latest.rotate_left(1);
        self.latest[LONGEST - 1] = x;
        self.count = self.count.saturating_add(1);
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        for v in self.latest {
            out.extend_from_slice(&v.to_le_bytes());
        }
        for range in self.overall {
            range.encode(out);
        }
        for (bin, count) in self.counts.into_iter().enumerate() {
            out.extend_from_slice(&count.to_le_bytes());
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
        for range in &mut ranges.overall {
            *range = Range::decode(reader)?;
        }
        for bin in 0..BINS {
            ranges.counts[bin] = reader.u32()?;
            if ranges.counts[bin] > 0 {
                for table in &mut ranges.by_time {
                    table[bin] = Range::decode(reader)?;
                }
            }
        }
        Ok(ranges)
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
    /// Key of the last cell.
    top: u32,
    /// Points, those without excess included.
    count: u64,
    refreshed: u64,
    /// Where the Pareto tail begins, 0 for nowhere, and the mean of ln(d/threshold) beyond.
    threshold: f64,
    index: f64,
}

impl ExcessTail {
    fn new() -> Self {
        ExcessTail {
            cells: [0; CELLS],
            top: 0,
            count: 0,
            refreshed: 0,
            threshold: 0.0,
            index: TAIL_PRIOR.1,
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
        }
        self.count = self.count.saturating_add(1);
        if refresh_due(self.count, self.refreshed) {
            self.refreshed = self.count;
            self.fit();
        }
    }

    fn lower_edge(&self, cell: usize) -> f64 {
        of_key((self.top + cell as u32).saturating_sub(CELLS as u32 - 1))
    }

    fn fit(&mut self) {
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
    }

    /// −ln p of an excess; 0 for none, never falling with it.
    fn surprise(&self, d: f64) -> f64 {
        if d <= 0.0 || self.count < 10 {
            return 0.0;
        }
        let n = self.count as f64 + 1.0;
        if self.threshold == 0.0 {
            return libm::log(n);
        }
        let beyond = |d: f64| {
            let key = key(d);
            if key > self.top {
                return 0.0;
            }
            let cell = (CELLS as u32 - 1).saturating_sub(self.top - key) as usize;
            let above: u32 = self.cells[cell + 1..].iter().fold(0, |s, c| s.saturating_add(*c));
            let (from, to) = (self.lower_edge(cell), self.lower_edge(cell + 1));
            let part = if to > from { ((to - d) / (to - from)).clamp(0.0, 1.0) } else { 0.0 };
            f64::from(above) + part * f64::from(self.cells[cell])
        };
        let at_threshold = ((beyond(self.threshold) + 1.0) / n).min(1.0);
        if d < self.threshold {
            return -libm::log(((beyond(d) + 1.0) / n).clamp(at_threshold, 1.0));
        }
        (libm::log(d) - libm::log(self.threshold)) / self.index - libm::log(at_threshold)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        out.extend_from_slice(&self.top.to_le_bytes());
        out.extend_from_slice(&self.threshold.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        for c in self.cells {
            out.extend_from_slice(&c.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut tail = ExcessTail::new();
        tail.count = reader.u64()?;
        tail.refreshed = reader.u64()?;
        tail.top = reader.u32()?;
        tail.threshold = reader.non_negative("threshold")?;
        tail.index = reader.non_negative("tail index")?;
        for c in &mut tail.cells {
            *c = reader.u32()?;
        }
        let sum: u64 = tail.cells.iter().map(|c| u64::from(*c)).sum();
        if sum > tail.count
            || tail.refreshed > tail.count
            || tail.top > key(f64::MAX)
            || !(1e-3..=1e3).contains(&tail.index)
        {
            return Err(reader.corrupted("excesses out of range"));
        }
        Ok(tail)
    }
}

/// Cells of the histogram of surprises: 64 a nat up to 2, then 4 a nat.
const FINE: usize = 128;
const SURPRISES: usize = 632;
/// A surprise is counted as so many units: counts that fade need fractions.
const UNITS: u32 = 16;
/// At so many surprises every count loses a quarter.
const SURPRISE_MEMORY: u64 = 8192;
/// The calibration starts as if so many surprises of an exponential distribution had been seen.
const SURPRISE_PRIOR: f64 = 10.0;
/// The tail is fitted to this share of the surprises.
const SURPRISE_TAIL: f64 = 0.002;
/// It starts as if so many excesses of mean 1 had been seen.
const SLOPE_PRIOR: f64 = 20.0;
/// One excess counts as so many nats at most.
const LARGEST_EXCESS: f64 = 10.0;

/// P of the prior at the edges.
static PRIOR_SHARES: LazyLock<[f64; SURPRISES]> =
    LazyLock::new(|| std::array::from_fn(|cell| libm::exp(-surprise_edge(cell))));

/// The distribution of surprises: what they are worth.
#[derive(Clone)]
struct Surprises {
    cells: [u32; SURPRISES],
    /// Their sum.
    units: u64,
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
            units: 0,
            learned: 0,
            refreshed: 0,
            top: surprise_cell(4.0),
            mean: 1.0,
        }
    }

    fn learn(&mut self, t: f64) {
        self.cells[surprise_cell(t)] += UNITS;
        self.units += u64::from(UNITS);
        self.learned = self.learned.saturating_add(1);
        if self.units >= SURPRISE_MEMORY * u64::from(UNITS) {
            self.units = 0;
            for c in &mut self.cells {
                *c -= *c / 4;
                self.units += u64::from(*c);
            }
        }
        if refresh_due(self.learned, self.refreshed) {
            self.refreshed = self.learned;
            self.fit();
        }
    }

    fn fit(&mut self) {
        let wanted = (SURPRISE_TAIL * self.units as f64) as u64;
        let wanted = wanted.max(10 * u64::from(UNITS));
        let mut k = 0;
        let mut top = SURPRISES - 1;
        while top > 1 && k + u64::from(self.cells[top]) < wanted {
            k += u64::from(self.cells[top]);
            top -= 1;
        }
        // the tail begins above the cell that would make it too long
        top = (top + 1).min(SURPRISES - 1);
        let from = surprise_edge(top);
        let mut sum = SLOPE_PRIOR;
        for cell in top..SURPRISES {
            if self.cells[cell] > 0 {
                let middle = 0.5 * (surprise_edge(cell) + surprise_edge(cell + 1));
                let count = f64::from(self.cells[cell]) / f64::from(UNITS);
                sum += count * (middle - from).min(LARGEST_EXCESS);
            }
        }
        self.top = top;
        self.mean = sum / (k as f64 / f64::from(UNITS) + SLOPE_PRIOR);
    }

    /// Share of surprises from a cell's lower edge on, the prior included.
    fn share(&self, seen: f64, t: f64) -> f64 {
        let units = f64::from(UNITS);
        (seen / units + SURPRISE_PRIOR * libm::exp(-t))
            / (self.units as f64 / units + SURPRISE_PRIOR)
    }

    fn seen_from(&self, cell: usize) -> f64 {
        self.cells[cell.min(SURPRISES)..].iter().map(|c| u64::from(*c)).sum::<u64>() as f64
    }

    /// ln p of a surprise: 0 at 0, never rising with it.
    fn ln_p(&self, t: f64) -> f64 {
        let top = surprise_edge(self.top);
        if t >= top {
            let share = self.share(self.seen_from(self.top), top);
            return (libm::log(share.min(1.0)) - (t - top) / self.mean).max(MIN_LN_P);
        }
        let cell = surprise_cell(t);
        let (from, to) = (surprise_edge(cell), surprise_edge(cell + 1));
        let part = ((to - t) / (to - from)).clamp(0.0, 1.0);
        let seen = self.seen_from(cell + 1) + part * f64::from(self.cells[cell]);
        libm::log(self.share(seen, t).min(1.0)).min(0.0)
    }

    /// The surprise whose p is alpha.
    fn critical(&self, ln_alpha: f64) -> f64 {
        let top = surprise_edge(self.top);
        let mut seen = self.seen_from(self.top);
        let ln_top = libm::log(self.share(seen, top).min(1.0));
        if ln_alpha <= ln_top {
            return top + (ln_top - ln_alpha) * self.mean;
        }
        let units = f64::from(UNITS);
        let wanted = libm::exp(ln_alpha) * (self.units as f64 / units + SURPRISE_PRIOR);
        let prior = &*PRIOR_SHARES;
        let mut cell = self.top;
        while cell > 0 {
            cell -= 1;
            seen += f64::from(self.cells[cell]);
            if seen / units + SURPRISE_PRIOR * prior[cell] >= wanted {
                break;
            }
        }
        let (mut low, mut high) = (surprise_edge(cell), surprise_edge(cell + 1));
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                break;
            }
            if self.ln_p(middle) < ln_alpha {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.learned.to_le_bytes());
        out.extend_from_slice(&self.refreshed.to_le_bytes());
        out.extend_from_slice(&(self.top as u16).to_le_bytes());
        out.extend_from_slice(&self.mean.to_le_bytes());
        for c in self.cells {
            out.extend_from_slice(&c.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let mut s = Surprises::new();
        s.learned = reader.u64()?;
        s.refreshed = reader.u64()?;
        s.top = usize::from(reader.u16()?);
        s.mean = reader.non_negative("mean surprise")?;
        for c in &mut s.cells {
            *c = reader.u32()?;
            s.units += u64::from(*c);
        }
        if s.units >= SURPRISE_MEMORY * u64::from(UNITS)
            || s.units > s.learned.saturating_mul(u64::from(UNITS))
            || s.refreshed > s.learned
            || !(1..SURPRISES).contains(&s.top)
            || !(1e-3..=LARGEST_EXCESS).contains(&s.mean)
        {
            return Err(reader.corrupted("surprises out of range"));
        }
        Ok(s)
    }
}

/// The critical surprise that was computed last.
#[derive(Debug, Clone, Copy)]
struct Critical {
    ln_alpha: f64,
    learned: u64,
    statistic: f64,
}

/// What was never seen, on top of any model of the expected: the whole model of one entity.
pub(super) struct Surprise {
    ranges: Box<Ranges>,
    tails: Box<[ExcessTail; VIEWS.len()]>,
    surprises: Box<Surprises>,
    /// The surprise that is remembered, and the share of it that one point leaves.
    remembered: f64,
    fade: f64,
    calendar: Calendar,
    critical: Cell<Option<Critical>>,
}

/// What the −ln p of a baseline counts for. By n points it can vouch for p down to 1/n; what it
/// extrapolates beyond is a guess about tails, and counts by its logarithm only.
fn vouched(surprise: f64, points: u64) -> f64 {
    let known = libm::log(points as f64 + 1.0);
    if surprise <= known { surprise } else { known + libm::log1p(surprise - known) }
}

fn vouched_inverse(s: f64, points: u64) -> f64 {
    let known = libm::log(points as f64 + 1.0);
    if s <= known { s } else { known + libm::expm1((s - known).min(700.0)) }
}

/// A point as the views see it.
struct Seen {
    bin: usize,
    edges: [Edge; VIEWS.len()],
}

impl Surprise {
    /// `memory` is over how many points a surprise is remembered; 0: not at all.
    pub fn new(calendar: Calendar, memory: u64) -> Self {
        Surprise {
            ranges: Box::new(Ranges::new()),
            tails: Box::new(std::array::from_fn(|_| ExcessTail::new())),
            surprises: Box::new(Surprises::new()),
            remembered: 0.0,
            fade: if memory == 0 { 0.0 } else { libm::exp(-1.0 / memory as f64) },
            calendar,
            critical: Cell::new(None),
        }
    }

    /// Points seen, those that the model of the expected leaves out included.
    pub fn count(&self) -> u64 {
        self.ranges.count
    }

    fn see(&self, at: i64) -> Seen {
        let bin = (self.calendar.local(at).second / BIN_SECONDS) as usize % BINS;
        Seen { bin, edges: self.ranges.edges(bin) }
    }

    /// What the views add to a value on the given side of the expected one.
    fn novelty(&self, seen: &Seen, x: f64, side: Direction) -> f64 {
        let mut sum = 0.0;
        for (edge, tail) in seen.edges.iter().zip(self.tails.iter()) {
            let d = match side {
                Direction::High => edge.above(x),
                Direction::Low => edge.below(x),
                Direction::None => 0.0,
            };
            if d > 0.0 {
                sum += tail.surprise(d);
            }
        }
        sum
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

    fn critical(&self, ln_alpha: f64) -> f64 {
        let learned = self.surprises.learned;
        if let Some(c) = self.critical.get()
            && c.ln_alpha == ln_alpha
            && c.learned == learned
        {
            return c.statistic;
        }
        let statistic = self.surprises.critical(ln_alpha);
        self.critical.set(Some(Critical { ln_alpha, learned, statistic }));
        statistic
    }

    /// The verdict on a point, given the model of the expected.
    pub fn judge(&self, base: &dyn EntityModel, point: &Point, rule: &Rule) -> Verdict {
        // From where on S is too large.
        let limit = match rule.threshold {
            Some(threshold) => threshold,
            None => self.untold(self.critical(rule.ln_alpha)),
        };
        let seen_points = base.count();
        let ln_limit = (-vouched_inverse(limit, seen_points)).clamp(MIN_LN_P, -f64::EPSILON);
        let base_rule =
            Rule { threshold: None, ln_alpha: ln_limit, z_alpha: deviation_from_ln_p(ln_limit) };
        let mut verdict = base.judge(point, &base_rule);
        if verdict.expected.is_nan() || verdict.status == Status::NonFinite {
            return verdict;
        }
        let seen = self.see(point.at);
        let x = point.value;
        verdict.direction = Direction::of(x, verdict.expected);
        let s = self.sum(&seen, &verdict, seen_points, x);
        verdict.statistic = if verdict.direction == Direction::Low { -s } else { s };
        verdict.tail = Tail::LnP(self.surprises.ln_p(self.told(s)));
        let judge = |x: f64| {
            let mut v = base.judge(&Point { value: x, ..*point }, &base_rule);
            v.direction = Direction::of(x, verdict.expected);
            self.sum(&seen, &v, seen_points, x)
        };
        let (lower, upper) = (verdict.lower, verdict.upper);
        let expected = verdict.expected;
        let bound = |outer, side| self.bound(&seen, expected, outer, side, limit, &judge);
        verdict.upper = bound(upper, Direction::High).max(expected);
        verdict.lower = bound(lower, Direction::Low).min(expected);
        verdict.is_anomaly = match rule.threshold {
            Some(threshold) => s > threshold,
            None => verdict.ln_p() < rule.ln_alpha,
        };
        verdict
    }

    fn sum(&self, seen: &Seen, base: &Verdict, points: u64, x: f64) -> f64 {
        vouched(-base.ln_p(), points) + self.novelty(seen, x, base.direction)
    }

    /// Where S reaches `limit` on one side; `outer` is where the baseline alone does.
    fn bound(
        &self,
        seen: &Seen,
        expected: f64,
        outer: f64,
        side: Direction,
        limit: f64,
        s: &dyn Fn(f64) -> f64,
    ) -> f64 {
        let outer = if outer.is_nan() { expected } else { outer };
        let nearest = seen.edges.iter().fold(f64::INFINITY, |nearest, e| match side {
            Direction::High => nearest.min(e.high - expected),
            _ => nearest.min(expected - e.low),
        });
        let reach = (outer - expected).abs();
        if nearest >= reach {
            return outer;
        }
        let sign = if side == Direction::High { 1.0 } else { -1.0 };
        let excess = |d: f64| s(finite(expected + sign * d)) - limit;
        // S jumps at the edges of views and is smooth between them.
        let mut edges = seen.edges.map(|e| match side {
            Direction::High => e.high - expected,
            _ => expected - e.low,
        });
        edges.sort_unstable_by(f64::total_cmp);
        let (mut low, mut high, mut at_low) = (0.0, reach, -limit);
        for edge in edges.into_iter().filter(|e| *e > 0.0 && *e < reach) {
            let at = excess(edge);
            if at > 0.0 {
                high = edge;
                break;
            }
            (low, at_low) = (edge, at);
        }
        // The outer end may be many orders of magnitude away: first find the right one.
        let mut step = (low.max(high.min(low * 2.0)) - low).max(1e-3 * expected.abs()).max(1e-9);
        while low + step < high {
            let at = excess(low + step);
            if at > 0.0 {
                high = low + step;
                break;
            }
            (low, at_low) = (low + step, at);
            step *= 4.0;
        }
        let mut at_high = excess(high).max(f64::MIN_POSITIVE);
        // False position with the weights of the Illinois rule (Dowell and Jarratt 1971), bisection
        // where that is slow.
        for round in 0..60 {
            if high - low <= 1e-10 * high {
                break;
            }
            let part = if round % 4 == 3 { 0.5 } else { at_low / (at_low - at_high) };
            let middle = low + part.clamp(1e-3, 1.0 - 1e-3) * (high - low);
            if middle <= low || middle >= high {
                break;
            }
            let at = excess(middle);
            if at > 0.0 {
                (high, at_high, at_low) = (middle, at, 0.5 * at_low);
            } else {
                (low, at_low, at_high) = (middle, at, 0.5 * at_high);
            }
        }
        finite(expected + sign * high)
    }

    /// Takes note of a point with a finite value, before the model of the expected does.
    pub fn learn(&mut self, base: &dyn EntityModel, point: &Point) {
        let seen = self.see(point.at);
        let x = point.value;
        let rule = Rule { threshold: None, ln_alpha: -1.0, z_alpha: 0.9 };
        let verdict = base.judge(point, &rule);
        if !verdict.expected.is_nan() && base.count() > 1 {
            let side = Direction::of(x, verdict.expected);
            let s = vouched(-verdict.ln_p(), base.count()) + self.novelty(&seen, x, side);
            self.surprises.learn(self.told(s));
            self.remembered =
                (self.remembered * self.fade).max(if self.fade > 0.0 { s } else { 0.0 });
            for (edge, tail) in seen.edges.iter().zip(self.tails.iter_mut()) {
                if edge.high.is_finite() || edge.low.is_finite() {
                    tail.learn(edge.above(x).max(edge.below(x)));
                }
            }
        }
        self.ranges.learn(x, seen.bin);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.remembered.to_le_bytes());
        self.ranges.encode(out);
        for tail in self.tails.iter() {
            tail.encode(out);
        }
        self.surprises.encode(out);
    }

    pub fn decode(reader: &mut Reader<'_>, calendar: Calendar, memory: u64) -> Result<Self> {
        let mut surprise = Surprise::new(calendar, memory);
        surprise.remembered = reader.non_negative("remembered surprise")?;
        *surprise.ranges = Ranges::decode(reader)?;
        for tail in surprise.tails.iter_mut() {
            *tail = ExcessTail::decode(reader)?;
        }
        *surprise.surprises = Surprises::decode(reader)?;
        Ok(surprise)
    }

    pub fn metadata(&self, verdict: &Verdict, rule: &Rule, map: &mut Map<String, Value>) {
        map.insert("surprise".into(), json_number(verdict.statistic.abs()));
        let limit = rule.threshold.unwrap_or_else(|| self.untold(self.critical(rule.ln_alpha)));
        map.insert("threshold".into(), json_number(limit));
        map.insert("remembered".into(), json_number(self.remembered));
    }
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

/// The mean of the latest days at a time of day, without novelty: what novelty expects.
pub(super) struct Profile {
    calendar: Calendar,
}

impl Profile {
    pub fn new(context: &Context) -> Self {
        Profile { calendar: context.calendar.clone() }
    }
}

impl Strategy for Profile {
    fn name(&self) -> &'static str {
        "day_profile"
    }

    fn short_name(&self) -> &'static str {
        "day_profile"
    }

    fn statistic_name(&self) -> &'static str {
        "residual"
    }

    fn algorithm(&self) -> u16 {
        20
    }

    fn new_state(&self) -> Box<dyn EntityModel> {
        Box::new(LocationScale::new(DayProfile::new(self.calendar.clone())))
    }

    fn decode_state(&self, reader: &mut Reader<'_>) -> Result<Box<dyn EntityModel>> {
        let calendar = self.calendar.clone();
        Ok(Box::new(LocationScale::decode(reader, |r| DayProfile::decode(r, calendar))?))
    }
}

/// See the head of this file.
pub struct Novelty {
    calendar: Calendar,
    memory: u64,
}

impl Novelty {
    /// `habituation`: over how many points a surprise is remembered, 0 to 1,000,000 (0: never), 400
    /// by default.
    pub fn new(params: &Map<String, Value>, context: &Context) -> Result<Self> {
        check_keys("statistical_novelty", params, &["habituation"])?;
        let memory = integer_param(params, "habituation", MEMORY, 0..=1_000_000)?;
        Ok(Novelty { calendar: context.calendar.clone(), memory })
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
            base: LocationScale::new(DayProfile::new(self.calendar.clone())),
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
