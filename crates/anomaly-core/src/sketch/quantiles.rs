//! The quantile part of the sketch: a compactor hierarchy in the manner of KLL.
//!
//! Level 0 is an unsorted buffer of values of weight 1. Level h ≥ 1 is a sorted list of values of
//! weight 2^h. When the capacity is used up, a level is *compacted*: of each two neighbours in its
//! sorted order one survives, into the next level, with doubled weight. Which one is decided by a
//! coin for the whole level. See Karnin, Lang and Liberty, "Optimal quantile approximation in
//! streams" (FOCS 2016); capacities shrink by 2/3 per level below the top one. Two things differ:
//!
//! * Compaction is lazy (only when the whole sketch is full, then the lowest level that exceeds its
//!   share) and level 0 always keeps a quarter of the capacity, so that it can be sorted in bulk.
//! * Coins are deterministic: each is a hash of the compaction's number and of a value in the
//!   level, and every second compaction of a level takes the opposite of the one before, which
//!   cancels errors. Same values in the same order: same sketch.
//!
//! **Error.** One compaction of level h moves the rank of any fixed value by 0 or ± 2^h, with the
//! sign of its coin. So the error of a rank is a sum of terms bounded by 2^h with random signs; by
//! Hoeffding's inequality it exceeds t with probability at most 2·exp(-t²/(2·Σ 4^h)), the sum over
//! coins that were tossed (a pair of opposite coins moves a rank by at most one term). The sketch
//! carries Σ 4^h, so each one states its own bound.

use crate::random::mix;
use crate::{Error, Result};

/// More levels would stand for more than 2^40 × 100 values.
pub const MAX_LEVELS: usize = 40;

/// sqrt(2·ln(2/0.01)): Hoeffding's bound at 99 %.
const CONFIDENCE_99: f64 = 3.255_246_680_289_647;

/// Share of the capacity that level 0 keeps for itself.
pub(super) fn reserve(capacity: usize) -> usize {
    capacity / 4
}

/// Values of a sketch, taken out of the flat form for reorganisation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Levels {
    /// `levels[0]` is the buffer in arrival order; `levels[h]` is sorted, each value stands for 2^h.
    pub levels: Vec<Vec<f64>>,
    /// Number of compactions so far.
    pub compactions: u64,
    /// Bit h: the last coin of level h.
    pub coins: u64,
    /// Bit h: the next compaction of level h takes the opposite coin.
    pub owed: u64,
    /// Σ 4^h over the coins tossed.
    pub variance: f64,
}

impl Levels {
    /// Words that the levels above the buffer take in the flat form, their size table included.
    pub fn words_above(&self) -> usize {
        self.levels.iter().skip(1).map(|level| level.len() + 1).sum()
    }

    /// Makes room: afterwards the buffer holds at most one value and the levels above it leave it its
    /// share of the capacity.
    pub fn compact(&mut self, capacity: usize) -> Result<()> {
        sort(&mut self.levels[0]);
        self.compact_level(0)?;
        self.shrink(capacity)
    }

    /// Compacts levels above the buffer until they leave it its share.
    pub fn shrink(&mut self, capacity: usize) -> Result<()> {
        let target = capacity - reserve(capacity);
        while self.words_above() > target {
            let top = self.levels.len() - 1;
            let widest = target as f64 / 3.0;
            let share = |h: usize| (widest * (2.0_f64 / 3.0).powi((top - h) as i32)).max(2.0);
            let over = (1..=top).find(|h| self.levels[*h].len() as f64 > share(*h));
            let Some(level) = over.or_else(|| (1..=top).find(|h| self.levels[*h].len() >= 2))
            else {
                return Ok(());
            };
            self.compact_level(level)?;
        }
        Ok(())
    }

    /// Joins another sketch's levels to these.
    pub fn absorb(&mut self, other: Levels) {
        while self.levels.len() < other.levels.len() {
            self.levels.push(Vec::new());
        }
        for (h, level) in other.levels.into_iter().enumerate() {
            if h == 0 {
                self.levels[0].extend_from_slice(&level);
            } else {
                merge_sorted(&mut self.levels[h], &level);
            }
        }
        self.compactions = self.compactions.wrapping_add(other.compactions);
        self.variance += other.variance;
    }

    fn compact_level(&mut self, h: usize) -> Result<()> {
        if self.levels[h].len() < 2 {
            return Ok(());
        }
        if h + 1 == self.levels.len() {
            if h == MAX_LEVELS {
                return Err(Error::TooLarge(format!(
                    "a summary of this capacity holds at most 2^{MAX_LEVELS} times its capacity"
                )));
            }
            self.levels.push(Vec::new());
        }
        let coin = self.toss(h);
        let level = &mut self.levels[h];
        // An odd level keeps one value behind, so that weights stay exact. Which end it is must not
        // depend on the coin: the pairs, and with them the size of the error, would.
        let odd = level.len() % 2 == 1;
        let keep_first = odd && mix(!self.compactions) & 1 == 1;
        let kept = odd.then(|| if keep_first { level[0] } else { level[level.len() - 1] });
        let start = usize::from(keep_first);
        let pairs = level.len() / 2;
        let survivors: Vec<f64> = level[start..start + 2 * pairs]
            .chunks_exact(2)
            .map(|pair| pair[usize::from(coin)])
            .collect();
        level.clear();
        level.extend(kept);
        merge_sorted(&mut self.levels[h + 1], &survivors);
        Ok(())
    }

    fn toss(&mut self, h: usize) -> bool {
        let bit = 1_u64 << h;
        let level = &self.levels[h];
        let seed = self.compactions ^ level[level.len() / 2].to_bits().rotate_left(h as u32);
        self.compactions = self.compactions.wrapping_add(1);
        if self.owed & bit != 0 {
            self.owed &= !bit;
            self.coins ^= bit;
        } else {
            self.owed |= bit;
            self.variance += libm::scalbn(1.0, 2 * h as i32);
            if mix(seed) & 1 == 1 {
                self.coins |= bit;
            } else {
                self.coins &= !bit;
            }
        }
        self.coins & bit != 0
    }
}

/// Largest error of the rank of a quantile as a fraction of `n`, kept with 99 % confidence: that of a
/// rank, and half of the widest gap between neighbours (the largest weight).
pub(super) fn rank_error(variance: f64, widest: u64, n: u64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    ((CONFIDENCE_99 * variance.sqrt() + widest as f64 / 2.0) / n as f64).min(1.0)
}

/// Order-preserving integer of a float; its own inverse.
fn order_key(bits: u64) -> i64 {
    let bits = bits as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// Sorts finite values. As integers, because their comparison is branch-free and total.
pub(super) fn sort(values: &mut [f64]) {
    let mut keys: Vec<i64> = values.iter().map(|x| order_key(x.to_bits())).collect();
    keys.sort_unstable();
    for (value, key) in values.iter_mut().zip(&keys) {
        *value = f64::from_bits(order_key(*key as u64) as u64);
    }
}

/// Merges a sorted slice into a sorted vector, from the back, in place.
fn merge_sorted(into: &mut Vec<f64>, from: &[f64]) {
    if into.is_empty() {
        into.extend_from_slice(from);
        return;
    }
    let mut left = into.len();
    let mut right = from.len();
    into.resize(left + right, 0.0);
    while right > 0 {
        let take_left = left > 0 && into[left - 1] > from[right - 1];
        into[left + right - 1] = if take_left { into[left - 1] } else { from[right - 1] };
        left -= usize::from(take_left);
        right -= usize::from(!take_left);
    }
}

/// A value and how many values of the sample it stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Weighted {
    pub value: f64,
    pub weight: u64,
}

/// Sorts weighted values by value.
pub(super) fn sort_weighted(points: &mut [Weighted]) {
    points.sort_unstable_by_key(|p| order_key(p.value.to_bits()));
}

/// Merges values of one weight, ascending, into sorted points, behind equal ones.
pub(super) fn merge_weighted(
    points: &mut Vec<Weighted>,
    values: impl DoubleEndedIterator<Item = f64> + ExactSizeIterator,
    weight: u64,
) {
    // From the back, in place.
    let (mut left, mut at) = (points.len(), points.len() + values.len());
    points.resize(at, Weighted { value: 0.0, weight });
    for value in values.rev() {
        while left > 0 && points[left - 1].value > value {
            (left, at) = (left - 1, at - 1);
            points[at] = points[left];
        }
        at -= 1;
        points[at] = Weighted { value, weight };
    }
}

/// Quantile of sorted weighted values, 0 ≤ q ≤ 1, linearly interpolated.
///
/// A value of weight w occupies w neighbouring positions and is placed at their middle. With all
/// weights 1 that is type 7 of Hyndman and Fan (1996), the default of R and NumPy. `low` and `high`
/// are the sample's extremes: they stand at the first and the last position.
pub(crate) fn weighted_quantile(points: &[Weighted], q: f64, low: f64, high: f64) -> f64 {
    let n: u64 = points.iter().map(|p| p.weight).sum();
    let [quantile] = weighted_quantiles(points.iter().copied(), n, [(q, low, high)]);
    quantile
}

/// The same of several, each a (q, low, high) with rising q, in one pass that ends with the last of
/// them; `n` is the sum of all weights.
pub(crate) fn weighted_quantiles<const N: usize>(
    points: impl Iterator<Item = Weighted>,
    n: u64,
    asked: [(f64, f64, f64); N],
) -> [f64; N] {
    let last = n.saturating_sub(1) as f64;
    let mut points = points.peekable();
    let mut before: Option<(f64, f64)> = None;
    let mut passed = 0_u64;
    asked.map(|(q, low, high)| {
        let target = q * last;
        // The extremes themselves may have been dropped by compactions.
        if target <= 0.0 {
            return low;
        }
        if target >= last {
            return high;
        }
        while let Some(point) = points.peek() {
            let centre = passed as f64 + (point.weight - 1) as f64 / 2.0;
            if centre >= target {
                return interpolate(before.unwrap_or((0.0, low)), (centre, point.value), target);
            }
            before = Some((centre, point.value));
            passed += point.weight;
            points.next();
        }
        interpolate(before.unwrap_or((0.0, low)), (last, high), target)
    })
}

fn interpolate(a: (f64, f64), b: (f64, f64), at: f64) -> f64 {
    if b.0 <= a.0 || a.1 == b.1 {
        return b.1;
    }
    let share = (at - a.0) / (b.0 - a.0);
    // The difference of two values of opposite sign can overflow; their weighted sum cannot.
    let value = if (a.1 < 0.0) == (b.1 < 0.0) {
        a.1 + (b.1 - a.1) * share
    } else {
        a.1 * (1.0 - share) + b.1 * share
    };
    // not clamp, which panics where a damaged value gives bounds that are none
    value.max(a.1).min(b.1)
}
