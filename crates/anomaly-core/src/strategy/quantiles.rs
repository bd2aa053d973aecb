//! What iqr and mad keep: a quantile sketch, and the figures derived from it.

use std::cell::{Cell, RefCell};

use serde_json::{Map, Value};

use crate::Result;
use crate::codec::Reader;
use crate::sketch::{Sketch, Weighted, weighted_quantiles};

/// Range of the parameter `sketch_capacity`, in values, and the default, which keeps a state below
/// 2 kB.
pub(super) const CAPACITIES: std::ops::RangeInclusive<u64> = 128..=4096;
pub(super) const DEFAULT_CAPACITY: u64 = 160;

/// The parameter `sketch_capacity`, and nothing else.
pub(super) fn capacity_param(strategy: &str, params: &Map<String, Value>) -> Result<usize> {
    super::check_keys(strategy, params, &["sketch_capacity"])?;
    let capacity = super::integer_param(params, "sketch_capacity", DEFAULT_CAPACITY, CAPACITIES)?;
    Ok(capacity as usize)
}

/// What iqr and mad need of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Spread {
    pub count: u64,
    pub q1: f64,
    pub median: f64,
    pub q3: f64,
    /// Unscaled median absolute deviation.
    pub mad: f64,
    /// A standard deviation from the outer 5 % on either side, for samples whose middle is constant.
    /// Leaves out the smallest and the largest value, so that one gross outlier does not set it.
    pub wide: f64,
}

/// 95 % quantile of the standard normal distribution.
const NORMAL_Q95: f64 = 1.644_853_626_951_472_2;

fn wide(q05: f64, median: f64, q95: f64) -> f64 {
    ((q95 - median).max(median - q05).max(0.0) / NORMAL_Q95).min(f64::MAX)
}

impl Spread {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        for v in [self.q1, self.median, self.q3, self.mad, self.wide] {
            out.extend_from_slice(&v.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let spread = Spread {
            count: reader.u64()?,
            q1: reader.finite("first quartile")?,
            median: reader.finite("median")?,
            q3: reader.finite("third quartile")?,
            mad: reader.non_negative("median absolute deviation")?,
            wide: reader.non_negative("spread")?,
        };
        if !(spread.q1 <= spread.median && spread.median <= spread.q3) {
            return Err(reader.corrupted("quartiles out of order"));
        }
        Ok(spread)
    }

    /// Of equally weighted values, ascending; `None` for none. Quartiles, median and MAD are of
    /// type 7 (linear, NumPy's default).
    fn of_sorted(sorted: &[f64]) -> Option<Spread> {
        let last = sorted.len().checked_sub(1)? as f64;
        let at = |position: f64| {
            let below = position as usize;
            let above = (below + 1).min(sorted.len() - 1);
            interpolate(sorted[below], sorted[above], position - below as f64)
        };
        let median = at(0.5 * last);
        // Whole positions: interpolating with the extreme value would let an outlier in.
        let (q05, q95) = (at((0.05 * last).ceil()), at((0.95 * last).floor()));
        Some(Spread {
            count: sorted.len() as u64,
            q1: at(0.25 * last),
            median,
            q3: at(0.75 * last),
            mad: mad_of_sorted(sorted, median),
            wide: wide(q05, median, q95),
        })
    }

    /// Of the weighted values of a sketch, ascending, between its extremes.
    fn of_weighted(count: u64, points: &[Weighted], min: f64, max: f64) -> Option<Spread> {
        let (first, last) = (points.first()?, points.last()?);
        // The outer ones without the extremes, as above.
        let [q05, q1, median, q3, q95] = weighted_quantiles(
            points.iter().copied(),
            count,
            [
                (0.05, first.value, last.value),
                (0.25, min, max),
                (0.5, min, max),
                (0.75, min, max),
                (0.95, first.value, last.value),
            ],
        );
        let distance = |p: &Weighted| Weighted {
            value: (p.value - median).abs().min(f64::MAX),
            weight: p.weight,
        };
        // Values left and right of the median, each by growing distance, merged.
        let middle = points.partition_point(|p| p.value < median);
        let mut left = points[..middle].iter().rev().map(distance).peekable();
        let mut right = points[middle..].iter().map(distance).peekable();
        let distances = std::iter::from_fn(|| match (left.peek(), right.peek()) {
            (Some(l), Some(r)) if l.value <= r.value => left.next(),
            (Some(_), None) => left.next(),
            _ => right.next(),
        });
        let near = |p: Option<&Weighted>| p.map_or(f64::MAX, |p| distance(p).value);
        let nearest = near(points[..middle].last()).min(near(points.get(middle)));
        let far = distance(first).value.max(distance(last).value);
        let [mad] = weighted_quantiles(distances, count, [(0.5, nearest, far)]);
        Some(Spread { count, q1, median, q3, mad, wide: wide(q05, median, q95) })
    }
}

/// Between two neighbours, 0 ≤ `share` < 1; does not overflow.
fn interpolate(a: f64, b: f64, share: f64) -> f64 {
    if share == 0.0 || a == b {
        a
    } else if (a < 0.0) == (b < 0.0) {
        a + (b - a) * share
    } else {
        a * (1.0 - share) + b * share
    }
}

/// Median of |x − median| in O(log n): distances to the left and to the right of the median are two
/// ascending sequences, and the middle of their union is found by bisecting how many of it come
/// from the left.
fn mad_of_sorted(sorted: &[f64], median: f64) -> f64 {
    let split = sorted.partition_point(|x| *x < median);
    let (left, right) = (split, sorted.len() - split);
    let l = |i: usize| (median - sorted[split - 1 - i]).min(f64::MAX);
    let r = |i: usize| (sorted[split + i] - median).min(f64::MAX);
    let below = (sorted.len() - 1) / 2;
    let taken = below + 1;
    let (mut low, mut high) = (taken.saturating_sub(right), taken.min(left));
    while low < high {
        let from_left = low.midpoint(high);
        // too few from the left if the next one there is nearer than the last from the right
        if l(from_left) < r(taken - from_left - 1) {
            low = from_left + 1;
        } else {
            high = from_left;
        }
    }
    let (a, b) = (low, taken - low);
    let nearer = |i: usize, n: usize, f: &dyn Fn(usize) -> f64| if i < n { f(i) } else { f64::MAX };
    let mut last = 0.0f64;
    if a > 0 {
        last = last.max(l(a - 1));
    }
    if b > 0 {
        last = last.max(r(b - 1));
    }
    if sorted.len() % 2 == 1 {
        return last;
    }
    let next = nearer(a, left, &l).min(nearer(b, right, &r));
    interpolate(last, next, 0.5)
}

/// A bounded sample with its derived figures.
pub(super) struct Derived {
    sketch: Sketch,
    count: u64,
    /// Up to so many values the sketch keeps them all.
    capacity: u64,
    /// As of the last refresh.
    spread: Spread,
    /// The values ascending, while the sketch keeps them all; made when first needed. An index over
    /// the sketch, never stored.
    sorted: RefCell<Option<Vec<f64>>>,
    /// The figures as of now, while the sketch keeps all values.
    fresh: Cell<Option<Spread>>,
}

impl Derived {
    /// Starts from an empty sketch.
    pub fn new(empty: Sketch) -> Self {
        let capacity = empty.view().map_or(0, |view| view.capacity() as u64);
        Derived {
            sketch: empty,
            count: 0,
            capacity,
            spread: Spread::default(),
            sorted: RefCell::new(Some(Vec::new())),
            fresh: Cell::new(None),
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    fn is_exact(&self) -> bool {
        self.count <= self.capacity
    }

    /// `x` is finite.
    pub fn push(&mut self, x: f64) {
        let x = x + 0.0; // −0 is 0, as in the sketch
        // Fails past 2^40 times the capacity; such a baseline no longer moves anyway.
        if self.sketch.push(x).is_err() {
            return;
        }
        self.count += 1;
        self.fresh.set(None);
        let exact = self.is_exact();
        let sorted = self.sorted.get_mut();
        if !exact {
            *sorted = None;
        } else if let Some(sorted) = sorted {
            let at = sorted.partition_point(|v| *v < x);
            sorted.insert(at, x);
        }
    }

    fn compute(&self) -> Option<Spread> {
        let mut sorted = self.sorted.borrow_mut();
        if let Some(sorted) = sorted.as_ref() {
            return Spread::of_sorted(sorted);
        }
        let view = self.sketch.view().ok()?;
        let points = view.points();
        if self.is_exact() {
            let values = sorted.insert(points.iter().map(|p| p.value).collect());
            return Spread::of_sorted(values);
        }
        let moments = view.moments().ok()?;
        Spread::of_weighted(self.count, &points, moments.min, moments.max)
    }

    pub fn refresh(&mut self) {
        if let Some(spread) = self.compute() {
            self.spread = spread;
        }
    }

    /// As of the last refresh; `None` for no points.
    pub fn lagging(&self) -> Option<Spread> {
        (self.spread.count > 0).then_some(self.spread)
    }

    /// Exact while every value is still there, else as of the last refresh; `None` for no points.
    pub fn current(&self) -> Option<Spread> {
        if self.spread.count == self.count || !self.is_exact() {
            return self.lagging();
        }
        let fresh = self.fresh.get().or_else(|| self.compute());
        self.fresh.set(fresh);
        fresh
    }

    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.spread.encode(out);
        out.extend_from_slice(&self.sketch.encode()?);
        Ok(())
    }

    /// Takes all that is left of the bytes.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let spread = Spread::decode(reader)?;
        let sketch = Sketch::decode(reader.rest())?;
        let view = sketch.view()?;
        let (count, capacity) = (view.num_vals(), view.capacity() as u64);
        if spread.count > count || (spread.count == 0) != (count == 0) {
            return Err(reader.corrupted("counts contradict each other"));
        }
        if count <= capacity && view.rank_error() > 0.0 {
            return Err(reader.corrupted("a small sample is not complete"));
        }
        if !CAPACITIES.contains(&capacity) {
            return Err(reader.corrupted("capacity out of range"));
        }
        Ok(Derived {
            sketch,
            count,
            capacity,
            spread,
            sorted: RefCell::new(None),
            fresh: Cell::new(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sketch::weighted_quantile;

    /// The same step by step: all distances, sorted.
    #[test]
    fn a_weighted_spread_is_what_its_quantiles_are() {
        let mut seed = 7_u64;
        let mut next = |range: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % range
        };
        for n in 1..200 {
            // with ties, and from one point on
            let mut points: Vec<Weighted> = (0..n)
                .map(|_| Weighted { value: next(60) as f64 / 7.0, weight: 1 << next(4) })
                .collect();
            points.sort_by(|a, b| a.value.total_cmp(&b.value));
            let count = points.iter().map(|p| p.weight).sum();
            let (first, last) = (points[0].value, points[n - 1].value);
            let (min, max) = (first - 1.0, last + 2.0);
            let spread = Spread::of_weighted(count, &points, min, max).unwrap();

            let quantile = |q: f64| weighted_quantile(&points, q, min, max);
            let inner = |q: f64| weighted_quantile(&points, q, first, last);
            let median = quantile(0.5);
            assert_eq!([spread.q1, spread.median, spread.q3], [0.25, 0.5, 0.75].map(quantile));
            assert_eq!(spread.wide, wide(inner(0.05), median, inner(0.95)));
            let mut distances: Vec<Weighted> = points
                .iter()
                .map(|p| Weighted { value: (p.value - median).abs(), weight: p.weight })
                .collect();
            distances.sort_by(|a, b| a.value.total_cmp(&b.value));
            let (near, far) = (distances[0].value, distances[n - 1].value);
            let mad = weighted_quantile(&distances, 0.5, near, far);
            // equal distances from either side may come in another order
            assert!((spread.mad - mad).abs() <= 0.1, "{n}: {} {mad}", spread.mad);
            if points.iter().all(|p| p.weight == points[0].weight) {
                assert_eq!(spread.mad, mad);
            }
        }
    }
}
